"""The whole DHS over the owner of a camera."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from skywright.instruments.loop.backends import Detector
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.dhs.image_list import ImageList
from skywright.instruments.loop.dhs.link import RETRY_S, keep_connected
from skywright.instruments.loop.dhs.operations import SnapshotOperations
from skywright.instruments.loop.dhs.recording import BeginRun, Recorder
from skywright.instruments.loop.dhs.series import SeriesOperations
from skywright.instruments.loop.dhs.server import Server
from skywright.instruments.loop.dhs.settings import DhsSettings
from skywright.instruments.loop.dhs.snapshots import Fetch, Snapshots
from skywright.instruments.loop.dhs.status import Status


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
        self._camera, self._detector = camera, detector
        self.server = Server(name, {**snapshots.table(), **self._series.table()}, detector.trouble)

    def status(self, is_ready: Callable[[], bool], facts: Mapping[str, Any]) -> Status:
        """Return where the state of this DHS is read, for `status_app`."""
        return Status(
            self.server, self._camera, self._series.state, self._detector.trouble, is_ready, facts
        )

    async def run(self, host: str, port: int, retry_s: float = RETRY_S) -> None:
        """Serve the DCSS at `host`, `port`, over one connection after the other, for ever."""
        try:
            await keep_connected(host, port, self.server.session, retry_s)
        finally:
            await self.server.close()
            await asyncio.to_thread(self._series.close)
