"""Counts by cause, above all of losses."""

import threading
from collections import Counter
from collections.abc import Mapping


class Counters:
    """Counts by cause since the object was made. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, cause: str, count: int = 1) -> None:
        """Add `count` to the count of `cause`."""
        with self._lock:
            self._counts[cause] += count

    def as_dict(self) -> dict[str, int]:
        """Return all counts that are not 0, by cause."""
        with self._lock:
            return {cause: count for cause, count in self._counts.items() if count}


def sum_counts(*counts: Mapping[str, int]) -> dict[str, int]:
    """Return the sum of several mappings of counts by cause, without causes that count 0."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return {cause: count for cause, count in total.items() if count}
