"""The motion of a sample in the twin's frame, for tests that move it without a goniometer."""

from dataclasses import dataclass, field

import numpy as np

from skywright.acquire.trajectory import Axis
from skywright.instruments.loop.twin.mount import Pose


@dataclass(frozen=True)
class Motion:
    """The axes that carry the sample: stages in the goniometer frame (um) and phi (deg)."""

    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)
    z: Axis = field(default_factory=Axis)
    phi: Axis = field(default_factory=Axis)

    def pose_at(self, time_s: float) -> Pose:
        """Return the pose at a time of the motors' clock."""
        return Pose(*(float(a.position_at(time_s)) for a in (self.x, self.y, self.z, self.phi)))

    def path_over(self, start_s: float, end_s: float, points: int = 9) -> list[Pose] | None:
        """Return poses at equal steps over an exposure, None if nothing moves in it."""
        times = np.linspace(start_s, end_s, points)
        rows = np.stack([a.position_at(times) for a in (self.x, self.y, self.z, self.phi)], 1)
        if np.ptp(rows, axis=0).max() == 0.0:
            return None
        return [Pose(*(float(v) for v in row)) for row in rows]
