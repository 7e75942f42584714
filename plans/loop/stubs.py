"""Steps of the plans that center a loop: runs, measurements, a sweep, stages, clean-up.

The camera flies, or is stepped, in the stream ``primary``; the trace of the spindle is the stream
``oscillation``; what a decision was based on is an event in ``decision``.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import (
    Checkable,
    Collectable,
    Flyable,
    Movable,
    Preparable,
    Readable,
    Triggerable,
)
from bluesky.utils import FailedStatus, MsgGenerator, short_uid

from plans.checks import Needs, check_devices, check_limits, described
from plans.run_stubs import (
    PRIMARY,
    Body,
    collect_new_rows,
    in_run,
    start_metadata,
    trigger_and_read,
    with_device_errors,
)
from skywright.callbacks.pace import DECISION_LIMIT
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.instruments.loop.rotation_values import FLAT_NAMES, RotationValues
from skywright.instruments.loop.sweep import Sweep

COLLECT_S, LAST_COLLECT_S = 0.25, 0.1
"""Time between two reports of a camera that flies, s: while the spindle turns, and at its end."""
POLL_S = 0.02
FRESH_S = 5.0
"""Longest time to wait for a new picture; the camera says sooner why there is none."""
SETTLE_MIN_S = 0.3
"""A picture whose time stamp is later than a move by this shows the sample after the move, even if
the delay of the camera is not known yet: video servers are 0.06 to 0.3 s late."""
LATE_S = 15.0
"""Longest time to wait, while pictures come, for one that was taken after the last move."""
DECISION_LIMIT_S = 1.5
"""Work of the analysis that may wait before a decision, s. The batch under way and the fit come on
top: a decision waits for less than 2 s."""
OSCILLATION, DECISION = "oscillation", "decision"


@dataclass(frozen=True)
class Instruments:
    """The devices that a plan works with, and how it takes pictures.

    Parameters
    ----------
    camera
        Flies (and is triggered, with `stepped`).
    goniometer
        Its parts: `phi` and `sample` (x, y, z in um) are set; `oscillation`, without `stepped`, is
        prepared with a `skywright.instruments.loop.sweep.Sweep` and flies.
    result
        Triggered to wait for the analysis of the pictures so far, then read.
    stepped
        Pictures are taken one by one, the spindle at rest.
    settle_s
        Rest before a picture is looked at: its time stamp is later than the last move by this, or
        by the delay of the camera if that is longer. Of one that is triggered it must cover the
        delay.
    """

    camera: Any
    goniometer: Any
    result: Any
    stepped: bool = False
    settle_s: float = 0.3


GONIOMETER = Needs("goniometer", parts={"phi": (Movable,), "sample": (Movable,)})
ROTATION = Needs("result of a rotation", (Readable, Triggerable), readings=FLAT_NAMES)


def check_tools(plan: str, tools: Instruments, result: Needs = ROTATION) -> None:
    """Refuse devices that cannot do their part in a plan, see `plans.checks.check_devices`."""
    camera = Needs("camera", (Readable if tools.stepped else Flyable, Collectable))
    oscillation = {} if tools.stepped else {"oscillation": (Preparable, Flyable, Collectable)}
    goniometer = GONIOMETER.with_parts(**oscillation)
    given = {"camera": (tools.camera, camera), "goniometer": (tools.goniometer, goniometer)}
    if tools.result is not None:
        given["result"] = tools.result, result
    check_devices(plan, **given)


def check_mounting(plan: str, goniometer: Any) -> MsgGenerator[None]:
    """Refuse stages under the spindle.

    They move the spindle axis together with the sample, so they cannot bring the sample onto it.
    """
    mounting = getattr(goniometer, "mounting", None)
    if mounting is not None and (yield from bps.rd(mounting)) == "table":
        raise ConfigError(
            f'{plan}: the stages of {goniometer.name} are under its spindle (mounting = "table"): '
            "they move the axis with the sample, and cannot bring a loop onto it. It takes stages "
            "on the spindle; collect_oscillation, collect_steps, rotate_to_face_on and moves of "
            f"{goniometer.name}.sample work with these too"
        )


def metadata(
    plan: str,
    tools: Instruments,
    arguments: Mapping[str, Any],
    md: Mapping[str, Any] | None,
    **more: Any,
) -> dict[str, Any]:
    """Return the start document's metadata; what the user gives wins, then `more`."""
    gonio, given = tools.goniometer, dict[str, Any]()
    if tools.stepped:
        given["angle_key"] = gonio.phi.name
    if tools.stepped and tools.result is not None:
        # Without a result nothing moves the sample; stages under the spindle turn its coordinates.
        given["place_keys"] = [getattr(gonio.sample, axis).name for axis in "xyz"]
    if tools.result is not None:
        given[DECISION_LIMIT] = DECISION_LIMIT_S
    devices = {"camera": tools.camera, "goniometer": gonio, "result": tools.result}
    return start_metadata(plan, devices, arguments, md, **given | more)


