"""Flash candidates of a run, from its event table, live and again later."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.panoseti.clock import Flag
from skywright.instruments.panoseti.flashes import WINDOW_NS, EventTable, find_flashes

KEPT = 1000
"""Candidates whose rows are kept in a result: the brightest ones."""
MEMBERS = 16
"""Events of a candidate whose rows are kept: four boards of four modules."""
FIELDS = ("number", "time_ns", "module", "largest")


class Bright(NamedTuple):
    """What is kept of blocks of events."""

    events: int
    undated: int
    pieces: tuple[NDArray[np.int64], ...]
    """(n, 4) of events above the threshold, columns as in `FIELDS`; one array a block."""


class FlashCandidates(Analysis[Bright]):
    """Moments at which several modules have a bright event, and how many chance would give.

    Events of modules come in any order, so all events above the threshold are kept (32 bytes each)
    and searched together. Events whose board was not in step with UTC have no exact time and do not
    count.

    Parameters
    ----------
    threshold_adc
        An event counts if its brightest pixel reaches it, ADC.
    window_ns
        Largest difference of the times of one flash in two modules, ns.
    least_modules
        Modules that must see it.
    baselines_m
        ``[module, module, meters]`` for each pair of modules of different domes: the time that
        light takes is added to the window. In a session they come from the run's configuration.

    Raises
    ------
    ConfigError
        If a parameter is impossible.
    """

    name = "panoseti_flashes"
    stream = "events"
    version = "1"
    inputs: ClassVar[Sequence[str]] = (
        "events_time_ns", "events_module", "events_largest", "events_flags",
    )  # fmt: skip
    identity = "events_number"
    time = "events_seconds"
    block_size = 4096
    skips = False
    columns = (Column("bright", "|u1", attrs={"description": "1: dated and above the threshold"}),)
    results = (
        Column("n_events", "<i8", attrs={"description": "pulse-height frames of all modules"}),
        Column("n_bright", "<i8", attrs={"description": "dated and above the threshold"}),
        Column("n_undated", "<i8", attrs={"description": "without a clock in step with UTC"}),
        Column("n_candidates", "<i8", attrs={"description": "flash candidates"}),
        Column("n_expected", "<f8", attrs={"description": "pairs that chance alone would give"}),
        Column("candidate_time_ns", "<i8", (KEPT,), attrs={"units": "ns", "description": "or 0"}),
        Column("candidate_modules", "<i4", (KEPT,), attrs={"description": "modules that saw it"}),
        Column("candidate_largest", "<i4", (KEPT,), attrs={"units": "ADC"}),
        Column(
            "candidate_rows",
            "<i8",
            (KEPT, MEMBERS),
            attrs={"description": "events_number of its events in the raw run; -1: no more"},
        ),
    )

    def __init__(
        self,
        threshold_adc: float = 90.0,
        window_ns: int = WINDOW_NS,
        least_modules: int = 2,
        baselines_m: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__(
            threshold_adc=threshold_adc,
            window_ns=window_ns,
            least_modules=least_modules,
            baselines_m=[list(each) for each in baselines_m],
        )
        self._baselines_m = {(int(a), int(b)): float(meters) for a, b, meters in baselines_m}
        if not threshold_adc > 0 or window_ns < 0 or least_modules < 2:
            raise ConfigError(
                f"threshold_adc {threshold_adc}, window_ns {window_ns}, least_modules "
                f"{least_modules}: expected above 0, at least 0, and at least 2"
            )
        if not all(0 <= meters < math.inf for meters in self._baselines_m.values()):
            raise ConfigError(f"baselines_m {baselines_m!r:.80}: expected distances, at least 0")

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Mark the events that count."""
        undated = (batch["events_flags"] & (Flag.UNLOCKED | Flag.EMPTY)) != 0
        bright = (batch["events_largest"] >= self.parameters["threshold_adc"]) & ~undated
        fields = (batch.identities, *(batch[f"events_{name}"] for name in FIELDS[1:]))
        rows = np.stack([np.asarray(each, np.int64) for each in fields], axis=1)
        return {"bright": bright.astype(np.uint8), "undated": undated, "rows": rows}

    def statistic(self, members: Batch) -> Bright:
        """Keep the bright events of a block."""
        bright = members["rows"][members["bright"] > 0]
        return Bright(len(members), int(members["undated"].sum()), (bright,))

    def fold(self, prefix: Bright | None, statistic: Bright) -> Bright:
        """Add the next block."""
        if prefix is None:
            return statistic
        return Bright(
            prefix.events + statistic.events,
            prefix.undated + statistic.undated,
            prefix.pieces + statistic.pieces,
        )

    def summarize(self, state: Bright | None) -> Mapping[str, Any]:
        """Search all bright events together."""
        state = state or Bright(0, 0, (np.empty((0, len(FIELDS)), np.int64),))
        rows = np.concatenate(state.pieces)
        number, time_ns, module, largest = rows.T
        found = find_flashes(
            EventTable(time_ns, module, largest),
            self.parameters["threshold_adc"],
            self.parameters["window_ns"],
            self.parameters["least_modules"],
            self._baselines_m,
        )
        brightest = np.array([largest[group].max() for group in found.rows], np.int64)
        kept = np.sort(np.argsort(-brightest, kind="stable")[:KEPT])
        times, modules, heights = (np.zeros(KEPT, np.int64) for _ in range(3))
        links = np.full((KEPT, MEMBERS), -1, np.int64)
        count = len(kept)
        times[:count], modules[:count] = found.time_ns[kept], found.modules[kept]
        heights[:count] = brightest[kept]
        for place, candidate in enumerate(kept.tolist()):
            group = found.rows[candidate][:MEMBERS]
            links[place, : len(group)] = number[group]
        return {
            "n_events": state.events,
            "n_bright": len(rows),
            "n_undated": state.undated,
            "n_candidates": len(found.rows),
            "n_expected": found.expected,
            "candidate_time_ns": times,
            "candidate_modules": modules,
            "candidate_largest": heights,
            "candidate_rows": links,
        }
