"""Each export is read back and compared, value for value, with what went into the run."""

import csv
import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.sample_runs import (
    CURRENT,
    DEAD,
    DERIVED_V1,
    FLY,
    FLY_FRAMES,
    FRAMES,
    KINDS,
    MATRICES,
    OMEGA,
    SCAN,
    STATES,
    T0,
    TIP_X,
    VECTORS,
    SampleStore,
    shared_sample_store,
)
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset as TiledAsset
from tiled.structures.data_source import DataSource
from zarr.storage import LocalStore

from skywright.errors import DataError
from skywright.store.export import FORMATS, _write, export_run
from skywright.store.export import contents as contents_module
from skywright.store.export import csv as csv_module
from skywright.store.export.contents import (
    Asset,
    AssetRows,
    Column,
    RunContents,
    Stream,
    scanned_fields,
)
from skywright.store.export.csv import write_csv
from skywright.store.export.nexus import write_nexus
from skywright.store.export.zarr import write_zarr
from skywright.store.lookup import find_run

EVENT_TIMES = T0 + np.arange(1.0, 6.0)
SCAN_VALUES = {
    "seq_num": np.arange(1, 6),
    "time": EVENT_TIMES,
    "omega": OMEGA,
    "diode_current": CURRENT,
    "diode_counts": np.arange(-2, 3, dtype="<i4"),
    "diode_state": np.array(STATES),
    "diode_ok": np.array([True, False, True, False, True]),
    "diode_vector": VECTORS,
    "diode_matrix": MATRICES,
    "cam_image": FRAMES,
    "cam_frame_number": np.arange(100, 105, dtype="<i4"),
}
"""What is in the stream primary of the step scan; its second event came twice."""


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


def read_nexus(path: Path, stream: str) -> dict[str, NDArray]:
    with h5py.File(path) as file:
        group = file[f"entry/{stream}"]
        return {
            name: node.asstr()[()].astype("U") if node.dtype.kind == "O" else node[()]
            for name, node in group.items()
            if isinstance(node, h5py.Dataset)
        }


def read_zarr(path: Path, stream: str) -> dict[str, NDArray]:
    arrays = dict(zarr.open_group(path, mode="r")[stream].arrays())
    return {
        name: np.array(list(node[:]), dtype="U") if node.dtype.kind == "T" else np.asarray(node[:])
        for name, node in arrays.items()
    }


def read_csv(path: Path, stream: str) -> dict[str, NDArray]:
    dtypes = json.loads((path / "metadata.json").read_text())["dtypes"][f"{stream}.csv"]
    with (path / f"{stream}.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return {
        name: np.array([each == "True" for each in cells])
        if dtypes[name] == "|b1"
        else np.array(cells).astype(dtypes[name])
        for name, cells in columns.items()
    }


READERS: dict[str, Callable[[Path, str], dict[str, NDArray]]] = {
    "nexus": read_nexus,
    "csv": read_csv,
    "zarr": read_zarr,
}


def assert_same(got: Mapping[str, NDArray], expected: Mapping[str, NDArray]) -> None:
    assert set(got) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)
        if values.dtype.kind != "U":
            assert got[name].dtype == values.dtype, name


def scalars(values: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: each for name, each in values.items() if each.ndim == 1}


@pytest.mark.parametrize("format", FORMATS)
def test_step_scan_comes_back(store: SampleStore, tmp_path: Path, format: str) -> None:
    report = export_run(find_run(store.client, SCAN), tmp_path / "out", format)
    got = READERS[format](tmp_path / "out", "primary")
    if format == "csv":
        stamps = {name: got.pop(name) for name in list(got) if name.startswith("ts_")}
        assert_same(got, scalars(SCAN_VALUES))
        assert set(stamps) == {f"ts_{name}" for name in SCAN_VALUES if "diode" in name} | {
            "ts_omega"
        }
        np.testing.assert_array_equal(stamps["ts_omega"], EVENT_TIMES - 0.01)
    else:
        assert_same(got, SCAN_VALUES)
    baseline = READERS[format](tmp_path / "out", "baseline")
    np.testing.assert_array_equal(baseline["energy"], [12.4, 12.4])
    assert report.status == "success"
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]


@pytest.mark.parametrize("format", FORMATS)
def test_files_without_events_come_back(store: SampleStore, tmp_path: Path, format: str) -> None:
    export_run(find_run(store.client, FLY), tmp_path / "out", format)
    got = READERS[format](tmp_path / "out", "primary")
    times = np.asarray(T0 + 86_400.0 + np.arange(6) / 60)
    expected = {"cam_image": FLY_FRAMES, "cam_frame_time": times}
    assert_same(got, scalars(expected) if format == "csv" else expected)


@pytest.mark.parametrize("format", FORMATS)
def test_derived_run_comes_back(store: SampleStore, tmp_path: Path, format: str) -> None:
    export_run(find_run(store.client, DERIVED_V1), tmp_path / "out", format)
    got = READERS[format](tmp_path / "out", "pictures")
    assert_same(got, {"tip_x": TIP_X, "kind": KINDS})
    results = READERS[format](tmp_path / "out", "result")
    np.testing.assert_array_equal(results["offset_um"], [3.25, 1.75])


@pytest.mark.parametrize("format", FORMATS)
def test_unfinished_run_is_exported_and_said_so(
    store: SampleStore, tmp_path: Path, format: str
) -> None:
    report = export_run(find_run(store.client, DEAD), tmp_path / "out", format)
    assert report.status == "incomplete"
    assert "without stop document" in report.notes[0]
    got = READERS[format](tmp_path / "out", "primary")
    np.testing.assert_array_equal(got["diode_current"], [0.5])


