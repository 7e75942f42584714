"""Moves of several motors: none is left moving after an error."""

from typing import Any

import pytest
from ophyd.utils.errors import DisconnectedError

from devices.motion import move_all
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
