"""Write PFF files as Hashpipe does: through a buffer, with rollover by size."""

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.instruments.panoseti import pff_kernels as kernels
from skywright.instruments.panoseti.clock import NS, SEC, USEC
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.pff_layout import FIELDS, standard_header
from skywright.instruments.panoseti.products import FileName, Product, start_token

_NUMBER_SPAN = re.compile(rb": *([0-9]+)(?=[,}])")


class FrameEncoder:
    """Turn header numbers and images into the bytes of PFF frames."""

    def __init__(self, product: Product) -> None:
        self.product = product
        text = standard_header(product)
        self._template = np.frombuffer(text + bytes(product.image_bytes), np.uint8)
        self._header_bytes = len(text)
        # `: ` and then the number, right-aligned in its width
        spans = [(found.start() + 2, found.end()) for found in _NUMBER_SPAN.finditer(text)]
        self._spans = np.array(spans, np.int64)

    def encode(
        self,
        numbers: NDArray[np.int64],
        images: NDArray[np.generic],
        quabo: NDArray[np.int64] | int = 0,
    ) -> NDArray[np.uint8]:
        """Return the bytes of N frames.

        Parameters
        ----------
        numbers
            (N, Q, 5) int64, columns as in `pff_layout.FIELDS`.
        images
            (N, H, W) of the product's dtype.
        quabo
            (N,) board of each image, for 16 x 16 images.

        Returns
        -------
        NDArray[np.uint8]
            (N, frame bytes).

        Raises
        ------
        DataError
            If a number does not fit its width, or shape or dtype is not the product's.
        """
        count, product = len(images), self.product
        if images.shape[1:] != (product.side, product.side):
            raise DataError(f"{product.name} images are {product.side} x {product.side} pixels")
        if images.dtype != np.dtype(product.dtype):
            raise DataError(f"{product.name} pixels are {product.dtype}, not {images.dtype.str}")
        columns = product.quabos * len(FIELDS)
        values = np.ascontiguousarray(numbers, np.int64)
        if values.size != count * columns:
            raise DataError(f"{product.name} has {product.quabos} boards with {FIELDS} each")
        values = values.reshape(count, columns)
        if product.quabos == 1:
            boards = np.broadcast_to(np.asarray(quabo, np.int64), count)
            values = np.concatenate([boards[:, np.newaxis], values], axis=1)
        out = np.empty((count, len(self._template)), np.uint8)
        out[:, : self._header_bytes] = self._template[: self._header_bytes]
        wrong = kernels.fill_headers(out, self._spans, values)
        if wrong >= 0:
            raise DataError(
                f"frame {wrong}: a header number does not fit its width: {values[wrong].tolist()}"
            )
        pixels = np.ascontiguousarray(images).view(np.uint8).reshape(count, product.image_bytes)
        out[:, self._header_bytes :] = pixels
        return out


class PffWriter:
    """Append frames of one module and product to files of a run, with rollover.

    Parameters
    ----------
    directory
        Where the files are; it exists.
    product, module
        What is written.
    start_ns
        Time in the first file's name; later files carry the time of their first frame.
    max_file_bytes
        A file that has reached this size is closed; 0 for no limit. The size is looked at after
        each frame, so a file exceeds it by less than a frame.
    buffer_bytes
        The file grows in steps of this size, at any byte, as that of a C program does; 0 writes
        each call of `append` at once. Default: Hashpipe's.
    """

    def __init__(
        self,
        directory: Path,
        product: Product,
        module: int,
        start_ns: int,
        max_file_bytes: int = 0,
        buffer_bytes: int | None = None,
    ) -> None:
        self.directory = directory
        self.product = product
        self.module = module
        self._encoder = FrameEncoder(product)
        self._limit = max_file_bytes
        self._buffer_bytes = product.buffer_bytes if buffer_bytes is None else buffer_bytes
        self._pending = bytearray()
        self._fd, self._seqno, self._written = -1, 0, 0
        self._open(start_ns)

    def append(
        self,
        numbers: NDArray[np.int64],
        images: NDArray[np.generic],
        quabo: NDArray[np.int64] | int = 0,
    ) -> None:
        """Append N frames; arguments as in `FrameEncoder.encode`.

        Raises
        ------
        DataError
            As `FrameEncoder.encode` does.
        OSError
            If the file cannot be written, for instance because the disk is full.
        """
        data = self._encoder.encode(numbers, images, quabo)
        arrivals = numbers.reshape(len(data), -1, len(FIELDS)).max(axis=1)
        done = 0
        while done < len(data):
            if self._limit and self._written >= self._limit:
                first = arrivals[done]
                self._roll(int(first[SEC]) * NS + int(first[USEC]) * 1000)
            fitting = len(data) - done
            if self._limit:
                missing = self._limit - self._written
                fitting = min(fitting, -(-missing // data.shape[1]))
            self._put(data[done : done + fitting].tobytes())
            done += fitting

    def flush(self) -> None:
        """Write out what is in the buffer."""
        self._write_out(len(self._pending))

    def close(self) -> None:
        """Write out the buffer and close the file, in any case; a second call does nothing."""
        if self._fd >= 0:
            try:
                self.flush()
            finally:
                fd, self._fd = self._fd, -1
                os.close(fd)

    def _put(self, data: bytes) -> None:
        self._pending += data
        self._written += len(data)
        whole = len(self._pending)
        if self._buffer_bytes:
            whole -= whole % self._buffer_bytes
        self._write_out(whole)

    def _write_out(self, length: int) -> None:
        done = 0
        try:
            while done < length:
                with memoryview(self._pending) as view:
                    done += os.write(self._fd, view[done:length])
        finally:
            del self._pending[:done]

    def _roll(self, time_ns: int) -> None:
        self.close()
        self._seqno += 1
        self._open(time_ns)

    def _open(self, time_ns: int) -> None:
        name = FileName(start_token(time_ns), self.product, self.module, self._seqno)
        self.path = self.directory / str(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._fd = os.open(self.path, flags, 0o644)
        self._written = 0


def encode_frames(frames: Frames) -> bytes:
    """Return decoded frames as the bytes of a PFF file."""
    encoder = FrameEncoder(frames.product)
    return encoder.encode(frames.numbers, frames.image, frames.quabo).tobytes()
