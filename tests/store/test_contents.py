"""Columns of a stored run as exports read them, without a server."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import httpx
import numpy as np
import pandas as pd
import pytest
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset as TiledAsset
from tiled.structures.data_source import DataSource

from skywright.files.readers import HDF5
from skywright.store import documents
from skywright.store.export import contents as contents_module
from skywright.store.export.contents import Asset


class OpenTable:
    """A table of a file that is still written, as tiled's client gives it; it notes requests."""

    columns = ("a", "b", "c", "d", "tag")

    def __init__(self, *, is_whole: bool = True) -> None:
        self.rows = 5
        self.requests: list[Any] = []
        self._is_whole = is_whole

    def _values(self, name: str) -> Any:
        return np.arange(self.rows) + 10 * self.columns.index(name)

    def data_sources(self) -> list[Any]:
        return [SimpleNamespace(parameters={"segments": [[0, 0, None]]})]

    def read(self, names: Sequence[str]) -> pd.DataFrame:
        self.requests.append(tuple(names))
        if not self._is_whole:
            raise httpx.ReadError("one column is damaged")
        return pd.DataFrame({name: self._values(name) for name in names})

    def __getitem__(self, name: str) -> Any:
        def read(slices: tuple[slice]) -> Any:
            self.requests.append(name)
            return self._values(name)[slices]

        return SimpleNamespace(shape=(self.rows,), read=read)


def requests_of(table: OpenTable) -> list[Any]:
    """Read all columns while the file grows, the first one twice; return the requests."""
    found = contents_module._FileTable(table, {"tag": {"dtype_numpy": "|S3"}}, "primary")
    assert found.rows == table.rows == 5
    table.rows = 7
    for name in ("a", *table.columns):
        values = found.read(name, slice(1, 5))
        assert values.tolist() == [10 * table.columns.index(name) + n for n in range(1, 5)]
    return table.requests


def test_from_the_third_column_on_a_table_is_read_as_a_whole() -> None:
    assert requests_of(OpenTable()) == ["a", "a", "b", ("a", "b", "c", "d"), "tag"]


def test_columns_of_a_table_that_fails_as_a_whole_are_read_one_by_one() -> None:
    found = requests_of(OpenTable(is_whole=False))
    assert found == ["a", "a", "b", ("a", "b", "c", "d"), "c", "d", "tag"]


@pytest.mark.parametrize(("size", "is_small"), [(5 * 4 * 8, True), (5 * 4 * 8 - 1, False)])
def test_a_large_table_is_read_column_by_column(
    monkeypatch: pytest.MonkeyPatch, size: int, is_small: bool
) -> None:
    monkeypatch.setattr(contents_module, "COPY_BYTES", size)
    whole = [each for each in requests_of(OpenTable()) if isinstance(each, tuple)]
    assert len(whole) == is_small


@pytest.mark.parametrize(
    ("segments", "rows", "expected"),
    [
        ([[0, 2, 5], [1, 0, 4]], 7, [("a", 2, 5), ("b", 0, 4)]),
        ([[0, 2, 5], [1, 3, None]], 7, [("a", 2, 5), ("b", 3, 7)]),
        ([[0, 0, 5]], 4, []),  # the file has another number of rows than the column
        ([[0, 0, 5]], 6, []),
        ([[2, 0, 5]], 5, []),  # there is no third file
    ],
)
def test_places_of_the_rows_of_a_column(
    segments: list[Any], rows: int, expected: list[Any]
) -> None:
    assets = [Asset(Path(name), "x") for name in "ab"]
    parts = contents_module._parts(assets, segments, rows)
    assert [(str(part.asset.file), part.start, part.stop) for part in parts] == expected


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        (["a", "b"], [("a", 0, 3), ("b", 0, 2)]),
        (["a", "longer"], [("a", 0, 3), ("longer", 0, 2)]),  # its last row is in no document
        (["a", "lost"], []),
        (["lost"], [("lost", 0, 5)]),  # the number of rows is that of the column
        (["a", "http://x/b"], []),
    ],
)
def test_places_of_the_rows_of_whole_files(
    tmp_path: Path, uris: list[str], expected: list[Any]
) -> None:
    for name, rows in (("a", 3), ("b", 2), ("longer", 3)):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = np.zeros((rows, 2))
    full = [uri if ":" in uri else f"file://localhost{tmp_path}/{uri}" for uri in uris]
    source = DataSource(
        structure_family=StructureFamily.array,
        structure=None,
        mimetype=HDF5,
        parameters={"dataset": "x"},
        assets=[TiledAsset(uri, False, "data_uris", n) for n, uri in enumerate(full)],
    )
    parts = contents_module.array_parts(source, 5)
    assert [(part.asset.file.name, part.start, part.stop) for part in parts] == expected


def test_the_server_answers_others_while_documents_wait_for_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows of an array of several files are counted in a thread."""
    threads: list[threading.Thread] = []
    structure = SimpleNamespace(shape=(5, 2))
    assets = [TiledAsset(f"file://localhost/{n}", False, "data_uris", n) for n in range(2)]
    source = DataSource(
        structure_family=StructureFamily.array,
        structure=structure,
        mimetype=HDF5,
        parameters={"dataset": "x"},
        assets=assets,
    )

    def count(opened: Any) -> list[int]:
        threads.append(threading.current_thread())
        return [3, 2]

    async def answer(value: Any) -> Any:
        return value

    monkeypatch.setattr(contents_module, "_row_counts", count)
    node = SimpleNamespace(data_sources=lambda include_assets: answer([source]))
    descriptor = {"data_keys": {"image": {"shape": [2], "external": "STREAM:"}}}
    adapter = SimpleNamespace(
        specs=[], metadata=lambda: descriptor, items_range=lambda *_: answer([("image", node)])
    )
    stream = documents._Stream(adapter)
    assert asyncio.run(stream.keys_range(0, None)) == []
    expected = [("file://localhost/0", 0, 3), ("file://localhost/1", 0, 2)]
    assert [rows.ranges for rows in stream.rows] == [expected]
    assert threads != [threading.main_thread()]
