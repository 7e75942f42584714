"""Workers that are killed: nothing is counted twice, and what is lost is counted."""

import errno
import os
import re
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from sacla_deadly import DeadlyImages
from sacla_file import make_replay
from support.waiting import until

from skywright.errors import ConfigError, HardwareError
from skywright.instruments.sacla import pipeline as pipelines
from skywright.instruments.sacla import process_workers
from skywright.instruments.sacla.analyzed_shot import RegionSet
from skywright.instruments.sacla.frames import FileFrames, SharedFrames
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.live import LiveShots
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.process_workers import ProcessWorkers
from skywright.instruments.sacla.regions import Region, make_mask
from skywright.instruments.sacla.replay import replay
from skywright.instruments.sacla.replay_file import ReplayFile
from skywright.instruments.sacla.report import make_report
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.stored_frame import StoredFrame
from skywright.instruments.sacla.tile import PixelRules, Tile
from skywright.instruments.sacla.twin import Beamline, TwinSettings
from skywright.instruments.sacla.workers import (
    Answer,
    Chunk,
    ThreadWorkers,
    make_workers,
)

REGION = Region("all", "MPCCD-A", ((-5, -5), (40, -5), (40, 50), (-5, 50)))
EDGES = np.linspace(-2, 3, 7)
SHOTS = 700


def pack_frames(path):
    """Store the frames in compressed chunks, which threads cannot read at the same time."""
    with h5py.File(path, "a") as file:
        group = file["detectors/MPCCD-A"]
        frames = group["data"][()]
        del group["data"]
        group.create_dataset("data", data=frames, chunks=(1, *frames.shape[1:]), compression=1)
    return path


@pytest.fixture(scope="module", name="path")
def make_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sacla") / "run.h5"
    return pack_frames(make_replay(path, 3, SHOTS, detectors=("MPCCD-A",)))


@pytest.fixture(scope="module", name="whole")
def make_whole(path):
    return replay(path, [REGION], EDGES)


def pids(pipeline):
    return [worker.process.pid for worker in pipeline._workers._processes]


def kill_first(pipeline):
    """Kill the worker that has had the most to do."""
    os.kill(pids(pipeline)[0], signal.SIGKILL)


def run(path, frames, workers, disturb, stored=False):
    """Analyze a file; call `disturb` with the pipeline after each record's number."""
    with ReplayFile(path) as file:
        pipeline = ShotPipeline(file.info, [REGION], EDGES, 120, frames, workers)
        try:
            for number, (_, record) in enumerate(file.timed_records()):
                if stored and record.channel in file.info.tiles:
                    frame = StoredFrame(file, record.channel, record.payload)
                    record = Record(record.channel, record.tag, record.run, frame)
                pipeline.add(record)
                disturb(number, pipeline)
            pipeline.finish()
            return make_report(pipeline, 1.0, workers), pipeline
        finally:
            pipeline.close()


def replaced(pipeline, killed):
    """Take what the workers have answered; return whether others stand for the killed ones."""
    pipeline._take_answers(pipeline._workers.answers("none"))
    return not set(killed) & set(pids(pipeline))


def assert_same(found, expected):
    for report in (found, expected):
        report.values.pop("perf", None)
    assert found.values == expected.values
    assert {k: v.tobytes() for k, v in found.images.items()} == {
        k: v.tobytes() for k, v in expected.images.items()
    }


@pytest.mark.parametrize("workers", [2, 3])
def test_killed_workers_change_no_bit_of_a_stored_run(path, whole, workers):
    killed = []

    def disturb(number, pipeline):
        if number in (500, 1500, 2500, 4000):
            until(lambda: replaced(pipeline, killed), what="the pipeline notices the killed ones")
            pid = pids(pipeline)[len(killed) % workers]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    found, pipeline = run(path, FileFrames(path), workers, disturb)
    assert isinstance(pipeline._workers, ProcessWorkers)
    assert len(set(killed)) == 4
    assert not set(killed) & set(pids(pipeline))
    assert found.values["counts"]["accepted"] > 200
    assert_same(found, whole)


def test_blocks_of_a_stored_run_are_folded_while_it_is_read(path):
    held = []
    with ReplayFile(path) as file:
        pipeline = ShotPipeline(file.info, [REGION], EDGES, 60, FileFrames(path), block_tags=64)
        try:
            for _, record in file.timed_records():
                pipeline.add(record)
                held.append(len(pipeline.images_of("MPCCD-A")._keys()))
            pipeline.finish()
        finally:
            pipeline.close()
    assert SHOTS > 10 * 64  # images of each block would need memory without end
    assert max(held) <= 2


