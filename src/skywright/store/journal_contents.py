"""Contents of a journal: streams, column types, and the valid event of each seq_num."""

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skywright.errors import DataError
from skywright.files.readers import FirstIndices, first_row
from skywright.files.segments import Segment, append, between, supersede
from skywright.store.columns import ColumnType, declared, declared_dtype, widen
from skywright.store.tail import Line

SEQ_NUM_GAP_MAX = 1_000_000
"""Maximum number of consecutive seq_nums without an event. `Stream.line_of` has an element for each
of them, so that a damaged seq_num could take all memory."""


def datum_fields(resource: str, index: int, seq_num: int, rows: int) -> dict[str, Any]:
    """Return the fields of a stream datum that name its rows.

    Parameters
    ----------
    resource
        uid of the stream resource.
    index, seq_num
        Index and sequence number of the first row.
    rows
        Number of rows.
    """
    return {
        "stream_resource": resource,
        "indices": {"start": index, "stop": index + rows},
        "seq_nums": {"start": seq_num, "stop": seq_num + rows},
    }


@dataclass(frozen=True)
class ResourceRows(Segment):
    """Consecutive rows of one file, which belong to consecutive seq_nums."""

    resource: str
    """uid of the stream resource."""
    start: int
    """Index of the first row, as stream datums count."""
    stop: int
    sequence: int = 1
    """Sequence number of the first row."""


class ExternalRows:
    """The rows of an external data key in its files: each seq_num once, in order of seq_num."""

    def __init__(self, first: FirstIndices) -> None:
        self.segments: list[ResourceRows] = []
        self.skips_rows = False
        """True if rows are missing in front of rows that are used: a resumed run took them again,
        they belong to another stream, one of several files has a slice, or a file before the last
        one is longer than its stream datums say (`file_nodes.note_longer_files`)."""
        self.next_row: dict[str, int] = {}
        """Row after the last one that a stream datum named, by URI of the file."""
        self._has_slice = False
        self._file_of: dict[str, str] = {}
        """URI of each stream resource, by its uid."""
        self._first = first

    def first_index(self, resource: str) -> int:
        """Return the first index of a file, see `FirstIndices`."""
        return self._first.of(self._file_of.get(resource, ""))

    def add(self, doc: dict[str, Any], file: str, row_0: int = 0) -> bool:
        """Add the rows of a stream datum in `file`, whose slice begins at row `row_0`.

        Return True if they replace earlier rows, or are the first after rows that are left out.
        """
        for name in ("indices", "seq_nums"):
            for value in (doc[name]["start"], doc[name]["stop"]):
                if not isinstance(value, int):
                    raise DataError(f"{name}: {value!r} is no whole number")
        first, rows = doc["indices"]["start"], doc["indices"]["stop"] - doc["indices"]["start"]
        if rows <= 0:
            return False
        last = self.segments[-1] if self.segments else None
        seq_num, end = doc["seq_nums"]["start"], doc["seq_nums"]["stop"]
        if end <= seq_num:  # documents of other programs may leave seq_nums empty
            seq_num = last.end if last else 1
        new = ResourceRows(doc["stream_resource"], first, first + rows, seq_num)
        self._file_of[new.resource] = file
        self._first.note(file, first)
        row = first - self.first_index(new.resource)
        follows = row == self.next_row.get(file, 0)
        self.next_row[file] = row + rows
        self._has_slice |= row_0 > 0
        # tiled takes the slice of the first file, and applies it to the rows of all files together
        follows &= not (self._has_slice and len(self.next_row) > 1)
        begins_to_skip = not follows and not self.skips_rows
        self.skips_rows |= begins_to_skip
        if last is None or seq_num >= last.end:
            append(self.segments, new)
            return begins_to_skip
        self.skips_rows = True
        self.segments = supersede(self.segments, new)
        return True


