"""center_loop over Channel Access: simulated camera and goniometer as users run them, and faults.

One beamline for all tests: whatever has happened to it, the next test finds it usable.
"""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ioc_process import IocProcess, running_ioc
from ophyd import EpicsSignal, EpicsSignalRO
from support.loop_session import Session, loop_session

from devices.guarded import read_all_elements
from devices.loop.axis import AxisCamera
from devices.loop.goniometer import Goniometer
from devices.motion import Motor
from plans.loop.centering import center_loop, collect_oscillation
from skywright.errors import HardwareError, SkywrightError
from skywright.instruments.loop.calibration import ZoomCalibration, as_json, now

pytestmark = pytest.mark.timeout(150)

SCENE = {
    "side": "left",
    "um_per_px_x": 6.7324,
    "um_per_px_y": 7.4729,
    "axis_px": 236.0,
    "roll_deg": 0.0,
    "light": "backlight",
    "level": 180.0,
    "contrast": 0.9,
    "loop_length_um": 420.0,
    "loop_width_um": 300.0,
    "fiber_um": 20.0,
    "focus_um": 0.0,
    "nozzle": None,
    "exposure_s": 0.008,
}
OFF_UM = np.array([300.0, 300.0, -250.0])
QUICK: dict[str, Any] = {"delta_deg": 360.0, "time_s": 3.6}


@dataclass
class Beamline:
    """Session and devices over running IOCs."""

    session: Session
    axis: AxisCamera
    gonio: Goniometer
    camera_ioc: IocProcess
    gonio_ioc: IocProcess

    @property
    def devices(self) -> dict[str, Any]:
        return {"camera": self.axis, "goniometer": self.gonio, "result": self.session.result}

    def signal(self, suffix: str) -> EpicsSignal:
        signal = EpicsSignal(suffix, name="fault", put_complete=True)
        signal.wait_for_connection(timeout=90)
        return signal

    def put(self, name: str, value: Any) -> None:
        self.signal(name).put(value, wait=True, timeout=90)

    def offset_um(self) -> np.ndarray[Any, Any]:
        """Distance of the middle of the loop from the beam, as the simulators know it."""
        scene = EpicsSignalRO(f"{self.axis.prefix}SIM:Scene_RBV", name="scene", string=True)
        pose = EpicsSignalRO(f"{self.gonio.prefix}SIM:Pose_RBV", name="pose")
        for each in (scene, pose):
            each.wait_for_connection(timeout=90)
        truth = json.loads(read_all_elements(scene))
        return np.array(truth["center_offset_um"]) + np.asarray(read_all_elements(pose))[:3]

    def home(self) -> None:
        """Put the loop to where each test begins: off the beam, in view."""
        self.axis.wait_for_connection(timeout=90)
        self.gonio.wait_for_connection(timeout=90)
        self.gonio.sample.by.set(tuple(OFF_UM - self.offset_um())).wait(90)

    def center(self, **changes: Any) -> Any:
        return self.session.run(center_loop(**self.devices, **{**QUICK, **changes}))

    def center_with(self, fault: Callable[[], None], sleeps: int = 5) -> tuple[Exception, float]:
        """Center while `fault` happens in mid-sweep; return the error, and seconds to it."""
        struck: list[float] = []
        turning = threading.Event()
        seen = 0

        def count(msg: Any) -> None:
            nonlocal seen
            seen += msg.command == "sleep"
            if seen == sleeps:
                turning.set()

        def strike() -> None:
            turning.wait(60)
            struck.append(time.monotonic())
            fault()

        thread = threading.Thread(target=strike, daemon=True)
        thread.start()
        self.session.engine.msg_hook = count
        try:
            with pytest.raises(SkywrightError) as caught:
                self.center()
        finally:
            self.session.engine.msg_hook = None
            turning.set()
            thread.join(90)
        return caught.value, time.monotonic() - struck[0]


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beamline]:
    directory = tmp_path_factory.mktemp("beamline")
    camera_args = ("--seed", "33", "--kind", "nylon", "--fps", "12", "--scene", json.dumps(SCENE))
    with (
        running_ioc("iocs.goniometer") as gonio_ioc,
        running_ioc("iocs.axis", "--goniometer", gonio_ioc.prefix, *camera_args) as camera_ioc,
        loop_session(directory) as session,
    ):
        assets = directory / "assets"
        axis = AxisCamera(camera_ioc.prefix, name="axis", assets=assets)
        gonio = Goniometer(gonio_ioc.prefix, name="gonio", assets=assets)
        axis.wait_for_connection(timeout=90)
        gonio.wait_for_connection(timeout=90)
        known = {key: SCENE[key] for key in ("side", "um_per_px_x", "um_per_px_y", "axis_px")}
        calibration = ZoomCalibration(
            **known,
            zoom=0.0,
            axis_sigma_px=0.5,
            scale_residual_px=0.2,
            axis_residual_px=0.2,
            date=now(),
            delay_s=0.085,
            target_px=352.0,
        )
        session.result.calibration.set(as_json(calibration)).wait(1)
        line = Beamline(session, axis, gonio, camera_ioc, gonio_ioc)
        yield line
        for ioc in (line.camera_ioc, line.gonio_ioc):  # those that were started again
            if ioc.process.poll() is None:
                ioc.kill()


SLOW_DOWN_S = 2.0
"""Motors that were told to stop stand after this."""


