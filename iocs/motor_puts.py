"""What happens when a client puts to a field of the simulated motor record."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from caproto import ChannelEnum, SkipWrite

if TYPE_CHECKING:
    from iocs.motor_record import MotorRecord

STOP, PAUSE, MOVE, GO = range(4)
Putter = Callable[[Any, Any], Awaitable[Any]]


def accept_puts(motor: "MotorRecord") -> None:
    """Give the fields of a record the putters that make it act as a motor record."""

    async def put_value(value: float) -> None:
        await _put_user(motor, value)
        raise SkipWrite  # the new values are posted already

    # caproto checks VAL against its limits before it calls a putter, and would not set LVIO.
    motor.record.verify_value = put_value
    for name, putter in (_moves(motor) | _buttons(motor) | _settings(motor)).items():
        motor.record.fields[name].putter = putter


async def _put_user(motor: "MotorRecord", value: float) -> None:
    """Move to a user position; with SET, change OFF so that the present position has this value."""
    if not motor.get("SET"):
        await motor.go(motor.dial(value))
    elif motor.axis.moving(time.time()):
        raise ValueError("the motor is moving, its position cannot be set")
    elif motor.get("FOFF"):
        raise ValueError("FOFF is Frozen, and this controller cannot set its dial position")
    else:
        await motor.set_offset(value - motor.axis.position(time.time()) * motor.sign)


def _moves(motor: "MotorRecord") -> dict[str, Putter]:
    async def put_dial(_: Any, value: float) -> None:
        if motor.get("SET"):
            raise ValueError("this controller cannot set its dial position; put a position to VAL")
        await motor.go(value)
        raise SkipWrite

    async def put_relative(_: Any, value: float) -> float:
        await _put_user(motor, motor.get("VAL") + value)
        return 0.0

    return {
        "DVAL": put_dial,
        "RVAL": lambda channel, value: put_dial(channel, value * motor.get("MRES")),
        "RLV": put_relative,
    }


def _buttons(motor: "MotorRecord") -> dict[str, Putter]:
    """Return the putters of fields that act when they are not 0, and are 0 again then."""

    def button(act: Callable[[], Awaitable[None]]) -> Putter:
        async def put(_: Any, value: int) -> int:
            if value:
                await act()
            return 0

        return put

    def tweak(way: int) -> Putter:
        return button(lambda: _put_user(motor, motor.get("VAL") + way * motor.get("TWV")))

    def jog(way: int) -> Putter:
        async def put(_: Any, value: int) -> int:
            if value:
                await motor.jog(way)
            elif motor.jogging == way:  # other motions go on
                await motor.stop()
            return 0

        return put

    async def synchronize() -> None:
        await motor.post_target(motor.axis.position(time.time()))

    return {
        "STOP": button(motor.stop),
        "SYNC": button(synchronize),
        "TWF": tweak(+1),
        "TWR": tweak(-1),
        "JOGF": jog(+1),
        "JOGR": jog(-1),
        "HOMF": button(lambda: motor.go(0.0)),
        "HOMR": button(lambda: motor.go(0.0)),
        "SSET": button(lambda: motor.post("SET", 1)),
        "SUSE": button(lambda: motor.post("SET", 0)),
    }


def _settings(motor: "MotorRecord") -> dict[str, Putter]:
    def user_limit(*, high: bool) -> Putter:
        async def put(_: Any, value: float) -> None:
            await motor.post("DHLM" if high == (motor.sign > 0) else "DLLM", motor.dial(value))
            await motor.post_limits()

        return put

    def dial_limit(name: str) -> Putter:
        async def put(_: Any, value: float) -> None:
            await motor.post(name, value)
            await motor.post_limits()

        return put

    def positive(name: str) -> Putter:
        async def put(_: Any, value: float) -> float:
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{value}, expected more than 0")
            most = motor.get("VMAX") if name in ("VELO", "JVEL") else 0.0
            return min(value, most) if most else value  # the record clips speeds too

        return put

    async def put_direction(channel: ChannelEnum, value: str) -> str:
        here = motor.get("RBV")
        await motor.post("DIR", channel.enum_strings.index(value))
        # As the record does with a variable offset: where it stands keeps its number.
        await motor.set_offset(here - motor.axis.position(time.time()) * motor.sign)
        return value  # else caproto keeps the index that a client may have put

    async def put_mode(channel: ChannelEnum, value: str) -> str:
        target, before = motor.get("DVAL"), motor.get("SPMG")
        mode = channel.enum_strings.index(value)
        await motor.post("SPMG", mode)
        if mode in (STOP, PAUSE):
            await motor.stop(pause=mode == PAUSE)
        elif before == PAUSE and target != motor.axis.position(time.time()):
            motor.resumed = asyncio.ensure_future(motor.go(target))
        return value

    return {
        "HLM": user_limit(high=True),
        "LLM": user_limit(high=False),
        "DHLM": dial_limit("DHLM"),
        "DLLM": dial_limit("DLLM"),
        "OFF": lambda _, value: motor.set_offset(value),
        "EGU": lambda _, value: motor.post_units(value, motor.get("PREC")),
        "PREC": lambda _, value: motor.post_units(motor.get("EGU"), value),
        "DIR": put_direction,
        "SPMG": put_mode,
        **{name: positive(name) for name in ("VELO", "ACCL", "JVEL", "MRES")},
    }
