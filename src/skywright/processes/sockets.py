"""Unix sockets of servers: those of dead ones are removed, all else at their paths is left."""

import errno
import socket
import stat
from contextlib import suppress
from pathlib import Path

from skywright.errors import ConfigError


def claim_socket(path: Path) -> None:
    """Remove the socket that a dead server has left; leave that of a live one alone.

    Raises
    ------
    ConfigError
        If a server answers on it, or the path is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"{path} exists and is no socket; name another one")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise ConfigError(f"{path}: {error.strerror or error}") from error
        else:
            raise ConfigError(f"{path} belongs to a server that is running; it is left alone")
    path.unlink(missing_ok=True)


def remove_socket(path: Path, inode: int) -> None:
    """Remove a socket if it is still the one with this inode number."""
    with suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()
