"""The entity database on SQLite and PostgreSQL."""

import contextlib
import random
import re
import sqlite3
import string
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.exc import OperationalError
from support.epu_api import events

from skywright.errors import ConfigError
from skywright.instruments.epu.database import (
    Database,
    acquisition_uuid,
    engine,
    foilhole_uuid,
    grid_uuid,
    gridsquare_uuid,
    open_database,
    read,
    record,
    record_files,
    remove,
    schema,
)
from skywright.instruments.epu.database.engine import metadata
from skywright.instruments.epu.database.writer import Writer
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import write_visit
from skywright.instruments.epu.watch.watcher import Watcher

SESSION = acquisition_uuid("visit/session")
GRID = grid_uuid(SESSION)


@pytest.fixture(autouse=True)
def session(request: pytest.FixtureRequest) -> None:
    """Store one session with its grid."""
    if "database" not in request.fixturenames:
        return
    with request.getfixturevalue("database").write() as connection:
        record(connection, "acquisition", [{"uuid": SESSION, "name": "session"}])
        grid = {"uuid": GRID, "acquisition_uuid": SESSION, "name": "grid"}
        record(connection, "grid", [grid])


def square(number: str = "7", **columns: object) -> dict[str, object]:
    uuid = gridsquare_uuid(GRID, number)
    return {"uuid": uuid, "grid_uuid": GRID, "gridsquare_id": number, **columns}


def hole(number: str = "70", **columns: object) -> dict[str, object]:
    return {
        "uuid": foilhole_uuid(GRID, "7", number),
        "grid_uuid": GRID,
        "gridsquare_uuid": gridsquare_uuid(GRID, "7"),
        "gridsquare_id": "7",
        "foilhole_id": number,
        **columns,
    }


def micrograph(uuid: str = "m1", **columns: object) -> dict[str, object]:
    return {
        "uuid": uuid,
        "grid_uuid": GRID,
        "gridsquare_uuid": gridsquare_uuid(GRID, "7"),
        "foilhole_uuid": foilhole_uuid(GRID, "7", "70"),
        "gridsquare_id": "7",
        "foilhole_id": "70",
        **columns,
    }


def differences_from_the_declaration(database: Database) -> list[Any]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))


def test_a_new_database_has_the_tables_that_the_code_declares(database: Database) -> None:
    assert differences_from_the_declaration(database) == []


