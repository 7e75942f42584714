"""Plan stubs: metadata, staged runs, collection of rows, errors of devices."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.utils import FailedStatus, Msg, MsgGenerator, RunEngineControlException

from skywright.errors import ConfigError, HardwareError, SkywrightError, message_of

Body = Callable[[], MsgGenerator[Any]]

PRIMARY = "primary"
"""Name of the main event stream."""
COLLECT_S = 0.25
"""Time between two collections of the rows of a flyer, s."""

step_log = logging.getLogger("skywright.plans")
"""Logger of one line per step of a plan, at level INFO; the session prints them."""


def start_metadata(
    plan: str,
    devices: Mapping[str, Any],
    arguments: Mapping[str, Any],
    md: Mapping[str, Any] | None,
    **more: Any,
) -> dict[str, Any]:
    """Return the metadata of a start document.

    Parameters
    ----------
    plan
        Name of the plan.
    devices
        Devices by the name of the plan's argument; the first one is the detector, ``motor`` is the
        scanned motor, None: not given.
    arguments
        Other arguments of the plan; numbers of numpy become plain ones.
    md
        User metadata; overrides the other keys.
    **more
        Further keys of the plan.

    Raises
    ------
    ConfigError
        If `md` is no dictionary.
    """
    given = {role: device for role, device in devices.items() if device is not None}
    detector, motor = next(iter(given.values())), given.get("motor")
    plain = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in arguments.items()
    }
    assets = getattr(detector, "assets", None)
    return {
        "plan_name": plan,
        "plan_args": {**{role: device.name for role, device in given.items()}, **plain},
        "detectors": [detector.name],
        **(_scanned(motor) if motor is not None else {}),
        **({"assets": str(assets)} if assets is not None else {}),
        **more,
        **user_metadata(plan, md),
    }


def user_metadata(plan: str, md: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the metadata that a plan was given, empty if none.

    Raises
    ------
    ConfigError
        If they are no dictionary.
    """
    if md is None:
        return {}
    if not isinstance(md, Mapping):
        raise ConfigError(f"{plan}: md = {md!r}, expected a dictionary, e.g. {{'sample': 'NAME'}}")
    return md


def _scanned(motor: Any) -> dict[str, Any]:
    """Return the metadata of bluesky's own scans for a motor, which becomes the axis of plots."""
    fields = list(getattr(motor, "hints", {}).get("fields") or [motor.name])
    return {"motors": [motor.name], "hints": {"dimensions": [[fields, PRIMARY]]}}


def staged_run(device: Any, body: Body, md: Mapping[str, Any]) -> MsgGenerator[tuple[str, Any]]:
    """Run `body` in a run with a device staged.

    Parameters
    ----------
    device
        The detector.
    body
        Function without arguments that returns the inner plan.
    md
        Metadata of the start document.

    Returns
    -------
    uid, result
        Uid of the run, and the return value of `body`.

    Raises
    ------
    SkywrightError
        The error of the device, if it failed.
    """
    uids: list[str] = []

    @bpp.stage_decorator([device])
    def staged() -> MsgGenerator[Any]:
        return (yield from in_run(body, md, uids))

    result = yield from with_device_errors(staged())
    return uids[-1], result


def in_run(
    body: Body, md: Mapping[str, Any], uids: list[str], run_key: str | None = None
) -> MsgGenerator[Any]:
    """Run `body` in a run and return its result.

    If it fails, the error message is the reason in the stop document.

    Parameters
    ----------
    body
        Function that returns the inner plan. It may open further runs, each with its own key.
    md
        Metadata of the start document.
    uids
        The uid of the run is appended.
    run_key
        Of the run, if others are open at the same time.
    """
    run = _run(body, md, uids)
    if run_key is not None:
        run = bpp.set_run_key_wrapper(run, run_key)
    return (yield from run)


def _run(body: Body, md: Mapping[str, Any], uids: list[str]) -> MsgGenerator[Any]:
    uids.append((yield from bps.open_run(dict(md))))

    # After a pause the engine repeats the messages since the last checkpoint. A pause in a cleanup
    # must not repeat those of the run, which is closed then. After an error the checkpoint comes
    # last, because the engine refuses it while an event is open.
    def close_after(error: Exception) -> MsgGenerator[None]:
        if isinstance(error, RunEngineControlException):
            yield from bps.close_run(exit_status=getattr(error, "exit_status", "abort"))
        else:
            yield from bps.close_run(exit_status="fail", reason=message_of(error))
            yield from bps.checkpoint()

    def close() -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.close_run()

    plan = with_device_errors(body())
    return (yield from bpp.contingency_wrapper(plan, except_plan=close_after, else_plan=close))


def trigger_and_read(
    devices: Sequence[Any], needed: str, name: str = PRIMARY
) -> MsgGenerator[dict[str, Any]]:
    """Make an event of devices and return its readings.

    If a pause interrupts a reading, the engine reads again for the event, but bluesky's stub does
    not return that reading. So the first device is read once more if its reading is missing.

    Parameters
    ----------
    devices
        The devices.
    needed
        A data key of the first device, by which a missing reading is noticed.
    name
        Name of the event stream.
    """
    reading = dict((yield from bps.trigger_and_read(devices, name=name)))
    if needed not in reading:
        reading |= yield from bps.read(devices[0])
    return reading


