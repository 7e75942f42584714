"""A source whose items a test delivers."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skywright.acquire.columns_layout import ColumnsLayout, Rows
from skywright.acquire.source import Report
from skywright.errors import HardwareError
from skywright.files.columns import Column

IDENTITY = Column("/entry/event", "<i8")
HEIGHT = Column("/entry/height", "<u2")


@dataclass
class HandSource:
    """Delivers what the test sends, on the test's thread."""

    name: str = "hand"
    period_s: float = 0.0
    refuses: str = ""
    sticks: bool = False
    """Whether it does not stop."""
    running: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.deliver: Callable[[Any], None] | None = None
        self.report: Report | None = None

    @property
    def lost(self) -> Mapping[str, int]:
        return self.counts

    def start(self, deliver: Callable[[Any], None], report: Report) -> None:
        if self.refuses:
            raise HardwareError(self.refuses)
        self.deliver, self.report, self.running = deliver, report, True

    def stop(self) -> None:
        if self.sticks:
            raise HardwareError("hand: the source has not stopped")
        self.running = False

    def set_period(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        self.stop()
        self.closed = True

    def send(self, *items: Any) -> None:
        assert self.running, "nobody wants items"
        assert self.deliver is not None
        for item in items:
            self.deliver(item)


def layout() -> ColumnsLayout:
    """Return a layout of events with a pulse height."""
    return ColumnsLayout("events", (HEIGHT,), IDENTITY)


def events(first: int, count: int) -> Rows:
    """Return rows whose heights follow from their numbers."""
    numbers = np.arange(first, first + count)
    return Rows(numbers, {HEIGHT.path: numbers % 1000})
