"""Read rows of a columns file that may be written by this very process.

libhdf5 crashes, now and then, when a process refreshes a dataset that it also writes: both handles
share one object, and a refresh throws it away. So a file that this process writes is read through
the writer's handle, without a refresh.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.files.columns import ColumnReader


def read_rows(
    path: Path, identity: str, datasets: Sequence[str], start: int, stop: int
) -> list[NDArray[Any]]:
    """Read rows of some columns.

    Parameters
    ----------
    path
        The file.
    identity
        Its identity dataset, which says how many rows are whole.
    datasets
        The columns.
    start, stop
        Range of rows.

    Returns
    -------
    list of (stop - start, ...) arrays
        One for each column.

    Raises
    ------
    DataError
        If the file cannot be read, or has fewer rows.
    """
    writing = _written_here(path)
    if writing is not None:
        # Closed by its writer meanwhile, it is a file like any other.
        with suppress(ValueError, KeyError, RuntimeError, OSError):
            _check_count(path, len(writing[identity]), stop)
            return [writing[dataset][start:stop] for dataset in datasets]
    with ColumnReader(path, identity) as reader:
        _check_count(path, reader.count(), stop)
        return [reader.read(dataset, start, stop) for dataset in datasets]


def _check_count(path: Path, count: int, stop: int) -> None:
    if count < stop:
        raise DataError(f"{path}: has {count} rows, {stop} were announced")


def _written_here(path: Path) -> h5py.File | None:
    """Return the file through the handle by which this process writes it; None if it does not."""
    wanted = path.resolve()
    for file in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE):
        with suppress(ValueError, RuntimeError):  # closed by its owner meanwhile
            name = Path(h5py.h5f.get_name(file).decode())
            if file.get_intent() & h5py.h5f.ACC_RDWR and name.resolve() == wanted:
                return h5py.File(file)
    return None
