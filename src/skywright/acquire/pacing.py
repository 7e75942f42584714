"""The clock of simulated and replayed sources: items are due at a fixed rate."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from skywright.acquire.counters import Counters
from skywright.acquire.source import PolledSource
from skywright.errors import DataError, message_of

Item = TypeVar("Item")


def period_of(rate_hz: float) -> float:
    """Return the time between items, s. Rate 0 gives 0: items are due as soon as requested."""
    return 1.0 / rate_hz if rate_hz > 0.0 else 0.0


class Pacer:
    """Waits until the next item is due, and counts items skipped because they were late.

    Parameters
    ----------
    period_s
        Time between items, s; 0: an item is always due and none is skipped.
    behind_s
        Limit of the delay, s. Late items come without a pause. But if one is late by more than this
        plus one period, only the newest item that is due comes; those before it are skipped.
    waits_first
        True: the first item is due one period after the first `wait`. False: at the first `wait`.

    Attributes
    ----------
    skipped
        Number of items skipped so far.
    """

    def __init__(self, period_s: float, behind_s: float = 2.0, waits_first: bool = False) -> None:
        self.skipped = 0
        self._waits_first = waits_first
        self._period_s = period_s
        self._behind_s = behind_s
        self._due: float | None = None
        self._changed = threading.Condition()
        """Held to read or change the period and the due time; notified when one changes."""
        self._has_ended = False

    def restart(self) -> None:
        """Begin anew, also after `end`: the next item is the first one."""
        with self._changed:
            self._due, self._has_ended = None, False

    def set_period(self, period_s: float) -> None:
        """Change the time between items, also of the item that is awaited.

        That item is due one new period after the last one, but not before now. A delay from before
        is not made up: with a shorter period many items would come at once.
        """
        with self._changed:
            if self._due is not None:
                last = self._due - self._period_s
                self._due = max(last + period_s, time.monotonic())
            self._period_s = period_s
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the next item.

        Returns
        -------
        int or None
            Number of items skipped before this one; None when none is due within `timeout_s`, or
            after `end`.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._has_ended:
                if not self._period_s:
                    self._due = None  # a period set later counts from then on
                    return 0
                now = time.monotonic()
                if self._due is None:
                    self._due = now + self._period_s * self._waits_first
                if self._due <= now:
                    return self._next(now - self._due)
                if now >= deadline:
                    return None
                self._changed.wait(min(self._due, deadline) - now)
        return None

    def _next(self, late_s: float) -> int:
        """Set the due time of the next item; return the number of items skipped before this one."""
        assert self._due is not None
        skipped = 0
        if late_s > self._behind_s + self._period_s:
            skipped = int(late_s / self._period_s)
            self.skipped += skipped
        self._due += (skipped + 1) * self._period_s
        return skipped

    def pause(self, timeout_s: float) -> None:
        """Wait `timeout_s`, or until `end`."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended, timeout_s)

    def end(self) -> None:
        """End a running `wait`; every later one returns None at once, until `restart`."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()


class PacedSource(PolledSource[Item]):
    """A source that makes one item after another at a fixed rate.

    Parameters
    ----------
    name
        Kind of source.
    make
        Called with the number of the item (0, 1, ...) and the present Unix time, s; returns the
        item, or None if there is none of this number. Raises `StopIteration` after the last item;
        its text, if it has one, is reported.
    period_s
        Time between items, s; 0: an item is always due.
    behind_s
        As for `Pacer`.
    waits_first
        True: the first item is due one period after each start. False: it is due at the start.
    loses
        True: skipped items count as lost, ``late``, and their numbers are not used. False: they are
        no loss; due times pass without an item, and the numbers have no gap.
    period_min_s
        Minimum time between items for `set_period`, s. None: `set_period` does not change it.
    item_name
        What an item is called in messages.
    """

    retry_s = 0.0  # after an error too, the clock says when the next item is due

    def __init__(
        self,
        name: str,
        make: Callable[[int, float], Item | None],
        period_s: float,
        behind_s: float = 2.0,
        *,
        waits_first: bool = False,
        loses: bool = True,
        period_min_s: float | None = 0.0,
        item_name: str = "item",
    ) -> None:
        super().__init__(name)
        self.period_s = period_s
        self._make = make
        self._period_min_s, self._loses = period_min_s, loses
        self._item_name = item_name
        self._number = 0
        self._lost = Counters()
        self._pacer = Pacer(period_s, behind_s, waits_first)

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of items that were skipped, ``late``, or could not be made, ``unreadable``."""
        return self._lost.as_dict()

    def set_period(self, seconds: float) -> float | None:
        """Set the time between items, s, to `period_min_s` or more; see `Pacer.set_period`.

        Return the time in use, None if it cannot be changed.
        """
        if self._period_min_s is None:
            return None
        self.period_s = max(seconds, self._period_min_s)
        self._pacer.set_period(self.period_s)
        return self.period_s

    def open(self) -> None:
        """Start the clock."""
        self._pacer.restart()

    def next(self, timeout_s: float) -> Item | None:
        """Make the next item when it is due; None if none is due in time, or `make` gives None."""
        skipped = self._pacer.wait(timeout_s)
        if skipped is None:
            return None
        lost = skipped if self._loses else 0
        self._lost.add("late", lost)
        number = self._number + lost
        self._number = number + 1
        try:
            return self._make(number, time.time())
        except StopIteration as end:
            ended = f"no more {self._item_name}s from number {number} on"
            raise StopIteration(end.value or ended) from None
        except Exception as error:
            self._lost.add("unreadable")
            raise DataError(f"{self._item_name} {number}: {message_of(error)}") from error

    def halt(self) -> None:
        """Stop the clock; after the next start the numbers continue."""
        self._pacer.end()
