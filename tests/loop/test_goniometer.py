"""Simulated motion against numeric integration; frames and signs against independent forms."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.acquire.simulated_axis import KEEP_S, MotorsClock, SimulatedAxis
from skywright.errors import ConfigError, DataError, HardwareError
from skywright.instruments.loop.geometry import to_laboratory
from skywright.instruments.loop.goniometer import (
    MARGIN_S,
    Goniometer,
    start_oscillation,
)
from skywright.instruments.loop.sample_motion import (
    Carriage,
    SampleMotion,
    read_motion,
    write_motion,
)
from skywright.instruments.loop.stages import StageSetup, check_matrix, um_per_unit
from skywright.instruments.loop.sweep import Sweep

T0 = 1.7e9  # as a clock counts: the precision of float64 seconds is part of the test
MM = ("mm", "mm", "mm")
SPEEDS = {"velocity": 120.0, "most": 360.0, "acceleration": 600.0}


def signed_permutations() -> list[tuple[tuple[float, ...], ...]]:
    """Return all 48 ways in which three motors can stand along three axes."""
    return [
        tuple(tuple(sign * (col == order[row]) for col in range(3)) for row, sign in rows)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
        for rows in [list(enumerate(signs))]
    ]


# ---- one axis


commands = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),  # wait before it
        st.one_of(st.none(), st.floats(-5.0, 5.0)),  # a target, or a stop
        st.floats(0.1, 10.0),
        st.floats(0.5, 100.0),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(commands)
def test_motion_is_the_integral_of_a_velocity_within_bounds(moves: list) -> None:
    axis, time = SimulatedAxis(0.5), 0.0
    fastest = hardest = 0.0
    for wait, target, velocity, acceleration in moves:
        time += wait
        fastest, hardest = max(fastest, velocity), max(hardest, acceleration)
        if target is None:
            axis.stop(time, acceleration)
        else:
            axis.move_to(time, target, velocity, acceleration)
    end = axis.path.rest_time
    if not math.isfinite(end):  # stops alone
        assert axis.position(time) == 0.5
        return
    times = np.linspace(-0.1, max(end, time) + 0.1, 20_001)
    position, velocity = axis.path.position_at(times), axis.path.velocity_at(times)
    step = times[1] - times[0]
    integrated = position[0] + np.concatenate(
        [[0.0], np.cumsum((velocity[1:] + velocity[:-1]) * step / 2.0)]
    )
    # The trapezoid rule is wrong only in steps with a corner.
    assert np.abs(position - integrated).max() < 30 * hardest * step**2 + 1e-9
    assert np.abs(velocity).max() <= fastest * (1 + 1e-9)
    assert np.abs(np.diff(velocity)).max() <= hardest * step * (1 + 1e-6) + 1e-9
    if moves[-1][1] is not None:
        assert axis.position(end) == moves[-1][1]
    assert not axis.moving(end + 1e-6)
    assert axis.path.velocity_at(end + 0.05) == 0.0


def test_a_move_takes_the_time_of_its_trapezoid() -> None:
    axis = SimulatedAxis()
    axis.move_to(T0, 2.0, 1.0, 2.0)  # ramps of 0.5 s and 0.25 mm each
    assert axis.rest_time == pytest.approx(T0 + 2.5, abs=1e-6)
    assert axis.position(T0 + 0.5) == pytest.approx(0.25)
    assert axis.position(T0 + 1.0) == pytest.approx(0.75)
    assert axis.moving(T0 + 2.4)
    assert not axis.moving(T0 + 2.5 + 1e-6)


def test_a_new_target_stops_first_and_a_stop_slows_down() -> None:
    axis = SimulatedAxis()
    axis.move_to(0.0, 10.0, 1.0, 2.0)
    axis.move_to(2.0, 0.0, 1.0, 2.0)
    assert axis.position(2.5) == pytest.approx(2.0)  # 1.75 when told, 0.25 to slow down
    assert axis.position(axis.rest_time) == 0.0
    axis.move_to(20.0, 10.0, 1.0, 2.0)
    axis.stop(22.0, 2.0)
    assert axis.position(30.0) == pytest.approx(2.0)
    assert not axis.moving(30.0)


@settings(max_examples=60, deadline=None)
@given(st.floats(-4.0, 4.0), st.floats(-4.0, 4.0), st.floats(0.0, 2.0))
def test_no_motion_passes_a_limit_switch(first: float, second: float, wait: float) -> None:
    axis = SimulatedAxis(0.0, -1.0, 1.5)
    axis.move_to(T0, first, 2.0, 5.0)
    axis.move_to(T0 + wait, second, 2.0, 5.0)
    positions = axis.path.position_at(np.linspace(T0, T0 + 20.0, 5000))
    assert positions.min() >= -1.0 - 2e-4
    assert positions.max() <= 1.5 + 2e-4
    end = axis.position(T0 + 20.0)
    if second <= -1.0 or second >= 1.5:
        assert end == pytest.approx(np.clip(second, -1.0, 1.5), abs=2e-4) or abs(first) >= 1.0
    assert axis.at_switches(T0 + 20.0) == (end <= -1.0 + 1e-4, end >= 1.5 - 1e-4)


def test_from_a_switch_only_the_way_back_is_open() -> None:
    axis = SimulatedAxis(0.0, -1.0, 1.0)
    axis.move_to(0.0, 2.0, 1.0, 10.0)
    assert axis.at_switches(10.0) == (False, True)
    axis.move_to(10.0, 3.0, 1.0, 10.0)
    assert axis.position(20.0) == pytest.approx(1.0, abs=2e-4)
    axis.move_to(20.0, 0.5, 1.0, 10.0)
    assert axis.position(30.0) == 0.5
    assert axis.at_switches(30.0) == (False, False)


def test_a_stuck_motor_tries_for_ever_and_goes_on_when_it_is_free() -> None:
    axis = SimulatedAxis()
    axis.move_to(0.0, 10.0, 1.0, 2.0)
    axis.set_stuck(3.0, True)
    here = axis.position(3.0)
    assert here == pytest.approx(2.75)
    assert axis.moving(1e6)
    assert axis.position(1e6) == here
    assert axis.rest_time == math.inf
    axis.set_stuck(100.0, False)
    assert axis.position(axis.rest_time) == 10.0
    axis.set_stuck(200.0, True)
    axis.move_to(201.0, 0.0, 1.0, 2.0)
    assert axis.moving(300.0)
    axis.stop(300.0)
    assert not axis.moving(300.0)
    assert axis.position(400.0) == 10.0


def test_a_stuck_motor_goes_on_to_the_switch_in_its_way_when_it_is_free() -> None:
    axis = SimulatedAxis(0.0, high_switch=4.0)
    axis.move_to(0.0, 10.0, 1.0, 2.0)
    axis.set_stuck(2.0, True)
    assert axis.moving(100.0)
    axis.set_stuck(100.0, False)
    assert axis.moving(100.1)
    assert axis.position(axis.rest_time) == pytest.approx(4.0, abs=2e-4)
    axis.set_stuck(200.0, True)  # it stands on the switch, and tries no more
    assert not axis.moving(200.0)


def test_a_motor_goes_on_where_a_switch_is_taken_out_of_its_way() -> None:
    axis = SimulatedAxis(0.0, high_switch=4.0)
    axis.move_to(0.0, 10.0, 1.0, 2.0)
    axis.set_switches(2.0, -math.inf, math.inf)
    assert axis.position(20.0) == 10.0
    axis.set_switches(20.0, -math.inf, 12.0)
    axis.move_to(20.0, 15.0, 1.0, 2.0)
    axis.set_switches(30.0, -math.inf, math.inf)  # it stands there: the move is over
    assert axis.position(40.0) == pytest.approx(12.0, abs=2e-4)


def test_a_motor_that_is_free_again_makes_the_moves_that_are_left_at_its_speed() -> None:
    axis = SimulatedAxis()
    axis.slow = 0.5
    axis.run(0.0, [(5.0, 2.0, 40.0), (10.0, 2.0, 40.0)])
    axis.set_stuck(7.0, True)  # in the course of the second move
    here = axis.position(7.0)
    assert 5.0 < here < 10.0
    axis.set_stuck(8.0, False)
    new = SimulatedAxis(here)
    new.slow = 0.5
    new.move_to(8.0, 10.0, 2.0, 40.0)
    assert axis.rest_time == new.rest_time
    for time in (8.5, 9.0, 20.0):
        assert axis.position(time) == new.position(time)
    axis.set_stuck(20.0, True)
    axis.run(21.0, [(15.0, 2.0, 40.0), (12.0, 2.0, 40.0)])
    axis.set_stuck(100.0, False)  # none of them was made
    assert axis.position(105.11) == 15.0
    assert axis.position(axis.rest_time) == 12.0


def test_a_slow_motor_takes_its_time() -> None:
    axis = SimulatedAxis()
    axis.slow = 0.1
    axis.move_to(0.0, 2.0, 1.0, 2.0)
    assert axis.rest_time == pytest.approx(25.0)


def test_old_commands_are_forgotten_and_recent_motion_is_not() -> None:
    axis, reference = SimulatedAxis(), []
    for count in range(400):
        axis.move_to(float(count), float(count % 7), 10.0, 100.0)
        reference.append(axis.position(count + 0.05))
    assert len(axis.path.commands) < KEEP_S * 2 + 5
    recent = [axis.position(count + 0.05) for count in range(400 - int(KEEP_S) + 2, 400)]
    assert recent == reference[-len(recent) :]


# ---- oscillations


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.5, 400.0), st.sampled_from([1, -1]), st.floats(1.5, 30.0), st.floats(-500.0, 500.0)
)
def test_the_speed_is_constant_in_the_window_and_the_angles_are_exact(
    way: float, sign: int, time: float, start: float
) -> None:
    axis = SimulatedAxis(30.0)
    sweep = Sweep(sign * way, time, start_deg=start)
    plan = start_oscillation(axis, T0, sweep, **SPEEDS)
    assert plan.window_end - plan.window_start == pytest.approx(time, abs=1e-6)
    speed = way / time
    ends = axis.path.position_at([plan.window_start, plan.window_end])
    assert ends == pytest.approx([start, start + sign * way], abs=1e-6 * speed + 1e-9)
    inside = np.linspace(plan.window_start, plan.window_end, 50)
    assert axis.path.velocity_at(inside) == pytest.approx(np.full(50, sign * speed), rel=1e-9)
    # also somewhat before and after it
    around = [plan.window_start - MARGIN_S / 2, plan.window_end + MARGIN_S / 2]
    assert axis.path.velocity_at(around) == pytest.approx([sign * speed] * 2, rel=1e-9)
    assert T0 <= plan.motor_start < plan.window_start
    assert plan.window_end < plan.motor_end < plan.rest_time
    assert axis.position(plan.rest_time) == start + sign * way


def test_without_run_up_the_ramps_are_inside_the_window() -> None:
    axis = SimulatedAxis(10.0)
    plan = start_oscillation(axis, T0, Sweep(180.0, 3.0, run_up=False), **SPEEDS)
    assert plan.window_start == plan.motor_start == pytest.approx(T0, abs=1e-6)
    assert plan.window_end == pytest.approx(T0 + 3.0, abs=1e-6)
    assert plan.motor_end == pytest.approx(T0 + 3.0, abs=1e-6)
    assert axis.position(T0 + 4.0) == 190.0
    assert axis.path.velocity_at(T0 + 0.01) == pytest.approx(6.0, rel=1e-3)
    assert float(axis.path.velocity_at(T0 + 1.5)) > 60.0


@pytest.mark.parametrize(
    ("sweep", "within", "said"),
    [
        (Sweep(360.0, 0.5), (0, 0), r"needs 720 deg/s, the spindle makes 360"),
        (Sweep(360.0, 1.0, run_up=False), (0, 0), r"at least 1\.55 s"),
        (Sweep(90.0, 1.0), (-10.0, 95.0), r"limits of the spindle are -10\.\.95 deg"),
        (Sweep(90.0, 1.0, start_deg=-10.0), (-11.0, 500.0), r"reaches -21\.25 deg, run-up incl"),
    ],
)
def test_what_the_spindle_cannot_do_is_refused(
    sweep: Sweep, within: tuple[float, float], said: str
) -> None:
    axis = SimulatedAxis()
    with pytest.raises(HardwareError, match=said):
        start_oscillation(axis, T0, sweep, **SPEEDS, within=within)
    assert not axis.moving(T0)


def test_a_moving_spindle_does_not_start_an_oscillation() -> None:
    axis = SimulatedAxis()
    axis.move_to(T0, 90.0, 10.0, 100.0)
    with pytest.raises(HardwareError, match="is moving"):
        start_oscillation(axis, T0 + 1.0, Sweep(90.0, 1.0), **SPEEDS)


def test_a_switch_in_the_way_of_an_oscillation_ends_it() -> None:
    axis = SimulatedAxis(0.0, high_switch=25.0)
    plan = start_oscillation(axis, T0, Sweep(60.0, 0.6), **SPEEDS)
    assert plan.end_deg == 60.0
    assert axis.position(plan.rest_time) == pytest.approx(25.0, abs=1e-4)
    assert axis.rest_time < plan.window_end
    assert axis.at_switches(plan.rest_time) == (False, True)


def test_the_window_stays_with_the_angles_of_a_slow_spindle() -> None:
    axis = SimulatedAxis()
    axis.slow = 0.25
    plan = start_oscillation(axis, T0, Sweep(90.0, 1.0), **SPEEDS)
    assert plan.window_end - plan.window_start == pytest.approx(4.0, abs=1e-6)
    ends = axis.path.position_at([plan.window_start, plan.window_end])
    assert ends == pytest.approx([0.0, 90.0], abs=1e-4)


def test_the_trace_has_both_ends_of_the_window_and_the_stamps_of_the_motors_clock() -> None:
    clock = MotorsClock(offset_s=2.5, drift=1e-3, epoch=T0)
    gonio = Goniometer(Carriage(), clock)
    assert gonio.trace(T0)[0].size == 0
    phi = gonio.axes["phi"]
    plan = gonio.oscillation = start_oscillation(phi, T0, Sweep(180.0, 3.0, 20.0), **SPEEDS)
    assert gonio.trace(plan.motor_start - 0.1)[0].size == 0
    stamps, angles = gonio.trace(math.inf)
    assert 100 * 3.0 < stamps.size < 120 * 4.0
    assert np.diff(stamps).min() > 0.0
    assert np.diff(stamps).max() < 0.0102
    assert np.diff(angles).min() >= 0.0
    opened, closed = clock.stamp(plan.window_start), clock.stamp(plan.window_end)
    assert closed - opened == pytest.approx(3.0 * 1.001, abs=1e-5)
    assert angles[np.searchsorted(stamps, opened)] == pytest.approx(20.0, abs=1e-4)
    assert angles[np.searchsorted(stamps, closed)] == pytest.approx(200.0, abs=1e-4)
    part, _ = gonio.trace(plan.window_start + 1.0)
    assert part.size < stamps.size
    assert part[-1] == pytest.approx(clock.stamp(plan.window_start + 1.0), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"delta_deg": 0.0, "time_s": 1.0}, "delta 0.0 deg"),
        ({"delta_deg": math.nan, "time_s": 1.0}, "delta nan"),
        ({"delta_deg": 1.0, "time_s": 0.0}, "time 0.0 s"),
        ({"delta_deg": 1.0, "time_s": 1.0, "start_deg": math.inf}, "start inf"),
    ],
)
def test_a_sweep_without_sense_is_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Sweep(**values)


# ---- frames


def moving_motion(carriage: Carriage) -> SampleMotion:
    gonio = Goniometer(carriage, MotorsClock())
    gonio.axes["phi"].move_to(T0, 123.0, 60.0, 600.0)
    for name, target in (("sx", 0.3), ("sy", -0.2), ("sz", 0.7)):
        gonio.axes[name].move_to(T0 + 0.2, target, 1.0, math.inf)
    gonio.axes["sy"].stop(T0 + 0.3)
    return gonio.motion(T0 + 1.0)


def test_motion_survives_its_way_as_text() -> None:
    motion = moving_motion(Carriage(((0, 1, 0), (0, 0, -1), (1, 0, 0)), "table", -1))
    text = write_motion(motion)
    json.loads(text, parse_constant=pytest.fail)  # JSON has no infinity
    assert read_motion(text) == motion
    forever = replace(motion, until=math.inf)
    assert read_motion(write_motion(forever)) == forever
    assert read_motion(text).pose_at(T0 + 0.7) == motion.pose_at(T0 + 0.7)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"axes": {"phi": 3}}', "null"])
def test_a_text_that_is_no_motion_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="motion of a goniometer"):
        read_motion(text)


def test_an_exposure_sees_the_way_and_a_still_sample_has_none() -> None:
    motion = moving_motion(Carriage())
    path = motion.path_over(T0 + 0.5, T0 + 0.5 + 1 / 60)
    assert path is not None
    assert path[0] == motion.pose_at(T0 + 0.5)
    assert path[-1].phi_deg - path[0].phi_deg == pytest.approx(1.0, abs=1e-4)
    assert motion.path_over(T0 + 10.0, T0 + 10.1) is None


@pytest.mark.parametrize("mounting", ["spindle", "table"])
@pytest.mark.parametrize("phi_sign", [1, -1])
def test_every_arrangement_of_the_stages_closes_the_loop(mounting: str, phi_sign: int) -> None:
    rng = np.random.default_rng(1)
    arrangements = signed_permutations()
    assert len(set(arrangements)) == 48
    turned = np.array([[1, 0, 0], [0, 0.6, -0.8], [0, 1.6, 1.2]]).tolist()  # 53 deg, a scale of 2
    for matrix in [*arrangements, tuple(map(tuple, np.array(turned).T))]:
        carriage = Carriage(matrix, mounting, phi_sign)
        setup = StageSetup(matrix, mounting, phi_sign)
        motors, phi, offset = rng.uniform(-1, 1, 3), rng.uniform(-200, 200), rng.normal(0, 300, 3)
        before = carriage.poses(np.array([phi]), motors[np.newaxis])[0, :3]
        assert setup.sample_um(motors, phi, MM) == pytest.approx(before, abs=1e-9)
        after = motors + setup.motor_moves(-(offset + before), phi, MM)
        there = carriage.poses(np.array([phi]), after[np.newaxis])[0, :3]
        assert there + offset == pytest.approx(np.zeros(3), abs=1e-9)


def test_stages_on_a_table_move_the_sample_as_the_camera_sees_it() -> None:
    # stage 2 lifts: seen across the spindle, whatever the angle
    for phi in (0.0, 35.0, 90.0, 200.0):
        rows = Carriage(mounting="table").poses(np.array([phi]), np.array([[0.0, 0.5, 0.0]]))
        along, across, beam = to_laboratory(rows[0, :3], phi)
        assert (along, across, beam) == pytest.approx((0.0, 500.0, 0.0), abs=1e-9)


def test_units_of_the_motors_are_converted_each() -> None:
    setup = StageSetup()
    assert setup.sample_um([1.0, 1.0, 1.0], 0.0, ("mm", "um", "mm")).tolist() == [1000.0, 1.0, 1e3]
    assert setup.motor_moves([10.0, 10.0, 10.0], 0.0, ("mm", "um", "mm")) == pytest.approx(
        [0.01, 10.0, 0.01]
    )
    with pytest.raises(ConfigError, match="unit of a motor is 'deg'"):
        um_per_unit("deg")


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[1, 0], [0, 1]], r"3 rows of 3"),
        ([[1, 0, 0], [0, math.nan, 0], [0, 0, 1]], r"finite"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], r"column 2 says that stage 2 moves .* by 0 per unit"),
        ([[1, 0, 0], [0, 1, 1], [0, 0, 0]], r"stages 2 and 3 .* 0 deg apart"),
        ([[1, 0, 0], [0, 1, 0.5], [0, 0, 1]], r"stages 2 and 3 .* 63 deg apart.*columns 2 and 3"),
        ([["a", 0, 0], [0, 1, 0], [0, 0, 1]], r"3 rows of 3 numbers"),
    ],
)
def test_a_wrong_stage_matrix_is_named(matrix: list, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_matrix(matrix)


def test_a_wrong_carriage_or_setup_is_named() -> None:
    with pytest.raises(ConfigError, match="mounting 'wall'"):
        StageSetup(mounting="wall")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="phi_sign 0"):
        StageSetup(phi_sign=0)
    with pytest.raises(ConfigError, match="mounting 'wall'"):
        Carriage(mounting="wall")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="3 x 3"):
        Carriage(((1, 0, 0),))  # type: ignore[arg-type]
