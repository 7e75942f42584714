"""The owner: every item once and in order, losses by cause, nothing lost at a stop."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_source import HEIGHT, IDENTITY, HandSource, events, layout
from support.waiting import until

from skywright.acquire import owner as owner_module
from skywright.acquire.acquisition import RefusedError
from skywright.acquire.columns_layout import Rows
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder
from skywright.errors import HardwareError
from skywright.files.columns import ColumnReader


class Collector:
    """An endpoint that keeps everything; it fails when told to."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.broken = False

    def offer(self, result: Any) -> None:
        if self.broken:
            raise OSError("the endpoint is broken")
        self.items.append(result)


@pytest.fixture
def source() -> HandSource:
    return HandSource()


Make = Callable[..., Owner[Any, Any]]


@pytest.fixture
def make(source: HandSource) -> Iterator[Make]:
    made: list[Owner[Any, Any]] = []

    def make(*args: Any, **kw: Any) -> Owner[Any, Any]:
        made.append(Owner(source, *args, **kw))
        return made[-1]

    yield make
    for owner in made:
        owner.close()
        for recorder in owner.recorders:
            recorder.close()  # type: ignore[attr-defined]
    assert source.closed


def identities(path: Path) -> list[int]:
    with ColumnReader(path, IDENTITY.path) as reader:
        return reader.read(IDENTITY.path).tolist()


def test_an_error_of_an_endpoint_without_text_is_reported_by_its_class(
    source: HandSource, make: Make
) -> None:
    class Sink:
        def offer(self, result: Any) -> None:
            raise TimeoutError

    owner = make(endpoints=[Sink()])
    owner.start()
    source.send(1)
    assert owner.state().message == "Sink: TimeoutError"


def test_the_source_runs_while_somebody_wants_items(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "SILENCE_S", 3600.0)  # the end of an acquisition stops it
    owner = make()
    assert not source.running
    owner.start()
    owner.start()
    assert source.running
    owner.stop()
    assert not source.running
    assert owner.state().message == "idle"
    queue = owner.subscribe(runs_source=True)
    other = owner.subscribe(depth=2)
    source.send(1, 2, 3)
    assert queue.get(1.0) == 3
    assert (queue.dropped, other.dropped) == (2, 1)
    assert [other.get(1.0), other.get(1.0), other.get(0.0)] == [2, 3, None]
    queue.close()
    assert not source.running
    acquisition = owner.acquire(2)
    source.send(4, 5)
    assert acquisition.done.wait(90)
    until(lambda: not source.running)
    assert owner.state().items == 5
    assert owner.state().acquired == owner.state().acquisition_items == 2
    owner.acquire()
    assert owner.state().acquisition_items == 0
    source.send(6)
    assert (owner.state().acquired, owner.state().acquisition_items) == (3, 1)


def test_the_end_of_a_start_leaves_the_source_to_an_acquisition(
    source: HandSource, make: Make
) -> None:
    owner = make()
    owner.start()
    acquisition = owner.acquire(2)
    source.send(1)
    owner.stop_if_unused()
    assert source.running
    assert owner.acquisition is acquisition
    source.send(2)
    assert acquisition.done.wait(90)
    until(lambda: not source.running)
    owner.stop_if_unused()
    owner.start()
    owner.stop_if_unused()
    assert not source.running


def test_a_source_that_cannot_start_is_an_error_and_nothing_is_under_way(
    source: HandSource, make: Make
) -> None:
    owner = make()
    source.refuses = "the camera is off"
    for ask in (owner.start, owner.acquire):
        with pytest.raises(HardwareError, match="camera is off"):
            ask()
    state = owner.state()
    assert (state.running, state.acquiring, state.alarm) == (False, False, True)
    assert "camera is off" in state.message
    source.refuses = ""
    owner.subscribe(runs_source=True).close()
    assert not owner.is_started  # what could not start does not keep it running
    owner.start()
    assert owner.is_started


