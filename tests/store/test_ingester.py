"""The ingester: many journals in turn, its process, and what happens while the server is away."""

import fcntl
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from store.recording import record, rows_of
from store.stack import Stack
from support import forked
from support.waiting import until
from watchdog.events import FileSystemEvent

from skywright.callbacks.journal import TEMPORARY_SUFFIX
from skywright.errors import ConfigError
from skywright.store import ingest as ingest_module
from skywright.store import ingester as ingester_module
from skywright.store import run_nodes
from skywright.store.ingest import IngestState, RunIngest, ServerUnavailableError
from skywright.store.ingester import Ingester, ingest_lock
from skywright.store.moves import move_journal
from skywright.store.recover import recover
from skywright.store.run_nodes import CatalogServer


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
    post = CatalogServer.post

    def never_answered(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        if asked == route and slow.uid in str(body):
            raise error
        return post(catalog, container, asked, body)

    monkeypatch.setattr(CatalogServer, "post", never_answered)
    monkeypatch.setattr(ingest_module, "POSTPONED_S", 3600.0)
    ingester = Ingester(store, client)
    for _ in range(ingest_module.ATTEMPTS):
        with pytest.raises(ServerUnavailableError):
            sweep_all(ingester)
    sweep_all(ingester)
    assert rows_of(client, good.uid) == [1.0, 2.0, 3.0]
    assert slow.path.exists()
    monkeypatch.setattr(CatalogServer, "post", post)
    assert recover(store, client).finished == (slow.uid,)


def test_a_run_is_put_aside_only_if_errors_of_the_server_go_on_while_others_are_written(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a conflict of two transactions, or the restart of a database."""
    passing, lasting, good = (record(store, time=float(n)) for n in (1, 2, 3))
    uids = [each.stop().stem for each in (passing, lasting, good)]
    post, errors = CatalogServer.post, [uids[0]] * ingest_module.ATTEMPTS + [uids[1]] * 1000

    def failing(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        for uid in set(errors):
            if uid in str(body):
                errors.remove(uid)
                raise answer(500)
        return post(catalog, container, asked, body)

    now = 100.0
    monkeypatch.setattr(ingest_module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(CatalogServer, "post", failing)
    ingester = Ingester(store, client)
    sweep_all(ingester)
    assert rows_of(client, uids[2]) == [1.0, 2.0, 3.0]
    assert passing.path.exists()
    assert lasting.path.exists()
    for _ in range(2):
        now += ingest_module.POSTPONED_S
        sweep_all(ingester)
    assert rows_of(client, uids[0]) == [1.0, 2.0, 3.0]
    assert lasting.path.exists()
    for _ in range(4):
        now += ingest_module.POSTPONED_S
        sweep_all(ingester)
    assert {p.stem for p in (store / "journal" / "aside").iterdir()} == {uids[1]}


@pytest.mark.parametrize("status", [401, 403])
def test_a_run_that_the_server_refuses_does_not_hold_up_others(
    store: Path, client: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The server takes writes, but not those of this run; then it takes none."""
    refused, good = record(store, time=1.0), record(store, time=2.0)
    refused.stop()
    good.stop()
    post = CatalogServer.post

    def policy(catalog: Any, container: Any, asked: str, body: Any) -> Any:
        if refused.uid in str(body):
            raise answer(status)
        return post(catalog, container, asked, body)

    monkeypatch.setattr(CatalogServer, "post", policy)
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
