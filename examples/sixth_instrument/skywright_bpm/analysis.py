"""Beam position from the currents of four diodes."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.files.columns import Column
from skywright_bpm.source import SCALE_MM

MM = {"units": "mm"}


class Sums(NamedTuple):
    """What is kept of a block: number of samples, sums of x and y, sums of their squares."""

    n: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]


class BeamPosition(Analysis[Sums]):
    """Position of each sample; mean position and its standard deviation of all.

    Difference over sum of opposite diodes, times `scale_mm`. A sample without light has the
    position NaN and is not in the mean.

    Parameters
    ----------
    scale_mm
        Displacement at which one of two opposite diodes would get all of the light.
    """

    name = "bpm_position"
    stream = "samples"
    version = "1"
    inputs = ("currents",)
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"currents": ArrayInput(1)}
    identity = "sample_number"
    time = "sample_time"
    block_size = 1024
    columns = (
        Column("x", "<f8", attrs={**MM, "description": "horizontal position"}),
        Column("y", "<f8", attrs={**MM, "description": "vertical position"}),
    )
    results = tuple(
        Column(f"{kind}_{axis}", "<f8", attrs={**MM, "description": f"{text} of {axis}"})
        for kind, text in (("mean", "mean"), ("rms", "standard deviation"))
        for axis in "xy"
    )

    def __init__(self, scale_mm: float = SCALE_MM) -> None:
        super().__init__(scale_mm=scale_mm)
        self._scale_mm = scale_mm

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Compute the position of each sample."""
        right, left, top, bottom = batch["currents"].T
        with np.errstate(divide="ignore", invalid="ignore"):
            x = np.where(right + left > 0, (right - left) / (right + left), np.nan)
            y = np.where(top + bottom > 0, (top - bottom) / (top + bottom), np.nan)
        return {"x": self._scale_mm * x, "y": self._scale_mm * y}

    def statistic(self, members: Batch) -> Sums:
        """Add up a block."""
        positions = np.stack([members["x"], members["y"]])
        positions = positions[:, np.isfinite(positions).all(axis=0)]
        return Sums(positions.shape[1], positions.sum(axis=1), (positions**2).sum(axis=1))

    def fold(self, prefix: Sums | None, statistic: Sums) -> Sums:
        """Add the next block."""
        if prefix is None:
            return statistic
        return Sums(
            prefix.n + statistic.n,
            prefix.first + statistic.first,
            prefix.second + statistic.second,
        )

    def summarize(self, state: Sums | None) -> Mapping[str, Any]:
        """Divide; NaN when there was no light."""
        if state is None or not state.n:
            return dict.fromkeys(("mean_x", "mean_y", "rms_x", "rms_y"), np.nan)
        mean = state.first / state.n
        rms = np.sqrt(np.maximum(state.second / state.n - mean**2, 0.0))
        return {"mean_x": mean[0], "mean_y": mean[1], "rms_x": rms[0], "rms_y": rms[1]}
