"""Readers of files by mimetype, so that runs can refer to files of any program.

A reader reads rows of the columns of one file. HDF5 is the first entry of the table; an instrument
declares its formats in `skywright.instruments.Instrument.readers`. A format without columns, such
as a raw file of packets, has an index file (`skywright.files.index`); the stream resource gives the
path of the index.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, cast
from urllib.parse import unquote, urlsplit

from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.instruments import instruments, resolve

HDF5 = "application/x-hdf5"


class Reader(Protocol):
    """An open file, which may still be written.

    The constructor takes the path of the file, and the path of the counted column, whose length is
    the number of complete rows: the identity if there is one. A reader with an index may ignore it.
    """

    def count(self) -> int:
        """Return the present number of complete rows."""

    def read(self, column: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return rows `start` to `stop` of a column, (n, *shape).

        Incomplete rows are left out. `stop` None reads up to the last complete row. If there are no
        rows, the shape may be (0,).

        Raises
        ------
        DataError
            If there is no such column, or the rows cannot be read.
        """

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...


MakeReader = Callable[[Path, str], Reader]


def readers() -> dict[str, str]:
    """Return the table: ``module:Class`` of each reader, by mimetype."""
    table = {HDF5: "skywright.files.columns:ColumnReader"}
    for instrument in instruments().values():
        table |= instrument.readers
    return table


def open_reader(mimetype: str, path: Path, counted_column: str) -> Reader:
    """Open the reader of a file.

    Parameters
    ----------
    mimetype
        Mimetype of the stream resource.
    path
        Path of the file.
    counted_column
        As for `Reader`.

    Raises
    ------
    DataError
        If there is no reader for the mimetype, or the file cannot be opened or has no such column.
    """
    make = _reader_class(mimetype, str(path))
    try:
        return make(path, counted_column)
    except DataError:
        raise
    except Exception as error:  # a reader of another package may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: the reader of {mimetype} cannot open it: {reason}") from error


def _reader_class(mimetype: str, where: str) -> MakeReader:
    """Return the reader of a mimetype; raise `DataError`, which begins with `where`, if none."""
    table = readers()
    if mimetype not in table:
        known = ", ".join(sorted(table))
        raise DataError(f"{where}: no reader for {mimetype!r}; there are readers for {known}")
    try:
        return cast(MakeReader, resolve(table[mimetype]))
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"{where}: the reader for {mimetype} cannot be imported: {error}"
        ) from error


def first_row(parameters: Mapping[str, Any]) -> int:
    """Return the first row of its file that a stream resource refers to.

    It is the start of the parameter ``slice``, ``start:stop``; without one it is 0. The store
    writes a slice for the rows of an interrupted run that have no event
    (`skywright.store.repair`), and for the rows of a further file of which the first rows are left
    out (`skywright.store.stored_run`). Other programs may write it as a list, with an item for each
    axis.

    Raises
    ------
    DataError
        If the slice is not start:stop of whole rows.
    """
    given = parameters.get("slice") or ":"
    axes = given if isinstance(given, list | tuple) else str(given).strip("()[] ").split(",")
    rows, *others = (str(axis).strip() for axis in axes)
    match = re.fullmatch(r"(\d*):(?:\d*|None)(?::1?)?", rows.replace("...", ":"))
    if match is None or not {*others} <= {":", "...", ""}:
        raise DataError(f"slice {given}: expected start:stop of whole rows")
    return int(match[1] or 0)


class FirstIndices:
    """For each file, the index that stream datums give to the row that `first_row` returns.

    So the row of an index is ``first_row(parameters) + index - FirstIndices.of(uri)``. The first
    index of the first file is 0, even if the run begins in the middle of the file. That of a
    further file is the one at which its first stream datum starts, even if its rows are taken again
    later: indices may continue from file to file or begin again.

    All streams of a run that have the data key share one object.
    """

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def note(self, uri: str, index: int) -> None:
        """Note where a stream datum starts; only the first one of each file counts."""
        self._first.setdefault(uri, index if self._first else 0)

    def of(self, uri: str) -> int:
        """Return the first index of a file; 0 before its first stream datum."""
        return self._first.get(uri, 0)


def file_and_column(resource: Mapping[str, Any]) -> tuple[Path, str]:
    """Return the file and the column of a stream resource.

    Raises
    ------
    DataError
        If there is no reader for its mimetype, its URI is no file:// URI, or its parameters
        name no column.
    """
    uri, parameters = resource["uri"], resource["parameters"]
    _reader_class(resource["mimetype"], uri)  # raises if there is no reader
    path = local_path(uri)
    column = parameters.get("dataset") or parameters.get("path")  # the name in older ophyd-async
    if not column:
        raise DataError(f"{uri}: the parameters name no dataset")
    return path, str(column)


def local_path(uri: str) -> Path:
    """Return the path of a file:// URI.

    A host in the URI is ignored, as in tiled: the machines of a beamline mount the same directories
    at the same paths.

    Raises
    ------
    DataError
        If it is another URI, or no file can have its path, which must be absolute.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # of a host in brackets
        raise DataError(f"{uri}: {error}; expected a file:// URI") from error
    path = unquote(parts.path)
    if parts.scheme != "file" or not path.startswith("/") or "\0" in path:
        raise DataError(f"{uri!r}: expected a file:// URI, with an absolute path of a file")
    return Path(path)
