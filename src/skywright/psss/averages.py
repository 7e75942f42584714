"""Averages over the last pulses, for looking: spectrum, center and width."""

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.psss.processing import FitStatus
from skywright.psss.results import Result
from skywright.psss.statistics import RunningAverage

PULSES = 100


@dataclass(frozen=True, eq=False)
class Averages:
    """Means over the last pulses.

    Parameters
    ----------
    spectrum
        (W,) counts; None before the first.
    pulses
        Spectra in it.
    center, fwhm
        Means over those pulses whose fit is good, in the axis' unit; NaN without any.
    fits
        How many those are.
    """

    spectrum: NDArray[np.float64] | None
    pulses: int
    center: float
    fwhm: float
    fits: int


class AverageSink:
    """Keeps the averages up to date; they begin anew when settings change.

    Parameters
    ----------
    pulses
        Over how many.
    """

    def __init__(self, pulses: int = PULSES) -> None:
        self._lock = threading.Lock()
        self._pulses = pulses
        self._settings_number = -1
        self._spectra = RunningAverage(pulses)
        self._fits: deque[tuple[float, float]] = deque(maxlen=pulses)

    def offer(self, result: Result) -> None:
        """Take in a result."""
        found = result.spectrum
        with self._lock:
            if result.settings_number != self._settings_number:
                self._settings_number = result.settings_number
                self._begin(self._pulses)
            if len(found.spectrum) and found.status is not FitStatus.BAD_PIXELS:
                self._spectra.add(found.spectrum)
            good = found.status.has_values and found.status is not FitStatus.NOT_CONVERGED
            self._fits.append((found.center, found.fwhm) if good else (np.nan, np.nan))

    def set_pulses(self, pulses: int) -> None:
        """Average over so many from now on."""
        with self._lock:
            self._pulses = pulses
            self._begin(pulses)

    def get(self) -> Averages:
        """Return the averages as they are now."""
        with self._lock:
            mean, count = self._spectra.mean(), self._spectra.count
            fits = np.array(self._fits).reshape(-1, 2)
        fits = fits[np.isfinite(fits[:, 0])]
        center, fwhm = fits.mean(axis=0) if len(fits) else (np.nan, np.nan)
        return Averages(mean, count, float(center), float(fwhm), len(fits))

    def _begin(self, pulses: int) -> None:
        self._spectra = RunningAverage(pulses)
        self._fits = deque(maxlen=pulses)
