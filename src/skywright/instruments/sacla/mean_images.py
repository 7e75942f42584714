"""Rings, center of mass, autocorrelation, histograms and profile of a mean image.

Plain functions on arrays. Pixels that are not finite, as the bad pixels of a mean image, are left
out. Pixel centers are at integers, x is the column and y the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError, DataError

Image = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class PixelHistogram:
    """Number of pixels by value.

    Parameters
    ----------
    edges
        (bins + 1,) rising; bins are half-open, the last one is closed.
    counts
        (bins,) pixels.
    below, above
        Pixels outside the bins.
    mean, std
        Of all finite pixels; NaN if there are none.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    below: int
    above: int
    mean: float
    std: float


@dataclass(frozen=True, eq=False)
class AzimuthalProfile:
    """Mean signal against the scattering vector or angle.

    Parameters
    ----------
    radial
        (bins,) in `unit`.
    intensity
        (bins,) in the unit of the image.
    unit
        pyFAI's name of the radial unit.
    """

    radial: NDArray[np.float64]
    intensity: NDArray[np.float64]
    unit: str


def circles(
    shape: tuple[int, int], cx: float, cy: float, radii: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Return lines along circles, to be drawn over an image.

    Parameters
    ----------
    shape
        (rows, columns) of the image.
    cx, cy
        Center, pixels.
    radii
        Pixels, > 0.

    Returns
    -------
    list of NDArray
        (361, 2) x and y for each radius; NaN where the circle is outside the image, so that a
        plot leaves a gap.

    Raises
    ------
    ConfigError
        If a radius is not positive.
    """
    rows, columns = shape
    angle = np.linspace(0, 2 * np.pi, 361)
    lines = []
    for radius in radii:
        if not radius > 0:
            raise ConfigError(f"ring of radius {radius} pixels, expected > 0")
        x, y = cx + radius * np.cos(angle), cy + radius * np.sin(angle)
        inside = (x >= -0.5) & (x <= columns - 0.5) & (y >= -0.5) & (y <= rows - 0.5)
        lines.append(np.where(inside, np.stack([x, y]), np.nan).T)
    return lines


def center_of_mass(image: Image) -> tuple[float, float]:
    """Return (x, y), the mean position of the signal, in pixels.

    NaN where there is no signal. Negative pixels count as they are, as noise around zero does.
    """
    values = np.where(np.isfinite(image), image, 0.0).astype(float)
    total = values.sum()
    if not total > 0:
        return float("nan"), float("nan")
    x = values.sum(axis=0) @ np.arange(image.shape[1])
    y = values.sum(axis=1) @ np.arange(image.shape[0])
    return float(x / total), float(y / total)


def autocorrelation(image: Image) -> NDArray[np.float64]:
    """Correlate an image with itself, for all shifts.

    The mean is subtracted. At each shift the products are averaged over the pairs of finite pixels,
    and divided by the variance: 1 at no shift. The image does not wrap around.

    Parameters
    ----------
    image
        (rows, columns).

    Returns
    -------
    NDArray
        (2 rows - 1, 2 columns - 1); no shift is at [rows - 1, columns - 1]. NaN where no pair of
        finite pixels has the shift, and everywhere if all pixels are equal.
    """
    from scipy.signal import correlate  # slow to import, and rarely wanted

    good = np.isfinite(image)
    count = max(int(good.sum()), 1)
    mean = np.where(good, image, 0.0).sum() / count
    deviation = np.where(good, image - mean, 0.0)
    variance = (deviation**2).sum() / count

    weights = good.astype(float)
    pairs = np.rint(correlate(weights, weights, method="fft"))
    # Rounding of the mean gives equal pixels a variance
    varies = variance > 0 and image[good].min() < image[good].max()
    known = (pairs > 0) & varies
    products = correlate(deviation, deviation, method="fft")
    return np.divide(products, pairs * variance, out=np.full(pairs.shape, np.nan), where=known)


def linear_histogram(
    image: Image, bins: int = 100, low: float | None = None, high: float | None = None
) -> PixelHistogram:
    """Count pixels in bins of equal width.

    Parameters
    ----------
    image
        Any shape.
    bins
        Number of bins.
    low, high
        First and last edge; by default the smallest and the largest finite pixel.

    Raises
    ------
    ConfigError
        If there are no bins, or `low` is not below `high`.
    """
    values = _finite(image)
    low, high, is_point = _range(values, low, high)
    if is_point:
        low, high = (low - 0.5, high + 0.5) if values.size else (0.0, 1.0)
    return _count(values, _edges(low, high, bins))


def log_histogram(
    image: Image, bins: int = 100, low: float | None = None, high: float | None = None
) -> PixelHistogram:
    """Count pixels in bins of equal ratio; pixels of zero and less are `below`.

    Parameters
    ----------
    image, bins
        See `linear_histogram`.
    low, high
        First and last edge, > 0; by default the smallest and the largest positive finite pixel.

    Raises
    ------
    ConfigError
        If there are no bins, or not 0 < `low` < `high`.
    """
    values = _finite(image)
    positive = values[values > 0]
    low, high, is_point = _range(positive, low, high)
    if is_point:
        low, high = (low / 2, high * 2) if positive.size else (1.0, 10.0)
    if low <= 0:
        raise ConfigError(f"histogram: first edge {low} of a logarithmic axis, expected > 0")
    edges = np.exp(_edges(np.log(low), np.log(high), bins))
    edges[0], edges[-1] = low, high  # exactly
    return _count(values, edges)


def profile_with_geometry(
    image: Image, poni: Path, bins: int = 500, unit: str = "q_nm^-1"
) -> AzimuthalProfile:
    """Average an image around the beam, with the geometry that pyFAI has calibrated.

    Without a geometry, `skywright.instruments.sacla.tile.Rings` averages over rings of pixels.

    Parameters
    ----------
    image
        (rows, columns) of one tile.
    poni
        pyFAI's file of the geometry (PONI).
    bins
        Of the radial axis.
    unit
        pyFAI's name: ``q_nm^-1``, ``q_A^-1``, ``2th_deg``, ``r_mm`` ...

    Raises
    ------
    ConfigError
        If pyFAI is not installed.
    DataError
        If the file is no geometry, or of a detector of another size.
    """
    try:
        import pyFAI
    except ImportError as error:
        raise ConfigError(
            f"the geometry {poni} needs pyFAI, which is not installed: pip install pyFAI, or use "
            "the radial profile in pixels, which needs no geometry"
        ) from error
    if not poni.is_file():
        raise DataError(f"{poni}: no such file")
    bad = ~np.isfinite(image)
    try:
        integrator = pyFAI.load(str(poni))
        found = integrator.integrate1d(
            np.where(bad, 0.0, image), bins, unit=unit, mask=bad, method=("no", "csr", "cython")
        )
    except Exception as error:  # pyFAI raises many kinds
        raise DataError(f"{poni}: pyFAI: {type(error).__name__}: {error}") from error
    return AzimuthalProfile(np.asarray(found.radial), np.asarray(found.intensity), unit)


def thinned(image: NDArray[Any], step: int) -> NDArray[np.float32]:
    """Average blocks of step * step pixels; NaN, a bad pixel, is left out.

    Parameters
    ----------
    image
        (rows, columns).

    Returns
    -------
    NDArray
        (rows // step, columns // step).
    """
    rows, columns = (length // step for length in image.shape)
    blocks = image[: rows * step, : columns * step].reshape(rows, step, columns, step)
    good = np.isfinite(blocks)
    count = good.sum(axis=(1, 3))
    total = np.where(good, blocks, 0.0).sum(axis=(1, 3))
    found = np.divide(total, count, out=np.full((rows, columns), np.nan), where=count > 0)
    return found.astype(np.float32)


def _finite(image: Image) -> NDArray[np.float64]:
    values = np.asarray(image, float).ravel()
    return values[np.isfinite(values)]


def _range(
    values: NDArray[np.float64], low: float | None, high: float | None
) -> tuple[float, float, bool]:
    """Return the limits, and whether they leave no range because values are equal, or none."""
    are_given = low is not None and high is not None
    low = float(values.min(initial=np.inf)) if low is None else low
    high = float(values.max(initial=-np.inf)) if high is None else high
    return low, high, not are_given and (low == high or not values.size)


def _edges(low: float, high: float, bins: int) -> NDArray[np.float64]:
    if bins < 1 or not low < high:
        raise ConfigError(f"histogram: {bins} bins from {low} to {high}, expected low < high")
    return np.linspace(low, high, bins + 1)


def _count(values: NDArray[np.float64], edges: NDArray[np.float64]) -> PixelHistogram:
    counts = np.histogram(values, edges)[0].astype(np.int64)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    mean, std = (values.mean(), values.std()) if values.size else (np.nan, np.nan)
    return PixelHistogram(edges, counts, below, above, float(mean), float(std))
