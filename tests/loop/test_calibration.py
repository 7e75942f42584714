"""Calibration of the camera: found from moves and turns, kept in a file, between stops only."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from devices.loop.rotation import CameraCalibration
from skywright.errors import ConfigError, DataError
from skywright.instruments.loop.calibration import (
    CalibrationFile,
    ZoomCalibration,
    at_zoom,
    fit_axis_line,
    fit_scale,
    load_calibrations,
    now,
)
from skywright.instruments.loop.centering import fit_center
from skywright.instruments.loop.geometry import View, observe

MID = ZoomCalibration(
    zoom=1.0,
    um_per_px_x=6.7324,
    um_per_px_y=7.4729,
    axis_px=238.0,
    axis_sigma_px=0.2,
    scale_residual_px=0.3,
    axis_residual_px=0.4,
    date=datetime(2024, 5, 6, 7, 8, tzinfo=UTC),
    roll_deg=0.3,
    delay_s=0.12,
)
HIGH = replace(
    MID, zoom=3.0, um_per_px_x=0.8233, um_per_px_y=0.9139, axis_px=244.0, axis_sigma_px=0.9
)


def moves(rng: np.random.Generator, count: int = 12) -> np.ndarray:
    return rng.uniform(-400, 400, (count, 2))


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("seed", range(4))
def test_scale_and_roll_from_known_moves(side: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    view = View(6.73, 7.47, side=side, roll_deg=rng.uniform(-3, 3))  # type: ignore[arg-type]
    done = moves(rng)
    # At 0 deg, (x, y) of the goniometer are along and across.
    places = observe(np.column_stack([done, np.zeros(12)]), 0.0, view, 240.0)
    places += rng.normal(0, 0.3, places.shape)
    places[3] += 60.0  # a wrong place
    places[5] = np.nan
    scale = fit_scale(done, places, view.side)
    assert scale.um_per_px_x == pytest.approx(6.73, rel=5 * scale.relative_sigma)
    assert scale.um_per_px_y == pytest.approx(7.47, rel=5 * scale.relative_sigma)
    assert scale.relative_sigma < 0.01
    assert scale.roll_deg == pytest.approx(view.roll_deg, abs=0.5)
    assert 0.1 < scale.residual_px < 0.8


def test_moves_that_tell_no_scale_are_refused() -> None:
    done = np.column_stack([np.linspace(-400, 400, 9), np.zeros(9)])
    with pytest.raises(DataError, match="both directions"):
        fit_scale(done, done / 6.7)
    with pytest.raises(DataError, match="2 places"):
        fit_scale(done[:2], done[:2])
    rng = np.random.default_rng(0)
    done = moves(rng)
    with pytest.raises(DataError, match="pin from the right"):
        fit_scale(done, done / 6.7, "right")
    with pytest.raises(DataError, match=r"across the spindle are seen as .* in view"):
        fit_scale(done, done * (1 / 6.7, -1e-3))  # what is seen does not move with one stage


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_axis_and_roll_from_turns_at_three_places(side: str) -> None:
    rng = np.random.default_rng(5)
    view = View(6.73, 7.47, side=side, roll_deg=0.8, target_px=250.0)  # type: ignore[arg-type]
    phi = np.arange(60) * 6.0
    along, axes, sigmas = [], [], []
    for x in (-900.0, 0.0, 800.0):
        tips = observe((x, 150.0, 90.0), phi, view, 233.0) + rng.normal(0, 0.4, (60, 2))
        center = fit_center(phi, tips, replace(view, roll_deg=0.0))
        along.append(tips[:, 1 if view.vertical else 0].mean())
        axes.append(center.axis_row_px)
        sigmas.append(center.axis_sigma_px)
    line = fit_axis_line(along, axes, sigmas, view)
    assert line.axis_px == pytest.approx(233.0, abs=4 * line.axis_sigma_px)
    assert line.axis_sigma_px < 0.2
    assert line.roll_deg == pytest.approx(0.8, abs=4 * line.roll_sigma_deg)
    assert line.roll_sigma_deg < 0.1


def test_one_turn_gives_the_axis_but_no_roll() -> None:
    line = fit_axis_line([300.0], [233.0], [0.1], View())
    assert line.axis_px == pytest.approx(233.0)
    assert np.isnan(line.roll_deg)
    with pytest.raises(DataError, match="0 rotations"):
        fit_axis_line([], [], [], View())


def test_between_stops_the_scale_goes_by_its_logarithm() -> None:
    half = at_zoom([HIGH, MID], 2.0)
    assert half.um_per_px_x == pytest.approx(np.sqrt(6.7324 * 0.8233))
    assert half.um_per_px_y == pytest.approx(np.sqrt(7.4729 * 0.9139))
    assert half.axis_px == pytest.approx(241.0)
    assert half.axis_sigma_px == 0.9  # no better than the worse neighbor
    assert at_zoom([HIGH, MID], 3.0) == HIGH


@pytest.mark.parametrize("zoom", [0.5, 3.01])
def test_beyond_the_stops_nothing_is_made_up(zoom: float) -> None:
    with pytest.raises(ConfigError, match=r"outside the calibrated stops.*; run calibrate_camera"):
        at_zoom([MID, HIGH], zoom)
    with pytest.raises(ConfigError, match="none"):
        at_zoom([], zoom)


def test_stops_of_different_pictures_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="width_px"):
        at_zoom([MID, replace(HIGH, width_px=1280)], 2.0)


def test_view_and_axis_of_a_stop() -> None:
    view = MID.view
    assert (view.um_per_px_y, view.roll_deg, view.pixel_um) == (7.4729, 0.3, 7.4729)
    assert (MID.axis.row_px, MID.axis.sigma_px) == (238.0, 0.2)


def test_calibrations_round_trip_through_their_file(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    today = replace(HIGH, date=now())
    file = CalibrationFile(path)
    file.save(today)
    file.save(MID)
    assert load_calibrations(path) == file.stops() == [MID, today]
    newer = replace(MID, axis_px=239.0)
    file.save(newer)
    assert load_calibrations(path) == [newer, today]
    assert [p.name for p in tmp_path.iterdir()] == ["camera.json"]


def test_values_that_are_no_calibration_are_refused(tmp_path: Path) -> None:
    device = CameraCalibration(tmp_path / "axis.json", "calibration")
    device.set(asdict(MID)).wait(1)
    for values in ({"a": 1}, {**asdict(MID), "um_per_px_x": -1.0}):
        with pytest.raises(ConfigError, match="calibration: "):
            device.set(values).wait(1)
    assert device.file.stops() == [MID]


def entry(**changes: object) -> dict[str, object]:
    stop = {
        "zoom": 1, "um_per_px_x": 6.7, "um_per_px_y": 7.4, "axis_px": 240, "axis_sigma_px": 0.1,
        "scale_residual_px": 0.2, "axis_residual_px": 0.2, "date": "2024-05-06T07:08:00Z",
    }  # fmt: skip
    return stop | changes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "Invalid JSON: expected ident at line 1 column 2"),
        (json.dumps([entry(um_per_px_x=-1)]), "0.um_per_px_x"),
        (json.dumps([entry(), entry(date="2024-05-06T07:08:00")]), "1.date"),
        (json.dumps([entry(um_per_px=6.7)]), "0.um_per_px"),
        (json.dumps([entry(side="up")]), "0.side"),
        ("{}", "Input should be a valid array"),
    ],
)
def test_a_bad_file_is_named_with_the_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "camera.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_calibrations(path)
    assert f"camera.json: {said}" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_calibrations(tmp_path / "absent.json")


def test_a_stop_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValidationError, match="um_per_px_y"):
        replace(MID, um_per_px_y=float("inf"))
