"""Which frames a live analysis takes next: how many at once, and which ones when time is short."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from skywright.files.frames import frames_of

DECISION_LIMIT = "decision_limit_s"
"""Key of a start document: the plan waits for the analysis, so at most this work, s, may wait.
Frames beyond that are skipped evenly and counted."""
BATCH_S = 0.25
"""Longest time of a batch, s: the worker reports progress after each, and one that reports none is
taken for stuck."""
REMEMBERED = 5
"""The median of this number of batches counts: one slow batch, as the first, does not change it."""
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
