"""Pictures of an AXIS camera's motion JPEG stream."""

import contextlib
import logging
from collections.abc import AsyncGenerator

import httpx

from skywright.instruments.loop.sources.fetched import Fetched
from skywright.wire.axis_client import STREAM_PATH, stream_parts

logger = logging.getLogger(__name__)


class StreamedPictures(Fetched):
    """The stream of a camera, for as long as anybody wants pictures.

    Pictures that are cut off, or whose part is broken, are delivered as they came: who decodes
    them counts them. A stream on which nothing has come for `limit_s` is asked for anew.
    """

    name, path = "mjpeg", STREAM_PATH

    async def pictures(
        self, client: httpx.AsyncClient
    ) -> AsyncGenerator[tuple[bytes, float], None]:
        """Yield the parts of the stream."""
        async with contextlib.aclosing(stream_parts(client, self.url)) as parts:
            async for part in parts:
                if part.trouble:
                    self.counts["broken"] += 1
                    logger.warning("mjpeg: part of %d bytes: %s", len(part.data), part.trouble)
                if part.data:
                    yield part.data, part.sender_time
