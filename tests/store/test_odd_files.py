"""Files that no reader takes, or whose reader fails: the run is stored, and others too."""

import errno
import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.recording import Recording, array, scalar
from tiled.utils import path_from_uri

from skywright.callbacks.journal import encode_line
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.errors import DataError
from skywright.files.readers import first_row
from skywright.store import repair, stored_run
from skywright.store.check import differences
from skywright.store.export.contents import Asset, AssetRows, Column, RunContents, Stream
from skywright.store.file_nodes import VIRTUAL_DATASET, data_sources, rows_in_files
from skywright.store.ingest import IngestState, ingest
from skywright.store.journal_contents import JournalContents
from skywright.store.recover import contents_of, recover
from skywright.store.rows import stored_data_keys
from skywright.store.tail import read_lines


def with_file(
    journals: Path,
    uri: str,
    key: dict[str, Any],
    mimetype: str = "application/x-hdf5",
    rows: int = 2,
    first: int = 1,
    **parameters: Any,
) -> Recording:
    """Record a run with two rows of a file, or more, and two events, from seq_num `first` on."""
    recording = Recording(journals)
    recording.stream("primary", x={**key, "external": "STREAM:"}, y=scalar("number"))
    recording.file("x", uri, (0, rows, 1), mimetype=mimetype, **parameters)
    for seq_num in (first, first + 1):
        recording.event(seq_num=seq_num, y=float(seq_num))
    return recording


def hdf5(path: Path, values: Any) -> str:
    with h5py.File(path, "w") as file:
        file["x"] = values
    return f"file://localhost{path}"


@pytest.mark.parametrize("shape", [[], [0, 0]])
def test_pictures_without_a_shape(tmp_path: Path, shape: list[int]) -> None:
    uri = f"file://localhost{tmp_path}/"
    recording = with_file(tmp_path, uri, array(shape), "multipart/related;type=image/tiff")
    contents = contents_of(recording.path)
    contents.stop = {}
    stream = contents.streams["primary"]
    sources = data_sources(stream, contents, stored_data_keys(stream), tmp_path, tables=True)
    assert [(key, type(source)) for key, source in sources] == [("x", DataError)]


@pytest.mark.parametrize("why", ["no shape", "consolidator"])
def test_a_file_that_no_node_can_show_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("skywright.store.file_nodes.consolidator_factory", fail)
    key = array([1, 3], dtype_numpy="|u1")
    contents = contents_of(with_file(tmp_path, "file://localhost/f.h5", key).path)
    contents.stop = {}
    stream = contents.streams["primary"]
    if why == "no shape":
        del stream.data_keys["x"]["shape"]
    ((_, source),) = data_sources(stream, contents, stored_data_keys(stream), tmp_path, tables=True)
    reason = "KeyError" if why == "no shape" else "AssertionError"
    assert str(source).startswith(reason)


def test_a_virtual_file_of_a_long_data_key(tmp_path: Path) -> None:
    name = "é" * 120
    recording = Recording(tmp_path)
    key = array([1, 2], dtype_numpy="<f8", external="STREAM:")
    recording.stream("primary", **{name: key})
    uri = hdf5(tmp_path / "f.h5", np.arange(8.0).reshape(4, 2))
    recording.file(name, uri, (2, 4, 1), dataset="x", chunk_shape=[1, 2])
    source = source_of(recording.path, tmp_path)
    assert not isinstance(source, DataError)
    with h5py.File(path_from_uri(source.assets[0].data_uri)) as virtual:
        assert virtual[VIRTUAL_DATASET][:, 0].tolist() == [4.0, 6.0]


@pytest.mark.parametrize("uri", ["s3://bucket/file.h5", "nonsense"])
@pytest.mark.parametrize("ended", [True, False])
def test_no_file_of_this_machine(journals: Path, client: Any, uri: str, ended: bool) -> None:
    recording = with_file(journals, uri, array([None, 3]))
    if ended:
        recording.stop()
    recording.journal.close()
    assert ingest(recording.path, client) is IngestState.DONE
    run = client["raw"][recording.uid]
    assert run["primary"].read()["y"].values.tolist() == [1.0, 2.0]
    assert recover(journals.parent, client).changes == 0


