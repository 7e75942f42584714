"""The clock of sources that make their own pulses: a machine that waits for nobody."""

import threading
import time

BEHIND_S = 2.0
"""Pulses that nobody took for longer than this are lost, as a camera's would be."""


class Pace:
    """Say when the next pulse is due, and how many were lost because nobody took them.

    Parameters
    ----------
    rate_hz
        Pulses a second; 0: one is always due and none is lost.
    """

    def __init__(self, rate_hz: float) -> None:
        self.skipped = 0
        self._period_s = 1.0 / rate_hz if rate_hz > 0.0 else 0.0
        self._due: float | None = None
        self._ended = threading.Event()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the next pulse; return how many are lost before it, None when none is due.

        The wait ends after `timeout_s`, or at once when `end` is called.
        """
        if self._ended.is_set():
            return None
        if not self._period_s:
            return 0
        now = time.monotonic()
        if self._due is None:
            self._due = now
        left = self._due - now
        if left > timeout_s:
            self._ended.wait(timeout_s)
            return None
        if left > 0.0 and self._ended.wait(left):
            return None
        skipped = 0
        if -left > BEHIND_S + self._period_s:
            skipped = int(-left / self._period_s)
            self.skipped += skipped
        self._due += (skipped + 1) * self._period_s
        return skipped

    def idle(self, timeout_s: float) -> None:
        """Wait `timeout_s` or until `end`."""
        self._ended.wait(timeout_s)

    def end(self) -> None:
        """End every wait, for good."""
        self._ended.set()