def test_masks_that_fill_a_pipe_reach_the_workers_before_their_chunks(tmp_path):
    shape = (1200, 800)  # a mask has 120 kB
    path = make_replay(tmp_path / "run.h5", 4, 24, shape, ("MPCCD-A",))
    pixels = np.random.default_rng(1).random(shape) < 0.5
    masks = [Region(f"m{k}", "MPCCD-A", mask=make_mask(pixels ^ bool(k))) for k in range(3)]
    frames, changed = SharedFrames({"MPCCD-A": shape}, 4), []
    with ReplayFile(path) as file:
        pipeline = ShotPipeline(file.info, masks, EDGES, 120, frames, 2, on_shot=changed.append)
        try:
            for number, (_, record) in enumerate(file.timed_records()):
                payload = record.payload
                if record.channel in file.info.tiles:
                    payload = StoredFrame(file, record.channel, payload)
                if number % 100 == 50:
                    pipeline.change_regions(pipeline.regions[::-1])
                pipeline.add(replace(record, payload=payload))
            pipeline.finish()
        finally:
            pipeline.close()
            frames.unlink()
    expected = replay(path, masks, EDGES).values["rois"]
    accepted = [shot for shot in changed if shot.found is not None]
    assert len({shot.regions.number for shot in accepted}) > 1
    for region in masks:
        found = [
            float(shot.found["sum_ev"][shot.regions.regions.index(region)]) for shot in accepted
        ]
        assert found == expected[region.name]["sum_ev"]


def test_all_workers_killed_at_once_and_at_the_end(path, whole):
    def disturb(number, pipeline):
        if number in (2000, 4500):
            for pid in pids(pipeline):
                os.kill(pid, signal.SIGKILL)

    assert_same(run(path, FileFrames(path), 2, disturb)[0], whole)


