"""Clients of Channel Access for tests of the goniometer's IOC."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from epics import PV
from ioc_process import IocProcess
from ophyd import EpicsMotor
from support.channels import channel, put, watch
from support.waiting import until

LIMIT_S = 120.0


@functools.cache
def ophyd_motor(prefix: str) -> EpicsMotor:
    device = EpicsMotor(prefix, name="sx")
    device.wait_for_connection(timeout=LIMIT_S)
    return device


def reset(ioc: IocProcess, name: str) -> None:
    for suffix, value in (
        ("SIM:Silent", 0),
        (f"SIM:{name}:Stuck", 0),
        (f"SIM:{name}:Slow", 1.0),
        (f"SIM:{name}:LowSwitch", -3.0 if name != "phi" else -math.inf),
        (f"SIM:{name}:HighSwitch", 3.0 if name != "phi" else math.inf),
        (f"{name}.STOP", 1),
        (f"{name}.SPMG", 3),
        (f"{name}.DIR", 0),
        (f"{name}.OFF", 0.0),
        (f"{name}.HLM", 2.5 if name != "phi" else 36000.0),
        (f"{name}.LLM", -2.5 if name != "phi" else -36000.0),
        (f"{name}.VELO", 2.0 if name != "phi" else 120.0),
        (f"{name}.VAL", 0.0),
    ):
        put(channel(ioc.prefix + suffix), value)


def fresh(pv: PV) -> Any:
    return pv.get(timeout=LIMIT_S)


def record(pv: PV) -> list[tuple[float, Any]]:
    """Collect what a channel posts from now on, with its time stamps."""
    seen: list[tuple[float, Any]] = []
    last: list[Any] = []

    def note(value: Any, timestamp: float, **_: Any) -> None:
        if last[-1:] != [(timestamp, value)]:  # pyepics tells the first value twice
            last.append((timestamp, value))
            seen.append((timestamp, value))

    watch(pv.pvname, note)
    until(lambda: bool(seen))  # what there is when it connects
    seen.clear()
    return seen


def text(pv: PV) -> str:
    return decoded(fresh(pv))


def decoded(value: Any) -> str:
    return bytes(np.atleast_1d(value).astype(np.uint8)).split(b"\0")[0].decode()


def trace(osc: Callable[..., PV]) -> tuple[np.ndarray, np.ndarray]:
    count = fresh(osc("TraceCount_RBV"))
    times, angles = fresh(osc("TraceTime_RBV")), fresh(osc("TraceAngle_RBV"))
    return np.asarray(times)[:count], np.asarray(angles)[:count]
