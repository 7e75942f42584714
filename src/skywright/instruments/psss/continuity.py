"""Keeps the id of the last pulse, also for the next process after one that was killed."""

import logging
import mmap
import struct
from pathlib import Path

from skywright.acquire.counters import Counters
from skywright.instruments.psss.results import Result
from skywright.instruments.psss.sources.gaps import PULSES_A_DAY

logger = logging.getLogger(__name__)

CAUSE = "while the service was down"
_RECORD = struct.Struct("<8sqq")
_MAGIC = b"skypsss1"
_NONE = -1


class Continuity:
    """Keeps the last pulse id in a memory-mapped file, which survives a kill.

    An orderly stop clears it. After a kill the pulses up to the next one are counted as lost.

    Parameters
    ----------
    path
        Path of the file. If it cannot be written, the object does nothing.
    counters
        Counters for the lost pulses, with the cause `CAUSE`.
    """

    def __init__(self, path: Path, counters: Counters) -> None:
        self._counters = counters
        self._map: mmap.mmap | None = None
        self._last = self._before = _NONE
        self._step = self._apart = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                if file.seek(0, 2) != _RECORD.size:
                    file.truncate(0)
                    file.write(_RECORD.pack(_MAGIC, _NONE, 0))
                    file.flush()
                self._map = mmap.mmap(file.fileno(), _RECORD.size)
        except OSError as error:
            logger.warning("psss: %s: pulses lost in a crash will not be counted (%s)", path, error)
            return
        magic, self._before, step = _RECORD.unpack_from(self._map)
        if magic != _MAGIC:
            self._before = _NONE
        self._step = max(step, 0)

    def offer(self, result: Result) -> None:
        """Note the id of a pulse."""
        if self._map is None:
            return
        pulse_id = result.pulse.pulse_id
        apart = pulse_id - self._last
        if self._last != _NONE and apart > 0:
            # The smaller one of the last two: a lost pulse does not change it, a lower rate does
            self._step, self._apart = min(apart, self._apart or apart), apart
        if self._before != _NONE:
            apart, self._before = pulse_id - self._before, _NONE
            if 0 < apart <= PULSES_A_DAY:
                self._counters.add(CAUSE, max(apart // (self._step or 1) - 1, 0))
        self._last = pulse_id
        _RECORD.pack_into(self._map, 0, _MAGIC, pulse_id, self._step)

    def stopped(self) -> None:
        """Note an orderly stop: pulses from now on are not lost."""
        self._last = self._before = _NONE
        if self._map is not None:
            _RECORD.pack_into(self._map, 0, _MAGIC, _NONE, self._step)
