"""Oscillations of the goniometer's IOC, and the camera that follows them."""

import argparse
import asyncio
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from epics import PV
from ioc_process import IocProcess, running_ioc
from support import forked
from support.channels import channel, put
from support.goniometer_ioc import LIMIT_S, decoded, fresh, record, text, trace
from support.waiting import until

from iocs.loop import goniometer
from iocs.loop.goniometer import GoniometerIOC, build
from skywright.errors import ConfigError
from skywright.instruments.loop.sample_motion import Carriage


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


def test_an_abort_that_comes_while_an_oscillation_begins_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    post = goniometer.post

    async def post_late(*args: Any) -> None:
        await asyncio.sleep(0)
        await post(*args)

    monkeypatch.setattr(goniometer, "post", post_late)

    async def begin_and_abort() -> None:
        ioc = GoniometerIOC("TEST:", Carriage())
        await ioc.prepare()
        oscillation = asyncio.create_task(ioc.oscillate())
        await asyncio.sleep(0)
        await ioc.abort()
        assert ioc.osc.state.value == "Aborted"
        assert "aborted before the spindle moved" in ioc.osc.message.value
        assert not ioc.phi.axis.moving(time.time())
        await oscillation

    asyncio.run(begin_and_abort())


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


def test_a_spindle_without_a_highest_speed_turns(
    osc: Callable[..., PV], pv: Callable[..., PV]
) -> None:
    """As most motor records have it: their VMAX is 0."""
    put(pv("phi.VMAX"), 0.0)
    put(osc("Go"), 1)
    put(pv("phi.VMAX"), 360.0)
    assert osc("State_RBV").get(as_string=True) == "Done", text(osc("Message_RBV"))


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
    put(osc("Go"), 1)
    assert trace(osc)[0].size > 0
    put(pv("phi.VAL"), 0.0)
    put(osc("Time"), 0.02)
    put(osc("Go"), 1)
    assert osc("State_RBV").get(as_string=True) == "Failed"
    assert trace(osc)[0].size == 0, "the trace of the sweep before"
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


@pytest.mark.usefixtures("osc")  # phi goes back to 0
@pytest.mark.parametrize("name", ["ClockOffset", "ClockDrift"])
@pytest.mark.parametrize("value", [1e300, math.nan])
def test_a_clock_beyond_all_dates_is_refused(
    pv: Callable[..., PV], name: str, value: float
) -> None:
    put(pv(f"SIM:{name}"), value)
    assert fresh(pv(f"SIM:{name}_RBV")) == 0.0
    put(pv("phi.VAL"), 1.0)
    assert fresh(pv("phi.RBV")) == pytest.approx(1.0)


def test_a_matrix_says_which_way_the_stages_go_and_it_ends_in_time() -> None:
    with running_ioc("iocs.goniometer", "--matrix", "[[0,0,-1],[0,1,0],[1,0,0]]") as other:
        pose = channel(f"{other.prefix}SIM:Pose_RBV")
        put(channel(f"{other.prefix}sx"), 0.1)
        assert fresh(pose).tolist() == pytest.approx([0.0, 0.0, 100.0, 0.0])
        assert other.ready["motors"] == ["phi", "sx", "sy", "sz"]
        assert other.terminate() == 0  # within its 5 s


def test_rows_of_a_matrix_are_as_long_as_each_other() -> None:
    args = argparse.Namespace(matrix="[[1,0],[0,1,0],[0,0,1]]", mounting="spindle", phi_sign=1)
    with pytest.raises(ConfigError, match="three rows"):
        build(args)


def test_a_wrong_matrix_ends_it_with_a_message() -> None:
    done = forked.run(
        [sys.executable, "-m", "iocs.goniometer", "--matrix", "[[1,0],[0,1]]"],
        capture_output=True,
        text=True,
        timeout=90,
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
        put(osc("Time"), 2.0)  # enough pictures on a busy machine too
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
