"""A source that finds every frame of a run below a directory, once, as its files grow."""

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.counters import Counters
from skywright.acquire.source import PolledSource
from skywright.errors import DataError
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.live.activity import (
    CLOCK_AHEAD_S,
    GROWN_WITHIN_S,
    grew_recently,
    is_active,
)
from skywright.instruments.panoseti.live.follow import RunFinder
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.products import FileName, is_pff_name, parse_file_name
from skywright.instruments.panoseti.rundir import ENDED_MARKER, run_of

logger = logging.getLogger(__name__)

GROUP_FRAMES = 1024
"""Frames of a file that are delivered together: memory does not depend on the size of a run."""
POLL_S = 0.05
"""Pause between two checks of the sizes of files."""
RETRY_LIMIT_S = 10.0
"""A file that cannot be read for this time, as on a network file system, is given up."""
LIST_S = 0.5
"""Period of the scan for new files."""
ACTIVE_S = 5.0
"""Period of the question whether any file of the data directory grows."""


@dataclass(frozen=True)
class FrameGroup:
    """Successive frames of one file.

    Attributes
    ----------
    path
        Of the file.
    run
        Name of the run directory.
    frames
        The frames with their images.
    sizes
        (N,) bytes of each frame in the file.
    """

    path: Path
    run: str
    frames: Frames
    sizes: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        return self.frames.image.nbytes + self.frames.numbers.nbytes


