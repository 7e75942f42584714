"""Ends of pins and loops in one picture: where they are, and when there is none to be told."""

import numpy as np
import pytest
from scipy.ndimage import zoom
from support.loop_opacity import canvas, distance, nylon, put, shot

from skywright.instruments.loop.detect import find_loop


def test_bare_pin_has_its_end_as_tip_and_no_loop_class():
    opacity, x, y = canvas()
    put(opacity, (x < 260) & (np.abs(y - 250) < 48))
    found = find_loop(shot(opacity))
    assert (found.kind, found.side, found.tip_in_view) == ("pin", "left", True)
    assert distance(found, (259.5, 250)) <= 2.0


def test_ragged_pin_of_low_contrast():
    opacity, x, y = canvas()
    rng = np.random.default_rng(4)
    edge = zoom(rng.normal(0, 4, 48), 10, order=1)[:480]
    put(opacity, (x < 250 + edge[:, None]) & (np.abs(y - 250) < 48), 0.12)
    found = find_loop(shot(opacity, noise=2.5))
    assert (found.kind, found.side) == ("pin", "left")
    assert distance(found, (252, 250)) <= 12.0


def test_mount_past_the_far_edge_has_no_tip():
    found = find_loop(shot(nylon(tip=790.0, length=200.0)))
    assert found.side == "left"
    assert not found.tip_in_view
    assert found.tip_sign == "+"
    assert np.isnan(found.tip_x)
    assert found.clipped


def test_loop_cut_by_the_top_border():
    found = find_loop(shot(nylon(row=20.0, half=60.0)))
    assert found.side == "left"
    assert found.clipped
    assert abs(found.tip_x - 459.5) <= 2.0
    assert found.bbox[1] <= 0


@pytest.mark.parametrize("end", [14, 50])
def test_pin_that_just_enters_has_its_end_as_tip(end):
    opacity, x, y = canvas()
    put(opacity, (x < end) & (np.abs(y - 250) < 48))
    found = find_loop(shot(opacity))
    assert (found.kind, found.side, found.tip_sign) == ("pin", "left", "")
    assert distance(found, (end - 0.5, 250)) <= 2.0


@pytest.mark.xfail(strict=True, reason="a ring that touches a pin's end is taken for a loop")
def test_dust_before_a_pin_that_fills_the_border_is_not_its_end():
    opacity, x, y = canvas()
    put(opacity, x < 400, 0.8)
    put(opacity, np.abs(np.hypot(x - 413, y - 180) - 12) < 3, 0.5)
    put(opacity, (x >= 400) & (x < 440) & (y > 150), 0.04)
    found = find_loop(shot(opacity))
    assert (found.side, found.kind) == ("left", "pin")
    # What touches the end moves it, or leaves none that is sure; it is never far off.
    assert not found.tip_in_view or abs(found.tip_x - 399.5) <= 8


@pytest.mark.parametrize("slant", [-0.15, 0.15])
def test_pin_that_ends_in_a_thinner_one_ends_in_the_middle_of_that(slant):
    opacity, x, y = canvas()
    put(opacity, (x < 300) & (np.abs(y - 240) < 70))
    put(opacity, (x < 350 + slant * (y - 250)) & (np.abs(y - 250) < 33))
    found = find_loop(shot(opacity))
    assert (found.side, found.kind) == ("left", "pin")
    assert abs(found.tip_y - 250) <= 16.5  # a quarter of the face
    assert abs(found.tip_x - 349.5) <= 6.0  # the slant is 10 px high


def test_loop_that_leaves_through_a_lateral_border_has_no_tip():
    opacity, x, y = canvas()
    row = 240 + 0.9 * (x - 260)
    put(opacity, (x < 200) & (np.abs(y - 186) < 40))
    put(opacity, (x >= 190) & (np.abs(y - row) < 6))
    found = find_loop(shot(opacity))
    assert found.side == "left"
    # The end of the pin may be told, never that of a loop.
    assert not found.tip_in_view or (found.kind == "pin" and abs(found.tip_x - 199.5) <= 6)
