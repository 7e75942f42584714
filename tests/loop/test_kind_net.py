"""What the network of the kinds looks at, and that it computes what it was trained to."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import correlate

from skywright.instruments.loop import kind_net, seg_net
from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.candidates import find_things
from skywright.instruments.loop.choose import log_odds
from skywright.instruments.loop.classify import classify, measure
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.kind_crop import EXTRAS, HEAD_PX, VIEW_PX, crop
from skywright.instruments.loop.layers import Layer, through
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.seg_net import look

TURNS = {
    "left": lambda a: a,
    "right": lambda a: a[:, ::-1],
    "top": lambda a: a.T,
    "bottom": lambda a: a.T[::-1],
}


def mount(level=200.0, depth=0.7):
    """Pin, stem and ring with the pin at the left, 240 x 320 uint8."""
    y, x = np.mgrid[0:240, 0:320]
    ring = np.abs(np.hypot(x - 200.0, y - 120.0) - 40) < 4
    stem = (np.abs(y - 120) < 3) & (x < 160)
    pin = (np.abs(y - 120) < 25) & (x < 60)
    return np.where(ring | stem | pin, level * (1 - depth), level).astype(np.uint8)


def seen(gray, margin=1.0):
    gray = np.ascontiguousarray(gray)
    field, labels, stats = find_objects(estimate_field(gray))
    best = max(find_things(field, labels, stats), key=log_odds)
    return gray, best.outline, best.parts, field, margin


def test_the_head_fills_its_picture_tip_at_the_right():
    head = crop(*seen(mount())).head
    assert head.shape == (HEAD_PX, HEAD_PX, 2)
    inside = head[:, :, 1] == 1.0
    columns = np.flatnonzero(inside.any(axis=0))
    rows = np.flatnonzero(inside.any(axis=1))
    assert columns[-1] == pytest.approx(HEAD_PX * 0.9, abs=2)
    assert rows.mean() == pytest.approx(HEAD_PX / 2, abs=2)
    assert len(rows) == pytest.approx(HEAD_PX / 1.25, abs=4)
    # The ring is dark, as strong as the unit; its middle is not.
    assert head[:, :, 0].min() < -0.8
    assert abs(head[HEAD_PX // 2, int(columns.mean()), 0]) < 0.1


def test_the_view_shows_stem_pin_and_the_border():
    view = crop(*seen(mount())).view
    assert view.shape == (VIEW_PX, VIEW_PX, 2)
    assert set(np.unique(view[:, :, 1])) == {-1.0, 0.0, 0.5, 1.0}
    pin = (view[:, :, 0] < -0.8).sum(axis=0)
    assert pin[view[VIEW_PX // 2, :, 1] >= 0.0][0] >= 4


@pytest.mark.parametrize("side", TURNS)
def test_a_turned_picture_gives_the_same_crop(side):
    here, there = crop(*seen(mount())), crop(*seen(TURNS[side](mount())))
    # Cells of the light and of the decimation may begin elsewhere.
    assert np.abs(there.head - here.head).mean() < 0.03
    assert np.abs(there.view - here.view).mean() < 0.03
    assert there.extras == pytest.approx(here.extras, abs=0.1)


def test_contrast_is_taken_out_of_the_pictures_and_kept_as_a_number():
    strong, weak = crop(*seen(mount(depth=0.8))), crop(*seen(mount(depth=0.3)))
    assert np.abs(strong.head[:, :, 0] - weak.head[:, :, 0]).mean() < 0.05
    at = EXTRAS.index("of_light")
    assert strong.extras[at] / weak.extras[at] == pytest.approx(0.8 / 0.3, rel=0.15)


def test_the_margin_adds_pixels_around_the_same_ones():
    plain, wide = crop(*seen(mount())), crop(*seen(mount(), margin=1.5))
    room = HEAD_PX // 4
    assert wide.head.shape[0] == HEAD_PX + 2 * room
    inner = wide.head[room:-room, room:-room]
    assert (inner[:, :, 1] == plain.head[:, :, 1]).all()


@pytest.mark.parametrize("shape", [(40, 33), (41, 32), (24, 16), (9, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize(("size", "apart"), [((3, 3), 1), ((5, 5), 1), ((5, 1), 2), ((5, 1), 4)])
def test_convolutions_are_those_of_scipy(size, apart, stride, shape):
    rng = np.random.default_rng(7)
    picture = rng.normal(size=(*shape, 3)).astype(np.float32)
    kernel = rng.normal(size=(*size, 3, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    got = through((Layer(kernel, bias, stride, apart),), picture)
    spread = np.zeros((apart * (size[0] - 1) + 1, size[1], 3, 4))
    spread[::apart] = kernel
    for k in range(4):
        each = [correlate(picture[:, :, c], spread[:, :, c, k], "same") for c in range(3)]
        wanted = np.maximum(sum(each) + bias[k], 0.0)[:: stride[0], :: stride[1]]
        assert got[:, :, k] == pytest.approx(wanted, abs=1e-4)


def test_the_weights_fit_the_numbers():
    looks = measure(*seen(mount())[:4])
    net = kind_net.network()
    assert len(net.mean) == len(looks) + len(EXTRAS)
    assert (
        sum(a.size for layer in (*net.head, *net.view) for a in layer[:2])
        + sum(a.size for a in (net.mean, net.gain, *net.end))
        < 98_000
    )


def test_what_the_masks_network_says_of_the_kind_counts():
    args = seen(mount())[:4]
    looks, cut, masks = measure(*args), crop(*args), look(args[3])
    odds = {}
    for k, kind in enumerate(seg_net.KINDS):
        said = np.full(3, -6.0)
        said[k] = -0.01
        odds[kind] = classify(looks, cut, replace(masks, kinds=said))
    assert odds["nylon"][0] == "nylon"
    assert odds["nylon"][1] > 2.0
    assert odds["mitegen"] != odds["nylon"]


def test_a_slim_opaque_lump_is_what_the_masks_network_says():
    args = seen(mount())[:4]
    looks = measure(*args) | {"aspect": 1.2, "head_opaque": 0.9}
    for k, kind in enumerate(seg_net.KINDS):
        said = np.full(3, -6.0)
        said[k] = -0.01
        assert classify(looks, crop(*args), replace(look(args[3]), kinds=said))[0] == kind


def test_the_odds_are_those_of_the_kind_against_the_others():
    args = seen(mount())[:4]
    looks, cut, masks = measure(*args), crop(*args), look(args[3])
    kind, odds = classify(looks, cut, masks)
    sums = kind_net.log_odds(cut, looks) + 0.5 * masks.kinds
    chance = np.exp(sums) / np.exp(sums).sum()
    best = int(np.argmax(chance))
    assert kind == seg_net.KINDS[best]
    assert odds == pytest.approx(np.log(chance[best] / (1.0 - chance[best])))


def test_the_same_picture_gives_the_same_bits():
    args, other = seen(mount())[:4], seen(TURNS["top"](mount()))[:4]

    def judged(args):
        looks = measure(*args)
        return looks, classify(looks, crop(*args), look(args[3]))

    first = judged(args)
    judged(other)
    assert judged(args) == first
    found = find_loop(mount())
    assert (found.kind, found.kind_odds) == (find_loop(mount()).kind, found.kind_odds)
