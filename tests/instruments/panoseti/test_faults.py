"""What goes wrong while a run is taken: each frame is in the index once, and live clients go on."""

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from support.pano_files import append, file_name, made_frames, run_directory
from support.pano_server import served, served_here
from support.waiting import until

from skywright.errors import ConfigError, DataError
from skywright.files.index import IndexWriter
from skywright.files.readers import open_reader
from skywright.instruments.panoseti.clock import NUM, Flag
from skywright.instruments.panoseti.live import follow
from skywright.instruments.panoseti.live.activity import CLOCK_AHEAD_S
from skywright.instruments.panoseti.live.follow import Followed, RunFinder, faults_logged
from skywright.instruments.panoseti.pff import PffFile, read_pff
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import parse_file_name
from skywright.instruments.panoseti.sources import rundir
from skywright.instruments.panoseti.sources.rundir import RunDirectorySource
from skywright.instruments.panoseti.tracking import IndexKey, Tracker
from skywright.instruments.panoseti.twin.run import SimulatedRuns
from skywright.instruments.panoseti.twin.sky import ArraySettings
from skywright.wire.daqdata.encode import decode
from skywright.wire.daqdata.methods import Stub

IMG16 = IndexKey(0, "img16")


@pytest.fixture
def tracked(tmp_path):
    """A data directory whose frames are indexed while a test writes them."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    tracker = Tracker(RunDirectorySource(data_dir))
    assert tracker.start_recording(tmp_path / "index.h5") == ""
    yield data_dir, tracker
    tracker.close()


def until_rows(tracker, count, key=IMG16):
    until(lambda: tracker.rows()[key] >= count, 60, f"{count} frames are in the index")


def rows_of(tmp_path, key=IMG16):
    """Return (number of the file, frame) of each row of an index."""
    path = tmp_path / f"index_{key.name}.h5"
    with open_reader("application/x-pff", path, key.product) as reader:
        columns = [reader.read(f"/entry/index/{name}").tolist() for name in ("file", "frame")]
    return list(zip(*columns, strict=True))


def indexed(tmp_path, key=IMG16):
    """Return (number of the file, frame) of each row of an index, and its images."""
    path = tmp_path / f"index_{key.name}.h5"
    with open_reader("application/x-pff", path, key.product) as reader:
        return rows_of(tmp_path, key), reader.read(key.product)


def test_a_rollover_in_mid_read_leaves_each_frame_once_and_in_order(tmp_path):
    run = run_directory(tmp_path)
    frames = made_frames("img16", 2600)
    first, second = (run / file_name("img16", 1, seqno) for seqno in (0, 1))
    append(first, frames, 0, 2100)
    source = RunDirectorySource(tmp_path)
    source.open()
    blocks = [source.next(1.0)]  # a part of the first file: it is being read
    append(first, frames, 2100, 2300)
    append(second, frames, 2300, 2400)
    while sum(len(block.frames) for block in blocks) < 2400:
        blocks.append(source.next(60.0))
    append(second, frames, 2400, 2600)
    while sum(len(block.frames) for block in blocks) < 2600:
        blocks.append(source.next(60.0))
    source.close()
    assert len(blocks[0].frames) < 2100
    found = np.concatenate([block.frames.image for block in blocks])
    np.testing.assert_array_equal(found, frames.image)
    assert source.lost == {}


def test_a_directory_that_is_deleted_keeps_its_rows_and_the_next_index_has_the_next_run(
    tmp_path, tracked, monkeypatch
):
    monkeypatch.setattr(rundir, "GROWN_WITHIN_S", 0.5)  # the deleted run ends soon
    data_dir, tracker = tracked
    frames = made_frames("img16", 60)
    gone = run_directory(data_dir)
    append(gone / file_name("img16"), frames, 0, 40)
    until_rows(tracker, 40)
    shutil.rmtree(data_dir / "module_1")
    append(run_directory(data_dir, 1, "again") / file_name("img16"), frames, 40, 60)
    until(lambda: tracker.source.has_ended, 60, "the deleted run has ended")
    tracker.stop_recording()
    with open_reader("application/x-pff", tmp_path / "index_m1_img16.h5", "img16") as reader:
        times = reader.read("/entry/index/time_ns")
        np.testing.assert_array_equal(times, frames.time_ns[:40])
        with pytest.raises((DataError, OSError), match=str(gone)):
            reader.read("img16", 0, 1)
    (tmp_path / "again").mkdir()
    assert tracker.start_recording(tmp_path / "again/index.h5") == ""
    until_rows(tracker, 20)
    tracker.stop_recording()
    _, images = indexed(tmp_path / "again")
    np.testing.assert_array_equal(images, frames.image[40:])


def test_a_module_of_the_run_before_is_not_in_the_run(tmp_path):
    data_dir = tmp_path / "data"
    for module in (1, 2):
        old = run_directory(data_dir, module, "old")
        append(old / file_name("img16", module), made_frames("img16", 5, module=module))
        os.utime(old, (1e9, 1e9))
    new = run_directory(data_dir, 1, "new")
    frames = made_frames("img16", 7, seed=1)
    append(new / file_name("img16"), frames)
    (new / "recording_ended").touch()
    tracker = Tracker(RunDirectorySource(data_dir))
    assert tracker.start_recording(tmp_path / "index.h5") == ""
    until(lambda: tracker.source.has_ended, 60, "the run has ended")
    tracker.stop_recording()
    tracker.close()
    assert tracker.slots.modules == [1]
    np.testing.assert_array_equal(indexed(tmp_path)[1], frames.image)


def test_each_recording_has_its_own_slots_and_a_module_without_one_is_an_error(tmp_path):
    data_dir, rows = tmp_path / "data", {}
    tracker = Tracker(RunDirectorySource(data_dir), slots=2)
    for name, modules in (("one", (1, 3)), ("two", (250, 252)), ("three", (1, 250, 252))):
        for module in modules:
            run = run_directory(data_dir, module, name)
            append(run / file_name("img16", module), made_frames("img16", 10, module=module))
        (run / "recording_ended").touch()
        assert tracker.start_recording(tmp_path / f"{name}.h5", run.name) == ""
        assert not tracker.owner.expects_items()  # a run may be silent
        until(lambda: tracker.source.has_ended, 60, "all frames are delivered")
        tracker.stop_recording()
        rows[name] = sum(tracker.rows().values()), tracker.rows_lost, set(tracker.slots.modules)
        assert {block.frames.module for block in tracker.newest.values()} == rows[name][2]
        assert bool(tracker.error) == (name == "three")
    assert rows == {
        "one": (20, 0, {1, 3}), "two": (20, 0, {250, 252}), "three": (20, 10, {1, 250}),
    }  # fmt: skip
    assert "[252] have no slot" in tracker.error
    tracker.close()


def test_an_idle_data_directory_is_walked_at_times_only(tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr(rundir, "GROWN_WITHIN_S", 0.0)
    monkeypatch.setattr(rundir, "LIST_S", 0.01)
    monkeypatch.setattr(rundir, "is_active", lambda at: walks.append(at) or True)
    append(run_directory(tmp_path) / file_name("img16"), made_frames("img16", 5))
    source = RunDirectorySource(tmp_path)
    source.open()
    until(lambda: (source.next(0.0) is None and source.has_ended) or walks, 60, "it is walked")
    assert not any(source.has_ended for _ in range(20))
    assert len(walks) == 1
    source.rewind()
    source.close()


@pytest.mark.parametrize("marked", [True, False])
def test_a_run_that_begins_at_once_is_not_in_the_one_that_has_ended(
    tmp_path, tracked, monkeypatch, marked
):
    monkeypatch.setattr(rundir, "GROWN_WITHIN_S", 0.5)
    data_dir, tracker = tracked
    frames = made_frames("img16", 7)
    run = run_directory(data_dir, 1, "one")
    append(run / file_name("img16"), frames)
    until_rows(tracker, 7)
    if marked:
        (run / "recording_ended").touch()
    following = run_directory(data_dir, 1, "two")
    append(following / file_name("img16"), made_frames("img16", 9, seed=1))
    until(lambda: tracker.source.has_ended, 60, "the first run has ended")
    assert tracker.source.run == run.name
    tracker.stop_recording()
    assert tracker.source.run == following.name
    np.testing.assert_array_equal(indexed(tmp_path)[1], frames.image)


def test_a_run_that_has_no_file_yet_is_the_newest(tmp_path):
    data_dir = tmp_path / "data"
    old = run_directory(data_dir, 1, "old")
    append(old / file_name("img16"), made_frames("img16", 5))
    os.utime(old, (1e9, 1e9))
    new = run_directory(data_dir, 1, "new")
    ahead = time.time() + CLOCK_AHEAD_S  # however slow this machine is, it was made just now
    os.utime(new, (ahead, ahead))
    tracker = Tracker(RunDirectorySource(data_dir))
    assert tracker.start_recording(tmp_path / "index.h5") == ""
    assert tracker.source.run == new.name
    frames = made_frames("img16", 7, seed=1)
    append(new / file_name("img16"), frames)
    until_rows(tracker, 7)
    tracker.stop_recording()
    tracker.close()
    np.testing.assert_array_equal(indexed(tmp_path)[1], frames.image)


def test_truncated_and_garbage_files_are_counted_and_the_others_are_whole(tmp_path, tracked):
    data_dir, tracker = tracked
    good, cut, bad = (run_directory(data_dir, module) for module in (1, 2, 3))
    frames = made_frames("img16", 30)
    append(good / file_name("img16"), frames, 0, 10)
    until_rows(tracker, 10)
    append(cut / file_name("img16", 2), made_frames("img16", 10, module=2))
    until_rows(tracker, 10, IndexKey(1, "img16"))
    (bad / file_name("img16", 3)).write_bytes(b"GARBAGE" * 1000)
    os.truncate(cut / file_name("img16", 2), 5000)
    until(lambda: tracker.source.lost.get("file not readable") == 2, 60, "both are counted")
    append(good / file_name("img16"), frames, 10, 30)
    until_rows(tracker, 30)
    (bad / file_name("img16", 3)).unlink()  # its inode may be given to the next file
    append(bad / file_name("img16", 3), made_frames("img16", 5, module=3))
    until_rows(tracker, 5, IndexKey(2, "img16"))
    tracker.stop_recording()
    rows, images = indexed(tmp_path)
    assert rows == [(0, number) for number in range(30)]
    np.testing.assert_array_equal(images, frames.image)
    assert tracker.source.lost == {"file not readable": 2}
    assert tracker.unread == 2
    (tmp_path / "next").mkdir()
    assert tracker.start_recording(tmp_path / "next/index.h5") == ""
    until_rows(tracker, 30)
    assert tracker.unread == 0  # what is there now can be read


def test_a_file_that_begins_with_bytes_of_no_frame_is_read_when_it_has_grown(tmp_path, tracked):
    data_dir, tracker = tracked
    path = run_directory(data_dir) / file_name("img16")
    frames = made_frames("img16", 10)
    data = encode_frames(frames)
    begin = len(data) // 10 - 700  # the tail of a frame, and no header
    path.write_bytes(data[begin : begin + 690])
    followed = Followed(path, parse_file_name(path))
    assert followed.read_new() is None
    until(lambda: tracker.source.lost == {"file not readable": 1}, 60, "it is counted")
    with path.open("ab") as out:
        out.write(data[begin + 690 :])
    until_rows(tracker, 9)
    tracker.stop_recording()
    assert tracker.source.lost == {}
    np.testing.assert_array_equal(indexed(tmp_path)[1], frames.image[1:])
    assert followed.read_new().number.tolist() == [8]
    followed.file.close()


class Failing:
    """`os.preadv` that fails where a test says."""

    def __init__(self, monkeypatch, path, begin):
        self.left = 0
        self._preadv = os.preadv
        self._path, self._begin = path, begin
        monkeypatch.setattr(os, "preadv", self)

    def __call__(self, fd, buffers, offset, *more):
        if (
            self.left
            and offset >= self._begin
            and os.path.samestat(os.fstat(fd), self._path.stat())
        ):
            self.left -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._preadv(fd, buffers, offset, *more)


def test_a_file_that_cannot_be_read_for_a_moment_is_whole(tmp_path, tracked, monkeypatch):
    data_dir, tracker = tracked
    path = run_directory(data_dir) / file_name("img16")
    frames = made_frames("img16", 3000)
    failing = Failing(monkeypatch, path, 1_500_000)
    failing.left = 2
    append(path, frames)
    (path.parent / "recording_ended").touch()
    until(lambda: failing.left == 0, 60, "reading has failed")
    until(lambda: tracker.source.has_ended, 60, "the run has ended")
    tracker.stop_recording()
    rows, images = indexed(tmp_path)
    assert rows == [(0, number) for number in range(3000)]
    np.testing.assert_array_equal(images, frames.image)
    assert tracker.source.lost == {}


def test_a_file_that_can_never_be_read_is_counted_and_the_run_ends(tmp_path, tracked, monkeypatch):
    monkeypatch.setattr(rundir, "RETRY_LIMIT_S", 0.0)
    data_dir, tracker = tracked
    path = run_directory(data_dir) / file_name("img16")
    Failing(monkeypatch, path, 0).left = 10**9
    append(path, made_frames("img16", 10))
    (path.parent / "recording_ended").touch()
    until(lambda: tracker.source.has_ended, 60, "the run has ended")
    assert tracker.source.lost == {"file not readable": 1}


def test_a_live_file_that_cannot_be_read_for_a_moment_is_read_again(tmp_path, monkeypatch):
    path = run_directory(tmp_path) / file_name("img16")
    failing = Failing(monkeypatch, path, 0)
    append(path, made_frames("img16", 10))
    followed = Followed(path, parse_file_name(path))
    failing.left = 1
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        followed.read_new()
    assert followed.read_new().number.tolist() == [9]
    assert followed.read_new() is None
    followed.file.close()


def open_files(directory):
    """Return the files below a directory that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(descriptor.readlink())
    return [path for path in found if path.is_relative_to(directory)]


