"""Accuracy of the fit over many pulses: ``make accuracy``. Conditions: psss_processing.md."""

import json

import numpy as np
import pytest
from converged_fits import score
from fit_scores import FitScores
from pulse_spectra import Detector, cramer_rao, energy_axis, gaussian

from skywright.instruments.psss.processing import (
    FWHM_PER_SIGMA,
    FitStatus,
    Settings,
    process,
    process_spectrum,
)

X = energy_axis()
LEVELS = {
    "bright": (20_000.0, 2.0),
    "middle": (4_000.0, 4.0),
    "faint": (1_000.0, 8.0),
}
"""Height, counts, and noise of a pixel, counts."""


def score_pulses(level: str, count: int, seed: int) -> FitScores:
    """Process pictures of Gaussian spectra, signed and not smoothed."""
    height, read_noise = LEVELS[level]
    detector = Detector(rows=48, profile_sigma=8.0, read_noise=read_noise)
    background = np.repeat(detector.background()[:, None], len(X), axis=1)
    settings = Settings(background=background, background_mode="signed", smoothing="none", axis=X)
    rng, scores = np.random.default_rng(seed), FitScores()
    for _ in range(count):
        center, sigma = rng.uniform(8985.0, 9015.0), rng.uniform(3.0, 8.0)
        light = height * gaussian(X, center, sigma)
        found = process(detector.picture(light, rng), settings)
        bound = cramer_rao(X, height, center, sigma, detector.variance(light))
        scores.add(found, center, FWHM_PER_SIGMA * sigma, bound)
    return scores


def test_a_few_fits_reach_the_bound():
    score_pulses("middle", 60, seed=1).check("psss_fit_middle")


@pytest.mark.accuracy
@pytest.mark.parametrize("level", LEVELS)
def test_fits_reach_the_bound(level):
    score_pulses(level, 2000, seed=2).check(f"psss_fit_{level}")


@pytest.mark.accuracy
@pytest.mark.parametrize("smoothing", ["savgol", "none"])
@pytest.mark.parametrize(("kind", "part"), [("smooth", 0.995), ("spiky", 0.97)])
def test_fits_are_the_converged_ones(kind, part, smoothing):
    found = score(kind, smoothing, count=600, seed=4)
    print(json.dumps({"name": f"psss_converged_{kind}_{smoothing}", "goal": part, **found}))
    assert found["within"] >= part
    assert found["silent"] == 0


@pytest.mark.accuracy
@pytest.mark.parametrize("fwhm", [10, 120, 500])
@pytest.mark.parametrize("height", [35, 350])
def test_noise_makes_the_light_of_faint_peaks_too_large(height, fwhm):
    """Height in standard deviations of a column, FWHM in columns; smoothed, as by default."""
    x, rng, found = np.arange(2560.0), np.random.default_rng(5), []
    for _ in range(500):
        light = height * gaussian(x, rng.uniform(640.0, 1920.0), fwhm / FWHM_PER_SIGMA)
        spectrum = process_spectrum(1000.0 + light + rng.normal(size=len(x)), 0, Settings())
        found.append((spectrum.intensity / light.sum(), spectrum.quantile_width / fwhm))
    intensity, width = np.mean(found, axis=0)
    row = {"name": "psss_faint", "height": height, "fwhm": fwhm, "intensity": round(intensity, 3)}
    print(json.dumps({**row, "quantile_width": round(width, 3)}))
    # Of a dark spectrum the mean of the 4 darkest of 48 bins is 1.75 standard deviations low
    bias = 1.75 / np.sqrt(54.0) * len(x) / light.sum()
    assert abs(intensity - 1.0) < 1.05 * bias


@pytest.mark.accuracy
@pytest.mark.parametrize("fwhm", [2, 3, 4, 6, 10])
@pytest.mark.parametrize("height", [500, 20_000])
def test_uncertainties_of_narrow_lines(height, fwhm):
    """Noise of 20 counts and shot noise of one electron a count; FWHM in columns, not smoothed."""
    x, rng, pulls = np.arange(2560.0), np.random.default_rng(6), []
    for _ in range(500):
        center = rng.uniform(640.0, 1920.0)
        light = height * gaussian(x, center, fwhm / FWHM_PER_SIGMA)
        noise = np.sqrt(400.0 + light) * rng.normal(size=len(x))
        found = process_spectrum(1000.0 + light + noise, 0, Settings(smoothing="none"))
        if found.status in (FitStatus.OK, FitStatus.NO_AXIS):
            away = found.center - center, found.fwhm - fwhm
            pulls.append((away[0] / found.center_error, away[1] / found.fwhm_error))
    center_pull, width_pull = np.sqrt(np.mean(np.square(pulls), axis=0))
    row = {"name": "psss_narrow", "height": height, "fwhm": fwhm, "fits": len(pulls)}
    row |= {"center_pull": round(center_pull, 2), "width_pull": round(width_pull, 2)}
    print(json.dumps(row))
    assert len(pulls) >= 490
    assert max(center_pull, width_pull) < (1.4 if fwhm >= 6 else 5.0)
