"""Stored pictures as pulses: an HDF5 dataset with its pulse ids and times."""

import logging
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters of detector files, bitshuffle among them
import numpy as np
from numpy.typing import NDArray

from skywright.acquire.pacing import PacedSource, period_of
from skywright.errors import ConfigError
from skywright.files.areadetector import EPICS_EPOCH_S, EPICS_NANOSECONDS, EPICS_SECONDS, UNIQUE_ID
from skywright.instruments.psss.pulse import Pulse

logger = logging.getLogger(__name__)

IMAGE_DATASETS = ("/image", "/images", "/data/image", "/entry/data/data", "/entry/data", "/data")
"""Datasets in which pictures are looked for, in this order, if none is given."""

ID_NAMES = ("pulse_id", "pulse_ids", "pulseId")
PRESENT = "is_data_present"
"""Dataset beside the pictures, of SwissFEL's writers: 0 where a picture is missing."""
_ALL_MISSING = "all pictures are missing"
TIME_NAMES = ("time_ns", "global_timestamp", "timestamp", "time")
"""Datasets, beside the pictures or in a group above, with the time since 1970.

The unit is ns if the name ends with ``_ns`` or the values reach `SECONDS_MAX`, otherwise s. Beside
whole seconds, ``timestamp_offset`` has the ns to add, as in files of bsread's ``bs h5``."""
SECONDS_MAX = 9 * 10**9
"""The year 2255: later times, in ns, do not fit into 64 bits."""


class ReplaySource(PacedSource[Pulse]):
    """Plays the pictures of an HDF5 file as pulses, again and again; pulse ids go on to grow.

    The times of the file are those of the first turn; later pulses have no time.
    Pictures that are not taken in time count as lost, ``late``. A pulse whose picture cannot be
    read comes without it, and is reported. Pulses that were recorded without a picture are left
    out; in files of ``bs h5 --compact`` these are the ones whose picture has zeros only. If that
    holds for all of them, the source ends.

    Parameters
    ----------
    path
        HDF5 file, with any filter that hdf5plugin has.
    dataset
        Path in the file of a dataset (N, rows, columns) of integers, float32 or float64. None: the
        first of `IMAGE_DATASETS` that the file has, else its only dataset of that kind.
    rate_hz
        Pictures per second; 0: as fast as they are taken.

    Raises
    ------
    ConfigError
        If the rate is below 0. Raised by `open` if there are no pictures to play; the message names
        what is missing.
    """

    def __init__(self, path: Path, dataset: str | None = None, *, rate_hz: float = 100.0) -> None:
        if rate_hz < 0.0:
            raise ConfigError(f"rate {rate_hz} Hz: expected 0 or more")
        super().__init__(
            "replay", self._pulse, period_of(rate_hz), period_min_s=None, item_name="picture"
        )
        self._pacer.end()  # no picture comes before the first start
        self.path = path
        self.dataset = dataset
        self._lock = threading.Lock()
        self._images: h5py.Dataset | None = None
        self._ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._rows: NDArray[np.int64] = np.empty(0, np.int64)
        """Places of the pictures in the dataset."""
        self._times: NDArray[np.int64] | None = None
        self._zeros_are_missing = False
        self._missing = 0
        """Number of missing pictures since the last one that is there, or since the start."""

    def open(self) -> None:
        """Open the file. The next picture is the one after the last that was played.

        So the pulse ids of one acquisition do not come again in the next.
        """
        with ExitStack() as files:  # closes the file if there is nothing to play
            try:
                file = files.enter_context(h5py.File(self.path, "r"))
                images = find_images(file, self.dataset)
                self._ids, self._rows = _ids(images)
                times = _times(images)
                self._times = None if times is None else times[self._rows]
                self._zeros_are_missing = _is_compact(images)
            except ConfigError:
                raise
            except Exception as error:  # h5py raises many kinds for a damaged file
                raise ConfigError(f"{self.path}: no HDF5 file to replay ({error})") from error
            self._images, self._missing = images, 0
            files.pop_all()
        super().open()

    def halt(self) -> None:
        """Close the file."""
        super().halt()
        with self._lock:
            images, self._images = self._images, None
            if images is not None:
                images.file.close()

    def _pulse(self, number: int, _time: float) -> Pulse | None:
        with self._lock:
            if self._images is None:  # it was stopped just now: the picture comes after a start
                self._number = number
                return None
            turn, index = divmod(number, len(self._ids))
            row = int(self._rows[index])
            span = int(self._ids[-1] - self._ids[0]) + _step(self._ids)
            image: NDArray[Any] | None = None
            try:
                image = self._images[row]
                image.flags.writeable = False
            except (OSError, RuntimeError) as error:  # a chunk that cannot be decompressed
                self.report(f"{self.path}: picture {row} cannot be read ({error})")
            if self._zeros_are_missing and image is not None and not image.any():
                self._missing += 1
                if self._missing == len(self._ids):
                    raise StopIteration(f"{self.path}: {_ALL_MISSING}")
                return None
            self._missing = 0
            time_ns = None if self._times is None or turn else int(self._times[index])
            pulse_id = int(self._ids[index]) + turn * span
            return Pulse(pulse_id, time_ns, image, has_unusable_picture=image is None)


