"""The goniometer's IOC as a process, seen by clients of Channel Access."""

import functools
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from epics import PV
from ioc_process import IocProcess, running_ioc
from ophyd import EpicsMotor

from skywright.loop.sample_motion import read_motion

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def ioc() -> Iterator[IocProcess]:
    with running_ioc("iocs.goniometer") as running:
        yield running


_channels: dict[str, PV] = {}
"""Never freed: pyepics crashes when it clears a channel from another thread's context."""


def channel(name: str) -> PV:
    """Return a connected channel by its full name."""
    if name not in _channels:
        _channels[name] = PV(name, auto_monitor=False)
        assert _channels[name].wait_for_connection(LIMIT_S), name
    return _channels[name]


@pytest.fixture
def pv(ioc: IocProcess) -> Callable[[str], PV]:
    """Give a connected PV by its name below the prefix."""
    return lambda name: channel(ioc.prefix + name)


@pytest.fixture
def motor(ioc: IocProcess) -> Iterator[EpicsMotor]:
    """The stage sx, back at 0, healthy, when the test ends."""
    device = ophyd_motor(f"{ioc.prefix}sx")
    yield device
    reset(ioc, "sx")
    # The ends of these motions must be behind ophyd before it makes another. Its callbacks wait in
    # one queue: when it tells of a velocity put after them, they are.
    told: list[float] = []
    token = device.velocity.subscribe(lambda value, **_: told.append(value), run=False)
    for velocity in (1.0, 2.0):
        put(channel(f"{ioc.prefix}sx.VELO"), velocity)
        until(lambda wanted=velocity: wanted in told)
    device.velocity.unsubscribe(token)


@functools.cache
def ophyd_motor(prefix: str) -> EpicsMotor:
    device = EpicsMotor(prefix, name="sx")
    device.wait_for_connection(timeout=LIMIT_S)
    return device


def reset(ioc: IocProcess, name: str) -> None:
    for suffix, value in (
        ("SIM:Silent", 0),
        (f"SIM:{name}:Stuck", 0),
        (f"SIM:{name}:Slow", 1.0),
        (f"SIM:{name}:LowSwitch", -3.0 if name != "phi" else -math.inf),
        (f"SIM:{name}:HighSwitch", 3.0 if name != "phi" else math.inf),
        (f"{name}.STOP", 1),
        (f"{name}.SPMG", 3),
        (f"{name}.DIR", 0),
        (f"{name}.OFF", 0.0),
        (f"{name}.HLM", 2.5 if name != "phi" else 36000.0),
        (f"{name}.LLM", -2.5 if name != "phi" else -36000.0),
        (f"{name}.VELO", 2.0 if name != "phi" else 120.0),
        (f"{name}.VAL", 0.0),
    ):
        put(channel(ioc.prefix + suffix), value)


def put(pv: PV, value: Any) -> None:
    """Put and wait for completion."""
    assert pv.put(value, wait=True, timeout=LIMIT_S) == 1, f"{pv.pvname}: never completed"


def fresh(pv: PV) -> Any:
    return pv.get(timeout=LIMIT_S)


