"""Views of live images, and the base class for own ones."""

import time
from abc import ABC, abstractmethod
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from skywright.files.replacing import replacing
from skywright.wire.daqdata.encode import LiveImage

RECENT = 10
"""Images of a kind whose minima and maxima set the limits of the colors."""
WINDOWS_S = (10.0, 60.0, 600.0)
"""Lengths of the windows of `MaxPixels`; one that is full begins anew."""
BINS = 75


class View(ABC):
    """Base class of views: takes every image, draws when it is asked to.

    `show.show` feeds views from a server and puts them into windows or files. It draws files on a
    thread of their own, so that no image is missed meanwhile: `update` may be called during `draw`.
    """

    @abstractmethod
    def update(self, image: LiveImage) -> None:
        """Take an image; return soon."""

    @abstractmethod
    def draw(self, figure: Figure) -> None:
        """Draw the present state into an empty figure."""

    def save(self, path: str | Path) -> None:
        """Write the picture to a PNG file."""
        path = Path(path)
        figure = Figure(layout="constrained")
        self.draw(figure)
        with replacing(path) as new:
            figure.savefig(new, dpi=100, format="png")


class Preview(View):
    """The newest images: a row for each module, pulse heights left and movie right."""

    def __init__(self) -> None:
        self._newest: dict[tuple[int, bool], LiveImage] = {}
        self._limits: dict[bool, deque[tuple[float, float]]] = {
            movie: deque(maxlen=RECENT) for movie in (True, False)
        }

    def update(self, image: LiveImage) -> None:
        """Take an image."""
        self._newest[image.module, image.movie] = image
        self._limits[image.movie].append((float(image.image.min()), float(image.image.max())))

    def draw(self, figure: Figure) -> None:
        """Draw all modules."""
        modules = sorted({module for module, _ in list(self._newest)})
        figure.set_size_inches(9, 4 * max(1, len(modules)))
        if not modules:
            figure.text(0.5, 0.5, "no image yet", ha="center")
            return
        panels = figure.subplots(len(modules), 2, squeeze=False)
        for row, module in enumerate(modules):
            for panel, movie in zip(panels[row], (False, True), strict=True):
                image = self._newest.get((module, movie))
                if image is None:
                    panel.set_axis_off()
                else:
                    self._draw_image(figure, panel, image)

    def _draw_image(self, figure: Figure, panel: Any, image: LiveImage) -> None:
        lows, highs = zip(*self._limits[image.movie], strict=True)
        low, high = np.quantile(lows, 0.05), np.quantile(highs, 0.95)
        shown = panel.imshow(image.image, cmap="plasma", vmin=low, vmax=max(high, low + 1))
        figure.colorbar(shown, ax=panel, label="counts" if image.movie else "ADC")
        panel.set_title(title_of(image), fontsize=7)
        for axis in (panel.xaxis, panel.yaxis):  # pixels have whole numbers
            axis.set_major_locator(MaxNLocator(8, integer=True))


def title_of(image: LiveImage) -> str:
    """Return kind, board, time and place of an image."""
    kind = "movie" if image.movie else "pulse height"
    board = "" if image.quabo is None else f" Q{image.quabo}"
    second, ns = divmod(image.time_ns, 10**9)
    moment = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}.{ns:09d} UTC"
    remark = f" ({image.message})" if image.message else ""
    return (
        f"module {image.module} {kind}{board}\n{moment}{remark}\n{image.file} #{image.frame_number}"
    )


class MaxPixels(View):
    """Distribution of the largest pixel of pulse-height images, in `WINDOWS_S`."""

    def __init__(self) -> None:
        self._since = [time.monotonic()] * len(WINDOWS_S)
        self._values: list[dict[int, list[int]]] = [{} for _ in WINDOWS_S]

    def update(self, image: LiveImage) -> None:
        """Take an image; movies do not count."""
        if image.movie:
            return
        now, largest = time.monotonic(), int(image.image.max())
        for index, length in enumerate(WINDOWS_S):
            if now - self._since[index] > length:
                self._since[index], self._values[index] = now, {}
            self._values[index].setdefault(image.module, []).append(largest)

    def draw(self, figure: Figure) -> None:
        """Draw one panel for each window, one curve for each module."""
        figure.set_size_inches(4 * len(WINDOWS_S), 3.5)
        panels = figure.subplots(1, len(WINDOWS_S), squeeze=False)[0]
        now = time.monotonic()
        windows = zip(panels, WINDOWS_S, self._since, self._values, strict=True)
        for panel, length, since, found in windows:
            values = found if now - since <= length else {}
            for module, largest in sorted(values.items()):
                label = f"module {module}: {len(largest)}"
                panel.hist(largest, bins=BINS, density=True, histtype="step", label=label)
            panel.set(title=f"{length:g} s", xlabel="largest pixel (ADC)", ylabel="density")
            if values:
                panel.legend(fontsize=7)


class Speed(View):
    """Images per second, by kind and module, over the whole time."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._started = time.monotonic()

    def update(self, image: LiveImage) -> None:
        """Count an image."""
        key = f"module {image.module} {'movie' if image.movie else 'pulse height'}"
        self._counts[key] = self._counts.get(key, 0) + 1

    def rates(self) -> dict[str, float]:
        """Return images per second since the last call, by kind and module."""
        now = time.monotonic()
        seconds = max(now - self._started, 1e-9)
        rates = {key: count / seconds for key, count in sorted(self._counts.items())}
        self._counts, self._started = {}, now
        return rates

    def draw(self, figure: Figure) -> None:
        """Draw a bar for each kind and module."""
        figure.set_size_inches(6, 3)
        rates = self.rates()
        panel = figure.subplots()
        panel.barh(list(rates), list(rates.values()))
        panel.set_xlabel("images per second")
