"""The recorder: writes results to files, on its own thread.

A synchronous recorder writes on the owner's thread. Its own thread makes rows visible that the
owner's thread has not flushed, and calls the functions given to `Recorder.call_when_visible`.

Three methods named `append` write a row group, each of which calls the next one:

- `RecordingFile.append`, for example of `ImageFile` in `image_layout`; it returns what is lost.
- `append` of a writer in `skywright.files`, for example of `ImageWriter`, which knows the columns
  of an image.
- `ColumnWriter.append`, which writes the columns to HDF5.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.acquisition import RefusedError
from skywright.acquire.counters import Counters, sum_counts
from skywright.errors import DataError
from skywright.files.columns import DoesNotFitError

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
"""Time from the first unflushed write to the flush, s. A row is visible at most
FLUSH_S + 2 * GATHER_S after it was offered."""
GATHER_S = 0.04
"""Time to wait for more rows before a write, s. One write of 20 rows takes as long as one of 1
row."""
STOP_LIMIT_S = 30.0
"""Timeout for the rows in the queue when a recording is stopped, s. It does not end a write that
hangs."""
QUEUE_BYTES = 256_000_000
"""Default limit of the queue, bytes."""
GROUPS_PER_WRITE = 64
"""Maximum number of row groups that are written together."""
IDLE_S = 1.0
"""Longest pause of the recorder's thread while there is nothing to write or flush, s."""

Result = TypeVar("Result", contravariant=True)
"""What the owner gives to the recorder."""
RowGroup = TypeVar("RowGroup")
"""What `Layout.row_group` returns: the rows that one result gives."""
RowGroupIn = TypeVar("RowGroupIn", contravariant=True)
"""`RowGroup` for the protocol `RecordingFile`. Its methods take row groups and return none; type
checkers require `contravariant` for such a protocol."""


class Writer(Protocol):
    """What all writers of `skywright.files` have in common.

    Each has an `append` too, with arguments of its own.
    """

    @property
    def appended(self) -> int:
        """Number of rows in the file, visible or not."""

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""

    def close(self) -> None:
        """Flush and close; a second call does nothing."""


class RecordingFile(Writer, Protocol[RowGroupIn]):
    """The open file of a recording."""

    def append(self, groups: Sequence[RowGroupIn]) -> Mapping[str, int]:
        """Write row groups, or raise and write none; return what is lost, by cause.

        If only a part of a row is lost, the row is in the file and the loss is counted.
        """


WriterT = TypeVar("WriterT", bound=Writer)


class WriterFile(Generic[WriterT]):
    """An open file of one writer; not thread-safe. A subclass adds `append`, see `RecordingFile`.

    Parameters
    ----------
    writer
        Writer of the file.
    """

    def __init__(self, writer: WriterT) -> None:
        self.writer = writer

    @property
    def appended(self) -> int:
        """Number of rows in the file, visible or not."""
        return self.writer.appended

    def flush(self) -> int:
        """Make all rows visible to readers; return their number."""
        return self.writer.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        self.writer.close()


class Layout(ABC, Generic[Result, RowGroup]):
    """Defines how results become rows of a file. A row group is the rows of one result.

    Attributes
    ----------
    name
        Name of what is recorded, in messages and causes of loss: ``spectra``.
    at_once
        Maximum number of row groups of one `RecordingFile.append`.
    """

    name: str
    at_once: int = GROUPS_PER_WRITE

    @abstractmethod
    def row_group(self, result: Result) -> RowGroup | None:
        """Return the rows to be written for a result; None: nothing."""

    @abstractmethod
    def nbytes(self, group: RowGroup) -> int:
        """Return the memory that a row group holds."""

    @abstractmethod
    def open(
        self, path: Path, groups: Sequence[RowGroup], must_create: bool
    ) -> RecordingFile[RowGroup] | None:
        """Create the file; return None to wait for a row group that gives its shape.

        `must_create` is True if a caller waits for these rows, or if the recording ends. Then
        `open` may return None only if `groups` has no row for the file. After None, `open` is
        called again with these row groups and the next ones.
        """

    def open_early(self, path: Path) -> RecordingFile[RowGroup] | None:
        """Create the file before the first row group; return None if that needs a row group."""
        return None

    def describe(self, group: RowGroup) -> str:
        """Return a short description of a row group, for error messages."""
        return self.name

    def rows(self, group: RowGroup) -> int:
        """Return the number of rows of a row group."""
        return 1

    def select(self, group: RowGroup, rows: slice | NDArray[np.bool_]) -> RowGroup:
        """Return some of the rows of a row group; called only if it has more than one row."""
        raise NotImplementedError(
            f"{type(self).__name__}: a row group of several rows needs `select`"
        )


