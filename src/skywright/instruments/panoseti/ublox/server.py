"""The process ``skywright panoseti ublox``."""

import asyncio
import signal

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from skywright.errors import ConfigError
from skywright.instruments.panoseti.ublox.service import UbloxService
from skywright.processes.lifecycle import announce_ready
from skywright.wire.ubx import SERVICE
from skywright.wire.ubx.methods import handlers

GRACE_S = 0.5


async def serve(host: str, port: int, simulate: bool) -> None:
    """Serve until SIGTERM or SIGINT.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes a free one.
    simulate
        Also run a simulated receiver; the ready line names its device.

    Raises
    ------
    ConfigError
        If the port is taken.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    service = UbloxService()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([handlers(service)])
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = [SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        message = f"{host}:{port} cannot be used; is another server running?"
        raise ConfigError(message) from error
    twin = None
    if simulate:
        from skywright.instruments.panoseti.ublox.twin import SimulatedF9t

        twin = SimulatedF9t()
    await server.start()
    for name in ("", SERVICE):
        await status.set(name, health_pb2.HealthCheckResponse.SERVING)
    announce_ready(port=port, host=host, device=twin.device if twin else None)
    await stop.wait()
    await service.stop()
    await server.stop(GRACE_S)
    if twin is not None:
        twin.close()
