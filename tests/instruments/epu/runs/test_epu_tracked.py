"""Rows of a grid's micrographs with their path on the processing cluster."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import h5py
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from support.waiting import LIMIT_S

from skywright.errors import ConfigError
from skywright.files.columns import ColumnReader, ColumnWriter
from skywright.instruments.epu.broker.apply import apply_event
from skywright.instruments.epu.database import Database, open_database, record, remove, schema
from skywright.instruments.epu.database.write import set_values
from skywright.instruments.epu.names import recognize
from skywright.instruments.epu.runs import layouts
from skywright.instruments.epu.runs.layouts import ROW
from skywright.instruments.epu.runs.tracked import TrackedGrids
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import write_visit
from skywright.instruments.epu.watch.importer import FileImporter, Outcome

VISIT = plan_visit(5, 1, 4, imaged=1, holes=2)
MAP = {"Z:\\DoseFractions": "/dls/m02"}
SESSION = "EpuSession.dm"


@pytest.fixture
def importer(tmp_path: Path) -> Iterator[FileImporter]:
    """Reads a visit; its session's file is not read yet."""
    database = open_database(tmp_path / "epu.sqlite", durable=False)
    write_visit(VISIT, tmp_path / "data")
    reader = FileImporter(tmp_path / "data", database)
    read(reader, session=False)
    yield reader
    database.close()


def read(importer: FileImporter, session: bool) -> Outcome:
    """Read the session's file alone, or all the others."""
    names = (str(path.relative_to(importer.root)) for path in sorted(importer.root.rglob("*.*")))
    files = [file for name in names if (file := recognize(name)) is not None]
    return importer.record(file for file in files if file.path.endswith(SESSION) == session)


def paths_of(directory: Path, uid: str) -> list[tuple[str, str]]:
    with ColumnReader(directory / f"{uid}_micrographs.h5", ROW) as reader:
        columns = [reader.read(f"/entry/{name}") for name in ("manifest_file", "cluster_path")]
    return [(file.decode(), place.decode()) for file, place in zip(*columns, strict=True)]


def run_of(importer: FileImporter, directory: Path, uid: str, path_map: dict[str, str]) -> None:
    grids = TrackedGrids(importer.database, importer.root, path_map)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, uid, directory)
    grids.close()


def test_micrographs_have_their_path_on_the_cluster(importer: FileImporter, tmp_path: Path) -> None:
    read(importer, session=True)
    run_of(importer, tmp_path, "mapped", MAP)
    found = paths_of(tmp_path, "mapped")
    assert len(found) == len(list(VISIT.micrographs()))
    for file, place in found:
        session = VISIT.grids[0].name
        inside = file.split(f"{session}/", 1)[1]
        assert place == f"/dls/m02/{VISIT.name}/{session}/{inside}"


def test_a_watched_session_without_a_name_has_its_directory_in_the_paths(
    importer: FileImporter, tmp_path: Path
) -> None:
    (path,) = importer.root.rglob(SESSION)
    text, count = re.subn("<Name .*?</Name>", "", path.read_text())
    assert count == 1
    path.write_text(text)
    database = open_database(tmp_path / "session.sqlite", durable=False)
    session = FileImporter(path.parent, database)
    read(session, session=False)
    read(session, session=True)
    run_of(session, tmp_path, "nameless", MAP)
    found = paths_of(tmp_path, "nameless")
    assert len(found) == len(list(VISIT.micrographs()))
    for file, place in found:
        assert place == f"/dls/m02/{VISIT.name}/{path.parent.name}/{file}"
    database.close()


@pytest.mark.parametrize("path_map", [{}, {"Y:\\": "/dls"}, {"Z:\\": "/" + 600 * "x"}])
def test_without_a_prefix_or_room_the_path_is_empty(
    importer: FileImporter, tmp_path: Path, path_map: dict[str, str]
) -> None:
    read(importer, session=True)
    run_of(importer, tmp_path, "unmapped", path_map)
    found = paths_of(tmp_path, "unmapped")
    assert len(found) == len(list(VISIT.micrographs()))
    assert {place for _, place in found} == {""}


