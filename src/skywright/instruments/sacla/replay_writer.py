"""Writes the records of a running source to a replay file, every frame."""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from skywright.closing import Closing
from skywright.errors import ConfigError, DataError, HardwareError
from skywright.files.columns import check_free_space
from skywright.files.hdf5 import close_written
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.replay_file import FORMAT, GAIN, TAG, VERSION
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.sources import ShotSource, take_records
from skywright.instruments.sacla.stored_frame import copy_frame

PULSES_HZ = 60.0
"""Rate at which tags count."""
CHUNK_ROWS = 4096
TEXT_BYTES = 24
"""The longest text of a 64-bit float."""
CHUNK_BYTES = CHUNK_ROWS * TEXT_BYTES
"""The largest, of text."""
UNWRITTEN_BYTES = 48 << 20
"""Most of a file that HDF5 holds in memory until it is closed: 32 MiB of its own data, and a chunk
of each column. There must be room for it, or the file cannot be closed."""
FLUSH_S = 1.0
"""Longest time between two flushes while records come, s."""
LATE_SHOTS = 120
"""Values of a shot may come after the frames of this number of later shots."""


class ReplayWriter(Closing):
    """A replay file that is being written, "sacla-replay" version 1.

    What is flushed, every `FLUSH_S`, can be read whatever happens (SWMR). The tags come last, so
    that their number is that of the whole records.

    Parameters
    ----------
    path
        Of a new file.
    info
        The run.
    beamline
        Its number.
    ids
        Equipment id of each point detector; by default its key.

    Raises
    ------
    ConfigError
        If the file exists, or cannot be written.
    """

    def __init__(
        self, path: Path, info: RunInfo, beamline: int, ids: Mapping[str, str] | None = None
    ) -> None:
        self._path, self._info, self._shapes = path, info, _shapes(info)
        self._columns: dict[str, dict[str, h5py.Dataset]] = {group: {} for group in self._shapes}
        """By group and name. All datasets stay open: HDF5 writes when one is closed, and h5py is
        silent if that fails."""
        self._masks: list[h5py.Dataset] = []
        self._records = Counter[str]()
        """Whole records by group; after an error there may be one more frame."""
        self._waiting: dict[str, deque[tuple[int, dict[str, Any]]]] = {
            group: deque() for group in self._shapes
        }
        """Row and values, without frames, of the records that are not flushed, by group."""
        self.frame_bytes = 0
        """Size of the frames so far."""
        self._highest = info.grid.first - info.grid.step
        self._last: int | None = None
        self._arrival, self._is_closed = 0.0, False
        self._flushed_at = time.monotonic()
        self._frame = {name: np.empty(tile.bad.shape, "f4") for name, tile in info.tiles.items()}
        try:
            check_free_space(path.parent, UNWRITTEN_BYTES)
            self._file = h5py.File(path, "x", libver="latest", locking=False)
        except FileExistsError:
            raise ConfigError(f"{path}: exists already; choose another name") from None
        except OSError as error:
            why = " ".join(str(error).split())
            raise ConfigError(f"{path}: cannot be written ({why})") from None
        try:
            self._create(beamline, ids or {})
        except (OSError, RuntimeError) as error:
            close_written(self._file, self._datasets(), has_failed=True)
            path.unlink()
            raise ConfigError(f"{path}: cannot be written ({error})") from error

    def _create(self, beamline: int, ids: Mapping[str, str]) -> None:
        """Write the facts of the run, and make the columns."""
        info = self._info
        self._file.attrs.update(
            format=FORMAT,
            version=VERSION,
            beamline=beamline,
            run=info.run,
            hightag=info.hightag,
            rep_rate_hz=PULSES_HZ / info.grid.step,
            tag_step=info.grid.step,
            tag_first=info.grid.first,
            tag_last=self._highest,
        )
        self._file.create_group("analysis").attrs.update(
            **asdict(info.shot_rules), **asdict(info.pixel_rules)
        )
        for path, shape in self._shapes.items():
            group, name = self._file.create_group(path), path.partition("/")[2]
            for key, dtype in (("arrival", float), ("tag", np.int64), ("run", np.int64)):
                self._column(path, key, dtype)
            if shape:
                tile = info.tiles[name]
                group.attrs.update(xsize=shape[1], ysize=shape[0])
                if name not in info.cameras:  # those without gain are read as cameras
                    group.attrs[GAIN] = tile.gain
                bad = tile.bad.astype(np.uint8)
                self._masks.append(group.create_dataset("mask", data=bad))
                self._column(path, "data", np.float32, shape)
            else:
                group.attrs["id"] = ids.get(name) or name
                self._column(path, "raw", h5py.string_dtype("utf-8", TEXT_BYTES))
        self._file.flush()  # a disk that fails now is an error at the beginning
        self._file.swmr_mode = True

    def _column(self, path: str, key: str, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        self._columns[path][key] = self._file.create_dataset(
            f"{path}/{key}",
            (0, *shape),
            dtype,
            maxshape=(None, *shape),
            chunks=(1 if shape else CHUNK_ROWS, *shape),
            rdcc_nbytes=1 if shape else CHUNK_BYTES,  # one chunk; h5py takes 0 for the default
        )

    def _datasets(self) -> list[h5py.Dataset]:
        columns = (dataset for each in self._columns.values() for dataset in each.values())
        return [*self._masks, *columns]

    def check_run(self, info: RunInfo) -> None:
        """Raise if the file has no room for the records of another run.

        Raises
        ------
        DataError
            If the run has a detector or a point detector more, or a detector of another shape.
        """
        for group, shape in _shapes(info).items():
            if (present := self._shapes.get(group)) != shape:
                has = "is not in the file" if present is None else f"has frames of {present} pixels"
                here = f", run {info.run} of {shape}" if present else f", run {info.run} has it"
                raise DataError(
                    f"{self._path}: {group} {has}{here}: record run {info.run} in another file; "
                    "what came before is kept"
                )

    def add(self, record: Record[Any], arrival: float) -> None:
        """Append a record; records of channels that the run does not have are left out.

        Parameters
        ----------
        record
            From a source.
        arrival
            Seconds; records keep the order in which they are added.

        Raises
        ------
        DataError
            If a frame has another shape than those of the run.
        HardwareError
            If the disk is full or fails. What was added before can be read after `close`; if the
            disk does not take what is still in memory, what was flushed can.
        """
        if record.channel not in self._info.channels:
            return
        # Records that arrive together would be read in the order of their channels.
        self._arrival = max(arrival, math.nextafter(self._arrival, math.inf))
        is_frame = record.channel in self._info.tiles
        group = _group(self._info, record.channel)
        values: dict[str, Any] = {"arrival": self._arrival, "tag": record.tag, "run": record.run}
        needed = UNWRITTEN_BYTES
        if is_frame:
            frame = self._frame[record.channel]
            try:
                copy_frame(record.payload, frame)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"{self._path}: {group}/data: the frame of tag {record.tag} of run "
                    f"{record.run} does not fit, expected {frame.shape} pixels ({error})"
                ) from error
            needed += frame.nbytes
        else:
            value = float(record.payload)
            values["raw"] = (repr(value) if math.isfinite(value) else "").encode()
        with self._writing():
            check_free_space(self._path.parent, needed)
            if is_frame:  # at once: frames are large
                _cut(self._columns[group]["data"], self._records[group] + 1)[-1] = frame
                self.frame_bytes += frame.nbytes
        self._waiting[group].append((self._records[group], values))
        self._records[group] += 1
        if record.run == self._info.run:
            self._highest = max(self._highest, record.tag)
        waiting = len(self._waiting[group])
        if waiting >= CHUNK_ROWS or time.monotonic() - self._flushed_at > FLUSH_S:
            with self._writing():
                self._flush()

    def _flush(self) -> None:
        """Make the records readable: write and flush all columns but the tags, then the tags."""
        for group, columns in self._columns.items():
            tags, waiting = columns[TAG], self._waiting[group]
            start, end = len(tags), self._records[group]
            rows = [values for row, values in waiting if row in range(start, end)]
            for key, dataset in columns.items():
                if key == TAG:
                    continue
                if key == "data":
                    _cut(dataset, end)
                elif rows:
                    # HDF5 loses a new chunk of which a write has failed, unless it is removed.
                    _cut(dataset, start)
                    _cut(dataset, end)[start:] = [values[key] for values in rows]
                dataset.flush()
            if not rows:
                continue
            try:
                _cut(tags, end)[start:] = [values[TAG] for values in rows]
                tags.flush()
            except BaseException:  # Ctrl-C too
                # Otherwise HDF5 may write the new length later, although the tags are not written.
                with suppress(OSError, RuntimeError):
                    tags.resize(start, axis=0)
                raise
            waiting.clear()
        self._flushed_at = time.monotonic()

    def finish(self) -> None:
        """Take note that all tags of the run are shots, and not those up to the newest record."""
        self._last = self._info.grid.last

    def close(self) -> None:
        """Write which tags are shots, and close the file; a second call does nothing.

        Raises
        ------
        HardwareError
            If the disk is full or fails.
        """
        if self._is_closed:
            return
        self._is_closed = has_failed = True
        with self._writing():
            try:
                self._flush()
                last = self._highest if self._last is None else self._last
                self._file.attrs.modify("tag_last", last)
                has_failed = False
            finally:
                close_written(self._file, self._datasets(), has_failed)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # HDF5 has both for a full disk
            raise HardwareError(f"{self._path}: cannot be written ({error})") from error


