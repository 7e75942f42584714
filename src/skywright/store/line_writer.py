"""Turns the lines of a journal into rows and nodes of tiled, and decides when to send them."""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skywright.errors import DataError
from skywright.store.file_nodes import data_sources
from skywright.store.journal_contents import JournalContents, Stream
from skywright.store.rows import SequenceSorter, as_row, stored_data_keys, type_notes
from skywright.store.run_nodes import CatalogServer
from skywright.store.table_adapter import MIMETYPE
from skywright.store.tail import Line
from skywright.store.tiled_writer import RunWriter, StreamWriter

UPDATE_S = (1.0, 5.0)
"""Shortest and longest time between updates of the nodes of arrays and files in tiled, s: updates
are at the beginning of a full write, 1, 2, 4 and 8 s after it, then every 5 s. Rows of events are
sent at each step."""

log = logging.getLogger(__name__)


class LineWriter:
    """Writes the lines of a run's journal to tiled, from the first one on.

    Lines are in `contents` before they are written here. Events become rows of tables. The rows of
    files are in `Stream.external_rows`; `_register_files` makes the nodes of these files.
    """

    def __init__(
        self, run_writer: RunWriter, catalog: CatalogServer, contents: JournalContents, assets: Path
    ) -> None:
        self._run_writer = run_writer
        self._catalog = catalog
        self._contents = contents
        self._assets = assets
        self._count = 0  # number of normalized lines so far, as `JournalContents.add` counts them
        # By name of the stream
        self._revisions: dict[str, int] = {}  # `Stream.revision` when its node was queued
        self._sorters: dict[str, SequenceSorter] = {}
        self._waiting_descriptors: dict[str, list[dict[str, Any]]] = {}  # not queued yet
        self.began_monotonic = time.monotonic()
        self._updated_monotonic = float("-inf")
        self._keys_with_rows = 0  # number, in all streams, at the last update
        self._nodes_not_updated = False  # True: lines were written since the last update
        self._unreadable: dict[str, str] = {}  # why tiled cannot read files, by stream/data key

    def needs_full_write(self) -> bool:
        """Return whether a stream's `revision` has changed since its node was queued."""
        streams = self._contents.streams
        return any(streams[name].revision != rev for name, rev in self._revisions.items())

    def is_due(self) -> bool:
        """Return whether nodes of arrays and files wait for an update whose time has come."""
        return self._nodes_not_updated and self._period_is_over()

    def _period_is_over(self) -> bool:
        earliest, latest = UPDATE_S
        age = self._updated_monotonic - self.began_monotonic
        return time.monotonic() - self._updated_monotonic >= min(max(age, earliest), latest)

    def write(self, lines: Iterable[Line], updates_nodes: bool = False) -> None:
        """Write lines that are already in `contents`.

        With `updates_nodes`, or when the time of `UPDATE_S` is over, the nodes of arrays and files
        are updated; after the stop document `close` does it. They are also updated when a further
        data key has its first rows in a file.
        """
        # Set first: if an error ends this call, a later step must send what is queued (`is_due`)
        self._nodes_not_updated = True
        for line in lines:
            self._write(line)
        streams = [self._contents.streams[name] for name in self._run_writer.streams]
        keys = sum(len(stream.external_rows) for stream in streams)
        is_time = updates_nodes or self._period_is_over()
        due = keys > self._keys_with_rows or (is_time and self._contents.stop is None)
        self._send_streams(with_nodes=due)
        if due:
            self._keys_with_rows, self._updated_monotonic = keys, time.monotonic()
            self._nodes_not_updated = False

    def close(self) -> None:
        """Write all that is left, the stop document and the notes."""
        contents = self._contents
        for stream in contents.streams.values():
            self._queue_descriptors(stream)
        self._send_streams(with_nodes=True)
        for stream in contents.streams.values():
            for note in type_notes(stream):
                contents.note(note)
        self._run_writer.stop(contents.stop or {}, contents.notes, self._unreadable)

    def _send_streams(self, *, with_nodes: bool) -> None:
        """Send the events of all streams; `with_nodes`: update nodes of arrays and files too."""
        streams = [
            (writer, stored_data_keys(self._contents.streams[name]))
            for name, writer in self._run_writer.streams.items()
        ]
        for writer, data_keys in streams:
            writer.queue_events(data_keys)
            if with_nodes:
                self._register_files(writer, data_keys)
        self._send()
        if with_nodes:
            for writer, data_keys in streams:
                writer.send_arrays(data_keys)

    def _write(self, line: Line) -> None:
        name, doc = line.name, line.doc
        self._count += 1
        if self._count in self._contents.left_out:
            return
        if name == "descriptor":
            self._waiting_descriptors.setdefault(doc["name"], []).append(doc)
            if doc["name"] in self._revisions:
                self._queue_descriptors(self._contents.streams[doc["name"]])
        elif name == "event":
            stream = self._contents.stream_of[doc["descriptor"]]
            self._queue_descriptors(stream)
            for event in self._sorters[stream.name](self._count, doc):
                self._run_writer.streams[stream.name].add_event(as_row(stream, event))
        elif name == "stream_datum":
            stream = self._contents.stream_of[doc["descriptor"]]
            # The node of a stream with events is queued at its first event, which gives the types
            # of its columns
            if not stream.internal:
                self._queue_descriptors(stream)

    def _register_files(
        self, stream_writer: StreamWriter, data_keys: dict[str, dict[str, Any]]
    ) -> None:
        stream = self._contents.streams[stream_writer.path[1]]
        found = data_sources(
            stream,
            self._contents,
            data_keys,
            self._assets / "kept",
            tables=self._catalog.tables,
        )
        for name, source in found:
            if isinstance(source, DataError):
                self._unreadable[f"{stream.name}/{name}"] = str(source)
            else:
                self._unreadable.pop(f"{stream.name}/{name}", None)
                stream_writer.register(name, source)

    def _send(self) -> None:
        """Send what is queued; note which files the server cannot read."""
        without_table = set()
        for (name, node), reason in self._run_writer.send().items():
            stream = self._contents.streams[name]
            if node in stream.external_rows:
                self._unreadable[f"{name}/{node}"] = reason
            else:  # the table of the scalar columns of a file
                without_table.add(name)
        if not without_table:
            return
        log.info("tiled has no adapter for %s; each column is an array", MIMETYPE)
        self._catalog.tables = False
        for name in without_table:
            data_keys = stored_data_keys(self._contents.streams[name])
            self._register_files(self._run_writer.streams[name], data_keys)
        self._send()

    def _queue_descriptors(self, stream: Stream) -> None:
        """Queue the new descriptors of a stream, with its present types.

        The first one makes the node of the stream.
        """
        if stream.name not in self._revisions:
            self._revisions[stream.name] = stream.revision
            self._sorters[stream.name] = SequenceSorter(stream)
        for doc in self._waiting_descriptors.pop(stream.name, []):
            self._run_writer.descriptor(doc | {"data_keys": stored_data_keys(stream)})
