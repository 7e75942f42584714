"""Open HDF5 files for reading, while they are written or afterwards."""

import ctypes
from pathlib import Path
from typing import Any

import h5py

from skywright.files.hdf5_flags import read_superblock

VIRTUAL = ".virtual.h5"
"""End of the name of a file of virtual datasets. HDF5 opens their sources, which may have a writer,
in the mode in which it opened this file."""

READ_ATTEMPTS = 31
"""Attempts to read metadata that are not consistent yet. HDF5 doubles its pause after each, from
1 ns on: 2 s in all. Its own limit of 100 takes for ever, and all HDF5 calls of the process wait."""
_DRIVER = "skywright-reading"


def is_cut_short(path: Path) -> bool:
    """Return whether a closed file is shorter than its writer left it.

    A copy that broke off is, and a file whose disk was full at the end.

    Raises
    ------
    OSError
        If there is no such file.
    """
    superblock = read_superblock(path)
    return superblock is not None and not superblock.flags and superblock.end > path.stat().st_size


def reading_options(path: Path | str) -> dict[str, Any]:
    """Return the options with which `h5py.File` opens a file for reading.

    A file that has a writer, or whose writer died, is opened in SWMR mode; so is one that is cut
    short, which HDF5 would refuse, for the rows that it has.

    Raises
    ------
    OSError
        If there is no such file.
    """
    path = Path(path)
    superblock = read_superblock(path)
    has_flags = superblock is not None and bool(superblock.flags)
    swmr = has_flags or path.name.endswith(VIRTUAL) or is_cut_short(path)
    return {"libver": "latest", "swmr": swmr, "locking": False, "driver": _DRIVER}


def open_hdf5(path: Path | str) -> h5py.File:
    """Open a file for reading, whether it is written now or not.

    Raises
    ------
    OSError
        If there is no such file, or it is not HDF5.
    """
    return h5py.File(path, "r", **reading_options(path))


def check_rows(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Check that rows of a chunked dataset are in a file that is cut short: HDF5 reads zeros.

    Raises
    ------
    OSError
        If a chunk with one of the rows lies beyond the end of the file.
    """
    size = Path(dataset.file.filename).stat().st_size
    step = dataset.chunks[0]
    for row in range(start - start % step, min(stop, len(dataset)), step):
        chunk = dataset.id.get_chunk_info_by_coord((row, *(0,) * (dataset.ndim - 1)))
        if chunk.byte_offset is not None and chunk.byte_offset + chunk.size > size:
            raise OSError(f"the file is cut short, rows from {row} on are missing")


def _read_files(properties: h5py.h5p.PropFAID) -> None:
    """Set a file's access properties: the usual driver, and the limit of attempts."""
    properties.set_fapl_sec2()
    # h5py has no name for it; its module finds the functions of its HDF5 library.
    library = ctypes.CDLL(h5py.h5p.__file__)
    set_attempts = library.H5Pset_metadata_read_attempts
    set_attempts.argtypes = [ctypes.c_int64, ctypes.c_uint]
    set_attempts(properties.id, READ_ATTEMPTS)


h5py.register_driver(_DRIVER, _read_files)
