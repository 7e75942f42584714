"""Locks on files. The kernel frees a lock when the process that holds it ends, however it ends."""

import fcntl
import os
from pathlib import Path
from typing import IO, Any

from skywright.errors import ConfigError
from skywright.waiting import wait_until

_held: dict[Path, int] = {}
"""Descriptors by file, kept open until this process ends."""


def lock(file: int | IO[Any]) -> None:
    """Lock an open file; wait while another process holds it."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: int | IO[Any], shared: bool = False) -> bool:
    """Lock an open file, or return False because another process holds it.

    Parameters
    ----------
    file
        The file, or its descriptor; the lock ends when it is closed.
    shared
        Whether others may have a shared lock at the same time.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_with_pid(file: Path, what: str) -> int:
    """Acquire a lock and write this process's pid into its file, for people to read.

    Parameters
    ----------
    file
        The file, in the directory of the store; made if absent.
    what
        What is locked, for the message, e.g. ``"skywright up"``.

    Returns
    -------
    int
        The descriptor; the lock ends when it is closed.

    Raises
    ------
    ConfigError
        If another process holds it, with its pid.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    # `lock_owner` of another process may hold the lock for a moment
    if not wait_until(lambda: try_lock(descriptor), 0.2, 0.05):
        owner = os.pread(descriptor, 32, 0).decode().strip()
        os.close(descriptor)
        raise ConfigError(
            f"{file.parent}: a {what} runs on this store already, process {owner}; "
            "stop it, or set store.directory to another one"
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def hold_lock(file: Path, what: str) -> None:
    """Acquire a lock as `lock_with_pid` and keep it until this process ends.

    A lock that this process holds already is left as it is.
    """
    if file not in _held:
        _held[file] = lock_with_pid(file, what)


def _close_held() -> None:
    """Close the locks' files in a forked child; else the locks would outlive this process."""
    while _held:
        os.close(_held.popitem()[1])


os.register_at_fork(after_in_child=_close_held)


def lock_owner(file: Path) -> int | None:
    """Return the pid of the process that holds the lock `file`; None if it is free.

    0: the process has not written its pid yet.
    """
    try:
        with file.open() as opened:
            return None if try_lock(opened, shared=True) else int(opened.read() or 0)
    except FileNotFoundError:
        return None
