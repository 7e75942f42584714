"""The simulated beamline as a source."""

import heapq
from itertools import count
from typing import Any

from skywright.acquire.source import PolledSource
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.sources import STOP_LIMIT_S
from skywright.instruments.sacla.sources.arrival import ArrivalClock
from skywright.instruments.sacla.twin import Beamline
from skywright.instruments.sacla.values import parse_value


class SimSource(PolledSource[Record[Any]]):
    """Yields the records of simulated shots, in order of their arrival.

    `info` is a new object before the first record of a new run.

    Parameters
    ----------
    beamline
        What is simulated.
    shots
        Number of shots; None: without end.
    speed
        Factor on the pace; 0: as fast as the records are taken.
    """

    trouble = ""

    def __init__(self, beamline: Beamline, shots: int | None = None, speed: float = 1.0) -> None:
        super().__init__("sim")
        self.stop_limit_s = STOP_LIMIT_S
        self.info = beamline.info
        self._beamline, self._shots = beamline, shots
        self._made = 0
        self._order = count()
        self._coming: list[tuple[float, int, Record[Any]]] = []
        self._speed, self._clock = speed, ArrivalClock(speed)

    def open(self) -> None:
        """Begin, or go on after a stop where it ended."""
        self._clock = ArrivalClock(self._speed)

    def next(self, timeout_s: float) -> Record[Any] | None:
        """Return the next record, when it is due."""
        beamline = self._beamline
        while not self._coming or self._coming[0][0] >= beamline.time_of(self._made):
            if self._shots is not None and self._made >= self._shots:
                break
            for arrival, record in beamline.shot(self._made):
                heapq.heappush(self._coming, (arrival, next(self._order), record))
            self._made += 1
        if not self._coming:
            raise StopIteration
        if not self._clock.wait(self._coming[0][0], timeout_s):
            return None
        record = heapq.heappop(self._coming)[2]
        if record.run > self.info.run:
            self.info = beamline.info_of(record.run)
        if record.channel in self.info.tiles:
            return record
        return Record(record.channel, record.tag, record.run, parse_value(str(record.payload)))

    def halt(self) -> None:
        """End the wait for the next record."""
        self._clock.end()
