"""The worker process by itself: documents on stdin, files beside, derived runs in journals."""

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import event_model
import numpy as np
import pytest
from support import forked
from support.composed import ComposedRun
from support.derived import Derived, read_derived
from support.odd_analyses import PATH
from support.second_stages import SlopeRun, SlopeStage
from support.streaming import NUMBER, PICTURE, TIME, FrameFile, noise

from skywright.analysis.second import Document
from skywright.callbacks import worker
from skywright.callbacks.journal import Journal, encode_line
from skywright.callbacks.stream_analysis import BacklogLimits
from skywright.callbacks.worker_supervisor import PARAMETERS

SHAPE = (48, 64)


def command(directory: Path, *arguments: str) -> list[str]:
    places = ["--journal", str(directory / "journal"), "--assets", str(directory / "assets")]
    return [sys.executable, "-m", "skywright.callbacks.worker", *arguments, *places]


class Fed:
    """A worker under test, and a raw run's documents made by hand."""

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        self.directory = directory
        self.process = forked.start(
            command(directory, name, *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert "ready" in self.read()

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def send(self, name: str, doc: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encode_line(name, doc))
        self.process.stdin.flush()

    def until(self, what: str, reached: int = 0) -> dict[str, Any]:
        while True:
            kind, facts = self.read()
            if kind == what and facts["reached"] >= reached:
                return facts

    def end(self) -> Derived:
        """Close stdin and return the one derived run."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(90) == 0
        (run,) = read_derived(self.directory / "journal")
        return run


class FilledPipe:
    """The pipe of a worker in this process, with all that the session sends; drops messages."""

    def __init__(self) -> None:
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def send(self, name: str, doc: Any) -> None:
        if name not in ("progress", "stream_done", "run_done"):
            self.lines.put(encode_line(name, doc))

    def end(self) -> None:
        self.lines.put(None)


class Raw(ComposedRun):
    """A raw run whose documents go to a worker."""

    def __init__(
        self,
        to: Fed | FilledPipe,
        metadata: dict[str, Any] | None = None,
        *,
        keys: tuple[str, ...] = (),
        external: bool = True,
    ) -> None:
        super().__init__(to.send, metadata={"scan_id": 3, **(metadata or {})})
        stream = {"dtype": "array", "external": "STREAM:"}
        images = {
            "cam_image": {**stream, "shape": list(SHAPE), "dtype_numpy": "|u1"},
            "cam_frame_number": {**stream, "dtype_numpy": "<i4"},
            "cam_frame_time": {**stream, "dtype_numpy": "<f8"},
        }
        scalars = {key: {"dtype": "number"} for key in keys}
        self.stream("primary", **(images if external else {}), **scalars)
        self.resources: list[Any] = []
        self.told = 0

    def use(self, file: FrameFile) -> None:
        self.resources = [
            self.file(f"cam_{key}", file.path, dataset=path, chunk_shape=[1])
            for key, path in (("image", PICTURE), ("frame_number", NUMBER), ("frame_time", TIME))
        ]

    def write(self, file: FrameFile, frames: int) -> Self:
        """Use a file, and write the first frames."""
        self.use(file)
        fill(file, range(1, frames + 1))
        return self

    def tell(self, start: int, stop: int) -> None:
        for each in self.resources:
            self.rows(each, (start, stop, self.told + 1))
        self.told += stop - start

    def stop(self) -> None:
        self.emit("stop", self.run.compose_stop())


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Fed]]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    fed: list[Fed] = []

    def feed(name: str = "picture_statistics", *options: str, **parameters: Any) -> Fed:
        monkeypatch.setenv(PARAMETERS, json.dumps(parameters))
        fed.append(Fed(tmp_path, name, *options))
        return fed[-1]

    yield feed
    for each in fed:
        each.process.kill()
        each.process.wait()
        assert each.process.stdout is not None
        assert each.process.stdin is not None
        each.process.stdout.close()
        each.process.stdin.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FrameFile]:
    file = FrameFile(tmp_path / "frames.h5", SHAPE)
    yield file
    file.close()


def fill(file: FrameFile, numbers: range, **options: Any) -> None:
    for number in numbers:
        file.append(number, noise(number, SHAPE), **options)


def identities(run: Derived) -> list[int]:
    return np.frombuffer(run.columns()["identity"], "<i8").tolist()


def test_frames_announced_before_they_are_flushed_are_waited_for(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed()
    raw = Raw(fed).write(file, 3)
    fill(file, range(4, 6), flush=False)
    raw.tell(0, 5)
    assert fed.until("progress", 3)["reached"] == 3
    raw.stop()
    file.flush()
    done = fed.until("stream_done")
    assert (done["reached"], done["result"]["n_missing"]) == (5, 0)
    assert identities(fed.end()) == [1, 2, 3, 4, 5]


def test_frames_that_never_come_are_missing_and_not_zero(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed("picture_statistics", "--catch-up", "1")
    raw = Raw(fed).write(file, 3)
    raw.tell(0, 5)
    raw.stop()
    done = fed.until("stream_done")
    assert (done["result"]["n_frames"], done["result"]["n_missing"]) == (3, 2)
    run = fed.end()
    assert identities(run) == [1, 2, 3]
    assert run.result["n_missing"] == 2


def test_a_file_that_does_not_exist_fails_the_derived_run(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed("picture_statistics", "--catch-up", "0.1")
    raw = Raw(fed)
    raw.use(file)
    file.path.unlink()
    raw.tell(0, 2)
    raw.stop()
    assert "frames.h5: cannot be read" in fed.until("stream_done")["error"]
    stop = fed.end().stop
    assert stop is not None
    assert stop["exit_status"] == "fail"


@pytest.mark.parametrize(("limit_s", "metadata"), [("0.2", {}), ("9", {"decision_limit_s": 0.2})])
def test_far_behind_frames_are_skipped_and_counted(
    feed: Callable[..., Fed], file: FrameFile, limit_s: str, metadata: dict[str, Any]
) -> None:
    fed = feed(f"{PATH}:Slow", "--max-behind", limit_s, seconds=0.02)
    raw = Raw(fed, metadata).write(file, 60)
    for frame in range(8):  # one by one: none waits, so none is skipped
        raw.tell(frame, frame + 1)
        fed.until("progress", frame + 1)  # the worker learns how long a frame takes
    raw.tell(8, 60)
    fed.until("progress", 60)
    raw.stop()
    run = fed.end()
    seen = identities(run)
    assert run.result["n_frames"] == len(seen) == 60 - run.result["n_dropped"] < 50
    assert (seen[:8], seen[-1]) == (list(range(1, 9)), 60)


def test_the_limit_of_a_decision_is_for_all_batches_together(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed(f"{PATH}:Slow", seconds=0.02)
    raw = Raw(fed, {"decision_limit_s": 0.4}).write(file, 408)
    for frame in range(8):  # the worker learns how long a frame takes
        raw.tell(frame, frame + 1)
        fed.until("progress", frame + 1)
    raw.tell(8, 408)
    fed.send("request", {"raw_uid": raw.uid, "number": 1, "frames": 408})
    fed.until("progress", 408)
    raw.stop()
    # 20 frames in 0.4 s, and a batch of 12 that may have begun before the request. The whole limit
    # for the frames after each batch would be 52.
    assert 8 < fed.end().result["n_frames"] <= 8 + 12 + 20


def test_an_analysis_that_needs_all_frames_skips_none(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed(f"{PATH}:SlowAndWhole", seconds=0.005)
    raw = Raw(fed, {"decision_limit_s": 0}).write(file, 60)
    raw.tell(0, 60)
    assert fed.until("progress", 60)["result"]["n_dropped"] == 0


def test_what_had_gathered_before_the_worker_came_is_not_skipped(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed("picture_statistics", "--max-behind", "0.001")
    raw = Raw(fed).write(file, 60)
    raw.tell(0, 60)
    raw.stop()
    assert fed.until("stream_done")["result"]["n_frames"] == 60


def test_only_what_had_gathered_before_the_worker_came_is_not_skipped(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed(f"{PATH}:Slow", "--max-behind", "0.1", seconds=0.02)
    raw = Raw(fed).write(file, 100)
    raw.tell(0, 40)
    fed.until("progress", 10)
    raw.tell(40, 100)
    fed.until("progress", 100)
    raw.stop()
    seen = identities(fed.end())
    assert seen[:40] == list(range(1, 41))
    assert len(seen) < 80


def test_a_worker_that_waits_for_frames_says_that_it_lives(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed()
    raw = Raw(fed).write(file, 3)
    raw.tell(0, 5)
    fed.until("progress", 3)
    for _ in range(2):
        kind, facts = fed.read()
        assert (kind, facts["reached"]) == ("progress", 3)


def test_after_the_limit_the_rest_is_left_and_counted(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed(f"{PATH}:Slow", "--catch-up", "0.1", seconds=0.02)
    raw = Raw(fed).write(file, 60)
    raw.tell(0, 60)
    raw.stop()
    result = fed.until("stream_done")["result"]
    assert result["n_dropped"] > 0
    assert result["n_frames"] + result["n_dropped"] == 60


def test_an_analysis_that_needs_all_frames_goes_on_after_the_limit(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed(f"{PATH}:SlowAndWhole", "--catch-up", "0.1", seconds=0.02)
    raw = Raw(fed).write(file, 60)
    raw.tell(0, 62)  # two never come
    raw.stop()
    result = fed.until("stream_done")["result"]
    assert (result["n_frames"], result["n_dropped"], result["n_missing"]) == (60, 0, 2)


def test_results_may_have_an_infinite_period(feed: Callable[..., Fed], file: FrameFile) -> None:
    fed = feed(f"{PATH}:SaysMoreAtTheEnd")
    raw = Raw(fed).write(file, 5)
    for frame in range(5):
        raw.tell(frame, frame + 1)
        fed.until("progress", frame + 1)
    raw.stop()
    assert fed.until("stream_done")["result"]["n_frames"] == 5
    assert [event["data"]["n_frames"] for event in fed.end().of("event")] == [1, 5]


@pytest.mark.parametrize("how", ["eof", "sigterm"])
def test_end_of_the_session_interrupts_the_derived_run(
    feed: Callable[..., Fed], file: FrameFile, how: str
) -> None:
    fed = feed()
    raw = Raw(fed).write(file, 5)
    raw.tell(0, 5)
    fed.until("progress", 5)
    if how == "sigterm":
        fed.process.send_signal(signal.SIGTERM)
        assert fed.process.wait(90) == 0
    run = fed.end()
    assert run.stop is not None
    assert run.stop["exit_status"] == "abort"
    assert run.stop["reason"].startswith("interrupted")
    assert run.result["n_frames"] == 5


def test_frames_that_get_visible_after_the_end_of_the_session_are_analyzed(
    file: FrameFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose file does not exist takes no time from it."""
    session = FilledPipe()
    missing = Raw(session)
    missing.use(SimpleNamespace(path=tmp_path / "missing.h5"))
    missing.tell(0, 2)
    missing.stop()
    raw = Raw(session).write(file, 3)
    fill(file, range(4, 6), flush=False)
    raw.tell(0, 5)
    raw.stop()
    session.end()
    monkeypatch.setattr(worker, "pause", lambda _: file.flush())
    monkeypatch.setattr(worker, "REMAINING_FRAMES_LIMIT_S", 0.5)
    journal = Journal(tmp_path / "journal")
    name, limits = "picture_statistics", BacklogLimits()
    worker.Worker(name, {}, {}, journal, tmp_path / "assets", limits, {}, session).run()
    journal.close()
    runs = {run.start["raw_uid"]: run for run in read_derived(tmp_path / "journal")}
    assert runs[missing.uid].stop["exit_status"] == "abort"
    assert runs[raw.uid].stop["exit_status"] == "success"
    assert identities(runs[raw.uid]) == [1, 2, 3, 4, 5]


def test_frames_go_on_in_another_file_and_in_the_middle_of_one(
    feed: Callable[..., Fed], file: FrameFile, tmp_path: Path
) -> None:
    fed = feed()
    fill(file, range(1, 11))
    other = FrameFile(tmp_path / "next.h5", SHAPE)
    fill(other, range(11, 14))
    raw = Raw(fed)
    raw.use(file)
    raw.tell(4, 8)
    raw.tell(8, 10)
    raw.use(other)
    raw.tell(0, 3)
    raw.stop()
    fed.until("stream_done")
    other.close()
    assert identities(fed.end()) == list(range(5, 14))


def test_events_and_event_pages_say_the_same(feed: Callable[..., Fed], file: FrameFile) -> None:
    fed = feed(f"{PATH}:Against")
    raw = Raw(fed, keys=("angle",)).write(file, 4)
    raw.tell(0, 4)
    for value in (10.0, 20.0):
        raw.event(angle=value)
    page = event_model.pack_event_page(
        *(
            raw.streams["primary"].compose_event(data={"angle": value}, timestamps={"angle": 0.0})
            for value in (30.0, 40.0)
        )
    )
    fed.send("event_page", page)
    raw.stop()
    fed.until("stream_done")
    assert np.frombuffer(fed.end().columns()["angle"], "<f8").tolist() == [10, 20, 30, 40]


def test_a_frame_without_its_event_is_missing(feed: Callable[..., Fed], file: FrameFile) -> None:
    fed = feed(f"{PATH}:Against")
    raw = Raw(fed, keys=("angle",)).write(file, 3)
    raw.tell(0, 3)
    raw.event(angle=1.0)
    raw.stop()
    result = fed.until("stream_done")["result"]
    assert (result["n_frames"], result["n_missing"]) == (1, 2)


@pytest.mark.parametrize(
    ("catch_up_s", "analyzed", "dropped"), [(60.0, [1, 2, 3, 5, 6, 8, 9], 0), (0.0, [1], 6)]
)
def test_frames_after_one_without_its_event_are_analyzed(
    file: FrameFile, tmp_path: Path, catch_up_s: float, analyzed: list[int], dropped: int
) -> None:
    session = FilledPipe()
    raw = Raw(session, keys=("angle",)).write(file, 10)
    raw.tell(0, 10)
    for number in (1, 2, 3, 5, 6, 8, 9):
        raw.event(seq_num=number, angle=float(number))
    raw.stop()
    session.end()
    journal = Journal(tmp_path / "journal")
    places = (journal, tmp_path / "assets")
    limits = BacklogLimits(catch_up_s=catch_up_s)
    worker.Worker(f"{PATH}:Against", {}, {}, *places, limits, {}, session).run()
    journal.close()
    (run,) = read_derived(tmp_path / "journal")
    assert identities(run) == analyzed
    assert (run.result["n_missing"], run.result["n_dropped"]) == (3, dropped)


def test_a_frame_that_is_taken_again_after_a_pause_has_the_event_of_its_number_too(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    """A pause cuts off a trigger; its frame and that of the repeated trigger have one event."""
    fed = feed(f"{PATH}:Against")
    raw = Raw(fed, keys=("angle",)).write(file, 3)
    for row, number in enumerate((1, 1, 2)):
        raw.told = number - 1
        raw.tell(row, row + 1)
        if row != 0:
            raw.event(seq_num=number, angle=float(number))
    raw.stop()
    result = fed.until("stream_done")["result"]
    assert (result["n_frames"], result["n_missing"]) == (3, 0)
    assert np.frombuffer(fed.end().columns()["angle"]).tolist() == [1.0, 1.0, 2.0]


def test_a_second_stage_gets_the_documents_after_the_start(file: FrameFile, tmp_path: Path) -> None:
    names: list[str] = []

    class NotingRun(SlopeRun):
        def __call__(self, name: str, doc: Document) -> None:
            names.append(name)

    class NotingStage(SlopeStage):
        def begin_run(self, start: Document) -> NotingRun:
            return NotingRun(start)

    session = FilledPipe()
    raw = Raw(session)
    raw.use(file)
    raw.stop()
    session.end()
    journal, stages = Journal(tmp_path / "journal"), {"slope": NotingStage()}
    places = (journal, tmp_path / "assets")
    worker.Worker("picture_statistics", {}, {}, *places, BacklogLimits(), stages, session).run()
    journal.close()
    assert names == ["descriptor", *["stream_resource"] * 3, "stop"]


def test_interleaved_runs_are_kept_apart(
    feed: Callable[..., Fed], file: FrameFile, tmp_path: Path
) -> None:
    fed = feed()
    other = FrameFile(tmp_path / "other.h5", SHAPE)
    fill(file, range(1, 4))
    fill(other, range(100, 105))
    one, two = Raw(fed), Raw(fed)
    one.use(file)
    two.use(other)
    one.tell(0, 2)
    two.tell(0, 5)
    one.tell(2, 3)
    two.stop()
    assert fed.until("stream_done")["raw_uid"] == two.uid
    one.stop()
    assert fed.until("stream_done")["raw_uid"] == one.uid
    other.close()
    runs = {run.start["raw_uid"]: identities(run) for run in read_derived(tmp_path / "journal")}
    assert runs == {one.uid: [1, 2, 3], two.uid: [100, 101, 102, 103, 104]}


def test_the_next_run_does_not_wait_for_the_pictures_of_the_last_one(
    feed: Callable[..., Fed], file: FrameFile, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    fed = feed(f"{PATH}:DrawsWhenTold", gate=str(gate))
    other = FrameFile(tmp_path / "other.h5", SHAPE)
    fill(file, range(1, 4))
    fill(other, range(100, 105))
    one, two = Raw(fed), Raw(fed)
    one.use(file)
    one.tell(0, 3)
    one.stop()
    two.use(other)
    two.tell(0, 5)
    assert fed.until("progress", 5)["raw_uid"] == two.uid
    gate.touch()
    assert fed.until("stream_done")["raw_uid"] == one.uid
    two.stop()
    assert fed.until("stream_done")["raw_uid"] == two.uid
    other.close()
    drawn = {
        run.start["raw_uid"]: len(run.result["pictures"].splitlines())
        for run in read_derived(tmp_path / "journal")
    }
    assert drawn == {one.uid: 3, two.uid: 3}


def test_pictures_are_files_that_the_last_result_names(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed(f"{PATH}:Draws")
    raw = Raw(fed).write(file, 7)
    raw.tell(0, 7)
    raw.stop()
    fed.until("stream_done")
    paths = [Path(line) for line in fed.end().result["pictures"].splitlines()]
    assert [path.name for path in paths] == ["1.raw", "4.raw", "7.raw"]
    assert paths[1].read_bytes() == noise(4, SHAPE).tobytes()


def test_repeated_and_late_frames_do_not_count_twice(
    feed: Callable[..., Fed], file: FrameFile
) -> None:
    fed = feed()
    raw = Raw(fed)
    raw.use(file)
    sequence = [1, 2, 2, 3, 300, 4, 301]  # 4 comes four blocks late
    for number in sequence:
        file.append(number, noise(number, SHAPE))
    raw.tell(0, 7)
    raw.stop()
    fed.until("stream_done")
    run = fed.end()
    assert identities(run) == sequence
    assert (run.result["n_frames"], run.result["n_late"]) == (5, 1)


def test_bad_use_is_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, parameters in (("no_such_analysis", "{}"), ("picture_statistics", '{"x": 1}')):
        monkeypatch.setenv(PARAMETERS, parameters)
        done = forked.run(
            command(tmp_path, name),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 2
        assert name in done.stderr
