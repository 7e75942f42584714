"""Calibration of the camera at each zoom: scale, roll, axis, delay; kept in one JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from scipy.optimize import least_squares

from skywright.arguments import first_problem
from skywright.errors import ConfigError, DataError
from skywright.files.replacing import replacing
from skywright.instruments.loop.centering import AxisPrior
from skywright.instruments.loop.geometry import UM_PER_PX, Floats, Side, View, to_picture

if TYPE_CHECKING:
    from skywright.config import Settings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
LEAST_SEEN_PX = 5.0
"""Less movement over all moves, px: the point is not on the sample, or the stage stands still."""
CALIBRATION = "camera_calibration"
"""Key of start documents: the calibration, as of `as_json`, that holds for a run in the place of
the saved one."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ZoomCalibration:
    """Calibration of the camera at one zoom."""

    zoom: Finite
    """Position of the zoom, in the motor's unit."""
    um_per_px_x: Positive
    um_per_px_y: Positive
    axis_px: Finite
    axis_sigma_px: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Row at which the spindle crosses the target column (column and row for a vertical one), and
    its standard deviation."""
    scale_residual_px: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    axis_residual_px: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Rms of the fits that gave scale and axis."""
    date: AwareDatetime
    """With time zone."""
    roll_deg: Annotated[float, Field(gt=-45, lt=45)] = 0.0
    """As in `View`."""
    delay_s: Annotated[float, Field(ge=-10, le=10)] = 0.0
    """Time stamp of a picture less time of its exposure."""
    side: Side = "left"
    phi_sign: Literal[1, -1] = 1
    width_px: Annotated[int, Field(gt=0)] = 704
    height_px: Annotated[int, Field(gt=0)] = 480
    target_px: Finite | None = None
    """From `side` on, as in `View`."""

    @property
    def view(self) -> View:
        """How the camera sees the spindle at this zoom."""
        return View(**{each.name: getattr(self, each.name) for each in fields(View)})

    @property
    def axis(self) -> AxisPrior:
        """The row of the spindle, with its error."""
        return AxisPrior(self.axis_px, self.axis_sigma_px)


_STOP, _STOPS = TypeAdapter(ZoomCalibration), TypeAdapter(list[ZoomCalibration])


def as_json(calibration: ZoomCalibration) -> dict[str, Any]:
    """Return a calibration as JSON values."""
    values: dict[str, Any] = _STOP.dump_python(calibration, mode="json")
    return values


def from_json(values: Mapping[str, Any]) -> ZoomCalibration:
    """Return the calibration of JSON values; `ValueError` if they are none."""
    return _STOP.validate_python(dict(values))


@dataclass(frozen=True)
class Scale:
    """Result of `fit_scale`; the first three as in `View`."""

    um_per_px_x: float
    um_per_px_y: float
    roll_deg: float
    relative_sigma: float
    """Standard deviation of the worse scale, as part of it."""
    residual_px: float
    """Rms."""


@dataclass(frozen=True)
class AxisLine:
    """Result of `fit_axis_line`."""

    axis_px: float
    """Where the spindle crosses the target column (row for a vertical one)."""
    axis_sigma_px: float
    roll_deg: float
    """Its turn in the picture; NaN if it was seen at one place only."""
    roll_sigma_deg: float


def fit_scale(moves_um: ArrayLike, places_px: ArrayLike, side: Side = "left") -> Scale:
    """Find size of pixels and roll from known moves of the sample, the spindle at rest.

    Parameters
    ----------
    moves_um : (n, 2) float
        Displacement of the sample along and across the spindle, as stages report it.
    places_px : (n, 2) float
        x, y of the same point of it in each picture.
    side : str
        Border through which the pin enters.

    Raises
    ------
    DataError
        If there are less than 4 places, moves in one direction only, a point that does not move
        with the stages, or a sign that does not fit the pin side.

    Notes
    -----
    Least squares of five unknowns (place, two scales, roll) with Cauchy loss of 1 px, so that a
    wrong place does no harm.
    """
    moves = np.asarray(moves_um, dtype=np.float64).reshape(-1, 2)
    places = np.asarray(places_px, dtype=np.float64).reshape(-1, 2)
    seen = np.isfinite(places).all(axis=1)
    moves, places = moves[seen], places[seen]
    if len(moves) < 4:
        raise DataError(f"scale: the point was found at {len(moves)} places, 4 are needed")
    spread = np.ptp(moves, axis=0)
    if spread.min() < 0.05 * spread.max():
        raise DataError(
            f"scale: moves span {spread[0]:.0f} um along and {spread[1]:.0f} um across; "
            "move in both directions"
        )
    start = _scale_start(moves, places, side)

    def misses(unknown: Floats) -> Floats:
        return (_seen(unknown, moves, side) - places).ravel()

    fit = least_squares(misses, start, loss="cauchy", f_scale=1.0, x_scale=np.abs(start) + 1e-3)
    size_x, size_y = np.exp(fit.x[2:4])
    residual = misses(fit.x)
    near = np.abs(residual) < 5.0
    rms = float(np.sqrt(np.mean(residual[near] ** 2))) if near.any() else float("inf")
    covariance = np.linalg.inv(fit.jac.T @ fit.jac) * max(rms, 0.05) ** 2
    return Scale(
        um_per_px_x=float(size_x),
        um_per_px_y=float(size_y),
        roll_deg=float(np.rad2deg(fit.x[4])),
        relative_sigma=float(np.sqrt(np.diag(covariance)[2:4].max())),
        residual_px=rms,
    )