def test_a_session_file_that_comes_late_brings_the_paths(
    importer: FileImporter, tmp_path: Path
) -> None:
    grids = TrackedGrids(importer.database, importer.root, MAP)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "late", tmp_path)
    grids.committed(read(importer, session=True))
    grids.close()
    count = len(list(VISIT.micrographs()))
    found = paths_of(tmp_path, "late")
    assert len(found) == 2 * count
    assert {place for _, place in found[:count]} == {""}
    assert all(place.startswith("/dls/m02/") for _, place in found[count:])


def test_a_run_of_an_older_version_is_not_handed_over_again(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(importer, session=True)
    with monkeypatch.context() as older:
        columns = {kind: tuple(layouts.stored_columns(kind)) for kind in layouts.COLUMNS}
        older.setattr(layouts, "COLUMNS", columns)
        run_of(importer, tmp_path, "old", MAP)
    with h5py.File(tmp_path / "old_micrographs.h5") as file:
        assert "manifest_file" in file["entry"]
        assert "cluster_path" not in file["entry"]
    (grid,) = TrackedGrids(importer.database, importer.root, MAP).grids()
    assert grid.amends == "old"
    assert not grid.waiting


def test_the_last_run_counts_also_where_the_clock_was_set_back(
    importer: FileImporter, tmp_path: Path
) -> None:
    event = {"event_type": "ctf.completed", "micrograph_uuid": VISIT.micrographs()[0].id}
    for uid, value in (("first", 3.0), ("second", 4.0)):
        with importer.database.write() as connection:
            apply_event(connection, event | {"ctf_max_resolution_estimate": value})
        run_of(importer, tmp_path, uid, {})
        if uid == "first":
            later = datetime.now(UTC) + timedelta(hours=1)
            with importer.database.write() as connection:
                set_values(connection, schema.run_rows, started_at=later)
    (grid,) = TrackedGrids(importer.database, importer.root).grids()
    assert grid.amends == "second"
    assert not grid.waiting


def test_a_run_whose_rows_nobody_reads_gives_them_back(
    importer: FileImporter, tmp_path: Path
) -> None:
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "unread", tmp_path)
    grids.end("unread", {})
    assert [each.waiting for each in grids.grids()] == [True]
    assert [each.waiting for each in TrackedGrids(importer.database, importer.root).grids()] == [
        True
    ]
    grids.begin(grid.uuid, "next", tmp_path)
    assert grids.counts()["next"] == grids.counts()["unread"]
    grids.close()
    assert not grids.grids()[0].waiting


