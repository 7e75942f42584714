"""A second-stage analysis in the worker of the first one: requests, derived runs, failures."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from ophyd.sim import SynAxis
from support.derived import Derived, read_derived
from support.live import Start
from support.odd_analyses import PATH
from support.second_stages import MOTOR, SLOPE, DeadlyRun, Slope, SlopeRun, SlopeStage
from support.streaming import StreamingCamera, noise
from support.waiting import until

from devices.live_result import LiveResult
from skywright.analysis import Batch
from skywright.callbacks import drawing as drawing_module
from skywright.callbacks import worker_supervisor
from skywright.callbacks.drawing import Drawer
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.errors import ConfigError, HardwareError


@pytest.fixture
def live(start: Start, RE: Any) -> LiveAnalysis:
    live = start(second={SLOPE: {}})
    RE.subscribe(live)
    live.wait_ready()
    return live


def steps(camera: Any, result: Any, places: list[float], seen: list[Any], act: Any = None) -> Any:
    """Take a picture at each place and read what all of them tell."""
    motor = SynAxis(name="motor")

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan() -> Any:
        for number, place in enumerate(places):
            yield from bps.mv(motor, place)
            yield from bps.trigger_and_read([camera, motor])
            if act is not None and number == 2:
                act()
            yield from bps.trigger(result, wait=True)
            seen.append(result.read())

    return plan()


def finished(tmp_path: Path, uid: str) -> dict[str, Derived]:
    runs = [r for r in read_derived(tmp_path / "journal") if r.stop and r.start["raw_uid"] == uid]
    names = [run.start["analysis"]["name"] for run in runs]
    assert len(set(names)) == len(names)
    return dict(zip(names, runs, strict=True))


def slope_of(places: list[float]) -> float:
    levels = [noise(number).mean() for number in range(1, len(places) + 1)]
    return float(np.polyfit(places, levels, 1)[0])


def test_each_decision_has_all_frames_and_all_events_until_then(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, tmp_path: Path
) -> None:
    slope = live.second_reports[SLOPE]
    places, seen = [1.0, 3.0, 2.0, 7.0], list[Any]()
    result = LiveResult(slope, "slope", hinted=["slope"])
    uid = RE(steps(camera, result, places, seen), breaks_off=True).run_start_uids[0]
    assert [each["slope_last_place"]["value"] for each in seen] == places
    assert [each["slope_n_frames"]["value"] for each in seen] == [1, 2, 3, 4]
    assert seen[-1]["slope_slope"]["value"] == pytest.approx(slope_of(places), rel=1e-12)
    done = slope.wait(raw_uid=uid)
    runs = finished(tmp_path, uid)
    first, second = runs["picture_statistics"], runs["slope"]
    assert second.start["uid"] == done.derived_uid
    assert second.start["analysis"]["inputs"] == {"picture_statistics": first.start["uid"]}
    assert second.result["slope"] == seen[-1]["slope_slope"]["value"]  # live and stored: the same
    assert Path(second.result["pictures"]).read_bytes() == b"a line"  # drawn before it broke off
    assert np.frombuffer(second.columns()["place"], "<f8").tolist() == places
    assert second.stop is not None
    assert second.stop["exit_status"] == "success"
    assert slope.columns(raw_uid=uid)["place"].tolist() == places


def test_a_request_outlives_the_worker(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, tmp_path: Path
) -> None:
    def kill() -> None:
        assert live.worker_pid is not None
        os.kill(live.worker_pid, signal.SIGKILL)

    places, seen = [1.0, 3.0, 2.0, 7.0], list[Any]()
    result = LiveResult(live.second_reports[SLOPE], "slope", timeout_s=60.0)
    uid = RE(steps(camera, result, places, seen, kill)).run_start_uids[0]
    assert [each["slope_last_place"]["value"] for each in seen] == places
    live.wait(raw_uid=uid)
    assert finished(tmp_path, uid).keys() == {"picture_statistics", "slope"}


def test_a_request_that_finds_the_queue_full_fails_at_once(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        monkeypatch.setattr(worker_supervisor, "QUEUE_DOCUMENTS", 0)

    seen = list[Any]()
    result = LiveResult(live.second_reports[SLOPE], "slope", timeout_s=60.0)
    with pytest.raises(FailedStatus, match="did not take the documents in time"):
        RE(steps(camera, result, [1.0, 3.0, 2.0, 7.0], seen, fill))
    assert len(seen) == 2


def test_runs_without_what_it_needs_have_none(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, tmp_path: Path
) -> None:
    uid = RE(bp.count([camera], num=3)).run_start_uids[0]
    assert live.second_reports[SLOPE].wait(raw_uid=uid).derived_uid is None
    assert finished(tmp_path, uid).keys() == {"picture_statistics"}


def test_a_result_that_tells_nothing_is_a_failed_run_with_its_reason(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, tmp_path: Path
) -> None:
    result = LiveResult(live.second_reports[SLOPE], "slope")
    uid = RE(steps(camera, result, [1.0, 1.0], [])).run_start_uids[0]
    live.wait(raw_uid=uid)
    runs = finished(tmp_path, uid)
    assert runs["slope"].stop is not None
    assert (runs["slope"].stop["exit_status"], runs["slope"].stop["reason"]) == (
        "fail",
        "one place only",
    )
    assert runs["slope"].result["n_frames"] == 2


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [("config", ConfigError), ("bug", HardwareError), ("begin", HardwareError)],
)
def test_its_failure_reaches_the_decision_and_harms_not_the_first(
    RE: Any,
    live: LiveAnalysis,
    camera: StreamingCamera,
    tmp_path: Path,
    trouble: str,
    kind: type[Exception],
) -> None:
    result = LiveResult(live.second_reports[SLOPE], "slope", timeout_s=30.0)
    with pytest.raises(FailedStatus) as failure:
        RE(steps(camera, result, [1.0, 2.0], []), trouble=trouble)
    assert type(failure.value.__cause__) is kind
    assert "no slope today" in str(failure.value.__cause__)
    uid = live.raw_uid or ""
    done = live.wait(raw_uid=uid)
    assert (done.error, done.result["n_frames"]) == ("", 1)
    assert "no slope today" in live.second_reports[SLOPE].wait(raw_uid=uid).error
    assert finished(tmp_path, uid).keys() == {"picture_statistics"}


def test_a_failure_at_its_end_harms_not_the_first(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, tmp_path: Path
) -> None:
    result = LiveResult(live.second_reports[SLOPE], "slope", timeout_s=30.0)
    uid = RE(steps(camera, result, [1.0, 2.0], []), trouble="fits").run_start_uids[0]
    done = live.wait(raw_uid=uid)
    assert (done.error, done.result["n_frames"]) == ("", 2)
    assert "no slope today" in live.second_reports[SLOPE].wait(raw_uid=uid).error
    runs = finished(tmp_path, uid)
    assert runs.keys() == {"picture_statistics"}
    assert runs["picture_statistics"].stop is not None
    assert runs["picture_statistics"].stop["exit_status"] == "success"


def test_a_failure_of_the_first_reaches_its_decision(
    RE: Any, camera: StreamingCamera, start: Start
) -> None:
    live = start(f"{PATH}:Raises", {"at": 2}, second={SLOPE: {}})
    RE.subscribe(live)
    result = LiveResult(live.second_reports[SLOPE], "slope", timeout_s=60.0)
    with pytest.raises(FailedStatus) as failure:
        RE(steps(camera, result, [1.0, 2.0, 3.0], []))
    assert "frame 2 is cursed" in str(failure.value.__cause__)


def test_a_new_worker_leaves_the_second_stage_to_the_first_stream(
    RE: Any, start: Start, tmp_path: Path
) -> None:
    """Also if that stream has failed, so that the new worker does not analyze it again."""
    assets = tmp_path / "assets"
    live = start(f"{PATH}:Raises", {"at": 3}, second={SLOPE: {}})
    RE.subscribe(live)
    left, right = StreamingCamera("left", assets), StreamingCamera("right", assets, first=11)
    motor = SynAxis(name="motor")

    def points(camera: StreamingCamera) -> Any:
        for place in (1.0, 3.0, 2.0):
            yield from bps.mv(motor, place)
            yield from bps.trigger_and_read([camera, motor], name=camera.name)

    @bpp.stage_decorator([left, right])
    @bpp.run_decorator()
    def plan() -> Any:
        yield from points(left)
        until(lambda: "cursed" in live.progress(stream="left").error)
        yield from points(right)
        assert live.worker_pid is not None
        os.kill(live.worker_pid, signal.SIGKILL)
        yield from points(right)

    uid = RE(plan()).run_start_uids[0]
    live.wait(raw_uid=uid)
    assert live.progress(uid, "right").result["n_frames"] == 6
    live.close()
    made = [run.start["analysis"] for run in read_derived(tmp_path / "journal") if run.stop]
    assert [each["stream"] for each in made if each["name"] == "slope"] == ["left"]


class ForeignCamera(StreamingCamera):
    """Its files have a mimetype that nobody reads."""

    def collect_asset_docs(self, index: int | None = None) -> Iterator[Any]:
        for name, doc in super().collect_asset_docs(index):
            is_resource = name == "stream_resource"
            yield name, {**doc, "mimetype": "application/x-nobody-knows"} if is_resource else doc


@pytest.mark.parametrize("foreign", [False, True])
def test_it_works_on_the_first_stream_that_can_be_used(
    RE: Any, live: LiveAnalysis, tmp_path: Path, foreign: bool
) -> None:
    """It is not known which of two cameras is meant, or the first stream has unknown files."""
    kinds = [StreamingCamera, ForeignCamera if foreign else StreamingCamera]
    cameras = [kind(name, tmp_path / "assets") for kind, name in zip(kinds, "ab", strict=True)]
    result, motor = LiveResult(live.second_reports[SLOPE], "slope"), SynAxis(name="motor")

    @bpp.stage_decorator(cameras)
    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.trigger_and_read(cameras[1:] if foreign else cameras, name="unusable")
        for place in (1.0, 3.0, 2.0):
            yield from bps.mv(motor, place)
            yield from bps.trigger_and_read([cameras[0], motor])
        yield from bps.trigger(result, wait=True)

    uid = RE(plan()).run_start_uids[0]
    assert result.read()["slope_n_frames"]["value"] == 3
    live.wait(raw_uid=uid)
    made = {run.start["analysis"]["name"]: run for run in read_derived(tmp_path / "journal")}
    assert made["slope"].start["analysis"]["stream"] == "primary"
    assert made["slope"].stop is not None
    assert made["slope"].stop["exit_status"] == "success"


def test_a_process_that_sends_no_pictures_does_not_get_the_next_drawing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has sent in answer to one run would be taken for the pictures of the next."""
    code = "import sys; sys.stdout.write('no pickle'); sys.stdout.flush(); sys.stdin.read()"
    started: list[subprocess.Popen[bytes]] = []

    def start(_module: str) -> "subprocess.Popen[bytes]":
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, "-c", code], **pipes))
        return started[-1]

    monkeypatch.setattr(drawing_module, "start_module", start)
    drawer = Drawer()
    for _ in range(2):
        assert drawer("a result").result(90) == {}  # type: ignore[arg-type]
    drawer.close()
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2
    for process in started:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # the drawing that nobody has read
                pipe.close()


