"""Properties of the tag join."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright.instruments.sacla.join import Record, Refusal, TagGrid, TagJoin

CHANNELS = ("image", "i0", "delay")
RUN = 7

records = st.lists(
    st.builds(
        Record,
        channel=st.sampled_from(CHANNELS),
        tag=st.integers(90, 160),
        run=st.sampled_from([RUN, RUN, RUN, RUN, RUN - 1]),
        payload=st.integers(),
    ),
    max_size=300,
)


def plain_join(sequence, window):
    """The contract, with all records in memory."""
    got, counts, highest = {}, Counter(), None
    for record in sequence:
        if record.run != RUN:
            counts[Refusal.OTHER_RUN] += 1
        elif highest is not None and record.tag < highest - window:
            counts[Refusal.LATE] += 1
        elif (record.channel, record.tag) in got:
            counts[Refusal.DUPLICATE] += 1
        else:
            got[record.channel, record.tag] = record.payload
            highest = record.tag if highest is None else max(highest, record.tag)
    return got, counts


@given(records, st.integers(0, 80), st.sampled_from([(100, 1), (101, 2), (95, 7)]), st.booleans())
def test_the_join_is_that_of_the_contract_in_bounded_memory(sequence, window, grid, is_ended):
    first, step = grid
    tags = TagGrid(first, step, 150 if is_ended else None)
    join = TagJoin(CHANNELS, RUN, window, tags)
    shots = []
    for record in sequence:
        join.add(record)
        shots += join.ready()
        assert join.held <= window + 1
    shots += join.finish()
    got, counts = plain_join(sequence, window)
    assert join.records == len(sequence)
    assert join.refused == counts
    expected = {}
    for (channel, tag), payload in got.items():
        if tag >= first and (tag - first) % step == 0 and (not is_ended or tag <= 150):
            expected.setdefault(tag, {})[channel] = payload
    assert [shot.tag for shot in shots] == sorted(expected)
    assert {shot.tag: shot.payloads for shot in shots} == expected
    if is_ended:
        assert join.shots_passed == len(range(first, 151, step))


@given(st.integers(1, 5), st.integers(0, 3))
def test_whole_shots_leave_at_once(step, extra):
    join = TagJoin(CHANNELS, RUN, 50, TagGrid(10, step))
    for k in range(20):
        tag = 10 + k * step
        for channel in (*CHANNELS, *(f"more{n}" for n in range(extra)))[::-1]:
            assert list(join.ready()) == []
            join.add(Record(channel, tag, RUN, channel))
        assert [shot.tag for shot in join.ready()] == [tag]


def test_a_tag_far_ahead_costs_neither_time_nor_memory():
    join = TagJoin(CHANNELS, RUN, 120, TagGrid(0, 1))
    join.add(Record("i0", 5, RUN, 1.0))
    join.add(Record("i0", 10**15, RUN, 1.0))
    assert [shot.tag for shot in join.ready()] == [5]
    assert join.held == 1
    assert join.shots_passed == 10**15 - 120


def test_a_shot_that_has_left_does_not_leave_again():
    join = TagJoin(CHANNELS, RUN, 10, TagGrid(0, 1))
    for channel in CHANNELS:
        join.add(Record(channel, 0, RUN, channel))
    join.add(Record("image", 1, RUN, "image"))
    assert [shot.tag for shot in join.ready()] == [0]
    # Of a channel that nothing waits for, and of a shot that the end has given up.
    assert join.add(Record("another", 0, RUN, 1.0)) is Refusal.LATE
    assert [shot.tag for shot in join.finish()] == [1]
    assert join.add(Record("image", 1, RUN, "again")) is Refusal.DUPLICATE
    assert join.add(Record("i0", 1, RUN, 1.0)) is Refusal.LATE
    for tag in (2, 30):
        for channel in CHANNELS:
            assert join.add(Record(channel, tag, RUN, channel)) is None
    assert [shot.tag for shot in (*join.ready(), *join.finish())] == [2, 30]
    assert join.refused == {Refusal.LATE: 2, Refusal.DUPLICATE: 1}


@pytest.mark.parametrize("last", [None, 109, 110, 111])
def test_the_tags_of_a_grid(last):
    grid, tags = TagGrid(101, 3, last), range(101, 200 if last is None else last + 1, 3)
    for tag in range(90, 130):
        assert (tag in grid) == (tag in tags)
        assert grid.count_below(tag) == sum(shot < tag for shot in tags)
    assert [tag for tag in range(90, 130) if tag in grid.cut(3)] == [101, 104, 107]
    assert grid.cut(50) == TagGrid(101, 3, 248 if last is None else last)


def test_a_record_at_the_end_of_the_window_is_not_forgotten():
    join = TagJoin(CHANNELS, RUN, 10, TagGrid(0, 1))
    for tag in (90, 91, 95, 100):
        assert join.add(Record("i0", tag, RUN, 1.0)) is None
    assert join.add(Record("i0", 90, RUN, 2.0)) is Refusal.DUPLICATE
    assert join.add(Record("i0", 101, RUN, 1.0)) is None
    assert join.add(Record("i0", 91, RUN, 2.0)) is Refusal.DUPLICATE
    assert join.add(Record("i0", 90, RUN, 2.0)) is Refusal.LATE
    assert join.add(Record("i0", 105, RUN, 1.0)) is None
    assert join.add(Record("i0", 95, RUN, 2.0)) is Refusal.DUPLICATE
    assert join.add(Record("i0", 120, RUN, 1.0)) is None
    assert join.held == 1
