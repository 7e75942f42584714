"""Devices and numbers that do not fit a plan are refused by name, before anything moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ophyd.sim import SynAxis

from plans.checks import COUNT_MAX, finite, finite_numbers, flag, whole
from plans.epu.track import track_epu
from plans.loop.calibration import calibrate_camera
from plans.loop.centering import center_loop, collect_oscillation, collect_steps
from plans.loop.face import face_angle, loop_raster_box, rotate_to_face_on
from plans.panoseti.calibration import calibrate_gain, dark_run, tune_threshold
from plans.panoseti.runs import observe, track_run
from plans.pictures import take_pictures, watch_camera
from plans.psss.spectrum import (
    acquire_spectra,
    calibrate_energy_axis,
    optimize_spectrum,
    record_pulses,
    scan_spectra,
    take_background,
)
from plans.run_stubs import start_metadata
from plans.sacla.shots import acquire_shots, delay_scan, find_time_zero
from skywright.errors import ConfigError
from skywright.instruments import instruments

CAMERA, GONIOMETER = "a camera", "a goniometer"
SPECTROMETER, SHOTS, ARRAY = "a spectrometer", "a shot source", "a telescope array"

GIVEN: dict[Callable[..., Any], tuple[str, str, tuple[Any, ...]]] = {
    take_pictures: ("camera", CAMERA, (1,)),
    watch_camera: ("camera", CAMERA, (1.0,)),
    collect_oscillation: ("camera", CAMERA, (None,)),
    collect_steps: ("camera", CAMERA, (None, [0.0])),
    center_loop: ("camera", CAMERA, (None, None)),
    calibrate_camera: ("camera", CAMERA, (None, None)),
    loop_raster_box: ("camera", CAMERA, (None, None, 0.0)),
    rotate_to_face_on: ("goniometer", GONIOMETER, (0.0,)),
    acquire_spectra: ("psss", SPECTROMETER, (1,)),
    take_background: ("psss", SPECTROMETER, ()),
    calibrate_energy_axis: ("psss", SPECTROMETER, ([9000.0, 9010.0], [1.0, 2.0])),
    scan_spectra: ("psss", SPECTROMETER, (None, 0.0, 1.0, 3)),
    optimize_spectrum: ("psss", SPECTROMETER, (None, 0.0, 1.0)),
    acquire_shots: ("sacla", SHOTS, (1,)),
    delay_scan: ("sacla", SHOTS, (None, 0.0, 1.0, 3)),
    find_time_zero: ("sacla", SHOTS, (None, 0.0, 1.0, 5)),
    track_run: ("panoseti", ARRAY, ()),
    observe: ("panoseti", ARRAY, (1.0,)),
    dark_run: ("panoseti", ARRAY, (1.0,)),
    calibrate_gain: ("panoseti", ARRAY, ()),
    tune_threshold: ("panoseti", ARRAY, (10.0,)),
    track_epu: ("watcher", "a watcher of a visit", ()),
}
"""The plans with their first argument, what that is, and further arguments."""


@pytest.mark.parametrize("plan", GIVEN, ids=lambda plan: plan.__name__)
def test_a_wrong_device_is_refused_by_name(plan: Callable[..., Any]) -> None:
    argument, kind, more = GIVEN[plan]
    # A time zero is a delay scan.
    name = "delay_scan" if plan is find_time_zero else plan.__name__
    for wrong, text in ((SynAxis(name="motor"), "motor"), (3, "3")):
        with pytest.raises(TypeError, match=f"{name}: {argument} = {text}, expected {kind}"):
            next(plan(wrong, *more))


@pytest.mark.parametrize(
    ("face", "phi", "edge", "angle"),
    [
        (10.0, 350.0, False, 370.0),
        (170.0, 0.0, False, -10.0),
        (30.0, 40.0, False, 30.0),
        (30.0, 200.0, False, 210.0),
        (30.0, 110.0, True, 120.0),
        (0.0, 100.0, True, 90.0),
        (20.0, -500.0, False, -520.0),
    ],
)
def test_the_spindle_turns_the_short_way_to_face_or_edge(
    face: float, phi: float, edge: bool, angle: float
) -> None:
    assert face_angle(face, phi, edge) == angle


def test_every_plan_of_every_instrument_is_tried() -> None:
    offered = {plan for each in instruments().values() for plan in each.plans}
    tried = {plan.__name__ for plan in (*GIVEN, record_pulses)}
    assert {plan.partition(":")[2] for plan in offered} <= tried


def test_pulses_are_recorded_of_spectrometers_only() -> None:
    with pytest.raises(TypeError, match="record_pulses: psss = 3, expected a spectrometer"):
        record_pulses(iter(()), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "words"),
    [("5", "'5'"), (True, "True"), (float("nan"), "nan"), (-1.0, "-1.0"), (None, "None")],
)
def test_what_is_no_number_is_refused_by_name(value: Any, words: str) -> None:
    expected = "expected a finite number of at least 0"
    with pytest.raises(ConfigError, match=f"a_plan: seconds = {words}, {expected}"):
        finite("a_plan", "seconds", value, 0.0, inclusive=True)
    assert finite("a_plan", "seconds", 0, 0.0, inclusive=True) == 0.0
    with pytest.raises(ConfigError, match="seconds = 0, expected a finite number above 0"):
        finite("a_plan", "seconds", 0, 0.0)


def test_what_is_neither_true_nor_false_is_refused_by_name() -> None:
    for wrong in ("no", 0, None):
        with pytest.raises(ConfigError, match=f"a_plan: edge = {wrong!r}, expected True or False"):
            flag("a_plan", "edge", wrong)
    assert flag("a_plan", "edge", np.True_) is True
    with pytest.raises(ConfigError, match="track_run: wait_for_new = 'x', expected True or False"):
        next(track_run(None, wait_for_new="x"))  # type: ignore[arg-type]


def test_what_is_no_list_of_numbers_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"a_plan: angles = 3\.0, expected a list of numbers"):
        finite_numbers("a_plan", "angles", 3.0)
    with pytest.raises(ConfigError, match="a_plan: angles = 'x', expected a finite number"):
        finite_numbers("a_plan", "angles", [0, "x"])
    assert finite_numbers("a_plan", "angles", np.arange(2)) == [0.0, 1.0]
    with pytest.raises(ConfigError, match="energies_ev = 9000, expected a list of numbers"):
        next(calibrate_energy_axis(None, 9000, [1.0]))  # type: ignore[arg-type]


def test_metadata_that_are_no_dictionary_are_refused_by_name() -> None:
    camera = {"camera": SynAxis(name="axis")}
    with pytest.raises(ConfigError, match="a_plan: md = 'x', expected a dictionary"):
        start_metadata("a_plan", camera, {}, "x")  # type: ignore[arg-type]
    start = start_metadata("a_plan", camera, {}, {"zoom": 2.0}, zoom=0.0, num_points=3)
    assert (start["zoom"], start["num_points"]) == (2.0, 3)


def test_numbers_of_numpy_are_numbers_and_become_plain_ones() -> None:
    count = whole("a_plan", "n", np.int64(3))
    assert (count, type(count)) == (3, int)
    seconds = finite("a_plan", "seconds", np.float32(0.5), 0.0)
    assert (seconds, type(seconds)) == (0.5, float)
    assert whole("a_plan", "n", COUNT_MAX) == 1_000_000_000
    for wrong in (True, np.True_, 3.0, np.float64(3.0), "3", COUNT_MAX + 1):
        with pytest.raises(ConfigError, match="expected a whole number"):
            whole("a_plan", "n", wrong)
    with pytest.raises(ConfigError, match="expected a finite number"):
        finite("a_plan", "seconds", np.True_)
    start = start_metadata("a_plan", {"camera": SynAxis(name="axis")}, {"n": np.int64(3)}, None)
    assert type(start["plan_args"]["n"]) is int
