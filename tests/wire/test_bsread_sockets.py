"""Sockets of bsread: whole messages or none, byte bounds, drops by cause, closing, reconnecting."""

import contextlib
import json
import random
import socket
import threading
import time
from contextlib import closing

import numpy as np
import psutil
import pytest
import zmq
from support.bsread_old import OldSender, OldSource, frames_of
from support.waiting import until

from skywright.errors import ConfigError
from skywright.processes.ports import free_port
from skywright.wire import bsread_sockets
from skywright.wire.bsread import Decoder
from skywright.wire.bsread_encoder import Encoder
from skywright.wire.bsread_sockets import QUEUE_BYTES, Receiver, Sender, tcp_address

LIMIT_S = 120.0
LOCAL = "tcp://127.0.0.1:0"
KINDS = [("push", "pull"), ("pub", "sub")]


@contextlib.contextmanager
def pair(out="push", into="pull", **options):
    """Context with a sender, and a receiver that connects to it."""
    with (
        closing(Sender(LOCAL, out, **options)) as sender,
        closing(Receiver(f"tcp://127.0.0.1:{sender.port}", into, **options)) as receiver,
    ):
        yield sender, receiver


def pulse(receiver, timeout_s=LIMIT_S):
    frames = receiver.receive(timeout_s)
    return None if frames is None else Decoder().decode(frames).pulse_id


def connected(sender, receiver, encoder=None):
    """Send until something arrives: a SUB's subscription takes a moment to be known."""
    encoder = encoder or Encoder()
    assert sender.wait_for_reader(LIMIT_S)
    until(lambda: sender.send(encoder.encode(0, 1, {"A": 1})) and pulse(receiver, 0.1) == 0)
    while receiver.receive(0.05) is not None:
        pass


@pytest.mark.parametrize(("out", "into"), KINDS)
def test_messages_arrive_whole_and_in_order(out, into):
    with pair(out, into) as (sender, receiver):
        connected(sender, receiver)
        encoder = Encoder()
        image = np.arange(300 * 200, dtype="u2").reshape(300, 200)
        before = sender.sent
        for number in range(15):
            assert sender.send(encoder.encode(number, 1, {"A": image, "B": number}))
        decoder = Decoder()
        for number in range(15):
            got = decoder.decode(receiver.receive(LIMIT_S))
            assert (got.pulse_id, got.value("B")) == (number, number)
            assert (got.value("A") == image).all()
        assert sender.sent - before == 15
        assert "queue_full" not in sender.drops


def test_an_image_is_not_copied_on_its_way_in():
    with pair() as (sender, receiver):
        assert sender.wait_for_reader(LIMIT_S)
        sender.send(Encoder().encode(1, 1, {"A": np.ones((600, 500), "u2")}))
        frames = receiver.receive(LIMIT_S)
        image = Decoder().decode(frames).value("A")
        assert np.shares_memory(image, np.frombuffer(frames[2], "u1"))


def test_without_a_reader_messages_are_dropped_and_counted():
    for kind in ("push", "pub"):
        with closing(Sender(LOCAL, kind)) as sender:
            assert not sender.send([b"x"])
            assert not sender.wait_for_reader(0.01)
            assert (sender.drops, sender.sent, sender.readers) == ({"no_reader": 1}, 0, 0)
        assert not sender.send([b"x"])
        assert sender.drops == {"no_reader": 1, "closed": 1}


@pytest.mark.parametrize(("out", "into"), KINDS)
def test_a_reader_that_never_reads_fills_a_queue_of_so_many_bytes(out, into):
    """What is on its way is bounded, all of it arrives whole, and the rest is counted."""
    limit, size, offered = 8_000_000, 1_000_000, 200
    with pair(out, into, queue_bytes=limit) as (sender, receiver):
        connected(sender, receiver)
        before = sender.sent
        frames = [b"{}", bytes(size)]
        for _ in range(offered):
            sender.send(frames)
        kept = sender.sent - before
        assert sender.drops["queue_full"] == offered - kept
        # Both queues, what is on the way between them in zmq, and the system's own buffers.
        assert limit / size - 1 <= kept <= 2 * limit / size + 4 + 12
        assert sender.queued_bytes <= limit
        assert receiver.queued_bytes <= limit + size
        for _ in range(kept):
            assert [len(frame) for frame in receiver.receive(LIMIT_S)] == [2, size]
        assert receiver.receive(0.1) is None