def test_nexus_structure(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, SCAN)
    export_run(run, tmp_path / "scan.nxs", "nexus")
    with h5py.File(tmp_path / "scan.nxs") as file:
        entry = file[file.attrs["default"]]
        data = entry[entry.attrs["default"]]
        assert (entry.attrs["NX_class"], data.attrs["NX_class"]) == ("NXentry", "NXdata")
        signal, axis = data[data.attrs["signal"]], data[data.attrs["axes"][0]]
        assert (signal.name, axis.name) == ("/entry/primary/diode_current", "/entry/primary/omega")
        assert (signal.attrs["units"], axis.attrs["units"]) == ("uA", "deg")
        np.testing.assert_array_equal(data["timestamps/omega"][()], EVENT_TIMES - 0.01)
        texts = {
            "title": "scan 7",
            "start_time": "2026-05-01T11:00:00.000000+00:00",
            "end_time": "2026-05-01T11:00:06.500000+00:00",
            "entry_identifier_uuid": SCAN,
            "experiment_identifier": "2026-112",
            "user/name": "Zoë Müller",
            "sample/name": "lysozyme A-1",
            "bluesky/plan_name": "scan",
        }
        assert {name: entry[name].asstr()[()] for name in texts} == texts
        camera = entry["instrument/cam"]
        assert camera.attrs["NX_class"] == "NXdetector"
        np.testing.assert_array_equal(camera["data"][2], FRAMES[2])
        assert (camera["cam_exposure"][()], camera["cam_exposure"].attrs["units"]) == (0.04, "s")
        np.testing.assert_array_equal(camera["cam_roi"][()], [0, 0, 64, 48])
        assert entry["instrument/omega"].attrs["NX_class"] == "NXpositioner"
        np.testing.assert_array_equal(entry["instrument/omega/value"][()], OMEGA)
        assert json.loads(entry["bluesky/start"].asstr()[()]) == dict(run.start)
        descriptor = json.loads(entry["bluesky/descriptors/primary"].asstr()[()])
        assert set(descriptor["data_keys"]) == set(SCAN_VALUES) - {"seq_num", "time"}


def test_nexus_of_a_derived_run_names_its_analysis(store: SampleStore, tmp_path: Path) -> None:
    export_run(find_run(store.client, DERIVED_V1), tmp_path / "loop.nxs", "nexus")
    with h5py.File(tmp_path / "loop.nxs") as file:
        process = file["entry/process"]
        assert process.attrs["NX_class"] == "NXprocess"
        got = {name: process[name].asstr()[()] for name in ("program", "version", "raw_uid")}
        assert got == {"program": "loop", "version": "1.1", "raw_uid": SCAN}
        assert json.loads(process["parameters"].asstr()[()]) == {"min_score": 0.3}


def test_nexusformat_reads_it(store: SampleStore, tmp_path: Path) -> None:
    from nexusformat import nexus

    for uid, signal in ((SCAN, "diode_current"), (FLY, "cam_image"), (DERIVED_V1, "tip_x")):
        export_run(find_run(store.client, uid), tmp_path / f"{uid}.nxs", "nexus")
        root = nexus.nxload(str(tmp_path / f"{uid}.nxs"))
        assert root.plottable_data.nxsignal.nxname == signal


def test_nexus_links_to_the_frames(store: SampleStore, tmp_path: Path) -> None:
    report = export_run(find_run(store.client, SCAN), tmp_path / "s.nxs", "nexus", link=True)
    assert report.notes == ()
    assert_same(read_nexus(tmp_path / "s.nxs", "primary"), SCAN_VALUES)
    with h5py.File(tmp_path / "s.nxs") as file:
        link = file.get("entry/primary/cam_image", getlink=True)
    assert isinstance(link, h5py.ExternalLink)
    assert link.path == "/entry/data/data"


@pytest.mark.parametrize("mimetype", ["application/x-hdf5", "application/x-raw"])
def test_what_does_not_hold_just_these_rows_is_copied(tmp_path: Path, mimetype: str) -> None:
    """The file has one row more, or another program's reader makes its rows."""
    count = 3 if mimetype == "application/x-hdf5" else 4
    frames = np.arange(4 * 6, dtype="u1").reshape(4, 2, 3)
    with h5py.File(tmp_path / "camera.h5", "w") as file:
        file["data"] = frames
    parts = (AssetRows(Asset(tmp_path / "camera.h5", "data", mimetype), 0, count),)
    key = {"external": "STREAM:"}
    column = Column("cam", (count, 2, 3), frames.dtype, key, frames[:count].__getitem__, parts)
    start = {"uid": "u", "time": 0.0}
    run = RunContents(start, None, "running", (Stream("primary", {}, (column,), {}),), ())
    notes = write_nexus(run, tmp_path / "out.nxs", link=True)
    assert "primary/cam: copied, not linked" in notes[0]
    cam = read_nexus(tmp_path / "out.nxs", "primary")["cam"]
    np.testing.assert_array_equal(cam, frames[:count])


