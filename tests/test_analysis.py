"""The algebra of D7: any order, repetition and assignment of whole blocks gives the same bits."""

import pickle
from collections.abc import Mapping
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.analysis import (
    Analysis,
    Batch,
    IdentityOrder,
    find_late,
    join_by_identity,
    whole_blocks,
)
from skywright.analysis.framework import RESTART_BLOCKS
from skywright.errors import DataError
from skywright.files.columns import Column

SETTINGS = 3


class Sums(Analysis[tuple[int, float, float]]):
    """Float sums, which tell every change of order in their last bits."""

    name, version, inputs = "sums", "1", ("x",)
    columns = (Column("square", "<f8"),)
    results = (
        Column("n", "<i8"),
        Column("total", "<f8", attrs={"units": "V"}),
        Column("powers", "<f8", (2,)),
    )
    block_size = 4

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        return {"square": batch["x"] ** 2, "x": batch["x"]}

    def statistic(self, members: Batch) -> tuple[int, float, float]:
        total = 0.0
        for x in members["x"]:
            total += x
        return len(members), total, float(members["square"].sum())

    def fold(self, prefix: Any, statistic: Any) -> Any:
        if prefix is None:
            return statistic
        return tuple(a + b for a, b in zip(prefix, statistic, strict=True))

    def summarize(self, state: Any) -> Mapping[str, Any]:
        n, total, squares = state or (0, np.nan, np.nan)
        return {"n": n, "total": total, "powers": np.array([total, squares])}


def batch_of(identities: Any) -> Batch:
    """Frames whose content depends on their identity only, and not nicely."""
    identities = np.asarray(identities, np.int64)
    x = np.sin(identities * 12.9898) * 43758.5453 * 10.0 ** (identities % 7)
    return Batch(identities, identities * 0.1, {"x": x})


def bits(analysis: Analysis[Any]) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in analysis.result().items()}


def reference(identities: Any) -> dict[str, bytes]:
    """The same numbers without the framework: blocks in order, each in order of identity."""
    state, sums = None, Sums()
    for block in sorted({i // 4 for i in identities}):
        members = batch_of(sorted({i for i in identities if i // 4 == block}))
        rows = sums.measure(members)
        found = sums.statistic(Batch(members.identities, members.times, rows))
        state = sums.fold(state, found)
    return {name: np.asarray(v).tobytes() for name, v in sums.summarize(state).items()}


identity_sets = st.sets(st.integers(0, 60), min_size=1, max_size=40)


class LastSums(Sums):
    """The same of entities that change: the last row of an identity holds."""

    name, keep = "last_sums", "last"


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6)), min_size=1), st.data())
def test_the_last_row_of_an_identity_may_hold(rows: list[tuple[int, float]], data: Any) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(rows) - 1, 1)), max_size=5)))
    seen, first = LastSums(), Sums()
    for low, high in pairwise([0, *cuts, len(rows)]):
        identities = np.array([identity for identity, _ in rows[low:high]], np.int64)
        x = np.array([value for _, value in rows[low:high]])
        for analysis in (seen, first):
            analysis.update(Batch(identities, np.zeros(len(x)), {"x": x}))
            if data.draw(st.booleans()):
                analysis.result()  # what is looked at in between changes nothing
    for analysis, given_rows in ((seen, rows), (first, rows[::-1])):
        held = sorted(dict(given_rows).items())
        whole = Sums()
        x = np.array([value for _, value in held])
        whole.update(Batch(np.array([k for k, _ in held], np.int64), np.zeros(len(x)), {"x": x}))
        assert bits(analysis) == bits(whole)
        assert analysis.members == len(held)


def test_an_ordered_analysis_cannot_let_the_last_row_hold() -> None:
    with pytest.raises(TypeError, match="ordered"):
        type("Wrong", (Sums,), {"ordered": True, "keep": "last"})


class SettingSums(Sums):
    """Sums of the members of each setting by themselves."""

    name, block_setting = "setting_sums", "setting"
    inputs = ("x", "setting")
    results = (Column("totals", "<f8", (SETTINGS,)),)

    def measure(self, batch: Batch) -> Mapping[str, Any]:
        return {**super().measure(batch), "setting": batch["setting"]}

    def statistic(self, members: Batch) -> Any:
        assert len(set(members["setting"].tolist())) == 1  # never members of two settings
        return {int(members["setting"][0]): super().statistic(members)[1]}

    def fold(self, prefix: Any, statistic: Any) -> Any:
        before = prefix or {}
        return before | {key: before.get(key, 0.0) + x for key, x in statistic.items()}

    def summarize(self, state: Any) -> Mapping[str, Any]:
        return {"totals": np.array([(state or {}).get(key, np.nan) for key in range(SETTINGS)])}


