"""HDF5 files: open them for reading, while they are written or afterwards; close written ones."""

import ctypes
import math
from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import h5py
from numpy.typing import NDArray

from skywright.files.hdf5_flags import read_superblock

READ_ATTEMPTS = 31
"""Attempts to read metadata that are not consistent yet. HDF5 doubles its pause after each, from
1 ns on: 2 s in all. Its own limit of 100 takes for ever, and all HDF5 calls of the process wait."""
_DRIVER = "skywright-reading"

READING = {"libver": "latest", "swmr": True, "locking": False, "driver": _DRIVER}
"""Options of `h5py.File` to read a file, whether it is written now or not. All readers of a file in
one process need the same mode: HDF5 refuses to open the file again in another mode."""


def open_hdf5(path: Path | str) -> h5py.File:
    """Open a file for reading, whether it is written now or not.

    Raises
    ------
    OSError
        If there is no such file, or it is not HDF5.
    """
    try:
        return h5py.File(path, "r", **READING)
    except RuntimeError as error:  # h5py raises either for a damaged file
        raise OSError(str(error)) from error


def close_written(file: h5py.File, datasets: Iterable[h5py.Dataset], has_failed: bool) -> None:
    """Close a file that was written; after a failed write, leave it to the operating system.

    HDF5 (2.0) would close a part of such a file, and end the process by a segmentation fault when
    the datasets are released or the process ends. Readers find the rows that were flushed.

    Parameters
    ----------
    file
        Open for writing.
    datasets
        All datasets of the file that are open.
    has_failed
        Whether a write or a flush has failed.

    Raises
    ------
    OSError
        If the disk is full or fails.
    """
    name = file.filename
    failure: Exception | None = None
    if not has_failed:
        try:
            file.flush()  # what is written now cannot fail in the close
            file.close()
            return
        except (OSError, RuntimeError) as error:  # h5py raises either
            failure = error
    for each in (file, *datasets):  # h5py never closes an object that is locked
        each.id.locked = 1
    if failure is not None:
        raise OSError(f"{name}: {failure}") from failure


def is_cut_short(path: Path) -> bool:
    """Return whether a closed file is shorter than its writer left it.

    Examples: a copy that broke off, a file whose disk was full when it was closed.

    Raises
    ------
    OSError
        If there is no such file.
    """
    superblock = read_superblock(path)
    return superblock is not None and not superblock.flags and superblock.end > path.stat().st_size


def read_rows(dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
    """Return rows ``start:stop`` of a dataset.

    Raises
    ------
    OSError
        If the file lacks some of them, see `check_rows`.
    """
    check_rows(dataset, start, stop)
    values: NDArray[Any] = dataset[start:stop]
    return values


def check_rows(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Raise if the file is cut short and some of these rows are missing: HDF5 would read zeros.

    Raises
    ------
    OSError
        If a part of the rows lies beyond the end of the file. A virtual dataset needs all rows of
        its sources.
    """
    path = Path(dataset.file.filename)
    if dataset.is_virtual:
        sources = {(each.file_name, each.dset_name) for each in dataset.virtual_sources()}
        for name, source in sources:  # in the names %% stands for %
            with open_hdf5(path if name == "." else path.parent / name.replace("%%", "%")) as file:
                rows = file[source.replace("%%", "%")]
                check_rows(rows, 0, len(rows))
    # A file that was removed while it was open can still be read
    elif path.exists() and is_cut_short(path):
        size = path.stat().st_size
        for row, offset, length in _parts(dataset, start, min(stop, len(dataset))):
            if offset is not None and offset + length > size:
                raise OSError(f"{path}: the file is cut short, rows from {row} on are missing")


def _parts(dataset: h5py.Dataset, start: int, stop: int) -> Any:
    """Yield first row, offset and length, bytes, of each part of the file that holds the rows.

    The offset is None if the part was never written.
    """
    if dataset.chunks is None:
        row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
        offset = dataset.id.get_offset()
        for row in range(start, stop):
            yield row, None if offset is None else offset + row * row_bytes, row_bytes
        return
    first, *others = dataset.chunks
    places = [range(0, n, step) for n, step in zip(dataset.shape[1:], others, strict=True)]
    for place in product(range(start - start % first, stop, first), *places):
        chunk = dataset.id.get_chunk_info_by_coord(place)
        yield place[0], chunk.byte_offset, chunk.size


@cache
def _attempts_setter() -> Any:
    """Return HDF5's function that limits the attempts; None where it cannot be found."""
    # h5py has no name for it. It is found through a module of h5py, which loads the HDF5 library,
    # but not on Windows.
    function = getattr(ctypes.CDLL(h5py.h5p.__file__), "H5Pset_metadata_read_attempts", None)
    if function is not None:
        function.argtypes = [ctypes.c_int64, ctypes.c_uint]
    return function


def _set_access(properties: h5py.h5p.PropFAID) -> None:
    """Set a file's access properties: the usual driver, and the limit of attempts."""
    properties.set_fapl_sec2()
    if (set_attempts := _attempts_setter()) is not None:
        set_attempts(properties.id, READ_ATTEMPTS)


h5py.register_driver(_DRIVER, _set_access)
