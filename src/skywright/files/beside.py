"""Paths of the files that lie beside a recording."""

from pathlib import Path

_ENDINGS = frozenset((".h5", ".hdf5"))


def beside(path: Path, ending: str) -> Path:
    """Return the path of a file that belongs to a recording.

    The ending takes the place of one of HDF5's own. Any other ending is a part of the name, so that
    ``run_0.1`` and ``run_0.2`` have files of their own.

    Parameters
    ----------
    path
        Path of the recording.
    ending
        Ending of the file beside it, such as ``.mjpeg``.
    """
    name = path.stem if path.suffix in _ENDINGS else path.name
    return path.with_name(name + ending)


def sibling(path: Path, name: str) -> Path:
    """Return the path of another file of the same recording, ``run_name.h5`` for ``run.h5``."""
    return path.with_name(f"{path.stem}_{name}{path.suffix}")