@pytest.mark.parametrize("values", [3.0, {}])
def test_dataset_without_rows(journals: Path, client: Any, values: Any) -> None:
    path = journals / "odd.h5"
    if values == {}:
        with h5py.File(path, "w") as file:
            file.create_group("x")
    else:
        hdf5(path, values)
    recording = with_file(journals, f"file://localhost{path}", scalar("number", dtype_numpy="<f8"))
    recording.journal.close()
    assert ingest(recording.path, client) is IngestState.DONE


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (scalar("string"), np.array([b"one", b"two"])),
        (scalar("string", dtype_numpy="|S3"), np.array([b"one", b"two"])),
        (scalar("integer"), np.array([2**60 + 1, 2**60 + 3])),
        (scalar("integer", dtype_numpy="<i8"), np.array([2**60 + 1, 2**60 + 3])),
        (scalar("number", dtype_numpy="<i8"), np.array([2**60 + 1, 2**60 + 3])),
        (scalar("boolean"), np.array([True, False])),
    ],
)
def test_columns_come_back_as_they_are(journals: Path, client: Any, key: Any, values: Any) -> None:
    recording = with_file(journals, hdf5(journals / "f.h5", values), key)
    assert ingest(recording.stop(), client) is IngestState.DONE
    run = client["raw"][recording.uid]
    read = run["primary"].read()["x"].values, run["primary"]["x"].read()
    for each in read:
        np.testing.assert_array_equal(each.astype(values.dtype), values)


@pytest.mark.parametrize("left_out", [1, 3])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_the_row_of_an_event_that_is_left_out_is_left_out(
    journals: Path, client: Any, shape: tuple[int, ...], left_out: int
) -> None:
    values = np.arange(4 * math.prod(shape), dtype="<u2").reshape(4, *shape)
    promised = {"dtype_numpy": "<u2"}
    key = array([*shape], **promised) if shape else scalar("integer", **promised)
    first = 2 if left_out == 1 else 1
    recording = with_file(journals, hdf5(journals / "f.h5", values), key, rows=4, first=first)
    recording.event(seq_num=4, y=4.0)  # another one was not understood
    journal = recording.stop()
    contents = contents_of(journal)
    assert ingest(journal, client) is IngestState.DONE
    run = client["raw"][recording.uid]
    read = run["primary"].read()
    seq_nums = [number for number in range(1, 5) if number != left_out]
    np.testing.assert_array_equal(read["x"].values, values[[number - 1 for number in seq_nums]])
    assert read["y"].values.tolist() == seq_nums
    assert differences(contents, run) == []


