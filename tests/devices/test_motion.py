"""Moves of several motors: none is left moving after an error; and how the end of one is judged."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from ophyd.utils.errors import DisconnectedError

from devices.loop.sample_stage import SampleStage
from devices.motion import MARGIN_S, SLOWNESS, MotionLimitError, Motor, move_all
from skywright.errors import HardwareError


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
    _alarm, _check_arrival, _is_at = Motor._alarm, Motor._check_arrival, Motor._is_at
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


def test_a_place_that_is_not_three_numbers_is_refused() -> None:
    stage: Any = SampleStage(name="sample")
    for part in (stage, stage.by):
        for place in ("x", (1.0, 2.0), ("x", 0.0, 0.0), None):
            with pytest.raises(HardwareError) as refused:
                part.check_value(place)
            says = f"{part.name}: {place!r}, expected x, y, z in um, all finite"
            assert str(refused.value) == says
    with pytest.raises(HardwareError, match=r"^sample_x: 'x', expected a number, um$"):
        stage.x.check_value("x")
