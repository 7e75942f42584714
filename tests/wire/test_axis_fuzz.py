"""A thousand broken requests: the receiver takes the next picture, the camera shows its next."""

import asyncio
import contextlib
import random
import socket
import threading
import time

import psutil
import pytest

from skywright.errors import HardwareError
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.endpoints.axis_video import serve_video
from skywright.instruments.loop.sources import SourceFrame
from skywright.instruments.loop.sources.fetched import file_fetcher
from skywright.instruments.loop.sources.push import PushedPictures
from skywright.instruments.loop.sources.sim import SimulatedCamera
from skywright.instruments.loop.twin.render import Pose
from skywright.wire.axis_guard import Guard

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8 + b"\xff\xd9"
REQUESTS = 1000
LOOKERS = 100
"""At each of two servers."""
POOL = 40
"""Threads that anyio gives a server at most: fewer than there are lookers."""


def request(*headers: str, body: bytes = JPEG, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} / HTTP/1.1", "Host: x", *headers, "", ""]).encode() + body


WHOLE = request("Content-Type: image/jpeg", f"Content-Length: {len(JPEG)}")
SEEDS = (
    WHOLE,
    WHOLE + WHOLE,
    request(
        "Content-Type: image/jpeg", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"
    ),
    request("Content-Type: image/jpeg", "Content-Length: 99999999999999"),
    request("Content-Type: image/jpeg"),
    request("Expect: 100-continue", "Content-Length: 5", body=b""),
    request(
        "Content-Type: multipart/form-data; boundary=b",
        "Content-Length: 60",
        body=b"--b\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8\xff\r\n--b--\r\n".ljust(60),
    ),
    request("Connection: Upgrade", "Upgrade: websocket", method="GET", body=b""),
)


LOOKS = (
    *(
        request(method="GET", body=b"").replace(b" / ", b" %s " % path)
        for path in (
            b"/axis-cgi/jpg/image.cgi?resolution=64x48&compression=20",
            b"/axis-cgi/mjpg/video.cgi?camera=1&fps=30",
            b"/jpg/image.cgi?camera=7",
            b"/",
        )
    ),
    request("Authorization: Digest username=a, nonce=b, nc=zz", method="GET", body=b""),
    WHOLE,
)


def mangled(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Return a request with bytes changed, cut, doubled or strewn in."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(6)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if place < len(data):
                data[place] = rng.randrange(256)
            case 1:
                del data[place : place + rng.randrange(40)]
            case 2:
                data[place:place] = rng.randbytes(rng.randrange(20))
            case 3:
                data[place:place] = data[place : place + rng.randrange(80)]
            case 4:
                data = data[: max(place, 1)]
    return bytes(data)


def visit(port: int, rng: random.Random, seeds: tuple[bytes, ...]) -> None:
    """Send one mangled request in pieces, and leave in one of the ways in which clients leave."""
    data = mangled(rng, seeds)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=90) as sender,
        contextlib.suppress(OSError),
    ):
        cut = rng.randrange(len(data) + 1)
        sender.sendall(data[:cut])
        sender.sendall(data[cut:])
        match rng.randrange(3):
            case 0:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
            case 1:
                sender.shutdown(socket.SHUT_WR)
                while sender.recv(65536) and rng.random() < 0.9:
                    pass


def await_descriptors(me: psutil.Process, most: int) -> None:
    """Wait until connections of senders that went away are closed."""
    pause = threading.Event()
    deadline = time.monotonic() + 60
    while me.num_fds() > most:
        assert time.monotonic() < deadline, (
            f"{me.num_fds()} descriptors, expected {most}: "
            f"{me.net_connections()}, {me.open_files()}"
        )
        pause.wait(0.05)


def test_fuzzed_requests_neither_break_nor_leak() -> None:
    rng = random.Random(4)
    frames: list[SourceFrame] = []
    reports: list[str] = []
    arrived = threading.Event()
    source = PushedPictures()
    source._receiver.bytes_max = 1_000_000

    def deliver(frame: SourceFrame) -> None:
        frames.append(frame)
        arrived.set()

    try:
        source.start(deliver, reports.append)
        me = psutil.Process()
        before = me.num_threads(), me.num_fds()
        for _ in range(REQUESTS):
            visit(source.port, rng, SEEDS)
        arrived.clear()
        with socket.create_connection(("127.0.0.1", source.port), timeout=90) as sender:
            sender.sendall(WHOLE)
            assert sender.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert arrived.wait(90)
        assert frames[-1].data == JPEG
        assert source.counts["received"] == len(frames)
        assert source.counts["refused"] + source.counts["cut off"] == len(reports)
        assert len(reports) + source.counts["no upload"] > 100
        await_descriptors(me, before[1] + 1)
        assert me.num_threads() <= before[0]
    finally:
        source.close()


def test_fuzzed_looks_neither_break_nor_leak() -> None:
    rng = random.Random(5)
    source = SimulatedCamera(seed=2, fps=100, size=(352, 240))
    source.prepare([Pose()])
    camera = Camera(source)
    server = serve_video(camera, Guard("digest", "u", "p"))
    open_to_all = serve_video(camera)
    url = f"http://127.0.0.1:{open_to_all.port}"
    try:
        asyncio.run(file_fetcher(url)())
        me = psutil.Process()
        threads, descriptors = me.num_threads(), me.num_fds()
        for _ in range(LOOKERS):
            visit(server.port, rng, LOOKS)
            visit(open_to_all.port, rng, LOOKS)
        assert asyncio.run(file_fetcher(url)())
        with pytest.raises(HardwareError, match="401"):
            asyncio.run(file_fetcher(f"http://127.0.0.1:{server.port}")())
        await_descriptors(me, descriptors + 1)
        assert me.num_threads() <= threads + 2 * POOL  # it keeps some for a while
    finally:
        open_to_all.close()
        server.close()
        camera.close()
