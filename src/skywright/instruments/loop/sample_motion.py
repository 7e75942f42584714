"""Where a sample on a goniometer is at any time, from the motors' motion; and as JSON text.

The simulated goniometer publishes this, the simulated camera follows it: commands, not readings,
so both agree exactly. Analysis knows nothing of it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import to_json

from skywright.acquire.trajectory import Axis
from skywright.errors import ConfigError, DataError
from skywright.instruments.loop.twin.mount import Pose

Floats = NDArray[np.float64]
Mounting = Literal["spindle", "table"]
PHI, STAGES = "phi", ("sx", "sy", "sz")


@dataclass(frozen=True)
class Carriage:
    """How the motors carry the sample."""

    matrix: tuple[tuple[float, float, float], ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    """3 x 3: column i: displacement of the sample, um, by 1 mm of stage i, before the factor of
    1000: signs, order and scale. Frame of the rows: goniometer (x along the spindle, y, z turning
    with the sample) on the spindle; laboratory (along, across, along the beam) on a table."""
    mounting: Mounting = "spindle"
    """Whether the stages turn with the sample or stand under the spindle."""
    phi_sign: int = 1
    """-1 where the motor's angle grows against the sense of
    `skywright.instruments.loop.geometry`."""

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, float)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ConfigError(f"carriage: matrix {self.matrix}, expected 3 x 3 finite numbers")
        if self.mounting not in ("spindle", "table"):
            raise ConfigError(f"carriage: mounting {self.mounting!r}, expected spindle or table")
        if self.phi_sign not in (1, -1):
            raise ConfigError(f"carriage: phi_sign {self.phi_sign}, expected 1 or -1")

    def poses(self, phi_deg: Floats, stages_mm: Floats) -> Floats:
        """Return (n, 4) x, y, z (goniometer frame, um) and phi from motors' (n,) and (n, 3)."""
        phi = self.phi_sign * phi_deg
        shift = 1000.0 * stages_mm @ np.asarray(self.matrix, float).T
        if self.mounting == "table":
            cos, sin = np.cos(np.deg2rad(phi)), np.sin(np.deg2rad(phi))
            across, beam = shift[:, 1], shift[:, 2]
            shift = np.stack([shift[:, 0], across * cos + beam * sin, beam * cos - across * sin], 1)
        return np.column_stack([shift, phi])


@dataclass(frozen=True)
class SampleMotion:
    """Where the sample is at any time: what a camera needs to know of the goniometer."""

    phi: Axis
    """In deg."""
    stages: tuple[Axis, Axis, Axis]
    """In mm."""
    carriage: Carriage
    until: float
    """Up to this time all commands are known, unix s; of later ones there may be more."""

    def _rows(self, times: Floats) -> Floats:
        stages = np.stack([axis.position_at(times) for axis in self.stages], axis=1)
        return self.carriage.poses(self.phi.position_at(times), stages)

    def pose_at(self, time: float) -> Pose:
        """Return the pose at a time, unix s."""
        return Pose(*map(float, self._rows(np.array([time]))[0]))

    def path_over(self, start: float, end: float, points: int = 9) -> list[Pose] | None:
        """Return poses at equal steps over an exposure, None if nothing moves in it."""
        rows = self._rows(np.linspace(start, end, points))
        return [Pose(*map(float, row)) for row in rows] if np.ptp(rows, axis=0).any() else None


_TEXT = TypeAdapter(SampleMotion)


def write_motion(motion: SampleMotion) -> str:
    """Return a motion as JSON text; inverse of `read_motion`."""
    return to_json(motion, inf_nan_mode="strings").decode()


def read_motion(text: str) -> SampleMotion:
    """Return the motion that a JSON text tells of; `DataError` if it is none."""
    try:
        return _TEXT.validate_json(text)
    except (ValueError, ConfigError) as error:
        raise DataError(f"motion of a goniometer: {error!r} in {text[:80]!r}") from error
