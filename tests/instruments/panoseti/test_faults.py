"""What goes wrong while a run is taken: each frame is in the index once, and live clients go on."""

import errno
import os
import shutil
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.empty_pb2 import Empty
from support.pano_files import file_name, made_frames, run_directory
from support.pano_server import served, served_here
from support.waiting import until

from skywright.acquire.index_layout import IndexFile
from skywright.errors import DataError
from skywright.files.readers import open_reader
from skywright.instruments.panoseti.clock import Flag
from skywright.instruments.panoseti.live.follow import RunFinder
from skywright.instruments.panoseti.pff import PffFile, read_pff
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.sources.rundir import RunDirectorySource
from skywright.instruments.panoseti.tracking import IndexKey, Tracker
from skywright.instruments.panoseti.twin.run import SimulatedRuns
from skywright.instruments.panoseti.twin.sky import ArraySettings
from skywright.wire.daqdata.encode import decode
from skywright.wire.daqdata.methods import Stub

IMG16 = IndexKey(0, "img16")


def append(path, frames, first=0, last=None):
    with path.open("ab", buffering=0) as out:
        out.write(encode_frames(frames[first:last]))


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


def indexed(tmp_path, key=IMG16):
    """Return (sequence number, frame) of each row of an index, and its images."""
    product = key.product
    with open_reader("application/x-pff", tmp_path / f"index_{key.name}.h5", product) as reader:
        columns = [reader.read(f"/entry/index/{name}") for name in ("file", "frame")]
        images = reader.read(product)
    return list(zip(*(column.tolist() for column in columns), strict=True)), images


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


def test_a_directory_that_is_deleted_keeps_its_rows_and_the_next_run_is_indexed(tmp_path, tracked):
    data_dir, tracker = tracked
    frames = made_frames("img16", 60)
    gone = run_directory(data_dir)
    append(gone / file_name("img16"), frames, 0, 40)
    until_rows(tracker, 40)
    shutil.rmtree(data_dir / "module_1")
    append(run_directory(data_dir, 1, "again") / file_name("img16"), frames, 40, 60)
    until_rows(tracker, 60)
    tracker.stop_recording()
    with open_reader("application/x-pff", tmp_path / "index_m1_img16.h5", "img16") as reader:
        times = reader.read("/entry/index/time_ns")
        np.testing.assert_array_equal(times, frames.time_ns)
        np.testing.assert_array_equal(reader.read("img16", 40, 60), frames.image[40:])
        with pytest.raises((DataError, OSError), match=str(gone)):
            reader.read("img16", 0, 1)


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

    monkeypatch.setattr(IndexFile, "append", full)
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
    with served(tmp_path, "--data-dir", data_dir) as server:
        before = server.descriptors
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(server.address, options) for _ in range(20)]
        calls = [
            server.stream(stub=Stub(channels[number % 20]), timeout=300) for number in range(300)
        ]
        assert {decode(next(call)).frame_number for call in calls} == {0}
        append(path, frames, 1, 2)
        assert {decode(next(call)).frame_number for call in calls} == {1}
        server.ping(timeout=30)
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