def test_a_file_beside_the_runs_does_not_hide_those_of_the_newest_run(tmp_path):
    data_dir, frames = tmp_path / "data", made_frames("img16", 4)
    run = run_directory(data_dir, 9)
    append(data_dir / file_name("img16", 9, 7), frames, 0, 1)  # somebody's copy
    append(run / file_name("img16", 9), frames, 1, 2)
    with served_here(tmp_path, data_dir) as server:
        call = server.stream()
        np.testing.assert_array_equal(decode(next(call)).image, frames.image[1])
        append(run / file_name("img16", 9), frames, 2, 3)
        np.testing.assert_array_equal(decode(next(call)).image, frames.image[2])
        call.cancel()


def test_files_that_were_rolled_over_are_closed_and_opened_when_they_grow(tmp_path, tracked):
    data_dir, tracker = tracked
    run = run_directory(data_dir)
    frames = made_frames("img16", 66)
    for seqno in range(60):
        append(run / file_name("img16", 1, seqno), frames, seqno, seqno + 1)
    until_rows(tracker, 60)
    last = run / file_name("img16", 1, 59)
    until(lambda: open_files(data_dir) == [last], 60, "the newest file only is open")
    append(run / file_name("img16", 1, 7), frames, 60, 62)
    until_rows(tracker, 62)
    (run / file_name("img16", 1, 8)).unlink()  # its inode may be given to the next file
    append(run / file_name("img16", 1, 60), frames, 62, 66)
    until_rows(tracker, 66)
    tracker.stop_recording()
    until(lambda: open_files(data_dir) == [], 60, "no file is open")
    assert rows_of(tmp_path)[59:] == [(59, 0), (7, 1), (7, 2), (60, 0), (60, 1), (60, 2), (60, 3)]
    assert tracker.source.lost == {}


