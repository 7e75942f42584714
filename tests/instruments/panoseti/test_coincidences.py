import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.errors import DataError
from skywright.instruments.panoseti.coincidences import find_coincidences
from skywright.instruments.panoseti.flashes import EventTable, find_flashes

T0 = 1_721_882_092_000_000_000


def brute_force(times, modules, window, baselines):
    found = set()
    for i in range(len(times)):
        for j in range(i):
            a, b = modules[i], modules[j]
            meters = baselines.get((a, b), baselines.get((b, a), 0.0))
            limit = window + int(np.ceil(meters * 1e9 / 299_792_458.0))
            if a != b and abs(times[i] - times[j]) <= limit:
                found.add(frozenset((i, j)))
    return found


@settings(deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([1, 3, 254])), max_size=40),
    window=st.integers(0, 300),
    meters=st.floats(0, 200),
)
def test_pairs_are_those_of_a_plain_search(events, window, meters):
    times = np.array([T0 + time for time, _ in events], np.int64)
    modules = np.array([module for _, module in events], np.int64)
    baselines = {(3, 1): meters}
    found = find_coincidences(times, modules, window, baselines)
    pairs = [frozenset(map(int, pair)) for pair in zip(found.first, found.second, strict=True)]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == brute_force(times.tolist(), modules.tolist(), window, baselines)


def test_a_nanosecond_decides_at_the_present_epoch():
    for difference, expected in ((100, 1), (101, 0)):
        times = np.array([T0, T0 + difference])
        assert len(find_coincidences(times, np.array([1, 2]), 100)) == expected
    for difference, expected in ((134, 1), (135, 0)):  # light takes 33.4 ns for 10 m
        times = np.array([T0, T0 + difference])
        assert len(find_coincidences(times, np.array([1, 2]), 100, {(2, 1): 10.0})) == expected


def test_events_of_one_flash_follow_one_another_within_the_window():
    for pause, flashes in ((100, [4]), (101, [2, 2])):
        first = np.array([0, 50])
        times = T0 + np.concatenate([first, 50 + pause + first])
        modules = np.array([1, 2, 2, 1])  # those beside the pause are of one module
        found = find_flashes(EventTable(times, modules, np.array([90, 91, 95, 90])), 90)
        assert [len(rows) for rows in found.rows] == flashes
        assert found.time_ns.tolist() == times[:: 4 // len(flashes)].tolist()
        assert found.modules.tolist() == [2] * len(flashes)
    below = EventTable(times, modules, np.array([90, 89, 95, 90]))
    assert [rows.tolist() for rows in find_flashes(below, 90).rows] == [[2, 3]]


def test_a_flash_may_have_to_be_seen_by_three_modules():
    times, modules = T0 + np.array([0, 10, 1000, 1010, 1020]), np.array([1, 2, 1, 2, 3])
    found = find_flashes(EventTable(times, modules, np.full(5, 100)), 90, least_modules=3)
    assert [rows.tolist() for rows in found.rows] == [[2, 3, 4]]
    assert (found.time_ns.tolist(), found.modules.tolist()) == ([T0 + 1000], [3])


def test_chance_pairs_are_as_many_as_expected():
    rng = np.random.default_rng(3)
    count, span = 200_000, 100_000_000_000
    times = np.concatenate([T0 + rng.integers(0, span, count) for _ in range(4)])
    modules = np.repeat([1, 2, 3, 4], count)
    found = find_coincidences(times, modules, 300)
    assert abs(len(found) - found.expected) < 5 * np.sqrt(found.expected)
    assert found.live_s == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("window_ns", [0, 1_000_000])
def test_chance_counts_the_time_that_all_modules_cover(window_ns):
    seconds = {1: range(0, 110, 10), 2: (25, 45, 65)}
    times = T0 + 10**9 * np.concatenate([[*each] for each in seconds.values()])
    found = find_coincidences(times, np.repeat([1, 2], [11, 3]), window_ns)
    assert found.live_s == 40.0  # from 25 to 65 s, with 4 and 3 events
    assert found.expected == pytest.approx(4 * 3 * (2 * window_ns + 1) / 40e9)


@pytest.mark.parametrize("later", [0, 20])
def test_modules_that_cover_no_common_time_give_no_chance_pairs(later):
    found = find_coincidences(T0 + np.array([0, later]), np.array([1, 2]), 100)
    assert (found.expected, found.live_s, len(found)) == (0.0, 0.0, 1)


def test_no_events_and_one_module_give_no_pairs():
    empty = np.array([], np.int64)
    assert len(find_coincidences(empty, empty, 100)) == 0
    assert len(find_coincidences(T0 + np.arange(5), np.ones(5, int), 100)) == 0


def test_wrong_arguments_are_refused():
    with pytest.raises(DataError, match="2 times for 1 modules"):
        find_coincidences(np.array([1, 2]), np.array([1]), 5)
    with pytest.raises(DataError, match="-5 ns"):
        find_coincidences(np.array([1]), np.array([1]), -5)


def test_more_pairs_than_events_are_all_there():
    times = np.full(400, T0)
    modules = np.tile([7, 9], 200)
    found = find_coincidences(times, modules, 0)
    assert len({*zip(found.first.tolist(), found.second.tolist(), strict=True)}) == 200 * 200
    assert (modules[found.first] != modules[found.second]).all()


@pytest.mark.parametrize("numbers", [(-3, 2), (70_000, 10**12), (0, 255)])
def test_modules_may_have_any_numbers(numbers):
    times = T0 + np.array([0, 50, 1000, 1001])
    modules = np.array([*numbers, numbers[0], numbers[0]])
    found = find_coincidences(times, modules, 100, {numbers: 10.0})
    assert list(zip(found.first, found.second, strict=True)) == [(0, 1)]
