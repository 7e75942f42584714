"""Sources beside the simulation: a stored run that is played back, packets over UDP."""

import asyncio
import errno
import os
import shutil
import socket
import threading
from itertools import pairwise

import numpy as np
import pytest
from support.pano_files import START_S, append, file_name, made_frames, run_directory
from support.waiting import until

from iocs.panoseti.live import LiveFrames
from skywright.errors import ConfigError, DataError, HardwareError
from skywright.files.readers import open_reader
from skywright.instruments.panoseti.clock import NS, SEC, Flag
from skywright.instruments.panoseti.live.client import stream
from skywright.instruments.panoseti.live.slots import Slots
from skywright.instruments.panoseti.packets import make_packets
from skywright.instruments.panoseti.pff import PffFile, read_pff
from skywright.instruments.panoseti.pff_writer import encode_frames
from skywright.instruments.panoseti.products import PRODUCTS
from skywright.instruments.panoseti.sources import packets
from skywright.instruments.panoseti.sources.packets import (
    HOLD_S,
    FrameGrouper,
    PacketSource,
    ReceivedRuns,
)
from skywright.instruments.panoseti.sources.replay import ReplaySource
from skywright.instruments.panoseti.sources.run_writer import RunWriter
from skywright.instruments.panoseti.tracking import IndexKey, Tracker

LICK = "module_1/obs_Lick.start_2024-07-25T04:34:06Z.runtype_sci-data.pffd"


class Clock:
    """Time that a test sets."""

    now = 100.0

    def __call__(self):
        return self.now


def all_due(source):
    """Return the blocks that are due now."""
    blocks = []
    while (block := source.next(0.0)) is not None:
        blocks.append(block)
    return blocks


def frames_of(blocks):
    return sum(len(block.frames) for block in blocks)


def test_a_run_is_played_in_its_own_time_and_stands_still_while_stopped(tmp_path):
    run = run_directory(tmp_path)
    for seqno in range(2):  # 1 ms apart; the second file repeats the times of the first
        path = run / file_name("img16", 1, seqno)
        path.write_bytes(encode_frames(made_frames("img16", 50, seed=seqno)))
    clock = Clock()
    source = ReplaySource(run, speed=2.0, clock=clock)
    source.open()
    first = frames_of(all_due(source))
    assert first == 1
    clock.now += 0.010_2
    assert frames_of(all_due(source)) == 20
    source.halt()
    clock.now += 60.0
    source.open()
    assert frames_of(all_due(source)) == 0
    clock.now += 0.010_2
    assert frames_of(all_due(source)) == 20
    assert not source.has_ended
    clock.now += 0.006
    rest = all_due(source)
    # Frames that are earlier than those before them come with them.
    assert [len(block.frames) for block in rest] == [9, 50]
    assert [block.path.name for block in rest] == [file_name("img16", 1, n) for n in (0, 1)]
    assert source.has_ended
    source.rewind()
    assert not source.has_ended
    source.close()


@pytest.mark.parametrize("wrong", [0, 1, 20, 48, 49])
def test_a_frame_dated_far_ahead_holds_up_no_other_one(tmp_path, wrong):
    run, frames = run_directory(tmp_path), made_frames("img16", 50)
    frames.numbers[wrong, :, SEC] += 100 * 86_400
    (run / file_name("img16")).write_bytes(encode_frames(frames))
    (run / file_name("img16", 1, 1)).write_bytes(encode_frames(made_frames("img16", 3, seed=2)))
    clock = Clock()
    source = ReplaySource(run, clock=clock)
    source.open()
    early = frames_of(all_due(source))
    assert early <= 3
    clock.now += 0.030
    assert 29 <= early + frames_of(all_due(source)) <= 33
    clock.now += 0.021
    all_due(source)
    assert source.has_ended
    source.close()


