"""What differs between a run in the catalog and its journal, without a server."""

from types import SimpleNamespace
from typing import Any

import pytest

from skywright.files.readers import HDF5
from skywright.store.check import differences
from skywright.store.file_nodes import VIRTUAL_DATASET
from skywright.store.journal_contents import JournalContents, datum_fields
from skywright.store.table_adapter import MIMETYPE
from skywright.store.tail import Line

FILE_KEYS = ("image", "z")


def journal(rows: int = 2, again: bool = False) -> JournalContents:
    """Return a run of two events with an array, an image and a column of a file.

    With `again`, the first row of the file was taken again.
    """
    keys = {
        "x": {"dtype": "number", "shape": []},
        "a": {"dtype": "array", "shape": [2]},
        "image": {"dtype": "array", "shape": [2, 2], "external": "STREAM:"},
        "z": {"dtype": "number", "shape": [], "external": "STREAM:"},
    }
    lines: list[tuple[str, dict[str, Any]]] = [
        ("start", {"uid": "u", "time": 0.0}),
        ("descriptor", {"uid": "d", "name": "primary", "data_keys": keys}),
    ]
    for key in FILE_KEYS:
        lines.append(("stream_resource", {"uid": key, "data_key": key, "uri": "file:///a.h5"}))
        for index, seq_num in [(0, 1), (1, 1), (2, 2)] if again else [(0, 1), (1, 2)]:
            datum = {"descriptor": "d", **datum_fields(key, index, seq_num, 1)}
            lines.append(("stream_datum", datum))
    for seq_num in range(1, rows + 1):
        event = {"descriptor": "d", "seq_num": seq_num, "time": 1.0, "timestamps": {}}
        lines.append(("event", event | {"data": {"x": 0.5, "a": [1, 2]}}))
    lines.append(("stop", {"uid": "s"}))
    contents = JournalContents()
    for number, line in enumerate(lines, 1):
        contents.add(Line(number, *line))
    assert not contents.notes
    return contents


def events(*seq_nums: int) -> Any:
    columns = {"seq_num": list(seq_nums), "x": []}
    return SimpleNamespace(structure_family="table", columns=[*columns], read=lambda _: columns)


def array(rows: int, **parameters: Any) -> Any:
    source = SimpleNamespace(mimetype=HDF5, parameters={"dataset": "/x", **parameters})
    return SimpleNamespace(structure_family="array", shape=(rows, 2), data_sources=lambda: [source])


def column(stop: int | None, mimetype: str = MIMETYPE) -> Any:
    source = SimpleNamespace(mimetype=mimetype, parameters={"segments": [[0, 0, stop]]})
    return SimpleNamespace(structure_family="table", columns=["z"], data_sources=lambda: [source])


def run(metadata: Any = None, streams: tuple[str, ...] = ("primary",), **parts: Any) -> Any:
    """Return the run in the catalog; a part that is None is not there."""
    whole = {"internal": events(1, 2), "a": array(2), "image": array(2), "columns": column(2)}
    nodes = {key: node for key, node in (whole | parts).items() if node is not None}
    base = {name: SimpleNamespace(base=nodes) for name in streams}
    stored = SimpleNamespace(metadata=metadata or {"stop": {"uid": "s"}}, base=base)
    stored.include_data_sources = lambda: stored
    return stored


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (run(), []),
        (run(metadata={"start": {}}), ["the stop document is missing"]),
        (
            run(metadata={"stop": {"uid": "of an earlier end"}}),
            ["the stop document is another one"],
        ),
        (run(streams=("primary", "other")), ["stream other is not in the journal"]),
        (run(streams=()), ["stream primary is missing"]),
        (run(internal=events(1)), ["primary: 1 rows, 2 events; the first to differ is row 1"]),
        (run(internal=events(1, 3)), ["primary: 2 rows, 2 events; the first to differ is row 1"]),
        (run(internal=None), ["primary: 0 rows, 2 events; the first to differ is row 0"]),
        (run(a=None), ["primary: a is missing"]),
        (run(a=array(3)), ["primary: a has 3 rows instead of 2"]),
        (run(image=array(1)), ["primary: image has 1 rows instead of 2"]),
        (run(image=None), ["primary: image is missing"]),
        (run(columns=column(1)), ["primary: z has 1 rows instead of 2"]),
        (run(columns=column(None)), ["primary: z: its number of rows is not fixed, expected 2"]),
        (run(columns=None), ["primary: z is missing"]),
    ],
)
def test_each_difference_is_one_sentence(stored: Any, found: list[str]) -> None:
    assert differences(journal(), stored) == found


def test_a_run_without_events_has_no_arrays() -> None:
    stored = run(internal=None, a=None, image=None, columns=None)
    assert differences(journal(rows=0), stored) == []


@pytest.mark.parametrize(
    ("parameters", "is_wrong"),
    [({}, True), ({"dataset": VIRTUAL_DATASET}, False), ({"slice": "1:3"}, True)],
)
def test_rows_that_were_taken_again_are_not_the_first_ones_of_the_file(
    parameters: dict[str, Any], is_wrong: bool
) -> None:
    found = differences(journal(again=True), run(image=array(2, **parameters)))
    assert found == ["primary: image has the rows of other seq_nums"] * is_wrong
