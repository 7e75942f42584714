"""Computes the figures of a spectrum: smoothing, direct figures, signal test, fit, status.

The parts are compiled. `analyze`, which calls them, is not: this would double the time of the
compilation and save a twentieth of the time of a spectrum.
"""

import math

import numpy as np
from numba import njit

from skywright.instruments.psss import fit
from skywright.instruments.psss.fit import (
    AMPLITUDE_ERROR,
    SIGNIFICANT,
    fit_gaussian,
    start_at_peak,
)
from skywright.instruments.psss.fit_model import (
    AMPLITUDE,
    CENTER,
    SIGMA,
    SQUARES,
    SUMS,
    Flags,
    Floats,
    minimize,
)
from skywright.instruments.psss.fit_robust import fit_robust
from skywright.instruments.psss.smoothing import smooth_into

OK, BAD_PIXELS, NO_SIGNAL, NOT_CONVERGED, OUT_OF_WINDOW, SATURATED, ONE_SPIKE = 0, 2, 3, 4, 5, 6, 10
"""Codes of `skywright.instruments.psss.processing.FitStatus`."""

COM, STD, QUANTILE_WIDTH, INTENSITY = range(fit.N_FIT_FIGURES, fit.N_FIT_FIGURES + 4)
N_FIGURES = fit.N_FIT_FIGURES + 4
FIGURE_NAMES = (
    "amplitude", "center", "sigma", "offset", "center_error", "sigma_error", "amplitude_error",
    "chi2", "quality", "steps", "weighted", "com", "std", "quantile_width", "intensity",
)  # fmt: skip
"""Names of the figures, in their order."""

FEWEST_COLUMNS = 8
BASELINE_BINS_MAX = 48
"""Noise lowers the mean of the darkest bins, and less so if they are wide. But in a spectrum that
fills the window, wider bins than these are not dark."""
QUANTILES = 0.119516, 0.880484
"""Parts of the area of a Gaussian that are below its two half maxima."""
FWHM = 2.354820045030949
"""2 sqrt(2 ln 2), in sigma."""
DOUBTFUL = 0.7
"""If a fit explains a smaller part of the variance than this, there may be other minima."""
RIVAL = 1.02
"""A fit is as good as another if its sum of squares is below this multiple of the other's."""
GREATEST = 1e100
"""Spectra with counts beyond this, or with a height below its inverse, are not analyzed: products
of such numbers overflow or underflow."""
EDGE = 0.5
"""A center nearer than this number of sigma to an end of the axis is at the edge."""


def analyze(
    x: Floats,
    raw: Floats,
    bright: Flags,
    half: Floats,
    ends: Floats,
    smoothed: bool,
    robust: bool,
    weighting: int,
    threshold: float,
    figures: Floats,
) -> int:
    """Compute all figures of a spectrum, and its status.

    Parameters
    ----------
    x, raw
        Axis and spectrum, (W,) float64.
    bright
        (W,) bool, columns with saturated pixels.
    half, ends
        The filter (`smoothing.filter_of`).
    smoothed, robust, weighting
        Settings of the fit: whether the spectrum is smoothed, whether the fit is robust, and the
        weighting (`fit.UNIFORM`, `NOISE` or `AUTO`).
    threshold
        Greatest maximum - minimum, counts, of a spectrum without signal.
    figures
        (N_FIGURES,) float64, all NaN; the function fills in the figures that are known.

    Returns
    -------
    int
        Code of the status.
    """
    y = raw
    if smoothed and not robust:
        y = np.empty_like(raw)
        smooth_into(raw, half, ends, y)
    height = measure_directly(x, y, raw, figures)
    if math.isnan(height):
        return BAD_PIXELS
    if not height > threshold or len(x) < FEWEST_COLUMNS:
        return NO_SIGNAL
    if robust:
        converged = fit_robust(x, raw, bright, figures)
    else:
        converged = fit_gaussian(x, y, raw, fit.UNIFORM if smoothed else weighting, figures)
    amplitude, center, sigma = figures[AMPLITUDE], figures[CENTER], figures[SIGMA]
    faint = converged and amplitude < SIGNIFICANT * figures[AMPLITUDE_ERROR]
    if faint or np.isnan(figures).any():
        figures[: fit.N_FIT_FIGURES] = np.nan
        return NO_SIGNAL
    if not converged:
        return NOT_CONVERGED
    low, high = sorted((x[0], x[-1]))
    if not low + EDGE * sigma <= center <= high - EDGE * sigma or FWHM * sigma > high - low:
        return OUT_OF_WINDOW
    if not robust and is_one_spike(x, y, figures):
        return ONE_SPIKE
    # A lone column is a hot pixel.
    return SATURATED if (bright[1:] & bright[:-1]).any() else OK


