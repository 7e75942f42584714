"""Sources of shots: recorded files, the simulated beamline, and SACLA's online data."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from skywright.acquire.source import Source
from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.run_info import RunInfo

STOP_LIMIT_S = 5.0
"""Timeout of a stop, s: the record that is delivered may wait for workers, which start slowly."""
POLL_S = 0.1
"""Time between two looks at whether a source has ended, s."""


class ShotSource(Source[Record[Any]], Protocol):
    """Yields records of all channels, in order of their arrival.

    The payload of a detector's record is its frame: an array (rows, columns) float32 in ADU, or a
    `StoredFrame`. That of a point detector is a float, NaN if there is no value.
    """

    @property
    def info(self) -> RunInfo:
        """The run."""

    @property
    def is_running(self) -> bool:
        """Whether more records may come."""

    @property
    def trouble(self) -> str:
        """What does not work now; empty if everything does."""


def take_records(
    source: ShotSource,
    take: Callable[[Record[Any]], bool],
    report: Callable[[str], None] = lambda _: None,
    poll: Callable[[], None] = lambda: None,
    enough: threading.Event | None = None,
    limit_s: float = math.inf,
) -> bool:
    """Start a source, hand on its records until it ends or enough has come, and stop it.

    Parameters
    ----------
    source
        Not yet started; it is not closed here.
    take
        Called with each record; returns whether it was the last one that is wanted.
    report
        Takes messages about trouble and about changes of the run.
    poll
        Called every `POLL_S` meanwhile.
    enough
        Ends this when another thread sets it.
    limit_s
        Longest time.

    Returns
    -------
    bool
        Whether the source has ended by itself.

    Raises
    ------
    SkywrightError
        If the source fails, or what `take` failed with.
    """
    ended, errors = enough or threading.Event(), list[SkywrightError]()

    def take_next(record: Record[Any]) -> None:
        if ended.is_set():
            return
        try:
            is_last = take(record)
        except SkywrightError as error:
            errors.append(error)
        except Exception as error:  # else the source would seem to have ended
            errors.append(HardwareError(f"{source.name}: {type(error).__name__}: {error}"))
        if errors or is_last:
            ended.set()

    deadline = time.monotonic() + limit_s
    source.start(take_next, lambda message, *_: report(message))
    try:
        while source.is_running and not ended.wait(POLL_S) and time.monotonic() < deadline:
            poll()
        has_ended = not (source.is_running or ended.is_set())
    finally:
        ended.set()
        source.stop()
    if errors:
        raise errors[0]
    return has_ended
