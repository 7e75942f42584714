"""Client classes of tiled for runs that are still being written.

`ClientClasses` is the map of client classes of one connection.
"""

import math
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import xarray
from bluesky_tiled_plugins.clients.bluesky_event_stream import (
    DATAVALUES,
    TIMESTAMPS,
    BlueskyEventStreamV3,
)
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3
from tiled.client.array import ArrayClient
from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH, Container
from tiled.utils import OneShotCachedMap

PLAIN = {"array", "table"}


class GrowingArray(ArrayClient):
    """An array of a run that is being stored.

    `read` returns the rows that the array had when this client was made. tiled's own client asks
    for all rows, and fails when there are more by then.
    """

    def read(self, slice: Any = None) -> Any:
        """Return the array, or a part of it."""
        if slice is None and self.shape:
            slice = tuple(_first_n(n) for n in self.shape)
        return super().read(slice)


class GrowingStream(BlueskyEventStreamV3):
    """A stream of a run that is being stored.

    `read` returns only the rows that all columns have. Table and arrays of a running stream grow
    one after the other; tiled's own client fails when it meets them at different lengths.
    """

    def read(self, variables: Iterable[Any] = (DATAVALUES,), dim0: str | None = None) -> Any:
        """Return the stream as one dataset; see ``CompositeClient.read`` of tiled."""
        contents = self.get_contents()
        if any(item["attributes"]["structure_family"] not in PLAIN for item in contents.values()):
            return super().read(variables, dim0)
        wanted = set(variables)
        if DATAVALUES in wanted:
            wanted = self._var_keys | wanted - {DATAVALUES}
        if TIMESTAMPS in wanted:
            wanted = self._ts_keys | wanted - {TIMESTAMPS}
        keys = self.metadata.get("data_keys", {}).items()
        declared = {key: data_key.get("dtype_numpy") for key, data_key in keys}
        columns: dict[str, Any] = {}
        arrays = {}
        rows = math.inf
        for part, item in contents.items():
            structure = item["attributes"]["structure"]
            if item["attributes"]["structure_family"] == "table":
                names = [name for name in structure["columns"] if name in wanted]
                frame = self.base[part].read(names) if names else {}
                columns |= {name: column_values(frame[name], declared.get(name)) for name in names}
                rows = min([rows, *(len(frame[name]) for name in names)])
            elif part in wanted:
                arrays[part] = structure
                rows = min([rows, *structure["shape"][:1]])
        leading = dim0 or "time"
        found = {name: ((leading,), values[: int(rows)]) for name, values in columns.items()}
        for part, structure in arrays.items():
            shape = structure["shape"]
            dims = structure.get("dims") or _dims(part, leading, len(shape))
            # Without dimensions there are no rows
            taken = tuple(_first_n(n) for n in (rows, *shape[1:])) if shape else None
            found[part] = (tuple(dims), self.base[part].read(taken))
        return xarray.Dataset(found)


def _first_n(n: float) -> Any:
    return slice(0, int(n))


def column_values(column: Any, declared: Any) -> Any:
    """Return a table's column as an array.

    Text is numpy text, or fixed-length bytes if the descriptor declares them.
    """
    if column.dtype == "string" or column.dtype == object:
        text = column.values.astype("U")
        is_bytes = isinstance(declared, str) and np.dtype(declared).kind == "S"
        return np.char.encode(text, "utf-8").astype(declared) if is_bytes else text
    return column.values


def _dims(name: str, leading: str, count: int) -> tuple[str, ...]:
    return (leading, *(f"{name}_dim{axis}" for axis in range(1, count)))[:count]


class ColumnPathRun(BlueskyRunV3):
    """A run whose columns are found by path in any table: ``run["primary/psss_center"]``.

    tiled's own class looks only in the table of events.
    """

    def __getitem__(self, key: Any) -> Any:
        parts = tuple("/".join((key,) if isinstance(key, str) else key).split("/"))
        try:
            return Container.__getitem__(self, parts)
        except KeyError:
            if len(parts) < 2:
                raise
        stream = Container.__getitem__(self, parts[:1])
        return stream["/".join(parts[1:])]


class ClientClasses(OneShotCachedMap):
    """The client class of each kind of node, for one connection.

    A copy is independent of its original. tiled's own map shares its entries with its copies: one
    use of ``db`` (or ``.v2``) would change the class of all runs in the process.
    """

    @classmethod
    def of(cls, clients: Any) -> Self:
        """Return an independent copy of such a map."""
        return cls({kind: (lambda kind=kind: clients[kind]) for kind in clients})

    def __copy__(self) -> Self:
        return self.of(self)


def growing_clients() -> ClientClasses:
    """Return tiled's client classes, some of them replaced by the classes of this module."""
    Container.discover_clients_from_entrypoints()
    clients = ClientClasses.of(DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"])
    clients.set("BlueskyEventStream", lambda: GrowingStream)
    clients.set("BlueskyRun", lambda: ColumnPathRun)
    clients.set("array", lambda: GrowingArray)
    return clients
