"""What goes wrong at a beamline, against one running service: nothing ends it, all is counted."""

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zmq
from support.bsread_old import OldSender, OldSource, frames_of
from support.psss_process import ServiceProcess, running
from support.psss_scripted import PICTURE, ROWS, picture
from support.waiting import until

from skywright.instruments.psss import Client
from skywright.instruments.psss.client import RefusedError
from skywright.instruments.psss.continuity import CAUSE
from skywright.processes.ports import free_port

PREFIX = "FAULT-PSSS"
CHANNEL = f"{PREFIX}:FPICTURE"


def health_of(service: ServiceProcess) -> dict[str, Any]:
    """Return the answer to ``GET /health``."""
    return dict(httpx.get(f"{service.address}/health").json())


@dataclass
class World:
    """A sender, the service, and a reader of its output."""

    service: ServiceProcess
    client: Client
    input_port: int
    sender: OldSender
    reader: OldSource
    pulse_id: int = 100_000

    def send(self, *images: Any, **channels: Any) -> list[int]:
        """Send pulses, in order; return their ids."""
        sent = []
        for image in images:
            self.pulse_id += 1
            sent.append(self.pulse_id)
            self.sender.send({CHANNEL: image, **channels}, self.pulse_id, (self.pulse_id, 5))
        return sent

    def receive(self, count: int = 1) -> list[Any]:
        """Return the next results."""
        messages = [self.reader.receive() for _ in range(count)]
        assert all(messages), "no result in time\n" + "".join(self.service.log)
        return [message.data for message in messages]

    def round_trip(self, image: Any = PICTURE) -> Any:
        """Send one pulse and return its result: the service is alive."""
        (pulse_id,) = self.send(image)
        (data,) = self.receive()
        assert data.pulse_id == pulse_id
        return data

    def health(self) -> dict[str, Any]:
        return health_of(self.service)

    def restart_sender(self) -> None:
        self.sender.close()
        self.sender = OldSender(self.input_port)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    input_port = free_port()
    with running(
        *("--prefix", PREFIX, "--input", f"tcp://127.0.0.1:{input_port}", "--auto-start"),
        *("--output-port", "0", "--rest-port", "0", "--no-ca"),
        *("--background-dir", str(tmp_path_factory.mktemp("backgrounds"))),
    ) as service:
        output = service.ready["output_port"]
        reader = OldSource("127.0.0.1", output, receive_timeout=90_000).await_sender()
        world = World(service, Client(service.address), input_port, OldSender(input_port), reader)
        try:
            world.send(PICTURE)
            until(lambda: world.health()["pulse_id"] == world.pulse_id)
            reader.receive()
            yield world
        finally:  # sockets that the garbage collector finds after a failure can wait for ever
            world.sender.close()
            world.reader.close()
            world.client.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """The running service, settings and stream as new."""
    shared.client.set_background()
    shared.client.set_parameters({"roi": [0, 0]})
    for _ in range(2):  # in a row: the step is known again, whatever jump the test before ended in
        shared.round_trip()
    yield shared
    assert shared.service.process.poll() is None
    assert shared.client.get_status() == "processing"


def spectrum(data: Any) -> Any:
    return data.data[f"{CHANNEL}.spectrum"].value


def test_sender_restarts(world: World) -> None:
    for _ in range(2):
        world.restart_sender()
        world.round_trip()
    world.pulse_id -= 5000  # a sender that counts anew
    world.round_trip()
    world.pulse_id += 6000


def test_sender_stalls(world: World) -> None:
    # The alarm of a picture that could not be decoded may still be shown
    silent = "no pulse for more than 2 s"
    until(lambda: (h := world.health())["alarm"] and silent in h["message"], 10)

    def processes() -> bool:
        world.round_trip()  # each time: the next silence begins 2 s later
        return bool(world.health()["message"] == "processing")

    until(processes)


def test_pulses_lost_before_us_are_counted(world: World) -> None:
    before = world.health()["lost"].get("gap", 0)
    world.pulse_id += 7
    world.round_trip()
    assert world.health()["lost"]["gap"] - before == 7


def test_picture_size_and_dtype_change(world: World) -> None:
    pictures = [
        picture(rows=7, columns=99),
        picture(rows=90, columns=300),
        PICTURE.astype(np.uint8),
        PICTURE.astype(">u2"),
        PICTURE.astype(np.float32) + 0.25,
        PICTURE.astype(np.int32) - 500,
        PICTURE,
    ]
    sent = world.send(*pictures)
    for pulse_id, data, image in zip(sent, world.receive(len(sent)), pictures, strict=True):
        assert data.pulse_id == pulse_id
        np.testing.assert_allclose(spectrum(data), image.sum(axis=0, dtype=np.float64))


def test_garbage(world: World) -> None:
    socket = world.sender.socket
    good = frames_of(1, (1, 1), {CHANNEL: PICTURE})
    garbage = [
        [b"\xff\xfe"],
        [b"[]", b"{}"],
        [b'{"pulse_id": "x"}', b"{}"],
        good[1:],  # headless
        [good[0].replace(b'"hash"', b'"hush"'), b"no json", *good[2:]],
        [b""],
    ]
    before = world.health()["lost"]
    for frames in garbage:
        socket.send_multipart(frames)
    world.round_trip()
    lost = world.health()["lost"]
    bad = sum(lost.get(cause, 0) - before.get(cause, 0) for cause in ("garbage", "headless"))
    assert bad == len(garbage)