@pytest.mark.parametrize(
    ("counts", "wrong"),
    [
        ([50], {20, 21}),
        ([50], {0, 1}),
        ([50], {48, 49}),
        ([24, 26], {23, 24}),
        ([30, 1, 19], {30}),
        ([1, 49], {0}),
        ([49, 1], {49}),
        ([48, 1, 1], {48, 49}),
        ([1, 1, 1], {1}),
    ],
)
def test_frames_dated_far_ahead_hold_up_no_others_across_files(tmp_path, counts, wrong):
    run, frames = run_directory(tmp_path), made_frames("img16", sum(counts))  # 1 ms apart
    frames.numbers[sorted(wrong), :, SEC] += 100 * 86_400
    begins = np.cumsum([0, *counts])
    for seqno, (first, last) in enumerate(pairwise(begins)):
        append(run / file_name("img16", 1, seqno), frames, first, last)
    clock = Clock()
    source = ReplaySource(run, clock=clock)
    source.open()
    played = 0
    for milliseconds in range(sum(counts)):
        played += frames_of(all_due(source))
        assert milliseconds - 4 <= played <= milliseconds + 6
        clock.now += 0.001
    assert played == sum(counts)
    assert source.has_ended
    source.close()


def recorded_twice(source, directory):
    """Record a run that is played at once, two times; yield the tracker after each."""
    tracker = Tracker(source)
    try:
        for name in ("one", "two"):
            assert tracker.start_recording(directory / f"{name}.h5") == ""
            until(lambda: source.has_ended, 60, "the run is played")
            tracker.stop_recording()
            yield tracker
    finally:
        tracker.close()


