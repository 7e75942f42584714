import dataclasses
import threading

import numpy as np
import pytest
from pulse_spectra import Detector, energy_axis, gaussian

from skywright.errors import ConfigError
from skywright.instruments.psss.processing import (
    AxisUnit,
    FitStatus,
    Settings,
    Spectrum,
    process,
)

X = energy_axis(640)
DETECTOR = Detector(rows=40)


def expose(center=9003.0, sigma=4.0, height=8000.0, seed=1, x=X):
    spectrum = height * gaussian(x, center, sigma)
    return DETECTOR.picture(spectrum, np.random.default_rng(seed))


def dark(x=X):
    return np.repeat(DETECTOR.background()[:, None], len(x), axis=1)


def figures_of(spectrum: Spectrum):
    names = [f.name for f in dataclasses.fields(spectrum)]
    values = {name: getattr(spectrum, name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, float)}


# Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("roi", [(0, 0), (0, 1), (0, 40), (39, 40), [3, 9], np.array([3, 9])])
def test_rows_from_the_first_to_the_last_are_valid(roi):
    assert Settings(roi=roi).roi == tuple(roi)


@pytest.mark.parametrize(
    "roi",
    [
        (True, 10),
        (9, 3),
        (3, 3),
        (-1, 5),
        (1.5, 4),
        (1,),
        None,
        "ab",
        (0, np.nan),
        (0, np.inf),
        (0, 2**31),
    ],
)
def test_a_roi_upside_down_is_refused(roi):
    with pytest.raises(ConfigError, match="roi"):
        Settings(roi=roi)


@pytest.mark.parametrize(
    "wrong",
    [
        {"background": np.zeros(4)},
        {"background": np.zeros((2, 0))},
        {"background": [[1, 2], [3]]},
        {"background": np.array([[np.nan]])},
        {"background": np.array([["a"]])},
        {"background_mode": "clip"},
        {"smoothing": "some"},
        {"fit": "lorentz"},
        {"weighting": "w"},
        {"axis": [1.0, 1.0, 2.0]},
        {"axis": [1.0, np.inf]},
        {"axis": [[1.0, 2.0]]},
        {"axis": ["a"]},
        {"signal_per_row": -1.0},
        {"signal_per_row": np.nan},
        {"signal_per_row": True},
        {"signal_per_row": "much"},
        {"saturation": -1},
        {"saturation": np.inf},
        {"saturation": "4095"},
        {"saturation": True},
        {"background_name": "a\0b"},
        {"background_name": "\ud800"},
        {"background_name": "ж" * 257},
        {"background_name": 3},
    ],
)
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[0, 65535]], np.int64), np.uint16),
        (np.array([[0.0, 65535.0]], np.float64), np.uint16),
        (np.array([[0, 65536]], np.uint32), np.int64),
        (np.array([[-1, 3]], np.int8), np.int64),
        (np.array([[2**61, -(2**61)]]), np.int64),
        (np.array([[2.0**63, 0.0]]), np.float64),
        (np.array([[2**63, 0]], np.uint64), np.float64),
        (np.array([[0.5, 3]], np.float64), np.float32),
        (np.array([[0.1, 3]], np.float64), np.float64),
        (np.array([[1, 3]], ">u2"), np.uint16),
        (np.array([[True, False]]), np.uint16),
    ],
)
def test_backgrounds_are_kept_exactly(values, dtype):
    kept = Settings(background=values).background
    assert kept.dtype == dtype
    assert (kept == values).all()
    assert kept.dtype.isnative


def test_settings_do_not_change_with_the_arrays_they_were_made_of():
    background, axis = np.full((2, 3), 7, np.uint16), np.arange(3.0)
    made = Settings(background=background, axis=axis)
    background[:] = 0
    axis[:] = 0
    assert (made.background == 7).all()
    assert made.axis.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        made.background[0, 0] = 1
    assert dataclasses.replace(made, roi=(0, 1)).background is made.background


