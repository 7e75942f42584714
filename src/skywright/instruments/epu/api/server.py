"""Serving the API: one process that ends in time on a signal."""

from collections.abc import Callable

from fastapi import FastAPI

from skywright.instruments.epu.api.service import Service
from skywright.processes import http_server

GRACE_S = 3
"""Time that requests under way are given at the end; streams end at once."""


def serve(app: FastAPI, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    app
        From `create_app`.
    host, port
        Where to listen; port 0 takes a free one.
    ready
        Called with the port once requests are answered.

    Raises
    ------
    ConfigError
        If the port cannot be had.
    """
    service: Service = app.state.service

    def end_streams() -> None:  # the server waits for open responses
        if service.loop is not None:
            service.loop.call_soon_threadsafe(service.stopping.set)

    http_server.serve(
        app,
        host,
        port,
        ready,
        on_signal=end_streams,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
    )
