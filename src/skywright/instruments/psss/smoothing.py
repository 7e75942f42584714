"""Savitzky-Golay smoothing (Anal. Chem. 36 (1964) 1627), with a polynomial at the ends."""

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

WINDOW = 51
ORDER = 3


@lru_cache(maxsize=8)
def filter_of(columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the filter for a spectrum of some width.

    The window has 51 columns, or the largest odd number of columns that fits into a narrower
    spectrum. A spectrum with fewer than five columns is not smoothed.

    Parameters
    ----------
    columns
        Width of the spectrum.

    Returns
    -------
    half : (h + 1,) float64
        The symmetric coefficients, from the middle to the end, h = half a window.
    ends : (h, 2 h + 1) float64
        Row i has the coefficients of the outermost window for the value i columns from the end.
    """
    window = min(WINDOW, columns - 1 + columns % 2)
    if window < ORDER + 2:
        return np.ones(1), np.empty((0, 1))
    middle = window // 2
    orders = np.arange(ORDER + 1.0)
    powers = (np.arange(window)[:, None] - middle) ** orders / middle**orders
    hat = powers @ np.linalg.pinv(powers)
    return np.ascontiguousarray(hat[middle, middle:]), np.ascontiguousarray(hat[:middle])


@njit(cache=True, nogil=True, fastmath={"contract"})
def smooth_into(
    spectrum: NDArray[np.float64],
    half: NDArray[np.float64],
    ends: NDArray[np.float64],
    smoothed: NDArray[np.float64],
) -> None:
    """Smooth (W,) `spectrum` into (W,) `smoothed`, with the filter of `filter_of` for W."""
    columns, reach = spectrum.size, half.size - 1
    inner = columns - 2 * reach
    middle, target = spectrum[reach : reach + inner], smoothed[reach : reach + inner]
    for column in range(inner):
        target[column] = half[0] * middle[column]
    # The loop over columns is the inner one, and over slices, so that it becomes vectors.
    for away in range(1, reach + 1):
        weight = half[away]
        left = spectrum[reach - away : reach - away + inner]
        right = spectrum[reach + away : reach + away + inner]
        for column in range(inner):
            target[column] += weight * (left[column] + right[column])
    for column in range(reach):
        first = last = 0.0
        for i in range(2 * reach + 1):
            first += ends[column, i] * spectrum[i]
            last += ends[column, i] * spectrum[columns - 1 - i]
        smoothed[column] = first
        smoothed[columns - 1 - column] = last