def test_a_process_that_starts_while_the_worker_ends_is_ended_too_and_that_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawer, waits = Drawer(), threading.Event()
    closing = threading.Thread(target=drawer.close, daemon=True)
    shutdown = drawer._thread.shutdown

    def start(_module: str) -> "subprocess.Popen[bytes]":
        closing.start()
        assert waits.wait(60)  # it has found no process
        started.append(subprocess.Popen(["sleep", "600"], stdin=PIPE, stdout=PIPE))
        return started[-1]

    def wait_for_thread(**options: bool) -> None:
        waits.set()
        shutdown(**options)

    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(drawing_module, "start_module", start)
    monkeypatch.setattr(drawer._thread, "shutdown", wait_for_thread)
    pictures = drawer("a result")  # type: ignore[arg-type]
    try:
        assert pictures.result(20) == {}
        closing.join(60)
        assert not closing.is_alive()
        assert "lacking" not in caplog.text
    finally:
        started[0].kill()


def slope_run(directory: Path) -> tuple[SecondAnalysis, list[tuple[str, Any]]]:
    """Return a second-stage analysis whose pictures are never drawn, and its documents."""
    documents: list[tuple[str, Any]] = []
    start = {"uid": "raw", "time": 1e9}
    second = SecondAnalysis(
        "slope",
        SlopeStage(),
        start,
        lambda *each: documents.append(each),
        directory,
        lambda _: Future(),
    )
    return second, documents