def test_a_full_queue_never_lets_half_a_message_out():
    """Where the old sender sends messages without beginning, ours sends whole ones only."""
    with pair(queue_bytes=1_000_000) as (sender, receiver):
        assert sender.wait_for_reader(LIMIT_S)
        encoder, image = Encoder(), np.zeros(200_000, "u1")
        got, stop = [], threading.Event()

        def read():
            while not stop.is_set() or len(got) < sender.sent:
                if (frames := receiver.receive(0.05)) is not None:
                    got.append((len(frames), json.loads(frames[0].bytes)["pulse_id"]))

        reader = threading.Thread(target=read)
        reader.start()
        sent = [n for n in range(3000) if sender.send(encoder.encode(n, 1, {"A": image, "B": 1}))]
        stop.set()
        reader.join(LIMIT_S)
        assert sender.drops["queue_full"] > 0
        assert got == [(6, number) for number in sent]


def test_our_reader_reads_the_old_sender():
    data = {"image": np.arange(12, dtype=">u2").reshape(3, 4), "text": "x"}
    port = free_port()
    receiver = Receiver(f"tcp://127.0.0.1:{port}")
    with OldSender(port, data_compression="bitshuffle_lz4") as old:
        old.send(data, pulse_id=5, timestamp=(3, 4))
        got = Decoder().decode(receiver.receive(LIMIT_S))
    receiver.close()
    assert (got.pulse_id, got.time_ns, got.value("text")) == (5, 3_000_000_004, "x")
    assert (got.value("image") == data["image"]).all()


@pytest.mark.parametrize(("kind", "mode"), [("push", zmq.PULL), ("pub", zmq.SUB)])
def test_the_old_reader_reads_our_sender(kind, mode):
    data = {"image": np.arange(12, dtype=">u2").reshape(3, 4), "text": "x"}
    sender = Sender(LOCAL, kind)
    with OldSource("127.0.0.1", sender.port, mode, receive_timeout=100) as source:
        frames = Encoder("bitshuffle_lz4").encode(6, 3_000_000_004, data)
        messages = []

        def arrived():
            sender.send(frames)
            messages.append(source.receive())
            return messages[-1] is not None

        until(arrived)
        old = messages[-1].data
    sender.close()
    assert (old.pulse_id, old.global_timestamp_offset) == (6, 4)
    assert old.data["image"].value.tolist() == data["image"].tolist()


def test_a_sender_that_comes_back_is_read_again():
    port = free_port()
    with closing(Receiver(f"tcp://127.0.0.1:{port}")) as receiver:
        for number in (1, 2):
            with OldSender(port) as sender:
                sender.send({"A": 1}, pulse_id=number)
                assert pulse(receiver) == number


def test_a_reader_that_comes_back_is_served_again():
    with closing(Sender(LOCAL)) as sender:
        for number in (1, 2):
            receiver = Receiver(f"tcp://127.0.0.1:{sender.port}")
            assert sender.wait_for_reader(LIMIT_S)
            assert sender.send(frames_of(number, (1, 1), {"A": 1}))
            assert pulse(receiver) == number
            receiver.close()
            until(lambda: sender.readers == 0)
        assert not sender.send([b"x"])
        assert sender.drops == {"no_reader": 1}


@pytest.mark.parametrize("size", [10, 300_000])
def test_waiting_for_room(size):
    with contextlib.ExitStack() as stack:
        sender = stack.enter_context(closing(Sender(LOCAL, queue_bytes=1)))
        assert not sender.send([b"x"], timeout_s=0.01)
        receiver = Receiver(f"tcp://127.0.0.1:{sender.port}", queue_bytes=1)
        stack.callback(receiver.close)
        got = []
        reader = threading.Thread(
            target=lambda: got.extend(receiver.receive(LIMIT_S) for _ in range(100))
        )
        reader.start()
        assert all(sender.send([bytes(size)], timeout_s=LIMIT_S) for _ in range(100))
        reader.join(LIMIT_S)
        assert len(got) == 100


