"""Exports the documents of a stored run; tiled's server calls this for ``run.documents()``."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pandas as pd
from bluesky_tiled_plugins.exporters import json_seq_exporter

from skywright.files.readers import HDF5
from skywright.store.journal_contents import datum_fields
from skywright.store.table_adapter import MIMETYPE
from skywright.store.tiled_writer import INTERNAL, SQL_TABLE

Document = dict[str, Any]


async def export_documents(
    mimetype: str, adapter: Any, metadata: Any, filtered: Any
) -> AsyncIterator[str]:
    """Export a run as a JSON sequence; see ``bluesky_tiled_plugins.exporters``.

    The stock exporter expects one table in each stream, that of events, and one range of rows for
    each other data key. So it gets no table of files. The documents of their columns are written
    here, before the stop document: a StreamResource for each file, and a StreamDatum for each range
    of rows. The last range has no rows while the table is open.
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
    """A column of a table of files."""

    name: str
    table: Any
    """Data source of the table."""
    descriptor: Document


def _documents(
    column: _Column, run: str | None, first_files: dict[str, str]
) -> Iterator[tuple[str, Document]]:
    """Yield the stream documents of a column of the run with this uid.

    `first_files` has the first file of each data key, over all streams; it is added to. A
    further file of which the first rows are left out has a slice, because its first index is taken
    for that of row 0 (`FirstIndices`).
    """
    descriptor, parameters = column.descriptor["uid"], column.table.parameters
    resource = f"sr-{descriptor}-{column.name}"
    is_scalar = not column.descriptor["data_keys"][column.name]["shape"]
    seq_num = 1
    ranges: list[tuple[int, int, int, int]] = []
    rows_0: dict[int, int] = {}
    for file_number, start, stop in parameters["segments"]:
        count = 0 if stop is None else stop - start  # None: the table is still open
        ranges.append((file_number, start, seq_num, count))
        rows_0[file_number] = min(start, rows_0.get(file_number, start))
        seq_num += count
    for number, asset in enumerate(sorted(column.table.assets, key=lambda each: each.num or 0)):
        if asset.data_uri == first_files.setdefault(column.name, asset.data_uri):
            rows_0[number] = 0
        row_0 = rows_0.get(number, 0)
        yield (
            "stream_resource",
            {
                "data_key": column.name,
                "uid": f"{resource}/{number}",
                "run_start": run,
                "mimetype": HDF5,
                "parameters": {
                    "dataset": parameters["columns"][column.name],
                    "join_method": "stack" if is_scalar else "concat",
                }
                | ({"slice": f"{row_0}:"} if row_0 else {}),
                "uri": asset.data_uri,
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

    The columns of tables of files are appended to `columns`.
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
                names = source.parameters["columns"]
                self._columns += [_Column(name, source, self.metadata()) for name in names]
            elif source is not None and source.mimetype == SQL_TABLE:
                self._tables.append(node)
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
