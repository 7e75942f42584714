"""Workers of LiveAnalysis that are killed, hang, or cannot start."""

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from ophyd.sim import SynAxis
from support.derived import read_derived
from support.live import Start, expected, finished, kill
from support.odd_analyses import PATH
from support.streaming import StreamingCamera

from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks import worker_supervisor
from skywright.callbacks.journal import encode_line
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.worker_supervisor import (
    WorkerLimits,
    WorkerSupervisor,
    _result_in_journal,
)

IMAGE = {"source": "", "dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1"}
KEYS = {"cam_image": {**IMAGE, "external": "STREAM:"}}
DESCRIPTOR = {"uid": "b", "run_start": "a", "name": "primary", "data_keys": KEYS}


def test_a_worker_that_leaves_a_process_is_restarted(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    """What it has forked keeps the pipe of its reports open."""
    child = tmp_path / "child"
    live = start(f"{PATH}:LeavesAChild", {"file": str(child)})
    RE.subscribe(live)
    try:
        uid = RE(bp.count([camera], num=3)).run_start_uids[0]
        done = live.wait(raw_uid=uid, timeout_s=90)
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)
    assert (done.reached, done.error) == (3, "")


def test_frames_stay_in_their_stream_when_the_worker_dies(
    RE: Any, start: Start, tmp_path: Path
) -> None:
    """One camera, read in two streams in turn."""
    camera = StreamingCamera("camera", tmp_path / "assets")
    live = start()
    RE.subscribe(live)

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan() -> Any:
        for turn in range(4):
            if turn == 3:
                kill(live)
            for name in ("bright", "dark"):
                yield from bps.trigger_and_read([camera], name=name)

    uid = RE(plan()).run_start_uids[0]
    live.wait(raw_uid=uid, timeout_s=90)
    for name, first in (("bright", 1), ("dark", 2)):
        numbers = live.columns(raw_uid=uid, stream=name)["identity"].tolist()
        assert numbers == [first, first + 2, first + 4, first + 6]


def _kill_at_random(
    RE: Any, live: LiveAnalysis, camera: StreamingCamera, rng: random.Random, num: int = 15
) -> str:
    """Run a plan, kill the worker at a random moment of it, and return the raw uid."""
    moment = rng.randrange(1, 4 * num + 5)  # three stream datums and an event a frame; or after
    seen = 0

    def watch(name: str, doc: Any) -> None:
        nonlocal seen
        if name in ("stream_datum", "event"):
            seen += 1
            if seen == moment:
                kill(live)

    token = RE.subscribe(watch)
    result = RE(bp.count([camera], num=num))
    RE.unsubscribe(token)
    if seen < moment:
        kill(live)
    assert result.exit_status == "success"
    return str(result.run_start_uids[0])


def _check_killed(live: LiveAnalysis, uid: str, numbers: range, tmp_path: Path) -> None:
    end = live.wait(raw_uid=uid, timeout_s=90)
    assert (end.error, end.result["n_frames"]) == ("", len(numbers))
    done = [run for run in finished(tmp_path) if run.start["raw_uid"] == uid]
    assert len(done) == 1
    assert done[0].start["uid"] == end.derived_uid
    assert done[0].result["mean_level"] == expected(numbers)["mean_level"]
    assert np.frombuffer(done[0].columns()["identity"], "<i8").tolist() == list(numbers)


