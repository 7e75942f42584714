"""Errors of the control layers become one error with a reason."""

from types import SimpleNamespace

import pytest
from epics import dbr
from ophyd import EpicsSignal

from devices.guarded import ioc_errors
from skywright.errors import HardwareError

DEVICE = SimpleNamespace(name="gonio", prefix="GONIO:")


def test_an_ioc_that_is_lost_during_a_put() -> None:
    # pyepics looks up the type of a PV that is not connected
    with pytest.raises(HardwareError, match="gonio: lost the IOC of GONIO:"), ioc_errors(DEVICE):
        dbr.Map[-1]


def test_an_error_of_our_own_stays_as_it_is() -> None:
    with pytest.raises(KeyError, match="no_such_key"), ioc_errors(DEVICE):
        {}["no_such_key"]


def test_the_private_name_of_ophyd_is_still_there() -> None:
    """When this fails, ophyd has changed; look at `Setting.set` in devices/guarded.py."""
    assert hasattr(EpicsSignal, "_set_and_wait")
