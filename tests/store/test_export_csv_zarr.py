"""Exports as CSV and as Zarr: files, documents, columns of different lengths."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support.exports import EVENT_TIMES, assert_same, free_running, read_csv
from support.sample_runs import FRAMES, SCAN, SampleStore, shared_sample_store
from zarr.storage import LocalStore

from skywright.store.export import csv as csv_module
from skywright.store.export import export_run
from skywright.store.export.contents import Column, RunContents, Stream
from skywright.store.export.csv import write_csv
from skywright.store.export.zarr import write_zarr
from skywright.store.lookup import find_run


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> SampleStore:
    return shared_sample_store(pytestconfig)


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
