"""Hints that files have changed: the system's events, or scans at intervals.

These are not sources of the common interface, whose items are complete and in order: a hint may
come twice or be lost. `skywright.instruments.epu.watch.owner.TreeSource` is the source.
"""

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from skywright.instruments.epu.names import EpuFile, recognize
from skywright.instruments.epu.scan import is_file, walk
from skywright.instruments.epu.watch.inotify import InotifyTree

logger = logging.getLogger(__name__)

Signature = tuple[int, int]
"""Size in bytes and time of modification in ns, modulo 2^64."""


@dataclass(slots=True)
class Changes:
    """Files of EPU that have changed since the last `ChangeSource.read`.

    Attributes
    ----------
    finished
        Closed or renamed into place: read them now.
    started
        Created or growing: they may not be complete.
    lost
        Events were lost.
    scan
        The whole directory is to be scanned, though no event was lost.
    """

    finished: dict[str, EpuFile] = field(default_factory=dict)
    started: dict[str, EpuFile] = field(default_factory=dict)
    lost: bool = False
    scan: bool = False


class ChangeSource(Protocol):
    """Gives the changes of a directory; it subscribes when it is made."""

    def read(self, timeout: float) -> Changes:
        """Return what has changed, as soon as there is something, or after `timeout` seconds."""

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""

    def close(self) -> None:
        """Stop listening."""


def signature_of(status: os.stat_result) -> Signature:
    """Return size and time of a file."""
    # Servers give files without a time that of 1601; a database holds 1677 to 2262: 64 bits.
    return status.st_size, (status.st_mtime_ns + 2**63) % 2**64 - 2**63


def changed_files(
    root: Path,
    known: Mapping[str, Signature],
    unlisted: dict[str, str] | None = None,
    on_entry: Callable[[], object] = lambda: None,
) -> Iterable[EpuFile]:
    """Yield the files of EPU below `root` whose size or time is not the known one.

    Parameters
    ----------
    root
        The directory.
    known
        Size and time of files that have been read, by path.
    unlisted
        Filled with the directories and links that cannot be read, and why, by path.
    on_entry
        Called for each file that is found, of EPU or not.
    """
    problems: list[tuple[str, str]] = []
    for path, entry in walk(root, problems, follow_links=True):
        on_entry()
        if not path.endswith((".xml", ".dm")):
            continue
        signature = known.get(path)
        if signature is not None:
            try:
                status = entry.stat()
            except OSError:  # the next scan asks again
                continue
            if signature_of(status) == signature:
                continue
        if file := recognize(path):
            yield file
    if unlisted is not None:
        unlisted.update(problems)


class PollingSource:
    """Looks through the directory at intervals: for network mounts, which give no events.

    Parameters
    ----------
    interval
        Seconds between two scans.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self._awake = threading.Event()
        self._next = time.monotonic() + interval

    def read(self, timeout: float) -> Changes:
        """Return that a scan is due, or nothing after `timeout` seconds."""
        wait = min(timeout, self._next - time.monotonic())
        if wait > 0:
            self._awake.wait(wait)
            self._awake.clear()
        if time.monotonic() < self._next:
            return Changes()
        self._next = time.monotonic() + self.interval
        return Changes(scan=True)

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""
        self._awake.set()

    def close(self) -> None:
        """Nothing is open."""


class InotifySource:
    """Linux's events.

    A new directory is listed once its watch is placed: files that were written before are not
    missed.
    """

    def __init__(self, root: Path) -> None:
        self._changes = Changes()
        self._tree = InotifyTree(root, found=self._add_found)
        self._changes = Changes()  # what was there before is found by the first scan
        self._wake_reader, self._wake_writer = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._tree.fileno(), select.POLLIN)
        self._poll.register(self._wake_reader, select.POLLIN)

    def _add_found(self, path: str, entry: "os.DirEntry[str]") -> None:
        if (file := recognize(path)) and is_file(entry):
            self._changes.finished[path] = file

    def read(self, timeout: float) -> Changes:
        """Return what has changed, as soon as there is something, or after `timeout` seconds."""
        ready = {descriptor for descriptor, _ in self._poll.poll(max(timeout, 0) * 1000)}
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        if self._tree.fileno() in ready:
            for path, mask, _ in self._tree.read(0):
                self._take(path, mask)
        self._changes.scan = self._tree.watch_failed()
        changes, self._changes = self._changes, Changes()
        return changes

    def _take(self, path: str, mask: Any) -> None:
        flags, changes = self._tree.flags, self._changes
        if mask & flags.Q_OVERFLOW:
            changes.lost = True
        elif not mask & flags.ISDIR and (file := recognize(path)):
            if mask & (flags.CLOSE_WRITE | flags.MOVED_TO):
                changes.finished[path] = file
                changes.started.pop(path, None)
            elif path not in changes.finished:
                changes.started[path] = file

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""
        os.write(self._wake_writer, b"x")

    def close(self) -> None:
        """Stop listening."""
        self._tree.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)


class WatchdogSource:
    """The events of other systems (Windows, macOS) through the library watchdog."""

    def __init__(self, root: Path) -> None:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        queue: SimpleQueue[Any] = SimpleQueue()
        self._queue = queue
        self._root = root

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                queue.put(event)

        self._observer = Observer()
        self._observer.schedule(Handler(), str(root), recursive=True)
        self._observer.start()

    def read(self, timeout: float) -> Changes:
        """Return what has changed, as soon as there is something, or after `timeout` seconds."""
        changes = Changes()
        wait = max(timeout, 0)
        while True:
            try:
                event = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
            except Empty:
                return changes
            wait = 0
            if event is not None:
                self._take(event, changes)

    def _take(self, event: Any, changes: Changes) -> None:
        if event.event_type in ("deleted", "opened", "closed_no_write"):
            return
        source = event.dest_path if event.event_type == "moved" else event.src_path
        path = Path(os.fsdecode(source))
        try:
            relative = path.relative_to(self._root).as_posix()
        except ValueError:
            return
        if event.is_directory:
            # Files may have been written before the system told of the directory.
            changes.scan = changes.scan or event.event_type in ("created", "moved")
        elif file := recognize(relative):
            finished = event.event_type in ("moved", "closed")
            (changes.finished if finished else changes.started)[relative] = file

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""
        self._queue.put(None)

    def close(self) -> None:
        """Stop listening."""
        self._observer.stop()
        self._observer.join()


def open_source(root: Path, polling: float | None = None) -> ChangeSource:
    """Return the best source for this system, subscribed.

    Parameters
    ----------
    root
        The directory to follow.
    polling
        Seconds between scans; None uses the system's events.
    """
    if polling is not None:
        return PollingSource(polling)
    if sys.platform != "linux":
        return WatchdogSource(root)
    try:
        return InotifySource(root)
    except OSError as error:
        logger.warning("no file events (%s): the directory is polled", error)
        return PollingSource()
