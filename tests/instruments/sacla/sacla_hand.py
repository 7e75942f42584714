"""A source of shots whose records a test sends, on its own thread."""

from collections.abc import Callable
from typing import Any

import numpy as np

from skywright.acquire.source import Report
from skywright.instruments.sacla.join import Record, TagGrid
from skywright.instruments.sacla.regions import parse_region
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import ShotRules
from skywright.instruments.sacla.tile import PixelRules, Tile

NAME, SHAPE = "D", (6, 8)
WHOLE = parse_region("all:D:-1,-1;9,-1;9,7;-1,7")
EV = 15.0 * 3.65
"""Of one ADU."""


def run_info(run: int = 7, hightag: int = 202301, detectors: tuple[str, ...] = (NAME,)) -> RunInfo:
    tiles = {name: Tile(name, 15.0, np.zeros(SHAPE, bool)) for name in detectors}
    return RunInfo(
        run=run,
        hightag=hightag,
        grid=TagGrid(1000 * run, 2),
        tiles=tiles,
        shot_rules=ShotRules(0.05, 0.5, 0.01, 0.0, 0.001, 500.0),
        pixel_rules=PixelRules(10_000.0, 3.65, 0.0, 4.0, 3.0, 1.0),
    )


class HandShots:
    """A source whose records the test sends, on the test's thread."""

    name = "hand"
    period_s = 0.0
    trouble = ""

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.is_running = False
        self._deliver: Callable[[Record[Any]], None] = lambda _: None
        self.lost: dict[str, int] = {}

    def start(self, deliver: Callable[[Record[Any]], None], report: Report) -> None:
        self._deliver, self.is_running = deliver, True

    def stop(self) -> None:
        self.is_running = False

    def set_period(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        self.stop()

    def shot(self, number: int, **changed: Any) -> None:
        """Send the records of a shot; None leaves one out."""
        values: dict[str, Any] = {
            "i0": 1.0,
            "beam": 1.0,
            "laser_open": float(number % 2),
            "laser_close": float(1 - number % 2),
            "delay": 10.0,
            "timing": 500.0,
            **{name: np.full(SHAPE, 100.0 + number, np.float32) for name in self.info.tiles},
            **changed,
        }
        tag = self.info.grid.first + number * self.info.grid.step
        for channel, payload in values.items():
            if payload is not None:
                self._deliver(Record(channel, tag, self.info.run, payload))
