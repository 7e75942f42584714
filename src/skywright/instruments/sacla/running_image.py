"""Mean, spread and maximum of a series of images, frame by frame and merged."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.pixels import accumulate_images


@dataclass(frozen=True, eq=False)
class RunningImage:
    """Mean, spread and maximum of a series of images.

    Parameters
    ----------
    count
        Number of images.
    mean, m2
        (pixels,) float64: mean, and sum of squared deviations from it.
    largest
        (pixels,) float32.
    """

    count: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    largest: NDArray[np.float32]

    @classmethod
    def empty(cls, size: int) -> Self:
        """Return one without images."""
        return cls(0, np.zeros(size), np.zeros(size), np.full(size, -np.inf, np.float32))

    def extend(
        self, frames: NDArray[np.float32], chosen: NDArray[np.int64], least: np.float32
    ) -> "RunningImage":
        """Add some of (n, pixels) images in order; the arrays of this object are updated.

        Parameters
        ----------
        frames
            ADU.
        chosen
            Indices of the images to add.
        least
            Smaller signals count as 0, ADU.
        """
        accumulate_images(frames, chosen, least, self.count, self.mean, self.m2, self.largest)
        return RunningImage(self.count + len(chosen), self.mean, self.m2, self.largest)

    def merge(self, other: "RunningImage") -> "RunningImage":
        """Return the two series as one (Chan's formulas); neither changes."""
        if not other.count:
            return self
        if not self.count:
            return other
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        return RunningImage(count, mean, m2, np.maximum(self.largest, other.largest))
