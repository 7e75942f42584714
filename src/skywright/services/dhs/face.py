"""The whole DHS over the owner of a camera."""

import asyncio

from skywright.loop.backends import Detector
from skywright.loop.camera import Camera
from skywright.services.dhs.image_list import ImageList
from skywright.services.dhs.link import RETRY_S, keep_connected
from skywright.services.dhs.operations import SnapshotOperations
from skywright.services.dhs.recording import BeginRun, Recorder
from skywright.services.dhs.series import SeriesOperations
from skywright.services.dhs.server import Server
from skywright.services.dhs.settings import DhsSettings
from skywright.services.dhs.snapshots import Fetch, Snapshots


class Dhs:
    """Serves DCSS; to be used inside one event loop.

    Parameters
    ----------
    name
        In DCSS's database.
    camera
        Gives the pictures of series; it stays the caller's to close.
    detector
        Searches pictures; it stays the caller's to close.
    fetch
        Gives single pictures; None if there is no camera to ask.
    begin_run
        Begins the run of a series; None without a catalog.
    settings
        Numbers and directories.
    """

    def __init__(
        self,
        name: str,
        camera: Camera,
        detector: Detector,
        fetch: Fetch | None = None,
        begin_run: BeginRun | None = None,
        settings: DhsSettings | None = None,
    ) -> None:
        settings = settings or DhsSettings()
        recorder = Recorder(camera, begin_run)
        self._series = SeriesOperations(recorder, detector, settings)
        snapshots = SnapshotOperations(
            Snapshots(fetch, detector),
            ImageList(settings.axis_row),
            settings.fps,
            settings.save_directory or recorder.scratch,
        )
        self.server = Server(name, {**snapshots.table(), **self._series.table()})

    async def run(self, host: str, port: int, retry_s: float = RETRY_S) -> None:
        """Serve the DCSS at `host`, `port`, over one connection after the other, for ever."""
        try:
            await keep_connected(host, port, self.server.session, retry_s)
        finally:
            await self.server.close()
            await asyncio.to_thread(self._series.close)
