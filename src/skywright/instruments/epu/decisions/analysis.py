"""The quality of a grid's squares and holes from the results of processing: an analysis."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.analysis import Analysis, Batch
from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.epu.decisions.policy import (
    DEFAULT_POLICY,
    MOVE_HOLES,
    Left,
    Suggestion,
    make_policy,
)
from skywright.instruments.epu.decisions.quality import GridQuality, estimate
from skywright.instruments.epu.runs.layouts import last_of_each

SQUARES, HOLES = 256, 256
"""Squares and holes in a result, the best first; a place without square has the id ""."""
CTF_LIMIT_A, MOTION_LIMIT_A = 4.25, 200.0
SHARE = {"units": "1"}


class Judged(NamedTuple):
    """Micrographs with results, the last row of each: uuid, square and hole as text, good."""

    uuid: NDArray[np.bytes_]
    square: NDArray[np.bytes_]
    hole: NDArray[np.bytes_]
    good: NDArray[np.int8]


class MicrographQuality(Analysis[Judged]):
    """Ranks the squares of a grid by their share of good micrographs, and chooses the next one.

    Results do not tell which holes are left. The policy gets the holes with results in their place,
    so it chooses among the squares with results.

    Parameters
    ----------
    ctf_limit_a
        A good micrograph resolves at least this, angstrom (`ctf_max_resolution_estimate`).
    motion_limit_a
        Its total motion is at most this, angstrom; unknown motion does not count against it.
    policy, move_holes
        As of `make_policy`: what chooses the next square.
    """

    name: ClassVar[str] = "epu_quality"
    stream: ClassVar[str] = "micrographs"
    version: ClassVar[str] = "2"
    inputs = (
        "result_uuid",
        "result_gridsquare_id",
        "result_foilhole_id",
        "result_ctf_max_resolution_estimate",
        "result_total_motion",
    )
    identity = "result_row"
    time = "result_updated_at"
    block_size = 1024
    columns = (Column("/entry/good", "|i1", attrs={"description": "1, 0, or -1 without CTF"}),)
    results = (
        Column("/entry/micrographs", "<i8"),
        Column("/entry/good_micrographs", "<i8"),
        Column("/entry/squares_with_results", "<i8"),
        Column("/entry/best_square", "<U20"),
        Column("/entry/square_id", "<i8", (SQUARES,), attrs={"description": "-1: no square"}),
        Column("/entry/square_results", "<i8", (SQUARES,)),
        Column("/entry/square_share", "<f8", (SQUARES,), attrs=SHARE),
        Column("/entry/square_share_sigma", "<f8", (SQUARES,), attrs=SHARE),
        Column("/entry/next_square", "<U20", attrs={"description": "what the policy chooses"}),
        Column(
            "/entry/hole_id", "<i8", (HOLES,), attrs={"description": "of next_square; -1: none"}
        ),
        Column("/entry/hole_share", "<f8", (HOLES,), attrs=SHARE),
    )

    def __init__(
        self,
        ctf_limit_a: float = CTF_LIMIT_A,
        motion_limit_a: float = MOTION_LIMIT_A,
        policy: str = DEFAULT_POLICY,
        move_holes: float = MOVE_HOLES,
    ) -> None:
        for name, value in (("ctf_limit_a", ctf_limit_a), ("motion_limit_a", motion_limit_a)):
            if not value > 0:
                raise ConfigError(f"{name} = {value!r}, expected above 0")
        self._policy = make_policy(policy, move_holes)
        super().__init__(
            ctf_limit_a=ctf_limit_a,
            motion_limit_a=motion_limit_a,
            policy=policy,
            move_holes=move_holes,
        )

    def measure(self, batch: Batch) -> Mapping[str, NDArray[Any]]:
        """Judge each micrograph."""
        ctf = batch["result_ctf_max_resolution_estimate"]
        moved = batch["result_total_motion"] > self.parameters["motion_limit_a"]
        good = (ctf <= self.parameters["ctf_limit_a"]) & ~moved
        return {
            "good": np.where(np.isnan(ctf), -1, good).astype("i1"),
            "uuid": np.asarray(batch["result_uuid"], dtype="S36"),
            "square": np.asarray(batch["result_gridsquare_id"], dtype="S20"),
            "hole": np.asarray(batch["result_foilhole_id"], dtype="S20"),
        }

    def statistic(self, members: Batch) -> Judged:
        """Keep the last row of each micrograph."""
        return _last(Judged(*(members[name] for name in Judged._fields)))

    def fold(self, prefix: Judged | None, statistic: Judged) -> Judged:
        """Add later rows; the last one of a micrograph holds."""
        if prefix is None:
            return statistic
        return _last(
            Judged(*(np.concatenate(pair) for pair in zip(prefix, statistic, strict=True)))
        )

    def summarize(self, state: Judged | None) -> Mapping[str, Any]:
        """Rank squares and holes, and choose."""
        found = summary(state)
        shown = min(len(found.squares), SQUARES)
        chosen = self._choose(state, found)
        square = chosen.squares[0] if chosen.squares else ""
        holes = [*chosen.holes, *chosen.skipped_holes][:HOLES]
        return {
            "micrographs": found.micrographs,
            "good_micrographs": found.good,
            "squares_with_results": len(found.squares),
            "best_square": found.squares[0] if found.squares else "",
            "square_id": _padded(_numbers(found.squares[:shown]), -1),
            "square_results": _padded(found.results[:shown], 0),
            "square_share": _padded(found.share[:shown], np.nan),
            "square_share_sigma": _padded(found.sigma[:shown], np.nan),
            "next_square": square,
            "hole_id": _padded(_numbers(holes), -1, HOLES),
            "hole_share": _padded([found.holes[square, hole] for hole in holes], np.nan, HOLES),
        }

    def _choose(self, state: Judged | None, found: GridQuality) -> Suggestion:
        """Choose among the squares with results; the present one is that of the last row."""
        known: dict[str, tuple[str, ...]] = {}
        for square, hole in found.holes:
            known[square] = (*known.get(square, ()), hole)
        current = state.square[-1].decode() if state is not None and len(state.square) else ""
        return self._policy.suggest(found, Left(known, current))

    def quality(self) -> GridQuality:
        """Return what is known of squares and holes, for a policy."""
        state = self._folded
        for _, block in sorted(self._blocks().items()):
            state = self.fold(state, block.statistic)
        return summary(state)


def summary(state: Judged | None) -> GridQuality:
    """Estimate the shares of squares and holes from judged micrographs."""
    known = None if state is None else Judged._make(each[state.good >= 0] for each in state)
    if known is None or not len(known.uuid):
        return GridQuality((), np.zeros(0, "i8"), np.zeros(0), np.zeros(0), {}, 0, 0)
    squares, owners = np.unique(known.square, return_inverse=True)
    places = np.char.add(np.char.add(known.square, b"/"), known.hole)
    _, first, which = np.unique(places, return_index=True, return_inverse=True)
    total = np.bincount(which)
    good = np.bincount(which, weights=known.good).astype("i8")
    shares = estimate(owners[first], good, total, len(squares))
    order = np.lexsort((squares, -shares.square))
    return GridQuality(
        tuple(squares[each].decode() for each in order),
        np.bincount(owners)[order],
        shares.square[order],
        shares.sigma[order],
        {
            (known.square[place].decode(), known.hole[place].decode()): float(share)
            for place, share in zip(first, shares.hole, strict=True)
        },
        len(known.good),
        int(known.good.sum()),
    )


def _last(rows: Judged) -> Judged:
    keep = last_of_each(rows.uuid)
    return Judged._make(each[keep] for each in rows)


def _numbers(names: Iterable[str]) -> list[int]:
    """Return the ids as numbers of 64 bits, -1 for one that is none: others may write any id."""
    return [int(name) if re.fullmatch("[0-9]{1,18}", name) else -1 for name in names]


def _padded(values: Any, missing: float, length: int = SQUARES) -> NDArray[Any]:
    filled = np.full(length, missing)
    filled[: len(values)] = values
    return filled
