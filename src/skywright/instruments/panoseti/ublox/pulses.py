"""Quantization errors of time pulses: a TIM-TP message corrects the pulse after it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PulseError:
    """The error of one pulse.

    Attributes
    ----------
    week, tow_ms
        Week and time of week of the pulse.
    late_ps
        How late it is, ps; None where the receiver does not know.
    """

    week: int
    tow_ms: int
    late_ps: int | None


class PulseErrors:
    """Hands the error of each pulse on when the pulse comes."""

    def __init__(self) -> None:
        self._next: PulseError | None = None

    def message(self, parsed: Any) -> None:
        """Take a parsed TIM-TP; it is about the next pulse."""
        valid = not parsed.qErrInvalid
        self._next = PulseError(parsed.week, parsed.towMS, parsed.qErr if valid else None)

    def pulse(self) -> PulseError | None:
        """Return the error of the pulse that has just come; None if no TIM-TP came before it."""
        error, self._next = self._next, None
        return error
