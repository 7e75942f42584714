"""Where the news of changed files comes from: the kernel's events, or looking again and again."""

import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from skywright.instruments.epu.names import EpuFile, recognize

logger = logging.getLogger(__name__)

Signature = tuple[int, int]
"""Size in bytes and time of modification in ns."""


@dataclass(slots=True)
class Changes:
    """Files of EPU that have changed since the last look.

    Attributes
    ----------
    finished
        Closed or renamed into place: read them now.
    started
        Created or growing: they may not be complete.
    lost
        Events were lost, so the whole directory must be scanned.
    """

    finished: dict[str, EpuFile] = field(default_factory=dict)
    started: dict[str, EpuFile] = field(default_factory=dict)
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.finished or self.started or self.lost)


class ChangeSource(Protocol):
    """Gives the changes of a directory; it subscribes when it is made."""

    def read(self, timeout: float) -> Changes:
        """Return what has changed, as soon as there is something, or after `timeout` seconds."""

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""

    def close(self) -> None:
        """Stop listening."""


def changed_files(
    root: Path, known: Mapping[str, Signature], problems: list[str] | None = None
) -> Iterable[EpuFile]:
    """Yield the files of EPU below `root` whose size or time is not the known one.

    Parameters
    ----------
    root
        The directory.
    known
        Size and time of files that have been read, by path.
    problems
        Directories that cannot be listed are appended.
    """
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        prefix = f"{directory}/" if directory else ""
        try:
            with os.scandir(f"{root}/{directory}") as entries:
                for entry in entries:
                    name = entry.name
                    if not name.endswith((".xml", ".dm")):
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(prefix + name)
                        continue
                    path = prefix + name
                    signature = known.get(path)
                    if signature is None:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(path)
                        elif entry.is_file() and (file := recognize(path)):
                            yield file
                        continue
                    status = entry.stat()
                    if (status.st_size, status.st_mtime_ns) != signature and (
                        file := recognize(path)
                    ):
                        yield file
        except FileNotFoundError:
            continue  # removed in the meantime
        except OSError as error:
            logger.warning("%s/%s: %s", root, directory, error.strerror)
            if problems is not None:
                problems.append(directory)


class PollingSource:
    """Looks through the directory at intervals: for network mounts, which give no events.

    Parameters
    ----------
    interval
        Seconds between two scans.
    """

    def __init__(self, interval: float = 1.0) -> None:
        from threading import Event

        self.interval = interval
        self._awake = Event()
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
        return Changes(lost=True)

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""
        self._awake.set()

    def close(self) -> None:
        """Nothing is open."""


class InotifySource:
    """Linux's events, with a watch on every directory below the root.

    A new directory is listed once its watch is placed: files that were written before are not
    missed.
    """

    def __init__(self, root: Path) -> None:
        from inotify_simple import INotify, flags

        self._root = root
        self._flags = flags
        self._mask = (
            flags.CLOSE_WRITE
            | flags.MOVED_TO
            | flags.CREATE
            | flags.MODIFY
            | flags.ONLYDIR
            | flags.DONT_FOLLOW
        )
        self._inotify = INotify()
        self._wake_reader, self._wake_writer = os.pipe()
        self._directories: dict[int, str] = {}
        self._watch("", Changes())
        import select

        self._poll = select.poll()
        self._poll.register(self._inotify.fileno(), select.POLLIN)
        self._poll.register(self._wake_reader, select.POLLIN)

    def _watch(self, directory: str, changes: Changes) -> None:
        """Watch a directory and all below, and take the files that are there already."""
        waiting = [directory]
        while waiting:
            directory = waiting.pop()
            path = f"{self._root}/{directory}" if directory else str(self._root)
            prefix = f"{directory}/" if directory else ""
            try:
                self._directories[self._inotify.add_watch(path, self._mask)] = directory
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(prefix + entry.name)
                        elif (file := recognize(prefix + entry.name)) and entry.is_file():
                            changes.finished[file.path] = file
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed in the meantime
            except OSError as error:
                if error.errno == 28:  # ENOSPC: fs.inotify.max_user_watches
                    raise
                logger.warning("%s: %s", path, error.strerror)

    def read(self, timeout: float) -> Changes:
        """Return what has changed, as soon as there is something, or after `timeout` seconds."""
        changes = Changes()
        ready = {descriptor for descriptor, _ in self._poll.poll(max(timeout, 0) * 1000)}
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
        if self._inotify.fileno() in ready:
            for event in self._inotify.read(timeout=0):
                self._take(event, changes)
        return changes

    def _take(self, event: Any, changes: Changes) -> None:
        flags = self._flags
        if event.mask & flags.Q_OVERFLOW:
            changes.lost = True
            return
        directory = self._directories.get(event.wd)
        if directory is None:
            return
        if event.mask & flags.IGNORED:
            del self._directories[event.wd]
            return
        path = f"{directory}/{event.name}" if directory else event.name
        if event.mask & flags.ISDIR:
            if event.mask & (flags.CREATE | flags.MOVED_TO):
                self._watch(path, changes)
            return
        file = recognize(path)
        if file is None:
            return
        if event.mask & (flags.CLOSE_WRITE | flags.MOVED_TO):
            changes.finished[path] = file
            changes.started.pop(path, None)
        elif path not in changes.finished:
            changes.started[path] = file

    def wake(self) -> None:
        """Let a `read` of another thread return at once."""
        os.write(self._wake_writer, b"x")

    def close(self) -> None:
        """Stop listening."""
        self._inotify.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)


class WatchdogSource:
    """The events of other systems (Windows, macOS) through the library watchdog."""

    def __init__(self, root: Path) -> None:
        from queue import SimpleQueue

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
        from queue import Empty

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
            changes.lost = changes.lost or event.event_type in ("created", "moved")
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
