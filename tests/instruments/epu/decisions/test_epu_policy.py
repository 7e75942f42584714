"""The analysis that ranks squares, and the policy against EPU's own order and a random one."""

import json
from dataclasses import replace

import numpy as np
import pytest
from nights import SQUARES, batch_of, night_of

from skywright.instruments.epu.decisions.analysis import MicrographQuality
from skywright.instruments.epu.decisions.policy import EpuOrder, Left, RandomOrder, StayOrLeave
from skywright.instruments.epu.decisions.quality import estimate
from skywright.instruments.epu.twin.microscope import Result, acquire
from skywright.instruments.epu.twin.visit import TwinGrid, plan_visit


def results_of(grid: TwinGrid, holes: int) -> list[Result]:
    """Return the results of the first holes of each square."""
    return [
        Result(micrograph, str(square.id), str(hole.id))
        for square in grid.squares
        for hole in square.holes[:holes]
        for micrograph in hole.micrographs
    ]


def test_shares_agree_with_the_truth_within_their_uncertainty() -> None:
    (grid,) = plan_visit(3, 1, SQUARES, imaged=SQUARES, holes=40).grids
    analysis = MicrographQuality()
    analysis.update(batch_of(results_of(grid, 20), 0))
    found = analysis.quality()
    true = {
        str(square.id): np.mean([hole.share for hole in square.holes[20:]])
        for square in grid.squares
    }
    # The mean share of the 20 other holes scatters as well, by about 0.2 / sqrt(20).
    widths = np.hypot(found.sigma, 0.045)
    pulls = (found.share - [true[square] for square in found.squares]) / widths
    assert abs(pulls.mean()) < 3 / np.sqrt(SQUARES)
    assert 0.6 < pulls.std() < 1.5
    truth = [micrograph.micrograph.good for micrograph in results_of(grid, 20)]
    assert (found.micrographs, found.good) == (len(truth), sum(truth))
    assert list(found.share) == sorted(found.share, reverse=True)


def test_a_square_without_results_is_unknown() -> None:
    none = np.zeros(0, dtype=np.int64)
    shares = estimate(none, none, none, 2)
    np.testing.assert_allclose(shares.square, 0.5)
    np.testing.assert_allclose(shares.sigma, np.sqrt(1 / 12), rtol=1e-3)


def test_any_cut_of_the_rows_gives_the_same_and_the_last_row_of_a_micrograph_holds() -> None:
    (grid,) = plan_visit(4, 1, 9, imaged=9, holes=30).grids
    rows = results_of(grid, 30)
    rng = np.random.default_rng(0)
    changed = [rows[n] for n in rng.choice(len(rows), 200, replace=False)]
    whole = batch_of(rows + changed, 0)
    worse = whole["result_ctf_max_resolution_estimate"].copy()
    worse[len(rows) :] = 20.0
    whole = replace(whole, data={**whole.data, "result_ctf_max_resolution_estimate": worse})
    one, other = MicrographQuality(), MicrographQuality()
    one.update(whole)
    for part in np.array_split(np.arange(len(whole)), 7):
        other.update(whole.take(part))
        other.advance(int(part[-1]))
    first, second = one.result(), other.result()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    again = {each.micrograph.id for each in changed}
    good = sum(each.micrograph.good and each.micrograph.id not in again for each in rows)
    assert first["good_micrographs"] == good
    assert first["micrographs"] == len(rows)


def test_the_policy_leaves_a_bad_square_and_stays_in_a_good_one() -> None:
    (grid,) = plan_visit(5, 1, 12, imaged=12, holes=30).grids
    analysis = MicrographQuality()
    analysis.update(batch_of(results_of(grid, 10), 0))
    quality = analysis.quality()
    left = {str(s.id): tuple(str(hole.id) for hole in s.holes[10:]) for s in grid.squares}
    best, worst = quality.squares[0], quality.squares[-1]
    stay = StayOrLeave().suggest(quality, Left(left, best))
    leave = StayOrLeave().suggest(quality, Left(left, worst))
    assert stay.squares[0] == best
    assert leave.squares[0] == best
    assert worst in leave.skipped
    assert best not in leave.skipped
    assert EpuOrder().suggest(quality, Left(left)).squares == tuple(left)


def test_time_counts_moves_and_nothing_is_taken_twice() -> None:
    (grid,) = plan_visit(6, 1, 4, imaged=4, holes=3).grids
    calls = []

    def choose(came: list[Result], left: dict[str, tuple[str, ...]], current: str) -> str:
        calls.extend(came)
        return next((square for square, holes in left.items() if holes), "")

    night = acquire(grid, choose, 1e9)  # type: ignore[arg-type]
    every = results_of(grid, 3)
    assert (night.micrographs, night.moves) == (len(every), 4)
    assert night.good == sum(each.micrograph.good for each in every)
    assert len(calls) == len(set(map(id, calls)))


def gains(seeds: range, hours: float) -> dict[str, float]:
    """Return good micrographs of the policy over those of the two orders, all nights together."""
    s = hours * 3600
    policy = sum(night_of(seed, StayOrLeave(), s).good for seed in seeds)
    return {
        "epu_order": policy / sum(night_of(seed, EpuOrder(), s).good for seed in seeds),
        "random_order": policy / sum(night_of(seed, RandomOrder(seed), s).good for seed in seeds),
    }


def test_the_policy_gains_in_one_night() -> None:
    assert night_of(102, StayOrLeave()).good > 1.1 * night_of(102, EpuOrder()).good


@pytest.mark.accuracy
@pytest.mark.timeout(1200)  # 60 nights
def test_the_policy_gains_a_fifth_over_twenty_visits() -> None:
    found = gains(range(1000, 1020), 6)
    print(json.dumps({"what": "good micrographs in 6 h, policy over an order, 20 visits", **found}))
    assert min(found.values()) >= 1.2