class OrderedSettingSums(SettingSums):
    """The same, member by member."""

    name, ordered = "ordered_setting_sums", True

    def extend(self, statistic: Any, members: Batch) -> Any:
        (setting,) = set(members["setting"].tolist())
        total = (statistic or {}).get(setting, 0.0)
        for x in members["x"]:
            total += x
        return {setting: total}


@pytest.mark.parametrize("kind", [SettingSums, OrderedSettingSums])
@given(data=st.data())
def test_members_of_different_settings_are_in_different_blocks(kind: Any, data: Any) -> None:
    settings_ = st.lists(st.integers(0, SETTINGS - 1), min_size=1, max_size=30)
    numbers = np.array(data.draw(settings_))
    frames = batch_of(range(len(numbers)))
    frames = Batch(frames.identities, frames.times, {**frames.data, "setting": numbers})
    expected = np.full(SETTINGS, np.nan)
    for setting in set(numbers.tolist()):  # the same, each setting alone, a block of 4 at a time
        one = Sums()
        one.update(frames.take(numbers == setting))
        expected[setting] = one.result()["total"]

    whole, cut, workers = kind(), kind(), [kind(), kind()]
    whole.update(frames)
    stops = sorted(data.draw(st.sets(st.integers(1, len(numbers)), max_size=6)))
    for low, high in pairwise([0, *stops, len(numbers)]):
        if high > low:
            cut.update(frames.take(slice(low, high)))
            cut.advance((high // 4 - 1) * 4)
    for block in range(-(-len(numbers) // 4)):
        workers[data.draw(st.integers(0, 1))].update(frames.take(slice(4 * block, 4 * block + 4)))
    for analysis in (whole, cut, workers[0].merge(workers[1])):
        assert analysis.result()["totals"].tobytes() == expected.tobytes()
        assert (analysis.members, analysis.refused) == (len(numbers), 0)


@given(
    st.lists(st.sets(st.integers(0, 60), min_size=1, max_size=15), min_size=1, max_size=SETTINGS),
    st.data(),
)
def test_identities_may_begin_anew_with_new_settings(runs: list[set[int]], data: Any) -> None:
    identities = np.concatenate([sorted(run) for run in runs]).astype(np.int64)
    numbers = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    frames = batch_of(identities)
    frames = Batch(identities, frames.times, {**frames.data, "setting": numbers})
    expected = np.full(SETTINGS, np.nan)
    for number, run in enumerate(runs):  # the same, each run alone
        one = Sums()
        one.update(batch_of(sorted(run)))
        expected[number] = one.result()["total"]

    live, order = SettingSums(), IdentityOrder(4)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(identities)), max_size=6)))
    for low, high in pairwise(sorted({0, *cuts, len(identities)})):
        piece, before = frames.take(slice(low, high)), order.highest
        places = order.place(piece.identities, live.settings_numbers(piece.data))
        late, highest = find_late(places, 4, before)
        assert highest == order.highest
        live.update(Batch(places, piece.times, piece.data), late)
        live.advance((highest // 4 - 1) * 4)
    places = IdentityOrder(4).place(identities, numbers)
    assert ((places - identities) % 4 == 0).all()
    partials = []
    for start, stop in whole_blocks(places, 4):
        partial, piece = SettingSums(), frames.take(slice(start, stop))
        assert len(set((places - identities)[start:stop].tolist())) == 1
        partial.update(Batch(places[start:stop], piece.times, piece.data))
        partials.append(partial)
    for analysis in (live, reduce(SettingSums.merge, partials)):
        assert analysis.result()["totals"].tobytes() == expected.tobytes()
        assert (analysis.members, analysis.refused) == (len(identities), 0)


def test_members_of_an_ordered_analysis_that_come_out_of_order_are_refused() -> None:
    def update(*identities: int) -> None:
        frames = batch_of(identities)
        settings_ = np.zeros(len(identities), np.int64)
        ordered.update(
            Batch(frames.identities, frames.times, {**frames.data, "setting": settings_})
        )

    ordered, expected = OrderedSettingSums(), Sums()
    update(0, 2, 1, 2)
    update(1, 3, 4)
    expected.update(batch_of([0, 2, 3, 4]))
    assert (ordered.members, ordered.refused) == (4, 3)
    assert ordered.result()["totals"][0] == expected.result()["total"]


def test_identities_that_begin_anew_among_the_open_blocks_keep_their_place() -> None:
    order, setting = IdentityOrder(4), np.zeros(1, np.int64)
    assert order.place(np.array([9]), setting).tolist() == [9]
    assert order.place(np.array([4, 5]), np.array([1, 1])).tolist() == [4, 5]
    assert order.shift == 0
    # The first one need not be the lowest: a block is left free in front of it
    assert order.place(np.array([1, 5]), np.array([2, 0])).tolist() == [17, 21]
    assert order.place(np.array([0]), np.array([1])).tolist() == [16]  # of an earlier setting


FAR = RESTART_BLOCKS * 4 + 4
"""A jump of the identity that is a restart, in blocks of 4."""


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 7, 10**15, -(10**15), 2**62]),
            st.sets(st.integers(0, 39), min_size=1, max_size=15),
        ),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_identities_that_restart_or_jump_make_no_member_late(
    runs: list[tuple[int, set[int]]], data: Any
) -> None:
    """A sender restarts, or sends one wild identity and goes on as before."""
    starts, last = list[int](), None
    for far, run in runs:
        start = 4 * (far // 4)
        while last is not None and abs(start + min(run) - last) <= FAR:
            start += 4 * FAR
        starts.append(start)
        last = start + max(run)
    sequence = [
        start + each for start, (_, run) in zip(starts, runs, strict=True) for each in sorted(run)
    ]
    state, one = None, Sums()
    for start, (_, run) in zip(starts, runs, strict=True):  # the same, each run by itself
        for block in sorted({each // 4 for each in run}):
            members = batch_of([start + each for each in sorted(run) if each // 4 == block])
            rows = one.measure(members)
            state = one.fold(state, one.statistic(Batch(members.identities, members.times, rows)))
    expected = {name: np.asarray(value).tobytes() for name, value in one.summarize(state).items()}

    live, order = Sums(), IdentityOrder(4)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sequence)), max_size=6)))
    found = []
    for low, high in pairwise(sorted({0, *cuts, len(sequence)})):
        piece, before = batch_of(sequence[low:high]), order.highest
        places = order.place(piece.identities, None)
        late, highest = find_late(places, 4, before)
        live.update(Batch(places, piece.times, piece.data), late)
        live.advance((highest // 4 - 1) * 4)
        found += places.tolist()
    assert bits(live) == expected
    assert (live.members, live.refused) == (len(sequence), 0)
    assert found == IdentityOrder(4).place(np.array(sequence, np.int64), None).tolist()
    assert 0 <= order.highest - found[0] <= 20 * FAR  # no jump is kept


def test_a_member_that_is_a_little_out_of_order_is_late_and_no_restart() -> None:
    order = IdentityOrder(4)
    near = FAR - 4
    assert order.place(np.array([100 + near, 100, 101 + near]), None).tolist() == [
        100 + near,
        100,
        101 + near,
    ]
    assert order.place(np.array([100, 100 + near + 4]), None).tolist() == [100, 100 + near + 4]


def test_members_are_late_after_a_highest_one_of_an_earlier_batch() -> None:
    late, highest = find_late(np.array([11, 12, 7, 21, 15]), 4, 15)
    assert late.tolist() == [False, False, True, False, True]
    assert highest == 21
    late, highest = find_late(np.array([0]), 4, 20)
    assert (late.tolist(), highest) == ([True], 20)


def test_what_is_folded_stays_folded() -> None:
    sums = Sums()
    sums.update(batch_of(range(10)))
    sums.advance(8)
    sums.advance(4)
    sums.update(batch_of([5]))
    assert (sums.members, sums.refused) == (10, 1)


@pytest.mark.parametrize("setting", [None, np.array([0.5]), np.array([[1]])])
def test_numbers_of_settings_that_are_none_are_named(setting: Any) -> None:
    class Wrong(SettingSums):
        def measure(self, batch: Batch) -> Mapping[str, Any]:
            rows = {**Sums.measure(self, batch), "setting": setting}
            return {key: value for key, value in rows.items() if value is not None}

    with pytest.raises(DataError, match="setting_sums: settings number setting: measure gave"):
        Wrong().update(batch_of([1]))


@given(identity_sets, st.data())
def test_any_order_and_repetition_within_one_partial(identities: set[int], data: Any) -> None:
    arriving = data.draw(st.permutations(sorted(identities)))
    arriving += data.draw(st.lists(st.sampled_from(arriving), max_size=10))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(arriving)), max_size=6)))
    sums = Sums()
    for first, last in zip([0, *cuts], [*cuts, len(arriving)], strict=True):
        sums.update(batch_of(arriving[first:last]))
    assert bits(sums) == reference(identities)
    assert sums.members == len(identities)


