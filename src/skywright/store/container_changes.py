"""Yield the changes of a tiled container from its websocket."""

import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import connect

MAX_MESSAGE_BYTES = 64 * 2**20


async def watch_container(
    api_uri: str, api_key: str | None, path: str
) -> AsyncIterator[dict[str, Any]]:
    """Yield the changes of the children of a container, from now on.

    Parameters
    ----------
    api_uri
        `Context.api_uri` of tiled's client, ``http://127.0.0.1:8000/api/v1``.
    api_key
        A key that may read the container.
    path
        Path of the container, e.g. ``"raw"``.

    Yields
    ------
    dict
        First the schema (``type`` ``container-schema``), then
        ``container-child-created`` or ``container-child-metadata-updated``, with ``key`` and
        ``metadata`` of the child.

    Raises
    ------
    OSError
        If the server is away.
    websockets.exceptions.WebSocketException
        If it refuses, has no streaming cache, or the connection is lost.
    """
    uri = f"ws{api_uri.removeprefix('http').rstrip('/')}/stream/single/{path}?envelope_format=json"
    headers = {"Authorization": f"Apikey {api_key}"} if api_key else {}
    async with connect(uri, additional_headers=headers, max_size=MAX_MESSAGE_BYTES) as messages:
        async for message in messages:
            yield json.loads(message)
