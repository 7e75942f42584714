"""Recordings of what comes at beam rate, written by a thread of their own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from skywright.counters import Counters
from skywright.errors import DataError

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
"""A row is visible in the file at most about this long after it was recorded."""
GATHER_S = 0.04
QUEUE_BYTES = 256_000_000
BATCH = 64
"""Rows written at once."""

Result = TypeVar("Result", contravariant=True)
"""What comes."""
Item = TypeVar("Item")
"""What a layout keeps of a result until it is written."""
Written = TypeVar("Written", contravariant=True)


class File(Protocol[Written]):
    """An open recording."""

    def append(self, items: Sequence[Written]) -> Mapping[str, int]:
        """Write items, or raise and write none; return how many could not be, by cause."""

    def flush(self) -> int:
        """Make all visible; return how many a reader may trust."""

    def close(self) -> None:
        """Flush and close; twice does nothing."""


class Layout(Protocol[Result, Item]):
    """How results are recorded."""

    name: str
    at_once: int
    """Most items that its files write together."""

    def take(self, result: Result) -> Item | None:
        """Return what will be written of a result; None when there is nothing to write."""

    def nbytes(self, item: Item) -> int:
        """Return the memory that an item holds."""

    def open(self, path: Path, items: Sequence[Item], last: bool) -> File[Item] | None:
        """Create the file that holds the items; None when its shape is not known from them.

        With `last` no others will come before what was asked for must be in the file.
        """


class Recorder(Generic[Result, Item]):
    """Keeps at most one recording open. All methods may be called from any thread.

    Parameters
    ----------
    layout
        Of its files.
    every
        Of what an acquisition has for this file, each first of so many is recorded.
    changed
        Called after the state has changed; must return at once.
    queue_bytes
        Most that waits to be written; further ones are not recorded, and counted.

    Attributes
    ----------
    path
        Of the recording under way; None when there is none.
    visible
        Rows of this or the last recording that a reader of the file may trust.
    error
        Why the last attempt to write failed; empty when it did not.
    """

    def __init__(
        self,
        layout: Layout[Result, Item],
        every: int = 1,
        changed: Callable[[], None] | None = None,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self.layout = layout
        self.every = every
        self.path: Path | None = None
        self.visible = 0
        self.error = ""
        self._changed = changed or (lambda: None)
        self._limit = queue_bytes
        self._lost = Counters()
        self._writing = threading.RLock()
        """Held by who touches the file."""
        self._filled = threading.Condition()
        self._queue: deque[Item | Callable[[], None]] = deque()
        self._bytes = 0
        self._seen = 0
        self._closing = False
        self._file: File[Item] | None = None
        self._pending: list[Item] = []
        self._count = self._recorded = 0
        self._unflushed_since = 0.0
        self._thread = threading.Thread(
            target=self._work, name=f"record-{layout.name}", daemon=True
        )
        self._thread.start()

    # ---- the owner's thread

    def offer(self, result: Result) -> None:
        """Take a result, if a recording is under way; never waits for the disk."""
        if self.path is None:
            return
        item = self.layout.take(result)
        if item is None:
            return
        number, self._seen = self._seen, self._seen + 1
        if number % self.every:
            return
        size = self.layout.nbytes(item)
        with self._filled:
            if self._bytes + size > self._limit and self._queue:
                self._lost.add("queue full")
                return
            self._bytes += size
            self._queue.append(item)
            self._filled.notify()

    def mark(self, done: Callable[[], None]) -> None:
        """Call `done` when all that was offered before is in the file and visible."""
        with self._filled:
            self._seen = 0
            self._queue.append(done)
            self._filled.notify()

    def lost(self) -> Mapping[str, int]:
        """Return results that are not in their recording, by cause."""
        return {
            f"{self.layout.name} {cause}": count for cause, count in self._lost.as_dict().items()
        }

    # ---- what others ask for

    def start(self, path: Path, count: int = 0) -> str:
        """Start a recording; one under way is closed first.

        Parameters
        ----------
        path
            Of the new file, made with the first result; its directory must exist.
        count
            Rows after which it ends by itself, 0 never.

        Returns
        -------
        str
            Why it failed; empty when it did not.
        """
        self.stop()
        with self._writing:
            self.error = _why_not(path)
            if not self.error:
                self._count, self._recorded, self.visible, self._seen = count, 0, 0, 0
                self.path = path
        self._changed()
        return self.error

    def stop(self) -> None:
        """Close the recording, with all that has been offered before in it."""
        written = threading.Event()
        self.mark(written.set)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            written.wait(30.0)
        with self._writing:
            self._end()
        self._changed()

    def close(self) -> None:
        """Close the recording and end the thread."""
        self.stop()
        self._closing = True
        self.mark(lambda: None)
        self._thread.join(5.0)

    # ---- the recorder's thread

    def _work(self) -> None:
        while not self._closing:
            items, mark = self._next()
            flushed = False
            with self._writing:
                if items:
                    self._write(items, last=mark is not None)
                if mark is not None or self._due():
                    flushed = self._flush(last=mark is not None)
            if mark is not None:
                mark()
            if flushed or mark is not None:
                self._changed()

    def _next(self) -> tuple[list[Item], Callable[[], None] | None]:
        """Return what waits, up to a mark or `BATCH`; nothing after `FLUSH_S`."""
        items: list[Item] = []
        with self._filled:
            self._filled.wait_for(lambda: self._queue, FLUSH_S if self._unflushed_since else 1.0)
            if self._queue:
                self._filled.wait_for(self._is_worth_it, GATHER_S)
            while self._queue and len(items) < BATCH:
                item = self._queue.popleft()
                if callable(item):
                    return items, item
                self._bytes -= self.layout.nbytes(item)
                items.append(item)
        return items, None

    def _is_worth_it(self) -> bool:
        """Say whether writing should not wait for more: a row alone costs as much as twenty."""
        return callable(self._queue[-1]) or len(self._queue) >= BATCH

    def _due(self) -> bool:
        since = self._unflushed_since
        return bool(since) and time.monotonic() - since > FLUSH_S

    def _write(self, items: list[Item], last: bool) -> None:
        if self.path is None:
            self._lost.add("not written", len(items))
            return
        items = [*self._pending, *items]
        self._pending = []
        if self._count:
            items = items[: self._count - self._recorded]
        try:
            if self._file is None:
                self._file = self.layout.open(self.path, items, last)
        except Exception as error:
            self._fail(error, len(items))
            return
        if self._file is None:
            self._pending = items
            return
        for first in range(0, len(items), self.layout.at_once):
            self._append(self._file, items[first : first + self.layout.at_once])
        if self._count and self._recorded >= self._count:
            self._end()

    def _append(self, file: File[Item], items: list[Item]) -> None:
        try:
            for cause, count in file.append(items).items():
                self._lost.add(cause, count)
        except Exception as error:
            self._fail(error, len(items))
            return
        self.error = ""
        self._recorded += len(items)
        self._unflushed_since = self._unflushed_since or time.monotonic()

    def _flush(self, last: bool) -> bool:
        if last and self._pending:
            self._write([], last=True)
        if self._file is None or not self._unflushed_since:
            return False
        self._unflushed_since = 0.0
        try:
            self.visible = self._file.flush()
        except Exception as error:
            self._fail(error, 0)
        return True

    def _end(self) -> None:
        """Close the file; trouble is in `error`."""
        if self._pending and self.path is not None:
            self._write([], last=True)
        file, self._file, self.path = self._file, None, None
        self._unflushed_since = 0.0
        if file is not None:
            try:
                self.visible = file.flush()
                file.close()
            except Exception as error:
                self._fail(error, 0)

    def _fail(self, error: Exception, count: int) -> None:
        if count:
            self._lost.add("not written", count)
        # Of any kind: who waits for the end of an acquisition needs this thread.
        self.error = str(error) or type(error).__name__
        is_known = isinstance(error, OSError | DataError)
        logger.warning("%s: %s", self.layout.name, error, exc_info=not is_known)


def _why_not(path: Path) -> str:
    """Return why a file cannot be made there; empty when it seems that it can."""
    if not path.parent.is_dir():
        return f"{path.parent}: no such directory; create it"
    if path.exists():
        return f"{path}: exists already; a file of records is never reused"
    try:
        path.open("xb").close()
        path.unlink()
    except OSError as error:
        return f"{path}: cannot be written ({error.strerror})"
    return ""
