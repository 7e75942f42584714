"""Flash candidates: bright pulse heights in several modules at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.panoseti.coincidences import find_coincidences

WINDOW_NS = 100


@dataclass(frozen=True)
class EventTable:
    """Events of all modules; the row number is an event's identity.

    Attributes
    ----------
    time_ns, module
        (N,) of each event.
    largest
        (N,) largest pixel, ADC.
    """

    time_ns: NDArray[np.int64]
    module: NDArray[np.int64]
    largest: NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Flash candidates in the order of time.

    Attributes
    ----------
    time_ns
        (C,) time of the first event of each.
    modules
        (C,) number of modules that saw it.
    rows
        For each the rows of its events in the event table.
    expected
        Number of chance coincidences of two modules among events above the threshold.
    """

    time_ns: NDArray[np.int64]
    modules: NDArray[np.int64]
    rows: list[NDArray[np.int64]]
    expected: float


def find_flashes(
    events: EventTable,
    threshold_adc: float,
    window_ns: int = WINDOW_NS,
    least_modules: int = 2,
    baselines_m: Mapping[tuple[int, int], float] | None = None,
) -> Candidates:
    """Find moments at which several modules have an event above a threshold.

    Parameters
    ----------
    events
        Of all modules.
    threshold_adc
        Events whose largest pixel is below it do not count.
    window_ns, baselines_m
        As for `coincidences.find_coincidences`.
    least_modules
        Modules that must see it.
    """
    bright = np.flatnonzero(events.largest >= threshold_adc)
    times = events.time_ns[bright]
    pairs = find_coincidences(times, events.module[bright], window_ns, baselines_m)
    if not len(pairs):
        empty = np.empty(0, np.int64)
        return Candidates(empty, empty, [], pairs.expected)
    rows = np.unique(np.concatenate([pairs.first, pairs.second]))
    rows = rows[np.argsort(times[rows], kind="stable")]
    # Events of one flash follow one another within the window, or a pair of domes spans the gap.
    place = np.empty(len(bright), np.int64)
    place[rows] = np.arange(len(rows))
    spans = np.zeros(len(rows), np.int64)
    np.add.at(spans, place[pairs.first], 1)
    np.add.at(spans, place[pairs.second], -1)
    gaps = (np.diff(times[rows]) > window_ns) & (np.cumsum(spans)[:-1] == 0)
    groups = [bright[group] for group in np.split(rows, np.flatnonzero(gaps) + 1)]
    counts = [len(np.unique(events.module[group])) for group in groups]
    kept = [index for index, count in enumerate(counts) if count >= least_modules]
    return Candidates(
        time_ns=np.array([events.time_ns[groups[index][0]] for index in kept], np.int64),
        modules=np.array([counts[index] for index in kept], np.int64),
        rows=[groups[index] for index in kept],
        expected=pairs.expected,
    )
