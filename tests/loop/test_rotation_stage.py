"""The fit of a rotation as a second stage: its derived run, its kernels, its calibration."""

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from support.derived import read_derived
from support.seen_rotation import CALIBRATION, TIP, analysis, rotation

from skywright.analysis import Batch
from skywright.callbacks.journal import Journal
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.errors import ConfigError
from skywright.instruments.loop import rotation_pictures
from skywright.instruments.loop.calibration import CalibrationFile, as_json
from skywright.instruments.loop.geometry import observe
from skywright.instruments.loop.picture import decode
from skywright.instruments.loop.rotation import LoopRotation
from skywright.instruments.loop.rotation_pictures import draw_before_after, draw_sheet
from skywright.instruments.loop.rotation_stage import RotationRun, RotationStage
from skywright.instruments.loop.spindle import TURNS, RunSpindle
from skywright.instruments.loop.timing import Trace, angles_at

START = {"uid": "1f0e7a52-6c2b-4b56-9d0f-0a4f2f6f3a11", "time": 1.0, "scan_id": 1}

WARM = """
import sys

sys.path.insert(0, sys.argv[1])
from support.seen_rotation import analysis, rotation

from skywright.instruments.loop import harmonic
from skywright.instruments.loop.rotation_stage import RotationStage

kernels = [harmonic._consensus, harmonic._refine]
RotationStage(calibrations=sys.argv[2]).warm_up()
warm = [len(kernel.signatures) for kernel in kernels]
made = analysis()
made.update(rotation())
print(made.result()["ok"], warm, [len(kernel.signatures) for kernel in kernels])
"""


def test_the_first_rotation_of_a_session_waits_for_no_compiler(tmp_path: Path) -> None:
    # In a process of its own: other tests have used the kernels of this one.
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", WARM, tests, str(tmp_path / "none.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True [1, 1] [1, 1]\n"


def test_the_sheet_shows_what_was_found_before() -> None:
    members, picture = rotation(3), np.full((480, 704), 200, np.uint8)
    drawn = dict(draw_sheet([(1, picture)], members, CALIBRATION))
    assert set(drawn) == {"rotation_0001.jpg", "rotation_sheet.png"}
    shown = decode(drawn["rotation_0001.jpg"], color=True).astype(int)
    x, y = round(members["tip_x"][1]), round(members["tip_y"][1])
    near = shown[y - 9 : y + 10, x - 9 : x + 10]
    assert (near[..., 0] - near[..., 1]).max() > 80  # a red cross around the tip


def test_the_beam_is_drawn_on_the_spindle_of_an_upright_pin() -> None:
    upright = replace(CALIBRATION, side="top", axis_px=500.0, target_px=300.0)
    black = np.zeros((480, 704), np.uint8)
    ((_, file),) = draw_before_after((black, ""), (black, ""), upright).items()
    shown = decode(file, color=True)[:, :720]  # the first of two
    rows, columns = np.nonzero(shown.max(axis=2) > 100)
    scale = 720 / 704
    # Lines are some pixels wide.
    assert np.mean([columns.min(), columns.max()]) == pytest.approx(500 * scale, abs=4)
    assert np.mean([rows.min(), rows.max()]) == pytest.approx(300 * scale + 24, abs=4)


@pytest.mark.parametrize("phi_sign", [1, -1])
def test_curves_go_through_what_was_seen(phi_sign: Literal[1, -1]) -> None:
    calibration = replace(CALIBRATION, phi_sign=phi_sign)
    batch = rotation()
    made = LoopRotation(calibration=as_json(calibration))
    made.update(batch)
    result = made.result()
    columns = [batch[name] for name in rotation_pictures.SEEN]
    curves = rotation_pictures.rotation_curves(columns, result, calibration)
    fits = {**curves.fitted, "width": curves.fitted_width}
    for name, values in {**curves.seen, "width": curves.width}.items():
        fitted = np.interp(curves.phi_deg, curves.curve_deg, fits[name])
        # 0.3 px of noise, 4 sigma, and the error of the fit
        np.testing.assert_allclose(fitted, values, atol=15.0)
    unknown = {**result, "axis_row": np.nan}
    again = rotation_pictures.rotation_curves(columns, unknown, calibration)
    np.testing.assert_allclose(again.seen["tip"], curves.seen["tip"], atol=10.0)


class GivenRotation(RotationRun):
    """Rows that have their angles already."""

    fits = True

    def prepare(self, rows: Batch) -> Any:
        return analysis(), rows


class GivenStage(RotationStage):
    """Begins `GivenRotation`."""

    def begin_run(self, start: Mapping[str, Any]) -> GivenRotation:
        return GivenRotation(start, self.calibrations)


def empty_rotation() -> Batch:
    """Pictures of a full turn in which nothing is seen."""
    seen = rotation()
    data = dict(seen.data)
    for name, values in data.items():
        if values.dtype.kind == "f" and name not in ("phi", "mean", "contrast"):
            data[name] = np.full_like(values, np.nan)
    data["kind"] = np.zeros_like(data["kind"])
    return Batch(seen.identities, seen.times, data)


