"""Analysis of the images of one detector: sums over regions of each shot, and running images."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.files.columns import Column
from skywright.instruments.sacla.frame_stack import stack_of
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.running_image import GrowingImage, RunningImage
from skywright.instruments.sacla.tile import PixelRules, Rings, Tile, TileRegions

BLOCK_TAGS = 256
"""Default number of tags in a block."""


OnOff = tuple[RunningImage, RunningImage]
"""Images of the shots with and without the pump laser."""
State = OnOff | tuple[GrowingImage, GrowingImage]
"""Folded blocks, or one block."""


class ShotImages(Analysis[State]):
    """Images of one detector over the analyzed shots (accepted or partial).

    The inputs are ``image``, (n, rows, columns) float32 in ADU, an array or a `FrameStack`, and
    ``laser_on``, (n,) bool.

    Parameters
    ----------
    tile, rules
        The detector, and how its pixels count.
    regions
        Regions of interest of this detector.
    block_tags
        Number of tags in a block.
    profiles
        Find the radial profile of each shot too, the column ``profile``.
    """

    name, version = "sacla_shot_images", "1"
    stream = "shots"
    inputs = ("image", "laser_on")
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"image": ArrayInput(2)}
    identity, time = "tag", "time"
    ordered = True

    def __init__(
        self,
        tile: Tile,
        rules: PixelRules,
        regions: Sequence[Region] = (),
        block_tags: int = BLOCK_TAGS,
        profiles: bool = False,
    ) -> None:
        super().__init__(
            tile=tile,
            rules=rules,
            regions=tuple(regions),
            block_tags=block_tags,
            profiles=profiles,
        )
        self.block_size = block_tags  # type: ignore[misc]  # of this object, by its window
        self._size = tile.bad.size
        self.rings: Rings | None = None
        if profiles:
            self.rings = Rings(tile.bad, rules.radial_cx, rules.radial_cy, rules.radial_dr)
        self._measure_in(TileRegions(tile, rules, regions))
        shape = tile.bad.shape
        images = ("mean", "mean_on", "mean_off", "diff", "max")
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
        if self.rings is not None:
            profile = Column("profile", "<f8", (self.rings.length,), attrs={"units": "eV"})
            self.columns = (*self.columns, profile)  # type: ignore[misc]

    def fresh(self) -> Self:
        """Return the same analysis, with no members; the regions are not computed again."""
        copied = copy.copy(self)
        Analysis.__init__(copied, **self.parameters)
        return copied

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Sum the regions, and the rings, of each image."""
        frames, chosen = stack_of(batch["image"]).flat
        rows = self.regions.measure(frames, chosen)
        if self.rings is not None:
            profiles = self.rings.profiles(frames, chosen, self.regions.least)
            rows["profile"] = profiles * self.regions.ev_per_adu
        return rows

    def extend(self, statistic: State | None, members: Batch) -> tuple[GrowingImage, GrowingImage]:
        """Add images, one after the other."""
        size = self._size
        on, off = statistic or (GrowingImage.empty(size), GrowingImage.empty(size))
        assert isinstance(on, GrowingImage)  # only those of folded blocks
        assert isinstance(off, GrowingImage)  # do not grow
        frames, chosen = stack_of(members["image"]).flat
        is_on, least = members["laser_on"], self.regions.least
        return on.extend(frames, chosen[is_on], least), off.extend(frames, chosen[~is_on], least)

    def compact(self, statistic: State) -> OnOff:
        """Keep mean and spread."""
        on, off = statistic
        return on.moments(), off.moments()

    def fold(self, prefix: State | None, statistic: State) -> OnOff:
        """Merge with the blocks before."""
        on, off = self.compact(statistic)
        if prefix is None:
            return on, off
        on_before, off_before = self.compact(prefix)
        return on_before.merge(on), off_before.merge(off)

    def summarize(self, state: State | None) -> Mapping[str, Any]:
        """Return the images; NaN at bad pixels, and where there are too few shots."""
        empty = RunningImage.empty(self._size)
        on, off = self.compact(state) if state else (empty, empty)
        both = on.merge(off)
        scale = self.regions.ev_per_adu
        mean_on = self._shaped(on.mean * scale, on.count > 0)
        mean_off = self._shaped(off.mean * scale, off.count > 0)
        return {
            "n_on": on.count,
            "n_off": off.count,
            "mean": self._shaped(both.mean * scale, both.count > 0),
            "mean_on": mean_on,
            "mean_off": mean_off,
            "diff": mean_on - mean_off,
            "max": self._shaped(both.largest * scale, both.count > 0),
            "var": self._shaped(both.m2 * (scale**2 / max(both.count - 1, 1)), both.count > 1),
        }

    def _shaped(self, image: NDArray[Any], known: bool) -> NDArray[np.float64]:
        bad = self.regions.tile.bad
        if not known:
            return np.full(bad.shape, np.nan)
        shaped = image.reshape(bad.shape).astype(float)
        shaped[bad] = np.nan
        return shaped
