"""Reads exports back, and makes runs to export."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from support.sample_runs import CURRENT, FRAMES, MATRICES, OMEGA, STATES, T0, VECTORS

from skywright.store.export.contents import Column, RunContents, Stream

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
