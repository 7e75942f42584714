"""calibrate_camera over the twin: what it finds is what the twin's camera is."""

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bluesky.utils import MsgGenerator
from ophyd.status import Status
from support import loop_world
from support.loop_plain import make_world
from support.loop_session import Session

from plans.loop import calibration, stubs
from plans.loop.calibration import calibrate_camera
from plans.loop.centering import center_loop
from skywright.errors import ConfigError, DataError, HardwareError, SampleError
from skywright.instruments.loop.geometry import View, to_goniometer, to_laboratory
from skywright.instruments.loop.rotation_values import Place, RotationValues
from skywright.instruments.loop.sweep import Sweep


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param({}, marks=pytest.mark.accuracy),
        pytest.param({"side": "bottom"}, marks=pytest.mark.accuracy),
        {"roll_deg": -1.5, "um_per_px_x": 3.3, "um_per_px_y": 3.7},
    ],
    ids=["left", "bottom", "rolled"],
)
def test_the_camera_is_calibrated_from_motion_alone(
    session: Session, scene: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world((150.0, 120.0, -90.0), **scene)
    devices, file = session.mount(world, calibrated=False), session.result.calibration.file
    truth = world.calibration()
    other = replace(truth, zoom=0.0, width_px=768)
    file.save(other)  # a camera with another zoom, which tells nothing of this one
    home = world.pose()
    with caplog.at_level(logging.INFO, "skywright.plans"):
        found = session.run(calibrate_camera(**devices, target_px=truth.target_px, zoom=2.0))
    lines = [each.getMessage() for each in caplog.records if each.name == "skywright.plans"]
    assert lines[0] == "scale: looking for the tip"
    assert lines[-1] == "calibration of zoom 2 saved"
    made = found.calibration
    # A pixel is 0.1 .. 0.2 % of the grid; a blunt tip is found to 2 % of its 100 px of width.
    assert made.um_per_px_x == pytest.approx(truth.um_per_px_x, rel=0.005)
    assert made.um_per_px_y == pytest.approx(truth.um_per_px_y, rel=0.005)
    assert made.axis_px == pytest.approx(truth.axis_px, abs=2.0)
    assert made.roll_deg == pytest.approx(truth.roll_deg, abs=0.3)
    assert made.delay_s == pytest.approx(truth.delay_s, abs=0.01)
    assert made.side == truth.side
    assert abs(found.phi_excess_deg) < 1.5
    assert (made.width_px, made.height_px) == (704, 480)
    assert file.stops() == [other, made]
    now = world.pose()
    assert (now.x_um, now.y_um, now.z_um) == pytest.approx((home.x_um, home.y_um, home.z_um))
    assert len(found.uids) == 3
    assert session.run(center_loop(**devices, zoom=2.0)).ok
    with pytest.raises(ConfigError, match="outside the calibrated stops"):
        list(center_loop(**devices, zoom=3.0))


@pytest.mark.parametrize("side", ["left", "bottom"])
def test_the_last_rotation_is_in_the_other_half_of_the_picture_and_beyond_the_spindle(
    side: Any,
) -> None:
    view = View(um_per_px_x=5.0, um_per_px_y=5.0, side=side)
    tip, axis = np.array([300.0, 120.0, -90.0]), view.by_spindle(352.0, 240.0)[1]
    found = RotationValues(tip=Place(*tip.tolist()), axis_row=axis)
    after = tip + calibration._shift(view, found, 30.0)
    before, away = (to_laboratory(each, 30.0) for each in (tip, after))
    np.testing.assert_array_equal(np.sign(away), -np.sign(before))
    assert abs(away[0]) < 0.5 * 5.0 * view.by_spindle(704.0, 480.0)[0]


@pytest.mark.parametrize(("side", "target_px"), [("left", 900.0), ("top", 600.0)])
def test_a_beam_outside_of_the_picture_is_refused(
    session: Session, side: str, target_px: float
) -> None:
    world = make_world(side=side)
    devices = session.mount(world, calibrated=False)
    before = world.pose()
    wrong = f"target_px = {target_px:g}, expected a place in pictures of 704 x 480 px"
    with pytest.raises(ConfigError, match=wrong):
        session.run(calibrate_camera(**devices, target_px=target_px))
    assert world.pose() == before


@pytest.mark.soak
def test_pictures_that_reach_the_file_late_do_no_harm(session: Session) -> None:
    """As on a slow computer: the next picture in the file was taken before the last move."""
    world = make_world((150.0, 120.0, -90.0))
    devices = session.mount(world, calibrated=False)
    devices["camera"].late_s = 1.2
    truth, made = world.calibration(), session.run(calibrate_camera(**devices)).calibration
    assert made.um_per_px_x == pytest.approx(truth.um_per_px_x, rel=0.005)
    assert made.um_per_px_y == pytest.approx(truth.um_per_px_y, rel=0.005)


def test_an_analysis_that_takes_long_at_first_makes_no_picture_late(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the first session after an installation: its worker compiles meanwhile."""
    world = make_world((150.0, 120.0, -90.0))
    devices = session.mount(world, calibrated=False)
    result = devices["result"]
    trigger, waits = result.trigger, iter([2.0, 0.0, 0.0])

    def wait_at_first() -> Status:
        waited = next(waits, None)
        if waited is None:
            raise SampleError("three pictures are enough")
        world.now += waited
        return trigger()

    monkeypatch.setattr(result, "trigger", wait_at_first)
    monkeypatch.setattr(stubs, "LATE_S", 1.0)
    devices["camera"].late_s = 0.9
    with pytest.raises(SampleError, match="three pictures are enough"):
        session.run(calibrate_camera(**devices))


def test_pictures_of_before_the_move_are_never_believed(session: Session) -> None:
    devices = session.mount(make_world(), calibrated=False)
    camera = devices["camera"]
    camera.clock = lambda: camera.world.now + 30.0
    with pytest.raises(HardwareError, match=r"30.* s old and was taken before the last move"):
        session.run(calibrate_camera(**devices))


def test_a_stage_at_its_limit_leaves_the_sample_where_it_was(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world((150.0, 120.0, -90.0))
    devices = session.mount(world, calibrated=False)
    home = world.pose()
    monkeypatch.setattr(loop_world, "LIMIT_UM", 260.0)
    with pytest.raises(HardwareError, match="beyond its limits"):
        session.run(calibrate_camera(**devices))
    now = world.pose()
    assert (now.x_um, now.y_um, now.z_um) == pytest.approx((home.x_um, home.y_um, home.z_um))


def test_without_a_tip_in_view_nothing_is_calibrated(session: Session) -> None:
    devices = session.mount(make_world(kind="none"), calibrated=False)
    with pytest.raises(SampleError, match="no tip is in view"):
        session.run(calibrate_camera(**devices))
    assert not session.result.calibration.file.path.exists()


def test_a_failed_plan_leaves_the_calibrations_as_they_are(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    devices, file = session.mount(world), session.result.calibration.file
    own, other = file.stops()[0], replace(world.calibration(), zoom=5.0)
    runs = iter([lambda: (replace(own, axis_px=1.0), None), lambda: file.save(other)])

    def recorded(*_: Any) -> MsgGenerator[Any]:
        yield from ()
        answer = next(runs)()
        if answer is None:
            raise SampleError("the tip is gone")
        return answer

    monkeypatch.setattr(stubs, "recorded", recorded)
    with pytest.raises(SampleError, match="the tip is gone"):
        session.run(calibrate_camera(**devices))
    assert file.stops() == [own, other]


def test_a_rotation_of_few_pictures_is_refused_and_the_calibration_of_before_stays(
    session: Session,
) -> None:
    """As on a computer that takes few pictures: their fit looks better than it is."""
    world = make_world((150.0, 120.0, -90.0))
    devices, file = session.mount(world), session.result.calibration.file
    before, world.fps = file.stops(), 1.5
    why = r"1[0-4] pictures of a rotation agree with its fit, 15 are needed; nothing is saved"
    with pytest.raises(HardwareError, match=why):
        session.run(calibrate_camera(**devices))
    assert file.stops() == before


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("SCALE_SIGMA_MAX", r"the scale is known to .* of its value only, 1e-09 are needed"),
        pytest.param(
            "ROLL_SIGMA_MAX_DEG",
            r"the roll is known to .* deg only, 1e-09 are needed",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_an_uncertain_calibration_is_refused_and_that_of_before_stays(
    session: Session, monkeypatch: pytest.MonkeyPatch, limit: str, why: str
) -> None:
    world = make_world((150.0, 120.0, -90.0))
    devices, file = session.mount(world), session.result.calibration.file
    before, home = file.stops(), world.pose()
    monkeypatch.setattr(calibration, limit, 1e-9)
    with pytest.raises(DataError, match=why):
        session.run(calibrate_camera(**devices))
    assert file.stops() == before
    now = world.pose()
    assert (now.x_um, now.y_um, now.z_um) == pytest.approx((home.x_um, home.y_um, home.z_um))


def test_when_the_light_fails_nothing_is_calibrated_and_the_sample_goes_back(
    session: Session,
) -> None:
    world = make_world()
    devices = session.mount(world, calibrated=False)
    targets = devices["goniometer"].sample.targets
    world.light = lambda _: 1.0 if len(targets) < 2 else 0.0
    with pytest.raises(HardwareError, match="flat image"):
        session.run(calibrate_camera(**devices))
    assert max(map(abs, targets[-2])) > 1.0
    assert targets[-1] == pytest.approx((0.0, 0.0, 0.0))


def test_when_the_analysis_fails_nothing_is_calibrated_and_the_sample_goes_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error reaches the plan as that of a status, as the error of a motor does."""
    devices = session.mount(make_world(), calibrated=False)
    result, targets = devices["result"], devices["goniometer"].sample.targets
    trigger = result.trigger

    def fail_after_a_move() -> Status:
        if len(targets) < 2:
            return trigger()
        failed = Status()
        failed.set_exception(HardwareError("loop_rotation stands still"))
        return failed

    monkeypatch.setattr(result, "trigger", fail_after_a_move)
    with pytest.raises(HardwareError, match="loop_rotation stands still"):
        session.run(calibrate_camera(**devices))
    assert max(map(abs, targets[-2])) > 1.0
    assert targets[-1] == pytest.approx((0.0, 0.0, 0.0))


def test_stages_that_run_backwards_are_found_out(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    devices = session.mount(world, calibrated=False)
    sample = devices["goniometer"].sample
    forward = sample.set
    monkeypatch.setattr(sample, "set", lambda xyz: forward((-xyz[0], xyz[1], xyz[2])))
    with pytest.raises(DataError, match="check the stage's sign"):
        session.run(calibrate_camera(**devices))
    assert world.pose().x_um == pytest.approx(0.0, abs=1e-6)


def turned(devices: dict[str, Any], angle_deg: float) -> None:
    """Turn the stages about the spindle, which `stage_matrix` and phi do not know of."""
    sample, angle = devices["goniometer"].sample, math.radians(angle_deg)
    straight, cos, sin = sample.set, math.cos(angle), math.sin(angle)
    sample.set = lambda xyz: straight(
        (xyz[0], cos * xyz[1] - sin * xyz[2], sin * xyz[1] + cos * xyz[2])
    )


@pytest.mark.parametrize(
    ("side", "angle_deg"), [("left", 30.0), pytest.param("top", -20.0, marks=pytest.mark.soak)]
)
def test_a_scale_is_right_though_phi_is_off_from_the_stages(
    session: Session, caplog: pytest.LogCaptureFixture, side: str, angle_deg: float
) -> None:
    world = make_world((150.0, 120.0, -90.0), side=side)
    devices, truth = session.mount(world, calibrated=False), world.calibration()
    turned(devices, angle_deg)
    found = session.run(calibrate_camera(**devices, target_px=truth.target_px))
    made = found.calibration
    assert made.um_per_px_x == pytest.approx(truth.um_per_px_x, rel=0.01)
    assert made.um_per_px_y == pytest.approx(truth.um_per_px_y, rel=0.01)
    assert made.roll_deg == pytest.approx(truth.roll_deg, abs=0.3)
    assert found.phi_excess_deg == pytest.approx(-angle_deg, abs=1.5)
    assert f"phi differs by {found.phi_excess_deg:.1f} deg" in caplog.text


def test_phi_that_is_far_off_from_the_stages_is_refused(session: Session) -> None:
    world = make_world((150.0, 120.0, -90.0))
    devices, file = session.mount(world), session.result.calibration.file
    before = file.stops()
    turned(devices, 60.0)
    with pytest.raises(DataError, match=r"phi differs by -(59|6\d)\.\d deg"):
        session.run(calibrate_camera(**devices))
    assert file.stops() == before


@pytest.mark.parametrize("phi_deg", [20.0, 22.0, 23.0, 24.0, 25.0, 26.0])
def test_a_wrong_phi_sign_is_found_out_at_any_angle(phi_deg: float) -> None:
    shift = to_goniometer((0.0, 40.0, 40.0), phi_deg)
    # The grid is seen shorter by cos(2 phi), and its scale is as much too large.
    y, z = np.array([shift[1], -shift[2]]) / math.cos(math.radians(2.0 * phi_deg))
    before, after = (
        RotationValues(tip=Place(y=a, z=b, used=90), rms=0.5, delay_sigma=0.002)
        for a, b in ((0.0, 0.0), (y, z))
    )
    with pytest.raises(DataError, match=r"check phi_sign|phi differs by"):
        calibration._phi_excess(before, after, shift, View(), Sweep(180.0, 3.0))


@pytest.mark.parametrize(("y", "z"), [(1.0, -1.0), pytest.param(-1.0, 1.0, marks=pytest.mark.soak)])
def test_a_stage_across_the_spindle_that_runs_backwards_is_found_out(
    session: Session, y: float, z: float
) -> None:
    # At 0 and 90 deg the grid alone does not show it.
    world = make_world((150.0, 120.0, -90.0))
    devices = session.mount(world, calibrated=False)
    sample = devices["goniometer"].sample
    forward = sample.set
    sample.set = lambda xyz: forward((xyz[0], y * xyz[1], z * xyz[2]))
    with pytest.raises(DataError, match=r"check the stage's sign|signs of the stages across"):
        session.run(calibrate_camera(**devices))