def _shapes(info: RunInfo) -> dict[str, tuple[int, ...]]:
    """Return (rows, columns) of the frames of each group of a file; () for point detectors."""
    shapes: Mapping[str, tuple[int, ...]] = info.shapes
    return {_group(info, channel): shapes.get(channel, ()) for channel in info.channels}


def _group(info: RunInfo, channel: str) -> str:
    """Return the path of the group of a channel."""
    return f"{'detectors' if channel in info.tiles else 'equipment'}/{channel}"


def _cut(dataset: Any, rows: int) -> Any:
    """Return the dataset with this number of rows."""
    if len(dataset) != rows:
        dataset.resize(rows, axis=0)
    return dataset


def record_replay(
    source: ShotSource,
    path: Path,
    shots: int | None = None,
    most_bytes: float = math.inf,
    beamline: int = 3,
    report: Callable[[str], None] = lambda _: None,
    ids: Mapping[str, str] | None = None,
) -> int:
    """Write the records of a source to a replay file, until it ends or enough has come.

    Parameters
    ----------
    source
        Not yet started; it is not closed here.
    path
        Of a new file.
    shots
        Number of shots, with frames or not; None: until the source ends.
    most_bytes
        Most bytes of frames; the recording ends before the frame that would be more.
    beamline
        Its number, for the file.
    report
        Takes messages about trouble, and that the frames have reached their limit.
    ids
        Equipment id of each point detector, for the file.

    Returns
    -------
    int
        Number of records.

    Raises
    ------
    SkywrightError
        If the source fails or has no record, the file cannot be written, or a further run has a
        detector that the file has no room for.
    """
    started, lock, count = time.monotonic(), threading.Lock(), 0
    writer: ReplayWriter | None = None
    info = source.info

    def take(record: Record[Any]) -> bool:
        nonlocal writer, count, info
        with lock:
            if writer is None:
                info, writer = source.info, ReplayWriter(path, source.info, beamline, ids)
            elif source.info is not info:
                writer.check_run(source.info)
                info = source.info
            size = info.tiles[record.channel].bad.size * 4 if record.channel in info.tiles else 0
            beyond = -1 if shots is None else info.grid.count_below(record.tag) - shots
            if beyond >= 0:
                return beyond >= LATE_SHOTS
            if writer.frame_bytes + size > most_bytes:
                report(f"{path}: the frames have reached {most_bytes / 1e9:g} GB")
                return True
            writer.add(record, time.monotonic() - started)
            count += 1
            return False

    try:
        if take_records(source, take, report) and writer is not None and shots is None:
            writer.finish()
    finally:  # also after Ctrl-C: what has come can be read
        with lock:
            if writer is not None:
                writer.close()
    if writer is None:
        raise HardwareError(f"{path}: not written, the source has ended without a record")
    return count
