"""Messages over a local stream socket: a length of eight bytes, then the message."""

import socket
import struct
from pathlib import Path
from typing import Self

from skywright.closing import Closing

_LENGTH = struct.Struct("<Q")
_BUFFER_BYTES = 4 << 20
"""Of the sockets: an image of a tile fits."""


class Channel(Closing):
    """One end of a connection.

    Parameters
    ----------
    connected
        Stream socket.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    @classmethod
    def to(cls, path: Path) -> Self:
        """Connect to the server that listens at `path`; OSError if there is none."""
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(str(path))
        except OSError:
            connected.close()
            raise
        return cls(connected)

    def send(self, message: bytes | memoryview) -> None:
        """Send a message; OSError when the connection has ended."""
        self._socket.sendall(_LENGTH.pack(len(message)))
        self._socket.sendall(message)

    def receive(self) -> bytes:
        """Wait for a message; OSError when the connection has ended."""
        message = bytearray(self._length())
        self._fill(memoryview(message))
        return bytes(message)

    def receive_into(self, memory: memoryview) -> None:
        """Receive a message that fills `memory` (bytes); OSError if it does not."""
        if self._length() != len(memory):
            raise ConnectionError("a message of another length came")
        self._fill(memory)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def __del__(self) -> None:
        self._socket.close()  # clients of the facility's modules close nothing

    def _length(self) -> int:
        head = bytearray(_LENGTH.size)
        self._fill(memoryview(head))
        return int(_LENGTH.unpack(head)[0])

    def _fill(self, memory: memoryview) -> None:
        while memory:
            count = self._socket.recv_into(memory)
            if not count:
                raise ConnectionError("the connection has ended")
            memory = memory[count:]