# ---- runs


def recorded(
    tools: Instruments,
    body: Body,
    md: Mapping[str, Any],
    uids: list[str],
    turn: Sweep | None = None,
) -> Any:
    """Run `body` in a run with the camera on; leave everything stopped, whatever happens.

    `turn` is the first sweep of the run: its angle, time and run-up are those in the descriptor.
    """
    gonio, camera = tools.goniometer, tools.camera

    def inside() -> MsgGenerator[Any]:
        if tools.result is not None:
            _check_pixels(tools)
        if not tools.stepped:
            yield from bps.declare_stream(camera, name=PRIMARY, collect=True)
            if turn is not None:
                first = yield from _with_start(tools, turn)
                yield from bps.prepare(gonio.oscillation, first, wait=True)
            yield from bps.declare_stream(gonio.oscillation, name=OSCILLATION, collect=True)
            yield from bps.checkpoint()
            yield from bps.kickoff(camera, wait=True)
        return (yield from body())

    flyers = [] if tools.stepped else [gonio.oscillation]
    staged = bpp.stage_wrapper(in_run(inside, md, uids), [camera, *flyers])
    moving = *flyers, gonio.sample, gonio.phi
    return (yield from stopped_on_error(with_device_errors(staged), *moving))


def _check_pixels(tools: Instruments) -> None:
    """Raise `ConfigError` if the pixel type is not uint8. The camera must be staged."""
    name = tools.camera.name
    keys = described(tools.camera, collected=not tools.stepped) or {}
    picture = keys.get(f"{name}_image", {})
    dtype = np.dtype(picture.get("dtype_numpy", "|u1"))
    if dtype != np.uint8:
        raise ConfigError(
            f"{name}: its pictures are of type {dtype}, the detection of loops takes uint8; set "
            "the camera to 8 bits (DataType UInt8)"
        )


def stopped_on_error(plan: MsgGenerator[Any], *moving: Any) -> MsgGenerator[Any]:
    """Stop what moves when a plan ends by an error, an abort or a stop."""

    def stop(_: Exception) -> MsgGenerator[None]:
        for part in moving:
            yield from bps.stop(part)

    return (yield from bpp.contingency_wrapper(plan, except_plan=stop))


# ---- pictures


def measure_once(tools: Instruments) -> MsgGenerator[RotationValues]:
    """Take a picture of the sample as it is now; return the result of all pictures so far.

    On a slow computer pictures reach the file late: the next one there may show the sample as it
    was before the last move. So this waits for a picture exposed after the move: its time stamp
    minus the delay is later than the move.
    """
    clock = getattr(tools.camera, "clock", time.time)
    moved = clock()
    yield from bps.sleep(tools.settle_s)
    if tools.stepped:
        yield from take_picture(tools)
        return (yield from read_result(tools))
    while True:
        before = tools.camera.get_index()
        for _ in range(math.ceil(FRESH_S / POLL_S)):
            if tools.camera.get_index() > before:
                break
            yield from bps.sleep(POLL_S)
            yield from collect_new_rows(tools.camera, PRIMARY)  # raises when the camera is lost
        else:
            raise HardwareError(f"{tools.camera.name}: no new picture in {FRESH_S:g} s")
        yield from collect_new_rows(tools.camera, PRIMARY)
        arrived = clock()  # the analysis may take long, in its first use above all
        found = yield from read_result(tools)
        # A delay that is NaN is not chosen: `max` keeps the first of two that do not compare
        fresh = moved + max(SETTLE_MIN_S, tools.settle_s, found.delay)
        if found.last.time >= fresh:
            return found
        if arrived > fresh + LATE_S:
            raise HardwareError(
                f"{tools.camera.name}: its newest picture is {arrived - found.last.time:.1f} s old "
                "and was taken before the last move; the computer is too slow for the pictures, or "
                "the clock of the camera's computer is behind"
            )


def read_result(tools: Instruments) -> MsgGenerator[RotationValues]:
    """Wait for the analysis of all pictures so far, record its result, and return it.

    A failed analysis raises its own error, so only that of a motor is a `FailedStatus`.
    """
    gonio, result = tools.goniometer, tools.result
    stem = f"{result.name}_"
    devices = [result, gonio.phi, gonio.sample]
    reading = yield from with_device_errors(
        trigger_and_read(devices, stem + FLAT_NAMES[0], DECISION)
    )
    return RotationValues.of(
        {key.removeprefix(stem): reading[key]["value"] for key in reading if key.startswith(stem)}
    )


def take_picture(tools: Instruments) -> MsgGenerator[None]:
    """Take one picture, the spindle at rest."""
    gonio = tools.goniometer
    yield from bps.trigger_and_read([tools.camera, gonio.phi, gonio.sample], name=PRIMARY)


