"""Which frames a live analysis takes next: how many at once, and which ones when time is short."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from skywright.files.frames import frames_of

BATCH_S = 0.25
"""A batch takes about so long, so that its progress is told before anyone takes it for stuck."""
REMEMBERED = 5
"""Batches whose median counts: the first frame of a process, or one hiccup, tells nothing."""
KNOWN = 3
"""Batches to measure before frames are skipped."""


@dataclass
class Pace:
    """The time and the bytes that a frame of an analysis takes, measured batch by batch."""

    _times: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _frame_bytes: float = 0.0

    def took(self, frames: int, seconds: float, size: int) -> None:
        """Take in what a batch of frames took; `size` in bytes."""
        if frames:
            self._times.append(seconds / frames)
            self._frame_bytes = size / frames

    @property
    def batch_frames(self) -> int:
        """Frames to take at once; one until a batch is measured."""
        if not self._times:
            return 1
        return max(1, min(int(BATCH_S / median(self._times)), frames_of(self._frame_bytes)))

    def affordable(self, seconds: float) -> float:
        """Return how many frames a time is enough for: at least one, any number if unknown."""
        if len(self._times) < KNOWN:
            return math.inf
        return max(1, int(seconds / median(self._times)))


def choose(start: int, stop: int, affordable: float) -> range:
    """Return the positions to analyze of `start` to `stop`: as many as there is time for.

    They are spread evenly, and the last one is always among them: it is what a decision looks at.
    """
    left = stop - start
    step = max(1, math.ceil(left / affordable))
    return range(start + (left - 1) % step, stop, step)