def until(check: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < deadline, "did not happen in time"
        threading.Event().wait(0.02)


def record(pv: PV) -> list[tuple[float, Any]]:
    """Collect what a channel posts from now on, with its time stamps."""
    seen: list[tuple[float, Any]] = []
    last: list[Any] = []

    def note(value: Any, timestamp: float, **_: Any) -> None:
        if last[-1:] != [(timestamp, value)]:  # pyepics tells the first value twice
            last.append((timestamp, value))
            seen.append((timestamp, value))

    _channels[f"{pv.pvname} {len(_channels)}"] = PV(pv.pvname, auto_monitor=True, callback=note)
    until(lambda: bool(seen))  # what there is when it connects
    seen.clear()
    return seen


# ---- the motor record


def test_ophyd_reads_what_a_motor_says_of_itself(motor: EpicsMotor) -> None:
    assert (motor.limits, motor.egu, motor.precision) == ((-2.5, 2.5), "mm", 5)
    key = motor.describe()["sx"]
    assert (key["units"], key["lower_ctrl_limit"], key["upper_ctrl_limit"]) == ("mm", -2.5, 2.5)
    assert motor.velocity.get() == 2.0
    assert not motor.moving


def test_ophyd_moves_a_motor_and_sees_it_arrive(motor: EpicsMotor) -> None:
    before = time.time()
    motor.move(0.5, wait=True, timeout=LIMIT_S)
    # 0.5 mm at 2 mm/s with ramps of 0.05 s
    assert time.time() - before > 0.29
    assert motor.position == 0.5
    motor.move(0.5, wait=True, timeout=LIMIT_S)  # a move to where it stands ends too


def test_put_completion_and_done_come_with_the_end_of_the_motion(pv: Callable[..., PV]) -> None:
    readback, done, moving = (record(pv(f"sy.{field}")) for field in ("RBV", "DMOV", "MOVN"))
    before = time.time()
    put(pv("sy"), 1.0)
    took = time.time() - before
    assert took > 0.54
    assert fresh(pv("sy.RBV")) == 1.0
    until(lambda: len(done) == 2 and len(moving) == 2)
    assert [value for _, value in done] == [0, 1]
    assert [value for _, value in moving] == [1, 0]
    positions = [value for _, value in readback]
    assert positions == sorted(positions)
    assert len(positions) >= 8  # 20 a second
    put(pv("sy"), 0.0)


def test_readings_lie_on_the_published_trajectory(pv: Callable[..., PV]) -> None:
    readback = record(pv("sz.RBV"))
    put(pv("sz"), -1.0)
    motion = read_motion(text(pv("SIM:Motion_RBV")))
    until(lambda: readback[-1][1] == -1.0)
    for stamp, value in readback:
        assert float(motion.stages[2].position_at(stamp)) == pytest.approx(value, abs=1e-5)
    put(pv("sz"), 0.0)


def test_a_put_beyond_the_soft_limits_completes_and_moves_nothing(
    motor: EpicsMotor, pv: Callable[..., PV]
) -> None:
    with pytest.raises(ValueError, match="outside of range"):
        motor.move(2.6)
    done = record(pv("sx.DMOV"))
    put(pv("sx"), 9.0)
    assert fresh(pv("sx.LVIO")) == 1
    assert fresh(pv("sx")) == fresh(pv("sx.RBV")) == 0.0
    assert pv("sx.SEVR").get(as_string=True) == "MINOR"
    until(lambda: [value for _, value in done] == [0, 1])
    put(pv("sx"), 0.1)
    assert fresh(pv("sx.LVIO")) == 0
    assert pv("sx.SEVR").get(as_string=True) == "NO_ALARM"


def test_limits_can_be_changed_and_ophyd_learns_it(
    motor: EpicsMotor, pv: Callable[..., PV]
) -> None:
    motor.set_lim(-1.0, 1.5)
    until(lambda: motor.limits == (-1.0, 1.5))
    assert (fresh(pv("sx.DHLM")), fresh(pv("sx.DLLM"))) == (1.5, -1.0)


def test_a_new_target_in_motion_is_where_both_moves_end(pv: Callable[..., PV]) -> None:
    ended = threading.Event()
    pv("sy").put(2.0, wait=False, callback=lambda **_: ended.set())
    until(lambda: fresh(pv("sy.RBV")) > 0.3)
    put(pv("sy"), -0.2)
    assert ended.wait(LIMIT_S)
    assert fresh(pv("sy.RBV")) == fresh(pv("sy")) == -0.2
    put(pv("sy"), 0.0)


def test_stop_slows_down_and_completes_the_put(pv: Callable[..., PV]) -> None:
    ended = threading.Event()
    put(pv("sy.ACCL"), 0.5)
    pv("sy").put(2.4, wait=False, callback=lambda **_: ended.set())
    until(lambda: fresh(pv("sy.RBV")) > 0.7)
    put(pv("sy.STOP"), 1)
    assert ended.wait(LIMIT_S)
    stopped = fresh(pv("sy.RBV"))
    # 2 mm/s and 4 mm/s^2: 0.5 mm
    assert 1.0 < stopped < 2.2
    assert fresh(pv("sy")) == stopped
    put(pv("sy.ACCL"), 0.05)
    put(pv("sy"), 0.0)


def test_offset_direction_and_set_renumber_positions(
    motor: EpicsMotor, pv: Callable[..., PV]
) -> None:
    motor.move(0.5, wait=True, timeout=LIMIT_S)
    motor.set_current_position(2.0)
    until(lambda: motor.position == 2.0)
    until(lambda: motor.limits == (-1.0, 4.0))
    assert fresh(pv("sx.DRBV")) == 0.5
    put(pv("sx.DIR"), 1)
    assert fresh(pv("sx.RBV")) == 2.0
    motor.move(2.25, wait=True, timeout=LIMIT_S)
    assert fresh(pv("sx.DRBV")) == pytest.approx(0.25)
    assert fresh(pv("sx.DVAL")) == pytest.approx(0.25)
    put(pv("sx.DVAL"), 0.0)
    assert fresh(pv("sx.RBV")) == pytest.approx(2.5)


def test_tweak_jog_relative_and_home(pv: Callable[..., PV]) -> None:
    put(pv("sy.TWV"), 0.1)
    put(pv("sy.TWF"), 1)
    put(pv("sy.TWF"), 1)
    put(pv("sy.TWR"), 1)
    assert fresh(pv("sy.RBV")) == pytest.approx(0.1)
    put(pv("sy.RLV"), -0.3)
    assert fresh(pv("sy.RBV")) == pytest.approx(-0.2)
    pv("sy.JOGF").put(1, wait=False)
    until(lambda: fresh(pv("sy.RBV")) > 0.1)
    put(pv("sy.JOGF"), 0)
    until(lambda: fresh(pv("sy.DMOV")) == 1)
    here = fresh(pv("sy.RBV"))
    assert fresh(pv("sy")) == here < 2.5
    put(pv("sy.HOMF"), 1)
    assert (fresh(pv("sy.RBV")), fresh(pv("sy.ATHM"))) == (0.0, 1)


def test_pause_holds_and_go_goes_on(motor: EpicsMotor, pv: Callable[..., PV]) -> None:
    pv("sx").put(1.5, wait=False)
    until(lambda: fresh(pv("sx.RBV")) > 0.2)
    put(pv("sx.SPMG"), "Pause")
    until(lambda: fresh(pv("sx.MOVN")) == 0)
    assert fresh(pv("sx.RBV")) < 1.4
    assert fresh(pv("sx")) == 1.5
    put(pv("sx.SPMG"), "Go")
    until(lambda: fresh(pv("sx.RBV")) == 1.5)
    put(pv("sx.SPMG"), "Stop")
    put(pv("sx"), 0.0)  # completes, and nothing moves
    assert fresh(pv("sx.RBV")) == 1.5


@pytest.mark.parametrize(("field", "value"), [("VELO", 11.0), ("VELO", -1.0), ("ACCL", 0.0)])
def test_speeds_without_sense_are_refused(
    motor: EpicsMotor, pv: Callable[..., PV], field: str, value: float
) -> None:
    before = fresh(pv(f"sx.{field}"))
    put(pv(f"sx.{field}"), value)
    assert fresh(pv(f"sx.{field}")) == before
    assert field in text(pv("Osc:Message_RBV"))


def text(pv: PV) -> str:
    return decoded(fresh(pv))


def decoded(value: Any) -> str:
    return bytes(np.atleast_1d(value).astype(np.uint8)).split(b"\0")[0].decode()


# ---- faults


def test_a_limit_switch_ends_a_move_with_an_alarm(motor: EpicsMotor, pv: Callable[..., PV]) -> None:
    put(pv("SIM:sx:HighSwitch"), 0.4)
    status = motor.set(1.0)
    with pytest.raises(Exception, match="failed"):
        status.wait(LIMIT_S)
    assert fresh(pv("sx.RBV")) == pytest.approx(0.4, abs=1e-5)
    assert (fresh(pv("sx.HLS")), fresh(pv("sx.LLS"))) == (1, 0)
    assert fresh(pv("sx.MSTA")) & 0b100
    assert pv("sx.SEVR").get(as_string=True) == "MAJOR"
    motor.move(0.1, wait=True, timeout=LIMIT_S)
    assert pv("sx.SEVR").get(as_string=True) == "NO_ALARM"


def test_a_stuck_motor_says_that_it_moves(motor: EpicsMotor, pv: Callable[..., PV]) -> None:
    put(pv("SIM:sx:Stuck"), 1)
    status = motor.set(1.0)
    until(lambda: fresh(pv("sx.MOVN")) == 1)
    assert not threading.Event().wait(0.3)
    assert (fresh(pv("sx.RBV")), fresh(pv("sx.DMOV"))) == (0.0, 0)
    put(pv("SIM:sx:Stuck"), 0)
    status.wait(LIMIT_S)
    assert fresh(pv("sx.RBV")) == 1.0


def test_a_slow_motor_is_slow(motor: EpicsMotor, pv: Callable[..., PV]) -> None:
    put(pv("SIM:sx:Slow"), 0.2)
    before = time.time()
    put(pv("sx"), 0.3)
    assert time.time() - before > 0.3 / 2.0 / 0.2


def test_a_silent_controller_takes_no_command_and_freezes_readings(
    motor: EpicsMotor, pv: Callable[..., PV]
) -> None:
    put(pv("SIM:Silent"), 1)
    until(lambda: pv("sx.SEVR").get(as_string=True) == "INVALID")
    put(pv("sx"), 1.0)  # completes
    assert fresh(pv("sx.RBV")) == 0.0
    status = motor.set(1.0)
    with pytest.raises(Exception, match="failed"):
        status.wait(LIMIT_S)
    put(pv("SIM:Silent"), 0)
    until(lambda: pv("sx.SEVR").get(as_string=True) == "NO_ALARM")
    put(pv("sx"), 0.2)
    assert fresh(pv("sx.RBV")) == pytest.approx(0.2)


# ---- oscillations


@pytest.fixture
def osc(ioc: IocProcess, pv: Callable[..., PV]) -> Iterator[Callable[..., PV]]:
    """Give PVs of `Osc:`; phi stands at 0, healthy, before and after."""

    def connect(name: str) -> PV:
        return pv(f"Osc:{name}")

    for name, value in (("From", 0), ("Delta", 30.0), ("Time", 0.3), ("RunUp", 1)):
        put(connect(name), value)
    yield connect
    put(connect("Go"), 0)
    reset(ioc, "phi")


def trace(osc: Callable[..., PV]) -> tuple[np.ndarray, np.ndarray]:
    count = fresh(osc("TraceCount_RBV"))
    times, angles = fresh(osc("TraceTime_RBV")), fresh(osc("TraceAngle_RBV"))
    return np.asarray(times)[:count], np.asarray(angles)[:count]


@pytest.mark.parametrize("sense", [1, -1])
def test_an_oscillation_turns_evenly_while_the_trigger_is_open(
    osc: Callable[..., PV], pv: Callable[..., PV], sense: int
) -> None:
    trigger = record(pv("VideoTrigger_RBV"))
    for name, value in (("From", 1), ("Start", 30.0), ("Delta", sense * 30.0)):
        put(osc(name), value)
    put(osc("Go"), 1)
    assert osc("State_RBV").get(as_string=True) == "Done"
    assert fresh(pv("phi.RBV")) == pytest.approx(30.0 + sense * 30.0)
    opened, closed = fresh(osc("WindowStart_RBV")), fresh(osc("WindowEnd_RBV"))
    assert closed - opened == pytest.approx(0.3, abs=1e-5)
    until(lambda: len(trigger) == 2)
    assert [value for _, value in trigger] == [1, 0]
    assert [stamp for stamp, _ in trigger] == pytest.approx([opened, closed], abs=1e-5)
    times, angles = trace(osc)
    inside = (times >= opened) & (times <= closed)
    assert inside.sum() > 30
    assert angles[inside][[0, -1]] == pytest.approx([30.0, 30.0 + sense * 30.0], abs=1e-3)
    straight = 30.0 + sense * 100.0 * (times[inside] - opened)
    assert angles[inside] == pytest.approx(straight, abs=1e-3)
    assert times[0] == pytest.approx(fresh(osc("MotorStart_RBV")), abs=1e-5)
    assert times[0] < opened


def test_an_oscillation_is_in_user_angles(osc: Callable[..., PV], pv: Callable[..., PV]) -> None:
    put(pv("phi.OFF"), 15.0)
    put(pv("phi.DIR"), 1)
    here = fresh(pv("phi.RBV"))
    put(osc("Go"), 1)
    assert fresh(pv("phi.RBV")) == pytest.approx(here + 30.0)
    times, angles = trace(osc)
    opened = np.searchsorted(times, fresh(osc("WindowStart_RBV")))
    assert angles[opened] == pytest.approx(here, abs=1e-3)
    assert angles[-1] > angles[0]


def test_a_simple_controller_accelerates_inside(
    osc: Callable[..., PV], pv: Callable[..., PV]
) -> None:
    put(osc("RunUp"), "Inside")
    put(osc("Time"), 0.6)
    put(osc("Go"), 1)
    times, angles = trace(osc)
    assert times[-1] - times[0] == pytest.approx(0.6, abs=1e-4)
    speed = np.gradient(angles, times)
    assert speed[0] < 10.0 < 50.0 < speed.max()
    assert angles[[0, -1]] == pytest.approx([0.0, 30.0], abs=1e-3)


def test_the_trace_grows_during_the_sweep_and_abort_ends_it(
    osc: Callable[..., PV], pv: Callable[..., PV]
) -> None:
    ended = threading.Event()
    trigger = record(pv("VideoTrigger_RBV"))
    put(osc("Delta"), 360.0)
    put(osc("Time"), 6.0)
    osc("Go").put(1, wait=False, callback=lambda **_: ended.set())
    until(lambda: fresh(osc("TraceCount_RBV")) > 50)
    assert fresh(pv("VideoTrigger_RBV")) == 1
    put(pv("VideoTrigger"), 0)  # not while the oscillation owns it
    assert fresh(pv("VideoTrigger_RBV")) == 1
    put(pv("phi"), 0.0)  # a move does not spoil it either, and completes
    assert not ended.is_set()
    put(osc("Go"), 0)
    assert ended.wait(LIMIT_S)
    assert osc("State_RBV").get(as_string=True) == "Aborted"
    assert "stopped" in text(osc("Message_RBV"))
    until(lambda: [value for _, value in trigger] == [1, 0])
    _, angles = trace(osc)
    assert 10.0 < angles[-1] < 350.0
    assert fresh(pv("phi.RBV")) == pytest.approx(angles[-1], abs=0.5)
    assert fresh(osc("WindowEnd_RBV")) < fresh(osc("WindowStart_RBV")) + 6.0


def test_what_cannot_be_done_is_said_and_completes(
    osc: Callable[..., PV], pv: Callable[..., PV]
) -> None:
    put(osc("Time"), 0.02)
    put(osc("Go"), 1)
    assert osc("State_RBV").get(as_string=True) == "Failed"
    assert "take more time" in text(osc("Message_RBV"))
    assert fresh(pv("phi.RBV")) == 0.0
    put(osc("Delta"), 0.0)
    put(osc("Go"), 1)
    assert "delta 0.0 deg" in text(osc("Message_RBV"))


def test_a_switch_in_the_way_closes_the_trigger(
    osc: Callable[..., PV], pv: Callable[..., PV]
) -> None:
    trigger = record(pv("VideoTrigger_RBV"))
    put(pv("SIM:phi:HighSwitch"), 15.0)
    put(osc("Go"), 1)
    assert osc("State_RBV").get(as_string=True) == "Failed"
    until(lambda: [value for _, value in trigger] == [1, 0])
    assert trigger[1][0] - trigger[0][0] < 0.25
    assert fresh(pv("phi.HLS")) == 1
    assert fresh(pv("phi.RBV")) == pytest.approx(15.0, abs=1e-3)


def test_a_stuck_spindle_never_opens_the_trigger(
    osc: Callable[..., PV], pv: Callable[..., PV]
) -> None:
    trigger = record(pv("VideoTrigger_RBV"))
    put(pv("SIM:phi:Stuck"), 1)
    osc("Go").put(1, wait=False)
    until(lambda: fresh(osc("Go_RBV")) == 1)
    threading.Event().wait(0.7)  # longer than the sweep would take
    assert fresh(osc("Go_RBV")) == 1
    assert trigger == []
    put(osc("Go"), 0)
    assert osc("State_RBV").get(as_string=True) == "Aborted"


def test_stamps_are_of_the_motors_clock(osc: Callable[..., PV], pv: Callable[..., PV]) -> None:
    put(pv("SIM:ClockOffset"), 100.0)
    readback = record(pv("phi.RBV"))
    put(osc("Go"), 1)
    now = time.time()
    assert 70.0 < fresh(osc("WindowEnd_RBV")) - now < 100.5
    assert 70.0 < trace(osc)[0][-1] - now < 100.5
    until(lambda: bool(readback))
    assert readback[-1][0] - now > 70.0
    put(pv("SIM:ClockOffset"), 0.0)


# ---- the whole


def test_a_matrix_says_which_way_the_stages_go_and_it_ends_in_time() -> None:
    with running_ioc("iocs.goniometer", "--matrix", "[[0,0,-1],[0,1,0],[1,0,0]]") as other:
        pose = channel(f"{other.prefix}SIM:Pose_RBV")
        put(channel(f"{other.prefix}sx"), 0.1)
        assert fresh(pose).tolist() == pytest.approx([0.0, 0.0, 100.0, 0.0])
        assert other.ready["motors"] == ["phi", "sx", "sy", "sz"]
        assert other.terminate() == 0  # within its 5 s


def test_a_wrong_matrix_ends_it_with_a_message() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iocs.goniometer", "--matrix", "[[1,0],[0,1]]"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "3 x 3" in done.stderr


def test_the_simulated_camera_sees_what_the_motors_do(
    ioc: IocProcess, pv: Callable[..., PV], osc: Callable[..., PV]
) -> None:
    arguments = ("--goniometer", ioc.prefix, "--seed", "3", "--size", "352x240")
    with running_ioc("iocs.axis", *arguments) as camera:

        def of_camera(name: str) -> PV:
            return channel(camera.prefix + name)

        def truth() -> dict[str, Any]:
            return json.loads(text(of_camera("SIM:Truth_RBV")))

        def scene() -> dict[str, Any]:
            return json.loads(text(of_camera("SIM:Scene_RBV")))

        first = scene()
        for name, value in (("Seed", 11), ("Kind", "nylon"), ("Y", 150.0), ("Phi", 40.0)):
            put(of_camera(f"SIM:Mount{name}"), value)
        put(of_camera("SIM:Mount"), 1)
        mounted = scene()
        assert mounted["kind"] == "nylon"
        assert mounted["tip_offset_um"][1] == 150.0
        assert mounted["face_on_deg"] == 40.0
        assert mounted["axis_px"] == first["axis_px"]  # the same camera
        assert mounted["tip_offset_um"][2] != first["tip_offset_um"][2]

        # While the spindle turns the pictures are taken of where it is.
        seen = record(of_camera("SIM:Truth_RBV"))
        of_camera("cam1:Acquire").put(1, wait=False)
        until(lambda: len(seen) > 1)
        put(osc("Time"), 1.0)
        put(osc("Go"), 1)
        times, angles = trace(osc)
        truths = [json.loads(decoded(value)) for _, value in seen]
        turning = [
            each
            for each in truths
            if times[0] < each["exposure_start_s"] < each["exposure_end_s"] < times[-1]
        ]
        assert len(turning) > 10
        middle = np.array([(e["exposure_start_s"] + e["exposure_end_s"]) / 2 for e in turning])
        phi = np.array([each["phi_deg"] for each in turning])
        assert phi == pytest.approx(np.interp(middle, times, angles), abs=0.05)

        # The stages bring the tip to the axis.
        for name, offset in zip(("sx", "sy", "sz"), mounted["tip_offset_um"], strict=True):
            put(pv(name), (-offset / 1000.0) if name != "sx" else 0.0)
        moved = time.time()
        until(lambda: truth()["exposure_start_s"] > moved)
        now = truth()
        row = 1 if now["side"] in ("left", "right") else 0
        assert now["tip_unclipped_px"][row] == pytest.approx(now["axis_at_tip_px"], abs=1e-3)
        put(of_camera("cam1:Acquire"), 0)
        for name in ("sy", "sz"):
            put(pv(name), 0.0)
