"""The watcher of a directory: subscribes to changes, scans, records, and scans again."""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from skywright.errors import ConfigError
from skywright.instruments.epu.database import Database, is_away, reason_of
from skywright.instruments.epu.names import EpuFile, Kind
from skywright.instruments.epu.watch.backlog import Backlog
from skywright.instruments.epu.watch.changes import (
    Changes,
    ChangeSource,
    Signature,
    changed_files,
    open_source,
    signature_of,
)
from skywright.instruments.epu.watch.importer import Failure, FileImporter, Outcome

logger = logging.getLogger(__name__)

BATCH = 100
"""Files of one transaction; between two batches the kernel's events are taken up."""
RESCAN_S = 60.0
"""Seconds between scans beside the events, for mounts that give none for some writers."""
LIST_AGAIN_S = 1.0
"""Seconds to the next scan after one that could not list a directory; doubled each time."""
DATABASE_RETRY_S = 1.0


@dataclass
class WatchState:
    """How a watcher is doing; numbers count from its start unless they say otherwise.

    Attributes
    ----------
    recorded
        Entities of the directory in the database, by kind of file.
    last
        Natural id of the last entity of each kind.
    latency
        Seconds from a file's event to the commit of its entity, of the last ones.
    commits
        Monotonic time of a commit and number of its new micrographs, of the last ones.
    unreadable
        Files that cannot be read and directories that cannot be listed at present.
    queue
        Files that wait.
    sequence
        Number of the last commit.
    rescans, lost_events
        Scans after the first one; times that the system has lost events.
    scanned
        Whether the first scan has found all files.
    caught_up
        Whether what the first scan found has been read.
    database_error
        Why the database cannot be written at present; empty if it can.
    """

    recorded: Counter[str] = field(default_factory=Counter)
    last: dict[str, str] = field(default_factory=dict)
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    commits: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=1000))
    unreadable: int = 0
    queue: int = 0
    sequence: int = 0
    rescans: int = 0
    lost_events: int = 0
    scanned: bool = False
    caught_up: bool = False
    database_error: str = ""

    def rate(self, window: float = 10.0) -> float:
        """Return new micrographs per second over the last `window` seconds."""
        since = time.monotonic() - window
        return sum(count for when, count in list(self.commits) if when > since) / window


def watched_root(directory: Path) -> Path:
    """Return the absolute path of a directory to watch; raise ConfigError if it cannot be."""
    root = directory.resolve()
    if not root.is_dir():
        raise ConfigError(f"{directory}: not a directory; expected the directory that EPU writes")
    try:
        str(root).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{root!r}: the path is not UTF-8; rename it") from error
    return root


