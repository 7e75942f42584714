"""An HTTP face on a thread of its own, beside whatever else the process does."""

import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from skywright.errors import ConfigError

GRACE_S = 1.0
"""Time that answers under way are given at the end."""


class HttpServer:
    """Serve an ASGI application until `close`.

    Parameters
    ----------
    app
        The application.
    host, port
        Where to listen; port 0 takes a free one.

    Attributes
    ----------
    port
        The one in use.

    Raises
    ------
    ConfigError
        If the port cannot be had.
    """

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> None:
        try:
            self._socket = socket.create_server((host, port))
        except (OSError, OverflowError) as error:  # the latter: no such port
            raise ConfigError(
                f"cannot serve HTTP on {host}:{port} ({error}); choose another port"
            ) from error
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(GRACE_S),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the answers under way and stop listening."""
        self._server.should_exit = True
        self._thread.join(GRACE_S + 2.0)
        self._socket.close()
