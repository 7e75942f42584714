"""The recorder: writes results to files, on its own thread.

A synchronous recorder writes on the owner's thread; its own thread then only makes rows visible.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from skywright.acquire.acquisition import RefusedError
from skywright.acquire.counters import Counters, sum_counts
from skywright.errors import DataError
from skywright.files.columns import DoesNotFitError

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
"""Time from the first unflushed write to the flush, s. A row is visible at most
FLUSH_S + 2 * GATHER_S after it was offered."""
GATHER_S = 0.04
"""Time to wait for more items before a write, s. One write of 20 rows takes as long as one of 1
row."""
STOP_LIMIT_S = 30.0
"""Timeout for the items in the queue when a recording is stopped, s."""
QUEUE_BYTES = 256_000_000
"""Default limit of the queue, bytes."""
BATCH = 64
"""Maximum number of items that are written together."""

Result = TypeVar("Result", contravariant=True)
"""What the owner gives to the recorder."""
Item = TypeVar("Item")
"""What `Layout.take` returns: any number of rows to write. It is not the item of a source."""
Written = TypeVar("Written", contravariant=True)


class File(Protocol[Written]):
    """The open file of a recording."""

    def append(self, items: Sequence[Written]) -> Mapping[str, int]:
        """Write items, or raise and write none; return the number of rows lost, by cause."""

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""

    def close(self) -> None:
        """Flush and close; a second call does nothing."""


class Writer(Protocol):
    """A writer of `skywright.files`: a `File` without `append`."""

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""

    def close(self) -> None:
        """Flush and close; a second call does nothing."""


Writes = TypeVar("Writes", bound=Writer)


class WriterFile(Generic[Writes]):
    """An open file of one writer; not thread-safe. A subclass adds `append`, see `File`.

    Parameters
    ----------
    writer
        Writer of the file.
    """

    def __init__(self, writer: Writes) -> None:
        self.writer = writer

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""
        return self.writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        self.writer.close()


class Layout(ABC, Generic[Result, Item]):
    """Defines how results become rows of a file. An item holds one row or many.

    Attributes
    ----------
    name
        Name of the recorded items in messages and causes of loss: ``spectra``.
    at_once
        Maximum number of items of one `File.append`.
    """

    name: str
    at_once: int = BATCH

    @abstractmethod
    def take(self, result: Result) -> Item | None:
        """Return the item to be written for a result; None: nothing."""

    @abstractmethod
    def nbytes(self, item: Item) -> int:
        """Return the memory that an item holds."""

    @abstractmethod
    def open(self, path: Path, items: Sequence[Item], must_create: bool) -> File[Item] | None:
        """Create the file for the items; return None to wait for an item that gives its shape.

        If `must_create` is True somebody waits for these rows: create the file if that is possible
        at all. `open` is called again with more items after None.
        """

    def open_early(self, path: Path) -> File[Item] | None:
        """Create the file before the first item; return None if that needs an item."""
        return None

    def describe(self, item: Item) -> str:
        """Return a short description of an item, for error messages."""
        return self.name

    def rows(self, item: Item) -> int:
        """Return the number of rows of an item."""
        return 1

    def select(self, item: Item, rows: slice) -> Item:
        """Return an item with some of the rows; called only when an item has other than 1 row."""
        raise NotImplementedError(f"{type(self).__name__}: items of many rows need `select`")


class Recorder(Generic[Result, Item]):
    """Writes at most one recording at a time. All methods may be called from any thread.

    Parameters
    ----------
    layout
        Layout of its files.
    every
        Record rows 0, N, 2N ... of an acquisition, with N = `every`.
    changed
        Called after the state has changed; must return at once.
    queue_bytes
        Limit of the queue. Items beyond it are not recorded and count as ``queue full``.
    synchronous
        True: `offer` writes each item, on the owner's thread, and raises `RefusedError` if it
        cannot be stored. So an acquisition counts only items that are in the file.
    essential
        True: a row that cannot be stored is a lost item. False: it is counted as a failure, because
        another recorder stores the same item.
    queue_timeout_s
        Timeout of `offer` for space in the queue, s. Use more than 0 only for a source that may
        wait, such as one that reads files of other programs.

    Attributes
    ----------
    path
        Path of the present recording; None if there is none.
    rows_readable
        Number of rows of this or the last recording that readers can see.
    error
        Error of the last write; empty if it succeeded.
    """

    def __init__(
        self,
        layout: Layout[Result, Item],
        every: int = 1,
        changed: Callable[[], None] | None = None,
        queue_bytes: int = QUEUE_BYTES,
        synchronous: bool = False,
        essential: bool = True,
        queue_timeout_s: float = 0.0,
    ) -> None:
        self.layout = layout
        self.synchronous, self.essential = synchronous, essential
        self.every = every
        self.path: Path | None = None
        self.rows_readable = 0
        self.error = ""
        self._changed = changed or (lambda: None)
        self._limit, self._queue_timeout_s = queue_bytes, queue_timeout_s
        self._lost = Counters()
        self._file_lock = threading.RLock()
        """Held by the thread that uses the file."""
        self._queue_changed = threading.Condition()
        self._queue: deque[Item | Callable[[], None]] = deque()
        """Items, and functions to call when all items before them are visible."""
        self._bytes = 0
        self._seen = 0
        self._closing = False
        self._file: File[Item] | None = None
        self._before_open: list[Item] = []
        """Items that wait until the file can be created."""
        self._count = 0
        """Number of rows of the whole recording; 0: no limit."""
        self._recorded = self._flushed = 0
        """Numbers of rows of all recordings: written, and written and visible."""
        self._unreadable = 0
        """Number of rows that the last flush failed to make visible; a later flush may succeed."""
        self._unflushed_since = 0.0
        self._thread = threading.Thread(
            target=self._work, name=f"record-{layout.name}", daemon=True
        )
        self._thread.start()

    # ---- the owner's thread

    def offer(self, result: Result) -> None:
        """Record a result, if a recording is open.

        It waits only if the recorder is synchronous, or if the queue is full and
        `queue_timeout_s` > 0.

        Raises
        ------
        RefusedError
            If a synchronous recorder cannot store it.
        """
        if self.path is None:
            return
        item = self.layout.take(result)
        if item is None:
            return
        item = self._decimate(item)
        if item is None:
            return
        if self.synchronous:
            self._write_now(item)
            return
        size = self.layout.nbytes(item)
        with self._queue_changed:
            if not self._has_room(size):
                self._queue_changed.wait_for(lambda: self._has_room(size), self._queue_timeout_s)
            if not self._has_room(size):
                self._lost.add("queue full", self.layout.rows(item))
                return
            self._bytes += size
            self._queue.append(item)
            self._queue_changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._bytes + size <= self._limit or not self._queue

    def _write_now(self, item: Item) -> None:
        with self._file_lock:
            if self.path is None:  # the recording has just ended
                return
            before = self._lost.as_dict()
            self._write([item], has_waiter=False)
            causes = [c for c, n in self._lost.as_dict().items() if n > before.get(c, 0)]
            why = self.error
            if self._flush_is_due():
                self._flush(has_waiter=False)
        if causes:
            what = self.layout.describe(item)
            raise RefusedError(causes[0], f"{what}: {why}" if why else what)

    def _decimate(self, item: Item) -> Item | None:
        """Return the rows of an item that `every` selects; None if there are none."""
        if self.every == 1:
            return item
        rows = self.layout.rows(item)
        first = -self._seen % self.every
        self._seen += rows
        return None if first >= rows else self._select_rows(item, slice(first, None, self.every))

    def _select_rows(self, item: Item, rows: slice) -> Item:
        count = self.layout.rows(item)
        return item if range(count)[rows] == range(count) else self.layout.select(item, rows)

    def call_when_visible(self, done: Callable[[], None]) -> None:
        """Call `done` when all items offered before are visible in the file, or counted as lost.

        The next item is row 0 for `every` again.
        """
        with self._queue_changed:
            self._seen = 0
            self._queue.append(done)
            self._queue_changed.notify_all()

    def lost(self) -> Mapping[str, int]:
        """Return the number of rows that are not in their recording, by cause.

        After a failed flush ``not written`` includes the rows that await the next attempt.
        """
        unflushed = {"not written": self._unreadable}
        causes = sum_counts(self._lost.as_dict(), unflushed)
        return {f"{self.layout.name} {cause}": count for cause, count in causes.items()}

    # ---- starts and stops

    def start(self, path: Path, count: int = 0) -> str:
        """Start a recording; an open one is closed first.

        Parameters
        ----------
        path
            Path of the new file; its directory must exist. `Layout.open_early` creates the file
            now, else the first item does.
        count
            Number of rows after which the recording ends by itself; 0: never. Later rows are not
            recorded and not counted as lost.

        Returns
        -------
        str
            Error message; empty if it succeeded.
        """
        self.stop()
        with self._file_lock:
            self.error = _creation_error(path)
            if not self.error:
                self._count, self._recorded, self.rows_readable, self._seen = count, 0, 0, 0
                self._flushed = 0
                try:
                    self._file = self.layout.open_early(path)
                    self.path = path
                except (OSError, DataError) as error:
                    self.error = str(error)
        self._changed()
        return self.error

    def stop(self) -> None:
        """Close the recording after the queued items are written."""
        written = threading.Event()
        self.call_when_visible(written.set)
        in_time = True
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            in_time = written.wait(STOP_LIMIT_S)
        with self._file_lock:
            left = 0 if in_time else self._drop_queued()
            self._end()
            if left:
                self._report(DataError(f"{left} rows were not written within {STOP_LIMIT_S:g} s"))
        self._changed()

    def _drop_queued(self) -> int:
        """Remove all items from the queue, so that none gets into the next file.

        Return the number of rows that are lost with them.
        """
        with self._queue_changed:
            marks = [each for each in self._queue if callable(each)]
            rows = self._rows([each for each in self._queue if not callable(each)])
            self._queue.clear()
            self._queue.extend(marks)
            self._bytes = 0
        return self._count_unwritten(rows)

    def close(self) -> None:
        """Close the recording and end the thread."""
        self.stop()
        self._closing = True
        self.call_when_visible(lambda: None)
        self._thread.join(5.0)

    # ---- the recorder's thread

    def _work(self) -> None:
        while not self._closing:
            items, is_visible = self._next()
            flushed = False
            with self._file_lock:
                if items:
                    self._write(items, has_waiter=is_visible is not None)
                if is_visible is not None or self._flush_is_due():
                    flushed = self._flush(has_waiter=is_visible is not None)
            if is_visible is not None:
                is_visible()
            if flushed or is_visible is not None:
                self._changed()

    def _next(self) -> tuple[list[Item], Callable[[], None] | None]:
        """Return up to `BATCH` queued items, and the function to call after them, if any."""
        items: list[Item] = []
        with self._queue_changed:
            # A synchronous recorder has rows to flush that were never in the queue.
            is_writing = self._unflushed_since or (self.synchronous and self.path is not None)
            self._queue_changed.wait_for(lambda: self._queue, FLUSH_S if is_writing else 1.0)
            if self._queue:
                self._queue_changed.wait_for(self._should_write_now, GATHER_S)
            while self._queue and len(items) < BATCH:
                item = self._queue.popleft()
                if callable(item):
                    return items, item
                self._bytes -= self.layout.nbytes(item)
                items.append(item)
            self._queue_changed.notify_all()  # there is room again
        return items, None

    def _should_write_now(self) -> bool:
        """Return whether writing should start without a wait for more items."""
        return callable(self._queue[-1]) or len(self._queue) >= BATCH

    def _flush_is_due(self) -> bool:
        since = self._unflushed_since
        return bool(since) and time.monotonic() - since > FLUSH_S

    def _write(self, items: list[Item], has_waiter: bool) -> None:
        """Write items, and create the file before; `has_waiter`: somebody waits for them."""
        if self.path is None:
            self._count_unwritten(self._rows(items))
            return
        items = [*self._before_open, *items]
        self._before_open = []
        try:
            if self._file is None:
                self._file = self.layout.open(self.path, items, has_waiter)
        except Exception as error:
            self._fail(error, self._rows(items))
            return
        if self._file is None:
            self._before_open = items
            return
        for first in range(0, len(items), self.layout.at_once):
            self._append(
                self._file, self._limit_to_count(items[first : first + self.layout.at_once])
            )
        if self._count and self._recorded >= self._count:
            self._end()

    def _count_unwritten(self, rows: int) -> int:
        """Count rows as lost, and return their number; 0 if the recording had all its rows."""
        if self._count and self._recorded >= self._count:
            return 0
        if rows:
            self._lost.add("not written", rows)
        return rows

    def _rows(self, items: Sequence[Item]) -> int:
        return sum(self.layout.rows(item) for item in items)

    def _limit_to_count(self, items: list[Item]) -> list[Item]:
        """Return the items up to the requested number of rows of the recording."""
        if not self._count:
            return items
        left, wanted = self._count - self._recorded, []
        for item in items:
            if left <= 0:
                break
            wanted.append(self._select_rows(item, slice(left)))
            left -= self.layout.rows(wanted[-1])
        return wanted

    def _append(self, file: File[Item], items: list[Item]) -> None:
        if not items:
            return
        try:
            lost = file.append(items)
            for cause, count in lost.items():
                self._lost.add(cause, count)
        except DoesNotFitError as error:
            if len(items) > 1:  # write one by one, so that only the item that does not fit is lost
                for item in items:
                    self._append(file, [item])
            else:
                self._lost.add("does not fit", self._rows(items))
                self._report(error)
            return
        except Exception as error:
            self._fail(error, self._rows(items))
            return
        self.error = ""
        self._recorded += self._rows(items) - sum(lost.values())
        self._unflushed_since = self._unflushed_since or time.monotonic()

    def _flush(self, has_waiter: bool) -> bool:
        """Make the written rows visible; return whether that was tried."""
        if has_waiter and self._before_open:
            self._write([], has_waiter=True)
        if self._file is None or not self._unflushed_since:
            return False
        try:
            self.rows_readable = self._file.flush()
        except Exception as error:
            self._report(error)
            self._unflushed_since = time.monotonic()  # for the next attempt
            if has_waiter:
                self._unreadable = self._recorded - self._flushed
            return True
        self._unflushed_since = 0.0
        self._flushed, self._unreadable = self._recorded, 0
        return True

    def _end(self) -> None:
        """Close the file; an error is in `error`, and rows that are not in the file are lost."""
        if self._before_open and self.path is not None:
            self._write([], has_waiter=True)
        file, self._file, self.path = self._file, None, None
        self._unflushed_since = 0.0
        if file is None:
            return
        self._unreadable = 0
        try:
            self.rows_readable = file.flush()
            self._flushed = self._recorded
        except Exception as error:
            self._report(error)
        unflushed = self._recorded - self._flushed
        self._flushed = self._recorded
        try:
            file.close()  # flushes once more
        except Exception as error:
            self._fail(error, unflushed)
        else:
            self.rows_readable += unflushed

    def _fail(self, error: Exception, count: int) -> None:
        self._report(error)
        if count:
            self._lost.add("not written", count)

    def _report(self, error: Exception) -> None:
        # All errors are caught: the end of an acquisition needs this thread.
        self.error = str(error) or type(error).__name__
        is_known = isinstance(error, OSError | DataError)
        logger.warning("%s: %s", self.layout.name, error, exc_info=not is_known)


def _creation_error(path: Path) -> str:
    """Return why a file cannot be created at this path; empty: it seems possible."""
    if not path.parent.is_dir():
        return f"{path.parent}: no such directory; create it"
    if path.exists():
        return f"{path}: exists already; choose another name"
    try:
        path.open("xb").close()
        path.unlink()
    except OSError as error:
        return f"{path}: cannot be written ({error.strerror})"
    return ""
