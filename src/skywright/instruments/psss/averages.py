"""Averages for displays: a running mean over the last pulses, and means of successive blocks."""

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss.processing import FitStatus
from skywright.instruments.psss.results import Result
from skywright.instruments.psss.statistics import RunningAverage

PULSES = 100


@dataclass(frozen=True, eq=False)
class Averages:
    """Means over the last pulses.

    Parameters
    ----------
    spectrum
        (W,) counts, mean of the last N spectra, or of all if there are fewer; None before the first
        one.
    pulses
        Number of spectra in this mean.
    center, fwhm
        Means over those of the pulses whose fit is good (`FitStatus.is_good`), in the axis' unit;
        NaN if there is none.
    fits
        Number of pulses in the means of center and width.
    block
        (W,) counts, mean of the last complete block of N spectra; None before the first block.
    block_pulse_id
        Pulse id of the last pulse in this block; -1 before the first block.
    """

    spectrum: NDArray[np.float64] | None
    pulses: int
    center: float
    fwhm: float
    fits: int
    block: NDArray[np.float64] | None = None
    block_pulse_id: int = -1


class AverageEndpoint:
    """Keeps the averages up to date; they begin again when settings or the picture's width change.

    Parameters
    ----------
    pulses
        Number N of the last spectra that are averaged, and of the spectra of a block.
    """

    def __init__(self, pulses: int = PULSES) -> None:
        self._lock = threading.Lock()
        self._pulses = pulses
        self._made_with = -1, 0
        """Number of the settings, and width of the spectra."""
        self._full: tuple[NDArray[np.float64] | None, int] = None, -1
        """Mean of the last complete block, and the id of its last pulse."""
        self._begin()

    def offer(self, result: Result) -> None:
        """Take in a result."""
        found = result.spectrum
        with self._lock:
            made_with = result.settings_number, len(found.spectrum) or self._made_with[1]
            if made_with != self._made_with:
                self._made_with = made_with
                self._begin()
            if not len(found.spectrum) or found.status is FitStatus.BAD_PIXELS:
                return
            self._spectra.add(found.spectrum)
            if self._spectra.ends_block:
                self._full = self._spectra.mean(), result.pulse.pulse_id
            good = found.status.is_good
            self._fits.append((found.center, found.fwhm) if good else (np.nan, np.nan))

    def set_pulses(self, pulses: int) -> None:
        """Set the number N of spectra that are averaged; the averages begin again."""
        with self._lock:
            self._pulses = pulses
            self._begin()

    def get(self) -> Averages:
        """Return the averages as they are now."""
        with self._lock:
            mean, count = self._spectra.mean(), self._spectra.count
            full = self._full
            fits = np.array(self._fits).reshape(-1, 2)
        fits = fits[np.isfinite(fits[:, 0])]
        center, fwhm = fits.mean(axis=0) if len(fits) else (np.nan, np.nan)
        return Averages(mean, count, float(center), float(fwhm), len(fits), *full)

    def _begin(self) -> None:
        self._spectra = RunningAverage(self._pulses)
        self._full = None, -1
        self._fits: deque[tuple[float, float]] = deque(maxlen=self._pulses)
