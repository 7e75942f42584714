"""A shot after its analysis: its values, the verdict, and what is in its regions of interest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.shots import Verdict

PROFILE = "profile/"
"""Begin of the key of the radial profile of a detector."""


@dataclass(frozen=True)
class RegionSet:
    """The regions of interest that hold for some shots.

    Parameters
    ----------
    number
        Grows with each change; shots of different numbers are never averaged together.
    regions
        With unique names.
    """

    number: int = 0
    regions: tuple[Region, ...] = ()

    def of(self, detector: str) -> tuple[Region, ...]:
        """Return the regions of one detector."""
        return tuple(region for region in self.regions if region.detector == detector)


@dataclass(eq=False)
class AnalyzedShot:
    """One shot.

    Parameters
    ----------
    tag, identity
        Low tag; high tag * 2**32 + low tag.
    run
        Run number of the facility.
    time
        When the shot was whole, or given up, unix s.
    verdict
        Whether it is accepted, else why not. Partial shots (`is_partial`) are analyzed too.
    values
        Of the point detectors; what is missing is absent or NaN.
    delay
        Corrected by the timing tool, ps; NaN where it is missing.
    regions
        Those that `found` is of.
    frames
        By detector: an array (rows, columns), or a `StoredFrame`.
    recording
        Number of the recording that the shot belongs to; 0: none.
    found
        ``sum_ev`` (regions,) eV, ``photons`` (regions,), ``photon_hist`` (regions, 8), and
        ``profile/DETECTOR`` (rings,) eV where profiles are wanted; None where the images of the
        shot were not analyzed.
    is_lost
        The shot's images were to be analyzed, but workers died or failed over them.
    is_partial
        The shot lacks the frames of some detectors and has no other fault, and those that came are
        analyzed. Its verdict is ``no_frame``. In `found`, what belongs to the other detectors is
        NaN, or -1 where it is a number of photons.
    """

    tag: int
    identity: int
    run: int
    time: float
    verdict: Verdict
    values: Mapping[str, float]
    delay: float
    regions: RegionSet
    frames: Mapping[str, Any]
    recording: int = 0
    found: Mapping[str, NDArray[Any]] | None = None
    is_lost: bool = False
    is_partial: bool = False

    @property
    def is_laser_on(self) -> bool:
        """Whether the shutter of the pump laser was open."""
        return self.values.get("laser_open", 0.0) > 0.5

    @property
    def is_complete(self) -> bool:
        """Whether all that will be known of the shot is known."""
        waits = (self.verdict is Verdict.ACCEPTED or self.is_partial) and not self.is_lost
        return self.found is not None or not waits
