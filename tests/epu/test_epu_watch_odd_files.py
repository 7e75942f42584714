"""The watcher and files that are broken, unreadable or odd: each costs itself alone."""

import errno
import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from arrivals import in_order, run_steps, small_visit
from epu_trees import comparable, read_document
from sqlalchemy.exc import DataError
from typer.testing import CliRunner
from watching import Following, check, recorded, refuse_watches

from skywright.errors import ConfigError, is_disk_full
from skywright.instruments.epu.cli import app
from skywright.instruments.epu.cli_watch import default_database
from skywright.instruments.epu.watch.changes import InotifySource, changed_files, open_source
from skywright.instruments.epu.watch.database_document import database_chunks
from skywright.instruments.epu.watch.watcher import Watcher


def test_unreadable_file_is_tried_again_then_reported(root, database, monkeypatch):
    from skywright.instruments.epu.watch import backlog

    monkeypatch.setattr(backlog, "GIVE_UP_S", 0.5)
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    path = next(root.rglob("Data/*.xml"))
    content = path.read_bytes()
    path.write_bytes(content[:500])
    following = Following(root, database)
    following.wait_for(following.caught_up)
    (issue,) = recorded(database, root)["issues"]
    assert (issue["kind"], issue["path"]) == ("unreadable", path.relative_to(root).as_posix())
    assert following.watcher.state.unreadable == 1
    path.write_bytes(content)
    following.wait_for(lambda: following.watcher.state.unreadable == 0)
    assert recorded(database, root)["issues"] == []
    path.write_bytes(content[:500])
    following.wait_for(following.caught_up)
    following.stop()
    assert [each["kind"] for each in recorded(database, root)["issues"]] == ["unreadable"]
    again = Watcher(root, database)  # the micrograph is in the database still
    assert again.state.recorded["micrograph"] == len(list(root.rglob("Data/*.xml")))
    path.write_bytes(content)
    again.run(idle_exit=0)
    assert recorded(database, root)["issues"] == []
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def test_a_file_replaced_before_its_failure_is_recorded_is_read_again(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    path = next(root.rglob("Data/*.xml"))
    content = path.read_bytes()
    path.write_bytes(b"<old/>")
    replaced = []

    def replace(outcome):
        if outcome.failures:
            path.write_bytes(content)
            replaced.append(path)

    Watcher(root, database, polling=60, on_commit=replace).run(idle_exit=0)
    assert replaced == [path]
    assert recorded(database, root)["issues"] == []
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def test_a_file_without_permission_is_tried_again_and_stops_no_other(root, database, monkeypatch):
    from skywright.instruments.epu.watch import importer

    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    locked = sorted(root.rglob("Data/*.xml"))[3]
    path = locked.relative_to(root).as_posix()
    original, tries = importer.read_file, []

    def read_file(path, kind):
        if path == locked:
            tries.append(path)
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, kind)

    monkeypatch.setattr(importer, "read_file", read_file)
    following = Following(root, database, rescan=0)
    watcher = following.watcher
    others = len(list(root.rglob("Data/*.xml"))) - 1
    following.wait_for(
        lambda: len(tries) >= 3 and watcher.state.recorded.get("micrograph") == others
    )
    assert watcher.unreadable == {path: "Permission denied"}
    assert watcher.state.unreadable == 1
    monkeypatch.undo()  # nothing changes in the directory: the next try finds that it can be read
    following.wait_for(lambda: watcher.state.recorded.get("micrograph") == others + 1)
    following.stop()
    assert watcher.unreadable == {}
    check(database, root, following.events, 5)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_whose_permission_comes_after_the_last_try_is_recorded(
    root, database, monkeypatch, restarted
):
    """The permission changes neither size nor time of the file."""
    from skywright.instruments.epu.watch import backlog, importer

    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    locked = sorted(root.rglob("Data/*.xml"))[3]
    read_file, access = importer.read_file, os.access

    def refuse(path, kind):
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read_file(path, kind)

    monkeypatch.setattr(backlog, "GIVE_UP_S", 0.0)
    monkeypatch.setattr(importer, "read_file", refuse)
    monkeypatch.setattr(
        os, "access", lambda path, mode: (path != locked or mode != os.R_OK) and access(path, mode)
    )
    following = Following(root, database, rescan=0.05)
    watcher = following.watcher
    following.wait_for(lambda: watcher.unreadable and not len(watcher.backlog))
    rescans = watcher.state.rescans
    following.wait_for(lambda: watcher.state.rescans > rescans + 1)
    assert not len(watcher.backlog)  # it is not tried while it is closed
    (issue,) = recorded(database, root)["issues"]
    assert issue["kind"] == "unreadable"
    if restarted:
        following.stop()
    monkeypatch.undo()
    if restarted:
        Watcher(root, database).run(idle_exit=0)
    else:
        following.wait_for(lambda: not watcher.unreadable, 20)
        following.stop()
    assert recorded(database, root)["issues"] == []
    assert comparable(recorded(database, root)) == comparable(read_document(root))


