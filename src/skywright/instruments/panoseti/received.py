"""What the frames of one module and product tell as they come: rate, lost packets, clocks."""

import time
from collections.abc import Callable

from skywright.instruments.panoseti.clock import NS, in_step
from skywright.instruments.panoseti.frames import Frames
from skywright.instruments.panoseti.gaps import NO_GAPS, count_gaps, packets_of
from skywright.instruments.panoseti.live.activity import GROWN_WITHIN_S
from skywright.instruments.panoseti.products import QUABOS
from skywright.instruments.panoseti.sources.rundir import FrameGroup

RATE_NS = NS
"""A rate is that of the frames of at least this time."""


class ReceivedFrames:
    """Rate and lost packets of the frames of one module and product in the newest run.

    One thread adds frames; any thread may read.

    Parameters
    ----------
    clock
        Returns the present time, s; for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._run = ""
        self._gaps = NO_GAPS
        self._rate_hz = 0.0
        self._since_ns = self._frames = 0
        self._added = 0.0

    def add(self, group: FrameGroup) -> None:
        """Add the next frames; those of another run begin anew."""
        frames = group.frames
        if not len(frames):
            return
        if group.run != self._run:
            self._run, self._gaps, self._rate_hz = group.run, NO_GAPS, 0.0
            self._since_ns = self._frames = 0
        self._gaps = self._gaps.with_next(count_gaps(frames.numbers, frames.quabo))
        self._added = self._clock()
        self._count(frames)

    @property
    def packets_lost(self) -> int:
        """Packets of the run that the boards have sent, by their counters, and that are absent."""
        return int(self._gaps.lost.sum())

    @property
    def rate_hz(self) -> float:
        """Frames per second by their own times, of the last second or more; 0 of a quiet stream."""
        is_quiet = self._clock() - self._added > GROWN_WITHIN_S
        return 0.0 if is_quiet else self._rate_hz

    def _count(self, frames: Frames) -> None:
        dated = frames.time_ns[frames.time_ns > 0]
        if not len(dated):
            return
        newest_ns = int(dated.max())
        if not self._since_ns or newest_ns < self._since_ns - RATE_NS:  # a clock was set back
            self._since_ns = int(dated[0])
            self._frames = -1  # the rate is that of the frames after this one
        self._frames += len(dated)
        passed_ns = newest_ns - self._since_ns
        if passed_ns >= RATE_NS:
            self._rate_hz = self._frames * NS / passed_ns
            self._since_ns, self._frames = newest_ns, 0


def newest_clocks(frames: Frames) -> dict[int, bool]:
    """Return whether the clock of each board was in step with UTC in its newest packet."""
    clocks = {}
    for board in range(QUABOS):
        sent = packets_of(board, frames.numbers, frames.quabo)
        if len(sent):
            clocks[board] = bool(in_step(sent[-1:])[0])
    return clocks
