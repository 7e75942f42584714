"""The analyses of shots: any order and assignment of blocks gives the same bits."""

import math
from functools import reduce

import numpy as np
import pytest
from any_assignment import assert_any_assignment_gives_the_same_bits, bits
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.analysis import Batch, IdentityOrder, whole_blocks
from skywright.analysis.blocks import analyze_blocks
from skywright.analysis.inputs import concatenate
from skywright.callbacks.derived import DerivedRun
from skywright.errors import ConfigError
from skywright.instruments.sacla import pixels
from skywright.instruments.sacla.moments import Moments
from skywright.instruments.sacla.regions import (
    Region,
    format_region,
    make_mask,
    parse_region,
    pixel_spans,
    polygon_mask,
)
from skywright.instruments.sacla.report import format_bins, parse_bins
from skywright.instruments.sacla.shot_curves import ShotCurves, find_bins, parse_hits
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.shots import ShotRules, Verdict
from skywright.instruments.sacla.tile import PixelRules, Tile, TileRegions
from skywright.instruments.sacla.values import parse_value

RULES = PixelRules(10000.0, 3.65, 1000.0, 4.0, 3.0, 1.0)
SHAPE = (6, 8)
BLOCK = 16
REGION = parse_region("a:D:1,1;7,1;7,5")


def images():
    bad = np.zeros(SHAPE, bool)
    bad[2, 3] = True
    return ShotImages(Tile("D", 15.0, bad), RULES, [REGION], BLOCK)


def shots(seed, count):
    rng = np.random.default_rng(seed)
    identities = np.sort(rng.choice(count * 3, count, replace=False)).astype(np.int64)
    data = {
        "image": rng.normal(60, 60, (count, *SHAPE)).astype(np.float32),
        "laser_on": rng.random(count) > 0.5,
    }
    return Batch(identities, np.full(count, np.nan), data)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 90), st.data())
def test_images_any_assignment_of_blocks_and_any_cut_gives_the_same_bits(seed, count, data):
    assert_any_assignment_gives_the_same_bits(images, shots(seed, count), data)


def test_a_snapshot_stays_as_it_was_while_blocks_are_merged_and_folded():
    batch = shots(4, 60)
    parts = [images() for _ in range(3)]
    cut = len(batch.identities) // 3
    for k, part in enumerate(parts):
        part.update(batch.take(np.arange(k * cut, (k + 1) * cut)))
    whole = images()
    whole.merge(parts[0])
    taken, before = whole.snapshot(), bits(whole)
    whole.merge(parts[1])
    whole.advance(10**6)
    assert bits(taken) == before != bits(whole)


def test_images_are_those_of_numpy():
    batch = shots(1, 60)
    analysis = images()
    rows = analysis.update(batch)
    ev = batch["image"].astype(float) * 15.0 * 3.65
    ev[ev < 1000] = 0
    bad = analysis.regions.tile.bad
    found = analysis.result()
    on = batch["laser_on"]
    np.testing.assert_allclose(found["mean"][~bad], ev.mean(0)[~bad], rtol=1e-12)
    np.testing.assert_allclose(found["mean_off"][~bad], ev[~on].mean(0)[~bad], rtol=1e-12)
    np.testing.assert_allclose(found["var"][~bad], ev.var(0, ddof=1)[~bad], rtol=1e-10)
    np.testing.assert_allclose(found["max"][~bad], ev.max(0)[~bad], rtol=1e-6)
    assert np.isnan(found["mean"][bad]).all()
    mask = polygon_mask(REGION.points, SHAPE) & ~bad
    np.testing.assert_allclose(rows["sum_ev"][:, 0], ev[:, mask].sum(1), rtol=1e-12)
    photons = np.floor(ev[:, mask] / 10000 + 0.5).astype(int)
    assert (rows["photons"][:, 0] == photons.sum(1)).all()
    assert (rows["photon_hist"].sum(0)[0] == np.bincount(photons.ravel(), minlength=8)[:8]).all()


