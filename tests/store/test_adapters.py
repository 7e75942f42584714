"""The adapters of tiled for our files, without a server: which rows of which file they give."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from skywright.errors import DataError
from skywright.store import reader_adapter
from skywright.store.reader_adapter import ReaderAdapter, reader_source
from skywright.store.table_adapter import ColumnsAdapter, table_structure

NODE = SimpleNamespace(metadata_={}, specs=[])


class Rows:
    """A reader of a file whose rows are the numbers from `first` on."""

    def __init__(self, first: int) -> None:
        self._values = first + np.arange(20, dtype="<u2").reshape(10, 2)

    def __enter__(self) -> "Rows":
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, _column: str, start: int, stop: int) -> np.ndarray:
        return self._values[start:stop]


def array_of(monkeypatch: pytest.MonkeyPatch, *segments: tuple[str, int, int]) -> ReaderAdapter:
    """Return the adapter of an array with these rows: file, first row, and row after the last."""
    monkeypatch.setattr(
        reader_adapter, "open_reader", lambda _mimetype, path, _column: Rows(100 * int(path.name))
    )
    file = {"mimetype": "application/x-raw", "parameters": {"dataset": "x"}}
    resources = [file | {"uri": f"file://localhost/{name}"} for name, _, _ in segments]
    ranges = [(start, stop) for _, start, stop in segments]
    source = reader_source(resources, ranges, {"dtype_numpy": "<u2", "shape": [2]})
    return ReaderAdapter.from_catalog(source, NODE, **source.parameters)


def test_an_array_has_the_rows_of_its_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_adapter, "BLOCK_BYTES", 16)  # four rows
    adapter = array_of(monkeypatch, ("1", 2, 5), ("2", 0, 4), ("1", 7, 9))
    assert adapter.structure().chunks == ((4, 4, 1), (2,))
    expected = np.array([104, 106, 108, 200, 202, 204, 206, 114, 116])
    for rows in (slice(None), slice(1, 8), slice(2, None, 3), slice(8, 9)):
        read = adapter.read((rows,))  # type: ignore[arg-type]
        assert read.tolist() == [[n, n + 1] for n in expected[rows]]
    assert adapter.read((5, slice(1, 2))).tolist() == [205]  # type: ignore[arg-type]


def test_rows_that_a_file_lacks_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = array_of(monkeypatch, ("1", 8, 12))
    with pytest.raises(DataError, match=r"rows 8 to 12 have the shape \(2, 2\)"):
        adapter.read()


@pytest.fixture
def table(tmp_path: Path) -> ColumnsAdapter:
    """Rows of two files: the first has the identity of nine rows, and goes on."""
    files = []
    for number, rows in enumerate((9, 6)):
        files.append(tmp_path / f"{number}.h5")
        with h5py.File(files[-1], "w") as file:
            file["x"] = 100 * number + np.arange(10, dtype="<i4")
            file["id"] = np.arange(rows)
    dtypes: Any = {"x": np.dtype("<i4"), "id": np.dtype("<i8")}
    segments = [(0, 2, 5), (1, 0, 8), (0, 7, None)]
    structure = table_structure(dtypes, 2)
    return ColumnsAdapter(files, {"x": "x", "id": "id"}, segments, 4, structure)


def test_a_table_has_the_rows_of_its_segments(table: ColumnsAdapter) -> None:
    expected = [2, 3, 4, *range(100, 106), 7, 8]
    assert table.count() == 11
    assert table.read(["x"])["x"].tolist() == expected
    assert table["x"].read().tolist() == expected
    for start, stop in ((0, 3), (1, 4), (3, 9), (4, 10), (10, 11), (2, None)):
        assert table.values(["x"], start, stop)["x"].tolist() == expected[start:stop]
    parts = [table.read_partition(number)["x"].tolist() for number in range(2)]
    assert parts == [expected[:4], expected[4:]]  # the last one has what has come since
