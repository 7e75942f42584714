"""Where the sample is: the pose of the stages and of the spindle that carry it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pose:
    """Positions of the sample stages (goniometer frame, um, added to the sample) and of phi."""

    x_um: float = 0.0
    y_um: float = 0.0
    z_um: float = 0.0
    phi_deg: float = 0.0
