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
"""The sum of this number of rows of 16-bit words fits in 32 bits with a sign."""


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
    if "f" in (image.dtype.kind, background_dtype.kind):
        return _sum_floats(image, background, mode)
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2 and background_dtype == np.uint16:
        return _sum_words(image, background, mode)
    return _sum_integers(image, background, mode)


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
    rows, columns = image.shape
    words = as_words(image)
    step = ROWS_OF_WORDS if words is not None else ROWS_AT_ONCE
    block = None if words is not None else np.empty((step, columns), np.uint16)
    peaks = np.zeros(columns, np.uint16)
    sums = np.zeros(columns, np.uint32)
    total = None if rows <= ROWS_OF_WORDS else np.zeros(columns, np.int64)
    for first in range(0, rows, step):
        stop = min(first + step, rows)
        if words is not None:
            piece, swapped = words[0][first:stop], words[1]
        else:
            assert block is not None
            np.copyto(block[: stop - first], image[first:stop], casting="unsafe")
            piece, swapped = frozen(block[: stop - first]), False
        if background is None:
            add_words(piece, swapped, sums, peaks)
        else:
            below = frozen(background[first:stop])
            add_words_above(piece, swapped, below, mode == CLIPPED, sums, peaks)
        if total is not None:
            total += sums.view(np.int32) if mode == SIGNED else sums
            sums[:] = 0
    if mode == SIGNED:
        return (sums.view(np.int32).astype(np.int64) if total is None else total), peaks
    return (sums if total is None else total.astype(np.uint64)), peaks


def _sum_integers(
    image: NDArray[Any], background: NDArray[Any] | None, mode: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    columns = image.shape[1]
    sums = np.zeros(columns, np.int64)
    peaks = np.full(columns, np.iinfo(np.int64).min, np.int64)
    # Pixels of 64 bits without sign are summed modulo 2**64, as if they had one.
    wide = image.dtype.kind == "u" and image.dtype.itemsize == 8
    for block, below in _converted(image, background, np.int64):
        add_integers_above(block, wide, below, mode == CLIPPED, sums, peaks)
    if image.dtype.kind == "u" and mode != SIGNED and image.dtype.itemsize > 2:
        return sums.view(np.uint64), peaks
    return sums, peaks


def _sum_floats(
    image: NDArray[Any], background: NDArray[Any] | None, mode: int
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    columns = image.shape[1]
    sums = np.zeros(columns)
    words = as_words(image) if background is not None and background.dtype.kind == "f" else None
    if words is not None and background is not None and not words[1]:
        highest = np.zeros(columns, np.uint16)
        add_words_above_floats(words[0], frozen(background), mode == CLIPPED, sums, highest)
        return sums, highest
    peaks = np.full(columns, -np.inf)
    for block, below in _converted(image, background, np.float64):
        add_floats_above(block, below, mode == CLIPPED, sums, peaks)
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
def add_words(image: NDArray[Any], swapped: bool, sums: NDArray[Any], peaks: NDArray[Any]) -> None:
    """Add (rows, columns) uint16 to (columns,) uint32 `sums`; raise (columns,) uint16 `peaks`."""
    rows, columns = image.shape
    for row in range(0, rows - 1, 2):
        for column in range(columns):
            upper = _native(image[row, column], swapped)
            lower = _native(image[row + 1, column], swapped)
            sums[column] += np.uint32(upper) + np.uint32(lower)
            peaks[column] = max(peaks[column], max(upper, lower))
    if rows % 2:
        for column in range(columns):
            pixel = _native(image[rows - 1, column], swapped)
            sums[column] += np.uint32(pixel)
            peaks[column] = max(peaks[column], pixel)


@njit(cache=True, nogil=True)
def add_words_above(
    image: NDArray[Any],
    swapped: bool,
    background: NDArray[Any],
    clipped: bool,
    sums: NDArray[Any],
    peaks: NDArray[Any],
) -> None:
    """Add what uint16 pixels are above uint16 background to uint32 sums, modulo 2**32."""
    rows, columns = image.shape
    for row in range(0, rows - 1, 2):
        for column in range(columns):
            upper = _native(image[row, column], swapped)
            lower = _native(image[row + 1, column], swapped)
            sums[column] += np.uint32(
                _above(upper, background[row, column], clipped)
                + _above(lower, background[row + 1, column], clipped)
            )
            peaks[column] = max(peaks[column], max(upper, lower))
    if rows % 2:
        for column in range(columns):
            pixel = _native(image[rows - 1, column], swapped)
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
def add_integers_above(
    image: NDArray[Any],
    wide: bool,
    background: NDArray[Any],
    clipped: bool,
    sums: NDArray[Any],
    peaks: NDArray[Any],
) -> None:
    """Add what int64 pixels are above int64 background to int64 sums, modulo 2**64."""
    rows, columns = image.shape
    for row in range(rows):
        for column in range(columns):
            pixel, below = image[row, column], background[row, column]
            if not clipped or pixel > below or (wide and pixel < 0):
                sums[column] += pixel - below
            level = (pixel >> 1) & np.int64(0x7FFFFFFFFFFFFFFF) if wide else pixel
            peaks[column] = max(peaks[column], level)


@njit(cache=True, nogil=True)
def add_floats_above(
    image: NDArray[Any],
    background: NDArray[Any],
    clipped: bool,
    sums: NDArray[Any],
    peaks: NDArray[Any],
) -> None:
    """Add what float64 pixels are above float64 background to float64 sums; NaN stays NaN."""
    rows, columns = image.shape
    for row in range(rows):
        for column in range(columns):
            pixel = image[row, column]
            above = pixel - background[row, column]
            if not (clipped and above <= 0.0):
                sums[column] += above
            peaks[column] = max(peaks[column], pixel)


def warm() -> None:
    """Compile every kernel, or load it from its cache."""
    words = np.ones((2, 64), np.uint16)
    for mode in (PLAIN, CLIPPED, SIGNED):
        for image in (words, words.astype(np.int64), words.astype(np.float64)):
            column_sums(image, words, mode)
        column_sums(words, words.astype(np.float32), mode)
        column_sums(words, words.astype(np.float64), mode)
