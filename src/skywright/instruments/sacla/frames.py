"""Where workers find the frames of shots: in a replay file, or in memory that processes share."""

import os
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import HardwareError
from skywright.instruments.sacla.frame_stack import FrameStack
from skywright.instruments.sacla.replay_file import ReplayFile
from skywright.instruments.sacla.stored_frame import copy_frame

SHARED_MEMORY = Path("/dev/shm")
CHUNK_SHOTS = 8
"""Shots that are handed to a worker and added to the images at once."""


class Frames:
    """Gives the frames of a chunk of shots. The object is sent to workers before it is opened.

    The default methods are for frames that need no copy, such as those of a file.
    """

    shared = False
    """Whether the frames are in shared memory, for workers in other processes."""

    @property
    def threads(self) -> bool:
        """Whether threads can read at the same time."""
        return False

    def has_room(self, chunk: int) -> bool:
        """Whether the frames of this chunk can be placed now."""
        return True

    def place(self, chunk: int, position: int, detector: str, frame: Any) -> int:
        """Put the frame of a shot where workers find it; return the place.

        Parameters
        ----------
        chunk
            Number of the chunk, rising by 1.
        position
            Of the shot in its chunk.
        detector
            Its id.
        frame
            What the source gave: an array, or something that can be read later.
        """
        raise NotImplementedError

    def free(self, chunk: int) -> None:
        """Take note that the frames of a chunk are used no more."""

    def retake(self, chunk: int) -> bool:
        """Use the frames of a freed chunk again; return whether they are still there."""
        return True

    def open(self) -> None:
        """Open files, attach memory; in the process or thread that reads."""

    def read(self, detector: str, places: Sequence[int]) -> FrameStack:
        """Return frames, valid until the next call for this detector."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what `open` took."""

    def unlink(self) -> None:
        """Free all memory, in the process that made the object."""
        self.close()


class FileFrames(Frames):
    """Frames of a replay file; a place is an index of its dataset.

    Frames that are stored as they are (not compressed, not in chunks) are mapped to memory: nothing
    is copied, and threads do not wait for the lock of the HDF5 library.

    Parameters
    ----------
    path
        Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: ReplayFile | None = None
        self._mapped: dict[str, NDArray[np.float32]] = {}
        self._buffers: dict[str, NDArray[np.float32]] = {}

    @property
    def threads(self) -> bool:
        """Whether the frames of all detectors can be mapped."""
        with ReplayFile(self._path) as file:
            return all(file.map_frames(name) is not None for name in file.info.tiles)

    def place(self, chunk: int, position: int, detector: str, frame: int) -> int:
        """Return the frame's index in the file."""
        return frame

    def open(self) -> None:
        """Open the file."""
        self._file = ReplayFile(self._path)
        self._mapped, self._buffers = {}, {}
        for name in self._file.info.tiles:
            mapped = self._file.map_frames(name)
            if mapped is not None:
                self._mapped[name] = mapped

    def read(self, detector: str, places: Sequence[int]) -> FrameStack:
        """Find mapped frames, or read frames into a buffer that the next call uses again."""
        assert self._file is not None
        if detector in self._mapped:
            return FrameStack(self._mapped[detector], np.array(places, np.int64))
        buffer = self._buffers.get(detector)
        if buffer is None or len(buffer) < len(places):
            shape = self._file.info.tiles[detector].bad.shape
            buffer = self._buffers[detector] = np.empty((len(places), *shape), np.float32)
        for k, place in enumerate(places):
            self._file.read_frame(detector, place, buffer[k])
        return FrameStack(buffer, np.arange(len(places)))

    def close(self) -> None:
        """Close the file."""
        self._mapped, self._buffers = {}, {}
        if self._file is not None:
            self._file.close()


