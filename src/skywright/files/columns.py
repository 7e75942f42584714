"""Files of columns: HDF5 files with one dataset per quantity; the first axis is the row.

They can be read while they are written (one writer, any number of readers, SWMR): values are
flushed first, the identity column last. A reader that uses the length of the identity column never
reads an incomplete row.
"""

import errno
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from h5py._objects import phil  # its lock, one for all threads; it has no public name
from numpy.typing import ArrayLike, NDArray

from skywright.closing import Closing
from skywright.errors import DataError
from skywright.files.hdf5 import close_written, open_hdf5, read_rows
from skywright.waiting import pause

T = TypeVar("T")
RESERVE_BYTES = 1 << 20
"""Free space to keep on the disk, bytes."""
CACHE_BYTES = 1 << 20
"""Maximum cache of a column of a writer, bytes. By default HDF5 (version 2) takes 8 MB for each
column and fills them with completed chunks."""
OTHER_READER_TIMEOUT_S = 0.1
"""Maximum wait, s, until another reader of this process has closed the column."""
OTHER_READER_POLL_S = 0.001
"""Period of the checks whether that reader has closed the column, s."""
COLUMNS_NAMED = 3
"""Maximum number of columns that an error names."""


class DoesNotFitError(DataError):
    """Values that do not fit their column. Nothing of the call is written.

    Attributes
    ----------
    fits
        (n,) bool, True for the rows of the call that fit.
    """

    def __init__(self, message: str, fits: NDArray[np.bool_]) -> None:
        super().__init__(message)
        self.fits = fits

    def __reduce__(self) -> tuple[type, tuple[str, NDArray[np.bool_]]]:
        """Let pickle rebuild the error with its `fits`."""
        return type(self), (str(self), self.fits)