def test_a_source_that_is_stopped_holds_no_file_and_goes_on_where_it_was(tmp_path):
    """Disk space of a run that is deleted after its recording is free at once."""
    path = run_directory(tmp_path) / file_name("img16")
    frames = made_frames("img16", 10)
    append(path, frames, 0, 6)
    source, numbers = RunDirectorySource(tmp_path), []

    def deliver(block):
        numbers.extend(block.frames.number.tolist())

    source.start(deliver, lambda message: None)
    until(lambda: len(numbers) == 6, 60, "the first frames came")
    source.stop()
    assert open_files(tmp_path) == []
    append(path, frames, 6, 10)
    source.start(deliver, lambda message: None)
    until(lambda: len(numbers) >= 10, 60, "the others came")
    source.close()
    assert numbers == list(range(10))
    assert source.lost == {}


def test_too_many_open_files_are_said_and_lose_nothing(tmp_path, tracked, monkeypatch):
    data_dir, tracker = tracked

    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    said = "Too many open files"
    run = run_directory(data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(PffFile, "__init__", refuse)
        append(run / file_name("img16"), made_frames("img16", 5))
        until(lambda: said in tracker.owner.state().message, 60, "the message has it")
    until_rows(tracker, 5)
    until(lambda: said not in tracker.owner.state().message, 60, "the message is another one")
    listdir = Path.iterdir
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda at: refuse() if at == run else listdir(at))
        until(lambda: said in tracker.owner.state().message, 60, "the message has it")
    append(run / file_name("img16", 1, 1), made_frames("img16", 5))
    until_rows(tracker, 10)
    assert tracker.source.lost == {}


