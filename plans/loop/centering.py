"""Plans that find a loop in the camera's pictures and put it into the beam."""

import math
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.protocols import Flyable, Readable
from bluesky.utils import MsgGenerator
from pydantic import ValidationError

from plans.checks import check_limits, finite, finite_numbers, flag
from plans.loop import stubs
from plans.loop.settings import Centering, CenteringSettings
from plans.run_stubs import step_log
from skywright.arguments import first_problem
from skywright.errors import ConfigError, HardwareError, SampleError
from skywright.instruments.loop.decision import Verdict, check_light, judge
from skywright.instruments.loop.rotation_values import RotationValues
from skywright.instruments.loop.sweep import Sweep

VIEWS_DEG = (0.0, 90.0)
STEPS = 18
"""Pictures of a pass at rest."""
AGREEMENTS, STRAYED_AGREEMENTS = 2, 3
RECEDED = 2
"""Moves in a row after which the loop is farther from the spindle than before: no more are made."""
MOVE_ERROR = 0.02
"""Part of a move by which scale and stages may be wrong."""


class NotCenteredError(SampleError):
    """The loop was found, and is not where it shall be."""


@dataclass
class _Course:
    """What has happened so far."""

    settings: CenteringSettings
    uids: list[str] = field(default_factory=list)
    moved_um: Any = field(default_factory=lambda: np.zeros(3))
    searched: int = 0
    found: RotationValues | None = None
    once_known: bool = False
    verdict: Verdict | None = None
    disagreed_um: float = 0.0
    agreements_wanted: int = 0
    receded: int = 0
    """Moves in a row after which the loop was farther from the spindle than before."""
    places_um: list[float] = field(default_factory=list)
    sigmas_um: list[float] = field(default_factory=list)

    def steady(self, verdict: Verdict) -> Verdict:
        """Return the verdict with place and sigma as the passes so far agree on them.

        Along the spindle: where the neck of a loop begins may be seen differently in each pass, and
        dust that it comes to lie beside may pass for its end; on the stage it is at one place.
        Sigma: how well a middle is known is a property of the loop and its light, and itself not
        known well from one pass; that of a loop of which half is hardly seen may look good once.
        The first pass, from afar, counts only until there is another.
        """
        if self.settings.aim != "loop" or not verdict.known:
            return verdict
        moved_um = float(self.moved_um[0])
        self.places_um.append(verdict.offset_um[0] - moved_um)
        self.sigmas_um.append(verdict.sigma_um)
        along = _median_from_near(self.places_um) + moved_um
        return replace(
            verdict,
            offset_um=(along, *verdict.offset_um[1:]),
            sigma_um=_median_from_near(self.sigmas_um),
        )

    def compare(self, verdict: Verdict) -> None:
        """Take in what a pass measured; `verdict` still holds what the one before did.

        After a move by what was measured the loop is on the spindle. If it is far from there, one
        of the two measurements was wrong without a sign of it: then as many in a row as
        `AGREEMENTS` must agree before they are believed. If the loop, seen from near, is elsewhere
        along the spindle, it takes `STRAYED_AGREEMENTS`: of a crystal much longer than its loop
        another part passes for it, and may do so twice.
        """
        before, self.verdict = self.verdict, verdict
        self.once_known |= verdict.known
        if not (before and before.known and verdict.known):
            return
        spread = math.hypot(before.sigma_um, verdict.sigma_um)
        allowed = self.settings.tolerance_um + 3.0 * spread + MOVE_ERROR * before.residual_um
        along = math.hypot(before.along_sigma_um, verdict.along_sigma_um)
        allowed_along = self.settings.tolerance_um + 3.0 * along
        near = self.places_um[1:]
        strayed = abs(near[-1] - near[-2]) if len(near) > 1 else 0.0
        if verdict.residual_um > allowed or strayed > allowed_along:
            self.disagreed_um = max(verdict.residual_um, strayed)
            wanted = STRAYED_AGREEMENTS if strayed > allowed_along else AGREEMENTS
            self.agreements_wanted = max(wanted, self.agreements_wanted)
        else:
            self.agreements_wanted = max(self.agreements_wanted - 1, 0)
        # A wrong measurement leads the loop away by as much as it was wrong; the next pass sees it
        farther = before.residual_um + allowed - self.settings.tolerance_um
        is_farther = verdict.residual_um > max(allowed, farther)
        self.receded = self.receded + 1 if is_farther else 0


