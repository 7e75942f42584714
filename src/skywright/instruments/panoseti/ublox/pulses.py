"""Quantization errors of time pulses: a TIM-TP message has that of the pulse after it."""

from datetime import date
from typing import Any

KEPT = 4
"""Pulses whose errors are kept: messages of a pulse come within a second of it."""
WEEK_MS = 7 * 86_400_000


class PulseErrors:
    """Find the error of the pulse that a NAV-TIMEUTC message is about.

    A receiver sends TIM-TP of the next pulse and NAV-TIMEUTC of the last one in any order, so they
    are matched by their times of week.
    """

    def __init__(self) -> None:
        self._errors: dict[tuple[bool, int], int] = {}
        """In ps, by whether the time is UTC, and the time of week in ms."""

    def announce(self, tim_tp: Any) -> None:
        """Take a parsed TIM-TP message: the error of the next pulse."""
        if tim_tp.qErrInvalid:
            return
        tow_ms = round(tim_tp.towMS + tim_tp.towSubMS) % WEEK_MS
        self._errors[bool(tim_tp.timeBase), tow_ms] = tim_tp.qErr
        while len(self._errors) > KEPT:
            del self._errors[next(iter(self._errors))]

    def error_of(self, time_utc: Any) -> int | None:
        """Return the error of the pulse of a parsed NAV-TIMEUTC message, ps; None if not known."""
        error = self._errors.get((False, time_utc.iTOW))
        if error is None and time_utc.validUTC:
            try:
                days = date(time_utc.year, time_utc.month, time_utc.day).isoweekday() % 7
            except ValueError:  # there is no such day
                return None
            minutes = (24 * days + time_utc.hour) * 60 + time_utc.min
            error = self._errors.get((True, (60 * minutes + time_utc.sec) * 1000 % WEEK_MS))
        return error
