"""A stream's pulses, whatever the sender does; the simulated camera as a process."""

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from support.bsread_old import OldSender, frames_of
from support.waiting import until

from skywright.instruments.psss.sender import main
from skywright.instruments.psss.sources import bsread as psss_bsread
from skywright.instruments.psss.sources.bsread import BsreadSource
from skywright.instruments.psss.twin import Instrument, InstrumentSettings
from skywright.processes.ports import free_port
from skywright.wire.bsread_encoder import ChannelValue, Encoder
from skywright.wire.bsread_sockets import Sender

LIMIT_S = 120.0
CHANNEL = "P:FPICTURE"
IMAGE = np.arange(30, dtype="u2").reshape(5, 6)


@pytest.fixture
def wire():
    """A sender that sends whatever frames it is given, and a started source that reads it."""
    sender = Sender("tcp://127.0.0.1:0")
    source = BsreadSource(f"tcp://127.0.0.1:{sender.port}", CHANNEL)
    source.open()
    assert sender.wait_for_reader(LIMIT_S)
    yield sender, source
    source.halt()
    sender.close()


def frames(pulse_id, image=IMAGE, **more):
    return frames_of(pulse_id, (pulse_id, 7), {CHANNEL: image, "P:other": 1.5}, **more)


def test_pulses_come_with_picture_time_and_message(wire):
    sender, source = wire
    for number in (5, 6):
        assert sender.send(frames(number, compression="bitshuffle_lz4"))
        pulse = source.next(LIMIT_S)
        assert (pulse.pulse_id, pulse.time_ns) == (number, number * 1_000_000_000 + 7)
        assert pulse.image.tolist() == IMAGE.tolist()
        assert pulse.message.value("P:other") == 1.5
        assert [bytes(f) for f in pulse.message.frames] == frames(
            number, compression="bitshuffle_lz4"
        )
    assert source.next(0.0) is None
    assert source.lost == {}


def test_a_pulse_has_the_time_when_it_came_into_the_queue(wire):
    sender, source = wire
    begun_s = time.monotonic()
    assert sender.send(frames(5))
    until(lambda: source._receiver.queued_bytes)
    came_s = time.monotonic()
    assert begun_s < source.next(LIMIT_S).received_s <= came_s


def test_a_pulses_energy_comes_from_a_channel_of_the_stream(wire):
    sender, source = wire
    source.energy_channel = "P:energy"
    values = [250.0, np.float32(1.5), 7, np.nan, "text", None, [1.0, 2.0]]
    for number, value in enumerate(values):
        sent = frames_of(number, (number, 7), {CHANNEL: IMAGE, "P:energy": value})
        assert sender.send(sent)
    assert sender.send(frames(10))  # without the channel
    pulses = [source.next(LIMIT_S) for _ in range(8)]
    assert [pulse.energy_uj for pulse in pulses] == [250.0, 1.5, 7.0, *[None] * 5]


def without_stamp(sent):
    main = json.loads(sent[0])
    del main["global_timestamp"]
    return [json.dumps(main).encode(), *sent[1:]]


def test_what_a_message_lacks_the_pulse_lacks(wire):
    sender, source = wire
    sent = [
        frames(1, None),
        frames_of(2, (2, 7), {"P:other": 1}),
        without_stamp(frames(3)),
        [*frames(4)[:2], b"short", *frames(4)[3:]],
        frames(5)[:2],
        frames(6, "text"),
        frames(7, np.arange(5)),
        frames(8, IMAGE[:1, :1]),
        frames_of(9, (9, 7), {}),
        frames(10),
    ]
    for message in sent:
        assert sender.send(message)
    pulses = [source.next(LIMIT_S) for _ in sent]
    assert [pulse.pulse_id for pulse in pulses] == list(range(1, 11))
    assert [pulse.image is not None for pulse in pulses] == [
        *(False, False, True, False, False, False, False, False, False, True)
    ]
    assert [pulse.pulse_id for pulse in pulses if pulse.time_ns is None] == [3]
    assert source.lost == {}


