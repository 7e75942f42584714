"""PV group that publishes the state of an owner from the asyncio event loop."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from caproto import AlarmSeverity, ChannelData
from caproto.server import PVGroup, pvproperty

from iocs.common import post, wait_at_most

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
ERROR_S = 10.0
"""Time for which the message PV has the reason of a refused put, s. A device asks for it when its
put has timed out, after `devices.guarded.PUT_S` and half a second at most."""


class OwnerGroup(PVGroup):
    """The PVs of one owner.

    Subclasses hand `wake_posting` to the owner, post its state in `_post`, and may do more after
    that in `_after_post`. Their `serving` awaits `_post_forever`. They have a PV `message`, or
    override `message_channels`.
    """

    heartbeat = pvproperty(
        value=0,
        read_only=True,
        name="HEARTBEAT",
        doc="counts up once a second while PVs are posted",
    )

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix=prefix)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._change_event = asyncio.Event()
        self._waiting: list[tuple[threading.Event, asyncio.Future[None]]] = []
        self._failing: dict[str, str] = {}
        """Error of the last posting, by the method that failed."""
        self._error_until = 0.0
        """Time of the loop until which the message PV has the last error."""
        self._message: tuple[str, int] = ("", 0)
        """Arguments of the last `post_message`."""

    def wake_posting(self) -> None:
        """Wake the posting, if it has begun; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed in this moment
                self._loop.call_soon_threadsafe(self._change_event.set)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking function outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)

    async def wait_until_done(self, done: threading.Event) -> None:
        """Wait until an event, such as `Acquisition.done`, is set and the counts are posted."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((done, future))
        self._change_event.set()
        await future

    async def wait_until_posted(self) -> None:
        """Wait until the present state of the owner is posted."""
        done = threading.Event()
        done.set()
        await self.wait_until_done(done)

    async def _post(self) -> None:
        """Post what has changed."""
        raise NotImplementedError

    async def _after_post(self) -> None:
        """Do work after the posts, for which no client waits."""

    @property
    def message_channels(self) -> Sequence[ChannelData]:
        """PVs that show the message for the operator."""
        return (self.message,)

    async def post_error(self, message: str) -> None:
        """Post an error, such as why a put was refused; it stays for `ERROR_S`."""
        self._error_until = asyncio.get_running_loop().time() + ERROR_S
        for channel in self.message_channels:
            await post(channel, message, AlarmSeverity.MINOR_ALARM)

    async def post_message(self, message: str, severity: int) -> None:
        """Post the message of the owner; while an error is shown, only if it is a new alarm."""
        before, self._message = self._message, (message, int(severity))
        shows_error = asyncio.get_running_loop().time() < self._error_until
        if shows_error and (not severity or self._message == before):
            return
        self._error_until = 0.0
        for channel in self.message_channels:
            await post(channel, message, severity)

    async def _post_forever(self, period_s: float, idle_s: float) -> None:
        """Post changes, at most every `period_s`, at least every `period_s + idle_s`."""
        self._loop = asyncio.get_running_loop()
        beat_due = 0.0
        while True:
            self._change_event.clear()
            # Read the end events before the state, so that the counts are posted before the waiter
            # continues
            finished = [item for item in self._waiting if item[0].is_set()]
            posted = await self._run_guarded(self._post)
            for item in finished if posted else ():
                self._waiting.remove(item)
                if not item[1].done():
                    item[1].set_result(None)
            await self._run_guarded(self._after_post, "the work after the posts failed")
            if posted and self._loop.time() > beat_due:
                beat_due = self._loop.time() + HEARTBEAT_S
                await self.heartbeat.write((self.heartbeat.value + 1) % 2**31)
            await asyncio.sleep(period_s)
            await wait_at_most(min(idle_s, HEARTBEAT_S), self._change_event)

    async def _run_guarded(
        self, work: Callable[[], Awaitable[None]], failed: str = "PVs cannot be posted"
    ) -> bool:
        """Await a part of the posting; return whether it succeeded.

        An error that is new is logged and posted in place of the present message. While it lasts it
        is posted again, unless an alarm of the owner or another error is shown.
        """
        name = work.__name__
        try:
            await work()
            self._failing.pop(name, None)
            return True
        except Exception as error:
            wrong = f"{failed}: {type(error).__name__}: {error}"
            is_new = self._failing.get(name) != wrong
            if is_new:
                self._failing[name] = wrong
                logger.exception("%s", self.prefix)
            shows_error = asyncio.get_running_loop().time() < self._error_until
            if is_new or not (shows_error or self._message[1]):
                await self.post_error(wrong)
            return False
