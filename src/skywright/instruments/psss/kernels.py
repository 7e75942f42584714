"""A picture's columns summed in one pass over its rows, with no temporary picture.

Words of 16 bits, the camera's, are summed as they lie in memory, in either byte order. Every other
dtype, and rows that are not contiguous, go through a few rows of int64 or float64 at a time.
All sums are exact for integers (modulo 2**64), and made in the order of the rows for floats, by
the calling thread alone: several threads each sum another picture.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

PLAIN, CLIPPED, SIGNED = 0, 1, 2
"""Background modes: there is none, max(pixel - background, 0), pixel - background."""

ROWS_AT_ONCE = 16
"""Rows converted together: 16 x 2560 int64 stay in the second-level cache."""
ROWS_OF_WORDS = 32768
"""The sum of this number of rows of 16-bit words fits in 32 bits with a sign.

Pictures of more rows are summed in int64."""


def column_sums(
    image: NDArray[Any], background: NDArray[Any] | None = None, mode: int = PLAIN
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sum each column of a picture, the background taken off pixel by pixel.

    Parameters
    ----------
    image
        (rows, columns), at least one of each, integers, booleans or floats of any size, byte order
        and strides.
    background
        (rows, columns) uint16, int64, float32 or float64, native and C-contiguous; None with
        `PLAIN`.
    mode
        `PLAIN`, `CLIPPED` or `SIGNED`.

    Returns
    -------
    sums : (columns,) uint32, uint64, int64 or float64
        ===================================  ====================================
        pixels                               dtype
        ===================================  ====================================
        unsigned, up to 16 bits              uint32; above 32,768 rows uint64;
                                             int64 with `SIGNED`, or if the
                                             background is not uint16
        unsigned, wider                      uint64; int64 with `SIGNED`
        signed                               int64
        floats, or background of floats      float64
        ===================================  ====================================
    peaks : (columns,) uint16, int64 or float64
        The greatest pixel of each column, the background not taken off (of uint64: halved).
    """
    if image.dtype.kind == "b":
        image = image.view(np.uint8)
    if background is None or mode == PLAIN:
        background, mode = None, PLAIN
    background_dtype = np.dtype(np.uint16) if background is None else background.dtype
    is_unsigned, narrow = image.dtype.kind == "u", image.dtype.itemsize <= 2
    with_words = background_dtype == np.uint16
    if "f" in (image.dtype.kind, background_dtype.kind):
        return _sum_floats(image, background, mode)
    if is_unsigned and narrow and with_words and len(image) <= ROWS_OF_WORDS:
        return _sum_words(image, background, mode)
    sums, peaks = _sum_converted(image, background, mode, np.int64)
    if is_unsigned and mode != SIGNED and (with_words or not narrow):
        return sums.view(np.uint64), peaks
    return sums, peaks


def as_words(image: NDArray[Any]) -> tuple[NDArray[np.uint16], bool] | None:
    """Return a view of 16-bit words that `add_words` can take, and whether its bytes are swapped.

    None if there is none: other dtypes, rows with gaps between the pixels, odd addresses.
    """
    if image.dtype.kind != "u" or image.dtype.itemsize != 2:
        return None
    if not (image.flags.c_contiguous and image.flags.aligned):
        return None
    swapped = not image.dtype.isnative
    words = image.view(np.uint16)
    # Frames from the wire are read-only: all are made so, or numba would compile twice.
    words.flags.writeable = False
    return words, swapped


def _sum_words(
    image: NDArray[Any], background: NDArray[Any] | None, mode: int
) -> tuple[NDArray[Any], NDArray[np.uint16]]:
    columns = image.shape[1]
    peaks, sums = np.zeros(columns, np.uint16), np.zeros(columns, np.uint32)
    words, swapped = as_words(image) or (None, False)
    pieces = _converted(image, background, np.uint16) if words is None else [(words, background)]
    for piece, below in pieces:
        known = None if below is None or background is None else frozen(below)
        add_words(frozen(piece), swapped, known, mode == CLIPPED, sums, peaks)
    return (sums.view(np.int32).astype(np.int64) if mode == SIGNED else sums), peaks


