"""The share of good micrographs of squares and holes, with its uncertainty.

Model: a square has a share p, uniform between 0 and 1 before any result. The share of one of its
holes is Beta(p k, (1 - p) k), and each micrograph of the hole is good with that share, so the good
ones of a hole are beta-binomial. How alike the holes of a square are, k, is the same in a grid and
is averaged over `ALIKE`, each value weighted by the probability that it gives to all results.
The integrals over p are sums over `SHARES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, logsumexp

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARES: Floats = (np.arange(50) + 0.5) / 50
ALIKE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True, eq=False)
class Shares:
    """What the results say of the squares and holes that they are of.

    Attributes
    ----------
    square, sigma
        (s,) expected share of good micrographs of the square's next hole, and its standard
        uncertainty as far as it comes from the square's share.
    hole
        (h,) expected share of each hole that has results.
    """

    square: Floats
    sigma: Floats
    hole: Floats


@dataclass(frozen=True, eq=False)
class GridQuality:
    """Statistics of a grid; squares are sorted by their share, the best first.

    Attributes
    ----------
    squares
        (s,) ids.
    results
        (s,) micrographs with results.
    share, sigma
        (s,) expected share of good micrographs and its uncertainty.
    holes
        Expected share of each hole with results, by (square, hole).
    micrographs, good
        Micrographs with results, and how many of them are good.
    """

    squares: tuple[str, ...]
    results: Ints
    share: Floats
    sigma: Floats
    holes: Mapping[tuple[str, str], float]
    micrographs: int
    good: int

    @property
    def shares(self) -> dict[str, float]:
        """Expected share of each square that has results, in the order of `squares`."""
        return dict(zip(self.squares, self.share.tolist(), strict=True))


def estimate(owner: Ints, good: Ints, total: Ints, n_squares: int) -> Shares:
    """Estimate the shares from the counts of holes.

    Parameters
    ----------
    owner
        (h,) index of each hole's square, below `n_squares`.
    good, total
        (h,) good micrographs and all micrographs with results of each hole.
    n_squares
        Number of squares; one without holes has the share 0.5, sigma 0.29.
    """
    evidence, means, seconds, holes = [], [], [], []
    pairs, which = np.unique(np.column_stack([good, total]), axis=0, return_inverse=True)
    # Holes of a square with the same counts: few, however many holes there are.
    cells = np.bincount(owner * len(pairs) + which.ravel(), minlength=n_squares * len(pairs))
    alike_holes = cells.reshape(n_squares, len(pairs))
    for alike in ALIKE:
        logs = alike_holes @ _log_likelihood(pairs[:, 0], pairs[:, 1], alike)
        norm = logsumexp(logs, axis=1, keepdims=True)
        posterior = np.exp(logs - norm)
        evidence.append(float(norm.sum()))
        mean = posterior @ SHARES
        means.append(mean)
        seconds.append(posterior @ SHARES**2)
        holes.append((alike * mean[owner] + good) / (alike + total))
    weights = np.exp(np.array(evidence) - logsumexp(evidence))
    square = weights @ np.array(means)
    variance = np.maximum(weights @ np.array(seconds) - square**2, 0.0)
    return Shares(square, np.sqrt(variance), weights @ np.array(holes))


def _log_likelihood(good: Ints, total: Ints, alike: float) -> Floats:
    """Return log P(good of total), (n, len(SHARES)), without the binomial coefficient."""
    a, b = SHARES * alike, (1 - SHARES) * alike
    y, n = good[:, None], total[:, None]
    found: Floats = betaln(a + y, b + n - y) - betaln(a, b)
    return found
