"""Images of each bin of the delay, or of another value, from stored frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, ArrayInput, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.sacla.frame_stack import stack_of
from skywright.instruments.sacla.layouts import detector_key
from skywright.instruments.sacla.measuring import read_measuring
from skywright.instruments.sacla.run_images import FrameImages
from skywright.instruments.sacla.shot_curves import find_bins
from skywright.instruments.sacla.tile import TileRegions

SIDES = ("off", "on")
PIXEL_BYTES = 2 * 8 + 4
"""Of a pixel of each image: its sum, that of the block under way, and the result."""


@dataclass(frozen=True, eq=False)
class BinSum:
    """Sums over the shots of one bin and side.

    Parameters
    ----------
    counts, i0s
        (1 + detectors,) numbers, and sums of I0, V: of all shots, and of those that have the frame
        of each detector.
    images
        By detector: (pixels,) float64 ADU.
    """

    counts: NDArray[np.int64]
    i0s: NDArray[np.float64]
    images: tuple[NDArray[np.float64], ...]


Cube = dict[tuple[int, int], BinSum]
"""By side, 0 or 1 for laser off or on, and bin; only those that have shots."""


class BinImages(Analysis[Cube]):
    """Mean images of each bin over the accepted shots whose frames are stored.

    The inputs are columns of the stream of frames. ``n`` and ``i0_sum`` are over all these shots,
    ``d1_n`` and ``d1_i0_sum`` over those that have the frame of the detector: the mean image times
    ``d1_n``, divided by ``d1_i0_sum``, is the ratio of sums of a bin.

    Parameters
    ----------
    measuring
        Of `describe_measuring`.
    edges
        (bins + 1,) rising.
    binned_by
        What the edges are of: ``scanned``, the delay, or ``i0``, ``stage``, ``timing``, ``motor``.
    memory_mb
        Most memory that the images may take.

    Raises
    ------
    ConfigError
        If they would take more.
    """

    name, version = "sacla_bin_images", "2"
    stream = "shots"
    inputs: ClassVar[Sequence[str]] = (
        *("frame_accepted", "frame_laser_on", "frame_i0", "frame_scanned", "frame_d1"),
    )
    optional: ClassVar[Sequence[str]] = (
        *FrameImages.optional,
        *("frame_stage", "frame_timing", "frame_motor"),
    )
    arrays: ClassVar[Mapping[str, ArrayInput]] = {"frame_d1": ArrayInput(2)}
    identity, time = "frame_tag", "frame_time"
    array_period_s = FrameImages.array_period_s
    ordered, skips = True, False

    def __init__(
        self,
        measuring: Mapping[str, Any] | None = None,
        edges: Sequence[float] = (-2.0, 3.0),
        binned_by: str = "scanned",
        memory_mb: float = 1000.0,
    ) -> None:
        measuring, edges = dict(measuring or {}), [float(edge) for edge in edges]
        super().__init__(measuring=measuring, edges=edges, binned_by=binned_by, memory_mb=memory_mb)
        self.block_size = int(measuring.get("block_tags", self.block_size))  # type: ignore[misc]
        self._key, self._edges, self._bins = f"frame_{binned_by}", np.array(edges), len(edges) - 1
        known = {key for key in (*self.inputs, *self.optional) if not key.startswith("frame_d")}
        if self._key not in known - {"frame_accepted", "frame_analyzed", "frame_laser_on"}:
            raise ConfigError(f"images binned by {binned_by!r}, which is no value of a shot")
        self._tiles = [TileRegions(tile, rules, ()) for tile, rules in read_measuring(measuring)]
        pixels = sum(tile.tile.bad.size for tile in self._tiles)
        needed = len(SIDES) * self._bins * pixels * PIXEL_BYTES / 1e6
        if needed > memory_mb:
            raise ConfigError(
                f"images of {self._bins} bins need {needed:.0f} MB, expected at most "
                f"{memory_mb:g} MB (memory_mb)"
            )
        shape = (len(SIDES), self._bins)
        self._prefixes = ("", *(f"{detector_key(k)}_" for k in range(len(self._tiles))))
        self.results = (  # type: ignore[misc]
            *(
                column
                for key in self._prefixes
                for column in (
                    Column(f"{key}n", "<i8", shape, attrs={"description": "laser off and on"}),
                    Column(f"{key}i0_sum", "<f8", shape, attrs={"units": "V"}),
                )
            ),
            *(
                Column(
                    f"{detector_key(k)}_{side}",
                    "<f4",
                    (self._bins, *tile.tile.bad.shape),
                    attrs={"units": "eV", "description": "mean image of each bin"},
                )
                for k, tile in enumerate(self._tiles)
                for side in SIDES
            ),
        )

    def extend(self, statistic: Cube | None, members: Batch) -> Cube:
        """Add the accepted shots to the images of their bins, one after the other."""
        cube = statistic if statistic is not None else {}
        bins = find_bins(members[self._key], self._edges)
        keys = [f"frame_{detector_key(k)}" for k in range(len(self._tiles))]
        stacks = [stack_of(members[key]).frames for key in keys]
        accepted = members["frame_accepted"] == 1  # older runs have frames of whole shots alone
        came = [members.data.get(f"{key}_came", accepted) == 1 for key in keys]
        counted = np.stack([accepted, *came], axis=1)
        for shot in np.flatnonzero(accepted & (bins >= 0)).tolist():
            key = int(members["frame_laser_on"][shot] == 1), int(bins[shot])
            known = cube.get(key) or self._nothing()
            for k in np.flatnonzero(counted[shot, 1:]).tolist():
                pixels, total = stacks[k][shot].ravel(), known.images[k]
                least = self._tiles[k].least
                np.add(total, np.where(pixels < least, np.float32(0), pixels), out=total)
            i0s = known.i0s + members["frame_i0"][shot] * counted[shot]
            cube[key] = BinSum(known.counts + counted[shot], i0s, known.images)
        return cube

    def fold(self, prefix: Cube | None, statistic: Cube) -> Cube:
        """Add to the blocks before."""
        found = dict(prefix or {})
        for key, new in statistic.items():
            known = found.get(key) or self._nothing()
            images = tuple(a + b for a, b in zip(known.images, new.images, strict=True))
            found[key] = BinSum(known.counts + new.counts, known.i0s + new.i0s, images)
        return found

    def summarize(self, state: Cube | None) -> Mapping[str, Any]:
        """Return the images; NaN at bad pixels and in bins without shots."""
        found: dict[str, Any] = {
            column.name: np.full(column.shape, np.nan if len(column.shape) > 2 else 0, column.dtype)
            for column in self.results
        }
        for (on, place), each in (state or {}).items():
            for key, count, i0 in zip(self._prefixes, each.counts, each.i0s, strict=True):
                found[f"{key}n"][on, place], found[f"{key}i0_sum"][on, place] = count, i0
            for k, (total, tile) in enumerate(zip(each.images, self._tiles, strict=True)):
                if count := each.counts[k + 1]:
                    image = (total * (tile.ev_per_adu / count)).reshape(tile.tile.bad.shape)
                    image[tile.tile.bad] = np.nan
                    found[f"{detector_key(k)}_{SIDES[on]}"][place] = image
        return found

    def _nothing(self) -> BinSum:
        images = tuple(np.zeros(tile.tile.bad.size) for tile in self._tiles)
        count = len(self._prefixes)
        return BinSum(np.zeros(count, int), np.zeros(count), images)
