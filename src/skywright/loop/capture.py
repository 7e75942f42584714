"""One recording of the camera: pixels in HDF5, in areaDetector's layout, files beside it.

``NAME.h5`` holds the pictures; ``NAME.mjpeg`` every image file exactly as received, one after the
other; ``NAME.rejected.h5``, only when there are any, a row for each picture that could not become
pixels of the recording (its bytes are in the ``.mjpeg`` all the same).
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skywright.loop.sources import SourceFrame
from skywright.records import Column, ColumnWriter

IMAGE = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
IDENTITY = f"{ATTRIBUTES}/NDArrayUniqueId"
TIME = f"{ATTRIBUTES}/NDArrayTimeStamp"
EPICS_SECONDS = f"{ATTRIBUTES}/NDArrayEpicsTSSec"
EPICS_NANOSECONDS = f"{ATTRIBUTES}/NDArrayEpicsTSnSec"
SENDER_TIME = f"{ATTRIBUTES}/SenderTime"
JPEG_OFFSET = f"{ATTRIBUTES}/jpeg_offset"
JPEG_SIZE = f"{ATTRIBUTES}/jpeg_size"
WIDTH, HEIGHT = f"{ATTRIBUTES}/picture_width", f"{ATTRIBUTES}/picture_height"
REJECTED_IDENTITY = "/entry/rejected/NDArrayUniqueId"

EPICS_EPOCH_S = 631_152_000
"""1990-01-01 in Unix seconds."""

CAUSES = ("undecodable", "wrong size")
"""Why a picture was rejected; the code in the column ``cause`` is the index."""

_GROUPS = {
    "/entry": {"NX_class": "NXentry", "default": "data"},
    "/entry/data": {"NX_class": "NXdata", "signal": "data"},
    "/entry/instrument": {"NX_class": "NXinstrument"},
    "/entry/instrument/detector": {"NX_class": "NXdetector"},
    ATTRIBUTES: {"NX_class": "NXcollection"},
}
_IDENTITY_COLUMN = Column(IDENTITY, "<i8", attrs={"description": "frame number of the source"})
_SCALARS = (
    Column(TIME, "<f8", attrs={"units": "s", "description": "Unix time"}),
    Column(EPICS_SECONDS, "<u4", attrs={"units": "s", "description": "since 1990-01-01"}),
    Column(EPICS_NANOSECONDS, "<u4", attrs={"units": "ns"}),
    Column(SENDER_TIME, "<f8", attrs={"units": "s", "description": "clock of the sender, or NaN"}),
    Column(JPEG_OFFSET, "<i8", attrs={"units": "byte", "description": "in the .mjpeg, -1: none"}),
    Column(JPEG_SIZE, "<i8", attrs={"units": "byte"}),
    Column(WIDTH, "<i4", attrs={"units": "px", "description": "of the picture; the rest is 0"}),
    Column(HEIGHT, "<i4", attrs={"units": "px", "description": "of the picture; the rest is 0"}),
)
_REJECTED = tuple(
    Column(f"/entry/rejected/{name}", dtype, attrs=attrs)
    for name, dtype, attrs in (
        ("time", "<f8", {"units": "s"}),
        ("jpeg_offset", "<i8", {"units": "byte"}),
        ("jpeg_size", "<i8", {"units": "byte"}),
        ("cause", "|u1", {"names": list(CAUSES)}),
        ("height", "<i4", {"units": "px", "description": "0: unknown"}),
        ("width", "<i4", {"units": "px", "description": "0: unknown"}),
    )
)


class Capture:
    """An open recording; not thread-safe.

    Parameters
    ----------
    path
        Of the new ``.h5`` file.
    shape
        Of a picture: (H, W), or (H, W, 3) in color.

    Raises
    ------
    DataError
        If the file exists.
    OSError
        If it cannot be created.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        image = Column(IMAGE, "|u1", shape, 1, {"signal": 1, "interpretation": "image"})
        self._rejected: ColumnWriter | None = None
        self._files = path.with_suffix(".mjpeg").open("xb", buffering=0)
        try:
            self._columns = ColumnWriter(
                path,
                (image, *_SCALARS),
                _IDENTITY_COLUMN,
                _GROUPS,
                links={"/entry/instrument/detector/data": IMAGE},
            )
        except BaseException:
            self._files.close()
            Path(self._files.name).unlink()
            raise
        self._offset = 0

    @property
    def captured(self) -> int:
        """Number of pictures recorded, flushed or not."""
        return self._columns.appended

    def add(self, frame: SourceFrame, image: NDArray[np.uint8]) -> None:
        """Record a picture.

        Parameters
        ----------
        frame
            As it came.
        image
            Its pixels. A picture smaller than those of the recording lies at their upper left,
            so that its coordinates hold; `WIDTH` and `HEIGHT` say where it ends.

        Raises
        ------
        OSError
            If the disk is full or fails; the picture is not recorded then.
        """
        before = self._offset
        offset, size = self._keep(frame)
        seconds, fraction = divmod(frame.time, 1.0)
        rows: dict[str, ArrayLike] = {
            IMAGE: self._whole(image),
            WIDTH: image.shape[1],
            HEIGHT: image.shape[0],
            TIME: frame.time,
            EPICS_SECONDS: max(0, int(seconds) - EPICS_EPOCH_S),
            EPICS_NANOSECONDS: int(fraction * 1e9),
            SENDER_TIME: frame.sender_time,
            JPEG_OFFSET: offset,
            JPEG_SIZE: size,
        }
        try:
            self._columns.append(frame.frame_number, rows)
        except OSError:
            self._cut(before)
            raise

    def reject(self, frame: SourceFrame, cause: str, shape: tuple[int, ...] = (0, 0)) -> None:
        """Keep the bytes of a picture that cannot be part of the recording, and say why.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if self._rejected is None:
            self._rejected = ColumnWriter(
                self.path.with_suffix(".rejected.h5"),
                _REJECTED,
                Column(REJECTED_IDENTITY, "<i8"),
            )
        before = self._offset
        offset, size = self._keep(frame)
        values = (frame.time, offset, size, CAUSES.index(cause), *shape[:2])
        try:
            self._rejected.append(
                frame.frame_number,
                {column.path: value for column, value in zip(_REJECTED, values, strict=True)},
            )
        except OSError:
            self._cut(before)
            raise

    def flush(self) -> int:
        """Make all pictures so far visible; return how many readers may trust.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if self._rejected is not None:
            self._rejected.flush()
        return self._columns.flush()

    def close(self) -> None:
        """Flush and close all files; a second call does nothing.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        try:
            if self._rejected is not None:
                self._rejected.close()
        finally:
            try:
                self._columns.close()
            finally:
                self._files.close()

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a picture of this shape fits into those of the recording."""
        height, width, *depth = shape
        return height <= self.shape[0] and width <= self.shape[1] and depth == list(self.shape[2:])

    def _whole(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture in the shape of the recording."""
        if image.shape == self.shape:
            return image
        whole = np.zeros(self.shape, np.uint8)
        whole[: image.shape[0], : image.shape[1]] = image
        return whole

    def _keep(self, frame: SourceFrame) -> tuple[int, int]:
        """Write the file of a picture; return its offset and size, (-1, 0) when it has none."""
        if not frame.data:
            return -1, 0
        offset, rest = self._offset, memoryview(frame.data)
        try:
            while rest:
                rest = rest[self._files.write(rest) :]
        except OSError:
            self._cut(offset)
            raise
        self._offset += len(frame.data)
        return offset, len(frame.data)

    def _cut(self, offset: int) -> None:
        """Take back what was written past `offset`."""
        self._files.truncate(offset)
        self._files.seek(offset)
        self._offset = offset
