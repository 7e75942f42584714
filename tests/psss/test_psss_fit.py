import dataclasses

import numpy as np
import pytest
from converged_fits import score
from pulse_spectra import Detector, cramer_rao, energy_axis, gaussian, sase

from skywright.instruments.psss.fit import (
    AUTO,
    CENTER_ERROR,
    N_FIT_FIGURES,
    NOISE,
    SIGMA_ERROR,
    STEPS,
    UNIFORM,
    WEIGHTED,
    fit_gaussian,
)
from skywright.instruments.psss.fit_model import CENTER, SIGMA, exp_minus
from skywright.instruments.psss.processing import FitStatus, Settings, process

X = energy_axis()


def fit(y, weighting=UNIFORM):
    figures = np.full(N_FIT_FIGURES, np.nan)
    return fit_gaussian(X, y, y, weighting, figures), figures


def test_exponential():
    t = np.linspace(0.0, 49.0, 2000)
    found = np.array([exp_minus(value) for value in t])
    assert np.abs(found - np.exp(-t)).max() < 3e-14
    assert exp_minus(1e9) < 1e-20


@pytest.mark.parametrize("sigma", [0.05, 0.5, 3.0, 12.0])
@pytest.mark.parametrize("center", [8970.0, 8985.5, 9000.0, 9029.0])
@pytest.mark.parametrize("offset", [-1e6, 0.0, 3e7])
def test_clean_gaussians_are_found_in_a_few_steps(offset, center, sigma):
    converged, figures = fit(offset + 1e5 * gaussian(X, center, sigma))
    assert converged
    assert figures[CENTER] == pytest.approx(center, abs=1e-3 * sigma)
    assert figures[SIGMA] == pytest.approx(sigma, rel=1e-3)
    assert figures[STEPS] <= 12


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_unit_of_the_counts_does_not_matter(scale):
    noise = np.random.default_rng(2).normal(0, 0.02, len(X))
    converged, figures = fit(scale * (gaussian(X, 9003.0, 4.0) + noise), AUTO)
    assert converged
    assert figures[CENTER] == pytest.approx(9003.0, abs=0.05)
    assert figures[WEIGHTED] == 1.0


@pytest.mark.parametrize("weighting", [UNIFORM, NOISE, AUTO])
@pytest.mark.parametrize(
    ("height", "read", "sigmas"),
    [(3e3, 2.0, (3, 7)), (1e5, 2.0, (3, 7)), (3e3, 30.0, (3, 7)), (1e5, 2.0, (0.12, 0.21))],
)
def test_uncertainties_are_those_of_repeated_fits(height, read, sigmas, weighting):
    """Pulls of 100 fits have unit width within 4 of their standard deviations (1 / sqrt(200))."""
    rng, detector = np.random.default_rng(4), Detector(read_noise=read)
    pulls, over_bound = [], []
    for _ in range(100):
        center, sigma = rng.uniform(8990, 9010), rng.uniform(*sigmas)
        light = height * gaussian(X, center, sigma)
        variance = detector.variance(light)
        converged, figures = fit(light + np.sqrt(variance) * rng.normal(size=len(X)), weighting)
        assert converged
        wrong = figures[[CENTER, SIGMA]] - (center, sigma)
        pulls.append(wrong / figures[[CENTER_ERROR, SIGMA_ERROR]])
        over_bound.append(wrong / cramer_rao(X, height, center, sigma, variance)[1:3])
    assert np.sqrt(np.mean(np.square(pulls), axis=0)) == pytest.approx(1.0, abs=4 / np.sqrt(200))
    if weighting != UNIFORM:
        assert (np.sqrt(np.mean(np.square(over_bound), axis=0)) < 1.3).all()


def test_a_spectrum_has_the_figures_of_its_fit():
    y = 3e3 * gaussian(X, 9003.0, 4.0) + np.random.default_rng(3).normal(0, 30.0, len(X))
    settled, figures = fit(y)
    assert settled
    found = process(y[None], Settings(smoothing="none", weighting="uniform", axis=X))
    assert found.center == figures[CENTER]
    assert found.center_error == figures[CENTER_ERROR]
    assert found.fwhm == pytest.approx(2.354820045 * figures[SIGMA])
    assert found.fwhm_error == pytest.approx(2.354820045 * figures[SIGMA_ERROR])
    assert found.steps == figures[STEPS]


