"""LiveAnalysis under a real RunEngine: files, processes and signals are real."""

import inspect
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
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
from support.derived import Derived, read_derived
from support.odd_analyses import PATH
from support.streaming import StreamingCamera, noise
from support.waiting import until

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks import reports as reports_module
from skywright.callbacks import worker_supervisor
from skywright.callbacks.journal import encode_line
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.reports import Progress, Reports
from skywright.callbacks.stream_analysis import BacklogLimits
from skywright.callbacks.worker_supervisor import (
    WorkerLimits,
    WorkerSupervisor,
    _result_in_journal,
    _SentRun,
)

Start = Callable[..., LiveAnalysis]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a live analysis over the store in tmp_path."""
    monkeypatch.setenv(
        "PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep
    )  # for support.odd_analyses
    started: list[LiveAnalysis] = []

    def start(name: str = "picture_statistics", *args: Any, **options: Any) -> LiveAnalysis:
        live = LiveAnalysis(
            name, *args, journal=tmp_path / "journal", assets=tmp_path / "assets", **options
        )
        started.append(live)
        return live

    yield start
    for live in started:
        live.close()


@pytest.fixture
def camera(tmp_path: Path) -> StreamingCamera:
    return StreamingCamera("cam", tmp_path / "assets")


def finished(tmp_path: Path) -> list[Derived]:
    return [run for run in read_derived(tmp_path / "journal") if run.stop]


def expected(numbers: range) -> dict[str, Any]:
    """The result by the analysis alone."""
    analysis = PictureStatistics()
    pictures = np.array([noise(i) for i in numbers])
    identities = np.array(numbers, np.int64)
    analysis.update(Batch(identities, identities * 0.0, {"image": pictures}))
    return analysis.result()


def test_the_command_line_of_the_worker_shows_no_parameters(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def refuse(*arguments: str, **options: Any) -> None:
        started.append((arguments, options))
        raise OSError("not now")

    monkeypatch.setattr(worker_supervisor, "start_module", refuse)
    url = "http://user:secret@127.0.0.1:9"
    start("loop_detection", {"backend": "automl", "url": url}).start()
    until(lambda: started)
    arguments, options = started[0]
    assert "secret" not in str(arguments)
    assert "secret" in str(options["env"])


def test_the_console_shows_name_and_state(start: Start) -> None:
    live = start()
    assert repr(live) == "<analysis picture_statistics: its worker does not run, 0 runs not done>"
    live.wait_ready()
    assert repr(live) == "<analysis picture_statistics: its worker is ready, 0 runs not done>"


def test_a_worker_is_awaited_as_long_as_it_may_take_to_start() -> None:
    """It may have to compile first, on a computer that is busy."""
    limit_s = inspect.signature(LiveAnalysis.wait_ready).parameters["timeout_s"].default
    assert limit_s >= worker_supervisor.START_LIMIT_S


def kill(live: LiveAnalysis) -> None:
    if live.worker_pid is not None:
        os.kill(live.worker_pid, signal.SIGKILL)


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


def test_runs_are_unfinished_until_their_last_derived_run_is_closed() -> None:
    reports = Reports("picture_statistics", PictureStatistics)
    assert reports.wait_for_all(0.0)
    for uid in ("first", "second"):
        reports.accept_report(uid, "primary", reached=1)
    reports.accept_report("second", "primary", done=True)
    reports.accept_report("second", "", done=True)  # streams of several runs are analyzed in turn
    assert reports.unfinished == ["first"]
    assert not reports.wait_for_all(0.0)
    reports.accept_report("first", "", done=True)
    assert reports.wait_for_all(0.0)
    reports.present_run = RawRun({"uid": "third"}, RequiredKeys(("x",), "number", "time"))
    assert reports.unfinished == ["third"]  # nothing is reported of it yet


def test_reports_are_kept_of_each_stream_and_the_first_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reports_module, "REMEMBERED_RUNS", 2)
    reports, told = Reports("any", PictureStatistics), list[Progress]()
    end = reports.subscribe(told.append)
    reports.accept_report("a", "primary", reached=2, result={"n": 2})
    reports.accept_report("a", "dark", reached=7, result={"n": 7})
    reports.accept_report("a", "primary", reached=3, done=True, error="cursed")
    first = reports.wait(10, raw_uid="a", timeout_s=0.0)  # it is done with fewer frames
    assert (first.reached, first.result, first.error) == (3, {"n": 2}, "cursed")
    assert reports.wait(7, raw_uid="a", stream="dark", timeout_s=0.0).result == {"n": 7}
    with pytest.raises(TimeoutError, match=r"reached 7 frames of run a in 0\.0 s, expected 8"):
        reports.wait(8, raw_uid="a", stream="dark", timeout_s=0.0)
    assert [(each.stream, each.reached) for each in told] == [("primary", 2), ("primary", 3)]
    end()
    end()
    for uid in ("b", "a", "c"):
        reports.accept_report(uid, "primary", reached=1)
    assert len(told) == 2
    reached = [reports.progress(uid, "primary").reached for uid in "abc"]
    assert reached == [1, 0, 1]  # of the latest two runs


def test_a_stream_that_had_failed_is_not_analyzed_again_by_a_new_worker(tmp_path: Path) -> None:
    run = _SentRun(RawRun({"uid": "a"}, RequiredKeys(("x",), "number", "time")))
    keys = {"x": {"dtype": "number", "shape": []}}
    run.raw("descriptor", {"uid": "d", "name": "primary", "data_keys": keys})
    supervisor = WorkerSupervisor("any", [], tmp_path, WorkerLimits(), lambda *_, **__: None)
    assert supervisor._final_progress(run, "primary") is None
    run.streams["primary"].error = "ZeroDivisionError: frame 3 is cursed"
    assert supervisor._final_progress(run, "primary") == {}
    supervisor.close()


def test_step_and_fly_scans_become_derived_runs(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start()
    RE.subscribe(live)
    uid = RE(bp.count([camera], num=7), sample="lysozyme").run_start_uids[0]
    assert live.announced == 7
    done = live.wait(raw_uid=uid, timeout_s=90)
    assert (done.reached, done.error, done.result["n_frames"]) == (7, "", 7)

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def fly() -> Any:
        yield from bps.declare_stream(camera, name="primary", collect=True)
        yield from bps.kickoff(camera, wait=True)
        yield from bps.collect_while_completing(
            [camera], [camera], flush_period=0.1, stream_name="primary"
        )

    fly_uid = RE(fly()).run_start_uids[0]
    assert live.wait(raw_uid=fly_uid, timeout_s=90).reached == 20
    steps, burst = finished(tmp_path)
    assert steps.start["raw_uid"] == uid
    assert steps.start["raw_scan_id"] == 1
    assert steps.start["purpose"] == "analysis"
    assert steps.start["sample"] == "lysozyme"
    assert steps.start["analysis"]["name"] == "picture_statistics"
    assert steps.start["analysis"]["inputs"]["image"] == "cam_image"
    assert burst.stop is not None
    assert burst.stop["exit_status"] == "success"
    for run, numbers in ((steps, range(1, 8)), (burst, range(8, 28))):
        wanted = expected(numbers)
        assert run.result["mean_level"] == wanted["mean_level"]
        columns = run.columns()
        assert np.frombuffer(columns["identity"], "<i8").tolist() == list(numbers)
        assert np.frombuffer(columns["histogram"], "<i8").tolist() == wanted["histogram"].tolist()
        times = np.frombuffer(columns["frame_time"], "<f8")
        assert times.tolist() == [1e9 + 0.01 * i for i in numbers]


def test_a_plan_can_have_the_rows_while_the_run_goes_on(
    RE: Any, start: Start, camera: StreamingCamera
) -> None:
    live = start()
    RE.subscribe(live)
    found: list[list[int]] = []

    def look(name: str, doc: Any) -> None:
        if name == "event" and doc["seq_num"] in (3, 5):
            rows = live.columns(doc["seq_num"], timeout_s=90)
            found.append(rows["identity"].tolist())
            assert rows["mean"].tolist() == [noise(i).mean() for i in rows["identity"]]

    RE.subscribe(look)
    RE(bp.count([camera], num=5))
    assert found == [[1, 2, 3], [1, 2, 3, 4, 5]]


def test_documents_are_not_changed_and_runs_without_pictures_leave_nothing(
    RE: Any, start: Start, tmp_path: Path
) -> None:
    live = start()
    seen: list[str] = []
    RE.subscribe(live)
    RE.subscribe(lambda name, doc: seen.append(repr(doc)))
    motor = SynAxis(name="motor")
    uid = RE(bp.scan([motor], motor, 0, 1, 3)).run_start_uids[0]
    end = live.wait(raw_uid=uid, timeout_s=90)
    assert (end.derived_uid, end.error, live.raw_uid) == (None, "", None)
    assert not list((tmp_path / "journal").glob("*"))
    assert len(seen) == 6


def test_inputs_from_events_are_joined_by_sequence_number(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start(f"{PATH}:Against")
    RE.subscribe(live)
    angle = SynAxis(name="gonio_angle")
    uid = RE(bp.scan([camera], angle, 0, 90, 10)).run_start_uids[0]
    assert live.wait(raw_uid=uid, timeout_s=90).error == ""
    (run,) = finished(tmp_path)
    assert np.frombuffer(run.columns()["angle"], "<f8").tolist() == list(range(0, 91, 10))


def test_pictures_are_drawn_of_inputs_that_come_in_events(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start(f"{PATH}:DrawsAgainst")
    RE.subscribe(live)
    uid = RE(bp.scan([camera], SynAxis(name="gonio_angle"), 0, 90, 10)).run_start_uids[0]
    assert live.wait(raw_uid=uid, timeout_s=90).error == ""
    (run,) = finished(tmp_path)
    assert len(run.result["pictures"].splitlines()) == 3


def test_failure_of_the_analysis_is_in_its_own_run_and_the_next_run_works(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start(f"{PATH}:Raises", {"at": 5})
    RE.subscribe(live)
    for num in (8, 3):
        result = RE(bp.count([camera], num=num))
        assert result.exit_status == "success"
        live.wait(raw_uid=result.run_start_uids[0], timeout_s=90)
    failed, fine = finished(tmp_path)
    assert failed.stop is not None
    assert failed.stop["exit_status"] == "fail"
    assert failed.stop["reason"] == "ZeroDivisionError: frame 5 is cursed"
    assert fine.stop is not None
    assert fine.stop["exit_status"] == "success"
    assert fine.result["n_frames"] == 3
    assert live.progress(failed.start["raw_uid"]).error == failed.stop["reason"]


def test_what_an_analysis_prints_is_no_message_of_the_worker(
    RE: Any, start: Start, camera: StreamingCamera, tmp_path: Path
) -> None:
    live = start(f"{PATH}:Prints")
    RE.subscribe(live)
    for num in (3, 2):
        uid = RE(bp.count([camera], num=num)).run_start_uids[0]
        assert live.wait(raw_uid=uid, timeout_s=90).done
    assert [run.result["n_frames"] for run in finished(tmp_path)] == [3, 2]


def test_each_fitting_stream_has_a_derived_run_of_its_own(
    RE: Any, start: Start, tmp_path: Path
) -> None:
    """Also of a camera that is in two streams, and when one analysis fails or its worker dies."""
    left, right = (StreamingCamera(name, tmp_path / "assets") for name in ("left", "right"))
    live, fails = start(), start(f"{PATH}:Raises", {"at": 4})
    RE.subscribe(live)
    RE.subscribe(fails)

    @bpp.stage_decorator([left, right])
    @bpp.run_decorator()
    def plan() -> Any:
        for _ in range(3):
            yield from bps.trigger_and_read([left], name="lefts")
        for _ in range(5):
            yield from bps.trigger_and_read([right], name="rights")
        kill(live)
        for _ in range(2):
            yield from bps.trigger_and_read([left], name="more")
        yield from bps.trigger_and_read([SynAxis(name="n_flat_image")], name="decision")

    uid = RE(plan()).run_start_uids[0]
    ends = {"lefts": 3, "rights": 5, "more": 2}
    assert live.wait(raw_uid=uid, timeout_s=90).stream == "lefts"
    assert {name: live.progress(uid, name).result["n_frames"] for name in ends} == ends
    assert live.columns(raw_uid=uid, stream="more")["identity"].tolist() == [4, 5]
    fails.wait(raw_uid=uid, timeout_s=90)
    errors = [fails.progress(uid, name).error for name in ends]
    assert ["cursed" in error for error in errors] == [False, True, True]
    derived = {live.progress(uid, name).derived_uid: name for name in ends}
    stored = {run.start["uid"]: run.start["analysis"]["stream"] for run in finished(tmp_path)}
    assert {each: stored[each] for each in derived if each} == derived


def test_documents_for_a_new_worker_are_joined_only_where_rows_go_on() -> None:
    sent = _SentRun(RawRun({"uid": "a"}, RequiredKeys(("image",), "number", "time")))
    rows = [("dark", 0, 1), ("dark", 1, 2), ("dark", 2, 3)]
    rows += [("dark", 4, 4), ("dark", 5, 4), ("primary", 6, 5), ("primary", 7, 6)]
    for descriptor, index, seq_num in rows:
        ranges = {"indices": {"start": index, "stop": index + 1}}
        ranges |= {"seq_nums": {"start": seq_num, "stop": seq_num + 1}}
        sent.remember("stream_datum", {"stream_resource": "r", "descriptor": descriptor, **ranges})
    for number in (1, 2):
        sent.remember("request", {"raw_uid": "a", "number": number, "frames": 7})
    descriptor = {"uid": "d", "name": "dark", "data_keys": {"image": {"external": "STREAM:"}}}
    sent.raw("descriptor", descriptor)
    sent.streams["dark"].done = True
    done, *datums, request = sent.documents
    assert done == ("done_streams", {"raw_uid": "a", "names": ["dark"]})
    found = [(doc["descriptor"], doc["indices"], doc["seq_nums"]) for _, doc in datums]
    assert found == [
        ("dark", {"start": 0, "stop": 3}, {"start": 1, "stop": 4}),
        ("dark", {"start": 4, "stop": 5}, {"start": 4, "stop": 5}),  # a row is left out
        ("dark", {"start": 5, "stop": 6}, {"start": 4, "stop": 5}),  # taken again
        ("primary", {"start": 6, "stop": 8}, {"start": 5, "stop": 7}),
    ]
    assert request == ("request", {"raw_uid": "a", "number": 2, "frames": 7})


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


def test_ambiguous_inputs_are_said_in_the_derived_run(
    RE: Any, start: Start, tmp_path: Path
) -> None:
    cameras = [StreamingCamera(name, tmp_path / "assets") for name in ("left", "right")]
    live, told = start(), start(keys={"image": "right_image"})
    RE.subscribe(live)
    RE.subscribe(told)
    uid = RE(bp.count(cameras, num=2)).run_start_uids[0]
    assert "left_image, right_image all fit the input 'image'" in live.wait(raw_uid=uid).error
    assert told.wait(raw_uid=uid).result["n_frames"] == 2


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
    image = {"source": "", "dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1"}
    keys = {"cam_image": {**image, "external": "STREAM:"}}
    raw("descriptor", {"uid": "b", "run_start": "a", "name": "primary", "data_keys": keys})
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
    image = {"source": "", "dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1"}
    keys = {"cam_image": {**image, "external": "STREAM:"}}
    raw("descriptor", {"uid": "b", "run_start": "a", "name": "primary", "data_keys": keys})
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
    image = {"source": "", "dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1"}
    keys = {"cam_image": {**image, "external": "STREAM:"}}
    descriptor = {"uid": "b", "run_start": "a", "name": "primary", "data_keys": keys}
    supervisor._worker = SimpleNamespace(stdin=Mock(), returncode=-9)  # type: ignore[assignment]
    supervisor.ready.set()
    monkeypatch.setattr(supervisor, "_send", lambda *_: None)
    supervisor._forward("start", {"uid": "a"}, raw)
    raw("descriptor", descriptor)  # by the RunEngine's thread
    if is_sent:
        supervisor._forward("descriptor", descriptor, raw)
    supervisor._take_death()
    assert ended == (["the worker died again (status -9)"] if is_sent else [])
    assert len(caplog.records) == 1
    if not is_sent:
        supervisor._forward("descriptor", descriptor, raw)
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


def test_a_session_that_ends_hears_how_its_last_run_ended(
    RE: Any, start: Start, camera: StreamingCamera
) -> None:
    live = start()
    live.wait_ready()
    RE.subscribe(live)
    uid = RE(bp.count([camera], num=3)).run_start_uids[0]
    live.close()  # before the worker had time to say so
    end = live.progress(uid)
    assert (end.done, end.error, end.result["n_frames"]) == (True, "", 3)


def test_nobody_waits_for_a_run_that_the_end_of_the_session_cut_off(
    RE: Any, start: Start, camera: StreamingCamera
) -> None:
    live = start()
    live.wait_ready()
    RE.subscribe(live)

    def close(name: str, doc: Any) -> None:
        if name == "event" and doc["seq_num"] == 2:
            live.close()

    RE.subscribe(close)
    uid = RE(bp.count([camera], num=3)).run_start_uids[0]
    end = live.wait(raw_uid=uid, timeout_s=90)
    assert "the session ended" in end.error


def test_what_a_subscriber_raises_harms_nobody(
    RE: Any, start: Start, camera: StreamingCamera
) -> None:
    live = start()
    heard = threading.Event()

    def careless(progress: Any) -> None:
        heard.set()
        raise RuntimeError("a display")

    unsubscribe = live.subscribe(careless)
    RE.subscribe(live)
    uid = RE(bp.count([camera], num=2)).run_start_uids[0]
    assert live.wait(raw_uid=uid).result["n_frames"] == 2
    assert heard.is_set()
    unsubscribe()
    unsubscribe()


def test_a_broken_document_ends_nothing(start: Start) -> None:
    live = start()
    live("start", {"uid": "a"})
    live("descriptor", {"uid": "b", "run_start": "a"})
    live("stream_datum", {})
    live("event", {"descriptor": "b"})
    live("nonsense", {})


def test_waiting_in_vain_names_the_analysis(start: Start) -> None:
    live = start(limits=BacklogLimits(max_behind_s=5))
    with pytest.raises(TimeoutError, match="analysis picture_statistics: reached 0 frames"):
        live.wait(3, timeout_s=0.01)
