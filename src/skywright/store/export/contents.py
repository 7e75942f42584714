"""Read a stored run, stream by stream, in a form that any exporter can write."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tiled.client.container import Container
from tiled.structures.core import StructureFamily

from skywright.errors import DataError
from skywright.files.readers import HDF5, first_row, open_reader, readers
from skywright.store.columns import fits
from skywright.store.external import files_of
from skywright.store.lookup import JournalListing, as_mapping, hinted_fields
from skywright.store.table_adapter import MIMETYPE, rows_of
from skywright.store.tiled_writer import UNREADABLE_FILES

EXPORTER = "skywright"
"""Marks our exports; `replace` replaces no others."""
COPY_BYTES = 16 * 2**20
"""Size of a part of an array that is read with one request, bytes."""
FEW_COLUMNS = 2
"""Up to this number of columns of a table are read one by one."""
UNFINISHED = {
    "running": "the run is still running",
    "storing": "the run is over and still being stored",
}
"""Notes on a run of which more will be stored, by its status."""


@dataclass(frozen=True)
class Asset:
    """The dataset of a file that holds a column."""

    file: Path
    dataset: str
    mimetype: str = HDF5


@dataclass(frozen=True)
class AssetRows:
    """Rows `start` to `stop` of a dataset, which are the next rows of a column."""

    asset: Asset
    start: int
    stop: int


@dataclass(frozen=True)
class Column:
    """Values of one data key, first axis = events, frames or pulses."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    data_key: Mapping[str, Any]
    """What the descriptor says: units, source, precision ..."""
    read: Callable[[slice], NDArray]
    """Rows of the column; text is ``<U``, that of files may be bytes (``S``)."""
    parts: tuple[AssetRows, ...] = ()
    """Where the rows are, in order; empty if they are not in files on this machine's paths."""

    @property
    def asset(self) -> Asset | None:
        """The dataset whose first rows are all rows of the column.

        None if they are in several files or do not begin at row 0.
        """
        if len(self.parts) != 1 or self.parts[0].start:
            return None
        return self.parts[0].asset

    @property
    def external(self) -> bool:
        """Whether the values are in a file beside the catalog."""
        return "external" in self.data_key

    def slices(self) -> Iterator[tuple[slice, NDArray]]:
        """Yield all rows in order, at most `COPY_BYTES` at once (but at least one row)."""
        step = max(1, COPY_BYTES // self._row_bytes)
        for begin in range(0, self.shape[0], step):
            rows = slice(begin, min(begin + step, self.shape[0]))
            yield rows, self.read(rows)

    def chunk_shape(self) -> tuple[int, ...]:
        """Return chunks of about 1 MiB of whole rows, for formats that store in chunks."""
        rows = min(max(1, 2**20 // self._row_bytes), max(1, self.shape[0]))
        return (rows, *(max(1, size) for size in self.shape[1:]))

    @property
    def _row_bytes(self) -> int:
        return max(1, int(np.prod(self.shape[1:])) * self.dtype.itemsize)


@dataclass(frozen=True)
class Stream:
    """One event stream."""

    name: str
    descriptor: Mapping[str, Any]
    columns: tuple[Column, ...]
    """``seq_num`` and ``time`` (unix s) of the events, if there are events, then the data keys."""
    timestamps: Mapping[str, NDArray]
    """Unix s of each value in an event, by data key."""

    def column(self, name: str) -> Column | None:
        """Return the column of this name, None if there is none."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def hinted(self) -> tuple[str, ...]:
        """Columns that the devices say are of interest."""
        hints = as_mapping(self.descriptor.get("hints")).values()
        return tuple(field for hint in hints for field in hinted_fields(hint))

    def free_name(self, name: str) -> str:
        """Return `name`, with ``_`` at its end where a column has it."""
        while self.column(name):
            name += "_"
        return name


@dataclass(frozen=True)
class RunContents:
    """A run as it is stored at this moment."""

    start: Mapping[str, Any]
    stop: Mapping[str, Any] | None
    status: str
    streams: tuple[Stream, ...]
    notes: tuple[str, ...]
    """What of the run is not in `streams`, not final or not as it was recorded, in words."""

    def stream(self, name: str) -> Stream | None:
        """Return the stream of this name, None if there is none."""
        return next((stream for stream in self.streams if stream.name == name), None)


def scanned_fields(start: Mapping[str, Any], stream: str | None = None) -> list[str]:
    """Return the fields that a plan's hints name as scanned.

    Parameters
    ----------
    start
        The start document. Hints of a form that bluesky does not know are left out.
    stream
        Only fields of this stream; None: of any.
    """
    dimensions = as_mapping(start.get("hints")).get("dimensions")
    fields: list[Any] = []
    for dimension in dimensions if isinstance(dimensions, list | tuple) else ():
        match dimension:
            case [[*names], str(name)] if stream in (None, name):
                fields += names
    return [field for field in fields if isinstance(field, str)]


def read_contents(
    run: Container, listing: JournalListing | None = None, only: Collection[str] | None = None
) -> RunContents:
    """Read metadata and events of `run`; columns of files and arrays are read by `Column.read`.

    Parameters
    ----------
    run
        tiled client of the run.
    listing
        The journals, for the status of the run.
    only
        Names of the streams to read; None: all. A stream takes two or more requests.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    metadata = run.item["attributes"]["metadata"]
    status = (listing or JournalListing()).status(metadata)
    notes: list[str] = list(metadata.get("notes") or ())
    if metadata.get("stop") is None:
        notes.append(
            UNFINISHED.get(status, f"the run is {status}, without stop document")
            + ": what is stored until now"
        )
    unreadable = metadata.get(UNREADABLE_FILES) or {}
    absent = "no value stored yet" if status in UNFINISHED else "no value stored"
    streams = [
        _read_stream(node.base, name, notes, unreadable, absent)
        for name, node in sorted(_stream_nodes(run).items())
        if only is None or name in only
    ]
    return RunContents(
        start=metadata["start"],
        stop=metadata.get("stop"),
        status=status,
        streams=tuple(streams),
        notes=tuple(notes),
    )


def _stream_nodes(run: Container) -> dict[str, Container]:
    """Return the streams of a run by name, as they are at one moment.

    A client that lists their names and then asks for each one fails while the ingester writes the
    run anew: it has deleted the streams, and makes them again.
    """
    nodes = dict(run.new_variation(include_data_sources=True).base.items())
    streams = nodes.get("streams")
    if streams is None or "BlueskyEventStream" in {spec.name for spec in streams.specs}:
        return nodes
    return dict(streams.items())  # early catalogs of bluesky have them one level below


def _read_stream(
    node: Container, name: str, notes: list[str], unreadable: Mapping[str, str], absent: str
) -> Stream:
    """Read one stream; `notes` is added to, `absent` for a column without values."""
    descriptor = node.item["attributes"]["metadata"]
    data_keys = descriptor.get("data_keys", {})
    parts = dict(node.items())
    tables = [part for part in parts.values() if _family(part) == StructureFamily.table]
    files = [table for table in tables if table.data_sources()[0].mimetype == MIMETYPE]
    in_files: dict[str, _FileTable] = {}
    for table in files:
        in_files |= dict.fromkeys(table.columns, _FileTable(table, data_keys, name))
    tables = [table for table in tables if table not in files]
    frame, kept = _events(tables, f"{name}: events")
    columns = [_memory_column(key, frame[key], {}) for key in ("seq_num", "time") if key in frame]
    for key, data_key in data_keys.items():
        if key in parts and _family(parts[key]) == StructureFamily.array:
            columns.append(_array_column(key, parts[key], data_key, kept, f"{name}/{key}"))
        elif key in parts:
            notes.append(f"{name}/{key}: {_family(parts[key])}, left out: rows differ in length")
        elif key in in_files:
            columns.append(_file_column(key, in_files[key], data_key, f"{name}/{key}"))
        elif key in frame:
            column = frame[key]
            if data_key.get("dtype") == "array":
                table = next(each for each in tables if key in each.columns)
                column = _short_arrays(table, key, data_key, kept, len(frame))
            columns.append(_memory_column(key, column, data_key))
        elif not any(note.startswith(f"{name}/{key}:") for note in notes):  # the ingester's
            notes.append(f"{name}/{key}: {unreadable.get(f'{name}/{key}', absent)}")
    timestamps = {  # in older catalogs a data key may have the name of a column of time stamps
        key: frame[f"ts_{key}"].to_numpy(dtype="f8")
        for key in data_keys
        if f"ts_{key}" in frame and f"ts_{key}" not in data_keys
    }
    return Stream(name, descriptor, tuple(columns), timestamps)


def _events(tables: list[Any], what: str) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """Return events as one table, each seq_num once, and which stored rows these are.

    bluesky's own writer stores an event again that comes again after a resume; the last one counts.
    """
    if not tables:
        return pd.DataFrame(), np.ones(0, bool)
    with _reading(what):
        frames = [table.read() for table in tables]
    rows = min(len(frame) for frame in frames)  # wide tables are split, and may grow meanwhile
    frame = pd.concat([frame.iloc[:rows] for frame in frames], axis=1).reset_index(drop=True)
    kept = ~frame["seq_num"].duplicated(keep="last").to_numpy()
    return frame[kept], kept


def _memory_column(key: str, values: pd.Series | NDArray, data_key: Mapping[str, Any]) -> Column:
    """Return a column whose values are at hand, with the dtype that the descriptor declares."""
    if isinstance(values, pd.Series):
        is_text = not (
            pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype)
        )
        array = np.asarray(values.fillna("").astype(str), "U") if is_text else values.to_numpy()
    else:
        array = values
    array = _as_declared(array, data_key.get("dtype_numpy"))
    return Column(key, array.shape, array.dtype, data_key, array.__getitem__)


def _as_declared(values: NDArray, declared: object) -> NDArray:
    """Cast numbers to the declared dtype if no value changes: tables know int64 and float64."""
    if not isinstance(declared, str) or values.dtype.kind not in "iuf":
        return values
    dtype = np.dtype(declared)
    if dtype.kind not in "iuf" or not fits(values, dtype):
        return values
    return values.astype(dtype, copy=False)


def _short_arrays(
    table: Any, key: str, data_key: Mapping[str, Any], kept: NDArray[np.bool_], rows: int
) -> NDArray:
    """Read arrays of a few elements, which bluesky's own writer keeps in the table of events.

    The result is ``(n, *shape)``.
    """
    with _reading(key):
        values = np.asarray(table[key].read())[: len(kept)][kept]
    shape = (rows, *(data_key.get("shape") or ()))
    return values.reshape(shape) if values.size == np.prod(shape) else values


def _array_column(
    key: str, node: Any, data_key: Mapping[str, Any], kept: NDArray[np.bool_], where: str
) -> Column:
    """Return a column that is an array of its own in the catalog, in a file or in Zarr."""
    source, shape = (node.data_sources() or [None])[0], tuple(node.shape)
    parts = array_parts(source, shape[0]) if source is not None and shape else ()
    at = _describe_place(where, parts)

    def read(rows: slice) -> NDArray:
        with _reading(at):
            return np.asarray(node.read((rows,)))

    if "external" not in data_key and len(kept) == shape[0] and not kept.all():
        values = read(slice(0, shape[0]))[kept]
        return Column(key, values.shape, values.dtype, data_key, values.__getitem__)
    return Column(key, shape, np.dtype(node.dtype), data_key, read, parts)


class _FileTable:
    """A table whose columns are those of files.

    A column alone takes two requests. Therefore, when a third column is read, all columns of
    numbers are fetched together, if they have at most `COPY_BYTES`. A plot reads two columns, so
    it fetches these alone.
    """

    def __init__(self, table: Any, data_keys: Mapping[str, Any], where: str) -> None:
        self.table = table
        registered = rows_of(table.data_sources()[0])
        if registered is None:  # the table is still open
            with _reading(f"{where}/{table.columns[0]}"):
                registered = table[table.columns[0]].shape[0]
        self.rows: int = registered
        self.dtypes = {  # as the table is registered with
            key: np.dtype(data_keys.get(key, {}).get("dtype_numpy") or "<f8")
            for key in table.columns
        }
        self._asked: set[str] = set()
        self._numbers = [key for key, dtype in self.dtypes.items() if dtype.kind in "biuf"]

    @cached_property
    def _frame(self) -> pd.DataFrame:
        row_bytes = sum(self.dtypes[key].itemsize for key in self._numbers)
        if not self._numbers or self.rows * row_bytes > COPY_BYTES:
            return pd.DataFrame()
        try:
            return self.table.read(self._numbers)
        except httpx.HTTPError:  # a column alone says which one cannot be read
            return pd.DataFrame()

    def read(self, key: str, rows: slice) -> NDArray:
        """Read rows of a column."""
        self._asked.add(key)
        if len(self._asked) > FEW_COLUMNS and key in self._numbers and key in self._frame:
            return np.asarray(self._frame[key])[: self.rows][rows]
        return np.asarray(self.table[key].read((rows,)))


def _file_column(key: str, table: _FileTable, data_key: Mapping[str, Any], where: str) -> Column:
    """Return a column of a file, which is one of a table in the catalog.

    Tables have tens of columns, so nothing is asked of the server before a column is read.
    """
    source = table.table.data_sources()[0]
    segments, dataset = source.parameters["segments"], source.parameters["columns"][key]
    parts = _parts(_assets(source, dataset, HDF5), segments, table.rows)
    at = _describe_place(where, parts)

    def read(rows: slice) -> NDArray:
        with _reading(at):
            return table.read(key, rows)

    return Column(key, (table.rows,), table.dtypes[key], data_key, read, parts)


def array_parts(source: Any, rows: int) -> tuple[AssetRows, ...]:
    """Return where the rows of an array are, if its files are on this machine's paths."""
    dataset = source.parameters.get("dataset")
    if source.mimetype not in readers() or not isinstance(dataset, str):
        return ()
    assets = _assets(source, dataset, source.mimetype)
    segments = source.parameters.get("segments")
    try:
        first = first_row(source.parameters)
    except DataError:  # the slice is not one of whole rows
        return ()
    if segments is None and first:
        segments = [[0, first, first + rows]]
    elif segments is None:  # tiled's own adapter: the whole files, one after the other
        counts = [rows] if len(assets) == 1 else _row_counts(assets)
        if counts and 0 < (excess := sum(counts) - rows) < counts[-1]:
            counts[-1] -= excess  # the last file may have rows that no document names
        segments = [[number, 0, count] for number, count in enumerate(counts)]
    return _parts(assets, segments, rows)


def _parts(
    assets: Sequence[Asset], segments: Sequence[Sequence[Any]], rows: int
) -> tuple[AssetRows, ...]:
    """Return `rows` rows in files by segments: file number, start and stop; None: all that follow.

    Empty if the files do not have just these rows.
    """
    parts, left = [], rows
    for number, start, stop in segments:
        if number >= len(assets):
            return ()
        end = start + left if stop is None else stop
        parts.append(AssetRows(assets[number], start, end))
        left -= end - start
    return () if left else tuple(parts)


def _row_counts(assets: Sequence[Asset]) -> list[int]:
    """Return the number of rows of each dataset; none if one cannot be read."""
    counts = []
    for asset in assets:
        try:
            with open_reader(asset.mimetype, asset.file, asset.dataset) as reader:
                counts.append(reader.count())
        except DataError:
            return []
    return counts


def _assets(source: Any, dataset: str, mimetype: str) -> list[Asset]:
    """Return the dataset of each file of a data source; none if one is no file here."""
    if not all(asset.data_uri.startswith("file:") for asset in source.assets):
        return []
    return [Asset(file, dataset, mimetype) for file in files_of(source)]


def _describe_place(where: str, parts: Sequence[AssetRows]) -> str:
    """Return `where` with the first file of a column, for messages."""
    return f"{where} ({parts[0].asset.file}, {parts[0].asset.dataset})" if parts else where


def _family(node: Any) -> str:
    return str(StructureFamily(node.item["attributes"]["structure_family"]).value)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn an error of the server, when it cannot read data, into one that names the data."""
    try:
        yield
    except httpx.HTTPError as error:
        raise DataError(
            f"{what}: the tiled server cannot read it ({str(error).splitlines()[0]}); "
            "is the file still there, and its directory among `store.readable`?"
        ) from error