def test_run_without_streams(tmp_path: Path) -> None:
    sample = {"name": "x", "conc mg/ml": 5, "buffer": "tris", "buffer/pH": 7}
    run = RunContents({"uid": "u", "time": 0.0, "sample": sample}, None, "running", (), ())
    assert write_nexus(run, tmp_path / "out.nxs") == []
    with h5py.File(tmp_path / "out.nxs") as file:
        assert file["entry/sample/conc mg_ml"][()] == 5
        assert file["entry/sample/buffer_pH"][()] == 7
        assert file["entry/title"].asstr()[()] == "run"


@pytest.mark.parametrize("time", [1.8e12, 1.8e18])
def test_nexus_of_a_run_whose_times_are_in_milliseconds_or_less(
    tmp_path: Path, time: float
) -> None:
    run = RunContents({"uid": "u", "time": time}, {"time": time + 1024}, "success", (), ())
    assert write_nexus(run, tmp_path / "out.nxs") == []
    with h5py.File(tmp_path / "out.nxs") as file:
        assert {"start_time", "end_time"}.isdisjoint(file["entry"])
        assert file["entry/duration"][()] == 1024
        assert json.loads(file["entry/bluesky/start"][()])["time"] == time


def memory_column(name: str, values: Any, **data_key: Any) -> Column:
    array = np.array(values)
    return Column(name, array.shape, array.dtype, data_key, array.__getitem__)


def free_running() -> RunContents:
    """A run whose camera has more rows than events, and which has a stream without events."""
    tags = memory_column("tag", [b"a", b"\xff", "µ".encode()], external="STREAM:")
    columns = (
        memory_column("seq_num", [1, 2]),
        memory_column("time", [1.5, 2.5]),
        memory_column("x", [0.5, 1.5]),
        tags,
    )
    stamps = {"x": np.array([1.25, 2.25])}
    long = memory_column("long", range(5), external="STREAM:")
    streams = (
        Stream("primary", {"uid": "d"}, columns, stamps),
        Stream("fly", {}, (tags, long), {}),
    )
    return RunContents({"uid": "u", "time": 0.0}, {"time": 3.0}, "abort", streams, ())


def test_csv_of_columns_of_different_lengths(tmp_path: Path) -> None:
    assert write_csv(free_running(), tmp_path / "out") == []
    text = {path.name: path.read_bytes().decode() for path in (tmp_path / "out").iterdir()}
    metadata = json.loads(text.pop("metadata.json"))
    tags = "tag\r\na\r\n\\xff\r\nµ\r\n"
    assert text == {
        "primary.csv": "seq_num,time,x,ts_x\r\n1,1.5,0.5,1.25\r\n2,2.5,1.5,2.25\r\n",
        "primary-3rows.csv": tags,
        "fly.csv": "long\r\n0\r\n1\r\n2\r\n3\r\n4\r\n",
        "fly-3rows.csv": tags,
    }
    assert (metadata["status"], metadata["stop"]) == ("abort", {"time": 3.0})
    assert metadata["descriptors"]["primary"] == {"uid": "d"}


@pytest.mark.parametrize("dtype", ["<M8[ns]", "<M8[s]", "<m8[ms]"])
def test_csv_of_datetimes_reads_back(tmp_path: Path, dtype: str) -> None:
    values = np.array([86_400, -1, "NaT"], dtype)
    stream = Stream(
        "primary", {}, (Column("when", (3,), values.dtype, {}, values.__getitem__),), {}
    )
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", (stream,), ())
    write_csv(run, tmp_path / "out")
    assert_same(read_csv(tmp_path / "out", "primary"), {"when": values})
    first = (tmp_path / "out" / "primary.csv").read_text().splitlines()[1]
    assert first.startswith("1970-01-0") or dtype.startswith("<m8")


def test_csv_is_written_in_blocks_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = csv_module._cells
    rows: list[int] = []

    def noting_rows(values: NDArray) -> Any:
        rows.append(len(values))
        return cells(values)

    write_csv(free_running(), tmp_path / "whole")
    monkeypatch.setattr(csv_module, "BLOCK_ROWS", 2)
    monkeypatch.setattr(csv_module, "_cells", noting_rows)
    write_csv(free_running(), tmp_path / "blocks")
    assert max(rows) == 2
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "blocks" / path.name).read_bytes() == path.read_bytes()


def test_zarr_of_columns_of_different_lengths(tmp_path: Path) -> None:
    write_zarr(free_running(), tmp_path / "out.zarr")
    root = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert (root.attrs["status"], root.attrs["stop"]) == ("abort", {"time": 3.0})
    dimensions = {
        stream: {name: array.metadata.dimension_names for name, array in root[stream].arrays()}
        for stream in ("primary", "fly")
    }
    of_events = dict.fromkeys(("seq_num", "time", "x"), ("event",))
    assert dimensions["primary"] == {**of_events, "tag": ("row",)}
    assert dimensions["fly"] == {"tag": ("row",), "long": ("row",)}
    assert root["primary/time"].attrs["units"] == root["primary/timestamps/x"].attrs["units"] == "s"


@pytest.mark.parametrize("title", [None, "beam on"])
def test_nexus_of_metadata_under_their_other_names(tmp_path: Path, title: str | None) -> None:
    start = {
        "uid": "u",
        "time": 0.0,
        "plan_name": "count",
        "scan_id": 0,
        "beamline_id": "X06",
        "proposal_id": "p1",
        "operator": ["no text"],
        "user_name": "Ann",
        "sample": {"name": "x"},
        "analysis": "mine",
        "motors": None,
    }
    start |= {"title": title} if title else {}
    run = RunContents(start, {"time": 3.0}, "abort", (), ())
    write_nexus(run, tmp_path / "out.nxs")
    with h5py.File(tmp_path / "out.nxs") as file:
        entry = file["entry"]
        texts = {
            "title": title or "count 0",
            "instrument/name": "X06",
            "experiment_identifier": "p1",
            "user/name": "Ann",
            "bluesky/status": "abort",
            "bluesky/stop": '{"time": 3.0}',
        }
        assert {name: entry[name].asstr()[()] for name in texts} == texts
        assert list(entry["sample"]) == ["name"]
        assert "process" not in entry
        assert entry["duration"].attrs["units"] == "s"


