"""Sources that request pictures over the network: the stream of an AXIS camera, or single pictures.

A video server sends no time of exposure. A picture arrives 60 to 300 ms after its exposure, and
this delay scatters. Some senders add a time to each picture; it scatters less, but comes from
another clock. `make_dating` returns a function that computes the time of a picture from both.
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
from skywright.waiting import back_off
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
PAUSES_S = 0.5, 10.0
"""First and longest pause before another request to a camera that has failed."""
STOP_LIMIT_S = 5.0
PERIOD_S = 0.2
FITTED_FRAMES = 300
"""Pictures from which the sender's clock is fitted: 10 s of 30 a second, in which no clock drifts
by 1 ms."""

CLOCK_SET_S = 60.0
"""A sender's time that is so far before an earlier one, or so far ahead of the fitted offset, says
that its clock was set."""
FIT_AGE_S = 600.0
"""Pictures that arrived longer ago are not fitted: the sender's clock may have been set while the
source was stopped, or have drifted by more than 10 ms."""

Date = Callable[[float, float], float]
"""Takes the arrival of a picture and the sender's time (NaN: none); returns the picture's time. All
are Unix s."""


def make_dating(delay_s: float = 0.0, clock: Literal["arrival", "sender"] = "arrival") -> Date:
    """Return a function that computes the time of each picture.

    Parameters
    ----------
    delay_s
        Time from exposure to arrival, s. `calibrate_camera` fits it from sweeps of the spindle in
        both directions. A delay must not be both here and in the calibration.
    clock
        ``arrival`` trusts the arrival of each picture. ``sender`` trusts the differences of the
        sender's times and fits its offset: the offset is the smallest difference (arrival minus
        sender's time) of the last `FITTED_FRAMES` pictures, which is that of the picture with the
        shortest delay. So pictures that overtook each other have their times in the right order. A
        picture that was delayed by minutes, less than `FIT_AGE_S`, keeps its time, unless a picture
        that was sent more than `CLOCK_SET_S` later has overtaken it. Pictures without a sender's
        time: by arrival.
    """
    # Arrival and sender's time of each picture
    fitted: deque[tuple[float, float]] = deque(maxlen=FITTED_FRAMES)

    def least_offset() -> float:
        return min(arrived - sent for arrived, sent in fitted)

    def date(arrival: float, sender_time: float) -> float:
        if clock == "arrival" or math.isnan(sender_time):
            return arrival - delay_s
        while fitted and arrival - fitted[0][0] > FIT_AGE_S:
            fitted.popleft()
        if fitted:
            ahead = least_offset() - (arrival - sender_time)
            newest = max(sent for _, sent in fitted)
            if ahead > CLOCK_SET_S or sender_time < newest - CLOCK_SET_S:
                logger.warning("the sender's clock was set by %.1f s", ahead)
                fitted.clear()
        fitted.append((arrival, sender_time))
        return sender_time + least_offset() - delay_s

    return date


class Fetched(PolledSource[SourceFrame], ABC):
    """Base class of the sources that request pictures of a camera.

    When the camera fails or ends its stream, the source reports the reason and requests again after
    a pause. The pause doubles, within `PAUSES_S`, until a picture arrives. The camera does not
    number its pictures, so a loss cannot be detected.

    Parameters
    ----------
    url
        ``http://camera`` or the whole address; user and password may be in it.
    user, password
        Login of the camera, digest or basic as the camera requires.
    size
        Width and height of the first picture, px, if known. The attribute `size` then follows the
        newest picture.
    date
        Computes the time of a picture (`make_dating`).
    limit_s
        Maximum time without a byte, or for one picture, s.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    """

    name: str
    path: ClassVar[str]
    """Path of the pictures in the camera's URL."""

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
        self.counts: Counter[str] = Counter()
        """Numbers of pictures ``received`` and ``too large``."""
        self._login = user, password
        self._date = date or make_dating()

    @abstractmethod
    def pictures(self, client: httpx.AsyncClient) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield image file and sender's time (unix s, or NaN) of each picture from now on.

        It raises `SkywrightError` when the camera fails, and is closed when no more are wanted.
        """

    def open(self) -> None:
        """Prepare the first request."""
        self._thread, self._runner = threading.current_thread(), asyncio.Runner()
        self._runner.get_loop()
        self._pauses = back_off(PAUSES_S)
        self._begin()

    def next(self, timeout_s: float) -> SourceFrame | None:
        """Return the next picture; None when there is none within `timeout_s`.

        Raises
        ------
        HardwareError
            When the camera fails; the next request follows after `retry_s`.
        """
        try:
            return self._runner.run(self._next_frame(timeout_s))
        except Exception as error:  # nothing that a camera sends may end the source
            self._begin()
            if isinstance(error, SkywrightError):
                why = str(error)
            else:
                logger.exception("%s: failed", self.name)
                why = f"{type(error).__name__}: {error}"
            self.retry_s = next(self._pauses)
            raise HardwareError(f"{why}; asking again in {self.retry_s:g} s") from error

    def halt(self) -> None:
        """Cancel the wait for a picture; on the source's own thread, close the connection."""
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

    async def _next_frame(self, timeout_s: float) -> SourceFrame | None:
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._fetching))
        if not (await asyncio.wait([self._next], timeout=timeout_s))[0] or self._next.cancelled():
            return None
        (data, sender_time), arrival, self._next = self._next.result(), time.time(), None
        number = self.counts["received"]
        self.counts["received"] += 1
        self._pauses = back_off(PAUSES_S)
        self.size = picture_size(data, (self.size,)) or self.size
        return SourceFrame(number, self._date(arrival, sender_time), data, sender_time=sender_time)


class StreamedPictures(Fetched):
    """Receives the motion JPEG stream of an AXIS camera while the source runs.

    Pictures that are cut off, or whose part of the stream is broken, are delivered as they are: the
    client that cannot decode them counts them. A picture that is too large is lost.
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
                    # Warn only when the trouble changes: a camera may break every part
                    level = logging.WARNING if part.trouble != self._trouble else logging.DEBUG
                    logger.log(level, "mjpeg: part of %d bytes: %s", len(part.data), part.trouble)
                    self._trouble = part.trouble
                if part.data:
                    yield part.data, part.sender_time
                else:
                    self.counts["too large"] += 1


class SnapshotPictures(Fetched):
    """Requests one picture of a camera after the other, on one connection.

    The time between requests is `period_s`, or longer if the camera is slow. `login` is `user` and
    `password` of `Fetched`.
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
    """Return a coroutine function that requests a new picture and returns its image file.

    `url`, `user` and `password` are those of `Fetched`; `timeout_s` is the limit for one picture.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    HardwareError
        Raised by the coroutine, if the camera cannot be reached, refuses, or is too slow.
    DataError
        Raised by the coroutine, if the camera sends something else than a picture.
    """
    address = camera_url(url, SNAPSHOT_PATH)

    async def fetch() -> bytes:
        async with camera_client(address, user, password, timeout_s) as client:
            return await get_snapshot(client, address, timeout_s)

    return fetch
