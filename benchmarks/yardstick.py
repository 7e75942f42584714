"""How fast this machine is, beside the one that absolute goals are for.

That one decodes the JPEG of `bench_loop_detect` in `DECODE_MS` on a core, and reads `READ_PER_S`
pictures of 200 rows and their backgrounds a second, the floor of `bench_psss_processing`.
"""

import os
import time
from collections.abc import Callable
from functools import cache

import numpy as np

from benchmarks.rows import report

DECODE_MS = 0.27
READ_PER_S = 24_000.0
PICTURE = (200, 2560)
POOL = 40
"""Pictures: 40 MB, more than a cache holds."""
CALLS = 400
"""Each is timed by itself and the quickest counts: on a busy machine most are interrupted."""
VARIABLE = "SKYWRIGHT_BENCH_SLOWDOWN"
"""Hands the factor to the benchmarks of one run: they are processes of their own."""


def decode_ms() -> float:
    """Return the time in which a core decodes the picture, ms."""
    from benchmarks.bench_loop_detect import picture_bytes
    from skywright.instruments.loop.picture import decode

    data = picture_bytes()
    return 1e3 * _quickest_s(lambda call: decode(data))


def reads_per_s() -> float:
    """Return how often a second a core reads a picture and its background from memory."""
    from benchmarks.bench_psss_processing import read_once

    pool, background = np.ones((POOL, *PICTURE), np.uint16), np.ones(PICTURE, np.uint16)
    sums = np.zeros(PICTURE[1], np.uint32)
    return 1.0 / _quickest_s(lambda call: read_once(pool[call % POOL], background, sums))


def _quickest_s(work: Callable[[int], object]) -> float:
    """Return the least time of many calls, s; `work` gets the number of the call."""
    times = []
    for call in range(CALLS):
        began = time.perf_counter()
        work(call)
        times.append(time.perf_counter() - began)
    return min(times)


def slowdown_of(decode: float, reads: float) -> float:
    """Return how many times slower a machine is: the geometric mean of computing and memory.

    Parameters
    ----------
    decode
        `decode_ms` of it.
    reads
        `reads_per_s` of it.
    """
    return float(np.sqrt(decode / DECODE_MS * READ_PER_S / reads))


@cache
def slowdown() -> float:
    """Return how many times slower this machine is; measured once a run."""
    known = os.environ.get(VARIABLE)
    return float(known) if known else slowdown_of(decode_ms(), reads_per_s())


def measure() -> float:
    """Print the row of the yardstick, and return `slowdown`."""
    decode, reads = decode_ms(), reads_per_s()
    factor = slowdown_of(decode, reads)
    report(
        "yardstick: this machine beside that of the goals, times slower",
        factor, "", decode_ms=decode, reads_per_s=reads,
    )  # fmt: skip
    return factor