def test_a_file_that_is_forbidden_though_its_permissions_allow_it_is_not_tried_for_ever(
    root, database, monkeypatch
):
    """On CIFS, with SELinux and on Windows `os.access` may say so, and the watch must end."""
    from skywright.instruments.epu.watch import backlog, importer

    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    locked = sorted(root.rglob("Data/*.xml"))[3]
    original, tries = importer.read_file, []

    def read_file(path, kind):
        if path == locked:
            tries.append(path)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, kind)

    monkeypatch.setattr(backlog, "GIVE_UP_S", 0.0)
    monkeypatch.setattr(importer, "read_file", read_file)
    following = Following(root, database, rescan=0.05)
    watcher = following.watcher
    following.wait_for(lambda: watcher.unreadable and not len(watcher.backlog))
    before, rescans = len(tries), watcher.state.rescans
    following.wait_for(lambda: watcher.state.rescans > rescans + 2)
    assert len(tries) == before
    following.stop()


def test_a_removed_file_is_not_unreadable_any_more(root, database, monkeypatch):
    from skywright.instruments.epu.watch import backlog

    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    directory = next(root.rglob("Metadata"))
    following = Following(root, database, rescan=0.2)
    watcher = following.watcher
    for limit in (backlog.GIVE_UP_S, 0.0):  # while it is tried again, and after
        monkeypatch.setattr(backlog, "GIVE_UP_S", limit)
        broken = directory / "GridSquare_1.dm"
        broken.write_text("<half")
        following.wait_for(lambda: watcher.state.unreadable)
        if not limit:
            following.wait_for(following.caught_up)
        broken.unlink()
        following.wait_for(lambda: not watcher.state.unreadable, 20)
        assert watcher.unreadable == {}
    following.stop()


def test_a_session_in_a_closed_directory_is_not_missing(root, database, close_directory):
    writes = [write for write in small_visit(5) if not write.path.endswith("EpuSession.dm")]
    run_steps(in_order(root, writes, random.Random(5)), 0)
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    missing = watcher.sessions_missing
    assert len(missing) == 2
    close_directory((root / missing[0]).parent)
    assert watcher.sessions_missing == []


def test_a_file_that_cannot_be_asked_for_its_size_hides_no_other(root):
    directory = root / "S" / "Metadata"
    directory.mkdir(parents=True)
    for number in range(1, 10):
        (directory / f"GridSquare_{number}.dm").write_text("x")
    for number in range(1, 10, 2):
        path = directory / f"GridSquare_{number}.dm"
        path.unlink()
        path.symlink_to(root / "gone")
    known = {f"S/Metadata/GridSquare_{number}.dm": (1, 1) for number in range(1, 10, 2)}
    found = {file.gridsquare for file in changed_files(root, known)}
    assert found == {"2", "4", "6", "8"}


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_links_that_lead_to_themselves_hide_no_file_of_a_new_directory(root, tmp_path):
    directory = tmp_path / "S" / "Metadata"
    directory.mkdir(parents=True)
    for number in range(1, 30, 2):
        (directory / f"GridSquare_{number}.dm").write_text("x")
        link = directory / f"GridSquare_{number + 1}.dm"
        link.symlink_to(link.name)
    source = InotifySource(root)
    directory.parent.rename(root / "S")
    found = {file.gridsquare for file in source.read(5.0).finished.values()}
    source.close()
    assert found == {str(number) for number in range(1, 30, 2)}


