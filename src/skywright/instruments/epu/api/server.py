"""Serving the API: one process that ends in time on a signal."""

import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from skywright.errors import ConfigError
from skywright.instruments.epu.api.service import Service
from skywright.processes.http_process import Server

log = logging.getLogger(__name__)

GRACE_S = 3
"""Time that requests under way are given at the end; streams end at once."""


class _Server(Server):
    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End streams as well: uvicorn waits for open responses."""
        loop = self._service.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._service.stopping.set)
        super().handle_exit(sig, frame)


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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot serve HTTP on {host}:{port} ({error}); choose another port"
        ) from error
    taken: int = listener.getsockname()[1]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, app.state.service, lambda: ready(taken))
    server.run([listener])
    if not server.started:
        raise ConfigError("the API did not start; the log above says why")