def check_usable(beamline: Beamline) -> None:
    """The session takes pictures of a turning sample again, and they are looked at."""
    beamline.axis.wait_for_connection(timeout=90)
    beamline.gonio.wait_for_connection(timeout=90)
    uid = beamline.session.run(collect_oscillation(beamline.axis, beamline.gonio, 90.0, 1.0))
    assert [stop["exit_status"] for stop in beamline.session.stops()] == ["success"]
    assert beamline.session.detection.wait(raw_uid=uid, timeout_s=30).rows >= 5


def check_stopped(beamline: Beamline) -> None:
    """Nothing moves, nothing records."""
    motors = (beamline.gonio.phi, *beamline.gonio.stages)
    deadline = time.monotonic() + SLOW_DOWN_S
    while any(motor.motor_is_moving.get(use_monitor=False) for motor in motors):
        assert time.monotonic() < deadline, "something still moves"
    assert not beamline.axis.acquiring.get(use_monitor=False)
    assert not beamline.axis.file.capture.get(use_monitor=False)


def test_a_loop_is_centered(beamline: Beamline) -> None:
    beamline.home()
    result = beamline.center()
    assert result.ok, result.why
    assert np.hypot(*beamline.offset_um()[1:]) < 10.0
    stops = beamline.session.stops()
    assert [stop["exit_status"] for stop in stops] == ["success"] * result.passes
    assert stops[0]["num_events"]["oscillation"] > 100
    check_stopped(beamline)


def test_a_stuck_spindle(beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    beamline.home()
    monkeypatch.setattr(Motor, "stall_s", 1.5)
    stuck = f"{beamline.gonio.prefix}SIM:phi:Stuck"
    error, seconds = beamline.center_with(lambda: beamline.put(stuck, 1))
    print(f"stuck spindle: {seconds:.1f} s")
    assert isinstance(error, HardwareError)
    assert "stands still" in str(error)
    assert "stands still" in beamline.session.stops()[-1]["reason"]
    beamline.put(stuck, 0)
    check_stopped(beamline)
    check_usable(beamline)


def test_a_silent_camera(beamline: Beamline) -> None:
    beamline.home()
    silent = f"{beamline.axis.prefix}SIM:Silent"
    error, seconds = beamline.center_with(lambda: beamline.put(silent, 1))
    print(f"silent camera: {seconds:.1f} s")
    assert isinstance(error, HardwareError)
    assert "no picture" in str(error)
    beamline.put(silent, 0)
    check_stopped(beamline)
    check_usable(beamline)


def test_a_limit_switch_in_the_move(beamline: Beamline) -> None:
    beamline.home()
    switch = f"{beamline.gonio.prefix}SIM:sy:LowSwitch"
    beamline.put(switch, beamline.gonio.sy.position - 0.1)  # the loop is 0.3 mm off
    with pytest.raises(HardwareError, match="low limit switch"):
        beamline.center()
    assert "low limit switch" in beamline.session.stops()[-1]["reason"]
    check_stopped(beamline)
    beamline.put(switch, -3.0)
    check_usable(beamline)


def test_a_soft_limit_is_refused_before_the_move(beamline: Beamline) -> None:
    beamline.home()
    limit = beamline.gonio.sx.low_limit_travel
    before = limit.get()
    here = beamline.gonio.sample.position
    limit.set(beamline.gonio.sx.position - 0.05).wait(90)
    try:
        with pytest.raises(HardwareError, match="beyond its limits"):
            beamline.center()
        np.testing.assert_allclose(beamline.gonio.sample.position, here, atol=1.0)
    finally:
        limit.set(before).wait(90)


def test_a_killed_analysis(beamline: Beamline) -> None:
    beamline.home()
    detection = beamline.session.detection
    detection.wait_ready()
    pid = detection.worker_pid
    assert pid is not None
    beamline.session.result._timeout_s = 5.0
    outcome: list[Any] = []
    try:
        error, seconds = beamline.center_with(lambda: os.kill(pid, signal.SIGKILL))
        outcome += [str(error), seconds]
        assert "analysis" in str(error)
    except pytest.fail.Exception:  # another worker was there in time, and nothing was lost
        assert beamline.session.stops()[-1]["exit_status"] == "success"
    finally:
        beamline.session.result._timeout_s = 30.0
    print(f"killed analysis: {outcome or 'made good'}")
    check_stopped(beamline)
    check_usable(beamline)
    assert detection.worker_pid != pid


def test_a_killed_camera_ioc(beamline: Beamline) -> None:
    beamline.home()
    try:
        error, seconds = beamline.center_with(lambda: beamline.camera_ioc.kill())
        print(f"killed camera IOC: {seconds:.1f} s")
        assert "lost the IOC" in str(error)
        gonio = beamline.gonio
        assert not any(m.motor_is_moving.get(use_monitor=False) for m in (gonio.phi, *gonio.stages))
        assert "lost the IOC" in beamline.session.stops()[-1]["reason"]
    finally:
        beamline.camera_ioc = beamline.camera_ioc.again()
    check_usable(beamline)


def test_a_killed_goniometer_ioc(beamline: Beamline) -> None:
    beamline.home()
    try:
        error, seconds = beamline.center_with(lambda: beamline.gonio_ioc.kill())
        print(f"killed goniometer IOC: {seconds:.1f} s")
        assert re.search("lost the IOC|no answer", str(error))
        assert not beamline.axis.acquiring.get(use_monitor=False)
    finally:
        beamline.gonio_ioc = beamline.gonio_ioc.again()
    check_usable(beamline)
