"""A source that finds every frame of the runs below a directory, once, as their files grow."""

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
from skywright.instruments.panoseti.live.activity import GROWN_WITHIN_S, is_active
from skywright.instruments.panoseti.live.follow import RunFinder
from skywright.instruments.panoseti.pff import PffFile
from skywright.instruments.panoseti.products import is_pff_name, parse_file_name

logger = logging.getLogger(__name__)

BLOCK_FRAMES = 1024
"""Frames of a file that are delivered together: memory does not depend on the size of a run."""
LOOK_S = 0.05
"""Pause between two looks at the sizes of files."""
ENDED_MARKER = "recording_ended"
LIST_S = 0.5
"""Period of the look for new files."""


@dataclass(frozen=True)
class FrameBlock:
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
    def __init__(self, path: Path) -> None:
        self.file = PffFile(path)
        self.done = 0
        self.size = 0
        self.broken = False
        self.rank = (path.parent.name, self.file.name.seqno, path.name)

    def blocks(self) -> Iterator[FrameBlock]:
        """Yield what is new."""
        size = self.file.size
        if size == self.size or self.broken:
            return
        if size < self.size:
            raise DataError(f"{self.file.path}: was truncated from {self.size} to {size} bytes")
        self.size = size
        count = len(self.file)
        while self.done < count:
            frames = self.file.read(self.done, min(count, self.done + BLOCK_FRAMES))
            sizes = self.file.frame_sizes(self.done, self.done + len(frames))
            self.done += len(frames)
            yield FrameBlock(self.file.path, self.file.path.parent.name, frames, sizes)


class RunDirectorySource(PolledSource[FrameBlock]):
    """Deliver the frames of the newest run of each module, and of the runs that come after it.

    Frames come in the order of each file; files of one module and product in the order of their
    sequence numbers. No frame comes twice, also over stops and starts, until `rewind`.

    Parameters
    ----------
    data_dir
        Data directory of a node, or a run directory.
    modules
        Modules to follow; empty for all.
    """

    def __init__(self, data_dir: Path, modules: frozenset[int] = frozenset()) -> None:
        super().__init__("rundir")
        # The first block waits for kernels to be loaded; on a busy machine a block takes seconds.
        self.stop_limit_s = 10.0
        self.data_dir = data_dir
        self._finder = RunFinder(data_dir)
        self._modules = modules
        self._files: dict[Path, _Growing] = {}
        self._seen: set[tuple[int, int]] = set()
        self._blocks: Iterator[FrameBlock] = iter(())
        self._counters = Counters()
        self._listed = self._idle_since = 0.0
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

    def next(self, timeout_s: float) -> FrameBlock | None:
        """Return the next frames of some file, or None."""
        deadline = time.monotonic() + timeout_s
        while not self._stopping.is_set():
            block = next(self._blocks, None)
            if block is not None:
                return block
            if time.monotonic() >= self._listed + LIST_S:
                self._list()
            self._blocks = self._new_blocks()
            block = next(self._blocks, None)
            if block is not None:
                self._idle_since = 0.0
                return block
            self._idle_since = self._idle_since or time.monotonic()
            if time.monotonic() >= deadline:
                return None
            self._stopping.wait(min(LOOK_S, timeout_s))
        return None

    def halt(self) -> None:
        """End a `next` under way; files stay open, so that their frames come once."""
        self._stopping.set()

    def close(self) -> None:
        """Stop for good and close the files."""
        super().close()
        for growing in self._files.values():
            growing.file.close()
        self._files.clear()

    def rewind(self) -> None:
        """Deliver all frames of the newest run again, from its start; the source is stopped."""
        for growing in self._files.values():
            growing.file.close()
        self._files.clear()
        self._seen.clear()
        self._blocks = iter(())
        self._idle_since = 0.0

    def wants(self, directory: Path) -> bool:
        """Return whether a run directory may hold frames to deliver; for subclasses."""
        return True

    @property
    def run(self) -> str:
        """Name of the newest run directory that holds files; empty if there is none."""
        here, *others = self._finder.directories()
        for directory in (*others, here):
            if any(is_pff_name(path.name) for path in _entries(directory)):
                return directory.name
        return ""

    @property
    def has_ended(self) -> bool:
        """Whether the newest run is over and all of its frames are delivered.

        It is over when its marker ``recording_ended`` is there, or when no file has grown for 10 s
        and no process is named hashpipe.
        """
        idle_s = time.monotonic() - self._idle_since if self._idle_since else 0.0
        run = self.run
        if not run or idle_s <= 2 * LIST_S:
            return False
        marked = any(
            (directory / ENDED_MARKER).exists()
            for directory in (self.data_dir, self.data_dir / run, *self.data_dir.glob(f"*/{run}"))
        )
        return marked or (idle_s > GROWN_WITHIN_S and not is_active(self.data_dir))

    def _new_blocks(self) -> Iterator[FrameBlock]:
        for growing in sorted(self._files.values(), key=lambda each: each.rank):
            try:
                yield from growing.blocks()
            except DataError as error:
                self._counters.add("file not readable")
                logger.error("%s: it is read no further", error)
                growing.broken = True  # it stays open: no other file gets its inode

    def _list(self) -> None:
        self._listed = time.monotonic()
        for directory in filter(self.wants, self._finder.directories()):
            for path in _entries(directory):
                if is_pff_name(path.name):
                    self._add(path)

    def _add(self, path: Path) -> None:
        if self._modules and parse_file_name(path).module not in self._modules:
            return
        try:
            state = path.stat()
            if path in self._files:
                self._look_for_replacement(self._files[path], state)
                return
            if (state.st_dev, state.st_ino) not in self._seen:
                self._files[path] = _Growing(path)
                self._seen.add((state.st_dev, state.st_ino))
        except (OSError, DataError) as error:
            logger.error("%s", error)

    def _look_for_replacement(self, growing: _Growing, there: os.stat_result) -> None:
        """Read no further in a file whose path leads to another one now: rows name files by path.

        A file that could not be read may be replaced by a good one.
        """
        if os.path.samestat(growing.file.stat(), there):
            return
        path = growing.file.path
        if growing.broken and not growing.done:
            growing.file.close()
            self._files[path] = _Growing(path)
            self._seen.add((there.st_dev, there.st_ino))
        elif not growing.broken:
            growing.broken = True
            self._counters.add("file replaced")
            logger.error("%s was replaced by another file: that one is not read", path)


def _entries(directory: Path) -> list[Path]:
    """Return what is in a directory; nothing if it is gone."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []
