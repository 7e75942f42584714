"""The ingester's process, recovery, and what happens while the server is away."""

import asyncio
import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import asyncpg
import httpx
import numpy as np
import pyarrow
import pytest
from event_model import compose_run
from store.recording import Recording, array, scalar
from store.stack import Child, Stack
from support import forked
from support.waiting import until
from watchdog.events import FileSystemEvent

from skywright.callbacks.journal import TEMPORARY_SUFFIX, Journal
from skywright.config import Settings
from skywright.errors import ConfigError, DataError
from skywright.files.index import files_path
from skywright.files.readers import HDF5
from skywright.processes.ports import free_port
from skywright.store import ingest as ingest_module
from skywright.store import ingester as ingester_module
from skywright.store import line_writer, run_nodes
from skywright.store import recover as recover_module
from skywright.store import tail as tail_module
from skywright.store.client import catalog, connect, ensure_containers
from skywright.store.ingest import IngestState, RunIngest, ServerUnavailableError, ingest
from skywright.store.ingester import Ingester, ingest_lock
from skywright.store.journal_contents import JournalContents
from skywright.store.moves import move_journal
from skywright.store.recover import recover
from skywright.store.run_nodes import Catalog


@pytest.fixture
def store(stack: Stack, tmp_path: Path) -> Path:
    """A store directory of its own, whose runs go to the common server."""
    directory = stack.directory / "assets" / tmp_path.name
    (directory / "journal").mkdir(parents=True)
    return directory


def record(store: Path, rows: int = 3, **metadata: Any) -> Recording:
    recording = Recording(store / "journal", **metadata).stream("primary", x=scalar("number"))
    recording.events({"x": float(n)} for n in range(1, rows + 1))
    return recording


def rows_of(client: Any, uid: str) -> list[float]:
    table = client["raw"][uid].base["primary"].base["internal"].read()
    assert table["seq_num"].tolist() == list(range(1, len(table) + 1))
    return list(table["x"])


def append_again(table: Any, rows: int) -> None:
    """Append the first rows once more, as a retry after a lost reply does."""
    frame = table.read().iloc[:rows]
    table.append_partition(0, pyarrow.Table.from_pandas(frame, preserve_index=False))


def test_second_ingester_is_refused_with_the_pid_of_the_first(store: Path, stack: Stack) -> None:
    command = [sys.executable, "-m", "skywright.store.ingester", "--directory", str(store)]
    with ingest_lock(store):
        done = forked.run(
            [*command, "--uri", stack.uri], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert str(os.getpid()) in done.stderr
        with pytest.raises(ConfigError, match=str(os.getpid())), ingest_lock(store):
            pass
    with ingest_lock(store):
        pass


def test_same_journal_twice_gives_the_same_run(store: Path, client: Any) -> None:
    path = record(store).stop()
    copy = path.read_bytes()
    assert ingest(path, client) is IngestState.DONE
    node = client["raw"][path.stem].item
    for _ in range(2):
        path.write_bytes(copy)
        assert ingest(path, client) is IngestState.DONE
        assert rows_of(client, path.stem) == [1.0, 2.0, 3.0]
    assert client["raw"][path.stem].item == node  # not even touched


def test_a_part_of_a_journal_that_writes_nothing_is_not_its_end(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Datums that no event names yet are such a part."""
    recording = record(store)
    resource = {"uid": "r", "run_start": recording.uid, "spec": "AD_HDF5", "root": "/"}
    path = {"resource_path": "f.h5", "path_semantics": "posix", "resource_kwargs": {}}
    recording.journal("resource", resource | path)
    for number in range(100):
        datum = {"resource": "r", "datum_id": f"r/{number}", "datum_kwargs": {}}
        recording.journal("datum", datum)
    recording.event(x=4.0)
    path = recording.stop()
    monkeypatch.setattr(tail_module, "CHUNK_BYTES", 1000)
    run = RunIngest(path, Catalog(client))
    run.step()
    assert run.contents.stop is not None  # before the first line is written, all are read
    while run.step() is IngestState.MORE:
        pass
    assert not path.exists()
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]


def test_half_written_run_is_written_again_into_the_same_node(store: Path, client: Any) -> None:
    """Whatever another ingester left behind: a full write meets HTTP 409 and goes on."""
    recording = record(store)
    assert ingest(recording.path, client) is IngestState.IDLE
    created = client["raw"][recording.uid].item["links"]["self"]
    recording.event(x=4.0)
    path = recording.stop()
    table = client["raw"][recording.uid].base["primary"].base["internal"]
    append_again(table, 2)
    assert ingest(path, client) is IngestState.DONE
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]
    assert client["raw"][recording.uid].item["links"]["self"] == created
    assert "duplicated" not in str(client["raw"][recording.uid].metadata.get("notes"))


def test_lost_reply_after_an_append_does_not_double_rows(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes the rows, its answer is lost: a full write, and no row appended twice."""
    recording = record(store)
    run = RunIngest(recording.path, Catalog(client))
    assert run.step() is IngestState.MORE
    real = Catalog.post
    lost = []

    def losing(*args: Any) -> Any:
        answer = real(*args)
        if not lost:
            lost.append(True)
            raise httpx.ReadError("the answer is lost")
        return answer

    monkeypatch.setattr(Catalog, "post", losing)
    recording.event(x=4.0)
    with pytest.raises(ServerUnavailableError):
        run.step()
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]  # the server has taken them
    run.step()
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]