def _kills(
    count: int, RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    live = start()
    live.wait_ready()
    RE.subscribe(live)
    for i in range(count):
        uid = _kill_at_random(RE, live, camera, rng)
        _check_killed(live, uid, range(15 * i + 1, 15 * i + 16), tmp_path)


def test_worker_killed_in_a_run_is_replaced_and_the_run_done_from_its_first_frame(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    _kills(2, RE, start, camera, tmp_path, seed=random.randrange(1000))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_twenty_kills(RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path) -> None:
    _kills(20, RE, start, camera, tmp_path, seed=1)


def test_a_run_that_kills_every_worker_is_given_up_and_the_next_one_is_not(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start(f"{PATH}:Dies", {"at": 3}, worker_limits=WorkerLimits(restarts=1))
    RE.subscribe(live)
    result = RE(bp.count([camera], num=4))
    end = live.wait(raw_uid=result.run_start_uids[0], timeout_s=90)
    assert end.done
    assert "died again" in end.error
    assert result.exit_status == "success"
    again = RE(bp.count([camera], num=4))
    assert live.wait(raw_uid=again.run_start_uids[0], timeout_s=90).result["n_frames"] == 4
    assert len(read_derived(tmp_path / "journal")) == 3  # two dead, one done


def test_an_analysis_that_cannot_start_is_given_up(
    RE: Any, start: Start, camera: StreamingCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")  # the worker cannot import it, we can
    live = start(f"{PATH}:Raises", {"at": 0}, worker_limits=WorkerLimits(restarts=1))
    RE.subscribe(live)
    result = RE(bp.count([camera], num=2))
    assert "status 2" in live.wait(raw_uid=result.run_start_uids[0], timeout_s=90).error
    assert result.exit_status == "success"


def test_a_hung_analysis_is_killed_and_given_up(
    RE: Any, start: Start, camera: StreamingCamera
) -> None:
    live = start(
        f"{PATH}:Slow", {"seconds": 3600}, worker_limits=WorkerLimits(restarts=0, stall_s=0.5)
    )
    live.wait_ready()
    RE.subscribe(live)
    result = RE(bp.count([camera], num=2))
    assert "died again" in live.wait(raw_uid=result.run_start_uids[0], timeout_s=90).error


def test_a_worker_is_not_killed_because_the_session_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, killed = WorkerLimits(stall_s=100.0), list[int]()
    supervisor = WorkerSupervisor("slow", [], tmp_path, limits, lambda *_, **__: None)
    supervisor.close()  # its thread
    raw = RawRun({"uid": "a", "time": 0.0}, RequiredKeys.of(PictureStatistics, {}))
    raw("descriptor", DESCRIPTOR)
    run = supervisor._runs["a"] = worker_supervisor._SentRun(raw)
    supervisor._worker = SimpleNamespace(kill=lambda: killed.append(1))  # type: ignore[assignment]
    now = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(worker_supervisor, "time", clock)
    supervisor.ready.set()

    def wait() -> None:
        nonlocal now
        for _ in range(9):
            now += 40.0
            supervisor._kill_if_stalled()

    wait()
    assert not killed  # there are no frames: the worker has nothing to report
    raw("stop", {"uid": "c", "run_start": "a"})
    run.streams["primary"].error = "ZeroDivisionError: frame 3 is cursed"
    wait()
    assert not killed  # it has reported all that it will
    run.streams["primary"].error = ""
    for pause_s, kills in ((1.0, 0), (1000.0, 0), (40.0, 0), (40.0, 0), (40.0, 1)):
        now += pause_s
        supervisor._kill_if_stalled()
        assert len(killed) == kills
    supervisor.ready.clear()  # it starts, and may have to compile
    for number in range(1, 9):
        now += 40.0
        supervisor._kill_if_stalled()
        assert len(killed) == 1 + (40.0 * number > worker_supervisor.START_LIMIT_S)


def test_a_line_of_the_worker_that_is_none_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = WorkerSupervisor("slow", [], tmp_path, WorkerLimits(), lambda *_, **__: None)
    supervisor._queue.put(("line", (None, b"no JSON")))
    supervisor.close()
    assert not supervisor._thread.is_alive()
    assert "analysis slow: line cannot be processed" in caplog.text


def test_a_worker_is_restarted_though_the_journal_of_its_derived_run_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[int]()
    supervisor = WorkerSupervisor("slow", [], tmp_path, WorkerLimits(), lambda *_, **__: None)
    supervisor.close()  # its thread
    monkeypatch.setattr(supervisor, "_start", lambda: started.append(1))
    monkeypatch.setattr(supervisor, "_send", lambda *_: None)
    raw = RawRun({"uid": "a", "time": 0.0}, RequiredKeys.of(PictureStatistics, {}))
    raw("descriptor", DESCRIPTOR)
    supervisor._worker = SimpleNamespace(stdin=Mock(), returncode=-9)  # type: ignore[assignment]
    supervisor._forward("start", {"uid": "a"}, raw)
    supervisor._runs["a"].streams["primary"].derived_uid = "c"
    (tmp_path / "c.jsonl").write_bytes(bytes(100) + b"\n")  # after a power failure
    supervisor._take_death()
    assert started == [1]


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_death_without_work_does_not_end_a_run_that_has_just_begun(
    is_sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended, started = list[str](), list[int]()

    def report(uid: str, stream: str, **facts: Any) -> None:
        if not stream:
            ended.append(facts["error"])

    supervisor = WorkerSupervisor("slow", [], tmp_path, WorkerLimits(restarts=0), report)
    supervisor.close()  # its thread
    monkeypatch.setattr(supervisor, "_start", lambda: started.append(1))
    raw = RawRun({"uid": "a", "time": 0.0}, RequiredKeys.of(PictureStatistics, {}))
    supervisor._worker = SimpleNamespace(stdin=Mock(), returncode=-9)  # type: ignore[assignment]
    supervisor.ready.set()
    monkeypatch.setattr(supervisor, "_send", lambda *_: None)
    supervisor._forward("start", {"uid": "a"}, raw)
    raw("descriptor", DESCRIPTOR)  # by the RunEngine's thread
    if is_sent:
        supervisor._forward("descriptor", DESCRIPTOR, raw)
    supervisor._take_death()
    assert ended == (["the worker died again (status -9)"] if is_sent else [])
    assert len(caplog.records) == 1
    if not is_sent:
        supervisor._forward("descriptor", DESCRIPTOR, raw)
        assert started == [1]


@pytest.mark.parametrize("directory", [".", "done"])
@pytest.mark.parametrize(
    ("stop", "found"),
    [
        ({"exit_status": "success"}, {"result": {"n": 2}, "error": ""}),
        ({"exit_status": "fail", "reason": "cursed"}, {"result": {"n": 2}, "error": "cursed"}),
        ({"exit_status": "abort"}, None),
    ],
)
def test_a_new_worker_does_not_repeat_what_is_complete(
    tmp_path: Path, directory: str, stop: dict[str, str], found: dict[str, Any] | None
) -> None:
    (tmp_path / "done").mkdir()
    journal = tmp_path / directory / "d.jsonl"
    documents: list[tuple[str, dict[str, Any]]] = [("event", {"data": {"n": n}}) for n in (1, 2)]
    for kind in ("stream_resource", "stream_datum"):  # one for each of many columns
        documents += [(kind, {}) for _ in range(300)]
    lines = [encode_line(*each) for each in (*documents, ("stop", stop))]
    journal.write_bytes(b"".join(lines))
    assert _result_in_journal(tmp_path, "d") == found
    journal.write_bytes(b"".join(lines)[:-1])  # its writer died in the middle of a line
    assert _result_in_journal(tmp_path, "d") is None


def test_a_death_ends_the_runs_that_a_new_worker_would_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, started = dict[str, str](), list[int]()

    def report(uid: str, stream: str, error: str = "", **_: Any) -> None:
        if not stream:
            ended[uid] = error

    supervisor = WorkerSupervisor("slow", [], tmp_path, WorkerLimits(), report)
    supervisor.close()  # its thread
    monkeypatch.setattr(supervisor, "_start", lambda: started.append(1))
    monkeypatch.setattr(supervisor, "_send", lambda *_: None)
    old = supervisor._worker = Mock(returncode=-9)
    supervisor.ready.set()
    required = RequiredKeys(("x",), "number", "time")
    raws = {uid: RawRun({"uid": uid}, required) for uid in ("begun", "abandoned", "over")}
    for uid, raw in raws.items():
        supervisor._forward("start", {"uid": uid}, raw)
    for uid in ("abandoned", "over"):
        keys = {"x": {"dtype": "number", "shape": []}}
        descriptor = {"uid": f"{uid}/d", "name": "primary", "data_keys": keys}
        raws[uid]("descriptor", descriptor)
        supervisor._forward("descriptor", descriptor, raws[uid])
    supervisor._abandon("abandoned", "the queue is full")
    raws["over"]("stop", {"uid": "over/s", "run_start": "over"})
    supervisor._runs["over"].streams["primary"].done = True
    supervisor._handle("died", old)
    assert ended == {"abandoned": "the queue is full", "over": ""}
    assert {uid: run.deaths for uid, run in supervisor._runs.items()} == {"begun": 0}
    assert started == [1]
    assert not supervisor.ready.is_set()

    new = supervisor._worker = Mock()
    supervisor._handle("line", (old, b'["ready", {}]'))
    supervisor._handle("died", old)
    assert (started, supervisor.ready.is_set()) == ([1], False)
    supervisor._failed_starts = 3
    supervisor._handle("line", (new, b'["run_done", {"raw_uid": "of an earlier session"}]'))
    assert supervisor._failed_starts == 0


def test_a_worker_starts_with_the_first_run_that_it_can_analyze(
    RE: Any, start: Start, camera: StreamingCamera
) -> None:
    live = start()
    RE.subscribe(live)
    uid = RE(bp.count([SynAxis(name="motor")])).run_start_uids[0]
    assert live.wait(raw_uid=uid, timeout_s=90).done
    assert live.worker_pid is None
    uid = RE(bp.count([camera], num=2)).run_start_uids[0]
    assert live.wait(raw_uid=uid, timeout_s=90).result["n_frames"] == 2


def test_a_frozen_worker_delays_nothing(RE: Any, start: Start, camera: StreamingCamera) -> None:
    live = start(worker_limits=WorkerLimits(restarts=20, stall_s=4.0))
    live.wait_ready()
    RE.subscribe(live)
    assert live.worker_pid is not None
    os.kill(live.worker_pid, signal.SIGSTOP)
    result = RE(bp.count([camera], num=30))
    assert result.exit_status == "success"
    end = live.wait(raw_uid=result.run_start_uids[0], timeout_s=90)
    assert (end.error, end.result["n_frames"]) == ("", 30)


@pytest.mark.parametrize(("full_from", "error"), [(3, "did not take"), (6, "")])
def test_a_full_queue_ends_the_derived_run_with_the_reason_and_a_stop_document_always_has_room(
    RE: Any,
    start: Start,
    camera: StreamingCamera,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_from: int,
    error: str,
) -> None:
    live = start()
    live.wait_ready()
    pid = live.worker_pid

    def fill(name: str, doc: Any) -> None:
        if name == "event" and doc["seq_num"] == full_from:
            monkeypatch.setattr(worker_supervisor, "QUEUE_DOCUMENTS", 0)

    RE.subscribe(live)
    RE.subscribe(fill)
    uid = RE(bp.count([camera], num=6)).run_start_uids[0]
    end = live.wait(raw_uid=uid, timeout_s=90)
    assert end.done
    assert error in end.error
    (run,) = finished(tmp_path)
    assert run.stop is not None
    assert run.stop["exit_status"] == ("abort" if error else "success")
    assert error in run.stop["reason"]
    assert error or run.result["n_frames"] == 6
    monkeypatch.undo()
    again = RE(bp.count([camera], num=2)).run_start_uids[0]
    assert live.wait(raw_uid=again, timeout_s=90).result["n_frames"] == 2
    assert live.worker_pid == pid


def test_a_worker_that_cannot_be_started_ends_its_runs(
    RE: Any, start: Start, camera: StreamingCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    live = start()
    RE.subscribe(live)
    uid = RE(bp.count([camera], num=2)).run_start_uids[0]
    assert "cannot be started" in live.wait(raw_uid=uid, timeout_s=90).error


def test_a_worker_told_to_end_in_a_run_is_replaced_too(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start()
    live.wait_ready()

    def end(name: str, doc: Any) -> None:
        if name == "event" and doc["seq_num"] == 3 and live.worker_pid is not None:
            os.kill(live.worker_pid, signal.SIGTERM)

    RE.subscribe(live)
    RE.subscribe(end)
    uid = RE(bp.count([camera], num=6)).run_start_uids[0]
    assert live.wait(raw_uid=uid, timeout_s=90).result["n_frames"] == 6
    ended = [run.stop["exit_status"] for run in finished(tmp_path) if run.stop]
    assert sorted(ended) in (["abort", "success"], ["success"])  # it may have had nothing yet
