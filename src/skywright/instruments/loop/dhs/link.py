"""The connection to DCSS: made anew for ever, messages in and out."""

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from skywright.errors import DataError
from skywright.wire.xos2 import MessageParser, encode

logger = logging.getLogger(__name__)

RETRY_S = 2.0
CONNECT_S = 5.0
CLOSE_S = 1.0
READ_BYTES = 1 << 16
KEEPALIVE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 25_000,
}
"""A DCSS whose machine has died is noticed after 25 s: s, s and a count for a silent connection, ms
for a message that is not acknowledged, which Linux else repeats for 15 minutes; by socket option.
"""


class Connection:
    """One connection, as long as it lasts; what is sent after its end is dropped.

    Attributes
    ----------
    is_used
        Whether DCSS has registered something on it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_used = False
        self._layout = 1
        self._draining = asyncio.Lock()
        connected = writer.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    async def messages(self) -> AsyncIterator[str]:
        """Yield the texts that DCSS sends, until it closes the connection.

        Raises
        ------
        OSError
            If the connection breaks.
        DataError
            If what comes is not xos.
        """
        parser = MessageParser()
        while data := await self._reader.read(READ_BYTES):
            for message in parser.feed(data):
                self._layout = message.layout  # a reply has the layout of the last message read
                yield message.text

    def write(self, text: str) -> None:
        """Send without waiting, in the layout of the last message read.

        Raise `DataError`, and send nothing, if the message is too long.
        """
        data = encode(text, self._layout)
        if not self._writer.is_closing():
            logger.debug("to DCSS: %s", text)
            self._writer.write(data)

    async def send(self, text: str) -> None:
        """Send as `write` does, and wait while DCSS does not read.

        A broken connection is the reader's affair.
        """
        self.write(text)
        async with self._draining:
            with contextlib.suppress(OSError):
                await self._writer.drain()

    async def close(self) -> None:
        """End the connection, what was written before still on its way."""
        self._writer.close()
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(CLOSE_S):
                await self._writer.wait_closed()


async def keep_connected(
    host: str,
    port: int,
    session: Callable[[Connection], Awaitable[None]],
    retry_s: float = RETRY_S,
) -> None:
    """Connect, run `session` over the connection until it ends, and so on until cancelled.

    `session` reads the messages, and returns or raises `OSError` or `DataError` when the connection
    is over; `retry_s` later comes the next attempt. A reason that comes again and again is logged
    once: DCSS closes each connection by a name that it does not know.
    """
    trouble = ""
    while True:
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(host, port)
        except OSError as error:  # TimeoutError is one
            if (why := _reason(error) or f"no answer in {CONNECT_S:g} s") != trouble:
                logger.error("DCSS at %s:%d: %s; trying every %g s", host, port, why, retry_s)
            trouble = why
        else:
            logger.info("DCSS at %s:%d: connected", host, port)
            connection = Connection(reader, writer)
            try:
                await session(connection)
                why = "closed the connection"
            except (OSError, DataError) as error:
                reason = _reason(error) if isinstance(error, OSError) else str(error)
                why = f"connection lost: {reason}"
            finally:
                await connection.close()
            if connection.is_used or why != trouble:
                logger.error("DCSS at %s:%d: %s", host, port, why)
            trouble = why
        await asyncio.sleep(retry_s)


def _reason(error: OSError) -> str:
    """Return the system's words for an error; asyncio's are "Connect call failed" for all."""
    # Where a host has several addresses, asyncio puts the errors of all into one text.
    numbers = dict.fromkeys(re.findall(r"\[Errno (\d+)\]", str(error)))
    return ", ".join(os.strerror(int(number)) for number in numbers) or error.strerror or str(error)
