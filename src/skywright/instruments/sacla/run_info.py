"""What a source knows of the run that it yields."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.shots import BINNED_BY, EQUIPMENT, ShotRules, more_values_for
from skywright.instruments.sacla.tile import PixelRules, Tile

NO_THRESHOLD_EV = -1e30
"""Below every pixel."""


@dataclass(frozen=True, eq=False)
class RunInfo:
    """A run: its tags, its detectors and the rules of its analysis.

    Parameters
    ----------
    run, hightag
        Run number; high tag. The identity of a shot is ``hightag * 2**32 + tag``.
    grid
        The tags that are shots.
    tiles
        Detectors by id.
    shot_rules, pixel_rules
        Filters, delay, thresholds.
    cameras
        Detectors whose pixels have no threshold.
    more_values
        Keys of point detectors that the source has beside `EQUIPMENT`.
    """

    run: int
    hightag: int
    grid: TagGrid
    tiles: Mapping[str, Tile]
    shot_rules: ShotRules
    pixel_rules: PixelRules
    cameras: frozenset[str] = frozenset()
    more_values: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """Detectors and point detectors whose records make a shot whole."""
        return (*self.tiles, *EQUIPMENT, *self.more_values)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) by detector."""
        return {name: (tile.bad.shape[0], tile.bad.shape[1]) for name, tile in self.tiles.items()}

    def check_binned_by(self, binned_by: str) -> None:
        """Raise `ConfigError` if the source has no value of this name to bin shots by."""
        missing = set(more_values_for(binned_by)) - set(self.more_values)
        if missing:
            known = [key for key in BINNED_BY if not more_values_for(key)]
            raise ConfigError(
                f"binned by {binned_by!r}: the source has no such value, expected one of "
                f"{', '.join((*known, *self.more_values))}"
            )

    def rules_of(self, detector: str) -> PixelRules:
        """Return how the pixels of a detector count."""
        if detector in self.cameras:
            return replace(self.pixel_rules, threshold_ev=NO_THRESHOLD_EV)
        return self.pixel_rules

    def identity(self, tag: int) -> int:
        """Return the identity of a shot."""
        return (self.hightag << 32) + tag

    def is_measured_as(self, other: "RunInfo") -> bool:
        """Return whether shots of both runs can be averaged: only their tags differ.

        Detectors, gains, bad pixels, photon energy and all other rules are the same.
        """
        return (
            list(self.tiles) == list(other.tiles)
            and (self.shot_rules, self.pixel_rules, self.cameras)
            == (other.shot_rules, other.pixel_rules, other.cameras)
            and all(
                mine.gain == yours.gain and np.array_equal(mine.bad, yours.bad)
                for mine, yours in zip(self.tiles.values(), other.tiles.values(), strict=True)
            )
        )
