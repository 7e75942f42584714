"""Server-sent events: one event as text, and the response that carries a stream of them."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi.responses import StreamingResponse

PING = b": ping\n\n"
"""A comment, which clients of server-sent events pass over."""
PING_S = 15.0
"""Longest silence of a stream. The agent of smartem-decisions takes a stream that is silent for
30 s for dead, and does not connect again."""

LINE_ENDS = "\x85\u2028\u2029"
"""Line ends of Unicode: many clients, httpx among them, split the stream at them."""


def event(name: str, data: dict[str, Any], number: int | None = None) -> bytes:
    """Give one event, its id a number; its data is JSON and repeats the name as ``type``."""
    body = orjson.dumps({"type": name, **data}, option=orjson.OPT_NON_STR_KEYS)  # as in `answer`
    for letter in LINE_ENDS:
        body = body.replace(letter.encode(), f"\\u{ord(letter):04x}".encode())
    end = "" if number is None else f"id: {number}\n"
    return b"event: " + name.encode() + b"\ndata: " + body + f"\n{end}\n".encode()


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Give a response of events; proxies must not gather them."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
