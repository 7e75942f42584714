"""Runs of the double: which tags they have, and their status."""

from dataclasses import dataclass
from enum import IntEnum

from skywright.instruments.sacla.facility.link import APIError
from skywright.instruments.sacla.twin.beamline import FIRST_TAG, HIGHTAG, RUN


class RunStatus(IntEnum):
    """Status of a run, in the facility's numbers."""

    NONE = -1
    STOPPED = 0
    PAUSED = 1
    RUNNING = 2


@dataclass
class Run:
    """A run; `last` is None while it runs."""

    number: int
    hightag: int
    first: int
    last: int | None = None
    status: RunStatus = RunStatus.RUNNING


class Runs:
    """The runs so far, and the tags of shots.

    Parameters
    ----------
    tag_step
        Tags from one shot to the next.
    running
        Whether the first run begins with the first shot; else it has no shots yet.
    """

    def __init__(self, tag_step: int, running: bool) -> None:
        self._step = tag_step
        self._origin = (0, FIRST_TAG)  # a shot's number, and its tag
        self.hightag = HIGHTAG
        self.runs: list[Run] = []
        if running:
            self.begin(0)

    def tag(self, shot: int) -> int:
        """Return the low tag of a shot."""
        number, tag = self._origin
        return tag + (shot - number) * self._step

    def begin(self, shot: int, hightag: int | None = None, first: int | None = None) -> Run:
        """Begin a run; one that is under way ends.

        Parameters
        ----------
        shot
            Its first one.
        hightag
            None: as before.
        first
            Its first low tag; None: the tags go on.
        """
        self.end(shot)
        self._origin = (shot, self.tag(shot) if first is None else first)
        self.hightag = self.hightag if hightag is None else hightag
        number = self.runs[-1].number + 1 if self.runs else RUN
        self.runs.append(Run(number, self.hightag, self.tag(shot)))
        return self.runs[-1]

    def end(self, shot: int) -> None:
        """End the run under way before a shot."""
        if self.runs and self.runs[-1].last is None:
            self.runs[-1].last = self.tag(shot - 1)
            self.runs[-1].status = RunStatus.STOPPED

    def pause(self, is_paused: bool) -> None:
        """Pause the run under way, or go on with it."""
        if not self.runs or self.runs[-1].last is not None:
            raise APIError("no run is under way")
        self.runs[-1].status = RunStatus.PAUSED if is_paused else RunStatus.RUNNING

    def find(self, number: int) -> Run:
        """Return a run."""
        for run in self.runs:
            if run.number == number:
                return run
        raise APIError(f"no run {number}")
