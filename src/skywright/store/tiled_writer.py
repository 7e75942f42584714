"""Writes one run to tiled with few requests.

An event becomes a row of a table:

- `StreamWriter.add_event` keeps it;
- `StreamWriter.queue_events` makes a table of the events kept and queues it, with
  `RunNodes.queue_node` if the table is new, else with `RunNodes.queue_rows`.

The rows of a file become a node that refers to the file:

- `file_nodes.data_sources` makes the data source of the node, for `LineWriter._register_files`;
- `StreamWriter.register` queues it, with `RunNodes.queue_node` if the node is new, else with
  `RunNodes.queue_source`.

All that is queued is sent together:

- `RunWriter.send` calls `RunNodes.send`, which sends it with `CatalogServer.post`;
- `routes.write_run`, in the server, writes it. A server without this route gets one request for
  each node (`RunNodes._send_singly`).

Arrays in events are not queued: `StreamWriter.send_arrays` makes a request for each data key, with
the arrays of all new events.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow
from bluesky_tiled_plugins.utils import split_table
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure

from skywright.errors import DataError
from skywright.store.run_nodes import CatalogServer, QueuedNode, RunNodes

JSON_INTEGERS = range(1 - 2**53, 2**53)
"""Integers that a JSON reader with 64-bit floats reads exactly."""
UNREADABLE_FILES = "unreadable_files"
"""Metadata key of a run: ``stream/data key`` whose files tiled cannot read, with the reason."""
SQL_TABLE = "application/x-tiled-sql-table"
"""Mimetype of tiled's tables to which rows can be appended."""
INTERNAL = "internal"
"""Name of the table of events; no data key has it (`normalizer.key_name`)."""
NOTES_MAX = 100
"""Maximum number of notes of a run; every client that lists runs transfers them."""
TABLE_COLUMNS_MAX = 1024
"""Maximum number of columns of a table; PostgreSQL takes 1600."""