def test_profiles_of_shots_are_those_of_numpy():
    bad = np.zeros(SHAPE, bool)
    bad[2, 3] = True
    analysis = ShotImages(Tile("D", 15.0, bad), RULES, [REGION], BLOCK, profiles=True)
    batch = shots(3, 9)
    found = analysis.update(batch)["profile"]
    y, x = np.indices(SHAPE)
    rings = np.floor(np.hypot(x - 4.0, y - 3.0)).astype(int)
    ev = batch["image"].astype(float) * 15.0 * 3.65
    ev[ev < 1000] = 0
    for ring in range(rings.max() + 1):
        chosen = (rings == ring) & ~bad
        np.testing.assert_allclose(found[:, ring], ev[:, chosen].mean(1), rtol=1e-12)


def test_variance_of_a_bright_steady_pixel_is_kept():
    rng = np.random.default_rng(0)
    frames = (1e6 + rng.normal(0, 3, (2000, *SHAPE))).astype(np.float32)
    batch = Batch(
        np.arange(2000), np.zeros(2000), {"image": frames, "laser_on": np.ones(2000, bool)}
    )
    analysis = images()
    analysis.update(batch)
    expected = frames.astype(float).var(0, ddof=1) * (15 * 3.65) ** 2
    good = ~analysis.regions.tile.bad
    np.testing.assert_allclose(analysis.result()["var"][good], expected[good], rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.05, 1.0, 4.0, 30.0]),
    st.sampled_from([-30000.0, -100.0, 0.0, 1000.0, 4999.0, 5000.0, 26000.0]),
    st.sampled_from([10000.0, 7123.4]),
)
def test_photons_of_overlapping_regions_are_those_of_numpy(seed, dose, threshold, photon_ev):
    rng = np.random.default_rng(seed)
    shape, gain = (50, 90), rng.uniform(5, 30)
    rules = PixelRules(photon_ev, 3.65, threshold, 4.0, 3.0, 1.0)
    regions = [
        parse_region("all:D:-1,-1;90,-1;90,50;-1,50"),
        parse_region("tri:D:3,4;80,9;20,45"),
        parse_region("out:D:200,200;201,200;201,201"),
        Region("dots", "D", mask=make_mask(rng.random(shape) < 0.3)),
    ]
    bad = rng.random(shape) < 0.02
    frames = rng.poisson(dose, (3, *shape)) * photon_ev / 3.65 / gain + rng.normal(
        0, 9, (3, *shape)
    )
    frames = frames.astype(np.float32)
    frames[rng.random(frames.shape) < 0.02] -= 3 * photon_ev / 3.65 / gain  # less than none
    exact = rng.random(frames.shape) < 0.1  # on the border between two numbers of photons
    border = (rng.integers(0, 9, frames.shape) + 0.5) * photon_ev / 3.65 / gain
    frames[exact] = border[exact].astype(np.float32)
    tile = TileRegions(Tile("D", gain, bad), rules, regions)
    found = tile.measure(frames.reshape(3, -1), np.array([2, 0]))
    ev = frames[[2, 0]].astype(float) * gain * 3.65
    ev[ev < threshold] = 0
    photons = np.floor(ev / photon_ev + 0.5).astype(int)
    for k, region in enumerate(regions):
        mask = region.pixels(shape) & ~bad
        assert found["photons"][:, k].tolist() == photons[:, mask].sum(1).tolist()
        for shot, hist in enumerate(found["photon_hist"][:, k]):
            expected = np.bincount(np.clip(photons[shot, mask], 0, 7), minlength=8)
            assert hist.tolist() == expected.tolist()
        np.testing.assert_allclose(found["sum_ev"][:, k], ev[:, mask].sum(1), rtol=1e-10, atol=1e-4)


