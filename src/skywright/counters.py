"""Counts by cause, of what was lost."""

import threading
from collections import Counter


class Counters:
    """Counts by cause since the start of the process; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, cause: str, count: int = 1) -> None:
        """Count `count` more of `cause`."""
        with self._lock:
            self._counts[cause] += count

    def __getitem__(self, cause: str) -> int:
        with self._lock:
            return self._counts[cause]

    def as_dict(self) -> dict[str, int]:
        """Return all counts that are not 0, by cause."""
        with self._lock:
            return {cause: count for cause, count in self._counts.items() if count}
