"""Each export is read back and compared, value for value, with what went into the run."""

from pathlib import Path

import numpy as np
import pytest
from support.exports import EVENT_TIMES, READERS, SCAN_VALUES, assert_same, read_nexus, scalars
from support.sample_runs import (
    DEAD,
    DERIVED_V1,
    FLY,
    FLY_FRAMES,
    FRAMES,
    KINDS,
    SCAN,
    T0,
    TIP_X,
    SampleStore,
    shared_sample_store,
)

from skywright.errors import DataError
from skywright.store.export import FORMATS, export_run
from skywright.store.export import contents as contents_module
from skywright.store.export.contents import Column, RunContents, Stream
from skywright.store.export.nexus import write_nexus
from skywright.store.export.zarr import write_zarr
from skywright.store.lookup import find_run


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


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


def test_bad_use(store: SampleStore, tmp_path: Path) -> None:
    run = find_run(store.client, DEAD)
    with pytest.raises(DataError, match="expected one of nexus, csv, zarr"):
        export_run(run, tmp_path / "x", "xlsx")
    with pytest.raises(DataError, match="cannot link"):
        export_run(run, tmp_path / "x", "zarr", link=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="there is no directory"):
        export_run(run, tmp_path / "file" / "x.nxs", "nexus")
