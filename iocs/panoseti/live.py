"""The gRPC endpoint of the IOC: the newest frames for live clients."""

import asyncio
from contextlib import suppress

from skywright.instruments.panoseti.live.config import (
    AcquisitionMethods,
    Enabled,
    HpIoConfig,
    ServerConfig,
)
from skywright.instruments.panoseti.live.server import DaqDataServer
from skywright.instruments.panoseti.sources.replay import ReplaySource
from skywright.instruments.panoseti.sources.rundir import FrameGroup
from skywright.instruments.panoseti.tracking import Tracker


class LiveFrames:
    """DaqData beside the PVs, in the IOC's event loop.

    Clients get the frames of growing files as soon as they are written, whether a run is tracked or
    not. A replayed run does not grow: its frames come from the owner.

    Parameters
    ----------
    tracker
        Owner of the frames.
    host, port
        Where to listen; port 0 takes a free one.
    modules
        Modules to serve; empty for all.
    """

    def __init__(
        self, tracker: Tracker, host: str, port: int, modules: frozenset[int] = frozenset()
    ) -> None:
        self._host, self._port, self._modules = host, port, modules
        self._server: DaqDataServer | None = None
        self._tracker = tracker
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> int:
        """Start to serve; return the port.

        Raises
        ------
        ConfigError
            If the port is taken.
        """
        source = self._tracker.source
        methods = AcquisitionMethods()
        if isinstance(source, ReplaySource):
            # Followed files would give the last frames of the run first. The pipe that this mode
            # reads is never written, so only `offer` publishes frames.
            methods = AcquisitionMethods(
                filesystem_poll=Enabled(), filesystem_pipe=Enabled(enabled=True)
            )
        config = ServerConfig(unix_domain_socket=None, acquisition_methods=methods)
        # It belongs to the loop that runs when it is made.
        server = DaqDataServer(config, self._host, self._port)
        data_dir = str(source.data_dir)
        await server.start(HpIoConfig(data_dir=data_dir, module_ids=tuple(sorted(self._modules))))
        self._server, self._loop = server, asyncio.get_running_loop()
        if isinstance(source, ReplaySource):
            self._tracker.owner.endpoints.append(self)
        return server.port

    async def stop(self) -> None:
        """End the streams and the server."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    def offer(self, result: FrameGroup) -> None:
        """Publish the newest of these frames; from any thread."""
        loop, server = self._loop, self._server
        if loop is not None and server is not None and len(result.frames):
            publisher = server.service.hp_io.publisher
            with suppress(RuntimeError):  # the loop has ended in this moment
                loop.call_soon_threadsafe(publisher.publish_newest, result.frames)
