"""Moves of several motors: none is left moving after an error; and how the end of one is judged."""

import math
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ophyd import Device
from ophyd.utils.epics_pvs import AlarmSeverity
from ophyd.utils.errors import DisconnectedError

from devices.loop import sample_stage
from devices.loop.sample_stage import SampleStage
from devices.motion import MARGIN_S, SLOWNESS, MotionLimitError, Motor, move_all
from skywright.errors import HardwareError
from skywright.instruments.loop.stages import StageSetup


class LooseMotor:
    """A motor without an IOC; `error` is raised by its move."""

    def __init__(self, error: Exception | None = None, stop_error: Exception | None = None) -> None:
        self.error, self.stop_error = error, stop_error
        self.is_moving = False
        self.was_stopped = False

    def check_connected(self) -> None:
        pass

    def check_value(self, position: float) -> None:
        pass

    def move(self, position: float, wait: bool = True) -> None:
        if self.error is not None:
            raise self.error
        self.is_moving = True

    def stop(self) -> None:
        self.was_stopped = True
        if self.stop_error is not None:
            raise self.stop_error
        self.is_moving = False


def test_a_motor_that_cannot_be_started_stops_those_that_move_already() -> None:
    motors: list[Any] = [LooseMotor(), LooseMotor(HardwareError("no answer")), LooseMotor()]
    with pytest.raises(HardwareError, match="no answer"):
        move_all((motor, 1.0) for motor in motors)
    assert motors[0].was_stopped
    assert not any(motor.is_moving for motor in motors)


def test_a_motor_that_cannot_be_stopped_does_not_keep_the_others_moving() -> None:
    lost = LooseMotor(stop_error=DisconnectedError("gone"))
    motors: list[Any] = [lost, LooseMotor(), LooseMotor(HardwareError("no answer"))]
    with pytest.raises(HardwareError, match="no answer"):
        move_all((motor, 1.0) for motor in motors)
    assert lost.was_stopped
    assert motors[1].was_stopped
    assert not motors[1].is_moving


def test_a_position_beyond_a_limit_starts_no_motor() -> None:
    motors: list[Any] = [LooseMotor(), LooseMotor()]

    def refuse(position: float) -> None:
        raise MotionLimitError("beyond its limits")

    motors[1].check_value = refuse
    with pytest.raises(MotionLimitError):
        move_all((motor, 1.0) for motor in motors)
    assert not motors[0].is_moving
    assert not motors[0].was_stopped


class RestingMotor:
    """A motor without an IOC that rests at 1 mm; it has the values of `fields`, else its defaults.

    The default of its setpoint is 5 mm.
    """

    name, egu, tolerance, _stopped, position = "motor", "mm", 0.01, False, 1.0
    check_connected = LooseMotor.check_connected
    tolerated_alarm = Motor.tolerated_alarm
    _alarm, _check_arrival, _is_at = Motor._alarm, Motor._check_arrival, Motor._is_at
    allowance = Motor.allowance
    time_limit, check_value = Motor.time_limit, Motor.check_value

    def __init__(self, **fields: float) -> None:
        defaults = {
            "user_readback": 1.0,
            "user_setpoint": 5.0,
            "deadband": 0.0,
            "low_limit_switch": 0,
            "high_limit_switch": 0,
            "velocity": 2.0,
            "acceleration": 0.5,
        }
        for field, value in (defaults | fields).items():
            signal = SimpleNamespace(get=lambda value=value, **_: value)
            signal.alarm_severity = signal.alarm_status = 0
            setattr(self, field, signal)


