"""The documents of a stored run: from its journal, or made from its contents in the catalog.

From the catalog, only the documents that an analysis needs are made.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from skywright.callbacks.journal import journal_path
from skywright.callbacks.raw_run import Document
from skywright.store.export.contents import Stream, read_contents
from skywright.store.journal_contents import datum_fields
from skywright.store.tail import read_lines


class ColumnRows(NamedTuple):
    """The rows of a data key that are in files."""

    key: str
    mimetype: str
    parameters: Mapping[str, Any]
    """Of the stream resources, without ``slice``."""
    ranges: Sequence[tuple[str, int, int]]
    """URI of the file, first row and end of each range of rows, in the order of the rows."""


def run_documents(run: Container, journals: Path) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a stored run.

    A journal also has lines that are no documents: ``dtypes``, and broken lines, without
    a name.

    Parameters
    ----------
    run
        tiled client of the run.
    journals
        Directory of the journals. If the journal of the run is not in its ``done``, the catalog is
        read.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    path = journal_path(journals / "done", run.metadata["start"]["uid"])
    if path.is_file():
        return ((line.name, line.doc) for line in read_lines(path))
    return catalog_documents(run)


def catalog_documents(run: Container) -> Iterator[tuple[str, Document]]:
    """Yield documents of a run whose journal is not here, from its contents in the catalog.

    Frames that a resumed scan has taken again are in the catalog once, so that they count once.
    Values in files that this machine cannot open under their stored path are left out.

    Raises
    ------
    DataError
        If the server cannot give what its catalog names.
    """
    contents = read_contents(run)
    yield "start", contents.start
    first_files: dict[str, str] = {}
    for stream in contents.streams:
        yield from _stream_documents(stream, contents.start["uid"], first_files)
    if contents.stop is not None:
        yield "stop", contents.stop


def _stream_documents(
    stream: Stream, run: str, first_files: dict[str, str]
) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a stream of the run with this uid, see `rows_documents`."""
    uid = stream.descriptor["uid"]
    yield "descriptor", {**stream.descriptor, "name": stream.name}
    numbers = stream.column("seq_num")
    seq_nums = np.empty(0, np.int64) if numbers is None else numbers.read(slice(None))
    for column in stream.columns:
        if column.parts:
            asset = column.parts[0].asset
            ranges = [(rows.asset.file.as_uri(), rows.start, rows.stop) for rows in column.parts]
            rows = ColumnRows(column.name, asset.mimetype, {"dataset": asset.dataset}, ranges)
            yield from rows_documents(rows, run, uid, seq_nums, first_files)
    others = [c for c in stream.columns if not c.external and c.name not in ("seq_num", "time")]
    if numbers is not None and others:
        values = {column.name: column.read(slice(None)).tolist() for column in others}
        for row, number in enumerate(seq_nums.tolist()):
            data = {key: column[row] for key, column in values.items()}
            yield "event", {"descriptor": uid, "seq_num": number, "data": data}


def rows_documents(
    rows: ColumnRows,
    run: str | None,
    descriptor: str,
    seq_nums: NDArray[np.int64],
    first_files: dict[str, str],
) -> Iterator[tuple[str, Document]]:
    """Yield the stream documents of the rows of a data key.

    A range of rows of a further file has a slice if it does not begin at row 0, because the first
    index of a further file is not always that of row 0 (`FirstIndices`).

    Parameters
    ----------
    rows
        The rows.
    run, descriptor
        uids of the run and of the descriptor.
    seq_nums
        (n,) of the events of the stream. If there is another number of rows, these are numbered
        from 1 on.
    first_files
        URI of the first file of each data key, over all streams; it is added to.
    """
    total = sum(stop - start for _, start, stop in rows.ranges)
    of_rows = seq_nums if len(seq_nums) == total else 1 + np.arange(total)
    for number, (uri, start, stop) in enumerate(rows.ranges):
        resource = f"{descriptor}/{rows.key}/{number}"
        row_0 = 0 if uri == first_files.setdefault(rows.key, uri) else start
        yield (
            "stream_resource",
            {
                "uid": resource,
                "run_start": run,
                "data_key": rows.key,
                "mimetype": rows.mimetype,
                "uri": uri,
                "parameters": {**rows.parameters, **({"slice": f"{row_0}:"} if row_0 else {})},
            },
        )
        own, of_rows = of_rows[: stop - start], of_rows[stop - start :]
        gaps = np.flatnonzero(np.diff(own) != 1) + 1  # where events were lost
        for begin, end in pairwise((0, *gaps.tolist(), len(own))):
            if begin < end:
                first = start - row_0 + begin
                datum = datum_fields(resource, first, int(own[begin]), end - begin)
                datum |= {"uid": f"{resource}/{begin}", "descriptor": descriptor}
                yield "stream_datum", datum
