"""Backgrounds: recorded from the pulses or read from a file, and the history of those used."""

import logging
import re
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError, DataError, HardwareError
from skywright.instruments.psss.processor import Processor
from skywright.instruments.psss.settings import PULSES_MAX, as_background, digest_of

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
        Label; of several with one name the newest is meant.
    date
        When it was set or recorded, ISO 8601 with time zone.
    origin
        ``uploaded``, ``recorded`` or the path of the file it was read from.
    shape
        (rows, columns).
    pulses
        Pulses of which it is the mean; 0: not known.
    first_pulse_id, last_pulse_id
        Of those; -1: not known.
    file
        Name of the file in the history; empty if it is not kept.
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
    """A background with its pixels as measured, (rows, columns), kept as `Settings` keep them.

    Raises
    ------
    ConfigError
        If the pixels are not finite numbers, (rows, columns).
    """

    info: BackgroundInfo
    pixels: NDArray[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", as_background(self.pixels))


class History:
    """The backgrounds that were used, one HDF5 file each; any thread.

    Parameters
    ----------
    directory
        Where; made when the first is kept. None keeps nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._known: dict[str, BackgroundInfo] = {}

    def keep(self, background: Background) -> BackgroundInfo:
        """Write a background to the history; one that is there already gets its new date.

        Returns
        -------
        BackgroundInfo
            With the name of its file; without one when the history keeps nothing.

        Raises
        ------
        HardwareError
            If it cannot be written.
        """
        if self.directory is None:
            return background.info
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
                self._known[path.name] = info
        except Exception as error:  # it is in use already: no more must come of it
            raise HardwareError(f"{path}: the background cannot be kept ({error})") from error
        return info

    def list(self) -> list[BackgroundInfo]:
        """Return what is in the history, newest first; files that cannot be read are left out."""
        if self.directory is None or not self.directory.is_dir():
            return []
        found = []
        for path in self.directory.glob("*.h5"):
            if path.name not in self._known:
                try:
                    self._known[path.name] = _read_info(path)
                except DataError as error:
                    logger.warning("%s", error)
                    continue
            found.append(self._known[path.name])
        return sorted(found, key=lambda info: info.date, reverse=True)

    def load(self, name: str, digest: str = "") -> Background:
        """Return the newest background of a name.

        Parameters
        ----------
        name
            Label.
        digest
            As `Settings.background_digest` has it: this one and no other; empty: any.

        Raises
        ------
        ConfigError
            If there is none.
        DataError
            If its file cannot be read.
        """
        infos = self.list()
        for info in infos:
            if info.name == name:
                assert self.directory is not None
                found = Background(info, read_pixels(self.directory / info.file, DATASET))
                if not digest or digest_of(name, found.pixels) == digest:
                    return found
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
            Relative to the directory, or absolute and below it: what a client names must not be
            any file of this machine.
        dataset
            (rows, columns) numbers, or (n, rows, columns), of which the mean is taken.
        name
            Label; empty takes the path.

        Raises
        ------
        ConfigError
            If the path is not below the directory.
        DataError
            If there are no such pixels.
        """
        if self.directory is None:
            raise ConfigError(f"{path}: this service has no directory of backgrounds")
        root = self.directory.resolve()
        try:
            file = (root / path).resolve()
        except ValueError as error:
            raise ConfigError(f"{path!r}: {error}") from error
        if not file.is_relative_to(root):
            raise ConfigError(f"{path}: backgrounds are read from below {root} only; put it there")
        pixels = read_pixels(file, dataset)
        info = BackgroundInfo(name or path, _now(), str(file), _shape(pixels))
        return Background(info, pixels)


def record_limit_s(pulses: int) -> float:
    """Return the longest time that a recording of N pulses may take, s: N / 10 Hz and a minute."""
    return 60.0 + pulses / 10.0


def record(
    processor: Processor,
    pulses: int,
    name: str,
    limit_s: float,
    cancelled: threading.Event | None = None,
) -> Background:
    """Take the mean of the next pictures as they come, whatever they are processed with.

    Pulses are left out, and the processing goes on, if they come faster than they are added up.

    Parameters
    ----------
    processor
        The owner, processing.
    pulses
        Pictures to take.
    name
        Label; empty makes one of the date.
    limit_s
        Time to wait for them.
    cancelled
        Ends the recording when it is set.

    Returns
    -------
    Background
        float32.

    Raises
    ------
    ConfigError
        If the number of pulses is not allowed.
    HardwareError
        If not enough pictures of one size come in time, or the recording is cancelled.
    """
    if not 1 <= pulses <= PULSES_MAX:
        raise ConfigError(f"pulses: {pulses} is outside 1..{PULSES_MAX}")
    feed = processor.subscribe(depth=4)
    deadline = time.monotonic() + limit_s
    total: NDArray[np.float64] | None = None
    pulse_ids: list[int] = []
    try:
        while len(pulse_ids) < pulses:
            is_cancelled = cancelled is not None and cancelled.is_set()
            if is_cancelled or time.monotonic() > deadline or not processor.is_running:
                why = "before it was cancelled" if is_cancelled else f"within {limit_s:g} s"
                if not processor.is_running:
                    why = "before it was stopped; start the processing first"
                raise HardwareError(f"only {len(pulse_ids)} of {pulses} pictures came {why}")
            result = feed.get(FETCH_S)
            if result is None or result.pulse.image is None:
                continue
            image = result.pulse.image
            if total is None or total.shape != image.shape:  # the first, or the size has changed
                total, pulse_ids = np.zeros(image.shape, np.float64), []
            total += image
            pulse_ids.append(result.pulse.pulse_id)
    finally:
        feed.close()
    assert total is not None
    date = _now()
    info = BackgroundInfo(
        name or f"recorded {date}",
        date,
        "recorded",
        _shape(total),
        len(pulse_ids),
        pulse_ids[0],
        pulse_ids[-1],
    )
    return Background(info, (total / len(pulse_ids)).astype(np.float32))


def uploaded(name: str, pixels: NDArray[Any]) -> Background:
    """Return what a client sent as a background, dated now; an empty name is made of the date."""
    date = _now()
    name = name or f"uploaded {date}"
    return Background(BackgroundInfo(name, date, "uploaded", _shape(pixels)), pixels)


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
    """Write to a file that gets its name when it is complete."""
    partial = path.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
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
    partial.rename(path)


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


def _shape(pixels: NDArray[Any]) -> tuple[int, int]:
    return int(pixels.shape[0]), int(pixels.shape[1])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