@pytest.mark.parametrize(
    ("fields", "target", "words"),
    [
        ({"high_limit_switch": 1}, 5.0, "it stands on its high limit switch"),
        ({"low_limit_switch": 1, "user_setpoint": -5.0}, -5.0, "it stands on its low limit switch"),
        # The switch that it moves away from does not stop it.
        ({"low_limit_switch": 1}, 5.0, "further away than RDBD"),
        ({"high_limit_switch": 1, "user_setpoint": -5.0}, -5.0, "further away than RDBD"),
        ({}, 5.0, "further away than RDBD and the tolerance of 0.01 mm allow"),
        ({"deadband": 3.9}, 5.0, "further away than RDBD"),
        ({"user_setpoint": 4.0}, 5.0, r"sent it elsewhere \(VAL 4.0\)"),
    ],
)
def test_a_motor_that_is_not_at_its_target_says_why(
    fields: dict[str, float], target: float, words: str
) -> None:
    motor: Any = RestingMotor(**fields)
    with pytest.raises(HardwareError, match=f"motor: stopped at 1, not at {target:g}: .*{words}"):
        motor._check_arrival(target)


@pytest.mark.parametrize(
    "fields",
    [{"user_readback": 5.009}, {"deadband": 4.1}, {"user_setpoint": 5.000004, "deadband": 5}],
)
def test_a_motor_is_at_its_target_within_its_tolerance_or_rdbd(fields: dict[str, float]) -> None:
    motor: Any = RestingMotor(**fields)
    motor._check_arrival(5.0)


@pytest.mark.parametrize(
    ("fields", "severity", "words"),
    [
        ({}, 1, "alarm HIGH MINOR"),
        ({"high_limit_switch": 1}, 0, "it stands on its high limit switch"),
        ({"user_setpoint": 4.0}, 0, "somebody stopped it"),
    ],
)
def test_a_motor_that_is_at_its_target_and_failed_is_not_said_to_be_elsewhere(
    fields: dict[str, float], severity: int, words: str
) -> None:
    motor: Any = RestingMotor(user_readback=5.0, **fields)
    motor.user_readback.alarm_severity, motor.user_readback.alarm_status = severity, 4
    with pytest.raises(HardwareError, match=f"motor: is at 5, but {words}"):
        motor._check_arrival(5.0)


def test_a_move_may_end_with_an_alarm_that_is_tolerated() -> None:
    motor: Any = RestingMotor(user_readback=5.0, user_setpoint=5.0)
    motor.user_readback.alarm_severity, motor.user_readback.alarm_status = 1, 4
    motor.tolerated_alarm = AlarmSeverity.MINOR
    motor._check_arrival(5.0)
    motor.user_readback.alarm_severity = 2
    with pytest.raises(HardwareError, match="alarm HIGH MAJOR"):
        motor._check_arrival(5.0)


class TurningMotor(RestingMotor):
    """A motor that says that it moves, and at `position` shows no progress."""

    connected, stall_s, prefix = True, 0.0, "T:m"
    await_motion, _give_up = Motor.await_motion, Motor._give_up
    check_position_known = Motor.check_position_known

    def __init__(self, position: float, answers: bool = True) -> None:
        super().__init__(mode=3.0, motor_is_moving=1.0)
        self.position, self.stops = position, 0
        self.user_readback.pvname = "T:m.RBV"
        self.motor_stop = SimpleNamespace(put=self.count_stop)
        if not answers:
            self.motor_is_moving.get = self.hang

    def count_stop(self, value: int, wait: bool) -> None:
        self.stops += 1

    def hang(self, **_: Any) -> None:
        raise TimeoutError("no answer")


def test_a_motor_without_a_position_makes_no_progress() -> None:
    motor: Any = TurningMotor(math.nan)
    turns = iter([False] * 100)
    with pytest.raises(HardwareError, match=r"motor: stands still at nan .* on its way to 5"):
        motor.await_motion(lambda _: next(turns), math.nan, "on its way to 5")
    assert motor.stops == 1


def test_a_motor_that_does_not_know_where_it_is_is_not_moved() -> None:
    with pytest.raises(HardwareError, match=r"motor: its readback T:m.RBV is nan, its position"):
        TurningMotor(math.nan).check_position_known()
    TurningMotor(3.0).check_position_known()


