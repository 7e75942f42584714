"""Pauses anywhere in the plans that report rows of files: each row has its sequence number once."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import pytest
from bluesky import RunEngine
from bluesky.utils import Msg, MsgGenerator, RunEngineInterrupted
from ophyd import Signal
from ophyd.sim import NullStatus, SynAxis
from ophyd.status import Status
from support.documents import Documents
from support.fake_rows import FakeRows

from plans import run_stubs
from plans.epu.track import track_epu
from plans.loop import stubs as loop_stubs
from plans.panoseti import runs
from plans.panoseti.calibration import tune_threshold
from plans.pictures import watch_camera
from plans.psss.spectrum import acquire_spectra
from plans.sacla.shots import acquire_shots
from skywright.instruments.loop.rotation_values import LastPicture, RotationValues
from skywright.instruments.loop.sweep import Sweep


class FakeStream(FakeRows):
    """The rows of a file, which come from the beginning on; two more come at the end."""

    has_more = False
    file = "/x.h5"

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.flying = True

    def stage(self) -> list[Any]:
        return [self]

    def unstage(self) -> list[Any]:
        return [self]

    def prepare(self, rows: int) -> NullStatus:
        return NullStatus()

    def kickoff(self) -> NullStatus:
        return NullStatus()

    def complete(self) -> NullStatus:
        self.end()
        return NullStatus()

    def end(self) -> None:
        if self.flying:
            self.rows += 2
        self.flying = False


class FakeDevice:
    """What all devices of these plans have."""

    parent = None
    name = "fake"

    def stage(self) -> list[Any]:
        return [self]

    def unstage(self) -> list[Any]:
        return [self]

    def read(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


class FakePsss(FakeDevice):
    def __init__(self) -> None:
        self.pulses, self.pulse_settings = FakeStream("pulses"), FakeStream("pulse_settings")
        self.pictures = FakeStream("pictures")
        self.record_pictures = Signal(name="record_pictures", value=1)


class FakeShots(FakeDevice):
    def __init__(self) -> None:
        self.rows, self.region_sets = FakeStream("rows"), FakeStream("region_sets")
        self.images, self.frames = FakeStream("images"), FakeStream("frames")


class FakeArray(FakeDevice):
    """An array whose rate of triggers falls with the threshold; its run ends after four reports."""

    is_lost, losses = False, 0

    def __init__(self) -> None:
        self.streams = {key: FakeStream(key) for key in ("m1_img16", "m1_ph256", "events")}
        self.run_metadata = Signal(name="metadata", value="{}")
        self.threshold = Signal(name="threshold", value=67.5)
        self.trigger_rate = Signal(name="rate", value=0.0)
        self.ended = Status()
        self.thresholds: list[float] = []

    def find_run(self, limit_s: float, wait_for_new: bool = False) -> NullStatus:
        return NullStatus()

    def track(self) -> NullStatus:
        return NullStatus()

    def recorded(self) -> list[str]:
        if self.streams["events"].rows >= 9 and not self.ended.done:
            self.ended.set_finished()
        return list(self.streams)

    def wait_for_run(self, limit_s: float) -> Status:
        return self.ended

    def end_track(self) -> NullStatus:
        for stream in self.streams.values():
            stream.end()
        return NullStatus()

    def run_simulated(self, running: bool) -> NullStatus:
        return NullStatus()

    def check_no_run(self) -> NullStatus:
        return NullStatus()

    check_run = check_no_run

    def set_threshold(self, threshold_adc: float) -> NullStatus:
        self.threshold.put(threshold_adc)
        self.thresholds.append(threshold_adc)
        return NullStatus()

    def measure_rate(self, seconds: float) -> NullStatus:
        self.trigger_rate.put(1000.0 - 5 * float(self.threshold.get()))
        return NullStatus()


class FakeWatcher(FakeDevice):
    """A visit of two grids, whose second one comes later; it is to end after three triggers."""

    def __init__(self) -> None:
        self.triggers = 0
        self.begun: set[str] = set()
        self.begun_last = ""
        self.suggested = Signal(name="suggested", value=0)

    def trigger(self) -> NullStatus:
        self.triggers += 1
        return NullStatus()

    def read(self) -> dict[str, Any]:
        return dict(self.suggested.read())

    def describe(self) -> dict[str, Any]:
        return dict(self.suggested.describe())

    def grids(self) -> list[dict[str, Any]]:
        keys = ("name", "session", "data_dir", "amends")
        names = ["a", "b"][: 1 + (self.triggers > 1)]
        return [
            {"uuid": name, "waiting": name not in self.begun} | dict.fromkeys(keys, "")
            for name in names
        ]

    def is_scanned(self) -> bool:
        return True

    def stop_requested(self) -> bool:
        return self.triggers >= 3

    def suggestion(self) -> int:
        return self.triggers

    def begin(self, grid: str, run: str) -> NullStatus:
        self.begun.add(grid)
        self.begun_last = grid
        return NullStatus()

    def streams(self, run: str) -> list[Any]:
        return [FakeStream(f"fake_{self.begun_last}{kind}") for kind in ("holes", "micrographs")]

    def end(self, run: str, streams: list[Any]) -> None:
        for stream in streams:
            stream.end()


class FakeOscillation(FakeStream):
    """Two rows for each sweep that no pause cuts off."""

    def __init__(self) -> None:
        super().__init__("oscillation")
        self.flying, self.over = False, Status()

    def kickoff(self) -> NullStatus:
        self.flying, self.over = True, Status()
        return NullStatus()

    def complete(self) -> Status:  # type: ignore[override]
        return self.over

    def end_sweep(self) -> None:
        self.end()
        if not self.over.done:
            self.over.set_finished()

    def pause(self) -> None:
        self.flying = False
        self.end_sweep()

    def resume(self) -> None:
        pass


class FakeCamera(FakeStream):
    """The spindle comes to rest while pictures are collected, every other time."""

    def __init__(self, oscillation: FakeOscillation) -> None:
        super().__init__("camera")
        self.oscillation = oscillation

    def arrive(self) -> None:
        super().arrive()
        if self.rows % 6 == 0:
            self.oscillation.end_sweep()


class FakeResult(FakeDevice):
    """The result of pictures that are newer than each move."""

    values = RotationValues(last=LastPicture(time=1e12)).flat()

    def trigger(self) -> NullStatus:
        return NullStatus()

    def read(self) -> dict[str, Any]:
        return {f"fake_{key}": {"value": v, "timestamp": 0.0} for key, v in self.values.items()}

    def describe(self) -> dict[str, Any]:
        kinds = {bool: "boolean", str: "string"}
        return {
            f"fake_{key}": {"source": "sim", "dtype": kinds.get(type(v), "number"), "shape": []}
            for key, v in self.values.items()
        }


def of_loop(steps: Callable[[loop_stubs.Instruments], MsgGenerator[Any]]) -> MsgGenerator[Any]:
    """Run steps of the plans that center a loop, then end the pictures."""
    phi, sample = SynAxis(name="phi"), SynAxis(name="sample")
    oscillation = FakeOscillation()
    goniometer = SimpleNamespace(oscillation=oscillation, phi=phi, sample=sample)
    camera = FakeCamera(oscillation)
    tools = loop_stubs.Instruments(camera, goniometer, FakeResult(), settle_s=0.0)

    def body() -> MsgGenerator[None]:
        yield from steps(tools)
        yield from loop_stubs.end_pictures(tools)

    return loop_stubs.recorded(tools, body, {}, [])


def measure_twice(tools: loop_stubs.Instruments) -> MsgGenerator[None]:
    yield from loop_stubs.measure_once(tools)
    yield from loop_stubs.measure_once(tools)


def _imported(path: Path) -> ModuleType:
    """Return a module that is in no package."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = _imported(Path(__file__).parents[2] / "examples/sixth_instrument/skywright_bpm/plans.py")