def is_one_spike(x: Floats, y: Floats, figures: Floats) -> bool:
    """Return whether a single spike was fitted, or a fit of it is almost as good.

    It is never so if the reduced chi-squared is below 2 or the quality is above `DOUBTFUL`.
    Spectra with strong spikes have several minima of the sum of squares.
    """
    sigma = float(figures[SIGMA])
    if figures[fit.CHI2] < 2.0 or figures[fit.QUALITY] > DOUBTFUL:
        return False
    if FWHM * sigma < 0.25 * figures[QUANTILE_WIDTH]:
        return True
    w, p, sums = np.ones(len(x)), np.empty(4), np.empty(SUMS)
    start_at_peak(x, y, w, float(y.min()), p)
    narrowest = 0.25 * abs(x[-1] - x[0]) / (len(x) - 1)
    steps = minimize(x, y, w, p, narrowest, fit.TOLERANCE, fit.STEPS_MAX, sums)
    squares = (1.0 - figures[fit.QUALITY]) * ((y - y.mean()) ** 2).sum()
    return bool(steps > 0 and p[SIGMA] < 0.5 * sigma and sums[SQUARES] < RIVAL * squares)


@njit(cache=True, nogil=True, error_model="numpy")
def measure_directly(x: Floats, y: Floats, raw: Floats, figures: Floats) -> float:
    """Fill in the figures of `y` that need no fit; return its maximum - minimum.

    Its baseline is that of `raw`, the spectrum before it is smoothed: beside a narrow peak the
    smoothed spectrum is below it. Without light, nothing is filled in and the returned value is 0.
    It is NaN if a value is not finite or beyond 1e100.
    """
    base = baseline(raw)
    origin = x[x.size // 2]
    total = first = second = 0.0
    highest, lowest = y[0], y[0]
    for i in range(x.size):
        highest, lowest = max(highest, y[i]), min(lowest, y[i])
        above, away = y[i] - base, x[i] - origin
        total += above
        first += above * away
        second += above * away * away
    if not (np.isfinite(total) and max(highest, -lowest) < GREATEST):
        return np.nan
    if not total > 0.0 or highest - lowest < 1.0 / GREATEST:
        return 0.0
    mean = first / total
    figures[COM] = origin + mean
    figures[STD] = np.sqrt(max(second / total - mean * mean, 0.0))
    figures[INTENSITY] = total
    left = crossing(x, y, base, QUANTILES[0] * total)
    figures[QUANTILE_WIDTH] = abs(crossing(x, y, base, QUANTILES[1] * total) - left)
    return highest - lowest


@njit(cache=True, nogil=True, error_model="numpy")
def baseline(y: Floats) -> float:
    """Return the mean of the darkest tenth of at most 48 bins of columns, counts.

    All bins have the same number of columns, but for the last one, which may have fewer.
    """
    size = (y.size + BASELINE_BINS_MAX - 1) // BASELINE_BINS_MAX
    count = (y.size + size - 1) // size
    bins = np.empty(count)
    for b in range(count):
        bins[b] = np.mean(y[b * size : (b + 1) * size])
    return float(np.mean(np.sort(bins)[: max(1, count // 10)]))


@njit(cache=True, nogil=True, error_model="numpy")
def crossing(x: Floats, y: Floats, base: float, level: float) -> float:
    """Return where the sum of y - base reaches `level`; a column's light lies around its x."""
    reached = 0.0
    for i in range(x.size):
        above = y[i] - base
        if reached + above >= level:
            pitch = x[min(i + 1, x.size - 1)] - x[max(i - 1, 0)]
            pitch = pitch if i in (0, x.size - 1) else 0.5 * pitch
            return x[i] + ((level - reached) / above - 0.5) * pitch
        reached += above
    return x[-1]
