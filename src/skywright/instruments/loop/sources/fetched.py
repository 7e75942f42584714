"""What sources that ask a camera for pictures do alike: connect, number, date, begin again."""

import asyncio
import contextlib
import io
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import ClassVar

import httpx
from PIL import Image

from skywright.errors import SkywrightError
from skywright.instruments.loop.sources import Deliver, Report, SourceFrame
from skywright.instruments.loop.sources.dating import Date, make_dating
from skywright.wire.axis_client import camera_client, camera_url

logger = logging.getLogger(__name__)

LIMIT_S = 5.0
FIRST_PAUSE_S, MOST_PAUSE_S = 0.5, 10.0
STOP_LIMIT_S = 5.0


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of an image file from its header, None when it has none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


class Fetched(ABC):
    """Delivers the pictures of a camera from a thread, from `start` to `stop`.

    When they end or fail it reports why and asks again, after a pause that doubles from
    `FIRST_PAUSE_S` to `MOST_PAUSE_S` until a picture comes.

    Parameters
    ----------
    url
        ``http://camera`` or the whole address; user and password may be in it.
    user, password
        Of the camera; digest or basic, as it asks.
    size
        Width and height, px, when known before the first picture; then that of the newest.
    date
        Gives the time of a picture (`skywright.instruments.loop.sources.dating`).
    limit_s
        Longest time without a byte, or for one picture.

    Attributes
    ----------
    counts
        Pictures ``received``; ``failures`` of the connection.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    """

    name: str
    path: ClassVar[str]
    """Where on a camera its pictures are."""
    period_s = 0.0

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
        self.url = camera_url(url, self.path)
        self.size = size
        self.limit_s = limit_s
        self.counts: Counter[str] = Counter()
        self._login = user, password
        self._date = date or make_dating()
        self._number = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    @abstractmethod
    def pictures(self, client: httpx.AsyncClient) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield image file and sender's time (unix s, or NaN) of each picture from now on.

        It raises `SkywrightError` when the camera fails, and is closed when no more are wanted.
        """

    @property
    def lost(self) -> Mapping[str, int]:
        """Always empty: the camera does not number its pictures, so a loss cannot be seen."""
        return {}

    def set_period(self, seconds: float) -> float:
        """Return 0: the camera alone knows its period."""
        return self.period_s

    def start(self, deliver: Deliver, report: Report) -> None:
        """Begin to deliver pictures; nothing happens when it delivers already."""
        with self._lock:
            if self._thread is not None:
                return
            begun = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._run(deliver, report, begun)),
                name=f"source-{self.name}",
                daemon=True,
            )
            self._thread.start()
            begun.wait(STOP_LIMIT_S)

    def stop(self) -> None:
        """Deliver nothing any more once this has returned."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            assert self._loop is not None
            assert self._task is not None
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
            if thread is not threading.current_thread():
                thread.join(STOP_LIMIT_S)

    close = stop

    async def _run(self, deliver: Deliver, report: Report, begun: threading.Event) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._fetch_for_ever(deliver, report)

    async def _fetch_for_ever(self, deliver: Deliver, report: Report) -> None:
        pause = 0.0
        while True:
            before = self._number
            why = "the camera ended the stream"
            try:
                async with (
                    camera_client(self.url, *self._login, self.limit_s) as client,
                    contextlib.aclosing(self.pictures(client)) as pictures,
                ):
                    async for data, sender_time in pictures:
                        self._take(data, sender_time, deliver)
            except SkywrightError as error:
                why = str(error)
            except Exception as error:  # whatever a camera sends must not end the source in silence
                logger.exception("%s: failed", self.name)
                why = f"{type(error).__name__}: {error}"
            self.counts["failures"] += 1
            anew = self._number > before or not pause
            pause = FIRST_PAUSE_S if anew else min(2.0 * pause, MOST_PAUSE_S)
            report(f"{self.name}: {why}; asking again in {pause:g} s")
            await asyncio.sleep(pause)

    def _take(self, data: bytes, sender_time: float, deliver: Deliver) -> None:
        arrival = time.time()
        number, self._number = self._number, self._number + 1
        self.counts["received"] += 1
        self.size = picture_size(data) or self.size
        deliver(
            SourceFrame(number, self._date(arrival, sender_time), data, sender_time=sender_time)
        )