def test_a_queue_whose_source_cannot_start_is_not_kept(source: HandSource, make: Make) -> None:
    owner = make()
    source.refuses = "the camera is off"
    with pytest.raises(HardwareError, match="camera is off"):
        owner.subscribe(runs_source=True)
    assert owner._publisher.queues == ()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_keep_the_order_of_the_items(source: HandSource, make: Make, threads: int) -> None:
    collector, first = Collector(), threading.Event()

    def process(item: int) -> int:
        if threads > 1 and item == 0:  # the others overtake it
            assert first.wait(90)
        if item == 2:
            first.set()
        return item * 10

    owner = make(process, [collector], threads=threads)
    owner.start()
    source.send(*range(50))
    until(lambda: len(collector.items) == 50)
    assert collector.items == [item * 10 for item in range(50)]


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
    first = owner.join_acquisition(1)
    assert owner.join_acquisition(5) is first
    with recorder._file_lock:  # the disk is slow: the first one ends, and is not over
        source.send(events(0, 1))
        joined: Future[Any] = Future()
        thread = threading.Thread(target=lambda: joined.set_result(owner.join_acquisition(1)))
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
        second = pool.submit(owner.join_acquisition, 1)
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
        second = pool.submit(owner.join_acquisition, 1)
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


def test_an_error_after_a_stop_does_not_end_the_owner(source: HandSource) -> None:
    class Failing(Owner[Any, Any]):
        def after_source_stop(self) -> None:
            raise OSError("disk full")

    owner = Failing(source)
    for number in (1, 2):
        acquisition = owner.acquire(1)
        source.send(number)
        assert acquisition.done.wait(90)
        until(lambda: not owner.is_started)  # the monitoring thread stops it
    assert owner.failures["after_source_stop failed"] == 2
    owner.close()
    assert source.closed


