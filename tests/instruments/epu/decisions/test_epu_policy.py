"""The analysis that ranks squares, and the policy against EPU's own order and a random one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nights import SQUARES, batch_of, night_of

from skywright.analysis import Batch
from skywright.analysis.named import configured_parameters, make_analysis
from skywright.config import load_settings
from skywright.errors import ConfigError
from skywright.instruments.epu.decisions.analysis import CTF_LIMIT_A, MicrographQuality
from skywright.instruments.epu.decisions.policy import (
    EpuOrder,
    Left,
    RandomOrder,
    StayOrLeave,
    rank_holes,
)
from skywright.instruments.epu.decisions.quality import GridQuality, estimate
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


def is_judged_good(result: Result) -> bool:
    return result.micrograph.resolution <= CTF_LIMIT_A


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
    results = results_of(grid, 20)
    assert (found.micrographs, found.good) == (len(results), sum(map(is_judged_good, results)))
    assert list(found.share) == sorted(found.share, reverse=True)


def test_a_micrograph_at_the_limits_is_good_and_one_without_resolution_is_not_judged() -> None:
    results = [(4.25, 200.0), (4.26, 0.0), (4.0, 200.1), (4.0, np.nan), (np.nan, 1.0)]
    number = np.arange(len(results))
    batch = Batch(
        number,
        np.full(len(results), np.nan),
        {
            "result_uuid": number.astype("S36"),
            "result_gridsquare_id": np.full(len(results), b"7"),
            "result_foilhole_id": np.full(len(results), b"70"),
            "result_ctf_max_resolution_estimate": np.array([ctf for ctf, _ in results]),
            "result_total_motion": np.array([motion for _, motion in results]),
        },
    )
    analysis = MicrographQuality()
    assert analysis.measure(batch)["good"].tolist() == [1, 0, 0, 1, -1]
    analysis.update(batch)
    found = analysis.quality()
    assert (found.micrographs, found.good, found.results.tolist()) == (4, 2, [4])


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
    good = sum(is_judged_good(each) and each.micrograph.id not in again for each in rows)
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


def test_holes_are_ranked_by_results_then_by_predictions() -> None:
    quality = GridQuality(
        ("1",), np.array([30]), np.array([0.6]), np.array([0.1]), {("1", "c"): 0.9}, 30, 18
    )
    holes = ("a", "b", "c", "d", "e")
    left = Left({"1": holes}, "1", {("1", "c"): 0.1, ("1", "d"): 0.8, ("1", "b"): 0.2})
    assert rank_holes(quality, left, "1", 0.5) == (("c", "d", "a", "e"), ("b",))
    bad = Left({"1": ("a", "b")}, "1", {("1", "a"): 0.1, ("1", "b"): 0.2})
    assert rank_holes(quality, bad, "1", 0.5) == (("b", "a"), ())  # something must be taken
    found = StayOrLeave().suggest(quality, left)
    assert (found.squares, found.holes, found.skipped_holes) == (
        ("1",),
        ("c", "d", "a", "e"),
        ("b",),
    )
    assert EpuOrder().suggest(quality, left).holes == holes


@pytest.mark.parametrize("policy", ["stay_or_leave", "random_order"])
def test_the_choice_is_a_result_that_is_found_again(policy: str) -> None:
    (grid,) = plan_visit(5, 1, 12, imaged=12, holes=30).grids
    rows = results_of(grid, 10)
    live, again = (MicrographQuality(policy=policy, move_holes=3.0) for _ in range(2))
    again.update(batch_of(rows, 0))
    for start in range(0, len(rows), 100):
        live.update(batch_of(rows[start : start + 100], start))
        live.advance(start)
    first, second = live.result(), again.result()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], name)
    assert live.parameters["policy"] == policy
    quality = again.quality()
    square = str(second["next_square"])
    known = {hole: share for (owner, hole), share in quality.holes.items() if owner == square}
    count = len(known)
    assert {str(hole) for hole in second["hole_id"][:count]} == set(known)
    assert set(second["hole_id"][count:]) == {-1}
    shares = second["hole_share"][:count]
    np.testing.assert_array_equal(shares, [known[str(hole)] for hole in second["hole_id"][:count]])
    if policy == "stay_or_leave":
        left: dict[str, tuple[str, ...]] = {}
        for owner, hole in quality.holes:
            left[owner] = (*left.get(owner, ()), hole)
        expected = StayOrLeave(3.0).suggest(quality, Left(left, rows[-1].square))
        assert square == expected.squares[0]
        assert list(shares) == sorted(shares, reverse=True)


def test_the_analysis_has_the_policy_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "skywright.toml"
    file.write_text('[epu]\npolicy = "epu_order"\nquality = {ctf_limit_a = 4.0}\n')
    found = configured_parameters("epu_quality", load_settings(file))
    assert make_analysis("epu_quality", found).parameters == {
        "ctf_limit_a": 4.0,
        "motion_limit_a": 200.0,
        "policy": "epu_order",
        "move_holes": 2.0,
    }


def test_without_results_nothing_is_chosen() -> None:
    found = MicrographQuality().result()
    assert found["next_square"] == ""
    assert set(found["hole_id"]) == {-1}


def test_a_policy_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="known are stay_or_leave, epu_order, random_order"):
        MicrographQuality(policy="best")
    with pytest.raises(ConfigError, match="move_holes"):
        MicrographQuality(move_holes=-1.0)


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
