"""The process ``skywright panoseti ublox``."""

from skywright.instruments.panoseti.grpc_serving import GrpcServer
from skywright.instruments.panoseti.ublox.service import UbloxService
from skywright.processes.lifecycle import announce_ready, stop_event
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
    stop = stop_event()
    service = UbloxService()
    grpc_server = GrpcServer(SERVICE, handlers(service))
    service.set_health = grpc_server.set_health
    port = grpc_server.listen(host, port)
    twin = None
    if simulate:
        from skywright.instruments.panoseti.ublox.twin import SimulatedF9t

        twin = SimulatedF9t()
    await grpc_server.server.start()
    await grpc_server.set_health(True)
    announce_ready(port=port, host=host, device=twin.device if twin else None)
    await stop.wait()
    await service.stop()
    await grpc_server.server.stop(GRACE_S)
    if twin is not None:
        twin.close()