# What a picture becomes ----------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", ["savgol", "none"])
@pytest.mark.parametrize("mode", ["clipped", "signed"])
@pytest.mark.parametrize("fit", ["gaussian", "robust"])
def test_center_and_width_are_found(fit, mode, smoothing):
    found = process(
        expose(),
        Settings(background=dark(), background_mode=mode, smoothing=smoothing, fit=fit, axis=X),
    )
    assert found.status is FitStatus.OK
    assert found.unit is AxisUnit.EV
    assert found.center == pytest.approx(9003.0, abs=0.15)
    # Clipped, the dark rows of faint columns are lifted more than those of bright ones.
    assert found.fwhm == pytest.approx(2.354820 * 4.0, rel=0.08 if mode == "clipped" else 0.02)
    assert found.relative_width == pytest.approx(1000 * found.fwhm / found.center)
    assert found.com == pytest.approx(9003.0, abs=0.8)
    assert found.std == pytest.approx(4.0, rel=0.4)
    assert found.quantile_width == pytest.approx(found.fwhm, rel=0.2)
    assert found.quality > 0.98
    assert 0.7 < found.chi2 < (2.5 if mode == "clipped" else 1.4)
    assert 0.0 < found.center_error < 0.1
    assert 0.0 < found.fwhm_error < 0.3
    assert found.brightness(200.0) == 200.0 / found.fwhm
    assert found.roi == (0, 40)


def test_the_spectrum_is_the_clipped_sum():
    image, background = expose(), dark()
    found = process(image, Settings(roi=(10, 30), background=background, background_name="d"))
    above = image[10:30].astype(int) - background[10:30]
    assert (found.spectrum == np.maximum(above, 0).sum(axis=0)).all()
    assert found.spectrum.dtype == np.uint32
    assert (found.roi, found.background_name) == ((10, 30), "d")


def test_a_measured_background_is_the_same_whatever_the_order_of_changes():
    measured = np.full((40, 640), 100.4, np.float32)
    clipped = Settings(background=measured)
    assert clipped.background_used.dtype == np.uint16
    signed = dataclasses.replace(clipped, background_mode="signed")
    assert (signed.background_used == measured).all()
    assert (dataclasses.replace(signed, background_mode="clipped").background_used == 100).all()
    assert dataclasses.replace(signed, background_mode="none").background_used is None
    digests = {each.background_digest for each in (clipped, signed)}
    assert len(digests) == 1
    for dtype in (np.uint32, np.int32, np.float32):  # wide pictures have wide backgrounds
        wide = process(
            np.full((4, 64), 100_000, dtype), Settings(background=np.full((4, 64), 7e4 + 0.7))
        )
        assert (wide.spectrum == 4 * 29_999).all()
    assert Settings(background=measured + 1).background_digest not in digests
    assert Settings().background_digest == ""


def test_the_mode_none_leaves_the_background():
    image = expose()
    settings = Settings(background=dark(), background_name="d", background_mode="none")
    found = process(image, settings)
    assert (found.spectrum == image.sum(axis=0)).all()
    assert found.background_name == ""


def test_negative_and_fractional_pixels_are_not_wrapped_or_cut():
    image = np.full((4, 60), -0.25, np.float32)
    assert process(image, Settings()).spectrum.tolist() == [-1.0] * 60
    signed = Settings(background=np.full((4, 60), 0.25), background_mode="signed")
    assert process(image, signed).spectrum.tolist() == [-2.0] * 60
    assert process(-np.ones((4, 60), np.int16), Settings()).spectrum.tolist() == [-4] * 60


def test_big_endian_pictures_with_background():
    settings = Settings(background=dark(), axis=X)
    image = expose()
    assert figures_of(process(image.astype(">u2"), settings)) == figures_of(
        process(image, settings)
    )


@pytest.mark.parametrize("order", [1, -1])
def test_the_axis_may_fall_and_be_uneven(order):
    uneven = np.cumsum(np.linspace(0.05, 0.15, 640))
    x = (8990.0 + uneven - uneven.mean() + 10.0)[::order]
    found = process(
        expose(center=9004.0, x=x),
        Settings(background=dark(x), background_mode="signed", smoothing="none", axis=x),
    )
    assert found.status is FitStatus.OK
    assert found.center == pytest.approx(9004.0, abs=0.15)
    assert found.fwhm == pytest.approx(2.354820 * 4.0, rel=0.02)


def test_a_small_change_of_light_at_an_end_of_the_roi_changes_the_spectrum():
    """Rows 0 and rows - 1 count: the old service never took them as edges of a ROI."""
    image = np.zeros((10, 64), np.uint16)
    image[0], image[9] = 1, 10
    for roi, level in {(0, 5): 1, (5, 10): 10, (0, 10): 11, (0, 0): 11, (1, 9): 0}.items():
        found = process(image, Settings(roi=roi))
        assert found.spectrum.tolist() == [level] * 64
        assert found.status is not FitStatus.WRONG_ROI