class SharedFrames(Frames):
    """A ring of chunks of frames in shared memory; a place is a slot.

    Whoever makes the object owns the memory, and frees it with `unlink`.

    Parameters
    ----------
    shapes
        (rows, columns) by detector.
    chunks
        Number of chunks of `CHUNK_SHOTS` slots.
    reserve
        Take the pages of the memory now, in place of with the first frame.

    Raises
    ------
    HardwareError
        If the system has less shared memory.
    """

    shared = True

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], chunks: int, reserve: bool = True
    ) -> None:
        self._chunks = chunks
        self._used: set[int] = set()
        self._newest = -1
        self._shapes = dict(shapes)
        self._slots = chunks * CHUNK_SHOTS
        pixels = sum(rows * columns for rows, columns in self._shapes.values())
        self._memory = SharedMemory(create=True, size=max(self._slots * pixels * 4, 1))
        self._is_reserved = False
        if reserve:
            try:
                self._reserve()
            except BaseException:
                self._memory.close()
                self._memory.unlink()
                raise
        self._views = self._map()

    def _reserve(self) -> None:
        """Take the pages of the memory: SIGBUS ends a process that writes where there are none."""
        path, size = SHARED_MEMORY / self._memory.name, self._memory.size
        if path.exists():  # Linux alone shows the memory as a file
            with path.open("r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:
                    raise HardwareError(
                        f"{SHARED_MEMORY}: {size / 1e6:.0f} MB of shared memory are needed for "
                        f"frames ({error.strerror}); enlarge it, in a container by --shm-size"
                    ) from error
        self._is_reserved = True

    def __getstate__(self) -> tuple[dict[str, tuple[int, int]], int, str]:
        return self._shapes, self._slots, self._memory.name

    def __setstate__(self, state: tuple[dict[str, tuple[int, int]], int, str]) -> None:
        self._shapes, self._slots, self._name = state

    def _map(self) -> dict[str, NDArray[np.float32]]:
        views, offset = {}, 0
        for detector, shape in self._shapes.items():
            whole = (self._slots, *shape)
            views[detector] = np.ndarray(whole, np.float32, self._memory.buf, offset)
            offset += views[detector].nbytes
        return views

    def has_room(self, chunk: int) -> bool:
        """Whether the chunk that used the same slots is free."""
        return chunk - self._chunks not in self._used

    def place(self, chunk: int, position: int, detector: str, frame: Any) -> int:
        """Copy a frame into its slot."""
        if not self._is_reserved:
            self._reserve()
        self._used.add(chunk)
        self._newest = max(self._newest, chunk)
        slot = chunk % self._chunks * CHUNK_SHOTS + position
        copy_frame(frame, self._views[detector][slot])
        return slot

    def free(self, chunk: int) -> None:
        """Give the slots of a chunk to later chunks."""
        self._used.discard(chunk)

    def retake(self, chunk: int) -> bool:
        """Use a chunk again, unless a later chunk has its slots."""
        if chunk + self._chunks <= self._newest:
            return False
        self._used.add(chunk)
        return True

    def open(self) -> None:
        """Attach the memory, in a worker."""
        if not hasattr(self, "_views"):
            self._memory = SharedMemory(self._name)
            self._views = self._map()

    def read(self, detector: str, places: Sequence[int]) -> FrameStack:
        """Return slots; nothing is copied."""
        return FrameStack(self._views[detector], np.array(places, np.int64))

    def close(self) -> None:
        """Detach the memory."""
        self._views = {}
        self._memory.close()

    def unlink(self) -> None:
        """Free the memory, in the process that made it."""
        self.close()
        self._memory.unlink()


class SentFrames(Frames):
    """Frames of running shots that are sent to other machines with their block; a place is a slot.

    There is always room: who sends the blocks waits when too many are under way.

    Parameters
    ----------
    shapes
        (rows, columns) by detector.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        self._shapes = dict(shapes)
        self._frames: dict[int, dict[str, dict[int, NDArray[np.float32]]]] = {}
        """By chunk, detector and slot."""

    def only(self, chunks: Iterable[int]) -> "SentFrames":
        """Return the frames of some chunks."""
        found = SentFrames(self._shapes)
        found._frames = {chunk: self._frames[chunk] for chunk in chunks}
        return found

    def place(self, chunk: int, position: int, detector: str, frame: Any) -> int:
        """Copy a frame."""
        copied = np.empty(self._shapes[detector], np.float32)
        copy_frame(frame, copied)
        slot = chunk * CHUNK_SHOTS + position
        self._frames.setdefault(chunk, {}).setdefault(detector, {})[slot] = copied
        return slot

    def free(self, chunk: int) -> None:
        """Forget the frames of a chunk."""
        self._frames.pop(chunk, None)

    def retake(self, chunk: int) -> bool:
        """Return whether the chunk is not freed."""
        return chunk in self._frames

    def read(self, detector: str, places: Sequence[int]) -> FrameStack:
        """Return copies of the frames."""
        frames = np.stack([self._frames[k // CHUNK_SHOTS][detector][k] for k in places])
        return FrameStack(frames, np.arange(len(frames)))

    def close(self) -> None:
        """Forget all frames."""
        self._frames = {}