PLANS: dict[str, Callable[[], MsgGenerator[Any]]] = {
    "watch_camera": lambda: watch_camera(FakeStream("camera"), 0.003),
    "acquire_spectra": lambda: acquire_spectra(FakePsss(), 9),
    "acquire_shots": lambda: acquire_shots(FakeShots(), 9),
    "track_run": lambda: runs.track_run(FakeArray()),
    "observe": lambda: runs.observe(FakeArray(), 0.003),
    "track_epu": lambda: track_epu(FakeWatcher(), idle=0),
    "measure_once": lambda: of_loop(measure_twice),
    "example": lambda: example.record_position(FakeStream("bpm"), 0.003),
}


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (run_stubs, runs):
        monkeypatch.setattr(module, "COLLECT_S", 0.001)
    # As many messages on any computer: the engine cannot be suspended by the last one of a plan.
    monkeypatch.setattr(run_stubs, "time", SimpleNamespace(monotonic=lambda: 0.0))
    for limit in ("POLL_S", "LAST_COLLECT_S"):
        monkeypatch.setattr(loop_stubs, limit, 0.001)


def with_pause(plan: MsgGenerator[Any], after: int, pause: Msg) -> MsgGenerator[Any]:
    """Insert a message that pauses after a given number of messages of a plan."""
    count = 0

    def insert(msg: Msg) -> tuple[None, MsgGenerator[None] | None]:
        nonlocal count
        if msg.command == pause.command:
            return None, None
        count += 1
        return None, bpp.single_gen(pause) if count == after else None

    return (yield from bpp.plan_mutator(plan, insert))


