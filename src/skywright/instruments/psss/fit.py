"""The Gaussian fit of a spectrum: start, least squares, noise, uncertainties.

The start of the fit comes from a fit of the spectrum in at most 96 bins, which takes a hundredth of
the time. If it explains the bins badly, up to two more begin at other places, and the best is
taken. A few evaluations over all columns then complete the fit.
"""

import numpy as np
from numba import njit

from skywright.instruments.psss.fit_model import (
    AMPLITUDE,
    CENTER,
    OFFSET,
    SIGMA,
    SQUARES,
    SUMMATION,
    SUMS,
    Floats,
    exp_minus,
    fill_matrix,
    minimize,
    solve,
)

UNIFORM, NOISE, AUTO = 0, 1, 2
"""Weighting of the columns: equal; by their noise; by their noise if the residuals of the equally
weighted fit are nothing but noise."""

CENTER_ERROR, SIGMA_ERROR, AMPLITUDE_ERROR, CHI2, QUALITY, STEPS, WEIGHTED = range(4, 11)
N_FIT_FIGURES = 11
"""Number of figures of the fit: the four parameters (`fit_model`), then these."""

BINS_MAX = 96
GOOD_START = 0.95
"""No further start is tried if a fit explains at least this part of the variance of the bins."""
FAR_BETTER = 0.5
"""A fit less than half as wide as the best one before replaces it only if its sum of squares is not
above this part of the other's."""
TOLERANCE = 1e-4
"""Tolerance of center and width, in sigma: a step that is smaller ends the fit."""
STEPS_MAX = 60
NOISE_ONLY = 1.3
"""Reduced chi-squared up to which the residuals of a fit count as noise only."""
CORRELATED = 1.5
"""The uncertainties include the long-range variance of the residuals if its ratio to the variance
of single columns is above this."""
FEWEST_DARK, FEWEST_BRIGHT = 32, 8
"""Least number of dark, and of bright, columns from which their noise is estimated. A peak of a
self-seeded pulse has few bright columns."""
SIGNIFICANT = 5.0
"""An amplitude below this multiple of its uncertainty is no signal."""


