"""Sources of shots: recorded files, the simulated beamline, and SACLA's online data."""

from typing import Any, Protocol

from skywright.acquire.source import Source
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.run_info import RunInfo

STOP_LIMIT_S = 5.0
"""Timeout of a stop, s: the record that is delivered may wait for workers, which start slowly."""


class ShotSource(Source[Record[Any]], Protocol):
    """Yields records of all channels, in order of their arrival.

    The payload of a detector's record is its frame: an array (rows, columns) float32 in ADU, or a
    `StoredFrame`. That of a point detector is a float, NaN if there is no value.
    """

    @property
    def info(self) -> RunInfo:
        """The run."""

    @property
    def is_running(self) -> bool:
        """Whether more records may come."""

    @property
    def trouble(self) -> str:
        """What does not work now; empty if everything does."""