def test_a_file_that_another_one_replaces_is_counted_and_not_mixed_with_it(tmp_path, tracked):
    data_dir, tracker = tracked
    path = run_directory(data_dir) / file_name("img16")
    append(path, made_frames("img16", 10))
    until_rows(tracker, 10)
    other = tmp_path / "other"
    append(other, made_frames("img16", 20, seed=5))
    other.replace(path)
    until(lambda: tracker.source.lost == {"file replaced": 1}, 60, "it is counted")
    tracker.stop_recording()
    assert tracker.rows()[IMG16] == 10


def test_a_module_that_appears_late_is_indexed_from_its_first_frame(tmp_path, tracked):
    data_dir, tracker = tracked
    append(run_directory(data_dir, 1) / file_name("img16", 1), made_frames("img16", 10))
    until_rows(tracker, 10)
    late = made_frames("img16", 25, seed=7, module=77)
    append(run_directory(data_dir, 77) / file_name("img16", 77), late)
    key = IndexKey(1, "img16")
    until_rows(tracker, 25, key)
    tracker.stop_recording()
    assert tracker.slots.modules == [1, 77]
    rows, images = indexed(tmp_path, key)
    assert rows == [(0, number) for number in range(25)]
    np.testing.assert_array_equal(images, late.image)


def test_frames_of_a_clock_that_steps_back_are_flagged_and_all_there(tmp_path, tracked):
    data_dir, tracker = tracked
    path = run_directory(data_dir) / file_name("img16")
    frames = made_frames("img16", 50)
    for first, last in ((0, 30), (20, 50)):  # 10 ms are there twice
        append(path, frames, first, last)
    until_rows(tracker, 60)
    tracker.stop_recording()
    rows, images = indexed(tmp_path)
    assert rows == [(0, number) for number in range(60)]
    np.testing.assert_array_equal(images[30:40], frames.image[20:30])
    assert np.flatnonzero(read_pff(path).flags & Flag.BACKWARD).tolist() == [30]


