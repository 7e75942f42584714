"""Documents of a run that a test composes by hand."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from event_model import ComposeStreamResourceBundle, compose_run


class ComposedRun:
    """A run whose documents go to `emit` as they are composed."""

    def __init__(self, emit: Callable[[str, Any], object], **start: Any) -> None:
        self.emit = emit
        self.run = compose_run(**start)
        self.uid: str = self.run.start_doc["uid"]
        self.streams: dict[str, Any] = {}
        """What composed each stream, by name."""
        emit("start", self.run.start_doc)

    def stream(self, name: str, **keys: Mapping[str, Any]) -> Self:
        """Declare a stream; a key is its data key without ``source``."""
        data_keys = {key: {"source": "test", "shape": [], **value} for key, value in keys.items()}
        bundle = self.run.compose_descriptor(
            name=name, data_keys=data_keys, object_keys={"device": list(keys)}
        )
        self.streams[name] = bundle
        self.emit("descriptor", bundle.descriptor_doc)
        return self

    def event(self, name: str = "primary", seq_num: int | None = None, **data: Any) -> None:
        """Emit one event; nothing is checked, so that broken devices can be imitated."""
        event = self.streams[name].compose_event(
            data=data, timestamps=dict.fromkeys(data, 1e9), seq_num=seq_num, validate=False
        )
        self.emit("event", event)

    def events(self, rows: Iterable[Mapping[str, Any]], name: str = "primary") -> Self:
        for row in rows:
            self.event(name, **row)
        return self

    def file(
        self,
        key: str,
        file: Path | str,
        *ranges: tuple[int, int, int],
        stream: str = "primary",
        mimetype: str = "application/x-hdf5",
        **parameters: Any,
    ) -> ComposeStreamResourceBundle:
        """Say that a file has rows of a data key; return the stream resource.

        `file` is a path or a URI, `ranges` are those of `rows`. By default the dataset has the name
        of the data key.
        """
        uri = file if isinstance(file, str) else f"file://localhost{quote(str(file))}"
        resource = self.run.compose_stream_resource(
            mimetype=mimetype, uri=uri, data_key=key, parameters={"dataset": key, **parameters}
        )
        self.emit("stream_resource", resource.stream_resource_doc)
        self.rows(resource, *ranges, stream=stream)
        return resource

    def rows(
        self,
        resource: ComposeStreamResourceBundle,
        *ranges: tuple[int, int, int],
        stream: str = "primary",
    ) -> None:
        """Announce rows of a file: their first index, the one after the last, the first seq_num."""
        for start, stop, seq_num in ranges:
            datum = resource.compose_stream_datum(
                indices={"start": start, "stop": stop},
                seq_nums={"start": seq_num, "stop": seq_num + stop - start},
                descriptor=self.streams[stream].descriptor_doc,
            )
            self.emit("stream_datum", datum)

    def collect(self, camera: Any, seq_num: int, stream: str = "primary") -> None:
        """Emit what a camera has to tell of new rows, the first of which has `seq_num`."""
        for name, doc in camera.collect_asset_docs():
            if name == "stream_datum":
                count = doc["indices"]["stop"] - doc["indices"]["start"]
                doc |= {"seq_nums": {"start": seq_num, "stop": seq_num + count}}
                doc |= {"descriptor": self.streams[stream].descriptor_doc["uid"]}
            self.emit(name, doc | {"run_start": self.uid})
