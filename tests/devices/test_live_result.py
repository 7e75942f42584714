"""A plan that waits for the analysis of the present frame, and what it is told when it cannot."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky.plans import count
from bluesky.protocols import Readable, Triggerable
from bluesky.utils import FailedStatus
from ophyd.status import wait
from support.odd_analyses import PATH
from support.streaming import StreamingCamera, noise

from devices.live_result import LiveResult
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.reports import Progress, Reports
from skywright.errors import ConfigError, HardwareError
from skywright.files.columns import Column


def look_and_decide(camera: Any, result: Any, num: int, seen: list[float]) -> Any:
    """Take a picture, wait for what the analysis says of it, decide."""

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def plan() -> Any:
        for _ in range(num):
            yield from bps.trigger_and_read([camera])
            yield from bps.trigger(result, wait=True)
            yield from bps.create("decision")
            reading = yield from bps.read(result)
            yield from bps.save()
            seen.append(reading[f"{result.name}_mean_level"]["value"])

    return plan()


def test_each_decision_is_made_on_the_present_frame(
    RE: Any, start: Any, camera: StreamingCamera
) -> None:
    live = start()
    result = LiveResult(live, "live", hinted=["mean_level"])
    assert isinstance(result, Readable)
    assert isinstance(result, Triggerable)
    RE.subscribe(live)
    documents: list[Any] = []
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    seen: list[float] = []
    RE(look_and_decide(camera, result, 5, seen))
    means = [noise(i).astype(np.float64).mean() for i in range(1, 6)]
    assert seen == [np.mean(means[: i + 1]) for i in range(5)]
    decisions = next(d for n, d in documents if n == "descriptor" and d["name"] == "decision")
    key = decisions["data_keys"]["live_mean_level"]
    assert (key["dtype"], key["units"], key["source"]) == (
        "number",
        "gray levels",
        "ANALYSIS:picture_statistics",
    )
    assert decisions["hints"]["live"]["fields"] == ["live_mean_level"]
    assert decisions["configuration"]["live"]["data"]["live_analysis"] == "picture_statistics"


def test_keys(start: Any) -> None:
    result = LiveResult(start("loop_detection"), "loop")
    keys = result.describe()
    assert set(keys) == set(result.read())
    assert {"loop_last_tip_x", "loop_kind", "loop_n_found", "loop_n_frames"} <= set(keys)
    assert keys["loop_last_tip_x"]["units"] == "px"
    assert all("description" in key for key in keys.values())
    assert set(result.read_configuration()) == set(result.describe_configuration())
    reading = result.read()  # nothing yet: missing is missing
    assert np.isnan(reading["loop_last_tip_x"]["value"])
    assert reading["loop_kind"]["value"] == ""


def declared(dtype: str) -> Reports:
    """Reports of an analysis with one scalar result of a dtype."""

    class Flagged(PictureStatistics):
        results = (Column("flag", dtype),)

    return Reports("flagged", Flagged)


def test_a_boolean_is_read_only_when_it_is_known() -> None:
    """Before, it was False, which looks like a value."""
    result = LiveResult(declared("|b1"), "live")
    assert result.describe()["live_flag"]["dtype"] == "boolean"
    with pytest.raises(HardwareError, match=r"live_flag can only be true or false: trigger live"):
        result.read()
    result._reached = Progress("a", result={"flag": False})
    assert result.read()["live_flag"]["value"] is False


def test_a_missing_count_is_below_zero_and_a_value_has_the_time_of_its_report() -> None:
    result = LiveResult(declared("<f8"), "live")
    reading = result.read()
    assert reading["live_n_frames"]["value"] == -1
    assert np.isnan(reading["live_flag"]["value"])
    result._reached = Progress("a", time=5.0, result={"flag": 2.0})
    assert result.read()["live_flag"] == {"value": 2.0, "timestamp": 5.0}
    configuration = result.read_configuration()
    assert configuration["live_analysis"]["value"] == "flagged"
    assert configuration["live_version"]["value"] == PictureStatistics.version


@pytest.mark.parametrize("dtype", ["|u1", "<u8", "<c16", "|S4"])
def test_a_result_without_a_missing_value_is_refused(dtype: str) -> None:
    with pytest.raises(ConfigError, match="live: result flag of analysis flagged is declared as"):
        LiveResult(declared(dtype), "live")


def test_too_slow_an_analysis_is_named(RE: Any, start: Any, camera: StreamingCamera) -> None:
    live = start(f"{PATH}:Slow", {"seconds": 3})
    result = LiveResult(live, "live", timeout_s=0.2)
    RE.subscribe(live)
    with pytest.raises(FailedStatus) as failure:
        RE(look_and_decide(camera, result, 1, []))
    assert "made no progress for 0.2 s; it is at frame 0 of 1" in repr(failure.value.__cause__)
    assert "Slow" in repr(failure.value.__cause__)


class Snail:
    """An analysis that has got one frame further whenever somebody looks."""

    name, analysis, raw_uid, announced = "snail", PictureStatistics(), "a", 5
    is_starting, is_running = False, True

    def __init__(self) -> None:
        self.reached = 0
        self.told: Any = None

    def request_result(self, _: int) -> int:
        return 0

    def subscribe(self, callback: Any) -> Any:
        self.told = callback
        return lambda: None

    def progress(self, uid: str) -> Progress:
        self.reached += 1
        if self.reached == self.announced:
            self.told(Progress(uid, reached=self.reached))
        return Progress(uid, reached=self.reached)


def test_a_slow_analysis_is_not_given_up_while_it_goes_on() -> None:
    snail: Any = Snail()
    LiveResult(snail, "live", timeout_s=0.01).trigger().wait(30)
    assert snail.reached == 5


def test_a_decision_has_a_bound_however_slowly_the_analysis_goes_on() -> None:
    snail: Any = Snail()
    snail.announced = 10**9
    status = LiveResult(snail, "live", timeout_s=0.01, limit_s=0.1).trigger()
    with pytest.raises(HardwareError, match=r"analysis snail is at frame \d+ of 1000000000 after"):
        status.wait(60)


def test_a_limit_below_the_timeout_holds() -> None:
    snail: Any = Snail()
    snail.announced = 10**9
    status = LiveResult(snail, "live", timeout_s=3600.0, limit_s=0.1).trigger()
    with pytest.raises(HardwareError, match=r"analysis snail is at frame \d+ of 1000000000 after"):
        status.wait(20)


def test_a_failed_analysis_is_named_at_once(RE: Any, start: Any, camera: StreamingCamera) -> None:
    live = start(f"{PATH}:Raises", {"at": 2})
    result = LiveResult(live, "live", timeout_s=30)
    RE.subscribe(live)
    seen: list[float] = []
    with pytest.raises(FailedStatus) as failure:
        RE(look_and_decide(camera, result, 3, seen))
    assert len(seen) == 1
    assert "failed: ZeroDivisionError: frame 2 is cursed" in repr(failure.value.__cause__)


def test_a_fault_of_the_configuration_is_raised_as_one(
    RE: Any, start: Any, camera: StreamingCamera
) -> None:
    live = start(f"{PATH}:Misconfigured")
    result = LiveResult(live, "live", timeout_s=30)
    RE.subscribe(live)
    with pytest.raises(FailedStatus) as failure:
        RE(look_and_decide(camera, result, 1, []))
    assert isinstance(failure.value.__cause__, ConfigError)
    assert "there is no calibration" in str(failure.value.__cause__)


def test_the_camera_may_know_of_frames_before_the_documents(
    RE: Any, start: Any, camera: StreamingCamera
) -> None:
    """Fly scan: the frames are taken, the documents come later, the result waits for both."""
    live = start()
    result = LiveResult(live, "live", present=camera.get_index)
    RE.subscribe(live)
    reached: list[int] = []

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def fly() -> Any:
        yield from bps.declare_stream(camera, name="primary", collect=True)
        yield from bps.kickoff(camera, wait=True)
        yield from bps.collect(camera, name="primary")
        yield from bps.kickoff(camera, wait=True)
        yield from bps.trigger(result, group="result")
        yield from bps.collect(camera, name="primary")
        yield from bps.wait("result")
        reached.append(result.read()["live_n_frames"]["value"])

    RE(fly())
    assert reached == [40]


def test_without_a_frame_there_is_nothing_to_wait_for(start: Any) -> None:
    status = LiveResult(start(), "live").trigger()
    with pytest.raises(HardwareError, match="no frame to analyze with picture_statistics yet"):
        wait(status, timeout=1)


def test_pictures_of_two_cameras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skywright.callbacks.live.WorkerSupervisor", Mock())
    live = LiveAnalysis("picture_statistics", journal=tmp_path, assets=tmp_path)
    key = {"dtype": "array", "shape": [4, 5], "external": "STREAM:", "source": "x"}
    descriptor = {"uid": "d", "run_start": "r", "name": "primary"}
    live("start", {"uid": "r", "time": 1.0})
    live("descriptor", {**descriptor, "data_keys": {"a_image": key, "b_image": key}})
    with pytest.raises(HardwareError, match="a_image, b_image all fit the input 'image'"):
        wait(LiveResult(live, "live").trigger(), timeout=1)


def test_a_stream_that_cannot_be_used_does_not_stand_for_the_next_one(
    RE: Any, start: Any, tmp_path: Path
) -> None:
    """Two cameras are read together, then one of them alone; a decision is on the latter."""
    live = start()
    RE.subscribe(live)
    cameras = [StreamingCamera(name, tmp_path / "assets") for name in ("a", "b")]
    result = LiveResult(live, "live")

    @bpp.stage_decorator(cameras)
    @bpp.run_decorator()
    def plan() -> Any:
        yield from bps.trigger_and_read(cameras, name="both")
        for _ in range(2):
            yield from bps.trigger_and_read(cameras[:1])
        yield from bps.trigger(result, wait=True)

    uid = RE(plan()).run_start_uids[0]
    assert result.read()["live_n_frames"]["value"] == 2
    assert live.progress().stream == "primary"
    assert "a_image, b_image all fit" in live.wait(raw_uid=uid, stream="both").error


def test_a_result_of_an_earlier_run_is_none_of_this_run(
    RE: Any, start: Any, camera: StreamingCamera
) -> None:
    """A run without pictures has no decision on those of the run before."""
    live = start()
    RE.subscribe(live)
    RE(look_and_decide(camera, LiveResult(live, "live"), 2, []))
    with pytest.raises(FailedStatus) as failure:
        RE(count([LiveResult(live, "live")]))
    assert "no frame to analyze with picture_statistics yet" in repr(failure.value.__cause__)


def test_decisions_behind_a_slow_analysis_do_not_get_later_and_later(
    RE: Any, start: Any, camera: StreamingCamera
) -> None:
    """The analysis takes four times as long as there is; it goes to the newest frame each time."""
    frame_s, limit_s, burst = 0.02, 0.2, 40
    camera.burst = burst
    live = start(f"{PATH}:Slow", {"seconds": frame_s})
    live.wait_ready()
    result = LiveResult(live, "live", present=camera.get_index, timeout_s=30.0)
    RE.subscribe(live)
    seen: list[dict[str, Any]] = []

    @bpp.stage_decorator([camera])
    @bpp.run_decorator(md={"decision_limit_s": limit_s})
    def fly() -> Any:
        yield from bps.declare_stream(camera, name="primary", collect=True)
        for _ in range(4):
            yield from bps.kickoff(camera, wait=True)
            yield from bps.trigger(result, group="result")
            yield from bps.collect(camera, name="primary")
            yield from bps.wait("result")
            seen.append({key: each["value"] for key, each in result.read().items()})

    RE(fly())
    assert [each["live_last_identity"] for each in seen] == [burst * k for k in range(1, 5)]
    analyzed = np.diff([each["live_n_frames"] for each in seen])
    assert max(analyzed) <= limit_s / frame_s  # of 40; the time of a frame is known by then
    assert seen[-1]["live_n_frames"] + seen[-1]["live_n_dropped"] == 4 * burst


RESTARTS = 5


class StartingReports(Reports):
    """A worker that is ready when it has been asked `turns` times, and then has the result."""

    raw_uid = "run"
    announced = 1
    is_running = True  # type: ignore[assignment]

    def __init__(self, turns: float) -> None:
        super().__init__("slow", PictureStatistics)
        self.turns = turns

    @property
    def is_starting(self) -> bool:
        self.turns -= 1
        return self.turns > 0

    def request_result(self, frames: int) -> int:
        return 0

    def progress(self, raw_uid: str | None = None) -> Progress:
        return Progress("run", reached=int(self.turns <= 0))

    def subscribe(self, function: Any) -> Any:
        return lambda: None


def test_the_time_in_which_the_worker_starts_does_not_count() -> None:
    reports = StartingReports(5)
    status = LiveResult(reports, timeout_s=0.05, limit_s=0.1).trigger()
    with pytest.raises(HardwareError):  # nobody tells it of the progress
        status.wait(60)
    assert reports.turns < 1


class RestartingReports(StartingReports):
    """A worker that dies after the first question, and is then ready after `turns`."""

    @property
    def is_starting(self) -> bool:
        was_asked = self.turns < RESTARTS
        return super().is_starting and was_asked


def test_a_worker_that_is_started_again_has_its_time_to_start() -> None:
    reports = RestartingReports(RESTARTS)
    status = LiveResult(reports, timeout_s=0.05, limit_s=0.1).trigger()
    with pytest.raises(HardwareError):  # nobody tells it of the progress
        status.wait(60)
    assert reports.turns < 1


def test_a_worker_that_never_starts_is_named_as_starting() -> None:
    status = LiveResult(StartingReports(np.inf), timeout_s=0.01, start_limit_s=0.1).trigger()
    with pytest.raises(HardwareError, match=r"frame 0 of 1.*its worker is still starting"):
        status.wait(60)
