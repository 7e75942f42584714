"""Limits on frames that wait, and on what a process may write."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from skywright.callbacks.stream_analysis import BacklogLimits

ALL_FRAMES = BacklogLimits(max_behind_s=600.0, catch_up_s=600.0)
"""No frame is skipped, however slow the computer is."""


@contextmanager
def full_disk() -> Iterator[None]:
    """No byte can be written to a file by this process, in the with block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