def test_the_traceback_of_a_source_that_does_not_stop_is_logged_once(
    source: HandSource,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def stop() -> None:
        tries.append(1)
        if len(tries) < 4:
            raise OSError("the cable is out")
        source.running = False

    monkeypatch.setattr(owner_module, "SILENCE_S", 0.01)
    monkeypatch.setattr(source, "stop", stop)
    owner = make()
    owner.acquire()
    owner.stop_acquisition()
    until(lambda: not source.running)
    assert caplog.text.count("Traceback") == 1


def test_nobody_acquires_from_a_closed_owner(make: Make) -> None:
    owner = make()
    owner.close()
    for begin in (owner.start, owner.acquire, owner.join_acquisition):
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
    first = owner.join_acquisition(1)
    with recorder._file_lock:  # the disk is slow
        source.send(events(0, 1))
        with pytest.raises(HardwareError, match="in progress"):
            owner.join_acquisition(1)
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


def test_losses_are_counted_by_cause(source: HandSource, make: Make, tmp_path: Path) -> None:
    recorder, go_on = Recorder(layout()), threading.Event()

    class Frame(int):
        nbytes = 10

    def process(item: int) -> Any:
        assert go_on.wait(90)
        if item == 1:
            raise RefusedError("undecodable", "item 1 is torn", events(1, 1))
        if item == 2:
            raise ValueError("a defect")
        return events(item, 1)

    owner = make(process, recorders=[recorder], threads=1, queue_bytes=40)
    recorder.start(tmp_path / "a.h5")
    source.counts["gap"] = 5
    acquisition = owner.acquire(2)
    source.send(*map(Frame, range(7)))
    go_on.set()
    assert acquisition.done.wait(90)
    assert owner.lost == {"gap": 5, "queue full": 3, "undecodable": 1, "not processed": 1}
    assert identities(tmp_path / "a.h5") == [0, 1, 3]  # what was refused is kept, and not counted
    assert acquisition.items == 2


def test_an_item_after_the_last_one_that_cannot_be_prepared_is_no_loss(
    source: HandSource, make: Make
) -> None:
    refused = threading.Event()

    def prepare(item: int) -> int:
        if item == 1:
            refused.set()
            raise RefusedError("not prepared", "item 1 is torn")
        assert refused.wait(90)  # item 1 is refused before the acquisition is complete
        return item

    owner = make(lambda item: item, prepare=prepare, threads=2)
    acquisition = owner.acquire(1)
    source.send(0, 1)
    assert acquisition.done.wait(90)
    owner.stop()
    assert (acquisition.items, owner.lost) == (1, {})


def test_an_alarm_does_not_alternate_with_the_items_that_are_good(
    source: HandSource,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse_odd(item: int) -> int:
        if item % 2:
            raise RefusedError("undecodable", "the item is torn")
        return item

    caplog.set_level("INFO", "skywright.acquire.owner")
    owner = make(refuse_odd)
    owner.start()
    source.send(*range(100))
    assert (owner.state().message, owner.state().alarm) == ("undecodable: the item is torn", True)
    assert owner.lost_in_owner["undecodable"] == 50
    assert len(caplog.records) == 3  # waiting, taking, undecodable
    monkeypatch.setattr(owner, "_held_until", 0.0)  # as some seconds later
    source.send(101, 102)  # the loss goes on
    assert owner.state().alarm
    monkeypatch.setattr(owner, "_held_until", 0.0)
    source.send(104)
    assert (owner.state().message, owner.state().alarm) == ("taking items", False)


def test_alarms_that_differ_in_numbers_only_are_one_warning(
    source: HandSource, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(item: int) -> int:
        raise RefusedError("undecodable", f"frame {item}: JPEG of {2000 - item} bytes is cut off")

    caplog.set_level("DEBUG", "skywright.acquire.owner")
    owner = make(refuse)
    owner.start()
    source.send(*range(98, 102))
    assert owner.state().message == "undecodable: frame 101: JPEG of 1899 bytes is cut off"
    source.report("the cable is out")
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING", "DEBUG", "DEBUG", "DEBUG", "WARNING"]


def test_an_alarm_before_the_last_item_is_over_in_time_and_at_a_stop(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named(Owner[int, int]):
        def status_message(self, result: int) -> tuple[str, bool]:
            return f"item {result}", result < 0

    owner = Named(source)
    owner.start()
    source.report("a glitch")
    source.send(1)
    assert (owner.state().message, owner.state().alarm) == ("a glitch", True)
    monkeypatch.setattr(owner, "_held_until", 0.0)  # as some seconds later; no item follows
    until(lambda: owner.state().message == "item 1")
    source.send(-1)
    assert (owner.state().message, owner.state().alarm) == ("item -1", True)
    source.send(2)  # the alarm was of the item
    assert (owner.state().message, owner.state().alarm) == ("item 2", False)
    source.report("a glitch")
    source.send(3)
    owner.stop()
    assert (owner.state().message, owner.state().alarm) == ("idle", False)
    owner.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_the_traceback_of_a_defect_is_logged_once_until_the_alarm_is_over(
    source: HandSource,
    make: Make,
    threads: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def process(item: int) -> float:
        return 1 / item

    owner = make(process, threads=threads, item_name="packet")
    owner.start()
    source.send(0, 0, 0)
    until(lambda: owner.lost_in_owner["not processed"] == 3)
    assert caplog.text.count("Traceback") == 1
    assert "owner: packet cannot be processed" in caplog.text
    source.send(1, 0)
    until(lambda: owner.lost_in_owner["not processed"] == 4)
    assert caplog.text.count("Traceback") == 1
    monkeypatch.setattr(owner, "_held_until", 0.0)  # as some seconds later
    source.send(1)
    until(lambda: not owner.state().alarm)
    source.send(0, 0)
    until(lambda: owner.lost_in_owner["not processed"] == 6)
    assert caplog.text.count("Traceback") == 2


def test_the_traceback_of_an_item_is_logged_again_without_a_process(
    source: HandSource, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Inverted(Owner[float, float]):
        def process_argument(self, item: float) -> float:
            return 1 / item

    monkeypatch.setattr(owner_module, "ALARM_S", 0.0)
    owner = Inverted(source)
    owner.start()
    source.send(0, 0, 1, 0)
    assert caplog.text.count("Traceback") == 2
    owner.close()


def test_an_endpoint_that_fails_ends_nothing(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "ALARM_S", 0.0)
    broken, whole = Collector(), Collector()
    owner = make(None, [broken, whole])
    owner.start()
    broken.broken = True
    source.send(1, 2)
    assert whole.items == [1, 2]
    assert owner.state().failures == {"Collector failed": 2}
    assert "the endpoint is broken" in owner.state().message
    broken.broken = False
    source.send(3)
    assert (owner.state().message, owner.state().alarm) == ("taking items", False)


def test_silence_and_reports_of_the_source_are_messages(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "SILENCE_S", 0.05)
    owner = make(item_name="pulse")
    owner.start()
    until(lambda: owner.state().message.startswith("no pulse from hand for more than"))
    assert owner.state().alarm
    source.send(1)
    until(lambda: owner.state().message == "taking pulses")
    assert source.report is not None
    source.report("hand: connection lost")
    until(lambda: owner.failures["source failed"] == 1)
    until(lambda: owner.state().message.endswith("; hand: connection lost"))
    assert owner.state().message.startswith("no pulse from hand for more than")
    source.send(2)
    until(lambda: owner.state().message == "taking pulses")
    until(lambda: owner.state().message == "no pulse from hand for more than 0.05 s")
    checks: list[int] = []

    def expects_items() -> bool:
        checks.append(0)
        return True

    monkeypatch.setattr(owner, "expects_items", expects_items)
    source.report("hand: the cable is out")
    until(lambda: len(checks) > 2)
    assert owner.state().message == "hand: the cable is out"  # a silence is reported once


def test_a_change_that_the_source_reports_is_no_failure_and_no_alarm_but_can_be_read(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = make()
    owner.start()
    source.send(1)
    assert source.report is not None
    source.report("run 8 follows run 7", False)
    source.send(2)
    state = owner.state()
    assert (state.message, state.alarm, state.failures) == ("run 8 follows run 7", False, {})
    source.report("the disk is slow")  # an alarm is not replaced
    source.report("run 9 follows run 8", False)
    source.send(3)
    assert (owner.state().message, owner.state().alarm) == ("the disk is slow", True)
    monkeypatch.setattr(owner, "_held_until", 0.0)  # as some seconds later
    source.send(4)
    assert (owner.state().message, owner.state().alarm) == ("taking items", False)


def test_an_item_without_a_message_ends_a_silence_and_no_other_alarm(
    source: HandSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named(Owner[int, int]):
        def status_message(self, result: int) -> tuple[str, bool] | None:
            return (f"item {result}", False) if result > 0 else None

    def fall_silent() -> None:
        monkeypatch.setattr(owner_module, "SILENCE_S", 0.05)
        owner._wake_monitor.set()
        until(lambda: owner.state().message.startswith("no item from hand"))
        monkeypatch.setattr(owner_module, "SILENCE_S", 600.0)

    owner = Named(source)
    owner.start()
    fall_silent()
    source.send(0)  # no item has had a message yet
    assert (owner.state().message, owner.state().alarm) == ("waiting for the first item", False)
    source.send(1, 0)
    assert (owner.state().message, owner.state().alarm) == ("item 1", False)
    source.report("a glitch")
    source.send(0)
    assert (owner.state().message, owner.state().alarm) == ("a glitch", True)
    fall_silent()
    source.report("a glitch in the silence")
    source.send(0)
    assert (owner.state().message, owner.state().alarm) == ("item 1", False)
    source.send(2)
    assert (owner.state().message, owner.state().alarm) == ("item 2", False)
    owner.close()


def test_each_silence_is_reported_though_bad_items_came_between(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "SILENCE_S", 0.05)

    def refuse(item: Any) -> Any:
        raise RefusedError("undecodable", "no")

    owner = make(refuse)
    owner.start()
    for _ in range(2):
        until(lambda: owner.state().message.startswith("no item from hand for more than"))
        source.send(1)
        until(lambda: owner.lost_in_owner["undecodable"])


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


class Numbered(Owner[int, Any]):
    """Processes an item with the setting at its arrival; records the calls of its hooks."""

    notifies_each_item = False
    idle_text = "at rest"
    waiting_text = "no {item} yet"
    silence_text = "{source} sends no {item}"
    setting = 0

    def __init__(self, *args: Any, **kw: Any) -> None:
        self.told: list[Any] = []
        super().__init__(*args, **kw)

    def process_argument(self, item: int) -> tuple[int, int]:
        return item, self.setting

    def before_source_start(self) -> None:
        self.told.append("starts")

    def after_source_stop(self) -> None:
        self.told.append("stopped")

    def offer(self, result: Any) -> None:
        self.told.append(result)


def test_items_have_the_setting_of_their_arrival_and_are_handed_on_before_a_stop_is_told(
    source: HandSource,
) -> None:
    go_on = threading.Event()

    def process(given: tuple[int, int]) -> tuple[int, int]:
        assert go_on.wait(90)
        return given

    owner = Numbered(source, process, threads=3, queue_items=9, when_full="wait")
    owner.endpoints.append(owner)
    assert owner.state().message == "at rest"
    owner.start()
    assert owner.state().message == "no item yet"
    for item in range(6):
        owner.setting = item // 2
        source.send(item)
    stopping = threading.Thread(target=owner.stop)
    stopping.start()
    until(lambda: not source.running)
    assert owner.told == ["starts"]
    go_on.set()
    stopping.join(90)
    expected = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
    assert owner.told == ["starts", *expected, "stopped"]
    owner.close()
    assert owner.told[-2:] == [(5, 2), "stopped"]


def test_no_more_items_are_under_way_than_allowed(source: HandSource, make: Make) -> None:
    collector, go_on = Collector(), threading.Event()

    def process(item: int) -> int:
        assert go_on.wait(90)
        return item

    owner = make(process, [collector], threads=1, queue_items=2)
    owner.start()
    acquisition = owner.acquire()
    source.send(*range(5))
    assert owner.lost == {"queue full": 3}
    assert owner.stop_acquisition() is acquisition
    go_on.set()
    assert acquisition.done.wait(90)  # it does not wait for the lost items
    owner.stop()
    assert (acquisition.items, collector.items) == (2, [0, 1])


def test_items_that_are_processed_leave_room_and_an_empty_queue_takes_any_item(
    source: HandSource, make: Make
) -> None:
    class Frame(int):
        nbytes = 10

    class LargeFrame(int):
        nbytes = 1000

    collector, go_on = Collector(), threading.Event()

    def process(item: int) -> int:
        assert item == 0 or go_on.wait(90)
        return item

    owner = make(process, [collector], threads=1, queue_bytes=20)
    owner.start()
    source.send(LargeFrame(0))
    owner._pool.drain(90)  # type: ignore[union-attr]
    source.send(*map(Frame, range(1, 4)))
    assert owner.lost == {"queue full": 1}
    go_on.set()
    owner.stop()
    assert collector.items == [0, 1, 2]


def test_who_finds_an_item_counted_finds_it_at_the_endpoints(
    source: HandSource, make: Make
) -> None:
    counts: list[int] = []

    class Counts:
        def offer(self, result: Any) -> None:
            counts.append(owner.state().items)

    owner = make(None, [Counts()])
    owner.start()
    source.send(1, 2)
    assert counts == [0, 1]


def test_a_source_that_does_not_stop_is_asked_again_and_can_be_started(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = make()
    owner.start()
    source.sticks = True
    with pytest.raises(HardwareError, match="has not stopped"):
        owner.stop()
    assert not owner.is_started
    owner.start()
    assert owner.is_started
    monkeypatch.setattr(owner_module, "SILENCE_S", 0.05)
    with pytest.raises(HardwareError, match="has not stopped"):
        owner.stop()
    source.sticks = False
    until(lambda: not source.running)


def test_what_a_recorder_of_a_part_loses_is_a_failure(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorders = [Recorder(layout()), Recorder(layout(), essential=False)]
    owner = make(
        lambda item: Rows(np.array([item]), {HEIGHT.path: np.array([70_000])}), recorders=recorders
    )
    for number, recorder in enumerate(recorders):
        recorder.start(tmp_path / f"{number}.h5")
    acquisition = owner.acquire(1)
    source.send(1)
    assert acquisition.done.wait(90)
    assert owner.lost == owner.state().failures == {"events does not fit": 1}  # of one each


def test_an_item_that_a_recorder_of_a_part_refuses_is_in_the_acquisition(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorder: Recorder[Any, Any] = Recorder(layout(), synchronous=True, essential=False)
    owner = make(
        lambda item: Rows(np.array([item]), {HEIGHT.path: np.array([70_000])}), recorders=[recorder]
    )
    recorder.start(tmp_path / "a.h5")
    acquisition = owner.acquire(1)
    source.send(1)
    assert acquisition.items == 1
    assert acquisition.done.wait(90)
    state = owner.state()
    assert (state.lost, state.alarm) == ({}, True)
    assert state.failures == {"Recorder failed": 1, "events does not fit": 1}
    assert state.message.startswith("Recorder: events: ")


class BrokenRecorder(Recorder[Rows, Rows]):
    """A recorder that raises an error that is no refusal."""

    def offer(self, result: Rows) -> None:
        raise OSError("the disk is gone")


@pytest.mark.parametrize("essential", [True, False])
def test_an_item_that_an_essential_recorder_fails_to_take_is_lost(
    source: HandSource, make: Make, essential: bool
) -> None:
    recorder = BrokenRecorder(layout(), essential=essential)
    owner = make(lambda item: item, recorders=[recorder])
    acquisition = owner.acquire()
    source.send(1, 2)
    owner.stop_acquisition()
    assert acquisition.done.wait(90)
    lost = {"not written": 2} if essential else {}
    assert (acquisition.items, owner.lost) == (0 if essential else 2, lost)
    assert owner.state().failures == {"BrokenRecorder failed": 2}
    assert "the disk is gone" in owner.state().message


def test_changed_is_called_for_items_unless_the_owner_says_not(source: HandSource) -> None:
    counts = []
    calls: list[int] = []
    for kind in (Owner[Any, Any], Numbered):
        owner: Owner[Any, Any] = kind(source, changed=lambda: calls.append(0))
        owner.start()
        source.send(0)  # the first changes the message
        before = len(calls)
        source.send(1, 2, 3)
        counts.append(len(calls) - before)
        owner.close()
    assert counts == [3, 0]


@pytest.mark.parametrize("threads", [0, 2])
def test_callbacks_that_fail_are_counted_and_every_item_is_published(
    source: HandSource, make: Make, threads: int
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the callback is broken")

    collector = Collector()
    owner = make(lambda item: item, [collector], changed=fail, threads=threads)
    owner.status_message = fail  # type: ignore[method-assign, assignment]
    acquisition = owner.acquire(3, fail)
    source.send(1, 2, 3, 4)
    assert acquisition.done.wait(90)
    until(lambda: owner.state().items == 4)
    assert collector.items == [1, 2, 3, 4]
    state = owner.state()
    assert (acquisition.items, state.failures["on_item failed"]) == (3, 3)
    assert state.failures["changed failed"] > 4
    assert state.message.endswith("the callback is broken")
    assert state.alarm


def test_the_error_of_a_callback_is_over_with_its_acquisition(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "ALARM_S", 0.0)

    def fail(_: Any) -> None:
        raise ValueError("the callback is broken")

    owner = make(lambda item: item)
    owner.start()
    acquisition = owner.acquire(1, fail)
    source.send(1)
    assert acquisition.done.wait(90)
    assert owner.state().alarm
    source.send(2)
    until(lambda: owner.state().items == 2)
    until(lambda: not owner.state().alarm)
    assert owner.state().failures == {"on_item failed": 1}
    acquisition = owner.acquire(1, fail)
    source.send(3)
    assert acquisition.done.wait(90)
    acquisition = owner.acquire(2)
    source.send(4)
    until(lambda: acquisition.items == 1)
    until(lambda: not owner.state().alarm)


def test_an_item_whose_setting_cannot_be_attached_is_a_loss(source: HandSource, make: Make) -> None:
    owner = make(lambda item: item)

    def process_argument(item: int) -> int:
        if item == 2:
            raise ValueError("no setting")
        return item

    owner.process_argument = process_argument  # type: ignore[method-assign]
    acquisition = owner.acquire(2)
    source.send(1, 2, 3)
    assert acquisition.done.wait(90)
    assert owner.lost == {"not processed": 1}


def test_an_item_that_is_refused_before_its_processing_keeps_its_place(
    source: HandSource, make: Make, tmp_path: Path
) -> None:
    recorder, go_on = Recorder(layout()), threading.Event()

    def process(item: int) -> Rows:
        assert go_on.wait(90)
        return events(item, 1)

    def process_argument(item: int) -> int:
        if item == 1:
            raise RefusedError("undecodable", "item 1 is torn", events(1, 1))
        return item

    owner = make(process, recorders=[recorder], threads=2)
    owner.process_argument = process_argument  # type: ignore[method-assign]
    recorder.start(tmp_path / "a.h5")
    acquisition = owner.acquire(2)
    source.send(0, 1, 2)
    go_on.set()
    assert acquisition.done.wait(90)
    assert identities(tmp_path / "a.h5") == [0, 1, 2]
    assert owner.lost == {"undecodable": 1}


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


class RefusingEndpoint:
    """Raises the error that only recorders may raise."""

    def offer(self, result: Any) -> None:
        raise RefusedError("unwanted", f"{result} is unwanted")


@pytest.mark.parametrize("threads", [0, 1])
def test_an_endpoint_that_refuses_a_result_ends_nothing(
    source: HandSource, make: Make, threads: int
) -> None:
    collector = Collector()
    owner = make(lambda item: item, [RefusingEndpoint(), collector], threads=threads)
    owner.start()
    source.send(1, 2)
    until(lambda: owner.state().items == 2)
    assert collector.items == [1, 2]
    assert owner.state().failures == {"RefusingEndpoint failed": 2}
    until(lambda: "is unwanted" in owner.state().message)
