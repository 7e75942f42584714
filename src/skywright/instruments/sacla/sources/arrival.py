"""The clock of records that arrive at given times."""

import threading
import time


class ArrivalClock:
    """Waits until records are due.

    Parameters
    ----------
    speed
        Factor on the given times; 0: every record is due.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._zero: float | None = None
        self._ended = threading.Event()

    def wait(self, arrival_s: float, timeout_s: float) -> bool:
        """Wait for a record's arrival; return False when it is not due within `timeout_s`.

        Parameters
        ----------
        arrival_s
            Any zero; the first record is due at once.
        timeout_s
            Longest wait.
        """
        if not self._speed:
            return True
        now = time.monotonic()
        if self._zero is None:
            self._zero = now - arrival_s / self._speed
        early = self._zero + arrival_s / self._speed - now
        if early > 0 and self._ended.wait(min(early, timeout_s)):
            return False
        return early <= timeout_s

    def end(self) -> None:
        """End every wait, for good."""
        self._ended.set()
