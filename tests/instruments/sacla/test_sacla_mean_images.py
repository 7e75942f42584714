"""What is drawn on and computed from mean images, against plain loops and known answers."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.errors import ConfigError, DataError
from skywright.instruments.sacla.mean_images import (
    autocorrelation,
    center_of_mass,
    circles,
    linear_histogram,
    log_histogram,
    profile_with_geometry,
)

PONI = """poni_version: 2.1
Detector: Detector
Detector_config: {"pixel1": 5e-5, "pixel2": 5e-5, "max_shape": [60, 40], "orientation": 3}
Distance: 0.1
Poni1: 0.0015
Poni2: 0.001
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1e-10
"""


def test_circles_have_their_radius_and_a_gap_outside_the_image():
    small, large = circles((60, 40), 20.0, 30.0, [5, 25])
    np.testing.assert_allclose(np.hypot(small[:, 0] - 20, small[:, 1] - 30), 5)
    (wide,) = circles((40, 60), 30.0, 20.0, [25])
    angle = np.linspace(0, 2 * np.pi, len(large))
    for line, along in ((large, np.cos(angle)), (wide, np.sin(angle))):
        seen = np.isfinite(line).all(axis=1)
        # Pixel centers are at integers: the 40 pixels end at -0.5 and 39.5.
        np.testing.assert_array_equal(seen, np.abs(20 + 25 * along - 19.5) <= 20)
        assert 0 < seen.sum() < len(line)
        assert np.isnan(line[~seen]).all()


def test_a_circle_has_a_radius():
    with pytest.raises(ConfigError, match="radius"):
        circles((3, 3), 1, 1, [-2])


def test_center_of_mass_leaves_out_what_is_not_finite():
    image = np.zeros((9, 14))
    image[3, 8], image[5, 8], image[0, 0] = 2, 2, np.nan
    assert center_of_mass(image) == (8, 4)
    assert np.isnan(center_of_mass(np.zeros((3, 3)))).all()
    assert np.isnan(center_of_mass(-image)).all()  # no signal above zero has no center
    assert np.isnan(center_of_mass(np.full((3, 3), np.nan))).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.0, 0.3]))
def test_autocorrelation_is_that_of_plain_loops(seed, rows, columns, missing):
    rng = np.random.default_rng(seed)
    image = rng.normal(5, 2, (rows, columns))
    image[rng.random(image.shape) < missing] = np.nan
    found = autocorrelation(image)
    assert found.shape == (2 * rows - 1, 2 * columns - 1)
    good = np.isfinite(image)
    deviation = image - image[good].mean() if good.any() else image
    variance = (deviation[good] ** 2).mean() if good.any() else 0.0
    for dy in range(1 - rows, rows):
        for dx in range(1 - columns, columns):
            products = [
                deviation[y, x] * deviation[y + dy, x + dx]
                for y in range(max(0, -dy), min(rows, rows - dy))
                for x in range(max(0, -dx), min(columns, columns - dx))
                if good[y, x] and good[y + dy, x + dx]
            ]
            value = found[rows - 1 + dy, columns - 1 + dx]
            if products and variance > 1e-20:
                assert value == pytest.approx(np.mean(products) / variance, abs=1e-9)
            elif not products:
                assert np.isnan(value)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_pixels_that_are_all_equal_have_no_autocorrelation(value):
    image = np.full((31, 40), value)
    image[3, 5] = np.nan
    assert np.isnan(autocorrelation(image)).all()


def test_histograms_count_every_finite_pixel_once():
    rng = np.random.default_rng(1)
    image = rng.normal(1, 2, (40, 50))
    image[0, :7] = np.nan
    values = image[np.isfinite(image)]
    whole = linear_histogram(image, 20)
    assert whole.counts.sum() == len(values)
    assert (whole.below, whole.above) == (0, 0)
    assert (whole.mean, whole.std) == pytest.approx((values.mean(), values.std()))
    part = linear_histogram(image, 4, -1, 3)
    assert part.edges.tolist() == [-1, 0, 1, 2, 3]
    expected = [((values >= a) & (values < a + 1)).sum() for a in (-1, 0, 1, 2)]
    assert part.counts.tolist() == expected
    assert (part.below, part.above) == ((values < -1).sum(), (values > 3).sum())
    log = log_histogram(image, 10)
    assert log.counts.sum() == (values > 0).sum()
    assert log.below == (values <= 0).sum()
    np.testing.assert_allclose(
        np.diff(np.log(log.edges)), np.log(log.edges[-1] / log.edges[0]) / 10
    )


def test_histograms_of_equal_and_of_no_pixels():
    for histogram in (linear_histogram, log_histogram):
        assert histogram(np.full((3, 3), 7.0), 5).counts.tolist() == [0, 0, 9, 0, 0]
        empty = histogram(np.full((3, 3), np.nan), 5)
        assert empty.counts.sum() == 0
        assert np.isnan(empty.mean)
        with pytest.raises(ConfigError, match="bins"):
            histogram(np.ones((2, 2)), 0, 1, 2)
        with pytest.raises(ConfigError, match="low < high"):
            histogram(np.ones((2, 2)), 3, 2, 1)
    with pytest.raises(ConfigError, match="> 0"):
        log_histogram(np.ones((2, 2)), 3, 0, 1)


@pytest.mark.parametrize("value", [np.nan, -3.0])
def test_edges_that_are_given_are_kept_also_without_a_pixel_between_them(value):
    image = np.full((3, 3), value)
    for histogram in (linear_histogram, log_histogram):
        found = histogram(image, 5, 1.0, 3.0)
        assert (found.edges[0], found.edges[-1], found.counts.sum()) == (1.0, 3.0, 0)
        with pytest.raises(ConfigError, match="low < high"):
            histogram(image, 5, 2.0, 2.0)
    with pytest.raises(ConfigError, match="> 0"):
        log_histogram(image, 5, -1.0, 3.0)


def test_a_geometry_without_pyfai_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyFAI", None)
    with pytest.raises(ConfigError, match=r"run\.poni needs pyFAI.*pip install pyFAI"):
        profile_with_geometry(np.ones((4, 4)), tmp_path / "run.poni")


def test_what_pyfai_is_given(tmp_path, monkeypatch):
    given = {}

    def integrate1d(image, bins, **options):
        given.update(options, image=image, bins=bins)
        return SimpleNamespace(radial=[1.0, 2.0], intensity=[3.0, 4.0])

    def load(path):
        given["path"] = path
        return SimpleNamespace(integrate1d=integrate1d)

    monkeypatch.setitem(sys.modules, "pyFAI", SimpleNamespace(load=load))
    poni = tmp_path / "run.poni"
    with pytest.raises(DataError, match="no such file"):
        profile_with_geometry(np.ones((2, 2)), poni)
    poni.write_text(PONI)
    image = np.array([[1.0, np.nan], [2.0, 3.0]])
    found = profile_with_geometry(image, poni, 2, "r_mm")
    assert given["path"] == str(poni)
    assert (given["bins"], given["unit"]) == (2, "r_mm")
    assert given["mask"].tolist() == [[False, True], [False, False]]
    assert np.isfinite(given["image"]).all()
    assert found.intensity.tolist() == [3, 4]


def test_pyfai_itself_finds_a_ring(tmp_path):
    poni = tmp_path / "run.poni"
    poni.write_text(PONI)
    y, x = np.indices((60, 40))
    distance = np.hypot(x + 0.5 - 20, y + 0.5 - 30)
    image = np.where(np.abs(distance - 12) < 1, 5.0, 1.0)
    image[:, 3] = np.nan
    found = profile_with_geometry(image, poni, 40, "r_mm")
    assert found.radial[np.argmax(found.intensity)] == pytest.approx(12 * 0.05, abs=0.04)
    (tmp_path / "bad.poni").write_text("hello")
    with pytest.raises(DataError, match=r"bad\.poni"):
        profile_with_geometry(image, tmp_path / "bad.poni")
