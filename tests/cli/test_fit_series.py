"""``skywright loop fit-series``: the answer, its options, and messages for files that are wrong."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.rotations import Rotation, ellipse_width
from typer.testing import CliRunner

from skywright.cli import app
from skywright.errors import DataError
from skywright.instruments.loop.calibration import CalibrationFile, ZoomCalibration, guess
from skywright.instruments.loop.cli.series_file import read_rows
from skywright.instruments.loop.geometry import View, axis_px, axis_um, observe

SWEEP = np.arange(90) * 2.0 + 1.0
runner = CliRunner()


def run(*args: object) -> tuple[int, dict[str, Any], str]:
    result = runner.invoke(app, ["loop", "fit-series", *map(str, args), "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}, result.stderr


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tip_rows(truth: Rotation, phi: np.ndarray = SWEEP, **more: Any) -> list[dict[str, Any]]:
    tips = truth.tips(phi).tolist()
    return [{"phi": p, "tip": tip, **more} for p, tip in zip(phi.tolist(), tips, strict=True)]


def test_tips_give_the_contracts_object(tmp_path: Path) -> None:
    truth = Rotation()
    rows = tip_rows(truth)
    rows[7]["tip"] = None
    status, answer, stderr = run(write(tmp_path / "s.jsonl", rows))
    assert (status, stderr) == (0, "")
    assert {"offset_um", "axis_row", "face_on_deg", "sigma_um", "n_used", "ok", "why"} <= set(
        answer
    )
    assert answer["offset_um"] == pytest.approx(truth.offset_um, abs=0.01)
    assert answer["axis_row"] == pytest.approx(truth.axis, abs=0.01)
    assert (answer["ok"], answer["why"], answer["n_used"]) == (True, "", 89)
    assert answer["face_on_deg"] is None
    assert 0 < answer["sigma_um"] < 1


def test_widths_give_the_face_and_classes_the_vote(tmp_path: Path) -> None:
    rows = tip_rows(Rotation(), side="left", score=0.8)
    for row, width in zip(rows, ellipse_width(SWEEP, 63.0, 40.0, 8.0), strict=True):
        x, y = row["tip"]
        row |= {"class": "mitegen", "width": width, "file": "not-looked-at.jpg", "ms": 3.1}
        row["bbox"] = [x - 50, y - width / 2, x, y + width / 2]
    status, answer, _ = run(write(tmp_path / "s.jsonl", rows))
    assert status == 0
    assert answer["face_on_deg"] == pytest.approx(63.0, abs=0.5)
    assert answer["class"] == "mitegen"
    assert answer["middle_um"][0] == pytest.approx(100 - 25 * 6.7, abs=0.5)
    for row in rows:
        row["class"] = "pin"
    status, answer, _ = run(write(tmp_path / "s.jsonl", rows))
    assert (status, answer["ok"], answer["offset_um"]) == (1, False, None)
    assert answer["why"] == "no loop: 90 of 90 frames show a bare pin"


def test_scale_side_target_and_axis_are_options(tmp_path: Path) -> None:
    view = View(5.0, 6.0, side="top", target_px=200.0, phi_sign=-1, roll_deg=1.0)
    tips = observe((30.0, 120.0, -80.0), SWEEP, view, 300.0)
    rows = [{"phi": p, "tip": t} for p, t in zip(SWEEP.tolist(), tips.tolist(), strict=True)]
    path = write(tmp_path / "s.jsonl", rows)
    options = [
        *("--um-per-px-x", 5, "--um-per-px-y", 6, "--side", "top", "--target-column", 200),
        *("--phi-sign", -1, "--roll", 1, "--axis-row", 300, "--axis-sigma", 0.1),
    ]
    status, answer, _ = run(path, *options)
    assert status == 0
    assert answer["offset_um"] == pytest.approx([30.0, 120.0, -80.0], abs=0.05)
    assert answer["axis_row"] == pytest.approx(300.0, abs=0.01)


def test_a_calibration_file_replaces_them(tmp_path: Path) -> None:
    stop = ZoomCalibration(
        zoom=2.0,
        um_per_px_x=3.0,
        um_per_px_y=3.3,
        axis_px=230.0,
        axis_sigma_px=0.2,
        scale_residual_px=0.1,
        axis_residual_px=0.1,
        date=datetime(2024, 1, 1, tzinfo=UTC),
        side="right",
    )
    CalibrationFile(tmp_path / "camera.json").save(stop)
    tips = observe((30.0, 120.0, -80.0), SWEEP, stop.view, 230.0)
    rows = [{"phi": p, "tip": t} for p, t in zip(SWEEP.tolist(), tips.tolist(), strict=True)]
    path = write(tmp_path / "s.jsonl", rows)
    status, answer, _ = run(path, "--calibration", tmp_path / "camera.json")
    assert status == 0
    assert answer["offset_um"] == pytest.approx([30.0, 120.0, -80.0], abs=0.05)
    assert (answer["side"], answer["um_per_px"]) == ("right", [3.0, 3.3])
    # Its delay is that of times; angles without them are those of the exposures.
    CalibrationFile(tmp_path / "camera.json").save(replace(stop, delay_s=0.1))
    assert run(path, "--calibration", tmp_path / "camera.json")[1] == answer
    timed = write(tmp_path / "t.jsonl", [{**row, "time": row["phi"] / 60.0} for row in rows])
    status, late, _ = run(timed, "--calibration", tmp_path / "camera.json")
    assert (status, late["delay_s"]) == (0, 0.1)
    assert run(timed, "--calibration", tmp_path / "camera.json", "--delay", 0)[1] == answer
    status, _, stderr = run(path, "--calibration", tmp_path / "camera.json", "--zoom", 9)
    assert status == 2
    assert "zoom 9 is outside the calibrated stops (2)" in stderr


def test_a_calibration_of_pictures_of_another_size_is_refused(tmp_path: Path) -> None:
    CalibrationFile(tmp_path / "camera.json").save(guess(0.0, (480, 704)))
    Image.fromarray(np.full((240, 352), 200, np.uint8)).save(tmp_path / "a.png")
    path = write(tmp_path / "s.jsonl", [{"phi": 0.0, "file": "a.png"}])
    status, _, stderr = run(path, "--calibration", tmp_path / "camera.json")
    assert status == 2
    assert "calibrated for pictures of 704 x 480 px, the pictures are 352 x 240" in stderr


def test_target_and_sign_that_are_given_win_over_the_calibration(tmp_path: Path) -> None:
    stop = ZoomCalibration(
        zoom=2.0,
        um_per_px_x=3.0,
        um_per_px_y=3.3,
        axis_px=230.0,
        axis_sigma_px=0.2,
        scale_residual_px=0.1,
        axis_residual_px=0.1,
        date=datetime(2024, 1, 1, tzinfo=UTC),
        roll_deg=2.0,
    )
    CalibrationFile(tmp_path / "camera.json").save(stop)
    view = replace(stop.view, target_px=200.0, phi_sign=-1)
    row = axis_px(axis_um(230.0, stop.view), view)
    tips = observe((30.0, 120.0, -80.0), SWEEP, view, row)
    rows = [{"phi": p, "tip": t} for p, t in zip(SWEEP.tolist(), tips.tolist(), strict=True)]
    path = write(tmp_path / "s.jsonl", rows)
    calibrated = (path, "--calibration", tmp_path / "camera.json")
    status, answer, _ = run(*calibrated, "--target-column", 200, "--phi-sign", -1)
    assert status == 0
    assert answer["offset_um"] == pytest.approx([30.0, 120.0, -80.0], abs=0.05)
    assert answer["axis_row"] == pytest.approx(row, abs=0.05)
    status, _, stderr = run(*calibrated, "--side", "right")
    assert status == 2
    assert "has side left; drop --side" in stderr


def test_angles_by_time_with_a_given_and_a_fitted_delay(tmp_path: Path) -> None:
    truth, delay = Rotation(), 0.15
    time = np.arange(0.3, 8.0, 1 / 30)

    def motor(t: np.ndarray) -> np.ndarray:
        """60 deg/s for 3 s, a rest of 1 s, and back."""
        return np.interp(t, [0, 3, 4, 7], [0, 180, 180, 0])

    tips = truth.tips(motor(time - delay)).tolist()
    rows = [
        {"phi": p, "time": t, "tip": tip}
        for p, t, tip in zip(motor(time).tolist(), time.tolist(), tips, strict=True)
    ]
    path = write(tmp_path / "s.jsonl", rows)
    late = run(path)[1]["offset_um"]
    assert np.hypot(*(np.array(late) - truth.offset_um)[1:]) > 5.0
    # Corners of the path between readings of 30/s are rounded: the fit is good to some um.
    status, answer, _ = run(path, "--delay", delay)
    assert status == 0
    assert answer["offset_um"] == pytest.approx(truth.offset_um, abs=1.0)
    status, answer, _ = run(path, "--fit-delay")
    assert status == 0
    assert answer["delay_s"] == pytest.approx(delay, abs=0.003)
    assert answer["offset_um"] == pytest.approx(truth.offset_um, abs=1.5)
    readings = np.arange(-0.5, 9, 0.05)
    angles = motor(readings).tolist()
    trace = [{"time": t, "phi": p} for t, p in zip(readings.tolist(), angles, strict=True)]
    for row in rows:
        del row["phi"]
    options = ["--trace", write(tmp_path / "motor.jsonl", trace), "--delay", delay]
    status, answer, _ = run(write(path, rows), *options)
    assert status == 0
    assert answer["offset_um"] == pytest.approx(truth.offset_um, abs=1.0)
    one_way = write(path, [{**row, "phi": 60.0 * row["time"]} for row in rows[:80]])
    answer = run(one_way, "--fit-delay")[1]
    assert "delay not known, 0 taken" in answer["notes"][0]


def test_lines_and_readings_may_be_in_any_order(tmp_path: Path) -> None:
    truth, time = Rotation(), np.arange(0.0, 12.0, 1 / 30)
    turned = np.interp(time, [0, 6, 12], [0, 360, 0])
    rows = [
        {"time": t, **row} for t, row in zip(time.tolist(), tip_rows(truth, turned), strict=True)
    ]
    np.random.default_rng(3).shuffle(rows)
    mixed = write(tmp_path / "mixed.jsonl", rows)
    for options in (["--fit-delay"], ["--trace", mixed]):
        status, answer, _ = run(mixed, *options)
        assert (status, answer["notes"]) == (0, [])
        assert answer["offset_um"] == pytest.approx(truth.offset_um, abs=0.1)


def picture(path: Path, truth: Rotation, phi: float) -> Path:
    """A ring on a stem on a pin from the left, anti-aliased a little by JPEG."""
    column, row = truth.tips(np.array([phi]))[0]
    y, x = np.mgrid[0:480, 0:704]
    dark = np.abs(np.hypot(x - (column - 30), y - row) - 27) < 3
    dark |= (np.abs(y - row) < 4) & (x < column - 57)
    dark |= (np.abs(y - row) < 45) & (x < column - 200)
    Image.fromarray(np.where(dark, 50, 200).astype(np.uint8)).save(path, quality=90)
    return path


def test_pictures_are_looked_at_beside_the_file(tmp_path: Path) -> None:
    truth = Rotation(x=0.0, y=200.0, z=150.0, axis=230.0)
    phi = np.arange(12) * 15.0
    folder = tmp_path / "frames"
    folder.mkdir()
    rows = []
    for i, angle in enumerate(phi.tolist()):
        picture(folder / f"{i}.jpg", truth, angle)
        rows.append({"phi": angle, "file": f"frames/{i}.jpg"})
    (folder / "torn.jpg").write_bytes((folder / "3.jpg").read_bytes()[:2000])
    # A camera that stalls repeats a picture at a later angle; an upload breaks off.
    rows += [{"phi": 170.0, "file": "frames/5.jpg"}, {"phi": 47.0, "file": "frames/torn.jpg"}]
    path = write(tmp_path / "s.jsonl", rows)
    status, answer, _ = run(path)
    assert status == 0, answer
    assert answer["offset_um"][1:] == pytest.approx(truth.offset_um[1:], abs=6.7)
    assert (answer["frames"], answer["n_tips"], answer["side"]) == (14, 12, "left")
    assert "line 13 repeats the picture of line 6" in answer["notes"]
    assert any(note.startswith("line 14: frames/torn.jpg") for note in answer["notes"])
    broken = write(tmp_path / "t.jsonl", [{"phi": 1.0, "file": "frames/torn.jpg"}])
    status, _, stderr = run(broken)
    assert status == 2
    assert "none of its 1 pictures can be decoded" in stderr
    Image.new("L", (640, 480), 200).save(folder / "small.png")
    status, _, stderr = run(write(path, [*rows[:2], {"phi": 1.0, "file": "frames/small.png"}]))
    assert status == 2
    assert "line 3: file: frames/small.png" in stderr


def test_what_cannot_be_known_ends_with_1_and_says_why(tmp_path: Path) -> None:
    truth = Rotation()
    status, answer, _ = run(write(tmp_path / "s.jsonl", tip_rows(truth, SWEEP[:30])))
    assert (status, answer["ok"], answer["offset_um"], answer["sigma_um"]) == (1, False, None, None)
    assert answer["why"].startswith("arc too short: tips cover 60 deg")
    miss = np.hypot(*(np.array(answer["coarse_um"]) - truth.offset_um)[1:])
    assert miss < 3 * answer["coarse_sigma_um"]
    status, answer, _ = run(write(tmp_path / "s.jsonl", []))
    assert (status, answer["why"]) == (1, "no frames: the series is empty")
    nothing = [{"phi": p, "tip": None, "class": "none"} for p in SWEEP.tolist()]
    status, answer, _ = run(write(tmp_path / "s.jsonl", nothing))
    assert (status, answer["why"]) == (1, "no pin: nothing is seen in 90 of 90 frames")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"phi": "x", "tip": [1, 2]}', "line 2: phi"),
        ('{"phi": true, "tip": [1, 2]}', "line 2: phi"),
        ('{"phi": NaN, "tip": [1, 2]}', "line 2: phi: Input should be a finite number"),
        ('{"tip": [1, 2]}', "line 2: phi: missing"),
        ('{"phi": 1.0}', "line 2: file, tip: both missing"),
        ('{"phi": 1.0, "tip": [1]}', "line 2: tip"),
        ('{"phi": 1.0, "tip": [1, "a"]}', "line 2: tip.1"),
        ('{"phi": 1.0, "tip": [1, 2], "class": "cat"}', "line 2: class"),
        ('{"phi": 1.0, "tip": [1, 2], "bbox": [1, 2, 3]}', "line 2: bbox"),
        ('{"phi": 1.0, "tip": [1, 2], "bbox": [30, 20, 10, 6]}', "line 2: bbox: expected [xmin"),
        ('{"phi": 1.0, "tip": [1, 2], "bbox": [1, 20, 10, 6]}', "line 2: bbox: expected [xmin"),
        ('{"phi": 1.0, "tip": [1, 2], "width": -3}', "line 2: width: expected a width"),
        ('{"phi": 1e300, "tip": [1, 2]}', "line 2: phi: Input should be less than or equal to"),
        ('{"phi": 1.0, "tip": [1e300, 2]}', "line 2: tip.0: expected a length"),
        ('{"phi": 1.0, "tip": [1, 2], "width": 1e300}', "line 2: width: expected a length"),
        (
            '{"phi": 1.0, "tip": [1, 2], "bbox": [0, 0, 1e300, 1]}',
            "line 2: bbox.2: expected a length",
        ),
        ('{"phi": 1.0, "file": "absent.jpg"}', "line 2: file"),
        ("[1, 2]", "line 2"),
        (
            '{"phi": 1.0, "tip"',
            "line 2: Invalid JSON: EOF while parsing an object at line 1 column 18",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text('{"phi": 0.0, "tip": [1.0, 2.0]}\n' + line + "\n")
    status, answer, stderr = run(path)
    assert (status, answer) == (2, {})
    assert f"s.jsonl: {said}" in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    status, _, stderr = run(tmp_path / "absent.jsonl")
    assert status == 2
    assert "absent.jsonl: cannot be read" in stderr
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    status, _, stderr = run(tmp_path / "x.jsonl")
    assert status == 2
    assert "no UTF-8 text" in stderr


def test_time_is_asked_for_when_it_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", tip_rows(Rotation()))
    status, _, stderr = run(path, "--delay", 0.1)
    assert status == 2
    assert "line 1: time: missing" in stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--delay", "nan"], "--delay nan: expected a number of seconds"),
        (["--zoom", "2"], "--zoom needs --calibration FILE"),
        (["--size", "0", "480"], "--size"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    tmp_path: Path, options: list[str], said: str
) -> None:
    rows = [{**row, "time": row["phi"] / 60.0} for row in tip_rows(Rotation())]
    status, answer, stderr = run(write(tmp_path / "s.jsonl", rows), *options)
    assert (status, answer) == (2, {})
    assert said in stderr


def test_for_a_person(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", tip_rows(Rotation()))
    result = runner.invoke(app, ["loop", "fit-series", str(path)])
    assert result.exit_code == 0
    assert "tip is off by x 100.0, y 150.0, z -90.0 um" in result.stdout
    assert "90 of 90 tips used" in result.stdout


@settings(deadline=None)  # a shared disk may stall
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: Any, content: str | bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "s.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    try:
        rows = read_rows(path)
    except DataError:
        return
    assert all(np.isfinite(row.phi) for _, row in rows if row.phi is not None)
