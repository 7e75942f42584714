"""The sockets of uploads: a server on which video servers post their pictures."""

import asyncio
from collections.abc import Callable

from skywright.wire.axis_body import PICTURE_BYTES_MAX
from skywright.wire.axis_http import Event, PushConnection

IDLE_S = 5.0
LINGER_S = 2.0
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
            limit = asyncio.timeout(self.idle_s)
            async with limit:
                while data := await reader.read(READ_BYTES):
                    if connection.closing:
                        continue  # what a refused sender still sends; see below
                    events, answer = connection.receive(data)
                    for event in events:
                        self.take(event, peer)
                    writer.write(answer)
                    wait_s = self.idle_s
                    if connection.closing:
                        # To close with bytes unread would reset the connection and take our answer
                        # with it: end our side, and read on for a while until the sender has seen
                        # that.
                        writer.write_eof()
                        wait_s = LINGER_S
                    limit.reschedule(asyncio.get_running_loop().time() + wait_s)
        except OSError:  # it sent nothing for too long (a TimeoutError), or broke the connection
            pass
        finally:
            for event in connection.end():
                self.take(event, peer)
            writer.close()
            del self._writers[task]
