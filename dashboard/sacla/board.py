"""What the page keeps of the shots: the newest facts and the mean image."""

from collections.abc import Mapping
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
    curve_facts
        The newest facts with a curve. At its end a scan restores the bins that were set before it,
        and the IOC has no curve then until further shots come.
    charts
        What was drawn last, and the `number` that it was drawn at.
    """

    status: str = "waiting for the IOC of the shots"
    image: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    colors: tuple[float, float] = (np.nan, np.nan)
    curve_facts: Mapping[str, Any] = field(default_factory=dict)
    charts: tuple[int, Mapping[str, Any]] = (0, {})

    def take_data(self, data: bytes) -> None:
        """Take in the mean image, and note whether there is a curve."""
        self.image = np.frombuffer(data, "<f4").reshape(self.facts["image_shape"])
        self.colors = color_limits(self.image)
        sides = (self.array("curves", f"{side}_mean") for side in ("on", "off"))
        if any(np.isfinite(side).any() for side in sides):
            self.curve_facts = self.facts

    def array(self, *keys: str) -> NDArray[np.float64]:
        """Return an array of the facts; NaN where it has no value."""
        return array_of(self.facts, *keys)


def array_of(facts: Mapping[str, Any], *keys: str) -> NDArray[np.float64]:
    """Return an array of some facts; NaN where it has no value."""
    value: Any = facts
    for key in keys:
        value = value.get(key, {})
    return np.array(value or [], dtype=float)
