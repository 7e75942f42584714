"""Nights on simulated grids, each taken by a policy that sees only holes and results."""

from collections.abc import Mapping

import numpy as np
from support.epu_microscope import Night, Result, acquire

from skywright.analysis import Batch
from skywright.instruments.epu.decisions.analysis import MicrographQuality
from skywright.instruments.epu.decisions.policy import Left, Policy
from skywright.instruments.epu.twin.visit import plan_visit

NIGHT_S, SQUARES, HOLES = 6 * 3600.0, 40, 50


def batch_of(results: list[Result], first: int) -> Batch:
    """Return results as rows of the file of results."""
    found = [each.micrograph for each in results]
    return Batch(
        np.arange(first, first + len(results)),
        np.full(len(results), np.nan),
        {
            "result_uuid": np.array([each.id.encode() for each in found]),
            "result_gridsquare_id": np.array([each.square.encode() for each in results]),
            "result_foilhole_id": np.array([each.hole.encode() for each in results]),
            "result_ctf_max_resolution_estimate": np.array([each.resolution for each in found]),
            "result_total_motion": np.array([each.motion for each in found]),
        },
    )


def night_of(seed: int, policy: Policy, seconds: float = NIGHT_S) -> Night:
    """Return what a policy gets from the grid of a seed."""
    (grid,) = plan_visit(seed, 1, SQUARES, imaged=SQUARES, holes=HOLES).grids
    analysis = MicrographQuality()
    quality, rows = analysis.quality(), 0

    def choose(came: list[Result], left: Mapping[str, tuple[str, ...]], current: str) -> str:
        nonlocal quality, rows
        if came:
            analysis.update(batch_of(came, rows))
            rows += len(came)
            analysis.advance(rows)
            quality = analysis.quality()
        squares = policy.suggest(quality, Left(left, current)).squares
        return squares[0] if squares else ""

    return acquire(grid, choose, seconds)
