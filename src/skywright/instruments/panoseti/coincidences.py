"""Coincidences between modules, in exact integer nanoseconds.

The events of all modules are one table; the row number of an event is its identity. Two events of
different modules coincide when their times differ by no more than a window plus the time that light
needs between the two telescopes, because the direction of the flash is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.errors import DataError

MODULES_COUNTED_MAX = 65536
"""Modules with numbers below it are found by counting."""
LIGHT_NS_PER_M = 1e9 / 299_792_458.0


@dataclass(frozen=True)
class Coincidences:
    """Pairs of coincident events.

    Attributes
    ----------
    first, second
        (P,) int64 rows of the event table: the earlier and the later event, in the order of the
        earlier one's time.
    expected
        Number of pairs that chance alone would give, if each module had a constant rate over the
        time that all of them cover.
    live_s
        That time, s.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    expected: float
    live_s: float

    def __len__(self) -> int:
        return len(self.first)


def find_coincidences(
    time_ns: NDArray[np.int64],
    module: NDArray[np.integer],
    window_ns: int,
    baselines_m: Mapping[tuple[int, int], float] | None = None,
) -> Coincidences:
    """Find all pairs of events of different modules within the window.

    Parameters
    ----------
    time_ns
        (N,) int64, ns since 1970 UTC, in any order.
    module
        (N,) module of each event.
    window_ns
        Largest difference of the times of one flash as two modules measure it.
    baselines_m
        Distance between two modules, m, by pair of modules in any order; its light travel time is
        added to the window. A pair that is missing has 0.

    Returns
    -------
    Coincidences
        The pairs, and the number that chance would give.

    Raises
    ------
    DataError
        If the arrays differ in length or the window is negative.
    """
    if len(time_ns) != len(module):
        raise DataError(f"{len(time_ns)} times for {len(module)} modules")
    if window_ns < 0:
        raise DataError(f"the window must not be negative, it is {window_ns} ns")
    modules, code = _codes(np.asarray(module))
    windows = _windows(modules.tolist(), window_ns, baselines_m or {})
    times = np.asarray(time_ns, np.int64)
    order = np.argsort(times, kind="stable")
    ordered, codes = times[order], code[order]
    widest = int(windows.max(initial=0))
    pairs = np.empty((len(times) // 16 + 1024, 2), np.int64)  # enough for most runs
    count = _pairs(ordered, codes, windows, widest, order, pairs)
    if count > len(pairs):
        pairs = np.empty((count, 2), np.int64)
        _pairs(ordered, codes, windows, widest, order, pairs)
    expected, live_s = _chance(ordered, codes, windows)
    return Coincidences(pairs[:count, 0].copy(), pairs[:count, 1].copy(), expected, live_s)


def _codes(module: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int16]]:
    """Return the modules in order, and (N,) the place of each event's module among them."""
    small = len(module) > 0 and module.min() >= 0 and module.max() < MODULES_COUNTED_MAX
    if not small:
        modules, code = np.unique(module, return_inverse=True)
        return modules, code.astype(np.int16)
    # Modules have numbers up to 255: counting takes a tenth of the time of sorting.
    there = np.zeros(MODULES_COUNTED_MAX, bool)
    there[module] = True
    place = (np.cumsum(there) - 1).astype(np.int16)
    return np.flatnonzero(there), place[module]


def _windows(
    modules: Sequence[int], window_ns: int, baselines_m: Mapping[tuple[int, int], float]
) -> NDArray[np.int64]:
    """Return (M, M) int64, the window of each pair; -1 for a module with itself."""
    windows = np.full((len(modules), len(modules)), window_ns, np.int64)
    for (a, b), meters in baselines_m.items():
        if a in modules and b in modules:
            i, j = modules.index(a), modules.index(b)
            windows[i, j] = windows[j, i] = window_ns + int(np.ceil(meters * LIGHT_NS_PER_M))
    np.fill_diagonal(windows, -1)
    return windows


@njit(cache=True, nogil=True)
def _pairs(times, codes, windows, widest, order, out):  # type: ignore[no-untyped-def]
    """Count the pairs of sorted events, and write their rows into `out` as far as it goes."""
    count = 0
    for early in range(times.size):
        late = early + 1
        while late < times.size and times[late] - times[early] <= widest:
            if times[late] - times[early] <= windows[codes[early], codes[late]]:
                if count < out.shape[0]:
                    out[count, 0] = order[early]
                    out[count, 1] = order[late]
                count += 1
            late += 1
    return count


@njit(cache=True, nogil=True)
def _ends(codes, number):  # type: ignore[no-untyped-def]
    """Return the first and the last row of each of `number` codes; all of them are there."""
    first, last = np.empty(number, np.int64), np.empty(number, np.int64)
    for rows, at in ((first, 0), (last, codes.size - 1)):
        seen, step = np.zeros(number, np.bool_), 1 if at == 0 else -1
        missing = number
        while missing:
            if not seen[codes[at]]:
                seen[codes[at]] = True
                rows[codes[at]] = at
                missing -= 1
            at += step
    return first, last


def _chance(
    times: NDArray[np.int64], codes: NDArray[np.int16], windows: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the expected number of chance pairs, and the time in s that all modules cover.

    Two independent streams of rates r and s give ``2 w r s T`` pairs within ``w`` in a time T. Each
    time is a whole nanosecond, so the window holds ``2 w + 1`` of them.
    """
    number = len(windows)
    if number < 2:
        return 0.0, 0.0
    first, last = _ends(codes, number)
    begin, end = int(times[first].max()), int(times[last].min())
    live_ns = float(end - begin)
    if live_ns <= 0:
        return 0.0, 0.0
    inside = slice(np.searchsorted(times, begin), np.searchsorted(times, end, "right"))
    counts = np.bincount(codes[inside], minlength=number).astype(float)
    expected = sum(
        counts[i] * counts[j] * (2 * windows[i, j] + 1) / live_ns
        for i in range(number)
        for j in range(i)
    )
    return float(expected), live_ns / 1e9