def test_receive_ends_when_another_thread_closes():
    receiver = Receiver(f"tcp://127.0.0.1:{free_port()}")
    begun, result = threading.Event(), []

    def wait():
        begun.set()
        result.append(receiver.receive(LIMIT_S))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(LIMIT_S)
    start = time.monotonic()
    receiver.close()
    waiting.join(LIMIT_S)
    assert result == [None]
    assert time.monotonic() - start < LIMIT_S / 4
    receiver.close()
    assert receiver.receive(0.0) is None


def test_a_receiver_says_how_many_messages_it_drops_when_it_is_closed():
    with pair() as (sender, receiver):
        assert sender.wait_for_reader(LIMIT_S)
        for _ in range(3):
            sender.send([bytes(1000)])
        until(lambda: receiver.queued_bytes == 3000)
        assert receiver.receive(LIMIT_S) is not None
        assert receiver.close() == 2
        assert receiver.close() == 0


def test_a_sender_closes_with_messages_that_nobody_reads():
    sender = Sender(LOCAL)
    with OldSource("127.0.0.1", sender.port, queue_size=1):
        assert sender.wait_for_reader(LIMIT_S)
        for _ in range(50):
            sender.send([bytes(1_000_000)])
        start = time.monotonic()
        sender.close()
        assert time.monotonic() - start < LIMIT_S / 4


def test_neither_threads_nor_descriptors_are_left():
    def cycle():
        for out, into in KINDS:
            sender = Sender(LOCAL, out)
            receiver = Receiver(f"tcp://127.0.0.1:{sender.port}", into)
            sender.wait_for_reader(LIMIT_S)
            sender.send([b"{}", bytes(100_000)])
            receiver.receive(0.1)
            receiver.close()
            sender.close()

    cycle()  # pyzmq keeps one thread and its sockets for buffers that are not copied
    me = psutil.Process()
    before = me.num_fds(), me.num_threads()
    for _ in range(5):
        cycle()
    until(lambda: (me.num_fds(), me.num_threads()) <= before)


def test_addresses_that_zmq_does_not_take():
    with pytest.raises(ConfigError, match="nonsense"):
        Receiver("nonsense")
    taken = Sender(LOCAL)
    descriptors = psutil.Process().num_fds()
    with pytest.raises(ConfigError, match=str(taken.port)):
        Sender(f"tcp://127.0.0.1:{taken.port}")
    assert psutil.Process().num_fds() == descriptors
    taken.close()


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_ipv6(host):
    with (
        closing(Sender(tcp_address(host, 0))) as sender,
        closing(Receiver(f"tcp://[::1]:{sender.port}")) as receiver,
    ):
        connected(sender, receiver)


def test_a_frame_longer_than_allowed_is_not_taken(monkeypatch):
    monkeypatch.setattr(bsread_sockets, "FRAME_BYTES_MAX", 1000)
    port = free_port()
    receiver = Receiver(f"tcp://127.0.0.1:{port}")
    with OldSender(port, block=False) as sender:
        sender.send_frames([b"{}", bytes(2000)])  # what is queued behind it is lost with it
        until(lambda: sender.send_frames([b"{}", bytes(1000)]) or receiver.queued_bytes)
        assert [len(frame) for frame in receiver.receive(LIMIT_S)] == [2, 1000]
    receiver.close()


def test_messages_that_grow_and_shrink_keep_flowing():
    """Lowering zmq's marks on an open connection can stop it; ours stay."""
    with pair(queue_bytes=2_000_000) as (sender, receiver):
        sizes = [*[100] * 500, *[900_000] * 30, *[100] * 500, *[3_000_000] * 5, *[0] * 10]
        got = []
        reader = threading.Thread(
            target=lambda: got.extend(len(receiver.receive(LIMIT_S)[0]) for _ in sizes)
        )
        reader.start()
        assert all(sender.send([bytes(size)], timeout_s=LIMIT_S) for size in sizes)
        reader.join(LIMIT_S)
        assert got == sizes


GREETING = bytes.fromhex("ff00000000000000017f0301") + b"NULL" + bytes(48)
READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PULL"
"""What a PULL socket says first: ZMTP 3.1."""


