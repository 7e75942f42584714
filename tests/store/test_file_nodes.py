"""Which rows of which files become which node of a stream; no server is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.recording import Recording, array, scalar
from support.limits import full_disk
from tiled.utils import path_from_uri

from skywright.errors import DataError
from skywright.store.file_nodes import data_sources
from skywright.store.journal_contents import JournalContents
from skywright.store.recover import contents_of
from skywright.store.rows import stored_data_keys

COLUMN = scalar("integer", dtype_numpy="<i4", external="STREAM:")
IMAGE = array([2], dtype_numpy="<i4", external="STREAM:")

Ranges = Mapping[str, Sequence[tuple[int, int]]]
"""First row and end of each stream datum, by data key."""


def recorded(
    directory: Path,
    ranges: Ranges,
    key: dict[str, Any] = COLUMN,
    *,
    file: str = "f.h5",
    parameters: Mapping[str, Any] | None = None,
    **more: dict[str, Any],
) -> JournalContents:
    """Record a stream whose data keys have these rows of a file; `more` has further data keys."""
    recording = Recording(directory)
    recording.stream("primary", **dict.fromkeys(ranges, key), **more)
    for name, rows in ranges.items():
        more_parameters = {"dataset": f"/{name[:1]}", **(parameters or {})}
        resource = recording.file(name, directory / file, **more_parameters)
        seq_num = 1
        for start, stop in rows:
            recording.rows(resource, (start, stop, seq_num))
            seq_num += stop - start
    recording.journal.close()
    return contents_of(recording.path)


def sources(contents: JournalContents, directory: Path, *, ended: bool = True) -> dict[str, Any]:
    """Return the data sources of the stream by name of the node, or why there is none."""
    stream = contents.streams["primary"]
    contents.stop = {} if ended else None
    data_keys = stored_data_keys(stream)
    return dict(data_sources(stream, contents, data_keys, directory / "kept", tables=True))


def tables(found: Mapping[str, Any]) -> dict[str, tuple[list[str], list[Any]]]:
    """Return the columns and segments of each table."""
    parameters = {name: source.parameters for name, source in found.items()}
    return {name: ([*each["columns"]], each["segments"]) for name, each in parameters.items()}


def test_a_column_that_is_ahead_is_in_the_one_table_until_the_run_ends(tmp_path: Path) -> None:
    ranges = {"x": [(0, 5)], "y": [(0, 4)], "z": [(0, 5)]}
    contents = recorded(tmp_path, ranges)
    assert tables(sources(contents, tmp_path, ended=False)) == {
        "columns": (["x", "y", "z"], [[0, 0, None]])
    }
    assert tables(sources(contents, tmp_path)) == {
        "columns": (["x", "z"], [[0, 0, 5]]),
        "columns_2": (["y"], [[0, 0, 4]]),
    }


def test_columns_that_begin_at_different_rows_are_different_tables(tmp_path: Path) -> None:
    contents = recorded(tmp_path, {"x": [(0, 5)], "y": [(2, 5)]})
    assert tables(sources(contents, tmp_path, ended=False)) == {
        "columns": (["x"], [[0, 0, None]]),
        "columns_2": (["y"], [[0, 2, None]]),
    }


def test_a_table_has_no_name_of_a_data_key(tmp_path: Path) -> None:
    contents = recorded(tmp_path, {"columns": [(0, 5)], "columns_2": [(0, 5)]})
    assert [*sources(contents, tmp_path)] == ["columns_3"]


def test_rows_of_which_no_event_is_known_have_no_node(tmp_path: Path) -> None:
    contents = recorded(tmp_path, {"x": [(0, 5)]}, y=scalar("number"))
    assert sources(contents, tmp_path) == {}


def test_only_the_last_rows_of_a_table_are_open(tmp_path: Path) -> None:
    contents = recorded(tmp_path, {"x": [(0, 2), (3, 5)]})
    assert tables(sources(contents, tmp_path, ended=False)) == {
        "columns": (["x"], [[0, 0, 2], [0, 3, None]])
    }


def test_a_column_of_rows_of_one_value_is_in_a_table(tmp_path: Path) -> None:
    contents = recorded(tmp_path, {"x": [(0, 5)]}, {**COLUMN, "dtype": "array", "shape": [1]})
    assert [*sources(contents, tmp_path)] == ["columns"]


@pytest.mark.parametrize(
    ("parameters", "family"),
    [({"chunk_shape": [4], "swmr": False}, "table"), ({"slice": "2:5"}, "array")],
)
def test_a_column_with_parameters_that_tables_lack_is_an_array(
    tmp_path: Path, parameters: dict[str, Any], family: str
) -> None:
    contents = recorded(tmp_path, {"x": [(0, 3)]}, parameters=parameters)
    source = sources(contents, tmp_path).popitem()[1]
    assert source.structure_family == family


@pytest.mark.parametrize(("own", "swmr"), [({}, True), ({"swmr": False}, False)])
def test_an_array_is_read_while_it_is_written_unless_its_resource_says_otherwise(
    tmp_path: Path, own: dict[str, Any], swmr: bool
) -> None:
    contents = recorded(tmp_path, {"x": [(0, 3)]}, IMAGE, parameters=own)
    source = sources(contents, tmp_path)["x"]
    assert (source.parameters["swmr"], source.parameters["locking"]) == (swmr, False)


def test_a_path_that_tiled_cannot_read_is_a_reason(tmp_path: Path) -> None:
    contents = recorded(tmp_path, {"x": [(0, 5)]}, file="run#5.h5")
    assert "reads no path with #" in str(sources(contents, tmp_path)["x"])


def test_a_file_that_is_not_here_has_no_virtual_file(tmp_path: Path) -> None:
    """It is a reason, no error of the disk, after which the ingester would try again for ever."""
    contents = recorded(tmp_path, {"x": [(0, 2), (3, 4)]}, IMAGE)
    reason = sources(contents, tmp_path)["x"]
    assert isinstance(reason, DataError)
    assert "f.h5: cannot be read as HDF5" in str(reason)


def write_images(path: Path, dataset: str = "x") -> None:
    with h5py.File(path, "w") as file:
        file[dataset] = np.stack([np.arange(9, dtype="<i4")] * 2, axis=1)


@pytest.mark.parametrize(
    ("key", "parameters", "rows"),
    [("x", {}, [0, 1, 3]), ("%x", {}, [0, 1, 3]), ("x", {"slice": "2:9"}, [2, 3, 5])],
)
def test_rows_that_are_left_out_are_not_shown(
    tmp_path: Path, key: str, parameters: dict[str, Any], rows: list[int]
) -> None:
    """They were taken again; a slice of another program begins at its row 0."""
    write_images(tmp_path / "f.h5", key[:1])
    contents = recorded(tmp_path, {key: [(0, 2), (3, 4)]}, IMAGE, parameters=parameters)
    ((_, source),) = sources(contents, tmp_path).items()
    with h5py.File(path_from_uri(source.assets[0].data_uri)) as file:
        images = file[source.parameters["dataset"]][()]
    assert images[: source.structure.shape[0], 0].tolist() == rows
    assert "slice" not in source.parameters


def test_a_full_disk_is_no_reason_why_a_file_has_no_node(tmp_path: Path) -> None:
    """The ingester tries again."""
    write_images(tmp_path / "f.h5")
    contents = recorded(tmp_path, {"x": [(0, 2), (3, 4)]}, IMAGE)
    with full_disk(), pytest.raises(OSError, match="large"):
        sources(contents, tmp_path)
    assert sources(contents, tmp_path)["x"].structure.shape == (3, 2)
