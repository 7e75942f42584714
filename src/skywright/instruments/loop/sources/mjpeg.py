"""Pictures of an AXIS camera's motion JPEG stream."""

import contextlib
import logging
from collections.abc import AsyncGenerator

from skywright.instruments.loop.sources.dating import Date
from skywright.instruments.loop.sources.fetched import Fetched
from skywright.wire.axis_client import STREAM_PATH, camera_client, camera_url, stream_parts

logger = logging.getLogger(__name__)

SILENCE_S = 5.0
"""A stream on which nothing has come for this long is asked for anew."""


class StreamedPictures(Fetched):
    """The stream of a camera, for as long as anybody wants pictures.

    Pictures that are cut off, or whose part is broken, are delivered as they came: who decodes
    them counts them.

    Parameters
    ----------
    url
        ``http://camera`` or the whole address; user and password may be in it.
    user, password
        Of the camera; digest or basic, as it asks.
    size
        Width and height, px, when known before the first picture.
    date
        Gives the time of a picture (`skywright.instruments.loop.sources.dating`).
    silence_s
        Longest time without a byte.

    Raises
    ------
    ConfigError
        If `url` is no HTTP address.
    """

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        *,
        size: tuple[int, int] | None = None,
        date: Date | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__("mjpeg", self._stream, size, date)
        self.url = camera_url(url, STREAM_PATH)
        self._login = user, password
        self._silence_s = silence_s

    async def _stream(self) -> AsyncGenerator[tuple[bytes, float], None]:
        async with (
            camera_client(self.url, *self._login, self._silence_s) as client,
            contextlib.aclosing(stream_parts(client, self.url)) as parts,
        ):
            async for part in parts:
                if part.trouble:
                    self.counts["broken"] += 1
                    logger.warning("mjpeg: part of %d bytes: %s", len(part.data), part.trouble)
                if part.data:
                    yield part.data, part.sender_time
