"""One run while it is read: how far it is, and its records on their way to the analysis."""

import math
import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.run_info import RunInfo

PUT_S = 0.2
RECORDS_MAX = 20_000
"""Records that may wait for the analysis; then no more values are asked for."""


class OnlineRun:
    """A run that several threads read.

    That a run has ended is known after the fact. So records are handed out when their tags are
    confirmed to be of the run; those behind its end are dropped, for the next run to read.

    Parameters
    ----------
    info
        The run. If its grid has an end, shots behind it are not read.
    channels
        Those that are read.
    newest
        Low tag that the accelerator has reached.
    capacity
        Bytes of images of each detector that may wait for the analysis.
    stopping
        Ends every wait.
    """

    def __init__(
        self,
        info: RunInfo,
        channels: Iterable[str],
        newest: int,
        capacity: int,
        stopping: threading.Event,
    ) -> None:
        self.info = info
        self.following: OnlineRun | None = None
        """The run after this one; None while there is none."""
        self._records: deque[Record[Any]] = deque()
        self._capacity = capacity
        self._held: Counter[str] = Counter()
        self.skipped: float = -math.inf
        """Tag at which a detector went on after it had fallen behind."""
        self._stopping = stopping
        self._lock = threading.Condition()
        self.newest: float = newest
        """Low tag that the accelerator has reached; infinite when no more data are awaited."""
        self.last = info.grid.last
        """Last low tag; None while it is not known."""
        self._confirmed = -math.inf
        self.has_ended = False
        """Whether the facility has ended the run."""
        self._open = set(channels)

    @property
    def is_finished(self) -> bool:
        """Whether all channels have delivered what they have, and all of it is handed out."""
        with self._lock:
            return not self._open and not self._records

    def awaits(self, channel: str) -> bool:
        """Whether a channel may deliver more."""
        return channel in self._open

    def reach(self, tag: float) -> None:
        """Take note that the accelerator has reached a tag."""
        with self._lock:
            self.newest = max(self.newest, tag)

    def end(self, last: int) -> None:
        """Take note of the run's last tag."""
        with self._lock:
            self.has_ended = True
            if self.last is None or last < self.last:
                self.last = last
            self._confirmed = math.inf
            self._lock.notify_all()

    def confirm(self, tag: float) -> None:
        """Take note that the tags up to this one are of the run, unless they are behind its end."""
        with self._lock:
            self._confirmed = max(self._confirmed, tag)
            self._lock.notify_all()

    def is_confirmed(self, tag: float) -> bool:
        """Whether a tag is known to be of the run, or behind its end."""
        return tag <= self._confirmed

    def skip(self, tag: int) -> None:
        """Take note that a detector has fallen behind and goes on at a tag.

        Shots before it are not whole, so detectors that are far behind skip them too.
        """
        with self._lock:
            self.skipped = max(self.skipped, tag)

    def give_up(self) -> None:
        """Await no more data."""
        self.reach(math.inf)

    def includes(self, tag: int) -> bool:
        """Whether the run may have this tag."""
        return self.last is None or tag <= self.last

    def finish(self, channel: str) -> None:
        """Take note that a channel has delivered all."""
        with self._lock:
            self._open.discard(channel)
            self._lock.notify_all()

    @property
    def is_full(self) -> bool:
        """Whether too many records wait for more values to be read."""
        return len(self._records) > RECORDS_MAX

    def put_image(self, channel: str, tag: int, image: NDArray[np.float32]) -> bool:
        """Hand an image to the analysis; wait while too many are on their way.

        Returns
        -------
        bool
            Whether it was wanted: the channel is awaited, and the source goes on.
        """
        with self._lock:
            while self._held[channel] and self._held[channel] + image.nbytes > self._capacity:
                if self._stopping.is_set():
                    return False
                self._lock.wait(PUT_S)
            if channel not in self._open:
                return False
            self._held[channel] += image.nbytes
            self._records.append(Record(channel, tag, self.info.run, image))
            self._lock.notify_all()
            return True

    @property
    def held(self) -> int:
        """Bytes of images that wait for the analysis."""
        return self._held.total()

    def put_value(self, channel: str, tag: int, value: float) -> None:
        """Hand a value to the analysis."""
        with self._lock:
            self._records.append(Record(channel, tag, self.info.run, value))
            self._lock.notify_all()

    def take(self, timeout_s: float) -> Record[Any] | None:
        """Return the next record, or None when there is none within `timeout_s`."""
        with self._lock:
            if not self._lock.wait_for(self._has_confirmed, timeout_s):
                return None
            return self._pop()

    def _has_confirmed(self) -> bool:
        while self._records and not self.includes(self._records[0].tag):
            self._pop()
        return bool(self._records) and self._records[0].tag <= self._confirmed

    def _pop(self) -> Record[Any]:
        record = self._records.popleft()
        if isinstance(record.payload, np.ndarray):
            self._held[record.channel] -= record.payload.nbytes
            self._lock.notify_all()
        return record

    def at_or_after(self, tag: float) -> int:
        """Return the lowest tag of a shot that is not below `tag`."""
        grid = self.info.grid
        if tag == math.inf:
            tag = grid.first if self.last is None else self.last + 1
        return grid.first + replace(grid, last=None).count_below(int(tag)) * grid.step


class OnlineRuns:
    """The runs that are read, in order; readers go from one to the next.

    A reader may be any number of runs behind: a run is kept until it is delivered, and each run
    knows the one that follows it, so that none is passed over.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: list[OnlineRun] = []
        """The latest run, and those before it whose data are not complete."""

    @property
    def latest(self) -> OnlineRun:
        """The run that began last."""
        with self._changed:
            return self._runs[-1]

    def begin(self, run: OnlineRun) -> None:
        """Begin anew with a run."""
        with self._changed:
            self._runs = [run]
            self._changed.notify_all()

    def add(self, run: OnlineRun) -> None:
        """Begin a run."""
        with self._changed:
            self._runs[-1].following = run
            self._runs = [*(each for each in self._runs if not each.is_finished), run]
            self._changed.notify_all()

    def after(self, run: OnlineRun | None, timeout_s: float = 0.0) -> OnlineRun | None:
        """Return the run that follows `run` (None: the first), or None if none does in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(run) is not None, timeout_s)
            return self._find(run)

    def unfinished(self) -> list[OnlineRun]:
        """Return the runs whose data are not complete."""
        with self._changed:
            return [run for run in self._runs if not run.is_finished]

    def _find(self, run: OnlineRun | None) -> OnlineRun | None:
        if run is not None:
            return run.following
        return self._runs[0] if self._runs else None
