"""Writes the records of a running source to a replay file, every frame."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from skywright.closing import Closing
from skywright.errors import ConfigError, HardwareError, SkywrightError
from skywright.files.columns import check_free_space
from skywright.instruments.sacla.frames import copy_frame
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.replay_file import FORMAT, VERSION
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.sources import ShotSource

PULSES_HZ = 60.0
"""Rate at which tags count."""
CHUNK_ROWS = 4096
UNWRITTEN_BYTES = 48 << 20
"""Most of a file that HDF5 holds in memory until it is closed: 32 MiB of its own data, and a chunk
of each column. There must be room for it, or the file cannot be closed."""
POLL_S = 0.1
LATE_SHOTS = 120
"""Values of a shot may come after the frames of this number of later shots."""


class ReplayWriter(Closing):
    """A replay file that is being written, "sacla-replay" version 1.

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
        If the file exists, cannot be written, or cannot hold the run: a camera has no threshold,
        and a file has one threshold for all detectors.
    """

    def __init__(
        self, path: Path, info: RunInfo, beamline: int, ids: Mapping[str, str] | None = None
    ) -> None:
        if info.cameras:
            names = ", ".join(sorted(info.cameras))
            raise ConfigError(f"{path}: a replay file has no detector without threshold ({names})")
        try:
            check_free_space(path.parent, UNWRITTEN_BYTES)
            self._file = h5py.File(path, "x")
        except OSError as error:
            why = "exists" if path.exists() else " ".join(str(error).split())
            raise ConfigError(f"{path}: cannot be written ({why})") from None
        self._path, self._info = path, info
        self._records = Counter[str]()
        """Whole records by group; after an error a column may have one more."""
        self.frame_bytes = 0
        """Size of the frames so far."""
        self._highest = info.grid.first - info.grid.step
        self._last: int | None = None
        self._arrival = 0.0
        self._file.attrs.update(
            format=FORMAT,
            version=VERSION,
            beamline=beamline,
            run=info.run,
            hightag=info.hightag,
            rep_rate_hz=PULSES_HZ / info.grid.step,
            tag_step=info.grid.step,
            tag_first=info.grid.first,
        )
        self._file.create_group("analysis").attrs.update(
            **asdict(info.shot_rules), **asdict(info.pixel_rules)
        )
        for name, tile in info.tiles.items():
            rows, columns = tile.bad.shape
            group = self._channel(f"detectors/{name}")
            group.attrs.update(mp_absgain=tile.gain, xsize=columns, ysize=rows)
            group["mask"] = tile.bad.astype(np.uint8)
            self._column(group, "data", np.float32, (rows, columns))
        for key in info.channels[len(info.tiles) :]:
            group = self._channel(f"equipment/{key}")
            group.attrs["id"] = (ids or {}).get(key) or key
            self._column(group, "raw", h5py.string_dtype())
        self._frame = {name: np.empty(tile.bad.shape, "f4") for name, tile in info.tiles.items()}

    def _channel(self, path: str) -> Any:
        group = self._file.create_group(path)
        for key, dtype in (("arrival", float), ("tag", np.int64), ("run", np.int64)):
            self._column(group, key, dtype)
        return group

    def _column(self, group: Any, key: str, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        chunks = (1 if shape else CHUNK_ROWS, *shape)
        group.create_dataset(key, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunks)

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
        HardwareError
            If the disk is full or fails. What was added before can be read after `close`.
        """
        if record.channel not in self._info.channels:
            return
        # Records that arrive together would be read in the order of their channels.
        self._arrival = max(arrival, math.nextafter(self._arrival, math.inf))
        is_frame = record.channel in self._info.tiles
        group = f"{'detectors' if is_frame else 'equipment'}/{record.channel}"
        values = {"arrival": self._arrival, "tag": record.tag, "run": record.run}
        if is_frame:
            frame = self._frame[record.channel]
            copy_frame(record.payload, frame)
            columns: dict[str, Any] = {"data": frame, **values}
        else:
            value = float(record.payload)
            columns = {"raw": repr(value) if math.isfinite(value) else "", **values}
        with self._writing():
            check_free_space(self._path.parent, UNWRITTEN_BYTES + (frame.nbytes if is_frame else 0))
            for key, each in columns.items():
                _cut(self._file[f"{group}/{key}"], self._records[group] + 1)[-1] = each
        self._records[group] += 1
        if is_frame:
            self.frame_bytes += frame.nbytes
        if record.run == self._info.run:
            self._highest = max(self._highest, record.tag)

    def finish(self) -> None:
        """Take note that all tags of the run are shots, and not those up to the newest record."""
        self._last = self._info.grid.last

    def close(self) -> None:
        """Write which tags are shots, and close the file.

        Raises
        ------
        HardwareError
            If the disk is full or fails.
        """
        with self._writing():
            try:
                if self._file:
                    self._cut_columns()
                    last = self._highest if self._last is None else self._last
                    self._file.attrs["tag_last"] = last
            finally:
                self._file.close()

    def _cut_columns(self) -> None:
        """Take away what was written of a record when an error or Ctrl-C came."""
        for kind in ("detectors", "equipment"):
            for name, group in self._file.get(kind, {}).items():
                for key in ("data", "raw", "arrival", "tag", "run"):
                    if key in group:
                        _cut(group[key], self._records[f"{kind}/{name}"])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # HDF5 has both for a full disk
            raise HardwareError(f"{self._path}: cannot be written ({error})") from error


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
        If the source fails or has no record, or the file cannot be written.
    """
    ended, started = threading.Event(), time.monotonic()
    lock, errors, count = threading.Lock(), list[SkywrightError](), 0
    writer: ReplayWriter | None = None

    def take(record: Record[Any]) -> None:
        nonlocal writer, count
        with lock:
            if ended.is_set():
                return
            try:
                if writer is None:
                    writer = ReplayWriter(path, source.info, beamline, ids)
                info = source.info
                size = (
                    info.tiles[record.channel].bad.size * 4 if record.channel in info.tiles else 0
                )
                beyond = -1 if shots is None else info.grid.count_below(record.tag) - shots
                if beyond >= LATE_SHOTS:
                    ended.set()
                elif beyond < 0 and writer.frame_bytes + size > most_bytes:
                    report(f"{path}: the frames have reached {most_bytes / 1e9:g} GB")
                    ended.set()
                elif beyond < 0:
                    writer.add(record, time.monotonic() - started)
                    count += 1
            except SkywrightError as error:
                errors.append(error)
                ended.set()
            except Exception as error:  # else the source would seem to have ended
                errors.append(HardwareError(f"{path}: {type(error).__name__}: {error}"))
                ended.set()

    try:
        source.start(take, lambda message, *_: report(message))
        while source.is_running and not ended.wait(POLL_S):
            pass
        source.stop()
        if writer is not None and shots is None and not ended.is_set():
            writer.finish()
    finally:  # also after Ctrl-C: what has come can be read
        ended.set()
        with lock:
            if writer is not None:
                writer.close()
    if errors:
        raise errors[0]
    if writer is None:
        raise HardwareError(f"{path}: not written, the source has ended without a record")
    return count
