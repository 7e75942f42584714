"""Files that wait to be read: each once, in the order of their kinds, with later tries."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from skywright.instruments.epu.names import EpuFile, Kind
from skywright.instruments.epu.watch.importer import Failure
from skywright.waiting import back_off

FIRST_RETRY_S, LONGEST_RETRY_S, GIVE_UP_S = 0.1, 5.0, 120.0
"""A file that cannot be read is tried again after 0.1 s, then at doubling times, for 2 minutes."""


@dataclass(slots=True)
class _Trouble:
    """A file that could not be read; times are those of `Backlog`."""

    failure: Failure
    """The last one."""
    pauses: Iterator[float]
    """Before the next tries, s."""
    since: float
    """When the first try failed."""
    due: float = math.inf
    """When the file is tried again; infinite from then on."""


class Backlog:
    """The files that wait. Nothing is ever dropped, and each file is in it once.

    Times are those of `time.monotonic`, in seconds.
    """

    def __init__(self) -> None:
        self._ready: dict[Kind, dict[str, tuple[EpuFile, float]]] = {kind: {} for kind in Kind}
        self._troubles: dict[str, _Trouble] = {}
        self._started: dict[str, tuple[EpuFile, float]] = {}
        self._taken: list[str] = []

    def __len__(self) -> int:
        """Return how many files wait or are being recorded."""
        waiting = sum(map(len, self._ready.values())) + len(self._troubles) + len(self._started)
        return waiting + len(self._taken)

    @property
    def ready(self) -> int:
        """Number of files that can be read now."""
        return sum(map(len, self._ready.values()))

    def add(self, file: EpuFile, now: float) -> None:
        """Take a file that is, as far as is known, complete."""
        self._started.pop(file.path, None)
        self._ready[file.kind].setdefault(file.path, (file, now))

    def add_started(self, file: EpuFile, now: float) -> None:
        """Take a file that is being written; it is read when it is closed, or a little later."""
        if file.path not in self._ready[file.kind] and file.path not in self._troubles:
            self._started.setdefault(file.path, (file, now))

    def take(self, limit: int, now: float) -> list[tuple[EpuFile, float]]:
        """Return up to `limit` files with the times at which they came, parents first.

        They count as waiting until `forget_taken`.
        """
        self._wake(now)
        batch: list[tuple[EpuFile, float]] = []
        for ready in self._ready.values():  # in the order of `Kind`
            while ready and len(batch) < limit:
                path = next(iter(ready))
                self._taken.append(path)  # first: another thread's count misses no file
                batch.append(ready.pop(path))
        return batch

    def forget_taken(self) -> None:
        """Forget the batch that was taken: its files are recorded, reported or wait again."""
        self._taken.clear()

    def _wake(self, now: float) -> None:
        for path, (file, since) in list(self._started.items()):
            if since + FIRST_RETRY_S <= now:
                del self._started[path]
                self._ready[file.kind].setdefault(path, (file, since))
        for path, trouble in self._troubles.items():
            if trouble.due <= now:
                trouble.due = math.inf
                file = trouble.failure.file
                self._ready[file.kind].setdefault(path, (file, now))

    def failed(self, failure: Failure, now: float) -> bool:
        """Note that a file could not be read; return False when it is not tried again."""
        path = failure.file.path
        trouble = self._troubles.get(path)
        if trouble is None:
            pauses = back_off((FIRST_RETRY_S, LONGEST_RETRY_S))
            trouble = self._troubles[path] = _Trouble(failure, pauses, now)
        elif now - trouble.since > GIVE_UP_S:
            del self._troubles[path]
            return False
        trouble.failure, trouble.due = failure, now + next(trouble.pauses)
        return True

    def is_in_trouble(self, path: str) -> bool:
        """Return whether a file could not be read and is tried again by the clock."""
        return path in self._troubles

    def done(self, path: str) -> None:
        """Forget the trouble with a file that has been read."""
        self._troubles.pop(path, None)

    def troubles(self) -> list[Failure]:
        """Return the last failures of the files that could not be read yet."""
        return [trouble.failure for trouble in self._troubles.values()]

    def next_due(self) -> float | None:
        """Return when the next file can be read; None if only events can bring one."""
        times = [since + FIRST_RETRY_S for _, since in self._started.values()]
        times += [each.due for each in self._troubles.values() if each.due < math.inf]
        return min(times, default=None)
