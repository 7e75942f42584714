"""Paced and polled sources: starts and stops, what is late, errors that end nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import until

from skywright.acquire import pacing
from skywright.acquire.pacing import PacedSource, Pacer
from skywright.acquire.source import PolledSource
from skywright.errors import ConfigError, HardwareError


class Numbers(PacedSource[int]):
    """Yields its numbers, up to `last`."""

    def __init__(self, period_s: float = 0.0, last: int = 10**9, behind_s: float = 2.0) -> None:
        super().__init__("numbers", self._number_at, period_s, behind_s)
        self.last = last
        self.odd: Any = None

    def _number_at(self, number: int, now: float) -> int | None:
        assert now > 1e9
        if number > self.last:
            raise StopIteration
        if number == self.odd:
            raise OSError(f"{number} is odd")
        return number


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def got() -> list[int]:
    return []


def test_numbers_go_on_over_stops(got: list[int], reports: list[str]) -> None:
    source = Numbers(0.001)
    source.start(got.append, reports.append)
    source.start(got.append, reports.append)
    until(lambda: len(got) > 3)
    source.stop()
    count = len(got)
    source.stop()
    assert not source.is_running
    source.start(got.append, reports.append)
    until(lambda: len(got) > count + 3)
    source.close()
    assert got == list(range(len(got)))
    assert source.lost == {}


def test_a_late_reader_gets_a_burst_and_then_loses_what_is_counted(
    got: list[int], reports: list[str]
) -> None:
    source, go_on = Numbers(0.002, behind_s=0.05), threading.Event()

    def slow(number: int) -> None:
        got.append(number)
        if number == 5:
            go_on.wait(0.3)

    source.start(slow, reports.append)
    until(lambda: len(got) > 20)
    source.close()
    assert source.lost["late"] >= 50
    assert got[-1] + 1 == len(got) + source.lost["late"]
    assert got[:6] == list(range(6))


def test_an_error_is_reported_and_counted_and_the_next_item_comes(
    got: list[int], reports: list[str]
) -> None:
    source = Numbers(0.001, last=5)
    source.odd = 2
    source.start(got.append, reports.append)
    until(lambda: not source.is_running)
    assert got == [0, 1, 3, 4, 5]
    assert reports == ["numbers: item 2: 2 is odd", "numbers: no more items from number 6 on"]
    assert source.lost == {"unreadable": 1}
    source.close()


def test_a_source_reports_an_error_that_costs_no_item(got: list[int], caplog: Any) -> None:
    messages: list[tuple[str, bool]] = []
    source = Numbers(0.001, last=3)
    source.report("too early")
    assert "numbers: too early" in caplog.text
    source.start(got.append, lambda *message: messages.append(message))
    source.report("twice", True)
    source.report("goes on", False)
    until(lambda: not source.is_running)
    source.close()
    assert [message for message in messages if len(message) == 2] == [
        ("twice", True),
        ("goes on", False),
    ]


def test_an_error_without_text_is_reported_by_its_class(reports: list[str]) -> None:
    class Failing(PolledSource[int]):
        errors = iter([TimeoutError()])

        def next(self, timeout_s: float) -> int | None:
            raise next(self.errors)

    def make(number: int, now: float) -> int:
        raise AssertionError if number == 0 else StopIteration

    polled = Failing("polled")
    polled.retry_s = 0.0
    for source in (polled, PacedSource("paced", make, 0.0)):
        source.start(lambda _: None, reports.append)
        until(lambda started=source: not started.is_running)
        source.close()
    assert reports[0::2] == ["polled: TimeoutError", "paced: item 0: AssertionError"]


def test_the_end_of_a_source_without_a_reason_is_reported_in_words(reports: list[str]) -> None:
    class Ended(PolledSource[int]):
        def next(self, timeout_s: float) -> int | None:
            raise StopIteration

    source = Ended("ended")
    source.start(lambda _: None, reports.append)
    until(lambda: not source.is_running)
    source.close()
    assert reports == ["ended: no more items"]


def test_a_source_that_does_not_open_says_why() -> None:
    gate = threading.Event()

    class Closed(PolledSource[int]):
        error: Exception | None = ConfigError("no such file")

        def open(self) -> None:
            if self.error is not None:
                raise self.error
            gate.wait(10)

        def next(self, timeout_s: float) -> int | None:
            gate.wait(timeout_s)
            return None

    source = Closed("closed")
    with pytest.raises(ConfigError, match="no such file"):
        source.start(print, print)
    source.error = OSError("gone")
    with pytest.raises(HardwareError, match="OSError: gone"):
        source.start(print, print)
    source.error, source.start_limit_s = None, 0.05
    with pytest.raises(HardwareError, match="did not start within"):
        source.start(print, print)
    assert not source.is_running
    gate.set()
    source.start_limit_s = 1.0
    source.start(print, print)
    source.close()


def test_a_period_of_zero_is_always_due() -> None:
    pacer = Pacer(0.0)
    assert [pacer.wait(0.0) for _ in range(5)] == [0] * 5
    pacer.end()
    assert pacer.wait(0.0) is None
    assert Pacer(10.0).wait(0.0) == 0  # the first is due at once


class Clock:
    """The module `time` with a clock that the test sets, s."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


