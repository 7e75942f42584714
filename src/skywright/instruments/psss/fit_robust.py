"""The robust fit: a Gaussian on which spikes and saturated columns have little effect.

Weights that are computed again for each round of the fit minimize Huber's loss (Ann. Math. Stat. 35
(1964) 73); columns with the largest residuals get the weight 0. The scale of the residuals is the
median of their sizes, one in the peak and one beside it: the spikes of a SASE pulse are the noise
of its peak.
"""

import numpy as np
from numba import njit

from skywright.instruments.psss.fit import STEPS, STEPS_MAX, TOLERANCE, WEIGHTED, assess, find_start
from skywright.instruments.psss.fit_model import (
    AMPLITUDE,
    CENTER,
    OFFSET,
    SIGMA,
    SUMS,
    Flags,
    Floats,
    exp_minus,
    minimize,
)

HUBER = 1.345
"""Limit of Huber's loss, in standard deviations: 95 % efficiency for normal noise."""
REJECTED = 10.0
"""Columns with residuals beyond this number of standard deviations get the weight 0."""
SCALES = 5
"""Number of rounds that compute the scales again; then they stay, so that the fit can converge."""
ROUNDS_MAX = 40


def fit_robust(x: Floats, raw: Floats, left_out: Flags, figures: Floats) -> bool:
    """Fit a Gaussian on an offset; return whether the fit has converged.

    The arguments are those of `fit.fit_gaussian`. `left_out`, (W,) bool, marks columns that are not
    used.
    """
    usable = np.where(left_out, 0.0, 1.0)
    figures[WEIGHTED] = 0.0
    if usable.sum() < 8.0:
        usable[:] = 1.0
    w, sums, p = usable.copy(), np.empty(SUMS), figures[:4]
    narrowest = 0.25 * abs(x[-1] - x[0]) / (x.size - 1)
    find_start(x, raw, usable, True, p)
    scales, before, steps = np.zeros(2), np.empty(4), 0
    converged = False
    for made in range(ROUNDS_MAX):
        weigh(x, raw, usable, p, made < SCALES, scales, w)
        before[:] = p
        last = minimize(x, raw, w, p, narrowest, TOLERANCE, STEPS_MAX, sums)
        steps += abs(last)
        moved = abs(p[CENTER] - before[CENTER]) / p[SIGMA]
        widened = abs(p[SIGMA] / before[SIGMA] - 1.0)
        if last < 0:
            break
        if made >= SCALES and moved < 1e-3 and widened < 1e-3:
            converged = True
            break
    assess(x, raw, raw, w, sums, False, np.empty(x.size), figures)
    figures[STEPS] = steps
    return converged


@njit(cache=True, nogil=True, error_model="numpy")
def weigh(
    x: Floats, y: Floats, usable: Floats, p: Floats, again: bool, scales: Floats, w: Floats
) -> None:
    """Set the weights `w` by the residuals at `p`, and find (2,) `scales` first if `again`."""
    sizes, in_peak = np.empty(x.size), np.empty(x.size, np.bool_)
    for i in range(x.size):
        u = (x[i] - p[CENTER]) / p[SIGMA]
        g = exp_minus(0.5 * u * u)
        sizes[i] = abs(y[i] - p[OFFSET] - p[AMPLITUDE] * g)
        in_peak[i] = g > 0.1
    if again:
        seen = usable > 0.0
        floor = 1e-9 * p[AMPLITUDE]
        both = np.median(sizes[seen])
        for part in range(2):
            chosen = sizes[seen & (in_peak == (part == 1))]
            median = np.median(chosen) if chosen.size >= 16 else both
            scales[part] = max(1.4826 * median, floor)
    for i in range(x.size):
        size = sizes[i] / scales[1 if in_peak[i] else 0]
        if size <= HUBER:
            w[i] = usable[i]
        elif size <= REJECTED:
            w[i] = usable[i] * HUBER / size
        else:
            w[i] = 0.0