def test_a_picture_that_cannot_be_used_is_reported(wire, caplog):
    sender, source = wire
    packed = frames(2, compression="bitshuffle_lz4")
    other = [packed[0], packed[1].replace(b"bitshuffle_lz4", b"bitshuffle_zstd"), *packed[2:]]
    sent = [[*packed[:2], b"short", *packed[3:]], other, frames(3, np.arange(5)), frames(4, None)]
    for number, message in enumerate(sent):
        main = json.loads(message[0]) | {"pulse_id": number, "hash": str(number)}
        assert sender.send([json.dumps(main).encode(), *message[1:]])
    pulses = [source.next(LIMIT_S) for _ in sent]
    assert [pulse.image for pulse in pulses] == [None] * 4
    assert [pulse.has_unusable_picture for pulse in pulses] == [True, True, True, False]
    reported = [record.getMessage() for record in caplog.records]
    assert [text.partition(": pulse ")[2] for text in reported] == [
        "0: P:FPICTURE is no picture: bitshuffle: 5 bytes, expected at least the 12 of the prefix",
        "1: P:FPICTURE is no picture: compression 'bitshuffle_zstd' is unknown",
        "2: P:FPICTURE is no picture: int64 of shape (5,), expected (rows, columns)",
    ]
    assert source.lost == {}  # their pulses are there


def test_every_lost_pulse_is_counted_under_one_cause(wire, caplog):
    sender, source = wire
    for message in (
        frames(10),
        frames(11),
        frames(12)[1:],  # without its beginning
        [b"rubbish", b"\xff"],  # as pulse 13
        frames(16),
        frames(16),
        frames(18),
    ):
        assert sender.send(message)
    ids = [source.next(LIMIT_S).pulse_id for _ in range(4)]
    assert ids == [10, 11, 16, 18]
    assert source.lost == {"headless": 1, "garbage": 1, "gap": 3}
    assert "pulse 16 came twice" in caplog.text  # it is no loss
    source.halt()
    until(lambda: not sender.readers)  # a message for the reader that goes away would be lost
    source.open()
    assert source.lost == {"headless": 1, "garbage": 1, "gap": 3}
    assert sender.wait_for_reader(LIMIT_S)
    for number in (40, 41, 43):  # 19 to 39 were not asked for
        until(lambda: sender.send(frames(number)))  # noqa: B023
        assert source.next(LIMIT_S).pulse_id == number
    assert source.lost["gap"] == 4


def test_messages_that_cannot_be_decoded_are_logged_once_a_minute(monkeypatch, caplog):
    """Good pulses may come between them, so that each `next` meets one."""
    sent = itertools.chain.from_iterable(
        (frames(number)[1:], [b"rubbish"], frames(number)) for number in itertools.count()
    )
    source = BsreadSource("tcp://nowhere:1", CHANNEL)
    source._receiver = SimpleNamespace(receive=lambda _: next(sent), received_s=0.0)
    for now_s in (0.0, 1.0, 59.0, 60.0):
        monkeypatch.setattr(psss_bsread.time, "monotonic", lambda now_s=now_s: now_s)
        assert source.next(LIMIT_S) is not None
    assert [record.getMessage().rpartition(" (")[2] for record in caplog.records] == [
        *("headless: 1 so far)", "garbage: 1 so far)"),
        *("headless: 4 so far)", "garbage: 4 so far)"),
    ]


def test_the_log_has_the_number_of_pulses_that_a_stop_drops(wire, caplog):
    """They were sent before the stop; but none of them is missing between two that came."""
    sender, source = wire
    for number in (1, 2, 3, 4):
        assert sender.send(frames(number))
    assert source.next(LIMIT_S).pulse_id == 1
    receiver = source._receiver
    until(lambda: len(receiver._queue) == 3)
    with caplog.at_level(logging.INFO):
        source.halt()
        source.halt()
    assert [record.message for record in caplog.records] == [
        f"{source.address}: stopped; 3 messages that were received are dropped"
    ]
    assert source.lost == {}