def collect_new_rows(stream: Any, name: str) -> MsgGenerator[None]:
    """Collect the new rows of a stream; no pause or suspension repeats this.

    If it were repeated, the engine would give the same seq_nums to later rows, which would replace
    the rows collected before in the catalog. As after a checkpoint, the messages before it are not
    repeated either.

    Parameters
    ----------
    stream
        The flyer that has the rows.
    name
        Name of the event stream.
    """
    if (yield Msg("rewindable", None, None)) is False:
        yield from bps.collect(stream, name=name)
        return

    # `bluesky.preprocessors.rewindable_wrapper` leaves the engine unable to repeat anything, in all
    # later plans too, when the plan is aborted between its messages.
    def collect_unrepeated() -> MsgGenerator[None]:
        yield Msg("rewindable", None, False)
        yield from bps.collect(stream, name=name)

    yield from bpp.finalize_wrapper(collect_unrepeated(), make_rewindable)


def declare_streams(streams: Mapping[str, Any]) -> MsgGenerator[None]:
    """Declare the streams of a run: devices whose rows are collected, by name of the stream."""
    for name, stream in streams.items():
        yield from bps.declare_stream(stream, name=name, collect=True)


def collect_streams(streams: Mapping[str, Any]) -> MsgGenerator[None]:
    """Collect the new rows of each stream, as `collect_new_rows` does, of all its files.

    A stream with rows of a further file has `has_more`, see `devices.file_stream.FileStream`.
    """
    for name, stream in streams.items():
        yield from collect_new_rows(stream, name)
        while getattr(stream, "has_more", False):
            yield from collect_new_rows(stream, name)


def make_rewindable() -> MsgGenerator[None]:
    """Let the engine go back to the last checkpoint after a pause."""
    yield Msg("rewindable", None, True)


def begin_rewindable(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Run a plan with an engine that is rewindable; a preprocessor of the engine.

    A plan that was halted may have left it not rewindable. A resume would then skip the message
    that a pause has cut off, such as the wait for the end of an exposure, and the event would have
    the values from before the exposure.
    """

    def rewindable() -> MsgGenerator[Any]:
        yield from make_rewindable()
        return (yield from plan)

    # Not a generator function, so that a session does not take it for a plan.
    return rewindable()


def collect_for(
    seconds: float, period_s: float, collect: Callable[[], MsgGenerator[None]]
) -> MsgGenerator[None]:
    """Collect rows about every `period_s`, the last time when `seconds` have passed.

    The time of collecting and of pauses counts, because the recording goes on meanwhile.

    Parameters
    ----------
    seconds
        Duration, s.
    period_s
        Longest time between two collections, s; one that takes longer delays the next one.
    collect
        The plan that collects, by `collect_new_rows`.
    """
    count = math.ceil(seconds / period_s)
    begin = time.monotonic()
    for number in range(1, count + 1):
        yield from bps.checkpoint()
        yield from bps.sleep(max(0.0, begin + seconds * number / count - time.monotonic()))
        yield from collect()
        if time.monotonic() - begin >= seconds:
            return


def fly(
    flyer: Any, streams: Mapping[str, Any], rows: int = 0, seconds: float = 0.0
) -> MsgGenerator[None]:
    """Record the rows of a flyer, and collect them about every `COLLECT_S`.

    Rows come in a pause too; they are collected after it.

    Parameters
    ----------
    flyer
        The flyer; its `get_index` returns the number of its rows.
    streams
        As for `collect_streams`.
    rows, seconds
        Least number of rows, and least duration, s.
    """
    yield from bps.kickoff(flyer, wait=True)
    yield from collect_for(seconds, COLLECT_S, lambda: collect_streams(streams))
    while flyer.get_index() < rows:
        yield from collect_for(COLLECT_S, COLLECT_S, lambda: collect_streams(streams))
    yield from bps.complete(flyer, wait=True)
    yield from collect_streams(streams)


def with_device_errors(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Replace bluesky's `FailedStatus` by the error of the device.

    Raises
    ------
    SkywrightError
        Instead of bluesky's `FailedStatus`.
    """
    try:
        return (yield from plan)
    except FailedStatus as failed:
        cause = failed.__cause__
        if isinstance(cause, SkywrightError):
            raise cause from failed
        raise HardwareError(message_of(cause or failed)) from failed


def until_done(status: Any) -> MsgGenerator[None]:
    """Wait for a status.

    Parameters
    ----------
    status
        Status of an operation that was started before.

    Raises
    ------
    Exception
        What the status failed with.
    """

    def finished() -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not future.done():  # cancelled by a pause
                future.set_result(None)

        status.add_callback(lambda _: loop.call_soon_threadsafe(finish))
        return future

    yield from bps.wait_for([finished])
    error = status.exception(timeout=0)
    if error is not None:
        raise error


def with_restored(plan: MsgGenerator[Any], settings: Sequence[Any]) -> MsgGenerator[Any]:
    """Run a plan; in any case set `settings` (Movable, Readable) back to their values before.

    The last one is set first, and each of them even if another cannot be set.
    """
    for setting in reversed(settings):
        plan = _with_one_restored(plan, setting)
    return (yield from plan)


def _with_one_restored(plan: MsgGenerator[Any], setting: Any) -> MsgGenerator[Any]:
    before = yield from bps.rd(setting)

    def put_back() -> MsgGenerator[None]:
        yield from bps.abs_set(setting, before, wait=True)

    return (yield from bpp.finalize_wrapper(plan, put_back))
