"""How many frames a live analysis takes at once, and which ones when time is short."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright.analysis.frames import BATCH_BYTES
from skywright.callbacks.pace import BATCH_S, Pace, choose_positions


def test_the_first_batch_is_one_frame() -> None:
    pace = Pace()
    assert pace.batch_frames == 1
    assert pace.affordable(0.1) == math.inf
    pace.add_measurement(0, 1.0, 0)  # nothing was read: nothing is known
    assert pace.batch_frames == 1


def test_a_batch_is_bounded_by_time_and_by_bytes() -> None:
    slow, large = Pace(), Pace()
    slow.add_measurement(1, BATCH_S / 10.5, 100)
    assert slow.batch_frames == 10
    large.add_measurement(2, 1e-6, BATCH_BYTES // 2)
    assert large.batch_frames == 4
    slow.add_measurement(1, 60.0, 100)
    slow.add_measurement(1, 60.0, 100)
    assert slow.batch_frames == 1


def test_there_is_always_time_for_one_frame() -> None:
    pace = Pace()
    for seconds in (9.0, 2.0, 2.0):  # the first frame of a process is slow, and tells nothing
        assert pace.affordable(0.1) == math.inf
        pace.add_measurement(4, seconds, 4)
    assert pace.affordable(2.0) == 4
    assert pace.affordable(-3.0) == 1
    assert pace.affordable(math.inf) == math.inf


@given(st.integers(0, 50), st.integers(1, 500), st.integers(1, 600) | st.just(math.inf))
def test_chosen_frames_are_spread_evenly_and_end_with_the_last(
    start: int, left: int, affordable: float
) -> None:
    chosen = choose_positions(start, start + left, affordable)
    assert chosen[-1] == start + left - 1
    assert chosen[0] - start < chosen.step
    assert len(chosen) <= affordable
    assert len(chosen) > min(left, affordable) / 2 - 1


@pytest.mark.parametrize("affordable", [60, 1e9, math.inf])
def test_with_time_enough_all_are_chosen(affordable: float) -> None:
    assert list(choose_positions(7, 67, affordable)) == list(range(7, 67))