@dataclass(frozen=True)
class Column:
    """One dataset of a file of columns.

    Parameters
    ----------
    path
        Path in the HDF5 file, ``/entry/data/data``.
    dtype
        A numpy dtype, ``"<f8"``. Text is stored as fixed-length bytes (``"S16"``), or as an integer
        code; the attribute ``names`` lists the texts.
    shape
        Shape of one row; () is a scalar.
    rows_per_chunk
        Rows per HDF5 chunk: 1 for images, about 1024 for scalars.
    attrs
        Attributes of the dataset: text, numbers, or values that JSON can represent, stored as JSON
        text.
    """

    path: str
    dtype: str
    shape: tuple[int, ...] = ()
    rows_per_chunk: int = 1024
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def row_bytes(self) -> int:
        """Size of one row, bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class ColumnWriter(Closing):
    """The one writer of a file of columns.

    Not thread-safe. An `append` that is refused, also for lack of free space, stores nothing and
    may be repeated. After a write that failed the file takes no more rows, and those that were not
    flushed are lost: HDF5 (version 2) would go on with zeros in place of rows. The operating system
    closes such a file when the process ends.

    Parameters
    ----------
    path
        Path of the new file; its directory must exist.
    columns
        The quantities.
    identity
        The integer column that identifies the rows, flushed last.
    groups
        Attributes of groups, by path.
    links
        HDF5 hard links: {link path: column path}.

    Raises
    ------
    DataError
        If `path` exists already, a column is given twice or cannot be created.
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
        self.appended = 0
        """Number of rows, flushed or not."""
        self._pending: list[NDArray[Any]] = []
        self._failure = ""
        """Error of the write that failed; empty: none."""
        self._is_closed = False
        self._row_bytes = sum(c.row_bytes for c in (*columns, identity))
        self._chunk_bytes = Counter[int]()
        """Size of a chunk of all columns together that have chunks of this number of rows."""
        for c in (*columns, identity):
            self._chunk_bytes[c.rows_per_chunk] += c.rows_per_chunk * c.row_bytes
        check_free_space(path.parent, self._needed_bytes(0, 1))
        try:
            # Mode "x" fails if the file exists, so there is one writer. HDF5 locks are off: they
            # fail on network disks and block readers.
            self._file = h5py.File(path, "x", libver="latest", locking=False)
        except FileExistsError as error:
            raise DataError(f"{path}: exists already; choose another name") from error
        try:
            self._data = {c.path: _create(self._file, c, _cache_bytes(c)) for c in columns}
            # On a full disk `flush` shrinks this dataset again, for which its chunks must be in
            # memory.
            self._identities = _create(self._file, identity, CACHE_BYTES)
            for name, attributes in (groups or {}).items():
                _write_attributes(self._file.require_group(name), attributes)
            for name, target in (links or {}).items():
                self._file[name] = self._file[target]
            self._file.swmr_mode = True
        except Exception as error:
            with suppress(Exception):  # a full disk
                self._file.close()
            path.unlink(missing_ok=True)  # else the next attempt finds a file that exists
            if isinstance(error, RuntimeError):  # h5py raises it too if the disk fails
                raise OSError(f"{path}: {error}") from error
            raise

    @property
    def flushed(self) -> int:
        """Number of flushed rows, which readers can see."""
        return self.appended - sum(map(len, self._pending))

    @property
    def has_failed(self) -> bool:
        """Whether a write has failed; the file takes no more rows then."""
        return bool(self._failure)

    def append(self, identity: int | ArrayLike, rows: Mapping[str, ArrayLike]) -> None:
        """Append rows; they become visible with the next `flush`.

        Parameters
        ----------
        identity
            One integer, or (n,) integers.
        rows
            Values of every column, by its path: (n, *shape), or (*shape) if `identity` is one
            integer.

        Raises
        ------
        DataError
            If a column is missing, unknown, of a wrong shape, or cannot hold values of this kind.
        DoesNotFitError
            If text is longer than its column, or a column cannot hold a number: it is out of range,
            a fraction or NaN in a column of integers, neither 0 nor 1 in a column of booleans, or
            has an imaginary part in a column of floats. Infinity fits into every column of floats.
        OSError
            If the disk is full or fails.
        """
        self._check_failure()
        caster = ColumnCaster(self.path)
        identities = np.atleast_1d(caster.cast(self.identity, np.asarray(identity)))
        if identities.ndim != 1:
            raise DataError(
                f"{self.path}: {self.identity.path}: values of shape {identities.shape}, "
                "expected (n,)"
            )
        count, is_one_row = len(identities), np.ndim(identity) == 0
        if rows.keys() != self.columns.keys():
            wrong = sorted(rows.keys() ^ self.columns.keys())
            raise DataError(f"{self.path}: columns {wrong} missing or unknown in these rows")
        checked: dict[str, NDArray[Any]] = {}
        for path, column in self.columns.items():
            values = np.asarray(rows[path])
            if is_one_row:
                values = values[np.newaxis]
            if values.shape != (count, *column.shape):
                raise DataError(
                    f"{self.path}: {path}: values of shape {values.shape}, "
                    f"expected {(count, *column.shape)}"
                )
            checked[path] = caster.cast(column, values)
        caster.check(count)
        start = self.appended
        check_free_space(self.path.parent, self._needed_bytes(start, start + count))
        try:
            for path, values in checked.items():
                dataset = self._data[path]
                # Given the whole shape, h5py does not look up the present one: 9 us in place of 35
                dataset.resize((start + count, *values.shape[1:]))
                dataset[start : start + count] = values
        except (OSError, RuntimeError) as error:  # h5py raises either
            raise self._note_failure(error) from error
        self._pending.append(identities.copy())  # the caller may use its array again
        self.appended = start + count

    def _needed_bytes(self, start: int, stop: int) -> int:
        """Return the room that rows need: their size, or that of the chunks that they begin."""
        chunks = sum(
            size * (-(-stop // rows) - -(-start // rows))
            for rows, size in self._chunk_bytes.items()
        )
        return max(chunks, (stop - start) * self._row_bytes)

    def flush(self) -> int:
        """Make all rows appended so far visible.

        Returns
        -------
        int
            Number of rows that readers can see now.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if not self._pending:
            return self.flushed
        self._check_failure()
        start = self.flushed
        try:
            for dataset in self._data.values():
                dataset.flush()
        except (OSError, RuntimeError) as error:
            raise self._note_failure(error) from error
        with phil:  # a reader of this process must not see the new length before the identities
            try:
                self._identities.resize(self.appended, axis=0)
                self._identities[start:] = np.concatenate(self._pending)
                self._identities.flush()
            except (OSError, RuntimeError) as error:
                # Undo the resize; otherwise HDF5 writes the new length later although the
                # identities were not written
                with suppress(OSError, RuntimeError):
                    self._identities.resize(start, axis=0)
                raise self._note_failure(error) from error
        self._pending.clear()
        return self.flushed

    def _note_failure(self, error: Exception) -> OSError:
        """Note that the file takes no more rows; return the error to raise."""
        self._failure = str(error)
        return OSError(f"{self.path}: {error}")

    def _check_failure(self) -> None:
        if self._failure:
            why = f"takes no more rows after an error ({self._failure}); start another file"
            raise OSError(f"{self.path}: {why}")

    def close(self, *, flush: bool = True) -> None:
        """Flush and close; a second call does nothing.

        Parameters
        ----------
        flush
            False: the rows that are not flushed are lost.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if flush:
                self.flush()
        finally:
            datasets = (self._identities, *self._data.values())
            close_written(self._file, datasets, has_failed=self.has_failed)


class ColumnCaster:
    """Casts values to the types of their columns; `check` raises if rows do not fit.

    Parameters
    ----------
    origin
        Where the values go or come from, for the message: a file, an analysis.
    """

    def __init__(self, origin: object) -> None:
        self._origin = origin
        self._why: list[str] = []
        self._wrong: list[NDArray[np.bool_]] = []

    def cast(self, column: Column, values: NDArray[Any]) -> NDArray[Any]:
        """Return values, first axis the row, in the column's dtype.

        A value that does not fit becomes 0 or an empty text; `check` then raises. Call it after all
        casts.

        Raises
        ------
        DataError
            If a value is of a kind that the column cannot hold: text, a number, a date.
        """
        dtype = np.dtype(column.dtype)
        # Nothing to check for the column's own dtype, or if numpy calls the cast safe (it may round
        # large integers in a column of floats)
        if np.can_cast(values.dtype, dtype, "safe" if dtype.kind in "iubfc" else "no"):
            return values.astype(dtype, copy=False)
        try:
            if dtype.kind in "iubfc":
                _check_numbers(values)
            if dtype.kind == "S":
                values = _as_bytes(values)
                wrong = np.char.str_len(values) > dtype.itemsize
                problem = f"text of {values.itemsize} bytes"
            elif dtype.kind == "U":  # results of analyses, which are in events and not in a file
                if values.dtype.kind != "U":
                    values = np.char.decode(_as_bytes(values), "utf-8")
                wrong = np.char.str_len(values) > dtype.itemsize // 4
                problem = "text"
            elif dtype.kind in "iu":
                wrong = _out_of_range(values, dtype)
                problem = "a value that is no integer of its range"
            elif dtype.kind == "b":
                if values.dtype.kind not in "iufc":
                    values = values.astype(np.float64)
                wrong = (values != 0) & (values != 1)
                problem = "a value that is neither 0 nor 1"
            elif dtype.kind in "fc":
                is_complex = np.zeros(values.shape, np.bool_)
                if dtype.kind == "f" and values.dtype.kind == "c":
                    values, is_complex = values.real, values.imag != 0
                with np.errstate(over="ignore"):
                    cast = values.astype(dtype)
                wrong = np.isinf(cast) | is_complex
                if not wrong.any():
                    return cast
                if values.dtype.kind not in "biufc":
                    values = values.astype(np.float64)
                wrong &= np.isfinite(values) | is_complex  # infinity itself fits
                problem = "a complex value, or one beyond its range,"
            else:
                return values.astype(dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{self._origin}: {column.path}: {error}") from error
        if wrong.any():
            rows: NDArray[np.bool_] = np.atleast_1d(np.asarray(wrong))
            self._wrong.append(np.asarray(rows.reshape(len(rows), -1).any(axis=1)))
            self._why.append(f"{column.path}: {problem} does not fit {dtype}")
            with np.errstate(invalid="ignore"):
                return np.where(wrong, np.zeros((), values.dtype), values).astype(dtype)
        return values.astype(dtype)

    def check(self, count: int) -> None:
        """Raise `DoesNotFitError` if one of `count` rows does not fit."""
        if self._wrong:
            fits = np.ones(count, bool)
            for wrong in self._wrong:
                fits &= ~wrong
            why = [
                f"{problem} ({wrong.sum()} of {count} rows)"
                for problem, wrong in zip(self._why, self._wrong, strict=True)
            ]
            more = f"; and {len(why) - COLUMNS_NAMED} more" if why[COLUMNS_NAMED:] else ""
            raise DoesNotFitError(f"{self._origin}: {'; '.join(why[:COLUMNS_NAMED])}{more}", fits)


def _as_bytes(values: NDArray[Any]) -> NDArray[np.bytes_]:
    """Return text as UTF-8 bytes."""
    if values.dtype.kind == "S":
        return values
    if values.dtype.kind == "U":
        return np.char.encode(values, "utf-8")
    if values.dtype.kind != "O":
        raise TypeError(f"expected text, got {values.dtype}")
    for each in values.flat:
        if not isinstance(each, str | bytes):  # bytes(5) are five zero bytes, an empty text
            raise TypeError(f"expected text, got {type(each).__name__}")
    flat = [each.encode() if isinstance(each, str) else each for each in values.flat]
    return np.array(flat, dtype=bytes).reshape(values.shape)


def _check_numbers(values: NDArray[Any]) -> None:
    """Raise `TypeError` for text and dates, which numpy would convert to numbers."""
    each = values.flat if values.dtype.kind == "O" else [values]
    for dtype in {np.asarray(value).dtype for value in each}:
        if dtype.kind not in "biufcO":
            raise TypeError(f"expected numbers, got {dtype}")


def _out_of_range(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Return True for each value that an integer type cannot hold."""
    if values.dtype.kind in "iu":
        return values.astype(dtype) != values  # an integer out of range wraps around
    limits = np.iinfo(dtype)
    if values.dtype.kind == "O":
        # Python integers beyond 64 bits; a cast to float64 would round other integers of the array
        low, high = limits.min, limits.max
        fits = (v is not None and low <= v <= high and int(v) == v for v in values.flat)
        return ~np.fromiter(fits, bool, values.size).reshape(values.shape)
    if values.dtype.kind != "f":
        raise TypeError(f"expected integers, got {values.dtype}")
    # The smallest float64 that is too large. The limit of 64-bit integers is no float64: numpy
    # rounds it up to 2**63 or 2**64, which is already too large
    above = np.float64(limits.max) + (1.0 if limits.max < 2**53 else 0.0)
    is_inside = (values >= np.float64(limits.min)) & (values < above)
    with np.errstate(invalid="ignore"):
        return ~(is_inside & (values == np.trunc(values)))


class ColumnReader(Closing):
    """A reader of a file of columns, while it is written or afterwards.

    Parameters
    ----------
    path
        The file.
    counted_column
        Path of the column whose length is the number of complete rows: the identity if there is
        one.

    Raises
    ------
    DataError
        If the file cannot be opened as HDF5 or has no such column.
    """

    def __init__(self, path: Path, counted_column: str) -> None:
        self.path = path
        self._counted_column = counted_column
        try:
            self._file = open_hdf5(path)
        except OSError as error:  # HDF5's own words for an absent file take several lines
            why = os.strerror(error.errno) if error.errno else error
            raise DataError(f"{path}: cannot be read as HDF5 ({why})") from error
        try:
            self.count()
        except DataError:
            self._file.close()
            raise

    def count(self) -> int:
        """Return the present number of complete rows.

        Raises
        ------
        DataError
            If the column cannot be read.
        """
        return self._with_refreshed(self._counted_column, len)

    def read(self, column: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read rows of one column.

        Parameters
        ----------
        column
            Path of the column.
        start, stop
            Range of rows; `stop` None reads up to the last complete one.

        Returns
        -------
        (n, *shape) array of the column's dtype
            Fewer rows than requested if fewer are complete.

        Raises
        ------
        DataError
            If there is no such column, or the rows cannot be read.
        """
        count = self.count()
        last = count if stop is None else min(stop, count)
        return self._with_refreshed(column, lambda found: read_rows(found, start, last))

    def attributes(self, path: str) -> dict[str, Any]:
        """Return the attributes of a column; JSON text is decoded.

        Raises
        ------
        DataError
            If there is no such column, or its attributes cannot be read.
        """
        attributes = self._with_refreshed(path, lambda column: dict(column.attrs))
        return {key: _decode_attribute(value) for key, value in attributes.items()}

    def _with_refreshed(self, path: str, take: Callable[[h5py.Dataset], T]) -> T:
        """Refresh a dataset and return `take(dataset)`.

        If a dataset is refreshed while this process has it open twice, it returns wrong rows from
        then on, without an error (h5py issue 2803, HDF5 2.0). So readers open it only while they
        hold h5py's lock. If it is open elsewhere in this process, wait up to
        `OTHER_READER_TIMEOUT_S`, then read without a refresh (data may be old). A dataset that this
        process writes needs no refresh.
        """
        end = time.monotonic() + OTHER_READER_TIMEOUT_S
        while True:
            with phil:
                try:
                    dataset = self._file[path]
                except KeyError as error:
                    why = error.args[0]
                    raise DataError(f"{self.path}: has no dataset {path} ({why})") from error
                except RuntimeError as error:
                    raise DataError(f"{self.path}: {path}: cannot be read ({error})") from error
                if not isinstance(dataset, h5py.Dataset):
                    raise DataError(f"{self.path}: {path} is no dataset")
                # HDF5 opens a file once for the whole process: if this process writes it, this
                # reader has the writer's intent too
                written_here = self._file.id.get_intent() & h5py.h5f.ACC_RDWR
                alone = not written_here and self._is_opened_once(dataset)
                try:
                    if alone:
                        dataset.refresh()
                    if alone or written_here or time.monotonic() > end:
                        return take(dataset)
                except (OSError, RuntimeError) as error:  # h5py raises either
                    raise DataError(f"{self.path}: {path}: cannot be read ({error})") from error
                finally:
                    del dataset
            pause(OTHER_READER_POLL_S)

    def _is_opened_once(self, dataset: h5py.Dataset) -> bool:
        """Return whether nothing else in this process has the dataset open."""
        opened = h5py.h5f.get_obj_ids(self._file.id, h5py.h5f.OBJ_DATASET)
        is_once = opened.count(dataset.id) == 1
        del opened
        # A profiler that keeps a frame of the lines above, as that of Dask's workers may, keeps a
        # second reference, with which a refresh fails
        return is_once and h5py.h5i.get_ref(dataset.id) == 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _create(file: h5py.File, column: Column, cache_bytes: int) -> h5py.Dataset:
    try:
        dataset = file.create_dataset(
            column.path,
            shape=(0, *column.shape),
            maxshape=(None, *column.shape),
            chunks=(column.rows_per_chunk, *column.shape),
            dtype=column.dtype,
            rdcc_nbytes=cache_bytes,
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"{file.filename}: {column.path}: cannot be created: {error}") from error
    _write_attributes(dataset, column.attrs)
    return dataset


def _cache_bytes(column: Column) -> int:
    """Return the cache of a column, bytes: one chunk, at most `CACHE_BYTES`.

    Only the last chunk gets more rows. A chunk of one row gets none, so it needs no cache.
    """
    if column.rows_per_chunk == 1:
        return 1  # h5py takes 0 for the default
    return max(min(column.rows_per_chunk * column.row_bytes, CACHE_BYTES), 1)


def _write_attributes(node: h5py.HLObject, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        node.attrs[name] = _encode_attribute(value)


def _encode_attribute(value: Any) -> Any:
    """Return numbers unchanged, other values as fixed-length text, which SWMR supports.

    A text that would be read as another value is stored as JSON.
    """
    if isinstance(value, (int, float, np.generic)):
        return value
    is_plain = isinstance(value, str) and _decode_text(value) == value
    return np.bytes_((value if is_plain else json.dumps(value)).encode())


def _decode_attribute(value: Any) -> Any:
    return _decode_text(value.decode()) if isinstance(value, bytes) else value


def _decode_text(text: str) -> Any:
    try:
        return json.loads(text) if text == "null" or text[:1] in ("[", "{", '"') else text
    except ValueError:
        return text


def check_free_space(directory: Path, needed_bytes: int) -> None:
    """Raise if a disk has no room for a write: HDF5 cannot close a file that meets a full disk.

    Parameters
    ----------
    directory
        A directory of the disk.
    needed_bytes
        Size of the write.

    Raises
    ------
    OSError
        If less than the sum of `needed_bytes` and `RESERVE_BYTES` is free.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes + RESERVE_BYTES:
        raise OSError(
            errno.ENOSPC,
            f"disk full: {free / 1e6:.1f} MB free, {(needed_bytes + RESERVE_BYTES) / 1e6:.1f} MB "
            "needed; free some room",
            str(directory),
        )