def test_a_replay_that_begins_anew_counts_no_loss_twice(tmp_path):
    run = run_directory(tmp_path)
    (run / file_name("img16", 1)).write_bytes(b"GARBAGE" * 1000)
    data = encode_frames(made_frames("img16", 7))
    (run / file_name("img16", 2)).write_bytes(data[: len(data) // 2] + data)
    source = ReplaySource(run, speed=0)
    for tracker in recorded_twice(source, tmp_path):
        assert tracker.rows()[IndexKey(0, "img16")] == 10
        assert source.lost == {"file not readable": 1, "frame torn": 1}
        assert tracker.unread == 1


def test_a_run_that_begins_with_a_frame_without_a_time_is_played(tmp_path):
    run, frames = run_directory(tmp_path), made_frames("img16", 9)
    frames.numbers[:2] = 0
    (run / file_name("img16")).write_bytes(encode_frames(frames))
    clock = Clock()
    source = ReplaySource(run, clock=clock)
    source.open()
    assert frames_of(all_due(source)) == 3
    clock.now += 0.010
    assert frames_of(all_due(source)) == 6
    source.close()


def test_a_replay_that_two_threads_stop_has_played_the_time_until_then(tmp_path):
    run = run_directory(tmp_path)
    (run / file_name("img16")).write_bytes(encode_frames(made_frames("img16", 50)))  # 1 ms apart
    now = [100.0]

    def clock():
        if stopping:
            stopping.pop().halt()  # the other thread
        return now[0]

    stopping = []
    source = ReplaySource(run, clock=clock)
    source.open()
    now[0] += 0.010_2
    stopping.append(source)
    source.halt()
    source.open()
    assert frames_of(all_due(source)) == 11
    source.close()


def test_a_real_run_is_replayed_into_the_indexes_frame_by_frame(test_data, tmp_path):
    run = test_data / "panoseti/data_dir" / LICK
    source = ReplaySource(run, speed=0)
    for tracker in recorded_twice(source, tmp_path):
        rows = tracker.rows()
        assert rows[IndexKey(0, "img16")] == 250
        assert rows[IndexKey(0, "ph256")] == 800
        assert tracker.events.rows_readable == 800
    movie = read_pff(next(run.glob("*img16*")))
    with open_reader("application/x-pff", tmp_path / "two_m1_img16.h5", "img16") as reader:
        np.testing.assert_array_equal(reader.read("img16"), movie.image)
        np.testing.assert_array_equal(reader.read("/entry/index/time_ns"), movie.time_ns)


def test_a_replay_of_nothing_says_so(tmp_path):
    with pytest.raises(DataError, match="no PFF files"):
        ReplaySource(run_directory(tmp_path))
    with pytest.raises(DataError, match="is no directory"):
        ReplaySource(tmp_path / "gone")


def test_a_file_that_ends_badly_is_counted_and_the_others_come(tmp_path):
    run = run_directory(tmp_path)
    (run / file_name("img16", 1)).write_bytes(b"GARBAGE" * 1000)
    (run / file_name("img16", 2)).write_bytes(encode_frames(made_frames("img16", 7)))
    source = ReplaySource(run, speed=0)
    source.open()
    assert frames_of(all_due(source)) == 7
    assert source.lost == {"file not readable": 1}
    source.close()


def test_a_file_that_a_disk_does_not_give_is_counted_and_the_others_come(tmp_path, monkeypatch):
    run, read = run_directory(tmp_path), PffFile.read
    for module in (1, 2):
        frames = made_frames("ph256", 3000, module=module)
        (run / file_name("ph256", module)).write_bytes(encode_frames(frames))

    def fail(file, start=0, *more):
        if file.name.module == 1 and start >= 1024:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(file, start, *more)

    monkeypatch.setattr(PffFile, "read", fail)
    source = ReplaySource(run, speed=0)
    source.open()
    blocks = all_due(source)
    assert frames_of(block for block in blocks if block.frames.module == 1) == 1024
    assert frames_of(block for block in blocks if block.frames.module == 2) == 3000
    assert source.has_ended
    assert source.lost == {"file not readable": 1}
    source.close()


def packets_of(product, count, period_ns=1_000_000, module=254, seed=0):
    """Return (N * 4,) packets of whole frames with random pixels, in the order of time."""
    kind = PRODUCTS[product]
    rng = np.random.default_rng(seed)
    board = np.tile(np.arange(4), count)
    times = START_S * NS + np.repeat(np.arange(count) * period_ns, 4) + 8 * board
    number = np.repeat(65_530 + np.arange(count), 4)
    pixels = rng.integers(0, 255, (len(board), 16, 16)).astype(kind.dtype)
    return make_packets(kind, module, board, times, number, pixels)


def test_packets_out_of_order_make_whole_frames():
    kind = PRODUCTS["img16"]
    packets = packets_of("img16", 100)
    arrival = START_S * NS + 1_000 * np.arange(len(packets))
    expected = FrameGrouper(kind).add(packets, arrival)
    assert len(expected) == 100
    assert (expected.flags == 0).all()
    order = np.arange(400)
    order[[4, 399]] = [4, 399]
    order[1:399:2], order[2:399:2] = order[2:399:2].copy(), order[1:399:2].copy()
    found = FrameGrouper(kind).add(packets[order], arrival)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.time_ns, expected.time_ns)


def test_a_frame_waits_for_its_packets_and_is_then_written_without_them():
    grouper = FrameGrouper(PRODUCTS["img16"])
    packets = packets_of("img16", 3)
    now = START_S * NS
    arrival = np.full(12, now)
    late = 6  # of the second frame
    first = grouper.add(np.delete(packets, late), arrival[1:], now)
    assert len(first) == 1
    second = grouper.add(packets[late : late + 1], arrival[:1], now + 1000)
    assert len(second) == 2
    assert (second.flags == 0).all()
    again = FrameGrouper(PRODUCTS["img16"])
    assert len(again.add(np.delete(packets, late), arrival[1:], now)) == 1
    rest = again.add(packets[:0], arrival[:0], now + round(HOLD_S * NS))
    assert rest.flags.tolist() == [Flag.MISSING_QUABO, 0]
    assert rest.present[0].tolist() == [True, True, False, True]


def test_a_computer_clock_that_is_set_back_delays_no_frames():
    grouper = FrameGrouper(PRODUCTS["img16"])
    packets = packets_of("img16", 3)
    now, back = START_S * NS, 1024 * NS  # the boards have the same seconds then
    assert len(grouper.add(packets[:3], np.full(3, now), now)) == 0  # the fourth never comes
    found = grouper.add(packets[4:], np.full(8, now - back), now - back)
    assert found.flags.tolist() == [Flag.MISSING_QUABO, 0, 0]


def test_packets_over_udp_are_frames_of_a_tracked_run(tmp_path):
    # A packet that this process sends late is not lost: frames wait for it.
    runs = ReceivedRuns(tmp_path / "data", "127.0.0.1", 0, hold_s=600.0)
    tracker = Tracker(PacketSource(runs))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        run = runs.start()
        assert tracker.start_recording(tmp_path / "index.h5") == ""
        movie = packets_of("img16", 60)
        pulses = packets_of("ph256", 10, module=3)
        lost = 37
        for number, packet in enumerate([*np.delete(movie, lost), *pulses], 1):
            sender.sendto(packet.tobytes(), runs.address)
            if number % 40 == 0:  # the socket holds some hundred
                until(lambda count=number: runs.received >= count, 60, "packets are received")
        for wrong in (b"", b"\x01" * 20, b"\x09" + bytes(527)):
            sender.sendto(wrong, runs.address)
        slots = tracker.slots
        until(lambda: len(slots.modules) == 2, 60, "both modules have frames")
        until(lambda: tracker.source.lost.get("no science packet") == 3, 60, "all is received")
        runs.stop()
        until(lambda: tracker.source.has_ended, 60, "the run has ended")
        tracker.stop_recording()
        rows = tracker.rows()
        assert rows[IndexKey(slots.slot(254), "img16")] == 60
        assert rows[IndexKey(slots.slot(3), "ph256")] == tracker.events.rows_readable == 40
        assert tracker.source.lost == {"no science packet": 3, "packet missing": 1}
    finally:
        sender.close()
        tracker.close()
    whole = FrameGrouper(PRODUCTS["img16"]).add(movie, np.zeros(240, np.int64))
    written = read_pff(next((tmp_path / "data/module_254" / run).glob("*img16*")))
    assert np.flatnonzero(written.flags & Flag.MISSING_QUABO).tolist() == [lost // 4]
    good = np.delete(np.arange(60), lost // 4)
    np.testing.assert_array_equal(written.image[good], whole.image[good])
    np.testing.assert_array_equal(written.numbers[good, :, :3], whole.numbers[good, :, :3])
    assert (tmp_path / "data" / run / "recording_ended").is_file()


@pytest.mark.parametrize(("product", "frames"), [("img16", 5), ("ph256", 20)])
def test_a_packet_that_comes_twice_is_in_one_frame(tmp_path, product, frames):
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0, hold_s=600.0)
    run = runs.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sent = packets_of(product, 5)
        for number, packet in enumerate(sent):
            sender.sendto(packet.tobytes(), runs.address)
            if number % 4 == 2:  # the last one is already followed by that of another board
                sender.sendto(sent[number - 1].tobytes(), runs.address)
            sender.sendto(packet.tobytes(), runs.address)
        until(lambda: runs.received == 45, 60, "all packets are received")
    runs.stop()
    runs.close()
    written = read_pff(next((tmp_path / "module_254" / run).glob(f"*{product}*")))
    assert len(written) == frames
    assert not (written.flags & Flag.MISSING_QUABO).any()
    assert runs.lost == {}


def test_a_second_run_does_not_hold_packets_of_the_first(tmp_path):
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0, grouped=True, modules=frozenset({9}))
    names, counts = [], []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for count in (3, 5):
            names.append(runs.start())
            for packet in (*packets_of("ph1024", count, module=9), *packets_of("ph1024", 2)):
                sender.sendto(packet.tobytes(), runs.address)
            directory = tmp_path / "module_9" / names[-1]
            until(lambda at=directory: list(at.glob("*ph1024*")), 60, "a file is there")
            runs.stop()
            with PffFile(next(directory.glob("*ph1024*"))) as file:
                counts.append(len(file))
    runs.close()
    assert counts == [3, 5]
    assert all(a != b for a, b in pairwise(names))
    assert not (tmp_path / "module_254").exists()


def test_a_packet_with_odd_times_does_not_end_the_run(tmp_path):
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    run = runs.start()
    sent = packets_of("ph256", 3)
    sent["pkt_nsec"][2], sent["pkt_tai"][5] = 2_150_000_000, 1024 * 64 + 7
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for packet in sent:
            sender.sendto(packet.tobytes(), runs.address)
    runs.stop()
    assert runs.error == ""
    runs.close()
    written = read_pff(next((tmp_path / "module_254" / run).glob("*ph256*")))
    assert len(written) == 12
    assert (written.numbers[2, 0, 2], written.numbers[5, 0, 1]) == (999_999_999, 7)


def test_frames_that_cannot_be_written_are_counted_and_those_of_other_modules_come(
    tmp_path, monkeypatch
):
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    append = RunWriter.append

    def refusing(writer, frames):
        if len(frames) and frames.module == 3:
            raise DataError("no room in the header")
        append(writer, frames)

    monkeypatch.setattr(RunWriter, "append", refusing)
    run = runs.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for module in (3, 254):
            for packet in packets_of("ph256", 2, module=module):
                sender.sendto(packet.tobytes(), runs.address)
    runs.stop()
    runs.close()
    assert runs.error == ""
    assert runs.lost == {"packet not writable": 8}
    assert len(read_pff(next((tmp_path / "module_254" / run).glob("*ph256*")))) == 8


def test_a_module_whose_directory_cannot_be_made_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "module_3").touch()
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    run = runs.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for count in (1, 2):
            for module in (3, 254):
                for packet in packets_of("ph256", 1, module=module, seed=count):
                    sender.sendto(packet.tobytes(), runs.address)
            until(lambda at=count: runs.error or runs.lost.get("packet not writable") == 4 * at)
    runs.close()
    assert runs.error == ""
    assert caplog.text.count("module 3, ph256: ") == 1
    assert len(read_pff(next((tmp_path / "module_254" / run).glob("*ph256*")))) == 8


