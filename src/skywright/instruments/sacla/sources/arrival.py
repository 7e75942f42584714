"""The base class of sources whose records come at given times."""

import threading
import time
from typing import Any

from skywright.acquire.source import PolledSource
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.sources import STOP_LIMIT_S


class TimedSource(PolledSource[Record[Any]]):
    """Yields records when they are due; after a stop it goes on where it ended.

    Parameters
    ----------
    name
        Kind of source.
    speed
        Speed relative to the given times: 2 is twice as fast; 0: every record is due at once.
    """

    trouble = ""

    def __init__(self, name: str, speed: float) -> None:
        super().__init__(name)
        self.stop_limit_s = STOP_LIMIT_S
        self._speed = speed
        self.open()

    def open(self) -> None:
        """Begin to count the time with the next record."""
        self._zero: float | None = None
        self._halted = threading.Event()

    def halt(self) -> None:
        """End the wait for the next record."""
        self._halted.set()

    def is_due(self, arrival_s: float, timeout_s: float) -> bool:
        """Wait for a record's arrival; return False when it is not due within `timeout_s`.

        Parameters
        ----------
        arrival_s
            Arrival time, s, relative to any origin. The first record is due at once.
        timeout_s
            Longest wait.
        """
        if not self._speed:
            return True
        now = time.monotonic()
        if self._zero is None:
            self._zero = now - arrival_s / self._speed
        early = self._zero + arrival_s / self._speed - now
        if early > 0 and self._halted.wait(min(early, timeout_s)):
            return False
        return early <= timeout_s
