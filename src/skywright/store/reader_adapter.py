"""tiled's adapter for arrays in files of any mimetype that has a reader, and their data sources.

The embedded server names it in ``adapters_by_mimetype`` for each mimetype that an instrument
declares (`skywright.files.readers`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
from numpy.typing import NDArray
from tiled.adapters.array import ArrayAdapter
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource

from skywright.errors import DataError
from skywright.files.readers import open_reader
from skywright.store.external import (
    LazyRows,
    check_chunks,
    external_source,
    files_of,
    number_files,
)

ADAPTER = "skywright.store.reader_adapter:ReaderAdapter"
BLOCK_BYTES = 16 << 20


class ReaderAdapter(ArrayAdapter):
    """Rows of one column of files that `skywright.files.readers` reads."""

    @classmethod
    def from_catalog(
        cls,
        data_source: Any,
        node: Any,
        /,
        dataset: str,
        segments: Sequence[tuple[int, int, int]],
    ) -> "ReaderAdapter":
        """Return the adapter of a registered data source.

        Parameters
        ----------
        data_source, node
            As tiled gives them.
        dataset
            The column, as the stream resource names it.
        segments
            The rows: ``(file, start, stop)`` each, with the number of the file.
        """
        structure, files = data_source.structure, files_of(data_source)
        row, dtype = tuple(structure.shape[1:]), np.dtype(structure.data_type.to_numpy_dtype())

        def read(start: int, stop: int) -> NDArray[Any]:
            parts, at = [np.empty((0, *row), dtype)], 0
            for number, first, last in segments:
                low, high = max(start - at, 0), min(stop - at, last - first)
                at += last - first
                if low < high:
                    rows = first + low, first + high
                    found = _read_rows(files[number], data_source.mimetype, dataset, *rows, row)
                    parts.append(found.astype(dtype, copy=False))
            return np.concatenate(parts)

        lazy = LazyRows(structure.shape, dtype, read)
        array = dask.array.from_array(lazy, chunks=structure.chunks, name=False)
        return cls(array, structure, metadata=node.metadata_, specs=node.specs)


def _read_rows(
    file: Path, mimetype: str, column: str, start: int, stop: int, row: tuple[int, ...]
) -> NDArray[Any]:
    """Read rows of a column of a file; `DataError` if they do not have the shape `row`."""
    with open_reader(mimetype, file, column) as reader:
        rows = reader.read(column, start, stop)
    if rows.shape != (stop - start, *row):
        raise DataError(
            f"{file}: {column}: rows {start} to {stop} have the shape {rows.shape}, "
            f"expected {(stop - start, *row)}"
        )
    return rows


def reader_source(
    resources: Sequence[Mapping[str, Any]],
    segments: Sequence[tuple[int, int]],
    data_key: Mapping[str, Any],
) -> DataSource:
    """Return the data source of an array in files that are read by mimetype.

    Parameters
    ----------
    resources
        The stream resource of each segment; all of one mimetype and column.
    segments
        First row and end of each.
    data_key
        Data key of the descriptor: shape and dtype_numpy.

    Raises
    ------
    DataError
        If the descriptor does not give the element type, the files are of several mimetypes or
        have several datasets, or the array has too many chunks.
    """
    first = resources[0]
    if any(each["mimetype"] != first["mimetype"] for each in resources):
        raise DataError("files of several mimetypes are no array")
    if any(each["parameters"]["dataset"] != first["parameters"]["dataset"] for each in resources):
        raise DataError("files with several datasets are no array")
    if not data_key.get("dtype_numpy"):
        raise DataError("the descriptor gives no dtype_numpy")
    dtype = np.dtype(data_key["dtype_numpy"])
    row = tuple(data_key["shape"])
    count = sum(stop - start for start, stop in segments)
    row_bytes = max(dtype.itemsize * int(np.prod(row)), 1)
    size = min(max(BLOCK_BYTES // row_bytes, 1), max(count, 1))
    check_chunks(count // size)
    chunks = (size,) * (count // size) + ((count % size,) if count % size else ())
    structure = ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(dtype),
        shape=(count, *row),
        chunks=(chunks, *((length,) for length in row)),
    )
    ranges = [(str(r["uri"]), *rows) for r, rows in zip(resources, segments, strict=True)]
    uris, numbered = number_files(ranges)
    parameters = {"dataset": first["parameters"]["dataset"], "segments": numbered}
    return external_source(StructureFamily.array, structure, first["mimetype"], parameters, uris)
