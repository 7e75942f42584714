"""The contents of a stored run that an export writes: columns, slices, dtypes, notes."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exports import memory_column
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset as TiledAsset
from tiled.structures.data_source import DataSource

from skywright.store.export import contents as contents_module
from skywright.store.export.contents import Asset, AssetRows, Column, scanned_fields


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
