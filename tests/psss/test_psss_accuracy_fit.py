"""Accuracy of the fit over many pulses: ``make accuracy``. Conditions: psss_processing.md."""

import json

import numpy as np
import pytest
from converged_fits import score
from fit_scores import FitScores
from pulse_spectra import Detector, cramer_rao, energy_axis, gaussian

from skywright.instruments.psss.processing import FWHM_PER_SIGMA, Settings, process

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