def test_an_error_that_ends_a_run_of_packets_is_said(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(RunWriter, "append", fail)
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    runs.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(packets_of("ph256", 1)[0].tobytes(), runs.address)
        until(lambda: not runs.is_running, 60, "the run has ended")
    assert "of all things" in runs.error
    runs.close()


def test_a_run_of_boards_that_never_pause_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(packets, "DRAIN_S", 0.1)
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    packet, ended = packets_of("ph256", 1)[0].tobytes(), threading.Event()

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not ended.wait(0.001):
                sender.sendto(packet, runs.address)

    boards = threading.Thread(target=send)
    boards.start()
    try:
        for _ in range(2):
            runs.start()
            before = runs.received
            until(lambda at=before: runs.received > at, 60, "packets come")
            runs.stop()
            assert not runs.is_running
    finally:
        ended.set()
        boards.join()
        runs.close()


def test_a_run_that_does_not_end_is_not_followed_by_a_second_one(tmp_path, monkeypatch):
    monkeypatch.setattr(packets.ReceivedRuns, "stop_s", 0.05)
    disk = threading.Event()
    monkeypatch.setattr(RunWriter, "append", lambda *_: disk.wait(60))
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    runs.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(packets_of("ph256", 1)[0].tobytes(), runs.address)
    until(lambda: runs.received, 60, "the packet is there")
    with pytest.raises(HardwareError, match="does not end"):
        runs.stop()
    assert runs.is_running
    with pytest.raises(HardwareError, match="is under way"):
        runs.start()
    disk.set()
    monkeypatch.setattr(packets.ReceivedRuns, "stop_s", 60.0)
    runs.close()
    assert not runs.is_running


def test_a_run_without_packets_has_no_frames_of_the_run_before(tmp_path):
    runs = ReceivedRuns(tmp_path / "data", "127.0.0.1", 0)
    tracker = Tracker(PacketSource(runs))
    try:
        assert tracker.source.run == ""
        for name, sent in (("one", 4), ("two", 0)):
            run = runs.start()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for packet in packets_of("ph256", 10)[:sent]:
                    sender.sendto(packet.tobytes(), runs.address)
            assert tracker.start_recording(tmp_path / f"{name}.h5") == ""
            assert tracker.source.run == run
            until(
                lambda count=sent: tracker.events.rows_readable == count, 60, "packets are indexed"
            )
            runs.stop()
            until(lambda: tracker.source.has_ended, 60, "the run has ended")
            tracker.stop_recording()
            assert tracker.events.rows_readable == sent
    finally:
        tracker.close()


def test_after_a_restart_the_newest_run_of_packets_is_found(tmp_path):
    before = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    run = before.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(packets_of("ph256", 1)[0].tobytes(), before.address)
        until(lambda: before.received, 60, "the packet is there")
    before.close()
    source = PacketSource(ReceivedRuns(tmp_path, "127.0.0.1", 0))
    assert source.run == run
    assert source.runs.start() == source.run != run
    source.close()


@pytest.mark.parametrize(("bytes_wanted", "warns"), [(8192, False), (1 << 30, True)])
def test_a_receive_buffer_that_the_kernel_limits_is_logged_once(
    tmp_path, monkeypatch, caplog, bytes_wanted, warns
):
    monkeypatch.setattr(packets, "RECEIVE_BYTES", bytes_wanted)
    ReceivedRuns(tmp_path, "127.0.0.1", 0).close()
    assert caplog.text.count("sysctl -w net.core.rmem_max=1073741824") == warns


def test_a_port_that_is_taken_is_named(tmp_path):
    runs = ReceivedRuns(tmp_path, "127.0.0.1", 0)
    with pytest.raises(ConfigError, match=str(runs.address[1])):
        ReceivedRuns(tmp_path, "127.0.0.1", runs.address[1])
    runs.close()
    shutil.rmtree(tmp_path)


def test_a_replayed_run_reaches_live_clients(test_data, tmp_path, monkeypatch):
    # Slow: a busy machine must not see the end of a quarter of a second first.
    source = ReplaySource(test_data / "panoseti/data_dir" / LICK, speed=0.01)
    tracker = Tracker(source)
    looking, subscribe = asyncio.Queue(), Slots.subscribe

    def subscribed(*wanted):
        client = subscribe(*wanted)
        looking.put_nowait(client)
        return client

    monkeypatch.setattr(Slots, "subscribe", subscribed)

    async def main():
        live = LiveFrames(tracker, "127.0.0.1", 0)
        port = await live.start()
        images = stream(f"127.0.0.1:{port}", pulse_height=False)
        try:
            first = asyncio.create_task(anext(images))
            client = await looking.get()
            assert not client.waiting  # nothing is played yet
            assert await asyncio.to_thread(tracker.start_recording, tmp_path / "index.h5") == ""
            played = await first
            assert played.frame_number < 249
            expected = read_pff(next(source.data_dir.glob("*img16*")))
            np.testing.assert_array_equal(played.image, expected.image[played.frame_number])
        finally:
            await images.aclose()
            await live.stop()

    try:
        asyncio.run(asyncio.wait_for(main(), 60))
    finally:
        tracker.close()
