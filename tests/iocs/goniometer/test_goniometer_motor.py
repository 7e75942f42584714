"""The goniometer's motor records as a process, seen by clients of Channel Access."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from epics import PV
from ophyd import EpicsMotor
from support.channels import put
from support.goniometer_ioc import LIMIT_S, fresh, record, text
from support.waiting import until

from iocs.motor_record import COMM_ERROR
from skywright.instruments.loop.sample_motion import read_motion


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


def test_set_mode_never_moves_the_motor(pv: Callable[..., PV]) -> None:
    put(pv("sz"), 0.5)
    done = record(pv("sz.DMOV"))
    put(pv("sz.SET"), 1)
    put(pv("sz.DVAL"), 0.0)
    assert pv("sz.SEVR").get(as_string=True) == "INVALID"
    put(pv("sz.RVAL"), 0)
    put(pv("sz.RLV"), 1.0)
    assert (fresh(pv("sz.RBV")), fresh(pv("sz.DRBV"))) == (1.5, 0.5)
    put(pv("sz.TWV"), 0.25)
    put(pv("sz.TWF"), 1)
    assert (fresh(pv("sz.RBV")), fresh(pv("sz.DRBV"))) == (1.75, 0.5)
    put(pv("sz.SET"), 0)
    put(pv("sz.OFF"), 0.0)
    put(pv("sz"), 0.0)
    until(lambda: [value for _, value in done] == [0, 1])  # of the last put only


def test_move_is_for_one_move(pv: Callable[..., PV]) -> None:
    put(pv("sz.SPMG"), "Move")
    put(pv("sz"), 0.25)
    assert (fresh(pv("sz.RBV")), pv("sz.SPMG").get(as_string=True)) == (0.25, "Pause")
    put(pv("sz"), 0.5)
    assert (fresh(pv("sz.RBV")), fresh(pv("sz"))) == (0.25, 0.5)
    put(pv("sz.SPMG"), "Go")
    until(lambda: fresh(pv("sz.RBV")) == 0.5)
    put(pv("sz"), 0.0)


def test_limits_that_are_upside_down_are_shown_so(pv: Callable[..., PV]) -> None:
    put(pv("sz.LLM"), 2.75)
    for direction, limits in ((0, (2.75, 2.5)), (1, (-2.5, -2.75))):
        put(pv("sz.DIR"), direction)
        assert (fresh(pv("sz.LLM")), fresh(pv("sz.HLM"))) == limits
    put(pv("sz"), 0.1)
    assert (fresh(pv("sz.LVIO")), fresh(pv("sz.RBV"))) == (1, 0.0)
    put(pv("sz.DIR"), 0)
    put(pv("sz.LLM"), -2.5)
    put(pv("sz"), 0.0)


def test_every_number_has_the_precision_and_units_of_the_record(pv: Callable[..., PV]) -> None:
    fields = {"OFF": "mm", "MRES": "mm", "DIFF": "mm", "ACCL": "s", "VBAS": "mm/s", "VAL": "mm"}
    for field, units in fields.items():
        facts = pv(f"sz.{field}").get_ctrlvars(timeout=LIMIT_S)
        assert (facts["units"], facts["precision"]) == (units, 5), field
    put(pv("sz.EGU"), "um")
    put(pv("sz.PREC"), 2)
    facts = pv("sz.RBV").get_ctrlvars(timeout=LIMIT_S)
    assert (facts["units"], facts["precision"]) == ("um", 2)
    put(pv("sz.EGU"), "mm")
    put(pv("sz.PREC"), 5)


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


@pytest.mark.parametrize(("field", "value"), [("SPMG", "Stop"), ("STOP", 1)])
def test_a_stop_after_a_pause_forgets_the_target(
    motor: EpicsMotor, pv: Callable[..., PV], field: str, value: Any
) -> None:
    pv("sx").put(1.5, wait=False)
    until(lambda: fresh(pv("sx.RBV")) > 0.2)
    put(pv("sx.SPMG"), "Pause")
    until(lambda: fresh(pv("sx.DMOV")) == 1)
    stopped = fresh(pv("sx.RBV"))
    put(pv(f"sx.{field}"), value)
    assert fresh(pv("sx")) == fresh(pv("sx.DVAL")) == stopped < 1.4
    put(pv("sx.SPMG"), "Go")
    put(pv("sx.RLV"), -0.1)
    assert fresh(pv("sx.RBV")) == pytest.approx(stopped - 0.1)


def test_no_jog_is_ended_where_there_is_none(motor: EpicsMotor, pv: Callable[..., PV]) -> None:
    ended = threading.Event()
    pv("sx").put(1.0, wait=False, callback=lambda **_: ended.set())
    until(lambda: fresh(pv("sx.RBV")) > 0.1)
    put(pv("sx.JOGF"), 0)
    put(pv("sx.JOGR"), 0)
    assert ended.wait(LIMIT_S)
    assert fresh(pv("sx.RBV")) == 1.0
    pv("sx.JOGR").put(1, wait=False)
    until(lambda: fresh(pv("sx.RBV")) < 0.9)
    put(pv("sx.JOGF"), 0)
    until(lambda: fresh(pv("sx.RBV")) < 0.5)
    put(pv("sx.JOGR"), 0)
    until(lambda: fresh(pv("sx.DMOV")) == 1)
    assert fresh(pv("sx.RBV")) > -2.5


def test_a_jog_that_is_paused_does_not_go_back_when_moves_go_on(
    motor: EpicsMotor, pv: Callable[..., PV]
) -> None:
    before = fresh(pv("sx.JVEL"))
    put(pv("sx.JVEL"), 0.1)  # far from the limit for long
    pv("sx.JOGF").put(1, wait=False)
    until(lambda: fresh(pv("sx.RBV")) > 0.05)
    put(pv("sx.SPMG"), "Pause")
    put(pv("sx.JVEL"), before)
    until(lambda: fresh(pv("sx.DMOV")) == 1)
    stopped = fresh(pv("sx.RBV"))
    assert fresh(pv("sx")) == fresh(pv("sx.DVAL")) == stopped
    put(pv("sx.SPMG"), "Go")
    put(pv("sx.RLV"), 0.1)
    assert fresh(pv("sx.RBV")) == pytest.approx(stopped + 0.1)


@pytest.mark.parametrize("direction", ["Pos", "Neg"])
def test_a_jog_beyond_a_limit_moves_nothing(
    motor: EpicsMotor, pv: Callable[..., PV], direction: str
) -> None:
    put(pv("sx.DIR"), direction)
    put(pv("sx"), 1.0)
    put(pv("sx.HLM"), 0.5)
    put(pv("sx.JOGF"), 1)
    assert (fresh(pv("sx.RBV")), fresh(pv("sx.LVIO")), fresh(pv("sx.DMOV"))) == (1.0, 1, 1)
    put(pv("sx"), 0.2)
    assert (fresh(pv("sx.RBV")), fresh(pv("sx.LVIO"))) == (pytest.approx(0.2), 0)


@pytest.mark.parametrize(("field", "value"), [("VELO", -1.0), ("ACCL", 0.0)])
def test_speeds_without_sense_are_refused(
    motor: EpicsMotor, pv: Callable[..., PV], field: str, value: float
) -> None:
    target = pv(f"sx.{field}")
    before = fresh(target)
    put(target, value)
    assert fresh(target) == before
    assert f"{target.pvname}: " in text(pv("Osc:Message_RBV"))


@pytest.mark.parametrize("field", ["VELO", "JVEL"])
def test_a_speed_above_the_highest_becomes_the_highest(pv: Callable[..., PV], field: str) -> None:
    target, most = pv(f"sx.{field}"), pv("sx.VMAX")
    before = fresh(target)
    put(target, fresh(most) + 1.0)
    assert fresh(target) == fresh(most)
    put(target, before)


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
    until(lambda: fresh(pv("sx.MSTA")) & COMM_ERROR)
    put(pv("sx"), 1.0)  # completes
    assert fresh(pv("sx.RBV")) == 0.0
    status = motor.set(1.0)
    with pytest.raises(Exception, match="failed"):
        status.wait(LIMIT_S)
    put(pv("SIM:Silent"), 0)
    until(lambda: pv("sx.SEVR").get(as_string=True) == "NO_ALARM")
    until(lambda: not fresh(pv("sx.MSTA")) & COMM_ERROR)
    put(pv("sx"), 0.2)
    assert fresh(pv("sx.RBV")) == pytest.approx(0.2)