def test_nexus_says_what_to_plot(tmp_path: Path) -> None:
    """A counter is no signal; an axis has as many values as its signal."""
    frames = (
        memory_column("identity", [7, 8, 9], object_name="cam", external="STREAM:"),
        memory_column("other_time", range(7), external="STREAM:"),
        memory_column("cam_time", [1.0, 2.0, 3.0], external="STREAM:"),
        memory_column("image", np.zeros((3, 4, 5)), object_name="cam", external="STREAM:"),
        memory_column("left", np.zeros((3, 4, 5, 3)), object_name="eyes", external="STREAM:"),
        memory_column("right", np.zeros((3, 4, 5, 3)), object_name="eyes", external="STREAM:"),
        memory_column("trace", np.zeros((0, 4))),
    )
    scan = (
        memory_column("seq_num", [1, 2]),
        memory_column("time", [1.0, 2.0]),
        memory_column("offset", [0.0, 0.0]),
        memory_column("phi", [0.0, 90.0], object_name="phi"),
        memory_column("sum", [5.0, 6.0], object_name="diode"),
        memory_column("photo", np.zeros((2, 4, 5)), object_name="cam"),
    )
    hints, configuration = {"diode": {"fields": ["sum"]}}, {"phi": {"data": {"phi": 5.0}}}
    streams = (
        Stream("baseline", {}, (memory_column("y", range(9)),), {}),
        Stream("short", {}, (memory_column("y", [1.0]),), {}),
        Stream("frames", {"hints": {"cam": {"fields": ["gone"]}}}, frames, {}),
        Stream(
            "scan", {"hints": hints, "configuration": configuration}, scan, {"sum": EVENT_TIMES}
        ),
        Stream("plain", {}, scan, {}),
    )
    start = {"uid": "u", "time": 0.0, "motors": ["phi"], "detectors": ["diode"]}
    start["hints"] = {"dimensions": [[["phi", "psi"], "scan"], [["cam_time"], "other"]]}
    write_nexus(RunContents(start, None, "running", streams, ()), tmp_path / "out.nxs")
    with h5py.File(tmp_path / "out.nxs") as file:
        entry = file["entry"]
        assert entry.attrs["default"] == "frames"
        of_frames, of_scan = entry["frames"], entry["scan"]
        assert of_frames.attrs["signal"] == "image"
        assert [*of_frames.attrs["axes"]] == ["cam_time", ".", "."]
        assert of_frames.attrs["cam_time_indices"] == [0]
        assert (of_scan.attrs["signal"], [*of_scan.attrs["axes"]]) == ("sum", ["phi"])
        assert entry["plain"].attrs["signal"] == "offset"  # a number before the image of an event
        assert of_frames["image"].attrs["interpretation"] == "image"
        assert of_frames["left"].attrs["interpretation"] == "rgb-image"
        assert of_scan["time"].attrs["units"] == of_scan["timestamps/sum"].attrs["units"] == "s"
        instrument = entry["instrument"]
        assert {name: each.attrs["NX_class"] for name, each in instrument.items()} == {
            "cam": "NXdetector",
            "diode": "NXdetector",
            "eyes": "NXdetector",
            "phi": "NXpositioner",
        }
        assert instrument["cam/data"] == of_frames["image"]
        assert "data" not in instrument["eyes"]  # of two images none is the one
        assert instrument["phi/value"][()].tolist() == [0.0, 90.0]
        assert instrument["phi/phi"][()] == 5.0


@pytest.mark.parametrize(
    ("ranges", "is_whole"),
    [([(0, 3)], True), ([(2, 5)], False), ([(0, 2), (2, 3)], False), ([], False)],
)
def test_a_column_is_a_dataset_if_it_has_its_first_rows(
    ranges: list[tuple[int, int]], is_whole: bool
) -> None:
    asset = Asset(Path("/a.h5"), "x")
    parts = tuple(AssetRows(asset, *rows) for rows in ranges)
    column = Column("x", (3,), np.dtype("f8"), {}, np.zeros(3).__getitem__, parts)
    assert column.asset == (asset if is_whole else None)


def test_chunks_of_columns_without_values() -> None:
    shapes = [(0,), (0, 4), (3, 0)]
    columns = [memory_column("x", np.zeros(shape)) for shape in shapes]
    assert [column.chunk_shape() for column in columns] == [(1,), (1, 4), (3, 1)]


def test_fields_that_a_plan_scans() -> None:
    dimensions = [[["a", 5], "primary"], [["b"], "fly"], "odd"]
    start = {"hints": {"dimensions": dimensions}}
    assert scanned_fields(start) == ["a", "b"]
    assert scanned_fields(start, "fly") == ["b"]


def test_to_read_a_run_does_not_change_its_notes() -> None:
    metadata = {"start": {}, "notes": ["a note"]}
    run = MagicMock(item={"attributes": {"metadata": metadata}})
    assert len(contents_module.read_contents(run).notes) == 2
    assert metadata["notes"] == ["a note"]


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from skywright.errors import DataError
from skywright.store.export import _write
from skywright.store.export.contents import Column, RunContents, Stream