def test_runs_of_years_are_looked_at_once_while_none_comes_or_goes(tmp_path, monkeypatch):
    now, listed, entries, begun_ns = [100.0], [], follow._entries, time.time_ns()
    clock = SimpleNamespace(monotonic=lambda: now[0], time_ns=lambda: begun_ns)
    monkeypatch.setattr(follow, "time", clock)
    monkeypatch.setattr(follow, "_entries", lambda path: listed.append(path) or entries(path))
    runs = [run_directory(tmp_path, 1, name) for name in ("a", "b", "c")]
    for number, run in enumerate(runs):
        append(run / file_name("img16"), made_frames("img16", 1))
        os.utime(run, (1000 + number,) * 2)

    def at_rest(*paths):
        for path in paths:
            os.utime(path, (5000 + now[0],) * 2)

    at_rest(tmp_path, runs[0].parent)
    finder = RunFinder(tmp_path)
    assert finder.directories() == [tmp_path, runs[2]]
    listed.clear()
    os.utime(runs[0], (2000, 2000))
    assert finder.directories() == [tmp_path, runs[2]]
    assert listed == [tmp_path]  # for new modules
    now[0] += 10.0
    assert finder.directories() == [tmp_path, runs[0]]
    new = run_directory(tmp_path, 1, "d")
    assert finder.directories() == [tmp_path, new, runs[0]]
    append(new / file_name("img16"), made_frames("img16", 1))
    assert finder.directories() == [tmp_path, new]  # its directory has just been changed
    other = run_directory(tmp_path, 2, "d")
    at_rest(tmp_path, new.parent, other.parent)
    assert finder.directories() == [tmp_path, other, new]
    listed.clear()
    assert finder.directories() == [tmp_path, other, new]
    assert listed == [tmp_path]
    shutil.rmtree(new)
    assert finder.directories() == [tmp_path, other, runs[0]]


def test_a_run_that_begins_after_the_clock_was_set_back_is_the_newest(tmp_path):
    old = run_directory(tmp_path, 1, "old")
    append(old / file_name("img16"), made_frames("img16", 5))
    hour_ahead = time.time() + 3600
    os.utime(old, (hour_ahead, hour_ahead))
    finder = RunFinder(tmp_path)
    assert old in finder.directories()
    with served_here(tmp_path, tmp_path) as server:
        call = server.stream(ph=False, timeout=60)
        assert decode(next(call)).frame_number == 4
        new = run_directory(tmp_path, 1, "new")
        assert finder.directories()[1:] == [new, old]  # it has no file yet
        append(new / file_name("img16"), made_frames("img16", 2, seed=3))
        image = decode(next(call))
        call.cancel()
    assert image.frame_number == 1
    assert finder.directories()[1:] == [new]
    np.testing.assert_array_equal(image.image, made_frames("img16", 2, seed=3).image[1])


