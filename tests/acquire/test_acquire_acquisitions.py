"""Acquisitions of the owner: each item once and in order, nothing lost at a stop."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_source import HEIGHT, IDENTITY, HandSource, events, layout
from support.owners import Make, identities
from support.waiting import until

from skywright.acquire import owner as owner_module
from skywright.acquire.recorder import Recorder
from skywright.errors import HardwareError
from skywright.files.columns import ColumnReader


def test_an_acquisition_is_over_when_its_items_are_in_the_file(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorder = Recorder(layout())
    seen: list[int] = []
    owner = make(lambda item: events(item, 1), recorders=[recorder], threads=1)
    owner.start()
    source.send(0)  # no part of an acquisition: not recorded
    recorder.start(tmp_path / "a.h5")
    until(lambda: owner.state().items == 1)
    acquisition = owner.acquire(3, lambda rows: seen.append(int(rows.identity[0])))
    with pytest.raises(HardwareError, match="an acquisition is in progress"):
        owner.acquire(7)
    assert owner.acquisition is acquisition
    source.send(1, 2, 3, 4)
    assert acquisition.done.wait(90)
    assert recorder.rows_readable == 3
    assert identities(tmp_path / "a.h5") == seen == [1, 2, 3]
    assert owner.is_started  # it ran before


class SlowRecorder:
    """A recorder that says when it has stored its results only when the test wants it."""

    essential = True

    def __init__(self) -> None:
        self.done: Callable[[], None] = self.close

    def offer(self, result: Any) -> None: ...

    def end_acquisition(self, done: Callable[[], None]) -> None:
        self.done = done

    @property
    def lost(self) -> dict[str, int]:
        return {}

    def close(self) -> None: ...


def test_an_acquisition_is_over_when_all_recorders_have_stored_its_items(
    source: HandSource, make: Make
) -> None:
    slow = [SlowRecorder(), SlowRecorder()]
    owner = make(recorders=slow)
    acquisition = owner.acquire(1)
    source.send(1)
    slow[1].done()
    assert not acquisition.done.is_set()
    slow[0].done()
    assert acquisition.done.is_set()


def test_who_joins_an_acquisition_that_ends_gets_a_new_one(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout())
    owner = make(recorders=[recorder])
    recorder.start(tmp_path / "a.h5")
    first = owner.acquire(1, may_join=True)
    assert owner.acquire(5, may_join=True) is first
    with recorder._file_lock:  # the disk is slow: the first one ends, and is not over
        source.send(events(0, 1))
        joined: Future[Any] = Future()
        thread = threading.Thread(target=lambda: joined.set_result(owner.acquire(1, may_join=True)))
        thread.start()
        assert owner.acquisition is first
        assert not joined.done()
    second = joined.result(90)
    assert second is not first
    assert first.done.is_set()
    source.send(events(1, 1))
    assert second.done.wait(90)
    assert identities(tmp_path / "a.h5") == [0, 1]


def fail_later(
    source: HandSource, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event]:
    """Let `source` fail in its start; return the events that it starts, and that it may fail."""
    starting, go_on = threading.Event(), threading.Event()

    def start(deliver: Any, report: Any) -> None:
        starting.set()
        assert go_on.wait(90)
        raise HardwareError("no camera")

    monkeypatch.setattr(source, "start", start)
    return starting, go_on


def test_who_joins_while_the_source_does_not_start_gets_no_acquisition(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = make()
    starting, go_on = fail_later(source, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(owner.acquire, 1)
        assert starting.wait(90)
        second = pool.submit(owner.acquire, 1, may_join=True)
        go_on.set()
        for client in (first, second):
            with pytest.raises(HardwareError, match="no camera"):
                client.result(90)
    assert owner.acquisition is None


def test_who_joins_while_the_source_does_not_start_waits_for_the_end_of_that_acquisition(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout())
    owner = make(recorders=[recorder])
    starting, go_on = fail_later(source, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(owner.acquire, 1)
        assert starting.wait(90)
        second = pool.submit(owner.acquire, 1, may_join=True)
        with recorder._file_lock:  # the disk is slow
            go_on.set()
            with pytest.raises(HardwareError, match="no camera"):
                first.result(90)
        with pytest.raises(HardwareError, match="no camera"):
            second.result(90)


class LateRecorder:
    """Stores the items of an acquisition when the test says so."""

    essential = True

    def __init__(self) -> None:
        self.ending: list[Callable[[], None]] = []

    def offer(self, result: Any) -> None:
        pass

    def end_acquisition(self, done: Callable[[], None]) -> None:
        self.ending.append(done)

    @property
    def lost(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


def test_an_acquisition_waits_for_the_end_of_one_that_could_not_start(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = LateRecorder()
    owner = make(recorders=[recorder])
    source.refuses = "the camera is off"
    with pytest.raises(HardwareError, match="camera is off"):
        owner.acquire(1)
    source.refuses = ""
    ending = owner.acquisition
    assert ending is not None
    wait = ending.done.wait

    def store_then_wait(timeout_s: float) -> bool:
        recorder.ending.pop()()
        return wait(timeout_s)

    monkeypatch.setattr(ending.done, "wait", store_then_wait)
    assert owner.acquire(1) is owner.acquisition
    assert owner.acquisition is not ending


def test_a_source_that_raises_what_it_should_not_leaves_no_acquisition(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any) -> None:
        raise OSError("no such device")

    owner = make()
    with monkeypatch.context() as patched:
        patched.setattr(source, "start", start)
        with pytest.raises(OSError, match="no such device"):
            owner.acquire(1)
    assert owner.state().message == "stopped: no such device"
    done = owner.acquire(1).done
    source.send(1)
    assert done.wait(90)


def test_nobody_acquires_from_a_closed_owner(make: Make) -> None:
    owner = make()
    owner.close()
    for begin in (owner.start, owner.acquire, partial(owner.acquire, may_join=True)):
        with pytest.raises(HardwareError, match="closed"):
            begin()
    with pytest.raises(HardwareError, match="closed"):
        owner.subscribe(runs_source=True)
    assert owner.acquisition is None


def test_who_joins_an_acquisition_that_does_not_end_is_told(
    source: HandSource, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "DRAIN_S", 0.05)
    recorder: Recorder[Any, Any] = Recorder(layout())
    owner = make(recorders=[recorder])
    recorder.start(tmp_path / "a.h5")
    first = owner.acquire(1, may_join=True)
    with recorder._file_lock:  # the disk is slow
        source.send(events(0, 1))
        with pytest.raises(HardwareError, match="in progress"):
            owner.acquire(1, may_join=True)
    assert first.done.wait(90)


def test_nothing_that_arrived_before_a_stop_is_lost(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorder, go_on = Recorder(layout()), threading.Event()

    def process(item: int) -> Any:
        assert go_on.wait(90)
        return events(item, 1)

    owner = make(process, recorders=[recorder], threads=2)
    recorder.start(tmp_path / "a.h5")
    acquisition = owner.acquire()
    source.send(*range(20))
    assert owner.stop_acquisition() is acquisition
    source.send(20)  # too late
    assert not acquisition.done.is_set()
    go_on.set()
    assert acquisition.done.wait(90)
    assert identities(tmp_path / "a.h5") == list(range(20))
    assert owner.stop_acquisition() is None
    acquisition = owner.acquire()
    source.send(*range(30, 40))
    owner.close()
    assert acquisition.done.wait(90)
    assert identities(tmp_path / "a.h5") == [*range(20), *range(30, 40)]
    assert owner.lost == {}


def test_a_hundred_thousand_rows_take_a_call_for_each_item(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorder = Recorder(layout())
    owner = make(recorders=[recorder])
    recorder.start(tmp_path / "a.h5")
    acquisition = owner.acquire(20)
    for number in range(20):
        source.send(events(number * 5000, 5000))
    assert acquisition.done.wait(90)
    assert recorder.rows_readable == 100_000
    with ColumnReader(tmp_path / "a.h5", IDENTITY.path) as reader:
        numbers = np.arange(100_000)
        np.testing.assert_array_equal(reader.read(IDENTITY.path), numbers)
        np.testing.assert_array_equal(reader.read(HEIGHT.path), numbers % 1000)


def test_an_acquisition_that_ends_before_its_call_returns_does_not_keep_the_source_running(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = make()
    queue = owner.subscribe(runs_source=True)
    run_source = owner._run_source_for

    def send_first(user: object) -> None:
        source.send(1)
        run_source(user)

    monkeypatch.setattr(owner, "_run_source_for", send_first)
    acquisition = owner.acquire(1)
    assert acquisition.done.is_set()
    queue.close()
    assert not source.running