directory, *limits = sys.argv[1:]
arrays = [np.arange(3000.0), np.full(3000, "text"), np.ones((200, 100, 100), "u1")]
columns = [Column(f"c{k}", a.shape, a.dtype, {}, a.__getitem__) for k, a in enumerate(arrays)]
streams = (Stream("primary", {}, tuple(columns), {}),)
run = RunContents({"uid": "u", "time": 0.0}, None, "running", streams, ())
for limit in map(int, limits):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        _write(run, Path(directory) / f"{limit}.nxs", "nexus", False)
    except DataError as error:
        print("cannot be written" in str(error))
"""


def test_a_disk_without_room_for_nexus_is_an_error_and_not_the_end_of_the_process(
    tmp_path: Path,
) -> None:
    """A limit of the size of files fails as a full disk does, when a write needs more."""
    limits = [10_000, 2_500_000, 2_700_000, 4_000_000, 100_000_000]
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["True"] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["100000000.nxs"]
    assert (tmp_path / "100000000.nxs").stat().st_size < 3_500_000
    assert read_nexus(tmp_path / "100000000.nxs", "primary")["c2"].sum() == 2_000_000


def test_a_directory_is_named_by_a_dot(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        report = export_run(find_run(store.client, SCAN), Path(), "csv", overwrite=True)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in report.files}
        assert all(path.is_file() for path in report.files)


@pytest.mark.parametrize("format", ["csv", "zarr"])
def test_a_directory_is_named_by_two_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """An export there is replaced, and what is not of it stays."""
    numbers = Column("x", (3,), np.dtype("f8"), {}, np.arange(3.0).__getitem__)
    streams = (Stream("primary", {}, (numbers,), {}),)
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", streams, ())
    _, files = _write(run, tmp_path / "export", format, False)
    below = tmp_path / "export" / "below"
    below.mkdir()
    (below / "notes.txt").write_text("mine")
    monkeypatch.chdir(below)
    _write(run, Path(".."), format, False)
    assert {*(tmp_path / "export").iterdir()} == {*files, below}
    assert (below / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("format", ["csv", "zarr"])
def test_a_directory_may_be_all_of_a_disk(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """As a memory stick is: nothing can be moved there from the directory above."""
    output, rename = tmp_path / "stick", Path.rename

    def on_one_disk(path: Path, target: Path) -> Path:
        if path.is_relative_to(output) != target.is_relative_to(output):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", on_one_disk)
    (output / ".skywright-export-of-a-killed-process").mkdir(parents=True)
    for _ in range(2):
        report = export_run(find_run(store.client, SCAN), output, format, overwrite=True)
        assert {*output.iterdir()} == {*report.files}
    assert [*tmp_path.iterdir()] == [output]


def test_the_name_of_an_output_may_be_as_long_as_that_of_any_file(
    store: SampleStore, tmp_path: Path
) -> None:
    output = tmp_path / f"{'n' * 251}.nxs"
    export_run(find_run(store.client, SCAN), output, "nexus")
    assert output.is_file()


def test_stream_named_like_a_field_of_the_entry(tmp_path: Path) -> None:
    energy = Column("e/V", (2,), np.dtype("f8"), {"units": "eV"}, np.array([1.0, 2.0]).__getitem__)
    stream = Stream("sample", {}, (energy,), {})
    run = RunContents({"uid": "u", "time": 0.0, "sample": "x"}, None, "running", (stream,), ())
    write_nexus(run, tmp_path / "out.nxs")
    np.testing.assert_array_equal(read_nexus(tmp_path / "out.nxs", "sample_stream")["e_V"], [1, 2])


def test_streams_that_become_one_group_of_nexus(tmp_path: Path) -> None:
    names = ("sample", "sample_stream", "sample_stream_")
    streams = tuple(
        Stream(name, {}, (memory_column("x", [value]),), {}) for value, name in enumerate(names)
    )
    write_nexus(
        RunContents({"uid": "u", "time": 0.0}, None, "running", streams, ()), tmp_path / "o"
    )
    with h5py.File(tmp_path / "o") as file:
        groups = [each for each in file["entry"].values() if each.attrs.get("signal") == "x"]
        assert sorted(group["x"][0] for group in groups) == [0, 1, 2]
        assert json.loads(file["entry/bluesky/descriptors/sample_stream"][()]) == {}


@pytest.mark.parametrize(
    "configuration",
    [
        None,
        ["camera"],
        {"camera": None},
        {"camera": {"data": None, "data_keys": None}},
        {"camera": {"data": {"gain": 1}, "data_keys": {"gain": None}}},
    ],
)
def test_nexus_of_a_configuration_of_another_program(tmp_path: Path, configuration: object) -> None:
    column = memory_column("x", [1.0], object_name="camera")
    stream = Stream("primary", {"configuration": configuration}, (column,), {})
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", (stream,), ())
    write_nexus(run, tmp_path / "out.nxs")
    with h5py.File(tmp_path / "out.nxs") as file:
        camera = file["entry/instrument/camera"]
        assert camera["x"][()].tolist() == [1.0]
        assert "gain" not in str(configuration) or camera["gain"][()] == 1


def test_nexus_of_what_hdf5_does_not_take(tmp_path: Path) -> None:
    """Texts with a NUL, datetimes, a configuration with the name of a field."""
    dates = np.array([["2026-01-01", "NaT"]], "M8[ns]")
    columns = tuple(
        Column(name, values.shape, values.dtype, {"units": "m\0m"}, values.__getitem__)
        for name, values in {
            "text": np.array(["a\0b"]),
            "plain": np.array(["ab"]),
            "dates": dates,
        }.items()
    )
    configuration = {"camera": {"data": {"local_name": "own", "serial": "1\0002"}}}
    stream = Stream("primary", {"configuration": configuration}, columns, {})
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", (stream,), ())
    notes = write_nexus(run, tmp_path / "out.nxs")
    assert notes == ["primary/text: NUL characters left out, HDF5 does not take them"]
    values = read_nexus(tmp_path / "out.nxs", "primary")
    assert values["text"].tolist() == ["ab"]
    assert values["dates"].tolist() == [["2026-01-01T00:00:00.000000000", "NaT"]]
    with h5py.File(tmp_path / "out.nxs") as file:
        assert file["entry/primary/text"].attrs["units"] == "mm"
        camera = file["entry/instrument/camera"]
        assert {name: text.asstr()[()] for name, text in camera.items()} == {
            "local_name": "own",
            "serial": "12",
        }


def test_nexus_of_metadata_that_are_no_names_or_texts(tmp_path: Path) -> None:
    """Keys that become one name or that HDF5 has for itself; what should be text and is not."""
    sample = {"name": "x", "mass/mg": 1, "mass_mg": 2, ".": 3, "": 4}
    data_key = {"units": 5, "description": {"of": "x"}, "names": ["a", "b"]}
    column = Column("x", (2,), np.dtype("f8"), data_key, np.array([1.0, 2.0]).__getitem__)
    configuration = {"camera": {"data": {"gain": 1.0}, "data_keys": {"gain": {"units": 5}}}}
    descriptor = {"configuration": configuration, "hints": None}
    stream = Stream("primary", descriptor, (column,), {})
    run = RunContents({"uid": "u", "time": 0.0, "sample": sample}, None, "running", (stream,), ())
    write_nexus(run, tmp_path / "out.nxs")
    with h5py.File(tmp_path / "out.nxs") as file:
        found = {name: each[()] for name, each in file["entry/sample"].items() if name != "name"}
        assert found == {"mass_mg": 1, "mass_mg_": 2, "._": 3, "_": 4}
        x = dict(file["entry/primary/x"].attrs)
        assert (x["units"], x["description"]) == (5, '{"of": "x"}')
        assert x["names"] == '["a", "b"]'
        assert file["entry/instrument/camera/gain"].attrs["units"] == 5


def test_nexus_has_the_whole_configuration_of_a_device_in_two_streams(tmp_path: Path) -> None:
    """The first stream says which value a field has; of the second one come fields and values."""
    frames = memory_column("frames", [1.5, 2.5], object_name="cam")
    primary = Stream("primary", {"configuration": {"cam": {"data": {"gain": 1}}}}, (), {})
    more = {"data": {"gain": 2, "exposure": 0.5}, "data_keys": {"exposure": {"units": "s"}}}
    other = Stream("other", {"configuration": {"cam": more}}, (frames,), {})
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", (other, primary), ())
    write_nexus(run, tmp_path / "out.nxs")
    with h5py.File(tmp_path / "out.nxs") as file:
        camera = file["entry/instrument/cam"]
        assert (camera["gain"][()], camera["exposure"][()]) == (1, 0.5)
        assert camera["exposure"].attrs["units"] == "s"
        assert camera["frames"][()].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    "hints",
    [None, "phi", {"dimensions": None}, {"dimensions": [["phi"]]}, {"dimensions": [["phi", "a"]]}],
)
def test_nexus_of_hints_that_bluesky_does_not_know(tmp_path: Path, hints: object) -> None:
    values = np.arange(3.0)
    columns = (Column("phi", (3,), values.dtype, {"object_name": "m"}, values.__getitem__),)
    stream = Stream("primary", {}, columns, {})
    start = {"uid": "u", "time": 0.0, "hints": hints, "motors": None, "detectors": None}
    run = RunContents(start, None, "running", (stream,), ())
    write_nexus(run, tmp_path / "out.nxs")
    assert read_nexus(tmp_path / "out.nxs", "primary")["phi"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("format", ["nexus", "zarr"])
def test_data_key_called_timestamps(tmp_path: Path, format: str) -> None:
    values = np.array([1.0, 2.0])
    column = Column("timestamps", (2,), values.dtype, {}, values.__getitem__)
    stream = Stream("primary", {}, (column,), {"timestamps": values + 1e9})
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", (stream,), ())
    write = {"nexus": write_nexus, "zarr": write_zarr}[format]
    write(run, tmp_path / "out")
    assert_same(READERS[format](tmp_path / "out", "primary"), {"timestamps": values})
    times = READERS[format](tmp_path / "out", "primary/timestamps_")
    assert_same(times, {"timestamps": values + 1e9})


def test_csv_says_where_the_arrays_are(store: SampleStore, tmp_path: Path) -> None:
    report = export_run(find_run(store.client, SCAN), tmp_path / "out", "csv")
    arrays = json.loads((tmp_path / "out" / "metadata.json").read_text())["arrays"]["primary"]
    assert set(arrays) == {"cam_image", "diode_matrix", "diode_vector"}
    with h5py.File(arrays["cam_image"]["file"]) as file:
        np.testing.assert_array_equal(file[arrays["cam_image"]["dataset"]][()], FRAMES)
    assert any("primary/cam_image" in note for note in report.notes)


def test_zarr_documents_are_written_once(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run of a thousand columns takes minutes."""
    written: Counter[str] = Counter()
    put = LocalStore.set

    async def count(own: LocalStore, key: str, value: Any) -> None:
        written[key] += 1
        await put(own, key, value)

    monkeypatch.setattr(LocalStore, "set", count)
    export_run(find_run(store.client, SCAN), tmp_path / "out.zarr", "zarr")
    assert {key: n for key, n in written.items() if n > 1} == {"zarr.json": 2}


