"""Moves and stops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.twin_motion import Motion

from skywright.acquire.trajectory import Axis, Move, Stop
from skywright.errors import ConfigError

finite = st.floats(-500.0, 500.0)


@settings(max_examples=60, deadline=None)
@given(
    start=finite,
    target=finite,
    velocity=st.floats(0.5, 200.0),
    acceleration=st.one_of(st.just(math.inf), st.floats(1.0, 1000.0)),
    begin=st.floats(-10.0, 10.0),
)
def test_position_is_the_integral_of_velocity(start, target, velocity, acceleration, begin):
    move = Move(start, target, velocity, acceleration, begin)
    path = Axis(start, (move,))
    time = np.linspace(begin - 0.5, move.end_time + 0.5, 20001)
    speed = path.velocity_at(time)
    assert np.abs(speed).max() <= velocity * (1 + 1e-9)
    step = time[1] - time[0]
    ridden = start + np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2.0) * step])
    tolerance = 2.5 * velocity * step + 1e-6
    assert np.abs(path.position_at(time) - ridden).max() < tolerance
    assert path.position_at(begin) == pytest.approx(start, abs=1e-9)
    assert path.position_at(move.end_time) == target
    assert path.position_at(move.end_time + 5.0) == target


def test_trapezoid_and_triangle_times():
    # 180 deg at 60 deg/s with 120 deg/s2: 0.5 s up, 2.5 s level, 0.5 s down.
    assert Move(0.0, 180.0, 60.0, 120.0).duration_s == pytest.approx(3.5)
    assert Move(0.0, 180.0, 60.0).duration_s == pytest.approx(3.0)
    short = Move(0.0, -4.0, 60.0, 1.0)
    assert short.peak_velocity == pytest.approx(2.0)
    assert short.duration_s == pytest.approx(4.0)
    assert Axis(0.0, (short,)).position_at(2.0) == pytest.approx(-2.0)
    assert Move(5.0, 5.0, 1.0).duration_s == 0.0
    with pytest.raises(ConfigError, match="must not both be infinite"):
        Move(0.0, 1.0, math.inf, math.inf)


def test_stop_brakes_from_where_it_is():
    axis = Axis().move_to(180.0, 60.0, 120.0, 10.0).stop(11.5, 120.0)
    at_stop = 15.0 + 60.0  # ramp of 0.5 s, then 1 s
    assert axis.position_at(11.5) == pytest.approx(at_stop)
    assert axis.velocity_at(11.5) == pytest.approx(60.0)
    assert axis.rest_time == pytest.approx(12.0)
    assert axis.position_at([12.0, 99.0]) == pytest.approx([at_stop + 15.0] * 2)
    assert not axis.moving_at(12.0)
    assert axis.moving_at(10.0)
    assert axis.stop(20.0) is axis


def test_new_target_in_flight_stops_first():
    axis = Axis().move_to(100.0, 10.0, 10.0, 0.0).move_to(0.0, 10.0, 10.0, 5.0)
    assert isinstance(axis.commands[1], Stop)
    turned = axis.position_at(6.0)
    assert turned == pytest.approx(50.0)
    assert axis.velocity_at(6.0) == pytest.approx(0.0)
    assert axis.position_at(axis.rest_time) == 0.0


def test_state_is_a_function_of_the_commands_alone():
    axis = Axis(1.0).move_to(50.0, 5.0, 20.0, 2.0).stop(6.0, 20.0).move_to(-3.0, 9.0, 20.0, 8.0)
    again = Axis(1.0, axis.commands)
    time = np.linspace(0.0, 20.0, 101)
    assert np.array_equal(axis.position_at(time), again.position_at(time))


@pytest.mark.parametrize("change", [{"velocity": 0.0}, {"acceleration": -1.0}, {"target": np.nan}])
def test_senseless_moves_are_refused(change):
    with pytest.raises(ConfigError):
        Move(**({"start": 0.0, "target": 1.0, "velocity": 1.0} | change))


def test_path_of_an_exposure():
    motion = Motion(phi=Axis().move_to(180.0, 60.0, math.inf, 0.0))
    path = motion.path_over(1.0, 1.0 + 1 / 30, points=3)
    assert [pose.phi_deg for pose in path] == pytest.approx([60.0, 61.0, 62.0])
    assert motion.path_over(4.0, 5.0) is None
    assert motion.pose_at(1.0).phi_deg == pytest.approx(60.0)
