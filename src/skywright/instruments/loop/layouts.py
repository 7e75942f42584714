"""One recording of the camera, which is up to three files.

- ``NAME.h5`` has the pixels, in areaDetector's HDF5 layout. If the size of the pictures is not
  known at the start, the file is created with the first picture that can be decoded. An undecodable
  picture that arrives before that is counted as lost, and is in none of the files.
- ``NAME.mjpeg`` has every image file exactly as received, one after the other.
- ``NAME.rejected.h5`` has a row for each picture whose pixels cannot be in ``NAME.h5``; the bytes
  of such a picture are in ``NAME.mjpeg``. The file is created with the first such picture.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.layout import Layout
from skywright.files.areadetector import ATTRIBUTES, IMAGE, TIME_STAMP, UNIQUE_ID, ImageWriter
from skywright.files.beside import beside
from skywright.files.columns import Column, ColumnWriter, check_free_space
from skywright.files.stream_columns import StreamColumn
from skywright.instruments.loop.sources import SourceFrame

IDENTITY, TIME = UNIQUE_ID, TIME_STAMP
SENDER_TIME = f"{ATTRIBUTES}/SenderTime"
JPEG_OFFSET = f"{ATTRIBUTES}/jpeg_offset"
JPEG_SIZE = f"{ATTRIBUTES}/jpeg_size"
REJECTED_IDENTITY = "/entry/rejected/NDArrayUniqueId"

CAUSES = ("undecodable", "wrong size", "wrong dtype")
"""Why a picture was rejected; the code in the column ``cause`` is the index."""

_EXTRA = (
    Column(SENDER_TIME, "<f8", attrs={"units": "s", "description": "clock of the sender, or NaN"}),
    Column(JPEG_OFFSET, "<i8", attrs={"units": "byte", "description": "in the .mjpeg, -1: none"}),
    Column(JPEG_SIZE, "<i8", attrs={"units": "byte"}),
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


def stream_columns(shape: tuple[int, ...]) -> tuple[StreamColumn, ...]:
    """Return the columns that a run has of a recording, for pictures of a shape."""
    return (
        StreamColumn("image", IMAGE, "|u1", shape, 1),
        StreamColumn("frame_number", IDENTITY, "<i8"),
        StreamColumn("frame_time", TIME, "<f8", units="s"),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture, as it came and decoded for a recording."""

    frame: SourceFrame
    image: NDArray[np.uint8] | None
    """(H, W) or (H, W, 3) uint8; None if it cannot be decoded. The recording then has its bytes
    only."""


