"""Writes one run to tiled with few requests."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pyarrow
from bluesky_tiled_plugins.utils import split_table
from tiled.client.utils import ClientError, handle_error
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import DataSource
from tiled.utils import safe_json_dump

CLOSE = "/custom/close_run/"
"""Route of our own server that closes all streams of a run (`skywright.store.routes`)."""
JSON_INTEGERS = range(1 - 2**53, 2**53)
"""Integers that every JSON reader keeps."""
UNREADABLE_FILES = "unreadable_files"
"""Metadata key of a run: data keys whose files tiled cannot read, with the reason."""
TABLE_COLUMNS_MAX = 1024
"""Columns of a table; DuckDB and PostgreSQL take little more."""


def storable(value: Any) -> Any:
    """Return metadata as tiled stores it unchanged; integers beyond 53 bits become their text."""
    if isinstance(value, Mapping):
        return {str(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, int) and value not in JSON_INTEGERS:
        return str(value)
    return value


class RunWriter:
    """Write one run.

    Parameters
    ----------
    container
        tiled's client of the container of runs.
    start
        The start document.
    """

    def __init__(self, container: Any, start: Mapping[str, Any]) -> None:
        doc = dict(start)
        self._tags = doc.pop("tiled_access_tags", None)
        extra = doc.pop("tiled_specs", None) or []
        self._container = container
        self._specs = [Spec(s) if isinstance(s, str) else Spec(**s) for s in extra]
        self._specs.append(Spec("BlueskyRun", version="3.0"))
        self._metadata = {"start": storable(doc)}
        self._uid = doc["uid"]
        self._node: Any = None
        self.streams: dict[str, StreamWriter] = {}

    def create(self) -> Any:
        """Create the run's node; return the node that existed before, None if it is new."""
        try:
            self._node = self._container.create_container(
                key=self._uid,
                metadata=self._metadata,
                specs=self._specs,
                access_tags=self._tags,
            )
        except ClientError as error:
            if error.response.status_code != httpx.codes.CONFLICT:
                raise
            self._node = self._container[self._uid]
            return self._node
        return None

    def clear(self) -> None:
        """Delete the children of the existing node and replace its metadata."""
        base = self._node.base
        base.delete_contents(list(base.keys()), recursive=True, external_only=False)
        base.replace_metadata(metadata=self._metadata, specs=self._specs, drop_revision=True)

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Create a stream's node, or add the configuration of a later descriptor."""
        doc = storable(doc)
        stream = self.streams.get(doc["name"])
        if stream is not None:
            stream.configure(doc)
            return
        metadata = {k: v for k, v in doc.items() if k not in ("name", "object_keys", "run_start")}
        node = self._node.create_container(
            key=doc["name"],
            metadata=metadata,
            specs=[Spec("BlueskyEventStream", version="3.0"), Spec("composite")],
            access_tags=self._tags,
        ).base
        self.streams[doc["name"]] = StreamWriter(node, self._tags)

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
            By data key, why tiled cannot read its files. It is stored as `UNREADABLE_FILES`, and
            as notes.
        """
        metadata = {"stop": storable(doc)}
        reasons = dict(unreadable or {})
        if reasons:
            metadata[UNREADABLE_FILES] = reasons
        sentences = [f"{key}: tiled cannot read its files: {why}" for key, why in reasons.items()]
        if notes := list(dict.fromkeys([*notes, *sentences])):
            metadata["notes"] = notes
        self._node.update_metadata(metadata=metadata, drop_revision=True)
        self._close()

    def _close(self) -> None:
        """Close the streams of updates; our server has a route that does so in one request."""
        http = self._node.context.http_client
        uri = self._node.uri.replace("/api/v1/metadata/", CLOSE, 1)
        if http.delete(uri).status_code == httpx.codes.OK:
            return
        for stream in self.streams.values():
            for node in (*stream.nodes.values(), stream.node):
                node.close_stream()
        self._node.close_stream()


class StreamWriter:
    """Write one stream: its events, and the nodes of its files.

    Parameters
    ----------
    node
        tiled's client of the stream, as a plain container.
    access_tags
        Access tags of all nodes.
    """

    def __init__(self, node: Any, access_tags: Any) -> None:
        self.node = node
        self.nodes: dict[str, Any] = {}
        self._tags = access_tags
        self._rows: list[dict[str, Any]] = []
        self._arrays: dict[str, list[Any]] = {}
        self._axes: dict[tuple[int, int], str] = {}
        self._sources: dict[str, DataSource] = {}
        self._updates: list[dict[str, Any]] = []

    def configure(self, doc: Mapping[str, Any]) -> None:
        """Store the configuration of a later descriptor."""
        self._updates.append({k: doc[k] for k in ("uid", "time", "configuration") if doc.get(k)})
        self.node.update_metadata({"_config_updates": self._updates}, drop_revision=True)

    def event(self, row: Mapping[str, Any]) -> None:
        """Add one event, as `rows.as_row` makes it; `send_rows` sends it."""
        times = {f"ts_{key}": stamp for key, stamp in row["timestamps"].items()}
        self._rows.append({"seq_num": row["seq_num"], "time": row["time"], **row["data"], **times})

    def send_rows(self, data_keys: Mapping[str, Any]) -> None:
        """Append the scalars of the queued events, in one request.

        Parameters
        ----------
        data_keys
            As they are stored: types and shapes that hold for all events so far.
        """
        rows, self._rows = self._rows, []
        if not rows:
            return
        for key, data_key in data_keys.items():
            if data_key["dtype"] == "array" and "external" not in data_key:
                # In a table small arrays lose their shape or element type.
                self._arrays.setdefault(key, []).extend(row.pop(key) for row in rows)
        table = pyarrow.Table.from_pylist(rows)
        table = table.cast(pyarrow.schema([_null_as_text(field) for field in table.schema]))
        if table.num_columns <= TABLE_COLUMNS_MAX:
            self._append("internal", table, data_keys)
            return
        for number, part in enumerate(split_table(table, TABLE_COLUMNS_MAX)):
            self._append(f"internal_{number}", part, data_keys)

    def _append(self, name: str, table: Any, data_keys: Mapping[str, Any]) -> None:
        if name not in self.nodes:
            described = {k: v for k, v in data_keys.items() if k in table.column_names}
            self.nodes[name] = self.node.create_appendable_table(
                schema=table.schema,
                key=name,
                metadata=storable(described),
                access_tags=self._tags,
            )
        append(self.nodes[name], table)

    def send_arrays(self, data_keys: Mapping[str, Any]) -> None:
        """Append the arrays of the events sent, one request per array."""
        waiting, self._arrays = self._arrays, {}
        for key, values in waiting.items():
            array = np.array(values, dtype=data_keys[key]["dtype_numpy"])
            node = self.nodes.get(key)
            if node is not None:
                node.patch(array, offset=node.shape[:1], extend=True)
                continue
            self.nodes[key] = self.node.write_array(
                array,
                key=key,
                metadata=storable(data_keys[key]) | {"dtype_numpy": str(array.dtype)},
                dims=self._dims(array.shape[1:]),
                access_tags=self._tags,
            )

    def _dims(self, lengths: tuple[int, ...]) -> tuple[str, ...]:
        """Return dimension names.

        xarray needs equal names for equal lengths, and different names within one array.
        """
        axes = [(n, lengths[:axis].count(n)) for axis, n in enumerate(lengths)]
        names = (self._axes.setdefault(axis, f"dim_int_{len(self._axes) + 1}") for axis in axes)
        return ("time", *names)

    def register(self, name: str, source: DataSource) -> None:
        """Create or update the node `name`. Does nothing if it is unchanged.

        Raises
        ------
        tiled.client.utils.ClientError
            With status 415 when the server has no adapter for the mimetype.
        """
        old = self._sources.get(name)
        if old == source:
            return
        if old is None:
            self.nodes[name] = self.node.new(
                source.structure_family, [source], key=name, access_tags=self._tags
            )
        else:
            self._change(self.nodes[name], source, old)
        self._sources[name] = source

    def _change(self, node: Any, source: DataSource, old: DataSource) -> None:
        """Update a data source. For arrays, tell subscribers which rows are new."""
        new = replace(source, id=node.data_sources()[0].id)
        patch = None
        if source.structure_family == StructureFamily.array:
            rows, *rest = source.structure.shape
            before = old.structure.shape[0]
            patch = {
                "patch_shape": ",".join(map(str, (rows - before, *rest))),
                "patch_offset": ",".join(map(str, (before, *(0 for _ in rest)))),
            }
        uri = node.uri.replace("/metadata/", "/data_source/", 1)
        content = safe_json_dump({"data_source": new})
        handle_error(node.context.http_client.put(uri, content=content, params=patch))


def append(table: Any, rows: pyarrow.Table) -> None:
    """Append rows; not repeated after a lost reply, because the whole run is written again."""
    table.append_partition(0, rows)


def _null_as_text(field: pyarrow.Field) -> pyarrow.Field:
    return field.with_type(pyarrow.string()) if pyarrow.types.is_null(field.type) else field
