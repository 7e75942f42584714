"""Kernels over the pixels of detector tiles. All sums are in double precision.

The kernels release the GIL, so that threads can share the work.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

HISTOGRAM_BINS = 8
"""Photon histogram of a region: pixels with 0 .. 6 photons, and with 7 or more."""
CHUNK = 2048
"""Pixels that are worked on together: they and their sums stay in the processor's first cache."""
SPAN = 8192
"""Longest span of pixels that is summed at once, for the same reason."""
PHOTONS_MAX = 2.0**40
"""Greatest number of photons that is counted in one span. Damaged pixels can have more than an
integer holds, which would then be negative, as if the number were missing."""


def least_signal(gain: float, ev_per_electron: float, threshold_ev: float) -> np.float32:
    """Find the smallest single-precision signal that is at or above the threshold.

    Comparing the raw signal with it gives exactly what comparing the energy, in double precision,
    with the threshold gives, and needs no product.

    Parameters
    ----------
    gain
        Electrons per ADU, > 0.
    ev_per_electron
        Energy per electron-hole pair, eV.
    threshold_ev
        Pixels of less energy count as 0.

    Returns
    -------
    float32
        Signal in ADU.
    """
    return _smallest(
        lambda signal: bool(signal * gain * ev_per_electron >= threshold_ev),
        threshold_ev / (gain * ev_per_electron),
    )


def photon_levels(
    gain: float, ev_per_electron: float, threshold_ev: float, photon_ev: float
) -> NDArray[np.float32]:
    """Find the smallest signal of each number of photons.

    Counting the pixels at or above these signals gives exactly what rounding the photons of each
    pixel, in double precision, gives, and needs no division.

    Parameters
    ----------
    gain, ev_per_electron, threshold_ev
        See `least_signal`.
    photon_ev
        Energy of one photon, eV.

    Returns
    -------
    NDArray
        (9,) float32 ADU: the smallest signal that counts, and the smallest ones with at least 1, 2
        .. 8 photons.
    """
    least = least_signal(gain, ev_per_electron, threshold_ev)

    def reaches(count: int) -> Callable[[np.float64], bool]:
        return lambda signal: bool(
            np.floor(signal * gain * ev_per_electron / photon_ev + 0.5) >= count
        )

    levels = [least]
    for count in range(1, HISTOGRAM_BINS + 1):
        guess = (count - 0.5) * photon_ev / (gain * ev_per_electron)
        levels.append(max(least, _smallest(reaches(count), guess)))
    return np.array(levels, np.float32)


def _smallest(passes: Callable[[np.float64], bool], guess: float) -> np.float32:
    """Find the smallest single-precision signal that passes, near a guess."""
    below, above = np.float32(-np.inf), np.float32(np.inf)
    with np.errstate(over="ignore"):
        signal = np.float32(guess)
        while not passes(np.float64(signal)):
            signal = np.nextafter(signal, above, dtype=np.float32)
        while passes(np.float64(np.nextafter(signal, below, dtype=np.float32))):
            signal = np.nextafter(signal, below, dtype=np.float32)
    return signal


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _sum_signal(pixels: Any, least: Any) -> float:
    total = 0.0
    for i in range(len(pixels)):
        value = pixels[i]
        total += np.float64(np.float32(0) if value < least else value)
    return total


@njit(cache=True, nogil=True)
def measure_regions(
    frames: NDArray[np.float32],
    chosen: NDArray[np.int64],
    spans: NDArray[np.int64],
    levels: NDArray[np.float32],
    ev: tuple[float, float, float],
    sums: NDArray[np.float64],
    photons: NDArray[np.int64],
    histograms: NDArray[np.int64],
) -> None:
    """Add up the signal of all regions, and count their photons, in one pass over each frame.

    The photons of a pixel are floor(energy / photon energy + 0.5).

    Parameters
    ----------
    frames
        (n, rows * columns) ADU.
    chosen
        (m,) indices of the frames to measure.
    spans
        (k, 3), `pixel_spans`.
    levels
        (9,) ADU, `photon_levels`.
    ev
        Electrons per ADU, eV per electron, eV per photon.
    sums
        (m, regions) ADU, overwritten.
    photons
        (m, regions) overwritten.
    histograms
        (m, regions, 8) overwritten: pixels with 0 .. 6 and with 7 or more photons.
    """
    sums[:] = 0.0
    photons[:] = 0
    histograms[:] = 0
    longest = 0
    for k in range(len(spans)):
        longest = max(longest, spans[k, 2] - spans[k, 1])
    reached = np.empty(HISTOGRAM_BINS + 1, np.int64)
    above_levels = np.empty(longest)
    # Below no photons there may be less than none: where the threshold is negative.
    may_be_negative = np.floor(np.float64(levels[0]) * ev[0] * ev[1] / ev[2] + 0.5) < 0
    for m in range(len(chosen)):
        for k in range(len(spans)):
            region = spans[k, 0]
            pixels = frames[chosen[m], spans[k, 1] : spans[k, 2]]
            sums[m, region] += _sum_signal(pixels, levels[0])
            if may_be_negative:
                photons[m, region] += _count_each(pixels, levels[0], ev, histograms[m, region])
            else:
                photons[m, region] += _count_levels(
                    pixels, levels, ev, reached, above_levels, histograms[m, region]
                )


