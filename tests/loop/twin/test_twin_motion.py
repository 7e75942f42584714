"""Moves, stops and the camera's clock."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.acquire.trajectory import Axis, Move, Stop
from skywright.errors import ConfigError
from skywright.instruments.loop.twin.clock import FrameClock
from skywright.instruments.loop.twin.trajectory import Motion

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
    time = np.linspace(begin - 0.5, move.end_time + 0.5, 20001)
    speed = move.velocity_at(time)
    assert np.abs(speed).max() <= velocity * (1 + 1e-9)
    step = time[1] - time[0]
    ridden = start + np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2.0) * step])
    tolerance = 2.5 * velocity * step + 1e-6
    assert np.abs(move.position_at(time) - ridden).max() < tolerance
    assert move.position_at(begin) == pytest.approx(start, abs=1e-9)
    assert move.position_at(move.end_time) == target
    assert move.position_at(move.end_time + 5.0) == target


@settings(max_examples=40, deadline=None)
@given(stop_at=st.floats(-0.5, 4.0), from_s=st.floats(-1.0, 4.0), length=st.floats(0.001, 2.0))
def test_mean_over_an_exposure_is_exact(stop_at, from_s, length):
    axis = Axis(3.0).move_to(120.0, 60.0, 200.0, 0.0).stop(stop_at, 100.0)
    time = np.linspace(from_s, from_s + length, 20001)
    numeric = np.trapezoid(axis.position_at(time), time) / length
    assert axis.mean_over(from_s, from_s + length) == pytest.approx(numeric, abs=2e-4)


def test_trapezoid_and_triangle_times():
    # 180 deg at 60 deg/s with 120 deg/s2: 0.5 s up, 2.5 s level, 0.5 s down.
    assert Move(0.0, 180.0, 60.0, 120.0).duration_s == pytest.approx(3.5)
    assert Move(0.0, 180.0, 60.0).duration_s == pytest.approx(3.0)
    short = Move(0.0, -4.0, 60.0, 1.0)
    assert short.peak_velocity == pytest.approx(2.0)
    assert short.duration_s == pytest.approx(4.0)
    assert short.position_at(2.0) == pytest.approx(-2.0)
    assert Move(5.0, 5.0, 1.0).duration_s == 0.0


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


def test_latency_lies_in_its_range_and_varies():
    frames = [FrameClock(seed=3).frame(i) for i in range(1500)]
    latency = np.array([frame.latency_s for frame in frames])
    assert latency.min() >= 0.06
    assert latency.max() <= 0.3
    assert 0.08 < latency.mean() < 0.12
    assert latency.std() > 0.02
    arrival = np.array([frame.arrival_s for frame in frames])
    assert np.count_nonzero(np.diff(arrival) < 0.0) > 0  # some overtake
    assert np.allclose(arrival - [frame.end_s for frame in frames], latency)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6, 1.0])
def test_lost_frames_are_as_many_as_told_and_come_in_bursts(fraction):
    clock = FrameClock(lost_fraction=fraction, seed=11)
    lost = np.array([clock.frame(i).lost for i in range(4000)])
    assert lost.mean() == pytest.approx(fraction, abs=0.03)
    if 0.0 < fraction < 1.0:
        after_lost = lost[1:][lost[:-1]].mean()
        assert after_lost > fraction + 0.05
    assert all(math.isnan(clock.frame(i).arrival_s) == lost[i] for i in range(50))


def test_frames_follow_the_cameras_own_clock():
    clock = FrameClock(fps=25.0, exposure_s=0.01, drift=2e-3, offset_s=7.0, jitter_s=0.0)
    frames = list(clock.frames(0.0, 100.0))
    assert len(frames) == 2505  # 0.2 % fast
    camera = np.diff([frame.camera_time_s for frame in frames])
    assert camera == pytest.approx(0.04)
    assert clock.camera_time(0.0) == 7.0


def test_jitter_keeps_the_order_of_exposures():
    clock = FrameClock(fps=30.0, exposure_s=1 / 40, jitter_s=0.01)
    frames = [clock.frame(i) for i in range(300)]
    gaps = [b.start_s - a.end_s for a, b in pairwise(frames)]
    assert min(gaps) >= 0.0
    assert np.std(gaps) > 1e-4


def test_a_frame_is_the_same_whenever_asked():
    clock = FrameClock(lost_fraction=0.3, doubled_fraction=0.2, seed=2)
    forward = [repr(clock.frame(i)) for i in range(40)]
    backward = [repr(clock.frame(i)) for i in reversed(range(40))]
    assert forward == backward[::-1]
    assert any(clock.frame(i).doubled for i in range(40))


@pytest.mark.parametrize(
    "change",
    [{"fps": 0.0}, {"exposure_s": 1.0}, {"latency_min_s": 0.5}, {"lost_fraction": 1.5}],
)
def test_senseless_clocks_are_refused(change):
    with pytest.raises(ConfigError):
        FrameClock(**change)