def _sum_floats(
    image: NDArray[Any], background: NDArray[Any] | None, mode: int
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    words, swapped = as_words(image) or (None, False)
    if words is None or swapped or background is None:
        return _sum_converted(image, background, mode, np.float64)
    sums, peaks = np.zeros(image.shape[1]), np.zeros(image.shape[1], np.uint16)
    add_words_above_floats(words, frozen(background), mode == CLIPPED, sums, peaks)
    return sums, peaks


def _sum_converted(
    image: NDArray[Any], background: NDArray[Any] | None, mode: int, dtype: type[np.generic]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return sums and peaks in int64 or float64."""
    least = -np.inf if dtype is np.float64 else np.iinfo(np.int64).min
    sums, peaks = np.zeros(image.shape[1], dtype), np.full(image.shape[1], least, dtype)
    # Pixels of 64 bits without sign are summed modulo 2**64, as if they had one.
    is_wide = image.dtype.kind == "u" and image.dtype.itemsize == 8
    wide = None if dtype is np.float64 else is_wide
    for block, below in _converted(image, background, dtype):
        add_above(block, wide, below, mode == CLIPPED, sums, peaks)
    return sums, peaks


def _converted(
    image: NDArray[Any], background: NDArray[Any] | None, dtype: type[np.generic]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield a few rows at a time of a picture and its background (None: 0) in another dtype."""
    rows, columns = image.shape
    block = np.empty((ROWS_AT_ONCE, columns), dtype)
    below = np.zeros_like(block)
    for first in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - first)
        np.copyto(block[:count], image[first : first + count], casting="unsafe")
        if background is not None:
            np.copyto(below[:count], background[first : first + count], casting="unsafe")
        yield block[:count], below[:count]


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view


# Two rows at a time and both sums in one loop: this is what the compiler turns into vectors of
# 16-bit differences, and it loads and stores the sums half as often as row by row.


@njit(cache=True, nogil=True, inline="always")
def _native(pixel: np.uint16, swapped: bool) -> np.uint16:
    return np.uint16((pixel >> 8) | (pixel << 8)) if swapped else pixel


@njit(cache=True, nogil=True, inline="always")
def _above(pixel: np.uint16, below: np.uint16, clipped: bool) -> np.uint32:
    if clipped:
        return np.uint32(np.uint16(max(pixel, below) - below))
    return np.uint32(np.uint32(pixel) - np.uint32(below))


@njit(cache=True, nogil=True)
def add_words(
    image: NDArray[Any],
    swapped: bool,
    background: NDArray[Any] | None,
    clipped: bool,
    sums: NDArray[Any],
    peaks: NDArray[Any],
) -> None:
    """Add what uint16 pixels are above uint16 background to uint32 `sums`, modulo 2**32.

    Raise (columns,) uint16 `peaks`. Without a background, None, it is compiled without the
    difference.
    """
    rows, columns = image.shape
    for row in range(0, rows - 1, 2):
        for column in range(columns):
            upper = _native(image[row, column], swapped)
            lower = _native(image[row + 1, column], swapped)
            if background is None:
                sums[column] += np.uint32(upper) + np.uint32(lower)
            else:
                sums[column] += np.uint32(
                    _above(upper, background[row, column], clipped)
                    + _above(lower, background[row + 1, column], clipped)
                )
            peaks[column] = max(peaks[column], max(upper, lower))
    if rows % 2:
        for column in range(columns):
            pixel = _native(image[rows - 1, column], swapped)
            if background is None:
                sums[column] += np.uint32(pixel)
            else:
                sums[column] += _above(pixel, background[rows - 1, column], clipped)
            peaks[column] = max(peaks[column], pixel)


@njit(cache=True, nogil=True)
def add_words_above_floats(
    image: NDArray[Any],
    background: NDArray[Any],
    clipped: bool,
    sums: NDArray[Any],
    peaks: NDArray[Any],
) -> None:
    """Add what uint16 pixels are above a background with fractions to float64 sums."""
    rows, columns = image.shape
    for row in range(rows):
        for column in range(columns):
            pixel = image[row, column]
            # By way of int32, for which there are vectors.
            above = np.float64(np.int32(pixel)) - np.float64(background[row, column])
            sums[column] += above if above > 0.0 or not clipped else 0.0
            peaks[column] = max(peaks[column], pixel)


@njit(cache=True, nogil=True)
def add_above(
    image: NDArray[Any],
    wide: bool | None,
    background: NDArray[Any],
    clipped: bool,
    sums: NDArray[Any],
    peaks: NDArray[Any],
) -> None:
    """Add what pixels are above background to sums, all int64 or all float64; NaN stays NaN.

    Integers are added modulo 2**64; `wide` says that they have no sign. It is None for floats.
    """
    rows, columns = image.shape
    for row in range(rows):
        for column in range(columns):
            pixel, below = image[row, column], background[row, column]
            counts, level = not (clipped and pixel <= below), pixel
            if wide is not None:
                counts |= wide and pixel < 0
                level = (pixel >> 1) & np.int64(0x7FFFFFFFFFFFFFFF) if wide else pixel
            if counts:
                sums[column] += pixel - below
            peaks[column] = max(peaks[column], level)


def warm() -> None:
    """Compile every kernel, or load it from its cache."""
    words = np.ones((2, 64), np.uint16)
    for mode in (PLAIN, CLIPPED, SIGNED):
        for image in (words, words.astype(np.int64), words.astype(np.float64)):
            column_sums(image, words, mode)
        column_sums(words, words.astype(np.float32), mode)
        column_sums(words, words.astype(np.float64), mode)
