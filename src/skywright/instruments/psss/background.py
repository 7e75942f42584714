"""Backgrounds that are recorded from pulses or read from a file, and the history of their use."""

import contextlib
import io
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError, DataError, HardwareError
from skywright.files.replacing import replacing
from skywright.instruments.psss.processor import Processor
from skywright.instruments.psss.settings import PULSES_MAX, as_background, check_name, digest_of

logger = logging.getLogger(__name__)

DATASET = "/entry/data/data"
ROWS_PER_CHUNK = 64
FETCH_S = 0.5


@dataclass(frozen=True)
class BackgroundInfo:
    """Description of a background, without its pixels.

    Parameters
    ----------
    name
        Label. It identifies the newest of several backgrounds with this name.
    date
        Time when it was set or recorded, ISO 8601 with time zone.
    origin
        ``uploaded``, ``recorded``, or the path of the file from which it was read.
    shape
        (rows, columns).
    pulses
        Number of pulses of which it is the mean; 0: not known.
    first_pulse_id, last_pulse_id
        Ids of the first and the last of these pulses; -1: not known.
    file
        Name of its file in the history; empty if it is not in the history.
    """

    name: str
    date: str
    origin: str
    shape: tuple[int, int]
    pulses: int = 0
    first_pulse_id: int = -1
    last_pulse_id: int = -1
    file: str = ""


