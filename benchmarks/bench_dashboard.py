"""The camera while people look: ``python -m benchmarks.bench_dashboard [--seconds 10]``.

Pictures of the twin are pushed at 60/s over two connections into a recording, first with nobody
looking, then with 10 websocket clients of the page: 8 that read all, one that reads nothing, and
headless Chromium. Every process runs as users start it; the file says what was stored.
"""

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.bench_camera import FPS, push, twin_pictures
from benchmarks.headless import headless_chromium
from benchmarks.options import argument_parser
from benchmarks.processes import own_channel_access, running
from benchmarks.rows import report
from skywright.instruments.loop.layouts import IDENTITY

READERS = 8
PREFIX = "BENCH:"
POSTED_PER_S = 5.0


@dataclass
class Counts:
    """What became of one stream of pictures."""

    stored: int
    seconds: float

    @property
    def per_s(self) -> float:
        """Pictures stored per second."""
        return self.stored / self.seconds


def record(port: int, pictures: list[bytes], seconds: float, directory: str) -> Counts:
    """Push pictures into a recording, and count the rows of its file."""
    import epics

    epics.caput(f"{PREFIX}CAM:HDF1:FilePath", directory, wait=True, timeout=5)
    epics.caput(f"{PREFIX}CAM:HDF1:Capture", 1, wait=True, timeout=5)
    path = Path(epics.caget(f"{PREFIX}CAM:HDF1:FullFileName_RBV", as_string=True))
    epics.caput(f"{PREFIX}CAM:cam1:Acquire", 1)
    while not epics.caget(f"{PREFIX}CAM:cam1:Acquire_RBV"):
        threading.Event().wait(0.01)
    began = time.monotonic()
    push(port, pictures, seconds)
    took = time.monotonic() - began
    epics.caput(f"{PREFIX}CAM:cam1:Acquire", 0, wait=True, timeout=10)
    epics.caput(f"{PREFIX}CAM:HDF1:Capture", 0, wait=True, timeout=10)
    with h5py.File(path) as file:
        numbers = file[IDENTITY][:]
    assert len(np.unique(numbers)) == len(numbers)
    return Counts(len(numbers), took)


class Reader:
    """A websocket client of the live camera that takes every picture it is given."""

    def __init__(self, uri: str) -> None:
        self.pictures = 0
        self._socket: ClientConnection = connect(uri, max_size=None)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(ConnectionClosed):
            for message in self._socket:
                if isinstance(message, str):  # a sign of life
                    continue
                self.pictures += json.loads(message.split(b"\n", 1)[0])["bytes"] > 0

    def close(self) -> None:
        """Leave."""
        self._socket.close()


@contextmanager
def audience(page: str) -> Iterator[tuple[list[Reader], Any]]:
    """Let 10 clients look at the live camera."""
    live = f"{page.replace('http', 'ws')}/live/camera"
    with ExitStack() as stack:
        chrome = stack.enter_context(headless_chromium())
        chrome.get(f"{page}/loop")
        readers = [Reader(live) for _ in range(READERS)]
        for reader in readers:
            stack.callback(reader.close)
        # Its window stays full after the first pictures, as on a line that has gone dead.
        stack.enter_context(connect(live, max_size=None, max_queue=1))
        yield readers, chrome


def main() -> int:
    """Print the rows; return 1 if a picture was lost."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream")
    seconds = parser.parse_args().seconds
    port, pictures, pushed = own_channel_access(), twin_pictures(), round(FPS * seconds)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        config = Path(directory) / "skywright.toml"
        config.write_text(
            f'prefix = "{PREFIX}"\n[store]\ndirectory = "{directory}"\n'
            f'[iocs.axis]\nmodule = "iocs.axis"\nprefix = "CAM:"\naddress = "127.0.0.1:{port}"\n'
        )
        ioc = (
            "iocs.axis",
            "--prefix",
            f"{PREFIX}CAM:",
            "--port",
            str(port),
            "--size",
            "704x480",
        )
        listen = stack.enter_context(running(*ioc, "--source", "push", "--listen", "0"))["listen"]
        alone = record(listen, pictures, seconds, directory)
        command = ("skywright.cli", "dashboard", "--port", "0", "--config", str(config))
        page = stack.enter_context(running(*command))["uri"]
        with audience(page) as (readers, chrome):
            watched = record(listen, pictures, seconds, directory)
            script = "return document.querySelector('.camera').dataset.number"
            in_browser = int(chrome.execute_script(script) or 0)
            seen = [reader.pictures for reader in readers]
    report(
        f"camera pushed at {FPS}/s for {seconds:g} s, 10 clients of the page look, stored",
        watched.per_s,
        "1/s",
        reference=alone.per_s,
        goal=FPS,
        lost=pushed - watched.stored,
        lost_unwatched=pushed - alone.stored,
    )
    report(
        "live camera, pictures to the client that got fewest; the IOC posts 5/s",
        min(seen) / watched.seconds,
        "1/s",
        reference=POSTED_PER_S,
        goal=POSTED_PER_S,
        most=max(seen) / watched.seconds,
        in_chromium=in_browser,
    )
    return int(watched.stored < pushed)


if __name__ == "__main__":
    sys.exit(main())