@pytest.mark.parametrize("has_rows", [True, False])
def test_a_run_without_rows_or_what_the_second_stage_needs_has_no_derived_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, has_rows: bool
) -> None:
    second, documents = slope_run(tmp_path)
    if has_rows:  # but no places of the motor
        second.add(Batch(np.arange(2), np.zeros(2), {"level": np.zeros(2)}))
    else:
        second.take("event", {"data": {MOTOR: 1.0}})
    assert list(second.finish_steps("primary", {})) == []
    assert (documents, second.take_facts(), caplog.records) == ([], {}, [])


def test_a_request_is_answered_once_its_frames_are_analyzed(tmp_path: Path) -> None:
    second, _ = slope_run(tmp_path)
    second.take("event", {"descriptor": "b", "seq_num": 1, "data": {MOTOR: 1.0}})
    second.add(Batch(np.arange(1), np.ones(1), {"mean": np.ones(1)}))
    second.note_request(5, 2)
    assert [second.answer(reached) for reached in (1, 2, 2, 3)] == [False, True, False, False]
    assert second.take_facts()["answered"] == 5
    assert second.take_facts() == {}


def test_a_derived_run_whose_rows_cannot_be_written_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(28, "disk full")

    monkeypatch.setattr("skywright.callbacks.derived.DerivedRun.add", fail)
    second, documents = slope_run(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        second._derive(Slope(), None, "primary", {}, {})  # type: ignore[arg-type]
    stop = Derived(documents).stop
    assert stop is not None
    assert (stop["exit_status"], stop["reason"]) == ("fail", "OSError: [Errno 28] disk full")


def test_a_derived_run_is_there_when_the_first_one_fails_while_pictures_are_drawn(
    tmp_path: Path,
) -> None:
    second, documents = slope_run(tmp_path)
    for number in (1, 2):
        second.take("event", {"descriptor": "b", "seq_num": number, "data": {MOTOR: number}})
    second.add(Batch(np.arange(1, 3), np.ones(2), {"mean": np.array([1.0, 2.0])}))
    next(second.finish_steps("primary", {}))  # it waits for its pictures
    assert not documents
    second.draw_until = 0.0
    for _ in range(2):
        assert list(second.finish_steps("primary", {})) == []
    assert len(Derived(documents).of("start")) == 1
    stop = Derived(documents).stop
    assert stop is not None
    assert stop["exit_status"] == "success"


def test_a_derived_run_is_there_when_the_process_that_draws_cannot_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(11, "no more processes")

    monkeypatch.setattr("skywright.callbacks.drawing.start_module", fail)
    drawer = Drawer()
    try:
        drawing = (SlopeRun({}), Slope(), None, {})
        assert drawer(drawing).result(10) == {}  # type: ignore[arg-type]
    finally:
        drawer.close()


def test_a_derived_run_is_there_when_the_process_that_draws_dies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    drawer = Drawer()
    try:
        lost = drawer((DeadlyRun({}), Slope(), None, {}))  # type: ignore[arg-type]
        assert lost.result(60) == {}
        unsent = drawer((SlopeRun({}), Slope(), None, {"line": lambda: 0}))  # type: ignore[arg-type]
        assert unsent.result(60) == {}
        again = drawer((SlopeRun({}), Slope(), None, {}))  # type: ignore[arg-type]
        assert again.result(60) == {"slope.txt": b"a line"}
    finally:
        drawer.close()
