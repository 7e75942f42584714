"""A DHS over a camera that the test pushes pictures to, and the DCSS that it talks to."""

import asyncio
import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.dcss import Dcss, Link
from support.in_loop import running

from skywright.errors import HardwareError
from skywright.instruments.loop.backends import Detector, Found, NetworkDetector
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.detect import warm_up
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.service import Dhs
from skywright.instruments.loop.sources.push import PushedPictures

NO_TURN = DhsConfig(osci_delta=0.0)
OPERATIONS = (
    "initializeCamera",
    "getLoopTip",
    "getPinDiameters",
    "addImageToList",
    "findBoundingBox",
    "getVerticalCut",
    "getLoopInfo",
    "collectLoopImages",
    "stopCollectLoopImages",
    "reboxLoopImage",
    "testAutoML",
)


class SlowDetector(Detector):
    """Our detector, `seconds` late, or once it is released."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.release = threading.Event()
        self.looking = threading.Event()
        self.keys: list[str] = []
        self._inner = NetworkDetector()

    def find(self, picture: NDArray[np.uint8], file: bytes | None = None, key: str = "") -> Found:
        self.keys.append(key)
        self.looking.set()
        self.release.wait(self.seconds)
        return self._inner.find(picture, file)

    def warm_up(self) -> None:
        self._inner.warm_up()


@dataclass
class Bench:
    """What a test drives."""

    link: Link
    camera: Camera
    source: PushedPictures
    snapshots: list[bytes | Exception] = field(default_factory=list)
    """What the camera answers when asked for a picture; the last one stays."""
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)
    """The loop of the DHS."""

    def push(self, *files: bytes) -> None:
        """Upload pictures, one connection for all, and see that each was taken."""
        connection = http.client.HTTPConnection("127.0.0.1", self.source.port, timeout=90)
        for file in files:
            connection.request("POST", "/upload", file, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        connection.close()

    def collecting(self, handle: str, *arguments: object) -> None:
        """Start a series and wait until it is time to turn the spindle."""
        self.link.start("collectLoopImages", handle, *arguments)
        self.link.until(lambda: self.link.updates(handle))
        assert self.link.updates(handle)[0] == "start_oscillation"


@contextmanager
def bench(
    detector: Detector | None = None,
    config: DhsConfig = NO_TURN,
    save_directory: Path | None = None,
    begin_run: Callable[[Mapping[str, Any]], Any] | None = None,
    warm: asyncio.Event | None = None,
) -> Iterator[Bench]:
    """Run a DHS, connected and registered; `warm` says when its detector is."""
    warm_up()  # or the first picture would wait for a compiler
    hub = Dcss()
    source = PushedPictures()
    camera = Camera(source)
    snapshots: list[bytes | Exception] = []

    async def fetch() -> bytes:
        if not snapshots:
            raise HardwareError("camera: no route to host")
        answer = snapshots.pop(0) if len(snapshots) > 1 else snapshots[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        search = detector or NetworkDetector()
        dhs = Dhs("loopDHS", camera, search, fetch, begin_run, config, save_directory, warm=warm)
        await dhs.run("127.0.0.1", hub.port, retry_s=0.05)

    try:
        with running(run), hub.connected(*OPERATIONS) as link:
            yield Bench(link, camera, source, snapshots, loops)
    finally:
        camera.close()
        hub.close()