def test_frames_in_a_ring_that_is_large_enough_are_analyzed_again(path, whole):
    frames = SharedFrames({"MPCCD-A": (40, 30)}, SHOTS // 8 + 1)
    try:
        found, _ = run(
            path, frames, 2, lambda n, p: kill_first(p) if n in (1200, 3600) else None, stored=True
        )
    finally:
        frames.unlink()
    assert_same(found, whole)


def test_frames_that_left_the_ring_are_counted_and_the_values_are_all_there(path, whole):
    frames = SharedFrames({"MPCCD-A": (40, 30)}, 4)

    def disturb(number, pipeline):
        if number == 3000:
            pipeline._take_answers(pipeline._workers.answers("all"))
            for pid in pids(pipeline):
                os.kill(pid, signal.SIGKILL)

    try:
        found, pipeline = run(path, frames, 2, disturb, stored=True)
    finally:
        frames.unlink()
    counts = found.values["counts"]
    in_images = sum(int(pipeline.images["MPCCD-A"].result()[key]) for key in ("n_on", "n_off"))
    assert counts.pop("images_lost") == counts["accepted"] - in_images > 0
    assert counts == whole.values["counts"]
    assert found.values["rois"] == whole.values["rois"]


def test_a_chunk_that_kills_every_worker_is_given_up_and_counted(path, whole, monkeypatch):
    tags = whole.values["rois"]["all"]["tags"]
    monkeypatch.setattr(pipelines, "ShotImages", DeadlyImages)
    monkeypatch.setattr(DeadlyImages, "deadly_tag", tags[100])
    original = ProcessWorkers.__init__

    def start(self, count, analyses, frames):  # the tag goes to the processes with the objects
        for analysis in analyses.values():
            analysis.deadly_tag = tags[100]
        original(self, count, analyses, frames)

    monkeypatch.setattr(ProcessWorkers, "__init__", start)
    monkeypatch.setattr(process_workers, "ATTEMPTS", 3)
    found, pipeline = run(path, FileFrames(path), 2, lambda *_: None)
    counts = found.values["counts"]
    left = found.values["rois"]["all"]["tags"]
    assert 1 <= counts["shots_lost"] <= 8
    assert tags[100] not in left
    assert set(left) < set(tags)
    assert len(left) == len(tags) - counts["shots_lost"]
    in_images = sum(int(pipeline.images["MPCCD-A"].result()[key]) for key in ("n_on", "n_off"))
    assert in_images == len(left)


def test_a_block_of_which_nothing_is_left_to_do_again_ends():
    shape = (4, 3)
    tile, rules = Tile("D", 1.0, np.zeros(shape, bool)), PixelRules(10.0, 1.0, 0.0, 1.0, 1.0, 1.0)
    frames = SharedFrames({"D": shape}, 1)
    workers = ProcessWorkers(1, {"D": ShotImages(tile, rules)}, frames)
    try:
        place = frames.place(0, 0, "D", np.ones(shape, np.float32))
        chunk = Chunk(np.array([5]), np.array([True]), {"D": [place]}, RegionSet())
        workers.analyze((0, 0), 0, chunk)
        (rows,) = workers.answers("all")
        assert (rows.chunk, list(rows.rows)) == (0, ["D"])
        frames.free(0)
        frames.place(1, 0, "D", np.ones(shape, np.float32))  # the frame before is gone
        pid = workers._processes[0].process.pid
        os.kill(pid, signal.SIGSTOP)  # it dies before it passes on the images
        found = workers.end_block((0, 0))
        os.kill(pid, signal.SIGKILL)
        found += workers.answers("all")
    finally:
        workers.close()
        frames.unlink()
    assert [answer.images_lost for answer in found] == [1, 0]
    assert (found[1].block, found[1].parts) == ((0, 0), {})


@pytest.mark.parametrize(("failures", "ends_well"), [(2, True), (1000, False)])
def test_a_worker_that_does_not_start_is_started_again(
    path, whole, monkeypatch, failures, ends_well
):
    original, failed = ForkServerProcess.start, []

    def start(self):  # as when the server that forks the workers has been killed
        if len(failed) < failures:
            failed.append(self)
            raise ConnectionRefusedError(111, "refused")
        original(self)

    monkeypatch.setattr(ForkServerProcess, "start", start)
    if ends_well:
        assert_same(run(path, FileFrames(path), 2, lambda *_: None)[0], whole)
        assert len(failed) == failures
    else:
        with pytest.raises(HardwareError, match=r"cannot be started.*refused"):
            run(path, FileFrames(path), 2, lambda *_: None)


def test_frames_stored_as_they_are_are_read_by_threads(tmp_path, path, whole):
    plain = make_replay(tmp_path / "plain.h5", 3, SHOTS, detectors=("MPCCD-A",))
    found, pipeline = run(plain, FileFrames(plain), 3, lambda *_: None)
    assert isinstance(pipeline._workers, ThreadWorkers)
    assert_same(found, whole)
    for file in (plain, path):  # a single thread reads also what is compressed
        single = run(file, FileFrames(file), 1, lambda *_: None)
        assert isinstance(single[1]._workers, ThreadWorkers)
        assert_same(single[0], whole)


def test_mapped_frames_are_those_that_hdf5_reads(tmp_path, path):
    plain = make_replay(tmp_path / "plain.h5", 3, 30, detectors=("MPCCD-A",))
    with ReplayFile(plain) as file, h5py.File(plain) as raw:
        mapped = file.map_frames("MPCCD-A")
        np.testing.assert_array_equal(mapped, raw["detectors/MPCCD-A/data"][()])
    with ReplayFile(path) as file:
        assert file.map_frames("MPCCD-A") is None
    with h5py.File(plain, "a") as raw:
        frames = raw["detectors/MPCCD-A/data"][()]
        del raw["detectors/MPCCD-A/data"]
        raw["detectors/MPCCD-A/data"] = frames.astype(">f4")
    with ReplayFile(plain) as file:
        assert file.map_frames("MPCCD-A") is None


def test_an_error_of_a_worker_thread_ends_the_analysis(tmp_path, monkeypatch):
    plain = make_replay(tmp_path / "plain.h5", 3, 60, detectors=("MPCCD-A",))

    def fail(self, batch):
        raise ZeroDivisionError("no")

    monkeypatch.setattr(pipelines.ShotImages, "measure", fail)
    with pytest.raises(HardwareError, match="ZeroDivisionError: no"):
        run(plain, FileFrames(plain), 2, lambda *_: None)


def test_frames_without_shared_memory_are_refused_before_the_first(monkeypatch):
    made = []

    def full(file, offset, length):
        made.append(Path(f"/proc/self/fd/{file}").readlink())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HardwareError, match=r"/dev/shm: 3 MB of shared memory .* --shm-size"):
        SharedFrames({"D": (333, 281)}, 1)
    assert [path.exists() for path in made] == [False]
    later = SharedFrames({"D": (333, 281)}, 1, reserve=False)
    with pytest.raises(HardwareError, match="--shm-size"):
        later.place(0, 0, "D", 1.0)
    monkeypatch.undo()
    assert later.place(0, 0, "D", 1.0) == 0
    later.unlink()