def _seen(unknown: Floats, moves: Floats, side: Side) -> Floats:
    """Return places (n, 2) px for (x0, y0, log um/px x, log um/px y, roll)."""
    view = View(
        um_per_px_x=float(np.exp(unknown[2])),
        um_per_px_y=float(np.exp(unknown[3])),
        side=side,
        roll_deg=float(np.clip(np.rad2deg(unknown[4]), -44.9, 44.9)),
    )
    return unknown[:2] + to_picture(moves, view)


def _scale_start(moves: Floats, places: Floats, side: Side) -> Floats:
    """Return a first answer, slopes by medians over pairs, and check its signs."""
    vertical = side in ("top", "bottom")
    columns = (1, 0) if vertical else (0, 1)  # that show moves along and across
    slopes = []
    for direction, column in enumerate(columns):
        step = moves[:, None, direction] - moves[None, :, direction]
        seen = places[:, None, column] - places[None, :, column]
        far = step > 0.3 * np.ptp(moves[:, direction])
        slopes.append(float(np.median(seen[far] / step[far])))
    spans = np.ptp(moves, axis=0) * (-1.0 if side in ("right", "bottom") else 1.0, 1.0)
    for slope, span, name in zip(slopes, spans, ("along", "across"), strict=True):
        if slope * span < LEAST_SEEN_PX:  # a span is negative where a move is seen backwards
            raise DataError(
                f"scale: {abs(span):.0f} um {name} the spindle are seen as {slope * abs(span):+.1f}"
                f" px, expected {np.copysign(LEAST_SEEN_PX, span):+.0f} or more for a pin from the "
                f"{side}; check the stage's sign, the pin side, and that the tip is in view"
            )
    um_per_px = 1.0 / np.abs(slopes)
    size_x, size_y = um_per_px[::-1] if vertical else um_per_px
    x0, y0 = np.median(places, axis=0)
    return np.array([x0, y0, np.log(size_x), np.log(size_y), 0.0])


def fit_axis_line(
    along_px: ArrayLike, axis_px: ArrayLike, sigma_px: ArrayLike, view: View
) -> AxisLine:
    """Find axis and roll from rotations with the tip at different places along the spindle.

    Parameters
    ----------
    along_px : (n,) float
        Column of the tip (row for a pin from top or bottom) in each rotation.
    axis_px, sigma_px : (n,) float
        `Center.axis_row_px` of each, fitted with a roll of 0: the row of the axis at the tip; and
        its `Center.axis_sigma_px`.
    view : View
        For target, pixel sizes and pin side.

    Raises
    ------
    DataError
        If there is no rotation, or a number is not finite.
    """
    along, rows, sigma = (
        np.asarray(v, dtype=np.float64).ravel() for v in (along_px, axis_px, sigma_px)
    )
    if not len(along) or not np.isfinite([along, rows, sigma]).all():
        raise DataError(f"axis: {len(along)} rotations, expected 1 or more with finite axis rows")
    weight = 1.0 / np.maximum(sigma, 0.05)
    shift = along - view.target
    several = np.ptp(shift) > 20.0
    line, covariance = np.polyfit(shift, rows, int(several), w=weight, cov="unscaled")
    roll = roll_sigma = float("nan")
    if several:
        # Rows per column to an angle; the columns of a pin from right or bottom run backwards.
        along_um, across_um = view.by_spindle(view.um_per_px_x, view.um_per_px_y)
        aspect = across_um / along_um
        sign = -1.0 if view.side in ("right", "bottom") else 1.0
        roll = float(np.rad2deg(np.arctan(sign * aspect * line[0])))
        roll_sigma = float(np.rad2deg(aspect * np.sqrt(covariance[0, 0])))
    return AxisLine(
        axis_px=float(line[-1]),
        axis_sigma_px=float(np.sqrt(covariance[-1, -1])),
        roll_deg=roll,
        roll_sigma_deg=roll_sigma,
    )


