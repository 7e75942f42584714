"""Analysis of per-shot values: curves with errors, correlation with I0, photon histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.sacla.moments import Moments
from skywright.instruments.sacla.pixels import HISTOGRAM_BINS
from skywright.instruments.sacla.shot_images import BLOCK_TAGS

NORM, I0, SUM = 0, 1, 2
"""Quantities whose moments are kept per bin."""


@dataclass(frozen=True, eq=False)
class CurveSums:
    """What is kept of a block.

    Parameters
    ----------
    curves
        Moments of (norm, I0, sum) in (region, laser off or on, bin), as one axis.
    lines
        Moments of (norm, I0, sum) over shots with the laser off, one bin a region.
    photon_hist
        (regions, 8), over the shots whose region is measured.
    hits
        (2, regions): shots whose region is measured, and hits among them.
    counts
        (4,): accepted shots with laser on, off, without a scanned value, with one outside the bins.
    regions_number
        Of the regions that the sums are over.
    """

    curves: Moments
    lines: Moments
    photon_hist: NDArray[np.int64]
    hits: NDArray[np.int64]
    counts: NDArray[np.int64]
    regions_number: int


class Hits(NamedTuple):
    """What a hit is: a shot with enough pixels of enough photons in a region.

    Parameters
    ----------
    photons
        Least number of photons in a pixel, 1 to 7.
    pixels
        Least number of such pixels.
    """

    photons: int = 1
    pixels: int = 10


DEFAULT_HITS = Hits()


def parse_hits(text: str) -> Hits:
    """Read ``PHOTONS:PIXELS``.

    Raises
    ------
    ConfigError
        If the text has another form.
    """
    try:
        photons, pixels = map(int, text.split(":"))
    except ValueError:
        raise ConfigError(f"hits {text!r}: expected PHOTONS:PIXELS") from None
    return _checked(Hits(photons, pixels), repr(text))


def _checked(hits: Hits, given: str) -> Hits:
    """Return `hits`; raise `ConfigError`, with the text `given`, if such hits are impossible."""
    if not (0 < hits.photons < HISTOGRAM_BINS and hits.pixels > 0):
        raise ConfigError(f"hits {given}: expected 1 to 7 photons, and at least 1 pixel")
    return hits


def find_bins(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find the bin of each value; -1 outside. Bins are half-open, the last one is closed."""
    found = np.searchsorted(edges, values, side="right") - 1
    found = np.where(values == edges[-1], len(edges) - 2, found)
    return np.where(values <= edges[-1], found, -1)


