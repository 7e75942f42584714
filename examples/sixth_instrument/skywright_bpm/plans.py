"""Plans of the beam position monitor."""

import math
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable
from bluesky.utils import MsgGenerator

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
    if not seconds > 0:
        raise ValueError(f"record_position: seconds = {seconds!r}, expected more than 0")
    about = {"plan_name": "record_position", "plan_args": {"bpm": bpm.name, "seconds": seconds}}
    periods = math.ceil(seconds / COLLECT_S)

    @bpp.stage_decorator([bpm])
    @bpp.run_decorator(md={**about, "detectors": [bpm.name], **(md or {})})
    def inner() -> MsgGenerator[None]:
        yield from bps.declare_stream(bpm, name="primary", collect=True)
        yield from bps.kickoff(bpm, wait=True)
        for _ in range(periods):
            yield from bps.checkpoint()
            yield from bps.sleep(seconds / periods)
            yield from bps.collect(bpm, name="primary")
        yield from bps.complete(bpm, wait=True)
        yield from bps.collect(bpm, name="primary")

    return (yield from inner())
