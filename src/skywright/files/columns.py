"""Files of columns: one HDF5 dataset a quantity, first axis the record, readable while written.

The rule (one writer, any readers, SWMR): values are written and flushed first, the identity column
is extended and flushed last. Whoever trusts the length of the identity never sees half a record.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from h5py._objects import phil  # its lock, one for all threads; it has no public name
from numpy.typing import ArrayLike, NDArray

from skywright.closing import Closing
from skywright.errors import DataError

T = TypeVar("T")
RESERVE_BYTES = 1 << 20
"""Room that must stay free on the disk: HDF5 cannot close a file that it cannot flush."""
CACHE_BYTES = 1 << 20
"""Cache of each column of a writer. HDF5 2 takes 8 MB and keeps chunks that are full in it."""
OPEN_ELSEWHERE_S = 0.1
"""How long a reader waits for another reader of this process to be done with a column."""


class DoesNotFitError(DataError):
    """Text or integers that do not fit their column. Nothing of the call is written.

    Attributes
    ----------
    fits
        (n,) bool, for each row of the call.
    """

    def __init__(self, message: str, fits: NDArray[np.bool_]) -> None:
        super().__init__(message)
        self.fits = fits


@dataclass(frozen=True)
class Column:
    """One dataset of a columns file.

    Parameters
    ----------
    path
        Path in the HDF5 file, ``/entry/data/data``.
    dtype
        A numpy dtype, ``"<f8"``. Text is fixed bytes (``"S16"``) or an integer code whose names
        are in the attribute ``names``.
    shape
        Of one record; () is a scalar.
    rows_per_chunk
        Records in an HDF5 chunk: 1 for pictures, about 1024 for scalars.
    attrs
        Attributes of the dataset; text, numbers, or what JSON knows (stored as JSON text).
    """

    path: str
    dtype: str
    shape: tuple[int, ...] = ()
    rows_per_chunk: int = 1024
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row_bytes(self) -> int:
        """Size of one record in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class ColumnWriter(Closing):
    """The one writer of a columns file.

    Not thread-safe. After an `OSError` what was appended before stands, and the same rows can be
    appended again when there is room.

    Parameters
    ----------
    path
        Of the new file; its directory must exist.
    columns
        The quantities.
    identity
        The integer column that numbers the records, written last.
    groups
        Attributes of groups, by path.
    links
        Second names of columns: path of the link to path of the column.

    Raises
    ------
    DataError
        If `path` exists already or a column is given twice.
    OSError
        If the file cannot be created.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[Column],
        identity: Column,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.columns = {column.path: column for column in columns}
        if len(self.columns) != len(columns) or identity.path in self.columns:
            raise DataError(f"{path}: two columns have one path; give each its own")
        self.identity = identity
        self._appended = 0
        self._pending: list[NDArray[Any]] = []
        self._row_bytes = sum(c.row_bytes for c in (*columns, identity))
        _check_room(path.parent, self._row_bytes)
        try:
            # "x" alone makes us the only writer; locks fail on network disks and keep readers out.
            self._file = h5py.File(
                path, "x", libver="latest", locking=False, rdcc_nbytes=CACHE_BYTES
            )
        except FileExistsError as error:
            raise DataError(f"{path}: exists already; a file of records is never reused") from error
        self._data = {c.path: _create(self._file, c) for c in columns}
        self._identities = _create(self._file, identity)
        for name, attributes in (groups or {}).items():
            _describe(self._file.require_group(name), attributes)
        for name, target in (links or {}).items():
            self._file[name] = self._file[target]
        self._file.swmr_mode = True

    @property
    def appended(self) -> int:
        """Number of records appended, flushed or not."""
        return self._appended

    @property
    def flushed(self) -> int:
        """Number of records that a reader may trust."""
        return self._appended - sum(map(len, self._pending))

    def append(self, identity: int | ArrayLike, rows: Mapping[str, ArrayLike]) -> None:
        """Append records; they become visible with the next `flush`.

        Parameters
        ----------
        identity
            One integer, or (n,) integers.
        rows
            For every column its values: (n, *shape), or (*shape) when `identity` is one integer.

        Raises
        ------
        DataError
            If a column is missing, unknown, or of a wrong shape. Nothing is written then.
        DoesNotFitError
            If text is longer than its column, or an integer is out of the range of its column.
            Nothing is written then; `DoesNotFitError.fits` tells which rows fit.
        OSError
            If the disk is full or fails. The records of this call are lost.
        """
        fits = Fits(self.path)
        identities = np.atleast_1d(fits.cast(self.identity, np.asarray(identity)))
        count = len(identities)
        if rows.keys() != self.columns.keys():
            wrong = sorted(rows.keys() ^ self.columns.keys())
            raise DataError(f"{self.path}: columns {wrong} missing or unknown in this record")
        blocks: dict[str, NDArray[Any]] = {}
        for path, column in self.columns.items():
            block = np.asarray(rows[path])
            if np.ndim(identity) == 0:
                block = block[np.newaxis]
            if block.shape != (count, *column.shape):
                raise DataError(
                    f"{self.path}: {path}: values of shape {block.shape}, "
                    f"expected {(count, *column.shape)}"
                )
            blocks[path] = fits.cast(column, block)
        fits.check(count)
        _check_room(self.path.parent, count * self._row_bytes)
        start = self._appended
        for path, block in blocks.items():
            dataset = self._data[path]
            dataset.resize(start + count, axis=0)
            dataset[start : start + count] = block
        self._pending.append(identities)
        self._appended = start + count

    def flush(self) -> int:
        """Make all records appended so far visible.

        Returns
        -------
        int
            Number of records that readers may trust now.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if not self._pending:
            return self.flushed
        for dataset in self._data.values():
            dataset.flush()
        start = self.flushed
        self._identities.resize(self._appended, axis=0)
        try:
            self._identities[start:] = np.concatenate(self._pending)
            self._identities.flush()
        except (OSError, RuntimeError) as error:
            # HDF5 would write the new length later even so, over identities that are not there.
            self._identities.resize(start, axis=0)
            raise OSError(f"{self.path}: {error}") from error
        self._pending.clear()
        return self.flushed

    def close(self) -> None:
        """Flush and close; a second call does nothing.

        Raises
        ------
        OSError
            If the disk is full or fails; what was flushed before stays readable.
        """
        if self._file:
            try:
                self.flush()
            finally:
                self._file.close()


