"""The journal: writes the documents of a run to disk before the other subscribers get them."""

import asyncio
import atexit
import json
import logging
import os
import threading
import urllib.parse
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skywright.callbacks.run_ids import RunIds
from skywright.errors import ConfigError, DataError, is_disk_full
from skywright.processes.locks import lock

SUFFIX = ".jsonl"
TEMPORARY_SUFFIX = ".jsonl.new"
"""Suffix until the start document is on disk. Readers ignore such files; the ingester renames or
deletes one whose writer is dead."""
RETRY_S = 1.0
"""Period of attempts to write after an error, such as a full disk, s."""
BACKLOG_BYTES = 64 << 20
"""Maximum size of the documents in memory while they cannot be written, bytes."""

log = logging.getLogger(__name__)


class _Encoder(json.JSONEncoder):
    """Encodes any value of a document as JSON; NaN and infinity are kept.

    Numpy's dates and durations in ns become integers. A value that has no form in JSON becomes its
    text.
    """

    def default(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        # `.item()` of a long double is a long double, no Python number; the same holds for the
        # complex one
        if isinstance(value, np.longdouble):
            return float(value)
        if isinstance(value, np.clongdouble):
            return complex(value)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, set | frozenset | deque):
            return list(value)
        if hasattr(value, "__array__"):
            return np.asarray(value).tolist()
        log.warning("%r cannot be written as JSON; its text is stored", type(value).__name__)
        return str(value)


_ENCODER = _Encoder(ensure_ascii=False)


