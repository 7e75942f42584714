"""The recorder: writes results to files, on its own thread.

A synchronous recorder writes on the owner's thread, the one that calls `offer`. Its own thread
makes rows visible that the owner's thread has not flushed, and calls the functions given to
`Recorder.call_when_visible`.

Two locks: that of `RowQueue`, and the file's, which is held during each access to the file. No
thread that holds the queue's lock waits for the file's.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

from skywright.acquire.acquisition import RefusedError
from skywright.acquire.counters import Counters, sum_counts
from skywright.acquire.layout import Layout, Result, RowGroup, Writer
from skywright.acquire.row_queue import RowQueue
from skywright.errors import DataError, message_of
from skywright.files.columns import DoesNotFitError

logger = logging.getLogger(__name__)

FLUSH_S = 0.05
"""Time from the first unflushed write to the flush, s. Once the file is created, a row is visible
at most FLUSH_S + 2 * GATHER_S (of `row_queue`) and the time of the writes after it was offered."""
HANG_S = 5.0
"""Time of a write, s, after which `Recorder.error` says that it hangs. It is shorter than the
timeout of a put to ``Capture``, so that a client whose put times out finds the reason."""
STOP_LIMIT_S = 30.0
"""Timeout for the rows in the queue when a recording is stopped, s. It does not end a write that
hangs: the stop ends when the disk answers again."""
QUEUE_BYTES = 256_000_000
"""Default limit of the queue, bytes."""
IDLE_S = 1.0
"""Longest pause of the recorder's thread while there is nothing to write or flush, s."""

_paths_in_use: "dict[Path, Recorder[Any, Any]]" = {}
"""The recorder of each open recording of this process, by path. The files of two recordings with
one path would collide only when rows come, and those of the second one would be lost."""


