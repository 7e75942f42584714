"""HTTP servers: on a thread beside whatever else a process does, or as the work of a process."""

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from skywright.errors import ConfigError
from skywright.processes.lifecycle import END_SIGNALS
from skywright.processes.ports import address_family

GRACE_S = 1.0
"""Time that open responses get after the stop, s."""
BACKLOG = 2048
"""Connections that may wait to be accepted."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Parameters
    ----------
    host, port
        Where; port 0 takes a free one.

    Raises
    ------
    ConfigError
        If the port is in use or not allowed.
    """
    try:
        listener = socket.create_server((host, port), family=address_family(host), backlog=BACKLOG)
    except (OSError, OverflowError) as error:  # the latter: no such port
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        advice = "; does it run already? Choose another port, or 0 for a free one" if taken else ""
        raise ConfigError(f"cannot serve HTTP on {host}:{port} ({error}){advice}") from error
    # Its connections inherit this. asyncio sets it for sockets that it has made itself only, and
    # without it each request of a connection but the first waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    ready: Callable[[int], None],
    *,
    on_signal: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Serve an ASGI application as the work of this process, until SIGTERM or SIGINT.

    Threads of `asyncio.to_thread` may still work when it returns; `lifecycle.end_process` does not
    wait for them either.

    Parameters
    ----------
    app
        The application.
    host, port
        Where to listen; port 0 takes a free one.
    ready
        Called with the port once requests are answered.
    on_signal
        Called at the signal, before open responses are waited for.
    **options
        Options of `uvicorn.Config`, such as ``timeout_graceful_shutdown``.

    Raises
    ------
    ConfigError
        If the port is in use or not allowed, or the application does not start.
    """
    with listen(host, port) as listener:
        at: int = listener.getsockname()[1]
        config = uvicorn.Config(app, log_config=None, access_log=False, **options)
        server = _ProcessServer(config, lambda: ready(at), on_signal)
        try:
            server.run([listener])
        except SystemExit as failure:  # uvicorn's, after its start has failed
            raise ConfigError(
                f"the server on {host}:{at} did not start; the log above says why"
            ) from failure


class _ProcessServer(uvicorn.Server):
    """A server that ends on a signal with status 0; uvicorn's own raises the signal again.

    Parameters
    ----------
    config
        Configuration of uvicorn.
    ready
        Called when it listens.
    on_signal
        Called at SIGTERM and SIGINT.
    """

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], on_signal: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready, self._on_signal = ready, on_signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then call `ready`."""
        asyncio.get_running_loop().set_default_executor(_AbandonedThreads())
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT; at once on a SIGINT after the first signal.

        A second SIGTERM changes nothing.
        """
        for number in END_SIGNALS:
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Call `on_signal`, then end."""
        self._on_signal()
        super().handle_exit(sig, frame)


class _AbandonedThreads(ThreadPoolExecutor):
    """The threads of `asyncio.to_thread`; the end of the event loop does not wait for them.

    One may wait for minutes for another server, or for a disk that does not answer.
    """

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the calls that wait for a thread; do not wait for those that run."""
        super().shutdown(wait=False, cancel_futures=True)


class HttpServer:
    """Serve an ASGI application on a thread until `close`.

    Parameters
    ----------
    app
        The application.
    host, port
        Where to listen; port 0 takes a free one.
    **options
        Options of `uvicorn.Config`.

    Attributes
    ----------
    port
        The one in use.

    Raises
    ------
    ConfigError
        If the port is in use or not allowed. An error at the start of the application is only
        logged.
    """

    def __init__(
        self, app: ASGIApp, host: str = "127.0.0.1", port: int = 0, **options: Any
    ) -> None:
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(GRACE_S),
            **options,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="http", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; open responses get `GRACE_S`."""
        self._server.should_exit = True
        self._thread.join(GRACE_S + 2.0)
        self._socket.close()
