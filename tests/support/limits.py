"""Limits on frames that wait, and on what a process may write."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from skywright.callbacks.stream_analysis import BacklogLimits

ALL_FRAMES = BacklogLimits(max_behind_s=600.0, catch_up_s=600.0)
"""No frame is skipped, however slow the computer is."""


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """This process can write a file only up to a length of `room` bytes, in the with block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
