"""Means, variances and covariances of several quantities, per bin, that can be merged."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Moments:
    """Number, means and sums of products of deviations of k quantities in each of some bins.

    Parameters
    ----------
    count
        (bins,) members.
    mean
        (k, bins); 0 where there is no member, NaN where a member has no finite value.
    products
        (k, k, bins): sum of (a - mean a) (b - mean b); NaN likewise.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], labels: NDArray[np.int64], bins: int) -> Self:
        """Compute the moments of values.

        Parameters
        ----------
        values
            (k, n). What is not finite makes its quantity NaN in the bin, and no other quantity.
        labels
            (n,) bin of each member; -1: in no bin.
        bins
            Number of bins.
        """
        used = labels >= 0
        values, labels = np.where(np.isfinite(values), values, np.nan)[:, used], labels[used]
        count = np.bincount(labels, minlength=bins).astype(np.int64)
        size = np.maximum(count, 1)
        mean = np.stack([np.bincount(labels, row, bins) / size for row in values])
        deviation = values - mean[:, labels]
        # The mean's rounding error is corrected once, so that equal values have no spread.
        shift = np.stack([np.bincount(labels, row, bins) / size for row in deviation])
        mean, deviation = mean + shift, deviation - shift[:, labels]
        products = np.array(
            [[np.bincount(labels, a * b, bins) for b in deviation] for a in deviation], np.float64
        )
        return cls(count, mean, products)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both (Chan's formulas); neither changes."""
        count = self.count + other.count
        size = np.maximum(count, 1)
        delta = np.where(self.count * other.count > 0, other.mean - self.mean, 0.0)
        mean = np.where(self.count > 0, self.mean, other.mean) + delta * (other.count / size)
        weight = self.count * other.count / size
        products = self.products + other.products + delta[:, None] * delta[None, :] * weight
        return Moments(count, mean, products)

    def means(self) -> NDArray[np.float64]:
        """Return (k, bins) means; NaN in an empty bin."""
        return np.where(self.count > 0, self.mean, np.nan)

    def standard_errors(self) -> NDArray[np.float64]:
        """Return (k, bins) standard errors of the means; NaN below two values."""
        sums = np.einsum("iib->ib", self.products)
        degrees = np.maximum(self.count - 1, 1)
        error = np.sqrt(sums / degrees) / np.sqrt(np.maximum(self.count, 1))
        return np.where(self.count > 1, error, np.nan)

    def ratio(self, top: int, bottom: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the ratio of the sums of two quantities and its standard error, (bins,) each.

        The error is the first order of the delta method:
        var(R) = (var y - 2 R cov + R^2 var x) / (n mean_x^2).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self.count > 0, self.mean[top] / self.mean[bottom], np.nan)
            spread = (
                self.products[top, top]
                - 2 * ratio * self.products[top, bottom]
                + ratio**2 * self.products[bottom, bottom]
            ) / np.maximum(self.count - 1, 1)
            error = np.sqrt(np.maximum(spread, 0) / self.count) / np.abs(self.mean[bottom])
        return ratio, np.where(self.count > 1, error, np.nan)

    def line(self, x: int, y: int) -> tuple[NDArray[np.float64], ...]:
        """Return slope, intercept and Pearson's r of y against x, (bins,) each.

        They are NaN where x does not vary; r also where y does not vary.
        """
        xx, yy, xy = self.products[x, x], self.products[y, y], self.products[x, y]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(xx > 0, xy / xx, np.nan)
            r = np.where(np.isnan(slope) | (yy <= 0), np.nan, xy / np.sqrt(xx * yy))
        return slope, self.mean[y] - slope * self.mean[x], r