class Recorder(Generic[Result, RowGroup]):
    """Writes at most one recording at a time. All methods may be called from any thread.

    Parameters
    ----------
    layout
        Layout of its files.
    every
        Record rows 0, N, 2N ..., with N = `every`. The count begins again with each acquisition and
        each recording (both: ``docs/explanations/glossary.md``).
    changed
        Called after the state has changed; must return at once.
    queue_bytes
        Limit of the queue. Rows beyond it are not recorded and count as ``queue full``. A queue
        without rows accepts a row group of any size.
    synchronous
        True: `offer` writes on the owner's thread, and raises `RefusedError` if a result cannot be
        stored. If the recorder is also essential, an acquisition counts, while a recording is open,
        only items that are in the file, or that wait for a file that is not created yet.
    essential
        True: a row that cannot be stored is a lost item. False: it is counted as a failure, because
        another recorder stores the same item.
    queue_timeout_s
        Timeout of `offer` for space in the queue, s. Use more than 0 only for a source that may
        wait, such as one that reads files of other programs.

    Attributes
    ----------
    path
        Path of the present recording; None if there is none. It becomes None only when
        `rows_readable` is final.
    rows_readable
        Number of rows of this or the last recording that readers can see; 0 after a start that
        failed. `iocs.areadetector.HdfPlugin.post_recording` posts it as ``NumCaptured_RBV``.
    error
        The last error of the recording: of its start, a write, a flush or its end. A write that
        succeeds removes it; the error of a flush is also removed by a flush that succeeds.
    """

    def __init__(
        self,
        layout: Layout[Result, RowGroup],
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
        self._flush_error = ""
        """The error of the last flush if no other error has followed; the next successful flush
        removes it from `error`."""
        self._logged = ""
        """The last error in the log; it is not logged again."""
        self._changed = changed or (lambda: None)
        self._queue_bytes_max, self._queue_timeout_s = queue_bytes, queue_timeout_s
        self._lost = Counters()
        self._file_lock = threading.RLock()
        """Held by the thread that uses the file."""
        self._queue_changed = threading.Condition()
        self._queue: deque[RowGroup | Callable[[], None]] = deque()
        """Row groups, and callbacks: functions to call when all rows before them are visible."""
        self._bytes = 0
        self._rows_offered = 0
        """Number of rows offered since the last acquisition ended or the recording began; counted
        only if `every` is above 1."""
        self._recordings = 0
        """Number of recordings begun."""
        self._closing = False
        """True after `close` was called: the thread ends when the queue is empty."""
        self._has_ended = False
        """True when the thread takes nothing more from the queue."""
        self._takes_results = False
        """True from the start of a recording until its stop or last row; else `offer` does
        nothing."""
        self._file: RecordingFile[RowGroup] | None = None
        self._before_open: list[RowGroup] = []
        """Row groups that wait until the file can be created."""
        self._rows_wanted = 0
        """Number of rows of the whole recording; 0: no limit."""
        self._rows_written = 0
        """Number of rows in the file of this or the last recording, visible or not."""
        self._unreadable = 0
        """Rows that a flush failed to make visible when a caller waited for them: they count as
        lost until a later flush succeeds."""
        self._unflushed_since = 0.0
        """Time of the first write after the last flush, or of the last flush that failed; 0: no row
        awaits a flush."""
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
        if not self._takes_results:
            return
        try:
            group = self.layout.row_group(result)
            group = None if group is None else self._decimate(group)
        except Exception as error:  # the layout cannot handle this result
            self._fail(error, 1)
            if self.synchronous:
                raise RefusedError("not written", self.error) from error
            return
        if group is None:
            return
        if self.synchronous:
            self._write_now(group)
            return
        size = self.layout.nbytes(group)
        with self._queue_changed:
            if not self._takes_results:  # `stop` was called meanwhile
                return
            if not self._has_room(size):
                self._queue_changed.wait_for(lambda: self._has_room(size), self._queue_timeout_s)
            if not self._has_room(size):
                self._lost.add("queue full", self.layout.rows(group))
                return
            self._bytes += size
            self._queue.append(group)
            self._queue_changed.notify_all()

    def _has_room(self, size: int) -> bool:
        return self._bytes + size <= self._queue_bytes_max or not self._bytes

    def _write_now(self, group: RowGroup) -> None:
        with self._file_lock:
            if self.path is None:  # the recording has just ended
                return
            before = self._lost.as_dict()
            self._write([group], must_create=False)
            causes = [c for c, n in self._lost.as_dict().items() if n > before.get(c, 0)]
            why = self.error
            if self._flush_is_due():
                self._flush(caller_waits=False)
        if causes:
            what = self.layout.describe(group)
            raise RefusedError(causes[0], f"{what}: {why}" if why else what)

    def _decimate(self, group: RowGroup) -> RowGroup | None:
        """Return the rows of a row group that `every` selects; None if there are none."""
        if self.every == 1:
            return group
        rows = self.layout.rows(group)
        first = -self._rows_offered % self.every
        self._rows_offered += rows
        return None if first >= rows else self._select_rows(group, slice(first, None, self.every))

    def _select_rows(self, group: RowGroup, rows: slice) -> RowGroup:
        count = self.layout.rows(group)
        if range(count)[rows] == range(count):  # all rows are selected
            return group
        return self.layout.select(group, rows)

    def end_acquisition(self, done: Callable[[], None]) -> None:
        """End an acquisition; no result may be offered meanwhile.

        Call `done` as `call_when_visible` does, and begin the count of `every` again.
        """
        self._rows_offered = 0
        self.call_when_visible(done)

    def call_when_visible(self, done: Callable[[], None]) -> None:
        """Call `done` when the rows offered so far are visible or counted as lost.

        A recorder that is closed has no such rows, so it calls `done` at once, on this thread.
        """
        with self._queue_changed:
            is_queued = not self._has_ended
            if is_queued:
                self._queue.append(done)
                self._queue_changed.notify_all()
        if not is_queued:
            done()

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of rows that are not, or not completely, in their recording, by cause.

        After a flush that failed while a caller waited for it, ``not written`` includes the rows
        that await the next attempt.
        """
        causes = sum_counts(self._lost.as_dict(), {"not written": self._unreadable})
        return {f"{self.layout.name} {cause}": count for cause, count in causes.items()}

    # ---- starts and stops

    def start(self, path: Path, count: int = 0) -> str:
        """Start a recording; an open one is closed first.

        Parameters
        ----------
        path
            Path of the new file; its directory must exist. The file is created now
            (`Layout.open_early`), or when results come (`Layout.open`).
        count
            Number of rows after which the recording ends by itself; 0: never. Rows that come later
            are not recorded and not counted as lost. If the file cannot be created, all rows that
            come count as lost, also those beyond this number.

        Returns
        -------
        str
            Error message; empty if it succeeded.
        """
        self.stop()
        with self._file_lock:
            self._end()  # another thread may have started one meanwhile
            self.error = _creation_error(path)
            self._rows_written = self.rows_readable = 0
            if not self.error:
                self._rows_wanted, self._rows_offered, self._logged = count, 0, ""
                self._recordings += 1
                try:
                    self._file = self.layout.open_early(path)
                    self.path, self._takes_results = path, True
                except (OSError, DataError) as error:
                    self.error = str(error)
        with self._queue_changed:
            # The thread must compute its pause again: `_pause_s` depends on `path`
            self._queue_changed.notify_all()
        self._changed()
        return self.error

    def stop(self) -> None:
        """Close the recording after the queued rows are written.

        Rows that are not written within `STOP_LIMIT_S` are lost. Rows that are offered meanwhile
        are not of the recording.
        """
        with self._queue_changed:
            self._takes_results = False
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
        """Remove all rows from the queue, so that none gets into the next file.

        Return the number of rows that are lost with them.
        """
        with self._queue_changed:
            callbacks = [each for each in self._queue if callable(each)]
            rows = self._rows([each for each in self._queue if not callable(each)])
            self._queue.clear()
            self._queue.extend(callbacks)
            self._bytes = 0
            self._queue_changed.notify_all()  # there is room again
        return self._count_unwritten(rows)

    def close(self) -> None:
        """Close the recording and end the thread."""
        self.stop()
        with self._queue_changed:
            self._closing = True
            self._queue_changed.notify_all()
        self._thread.join(5.0)

    # ---- the recorder's thread

    def _work(self) -> None:
        while not self._check_end():
            groups, when_visible, recording = self._take_from_queue()
            flushed = False
            with self._file_lock:
                path = self.path
                # These rows are of an earlier recording, whose `stop` timed out
                if recording != self._recordings:
                    self._count_unwritten(self._rows(groups))
                elif groups:
                    self._write(groups, must_create=when_visible is not None)
                if when_visible is not None or self._flush_is_due():
                    flushed = self._flush(caller_waits=when_visible is not None)
                ended = self.path != path
            if when_visible is not None:
                self._call(when_visible)
            if flushed or ended or when_visible is not None:
                self._call(self._changed)

    def _call(self, callback: Callable[[], None]) -> None:
        """Call a function of the owner; an error must not end this thread."""
        try:
            callback()
        except Exception:
            logger.exception("%s: a callback failed", self.layout.name)

    def _check_end(self) -> bool:
        """Return whether the recorder is closed and its queue empty; set `_has_ended` to it."""
        with self._queue_changed:
            self._has_ended = self._closing and not self._queue
            return self._has_ended

    def _take_from_queue(self) -> tuple[list[RowGroup], Callable[[], None] | None, int]:
        """Return up to `GROUPS_PER_WRITE` row groups, the callback after them, `_recordings`."""
        groups: list[RowGroup] = []
        with self._queue_changed:
            while not self._queue and not self._closing:
                if not self._queue_changed.wait(self._pause_s()):
                    break  # the time is over; a flush may be due
            if self._queue:
                self._queue_changed.wait_for(self._should_write_now, GATHER_S)
            when_visible: Callable[[], None] | None = None
            while self._queue and len(groups) < GROUPS_PER_WRITE:
                entry = self._queue.popleft()
                if callable(entry):
                    when_visible = entry
                    break
                self._bytes -= self.layout.nbytes(entry)
                groups.append(entry)
            self._queue_changed.notify_all()  # there is room again
            return groups, when_visible, self._recordings

    def _pause_s(self) -> float:
        """Return the longest pause until the next row, s."""
        # A synchronous recorder has rows to flush that were never in the queue
        is_writing = self._unflushed_since or (self.synchronous and self.path is not None)
        return FLUSH_S if is_writing else IDLE_S

    def _should_write_now(self) -> bool:
        """Return whether writing should start without a wait for more rows."""
        # `_drop_queued` may have emptied the queue during the wait
        return not self._queue or callable(self._queue[-1]) or len(self._queue) >= GROUPS_PER_WRITE

    def _flush_is_due(self) -> bool:
        since = self._unflushed_since
        return bool(since) and time.monotonic() - since > FLUSH_S

    def _write(self, groups: list[RowGroup], must_create: bool) -> None:
        """Write rows; create the file if there is none, see `Layout.open` for `must_create`."""
        if self.path is None:
            self._count_unwritten(self._rows(groups))
            return
        groups = [*self._before_open, *groups]
        self._before_open = []
        try:
            if self._file is None:
                self._file = self.layout.open(self.path, groups, must_create)
        except Exception as error:
            self._fail(error, self._rows(groups))
            return
        if self._file is None:
            self._before_open = groups
            return
        for first in range(0, len(groups), self.layout.at_once):
            self._append(
                self._file, self._limit_to_count(groups[first : first + self.layout.at_once])
            )
        if self._rows_wanted and self._rows_written >= self._rows_wanted:
            self._end()

    def _count_unwritten(self, rows: int) -> int:
        """Count rows as lost, and return their number; 0 if the recording had all its rows."""
        if self._rows_wanted and self._rows_written >= self._rows_wanted:
            return 0
        if rows:
            self._lost.add("not written", rows)
        return rows

    def _rows(self, groups: Sequence[RowGroup]) -> int:
        return sum(self.layout.rows(group) for group in groups)

    def _limit_to_count(self, groups: list[RowGroup]) -> list[RowGroup]:
        """Return the rows up to the requested number of rows of the recording."""
        if not self._rows_wanted:
            return groups
        left, wanted = self._rows_wanted - self._rows_written, []
        for group in groups:
            if left <= 0:
                break
            wanted.append(self._select_rows(group, slice(left)))
            left -= self.layout.rows(wanted[-1])
        return wanted

    def _append(self, file: RecordingFile[RowGroup], groups: list[RowGroup]) -> None:
        if not groups:
            return
        try:
            for cause, count in file.append(groups).items():
                self._lost.add(cause, count)
        except OSError as error:
            self._fail(error, self._rows(groups))
            return
        except Exception as error:  # the rows are wrong, not the disk
            if len(groups) > 1:  # write one by one, so that only the wrong rows are lost
                for group in groups:
                    self._append(file, [group])
            elif isinstance(error, DoesNotFitError):
                self._append_fitting(file, groups[0], error)
            else:
                self._fail(error, self._rows(groups))
            return
        self.error = ""
        self._rows_written = file.appended
        self._unflushed_since = self._unflushed_since or time.monotonic()

    def _append_fitting(
        self, file: RecordingFile[RowGroup], group: RowGroup, error: DoesNotFitError
    ) -> None:
        """Write the rows of a row group whose values fit; count and report the others."""
        if error.fits.any():
            self._append(file, [self.layout.select(group, error.fits)])
        self._lost.add("does not fit", int((~error.fits).sum()))
        self._report(error)

    def _flush(self, caller_waits: bool) -> bool:
        """Make the written rows visible; return whether that was tried."""
        if caller_waits and self._before_open:
            self._write([], must_create=True)
        if self._file is None or not self._unflushed_since:
            return False
        try:
            self.rows_readable = self._file.flush()
        except Exception as error:
            self._report_flush(error)
            self._unflushed_since = time.monotonic()  # for the next attempt
            if caller_waits:
                self._unreadable = self._rows_written - self.rows_readable
            return True
        self._unflushed_since, self._unreadable = 0.0, 0
        self._end_flush_error()
        return True

    def _end(self) -> None:
        """End the recording; rows that wait for a file that cannot be created are lost."""
        if self._before_open and self.path is not None:
            self._write([], must_create=True)
        left, self._before_open = self._before_open, []  # none of them may be in the next recording
        self._count_unwritten(self._rows(left))
        file, self._file, self._takes_results = self._file, None, False
        self._unflushed_since = 0.0
        if file is not None:
            self._close_file(file)
        self.path = None  # the last step, see `path`

    def _close_file(self, file: RecordingFile[RowGroup]) -> None:
        """Flush and close a file; an error is in `error`, and unflushed rows are lost."""
        self._unreadable = 0
        try:
            self.rows_readable = file.flush()
        except Exception as error:
            self._report_flush(error)
        unflushed = self._rows_written - self.rows_readable
        try:
            file.close()  # flushes once more
        except Exception as error:
            self._fail(error, unflushed)
        else:
            self.rows_readable = self._rows_written
            self._end_flush_error()

    def _report_flush(self, error: Exception) -> None:
        self._report(error)
        self._flush_error = self.error

    def _end_flush_error(self) -> None:
        """Remove the message of a flush that failed: all written rows are on the disk now."""
        if self._flush_error:
            self.error = self._logged = self._flush_error = ""

    def _fail(self, error: Exception, count: int) -> None:
        self._report(error)
        if count:
            self._lost.add("not written", count)

    def _report(self, error: Exception) -> None:
        # Errors are reported, not raised: the recorder's thread must continue, because it calls
        # `done` at the end of an acquisition.
        self.error = str(error) or type(error).__name__
        self._flush_error = ""  # `error` is a later one, though its text may be the same
        if self.error == self._logged:  # it may come with every item
            return
        self._logged = self.error
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