def test_items_are_skipped_only_behind_the_limit_and_all_but_the_newest(clock: Clock) -> None:
    pacer = Pacer(1.0, behind_s=2.0)
    assert (pacer.wait(0.0), pacer.wait(0.0)) == (0, None)
    clock.now = 104.0  # the item of 101 is late by the limit and one period
    assert [pacer.wait(0.0) for _ in range(5)] == [0, 0, 0, 0, None]
    clock.now = 108.5
    assert [pacer.wait(0.0), pacer.wait(0.0), pacer.skipped] == [3, None, 3]  # 105 to 107
    clock.now = 109.0
    assert pacer.wait(0.0) == 0


@pytest.mark.parametrize(("loses", "numbers", "lost"), [(True, [0, 5], 4), (False, [0, 1], 0)])
def test_numbers_of_skipped_items_are_lost_or_come_later(
    clock: Clock, loses: bool, numbers: list[int], lost: int
) -> None:
    source = PacedSource("paced", lambda number, now: number, 1.0, loses=loses)
    first = source.next(0.0)
    clock.now = 105.0
    assert [first, source.next(0.0)] == numbers
    assert source.lost == ({"late": lost} if lost else {})


def test_the_first_item_may_wait_and_a_period_has_a_minimum(clock: Clock) -> None:
    source = PacedSource("paced", lambda n, now: n, 0.5, waits_first=True, period_min_s=0.1)
    assert source.next(0.0) is None
    clock.now = 100.5
    assert source.next(0.0) == 0
    assert (source.set_period(0.01), source.period_s) == (0.1, 0.1)
    clock.now = 100.55
    assert source.next(0.0) is None
    clock.now = 100.61
    assert source.next(0.0) == 1


def test_items_without_a_period_are_not_late_when_a_period_is_set() -> None:
    pacer = Pacer(0.02)
    assert pacer.wait(1.0) == 0
    pacer.set_period(0.0)
    assert pacer.wait(0.0) == 0
    pacer.pause(0.2)
    assert pacer.wait(0.0) == 0
    pacer.set_period(0.02)
    assert (pacer.wait(1.0), pacer.skipped) == (0, 0)


def test_a_shorter_period_holds_at_once() -> None:
    pacer = Pacer(3600.0)
    assert pacer.wait(0.0) == 0
    assert pacer.wait(0.0) is None
    pacer.set_period(0.02)
    assert pacer.wait(1.0) == 0


def test_a_shorter_period_ends_a_wait_and_holds_for_the_items_after_it() -> None:
    pacer = Pacer(3600.0)
    assert pacer.wait(0.0) == 0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pacer.wait, 3600.0)
        assert not wait([waiting], 0.05).done
        pacer.set_period(0.001)
        assert waiting.result(90) is not None
    assert pacer.wait(90.0) is not None


def test_a_change_of_the_period_holds_at_once_and_gives_no_burst(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(pacing, "time", SimpleNamespace(monotonic=lambda: now))
    pacer = Pacer(1.0)

    def due_times(until_s: float) -> list[float]:
        """Return the times, in s since the begin, at which items come; the clock goes on."""
        nonlocal now
        found = []
        while now < until_s:
            while pacer.wait(0.0) is not None:
                found.append(round(now - 1000.0, 6))
            now = round(now + 0.25, 6)
        return found

    assert due_times(1002.5) == [0.0, 1.0, 2.0]
    pacer.set_period(3.0)  # half a period after the last item
    assert due_times(1008.5) == [5.0, 8.0]
    pacer.set_period(0.5)
    assert due_times(1009.25) == [8.5, 9.0]
    pacer.set_period(1.0)
    now += 1.75  # late by 1 s: the item of 10 s has not been taken
    pacer.set_period(0.25)
    assert due_times(1012.0) == [11.0, 11.25, 11.5, 11.75]
    assert pacer.skipped == 0


def test_a_period_that_is_set_before_the_first_item_holds_for_it() -> None:
    pacer = Pacer(3600.0, waits_first=True)
    pacer.set_period(0.01)
    assert pacer.wait(90.0) == 0


def test_a_period_that_is_set_while_the_source_starts_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InterruptedPacer(Pacer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            meanwhile()

        def restart(self) -> None:
            super().restart()
            meanwhile()

    def meanwhile() -> None:
        """Set the period, as another thread does before the source goes on."""
        for source in started:
            source.set_period(0.0)

    started: list[Numbers] = []
    monkeypatch.setattr(pacing, "Pacer", InterruptedPacer)
    source = Numbers(3600.0)
    started.append(source)
    source.open()
    assert [source.next(0.0), source.next(0.0)] == [0, 1]


def test_an_item_that_cannot_be_delivered_does_not_end_the_source(
    got: list[int], reports: list[str]
) -> None:
    halted = threading.Event()

    class Halting(Numbers):
        def halt(self) -> None:
            super().halt()
            halted.set()

    def deliver(item: int) -> None:
        if item == 1:
            raise ValueError("the owner is broken")
        got.append(item)

    source = Halting(0.001, last=3)
    source.start(deliver, reports.append)
    assert halted.wait(90)
    until(lambda: not source.is_running)
    assert got == [0, 2, 3]
    assert reports[0] == "numbers: ValueError: the owner is broken"
    source.close()
