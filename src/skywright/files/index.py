"""Index files: which row is where in files that another program writes.

``NAME.h5`` is a file of columns with a row for each record: its identity, the number of its file,
offset and size in bytes, and optional further columns. ``NAME.files.h5`` has a row for each file,
with its path; a row of the index refers only to files that are already there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.closing import Closing
from skywright.errors import DataError
from skywright.files.beside import beside
from skywright.files.columns import Column, ColumnReader, ColumnWriter
from skywright.files.file_writer import TwoFilesWriter

IDENTITY = "/entry/index/identity"
FILE, OFFSET, SIZE = "/entry/index/file", "/entry/index/offset", "/entry/index/size"
FILE_NUMBER, FILE_PATH = "/entry/files/number", "/entry/files/path"
PATH_BYTES = 1024
COLUMNS = (
    Column(FILE, "<i4", attrs={"description": "number of the file in NAME.files.h5"}),
    Column(OFFSET, "<i8", attrs={"units": "byte", "description": "of the record in its file"}),
    Column(SIZE, "<i8", attrs={"units": "byte", "description": "of the record"}),
)
READ_GAP_BYTES = 4096
"""Records closer than this in a file are read with one call."""


def files_path(path: Path) -> Path:
    """Return the path of the list of files that belongs to an index."""
    return beside(path, ".files.h5")


class IndexWriter(TwoFilesWriter):
    """The one writer of an index; not thread-safe.

    Parameters
    ----------
    path
        Path of the new index; its directory must exist.
    identity
        Description of the identity, stored in the file.
    extra
        Further columns.

    Raises
    ------
    DataError
        If the file exists.
    OSError
        If it cannot be created.
    """

    def __init__(self, path: Path, identity: str = "record", extra: Sequence[Column] = ()) -> None:
        identity_column = Column(IDENTITY, "<i8", attrs={"description": identity})
        names = Column(FILE_PATH, f"S{PATH_BYTES}", rows_per_chunk=1)
        super().__init__(
            ColumnWriter(files_path(path), (names,), Column(FILE_NUMBER, "<i4")),
            lambda: ColumnWriter(path, (*COLUMNS, *extra), identity_column),
        )
        self._numbers: dict[Path, int] = {}

    def append(
        self, file: Path, identity: NDArray[Any], columns: Mapping[str, NDArray[Any]]
    ) -> None:
        """Append the records of one file.

        Parameters
        ----------
        file
            Absolute path.
        identity
            (n,) integers.
        columns
            Values of `OFFSET`, `SIZE` and the further columns, (n, *shape), by path.

        Raises
        ------
        DataError
            If a value is missing or does not fit, or the path is longer than `PATH_BYTES`.
        OSError
            If the disk is full or fails; no record is appended then.
        """
        if len(str(file).encode()) > PATH_BYTES:
            raise DataError(f"{file}: path longer than {PATH_BYTES} bytes, which an index can hold")
        if file not in self._numbers:
            self.referred.append(len(self._numbers), {FILE_PATH: str(file)})
            self._numbers[file] = len(self._numbers)
        number = np.full(len(identity), self._numbers[file])
        self.writer.append(identity, {FILE: number, **columns})


class IndexReader(Closing):
    """Base class of the readers of formats that have an index. A subclass overrides `decode`.

    Columns of the index are read from it; all other columns are decoded from the records.

    Parameters
    ----------
    path
        Path of the index.
    column
        Has no effect; `open_reader` passes it. The identity column of the index, which is flushed
        last, gives the number of complete rows.

    Raises
    ------
    DataError
        If the index cannot be opened.
    """

    def __init__(self, path: Path, column: str = IDENTITY) -> None:
        self.path = path
        self._index = ColumnReader(path, IDENTITY)
        self._files: list[Path] = []
        """Files by number, as far as they are known."""

    def decode(self, records: Sequence[memoryview], column: str) -> NDArray[Any]:
        """Return the values of a column in records, (n, *shape).

        Parameters
        ----------
        records
            The bytes of each record; at least one.
        column
            Name of the column in the stream resource.

        Raises
        ------
        DataError
            If there is no such column, or a record does not have this format.
        """
        raise NotImplementedError

    def count(self) -> int:
        """Return the number of records in the index."""
        return self._index.count()

    def read(self, column: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return records `start` to `stop` of a column.

        There are fewer if the index has fewer. If it has none of them, the shape may be (0,).

        Raises
        ------
        DataError
            If there is no such column, or a file is gone, is cut short or has another format.
        """
        if column.startswith("/entry/"):
            return self._index.read(column, start, stop)
        stop = self.count() if stop is None else min(stop, self.count())
        locations = [self._index.read(each, start, stop) for each in (FILE, OFFSET, SIZE)]
        # A column that another reader of this process has open may lack the newest rows
        count = min(map(len, locations))
        if not count:
            return np.empty(0)
        return self.decode(self._records(*(each[:count] for each in locations)), column)

    def close(self) -> None:
        """Close the index."""
        self._index.close()

    def _records(
        self, files: NDArray[Any], offsets: NDArray[Any], sizes: NDArray[Any]
    ) -> list[memoryview]:
        """Return the bytes of records; those that lie together are read together."""
        records: list[memoryview] = []
        ends = offsets + sizes
        apart = (
            (np.diff(files) != 0)
            | (offsets[1:] < ends[:-1])
            | (offsets[1:] - ends[:-1] > READ_GAP_BYTES)
        )
        for run in np.split(np.arange(len(files)), np.flatnonzero(apart) + 1):
            begin, end = int(offsets[run[0]]), int(ends[run[-1]])
            data = memoryview(self._bytes(self._file(int(files[run[0]])), begin, end))
            records += [data[offsets[i] - begin : ends[i] - begin] for i in run]
        return records

    def _bytes(self, file: Path, begin: int, end: int) -> bytes:
        try:
            with file.open("rb") as stream:
                stream.seek(begin)
                data = stream.read(end - begin)
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        if len(data) != end - begin:
            raise DataError(
                f"{file}: ends at byte {begin + len(data)}, expected {end} as {self.path} says"
            )
        return data

    def _file(self, number: int) -> Path:
        if number >= len(self._files):
            with ColumnReader(files_path(self.path), FILE_NUMBER) as reader:
                self._files = [Path(each.decode()) for each in reader.read(FILE_PATH).tolist()]
        if number >= len(self._files):
            raise DataError(f"{files_path(self.path)}: has no file {number}")
        return self._files[number]
