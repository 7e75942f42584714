"""Sources that ask a camera for pictures: whatever it does, they come back, and leave nothing."""

import asyncio
import math
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import httpx
import numpy as np
import psutil
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_http import Visit, scripted
from support.waiting import until

from skywright.errors import ConfigError, DataError, HardwareError
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.endpoints.axis_upload import Uploader
from skywright.instruments.loop.endpoints.axis_video import serve_video
from skywright.instruments.loop.sources import Source, SourceFrame, fetched
from skywright.instruments.loop.sources.fetched import (
    FITTED_FRAMES,
    SnapshotPictures,
    StreamedPictures,
    file_fetcher,
    make_dating,
)
from skywright.instruments.loop.sources.push import PushedPictures
from skywright.instruments.loop.sources.sim import SimulatedCamera
from skywright.instruments.loop.twin.render import Pose
from skywright.wire.axis_guard import Guard
from skywright.wire.axis_mjpeg import Part, encode_part

LIMIT_S = 120.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=myboundary\r\n\r\n"


def jpeg(value: int) -> bytes:
    picture = np.full((40, 48, 1), value, np.uint8)
    return simplejpeg.encode_jpeg(picture, colorspace="GRAY", quality=90)


A, B = jpeg(50), jpeg(150)


class Taken:
    """What a source has delivered and said."""

    def __init__(self) -> None:
        self.frames: list[SourceFrame] = []
        self.reports: list[str] = []
        self._news = threading.Condition()

    def deliver(self, frame: SourceFrame) -> None:
        with self._news:
            self.frames.append(frame)
            self._news.notify_all()

    def report(self, message: str) -> None:
        with self._news:
            self.reports.append(message)
            self._news.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, LIMIT_S), (len(self.frames), self.reports)


def take(source: Source, count: int) -> Taken:
    taken = Taken()
    source.start(taken.deliver, taken.report)
    taken.until(lambda: len(taken.frames) >= count)
    source.stop()
    return taken


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetched, "PAUSES_S", (0.01, 0.05))


@pytest.fixture
def camera() -> Iterator[Camera]:
    source = SimulatedCamera(seed=2, fps=50, size=(352, 240))
    source.prepare([Pose()])  # the first picture compiles, or loads, the kernels
    camera = Camera(source)
    yield camera
    camera.close()


def test_stream_of_the_simulated_camera_comes_as_it_left(camera: Camera) -> None:
    server = serve_video(camera, Guard("digest", "u", "p"))
    source = StreamedPictures(f"http://127.0.0.1:{server.port}", "u", "p")
    try:
        left = camera.subscribe(depth=1000, runs_source=True)
        taken = take(source, 10)
        files = {frame.data for frame in iter(lambda: left.get(0.0), None)}
        left.close()
        assert {frame.data for frame in taken.frames} <= files
        numbers = [frame.frame_number for frame in taken.frames]
        again = take(source, 2)
        numbers += [frame.frame_number for frame in again.frames]
        assert numbers == list(range(len(numbers)))
        assert source.size == (352, 240)
        assert all(f.time >= f.sender_time for f in taken.frames)
    finally:
        source.close()
        server.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_no_client_gets_the_stream_in_chunks(camera: Camera, version: str) -> None:
    server = serve_video(camera)
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            request = f"GET /axis-cgi/mjpg/video.cgi?camera=1 HTTP/{version}\r\nHost: c\r\n\r\n"
            client.sendall(request.encode())
            with client.makefile("rb") as answer:
                head = [line.lower() for line in iter(answer.readline, b"\r\n")]
                part = [answer.readline().strip() for _ in range(2)]
    finally:
        server.close()
    assert not any(line.startswith(b"transfer-encoding") for line in head)
    assert b"connection: close\r\n" in head
    assert part == [b"--myboundary", b"Content-Type: image/jpeg"]


