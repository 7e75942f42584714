"""Calls from a client to the server of the double, over a local socket.

A call is one message of JSON, ``[name, argument, ...]``; so is its answer. The pixels of an image
follow their answer as a message of bytes, which is received into memory of the caller.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.facility import SOCKET_VARIABLE
from skywright.instruments.sacla.facility.wire import Channel

NEWEST = -1
"""As a tag: the newest image."""


class APIError(Exception):
    """What the facility's modules raise, whatever the reason; the message begins with a code."""


def default_socket(beamline: int) -> Path:
    """Return where the server of a beamline listens, for this user."""
    return Path(tempfile.gettempdir()) / f"sacla-facility-{os.getuid()}" / f"bl{beamline}"


def named_socket() -> Path:
    """Return the socket that `SOCKET_VARIABLE` names, or the first default one that exists."""
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return Path(named)
    found = [socket for socket in map(default_socket, (3, 2, 1)) if socket.exists()]
    return found[0] if found else default_socket(3)


class Link:
    """A connection to the server, made at the first call and again after it has broken.

    Parameters
    ----------
    socket
        None: as `named_socket` says.
    """

    def __init__(self, socket: Path | None = None) -> None:
        self._socket = socket
        self._lock = threading.Lock()
        self._connection: Channel | None = None
        self._process = 0

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the server.

        Raises
        ------
        APIError
            If the server says so, or does not answer.
        TypeError
            If an argument is of a wrong type.
        """
        return self._answer(name, arguments, lambda value, _: value)

    def call_for_image(
        self, array: NDArray[np.float32] | None, name: str, *arguments: Any
    ) -> tuple[Any, NDArray[np.float32]]:
        """Call a function that answers with an image.

        Parameters
        ----------
        array
            Memory that takes the image; another one is made if it does not fit.
        name, *arguments
            As for `call`.

        Returns
        -------
        tuple
            The answer, and (rows, columns) float32.
        """

        def receive(value: Any, connection: Channel) -> tuple[Any, NDArray[np.float32]]:
            nonlocal array
            shape = tuple(value.pop("shape"))
            if array is None or array.shape != shape:
                array = np.empty(shape, np.float32)
            connection.receive_into(array.data.cast("B"))
            return value, array

        return self._answer(name, arguments, receive)

    def close(self) -> None:
        """Close the connection; a later call makes a new one."""
        with self._lock:
            self._drop()

    def _answer(
        self, name: str, arguments: tuple[Any, ...], take: Callable[[Any, Channel], Any]
    ) -> Any:
        with self._lock:
            try:
                connection = self._connected()
                connection.send(json.dumps([name, *arguments]).encode())
                answer = json.loads(connection.receive())
                if "value" in answer:
                    return take(answer["value"], connection)
            except OSError as error:
                self._drop()
                why = error.strerror or str(error)
                where = self._socket or named_socket()
                raise APIError(
                    f"-10101: {name}: no connection to the double of the facility at {where} "
                    f"({why}); `skywright sacla facility` starts it"
                ) from None
            except BaseException:  # Ctrl-C: the answer would be taken for that of the next call
                self._drop()
                raise
        kind = TypeError if answer["error"] == "type" else APIError
        raise kind(answer["message"])

    def _connected(self) -> Channel:
        if self._process != os.getpid():  # a forked process shares no connection
            self._connection, self._process = None, os.getpid()
        if self._connection is None:
            self._connection = Channel.to(self._socket or named_socket())
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