def test_a_script_without_a_main_guard_ends_with_the_reason(tmp_path, path):
    # Each worker executes the script, and so starts workers, before it takes tasks
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from skywright.instruments.sacla.replay import replay\n"
        f"replay(Path({str(path)!r}), [], np.array([-2.0, 3.0]), workers=2)\n"
    )
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 1
    # Both workers may end within one wait for answers
    reason = r"HardwareError: [89] analysis workers have ended at their start; .*__main__"
    assert re.search(reason, ended.stderr)


@pytest.fixture(name="started")
def start_by_hand(monkeypatch):
    """Start no process: the test holds the other end of the pipe of each worker.

    The list takes what is done at the start of each worker, with that end.
    """
    ends, at_start = [], []

    def start(process):
        process._popen = Mock(wait=lambda _: 0, poll=lambda: 0)
        ends.append(Connection(os.dup(process._args[0].fileno())))
        if at_start:
            at_start.pop(0)(ends[-1])

    monkeypatch.setattr(ForkServerProcess, "start", start)
    yield ends, at_start
    for end in ends:
        end.close()


CHUNK = Chunk(np.array([5]), np.array([True]), {}, RegionSet())


@pytest.mark.parametrize(
    "last_words",
    [
        lambda end: None,
        lambda end: os.write(end.fileno(), struct.pack("!i", 100)),  # the length of a message
        lambda end: end.send((b"", [100])),  # the begin of a partial result
    ],
)
def test_a_worker_that_lives_and_answers_no_more_is_replaced(
    path, monkeypatch, started, last_words
):
    ends, at_start = started
    monkeypatch.setattr(process_workers, "SILENCE_S", 0.02)

    def answer(end):
        end.send(process_workers.READY)
        end.send(Answer(0, {"D": {}}))

    at_start += [lambda end: end.send(process_workers.READY), answer]
    workers = ProcessWorkers(1, {}, FileFrames(path))
    workers.wait_until_ready()
    workers.analyze((0, 0), 0, CHUNK)
    last_words(ends[0])  # as a worker that is stopped by SIGSTOP
    (found,) = workers.answers("all")
    workers.close()
    assert (found.chunk, found.rows, len(ends)) == (0, {"D": {}}, 2)


def test_a_worker_that_is_stopped_before_it_takes_tasks_is_replaced(
    path, monkeypatch, started, caplog
):
    ends, at_start = started
    monkeypatch.setattr(process_workers, "SILENCE_S", 0.02)
    monkeypatch.setattr(process_workers, "START_S", 0.05)

    def answer(end):
        end.send(process_workers.READY)
        end.send(Answer(0, {"D": {}}))

    at_start += [lambda end: None, answer]
    workers = ProcessWorkers(1, {}, FileFrames(path))
    workers.analyze((0, 0), 0, CHUNK)
    (found,) = workers.answers("all")
    workers.close()
    assert (found.chunk, found.rows, len(ends)) == (0, {"D": {}}, 2)
    assert "analysis worker 0 takes no tasks 0.05 s after its start" in caplog.text


def test_blocks_are_done_again_once_if_the_worker_after_a_dead_one_dies_too(
    path, monkeypatch, started
):
    ends, at_start = started
    monkeypatch.setattr(FileFrames, "retake", lambda self, chunk: False)  # nothing but the end
    workers = ProcessWorkers(1, {}, FileFrames(path))
    ends[0].send(process_workers.READY)
    for number in (0, 1):
        ends[0].send(Answer(number, {"D": {}}))
        workers.analyze((0, number), number, CHUNK)
    workers.answers("all")
    for number in (0, 1):
        workers.end_block((0, number))
    at_start.append(Connection.close)
    ends[0].close()
    until(lambda: [*workers.answers("none"), len(ends) == 3][-1], what="two workers are replaced")
    given = []
    while ends[2].poll():
        given.append(ends[2].recv())
    workers.close()
    assert given == [("end_block", (0, 0), True), ("end_block", (0, 1), True)]


def test_without_a_worker_there_is_no_analysis():
    frames = SharedFrames({}, 1)
    with pytest.raises(ConfigError, match="0 analysis workers, expected at least 1"):
        make_workers(0, {}, frames)
    frames.unlink()


