"""The owner: when its source runs, the order of items, endpoints and hooks."""

import threading
from typing import Any

import pytest
from support.hand_source import HandSource
from support.owners import Collector, Make
from support.waiting import until

from skywright.acquire import operator_message
from skywright.acquire import owner as owner_module
from skywright.acquire.acquisition import RefusedError
from skywright.acquire.owner import Owner
from skywright.errors import HardwareError


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
    assert owner._queues == ()


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
    until(lambda: owner.state().alarm)
    assert owner.state().failures["after_source_stop failed"] == 2
    assert (owner.state().message, owner.state().alarm) == ("after_source_stop: disk full", True)
    owner.start()  # the error is of the last stop, not of the items that come now
    source.send(3)
    assert (owner.state().message, owner.state().alarm) == ("taking items", False)
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


def test_an_endpoint_that_fails_ends_nothing(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_message, "HOLD_S", 0.0)
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


def test_an_error_of_a_callback_is_logged_once_in_each_acquisition(
    source: HandSource, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the callback is broken")

    owner = make(lambda item: item)
    for _ in range(2):
        acquisition = owner.acquire(2, fail)
        source.send(1, 2)
        assert acquisition.done.wait(90)
    assert caplog.text.count("on_item failed") == 2


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