class _Growing:
    """A file and how far it was read; it is open while it is the newest of its key, or unreadable.

    Parameters
    ----------
    path
        The file.
    state
        State of the file that the path leads to now.
    """

    def __init__(self, path: Path, state: os.stat_result) -> None:
        self.path = path
        self.file: PffFile | None = None
        self.name = parse_file_name(path)
        self.state = state
        """Of the file when it was found or checked last."""
        self.done = 0
        self.offset = -1
        """Of the last frame that was read: numbers of frames change when one turns out as cut."""
        self.torn = 0
        """Number of cut frames."""
        self.size = 0
        self.broken = False
        """Whether it is read no further; without rows, until it has grown."""
        self.failing_since = 0.0
        self.key = (path.parent, self.name.product.name, self.name.module)
        self.rank = (path.parent.name, self.name.seqno, path.name)

    def close(self) -> None:
        """Close the file; `groups` opens it again."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def is_left(self, copy: os.stat_result) -> bool:
        """Return whether a copy has more than was read of this file, which is gone now."""
        return self.file is None and self.size < copy.st_size

    def groups(self) -> Iterator[FrameGroup]:
        """Yield what is new.

        Raises
        ------
        DataError
            If the file holds no frames, or was truncated or replaced.
        OSError
            If it cannot be read now; the next call goes on where this one has ended.
        """
        if self.broken and self.done:
            return
        if self.file is None and self.state.st_size == self.size:
            return
        file = self._opened()
        size = file.size
        if size == self.size:
            return
        try:
            if size < self.size:
                raise DataError(f"{self.path}: was truncated from {self.size} to {size} bytes")
            count = len(file)
            while count and (first := file.count_until(self.offset)) < count:
                frames = file.read(first, min(count, first + GROUP_FRAMES))
                count = min(count, len(file))
                if not len(frames):
                    if first >= count:
                        break
                    raise DataError(f"{self.path}: was truncated to {file.size} bytes")
                sizes = file.frame_sizes(first, first + len(frames))
                self.done = first + len(frames)
                self.offset = int(frames.offset[-1])
                yield FrameGroup(self.path, self.path.parent.name, frames, sizes)
            self.torn = max(self.torn, file.torn)
        except DataError:
            self.size = size
            raise
        self.size, self.broken = size, False

    def _opened(self) -> PffFile:
        if self.file is None:
            try:
                file = PffFile(self.path, self.name)
            except DataError as error:
                if isinstance(error.__cause__, OSError):
                    raise error.__cause__ from error
                raise
            if not os.path.samestat(file.stat(), self.state):
                file.close()
                raise DataError(f"{self.path}: was replaced by another file")
            self.file = file
        return self.file


class RunDirectorySource(PolledSource[FrameGroup]):
    """Deliver the frames of the newest run, and of the runs that come after it.

    From `rewind` until the source is stopped, it delivers the frames of one run only. Frames come
    in the order of each file; files of one module and product in the order of their sequence
    numbers. No frame comes twice, also over stops and starts, until `rewind`.

    Parameters
    ----------
    data_dir
        Data directory of a node, or a run directory.
    modules
        Modules to follow; empty for all.
    """

    def __init__(self, data_dir: Path, modules: frozenset[int] = frozenset()) -> None:
        super().__init__("rundir")
        # The first group waits for kernels to be loaded; on a busy machine a group takes seconds.
        self.stop_limit_s = 10.0
        self.data_dir = data_dir
        self._finder = RunFinder(data_dir)
        self._modules = modules
        self._files: dict[Path, _Growing] = {}
        self._seen: set[tuple[object, ...]] = set()
        self._places: dict[tuple[str, str], Path] = {}
        """Path of each file, by the names of run and file; copies of it are not read."""
        self._copies: set[tuple[Path, bool]] = set()
        """Copies that were logged, with whether they have frames that were not read."""
        self._refused: set[Path] = set()
        """Files that were logged because they cannot be looked at, or have no name in Unicode."""
        self._keeps_run = False
        """Whether frames of one run only are delivered: `_kept_run`, or the first that comes."""
        self._kept_run = ""
        self._groups: Iterator[FrameGroup] = iter(())
        self._counters = Counters()
        self._listed = self._idle_since = self._active_until = 0.0
        self._stopping = threading.Event()

    @property
    def lost(self) -> Mapping[str, int]:
        """Frames that could not be read, by cause."""
        return self._counters.as_dict()

    def open(self) -> None:
        """Check that the directory is there.

        Raises
        ------
        DataError
            If it is not.
        """
        if not self.data_dir.is_dir():
            raise DataError(f"{self.data_dir} is no directory")
        self._listed = 0.0
        self._stopping.clear()

    def next(self, timeout_s: float) -> FrameGroup | None:
        """Return the next frames of some file, or None.

        Raises
        ------
        DataError
            If a file cannot be read for the moment; the next call tries it again.
        """
        deadline = time.monotonic() + timeout_s
        while not self._stopping.is_set():
            group = next(self._groups, None)
            if group is not None:
                return group
            if time.monotonic() >= self._listed + LIST_S:
                self._list()
            self._groups = self._new_groups()
            group = next(self._groups, None)
            if group is not None:
                self._idle_since = 0.0
                return group
            self._idle_since = self._idle_since or time.monotonic()
            if time.monotonic() >= deadline:
                return None
            self._stopping.wait(min(POLL_S, timeout_s))
        return None

    def halt(self) -> None:
        """End a `next` under way."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop, and close the files: the disk space of one that is deleted is free then."""
        super().stop()
        # Not before: `_list`, on the source's thread, may be about to set them
        self._keeps_run, self._kept_run = False, ""
        self._groups = iter(())
        for growing in self._files.values():
            if growing.done:  # else no other file may get its inode
                growing.close()

    def close(self) -> None:
        """Stop for good and close the files."""
        super().close()
        for growing in self._files.values():
            growing.close()
        self._files.clear()

    def rewind(self, run: str = "") -> None:
        """Deliver all frames of one run from its start, and no others; the source is stopped.

        Parameters
        ----------
        run
            Name of its directory, which may come later; empty: the newest run, or the first one
            that comes if there is none.
        """
        for growing in self._files.values():
            growing.close()
        self._files.clear()
        self._seen.clear()
        self._places.clear()
        self._refused.clear()
        self._counters = Counters()
        self._groups = iter(())
        self._idle_since = self._active_until = 0.0
        self._keeps_run, self._kept_run = True, run or self.newest

    @property
    def newest(self) -> str:
        """Name of the newest run directory; empty if there is none.

        It holds files, or was made in the last 10 s and will.
        """
        here, *others = self._finder.directories()
        for directory in (*others, here):
            if any(is_pff_name(path.name) for path in _entries(directory)):
                return directory.name
            if directory.suffix == ".pffd" and self._begins(directory):
                return directory.name
        return ""

    @property
    def run(self) -> str:
        """Name of the run whose frames are delivered; empty if there is none."""
        return self._kept_run or self.newest

    @property
    def has_ended(self) -> bool:
        """Whether the run is over and all of its frames are delivered.

        It is over when its marker ``recording_ended`` is there, or when none of its files has grown
        for 10 s, and either no other file has and no process is named hashpipe, or the files of a
        newer run grow.
        """
        idle_since = self._idle_since  # the source's thread changes it
        idle_s = time.monotonic() - idle_since if idle_since else 0.0
        run = self.run
        if not run or idle_s <= 2 * LIST_S:
            return False
        if self._is_marked(run):
            return True
        if idle_s <= GROWN_WITHIN_S or time.monotonic() < self._active_until:
            return False
        if not (self._files or self._directories(run)):
            return False
        newest = self.newest
        if newest != run and any(map(grew_recently, self._directories(newest))):
            return True
        active = is_active(self.data_dir)
        # Years of runs take a second.
        self._active_until = time.monotonic() + ACTIVE_S if active else 0.0
        return not active

    def _directories(self, run: str) -> list[Path]:
        """Return the directories below `data_dir` that hold the files of a run."""
        found = run_of(self.data_dir, run).directories
        return [path for path in found if path.is_relative_to(self.data_dir)]

    def _is_marked(self, run: str) -> bool:
        return run_of(self.data_dir, run).find(ENDED_MARKER) is not None

    def _begins(self, directory: Path) -> bool:
        """Return whether a directory without files was made for a run that begins now."""
        try:
            age_s = time.time() - directory.stat().st_mtime
        except OSError:
            return False
        # After the clock was set back, a directory of before seems to come from the future
        is_new = -CLOCK_AHEAD_S <= age_s < GROWN_WITHIN_S
        return is_new and not self._is_marked(directory.name)

    def _new_groups(self) -> Iterator[FrameGroup]:
        """Yield what is new in all files.

        Raises
        ------
        DataError
            At the end, if a file could not be read now; it is tried again for `RETRY_LIMIT_S`.
        """
        failed = ""
        files = sorted(self._files.values(), key=lambda each: each.rank)
        newest = {growing.key: growing for growing in files}
        for growing in files:
            try:
                was_broken, torn = growing.broken, growing.torn
                yield from growing.groups()
                if growing.torn > torn:
                    self._counters.add("frame torn", growing.torn - torn)
                growing.failing_since = 0.0
                if was_broken and not growing.broken:  # it begins with bytes of no frame
                    self._counters.add("file not readable", -1)
                # A night has more files than may be open.
                if newest[growing.key] is not growing and not growing.broken:
                    growing.close()
            except DataError as error:
                self._give_up(growing, error)
            except OSError as error:
                growing.close()  # a handle may be stale
                growing.failing_since = growing.failing_since or time.monotonic()
                if time.monotonic() - growing.failing_since > RETRY_LIMIT_S:
                    growing.size = growing.state.st_size
                    self._give_up(growing, error)
                else:
                    failed = f"{growing.path}: {error.strerror}; it is read again"
        if failed:
            self._idle_since = 0.0
            raise DataError(failed)

    def _give_up(self, growing: _Growing, error: Exception) -> None:
        if not growing.broken:
            self._counters.add("file not readable")
            logger.error("%s: it is read no further", error)
        growing.broken = True
        if growing.done:  # else it stays open: no other file gets its inode
            growing.close()

    def _list(self) -> None:
        self._listed = time.monotonic()
        run = self.run  # asked once: the run that is kept is the one whose files are read
        if self._keeps_run:
            self._kept_run = run
        for directory in self._directories(run) if run else ():
            for path in _entries(directory):
                if is_pff_name(path.name):
                    self._add(path)

    def _add(self, path: Path) -> None:
        name = parse_file_name(path)
        if self._modules and name.module not in self._modules:
            return
        place = path.parent.name, path.name
        first = self._places.get(place, path)
        try:
            str(path).encode()  # an index has it as text
            state = path.stat()
            is_there = first == path or first.exists()
        except (OSError, UnicodeEncodeError) as error:
            if isinstance(error, FileNotFoundError) and not path.is_symlink():
                return  # removed in the meantime
            if path not in self._refused:
                self._refused.add(path)
                self._counters.add("file not readable")
                logger.error("%r is not read: %s", str(path), error)
            return
        if path in self._refused:
            self._refused.remove(path)
            self._counters.add("file not readable", -1)
        known = self._files.get(first)
        if first != path and (is_there or known is None or known.done):
            # Once the run is collected, a copy of it may be on the same disk.
            is_lost = not is_there and known is not None and known.is_left(state)
            if (path, is_lost) not in self._copies:
                self._copies.add((path, is_lost))
                level, why = logging.INFO, "it is a copy of"
                if is_lost:
                    level, why = logging.WARNING, "its beginning was read at"
                logger.log(level, "%s is not read: %s %s", path, why, first)
            return
        self._places[place] = path
        if path in self._files:
            self._check_again(self._files[path], state)
        elif _file_key(name, state) not in self._seen:
            self._files[path] = _Growing(path, state)
            self._seen.add(_file_key(name, state))

    def _check_again(self, growing: _Growing, there: os.stat_result) -> None:
        """Note the size of a file; read no further if its path leads to another file now.

        Rows name files by path. A file without rows may be replaced by another one.
        """
        if os.path.samestat(growing.state, there):
            growing.state = there
            return
        path = growing.path
        if not growing.done:
            growing.close()
            self._files[path] = _Growing(path, there)
            self._seen.add(_file_key(growing.name, there))
        elif not growing.broken:
            growing.broken = True
            growing.close()
            self._counters.add("file replaced")
            logger.error("%s was replaced by another file: that one is not read", path)


def _file_key(name: FileName, state: os.stat_result) -> tuple[object, ...]:
    """Return what tells a file that was moved from another one that got its inode."""
    return state.st_dev, state.st_ino, name.product.name, name.module, name.seqno


def _entries(directory: Path) -> list[Path]:
    """Return what is in a directory; nothing if it is gone.

    Raises
    ------
    OSError
        If too many files are open to read it.
    """
    try:
        return list(directory.iterdir())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return []