def test_a_file_that_cannot_be_opened_is_logged_once_and_read_when_it_can_be(tmp_path, caplog):
    run = run_directory(tmp_path / "data")
    path = run / file_name("img16")
    path.symlink_to(tmp_path / "away")
    finder = RunFinder(tmp_path / "data")

    def errors():
        return [record.message for record in caplog.records if record.levelname == "ERROR"]

    with served_here(tmp_path, tmp_path / "data") as server:
        call = server.stream(timeout=60)
        until(errors, 30, "the file was tried")
        for number in range(3):  # each is found by a scan of its own
            other = run / file_name("img8", 2, number)
            append(other, made_frames("img8", 2, module=2))
            assert decode(next(call)).file == other.name
        assert len(errors()) == 1
        assert path.name in errors()[0]
        append(tmp_path / "away", made_frames("img16", 2))
        assert decode(next(call)).file == path.name
        call.cancel()
    assert finder.directories() == [tmp_path / "data", run]


@pytest.mark.parametrize("odd", [b"seqno_0", b"debug_\xe9.seqno_0"])
def test_a_file_that_cannot_be_indexed_is_logged_and_counted_once(tmp_path, tracked, caplog, odd):
    data_dir, tracker = tracked
    run = run_directory(data_dir)
    path = os.fsencode(run / file_name("img16")).replace(b"seqno_0", odd)
    Path(os.fsdecode(path)).symlink_to(run / "away")
    for number in range(1, 4):  # each is found by a scan of its own
        append(run / file_name("ph256", 1, number), made_frames("ph256", 2))
        until_rows(tracker, 2 * number, IndexKey(0, "ph256"))
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1
    assert tracker.source.lost == {"file not readable": 1}
    (tmp_path / "next").mkdir()
    assert tracker.start_recording(tmp_path / "next/index.h5") == ""
    until(lambda: tracker.unread == 1, 60, "the next recording counts it too")
    append(run / "away", made_frames("img16", 3))
    if odd == b"seqno_0":
        until_rows(tracker, 3)
        assert not tracker.source.lost.get("file not readable")
    append(run / file_name("img16", 1, 1), made_frames("img16", 3))
    until_rows(tracker, 6 if odd == b"seqno_0" else 3)
    assert not tracker.error


def test_a_file_that_a_disk_does_not_give_is_logged_once_and_read_when_it_does(
    tmp_path, monkeypatch, caplog
):
    path = run_directory(tmp_path) / file_name("img16")
    append(path, made_frames("img16", 2))
    followed, fails, stat = Followed(path, parse_file_name(path)), True, PffFile.stat

    def failing(file):
        if fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stat(file)

    monkeypatch.setattr(PffFile, "stat", failing)

    def read():
        with faults_logged(followed):
            return followed.read_new()

    for _ in range(2):
        assert read() is None
        assert read() is None
        assert len(caplog.records) == 1
        caplog.clear()
        fails = False
        frames = read()
        fails = True
    assert frames is None  # the second time it has not grown
    followed.file.close()


