"""Numbers of things, values, times and durations as people read them."""

import math
from collections.abc import Mapping
from datetime import datetime


def counted(number: int, noun: str) -> str:
    """Return a number of things as text: ``1 run``, ``2 runs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def in_short(value: object) -> str:
    """Return a value of metadata or a result in few words: numbers to 6 digits, NaN as a dash."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_short(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(in_short, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return "–" if value != value else f"{value:.6g}"
    return str(value)


def local_time(time_s: float, *, offset: bool = False) -> str:
    """Return a unix time as people write it, local; one after the year 9999 as a number of s.

    Another program may have given milliseconds, or none.

    Parameters
    ----------
    time_s
        Unix time, s.
    offset
        Add the difference from UTC, for readers who may be in another time zone.
    """
    try:
        time = datetime.fromtimestamp(time_s)
        return (time.astimezone() if offset else time).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_s} s" if time_s > -math.inf else "unknown"  # not a number is unknown too


def in_seconds(duration_s: float | None) -> str:
    """Return a duration for people; "" if there is none."""
    return "" if duration_s is None else f"{duration_s:.1f} s"
