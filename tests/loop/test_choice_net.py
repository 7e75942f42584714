"""When the detector looks again at what may be the mount, and what comes of it."""

from dataclasses import replace

import numpy as np
import pytest
from support.loop_pictures import turned

from skywright.instruments.loop import choice_net
from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.candidates import find_things
from skywright.instruments.loop.choice_net import CLOSE_ODDS, SURE_ODDS, likeness, look_again
from skywright.instruments.loop.choose import log_odds
from skywright.instruments.loop.kind_crop import EXTRAS
from skywright.instruments.loop.objects import find_objects

TURNS = {
    "top": lambda a: a,
    "bottom": lambda a: a[::-1],
    "left": lambda a: a.T,
    "right": lambda a: a.T[:, ::-1],
}


def in_corner(seed):
    """A bare pin from the top that fills a corner, streaks along it; 480 x 480 uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:480, 0:480].astype(float)
    width, length = rng.uniform(220, 300), rng.uniform(220, 300)
    streaks = np.interp(x, np.linspace(0, width, 8), rng.uniform(25, 75, 8))
    gray = np.where((x < width) & (y < length), streaks, 190.0) + rng.normal(0, 1.5, x.shape)
    return np.clip(gray, 0, 255).astype(np.uint8)


@pytest.fixture
def seen():
    gray = turned(20.0).gray()
    field, labels, stats = find_objects(estimate_field(gray))
    things = find_things(field, labels, stats)
    return gray, field, things, np.array([log_odds(thing) for thing in things])


def from_the_top(thing):
    return replace(thing, outline=replace(thing.outline, side="top"))


@pytest.fixture
def asked(monkeypatch):
    """The things that the network is asked about; it says -1 of each."""
    things = []

    def note(gray, field, thing):
        things.append(thing)
        return -1.0

    monkeypatch.setattr(choice_net, "answer", note)
    return things


def test_the_streaks_of_a_pin_speak_for_the_border_that_it_enters_through():
    right = 0
    for side, turn in TURNS.items():
        for seed in range(12):
            gray = np.ascontiguousarray(turn(in_corner(seed)))
            field, labels, stats = find_objects(estimate_field(gray))
            said = {}
            for thing in sorted(find_things(field, labels, stats), key=log_odds):
                said[thing.outline.side] = choice_net.answer(gray, field, thing)
            right += said[side] > max(value for key, value in said.items() if key != side)
    assert right >= 32  # of 48; without a look at the streaks 24, give or take 3.5


def test_what_is_clear_is_not_looked_at_again(seen, asked):
    gray, field, things, odds = seen
    best = int(odds.argmax())
    sure = np.where(np.arange(len(odds)) == best, SURE_ODDS + 1.0, SURE_ODDS - CLOSE_ODDS)
    assert look_again(gray, field, things, sure) is sure
    assert not asked


def test_a_mount_that_may_be_none_is_looked_at(seen, asked):
    gray, field, things, odds = seen
    unsure = np.full(len(odds), -20.0)
    unsure[1] = SURE_ODDS - 0.1
    after = look_again(gray, field, things, unsure)
    assert [likeness(thing) for thing in asked] == [likeness(things[1])]
    assert after[1] == unsure[1] - 1.0


def test_all_that_are_alike_get_what_is_said_of_one(seen, asked):
    gray, field, things, _ = seen
    other = from_the_top(things[0])
    three = [things[0], other, replace(things[0], contrast=1.0)]
    after = look_again(gray, field, three, np.array([5.0, 4.0, 1.0]))
    assert len(asked) == 2
    assert after.tolist() == [4.0, 3.0, 0.0]


def test_what_is_far_from_the_likeliest_is_no_rival(seen, asked):
    gray, field, things, _ = seen
    other = from_the_top(things[0])
    odds = np.array([6.0, 6.0 - CLOSE_ODDS])
    assert look_again(gray, field, [things[0], other], odds) is odds
    assert not asked


def test_its_weights_are_those_of_the_evidence_that_there_is(seen):
    numbers = len(seen[2][0].evidence) + len(EXTRAS)
    assert choice_net.network().mean.shape == (numbers,)
