"""The camera: takes pictures from a source, hands them to queues (`subscribe`), and records them.

`Camera` is the owner of the source, with two recorders: one file for all pictures of a recording,
or one for each picture. Pictures are decoded and written on one thread, so that an acquisition
counts pictures that are in the file; queues get them as they come. In a recording, every picture of
the acquisition is stored, or counted as lost by its cause.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.acquisition import Acquisition, OwnerState, RefusedError
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder
from skywright.errors import DataError
from skywright.files.beside import beside
from skywright.instruments.loop.layouts import Picture, PictureLayout
from skywright.instruments.loop.sources import Source, SourceFrame

LOST_CAUSES = {
    "undecodable": ("undecodable", "unreadable", "not processed"),
    "wrong size": ("wrong size",),
    "queue full": ("queue full",),
    "not written": ("not written",),
    "not received": ("cut off", "refused", "too large"),
}
"""Why pictures are lost, and the causes of sources, owner and recorders that count as each."""


class SingleFiles(Protocol):
    """Chooses the paths when each picture is written to a file of its own.

    The camera's thread calls both methods.
    """

    def next_path(self) -> Path:
        """Return the path of the next file; the same one until `file_written` is called."""

    def file_written(self, path: Path) -> None:
        """Note that the file was written; `next_path` may return another path from now on."""


@dataclass(frozen=True)
class CameraState(OwnerState[SourceFrame]):
    """Snapshot of the camera's state; `lost` has the causes `LOST_CAUSES`."""

    shape: tuple[int, ...] = (0, 0)
    """(H, W) or (H, W, 3) of the pictures; (0, 0) while the size is not known."""
    frame_number: int = -1
    frame_time: float = 0.0
    """Identity and time (unix s) of the last one that an acquisition counted."""
    capturing: bool = False
    rows_readable: int = 0
    """Number of rows of this or the last recording that readers can see."""
    write_error: str = ""
    """The last error of the recording, see `Recorder.error`."""
    truth: Mapping[str, Any] | None = None
    """What a simulator says of the last picture; for scoring only."""


class SingleFileRecorder(Recorder[Picture, Picture]):
    """Writes each picture to a file of its own, a recording of one row, if `files` is not None."""

    def __init__(self) -> None:
        super().__init__(PictureLayout(), synchronous=True)
        self.files: SingleFiles | None = None

    def offer(self, result: Picture) -> None:
        """Write a picture, on the camera's thread; raise `RefusedError` if that fails."""
        files = self.files
        if files is None or result.image is None:
            return
        path = files.next_path()
        mjpeg = beside(path, ".mjpeg")
        # One that exists belongs to another picture
        created = (path,) if mjpeg.exists() else (path, mjpeg)
        if error := self.start(path, count=1):
            self._lost.add("not written")
            raise RefusedError("not written", f"{result.frame.name}: {error}")
        try:
            super().offer(result)
        except RefusedError:
            self.stop()
            for file in created:
                file.unlink(missing_ok=True)
            raise
        files.file_written(path)