def test_spikes_widen_the_uncertainties():
    """Of SASE pulses under one envelope, the scatter is that of the spikes, not of the noise."""
    rng = np.random.default_rng(5)
    pulls = []
    for _ in range(100):
        light = 3e4 * sase(X, rng, 9000.0, 5.0, 25.0)
        converged, figures = fit(light + rng.normal(0, 30, len(X)), AUTO)
        assert converged
        assert figures[WEIGHTED] == 0.0
        wrong = figures[[CENTER, SIGMA]] - (9000.0, 5.0)
        pulls.append(wrong / figures[[CENTER_ERROR, SIGMA_ERROR]])
    widths = np.sqrt(np.mean(np.square(pulls), axis=0))
    assert ((widths > 0.4) & (widths < 2.5)).all(), widths


@pytest.mark.parametrize("smoothing", ["savgol", "none"])
@pytest.mark.parametrize("kind", ["smooth", "spiky"])
def test_fits_are_the_converged_ones(kind, smoothing):
    """A few dozen; hundreds are in the accuracy test."""
    found = score(kind, smoothing, count=20, seed=3)
    assert found["within"] >= 0.95
    assert found["silent"] == 0


@pytest.mark.parametrize("strength", [1.2, 2.0, 3.0])
def test_a_single_spike_does_not_pass_for_the_whole(strength):
    """Where one spike is fitted, or could be, the status says so."""
    rng = np.random.default_rng(8)
    light = 1e4 * sase(X, rng, 9000.0, 5.0, 15.0) + 1e4 * strength * 4 * gaussian(X, 9004.0, 0.1)
    y = light + rng.normal(0, 50, len(X))
    image = np.round(np.repeat(y[None] / 20 + 500, 20, axis=0))
    found = process(image, Settings(smoothing="none", axis=X))
    far = abs(found.fwhm / 5.0 / 2.354820 - 1) > 0.4
    assert found.status is FitStatus.ONE_SPIKE or not far
    assert np.isfinite(found.center)


# The robust variant ---------------------------------------------------------------------------

DETECTOR = Detector(rows=40, profile_sigma=8.0)
AXIS = energy_axis(1280)


def hot_pixels(image, rng):
    image[rng.integers(0, 40, 10), rng.integers(0, 640, 10) * 2] = 65535


def cosmic_ray(image, rng):
    first = rng.integers(20, 1200)
    image[10:30, first : first + 3] = 30000


def full_wells(image, rng):
    np.minimum(image, 700, out=image)


@pytest.mark.parametrize("spoil", [hot_pixels, cosmic_ray, full_wells])
def test_spikes_and_saturation_do_not_pull_the_robust_fit(spoil):
    rng = np.random.default_rng(6)
    background = np.repeat(DETECTOR.background()[:, None], len(AXIS), axis=1)
    robust = Settings(
        background=background, background_mode="signed", fit="robust", axis=AXIS,
        saturation=700 if spoil is full_wells else 65535,
    )  # fmt: skip
    plain = dataclasses.replace(robust, fit="gaussian", smoothing="none")
    plain_errors = []
    for _ in range(15):
        center, sigma = rng.uniform(8990, 9010), rng.uniform(3, 7)
        image = DETECTOR.picture(2e4 * gaussian(AXIS, center, sigma), rng)
        spoil(image, rng)
        found = process(image, robust)
        expected = FitStatus.SATURATED if spoil is full_wells else FitStatus.OK
        assert found.status is expected
        assert found.center == pytest.approx(center, abs=0.01 * sigma)
        assert found.fwhm == pytest.approx(2.354820 * sigma, rel=0.01)
        other = process(image, plain)
        plain_errors.append(abs(other.fwhm / sigma / 2.354820 - 1))
    assert np.median(plain_errors) > 0.01


def test_the_robust_fit_of_spikes_keeps_the_envelope():
    rng = np.random.default_rng(7)
    errors = []
    for _ in range(30):
        light = 3e4 * sase(AXIS, rng, 9002.0, 5.0, 25.0)
        found = process(DETECTOR.picture(light, rng), Settings(fit="robust", axis=AXIS))
        assert found.status is FitStatus.OK
        errors.append((found.center - 9002.0, found.fwhm / 5.0 / 2.354820 - 1))
    center, width = np.median(np.abs(errors), axis=0)
    assert center < 0.6
    assert width < 0.2