class ShotCurves(Analysis[CurveSums]):
    """Curves of regions of interest over the shots in which they are measured.

    These are the accepted shots, and live those that lack the frame of another detector alone.

    The inputs are columns of the raw run: ``sum_ev`` (n, regions) eV, ``photon_hist``
    (n, regions, 8), ``i0``, ``laser_on``, ``accepted``, ``regions_number``, and what the shots are
    binned by; NaN where it is missing. Shots of different regions are never averaged together:
    only shots of the newest region set (highest `regions_number`) are used.

    Parameters
    ----------
    regions
        Number of regions.
    edges
        (bins + 1,) rising.
    block_tags
        Number of tags in a block.
    binned_by
        The column that the edges are of: ``scanned``, the delay, or any other of one number.
    hits
        What a hit in a region is.

    Raises
    ------
    ConfigError
        If a parameter is impossible.
    """

    name, version = "sacla_curves", "3"
    stream = "shots"
    inputs: ClassVar[Sequence[str]] = (
        "sum_ev",
        "photon_hist",
        "i0",
        "laser_on",
        "scanned",
        "accepted",
        "regions_number",
    )
    identity, time = "tag", "time"
    block_setting = "regions_number"
    skips = False

    def __init__(
        self,
        regions: int = 16,
        edges: Sequence[float] = (-2.0, 3.0),
        block_tags: int = BLOCK_TAGS,
        binned_by: str = "scanned",
        hits: Sequence[int] = DEFAULT_HITS,
    ) -> None:
        if len(hits) != len(DEFAULT_HITS):
            raise ConfigError(f"hits {hits!r:.80}: expected [photons, pixels]")
        edges, hits = [float(edge) for edge in edges], _checked(Hits(*hits), f"{list(hits)}")
        if len(edges) < 2 or not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
            raise ConfigError(f"edges {edges!r:.80}: expected at least 2 numbers that rise")
        if regions < 0 or block_tags < 1:
            raise ConfigError(
                f"regions {regions}, block_tags {block_tags}: expected at least 0 and at least 1"
            )
        super().__init__(
            regions=regions,
            edges=edges,
            block_tags=block_tags,
            binned_by=binned_by,
            hits=list(hits),
        )
        self._hits = hits
        self._binned_by = binned_by
        others = (key for key in self.inputs if key not in ("scanned", binned_by))
        self.inputs = (*others, binned_by)  # type: ignore[misc]  # of this object
        self.block_size = block_tags  # type: ignore[misc]  # of this object, by its window
        self._regions, self._edges = regions, np.array(edges)
        self._bins = len(edges) - 1
        curves = ("mean", "sem", "ratio", "ratio_sem")
        shape = (regions, self._bins)
        self.results = (  # type: ignore[misc]
            *(Column(f"{side}_n", "<i8", shape) for side in ("on", "off")),
            *(Column(f"{side}_{key}", "<f8", shape) for side in ("on", "off") for key in curves),
            Column("diff", "<f8", shape),
            Column("diff_sem", "<f8", shape),
            Column("off_n_i0", "<i8", (regions,)),
            *(Column(key, "<f8", (regions,)) for key in ("slope", "intercept", "r")),
            Column("photon_hist", "<i8", (regions, HISTOGRAM_BINS)),
            *(Column(key, "<f8", (regions,)) for key in ("hit_rate", "hit_rate_sem")),
            *(Column(k, "<i8") for k in ("n_on", "n_off", "n_unknown", "n_outside")),
        )

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Return the inputs: they are the rows."""
        return {key: batch[key] for key in self.inputs}

    def statistic(self, members: Batch) -> CurveSums:
        """Compute the moments of a block."""
        number = int(members[self.block_setting].max(initial=0))
        # A shot that lacks the frame of another detector is not accepted, and its regions count.
        is_measured = (members["photon_hist"][:, :, 0] >= 0).any(axis=1)
        members = members.take(members["accepted"].astype(bool) | is_measured)
        accepted = members["accepted"].astype(bool)
        i0, scanned = members["i0"], members[self._binned_by]
        on = members["laser_on"].astype(bool)
        bins = find_bins(scanned, self._edges)
        labels = np.where(bins >= 0, bins + self._bins * on, -1)
        sides = []
        lines = []
        pixels = members["photon_hist"].astype(np.int64)
        is_known = pixels[:, :, 0] >= 0
        for sums, known in zip(members["sum_ev"].T, is_known.T, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                norms = sums / i0
            values = np.stack([norms, i0, sums])
            sides.append(Moments.of(values, np.where(known, labels, -1), 2 * self._bins))
            lines.append(Moments.of(values, np.where(known & ~on, 0, -1), 1))
        unknown = np.isnan(scanned)
        outside = (bins < 0) & ~unknown
        counts = [(each & accepted).sum() for each in (on, ~on, unknown, outside)]
        is_hit = is_known & (pixels[:, :, self._hits.photons :].sum(axis=2) >= self._hits.pixels)
        return CurveSums(
            _concatenate(sides),
            _concatenate(lines),
            np.where(is_known[:, :, None], pixels, 0).sum(axis=0),
            np.stack([is_known.sum(axis=0), is_hit.sum(axis=0)]),
            np.array(counts, np.int64),
            number,
        )

    def fold(self, prefix: CurveSums | None, statistic: CurveSums) -> CurveSums:
        """Merge with the blocks before; newer regions replace older ones."""
        if prefix is None or prefix.regions_number < statistic.regions_number:
            return statistic
        if prefix.regions_number > statistic.regions_number:
            return prefix
        return CurveSums(
            prefix.curves.merge(statistic.curves),
            prefix.lines.merge(statistic.lines),
            prefix.photon_hist + statistic.photon_hist,
            prefix.hits + statistic.hits,
            prefix.counts + statistic.counts,
            prefix.regions_number,
        )

    def summarize(self, state: CurveSums | None) -> Mapping[str, Any]:
        """Return curves with standard errors, correlation, histogram and counts."""
        if state is None:
            rows = {key: np.empty(0) for key in self.inputs}
            rows["sum_ev"] = np.empty((0, self._regions))
            rows["photon_hist"] = np.empty((0, self._regions, HISTOGRAM_BINS))
            state = self.statistic(Batch(np.empty(0, np.int64), np.empty(0), rows))
        found: dict[str, Any] = {}
        shape = (self._regions, 2, self._bins)
        mean = state.curves.means()[NORM].reshape(shape)
        sem = state.curves.standard_errors()[NORM].reshape(shape)
        ratio, ratio_sem = (part.reshape(shape) for part in state.curves.ratio(SUM, I0))
        count = state.curves.count.reshape(shape)
        for k, side in enumerate(("off", "on")):
            found[f"{side}_n"], found[f"{side}_mean"] = count[:, k], mean[:, k]
            found[f"{side}_sem"] = sem[:, k]
            found[f"{side}_ratio"], found[f"{side}_ratio_sem"] = ratio[:, k], ratio_sem[:, k]
        found["diff"] = mean[:, 1] - mean[:, 0]
        found["diff_sem"] = np.hypot(sem[:, 0], sem[:, 1])
        found["off_n_i0"] = state.lines.count
        found["slope"], found["intercept"], found["r"] = state.lines.line(I0, SUM)
        measured, hits = state.hits
        found["photon_hist"] = np.where(measured[:, None] > 0, state.photon_hist, -1)
        rate = np.where(measured > 0, hits / np.maximum(measured, 1), np.nan)
        found["hit_rate"] = rate
        # The standard error of a share.
        found["hit_rate_sem"] = np.sqrt(rate * (1 - rate) / np.maximum(measured, 1))
        names = ("n_on", "n_off", "n_unknown", "n_outside")
        return found | dict(zip(names, state.counts, strict=True))


def _empty(bins: int) -> Moments:
    return Moments(np.zeros(bins, np.int64), np.zeros((3, bins)), np.zeros((3, 3, bins)))


def _concatenate(parts: list[Moments]) -> Moments:
    parts = [_empty(0), *parts]  # there may be no region
    return Moments(
        np.concatenate([part.count for part in parts]),
        np.concatenate([part.mean for part in parts], axis=-1),
        np.concatenate([part.products for part in parts], axis=-1),
    )
