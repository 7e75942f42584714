"""Where the network of the tip puts the end of drawn loops, and what it sees of them."""

from unittest.mock import patch

import numpy as np
import pytest
from support.loop_pictures import DARK, LIGHT, Drawn, turned

from skywright.instruments.loop import detect, tip_net
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.refine import End
from skywright.instruments.loop.tip_net import BEYOND, COLUMNS, LINES, _likeliest, _profiles

TURNS = {
    "left": (lambda a: a, lambda x, y, w, h: (x, y)),
    "right": (lambda a: a[:, ::-1], lambda x, y, w, h: (w - 1 - x, y)),
    "top": (lambda a: a.T, lambda x, y, w, h: (y, x)),
    "bottom": (lambda a: a.T[::-1], lambda x, y, w, h: (y, w - 1 - x)),
}


def view_of(gray):
    """What the detector shows the network of a picture, None if it does not ask."""
    seen = []

    def note(end):
        seen.append(end)
        return tip_net.tip_of(end)

    with patch.object(detect, "tip_of", note):
        find_loop(np.ascontiguousarray(gray))
    return seen[0] if seen else None


def spiked(lengths, rows=(180, 210, 240, 270, 300), round_end=400.0):
    """A stem and a lump of ice whose end has spikes of these lengths at these rows."""
    y, x = np.mgrid[0:480, 0:704].astype(float)
    ice = np.hypot((x - 330) / (round_end - 330), (y - 240) / 80) < 1
    for length, row in zip(lengths, rows, strict=True):
        ice |= (x > 330) & (x < 330 + length) & (np.abs(y - row) < (330 + length - x) * 0.2)
    pin = (x < 120) & (np.abs(y - 240) < 40)
    stem = (x < 300) & (np.abs(y - 240) < 5)
    noise = np.random.default_rng(3).normal(0, 1.5, x.shape)
    return np.clip(np.where(ice | pin | stem, DARK, LIGHT) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("side", TURNS)
@pytest.mark.parametrize("phi_deg", [0.0, 60.0, 90.0])
def test_the_tip_of_a_drawn_loop_whatever_border_it_enters_through(side, phi_deg):
    drawn = turned(phi_deg)
    turn, move = TURNS[side]
    found = find_loop(np.ascontiguousarray(turn(drawn.gray())))
    expected = move(drawn.tip, drawn.row, drawn.width, drawn.height)
    assert found.side == side
    # The edge is sharp to a pixel; across, a half circle of 50 px falls by 0.1 px over 3.
    assert np.hypot(found.tip_x - expected[0], found.tip_y - expected[1]) <= 3.0


def test_it_sees_the_same_of_a_turned_picture():
    one = view_of(turned(20.0).gray())
    for turn, _ in TURNS.values():
        other = view_of(turn(turned(20.0).gray()))
        assert other.tip_px == pytest.approx(one.tip_px, abs=1.0)
        assert np.abs(other.picture - one.picture).mean() < 0.05


@pytest.mark.parametrize("longest", range(5))
def test_the_longest_spike_is_the_tip(longest):
    lengths = [95.0] * 5
    lengths[longest] = 115.0
    found = find_loop(spiked(lengths))
    assert abs(found.tip_y - (180 + 30 * longest)) <= 5.0
    assert abs(found.tip_x - 445.0) <= 5.0


def test_mirrored_pictures_have_mirrored_tips():
    gray = spiked([95.0, 95.0, 95.0, 112.0, 95.0])
    one, other = find_loop(gray), find_loop(np.ascontiguousarray(gray[::-1]))
    assert (other.tip_x, 479 - other.tip_y) == pytest.approx((one.tip_x, one.tip_y), abs=2.0)


def test_it_is_not_asked_of_bare_pins_nor_of_ends_out_of_view():
    assert view_of(Drawn(bare=True).gray()) is None
    assert view_of(Drawn(tip=790.0, stem_end=500.0).gray()) is None


def test_the_end_lies_where_the_view_says():
    seen = view_of(Drawn().gray())
    assert seen.picture.shape == (LINES, COLUMNS, 3)
    assert seen.numbers.shape == (LINES, 12)
    column = COLUMNS - BEYOND  # the first beyond the end
    rim = seen.picture[LINES // 2, :, 0]
    assert np.abs(rim[column + 2 :]).max() < 0.2
    assert np.abs(rim[column - 2 : column]).max() > 0.7


def profile(values, first_px=100, strength=40.0):
    rows = np.array(values, float)
    return End(50.0, 60.0, first_px, np.stack([rows, rows - 1, rows - 2]), strength)


def test_profiles_keep_the_farthest_row_of_each_line():
    rows = np.full(3 * LINES, 300.0)
    rows[31] = 310.0
    lines = _profiles(profile(rows), 300.0, 100 + 1.5 * LINES, 3.0)
    assert lines.shape == (3, LINES)
    assert lines[0, 10] == 10.0
    assert np.delete(lines[0], 10) == pytest.approx(0.0)


def test_profiles_without_an_edge_say_so():
    rows = np.full(LINES, 300.0)
    rows[20:] = np.nan
    lines = _profiles(profile(rows), 300.0, 100 + 0.5 * LINES, 1.0)
    assert np.isnan(lines[0]).tolist() == [False] * 20 + [True] * (LINES - 20)


def test_lines_closer_than_rows_take_the_row_at_them():
    rows = 300.0 + np.arange(40)
    lines = _profiles(profile(rows), 300.0, 100 + 16.0, 0.5)
    assert lines[0] == pytest.approx(np.rint((np.arange(LINES) + 0.5) * 0.5 - 0.5), abs=0.51)


def test_the_likeliest_place_is_that_of_one_spike_not_between_two():
    chance = np.zeros(LINES)
    chance[10:13], chance[40:43] = 0.15, 0.18
    assert _likeliest(chance, 2.0) == pytest.approx(41.5)


def test_weights_fit_what_is_seen():
    net = tip_net.network()
    columns = COLUMNS // 2 ** len(net.picture)
    assert net.lines[0].kernel.shape[2] == columns * net.picture[-1].kernel.shape[3] + 12
    assert sum(layer.kernel.size for layer in (*net.picture, *net.lines)) < 80_000


def test_without_an_edge_at_full_resolution_the_outline_stands():
    gray = turned(20.0).gray()
    no_edge = End(75.0, 40.0, 0, np.empty((3, 0)), 0.0)
    with patch.object(detect, "find_end", lambda *_: no_edge):
        found = find_loop(gray)
    assert found.tip_in_view
    assert np.isfinite([found.tip_x, found.tip_y]).all()


@pytest.mark.parametrize(("off_px", "part"), [(2.0, 0.0), (4.5, 0.5), (9.0, 1.0)])
def test_the_edge_stands_unless_the_network_has_the_tip_elsewhere(off_px, part):
    seen = view_of(turned(0.0).gray())
    assert seen.pitch_px < 3.0
    with patch.object(tip_net, "locate", lambda _: (seen.tip_px, seen.edge_px + off_px)):
        u, v = tip_net.tip_of(seen)
    assert (u, v - seen.edge_px) == pytest.approx((seen.tip_px, part * off_px))
