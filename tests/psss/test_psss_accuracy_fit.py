"""Accuracy of the fit over many pulses: ``make accuracy``. Conditions: psss_processing.md."""

import json

import numpy as np
import pytest
from pulse_spectra import Detector, cramer_rao, energy_axis, gaussian
from settled_fits import score

from skywright.psss.processing import FWHM_PER_SIGMA, FitStatus, Settings, Workspace, process

X = energy_axis()
LEVELS = {
    "bright": (20_000.0, 2.0),
    "middle": (4_000.0, 4.0),
    "faint": (1_000.0, 8.0),
}
"""Height, counts, and noise of a pixel, counts."""


def score_pulses(level: str, count: int, seed: int) -> dict[str, float]:
    """Process pictures of Gaussian spectra, signed and not smoothed, and compare with the bound."""
    height, read_noise = LEVELS[level]
    detector = Detector(rows=48, profile_sigma=8.0, read_noise=read_noise)
    background = np.repeat(detector.background()[:, None], len(X), axis=1)
    settings = Settings(background=background, background_mode="signed", smoothing="none", axis=X)
    rng, workspace = np.random.default_rng(seed), Workspace()
    over, wrong, pulls, silent, flagged = [], [], [], 0, 0
    for _ in range(count):
        center, sigma = rng.uniform(8985.0, 9015.0), rng.uniform(3.0, 8.0)
        light = height * gaussian(X, center, sigma)
        found = process(detector.picture(light, rng), settings, workspace)
        error = np.array([found.center - center, found.fwhm / FWHM_PER_SIGMA - sigma])
        if found.status is not FitStatus.OK:
            flagged += 1
            continue
        silent += bool((np.abs(error) > 0.1 * sigma).any())
        bound = cramer_rao(X, height, center, sigma, detector.variance(light))[1:3]
        over.append(error / bound)
        wrong.append(error / (FWHM_PER_SIGMA * sigma))
        pulls.append(error / (found.center_error, found.fwhm_error / FWHM_PER_SIGMA))
    center_over, width_over = np.sqrt(np.mean(np.square(over), axis=0))
    center_pull, width_pull = np.sqrt(np.mean(np.square(pulls), axis=0))
    center_bias, width_bias = np.abs(np.mean(wrong, axis=0))
    return {
        "count": count,
        "center_over_bound": round(float(center_over), 3),
        "width_over_bound": round(float(width_over), 3),
        "center_bias_of_width": round(float(center_bias), 5),
        "width_bias_of_width": round(float(width_bias), 5),
        "center_pull": round(float(center_pull), 3),
        "width_pull": round(float(width_pull), 3),
        "flagged": flagged,
        "silent": silent,
    }


def check(found: dict[str, float], level: str) -> None:
    print(json.dumps({"name": f"psss_fit_{level}", **found}))
    assert found["center_over_bound"] <= 1.3
    assert found["width_over_bound"] <= 1.3
    assert found["center_bias_of_width"] < 0.01
    assert found["width_bias_of_width"] < 0.01
    assert found["silent"] == 0
    assert found["flagged"] <= 0.005 * found["count"]


def test_a_few_fits_reach_the_bound():
    check(score_pulses("middle", 60, seed=1), "middle")


@pytest.mark.accuracy
@pytest.mark.parametrize("level", LEVELS)
def test_fits_reach_the_bound(level):
    check(score_pulses(level, 2000, seed=2), level)


@pytest.mark.accuracy
@pytest.mark.parametrize("smoothing", ["savgol", "none"])
@pytest.mark.parametrize(("kind", "part"), [("smooth", 0.995), ("spiky", 0.97)])
def test_fits_are_the_settled_ones(kind, part, smoothing):
    found = score(kind, smoothing, count=600, seed=4)
    print(json.dumps({"name": f"psss_settled_{kind}_{smoothing}", "goal": part, **found}))
    assert found["within"] >= part
    assert found["silent"] == 0
