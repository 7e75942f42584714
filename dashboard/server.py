"""Serve the page until told to end."""

from collections.abc import Callable

from starlette.types import ASGIApp

from skywright.processes import http_server

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
    shown = f"[{host}]" if ":" in host else host
    http_server.serve(
        app,
        host,
        port,
        lambda at: ready(f"http://{shown}:{at}"),
        loop="asyncio",
        # This one holds a sender back while its client's buffer is full; pictures are compressed.
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=SLOWEST_S,
        ws_ping_timeout=SLOWEST_S,
        timeout_graceful_shutdown=GRACE_S,
    )
