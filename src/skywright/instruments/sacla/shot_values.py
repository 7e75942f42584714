"""Analysis of per-shot values: the correlation of each with each, and their histograms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.sacla.report import parse_bins
from skywright.instruments.sacla.shot_images import BLOCK_TAGS
from skywright.instruments.sacla.shots import VALUES_REGIONS_MAX

POINT_VALUES = ("i0", "scanned", "stage", "timing", "motor")
"""Values of point detectors; NaN where they are missing."""


def value_names(regions: int) -> tuple[str, ...]:
    """Return the names of all values: `POINT_VALUES`, then sum and sum / I0 of each region."""
    numbers = range(1, regions + 1)
    return (*POINT_VALUES, *(f"sum_{k}" for k in numbers), *(f"norm_{k}" for k in numbers))


@dataclass(frozen=True, eq=False)
class PairMoments:
    """Moments of each pair of k values over the shots that have both.

    Parameters
    ----------
    count
        (k, k) shots.
    mean, m2
        (k, k) of the first value of the pair: mean, and sum of squared deviations.
    products
        (k, k) sum of the products of both deviations.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "PairMoments":
        """Compute the moments of (n, k) values; NaN and infinities are left out."""
        known = np.isfinite(values)
        count = np.einsum("ni,nj->ij", known.astype(np.int64), known.astype(np.int64))
        size = np.maximum(known.sum(axis=0), 1)
        # Relative to the mean of each value: the squares of deviations lose no digits.
        center = np.where(known, values, 0.0).sum(axis=0) / size
        deviation = np.where(known, values - center, 0.0)
        weight = known.astype(float)
        sums = np.einsum("ni,nj->ij", deviation, weight)
        squares = np.einsum("ni,nj->ij", deviation**2, weight)
        products = np.einsum("ni,nj->ij", deviation, deviation)
        pairs = np.maximum(count, 1)
        return cls(
            count,
            np.where(count > 0, center[:, None] + sums / pairs, 0.0),
            squares - sums**2 / pairs,
            products - sums * sums.T / pairs,
        )

    def merge(self, other: "PairMoments") -> "PairMoments":
        """Return the moments of both (Chan's formulas); neither changes."""
        count = self.count + other.count
        both = np.where(self.count * other.count > 0, other.mean - self.mean, 0.0)
        share = other.count / np.maximum(count, 1)
        weight = self.count * share
        return PairMoments(
            count,
            np.where(self.count > 0, self.mean, other.mean) + both * share,
            self.m2 + other.m2 + both**2 * weight,
            self.products + other.products + both * both.T * weight,
        )

    def correlation(self) -> NDArray[np.float64]:
        """Return (k, k) Pearson's r; NaN below three shots, or where a value does not vary."""
        spread = np.sqrt(np.maximum(self.m2, 0) * np.maximum(self.m2.T, 0))
        good = (self.count > 2) & (spread > 0)
        found = np.full(spread.shape, np.nan)
        return np.divide(self.products, spread, out=found, where=good)


@dataclass(frozen=True, eq=False)
class ValueSums:
    """What is kept of a block.

    Parameters
    ----------
    off, on
        Moments over shots without and with the pump laser.
    counts
        Of each histogram.
    regions_number
        Of the regions that the sums are over.
    """

    off: PairMoments
    on: PairMoments
    counts: Mapping[str, NDArray[np.int64]]
    regions_number: int