def test_a_type_that_widens_in_mid_run_is_written_again(store: Path, client: Any) -> None:
    recording = Recording(store / "journal")
    recording.stream("primary", x=scalar("integer"), a=array([2]))
    run = RunIngest(recording.path, Catalog(client))
    for x, a in ((1, [1, 2]), (2, [3, 4])):
        recording.event(x=x, a=a)
        run.step()
    recording.event(x=2.5, a=[1, 2, 3])
    recording.event(x=None, a=[0.5])
    run._full_write_allowed_at = 0.0
    run.step()
    data = client["raw"][recording.uid]["primary"].read()
    assert data["x"].values[:3].tolist() == [1.0, 2.0, 2.5]
    assert data["a"].shape == (4, 3)
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    notes = client["raw"][recording.uid].metadata["notes"]
    assert "primary/x: declared integer, stored as number, because of its values" in notes


def test_a_full_write_ends_while_each_event_changes_the_rows(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array that grows by one element with each event."""
    monkeypatch.setattr(ingest_module, "FULL_WRITE_PAUSE_FACTOR", 0)
    recording = Recording(store / "journal")
    recording.stream("primary", a=array([2]), text=scalar("string"))
    run = RunIngest(recording.path, Catalog(client))
    text = "x" * 500_000  # a full write takes several steps
    for length in range(2, 12):
        recording.event(a=list(range(length)), text=text)
    rows = []
    for length in range(12, 32):
        recording.event(a=list(range(length)), text="y")
        before = run._full_write
        run.step()
        if before is not None and run._full_write is None:  # a full write has ended
            rows.append(client["raw"][recording.uid]["primary"].read()["a"].shape[0])
    assert len(rows) > 1
    assert min(rows) > 10
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass


def test_server_away_keeps_the_place(store: Path, client: Any, stack: Stack) -> None:
    """Steps fail while nobody answers; the first one after that catches up."""
    recording = record(store)
    fragile = connect(stack.uri, stack.key)
    run = RunIngest(recording.path, Catalog(fragile))
    run.step()
    real = fragile.context.http_client.send

    def refuse(request: httpx.Request, **_: Any) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)

    fragile.context.http_client.send = refuse
    recording.event(x=4.0)
    for _ in range(2):
        run._full_write_allowed_at = 0.0
        with pytest.raises(ServerUnavailableError):
            run.step()
    fragile.context.http_client.send = real
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0, 4.0]


# Recovery


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


def test_journal_of_a_writer_that_dies_before_its_rename_is_found_by_a_running_ingester(
    store: Path, client: Any
) -> None:
    ingester = Ingester(store, client)
    assert not ingester.sweep()
    path = record(store).stop()
    new = path.rename(path.with_suffix(TEMPORARY_SUFFIX))
    with new.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # its writer lives
        assert not ingester.sweep()
        assert new.exists()
    while ingester.sweep():
        pass
    assert rows_of(client, path.stem) == [1.0, 2.0, 3.0]


def test_newest_run_is_not_held_up_by_a_broken_one(store: Path, client: Any) -> None:
    broken = record(store, tiled_specs=[5])
    good = record(store)
    ingester = Ingester(store, client)
    for _ in range(6):
        ingester.sweep()
    assert rows_of(client, good.uid) == [1.0, 2.0, 3.0]
    broken.stop()
    good.stop()
    while ingester.sweep():
        pass
    assert {p.stem for p in (store / "journal" / "aside").iterdir()} == {broken.uid}
    assert recover(store, client).aside == (broken.uid,)
    (aside,) = (store / "journal" / "aside").iterdir()
    aside.write_bytes(aside.read_bytes().replace(b'"tiled_specs": [5]', b'"tiled_specs": []'))
    report = recover(store, client)
    assert (report.finished, report.aside) == ((broken.uid,), ())
    assert rows_of(client, broken.uid) == [1.0, 2.0, 3.0]


def sweep_all(ingester: Ingester) -> None:
    while ingester.sweep():
        pass


def answer(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://tiled")
    response = httpx.Response(status, request=request)
    return httpx.HTTPStatusError("refused", request=request, response=response)


@pytest.mark.parametrize(
    ("route", "error"),
    [
        (run_nodes.WRITE_RUN, httpx.ReadTimeout("timed out")),
        (run_nodes.FINISH_RUN, httpx.ReadTimeout("timed out")),
        (run_nodes.WRITE_RUN, answer(504)),  # of a proxy
    ],
)
def test_run_whose_requests_are_not_answered_does_not_hold_up_others(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch, route: str, error: Exception
) -> None:
    slow, good = record(store, time=1.0), record(store, time=2.0)
    slow.stop()
    good.stop()
    post = Catalog.post

    def never_answered(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        if asked == route and slow.uid in str(body):
            raise error
        return post(catalog, container, asked, body)

    monkeypatch.setattr(Catalog, "post", never_answered)
    monkeypatch.setattr(ingest_module, "POSTPONED_S", 3600.0)
    ingester = Ingester(store, client)
    for _ in range(ingest_module.ATTEMPTS):
        with pytest.raises(ServerUnavailableError):
            sweep_all(ingester)
    sweep_all(ingester)
    assert rows_of(client, good.uid) == [1.0, 2.0, 3.0]
    assert slow.path.exists()
    monkeypatch.setattr(Catalog, "post", post)
    assert recover(store, client).finished == (slow.uid,)


def test_a_run_that_is_not_finished_is_said(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests are not answered, and it is postponed."""
    slow, living = record(store), record(store)
    slow.stop()
    post = Catalog.post

    def never_answered(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        if slow.uid in str(body):
            raise httpx.ReadTimeout("timed out")
        return post(catalog, container, asked, body)

    monkeypatch.setattr(Catalog, "post", never_answered)
    report = recover(store, client)
    assert report.recording == (living.uid,)
    assert report.failed == (f"{slow.path}: is not finished; try again",)
    monkeypatch.setattr(Catalog, "post", post)
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
    post, lost = Catalog.post, []

    def losing(*args: Any) -> Any:
        if not lost:
            lost.append(True)
            raise httpx.RemoteProtocolError("server disconnected")
        return post(*args)

    monkeypatch.setattr(Catalog, "post", losing)
    assert recover(store, client).finished == (recording.uid,)
    monkeypatch.setattr(recover_module, "RETRY_S", 0.3)
    record(store).stop()

    def refuse(*_: Any) -> Any:
        raise httpx.ConnectError("nobody there")

    monkeypatch.setattr(Catalog, "post", refuse)
    with pytest.raises(ServerUnavailableError):
        recover(store, client)


@pytest.mark.parametrize("status", [401, 403])
def test_a_run_that_the_server_refuses_does_not_hold_up_others(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The server takes writes, but not those of this run; then it takes none."""
    refused, good = record(store, time=1.0), record(store, time=2.0)
    refused.stop()
    good.stop()
    post = Catalog.post

    def policy(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        if refused.uid in str(body):
            raise answer(status)
        return post(catalog, container, asked, body)

    monkeypatch.setattr(Catalog, "post", policy)
    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "takes_writes", lambda _: False)
        with pytest.raises(ServerUnavailableError):
            sweep_all(Ingester(store, client))
    sweep_all(Ingester(store, client))
    assert rows_of(client, good.uid) == [1.0, 2.0, 3.0]
    assert {p.stem for p in (store / "journal" / "aside").iterdir()} == {refused.uid}


def test_finished_runs_are_written_in_the_order_of_their_starts_before_open_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float] = []

    def step(run: RunIngest) -> IngestState:
        steps.append(run.start_time)
        return IngestState.MORE if steps.count(run.start_time) < 2 else IngestState.DONE

    monkeypatch.setattr(RunIngest, "step", step)
    monkeypatch.setattr(ingester_module, "OPEN_RUN_PERIOD_S", 3600.0)
    living = record(tmp_path, time=0.5)
    for time in (3.0, 1.0, 6.0, 2.0, 5.0, 4.0):
        record(tmp_path, time=time).stop()
    ingester = Ingester(tmp_path, None)
    for _ in range(12):
        assert ingester.sweep()
        for path in set(ingester.journals.glob("*.jsonl")) - set(ingester._runs):
            path.unlink()  # `step` would have moved it
    # The open run has its first step at once; then it waits until no finished run is queued
    assert steps == [1.0, 0.5, 1.0, *np.repeat(np.arange(2.0, 7.0), 2)]
    living.stop()


def test_a_journal_that_could_not_be_read_and_is_gone_is_no_failure(tmp_path: Path) -> None:
    ingester = Ingester(tmp_path, None)
    directory = ingester.journals / "directory.jsonl"
    directory.mkdir()
    assert not ingester.sweep()
    assert list(ingester.failures) == [directory]
    directory.rmdir()
    assert not ingester.sweep()
    assert ingester.failures == {}


def test_a_journal_that_somebody_else_moves_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(run: RunIngest) -> IngestState:
        run.path.unlink()
        raise FileNotFoundError(2, "No such file or directory", str(run.path))

    monkeypatch.setattr(RunIngest, "step", step)
    record(tmp_path).stop()
    ingester = Ingester(tmp_path, None)
    assert not ingester.sweep()
    assert ingester.failures == {}
    assert not ingester.sweep()
    assert ingester._runs == {}


def test_open_runs_take_a_fifth_of_the_time_while_finished_runs_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, steps = 100.0, list[tuple[float, float]]()

    def step(run: RunIngest) -> IngestState:
        nonlocal now
        steps.append((now, run.start_time))
        now += 3.0
        return IngestState.MORE

    monkeypatch.setattr(RunIngest, "step", step)
    monkeypatch.setattr(ingester_module, "time", SimpleNamespace(monotonic=lambda: now))
    record(tmp_path, time=1.0).stop()
    living = record(tmp_path, time=2.0)
    ingester = Ingester(tmp_path, None)
    while now < 150.0:
        assert ingester.sweep()
    assert [time for time, run in steps if run == 2.0] == [103.0, 121.0, 139.0]
    living.stop()


def test_a_run_that_differs_from_its_journal_is_written_again_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is verified because it was in the catalog already; it has ended, so it does not wait."""
    found = [["primary: 2 rows, 3 events"], ["primary: 2 rows, 3 events"], []]
    monkeypatch.setattr(ingest_module, "differences", lambda *_: found.pop(0))
    path = record(tmp_path).stop()
    container = {path.stem: MagicMock()}
    catalog = SimpleNamespace(
        container_of=lambda _: container, post=lambda *_: {"refused": []}, tables=True
    )
    run = RunIngest(path, cast("Any", catalog))
    run._has_node = True
    run._full_write_allowed_at = math.inf
    states = []
    while path.exists():
        states.append(run.step())
        assert states[-1] is not IngestState.IDLE
    assert found == []
    assert states[-1] is IngestState.DONE


def test_failures_of_a_run_count_until_something_is_written(tmp_path: Path) -> None:
    """What fails may be beyond what a full write writes again."""
    recording = record(tmp_path)
    run = RunIngest(recording.path, cast("Any", None))
    due: list[bool] = []
    writer = SimpleNamespace(needs_full_write=bool, is_due=lambda: bool(due), write=lambda _: None)
    run._line_writer = cast("Any", writer)
    run._read_new_lines()
    run._failures = 2
    assert (run.step(), run._failures) == (IngestState.IDLE, 2)
    due.append(True)
    assert (run.step(), run._failures) == (IngestState.IDLE, 0)


def test_rows_of_a_step_that_a_full_disk_ended_are_written_without_a_further_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next event may come much later."""
    monkeypatch.setattr(line_writer, "UPDATE_S", (0.0, 0.0))
    sent: list[Any] = []

    def post(_container: Any, _route: str, body: dict[str, Any]) -> dict[str, Any]:
        sent.extend(body["rows"])
        return {"refused": []}

    def register_files(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    recording = record(tmp_path)
    catalog = SimpleNamespace(container_of=lambda _: None, post=post, tables=True)
    run = RunIngest(recording.path, cast("Any", catalog))
    while run.step() is not IngestState.IDLE:
        pass
    recording.event(x=4.0)
    with monkeypatch.context() as patch:
        patch.setattr(line_writer.LineWriter, "_register_files", register_files)
        with pytest.raises(OSError, match="No space left"):
            run.step()
    assert not sent
    run.step()
    assert len(sent) == 1


def test_what_cannot_be_read_is_said_once(
    store: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (store / "journal" / "directory.jsonl").mkdir()
    good = record(store)
    ingester = Ingester(store, client)
    for _ in range(3):
        ingester.sweep()
    assert rows_of(client, good.uid) == [1.0, 2.0, 3.0]
    assert caplog.text.count("directory.jsonl: will be retried") == 1


def test_a_file_without_a_whole_line_is_waited_for_and_then_moved_aside(
    store: Path, client: Any
) -> None:
    foreign = store / "journal" / "notes.jsonl"
    foreign.write_text('{"a": 1}')
    ingester = Ingester(store, client)
    assert not ingester.sweep()
    assert foreign.exists()  # it may still be copied
    old = foreign.stat().st_mtime - 2 * ingest_module.UNFINISHED_S
    os.utime(foreign, (old, old))
    assert ingester.sweep()
    assert (store / "journal" / "aside" / "notes.jsonl").read_text() == '{"a": 1}'


def test_ingest_goes_on_where_directories_cannot_be_watched(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_watches(_: Any) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(ingester_module.Observer, "start", no_watches)
    monkeypatch.setattr(ingester_module, "SCAN_S", 0.05)
    recording = record(store)
    ingester, stop, idle = Ingester(store, client), threading.Event(), threading.Event()
    sweep = ingester.sweep

    def note_idle() -> bool:
        busy = sweep()
        if not busy:
            idle.set()
        return busy

    monkeypatch.setattr(ingester, "sweep", note_idle)
    thread = threading.Thread(target=ingester_module.run_until, args=(ingester, stop))
    thread.start()
    try:
        assert idle.wait(120)  # the journal is written as far as it goes
        recording.stop()
        until(lambda: not recording.path.exists(), what="the journal is done")
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_a_journal_that_moves_to_done_holds_no_later_event_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the target of a move is not watched, watchdog reports "deleted" after 0.5 s.

    It delays all later events until then.
    """
    seen: list[tuple[str, str]] = []

    def on_any_event(_: Any, event: FileSystemEvent) -> None:
        seen.append((event.event_type, Path(os.fsdecode(event.dest_path)).name))

    monkeypatch.setattr(ingester_module._JournalEvents, "on_any_event", on_any_event)
    journal = tmp_path / "run.jsonl"
    journal.write_text("one line")
    observer = ingester_module.observer_of(tmp_path, threading.Event())
    observer.start()
    try:
        move_journal(journal, tmp_path / "done" / journal.name)
        (tmp_path / "next.jsonl").touch()
        until(lambda: ("created", "") in seen, what="the next journal is noticed")
    finally:
        observer.stop()
        observer.join()
    assert ("moved", "run.jsonl") in seen
    assert "deleted" not in dict(seen)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_sweep_over_an_open_run_does_not_wake_the_ingester(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it sweeps again at once, for as long as a run is open, even if the run does nothing."""
    handle = ingester_module._JournalEvents.on_any_event
    seen: list[tuple[str, str]] = []

    def on_any_event(handler: Any, event: FileSystemEvent) -> None:
        handle(handler, event)
        seen.append((event.event_type, Path(os.fsdecode(event.src_path)).name))

    monkeypatch.setattr(ingester_module._JournalEvents, "on_any_event", on_any_event)
    recording, ingester, wake = record(store), Ingester(store, client), threading.Event()
    sweep_all(ingester)
    assert rows_of(client, recording.uid) == [1.0, 2.0, 3.0]
    marker = store / "journal" / "marker"
    marker.touch()
    observer = ingester_module.observer_of(store / "journal", wake)
    observer.start()
    try:
        assert not ingester.sweep()
        marker.read_bytes()
        until(lambda: ("closed_no_write", "marker") in seen, what="a later event is noticed")
        assert not wake.is_set()
        recording.event(x=4.0)
        assert wake.wait(60)
    finally:
        observer.stop()
        observer.join()
        recording.stop()


@pytest.mark.parametrize("module", ["ingester", "server"])
def test_a_wrong_configuration_is_one_line(tmp_path: Path, module: str) -> None:
    (tmp_path / "skywright.toml").write_text("[store]\ntiled_port = 'none'\n")
    command = [sys.executable, "-m", f"skywright.store.{module}"]
    done = forked.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tiled_port" in done.stderr


def test_arrays_of_a_run_that_says_no_more_are_up_to_date(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long wait follows the last event: its array is sent when the period is over."""
    monkeypatch.setattr(line_writer, "UPDATE_S", (3600.0, 3600.0))
    recording = Recording(store / "journal").stream("primary", a=array([2]))
    run = RunIngest(recording.path, Catalog(client))
    for n in range(3):  # the first one is sent at once
        recording.event(a=[n, n])
        run.step()
    assert client["raw"][recording.uid]["primary"].base["a"].shape == (1, 2)
    monkeypatch.setattr(line_writer, "UPDATE_S", (0.0, 0.0))
    run.step()
    assert client["raw"][recording.uid]["primary"].base["a"].shape == (3, 2)
    recording.stop()
    sweep_all(Ingester(store, client))


def test_types_are_those_of_the_events_whatever_comes_first(store: Path, client: Any) -> None:
    """A camera's stream datum is read before the event that it belongs to."""
    recording = Recording(store / "journal")
    image = {"shape": [1, 4], "dtype": "array", "dtype_numpy": "|u1", "external": "STREAM:"}
    recording.stream("primary", image=image, a=array([2]))
    resource = recording.run.compose_stream_resource(
        mimetype="application/x-nobody-knows",
        uri="file://localhost/no",
        data_key="image",
        parameters={},
    )
    recording.journal("stream_resource", resource.stream_resource_doc)
    datum = resource.compose_stream_datum(
        indices={"start": 0, "stop": 1},
        seq_nums={"start": 1, "stop": 2},
        descriptor=recording._streams["primary"].descriptor_doc,
    )
    recording.journal("stream_datum", datum)
    run = RunIngest(recording.path, Catalog(client))
    run.step()
    recording.event(a=[1, 2])
    recording.stop()
    while run.step() is not IngestState.DONE:
        pass
    stored = client["raw"][recording.uid]["primary"].metadata["data_keys"]["a"]
    assert stored["dtype_numpy"] == "<i8"


# A server elsewhere


async def _sql(address: str, *statements: str) -> None:
    connection = await asyncpg.connect(f"{address}/postgres", user="root")
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@pytest.fixture
def databases(postgres_uri: str) -> Iterator[tuple[str, str]]:
    """Addresses of two new databases, for the catalog and for tables."""
    names = [f"skywright_{uuid.uuid4().hex[:12]}" for _ in range(2)]
    asyncio.run(_sql(postgres_uri, *(f"CREATE DATABASE {name}" for name in names)))
    address = postgres_uri.replace("//", "//root@")
    yield f"{address}/{names[0]}", f"{address}/{names[1]}"
    asyncio.run(_sql(postgres_uri, *(f"DROP DATABASE {name} WITH (FORCE)" for name in names)))


@pytest.mark.timeout(240)
def test_server_on_postgresql_and_redis(
    tmp_path: Path, databases: tuple[str, str], redis_port: int
) -> None:
    """The same ingest against a tiled server elsewhere: only configuration differs."""
    from skywright.store.server import make_tables

    make_tables(databases[0].replace("postgresql:", "postgresql+asyncpg:"))
    port = free_port()
    config = {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": databases[0],
                    "writable_storage": [str(tmp_path / "data"), databases[1]],
                    "readable_storage": [str(tmp_path)],
                },
            }
        ],
        "authentication": {"single_user_api_key": "elsewhere"},
        "streaming_cache": {"uri": f"redis://127.0.0.1:{redis_port}"},
        "uvicorn": {"host": "127.0.0.1", "port": port},
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [sys.executable, "-m", "tiled", "serve", "config", str(tmp_path / "config.yml")]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    uri = f"http://127.0.0.1:{port}"
    try:
        until(lambda: is_ready(uri), what="tiled on PostgreSQL")
        settings = Settings(store={"directory": tmp_path, "tiled_uri": uri, "api_key": "elsewhere"})
        client = connect(settings=settings)
        ensure_containers(client)
        recording = Recording(tmp_path / "journal")
        recording.stream("primary", x=scalar("integer"), m=array([2, 2]), s=scalar("string"))
        for n in (1, 2, 2, 3):
            m = np.full((2, 2), n, "<u2")
            recording.event(seq_num=n, x=n if n < 3 else 2**63 - 1, m=m, s="a" * n)
        path = recording.stop()
        assert ingest(path, client) is IngestState.DONE
        data = catalog(client)[-1]["primary"].read()
        assert data["x"].values.tolist() == [1, 2, 2**63 - 1]
        assert data["m"].dtype == np.dtype("<u2")
        assert data["m"].values[:, 0, 0].tolist() == [1, 2, 3]
        assert recover(tmp_path, client).changes == 0
    finally:
        server.terminate()
        server.wait(timeout=60)


def is_ready(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/healthz").status_code == 200
    except httpx.HTTPError:
        return False
