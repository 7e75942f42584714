"""Correlations and histograms of per-shot values, against plain numpy."""

import numpy as np
import pytest
from any_assignment import assert_any_assignment_gives_the_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.analysis import Batch
from skywright.errors import ConfigError
from skywright.instruments.sacla.configured import value_parameters
from skywright.instruments.sacla.shot_values import (
    PairMoments,
    ShotValues,
    count_values,
    value_names,
)

BLOCK, REGIONS = 16, 2


def rows(seed, count):
    """Shots of two regions that follow I0; the second one is added in the course of the run."""
    rng = np.random.default_rng(seed)
    i0 = rng.normal(1.0, 0.2, count)
    first = 1e6 * i0 + rng.normal(0, 1e4, count)
    second = np.where(rng.random(count) > 0.3, 10.0 ** rng.uniform(0, 13, count), np.nan)
    data = {
        "sum_ev": np.stack([first, second], axis=1),
        "laser_on": rng.random(count) > 0.5,
        "accepted": rng.random(count) > 0.2,
        "regions_number": np.zeros(count, np.int32),
        "i0": i0,
        "scanned": rng.normal(0, 1, count),
        "stage": np.full(count, 0.123456789),
        "timing": np.where(rng.random(count) > 0.1, rng.normal(500, 20, count), np.nan),
        "motor": np.full(count, np.nan),
    }
    data["sum_ev"][~data["accepted"]] = np.nan  # not measured
    data["scanned"][::7] = np.nan  # the motor by which shots are binned did not answer
    return Batch(np.arange(count), np.full(count, np.nan), data)


def analysis():
    return ShotValues(
        REGIONS, {"i0": "0.5:1.5:10", "norm_1": "9e5:1.1e6:7"}, {"sum_2": "1:1e10:10"}, BLOCK
    )


def test_correlations_and_histograms_are_those_of_numpy():
    batch = rows(1, 400)
    found = analysis()
    found.update(batch)
    result, names = found.result(), value_names(REGIONS)
    accepted, on = batch["accepted"], batch["laser_on"]
    norms = batch["sum_ev"] / batch["i0"][:, None]
    points = [batch[key] for key in ("i0", "scanned", "stage", "timing", "motor")]
    values = np.column_stack([*points, batch["sum_ev"], norms])
    assert values.shape[1] == len(names)
    for side, chosen in (("on", accepted & on), ("off", accepted & ~on)):
        assert result[f"n_{side}"] == chosen.sum()
        for i, one in enumerate(names):
            for j, other in enumerate(names):
                pair = values[chosen][:, [i, j]]
                pair = pair[np.isfinite(pair).all(axis=1)]
                assert result[f"{side}_pairs"][i, j] == len(pair)
                if len(pair) < 3 or "stage" in (one, other):  # missing, or it does not vary
                    assert np.isnan(result[f"{side}_r"][i, j]), (one, other)
                else:
                    expected = np.corrcoef(pair.T)[0, 1]
                    assert result[f"{side}_r"][i, j] == pytest.approx(expected, abs=1e-9)
    # The sum follows I0, and their ratio does not.
    r = result["off_r"]
    assert r[names.index("i0"), names.index("sum_1")] > 0.99
    assert abs(r[names.index("i0"), names.index("norm_1")]) < 0.3
    for key, value in (("linear_i0", points[0]), ("linear_norm_1", norms[:, 0])):
        edges, value = result[f"{key}_edges"], value[accepted]
        assert result[key][1:-1].tolist() == np.histogram(value, edges)[0].tolist()
        assert result[key][0] == (value < edges[0]).sum()
        assert result[key].sum() == accepted.sum()
    edges = result["log_sum_2_edges"]
    np.testing.assert_allclose(edges, 10.0 ** np.arange(11))
    second = batch["sum_ev"][accepted, 1]
    second = second[np.isfinite(second)]
    assert result["log_sum_2"][1:-1].tolist() == np.histogram(second, edges)[0].tolist()
    assert result["log_sum_2"][-1] == (second > edges[-1]).sum() > 0


def test_two_shots_have_no_correlation():
    batch = rows(1, 3)
    batch.data["accepted"][:], batch.data["laser_on"][:] = True, [True, True, False]
    batch.data["sum_ev"][:] = [[1e6, 1.0], [2e6, 2.0], [3e6, 3.0]]
    found = analysis()
    found.update(batch)
    assert found.result()["n_on"] == 2
    assert np.isnan(found.result()["on_r"]).all()


def test_shots_that_lack_the_frame_of_another_detector_count():
    batch = rows(1, 200)
    partial = ~batch["accepted"] & (np.arange(200) % 2 == 0)
    batch.data["sum_ev"][partial, 0] = 1e6
    found = analysis()
    found.update(batch)
    result, measured = found.result(), batch["accepted"] | partial
    assert partial.any()
    assert result["n_on"] == (measured & batch["laser_on"]).sum()
    assert result["n_off"] == (measured & ~batch["laser_on"]).sum()
    assert result["linear_i0"].sum() == measured.sum()


def test_shots_of_the_newest_regions_alone_count():
    older, newer = rows(1, 3 * BLOCK), rows(2, 2 * BLOCK)
    newer.data["regions_number"][:] = 1
    alone, both = analysis(), analysis()
    alone.update(newer)
    both.update(newer)  # a later run may have lower tags
    both.update(Batch(older.identities + 10 * BLOCK, older.times, older.data))
    for key, value in alone.result().items():
        assert np.asarray(both.result()[key]).tobytes() == np.asarray(value).tobytes(), key


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 90), st.data())
def test_any_order_gives_the_same_bits(seed, count, data):
    assert_any_assignment_gives_the_same_bits(analysis, rows(seed, count), data)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 20), st.integers(0, 20))
def test_merged_moments_are_those_of_all(seed, one, other):
    values = np.random.default_rng(seed).normal(1e6, 1.0, (one + other, 3))
    values[values > 1e6 + 1.5] = np.nan
    merged = PairMoments.of(values[:one]).merge(PairMoments.of(values[one:]))
    whole = PairMoments.of(values)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(merged.products, whole.products, rtol=1e-6, atol=1e-6)


def test_newer_regions_replace_older_ones():
    batch = rows(3, 60)
    later = Batch(
        batch.identities + 60, batch.times, {**batch.data, "regions_number": np.ones(60, np.int32)}
    )
    both, alone = analysis(), analysis()
    both.update(batch)
    both.update(later)
    alone.update(later)
    np.testing.assert_array_equal(both.result()["on_r"], alone.result()["on_r"])


def test_no_shot_is_nan_and_bins_are_half_open():
    result = analysis().result()
    assert np.isnan(result["on_r"]).all()
    assert (result["n_on"], result["log_sum_2"].sum()) == (0, 0)
    edges = np.array([0.0, 1.0, 2.0])
    values = np.array([-1.0, 0.0, 0.99, 1.0, 2.0, 2.01, np.inf, np.nan])
    assert count_values(values, edges).tolist() == [1, 2, 2, 2]


def test_what_makes_no_sense_is_named():
    with pytest.raises(ConfigError, match="histogram of 'weather', expected one of i0, scanned"):
        ShotValues(1, {"weather": "0:1:2"})
    with pytest.raises(ConfigError, match="logarithmic bins of i0: '0:1:2' begin at 0"):
        ShotValues(1, {}, {"i0": "0:1:2"})
    assert value_parameters({"sacla_regions": "a:D:0,0;1,0;1,1", "x": 1}) == {"regions": 16}
    assert value_parameters({}) == {}