def test_a_run_that_begins_for_long_ends_no_other(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life of sessions wait meanwhile."""
    with importer.database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a2", "data_dir": "."}])
        record(connection, "grid", [{"uuid": "g2", "acquisition_uuid": "a2", "name": "n"}])
    grids = TrackedGrids(importer.database, importer.root)
    first = next(grid for grid in grids.grids() if grid.uuid != "g2")
    grids.begin(first.uuid, "first", tmp_path)
    now, full = time.monotonic(), True

    def slow(*arguments: Any) -> ColumnWriter:
        nonlocal now
        now += 15.0
        if full:
            raise OSError(28, "No space left on device")
        return ColumnWriter(*arguments)

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("skywright.instruments.epu.runs.tracked.ColumnWriter", slow)
    with pytest.raises(OSError, match="No space"):
        grids.begin("g2", "failed", tmp_path)
    assert not grids.end_abandoned(15.0)
    full = False
    grids.begin("g2", "second", tmp_path)
    assert not grids.end_abandoned(15.0)
    grids.close()


def test_a_session_lives_that_gives_a_sign_while_a_file_is_written(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "run", tmp_path)
    later = time.monotonic() + 60.0
    monkeypatch.setattr("time.monotonic", lambda: later)
    with grids._lock:
        sign = Thread(target=grids.alive, args=(["run", "unknown"],), daemon=True)
        sign.start()
        sign.join(LIMIT_S)
        assert not grids.end_abandoned(15.0)
    sign.join()
    assert list(grids.counts()) == ["run"]
    grids.close()


def test_rows_that_a_full_disk_refuses_come_when_it_has_room(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    names = ("uuid", "grid_uuid", "gridsquare_uuid", "foilhole_uuid", "micrograph_id")
    query = select(*[schema.micrograph.c[name] for name in names])
    with importer.database.read() as connection:
        micrographs = [dict(row) for row in connection.execute(query).mappings()]

    def change(number: int) -> Outcome:
        """Change a micrograph, as the watcher does, and store its result, as the consumer does."""
        row = micrographs[number]
        with importer.database.write() as connection:
            found = record(connection, "micrograph", [row | {"dose": 7.0}])
            result = {"event_type": "ctf.completed", "micrograph_uuid": row["uuid"]}
            apply_event(connection, result | {"ctf_max_resolution_estimate": 3.0})
        return Outcome(recorded={"micrograph": found})

    def rows() -> tuple[int, int]:
        counts = grids.counts()["run"]
        return counts["micrographs"] - len(micrographs), counts["results"]

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    grids.begin(grid.uuid, "run", tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(ColumnWriter, "append", full)
        grids.committed(change(0))
        grids.poll()
        assert "results are not written yet" in grids.problem
        assert rows() == (0, 0)
    assert grids.poll()
    assert (rows(), grids.problem) == ((1, 1), "")
    with monkeypatch.context() as disk:
        disk.setattr(ColumnWriter, "append", full)
        grids.committed(change(1))
        grids.end("run")
    assert grids.grids()[0].waiting
    grids.begin(grid.uuid, "next", tmp_path)
    assert grids.counts()["next"] == {"squares": 0, "holes": 0, "micrographs": 1, "results": 1}
    grids.close()


def change_micrographs(database: Database, dose: float) -> Outcome:
    """Change all micrographs, as the watcher does."""
    names = ("uuid", "grid_uuid", "gridsquare_uuid", "foilhole_uuid", "micrograph_id")
    query = select(*[schema.micrograph.c[name] for name in names])
    with database.write() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
        found = record(connection, "micrograph", [row | {"dose": dose} for row in rows])
    return Outcome(recorded={"micrograph": found})


def test_a_run_ends_when_a_write_has_failed(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 cannot go on with such a file; the next run of the grid takes the rows."""
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "run", tmp_path)
    before = grids.counts()["run"]

    def fail(dataset: h5py.Dataset) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(h5py.Dataset, "flush", fail)
        grids.committed(change_micrographs(importer.database, 7.0))
    assert "Input/output error" in grids.problem
    grids.poll()
    assert grids.problem == ""
    assert grids.counts()["run"] == before
    assert [(each.waiting, each.amends) for each in grids.grids()] == [(True, "run")]
    grids.begin(grid.uuid, "next", tmp_path)
    expected = {**dict.fromkeys(before, 0), "micrographs": before["micrographs"]}
    assert grids.counts()["next"] == expected
    grids.close()


def test_a_grid_may_be_polled_before_its_commit_is_told(
    importer: FileImporter, tmp_path: Path
) -> None:
    database = open_database(tmp_path / "other.sqlite", durable=False)
    grids = TrackedGrids(database, importer.root, MAP)
    reader = FileImporter(importer.root, database)
    read(reader, session=True)
    read(reader, session=False)
    assert grids.poll()
    assert [grid.waiting for grid in grids.grids()] == [True]
    database.close()


def test_grids_of_another_directory_are_left_to_its_owner(
    importer: FileImporter, tmp_path: Path
) -> None:
    here = TrackedGrids(importer.database, importer.root)
    there = TrackedGrids(importer.database, tmp_path / "there")
    assert not there.grids()
    for grids in (here, there):
        (grid,) = here.grids()
        event = {"event_type": "ctf.completed", "ctf_max_resolution_estimate": 3.0}
        with importer.database.write() as connection:
            micrograph = connection.execute(select(schema.micrograph.c.uuid).limit(1)).scalar()
            apply_event(connection, {**event, "micrograph_uuid": micrograph})
        grids.poll()
    assert not there.grids()
    with pytest.raises(ConfigError, match="no such grid"):
        there.begin(grid.uuid, "twice", tmp_path)


def test_a_directory_that_was_moved_brings_its_rows(importer: FileImporter, tmp_path: Path) -> None:
    (grid,) = TrackedGrids(importer.database, importer.root).grids()
    there = tmp_path / "there" / importer.root.name
    there.parent.mkdir()
    importer.root.rename(there)
    grids = TrackedGrids(importer.database, there)
    assert not grids.grids()
    grids.committed(read(FileImporter(there, importer.database), session=True))
    assert [(each.uuid, each.waiting) for each in grids.grids()] == [(grid.uuid, True)]


