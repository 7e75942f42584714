"""Where the effect of the laser begins: a step with a finite rise, fitted to points of a scan."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit
from scipy.special import chdtrc, erf

from skywright.errors import DataError

POINTS_MIN = 5
"""Least number of points of a scan that the step is fitted to."""
LARGEST_CHANCE = 1e-3
"""Probability that noise alone looks as much like a step: beyond it there is no time zero."""
STEP_PARAMETERS = 4
RISE_WIDTHS = 2.0
"""The rise is within this number of widths from its middle: 99.5 % of the step."""


@dataclass(frozen=True)
class TimeZero:
    """The fitted step.

    Parameters
    ----------
    uid
        Of the run.
    delay_ps, delay_error_ps
        Of the middle of the rise, with its standard error.
    width_ps, width_error_ps
        The rise is ``(1 + erf((delay - middle) / width)) / 2``.
    height, height_error
        Of the step, as a part of the mean without laser.
    chi2_per_dof
        Of the fit; about 1 if the errors of the points are right.
    """

    uid: str
    delay_ps: float
    delay_error_ps: float
    width_ps: float
    width_error_ps: float
    height: float
    height_error: float
    chi2_per_dof: float


def step(
    delay: NDArray[np.float64], middle: float, width: float, height: float, base: float
) -> NDArray[np.float64]:
    """Return a step with a finite rise.

    Parameters
    ----------
    delay
        (n,) ps.
    middle, width
        Of the rise, ps.
    height, base
        Of the step; value before it.
    """
    rise: NDArray[np.float64] = base + height * 0.5 * (1 + erf((delay - middle) / width))
    return rise


def fit_time_zero(
    uid: str,
    delay: NDArray[np.float64],
    diff: NDArray[np.float64],
    error: NDArray[np.float64],
) -> TimeZero:
    """Fit a step to the points of a scan.

    Parameters
    ----------
    uid
        Of the run.
    delay, diff, error
        (n,): delay in ps, value, and its standard error. Points that are not finite are left out.

    Raises
    ------
    DataError
        If there are too few points, or no step that is clear of the noise.

    Notes
    -----
    If no point lies in the rise, time zero is the middle between the two points around it, and its
    error is that of an even distribution between them. The width is then unknown: its error is
    much larger than the scan.
    """
    good = np.isfinite(delay) & np.isfinite(diff) & np.isfinite(error) & (error > 0)
    x, y, sigma = delay[good], diff[good], error[good]
    if len(x) < POINTS_MIN:
        raise DataError(f"time zero: {len(x)} points with a value, expected at least {POINTS_MIN}")
    order = np.argsort(x)
    x, y, sigma = x[order], y[order], sigma[order]
    span, spacing = x[-1] - x[0], float(np.median(np.diff(x)))
    quarter = max(len(x) // 4, 1)
    base, top = float(y[:quarter].mean()), float(y[-quarter:].mean())
    half = (base + top) / 2
    crossing = x[int(np.argmin(np.abs(y - half)))]
    try:
        found, covariance = curve_fit(
            step,
            x,
            y,
            p0=(float(crossing), max(spacing, span / 20), top - base, base),
            sigma=sigma,
            absolute_sigma=True,
            bounds=([x[0], spacing / 10, -np.inf, -np.inf], [x[-1], span, np.inf, np.inf]),
        )
    except (RuntimeError, ValueError) as reason:
        raise DataError(f"time zero: no step fits the points ({reason})") from reason
    errors = np.sqrt(np.diag(covariance))
    middle, width, height, _ = found.tolist()
    chi2 = float((((y - step(x, *found)) / sigma) ** 2).sum())
    # Not by the error of the height: with a slow rise that one is large though the step is clear.
    flat = float(np.average(y, weights=sigma**-2))
    gain = float((((y - flat) / sigma) ** 2).sum()) - chi2
    chance = float(chdtrc(STEP_PARAMETERS - 1, max(gain, 0.0)))
    if not chance < LARGEST_CHANCE:
        raise DataError(
            f"time zero: no step above the noise: height {height:.3g} +- {errors[2]:.3g}, noise "
            f"alone looks like it in {chance:.1%} of scans"
        )
    delay_error = float(errors[0])
    if not (np.abs(x - middle) < RISE_WIDTHS * width).any():
        # The points tell only between which two of them the rise is.
        before, after = x[x < middle][-1], x[x > middle][0]
        middle, delay_error = float((before + after) / 2), float((after - before) / sqrt(12))
    return TimeZero(
        uid,
        middle,
        delay_error,
        width,
        float(errors[1]),
        height,
        float(errors[2]),
        chi2 / max(len(x) - STEP_PARAMETERS, 1),
    )
