"""Analysis of the images of one detector: sums over regions of each shot, and running images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.files.columns import Column
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.running_image import RunningImage
from skywright.instruments.sacla.tile import PixelRules, Tile, TileRegions

BLOCK_TAGS = 256
"""Least number of tags in a block."""


@dataclass(frozen=True, eq=False)
class OnOff:
    """Running images of the shots with and without the pump laser."""

    on: RunningImage
    off: RunningImage

    def merge(self, other: "OnOff") -> "OnOff":
        """Return both series as one; neither changes."""
        return OnOff(self.on.merge(other.on), self.off.merge(other.off))


class ShotImages(Analysis[OnOff]):
    """Images of one detector over accepted shots.

    The inputs are ``image``, (n, rows, columns) float32 in ADU, and ``laser_on``, (n,) bool.

    Parameters
    ----------
    tile, rules
        The detector, and how its pixels count.
    regions
        Regions of interest of this detector.
    block_tags
        Tags in a block; at least the window of the join.
    """

    name, version = "sacla_images", "1"
    inputs = ("image", "laser_on")
    identity, time = "tag", "time"
    ordered = True

    def __init__(
        self,
        tile: Tile,
        rules: PixelRules,
        regions: Sequence[Region] = (),
        block_tags: int = BLOCK_TAGS,
    ) -> None:
        super().__init__(tile=tile, rules=rules, regions=tuple(regions), block_tags=block_tags)
        self.block_size = block_tags  # type: ignore[misc]  # of this object, by its window
        self._size = tile.bad.size
        self._measure_in(TileRegions(tile, rules, regions))
        shape = tile.bad.shape
        images = ("mean", "mean_on", "mean_off", "max")
        self.results = (  # type: ignore[misc]
            Column("n_on", "<i8"),
            Column("n_off", "<i8"),
            *(Column(key, "<f8", shape, attrs={"units": "eV"}) for key in images),
            Column("var", "<f8", shape, attrs={"units": "eV^2"}),
        )

    def change_regions(self, regions: Sequence[Region]) -> None:
        """Sum over other regions from the next update on; the running images go on."""
        if tuple(regions) != self.regions.regions:
            self.parameters["regions"] = tuple(regions)
            self._measure_in(TileRegions(self.regions.tile, self.regions.rules, regions))

    def _measure_in(self, regions: TileRegions) -> None:
        self.regions = regions
        count = (len(regions.regions),)
        self.columns = (  # type: ignore[misc]
            Column("sum_ev", "<f8", count, attrs={"units": "eV"}),
            Column("photons", "<i8", count),
            Column("photon_hist", "<i8", (*count, HISTOGRAM_BINS)),
        )

    @property
    def description(self) -> dict[str, Any]:
        """The parameters as JSON values, without the mask."""
        regions = [asdict(region) for region in self.regions.regions]
        tile = self.regions.tile
        return {
            "detector": tile.detector,
            "gain": tile.gain,
            "regions": regions,
            **asdict(self.regions.rules),
        }

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Sum the regions of each image."""
        return self.regions.measure(batch["image"].reshape(len(batch), self._size))

    def extend(self, statistic: OnOff | None, members: Batch) -> OnOff:
        """Add images, one after the other."""
        if statistic is None:
            statistic = OnOff(RunningImage.empty(self._size), RunningImage.empty(self._size))
        frames = members["image"].reshape(len(members), self._size)
        is_on, least = members["laser_on"], self.regions.least
        on, off = np.flatnonzero(is_on), np.flatnonzero(~is_on)
        return OnOff(
            statistic.on.extend(frames, on, least), statistic.off.extend(frames, off, least)
        )

    def fold(self, prefix: OnOff | None, statistic: OnOff) -> OnOff:
        """Merge with the blocks before."""
        return statistic if prefix is None else prefix.merge(statistic)

    def summarize(self, state: OnOff | None) -> Mapping[str, Any]:
        """Return the images; NaN at bad pixels, and where there are too few shots."""
        empty = RunningImage.empty(self._size)
        on, off = (state.on, state.off) if state else (empty, empty)
        both = on.merge(off)
        scale = self.regions.ev_per_adu
        return {
            "n_on": on.count,
            "n_off": off.count,
            "mean": self._shaped(both.mean * scale, both.count > 0),
            "mean_on": self._shaped(on.mean * scale, on.count > 0),
            "mean_off": self._shaped(off.mean * scale, off.count > 0),
            "max": self._shaped(both.largest * scale, both.count > 0),
            "var": self._shaped(both.m2 * (scale**2 / max(both.count - 1, 1)), both.count > 1),
        }

    def _shaped(self, image: NDArray[Any], known: bool) -> NDArray[np.float64]:
        bad = self.regions.tile.bad
        return np.where(bad | (not known), np.nan, image.reshape(bad.shape).astype(float))
