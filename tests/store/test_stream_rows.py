"""Rows of columns out of tables with several partitions, and what they cost in requests."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from store.recording import Recording, scalar
from store.test_file_tables import FileRun, counted

from skywright.errors import DataError
from skywright.store.ingest import IngestState, RunIngest, ingest
from skywright.store.run_nodes import CatalogServer
from skywright.store.stream_rows import StreamRows

COLUMNS = 30


@pytest.fixture
def run(journals: Path, monkeypatch: pytest.MonkeyPatch) -> FileRun:
    """A run whose partitions have eight rows."""
    monkeypatch.setattr("skywright.store.file_nodes.PARTITION_BYTES", 8 * (8 * COLUMNS + 16))
    return FileRun(journals, COLUMNS)


def test_all_columns_of_a_page_are_few_requests(run: FileRun, client: Any) -> None:
    run.append(200)
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    stored = client["raw"][run.recording.uid]
    with counted(client) as requests:
        rows = StreamRows(stored["primary"])
        assert {*run.names, "tag", "identity"} <= set(rows.keys)
        whole = rows.whole(["identity"])["identity"]
        before = len(requests)
        page = rows.take(rows.keys, np.array([3, 6, 16, 18, 23]))
        of_page = len(requests) - before
    assert whole.tolist() == list(range(200))
    assert of_page == 2, requests  # two partitions of 25
    assert page["c29"].tolist() == [3.5, 6.5, 16.5, 18.5, 23.5]
    assert page["tag"].tolist() == [b"abc"] * 5
    assert page["tag"].dtype == "S8"
    assert before == 2 + 25, requests  # the stream, its parts, and each partition
    last = StreamRows(stored["primary"]).take(["c0", "tag"], np.array([199]))
    assert last["c0"].tolist() == [199.5]
    none = rows.take(["c0", "tag"], np.array([], np.int64))
    assert [none[key].shape for key in ("c0", "tag")] == [(0,), (0,)]


def test_a_table_that_grows_between_two_reads(run: FileRun, client: Any) -> None:
    follower = RunIngest(run.recording.path, CatalogServer(client))
    run.append(5)
    run.tell()
    follower.step()
    run.append(10)  # in the open partition; no document tells of them
    rows = StreamRows(client["raw"][run.recording.uid]["primary"])
    assert len(rows.whole(["identity"])["identity"]) == 15
    run.append(20)
    assert rows.take(["c1"], np.array([34]))["c1"].tolist() == [34.5]  # longer by now
    rows.whole(["identity"])
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE  # the partition has eight rows now
    found = rows.take(["c1", "tag"], np.array([0, 8]))
    assert found["c1"].tolist() == [0.5, 8.5]
    assert rows.take(["c1"], np.array([34]))["c1"].tolist() == [34.5]


def test_columns_of_events_are_asked_for_in_any_order(journals: Path, client: Any) -> None:
    recording = Recording(journals).stream("primary", x=scalar("number"), s=scalar("string"))
    for x in (0.5, 1.5, 2.5):
        recording.event(x=x, s=f"at {x}")
    assert ingest(recording.stop(), client) is IngestState.DONE
    rows = StreamRows(client["raw"][recording.uid]["primary"])
    for keys in (["s", "time", "x"], ["x", "s", "seq_num"], ["time", "x", "s"]):
        assert list(rows.whole(keys)) == keys
        found = rows.take(keys, np.array([0, 2]))
        assert found["x"].tolist() == [0.5, 2.5]
        assert found["s"].tolist() == ["at 0.5", "at 2.5"]


def test_columns_that_are_longer_than_others_are_cut() -> None:
    arrays = {"a": np.arange(3), "b": np.arange(5)}
    base = {
        key: SimpleNamespace(structure_family="array", read=values.copy)
        for key, values in arrays.items()
    }
    stream = SimpleNamespace(base=base, metadata={})
    whole = StreamRows(stream).whole(["a", "b"])
    assert [whole[key].tolist() for key in arrays] == [[0, 1, 2]] * 2


def test_what_is_not_there_is_named(run: FileRun, client: Any) -> None:
    run.append(4)
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    rows = StreamRows(client["raw"][run.recording.uid]["primary"])
    with pytest.raises(DataError, match="no column c99"):
        rows.whole(["c0", "c99"])
    with pytest.raises(DataError, match="no row 4"):
        rows.take(["c0"], np.array([2, 4]))


def test_columns_without_a_table_are_arrays(
    run: FileRun, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiled server without our adapter has an array of each column."""
    monkeypatch.setattr("skywright.store.file_nodes._is_column", lambda *_: False)
    run.append(20)
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    rows = StreamRows(client["raw"][run.recording.uid]["primary"])
    assert rows.whole(["c0", "tag"])["c0"].tolist() == [n + 0.5 for n in range(20)]
    found = rows.take(["c1", "tag"], np.array([2, 19]))
    assert found["c1"].tolist() == [2.5, 19.5]
    assert found["tag"].tolist() == [b"abc"] * 2
    assert len(rows.take(["c1"], np.array([], np.int64))["c1"]) == 0
    with pytest.raises(DataError, match="no row 20"):
        rows.take(["c1"], np.array([2, 20]))


def test_texts_that_are_no_ascii(journals: Path, client: Any) -> None:
    run = FileRun(journals, 1)
    texts = ["Zürich".encode(), b"", "µ".encode()]
    numbers = np.arange(3)
    run.writer.append(numbers, {"/entry/c0": numbers, "/entry/tag": np.array(texts, "S8")})
    run.writer.flush()
    run.rows = 3
    run.tell()
    assert ingest(run.stop(), client) is IngestState.DONE
    stream = client["raw"][run.recording.uid]["primary"]
    assert StreamRows(stream).whole(["tag"])["tag"].tolist() == texts
    assert stream.read()["tag"].values.tolist() == texts
