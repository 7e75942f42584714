"""tiled's adapter for files of columns: all their scalar columns are one table.

The embedded server names it in ``adapters_by_mimetype``; to use it in another tiled server, add
``application/x-skywright-columns: "skywright.store.table_adapter:ColumnsAdapter"`` to its
configuration.

A table in tiled has a schema and no number of rows. So a file that grows needs no request: each
read sees the rows that are flushed at that moment.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import dask.array
import numpy as np
import pandas as pd
import pyarrow
from numpy.typing import NDArray
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.core import Adapter
from tiled.structures.bytes import BytesStructure
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure

from skywright.errors import DataError
from skywright.files.areadetector import UNIQUE_ID
from skywright.files.hdf5 import open_hdf5, read_rows
from skywright.store.external import LazyRows, files_of

MIMETYPE = "application/x-skywright-columns"
CHUNK_ROWS = 1 << 20
"""Rows of one column per chunk that a client requests."""


class ColumnsAdapter(Adapter[TableStructure]):
    """The scalar columns of one or more HDF5 files as one table.

    Parameters
    ----------
    files
        The files, in order.
    columns
        Dataset path by column name; each dataset is ``(n,)`` or ``(n, 1)``.
    segments
        Rows of the table: ``(file number, start, stop)`` each; `stop` None: all flushed rows.
    partition_rows
        Rows of a partition; the last one has the rest.
    structure, metadata, specs
        As tiled's adapters have them.
    """

    structure_family = StructureFamily.table

    def __init__(
        self,
        files: Sequence[Path],
        columns: Mapping[str, str],
        segments: Sequence[tuple[int, int, int | None]],
        partition_rows: int,
        structure: TableStructure,
        *,
        metadata: Any = None,
        specs: list[Spec] | None = None,
    ) -> None:
        super().__init__(structure, metadata=metadata, specs=specs)
        self._files = files
        self._columns = columns
        self._segments = segments
        self._partition_rows = partition_rows

    @classmethod
    def from_catalog(
        cls,
        data_source: Any,
        node: Any,
        /,
        columns: Mapping[str, str],
        segments: Sequence[tuple[int, int, int | None]],
        partition_rows: int,
    ) -> Self:
        """Return the adapter of a registered data source."""
        files, metadata = files_of(data_source), node.metadata_
        structure = data_source.structure
        return cls(
            files, columns, segments, partition_rows, structure, metadata=metadata, specs=node.specs
        )

    @classmethod
    def validate_data_source(
        cls, data_source: Any, fix_errors: bool = False
    ) -> tuple["_Validated", list[str]]:
        """Check that the files hold the columns and rows that are registered.

        bluesky-tiled-plugins calls this in ``run.validate()``.

        Parameters
        ----------
        data_source
            A registered table; its assets are in the order of the files.
        fix_errors
            Has no effect: a file that lost rows cannot be repaired.

        Returns
        -------
        data_source, notes
            The source, in the form of `_Validated`, and no notes.

        Raises
        ------
        DataError
            If a column or rows are missing.
        """
        files = files_of(data_source)
        columns = data_source.parameters["columns"]
        for number, _, stop in data_source.parameters["segments"]:
            path = files[number]
            with open_hdf5(path) as file:
                missing = sorted(set(columns.values()) - set(filter(file.get, columns.values())))
            if missing:
                raise DataError(f"{path}: has no dataset {', '.join(missing)}")
            rows = flushed_rows(path, columns.values())
            if stop is not None and rows < stop:
                raise DataError(f"{path}: has {rows} rows, the catalog refers to {stop}")
        return _Validated(data_source), []

    def read(self, fields: Sequence[str] | None = None) -> pd.DataFrame:
        """Read all rows of the columns `fields`, by default of all."""
        return self._read(fields, 0, None)

    def read_partition(self, partition: int, fields: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the rows of one partition."""
        start = partition * self._partition_rows
        last = partition + 1 >= self._structure.npartitions
        return self._read(fields, start, None if last else start + self._partition_rows)

    def get(self, key: str) -> ArrayAdapter | None:
        """Return one column as an array, None if there is none of that name."""
        return self[key] if key in self._columns else None

    def __getitem__(self, key: str) -> ArrayAdapter:
        column = LazyRows(
            (self.count(),), self.dtype(key), lambda *rows: self.values([key], *rows)[key]
        )
        meta = np.empty(0, column.dtype)
        array = dask.array.from_array(column, chunks=(CHUNK_ROWS,), name=False, meta=meta)
        return ArrayAdapter.from_array(array)

    def _read(self, fields: Sequence[str] | None, start: int, stop: int | None) -> pd.DataFrame:
        names = list(self._columns) if fields is None else list(fields)
        values = self.values(names, start, stop)
        return pd.DataFrame({name: _for_arrow(values[name]) for name in names})

    def count(self) -> int:
        """Return the number of rows that can be read now."""
        return sum(stop - start for _, start, stop in self._ranges())

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the element type of a column."""
        with open_hdf5(self._files[0]) as file:
            return file[self._columns[name]].dtype

    def values(self, names: Sequence[str], start: int, stop: int | None) -> dict[str, NDArray[Any]]:
        """Read rows ``start:stop`` of columns; each is ``(n,)`` with the dtype of its dataset."""
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        at = 0  # row of the table at which the range starts
        for path, first, last in self._ranges():
            low = first + max(start - at, 0)
            high = last if stop is None else min(first + stop - at, last)
            at += last - first
            with open_hdf5(path) as file:
                for name in names:
                    values = read_rows(file[self._columns[name]], low, max(low, high))
                    parts[name].append(values.reshape(len(values)))
        return {name: np.concatenate(blocks) for name, blocks in parts.items()}

    def _ranges(self) -> Iterator[tuple[Path, int, int]]:
        """Yield the file, first row and end of each segment, as far as it is flushed."""
        for number, start, stop in self._segments:
            path = self._files[number]
            rows = flushed_rows(path, self._columns.values())
            yield path, start, max(start, rows if stop is None else min(stop, rows))


class _Validated:
    """A validated table in the form of plain bytes: the plugin's own check knows arrays only.

    That check (bluesky-tiled-plugins 2.0.12) accepts sources of plain bytes as they are, and writes
    a source to the catalog only if it differs from the one that it was given.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self.assets = copy.deepcopy(source.assets)  # the check sets their sizes
        self.structure = BytesStructure()

    def __eq__(self, other: object) -> bool:
        return other is self._source

    __hash__ = None  # type: ignore[assignment]


