"""Sweeps whose trace cannot be written."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ophyd import Device

from devices.loop.oscillation import OscillationFlyer, SweepTrace
from skywright.errors import HardwareError
from skywright.files.columns import ColumnWriter
from skywright.instruments.loop.sweep import Sweep

LIMIT_S = 30.0
TRACE = SweepTrace(np.arange(3.0), np.arange(3.0), 0.0, 2.0)


class Turning(OscillationFlyer):
    """Sweeps without a motor; `error` ends them."""

    error: Exception | None = None

    def carry_out(self, sweep: Sweep) -> SweepTrace:
        self._started.set()
        self.last = TRACE
        if self.error is not None:
            raise self.error
        return TRACE


@pytest.fixture
def flyer(tmp_path: Path) -> Turning:
    gonio: Any = Device("", name="gonio")
    gonio.assets = tmp_path
    readback = SimpleNamespace(pvname="PHI")
    gonio.phi = SimpleNamespace(check_connected=lambda: None, user_readback=readback)
    return Turning("", name="oscillation", parent=gonio)


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "disk full")


def swept(flyer: Turning) -> Any:
    """Make a sweep; return its status."""
    flyer.prepare(Sweep(2.0, 2.0)).wait(LIMIT_S)
    flyer.kickoff().exception(LIMIT_S)  # of a sweep that is over at once it has the error too
    return flyer.complete()


def test_a_trace_without_room_fails_the_sweep_and_the_flyer_is_named(
    flyer: Turning, monkeypatch: pytest.MonkeyPatch
) -> None:
    flyer.stage()
    monkeypatch.setattr(ColumnWriter, "append", full_disk)
    error = swept(flyer).exception(LIMIT_S)
    assert isinstance(error, HardwareError)
    assert str(error).startswith("oscillation: the trace of the sweep cannot be written: ")
    assert "disk full" in str(error)
    flyer.unstage()


def test_a_trace_without_room_does_not_hide_why_the_sweep_failed(
    flyer: Turning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flyer.stage()
    monkeypatch.setattr(ColumnWriter, "append", full_disk)
    flyer.error = HardwareError("gonio_phi: stands still")
    assert str(swept(flyer).exception(LIMIT_S)) == "gonio_phi: stands still"
    assert "the trace of the sweep cannot be written" in caplog.text
    flyer.unstage()


def test_a_file_that_cannot_be_closed_keeps_no_device_staged(
    flyer: Turning, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flyer.stage()
    swept(flyer).wait(LIMIT_S)
    with monkeypatch.context() as patched:
        patched.setattr(ColumnWriter, "close", full_disk)
        flyer.unstage()
    assert "disk full" in caplog.text
    flyer.stage()  # refused while it is staged
    swept(flyer).wait(LIMIT_S)
    flyer.unstage()
