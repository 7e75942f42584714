"""What the owner loses, by cause, and its messages: alarms, silence, log."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hand_source import HEIGHT, HandSource, events, layout
from support.owners import Clock, Collector, Make, identities
from support.waiting import until

from skywright.acquire import operator_message
from skywright.acquire import owner as owner_module
from skywright.acquire.acquisition import RefusedError
from skywright.acquire.columns_layout import Rows
from skywright.acquire.owner import Owner
from skywright.acquire.recorder import Recorder


def test_losses_are_counted_by_cause(
    source: HandSource, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "QUEUE_BYTES", 40)
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

    owner = make(process, recorders=[recorder], threads=1)
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
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "QUEUE_BYTES", 20)

    class Frame(int):
        nbytes = 10

    class LargeFrame(int):
        nbytes = 1000

    collector, go_on = Collector(), threading.Event()

    def process(item: int) -> int:
        assert item == 0 or go_on.wait(90)
        return item

    owner = make(process, [collector], threads=1)
    owner.start()
    source.send(LargeFrame(0))
    owner._pool.drain(90)  # type: ignore[union-attr]
    source.send(*map(Frame, range(1, 4)))
    assert owner.lost == {"queue full": 1}
    go_on.set()
    owner.stop()
    assert collector.items == [0, 1, 2]


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
    assert state.failures == {"events does not fit": 1}  # counted once, by the recorder
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


class EndlessRecorder(Recorder[Rows, Rows]):
    """A recorder that cannot end an acquisition."""

    def end_acquisition(self, done: Callable[[], None]) -> None:
        self.call_when_visible(done)  # it may or may not have come that far
        raise OSError("the disk is gone")


@pytest.mark.parametrize("is_first", [True, False])
def test_a_recorder_that_cannot_end_an_acquisition_keeps_no_other_from_that(
    source: HandSource, make: Make, tmp_path: Path, is_first: bool
) -> None:
    good, broken = Recorder(layout()), EndlessRecorder(layout())
    owner = make(lambda item: events(item, 1), recorders=[broken, good][:: 1 if is_first else -1])
    good.start(tmp_path / "a.h5")
    acquisition = owner.acquire(1)
    source.send(1)
    assert acquisition.done.wait(10)
    assert (good.rows_readable, owner.acquisition) == (1, None)
    state = owner.state()
    assert state.failures == {"EndlessRecorder failed": 1}
    assert (state.message, state.alarm) == ("EndlessRecorder: the disk is gone", True)
    acquisition = owner.acquire(1)
    source.send(2)
    assert acquisition.done.wait(10)


def test_the_message_is_of_the_recorder_that_cannot_end_an_acquisition(
    source: HandSource, make: Make
) -> None:
    endpoint = Collector()
    owner = make(None, [endpoint], [EndlessRecorder(layout())])
    acquisition = owner.acquire()
    endpoint.broken = True
    source.send(1)
    owner.stop_acquisition()
    assert acquisition.done.wait(90)
    assert owner.state().message == "EndlessRecorder: the disk is gone"


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


def test_an_alarm_does_not_alternate_with_the_items_that_are_good(
    source: HandSource,
    make: Make,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse_odd(item: int) -> int:
        if item % 2:
            raise RefusedError("undecodable", "the item is torn")
        return item

    caplog.set_level("INFO", "skywright.acquire")
    owner = make(refuse_odd)
    owner.start()
    source.send(*range(100))
    assert (owner.state().message, owner.state().alarm) == ("undecodable: the item is torn", True)
    assert owner.lost["undecodable"] == 50
    assert len(caplog.records) == 3  # waiting, taking, undecodable
    clock.pass_hold()
    source.send(101, 102)  # the loss goes on
    assert owner.state().alarm
    clock.pass_hold()
    source.send(104)
    assert (owner.state().message, owner.state().alarm) == ("taking items", False)


def test_alarms_that_differ_in_numbers_only_are_one_warning(
    source: HandSource, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(item: int) -> int:
        raise RefusedError("undecodable", f"frame {item}: JPEG of {2000 - item} bytes is cut off")

    caplog.set_level("DEBUG", "skywright.acquire")
    owner = make(refuse)
    owner.start()
    source.send(*range(98, 102))
    assert owner.state().message == "undecodable: frame 101: JPEG of 1899 bytes is cut off"
    source.report("the cable is out")
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "WARNING", "DEBUG", "DEBUG", "DEBUG", "WARNING"]


def test_an_alarm_before_the_last_item_is_over_in_time_and_at_a_stop(
    source: HandSource, make: Make, clock: Clock
) -> None:
    class Named(Owner[int, int]):
        def status_message(self, result: int) -> tuple[str, bool]:
            return f"item {result}", result < 0

    owner = Named(source)
    owner.start()
    source.report("a glitch")
    source.send(1)
    assert (owner.state().message, owner.state().alarm) == ("a glitch", True)
    clock.pass_hold()  # no item follows
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
    clock: Clock,
) -> None:
    def process(item: int) -> float:
        return 1 / item

    owner = make(process, threads=threads, item_name="packet")
    owner.start()
    source.send(0, 0, 0)
    until(lambda: owner.lost.get("not processed") == 3)
    assert caplog.text.count("Traceback") == 1
    assert "owner: packet cannot be processed" in caplog.text
    source.send(1, 0)
    until(lambda: owner.lost.get("not processed") == 4)
    assert caplog.text.count("Traceback") == 1
    clock.pass_hold()
    source.send(1)
    until(lambda: not owner.state().alarm)
    source.send(0, 0)
    until(lambda: owner.lost.get("not processed") == 6)
    assert caplog.text.count("Traceback") == 2


def test_the_traceback_of_an_item_is_logged_again_without_a_process(
    source: HandSource, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Inverted(Owner[float, float]):
        def process_argument(self, item: float) -> float:
            return 1 / item

    monkeypatch.setattr(operator_message, "HOLD_S", 0.0)
    owner = Inverted(source)
    owner.start()
    source.send(0, 0, 1, 0)
    assert caplog.text.count("Traceback") == 2
    owner.close()


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
    until(lambda: owner.state().failures.get("source failed") == 1)
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
    source: HandSource, make: Make, clock: Clock
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
    clock.pass_hold()
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
        until(lambda: owner.lost.get("undecodable"))


def test_the_error_of_a_callback_is_over_with_its_acquisition(
    source: HandSource, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_message, "HOLD_S", 0.0)

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
