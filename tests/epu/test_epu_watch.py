"""The watcher: every way of arriving, every start, broken files, restarts."""

import errno
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from arrivals import SCENARIOS, in_order, run_steps, small_visit
from epu_trees import comparable, read_document
from lxml import etree
from support import forked
from support.waiting import until
from typer.testing import CliRunner
from watching import LIMIT_S, Following, check, recorded

from skywright.errors import SkywrightError
from skywright.instruments.epu.cli import app
from skywright.instruments.epu.cli_watch import EventLines, default_database
from skywright.instruments.epu.database import Database, read, schema
from skywright.instruments.epu.watch.changes import Changes, PollingSource
from skywright.instruments.epu.watch.importer import Event, Outcome
from skywright.instruments.epu.watch.memory import Memory, load_memory
from skywright.instruments.epu.watch.watcher import Watcher


def follow(root: Path, database: Database, name: str, start: str, seed: int, **options) -> list:
    """Let the files arrive with a watcher started before, during or after; return its events."""
    rng = random.Random(seed)
    steps = SCENARIOS[name](root, small_visit(seed), rng)
    pause = 0.001 * rng.random()
    if start == "after":
        run_steps(steps, 0)
        following = Following(root, database, **options)
    elif start == "before":
        following = Following(root, database, **options)
        run_steps(steps, pause)
    else:
        started = threading.Event()
        writer = threading.Thread(target=run_steps, args=(steps, pause, started))
        writer.start()
        started.wait(LIMIT_S)
        following = Following(root, database, **options)
        writer.join(LIMIT_S)
    following.wait_for(following.caught_up)
    following.stop()
    return following.events


