"""The plan that calibrates the camera on any mounted sample: scale, roll, axis, delay."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.protocols import Flyable, Movable, Readable
from bluesky.utils import MsgGenerator

from plans.checks import finite
from plans.loop import stubs
from plans.run_stubs import step_log
from skywright.callbacks.pace import DECISION_LIMIT
from skywright.errors import ConfigError, DataError, HardwareError, SampleError, SkywrightError
from skywright.instruments.loop.calibration import (
    CALIBRATION,
    AxisLine,
    Scale,
    ZoomCalibration,
    as_json,
    fit_axis_line,
    fit_scale,
    guess,
    now,
)
from skywright.instruments.loop.decision import check_light
from skywright.instruments.loop.geometry import (
    View,
    axis_um,
    target_um,
    to_goniometer,
    to_laboratory,
    to_picture,
    to_view,
)
from skywright.instruments.loop.rotation_values import RotationValues
from skywright.instruments.loop.spindle import TURNS
from skywright.instruments.loop.sweep import Sweep

FIRST_STEP_UM, GROWTH, LARGEST_UM = 50.0, 4.0, 1000.0
SEEN_PX = 12.0
"""Least shift of the tip after which a first step counts as seen."""
SPAN = 0.22
"""Reach of the grid from the place of the tip, parts of the picture."""
BORDER = 0.06
SHIFT = SPAN, 0.09, 0.09
"""Moves between two rotations: along the spindle, part of the picture's length along it (as far as
the grid went, within some percent); across it and along the beam, parts of the length across it."""
LOOK_LIMIT_S, FIT_LIMIT_S = 0.5, 20.0
"""Work of the analysis that may wait, s: before a look at one picture; before a fit, which needs
many pictures and is worth a wait."""
GRID = (-1.0, 0.0, 1.0)
PICTURES_MIN = 15
"""Least number of pictures that agree with the fit of a rotation. The residuals of n pictures give
the errors of the fit to 1 / sqrt(2 (n - 3)), here 20 %; those of fewer pictures are sometimes far
too small."""
AGAIN = (
    "nothing is saved. Give the spindle more time (time_s), or the computer less to do, then repeat"
)
SCALE_SIGMA_MAX, ROLL_SIGMA_MAX_DEG = 0.01, 0.5
"""Largest standard deviations of a calibration that is saved: of a scale, as part of it; of the
roll."""
PHI_EXCESS_DEG, PHI_EXCESS_MAX_DEG = 2.0, 40.0
"""Angle between phi and the directions of the stages: above the first there is a warning, above the
second nothing is saved. From 45 deg on no sample can be centered; a wrong phi_sign looks like an
angle above 40 deg where it does not change the seen length of a move by `LENGTH_ERROR_MAX`."""
LENGTH_ERROR_MAX = 0.15
"""Largest relative error of the seen length of a move; a stage that runs backwards gives more."""


@dataclass(frozen=True)
class CameraCalibrated:
    """What `calibrate_camera` found; units and meanings as in `ZoomCalibration`.

    Attributes
    ----------
    calibration
        What was saved.
    scale_sigma
        Relative standard deviation of the worse scale.
    delay_sigma_s, roll_sigma_deg
        Standard deviations.
    phi_excess_deg, phi_excess_sigma_deg
        Angle that phi shows less the one that the directions of the stages (`stage_matrix`) give,
        and its standard deviation. The saved scale is corrected for it.
    uids
        Of the runs.
    """

    calibration: ZoomCalibration
    scale_sigma: float
    delay_sigma_s: float
    roll_sigma_deg: float
    phi_excess_deg: float
    phi_excess_sigma_deg: float
    uids: tuple[str, ...]


def calibrate_camera(
    camera: Flyable,
    goniometer: Readable,
    result: Readable,
    *,
    zoom: float = 0.0,
    target_px: float | None = None,
    delta_deg: float = 180.0,
    time_s: float = 3.0,
    settle_s: float = 0.3,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[CameraCalibrated]:
    """Find scale, roll, axis and delay of the camera from the motion of a sample, and save them.

    The stages move the tip over a grid, known steps along and across the spindle; then the spindle
    turns forward and back, and once more with the tip elsewhere along and across it. The second
    move shows by which angle phi is off from the directions of the stages; the scale across the
    spindle is corrected by its cosine. The sample goes back to where it was, unless a motor fails
    or the plan is aborted. Any mount will do whose tip is in view.

    Parameters
    ----------
    camera, goniometer
        As of `plans.loop.centering.center_loop`.
    result
        As there; its `calibration` takes what is found, at the end.
    zoom
        Position of the zoom.
    target_px
        Column (row for a pin from top or bottom) of the beam; None is the middle of the picture.
    delta_deg, time_s
        Of the rotations.
    settle_s
        Rest before a picture is looked at.
    md
        Metadata for the start documents.

    Returns
    -------
    CameraCalibrated

    Raises
    ------
    ConfigError
        If a parameter makes no sense; before anything moves.
    TypeError
        If a device cannot do its part; before anything moves.
    SampleError
        If the tip is not in view, or its rotation cannot be fitted.
    DataError
        If what is seen contradicts the stages' directions, or gives too uncertain a calibration.
    HardwareError
        If light, camera, motors or analysis fail, or a rotation has too few pictures.
    """
    plan = "calibrate_camera"
    zoom = finite(plan, "zoom", zoom)
    delta_deg = finite(plan, "delta_deg", delta_deg)
    time_s = finite(plan, "time_s", time_s)
    settle_s = finite(plan, "settle_s", settle_s, 0.0, inclusive=True)
    if target_px is not None:
        target_px = finite(plan, "target_px", target_px)
    if not abs(delta_deg) >= 180.0:
        raise ConfigError(f"calibrate_camera: delta_deg = {delta_deg}, expected 180 or more")
    tools = stubs.Instruments(camera, goniometer, result, settle_s=settle_s)
    stubs.check_tools(plan, tools, stubs.ROTATION.with_parts(calibration=(Movable,)))
    yield from stubs.check_mounting(plan, goniometer)
    turn = Sweep(delta_deg, time_s)
    arguments = {"zoom": zoom, "delta_deg": delta_deg, "time_s": time_s}
    look = {"zoom": zoom, DECISION_LIMIT: LOOK_LIMIT_S, TURNS: False}
    fit = {"zoom": zoom, DECISION_LIMIT: FIT_LIMIT_S}
    look_md = stubs.metadata(plan, tools, arguments, md, **look)
    uids: list[str] = []
    home = yield from stubs.place(tools)

    def fit_md(calibration: ZoomCalibration) -> dict[str, Any]:
        # Saved only when complete, so that the earlier one stays if the plan or its process ends.
        by = {CALIBRATION: as_json(calibration)}
        return stubs.metadata(plan, tools, arguments, md, **fit, **by)

    def back(steps: MsgGenerator[Any]) -> MsgGenerator[Any]:
        try:
            answer = yield from steps
        # After a motor that failed (a FailedStatus), and after an abort, nothing shall move.
        except (SkywrightError, ValueError):
            yield from bps.abs_set(tools.goniometer.sample, home, wait=True)
            raise
        yield from bps.abs_set(tools.goniometer.sample, home, wait=True)
        return answer

    def grid() -> MsgGenerator[tuple[ZoomCalibration, Scale]]:
        answer = yield from back(_measure_scale(tools, zoom, target_px))
        yield from stubs.end_pictures(tools)
        return answer

    rough, scale = yield from stubs.recorded(tools, grid, look_md, uids)

    def both_ways() -> MsgGenerator[RotationValues]:
        step_log.info("delay: turning the spindle forward and back")
        return (yield from _turned(tools, turn, replace(turn, delta_deg=-delta_deg)))

    first = yield from stubs.recorded(tools, both_ways, fit_md(rough), uids, turn)
    if not math.isfinite(first.delay_sigma):
        raise HardwareError(
            f"calibrate_camera: the delay of the camera is not known: {first.delay_why}"
        )
    timed = replace(rough, delay_s=first.delay)
    step_log.info("delay: %.3f s (+- %.3f)", first.delay, first.delay_sigma)
    phi = yield from stubs.position(tools.goniometer.phi)
    shift = _shift(timed.view, first, phi)

    def elsewhere() -> MsgGenerator[RotationValues]:
        step_log.info("axis: turning the spindle with the sample %.0f, %.0f, %.0f um away", *shift)
        target = tuple(np.add(home, shift).tolist())
        yield from bps.abs_set(tools.goniometer.sample, target, wait=True)
        return (yield from back(_turned(tools, turn)))

    second = yield from stubs.recorded(tools, elsewhere, fit_md(timed), uids, turn)
    excess, excess_sigma = _phi_excess(first, second, shift, timed.view, turn)
    angle = math.radians(excess)
    of_angle = math.tan(abs(angle)) * math.radians(excess_sigma)
    scale_sigma = math.hypot(scale.relative_sigma, of_angle)
    _check_sigma("scale", scale_sigma, SCALE_SIGMA_MAX, "of its value")
    across = "um_per_px_x" if timed.view.vertical else "um_per_px_y"
    scaled = replace(timed, **{across: getattr(timed, across) * math.cos(angle)})
    line = _axis_line(timed.view, scaled.view, [first, second])
    _check_sigma("roll", line.roll_sigma_deg, ROLL_SIGMA_MAX_DEG, "deg")
    final = replace(
        scaled,
        roll_deg=line.roll_deg,
        axis_px=line.axis_px,
        axis_sigma_px=max(line.axis_sigma_px, 0.3),
        axis_residual_px=max(first.rms, second.rms),
        date=now(),
    )
    yield from bps.abs_set(tools.result.calibration, asdict(final), wait=True)
    step_log.info("calibration of zoom %g saved", zoom)
    return CameraCalibrated(
        calibration=final,
        scale_sigma=scale_sigma,
        delay_sigma_s=first.delay_sigma,
        roll_sigma_deg=line.roll_sigma_deg,
        phi_excess_deg=excess,
        phi_excess_sigma_deg=excess_sigma,
        uids=tuple(uids),
    )


def _turned(tools: stubs.Instruments, *turns: Sweep) -> MsgGenerator[RotationValues]:
    """Turn the spindle; return what the pictures tell, if the tip can be fitted at all."""
    for turn in turns:
        yield from stubs.sweep(tools, turn)
    yield from stubs.end_pictures(tools)
    found = yield from stubs.read_result(tools)
    if not (found.tip.ok and math.isfinite(found.axis_row)):
        raise SampleError(f"calibrate_camera: the tip cannot be followed: {found.why}")
    if found.tip.used < PICTURES_MIN:
        raise HardwareError(
            f"calibrate_camera: {found.tip.used} pictures of a rotation agree with its fit, "
            f"{PICTURES_MIN} are needed; {AGAIN}"
        )
    return found


def _check_sigma(name: str, sigma: float, most: float, unit: str) -> None:
    """Refuse a calibration that is too uncertain to be saved."""
    if not sigma <= most:
        raise DataError(
            f"calibrate_camera: the {name} is known to {sigma:.2g} {unit} only, {most:g} are "
            f"needed; {AGAIN}"
        )


# ---- scale


def _measure_scale(
    tools: stubs.Instruments, zoom: float, target_px: float | None
) -> MsgGenerator[tuple[ZoomCalibration, Scale]]:
    """Move the tip over a grid and fit pixels to um."""
    shape = tools.camera.describe_collect()[f"{tools.camera.name}_image"]["shape"]
    height, width = shape[:2]
    home = yield from stubs.place(tools)
    phi = yield from stubs.position(tools.goniometer.phi)
    phi_sign = 1
    if hasattr(tools.goniometer, "phi_sign"):
        phi_sign = int((yield from bps.rd(tools.goniometer.phi_sign)))
    moves: list[tuple[float, float]] = []
    places: list[tuple[float, float]] = []
    sides: list[str] = []

    def see(along: float, across: float) -> MsgGenerator[np.ndarray]:
        shift = to_goniometer((along, across, 0.0), phi, phi_sign)
        target = tuple(np.add(home, shift).tolist())
        yield from bps.checkpoint()
        yield from bps.abs_set(tools.goniometer.sample, target, wait=True)
        found = yield from stubs.measure_once(tools)
        check_light(found)
        place = (found.last.tip_x, found.last.tip_y)
        moves.append((along, across))
        places.append(place)
        sides.append(found.last.side)
        return np.array(place)

    step_log.info("scale: looking for the tip")
    start = yield from see(0.0, 0.0)
    if not np.isfinite(start).all():
        raise SampleError("calibrate_camera: no tip is in view; bring one there, then repeat")
    along_px = height if sides[0] in ("top", "bottom") else width
    if target_px is not None and not 0.0 <= target_px < along_px:
        raise ConfigError(
            f"calibrate_camera: target_px = {target_px:g}, expected a place in pictures of {width} "
            f"x {height} px with the pin from the {sides[0]}, 0 to {along_px - 1}"
        )
    reach = []
    for direction in np.eye(2):
        step = FIRST_STEP_UM
        while True:
            seen = yield from see(*(step * direction))
            shift = float(np.hypot(*(seen - start)))
            if shift >= SEEN_PX or step * GROWTH > LARGEST_UM:
                break
            step *= GROWTH
        if not shift >= SEEN_PX / 4.0:
            raise SampleError(
                f"calibrate_camera: a move of {step:g} um shifts the tip by {shift:.1f} px; is it "
                "the sample that is seen?"
            )
        step_log.info("scale: a move of %g um shifts the tip by %.1f px", step, shift)
        reach.append(_reach(start, (seen - start) / step, width, height))
    for along in GRID:
        for across in GRID:
            if along or across:
                yield from see(_of_reach(along, reach[0]), _of_reach(across, reach[1]))
    side: Any = max(set(sides), key=sides.count)
    scale = fit_scale(moves, places, side)
    _check_sigma("scale", scale.relative_sigma, SCALE_SIGMA_MAX, "of its value")
    step_log.info(
        "scale: %.4g um/px (columns), %.4g um/px (rows), roll %.2f deg from %d places",
        *(scale.um_per_px_x, scale.um_per_px_y, scale.roll_deg, len(places)),
    )
    rough = replace(
        guess(zoom, shape, side),
        um_per_px_x=scale.um_per_px_x,
        um_per_px_y=scale.um_per_px_y,
        roll_deg=scale.roll_deg,
        scale_residual_px=scale.residual_px,
        axis_residual_px=0.0,
        phi_sign=1 if phi_sign > 0 else -1,
        target_px=target_px,
    )
    return rough, scale


def _reach(
    start: np.ndarray, px_per_um: np.ndarray, width: int, height: int
) -> tuple[float, float]:
    """Return how far the tip can go back and forth, um, and stay well inside the picture."""
    size = np.array([width, height], dtype=np.float64)
    low, high = BORDER * size, (1.0 - BORDER) * size
    speed = np.where(np.abs(px_per_um) > 1e-9, px_per_um, 1e-9)
    ends = np.sort(np.stack([(low - start) / speed, (high - start) / speed]), axis=0)
    span = SPAN * float(np.min(size / np.abs(speed)))
    return max(float(ends[0].max()), -span), min(float(ends[1].min()), span)


def _of_reach(part: float, reach: tuple[float, float]) -> float:
    low, high = reach
    return -part * low if part < 0.0 else part * high


# ---- axis


def _shift(view: View, found: RotationValues, phi_deg: float) -> np.ndarray:
    """Return a move, (3,) um in the goniometer frame, for a rotation with the tip elsewhere.

    Seen at the angle `phi_deg` it goes along the spindle, across it and along the beam: to the
    other half of the picture, and to the other side of the spindle.
    """
    tip = found.tip
    length, width = view.by_spindle(
        view.width_px * view.um_per_px_x, view.height_px * view.um_per_px_y
    )
    place = to_laboratory((tip.x, tip.y, tip.z), phi_deg, view.phi_sign)
    axis = axis_um(found.axis_row, view)
    middle = to_view(((view.width_px - 1) / 2.0, (view.height_px - 1) / 2.0), view)
    place[0] += target_um(axis, view) - middle[0]
    shift = -np.copysign(np.multiply(SHIFT, (length, width, width)), place)
    return to_goniometer(shift, phi_deg, view.phi_sign)


def _phi_excess(
    before: RotationValues, after: RotationValues, shift_um: np.ndarray, view: View, turn: Sweep
) -> tuple[float, float]:
    """Return the angle of phi less that of the stages' directions, and its sigma, deg.

    Parameters
    ----------
    before, after
        A rotation in both directions, and one by `turn` after the move.
    shift_um
        The move, (3,) um in the goniometer frame, as the stages made it. The pictures tell the
        move as the angles of phi have it.
    view
        With the scale of the grid: too large across the spindle by 1 / cos of the angle.
    turn
        The last rotation.

    Raises
    ------
    DataError
        If no turn of the stages explains what is seen, or no sample can be centered with it.
    """
    made = complex(*shift_um[1:])
    seen = complex(after.tip.y - before.tip.y, after.tip.z - before.tip.z)
    excess = -view.phi_sign * float(np.angle(seen / made, deg=True))
    length = abs(seen / made) * math.cos(math.radians(excess))
    if not abs(length - 1.0) <= LENGTH_ERROR_MAX:
        raise DataError(
            f"calibrate_camera: a move across the spindle and along the beam is seen "
            f"{abs(seen / made):.2f} times as long as the stages made it, and turned by "
            f"{excess:.0f} deg, which no offset of phi explains; check phi_sign and the signs of "
            "the stages across the spindle (stage_matrix)"
        )
    # The tip's own sigma is that of its place on the mount, which is the same in both rotations
    fits = [each.rms * view.pixel_um * math.sqrt(2.0 / each.tip.used) for each in (before, after)]
    # A wrong delay cancels in a rotation in both directions, and turns the other one
    late = math.radians(turn.rate_deg_s) * before.delay_sigma
    turned = late * math.hypot(after.tip.y, after.tip.z)
    sigma = math.degrees(math.hypot(*fits, turned) / abs(made))
    advice = (
        f"phi differs by {excess:.1f} deg (+- {sigma:.1f}) from the angle that the directions of "
        "the stages give: subtract this from the offset of phi (OFF), or turn stage_matrix"
    )
    if abs(excess) > PHI_EXCESS_MAX_DEG:
        raise DataError(f"calibrate_camera: {advice}; then repeat")
    if abs(excess) > PHI_EXCESS_DEG + sigma:
        step_log.warning("stages: %s", advice)
    return excess, sigma


def _axis_line(view: View, scaled: View, rotations: Sequence[RotationValues]) -> AxisLine:
    """Return the axis from the rows at which rotations, fitted with `view`, saw it at their tips.

    `scaled` has the right sizes of pixels.
    """
    along, rows, sigmas = [], [], []
    for found in rotations:
        across = axis_um(found.axis_row, view)
        point = to_picture((target_um(across, view) + found.tip.x, across), view)
        place_along, row = view.by_spindle(*map(float, point))
        along.append(place_along)
        rows.append(row)
        sigmas.append(found.axis_sigma)
    return fit_axis_line(along, rows, sigmas, replace(scaled, roll_deg=0.0))
