"""Track an observing run that something else takes."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Readable
from bluesky.utils import MsgGenerator

from plans.checks import Needs, check_devices, finite, flag
from plans.run_stubs import (
    collect_for,
    collect_new_rows,
    in_run,
    start_metadata,
    until_done,
    with_device_errors,
)
from skywright.errors import HardwareError

logger = logging.getLogger(__name__)

COLLECT_S = 1.0
"""Time between two reports of new frames, s."""
END_S = 30.0
"""Longest time until all frames of a simulated run that has ended are indexed, s."""
_METHODS = ("track", "find_run", "wait_for_run", "end_track")
_STATE = ("recorded", "streams", "is_lost", "losses")
TRACKING = Needs("telescope array", parts=dict.fromkeys(_METHODS + _STATE, ())).with_parts(
    run_metadata=(Readable,)
)
OBSERVING = TRACKING.with_parts(run_simulated=(), check_no_run=(), check_run=())


def track_run(
    panoseti: Any,
    limit_s: float = 86_400.0,
    *,
    wait_for_new: bool = False,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Register every frame of an observing run, from its first one until the run ends.

    The modules of the run need slots of the IOC; frames of further modules are not registered. It
    is the newest run, also one that is over; if there is none, the first one that comes. With
    `wait_for_new` it is the run that is under way, or the next one. The run in the catalog begins
    when there is one, and has no frames of other runs. Its
    configuration files are in the start document, passwords removed. Its PFF files stay where they
    are: an index for each module and product says where each frame is. The plan ends when the run
    has ended: see `skywright.instruments.panoseti.sources.rundir.RunDirectorySource.has_ended`.

    Parameters
    ----------
    panoseti
        The modules.
    limit_s
        End after this time in any case, s.
    wait_for_new
        Wait for a run without the marker ``recording_ended`` whose files have grown in the last
        10 s, or, where Hashpipe runs, for any without that marker.
    md
        Metadata of the start document.

    Returns
    -------
    str
        The uid of the run in the catalog.

    Raises
    ------
    ConfigError
        If `limit_s` is not above 0, or `wait_for_new` is neither True nor False.
    TypeError
        If `panoseti` cannot do its part.
    HardwareError
        If the IOC does not answer or cannot write, or no run is under way within `limit_s` and
        `wait_for_new` is set.
    """
    limit_s = finite("track_run", "limit_s", limit_s, 0.0)
    wait_for_new = flag("track_run", "wait_for_new", wait_for_new)
    check_devices("track_run", panoseti=(panoseti, TRACKING))
    arguments = {"limit_s": limit_s, "wait_for_new": wait_for_new}
    start = start_metadata("track_run", {"panoseti": panoseti}, arguments, md)
    uids: list[str] = []
    end = time.monotonic() + limit_s

    def body() -> MsgGenerator[None]:
        declared: set[str] = set()

        def track() -> MsgGenerator[None]:
            yield from until_done(panoseti.track())
            yield from _follow(panoseti, declared, max(0.0, end - time.monotonic()))

        yield from bpp.finalize_wrapper(track(), lambda: _finish(panoseti, declared))

    def take() -> MsgGenerator[None]:
        found = yield from _metadata_of_run(panoseti, limit_s, wait_for_new)
        yield from in_run(body, {**found, **start}, uids)

    yield from with_device_errors(take())
    return uids[0]


def observe(
    panoseti: Any, seconds: float, *, md: Mapping[str, Any] | None = None
) -> MsgGenerator[str]:
    """Take a run with the simulated array, or of the packets of boards; register all frames.

    Parameters
    ----------
    panoseti
        The modules; their IOC has the source ``sim`` or ``sockets``.
    seconds
        Length of the run, s.
    md
        Metadata of the start document.

    Returns
    -------
    str
        The uid of the run in the catalog.

    Raises
    ------
    ConfigError
        If `seconds` is not above 0.
    TypeError
        If `panoseti` cannot do its part.
    HardwareError
        If the IOC does not answer, does not simulate, takes a run already, or cannot write.
    """
    return (yield from timed_run("observe", panoseti, seconds, md))


Step = Callable[[], Any]
"""Begins to set something; returns the status."""
Collect = Callable[[], MsgGenerator[None]]
Answer = TypeVar("Answer")


def timed_run(
    plan: str,
    panoseti: Any,
    seconds: float,
    md: Mapping[str, Any] | None,
    *,
    needs: Needs | None = None,
    changes: Sequence[tuple[str, str, float]] = (),
    **more: Any,
) -> MsgGenerator[str]:
    """Take a run of some length with the simulated array; return its uid.

    Parameters
    ----------
    plan
        Name of the plan.
    panoseti, seconds, md
        Of the plan, see `observe`.
    needs
        What the plan needs of the modules; None: what `observe` needs.
    changes
        Settings that are changed before the run and put back after it, whether it has failed or
        not: name of the reading, name of the method that sets it, value for the run.
    **more
        Further metadata of the plan; `md` overrides them.
    """
    seconds = finite(plan, "seconds", seconds, 0.0)
    check_devices(plan, panoseti=(panoseti, needs or OBSERVING))
    start = start_metadata(plan, {"panoseti": panoseti}, {"seconds": seconds}, md, **more)

    yield from with_device_errors(until_done(panoseti.check_no_run()))
    former = []
    for reading, setter, _ in changes:
        former.append((setter, (yield from bps.rd(getattr(panoseti, reading)))))

    def watch(collect: Collect) -> MsgGenerator[None]:
        return collect_for(seconds, COLLECT_S, collect)

    def take() -> MsgGenerator[str]:
        for _, setter, value in changes:
            yield from until_done(getattr(panoseti, setter)(value))
        uid, _ = yield from simulated_run(panoseti, watch, start)
        return uid

    losses = panoseti.losses

    def put_back() -> MsgGenerator[None]:
        for setter, value in reversed(former):
            step = partial(getattr(panoseti, setter), value)
            yield from cleaned_up(panoseti, losses, step)

    return (yield from bpp.finalize_wrapper(take(), put_back))