def at_zoom(stops: Sequence[ZoomCalibration], zoom: float) -> ZoomCalibration:
    """Return the calibration at a zoom, interpolated between two stops.

    Scales by their logarithm, axis, roll and delay straight; errors, residuals and date are the
    worse neighbor's.

    Raises
    ------
    ConfigError
        If `zoom` is outside the calibrated stops, or its neighbors differ in picture or side.
    """
    ordered = sorted(stops, key=lambda stop: stop.zoom)
    for stop in ordered:
        if stop.zoom == zoom:
            return stop
    upper = sum(stop.zoom < zoom for stop in ordered)
    if not 0 < upper < len(ordered):
        known = ", ".join(f"{stop.zoom:g}" for stop in ordered) or "none"
        raise ConfigError(
            f"zoom {zoom:g} is outside the calibrated stops ({known}); run calibrate_camera"
        )
    low, high = ordered[upper - 1], ordered[upper]
    for name in ("side", "phi_sign", "width_px", "height_px", "target_px"):
        if getattr(low, name) != getattr(high, name):
            raise ConfigError(
                f"zoom {zoom:g}: its stops {low.zoom:g} and {high.zoom:g} differ in {name} "
                f"({getattr(low, name)}, {getattr(high, name)}); calibrate both alike"
            )
    part = (zoom - low.zoom) / (high.zoom - low.zoom)
    changes: dict[str, Any] = {}
    for name in ("axis_px", "roll_deg", "delay_s"):
        changes[name] = (1.0 - part) * getattr(low, name) + part * getattr(high, name)
    for name in ("um_per_px_x", "um_per_px_y"):
        changes[name] = float(getattr(low, name) ** (1.0 - part) * getattr(high, name) ** part)
    for name in ("axis_sigma_px", "scale_residual_px", "axis_residual_px"):
        changes[name] = max(getattr(low, name), getattr(high, name))
    return replace(low, zoom=float(zoom), date=min(low.date, high.date), **changes)


def load_calibrations(path: Path) -> list[ZoomCalibration]:
    """Read calibrations from a JSON list of objects with the fields of `ZoomCalibration`.

    A `ConfigError` names file, entry, field and value seen.
    """
    try:
        return _STOPS.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error


def now() -> datetime:
    """Return the date of a calibration made now, local time with zone."""
    return datetime.now().astimezone()


@dataclass(frozen=True)
class CalibrationFile:
    """The JSON file, which need not exist, in which a session keeps its camera's calibrations."""

    path: Path

    def stops(self) -> list[ZoomCalibration]:
        """Return all calibrations; none where there is no file."""
        return load_calibrations(self.path) if self.path.exists() else []

    def save(self, new: ZoomCalibration) -> None:
        """Save the calibration of one zoom; those of other zooms stay.

        The file is replaced whole or not at all.
        """
        stops = [*(stop for stop in self.stops() if stop.zoom != new.zoom), new]
        ordered = sorted(stops, key=lambda stop: stop.zoom)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path, sync=True) as file:
            file.write_bytes(_STOPS.dump_json(ordered, indent=2) + b"\n")

    def at(self, zoom: float, shape: tuple[int, ...] = ()) -> ZoomCalibration:
        """Return the calibration at a zoom, for pictures of a shape (H, W, ...) if that is known.

        Raise `ConfigError` if there is none, or it is for pictures of another size.
        """
        stops = self.stops()
        if not stops:
            raise ConfigError(
                f"{self.path} holds no calibration of the camera; run calibrate_camera"
            )
        found = at_zoom(stops, zoom)
        if shape and (found.height_px, found.width_px) != shape[:2]:
            raise ConfigError(
                f"zoom {zoom:g} is calibrated for pictures of {found.width_px} x "
                f"{found.height_px} px, the camera sends {shape[1]} x {shape[0]}; "
                "run calibrate_camera"
            )
        return found

    def at_or_guess(self, zoom: float, shape: tuple[int, ...]) -> ZoomCalibration:
        """Return the calibration at a zoom or, where the file is empty, a guess."""
        return self.at(zoom, shape) if self.stops() else guess(zoom, shape)


def guess(zoom: float, shape: Sequence[int], side: Side = "left") -> ZoomCalibration:
    """Return a calibration for pictures of a shape (H, W, ...) of which only the side is known."""
    height, width = shape[:2]
    across = width if side in ("top", "bottom") else height
    return ZoomCalibration(
        zoom=zoom,
        um_per_px_x=UM_PER_PX,
        um_per_px_y=UM_PER_PX,
        axis_px=(across - 1) / 2.0,
        axis_sigma_px=across / 6.0,
        scale_residual_px=float(height),
        axis_residual_px=float(height),
        date=now(),
        side=side,
        width_px=width,
        height_px=height,
    )


def session_calibrations(settings: "Settings") -> Path:
    """Return where a session keeps the calibrations of its camera."""
    return settings.directory / "calibration" / "axis.json"


def rotation_parameters(settings: "Settings") -> dict[str, Any]:
    """Return the parameters of `loop_rotation` in a session."""
    return {"calibrations": str(session_calibrations(settings))}
