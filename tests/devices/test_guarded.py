"""Errors of the control layers become one error with a reason."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from epics import dbr
from ophyd import EpicsSignal
from ophyd.sim import make_fake_device
from ophyd.status import StatusBase
from ophyd.utils.errors import DisconnectedError

from devices.epu.watcher import EpuWatcher
from devices.guarded import GuardedDevice, Setting, ioc_errors
from skywright.errors import ConfigError, HardwareError

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


def test_text_that_an_ioc_would_read_otherwise_is_not_put() -> None:
    puts: list[object] = []
    setting = Setting.__new__(Setting)  # without PVs
    setting.__dict__ |= {"_name": "sacla_regions", "_metadata": {"enum_strs": None}}
    setting._set_and_wait = lambda *put: puts.append(put)
    status = setting.set("rüng:M:0,0;1,0;1,1")
    with pytest.raises(ConfigError, match=r"^sacla_regions: 'rüng:.*', expected ASCII characters$"):
        status.wait(5)
    assert puts == []


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (TimeoutError("late"), HardwareError, "X1:M did not become 3 within 8 s; check the IOC"),
        (DisconnectedError("X1:M is not connected"), HardwareError, "3: X1:M is not connected; "),
        (ConfigError("x_mode: 3, expected one of A, B"), ConfigError, "3, expected one of A, B"),
    ],
)
def test_a_put_that_fails_says_how(error: Exception, kind: type[Exception], says: str) -> None:
    """Each was said to be a value that did not come in time."""
    device = GuardedDevice("X1:", name="x")

    def refuse(value: int, timeout: float) -> None:
        raise error

    signal: Any = SimpleNamespace(setpoint_pvname="X1:M", set=refuse)
    with pytest.raises(kind, match=says):
        device._put(signal, 3)


@pytest.mark.parametrize(
    ("signal", "method"),
    [
        ("stop_request", "stop_requested"),
        ("suggested_grid", "suggestion"),
        ("stop_request", "stage"),
    ],
)
def test_every_method_of_a_watcher_names_an_ioc_that_is_lost(
    signal: str, method: str, tmp_path: Path
) -> None:
    watcher = make_fake_device(EpuWatcher)("EPU1:", assets=tmp_path, name="epu")

    def get(*_args: object, **_options: object) -> None:
        raise TimeoutError("Failed to read within 2.00 sec")

    lost = getattr(watcher, signal)
    lost.get = lost.set = get
    lost.pvname = lost.setpoint_pvname = "EPU1:LOST"  # a fake signal has no PV
    with pytest.raises(HardwareError, match=r"^epu: .*EPU1:"):
        getattr(watcher, method)()


def test_an_ioc_that_is_lost_before_a_run_of_a_watcher_ends_is_named(tmp_path: Path) -> None:
    watcher = make_fake_device(EpuWatcher)("EPU1:", assets=tmp_path, name="epu")

    def put(*_args: object, **_options: object) -> None:
        raise TimeoutError("EPU1:END could not connect within 1.0-second timeout.")

    watcher.end_run.put, watcher.end_run.pvname = put, "EPU1:END"  # a fake signal has no PV
    with pytest.raises(HardwareError, match=r"^epu: EPU1:END .*check the IOC at EPU1:"):
        watcher.end("run", [])


def test_an_ioc_that_is_lost_during_a_plan_does_not_hide_the_error_of_the_plan(
    tmp_path: Path,
) -> None:
    watcher = make_fake_device(EpuWatcher)("EPU1:", assets=tmp_path, name="epu")
    watcher.stop_request.setpoint_pvname = "EPU1:STOP"  # a fake signal has no PV
    watcher.stage()

    def get(*_args: object, **_options: object) -> None:
        raise TimeoutError("Failed to read within 2.00 sec")

    watcher.stop_request.get = watcher.stop_request.set = get
    watcher.unstage()


def test_two_commits_end_a_trigger_of_a_watcher_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = make_fake_device(EpuWatcher)("EPU1:", assets=tmp_path, name="epu")
    hold, finish, subscribed = threading.Event(), StatusBase._run_callbacks, []

    def finish_later(status: StatusBase) -> None:
        hold.wait(60)
        finish(status)

    monkeypatch.setattr(StatusBase, "_run_callbacks", finish_later)
    watcher.sequence.pvname = "EPU1:SEQUENCE"  # a fake signal has no PV
    watcher.sequence.subscribe = lambda check, run: subscribed.append(check)
    status = watcher.trigger()
    (check,) = subscribed
    check(value=1)
    check(value=2)  # the thread of the status is not there yet
    hold.set()
    status.wait(60)
