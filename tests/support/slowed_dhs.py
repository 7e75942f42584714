"""A DHS whose detector takes longer: ``python slowed_dhs.py DCSS_PORT TIMES DIRECTORY``."""

# ruff: noqa: E402
from skywright.process import share_arenas

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
from skywright.callbacks.series_run import SeriesRun
from skywright.loop.backends import Found
from skywright.loop.backends.classical import ClassicalDetector
from skywright.loop.camera import Camera
from skywright.loop.found import LoopsFound
from skywright.loop.sources.push import PushedPictures
from skywright.process import announce_ready, end_with_parent, log_to_stderr
from skywright.services.dhs.face import Dhs


class SlowedDetector(ClassicalDetector):
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
        return SeriesRun(LoopsFound(), journal, directory / "assets", metadata)

    announce_ready(receiver_port=source.port)
    asyncio.run(Dhs("loopDHS", camera, detector, begin_run=begin).run("127.0.0.1", port))


if __name__ == "__main__":
    main()
