"""Records what happens in a directory, until it is stopped."""

import hashlib
import logging
import os
import stat
import threading
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.instruments.epu.recording.archive import (
    INLINE_MAX,
    RecordedEvent,
    RecordingError,
    RecordingWriter,
    printable,
    safe_path,
)
from skywright.instruments.epu.watch.inotify import InotifyTree, TooManyDirectoriesError

logger = logging.getLogger(__name__)

TEXT = frozenset({".xml", ".dm", ".json", ".txt", ".log", ".csv", ".star", ".cfg", ".ini", ".yaml"})
BINARY = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".mrc", ".mrcs", ".eer", ".gain"})
SETTLE_S = 0.03
"""A file that is open and growing is compared this long after its first change."""
POLLED = "no file events (%s): the directory is polled"


@dataclass(slots=True)
class _Known:
    """A file or directory as it was last recorded."""

    is_directory: bool
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What is stored.

    Attributes
    ----------
    skip_binary
        Binary files become placeholders of the same size.
    text, binary
        Further extensions (``.xyz``) that are always text, or always binary.
    """

    skip_binary: bool = True
    text: frozenset[str] = frozenset()
    binary: frozenset[str] = frozenset()

    def is_text(self, path: Path) -> bool:
        """Return whether a file is text: by its extension, else by its first kilobyte."""
        suffix = path.suffix.lower()
        if suffix in self.text or (suffix in TEXT and suffix not in self.binary):
            return True
        if suffix in self.binary or suffix in BINARY:
            return False
        try:
            with path.open("rb") as file:
                start = file.read(1024)
            # Only at the end of the file is a character complete.
            getincrementaldecoder("utf-8")().decode(start, final=len(start) < 1024)
        except (OSError, UnicodeDecodeError):
            return False
        return b"\0" not in start


class DirectoryRecorder:
    """Compares the directory with what is recorded, path by path, and records the difference.

    Parameters
    ----------
    root
        The directory.
    writer
        Takes the events.
    options
        What is stored.
    """

    def __init__(self, root: Path, writer: RecordingWriter, options: RecordOptions) -> None:
        self.root = root
        self.writer = writer
        self.options = options
        self._known: dict[str, _Known] = {}
        self._started = time.time() - time.monotonic()
        self._failing: set[str] = set()
        self._left_out: set[str] = set()
        out = writer.path.resolve()
        self._ignored = {out, writer.partial.resolve()}

    def now(self) -> float:
        """Return the time as epoch seconds, without the steps of the clock since the start."""
        return self._started + time.monotonic()

    def record_start(self) -> None:
        """Record what is there; all of it has the time of now."""
        self._walk("", self.now(), initial=True)

    def record_differences(self) -> None:
        """Record all differences there are."""
        now = self.now()
        for path in list(self._known):
            if path in self._known:  # not gone with its directory, which may be a link now
                self.record_difference(path, now)
        self._walk("", now)

    def _walk(self, directory: str, now: float, initial: bool = False) -> None:
        try:
            entries = sorted(os.scandir(self.root / directory), key=lambda entry: entry.name)
        except OSError as error:
            logger.warning("%s: %s", directory, error.strerror)
            return
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            self.record_difference(path, now, initial)

    def record_difference(self, path: str, now: float, initial: bool = False) -> None:
        """Record how a path differs from what is recorded."""
        full = self.root / path
        if not self._ignored.isdisjoint((full, *full.parents)) or not self._can_be_replayed(path):
            return
        known = self._known.get(path)
        try:
            status = full.lstat()
        except (FileNotFoundError, NotADirectoryError):
            if known is not None:
                self._deleted(path, now)
            return
        except OSError as error:  # a network mount; it is compared again later, at the end at last
            if path not in self._failing:
                logger.warning("%s: %s", path, error.strerror)
            self._failing.add(path)
            return
        self._failing.discard(path)
        # A link is neither: its target is not part of the directory.
        is_directory, is_file = stat.S_ISDIR(status.st_mode), stat.S_ISREG(status.st_mode)
        if known is not None and not (is_directory if known.is_directory else is_file):
            self._deleted(path, now)  # something else has its name now
            known = None
        if is_directory:
            self._directory(path, known, now, initial)
        elif is_file:
            self._file(path, full, status, known, now, initial)

    def _can_be_replayed(self, path: str) -> bool:
        r"""Return whether a replay takes a name; one that it refuses is logged once.

        With ``..\x`` or ``C:`` in it a recording could not be replayed at all.
        """
        try:
            safe_path(path)
        except RecordingError as error:
            if path not in self._left_out:
                logger.warning("%s: left out, the name is %s", printable(path), error)
            self._left_out.add(path)
            return False
        return True

    def _directory(self, path: str, known: _Known | None, now: float, initial: bool) -> None:
        if known is None:
            self._known[path] = _Known(is_directory=True)
            kind = "initial_dir" if initial else "created"
            self.writer.write(RecordedEvent(now, kind, path, is_directory=True))
        self._walk(path, now, initial)

    def _deleted(self, path: str, now: float) -> None:
        below = [name for name in self._known if name == path or name.startswith(path + "/")]
        for name in sorted(below, reverse=True):
            known = self._known.pop(name)
            self.writer.write(RecordedEvent(now, "deleted", name, is_directory=known.is_directory))

    def moved(self, source: str, target: str, now: float) -> None:
        """Record that a path has another name."""
        if source not in self._known or not self._can_be_replayed(target):
            self.record_difference(source, now)
            self.record_difference(target, now)
            return
        is_directory = self._known[source].is_directory
        self._known.pop(target, None)
        for name in list(self._known):
            if name == source or name.startswith(source + "/"):
                self._known[target + name[len(source) :]] = self._known.pop(name)
        self.writer.write(
            RecordedEvent(now, "moved", source, dest_path=target, is_directory=is_directory)
        )
        self.record_difference(target, now)

    def _file(
        self,
        path: str,
        full: Path,
        status: os.stat_result,
        known: _Known | None,
        now: float,
        initial: bool,
    ) -> None:
        if known is not None and (status.st_size, status.st_mtime_ns, status.st_ino) == (
            known.size,
            known.mtime_ns,
            known.inode,
        ):
            return
        kind = "initial_file" if initial else "modified" if known else "created"
        event = RecordedEvent(now, kind, path, size=status.st_size)
        event.operation_data = {"new_size": status.st_size, "mtime": status.st_mtime}
        new = _Known(False, status.st_size, status.st_mtime_ns, status.st_ino)
        if self.options.skip_binary and not self.options.is_text(full):
            event.is_placeholder = True
        else:
            try:
                data = full.read_bytes()
            except FileNotFoundError:
                return
            except OSError:
                event.content_hash = f"unreadable_{status.st_size}_{status.st_mtime}"
                event.is_placeholder = True
            else:
                self._set_content(event, data, known)
                new.size, new.digest = len(data), event.content_hash or ""
                if known is not None and known.digest == new.digest:
                    self._known[path] = new
                    return
        self._known[path] = new
        self.writer.write(event)

    def _set_content(self, event: RecordedEvent, data: bytes, known: _Known | None) -> None:
        """Store the content, or only the new bytes if the old ones are all still there."""
        event.size = len(data)
        event.content_hash = hashlib.sha256(data).hexdigest()
        if known is not None and known.digest:
            if 0 < known.size < len(data):
                if hashlib.sha256(data[: known.size]).hexdigest() == known.digest:
                    event.event_type = "appended"
                    event.file_position = known.size
                    event.operation_data["append_size"] = len(data) - known.size
                    data = data[known.size :]
            elif len(data) < known.size:
                event.event_type = "truncated"
        if len(data) < INLINE_MAX:
            with suppress(UnicodeDecodeError):
                event.content = data.decode()
        if event.content is None:
            event.binary_chunk_id = self.writer.add_chunk(data)


def record_directory(
    root: Path,
    path: Path,
    options: RecordOptions,
    stopped: threading.Event,
    ready: Callable[[int], Any] = lambda count: None,
) -> int:
    """Record `root` into the archive `path` until `stopped` is set; return the number of events.

    Parameters
    ----------
    root
        The directory.
    path
        The archive, which is there when this returns.
    options
        What is stored.
    stopped
        Ends the recording.
    ready
        Called with the number of events so far, once changes are being recorded.
    """
    root = root.resolve()
    writer = RecordingWriter(path, root)
    recorder = DirectoryRecorder(root, writer, options)
    source = None
    try:
        source = InotifyTree(
            root, removals=True
        )  # before the first comparison, so that nothing falls between
    except (ImportError, OSError) as error:
        logger.warning(POLLED, error)
    recorder.record_start()
    ready(writer.count)
    if source is not None:
        try:
            _follow(recorder, source, stopped)
        except TooManyDirectoriesError as error:
            logger.warning(POLLED, error)
        source.close()
    while not stopped.wait(0.05):  # without events
        recorder.record_differences()
    recorder.record_differences()
    writer.close()
    return writer.count


def _follow(recorder: DirectoryRecorder, source: InotifyTree, stopped: threading.Event) -> None:
    growing: dict[str, float] = {}
    while not stopped.is_set():
        events = list(source.read(SETTLE_S if growing else 0.1))
        now = recorder.now()
        _take(recorder, source.flags, events, growing, now)
        if source.watch_failed():
            recorder.record_differences()
        for path, since in list(growing.items()):
            if now - since >= SETTLE_S:
                del growing[path]
                recorder.record_difference(path, since)


def _take(
    recorder: DirectoryRecorder,
    flags: Any,
    events: Iterable[tuple[str, Any, int]],
    growing: dict[str, float],
    now: float,
) -> None:
    sources: dict[int, str] = {}
    for path, mask, cookie in events:
        if mask & flags.Q_OVERFLOW:
            recorder.record_differences()
        elif mask & flags.MOVED_FROM:
            sources[cookie] = path
        elif mask & flags.MOVED_TO and cookie in sources:
            recorder.moved(sources.pop(cookie), path, now)
        elif mask & (flags.ISDIR | flags.CLOSE_WRITE | flags.DELETE | flags.MOVED_TO):
            recorder.record_difference(path, growing.pop(path, now))
        else:
            growing.setdefault(path, now)
    for path in sources.values():
        recorder.record_difference(path, now)  # moved out of the directory
