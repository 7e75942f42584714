"""Documents of a stored run, as ``run.documents()`` asks the server for them."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily

from skywright.store.table_adapter import MIMETYPE, rows_of


async def export_documents(
    mimetype: str, adapter: Any, metadata: Any, filtered: Any
) -> AsyncIterator[str]:
    """Export a run as a JSON sequence; see ``bluesky_tiled_plugins.exporters``.

    The stock exporter knows one table a stream, that of events. It gets each column of a table of
    files as the array that it would be without such tables.
    """

    async def filter_for_access(run: _Run) -> _Run:
        return _Run(await filtered(run.adapter))

    async for record in json_seq_exporter(mimetype, _Run(adapter), metadata, filter_for_access):
        yield record


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
        self.specs = adapter.specs
        self.metadata = adapter.metadata

    async def keys_range(self, offset: int, limit: int | None) -> list[str]:
        keys = []
        for key, node in await self._adapter.items_range(offset, limit):
            source = ((await node.data_sources(include_assets=True)) or [None])[0]
            if source is None or source.mimetype != MIMETYPE:
                keys.append(key)
                continue
            self._columns |= {name: _Column(source, name) for name in source.parameters["columns"]}
        return [*keys, *self._columns]

    async def lookup_adapter(self, segments: list[str]) -> Any:
        column = self._columns.get(segments[0])
        return column or await self._adapter.lookup_adapter(segments)


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
                "parameters": {"dataset": table.parameters["columns"][name]},
            }
        )

    async def data_sources(self, include_assets: bool = True) -> list[Any]:
        return [self._source]
