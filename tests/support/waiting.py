"""Waiting for what no event tells of."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
LIMIT_S, PAUSE_S = 120.0, 0.01


def until(
    condition: Callable[[], Value], limit_s: float = LIMIT_S, what: str = "it came about"
) -> Value:
    """Return the first true value of a condition, asked again and again.

    Parameters
    ----------
    condition
        Without arguments.
    limit_s
        The test fails after this time.
    what
        Was to become true, for the message of that.
    """
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        threading.Event().wait(PAUSE_S)
    return value
