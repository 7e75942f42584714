"""Mean, spread and maximum of a series of images, frame by frame and merged."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.sacla.pixels import accumulate_images, image_moments, merge_moments


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

    def moments(self) -> "RunningImage":
        """Return this: it has mean and spread, as `GrowingImage.moments` finds them."""
        return self

    def merge(self, other: "RunningImage") -> "RunningImage":
        """Return the two series as one (Chan's formulas); neither changes."""
        if not other.count:
            return self
        if not self.count:
            return other
        mean, m2 = np.empty_like(self.mean), np.empty_like(self.m2)
        counts = (self.count, other.count)
        merge_moments(counts, self.mean, self.m2, other.mean, other.m2, mean, m2)
        return RunningImage(sum(counts), mean, m2, np.maximum(self.largest, other.largest))


@dataclass(frozen=True, eq=False)
class GrowingImage:
    """Sums over a series of images, to which images can be added.

    Parameters
    ----------
    count
        Number of images.
    origin
        (pixels,) float32: the first image.
    sums, squares
        (pixels,) float64: sums of the deviations from the first image, and of their squares.
    largest
        (pixels,) float32.
    """

    count: int
    origin: NDArray[np.float32]
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]
    largest: NDArray[np.float32]

    @classmethod
    def empty(cls, size: int) -> Self:
        """Return one without images."""
        origin, largest = np.empty(size, np.float32), np.empty(size, np.float32)
        sums, squares = np.empty(size), np.empty(size)
        # Filled, not `np.zeros`: numpy then asks for huge pages, and adding images, which walks
        # through much memory, takes half the time.
        for array in (origin, sums, squares):
            array.fill(0)
        largest.fill(-np.inf)
        return cls(0, origin, sums, squares, largest)

    def extend(
        self, frames: NDArray[np.float32], chosen: NDArray[np.int64], least: np.float32
    ) -> "GrowingImage":
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
        if not len(chosen):
            return self
        if not self.count:
            first = frames[chosen[0]]
            np.copyto(self.origin, np.where(first < least, np.float32(0), first))
        accumulate_images(frames, chosen, least, self.origin, self.sums, self.squares, self.largest)
        count = self.count + len(chosen)
        return GrowingImage(count, self.origin, self.sums, self.squares, self.largest)

    def moments(self) -> RunningImage:
        """Return mean and spread so far."""
        if not self.count:
            return RunningImage.empty(len(self.origin))
        mean, m2 = np.empty_like(self.sums), np.empty_like(self.squares)
        image_moments(self.count, self.origin, self.sums, self.squares, mean, m2)
        return RunningImage(self.count, mean, m2, self.largest.copy())
