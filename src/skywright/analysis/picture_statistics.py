"""Gray levels of a camera's pictures: the simplest analysis, an example for others."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column

LEVELS = 256
GRAY = {"units": "gray levels"}


class Levels(NamedTuple):
    """Statistic of a block: number of pictures, sum of their means, and their histogram."""

    n: int
    mean_sum: float
    histogram: NDArray[np.int64]


class PictureStatistics(Analysis[Levels]):
    """Mean, standard deviation and range of each picture; mean level and histogram of all.

    Parameters
    ----------
    full_scale
        Highest gray level, 255 for 8-bit cameras. The last bin of the histogram includes all
        higher levels, the first one those below 0.

    Raises
    ------
    ConfigError
        If `full_scale` is not a finite number above 0.
    """

    name = "picture_statistics"
    stream = "pictures"
    version = "2"
    inputs = ("image",)
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"image": ArrayInput(2)}
    columns = (
        Column("mean", "<f8", attrs={**GRAY, "description": "mean level"}),
        Column("sd", "<f8", attrs={**GRAY, "description": "standard deviation of the levels"}),
        Column("darkest", "<f8", attrs=GRAY),
        Column("brightest", "<f8", attrs=GRAY),
    )
    results = (
        Column("mean_level", "<f8", attrs={**GRAY, "description": "mean of the frames' means"}),
        Column(
            "histogram", "<i8", (LEVELS,), attrs={"description": "pixels in 256 ranges of level"}
        ),
    )

    def __init__(self, full_scale: float = 255.0) -> None:
        if not 0 < full_scale < np.inf:
            raise ConfigError(f"full_scale {full_scale:g}: expected a number above 0")
        super().__init__(full_scale=full_scale)
        self._edges = np.linspace(0, full_scale + 1, LEVELS + 1)

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Measure each picture by itself: its columns, and its histogram for `statistic`."""
        pictures = [np.asarray(picture, np.float64).ravel() for picture in batch["image"]]
        in_range = [np.clip(levels, 0, self._edges[-1]) for levels in pictures]
        histograms = [np.histogram(levels, self._edges)[0] for levels in in_range]
        return {
            "mean": np.array([levels.mean() for levels in pictures]),
            "sd": np.array([levels.std() for levels in pictures]),
            "darkest": np.array([levels.min() for levels in pictures]),
            "brightest": np.array([levels.max() for levels in pictures]),
            "histogram": np.array(histograms, np.int64).reshape(-1, LEVELS),
        }

    def statistic(self, members: Batch) -> Levels:
        """Return the sums over the pictures of a block."""
        return Levels(len(members), float(members["mean"].sum()), members["histogram"].sum(axis=0))

    def fold(self, prefix: Levels | None, statistic: Levels) -> Levels:
        """Add the next block."""
        if prefix is None:
            return statistic
        return Levels(
            prefix.n + statistic.n,
            prefix.mean_sum + statistic.mean_sum,
            prefix.histogram + statistic.histogram,
        )

    def summarize(self, state: Levels | None) -> Mapping[str, Any]:
        """Return the mean of the means, NaN if there was no picture, and the histogram."""
        if state is None:
            return {"mean_level": np.nan, "histogram": np.zeros(LEVELS, np.int64)}
        return {"mean_level": state.mean_sum / state.n, "histogram": state.histogram}
