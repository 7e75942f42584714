"""The documents of a stored run, as they were emitted: from its journal, or made of the catalog."""

import json
from collections.abc import Iterator
from pathlib import Path

from tiled.client.container import Container

from skywright.callbacks.journal import journal_path
from skywright.callbacks.raw_run import Document
from skywright.store.export.contents import Stream, read_contents


def run_documents(run: Container, journals: Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a stored run.

    Parameters
    ----------
    run
        tiled client of the run.
    journals
        Directory of the journals; if that of the run is not there, the catalog is read.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    path = journal_path(journals / "done", run.metadata["start"]["uid"])
    return journal_documents(path) if path.is_file() else catalog_documents(run)


def journal_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a finished journal: every frame, just as it was told live."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                name, doc = json.loads(line)
                yield name, doc


def catalog_documents(run: Container) -> Iterator[tuple[str, Document]]:
    """Yield documents of a run whose journal is not here, from its contents in the catalog.

    Frames that a resumed scan has taken again are in the catalog once, so that they count once.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    contents = read_contents(run)
    yield "start", contents.start
    for stream in contents.streams:
        yield from _stream_documents(stream)
    if contents.stop is not None:
        yield "stop", contents.stop


def _stream_documents(stream: Stream) -> Iterator[tuple[str, Document]]:
    uid = stream.descriptor["uid"]
    yield "descriptor", {**stream.descriptor, "name": stream.name}
    for column in stream.columns:
        number = 1
        for part, rows in enumerate(column.parts):
            resource, stop = f"{uid}/{column.name}/{part}", number + rows.stop - rows.start
            yield (
                "stream_resource",
                {
                    "uid": resource,
                    "data_key": column.name,
                    "mimetype": rows.asset.mimetype,
                    "uri": rows.asset.file.as_uri(),
                    "parameters": {"dataset": rows.asset.dataset},
                },
            )
            yield (
                "stream_datum",
                {
                    "stream_resource": resource,
                    "descriptor": uid,
                    "indices": {"start": rows.start, "stop": rows.stop},
                    "seq_nums": {"start": number, "stop": stop},
                },
            )
            number = stop
    numbers = stream.column("seq_num")
    others = [c for c in stream.columns if not c.parts and c.name not in ("seq_num", "time")]
    if numbers is not None and others:
        values = {column.name: column.read(slice(None)).tolist() for column in others}
        for row, number in enumerate(numbers.read(slice(None)).tolist()):
            data = {key: column[row] for key, column in values.items()}
            yield "event", {"descriptor": uid, "seq_num": number, "data": data}
