"""Plans of the beam position monitor."""

from typing import Any

import bluesky.plan_stubs as bps
from bluesky.protocols import Flyable
from bluesky.utils import MsgGenerator
from skywright.plans.checks import finite
from skywright.plans.run_stubs import collect_for, collect_new_rows, staged_run, start_metadata

COLLECT_S = 0.25


def record_position(
    bpm: Flyable, seconds: float, *, md: dict[str, Any] | None = None
) -> MsgGenerator[str]:
    """Record every sample of the monitor for some time.

    Parameters
    ----------
    bpm
        A detector that flies.
    seconds
        Duration, above 0.
    md
        Metadata for the start document.

    Returns
    -------
    str
        The uid of the run.
    """
    seconds = finite("record_position", "seconds", seconds, 0.0)

    def body() -> MsgGenerator[None]:
        yield from bps.declare_stream(bpm, name="primary", collect=True)
        yield from bps.kickoff(bpm, wait=True)
        # The monitor records in a pause too; these samples are collected after it
        yield from collect_for(seconds, COLLECT_S, lambda: collect_new_rows(bpm, "primary"))
        yield from bps.complete(bpm, wait=True)
        yield from collect_new_rows(bpm, "primary")

    _md = start_metadata("record_position", {"bpm": bpm}, {"seconds": seconds}, md)
    uid, _ = yield from staged_run(bpm, body, _md)
    return uid