def test_a_stream_of_which_nothing_can_be_decoded_says_why(wire, monkeypatch):
    sender, source = wire
    reports = []
    monkeypatch.setattr(source, "report", reports.append)
    negative = frames(7)
    negative[0] = negative[0].replace(b'"pulse_id": 7', b'"pulse_id": -7')
    for message in (negative, frames(8), negative, negative):
        assert sender.send(message)
    assert source.next(LIMIT_S).pulse_id == 8
    assert reports == []  # one that cannot be decoded among others is a loss, and counted
    until(lambda: source.next(0.1) is None and source.lost["garbage"] == 3)
    assert reports[-1].startswith(f"{source.address}: bsread: pulse_id -7 is no whole number")
    reports.clear()
    assert source.next(0.1) is None
    assert reports == []


def control(kind, **more):
    return [json.dumps({"htype": kind, **more}).encode()]


def test_a_stop_of_the_dispatching_layer_is_no_loss(wire):
    sender, source = wire
    for message in (frames(1), frames(2), control("bsr_stop-1.0"), frames(50), frames(51)):
        assert sender.send(message)
    assert [source.next(LIMIT_S).pulse_id for _ in range(4)] == [1, 2, 50, 51]
    assert source.lost == {}


def test_a_reconnect_of_the_dispatching_layer_changes_the_sender(wire, monkeypatch):
    sender, source = wire
    reported = []
    monkeypatch.setattr(source, "report", reported.append)
    first = source.address
    second = Sender("tcp://127.0.0.1:0")
    address = f"tcp://127.0.0.1:{second.port}"
    for refused in ("nonsense", None):
        assert sender.send(control("bsr_reconnect-1.0", address=refused))
    assert sender.send(frames(1))
    assert source.next(LIMIT_S).pulse_id == 1  # it stays where it is
    assert [text.partition(": asked to reconnect: ")[0] for text in reported] == [first] * 2
    assert "nonsense: " in reported[0]
    assert sender.send(control("bsr_reconnect-1.0", address=address))
    until(lambda: source.next(0.01) is None and second.readers)
    assert not sender.readers
    assert second.send(frames(3))
    assert source.next(LIMIT_S).pulse_id == 3
    assert source.lost == {}
    assert source.address == address
    second.close()


def test_pulses_without_picture_between_those_of_a_slow_camera_are_not_lost_unseen(wire):
    """A camera at 25 Hz with a channel at 100 Hz in one stream."""
    sender, source = wire
    encoder, picture = Encoder(), ChannelValue(IMAGE, modulo=4)
    nothing = ChannelValue(None, "uint16", IMAGE.shape, modulo=4)
    came = [number for number in range(60) if number not in (9, 10, 20)]
    for number in came:
        channels = {CHANNEL: nothing if number % 4 else picture, "P:energy": 1.5}
        assert sender.send(encoder.encode(number, 1, channels))
        assert source.next(LIMIT_S).pulse_id == number
    assert source.lost == {"gap": 3}


def test_pictures_may_change_their_size_type_and_byte_order(wire):
    sender, source = wire
    images = [
        IMAGE,
        np.ones((40, 30), "u1"),
        np.ones((4, 3), "<f4"),
        IMAGE.astype(">u2"),
        IMAGE.astype("<i8"),
        IMAGE,
    ]
    for number, image in enumerate(images):
        assert sender.send(frames(number, image))
        got = source.next(LIMIT_S).image
        assert (got.dtype, got.tolist()) == (image.dtype, image.tolist())


def test_a_sender_that_stalls_and_comes_back_anew_is_read_on():
    port = free_port()
    source = BsreadSource(f"tcp://127.0.0.1:{port}", CHANNEL)
    source.open()
    try:
        with OldSender(port) as sender:
            sender.send({CHANNEL: IMAGE}, pulse_id=1000)
            assert source.next(LIMIT_S).pulse_id == 1000
            assert source.next(0.05) is None
            sender.send({CHANNEL: IMAGE}, pulse_id=1001)
            assert source.next(LIMIT_S).pulse_id == 1001
        with OldSender(port) as sender:
            for number in (7, 8):
                sender.send({CHANNEL: IMAGE}, pulse_id=number)
                assert source.next(LIMIT_S).pulse_id == number
        assert source.lost == {}
    finally:
        source.halt()