def test_documents_of_the_catalog_leave_out_files_of_another_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are fewer frames than events, and no frame is asked for."""

    def refuse(rows: slice) -> Any:
        raise AssertionError("frames are read")

    number, x = np.array([1, 2]), np.array([0.5, 1.5])
    image = Column("image", (1, 2, 3), np.dtype("|u1"), {"external": "STREAM:"}, refuse)
    columns = (
        Column("seq_num", (2,), number.dtype, {}, number.__getitem__),
        Column("x", (2,), x.dtype, {}, x.__getitem__),
        image,
    )
    stream = Stream("primary", {"uid": "d"}, columns, {})
    run = RunContents({"uid": "u"}, None, "unfinished", (stream,), ())
    monkeypatch.setattr(stored_run, "read_contents", lambda _: run)
    documents: Any = list(stored_run.catalog_documents(None))
    assert [doc["data"] for name, doc in documents if name == "event"] == [{"x": 0.5}, {"x": 1.5}]


def test_documents_of_the_catalog_keep_the_seq_nums_of_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events 2, 4 and 7 are lost; there is no frame of event 7."""
    numbers = np.array([1, 3, 5, 6, 8])
    asset = Asset(Path("/a.h5"), "x")
    parts = (AssetRows(asset, 0, 1), AssetRows(asset, 2, 3), AssetRows(asset, 4, 7))
    image = Column(
        "image", (5, 2, 3), np.dtype("|u1"), {"external": "STREAM:"}, numbers.__getitem__, parts
    )
    columns = (Column("seq_num", (5,), numbers.dtype, {}, numbers.__getitem__), image)
    stream = Stream("primary", {"uid": "d"}, columns, {})
    run = RunContents({"uid": "u"}, None, "unfinished", (stream,), ())
    monkeypatch.setattr(stored_run, "read_contents", lambda _: run)
    documents: Any = list(stored_run.catalog_documents(None))
    found = [(doc["seq_nums"], doc["indices"]) for name, doc in documents if name == "stream_datum"]
    assert found == [
        ({"start": 1, "stop": 2}, {"start": 0, "stop": 1}),
        ({"start": 3, "stop": 4}, {"start": 2, "stop": 3}),
        ({"start": 5, "stop": 7}, {"start": 4, "stop": 6}),
        ({"start": 8, "stop": 9}, {"start": 6, "stop": 7}),
    ]


def closed(recording: Recording) -> JournalContents:
    """Close a run whose writer has died; return the contents of its journal."""
    recording.journal.close()
    path = recording.path
    assert repair.close_interrupted_run(path, path.stat().st_size, contents_of(path))
    return contents_of(path)


def abandoned(journals: Path) -> Path:
    """Leave the journal of a dead writer: ten frames are on disk, two have an event."""
    uri = hdf5(journals / "f.h5", np.arange(10.0))
    recording = with_file(journals, uri, scalar("number", dtype_numpy="<f8"))
    recording.journal.close()
    return recording.path


def test_the_ingester_may_be_killed_while_it_closes_a_run(tmp_path: Path) -> None:
    path = abandoned(tmp_path)
    size = path.stat().st_size
    assert repair.close_interrupted_run(path, size, contents_of(path))
    lines = list(read_lines(path))
    late = contents_of(path).streams["primary_after_last_event"].external_rows["x"]
    assert sum(rows.count for rows in late.segments) == 8
    closing = [line for line in lines if "last_event" in str(line.doc)]
    for whole in range(len(closing)):
        os.truncate(path, size)
        with path.open("ab") as file:
            file.writelines(encode_line(line.name, line.doc) for line in closing[:whole])
        assert repair.close_interrupted_run(path, path.stat().st_size, contents_of(path))
        again = list(read_lines(path))
        assert again[:-1] == lines[:-1]
        assert again[-1].doc["num_events"] == lines[-1].doc["num_events"]


def test_rows_of_a_file_in_two_streams_are_counted_once(tmp_path: Path) -> None:
    """Each stream has a stream resource of the file; seven of ten rows have no event."""
    key = {**scalar("number", dtype_numpy="<f8"), "external": "STREAM:"}
    uri = hdf5(tmp_path / "f.h5", np.arange(10.0))
    recording = with_file(tmp_path, uri, key)
    recording.stream("dark", x=key, y=scalar("number"))
    recording.file("x", uri, (2, 3, 1), stream="dark")
    recording.event("dark", y=3.0)
    streams = closed(recording).streams.values()
    (late,) = (stream for stream in streams if stream.name.endswith(repair.LATE))
    assert (late.name, sum(rows.count for rows in late.catalog_rows("x"))) == (
        f"dark{repair.LATE}",
        7,
    )


