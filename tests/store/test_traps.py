"""What tiled's writer does to unusual values, and that nobody meets it here."""

import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from store.recording import Recording, array, scalar
from store.stack import Stack
from tiled.client.metadata_update import DELETE_KEY

from skywright.errors import DataError
from skywright.files.readers import HDF5
from skywright.store.check import differences
from skywright.store.export.contents import read_contents
from skywright.store.ingest import IngestState, RunIngest, ingest
from skywright.store.journal_contents import JournalContents, Stream
from skywright.store.normalizer import DocumentNormalizer, key_name
from skywright.store.rows import as_row
from skywright.store.run_nodes import CatalogServer
from skywright.store.tail import Line, read_lines, start_time
from skywright.store.tiled_writer import NOTES_MAX, RunWriter, storable


def stored(path: Path, client: Any) -> Any:
    """Ingest one journal; return the catalog's run."""
    assert ingest(path, client) is IngestState.DONE
    return client["raw"][path.stem]


RNG = np.random.default_rng(1)
ARRAYS = {
    # Small matrices make the stock writer raise, and types become float64.
    "matrix_u1": np.asarray(200 * RNG.random((3, 3, 3)), "|u1"),
    "matrix_u2": np.asarray(200 * RNG.random((3, 4, 4)), "<u2"),
    "vector_i4": np.asarray(200 * RNG.random((3, 3)), "<i4"),
    "tensor_f4": np.asarray(200 * RNG.random((3, 2, 3, 2)), "<f4"),
    "matrix_b1": RNG.random((3, 20, 30)) > 0.5,
}
NUMBER, INTEGER, TEXT = scalar("number"), scalar("integer"), scalar("string")
NAN, INF = math.nan, math.inf
DATES = np.array(["2026-01-01", "2026-01-02"], "<M8[ns]")
NO_DATES = np.full(2, "NaT", "<M8[ns]")
SOME_DATES = np.array(["NaT", "2026-01-02T03:04:05.123456789"], "<M8[ns]")
UNUSUAL: dict[str, tuple[dict[str, Any], Sequence[Any], Any]] = {
    "missing_number": (NUMBER, [1.5, None, 2.5], [1.5, NAN, 2.5]),
    "number_missing_from_the_first_event_on": (NUMBER, [None, None, 2], [NAN, NAN, 2.0]),
    "number_that_is_always_missing": (NUMBER, [None, None], [NAN, NAN]),
    "missing_text": (TEXT, ["a", None, "a much longer text"], ["a", "", "a much longer text"]),
    "infinite_numbers": (NUMBER, [INF, -INF, NAN], [INF, -INF, NAN]),
    "integers_and_a_float": (INTEGER, [1, 2, 2.5, 4], [1.0, 2.0, 2.5, 4.0]),
    "integers_and_a_gap": (INTEGER, [1, 2, None, 4], [1.0, 2.0, NAN, 4.0]),
    "integer_of_63_bits": (INTEGER, [2**63 - 1, -(2**63), 0], [2**63 - 1, -(2**63), 0]),
    "integer_beyond_63_bits": (
        INTEGER,
        [1, np.uint64(2**64 - 1), 2**80],
        ["1", str(2**64 - 1), str(2**80)],
    ),
    "large_integer_and_a_gap": (INTEGER, [2**60 + 1, None], [str(2**60 + 1), ""]),
    "boolean": (scalar("boolean"), [True, np.False_], [True, False]),
    "boolean_with_a_gap": (scalar("boolean"), [True, None, False], [1.0, NAN, 0.0]),
    "text_in_a_number_column": (NUMBER, [0.1, "broken"], ["0.1", "broken"]),
    **{name: (array(list(each.shape[1:])), each, each) for name, each in ARRAYS.items()},
    "nested_lists": (
        array([2, 2]),
        [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
        [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
    ),
    "list_in_a_number_column": (NUMBER, [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]),
    "declared_dtype_that_the_values_do_not_fit": (
        array([2], dtype_numpy="|u1"),
        [[1, 2], [300, -1]],
        [[1, 2], [300, -1]],
    ),
    "negative_integers_of_an_unsigned_dtype": (
        array([2], dtype_numpy="<u8"),
        [[1, 2], [-1, 3]],
        [[1.0, 2.0], [-1.0, 3.0]],
    ),
    "unsigned_integers_of_a_signed_dtype": (
        array([1], dtype_numpy="<i8"),
        [[1], [2**63 + 1]],
        [["1"], [str(2**63 + 1)]],
    ),
    "objects": (array([3]), [np.array([1, 2.5, None], dtype=object)], [[1, 2.5, NAN]]),
    "declared_objects": (array([2], dtype_numpy="|O8"), [[1.0, None]], [[1.0, NAN]]),
    "long_doubles": (array([1], dtype_numpy="<f16"), [[1.5]], [[1.5]]),
    "structures": (array([2]), [np.ones(2, [("x", "f8"), ("y", "i4")])], [[[1.0, 1.0]] * 2]),
    "bytes": (array([2]), [np.array([b"ab", b"c\xff"])], [["ab", "c\ufffd"]]),
    "text_that_is_not_unicode": (TEXT, ["a\udc80"], ["a?"]),
    "ragged_arrays": (array([2]), [[1, 2], [3, 4, 5], []], [[1, 2, NAN], [3, 4, 5], [NAN] * 3]),
    "large_integers_in_arrays_of_unequal_length": (
        array([2]),
        [[2**60 + 1, 2], [2**60 + 3], [0.5]],
        [[str(2**60 + 1), "2"], [str(2**60 + 3), ""], ["0.5", ""]],
    ),
    "large_integers_beside_fractions": (
        array([2]),
        [[2**60 + 1, 0.5], [1, 2]],
        [[str(2**60 + 1), "0.5"], ["1", "2"]],
    ),
    "unsigned_integers_beside_negative_ones": (
        array([2]),
        [[2**63 + 1, -1]],
        [[str(2**63 + 1), "-1"]],
    ),
    "large_floats": (array([2]), [[1e300, INF], [NAN, 1]], [[1e300, INF], [NAN, 1.0]]),
    "array_of_length_zero": (array([0]), [np.zeros(0), np.zeros(0)], [[NAN], [NAN]]),
    "list_of_length_zero": (array([0]), [[], []], [[NAN], [NAN]]),
    "array_with_a_missing_element": (array([2]), [[1, None], [None, 2]], [[1, NAN], [NAN, 2]]),
    "list_in_a_text_column": (
        TEXT,
        ["hello", None, ["a", "b"], ""],
        [["hello", ""], ["", ""], ["a", "b"], ["", ""]],
    ),
    "list_of_numbers_in_a_text_column": (TEXT, ["hello", [1, 2]], [["hello", ""], ["1", "2"]]),
    "list_after_a_number_and_a_text": (
        NUMBER,
        [-1.2345678901234568e-300, "a", ["b"]],
        [["-1.2345678901234568e-300"], ["a"], ["b"]],
    ),
    "list_in_a_short_text_column": (
        scalar("string", dtype_numpy="<U2"),
        ["hello", ["a"]],
        [["hello"], ["a"]],
    ),
    "list_of_numbers_after_a_missing_text": (TEXT, [None, [1, 2]], [["", ""], ["1", "2"]]),
    "list_of_text_after_booleans": (scalar("boolean"), [False, ["a"]], [["False"], ["a"]]),
    "list_of_numbers_after_booleans": (scalar("boolean"), [True, [2]], [[1], [2]]),
    "array_of_text_that_grows": (
        array([2]),
        [["a", "bc"], ["longer", ""]],
        [["a", "bc"], ["longer", ""]],
    ),
    "datetimes_that_are_missing": (
        array([2]),
        [DATES, NO_DATES, None],
        [DATES, NO_DATES, NO_DATES],
    ),
    "datetimes_of_which_one_is_missing": (
        array([2]),
        [DATES, SOME_DATES, SOME_DATES[1:]],
        [DATES, SOME_DATES, [SOME_DATES[1], NO_DATES[0]]],
    ),
    "texts_that_are_missing": (
        array([2]),
        [["a", "b"], [None, None], ["c"]],
        [["a", "b"], ["", ""], ["c", ""]],
    ),
    "object_that_is_missing_at_first": (TEXT, [None, {"a": 1}], ["", '{"a": 1}']),
    "integers_that_are_missing_at_first": (
        array([2], dtype_numpy="|u1"),
        [None, [1, 2]],
        [[NAN, NAN], [1, 2]],
    ),
    "integer_before_integers_of_a_declared_dtype": (
        scalar("integer", dtype_numpy="|u1"),
        [-1, [1]],
        [[-1], [1]],
    ),
}
"""Columns: data key, values as the events have them, what a user reads."""

REPEATED = {
    "resumed": ([1, 2, 2, 3], {1: 0.0, 2: 2.0, 3: 3.0}),
    "resumed_two_back": ([1, 2, 3, 2, 3, 4], {1: 0.0, 2: 3.0, 3: 4.0, 4: 5.0}),
    "resumed_and_ended": ([1, 2, 3, 2], {1: 0.0, 2: 3.0, 3: 2.0}),
    "one_only": ([1, 1, 1], {1: 2.0}),
    "backwards": ([3, 4, 2], {2: 2.0, 3: 0.0, 4: 1.0}),
    "gap": ([1, 3], {1: 0.0, 3: 1.0}),
}
"""Sequence numbers of events whose x counts from 0, and x by sequence number as it is read."""


@pytest.fixture(scope="module")
def unusual(stack: Stack, client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run with all of these, a stream for each; tiled's writer has nothing to warn of."""
    journals = stack.directory / "assets" / tmp_path_factory.mktemp("unusual").name / "journal"
    journals.mkdir(parents=True)
    recording = Recording(journals)
    for name, (key, values, _) in UNUSUAL.items():
        recording.stream(name, x=key).events(({"x": value} for value in values), name)
    for name, (seq_nums, _) in REPEATED.items():
        recording.stream(name, x=NUMBER)
        for place, seq_num in enumerate(seq_nums):
            recording.event(name, seq_num=seq_num, x=float(place))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return stored(recording.stop(), client)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_column(unusual: Any, name: str) -> None:
    _, values, expected = UNUSUAL[name]
    x = unusual[name].read()["x"].values
    np.testing.assert_array_equal(x, expected)
    wanted = np.asarray(expected).dtype
    assert x.dtype.kind == "U" if wanted.kind == "U" else x.dtype == wanted
    seq_nums = unusual.base[name].base["internal"].read(["seq_num"])["seq_num"]
    assert list(seq_nums) == list(range(1, len(values) + 1))


@pytest.mark.parametrize("name", REPEATED)
def test_last_event_of_a_seq_num_holds(unusual: Any, name: str) -> None:
    _, expected = REPEATED[name]
    table = unusual.base[name].base["internal"].read(["seq_num", "x"])
    assert dict(zip(table["seq_num"], table["x"], strict=True)) == expected
    assert list(table["seq_num"]) == sorted(expected)


def test_reserved_names(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", time=scalar("number"))
    recording.events([{"time": 5.0}, {"time": 6.0}])
    run = stored(recording.stop(), client)
    assert run["primary"].read()["time_"].values.tolist() == [5.0, 6.0]


def test_names_that_tables_cannot_have(journals: Path, client: Any) -> None:
    keys = ["T1(K)", "2theta", "_x", "a--b", "k" * 58, "k" * 59, "K" * 58, "µ" * 31]
    recording = Recording(journals).stream("primary", **dict.fromkeys(keys, NUMBER))
    recording.event(**{key: float(n) for n, key in enumerate(keys)})
    run = stored(recording.stop(), client)
    data = run["primary"].read()
    named = ["T1_K_", "x2theta", "x_x", "a_b", "k" * 58]
    assert [float(data[name][0]) for name in named] == [0.0, 1.0, 2.0, 3.0, 4.0]
    values = [float(data[name][0]) for name in data if name not in ("time", "seq_num")]
    assert sorted(values) == list(range(8))
    assert "primary/T1(K): stored as T1_K_: no column can have its name" in run.metadata["notes"]


@pytest.mark.parametrize("name", ["k" * 57, "k" + "µ" * 28, "kk" + "µ" * 40])
def test_long_names_that_become_one(name: str) -> None:
    keys = {name + end: {**NUMBER, "shape": [], "source": "x"} for end in "();=+'"}
    doc = {"uid": "d", "name": "primary", "data_keys": keys}
    line = DocumentNormalizer()(Line(1, "descriptor", doc))[-1]
    assert len(line.doc["data_keys"]) == 6
    # Of tiled's 63 bytes, ts_ takes three
    assert max(len(key.encode()) for key in line.doc["data_keys"]) <= 60


@pytest.mark.parametrize("name", ["time", "internal", "internal_2"])
def test_the_note_of_a_name_that_the_table_of_events_has(name: str) -> None:
    keys = {name: {**NUMBER, "shape": [], "source": "x"}}
    doc = {"uid": "d", "name": "primary", "data_keys": keys}
    note, descriptor = DocumentNormalizer()(Line(1, "descriptor", doc))
    assert [*descriptor.doc["data_keys"]] == [f"{name}_"]
    assert note.doc["text"] == f"primary/{name}: stored as {name}_: its name is taken"


def test_a_name_in_files_that_is_of_time_stamps() -> None:
    keys = {"ts_y": {"dtype": "number", "shape": [], "source": "x", "external": "STREAM:"}}
    normalizer = DocumentNormalizer()
    descriptor = {"uid": "d", "name": "ts_scan", "data_keys": keys}
    line = normalizer(Line(1, "descriptor", descriptor))[-1]
    assert (line.doc["name"], [*line.doc["data_keys"]]) == ("ts_scan", ["xts_y"])
    resource = {"uid": "r", "data_key": "ts_y", "mimetype": HDF5, "uri": "file://localhost/a.h5"}
    for each in (normalizer, DocumentNormalizer()):  # the descriptor may come later
        (line,) = each(Line(2, "stream_resource", {**resource, "parameters": {}}))
        assert line.doc["data_key"] == "xts_y"


def test_names_that_differ_in_case_alone(journals: Path, client: Any) -> None:
    keys = ("Time", "SEQ_NUM", "x", "X", "Ts_x")
    recording = Recording(journals).stream("primary", **dict.fromkeys(keys, NUMBER))
    recording.event(**{key: float(n) for n, key in enumerate(keys)})
    run = stored(recording.stop(), client)
    table = run.base["primary"].base["internal"].read()
    stored_as = ["Time_", "SEQ_NUM_", "x", "X_", "xTs_x"]
    assert table[stored_as].values.tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]]
    assert {"ts_x", "ts_X_", "ts_xTs_x"} <= set(table)
    assert "primary/X: stored as X_: its name is taken" in run.metadata["notes"]


def test_names_that_become_one(journals: Path, client: Any) -> None:
    """Their values, their types and the hints follow, in each descriptor of a stream."""
    recording = Recording(journals)
    keys = {
        key: {"source": "test", "dtype": "array", "shape": [2]} for key in ("a?b", "a_b", "time")
    }
    for stream, order in (("s/t", 1), ("s_t", 1), ("s/t", -1)):
        bundle = recording.run.compose_descriptor(
            name=stream,
            data_keys=dict(list(keys.items())[::order]),
            object_keys={"device": list(keys)},
            hints={"device": {"fields": ["a?b", "time"]}},
        )
        recording.journal("descriptor", bundle.descriptor_doc)
        data = {"a?b": np.array([1, 2], "<i2"), "a_b": np.array([3, 4], "|u1"), "time": [5, 6]}
        event = bundle.compose_event(data=data, timestamps=dict.fromkeys(data, 1e9), validate=False)
        recording.journal("event", event)
    run = stored(recording.stop(), client)
    assert list(run) == ["s_t", "s_t_"]
    assert run["s_t"].metadata["hints"] == {"device": {"fields": ["a_b_", "time_"]}}
    for stream, rows in (("s_t", 2), ("s_t_", 1)):
        values = {key: run[stream].base[key].read() for key in ("a_b", "a_b_", "time_")}
        assert values["a_b_"].tolist() == [[1, 2]] * rows
        assert values["a_b"].tolist() == [[3, 4]] * rows
        assert values["time_"].tolist() == [[5, 6]] * rows
        assert (values["a_b_"].dtype.str, values["a_b"].dtype.str) == ("<i2", "|u1")
    assert "s_t/a?b: stored as a_b_: its name is taken" in run.metadata["notes"]
    assert "s_t: stored as s_t_: its name is taken" in run.metadata["notes"]


def test_files_of_names_that_become_one(journals: Path, client: Any) -> None:
    recording = Recording(journals)
    key = scalar("integer", dtype_numpy="<i8", external="STREAM:")
    recording.stream("primary", **{"a?b": key, "a_b": key})
    with h5py.File(journals / f"{recording.uid}.h5", "w") as file:
        file["a?b"], file["a_b"] = [1, 2], [3, 4]
    for name in ("a?b", "a_b"):
        recording.file(name, journals / f"{recording.uid}.h5", (0, 2, 1), chunk_shape=[2])
    run = stored(recording.stop(), client)
    assert run["primary"].read()["a_b"].values.tolist() == [3, 4]
    assert run["primary"].read()["a_b_"].values.tolist() == [1, 2]


def test_names_of_tables_are_no_data_keys() -> None:
    names = ["internal", "internal_0", "internal_12", "internal_events", "TS_x"]
    stored = ["internal_", "internal_0_", "internal_12_", "internal_events", "xTS_x"]
    assert [*map(key_name, names)] == stored


@pytest.mark.parametrize(
    ("hints", "stored"),
    [
        (None, {}),
        (["time"], {}),
        ({"device": {}}, {"device": {}}),  # bluesky shows all keys of such a device
        ({"device": None}, {"device": None}),
        ({"device": {"fields": None}}, {"device": {"fields": None}}),
        ({"device": {"fields": ["time", ["time"]]}}, {"device": {"fields": ["time_"]}}),
    ],
)
def test_a_data_key_that_is_renamed_has_its_values_and_times(hints: Any, stored: Any) -> None:
    normalizer = DocumentNormalizer()
    keys = {"time": {**NUMBER, "shape": [], "source": "x"}}
    doc = {"uid": "d", "name": "primary", "data_keys": keys, "hints": hints}
    line = normalizer(Line(1, "descriptor", doc))[-1]
    assert (line.name, [*line.doc["data_keys"]]) == ("descriptor", ["time_"])
    assert line.doc["hints"] == stored
    event = {"descriptor": "d", "seq_num": 1, "time": 1.0}
    event |= {"data": {"time": 2.0}, "timestamps": {"time": 3.0}}
    (line,) = normalizer(Line(2, "event", event))
    assert (line.doc["data"], line.doc["timestamps"]) == ({"time_": 2.0}, {"time_": 3.0})


def test_a_kind_of_document_that_nobody_knows_is_a_broken_line() -> None:
    (line,) = DocumentNormalizer()(Line(1, "bulk_events", {"uid": "b"}))
    assert (line.name, line.doc["error"][:18]) == ("", "bulk_events: not a")


def test_a_page_whose_data_are_a_list_is_a_broken_line() -> None:
    page = {"descriptor": "d", "uid": ["e"], "seq_num": [1], "time": [1.0], "timestamps": {}}
    (line,) = DocumentNormalizer()(Line(1, "event_page", page | {"data": [1]}))
    assert line.name == ""
    assert line.doc["error"].startswith("event_page: IndexError")


def test_many_broken_lines_take_no_time(journals: Path) -> None:
    contents = JournalContents()
    begin = time.process_time()
    for number in range(30_000):
        contents.note(f"line {number}")
    assert len(contents.notes) == 30_000
    assert time.process_time() - begin < 1.0


def run_writer(answer: dict[str, Any], **start: Any) -> tuple[RunWriter, list[dict[str, Any]]]:
    """Make a writer whose server gives `answer`; the list has what it is sent."""
    sent: list[dict[str, Any]] = []

    def post(_: Any, route: str, body: dict[str, Any]) -> dict[str, Any]:
        sent.append(body)
        return answer

    catalog: Any = SimpleNamespace(container_of=lambda _: None, post=post)
    return RunWriter(catalog, {"uid": "u", "time": 1.0, **start}), sent


def test_a_run_has_not_more_notes_than_people_read() -> None:
    writer, sent = run_writer({})
    writer.stop({}, [*(f"line {n}" for n in range(300)), "as a whole"], {"primary/x": "a reason"})
    notes = sent[0]["metadata"]["notes"]
    assert len(notes) == NOTES_MAX
    assert notes[0] == "line 0"
    assert "203 more notes" in notes[50]
    assert notes[-2:] == ["as a whole", "primary/x: tiled cannot read its files: a reason"]


def test_a_note_is_stored_once() -> None:
    writer, sent = run_writer({})
    writer.stop({}, ["a", "b", "a"])
    assert sent[0]["metadata"]["notes"] == ["a", "b"]


@pytest.mark.parametrize(
    ("own", "names"),
    [(None, []), (["XAS", {"name": "Own", "version": "2"}], ["XAS", "Own"])],
)
def test_a_run_has_its_own_specs_and_access_tags(own: Any, names: list[str]) -> None:
    writer, sent = run_writer({"refused": []}, tiled_specs=own, tiled_access_tags=["beamline"])
    hints = {"m": {"fields": ["x"]}}
    writer.descriptor({"name": "primary", "uid": "d", "run_start": "u", "hints": hints})
    writer.send()
    run, stream = sent[0]["nodes"]
    assert [spec["name"] for spec in run["specs"]] == [*names, "BlueskyRun"]
    assert run["access_tags"] == stream["access_tags"] == ["beamline"]
    assert run["metadata"] == {"start": {"uid": "u", "time": 1.0}}
    assert stream["metadata"] == {"uid": "d", "hints": hints}


def test_metadata_that_json_does_not_take_as_they_are() -> None:
    given = {1: -(2**53), "a": (2**53, [2**53 - 1, 1 - 2**53])}
    assert storable(given) == {"1": str(-(2**53)), "a": [str(2**53), [2**53 - 1, 1 - 2**53]]}


def test_a_table_of_events_that_the_server_refuses_is_named() -> None:
    refused = {"path": ["u", "primary", "internal"], "reason": "no tables here"}
    writer, _ = run_writer({"refused": [refused]})
    writer.descriptor({"name": "primary", "uid": "d"})
    with pytest.raises(DataError, match=r"primary/internal: .*no tables here"):
        writer.send()


def test_times_are_doubles_whatever_the_first_ones_are() -> None:
    """A table gets its types with its first rows."""
    stream = Stream("primary", "d", {"x": NUMBER})
    event = {"descriptor": "d", "seq_num": 1, "time": 1, "data": {"x": 1.0}, "timestamps": {"x": 2}}
    stream.add_event(1, event)
    row = as_row(stream, event)
    assert (type(row["time"]), type(row["ts_x"])) == (float, float)


def test_one_name_two_streams_two_types(journals: Path, client: Any) -> None:
    recording = Recording(journals)
    recording.stream("baseline", x=array([2])).stream("primary", x=array([2, 2]))
    recording.event("baseline", x=np.array([1, 2], "<u2"))
    recording.event("primary", x=np.full((2, 2), 0.5))
    recording.event("baseline", x=np.array([3, 4], "<u2"))
    run = stored(recording.stop(), client)
    baseline, primary = run["baseline"].read()["x"].values, run["primary"].read()["x"].values
    assert (baseline.dtype.str, primary.dtype.str) == ("<u2", "<f8")
    np.testing.assert_array_equal(baseline, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(primary, [np.full((2, 2), 0.5)])


def test_stream_without_events(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"), y=array([3]))
    run = stored(recording.stop(), client)
    assert list(run) == ["primary"]


def test_run_without_streams(journals: Path, client: Any) -> None:
    run = stored(Recording(journals).stop(), client)
    assert run.metadata["stop"]["exit_status"] == "success"


def test_many_columns(journals: Path, client: Any) -> None:
    """Tables of more than 1024 columns are split by the writer."""
    keys = {f"x{i}": scalar("number") for i in range(600)}
    recording = Recording(journals).stream("primary", **keys)
    recording.events(dict.fromkeys(keys, float(i)) for i in range(3))
    run = stored(recording.stop(), client)
    assert run["primary"].read(["x599"])["x599"].values.tolist() == [0.0, 1.0, 2.0]
    events = [doc["data"] for name, doc in run.documents() if name == "event"]
    assert events == [dict.fromkeys(keys, float(i)) for i in range(3)]


def test_numbers_in_metadata_are_not_clipped(journals: Path, client: Any) -> None:
    """The stock writer makes 2**53 - 1 of a photon flux of 6e23 and of a time in ns."""
    metadata = {"flux": 6.022e23, "ns": 1_700_000_000_123_456_789, "bits": 2**70}
    run = stored(Recording(journals, **metadata).stop(), client)
    start = run.metadata["start"]
    assert start["flux"] == 6.022e23
    assert (start["ns"], start["bits"]) == (str(metadata["ns"]), str(2**70))


def test_numbers_in_configuration_are_not_clipped(journals: Path, client: Any) -> None:
    recording = Recording(journals)
    keys = {"x": {"source": "test", "shape": [], "dtype": "number"}}
    data = {"data": {"x": 1e20}, "timestamps": {"x": 1e9}, "data_keys": keys}
    for _ in range(2):  # the second one is an update
        bundle = recording.run.compose_descriptor(
            name="primary",
            data_keys=keys,
            object_keys={"device": ["x"]},
            configuration={"device": data},
        )
        recording.journal("descriptor", bundle.descriptor_doc)
    run = stored(recording.stop(), client)
    metadata = run["primary"].metadata
    assert metadata["configuration"]["device"]["data"]["x"] == 1e20
    assert metadata["_config_updates"][0]["configuration"]["device"]["data"]["x"] == 1e20


def test_objects_in_metadata(journals: Path, client: Any) -> None:
    metadata = {"path": Path("/data"), "array": np.arange(3), "one": np.float32(0.5), "set": {1}}
    start = stored(Recording(journals, **metadata).stop(), client).metadata["start"]
    assert start["path"] == "/data"
    assert (start["array"], start["one"], start["set"]) == ([0, 1, 2], 0.5, [1])


def test_event_pages(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"))
    uid = recording.streams["primary"].descriptor_doc["uid"]
    page = {
        "descriptor": uid,
        "uid": ["a", "b"],
        "seq_num": [1, 2],
        "time": [1.0, 2.0],
        "data": {"x": [5.0, 6.0]},
        "timestamps": {"x": [1.0, 2.0]},
        "filled": {},
    }
    recording.journal("event_page", page)
    run = stored(recording.stop(), client)
    assert run["primary"].read()["x"].values.tolist() == [5.0, 6.0]


def test_a_value_that_cannot_be_stored_takes_its_event_only(journals: Path, client: Any) -> None:
    """An event of a page is left out, neither the others of its line nor those that follow."""
    deep: Any = 2.0
    for _ in range(70):
        deep = [deep]
    recording = Recording(journals).stream("primary", x=scalar("number"))
    page = {
        "descriptor": recording.streams["primary"].descriptor_doc["uid"],
        "uid": ["a", "b", "c"],
        "seq_num": [1, 2, 3],
        "time": [1.0, 2.0, 3.0],
        "data": {"x": [1.0, deep, 3.0]},
        "timestamps": {"x": [1.0, 2.0, 3.0]},
        "filled": {},
    }
    recording.journal("event_page", page)
    recording.event(seq_num=4, x=4.0)
    recording.event(seq_num=5, x=deep)
    run = stored(recording.stop(), client)
    assert run["primary"].read()["x"].values.tolist() == [1.0, 3.0, 4.0]
    assert "line 3 of the journal, event: not understood" in run.metadata["notes"][0]


def test_a_line_with_any_error_costs_no_line_after_it(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"), y=array([2]))
    recording.event(x=1.0, y=[1.0, 2.0])
    with recording.path.open("a") as file:
        file.write('["event", {"data": ' + "[" * 100_000 + "\n")
    ragged: Any = 0.0
    for _ in range(50):
        ragged = [ragged, 0.0]
    recording.event(x=2.0, y=ragged)  # filled up, it has 2**50 elements
    recording.event(x=3.0, y=[3.0, 4.0])
    run = stored(recording.stop(), client)
    assert run["primary"].read()["x"].values.tolist() == [1.0, 3.0]
    notes = "\n".join(run.metadata["notes"])
    assert "line 4 of the journal is broken: maximum recursion depth" in notes
    assert "line 5 of the journal, event: not understood" in notes


def test_broken_lines_are_left_out_and_told(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"))
    recording.event(x=1.0)
    with recording.path.open("a") as file:
        file.write('["event", {"half": \n["event", {"descriptor": "nobody"}]\n\x00\x00\n')
        file.write("5\nnull\n")
        no_data_key = {"name": "odd", "uid": "odd", "data_keys": {"x": 5}}
        file.write(json.dumps(["descriptor", no_data_key]) + "\n")
        known = {"descriptor": recording.streams["primary"].descriptor_doc["uid"], "time": 1.0}
        odd = {"seq_num": 3, "data": {"x": 9.0}, "timestamps": {"x": 1.0}}
        for lack in (
            {"data": {"x": 9.0}, "timestamps": {"x": 1.0}},
            {"seq_num": 2},
            odd | {"timestamps": {"x": "12:00:01"}},
            odd | {"timestamps": {"x": [1.0]}},
            odd | {"time": "noon"},
            odd | {"time": 10**400},
        ):
            file.write(json.dumps(["event", known | lack]) + "\n")
    recording.event(x=2.0)
    run = stored(recording.stop(), client)
    assert run["primary"].read()["x"].values.tolist() == [1.0, 2.0]
    notes = "\n".join(run.metadata["notes"])
    assert all(f"line {number} " in notes for number in range(4, 16))


def test_files_that_tiled_cannot_show_are_told(journals: Path, client: Any) -> None:
    recording = Recording(journals)
    recording.stream("primary", x=array([None, 3], external="STREAM:"), y=scalar("number"))
    recording.file("x", Path("/nowhere.h5"), (0, 1, 1))
    recording.event(y=1.0)
    path = recording.stop()
    run = stored(path, client)
    assert run["primary"].read()["y"].values.tolist() == [1.0]
    (reason,) = run.metadata["unreadable_files"].values()
    note = f"primary/x: tiled cannot read its files: {reason}"
    assert note in run.metadata["notes"]
    assert [each for each in read_contents(run).notes if "primary/x" in each] == [note]
    contents = JournalContents()
    for line in read_lines(journals / "done" / path.name):
        contents.add(line)
    assert differences(contents, run) == []
    run.update_metadata({"unreadable_files": {"primary/x": DELETE_KEY, "y": "anything"}})
    assert differences(contents, client["raw"][path.stem]) == ["primary: x is missing"]


def test_a_number_that_comes_twice_on_one_line_ends(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"))
    page = {
        "descriptor": recording.streams["primary"].descriptor_doc["uid"],
        "uid": ["a", "b"],
        "seq_num": [1, 1],
        "time": [1.0, 2.0],
        "data": {"x": [5.0, 6.0]},
        "timestamps": {"x": [1.0, 2.0]},
        "filled": {},
    }
    recording.journal("event_page", page)
    run = stored(recording.stop(), client)
    assert len(run["primary"].read()["x"]) == 1


def test_names_of_our_own_columns_and_nodes(journals: Path, client: Any) -> None:
    arrays = {"internal": array([2]), "internal_events": array([1])}
    keys = {"x": scalar("number"), "ts_x": scalar("number"), **arrays}
    recording = Recording(journals).stream("primary", **keys)
    recording.event(x=1.0, ts_x=2.0, internal=[3, 4], internal_events=[5])
    run = stored(recording.stop(), client)
    # Clients take columns whose names begin with ts_ for time stamps
    names = {"x", "xts_x", "internal_", "internal_events"}
    assert "primary/ts_x: stored as xts_x: no column can have its name" in run.metadata["notes"]
    (event,) = [doc for name, doc in run.documents() if name == "event"]
    assert event["data"] == {"x": 1.0, "xts_x": 2.0, "internal_": [3, 4], "internal_events": [5]}
    assert event["timestamps"] == dict.fromkeys(names, 1e9)
    assert set(run["primary"].read()) == names
    stream = run["primary"].base
    events = stream["internal"].read()  # where the clients of databroker look for it
    assert events[["x", "ts_x", "xts_x"]].values.tolist() == [[1.0, 1e9, 2.0]]
    assert stream["internal_"].read().tolist() == [[3, 4]]
    assert run.v2["primary"].read()["internal_"].values.tolist() == [[3, 4]]
    (contents,) = read_contents(run).streams
    assert {column.name for column in contents.columns} == {*names, "time", "seq_num"}
    assert set(contents.timestamps) == names


@pytest.mark.parametrize("live", [False, True], ids=["ended", "live"])
def test_two_resources_of_one_file(journals: Path, client: Any, live: bool) -> None:
    """Documents of older programs: each descriptor of a stream has its own, of the same file."""
    recording = Recording(journals)
    path = journals / f"{recording.uid}.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(6, dtype="<i4")
        file["image"] = np.arange(6 * 4, dtype="<u2").reshape(6, 2, 2)
    image = {"dtype": "array", "shape": [1, 2, 2], "dtype_numpy": "<u2", "external": "STREAM:"}
    column = scalar("integer", dtype_numpy="<i4", external="STREAM:")
    recording.stream("primary", x=column, image=image)
    follower = RunIngest(recording.path, CatalogServer(client))
    for first in (0, 3):
        for key in ("x", "image"):
            recording.file(key, path, (first, first + 3, first + 1), chunk_shape=[1])
        if live:
            follower.step()
    recording.stop()
    while (state := follower.step()) is IngestState.MORE:
        pass
    assert state is IngestState.DONE
    rows = client["raw"][recording.uid]["primary"].read()
    assert rows["x"].values.tolist() == list(range(6))
    assert rows["image"].values[:, 0, 0, 0].tolist() == list(range(0, 24, 4))


def test_an_unreadable_file_of_one_stream_is_not_one_of_another(
    journals: Path, client: Any
) -> None:
    recording = Recording(journals)
    for name, shape in (("primary", [None, 3]), ("dark", [1, 3])):
        recording.stream(name, x=array(shape, external="STREAM:", dtype_numpy="<f8"))
        path = journals / f"{recording.uid}-{name}.h5"
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros((1, 3))
        recording.file("x", path, (0, 1, 1), stream=name, chunk_shape=[1, 3])
    run = stored(recording.stop(), client)
    assert run.metadata["unreadable_files"].keys() == {"primary/x"}
    assert "x" in run["dark"].base


def test_names_that_are_no_addresses(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("a/b?", **{"x?y": array([2]), "z#1": scalar("number")})
    recording.event("a/b?", **{"x?y": [1, 2], "z#1": 3.0})
    run = stored(recording.stop(), client)
    assert run["a_b_"].read()["x_y"].values.tolist() == [[1, 2]]
    assert run["a_b_"].read()["z_1"].values.tolist() == [3.0]


def test_run_that_cannot_be_written_does_not_stop_others(journals: Path, client: Any) -> None:
    path = Recording(journals, tiled_specs=[5]).stop()
    assert ingest(path, client) is IngestState.ASIDE
    assert (journals / "aside" / path.name).exists()
    metadata = client["raw"][path.stem].metadata
    assert metadata["stop"]["run_start"] == path.stem
    assert "cannot be written" in metadata["notes"][-1]
    good = Recording(journals).stream("primary", x=NUMBER)
    good.event(x=1.0)
    run = stored(good.stop(), client)
    assert run["primary"].read()["x"].values.tolist() == [1.0]


def test_file_that_is_no_journal_is_put_aside(journals: Path, client: Any) -> None:
    path = journals / "notes.jsonl"
    path.write_text("to do\n")
    assert ingest(path, client) is IngestState.ASIDE
    assert (journals / "aside" / path.name).read_text() == "to do\n"


def test_a_journal_with_an_absurd_time_has_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(["start", {"uid": "a", "time": 10**400}]) + "\n")
    assert start_time(path) == path.stat().st_mtime