@given(identity_sets, st.data())
def test_any_assignment_of_whole_blocks_and_any_merge_tree(identities: set[int], data: Any) -> None:
    workers: dict[int, list[int]] = {}
    for block in {i // 4 for i in identities}:
        for worker in data.draw(st.sets(st.integers(0, 4), min_size=1, max_size=3)):
            members = [i for i in identities if i // 4 == block]
            workers.setdefault(worker, []).extend(data.draw(st.permutations(members)))
    partials = []
    for worker in data.draw(st.permutations(sorted(workers))):
        partial = Sums()
        partial.update(batch_of(workers[worker]))
        if data.draw(st.booleans()):
            partial = pickle.loads(pickle.dumps(partial.close()))
        partials.append(partial)
    while len(partials) > 1:
        a, b = data.draw(st.permutations(range(len(partials))))[:2]
        merged = partials[a].merge(partials[b])
        partials = [p for k, p in enumerate(partials) if k not in (a, b)] + [merged]
    assert bits(partials[0]) == reference(identities)
    assert partials[0].refused == 0


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60), st.data())
def test_live_and_whole_block_slices_refuse_the_same_members(
    sequence: list[int], data: Any
) -> None:
    """Frames out of turn: cut into batches as they come, or into slices for a cluster."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sequence)), max_size=8)))
    live, highest = Sums(), None
    for first, last in zip([0, *cuts], [*cuts, len(sequence)], strict=True):
        if first < last:
            piece = batch_of(sequence[first:last])
            late, highest = find_late(piece.identities, 4, highest)
            live.update(piece, late)
            live.advance((highest // 4 - 1) * 4)
    partials = []
    for start, stop in whole_blocks(np.array(sequence), 4):
        piece = batch_of(sequence[start:stop])
        partial = Sums()
        partial.update(piece, find_late(piece.identities, 4)[0])
        partials.append(partial.close())
    merged = reduce(Sums.merge, data.draw(st.permutations(partials)))
    assert bits(live) == bits(merged)
    assert (live.members, live.refused) == (merged.members, merged.refused)


@given(st.lists(st.integers(0, 200), max_size=80), st.integers(1, 9))
def test_slices_hold_whole_blocks_and_are_the_shortest(sequence: list[int], size: int) -> None:
    slices = whole_blocks(np.array(sequence, np.int64), size)
    assert [i for start, stop in slices for i in range(start, stop)] == list(range(len(sequence)))
    held = [{i // size for i in sequence[start:stop]} for start, stop in slices]
    for before, after in pairwise(held):
        assert max(before) < min(after)
    if sequence == sorted(sequence):
        assert len(slices) == len({i // size for i in sequence})


@given(identity_sets, st.integers(0, 70))
def test_folding_changes_no_bit_and_what_overlaps_the_prefix_is_refused(
    identities: set[int], watermark: int
) -> None:
    sums = Sums()
    sums.update(batch_of(sorted(identities)))
    sums.advance(watermark)
    assert bits(sums) == reference(identities)
    again = Sums()
    again.update(batch_of(sorted(identities)))
    sums.merge(again)
    folded = sum(1 for i in identities if i // 4 < watermark // 4)
    assert bits(sums) == reference(identities)
    assert sums.refused == folded
    sums.update(batch_of([0]))
    assert sums.refused == folded + 1 or watermark < 4


def test_a_prefix_is_taken_over_by_a_partial_without_one_and_refused_by_one_with() -> None:
    first, second, third = Sums(), Sums(), Sums()
    for sums in (first, second):
        sums.update(batch_of(range(10)))
        sums.advance(8)
    third.update(batch_of(range(4, 20)))
    third.merge(first)
    assert third.members == 10 + 10
    assert (
        third.refused == 4 + 2
    )  # block 1, and the first version of block 2, which has fewer members
    assert first.merge(second).refused == 8
    assert first.members == 10


def test_of_two_versions_of_a_block_the_fuller_holds_whatever_the_order() -> None:
    def partial(*identities: int) -> Sums:
        sums = Sums()
        sums.update(batch_of(identities))
        return sums.close()

    one = partial(0, 1).merge(partial(0, 1, 2))
    other = partial(0, 1, 2).merge(partial(0, 1))
    assert bits(one) == bits(other) == reference({0, 1, 2})
    assert one.refused == other.refused == 2


def test_memory_stays_flat_over_a_hundred_thousand_blocks() -> None:
    class OneEach(Sums):
        block_size = 1

        def __reduce__(self) -> Any:
            return dict, (vars(self),)

    sums = OneEach()
    batch = batch_of(range(500))

    def size_after(first: int, stop: int) -> int:
        for start in range(first, stop, 500):
            sums.update(Batch(batch.identities + start, batch.times, batch.data))
            sums.advance(start + 499)
        return len(pickle.dumps(sums))

    small, large = size_after(0, 5000), size_after(5000, 105_000)
    assert len(sums._keys()) == 1
    assert sums.members == 105_000
    assert large - small < 100


def test_no_members_is_a_result_and_not_zero() -> None:
    assert np.isnan(Sums().result()["total"])
    assert Sums().result()["n"] == 0


def test_result_does_not_disturb_what_follows() -> None:
    sums = Sums()
    for i in range(20):
        sums.update(batch_of([i]))
        sums.result()
        sums.advance(i - 3)
    assert bits(sums) == reference(range(20))


def test_wrong_rows_and_results_are_named() -> None:
    class NoColumn(Sums):
        def measure(self, batch: Batch) -> Mapping[str, Any]:
            return {"x": batch["x"]}

    class WrongShape(Sums):
        def summarize(self, state: Any) -> Mapping[str, Any]:
            return {"n": 1, "total": 1.0, "powers": np.zeros(3)}

    class Unknown(Sums):
        def summarize(self, state: Any) -> Mapping[str, Any]:
            return {"n": 1, "total": 1.0}

    with pytest.raises(DataError, match=r"sums: column square: measure gave nothing"):
        NoColumn().update(batch_of([1]))
    with pytest.raises(DataError, match=r"result powers has shape \(3,\), declared is \(2,\)"):
        WrongShape().result()
    with pytest.raises(DataError, match="summarize gave"):
        Unknown().result()
    with pytest.raises(DataError, match="2 values of x for 1 identities"):
        Batch(np.array([1]), np.array([0.0]), {"x": np.zeros(2)})


@pytest.mark.parametrize(
    ("dtype", "value"), [("<i2", 70_000), ("<i4", np.nan), ("S4", "longer"), ("<U4", "longer")]
)
def test_values_that_do_not_fit_their_column_are_errors(dtype: str, value: Any) -> None:
    class Misfit(Sums):
        columns = (Column("square", dtype),)
        results = (Column("n", dtype), *Sums.results[1:])

        def measure(self, batch: Batch) -> Mapping[str, Any]:
            return {"square": np.full(len(batch), value), "x": batch["x"]}

        def summarize(self, state: Any) -> Mapping[str, Any]:
            return {**super().summarize(state), "n": value}

    with pytest.raises(DataError, match=r"analysis sums: square: .* does not fit"):
        Misfit().update(batch_of([1]))
    with pytest.raises(DataError, match=r"analysis sums: n: .* does not fit"):
        Misfit().result()


@pytest.mark.parametrize("value", [None, 5, np.nan])
def test_a_value_other_than_text_is_no_result_that_is_text(value: Any) -> None:
    class Missing(Sums):
        results = (Column("n", "<U8"), *Sums.results[1:])

        def summarize(self, state: Any) -> Mapping[str, Any]:
            return {**super().summarize(state), "n": value}

    with pytest.raises(DataError, match="analysis sums: n: expected text, got"):
        Missing().result()


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1))
def test_join_keeps_each_identity_once_in_order(identities: list[int]) -> None:
    joined = join_by_identity([batch_of(identities[:1]), batch_of(identities[1:])])
    assert joined.identities.tolist() == sorted(set(identities))
    assert joined["x"].tolist() == batch_of(sorted(set(identities)))["x"].tolist()