def curve_rows(seed, count):
    rng = np.random.default_rng(seed)
    data = {
        "sum_ev": rng.normal(1e6, 1e4, (count, 2)),
        "photon_hist": rng.integers(0, 9, (count, 2, 8)),
        "i0": rng.normal(1, 0.1, count),
        "laser_on": rng.random(count) > 0.5,
        "scanned": np.where(rng.random(count) > 0.1, rng.normal(0, 1, count), np.nan),
        "accepted": rng.random(count) > 0.2,
        "regions_number": np.arange(count) * 3 // count,
    }
    data["sum_ev"][~data["accepted"]] = np.nan  # not measured
    data["photon_hist"][~data["accepted"]] = -1
    return Batch(np.arange(count), np.full(count, np.nan), data)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 90), st.data())
def test_curves_any_order_and_repetition_gives_the_same_bits(seed, count, data):
    def curves():
        return ShotCurves(2, np.linspace(-1, 1, 5).tolist(), BLOCK)

    assert_any_assignment_gives_the_same_bits(curves, curve_rows(seed, count), data)


def test_curves_are_those_of_numpy():
    """Some shots lack the frame of another detector: their regions count, the shots do not."""
    batch, rng = curve_rows(7, 400), np.random.default_rng(8)
    accepted = batch["accepted"]
    measured = accepted | (np.arange(400) % 5 == 0)
    full = {
        **batch.data,
        "sum_ev": rng.normal(1e6, 1e4, (400, 2)),
        "photon_hist": rng.integers(0, 9, (400, 2, 8)),
        "regions_number": np.zeros(400, int),
    }
    full["sum_ev"][~measured], full["photon_hist"][~measured] = np.nan, -1
    edges = np.linspace(-1, 1, 5)
    curves = ShotCurves(2, edges.tolist(), BLOCK)
    curves.update(Batch(batch.identities, batch.times, full))
    found, on, scanned = curves.result(), full["laser_on"], full["scanned"]
    norms = full["sum_ev"] / full["i0"][:, None]
    for k, low in enumerate(edges[:-1]):
        inside = measured & (scanned >= low) & (scanned < edges[k + 1])
        means = []
        for side, chosen in (("off", inside & ~on), ("on", inside & on)):
            count = chosen.sum()
            assert found[f"{side}_n"][:, k].tolist() == [count, count]
            means.append((norms[chosen].mean(axis=0), norms[chosen].var(axis=0, ddof=1) / count))
            np.testing.assert_allclose(found[f"{side}_mean"][:, k], means[-1][0])
        (off, off_squared), (lit, lit_squared) = means
        np.testing.assert_allclose(found["diff"][:, k], lit - off)
        np.testing.assert_allclose(found["diff_sem"][:, k], np.sqrt(off_squared + lit_squared))
    for region in range(2):
        dark = measured & ~on
        line = np.polyfit(full["i0"][dark], full["sum_ev"][dark, region], 1)
        np.testing.assert_allclose((found["slope"][region], found["intercept"][region]), line)
    assert found["n_on"] == (accepted & on).sum()
    assert found["n_off"] == (accepted & ~on).sum()
    assert found["n_unknown"] == (accepted & np.isnan(scanned)).sum()
    assert found["n_outside"] == (accepted & (np.abs(scanned) > 1)).sum()


def test_hits_are_shots_with_enough_pixels_of_enough_photons():
    batch = curve_rows(5, 300)
    missing = batch["photon_hist"].copy()
    missing[:100, 1] = -1  # the second region is there from shot 100 on
    data = {**batch.data, "photon_hist": missing, "regions_number": np.zeros(300, int)}
    curves = ShotCurves(2, [-1.0, 1.0], BLOCK, hits=(3, 20))
    curves.update(Batch(batch.identities, batch.times, data))
    found = curves.result()
    for region, first in ((0, 0), (1, 100)):
        shots = batch["accepted"] & (np.arange(300) >= first)
        hits = batch["photon_hist"][shots, region, 3:].sum(axis=1) >= 20
        assert 0.1 < hits.mean() < 0.9
        assert found["hit_rate"][region] == pytest.approx(hits.mean())
        assert found["hit_rate_sem"][region] == pytest.approx(hits.std() / np.sqrt(len(hits)))
    assert np.isnan(ShotCurves(2).result()["hit_rate"]).all()
    assert parse_hits("2:5") == (2, 5)
    for wrong in ("", "2", "8:1", "0:1", "1:0", "a:b", "1:2:3"):
        with pytest.raises(ConfigError, match=f"hits '{wrong}': expected"):
            parse_hits(wrong)


