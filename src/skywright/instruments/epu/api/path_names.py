"""Names in paths that contain a ``/``, which clients send as ``%2F``.

The server decodes a path before it is matched, so that a name with ``/`` would be two parts of it.
"""

import re
from urllib.parse import unquote

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

SLASH = "\udc2f"
"""Stands for a ``/`` of a name while the path is matched; no decoded path contains it."""
_ENCODED = re.compile("%2f", re.IGNORECASE)


def keep_slashes(app: ASGIApp) -> ASGIApp:
    """Return an application that matches ``%2F`` as a part of a name; for `add_middleware`."""

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        raw = (scope.get("raw_path") or b"").decode("latin-1")
        if _ENCODED.search(raw):
            scope = {**scope, "path": SLASH.join(map(unquote, _ENCODED.split(raw)))}
        await app(scope, receive, send)

    return keep


async def restore_slashes(request: Request) -> None:
    """Give the names of a path their ``/`` again; a dependency of all routes."""
    for name, value in request.path_params.items():
        request.path_params[name] = value.replace(SLASH, "/")
