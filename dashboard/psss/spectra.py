"""Data of the spectrometer for the page: newest spectrum, waterfall, trend of the fits."""

import base64
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dashboard.color_map import false_color_png
from dashboard.live_board import LiveBoard

Floats = NDArray[np.float64]
COLUMNS = 480
"""Maximum number of columns of charts and waterfall; a wider spectrum is binned."""
ROWS = 120
TREND, TREND_S = 600, 300.0
"""Maximum number of pulses of a trend, and its maximum length, s: pulses from before a long pause
would compress the others."""


@dataclass
class SpectrumBoard(LiveBoard):
    """The spectrometer as the page shows it: messages of `dashboard.psss.spectrum_worker`.

    Attributes
    ----------
    x, y, average : (n,) float64
        Axis, newest spectrum and average, binned to `COLUMNS` values or fewer.
    """

    status: str = "waiting for the spectrometer"
    x: Floats = field(default_factory=lambda: np.empty(0))
    y: Floats = field(default_factory=lambda: np.empty(0))
    average: Floats = field(default_factory=lambda: np.empty(0))
    clock: Callable[[], float] = time.monotonic
    _waterfall: deque[Floats] = field(default_factory=lambda: deque(maxlen=ROWS))
    _trend: deque[tuple[float, float | None, float | None]] = field(
        default_factory=lambda: deque(maxlen=TREND)
    )
    _trend_unit: str | None = None

    def take_data(self, data: bytes) -> None:
        """Add axis, spectrum and average of a new pulse; empty data: no new pulse.

        Before the first pulse of an IOC nothing is kept: an earlier start had perhaps other units.
        """
        pulse_id = self.facts["pulse_id"]
        if pulse_id is not None and pulse_id < 0:
            self.x, self.y, self.average = np.empty((3, 0))
            self._waterfall.clear()
            self._trend.clear()
        arrays = np.frombuffer(data, np.float32).astype(np.float64)
        if not arrays.size:
            return
        x, y, average = (binned(each, COLUMNS) for each in arrays.reshape(3, -1))
        if len(y) != len(self.y) or not np.array_equal(x, self.x):
            self._waterfall.clear()
        unit = self.facts.get("unit")
        if unit != self._trend_unit:
            self._trend.clear()
        self._trend_unit = unit
        self.x, self.y, self.average = x, y, average
        self._waterfall.append(y)
        now = self.clock()
        self._trend.append((now, self.facts["center"], self.facts["fwhm"]))
        while self._trend[0][0] < now - TREND_S:
            self._trend.popleft()

    @property
    def trend(self) -> tuple[Floats, Floats, Floats]:
        """Seconds before the last one, center and FWHM of the pulses that were shown."""
        times, centers, widths = np.array(self._trend, float).reshape(-1, 3).T  # NaN for None
        return times - times[-1:], centers, widths

    def waterfall(self) -> str:
        """Return the last spectra as a picture, the newest at the top, as a ``data:`` address."""
        if not self._waterfall:
            return ""
        rows = np.stack(list(self._waterfall)[::-1])
        return "data:image/png;base64," + base64.b64encode(false_color_png(rows)).decode()


def binned(values: Floats, most: int) -> Floats:
    """Return at most `most` means of equal numbers of neighbors; a rest at the end is left out."""
    step = math.ceil(len(values) / most)
    whole = len(values) // step * step
    return np.asarray(values[:whole].reshape(-1, step).mean(axis=1))
