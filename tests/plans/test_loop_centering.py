"""center_loop over the twin: what it brings to the beam, what it refuses, and what it writes."""

import json
import logging
import math
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bluesky.plan_stubs as bps
import event_model
import h5py
import numpy as np
import pytest
from ophyd import Signal
from support.loop_found import GOOD
from support.loop_plain import make_world
from support.loop_session import Session
from support.loop_starts import miss
from support.loop_world import LIMIT_UM, TwinCamera, TwinGoniometer, World

from plans.loop import stubs
from plans.loop.calibration import calibrate_camera
from plans.loop.centering import (
    Centering,
    _Course,
    _find_tip,
    center_loop,
    collect_oscillation,
    collect_steps,
)
from plans.loop.face import loop_raster_box
from plans.loop.settings import CenteringSettings
from skywright.errors import ConfigError, HardwareError, SampleError
from skywright.instruments.loop.decision import judge
from skywright.instruments.loop.rotation_values import RotationValues

TOLERANCE_UM = 10.0


def check_centered(result: Centering, world: Any) -> None:
    """The truth agrees with what the plan says."""
    assert result.ok, result.why
    across, along = miss(world.scene, world.pose())
    assert across <= TOLERANCE_UM
    # Where the neck of a loop begins is a matter of taste.
    assert along <= 0.15 * world.scene.mount.loop_length_um
    assert result.passes == len(result.uids) >= 2


SCENES: dict[str, dict[str, Any]] = {
    "mount from the top": {"kind": "mitegen", "contrast": 0.8, "side": "top"},
    "bent stem, interlaced": {
        "side": "right",
        "stem_bend_deg": 25.0,
        "interlaced": True,
        "overlay": True,
    },
    "ice": {"ice_um": 8.0, "drop_um": 150.0, "drop_overfill": 1.15, "ice_absorption_per_um": 0.03},
    "nozzle and crystal": {
        "nozzle": (0.8, 0.12, 200.0),
        "nozzle_px": 60.0,
        "crystal_um": (120.0, 90.0, 60.0),
    },
}
QUICK = ("mount from the top", "ice")
"""Scenes of each run of the tests; the others belong to those of the accuracy."""


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param(scene, id=name, marks=() if name in QUICK else pytest.mark.accuracy)
        for name, scene in SCENES.items()
    ],
)
def test_a_loop_is_brought_to_the_beam(session: Session, scene: dict[str, Any]) -> None:
    world = make_world(**scene)
    devices = session.mount(world)
    check_centered(session.run(center_loop(**devices)), world)


