"""Which border a pin that fills a corner enters through, by the streaks on it."""

import numpy as np
import pytest

from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.candidates import find_things
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.seg_net import look
from skywright.instruments.loop.streaks import RIVAL_ODDS, anisotropy, weigh_streaks

SHAPE = (480, 704)
WIDE, HIGH = 300, 220  # of the corner that the pin fills, px


def corner(streaks, along, seed=0, noise=1.5):
    """A dark pin in the upper left corner; its streaks are `streaks` grey levels deep."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    place = y if along == "rows" else x
    pin = 22.0 + streaks * np.interp(place, np.linspace(0, 320, 8), rng.uniform(-1, 1, 8))
    gray = np.where((x < WIDE) & (y < HIGH), pin, 200.0) + rng.normal(0, noise, SHAPE)
    return np.clip(np.rint(gray), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("along", "side"), [("rows", "left"), ("columns", "top")])
def test_faint_streaks_tell_the_border_though_the_outline_is_the_same(along, side, seed):
    assert find_loop(corner(3.0, along, seed)).side == side


@pytest.mark.parametrize("seed", range(4))
def test_without_streaks_nothing_is_said(seed):
    for side in ("left", "top"):
        assert abs(anisotropy(*pin_from(corner(0.0, "rows", seed), side))) < 1.0


def things_in(gray):
    field, labels, stats = find_objects(estimate_field(gray))
    seen = look(field)
    return field, seen, find_things(field, labels, stats, seen)


def pin_from(gray, side):
    """The field, and the outline of what enters through a border, widest first."""
    field, _, things = things_in(gray)
    outlines = [thing.outline for thing in things if thing.outline.side == side]
    return field, max(outlines, key=lambda outline: outline.filled.sum())


def test_streaks_change_across_and_not_along():
    gray = corner(3.0, "rows")
    field, outline = pin_from(gray, "left")
    assert anisotropy(field, outline) > 2.0
    field, outline = pin_from(gray, "top")
    assert anisotropy(field, outline) < -2.0


def test_a_slope_of_the_light_is_no_streak():
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    gray = corner(0.0, "rows").astype(float)
    gray += np.where((x < WIDE) & (y < HIGH), 0.04 * y, 0.0)
    assert abs(anisotropy(*pin_from(np.rint(gray).astype(np.uint8), "left"))) < 1.0


def test_only_pins_that_enter_through_two_borders_are_weighed():
    field, seen, things = things_in(corner(3.0, "columns"))
    odds = np.array([2.0 * thing.evidence["plain"] for thing in things])
    sides = np.array([thing.outline.side for thing in things])
    weighed = weigh_streaks(field, seen, things, odds)
    plain = np.array([bool(thing.evidence["plain"]) for thing in things])
    assert (weighed[plain & (sides == "top")] > odds[plain & (sides == "top")]).all()
    assert (weighed[plain & (sides == "left")] < odds[plain & (sides == "left")]).all()
    assert (weighed[~plain] == odds[~plain]).all()
    alone = np.where(sides == "top", odds, odds - 2 * RIVAL_ODDS)
    assert (weigh_streaks(field, seen, things, alone) == alone).all()