def test_pulses_without_picture_channel_or_time(world: World) -> None:
    world.send(None)
    world.pulse_id += 1
    world.sender.send({"OTHER:X": 1.0}, world.pulse_id, (1, 1))
    world.pulse_id += 1
    frames = frames_of(world.pulse_id, (1, 1), {CHANNEL: PICTURE})
    head = frames[0][: frames[0].index(b', "global_timestamp"')] + b"}"
    world.sender.send_frames([head, *frames[1:]])
    world.pulse_id += 1
    frames = frames_of(world.pulse_id, (1, 1), {CHANNEL: PICTURE}, "bitshuffle_lz4")
    frames[2] = frames[2][:12] + b"\x77" * 30  # a picture that cannot be decompressed
    world.sender.send_frames(frames)
    first, second, third, fourth = world.receive(4)
    assert spectrum(first) is spectrum(second) is spectrum(fourth) is None
    assert fourth.data[CHANNEL].value is None  # a reader of the old kind dies of such bytes
    assert np.isnan(first.data[f"{CHANNEL}.center"].value)
    assert "NO_IMAGE" in first.data[f"{CHANNEL}.processing_parameters"].value
    np.testing.assert_array_equal(spectrum(third), PICTURE.sum(axis=0))
    assert abs(third.global_timestamp - time.time()) < 600  # arrival
    world.round_trip()


def test_background_of_the_wrong_shape(world: World) -> None:
    world.client.set_background("narrow", PICTURE[:, :-1])
    data = world.round_trip()
    np.testing.assert_array_equal(spectrum(data), PICTURE.sum(axis=0))
    made = data.data[f"{CHANNEL}.processing_parameters"].value
    assert '"background":""' in made
    until(lambda: "'narrow' is not applied" in world.health()["message"])  # said after it is sent
    assert world.health()["alarm"]
    world.client.set_background("right", PICTURE - 3)
    data = world.round_trip()
    assert (spectrum(data) == 3 * ROWS).all()
    assert '"background":"right"' in data.data[f"{CHANNEL}.processing_parameters"].value


def test_roi_upside_down(world: World) -> None:
    world.client.set_parameters({"roi": [0, 9]})
    with pytest.raises(RefusedError, match="roi"):
        world.client.set_parameters({"roi": [20, 10]})
    assert world.client.get_roi() == (0, 9)
    data = world.round_trip()
    np.testing.assert_array_equal(spectrum(data), PICTURE[:9].sum(axis=0))
    assert '"roi":[0,9]' in data.data[f"{CHANNEL}.processing_parameters"].value


def test_reader_that_never_reads(world: World) -> None:
    """Another reader gets every other message and lets it lie; pulses go on and memory is bound."""
    idle = zmq.Context()
    socket = idle.socket(zmq.PULL)
    socket.set(zmq.RCVHWM, 1)
    socket.connect(f"tcp://127.0.0.1:{world.service.ready['output_port']}")
    try:
        before = world.health()["processed"]
        world.send(*[PICTURE] * 40)
        until(lambda: world.health()["processed"] == before + 40)
        assert world.client.get_status() == "processing"
    finally:
        socket.close(linger=0)
        idle.term()
    world.reader.close()
    output = world.service.ready["output_port"]
    world.reader = OldSource("127.0.0.1", output, receive_timeout=500)

    def alive() -> bool:
        (pulse_id,) = world.send(PICTURE)
        while (message := world.reader.receive()) is not None:
            if message.data.pulse_id == pulse_id:
                return True
        return False

    until(alive, 60.0)  # what was queued for the one who is gone is lost
    world.reader.socket.set(zmq.RCVTIMEO, 20_000)


def test_killed_and_started_again(tmp_path: Path) -> None:
    """What was sent while it was away is lost and counted, nothing is invented."""
    input_port, output_port, rest_port = free_port(), free_port(), free_port()
    args = (
        *("--prefix", PREFIX, "--input", f"tcp://127.0.0.1:{input_port}", "--auto-start"),
        *("--output-port", str(output_port), "--rest-port", str(rest_port), "--no-ca"),
        *("--background-dir", str(tmp_path)),
    )
    got: list[int] = []
    with (
        OldSender(input_port, block=False, queue_size=2) as sender,
        OldSource("127.0.0.1", output_port, receive_timeout=90_000) as reader,
    ):

        def pass_on(pulse_id: int) -> bool:
            sender.send({CHANNEL: PICTURE}, pulse_id, (1, 1))
            reader.socket.setsockopt(zmq.RCVTIMEO, 200)
            message = reader.receive()
            got.extend([message.data.pulse_id] if message else [])
            return message is not None

        sent = iter(range(1, 10**6))
        with running(*args) as service:
            until(lambda: pass_on(next(sent)), 30)
            until(lambda: len(got) >= 5 or not pass_on(next(sent)))
            service.end(signal.SIGKILL)
        for _ in range(10):
            sender.send({CHANNEL: PICTURE}, next(sent), (1, 1))
        with running(*args) as service, Client(service.address) as client:
            before = len(got)
            until(lambda: pass_on(next(sent)), 30)
            until(lambda: len(got) >= before + 5 or not pass_on(next(sent)))
            until(lambda: client.get_statistics()["n_processed_images"] >= 5)
            assert client.get_parameters() == {"background": ""}
            lost = health_of(service)["lost"]
            assert 1 <= lost[CAUSE] < got[before] - got[before - 1]
            assert service.terminate() == 0
    assert got == sorted(set(got))  # each once, in order
    assert set(got) < set(range(1, next(sent)))  # lost while it was away, none invented
