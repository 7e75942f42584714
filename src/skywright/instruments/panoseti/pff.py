"""Read PFF files: random access, bulk decoding, and the newest frame of a growing file."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.closing import Closing
from skywright.errors import DataError
from skywright.instruments.panoseti import pff_kernels as kernels
from skywright.instruments.panoseti.clock import Flag
from skywright.instruments.panoseti.frames import Frames, make_frames
from skywright.instruments.panoseti.pff_layout import (
    FIELDS,
    LONGEST_HEADER,
    HeaderLayout,
    IncompleteHeaderError,
    find_layout,
    read_layout,
)
from skywright.instruments.panoseti.products import FileName, parse_file_name

logger = logging.getLogger(__name__)

READ_BYTES = 1 << 20
"""Bytes read at a time: they stay in the processor's cache until they are decoded."""
LATEST_HEADER = 1 << 16
"""A file that was cut at its beginning has a header at this byte or before it."""
UNDATED_FRAMES = 16
"""Frames that are read at a time to find the last one that has a time."""
PROBES = 32
"""Frames that are checked to find out whether all frames have the same length."""


class _FrameLengthError(Exception):
    """A frame that no probe met has another length than the first one."""


class PffFile(Closing):
    """One PFF file, finished or growing.

    A file of equal frames is never scanned: frame i is at i times the length of a frame. A file in
    which a frame is longer, cut, or surrounded by other bytes is scanned once, header by header.

    Parameters
    ----------
    path
        The file. Its name tells product and module.
    name
        Product and module of a file whose name does not have them.

    Raises
    ------
    DataError
        If the name does not tell product and module, or the file cannot be opened.

    Attributes
    ----------
    skipped
        Bytes between frames that belong to none, as far as the file was scanned.
    torn
        Frames whose image is cut, as far as the file was scanned.
    """

    def __init__(self, path: Path | str, name: FileName | None = None) -> None:
        self.path = Path(path)
        self.name = name or parse_file_name(self.path)
        self.product = self.name.product
        self.skipped = self.torn = 0
        try:
            self._fd = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.path}: {error.strerror}") from error
        self._layout: HeaderLayout | None = None
        self._offsets: NDArray[np.int64] | None = None  # of an irregular file
        self._offsets_count = self._scanned = 0
        self._probed_size = -1
        self._dated = 0, 0  # number of a frame, and the last time before it
        self._buffer = np.empty(0, np.uint8)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return self.stat().st_size

    def stat(self) -> os.stat_result:
        """Return the state of the open file, whatever its path leads to now."""
        return os.fstat(self._fd)

    @property
    def layout(self) -> HeaderLayout:
        """The layout of the first header.

        Raises
        ------
        IncompleteHeaderError
            If the file has no complete header yet.
        DataError
            If no header of its product is in the first `LATEST_HEADER` bytes.
        """
        if self._layout is None:
            data = os.pread(self._fd, LATEST_HEADER + LONGEST_HEADER, 0)
            try:
                self._layout = read_layout(data[:LONGEST_HEADER], self.product)
            except IncompleteHeaderError:
                raise
            except DataError as error:
                self._layout = find_layout(data, self.product)
                if self._layout is None:
                    raise DataError(f"{self.path.name}: {error}") from error
        return self._layout

    def __len__(self) -> int:
        """Return the number of complete frames; 0 for a file without a complete header."""
        try:
            offsets = self._find_offsets()
        except IncompleteHeaderError:
            return 0
        return self.size // self.layout.frame_bytes if offsets is None else len(offsets)

    def read(self, start: int = 0, stop: int | None = None, images: bool = True) -> Frames:
        """Decode frames `start` to `stop`, as a slice takes them.

        Parameters
        ----------
        images
            False leaves the pixels out: `Frames.image` then has no rows.

        Raises
        ------
        DataError
            If a header is not valid, or the file was truncated meanwhile.
        """
        while True:
            first, end, _ = slice(start, stop).indices(len(self))
            count = max(0, end - first)
            try:
                frames = self._decode_frames(first, count, images)
                before_ns = self._time_before(first) if count else 0
            except _FrameLengthError:  # happens once: from now on the file counts as irregular
                continue
            dated = np.flatnonzero(frames.time_ns)
            times = frames.time_ns[dated]
            before = np.concatenate([[before_ns], times[:-1]])[: len(times)]
            frames.flags[dated[times < before]] |= np.uint8(Flag.BACKWARD)
            self._dated = first + count, int(times[-1]) if len(times) else before_ns
            return frames

    def _time_before(self, number: int) -> int:
        """Return the time of the last frame before a frame that has one, ns; 0 if there is none."""
        while number > 0:
            if number == self._dated[0]:
                return self._dated[1]
            first = max(0, number - UNDATED_FRAMES)
            frames = self._decode_frames(first, number - first, images=False)
            dated = np.flatnonzero(frames.time_ns)
            if len(dated):
                return int(frames.time_ns[dated[-1]])
            number = first
        return 0

    def groups(
        self, start: int = 0, stop: int | None = None, group_bytes: int = 64 << 20
    ) -> Iterator[Frames]:
        """Yield frames `start` to `stop` in groups of about `group_bytes`."""
        start, stop, _ = slice(start, stop).indices(len(self))
        step = max(1, group_bytes // (self.layout.frame_bytes if stop > start else 1))
        for first in range(start, stop, step):
            frames = self.read(first, min(first + step, stop))
            if len(frames) < min(step, stop - first):
                raise DataError(f"{self.path.name}: frame {first} is gone; was the file truncated?")
            yield frames

    def count_until(self, offset: int) -> int:
        """Return the number of frames that begin at byte `offset` or before it."""
        offsets = self._find_offsets()
        if offsets is None:
            return min(offset // self.layout.frame_bytes + 1, len(self))
        return int(np.searchsorted(offsets, offset, "right"))

    def frame_sizes(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the bytes of frames `start` to `stop`, header and image, (stop - start,)."""
        layout, offsets = self.layout, self._find_offsets()
        sizes = np.full(stop - start, layout.frame_bytes)
        if offsets is not None:
            for row, offset in enumerate(offsets[start:stop]):
                data = os.pread(self._fd, LONGEST_HEADER, int(offset))
                sizes[row] = self.layout.parse(data)[0] + self.product.image_bytes
        return sizes

    def _find_offsets(self) -> NDArray[np.int64] | None:
        """Return where the frames begin in an irregular file; None for a regular one."""
        size, layout = self.size, self.layout
        if self._offsets is None:
            if size == self._probed_size or self._is_regular(size, layout):
                self._probed_size = size
                return None
            logger.debug("%s: frames differ in length, it is scanned", self.path.name)
            self._offsets, self._dated = np.empty(1024, np.int64), (0, 0)
        if size > self._scanned:
            self._scan(size)
        return self._offsets[: self._offsets_count]

    def _is_regular(self, size: int, layout: HeaderLayout) -> bool:
        """Return whether frames lie where they should: many at first, then the newest."""
        count = size // layout.frame_bytes
        first = self._probed_size < 0
        probes = np.unique(np.linspace(0, count - 1, PROBES if first else 1).astype(int))
        if not first or count <= 1:
            probes = np.array([count - 1] if count else [], int)
        for number in probes:
            data = os.pread(self._fd, layout.header_bytes + 16, int(number) * layout.frame_bytes)
            if self.layout.parse(data)[0] != layout.header_bytes:
                return False
        # A newest frame that is cut has the next header in its image.
        begin = max(count - 1, 0) * layout.frame_bytes
        newest = self._pread(begin, layout.frame_bytes + layout.header_bytes)
        _, _, skipped, _ = self._decode(newest, 1, self._allocate(1, images=False))
        return not skipped

    def _scan(self, size: int) -> None:
        """Add the frames between the last scan and `size` to the offsets of an irregular file."""
        assert self._offsets is not None
        most = READ_BYTES // self.layout.header_bytes + 1
        found = self._allocate(most, images=False)
        while self._scanned < size:
            data = self._pread(self._scanned, min(READ_BYTES, size - self._scanned))
            last = self._scanned + len(data) >= size
            count, used, skipped, torn = self._decode(data, most, found)
            needed = self._offsets_count + count
            while needed > len(self._offsets):
                self._offsets = np.concatenate([self._offsets, np.empty_like(self._offsets)])
            self._offsets[self._offsets_count : needed] = found[0][:count] + self._scanned
            self._offsets_count = needed
            self.skipped += skipped
            self.torn += torn
            self._scanned += used
            if used == 0 or last:
                break

    def _decode_frames(self, first: int, count: int, images: bool) -> Frames:
        """Decode frames from `first` on."""
        offsets, numbers, quabo, pixels = result = self._allocate(count, images)
        done = 0
        while done < count:
            done += self._decode_part(first + done, count - done, result, done)
        side = self.product.side
        return make_frames(
            self.product,
            self.name.module,
            self.path.name,
            first + np.arange(count),
            offsets,
            quabo,
            numbers,
            pixels.view(self.product.dtype).reshape(len(pixels), side, side),
        )

    def _decode_part(self, number: int, most: int, result: tuple[NDArray, ...], done: int) -> int:
        """Decode frames from `number` on into the rows of `result` from `done` on."""
        layout, frame_bytes = self.layout, self.layout.frame_bytes
        step = max(1, READ_BYTES // frame_bytes)
        offsets = self._find_offsets()
        most = min(most, step)
        if offsets is None:
            begin = number * frame_bytes
            end = begin + most * frame_bytes
        else:
            begin = int(offsets[number])
            # A long frame has more digits; and the header after it decides whether it is cut.
            end = int(offsets[number + most - 1]) + frame_bytes + LONGEST_HEADER
            end = min(end, self.size)
        data = self._pread(begin, end - begin)
        rows = tuple(column[done : done + most] for column in result)
        count, _, skipped, _ = self._decode(data, most, rows)
        if offsets is None and (skipped or count < most) and len(data) == end - begin:
            self._offsets, self._dated = np.empty(1024, np.int64), (0, 0)
            raise _FrameLengthError
        if count == 0 or len(data) < most * layout.header_bytes:
            raise DataError(
                f"{self.path.name}: no valid frame {number + count} at byte {begin} and after it; "
                "was the file truncated?"
            )
        rows[0][:count] += begin
        return count

    def _decode(
        self, data: NDArray[np.uint8], most: int, rows: tuple[NDArray, ...]
    ) -> tuple[int, int, int, int]:
        layout = self.layout
        return kernels.decode(
            data, layout.text, layout.starts, layout.columns,
            self.product.image_bytes, most, *rows,
        )  # fmt: skip

    def _allocate(self, count: int, images: bool) -> tuple[NDArray, ...]:
        """Return arrays for offsets, numbers, boards and pixels of `count` frames."""
        return (
            np.empty(count, np.int64),
            np.empty((count, self.product.quabos * len(FIELDS)), np.int64),
            np.empty(count, np.int64),
            np.empty((count if images else 0, self.product.image_bytes), np.uint8),
        )

    def _pread(self, begin: int, length: int) -> NDArray[np.uint8]:
        if len(self._buffer) < length:  # kept: fresh memory costs more than the reading
            self._buffer = np.empty(length, np.uint8)
        data = self._buffer[:length]
        view, read = memoryview(data.data), 0
        while read < length:
            count = os.preadv(self._fd, [view[read:]], begin + read)
            if count == 0:
                break
            read += count
        return data[:read]


def read_pff(path: Path | str) -> Frames:
    """Decode all frames of a file.

    Raises
    ------
    DataError
        If the file's name does not tell product and module, or no header is near its beginning.
    """
    with PffFile(path) as file:
        return file.read()
