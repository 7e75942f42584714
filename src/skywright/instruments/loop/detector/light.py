"""The light of a picture, and how much a mount differs from it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.detection import DARK_LEVEL, FLAT_RANGE


@dataclass(frozen=True)
class Light:
    """Figures of the light of a picture, gray levels."""

    level: float
    saturated: float
    sharpness: float
    noise: float
    spread: float

    @property
    def flat(self) -> bool:
        """Whether neither a mount nor an empty view can be told."""
        least = 4 * FLAT_RANGE if self.level < DARK_LEVEL else FLAT_RANGE
        return self.spread < least


def light_of(gray: NDArray[np.uint8]) -> Light:
    """Measure the light on every second row and column."""
    few = gray[::2, ::2].astype(np.int16)
    counts = np.bincount(few.ravel(), minlength=256)
    here = few[:-1:2, :-1:2]
    across, down = np.abs(few[:-1:2, 1::2] - here), np.abs(few[1::2, :-1:2] - here)
    low, high = _quantiles(few[::2, ::2], 0.005, 0.995)
    return Light(
        level=float(counts @ np.arange(256)) / few.size,
        saturated=float(counts[:2].sum() + counts[254:].sum()) / few.size,
        sharpness=0.5 * _quantiles(across + down, 0.995)[0],
        # The median of a half-normal distribution is 0.6745 of its standard deviation.
        noise=_quantiles(across, 0.5)[0] / (0.6745 * math.sqrt(2)),
        spread=high - low,
    )


def _quantiles(levels: NDArray[np.int16], *shares: float) -> list[float]:
    """Return quantiles of small integers, none below 0: counting them is faster than sorting."""
    up_to = np.bincount(levels.ravel()).cumsum()
    return (
        np.searchsorted(up_to, np.array(shares) * (levels.size - 1), "right").astype(float).tolist()
    )


def contrast(gray: NDArray[np.uint8], mount: NDArray[np.bool_]) -> float:
    """Return by how much a mount differs from what is around it, gray levels.

    Parameters
    ----------
    gray
        (H, W) uint8 picture.
    mount
        (R, C) bool, the cells that show it; they divide the picture evenly.
    """
    rows = np.linspace(0, gray.shape[0] - 1, mount.shape[0]).round().astype(int)
    columns = np.linspace(0, gray.shape[1] - 1, mount.shape[1]).round().astype(int)
    small = gray[np.ix_(rows, columns)].astype(np.int16)
    around = small if mount.all() else small[~mount]
    apart = np.abs(small[mount] - int(_quantiles(around, 0.5)[0]))
    return _quantiles(apart, 0.9)[0]