def find_images(file: h5py.File, dataset: str | None) -> h5py.Dataset:
    """Return the dataset of pictures.

    Raises
    ------
    ConfigError
        If there is none of that name, if it is not (N, rows, columns) of numbers, or if none is
        named and there are several.
    """
    if dataset is None:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(f"/{name}") if _is_images(item) else None)
        chosen = [name for name in IMAGE_DATASETS if name in names] or names
        if not chosen or (len(chosen) > 1 and chosen is names):
            raise ConfigError(
                f"{file.filename}: {len(names)} datasets of pictures {names}; choose one with "
                "--dataset"
            )
        dataset = chosen[0]
    found = file.get(dataset)
    if not _is_images(found):
        raise ConfigError(
            f"{file.filename}: {dataset}: expected a dataset (N, rows, columns), N > 0, of "
            "integers, float32 or float64"
        )
    return found


def _is_images(item: Any) -> bool:
    is_stack = isinstance(item, h5py.Dataset) and item.ndim == 3 and item.size > 0
    return is_stack and item.dtype.kind in "iuf" and item.dtype != np.float16


def _find(images: h5py.Dataset, *names: str) -> h5py.Dataset | None:
    """Return the dataset with one of these names or paths that is nearest to the pictures, or None.

    It is beside the pictures or in a group above them, and has a value for each of them: (N,), or
    (N, 1) as some writers have it, or () beside a single picture.
    """
    shapes: list[tuple[int, ...]] = [(len(images),), (len(images), 1)]
    if len(images) == 1:
        shapes.append(())
    group = images.parent
    while True:
        for name in names:
            found = group.get(name)
            if isinstance(found, h5py.Dataset) and found.shape in shapes:
                return found
        if group.name == "/":
            return None
        group, shapes = group.parent, shapes[:2]


def _values(dataset: h5py.Dataset) -> NDArray[Any]:
    """Return a dataset of (N,), (N, 1) or () as (N,)."""
    return np.asarray(dataset[()]).ravel()


def _ids(images: h5py.Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pulse ids of the pictures (0, 1 ... if the file has none), and their places."""
    rows = np.arange(len(images))
    found = _find(images, *ID_NAMES)
    if found is not None:
        ids = _values(found).astype(np.int64)
        rows = np.flatnonzero(_are_there(images, ids))
        if not len(rows):
            raise ConfigError(f"{images.file.filename}: {images.name}: {_ALL_MISSING}")
        if (np.diff(ids[rows]) <= 0).any():
            raise ConfigError(f"{images.file.filename}: {found.name}: pulse ids do not grow")
        return ids[rows], rows
    found = _find(images, UNIQUE_ID)  # pulse ids in our recordings; other programs count anew
    if found is not None and (np.diff(ids := _values(found).astype(np.int64)) > 0).all():
        return ids, rows
    logger.warning("%s: no pulse ids, pictures are numbered from 0", images.file.filename)
    return rows, rows


def _are_there(images: h5py.Dataset, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pictures are there: writers of bsread's data fill up the others with zeros.

    `ids` are those beside the pictures; ``bs h5`` writes 0 for a missing picture there, and the ids
    of all pulses at the top of the file.
    """
    flags = _find(images, PRESENT)
    if flags is not None:
        return np.asarray(_values(flags) != 0)
    of_pulses = images.file.get(ID_NAMES[0])
    if isinstance(of_pulses, h5py.Dataset) and of_pulses.size == ids.size:
        return np.asarray((ids != 0) | (_values(of_pulses) == 0))
    return np.ones(len(ids), np.bool_)


def _is_compact(images: h5py.Dataset) -> bool:
    """Return whether pictures are stored as by ``bs h5 --compact``, which marks no missing one."""
    beside = (*ID_NAMES, PRESENT)
    is_flagged = any(name in images.parent for name in beside)
    return images.parent.name == "/data" and ID_NAMES[0] in images.file and not is_flagged


def _times(images: h5py.Dataset) -> NDArray[np.int64] | None:
    """Return the times of the pictures, ns since 1970; None if the file has none."""
    found = _find(images, *TIME_NAMES)
    if found is not None and found.dtype.kind == "f":
        times = _values(found)
        if np.abs(times).max() < 1e9 * SECONDS_MAX:  # not so if one of them is NaN
            is_ns = found.name.endswith("_ns") or times.max() >= SECONDS_MAX
            return np.round(times * (1.0 if is_ns else 1e9)).astype(np.int64)
    elif found is not None and found.dtype.kind in "iu":
        times = _values(found).astype(np.int64)
        if found.name.endswith("_ns") or times.max() >= SECONDS_MAX:
            return times
        offset = _find(images, "timestamp_offset")
        times = times * 1_000_000_000
        return times if offset is None else times + _values(offset).astype(np.int64)
    seconds, nanoseconds = _find(images, EPICS_SECONDS), _find(images, EPICS_NANOSECONDS)
    if seconds is not None and nanoseconds is not None and _values(seconds).all():
        times = (_values(seconds).astype(np.int64) + EPICS_EPOCH_S) * 10**9
        return times + _values(nanoseconds).astype(np.int64)
    logger.warning("%s: no times of the pictures", images.file.filename)
    return None


def _step(ids: NDArray[np.int64]) -> int:
    return int(np.diff(ids).min()) if len(ids) > 1 else 1
