"""Runs of plans: what the stop document says, and several that are open at the same time."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from bluesky.utils import Msg, MsgGenerator, RunEngineInterrupted
from ophyd import Signal
from ophyd.status import Status
from test_plan_pauses import FakeArray, FakePsss, FakeRows

from plans import run_stubs
from plans.panoseti.runs import observe
from plans.pictures import watch_camera
from plans.psss.spectrum import acquire_spectra
from plans.run_stubs import (
    begin_rewindable,
    in_run,
    trigger_and_read,
    until_done,
)
from skywright.errors import HardwareError


@pytest.fixture
def documents() -> dict[str, list[dict[str, Any]]]:
    return defaultdict(list)


@pytest.fixture
def engine(documents: dict[str, list[dict[str, Any]]]) -> RunEngine:
    made = RunEngine({}, call_returns_result=True)
    made.subscribe(lambda name, doc: documents[name].append(doc))
    return made


def event(signal: Signal) -> MsgGenerator[None]:
    yield from bps.create("primary")
    yield from bps.read(signal)
    yield from bps.save()


def test_one_of_two_open_runs_fails_and_the_other_goes_on(
    engine: RunEngine, documents: dict[str, list[dict[str, Any]]]
) -> None:
    signal, uids = Signal(name="x", value=0), []

    def inner() -> MsgGenerator[None]:
        yield from bps.mv(signal, 2)
        yield from event(signal)
        raise HardwareError("no light")

    def outer() -> MsgGenerator[str]:
        yield from bps.mv(signal, 1)
        yield from event(signal)
        with pytest.raises(HardwareError, match="no light"):
            yield from in_run(inner, {"plan_name": "inner"}, uids, run_key="inner")
        yield from bps.mv(signal, 3)
        yield from event(signal)
        return "done"

    whole = in_run(outer, {"plan_name": "outer"}, uids, run_key="outer")
    assert engine(whole).plan_result == "done"
    first, second = uids
    stops = {doc["run_start"]: doc for doc in documents["stop"]}
    assert (stops[first]["exit_status"], stops[first]["num_events"]) == ("success", {"primary": 2})
    assert (stops[second]["exit_status"], stops[second]["reason"]) == ("fail", "no light")
    run_of = {doc["uid"]: doc["run_start"] for doc in documents["descriptor"]}
    seen = [(run_of[doc["descriptor"]], doc["data"]["x"]) for doc in documents["event"]]
    assert seen == [(first, 1), (second, 2), (first, 3)]


def test_without_a_key_one_run_is_open_at_a_time(engine: RunEngine) -> None:
    def inner() -> MsgGenerator[None]:
        yield from bps.null()

    def outer() -> MsgGenerator[None]:
        yield from in_run(inner, {}, [])

    with pytest.raises(Exception, match="run"):
        engine(in_run(outer, {}, []))


def test_a_status_is_awaited_by_one_message_also_over_a_pause(engine: RunEngine) -> None:
    status, messages = Status(), []
    waits = threading.Event()

    def watch(message: Msg) -> None:
        messages.append(message.command)
        if message.command == "wait_for":
            waits.set()

    def plan() -> MsgGenerator[str]:
        yield from bps.checkpoint()
        yield from until_done(status)
        return "done"

    def pause() -> None:
        assert waits.wait(90)
        engine.request_pause()

    engine.msg_hook = watch
    threading.Thread(target=pause, daemon=True).start()
    with pytest.raises(RunEngineInterrupted):
        engine(plan())
    threading.Timer(0.1, status.set_finished).start()
    assert engine.resume().plan_result == "done"
    assert messages == ["checkpoint", "wait_for", "wait_for"]


@pytest.mark.parametrize("late", [False, True])
def test_the_error_of_a_status_is_raised(engine: RunEngine, late: bool) -> None:
    status = Status()

    def fail() -> None:
        status.set_exception(HardwareError("no light"))

    def plan() -> MsgGenerator[None]:
        (threading.Timer(0.1, fail).start if late else fail)()
        yield from until_done(status)

    with pytest.raises(HardwareError, match="no light"):
        engine(plan())


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("the axis is stuck"), "the axis is stuck"), (TimeoutError(), "TimeoutError")],
)
def test_a_failure_of_a_device_that_is_not_ours_is_an_error_of_the_hardware(
    engine: RunEngine, documents: dict[str, list[dict[str, Any]]], error: Exception, reason: str
) -> None:
    class Foreign:
        name, parent = "foreign", None

        def set(self, value: float) -> Status:
            status = Status()
            status.set_exception(error)
            return status

    with pytest.raises(HardwareError, match=f"^{reason}$"):
        engine(in_run(lambda: bps.abs_set(Foreign(), 1.0, wait=True), {}, []))
    assert [stop["reason"] for stop in documents["stop"]] == [reason]


def test_an_error_without_text_is_the_reason_of_its_run(
    engine: RunEngine, documents: dict[str, list[dict[str, Any]]]
) -> None:
    def body() -> MsgGenerator[None]:
        yield from bps.null()
        raise AssertionError

    with pytest.raises(AssertionError):
        engine(in_run(body, {}, []))
    assert [stop["reason"] for stop in documents["stop"]] == ["AssertionError"]


@pytest.mark.parametrize(
    "plan",
    [
        lambda: watch_camera(FakeRows("camera"), 60.0),
        lambda: acquire_spectra(FakePsss(), seconds=60.0),
        lambda: observe(FakeArray(), 60.0),
    ],
    ids=["watch_camera", "acquire_spectra", "observe"],
)
def test_slow_reports_are_part_of_the_seconds_of_a_plan(
    engine: RunEngine,
    monkeypatch: pytest.MonkeyPatch,
    plan: Callable[[], MsgGenerator[Any]],
) -> None:
    clock = [0.0]
    monkeypatch.setattr(
        run_stubs, "time", SimpleNamespace(monotonic=lambda: clock[0]), raising=False
    )

    async def sleep(msg: Msg) -> None:
        clock[0] += msg.args[0]

    def watch(msg: Msg) -> None:
        clock[0] += 0.1 * (msg.command == "collect")

    engine.register_command("sleep", sleep)
    engine.msg_hook = watch
    reports: list[float] = []
    engine.subscribe(lambda *_: reports.append(clock[0]), "stream_datum")
    engine(plan())
    # Three streams at most: the report at the end of the time, and the last one.
    assert 60.0 < reports[-1] < 60.0 + 2 * 3 * 0.1 + 0.01


@pytest.mark.parametrize("fails", [False, True])
def test_a_pause_in_the_cleanup_after_a_run_repeats_nothing_of_the_run(
    RE: RunEngine, documents: dict[str, list[dict[str, Any]]], fails: bool
) -> None:
    motor = Signal(name="motor", value=0)
    uids: list[str] = []
    sets: list[int] = []
    motor.subscribe(lambda value, **_: sets.append(value), run=False)

    def body() -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.abs_set(motor, 1, wait=True)
        yield from bps.trigger_and_read([motor])
        if fails:
            raise HardwareError("no light")

    def plan() -> MsgGenerator[None]:
        with suppress(HardwareError):
            yield from bpp.finalize_wrapper(in_run(body, {}, uids), bps.pause)

    with pytest.raises(RunEngineInterrupted):
        RE(plan(), lambda name, doc: documents[name].append(doc))
    RE.resume()
    assert sets == [1]
    assert [stop["exit_status"] for stop in documents["stop"]] == ["fail" if fails else "success"]


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("ending", ["abort", "stop", "resume"])
def test_after_a_pause_at_any_message_of_a_collect_the_engine_can_repeat_messages(
    RE: RunEngine, number: int, ending: str
) -> None:
    commands: list[str] = []

    def pause(msg: Msg) -> None:
        if commands or msg.command == "rewindable":
            commands.append(msg.command)
            if len(commands) == number:
                RE.loop.call_soon(lambda: RE.loop.create_task(RE._request_pause_coro()))

    RE.msg_hook = pause
    camera = FakeRows("camera")
    with pytest.raises(RunEngineInterrupted):
        RE(watch_camera(camera, 1.0))
    RE.msg_hook = None
    getattr(RE, ending)()
    assert RE.rewindable


def test_a_plan_after_one_that_was_halted_in_a_collect_can_repeat_messages(RE: RunEngine) -> None:
    def halted() -> MsgGenerator[None]:
        yield Msg("rewindable", None, False)
        yield from bps.checkpoint()
        yield from bps.pause()

    motor = Signal(name="motor", value=0)
    sets: list[int] = []
    motor.subscribe(lambda value, **_: sets.append(value), run=False)

    def interrupted() -> MsgGenerator[None]:
        yield from bps.checkpoint()
        yield from bps.abs_set(motor, len(sets), wait=True)
        yield from bps.pause()

    RE.preprocessors.append(begin_rewindable)
    with pytest.raises(RunEngineInterrupted):
        RE(halted())
    RE.halt()
    with pytest.raises(RunEngineInterrupted):
        RE(interrupted())
    RE.resume()
    assert len(sets) == 2


def test_a_pause_within_the_first_reading_leaves_the_answer_complete(RE: RunEngine) -> None:
    detector, motor = Signal(name="detector", value=7), Signal(name="motor", value=0)
    describe = detector.describe

    async def pausing() -> dict[str, Any]:
        RE.loop.create_task(RE._request_pause_coro())
        detector.describe = describe
        await asyncio.sleep(60)
        raise AssertionError("the pause cancels the description")

    detector.describe = pausing
    answers: list[dict[str, Any]] = []

    def body() -> MsgGenerator[None]:
        yield from bps.checkpoint()
        answers.append((yield from trigger_and_read([detector, motor], "detector")))

    with pytest.raises(RunEngineInterrupted):
        RE(in_run(body, {}, []))
    RE.resume()
    assert answers[0]["detector"]["value"] == 7