def test_migrations_make_the_tables_that_the_code_declares(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(Path(__file__).with_name("version_1.sql").read_text())
    database = open_database(path)
    assert differences_from_the_declaration(database) == []
    database.close()


def test_the_tables_of_another_program_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    name = next(iter(metadata.tables))
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(f"CREATE TABLE {name} (id INTEGER)")
    with pytest.raises(ConfigError, match=f"tables {name} are of another program"):
        open_database(path)
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [(name,)]


def url_of(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")


def test_opening_again_keeps_the_rows(database: Database) -> None:
    again = open_database(url_of(database))
    with again.read() as connection:
        assert read.count(connection, "grid") == 1
    assert again.identity() == database.identity()
    again.close()


@pytest.mark.parametrize("url", ["sqlite_url", "empty_postgres_url"])
def test_threads_that_open_a_new_database_at_once_make_it_once(
    url: str, request: pytest.FixtureRequest
) -> None:
    database_url = request.getfixturevalue(url)
    opened: list[Database] = []
    threads = [
        threading.Thread(target=lambda: opened.append(open_database(database_url)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({database.identity() for database in opened}) == 1
    assert len(opened) == 4
    for database in opened:
        database.close()


def test_a_new_file_that_others_open_at_the_same_time_is_tried_again() -> None:
    class Locked:
        """A connection whose first two tries meet the lock of another one."""

        tries = 0

        def execute(self, pragma: str) -> "Locked":
            self.tries += 1
            if self.tries < 3:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            return self

        def close(self) -> None:
            pass

    connection = Locked()
    engine._use_wal(connection)
    assert connection.tries == 3


def test_a_new_file_that_cannot_be_written_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_S", 3600.0)  # a wait would exceed the limit of a test
    sqlite3.connect(tmp_path / "full").execute("CREATE TABLE one (x)").connection.close()
    connection = sqlite3.connect(f"file:{tmp_path / 'full'}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        engine._use_wal(connection)
    connection.close()


def test_a_database_of_a_newer_version_is_refused(sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(ConfigError, match="9999"):
        open_database(sqlite_url)


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://host/name", "sqlite://", "://", "", "nonsense", "sqlite:epu.db"),
        *("SQLITE:epu.db", "postgresql://127.0.0.1:1/\udce9", "odd\0.db"),
    ],
)
def test_a_bad_url_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="database"):
        open_database(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["EPU.SQLITE", "epu.Sqlite3", "epu.DB"])
def test_the_ending_of_a_new_file_may_have_any_letter_case(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_database(name).close()
    assert Path(name).exists()


def test_a_file_that_is_there_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_database("new.db").close()
    Path("new.db").rename("entities")
    open_database("entities").close()
    assert not Path("new.db").exists()


@pytest.mark.parametrize(
    "url", ["postgresql://{}127.0.0.1:1/none", "postgresql://{}db:port/x", "mysql://{}db/x"]
)
def test_a_password_is_not_in_the_error(url: str) -> None:
    with pytest.raises(ConfigError, match="database ") as caught:
        open_database(url.format("user:secret@"))
    assert "secret" not in str(caught.value)


def test_record_tells_created_and_updated(database: Database) -> None:
    rows = [micrograph("m1", defocus=1e-6), micrograph("m2", defocus=2e-6)]
    with database.write() as connection:
        first = record(connection, "micrograph", rows)
    with database.write() as connection:
        second = record(connection, "micrograph", [rows[0], micrograph("m2", defocus=3e-6)])
    assert (first.created, first.updated) == ({"m1", "m2"}, set())
    assert (second.created, second.updated) == (set(), {"m2"})
    names = [body["event_type"] for body in events(database)]
    assert names == [
        "acquisition.created",
        "grid.created",
        "micrograph.created",
        "micrograph.created",
        "micrograph.updated",
    ]
    with database.write() as connection:  # a row of other columns is recorded apart
        both = [micrograph("m3", defocus=1e-6), micrograph("m3", dose=40.0)]
        third = record(connection, "micrograph", both)
    assert (third.created, third.updated) == ({"m3"}, set())


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
def test_what_was_recorded_before_is_announced_once_it_is_switched_on(
    url: str, request: pytest.FixtureRequest
) -> None:
    database_url = request.getfixturevalue(url)
    plain = open_database(database_url)
    with plain.write() as connection:
        record(connection, "acquisition", [{"uuid": SESSION, "name": "session"}])
        grid = {"uuid": GRID, "acquisition_uuid": SESSION, "name": "grid"}
        record(connection, "grid", [grid])
        record(connection, "micrograph", [micrograph()])
        record(connection, "gridsquare", [square(lowmag=True)])
    assert events(plain) == []
    announcing = open_database(database_url, announce=True)
    names = ["acquisition.created", "grid.created", "gridsquare_lowmag.created"]
    names.append("micrograph.created")
    assert [message["event_type"] for message in events(plain)] == names
    with plain.write() as connection:  # a process that runs since before, such as the IOC
        record(connection, "micrograph", [micrograph("m2")])
    open_database(database_url, announce=True).close()
    later = open_database(database_url)
    with later.write() as connection:
        remove(connection, "micrograph", "m1")
    assert [message["uuid"] for message in events(plain)[len(names) :]] == ["m2", "m1"]
    for database in (plain, announcing, later):
        database.close()


def test_only_given_columns_change(database: Database) -> None:
    with database.write() as connection:
        record(connection, "foilhole", [hole(diameter=51.25, x_location=1020.5)])
        record(connection, "foilhole", [hole(center_x=1414.75)])
        row = read.get(connection, "foilhole", foilhole_uuid(GRID, "7", "70"))
    assert row is not None
    assert (row["diameter"], row["x_location"], row["center_x"]) == (51.25, 1020.5, 1414.75)


def test_rows_with_different_columns_keep_their_order(database: Database) -> None:
    optional = {"quality": 0.5, "planned": False, "status": "micrographs detected"}
    holes = [hole(f"{n}", **(optional if n % 2 else {})) for n in range(6)]
    before = len(events(database))
    with database.write() as connection:
        record(connection, "foilhole", holes)
        stored = read.page(connection, "foilhole")
    names = [row["foilhole_id"] for row in holes]
    assert [row["foilhole_id"] for row in stored] == names
    assert [row["planned"] for row in stored] == [True, False] * 3
    assert [row["status"] for row in stored] == ["none", "micrographs detected"] * 3
    assert [row["quality"] for row in stored] == [None, 0.5] * 3
    changed = [row | {"diameter": 1.0} for row in holes]
    with database.write() as connection:
        record(connection, "foilhole", changed)
    found = [(each["event_type"], each["foilhole_id"]) for each in events(database)[before:]]
    expected = [(f"foilhole.{change}", name) for change in ("created", "updated") for name in names]
    assert found == expected


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("together", [True, False])
def test_the_newest_manifest_counts_in_any_order(
    database: Database, order: tuple[int, int], together: bool
) -> None:
    rows = [
        hole(manifest_stamp="20250108_154715", quality=0.1),
        hole(manifest_stamp="20250108_154725", quality=0.9),
    ]
    arrived = [rows[index] for index in order]
    with database.write() as connection:
        for part in [arrived] if together else [[row] for row in arrived]:
            record(connection, "foilhole", part)
        row = read.get(connection, "foilhole", foilhole_uuid(GRID, "7", "70"))
    assert row is not None
    assert row["quality"] == 0.9


def test_children_may_come_before_their_parents(database: Database) -> None:
    with database.write() as connection:
        record(connection, "micrograph", [micrograph()])
        assert len(read.page(connection, "micrograph", read.is_orphan(), grid_uuid=GRID)) == 1
        record(connection, "foilhole", [hole()])
        record(connection, "gridsquare", [square()])
        assert read.page(connection, "micrograph", read.is_orphan(), grid_uuid=GRID) == []
        found = read.page(connection, "micrograph", foilhole_uuid=hole()["uuid"])
    assert [row["uuid"] for row in found] == ["m1"]


@pytest.mark.parametrize("kind", ["acquisition", "grid", "gridsquare", "foilhole", "micrograph"])
def test_removing_takes_everything_below(database: Database, kind: str) -> None:
    uuids = {
        "acquisition": SESSION,
        "grid": GRID,
        "gridsquare": square()["uuid"],
        "foilhole": hole()["uuid"],
        "micrograph": "m1",
    }
    with database.write() as connection:
        record(connection, "gridsquare", [square()])
        record(connection, "foilhole", [hole()])
        record(connection, "micrograph", [micrograph()])
        assert remove(connection, kind, str(uuids[kind]))
        assert not remove(connection, kind, str(uuids[kind]))
    kinds = list(uuids)
    with database.read() as connection:
        counts = [read.count(connection, name) for name in kinds]
    assert counts == [1] * kinds.index(kind) + [0] * (len(kinds) - kinds.index(kind))
    assert events(database)[-1] == {"event_type": f"{kind}.deleted", "uuid": uuids[kind]}


def test_an_atlas_that_another_grid_uses_stays(database: Database) -> None:
    other = grid_uuid(acquisition_uuid("visit/other"))
    with database.write() as connection:
        record(connection, "grid", [{"uuid": other, "acquisition_uuid": SESSION, "name": "2"}])
        record(connection, "atlas", [{"uuid": "atlas", "grid_uuid": GRID, "name": "Atlas"}])
        for uuid in (GRID, other):
            link = {"uuid": uuid, "acquisition_uuid": SESSION, "atlas_uuid": "atlas"}
            record(connection, "grid", [link])
        remove(connection, "grid", GRID)
        atlas = read.get(connection, "atlas", "atlas")
        assert atlas is not None
        assert atlas["grid_uuid"] == other
        remove(connection, "grid", other)
        assert read.get(connection, "atlas", "atlas") is None


@pytest.mark.parametrize(
    "time",
    [
        datetime(2025, 1, 8, 15, 49, 18, 115828, tzinfo=timezone(timedelta(hours=1))),
        datetime(2025, 7, 8, 15, 49, 18, 1, tzinfo=timezone(-timedelta(hours=7, minutes=30))),
        datetime(2025, 1, 8, 15, 49, 18, tzinfo=UTC),
    ],
)
def test_a_time_keeps_its_instant(database: Database, time: datetime) -> None:
    with database.write() as connection:
        record(connection, "micrograph", [micrograph(acquisition_datetime=time)])
    with database.read() as connection:
        row = read.get(connection, "micrograph", "m1")
    assert row is not None
    assert row["acquisition_datetime"] == time
    assert row["acquisition_datetime"].tzinfo is not None


def test_a_failed_transaction_leaves_neither_rows_nor_messages(database: Database) -> None:
    before = events(database)

    def fail() -> None:
        with database.write() as connection:
            record(connection, "micrograph", [micrograph()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as connection:
        assert read.count(connection, "micrograph") == 0
    assert events(database) == before


def test_queries_of_micrographs_by_parent_defocus_and_time(database: Database) -> None:
    start = datetime(2025, 1, 8, tzinfo=UTC)
    rows = [
        micrograph(
            f"m{index}",
            defocus=1e-6 * (index % 5),
            acquisition_datetime=start + timedelta(minutes=index),
        )
        for index in range(50)
    ]
    with database.write() as connection:
        record(connection, "micrograph", rows)
    with database.read() as connection:
        table = schema.micrograph.c
        in_range = read.page(
            connection, "micrograph", *read.within(table.defocus, 1.5e-6, 3.5e-6), grid_uuid=GRID
        )
        assert [row["uuid"] for row in in_range] == [
            row["uuid"] for row in rows if 1.5e-6 <= row["defocus"] <= 3.5e-6
        ]
        since = read.within(table.acquisition_datetime, start + timedelta(minutes=40), None)
        late = read.page(connection, "micrograph", *since, descending=True, limit=3)
        assert [row["uuid"] for row in late] == ["m49", "m48", "m47"]
        pages = [
            row["uuid"]
            for offset in range(0, 50, 7)
            for row in read.page(
                connection,
                "micrograph",
                limit=7,
                offset=offset,
                order_by="defocus",
                gridsquare_uuid=square()["uuid"],
            )
        ]
    assert len(pages) == len(set(pages)) == 50


@pytest.mark.parametrize(
    ("descending", "expected"),
    [(False, ["small", "large", "none1", "none2"]), (True, ["large", "small", "none2", "none1"])],
)
def test_micrographs_without_defocus_come_after_those_with_one(
    database: Database, descending: bool, expected: list[str]
) -> None:
    defocus = {"none1": None, "large": -1e-6, "none2": None, "small": -2e-6}
    with database.write() as connection:
        record(connection, "micrograph", [micrograph(k, defocus=v) for k, v in defocus.items()])
    with database.read() as connection:
        found = read.page(connection, "micrograph", order_by="defocus", descending=descending)
    assert [row["uuid"] for row in found] == expected


def test_a_hole_finds_its_micrographs_by_an_index(database: Database) -> None:
    table = schema.micrograph
    query = select(table).where(table.c.foilhole_uuid == "x").order_by(table.c.number)
    compiled = query.compile(database.engine, compile_kwargs={"literal_binds": True})
    with database.read() as connection:
        if database.dialect == "sqlite":
            plan = connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}")).all()
        else:
            connection.execute(text("SET LOCAL enable_seqscan = off"))
            plan = connection.execute(text(f"EXPLAIN {compiled}")).all()
    assert "ix_micrograph_foilhole_uuid_number" in str(plan)


@pytest.mark.parametrize(("option", "limit"), [("", "30000"), ("?tcp_user_timeout=7", "7")])
def test_a_server_that_is_cut_off_is_not_waited_for_long(
    postgres_url: str, option: str, limit: str
) -> None:
    database = open_database(postgres_url + option)
    with database.read() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.info.get_parameters()["tcp_user_timeout"] == limit
    database.close()


def test_files_are_kept_with_what_they_hold(database: Database) -> None:
    row = {"root": "/data", "path": "a.xml", "kind": "micrograph", "size": 10, "mtime_ns": 2**40}
    with database.write() as connection:
        record_files(connection, [row, row | {"path": "b.xml"}])
        record_files(connection, [row | {"size": 20}])
        files = text("SELECT path, size, mtime_ns FROM source_file ORDER BY path")
        assert connection.execute(files).all() == [("a.xml", 20, 2**40), ("b.xml", 10, 2**40)]


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.write() as writing:
        record(writing, "micrograph", [micrograph()])
        with database.read() as reading:
            assert read.count(reading, "micrograph") == 0


def test_a_key_that_no_index_holds_stops_no_other_file(postgres_url: str, tmp_path: Path) -> None:
    """PostgreSQL refuses a key of 9000 characters; it is not away, and others are recorded."""
    plan = plan_visit(seed=4, grids=1, squares=3, imaged=1, holes=2, areas=(1, 1))
    write_visit(plan, tmp_path)
    long = "".join(random.Random(1).choices(string.ascii_letters, k=9000))
    first, *others = sorted(tmp_path.rglob("Data/*.xml"))
    text = first.read_text(encoding="utf-8-sig")
    (unique,) = re.findall(r"uniqueID>([^<]+)<", text)
    first.write_text(text.replace(unique, long))
    database = open_database(postgres_url)
    watcher = Watcher(tmp_path, database)
    watcher.run(idle_exit=0)
    with database.read() as connection:
        assert read.count(connection, "micrograph") == len(others)
    assert list(watcher.unreadable) == [first.relative_to(tmp_path).as_posix()]
    assert not watcher.state.database_error
    database.close()


def test_a_disk_that_stays_full_is_in_the_log_once(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_database(sqlite_url)
    full = False

    @event.listens_for(store.engine, "commit")
    def refuse(_: Connection) -> None:
        if full:
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("database is full"))

    writer = Writer(store)
    for full in (True, True, False, True):
        failure = writer.post(lambda _: None).exception()
        assert isinstance(failure, OperationalError) is full
    writer.close()
    store.close()
    assert [each.message for each in caplog.records].count(
        "requests: the database fails: database is full"
    ) == 2
