"""Computes the next position to measure in the search for the best position of one motor.

First come the points of an even grid between the limits. Then come positions around the best point,
which improve a parabola through the points within one and a half steps of the grid, until its
vertex is known and does not move any more. The functions depend on their arguments only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOISE_TIMES = 4.0
"""Best and worst of the grid must differ by more than this multiple of their noise."""
ARM = 0.7
"""Distance of the points on both sides of the vertex that narrow it down, in steps of the grid."""


@dataclass(frozen=True)
class Measured:
    """The value at a position and its standard deviation; NaN: there is no value."""

    position: float
    value: float
    sigma: float


@dataclass(frozen=True)
class Search:
    """The parameters of a search.

    Parameters
    ----------
    low, high
        Limits of the position.
    num
        Number of points of the grid, at least 4.
    tolerance
        Largest standard deviation of the best position.
    max_points
        Maximum number of points, grid included.
    maximum
        True: the greatest value is the best one; False: the least.
    """

    low: float
    high: float
    num: int
    tolerance: float
    max_points: int
    maximum: bool

    @property
    def step(self) -> float:
        """Step of the grid."""
        return (self.high - self.low) / (self.num - 1)


@dataclass(frozen=True)
class Verdict:
    """The end of a search: the best position, or the reason why it is not known."""

    position: float
    sigma: float
    why: str = ""


def propose(search: Search, seen: Sequence[Measured]) -> float | Verdict:
    """Return the next position to measure, or the end of the search.

    Parameters
    ----------
    search
        Parameters of the search.
    seen
        All values measured so far, in their order.
    """
    if len(seen) < search.num:
        return float(np.linspace(search.low, search.high, search.num)[len(seen)])
    good = [each for each in seen if math.isfinite(each.value)]
    trouble = _trouble(search, good, len(seen))
    if trouble:
        return Verdict(math.nan, math.nan, trouble)
    vertex, sigma = _vertex(search, good)
    if math.isnan(vertex):
        if len(seen) >= search.max_points:
            why = "around the best point the values do not fall off to both sides"
            return Verdict(math.nan, math.nan, f"{why}, after {len(seen)} points")
        best = _best(search, good).position
        return _inside(search, best + ARM * search.step * (1.0 if len(seen) % 2 else -1.0))
    before, _ = _vertex(search, good[:-1]) if len(good) > search.num else (math.nan, math.nan)
    if sigma <= search.tolerance and abs(vertex - before) <= search.tolerance:
        return Verdict(vertex, sigma)
    if len(seen) >= search.max_points:
        return Verdict(
            vertex,
            sigma,
            f"after {len(seen)} points the best position is known to {sigma:.3g}, "
            f"{search.tolerance:.3g} is wanted: more pulses or points, or a larger tolerance",
        )
    # First at the vertex; then on both sides of it, where a value improves the vertex most
    extra = len(seen) - search.num
    side = (0.0, ARM, -ARM)[extra % 3]
    return _inside(search, vertex + side * search.step)


def _trouble(search: Search, good: Sequence[Measured], count: int) -> str:
    """Return the reason why the search cannot go on; empty if it can."""
    if len(good) < 4:
        return f"only {len(good)} of {count} points have spectra with a good fit"
    values = np.array([each.value for each in good[: search.num]])
    noise = float(np.median([each.sigma for each in good[: search.num]]))
    spread = float(np.ptp(values))
    if math.isfinite(noise) and spread < NOISE_TIMES * noise:
        return (
            f"no optimum to be seen: the values differ by {spread:.3g}, each is known to "
            f"{noise:.3g}; more pulses, or a wider range"
        )
    best = _best(search, good).position
    for border, name in ((search.low, "lower"), (search.high, "upper")):
        if abs(best - border) < 0.25 * search.step:
            return f"the best point is at the {name} limit, {border:g}; shift the range"
    return ""


def _best(search: Search, good: Sequence[Measured]) -> Measured:
    sign = -1.0 if search.maximum else 1.0
    return min(good, key=lambda each: sign * each.value)


def _vertex(search: Search, good: Sequence[Measured]) -> tuple[float, float]:
    """Return the vertex of the parabola around the best point and its sigma; NaN if it has none.

    A vertex outside the range of these points does not count, because the values do not fall off to
    both sides of it. The sigma comes from the errors of the values, or from the residuals if these
    are larger.
    """
    middle = _best(search, good).position
    near = [each for each in good if abs(each.position - middle) <= 1.5 * search.step]
    if len({each.position for each in near}) < 3:
        return math.nan, math.nan
    x = np.array([each.position for each in near]) - middle
    y = np.array([each.value for each in near]) * (-1.0 if search.maximum else 1.0)
    errors = np.array([each.sigma for each in near])
    known = np.isfinite(errors) & (errors > 0.0)
    typical = float(np.median(errors[known])) if known.any() else 1.0
    errors = np.where(known, errors, typical)
    design = np.stack([x**2, x, np.ones_like(x)], axis=1) / errors[:, None]
    solved, *_ = np.linalg.lstsq(design, y / errors, rcond=None)
    a, b, _ = solved
    vertex = -b / (2.0 * a) if a > 0.0 else math.nan
    if not x.min() < vertex < x.max():
        return math.nan, math.nan
    covariance: NDArray[np.float64] = np.linalg.pinv(design.T @ design)
    if len(near) > 3:
        residuals = y / errors - design @ solved
        scale = float(residuals @ residuals) / (len(near) - 3)
        covariance = covariance * (max(scale, 1.0) if known.any() else scale)
    gradient = np.array([-vertex / a, -0.5 / a, 0.0])
    return float(middle + vertex), float(np.sqrt(gradient @ covariance @ gradient))


def _inside(search: Search, position: float) -> float:
    return min(max(position, search.low), search.high)
