"""What `recover` finishes and restores, and what it reports."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from event_model import compose_run
from store.recording import append_again, record, rows_of
from store.stack import Child, Stack

from skywright.callbacks.journal import TEMPORARY_SUFFIX, Journal
from skywright.errors import DataError
from skywright.files.index import files_path
from skywright.files.readers import HDF5
from skywright.store import ingest as ingest_module
from skywright.store import recover as recover_module
from skywright.store.ingest import ServerUnavailableError, ingest
from skywright.store.ingester import ingest_lock
from skywright.store.journal_contents import JournalContents
from skywright.store.recover import recover
from skywright.store.run_nodes import CatalogServer


def test_recover_restores_what_the_catalog_has_lost(store: Path, client: Any) -> None:
    uids = []
    for _ in range(3):
        recording = record(store)
        ingest(recording.stop(), client)
        uids.append(recording.uid)
    raw = client["raw"]
    raw.delete_contents(uids[0], recursive=True, external_only=False)
    table = raw[uids[1]].base["primary"].base["internal"]
    append_again(table, 1)
    open_run = record(store)
    open_run.journal.close()
    report = recover(store, client)
    assert sorted(report.restored) == sorted(uids[:2])
    assert report.finished == (open_run.uid,)
    assert report.changes == 3
    for uid in (*uids, open_run.uid):
        assert rows_of(client, uid) == [1.0, 2.0, 3.0]
    second = recover(store, client)
    assert second.changes == 0
    assert not second.recording


def test_recover_puts_a_run_aside_that_the_server_always_answers_with_an_error(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = record(store, time=1.0), record(store, time=2.0)
    bad.stop()
    good.stop()
    post = CatalogServer.post

    def failing(catalog: Any, container: Any, route: str, body: Any) -> Any:
        if bad.uid in str(body):
            request = httpx.Request("POST", "http://x")
            response = httpx.Response(500, request=request)
            raise httpx.HTTPStatusError("500", request=request, response=response)
        return post(catalog, container, route, body)

    monkeypatch.setattr(CatalogServer, "post", failing)
    monkeypatch.setattr(ingest_module, "LONGEST_PAUSE_S", 2.0)
    report = recover(store, client)
    assert (report.finished, report.aside) == ((good.uid,), (bad.uid,))


def test_recover_leaves_a_living_run_alone(store: Path, client: Any) -> None:
    recording = record(store)
    report = recover(store, client)
    assert report.recording == (recording.uid,)
    assert report.changes == 0
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0]
    recording.stop()
    assert recover(store, client).finished == (recording.uid,)


def test_recover_reports_the_uid_of_a_run_not_the_name_of_its_journal(
    store: Path, client: Any
) -> None:
    ended, still_open = f"{store.name}: 90% cold", f"{store.name}: 100% cold"
    journals = {uid: Journal(store / "journal") for uid in (ended, still_open)}
    for uid, journal in journals.items():
        journal("start", compose_run(uid=uid).start_doc)
    journals[ended].close()
    report = recover(store, client)
    assert (report.finished, report.recording) == ((ended,), (still_open,))
    client["raw"].delete_contents(ended, recursive=True, external_only=False)
    assert recover(store, client).restored == (ended,)
    journals[still_open].close()


def test_files_that_a_dead_recorder_may_have_left_open(tmp_path: Path) -> None:
    columns, raw, foreign = (tmp_path / name for name in ("columns.h5", "raw.h5", "foreign"))
    index = files_path(raw)
    index.touch()
    contents = JournalContents()
    mimetypes = {columns: HDF5, raw: HDF5, foreign: "application/x-nobody-knows"}
    for path, mimetype in mimetypes.items():
        contents.resources[path.name] = {"mimetype": mimetype, "uri": path.as_uri()}
    contents.resources["elsewhere"] = {"mimetype": HDF5, "uri": "s3://bucket/columns.h5"}
    assert recover_module._files(contents) == {columns, raw, index}


def refuse_renaming(monkeypatch: pytest.MonkeyPatch, *uids: str) -> None:
    """Let renaming the journals of these runs fail, as without permission: root has it always."""
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.split(".")[0] in uids:
            raise PermissionError(13, "Permission denied", str(path), None, str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)


def test_recover_names_journals_that_it_may_not_rename(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, unborn, lost, living, good = (record(store) for _ in range(5))
    ended.stop()
    unborn.stop()
    new = unborn.path.rename(unborn.path.with_suffix(TEMPORARY_SUFFIX))
    ingest(lost.stop(), client)
    client["raw"].delete_contents(lost.uid, recursive=True, external_only=False)
    good.stop()
    (store / "journal" / "done").chmod(0o755)
    (store / "journal").chmod(0o750)
    refuse_renaming(monkeypatch, ended.uid, unborn.uid, lost.uid)
    report = recover(store, client)
    assert report.recording == (living.uid,)
    assert report.finished == (good.uid,)
    assert report.changes == 1
    journals, owner = store / "journal", os.geteuid()
    done = journals / "done"
    may_not = f"user {owner} may not rename it to"
    of_journals = f"the directory {journals} has the permissions drwxr-x--- and the owner {owner}"
    of_done = f"the directory {done} has the permissions drwxr-xr-x and the owner {owner}"
    assert set(report.failed) == {
        f"{ended.path}: {may_not} {done / ended.path.name}: {of_journals}; {of_done}",
        f"{new}: {may_not} {unborn.path}: {of_journals}",
        f"{done / lost.path.name}: {may_not} {lost.path}: {of_done}; {of_journals}",
    }
    living.stop()
    monkeypatch.undo()
    report = recover(store, client)
    assert set(report.finished) == {ended.uid, unborn.uid, living.uid}
    assert report.restored == (lost.uid,)
    assert (report.recording, report.failed) == ((), ())


def test_a_journal_that_cannot_be_read_does_not_keep_others_from_being_written(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = record(store), record(store)
    bad.stop()
    good.stop()
    start_time = ingest_module.start_time

    def refuse(path: Path) -> float:
        if path == bad.path:
            raise PermissionError(13, "Permission denied", str(path))
        return start_time(path)

    monkeypatch.setattr(ingest_module, "start_time", refuse)
    report = recover(store, client)
    assert report.finished == (good.uid,)
    assert report.recording == ()
    assert report.failed == (f"{bad.path}: [Errno 13] Permission denied: '{bad.path}'",)


def test_recover_beside_a_running_ingester(store: Path, client: Any, stack: Stack) -> None:
    """The running one gets the work; recovery waits and reports."""
    lost, dead = record(store), record(store)
    ingest(lost.stop(), client)
    client["raw"].delete_contents(lost.uid, recursive=True, external_only=False)
    dead.journal.close()
    (store / "tiled").mkdir()
    (store / "tiled" / "api_key").write_text(stack.key)
    child = Child("-m", "skywright.store.ingester", "--directory", str(store), "--uri", stack.uri)
    try:
        report = recover(store, client)
        assert report.restored == (lost.uid,)
        assert {lost.uid, dead.uid} >= set(report.finished)
        assert rows_of(client, lost.uid) == rows_of(client, dead.uid) == [1.0, 2.0, 3.0]
        assert recover(store, client).changes == 0
    finally:
        assert child.stop() == 0


def test_journal_that_was_never_born(store: Path, client: Any) -> None:
    """Its writer died before the start document was whole, or just before the rename."""
    whole = record(store, rows=0)
    whole.journal.close()
    whole.path.rename(whole.path.with_suffix(TEMPORARY_SUFFIX))
    (store / "journal" / f"half{TEMPORARY_SUFFIX}").write_text('["start", {"uid": "ha')
    report = recover(store, client)
    assert report.finished == (whole.uid,)
    assert not list((store / "journal").glob("half*"))


def test_a_run_that_is_not_finished_is_said(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests are not answered, and it is postponed."""
    slow, living = record(store), record(store)
    slow.stop()
    post = CatalogServer.post

    def never_answered(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        if slow.uid in str(body):
            raise httpx.ReadTimeout("timed out")
        return post(catalog, container, asked, body)

    monkeypatch.setattr(CatalogServer, "post", never_answered)
    report = recover(store, client)
    assert report.recording == (living.uid,)
    assert report.failed == (f"{slow.path}: is not finished; try again",)
    monkeypatch.setattr(CatalogServer, "post", post)
    assert recover(store, client).finished == (slow.uid,)


def test_a_running_ingester_that_does_not_finish_is_said_with_the_free_room(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store).stop()
    monkeypatch.setattr(recover_module, "WAIT_S", 0.2)
    with ingest_lock(store), pytest.raises(DataError, match=r"MB free;.*ingester\.log"):
        recover(store, client)


def test_recover_goes_on_after_a_lost_connection(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = record(store)
    recording.stop()
    post, lost = CatalogServer.post, []

    def losing(*args: Any) -> Any:
        if not lost:
            lost.append(True)
            raise httpx.RemoteProtocolError("server disconnected")
        return post(*args)

    monkeypatch.setattr(CatalogServer, "post", losing)
    assert recover(store, client).finished == (recording.uid,)
    monkeypatch.setattr(recover_module, "RETRY_S", 0.3)
    record(store).stop()

    def refuse(*_: Any) -> Any:
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(CatalogServer, "post", refuse)
    with pytest.raises(ServerUnavailableError):
        recover(store, client)