def storable(value: Any) -> Any:
    """Return metadata that tiled takes; integers beyond 53 bits become their text.

    NaN and infinity are left to tiled, which stores null. Text would violate the schemas of
    documents, for example in the limits of a data key.
    """
    if isinstance(value, Mapping):
        return {str(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, int) and value not in JSON_INTEGERS:
        return str(value)
    return value


class RunWriter:
    """Writes one run: queues its nodes and rows, and sends them together (`send`).

    Parameters
    ----------
    catalog
        The server.
    start
        The start document; its ``tiled_specs`` and ``tiled_access_tags`` are used, not stored.
    """

    def __init__(self, catalog: CatalogServer, start: Mapping[str, Any]) -> None:
        doc = dict(start)
        tags = doc.pop("tiled_access_tags", None)
        extra = doc.pop("tiled_specs", None) or []
        specs = [Spec(s) if isinstance(s, str) else Spec(**s) for s in extra]
        specs.append(Spec("BlueskyRun", version="3.0"))
        self._uid = doc["uid"]
        self._node = QueuedNode(
            (self._uid,), StructureFamily.container, {"start": storable(doc)}, tuple(specs)
        )
        self._nodes = RunNodes(catalog, start, tags)
        self._nodes.queue_node(self._node)
        self.streams: dict[str, StreamWriter] = {}

    def take_over(self) -> None:
        """Write into the node that the catalog has: replace its metadata, delete its children."""
        self._nodes.take_over(self._node)

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Queue a stream's node, or add the configuration of a later descriptor."""
        doc = storable(doc)
        stream = self.streams.get(doc["name"])
        if stream is not None:
            stream.configure(doc)
            return
        metadata = {k: v for k, v in doc.items() if k not in ("name", "object_keys", "run_start")}
        path = (self._uid, doc["name"])
        specs = (Spec("BlueskyEventStream", version="3.0"), Spec("composite"))
        self._nodes.queue_node(QueuedNode(path, StructureFamily.container, metadata, specs))
        self.streams[doc["name"]] = StreamWriter(self._nodes, path)

    def send(self) -> dict[tuple[str, str], str]:
        """Send what is queued, then the configurations of later descriptors.

        Returns
        -------
        dict
            Why the server cannot read a file, by stream and name of the node.

        Raises
        ------
        RunExistsError
            If the catalog has a run of this uid already, for example from before a restart.
        DataError
            If the server refuses a table of events.
        """
        reasons = {}
        for (_, stream, name), reason in self._nodes.send().items():
            self.streams[stream].forget(name, reason)
            reasons[stream, name] = reason
        for stream_writer in self.streams.values():
            stream_writer.send_configuration()
        return reasons

    def stop(
        self,
        doc: Mapping[str, Any],
        notes: Iterable[str],
        unreadable: Mapping[str, str] | None = None,
    ) -> None:
        """Close the run; all else has been written.

        Parameters
        ----------
        doc
            The stop document.
        notes
            Sentences for people.
        unreadable
            Why tiled cannot read the files, by ``stream/data key``. It is stored as
            `UNREADABLE_FILES`, and as notes.
        """
        metadata = {"stop": storable(doc)}
        reasons = dict(unreadable or {})
        if reasons:
            metadata[UNREADABLE_FILES] = reasons
        sentences = [f"{key}: tiled cannot read its files: {why}" for key, why in reasons.items()]
        notes = list(dict.fromkeys([*notes, *sentences]))
        if len(notes) > NOTES_MAX:  # the last one may be why the run could not be written
            left_out = len(notes) - NOTES_MAX + 1
            begin = NOTES_MAX // 2
            notes[begin : begin + left_out] = [f"{left_out} more notes are left out here"]
        if notes:
            metadata["notes"] = notes
        self._nodes.finish(self._uid, metadata)


class StreamWriter:
    """Writes one stream: its events, and the nodes of its files.

    Parameters
    ----------
    nodes
        The nodes of the run.
    path
        Path of the stream's node.
    """

    def __init__(self, nodes: RunNodes, path: tuple[str, str]) -> None:
        self.path = path
        self._nodes = nodes
        self._known: set[str] = set()
        """Names of the tables and arrays that are queued or written."""
        self._rows: list[dict[str, Any]] = []
        self._arrays: dict[str, list[Any]] = {}  # by data key, one value for each event
        self._axes: dict[tuple[int, int], str] = {}
        """Name of an axis, by its length and the number of earlier axes with this length."""
        self._sources: dict[str, DataSource] = {}  # by name of the node
        self._updates: list[dict[str, Any]] = []  # configurations of all later descriptors
        self._has_new_update = False

    def configure(self, doc: Mapping[str, Any]) -> None:
        """Queue the configuration of a later descriptor; `send_configuration` sends it."""
        self._updates.append({k: doc[k] for k in ("uid", "time", "configuration") if doc.get(k)})
        self._has_new_update = True

    def send_configuration(self) -> None:
        """Store the queued configurations. The stream's node exists."""
        if self._has_new_update:
            stream = self._nodes.client(self.path)
            stream.update_metadata({"_config_updates": self._updates}, drop_revision=True)
            self._has_new_update = False

    def add_event(self, row: dict[str, Any]) -> None:
        """Add one event, a row of `rows.as_row`; `queue_events` queues it."""
        self._rows.append(row)

    def queue_events(self, data_keys: Mapping[str, Any]) -> None:
        """Queue the scalars of the events as rows of a table; keep the arrays for `send_arrays`.

        Parameters
        ----------
        data_keys
            Data keys as `rows.stored_data_keys` returns them.
        """
        rows, self._rows = self._rows, []
        if not rows:
            return
        for key, data_key in data_keys.items():
            if "external" not in data_key and data_key["dtype"] == "array":
                # In a table small arrays lose their shape or element type
                self._arrays.setdefault(key, []).extend(row.pop(key) for row in rows)
        table = pyarrow.Table.from_pylist(rows)
        if table.num_columns <= TABLE_COLUMNS_MAX:
            self._queue_table(INTERNAL, table, data_keys)
            return
        for number, part in enumerate(split_table(table, TABLE_COLUMNS_MAX)):
            self._queue_table(f"{INTERNAL}_{number}", part, data_keys)

    def _queue_table(self, name: str, table: pyarrow.Table, data_keys: Mapping[str, Any]) -> None:
        path = (*self.path, name)
        if name in self._known:
            self._nodes.queue_rows(path, table)
            return
        self._known.add(name)
        described = {k: v for k, v in data_keys.items() if k in table.column_names}
        source = DataSource(
            structure_family=StructureFamily.table,
            structure=TableStructure.from_schema(table.schema, 1),
            mimetype=SQL_TABLE,
        )
        self._nodes.queue_node(
            QueuedNode(path, StructureFamily.table, storable(described), source=source, rows=table)
        )

    def send_arrays(self, data_keys: Mapping[str, Any]) -> None:
        """Append the arrays of queued events: a request per data key. The stream's node exists."""
        waiting, self._arrays = self._arrays, {}
        for key, values in waiting.items():
            array = np.array(values, dtype=data_keys[key]["dtype_numpy"])
            if key in self._known:
                node = self._nodes.client((*self.path, key))
                node.patch(array, offset=node.shape[:1], extend=True)
                continue
            self._known.add(key)
            self._nodes.write_array(
                (*self.path, key),
                array,
                storable(data_keys[key]) | {"dtype_numpy": str(array.dtype)},
                self._dims(array.shape[1:]),
            )

    def _dims(self, lengths: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names of the axis of events and of further axes with these lengths.

        xarray requires equal lengths for equal names, and different names within one array.
        """
        axes = [(n, lengths[:axis].count(n)) for axis, n in enumerate(lengths)]
        names = (self._axes.setdefault(axis, f"dim_int_{len(self._axes) + 1}") for axis in axes)
        return ("time", *names)

    def register(self, name: str, source: DataSource) -> None:
        """Queue the node `name` of a file, or its new data source; nothing if it is unchanged."""
        old = self._sources.get(name)
        if old == source:
            return
        self._sources[name] = source
        path = (*self.path, name)
        if old is None:
            self._nodes.queue_node(QueuedNode(path, source.structure_family, {}, source=source))
        else:
            self._nodes.queue_source(path, source, old)

    def forget(self, name: str, reason: str) -> None:
        """Forget that the node of a file was registered, because the server has refused it.

        Raises
        ------
        DataError
            If the node is a table of events, which the run must have.
        """
        if self._sources.pop(name, None) is None:
            raise DataError(f"{self.path[1]}/{name}: tiled refuses it: {reason}")
