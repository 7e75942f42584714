"""The mounted sample: its dimensions, and the pose of the stages and the spindle that carry it.

Goniometer frame: x along the spindle from the pin to the tip of the sample, (y, z) transverse and
turning with the sample; um. The mount is built with the end face of the pin at x = 0, its plane in
(x, y) and the plane's normal along z (`parts`); then it is turned about x until it is face-on at
`face_on_deg` and shifted until its tip is at `tip_um` (`shape`).
"""

from dataclasses import dataclass
from typing import Literal

from skywright.errors import ConfigError

Kind = Literal["nylon", "mitegen", "pin", "none"]


@dataclass(frozen=True)
class Pose:
    """Positions of the sample stages (goniometer frame, um, added to the sample) and of phi."""

    x_um: float = 0.0
    y_um: float = 0.0
    z_um: float = 0.0
    phi_deg: float = 0.0


@dataclass(frozen=True)
class Mount:
    """Dimensions of a mounted sample; um and deg."""

    kind: Kind = "nylon"
    """Fiber loop, flat polymer mount, a pin that lost its loop, or nothing at all."""
    tip_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """(x, y, z): tip of the mount in the goniometer frame with all stages at 0."""
    face_on_deg: float = 0.0
    """Spindle angle at which the normal of the plane points to the camera (modulo 180)."""
    loop_length_um: float = 450.0
    loop_width_um: float = 300.0
    """Outline of the head, along x and across."""
    taper: float = 0.7
    """0 makes an ellipse, 1 a teardrop with its widest place towards the tip."""
    fiber_um: float = 20.0
    """Diameter of nylon; width of the rim of a polymer mount."""
    thickness_um: float = 12.0
    """Thickness of a polymer mount."""
    curl_radius_um: float = 0.0
    """Radius to which a polymer mount is rolled about x, 0 for flat."""
    stem_um: float = 600.0
    stem_twists: float = 6.0
    stem_bend_deg: float = 0.0
    bend_direction_deg: float = 0.0
    """Length between pin and head; turns of the two fibers about each other over it; bend of the
    stem and direction of the bend (0 within the plane, 90 along the normal)."""
    pin_um: float = 650.0
    pin_finish: Literal["smooth", "frosted", "ragged"] = "smooth"
    pin_bevel_um: float = 40.0
    """Diameter, surface and chamfer of the pin's end."""
    base_um: float = 650.0
    base_start_um: float = 3000.0
    """Diameter of the thick base and how far behind the pin's end it starts."""
    glue_um: float = 0.0
    """Length of the glue between pin and stem, 0 for none."""
    tab_um: float = 0.0
    """Width of the polymer tab between neck and pin, 0 for none."""
    crystal_um: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Three edges, (0, 0, 0) for none."""
    crystal_at: tuple[float, float] = (0.2, 0.0)
    """(along, across) position in the head as fractions of its half axes, -1..1."""
    crystal_turn_deg: tuple[float, float] = (0.0, 0.0)
    """Turn of the crystal about the normal and about x."""
    crystal_absorption_per_um: float = 0.004
    drop_um: float = 0.0
    """Thickness of liquid in the head, 0 for none."""
    drop_overfill: float = 1.0
    """Size of the drop relative to the head's outline."""
    ice_um: float = 0.0
    """Height of the roughness of the frozen head, 0 for none; the ice is opaque by
    `ice_absorption_per_um`."""
    ice_absorption_per_um: float = 0.03
    shape_seed: int = 0
    """Draws roughness, crystal corners and grain."""

    def __post_init__(self) -> None:
        """Refuse a rim that leaves no aperture."""
        room = min(0.5 * self.loop_width_um, 0.44 * self.loop_length_um)
        if self.kind in ("nylon", "mitegen") and not 0.0 < self.fiber_um < room:
            raise ConfigError(
                f"fiber_um = {self.fiber_um:g}: expected more than 0 and less than {room:g}, for a "
                f"head {self.loop_length_um:g} um long and {self.loop_width_um:g} um wide"
            )