def knocks():
    """What port scanners, browsers and broken readers say."""
    rng = random.Random(1)
    yield b""
    yield b"GET / HTTP/1.1\r\n\r\n" * 5
    for _ in range(60):
        said = bytearray(GREETING + READY)
        said[rng.randrange(len(said))] = rng.randrange(256)
        yield bytes(said[: rng.randrange(len(said))])
        yield bytes(said) + rng.randbytes(50)
        yield GREETING + rng.randbytes(50)


def test_who_only_knocks_does_not_stop_a_reader():
    with closing(Sender(LOCAL)) as sender:
        for knock in knocks():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", sender.port), timeout=0.002) as near,
            ):
                near.sendall(knock)
                near.recv(1000)
        until(lambda: sender.readers == 0)
        with closing(Receiver(f"tcp://127.0.0.1:{sender.port}")) as receiver:
            assert sender.wait_for_reader(LIMIT_S)
            assert sender.readers == 1
            assert sender.send([b"x"])
            assert receiver.receive(LIMIT_S)[0].bytes == b"x"


@pytest.fixture
def pub_and_quick_reader(monkeypatch):
    """A PUB with little room and its quick reader; another reader of it takes nothing."""
    monkeypatch.setattr(bsread_sockets, "PUB_MARK", 4)
    with (
        pair("pub", "sub") as (sender, quick),
        closing(Receiver(f"tcp://127.0.0.1:{sender.port}", "sub", queue_bytes=1)),
    ):
        connected(sender, quick)
        until(lambda: sender.readers == 2)
        yield sender, quick


def test_a_slow_reader_of_a_pub_does_not_starve_the_others(pub_and_quick_reader):
    sender, quick = pub_and_quick_reader
    frames, got = [b"{}", bytes(500_000)], 0
    for _ in range(200):
        sender.send(frames)
        got += quick.receive(LIMIT_S) is not None
    assert got == 200
    assert 0 < sender.drops["queue_full"] < 200


@pytest.mark.parametrize("kind", ["push", "pub"])
def test_what_is_no_message_is_an_error_at_once(kind):
    with closing(Sender(LOCAL, kind)) as sender:
        for bad in ([], ["text", b""], [b"", "text"], [None, b""]):
            with pytest.raises((TypeError, IndexError)):
                sender.send(bad)


LARGE = 22_000_000
"""Bytes of a picture of the largest camera, 2560 x 2160 float32."""


@contextlib.contextmanager
def hanging(sender, into):
    """A reader that keeps its connection open and reads nothing."""
    context = zmq.Context()
    near = context.socket(zmq.SUB if into == "sub" else zmq.PULL)
    near.set(zmq.RCVHWM, 1)
    near.set(zmq.RCVTIMEO, int(1e3 * LIMIT_S))
    if into == "sub":
        near.set(zmq.SUBSCRIBE, b"")
    try:
        near.connect(f"tcp://127.0.0.1:{sender.port}")
        assert sender.wait_for_reader(LIMIT_S)
        if into == "sub":
            until(lambda: sender.send([b"first"]) and near.poll(100))
        yield near
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("size", [11_000_000, LARGE])
@pytest.mark.parametrize("first", ["hanging", "quick"])
def test_a_push_goes_on_when_one_reader_hangs(size, first):
    """The one that hangs keeps what zmq gave it; everything else goes to the other."""
    sender, offered, of_hanging = Sender(LOCAL), 40, 8
    frames, got = [b"{}", bytes(size)], []
    with contextlib.ExitStack() as stack:
        stack.callback(sender.close)
        if first == "hanging":
            stack.enter_context(hanging(sender, "pull"))
            filled = sum(iter(lambda: sender.send(frames), False))
            assert filled * size <= QUEUE_BYTES + 6 * size  # in the connection too
            offered += filled
        quick = Receiver(f"tcp://127.0.0.1:{sender.port}")
        stack.callback(quick.close)
        until(lambda: sender.readers == 1 + (first == "hanging"))
        if first == "quick":
            stack.enter_context(hanging(sender, "pull"))
            until(lambda: sender.readers == 2)
        reader = threading.Thread(
            target=lambda: got.extend(quick.receive(LIMIT_S) for _ in range(offered - of_hanging))
        )
        reader.start()
        assert all(sender.send(frames, LIMIT_S) for _ in range(40))
        until(lambda: sender.queued_bytes <= QUEUE_BYTES)
        reader.join(LIMIT_S)
        assert [len(message[1]) for message in got] == [size] * (offered - of_hanging)