def test_years_of_runs_are_listed_without_a_question_for_each_of_their_names(tmp_path, monkeypatch):
    runs = [run_directory(tmp_path, 1, str(number)) for number in range(20)]
    (tmp_path / "module_1" / "nowhere").symlink_to(tmp_path / "gone")
    for number, run in enumerate(runs):
        append(run / file_name("img16"), made_frames("img16", 1))
        os.utime(run, (number, number))
    asked, stat = [], Path.stat

    def counted(path, **options):
        asked.append(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", counted)
    assert RunFinder(tmp_path).directories() == [tmp_path, runs[-1]]
    assert not asked


def test_a_full_disk_ends_the_simulated_run_and_the_next_one_is_whole(tmp_path, monkeypatch):
    settings = ArraySettings(modules=(250,))
    runs = SimulatedRuns(tmp_path, settings, movie_period_s=0.01)
    first = runs.start()
    movie = next((tmp_path / "module_250" / first).glob("*img16*"))
    until(lambda: movie.stat().st_size > 0, 60, "frames are written")
    write = os.write

    def full(fd, data):
        if Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    until(lambda: not runs.is_running, 60, "the run has ended")
    assert "No space left" in runs.error
    monkeypatch.undo()
    read_pff(movie)  # what was written is whole
    second = runs.start()
    assert runs.error == ""
    movie = next((tmp_path / "module_250" / second).glob("*img16*"))
    until(lambda: movie.stat().st_size > 0, 60, "frames are written")
    runs.stop()
    assert runs.error == ""
    frames = read_pff(movie)
    assert (np.diff(frames.time_ns) > 0).all()
    with PffFile(movie) as file:
        assert file.size % file.layout.frame_bytes == 0


def test_a_disk_too_full_for_the_index_is_said_and_the_next_index_is_whole(
    tmp_path, tracked, monkeypatch
):
    data_dir, tracker = tracked
    path = run_directory(data_dir) / file_name("img16")
    frames = made_frames("img16", 30)
    append(path, frames, 0, 10)
    until_rows(tracker, 10)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(IndexWriter, "append", full)
    append(path, frames, 10, 20)
    until(lambda: "No space left" in tracker.error, 60, "the tracker has the error")
    monkeypatch.undo()
    append(path, frames, 20, 30)
    tracker.stop_recording()
    rows, _ = indexed(tmp_path)
    assert rows == [(0, number) for number in range(len(rows))]  # what is there is right
    (tmp_path / "again").mkdir()
    assert tracker.start_recording(tmp_path / "again/index.h5") == ""
    until_rows(tracker, 30)
    tracker.stop_recording()
    assert tracker.error == ""
    rows, images = indexed(tmp_path / "again")
    assert rows == [(0, number) for number in range(30)]
    np.testing.assert_array_equal(images, frames.image)


def test_a_flood_of_clients_is_served_and_forgotten(tmp_path):
    data_dir = tmp_path / "data"
    path = run_directory(data_dir) / file_name("img16")
    frames = made_frames("img16", 2)
    append(path, frames, 0, 1)
    config = {"max_concurrent_rpcs": 300}
    with served(tmp_path, "--data-dir", data_dir, config=config) as server:
        before = server.descriptors
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(server.address, options) for _ in range(20)]
        calls = [
            server.stream(stub=Stub(channels[number % 20]), timeout=300) for number in range(300)
        ]
        assert {decode(next(call)).frame_number for call in calls} == {0}
        append(path, frames, 1, 2)
        assert {decode(next(call)).frame_number for call in calls} == {1}
        server.ping(timeout=90)
        for call in calls:
            call.cancel()
        for channel in channels:
            channel.close()
        until(lambda: server.descriptors <= before + 3, 60, "their connections are closed")
        assert server.images(1)[0].frame_number == 1


def test_a_server_that_is_killed_and_started_again_serves_the_same_clients(tmp_path):
    data_dir = tmp_path / "data"
    path = run_directory(data_dir) / file_name("img16")
    frames = made_frames("img16", 2)
    append(path, frames, 0, 1)
    with served(tmp_path, "--data-dir", data_dir) as server:
        call = server.stream()
        assert decode(next(call)).frame_number == 0
        server.process.kill()
        with pytest.raises(grpc.RpcError) as ended:
            next(call)
        assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
        append(path, frames, 1, 2)
        port = server.address.rpartition(":")[2]
        with served(tmp_path, "--data-dir", data_dir, "--port", port):
            server.stub.Ping(Empty(), timeout=60, wait_for_ready=True)  # over the same channel
            assert server.images(1)[0].frame_number == 1


