"""The documents of a stored run: from its journal, or made from its contents in the catalog.

From the catalog, only the documents that an analysis needs are made.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from tiled.client.container import Container

from skywright.callbacks.journal import journal_path
from skywright.callbacks.raw_run import Document
from skywright.store.export.contents import Stream, read_contents
from skywright.store.journal_contents import datum_fields
from skywright.store.tail import read_lines


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
    first_files: dict[str, Path] = {}
    for stream in contents.streams:
        yield from _stream_documents(stream, first_files)
    if contents.stop is not None:
        yield "stop", contents.stop


def _stream_documents(
    stream: Stream, first_files: dict[str, Path]
) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a stream.

    `first_files` has the first file of each data key, over all streams; it is added to.
    """
    uid = stream.descriptor["uid"]
    yield "descriptor", {**stream.descriptor, "name": stream.name}
    numbers = stream.column("seq_num")
    seq_nums = np.empty(0, np.int64) if numbers is None else numbers.read(slice(None))
    for column in stream.columns:
        total = sum(rows.stop - rows.start for rows in column.parts)
        of_rows = seq_nums if len(seq_nums) == total else 1 + np.arange(total)
        for part, rows in enumerate(column.parts):
            resource, count = f"{uid}/{column.name}/{part}", rows.stop - rows.start
            file = rows.asset.file
            # In a further file the first index is not always that of row 0, see `FirstIndices`
            row_0 = 0 if file == first_files.setdefault(column.name, file) else rows.start
            parameters = {"dataset": rows.asset.dataset}
            yield (
                "stream_resource",
                {
                    "uid": resource,
                    "data_key": column.name,
                    "mimetype": rows.asset.mimetype,
                    "uri": file.as_uri(),
                    "parameters": parameters | ({"slice": f"{row_0}:"} if row_0 else {}),
                },
            )
            own, of_rows = of_rows[:count], of_rows[count:]
            gaps = np.flatnonzero(np.diff(own) != 1) + 1  # where events were lost
            for begin, stop in pairwise((0, *gaps.tolist(), count)):
                if begin < stop:
                    ranges = datum_fields(
                        resource, rows.start - row_0 + begin, int(own[begin]), stop - begin
                    )
                    yield "stream_datum", {"descriptor": uid, **ranges}
    others = [c for c in stream.columns if not c.external and c.name not in ("seq_num", "time")]
    if numbers is not None and others:
        values = {column.name: column.read(slice(None)).tolist() for column in others}
        for row, number in enumerate(seq_nums.tolist()):
            data = {key: column[row] for key, column in values.items()}
            yield "event", {"descriptor": uid, "seq_num": number, "data": data}
