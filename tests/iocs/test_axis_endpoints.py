"""Camera to camera over HTTP, as processes: shown and watched, uploaded on a trigger."""

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import epics
import httpx
import numpy as np
import pytest
from ioc_process import IocProcess, running_ioc
from PIL import Image
from support.channels import channel
from support.hand_source import HandSource
from support.scripted_http import Visit, scripted
from support.waiting import until

from iocs.common import argument_parser
from iocs.loop.axis_endpoints import TriggeredUploads, add_endpoint_arguments, make_endpoints
from iocs.loop.axis_source import add_source_arguments, make_source
from skywright.acquire.newest import NewestQueue
from skywright.errors import ConfigError, HardwareError
from skywright.files.columns import ColumnReader
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.endpoints import axis_upload, axis_video
from skywright.instruments.loop.layouts import IDENTITY, SENDER_TIME, TIME
from skywright.instruments.loop.picture import encode_png
from skywright.instruments.loop.sources import SourceFrame
from skywright.instruments.loop.sources.push import PushedPictures

SMALL = ("--size", "352x240", "--fps", "20")


def pv(ioc: IocProcess, name: str) -> epics.PV:
    return channel(ioc.prefix + name, lambda: ioc.text)


def test_stream_and_snapshots_of_another_camera_are_recorded(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("pass word\n")
    login = ("--user", "bl7", "--password-file", str(secret))
    with running_ioc("iocs.axis", *SMALL, "--http", "0", "--auth", "digest", *login) as shown:
        url = f"http://127.0.0.1:{shown.ready['http']}"
        for source in ("mjpeg", "snapshot"):
            arguments = ("--source", source, "--url", url, *login, "--delay", "0.5")
            with running_ioc("iocs.axis", *arguments) as ioc:
                assert ioc.ready["source"] == source
                directory = tmp_path / source
                directory.mkdir()
                pv(ioc, "HDF1:FilePath").put(str(directory), wait=True, timeout=90)
                pv(ioc, "HDF1:LazyOpen").put(1, wait=True, timeout=90)
                pv(ioc, "HDF1:Capture").put(1, wait=True, timeout=90)
                pv(ioc, "cam1:ImageMode").put(1, wait=True, timeout=90)
                pv(ioc, "cam1:NumImages").put(5, wait=True, timeout=90)
                pv(ioc, "cam1:Acquire").put(1, wait=True, timeout=60)
                assert pv(ioc, "cam1:ArraySizeX_RBV").get() == 352
                assert pv(ioc, "HDF1:NumCaptured_RBV").get() == 5
                path = Path(pv(ioc, "HDF1:FullFileName_RBV").get(as_string=True))
                ended = time.time()
                assert "pass word" not in ioc.text
                assert ioc.terminate() == 0
            with ColumnReader(path, IDENTITY) as reader:
                times = reader.read(TIME)
                sent = reader.read(SENDER_TIME)
            assert (times < ended - 0.5).all()
            if source == "mjpeg":  # dated half a second before they arrived, sent just before
                assert (sent - times < 0.5).all()
                assert (sent - times > 0.0).all()


def test_camera_that_is_gone_is_said_and_comes_back() -> None:
    with running_ioc("iocs.axis", *SMALL, "--http", "0") as shown:
        port = shown.ready["http"]
        arguments = ("--source", "mjpeg", "--url", f"http://127.0.0.1:{port}")
        with running_ioc("iocs.axis", *arguments) as ioc:
            counter, message = pv(ioc, "cam1:ArrayCounter_RBV"), pv(ioc, "cam1:StatusMessage_RBV")
            pv(ioc, "cam1:Acquire").put(1)
            until(lambda: counter.get() > 2)
            assert shown.terminate() == 0
            until(lambda: "no picture from mjpeg" in message.get(as_string=True))
            until(lambda: "asking again" in message.get(as_string=True))
            before = counter.get()
            again = shown.again(*SMALL, "--http", str(port))
            try:
                until(lambda: counter.get() > before + 2)
                until(lambda: message.get(as_string=True) == "taking pictures")
            finally:
                again.terminate()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--source", "mjpeg"], "name the camera with --url"),
        (["--size", "0x0"], "--size 0x0"),
        (["--size", "64x4²"], "--size 64x4²"),
        (["--fps", "-5"], "--fps -5"),
        (["--turn", "nan"], "--turn nan"),
        (["--scene", "[]"], "--scene .*: expected a JSON object .*: Input should be an object"),
        (["--scene", '{"seed": 3}'], "--scene .*: seed: Extra inputs are not permitted"),
        (
            ["--scene", '{"tint": [1, "x", 1]}'],
            "--scene .*: tint.1: Input should be a valid number",
        ),
        (["--scene", '{"um_per_px_x": 0}'], "--scene .*: .* by zero"),
        (["--source", "mjpeg", "--url", "camera7"], "expected http://camera"),
        (["--source", "push", "--delay", "-1"], "expected 0 to 10 s"),
        (["--source", "mjpeg", "--url", "http://c", "--push-to", "http://x"], "with --trigger"),
        (
            ["--source", "mjpeg", "--url", "http://c", "--http", "0", "--auth", "basic"],
            "with --user",
        ),
        (["--source", "mjpeg", "--url", "http://c", "--password-file", "/none"], "/none"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], says: str) -> None:
    parser = argument_parser("", "X:")
    add_source_arguments(parser)
    add_endpoint_arguments(parser)
    args = parser.parse_args(arguments)
    with pytest.raises(ConfigError, match=says):
        make_endpoints(Camera(make_source(args)), args)


