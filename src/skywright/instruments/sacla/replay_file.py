"""The reader of replay files, HDF5 in the format "sacla-replay", version 1."""

import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters of compressed files
import numpy as np
from numpy.typing import NDArray

from skywright.closing import Closing
from skywright.errors import ConfigError, DataError
from skywright.files.hdf5 import open_hdf5
from skywright.files.hdf5_flags import read_superblock
from skywright.instruments.sacla.join import Record, TagGrid
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import EQUIPMENT, ShotRules
from skywright.instruments.sacla.tile import PixelRules, Tile, check_scale, count_rings
from skywright.instruments.sacla.values import parse_value

logger = logging.getLogger(__name__)

FORMAT, VERSION = "sacla-replay", 1
TAG = "tag"
"""Column of a channel that is flushed last, so that its length is the number of records."""
GAIN = "mp_absgain"
"""Attribute of a detector: electrons per ADU."""
LONGEST_SIDE = 16_384
"""Of a tile, pixels."""


@dataclass(frozen=True, eq=False)
class Channel:
    """The records of one channel, in order of arrival.

    Parameters
    ----------
    name
        Detector id or key of the point detector.
    arrival
        (n,) seconds.
    tag, run
        (n,) int64.
    raw
        (n,) text of a point detector; None for a detector.
    """

    name: str
    arrival: NDArray[np.float64]
    tag: NDArray[np.int64]
    run: NDArray[np.int64]
    raw: list[str] | None = None


