"""The DHS: its operations, its camera and its connection to DCSS."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from skywright.instruments.loop.backends import Detector
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.link import RETRY_S, keep_connected
from skywright.instruments.loop.dhs.operations import ImageList, SnapshotOperations
from skywright.instruments.loop.dhs.recording import BeginRun, SeriesRecorder
from skywright.instruments.loop.dhs.replies import OperationError
from skywright.instruments.loop.dhs.series import SeriesOperations
from skywright.instruments.loop.dhs.server import Call, Operation, Server
from skywright.instruments.loop.dhs.snapshots import Fetch, Snapshots

WARM_UP_WAIT_S = 10.0
"""An operation waits this long for the detector's warm-up; DCSS's scripts give up after 15 s."""
WARMING_UP = "warming up"
WITHOUT_DETECTOR = frozenset({"initializeCamera", "findBoundingBox", "stopCollectLoopImages"})
WAITS_ITSELF = frozenset({"collectLoopImages"})


class Dhs:
    """Serves DCSS; to be used inside one event loop.

    Parameters
    ----------
    name
        In DCSS's database.
    camera, detector
        Give the pictures of series, and search pictures; they stay the caller's to close.
    fetch
        Gives single pictures; None if there is no camera to ask.
    begin_run
        Begins the run of a series; None without a catalog.
    config
        Numbers that differ between beamlines.
    save_directory
        Where pictures of series are saved one by one; None saves none.
    workers
        Pictures of a series searched at a time.
    warm
        Set when the detector is loaded; None: it is already.
    """

    def __init__(
        self,
        name: str,
        camera: Camera,
        detector: Detector,
        fetch: Fetch | None = None,
        begin_run: BeginRun | None = None,
        config: DhsConfig | None = None,
        save_directory: Path | None = None,
        workers: int = 1,
        warm: asyncio.Event | None = None,
    ) -> None:
        config = config or DhsConfig()
        recorder, ready = SeriesRecorder(camera, begin_run), partial(_wait_until_warm, warm)
        self._series = SeriesOperations(recorder, detector, config, save_directory, workers, ready)
        snapshots = SnapshotOperations(
            Snapshots(fetch, detector),
            ImageList(config.axis_row),
            config.video_fps,
            (save_directory or recorder.scratch) / "background.png",
        )
        self._camera, self._warm = camera, warm
        operations = {**snapshots.table(), **self._series.table()}
        for each in operations.keys() - WITHOUT_DETECTOR - WAITS_ITSELF:
            operations[each] = partial(_when_warm, operations[each], warm)
        self.server = Server(name, operations, detector.trouble)

    def state(self) -> dict[str, Any]:
        """Return how connection, operations, series and pictures stand, JSON values.

        Of the series under way, or the last one: its ``key`` (``operation:handle``; empty before
        the first), whether it is ``running``, the number of pictures ``expected`` (0: unknown)
        and, after the first, what became of its pictures.
        """
        camera = self._camera.state()
        return {
            "name": self.server.name,
            "registered": self.server.registered,
            "ready": self._warm is None or self._warm.is_set(),
            "operations": dict(self.server.counts),
            "series": self._series.state(),
            "pictures": camera.acquired,
            "lost": dict(camera.lost),
        }

    async def run(self, host: str, port: int, retry_s: float = RETRY_S) -> None:
        """Serve the DCSS at `host`, `port`, over one connection after the other, for ever."""
        try:
            await keep_connected(host, port, self.server.session, retry_s)
        finally:
            await self.server.close()
            await self._series.close()


async def _when_warm(operation: Operation, warm: asyncio.Event | None, call: Call) -> str:
    await _wait_until_warm(warm, call)
    return await operation(call)


async def _wait_until_warm(warm: asyncio.Event | None, call: Call) -> None:
    """Wait for the warm-up; raise `OperationError` when that takes long.

    A search that waited for the file of a network could neither be aborted nor end with the DHS.
    """
    if warm is None or warm.is_set():
        return
    call.note(f"{WARMING_UP}: the detector is being loaded")
    try:
        async with asyncio.timeout(WARM_UP_WAIT_S):
            await warm.wait()
    except TimeoutError:
        raise OperationError(WARMING_UP) from None
