"""What the page keeps of the shots: the newest facts and the mean image."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.color_map import color_limits
from dashboard.live_board import LiveBoard


@dataclass
class ShotBoard(LiveBoard):
    """The shots as the page shows them: messages of `dashboard.sacla.shots_worker`.

    Attributes
    ----------
    image
        (rows, columns) float32, thinned mean image; NaN where a pixel is bad.
    colors
        Values of the image that get the first and the last color, eV.
    operating
        Held while a request changes the IOC's settings: it reads them first.
    """

    status: str = "waiting for the IOC of the shots"
    image: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    colors: tuple[float, float] = (np.nan, np.nan)
    operating: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take_data(self, data: bytes) -> None:
        """Take in the mean image."""
        self.image = np.frombuffer(data, "<f4").reshape(self.facts["image_shape"])
        self.colors = color_limits(self.image)

    def array(self, *keys: str) -> NDArray[np.float64]:
        """Return an array of the facts; NaN where it has no value."""
        value: Any = self.facts
        for key in keys:
            value = value.get(key, {})
        value = value or []
        return np.array(value, dtype=float)
