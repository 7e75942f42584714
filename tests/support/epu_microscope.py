"""A simulated acquisition in time: what a night gives when squares are taken in a certain order.

Times are those of the visit's plan, also that from a micrograph to its results. It knows nothing of
policies: a function chooses the next square.
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from skywright.instruments.epu.twin.visit import (
    EXPOSURE_S,
    HOLE_S,
    SQUARE_S,
    TwinGrid,
    TwinHole,
    TwinMicrograph,
    TwinSquare,
)


@dataclass(frozen=True, slots=True)
class Result:
    """A message of the processing services, with the places that the micrograph's file names."""

    micrograph: TwinMicrograph
    square: str
    hole: str


@dataclass(slots=True)
class Night:
    """What was taken."""

    micrographs: int = 0
    good: int = 0
    moves: int = 0


Choose = Callable[[list[Result], Mapping[str, tuple[str, ...]], str], str]
"""Takes new results, the holes that are left by square, and the present square; returns the next
square, "" to end."""


def acquire(grid: TwinGrid, choose: Choose, seconds: float) -> Night:
    """Take a grid for some time.

    Parameters
    ----------
    grid
        Its truth.
    choose
        Asked after each hole.
    seconds
        Of the night.
    """
    night, now, current = Night(), 0.0, ""
    squares = {str(square.id): square for square in grid.squares if square.holes}
    left = {name: list(square.holes) for name, square in squares.items()}
    names = {name: tuple(str(hole.id) for hole in holes) for name, holes in left.items()}
    due: list[tuple[float, str, Result]] = []
    while True:
        came = []
        while due and due[0][0] <= now:
            came.append(heapq.heappop(due)[2])
        chosen = choose(came, names, current)
        if not chosen or now >= seconds:
            return night
        now += HOLE_S + (SQUARE_S if chosen != current else 0.0)
        night.moves += chosen != current
        current = chosen
        hole = left[chosen].pop(0)
        names[chosen] = names[chosen][1:]
        now = _take(night, squares[chosen], hole, now, seconds, due)


def _take(
    night: Night,
    square: TwinSquare,
    hole: TwinHole,
    now: float,
    seconds: float,
    due: list[tuple[float, str, Result]],
) -> float:
    for micrograph in hole.micrographs:
        now += EXPOSURE_S
        if now > seconds:
            break
        night.micrographs += 1
        night.good += micrograph.good
        result = Result(micrograph, str(square.id), str(hole.id))
        heapq.heappush(due, (now + micrograph.delay, micrograph.id, result))
    return now
