"""What the page keeps of the spectrometer: newest spectrum, waterfall, trend of the fits."""

import base64
import io
import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dashboard.chart import CIVIDIS

Floats = NDArray[np.float64]
COLUMNS = 480
"""Of charts and waterfall: a spectrum of more is binned."""
ROWS = 120
TREND = 600


@dataclass
class SpectrumBoard:
    """The spectrometer as the page shows it.

    Attributes
    ----------
    facts
        Fields of `devices.psss.view.SpectrumFacts`; empty before the first message.
    status
        What is wrong, if the IOC is not connected.
    x, y, average : (n,) float64
        Binned to `COLUMNS` at most.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    status: str = "waiting for the spectrometer"
    x: Floats = field(default_factory=lambda: np.empty(0))
    y: Floats = field(default_factory=lambda: np.empty(0))
    average: Floats = field(default_factory=lambda: np.empty(0))
    number: int = field(default_factory=time.time_ns)
    """Grows with each message; no number of an earlier server."""
    _waterfall: deque[Floats] = field(default_factory=lambda: deque(maxlen=ROWS))
    _trend: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=TREND))

    async def changes(self, messages: AsyncIterator[bytes]) -> AsyncIterator[str]:
        """Take in the worker's messages, and yield `number` after each."""
        async for message in messages:
            self.take(message)
            yield str(self.number)

    def take(self, message: bytes, now_s: float | None = None) -> None:
        """Take in a message of `dashboard.psss.spectrum_worker`."""
        line, _, data = message.partition(b"\n")
        header = json.loads(line)
        self.number += 1
        if not header["connected"]:
            self.status = header["status"]
            return
        self.facts, self.status = header, ""
        arrays = np.frombuffer(data, np.float32).astype(np.float64)
        if not arrays.size:
            return
        x, y, average = (binned(each, COLUMNS) for each in arrays.reshape(3, -1))
        if len(y) != len(self.y) or not np.array_equal(x, self.x):
            self._waterfall.clear()
        self.x, self.y, self.average = x, y, average
        self._waterfall.append(y)
        now = time.time() if now_s is None else now_s
        self._trend.append((now, _number(header["center"]), _number(header["fwhm"])))

    @property
    def trend(self) -> tuple[Floats, Floats, Floats]:
        """Seconds before the last one, center and FWHM of the pulses that were shown."""
        if not self._trend:
            return np.empty(0), np.empty(0), np.empty(0)
        times, centers, widths = np.array(self._trend).T
        return times - times[-1], centers, widths

    def waterfall(self) -> str:
        """Return the last spectra as a picture, newest on top, as a ``data:`` address."""
        if not self._waterfall:
            return ""
        rows = np.stack(list(self._waterfall)[::-1])
        low, high = np.percentile(rows, [1.0, 99.8])
        level = np.clip((rows - low) / max(high - low, 1e-12), 0.0, 1.0)
        places = np.linspace(0.0, 1.0, len(CIVIDIS))
        shades = [np.interp(level, places, shade) for shade in np.transpose(CIVIDIS)]
        pixels = np.stack(shades, axis=-1).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def binned(values: Floats, most: int) -> Floats:
    """Return means of neighbours, at most `most` of them; what is left at the end is left out."""
    step = math.ceil(len(values) / most)
    whole = len(values) // step * step
    return np.asarray(values[:whole].reshape(-1, step).mean(axis=1))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