@njit(cache=True, nogil=True, inline="never")
def _count_levels(
    pixels: Any, levels: Any, ev: Any, reached: Any, above_levels: Any, histogram: Any
) -> int:
    """Count the pixels that reach each level; the higher levels only where there is such signal."""
    reached[0] = len(pixels)
    _count_three(pixels, levels[1], levels[2], levels[3], reached[1:4])
    reached[4:] = 0
    if reached[3]:
        _count_three(pixels, levels[4], levels[5], levels[6], reached[4:7])
    if reached[6]:
        _count_three(pixels, levels[6], levels[7], levels[8], reached[6:9])
    photons = 0
    for count in range(HISTOGRAM_BINS):
        photons += reached[count] if count else 0
        above = reached[count + 1] if count < HISTOGRAM_BINS - 1 else 0
        histogram[count] += reached[count] - above
    if reached[HISTOGRAM_BINS]:
        _photons_above(pixels, levels[HISTOGRAM_BINS], ev, above_levels)
        photons += int(min(_sum(above_levels[: len(pixels)]), PHOTONS_MAX))
    return photons


@njit(cache=True, nogil=True, inline="never", error_model="numpy")
def _photons_above(pixels: Any, level: Any, ev: Any, found: Any) -> None:
    """Find the photons, less those of the levels below, of each pixel at or above a level."""
    gain, ev_per_electron, photon_ev = ev
    for i in range(len(pixels)):
        count = np.floor(np.float64(pixels[i]) * gain * ev_per_electron / photon_ev + 0.5)
        found[i] = count - (HISTOGRAM_BINS - 1) if pixels[i] >= level else 0.0


@njit(cache=True, nogil=True, inline="never", fastmath={"reassoc"})
def _sum(whole_numbers: Any) -> float:
    total = 0.0
    for value in whole_numbers:
        total += value
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _photons(value: Any, ev: Any) -> int:
    return int(min(np.floor(np.float64(value) * ev[0] * ev[1] / ev[2] + 0.5), PHOTONS_MAX / SPAN))


@njit(cache=True, nogil=True, inline="never")
def _count_three(pixels: Any, one: Any, two: Any, three: Any, reached: Any) -> None:
    # 32-bit counters, so that as many pixels as possible fit into a vector register.
    a, b, c = np.int32(0), np.int32(0), np.int32(0)
    for i in range(len(pixels)):
        value = pixels[i]
        a = np.int32(a + np.int32(value >= one))
        b = np.int32(b + np.int32(value >= two))
        c = np.int32(c + np.int32(value >= three))
    reached[0], reached[1], reached[2] = a, b, c


@njit(cache=True, nogil=True)
def _count_each(pixels: Any, least: Any, ev: Any, histogram: Any) -> int:
    photons = 0
    for value in pixels:
        count = _photons(value, ev) if value >= least else 0
        photons += count
        histogram[min(max(count, 0), HISTOGRAM_BINS - 1)] += 1
    return photons


@njit(cache=True, nogil=True)
def accumulate_images(
    frames: NDArray[np.float32],
    chosen: NDArray[np.int64],
    least: np.float32,
    origin: NDArray[np.float32],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    largest: NDArray[np.float32],
) -> None:
    """Add frames to the sums of deviations from the first frame, of their squares, and the maximum.

    The frames of a pixel are added one after the other, so the result does not depend on how a
    series of frames is cut into calls.

    Parameters
    ----------
    frames
        (n, pixels) ADU.
    chosen
        Indices of the frames to add, in order.
    least
        Smaller signals count as 0.
    origin
        (pixels,) the first frame of the series, ADU.
    sums, squares
        (pixels,) updated; ADU, ADU^2.
    largest
        (pixels,) updated; ADU.
    """
    pixels = frames.shape[1]
    whole = len(chosen) // 4 * 4
    for start in range(0, pixels, CHUNK):
        part = slice(start, min(start + CHUNK, pixels))
        state = (origin[part], sums[part], squares[part], largest[part])
        for k in range(0, whole, 4):
            _add_four(
                frames[chosen[k], part],
                frames[chosen[k + 1], part],
                frames[chosen[k + 2], part],
                frames[chosen[k + 3], part],
                least,
                state,
            )
        for k in range(whole, len(chosen)):
            _add_one(frames[chosen[k], part], least, state)


@njit(cache=True, nogil=True, inline="never")
def _add_one(frame: Any, least: Any, state: Any) -> None:
    origin, sums, squares, largest = state
    for i in range(len(frame)):
        a = np.float32(0) if frame[i] < least else frame[i]
        da = np.float64(a) - np.float64(origin[i])
        sums[i] += da
        squares[i] += da * da
        largest[i] = a if a > largest[i] else largest[i]