# What goes wrong has a status ----------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros(5, np.uint16),
        np.zeros((2, 3, 4), np.uint16),
        np.zeros((0, 5), np.uint16),
        np.zeros((5, 0), np.uint16),
        np.zeros((2, 2), complex),
        np.array([["a", "b"]]),
        np.zeros((2, 2), "M8[s]"),
    ],
)
def test_no_picture(image):
    found = process(image, Settings())
    assert found.status is FitStatus.NO_IMAGE
    assert len(found.spectrum) == 0


@pytest.mark.parametrize("level", [0, 100, 65535])
@pytest.mark.parametrize("dtype", ["u2", "f4", "i4"])
@pytest.mark.parametrize("fit", ["gaussian", "robust"])
def test_a_constant_picture_has_no_signal(fit, dtype, level):
    found = process(np.full((40, 640), level, dtype), Settings(axis=X, fit=fit))
    assert found.status is FitStatus.NO_SIGNAL
    assert np.isnan(found.center)


@pytest.mark.parametrize("smoothing", ["savgol", "none"])
@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_noise_is_no_signal(threshold, smoothing):
    for seed in range(20):
        image = expose(height=0.0, seed=seed)
        found = process(image, Settings(axis=X, signal_per_row=threshold, smoothing=smoothing))
        assert found.status is not FitStatus.OK


def test_a_peak_at_the_end_is_out_of_the_window():
    for center in (X[0], X[-1], X[0] - 3.0, X[-1] + 3.0):
        found = process(expose(center=center), Settings(background=dark(), axis=X))
        assert found.status is FitStatus.OUT_OF_WINDOW
        assert found.center == pytest.approx(center, abs=1.0)


def test_the_clean_peak_that_pulled_the_old_fit_off():
    """Sigma 3 at 8990 on 100 counts a row: the old service gives 8997.6 without a word."""
    x = energy_axis(2560)
    image = np.round(100 + 1000 * gaussian(x, 8990.0, 3.0))[None].repeat(20, 0).astype(np.uint16)
    found = process(image, Settings(axis=x))
    assert found.status is FitStatus.OK
    assert found.center == pytest.approx(8990.0, abs=0.01)
    assert found.fwhm == pytest.approx(2.354820 * 3.0, rel=0.002)
    assert found.steps <= 6


def test_saturation_is_told_and_a_hot_pixel_is_not_saturation():
    image = expose()
    image[20, 333] = 65535
    hot = process(image, Settings(background=dark(), axis=X, fit="robust"))
    assert (hot.status, hot.saturated) == (FitStatus.OK, 1)
    image[20, 330:340] = 65535
    found = process(image, Settings(background=dark(), axis=X))
    assert (found.status, found.saturated) == (FitStatus.SATURATED, 10)
    assert np.isfinite(found.center)
    assert process(expose(), Settings(axis=X, saturation=120)).status is FitStatus.SATURATED
    assert process(expose(), Settings(axis=X, saturation=0)).status is FitStatus.OK


@pytest.mark.parametrize("level", [None, 2**63 + 5])
def test_saturation_of_64_bits(level):
    """Above the greatest number with a sign."""
    image = expose().astype(np.uint64)
    image[20, 330:340] = 2**64 - 1 if level is None else level + 1
    image[20, 400:402] = 2**63 - 1
    found = process(image, Settings(axis=X, saturation=level))
    assert found.saturated == 10


def test_the_signal_is_compared_with_the_height_of_the_whole_picture():
    image = np.zeros((40, 640), np.uint16)
    image[:10] = np.rint(50 * gaussian(X, 9003.0, 4.0))  # 500 counts: above 10 for each of 40 rows
    for roi in ((0, 0), (0, 10)):
        found = process(image, Settings(roi=roi, axis=X, signal_per_row=10.0))
        assert found.status is FitStatus.OK
    image[:3] = 0  # 350 counts
    for roi in ((0, 0), (0, 10)):
        found = process(image, Settings(roi=roi, axis=X, signal_per_row=10.0))
        assert found.status is FitStatus.NO_SIGNAL
        assert found.intensity > 0


def test_a_peak_wider_than_the_axis_is_out_of_the_window():
    image = np.rint(8000 * gaussian(X, 9000.0, 30.0)).astype(np.uint16)[None].repeat(4, axis=0)
    found = process(image, Settings(axis=X))
    assert found.status is FitStatus.OUT_OF_WINDOW
    assert found.center == pytest.approx(9000.0, abs=0.1)
    assert found.fwhm == pytest.approx(2.354820 * 30.0, rel=0.01)


