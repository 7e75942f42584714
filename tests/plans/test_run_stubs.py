"""Runs of plans: what the stop document says, and several that are open at the same time."""

from collections import defaultdict
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky.utils import MsgGenerator
from ophyd import Signal

from plans.run_stubs import in_run
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
            yield from in_run(inner, {"plan_name": "inner"}, uids, "inner")
        yield from bps.mv(signal, 3)
        yield from event(signal)
        return "done"

    assert engine(in_run(outer, {"plan_name": "outer"}, uids, "outer")).plan_result == "done"
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