def test_only_measured_regions_count():
    """A file has room for more regions than are drawn; a region may be there for some shots."""
    batch = curve_rows(6, 90)
    sums, histograms = np.full((90, 3), np.nan), np.full((90, 3, 8), -1)
    sums[:, 0], histograms[:, 0] = batch["sum_ev"][:, 0], batch["photon_hist"][:, 0]
    sums[40:, 1], histograms[40:, 1] = batch["sum_ev"][40:, 1], batch["photon_hist"][40:, 1]
    data = {"sum_ev": sums, "photon_hist": histograms, "regions_number": np.zeros(90, int)}
    curves = ShotCurves(3, [-9.0, 9.0], BLOCK)
    curves.update(Batch(batch.identities, batch.times, {**batch.data, **data}))
    found = curves.result()
    off = batch["accepted"] & ~batch["laser_on"]
    for region, first in ((0, 0), (1, 40)):
        shots = np.arange(90) >= first
        assert found["photon_hist"][region].tolist() == (
            histograms[shots & batch["accepted"], region].sum(axis=0).tolist()
        )
        assert found["off_n_i0"][region] == (off & shots).sum()
        assert found["off_n"][region] == (off & shots & ~np.isnan(batch["scanned"])).sum()
    assert found["photon_hist"][2].tolist() == [-1] * 8
    assert found["off_n"][2] == found["off_n_i0"][2] == 0


def test_curves_begin_anew_where_tags_do(tmp_path):
    """Under the same high tag a later run has lower tags, and a region set of a higher number."""
    first, second = curve_rows(1, 300), curve_rows(2, 200)
    both = concatenate(
        [
            Batch(batch.identities + tag, batch.times, {**batch.data, "regions_number": number})
            for batch, tag, number in (
                (first, 9000, np.full(300, 4)),
                (second, 20, np.full(200, 5)),
            )
        ]
    )
    parameters = {"regions": 2, "edges": np.linspace(-1, 1, 5).tolist(), "block_tags": BLOCK}

    def derived():
        raw = {"uid": "raw", "scan_id": 1}
        return DerivedRun(ShotCurves(**parameters), raw, lambda *_: None, tmp_path)

    live, again = derived(), derived()
    for start in range(0, len(both), 37):
        live.add(both.take(slice(start, start + 37)))
    places = IdentityOrder(BLOCK).place(both.identities, both["regions_number"])
    for start, stop in whole_blocks(places, BLOCK):
        shift = int(places[start] - both.identities[start])
        piece = both.take(slice(start, stop))
        again.absorb(*analyze_blocks(ShotCurves(**parameters), [piece], shift), shift)
    alone = ShotCurves(**parameters)
    alone.update(
        Batch(
            second.identities + 20, second.times, {**second.data, "regions_number": np.full(200, 5)}
        )
    )
    by_tag = ShotCurves(**parameters)
    by_tag.update(both)
    assert bits(by_tag) == bits(alone)
    for run in (live, again):
        assert run.scalars()["n_late"] == 0
        assert run.scalars()["n_frames"] == 500
        assert bits(run.analysis) == bits(alone)
        run.close()