@pytest.mark.parametrize("dtype", ["number", "array"])
def test_files_of_one_key_may_have_their_rows_at_different_places(
    tmp_path: Path, dtype: str
) -> None:
    shape = [2] if dtype == "array" else []
    recording = Recording(tmp_path)
    key = {"dtype": dtype, "shape": shape, "dtype_numpy": "<f8", "external": "STREAM:"}
    recording.stream("primary", x=key)
    for number, name in enumerate("ab"):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file[name] = np.full((2, *shape), number, "<f8")
        recording.file("x", path, (2 * number, 2 * number + 2, 2 * number + 1), dataset=name)
    source = source_of(recording.path, tmp_path)
    assert not isinstance(source, DataError)
    assert source.structure.shape == (4, *shape)
    with h5py.File(path_from_uri(source.assets[0].data_uri)) as file:
        rows = file[source.parameters["dataset"]][:]
    assert rows.reshape(4, -1)[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_table_has_the_dataset_of_the_rows_that_it_shows(tmp_path: Path) -> None:
    """No event of the first file's rows was understood; the second file has another dataset."""
    recording = Recording(tmp_path)
    key = scalar("number", dtype_numpy="<f8", external="STREAM:")
    recording.stream("primary", x=key, y=scalar("number"))
    for number, name in enumerate("ab"):
        first, path = 2 * number, tmp_path / f"{name}.h5"
        recording.file("x", path, (first, first + 2, first + 1), dataset=f"/{name}")
    for seq_num in (3, 4):
        recording.event(seq_num=seq_num, y=0.0)
    source = source_of(recording.path, tmp_path)
    assert not isinstance(source, DataError)
    assert source.parameters["segments"] == [[0, 0, 2]]
    assert source.parameters["columns"] == {"x": "/b"}


def test_an_array_of_too_many_chunks_has_no_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skywright.store.external.CHUNKS_MAX", 1)
    uri = hdf5(tmp_path / "f.h5", np.zeros((2, 3)))
    key = array([3], dtype_numpy="<f8")
    recording = with_file(tmp_path, uri, key, chunk_shape=[2, 3])
    assert not isinstance(source_of(recording.path, tmp_path), DataError)
    recording = with_file(tmp_path, uri, key, chunk_shape=[1, 3])
    assert "2 chunks" in str(source_of(recording.path, tmp_path))


def source_of(journal: Path, directory: Path) -> Any:
    """Return the one data source, or why there is none."""
    contents = contents_of(journal)
    contents.stop = {}
    stream = contents.streams["primary"]
    sources = data_sources(stream, contents, stored_data_keys(stream), directory, tables=True)
    ((_, source),) = sources
    return source


def test_a_dead_stream_without_events_has_the_rows_of_its_longest_file(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    key = scalar("number", dtype_numpy="<f8", external="STREAM:")
    recording.stream("primary", x=key, y=key)
    for name, count in (("x", 10), ("y", 5)):
        uri = hdf5(tmp_path / f"{name}.h5", np.arange(float(count)))
        recording.file(name, uri, (0, 2, 1), dataset="x")
    contents = closed(recording)
    assert contents.stop is not None
    assert contents.stop["num_events"] == {"primary": 10}
    rows_of = contents.streams["primary"].catalog_rows
    assert {key: sum(rows.count for rows in rows_of(key)) for key in "xy"} == {"x": 10, "y": 5}


@pytest.mark.parametrize("has_events", [True, False])
def test_rows_of_a_second_file_that_no_document_names_are_found(
    tmp_path: Path, has_events: bool
) -> None:
    """Its indices go on from those of the first file, all rows of which are known."""
    recording = Recording(tmp_path)
    key = scalar("number", dtype_numpy="<f8", external="STREAM:")
    recording.stream("primary", x=key, **({"y": scalar("number")} if has_events else {}))
    for name, rows, index, count in (("a", 3, 0, 3), ("b", 5, 3, 2)):
        uri = hdf5(tmp_path / f"{name}.h5", np.arange(float(rows)))
        recording.file("x", uri, (index, index + count, index + 1))
    for _ in range(5 * has_events):
        recording.event(y=0.0)
    contents = closed(recording)
    last = [*contents.streams.values()][-1]
    found = [(rows.start, rows.stop) for rows in rows_in_files(last, "x")]
    raw = RawRun(contents.start or {}, RequiredKeys(("x",), "number", "time"))
    for line in read_lines(recording.path):
        raw(line.name, line.doc)
    table = raw.streams[last.name].table
    assert table is not None
    analyzed = [(rows.start, rows.stop) for rows in table.in_files["x"].segments]
    late = [doc for uid, doc in contents.resources.items() if uid.endswith(repair.LATE)]
    assert contents.stop is not None
    if has_events:
        assert [doc["parameters"]["slice"] for doc in late] == ["2:5"]
        assert found == [(0, 3)]  # of the slice
        assert analyzed == [(2, 5)]
        assert contents.stop["num_events"] == {"primary": 5, f"primary{repair.LATE}": 3}
    else:
        assert late == []
        assert analyzed == found == [(0, 3), (0, 5)]
        assert contents.stop["num_events"] == {"primary": 8}


@pytest.mark.parametrize("has_events", [True, False])
def test_rows_of_two_files_that_no_document_names_are_found(
    tmp_path: Path, has_events: bool
) -> None:
    """A camera began a second file, and the session died before it named the last rows of both."""
    recording = Recording(tmp_path)
    key = scalar("number", dtype_numpy="<f8", external="STREAM:")
    recording.stream("primary", x=key, **({"y": scalar("number")} if has_events else {}))
    for number, rows in enumerate((3, 5)):
        uri = hdf5(tmp_path / f"{number}.h5", 10.0 * number + np.arange(rows))
        recording.file("x", uri, (2 * number, 2 * number + 2, 2 * number + 1))
    for _ in range(4 * has_events):
        recording.event(y=0.0)
    contents = closed(recording)
    last = [*contents.streams.values()][-1]
    values = []
    for place in rows_in_files(last, "x"):
        resource = contents.resources[place.resource]
        with h5py.File(path_from_uri(resource["uri"])) as file:
            first = first_row(resource["parameters"])
            values += file["x"][first + place.start : first + place.stop].tolist()
    assert contents.stop is not None
    if has_events:
        assert values == [2.0, 12.0, 13.0, 14.0]
        assert contents.stop["num_events"] == {"primary": 4, last.name: 4}
    else:
        assert values == [0.0, 1.0, 10.0, 11.0, 2.0, 12.0, 13.0, 14.0]
        assert contents.stop["num_events"] == {"primary": 8}


@pytest.mark.parametrize("odd", ["no time", "dataset", "uid"])
def test_a_run_of_odd_documents_is_closed(tmp_path: Path, odd: str) -> None:
    path = abandoned(tmp_path)
    lines = [(line.name, line.doc) for line in read_lines(path)]
    for name, doc in lines:
        if name == "start" and odd == "no time":
            del doc["time"]
        if name == "start" and odd == "uid":
            doc["uid"] = 5
        if name == "stream_resource" and odd == "dataset":
            doc["parameters"]["dataset"] = ["x"]
    path.write_bytes(b"".join(encode_line(name, doc) for name, doc in lines))
    assert repair.close_interrupted_run(path, path.stat().st_size, contents_of(path))
    last = list(read_lines(path))[-1]
    assert (last.name, last.doc["exit_status"]) == ("stop", "abort")


def test_a_run_is_not_half_closed_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = abandoned(tmp_path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        repair.close_interrupted_run(path, len(before), contents_of(path))
    assert path.read_bytes() == before


def test_rows_after_the_last_event_are_found_in_each_file(tmp_path: Path) -> None:
    """Indices go on from file to file; the writer died after 2 of 5 rows of the second one."""
    recording = Recording(tmp_path)
    key = scalar("number", dtype_numpy="<f8", external="STREAM:")
    recording.stream("primary", x=key, y=scalar("number"))
    for number, count in enumerate((3, 5)):
        uri = hdf5(tmp_path / f"{number}.h5", 10.0 * number + np.arange(count))
        rows = min(count, 3 - number)
        recording.file("x", uri, (3 * number, 3 * number + rows, 3 * number + 1))
    for seq_num in range(5):
        recording.event(y=float(seq_num))
    contents = closed(recording)
    late = contents.streams[f"primary{repair.LATE}"]
    (part,) = late.external_rows["x"].segments
    first = first_row(contents.resources[part.resource]["parameters"])
    row = first + part.start - late.external_rows["x"].first_index(part.resource)
    assert (row, part.count) == (2, 3)


@pytest.mark.parametrize("image", ["no-such-datum", [1, 2]])
def test_a_datum_that_never_came_does_not_keep_the_run_open(tmp_path: Path, image: Any) -> None:
    recording = Recording(tmp_path)
    recording.stream("primary", x=scalar("number"), image=array([2], external="FILESTORE:"))
    recording.event(x=1.0, image=image)
    path = recording.stop()
    contents = contents_of(path)
    assert contents.stop is not None
    assert contents.streams["primary"].seq_nums() == [1]
    assert "image" in "".join(contents.notes)
    assert not repair.close_interrupted_run(path, path.stat().st_size, contents)


@pytest.mark.parametrize("in_page", [False, True])
def test_datums_after_one_that_never_came_are_stored(tmp_path: Path, in_page: bool) -> None:
    """The datums come after their events; the one of the first event is lost."""
    recording = Recording(tmp_path)
    recording.stream("primary", image=array([2], external="FILESTORE:", dtype_numpy="<f8"))
    for number in range(3):
        recording.event(image=f"r/{number}")
    resource = {"uid": "r", "run_start": recording.uid, "spec": "AD_HDF5", "root": "/"}
    path = {"resource_path": "f.h5", "path_semantics": "posix", "resource_kwargs": {}}
    recording.journal("resource", resource | path)
    if in_page:
        page = {"resource": "r", "datum_id": ["r/1", "r/2"], "datum_kwargs": {}}
        recording.journal("datum_page", page)
    for number in () if in_page else (1, 2):
        datum = {"resource": "r", "datum_id": f"r/{number}", "datum_kwargs": {}}
        recording.journal("datum", datum)
    contents = contents_of(recording.stop())
    (rows,) = contents.streams["primary"].external_rows["image"].segments
    assert (rows.start, rows.stop) == (1, 3)
    assert [note for note in contents.notes if "image" in note] == [
        "image: the datums of 1 events never came, or earlier events name them; "
        "their rows are left out"
    ]


def test_events_that_lack_a_datum_or_its_time_are_stored(tmp_path: Path) -> None:
    """The second one has no time of its datum, which comes after it; the third one no times."""
    recording = Recording(tmp_path)
    image = array([2], external="FILESTORE:", dtype_numpy="<f8")
    recording.stream("primary", x=scalar("number"), image=image)
    recording.event(x=1.0)
    event = {"descriptor": recording.streams["primary"].descriptor_doc["uid"], "time": 1.0}
    for seq_num, times in ((2, {"timestamps": {"x": 1.0}}), (3, {})):
        data = {"x": 2.0, "image": f"r/{seq_num}"}
        recording.journal("event", {**event, "uid": "e", "seq_num": seq_num, "data": data, **times})
    resource = {"uid": "r", "run_start": recording.uid, "spec": "AD_HDF5", "root": "/"}
    path = {"resource_path": "f.h5", "path_semantics": "posix", "resource_kwargs": {}}
    recording.journal("resource", resource | path)
    for seq_num in (2, 3):
        datum = {"resource": "r", "datum_id": f"r/{seq_num}", "datum_kwargs": {}}
        recording.journal("datum", datum)
    contents = contents_of(recording.stop())
    stream = contents.streams["primary"]
    assert stream.seq_nums() == [1, 2]
    assert sum(rows.count for rows in stream.external_rows["image"].segments) == 1
    assert contents.stop is not None