@pytest.mark.parametrize(
    ("contents", "says"), [(b"", "is empty"), (b"\r\n", "is empty"), (b"pass\xe9\n", "utf-8")]
)
def test_a_password_file_that_cannot_be_used_is_named(
    tmp_path: Path, contents: bytes, says: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(contents)
    parser = argument_parser("", "X:")
    add_source_arguments(parser)
    given = ["--source", "mjpeg", "--url", "http://c", "--password-file", str(file)]
    with pytest.raises(ConfigError, match=f"--password-file {file}: .*{says}"):
        make_source(parser.parse_args(given))


def test_the_scene_takes_lists() -> None:
    parser = argument_parser("", "X:")
    add_source_arguments(parser)
    scene = '{"border_px": [4, 4, 4, 4], "tint": [1, 0.9, 0.8], "nozzle": [0.5, 0.5, 5]}'
    camera = make_source(parser.parse_args(["--size", "352x240", "--scene", scene]))
    assert camera.scene.optics.border_px == (4, 4, 4, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize("turn", ["0", "90"])
def test_the_speed_may_be_infinite(turn: str) -> None:
    parser = argument_parser("", "X:")
    add_source_arguments(parser)
    args = parser.parse_args(["--size", "352x240", "--speed", "inf", "--turn", turn])
    camera = make_source(args)
    assert camera.period_s == 0.0
    assert camera.pose_at(1.0).phi_deg == float(turn)  # type: ignore[attr-defined]


def test_uploads_end_with_their_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axis_upload, "LIMIT_S", 0.05)
    pictures: NewestQueue[SourceFrame] = NewestQueue(axis_upload.WAITING)
    for number in range(20):
        pictures.offer(SourceFrame(number, float(number), b"\xff\xd8"))
    camera: Any = SimpleNamespace(subscribe=lambda depth, runs_source: pictures)
    with scripted(lambda visit: threading.Event().wait(0.1)) as receiver:
        uploader = axis_upload.Uploader(camera, receiver.url)
        uploader.trigger(True)
        threads = list(uploader._threads)
        uploader.trigger(False)
        assert not any(thread.is_alive() for thread in threads)
        assert len(receiver.requests) < 20
    assert uploader.counts.total() == 20


def test_pictures_that_wait_are_uploaded_after_the_camera_is_closed() -> None:
    source: Any = HandSource()
    source.size = None
    camera, may_answer = Camera(source), threading.Event()

    def answer(visit: Visit) -> None:
        assert may_answer.wait(60)
        visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with scripted(answer) as receiver:
        uploader = axis_upload.Uploader(camera, receiver.url)
        uploader.trigger(True)
        source.send(*(SourceFrame(number, float(number), b"\xff\xd8") for number in range(5)))
        camera.close()
        may_answer.set()
        uploader.close()
    assert uploader.counts == {"sent": 5, "dropped": 0}


def test_a_picture_whose_connection_the_receiver_has_closed_is_sent_again() -> None:
    pictures: NewestQueue[SourceFrame] = NewestQueue(axis_upload.WAITING)
    pictures.offer(SourceFrame(0, 0.0, b"\xff\xd8"))
    camera: Any = SimpleNamespace(subscribe=lambda depth, runs_source: pictures)

    def answer(visit: Visit) -> None:
        if visit.number:
            visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with scripted(answer) as receiver:
        uploader = axis_upload.Uploader(camera, receiver.url)
        uploader.trigger(True)
        uploader.close()
        assert len(receiver.requests) == 2
    assert uploader.counts == {"sent": 1, "dropped": 0}


def test_the_password_of_a_receiver_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    pictures: NewestQueue[SourceFrame] = NewestQueue(axis_upload.WAITING)
    pictures.offer(SourceFrame(0, 0.0, b"\xff\xd8"))
    camera: Any = SimpleNamespace(subscribe=lambda depth, runs_source: pictures)
    with scripted(lambda visit: visit.say(b"HTTP/1.1 403 No\r\n\r\n")) as receiver:
        uploader = axis_upload.Uploader(camera, receiver.url.replace("://", "://bl7:secret@"))
        with caplog.at_level("INFO"):
            uploader.trigger(True)
            uploader.trigger(False)
    assert "uthorization: Basic " in receiver.requests[0]
    assert f"upload to {receiver.url}" in caplog.text
    assert "secret" not in caplog.text


def test_each_trigger_logs_its_first_upload_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    pictures: NewestQueue[SourceFrame] = NewestQueue(axis_upload.WAITING)
    camera: Any = SimpleNamespace(subscribe=lambda depth, runs_source: pictures)
    with scripted(lambda visit: visit.say(b"HTTP/1.1 403 No\r\n\r\n")) as receiver:
        uploader = axis_upload.Uploader(camera, receiver.url)
        for _ in range(2):
            for number in range(3):
                pictures.offer(SourceFrame(number, float(number), b"\xff\xd8"))
            uploader.trigger(True)
            uploader.trigger(False)
            assert uploader.counts == {"refused": 3, "dropped": 0}
    assert caplog.messages == [f"upload to {uploader.url} refused: 403"] * 2


def test_a_receiver_that_answers_drop_by_drop_does_not_keep_the_trigger_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(axis_upload, "LIMIT_S", 0.3)
    monkeypatch.setattr(axis_upload, "LAST_S", 0.1)
    pictures: NewestQueue[SourceFrame] = NewestQueue(axis_upload.WAITING)
    pictures.offer(SourceFrame(0, 0.0, b"\xff\xd8"))
    camera: Any = SimpleNamespace(subscribe=lambda depth, runs_source: pictures)
    closed = threading.Event()

    def drip(visit: Visit) -> None:
        visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        while not closed.wait(0.02):
            visit.say(b".")

    with scripted(drip) as receiver:
        uploader = axis_upload.Uploader(camera, receiver.url)
        uploader.trigger(True)
        until(lambda: receiver.requests)
        uploader.trigger(False)
        assert any(thread.is_alive() for thread in uploader._threads)
        closed.set()


def test_neither_a_source_that_cannot_start_nor_an_odd_value_ends_the_uploads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []

    class Trigger:
        name = "GONIO:VideoTrigger"

        async def wait_for_connection(self, timeout: float | None) -> None:
            """It is connected."""

        async def subscribe(self, **options: Any) -> AsyncIterator[Any]:
            for data in ([1], [], [0], [1]):
                yield SimpleNamespace(data=data)

    class Channels(AsyncExitStack):
        async def get_pvs(self, *names: str, **options: Any) -> list[Trigger]:
            return [Trigger()]

    async def follow() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def trigger(opened: bool) -> None:
            seen.append(opened)
            if len(seen) == 1:
                raise HardwareError("the camera does not answer")
            if len(seen) == 3:
                loop.call_soon_threadsafe(done.set)

        uploader: Any = SimpleNamespace(url="http://127.0.0.1", trigger=trigger)
        following = asyncio.create_task(TriggeredUploads(uploader, "GONIO:VideoTrigger").follow())
        await asyncio.wait_for(done.wait(), 60.0)
        following.cancel()

    monkeypatch.setattr("iocs.loop.follow.Context", Channels)
    asyncio.run(follow())
    assert seen == [True, False, True]


def test_who_asks_for_the_head_of_the_stream_does_not_start_the_camera() -> None:
    def refuse(*, runs_source: bool) -> NewestQueue[SourceFrame]:
        raise HardwareError("no camera")

    async def ask() -> list[httpx.Response]:
        camera: Any = SimpleNamespace(subscribe=refuse)
        transport = httpx.ASGITransport(axis_video.video_app(camera))
        async with httpx.AsyncClient(transport=transport, base_url="http://camera") as client:
            return [await each("/axis-cgi/mjpg/video.cgi") for each in (client.get, client.head)]

    stream, head = asyncio.run(ask())
    assert (stream.status_code, head.status_code) == (503, 200)
    assert head.headers["content-type"].startswith("multipart/x-mixed-replace; boundary=")


def test_pictures_go_out_as_what_they_are_called() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (140, 150, 4), dtype=np.uint8)
    for image in (pixels, pixels[..., 0], pixels[..., :3], pixels[..., 0] * np.uint16(256)):
        frame = SourceFrame(1, 1.0, encode_png(image))
        for form in (axis_video.Form(), axis_video.Form(compression=50)):
            sent = Image.open(io.BytesIO(form.encode(frame)))
            assert (sent.format, sent.mode) == ("JPEG", "L" if image.ndim == 2 else "RGB")
        before, _, after = encode_png(image).rpartition(b"IDAT")
        damaged = before + b"\0DAT" + after
        assert axis_video.Form().encode(SourceFrame(1, 1.0, damaged)) == damaged