def failing_scandir(monkeypatch, name, times):
    """Let the first `times` listings of each directory `name` fail, as a network disk does."""
    scandir, tries = os.scandir, Counter()

    def list_directory(path):
        tries[str(path)] += Path(path).name == name
        if 0 < tries[str(path)] <= times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_directory)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_directory_that_could_not_be_listed_when_it_was_made_is_followed(
    root, database, monkeypatch
):
    following = Following(root, database, rescan=0)
    following.wait_for(lambda: following.watcher.state.scanned)
    failing_scandir(monkeypatch, "Data", 2)
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    following.wait_for(lambda: following.caught_up() and not following.watcher._source._tree.failed)
    following.stop()
    check(database, root, following.events, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_root_that_is_made_anew_is_followed_by_events(root, database, tmp_path):
    """As a disk that is mounted again."""
    writes = small_visit(5)
    following = Following(root, database, rescan=0)
    run_steps(in_order(root, writes[:20], random.Random(5)), 0)
    following.wait_for(following.caught_up)
    root.rename(tmp_path / "elsewhere")
    root.mkdir()
    run_steps(in_order(root, writes, random.Random(5)), 0)
    following.wait_for(following.caught_up)
    following.stop()
    check(database, root, following.events, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_too_many_directories_for_the_kernel_are_no_full_disk(root, monkeypatch, caplog):
    refuse_watches(monkeypatch, "Data")
    source = InotifySource(root)
    (root / "Data").mkdir()
    with pytest.raises(OSError, match="max_user_watches") as caught:
        source.read(5.0)
    source.close()
    assert not is_disk_full(caught.value)
    open_source(root).close()
    assert "max_user_watches" in caplog.text
    assert "No space left" not in caplog.text


def test_a_directory_that_fails_later_is_tried_again_as_soon_as_the_first_one(root, database):
    watcher = Watcher(root, database, rescan=0)
    pauses = [watcher._take_unlisted({"lost+found": "denied"}) for _ in range(4)]
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    assert watcher._take_unlisted({"lost+found": "denied", "Data": "an error"}) == 1.0


def test_a_directory_that_a_scan_could_not_list_is_scanned_again_soon(root, database, monkeypatch):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    failing_scandir(monkeypatch, "Data", 2)
    following = Following(root, database, polling=3600.0)
    following.wait_for(lambda: following.watcher.state.unreadable)
    following.wait_for(lambda: following.watcher.state.scanned and not following.watcher.unlisted)
    following.wait_for(following.caught_up)
    assert following.watcher.state.unreadable == 0
    following.stop()
    check(database, root, following.events, 5)


def test_a_directory_that_can_never_be_listed_is_in_the_document(root, database, monkeypatch):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    directories = [path.relative_to(root).as_posix() for path in root.rglob("Data")]
    failing_scandir(monkeypatch, "Data", 10**6)
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    with database.read() as connection:
        chunks = database_chunks(connection, watcher.root, watcher.unlisted)
        document = json.loads("".join(chunks))
    assert comparable(document) == comparable(read_document(root))
    issues = [issue for issue in document["issues"] if issue["kind"] == "directory"]
    assert sorted(issue["path"] for issue in issues) == sorted(directories) != []
    assert {issue["text"] for issue in issues} == {"Input/output error"}


def test_bomb_is_reported_at_once(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    path = next(root.rglob("Metadata/*.dm"))
    path.write_bytes(b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    Watcher(root, database).run(idle_exit=0)
    (issue,) = recorded(database, root)["issues"]
    assert "document type" in issue["text"]


def test_a_file_that_was_given_up_is_reported_after_a_restart_too(root, database):
    """Until it can be read, or is removed."""
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    broken = sorted(root.rglob("Metadata/*.dm"))[:2]
    content = broken[0].read_bytes()
    for path in broken:
        path.write_bytes(b"<a/>")
    first = Watcher(root, database)
    first.run(idle_exit=0)
    again = Watcher(root, database)
    again.run(idle_exit=0)
    assert again.unreadable == first.unreadable != {}
    assert again.state.unreadable == 2
    broken[0].write_bytes(content)
    broken[1].unlink()
    last = Watcher(root, database)
    last.run(idle_exit=0)
    assert (last.unreadable, last.state.unreadable) == ({}, 0)


def test_broken_files_of_every_kind_give_the_document_of_parse_dir(root, database):
    run_steps(in_order(root, small_visit(6), random.Random(6)), 0)
    not_imaged = {path.stem for path in root.rglob("Metadata/*.dm")}
    not_imaged -= {path.name for path in root.rglob("Images-Disc*/GridSquare_*")}
    manifest = next(root.rglob("FoilHoles/*.xml"))
    hole = manifest.name.split("_")[1]
    for path in (
        next(root.rglob("EpuSession.dm")),
        next(root.rglob(f"Metadata/{min(not_imaged)}.dm")),
        manifest.with_name(f"FoilHole_{hole}_20200101_000000.xml"),
        next(root.rglob("GridSquare_*_*.xml")),
        next(root.rglob("Data/*.xml")),
    ):
        path.write_bytes(b"<a/>")
    Watcher(root, database).run(idle_exit=0)
    document = recorded(database, root)
    assert {issue["kind"] for issue in document["issues"]} == {"unreadable"}
    assert len(document["issues"]) == 5
    assert comparable(document) == comparable(read_document(root))


def damaged(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_session_without_a_name_has_none_in_the_document(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    path = next(root.rglob("EpuSession.dm"))
    text, count = re.subn(r"<Name [^>]*>[^<]*</Name>", '<Name i:nil="true"/>', path.read_text())
    assert count == 1
    path.write_text(text)
    Watcher(root, database).run(idle_exit=0)
    document = recorded(database, root)
    assert None in {row["name"] for row in document["sessions"]}
    assert comparable(document) == comparable(read_document(root))


def test_values_beyond_every_type_cost_only_their_value(root, database):
    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    first, second, third = sorted(root.rglob("Data/*.xml"))[:3]
    day = first.name.split("_")[5]
    iso = f"{day[:4]}-{day[4:6]}-{day[6:]}T"
    damaged(first, f"acquisitionDateTime>{iso}", f"acquisitionDateTime>{iso[:4]}-13-77T")
    damaged(second, ":width>2880<", f":width>{10**30}<")
    damaged(third, f"acquisitionDateTime>{iso}", "acquisitionDateTime>0001-01-01T")
    session = next(root.rglob("EpuSession.dm"))
    text = session.read_text()
    session.write_text(re.sub("StartDateTime>2[^<]*", "StartDateTime>0001-01-01T00:00:00", text))
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    document, expected = recorded(database, root), read_document(root)
    assert comparable(document) == comparable(expected)
    assert None in {row["start_time"] for row in document["sessions"]}
    kinds = {issue["path"].rpartition("/")[2]: issue["kind"] for issue in document["issues"]}
    assert kinds == {first.name: "unreadable", second.name: "value", third.name: "unreadable"}
    assert set(watcher.unreadable) == {
        first.relative_to(root).as_posix(), third.relative_to(root).as_posix()
    }  # fmt: skip


@pytest.mark.parametrize("error", [OverflowError("too large"), DataError("x", {}, Exception("y"))])
def test_a_file_that_the_database_refuses_stops_no_other(root, database, monkeypatch, error):
    from skywright.instruments.epu.watch import rows

    run_steps(in_order(root, small_visit(5), random.Random(5)), 0)
    refused = sorted(root.rglob("Data/*.xml"))[3].relative_to(root).as_posix()
    original = rows.micrograph_values

    def values(micrograph, file, grid):
        if file.path == refused:
            raise error
        return original(micrograph, file, grid)

    monkeypatch.setattr(rows, "micrograph_values", values)
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    assert list(watcher.unreadable) == [refused]
    monkeypatch.undo()
    expected = read_document(root)
    found = recorded(database, root)
    (issue,) = found["issues"]
    assert (issue["kind"], issue["path"]) == ("unreadable", refused)
    missing = {m["file"] for grid in expected["grids"] for m in grid["micrographs"]} - {
        m["file"] for grid in found["grids"] for m in grid["micrographs"]
    }
    assert missing == {refused}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_path_that_is_not_utf8_is_reported(root, database, tmp_path):
    writes = small_visit(5)
    run_steps(in_order(root / "good", writes, random.Random(5)), 0)
    expected = read_document(root)
    odd = Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))
    run_steps(in_order(odd, writes[:9], random.Random(5)), 0)
    watcher = Watcher(root, database)
    watcher.run(idle_exit=0)
    assert watcher.state.unreadable == len(watcher.unreadable) > 0
    assert all(path.startswith("caf\\xe9/") for path in watcher.unreadable)
    assert comparable(recorded(database, root)) == comparable(expected)
    assert default_database(odd).suffix == ".sqlite"
    unused = tmp_path / "unused.sqlite"
    done = CliRunner().invoke(app, ["watch", str(odd), "--database", str(unused)])
    assert isinstance(done.exception, ConfigError)
    assert "not UTF-8" in str(done.exception)
    assert not unused.exists()
    shutil.rmtree(odd)
    watcher.scan()
    assert watcher.state.unreadable == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in directories")
def test_a_pipe_with_the_name_of_a_manifest_stops_nobody(root, database):
    following = Following(root, database)
    steps = in_order(root, small_visit(5), random.Random(5))
    run_steps(steps, 0)
    directory = next(root.rglob("Data"))
    os.mkfifo(directory / "FoilHole_1_Data_2_3_20250101_000000.xml")
    late = directory / "FoilHole_1_Data_2_4_20250101_000000.xml"
    late.write_bytes(next(directory.glob("*.xml")).read_bytes())
    following.wait_for(lambda: late.name in str(following.watcher.known))
    following.stop()
