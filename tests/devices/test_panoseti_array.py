"""The telescope array while the frames of its modules come late, or not at all."""

from typing import Any

import pytest

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