class Watcher:
    """Follows one directory and records every entity in the database.

    Whether it starts before, while or after EPU writes, the database holds the same in the end:
    it subscribes to changes first, then scans, then takes what has changed meanwhile.

    Parameters
    ----------
    root
        The directory: a visit, a session, or above.
    database
        The entity database.
    polling
        Seconds between scans on a mount without events; None uses the system's events.
    rescan
        Seconds between scans beside the events; 0 is never.
    on_commit
        Called after each commit with what it stored.
    """

    def __init__(
        self,
        root: Path,
        database: Database,
        polling: float | None = None,
        rescan: float = RESCAN_S,
        on_commit: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.root = watched_root(root)
        self.database = database
        self.state = WatchState()
        self.backlog = Backlog()
        self.unlisted: dict[str, str] = {}
        """Why a directory could not be listed by the last scan, by its path."""
        self._list_again_s = LIST_AGAIN_S
        self._not_utf8: dict[str, str] = {}
        """Path of a file, by what stands for it in `unreadable`."""
        self.on_commit = on_commit
        self._rescan = rescan
        self._polling = polling
        self.stopped = threading.Event()
        """Set by `stop`; who lets `run` begin anew clears it."""
        self._has_ended = False
        self._source_lock = threading.Lock()
        """Held while the source is woken or closed: a closed pipe's number may be another file."""
        self._load()
        self.unreadable = dict(self._importer.memory.unreadable)
        """Why a file cannot be read, by its path."""
        self._source: ChangeSource = open_source(self.root, polling)  # before the first scan
        self.state.recorded.update(kind for kind, _ in self._importer.memory.seen)
        self._next_scan = 0.0
        self._last_change = time.monotonic()
        self._note_progress()

    def _note_progress(self) -> None:
        self._progress_at = time.monotonic()

    def silence(self) -> float:
        """Return the seconds since anything was looked at; 0 when `run` has ended."""
        return 0.0 if self._has_ended else time.monotonic() - self._progress_at

    @property
    def known(self) -> dict[str, Signature]:
        """Size and time of each file that needs no reading, by path."""
        return self._importer.memory.known

    @property
    def sessions_missing(self) -> list[str]:
        """Directories of sessions whose ``EpuSession.dm`` has not come."""
        return self._importer.memory.sessions_missing

    def stop(self) -> None:
        """End `run` soon; callable from other threads."""
        self.stopped.set()
        with self._source_lock:
            if not self._has_ended:
                self._source.wake()

    def run(self, idle_exit: float | None = None) -> None:
        """Follow the directory until `stop`, or until nothing has happened for `idle_exit` s.

        It can be called again after it has ended, with an error or without one; after `stop`, once
        `stopped` is cleared.
        """
        if self._has_ended:
            self._load()
            self._source = open_source(self.root, self._polling)
            self._note_progress()
            self._has_ended = False
        try:
            self.scan()
            while not self.stopped.is_set():
                if not self.step(self._wait(idle_exit)):
                    idle = time.monotonic() - self._last_change
                    if idle_exit is not None and idle >= idle_exit and not self.backlog.ready:
                        self.scan()  # for what gave no event, as an atlas beside the directory
                        if not self.backlog.ready:
                            break
            self._last_try()
        finally:
            with self._source_lock:
                self._has_ended = True
                self._source.close()

    def _load(self) -> None:
        """Read anew what the database holds of the directory; drop what is in memory only."""
        self._importer = FileImporter(self.root, self.database)
        self._is_stale = False

    def _wait(self, idle_exit: float | None) -> float:
        """Return how many seconds may pass without an event until something is to be done."""
        now = time.monotonic()
        if self.backlog.ready:
            return 0.0
        times = [now + 1.0]
        due = self.backlog.next_due()
        if due is not None:
            times.append(due)
        if self._rescan or self.unlisted:
            times.append(self._next_scan)
        if idle_exit is not None:
            times.append(self._last_change + idle_exit)
        return max(0.0, min(times) - now)

    def step(self, timeout: float) -> bool:
        """Take up changes and record one batch; return whether there was anything new."""
        self._note_progress()
        changes = self._source.read(timeout)
        changed = self._take(changes)
        self.state.lost_events += changes.lost
        is_due = (self._rescan or self.unlisted) and time.monotonic() >= self._next_scan
        if changes.lost or changes.scan or is_due:
            changed |= self.scan()
        batch = self.backlog.take(BATCH, time.monotonic())
        if batch:
            changed |= self._record(batch)
        self.state.queue = len(self.backlog)
        self.state.caught_up |= self.state.scanned and not self.backlog.ready
        if changed:
            self._last_change = time.monotonic()
        return changed

    def _take(self, changes: Changes) -> bool:
        now = time.monotonic()
        for file in changes.finished.values():
            if self._can_be_named(file):
                self.backlog.add(file, now)
        for file in changes.started.values():
            if self._can_be_named(file):
                self.backlog.add_started(file, now)
        return bool(changes.finished or changes.started)

    def _can_be_named(self, file: EpuFile) -> bool:
        """Return whether a database can hold the file's path; report a path that is not UTF-8."""
        try:
            file.path.encode()
        except UnicodeEncodeError:
            readable = os.fsencode(file.path).decode(errors="backslashreplace")
            if readable not in self.unreadable:
                reason = "the path is not UTF-8: rename the file or its directory"
                logger.warning("%s: %s", readable, reason)
                self.unreadable[readable], self._not_utf8[readable] = reason, file.path
                self.state.unreadable = len(self.unreadable) + len(self.unlisted)
            return False
        return True

    def scan(self) -> bool:
        """Look through the directory for files that changed; return whether there were any."""
        now = time.monotonic()
        before = len(self.backlog)
        for name in list(self.unreadable):
            path = self._not_utf8.get(name, name)
            if not os.access(self.root / path, os.F_OK):  # it was removed
                del self.unreadable[name]
                self.known.pop(path, None)
        unlisted: dict[str, str] = {}
        known = self._importer.memory.known
        for file in changed_files(self.root, known, unlisted, self._note_progress):
            if self.backlog.is_in_trouble(file.path) or self._is_still_closed(file.path):
                continue
            if self._can_be_named(file):
                self.backlog.add(file, now)
        with suppress(OSError):
            if self.known and not any(self.root.iterdir()):  # as where a disk was mounted
                unlisted["."] = "it is empty, though files of it are recorded"
        self._add_atlases_beside(now)
        self.state.rescans += self.state.scanned
        self.state.scanned = True
        self._next_scan = time.monotonic() + self._take_unlisted(unlisted)
        return len(self.backlog) > before

    def _is_still_closed(self, path: str) -> bool:
        """Return whether a file that could not be read may still not be read."""
        return path in self.unreadable and not os.access(self.root / path, os.R_OK)

    def _take_unlisted(self, unlisted: dict[str, str]) -> float:
        """Note the directories that a scan could not list; return the pause until the next, s."""
        for directory in unlisted.keys() - self.unlisted.keys():
            logger.warning("%s/%s: %s", self.root, directory, unlisted[directory])
            self._list_again_s = LIST_AGAIN_S
        self.unlisted = unlisted
        self.state.unreadable = len(self.unreadable) + len(self.unlisted)
        if not unlisted:
            self._list_again_s = LIST_AGAIN_S
            return self._rescan or 0.0
        pause, self._list_again_s = self._list_again_s, min(2 * self._list_again_s, RESCAN_S)
        return min(pause, self._rescan or pause)

    def _add_atlases_beside(self, now: float) -> None:
        """Add to the backlog what has changed of the atlases that are not below the directory."""
        memory = self._importer.memory
        for candidates in memory.candidates.values():
            for path in candidates:
                try:
                    status = (self.root / path).stat()
                except OSError:
                    continue
                known = memory.known.get(path) == signature_of(status)
                waits = self.backlog.is_in_trouble(path) or self._is_still_closed(path)
                if path.startswith("../") and not known and not waits:
                    self.backlog.add(EpuFile(Kind.ATLAS, path, ""), now)
                break

    def _record(self, batch: list[tuple[EpuFile, float]]) -> bool:
        """Record a batch; return whether anything was committed."""
        try:
            return self._record_taken(batch)
        finally:
            self.backlog.forget_taken()

    def _record_taken(self, batch: list[tuple[EpuFile, float]]) -> bool:
        try:
            if self._is_stale:
                self._load()
            outcome = self._importer.record(self._files(batch))
        except Exception as error:
            if is_away(error):
                self._database_failed(batch, error)
                return True
            # One file must not keep the others from being recorded.
            try:
                self._load()
            except SQLAlchemyError as away:
                self._database_failed(batch, away)
                return True
            if len(batch) > 1:
                found = [self._record_taken([each]) for each in batch]
                return any(found)
            file = batch[0][0]
            logger.exception("%s: cannot be recorded", file.path)
            signature = None
            with suppress(OSError):
                signature = signature_of((self.root / file.path).stat())
            outcome = Outcome(failures=[Failure(file, f"cannot be recorded: {error}", signature)])
        self.state.database_error = ""
        now = time.monotonic()
        for file in outcome.read:
            self.backlog.done(file.path)
            self.unreadable.pop(file.path, None)
        given_up = []
        for failure in outcome.failures:
            again = not failure.final and self.backlog.failed(failure, now)
            self.unreadable[failure.file.path] = failure.reason
            if not again:
                self.backlog.done(failure.file.path)
                given_up.append(failure)
                logger.warning("%s: %s", failure.file.path, failure.reason)
        if any(file.kind is Kind.SESSION for file in outcome.read):
            self._add_atlases_beside(now)
        self._count(outcome, {file.path: since for file, since in batch}, now)
        if outcome.events:
            self.on_commit(outcome)
        try:
            self._importer.give_up(given_up)
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            self._database_failed([(failure.file, now) for failure in given_up], error)
            return True
        return bool(outcome.events)

    def _files(self, batch: list[tuple[EpuFile, float]]) -> Iterator[EpuFile]:
        for file, _ in batch:
            self._note_progress()
            yield file

    def _database_failed(self, batch: list[tuple[EpuFile, float]], error: Exception) -> None:
        """Keep the files for another try, which first reads the database anew."""
        reason = reason_of(error)
        if not self.state.database_error:
            logger.error("the entity database: %s; trying again", reason)
        self.state.database_error = reason
        self._is_stale = True  # the memory has what the transaction has not stored
        self.stopped.wait(DATABASE_RETRY_S)
        for file, since in batch:
            self.backlog.add(file, since)

    def _count(self, outcome: Outcome, came: dict[str, float], now: float) -> None:
        state = self.state
        state.unreadable = len(self.unreadable) + len(self.unlisted)
        if not outcome.events:
            return
        state.sequence += 1
        new = sum(
            (event.kind, event.event) == ("micrograph", "created") for event in outcome.events
        )
        state.commits.append((now, new))
        for event in outcome.events:
            state.recorded[event.kind] += event.event == "created"
            state.last[event.kind] = event.id
            state.latency.append(now - came.get(event.path, now))

    def _last_try(self) -> None:
        """Read once more what could not be read, and record the reasons."""
        now = time.monotonic()
        waiting = [(failure.file, now) for failure in self.backlog.troubles()]
        for start in range(0, len(waiting), BATCH):
            self._record(waiting[start : start + BATCH])
            if self.state.database_error:
                return
        self._importer.give_up(self.backlog.troubles())
