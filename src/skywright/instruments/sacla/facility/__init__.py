"""A double of SACLA's online data: a server with simulated shots, and the facility's modules.

The server (`skywright sacla facility`) is a process of its own. The directory `path` holds modules
with the names and calls of the facility's: ``dbpy`` (database), ``olpy`` (online images) and
``stpy`` (stored runs). A program that finds this directory on its module path reads the double,
unchanged, as it reads the facility on an analysis host.
"""

import os
import sys
from pathlib import Path

__all__ = ["SOCKET_VARIABLE", "install", "path"]

SOCKET_VARIABLE = "SACLA_FACILITY_SOCKET"
"""Environment variable with the socket of the server; by default that of `default_socket`."""


def path() -> Path:
    """Return the directory with ``dbpy``, ``olpy`` and ``stpy``, for ``PYTHONPATH``."""
    return Path(__file__).with_name("modules")


def install(socket: Path | str | None = None) -> None:
    """Let this process import the double's ``dbpy``, ``olpy`` and ``stpy``.

    Parameters
    ----------
    socket
        Of the server; None: the one that `SOCKET_VARIABLE` names, or the default one.
    """
    if str(path()) not in sys.path:
        sys.path.insert(0, str(path()))
    if socket is not None:
        os.environ[SOCKET_VARIABLE] = str(socket)
