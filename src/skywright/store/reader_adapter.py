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
from skywright.store.external import check_chunks, external_source, files_of, number_files

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
        structure = data_source.structure
        rows = _LazyRows(files_of(data_source), data_source.mimetype, dataset, segments, structure)
        array = dask.array.from_array(rows, chunks=structure.chunks)
        return cls(array, structure, metadata=node.metadata_, specs=node.specs)


class _LazyRows:
    """What dask needs of an array: rows are read when they are taken."""

    def __init__(
        self,
        files: Sequence[Path],
        mimetype: str,
        dataset: str,
        segments: Sequence[tuple[int, int, int]],
        structure: ArrayStructure,
    ) -> None:
        self._files, self._mimetype, self._dataset = files, mimetype, dataset
        self._segments = segments
        self.shape = tuple(structure.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(structure.data_type.to_numpy_dtype())

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(rows, slice):  # dask passes on the number of one row
            return self[(slice(rows, rows + 1), *rest)][0]
        start, stop, step = rows.indices(self.shape[0])
        parts, at = [np.empty((0, *self.shape[1:]), self.dtype)], 0
        for number, first, last in self._segments:
            low, high = max(start - at, 0), min(stop - at, last - first)
            at += last - first
            if low < high:
                parts.append(self._read(self._files[number], first + low, first + high))
        return np.concatenate(parts)[::step][(slice(None), *rest)]

    def _read(self, file: Path, start: int, stop: int) -> NDArray[Any]:
        with open_reader(self._mimetype, file, self._dataset) as reader:
            rows = reader.read(self._dataset, start, stop)
        if rows.shape != (stop - start, *self.shape[1:]):
            raise DataError(
                f"{file}: {self._dataset}: rows {start} to {stop} have the shape {rows.shape}, "
                f"expected {(stop - start, *self.shape[1:])}"
            )
        return rows.astype(self.dtype, copy=False)


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
