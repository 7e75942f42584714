"""Choice of the frames of the next batch: how many, and which ones when time is short."""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from skywright.analysis.frames import frames_per_read

DECISION_LIMIT = "decision_limit_s"
"""Key of a start document: maximum time that the analysis of the waiting frames may take, s, for a
plan that waits for results. Frames that cannot be analyzed within this time are skipped, evenly
spread, and counted."""
BATCH_S = 0.25
"""Intended maximum time of a batch, s; a batch has at least one frame. The worker reports progress
after each batch; a worker that reports none counts as stalled."""
MEDIAN_BATCHES = 5
"""Number of batches whose median time is used, so that one slow batch, such as the first, does
not matter."""
MEASURED_BATCHES_MIN = 3
"""Batches to measure before frames are skipped."""


@dataclass
class Pace:
    """The time and the bytes that a frame of an analysis takes, measured batch by batch."""

    _times: deque[float] = field(default_factory=lambda: deque(maxlen=MEDIAN_BATCHES))
    _frame_bytes: float = 0.0

    def add_measurement(self, frames: int, seconds: float, size: int) -> None:
        """Note the time, s, and the size, bytes, of a batch of frames."""
        if frames:
            self._times.append(seconds / frames)
            self._frame_bytes = size / frames

    @property
    def batch_frames(self) -> int:
        """Frames to take at once; one until a batch is measured."""
        if not self._times:
            return 1
        return max(1, min(int(BATCH_S / median(self._times)), frames_per_read(self._frame_bytes)))

    def affordable(self, seconds: float) -> float:
        """Return the number of frames that fit into a time, s: at least 1.

        It is infinite if the time is, and while the time of a frame is unknown.
        """
        if len(self._times) < MEASURED_BATCHES_MIN or seconds == math.inf:
            return math.inf
        return max(1, int(seconds / median(self._times)))


def choose_positions(start: int, stop: int, affordable: float) -> range:
    """Return the positions to analyze among `start` to `stop`, about `affordable` of them.

    They are spread evenly, and the last one is always among them: it is what a decision looks at.
    """
    left = stop - start
    step = max(1, math.ceil(left / affordable))
    return range(start + (left - 1) % step, stop, step)
