"""One stream of a raw run and its analysis, in the process of the test."""

import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from support.derived import Derived
from support.odd_analyses import Against, Undrawn
from support.second_stages import MOTOR, SlopeStage

from skywright.analysis import Batch
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks import stream_analysis
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.callbacks.second_analysis import SecondAnalysis
from skywright.callbacks.stream_analysis import BacklogLimits, StreamAnalysis
from skywright.errors import ConfigError, DataError
from skywright.files.columns import Column, ColumnWriter
from skywright.files.readers import HDF5


class Immediate(Executor):
    """Runs each action before it returns."""

    def submit(self, action: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(action(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def analyze(
    tmp_path: Path,
    make: Callable[[Mapping[str, Any]], PictureStatistics],
    in_files: bool = True,
    picture_thread: Executor | None = None,
    second: Sequence[SecondAnalysis] = (),
    limits: BacklogLimits = BacklogLimits(),  # noqa: B008
) -> tuple[StreamAnalysis, list[Any]]:
    """Return the analysis of a stream that has begun, and the list of its derived documents."""
    run = RawRun({"uid": "a", "time": 1e9}, RequiredKeys.of(PictureStatistics, {}))
    image = {"source": "", "dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1"}
    image |= {"external": "STREAM:"} if in_files else {}
    descriptor = {
        "uid": "b",
        "run_start": "a",
        "name": "primary",
        "data_keys": {"cam_image": image},
        "configuration": {"cam": {"data": {"cam_gain": 7}}},
    }
    run("descriptor", descriptor)
    documents: list[Any] = []
    stream = StreamAnalysis(
        run.streams["primary"],
        make,
        lambda name, doc: documents.append((name, doc)),
        tmp_path,
        limits,
        picture_thread or Immediate(),
    )
    stream.second = second
    return stream, documents


def test_rows_that_cannot_be_written_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream, documents = analyze(tmp_path, lambda _: PictureStatistics())
    assert not stream.step()

    def fail() -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(stream.derived, "tick", fail)
    assert stream.write_due() == 0.0
    assert stream.step()  # something to report
    assert stream.take_progress()["error"] == "OSError: [Errno 28] disk full"
    (logged,) = [each for each in caplog.records if "the analysis failed" in each.message]
    assert logged.message.endswith(": [Errno 28] disk full")
    assert not logged.exc_info
    assert documents[-1][0] == "stop"
    assert not stream.step()
    assert stream.write_due() is None
    stream.interrupt("the session ends")
    assert stream.take_progress()["error"] == "OSError: [Errno 28] disk full"


def test_a_configuration_that_does_not_fit_is_reported_as_a_fault_of_it(tmp_path: Path) -> None:
    def make(configuration: Mapping[str, Any]) -> PictureStatistics:
        if configuration:
            raise ConfigError("analysis pictures: no gain 7")
        return PictureStatistics()

    stream, documents = analyze(tmp_path, make)
    assert stream.take_progress()["error_type"] == "ConfigError"
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["reason"] == "ConfigError: analysis pictures: no gain 7"


def announcing(stream: StreamAnalysis, file: Path) -> Callable[[int, int], None]:
    """Return a function that announces pictures in `file`."""
    resource = {"uid": "r", "run_start": "a", "data_key": "cam_image", "uri": file.as_uri()}
    resource |= {"mimetype": HDF5, "parameters": {"dataset": "/image"}}
    stream.raw("stream_resource", resource)

    def announce(start: int, stop: int) -> None:
        datum = {"uid": f"r/{start}", "descriptor": "b", "stream_resource": "r"}
        datum |= {"indices": {"start": start, "stop": stop}}
        datum |= {"seq_nums": {"start": start + 1, "stop": stop + 1}}
        stream.raw("stream_datum", datum)

    return announce


def test_the_time_of_a_frame_is_measured_while_frames_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents are read between two batches; between two frames of a slow plan nothing is done."""
    stream, _ = analyze(tmp_path, lambda _: PictureStatistics())
    file, seconds = tmp_path / "pictures.h5", list[float]()
    with ColumnWriter(file, [Column("/image", "|u1", (4, 4))], Column("/id", "<i8")) as writer:
        writer.append(np.arange(3), {"/image": np.ones((3, 4, 4), np.uint8)})
    now = 1.0
    monkeypatch.setattr(stream_analysis, "time", SimpleNamespace(monotonic=lambda: now))
    stream._pace = SimpleNamespace(  # type: ignore[assignment]
        affordable=lambda _: 10,
        batch_frames=1,
        add_measurement=lambda *each: seconds.append(each[1]),
    )
    announce = announcing(stream, file)
    announce(0, 2)
    assert stream.step()
    now = 4.0
    assert stream.step()
    now = 100.0
    announce(2, 3)
    assert stream.step()
    assert seconds == [0.0, 3.0, 0.0]


def test_no_frame_is_skipped_that_waited_for_its_file_before_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, _ = analyze(
        tmp_path, lambda _: PictureStatistics(), limits=BacklogLimits(max_behind_s=0)
    )
    file = tmp_path / "pictures.h5"
    announce = announcing(stream, file)
    announce(0, 1)
    assert not stream.step()  # there is no file yet
    announce(1, 300)
    with ColumnWriter(file, [Column("/image", "|u1", (4, 4))], Column("/id", "<i8")) as writer:
        for start, stop in ((0, 100), (100, 352)):  # documents are ahead of the file
            pictures = np.ones((stop - start, 4, 4), np.uint8)
            writer.append(np.arange(start, stop), {"/image": pictures})
            writer.flush()
            while stream.reached < min(stop, 300):
                assert stream.step()
    assert stream.derived is not None
    assert (stream.derived.dropped, stream.derived.rows) == (0, 300)

    # There is time for ten of the frames that come after the first backlog: they are even
    pace = SimpleNamespace(affordable=lambda _: 10, batch_frames=100, add_measurement=print)
    stream._pace = pace  # type: ignore[assignment]
    announce(300, 352)
    taken: list[int] = []
    add = stream.derived.add

    def note(batch: Batch) -> Any:
        taken.extend(batch.identities.tolist())
        return add(batch)

    monkeypatch.setattr(stream.derived, "add", note)
    assert stream.step()
    assert np.diff(taken).tolist() == [6] * 8
    assert (stream.reached, stream.derived.dropped) == (352, 52 - 9)


@pytest.mark.parametrize("comes", [True, False])
def test_a_frame_waits_for_its_event_until_the_end_of_the_run(tmp_path: Path, comes: bool) -> None:
    """In a step scan the stream datum of a frame comes before its event."""
    run = RawRun({"uid": "a", "time": 1e9}, RequiredKeys.of(Against, {}))
    image = {"dtype": "array", "shape": [4, 4], "dtype_numpy": "|u1", "external": "STREAM:"}
    keys = {"cam_image": image, "angle": {"dtype": "number", "shape": []}}
    run("descriptor", {"uid": "b", "run_start": "a", "name": "primary", "data_keys": keys})
    file = tmp_path / "pictures.h5"
    with ColumnWriter(file, [Column("/image", "|u1", (4, 4))], Column("/id", "<i8")) as writer:
        writer.append(np.arange(2), {"/image": np.ones((2, 4, 4), np.uint8)})
    resource = {"uid": "r", "run_start": "a", "data_key": "cam_image", "uri": file.as_uri()}
    run("stream_resource", resource | {"mimetype": HDF5, "parameters": {"dataset": "/image"}})
    datum = {"descriptor": "b", "stream_resource": "r", "indices": {"start": 0, "stop": 2}}
    run("stream_datum", datum | {"seq_nums": {"start": 1, "stop": 3}})
    stream = StreamAnalysis(
        run.streams["primary"],
        lambda _: Against(),
        lambda *_: None,
        tmp_path,
        BacklogLimits(),
        Immediate(),
    )
    assert not stream.step()
    run("event", {"descriptor": "b", "seq_num": 1, "data": {"angle": 10.0}})
    if comes:
        run("event", {"descriptor": "b", "seq_num": 2, "data": {"angle": 20.0}})
    run("stop", {"uid": "c", "time": 2e9, "run_start": "a", "exit_status": "success"})
    while not stream.exit_status:
        stream.step()
        stream.close_step()
    result = stream.take_progress()["result"]
    assert (result["n_frames"], result["n_missing"]) == (1 + comes, 1 - comes)


def end_after_five(stream: StreamAnalysis) -> None:
    """Let it take five frames, end the raw run, and close the derived ones."""
    while stream.reached < 5:
        stream.step()
    stop = {"uid": "c", "time": 2e9, "run_start": "a", "exit_status": "success"}
    stream.raw("stop", stop)
    stream.step()
    while stream.close_step():
        pass


@pytest.mark.parametrize("unreadable", [False, True])
def test_a_run_whose_pictures_fail_has_its_final_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: bool
) -> None:
    def fail(*_: Any) -> Any:
        raise DataError("frame 0 cannot be read")

    if unreadable:
        monkeypatch.setattr("skywright.callbacks.stream_analysis.frames_to_draw", fail)
    stream, documents = analyze(tmp_path, lambda _: Undrawn(), in_files=False)
    run = stream.raw
    for number in range(1, 6):
        data = {"cam_image": np.full((4, 4), number, np.uint8)}
        run("event", {"descriptor": "b", "seq_num": number, "data": data, "time": 1e9})
    end_after_five(stream)
    assert stream.take_progress()["result"]["n_frames"] == 5
    assert Derived(documents).result["n_frames"] == 5
    assert Derived(documents).result["pictures"] == ""
    assert documents[-1][0] == "stop"
    assert documents[-1][1]["exit_status"] == "success"


@pytest.mark.parametrize("end", ["time limit", "end of the session", "failure"])
def test_runs_whose_pictures_are_never_drawn_end_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    class Never(Executor):
        def submit(self, *_: Any, **__: Any) -> "Future[Any]":
            return Future()

    if end == "time limit":
        monkeypatch.setattr(stream_analysis, "DRAWING_LIMIT_S", 0.0)
    slopes: list[Any] = []
    second = SecondAnalysis(
        "slope",
        SlopeStage(),
        {"uid": "a", "time": 1e9},
        lambda name, doc: slopes.append((name, doc)),
        tmp_path,
        lambda _: Future(),
    )
    never = Never()
    stream, documents = analyze(tmp_path, lambda _: Undrawn(), False, never, [second])
    run = stream.raw
    for number in range(1, 6):
        data = {"cam_image": np.full((4, 4), number, np.uint8), MOTOR: number}
        for take in (run, second.take):
            take("event", {"descriptor": "b", "seq_num": number, "data": data, "time": 1e9})
    if end == "failure":
        monkeypatch.setattr(stream, "_begin_closing", Mock(side_effect=OSError("disk full")))
    end_after_five(stream)
    stream.interrupt("the session ends")
    for derived in (documents, slopes):
        assert derived[-1][0] == "stop"
        failed = end == "failure" and derived is documents
        assert derived[-1][1]["exit_status"] == ("fail" if failed else "success")
        assert failed or Derived(derived).result["pictures"] == ""
    # At the end of the session nobody waited for them
    assert caplog.text.count("no pictures in time") == (2 if end == "time limit" else 0)


def test_a_file_that_is_not_here_is_logged_once_and_looked_for_more_slowly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream, _ = analyze(tmp_path, lambda _: PictureStatistics())
    resource = {
        "uid": "r",
        "run_start": "a",
        "data_key": "cam_image",
        "mimetype": "application/x-hdf5",
        "uri": f"file://localhost{tmp_path}/none.h5",
        "parameters": {"dataset": "/entry/data/data", "chunk_shape": [1, 4, 4], "swmr": True},
    }
    rows = {"start": 0, "stop": 2}
    datum = {"uid": "r/0", "stream_resource": "r", "descriptor": "b", "indices": rows}
    stream.raw("stream_resource", resource)
    stream.raw("stream_datum", {**datum, "seq_nums": {"start": 1, "stop": 3}})
    with caplog.at_level(logging.INFO, logger=stream_analysis.log.name):
        for _ in range(3):
            assert not stream.step()
    assert len(caplog.records) == 1
    due = stream.write_due()
    assert due is not None
    assert due > stream_analysis.UNFLUSHED_POLL_S


def test_a_derived_run_whose_files_cannot_be_made_ends_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(28, "disk full")

    monkeypatch.setattr("skywright.callbacks.derived.ColumnWriter", fail)
    stream, documents = analyze(tmp_path, lambda _: PictureStatistics())
    assert [name for name, _ in documents] == ["start", "stop"]
    assert documents[-1][1]["exit_status"] == "fail"
    assert documents[-1][1]["reason"] == stream.reason == "OSError: [Errno 28] disk full"
