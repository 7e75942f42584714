"""Statistics of SASE spectra: spikes, second-order correlation, pulse length, averages.

A SASE pulse of length T (FWHM of a Gaussian intensity, full longitudinal coherence of each mode,
no chirp) has spikes of the width 4 sqrt(2) ln 2 hbar / T = 2.581 eV fs / T, strongest and mean
alike, and the second-order correlation g2(d) = <I(E) I(E + d)> / <I(E)> <I(E + d)> falls from 2 to
1 with the same width: Saldin, Schneidmiller, Yurkov, Optics Communications 148 (1998) 383; Lutman
et al., Phys. Rev. ST Accel. Beams 15 (2012) 030705. A chirp makes spikes wider than that: what is
found is then a lower limit of the pulse length.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.psss.fit_chain import baseline
from skywright.instruments.psss.fit_model import SUMMATION

HBAR_EV_FS = 0.6582119569
LENGTH_TIMES_WIDTH = 4.0 * math.sqrt(2.0) * math.log(2.0) * HBAR_EV_FS
"""eV fs: pulse length times width of a spike, both FWHM."""
LAGS = 64
"""Number of lags of the correlation, in columns, from 0."""
NOISE_HEIGHT = 6.0
"""Between two spikes the spectrum must fall by this number of standard deviations of a column's
noise, plus `PART_OF_HIGHEST`."""
PART_OF_HIGHEST = 0.05
"""Part of the height of the highest spike."""


@dataclass(frozen=True, slots=True)
class Spikes:
    """The spikes of one spectrum.

    Parameters
    ----------
    count
        Number of maxima that are above the noise and separated from each other.
    width
        Median FWHM, in columns, of the spikes that fall to half their height on both sides; NaN if
        none does.
    positions
        (count,) columns of the maxima.
    """

    count: int
    width: float
    positions: NDArray[np.int64]


def find_spikes(spectrum: NDArray[np.float64]) -> Spikes:
    """Find the spikes of a spectrum that is not smoothed.

    A maximum is a spike if the spectrum falls on both sides by 6 standard deviations of a column
    plus 5 % of the height of the highest spike. The standard deviations are estimated from fourth
    differences, in dark and in bright columns.

    Parameters
    ----------
    spectrum
        (W,) counts, on any offset.

    Returns
    -------
    Spikes
    """
    if len(spectrum) < 8 or not (np.abs(spectrum) < 1e100).all():
        return Spikes(0, math.nan, np.empty(0, np.int64))
    light = above_baseline(spectrum)
    positions, widths = np.empty(len(light), np.int64), np.empty(len(light))
    count = walk_spikes(light, *_noise(light), positions, widths)
    known = widths[:count][~np.isnan(widths[:count])]
    width = float(np.median(known)) if len(known) else math.nan
    return Spikes(count, width, positions[:count].copy())


def above_baseline(spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a spectrum less its baseline (`fit_chain.baseline`), (W,) counts."""
    counts = np.asarray(spectrum, np.float64)
    return counts - baseline(counts)


def autocorrelation(spectrum: NDArray[np.float64], lags: int = LAGS) -> NDArray[np.float64]:
    """Return the sums over columns of I(x) I(x + lag), with I above the baseline.

    Parameters
    ----------
    spectrum
        (W,) counts, not smoothed.
    lags
        Number N of lags: 0 to N - 1.

    Returns
    -------
    (lags,) float64, counts^2
        0 for lags that do not fit into the spectrum.
    """
    light = above_baseline(spectrum)
    found = np.zeros(lags)
    correlate(light, found)
    return found