def test_moments_of_parts_are_those_of_numpy():
    """Bins: members in all parts, in one part, one member, equal values, equal x, none."""
    rng = np.random.default_rng(3)
    labels = np.array([0, 1, 2, 3, 4, -1]).repeat([30, 5, 1, 9, 4, 3])
    y, x = rng.normal(7.0, 2.0, 52), rng.normal(3.0, 1.0, 52)
    y[labels == 3], x[(labels == 3) | (labels == 4)] = 0.1, 0.7
    part = np.where(labels == 1, 1, np.arange(52) % 3)
    one, *others = (
        Moments.of(np.stack([y, x])[:, part == k], labels[part == k], 6) for k in range(3)
    )
    found = reduce(Moments.merge, others, one)
    means, errors = found.means(), found.standard_errors()
    slope, intercept, r = found.line(1, 0)
    assert found.count.tolist() == [30, 5, 1, 9, 4, 0]
    for k in range(5):
        members = y[labels == k], x[labels == k]
        np.testing.assert_allclose(means[:, k], np.mean(members, axis=1), rtol=1e-14)
        if k != 2:
            expected = np.std(members, axis=1, ddof=1) / np.sqrt(len(members[0]))
            np.testing.assert_allclose(errors[:, k], expected, rtol=1e-9, atol=1e-15)
    for k in range(2):
        fit = np.polyfit(x[labels == k], y[labels == k], 1)
        np.testing.assert_allclose((slope[k], intercept[k]), fit, rtol=1e-9)
        assert r[k] == pytest.approx(np.corrcoef(x[labels == k], y[labels == k])[0, 1])
    assert np.isnan(means[:, 5]).all()
    assert np.isnan(errors[:, [2, 5]]).all()
    assert not errors[:, 3].any()  # equal values have no spread
    for values in (slope, intercept, r, found.ratio(0, 1)[1]):
        assert np.isnan(values[[2, 5]]).all()
    assert np.isnan(slope[3:5]).all()
    turned = Moments.of(np.stack([y, -x]), labels, 6).ratio(0, 1)[1]  # an I0 of the other sign
    np.testing.assert_allclose(turned, found.ratio(0, 1)[1], rtol=1e-9)
    exact = Moments.of(np.stack([x / 3, x]), labels, 6).ratio(0, 1)[1]
    np.testing.assert_allclose(exact[[0, 1, 3, 4]], 0.0, atol=1e-8)


def test_ratio_of_sums_and_its_error():
    rng = np.random.default_rng(2)
    values, errors = [], []
    for _ in range(400):
        i0 = rng.gamma(4, 0.25, 200)
        found = Moments.of(np.stack([i0, 3 * i0 + rng.normal(0, 0.5, 200)]), np.zeros(200, int), 1)
        ratio, error = found.ratio(1, 0)
        values.append(ratio[0])
        errors.append(error[0])
    assert np.mean(values) == pytest.approx(3, abs=4 * np.std(values) / 20)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_spoils_its_quantity_in_its_bin_only(wrong):
    values = np.array([[1.0, wrong, 3.0, 4.0], [1.0, 2.0, 3.0, 5.0]])
    found = Moments.of(values, np.array([0, 0, 1, 1]), 3)
    for moments in (found, found.merge(Moments.of(np.ones((2, 1)), np.array([2]), 3))):
        assert np.isnan(moments.means()[0, 0])
        assert np.isnan(moments.standard_errors()[0, 0])
        assert np.isnan(moments.ratio(0, 1)[0][0])
        assert moments.means()[:, :2].ravel()[1:].tolist() == [3.5, 1.5, 4.0]
        assert moments.standard_errors()[1, 0] == 0.5
    merged = found.merge(Moments.of(np.ones((2, 1)), np.array([0]), 3))
    assert np.isnan(merged.means()[0, 0])
    assert merged.means()[1, 0] == pytest.approx(4 / 3)


@given(st.floats(0.1, 100), st.floats(-2000, 2000))
def test_the_least_signal_is_the_comparison_of_energies(gain, threshold):
    least = pixels.least_signal(gain, 3.65, threshold)
    assert np.float64(least) * gain * 3.65 >= threshold
    below = np.nextafter(least, np.float32(-np.inf))
    assert np.float64(below) * gain * 3.65 < threshold


@given(
    st.lists(st.tuples(st.integers(-8, 40), st.integers(-8, 40)), min_size=3, max_size=9),
    st.sampled_from([1.0, 0.5, 0.3]),
)
def test_polygons_follow_the_even_odd_rule(corners, scale):
    points = tuple((x * scale, y * scale) for x, y in corners)
    mask = polygon_mask(points, (20, 24))
    for row in range(20):
        for column in range(24):
            inside = False
            for (xa, ya), (xb, yb) in zip(points, points[1:] + points[:1], strict=True):
                if (ya > row) != (yb > row):
                    inside ^= column < (xb - xa) * (row - ya) / (yb - ya) + xa
            assert mask[row, column] == inside, (row, column)


