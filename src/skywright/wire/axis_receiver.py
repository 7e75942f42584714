"""The sockets of uploads: a server on which video servers post their pictures."""

import asyncio
from collections.abc import Callable
from typing import cast

from skywright.wire.axis_body import PICTURE_BYTES_MAX
from skywright.wire.axis_http import Event, PushConnection

IDLE_S = 5.0
LINGER_S = 2.0


class _Sender(asyncio.Protocol):
    """The socket of one sender."""

    def __init__(self, receiver: "PushReceiver") -> None:
        self._receiver = receiver
        self._connection = PushConnection(receiver.bytes_max)
        self._peer = ""
        self._transport: asyncio.Transport
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # None if the sender, such as a port scan, has closed already
        peer = transport.get_extra_info("peername") or ("?",)
        self._peer = ":".join(map(str, peer[:2]))
        self._receiver.senders.add(self)
        self._wait(self._receiver.idle_s)

    def data_received(self, data: bytes) -> None:
        if self._connection.closing:
            return  # what a refused sender still sends; see below
        events, answer = self._connection.receive(data)
        for event in events:
            self._receiver.take(event, self._peer)
        self._transport.write(answer)
        if self._connection.closing:
            # To close with bytes unread would reset the connection and take our answer with it:
            # end our side, and read on for a while until the sender has seen that.
            self._transport.write_eof()
            self._wait(LINGER_S)
        else:
            self._wait(self._receiver.idle_s)

    def connection_lost(self, error: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._receiver.senders.discard(self)
        for event in self._connection.end():
            self._receiver.take(event, self._peer)

    def close(self) -> None:
        """End the connection, an upload under way with it."""
        self._transport.close()

    def _wait(self, limit_s: float) -> None:
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(limit_s, self.close)


class PushReceiver:
    """Serve uploads on a port; to be used inside one event loop.

    Parameters
    ----------
    take
        Called with each event and the sender's address; must return at once.
    bytes_max
        Longest upload, bytes.
    idle_s
        A connection on which nothing has come for this long, s, is closed.
    """

    def __init__(
        self,
        take: Callable[[Event, str], None],
        bytes_max: int = PICTURE_BYTES_MAX,
        idle_s: float = IDLE_S,
    ) -> None:
        self.take = take
        self.bytes_max = bytes_max
        self.idle_s = idle_s
        self.senders: set[_Sender] = set()
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port, which is chosen when `port` is 0.

        Raises
        ------
        OSError
            If it cannot listen on the port.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Sender(self), host, port)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
            for sender in list(self.senders):
                sender.close()
            await self._server.wait_closed()