def test_the_stream_of_a_camera_that_is_closed_ends_in_order(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve_video(camera)
    try:
        url = f"http://127.0.0.1:{server.port}/mjpg/video.cgi"
        with httpx.stream("GET", url, timeout=LIMIT_S) as answer:
            pieces = answer.iter_bytes()
            next(pieces)
            camera.close()
            for _ in pieces:
                pass
    finally:
        server.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def fetch_snapshot(*address: str) -> bytes:
    return asyncio.run(file_fetcher(*address)())


def test_single_pictures_of_the_simulated_camera(camera: Camera) -> None:
    server = serve_video(camera, Guard("basic", "u", "p"))
    url = f"http://127.0.0.1:{server.port}"
    source = SnapshotPictures(url, "u", "p", period_s=0.01)
    try:
        taken = take(source, 3)
        assert source.size == (352, 240)
        assert all((frame.data or b"").endswith(b"\xff\xd9") for frame in taken.frames)
        assert source.set_period(0.5) == source.period_s == 0.5
        small = fetch_snapshot(f"{url}/jpg/image.cgi?resolution=64x48&compression=90", "u", "p")
        assert simplejpeg.decode_jpeg_header(small)[:2] == (48, 64)
        named = fetch_snapshot(f"{url}/jpg/1/image.jpg?resolution=4cif", "u", "p")
        assert simplejpeg.decode_jpeg_header(named)[:2] == (480, 704)
        empty = "resolution=&compression=&camera=&fps="  # as a client with nothing set sends it
        plain = fetch_snapshot(f"{url}/jpg/image.cgi?{empty}", "u", "p")
        assert simplejpeg.decode_jpeg_header(plain)[:2] == (240, 352)
        for refused in ("0x48", "9999x9999"):
            with pytest.raises(HardwareError, match="400"):
                fetch_snapshot(f"{url}/jpg/image.cgi?resolution={refused}", "u", "p")
    finally:
        source.close()
        server.close()


def test_silent_camera_is_said_by_the_face(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skywright.instruments.loop.endpoints.axis_video.SILENCE_S", 0.1)
    camera.source.silent = True  # type: ignore[attr-defined]
    server = serve_video(camera)
    try:
        with pytest.raises(HardwareError, match="503"):
            fetch_snapshot(f"http://127.0.0.1:{server.port}")
    finally:
        server.close()


@pytest.mark.parametrize("path", ["/jpg/image.cgi", "/mjpg/video.cgi", "/mjpg/video.mjpg"])
def test_a_camera_that_does_not_start_answers_503_with_the_reason(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def fail(*_: object) -> None:
        raise HardwareError("camera7: connection refused")

    monkeypatch.setattr(camera.source, "start", fail)
    server = serve_video(camera)
    try:
        answer = httpx.get(f"http://127.0.0.1:{server.port}{path}")
        assert (answer.status_code, answer.text) == (503, "camera7: connection refused\n")
        camera.close()
        answer = httpx.get(f"http://127.0.0.1:{server.port}{path}")
        assert (answer.status_code, answer.text) == (503, "camera: it is closed\n")
    finally:
        server.close()


def test_snapshot_says_what_is_wrong() -> None:
    page = b"HTTP/1.1 200 OK\r\n\r\n<html>"
    with (
        scripted(lambda visit: visit.say(page)) as server,
        pytest.raises(DataError, match="expected image/jpeg"),
    ):
        fetch_snapshot(server.url)
    with pytest.raises(HardwareError, match="connect"):
        fetch_snapshot(server.url)
    with pytest.raises(ConfigError, match="expected http://camera"):
        fetch_snapshot("camera7")


@pytest.mark.usefixtures("quick_pauses")
def test_stream_that_fails_in_every_way_is_asked_for_anew() -> None:
    def script(visit: Visit) -> None:
        replies = {
            0: b"HTTP/1.1 503 Busy\r\n\r\n",
            1: HEAD + encode_part(A, 1.0) + encode_part(B, 2.0)[:-99],  # in mid-picture
            2: b"",
            3: HEAD.replace(b"multipart/x-mixed-replace", b"text/html") + b"hello",
            4: b"nonsense\r\n\r\n",
        }
        visit.say(replies.get(visit.number, HEAD + encode_part(B, 3.0)))
        if visit.number > 4:
            visit.wait_for_end()

    with scripted(script) as server:
        source = StreamedPictures(server.url, limit_s=1.0)
        taken = Taken()
        source.start(taken.deliver, taken.report)
        source.start(taken.deliver, taken.report)  # a second call does nothing
        taken.until(lambda: any("fell silent" in text for text in taken.reports))
        source.stop()
        source.stop()
        count = len(taken.frames)
    assert [frame.data for frame in taken.frames[:2]] == [A, B]
    numbers = [frame.frame_number for frame in taken.frames]
    assert numbers == list(range(count))
    for said, what in zip(
        taken.reports,
        ("503 Busy", "a picture", "disconnected", "text/html", "illegal"),
        strict=False,
    ):
        assert what in said
        assert "asking again in" in said


def test_pauses_grow_until_a_picture_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetched.PAUSES_S == (0.5, 10.0)
    monkeypatch.setattr(fetched, "PAUSES_S", (0.005, 0.1))

    def script(visit: Visit) -> None:
        visit.say(HEAD + encode_part(A, 1.0) if visit.number == 6 else b"")

    taken = Taken()
    with scripted(script) as server:
        source = StreamedPictures(server.url)
        source.start(taken.deliver, taken.report)
        taken.until(lambda: len(taken.reports) >= 8)
        source.stop()
    pauses = [text.rpartition("again in ")[2] for text in taken.reports[:8]]
    expected = (0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.005, 0.01)
    assert pauses == [f"{pause:g} s" for pause in expected]


@pytest.mark.usefixtures("quick_pauses")
def test_source_survives_what_its_owner_does_wrong() -> None:
    with scripted(lambda visit: visit.say(HEAD + encode_part(A, 1.0))) as server:
        source = StreamedPictures(server.url)
        taken = Taken()
        calls = iter(range(1000))

        def deliver(frame: SourceFrame) -> None:
            if next(calls) == 0:
                raise KeyError("no room")
            taken.deliver(frame)

        source.start(deliver, taken.report)
        taken.until(lambda: bool(taken.frames))
        source.stop()
    assert "KeyError: 'no room'" in taken.reports[0]


def test_a_picture_that_is_too_large_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def parts(*_: object) -> AsyncGenerator[Part, None]:
        yield Part(b"", trouble="more than 32000000 bytes")
        yield Part(A)

    monkeypatch.setattr(fetched, "stream_parts", parts)
    source = StreamedPictures("http://127.0.0.1:9")
    assert take(source, 1).frames[0].data == A
    assert source.lost == {"too large": 1}


def test_a_stop_between_two_pictures_closes_the_stream_in_order(
    camera: Camera, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve_video(camera, Guard("digest", "u", "p"))
    source = StreamedPictures(f"http://127.0.0.1:{server.port}", "u", "p")
    for _ in range(10):
        take(source, 1)
    server.close()
    assert not [each for each in caplog.records if each.name == "asyncio"]


@pytest.mark.usefixtures("quick_pauses")
def test_sources_leave_no_threads_and_no_sockets() -> None:
    def visits(count: int) -> tuple[int, int]:
        for _ in range(count):
            take(StreamedPictures(server.url), 1)
        me = psutil.Process()
        return me.num_threads(), me.num_fds()

    with scripted(lambda visit: visit.say(HEAD + encode_part(A, 1.0))) as server:
        before = visits(5)
        after = visits(20)
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 2


@given(
    st.floats(0.0, 0.5),
    st.lists(st.floats(0.0, 0.4), min_size=2, max_size=40),
    st.floats(-1e5, 1e5),
)
def test_sender_clock_is_fitted(delay: float, held_up: list[float], offset: float) -> None:
    date = make_dating(delay, "sender")
    taken = 1e9 + np.arange(len(held_up)) / 30.0
    dates = [
        date(exposed + delay + late, exposed + offset)
        for exposed, late in zip(taken.tolist(), held_up, strict=True)
    ]
    best = int(np.argmin(held_up))
    assert dates[best] == pytest.approx(taken[best] + held_up[best], abs=1e-5)
    assert (np.diff(dates[best:]) > 0.03).all()  # in order, however they were held up


def test_dating_without_a_sender_and_after_its_clock_was_set() -> None:
    assert make_dating(0.1)(5.0, 4.0) == pytest.approx(4.9)
    date = make_dating(0.1, "sender")
    assert date(5.0, math.nan) == pytest.approx(4.9)
    for n in range(FITTED_FRAMES):
        date(10.0 + n, 9.5 + n)
    for n in range(FITTED_FRAMES):  # the sender's clock is set back by half a minute
        last = date(1000.0 + n, 969.0 + n)
    assert last == pytest.approx(1000.0 + FITTED_FRAMES - 1 - 0.1)
    for n in range(3):  # by an hour, in autumn: at once
        assert date(2000.0 + n, -1601.0 + n) == pytest.approx(2000.0 + n - 0.1)


def test_dating_by_the_sender_of_pictures_that_were_held_up_for_minutes() -> None:
    date = make_dating(0.1, "sender")
    for n in range(FITTED_FRAMES):
        date(10.0 + n, 9.5 + n)
    stalled = 10.0 + FITTED_FRAMES
    for n in range(90):  # the connection stalls for 90 s, then all come at once
        assert date(stalled + 90.0, stalled - 0.5 + n) == pytest.approx(stalled + n - 0.1)
    assert date(stalled + 91.0, stalled + 90.5) == pytest.approx(stalled + 90.9)


def test_dating_by_the_sender_after_a_pause_in_which_its_clock_was_set_back() -> None:
    date = make_dating(0.1, "sender")
    for n in range(FITTED_FRAMES):
        date(10.0 + n, 9.5 + n)
    for n in range(3):  # the source stopped for hours; in autumn the clock is set back by one
        assert date(9000.0 + n, 5400.0 + n) == pytest.approx(9000.0 + n - 0.1)


def test_a_source_that_does_not_stop_does_not_end_the_uploads(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = PushedPictures()
    uploader, taken = Uploader(camera, f"http://127.0.0.1:{receiver.port}"), Taken()
    try:
        receiver.start(taken.deliver, taken.report)
        uploader.trigger(True)
        assert uploader._pictures is not None
        close = uploader._pictures.close

        def fail() -> None:
            close()
            raise HardwareError("the source has not stopped")

        monkeypatch.setattr(uploader._pictures, "close", fail)
        with pytest.raises(HardwareError):
            uploader.trigger(False)
        count = len(taken.frames)
        uploader.trigger(True)
        taken.until(lambda: len(taken.frames) > count)
    finally:
        uploader.close()
        receiver.close()


def test_triggered_uploads_reach_a_receiver(camera: Camera) -> None:
    receiver = PushedPictures()
    uploader = Uploader(camera, f"http://127.0.0.1:{receiver.port}")
    taken = Taken()
    try:
        receiver.start(taken.deliver, taken.report)
        left = camera.subscribe(depth=1000, runs_source=True)
        uploader.trigger(True)
        uploader.trigger(True)
        taken.until(lambda: len(taken.frames) >= 20)
        uploader.trigger(False)
        left.close()
        sent = [frame.data for frame in iter(lambda: left.get(0.0), None)]
        assert uploader.counts["sent"] == len(taken.frames)
        assert {frame.data for frame in taken.frames} <= set(sent)
        by_time = sorted(taken.frames, key=lambda frame: frame.sender_time)
        assert np.diff([frame.sender_time for frame in by_time]).min() >= 0.0
        assert not math.isnan(by_time[0].sender_time)
        count = len(taken.frames)
        uploader.close()
        uploader.trigger(True)
        taken.until(lambda: len(taken.frames) > count)
    finally:
        uploader.close()
        receiver.close()


def test_uploads_that_nobody_takes_are_counted(camera: Camera) -> None:
    receiver = PushedPictures()
    receiver.close()
    uploader = Uploader(camera, f"http://127.0.0.1:{receiver.port}")
    uploader.trigger(True)
    until(lambda: uploader.counts["failed"] >= 3)
    uploader.close()
    assert uploader.counts["sent"] == 0