@pytest.mark.parametrize("start", ["before", "during", "after"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_micrograph_in_every_way(root, database, name, start):
    seed = 1000 + list(SCENARIOS).index(name)
    check(database, root, follow(root, database, name, start, seed), seed)


@pytest.mark.parametrize("seed", [2001, 2002])
@pytest.mark.parametrize("start", ["before", "during", "after"])
def test_each_file_in_a_way_of_its_own(root, database, start, seed):
    check(database, root, follow(root, database, "mixed", start, seed), seed)


@pytest.mark.accuracy
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("start", ["before", "during", "after"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_micrograph_in_every_way_many_times(root, database, name, start, seed):
    check(database, root, follow(root, database, name, start, seed), seed)


@pytest.mark.parametrize("name", ["in_order", "partial", "all_at_once"])
def test_polling_gives_the_same(root, database, name):
    check(database, root, follow(root, database, name, "before", 7, polling=0.1), 7)


def test_lost_events_are_made_up_by_a_scan(root, database):
    following = Following(root, database, rescan=0)
    source = following.watcher._source
    take = source._take
    source._take = lambda event, changes: None  # every event is lost ...
    run_steps(in_order(root, small_visit(3), random.Random(3)), 0)
    source._take = take
    original = source.read

    def read(timeout):  # ... of which the kernel tells
        source.read = original
        return Changes(lost=True)

    source.read = read
    source.wake()
    following.wait_for(lambda: following.watcher.state.lost_events and following.caught_up())
    following.stop()
    check(database, root, following.events, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_directories_made_during_an_overflow_are_followed(root, database):
    from inotify_simple import Event, flags

    writes = small_visit(3)
    half = len(writes) // 2
    following = Following(root, database, rescan=0)
    following.wait_for(lambda: following.watcher.state.scanned)
    inotify = following.watcher._source._tree._inotify
    original, overflow = inotify.read, []

    def read(timeout):
        original(timeout=timeout)  # every event is lost, those of new directories too ...
        return [overflow.pop()] if overflow else []

    inotify.read = read
    run_steps(in_order(root, writes[:half], random.Random(3)), 0)
    overflow.append(Event(-1, flags.Q_OVERFLOW, 0, ""))
    (root / "more").touch()  # ... and then the kernel tells that its queue was full
    following.wait_for(lambda: following.watcher.state.lost_events and following.caught_up())
    inotify.read = original
    run_steps(in_order(root, writes[half:], random.Random(3)), 0)
    following.wait_for(following.caught_up)
    following.stop()
    check(database, root, following.events, 3)


@pytest.mark.parametrize("restarted", [False, True])
def test_of_images_with_different_instruments_the_first_one_counts(root, database, restarted):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    manifests = sorted(root.rglob("GridSquare_*.xml"), key=lambda path: path.name)
    for number, path in enumerate(manifests):
        data = path.read_bytes()
        before = data.partition(b"<InstrumentID>")[2].partition(b"<")[0]
        named = data.replace(b"<InstrumentID>" + before, b"<InstrumentID>%d" % (7000 + number))
        assert named != data
        path.with_suffix(".part").write_bytes(named)
        path.unlink()
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)  # at first, holes and micrographs alone
    for path in reversed(manifests):
        path.with_suffix(".part").rename(path)
        if restarted:
            watcher = Watcher(root, database)
        watcher.run(idle_exit=0)
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def test_a_session_that_names_no_atlas_any_more_has_none(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    assert None not in [grid["atlas"] for grid in recorded(database, root)["grids"]]
    path = next(root.rglob("EpuSession.dm"))
    text = path.read_text()
    start, end = text.index("<AtlasId"), text.index("</AtlasId>") + len("</AtlasId>")
    path.write_text(text[:start] + text[end:])
    watcher.run(idle_exit=0)
    document = recorded(database, root)
    assert [grid["atlas"] for grid in document["grids"]].count(None) == 1
    assert comparable(document) == comparable(read_document(root))


def test_the_rate_is_that_of_new_micrographs(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    path = next(root.rglob("Data/*.xml"))
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    path.write_bytes(path.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime>2.5<"))
    watcher.run(idle_exit=0)
    count = len(list(root.rglob("Data/*.xml")))
    assert watcher.state.recorded["micrograph"] == count  # the rewritten one counts once
    window = 1e6  # seconds: longer than this test
    assert watcher.state.rate(window) * window == pytest.approx(count)


def test_restart_reads_nothing_twice(root, database, monkeypatch):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    first = Watcher(root, database)
    first.run(idle_exit=0)
    before = recorded(database, root)
    monkeypatch.setattr("skywright.instruments.epu.watch.importer.read_file", None)
    again = Watcher(root, database)
    again.run(idle_exit=0)
    assert again.state.sequence == 0
    assert again.state.recorded == first.state.recorded  # what the database has
    assert again.state.recorded["micrograph"] == len(list(root.rglob("Data/*.xml")))
    assert recorded(database, root) == before


def test_a_stop_waits_for_the_batch_under_way_alone(root, database, monkeypatch):
    monkeypatch.setattr("skywright.instruments.epu.watch.watcher.BATCH", 5)
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    watcher = Watcher(root, database, on_commit=lambda outcome: watcher.stop())
    watcher.run()
    assert len(watcher.known) == 5
    Watcher(root, database).run(idle_exit=0)  # the next start finds the others
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def test_sessions_and_visits_that_are_watched_by_themselves_are_kept_apart(root, database):
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        run_steps(in_order(root / name, small_visit(seed), random.Random(5)), 0)
        (root / name / "zz22222-1").rename(root / name / f"visit-{name}")
    visits = [root / name / f"visit-{name}" for name in ("one", "two")]
    sessions = sorted((root / "three" / "visit-three").glob("Supervisor*"))
    for directory in (*visits, *sessions):
        Watcher(directory, database).run(idle_exit=0)
    with database.read() as connection:
        counts = [read.count(connection, kind) for kind in ("acquisition", "grid", "atlas")]
    assert counts == [6, 6, 6]
    for directory in (*visits, *sessions):
        assert comparable(recorded(database, directory)) == comparable(read_document(directory))


def test_a_directory_has_moved_only_from_where_it_is_gone(root, database):
    old, new = (root / name / "raw" for name in ("cm1", "cm2"))
    file = {"root": str(old), "size": 1, "mtime_ns": 1}
    rows = {
        schema.acquisition: [{"uuid": "a", "data_dir": "s"}],
        schema.grid: [{"uuid": "g", "acquisition_uuid": "a"}],
        schema.source_file: [
            {**file, "path": "../atlas/Atlas.dm", "kind": "atlas", "entity_uuid": "of old"},
            {**file, "path": "n" * 300, "kind": "micrograph"},  # may not be asked for
            {**file, "path": "s/x.xml", "kind": "micrograph", "entity_uuid": "m", "grid_uuid": "g"},
        ],
    }
    with database.write() as connection:
        for table, values in rows.items():
            for row in values:
                connection.execute(table.insert().values(row))
        for directory in (new, old):
            directory.mkdir(parents=True)
        assert load_memory(new, connection) == Memory(new)
        old.rmdir()
        assert load_memory(new, connection) == Memory(new)  # that of another machine, perhaps
        (new / "s").mkdir()
        (new / "s" / "x.xml").touch()
        memory = load_memory(new, connection)
    assert memory.atlas_uuids == {"../atlas/Atlas.dm": "of old"}
    assert (memory.grids, memory.sessions_missing) == ({"s": "g"}, ["s"])
    (new / "s" / "x.xml").unlink()
    (new / "s").rmdir()
    assert memory.sessions_missing == []


@pytest.mark.parametrize("version", ["older", "this"])
@pytest.mark.parametrize("is_moved", [False, True])
def test_a_tree_keeps_its_uuids(root, database, monkeypatch, version, is_moved):
    writes = small_visit(5)
    run_steps(in_order(root, writes[: len(writes) // 2], random.Random(5)), 0)
    with monkeypatch.context() as older:
        if version == "older":
            older.setattr(Memory, "portable_path", lambda memory, path: path)
        Watcher(root, database).run(idle_exit=0)
    if is_moved:
        (root.parent / "elsewhere").mkdir()
        root = root.rename(root.parent / "elsewhere" / root.name)
    run_steps(in_order(root, writes, random.Random(5)), 0)
    Watcher(root, database).run(idle_exit=0)
    assert comparable(recorded(database, root)) == comparable(read_document(root))
    with database.read() as connection:
        assert read.count(connection, "grid") == len(list(root.rglob("EpuSession.dm")))
        assert read.count(connection, "atlas") == len(list(root.rglob("Atlas.dm")))
        assert read.count(connection, "micrograph") == len(list(root.rglob("Data/*.xml")))


def test_an_atlas_that_is_taken_anew_leaves_nothing_of_the_old_one(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    atlas = next(root.rglob("Sample0/Atlas/Atlas.dm"))
    names = {path.name for path in root.rglob("Metadata/*.dm")}
    imaged = {f"{path.name}.dm" for path in root.rglob("Images-Disc1/GridSquare_*")}
    squares = [path for path in root.rglob("Metadata/*.dm") if "grid0" in str(path)]
    only_in_atlas = next(path for path in squares if path.name not in imaged)
    only_in_atlas.unlink()
    kept = next(path for path in squares if path.name in imaged)
    Watcher(root, database).run(idle_exit=0)
    tree = etree.fromstring(atlas.read_bytes())
    for tile in list(tree.iter("{*}TileXml")):
        square = tile.find("{*}Nodes/{*}KeyValuePairs/{*}*/{*}key")
        if square is not None and f"_{square.text}." in f"{only_in_atlas.name}{kept.name}":
            tile.getparent().remove(tile)
    atlas.write_bytes(etree.tostring(tree))
    Watcher(root, database).run(idle_exit=0)
    assert comparable(recorded(database, root)) == comparable(read_document(root))
    with database.read() as connection:
        assert read.count(connection, "gridsquare") == len(names) - 1
    events = []
    atlas.write_bytes(atlas.read_bytes().replace(b">Tile_", b">Other_"))  # the tiles alone
    watcher = Watcher(root, database, on_commit=lambda outcome: events.extend(outcome.events))
    watcher.run(idle_exit=0)
    assert [(event.kind, event.event) for event in events] == [("atlas", "updated")]


def test_images_that_were_moved_have_their_new_path(root, database):
    run_steps(in_order(root, small_visit(4), random.Random(4)), 0)
    discs = list(root.rglob("Images-Disc1"))
    for disc in discs:
        disc.rename(disc.with_name("Images-Disc2"))
    Watcher(root, database).run(idle_exit=0)
    for disc in discs:
        disc.with_name("Images-Disc2").rename(disc)
    events = []
    watcher = Watcher(root, database, on_commit=lambda outcome: events.extend(outcome.events))
    watcher.run(idle_exit=0)
    assert comparable(recorded(database, root)) == comparable(read_document(root))
    assert {event.event for event in events if event.kind == "micrograph"} == {"updated"}


def test_a_removed_image_of_a_later_time_keeps_its_values(root, database):
    run_steps(in_order(root, small_visit(4), random.Random(4)), 0)
    older = next(root.rglob("Data/*.xml"))
    newer = older.with_name("_".join([*older.name.split("_")[:5], "20990101_000000.xml"]))
    newer.write_bytes(older.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime>7<"))
    Watcher(root, database).run(idle_exit=0)
    newer.unlink()
    older.write_bytes(older.read_bytes() + b"\n")
    Watcher(root, database).run(idle_exit=0)
    rows = [row for grid in recorded(database, root)["grids"] for row in grid["micrographs"]]
    assert [row["file"].rpartition("/")[2] for row in rows if row["exposure_time"] == 7] == [
        newer.name
    ]


def test_deleted_files_stay_recorded(root, database):
    run_steps(in_order(root, small_visit(6), random.Random(6)), 0)
    Watcher(root, database).run(idle_exit=0)
    before = recorded(database, root)
    for path in root.rglob("*.xml"):
        path.unlink()
    Watcher(root, database).run(idle_exit=0)
    assert recorded(database, root) == before


def test_holes_found_anew_replace_planned_ones_and_imaged_ones_stay(root, database):
    writes = small_visit(8)
    images = [write.path for write in writes if "/FoilHoles/" in write.path]
    # The last hole of each square has an image and no micrographs.
    bare = {max(path for path in images if path.split("/Foil")[0] == at).split("_")[-3]
            for at in {path.split("/Foil")[0] for path in images}}  # fmt: skip
    writes = [w for w in writes if not any(f"/FoilHole_{hole}_Data_" in w.path for hole in bare)]
    run_steps(in_order(root, writes, random.Random(8)), 0)
    Watcher(root, database).run(idle_exit=0)
    path = max(root.rglob("Metadata/*.dm"), key=lambda each: each.stat().st_size)
    square = path.stem.split("_")[1]
    grid = next(
        g for g in recorded(database, root)["grids"]
        if any(s["id"] == square and s["n_foilhole_positions"] for s in g["gridsquares"])
    )  # fmt: skip
    holes = [h["id"] for h in grid["foilholes"] if h["gridsquare_id"] == square]
    text = path.read_text()
    for number, hole in enumerate(holes):
        text = text.replace(f"<b:key>{hole}<", f"<b:key>{77000 + number}<")
    path.write_text(text)
    for manifest in root.rglob(f"FoilHole_{holes[0]}_2*.xml"):
        if manifest.parent.name == "FoilHoles":
            manifest.unlink()
    Watcher(root, database).run(idle_exit=0)
    after = {h["id"]: h for g in recorded(database, root)["grids"] for h in g["foilholes"]}
    assert {"77000", "77001"} <= after.keys()
    assert after[holes[1]]["x_location"] is None  # its image stays, its place is no longer planned
    assert after[holes[1]]["center_x"] is not None or after[holes[1]]["quality"] is None
    (imaged,) = bare & set(holes)
    assert after[imaged]["x_location"] is None
    stored = [m["foilhole_id"] for g in recorded(database, root)["grids"] for m in g["micrographs"]]
    assert holes[1] in stored
    assert imaged not in stored


def test_without_session_file_everything_is_kept(root, database):
    writes = [write for write in small_visit(4) if not write.path.endswith("EpuSession.dm")]
    run_steps(in_order(root, writes, random.Random(4)), 0)
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    assert len(watcher.sessions_missing) == 2
    document = recorded(database, root)
    assert document["sessions"] == []
    assert comparable(document) == comparable(read_document(root))
    assert sum(len(grid["micrographs"]) for grid in document["grids"]) > 40


@pytest.mark.parametrize("when", ["before", "later"])
def test_the_atlas_beside_a_watched_session_is_recorded(root, database, when):
    run_steps(in_order(root, small_visit(8), random.Random(8)), 0)
    session = next(root.rglob("EpuSession.dm")).parent
    atlas = next(root.rglob("atlas"))
    if when == "later":
        atlas.rename(root.parent / "hidden")
        Watcher(session, database).run(idle_exit=0)
        (issue,) = recorded(database, session)["issues"]
        assert issue["kind"] == "atlas"
        (root.parent / "hidden").rename(atlas)
    Watcher(session, database).run(idle_exit=0)
    document = recorded(database, session)
    assert document["grids"][0]["atlas"] is not None
    assert comparable(document) == comparable(read_document(session))


def test_what_gives_no_event_is_recorded_before_the_watch_ends(root, database):
    """An atlas beside the watched session, and a file on a mount whose events are lost."""
    run_steps(in_order(root, small_visit(8), random.Random(8)), 0)
    session = next(root.rglob("EpuSession.dm")).parent
    late = [next(root.rglob("atlas")), next(session.rglob("Data/*.xml"))]
    hidden = [root.parent / f"hidden{k}" for k in range(len(late))]
    for path, place in zip(late, hidden, strict=True):
        path.rename(place)
    watcher = Watcher(session, database)
    source = watcher._source
    read = source.read

    def read_nothing(timeout):
        if watcher.state.caught_up:
            for path, place in zip(late, hidden, strict=True):
                if place.exists():
                    place.rename(path)
        read(timeout)
        return Changes()

    source.read = read_nothing
    watcher.run(idle_exit=0.1)
    assert not hidden[0].exists()
    document = recorded(database, session)
    assert document["issues"] == []
    assert comparable(document) == comparable(read_document(session))


def test_two_copies_of_a_session_are_two_grids(root, database):
    writes = small_visit(4)
    run_steps(in_order(root / "a", writes, random.Random(4)), 0)
    run_steps(in_order(root / "b", writes, random.Random(4)), 0)
    Watcher(root, database).run(idle_exit=0)
    document = recorded(database, root)
    assert len(document["grids"]) == 4
    assert comparable(document) == comparable(read_document(root))


def test_database_away_for_a_while(root, database, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from skywright.instruments.epu.watch import merger, watcher

    monkeypatch.setattr(watcher, "DATABASE_RETRY_S", 0.05)
    original, failures = merger.record_files, [1, 2, 3]

    def fail(*arguments):
        if failures and failures.pop():
            raise OperationalError("x", {}, Exception("no route"))
        return original(*arguments)

    monkeypatch.setattr(merger, "record_files", fail)
    check(database, root, follow(root, database, "in_order", "before", 9), 9)
    assert failures == []


def test_a_database_that_comes_back_between_two_tries_gets_all_of_a_batch(
    root, database, monkeypatch
):
    from sqlalchemy.exc import OperationalError

    from skywright.instruments.epu.watch import importer, merger, watcher

    monkeypatch.setattr(watcher, "DATABASE_RETRY_S", 0.0)
    writes = small_visit(9)
    planned = [each for each in writes if re.search(r"/Metadata/.*\.dm", each.path)]
    others = [each for each in writes if each not in planned]
    run_steps(in_order(root, others, random.Random(9)), 0)
    Watcher(root, database).run(idle_exit=0)
    run_steps(in_order(root, planned, random.Random(9)), 0)
    away: list[str] = []

    def once(module, name):
        original = getattr(module, name)

        def fail(*arguments):
            if name not in away:
                away.append(name)
                raise OperationalError("x", {}, Exception("no route"))
            return original(*arguments)

        monkeypatch.setattr(module, name, fail)

    following = Watcher(root, database)
    once(merger, "record_files")  # at the end of the first transaction
    once(importer, "load_memory")  # the database is still away when the watcher reads it anew
    following.run(idle_exit=0)
    assert away == ["record_files", "load_memory"]
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def test_a_database_that_goes_away_after_a_commit_keeps_its_events(root, database, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from skywright.instruments.epu.watch import importer, watcher

    monkeypatch.setattr(watcher, "DATABASE_RETRY_S", 0.0)
    run_steps(in_order(root, small_visit(9), random.Random(9)), 0)
    odd = next(root.rglob("Metadata/*.dm"))
    odd.write_text("<Other/>")
    original, failures = importer.record_files, [1]

    def fail(*arguments):
        if failures:
            failures.pop()
            raise OperationalError("x", {}, Exception("no route"))
        return original(*arguments)

    monkeypatch.setattr(importer, "record_files", fail)  # where files that cannot be read are noted
    events: list[Event] = []
    following = Watcher(root, database, on_commit=lambda outcome: events.extend(outcome.events))
    following.run(idle_exit=0)
    assert failures == []
    assert len(events) == len(following.known) - 1
    (issue,) = recorded(database, root)["issues"]
    assert (issue["kind"], issue["path"]) == ("unreadable", odd.relative_to(root).as_posix())
    assert following.state.database_error == ""


def test_a_start_without_database_leaves_nothing_open(root, database, monkeypatch):
    from sqlalchemy.exc import OperationalError

    from skywright.instruments.epu.watch import importer

    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    before = len(list(Path("/dev/fd").iterdir()))
    with monkeypatch.context() as patched:

        def away(*arguments):
            raise OperationalError("x", {}, Exception("no route"))

        patched.setattr(importer, "load_memory", away)
        with pytest.raises(OperationalError):
            watcher.run(idle_exit=0)
        with pytest.raises(OperationalError):
            Watcher(root, database)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_real_files(test_data, database):
    root = test_data / "epu"
    Watcher(root, database).run(idle_exit=0)
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def start_command(root: Path, tmp_path: Path, *options: str, **streams: int) -> subprocess.Popen:
    return forked.start(
        [sys.executable, "-m", "skywright.cli", "epu", "watch", str(root), "--database",
         str(tmp_path / "command.sqlite"), "--events", str(tmp_path / "events.jsonl"), *options],
        stdout=subprocess.PIPE,
        text=True,
        **streams,
    )  # fmt: skip


def test_command_killed_in_mid_session_and_started_again(root, tmp_path):
    writes = small_visit(11)
    half = len(writes) // 2
    run_steps(in_order(root, writes[:half], random.Random(1)), 0)
    first = start_command(root, tmp_path)
    events = tmp_path / "events.jsonl"
    until(lambda: events.exists() and events.read_text().count('"micrograph"') > 5)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    run_steps(in_order(root, writes[half:], random.Random(1)), 0)
    second = start_command(root, tmp_path, "--idle-exit", "0.5", "--json")
    output, _ = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0
    assert comparable(json.loads(output)) == comparable(read_document(root))
    ids = [
        line["id"] for line in map(json.loads, events.read_text().splitlines())
        if line["kind"] == "micrograph" and line["event"] == "created"
    ]  # fmt: skip
    assert len(ids) == len(set(ids))


def test_the_log_file_holds_the_warning_of_a_broken_file(root, tmp_path):
    run_steps(in_order(root, small_visit(2), random.Random(2)), 0)
    path = next(root.rglob("Metadata/*.dm"))
    path.write_bytes(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    log = tmp_path / "watch.log"
    log.write_text("a line of an earlier run\n")
    process = start_command(
        root, tmp_path, "--log-file", str(log), "--idle-exit", "0", stderr=subprocess.PIPE
    )
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "WARNING" not in errors  # stderr shows errors only
    first, *lines = log.read_text().splitlines()
    assert first == "a line of an earlier run"
    (warning,) = (line for line in lines if " WARNING " in line)
    assert path.relative_to(root).as_posix() in warning
    assert "document type declaration" in warning


def test_a_directory_on_a_network_mount_keeps_its_database(tmp_path, monkeypatch):
    """The number of its file system is another one after each restart of the machine."""
    before, look = default_database(tmp_path), os.stat

    def stat_after_a_restart(*arguments, **options):
        status = look(*arguments, **options)
        return os.stat_result((*status[:2], status.st_dev + 7, *status[3:]))

    monkeypatch.setattr(os, "stat", stat_after_a_restart)
    after = default_database(tmp_path)
    monkeypatch.undo()
    assert after == before


def test_a_database_with_the_name_of_an_older_version_is_used_further(root, monkeypatch, tmp_path):
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path / "store"))
    new, status = default_database(root), root.stat()
    text = f"{root.resolve()}\n{status.st_dev}\n{status.st_ino}"
    old = new.with_name(f"{root.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.sqlite")
    old.parent.mkdir(parents=True)
    old.touch()
    assert default_database(root) == old
    new.touch()
    assert default_database(root) == new


def test_a_directory_that_is_made_anew_has_a_new_database(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    before = default_database(root)
    root.rename(tmp_path / "old")
    root.mkdir()
    assert default_database(root) != before


def test_command_ends_on_sigterm(root, tmp_path):
    process = start_command(root, tmp_path)
    run_steps(in_order(root, small_visit(2), random.Random(2)), 0)
    events = tmp_path / "events.jsonl"
    until(lambda: events.exists() and events.read_text().count('"micrograph"') > 5)
    process.terminate()
    assert process.wait(90) == 0


def test_polling_source_says_when(root, database):
    source = PollingSource(0.05)
    assert source.read(0) == Changes()
    assert source.read(1) == Changes(scan=True)
    watcher = Watcher(root, database, polling=0.05)
    watcher.scan()
    while watcher.state.rescans < 3:
        watcher.step(1)
    assert watcher.state.lost_events == 0


def test_the_owner_begins_anew_after_an_unexpected_error(root, database, monkeypatch):
    from skywright.instruments.epu.watch import owner as module

    class Rows:
        def __init__(self):
            self.events = []

        def offer(self, result):
            self.events += result.events

    class Broken:
        def offer(self, result):
            raise OSError("disk full")

    monkeypatch.setattr(module, "RETRY_S", 0.05)
    watcher, rows = Watcher(root, database), Rows()
    original, errors = watcher.backlog.take, [1, 2, 3]

    def take(*arguments):
        if errors:
            raise RuntimeError(f"error {errors.pop()}")
        return original(*arguments)

    monkeypatch.setattr(watcher.backlog, "take", take)
    owner = module.TreeOwner(module.TreeSource(watcher), [Broken(), rows])
    owner.start()
    until(lambda: owner.state().failures.get("source failed"))
    run_steps(in_order(root, small_visit(9), random.Random(9)), 0)
    plan = sum("/Data/" in write.path for write in small_visit(9))
    until(lambda: sum(event.kind == "micrograph" for event in rows.events) >= plan)
    owner.close()
    assert errors == []
    assert owner.source.ended.is_set()
    assert (owner.state().failures["Broken failed"], owner.state().items) == (
        owner.state().items, watcher.state.sequence
    )  # fmt: skip
    check(database, root, rows.events, 9)
    again = module.TreeOwner(module.TreeSource(watcher), [rows])  # it can be started again
    before = len(rows.events)
    next(root.rglob("EpuSession.dm")).write_text("<EpuSessionXml")
    again.start()
    until(lambda: watcher.state.unreadable == 1)
    again.close()
    assert len(rows.events) == before


def test_a_stop_in_the_pause_after_an_error_is_kept(root, database, monkeypatch):
    from skywright.instruments.epu.watch import owner as module

    monkeypatch.setattr(module, "RETRY_S", LIMIT_S)
    watcher = Watcher(root, database)

    def fail(*arguments):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(watcher, "scan", fail)
    source, failed = module.TreeSource(watcher), threading.Event()
    source.start(lambda outcome: None, lambda message, alarm=True: failed.set())
    assert failed.wait(LIMIT_S)
    source.request_stop()  # as SIGTERM does
    assert source.ended.wait(LIMIT_S / 2)


def test_a_stop_while_the_directory_is_read_anew_is_kept(root, database, monkeypatch):
    from skywright.instruments.epu.watch import owner as module

    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    source, run = module.TreeSource(watcher), watcher.run

    def run_again(idle_exit):
        source.request_stop()  # as SIGTERM does
        run(idle_exit)

    monkeypatch.setattr(watcher, "run", run_again)
    source.start(lambda outcome: None, lambda message, alarm=True: None)
    assert source.ended.wait(LIMIT_S / 2)


def test_a_stop_at_the_end_of_a_run_writes_to_no_closed_pipe(root, database, monkeypatch):
    """Its number may be that of another file by then."""
    watcher = Watcher(root, database)
    source, waking, closed = watcher._source, threading.Event(), threading.Event()
    wake, close = source.wake, source.close
    found = []

    def slow_wake():
        waking.set()
        closed.wait(0.2)  # as long as this lasts, nothing is closed
        found.append(closed.is_set())
        wake()

    def close_and_say():
        close()
        closed.set()

    def read(timeout):
        waking.wait(LIMIT_S)
        return Changes()

    monkeypatch.setattr(source, "wake", slow_wake)
    monkeypatch.setattr(source, "close", close_and_say)
    monkeypatch.setattr(source, "read", read)
    running = threading.Thread(target=watcher.run)
    running.start()
    watcher.stop()
    running.join(LIMIT_S)
    assert found == [False]
    assert closed.is_set()


class FilledFile(io.BytesIO):
    """A file on a disk that has room for `room` bytes."""

    room = 10

    def write(self, data) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(data[: self.room])
        self.room -= written
        return written


def test_event_lines_wait_for_space():
    events = [Event(1.0, "session", str(number), "created", "å") for number in range(3)]
    file = FilledFile()
    lines = EventLines(file)
    for event in events[:2]:
        with pytest.raises(OSError):
            lines.offer(Outcome([event]))
    file.room = 1000
    lines.offer(Outcome(events[2:]))
    assert [json.loads(line)["id"] for line in file.getvalue().splitlines()] == ["0", "1", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has /dev/full")
def test_a_watch_whose_event_lines_have_no_space_fails(root, tmp_path):
    run_steps(SCENARIOS["in_order"](root, small_visit(1), random.Random(1)), 0)
    database = f"sqlite:///{tmp_path / 'watch.sqlite'}"
    options = ["--idle-exit", "0.1", "--database", database, "--events", "/dev/full"]
    done = CliRunner().invoke(app, ["watch", str(root), *options])
    assert type(done.exception) is SkywrightError
    assert "/dev/full: No space left on device" in str(done.exception)
    assert "micrograph: " in done.stdout