@njit(cache=True, nogil=True, error_model="numpy")
def fit_gaussian(x: Floats, y: Floats, raw: Floats, weighting: int, figures: Floats) -> bool:
    """Fit a Gaussian on an offset.

    Parameters
    ----------
    x
        (W,) float64, strictly rising or falling, W >= 5.
    y
        (W,) float64, what is fitted: the spectrum or the smoothed one.
    raw
        (W,) float64, the spectrum, from which the noise is estimated; `y` itself if not smoothed.
    weighting
        `UNIFORM`, `NOISE` or `AUTO`; `UNIFORM` if `y` is smoothed.
    figures
        (N_FIT_FIGURES,) float64, or longer; the function fills the first N_FIT_FIGURES.

    Returns
    -------
    bool
        Whether the fit has converged.
    """
    figures = figures[:N_FIT_FIGURES]
    w, noise = np.ones(x.size), np.empty(x.size)
    p, sums, kept = figures[:4], np.empty(SUMS), np.full(N_FIT_FIGURES, np.nan)
    narrowest = 0.25 * abs(x[-1] - x[0]) / (x.size - 1)
    find_start(x, y, w, False, p)
    made, weighted = 0, False
    # First from the start; if that fails, once from the peak; then, if wanted, once by the noise.
    for attempt in range(3):
        steps = minimize(x, y, w, p, narrowest, TOLERANCE, STEPS_MAX, sums)
        made += abs(steps)
        if steps < 0 and weighted:
            figures[:] = kept
            return True
        assess(x, y, raw, w, sums, weighted, noise, figures)
        figures[STEPS], figures[WEIGHTED] = made, 1.0 if weighted else 0.0
        if steps < 0 and attempt == 0:
            kept[:] = figures
            start_at_peak(x, y, w, float(np.min(y)), p)
            continue
        if steps < 0:
            if kept[QUALITY] > figures[QUALITY]:
                figures[:] = kept
            return False
        if weighted or weighting == UNIFORM:
            return True
        if weighting == AUTO and figures[CHI2] > NOISE_ONLY:
            return True
        kept[:] = figures
        w, weighted = 1.0 / noise, True
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def find_start(x: Floats, y: Floats, w: Floats, medians: bool, p: Floats) -> None:
    """Set `p` to where the full fit is to start; columns with weight 0 do not count."""
    size = (x.size + BINS_MAX - 1) // BINS_MAX
    count = (x.size + size - 1) // size
    bin_x, bin_y, bin_w = np.empty(count), np.empty(count), np.empty(count)
    gather(x, y, w, size, medians, bin_x, bin_y, bin_w)
    seen = np.sort(bin_y[bin_w > 0.0])
    base = float(np.mean(seen[: max(1, seen.size // 10)]))
    spread = np.sum(bin_w * (bin_y - np.sum(bin_w * bin_y) / np.sum(bin_w)) ** 2)
    pitch = abs(x[-1] - x[0]) / (x.size - 1) * size
    least, trial, sums = np.inf, np.empty(4), np.empty(SUMS)
    for kind in range(3):
        if kind == 0:
            start_by_moments(bin_x, bin_y, bin_w, base, trial)
        elif kind == 1:
            start_at_peak(bin_x, bin_y, bin_w, base, trial)
        else:
            trial[CENTER], trial[SIGMA] = 0.5 * (x[0] + x[-1]), 0.25 * abs(x[-1] - x[0])
            trial[AMPLITUDE], trial[OFFSET] = max(seen[-1] - base, 1e-300), base
        minimize(bin_x, bin_y, bin_w, trial, 0.3 * pitch, 1e-3, 40, sums)
        # A strong spike may have the least sum of squares, but the whole spectrum is wanted.
        spike = trial[SIGMA] < 0.5 * p[SIGMA] and sums[SQUARES] > FAR_BETTER * least
        if sums[SQUARES] < least and not spike:
            least = sums[SQUARES]
            p[:] = trial
        if least < (1.0 - GOOD_START) * spread:
            break
    if p[SIGMA] < 1.5 * pitch:
        # The bins cannot show so narrow a peak.
        start_at_peak(x, y, w, base, p)


@njit(cache=True, nogil=True, error_model="numpy")
def gather(
    x: Floats,
    y: Floats,
    w: Floats,
    size: int,
    medians: bool,
    bin_x: Floats,
    bin_y: Floats,
    bin_w: Floats,
) -> None:
    """Gather columns of weight 1 into bins of `size`: means (or medians), and their numbers."""
    for b in range(bin_x.size):
        first, stop = b * size, min((b + 1) * size, x.size)
        sum_x = sum_y = sum_w = 0.0
        for i in range(first, stop):
            sum_x += x[i]
            sum_y += w[i] * y[i]
            sum_w += w[i]
        bin_x[b], bin_w[b] = sum_x / (stop - first), sum_w
        bin_y[b] = sum_y / sum_w if sum_w > 0.0 else 0.0
        if medians and sum_w > 0.0:
            bin_y[b] = np.median(y[first:stop][w[first:stop] > 0.0])


@njit(cache=True, nogil=True, error_model="numpy")
def start_by_moments(x: Floats, y: Floats, w: Floats, base: float, p: Floats) -> None:
    """Start from mean and standard deviation of what is over a fifth of the height."""
    height = 0.0
    for i in range(x.size):
        if w[i] > 0.0:
            height = max(height, y[i] - base)
    total = first = second = 0.0
    origin = x[x.size // 2]
    for i in range(x.size):
        above = (y[i] - base) * w[i]
        if w[i] > 0.0 and y[i] - base > 0.2 * height:
            away = x[i] - origin
            total += above
            first += above * away
            second += above * away * away
    if not total > 0.0:
        total = 1e-300
    mean = first / total
    spread = abs(x[-1] - x[0]) / max(x.size - 1, 1)
    p[AMPLITUDE], p[OFFSET] = max(height, 1e-300), base
    p[CENTER] = origin + mean
    # What was cut off below a fifth makes the standard deviation of a Gaussian 0.82 of its sigma.
    p[SIGMA] = max(np.sqrt(max(second / total - mean * mean, 0.0)) / 0.82, 0.5 * spread)


@njit(cache=True, nogil=True, error_model="numpy")
def start_at_peak(x: Floats, y: Floats, w: Floats, base: float, p: Floats) -> None:
    """Start at the highest value, as wide as it is at half its height."""
    peak = -1
    for i in range(x.size):
        if w[i] > 0.0 and (peak < 0 or y[i] > y[peak]):
            peak = i
    peak = max(peak, 0)
    half = base + 0.5 * (y[peak] - base)
    left = right = peak
    while left > 0 and (y[left] > half or w[left] == 0.0):
        left -= 1
    while right < x.size - 1 and (y[right] > half or w[right] == 0.0):
        right += 1
    p[AMPLITUDE], p[OFFSET] = max(y[peak] - base, 1e-300), base
    p[CENTER] = x[peak]
    p[SIGMA] = max(abs(x[right] - x[left]), abs(x[-1] - x[0]) / x.size) / 2.3548


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMATION)
def residuals(
    x: Floats, y: Floats, raw: Floats, w: Floats, p: Floats, g: Floats, r: Floats
) -> float:
    """Fill (W,) `g` = exp(-u^2 / 2) and `r` = raw - model; return quality, 1 - SSR / SST of `y`.

    Columns of weight 0 do not count; their residual is 0.
    """
    inverse = 1.0 / p[SIGMA]
    total = counted = 0.0
    for i in range(x.size):
        seen = 1.0 if w[i] > 0.0 else 0.0
        total += seen * y[i]
        counted += seen
    mean = total / counted
    left = spread = 0.0
    for i in range(x.size):
        seen = 1.0 if w[i] > 0.0 else 0.0
        u = (x[i] - p[CENTER]) * inverse
        g[i] = exp_minus(0.5 * u * u)
        model = p[OFFSET] + p[AMPLITUDE] * g[i]
        r[i] = seen * (raw[i] - model)
        left += seen * (y[i] - model) ** 2
        spread += seen * (y[i] - mean) ** 2
    return 1.0 - left / spread if spread > 0.0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMATION)
def noise_model(g: Floats, r: Floats, amplitude: float) -> tuple[float, float]:
    """Return (a, b): the variance of a column is a + b g, from second differences of `r`.

    Second differences remove what is smooth, so misfits of the model hardly count.
    """
    dark = dark_g = dim = dim_g = high = high_g = 0.0
    n_dark = n_high = 0
    for i in range(1, r.size - 1):
        d = r[i - 1] - 2.0 * r[i] + r[i + 1]
        is_dark = 1.0 if g[i] < 0.02 else 0.0
        is_high = 1.0 if g[i] > 0.25 else 0.0
        is_dim = 1.0 - is_dark - is_high
        n_dark += int(is_dark)
        n_high += int(is_high)
        dark += is_dark * d * d
        dark_g += is_dark * g[i]
        dim += is_dim * d * d
        dim_g += is_dim * g[i]
        high += is_high * d * d
        high_g += is_high * g[i]
    n = max(r.size - 2, 1)
    whole = max((dark + dim + high) / (6.0 * n), (1e-7 * amplitude) ** 2)
    if n_dark < FEWEST_DARK:
        dark, dark_g, n_dark = dark + dim, dark_g + dim_g, n - n_high
    if n_dark < FEWEST_DARK or n_high < FEWEST_BRIGHT:
        return whole, 0.0
    mean_dark, mean_high = dark / (6.0 * n_dark), high / (6.0 * n_high)
    g_dark, g_high = dark_g / n_dark, high_g / n_high
    slope = (mean_high - mean_dark) / (g_high - g_dark)
    if slope <= 0.0:
        return whole, 0.0
    return max(mean_dark - slope * g_dark, 0.02 * mean_dark, 1e-3 * whole), slope


@njit(cache=True, nogil=True, error_model="numpy")
def assess(
    x: Floats,
    y: Floats,
    raw: Floats,
    w: Floats,
    sums: Floats,
    weighted: bool,
    noise: Floats,
    figures: Floats,
) -> None:
    """Fill in noise, chi-squared, quality and uncertainties of the fit with the `sums`.

    Covariance: of weights 1 / noise, the inverse of the normal matrix; of others the sandwich with
    the noise. What the fit cannot follow (SASE spikes) is noise too, correlated over some columns:
    the root of its ratio to the noise of a column scales the errors of center and sigma.
    """
    g, r = np.empty(x.size), np.empty(x.size)
    p = figures[:4]
    figures[QUALITY] = residuals(x, y, raw, w, p, g, r)
    constant, slope = noise_model(g, r, p[AMPLITUDE])
    matrix, meat = np.empty((4, 4)), np.zeros((4, 4))
    fill_matrix(sums, matrix)
    chi2, ratio = spread_of(x, p, w, g, r, constant, slope, noise, meat)
    figures[CHI2] = chi2
    variance = np.empty((4, 4))
    known = sandwich(matrix, meat, weighted, variance)
    if not (known and variance[0, 0] > 0.0 and variance[1, 1] > 0.0 and variance[2, 2] > 0.0):
        figures[CENTER_ERROR] = figures[SIGMA_ERROR] = figures[AMPLITUDE_ERROR] = np.inf
        return
    inflation = np.sqrt(ratio) if ratio > CORRELATED else 1.0
    figures[AMPLITUDE_ERROR] = np.sqrt(variance[0, 0])
    scale = inflation * p[SIGMA] / p[AMPLITUDE]
    figures[CENTER_ERROR] = np.sqrt(variance[1, 1]) * scale
    figures[SIGMA_ERROR] = np.sqrt(variance[2, 2]) * scale


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMATION)
def spread_of(
    x: Floats,
    p: Floats,
    w: Floats,
    g: Floats,
    r: Floats,
    constant: float,
    slope: float,
    noise: Floats,
    meat: Floats,
) -> tuple[float, float]:
    """Fill `noise` and the noise of the normal equations; return chi-squared and long-range ratio.

    The ratio: variance of the residuals' sums over blocks of columns, against that of the noise.
    """
    inverse = 1.0 / p[SIGMA]
    m0 = m1 = m2 = m3 = m4 = p0 = p1 = p2 = n = chi2 = core = 0.0
    for i in range(x.size):
        u = (x[i] - p[CENTER]) * inverse
        v = constant + slope * g[i]
        noise[i] = v
        q = v * w[i] * w[i]
        qg = q * g[i]
        gg = qg * g[i]
        uu = u * u
        m0 += gg
        m1 += gg * u
        m2 += gg * uu
        m3 += gg * uu * u
        m4 += gg * uu * uu
        p0 += qg
        p1 += qg * u
        p2 += qg * uu
        n += q
        counted = 1.0 if w[i] > 0.0 else 0.0
        chi2 += counted * r[i] * r[i] / v
        core += counted
    meat[0, 0], meat[0, 1], meat[0, 2], meat[1, 2], meat[2, 2] = m0, m1, m2, m3, m4
    meat[1, 0], meat[1, 1], meat[2, 0], meat[2, 1] = m1, m2, m2, m3
    meat[0, 3], meat[1, 3], meat[2, 3], meat[3, 3] = p0, p1, p2, n
    meat[3, 0], meat[3, 1], meat[3, 2] = p0, p1, p2
    return chi2 / max(core - 4.0, 1.0), long_range(w, g, r, noise)


@njit(cache=True, nogil=True, error_model="numpy")
def long_range(w: Floats, g: Floats, r: Floats, noise: Floats) -> float:
    """Return the variance of sums of residuals over blocks of the peak, against the noise's."""
    block = min(max(int(np.sum(g > 0.05)) // 32, 4), 32)
    squares = expected = 0.0
    for first in range(0, g.size - block + 1, block):
        if g[first] > 0.05:
            total = 0.0
            for i in range(first, first + block):
                if w[i] > 0.0:
                    total += r[i]
                    expected += noise[i]
            squares += total * total
    return squares / expected if expected > 0.0 else 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def sandwich(matrix: Floats, meat: Floats, weighted: bool, variance: Floats) -> bool:
    """Fill (4, 4) `variance` with matrix^-1 (meat matrix^-1); False if it cannot be inverted."""
    inverse, units = np.empty((4, 4)), np.eye(4)
    for i in range(4):
        if not solve(matrix, 0.0, units[i], inverse[i]):
            return False
    variance[:] = inverse if weighted else inverse @ meat @ inverse
    return True