def test_a_source_that_does_not_start_leaves_no_recording(tmp_path, monkeypatch):
    """The IOC must not say that frames are indexed: the plan would wait for them for a day."""
    run = run_directory(tmp_path / "data")
    append(run / file_name("img16"), made_frames("img16", 5))
    tracker = Tracker(RunDirectorySource(tmp_path / "data"))
    with monkeypatch.context() as failing:
        failing.setattr(tracker.owner, "acquire", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tracker.start_recording(tmp_path / "first.h5")
    assert not tracker.is_recording
    assert all(recorder.path is None for recorder in tracker.recorders.values())
    (tmp_path / "taken_events.h5").mkdir()
    assert "taken_events.h5" in tracker.start_recording(tmp_path / "taken.h5")
    assert not tracker.is_recording
    assert tracker.start_recording(tmp_path / "index.h5") == ""
    assert tracker.is_recording
    until_rows(tracker, 5)
    tracker.close()


def test_an_owner_that_is_started_again_indexes_each_frame_once(tmp_path):
    run = run_directory(tmp_path / "data")
    frames = made_frames("ph256", 300)
    key = IndexKey(0, "ph256")
    for name, first, last in (("first", 0, 200), ("index", 200, 300)):
        append(run / file_name("ph256"), frames, first, last)
        tracker = Tracker(RunDirectorySource(tmp_path / "data"))
        assert tracker.start_recording(tmp_path / f"{name}.h5") == ""
        until_rows(tracker, last, key)
        tracker.close()  # without an end of its recording
    rows, images = indexed(tmp_path, key)
    assert rows == [(0, number) for number in range(300)]
    np.testing.assert_array_equal(images, frames.image)


@pytest.mark.parametrize("buffered", [False, True])
def test_a_fast_simulated_movie_rolls_over_and_is_indexed_once(tracked, tmp_path, buffered):
    data_dir, tracker = tracked
    settings = ArraySettings(modules=(250,), unlocked=(250,), packet_loss=0.0)
    runs = SimulatedRuns(
        data_dir, settings, movie_period_s=20e-6, buffered=buffered,
        products=("img8", "ph1024"), max_file_bytes=4_000_000,
    )  # fmt: skip
    run = runs.start()
    key = IndexKey(0, "img8")
    until_rows(tracker, 8_000, key)
    runs.stop()
    assert runs.error == ""
    files = sorted(
        (data_dir / "module_250" / run).glob("*img8*"),
        key=lambda path: parse_file_name(path).seqno,
    )
    counts = []
    for path in files:
        with PffFile(path) as file:
            counts.append(len(file))
            assert file.size == len(file) * 1516
    assert len(files) >= 3
    assert all(count == -(-4_000_000 // 1516) for count in counts[:-1])
    until_rows(tracker, sum(counts), key)
    tracker.stop_recording()
    rows, images = indexed(tmp_path, key)
    assert len(rows) == len(set(rows)) == len(images) == sum(counts)
    np.testing.assert_array_equal(images[-1], read_pff(files[-1]).image[-1])
    with open_reader("application/x-pff", tmp_path / "index_m1_img8.h5", "img8") as reader:
        numbers, flags = (reader.read(f"/entry/index/{each}") for each in ("header", "flags"))
    sent = numbers[:, 0, NUM]
    assert set(np.diff(sent) % 65536) == {1}  # each frame once, in order
    assert set(flags) == {int(Flag.UNLOCKED)}
    pulses = next((data_dir / "module_250" / run).glob("*ph1024*"))
    assert pulses.stat().st_size > 0
    assert tracker.clocks == dict.fromkeys([(0, board) for board in range(4)], False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"products": ("img32",)}, "img32"),
        ({"movie_period_s": 1e-6}, "at least 2e-05 s"),
        ({"settings": ArraySettings(unlocked=(7,))}, r"no module \[7\]"),
    ],
)
def test_an_impossible_simulation_is_refused(tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        SimulatedRuns(tmp_path, **wrong)


def test_a_run_has_not_ended_while_its_next_frames_are_taken(tmp_path, monkeypatch):
    run = run_directory(tmp_path)
    append(run / file_name("img16"), made_frames("img16", 5))
    (run / "recording_ended").touch()
    source = RunDirectorySource(tmp_path)
    source.open()
    while source.next(0.0) is not None:
        pass
    idle_since = source._idle_since

    def monotonic():
        source._idle_since = 0.0  # the source's thread has found new frames
        return idle_since + 0.1

    monkeypatch.setattr(rundir, "time", SimpleNamespace(monotonic=monotonic, time=time.time))
    assert idle_since
    assert not source.has_ended
    source.close()


def test_after_the_clock_was_set_back_an_empty_run_of_before_is_not_followed(tmp_path):
    data_dir = tmp_path / "data"
    run = run_directory(data_dir, 1, "whole")
    append(run / file_name("img16"), made_frames("img16", 5))
    empty = run_directory(data_dir, 1, "empty")
    hour_ahead = time.time() + 3600
    os.utime(empty, (hour_ahead, hour_ahead))
    source = RunDirectorySource(data_dir)
    assert source.newest == run.name
    source.close()
