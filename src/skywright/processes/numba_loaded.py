"""Imported by a process that forks workers: numba, with all that it loads before its first kernel.

A worker that is forked without it loads that anew, in half a second of processor time.
"""

import numba


@numba.njit
def _same(value: int) -> int:
    return value


_same(1)
