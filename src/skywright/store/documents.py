"""Exports the documents of a stored run; tiled's server calls this for ``run.documents()``."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pandas as pd
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily

from skywright.store.external import Segment
from skywright.store.journal_contents import datum_fields
from skywright.store.table_adapter import MIMETYPE, rows_of
from skywright.store.tiled_writer import INTERNAL, SQL_TABLE

Document = dict[str, Any]
FILES, SEGMENTS = "skywright_files", "skywright_segments"
"""Parameters of a `_Column`, which the stock exporter copies into its StreamResource."""
MULTI_FILE_PARAMETERS = ("template", "chunk_shape")
"""Parameters that the stock exporter adds to combine several files into one resource."""


async def export_documents(
    mimetype: str, adapter: Any, metadata: Any, filtered: Any
) -> AsyncIterator[str]:
    """Export a run as a JSON sequence; see ``bluesky_tiled_plugins.exporters``.

    The stock exporter expects one table in each stream, that of events, and one range of rows for
    each other data key. So it gets each column of a table of files as an array (`_Column`). The
    stream documents that it writes of such an array are replaced by a StreamResource for each file,
    and a StreamDatum for each range of rows. The last range has no rows while the table is open.
    """

    async def filter_for_access(run: _Run) -> _Run:
        return _Run(await filtered(run.adapter))

    segments_of: dict[str, list[Segment]] = {}
    async for record in json_seq_exporter(mimetype, _Run(adapter), metadata, filter_for_access):
        if not record.startswith('\x1e{"name": "stream_'):
            yield record
            continue
        document = json.loads(record[1:])
        for doc in _expand(document["name"], document["doc"], segments_of):
            yield "\x1e" + json.dumps({"name": document["name"], "doc": doc}) + "\n"


def _expand(name: str, doc: Document, segments_of: dict[str, list[Segment]]) -> Iterator[Document]:
    """Yield the documents that replace a stream document of the stock exporter.

    A document of a column (`_Column`) becomes one document for each file, or for each range of
    rows. Any other document is yielded as it is. `segments_of` collects the ranges of rows by uid
    of the stream resource, which comes before its stream datum.
    """
    if name == "stream_resource":
        parameters = doc["parameters"]
        files, segments = parameters.pop(FILES, None), parameters.pop(SEGMENTS, None)
        if files is None:
            yield doc
            return
        segments_of[doc["uid"]] = segments
        plain = {key: parameters[key] for key in parameters if key not in MULTI_FILE_PARAMETERS}
        for file_number, uri in enumerate(files):
            yield doc | {"uid": f"{doc['uid']}/{file_number}", "uri": uri, "parameters": plain}
        return
    resource = doc["stream_resource"]
    if resource not in segments_of:
        yield doc
        return
    seq_num = 1
    for number, (file_number, start, stop) in enumerate(segments_of[resource]):
        count = 0 if stop is None else stop - start  # None: the table is still open
        rows = datum_fields(f"{resource}/{file_number}", start, seq_num, count)
        yield doc | {"uid": f"{doc['uid']}/{number}", **rows}
        seq_num += count


class _Run:
    """A run as the stock exporter expects it: its streams are `_Stream`."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.specs = adapter.specs
        self.keys_range = adapter.keys_range

    async def lookup_adapter(self, segments: list[str]) -> "_Stream":
        return _Stream(await self.adapter.lookup_adapter(segments))


class _Stream:
    """A stream as the stock exporter expects it: one table of events, and arrays.

    The exporter calls `keys_range` first, which finds the columns and the tables of events.
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter
        self._columns: dict[str, _Column] = {}
        self._events = _Events()
        self.specs = adapter.specs
        self.metadata = adapter.metadata

    async def keys_range(self, offset: int, limit: int | None) -> list[str]:
        keys = []
        for key, node in await self._adapter.items_range(offset, limit):
            source = ((await node.data_sources(include_assets=True)) or [None])[0]
            if source is not None and source.mimetype == MIMETYPE:
                names = source.parameters["columns"]
                self._columns |= {name: _Column(source, name) for name in names}
            elif source is not None and source.mimetype == SQL_TABLE:
                self._events.tables.append(node)
            else:
                keys.append(key)
        return [*keys, *self._columns, *([INTERNAL] if self._events.tables else [])]

    async def lookup_adapter(self, segments: list[str]) -> Any:
        if segments[0] == INTERNAL:
            return self._events
        column = self._columns.get(segments[0])
        return column or await self._adapter.lookup_adapter(segments)


class _Events:
    """The one table of events that the stock exporter expects.

    The store splits a table of many columns into several nodes (`tables`).
    """

    def __init__(self) -> None:
        self.tables: list[Any] = []

    async def read(self) -> pd.DataFrame:
        return pd.concat([await table.read() for table in self.tables], axis=1, join="inner")


def _number(asset: Any) -> int:
    return int(asset.num or 0)


class _Column:
    """A column of a table of files as an array, as the stock exporter expects it."""

    def __init__(self, table: Any, name: str) -> None:
        rows = rows_of(table) or 0
        dtype = table.structure.meta.dtypes[name]
        # Text is of dtype object in tables, which arrays cannot have. The exporter reads the shape
        # only, so any other dtype will do
        dtype = np.dtype("S1") if dtype.kind == "O" else dtype
        structure = ArrayStructure(
            BuiltinDtype.from_numpy_dtype(dtype), chunks=((rows,),), shape=(rows,)
        )
        self._source = table.model_copy(
            update={
                "structure_family": StructureFamily.array,
                "structure": structure,
                "mimetype": "application/x-hdf5",
                "parameters": {
                    "dataset": table.parameters["columns"][name],
                    FILES: [asset.data_uri for asset in sorted(table.assets, key=_number)],
                    SEGMENTS: table.parameters["segments"],
                },
            }
        )

    async def data_sources(self, include_assets: bool = True) -> list[Any]:
        return [self._source]