@pytest.mark.parametrize("order", [1, -1])
def test_the_light_of_a_column_is_spread_evenly_over_its_width(order):
    image = np.zeros((4, 20), np.uint16)
    image[:, 10] = 100
    x = 9000.0 + 0.5 * np.arange(20.0)[::order]
    found = process(image, Settings(axis=x, smoothing="none"))
    assert found.quantile_width == pytest.approx(0.5 * 0.761, rel=1e-3)
    assert found.com == pytest.approx(x[10])


def test_a_pixel_that_is_not_finite():
    image = expose().astype(np.float32)
    image[3, 3] = np.nan
    found = process(image, Settings(axis=X))
    assert found.status is FitStatus.BAD_PIXELS


@pytest.mark.parametrize("roi", [(0, 41), (39, 100), (100, 200)])
def test_a_roi_outside_takes_the_whole_and_says_so(roi):
    found = process(expose(), Settings(roi=roi, background=dark(), axis=X))
    assert found.status is FitStatus.WRONG_ROI
    assert found.roi == (0, 40)
    assert found.center == pytest.approx(9003.0, abs=0.3)


def test_a_background_of_another_shape_is_not_taken_off():
    image = expose()
    settings = Settings(background=np.ones((3, 640), np.uint16), background_name="d", axis=X)
    found = process(image, settings)
    assert found.status is FitStatus.WRONG_BACKGROUND
    assert (found.spectrum == image.sum(axis=0)).all()
    assert found.background_name == ""


@pytest.mark.parametrize("axis", [None, np.arange(5.0), np.arange(2000.0)])
def test_without_axis_the_figures_are_in_pixels(axis):
    found = process(expose(), Settings(background=dark(), axis=axis))
    assert found.status is FitStatus.NO_AXIS
    assert found.unit is AxisUnit.PIXEL
    assert found.center == pytest.approx(np.interp(9003.0, X, np.arange(640)), abs=2.0)
    assert np.isnan(found.relative_width)


@pytest.mark.parametrize("columns", [1, 2, 4, 7, 8, 20, 50, 51, 52])
@pytest.mark.parametrize("fit", ["gaussian", "robust"])
def test_any_width_lives(columns, fit):
    x = np.linspace(8970, 9030, columns) if columns > 1 else np.array([9000.0])
    found = process(expose(x=x), Settings(background=dark(x), axis=x, fit=fit))
    assert len(found.spectrum) == columns
    values = figures_of(found)
    if found.status.has_values:
        assert not any(np.isnan(list(values.values())))


def test_a_failed_fit_never_passes_for_a_good_one():
    """Pictures of no sense: a status of OK comes with finite figures inside the window only."""
    rng = np.random.default_rng(11)
    for _ in range(150):
        image = rng.integers(0, rng.integers(1, 60000), (10, 120)).astype(np.uint16)
        image[:, : rng.integers(0, 120)] >>= np.uint16(rng.integers(0, 8))
        for fit in ("gaussian", "robust"):
            found = process(image, Settings(axis=energy_axis(120), fit=fit))
            if found.status.has_values:
                values = figures_of(found)
                assert not any(np.isnan(list(values.values()))), found
            if found.status is FitStatus.OK:
                assert 8970 <= found.center <= 9030
                assert 0 < found.fwhm <= 60


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-20, 1e20, 1e200, 1e307, np.inf])
@pytest.mark.parametrize("fit", ["gaussian", "robust"])
def test_absurd_numbers_end_nothing(fit, scale):
    light = gaussian(X, 9003.0, 4.0) + 0.01 * np.random.default_rng(3).normal(size=len(X))
    with np.errstate(invalid="ignore"):
        image = np.repeat(light[None], 8, axis=0) * scale
    found = process(image, Settings(axis=X, fit=fit, signal_per_row=0.0))
    if 1e-30 < scale < 1e30:
        assert found.status is FitStatus.OK
        assert found.center == pytest.approx(9003.0, abs=0.1)
    else:
        assert found.status in (FitStatus.BAD_PIXELS, FitStatus.NO_SIGNAL)


def test_threads_give_the_same_bits():
    images = [expose(seed=seed) for seed in range(8)]
    settings = Settings(background=dark(), axis=X)
    expected = [figures_of(process(image, settings)) for image in images]
    found: dict[int, list[dict]] = {}

    def work(number):
        found[number] = [figures_of(process(image, settings)) for image in images]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == expected for number in range(4))


def test_results_do_not_share_memory():
    settings = Settings()
    first = process(expose(seed=1), settings)
    kept = first.spectrum.copy()
    process(expose(seed=2), settings)
    assert (first.spectrum == kept).all()