def taken(RE: RunEngine, plan: MsgGenerator[Any]) -> tuple[Any, Documents, int]:
    """Run a plan to its end; return its answer, the documents, and how often it was paused."""
    documents: Documents = []
    pauses = 0
    try:
        result: Any = RE(plan, lambda *pair: documents.append(pair))
    except RunEngineInterrupted:
        pauses, result = 1, RE.resume()
    assert result.exit_status == "success"
    return result.plan_result, documents, pauses


def rows_of(documents: Documents, replaced: str = "") -> dict[str, list[int]]:
    """Return the index of each row in the order of the sequence numbers, by data key.

    Only rows of the data key `replaced` may be replaced by later ones.
    """
    keys = {doc["uid"]: doc["data_key"] for name, doc in documents if name == "stream_resource"}
    rows: dict[str, dict[int, int]] = defaultdict(dict)
    for name, doc in documents:
        if name == "stream_datum":
            numbers, indices = (range(*doc[key].values()) for key in ("seq_nums", "indices"))
            key = keys[doc["stream_resource"]]
            of_key = rows[key]
            for number, index in zip(numbers, indices, strict=True):
                # The catalog would keep the last one only
                assert number not in of_key or key == replaced
                of_key[number] = index
    return {key: [index for _, index in sorted(pairs.items())] for key, pairs in rows.items()}


async def at_once() -> None:
    """End a suspension."""


def interrupted(
    RE: RunEngine, plan: Callable[[], MsgGenerator[Any]], suspended: bool, step: int = 1
) -> Iterator[Documents]:
    """Yield the documents of a plan that is paused after each message, or each `step`-th one.

    A suspension in place of a pause, as the journal asks for one, comes also within a message.
    """
    messages, suspend_at = 0, 0

    def count(msg: Msg) -> None:
        nonlocal messages
        messages += 1
        if messages == suspend_at:
            RE.request_suspend(at_once)

    RE.msg_hook = count
    taken(RE, plan())
    last = messages
    assert last > 10
    for after in range(1 + suspended % step, last - 1, step):
        messages = 0
        if suspended:
            suspend_at = after
            _, documents, _ = taken(RE, plan())
        else:
            _, documents, _ = taken(RE, with_pause(plan(), after, Msg("pause")))
        yield documents


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_a_pause_anywhere_numbers_each_row_once(
    RE: RunEngine, name: str, suspended: bool, step: int
) -> None:
    for documents in interrupted(RE, PLANS[name], suspended, step):
        rows = rows_of(documents)
        assert rows
        assert all(row == list(range(len(row))) for row in rows.values())
        assert all(len(row) >= 5 for row in rows.values())