@njit(cache=True, nogil=True, inline="never")
def _add_four(first: Any, second: Any, third: Any, fourth: Any, least: Any, state: Any) -> None:
    """Add four frames: the same sums in the same order, with a quarter of the loads and stores."""
    origin, sums, squares, largest = state
    zero = np.float32(0)
    for i in range(len(first)):
        a = zero if first[i] < least else first[i]
        b = zero if second[i] < least else second[i]
        c = zero if third[i] < least else third[i]
        d = zero if fourth[i] < least else fourth[i]
        center = np.float64(origin[i])
        da, db = np.float64(a) - center, np.float64(b) - center
        dc, dd = np.float64(c) - center, np.float64(d) - center
        sums[i] = sums[i] + da + db + dc + dd
        squares[i] = squares[i] + da * da + db * db + dc * dc + dd * dd
        most = largest[i]
        most = a if a > most else most
        most = b if b > most else most
        most = c if c > most else most
        largest[i] = d if d > most else most


@njit(cache=True, nogil=True, error_model="numpy")
def image_moments(
    count: int,
    origin: NDArray[np.float32],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    mean: NDArray[np.float64],
    m2: NDArray[np.float64],
) -> None:
    """Turn sums of deviations from the first frame into mean and sum of squared deviations.

    The subtraction loses at most a factor of ``count + 1`` in relative precision: the sum of the
    squared deviations from the mean contains that of the first frame. So it is never below 0.

    Parameters
    ----------
    count
        Number of frames, > 0.
    origin, sums, squares
        See `accumulate_images`.
    mean, m2
        (pixels,) overwritten; ADU, ADU^2.
    """
    for i in range(len(origin)):
        shift = sums[i] / count
        mean[i] = np.float64(origin[i]) + shift
        m2[i] = squares[i] - sums[i] * shift


@njit(cache=True, nogil=True, error_model="numpy")
def merge_moments(
    counts: tuple[int, int],
    mean: NDArray[np.float64],
    m2: NDArray[np.float64],
    other_mean: NDArray[np.float64],
    other_m2: NDArray[np.float64],
    new_mean: NDArray[np.float64],
    new_m2: NDArray[np.float64],
) -> None:
    """Join the moments of two series of frames (Chan's formulas).

    Parameters
    ----------
    counts
        Number of frames of the one and of the other, > 0.
    mean, m2, other_mean, other_m2
        (pixels,).
    new_mean, new_m2
        (pixels,) overwritten.
    """
    share = counts[1] / (counts[0] + counts[1])
    weight = counts[0] * share
    for i in range(len(mean)):
        delta = other_mean[i] - mean[i]
        new_mean[i] = mean[i] + delta * share
        new_m2[i] = m2[i] + other_m2[i] + delta * delta * weight


@njit(cache=True, nogil=True)
def sum_rings(
    frames: NDArray[Any],
    chosen: NDArray[np.int64],
    least: np.floating[Any],
    labels: NDArray[np.unsignedinteger[Any]],
    sums: NDArray[np.float64],
) -> None:
    """Add up the signal of each ring, for each frame.

    Every eighth pixel goes to the same table: neighbors often have the same ring, and an addition
    to the same number would wait for the one before.

    Parameters
    ----------
    frames
        (n, pixels) ADU.
    chosen
        (m,) indices of frames.
    least
        Smaller signals count as 0.
    labels
        (pixels,) ring of each pixel, uint16 or uint32.
    sums
        (m, rings) ADU, overwritten.
    """
    tables = np.empty((8, sums.shape[1]))
    for m in range(len(chosen)):
        tables[:] = 0.0
        _add_rings(frames[chosen[m]], least, labels, tables)
        for ring in range(sums.shape[1]):
            total = 0.0
            for k in range(8):
                total += tables[k, ring]
            sums[m, ring] = total


@njit(cache=True, nogil=True, inline="never")
def _add_rings(frame: Any, least: Any, labels: Any, tables: Any) -> None:
    zero = np.float32(0)
    whole = len(frame) // 8 * 8
    for i in range(0, whole, 8):
        # All are loaded before the first addition, which might change them for all the compiler
        # knows.
        a, b, c, d = frame[i], frame[i + 1], frame[i + 2], frame[i + 3]
        e, f, g, h = frame[i + 4], frame[i + 5], frame[i + 6], frame[i + 7]
        tables[0, np.uint32(labels[i])] += zero if a < least else a
        tables[1, np.uint32(labels[i + 1])] += zero if b < least else b
        tables[2, np.uint32(labels[i + 2])] += zero if c < least else c
        tables[3, np.uint32(labels[i + 3])] += zero if d < least else d
        tables[4, np.uint32(labels[i + 4])] += zero if e < least else e
        tables[5, np.uint32(labels[i + 5])] += zero if f < least else f
        tables[6, np.uint32(labels[i + 6])] += zero if g < least else g
        tables[7, np.uint32(labels[i + 7])] += zero if h < least else h
    for i in range(whole, len(frame)):
        tables[0, np.uint32(labels[i])] += zero if frame[i] < least else frame[i]
