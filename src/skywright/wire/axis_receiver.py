"""The sockets of uploads: a server on which video servers post their pictures."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from skywright.wire.axis_body import PICTURE_BYTES_MAX
from skywright.wire.axis_http import Event, PushConnection

IDLE_S = 5.0
LINGER_S = 2.0
CLOSE_S = 0.5
"""Longest time that `PushReceiver.close` waits until answers are sent."""
READ_BYTES = 1 << 16


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
        self._writers: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}
        """Sockets of the senders, by the task that serves each."""
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port, which is chosen when `port` is 0.

        Raises
        ------
        OSError
            If it cannot listen on the port.
        """
        self._server = await asyncio.start_server(self._serve, host, port)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Stop listening and end all connections, uploads under way with them."""
        if self._server is not None:
            self._server.close()
            for writer in self._writers.values():
                writer.close()
            if tasks := list(filter(None, self._writers)):
                await asyncio.wait(tasks, timeout=CLOSE_S)
            for writer in self._writers.values():  # its sender reads no answers
                writer.transport.abort()
            await asyncio.gather(*filter(None, self._writers), return_exceptions=True)
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Receive the uploads of one sender until it closes, or sends nothing for too long."""
        task, connection = asyncio.current_task(), PushConnection(self.bytes_max)
        self._writers[task] = writer
        # None if the sender, such as a port scan, has closed already
        address = writer.get_extra_info("peername") or ("?",)
        peer = ":".join(map(str, address[:2]))
        try:
            while data := await _read(reader, self.idle_s):
                events, answer = connection.receive(data)
                for event in events:
                    self.take(event, peer)
                writer.write(answer)
                if connection.closing:
                    # To close with bytes unread would reset the connection and take our answer
                    # with it: end our side, and read on for a while until the sender has seen that.
                    writer.write_eof()
                    async with asyncio.timeout(LINGER_S):
                        while await reader.read(READ_BYTES):
                            pass
                    break
        except OSError:  # it sent nothing for too long (a TimeoutError), or broke the connection
            pass
        finally:
            for event in connection.end():
                self.take(event, peer)
            writer.close()
            del self._writers[task]


async def _read(reader: asyncio.StreamReader, limit_s: float) -> bytes:
    """Return what has come, at most `READ_BYTES`; raise `TimeoutError` if nothing comes in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            return await reader.read(READ_BYTES)
    # What came while the event loop was held up has been received in this turn of it
    async with asyncio.timeout(0):
        return await reader.read(READ_BYTES)