@pytest.mark.parametrize("size", [11_000_000, LARGE])
def test_a_pub_goes_on_when_one_reader_hangs(size):
    with pair("pub", "sub") as (sender, quick):
        connected(sender, quick)
        with hanging(sender, "sub") as near:
            until(lambda: sender.readers == 2)
            while quick.receive(0.1) is not None:
                pass
            image = bytes(size)
            for number in range(40):
                sender.send([b"%d" % number, image])
                assert quick.receive(LIMIT_S)[0].bytes == b"%d" % number
            until(lambda: sender.queued_bytes <= QUEUE_BYTES)
            # It reads again, and gets what is sent from then on.
            held = [near.recv_multipart(copy=False)]
            until(lambda: sender.queued_bytes == 0 or held.append(near.recv_multipart(copy=False)))
            until(lambda: sender.send([b"last", image]) and quick.receive(LIMIT_S))
            until(lambda: near.recv_multipart(copy=False)[0].bytes == b"last")


@pytest.mark.parametrize(
    ("out", "into", "size", "kept"),
    [
        ("push", "pull", 11_000_000, 22),
        ("push", "pull", LARGE, 11),
        ("push", "pull", 1000, 1000),
        ("pub", "sub", 11_000_000, 10),  # zmq reports what is read in steps of half its mark
        ("pub", "sub", LARGE, 10),
    ],
)
def test_a_reader_that_is_slow_for_a_while_loses_nothing_of_a_full_queue(out, into, size, kept):
    image = bytes(size)
    with closing(Sender(LOCAL, out)) as sender, hanging(sender, into) as near:
        assert all(sender.send([b"%d" % number, image]) for number in range(kept))
        got = []
        while len(got) < kept:
            message = near.recv_multipart(copy=False)
            if message[0].bytes != b"first":
                got.append(message[0].bytes)
        assert got == [b"%d" % number for number in range(kept)]


def test_a_pub_that_waits_sends_no_message_twice(pub_and_quick_reader):
    sender, quick = pub_and_quick_reader
    sent, got = 0, []
    while sent < 100 and sender.send([b"%d" % sent, bytes(500_000)], 0.05):
        got.append(bytes(quick.receive(LIMIT_S)[0]))
        sent += 1
    assert sent < 100  # the slow one has no room
    assert got == [b"%d" % number for number in range(sent)]
    assert quick.receive(0.1) is None


def test_a_received_message_can_be_sent_on_as_it_came():
    """Frames of zmq go on without a copy, an empty one at the end among them."""
    with pair() as (sender, receiver):
        assert sender.wait_for_reader(LIMIT_S)
        image = np.arange(100_000, dtype="u2").reshape(200, 500)
        first = Encoder("lz4").encode(1, 2, {"A": image, "B": None})
        assert sender.send(first)
        for _ in range(3):
            message = Decoder().decode(receiver.receive(LIMIT_S))
            assert [bytes(frame) for frame in message.frames[2:]] == [bytes(f) for f in first[2:]]
            assert sender.send(Encoder().encode(1, 2, {n: message.raw(n) for n in "AB"}))
            assert (message.value("A") == image).all()
            assert message.value("B") is None


def test_what_a_reader_leaves_unread_does_not_fill_the_queue_for_the_next():
    with closing(Sender(LOCAL, queue_bytes=5_000_000)) as sender:
        with OldSource("127.0.0.1", sender.port, queue_size=1):
            assert sender.wait_for_reader(LIMIT_S)
            until(lambda: not sender.send([bytes(1_000_000)]))
            assert sender.drops == {"queue_full": 1}
            assert 0 < sender.queued_bytes <= 5_000_000
        until(lambda: sender.queued_bytes == 0)
        until(lambda: sender.readers == 0)
        receiver = Receiver(f"tcp://127.0.0.1:{sender.port}")
        assert sender.wait_for_reader(LIMIT_S)
        assert sender.send([b"x"])
        assert receiver.receive(LIMIT_S)[0].bytes == b"x"
        receiver.close()
