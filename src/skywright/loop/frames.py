"""Pictures between threads: a queue bounded in bytes; files to pixels."""

import threading
from collections import deque
from typing import Generic, TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from skywright.loop.picture import decode
from skywright.loop.sources import SourceFrame

T = TypeVar("T")


class ByteQueue(Generic[T]):
    """A queue bounded in bytes, so that a burst of small pictures and of large ones cost alike."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._items: deque[tuple[SourceFrame | None, T | None]] = deque()
        self._filled = threading.Condition()

    def put(self, frame: SourceFrame, mark: T) -> bool:
        """Append, or return False when the queue is full."""
        with self._filled:
            if self._items and self._bytes + frame.nbytes > self._limit:
                return False
            self._bytes += frame.nbytes
            self._items.append((frame, mark))
            self._filled.notify()
            return True

    def put_end(self, mark: T | None) -> None:
        """Append the mark after which `mark` is over; None ends the thread."""
        with self._filled:
            self._items.append((None, mark))
            self._filled.notify()

    def get(self, limit_s: float) -> tuple[SourceFrame | None, T | None] | None:
        """Return the oldest item, None after `limit_s`."""
        with self._filled:
            if not self._filled.wait_for(lambda: self._items, limit_s):
                return None
            frame, mark = self._items.popleft()
            self._bytes -= frame.nbytes if frame is not None else 0
            return frame, mark


def pixels(frame: SourceFrame, color: bool) -> NDArray[np.uint8]:
    """Return (H, W) grey or (H, W, 3) RGB pixels of a picture; DataError when undecodable."""
    name = f"frame {frame.frame_number}"
    if frame.image is not None:
        if color == (frame.image.ndim == 3):
            return frame.image
        return np.asarray(Image.fromarray(frame.image).convert("RGB" if color else "L"))
    gray = decode(frame.data or b"", name)
    if not color:
        return gray
    return _rgb(frame.data or b"", gray)


def _rgb(data: bytes, gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode bytes that are known to decode, to RGB; grey pictures get three equal channels."""
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return np.repeat(gray[:, :, np.newaxis], 3, axis=2)
