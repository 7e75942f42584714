"""A source of pulses that a test feeds, and a whole service around it."""

import argparse
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.acquire.source import PolledSource
from skywright.instruments.psss.cli.app import serve_arguments
from skywright.instruments.psss.endpoints import service as psss_service
from skywright.instruments.psss.processing import warm_up
from skywright.instruments.psss.pulse import Pulse

PREFIX = "TEST-PSSS"
ROWS, COLUMNS = 40, 120
TIME_NS = 1_700_000_000_123_456_789


class ScriptedSource(PolledSource[Pulse]):
    """Gives the pulses, or raises the errors, that a test puts."""

    def __init__(self) -> None:
        super().__init__("scripted")
        warm_up()  # a pulse of a test does not wait for the compiler
        self.queue: queue.Queue[Pulse | Exception] = queue.Queue()
        self.counts: Counter[str] = Counter()
        self.running = threading.Event()
        self.start_error: Exception | None = None
        self.start_gate = threading.Event()
        self.start_gate.set()

    @property
    def lost(self) -> Mapping[str, int]:
        return self.counts

    def open(self) -> None:
        self.start_gate.wait(10)
        if self.start_error is not None:
            raise self.start_error
        self.running.set()

    def next(self, timeout_s: float) -> Pulse | None:
        try:
            item = self.queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def halt(self) -> None:
        self.running.clear()

    def put(self, *pulse_ids: int, **values: Any) -> None:
        for pulse_id in pulse_ids:
            self.queue.put(make_pulse(pulse_id, **values))


def picture(center: float = 60.0, rows: int = ROWS, columns: int = COLUMNS) -> NDArray[np.uint16]:
    """A Gaussian along the columns, over the whole height, on an offset of 100."""
    line = 100 + 400 * np.exp(-0.5 * ((np.arange(columns) - center) / 6.0) ** 2)
    return np.tile(np.rint(line).astype(np.uint16), (rows, 1))


PICTURE = picture()


def make_pulse(
    pulse_id: int, image: Any = PICTURE, time_ns: int | None = TIME_NS, message: Any = None
) -> Pulse:
    return Pulse(pulse_id, time_ns, image, message)


def arguments(*given: str, directory: Path) -> argparse.Namespace:
    return serve_arguments(
        [
            *("--prefix", PREFIX, "--output-port", "0", "--rest-port", "0"),
            *("--background-dir", str(directory), "--source", "bsread"),
            *("--input", "tcp://127.0.0.1:1", *given),
        ]
    )


@contextmanager
def running_service(source: Any, *given: str, directory: Path) -> Iterator[psss_service.Service]:
    """A service in this process, over a source of the test's."""
    original = psss_service.make_source
    psss_service.make_source = lambda args: source
    try:
        service = psss_service.Service(arguments(*given, directory=directory))
    finally:
        psss_service.make_source = original
    try:
        service.processor.warm.wait()
        yield service
    finally:
        service.close()
