"""Stored pictures, played at a rate: a folder of image files, or an HDF5 file of a camera."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skywright.acquire.pacing import PacedSource
from skywright.errors import ConfigError, DataError
from skywright.files.areadetector import IMAGE
from skywright.files.beside import beside
from skywright.files.hdf5 import open_hdf5, read_rows
from skywright.instruments.loop.layouts import JPEG_OFFSET, JPEG_SIZE
from skywright.instruments.loop.picture import picture_size, read_file
from skywright.instruments.loop.sources import CAMERA_PACE, SourceFrame

DATASETS = (IMAGE, "/entry/instrument/detector/data", "/entry/data", "/data")
"""Datasets of an HDF5 file that are tried in this order if `dataset` is not given."""

Fetch = Callable[[int], tuple[bytes | None, NDArray[np.uint8] | None]]


class Replay(PacedSource[SourceFrame]):
    """Delivers stored pictures at a fixed rate.

    Parameters
    ----------
    path
        A folder of pictures that Pillow reads, played in the order of their names, or an HDF5
        file with a dataset (N, H, W) or (N, H, W, 3) of uint8. A recording of `Camera` is played
        from its ``.mjpeg`` file, which has the image files as they were received.
    fps
        Pictures per second.
    loop
        Begin again after the last; else the source ends.
    dataset
        Path of the dataset in the HDF5 file.

    Raises
    ------
    ConfigError
        If there is nothing to play.
    """

    def __init__(
        self, path: Path, fps: float = 30.0, *, loop: bool = True, dataset: str | None = None
    ) -> None:
        self.loop = loop
        with ExitStack() as files:  # closes them if there is nothing to play
            if path.is_dir():
                self._count, self._fetch, size = _folder(path)
            else:
                self._count, self._fetch, size = _hdf5(path, dataset, files)
            self._files = files.pop_all()
        super().__init__("replay", self._frame, 1.0 / fps, **CAMERA_PACE)
        self.size: tuple[int, int] | None = size

    def close(self) -> None:
        """Stop, and close the file."""
        super().close()
        self._files.close()

    def _frame(self, number: int, time: float) -> SourceFrame:
        if number >= self._count and not self.loop:
            raise StopIteration
        data, image = self._fetch(number % self._count)
        return SourceFrame(number, time, data=data, image=image)


def _folder(path: Path) -> tuple[int, Fetch, tuple[int, int]]:
    known = Image.registered_extensions()
    files = sorted(
        file
        for file in path.iterdir()
        # Hidden files are no pictures: macOS stores metadata of a.jpg in ._a.jpg
        if file.suffix.lower() in known and not file.name.startswith(".") and not file.is_dir()
    )
    if not files:
        raise ConfigError(f"{path}: no picture in this folder; name one with image files")
    try:
        size = picture_size(read_file(files[0]))
    except DataError as error:
        raise ConfigError(str(error)) from error
    if size is None:
        raise ConfigError(f"{files[0]}: is no picture")
    return len(files), lambda index: (files[index].read_bytes(), None), size


def _hdf5(path: Path, dataset: str | None, files: ExitStack) -> tuple[int, Fetch, tuple[int, int]]:
    names = (dataset,) if dataset else DATASETS
    try:
        file = files.enter_context(open_hdf5(path))
        there = (file.get(name) for name in names)
        found = next((each for each in there if isinstance(each, h5py.Dataset)), None)
    except (OSError, RuntimeError) as error:  # h5py raises either for a damaged file
        raise ConfigError(f"{path}: neither a folder of pictures nor HDF5 ({error})") from error
    if found is None:
        raise ConfigError(f"{path}: has no dataset {' or '.join(names)}; name the one to play")
    is_stack = found.ndim == 3 or (found.ndim == 4 and found.shape[3] == 3)
    if not is_stack or found.dtype != np.uint8 or not len(found):
        raise ConfigError(
            f"{path}: {found.name} is {found.shape} {found.dtype}, expected (N, H, W) uint8 or "
            "(N, H, W, 3)"
        )
    mjpeg = beside(path, ".mjpeg")
    size = int(found.shape[2]), int(found.shape[1])
    if mjpeg.exists() and JPEG_OFFSET in file:
        return len(found), _from_mjpeg(file, found, mjpeg), size
    return len(found), lambda index: (None, read_rows(found, index, index + 1)[0]), size


def _from_mjpeg(file: Any, pixels: h5py.Dataset, mjpeg: Path) -> Fetch:
    offsets, sizes = file[JPEG_OFFSET][:], file[JPEG_SIZE][:]

    def fetch(index: int) -> tuple[bytes | None, NDArray[np.uint8] | None]:
        if offsets[index] < 0:
            return None, read_rows(pixels, index, index + 1)[0]
        with mjpeg.open("rb") as stream:
            stream.seek(offsets[index])
            data = stream.read(sizes[index])
        if len(data) != sizes[index]:
            raise DataError(f"{mjpeg}: ends before picture {index}; the copy is incomplete")
        return data, None

    return fetch
