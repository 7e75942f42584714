"""The process ``skywright panoseti serve``: DaqData over TCP and a Unix socket."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import grpc

from skywright.errors import ConfigError
from skywright.instruments.panoseti.grpc_serving import GrpcServer
from skywright.instruments.panoseti.live.config import HpIoConfig, ServerConfig
from skywright.instruments.panoseti.live.service import DaqDataService
from skywright.instruments.panoseti.warm import warm_up
from skywright.processes.lifecycle import announce_ready, stop_event
from skywright.processes.sockets import claim_socket, remove_socket
from skywright.wire.daqdata import SERVICE
from skywright.wire.daqdata.methods import handlers

logger = logging.getLogger(__name__)

GRACE_S = 1.0
"""Time for calls to end by themselves at a stop; streams are ended before."""


class DaqDataServer:
    """DaqData, health and reflection on a TCP port and a Unix socket, in the running event loop.

    Parameters
    ----------
    config
        Settings of the server.
    host, port
        Where to listen; port 0 takes a free one.

    Attributes
    ----------
    service
        What answers the calls.
    port
        The port in use.
    socket
        The Unix socket in use; None for none.
    """

    def __init__(self, config: ServerConfig, host: str, port: int) -> None:
        self.service = DaqDataService(config, self._set_health)
        self._grpc = GrpcServer(SERVICE, handlers(self.service))
        self.port = port
        self.socket: Path | None = None
        self._config = config
        self._host = host
        self._inode = 0

    async def start(self, hp_io: HpIoConfig | None = None) -> None:
        """Start to serve.

        Parameters
        ----------
        hp_io
            What to read from the start; None waits for InitHpIo.

        Raises
        ------
        ConfigError
            If the port is taken or `hp_io` cannot start.
        """
        server = self._grpc.server
        self.port = self._grpc.listen(self._host, self.port)
        self.socket = _add_unix_socket(server, self._config.unix_domain_socket)
        if hp_io is not None:
            await self.service.hp_io.start(hp_io)
        await server.start()
        if self.socket is not None:
            self._inode = self.socket.stat().st_ino
        await self._set_health(self.service.hp_io.failure == "")

    async def _set_health(self, serving: bool) -> None:
        await self._grpc.set_health(serving)

    async def stop(self) -> None:
        """End the streams with CANCELLED, then everything."""
        await self._grpc.health.enter_graceful_shutdown()
        grace_s = self._config.shutdown_grace_period
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.service.stop()
        await self._grpc.server.stop(min(GRACE_S, grace_s))
        if self.socket is not None:
            remove_socket(self.socket, self._inode)


async def serve(config: ServerConfig, hp_io: HpIoConfig | None, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; arguments as of `DaqDataServer`.

    Raises
    ------
    ConfigError
        If the port is taken or `hp_io` cannot start.
    """
    stop = stop_event()
    # Else the first frames of each product would wait for it, and with them all calls.
    await asyncio.to_thread(warm_up)
    server = DaqDataServer(config, host, port)
    await server.start(hp_io)
    announce_ready(
        port=server.port, host=host, socket=str(server.socket) if server.socket else None
    )
    await stop.wait()
    await server.stop()


def _add_unix_socket(server: grpc.aio.Server, address: str | None) -> Path | None:
    """Listen on the Unix socket too; say why if that is not possible, and go on."""
    if not address:
        return None
    name = address.removeprefix("unix:")
    path = Path("/" + name.lstrip("/") if name.startswith("/") else name)
    try:
        claim_socket(path)
        server.add_insecure_port(f"unix:{path}")
    except (ConfigError, RuntimeError, OSError) as error:
        logger.error("not served on a Unix socket: %s", error)
        return None
    return path