@pytest.mark.parametrize(("rows", "status"), [(rotation(), "success"), (empty_rotation(), "fail")])
def test_a_rotation_without_a_loop_is_no_success(rows: Batch, status: str, tmp_path: Path) -> None:
    stage = GivenStage(calibrations=str(tmp_path / "none.json"))
    journal = Journal(tmp_path)
    drawn: Future[dict[str, bytes]] = Future()
    drawn.set_result({})
    store = tmp_path / "assets"
    second = SecondAnalysis("loop_rotation", stage, START, journal, store, lambda _: drawn)
    second.add(rows)
    for _ in second.finish_steps("primary", {"loop_detection": "d"}):
        pass
    journal.close()
    (derived,) = read_derived(tmp_path)
    assert derived.stop is not None
    assert derived.stop["exit_status"] == status
    assert bool(derived.stop["reason"]) == (status == "fail")
    assert derived.result["ok"] == (status == "success")
    assert derived.start["analysis"]["inputs"] == {"loop_detection": "d"}


def test_a_run_is_fitted_with_the_calibration_that_is_saved_then(tmp_path: Path) -> None:
    path = tmp_path / "axis.json"
    run = RotationStage(calibrations=str(path)).begin_run({**START, "zoom": 0.0})
    assert isinstance(run, RotationRun)
    shape = (CALIBRATION.height_px, CALIBRATION.width_px)
    run.turn.shape = shape
    guessed, _ = run.prepare(rotation())
    assert guessed.parameters["calibration"]["axis_px"] == (shape[0] - 1) / 2.0
    CalibrationFile(path).save(CALIBRATION)
    made, members = run.prepare(rotation())
    assert made.parameters["calibration"]["axis_px"] == CALIBRATION.axis_px
    assert json.loads(json.dumps(made.parameters)) == made.parameters
    assert np.isnan(members["phi"]).all()  # the run has told of no spindle
    run.turn.shape = (10, 10)
    with pytest.raises(ConfigError, match="calibrated for pictures of"):
        run.prepare(rotation())


def test_a_run_at_rest_needs_no_calibration_of_its_zoom(tmp_path: Path) -> None:
    """So a second zoom can be calibrated, and a camera whose pictures have another size now."""
    file = CalibrationFile(tmp_path / "axis.json")
    file.save(replace(CALIBRATION, delay_s=0.15))
    for zoom, shape, delay_s in ((7.0, (480, 704), 0.0), (CALIBRATION.zoom, (576, 704), 0.15)):
        run = RotationRun({**START, "zoom": zoom, TURNS: False}, file)
        run.turn.shape = shape
        analysis, _ = run.prepare(rotation())
        assert analysis.parameters["calibration"]["height_px"] == shape[0]
        assert analysis.parameters["delay_s"] == delay_s


class TurnedBothWays(RunSpindle):
    """Half a turn forward and back, 60 deg/s."""

    def trace(self) -> Trace:
        times = np.arange(0.0, 6.05, 0.05)
        return Trace(100.0 + times, 60.0 * np.minimum(times, 6.0 - times))


def test_pictures_get_their_angles_with_the_delay_that_both_senses_tell(tmp_path: Path) -> None:
    delay_s, exposed = 0.2, 100.1 + np.arange(170) / 30
    trace = TurnedBothWays(START).trace()
    phi = angles_at(trace, exposed)[0]
    tips = observe(TIP, phi, CALIBRATION.view, CALIBRATION.axis_px)
    tips += np.random.default_rng(1).normal(0.0, 0.3, tips.shape)
    rows = rotation(170, tip_x=tips[:, 0], tip_y=tips[:, 1])
    file = CalibrationFile(tmp_path / "axis.json")
    file.save(CALIBRATION)
    run = RotationRun({**START, "zoom": 0.0}, file)
    run.turn = TurnedBothWays(START, shape=(480, 704))
    made, members = run.prepare(Batch(rows.identities, exposed + delay_s, rows.data))
    sigma_s = made.parameters["delay_sigma_s"]
    assert 0.0 < sigma_s < 0.005
    assert made.parameters["delay_s"] == pytest.approx(delay_s, abs=4 * sigma_s)
    assert made.parameters["delay_why"] == ""
    known = np.isfinite(members["phi"])
    assert known.sum() >= 165
    np.testing.assert_allclose(members["phi"][known], phi[known], atol=60 * 5 * sigma_s)


def test_a_rotation_with_a_known_middle_alone_is_no_failure() -> None:
    run = RotationRun(START, CalibrationFile(Path("none.json")))
    result = {"ok": False, "middle_ok": True, "why": "tip not in view", "middle_why": ""}
    assert run.failure(result) == ""
    assert run.failure({**result, "middle_ok": False}) == "tip not in view"


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the titles of the pictures that are drawn from now on."""
    titles: list[str] = []

    def draw(one: Any, other: Any, calibration: Any) -> dict[str, bytes]:
        titles.extend((one[1], other[1]))
        return {}

    monkeypatch.setattr(rotation_pictures, "draw_before_after", draw)
    return titles


def test_the_first_picture_drawn_is_called_by_its_pass(titles: list[str]) -> None:
    """It is not of the first pass where the worker was replaced amid the centering."""
    run = RotationRun(START, CalibrationFile(Path("none.json")))
    for number in (2, 3):
        centering = {"uid": "again", "pass": number}
        run._before_after(centering, np.array([10.0]), lambda _: np.zeros((9, 9)), CALIBRATION)
    assert titles == ["after pass 1, 10 deg", "after pass 2, 10 deg"]


def test_a_later_picture_is_the_one_nearest_in_angle(titles: list[str]) -> None:
    run = RotationRun(START, CalibrationFile(Path("none.json")))
    for number, phi in ((1, [350.0]), (2, [180.0, np.nan, 5.0])):
        centering = {"uid": "over 0", "pass": number}
        run._before_after(centering, np.array(phi), lambda _: np.zeros((9, 9)), CALIBRATION)
    assert titles == ["before, 350 deg", "after pass 1, 5 deg"]
