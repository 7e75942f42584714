"""A closer look at what is small at the picture's border."""

from dataclasses import replace

import numpy as np
import pytest
from accuracy_scenes import score

from skywright.instruments.loop import detect
from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.candidates import find_things
from skywright.instruments.loop.closer import window_around
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.objects import SIDES, find_objects

SMALL = (42453, 43257, 43270)  # mounts in plain view that the whole picture is too small for


@pytest.mark.parametrize("seed", SMALL)
def test_a_small_mount_at_the_border_is_seen(seed, monkeypatch):
    row = score(seed)
    assert row.counts
    assert row.error_px < 3.0
    assert row.side_right
    monkeypatch.setattr(detect, "window_around", lambda field, outline: None)
    assert not score(seed).found.tip_in_view


def block(side):
    """A dark block 90 px wide that comes 70 px into a 480 x 640 picture, off the middle."""
    gray = np.full((480, 640), 200, np.uint8)
    if side in ("left", "right"):
        gray[150:240, :70] = 40
        gray = gray[:, ::-1] if side == "right" else gray
    else:
        gray[:70, 150:240] = 40
        gray = gray[::-1] if side == "bottom" else gray
    return np.ascontiguousarray(gray)


def thing_in(gray, side):
    field, labels, stats = find_objects(estimate_field(gray))
    things = [t for t in find_things(field, labels, stats) if t.outline.side == side]
    return field, max(things, key=lambda thing: thing.outline.filled.sum()).outline


@pytest.mark.parametrize("side", SIDES)
def test_the_part_is_a_half_at_the_border_of_the_thing_and_about_it(side):
    gray = block(side)
    x0, y0, x1, y1 = window_around(*thing_in(gray, side))
    assert (y1 - y0, x1 - x0) == (240, 320)
    lying = side in ("left", "right")
    assert {"left": x0, "right": 640 - x1, "top": y0, "bottom": 480 - y1}[side] == 0
    low, high = (y0, y1) if lying else (x0, x1)
    assert low <= 150
    assert high >= 240


def test_what_floats_or_reaches_far_has_none():
    field, outline = thing_in(block("left"), "left")
    assert window_around(field, replace(outline, contact=0)) is None
    assert window_around(field, replace(outline, start=3)) is None
    assert window_around(field, replace(outline, reach=150)) is None


def test_a_small_picture_has_none():
    field, outline = thing_in(block("left"), "left")
    assert window_around(replace(field, x1_px=field.x0_px + 150), outline) is None


def test_a_detection_moves_as_a_whole():
    found = score(SMALL[0]).found
    moved = found.moved(100, -20)
    assert (moved.tip_x - found.tip_x, moved.tip_y - found.tip_y) == pytest.approx((100, -20))
    for name in ("bbox", "head_box"):
        shift = np.subtract(getattr(moved, name), getattr(found, name))
        assert shift == pytest.approx([100, -20, 100, -20])
    assert moved.width == found.width
    assert replace(found, bbox=None).moved(1, 1).bbox is None


def test_level_and_noise_are_those_of_the_whole_picture(monkeypatch):
    seen = []

    def note(gray):
        seen.append(gray)
        return find_loop(gray)

    monkeypatch.setattr("accuracy_scenes.find_loop", note)
    assert score(SMALL[0]).found.level == pytest.approx(seen[0].mean(), abs=1.0)
