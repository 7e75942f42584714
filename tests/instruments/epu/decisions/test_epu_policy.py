"""The analysis that ranks squares, and the policy against EPU's own order and a random one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nights import SQUARES, batch_of, night_of
from scipy.stats import betabinom
from support.epu_microscope import Result, acquire

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


def judged(*places: tuple[str, str, bool]) -> Batch:
    """Return a micrograph of each (square, hole), good or not."""
    number = np.arange(len(places))
    squares, holes, good = zip(*places, strict=True)
    return Batch(
        number,
        np.full(len(places), np.nan),
        {
            "result_uuid": number.astype("S36"),
            "result_gridsquare_id": np.array([name.encode() for name in squares], "S20"),
            "result_foilhole_id": np.array(holes, "S20"),
            "result_ctf_max_resolution_estimate": np.where(good, 3.0, 9.0),
            "result_total_motion": np.zeros(len(places)),
        },
    )


def test_results_are_of_their_squares_and_holes() -> None:
    analysis = MicrographQuality()
    bad = [("8", "3", False), ("12", "3", False), ("1", "23", False), ("1", "23", False)]
    analysis.update(judged(("9", "5", True), *bad, ("9", "5", True), ("9", "6", True)))
    found, result = analysis.quality(), analysis.result()
    assert found.squares[0] == "9"
    assert dict(zip(found.squares, found.results.tolist(), strict=True)) == {
        "9": 3, "8": 1, "12": 1, "1": 2
    }  # fmt: skip
    assert set(found.holes) == {("9", "5"), ("9", "6"), ("8", "3"), ("12", "3"), ("1", "23")}
    assert result["square_id"][:4].tolist() == [int(square) for square in found.squares]
    assert result["square_results"][:4].tolist() == found.results.tolist()


def test_an_id_that_is_no_number_has_none() -> None:
    analysis = MicrographQuality()
    names = ("9" * 20, "²", "", "7")
    analysis.update(judged(*((name, "1", True) for name in names)))
    assert set(analysis.result()["square_id"][:4].tolist()) == {-1, 7}


def test_the_present_square_is_that_of_the_newest_micrograph() -> None:
    analysis = MicrographQuality()
    analysis.update(judged(*[("9", "5", True)] * 20, ("8", "3", False)))
    assert analysis.result()["next_square"] == "8"  # too few results to leave it


def test_more_squares_and_holes_than_a_result_holds() -> None:
    analysis = MicrographQuality()
    analysis.update(judged(*((f"{n}", "1", True) for n in range(300))))
    assert analysis.result()["squares_with_results"] == 300
    holes = MicrographQuality()
    holes.update(judged(*(("7", f"{n}", n < 280) for n in range(300))))
    result = holes.result()
    assert (result["hole_id"] < 280).all()
    assert (result["hole_id"] >= 0).all()


def test_shares_are_those_of_a_plain_integration() -> None:
    owner, good, total = np.array([0, 0, 1]), np.array([1, 0, 3]), np.array([1, 2, 3])
    found = estimate(owner, good, total, 2)
    p, alike_of = (np.arange(2000) + 0.5) / 2000, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    evidence, squares, holes = [], [], []
    for k in alike_of:
        seen = np.array(
            [betabinom.pmf(y, n, p * k, (1 - p) * k) for y, n in zip(good, total, strict=True)]
        )
        likelihood = np.array([seen[owner == square].prod(axis=0) for square in range(2)])
        evidence.append(likelihood.mean(axis=1).prod())
        mean = likelihood @ p / likelihood.sum(axis=1)
        squares.append(mean)
        holes.append((k * mean[owner] + good) / (k + total))
    np.testing.assert_allclose(
        found.square, np.average(squares, axis=0, weights=evidence), atol=1e-3
    )
    np.testing.assert_allclose(found.hole, np.average(holes, axis=0, weights=evidence), atol=1e-3)


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


def of_squares(**known: tuple[float, int]) -> GridQuality:
    """Return a grid whose squares have a share and a number of micrographs with results."""
    order = sorted(known, key=lambda square: -known[square][0])
    share, results = (np.array([known[square][k] for square in order]) for k in range(2))
    total, good = int(results.sum()), round(float(results @ share))
    return GridQuality(tuple(order), results, share, np.full(len(order), 0.1), {}, total, good)


def test_a_square_is_worth_what_it_gives_in_its_time_the_move_included() -> None:
    poor = {f"poor{n}": (0.1, 20) for n in range(20)}  # nothing is left of them
    quality = of_squares(small=(0.9, 20), large=(0.6, 15), bad=(0.1, 20), few=(0.95, 14), **poor)
    left = {
        "bad": ("b",) * 40,
        "new": ("n",) * 40,
        "few": ("f",) * 40,
        "small": ("s",) * 2,
        "none": (),
        "large": ("l",) * 40,
    }
    found = StayOrLeave().suggest(quality, Left(left))
    # 0.6 40 / 42 = 0.57 is above 0.9 2 / 4 = 0.45; squares to be probed come as they are given.
    assert found.squares == ("large", "small", "new", "few", "bad")
    assert found.skipped == ("bad",)
    assert found.reason.startswith("go to large: 57% good")
    # No move is needed in the present one: 0.6, and 0.9.
    assert StayOrLeave().suggest(quality, Left(left, "small")).squares[0] == "small"
    stay = StayOrLeave().suggest(quality, Left(left, "large"))
    assert stay.reason.startswith("stay in large: 60% good")
    unknown = StayOrLeave().suggest(quality, Left(left, "few"))
    assert unknown.squares[0] == "few"
    assert unknown.reason.startswith("stay in few, which has too few results to judge")
    over = StayOrLeave().suggest(quality, Left(left, "none"))
    assert over.squares == found.squares


def test_of_squares_that_are_all_bad_none_is_skipped() -> None:
    quality = of_squares(bad=(0.1, 20), worse=(0.05, 20), done=(0.9, 20), over=(0.8, 20))
    left = {"worse": ("w",) * 40, "bad": ("b",) * 40}
    for current in ("", "worse", "bad", "done"):
        found = StayOrLeave().suggest(quality, Left(left, current))
        assert (found.squares, found.skipped) == (("bad", "worse"), ())


def test_one_square_of_many_holes_does_not_change_what_the_grid_gives() -> None:
    left = Left({"a": ("h",) * 9, "b": ("h",) * 10, "c": ("h",) * 1000})
    quality, policy = of_squares(a=(0.9, 20), b=(0.2, 20)), StayOrLeave()
    assert policy.suggest(quality, left).reason.endswith(
        f"the grid gives {policy.best_rate(quality, 10):.0%}"
    )
    assert f"{policy.best_rate(quality, 10):.0%}" != f"{policy.best_rate(quality, 340):.0%}"


def test_no_square_of_a_large_grid_is_skipped_before_it_is_known() -> None:
    names = [f"s{n}" for n in range(1500)]
    left = Left(dict.fromkeys(names, ("h",) * 40))
    found = StayOrLeave().suggest(of_squares(s1499=(0.9, 20)), left)
    assert found.skipped == ()
    assert [square for square in found.squares if square != "s1499"] == names[:-1]


def test_the_rate_of_a_grid_is_that_of_the_best_threshold() -> None:
    many = {
        f"{kind}{n}": (share, 20) for kind, share in (("g", 0.81), ("b", 0.01)) for n in range(500)
    }
    half = of_squares(**many)
    policy = StayOrLeave(move_holes=2.0, probe_holes=6.0)
    # Probe each square, stay in the good half: 6 holes of 0.41, 34 of 0.81 in every second one.
    expected = (6 * 0.41 + 34 * 0.5 * 0.81) / (2 + 6 + 34 * 0.5)
    assert policy.best_rate(half, 40) == pytest.approx(expected, rel=0.01)
    # Squares of 3 holes are over before they are known.
    assert policy.best_rate(half, 3) == pytest.approx(3 * 0.41 / (2 + 3), rel=0.01)
    good = of_squares(**dict.fromkeys(many, (0.81, 20)))
    assert policy.best_rate(good, 40) == pytest.approx(40 * 0.81 / 42, rel=0.01)
    # Too few results say nothing: all shares are as likely.
    unknown = of_squares(**dict.fromkeys(many, (0.81, 14)))
    assert policy.best_rate(unknown, 40) == policy.best_rate(of_squares(), 40)


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
