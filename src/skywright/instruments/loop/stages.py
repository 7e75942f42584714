"""Stages that move the sample: their directions, from motors to the goniometer frame and back."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from skywright.errors import ConfigError
from skywright.instruments.loop.geometry import Floats, to_goniometer, to_laboratory

Mounting = Literal["spindle", "table"]
UM_PER_UNIT = {"mm": 1000.0, "millimeter": 1000.0, "um": 1.0, "µm": 1.0, "micron": 1.0, "m": 1e6}
SQUARE = 0.02
"""Largest cosine between the directions of two stages: 90 +- 1 deg."""


def check_matrix(matrix: ArrayLike) -> Floats:
    """Check the directions of three stages, and return them as (3, 3) float64.

    Column i is the displacement of the sample by one unit of length of stage i. Usually there is
    one 1 or -1 in each row and column; scales and rotations are allowed, the stages must be square.

    Raises
    ------
    ConfigError
        Naming the stages that are wrong, and how.
    """
    try:
        checked = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"stage matrix {matrix!r}: expected 3 rows of 3 numbers") from error
    if checked.shape != (3, 3) or not np.isfinite(checked).all():
        raise ConfigError(f"stage matrix {checked.tolist()}: expected 3 rows of 3 finite numbers")
    sizes = np.linalg.norm(checked, axis=0)
    for stage, size in enumerate(sizes, 1):
        if not 1e-3 <= size <= 1e3:
            raise ConfigError(
                f"stage matrix {checked.tolist()}: column {stage} says that stage {stage} moves "
                f"the sample by {size:g} per unit; expected a length near 1"
            )
    cosines = (checked / sizes).T @ (checked / sizes)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        if abs(cosines[one, other]) > SQUARE:
            angle = np.degrees(np.arccos(np.clip(cosines[one, other], -1.0, 1.0)))
            raise ConfigError(
                f"stage matrix {checked.tolist()}: stages {one + 1} and {other + 1} move the sample"
                f" in directions {angle:.0f} deg apart; expected 90: check columns {one + 1} and "
                f"{other + 1}"
            )
    return checked


@dataclass(frozen=True)
class StageSetup:
    """How three stages move the sample; `ConfigError` if a value is wrong."""

    matrix: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    """3 x 3: see `check_matrix`. Rows: x, y, z of the goniometer frame for stages on the spindle;
    along the spindle, across it as seen, along the beam for stages on a table."""
    mounting: Mounting = "spindle"
    """Whether the stages turn with the sample."""
    phi_sign: int = 1
    """1 or -1, as in `skywright.instruments.loop.geometry.View`."""

    def __post_init__(self) -> None:
        check_matrix(self.matrix)
        if self.mounting not in ("spindle", "table"):
            raise ConfigError(f"stages: mounting {self.mounting!r}, expected spindle or table")
        if self.phi_sign not in (1, -1):
            raise ConfigError(f"stages: phi_sign {self.phi_sign!r}, expected 1 or -1")

    def _um(self, units: tuple[str, ...]) -> Floats:
        """Return the displacement in um by one unit of each motor, by columns."""
        return np.asarray(self.matrix) * [um_per_unit(unit) for unit in units]

    def sample_um(self, motors: ArrayLike, phi_deg: float, units: tuple[str, ...]) -> Floats:
        """Return the displacement of the sample, (3,) float64, um of the goniometer frame.

        `motors` are their positions (3,) in their `units`, mm, um ...
        """
        shift = self._um(units) @ np.asarray(motors, dtype=np.float64)
        return shift if self.mounting == "spindle" else to_goniometer(shift, phi_deg, self.phi_sign)

    def motor_moves(self, shift_um: ArrayLike, phi_deg: float, units: tuple[str, ...]) -> Floats:
        """Return the relative moves of the motors, in their units, that shift the sample.

        `shift_um`, (3,), is the wanted displacement in the goniometer frame; `phi_deg` is the
        spindle's angle during the move.
        """
        shift = np.asarray(shift_um, dtype=np.float64)
        if self.mounting == "table":
            shift = to_laboratory(shift, phi_deg, self.phi_sign)
        return np.asarray(np.linalg.solve(self._um(units), shift))


def um_per_unit(unit: str) -> float:
    """Return the size of a motor's unit of length in um; `ConfigError` if it is not known."""
    if unit not in UM_PER_UNIT:
        raise ConfigError(
            f"stages: the unit of a motor is {unit!r}, expected one of {', '.join(UM_PER_UNIT)}; "
            "set its EGU"
        )
    return UM_PER_UNIT[unit]