class Camera(Owner[SourceFrame, SourceFrame]):
    """The owner of the pictures of a source, for queues and recordings.

    An alarm of an acquisition stays until the next one starts.

    Parameters
    ----------
    source
        Where pictures come from; the camera closes it.
    changed
        Called, from any thread, after the state has changed; must return at once.
    """

    source: Source

    def __init__(self, source: Source, changed: Callable[[], None] = lambda: None) -> None:
        self.color = False
        """True records (H, W, 3) RGB, False (H, W) gray."""
        self._size = source.size
        # Each picture goes to both recorders, and each ignores it unless it has a file to write.
        self._layout = PictureLayout()
        self._singles = SingleFileRecorder()
        self._recorder = Recorder(self._layout, changed=changed, synchronous=True)
        super().__init__(
            source,
            recorders=[self._singles, self._recorder],
            changed=changed,
            prepare=self._decode,
            threads=1,
            name="camera",
            item_name="picture",
        )

    def status_message(self, result: SourceFrame) -> tuple[str, bool] | None:
        """Return the message after a picture; None after an alarm, which stays."""
        if self.message.alarm and not self.message.is_silence:
            return None
        return super().status_message(result)

    def expects_items(self) -> bool:
        """Return whether silence is reported: only during an acquisition."""
        return self.acquisition is not None

    # ---- state

    @property
    def single_files(self) -> SingleFiles | None:
        """If set, each picture is written to a file of its own, whose path this object chooses."""
        return self._singles.files

    @single_files.setter
    def single_files(self, files: SingleFiles | None) -> None:
        self._singles.files = files
        self._singles.forget_error()

    def state(self) -> CameraState:
        """Return the present state."""
        known, capturing = vars(super().state()), self._recorder.path is not None
        last, lost = self.last_recorded, known["lost"]
        known["lost"] = {
            cause: sum(lost.get(each, 0) for each in (*causes, f"{self._layout.name} {cause}"))
            for cause, causes in LOST_CAUSES.items()
        }
        if last is not None:
            frame = last.frame
            known |= {"frame_number": frame.frame_number, "frame_time": frame.time}
            known["truth"] = frame.truth
        recorder = self._singles if self.single_files is not None else self._recorder
        return CameraState(
            **known,
            shape=self._shape(),
            capturing=capturing,
            rows_readable=recorder.rows_readable,
            write_error=self._recorder.error or self._singles.error,
        )

    def _shape(self) -> tuple[int, ...]:
        if self._recorder.path is not None and self._layout.shape is not None:
            return self._layout.shape
        size = self.source.size or self._size
        if size is None:
            return (0, 0)
        width, height = size
        return (height, width, 3) if self.color else (height, width)

    # ---- methods for endpoints

    def acquire(
        self,
        requested: int = 0,
        on_item: Callable[[SourceFrame], None] | None = None,
        *,
        may_join: bool = False,
    ) -> Acquisition:
        """Start an acquisition; see `Owner.acquire`.

        Its event `done` is set when the pictures are in the file and visible there.
        """
        if self.acquisition is None:
            self.report("taking pictures", alarm=False)  # clears an old alarm
        return super().acquire(requested, on_item, may_join=may_join)

    def start_capture(self, path: Path, count: int = 0, lazy: bool = False) -> str:
        """Start a recording; an open one is closed first.

        Return an error message, empty if it succeeded.

        Parameters
        ----------
        path
            Path of the new ``.h5`` file; its directory must exist.
        count
            Number of pictures after which it ends by itself; 0: never.
        lazy
            True: create the file only when the first picture arrives, with the size of that
            picture.
        """
        self._recorder.stop()  # before `_shape`, which returns the shape of an open recording
        known = (self.source.size or self._size) is not None and not lazy
        self._layout.early_shape = self._shape() if known else None
        error = self._recorder.start(path, count)
        if error:
            self.report(error)
        return error

    def stop_capture(self) -> None:
        """Close the recording."""
        self._recorder.stop()

    def set_color(self, color: bool) -> bool:
        """Choose color or gray; return what is in use, which a recording fixes."""
        if self._recorder.path is None:
            self.color = color
        self.changed()
        return self.color

    def latest(self) -> tuple[SourceFrame, NDArray[np.uint8]] | None:
        """Return the newest picture with its pixels; None before the first or if undecodable."""
        frame = self.newest
        if frame is None:
            return None
        try:
            return frame, frame.pixels(self.color)
        except DataError:
            return None

    def close(self) -> None:
        """Record what has arrived, close the files and the source."""
        super().close()
        self._recorder.close()
        self._singles.close()

    def _decode(self, frame: SourceFrame) -> Picture:
        """Decode a picture, on the camera's thread."""
        try:
            image = frame.pixels(self.color)
        except DataError as error:
            raise RefusedError("undecodable", str(error), Picture(frame, None)) from error
        self._size = image.shape[1], image.shape[0]
        return Picture(frame, image)
