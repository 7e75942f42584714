"""A DHS whose detector takes longer: ``python slowed_dhs.py DCSS_PORT TIMES DIRECTORY``."""

# ruff: noqa: E402
from skywright.processes.memory import share_arenas

share_arenas()  # as the command line does, before numpy

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.callbacks.journal import Journal
from skywright.instruments.loop.backends import Found, NetworkDetector
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.dhs.config import DhsConfig
from skywright.instruments.loop.dhs.service import Dhs
from skywright.instruments.loop.series_run import RecordedDetection, SeriesRun
from skywright.instruments.loop.sources.push import PushedPictures
from skywright.processes.lifecycle import announce_ready, end_with_parent
from skywright.processes.logs import log_to_stderr


class SlowedDetector(NetworkDetector):
    """Takes `times` as long as it should."""

    def __init__(self, times: float) -> None:
        self.times = times

    def find(self, picture: NDArray[np.uint8], file: bytes | None = None, key: str = "") -> Found:
        begun = time.perf_counter()
        found = super().find(picture, file)
        threading.Event().wait((self.times - 1.0) * (time.perf_counter() - begun))
        return found


def main() -> None:
    port, times, directory = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    log_to_stderr()
    end_with_parent()
    detector = SlowedDetector(times)
    detector.warm_up()
    journal = Journal(directory / "journal")
    source = PushedPictures()
    camera = Camera(source)

    def begin(metadata: Any) -> SeriesRun:
        return SeriesRun(RecordedDetection(), journal, directory / "assets", metadata)

    announce_ready(receiver_port=source.port)
    dhs = Dhs("loopDHS", camera, detector, begin_run=begin, config=DhsConfig(osci_delta=0.0))
    asyncio.run(dhs.run("127.0.0.1", port))


if __name__ == "__main__":
    main()
