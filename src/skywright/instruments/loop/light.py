"""Background light from cell means: what of a picture is light, and a smooth surface through it."""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

DEGREES = (1, 2, 3, 4, 4)  # of the polynomial for vignette, gradient and glow, one after the other
RIDGE = 1e-3  # for each cell, on all terms but the constant
RIVAL = 0.3  # of the largest region's votes: another one may be the light as well
LAMP = 1.5  # times as bright as what it shines on from behind


def fit_light(
    means: NDArray[np.float64], roughness: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Fit the light through the cells that are background.

    The first guess is the largest smoothly connected region of flat cells, counted with weight on
    the frame's border: a mount leaves most of the border free, whatever it hides of the middle. Of
    two that share the picture it is the much brighter one, unless that is much rougher.
    Then a polynomial is fitted and cells near it join, degree 1, 2, ... ; what is left of slow
    misfit is taken from the cells around (normalized convolution).

    Parameters
    ----------
    means, roughness : (rows, columns) float64
        Mean grey level and mean absolute first difference in each cell.

    Returns
    -------
    light : (rows, columns) float64
        Grey level of the background at the cell centers.
    scatter
        Robust scatter of the cells about the polynomial, grey levels, at least 0.5.
    """
    rows, columns = means.shape
    spread = quantile(means, 0.95) - quantile(means, 0.05)
    # Saturated cells are perfectly flat and say nothing on how rough the others may be.
    live = roughness > 0.1
    usual = quantile(roughness[live], 0.3) if live.any() else 0.0
    flat = roughness <= 2.0 * usual + 0.5
    region = _light_region(means, roughness, flat, 2.0 + 0.05 * spread)
    basis = _polynomials(rows, columns)
    left, chosen, scatter = _fit(means.ravel(), flat.ravel(), region.ravel(), basis)
    residual, chosen = left.reshape(means.shape), chosen.reshape(means.shape)
    light = means - residual
    light += _spread(np.where(chosen, residual, 0.0), chosen.astype(np.float64))
    return light, scatter


@njit(cache=True, fastmath={"reassoc", "contract"})
def _fit(
    means: NDArray[np.float64],
    flat: NDArray[np.bool_],
    region: NDArray[np.bool_],
    basis: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Fit polynomials of growing degree; what they leave, cells they were fitted to, scatter."""
    cells = len(means)
    chosen, residual, scale = region, means.copy(), 1.0
    some = np.empty(cells)
    for degree in DEGREES:
        terms = (degree + 1) * (degree + 2) // 2
        normal, right = np.zeros((terms, terms)), np.zeros(terms)
        for a in range(terms):
            for k in range(cells):
                some[k] = basis[a, k] if chosen[k] else 0.0
            for k in range(cells):
                right[a] += some[k] * means[k]
            for b in range(a + 1):
                term, total = basis[b], 0.0
                for k in range(cells):
                    total += some[k] * term[k]
                normal[a, b] = normal[b, a] = total
        for a in range(1, terms):
            normal[a, a] += RIDGE * chosen.sum()
        coefficients = np.linalg.solve(normal, right)
        residual[:] = means
        for a in range(terms):
            term, much = basis[a], coefficients[a]
            for k in range(cells):
                residual[k] -= much * term[k]
        size = np.abs(residual)
        scale = max(1.4826 * _quantile(size[chosen], 0.5), 0.5)
        # A tenth of the region may be strayed into; a kink of the light (saturation) is more.
        bound = max(4.0 * scale, 3.0, 1.2 * _quantile(size[region], 0.9))
        new = flat & (size < bound)
        if new.sum() < 0.1 * cells:
            break
        chosen = new
    return residual, chosen, scale


@njit(cache=True)
def median(values: NDArray[np.float64]) -> float:
    """Return what `numpy.median` does, which is twenty times slower on arrays this small."""
    return np.median(values)


def quantile(values: NDArray, part: float) -> float:
    """Return the value below which a part (0..1) of the values lies, without interpolation.

    `numpy.percentile` is ten times slower on arrays this small.
    """
    return _quantile(values.astype(np.float64).ravel(), part)


@njit(cache=True)
def spread_over_median(values: NDArray) -> float:
    """Return the 10th to 90th percentile of (n,) values over their median, 1 at least."""
    ordered, last = np.sort(values), len(values) - 1
    low, middle, high = (
        ordered[round(0.1 * last)],
        ordered[round(0.5 * last)],
        ordered[round(0.9 * last)],
    )
    return float((high - low) / max(float(middle), 1.0))


@njit(cache=True)
def _quantile(values: NDArray[np.float64], part: float) -> float:
    """Return the same of (n,) values."""
    k = round(part * (len(values) - 1))
    return np.partition(values, k)[k]


def _light_region(
    means: NDArray[np.float64],
    roughness: NDArray[np.float64],
    flat: NDArray[np.bool_],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Choose among the smooth regions the one that is light: (rows, columns) of its cells.

    A pin that fills most of the picture is dark in front of a lamp; where it is the brighter part,
    lit from the front, it is rough.
    """
    label, votes = _smooth_regions(means, flat, tolerance)
    if len(votes) == 1:
        return np.ones(means.shape, np.bool_)
    best = int(np.argmax(votes))
    rough = float(roughness[label == best].mean())
    for k in np.flatnonzero(votes > RIVAL * votes[best]):
        cells = label == k
        brighter = means[cells].mean() > LAMP * means[label == best].mean()
        if brighter and roughness[cells].mean() < 1.5 * rough + 0.5:
            best = int(k)
    return label == best


@njit(cache=True)
def _smooth_regions(
    means: NDArray[np.float64], flat: NDArray[np.bool_], tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Join flat neighbors that differ by less than `tolerance`; number of each cell's region.

    The votes of a region are its cells, those on the frame's border four times; 0 is none.
    """
    rows, columns = means.shape
    label = np.zeros((rows, columns), np.int64)
    votes = np.zeros(rows * columns + 1)
    stack = np.empty((rows * columns, 2), np.int64)
    current = 0
    for r0 in range(rows):
        for c0 in range(columns):
            if not flat[r0, c0] or label[r0, c0]:
                continue
            current += 1
            label[r0, c0] = current
            stack[0, 0], stack[0, 1] = r0, c0
            size = 1
            while size:
                size -= 1
                r, c = stack[size, 0], stack[size, 1]
                on_border = r == 0 or c == 0 or r == rows - 1 or c == columns - 1
                votes[current] += 4.0 if on_border else 1.0
                for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    i, j = r + dr, c + dc
                    if i < 0 or j < 0 or i >= rows or j >= columns:
                        continue
                    smooth = abs(means[i, j] - means[r, c]) < tolerance
                    if flat[i, j] and smooth and not label[i, j]:
                        label[i, j] = current
                        stack[size, 0], stack[size, 1] = i, j
                        size += 1
    return label, votes[: current + 1]


@lru_cache(maxsize=64)
def _polynomials(rows: int, columns: int) -> NDArray[np.float64]:
    """Products of Legendre polynomials at the cell centers, (terms, cells), low degrees first."""
    y = (np.arange(rows) + 0.5) / rows * 2 - 1
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    degree = DEGREES[-1]
    py = np.polynomial.legendre.legvander(y, degree)
    px = np.polynomial.legendre.legvander(x, degree)
    terms = [(a, n - a) for n in range(degree + 1) for a in range(n + 1)]
    return np.stack([np.outer(py[:, a], px[:, b]).ravel() for a, b in terms])


@lru_cache(maxsize=64)
def _gaussian(n: int, sigma: float) -> NDArray[np.float64]:
    """(n, n) matrix that smooths along an axis of n cells."""
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    return np.exp(-0.5 * (distance / sigma) ** 2)


def _spread(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth `values` known where `weights` is 1; far from any it fades to zero."""
    gy, gx = (_gaussian(n, 1.5) for n in values.shape)
    return (gy @ values @ gx) / (gy @ weights @ gx + 0.5)
