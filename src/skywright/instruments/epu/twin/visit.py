"""The plan of a simulated visit: grids, squares, holes and micrographs with their true quality.

The quality model. All of it but the resolutions was fixed before any policy was tried on it:

- Each square has a share of good micrographs between 10 and 80 %: its logit is uniform between
  those of 0.1 and 0.8.
- Each hole's logit is that of its square plus a normal deviate, whose standard deviation is that
  of the squares' logits: holes scatter as much as squares.
- A micrograph is good with its hole's probability. Good ones resolve 2.5-4.0 A and move 5-20 A,
  others 4.0-12 A and 15-60 A. Processing estimates the resolution with a relative error of 10 %
  (standard deviation): some good micrographs are judged bad, and some others good. About 300
  particles are picked; about 60 % of them are kept on a good micrograph and 40 % on another, so
  half in all.
- Results of processing come 30-120 s after the micrograph.
- A micrograph takes 4 s, a move to another hole 4 s, one to another square 60 s (stage, settling,
  picture of the square, focus).
"""

import math
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

VISIT = "zz22222-1"
"""Name of the directory of a visit."""
LOWEST_SHARE, HIGHEST_SHARE = 0.1, 0.8
START = datetime(2025, 1, 29, 9, 0, 0, tzinfo=UTC)
EXPOSURE_S, HOLE_S, SQUARE_S = 4.0, 4.0, 60.0
"""Seconds for a micrograph, for the move to the next hole, and to the next square."""
RESOLUTION_SPREAD = 0.1
"""Standard deviation of an estimated resolution, as a part of the true one."""


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


_LOGITS = (_logit(LOWEST_SHARE), _logit(HIGHEST_SHARE))
HOLE_SPREAD = (_LOGITS[1] - _LOGITS[0]) / math.sqrt(12)
"""Standard deviation of a uniform distribution between the two logits."""


@dataclass(slots=True)
class TwinMicrograph:
    """A micrograph and what processing will find on it.

    `motion`, `true_resolution` and its estimate `resolution` are in angstrom, `defocus` in metres,
    `delay` in seconds from the micrograph to its results.
    """

    id: str
    area: int
    good: bool
    defocus: float
    applied_defocus: float
    motion: float
    true_resolution: float
    resolution: float
    particles_picked: int
    particles_kept: int
    delay: float


@dataclass(slots=True)
class TwinHole:
    """A hole; x and y in pixels of the square's image (4096 wide), `share` is P(good)."""

    id: int
    x: float
    y: float
    near_grid_bar: bool
    share: float
    centered: bool
    micrographs: list[TwinMicrograph] = field(default_factory=list)


@dataclass(slots=True)
class TwinSquare:
    """A square; `x`, `y` in pixels of the atlas (4096 wide), imaged if it has holes."""

    id: int
    x: float
    y: float
    share: float
    disc: int
    holes: list[TwinHole] = field(default_factory=list)


@dataclass(slots=True)
class TwinGrid:
    """One session of the visit."""

    id: int
    name: str
    slot: int
    squares: list[TwinSquare]

    def micrographs(self) -> list[TwinMicrograph]:
        """Return all micrographs in EPU's order."""
        holes = [hole for square in self.squares for hole in square.holes]
        return [micrograph for hole in holes for micrograph in hole.micrographs]


@dataclass(slots=True)
class TwinVisit:
    """A whole visit: the truth, from which `writer` makes files."""

    name: str
    seed: int
    grids: list[TwinGrid]

    def micrographs(self) -> list[TwinMicrograph]:
        """Return all micrographs in EPU's order."""
        return [micrograph for grid in self.grids for micrograph in grid.micrographs()]


def plan_visit(
    seed: int = 0,
    grids: int = 1,
    squares: int = 40,
    imaged: int = 6,
    holes: int = 20,
    areas: tuple[int, int] = (4, 10),
) -> TwinVisit:
    """Return a visit.

    Parameters
    ----------
    seed
        The same seed gives the same visit.
    grids
        Number of sessions.
    squares, imaged
        Squares of each grid, and how many of them are imaged.
    holes
        Holes of an imaged square.
    areas
        Least and largest number of micrographs of a hole.
    """
    rng = random.Random(seed)
    planned = [_plan_grid(rng, n, squares, imaged, holes, areas) for n in range(grids)]
    return TwinVisit(VISIT, seed, planned)


def _plan_grid(
    rng: random.Random,
    number: int,
    squares: int,
    imaged: int,
    holes: int,
    areas: Sequence[int],
) -> TwinGrid:
    base = 29_000_000 + number * 100_000_000
    day = START.strftime("%Y%m%d")
    name = f"Supervisor_{day}_{90000 + number:06d}_{number}_{VISIT}_grid{number}_EPU"
    grid = TwinGrid(base, name, number, [])
    side = math.ceil(math.sqrt(squares))
    chosen = set(rng.sample(range(squares), min(imaged, squares)))
    for index in range(squares):
        x = 300 + 3500 * (index % side + 0.5) / side + rng.uniform(-15, 15)
        y = 300 + 3500 * (index // side + 0.5) / side + rng.uniform(-15, 15)
        logit = rng.uniform(*_LOGITS)
        share = 1 / (1 + math.exp(-logit))
        square = TwinSquare(base + 1000 + 11 * index, x, y, share, disc=1)
        if index in chosen:
            for n in range(holes):
                square.holes.append(
                    _plan_hole(rng, base + 100_000 + index * 3000 + n, n, holes, logit)
                )
                _add_micrographs(rng, square.holes[-1], rng.randint(*areas))
        grid.squares.append(square)
    return grid


def _plan_hole(
    rng: random.Random, identity: int, number: int, count: int, logit: float
) -> TwinHole:
    share = 1 / (1 + math.exp(-(logit + rng.gauss(0, HOLE_SPREAD))))
    side = math.ceil(math.sqrt(count))
    step = 3700 / side
    column, row = number % side, number // side
    return TwinHole(
        identity,
        x=200.0 + step * (column + 0.5) + rng.uniform(-5, 5),
        y=200.0 + step * (row + 0.5) + rng.uniform(-5, 5),
        near_grid_bar=side > 4 and (column in (0, side - 1) or row == 0),
        share=share,
        centered=rng.random() > 0.05,
    )


def _add_micrographs(rng: random.Random, hole: TwinHole, count: int) -> None:
    for area in range(count):
        good = rng.random() < hole.share
        picked = max(0, round(rng.gauss(300, 40)))
        applied = -1e-6 * rng.choice((0.8, 1.2, 1.6, 2.0, 2.4))
        resolution = rng.uniform(2.5, 4.0) if good else rng.uniform(4.0, 12)
        hole.micrographs.append(
            TwinMicrograph(
                str(uuid.UUID(int=rng.getrandbits(128), version=4)),
                29261290 + 3 * area,
                good,
                defocus=applied + rng.gauss(0, 1e-7),
                applied_defocus=applied,
                motion=rng.uniform(5, 20) if good else rng.uniform(15, 60),
                true_resolution=resolution,
                resolution=resolution * math.exp(rng.gauss(0, RESOLUTION_SPREAD)),
                particles_picked=picked,
                particles_kept=round(picked * (0.6 if good else 0.4)),
                delay=rng.uniform(30, 120),
            )
        )
