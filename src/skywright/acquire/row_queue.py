"""The queue of a recorder, in which row groups wait for its thread."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

from skywright.acquire.layout import GROUPS_PER_WRITE, RowGroup

GATHER_S = 0.04
"""Time to wait for more rows before a write, s. One write of 20 rows takes as long as one of 1
row."""
Callback = Callable[[], None]


class _Waiting(NamedTuple, Generic[RowGroup]):
    """A row group in the queue."""

    group: RowGroup
    nbytes: int


class Taken(NamedTuple, Generic[RowGroup]):
    """What `RowQueue.take` returns.

    Attributes
    ----------
    groups
        At most `GROUPS_PER_WRITE` row groups.
    callback
        Callback behind them; None if there is none.
    recording
        Value of `RowQueue.recording` when they were taken.
    """

    groups: Sequence[RowGroup]
    callback: Callback | None
    recording: int


class RowQueue(Generic[RowGroup]):
    """Row groups in order, and callbacks behind them. All methods may be called from any thread.

    Parameters
    ----------
    bytes_max
        Limit of the row groups, bytes. A queue without row groups accepts one of any size.
    timeout_s
        Timeout of `put` for space, s.

    Attributes
    ----------
    accepts_rows
        Whether a recording is open for rows; else `put` does nothing.
    recording
        Number of recordings begun.
    """

    def __init__(self, bytes_max: int, timeout_s: float) -> None:
        self.accepts_rows = False
        self.recording = 0
        self._bytes_max, self._timeout_s = bytes_max, timeout_s
        self._changed = threading.Condition()
        self._entries: deque[_Waiting[RowGroup] | Callback] = deque()
        self._bytes = 0
        self._closing = False
        """True after `close` was called."""
        self._has_ended = False
        """True when nothing more is taken."""

    def begin_recording(self) -> None:
        """Accept rows, those of a new recording."""
        with self._changed:
            self.accepts_rows = True
            self.recording += 1
            self._changed.notify_all()  # `take` must compute its pause again

    def end_recording(self) -> None:
        """Accept no more rows; those in the queue stay."""
        with self._changed:
            self.accepts_rows = False
            self._changed.notify_all()

    def put(self, group: RowGroup, nbytes: int) -> bool:
        """Append a row group of `nbytes`; return False if it gets no room in this recording.

        Without a recording it does nothing and returns True.
        """
        with self._changed:
            if not self.accepts_rows:
                return True
            recording = self.recording

            def recording_has_ended() -> bool:
                return not self.accepts_rows or self.recording != recording

            self._changed.wait_for(
                lambda: recording_has_ended() or self._has_room(nbytes), self._timeout_s
            )
            if recording_has_ended() or not self._has_room(nbytes):
                return False
            self._bytes += nbytes
            self._entries.append(_Waiting(group, nbytes))
            self._changed.notify_all()
            return True

    def put_callback(self, callback: Callback) -> bool:
        """Append a callback; return False if the queue has ended: then no row waits."""
        with self._changed:
            if self._has_ended:
                return False
            self._entries.append(callback)
            self._changed.notify_all()
            return True

    def take(self, pause_s: Callable[[], float]) -> Taken[RowGroup]:
        """Remove the first row groups and the callback behind them, and return them.

        It waits for an entry, at most for the time, s, that `pause_s` returns, and then up to
        `GATHER_S` for more rows.
        """
        groups: list[RowGroup] = []
        callback: Callback | None = None
        with self._changed:
            while not self._entries and not self._closing:
                if not self._changed.wait(pause_s()):
                    break  # the time is over; a flush may be due
            if self._entries:
                self._changed.wait_for(self._should_write_now, GATHER_S)
            while self._entries and callback is None and len(groups) < GROUPS_PER_WRITE:
                entry = self._entries.popleft()
                if isinstance(entry, _Waiting):
                    self._bytes -= entry.nbytes
                    groups.append(entry.group)
                else:
                    callback = entry
            self._changed.notify_all()  # there is room again
            return Taken(groups, callback, self.recording)

    def drop_rows(self) -> list[RowGroup]:
        """Remove all row groups, and return them; callbacks stay."""
        with self._changed:
            groups = [each.group for each in self._entries if isinstance(each, _Waiting)]
            callbacks = [each for each in self._entries if not isinstance(each, _Waiting)]
            self._entries = deque(callbacks)
            self._bytes = 0
            self._changed.notify_all()  # there is room again
            return groups

    def close(self) -> None:
        """End the queue when it is empty."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def end_if_empty(self) -> bool:
        """End a closed queue that is empty; return whether it has ended."""
        with self._changed:
            self._has_ended = self._closing and not self._entries
            return self._has_ended

    def _has_room(self, nbytes: int) -> bool:
        return self._bytes + nbytes <= self._bytes_max or not self._bytes

    def _should_write_now(self) -> bool:
        """Return whether writing should start without a wait for more rows."""
        # `drop_rows` may have emptied the queue during the wait
        entries = self._entries
        is_full = len(entries) >= GROUPS_PER_WRITE
        return not entries or is_full or not isinstance(entries[-1], _Waiting)