def flushed_rows(path: Path, datasets: Iterable[str]) -> int:
    """Return the number of complete rows of a file.

    The identity column is flushed last, so it is the shortest; that of areaDetector's layout is
    added to `datasets`. Where the identity is in neither, the shortest dataset counts.
    """
    with open_hdf5(path) as file:
        names = {*datasets, *([UNIQUE_ID] if UNIQUE_ID in file else [])}
        return min(int(file[name].shape[0]) for name in names)


def _for_arrow(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as pandas and Arrow take them: text as objects, numbers in native order."""
    if values.dtype.kind == "S":
        return values.astype(object)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def table_structure(dtypes: Mapping[str, np.dtype[Any]], npartitions: int = 1) -> TableStructure:
    """Return tiled's structure of a table with columns of these types."""
    fields = [
        (name, pyarrow.binary() if dtype.kind == "S" else pyarrow.from_numpy_dtype(dtype))
        for name, dtype in dtypes.items()
    ]
    return TableStructure.from_schema(pyarrow.schema(fields), npartitions)


def fits_table(name: str, dtype: np.dtype[Any]) -> bool:
    """Return whether a column can be in a table: numbers or bytes, and a name valid in tiled."""
    plain = dtype.kind in "biuS" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    return plain and not name.startswith("_")


def rows_of(source: DataSource[Any]) -> int | None:
    """Return the registered number of rows of a table of this adapter; None while it is open."""
    segments = source.parameters["segments"]
    if any(stop is None for _, _, stop in segments):
        return None
    return sum(stop - start for _, start, stop in segments)
