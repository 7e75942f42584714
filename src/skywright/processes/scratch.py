"""Temporary directories; a later process removes those that killed processes have left."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skywright.processes.locks import try_lock

KEPT = ".kept"
"""Name of the file that marks a directory that must stay (`keep_scratch`)."""


def make_scratch(name: str) -> Path:
    """Make a temporary directory that is this process's own until it ends.

    Directories of this name that killed processes of this user have left are removed, except those
    that `keep_scratch` has marked.

    Parameters
    ----------
    name
        What the directory is for; part of its own name.
    """
    return _make(name)[0]


def keep_scratch(directory: Path) -> None:
    """Mark a directory of `make_scratch`: it stays, however this process ends."""
    (directory / KEPT).touch()


@contextmanager
def scratch(name: str, place: Path | None = None) -> Iterator[Path]:
    """Make a directory as `make_scratch` does, and remove it at the end of the block.

    Parameters
    ----------
    name
        What the directory is for.
    place
        Parent directory; the new one is hidden there (`hidden_prefix`). None: the system's
        directory of temporary files, where it is not hidden.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    directory, descriptor = _make(name, place)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(descriptor)


def hidden_prefix(name: str) -> str:
    """Return the beginning of the names of hidden directories of `scratch`."""
    return f".skywright-{name}-"


def _make(name: str, place: Path | None = None) -> tuple[Path, int]:
    """Return a new directory, and the open descriptor that holds its lock."""
    prefix = f"skywright-{name}-" if place is None else hidden_prefix(name)
    place = place or Path(tempfile.gettempdir())
    for old in place.glob(f"{prefix}*"):
        _remove_abandoned(old)
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        descriptor = os.open(made, os.O_RDONLY)  # stays open: the lock ends with this process
        try:
            if try_lock(descriptor) and made.is_dir():
                return made, descriptor
        except OSError:  # this disk has no locks, e.g. NFS: no later process removes the directory
            return made, descriptor
        os.close(descriptor)  # another process has removed it before it was locked


def _remove_abandoned(directory: Path) -> None:
    """Remove a directory of this user if no process holds its lock and it is not marked."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            is_own = os.fstat(descriptor).st_uid == os.getuid()
            if is_own and try_lock(descriptor) and not (directory / KEPT).exists():
                shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(descriptor)
