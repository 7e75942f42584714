"""The fit of a rotation as a second stage: its derived run, its kernels, its calibration."""

import json
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.derived import read_derived
from support.seen_rotation import CALIBRATION, analysis, rotation

from skywright.analysis import Batch
from skywright.callbacks.journal import Journal
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.errors import ConfigError
from skywright.instruments.loop import rotation_pictures
from skywright.instruments.loop.calibration import CalibrationFile
from skywright.instruments.loop.picture import decode
from skywright.instruments.loop.rotation_pictures import draw_sheet
from skywright.instruments.loop.rotation_stage import RotationRun, RotationStage
from skywright.instruments.loop.spindle import TURNS

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


class GivenRotation(RotationRun):
    """Rows that have their angles already."""

    fits = True

    def prepare(self, rows: Batch) -> Any:
        return analysis(), rows


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
    run = GivenRotation(START, CalibrationFile(tmp_path / "none.json"))
    journal = Journal(tmp_path)
    drawn: Future[dict[str, bytes]] = Future()
    drawn.set_result({})
    store = tmp_path / "assets"
    second = SecondAnalysis("loop_rotation", run, START, journal, store, lambda _: drawn)
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
    file.save(CALIBRATION)
    for changes, shape in (({"zoom": 7.0}, (480, 704)), ({"zoom": CALIBRATION.zoom}, (576, 704))):
        run = RotationRun({**START, **changes, TURNS: False}, file)
        run.turn.shape = shape
        analysis, _ = run.prepare(rotation())
        assert analysis.parameters["calibration"]["height_px"] == shape[0]


def test_the_first_picture_drawn_is_called_by_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not of the first pass where the worker was replaced amid the centering."""
    titles: list[str] = []

    def draw(one: Any, other: Any, calibration: Any) -> dict[str, bytes]:
        titles.extend((one[1], other[1]))
        return {}

    monkeypatch.setattr(rotation_pictures, "draw_before_after", draw)
    run = RotationRun(START, CalibrationFile(Path("none.json")))
    for number in (2, 3):
        centering = {"uid": "again", "pass": number}
        run._before_after(centering, np.array([10.0]), lambda _: np.zeros((9, 9)), CALIBRATION)
    assert titles == ["after pass 1, 10 deg", "after pass 2, 10 deg"]