class Fits:
    """Casts values to the types of their columns, and notes rows that do not fit.

    Parameters
    ----------
    path
        Of the file, for the message.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._why = ""
        self._wrong: list[NDArray[np.bool_]] = []

    def cast(self, column: Column, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values, first axis the row, as the column's type.

        Raises
        ------
        DataError
            If they are of a kind that the column cannot hold at all.
        """
        dtype = np.dtype(column.dtype)
        if np.can_cast(values.dtype, dtype, "safe" if dtype.kind in "iub" else "no"):
            return values.astype(dtype, copy=False)
        try:
            if dtype.kind == "S":
                values = _as_bytes(values)
                wrong = np.char.str_len(values) > dtype.itemsize
                problem = f"text of {values.itemsize} bytes"
            elif dtype.kind in "iu":
                if values.dtype.kind == "O":  # Python integers beyond 64 bits
                    values = values.astype(np.float64)
                wrong = _out_of_range(values, dtype)
                problem = "a value that is no integer of its range"
            else:
                return values.astype(dtype)
        except (TypeError, ValueError, UnicodeError) as error:
            raise DataError(f"{self._path}: {column.path}: {error}") from error
        if np.any(wrong):
            self._why = f"{self._path}: {column.path}: {problem} does not fit {dtype}"
            rows: NDArray[np.bool_] = np.atleast_1d(np.asarray(wrong))
            self._wrong.append(np.asarray(rows.reshape(len(rows), -1).any(axis=1)))
            with np.errstate(invalid="ignore"):
                return np.where(wrong, np.zeros((), values.dtype), values).astype(dtype)
        return values.astype(dtype)

    def check(self, count: int) -> None:
        """Raise `DoesNotFitError` if one of `count` rows does not fit."""
        if self._wrong:
            fits = np.ones(count, bool)
            for wrong in self._wrong:
                fits &= ~wrong
            raise DoesNotFitError(f"{self._why} ({count - fits.sum()} of {count} rows)", fits)


def _as_bytes(values: NDArray[Any]) -> NDArray[np.bytes_]:
    """Return text as UTF-8 bytes."""
    if values.dtype.kind == "S":
        return values
    if values.dtype.kind == "U":
        return np.char.encode(values, "utf-8")
    if values.dtype.kind != "O":
        raise TypeError(f"expected text, got {values.dtype}")
    flat = [each.encode() if isinstance(each, str) else bytes(each) for each in values.ravel()]
    return np.array(flat, dtype=bytes).reshape(values.shape)


