"""The converged least-squares fit, by scipy from the true values, to score ours against."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from pulse_spectra import Detector, energy_axis, gaussian, sase
from scipy.optimize import curve_fit
from scipy.signal import savgol_filter

from skywright.instruments.psss.fit_chain import FIGURE_NAMES, N_FIGURES, analyze
from skywright.instruments.psss.processing import FWHM_PER_SIGMA, FitStatus
from skywright.instruments.psss.smoothing import filter_of

Array = NDArray[np.float64]
ROWS = 200


def model(x: Array, offset: float, amplitude: float, center: float, sigma: float) -> Array:
    return offset + amplitude * gaussian(x, center, sigma)


def slopes(x: Array, offset: float, amplitude: float, center: float, sigma: float) -> Array:
    u = (x - center) / sigma
    g = np.exp(-0.5 * u * u)
    both = amplitude * g / sigma
    return np.stack([np.ones_like(x), g, both * u, both * u * u], axis=1)


def converged_fit(x: Array, y: Array, center: float, sigma: float) -> tuple[float, float]:
    """Return center and FWHM of the fit from the true values, run until it settles.

    Under strong spikes least squares have several minima, some of a single spike: this is the one
    of the envelope.
    """
    with suppress(RuntimeError):
        guess = [np.min(y), 0.5 * np.ptp(y), center, sigma]
        found, _ = curve_fit(model, x, y, p0=guess, jac=slopes, maxfev=2000)
        return found[2], abs(found[3]) * FWHM_PER_SIGMA
    return np.nan, np.nan


def pulses(kind: str, count: int, seed: int) -> Iterator[tuple[Array, Array, float, float]]:
    """Yield (axis, spectrum, center, sigma), over a wide range of brightness and width."""
    rng = np.random.default_rng(seed)
    x = energy_axis()
    for _ in range(count):
        center, sigma = rng.uniform(8980.0, 9020.0), rng.uniform(2.0, 11.5)
        shape = gaussian(x, center, sigma)
        if kind == "spiky":
            shape = sase(x, rng, center, sigma, rng.uniform(15.0, 40.0))
        light = 10 ** rng.uniform(3.7, 5.3) * shape
        noise = np.sqrt(Detector(rows=ROWS, read_noise=rng.uniform(1.0, 6.0)).variance(light))
        lifted = light + noise * rng.normal(size=len(x)) + ROWS * rng.uniform(0.0, 16.0)
        yield x, np.round(lifted), center, sigma


def score(kind: str, smoothing: str, count: int, seed: int) -> dict[str, float]:
    """Return the part of fits within 2 % of the converged one, and how many others have no flag."""
    within = silent = 0
    for x, raw, center, sigma in pulses(kind, count, seed):
        figures = np.full(N_FIGURES, np.nan)
        bright = np.zeros(len(x), np.bool_)
        smoothed = smoothing == "savgol"
        code = analyze(x, raw, bright, *filter_of(len(x)), smoothed, False, 0, 1.5 * ROWS, figures)
        found = dict(zip(FIGURE_NAMES, figures, strict=True))
        y = savgol_filter(raw, 51, 3) if smoothed else raw
        best_center, best_fwhm = converged_fit(x, y, center, sigma)
        near = (
            abs(found["center"] - best_center) < 0.02 * best_fwhm
            and abs(found["sigma"] * FWHM_PER_SIGMA / best_fwhm - 1) < 0.02
        )
        within += bool(near)
        silent += not near and FitStatus(code) is FitStatus.OK
    return {"within": within / count, "silent": silent, "count": count}
