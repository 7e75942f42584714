"""What lies between an owner's threads and the event loop of its PVs."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from caproto.server import PVGroup, pvproperty

from iocs.common import wait_at_most

logger = logging.getLogger(__name__)


HEARTBEAT_S = 1.0


class Ending(Protocol):
    """Something under way at the owner; `done` is set when all of it is kept."""

    @property
    def done(self) -> threading.Event:
        """Set at the end."""


class OwnerGroup(PVGroup):
    """All PVs over one owner.

    Subclasses hand `_changed` to the owner, post its state in `_post`, and may do more after that
    in `_after_post`.
    """

    heartbeat = pvproperty(
        value=0,
        read_only=True,
        name="HEARTBEAT",
        doc="counts up once a second while PVs are posted",
    )

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._waiting: list[tuple[threading.Event, asyncio.Future[None]]] = []
        self._failing: dict[str, str] = {}
        """What could not be posted the last time, by the method that failed."""

    def _changed(self) -> None:
        """Wake the posting; may be called from any thread."""
        if self.loop is not None and not self.loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed in this moment
                self.loop.call_soon_threadsafe(self._news.set)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run what may block beside the event loop, so that other clients are served."""
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def over(self, acquisition: Ending) -> None:
        """Wait until the acquisition is over and its counts are posted."""
        await self._posted_after(acquisition.done)

    async def posted(self) -> None:
        """Wait until all that the owner knows now is posted."""
        known = threading.Event()
        known.set()
        await self._posted_after(known)

    async def _posted_after(self, event: threading.Event) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((event, future))
        self._news.set()
        await future

    async def _post(self) -> None:
        """Post what has changed."""
        raise NotImplementedError

    async def _after_post(self) -> None:
        """Do what nobody waits for."""

    async def complain(self, message: str) -> None:
        """Say on the message PV what is wrong."""
        raise NotImplementedError

    async def _post_forever(self, period_s: float, idle_s: float) -> None:
        """Post what has changed, at most every `period_s` and at least every `idle_s` more."""
        beat_due = 0.0
        while True:
            self._news.clear()
            # Looked at before the state is: who waits for the end must find all else posted.
            over = [item for item in self._waiting if item[0].is_set()]
            await self._go_on_after(self._post)
            for item in over:
                self._waiting.remove(item)
                if not item[1].done():
                    item[1].set_result(None)
            await self._go_on_after(self._after_post)
            if asyncio.get_running_loop().time() > beat_due:
                beat_due = asyncio.get_running_loop().time() + HEARTBEAT_S
                await self.heartbeat.write((self.heartbeat.value + 1) % 2**31)
            await asyncio.sleep(period_s)
            await wait_at_most(min(idle_s, HEARTBEAT_S), self._news)

    async def _go_on_after(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do a part of the posting; what cannot be posted is said and logged, once."""
        name = work.__name__
        try:
            await work()
            self._failing.pop(name, None)
        except Exception as error:
            wrong = f"PVs cannot be posted: {type(error).__name__}: {error}"
            if self._failing.get(name) != wrong:
                self._failing[name] = wrong
                logger.exception("%s", self.prefix)
                await self.complain(wrong)