def _median_from_near(values: Sequence[float]) -> float:
    """Return the median of what the passes found, without the first if there are others."""
    return float(np.median(values[1:] or values))


def collect_oscillation(
    camera: Flyable,
    goniometer: Readable,
    delta_deg: float = 180.0,
    time_s: float = 3.0,
    *,
    start_deg: float | None = None,
    run_up: bool = True,
    zoom: float = 0.0,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Turn the spindle while the camera takes pictures, as DCSS's ``start_oscillation`` does.

    Parameters
    ----------
    camera
        Flies.
    goniometer
        With `phi`, `sample` and `oscillation`.
    delta_deg, time_s
        Signed angle, and the time that it takes at constant speed.
    start_deg
        Where the rotation begins; None is where the spindle stands.
    run_up
        Accelerate before the trigger's window opens; else within it.
    zoom
        Of the camera, as calibrated.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If an argument makes no sense; before anything moves.
    TypeError
        If a device cannot do its part.
    HardwareError
        If a device fails.
    """
    plan = "collect_oscillation"
    tools = stubs.Instruments(camera, goniometer, None)
    stubs.check_tools(plan, tools)
    delta_deg, time_s = finite(plan, "delta_deg", delta_deg), finite(plan, "time_s", time_s)
    if start_deg is not None:
        start_deg = finite(plan, "start_deg", start_deg)
    zoom = finite(plan, "zoom", zoom)
    turn = Sweep(delta_deg, time_s, start_deg, flag(plan, "run_up", run_up))
    arguments = {
        "delta_deg": delta_deg,
        "time_s": time_s,
        "start_deg": start_deg,
        "run_up": turn.run_up,
    }
    uids: list[str] = []

    def body() -> MsgGenerator[None]:
        yield from stubs.sweep(tools, turn)
        yield from stubs.end_pictures(tools)

    _md = stubs.metadata(plan, tools, arguments, md, zoom=zoom)
    yield from stubs.recorded(tools, body, _md, uids, turn)
    return uids[-1]


def collect_steps(
    camera: Readable,
    goniometer: Readable,
    angles_deg: Sequence[float],
    *,
    settle_s: float = 0.3,
    zoom: float = 0.0,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Take a picture at each of some angles, the spindle at rest.

    Parameters
    ----------
    camera
        Triggered.
    goniometer
        With `phi` and `sample`.
    angles_deg
        Where.
    settle_s
        Rest before each picture.
    zoom, md
        As of `collect_oscillation`.

    Returns
    -------
    str
        The uid of the run.

    Raises
    ------
    ConfigError
        If there are no angles, or a number is not finite; before anything moves.
    TypeError
        If a device cannot do its part.
    """
    plan = "collect_steps"
    settle_s = finite(plan, "settle_s", settle_s, 0.0, inclusive=True)
    tools = stubs.Instruments(camera, goniometer, None, stepped=True, settle_s=settle_s)
    stubs.check_tools(plan, tools)
    angles = finite_numbers(plan, "angles_deg", angles_deg)
    if not angles:
        raise ConfigError("collect_steps: angles_deg is empty, expected at least one angle")
    zoom = finite(plan, "zoom", zoom)
    uids: list[str] = []
    _md = stubs.metadata(plan, tools, {"angles_deg": angles}, md, zoom=zoom)
    yield from stubs.recorded(tools, lambda: stubs.steps(tools, angles), _md, uids)
    return uids[-1]


def center_loop(
    camera: Flyable,
    goniometer: Readable,
    result: Readable,
    *,
    aim: str = "loop",
    method: str = "sweep",
    delta_deg: float = 360.0,
    time_s: float = 4.0,
    tolerance_um: float = 10.0,
    max_passes: int = 5,
    search_step_um: float = 500.0,
    search_steps: int = 6,
    settle_s: float = 0.3,
    zoom: float = 0.0,
    md: dict[str, Any] | None = None,
) -> MsgGenerator[Centering]:
    """Put the loop into the beam, and say how well.

    Each pass is a run: light check, search for the tip if it is not in view, rotation, fit, move.
    The loop is centered when a pass after the first finds it there.

    Parameters
    ----------
    camera
        Flies (is triggered, for methods other than "sweep").
    goniometer
        With `phi`, `sample` and `oscillation`.
    result
        What the pictures tell, such as `devices.loop.rotation.RotationResult`.
    aim, method, delta_deg, time_s, tolerance_um, max_passes, search_step_um, search_steps, \
settle_s, zoom
        See `plans.loop.settings.CenteringSettings`.
    md
        Metadata for the start documents.

    Returns
    -------
    Centering
        Not `ok` when the loop was found but not brought, or not seen, within the tolerance.

    Raises
    ------
    ConfigError
        If a parameter makes no sense, the camera is not calibrated, or the limits of phi leave no
        room for the sweeps in either direction; before anything moves.
    TypeError
        If a device cannot do its part; before anything moves.
    SampleError
        If there is no pin, no loop, or the tip cannot be brought into view.
    HardwareError
        If light, camera, motors or analysis fail, or a stage would leave its limits.
    """
    values: dict[str, Any] = {
        "aim": aim,
        "method": method,
        "delta_deg": delta_deg,
        "time_s": time_s,
        "tolerance_um": tolerance_um,
        "max_passes": max_passes,
        "search_step_um": search_step_um,
        "search_steps": search_steps,
        "settle_s": settle_s,
        "zoom": zoom,
    }
    try:
        settings = CenteringSettings(**values)
    except ValidationError as error:
        raise ConfigError(f"center_loop: {first_problem(error)}") from error
    stepped = settings.method != "sweep"
    tools = stubs.Instruments(camera, goniometer, result, stepped, settings.settle_s)
    stubs.check_tools("center_loop", tools)
    yield from stubs.check_mounting("center_loop", goniometer)
    if hasattr(result, "calibration"):
        result.calibration.check_value(settings.zoom)
    if not stepped:
        here = yield from stubs.position(tools.goniometer.phi)
        first = stubs.fitting("center_loop", tools, _turn(settings, 1), here)
        stubs.fitting("center_loop", tools, _turn(settings, 2), here + first.delta_deg)
    course = _Course(settings)
    identity = str(uuid.uuid4())
    for number in range(1, settings.max_passes + 1):
        centering = {"uid": identity, "pass": number, "aim": settings.aim}
        _md = stubs.metadata(
            "center_loop", tools, asdict(settings), md, zoom=settings.zoom, centering=centering
        )

        def body(number: int = number) -> MsgGenerator[bool]:
            return (yield from _one_pass(tools, course, number))

        turn = None if stepped else (yield from _directed(tools, settings, number))
        try:
            over = yield from stubs.recorded(tools, body, _md, course.uids, turn)
        except NotCenteredError as error:
            return _outcome(course, str(error))
        if over:
            return _outcome(course, "")
    raise AssertionError("the last pass ends or raises")  # pragma: no cover


def _one_pass(tools: stubs.Instruments, course: _Course, number: int) -> MsgGenerator[bool]:
    """Look, rotate, decide, move; return whether the loop is centered.

    Raises
    ------
    NotCenteredError
        In the last pass, if it is not.
    """
    settings = course.settings
    name = f"pass {number} of at most {settings.max_passes}"
    if number == 1 or not (course.verdict and course.verdict.known):
        step_log.info("%s: looking for the tip", name)
        yield from _find_tip(tools, course)
    step_log.info("%s: taking pictures while the spindle turns", name)
    yield from _rotate(tools, settings, number)
    yield from stubs.end_pictures(tools)
    found = yield from stubs.read_result(tools)
    verdict = course.steady(judge(found, settings.aim))
    course.found = found
    course.compare(verdict)
    step_log.info("%s: %s", name, _describe_verdict(verdict))
    if course.receded >= RECEDED:
        yield from _give_up_moving(tools, course, verdict)
    tolerance, last = settings.tolerance_um, number == settings.max_passes
    sure = verdict.known and verdict.is_sure(tolerance)
    there = sure and verdict.is_close(tolerance)
    if number > 1 and (there or (sure and last)) and not course.agreements_wanted:
        step_log.info("centered after %d passes", number)
        return True
    if last:
        if not course.once_known:
            raise SampleError(f"the center cannot be known: {verdict.why}")
        raise NotCenteredError(_why_not(course, verdict, number))
    # What is seen coarsely is no reason to leave a place that a pass has known.
    if (verdict.known and not there) or (verdict.coarse and not course.once_known):
        yield from _move(tools, course, [-value for value in verdict.offset_um])
    return False


def _give_up_moving(
    tools: stubs.Instruments, course: _Course, verdict: Verdict
) -> MsgGenerator[None]:
    """Put the sample back across the spindle, and raise: further moves would lead it away."""
    _, y, z = course.moved_um
    yield from _move(tools, course, [0.0, -float(y), -float(z)])
    raise HardwareError(
        f"each of the last {RECEDED} moves took the loop farther from the spindle, to "
        f"{verdict.residual_um:.0f} um; it is back where it was. The delay of the camera, the "
        "sense of phi or the directions of the stages differ from the configured ones: "
        "calibrate_camera measures the delay and tells of the stages"
    )


def _describe_verdict(verdict: Verdict) -> str:
    """Return in one line where a pass has found the loop."""
    if not verdict.known:
        return f"the center is not known: {verdict.why}"
    return (
        f"the loop is {verdict.residual_um:.1f} um (+- {verdict.sigma_um:.1f}) from the spindle, "
        f"{verdict.offset_um[0]:.1f} um along it from the beam"
    )


def _why_not(course: _Course, verdict: Verdict, number: int) -> str:
    settings = course.settings
    if not verdict.known:
        return f"the center is not known after {number} passes: {verdict.why}"
    if course.agreements_wanted and verdict.is_there(settings.tolerance_um):
        return (
            f"the passes contradict each other: after a move the loop was seen "
            f"{course.disagreed_um:.0f} um from where it should be; more passes may tell"
        )
    return (
        f"after {number} passes the loop is {verdict.residual_um:.1f} um (+- "
        f"{verdict.sigma_um:.1f}) from the spindle and {verdict.offset_um[0]:.1f} um (+- "
        f"{verdict.along_sigma_um:.1f}) along it from the beam; {settings.tolerance_um:g} um are "
        "wanted"
    )


def _turn(settings: CenteringSettings, number: int) -> Sweep:
    """Return the turn of a pass."""
    part = (1.0 if number % 2 else -1.0) * (0.5 if number == 1 else 1.0)
    return Sweep(part * settings.delta_deg, abs(part) * settings.time_s)


def _directed(
    tools: stubs.Instruments, settings: CenteringSettings, number: int
) -> MsgGenerator[Sweep]:
    """Return the turn of a pass from where the spindle is, in a direction that phi allows."""
    here = yield from stubs.position(tools.goniometer.phi)
    return stubs.fitting("center_loop", tools, _turn(settings, number), here)


def _rotate(
    tools: stubs.Instruments, settings: CenteringSettings, number: int
) -> MsgGenerator[None]:
    """Take the pictures of a pass; every other one turns back, if phi can."""
    if settings.method == "sweep":
        turn = yield from _directed(tools, settings, number)
        yield from stubs.sweep(tools, turn)
        return
    turn = _turn(settings, number)
    here = yield from stubs.position(tools.goniometer.phi)
    if settings.method == "two_angles":
        # The verifying pass looks from other sides than the one that it verifies.
        shift = 0.0 if number % 2 else 45.0
        angles = [here + shift + view for view in VIEWS_DEG]
    else:
        angles = [here + turn.delta_deg * i / STEPS for i in range(STEPS)]
    yield from stubs.steps(tools, angles)


# ---- finding the tip


def _find_tip(tools: stubs.Instruments, course: _Course) -> MsgGenerator[None]:
    """Bring the tip into view, along the spindle.

    Raises
    ------
    HardwareError
        If there is no light.
    SampleError
        If it cannot be brought into view, or there is nothing.
    """
    settings = course.settings
    while True:
        found = yield from stubs.measure_once(tools)
        check_light(found)
        if _is_blank(found):
            found = (yield from _turn_until_seen(tools)) or found
        if found.last.tip_in_view:
            return
        if _is_blank(found):
            what, way = "nothing is seen, from four sides", 1.0
        elif found.last.sign == "+":
            what, way = "the mount reaches past the far border", -1.0
        else:
            what, way = "only its base is seen", 1.0
        if course.searched >= settings.search_steps:
            moved = f"after {course.searched} steps of {settings.search_step_um:g} um"
            if _is_blank(found):
                raise SampleError(f"no pin: {what} {moved}; is a sample mounted?")
            raise SampleError(f"tip not in view {found.last.sign}: {what} {moved}")
        course.searched += 1
        step_log.info(
            "tip not in view: %s; moving by %g um along the spindle, step %d of at most %d",
            what,
            way * settings.search_step_um,
            course.searched,
            settings.search_steps,
        )
        yield from _move(tools, course, [way * settings.search_step_um, 0.0, 0.0])


def _is_blank(found: RotationValues) -> bool:
    """Say whether nothing is seen, not even the base of a mount at the pin's side."""
    return found.last.kind == "none" and found.last.sign != "-"


def _turn_until_seen(tools: stubs.Instruments) -> MsgGenerator[RotationValues | None]:
    """Turn in steps of 90 deg until something is seen; return what, or None."""
    step_log.info("nothing is seen; turning the spindle to look from the other sides")
    for _ in range(3):
        yield from _turn_a_quarter(tools)
        found = yield from stubs.measure_once(tools)
        check_light(found)
        if not _is_blank(found):
            return found
    yield from _turn_a_quarter(tools)
    return None


def _turn_a_quarter(tools: stubs.Instruments) -> MsgGenerator[None]:
    """Turn by 90 deg, or where a limit of phi is in the way by 270 deg back: to the same view."""
    phi = tools.goniometer.phi
    target = (yield from stubs.position(phi)) + 90.0
    try:
        check_limits("center_loop", phi, target)
    except ConfigError:
        target -= 360.0
    yield from bps.mv(phi, target)


def _move(
    tools: stubs.Instruments, course: _Course, shift_um: Sequence[float]
) -> MsgGenerator[None]:
    """Move the sample by an offset in the goniometer frame, to a place: made twice, it is the same.

    Raises
    ------
    HardwareError
        If a stage cannot go there.
    """
    here = yield from stubs.place(tools)
    yield from bps.checkpoint()
    target = tuple(np.add(here, shift_um).tolist())
    step_log.info("moving the sample to %s um", ", ".join(f"{value:.1f}" for value in target))
    yield from bps.abs_set(tools.goniometer.sample, target, wait=True)
    course.moved_um = course.moved_um + np.asarray(shift_um)


def _outcome(course: _Course, why: str) -> Centering:
    found, verdict = course.found, course.verdict
    assert found is not None
    assert verdict is not None
    return Centering(
        ok=not why,
        why=why,
        offset_um=verdict.offset_um,
        residual_um=verdict.residual_um,
        sigma_um=verdict.sigma_um,
        along_sigma_um=verdict.along_sigma_um,
        moved_um=tuple(course.moved_um.tolist()),
        kind=found.kind,
        face_on_deg=found.face_on,
        face_sigma_deg=found.face_sigma,
        width_um=found.width,
        thickness_um=found.thickness,
        length_um=found.length,
        passes=len(course.uids),
        uids=tuple(course.uids),
    )
