"""Closes the run of a writer that was killed: finds its last rows, writes its stop document."""

import copy
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from event_model import DocumentNames, schema_validators

from skywright.callbacks.journal import encode_line
from skywright.files.hdf5_flags import clear_flags
from skywright.files.index import files_path
from skywright.files.readers import HDF5, file_and_column, local_path, open_reader, readers
from skywright.store.journal_contents import JournalContents, Stream, datum_fields
from skywright.store.table_adapter import flushed_rows
from skywright.store.tail import Line, Tail, locked_if_dead

LATE = "_after_last_event"
"""Suffix of the name of a stream with events: the stream of its frames that have no event. Its
descriptor and stream resources have the same suffix in their uids."""

log = logging.getLogger(__name__)

Documents = Iterator[tuple[str, dict[str, Any]]]


def close_interrupted_run(path: Path, offset: int, contents: JournalContents) -> bool:
    """Append a stop document if the writer is dead. Return True if the journal has new lines.

    The files of the run get their consistency flags cleared, rows on disk that have no stream datum
    (or no event, in a stream with events) get one, and the run gets a stop document with the reason
    ``interrupted``. All of this is added to the journal, or nothing.

    Parameters
    ----------
    path
        A journal without a stop document.
    offset
        Number of bytes of the journal that are in `contents`.
    contents
        Contents of the journal so far; lines of an ingester that was killed here are among them.

    Raises
    ------
    OSError
        If the journal cannot be written.
    """
    with locked_if_dead(path) as dead:
        if not dead or contents.stop is not None:
            return False
        tail = Tail(path)
        tail.offset = offset
        if tail.read():
            return True  # lines were written after the last read
        last_write = path.stat().st_mtime
        try:
            documents = [*_closing_documents(contents, last_write)]
        except Exception as error:  # documents of other programs may lack anything
            log.warning("%s: rows of the interrupted run are not counted: %r", path, error)
            documents = [("stop", _stop(contents, last_write))]
        lines = b"".join(encode_line(name, doc) for name, doc in documents)
        with path.open("r+b", buffering=0) as file:
            file.truncate(offset)  # an incomplete line
            file.seek(offset)
            try:
                left = memoryview(lines)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(offset)
                raise
    log.warning("%s: its writer died; the run is closed as interrupted", path)
    return True


def _closing_documents(contents: JournalContents, last_write: float) -> Documents:
    # Each document is added to a copy: the rows of a further file follow those of the files before
    contents = copy.deepcopy(contents)
    for resources in _by_file(contents):
        rows = rows_on_disk(resources)
        if rows is None:
            continue
        found = (each for resource in resources for each in _unreported(contents, resource, rows))
        for name, doc in found:
            contents.add(Line(0, name, doc))
            yield name, doc
    counts = {name: _num_events(stream) for name, stream in contents.streams.items()}
    stop = _stop(contents, last_write) | {"num_events": counts}
    schema_validators[DocumentNames.stop].validate(stop)
    yield "stop", stop


def _stop(contents: JournalContents, last_write: float) -> dict[str, Any]:
    start = contents.start or {}
    began = start.get("time")
    return {
        "uid": str(uuid.uuid4()),
        # The clock may have been set back
        "time": max(last_write, began) if isinstance(began, int | float) else last_write,
        "run_start": start.get("uid"),
        "exit_status": "abort",
        "reason": "interrupted: the process that recorded this run ended without closing it",
    }


def _num_events(stream: Stream) -> int:
    rows = [sum(s.count for s in each.segments) for each in stream.external_rows.values()]
    return len(stream.seq_nums()) if stream.internal else max(rows, default=0)


def _by_file(contents: JournalContents) -> list[list[dict[str, Any]]]:
    """Return the stream resources of each file.

    A device that is read in several streams may have several resources of one data key. Only the
    last one is returned: rows without a stream datum continue it.
    """
    files: dict[str, dict[str, dict[str, Any]]] = {}
    for resource in contents.resources.values():
        known = resource["mimetype"] in readers() and "dataset" in resource["parameters"]
        if known and not resource["uid"].endswith(LATE):
            files.setdefault(resource["uri"], {})[resource["data_key"]] = resource
    return [[*keys.values()] for keys in files.values()]


