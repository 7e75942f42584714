"""Kernels over the pixels of detector tiles. All sums are in double precision."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

HISTOGRAM_BINS = 8
"""Photon histogram of a region: pixels with 0 .. 6 photons, and with 7 or more."""
CHUNK = 2048
"""Pixels whose accumulators are updated together: they stay in the processor's first cache."""


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

    def passes(signal: np.float32) -> bool:
        return bool(np.float64(signal) * gain * ev_per_electron >= threshold_ev)

    with np.errstate(over="ignore"):
        signal = np.float32(threshold_ev / (gain * ev_per_electron))
    below, above = np.float32(-np.inf), np.float32(np.inf)
    while not passes(signal):
        signal = np.nextafter(signal, above, dtype=np.float32)
    while passes(np.nextafter(signal, below, dtype=np.float32)):
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
def sum_regions(
    pixels: NDArray[np.float32],
    spans: NDArray[np.int64],
    least: np.float32,
    sums: NDArray[np.float64],
) -> None:
    """Add up the signal of all regions of a tile in one pass.

    Parameters
    ----------
    pixels
        (rows * columns,) ADU.
    spans
        (n, 3), `pixel_spans`.
    least
        Smaller signals count as 0 (`least_signal`).
    sums
        (regions,) ADU, overwritten.
    """
    sums[:] = 0.0
    for k in range(len(spans)):
        sums[spans[k, 0]] += _sum_signal(pixels[spans[k, 1] : spans[k, 2]], least)


@njit(cache=True, nogil=True)
def count_photons(
    pixels: NDArray[np.float32],
    spans: NDArray[np.int64],
    least: np.float32,
    gain: float,
    ev_per_electron: float,
    photon_ev: float,
    photons: NDArray[np.int64],
    histograms: NDArray[np.int64],
) -> None:
    """Count the photons of all regions: floor(energy / photon energy + 0.5) in each pixel.

    Parameters
    ----------
    pixels, spans, least
        See `sum_regions`.
    gain, ev_per_electron
        See `least_signal`.
    photon_ev
        Energy of one photon, eV.
    photons
        (regions,) overwritten.
    histograms
        (regions, 8) overwritten: pixels with 0 .. 6 and with 7 or more photons.
    """
    photons[:] = 0
    histograms[:] = 0
    for k in range(len(spans)):
        region, first, last = spans[k]
        dark = 0
        for value in pixels[first:last]:
            if not value >= least:
                dark += 1
                continue
            count = int(np.floor(np.float64(value) * gain * ev_per_electron / photon_ev + 0.5))
            photons[region] += count
            histograms[region, min(max(count, 0), 7)] += 1
        histograms[region, 0] += dark


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate_images(
    frames: NDArray[np.float32],
    chosen: NDArray[np.int64],
    least: np.float32,
    count: int,
    mean: NDArray[np.float64],
    m2: NDArray[np.float64],
    largest: NDArray[np.float32],
) -> None:
    """Add frames to running mean, sum of squared deviations and maximum (Welford's formulas).

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
    count
        Number of frames added before.
    mean, m2
        (pixels,) updated; ADU, ADU^2.
    largest
        (pixels,) updated; ADU.
    """
    pixels = frames.shape[1]
    for start in range(0, pixels, CHUNK):
        stop = min(start + CHUNK, pixels)
        for k in range(len(chosen)):
            _add_frame(
                frames[chosen[k], start:stop],
                least,
                1.0 / (count + k + 1),
                mean[start:stop],
                m2[start:stop],
                largest[start:stop],
            )


@njit(cache=True, nogil=True, inline="never")
def _add_frame(frame: Any, least: Any, weight: float, mean: Any, m2: Any, largest: Any) -> None:
    for i in range(len(frame)):
        raw = frame[i]
        signal = np.float32(0) if raw < least else raw
        value = np.float64(signal)
        center = mean[i] + (value - mean[i]) * weight
        m2[i] += (value - mean[i]) * (value - center)
        mean[i] = center
        largest[i] = signal if signal > largest[i] else largest[i]


@njit(cache=True, nogil=True)
def sum_labels(values: NDArray[Any], labels: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """Add up values by label.

    Every fourth pixel goes to the same table: neighbors often have the same label, and an addition
    to the same number would wait for the one before.

    Parameters
    ----------
    values
        (pixels,).
    labels
        (pixels,) from 0 to count - 1.
    count
        Number of labels.

    Returns
    -------
    NDArray
        (count,) float64.
    """
    total = np.zeros((4, count))
    whole = len(values) // 4 * 4
    for i in range(0, whole, 4):
        total[0, np.uint32(labels[i])] += values[i]
        total[1, np.uint32(labels[i + 1])] += values[i + 1]
        total[2, np.uint32(labels[i + 2])] += values[i + 2]
        total[3, np.uint32(labels[i + 3])] += values[i + 3]
    for i in range(whole, len(values)):
        total[0, np.uint32(labels[i])] += values[i]
    return total.sum(axis=0)