def test_lost_and_late_pictures_do_no_harm(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    devices["camera"].lose = lambda number: np.random.default_rng(number).random() < 0.4
    check_centered(session.run(center_loop(**devices)), world)


def test_errors_of_the_calibration_are_cured_by_the_next_pass(session: Session) -> None:
    world = make_world((800.0, 600.0, -500.0))
    known = world.calibration()
    devices = session.mount(
        world, um_per_px_y=known.um_per_px_y * 1.03, delay_s=known.delay_s - 0.05
    )
    result = session.run(center_loop(**devices))
    check_centered(result, world)
    assert result.passes >= 3  # the first move cannot have been good enough


@pytest.mark.parametrize("method", ["steps", "two_angles"])
def test_pictures_at_rest_serve_as_well(session: Session, method: str) -> None:
    world = make_world()
    result = session.run(center_loop(**session.mount(world), method=method))
    check_centered(result, world)


def test_the_tip_can_be_the_aim(session: Session) -> None:
    world = make_world(loop_length_um=250.0, loop_width_um=150.0)
    result = session.run(center_loop(**session.mount(world), aim="tip"))
    assert result.ok, result.why
    # The tip of an outline is no point of matter: 0.2 px and 2 % of the width for each coordinate.
    assert np.linalg.norm(world.offset_um("tip")) <= TOLERANCE_UM


# ---- the tip is not in view


def test_a_mount_beyond_the_far_border_is_drawn_back(session: Session) -> None:
    world = make_world((2650.0, 200.0, -100.0), stem_um=1500.0)
    devices = session.mount(world)
    check_centered(session.run(center_loop(**devices)), world)
    first = devices["goniometer"].sample.targets[0]
    assert first == pytest.approx((-500.0, 0.0, 0.0))


def test_a_retracted_mount_is_brought_forward_and_each_step_is_a_line(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world((-2450.0, 100.0, 100.0), um_per_px_x=6.0, um_per_px_y=6.7)
    devices = session.mount(world)
    with caplog.at_level(logging.INFO, "skywright.plans"):
        found = session.run(center_loop(**devices))
    check_centered(found, world)
    assert devices["goniometer"].sample.targets[0][0] == pytest.approx(500.0)
    lines = [each.getMessage() for each in caplog.records if each.name == "skywright.plans"]
    assert lines[0] == "pass 1 of at most 5: looking for the tip"
    assert "nothing is seen, from four sides; moving by 500 um along the spindle" in lines[2]
    assert sum("the loop is" in line for line in lines) >= found.passes - 1
    assert lines[-1] == f"centered after {found.passes} passes"


def test_a_mount_of_which_only_the_base_is_seen_is_brought_forward_at_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {**GOOD, "last_kind": "none", "last_sign": "-", "last_tip_in_view": False}
    there = {**GOOD, "last_tip_in_view": True}
    looks = iter([RotationValues.of(base), RotationValues.of(there)])

    def look(_: Any) -> Any:
        yield from ()
        return next(looks)

    monkeypatch.setattr(stubs, "measure_once", look)
    world = make_world()
    devices = session.mount(world)
    session.run(_find_tip(stubs.Instruments(**devices), _Course(CenteringSettings())))
    assert devices["goniometer"].sample.targets == [(500.0, 0.0, 0.0)]
    assert world.pose().phi_deg == 20.0


def test_a_look_shows_the_sample_after_the_move_however_late_the_camera_is(
    session: Session,
) -> None:
    world = make_world()
    world.delay_s = 1.0
    tools = stubs.Instruments(**session.mount(world))

    def body() -> Any:
        yield from bps.abs_set(tools.goniometer.sample, (-600.0, 0.0, 0.0), wait=True)
        found = yield from stubs.measure_once(tools)
        yield from stubs.end_pictures(tools)
        return found

    found = session.run(stubs.recorded(tools, body, {"zoom": 0.0}, []))
    assert found.last.along == pytest.approx(400.0 - 600.0, abs=30.0)


def test_the_search_ends_after_its_steps(session: Session) -> None:
    world = make_world((3600.0, 0.0, 0.0), stem_um=1800.0)
    devices = session.mount(world)
    with pytest.raises(SampleError, match=r"tip not in view \+: the mount reaches past the far"):
        session.run(center_loop(**devices, search_steps=1))
    assert len(devices["goniometer"].sample.targets) == 1
    assert "tip not in view" in session.stops()[-1]["reason"]


def test_a_stage_at_its_limit_is_named_and_nothing_moves(session: Session) -> None:
    world = make_world((2000.0, 0.0, 0.0))
    world.motion = replace(world.motion, x=replace(world.motion.x, initial=-LIMIT_UM + 100.0))
    world.scene = replace(world.scene, mount=replace(world.scene.mount, tip_um=(4000.0, 0.0, 0.0)))
    devices = session.mount(world)
    with pytest.raises(HardwareError, match="beyond its limits"):
        session.run(center_loop(**devices))
    assert devices["goniometer"].sample.targets == []
    assert session.stops()[-1]["exit_status"] == "fail"
    assert "beyond its limits" in session.stops()[-1]["reason"]


def test_a_tip_that_leaves_the_frame_is_fitted_from_the_rest(session: Session) -> None:
    world = make_world((300.0, 1600.0, 1200.0), phi_deg=40.0)
    devices = session.mount(world)
    result = session.run(center_loop(**devices))
    check_centered(result, world)
    decisions = [doc["data"] for name, doc in session.documents if name == "event"]
    states = ("failed_clipped", "tip_not_in_view", "nothing_seen")
    cut = [sum(data[f"rotation_n_{state}"] for state in states) for data in decisions]
    assert max(cut) > 0


# ---- what is refused


def test_a_bare_pin_is_refused(session: Session) -> None:
    world = make_world(kind="pin")
    devices = session.mount(world)
    with pytest.raises(SampleError, match="no loop"):
        session.run(center_loop(**devices))
    assert "no loop" in session.stops()[-1]["reason"]


def test_an_empty_holder_is_refused_and_never_driven_across(session: Session) -> None:
    world = make_world(kind="none")
    devices = session.mount(world)
    with pytest.raises(SampleError, match="no pin"):
        session.run(center_loop(**devices, search_steps=2))
    targets = np.array(devices["goniometer"].sample.targets)
    np.testing.assert_array_equal(targets[:, 1:], 0.0)
    assert "no pin" in session.stops()[-1]["reason"]


@pytest.mark.parametrize(
    ("light", "level", "message"),
    [(0.0, 180.0, "flat image"), (1.0, 400.0, "less back light"), (0.05, 90.0, "light")],
    ids=["off", "too bright", "too dark"],
)
def test_wrong_light_is_refused_before_anything_moves(
    session: Session, light: float, level: float, message: str
) -> None:
    world = make_world(level=level)
    world.light = lambda _: light
    devices = session.mount(world)
    before = world.motion
    with pytest.raises(HardwareError, match=message):
        session.run(center_loop(**devices))
    assert world.motion == before
    assert message in session.stops()[-1]["reason"]


def test_light_that_goes_off_in_the_turn_is_not_taken_for_a_lost_loop(session: Session) -> None:
    world = make_world()
    began = world.now
    world.light = lambda when: 1.0 if when < began + 1.5 else 0.0
    devices = session.mount(world)
    with pytest.raises(HardwareError, match="flat image"):
        session.run(center_loop(**devices))
    assert devices["goniometer"].sample.targets == []


def test_a_frozen_camera_is_found_out(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    devices["camera"].frozen_from = world.now + 0.9
    with pytest.raises(HardwareError, match="same picture"):
        session.run(center_loop(**devices))
    assert devices["goniometer"].sample.targets == []


def test_a_loop_that_stays_off_is_reported(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    result = session.run(center_loop(**devices, tolerance_um=0.05, max_passes=2))
    assert not result.ok
    assert "0.05 um are wanted" in result.why
    assert [stop["exit_status"] for stop in session.stops()] == ["success", "fail"]
    assert session.stops()[-1]["reason"] == result.why


@pytest.mark.parametrize("fault", ["late camera", "stages that run backwards"])
def test_moves_that_lead_away_are_given_up_and_taken_back(session: Session, fault: str) -> None:
    world = make_world((300.0, 300.0, -250.0))
    if fault == "late camera":
        world.delay_s = 1.0
    devices = session.mount(world, delay_s=0.1)
    if fault == "stages that run backwards":
        turn_around(devices["goniometer"].sample)
    with pytest.raises(HardwareError, match=r"farther from the spindle, .* it is back where it"):
        session.run(center_loop(**devices))
    assert [stop["exit_status"] for stop in session.stops()] == ["success", "success", "fail"]
    assert "delay of the camera" in session.stops()[-1]["reason"]
    across = world.offset_um()[1:]
    np.testing.assert_allclose(across, (300.0, -250.0), atol=5.0)


def turn_around(sample: Any) -> None:
    """Let y and z say the opposite of where the sample is, and move it so."""
    move = sample.set
    sample.set = lambda xyz: move((xyz[0], -xyz[1], -xyz[2]))
    for axis in (sample.y, sample.z):
        axis._get = lambda get=axis._get: -get()


def test_one_move_that_leads_away_is_followed_by_others() -> None:
    course = _Course(CenteringSettings())
    first = judge(RotationValues.of(GOOD))
    for residual_um, receded in ((300, 0), (800, 1), (9, 0), (35, 1), (80, 2), (120, 3), (4, 0)):
        course.compare(replace(first, offset_um=(0.0, float(residual_um), 0.0), sigma_um=4.0))
        assert course.receded == receded


def test_one_wrong_measurement_leads_away_once_and_is_made_good() -> None:
    """The pass after it sees, with noise, the move that was wrong."""
    course = _Course(CenteringSettings())
    first = judge(RotationValues.of(GOOD))
    for residual_um, receded in ((50, 0), (200, 1), (201, 0), (3, 0)):
        course.compare(replace(first, offset_um=(0.0, float(residual_um), 0.0), sigma_um=4.0))
        assert course.receded == receded


@pytest.mark.parametrize("part", ["phi", "sample.y"])
def test_a_motor_that_does_not_know_where_it_is_is_named(session: Session, part: str) -> None:
    devices = session.mount(make_world())
    motor = attrgetter(part)(devices["goniometer"])
    motor._get = lambda: math.nan
    with pytest.raises(HardwareError, match=rf"{motor.name}: its readback is nan"):
        session.run(center_loop(**devices))
    reasons = [stop["reason"] for stop in session.stops()]
    if part == "phi":  # its limits are compared with the turns before a run begins
        assert reasons == []
    else:
        assert "its position is not known" in reasons[-1]


def test_a_place_that_a_pass_cannot_tell_is_looked_at_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = session.mount(make_world())
    sigmas_um = iter((11.0, 11.0, 1.0))

    def unsure(found: Any, aim: str) -> Any:
        return replace(judge(found, aim), sigma_um=next(sigmas_um))

    monkeypatch.setattr("plans.loop.centering.judge", unsure)
    result = session.run(center_loop(**devices))
    assert result.ok
    assert result.passes == 3


def test_a_place_that_was_known_is_not_left_for_one_seen_coarsely(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dust beside the beam may be taken for the tip there: start 52180."""
    devices = session.mount(make_world())
    passes = iter(({}, {"known": False, "coarse": True, "sigma_um": 91.0}, {}))

    def dust(found: Any, aim: str) -> Any:
        verdict = judge(found, aim)
        changes = next(passes)
        place = (900.0, 400.0, -200.0) if changes else verdict.offset_um
        return replace(verdict, offset_um=place, **changes)

    monkeypatch.setattr("plans.loop.centering.judge", dust)
    result = session.run(center_loop(**devices))
    assert result.ok, result.why
    assert result.passes == 3
    assert len(devices["goniometer"].sample.targets) == 1


def test_passes_that_contradict_each_other_are_not_believed_at_once() -> None:
    course = _Course(CenteringSettings())
    first = judge(RotationValues.of(GOOD))
    for residual_um, wanted in ((800, 0), (9, 0), (35, 2), (2, 1), (3, 0), (4, 0)):
        course.compare(replace(first, offset_um=(0.0, float(residual_um), 0.0), sigma_um=4.0))
        assert course.agreements_wanted == wanted
    assert course.disagreed_um == 35.0


def test_passes_that_see_the_loop_elsewhere_along_the_spindle_are_not_believed() -> None:
    course = _Course(CenteringSettings())
    first = judge(RotationValues.of(GOOD))
    # Places of start 16079, a crystal three times as long as its loop, seen from afar at first.
    for place_um, wanted in ((1534, 0), (1570, 0), (1633, 3), (1625, 2), (1631, 1)):
        verdict = replace(first, offset_um=(float(place_um), 0.0, 0.0), along_sigma_um=2.6)
        course.compare(course.steady(verdict))
        assert course.agreements_wanted == wanted


def test_one_pass_that_seems_to_know_the_middle_well_is_not_believed_alone() -> None:
    course = _Course(CenteringSettings())
    first = replace(judge(RotationValues.of(GOOD)), offset_um=(0.0, 3.0, 4.0))
    sure = []
    for sigma_um in (5.0, 21.0, 27.0, 4.0, 5.5, 5.5, 5.5):  # the first from afar
        sure.append(course.steady(replace(first, sigma_um=sigma_um)).is_sure(10.0))
    assert sure == [True, False, False, False, False, True, True]


def test_one_pass_that_takes_dust_for_the_end_of_the_loop_does_not_move_it_away() -> None:
    course = _Course(CenteringSettings())
    first = judge(RotationValues.of(GOOD))

    def seen(along_um: float) -> float:
        verdict = course.steady(replace(first, offset_um=(along_um, 3.0, 4.0)))
        assert verdict.residual_um == 5.0
        return verdict.offset_um[0]

    assert seen(-1730.0) == -1730.0
    course.moved_um += (1730.0, 0.0, 0.0)
    assert seen(-108.0) == -108.0, "what was seen from afar counts no more"
    course.moved_um += (108.0, 0.0, 0.0)
    assert seen(4.0) == pytest.approx(2.0)
    assert seen(41.0) == pytest.approx(4.0)


# ---- parameters and devices


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"aim": "crystal"}, "aim"),
        ({"tolerance_um": 0.0}, "tolerance_um"),
        ({"max_passes": 1}, "max_passes"),
        ({"time_s": -1.0}, "time_s"),
        ({"search_steps": 2.5}, "search_steps"),
    ],
)
def test_wrong_parameters_are_refused_before_anything(
    session: Session, wrong: dict[str, Any], message: str
) -> None:
    devices = session.mount(make_world())
    with pytest.raises(ConfigError, match=f"center_loop: {message}"):
        list(center_loop(**devices, **wrong))


def test_a_camera_that_is_not_calibrated_is_refused(session: Session) -> None:
    devices = session.mount(make_world(), calibrated=False)
    with pytest.raises(ConfigError, match="run calibrate_camera"):
        list(center_loop(**devices))


def test_a_device_that_cannot_do_its_part_is_refused(session: Session) -> None:
    devices = session.mount(make_world())
    camera, goniometer, result = devices.values()
    for plan, words in (
        (center_loop(camera, camera, result), "goniometer = axis, expected a goniometer: it has"),
        (center_loop(goniometer, goniometer, result), "camera = gonio, expected a camera: it is"),
        (center_loop(camera, goniometer, camera), "result = axis, expected a result of a rotation"),
        (calibrate_camera(camera, goniometer, camera), "result = axis, expected a result"),
        (loop_raster_box(camera, goniometer, camera, 0.0), "result = axis, expected a result"),
    ):
        with pytest.raises(TypeError, match=f"{plan.__name__}: {words}"):
            next(plan)


def test_stages_under_the_spindle_are_refused_before_anything_moves(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    before = world.motion
    devices["goniometer"].mounting = Signal(name="gonio_mounting", value="table")
    for plan in (center_loop, calibrate_camera):
        with pytest.raises(ConfigError, match=f"{plan.__name__}: the stages of gonio are under"):
            session.run(plan(**devices))
    assert world.motion == before


def test_pictures_of_16_bits_are_refused_before_anything_moves(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    devices = session.mount(world)
    camera, before = devices["camera"], world.motion
    keys = camera.describe()
    keys["axis_image"]["dtype_numpy"] = "<u2"
    monkeypatch.setattr(camera, "describe_collect", lambda: keys)
    with pytest.raises(ConfigError, match="type uint16, the detection of loops takes uint8"):
        session.run(center_loop(**devices))
    assert world.motion == before


# ---- documents


@dataclass(frozen=True)
class Centered:
    """A centering, what it returned, and its documents."""

    world: World
    result: Centering
    documents: list[tuple[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [doc for name, doc in self.documents if name == kind]


@pytest.fixture(scope="module")
def centered(session: Session) -> Centered:
    world = make_world()
    world.fps = 10.0  # more rows in the derived run
    md = {"sample": "xtal 7", "draws": "yes"}
    result = session.run(center_loop(**session.mount(world), md=md))
    return Centered(world, result, list(session.documents))


def test_a_loop_is_centered_and_its_face_is_known(centered: Centered) -> None:
    check_centered(centered.result, centered.world)
    face = centered.world.scene.mount.face_on_deg
    turn = (centered.result.face_on_deg - face + 90.0) % 180.0 - 90.0
    assert abs(turn) < 12.0


def test_documents_are_valid_and_say_what_was_decided(centered: Centered) -> None:
    result = centered.result
    for name, doc in centered.documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(doc)
    starts = centered.of("start")
    assert [start["uid"] for start in starts] == list(result.uids)
    assert [start["centering"]["pass"] for start in starts] == list(range(1, result.passes + 1))
    assert len({start["centering"]["uid"] for start in starts}) == 1
    assert starts[0]["sample"] == "xtal 7"
    assert starts[0]["plan_args"]["tolerance_um"] == TOLERANCE_UM
    assert {doc["name"] for doc in centered.of("descriptor")} == {
        "primary",
        "oscillation",
        "decision",
    }
    decisions = [doc["data"] for doc in centered.of("event")]
    assert decisions[-1]["rotation_middle_y"] == result.offset_um[1]
    assert decisions[-1]["gonio_sample_y"] == pytest.approx(result.moved_um[1])


def test_each_rotation_has_a_derived_run_with_rows_and_pictures(
    session: Session, centered: Centered
) -> None:
    raw_uid = centered.result.uids[0]
    derived = session.derived_rotation(raw_uid)
    lines = (session.directory / "journal" / f"{derived}.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    start = documents[0][1]
    assert (start["raw_uid"], start["purpose"]) == (raw_uid, "analysis")
    assert start["analysis"]["name"] == "loop_rotation"
    assert start["analysis"]["parameters"]["calibration"]["um_per_px_x"] == pytest.approx(6.7324)
    last = [doc for name, doc in documents if name == "event"][-1]["data"]
    assert last["middle_ok"]
    first_decision = centered.of("event")[1]["data"]
    # Live and at the end: one number.
    assert last["middle_z"] == first_decision["rotation_middle_z"]
    pictures = [Path(line) for line in last["pictures"].splitlines()]
    assert {path.name for path in pictures} >= {"rotation.png", "rotation_sheet.png"}
    assert all(path.read_bytes()[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0") for path in pictures)
    with h5py.File(pictures[0].parent / "columns.h5", locking=False) as file:
        entry = file["entry"]
        assert len(entry["tipX"]) == last["n_frames"]
        known = np.isfinite(entry["phi"][:])
        assert known.sum() == last["n_turned"] >= 20
        # Half a turn, and the ways in which the spindle gains and loses its speed.
        assert 165.0 < np.ptp(entry["phi"][:][known]) < 240.0


def test_a_derived_run_is_there_without_its_pictures(session: Session) -> None:
    devices = session.mount(make_world())
    md = {"draws": "fails"}
    plan = collect_oscillation(devices["camera"], devices["goniometer"], 90.0, 1.0, md=md)
    derived = session.derived_rotation(session.run(plan))
    lines = (session.directory / "journal" / f"{derived}.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])[0] == "stop"


def test_collect_oscillation_is_a_run_of_its_own(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    plan = collect_oscillation(devices["camera"], devices["goniometer"], 90.0, 1.5, start_deg=10.0)
    uid = session.run(plan)
    assert world.pose().phi_deg == pytest.approx(100.0)
    derived = session.derived_rotation(uid)
    text = (session.directory / "journal" / f"{derived}.jsonl").read_text()
    last = [doc for name, doc in map(json.loads, text.splitlines()) if name == "event"][-1]["data"]
    assert last["n_turned"] >= 14
    assert last["kind"] == "nylon"


def test_collect_steps_pairs_pictures_and_angles_by_number(session: Session) -> None:
    world = make_world()
    devices = session.mount(world)
    angles = [0.0, 40.0, 80.0, 120.0, 160.0]
    phi, sample = devices["goniometer"].phi, devices["goniometer"].sample
    # As the coordinates of stages under the spindle do.
    sample.y._get = lambda: 100.0 * np.cos(np.deg2rad(world.pose().phi_deg))
    goniometer: Any = SimpleNamespace(name="gonio", phi=phi, sample=sample)
    uid = session.run(collect_steps(devices["camera"], goniometer, angles))
    derived = session.derived_rotation(uid)
    start = json.loads(
        (session.directory / "journal" / f"{derived}.jsonl").read_text().splitlines()[0]
    )[1]
    files = list((session.directory / "assets").glob(f"*/*/*/{start['uid']}/columns.h5"))
    with h5py.File(files[0], locking=False) as file:
        np.testing.assert_allclose(file["entry/phi"][:], angles)


def test_settings_of_a_sweep_are_in_the_descriptor_of_its_run(tmp_path: Path) -> None:
    world = make_world()
    gonio = TwinGoniometer(world, tmp_path)
    plan = collect_oscillation(TwinCamera(world, tmp_path), gonio, -90.0, 2.0, run_up=False)
    sent = list(takewhile(lambda msg: msg.command != "kickoff", plan))
    (prepared,) = (at for at, msg in enumerate(sent) if msg.command == "prepare")
    (declared,) = (at for at, msg in enumerate(sent) if msg.args == (gonio.oscillation,))
    assert prepared < declared
    assert sent[prepared].args[0].delta_deg == -90.0
    (begun,) = (msg for msg in sent if msg.command == "open_run")
    assert begun.kwargs["plan_args"]["run_up"] is False


def test_impossible_sweeps_are_refused_before_anything(session: Session) -> None:
    devices = session.mount(make_world())
    with pytest.raises(ConfigError, match="delta"):
        list(collect_oscillation(devices["camera"], devices["goniometer"], 0.0))
    with pytest.raises(ConfigError, match="collect_oscillation: time_s = '3', expected a finite"):
        list(collect_oscillation(devices["camera"], devices["goniometer"], 90.0, "3"))
    with pytest.raises(ConfigError, match="at least one"):
        list(collect_steps(devices["camera"], devices["goniometer"], []))