def rows_on_disk(resources: list[dict[str, Any]]) -> int | None:
    """Return the number of complete rows of the one file of `resources`.

    None if they cannot be counted.

    The identity column is written and flushed last, so the shortest dataset counts.
    """
    try:
        names = {resource["parameters"]["dataset"] for resource in resources}
        if resources[0]["mimetype"] != HDF5:
            return _count_by_reader(resources[0])
        path = local_path(resources[0]["uri"])
        clear_flags(path)
        return flushed_rows(path, names)
    except Exception as error:  # a damaged file, or a reader of another package, may raise anything
        uri = resources[0]["uri"]
        log.warning("%s: rows of the interrupted run are not counted: %s", uri, error)
        return None


def _count_by_reader(resource: Mapping[str, Any]) -> int:
    """Return the number of complete rows of a file that the reader of its mimetype counts."""
    path, column = file_and_column(resource)
    for file in (path, files_path(path)):
        if file.exists():
            clear_flags(file)
    with open_reader(resource["mimetype"], path, column) as reader:
        return reader.count()


def _unreported(contents: JournalContents, resource: Mapping[str, Any], rows: int) -> Documents:
    """Yield a stream datum for the rows on disk that have none.

    In a stream with events these rows have no event, so they get a stream of their own.
    """
    key, uid = resource["data_key"], resource["uid"]
    uids = {  # all stream resources of this data key and file
        each["uid"]
        for each in contents.resources.values()
        if (each["data_key"], each["uri"]) == (key, resource["uri"])
    }
    streams = [
        stream
        for stream in contents.streams.values()
        if key in stream.data_keys and not stream.descriptor.endswith(LATE)
    ]
    if not streams:
        return
    # If a device is read in several streams, the rows continue the stream that has its last rows
    stream = max(streams, key=lambda stream: _reported(stream, key, uids))
    external_rows = stream.external_rows.get(key)
    segments = stream.catalog_rows(key)
    first = external_rows.first_index(uid) if external_rows else 0
    index = max((each.stop for each in segments if each.resource in uids), default=first)
    count = first + rows - index
    if count <= 0:
        return
    if not stream.internal:
        seq_num = _next_seq_num(stream, key)
        yield "stream_datum", _stream_datum(uid, stream.descriptor, index, seq_num, count)
        return
    # Some of these documents may be there already, by an ingester that was killed here
    late, late_uid = f"{stream.name}{LATE}", f"{uid}{LATE}"
    descriptor = f"{stream.descriptor}{LATE}"
    if late not in contents.streams:  # by another data key or file
        yield "descriptor", _late_descriptor(contents, stream, descriptor, late)
    if _reported(contents.streams[late], key, {late_uid}):
        return
    if late_uid not in contents.resources:
        taken = f"{index - first}:{index - first + count}"
        parameters = dict(resource["parameters"]) | {"slice": taken}
        yield "stream_resource", dict(resource) | {"uid": late_uid, "parameters": parameters}
    seq_num = _next_seq_num(contents.streams[late], key)
    # The index of the first row of a file is the same for all stream resources (`FirstIndices`)
    yield "stream_datum", _stream_datum(late_uid, descriptor, first, seq_num, count)


def _next_seq_num(stream: Stream, key: str) -> int:
    """Return the seq_num after those of the rows of a data key."""
    segments = stream.catalog_rows(key)
    return segments[-1].end if segments else 1


def _reported(stream: Stream, key: str, uids: set[str]) -> int:
    """Return the index after the last row of these stream resources in a stream, or 0."""
    rows = stream.external_rows.get(key)
    segments = rows.segments if rows else []
    return max((each.stop for each in segments if each.resource in uids), default=0)


def _late_descriptor(
    contents: JournalContents, stream: Stream, uid: str, name: str
) -> dict[str, Any]:
    assert contents.start is not None
    keys = {key: value for key, value in stream.data_keys.items() if "external" in value}
    return {
        "uid": uid,
        "time": contents.start["time"],
        "run_start": contents.start["uid"],
        "name": name,
        "data_keys": keys,
        "object_keys": {},
        "configuration": {},
        "hints": {},
    }


def _stream_datum(
    resource: str, descriptor: str, index: int, seq_num: int, rows: int
) -> dict[str, Any]:
    fields = datum_fields(resource, index, seq_num, rows)
    return {"uid": f"{resource}/{index}", "descriptor": descriptor, **fields}
