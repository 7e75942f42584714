"""Client classes in place of tiled's own: reading runs that grow, and columns by path.

`ClientClasses` is the map of client classes of one connection.
"""

from collections.abc import Iterable
from typing import Any, Self

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

from skywright.store.stream_rows import StreamRows

PLAIN = {"array", "table"}


class GrowingArray(ArrayClient):
    """An array, which may still grow: its run may not be stored completely.

    `read` returns the rows that the array had when this client was made. tiled's own client asks
    for all rows, and fails when there are more by then.
    """

    def read(self, slice: Any = None) -> Any:
        """Return the array, or a part of it."""
        if slice is None and self.shape:
            slice = tuple(map(_first_n, self.shape))
        return super().read(slice)


class GrowingStream(BlueskyEventStreamV3):
    """A stream, whose run may not be stored completely.

    `read` returns only the rows that all columns have. Table and arrays of a running stream grow
    one after the other; tiled's own client fails when it meets them at different lengths.
    """

    def __getitem__(
        self, key: str | tuple[str, ...], _ignore_inlined_contents: bool = False
    ) -> Any:
        name = key if isinstance(key, str) else "/".join(key)
        rows = StreamRows(self)
        part = rows.part_of.get(name)
        if part is None:
            return super().__getitem__(key, _ignore_inlined_contents)  # its error says what to do
        return rows.parts[part] if part == name else self.base[part, name]

    def read(self, variables: Iterable[Any] = (DATAVALUES,), dim0: str | None = None) -> Any:
        """Return the stream as one dataset; see ``CompositeClient.read`` of tiled.

        `variables` are by default all columns but the times of the events.
        """
        rows = StreamRows(self)
        if not {client.structure_family for client in rows.parts.values()} <= PLAIN:
            return super().read(variables, dim0)
        times = {key for key in rows.keys if key.startswith("ts_")}
        wanted = set(variables)
        if DATAVALUES in wanted:
            wanted |= set(rows.keys) - times - {"seq_num"}
        if TIMESTAMPS in wanted:
            wanted |= times
        found = rows.whole([key for key in rows.keys if key in wanted])
        leading = dim0 or "time"
        dims = {
            part: getattr(client.structure(), "dims", None) for part, client in rows.parts.items()
        }
        return xarray.Dataset(
            {
                key: (tuple(dims.get(key) or _dims(key, leading, values.ndim)), values)
                for key, values in found.items()
            }
        )


def _first_n(n: int) -> Any:
    return slice(0, n)


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
