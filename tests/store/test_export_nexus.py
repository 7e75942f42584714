"""Exports as NeXus: groups, names, links, what HDF5 does not take."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.exports import EVENT_TIMES, SCAN_VALUES, assert_same, memory_column, read_nexus
from support.sample_runs import (
    DERIVED_V1,
    FLY,
    FRAMES,
    OMEGA,
    SCAN,
    SampleStore,
    shared_sample_store,
)

from skywright.errors import DataError, SkywrightError
from skywright.store import export
from skywright.store.export import export_run
from skywright.store.export.contents import Asset, AssetRows, Column, RunContents, Stream
from skywright.store.export.nexus import write_nexus
from skywright.store.lookup import find_run


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


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


def test_a_full_disk_is_no_fault_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "write_csv", fail)
    run = RunContents({"uid": "u", "time": 0.0}, None, "running", (), ())
    with pytest.raises(SkywrightError, match=r"cannot be written.*No space left") as caught:
        export._write(run, tmp_path / "csv", "csv", False)
    assert not isinstance(caught.value, DataError)
    assert not list(tmp_path.iterdir())


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
