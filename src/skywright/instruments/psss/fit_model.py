"""Weighted least squares of offset + amplitude exp(-(x - center)^2 / 2 sigma^2).

Marquardt's way (J. SIAM 11 (1963) 431) in four parameters p = (amplitude, center, sigma, offset).
With u = (x - center) / sigma and g = exp(-u^2 / 2), the derivatives by amplitude, by center in
units of sigma / amplitude, by ln sigma in units of 1 / amplitude and by offset are g, g u, g u^2
and 1: so one pass over the columns makes fourteen sums, which hold the normal equations whole.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

AMPLITUDE, CENTER, SIGMA, OFFSET = 0, 1, 2, 3
SUMS = 14
G2 = 0
"""Sums of w g^2 u^k, k = 0..4, from here."""
G1 = 5
"""Sums of w g u^k, k = 0..2, from here."""
N = 8
"""Sum of w."""
RESIDUAL = 9
"""Sums of w r g u^k, k = 0..2, and of w r, from here; r = y - model."""
SQUARES = 13
"""Sum of w r^2."""

SUMMATION = {"reassoc", "nsz", "contract", "arcp"}
"""Sums may be made in vectors; NaN and infinities keep their meaning."""
LARGEST_DAMPING = 1e9


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMATION)
def exp_minus(t: float) -> float:
    """Return exp(-t) for t >= 0 to 2e-14; 2e-22 for t > 50. Unlike `exp` it becomes vectors."""
    z = (t if t < 50.0 else 50.0) * (-1.0 / 256.0)
    tail = 1.0 / 24.0 + z * (1.0 / 120.0 + z * (1.0 / 720.0 + z * (1.0 / 5040.0)))
    e = 1.0 + z * (1.0 + z * (0.5 + z * (1.0 / 6.0 + z * tail)))
    for _ in range(8):
        e = e * e
    return e


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMATION)
def normal_sums(x: Floats, y: Floats, w: Floats, p: Floats, sums: Floats) -> None:
    """Make the `SUMS` of (W,) `x`, `y` and weights `w` at the parameters `p`."""
    amplitude, center, inverse, offset = p[AMPLITUDE], p[CENTER], 1.0 / p[SIGMA], p[OFFSET]
    m0 = m1 = m2 = m3 = m4 = p0 = p1 = p2 = n = r0 = r1 = r2 = r3 = rr = 0.0
    for i in range(x.size):
        u = (x[i] - center) * inverse
        uu = u * u
        g = exp_minus(0.5 * uu)
        weight = w[i]
        r = y[i] - offset - amplitude * g
        wg, wr = weight * g, weight * r
        gg, rg = wg * g, wr * g
        m0 += gg
        m1 += gg * u
        m2 += gg * uu
        m3 += gg * uu * u
        m4 += gg * uu * uu
        p0 += wg
        p1 += wg * u
        p2 += wg * uu
        n += weight
        r0 += rg
        r1 += rg * u
        r2 += rg * uu
        r3 += wr
        rr += wr * r
    sums[0], sums[1], sums[2], sums[3], sums[4] = m0, m1, m2, m3, m4
    sums[5], sums[6], sums[7], sums[8] = p0, p1, p2, n
    sums[9], sums[10], sums[11], sums[12], sums[13] = r0, r1, r2, r3, rr


@njit(cache=True, nogil=True, error_model="numpy")
def fill_matrix(sums: Floats, matrix: Floats) -> None:
    """Lay the sums out as the (4, 4) matrix of the normal equations."""
    for i in range(3):
        for j in range(3):
            matrix[i, j] = sums[G2 + i + j]
        matrix[i, 3] = matrix[3, i] = sums[G1 + i]
    matrix[3, 3] = sums[N]


@njit(cache=True, nogil=True, error_model="numpy")
def solve(matrix: Floats, damping: float, right: Floats, step: Floats) -> bool:
    """Solve (matrix + damping diagonal) step = right by Cholesky; False if it is not positive."""
    lower = np.empty((4, 4))
    for i in range(4):
        for j in range(i + 1):
            value = matrix[i, j]
            if i == j:
                value *= 1.0 + damping
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i > j:
                lower[i, j] = value / lower[j, j]
            elif value > 1e-13 * matrix[i, i]:
                lower[i, i] = np.sqrt(value)
            else:
                return False
    for i in range(4):
        value = right[i]
        for k in range(i):
            value -= lower[i, k] * step[k]
        step[i] = value / lower[i, i]
    for i in range(3, -1, -1):
        value = step[i]
        for k in range(i + 1, 4):
            value -= lower[k, i] * step[k]
        step[i] = value / lower[i, i]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def minimize(
    x: Floats,
    y: Floats,
    w: Floats,
    p: Floats,
    narrowest: float,
    tolerance: float,
    most: int,
    sums: Floats,
) -> int:
    """Fit from the start `p`, which becomes the result; `sums` are left as at the result.

    Parameters
    ----------
    x, y, w
        (W,) float64 axis, values and weights.
    p
        (4,) float64, amplitude and sigma above 0.
    narrowest
        Sigma stays above it.
    tolerance
        The fit has converged when a step changes center and ln sigma by less, in units of sigma.
    most
        Evaluations.
    sums
        (SUMS,) float64.

    Returns
    -------
    int
        Number of evaluations; negative if the fit has not converged.
    """
    matrix, step, trial = np.empty((4, 4)), np.empty(4), p.copy()
    better = np.empty(SUMS)
    sums[:] = 0.0
    sums[SQUARES] = np.inf
    damping, small = 1e-2, False
    for made in range(1, most + 1):
        better[SQUARES] = np.inf
        if trial[AMPLITUDE] > 0.0:
            normal_sums(x, y, w, trial, better)
        if better[SQUARES] <= sums[SQUARES] and better[SQUARES] < np.inf:
            p[:] = trial
            sums[:] = better
            if small and damping <= 1e-2:
                return made
            damping = damping * 0.1 if damping > 1e-8 else 0.0
        elif small:  # nothing but rounding is left
            return made
        else:
            damping = max(damping, 1e-4) * 8.0
        fill_matrix(sums, matrix)
        while damping < LARGEST_DAMPING and not solve(
            matrix, damping, sums[RESIDUAL : RESIDUAL + 4], step
        ):
            damping = max(damping, 1e-6) * 10.0
        if not (damping < LARGEST_DAMPING and sums[SQUARES] < np.inf):
            return -made
        moved, widened = step[1] / p[AMPLITUDE], step[2] / p[AMPLITUDE]
        small = abs(moved) < tolerance and abs(widened) < tolerance
        trial[AMPLITUDE] = p[AMPLITUDE] + step[0]
        trial[CENTER] = p[CENTER] + p[SIGMA] * min(max(moved, -1.5), 1.5)
        trial[SIGMA] = max(p[SIGMA] * np.exp(min(max(widened, -0.7), 0.7)), narrowest)
        trial[OFFSET] = p[OFFSET] + step[3]
    return -most
