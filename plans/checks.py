"""Checks of the arguments of plans, before anything moves."""

import math
from typing import Any

from skywright.errors import ConfigError

COUNT_MAX = 10**9
"""Of pulses, shots, pictures."""


def check_protocol(device: Any, what: str, protocol: Any) -> None:
    """Raise `TypeError` if a device does not fit a protocol of bluesky."""
    if not isinstance(device, protocol):
        raise TypeError(f"{what} does not fit this plan: it is not {protocol.__name__}")


def whole(plan: str, name: str, value: Any, least: int = 1, most: int = COUNT_MAX) -> int:
    """Return a whole number within its limits.

    Raises
    ------
    ConfigError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{plan}: {name} = {value!r}, expected a whole number {least}..{most}")
    return value


def finite(plan: str, name: str, value: Any, least: float = -math.inf) -> float:
    """Return a finite number above `least`.

    Raises
    ------
    ConfigError
        If it is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not value > least:
        above = "" if least == -math.inf else f" above {least:g}"
        raise ConfigError(f"{plan}: {name} = {value!r}, expected a finite number{above}")
    return float(value)
