"""Journals as they are read, without a server: lines, rows of events, types of columns."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skywright.store import tail as tail_module
from skywright.store.columns import ColumnType, convert, declared, widen
from skywright.store.journal_contents import JournalContents, datum_fields
from skywright.store.rows import stored_data_keys, type_notes
from skywright.store.tail import Line, locked_if_dead, read_lines


class Reader:
    """Contents of a journal whose lines a test gives one by one."""

    def __init__(self, **keys: dict[str, Any]) -> None:
        self.contents = JournalContents()
        self.number = 0
        self.add("start", {"uid": "u", "time": 0.0})
        data_keys = {key: {"dtype": "number", "shape": [], **value} for key, value in keys.items()}
        self.add("descriptor", {"uid": "d", "name": "primary", "data_keys": data_keys})
        self.stream = self.contents.streams["primary"]

    def add(self, name: str, doc: dict[str, Any]) -> None:
        self.number += 1
        self.contents.add(Line(self.number, name, doc))

    def event(self, seq_num: int, x: Any = 0.0, time: Any = 1.0) -> int:
        """Add an event; return the revision of the stream."""
        event = {"descriptor": "d", "seq_num": seq_num, "time": time, "timestamps": {}}
        self.add("event", event | {"data": {"x": x}})
        return self.stream.revision


IMAGE = {"shape": [4, 4], "dtype": "array", "external": "STREAM:"}


def test_events_in_any_order_have_the_line_of_the_last_one() -> None:
    reader = Reader(x={})
    revisions = [reader.event(seq_num) for seq_num in (5, 6, 3, 6, 8)]
    assert revisions == [0, 0, 1, 2, 2]  # taken again, or behind later ones: written once more
    assert reader.stream.seq_nums() == [3, 5, 6, 8]
    last = {3: 5, 5: 3, 6: 6, 8: 7}
    assert all(reader.stream.is_last_line_of(*each) for each in last.items())
    assert [n for n in range(10) if reader.stream.has_event(n)] == [3, 5, 6, 8]


def test_a_data_key_without_a_dtype_has_that_of_its_values() -> None:
    """The other columns of its stream are not lost with it, and a note says so."""
    reader = Reader(y={})
    keys = {"x": {"shape": [], "source": "other"}, "y": {"dtype": "number", "shape": []}}
    reader.add("descriptor", {"uid": "d", "name": "other", "data_keys": keys})
    event = {"descriptor": "d", "seq_num": 1, "time": 1.0, "timestamps": {}}
    reader.add("event", event | {"data": {"x": 2, "y": 0.5}})
    stream = reader.contents.streams["other"]
    assert (reader.contents.left_out, stream.seq_nums()) == (set(), [1])
    assert stored_data_keys(stream)["x"]["dtype"] == "integer"
    assert type_notes(stream) == [
        "other/x: declared without a dtype, stored as integer, because of its values"
    ]


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan, 0.5, "1", None, [1]])
@pytest.mark.parametrize("bound", ["start", "stop"])
@pytest.mark.parametrize("name", ["indices", "seq_nums"])
def test_a_stream_datum_whose_rows_are_no_whole_numbers_is_left_out(
    name: str, bound: str, wrong: Any
) -> None:
    reader = Reader(image=IMAGE)
    reader.add("stream_resource", {"uid": "r", "data_key": "image", "uri": "file:///a"})
    datum = {"descriptor": "d", **datum_fields("r", 0, 1, 4)}
    reader.add("stream_datum", datum | {name: datum[name] | {bound: wrong}})
    reader.add("stream_datum", datum)
    assert reader.contents.left_out == {4}
    assert [(each.start, each.stop) for each in reader.stream.catalog_rows("image")] == [(0, 4)]


def test_a_line_without_a_name_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('["", {"uid": "u"}]\n["start", {"uid": "u"}]\n')
    contents = JournalContents()
    for line in read_lines(path):
        contents.add(line)
    assert contents.start == {"uid": "u"}
    assert list(contents.notes) == ["line 1 of the journal is broken: not a [name, document] pair"]


@pytest.mark.parametrize("wrong", [2**24, -(2**24)])
def test_an_event_whose_seq_num_is_far_from_all_others_is_left_out(wrong: int) -> None:
    reader = Reader(x={}, image=IMAGE)
    for seq_num in (1, wrong, 2):
        reader.event(seq_num)
    assert (reader.stream.seq_nums(), reader.contents.left_out) == ([1, 2], {4})
    (note,) = reader.contents.notes
    assert f"seq_num {wrong}" in note


def test_a_row_of_a_file_without_an_event_is_left_out_of_rows_that_are_written() -> None:
    reader = Reader(x={}, image=IMAGE)
    reader.add("stream_resource", {"uid": "r", "data_key": "image", "uri": "file:///a.h5"})
    reader.add("stream_datum", {"descriptor": "d", **datum_fields("r", 0, 1, 4)})
    assert [reader.event(seq_num) for seq_num in (1, 2, 4)] == [0, 0, 1]
    rows = [(each.start, each.stop, each.sequence) for each in reader.stream.catalog_rows("image")]
    assert rows == [(0, 2, 1), (3, 4, 4)]


@pytest.mark.parametrize("time", ["noon", None, 10**400])
def test_an_event_without_a_time_that_is_a_number_is_left_out(time: Any) -> None:
    reader = Reader(x={})
    reader.event(1)
    reader.event(2, time=[time] if time is None else time)
    reader.event(3)
    assert reader.stream.seq_nums() == [1, 3]
    assert reader.contents.left_out == {4}
    (note,) = reader.contents.notes
    assert note.startswith("line 4 of the journal, event: not understood, left out")


def test_lines_longer_than_a_chunk_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "CHUNK_BYTES", 16)
    path = tmp_path / "u.jsonl"
    docs = [{"uid": "x" * length} for length in (1, 200, 3, 15, 16, 17)]
    path.write_text("".join(f"{json.dumps(['event', doc])}\n" for doc in docs) + '["event", {"uid"')
    assert [line.doc for line in read_lines(path)] == docs


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_journal_that_another_process_moves_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    """Another ingester moves it to ``done``; its recovery puts another one in its place."""
    path, lock = tmp_path / "u.jsonl", tail_module.try_lock

    def move_and_lock(*args: Any, **options: Any) -> bool:
        path.rename(tmp_path / "moved")
        if is_replaced:
            path.touch()
        return lock(*args, **options)

    monkeypatch.setattr(tail_module, "try_lock", move_and_lock)
    path.touch()
    with locked_if_dead(path) as dead:
        assert not dead


LARGE = st.integers(2**53 - 2, 2**53 + 2) | st.integers(2**63 - 2, 2**64) | st.just(2**80)
NUMBERS = st.integers(-5, 5) | LARGE | LARGE.map(lambda n: -n) | st.floats(allow_nan=False)
SCALARS = NUMBERS | st.booleans() | st.none() | st.text(max_size=4)


@given(st.sampled_from(["boolean", "integer", "number", "string"]), st.lists(SCALARS, min_size=1))
@example("integer", [2**53 + 1, 0.5])
@example("number", [0.5, -(2**53) - 1, None])
def test_a_column_of_scalars_holds_each_of_its_values(kind: str, values: list[Any]) -> None:
    column: ColumnType | None = declared({"dtype": kind})
    for value in values:
        column = widen(column, value)
        assert widen(column, value) == column
    assert column is not None
    for value in values:
        stored = convert(column, value)
        if value is None:
            assert stored == "" or math.isnan(stored)
        elif isinstance(stored, str):
            assert stored == (value if isinstance(value, str) else json.dumps(value))
        else:
            assert stored == value
            assert not isinstance(stored, int) or -(2**63) <= stored < 2**63


@pytest.mark.parametrize(
    ("kind", "value"), [("integer", 5), ("boolean", True), ("integer", 2**60 + 1)]
)
def test_a_scalar_before_a_list_has_missing_elements(kind: str, value: Any) -> None:
    column = widen(widen(declared({"dtype": kind}), value), [1, 2])
    first, missing = convert(column, value).tolist()
    assert (int(first), str(missing)) in [(value, "nan"), (value, "")]
    assert [int(each) for each in convert(column, [1, 2])] == [1, 2]


@pytest.mark.parametrize(
    ("kind", "promised", "scalar", "array", "stored"),
    [
        ("integer", "<u1", 300, [1], "300"),
        ("number", "<f4", 0.1, [1], "0.1"),
        ("number", "<U3", 1e300, ["a"], "1e+300"),
        ("boolean", "<U3", True, ["a"], "True"),
        ("integer", "<i4", None, [1], "nan"),
        ("integer", "<f8", 3, [1], "3"),
        ("number", "<M8[ns]", 1.5, [2], "1.5"),
        ("number", "<m8[s]", 1.5, [2], "1.5"),
    ],
)
def test_a_scalar_before_an_array_need_not_fit_the_promised_type(
    kind: str, promised: str, scalar: Any, array: list[Any], stored: str
) -> None:
    column = widen(widen(declared({"dtype": kind}), scalar, promised), array, promised)
    assert str(convert(column, scalar).item()) == stored


ARRAYS = st.lists(st.lists(NUMBERS | st.none(), max_size=3), min_size=1, max_size=4)


@given(ARRAYS)
@example([[2**53 + 1], [0.5]])
@example([[0.5], [2**53 + 1, 2]])
def test_a_column_of_arrays_holds_each_of_its_values(values: list[list[Any]]) -> None:
    column: ColumnType | None = None
    for value in values:
        column = widen(column, value)
    assert column is not None
    for value in values:
        stored = convert(column, value)
        padded = [*value, *[None] * (len(stored) - len(value))]
        for element, found in zip(padded, stored.tolist(), strict=True):
            if element is None:
                assert found == "" or math.isnan(found)
            elif isinstance(found, str):
                assert (float if isinstance(element, float) else Decimal)(found) == element
            else:
                assert found == element
