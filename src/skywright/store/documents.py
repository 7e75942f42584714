"""Exports the documents of a stored run; tiled's server calls this for ``run.documents()``."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.structures.core import StructureFamily

from skywright.callbacks.raw_run import Document
from skywright.files.readers import HDF5
from skywright.store.export.contents import array_parts
from skywright.store.stored_run import ColumnRows, rows_documents
from skywright.store.table_adapter import MIMETYPE
from skywright.store.tiled_writer import INTERNAL, SQL_TABLE


async def export_documents(
    mimetype: str, adapter: Any, metadata: Any, filtered: Any
) -> AsyncIterator[str]:
    """Export a run as a JSON sequence; see ``bluesky_tiled_plugins.exporters``.

    The stock exporter expects one table in each stream, that of events, and one range of rows of
    one file for each other data key. So it gets no node of files that `skywright.files.readers`
    reads. The documents of their columns are written here, before the stop document. The rows of
    the last range are left out while a table is open.
    """
    streams: list[_Stream] = []
    uid = metadata.get("start", {}).get("uid")
    first_files: dict[str, str] = {}

    async def filter_for_access(run: _Run) -> _Run:
        return _Run(await filtered(run.adapter), streams)

    run = _Run(adapter, streams)
    async for record in json_seq_exporter(mimetype, run, metadata, filter_for_access):
        if record.startswith('\x1e{"name": "stop"'):
            for stream in streams:
                for name, doc in stream.documents(uid, first_files):
                    yield "\x1e" + json.dumps({"name": name, "doc": doc}) + "\n"
        yield record


def _rows_of_table(source: Any, data_keys: Mapping[str, Any]) -> Iterator[ColumnRows]:
    assets = sorted(source.assets, key=lambda each: each.num or 0)
    ranges = [
        (_address(assets[number].data_uri), start, start if stop is None else stop)
        for number, start, stop in source.parameters["segments"]
    ]
    for name, dataset in source.parameters["columns"].items():
        method = "concat" if data_keys[name]["shape"] else "stack"
        parameters = {"dataset": dataset, "join_method": method}
        yield ColumnRows(name, HDF5, parameters, ranges)


def _rows_of_array(name: str, source: Any, data_keys: Mapping[str, Any]) -> ColumnRows | None:
    """Return the rows of an array; None if it is not known which rows of which files it shows."""
    data_key = data_keys.get(name, {})
    if source.structure_family != StructureFamily.array or "external" not in data_key:
        return None
    shape, row = tuple(source.structure.shape), tuple(data_key.get("shape", ()))
    is_stacked = shape[1:] == row
    if not shape or not (is_stacked or (row == (1,) and len(shape) == 1)):
        return None
    parts = array_parts(source, shape[0])
    if not parts:
        return None
    ranges = [
        (_address(f"file://localhost{each.asset.file}"), each.start, each.stop) for each in parts
    ]
    parameters = {k: v for k, v in source.parameters.items() if k not in ("segments", "slice")}
    parameters["join_method"] = "stack" if is_stacked else "concat"
    return ColumnRows(name, source.mimetype, parameters, ranges)


def _address(uri: str) -> str:
    """Return a URI of the catalog, which has plain paths because tiled does not decode them."""
    return quote(uri, safe="/:") if uri.startswith("file:") else uri


class _Run:
    """A run as the stock exporter expects it: its streams are `_Stream`.

    They are appended to `streams`.
    """

    def __init__(self, adapter: Any, streams: "list[_Stream]") -> None:
        self.adapter = adapter
        self.specs = adapter.specs
        self.keys_range = adapter.keys_range
        self._streams = streams

    async def lookup_adapter(self, segments: list[str]) -> "_Stream":
        self._streams.append(_Stream(await self.adapter.lookup_adapter(segments)))
        return self._streams[-1]


class _Stream:
    """A stream as the stock exporter expects it: one table of events, and arrays.

    The exporter calls `keys_range` first, which finds the rows in files and the tables of events.
    """

    def __init__(self, adapter: Any) -> None:
        self.rows: list[ColumnRows] = []
        self._adapter = adapter
        self._tables: list[Any] = []
        self._seq_nums = np.empty(0, np.int64)
        self.specs = adapter.specs
        self.metadata = adapter.metadata

    async def keys_range(self, offset: int, limit: int | None) -> list[str]:
        keys = []
        data_keys = self.metadata().get("data_keys", {})
        for key, node in await self._adapter.items_range(offset, limit):
            source = ((await node.data_sources(include_assets=True)) or [None])[0]
            if source is not None and source.mimetype == MIMETYPE:
                self.rows += _rows_of_table(source, data_keys)
            elif source is not None and source.mimetype == SQL_TABLE:
                self._tables.append(node)
            # In a thread, because it may open files
            elif source is not None and (
                rows := await asyncio.to_thread(_rows_of_array, key, source, data_keys)
            ):
                self.rows.append(rows)
            else:
                keys.append(key)
        return [*keys, *([INTERNAL] if self._tables else [])]

    async def lookup_adapter(self, segments: list[str]) -> Any:
        return self if segments[0] == INTERNAL else await self._adapter.lookup_adapter(segments)

    async def read(self) -> pd.DataFrame:
        """Return the events as the one table that the stock exporter expects.

        The store splits a table of many columns into several nodes.
        """
        tables = [await table.read() for table in self._tables]
        events = pd.concat(tables, axis=1, join="inner")
        self._seq_nums = events["seq_num"].to_numpy()
        return events

    def documents(
        self, run: str | None, first_files: dict[str, str]
    ) -> Iterator[tuple[str, Document]]:
        """Yield the documents of the rows in files, see `rows_documents`."""
        for rows in self.rows:
            uid = self.metadata()["uid"]
            yield from rows_documents(rows, run, uid, self._seq_nums, first_files)
