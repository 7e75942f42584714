"""What a run's configuration says to the analyses of its spectra and pictures."""

from typing import Any

import pytest

from skywright.analysis.named import make_analysis

CONFIGURATION: dict[str, Any] = {
    **{"psss_width": 320, "psss_height": 240, "psss_axis": [8980.0, 0.125]},
    **{"psss_smoothing": "none", "psss_fit": "robust", "psss_weighting": "auto"},
    **{"psss_signal_per_row": 2.0, "psss_roi_ymin": 3, "psss_roi_ymax": 9},
    **{"motor_velocity": 1.0, "axis_width": 704},
}


def test_width_axis_and_settings_are_those_of_the_run() -> None:
    found = make_analysis("psss_spectra", None, CONFIGURATION).parameters
    assert (found["columns"], found["rows"], found["axis"]) == (320, 240, [8980.0, 0.125])
    assert (found["smoothing"], found["fit"], found["signal_per_row"]) == ("none", "robust", 2.0)
    assert "roi" not in found  # the spectra are of the ROI already


def test_pictures_have_their_roi() -> None:
    assert make_analysis("psss_pictures", None, CONFIGURATION).parameters["roi"] == [3, 9]


def test_what_is_given_holds() -> None:
    given = {"smoothing": "savgol", "resolution_ev": 0.1}
    found = make_analysis("psss_spectra", given, CONFIGURATION).parameters
    assert (found["smoothing"], found["resolution_ev"], found["columns"]) == ("savgol", 0.1, 320)


@pytest.mark.parametrize("configuration", [None, {}, {"axis_width": 704}])
def test_without_a_spectrometer_defaults_hold(configuration: dict[str, Any] | None) -> None:
    found = make_analysis("psss_spectra", None, configuration).parameters
    assert found == make_analysis("psss_spectra").parameters


def test_pixels_when_there_is_no_axis() -> None:
    pixels = {**CONFIGURATION, "psss_axis": []}
    assert "axis" not in make_analysis("psss_spectra", None, pixels).parameters


@pytest.mark.parametrize("name", ["psss_spectra", "psss_pictures"])
def test_the_settings_of_each_pulse_hold_where_they_are(name: str) -> None:
    with_file = {**CONFIGURATION, "psss_settings_file": "/data/run.settings.h5"}
    found = make_analysis(name, {"fit": "gaussian"}, with_file).parameters
    assert found == {
        **{"columns": 320, "rows": 240, "resolution_ev": 0.0},
        **{"settings": "/data/run.settings.h5", "fit": "gaussian"},
    }


def test_saturation_is_that_of_the_run() -> None:
    found = make_analysis("psss_spectra", None, {**CONFIGURATION, "psss_saturation": 4095.0})
    assert found.parameters["saturation"] == 4095.0
    assert "saturation" not in make_analysis("psss_spectra", None, CONFIGURATION).parameters
