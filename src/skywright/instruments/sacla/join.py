"""The tag join: records of all channels become shots, in bounded memory.

A record is one frame of a detector or one value of a point detector, with its tag. Channels differ
in latency and rate, lose records, repeat them and send them out of order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


class Refusal(Enum):
    """Why a record belongs to no shot."""

    OTHER_RUN = "other_run"
    LATE = "late"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Record(Generic[Payload]):
    """One record of a channel.

    Parameters
    ----------
    channel
        Detector id, or key of the point detector.
    tag
        Low tag.
    run
        Run number.
    payload
        The frame, the value, or where to find them.
    """

    channel: str
    tag: int
    run: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class JoinedShot(Generic[Payload]):
    """What came for one tag: whole, or given up after the window.

    Parameters
    ----------
    tag
        Low tag.
    payloads
        By channel; a channel that sent nothing is absent.
    """

    tag: int
    payloads: dict[str, Payload]


@dataclass(frozen=True)
class TagGrid:
    """The tags that are shots.

    Parameters
    ----------
    first, step
        Tags first, first + step, ...
    last
        No shot has a higher tag; None: the run has not ended.
    """

    first: int
    step: int
    last: int | None = None

    def __contains__(self, tag: int) -> bool:
        above = tag - self.first
        return above >= 0 and above % self.step == 0 and (self.last is None or tag <= self.last)

    def count_below(self, tag: int) -> int:
        """Return the number of shots with a lower tag."""
        if self.last is not None:
            tag = min(tag, self.last + 1)
        return max(-(-(tag - self.first) // self.step), 0)

    def cut(self, shots: int) -> "TagGrid":
        """Return the first shots of the grid, at most a number of them."""
        last = self.first + (shots - 1) * self.step
        return TagGrid(self.first, self.step, last if self.last is None else min(last, self.last))


class TagJoin(Generic[Payload]):
    """Join the records of one run by tag.

    Shots leave in order of their tags. A shot leaves when every channel has given its record and
    all shots before have left, or when a record more than `window` tags ahead has come. So at most
    ``window + 1`` tags are kept, whatever the channels do. Records of tags that are no shots are
    counted and move the window, but are not kept.

    Parameters
    ----------
    channels
        Those that make a shot whole. Records of other channels are joined too, and nothing waits
        for them.
    run
        Records of other runs are refused.
    window
        In tags, >= 0.
    grid
        The tags that are shots.
    """

    def __init__(self, channels: Iterable[str], run: int, window: int, grid: TagGrid) -> None:
        self.channels = frozenset(channels)
        self.run = run
        self.window = window
        self.grid = grid
        self.records = 0
        """Number of records that came."""
        self.refused: Counter[Refusal] = Counter()
        """Those that belong to no shot, by reason."""
        self.highest: int | None = None
        self._next = grid.first  # shots below have left
        self._waiting: dict[int, dict[str, Payload]] = {}
        self._known: dict[int, set[str]] = {}

    @property
    def held(self) -> int:
        """Number of tags that are remembered."""
        return len(self._known)

    @property
    def shots_passed(self) -> int:
        """Number of shots that have left or whose records never came."""
        return self.grid.count_below(self._next)

    def add(self, record: Record[Payload]) -> Refusal | None:
        """Take in a record; return why it is refused, or None."""
        self.records += 1
        refusal = self._refusal(record)
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        self._known.setdefault(record.tag, set()).add(record.channel)
        if record.tag in self.grid:
            self._waiting.setdefault(record.tag, {})[record.channel] = record.payload
        if self.highest is None or record.tag > self.highest:
            self._advance(record.tag)
        return None

    def _refusal(self, record: Record[Payload]) -> Refusal | None:
        if record.run != self.run:
            return Refusal.OTHER_RUN
        if self.highest is not None and record.tag < self.highest - self.window:
            return Refusal.LATE
        if record.channel in self._known.get(record.tag, ()):
            return Refusal.DUPLICATE
        if record.tag < self._next and record.tag in self.grid:
            return Refusal.LATE  # its shot has left: nothing waited for this channel, or any more
        return None

    def _advance(self, highest: int) -> None:
        """Move the window's end, and forget the tags that it leaves behind."""
        before, self.highest = self.highest, highest
        if before is None:
            return
        oldest = highest - self.window
        if oldest - (before - self.window) > len(self._known):
            gone = [tag for tag in self._known if tag < oldest]
        else:
            gone = [tag for tag in range(before - self.window, oldest) if tag in self._known]
        for tag in gone:
            del self._known[tag]

    def ready(self) -> Iterator[JoinedShot[Payload]]:
        """Yield the shots that can change no more, in order of their tags.

        A shot without any record is not yielded; `shots_passed` counts it.
        """
        if self.highest is None:
            return
        oldest = self.highest - self.window
        if self._next < oldest:
            for tag in sorted(tag for tag in self._waiting if tag < oldest):
                yield JoinedShot(tag, self._waiting.pop(tag))
            self._next = self.grid.first + self.grid.count_below(oldest) * self.grid.step
        while self.channels <= self._waiting.get(self._next, {}).keys():
            tag, self._next = self._next, self._next + self.grid.step
            yield JoinedShot(tag, self._waiting.pop(tag))

    def finish(self) -> Iterator[JoinedShot[Payload]]:
        """Yield what is left, at the end of the run; records that still come are late."""
        for tag in sorted(self._waiting):
            yield JoinedShot(tag, self._waiting.pop(tag))
        end = self.highest if self.grid.last is None else self.grid.last
        if end is not None:
            self._next = self.grid.first + self.grid.count_below(end + 1) * self.grid.step