def test_pictures_are_uploaded_while_the_video_trigger_is_open() -> None:
    frames: list[SourceFrame] = []
    receiver = PushedPictures()
    receiver.start(frames.append, lambda message: None)
    to = f"http://127.0.0.1:{receiver.port}/upload"
    try:
        with running_ioc("iocs.goniometer") as gonio:
            follow = ("--goniometer", gonio.prefix, "--push-to", to)
            with running_ioc("iocs.axis", *SMALL, *follow) as ioc:
                trigger = pv(gonio, "VideoTrigger")
                for _ in range(2):
                    count = len(frames)
                    trigger.put(1, wait=True, timeout=90)
                    until(lambda count=count: len(frames) > count + 5)
                    trigger.put(0, wait=True, timeout=90)
                    until(lambda: "uploads to" in ioc.text.rpartition("is open")[2])
                trigger.put(1, wait=True, timeout=90)
                count = len(frames)
                until(lambda: len(frames) > count + 2)
                gonio.terminate()  # a trigger that is lost is closed
                until(lambda: ioc.text.count("uploads to") == 3)
        numbers = [frame.frame_number for frame in frames]
        assert numbers == list(range(len(numbers)))
        assert all((frame.data or b"").endswith(b"\xff\xd9") for frame in frames)
    finally:
        receiver.close()
