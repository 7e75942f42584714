"""Pictures that are asked for over the network: the stream of an AXIS camera, or single pictures.

A video server gives no time of exposure. Arrival is 60 to 300 ms late and scatters; the time that
some senders write beside a picture scatters less, but is by another clock. `make_dating` returns
what makes the best of both.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, ClassVar, Literal

import httpx

from skywright.acquire.source import PolledSource
from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.loop.picture import picture_size
from skywright.instruments.loop.sources import SourceFrame
from skywright.wire.axis_client import (
    SNAPSHOT_PATH,
    STREAM_PATH,
    camera_client,
    camera_url,
    get_snapshot,
    stream_parts,
)

logger = logging.getLogger(__name__)

LIMIT_S = 5.0
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 10.0
STOP_LIMIT_S = 5.0
PERIOD_S = 0.2
FITTED_FRAMES = 300
"""Pictures from which the sender's clock is fitted: 10 s of 30 a second, in which no clock drifts
by 1 ms."""

CLOCK_SET_S = 60.0
"""A sender's time that is so far before an earlier one, or so far ahead of the fitted offset, says
that its clock was set."""

Date = Callable[[float, float], float]
"""From arrival and the sender's time (NaN: none), unix s each, to the time of the picture."""


def make_dating(delay_s: float = 0.0, clock: Literal["arrival", "sender"] = "arrival") -> Date:
    """Return what dates pictures.

    Parameters
    ----------
    delay_s
        From exposure to arrival. `calibrate_camera` fits it from sweeps of the spindle in both
        directions; one that is configured here must not be in the calibration too.
    clock
        ``arrival`` trusts the arrival of each picture. ``sender`` trusts the differences of the
        sender's times and fits its offset: the least of arrival less sender's time, over the last
        `FITTED_FRAMES` pictures, belongs to the picture that was held up least. So pictures that
        overtook each other get back in order, and one that was held up for minutes keeps its time.
        Pictures without a sender's time: by arrival.
    """
    offsets: deque[float] = deque(maxlen=FITTED_FRAMES)
    sent: deque[float] = deque(maxlen=FITTED_FRAMES)

    def date(arrival: float, sender_time: float) -> float:
        if clock == "arrival" or math.isnan(sender_time):
            return arrival - delay_s
        offset = arrival - sender_time
        if offsets and (
            offset < min(offsets) - CLOCK_SET_S or sender_time < max(sent) - CLOCK_SET_S
        ):
            logger.warning("the sender's clock was set by %.1f s", min(offsets) - offset)
            offsets.clear()
            sent.clear()
        offsets.append(offset)
        sent.append(sender_time)
        return sender_time + min(offsets) - delay_s

    return date


class Fetched(PolledSource[SourceFrame], ABC):
    """Delivers the pictures of a camera.

    When they end or fail it reports why and asks again, after a pause that doubles from
    `FIRST_PAUSE_S` to `MOST_PAUSE_S` until a picture comes. The camera does not number its
    pictures, so a loss cannot be seen.

    Parameters
    ----------
    url
        ``http://camera`` or the whole address; user and password may be in it.
    user, password
        Of the camera; digest or basic, as it asks.
    size
        Width and height, px, when known before the first picture; then that of the newest.
    date
        Gives the time of a picture (`make_dating`).
    limit_s
        Longest time without a byte, or for one picture.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    """

    name: str
    path: ClassVar[str]
    """Where on a camera its pictures are."""

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        *,
        size: tuple[int, int] | None = None,
        date: Date | None = None,
        limit_s: float = LIMIT_S,
    ) -> None:
        super().__init__(self.name)
        self.url = camera_url(url, self.path)
        self.size = size
        self.limit_s = limit_s
        self.stop_limit_s = STOP_LIMIT_S
        self.retry_s = 0.0
        self.counts: Counter[str] = Counter()
        """Pictures ``received``; ``failures`` of the connection."""
        self._login = user, password
        self._date = date or make_dating()

    @abstractmethod
    def pictures(self, client: httpx.AsyncClient) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield image file and sender's time (unix s, or NaN) of each picture from now on.

        It raises `SkywrightError` when the camera fails, and is closed when no more are wanted.
        """

    def open(self) -> None:
        """Begin to ask."""
        self._thread, self._runner = threading.current_thread(), asyncio.Runner()
        self._runner.get_loop()
        self.retry_s = 0.0
        self._begin()

    def next(self, timeout_s: float) -> SourceFrame | None:
        """Return the next picture; None when there is none within `timeout_s`.

        Raises
        ------
        HardwareError
            When the camera fails: it is asked again after `retry_s`.
        """
        try:
            return self._runner.run(self._take(timeout_s))
        except Exception as error:  # whatever a camera sends must not end the source in silence
            self._begin()
            if isinstance(error, SkywrightError):
                why = str(error)
            else:
                logger.exception("%s: failed", self.name)
                why = f"{type(error).__name__}: {error}"
            self.counts["failures"] += 1
            self.retry_s = min(max(2.0 * self.retry_s, FIRST_PAUSE_S), MOST_PAUSE_S)
            raise HardwareError(f"{why}; asking again in {self.retry_s:g} s") from error

    def halt(self) -> None:
        """Await no picture any more; at the end of the source's thread, close the connection."""
        if threading.current_thread() is self._thread:
            with self._runner:
                self._runner.run(self._end())
            return
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._runner.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()

    async def _end(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
        await self._fetching.aclose()

    def _begin(self) -> None:
        self._fetching = self._fetch()
        self._next: asyncio.Future[tuple[bytes, float]] | None = None

    async def _fetch(self) -> AsyncGenerator[tuple[bytes, float], None]:
        async with (
            camera_client(self.url, *self._login, self.limit_s) as client,
            contextlib.aclosing(self.pictures(client)) as pictures,
        ):
            async for picture in pictures:
                yield picture
        raise HardwareError("the camera ended the stream")

    async def _take(self, timeout_s: float) -> SourceFrame | None:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._fetching))
        if not (await asyncio.wait([self._next], timeout=timeout_s))[0] or self._next.cancelled():
            return None
        (data, sender_time), arrival, self._next = self._next.result(), time.time(), None
        number = self.counts["received"]
        self.counts["received"] += 1
        self.retry_s = 0.0
        self.size = picture_size(data) or self.size
        return SourceFrame(number, self._date(arrival, sender_time), data, sender_time=sender_time)


