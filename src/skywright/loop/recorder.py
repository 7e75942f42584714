"""Recordings one after the other: opened, filled, flushed in time, ended by count, closed."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.loop.capture import Capture
from skywright.loop.sources import SourceFrame

FLUSH_S = 0.05
"""A picture is visible in the file at most this long after it was recorded."""


class WrongSizeError(DataError):
    """A picture that is larger than those of the recording."""


class Recorder:
    """Keeps at most one recording open; not thread-safe.

    Attributes
    ----------
    path
        Of the recording under way; None when there is none.
    visible
        Pictures of this or the last recording that a reader of the file may trust.
    error
        Why the last attempt to write failed; empty when it did not.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.visible = 0
        self.error = ""
        self._count = 0
        self._capture: Capture | None = None
        self._unflushed_since = 0.0

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the pictures in the open file; None when none is open."""
        return None if self._capture is None else self._capture.shape

    def start(self, path: Path, count: int, shape: tuple[int, ...] | None) -> None:
        """Start a recording that ends by itself after `count` pictures (0: never).

        `shape` None waits for the first picture, and takes its shape. When the file cannot be
        made, `error` says why, and no recording is under way.
        """
        self.close()
        self.path, self._count, self.visible, self.error = path, count, 0, ""
        if shape is not None:
            try:
                self._open(shape)
            except OSError:
                self.path = None

    def record(self, frame: SourceFrame, image: NDArray[np.uint8]) -> None:
        """Write a picture, if a recording is under way.

        Raises
        ------
        WrongSizeError
            If it is larger than those of the recording.
        OSError
            If it cannot be written.
        """
        if self.path is None:
            return
        capture = self._capture or self._open(image.shape)
        if not capture.holds(image.shape):
            raise WrongSizeError(
                f"picture of {_size(image.shape)}, the recording is of {_size(capture.shape)}"
            )
        with self._noting_errors():
            capture.add(frame, image)
        self._unflushed_since = self._unflushed_since or time.monotonic()

    def reject(self, frame: SourceFrame, cause: str, shape: tuple[int, ...]) -> None:
        """Keep the file of a picture that cannot be in the recording.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if self._capture is not None:
            with self._noting_errors():
                self._capture.reject(frame, cause, shape)

    def record_alone(self, frame: SourceFrame, image: NDArray[np.uint8], path: Path) -> None:
        """Write one picture to a file of its own.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        with self._noting_errors():
            capture = Capture(path, image.shape)
            try:
                capture.add(frame, image)
                self.visible = capture.flush()
            finally:
                capture.close()

    def flush(self, *, now: bool) -> bool:
        """Make pictures visible, `now` or when they have waited long; return whether it did.

        Closes the recording that has its count.
        """
        if self._capture is None or not self._unflushed_since:
            return False
        full = bool(self._count) and self._capture.captured >= self._count
        if not (now or full or time.monotonic() - self._unflushed_since > FLUSH_S):
            return False
        self._unflushed_since = 0.0
        try:
            with self._noting_errors():
                self.visible = self._capture.flush()
        except OSError:
            return True
        if full:
            self.close()
        return True

    def close(self) -> None:
        """End the recording; trouble is in `error`."""
        capture, self._capture, self.path = self._capture, None, None
        self._unflushed_since = 0.0
        if capture is not None:
            try:
                with self._noting_errors():
                    self.visible = capture.flush()
                    capture.close()
            except OSError:
                return

    def _open(self, shape: tuple[int, ...]) -> Capture:
        assert self.path is not None
        with self._noting_errors():
            self._capture = Capture(self.path, shape)
        return self._capture

    def _noting_errors(self) -> "_NotingErrors":
        return _NotingErrors(self)


class _NotingErrors:
    """Note in `Recorder.error` whether the block could write; every error becomes `OSError`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._recorder.error = "" if error is None else str(error)
        if isinstance(error, DataError):
            raise OSError(str(error)) from error


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, (shape[1], shape[0], *shape[2:])))
