"""Data sources of tiled that refer to files beside the catalog."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.utils import path_from_uri

from skywright.errors import DataError

CHUNKS_MAX = 2**25
"""Maximum number of chunks of an array. tiled keeps the size of each in memory, so that a damaged
number of rows could take all of it."""


class LazyRows:
    """What dask needs of an array; rows are read when they are taken.

    Parameters
    ----------
    shape, dtype
        Of the array.
    read
        Called with the first row and the row after the last; returns these rows.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        read: Callable[[int, int], NDArray[Any]],
    ) -> None:
        self.shape, self.ndim, self.dtype = tuple(shape), len(shape), dtype
        self._read = read

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if not isinstance(rows, slice):  # dask passes on the number of one row
            return self[(slice(rows, rows + 1), *rest)][0]
        start, stop, step = rows.indices(self.shape[0])
        return self._read(start, stop)[::step][(slice(None), *rest)]


def check_chunks(count: int) -> None:
    """Raise if an array has too many chunks.

    Raises
    ------
    DataError
        If there are more than `CHUNKS_MAX`.
    """
    if count > CHUNKS_MAX:
        raise DataError(f"{count} chunks of an array, expected at most {CHUNKS_MAX}")


def external_source(
    family: StructureFamily,
    structure: Any,
    mimetype: str,
    parameters: Mapping[str, Any],
    uris: Iterable[str],
) -> DataSource:
    """Return a data source whose data are in files that tiled only reads.

    Parameters
    ----------
    family, structure
        What the data are.
    mimetype, parameters
        Which adapter reads them, and its parameters.
    uris
        The files, in the order of their numbers.
    """
    return DataSource(
        structure_family=family,
        structure=structure,
        mimetype=mimetype,
        parameters=dict(parameters),
        management=Management.external,
        assets=[
            Asset(data_uri=uri, is_directory=False, parameter="data_uris", num=number)
            for number, uri in enumerate(uris)
        ],
    )


def number_files(ranges: Sequence[tuple[str, int, int]]) -> tuple[list[str], list[list[Any]]]:
    """Return the files, each once, and the ranges with each file's number instead of its URI.

    Parameters
    ----------
    ranges
        File, first row and the row after the last, in the order of the rows.
    """
    uris = list(dict.fromkeys(uri for uri, _, _ in ranges))
    return uris, [[uris.index(uri), start, stop] for uri, start, stop in ranges]


def files_of(source: Any) -> list[Path]:
    """Return the files of a data source, in the order of their numbers."""
    assets = sorted(source.assets, key=lambda asset: asset.num or 0)
    return [path_from_uri(asset.data_uri) for asset in assets]
