"""Pause, resume, abort, and devices that fail in the middle of a centering."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import Msg, RunEngineInterrupted
from support.loop_plain import make_world
from support.loop_session import Session

from plans.loop.calibration import calibrate_camera
from plans.loop.centering import _turn_a_quarter, center_loop
from plans.loop.face import face_angle, loop_raster_box, rotate_to_face_on
from plans.loop.stubs import COLLECT_S, Instruments, fitting
from skywright.errors import ConfigError, HardwareError, SampleError
from skywright.instruments.loop.sweep import Sweep


def pausing(plan: Any, at: Callable[[Msg], bool]) -> Any:
    """Pause once, before the first message that `at` picks."""
    paused = False

    def mutate(msg: Msg) -> Any:
        nonlocal paused
        if paused or not at(msg):
            return None, None
        paused = True

        def with_pause() -> Any:
            yield from bps.pause()
            return (yield msg)

        return with_pause(), None

    return bpp.plan_mutator(plan, mutate)


def in_the_turn(sleep: int = 4) -> Callable[[Msg], bool]:
    """Pick a sleep of the sweeps, the fourth of the first one."""
    turns = 0

    def at(msg: Msg) -> bool:
        nonlocal turns
        turns += msg.command == "sleep" and abs(msg.args[0] - COLLECT_S) < 0.01
        return turns == sleep

    return at


def in_the_move(msg: Msg) -> bool:
    return msg.command == "set" and msg.obj.name == "gonio_sample"


@pytest.mark.parametrize("where", [in_the_turn(), in_the_move], ids=["turn", "move"])
def test_a_paused_centering_goes_on(session: Session, where: Callable[[Msg], bool]) -> None:
    world = make_world()
    devices = session.mount(world)
    session.documents.clear()
    with pytest.raises(RunEngineInterrupted):
        session.engine(pausing(center_loop(**devices), where))
    # The engine stops what it has set: the spindle, and with it the sweep.
    assert devices["goniometer"].phi.stops >= 1
    result = session.engine.resume().plan_result
    assert result.ok, result.why
    assert np.hypot(*world.offset_um()[1:]) < 10.0
    assert {stop["exit_status"] for stop in session.stops()} == {"success"}


@pytest.mark.parametrize("end", ["abort", "stop", "halt"])
def test_an_ended_centering_leaves_everything_stopped(session: Session, end: str) -> None:
    world = make_world()
    devices = session.mount(world)
    session.documents.clear()
    with pytest.raises(RunEngineInterrupted):
        session.engine(pausing(center_loop(**devices), in_the_turn()))
    getattr(session.engine, end)()
    gonio, camera = devices["goniometer"], devices["camera"]
    if end != "halt":  # which skips the plan's clean-up, and says so
        assert gonio.oscillation.stops >= 1
        assert gonio.sample.stops >= 1
    assert gonio.phi.stops >= 1
    assert np.isinf(camera._next)  # unstaged: no picture any more
    assert len(session.stops()) == 1
    if end == "halt":  # even so the session goes on with the next sample
        assert session.run(center_loop(**session.mount(make_world()))).ok


@pytest.mark.parametrize("end", ["halt", "abort", "resume"])
def test_a_calibration_that_is_interrupted_in_its_last_rotation(session: Session, end: str) -> None:
    """A halt, and the end of the process, leave out the clean-up of a plan."""
    world = make_world((150.0, 120.0, -90.0))
    world.fps = 8.0
    devices = session.mount(world)
    gonio, file = devices["goniometer"], session.result.calibration.file
    before, home = file.stops(), world.pose()
    sleeps = 3.0 / COLLECT_S
    with pytest.raises(RunEngineInterrupted):
        session.engine(pausing(calibrate_camera(**devices), in_the_turn(int(2 * sleeps) + 4)))
    assert file.stops() == before
    stops = gonio.sample.stops
    getattr(session.engine, end)()
    now = world.pose()
    if end == "resume":
        (made,) = file.stops()
        assert made.delay_s == pytest.approx(world.delay_s, abs=0.01)
        assert (now.x_um, now.y_um, now.z_um) == pytest.approx((home.x_um, home.y_um, home.z_um))
    else:
        assert file.stops() == before
        assert now.x_um != pytest.approx(home.x_um, abs=50.0)
    if end == "abort":
        assert gonio.sample.stops > stops


def test_a_plan_that_raises_leaves_everything_stopped(session: Session) -> None:
    devices = session.mount(make_world())
    gonio = devices["goniometer"]
    gonio.oscillation.fault = HardwareError("gonio_phi: stands still at 20 for 3.0 s; stopped")
    with pytest.raises(HardwareError, match="stands still"):
        session.run(center_loop(**devices))
    assert gonio.oscillation.stops >= 1
    assert gonio.phi.stops >= 1
    assert gonio.sample.targets == []
    stop = session.stops()[-1]
    assert stop["exit_status"] == "fail"
    assert "stands still" in stop["reason"]


def test_a_camera_that_is_lost_in_the_turn_ends_the_centering(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    lost = HardwareError("axis: lost the IOC at TWIN: during a recording")
    began = world.now
    devices["camera"].fault = lambda: lost if world.now > began + 1.5 else None
    with pytest.raises(HardwareError, match="lost the IOC"):
        session.run(center_loop(**devices))
    assert devices["goniometer"].oscillation.stops >= 1
    assert "lost the IOC" in session.stops()[-1]["reason"]


# ---- what follows a centering


def test_the_short_way_to_the_face() -> None:
    assert face_angle(10.0, 0.0) == 10.0
    assert face_angle(170.0, 0.0) == -10.0
    assert face_angle(10.0, 725.0) == 730.0
    assert face_angle(10.0, 0.0, edge=True) == pytest.approx(-80.0)


def test_rotate_to_face_on(session: Session) -> None:
    world = make_world(phi_deg=350.0)
    devices = session.mount(world)
    assert session.run(rotate_to_face_on(devices["goniometer"], 15.0)) == pytest.approx(375.0)
    assert world.pose().phi_deg == pytest.approx(375.0)
    with pytest.raises(ConfigError, match="no clear face"):
        list(rotate_to_face_on(devices["goniometer"], float("nan")))


def limited(phi: Any, low: float, high: float) -> None:
    """Give a motor limits."""

    def check(angle: float) -> None:
        if not low <= angle <= high:
            raise HardwareError(f"{angle:g} deg is beyond its limits {low:g}..{high:g}")

    phi.check_value = check


def test_a_limit_in_the_short_way_to_the_face(session: Session) -> None:
    world = make_world(phi_deg=80.0)
    gonio = session.mount(world)["goniometer"]
    limited(gonio.phi, -100.0, 100.0)
    assert session.run(rotate_to_face_on(gonio, 120.0)) == pytest.approx(-60.0)
    assert world.pose().phi_deg == pytest.approx(-60.0)
    limited(gonio.phi, -65.0, -55.0)
    with pytest.raises(ConfigError, match="cannot move to -150: -150 deg is beyond"):
        session.run(rotate_to_face_on(gonio, 30.0))


def test_limits_without_room_for_a_centering_are_refused_before_anything_moves(
    session: Session,
) -> None:
    world = make_world(phi_deg=0.0)
    devices = session.mount(world)
    limited(devices["goniometer"].phi, -10.0, 370.0)
    before = world.pose()
    with pytest.raises(ConfigError, match=r"can turn by 360 deg in neither direction: .*-180 deg"):
        session.run(center_loop(**devices))
    assert world.pose() == before
    assert session.documents == []


def test_a_centering_turns_in_the_direction_that_the_limits_allow(session: Session) -> None:
    tools = Instruments(**session.mount(make_world()))
    phi, oscillation = tools.goniometer.phi, tools.goniometer.oscillation
    limited(phi, -200.0, 100.0)
    forward, back = Sweep(180.0, 3.0), Sweep(-180.0, 3.0)
    assert fitting("plan", tools, back, 90.0) == back
    assert fitting("plan", tools, forward, 90.0) == back
    # The run-up of the sweep back is beyond them
    oscillation.check_value = lambda sweep: phi.check_value(sweep.start_deg + 20.0)
    with pytest.raises(ConfigError, match=r"neither direction: .*110 deg is beyond"):
        fitting("plan", tools, back, 90.0)


@pytest.mark.parametrize(("start", "end"), [(20.0, 110.0), (290.0, 20.0)])
def test_a_search_turns_to_the_same_view_on_the_free_side_of_a_limit(
    session: Session, start: float, end: float
) -> None:
    world = make_world(phi_deg=start)
    tools = Instruments(**session.mount(world))
    limited(tools.goniometer.phi, -10.0, 370.0)
    session.run(_turn_a_quarter(tools))
    assert world.pose().phi_deg == pytest.approx(end)


def test_a_failed_turn_to_the_face_stops_the_spindle_and_says_why(session: Session) -> None:
    phi = session.mount(make_world())["goniometer"].phi

    def refuse(_: float) -> None:
        raise HardwareError("the spindle is stuck")

    with (
        patch.object(phi, "set", refuse),
        pytest.raises(HardwareError, match="the spindle is stuck"),
    ):
        session.run(rotate_to_face_on(SimpleNamespace(phi=phi), 15.0))
    assert phi.stops >= 1


def test_the_raster_box_covers_the_loop(session: Session) -> None:
    world = make_world((210.0, 4.0, -3.0), face_on_deg=70.0, drop_um=100.0)
    devices = session.mount(world)
    box = session.run(
        loop_raster_box(**devices, face_on_deg=70.0, thickness_um=100.0, margin_um=0.0)
    )
    mount = world.scene.mount
    # Blur and pixels of 7 um at both ends, and the neck.
    assert box.width_um == pytest.approx(mount.loop_width_um, abs=30.0)
    assert box.length_um == pytest.approx(mount.loop_length_um, rel=0.2)
    assert box.n_across == np.ceil(box.width_um / 20.0)
    assert abs(box.across_um) < 20.0


def test_the_raster_box_is_that_of_views_within_the_limits_of_phi(session: Session) -> None:
    boxes = []
    for low, high in ((-1000.0, 1000.0), (-100.0, 100.0)):
        world = make_world((210.0, 60.0, -90.0), face_on_deg=70.0, drop_um=100.0, phi_deg=240.0)
        devices = session.mount(world)
        limited(devices["goniometer"].phi, low, high)
        plan = loop_raster_box(**devices, face_on_deg=70.0, thickness_um=100.0)
        boxes.append(session.run(plan))
    free, within = boxes
    assert free.edge_seen
    assert (free.face_on_deg, within.face_on_deg) == pytest.approx((250.0, 70.0))
    assert within.across_um == pytest.approx(-free.across_um, abs=15.0)
    assert within.depth_um == pytest.approx(-free.depth_um, abs=15.0)
    assert world.pose().phi_deg == pytest.approx(-20.0)


def test_without_a_thickness_views_of_different_loops_are_refused(session: Session) -> None:
    devices = session.mount(make_world((210.0, 4.0, -3.0), face_on_deg=70.0, drop_um=100.0))
    with (
        patch("plans.loop.face._disagreement", lambda *_: "one of the views is wrong"),
        pytest.raises(SampleError, match="one of the views is wrong"),
    ):
        session.run(loop_raster_box(**devices, face_on_deg=70.0, thickness_um=float("nan")))


def test_no_raster_over_an_empty_holder(session: Session) -> None:
    devices = session.mount(make_world(kind="none"))
    with pytest.raises(SampleError, match="no loop is seen"):
        session.run(loop_raster_box(**devices, face_on_deg=0.0))


def test_a_raster_box_needs_a_calibrated_camera(session: Session) -> None:
    devices = session.mount(make_world(), calibrated=False)
    with pytest.raises(ConfigError, match="run calibrate_camera"):
        session.run(loop_raster_box(**devices, face_on_deg=0.0))