def test_zarr_keeps_documents_and_units(store: SampleStore, tmp_path: Path) -> None:
    export_run(find_run(store.client, SCAN), tmp_path / "out.zarr", "zarr")
    root = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert root.metadata.zarr_format == 3
    assert root.attrs["start"]["uid"] == SCAN
    assert root["primary"]["omega"].attrs["units"] == "deg"
    assert root["primary"]["cam_image"].metadata.dimension_names[0] == "event"
    assert root["primary"].attrs["descriptor"]["configuration"]["cam"]["data"]["cam_mode"] == "Mono"
    np.testing.assert_array_equal(root["primary/timestamps/omega"][:], EVENT_TIMES - 0.01)


@pytest.mark.parametrize("format", FORMATS)
def test_existing_output_is_kept_unless_told(
    store: SampleStore, tmp_path: Path, format: str
) -> None:
    run = find_run(store.client, DEAD)
    export_run(find_run(store.client, SCAN), tmp_path / "out", format)
    with pytest.raises(DataError, match="exists already"):
        export_run(run, tmp_path / "out", format)
    assert "omega" in READERS[format](tmp_path / "out", "primary")
    export_run(run, tmp_path / "out", format, overwrite=True)
    assert "omega" not in READERS[format](tmp_path / "out", "primary")


