"""The documents of a stream whose rows are in one file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from skywright.files.stream_columns import StreamColumn

Emit = Callable[[str, Any], Any]


class StreamDocuments:
    """Emits the documents of a stream: the descriptor at once, the resources with the first rows.

    Parameters
    ----------
    run
        What event_model's `compose_run` returned.
    emit
        Takes ``(name, document)``, e.g. a `Journal`.
    stream, device
        Names of the stream and of its one device.
    path
        The file.
    columns
        Columns of the file, by data key.
    data_keys
        Data keys of the descriptor.

    Attributes
    ----------
    emitted
        Number of rows in documents.
    """

    def __init__(
        self,
        run: Any,
        emit: Emit,
        stream: str,
        device: str,
        path: Path,
        columns: Mapping[str, StreamColumn],
        data_keys: Mapping[str, Any],
    ) -> None:
        self._run, self._emit = run, emit
        self._path, self._columns = str(path), columns
        self._resources: list[Any] = []
        self.emitted = 0
        bundle = run.compose_descriptor(
            name=stream,
            data_keys=dict(data_keys),
            object_keys={device: list(data_keys)},
            configuration={},
            hints={},
        )
        self._descriptor = bundle.descriptor_doc
        emit("descriptor", self._descriptor)

    def emit_rows(self, count: int) -> None:
        """Emit the documents of the first `count` rows of the file, as far as they are new."""
        if count <= self.emitted:
            return
        if not self._resources:
            for key, column in self._columns.items():
                resource = self._run.compose_stream_resource(**column.resource(self._path, key))
                self._resources.append(resource)
                self._emit("stream_resource", resource.stream_resource_doc)
        for resource in self._resources:
            datum = resource.compose_stream_datum(
                indices={"start": self.emitted, "stop": count},
                seq_nums={"start": self.emitted + 1, "stop": count + 1},
                descriptor=self._descriptor,
            )
            self._emit("stream_datum", datum)
        self.emitted = count