def test_an_ioc_that_hangs_is_not_taken_for_a_stuck_motor() -> None:
    motor: Any = TurningMotor(3.0, answers=False)
    with pytest.raises(HardwareError, match="its IOC does not answer; it will be"):
        motor.await_motion(lambda _: False, 60.0, "on its way to 5")
    assert motor.stops == 1


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 10.0 / 2.0 + 2 * 0.5),
        ({"velocity": -2.0}, 10.0 / 2.0 + 2 * 0.5),
        ({"velocity": 0.0, "acceleration": -1.0}, 10.0),
    ],
)
def test_a_move_has_three_times_the_time_of_its_way_and_a_margin(
    fields: dict[str, float], seconds: float
) -> None:
    motor: Any = RestingMotor(**fields)
    assert motor.time_limit(11.0) == SLOWNESS * seconds + MARGIN_S
    assert motor.time_limit(-9.0) == motor.time_limit(11.0)


@pytest.mark.parametrize("position", [math.nan, math.inf, -math.inf, "x", None, [1.0, 2.0]])
def test_a_position_that_is_not_finite_is_refused(position: Any) -> None:
    motor: Any = RestingMotor()
    with pytest.raises(MotionLimitError) as refused:
        motor.check_value(position)
    assert str(refused.value) == f"{motor.name}: {position!r}, expected a finite position"


@pytest.mark.parametrize("move", ["set", "by.set", "x.set"])
def test_a_sample_whose_motor_does_not_know_where_it_is_is_not_moved(move: str) -> None:
    """A move to or from an unknown position would move no motor, and end without an error."""
    lost: Any = TurningMotor(math.nan)
    lost.motor_egu = SimpleNamespace(get=lambda: "mm")
    motors = [lost, *(TurningMotor(0.0) for _ in range(3))]
    for motor in motors:
        motor.motor_egu = lost.motor_egu
    gonio: Any = Device("", name="gonio")
    gonio.stages, gonio.phi, gonio.setup = motors[:3], motors[3], StageSetup()
    stage = SampleStage("", name="sample", parent=gonio)
    with pytest.raises(HardwareError, match=r"its readback T:m.RBV is nan"):
        attrgetter(move)(stage)(100.0 if move == "x.set" else (100.0, 0.0, 0.0))


def test_a_place_that_is_not_three_numbers_is_refused() -> None:
    stage: Any = SampleStage(name="sample")
    stage.known_position = lambda: np.zeros(3)
    for part in (stage, stage.by):
        for place in ("x", (1.0, 2.0), ("x", 0.0, 0.0), None):
            with pytest.raises(HardwareError) as refused:
                part.check_value(place)
            says = f"{part.name}: {place!r}, expected x, y, z in um, all finite"
            assert str(refused.value) == says
    for value, shown in (("x", "'x'"), (math.nan, "nan"), (math.inf, "inf")):
        with pytest.raises(HardwareError) as refused:
            stage.x.check_value(value)
        assert str(refused.value) == f"sample_x: {shown}, expected a finite number, um"


class TravelingMotor(TurningMotor):
    """A motor that somebody else moves: each reading shows another position."""

    @property
    def position(self) -> float:
        self._position += 0.1
        return self._position

    @position.setter
    def position(self, position: float) -> None:
        self._position = position


@pytest.mark.parametrize(("part", "value"), [("y", 100.0), ("by", (0.0, 100.0, 0.0))])
def test_a_stage_without_a_part_in_a_move_of_the_sample_is_left_alone(
    part: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while somebody else moves it: it was sent back to where it had been a moment ago."""
    motors: list[Any] = [TravelingMotor(0.0), *(TurningMotor(0.0) for _ in range(3))]
    for motor in motors:
        motor.motor_egu = SimpleNamespace(get=lambda: "mm")
        motor.check_value = lambda position: None
    gonio: Any = Device("", name="gonio")
    gonio.stages, gonio.phi, gonio.setup = motors[:3], motors[3], StageSetup()
    monkeypatch.setattr(sample_stage, "run_ioc_task", lambda _, task: task)
    monkeypatch.setattr(sample_stage, "move_all", list)
    move: Any = getattr(SampleStage("", name="sample", parent=gonio), part).set(value)
    assert move() == [(motors[1], pytest.approx(0.1))]
