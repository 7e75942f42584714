"""How far a mount reaches up and down in each column of a picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from skywright.instruments.loop.detect import finder

WINDOW_CELLS = 2
"""Half width of the search for the edge, from the edge of the network's mask, in its cells."""
EDGE_LEVEL = 0.5  # of the contrast: where a blurred edge truly is
CONTRAST_MIN = 6.0  # gray levels: a weaker edge is left where the mask has it
SMOOTH_COLUMNS = 3


@dataclass(frozen=True)
class Limits:
    """The filled outline of a mount, column by column."""

    upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    """(W,) float64: y of its two edges in each column of the picture, px, pixel centers at whole
    numbers; NaN where there is nothing."""
    side: str
    """Border through which it enters."""

    def over(self, start: float, stop: float) -> tuple[float, float]:
        """Return the extremes of `upper` and `lower` over the columns from `start` to `stop`, px.

        NaN, NaN if there is nothing in them.
        """
        columns = np.arange(len(self.upper))
        there = (columns >= start) & (columns <= stop) & np.isfinite(self.upper)
        if not there.any():
            return float("nan"), float("nan")
        return float(self.upper[there].min()), float(self.lower[there].max())


def find_limits(gray: NDArray[np.uint8]) -> Limits | None:
    """Find the mount of a picture, as `find_loop` does, and its edges in each column.

    `gray` is (H, W) uint8, at least 32 x 32. None if there is no mount.

    Raises
    ------
    DataError
        If `gray` is not such an array.
    """
    seen = finder().silhouette(gray)
    if seen is None:
        return None
    mask, side = seen
    height, width = gray.shape
    cell = height / len(mask)
    in_cells = mask[:, ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)]
    there = in_cells.any(axis=0)
    top = np.argmax(in_cells, axis=0) * cell
    bottom = height - np.argmax(in_cells[::-1], axis=0) * cell
    smooth = uniform_filter1d(gray.astype(np.float64), SMOOTH_COLUMNS, axis=1)
    reach = (bottom - top) / 2
    upper = _edges(smooth, top, cell, reach)
    lower = height - 1 - _edges(smooth[::-1], height - bottom, cell, reach)
    upper[~there] = lower[~there] = np.nan
    return Limits(upper, lower, side)


def _edges(
    rows: NDArray[np.float64], coarse: NDArray[np.float64], cell: float, reach: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where, coming from row 0, each column first has half of the contrast of the edge.

    The mask, of cells `cell` px high, begins at `coarse`, (W,) px from the border; 0: the mount is
    cut by it. The edge is at most `reach` px inside of that.
    """
    count, columns = rows.shape
    span = round(WINDOW_CELLS * cell)
    offsets = np.arange(-span, span + 1)[:, np.newaxis]
    first = np.round(coarse).astype(int)
    window = rows[np.clip(first + offsets, 0, count - 1), np.arange(columns)]
    outside = max(span // 2, 1)
    apart = np.abs(window - np.median(window[:outside], axis=0))
    apart[offsets > np.maximum(reach, 1.0)] = 0.0
    level = EDGE_LEVEL * apart.max(axis=0)
    here = np.argmax(apart >= level, axis=0)
    before = np.maximum(here - 1, 0)
    at, ahead = (np.take_along_axis(apart, k[np.newaxis], 0)[0] for k in (here, before))
    share = (at - level) / np.maximum(at - ahead, 1e-9)
    fine = first - span + here - np.clip(share, 0.0, 1.0)
    weak = (level < EDGE_LEVEL * CONTRAST_MIN) | (here == 0)
    return np.where(coarse <= 0, -0.5, np.where(weak, coarse - 0.5, fine))