class PictureFile:
    """An open recording of pictures (H, W), or (H, W, 3) in color; not thread-safe.

    Raises
    ------
    DataError
        If the file exists.
    OSError
        If it cannot be created; of all methods: if the disk is full or fails.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        self._rejected: ColumnWriter | None = None
        self._mjpeg = beside(path, ".mjpeg").open("xb", buffering=0)
        try:
            self._images = ImageWriter(path, shape, np.uint8, "frame number of the source", _EXTRA)
        except BaseException:
            self._mjpeg.close()
            Path(self._mjpeg.name).unlink()
            raise
        self._offset = 0

    @property
    def appended(self) -> int:
        """Number of rows in the file, visible or not; not those that are rejected."""
        return self._images.appended

    def append(self, pictures: Sequence[Picture]) -> Mapping[str, int]:
        """Record pictures; return the number of those that do not fit in, by cause.

        A picture that cannot be decoded is kept as rejected, and is not counted here.
        """
        lost: Counter[str] = Counter()
        for picture in pictures:
            if picture.image is None:
                self.reject(picture.frame, "undecodable")
            elif cause := self._images.reason_to_reject(picture.image):
                lost[cause] += 1
                self.reject(picture.frame, cause, picture.image.shape)
            else:
                self.add(picture.frame, picture.image)
        return lost

    def add(self, frame: SourceFrame, image: NDArray[np.uint8]) -> None:
        """Record a picture; one that raises is not recorded.

        A picture smaller than those of the recording is stored in the upper left corner, so that
        its pixel coordinates do not change; the columns of width and height are its size.
        """
        with self._appended_to_mjpeg(frame) as (offset, size):
            extra = {SENDER_TIME: frame.sender_time, JPEG_OFFSET: offset, JPEG_SIZE: size}
            time_ns = round(frame.time * 1e9)
            self._images.append(frame.frame_number, image, time_ns, frame.time, extra)

    def reject(self, frame: SourceFrame, cause: str, shape: tuple[int, ...] = (0, 0)) -> None:
        """Keep the bytes of a picture that cannot be part of the recording, and say why."""
        if self._rejected is None:
            path = beside(self.path, ".rejected.h5")
            self._rejected = ColumnWriter(path, _REJECTED, Column(REJECTED_IDENTITY, "<i8"))
        with self._appended_to_mjpeg(frame) as (offset, size):
            values = (frame.time, offset, size, CAUSES.index(cause), *shape[:2])
            row = {column.path: value for column, value in zip(_REJECTED, values, strict=True)}
            self._rejected.append(frame.frame_number, row)

    def flush(self) -> int:
        """Make all pictures so far visible; return the number of rows that readers can see."""
        if self._rejected is not None:
            self._rejected.flush()
        return self._images.flush()

    def close(self) -> None:
        """Flush and close all files; a second call does nothing."""
        with closing(self._mjpeg), closing(self._images):
            if self._rejected is not None:
                self._rejected.close()

    @contextmanager
    def _appended_to_mjpeg(self, frame: SourceFrame) -> Iterator[tuple[int, int]]:
        """Append the image file to the ``.mjpeg``; yield its offset and size.

        They are (-1, 0) if there is no image file. An error in the with block removes it again.
        """
        before, data = self._offset, frame.data or b""
        check_free_space(self.path.parent, len(data))  # its error says what to do
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._mjpeg.write(rest) :]
            self._offset += len(data)
            yield (before, len(data)) if data else (-1, 0)
        except Exception:  # also if the row of the picture cannot be written
            self._mjpeg.truncate(before)
            self._mjpeg.seek(before)
            self._offset = before
            raise


class PictureLayout(Layout[Picture, Picture, PictureFile]):
    """Writes pictures of one size: `early_shape`, or that of the first picture.

    It is used in place of `ImageLayout` of `skywright.acquire`, because a recording also keeps the
    image files as received, and the pictures that have no pixels.
    """

    name = "pictures"
    at_once = 1

    def __init__(self) -> None:
        self.early_shape: tuple[int, ...] | None = None
        """Shape of the pictures of the next file, which is then created at once; None waits for the
        first picture and takes its shape."""
        self._file: PictureFile | None = None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape of the pictures in the newest file; None while it is not created."""
        return None if self._file is None else self._file.shape

    def row_group(self, result: Picture) -> Picture | None:
        """Return a picture, unless it is undecodable and there is no file to keep its bytes."""
        return None if result.image is None and self._file is None else result

    def nbytes(self, picture: Picture) -> int:
        """Return the memory that a picture holds."""
        return picture.frame.nbytes + (0 if picture.image is None else picture.image.nbytes)

    def rows(self, picture: Picture) -> int:
        """Return the number of rows: none for a picture without pixels."""
        return int(picture.image is not None)

    def describe(self, picture: Picture) -> str:
        """Return number and size."""
        name = picture.frame.name
        if picture.image is None:
            return name
        height, width, *channels = picture.image.shape
        return f"{name} of {' x '.join(map(str, (width, height, *channels)))}"

    def append(self, file: PictureFile, pictures: Sequence[Picture]) -> Mapping[str, int]:
        """Record pictures; return the number of those that do not fit in, by cause."""
        return file.append(pictures)

    def open_early(self, path: Path) -> PictureFile | None:
        """Create the file when the shape of its pictures is known."""
        self._file = None if self.early_shape is None else PictureFile(path, self.early_shape)
        return self._file

    def open(
        self, path: Path, pictures: Sequence[Picture], must_create: bool
    ) -> PictureFile | None:
        """Create the file for the first picture with pixels."""
        images = (picture.image for picture in pictures if picture.image is not None)
        image = next(images, None)
        if image is None:
            return None
        self._file = PictureFile(path, image.shape)
        return self._file
