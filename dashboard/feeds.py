"""Feeds: one source each, any number of web clients, and to each client the newest message only."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress

from starlette.websockets import WebSocket

Message = str | bytes
FeedSource = Callable[[], AsyncIterator[Message]]

LINGER_S = 10.0
"""A source runs on this long after the last client has gone: pages are left and loaded again."""
RETRY_S = 1.0
BEAT, BEAT_S = "", 5.0
"""Sent to a client for which there was no message for this time, s. A browser does not notice by
itself that a connection is lost where nothing arrives any more, as after the sleep of a laptop."""

log = logging.getLogger(__name__)


class Feed:
    """Runs its source while anybody looks.

    A client asks for the next message when it has taken the last one, and gets the newest: a slow
    client misses messages and holds up nobody.

    Parameters
    ----------
    name
        For the log.
    source
        Makes the messages; begun again when it ends or fails.
    linger_s
        Runs on this long when nobody looks any more.
    beat_s
        A client for which there was no message for this time gets `BEAT`.
    """

    def __init__(
        self, name: str, source: FeedSource, linger_s: float = LINGER_S, beat_s: float = BEAT_S
    ) -> None:
        self.name = name
        self._source = source
        self._linger_s = linger_s
        self._beat_s = beat_s
        self._changed = asyncio.Condition()
        self._newest: Message | None = None
        self._number = 0
        self._clients = 0
        self._running: asyncio.Task[None] | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def messages(self) -> AsyncIterator[Message]:
        """Yield the newest message, each once, to one client, and `BEAT` while there is none."""
        seen = 0
        self._enter()
        try:
            while True:
                message: Message = BEAT
                async with self._changed:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._beat_s):
                            while self._newest is None or self._number == seen:
                                await self._changed.wait()
                            seen, message = self._number, self._newest
                yield message
        finally:
            self._leave()

    async def close(self) -> None:
        """End the source."""
        if self._ending is not None:
            self._ending.cancel()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None

    def _enter(self) -> None:
        self._clients += 1
        if self._ending is not None:
            self._ending.cancel()
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"feed {self.name}")

    def _leave(self) -> None:
        self._clients -= 1
        if not self._clients:
            loop = asyncio.get_running_loop()
            self._ending = loop.call_later(self._linger_s, self._end)

    def _end(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None
        self._newest = None  # out of date when the next client connects

    async def _run(self) -> None:
        while True:
            try:
                async with aclosing(self._source()) as source:  # type: ignore[type-var]
                    async for message in source:
                        async with self._changed:
                            self._newest = message
                            self._number += 1
                            self._changed.notify_all()
            except Exception:  # a feed that fails must not stay dark
                log.exception("feed %s failed; it begins again in %g s", self.name, RETRY_S)
            await asyncio.sleep(RETRY_S)


async def serve_feed(websocket: WebSocket, feed: Feed) -> None:
    """Send a feed to one client until it leaves."""
    await websocket.accept()
    sending = asyncio.create_task(_send(websocket, feed))
    leaving = asyncio.create_task(_until_gone(websocket))
    try:
        await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send(websocket: WebSocket, feed: Feed) -> None:
    async with aclosing(feed.messages()) as messages:  # type: ignore[type-var]
        async for message in messages:
            if isinstance(message, str):
                await websocket.send_text(message)
            else:
                await websocket.send_bytes(message)


async def _until_gone(websocket: WebSocket) -> None:
    """Return when the client has closed; what it says meanwhile is not for us."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