@pytest.mark.parametrize("suspended", [False, True])
def test_a_pause_repeats_a_sweep_that_is_not_reported_yet(RE: RunEngine, suspended: bool) -> None:
    """The pictures of the repeated sweep replace those of the one that was cut off."""

    def plan() -> MsgGenerator[Any]:
        return of_loop(lambda tools: loop_stubs.sweep(tools, Sweep(90.0, loop_stubs.COLLECT_S)))

    async def sleep(msg: Msg) -> None:
        pass

    RE.register_command("sleep", sleep)
    repeated = 0
    for documents in interrupted(RE, plan, suspended):
        rows = rows_of(documents, replaced="camera")
        assert rows["oscillation"] == list(range(len(rows["oscillation"])))
        camera = rows["camera"]
        repeated += camera != list(range(len(camera)))
        assert camera[-4:] == list(range(camera[-1] - 3, camera[-1] + 1))
    assert repeated


@pytest.mark.parametrize("name", [*PLANS, "tune_threshold"])
def test_a_plan_that_reports_is_paused_at_a_checkpoint_within_its_run(
    RE: RunEngine, name: str
) -> None:
    plan = PLANS.get(name, lambda: tune_threshold(FakeArray(), 600.0))()
    documents: Documents = []

    def insert(msg: Msg) -> tuple[None, MsgGenerator[None] | None]:
        return None, bps.deferred_pause() if msg.command == "declare_stream" else None

    with pytest.raises(RunEngineInterrupted):
        RE(bpp.plan_mutator(plan, insert), lambda *pair: documents.append(pair))
    names = [kind for kind, _ in documents]
    assert "start" in names
    assert "stop" not in names
    RE.halt()


def test_a_pause_repeats_no_threshold_that_was_tried(RE: RunEngine) -> None:
    for after in range(1, 40):
        array = FakeArray()
        plan = with_pause(tune_threshold(array, 600.0, tolerance=1e-4), after, Msg("pause"))
        tuned, documents, pauses = taken(RE, plan)
        assert pauses
        events = {
            doc["seq_num"]: (doc["data"]["threshold"], doc["data"]["rate"])
            for name, doc in documents
            if name == "event"
        }
        tried = [events[number][0] for number in sorted(events)]
        assert tried == array.thresholds
        assert events[max(events)] == (tuned.threshold_adc, tuned.rate_hz)


def test_rows_that_come_while_a_flyer_completes_over_a_pause_are_in_the_catalog(
    RE: RunEngine,
) -> None:
    camera, ended = FakeStream("camera"), Status()
    calls: list[str] = []

    def complete() -> Status:
        calls.append("complete")
        camera.end()
        return ended

    camera.complete = complete  # type: ignore[method-assign, assignment]
    waits = threading.Event()

    def watch(msg: Msg) -> None:
        if msg.command == "wait" and calls and not waits.is_set():
            waits.set()
            threading.Thread(target=RE.request_pause, daemon=True).start()

    RE.msg_hook = watch
    documents: Documents = []
    with pytest.raises(RunEngineInterrupted):
        RE(watch_camera(camera, 0.003), lambda *pair: documents.append(pair))
    assert waits.is_set()
    ended.set_finished()
    RE.resume()
    rows = rows_of(documents)["camera"]
    assert rows == list(range(camera.rows))
