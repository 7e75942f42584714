"""One goniometer's IOC a module, and what its tests reach it by."""

from collections.abc import Callable, Iterator

import pytest
from epics import PV
from ioc_process import IocProcess, running_ioc
from ophyd import EpicsMotor
from support.channels import channel, put
from support.goniometer_ioc import ophyd_motor, reset
from support.waiting import until


@pytest.fixture(scope="module")
def ioc() -> Iterator[IocProcess]:
    with running_ioc("iocs.goniometer") as running:
        yield running


@pytest.fixture
def pv(ioc: IocProcess) -> Callable[[str], PV]:
    """Give a connected PV by its name below the prefix."""
    return lambda name: channel(ioc.prefix + name)


@pytest.fixture
def motor(ioc: IocProcess) -> Iterator[EpicsMotor]:
    """The stage sx, back at 0, healthy, when the test ends."""
    device = ophyd_motor(f"{ioc.prefix}sx")
    yield device
    reset(ioc, "sx")
    # The ends of these motions must be behind ophyd before it makes another. Its callbacks wait in
    # one queue: when it tells of a velocity put after them, they are.
    told: list[float] = []
    token = device.velocity.subscribe(lambda value, **_: told.append(value), run=False)
    for velocity in (1.0, 2.0):
        put(channel(f"{ioc.prefix}sx.VELO"), velocity)
        until(lambda wanted=velocity: wanted in told)
    device.velocity.unsubscribe(token)
    # News of VAL that was queued brings ophyd the limits of when it was queued; now there is none.
    for high in (2.4, 2.5):
        put(channel(f"{ioc.prefix}sx.HLM"), high)
        until(lambda wanted=high: device.limits == (-2.5, wanted))


@pytest.fixture
def osc(ioc: IocProcess, pv: Callable[..., PV]) -> Iterator[Callable[..., PV]]:
    """Give PVs of `Osc:`; phi stands at 0, healthy, before and after."""

    def connect(name: str) -> PV:
        return pv(f"Osc:{name}")

    for name, value in (("From", 0), ("Delta", 30.0), ("Time", 0.3), ("RunUp", 1)):
        put(connect(name), value)
    yield connect
    put(connect("Go"), 0)
    reset(ioc, "phi")