def test_a_grid_that_no_directory_has_belongs_to_each(database: Database, tmp_path: Path) -> None:
    """An agent on another machine sends it to the API."""
    with database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a", "name": "n"}])
        record(connection, "grid", [{"uuid": "g", "acquisition_uuid": "a", "name": "n"}])
    assert [grid.uuid for grid in TrackedGrids(database, tmp_path).grids()] == ["g"]


def with_grid(database: Database, name: str) -> Outcome:
    """Store a grid without files, as the API does."""
    acquisition = {"uuid": f"a-{name}", "name": name}
    grid = {"uuid": name, "acquisition_uuid": f"a-{name}", "name": name}
    with database.write() as connection:
        kinds = {"acquisition": acquisition, "grid": grid}
        return Outcome(recorded={kind: record(connection, kind, [kinds[kind]]) for kind in kinds})


@pytest.mark.parametrize("path_map", [{}, MAP])
def test_a_grid_that_is_deleted_takes_no_rows_from_other_runs(
    importer: FileImporter, tmp_path: Path, path_map: dict[str, str]
) -> None:
    database = importer.database
    with_grid(database, "deleted")
    grids = TrackedGrids(database, importer.root, path_map)
    (mine,) = {grid.uuid for grid in grids.grids()} - {"deleted"}
    for grid in (mine, "deleted"):
        grids.begin(grid, f"run-{grid}", tmp_path)
    before = grids.counts()[f"run-{mine}"]
    with database.write() as connection:
        assert remove(connection, "acquisition", "a-deleted")
    for name in ("second", "third"):
        grids.committed(with_grid(database, name))
        assert not grids.poll()
        assert name in {grid.uuid for grid in grids.grids()}
    event = {"event_type": "ctf.completed", "ctf_max_resolution_estimate": 3.0}
    with database.write() as connection:
        micrograph = connection.execute(select(schema.micrograph.c.uuid).limit(1)).scalar()
        apply_event(connection, {**event, "micrograph_uuid": micrograph})
    assert grids.poll()
    assert grids.counts()[f"run-{mine}"] == {**before, "results": before["results"] + 1}
    assert {grid.uuid for grid in grids.grids()} == {mine, "second", "third"}
    grids.close()


def test_a_run_ends_whose_grid_another_directory_has_now(
    importer: FileImporter, tmp_path: Path
) -> None:
    read(importer, session=True)
    elsewhere = TrackedGrids(importer.database, tmp_path / "elsewhere", MAP)
    file = schema.source_file
    with importer.database.write() as connection:  # the grid came over the API before its files
        rows = [dict(row) for row in connection.execute(select(file)).mappings()]
        connection.execute(file.delete())
    elsewhere.committed(with_grid(importer.database, "other"))
    (grid,) = {each.uuid for each in elsewhere.grids()} - {"other"}
    run = elsewhere.begin(grid, "run", tmp_path)
    with importer.database.write() as connection:
        connection.execute(file.insert(), rows)
    elsewhere.committed(with_grid(importer.database, "next"))
    assert {each.uuid for each in elsewhere.grids()} == {"other", "next"}
    handed = {kind: run.writers[kind].flushed for kind in ("gridsquare", "foilhole")}
    counts = elsewhere.end("run", handed)  # nobody has read the micrographs
    assert counts["micrographs"] == len(list(VISIT.micrographs()))
    elsewhere.close()