def sweep(tools: Instruments, turn: Sweep) -> MsgGenerator[None]:
    """Turn the spindle while the camera flies; collect its trace before the last pictures.

    A pause in the middle repeats the whole sweep: what the engine stops for a pause, motors and the
    sweep, ends without an error. In the catalog, the pictures of the repeated sweep replace those
    of the one that was cut off. No pause repeats a sweep whose trace is collected.
    """
    gonio, camera = tools.goniometer, tools.camera
    turn = yield from _with_start(tools, turn)
    yield from bps.checkpoint()
    # The engine stops what it has set when it pauses; so the spindle is set first.
    yield from bps.mv(gonio.phi, turn.start_deg)
    yield from bps.prepare(gonio.oscillation, turn, wait=True)
    yield from bps.kickoff(gonio.oscillation, wait=True)
    reports = math.ceil(turn.time_s / COLLECT_S)
    for _ in range(reports):
        yield from bps.sleep(turn.time_s / reports)
        # Not `collect_new_rows`, also in `_come_to_rest`: the engine would go back to here after a
        # pause, and not to the start of the sweep, which the pause has ended.
        yield from bps.collect(camera, name=PRIMARY)
    yield from _come_to_rest(tools)
    yield from collect_new_rows(gonio.oscillation, OSCILLATION)
    yield from bps.checkpoint()


def _with_start(tools: Instruments, turn: Sweep) -> MsgGenerator[Sweep]:
    """Return a sweep that starts where the spindle is, unless it has a start."""
    if turn.start_deg is not None:
        return turn
    return replace(turn, start_deg=(yield from position(tools.goniometer.phi)))


def fitting(plan: str, tools: Instruments, turn: Sweep, start_deg: float) -> Sweep:
    """Return a sweep from an angle, in the other direction if the limits of phi want that.

    Raises
    ------
    ConfigError
        If they allow neither direction; it says what is in the way of the first one.
    """
    flyer, refusals = tools.goniometer.oscillation, []
    for way in (turn, replace(turn, delta_deg=-turn.delta_deg)):
        try:
            check_limits(plan, tools.goniometer.phi, start_deg, start_deg + way.delta_deg)
            if isinstance(flyer, Checkable):
                flyer.check_value(replace(way, start_deg=start_deg))
        except (ConfigError, HardwareError) as error:
            refusals.append(error)
        else:
            return way
    why = str(refusals[0]).removeprefix(f"{plan}: ")
    raise ConfigError(
        f"{plan}: phi at {start_deg:g} deg can turn by {abs(turn.delta_deg):g} deg in neither "
        f"direction: {why}; move phi, or take a smaller delta_deg"
    ) from refusals[0]


def _come_to_rest(tools: Instruments) -> MsgGenerator[None]:
    """Wait for the end of a sweep, and collect the documents of the pictures meanwhile.

    If the camera fails, the sweep is ended here: its failure would else be taken for the reason,
    which is why this is not bluesky's `collect_while_completing`.
    """
    gonio, group = tools.goniometer, short_uid("sweep")
    yield from bps.complete(gonio.oscillation, group=group, wait=False)
    try:
        while not (yield from bps.wait(group, timeout=LAST_COLLECT_S, error_on_timeout=False)):
            yield from bps.collect(tools.camera, name=PRIMARY)
    except SkywrightError:
        with suppress(FailedStatus):
            yield from bps.stop(gonio.oscillation)
            yield from bps.wait(group)
        raise


def steps(tools: Instruments, angles_deg: Sequence[float]) -> MsgGenerator[None]:
    """Take a picture at each angle, the spindle at rest."""
    for angle in angles_deg:
        yield from bps.checkpoint()
        yield from bps.mv(tools.goniometer.phi, float(angle))
        yield from bps.sleep(tools.settle_s)
        yield from take_picture(tools)


def end_pictures(tools: Instruments) -> MsgGenerator[None]:
    """End the flight of the camera, and collect its last pictures."""
    if not tools.stepped:
        yield from bps.complete(tools.camera, wait=True)
        yield from collect_new_rows(tools.camera, PRIMARY)


def position(motor: Any) -> MsgGenerator[float]:
    """Return where a motor is.

    Raises
    ------
    HardwareError
        If it does not know: its readback is no number.
    """
    here = float((yield from bps.rd(motor)))
    if not math.isfinite(here):
        raise HardwareError(
            f"{motor.name}: its readback is {here:g}, its position is not known; look at its "
            "encoder and its controller"
        )
    return here


def place(tools: Instruments) -> MsgGenerator[tuple[float, float, float]]:
    """Return where the sample is, um."""
    sample = tools.goniometer.sample
    x = yield from position(sample.x)
    y = yield from position(sample.y)
    z = yield from position(sample.z)
    return x, y, z
