"""Where across a bare pin ends: by its outline, and by what a network sees of it."""

from dataclasses import replace

import numpy as np
import pytest
from accuracy_scenes import score

from skywright.instruments.loop import detect
from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.choose import choose
from skywright.instruments.loop.head_net import middle_of_pin
from skywright.instruments.loop.kind_crop import crop
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.pin_end import SAME_PX, is_cut, last_section, settled_middle


def pin(row=230, half=60, end=380, seed=0):
    """A dark pin from the left with faint streaks, (480, 704) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:480, 0:704]
    streaks = 40 + 6 * np.cos((y - row) / half * 4.0)
    gray = np.where((np.abs(y - row) < half) & (x < end), streaks, 190.0)
    return np.clip(gray + rng.normal(0, 1.5, gray.shape), 0, 255).astype(np.uint8)


def chosen(gray):
    field, labels, stats = find_objects(estimate_field(np.ascontiguousarray(gray)))
    choice = choose(gray, field, labels, stats)
    assert choice.kind == "pin"
    return choice, field


def middle(gray):
    gray = np.ascontiguousarray(gray)
    choice, field = chosen(gray)
    return middle_of_pin(crop(gray, choice.outline, choice.parts, field))


@pytest.mark.parametrize("row", [150, 230, 310])
def test_the_network_has_the_middle_of_a_drawn_pin(row):
    assert middle(pin(row)) == pytest.approx(row + 0.5, abs=4.0)


def test_the_mirrored_pin_has_the_mirrored_middle():
    gray = pin(200)
    assert middle(gray[::-1]) == pytest.approx(480 - middle(gray), abs=0.5)


def test_the_mean_counts_where_both_mean_the_same_place_else_the_network():
    assert settled_middle(100.0, 100.0 + SAME_PX) == pytest.approx(100.0 + SAME_PX / 2)
    assert settled_middle(100.0, 100.0 - 2 * SAME_PX) == pytest.approx(100.0 - 2 * SAME_PX)
    assert settled_middle(100.0, 150.0) == 150.0


def test_a_pin_at_the_lateral_border_is_cut_there():
    whole = chosen(pin(230))[0].outline
    assert not is_cut(whole, last_section(whole))
    cut = chosen(pin(30))[0].outline
    assert is_cut(cut, last_section(cut))
    low = np.where(np.arange(len(whole.low)) < 20, 0, whole.low).astype(np.int32)
    assert not is_cut(replace(whole, low=low), last_section(whole))  # far from its end


@pytest.mark.parametrize("seed", [41028, 41150, 42344])
def test_a_bubble_beside_a_pin_or_a_flank_in_the_dark_does_not_move_its_middle(seed, monkeypatch):
    assert score(seed).error_px < 6.0
    monkeypatch.setattr(detect, "settled_middle", lambda seen, said: seen)
    assert score(seed).error_px > 9.0
