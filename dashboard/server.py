"""Serve the page until told to end."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from skywright.errors import ConfigError
from skywright.processes.http_process import Server

GRACE_S = 2
"""Exports under way get this long after SIGTERM."""
SLOWEST_S = 20.0
"""A client that has not answered a ping for this time is gone."""


def serve(app: ASGIApp, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve `app` until SIGTERM or SIGINT.

    Parameters
    ----------
    app
        From `dashboard.app.make_app`.
    host, port
        Where; port 0 takes a free one.
    ready
        Called with the page's address when it is served.

    Raises
    ------
    ConfigError
        If the port cannot be taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot be taken on {host} ({error}); does a dashboard run already? "
            "Choose another, or 0 for a free one"
        ) from error
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # This one holds a sender back while its client's buffer is full; pictures are compressed.
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=SLOWEST_S,
        ws_ping_timeout=SLOWEST_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    with listener:
        asyncio.run(_serve(Server(config), listener, host, ready))


async def _serve(
    server: Server, listener: socket.socket, host: str, ready: Callable[[str], None]
) -> None:
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.02)
    if server.started:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
    await serving