@dataclass(frozen=True, eq=False)
class Background:
    """A background with its pixels as they were measured, in the dtype that `Settings` keep.

    Raises
    ------
    ConfigError
        If the pixels are not (rows, columns) of finite numbers.
    """

    info: BackgroundInfo
    pixels: NDArray[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", as_background(self.pixels))


class History:
    """The backgrounds that were used, one HDF5 file each. Thread-safe.

    Parameters
    ----------
    directory
        Directory of the files; it is created for the first one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._known: dict[str, tuple[tuple[int, ...], BackgroundInfo | None]] = {}
        """State and description of each file, by name; None: it cannot be read."""

    def keep(self, background: Background) -> BackgroundInfo:
        """Write a background to the history; one that is already there gets a new date.

        Returns
        -------
        BackgroundInfo
            Description with the name of its file.

        Raises
        ------
        HardwareError
            If the file cannot be written.
        """
        info = background.info
        # Names of files may have 255 bytes.
        stem = re.sub(r"[^\w.-]+", "_", info.name)[:80].encode()[:200].decode(errors="ignore")
        stem = stem or "background"
        path = self.directory / f"{stem}-{digest_of(info.name, background.pixels)[:16]}.h5"
        info = replace(info, file=path.name)
        try:
            with self._lock:
                self.directory.mkdir(parents=True, exist_ok=True)
                _write(path, background)
        except Exception as error:  # the background stays in use, whatever fails here
            raise HardwareError(f"{path}: the background cannot be kept ({error})") from error
        return info

    def list(self) -> list[BackgroundInfo]:
        """Return the backgrounds in the history, newest first, without unreadable files."""
        infos = map(self._info, self.directory.glob("*.h5"))
        found = [info for info in infos if info is not None]
        return sorted(found, key=lambda info: info.date, reverse=True)

    def _info(self, path: Path) -> BackgroundInfo | None:
        """Return the description of a file, as it is now; None: it cannot be read."""
        state: tuple[int, ...] = ()
        with contextlib.suppress(OSError):
            stat = path.stat()
            state = stat.st_ino, stat.st_mtime_ns, stat.st_size
        known_state, info = self._known.get(path.name, (None, None))
        if info is None or known_state != state:
            try:
                info = _read_info(path)
            except DataError as error:  # read again at each call, because the fault may pass
                info = None
                level = logging.DEBUG if known_state == state else logging.WARNING
                logger.log(level, "%s", error)
            self._known[path.name] = state, info
        return info

    def load(self, name: str, digest: str = "") -> Background:
        """Return the newest background of a name.

        Parameters
        ----------
        name
            Label.
        digest
            Digest that the background must have, see `Settings.background_digest`; empty: any.

        Raises
        ------
        ConfigError
            If the history has no such background.
        DataError
            If its file cannot be read.
        """
        infos = self.list()
        for info in infos:
            if info.name == name:
                found = Background(info, read_pixels(self.directory / info.file, DATASET))
                if not digest or digest_of(name, found.pixels) == digest:
                    return found
        if digest:  # its file may be there, and be left out of the list
            for path in self.directory.glob("*.h5"):
                if path.stem.endswith(f"-{digest[:16]}"):
                    _read_info(path)
        known = sorted({info.name for info in infos})
        raise ConfigError(
            f"background {name!r}{f' {digest[:16]}' if digest else ''}: not in the history"
            + (f", which has {', '.join(known[:10])}" if known else "")
        )

    def read_file(self, path: str, dataset: str, name: str) -> Background:
        """Read a background from an HDF5 file in the directory of the history.

        Parameters
        ----------
        path
            Path relative to the directory, or an absolute path below it. Other files are refused,
            because clients give the path.
        dataset
            Dataset of numbers, (rows, columns), or (n, rows, columns), of which the mean is taken.
        name
            Label; empty: the path.

        Raises
        ------
        ConfigError
            If the path is not below the directory.
        DataError
            If the file has no such dataset.
        """
        root = self.directory.resolve()
        try:
            # Path.resolve would raise an error for a link that leads to itself
            file = Path(os.path.realpath(root / path))
        except ValueError as error:
            raise ConfigError(f"{path!r}: {error}") from error
        if not file.is_relative_to(root):
            raise ConfigError(f"{path}: backgrounds are read from below {root} only; put it there")
        return _new(name or path, str(file), read_pixels(file, dataset))


def record_limit_s(pulses: int) -> float:
    """Return the timeout of a recording of N pulses, s: N / 10 Hz plus a minute."""
    return 60.0 + pulses / 10.0


def record(
    processor: Processor,
    pulses: int,
    name: str,
    limit_s: float,
    cancelled: threading.Event | None = None,
) -> Background:
    """Return the mean of the next pictures, before any processing.

    Pulses that came before the call, and wait to be processed, are left out: the light may have
    been on. If pulses come faster than they are added, some are left out; their processing goes on.

    Parameters
    ----------
    processor
        Owner of the pulses; it must be running.
    pulses
        Number of pictures.
    name
        Label; empty: a label with the date.
    limit_s
        Timeout, s.
    cancelled
        Event that cancels the recording when it is set.

    Returns
    -------
    Background
        Background of float32.

    Raises
    ------
    ConfigError
        If the number of pulses, or the name, is not allowed.
    HardwareError
        If not enough pictures of one size come in time, or the recording is cancelled.
    """
    if not 1 <= pulses <= PULSES_MAX:
        raise ConfigError(f"pulses: {pulses} is outside 1..{PULSES_MAX}")
    check_name(name)
    begun_s = time.monotonic()
    deadline = begun_s + limit_s
    feed = processor.subscribe(depth=4)
    total: NDArray[np.float64] | None = None
    pulse_ids: list[int] = []
    try:
        while len(pulse_ids) < pulses:
            is_cancelled = cancelled is not None and cancelled.is_set()
            if is_cancelled or time.monotonic() > deadline or not processor.is_started:
                why = "before it was cancelled" if is_cancelled else f"within {limit_s:g} s"
                if not processor.is_started:
                    why = "before it was stopped; start the processing first"
                raise HardwareError(f"only {len(pulse_ids)} of {pulses} pictures came {why}")
            result = feed.get(FETCH_S)
            if result is None or result.pulse.image is None or result.pulse.received_s < begun_s:
                continue
            image = result.pulse.image
            if total is None or total.shape != image.shape:  # the first, or the size has changed
                total, pulse_ids = np.zeros(image.shape, np.float64), []
            total += image
            pulse_ids.append(result.pulse.pulse_id)
    finally:
        feed.close()
    assert total is not None
    return _new(name, "recorded", (total / len(pulse_ids)).astype(np.float32), pulse_ids)


def uploaded(name: str, pixels: NDArray[Any]) -> Background:
    """Return the background that a client sent, with the present time as its date.

    An empty name is replaced by one with the date.
    """
    return _new(name, "uploaded", pixels)


def _new(name: str, origin: str, pixels: NDArray[Any], pulse_ids: Sequence[int] = ()) -> Background:
    """Return a background with the present time; without a name, with one of origin and time."""
    date = datetime.now(UTC).isoformat(timespec="microseconds")
    rows, columns = pixels.shape
    ends = (pulse_ids[0], pulse_ids[-1]) if pulse_ids else (-1, -1)
    name = name or f"{origin} {date}"
    info = BackgroundInfo(name, date, origin, (rows, columns), len(pulse_ids), *ends)
    return Background(info, pixels)


def read_pixels(path: Path, dataset: str) -> NDArray[Any]:
    """Read (rows, columns) pixels of an HDF5 file, the mean of (n, rows, columns).

    Raises
    ------
    DataError
        If the file has no such pixels.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            data = file.get(dataset)
            if not isinstance(data, h5py.Dataset):
                raise DataError(f"{path}: has no dataset {dataset}")
            if data.ndim not in (2, 3) or data.dtype.kind not in "uif" or not data.size:
                raise DataError(
                    f"{path}: {dataset} is of shape {data.shape} and dtype {data.dtype}; expected "
                    "(rows, columns) or (n, rows, columns) of numbers"
                )
            if data.ndim == 2:
                return np.asarray(data[...])
            total = np.zeros(data.shape[1:], np.float64)
            for frame in data:
                total += frame
            return (total / len(data)).astype(np.float32)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as HDF5 ({error})") from error


def _write(path: Path, background: Background) -> None:
    content = io.BytesIO()  # HDF5 does not survive each failure of a write
    with h5py.File(content, "w") as file:
        rows, columns = background.pixels.shape
        data = file.create_dataset(
            DATASET,
            data=background.pixels,
            chunks=(min(rows, ROWS_PER_CHUNK), columns),
            **hdf5plugin.Bitshuffle(),
        )
        info = background.info
        for field in ("name", "date", "origin", "pulses", "first_pulse_id", "last_pulse_id"):
            data.attrs[field] = getattr(info, field)
    with replacing(path) as new:
        new.write_bytes(content.getvalue())


def _read_info(path: Path) -> BackgroundInfo:
    """Return what a file says of its background; one that somebody put there may say less."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            data = file.get(DATASET)
            if not isinstance(data, h5py.Dataset) or data.ndim != 2:
                raise DataError(f"{path}: has no picture {DATASET}")
            attrs = data.attrs
            date = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat()
            return BackgroundInfo(
                name=_text(attrs.get("name", path.stem)),
                date=_text(attrs.get("date", date)),
                origin=_text(attrs.get("origin", str(path))),
                shape=(int(data.shape[0]), int(data.shape[1])),
                pulses=int(attrs.get("pulses", 0)),
                first_pulse_id=int(attrs.get("first_pulse_id", -1)),
                last_pulse_id=int(attrs.get("last_pulse_id", -1)),
                file=path.name,
            )
    except (OSError, ValueError, TypeError, ArithmeticError) as error:
        raise DataError(f"{path}: cannot be read as HDF5 ({error})") from error


def _text(value: Any) -> str:
    """Return text of an attribute; some programs write bytes, or an array of one element."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.flat[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