def _with_text_keys(value: Any) -> Any:
    """Return a value as JSON can have it; a key that JSON cannot have becomes its text."""
    if isinstance(value, Mapping):
        return {_text_key(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_text_keys(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _with_text_keys(_ENCODER.default(value))


def _text_key(key: Any) -> Any:
    if key is None or isinstance(key, str | int | float):
        return key
    log.warning("the key %r cannot be written as JSON; its text is stored", key)
    return str(key)


def encode_line(name: str, doc: Mapping[str, Any]) -> bytes:
    """Return one line of a journal, its newline included.

    Raises
    ------
    DataError
        If the document contains itself, or is nested too deeply.
    """
    try:
        try:
            text = _ENCODER.encode((name, doc))
        except TypeError:  # a key that is neither text nor number
            text = _ENCODER.encode((name, _with_text_keys(doc)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} document cannot be written as JSON: {error}") from error
    return text.encode(errors="replace") + b"\n"  # tiled takes no lone surrogates


def journal_path(directory: Path, start_uid: str) -> Path:
    """Return the path of the journal of the run `start_uid`."""
    return directory / (urllib.parse.quote(start_uid, safe="") + SUFFIX)


def uid_of(journal: Path) -> str:
    """Return the uid of the run of a journal, which may still have `TEMPORARY_SUFFIX`."""
    return urllib.parse.unquote(journal.name.partition(SUFFIX)[0])


def fsync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass
class _RunFile:
    """The journal of one run; the file is locked while it is open."""

    path: Path
    fd: int = -1
    size: int = 0  # bytes up to the last complete line
    has_final_name: bool = False
    untyped: dict[str, list[str]] = field(default_factory=dict)
    """Data keys without ``dtype_numpy``, by uid of a descriptor that has had no event."""

    def write(self, data: bytes, name: str) -> None:
        """Append `data` completely or not at all.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if self.fd < 0:
            self._open()
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self.fd, left) :]
            if name in ("start", "stop"):
                os.fsync(self.fd)
            # Readers see the file only after the start document is complete and the lock is held
            if name == "start":
                if not self.has_final_name:  # else the last attempt renamed it; its sync failed
                    self.path.with_suffix(TEMPORARY_SUFFIX).rename(self.path)
                    self.has_final_name = True
                fsync_directory(self.path.parent)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.fd, self.size)
            raise
        self.size += len(data)
        if name == "stop":
            self.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = self.path.with_suffix(TEMPORARY_SUFFIX)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        while self.fd < 0:
            fd = os.open(path, flags, 0o644)
            try:
                lock(fd)
                if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
                    self.fd = fd  # else an ingester removed the empty file before the lock was held
            finally:
                if self.fd != fd:
                    os.close(fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True)
class _QueuedLine:
    file: _RunFile
    name: str
    data: bytes


class Journal:
    """Writes each run's documents to a JSON-lines file of its own.

    Subscribe it first: ``RE.subscribe(Journal(directory, RE))``. When the call returns, the
    operating system has the document. So SIGKILL of this process loses nothing, except documents
    that wait in memory. Start and stop documents are synced to the disk. While the journal cannot
    be written (a full disk), documents wait in memory, in order, and the RunEngine is suspended
    until they are written.

    Parameters
    ----------
    directory
        Directory of the journals; created if missing.
    RE
        The RunEngine that emits the documents. Without one, a call of the journal blocks while more
        than `backlog_bytes` wait; `trouble` is the reason.
    backlog_bytes
        Maximum size of the documents in memory, bytes. With a RunEngine, a call beyond it raises
        `DataError`; a stop document is always taken.
    """

    def __init__(
        self, directory: Path, RE: Any = None, *, backlog_bytes: int = BACKLOG_BYTES
    ) -> None:
        self.directory = Path(directory)
        self._engine = RE
        self._limit = backlog_bytes
        self._lock = threading.RLock()
        self._ids = RunIds()
        self._files: dict[str, _RunFile] = {}
        """Files of the runs in progress, by uid of the run."""
        self._backlog: deque[_QueuedLine] = deque()
        self._backlog_size = 0
        self._refused = 0
        """Number of documents refused with `DataError` since the backlog was last empty."""
        self._backlog_empty = threading.Event()
        self._backlog_empty.set()
        self._closed = threading.Event()
        self._suspended = False
        self.trouble: str | None = None
        """Why documents cannot be written now; None: they can."""
        _open_journals.add(self)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Write one document.

        Raises
        ------
        ConfigError
            If the run has a journal in `directory` already (two journals on one RunEngine).
        DataError
            If the document cannot be stored: it has no JSON form, it starts a run after `close`, or
            documents cannot be written and, with this document, more than `backlog_bytes` would
            wait.
        """
        with self._lock:
            file = self._route(name, doc)
            if file is None:
                log.error("journal: %s document of no open run is not stored: %s", name, doc)
                return
            if name in ("event", "event_page") and doc["descriptor"] in file.untyped:
                self._write_dtypes(file, name, doc)
            self._write_or_queue(file, name, encode_line(name, doc))
            if name == "stop":  # `_RunFile.write` closes the file, now or with the backlog
                self._files = {uid: each for uid, each in self._files.items() if each is not file}
        if self._engine is None:
            self._wait_while_over_limit()

    def close(self) -> None:
        """Write the documents that wait, if that is possible now, and close all files.

        The ingester adds a stop document (``interrupted``) to runs that are open.
        """
        with self._lock:
            self._closed.set()
            if self._backlog and not self._write_backlog():
                log.error(
                    "%s: %d documents are lost: %s",
                    self.directory,
                    len(self._backlog),
                    self.trouble,
                )
            self._backlog_empty.set()
            self._drop_files()

    def _drop_files(self) -> None:
        """Close all files; documents that wait are not written."""
        # A run whose stop document is in the backlog is not in `_files` any more
        for file in (*self._files.values(), *(line.file for line in self._backlog)):
            file.close()
        self._files, self._backlog, self._backlog_size = {}, deque(), 0

    # Routing

    def _route(self, name: str, doc: Mapping[str, Any]) -> _RunFile | None:
        """Return the file of a document's run; None if no such run is open.

        A start document adds the file; its first line creates it on disk. The data keys of a
        descriptor that have no ``dtype_numpy`` are noted.
        """
        if name == "start":
            self._open_run(doc)
        file = self._files.get(self._ids.of(name, doc) or "")
        if file is not None and name == "descriptor":
            keys = doc["data_keys"].items()
            untyped = [k for k, v in keys if "external" not in v and "dtype_numpy" not in v]
            if untyped:
                file.untyped[doc["uid"]] = untyped
        return file

    def _open_run(self, doc: Mapping[str, Any]) -> None:
        if self._closed.is_set():
            raise DataError(f"{self.directory}: the journal is closed; start a new session")
        path = journal_path(self.directory, doc["uid"])
        if path.exists() or path.with_suffix(TEMPORARY_SUFFIX).exists():
            raise ConfigError(
                f"{path}: this run has a journal already; subscribe only one Journal to each "
                "RunEngine"
            )
        self._suspended = False  # the abort of a plan also ended its suspension
        self._files[str(doc["uid"])] = _RunFile(path)

    def _write_dtypes(self, file: _RunFile, name: str, doc: Mapping[str, Any]) -> None:
        """Write a line ``dtypes`` with the dtypes of a descriptor's arrays, which JSON loses.

        It is not a document of event-model; `store.journal_contents.JournalContents` reads it.
        """
        data = doc["data"]
        if name == "event_page":
            if not len(doc["seq_num"]):
                return
            data = {key: values[0] for key, values in data.items()}
        keys = file.untyped.pop(doc["descriptor"])
        arrays = {k: data[k].dtype for k in keys if isinstance(data.get(k), np.ndarray)}
        if arrays:
            types = {key: dtype.str for key, dtype in arrays.items()}
            doc = {"descriptor": doc["descriptor"], "dtype_numpy": types}
            self._write_or_queue(file, "dtypes", encode_line("dtypes", doc))

    # Writing, and waiting for space

    def _write_or_queue(self, file: _RunFile, name: str, data: bytes) -> None:
        if not self._backlog:
            try:
                file.write(data, name)
                return
            except OSError as error:
                self._report(error, file.path)
        elif self._is_over_limit(name, len(data)):
            self._refused += 1
            raise DataError(
                f"{file.path}: {self.trouble}; {self._backlog_size} bytes wait already, "
                f"{self._limit} is the limit: start the run again when it can be written"
            )
        self._backlog.append(_QueuedLine(file, name, data))
        self._backlog_size += len(data)
        if self._backlog_empty.is_set():
            self._backlog_empty.clear()
            threading.Thread(target=self._retry, name="journal-retry", daemon=True).start()
        if name != "stop":  # A RunEngine that is asked to suspend after its last message never ends
            self._suspend()

    def _is_over_limit(self, name: str, size: int) -> bool:
        # The stop document is small, and without it the run's file stays open and locked
        if self._engine is None or name == "stop":
            return False
        return self._backlog_size + size > self._limit

    def _report(self, error: OSError, path: Path) -> None:
        reason = f"{path.parent}: cannot be written: {error.strerror or error}"
        if reason != self.trouble:
            advice = ", free some space" if is_disk_full(error) else ""
            log.error("journal: %s; documents wait in memory%s", reason, advice)
        self.trouble = reason

    def _suspend(self) -> None:
        """Suspend the RunEngine until the backlog is written.

        Does nothing if the plan is not resumable now; the next document calls it again.
        """
        engine = self._engine
        if engine is None or self._suspended or engine.state != "running" or not engine.resumable:
            return
        self._suspended = True
        backlog_empty = self._backlog_empty

        async def wait_for_space() -> None:
            while not backlog_empty.is_set():
                await asyncio.sleep(0.05)

        engine.request_suspend(wait_for_space, justification=f"The journal waits: {self.trouble}")

    def _retry(self) -> None:
        while not self._closed.wait(RETRY_S):
            with self._lock:
                if self._write_backlog():
                    return

    def _write_backlog(self) -> bool:
        """Write the queued documents in order; return True if none is left."""
        while self._backlog:
            first = self._backlog[0]
            try:
                first.file.write(first.data, first.name)
            except OSError as error:
                self._report(error, first.file.path)
                return False
            self._backlog.popleft()
            self._backlog_size -= len(first.data)
        lost = f"{self._refused} documents were refused" if self._refused else "nothing was lost"
        log.warning("journal: %s: can be written again, %s", self.directory, lost)
        self._refused = 0
        self.trouble = None
        self._suspended = False
        self._backlog_empty.set()
        return True

    def _wait_while_over_limit(self) -> None:
        while self._backlog_size > self._limit:  # `close` empties the backlog too
            self._backlog_empty.wait(RETRY_S)

    def release_after_fork(self) -> None:
        """Close the files in a forked child; else their locks would outlive the parent.

        The parent writes the waiting documents.
        """
        self._drop_files()
        self._refused, self._suspended, self.trouble = 0, False, None
        # Threads of the parent may hold the old locks; they do not exist in the child
        was_closed = self._closed.is_set()
        self._lock = threading.RLock()
        self._backlog_empty, self._closed = threading.Event(), threading.Event()
        self._backlog_empty.set()
        if was_closed:
            self._closed.set()


_open_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _release_all() -> None:
    for journal in list(_open_journals):
        journal.release_after_fork()


@atexit.register
def _close_all() -> None:
    for journal in list(_open_journals):
        journal.close()


os.register_at_fork(after_in_child=_release_all)
