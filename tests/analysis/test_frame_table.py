"""Tables of frames whose inputs are in events, with and without identity and time in a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import raw_format

from skywright.analysis import frames as frames_module
from skywright.analysis import join_by_identity
from skywright.analysis.frames import FileRows, FrameReader, FrameTable, KeyRows
from skywright.files import readers
from skywright.files.columns import Column, ColumnReader, ColumnWriter
from skywright.files.index import IDENTITY, IndexWriter


def test_frames_of_events_are_counted_after_their_values_were_dropped() -> None:
    table = FrameTable(values={"x": {}, "y": {}})
    assert table.announced() == 0
    for number in range(1, 6):
        for name, values in table.values.items():
            values[number] = (name, number)
    assert (table.announced(), table.values_known_until(0)) == (5, 5)
    table.forget(3)
    assert sorted(table.values["x"]) == [4, 5]
    table.forget(5)
    assert table.values["x"] == {}
    assert (table.announced(), table.values_known_until(5)) == (5, 5)
    table.values["x"][6] = 1.0
    assert (table.announced(), table.values_known_until(5)) == (6, 5)
    assert FrameTable(values={"x": {}}, sequence_offset=7).announced() == 0
    assert FrameTable(values={"x": {8: 1.0}}, sequence_offset=7).announced() == 1


def test_a_part_of_frames_of_events_keeps_their_numbers() -> None:
    table = FrameTable(values={"x": {n: 10.0 * n for n in range(1, 9)}}).part(3, 6)
    with FrameReader(table.part(1, 3)) as reader:
        batch = reader.read(0, 2)
    assert batch.identities.tolist() == [5, 6]
    assert batch["x"].tolist() == [50.0, 60.0]


def test_values_of_events_with_identity_and_time_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    numbers = np.arange(10, 14)
    with ColumnWriter(path, (Column("/time", "<f8"),), Column("/number", "<i8")) as writer:
        writer.append(numbers, {"/time": numbers / 2.0})
    identity, time = KeyRows(), KeyRows()
    identity.add(FileRows(str(path), "/number", 0, 4, 1))
    time.add(FileRows(str(path), "/time", 0, 4, 1))
    table = FrameTable(values={"x": {1: 1.0, 2: 2.0, 4: 4.0}}, identity=identity, time=time)
    assert (table.announced(), table.values_known_until(0)) == (4, 2)
    with FrameReader(table) as reader:
        batch = reader.read(0, 4)
    assert batch.identities.tolist() == [10, 11, 13]
    assert batch.times.tolist() == [5.0, 5.5, 6.5]
    assert batch["x"].tolist() == [1.0, 2.0, 4.0]
    table.forget(2)
    assert sorted(table.values["x"]) == [4]


def test_identities_may_be_in_another_file_than_the_frames(tmp_path: Path) -> None:
    keys = {}
    for name in ("x", "number"):
        path = tmp_path / f"{name}.h5"
        with ColumnWriter(path, (Column(f"/{name}", "<i8"),), Column("/row", "<i8")) as writer:
            writer.append(np.arange(3), {f"/{name}": np.arange(10, 13)})
        keys[name] = KeyRows()
        keys[name].add(FileRows(str(path), f"/{name}", 0, 3, 1))
    table = FrameTable(in_files={"x": keys["x"]}, identity=keys["number"])
    with FrameReader(table) as reader:
        assert reader.read(0, 3).identities.tolist() == [10, 11, 12]


def test_values_of_a_frame_that_was_taken_again_are_kept_for_it() -> None:
    rows = KeyRows()
    for start, stop, sequence in ((0, 3, 1), (3, 4, 3), (4, 5, 4)):
        rows.add(FileRows("a.h5", "/x", start, stop, sequence))
    table = FrameTable(in_files={"x": rows}, values={"y": dict.fromkeys(range(1, 5), 0.0)})
    table.forget(3)
    assert sorted(table.values["y"]) == [3, 4]
    table.forget(4)
    assert sorted(table.values["y"]) == [4]


def test_rows_that_were_taken_again_count_once_and_are_the_last_ones() -> None:
    rows = KeyRows()
    for start, stop, sequence in ((0, 4, 1), (4, 7, 3), (7, 8, 4), (8, 9, 6)):
        rows.add(FileRows("a.h5", "/x", start, stop, sequence))
    table = FrameTable(in_files={"x": rows})
    assert table.announced() == 9
    rows.drop_superseded()
    assert table.announced() == 6
    assert table.sequence(0, 6) == [1, 2, 3, 4, 5, 6]
    assert [n for each in rows.segments for n in range(each.start, each.stop)] == [0, 1, 4, 7, 6, 8]


def test_picked_frames_keep_the_order_of_their_file_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    numbers = np.array([7, 0, 8, 0, 3, 0, 8, 0, 9])
    with ColumnWriter(path, (Column("/x", "<f8"),), Column("/number", "<i8")) as writer:
        writer.append(numbers, {"/x": np.arange(9.0)})
    identity, x = KeyRows(), KeyRows()
    identity.add(FileRows(str(path), "/number", 0, 9, 1))
    x.add(FileRows(str(path), "/x", 0, 9, 1))
    with FrameReader(FrameTable(in_files={"x": x}, identity=identity)) as reader:
        batch = reader.pick(range(0, 9, 2))
        assert batch.identities.tolist() == [7, 8, 3, 8, 9]
        assert batch["x"].tolist() == [0, 2, 4, 6, 8]


def test_frames_before_those_that_are_not_in_their_file_are_readable(tmp_path: Path) -> None:
    x = KeyRows()
    for name, first, rows in (("a.h5", 0, 4), ("b.h5", 6, 3)):
        with ColumnWriter(tmp_path / name, (Column("/x", "<f8"),), Column("/n", "<i8")) as writer:
            writer.append(np.arange(rows), {"/x": np.arange(float(rows))})
        x.add(FileRows(str(tmp_path / name), "/x", first, first + 4, x.count + 1))
    with FrameReader(FrameTable(in_files={"x": x})) as reader:
        assert (reader.readable(0, 8), reader.readable(2, 8), reader.readable(5, 8)) == (4, 4, 5)
        assert reader.read(0, 8)["x"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_int64_nanoseconds_are_inputs_without_a_loss(tmp_path: Path) -> None:
    """`Batch.times` are float64 seconds, which cannot tell these times apart; inputs can."""
    path = tmp_path / "a.h5"
    ns = 1_795_565_922_000_000_001 + np.arange(4)
    with ColumnWriter(path, (Column("/ns", "<i8"),), Column("/number", "<i8")) as writer:
        writer.append(np.arange(4), {"/ns": ns})
    in_file = KeyRows()
    in_file.add(FileRows(str(path), "/ns", 0, 4, 1))
    in_events = {number: int(value) for number, value in enumerate(ns, 1)}
    table = FrameTable(in_files={"in_file": in_file}, values={"in_events": in_events})
    with FrameReader(table) as reader:
        batch = join_by_identity([*reader.batches(2, 4), reader.read(0, 2)])
    for name in ("in_file", "in_events"):
        assert batch[name].dtype == np.int64
        assert batch[name].tolist() == ns.tolist()
    assert len(np.unique(ns / 1e9)) == 1


def test_a_column_of_events_and_batches_where_the_first_frame_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "BATCH_BYTES", 16)
    path = tmp_path / "a.h5"
    with ColumnWriter(path, (Column("/x", "<f8"),), Column("/number", "<i8")) as writer:
        writer.append(np.arange(8), {"/x": np.arange(8.0)})
    x = KeyRows()
    x.add(FileRows(str(path), "/x", 0, 8, 1))
    table = FrameTable(in_files={"x": x}, values={"setting": {n: 10 + n for n in range(2, 9)}})
    with FrameReader(table) as reader:
        column = reader.column("setting", 8)
        assert column is not None
        assert column.tolist() == [np.iinfo(np.int64).min, *range(12, 19)]
        assert reader.column("y", 8) is None
        sizes = [len(batch) for batch in reader.batches(0, 8)]
    assert sum(sizes) == 7
    assert max(sizes) < 3


def test_columns_of_an_index_beside_columns_of_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers share the path of the index; the order of the inputs does not matter."""
    monkeypatch.setattr(readers, "instruments", lambda: {"raw": raw_format.INSTRUMENT})
    (tmp_path / "a.raw").write_bytes(b"".join(map(raw_format.record, range(3))))
    records = raw_format.index(tmp_path / "a.raw", 0, 3)
    path = tmp_path / "a.h5"
    writer = IndexWriter(path, extra=(raw_format.TIME,))
    writer.append(records.file, records.identity, records.columns)
    writer.close()
    tracks = {"time": KeyRows(), "image": KeyRows()}
    tracks["time"].add(FileRows(str(path), raw_format.TIME.path, 0, 3, 1))
    tracks["image"].add(FileRows(str(path), "image", 0, 3, 1, raw_format.MIMETYPE))
    identity = KeyRows()
    identity.add(FileRows(str(path), IDENTITY, 0, 3, 1))
    with FrameReader(FrameTable(in_files=tracks, identity=identity)) as reader:
        batch = reader.read(0, 3)
    np.testing.assert_array_equal(batch["image"], [raw_format.image(n) for n in range(3)])
    assert batch["time"].tolist() == [1e9, 1e9 + 1, 1e9 + 2]


def test_rows_after_those_that_a_column_lacks_do_not_move_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that is open elsewhere in this process may be read without its newest rows."""
    x, identity = KeyRows(), KeyRows()
    for name, first in (("a.h5", 0), ("b.h5", 4)):
        with ColumnWriter(tmp_path / name, (Column("/x", "<f8"),), Column("/n", "<i8")) as writer:
            rows = first + np.arange(4)
            writer.append(rows, {"/x": rows * 10.0})
        x.add(FileRows(str(tmp_path / name), "/x", 0, 4, first + 1))
        identity.add(FileRows(str(tmp_path / name), "/n", 0, 4, first + 1))
    whole = ColumnReader.read

    def read(reader: ColumnReader, column: str, start: int = 0, stop: int | None = None) -> Any:
        rows = whole(reader, column, start, stop)
        return rows[:3] if (column, reader.path.name) == ("/x", "a.h5") else rows

    monkeypatch.setattr(ColumnReader, "read", read)
    with FrameReader(FrameTable(in_files={"x": x}, identity=identity)) as reader:
        batch = reader.read(0, 8)
    assert batch.identities.tolist() == [0, 1, 2]
    assert batch["x"].tolist() == [0.0, 10.0, 20.0]