def _out_of_range(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Return where values are no integers of the range of an integer type."""
    limits = np.iinfo(dtype)
    if values.dtype.kind in "iu":
        # A Python integer may be out of the range of the values' own type: compare within it.
        own = np.iinfo(values.dtype)
        least, most = max(limits.min, own.min), min(limits.max, own.max)
        return (values < least) | (values > most)
    if values.dtype.kind != "f":
        raise TypeError(f"expected integers, got {values.dtype}")
    # As floats: 2**63 is exact, and is the first that does not fit.
    above = np.float64(limits.max) + (1.0 if limits.max < 2**53 else 0.0)
    is_inside = (values >= np.float64(limits.min)) & (values < above)
    with np.errstate(invalid="ignore"):
        return ~(is_inside & (values == np.trunc(values)))


class ColumnReader(Closing):
    """A reader of a columns file, while it is written or afterwards.

    Parameters
    ----------
    path
        The file.
    identity_path
        Path of the identity column.

    Raises
    ------
    DataError
        If the file cannot be opened as HDF5 or has no such column.
    """

    def __init__(self, path: Path, identity_path: str) -> None:
        self.path = path
        self._identity_path = identity_path
        self._pause = threading.Event()
        try:
            self._file = h5py.File(path, "r", libver="latest", swmr=True, locking=False)
        except OSError as error:
            raise DataError(f"{path}: cannot be read as HDF5 ({error})") from error
        self.count()

    def count(self) -> int:
        """Return the number of records that are whole now."""
        return self._look(self._identity_path, len)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read records of one column.

        Parameters
        ----------
        path
            Path of the column.
        start, stop
            Range of records; `stop` None reads up to the last whole one.

        Returns
        -------
        (n, *shape) array of the column's dtype
            Fewer records than asked for when fewer are whole.
        """
        count = self.count()
        last = count if stop is None else min(stop, count)
        values: NDArray[Any] = self._look(path, lambda column: column[start : max(start, last)])
        return values

    def attributes(self, path: str) -> dict[str, Any]:
        """Return the attributes of a column, JSON text decoded to what it says."""
        attributes = self._look(path, lambda column: dict(column.attrs))
        return {key: _plain(value) for key, value in attributes.items()}

    def _look(self, path: str, take: Callable[[h5py.Dataset], T]) -> T:
        """Take something from a column as it is now.

        A dataset that is refreshed while this process has it open twice reads wrong records from
        then on, without an error (h5py issue 2803, HDF5 2.0). So it is open here only while h5py's
        lock is held. One that somebody else has open is waited for; if that lasts, the column is
        taken as it was when it was opened there. What this process writes is always as it is.
        """
        end = time.monotonic() + OPEN_ELSEWHERE_S
        while True:
            with phil:
                dataset = self._file.get(path)
                if not isinstance(dataset, h5py.Dataset):
                    raise DataError(f"{self.path}: has no dataset {path}")
                written_here = self._file.id.get_intent() & h5py.h5f.ACC_RDWR
                alone = h5py.h5f.get_obj_count(self._file.id, h5py.h5f.OBJ_DATASET) == 1
                if alone:
                    dataset.refresh()
                try:
                    if alone or written_here or time.monotonic() > end:
                        return take(dataset)
                finally:
                    del dataset
            self._pause.wait(0.001)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def flushed_count(path: Path, identity_path: str) -> int:
    """Return the number of whole records in a columns file.

    Raises
    ------
    DataError
        If the file cannot be opened as HDF5 or has no such column.
    """
    with ColumnReader(path, identity_path) as reader:
        return reader.count()


def _create(file: h5py.File, column: Column) -> h5py.Dataset:
    dataset = file.create_dataset(
        column.path,
        shape=(0, *column.shape),
        maxshape=(None, *column.shape),
        chunks=(column.rows_per_chunk, *column.shape),
        dtype=column.dtype,
    )
    _describe(dataset, column.attrs)
    return dataset


def _describe(node: h5py.HLObject, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        node.attrs[name] = _attribute(value)


def _attribute(value: Any) -> Any:
    """Return numbers as they are and all else as fixed-length text, which SWMR can carry."""
    if isinstance(value, (int, float, np.generic)):
        return value
    return np.bytes_((value if isinstance(value, str) else json.dumps(value)).encode())


def _plain(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    text = value.decode()
    try:
        return json.loads(text) if text[:1] in ("[", "{") else text
    except ValueError:
        return text


def _check_room(directory: Path, wanted_bytes: int) -> None:
    """Refuse before HDF5 runs into a full disk, after which it could not even close the file."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free < wanted_bytes + RESERVE_BYTES:
        raise OSError(
            errno.ENOSPC,
            f"disk full: {free / 1e6:.1f} MB free, {(wanted_bytes + RESERVE_BYTES) / 1e6:.1f} MB "
            "needed; free some room",
            str(directory),
        )
