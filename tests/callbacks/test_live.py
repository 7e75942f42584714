"""LiveAnalysis under a real RunEngine: files, processes and signals are real."""

import inspect
import threading
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from ophyd.sim import SynAxis
from support.live import Start, expected, finished, kill
from support.odd_analyses import PATH
from support.streaming import StreamingCamera, noise
from support.waiting import until

from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks import reports as reports_module
from skywright.callbacks import worker_supervisor
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.reports import Progress, Reports
from skywright.callbacks.stream_analysis import BacklogLimits
from skywright.callbacks.worker_supervisor import (
    WorkerLimits,
    WorkerSupervisor,
    _SentRun,
)


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