def simulated_run(
    panoseti: Any, body: Callable[[Collect], MsgGenerator[Answer]], start: Mapping[str, Any]
) -> MsgGenerator[tuple[str, Answer]]:
    """Have the IOC write a run while `body` goes on, and register every frame of it.

    Parameters
    ----------
    panoseti
        The modules; their IOC has the source ``sim``, or ``sockets``, and takes no run.
    body
        Gets a plan that reports the frames that are new.
    start
        Metadata of the start document.

    Returns
    -------
    uid, answer
        Of the run in the catalog, and what `body` returned.
    """
    uids: list[str] = []
    losses = panoseti.losses

    def run() -> MsgGenerator[Answer]:
        declared: set[str] = set()

        def take() -> MsgGenerator[Answer]:
            yield from until_done(panoseti.track())
            return (yield from body(collect))

        def collect() -> MsgGenerator[None]:
            yield from _collect(panoseti, declared)
            yield from until_done(panoseti.check_run())

        def end() -> MsgGenerator[None]:
            # An abort may come while the last frames are awaited, too
            yield from bpp.finalize_wrapper(last_frames(), lambda: _finish(panoseti, declared))
            yield from until_done(panoseti.check_run())

        def last_frames() -> MsgGenerator[None]:
            yield from end_simulated_run()
            yield from _follow(panoseti, declared, END_S)

        return (yield from bpp.finalize_wrapper(take(), end))

    def all_of_it() -> MsgGenerator[Answer]:
        # First the run, then the tracking: that begins with the newest run.
        yield from until_done(panoseti.run_simulated(True))
        found = yield from _metadata_of_run(panoseti, END_S)
        return (yield from in_run(run, {**found, **start}, uids))

    def end_simulated_run() -> MsgGenerator[None]:
        yield from cleaned_up(panoseti, losses, partial(panoseti.run_simulated, False))

    def give_up(error: Exception) -> MsgGenerator[None]:
        if not uids:  # else `end` has done it
            yield from end_simulated_run()

    whole = bpp.contingency_wrapper(all_of_it(), except_plan=give_up)
    answer = yield from with_device_errors(whole)
    return uids[0], answer


def cleaned_up(panoseti: Any, losses: int, step: Step) -> MsgGenerator[None]:
    """Set something at the end of a plan, whether the IOC was lost in it or not.

    One that hung for a while has what the plan set: a closed shutter, a run that goes on. If one
    that was lost does not take it, the log has the reason, and the error that ended the plan stays.

    Parameters
    ----------
    panoseti
        The modules.
    losses
        Its `losses` at the beginning of the plan.
    step
        Begins to set it; returns the status.

    Raises
    ------
    HardwareError
        If it cannot be set although the IOC was not lost.
    """
    try:
        yield from until_done(step())
    except HardwareError as error:
        if panoseti.losses == losses:
            raise
        logger.warning("not put back after the IOC was lost: %s", error)


def _metadata_of_run(
    panoseti: Any, limit_s: float, wait_for_new: bool = False
) -> MsgGenerator[dict[str, Any]]:
    """Wait until there is a run; return its name and configuration for the start document."""
    yield from until_done(panoseti.find_run(limit_s, wait_for_new))
    found: dict[str, Any] = json.loads((yield from bps.rd(panoseti.run_metadata)))
    return found


def _follow(panoseti: Any, declared: set[str], limit_s: float) -> MsgGenerator[None]:
    """Report frames until the run has ended."""
    ended = panoseti.wait_for_run(limit_s)
    while not ended.done:
        yield from bps.checkpoint()
        yield from bps.sleep(COLLECT_S)
        yield from _collect(panoseti, declared)
    yield from until_done(ended)  # raises what the wait has failed with


def _finish(panoseti: Any, declared: set[str]) -> MsgGenerator[None]:
    """Close the indexes and report the last frames."""
    yield from until_done(panoseti.end_track())
    yield from _collect(panoseti, declared)


def _collect(panoseti: Any, declared: set[str]) -> MsgGenerator[None]:
    """Report the frames that are new; a stream is declared with its first one."""
    for key in panoseti.recorded():
        stream = panoseti.streams[key]
        if key not in declared:
            if panoseti.is_lost:  # the configuration that a declaration reads is gone
                continue
            yield from bps.declare_stream(stream, name=key, collect=True)
            declared.add(key)
        yield from collect_new_rows(stream, key)