class Recorder(Generic[Result, RowGroup]):
    """Writes at most one recording at a time.

    All methods may be called from any thread; but a callback must not start or stop a recording.

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
        stored. If the recorder is also essential and a recording is open, an acquisition counts
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
    """

    def __init__(
        self,
        layout: Layout[Result, RowGroup, Any],
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
        self._error = ""
        self._is_flush_error = False
        """Whether `_error` is of a flush: the next successful flush removes it."""
        self._logged = ""
        """The last error in the log. It is not logged again until a recording with rows has been
        closed: while a disk is full, each single file ends with the same error."""
        self._changed = changed or (lambda: None)
        self._lost = Counters()
        self._file_lock = threading.RLock()
        """Held by the thread that uses the file, see `_using_file`."""
        self._used_since = 0.0
        """Time since which a thread has used the file; 0: none uses it."""
        self._queue: RowQueue[RowGroup] = RowQueue(queue_bytes, queue_timeout_s)
        """Accepts rows from the start of a recording until its stop or last row. Its callbacks are
        called when all rows before them are visible."""
        self._rows_offered = 0
        """Number of rows offered since the last acquisition ended or the recording began; counted
        only if `every` is above 1."""
        self._file: Writer | None = None
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
        if not self._queue.accepts_rows:
            return
        try:
            group = self.layout.row_group(result)
            group = None if group is None else self._decimate(group)
        except Exception as error:  # the layout cannot handle this result
            self._fail(error, 1)
            if self.synchronous:
                raise RefusedError("not written", self._error) from error
            return
        if group is None:
            return
        if self.synchronous:
            self._write_now(group)
        elif not self._queue.put(group, self.layout.nbytes(group)):
            self._lost.add("queue full", self.layout.rows(group))

    def _write_now(self, group: RowGroup) -> None:
        with self._using_file():
            if self.path is None:  # the recording has just ended
                return
            before = self._lost.as_dict()
            self._write([group])
            causes = [c for c, n in self._lost.as_dict().items() if n > before.get(c, 0)]
            # A row that the layout refuses sets no error: `_error` is then of an earlier write
            why = self._error if {"not written", "does not fit"}.intersection(causes) else ""
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
        if not self._queue.put_callback(done):
            done()

    @property
    def lost(self) -> Mapping[str, int]:
        """Number of rows that are not, or not completely, in their recording, by cause.

        After a flush that failed while a caller waited for it, ``not written`` includes the rows
        that await the next attempt.
        """
        causes = sum_counts(self._lost.as_dict(), {"not written": self._unreadable})
        return {f"{self.layout.name} {cause}": count for cause, count in causes.items()}

    @property
    def error(self) -> str:
        """The last error of the recording: of its start, a write, a flush or its end.

        The next row that is written removes it; the error of a flush is also removed by a flush
        that succeeds. While a write hangs, the error says so.
        """
        since = self._used_since
        if since and time.monotonic() - since > HANG_S:
            name = self.layout.name
            return f"{name}: no answer from the disk of the file for more than {HANG_S:g} s"
        return self._error

    def forget_error(self) -> None:
        """Remove the last error."""
        self._error = ""

    # ---- starts and stops

    def start(self, path: Path, count: int = 0) -> str:
        """Start a recording; an open one is closed first.

        Parameters
        ----------
        path
            Path of the new file; its directory must exist, and no other recording of this process
            may use the path. The file is created now (`Layout.open_early`), or when results come
            (`Layout.open`).
        count
            Number of rows after which the recording ends by itself; 0: never. Rows that come later
            are not recorded and not counted as lost. If the file is created when rows come,
            and that fails, all rows that come count as lost, also those beyond this number.

        Returns
        -------
        str
            Error message; empty if it succeeded.
        """
        self.stop()
        with self._using_file():
            self._end()  # another thread may have started one meanwhile
            self._rows_written = self.rows_readable = 0
            self._rows_wanted, self._rows_offered = count, 0
            self._error = self._open(path)
        self._changed()
        return self._error

    def _open(self, path: Path) -> str:
        """Open a recording; return why not."""
        if not self._thread.is_alive():
            return f"{path}: not recorded: the recorder is closed"
        if _paths_in_use.setdefault(path, self) is not self:
            return f"{path}: another recording uses this path; choose another name"
        try:
            if not (why := _creation_error(path)):
                self._file = self.layout.open_early(path)
                self.path = path
                self._queue.begin_recording()  # after `path`, on which `_pause_s` depends
            return why
        except (OSError, DataError) as error:
            return str(error)
        finally:
            if self.path is None:
                del _paths_in_use[path]

    def stop(self) -> None:
        """Close the recording after the queued rows are written.

        Rows that are not written within `STOP_LIMIT_S` are lost. Rows that are offered meanwhile
        are not of the recording.
        """
        self._queue.end_recording()
        written = threading.Event()
        self.call_when_visible(written.set)
        in_time = written.wait(STOP_LIMIT_S)
        with self._using_file():
            # No row that is still in the queue may get into the next file
            left = 0 if in_time else self._count_unwritten(self._queue.drop_rows())
            self._end()
            if left:
                self._report(DataError(f"{left} rows were not written within {STOP_LIMIT_S:g} s"))
        self._changed()

    def close(self) -> None:
        """Close the recording and end the thread."""
        self.stop()
        self._queue.close()
        self._thread.join(5.0)

    @contextmanager
    def _using_file(self) -> Iterator[None]:
        """Context that has the file for this thread."""
        with self._file_lock:
            self._used_since = time.monotonic()
            try:
                yield
            finally:
                self._used_since = 0.0

    # ---- the recorder's thread

    def _work(self) -> None:
        while not self._queue.end_if_empty():
            groups, when_visible, recording = self._queue.take(self._pause_s)
            flushed = False
            with self._using_file():
                path = self.path
                # These rows are of an earlier recording, whose `stop` timed out
                if recording != self._queue.recording:
                    self._count_unwritten(groups)
                elif groups:
                    self._write(groups)
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

    def _pause_s(self) -> float:
        """Return the longest time to wait for an entry in the queue, s."""
        # A synchronous recorder has rows to flush that were never in the queue
        is_writing = self._unflushed_since or (self.synchronous and self.path is not None)
        return FLUSH_S if is_writing else IDLE_S

    def _flush_is_due(self) -> bool:
        since = self._unflushed_since
        return bool(since) and time.monotonic() - since > FLUSH_S

    def _write(self, groups: Sequence[RowGroup], must_create: bool = False) -> None:
        """Write rows; create the file if there is none, see `Layout.open` for `must_create`."""
        if self.path is None:
            self._count_unwritten(groups)
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
        while groups:
            batch, groups = self._next_batch(groups)
            if not batch:
                break
            self._append(self._file, batch)
        if self._is_complete:
            self._end()

    @property
    def _is_complete(self) -> bool:
        """Whether the recording has all its rows."""
        return 0 < self._rows_wanted <= self._rows_written

    def _count_unwritten(self, groups: Sequence[RowGroup]) -> int:
        """Count rows as lost, and return their number; 0 if the recording had all its rows."""
        if self._is_complete:
            return 0
        if rows := self._rows(groups):
            self._lost.add("not written", rows)
        return rows

    def _rows(self, groups: Sequence[RowGroup]) -> int:
        return sum(self.layout.rows(group) for group in groups)

    def _next_batch(self, groups: list[RowGroup]) -> tuple[list[RowGroup], list[RowGroup]]:
        """Return the row groups to append now, and those after them.

        The first ones have at most as many rows as the recording still wants. The others are looked
        at again: rows of the first ones may be refused.
        """
        batch, rest = groups[: self.layout.at_once], groups[self.layout.at_once :]
        if not self._rows_wanted:
            return batch, rest
        left = self._rows_wanted - self._rows_written
        for number, group in enumerate(batch):
            rows = self.layout.rows(group)
            if rows > left:
                wanted = [self._select_rows(group, slice(left))] if left else []
                later = self._select_rows(group, slice(left, None))
                return batch[:number] + wanted, [later, *batch[number + 1 :], *rest]
            left -= rows
        return batch, rest

    def _append(self, file: Writer, groups: list[RowGroup]) -> None:
        try:
            for cause, count in self.layout.append(file, groups).items():
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
        if file.appended > self._rows_written:  # else nothing shows that the disk works again
            self._error = ""
        self._rows_written = file.appended
        self._unflushed_since = self._unflushed_since or time.monotonic()

    def _append_fitting(self, file: Writer, group: RowGroup, error: DoesNotFitError) -> None:
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
            self._report(error, of_flush=True)
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
        self._count_unwritten(left)
        file, self._file = self._file, None
        self._queue.end_recording()
        self._unflushed_since = 0.0
        if file is not None:
            self._close_file(file)
        if self.path is not None:
            del _paths_in_use[self.path]
        self.path = None  # the last step, see `path`

    def _close_file(self, file: Writer) -> None:
        """Flush and close a file; an error is in `_error`, and unflushed rows are lost."""
        self._unreadable = 0
        try:
            self.rows_readable = file.flush()
        except Exception as error:
            self._report(error, of_flush=True)
        unflushed = self._rows_written - self.rows_readable
        try:
            file.close()  # flushes once more
        except Exception as error:
            self._fail(error, unflushed)
        else:
            self.rows_readable = self._rows_written
            self._end_flush_error()
            if self._rows_written:
                self._logged = ""

    def _end_flush_error(self) -> None:
        """Remove the message of a flush that failed: all written rows are on the disk now."""
        if self._is_flush_error:
            self._error = self._logged = ""
            self._is_flush_error = False

    def _fail(self, error: Exception, count: int) -> None:
        self._report(error)
        if count:
            self._lost.add("not written", count)

    def _report(self, error: Exception, of_flush: bool = False) -> None:
        # Errors are reported, not raised: the recorder's thread must continue, because it calls
        # `done` at the end of an acquisition.
        self._error = message_of(error)
        self._is_flush_error = of_flush
        if self._error == self._logged:  # it may come with every item
            return
        self._logged = self._error
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