class StreamedPictures(Fetched):
    """The motion JPEG stream of an AXIS camera, for as long as anybody wants pictures.

    Pictures that are cut off, or whose part is broken, are delivered as they came: who decodes them
    counts them. One that is too large is lost.
    """

    name, path = "mjpeg", STREAM_PATH
    _trouble = ""

    @property
    def lost(self) -> Mapping[str, int]:
        """Pictures that were too large to be received, since the object was made."""
        count = self.counts["too large"]
        return {"too large": count} if count else {}

    async def pictures(
        self, client: httpx.AsyncClient
    ) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield the parts of the stream."""
        async with contextlib.aclosing(stream_parts(client, self.url)) as parts:
            async for part in parts:
                if part.trouble:
                    self.counts["broken"] += 1
                    # Not each: a camera may break all of them.
                    level = logging.WARNING if part.trouble != self._trouble else logging.DEBUG
                    logger.log(level, "mjpeg: part of %d bytes: %s", len(part.data), part.trouble)
                    self._trouble = part.trouble
                if part.data:
                    yield part.data, part.sender_time
                else:
                    self.counts["too large"] += 1


class SnapshotPictures(Fetched):
    """Asks a camera for one picture after the other, on one connection; `login` is as of `Fetched`.

    The time between requests is `period_s`; a slow camera makes it longer.
    """

    name, path = "snapshot", SNAPSHOT_PATH

    def __init__(
        self, url: str, *login: str | None, period_s: float = PERIOD_S, **more: Any
    ) -> None:
        super().__init__(url, *login, **more)
        self.period_s = period_s

    def set_period(self, seconds: float) -> float:
        """Set the time between requests, s; takes effect after the next picture."""
        self.period_s = max(seconds, 0.001)
        return self.period_s

    async def pictures(
        self, client: httpx.AsyncClient
    ) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield a picture each `period_s`."""
        due = time.monotonic()
        while True:
            yield await get_snapshot(client, self.url, self.limit_s), float("nan")
            due = max(due + self.period_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


def file_fetcher(
    url: str, user: str | None = None, password: str | None = None, timeout_s: float = LIMIT_S
) -> Callable[[], Coroutine[Any, Any, bytes]]:
    """Return what fetches the file of a fresh picture: call it, and await that.

    `url`, `user` and `password` are as of `Fetched`, `timeout_s` is the limit for all of a picture.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    HardwareError
        When called: if the camera cannot be reached, refuses, or is too slow.
    DataError
        When called: if it sends something else than a picture.
    """
    address = camera_url(url, SNAPSHOT_PATH)

    async def fetch() -> bytes:
        async with camera_client(address, user, password, timeout_s) as client:
            return await get_snapshot(client, address, timeout_s)

    return fetch