@dataclass
class Stream:
    """One stream of a run, as far as its journal has been read."""

    name: str
    descriptor: str
    """uid of its first descriptor."""
    data_keys: dict[str, dict[str, Any]]
    columns: dict[str, ColumnType] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)
    """Numpy dtype from the descriptor, or from a ``dtypes`` line, by data key."""
    revision: int = 0
    """Increases when rows that were written have to be written again."""
    line_of: array = field(default_factory=lambda: array("q"))
    """Line of the valid event, by seq_num - first_seq; 0: no event. Lines are counted as
    `JournalContents.add` gets them, one event each."""
    first_seq: int = 1
    external_rows: dict[str, ExternalRows] = field(default_factory=dict)
    """The rows of files that belong to each seq_num, by data key."""

    @property
    def internal(self) -> list[str]:
        """Keys whose values are in events."""
        return [key for key, value in self.data_keys.items() if "external" not in value]

    def seq_nums(self) -> list[int]:
        """Return the seq_nums that have an event, ascending."""
        return [self.first_seq + i for i, line in enumerate(self.line_of) if line]

    def catalog_rows(self, key: str) -> list[ResourceRows]:
        """Return the rows of the files of a data key that the catalog shows.

        Where events and files share a stream each event has one row of each file; a row whose
        event is not known would make their lengths differ, and readers fail.
        """
        segments = self.external_rows[key].segments if key in self.external_rows else []
        if not self.internal:
            return segments
        return [part for numbers in self._ranges() for part in between(segments, *numbers)]

    def skips_rows(self, key: str) -> bool:
        """Return whether rows are missing in front of rows of a data key that are used."""
        rows = self.external_rows[key]
        if rows.skips_rows or not self.internal:
            return rows.skips_rows
        has_gaps = len(self._ranges()) > 1
        return has_gaps or any(each.sequence < self.first_seq for each in rows.segments)

    def _ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of seq_nums that have events, each as its first one and its end."""
        with_event = np.flatnonzero(np.asarray(self.line_of)) + self.first_seq
        if not len(with_event):
            return []
        runs = np.split(with_event, np.flatnonzero(np.diff(with_event) > 1) + 1)
        return [(int(run[0]), int(run[-1]) + 1) for run in runs]

    def is_last_line_of(self, seq_num: int, line: int) -> bool:
        """Return whether the event on `line` is the last one of `seq_num`."""
        return bool(self.line_of[seq_num - self.first_seq] == line)

    def has_event(self, seq_num: int) -> bool:
        """Return whether an event of `seq_num` is known."""
        index = seq_num - self.first_seq
        return 0 <= index < len(self.line_of) and self.line_of[index] != 0

    def add_event(self, line: int, event: dict[str, Any]) -> None:
        """Note one event: its line, and the types of columns that its values need."""
        values = {key: event["data"].get(key) for key in self.internal}
        stamps = [event["time"], *(event["timestamps"].get(key) for key in self.internal)]
        # Raises if a time is no number; such an event gets no row
        _ = [float(stamp) for stamp in stamps if stamp is not None]
        for key, value in values.items():
            old = self.columns.get(key)
            new = widen(old, value, self.declared.get(key, ""))
            if new is not old:
                self.columns[key] = new
                # At the first event nothing is written yet that would have to be written again
                if new != old and self.line_of:
                    self.revision += 1
        # Last, because a value may raise: `SequenceSorter` waits for each event that is noted here
        self._note_row(event["seq_num"], line)

    def _note_row(self, seq_num: int, line: int) -> None:
        if not self.line_of:
            self.first_seq = seq_num
        gap = max(self.first_seq - seq_num, seq_num - self.first_seq - len(self.line_of))
        if gap > SEQ_NUM_GAP_MAX:
            raise DataError(f"seq_num {seq_num} is {gap} away from those of all other events")
        if seq_num < self.first_seq:
            self.line_of = array("q", bytes(8 * (self.first_seq - seq_num))) + self.line_of
            self.first_seq = seq_num
        index = seq_num - self.first_seq
        if index < len(self.line_of):
            self.revision += 1  # taken again, or out of order
        else:
            self.line_of.extend([0] * (gap + 1))
            self.revision += bool(gap and self.external_rows)  # a row of a file is left out
        self.line_of[index] = line

    def add_external_rows(
        self, resource: dict[str, Any], doc: dict[str, Any], first: FirstIndices
    ) -> None:
        """Add the rows of a file in a stream datum; `first` is that of its data key."""
        key, file = resource["data_key"], str(resource.get("uri"))
        if key not in self.data_keys:
            raise KeyError(f"no data key {key} in the descriptor of {self.name}")
        try:
            row_0 = first_row(resource.get("parameters", {}))
        except DataError:  # a slice of other than whole rows
            row_0 = 0
        if self.external_rows.setdefault(key, ExternalRows(first)).add(doc, file, row_0):
            self.revision += 1


class JournalContents:
    """Contents of a journal so far, from the lines that `DocumentNormalizer` returns."""

    def __init__(self) -> None:
        self.start: dict[str, Any] | None = None
        self.stop: dict[str, Any] | None = None
        self.streams: dict[str, Stream] = {}
        self._first_indices: dict[str, FirstIndices] = defaultdict(FirstIndices)
        """By data key."""
        self.stream_of: dict[str, Stream] = {}
        self.resources: dict[str, dict[str, Any]] = {}
        """Stream resources by uid."""
        self.notes: dict[str, None] = {}
        """Notes for the run's metadata, each once, in order."""
        self.left_out: set[int] = set()
        """Lines that were not understood, as `add` counts them."""
        self._count = 0

    def add(self, line: Line) -> None:
        """Add the next line; one that cannot be understood becomes a note, and is in `left_out`."""
        self._count += 1
        if not line.name:
            self.note(f"line {line.number} of the journal is broken: {line.doc['error']}")
            return
        try:
            self._add(line)
        except Exception as error:  # the lines after it must not be lost with it
            self.left_out.add(self._count)
            self.note(
                f"line {line.number} of the journal, {line.name}: not understood, left out "
                f"({type(error).__name__}: {error})"
            )

    def note(self, text: str) -> None:
        """Add a note for the run's metadata, once."""
        self.notes[text] = None

    def _add(self, line: Line) -> None:
        name, doc = line.name, line.doc
        if name == "start":
            self.start = doc
        elif name == "stop":
            self.stop = doc
        elif name == "descriptor":
            self._add_descriptor(doc)
        elif name == "note":
            self.note(doc["text"])
        elif name == "dtypes":
            self.stream_of[doc["descriptor"]].declared.update(doc["dtype_numpy"])
        elif name == "event":
            self.stream_of[doc["descriptor"]].add_event(self._count, doc)
        elif name == "stream_resource":
            self.resources[doc["uid"]] = doc
        elif name == "stream_datum":
            stream = self.stream_of[doc["descriptor"]]
            resource = self.resources[doc["stream_resource"]]
            stream.add_external_rows(resource, doc, self._first_indices[resource["data_key"]])

    def _add_descriptor(self, doc: dict[str, Any]) -> None:
        stream = self.streams.get(doc["name"])
        if stream is None:
            stream = Stream(doc["name"], doc["uid"], doc["data_keys"])
            for key in stream.internal:
                stream.declared[key] = declared_dtype(doc["data_keys"][key])
                column = declared(doc["data_keys"][key])
                if column is not None:
                    stream.columns[key] = column
            self.streams[doc["name"]] = stream  # each of its data keys is well-formed
        self.stream_of[doc["uid"]] = stream
