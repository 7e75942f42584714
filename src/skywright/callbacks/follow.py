"""Follow a run's documents to the frames that an analysis wants."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

from event_model import EventPage, unpack_event_page

from skywright.analysis import Analysis
from skywright.errors import DataError
from skywright.files.frames import FrameTable, Segment, Track
from skywright.files.readers import locate

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """The data keys that an analysis asks for.

    Parameters
    ----------
    inputs, identity, time
        As the analysis declares them; ``image`` stands for ``<device>_image``.
    keys
        Full data keys of inputs, where more than one would fit.
    optional
        Further inputs, taken where they are.
    """

    inputs: tuple[str, ...]
    identity: str
    time: str
    keys: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    @classmethod
    def of(cls, analysis: Analysis[Any] | type[Analysis[Any]], keys: Mapping[str, str]) -> Self:
        """Return what an analysis asks for."""
        return cls(
            tuple(analysis.inputs), analysis.identity, analysis.time, keys, tuple(analysis.optional)
        )

    def find(self, data_keys: Sequence[str]) -> dict[str, str] | None:
        """Find the wanted keys among those of a stream.

        Returns
        -------
        dict or None
            Full data key by wanted name; optional inputs, identity and time only where they are.
            None when an input is not there.

        Raises
        ------
        DataError
            If more than one key fits an input.
        """
        found = {}
        for name in (*self.inputs, *self.optional):
            fitting = [key for key in data_keys if _fits(key, self.keys.get(name, name))]
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


class RunIds:
    """Tells to which run a document belongs, for runs that interleave."""

    def __init__(self) -> None:
        self._runs: dict[str, str] = {}

    def of(self, name: str, doc: Document) -> str | None:
        """Return the uid of the run of a document; None if it is of no run seen."""
        if name == "start":
            return str(doc["uid"])
        if name == "stop":
            run = str(doc["run_start"])
            self._runs = {uid: owner for uid, owner in self._runs.items() if owner != run}
            return run
        if name in ("descriptor", "stream_resource", "resource"):
            if "run_start" in doc:
                self._runs[doc["uid"]] = str(doc["run_start"])
            return self._runs.get(doc["uid"])
        owner = doc.get("descriptor") or doc.get("resource") or doc.get("stream_resource") or ""
        return self._runs.get(owner)


class RawRun:
    """One raw run, as far as its documents have told.

    Parameters
    ----------
    start
        Its start document.
    wanted
        What an analysis asks for.
    keep_values
        Keep the values of events; else only count them.

    Attributes
    ----------
    table
        Where the frames are; None until a stream has all inputs.
    stop
        The stop document, once it came.
    trouble
        Why the inputs cannot be used; "" if they can.
    configuration
        Of the devices of the stream that has the inputs, by data key.
    """

    def __init__(self, start: Document, wanted: Wanted, *, keep_values: bool = True) -> None:
        self.start = start
        self.wanted = wanted
        self.table: FrameTable | None = None
        self.stop: Document | None = None
        self.trouble = ""
        self.keys: dict[str, str] = {}
        self.configuration: dict[str, Any] = {}
        self._keep_values = keep_values
        self._stream: str | None = None
        self._descriptors: set[str] = set()
        self._resources: dict[str, tuple[str, str, str, str]] = {}
        """By uid: data key, path, column, mimetype."""

    @property
    def uid(self) -> str:
        """Uid of the run."""
        return str(self.start["uid"])

    @property
    def is_wanted(self) -> bool:
        """The run has the inputs, be they usable or not."""
        return self.table is not None or bool(self.trouble)

    @property
    def event_keys(self) -> list[str]:
        """Full data keys of the inputs that come in events."""
        return [self.keys[name] for name in self.table.values] if self.table else []

    def __call__(self, name: str, doc: Document) -> None:
        """Take in one document of this run; it is not changed."""
        if name == "descriptor":
            self._descriptor(doc)
        elif name == "stream_resource":
            self._resource(doc)
        elif name == "stream_datum":
            self._datum(doc)
        elif name == "event":
            self._event(doc)
        elif name == "event_page":
            for event in unpack_event_page(cast(EventPage, doc)):
                self._event(event)
        elif name == "stop":
            self.stop = doc

    def wants(self, name: str, doc: Document) -> bool:
        """Say whether the analysis needs this document."""
        if name in ("event", "event_page"):
            return doc["descriptor"] in self._descriptors and bool(self.event_keys)
        if name == "stream_datum":
            return doc["stream_resource"] in self._resources
        return True

    def _descriptor(self, doc: Document) -> None:
        stream = doc.get("name", "primary")
        if stream == self._stream:  # the configuration has changed, nothing else
            self._descriptors.add(doc["uid"])
        if self.is_wanted or stream == "baseline":
            return
        data_keys = doc["data_keys"]
        try:
            found = self.wanted.find(list(data_keys))
            if found is not None:
                self.table = _empty_table(self.wanted, found, data_keys)
                self.keys = found
                for device in doc.get("configuration", {}).values():
                    self.configuration |= device.get("data", {})
                self._stream = stream
                self._descriptors.add(doc["uid"])
        except DataError as error:
            self.trouble = str(error)

    def _resource(self, doc: Document) -> None:
        if doc["data_key"] not in self.keys.values():
            return
        try:
            path, column = locate(doc)
        except DataError as error:
            self.trouble = f"{doc['data_key']}: {error}"
            return
        self._resources[doc["uid"]] = doc["data_key"], str(path), column, doc["mimetype"]

    def _datum(self, doc: Document) -> None:
        if doc["descriptor"] not in self._descriptors or doc["stream_resource"] not in (
            self._resources
        ):
            return
        key, path, column, mimetype = self._resources[doc["stream_resource"]]
        indices = doc["indices"]
        for name, track in self._tracks():
            if self.keys[name] == key:
                numbered = doc["seq_nums"]["stop"] > doc["seq_nums"]["start"]
                first = doc["seq_nums"]["start"] if numbered else track.count + 1
                start, stop = indices["start"], indices["stop"]
                track.add(Segment(path, column, start, stop, first, mimetype))

    def _event(self, doc: Document) -> None:
        if self.table is None or doc["descriptor"] not in self._descriptors:
            return
        for name, values in self.table.values.items():
            if not self._keep_values:
                values.clear()
            if self.keys[name] in doc["data"]:
                values[doc["seq_num"]] = doc["data"][self.keys[name]]

    def _tracks(self) -> Iterator[tuple[str, Track]]:
        table = self.table
        if table is not None:
            yield from table.tracks.items()
            if table.identity is not None:
                yield self.wanted.identity, table.identity
            if table.time is not None:
                yield self.wanted.time, table.time


def _empty_table(wanted: Wanted, found: Mapping[str, str], data_keys: Document) -> FrameTable:
    table = FrameTable()
    for name in (name for name in (*wanted.inputs, *wanted.optional) if name in found):
        external = data_keys[found[name]].get("external")
        if external is None:
            table.values[name] = {}
        elif external.startswith("STREAM:"):
            table.tracks[name] = Track()
        else:
            raise DataError(
                f"{found[name]}: external data of kind {external!r}, expected STREAM: "
                "(stream_resource and stream_datum documents)"
            )
    streams = {n for n, key in found.items() if "external" in data_keys[key]}
    table.identity = Track() if wanted.identity in streams else None
    table.time = Track() if wanted.time in streams else None
    return table
