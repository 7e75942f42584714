"""The owner of a watched directory: what it tells a person, and the PV that says so."""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from caproto import AlarmSeverity
from epu_trees import written
from sqlalchemy.exc import OperationalError
from support.waiting import until

from iocs.epu.ioc import EpuIOC
from skywright.instruments.epu.database import Database
from skywright.instruments.epu.owner import EpuOwner, OwnerOptions
from skywright.instruments.epu.scan import walk
from skywright.instruments.epu.twin.visit import plan_visit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return written(plan_visit(seed=6, grids=1, squares=4, imaged=1, holes=2), tmp_path / "data")


@pytest.fixture
def owner(root: Path, tmp_path: Path) -> Iterator[EpuOwner]:
    opened = EpuOwner(OwnerOptions(root, str(tmp_path / "entities.sqlite")))
    yield opened
    opened.close()


def message(owner: EpuOwner) -> tuple[str, AlarmSeverity]:
    """Return the text and the severity of the PV."""

    async def posted() -> tuple[str, AlarmSeverity]:
        ioc = EpuIOC("TEST:", owner)
        await ioc._post()
        return ioc.message.value, ioc.message.alarm.severity

    return asyncio.run(posted())


def test_a_directory_that_cannot_be_listed_is_named_and_is_no_unreadable_file(
    owner: EpuOwner,
) -> None:
    owner.watcher._take_unlisted({"lost+found": "Permission denied"})
    assert owner.alarm() == "lost+found: a directory or link that cannot be read"
    assert owner.watcher.state.unreadable == 1


def test_a_directory_that_is_gone_is_an_alarm(owner: EpuOwner, root: Path, tmp_path: Path) -> None:
    owner.watcher.run(idle_exit=0)
    assert owner.alarm() == ""
    root.rename(tmp_path / "elsewhere")
    owner.watcher.scan()
    assert owner.alarm() == f"{root}: No such file or directory"
    root.mkdir()  # what is left where a disk was mounted
    owner.watcher.scan()
    assert owner.alarm() == f"{root}: it is empty, though files of it are recorded"
    root.rmdir()
    (tmp_path / "elsewhere").rename(root)
    owner.watcher.scan()
    assert owner.alarm() == ""


def test_nothing_is_decided_before_what_was_there_is_read(
    owner: EpuOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micrographs are read last: before, holes that are taken seem to be left."""
    monkeypatch.setattr("skywright.instruments.epu.owner.DECIDE_S", 0.01)
    monkeypatch.setattr("skywright.instruments.epu.watch.watcher.BATCH", 10)
    record, release = owner.watcher._record, threading.Event()
    rounds, left = itertools.count(), []

    def slow(batch: Any) -> bool:
        release.wait(60)
        return record(batch)

    def wait(seconds: float) -> bool:
        if next(rounds) > 20:
            release.set()
        return waited(seconds)

    waited = owner._stopped.wait
    monkeypatch.setattr(owner.watcher, "_record", slow)
    monkeypatch.setattr(owner._stopped, "wait", wait)
    monkeypatch.setattr(owner.decider, "step", lambda: left.append(owner.watcher.backlog.ready))
    owner.start()
    until(lambda: left)
    assert left[0] == 0


def test_a_database_that_fails_is_in_the_log_once(
    owner: EpuOwner, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OperationalError("SELECT", {}, Exception("disk I/O error")) for _ in range(3)]

    def fail() -> None:
        if failures:
            raise failures.pop()
        owner._stopped.set()

    owner._repeat(0.0, fail, "no decision")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["no decision: the database fails: disk I/O error"]


def test_a_database_that_is_away_is_what_the_message_says(
    owner: EpuOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.watcher.on_commit = owner.offer
    owner.watcher.run(idle_exit=0)
    assert owner.grids.grids()
    owner.watcher.state.database_error = "no route"

    def no_connection(database: Any) -> Any:
        raise OperationalError("x", {}, Exception("no route"))

    monkeypatch.setattr(Database, "read", no_connection)
    assert message(owner) == ("entity database: no route", AlarmSeverity.MAJOR_ALARM)


def test_an_alarm_that_stays_hides_no_other(owner: EpuOwner) -> None:
    owner.watcher._take_unlisted({"lost+found": "Permission denied"})
    owner.watcher.state.database_error = "no route"
    owner.feed_failure = "the feed has stopped"
    assert owner.alarm() == (
        "the feed has stopped; entity database: no route; "
        "lost+found: a directory or link that cannot be read"
    )


def test_a_directory_that_does_not_answer_is_an_alarm_and_a_long_scan_is_none(
    owner: EpuOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.watcher.scan()
    now, alarms = time.monotonic(), []

    def slow(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal now
        for each in walk(*arguments, **options):
            now += 100.0
            alarms.append(owner.alarm())
            yield each

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("skywright.instruments.epu.watch.changes.walk", slow)
    owner.watcher.scan()
    assert set(alarms) == {""}
    now += 200.0
    assert owner.alarm() == (
        f"nothing has been looked at for more than 180 s: {owner.watcher.root} or the database "
        "does not answer"
    )
    owner.watcher.step(0.0)
    assert owner.alarm() == ""


def test_a_missing_session_file_is_an_held_until_it_comes(
    owner: EpuOwner, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = next(root.rglob("EpuSession.dm"))
    content = session.read_bytes()
    session.unlink()
    name = session.parent.relative_to(root).as_posix()
    owner.start()
    until(owner.alarm)
    assert owner.alarm() == f"EpuSession.dm is missing in {name}"
    asked, look = [], os.path.isdir

    def isdir(path: Any) -> bool:
        asked.append(threading.current_thread())
        return look(path)

    monkeypatch.setattr(os.path, "isdir", isdir)
    assert message(owner) == (f"EpuSession.dm is missing in {name}", AlarmSeverity.MAJOR_ALARM)
    assert asked
    assert threading.current_thread() not in asked  # a disk that hangs must not stop all PVs
    monkeypatch.undo()
    session.write_bytes(content)
    until(lambda: not owner.alarm())
    assert message(owner) == ("watching", AlarmSeverity.NO_ALARM)
    session.write_text("<EpuSessionXml")
    until(owner.alarm)
    assert message(owner) == ("1 unreadable files", AlarmSeverity.MAJOR_ALARM)
