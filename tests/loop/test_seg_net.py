"""What the network of the masks computes, and that the detector goes by it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.signal import correlate

from skywright.instruments.loop import candidates, choose, seg_net
from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.seg_evidence import (
    NETWORK,
    agreement,
    head_begins,
    without_strangers,
)
from skywright.instruments.loop.seg_net import GRID, Map

TURNS = {
    "left": lambda a: a,
    "right": lambda a: a[:, ::-1],
    "top": lambda a: a.T,
    "bottom": lambda a: a.T[::-1],
}


UNTOLD = np.log(np.full(3, 1 / 3))  # of the kinds


def mount(level=200.0, depth=0.7, shape=(240, 320), middle=200.0):
    """Pin, stem and ring, the pin at the left; the tip is 45 px beyond the ring's middle."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] - np.array([shape[0] / 2, 0])[:, None, None]
    ring = np.abs(np.hypot(x - middle, y) - 42) < 3
    stem = (np.abs(y) < 3) & (x < middle - 40)
    pin = (np.abs(y) < 25) & (x < middle - 140)
    noise = np.random.default_rng(1).normal(0, 1.5, y.shape)
    bright = np.where(ring | stem | pin, level * (1 - depth), level) + noise
    return np.clip(bright, 0, 255).astype(np.uint8)


def objects(gray):
    return find_objects(estimate_field(np.ascontiguousarray(gray)))


def look(gray):
    return seg_net.look(objects(gray)[0])


def plain_run(net, seen):
    """Compute the same with scipy, map by map."""

    def conv(name, maps):
        kernel, bias = net[f"{name}_kernel"], net[f"{name}_bias"]
        sums = [
            sum(correlate(m, k, "same") for m, k in zip(maps, kernels, strict=True)) + b
            for kernels, b in zip(kernel, bias, strict=True)
        ]
        return np.maximum(np.array(sums), 0.0)

    def pooled(maps):
        c, h, w = maps.shape
        return maps.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))

    def larger(name, maps):
        mixed = np.tensordot(net[f"{name}_kernel"], maps, 1)
        return mixed.repeat(2, axis=1).repeat(2, axis=2)

    a = conv("a0", seen.astype(np.float64))
    b = conv("b1", conv("b0", pooled(a)))
    c = conv("c1", conv("c0", pooled(b)))
    d = conv("d1", conv("d0", pooled(c)))
    whole = np.maximum(net["whole_kernel"] @ d.mean(axis=(1, 2)) + net["whole_bias"], 0)
    d = conv("d2", d + whole[:, None, None])
    c = conv("e0", c + larger("dc", d))
    b = conv("f0", b + larger("cb", c))
    a = conv("g0", a + larger("ba", b))
    sums = np.tensordot(net["out_kernel"], a, 1) + net["out_bias"][:, None, None]
    slim = np.tensordot(net["slim_kernel"], d, 1) + net["slim_bias"][:, None, None]
    side = net["side_kernel"] @ np.maximum(slim, 0).ravel() + net["side_bias"]
    maps = 1 / (1 + np.exp(-sums))
    parts = [part.reshape(7, 8, 10, 8).mean(axis=(1, 3)) for part in maps[:2]]
    there = [(d * part).sum(axis=(1, 2)) / (part.sum() + 0.05) for part in parts]
    kind = net["kind_kernel"] @ np.concatenate(there) + net["kind_bias"]
    return maps, side - np.log(np.exp(side).sum()), kind - np.log(np.exp(kind).sum())


def test_the_network_is_that_of_scipy():
    net, seen = seg_net.weights(), seg_net.view(objects(mount())[0])
    got, (maps, sides, kinds) = seg_net.run(net, seen), plain_run(net, seen)
    for one, wanted in zip((got.mount, got.head, got.tip), maps, strict=True):
        assert one == pytest.approx(wanted, abs=2e-3)
    assert np.exp(got.sides) == pytest.approx(np.exp(sides), abs=2e-3)
    assert np.exp(got.kinds) == pytest.approx(np.exp(kinds), abs=2e-3)


