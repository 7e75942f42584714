"""What the network of the head says of drawn loops, and what the detector makes of it."""

from dataclasses import replace

import numpy as np
import pytest
from support.loop_pictures import DARK, LIGHT, Drawn, turned

from skywright.instruments.loop import head_net
from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.choose import choose
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.head_net import Head, settled, settled_across
from skywright.instruments.loop.kind_crop import EXTRAS, HEAD_PX, VIEW_PX
from skywright.instruments.loop.layers import load
from skywright.instruments.loop.objects import find_objects

TURNS = {
    "left": lambda a: a,
    "right": lambda a: a[:, ::-1],
    "top": lambda a: a.T,
    "bottom": lambda a: a.T[::-1],
}


def head_of(gray):
    gray = np.ascontiguousarray(gray)
    field, labels, stats = find_objects(estimate_field(gray))
    choice = choose(gray, field, labels, stats)
    assert choice is not None
    return choice.head


@pytest.mark.parametrize("side", TURNS)
def test_the_box_of_a_drawn_loop(side):
    drawn = turned(20.0)
    head = head_of(TURNS[side](drawn.gray()))
    low, high = drawn.row - drawn.half, drawn.row + drawn.half
    truth = drawn.stem_end, drawn.tip, low, high
    found = np.array([head.neck, head.tip, head.low, head.high])
    assert found == pytest.approx(np.array(truth) + 0.5, abs=6.0)
    assert (head.errors < 10.0).all()
    assert (np.abs(found - truth - 0.5) < 4.0 * head.errors + 1.0).all()


def test_a_bare_pin_has_no_head():
    assert head_of(Drawn(bare=True).gray()) is None


@pytest.mark.parametrize("above", [True, False])
def test_dust_that_touches_the_head_is_not_in_the_box(above):
    drawn = turned(70.0)
    gray = drawn.gray()
    y, x = np.mgrid[0 : drawn.height, 0 : drawn.width]
    row = drawn.row + (-1 if above else 1) * (drawn.half + 9.0)
    dusty = np.where(np.hypot(x - 390.0, y - row) < 9.0, DARK, gray).astype(np.uint8)
    clean, found = find_loop(gray).bbox, find_loop(dusty).bbox
    assert found == pytest.approx(clean, abs=6.0)


def test_a_faint_loop_beside_an_opaque_crystal_is_measured():
    drawn = turned(20.0)
    faint = LIGHT - 0.15 * (LIGHT - drawn.gray())
    y, x = np.mgrid[0 : drawn.height, 0 : drawn.width]
    crystal = (np.abs(x - 390.0) < 25.0) & (np.abs(y - drawn.row + 20.0) < 22.0)
    pin = x < drawn.pin_end
    gray = np.where(pin, drawn.gray(), np.where(crystal, 20.0, faint)).astype(np.uint8)
    head = head_of(gray)
    found = np.array([head.tip, head.low, head.high])
    truth = np.array([drawn.tip, drawn.row - drawn.half, drawn.row + drawn.half]) + 0.5
    assert found == pytest.approx(truth, abs=8.0)


def test_mirrored_loops_are_measured_alike():
    gray = turned(20.0).gray()
    gray[:240] = np.where(gray[:240] < 150, 130, gray[:240])  # fainter on one side
    one, other = head_of(gray), head_of(gray[::-1])
    rows = gray.shape[0]
    assert (other.low, other.high) == pytest.approx((rows - one.high, rows - one.low), abs=1.5)
    assert other.errors == pytest.approx(one.errors[[0, 1, 3, 2]], rel=0.2)


def test_an_edge_is_the_outlines_unless_the_network_says_that_it_cannot_be():
    assert settled(100.0, 1.0, 101.0, 1.0) == pytest.approx(100.5, abs=0.1)
    assert settled(100.0, 1.0, 110.0, 20.0) == pytest.approx(100.0, abs=0.1)
    assert settled(100.0, 1.0, 130.0, 2.0) == 130.0


def test_a_box_of_another_scale_is_no_dust():
    head = Head(0.0, 100.0, 14.0, 86.0, np.full(4, 1.5))
    assert settled_across((10.0, 90.0), 0.7, head) == pytest.approx((10.0, 90.0), abs=0.3)
    low, high = settled_across((10.0, 130.0), 0.7, head)
    assert low == pytest.approx(10.0, abs=0.3)
    assert high == pytest.approx(89.6, abs=0.3)  # 5 % of 72 px beyond what is expected
    inside = settled_across((17.0, 83.0), 0.7, head)
    assert inside == pytest.approx((17.0, 83.0), abs=0.3)
    assert settled_across((10.0, 84.0), 0.7, head)[1] == pytest.approx(84.4, abs=0.3)


def test_the_weights_fit_the_picture():
    net = load(head_net.HEAD)
    assert len(net.mean) == len(EXTRAS)
    ends = (
        net.head[-1].kernel.shape[-1] * (HEAD_PX // 8) ** 2,
        net.view[-1].kernel.shape[-1] * (VIEW_PX // 8) ** 2,
    )
    assert net.end.hidden.shape[0] == sum(ends) + len(EXTRAS)
    assert net.end.last.shape[1] == 2 * len(head_of(turned(0.0).gray()).errors)
    assert sum(a.size for layer in (*net.head, *net.view) for a in layer[:2]) < 50_000


def test_the_same_picture_gives_the_same_bits():
    gray, other = turned(30.0).gray(), turned(80.0).gray()
    first = head_of(gray)
    head_of(other)
    again = head_of(gray)
    assert replace(again, errors=0) == replace(first, errors=0)
    assert (again.errors == first.errors).all()