def test_a_directory_of_something_else_is_never_replaced(
    store: SampleStore, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="no export of ours"):
        export_run(find_run(store.client, DEAD), tmp_path / "home", "zarr", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


@pytest.mark.parametrize("new", ["csv", "zarr"])
@pytest.mark.parametrize("old", ["csv", "zarr"])
def test_files_of_ones_own_in_an_export_stay(
    store: SampleStore, tmp_path: Path, old: str, new: str
) -> None:
    output = tmp_path / "out"
    export_run(find_run(store.client, SCAN), output, old)
    own = [output / "notes.txt", output / "fits" / "zarr.json", output / "primary" / "mine.csv"]
    if old == "zarr":
        own += [output / "primary" / "omega" / "c" / "mine.txt"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("years of work")
    (output / "empty").mkdir()
    report = export_run(find_run(store.client, DEAD), output, new, overwrite=True)
    assert [path.read_text() for path in own] == ["years of work"] * len(own)
    assert (output / "empty").is_dir()
    np.testing.assert_array_equal(READERS[new](output, "primary")["diode_current"], [0.5])
    # As if it had been written to an empty directory
    export_run(find_run(store.client, DEAD), tmp_path / "alone", new)
    alone = {path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*")}
    files = {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    assert files - {path.relative_to(output) for path in own} == {
        path for path in alone if (tmp_path / "alone" / path).is_file()
    }
    names = {path.name for path in report.files}
    assert names == {path.name for path in (tmp_path / "alone").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "alone"}


@pytest.mark.parametrize("new", ["csv", "zarr"])
def test_a_directory_replaces_an_earlier_nexus_file(
    store: SampleStore, tmp_path: Path, new: str
) -> None:
    export_run(find_run(store.client, SCAN), tmp_path / "out", "nexus")
    export_run(find_run(store.client, DEAD), tmp_path / "out", new, overwrite=True)
    np.testing.assert_array_equal(READERS[new](tmp_path / "out", "primary")["diode_current"], [0.5])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("old", "new", "own"),
    [
        ("csv", "zarr", "primary"),
        ("csv", "zarr", "zarr.json"),
        ("zarr", "csv", "primary.csv/mine.txt"),
        ("zarr", "nexus", "primary/mine.txt"),
    ],
)
def test_a_file_of_ones_own_that_is_in_the_way_is_named(
    store: SampleStore, tmp_path: Path, old: str, new: str, own: str
) -> None:
    output = tmp_path / "out"
    export_run(find_run(store.client, SCAN), output, old)
    path = output / own
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")
    before = {each: each.is_file() and each.read_bytes() for each in output.rglob("*")}
    with pytest.raises(DataError, match=f"{output}/{own.split('/mine')[0]}.*in the way"):
        export_run(find_run(store.client, DEAD), output, new, overwrite=True)
    assert {each: each.is_file() and each.read_bytes() for each in output.rglob("*")} == before
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
    path.unlink()
    if path.parent != output and not any(path.parent.iterdir()):
        path.parent.rmdir()
    export_run(find_run(store.client, DEAD), output, new, overwrite=True)
    assert "diode_current" in READERS[new](output, "primary")


def test_links_in_an_export_are_not_followed(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, SCAN)
    export_run(run, tmp_path / "out", "csv")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(DataError, match="link: a link to a directory"):
        export_run(run, tmp_path / "link", "csv", overwrite=True)
    (tmp_path / "out" / "primary.csv").rename(tmp_path / "elsewhere.csv")
    (tmp_path / "out" / "primary.csv").symlink_to(tmp_path / "elsewhere.csv")
    export_run(find_run(store.client, DEAD), tmp_path / "out", "csv", overwrite=True)
    assert "omega" in (tmp_path / "elsewhere.csv").read_text()
    assert not (tmp_path / "out" / "primary.csv").is_symlink()


def test_a_file_of_something_else_is_never_replaced(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, DEAD)
    (tmp_path / "thesis.tex").write_text("years of work")
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["entry/data"] = FRAMES
    for name in ("thesis.tex", "frames.h5"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(DataError, match=f"{name}: a file that is no export of ours"):
            export_run(run, tmp_path / name, "nexus", overwrite=True)
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / "empty.nxs").touch()
    export_run(run, tmp_path / "empty.nxs", "nexus", overwrite=True)
    assert "diode_current" in read_nexus(tmp_path / "empty.nxs", "primary")


def test_a_zarr_store_that_does_not_say_what_is_its_own_is_not_replaced(
    store: SampleStore, tmp_path: Path
) -> None:
    run = find_run(store.client, DEAD)
    export_run(run, tmp_path / "out", "zarr")
    del zarr.open_group(tmp_path / "out").attrs["nodes"]
    with pytest.raises(DataError, match="out: an export of an earlier version"):
        export_run(run, tmp_path / "out", "zarr", overwrite=True)
    assert "diode_current" in read_zarr(tmp_path / "out", "primary")


def test_lost_frames_are_named_and_leave_no_output(store: SampleStore, tmp_path: Path) -> None:
    frames = store.assets / f"{FLY}-primary.h5"
    frames.rename(tmp_path / "elsewhere.h5")
    try:
        with pytest.raises(DataError, match=f"primary/cam_image .*{frames.name}"):
            export_run(find_run(store.client, FLY), tmp_path / "out.nxs", "nexus")
    finally:
        (tmp_path / "elsewhere.h5").rename(frames)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_large_columns_are_copied_in_pieces(
    store: SampleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents_module, "COPY_BYTES", 2 * FRAMES[0].nbytes)
    asked = []
    read_contents = contents_module.read_contents
    column = next(
        each
        for stream in read_contents(find_run(store.client, SCAN)).streams
        for each in stream.columns
        if each.name == "cam_image"
    )
    for rows, values in column.slices():
        asked.append(rows)
        np.testing.assert_array_equal(values, FRAMES[rows])
    assert asked == [slice(0, 2), slice(2, 4), slice(4, 5)]
    export_run(find_run(store.client, SCAN), tmp_path / "s.nxs", "nexus")
    assert_same(read_nexus(tmp_path / "s.nxs", "primary"), SCAN_VALUES)


@pytest.mark.parametrize(
    ("values", "declared", "dtype"),
    [
        ([2**53 + 1], "<f8", "<i8"),
        ([-1], "<u8", "<i8"),
        ([1, 2], "<i4", "<i4"),
        ([0.5, np.nan], "<f4", "<f4"),
        ([0.1], "<f4", "<f8"),
    ],
)
def test_numbers_have_the_declared_dtype_if_it_holds_them(
    values: list[Any], declared: str, dtype: str
) -> None:
    column = contents_module._memory_column("x", np.array(values), {"dtype_numpy": declared})
    assert column.dtype == dtype
    assert column.read(slice(0, 1)).tolist() == values[:1]


def test_contents_have_the_notes_of_the_ingester() -> None:
    """A run that could not be written looks like one that has no data."""
    notes = ["this run cannot be written, its journal is kept in journal/aside: a reason"]
    metadata = {"start": {}, "stop": {"exit_status": "success"}, "notes": notes}
    run = MagicMock(item={"attributes": {"metadata": metadata}})
    assert contents_module.read_contents(run).notes == tuple(notes)


@pytest.mark.parametrize(
    ("selected", "parts"),
    [("2:5", [(2, 5)]), (["2:5", ":"], [(2, 5)]), ("(2:5, 1:3)", []), (["::2", ":"], [])],
)
def test_slices_of_other_programs(selected: Any, parts: list[tuple[int, int]]) -> None:
    source = DataSource(
        structure_family=StructureFamily.array,
        structure=None,
        mimetype="application/x-hdf5",
        parameters={"dataset": "/x", "slice": selected},
        assets=[TiledAsset("file://localhost/f.h5", False, "data_uris", 0)],
    )
    assert [(r.start, r.stop) for r in contents_module.array_parts(source, 3)] == parts


@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    most=st.integers(1, 5000),
)
def test_slices_cover_the_rows_within_the_size(shape: tuple[int, ...], most: int) -> None:
    values = np.zeros(shape, "u2")
    column = Column("x", shape, values.dtype, {}, values.__getitem__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents_module, "COPY_BYTES", most)
        slices = [rows for rows, _ in column.slices()]
    rows = [row for each in slices for row in range(each.start, each.stop)]
    assert rows == list(range(shape[0]))
    row_bytes = int(np.prod(shape[1:])) * 2
    assert all(
        (each.stop - each.start) * row_bytes <= most or each.stop - each.start == 1
        for each in slices
    )


def test_bad_use(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, DEAD)
    with pytest.raises(DataError, match="expected one of nexus, csv, zarr"):
        export_run(run, tmp_path / "x", "xlsx")
    with pytest.raises(DataError, match="cannot link"):
        export_run(run, tmp_path / "x", "zarr", link=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="there is no directory"):
        export_run(run, tmp_path / "file" / "x.nxs", "nexus")
