"""Plans of the beam position monitor."""

from typing import Any

from bluesky.protocols import Flyable
from bluesky.utils import MsgGenerator
from skywright.plans.checks import finite
from skywright.plans.run_stubs import declare_streams, fly, staged_run, start_metadata


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
        streams = {"primary": bpm}
        yield from declare_streams(streams)
        yield from fly(bpm, streams, seconds=seconds)

    _md = start_metadata("record_position", {"bpm": bpm}, {"seconds": seconds}, md)
    uid, _ = yield from staged_run(bpm, body, _md)
    return uid