def test_killed_workers_do_not_end_a_running_source():
    settings = TwinSettings(shape=(64, 48), pool=16)
    region = Region("all", settings.detectors[0], ((-1, -1), (60, -1), (60, 70), (-1, 70)))
    source = SimSource(Beamline(settings, 4), 900, speed=0)
    analysis = LiveShots(source, [region], EDGES, 120, 2)
    take, taken = analysis._take_record, []

    def disturb(record):
        take(record)
        taken.append(record.tag)
        if len(taken) in (2000, 4000):
            for pid in pids(analysis._pipeline):
                os.kill(pid, signal.SIGKILL)

    analysis._take_record = disturb
    try:
        report = analysis.run().values
        images = analysis._pipeline.images[settings.detectors[0]].result()
    finally:
        analysis.close()
        source.close()
    counts = report["counts"]
    assert counts["accepted"] > 700
    assert "shots_lost" not in counts
    assert len(report["rois"]["all"]["tags"]) == len(set(report["rois"]["all"]["tags"]))
    assert len(report["rois"]["all"]["tags"]) == counts["accepted"]
    in_images = int(images["n_on"] + images["n_off"])
    assert in_images + counts.get("images_lost", 0) == counts["accepted"]


def test_partial_results_of_many_detectors_are_merged_one_by_one(tmp_path):
    names = tuple(f"MPCCD-8N0-3-002-{k + 1}" for k in range(3))
    path = make_replay(tmp_path / "run.h5", 3, 600, detectors=names)
    region = replace(REGION, detector=names[0])
    waited = 0
    with ReplayFile(path) as file:
        shapes = {name: tile.bad.shape for name, tile in file.info.tiles.items()}
        frames = SharedFrames(shapes, 64)
        pipeline = ShotPipeline(file.info, [region], EDGES, 120, frames, 2)
        try:
            for number, (_, record) in enumerate(file.timed_records()):
                payload = record.payload
                if record.channel in names:
                    payload = StoredFrame(file, record.channel, payload)
                pipeline.add(replace(record, payload=payload))
                if number % 8 == 0:
                    pipeline.poll()
                    waited += len(set(shots_in(pipeline, names).values())) > 1
            pipeline.finish()
            found = make_report(pipeline, 1.0, 2)
        finally:
            pipeline.close()
            frames.unlink()
    assert waited
    expected = replay(path, [region], EDGES)
    assert found.values["counts"] == expected.values["counts"]
    assert found.values["rois"] == expected.values["rois"]
    assert {key: image.tobytes() for key, image in found.images.items()} == {
        key: image.tobytes() for key, image in expected.images.items()
    }


def begin_images(path, frames, workers, monkeypatch, is_wanted):
    """Begin images anew within a block; return the rows of all shots and the images after that."""
    if is_wanted:  # as if the images before were recorded
        end = ShotPipeline._end_block
        monkeypatch.setattr(ShotPipeline, "_end_block", lambda self, is_wanted=True: end(self))
    passed = []

    def disturb(number, pipeline):
        if number == 2000:
            pipeline.reset_images()
            passed.append(pipeline._series)

    found, pipeline = run(path, frames, workers, disturb)
    assert passed == [pipeline._series]
    return found, shots_in(pipeline, ["MPCCD-A"])["MPCCD-A"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_last_block_of_images_that_nobody_wants_changes_nothing_else(
    path, monkeypatch, workers
):
    frames = FileFrames(path)
    found, in_images = begin_images(path, frames, workers, monkeypatch, False)
    expected, expected_in_images = begin_images(path, frames, workers, monkeypatch, True)
    assert 0 < in_images == expected_in_images < found.values["counts"]["accepted"]
    assert_same(found, expected)


def shots_in(pipeline, names):
    """Return the number of shots in the running images of each detector."""
    found = {name: pipeline.images_of(name).result() for name in names}
    return {name: int(result["n_on"] + result["n_off"]) for name, result in found.items()}


def test_the_process_that_forks_workers_has_loaded_what_their_kernels_need() -> None:
    code = (
        "import importlib, sys\n"
        "from skywright.instruments.sacla import process_workers, warm\n"
        "importlib.import_module(process_workers.NUMBA_LOADED)\n"
        "before = set(sys.modules)\n"
        "warm.warm_up()\n"
        "print(*(new for new in set(sys.modules) - before if new.startswith(('numba', 'scipy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
