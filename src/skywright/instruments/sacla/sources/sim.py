"""The simulated beamline as a source."""

import heapq
from itertools import count
from typing import Any

from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.sources.arrival import TimedSource
from skywright.instruments.sacla.twin import Beamline
from skywright.instruments.sacla.values import parse_value


class SimSource(TimedSource):
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

    def __init__(self, beamline: Beamline, shots: int | None = None, speed: float = 1.0) -> None:
        super().__init__("sim", speed)
        self.info = beamline.info
        self._beamline, self._shots = beamline, shots
        self._made = 0
        self._order = count()
        self._coming: list[tuple[float, int, Record[Any]]] = []

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
        if not self.is_due(self._coming[0][0], timeout_s):
            return None
        record = heapq.heappop(self._coming)[2]
        if record.run > self.info.run:
            self.info = beamline.info_of(record.run)
        if record.channel in self.info.tiles:
            return record
        return Record(record.channel, record.tag, record.run, parse_value(record.payload))
