"""What frames tell as they come: rate, lost packets, clocks."""

from functools import reduce
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pano_files import file_name, made_frames

from skywright.instruments.panoseti import tracking
from skywright.instruments.panoseti.clock import NUM, SEC, TAI
from skywright.instruments.panoseti.gaps import Gaps, gaps_of
from skywright.instruments.panoseti.live.activity import GROWN_WITHIN_S
from skywright.instruments.panoseti.pff import read_pff
from skywright.instruments.panoseti.received import ReceivedFrames, newest_clocks
from skywright.instruments.panoseti.sources.rundir import FrameGroup, RunDirectorySource

RUN = "data_dir/module_1/obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def block(tmp_path, frames, run="a"):
    return FrameGroup(tmp_path / file_name("img16"), run, frames, np.full(len(frames), 2540))


def test_a_rate_is_that_of_the_frames_times_and_ends_with_the_stream(tmp_path):
    clock = Clock()
    received, frames = ReceivedFrames(clock), made_frames("img16", 3000)
    for first in range(0, 3000, 500):  # all at once: a run that is tracked from its start
        received.add(block(tmp_path, frames[first : first + 500]))
    assert received.rate_hz == pytest.approx(1000.0)
    clock.now += GROWN_WITHIN_S + 0.1
    assert received.rate_hz == 0.0


def test_a_rate_goes_on_when_the_computer_clock_is_set_back(tmp_path):
    received, frames = ReceivedFrames(), made_frames("img16", 3000)
    frames.time_ns[:500] += 600 * 10**9
    for first in range(0, 3000, 500):
        received.add(block(tmp_path, frames[first : first + 500]))
    assert received.rate_hz == pytest.approx(1000.0)


def test_the_rate_of_the_next_run_is_its_own(tmp_path):
    received, frames = ReceivedFrames(), made_frames("img16", 2500)
    received.add(block(tmp_path, frames))
    assert received.rate_hz == pytest.approx(1000.0)
    frames.time_ns[:] = frames.time_ns[0] + 600 * 10**9 + np.arange(2500) * 2_000_000
    received.add(block(tmp_path, frames[:400], "b"))
    assert received.rate_hz == 0.0  # of less than a second no rate is known
    received.add(block(tmp_path, frames[400:700], "b"))
    assert received.rate_hz == pytest.approx(500.0)


def test_frames_of_which_all_packets_were_lost_have_no_part_in_the_rate(tmp_path):
    received, frames = ReceivedFrames(), made_frames("img16", 3000)
    frames.time_ns[::2] = 0
    for first in range(0, 3000, 500):
        received.add(block(tmp_path, frames[first : first + 500]))
    assert received.rate_hz == pytest.approx(500.0)
    received.add(block(tmp_path, frames[:1]))
    assert received.rate_hz == pytest.approx(500.0)


def test_packets_are_counted_over_blocks_and_anew_in_the_next_run(tmp_path):
    received, frames = ReceivedFrames(), made_frames("img16", 100)
    received.add(block(tmp_path, frames[:50]))
    received.add(block(tmp_path, frames[53:]))
    assert received.packets_lost == 12
    received.add(block(tmp_path, frames[60:62], "b"))
    received.add(block(tmp_path, frames[62:62], "b"))
    assert received.packets_lost == 0


@pytest.mark.parametrize(
    ("arrived", "lost"),
    [
        ([5, 7, 6, 8], 0),
        ([7, 6, 5, 9], 1),
        ([5, 6, 6, 7], 0),
        ([65_535, 1, 0, 3], 1),
        ([0, 40_000], 39_999),
    ],
)
@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_packets_that_overtake_one_another_or_are_doubled_are_not_lost(
    tmp_path, arrived, lost, cut
):
    received, frames = ReceivedFrames(), made_frames("img16", len(arrived))
    frames.numbers[:, :, NUM] = np.array(arrived)[:, np.newaxis]
    received.add(block(tmp_path, frames[:cut]))
    received.add(block(tmp_path, frames[cut:]))
    assert received.packets_lost == 4 * lost


@settings(deadline=None)
@given(
    first=st.integers(0, 65_535),
    steps=st.lists(st.integers(-5, 9), max_size=12),
    cuts=st.tuples(st.integers(0, 13), st.integers(0, 13)),
)
def test_gaps_do_not_depend_on_how_packets_are_put_together(first, steps, cuts):
    numbers = (first + np.cumsum([0, *steps])) % 65_536
    parts = [gaps_of([part] * 4) for part in np.split(numbers, sorted(cuts))]
    whole, (a, b, c) = gaps_of([numbers] * 4), parts
    for found in (a.with_next(b).with_next(c), a.with_next(b.with_next(c))):
        np.testing.assert_array_equal(found, whole)
    one_by_one = reduce(Gaps.with_next, (gaps_of([np.array([number])] * 4) for number in numbers))
    np.testing.assert_array_equal(one_by_one, whole)


def test_no_packet_of_the_real_run_was_lost(tmp_path, test_data):
    received = ReceivedFrames()
    movie = read_pff(next((test_data / "panoseti" / RUN).glob("*img16*")))
    received.add(block(tmp_path, movie))
    assert received.packets_lost == 0
    assert newest_clocks(movie) == dict.fromkeys(range(4), True)


def test_clocks_are_those_of_the_newest_packets():
    frames = made_frames("ph256", 8)
    frames.numbers[3, 0, TAI] = (frames.numbers[3, 0, TAI] + 60) % 1024  # in step again since
    frames.numbers[5, 0, TAI] = (frames.numbers[5, 0, TAI] + 60) % 1024
    assert newest_clocks(frames) == {0: True, 1: False, 2: True, 3: True}
    movie = made_frames("img16", 2)
    movie.numbers[:, 3] = 0
    movie.numbers[1, 2] = 0  # the packet was lost: the one before it tells
    movie.numbers[0, 2, TAI] = (movie.numbers[0, 2, TAI] + 60) % 1024
    assert not movie.numbers[:, 3, SEC].any()
    assert newest_clocks(movie) == {0: True, 1: True, 2: False}


def test_the_clock_of_a_board_that_sends_no_more_is_not_known(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=clock))
    tracker = tracking.Tracker(RunDirectorySource(tmp_path))
    movie = made_frames("img16", 2)
    tracker.offer(block(tmp_path, movie))
    assert tracker.clocks == dict.fromkeys([(0, board) for board in range(4)], True)
    movie.numbers[:, 2] = 0  # board 2 has lost its link
    for _ in range(2):
        clock.now += tracking.CLOCK_S - 1.0
        tracker.offer(block(tmp_path, movie))
    assert tracker.clocks == dict.fromkeys([(0, 0), (0, 1), (0, 3)], True)
    tracker.close()