def test_small_vectors_by_hand():
    maps = np.zeros((2, 5, 6), np.float32)
    maps[0, 2, 3], maps[1, 1, 1] = 2.0, 3.0
    kernel = np.zeros((4, 2, 3, 3), np.float32)
    kernel[0, 0] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    kernel[0, 1, 1, 2] = -1.0
    kernel[3] = 2.0 * kernel[0]
    got = seg_net._convolved(maps, kernel, np.array([0.5, -1.0, 0.25, 1.0], np.float32))
    # A kernel is laid over a place upside down, as in every such network; rims stay 0.
    wanted = np.zeros((5, 6))
    wanted[1:4, 1:5] = 0.5
    wanted[1:4, 2:5] += 2.0 * np.array([[9, 8, 7], [6, 5, 4], [3, 2, 1]])
    assert got[0] == pytest.approx(np.maximum(wanted, 0), abs=1e-6)
    assert got[3] == pytest.approx(2.0 * got[0], abs=1e-6)
    assert not got[1].any()
    assert (got[2, 1:-1, 1:-1] == 0.25).all()
    with pytest.raises(ValueError, match="multiple of 4"):
        seg_net._convolved(maps, kernel[:3], np.zeros(3, np.float32))
    assert seg_net._pooled(maps[:, :, :]).shape == (2, 3, 4)
    assert seg_net._pooled(maps)[:, 1, 1].tolist() == [0.0, 3.0]


def test_weights_are_few_and_finite():
    net = seg_net.weights()
    assert {f"{name}_kernel" for name in seg_net.CONVOLUTIONS} <= set(net)
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in net.values())
    assert sum(array.size for array in net.values()) < 300_000


