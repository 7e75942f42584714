"""Exports the documents of a stored run; tiled's server calls this for ``run.documents()``."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.structures.core import StructureFamily

from skywright.files.readers import HDF5
from skywright.store.export.contents import array_parts
from skywright.store.external import number_files
from skywright.store.journal_contents import datum_fields
from skywright.store.table_adapter import MIMETYPE
from skywright.store.tiled_writer import INTERNAL, SQL_TABLE

Document = dict[str, Any]


async def export_documents(
    mimetype: str, adapter: Any, metadata: Any, filtered: Any
) -> AsyncIterator[str]:
    """Export a run as a JSON sequence; see ``bluesky_tiled_plugins.exporters``.

    The stock exporter expects one table in each stream, that of events, and one range of rows of
    one file for each other data key. So it gets no node of files that `skywright.files.readers`
    reads. The documents of their columns are written here, before the stop document: a
    StreamResource for each file, and a StreamDatum for each range of rows. The last range has no
    rows while a table is open.
    """
    columns: list[_Column] = []
    first_files: dict[str, str] = {}

    async def filter_for_access(run: _Run) -> _Run:
        return _Run(await filtered(run.adapter), columns)

    run = _Run(adapter, columns)
    async for record in json_seq_exporter(mimetype, run, metadata, filter_for_access):
        if record.startswith('\x1e{"name": "stop"'):
            for column in columns:
                uid = metadata.get("start", {}).get("uid")
                for name, doc in _documents(column, uid, first_files):
                    yield "\x1e" + json.dumps({"name": name, "doc": doc}) + "\n"
        yield record


class _Column(NamedTuple):
    """A data key whose values are in files: a column of a table, or an array of its own."""

    name: str
    descriptor: Document
    mimetype: str
    parameters: Document
    """Of its stream resources, without ``slice``."""
    uris: Sequence[str]
    """The files, in order, as the catalog has them."""
    segments: Sequence[Sequence[Any]]
    """Number of the file, first row and end of each range of rows; an end of None: not known."""


def _columns_of_table(source: Any, descriptor: Document) -> Iterator[_Column]:
    uris = [each.data_uri for each in sorted(source.assets, key=lambda each: each.num or 0)]
    for name, dataset in source.parameters["columns"].items():
        is_scalar = not descriptor["data_keys"][name]["shape"]
        parameters = {"dataset": dataset, "join_method": "stack" if is_scalar else "concat"}
        yield _Column(name, descriptor, HDF5, parameters, uris, source.parameters["segments"])


def _column_of_array(name: str, source: Any, descriptor: Document) -> _Column | None:
    """Return an array of files; None if it is not known which rows of which files it shows."""
    data_key = descriptor.get("data_keys", {}).get(name, {})
    if source.structure_family != StructureFamily.array or "external" not in data_key:
        return None
    shape, row = tuple(source.structure.shape), tuple(data_key.get("shape", ()))
    is_stacked = shape[1:] == row
    if not shape or not (is_stacked or (row == (1,) and len(shape) == 1)):
        return None
    parts = array_parts(source, shape[0])
    if not parts:
        return None
    ranges = [(f"file://localhost{each.asset.file}", each.start, each.stop) for each in parts]
    uris, segments = number_files(ranges)
    parameters = {k: v for k, v in source.parameters.items() if k not in ("segments", "slice")}
    parameters["join_method"] = "stack" if is_stacked else "concat"
    return _Column(name, descriptor, source.mimetype, parameters, uris, segments)


def _documents(
    column: _Column, run: str | None, first_files: dict[str, str]
) -> Iterator[tuple[str, Document]]:
    """Yield the stream documents of a column of the run with this uid.

    `first_files` has the first file of each data key, over all streams; it is added to. A
    further file of which the first rows are left out has a slice, because its first index is taken
    for that of row 0 (`FirstIndices`).
    """
    descriptor = column.descriptor["uid"]
    resource = f"sr-{descriptor}-{column.name}"
    seq_num = 1
    ranges: list[tuple[int, int, int, int]] = []
    rows_0: dict[int, int] = {}
    for file_number, start, stop in column.segments:
        count = 0 if stop is None else stop - start  # None: the table is still open
        ranges.append((file_number, start, seq_num, count))
        rows_0[file_number] = min(start, rows_0.get(file_number, start))
        seq_num += count
    for number, uri in enumerate(column.uris):
        if uri == first_files.setdefault(column.name, uri):
            rows_0[number] = 0
        row_0 = rows_0.get(number, 0)
        yield (
            "stream_resource",
            {
                "data_key": column.name,
                "uid": f"{resource}/{number}",
                "run_start": run,
                "mimetype": column.mimetype,
                "parameters": column.parameters | ({"slice": f"{row_0}:"} if row_0 else {}),
                # The catalog has plain paths, because tiled does not decode them
                "uri": quote(uri, safe="/:") if uri.startswith("file:") else uri,
            },
        )
    # In the order of rows: the index that comes first is taken for that of row 0 of the slice
    for number, (file_number, start, seq_num, count) in enumerate(sorted(ranges)):
        index = start - rows_0[file_number]
        rows = datum_fields(f"{resource}/{file_number}", index, seq_num, count)
        uid = f"sd-{descriptor}-{column.name}-0/{number}"
        yield "stream_datum", {"uid": uid, "descriptor": descriptor, **rows}


class _Run:
    """A run as the stock exporter expects it: its streams are `_Stream`.

    The columns of files are appended to `columns`.
    """

    def __init__(self, adapter: Any, columns: list[_Column]) -> None:
        self.adapter = adapter
        self.specs = adapter.specs
        self.keys_range = adapter.keys_range
        self._columns = columns

    async def lookup_adapter(self, segments: list[str]) -> "_Stream":
        return _Stream(await self.adapter.lookup_adapter(segments), self._columns)


class _Stream:
    """A stream as the stock exporter expects it: one table of events, and arrays.

    The exporter calls `keys_range` first, which finds the columns and the tables of events.
    """

    def __init__(self, adapter: Any, columns: list[_Column]) -> None:
        self._adapter = adapter
        self._columns = columns
        self._tables: list[Any] = []
        self.specs = adapter.specs
        self.metadata = adapter.metadata

    async def keys_range(self, offset: int, limit: int | None) -> list[str]:
        keys = []
        for key, node in await self._adapter.items_range(offset, limit):
            source = ((await node.data_sources(include_assets=True)) or [None])[0]
            if source is not None and source.mimetype == MIMETYPE:
                self._columns += _columns_of_table(source, self.metadata())
            elif source is not None and source.mimetype == SQL_TABLE:
                self._tables.append(node)
            # In a thread, because it may open files
            elif source is not None and (
                column := await asyncio.to_thread(_column_of_array, key, source, self.metadata())
            ):
                self._columns.append(column)
            else:
                keys.append(key)
        return [*keys, *([INTERNAL] if self._tables else [])]

    async def lookup_adapter(self, segments: list[str]) -> Any:
        return self if segments[0] == INTERNAL else await self._adapter.lookup_adapter(segments)

    async def read(self) -> pd.DataFrame:
        """Return the events as the one table that the stock exporter expects.

        The store splits a table of many columns into several nodes.
        """
        return pd.concat([await table.read() for table in self._tables], axis=1, join="inner")