class ReplayFile(Closing):
    """An open replay file.

    Of a file that was not closed, because its disk failed or its writer was killed, what was
    flushed is read.

    Parameters
    ----------
    path
        Of the file.
    more_values
        Groups of ``equipment`` that are read beside `EQUIPMENT`.

    Raises
    ------
    DataError
        If the file cannot be read, or lacks something; the message names it.
    """

    def __init__(self, path: Path | str, more_values: Sequence[str] = ()) -> None:
        self.path, self._more_values = Path(path), tuple(more_values)
        try:
            superblock = read_superblock(self.path)
            self._was_closed = superblock is None or not superblock.flags
            self._file = h5py.File(self.path, "r") if self._was_closed else open_hdf5(self.path)
        except Exception as error:  # h5py raises many kinds
            if self.path.is_dir():
                why = "is a directory, expected a file"
            elif not self.path.exists():
                why = "no such file"
            else:
                why = f"not readable as HDF5 ({' '.join(str(error).split())})"
            raise DataError(f"{self.path}: {why}") from None
        try:
            with self._reading("the header"):
                self._read_header()
        except BaseException:
            self._file.close()
            raise

    @contextmanager
    def _reading(self, where: str) -> Iterator[None]:
        """Turn what a damaged file raises into a `DataError` that names the file and the place."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # h5py raises many kinds
            why = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.path}: {where}: not readable ({why})") from None

    def _read_header(self) -> None:
        root = "/"
        kind = self._file.attrs.get("format")
        if isinstance(kind, np.ndarray) and kind.size == 1:  # as some programs write attributes
            kind = kind.item()
        kind = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else kind
        if str(kind) != FORMAT:
            raise DataError(f"{self.path}: format is {kind!r}, expected {FORMAT!r}")
        if (version := self._whole(root, "version")) != VERSION:
            raise DataError(f"{self.path}: version is {version}, expected {VERSION}")
        step, first = self._whole(root, "tag_step"), self._whole(root, "tag_first")
        if step < 1:
            raise DataError(f"{self.path}: tag_step is {step}, expected >= 1")
        last = self._whole(root, "tag_last") if self._was_closed else self._newest_tag(first - step)
        shot_rules = ShotRules(
            **{key: self._number("analysis", key) for key in ShotRules.__dataclass_fields__}
        )
        pixel_rules = PixelRules(
            **{key: self._number("analysis", key) for key in PixelRules.__dataclass_fields__}
        )
        for key in ("photon_ev", "ev_per_electron"):
            self._check_scale("analysis", key, getattr(pixel_rules, key))
        self.info = RunInfo(
            run=self._whole(root, "run"),
            hightag=self._whole(root, "hightag"),
            grid=TagGrid(first, step, last),
            tiles={name: self._tile(name, pixel_rules) for name in self._group("detectors")},
            shot_rules=shot_rules,
            pixel_rules=pixel_rules,
            cameras=frozenset(
                name
                for name in self._group("detectors")
                if GAIN not in self._group(f"detectors/{name}").attrs
            ),
            more_values=self._more_values,
        )
        for tag in (first, last):
            if not -(1 << 63) <= self.info.identity(tag) < 1 << 63:
                raise DataError(
                    f"{self.path}: hightag {self.info.hightag} * 2**32 + tag {tag} has more than "
                    "64 bits"
                )
        for key in self._more_values:
            self._group(f"equipment/{key}")

    def log_cameras(self) -> None:
        """Log which detectors have no gain, and what is used; SACLA gives none for a camera."""
        for name in sorted(self.info.cameras):
            where = f"{self.path}: detectors/{name}"
            logger.error("%s: no attribute %s: gain 1 and no threshold are used", where, GAIN)

    def timed_records(self) -> Iterator[tuple[float, Record[int | float]]]:
        """Yield arrival times and records of all channels, in order of arrival.

        The payload is the index of a frame in its dataset, or the value of a point detector, NaN
        if it is missing. Records that arrive at the same time are in order of their channels.
        """
        channels = self.channels()
        arrival = np.concatenate([channel.arrival for channel in channels])
        sizes = [len(channel.tag) for channel in channels]
        which = np.repeat(np.arange(len(channels)), sizes)
        index = np.concatenate([np.arange(size) for size in sizes])
        order = np.argsort(arrival, kind="stable")
        for number, row in zip(which[order].tolist(), index[order].tolist(), strict=True):
            channel = channels[number]
            payload = row if channel.raw is None else parse_value(channel.raw[row])
            record = Record(channel.name, int(channel.tag[row]), int(channel.run[row]), payload)
            yield float(channel.arrival[row]), record

    def channels(self) -> list[Channel]:
        """Read the records of all channels, but no pixels."""
        found = [self._channel(f"detectors/{name}", name) for name in self.info.tiles]
        keys = (*EQUIPMENT, *self._more_values)
        return found + [self._channel(f"equipment/{key}", key) for key in keys]

    def read_frame(self, detector: str, index: int, out: NDArray[np.float32]) -> None:
        """Read one frame into `out`, (rows, columns) float32.

        Raises
        ------
        DataError
            If the file is damaged there.
        """
        path = f"detectors/{detector}/data"
        with self._reading(f"{path}[{index}]"):
            self._file[path].read_direct(out, np.s_[index])

    def map_frames(self, detector: str) -> NDArray[np.float32] | None:
        """Map the frames of a detector to memory, without the HDF5 library.

        A frame is read when it is first used. The map stays valid when this file is closed.

        Returns
        -------
        NDArray or None
            (n, rows, columns), private to this process. None if the frames are not stored as they
            are: compressed, in chunks, in another file, of another type or not aligned.

        Raises
        ------
        DataError
            If the file is damaged there.
        """
        with self._reading(f"detectors/{detector}/data"):
            return self._map(detector)

    def _map(self, detector: str) -> NDArray[np.float32] | None:
        data = self._file[f"detectors/{detector}/data"]
        # The kernels are compiled for the type and alignment of this machine.
        plain = data.dtype == np.float32 and data.chunks is None and not data.is_virtual
        plain = plain and data.file.filename == self._file.filename  # not behind a link
        offset = data.id.get_offset() if plain and not data.external else None
        if not data.size or offset is None or offset % 4:
            return None
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset + data.nbytes:
                return None
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if hasattr(mmap, "MADV_SEQUENTIAL"):  # the system reads ahead of the frame in use
            memory.madvise(mmap.MADV_SEQUENTIAL)
        frames = np.frombuffer(memory, np.float32, data.size, offset).reshape(data.shape)
        for index in {0, len(frames) - 1}:
            if frames[index, 0].tobytes() != data[index, 0].tobytes():
                return None
        return frames

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _group(self, path: str) -> Any:
        with self._reading(path):
            found = self._file.get(path)
        if not isinstance(found, h5py.Group):
            raise DataError(f"{self.path}: no group {path}")
        return found

    def _number(self, path: str, key: str) -> float:
        where, group = f"{self.path}: {path}", self._group(path)
        with self._reading(f"{path}: attribute {key}"):
            if key not in group.attrs:
                raise DataError(f"{where}: no attribute {key}")
            read = np.asarray(group.attrs[key])
        try:
            value = float(read.item())
        except (TypeError, ValueError):
            raise DataError(f"{where}: attribute {key} is not a number") from None
        if not np.isfinite(value):
            raise DataError(f"{where}: attribute {key} is not finite")
        return value

    def _whole(self, path: str, key: str) -> int:
        value = self._number(path, key)
        if value != int(value):
            raise DataError(f"{self.path}: {path}: attribute {key} is not a whole number")
        return int(value)

    def _check_scale(self, path: str, key: str, value: float) -> None:
        try:
            check_scale(key, value)
        except ConfigError as error:
            raise DataError(f"{self.path}: {path}: {error}") from None

    def _dataset(self, path: str, ndim: int) -> Any:
        with self._reading(path):
            found = self._file.get(path)
        if not isinstance(found, h5py.Dataset):
            raise DataError(f"{self.path}: no dataset {path}")
        with self._reading(path):
            dimensions = found.ndim
        if dimensions != ndim:
            raise DataError(f"{self.path}: {path} has {dimensions} dimensions, expected {ndim}")
        return found

    def _newest_tag(self, least: int) -> int:
        """Return the highest tag of the run's records, at least `least`."""
        run = self._whole("/", "run")
        for kind in ("detectors", "equipment"):
            for name in self._group(kind):
                tags = self._values(f"{kind}/{name}/{TAG}")
                of_run = self._values(f"{kind}/{name}/run")[: len(tags)] == run
                least = int(tags[of_run].max(initial=least))
        return least

    def _tile(self, name: str, rules: PixelRules) -> Tile:
        path = f"detectors/{name}"
        shape = (self._whole(path, "ysize"), self._whole(path, "xsize"))
        if not all(0 < length <= LONGEST_SIDE for length in shape):
            expected = f"expected 1 to {LONGEST_SIDE} pixels"
            raise DataError(f"{self.path}: {path}: ysize, xsize {shape}, {expected}")
        gain = 1.0
        if GAIN in self._group(path).attrs:
            gain = self._number(path, GAIN)
        elif name.startswith("MPCCD"):
            raise DataError(
                f"{self.path}: {path}: no attribute {GAIN}, electrons per ADU; add that of the "
                f"detector: h5py.File({str(self.path)!r}, 'a')[{path!r}].attrs[{GAIN!r}] = ..."
            )
        self._check_scale(path, GAIN, gain)
        try:
            count_rings(shape, rules.radial_cx, rules.radial_cy, rules.radial_dr)
        except ConfigError as error:
            raise DataError(f"{self.path}: analysis: {error}") from None
        mask = self._dataset(f"{path}/mask", 2)
        data = self._dataset(f"{path}/data", 3)
        if mask.shape != shape or data.shape[1:] != shape:
            raise DataError(
                f"{self.path}: {path}: mask {mask.shape} and data {data.shape} do not fit "
                f"ysize, xsize {shape}"
            )
        if data.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: {path}/data: dtype {data.dtype}, expected float32")
        with self._reading(f"{path}/mask"):
            return Tile(name, gain, mask[()] != 0)

    def _channel(self, path: str, name: str) -> Channel:
        self._group(path)
        arrival, tag, run = (self._values(f"{path}/{key}") for key in ("arrival", TAG, "run"))
        is_detector = path.startswith("detectors/")
        raw = None
        if is_detector:
            count = self._dataset(f"{path}/data", 3).shape[0]
        else:
            raw = self._texts(f"{path}/raw")
            count = len(raw)
        if not self._was_closed:  # records that were not flushed
            whole = min(len(tag), count)
            arrival, tag, run = arrival[:whole], tag[:whole], run[:whole]
            raw, count = None if raw is None else raw[:whole], whole
        if not len(arrival) == len(tag) == len(run) == count:
            raise DataError(
                f"{self.path}: {path}: {len(arrival)} arrival, {len(tag)} tag, {len(run)} run "
                f"and {count} {'data' if is_detector else 'raw'} records, expected equal numbers"
            )
        if tag.dtype.kind not in "iu" or run.dtype.kind not in "iu":
            raise DataError(f"{self.path}: {path}: tag and run must be whole numbers")
        try:
            seconds = arrival.astype(float)
        except (TypeError, ValueError):
            raise DataError(f"{self.path}: {path}/arrival: not numbers") from None
        if np.isnan(seconds).any():
            raise DataError(f"{self.path}: {path}/arrival: NaN")
        return Channel(name, seconds, tag.astype(np.int64), run.astype(np.int64), raw)

    def _values(self, path: str) -> NDArray[Any]:
        dataset = self._dataset(path, 1)
        with self._reading(path):
            return np.asarray(dataset[()])

    def _texts(self, path: str) -> list[str]:
        values = self._values(path).tolist()
        return [
            value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            for value in values
        ]