def test_an_old_sender_overrun_loses_pulses_that_are_counted():
    """It sends messages in pieces; no pulse is invented, each that came came once, in order."""
    port = free_port()
    source = BsreadSource(f"tcp://127.0.0.1:{port}", CHANNEL, step=1, queue_bytes=3_000_000)
    image = np.zeros((500, 400), "u2")
    ids = itertools.count()
    got = []
    source.open()
    with OldSender(port, queue_size=2, block=False) as sender:
        while not got:
            # Each time another id: a piece of a pulse that comes later as a whole is no lost pulse.
            sender.send({CHANNEL: image, "P:other": 1}, pulse_id=next(ids))
            if (pulse := source.next(0.05)) is not None:
                got.append(pulse.pulse_id)
        before = sum(source.lost.values())  # pieces of pulses before the first
        for _ in range(3000):
            sender.send({CHANNEL: image, "P:other": 1}, pulse_id=(number := next(ids)))
            if number % 2 and (pulse := source.next(0.0)) is not None:
                got.append(pulse.pulse_id)
        sender.block = True
        last = next(ids)
        while (pulse := source.next(0.2)) is not None:
            got.append(pulse.pulse_id)
        sender.send({CHANNEL: image}, pulse_id=last)
        while got[-1] < last:
            got.append(source.next(LIMIT_S).pulse_id)
    lost = dict(source.lost)
    source.halt()
    assert got == sorted(set(got))
    assert len(got) + sum(lost.values()) - before == last - got[0] + 1
    assert sum(lost.values()) > 0


def test_a_published_stream_is_read_as_well():
    sender = Sender("tcp://127.0.0.1:0", "pub")
    source = BsreadSource(f"tcp://127.0.0.1:{sender.port}", CHANNEL, kind="sub")
    source.open()
    try:
        pulse, number = None, 0
        deadline = time.monotonic() + LIMIT_S
        while pulse is None and time.monotonic() < deadline:  # until the subscription is known
            number += 1
            sender.send(frames(number))
            pulse = source.next(0.1)
        sender.send(frames(number + 1))
        while pulse.pulse_id <= number:
            pulse = source.next(LIMIT_S)
        assert pulse.image.tolist() == IMAGE.tolist()
        assert source.lost == {}
    finally:
        source.halt()
        sender.close()


def test_messages_that_cannot_be_decoded_do_not_prolong_the_wait(monkeypatch):
    now, waits = [100.0], []

    class Rubbish:
        def receive(self, timeout_s):
            waits.append(timeout_s)
            now[0] += min(timeout_s, 0.375)
            return [b"rubbish"] if timeout_s and len(waits) < 9 else None

    source = BsreadSource("tcp://127.0.0.1:1", CHANNEL)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    source._receiver = Rubbish()
    assert source.next(1.0) is None
    assert waits == [1.0, 0.625, 0.25, 0.0]
    assert source.lost == {"garbage": 3}


def test_a_flood_of_messages_that_cannot_be_decoded_is_reported(monkeypatch):
    now, reports = [100.0], []

    class Flood:
        def receive(self, timeout_s):
            now[0] += 0.375
            assert now[0] < 200.0
            return [b"rubbish"]

    source = BsreadSource("tcp://127.0.0.1:1", CHANNEL)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(source, "report", reports.append)
    source._receiver = Flood()
    assert source.next(1.0) is None
    assert "no JSON" in reports[-1]
    assert source.lost == {"garbage": 3}


def test_next_ends_when_another_thread_stops(wire):
    _, source = wire
    result = []
    waiting = threading.Thread(target=lambda: result.append(source.next(LIMIT_S)))
    start = time.monotonic()
    waiting.start()
    source.halt()
    waiting.join(LIMIT_S)
    assert result == [None]
    assert time.monotonic() - start < LIMIT_S / 2
    source.halt()
    assert source.next(0.0) is None