def test_rows_of_a_run_that_did_not_begin_come_in_the_next_one(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(importer, session=True)
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()

    class FullDisk(ColumnWriter):
        def append(self, *arguments: Any) -> None:
            raise OSError(28, "No space left on device")

    def writer(path: Path, *arguments: Any) -> ColumnWriter:
        return (FullDisk if "micrographs" in path.name else ColumnWriter)(path, *arguments)

    with monkeypatch.context() as full:
        full.setattr("skywright.instruments.epu.runs.tracked.ColumnWriter", writer)
        with pytest.raises(OSError, match="No space"):
            grids.begin(grid.uuid, "failed", tmp_path)
    assert [(each.waiting, each.amends) for each in grids.grids()] == [(True, "")]
    assert [each.waiting for each in TrackedGrids(importer.database, importer.root).grids()] == [
        True
    ]
    run = grids.begin(grid.uuid, "second", tmp_path)
    assert run.writers["gridsquare"].flushed == len(VISIT.grids[0].squares)
    assert run.writers["micrograph"].flushed == len(list(VISIT.micrographs()))
    grids.close()


def test_rows_come_when_the_database_is_back(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = TrackedGrids(importer.database, importer.root, MAP)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "run", tmp_path)
    before = grids.counts()["run"]
    names = ("uuid", "grid_uuid", "gridsquare_id")
    query = select(*[schema.gridsquare.c[name] for name in names]).limit(1)
    with importer.database.write() as connection:
        (square,) = connection.execute(query).mappings()
        found = record(connection, "gridsquare", [{**square, "state": "Skipped"}])
    with monkeypatch.context() as away:

        def no_connection(database: Database) -> Any:
            raise OperationalError("x", {}, Exception("no route"))

        away.setattr(Database, "read", no_connection)
        late = read(importer, session=True)  # the paths of micrographs are known now
        for outcome in (Outcome(recorded={"gridsquare": found}), late):
            with pytest.raises(OperationalError):
                grids.committed(outcome)
        with pytest.raises(OperationalError):
            grids.poll()
    assert grids.poll()
    squares = found.changed | late.recorded["gridsquare"].changed
    new = {"squares": len(squares), "micrographs": len(list(VISIT.micrographs()))}
    assert grids.counts()["run"] == {key: rows + new.get(key, 0) for key, rows in before.items()}
    grids.close()


def test_runs_that_end_without_database_leave_no_file_open(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with importer.database.write() as connection:
        record(connection, "acquisition", [{"uuid": "a2", "data_dir": "."}])
        record(connection, "grid", [{"uuid": "g2", "acquisition_uuid": "a2", "name": "n"}])
        record(connection, "grid", [{"uuid": "g3", "acquisition_uuid": "a2", "name": "n"}])
    grids = TrackedGrids(importer.database, importer.root)
    names = [grid.uuid for grid in grids.grids()]
    runs = [grids.begin(grid, f"run-{grid}", tmp_path) for grid in names]

    def no_connection(database: Database) -> Any:
        raise OperationalError("x", {}, Exception("no route"))

    monkeypatch.setattr(Database, "write", no_connection)
    with pytest.raises(OperationalError):
        grids.end(runs[0].uid)
    grids.close()
    for run in runs:
        for kind in run.writers:
            with h5py.File(run.path(kind), "r+"):  # refused while a writer has it
                pass
    assert list(grids.counts()) == [run.uid for run in runs]


def test_the_end_of_a_run_is_stored_when_the_database_is_back(
    importer: FileImporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "unread", tmp_path)

    def no_connection(database: Database) -> Any:
        raise OperationalError("x", {}, Exception("no route"))

    with monkeypatch.context() as away:
        away.setattr(Database, "write", no_connection)
        for _ in range(2):
            with pytest.raises(OperationalError):
                grids.end("unread", {})
    grids.poll()
    assert [each.waiting for each in grids.grids()] == [True]
    grids.begin(grid.uuid, "next", tmp_path)
    assert grids.counts()["next"] == grids.counts()["unread"]
    grids.close()


def test_a_row_that_no_run_can_have_waits_for_none(importer: FileImporter, tmp_path: Path) -> None:
    query = select(schema.gridsquare.c.uuid, schema.gridsquare.c.grid_uuid).limit(1)
    with importer.database.write() as connection:
        (square,) = connection.execute(query).mappings()
        record(connection, "gridsquare", [{**square, "state": 40 * "x"}])
    run_of(importer, tmp_path, "run", {})
    grids = TrackedGrids(importer.database, importer.root)  # the IOC is started again
    assert [grid.waiting for grid in grids.grids()] == [False]
    assert not grids.poll()


def test_a_row_that_is_tried_again_counts_once_as_refused(
    importer: FileImporter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("uuid", "grid_uuid", "gridsquare_id")
    query = select(*[schema.gridsquare.c[name] for name in names]).limit(1)
    with importer.database.write() as connection:
        (square,) = connection.execute(query).mappings()
        found = record(connection, "gridsquare", [{**square, "state": 40 * "x"}])
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "run", tmp_path)
    for _ in range(3):
        grids.committed(Outcome(recorded={"gridsquare": found}))
    assert grids.refused == 1
    assert ["does not fit" in record.getMessage() for record in caplog.records] == [True]
    with importer.database.write() as connection:
        found = record(connection, "gridsquare", [{**square, "state": 40 * "y"}])
    grids.committed(Outcome(recorded={"gridsquare": found}))
    assert grids.refused == 2
    grids.close()


def planned_holes(directory: Path, *uids: str) -> set[str]:
    """Return the holes that are planned by their last rows in some runs."""
    last: dict[str, bool] = {}
    for uid in uids:
        with ColumnReader(directory / f"{uid}_holes.h5", ROW) as reader:
            columns = [reader.read(f"/entry/{name}") for name in ("foilhole_id", "planned")]
        last.update({name.decode(): bool(flag) for name, flag in zip(*columns, strict=True)})
    return {name for name, flag in last.items() if flag}


def find_holes_anew(importer: FileImporter, first: int) -> Outcome:
    """Let EPU give other ids to the planned holes of all squares, and read these."""
    number, files = first, []
    for path in sorted(importer.root.rglob("Metadata/*.dm")):
        text, keys = re.subn(r"<b:key>\d+<", lambda found: "<b:key>{}<", path.read_text())
        path.write_text(text.format(*range(number, number + keys)))
        number += keys
        files.append(recognize(path.relative_to(importer.root).as_posix()))
    return importer.record(file for file in files if file is not None)


def planned_in_database(database: Database) -> set[str]:
    hole = schema.foilhole.c
    with database.read() as connection:
        return set(connection.execute(select(hole.foilhole_id).where(hole.planned)).scalars())


@pytest.mark.parametrize("is_open", [True, False])
def test_holes_that_are_not_planned_any_more_have_a_last_row(
    importer: FileImporter, tmp_path: Path, is_open: bool
) -> None:
    for path in importer.root.rglob("FoilHole_*.xml"):
        path.unlink()  # no hole is imaged
    importer = FileImporter(
        importer.root, open_database(tmp_path / "planned.sqlite", durable=False)
    )
    read(importer, session=True)
    read(importer, session=False)
    grids = TrackedGrids(importer.database, importer.root)
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "first", tmp_path)
    before = planned_holes(tmp_path, "first")
    assert before == planned_in_database(importer.database)
    if not is_open:
        grids.end("first")
    grids.committed(find_holes_anew(importer, 77_000))
    if not is_open:
        assert grids.grids()[0].waiting
        grids.begin(grid.uuid, "second", tmp_path)
    uids = ["first"] if is_open else ["first", "second"]
    after = planned_holes(tmp_path, *uids)
    assert after == planned_in_database(importer.database)
    assert after.isdisjoint(before)
    grids.close()
    assert [each.waiting for each in TrackedGrids(importer.database, importer.root).grids()] == [
        False
    ]
    importer.database.close()


def test_rows_of_a_disk_that_is_mounted_late_are_not_handed_over_again(
    importer: FileImporter, tmp_path: Path
) -> None:
    mounted = tmp_path / "assets" / "day"
    run_of(importer, mounted, "first", {})
    mounted.parent.rename(tmp_path / "away")
    grids = TrackedGrids(importer.database, importer.root)
    assert [each.waiting for each in grids.grids()] == [True]
    assert "first" in grids.unreadable
    (tmp_path / "away").rename(mounted.parent)
    grids.poll()
    assert grids.unreadable == ""
    assert [each.waiting for each in grids.grids()] == [False]
    (grid,) = grids.grids()
    grids.begin(grid.uuid, "second", mounted)
    assert not any(grids.counts()["second"].values())
    grids.close()


def test_a_run_whose_files_were_removed_is_no_trouble(
    importer: FileImporter, tmp_path: Path
) -> None:
    run_of(importer, tmp_path, "removed", {})
    for path in tmp_path.glob("removed_*.h5"):
        path.unlink()
    grids = TrackedGrids(importer.database, importer.root)
    assert [each.waiting for each in grids.grids()] == [True]
    assert grids.unreadable == ""


def test_a_run_of_a_disk_that_is_gone_is_no_trouble_when_a_later_one_has_its_rows(
    importer: FileImporter, tmp_path: Path
) -> None:
    mounted = tmp_path / "assets" / "day"
    run_of(importer, mounted, "first", {})
    mounted.parent.rename(tmp_path / "away")
    run_of(importer, tmp_path, "second", {})
    grids = TrackedGrids(importer.database, importer.root)
    assert [each.waiting for each in grids.grids()] == [False]
    assert grids.unreadable == ""
