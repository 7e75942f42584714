"""Single pictures of an AXIS camera, asked for one by one."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import httpx

from skywright.instruments.loop.sources import SourceFrame
from skywright.instruments.loop.sources.fetched import LIMIT_S, Fetched
from skywright.wire.axis_client import SNAPSHOT_PATH, camera_client, camera_url, get_snapshot

PERIOD_S = 0.2


def fetch_snapshot(
    url: str,
    user: str | None = None,
    password: str | None = None,
    timeout_s: float = LIMIT_S,
    *,
    frame_number: int = 0,
    delay_s: float = 0.0,
) -> SourceFrame:
    """Fetch one picture now.

    Not to be called in a running event loop, which it would hold up: use a thread there.

    Parameters
    ----------
    url
        ``http://camera`` or the whole address; user and password may be in it.
    user, password
        Of the camera; digest or basic, as it asks.
    timeout_s
        Limit for all of it.
    frame_number
        Of the frame that is returned.
    delay_s
        From exposure to arrival.

    Returns
    -------
    SourceFrame
        The image file as it came, with its time.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    HardwareError
        If the camera cannot be reached, refuses, or is too slow.
    DataError
        If it sends something else than a picture.
    """
    data = asyncio.run(file_fetcher(url, user, password, timeout_s)())
    return SourceFrame(frame_number, time.time() - delay_s, data)


def file_fetcher(
    url: str,
    user: str | None = None,
    password: str | None = None,
    timeout_s: float = LIMIT_S,
) -> Callable[[], Coroutine[Any, Any, bytes]]:
    """Return what fetches the file of a fresh picture, with the arguments of `fetch_snapshot`."""
    address = camera_url(url, SNAPSHOT_PATH)

    async def fetch() -> bytes:
        async with camera_client(address, user, password, timeout_s) as client:
            return await get_snapshot(client, address, timeout_s)

    return fetch


class SnapshotPictures(Fetched):
    """Asks a camera for one picture after the other, on one connection.

    Parameters
    ----------
    url, user, password, **more
        As of `Fetched`.
    period_s
        Time between requests; a slow camera makes it longer.
    """

    name, path = "snapshot", SNAPSHOT_PATH

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        *,
        period_s: float = PERIOD_S,
        **more: Any,
    ) -> None:
        super().__init__(url, user, password, **more)
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
