"""Checks of the arguments of plans, before anything moves."""

import inspect
import math
import operator
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from numbers import Real
from operator import attrgetter
from typing import Any

import numpy as np
from bluesky.protocols import Checkable, Movable, Readable

from skywright.errors import ConfigError, HardwareError

COUNT_MAX = 10**9
"""Largest number of pulses, shots or pictures that a plan takes."""


@dataclass(frozen=True)
class Needs:
    """What a plan needs of a device.

    Parameters
    ----------
    kind
        What the device is, for messages.
    protocols
        Protocols of bluesky that it fits.
    parts
        Names of its parts and methods (``sample.by``: of a part's part), and the protocols that
        each fits.
    readings
        Names of its readings, without its own name.
    """

    kind: str
    protocols: tuple[Any, ...] = ()
    parts: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    readings: tuple[str, ...] = ()

    def with_parts(self, **parts: tuple[Any, ...]) -> "Needs":
        """Return these needs with further parts."""
        return replace(self, parts={**self.parts, **parts})


MOTOR = Needs("motor", (Readable, Movable))


def check_devices(plan: str, **devices: tuple[Any, Needs]) -> None:
    """Refuse devices that cannot do their part in a plan; call it before anything moves.

    Parameters
    ----------
    plan
        Name of the plan.
    **devices
        Each device and what the plan needs of it, by the name of the plan's argument. An optional
        device that is not given is left out by the caller.

    Raises
    ------
    TypeError
        Naming the plan, the argument, the device and what it lacks.
    """
    for argument, (device, needs) in devices.items():
        if lacking := _lacking(device, needs):
            raise TypeError(
                f"{plan}: {argument} = {device_name(device)}, expected a {needs.kind}: {lacking}"
            )


def check_limits(plan: str, motor: Any, *positions: float) -> None:
    """Refuse positions beyond the limits of a motor; call it before anything moves.

    A motor that is not connected is not asked: `stage` reports which PVs do not answer. One of
    ophyd-async is not asked either: only the RunEngine can wait for its answer.

    Raises
    ------
    ConfigError
        Naming the plan, the motor, the position and what the motor says of it.
    """
    if not isinstance(motor, Checkable) or not getattr(motor, "connected", True):
        return
    for position in positions:
        try:
            answer = motor.check_value(position)
        except (ValueError, HardwareError) as error:  # ophyd's LimitError is a ValueError
            raise ConfigError(
                f"{plan}: {device_name(motor)} cannot move to {position:g}: {error}"
            ) from error
        if inspect.iscoroutine(answer):
            answer.close()  # else Python warns that nobody awaited it


def _lacking(device: Any, needs: Needs) -> str:
    """Return what a device lacks, in words; empty if nothing."""
    for protocol in needs.protocols:
        if not isinstance(device, protocol):
            return f"it is not {protocol.__name__}"
    for name, protocols in needs.parts.items():
        try:
            part = attrgetter(name)(device)
        except AttributeError:
            return f"it has no {name}"
        for protocol in protocols:
            if not isinstance(part, protocol):
                return f"its {name} is not {protocol.__name__}"
    keys = described(device) if needs.readings else None
    if keys is not None:
        for reading in needs.readings:
            if f"{device.name}_{reading}" not in keys:
                return f"it does not read {reading}"
    return ""


def described(device: Any, *, collected: bool = False) -> Mapping[str, Any] | None:
    """Return the data keys of a readable device, or of one that is `collected`.

    None if only the RunEngine can find them out.
    """
    if not getattr(device, "connected", True):
        return None  # `stage` will report which PVs do not answer
    keys = device.describe_collect() if collected else device.describe()
    if inspect.isawaitable(keys):  # of ophyd-async
        if inspect.iscoroutine(keys):
            keys.close()  # else Python warns that nobody awaited it
        return None
    found: Mapping[str, Any] = keys
    return found


def device_name(device: Any) -> str:
    """Return the name of a device, or what was given in the place of one."""
    name = getattr(device, "name", "")
    return name if isinstance(name, str) and name else repr(device)


def whole(plan: str, name: str, value: Any, least: int = 1, most: int = COUNT_MAX) -> int:
    """Return a whole number, also one of numpy, within its limits.

    Raises
    ------
    ConfigError
        If the value is no whole number, or is outside the limits.
    """
    with suppress(TypeError):
        number = operator.index(value)
        if least <= number <= most and not isinstance(value, bool):
            return number
    raise ConfigError(f"{plan}: {name} = {value!r}, expected a whole number {least}..{most}")


def flag(plan: str, name: str, value: Any) -> bool:
    """Return True or False, also those of numpy.

    Raises
    ------
    ConfigError
        If the value is neither: any text, also ``"no"``, would count as True.
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{plan}: {name} = {value!r}, expected True or False")
    return bool(value)


def finite(
    plan: str, name: str, value: Any, least: float = -math.inf, *, inclusive: bool = False
) -> float:
    """Return a finite number, also one of numpy, above `least`; `inclusive` allows `least` itself.

    Raises
    ------
    ConfigError
        If the value is no such number.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        number = float(value)
        if number > least or (number == least and inclusive):
            return number
    above = f" of at least {least:g}" if inclusive else f" above {least:g}"
    above = "" if least == -math.inf else above
    raise ConfigError(f"{plan}: {name} = {value!r}, expected a finite number{above}")


def finite_numbers(plan: str, name: str, values: Any, least: float = -math.inf) -> list[float]:
    """Return the numbers of a list, each as `finite` does.

    Raises
    ------
    ConfigError
        If the value is no list of such numbers.
    """
    if not isinstance(values, Iterable):
        raise ConfigError(f"{plan}: {name} = {values!r}, expected a list of numbers")
    return [finite(plan, name, value, least) for value in values]
