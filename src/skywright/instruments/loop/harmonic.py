"""Robust linear regression on a constant, a cosine and a sine, for one or more responses at once.

Other columns may go with them; they have priors.

A consensus of exact fits through triples finds the majority, whatever the rest does; iterated
reweighting (Tukey's biweight, scale by the median of the residuals) refines it. Deterministic.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TRIPLES = 400  # with 40 % outliers a fifth of them is clean
CANDIDATES = 4  # consensus fits of each scale that are refined
FINE, COARSE = 1.5, 4.5  # scales of the consensus, units
FEW = 16  # samples of which no majority is trimmed
TUKEY = 4.685  # 95 % efficiency for normal errors
TUKEY_LOSS = 1.16  # of normal errors: what the weights hide of the variance, and efficiency
LEAST, MOST = 0.5, 5.0  # scales are held within these units
GATE = 3.5  # residuals beyond this number of sigma are not counted as used


@dataclass(frozen=True)
class Harmonic:
    """Result of `fit_harmonic` for n samples and k responses, in the unit of the responses."""

    coefficients: Floats
    """(k, 3 + m) float64: constant, cosine, sine, and of the m other columns."""
    covariance: Floats
    """(k, 3 + m, 3 + m) float64: of the coefficients, residuals' correlation along the angle
    included."""
    sigma: Floats
    """(k,) float64: standard deviation of the used residuals."""
    weights: Floats
    """(n,) float64: Tukey weights of the last iteration, 0 where not used."""
    residuals: Floats
    """(n, k) float64."""


def fit_harmonic(
    angle_rad: Floats,
    responses: Floats,
    unit: float,
    *,
    prior_mean: Floats | None = None,
    prior_precision: Floats | None = None,
    gain: Floats | None = None,
    start: Floats | None = None,
    sample_sigma: float | None = None,
    more: Floats | None = None,
) -> Harmonic:
    """Fit responses by constant, cosine and sine of an angle; a sample is used for all or none.

    Parameters
    ----------
    angle_rad, responses : (n,), (n, k) float64
        Finite.
    unit
        Size of the usual error (one pixel); scales are held within 0.5 and 5 of it.
    prior_mean, prior_precision : (k, 3 + m) float64
        What is known of the coefficients beforehand; precision is 1 / sigma^2, 0 knows nothing.
    gain : (n,) float64
        Factor on the residual of each sample, for samples of unequal worth.
    start : (k, 3) or (k, 3 + m) float64
        Coefficients near the answer, which save the search for a majority; others begin at 0.
    sample_sigma
        Error of one sample that is assumed beforehand, and counts as one sample does; `unit` if it
        is not given.
    more : (n, m) float64
        Other columns of the design, after constant, cosine and sine.
    """
    n, k = responses.shape
    design = design_of(angle_rad, more)
    terms = design.shape[1]
    mean = np.zeros((k, terms)) if prior_mean is None else prior_mean
    precision = np.zeros((k, terms)) if prior_precision is None else prior_precision
    factor = np.ones(n) if gain is None else gain
    # Of one memory layout: kernels are compiled for each that they are given.
    x, y, mean, precision = map(
        np.ascontiguousarray,
        (design * factor[:, None], responses * factor[:, None], mean, precision),
    )
    # Triples are fitted by a circle; `_refine` fits the other columns too.
    if start is None:
        x3, mean3, precision3 = (np.ascontiguousarray(each[:, :3]) for each in (x, mean, precision))
        circles = _consensus(x3, y, mean3, precision3, _triples(n), unit, CANDIDATES)
    else:
        circles = start[None]
    starts = np.zeros((len(circles), k, design.shape[1]))
    starts[:, :, : circles.shape[2]] = circles
    coefficients, weights, scales = _refine(x, y, mean, precision, starts, unit)
    residuals = y - x @ coefficients.T
    covariance, sigma = _spread(angle_rad, x, residuals, weights, precision, sample_sigma or unit)
    return Harmonic(
        coefficients=coefficients,
        covariance=covariance,
        sigma=sigma,
        weights=np.where((np.abs(residuals) < GATE * scales).all(axis=1), weights, 0.0),
        residuals=residuals / factor[:, None],
    )


def design_of(angle_rad: Floats, more: Floats | None = None) -> Floats:
    """Return constant, cosine and sine of angles (n,), and `more` (n, m), as (n, 3 + m) float64."""
    basic = np.stack([np.ones_like(angle_rad), np.cos(angle_rad), np.sin(angle_rad)], axis=1)
    return basic if more is None else np.hstack([basic, more])


@lru_cache(maxsize=512)
def _triples(n: int) -> NDArray[np.int64]:
    """Return (m, 3) indices of different samples, all triples when they are few."""
    if n <= FEW:
        return np.array(list(combinations(range(n), 3)), np.int64).reshape(-1, 3)
    # A fixed seed: the answer to the same series is always the same.
    draw = np.random.default_rng(n).integers(0, n, (4 * TRIPLES, 3))
    distinct = (draw[:, 0] != draw[:, 1]) & (draw[:, 0] != draw[:, 2]) & (draw[:, 1] != draw[:, 2])
    return draw[distinct][:TRIPLES].copy()


@njit(cache=True)
def _solve(x, y, w, mean, ridge):  # type: ignore[no-untyped-def]
    """Weighted least squares of one response with a ridge; plain elimination."""
    terms = x.shape[1]
    m = np.zeros((terms, terms + 1))
    for i in range(len(y)):
        if w[i] > 0.0:
            for p in range(terms):
                for q in range(terms):
                    m[p, q] += w[i] * x[i, p] * x[i, q]
                m[p, terms] += w[i] * x[i, p] * y[i]
    trace = 0.0
    for p in range(terms):
        trace += m[p, p]
    for p in range(terms):
        # The last term keeps a singular set (one angle only) finite and changes no other.
        r = ridge[p] + 1e-12 * trace
        m[p, p] += r
        m[p, terms] += r * mean[p]
    for p in range(terms):
        for q in range(p + 1, terms):
            f = m[q, p] / m[p, p] if m[p, p] > 0.0 else 0.0
            for c in range(p, terms + 1):
                m[q, c] -= f * m[p, c]
    out = np.zeros(terms)
    for p in range(terms - 1, -1, -1):
        total = m[p, terms]
        for c in range(p + 1, terms):
            total -= m[p, c] * out[c]
        out[p] = total / m[p, p] if m[p, p] > 0.0 else 0.0
    return out


@njit(cache=True)
def _squares(x, y, coefficients, scale):  # type: ignore[no-untyped-def]
    """Return for each sample the sum of its squared residuals over all responses, in `scale`."""
    out = np.zeros(len(y))
    for k in range(y.shape[1]):
        c = coefficients[k]
        for i in range(len(y)):
            r = y[i, k]
            for p in range(x.shape[1]):
                r -= c[p] * x[i, p]
            out[i] += (r / scale) ** 2
    return out


@njit(cache=True)
def _consensus(x, y, mean, precision, triples, unit, keep):  # type: ignore[no-untyped-def]
    """Return the (2 keep, k, 3) exact fits through triples that most samples are near.

    A sample costs q / (1 + q), between 0 and 1 however far off (Geman-McClure), with q in two
    scales: a fine one tells circles apart that are near each other, a coarse one serves samples of
    large errors. The first is the plain fit, for few and good samples.
    """
    k = y.shape[1]
    everything = np.ones(len(y))
    trial = np.empty((k, 3))
    for r in range(k):
        trial[r] = _solve(x, y[:, r], everything, mean[r], precision[r] * unit * unit)
    best = np.full((2, keep), np.inf)
    best[0, 0] = -1.0
    out = np.zeros((2, keep, k, 3))
    out[:, :] = trial
    w, xs, ys = np.ones(3), np.empty((3, 3)), np.empty(3)
    for t in range(len(triples)):
        for j in range(3):
            xs[j] = x[triples[t, j]]
        for r in range(k):
            for j in range(3):
                ys[j] = y[triples[t, j], r]
            trial[r] = _solve(xs, ys, w, mean[r], precision[r] * unit * unit)
        square = _squares(x, y, trial, unit)
        for level in range(2):
            bend = FINE**2 if level == 0 else COARSE**2
            cost = 0.0
            for q in square:
                cost += q / (bend + q)
            worst = np.argmax(best[level])
            if cost < best[level, worst]:
                best[level, worst] = cost
                out[level, worst] = trial
    return out.reshape(2 * keep, k, 3)


@njit(cache=True)
def _scales(residuals, scales, unit):  # type: ignore[no-untyped-def]
    """Return the robust standard deviation of each response among samples within 3 of the last."""
    n, k = residuals.shape
    near = np.ones(n, np.bool_)
    for i in range(n):
        for r in range(k):
            near[i] &= abs(residuals[i, r]) < 3.0 * scales[r]
    count = near.sum()
    if count < 3:
        return np.full(k, MOST * unit)
    out = np.empty(k)
    small = np.sqrt(count / max(count - 3.0, 1.0))  # three coefficients were fitted
    for r in range(k):
        size = np.abs(residuals[:, r])
        # Half of what all samples say is right with 40 % outliers; without the bound the scale of
        # errors that are not normal shrinks step by step to a handful of them.
        mad = 1.4826 * small * max(np.median(size[near]), 0.5 * np.median(size))
        out[r] = min(max(mad, LEAST * unit), MOST * unit)
    return out


@njit(cache=True)
def _refine(x, y, mean, precision, starts, unit):  # type: ignore[no-untyped-def]
    """Reweight from each start; return coefficients, weights, scales of the closest.

    Closest to the majority: least trimmed squares. The sum over all, however bounded, would prefer
    a circle that passes between right tips and a run of wrong ones near them. Of few samples half
    is met by chance; there the bounded sum is the better judge.
    """
    n, k = y.shape
    majority = int(0.55 * n)
    lowest = np.inf
    best_coefficients = starts[0].copy()
    best_weights = np.ones(n)
    best_scales = np.full(k, unit)
    for s in range(len(starts)):
        coefficients = starts[s].copy()
        weights = np.ones(n)
        # Small at first, and it grows where errors are large: begun large, it would take in a run
        # of wrong samples near the right ones, and be held there. A few are not thinned like that.
        scales = np.full(k, (1.5 if n >= FEW else MOST) * unit)
        for _ in range(40):
            residuals = y - x @ coefficients.T
            scales = _scales(residuals, scales, unit)
            for i in range(n):
                weights[i] = 1.0
                for r in range(k):
                    u = residuals[i, r] / (TUKEY * scales[r])
                    weights[i] *= (1.0 - u * u) ** 2 if abs(u) < 1.0 else 0.0
            step = 0.0
            for r in range(k):
                ridge = precision[r] * scales[r] ** 2
                new = _solve(x, y[:, r], weights, mean[r], ridge)
                step = max(step, np.abs(new - coefficients[r]).max())
                coefficients[r] = new
            if step < 1e-5 * unit:
                break
        square = _squares(x, y, coefficients, unit)
        bounded = square / (9.0 + square)
        cost = bounded.sum() if n < FEW else np.sort(square)[:majority].sum()
        if cost < lowest:
            lowest = cost
            best_coefficients, best_weights, best_scales = coefficients, weights, scales
    return best_coefficients, best_weights, best_scales


def _spread(
    angle: Floats,
    x: Floats,
    residuals: Floats,
    weights: Floats,
    precision: Floats,
    unit: float,
) -> tuple[Floats, Floats]:
    """Return the covariance (k, 3 + m, 3 + m) and sigma (k,), for errors that last over some angle.

    Errors of a detector change slowly with the angle, so n samples are worth fewer: those of a
    first-order autoregression, n (1 - rho) / (1 + rho). One sample's worth of a prior (`unit`)
    keeps sigma honest where samples are few.
    """
    k, terms = residuals.shape[1], x.shape[1]
    total = max(float(weights.sum()), 1e-9)
    covariance, sigma = np.empty((k, terms, terms)), np.empty(k)
    order = np.argsort(angle, kind="stable")
    for r in range(k):
        loss = _correlation_loss(residuals[order, r], weights[order], unit)
        worth = total / loss
        free = max(worth - 3.0, 0.0)
        square = float(weights @ residuals[:, r] ** 2) / total
        # A fit takes away what its three coefficients explain; the factor gives it back.
        variance = (unit**2 + TUKEY_LOSS * worth * square) / (1.0 + free)
        sigma[r] = np.sqrt(variance)
        information = (x.T * weights) @ x / (loss * variance) + np.diag(precision[r])
        # What the samples say nothing about is left open by 10 000 units, not by infinity.
        covariance[r] = np.linalg.inv(information + np.eye(terms) * 1e-8 / unit**2)
    return covariance, sigma


def _correlation_loss(residuals: Floats, weights: Floats, unit: float) -> float:
    """Return by which factor correlation between neighbors lowers the worth of samples, >= 1."""
    r = residuals[weights > 0.05]
    if len(r) < 8:
        return 1.0
    # Below a tenth of a unit it is rounding; a fit of three coefficients makes rho look smaller.
    square = float(r @ r) + len(r) * (0.1 * unit) ** 2
    rho = float(r[1:] @ r[:-1]) / square + 4.0 / len(r)
    rho = min(max(rho, 0.0), 0.9)
    return (1.0 + rho) / (1.0 - rho)
