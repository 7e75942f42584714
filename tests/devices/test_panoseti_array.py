"""The telescope array while the frames of its modules come late, or not at all."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ophyd import Signal
from support.pano_files import file_name, run_directory

from devices.panoseti import array
from devices.panoseti.array import Panoseti
from skywright.errors import HardwareError


class Time:
    """A clock that goes on in pauses only; frames are taken `speed` times as fast as real time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
        self.now, self.speed = 0.0, speed
        monkeypatch.setattr(array, "pause", self.pause)
        monkeypatch.setattr(array.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(array.time, "time_ns", lambda: round(self.now * 1e9))

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def newest_ns(self) -> float:
        return self.now * self.speed * 1e9


def modules(monkeypatch: pytest.MonkeyPatch, time: Time) -> Any:
    made: Any = Panoseti.__new__(Panoseti)  # without the PVs of an IOC
    made._name = "panoseti"
    monkeypatch.setattr(made, "_newest_ns", time.newest_ns, raising=False)
    return made


def test_frames_that_come_late_are_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation on a busy computer lags behind by more than the timeout."""
    time = Time(monkeypatch, speed=0.1)
    modules(monkeypatch, time)._await_frames(20e9)
    assert time.newest_ns() >= 20e9
    assert time.now == pytest.approx(200.0, abs=1.0)


def test_frames_whose_clock_is_an_hour_slow_are_not_awaited_for_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = Time(monkeypatch, speed=1.0)
    late = modules(monkeypatch, time)
    monkeypatch.setattr(late, "_newest_ns", lambda: time.newest_ns() - 3600e9)
    with pytest.raises(
        HardwareError, match="still 3000 s older than the awaited one; do the clock"
    ):
        late._await_frames(20e9)
    assert time.now == pytest.approx(620.0, abs=1.0)


def test_without_frames_the_wait_ends_with_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch, speed=0.0)
    with pytest.raises(HardwareError, match="panoseti: no frames for 30 s; is a run being taken"):
        modules(monkeypatch, time)._await_frames(20e9)
    assert time.now == pytest.approx(30.0, abs=1.0)


class Ioc:
    """Modules without PVs; a recording of the run before was left behind."""

    name, prefix = "panoseti", "SKY:PANO1:"
    _find_run, _close_leftover = Panoseti._find_run, Panoseti._close_leftover
    _check_mounted, _await_configs = Panoseti._check_mounted, Panoseti._await_configs

    def __init__(self, data_dir: Path, before: str, newest: str) -> None:
        self._data_dir, self._before, self._newest = data_dir, before, newest
        self.plugin = SimpleNamespace(capture="capture")
        self.run_name, self.data_dir, self.sim_running = "run", "data_dir", "sim_running"
        self.run_metadata, self.telescopes = Signal(name="metadata"), Signal(name="telescopes")
        self.capture = 1
        self._ended = threading.Event()

    def connect(self) -> None:
        """Connect nothing."""

    def _put(self, signal: str, value: int) -> None:
        assert signal == "capture"
        self.capture = value

    def _read_now(self, signal: str) -> Any:
        run = self._before if self.capture else self._newest
        return {"run": run, "data_dir": str(self._data_dir), "sim_running": 0}[signal]


@pytest.mark.parametrize("wait_for_new", [False, True])
def test_a_recording_that_was_left_behind_does_not_hide_the_next_run(
    tmp_path: Path, wait_for_new: bool
) -> None:
    before, newest = (run_directory(tmp_path, run=run) for run in "ab")
    (before / "recording_ended").touch()
    (newest / file_name("img16")).write_bytes(b"frames")
    ioc: Any = Ioc(tmp_path, before.name, newest.name)
    ioc._find_run(0.0, wait_for_new)
    assert ioc._found_run == newest.name
    assert ioc._ended.is_set()  # what still waits for the run before does not wait any more


def test_the_configuration_of_a_run_that_begins_is_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data acquisition makes the directory, copies the configuration, then writes frames."""
    time, run = Time(monkeypatch, speed=0.0), run_directory(tmp_path)
    (run / file_name("img16")).touch()

    def copy(seconds: float) -> None:
        time.now += seconds
        if time.now > 2.0:
            (run / "obs_config.json").write_text("{}")
            (run / file_name("img16")).write_bytes(b"frames")

    monkeypatch.setattr(array, "pause", copy)
    ioc: Any = Ioc(tmp_path, run.name, run.name)
    ioc._find_run(30.0, False)
    assert set(json.loads(ioc.run_metadata.get())["run_configs"]) == {"obs_config"}
    assert 2.0 < time.now < 3.0


def test_a_run_that_gets_no_frames_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time, run = Time(monkeypatch, speed=0.0), run_directory(tmp_path)
    ioc: Any = Ioc(tmp_path, run.name, run.name)
    ioc._find_run(30.0, False)
    assert ioc._found_run == run.name
    assert time.now == pytest.approx(array.CONFIGS_S, abs=1.0)
    (run / "recording_ended").touch()
    ioc._find_run(30.0, False)
    assert time.now == pytest.approx(array.CONFIGS_S, abs=1.0)