# The simulated camera as a process of its own


@pytest.fixture
def camera():
    """Start `python -m skywright.instruments.psss.sender` with arguments; end it after the test."""
    started = []

    def start(*arguments):
        command = [
            sys.executable,
            "-m",
            "skywright.instruments.psss.sender",
            "--port",
            "0",
            *arguments,
        ]
        process = subprocess.Popen(
            [*command, "--size", "64x32", "--pool-bytes", "1"], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, json.loads(process.stdout.readline())["ready"]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_sender_process_sends_pulses_and_their_truth(camera, tmp_path):
    process, ready = camera(
        *("--rate", "0", "--pulses", "30", "--wait-for-reader", "20", "--first-pulse-id", "100"),
        *("--compression", "bitshuffle_lz4", "--header-compression", "lz4", "--seed", "5"),
        *("--truth", str(tmp_path / "truth.npz"), "--prefix", "X:"),
    )
    assert ready["channel"] == "X:FPICTURE"
    source = BsreadSource(f"tcp://127.0.0.1:{ready['port']}", "X:FPICTURE")
    source.open()
    pulses = [source.next(LIMIT_S) for _ in range(30)]
    source.halt()
    ended = json.loads(process.stdout.readline())["ended"]
    assert process.wait(LIMIT_S) == 0
    assert ended == {
        "pulses": 30, "sent": 30, "drops": {}, "lost": {},
        "first_pulse_id": 100, "last_pulse_id": 129,
    }  # fmt: skip
    instrument = Instrument(InstrumentSettings(columns=64, rows=32, pool_bytes=1), seed=5)
    truth = np.load(tmp_path / "truth.npz")
    assert truth["pulse_id"].tolist() == [pulse.pulse_id for pulse in pulses]
    assert truth["time_ns"].tolist() == [pulse.time_ns for pulse in pulses]
    assert truth["sent"].all()
    for index in (0, 29):
        image, true = instrument.take(100 + index)
        assert (pulses[index].image == image).all()
        assert truth["center_ev"][index] == true.center_ev


def test_the_sender_process_publishes_on_the_given_interface(camera):
    _, ready = camera("--host", "127.0.0.2", "--kind", "pub", "--wait-for-reader", "20")
    address = f"tcp://127.0.0.2:{ready['port']}"
    source = BsreadSource(address, "SARFE10-PSSS059:FPICTURE", kind="sub")
    source.open()
    pulse = source.next(LIMIT_S)
    source.halt()
    assert pulse.image.shape == (32, 64)


def test_the_sender_process_ends_at_sigterm_and_says_what_became_of_its_pulses(camera, tmp_path):
    process, ready = camera("--reel", "3", "--truth", str(tmp_path / "truth.npz"))
    source = BsreadSource(f"tcp://127.0.0.1:{ready['port']}", "SARFE10-PSSS059:FPICTURE")
    source.open()
    pulses = [source.next(LIMIT_S) for _ in range(10)]
    os.kill(process.pid, signal.SIGTERM)
    while (pulse := source.next(0.5)) is not None:
        pulses.append(pulse)
    source.halt()
    ended = json.loads(process.stdout.readline())["ended"]
    assert process.wait(LIMIT_S) == 0
    assert ended["sent"] == len(pulses)
    assert ended["sent"] + ended["drops"].get("no_reader", 0) == ended["pulses"]
    truth = np.load(tmp_path / "truth.npz")
    assert truth["pulse_id"][truth["sent"]].tolist() == [pulse.pulse_id for pulse in pulses]


@pytest.mark.parametrize(
    "bad",
    [
        ["--size", "large"],
        ["--size", "²x²"],
        ["--rate", "-1"],
    ],
)
def test_the_sender_says_what_it_cannot_use(bad, capsys):
    assert main(["--port", "0", *bad]) == 2
    assert bad[1].removeprefix("-") in capsys.readouterr().err
