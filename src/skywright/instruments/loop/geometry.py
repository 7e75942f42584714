"""Frames and signs of a sample on a spindle seen by a camera: pixels, goniometer, laboratory.

Picture: x to the right, y down, px, centers of pixels at whole numbers. View frame: `along` the
spindle from the pin to the tip, `across` it towards growing rows (growing columns for a pin from
top or bottom), um from pixel (0, 0). Goniometer frame: x = `along`, (y, z) transverse, turning
with the sample; at the spindle angle phi a point is seen at

    across = axis + y cos(phi) - z sin(phi)

and lies y sin(phi) + z cos(phi) along the beam.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skywright.errors import ConfigError

Floats = NDArray[np.float64]
Side = Literal["left", "right", "top", "bottom"]
SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
UM_PER_PX = 6.7  # square pixels at the middle zoom, where nothing else is said
WIDTH_PX, HEIGHT_PX = 704, 480  # 4CIF, what the camera sends


@dataclass(frozen=True)
class View:
    """How the camera sees the spindle at one zoom."""

    um_per_px_x: float = UM_PER_PX
    um_per_px_y: float = UM_PER_PX
    """Size of a pixel in the sample, by columns and by rows, > 0; they differ on old encoders."""
    side: Side = "left"
    """Border through which the pin enters."""
    roll_deg: float = 0.0
    """Turn of the spindle (and of all that moves with it) in the picture, from `along` towards
    `across`: a loop far from the pin is seen at larger `across` if it is positive. |roll| < 45."""
    phi_sign: int = 1
    """-1 where the motor's angle grows against the sense of the formula above."""
    width_px: int = WIDTH_PX
    height_px: int = HEIGHT_PX
    """Size of the picture."""
    target_px: float | None = None
    """Where the tip shall go along the spindle: a column, a row for a pin from top or bottom; None
    is the middle of the picture."""

    def __post_init__(self) -> None:
        for name in ("um_per_px_x", "um_per_px_y"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(f"view: {name} is {value}, expected a finite number > 0")
        if self.side not in SIDES:
            raise ConfigError(f"view: side is {self.side!r}, expected one of {', '.join(SIDES)}")
        if self.phi_sign not in (1, -1):
            raise ConfigError(f"view: phi_sign is {self.phi_sign}, expected 1 or -1")
        if not abs(self.roll_deg) < 45.0:
            raise ConfigError(f"view: roll_deg is {self.roll_deg}, expected -45..45")
        if self.target_px is not None and not np.isfinite(self.target_px):
            raise ConfigError(f"view: target_px is {self.target_px}, expected a finite number")

    @property
    def vertical(self) -> bool:
        """Whether the spindle stands upright in the picture."""
        return self.side in ("top", "bottom")

    def by_spindle(self, x: float, y: float) -> tuple[float, float]:
        """Exchange the two values if the spindle stands upright."""
        return (y, x) if self.vertical else (x, y)

    @property
    def pixel_um(self) -> float:
        """Size of a pixel across the spindle."""
        return self.by_spindle(self.um_per_px_x, self.um_per_px_y)[1]

    @property
    def target(self) -> float:
        """Where the tip shall go along the spindle, px."""
        if self.target_px is not None:
            return self.target_px
        return (self.by_spindle(self.width_px, self.height_px)[0] - 1) / 2.0

    @property
    def matrix(self) -> Floats:
        """(2, 2) float64: (along, across) um from (x, y) px."""
        roll = np.deg2rad(self.roll_deg)
        turn_back = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        sign = -1.0 if self.side in ("right", "bottom") else 1.0
        nominal = [[0.0, sign], [1.0, 0.0]] if self.vertical else [[sign, 0.0], [0.0, 1.0]]
        return turn_back @ np.array(nominal) * (self.um_per_px_x, self.um_per_px_y)


def to_view(xy_px: ArrayLike, view: View) -> Floats:
    """Convert points x, y of the picture, (..., 2) px, to along, across, (..., 2) float64 um."""
    return np.asarray(xy_px, dtype=np.float64) @ view.matrix.T


def to_picture(along_across_um: ArrayLike, view: View) -> Floats:
    """Convert points of the view frame to the picture; inverse of `to_view`."""
    return np.asarray(along_across_um, dtype=np.float64) @ np.linalg.inv(view.matrix).T


def axis_um(axis_px: float, view: View) -> float:
    """Return `across` of a spindle that crosses the target column at row `axis_px`.

    For a pin from top or bottom: that crosses the target row at column `axis_px`.
    """
    return float(to_view(view.by_spindle(view.target, axis_px), view)[1])


def axis_px(axis_across_um: float, view: View) -> float:
    """Return the row at which the spindle crosses the target column; inverse of `axis_um`.

    For a pin from top or bottom: the column at which it crosses the target row.
    """
    along, across = view.by_spindle(*view.matrix[1])
    return float((axis_across_um - along * view.target) / across)


def target_um(axis_across_um: float, view: View) -> float:
    """Return `along` of the point of the spindle to which the tip shall go, um."""
    crossing = axis_px(axis_across_um, view)
    return float(to_view(view.by_spindle(view.target, crossing), view)[0])


def to_laboratory(xyz_um: ArrayLike, phi_deg: ArrayLike, phi_sign: int = 1) -> Floats:
    """Turn points from the goniometer frame to the laboratory.

    Parameters
    ----------
    xyz_um : (..., 3) float
        Goniometer frame, from the axis.
    phi_deg, phi_sign
        Spindle angle, (...), and 1 or -1 (`View`).

    Returns
    -------
    (..., 3) float64
        Along the spindle, across it as seen (y cos phi - z sin phi), along the beam
        (y sin phi + z cos phi); um.
    """
    x, y, z = np.moveaxis(np.asarray(xyz_um, dtype=np.float64), -1, 0)
    phi = np.deg2rad(np.asarray(phi_deg, dtype=np.float64)) * phi_sign
    cos, sin = np.cos(phi), np.sin(phi)
    return np.stack(np.broadcast_arrays(x, y * cos - z * sin, y * sin + z * cos), axis=-1)


def to_goniometer(along_across_beam_um: ArrayLike, phi_deg: ArrayLike, phi_sign: int = 1) -> Floats:
    """Turn points from the laboratory to the goniometer frame; inverse of `to_laboratory`."""
    return to_laboratory(along_across_beam_um, -np.asarray(phi_deg, dtype=np.float64), phi_sign)


def observe(xyz_um: ArrayLike, phi_deg: ArrayLike, view: View, axis_row_px: float) -> Floats:
    """Predict where points are seen: x, y, (..., 2) float64 px.

    Parameters
    ----------
    xyz_um : (..., 3) float
        Goniometer frame; x from the target, y and z from the axis.
    phi_deg : (...) float
        Spindle angle.
    view : View
    axis_row_px : float
        Row at which the spindle crosses the target column (column and row for a vertical one).
    """
    seen = to_laboratory(xyz_um, phi_deg, view.phi_sign)[..., :2]
    axis = axis_um(axis_row_px, view)
    return to_picture(seen + np.array([target_um(axis, view), axis]), view)
