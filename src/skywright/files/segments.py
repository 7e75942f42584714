"""Rows of files by sequence number; if rows were taken again, the last ones count."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self, TypeVar

SegmentT = TypeVar("SegmentT", bound="Segment")


class Segment:
    """Consecutive rows of a file, which belong to consecutive sequence numbers.

    A subclass is a frozen dataclass that also says which file it is, and has these fields:

    Attributes
    ----------
    start, stop
        First row, and the row after the last one.
    sequence
        Sequence number of the first row.
    """

    start: Any
    stop: Any
    sequence: Any

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.stop - self.start)

    @property
    def end(self) -> int:
        """Sequence number after the last row."""
        return int(self.sequence + self.count)

    def part(self, first: int, end: int) -> Self:
        """Return the rows of the sequence numbers in [first, end), all of which it has."""
        start = self.start + first - self.sequence
        return replace(self, start=start, stop=start + end - first, sequence=first)  # type: ignore[type-var]


def append(segments: list[SegmentT], new: SegmentT) -> None:
    """Append rows; those that continue the last segment become part of it."""
    last = segments[-1] if segments else None
    if last is not None and new.sequence == last.end:
        joined = replace(last, stop=new.stop)  # type: ignore[type-var]
        if joined.part(last.end, new.end) == new:
            segments[-1] = joined
            return
    segments.append(new)


def between(segments: Iterable[SegmentT], first: float, end: float) -> list[SegmentT]:
    """Return the rows whose sequence numbers are in [first, end)."""
    parts = []
    for old in segments:
        low, high = max(first, old.sequence), min(end, old.end)
        if low < high:
            parts.append(old.part(int(low), int(high)))
    return parts


def supersede(segments: Iterable[SegmentT], new: SegmentT) -> list[SegmentT]:
    """Return segments in which `new` replaces the rows that have its sequence numbers."""
    segments = list(segments)
    before = between(segments, float("-inf"), new.sequence)
    return [*before, new, *between(segments, new.end, float("inf"))]
