"""Checks of the arguments of plans, before anything moves."""

import math
from typing import Any

from skywright.errors import ConfigError

COUNT_MAX = 10**9
"""Of pulses, shots, pictures."""


def check_protocols(device: Any, what: str, *protocols: Any) -> None:
    """Raise `TypeError` if a device does not fit bluesky's protocols."""
    for protocol in protocols:
        if not isinstance(device, protocol):
            raise TypeError(f"{what} does not fit this plan: it is not {protocol.__name__}")


def check_part(device: Any, part: str, *protocols: Any) -> None:
    """Raise `TypeError` if a device lacks a part, or the part does not fit bluesky's protocols."""
    found = getattr(device, part, None)
    if found is None:
        raise TypeError(f"{device_name(device)} does not fit this plan: it has no {part}")
    check_protocols(found, f"{device_name(device)}'s {part}", *protocols)


def device_name(device: Any) -> str:
    """Return the name of a device, or what was given in the place of one."""
    name = getattr(device, "name", "")
    return name if isinstance(name, str) and name else repr(device)


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
