"""Reads the documents of a run to find where the frames for an analysis are."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from event_model import EventPage, unpack_event_page

from skywright.analysis import Analysis, ArrayInput
from skywright.analysis.frames import FileRows, FrameTable, KeyRows
from skywright.errors import DataError
from skywright.files.readers import FirstIndices, file_and_column, first_row

Document = Mapping[str, Any]


@dataclass(frozen=True)
class RequiredKeys:
    """The data keys that an analysis asks for.

    Parameters
    ----------
    inputs, identity, time
        As the analysis declares them; ``image`` stands for ``<device>_image``.
    keys
        Full data key by required name, for an input that more than one key fits, and for an input,
        identity or time of another name.
    optional
        Further inputs, used if the stream has them.
    arrays
        Shape and dtype that array inputs must have; not checked for inputs in `keys`.
    """

    inputs: tuple[str, ...]
    identity: str
    time: str
    keys: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    arrays: Mapping[str, ArrayInput] = field(default_factory=dict)

    @classmethod
    def of(cls, analysis: Analysis[Any] | type[Analysis[Any]], keys: Mapping[str, str]) -> Self:
        """Return the data keys that an analysis requires."""
        return cls(
            tuple(analysis.inputs),
            analysis.identity,
            analysis.time,
            keys,
            tuple(analysis.optional),
            analysis.arrays,
        )

    def find(self, data_keys: Mapping[str, Document]) -> dict[str, str] | None:
        """Find the required keys among those of a stream.

        Parameters
        ----------
        data_keys
            Data keys of the stream's descriptor.

        Returns
        -------
        dict or None
            Full data key by required name. Optional inputs, identity and time are included if the
            stream has them. None if an input is missing.

        Raises
        ------
        DataError
            If more than one key fits an input.
        """
        found = {}
        for name in (*self.inputs, *self.optional):
            array = None if name in self.keys else self.arrays.get(name)
            wanted = self.keys.get(name, name)
            fitting = [
                key
                for key, described in data_keys.items()
                if _fits(key, wanted) and (array is None or array.fits(described))
            ]
            if name in self.keys and wanted in fitting:
                fitting = [wanted]
            if not fitting and name in self.optional:
                continue
            if not fitting:
                return None
            if len(fitting) > 1:
                raise DataError(
                    f"the data keys {', '.join(sorted(fitting))} all fit the input {name!r}; "
                    f"say which one: keys={{{name!r}: {fitting[0]!r}}}"
                )
            found[name] = fitting[0]
        first = found[self.inputs[0]]
        device = first[: -len(self.inputs[0])] if first.endswith(self.inputs[0]) else ""
        for name in (self.identity, self.time):
            key = self.keys.get(name, device + name)
            if key in data_keys:
                found[name] = key
        return found


def _fits(key: str, name: str) -> bool:
    return key == name or key.endswith(("_" + name, "-" + name))


class RawStream:
    """A stream of a raw run that has all inputs of an analysis, as of the documents so far.

    If they cannot be used, `error` has the reason.

    Parameters
    ----------
    run
        The run.
    name
        Name of the stream.
    keep_values
        True: keep the values of events. False: keep only the newest, to count the events.

    Attributes
    ----------
    table
        Where the frames are; None if the descriptor shows already that the inputs cannot be used.
    error
        Why the inputs cannot be used; "" if they can.
    keys
        Full data key by required name.
    configuration
        Configuration of the stream's devices in its first descriptor, by data key.
    """

    def __init__(self, run: "RawRun", name: str, *, keep_values: bool) -> None:
        self.run, self.name = run, name
        self.table: FrameTable | None = None
        self.error = ""
        self.keys: dict[str, str] = {}
        self.configuration: dict[str, Any] = {}
        self._keep_values = keep_values
        self._resources: dict[str, tuple[str, str, str, str, int]] = {}
        """Data key, path, column, mimetype and `first_row` of each stream resource, by uid."""

    @property
    def event_keys(self) -> list[str]:
        """Full data keys of the inputs that come in events."""
        return [self.keys[name] for name in self.table.values] if self.table else []

    def begin(self, found: Mapping[str, str], descriptor: Document) -> None:
        """Set the data keys of the inputs, and make the empty table."""
        self.keys = dict(found)
        for device in (descriptor.get("configuration") or {}).values():
            self.configuration |= (device or {}).get("data") or {}
        try:
            self.table = _empty_table(self.run.required, found, descriptor["data_keys"])
        except DataError as error:
            self.error = str(error)

    def resource(self, doc: Document) -> None:
        """Process a stream resource: note which file has the rows of a data key."""
        if doc["data_key"] not in self.keys.values():
            return
        try:
            path, column = file_and_column(doc)
            first = first_row(doc["parameters"])
        except DataError as error:
            self.error = f"{doc['data_key']}: {error}"
            return
        self._resources[doc["uid"]] = doc["data_key"], str(path), column, doc["mimetype"], first

    def datum(self, doc: Document, first_index: int) -> None:
        """Process a stream datum: add rows of a file to the table.

        Parameters
        ----------
        doc
            The stream datum.
        first_index
            Of its file, see `FirstIndices`.
        """
        if doc["stream_resource"] not in self._resources:
            return
        key, path, column, mimetype, first = self._resources[doc["stream_resource"]]
        indices, offset = doc["indices"], first - first_index
        for name, key_rows in self._all_in_files():
            if self.keys[name] == key:
                # Documents of other programs may leave seq_nums empty
                numbered = doc["seq_nums"]["stop"] > doc["seq_nums"]["start"]
                sequence = doc["seq_nums"]["start"] if numbered else key_rows.count + 1
                start, stop = (offset + indices[each] for each in ("start", "stop"))
                key_rows.add(FileRows(path, column, start, stop, sequence, mimetype))

    def event(self, doc: Document) -> None:
        """Process an event: store its values of the inputs."""
        if self.table is None:
            return
        for name, values in self.table.values.items():
            if not self._keep_values:
                values.clear()
            if self.keys[name] in doc["data"]:
                values[doc["seq_num"]] = doc["data"][self.keys[name]]

    @property
    def is_usable(self) -> bool:
        """Whether the inputs can be used, or could be for the first frames."""
        return self.table is not None and (not self.error or self.announced() > 0)

    def announced(self) -> int:
        """Return the number of frames in the documents so far."""
        return self.table.announced() if self.table is not None else 0

    def needs(self, name: str, doc: Document) -> bool:
        """Return whether the analysis needs this event, event page or stream datum."""
        if name == "stream_datum":
            return doc["stream_resource"] in self._resources
        return bool(self.event_keys)

    def _all_in_files(self) -> Iterator[tuple[str, KeyRows]]:
        """Yield the required names and the rows of `FrameTable.all_in_files`."""
        table = self.table
        if table is not None:
            yield from table.in_files.items()
            if table.identity is not None:
                yield self.run.required.identity, table.identity
            if table.time is not None:
                yield self.run.required.time, table.time


class RawRun:
    """One raw run, as of its documents so far.

    Parameters
    ----------
    start
        Its start document.
    required
        Data keys that the analysis requires.
    keep_values
        As for `RawStream`.

    Attributes
    ----------
    streams
        Streams that have all inputs, or an `error`, by name, in the order of their descriptors.
    stop
        The stop document; None before it. In the worker {} if the run was abandoned: no document
        comes then.
    """

    def __init__(
        self, start: Document, required: RequiredKeys, *, keep_values: bool = True
    ) -> None:
        self.start = start
        self.required = required
        self.streams: dict[str, RawStream] = {}
        self.stop: Document | None = None
        self._keep_values = keep_values
        self._by_descriptor: dict[str, RawStream] = {}
        self._resources: dict[str, Document] = {}
        """Stream resources by uid."""
        self._first_indices: dict[str, FirstIndices] = defaultdict(FirstIndices)
        """By data key."""

    @property
    def uid(self) -> str:
        """Uid of the run."""
        return str(self.start["uid"])

    @property
    def first_usable(self) -> str:
        """Name of the first stream whose inputs can be used; "" if there is none yet."""
        streams = list(self.streams.items())  # another thread may add to them
        return next((name for name, each in streams if each.is_usable), "")

    def __call__(self, name: str, doc: Document) -> None:
        """Process one document of this run; the document is not changed."""
        if name == "descriptor":
            self._descriptor(doc)
        elif name == "stream_resource":
            self._resources[doc["uid"]] = doc
            for each in self.streams.values():
                each.resource(doc)
        elif name == "stop":
            self.stop = doc
        elif name == "stream_datum":
            self._datum(doc)
        elif (stream := self.stream_of(doc)) is not None:
            if name == "event":
                stream.event(doc)
            elif name == "event_page":
                for event in unpack_event_page(cast(EventPage, doc)):
                    stream.event(event)

    def _datum(self, doc: Document) -> None:
        resource = self._resources.get(doc["stream_resource"])
        if resource is None:
            return
        first, uri = self._first_indices[resource["data_key"]], str(resource.get("uri"))
        first.note(uri, doc["indices"]["start"])
        if (stream := self.stream_of(doc)) is not None:
            stream.datum(doc, first.of(uri))

    def stream_of(self, doc: Document) -> RawStream | None:
        """Return the stream of an event or stream datum; None if it lacks inputs."""
        return self._by_descriptor.get(doc.get("descriptor", ""))

    def needs(self, name: str, doc: Document) -> bool:
        """Return whether the analysis needs this document."""
        if name not in ("event", "event_page", "stream_datum"):
            return True
        stream = self.stream_of(doc)
        return stream is not None and stream.needs(name, doc)

    def _descriptor(self, doc: Document) -> None:
        name = doc.get("name", "primary")
        if name in self.streams:  # the configuration has changed, nothing else
            self._by_descriptor[doc["uid"]] = self.streams[name]
            return
        if name == "baseline":  # read before and after the run: it has no frames
            return
        new = RawStream(self, name, keep_values=self._keep_values)
        try:
            found = self.required.find(doc["data_keys"])
        except DataError as error:
            new.error = str(error)
        else:
            if found is None:
                return
            new.begin(found, doc)
            # Those that came before this descriptor: an earlier stream may have the same device
            for resource in self._resources.values():
                new.resource(resource)
        self.streams[name] = self._by_descriptor[doc["uid"]] = new


def _empty_table(
    required: RequiredKeys, found: Mapping[str, str], data_keys: Document
) -> FrameTable:
    table = FrameTable()
    for name in (name for name in (*required.inputs, *required.optional) if name in found):
        data_key = data_keys[found[name]]
        if _is_streamed(data_key):
            table.in_files[name] = KeyRows()
        elif data_key.get("external") is None:
            table.values[name] = {}
        else:
            raise DataError(
                f"{found[name]}: external data of kind {data_key['external']!r}, expected STREAM: "
                "(stream_resource and stream_datum documents)"
            )
    streamed = {name for name, key in found.items() if _is_streamed(data_keys[key])}
    table.identity = KeyRows() if required.identity in streamed else None
    table.time = KeyRows() if required.time in streamed else None
    return table


def _is_streamed(data_key: Document) -> bool:
    """Return whether the values come in stream documents, the one kind of external data we read."""
    return str(data_key.get("external", "")).startswith("STREAM:")