def test_spans_cover_their_masks():
    masks = [np.random.default_rng(k).random(SHAPE) > 0.4 for k in range(3)]
    rebuilt = np.zeros((3, masks[0].size), bool)
    for region, first, last in pixel_spans(masks):
        rebuilt[region, first:last] = True
    assert (rebuilt.reshape(3, *SHAPE) == masks).all()


def test_shots_at_the_limits_are_left_out():
    rules = ShotRules(0.05, 0.5, 6.666e-3, 100.0, 2.4431e-3, 500.0)
    values = {"i0": 0.06, "beam": 0.6, "laser_open": 1.0, "laser_close": 0.0, "delay": 100.0}
    for changed, verdict in (
        ({}, Verdict.ACCEPTED),
        ({"i0": 0.05}, Verdict.I0_LOW),
        ({"beam": 0.5}, Verdict.BEAM_OFF),
        ({"beam": 0.5, "i0": 0.0}, Verdict.BEAM_OFF),
        ({"laser_open": 0.5}, Verdict.LASER_AMBIGUOUS),
        ({"laser_close": 0.51}, Verdict.LASER_AMBIGUOUS),
        ({"delay": math.nan, "beam": 0.0}, Verdict.NO_VALUE),
    ):
        assert rules.judge(values | changed, True) is verdict
    assert rules.judge(values, False) is Verdict.NO_FRAME


def test_bins_are_half_open_and_the_last_is_closed():
    edges = np.array([0.0, 1.0, 2.0])
    values = np.array([-0.1, 0.0, 0.99, 1.0, 2.0, 2.01, np.nan])
    assert find_bins(values, edges).tolist() == [-1, 0, 0, 1, 1, -1, -1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.23V", 1.23), ("-1500pulse", -1500), ("1", 1), (" 2.5e-3 mm ", 2.5e-3), ("12eV", 12),
        ("+.5", 0.5), ("3.%", 3), (b"7V", 7), ("not-converged", None), ("saturated", None),
        ("", None), (None, None), ("nan", None), ("inf", None), ("1e999", None), ("1.2.3", None),
        ("0x10", None), ("1,5V", None), ("5 not-converged", None), ("1.5a.u.", 1.5),
        ("2 arb. u", None),
    ],
)  # fmt: skip
def test_values(text, value):
    assert parse_value(text) == value or (value is None and math.isnan(parse_value(text)))


@given(st.text(max_size=20))
def test_any_text_is_a_finite_number_or_missing(text):
    assert not math.isinf(parse_value(text))


@pytest.mark.parametrize("part", ["µ", "1", " ", "1 "])
def test_the_time_for_a_long_text_of_no_number_grows_with_its_length(part):
    """With a pattern that backtracks, these take hours and more."""
    assert math.isnan(parse_value("1" + part * 300_000 + "!"))


@pytest.mark.parametrize("text", ["", "a", "a:b", "a:b:1,2;3", "a:b:0,0;1,1", "a:b:x,y;1,2;3,4"])
def test_a_bad_region_is_named(text):
    with pytest.raises(ConfigError, match="ROI"):
        parse_region(text)


@given(st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)), min_size=3, max_size=5))
def test_a_region_is_read_as_it_was_written(points):
    region = Region("a", "D", tuple(points))
    assert parse_region(format_region(region)) == region
    assert format_region(parse_region("a:D:1,-2;40.5,60;0,8191")) == "a:D:1,-2;40.5,60;0,8191"


@pytest.mark.parametrize("text", ["-2:3:40", "-1.23456789:1e-7:7", "0.1:123456.75:3"])
def test_bins_are_read_as_they_were_written(text):
    edges = parse_bins(text)
    assert parse_bins(format_bins(edges)).tobytes() == edges.tobytes()
    assert format_bins(parse_bins("-2:3:40")) == "-2:3:40"
