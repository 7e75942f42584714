"""Writes a simulated visit into a directory as time passes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from skywright.instruments.epu.twin.visit import TwinVisit
from skywright.instruments.epu.twin.writer import visit_files


def visit_feed(visit: TwinVisit, speed: float) -> Callable[[Path, threading.Event], None]:
    """Return what writes `visit`, `speed` times as fast as EPU would; infinite is without waits."""

    def feed(root: Path, stopped: threading.Event) -> None:
        start = time.monotonic()
        for write in visit_files(visit, images=True):
            delay = write.time / speed - (time.monotonic() - start)
            if stopped.wait(delay) if delay > 0 else stopped.is_set():
                return
            write.put(root)

    return feed