class ShotValues(Analysis[ValueSums]):
    """Correlations and histograms of per-shot values over shots with a measured region.

    The inputs are columns of the raw run. Shots of different regions are never put together: only
    shots of the newest region set (highest `regions_number`) are used.

    Parameters
    ----------
    regions
        Number of regions.
    linear, log
        Histograms: START:STOP:N of equal or of logarithmic bins by the name of a value
        (`value_names`). A histogram has two bins more, for the shots below and above.
    block_tags
        Tags in a block.

    Raises
    ------
    ConfigError
        If there is no such value, bins make no sense, or a number is impossible.
    """

    name, version = "sacla_values", "1"
    stream = "shots"
    inputs: ClassVar[Sequence[str]] = (
        *("sum_ev", "laser_on", "accepted", "regions_number"),
        *POINT_VALUES,
    )
    identity, time = "tag", "time"
    block_setting = "regions_number"
    skips = False

    def __init__(
        self,
        regions: int = 16,
        linear: Mapping[str, str] | None = None,
        log: Mapping[str, str] | None = None,
        block_tags: int = BLOCK_TAGS,
    ) -> None:
        if not 0 <= regions <= VALUES_REGIONS_MAX or block_tags < 1:
            raise ConfigError(
                f"regions {regions}, block_tags {block_tags}: expected 0 to {VALUES_REGIONS_MAX} "
                "and at least 1"
            )
        linear = {"i0": "0:4:80"} if linear is None else dict(linear)
        log = {"sum_1": "1e2:1e12:100"} if log is None else dict(log)
        super().__init__(regions=regions, linear=linear, log=log, block_tags=block_tags)
        self.block_size = block_tags  # type: ignore[misc]
        self._names, self._regions = value_names(regions), regions
        self._edges = {f"linear_{name}": parse_bins(bins) for name, bins in linear.items()}
        self._edges |= {f"log_{name}": _log_bins(name, bins) for name, bins in log.items()}
        for key in self._edges:
            if _value_of(key) not in self._names:
                known = ", ".join((*POINT_VALUES, f"sum_K, norm_K with K from 1 to {regions}"))
                raise ConfigError(f"histogram of {_value_of(key)!r:.80}, expected one of {known}")
        shape = (len(self._names), len(self._names))
        names = {"names": list(self._names)}
        self.results = (  # type: ignore[misc]
            Column("n_on", "<i8"),
            Column("n_off", "<i8"),
            *(Column(f"{side}_pairs", "<i8", shape, attrs=names) for side in ("on", "off")),
            *(Column(f"{side}_r", "<f8", shape, attrs=names) for side in ("on", "off")),
            *(Column(key, "<i8", (len(edges) + 1,)) for key, edges in self._edges.items()),
            *(Column(f"{key}_edges", "<f8", edges.shape) for key, edges in self._edges.items()),
        )

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Return the inputs: they are the rows."""
        return {key: batch[key] for key in self.inputs}

    def statistic(self, members: Batch) -> ValueSums:
        """Compute the moments and the histograms of a block."""
        number = int(members[self.block_setting][0])
        # A shot that lacks the frame of another detector is not accepted, and its regions count.
        is_measured = np.isfinite(members["sum_ev"]).any(axis=1)
        members = members.take(members["accepted"].astype(bool) | is_measured)
        sums = members["sum_ev"][:, : self._regions]
        with np.errstate(divide="ignore", invalid="ignore"):
            norms = sums / members["i0"][:, None]
        points = np.stack([members[key] for key in POINT_VALUES], axis=1)
        values = np.concatenate([points, sums, norms], axis=1).astype(float)
        on = members["laser_on"].astype(bool)
        counts = {
            key: count_values(values[:, self._names.index(_value_of(key))], edges)
            for key, edges in self._edges.items()
        }
        return ValueSums(PairMoments.of(values[~on]), PairMoments.of(values[on]), counts, number)

    def fold(self, prefix: ValueSums | None, statistic: ValueSums) -> ValueSums:
        """Merge with the blocks before; newer regions replace older ones."""
        if prefix is None or prefix.regions_number < statistic.regions_number:
            return statistic
        if prefix.regions_number > statistic.regions_number:
            return prefix
        return ValueSums(
            prefix.off.merge(statistic.off),
            prefix.on.merge(statistic.on),
            {key: count + statistic.counts[key] for key, count in prefix.counts.items()},
            prefix.regions_number,
        )

    def summarize(self, state: ValueSums | None) -> Mapping[str, Any]:
        """Return correlations, numbers of shots and histograms."""
        if state is None:
            nothing = PairMoments.of(np.empty((0, len(self._names))))
            empty = {key: np.zeros(len(edges) + 1, int) for key, edges in self._edges.items()}
            state = ValueSums(nothing, nothing, empty, 0)
        found: dict[str, Any] = {}
        for side, moments in (("on", state.on), ("off", state.off)):
            found[f"n_{side}"] = moments.count[0, 0]  # each of these shots has its I0
            found[f"{side}_pairs"], found[f"{side}_r"] = moments.count, moments.correlation()
        edges = {f"{key}_edges": edges for key, edges in self._edges.items()}
        return {**found, **state.counts, **edges}


def count_values(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count values below the bins, in each bin and above; bins are half-open, the last is closed.

    Parameters
    ----------
    values
        (n,); NaN is left out.
    edges
        (bins + 1,) rising.

    Returns
    -------
    NDArray
        (bins + 2,).
    """
    values = values[~np.isnan(values)]
    places = np.searchsorted(edges, values, side="right")
    places = np.where(values == edges[-1], len(edges) - 1, places)
    return np.bincount(places, minlength=len(edges) + 1).astype(np.int64)


def _value_of(key: str) -> str:
    """Return the name of the value of a histogram."""
    return key.partition("_")[2]


def _log_bins(name: str, text: str) -> NDArray[np.float64]:
    edges = parse_bins(text)
    if edges[0] <= 0:
        raise ConfigError(
            f"logarithmic bins of {name}: {text!r} begin at {edges[0]:g}, expected above 0"
        )
    return np.geomspace(edges[0], edges[-1], len(edges))
