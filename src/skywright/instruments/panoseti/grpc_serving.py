"""What every gRPC server here does: health, reflection, a TCP port, and its end on a signal."""

import socket

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from skywright.errors import ConfigError

PING_MS = 30_000
"""A client is asked after this time whether it is still there, and has as long to answer. Without
this the calls of one that is frozen, or whose machine is off, would last for ever."""


class GrpcServer:
    """A gRPC server with one service, in the running event loop.

    Parameters
    ----------
    service
        Name of the service.
    handlers
        Of its methods.

    Attributes
    ----------
    server
        To start and stop.
    health
        What answers health checks.
    """

    def __init__(self, service: str, handlers: grpc.GenericRpcHandler) -> None:
        self._service = service
        self.server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", PING_MS),
                ("grpc.http2.ping_timeout_ms", PING_MS),
                # Else a client that pings during an idle stream is disconnected at its third ping
                ("grpc.http2.max_ping_strikes", 0),
            ]
        )
        self.server.add_generic_rpc_handlers([handlers])
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = [service, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self.server)

    def listen(self, host: str, port: int) -> int:
        """Listen on a TCP port, 0 for a free one; return it.

        Raises
        ------
        ConfigError
            If it cannot be used.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        host = f"[{host}]" if ":" in host else host
        try:
            # gRPC prints a line of its own where this fails.
            socket.create_server((host.strip("[]"), port), family=family).close()
            taken: int = self.server.add_insecure_port(f"{host}:{port}")
        except (OSError, RuntimeError) as error:
            message = f"{host}:{port} cannot be used; is another server running?"
            raise ConfigError(message) from error
        return taken

    async def set_health(self, serving: bool) -> None:
        """Say to health checks whether the service works."""
        status = health_pb2.HealthCheckResponse
        for name in ("", self._service):
            await self.health.set(name, status.SERVING if serving else status.NOT_SERVING)
