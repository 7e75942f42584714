"""What to take next: policies, from the quality of a grid and what is left of it.

A policy is any object with `suggest`. `StayOrLeave` is the default; the others are for comparison.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.epu.decisions.quality import SHARES, GridQuality

DEFAULT_POLICY = "stay_or_leave"
MOVE_HOLES = 2.0
PRIOR = 1.0
"""Weight of the uniform distribution of shares before the first squares, in squares."""


@dataclass(frozen=True)
class Left:
    """What is left to take of a grid.

    Attributes
    ----------
    holes
        Planned holes that have no micrograph yet, by square: squares in the order of their ids,
        holes in that of the square's ``.dm``.
    current
        The square of the newest micrograph; "" before the first.
    predicted
        Probability that a micrograph of a hole is good, as models predict it, by (square, hole).
    """

    holes: Mapping[str, tuple[str, ...]]
    current: str = ""
    predicted: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Suggestion:
    """What a policy wants.

    Attributes
    ----------
    squares
        Squares in the order in which to take them; the first one is the next.
    skipped
        Squares that are not worth their time as far as is known; none if that holds for all.
    reason
        For people.
    holes
        Holes of the first square in the order in which to take them.
    skipped_holes
        Its other planned holes, which are not worth their time as far as is known.
    """

    squares: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    reason: str = ""
    holes: tuple[str, ...] = ()
    skipped_holes: tuple[str, ...] = ()


class Policy(Protocol):
    """Chooses what to take next."""

    @property
    def name(self) -> str:
        """Name, for documents and people."""

    def suggest(self, quality: GridQuality, left: Left) -> Suggestion:
        """Return the order of the squares that are left."""


@dataclass(frozen=True)
class EpuOrder:
    """Takes the squares in the order of their ids, as EPU does by itself."""

    name: str = "epu_order"

    def suggest(self, quality: GridQuality, left: Left) -> Suggestion:
        """Return the squares and their holes as they come."""
        return _whole(left, list(left.holes))


@dataclass(frozen=True)
class RandomOrder:
    """Takes the squares in an order drawn by chance, each to its end."""

    seed: int = 0
    name: str = "random_order"

    def suggest(self, quality: GridQuality, left: Left) -> Suggestion:
        """Return the squares in the order that the seed gives."""
        order = sorted(left.holes)
        random.Random(self.seed).shuffle(order)
        return _whole(left, order)


@dataclass(frozen=True)
class StayOrLeave:
    """Stays in a square while it gives more good micrographs per time than the grid does.

    The marginal value theorem: the best time to leave a patch is when it gives less per time than
    the whole search does. The rate of the search is that of this policy with its best threshold,
    for the squares' shares as known so far: probe a square, stay to its end if its share is above
    the threshold, else move on. A square is not judged before `probe` micrographs have results.

    Attributes
    ----------
    move_holes
        Time that a move to another square costs, in times of a hole.
    probe
        Micrographs with results that a square must have before it is left.
    probe_holes
        Holes that are taken until these results have come.
    """

    move_holes: float = MOVE_HOLES
    probe: int = 15
    probe_holes: float = 6.0
    name: str = field(default="stay_or_leave")

    def suggest(self, quality: GridQuality, left: Left) -> Suggestion:
        """Return the squares by what they give per time, moves included."""
        shares = quality.shares
        counts = dict(zip(quality.squares, quality.results, strict=True))
        open_squares = [square for square, holes in left.holes.items() if holes]
        if not open_squares:
            return Suggestion((), reason="no planned hole is left")
        typical = float(np.median([len(left.holes[each]) for each in open_squares]))
        rate = self.best_rate(quality, typical)
        worth = {}
        for square in open_squares:
            known = counts.get(square, 0) >= self.probe
            n = len(left.holes[square])
            if square == left.current:
                worth[square] = shares[square] if known else math.inf
            elif known:
                worth[square] = shares[square] * n / (n + self.move_holes)
            else:
                # Squares of which nothing is known are worth the average.
                worth[square] = rate
        order = sorted(open_squares, key=lambda square: -worth[square])
        first = order[0]
        skipped = [square for square in order if worth[square] < rate]
        if first in skipped:  # all that is left; EPU would have nothing to take
            skipped = []
        if first == left.current and not math.isfinite(worth[first]):
            reason = f"stay in {first}, which has too few results to judge"
        else:
            verb = "stay in" if first == left.current else "go to"
            reason = f"{verb} {first}: {worth[first]:.0%} good, moves counted as bad time"
        reason = f"{reason}; the grid gives {rate:.0%}"
        return Suggestion(
            tuple(order), tuple(skipped), reason, *rank_holes(quality, left, first, rate)
        )

    def best_rate(self, quality: GridQuality, holes: float) -> float:
        """Return the good share per hole's time that the best threshold gives.

        Parameters
        ----------
        quality
            Of the grid; squares without enough results stand for an unknown one.
        holes
            In a square.
        """
        # The estimated shares are counted, as the decision after a probe rests on them. The true
        # shares scatter more.
        means = quality.share[quality.results >= self.probe]
        density = np.full(len(SHARES), PRIOR / len(SHARES))
        density += np.histogram(means, bins=len(SHARES), range=(0, 1))[0]
        density = density / density.sum()
        probe = min(self.probe_holes, holes)
        above = np.cumsum(density[::-1])[::-1]
        good = np.cumsum((density * SHARES)[::-1])[::-1]
        rates = (probe * (density @ SHARES) + (holes - probe) * good) / (
            self.move_holes + probe + (holes - probe) * above
        )
        return float(rates.max())


def rank_holes(
    quality: GridQuality, left: Left, square: str, least: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Rank the holes of a square: by results, else by what models predict, else by the square.

    Parameters
    ----------
    quality
        Of the grid.
    left
        What is left of it.
    square
        The square.
    least
        A hole with results or a prediction below this share is not worth its time.

    Returns
    -------
    holes, skipped : tuple of str
        The best first, in the given order where they are equal. If none is worth its time, none is
        skipped.
    """
    whole = quality.shares.get(square, least)
    known = {**left.predicted, **quality.holes}
    share = {hole: known.get((square, hole), whole) for hole in left.holes[square]}
    ranked = sorted(share, key=lambda hole: -share[hole])
    bad = [hole for hole in ranked if (square, hole) in known and share[hole] < least]
    if len(bad) == len(ranked):
        bad = []
    return tuple(hole for hole in ranked if hole not in set(bad)), tuple(bad)


def _whole(left: Left, order: list[str]) -> Suggestion:
    """Suggest all that is left, the squares in an order."""
    squares = tuple(square for square in order if left.holes[square])
    return Suggestion(squares, holes=left.holes[squares[0]] if squares else ())


POLICIES: Mapping[str, type[EpuOrder | RandomOrder | StayOrLeave]] = {
    DEFAULT_POLICY: StayOrLeave,
    "epu_order": EpuOrder,
    "random_order": RandomOrder,
}
"""Policies by name, as the setting ``epu.policy`` names them."""


def make_policy(name: str, move_holes: float = MOVE_HOLES) -> Policy:
    """Return a policy.

    Parameters
    ----------
    name
        One of `POLICIES`.
    move_holes
        Time that a move to another square costs, in times of a hole; for `stay_or_leave`.

    Raises
    ------
    ConfigError
        If there is no such policy, or the time is negative.
    """
    if name not in POLICIES:
        raise ConfigError(f"policy {name!r}: known are {', '.join(POLICIES)}")
    if not move_holes >= 0:
        raise ConfigError(f"policy: move_holes = {move_holes!r}, expected 0 or more")
    return StayOrLeave(move_holes) if name == DEFAULT_POLICY else POLICIES[name]()