@pytest.mark.parametrize("side", TURNS)
def test_a_drawn_mount_is_where_the_map_has_it(side):
    # All frames lie, as cameras' do.
    shape, middle = ((240, 320), 200.0) if side in ("left", "right") else ((320, 240), 160.0)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    drawn = (np.hypot(x - middle, y - shape[0] / 2) < 45).astype(float)
    spot = (np.hypot(x - middle - 45, y - shape[0] / 2) < 15).astype(float)
    seen = look(TURNS[side](mount(shape=shape, middle=middle)))
    assert seg_net.SIDES[int(seen.sides.argmax())] == side
    pick = np.ix_(np.arange(GRID[0]) * 240 // GRID[0], np.arange(GRID[1]) * 320 // GRID[1])
    head, tip = (TURNS[side](a)[pick] > 0 for a in (drawn, spot))
    found = seen.head > 0.5
    assert (found & head).sum() / (found | head).sum() > 0.6
    assert seen.mount[head].mean() > 0.7
    # Where on a round rim is not told well, but that it is there.
    assert seen.tip[tip].max() > 0.15
    assert binary_dilation(head, iterations=4).ravel()[seen.tip.argmax()]


def test_an_empty_view_has_no_mount():
    noise = np.random.default_rng(3).normal(0, 2, (240, 320))
    seen = look(np.clip(180 + noise, 0, 255).astype(np.uint8))
    assert seg_net.SIDES[int(seen.sides.argmax())] == "none"
    assert seen.mount.max() < 0.5


def things_of(gray, seen=None):
    field, labels, stats = objects(gray)
    return candidates.find_things(field, labels, stats, seen)


def test_an_outline_that_agrees_has_more_for_it_than_one_beside():
    gray = mount()
    seen = look(gray)
    best = max(things_of(gray), key=choose.log_odds)
    right = agreement(seen, best.outline)
    assert tuple(right) == NETWORK
    assert right["net_overlap"] > 0.6
    assert right["net_beyond"] < 0.1
    n = len(best.outline.low)
    half = replace(best.outline, reach=n // 4)
    short = agreement(seen, half)
    assert short["net_part"] < right["net_part"] - 0.2
    assert short["net_beyond"] > right["net_beyond"] + 0.2
    assert short["net_tip"] < right["net_tip"] - 0.3
    aside = replace(best.outline, low=best.outline.low + 60, high=best.outline.high + 60)
    assert agreement(seen, aside)["net_inside"] < 0.3


def test_what_the_network_does_not_see_is_less_probable():
    gray = mount()
    rows = np.zeros(GRID, np.float32)
    blind = Map(rows, rows, rows, np.log(np.array([0.96, 0.01, 0.01, 0.01, 0.01])), UNTOLD)
    with_it = max(choose.log_odds(thing) for thing in things_of(gray))
    without = max(choose.log_odds(thing) for thing in things_of(gray, blind))
    assert without < with_it - 2.0


def test_the_side_that_the_network_tells_is_preferred(monkeypatch):
    # A bar from border to border: nothing else tells from where it enters.
    gray = np.full((240, 320), 200, np.uint8)
    gray[100:140] = 60
    for side in ("left", "right"):
        sides = np.full(5, -4.0)
        sides[seg_net.SIDES.index(side)] = -0.1
        full = np.zeros(GRID, np.float32)
        full[23:33] = 1.0
        zeros = np.zeros(GRID, np.float32)
        best = max(things_of(gray, Map(full, zeros, zeros, sides, UNTOLD)), key=choose.log_odds)
        assert best.outline.side == side


def test_faint_parts_are_joined_where_the_network_has_the_mount():
    gray = mount()
    seen = look(gray)
    field = objects(gray)[0]
    guided = [t for t in things_of(gray, seen) if t.evidence["guided"]]
    assert guided
    assert {t.outline.side for t in guided} == {"left"}
    step = field.step_px
    assert max(t.outline.reach for t in guided) * step == pytest.approx(245, abs=6)
    rows = np.zeros(GRID, np.float32)
    nowhere = Map(rows, rows, rows, seen.sides, UNTOLD)
    assert not [t for t in things_of(gray, nowhere) if t.evidence["guided"]]


def test_the_head_begins_where_the_map_has_it():
    gray = mount()
    best = max(things_of(gray), key=choose.log_odds)
    n = len(best.outline.low)
    head = np.zeros(GRID, np.float32)
    head[:, GRID[1] // 2 :] = 1.0
    every = np.ones(GRID, np.float32)
    start, sure = head_begins(Map(every, head, head, np.zeros(5), UNTOLD), best.outline)
    assert start == pytest.approx(n / 2, abs=0.02 * n)
    assert sure == 1.0
    none = np.zeros(GRID, np.float32)
    start, sure = head_begins(Map(every, none, none, np.zeros(5), UNTOLD), best.outline)
    assert np.isnan(start)
    assert sure == 0.0


def dusty():
    """Return the mount with a spot of dust at its tip, its outline with it, and a map without."""
    gray = mount()
    y, x = np.mgrid[0:240, 0:320]
    spot = np.hypot(x - 254, y - 112) < 11
    seen = look(gray)
    things = things_of(np.where(spot, 70, gray).astype(np.uint8), seen)
    rooted = [t for t in things if t.outline.side == "left" and not t.evidence["guided"]]
    return max(rooted, key=lambda t: t.outline.reach).outline, seen


def test_dust_that_touches_the_mount_is_cut_off():
    outline, seen = dusty()
    step = 320 / len(outline.low)
    assert outline.reach * step == pytest.approx(265, abs=3)
    kept = without_strangers(seen, outline)
    assert kept.reach * step == pytest.approx(245, abs=9)
    assert (kept.low[: kept.reach] >= outline.low[: kept.reach]).all()
    assert (kept.high[kept.reach :] < 0).all()


def test_a_map_that_agrees_too_little_cuts_nothing_off():
    outline, seen = dusty()
    beside = replace(seen, mount=np.roll(seen.mount, GRID[0] // 2, axis=0))
    faint = replace(seen, mount=0.5 * seen.mount)
    half = seen.mount.copy()
    half[:, GRID[1] // 2 :] = 0.0  # what goes on for long is no dust
    for doubtful in (beside, faint, replace(seen, mount=half)):
        assert without_strangers(doubtful, outline) is outline


def test_what_falls_short_of_its_object_is_told():
    gray = mount()
    seen = look(gray)
    half = seen.mount.copy()
    half[:, GRID[1] // 2 :] = 0.0
    cut = [t for t in things_of(gray, replace(seen, mount=half)) if t.evidence["guided"]]
    assert max(t.evidence["guided_short"] for t in cut) == pytest.approx(np.log(245 / 164), abs=0.1)
    whole = [t for t in things_of(gray, seen) if t.evidence["guided"] and t.outline.side == "left"]
    assert min(t.evidence["guided_short"] for t in whole) < 0.05


def test_the_same_picture_gives_the_same_bits():
    first, again = look(mount()), look(mount())
    for name in ("mount", "head", "tip", "sides"):
        assert (getattr(first, name) == getattr(again, name)).all()
