"""The one module that touches private names of bluesky-tiled-plugins: one run's writer."""

import copy
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from bluesky_tiled_plugins.utils import truncate_json_overflow
from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer, _RunWriter
from tiled.client.utils import ClientError
from tiled.structures.core import Spec

PRIVATE_NAMES = (
    "_append_with_retry",
    "_desc_nodes",
    "_external_data_cache",
    "_int_array_keys",
    "_int_dims_names",
    "_int_ragged_array_keys",
    "_internal_dims",
    "_internal_data_cache",
    "_stream_resource_cache",
    "_write_external_data",
    "_write_internal_data",
)
"""What of `_RunWriter` is used here; a test names the one that a new version has changed."""

JSON_INTEGERS = range(1 - 2**53, 2**53)
"""Integers that every JSON reader keeps; tiled's writer clips the others without a word."""


def storable(value: Any) -> Any:
    """Return metadata as tiled stores it unchanged; integers beyond 53 bits become their text."""
    if isinstance(value, Mapping):
        return {str(key): storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, int) and value not in JSON_INTEGERS:
        return str(value)
    return value


_NOT_SHOWN = ": its files are not shown: "


def not_shown(key: str, error: Exception) -> str:
    """Return the remark that tiled cannot show the files of a data key."""
    return f"{key}{_NOT_SHOWN}{error}"


def keys_not_shown(notes: Iterable[str]) -> set[str]:
    """Return the data keys of such remarks."""
    return {note.split(_NOT_SHOWN)[0] for note in notes if _NOT_SHOWN in note}


class RunWriter(_RunWriter):
    """Write one run; what has been given is sent by `commit`, all of it at once.

    Beyond its parent it takes over a run that is already in the catalog: the node stays, its
    children are dropped, so that replaying a journal gives the same run however often.

    Parameters
    ----------
    container
        tiled's client of the container of runs.
    """

    def __init__(self, container: Any) -> None:
        # Arrays of any size go to Zarr: in a table small ones lose their shape or dtype.
        super().__init__(container.include_data_sources(), batch_size=sys.maxsize, max_array_size=0)
        self._unshown: set[str] = set()

    def start(self, doc: dict[str, Any]) -> None:
        """Make the run's node, or take over the one that is there."""
        doc = dict(doc)
        self.access_tags = doc.pop("tiled_access_tags", None)
        extra = doc.pop("tiled_specs", None) or []
        specs = [Spec(s) if isinstance(s, str) else Spec(**s) for s in extra]
        specs.append(Spec("BlueskyRun", version="3.0"))
        metadata = {"start": storable(doc)}
        try:
            self.root_node = self.client.create_container(
                key=doc["uid"], metadata=metadata, specs=specs, access_tags=self.access_tags
            )
        except ClientError as error:
            if error.response.status_code != httpx.codes.CONFLICT:
                raise
            self.root_node = self.client[doc["uid"]]
            base = self.root_node.base
            base.delete_contents(list(base.keys()), recursive=True, external_only=False)
            base.replace_metadata(metadata=metadata, specs=specs, drop_revision=True)

    def descriptor(self, doc: dict[str, Any]) -> None:
        """Make the stream's node; large numbers in its metadata stay as they are."""
        doc = storable(doc)
        super().descriptor(doc)
        configuration = doc.get("configuration")
        if configuration and truncate_json_overflow(configuration) != configuration:
            node = self._desc_nodes[doc["uid"]]
            node.update_metadata(metadata=_unclipped(node.metadata, doc), drop_revision=True)

    def commit(self, data_keys: Mapping[str, dict[str, Any]]) -> None:
        """Send all that waits: one request a table, array and file of frames.

        Parameters
        ----------
        data_keys
            By stream: the data keys as they are stored. Streams may share a key's name and
            differ in its type.

        Raises
        ------
        httpx.HTTPError
            When it is not sure that everything was taken, once.
        """
        for stream, rows in self._internal_data_cache.items():
            if rows:
                keys = data_keys[stream].items()
                self.data_keys = dict(keys)
                arrays = {k for k, v in keys if v["dtype"] == "array" and "external" not in v}
                self._int_array_keys[stream] = arrays
                self._int_ragged_array_keys[stream] = set()
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
        while self._external_data_cache:
            uid = next(iter(self._external_data_cache))
            self._show_frames(uid, self._external_data_cache.pop(uid))

    def _show_frames(self, uid: str, doc: dict[str, Any]) -> None:
        if uid in self._unshown:
            return
        try:
            self._write_external_data(doc)
        except (NotImplementedError, ValueError, KeyError, TypeError, RuntimeError) as error:
            self._unshown.add(uid)
            key = self._stream_resource_cache[uid]["data_key"]
            self.notes.append(not_shown(key, error))

    def has_stream(self, name: str) -> bool:
        """Tell whether the stream has a node."""
        return name in self._desc_nodes

    def stop(self, doc: dict[str, Any]) -> None:
        """Close the run; all else has been committed."""
        super().stop(storable(copy.deepcopy(doc)))

    def _internal_dims(self, desc_name: str, shape: tuple[int | None, ...]) -> tuple[str, ...]:
        """Name axes by their length, two of one array differently: xarray wants it so."""
        names = self._int_dims_names[desc_name]
        lengths = shape[1:]
        keys = [(n, lengths[:axis].count(n)) for axis, n in enumerate(lengths)]
        return ("time", *(names.setdefault(key, f"dim_int_{len(names) + 1}") for key in keys))

    def _append_with_retry(self, df_client: Any, table: Any, desc_name: str) -> None:
        """Append once: after a lost reply the run is replayed, where the parent appends twice."""
        df_client.append_partition(0, table)


def _unclipped(metadata: Mapping[str, Any], doc: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a stream's metadata that the parent has clipped, as it was."""
    updates = [dict(update) for update in metadata.get("_config_updates", [])]
    if not updates:
        return {"configuration": doc["configuration"]}
    updates[-1]["configuration"] = doc["configuration"]
    return {"_config_updates": updates}


class Legacy:
    """Turn resource, datum and the events that refer to them into stream documents.

    Parameters
    ----------
    emit
        Called with each ``(name, doc)`` that results.
    """

    def __init__(self, emit: Any) -> None:
        self._normalizer = RunNormalizer()
        for name in ("stream_resource", "stream_datum", "descriptor"):
            self._normalizer.subscribe(emit, name)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take one document of any kind but start and stop."""
        self._normalizer(name, doc)

    def finish(self, stop: dict[str, Any]) -> None:
        """Emit what events have referred to before it was there."""
        self._normalizer.stop(stop)
