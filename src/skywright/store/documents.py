"""Documents of a stored run, as ``run.documents()`` asks the server for them."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pandas as pd
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily

from skywright.store.external import Segment
from skywright.store.journal_contents import datum
from skywright.store.table_adapter import MIMETYPE, rows_of
from skywright.store.tiled_writer import INTERNAL, SQL_TABLE

Document = dict[str, Any]
FILES, SEGMENTS = "skywright_files", "skywright_segments"
"""Parameters that pass through the stock exporter."""
OF_SEVERAL_FILES = ("template", "chunk_shape")
"""Parameters with which the stock exporter makes one resource of several files."""


async def export_documents(
    mimetype: str, adapter: Any, metadata: Any, filtered: Any
) -> AsyncIterator[str]:
    """Export a run as a JSON sequence; see ``bluesky_tiled_plugins.exporters``.

    The stock exporter knows one table a stream, that of events, and one range of rows for each data
    key. It gets each column of a table of files as an array, and what it says of the array's rows
    is replaced by a document for each file and each range. A table that is still open has no rows.
    """

    async def filter_for_access(run: _Run) -> _Run:
        return _Run(await filtered(run.adapter))

    parts: dict[str, list[Segment]] = {}
    async for record in json_seq_exporter(mimetype, _Run(adapter), metadata, filter_for_access):
        if not record.startswith('\x1e{"name": "stream_'):
            yield record
            continue
        document = json.loads(record[1:])
        for doc in _of_each_file(document["name"], document["doc"], parts):
            yield "\x1e" + json.dumps({"name": document["name"], "doc": doc}) + "\n"


def _of_each_file(name: str, doc: Document, parts: dict[str, list[Segment]]) -> Iterator[Document]:
    """Yield what replaces a document: itself, or a document for each file or range of rows.

    tiled exports one document for a column of a table, whatever the number of its files.
    """
    if name == "stream_resource":
        parameters = doc["parameters"]
        files, segments = parameters.pop(FILES, None), parameters.pop(SEGMENTS, None)
        if files is None:
            yield doc
            return
        parts[doc["uid"]] = segments
        plain = {key: parameters[key] for key in parameters if key not in OF_SEVERAL_FILES}
        for number, uri in enumerate(files):
            yield doc | {"uid": f"{doc['uid']}/{number}", "uri": uri, "parameters": plain}
        return
    resource = doc["stream_resource"]
    if resource not in parts:
        yield doc
        return
    seq_num = 1
    for number, (file, start, stop) in enumerate(parts[resource]):
        count = (start if stop is None else stop) - start
        rows = datum(f"{resource}/{file}", start, seq_num, count)
        yield doc | {"uid": f"{doc['uid']}/{number}", **rows}
        seq_num += count


class _Run:
    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.specs = adapter.specs
        self.keys_range = adapter.keys_range

    async def lookup_adapter(self, segments: list[str]) -> "_Stream":
        return _Stream(await self.adapter.lookup_adapter(segments))


class _Stream:
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
            elif key == INTERNAL:
                self._events.array = node
            else:
                keys.append(key)
        return [*keys, *self._columns, *([INTERNAL] if self._events.tables else [])]

    async def lookup_adapter(self, segments: list[str]) -> Any:
        if segments[0] == INTERNAL:
            return self._events
        column = self._columns.get(segments[0])
        return column or await self._adapter.lookup_adapter(segments)


class _Events:
    """The one table of events that the stock exporter knows.

    Tables of many columns are several nodes; a data key with the name of the table is a node too.
    """

    def __init__(self) -> None:
        self.tables: list[Any] = []
        self.array: Any = None

    async def read(self) -> pd.DataFrame:
        frame = pd.concat([await table.read() for table in self.tables], axis=1, join="inner")
        if self.array is not None:
            frame[INTERNAL] = list(await self.array.read())
        return frame


def _number(asset: Any) -> int:
    return int(asset.num or 0)


class _Column:
    def __init__(self, table: Any, name: str) -> None:
        rows = rows_of(table) or 0
        dtype = table.structure.meta.dtypes[name]
        dtype = np.dtype("S1") if dtype.kind == "O" else dtype
        shape = ((rows,),), (rows,)
        self._source = table.model_copy(
            update={
                "structure_family": StructureFamily.array,
                "structure": ArrayStructure(BuiltinDtype.from_numpy_dtype(dtype), *shape),
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