def second_order_correlation(
    mean_spectrum: NDArray[np.float64], mean_autocorrelation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return g2 of the pulses for each lag, with columns weighted by their light.

    Parameters
    ----------
    mean_spectrum
        (W,) mean of the spectra above their baselines.
    mean_autocorrelation
        (L,) mean of their `autocorrelation`.

    Returns
    -------
    (L,) float64
        g2; 1 if there is no correlation, NaN if there is no light. Lag 0 includes shot and read
        noise. The jitter of energy and center from pulse to pulse adds to all lags.
    """
    expected = np.zeros(len(mean_autocorrelation))
    correlate(np.asarray(mean_spectrum, np.float64), expected)
    return np.divide(
        mean_autocorrelation, expected, out=np.full(len(expected), np.nan), where=expected > 0.0
    )


def correlation_width(g2: NDArray[np.float64]) -> float:
    """Return the FWHM of g2 - 1, in columns; NaN if there is no correlation.

    It is the FWHM of a Gaussian, fitted to the lags from 1 on at which g2 is above a quarter of its
    height at lag 1; lag 0 includes the noise. Heights are above the lowest mean of 5 lags, because
    the jitter of the machine adds to all lags.
    """
    if len(g2) < 8 or not np.isfinite(g2).all():
        return math.nan
    floor = float(np.convolve(g2[1:], np.full(5, 0.2), "valid").min())
    above = g2[1:] - floor
    low = np.flatnonzero(above < 0.25 * above[0])
    if above[0] <= 0.0 or not len(low) or low[0] < 2:
        return math.nan
    squares = np.arange(1.0, low[0] + 1.0) ** 2
    slope = float(np.polyfit(squares, np.log(above[: low[0]]), 1, w=above[: low[0]])[0])
    return math.sqrt(-4.0 * math.log(2.0) / slope) if slope < 0.0 else math.nan


def pulse_length_fs(
    width_ev: float, resolution_ev: float = 0.0, of_correlation: bool = False
) -> float:
    """Estimate the pulse length (FWHM) from the width of the spikes.

    Parameters
    ----------
    width_ev
        FWHM of a spike, or of g2 - 1.
    resolution_ev
        FWHM of the spectrometer's response. Its square is subtracted once from that of a spike's
        width, and twice from that of the width of g2 - 1.
    of_correlation
        True: `width_ev` is the width of g2 - 1.

    Returns
    -------
    float
        Pulse length, fs; infinite if the spikes are no wider than the resolution, NaN for NaN.
    """
    squared = width_ev**2 - (2.0 if of_correlation else 1.0) * resolution_ev**2
    if math.isnan(squared):
        return math.nan
    return LENGTH_TIMES_WIDTH / math.sqrt(squared) if squared > 0.0 else math.inf


class RunningAverage:
    """The mean of the last spectra.

    Parameters
    ----------
    pulses
        Number N of the last spectra that are averaged.
    """

    def __init__(self, pulses: int) -> None:
        self.pulses = pulses
        self._ring = np.empty((0, 0))
        self._sum = np.empty(0)
        self._added = 0

    @property
    def count(self) -> int:
        """Number of spectra in the mean."""
        return min(self._added, self.pulses)

    @property
    def ends_block(self) -> bool:
        """Whether the last N spectra are a block: blocks are successive and do not overlap."""
        return self._added > 0 and self._added % self.pulses == 0

    def add(self, spectrum: NDArray[Any]) -> None:
        """Add a spectrum; with another width than the last one, the mean begins again."""
        if len(spectrum) != len(self._sum):
            self._ring = np.zeros((self.pulses, len(spectrum)))
            self._sum = np.zeros(len(spectrum))
            self._added = 0
        row = self._ring[self._added % self.pulses]
        self._sum -= row
        row[:] = spectrum
        self._sum += row
        self._added += 1
        if self.ends_block:
            self._sum = self._ring.sum(axis=0)  # removes the rounding errors of fractions

    def mean(self) -> NDArray[np.float64] | None:
        """Return (W,) counts; None before the first spectrum."""
        return self._sum / self.count if self._added else None


def _noise(light: NDArray[np.float64]) -> tuple[float, float]:
    """Return (a, b): the variance of a column with `light` counts is about a + b light."""
    squares = np.diff(light, 4) ** 2 / 70.0
    level = light[2:-2]
    bright = level > 0.25 * light.max()
    # Medians: on the tops and in the valleys of spikes the differences are not noise.
    to_variance = 1.0 / 0.4549
    dark_part, bright_part = squares[~bright], squares[bright]
    dark = to_variance * float(np.median(dark_part)) if len(dark_part) >= 16 else 0.0
    if len(bright_part) < 16:
        return dark, 0.0
    slope = (to_variance * float(np.median(bright_part)) - dark) / float(level[bright].mean())
    return dark, max(slope, 0.0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=SUMMATION)
def correlate(light: NDArray[np.float64], found: NDArray[np.float64]) -> None:
    """Fill `found` with the sums of light[x] light[x + lag] for each lag."""
    for lag in range(min(found.size, light.size)):
        shifted = light[lag:]
        total = 0.0
        for i in range(shifted.size):
            total += light[i] * shifted[i]
        found[lag] = total


@njit(cache=True, nogil=True, error_model="numpy")
def walk_spikes(
    light: NDArray[np.float64],
    constant: float,
    slope: float,
    positions: NDArray[np.int64],
    widths: NDArray[np.float64],
) -> int:
    """Fill in the positions and FWHM of the spikes in (W,) `light`; return their number.

    A maximum is a spike if the spectrum rises before it and falls after it by more than the height
    that noise reaches.
    """
    least = PART_OF_HIGHEST * np.max(light)
    count, top, bottom, rising = 0, 0, 0, True
    low = light[0]
    for i in range(light.size):
        height = least + NOISE_HEIGHT * np.sqrt(constant + slope * max(light[top], 0.0))
        if rising:
            if light[i] > light[top]:
                top = i
            elif light[i] < light[top] - height:
                if light[top] - low > height and light[top] > height:
                    positions[count] = top
                    count += 1
                bottom, rising = i, False
        else:
            height = least + NOISE_HEIGHT * np.sqrt(constant + slope * max(light[i], 0.0))
            if light[i] < light[bottom]:
                bottom = i
            elif light[i] > light[bottom] + height:
                low = light[bottom]
                top, rising = i, True
    for k in range(count):
        first = positions[k - 1] if k else 0
        last = positions[k + 1] if k + 1 < count else light.size - 1
        widths[k] = half_width(light, positions[k], first, last)
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def half_width(light: NDArray[np.float64], top: int, first: int, last: int) -> float:
    """Return the FWHM around `top`; NaN if half of it is not reached before `first` or `last`."""
    half = 0.5 * light[top]
    left, right = top, top
    while left > first and light[left] > half:
        left -= 1
    while right < last and light[right] > half:
        right += 1
    if light[left] > half or light[right] > half:
        return np.nan
    up = left + (half - light[left]) / (light[left + 1] - light[left])
    down = right - (half - light[right]) / (light[right - 1] - light[right])
    return down - up


def warm_up() -> None:
    """Compile the kernels, or load them from their cache."""
    autocorrelation(np.ones(16), 2)
    find_spikes(np.hanning(32))
