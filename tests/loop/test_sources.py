"""Sources of pictures: one interface, silent until asked."""

import contextlib
import http.client
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from support.waiting import until

from skywright.acquire.pacing import PacedSource
from skywright.acquire.trajectory import Axis, Move
from skywright.errors import ConfigError
from skywright.files.areadetector import ImageWriter
from skywright.instruments.loop.layouts import PictureFile
from skywright.instruments.loop.picture import decode
from skywright.instruments.loop.sample_motion import Carriage, SampleMotion
from skywright.instruments.loop.sources import CAMERA_PACE, Source, SourceFrame, replay, sim
from skywright.instruments.loop.sources.push import PushedPictures
from skywright.instruments.loop.sources.replay import Replay
from skywright.instruments.loop.sources.sim import SimulatedCamera, turning_pose
from skywright.instruments.loop.twin.render import Pose


def take(source: Source, count: int, act: Callable[[], None] | None = None) -> list[SourceFrame]:
    """Start, wait for `count` pictures, stop."""
    frames: list[SourceFrame] = []
    enough = threading.Event()

    def deliver(frame: SourceFrame) -> None:
        frames.append(frame)
        if len(frames) >= count:
            enough.set()

    source.start(deliver, lambda message: None)
    if act is not None:
        act()
    assert enough.wait(90), f"{len(frames)} pictures of {count}"
    source.stop()
    taken = len(frames)
    assert not threading.Event().wait(0.05)  # room for a picture that should not come
    assert len(frames) == taken
    return frames


def test_paced_source_keeps_counting_over_stops() -> None:
    source = PacedSource("test", SourceFrame, 0.001, **CAMERA_PACE)
    first = take(source, 3)
    second = take(source, 3)
    numbers = [frame.frame_number for frame in first + second]
    assert numbers == list(range(len(numbers)))
    times = [frame.time for frame in first + second]
    assert times == sorted(times)


def test_paced_source_reports_and_goes_on() -> None:
    def make(number: int, time: float) -> SourceFrame:
        if number == 1:
            raise ValueError("broken file")
        if number == 4:
            raise StopIteration
        return SourceFrame(number, time)

    reports: list[str] = []
    frames: list[int] = []
    over = threading.Event()

    def report(message: str) -> None:
        reports.append(message)
        if "no more" in message:
            over.set()

    source = PacedSource("test", make, 0.001, **CAMERA_PACE)
    source.start(lambda frame: frames.append(frame.frame_number), report)
    assert over.wait(90)
    source.close()
    assert frames == [0, 2, 3]
    assert reports == ["test: picture 1: broken file", "test: no more pictures from number 4 on"]


def test_a_period_that_is_set_before_the_start_holds_for_the_first_picture() -> None:
    camera = SimulatedCamera(fps=1 / 3600, size=(352, 240))
    assert camera.set_period(0.01) == 0.01
    take(camera, 1)


def test_simulated_camera_shows_the_twin_and_its_truth() -> None:
    camera = SimulatedCamera(seed=3, fps=200, size=(352, 240), kind="nylon")
    frames = take(camera, 4)
    for frame in frames:
        assert frame.data is not None
        assert decode(frame.data).shape == (240, 352)
        assert frame.truth is not None
        assert frame.truth["kind"] == "nylon"
        assert len(frame.truth["tip_px"]) == 2
    assert frames[0].truth is not None
    assert frames[0].data != frames[1].data  # noise
    again = take(SimulatedCamera(seed=3, fps=200, size=(352, 240), kind="nylon"), 1)
    assert again[0].data == frames[0].data
    assert again[0].truth is not None
    differing = {k for k, v in again[0].truth.items() if v != frames[0].truth[k]}
    assert differing <= {"exposure_start_s", "exposure_end_s"}


def test_simulated_camera_loses_and_damages_what_it_is_told_to() -> None:
    camera = SimulatedCamera(seed=1, fps=500, size=(352, 240))
    camera.prepare([Pose()])
    camera.lose, camera.damage = 0.3, 0.5
    frames = take(camera, 60)
    numbers = np.array([frame.frame_number for frame in frames])
    assert np.count_nonzero(np.diff(numbers) > 1) > 0
    whole = [frame for frame in frames if (frame.data or b"").endswith(b"\xff\xd9")]
    assert 0 < len(whole) < len(frames)


def known_until(time_s: float, phi: Axis | None = None) -> SampleMotion:
    """The motion of a spindle, the stages at 0."""
    return SampleMotion(phi or Axis(), (Axis(), Axis(), Axis()), Carriage(), time_s)


def test_a_picture_waits_for_word_of_where_the_motors_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sim, "MOTION_TIMEOUT_S", 20.0)
    camera = SimulatedCamera(seed=1, fps=200, size=(352, 240))
    began = time.time() - 1.0
    camera.follow(known_until(began))

    def tell_late() -> None:
        threading.Event().wait(0.1)  # time enough for pictures of motors that are thought to rest
        turned = Axis(0.0, (Move(0.0, 90.0, 1e9, start_time=began),))
        camera.follow(known_until(math.inf, turned))

    frames = take(camera, 3, tell_late)
    assert [frame.truth["phi_deg"] for frame in frames if frame.truth] == [90.0] * len(frames)


def test_motors_out_of_touch_hold_up_one_picture_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "MOTION_TIMEOUT_S", 1.0)
    camera = SimulatedCamera(seed=1, fps=200, size=(352, 240))
    camera.prepare([Pose()])
    camera.follow(known_until(0.0))
    take(camera, 25)  # in less than 20 s


def test_motors_are_in_touch_again_when_word_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "MOTION_TIMEOUT_S", 0.1)
    camera = SimulatedCamera(seed=1, fps=200, size=(352, 240))
    camera.prepare([Pose()])
    camera.follow(known_until(0.0))
    take(camera, 3)  # without word
    monkeypatch.setattr(sim, "MOTION_TIMEOUT_S", 60.0)
    began = time.time() - 1.0
    camera.follow(known_until(began))  # late: pictures wait again

    def tell_late() -> None:
        threading.Event().wait(0.1)
        turned = Axis(0.0, (Move(0.0, 90.0, 1e9, start_time=began),))
        camera.follow(known_until(math.inf, turned))

    frames = take(camera, 3, tell_late)
    assert [frame.truth["phi_deg"] for frame in frames if frame.truth] == [90.0] * len(frames)


def test_turning_goes_round_in_steps() -> None:
    pose_at = turning_pose(deg_per_s=60.0)
    assert pose_at(0.0).phi_deg == 0.0
    assert pose_at(0.05).phi_deg == 2.0
    assert pose_at(6.0).phi_deg == 0.0
    assert turning_pose()(1e9) == Pose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, suffix in enumerate(("jpg", "png", "tif")):
        Image.new("L", (40, 32), 50 * index).save(tmp_path / f"p{index}.{suffix}")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_replay_of_a_folder_in_order_and_round(folder: Path) -> None:
    source = Replay(folder, fps=500)
    assert source.size == (40, 32)
    frames = take(source, 5)
    gray = [int(decode(frame.data or b"").mean()) for frame in frames[:5]]
    assert gray == [0, 50, 100, 0, 50]
    assert frames[0].data == (folder / "p0.jpg").read_bytes()
    assert [frame.frame_number for frame in frames[:5]] == [0, 1, 2, 3, 4]


def test_replay_once_says_that_it_is_over(folder: Path) -> None:
    source = Replay(folder, fps=500, loop=False)
    frames: list[SourceFrame] = []
    over = threading.Event()
    source.start(frames.append, lambda message: over.set())
    assert over.wait(90)
    assert len(frames) == 3


def test_replay_of_a_recording_gives_the_files_as_received(tmp_path: Path) -> None:
    pictures = [np.full((32, 48), value, np.uint8) for value in (10, 90)]
    files = [simplejpeg.encode_jpeg(p[:, :, None], colorspace="GRAY") for p in pictures]
    capture = PictureFile(tmp_path / "a.h5", (32, 48))
    for number, (picture, file) in enumerate(zip(pictures, files, strict=True)):
        capture.add(SourceFrame(number, 1.0, data=file), picture)
    capture.close()
    source = Replay(tmp_path / "a.h5", fps=500)
    assert source.size == (48, 32)
    assert [frame.data for frame in take(source, 2)[:2]] == files
    (tmp_path / "a.mjpeg").unlink()
    frames = take(Replay(tmp_path / "a.h5", fps=500), 2)
    np.testing.assert_array_equal(frames[1].image, pictures[1])


def test_replay_of_a_file_that_is_cut_short_has_no_black_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with contextlib.closing(ImageWriter(path, (40, 50))) as writer:
        for number in range(200):
            writer.append(number, np.ones((40, 50), np.uint8), number)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    source = Replay(path, fps=500)
    assert source._frame(100, 1.0).image.all()
    with pytest.raises(OSError, match="the file is cut short"):
        source._frame(150, 1.0)


def test_replay_of_foreign_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["pics"] = np.arange(2 * 32 * 40, dtype=np.uint8).reshape(2, 32, 40)
        file["deep"] = np.zeros((2, 32, 40), np.uint16)
        file["flat"] = np.zeros((2, 32, 40, 1), np.uint8)
    frames = take(Replay(tmp_path / "b.h5", fps=500, dataset="pics"), 2)
    assert frames[1].image is not None
    assert frames[1].image.shape == (32, 40)
    with pytest.raises(ConfigError, match="has no dataset /entry/data/data or"):
        Replay(tmp_path / "b.h5")
    with pytest.raises(ConfigError, match=r"uint16, expected \(N, H, W\) uint8"):
        Replay(tmp_path / "b.h5", dataset="deep")
    with pytest.raises(ConfigError, match=r"40, 1\) uint8, expected \(N, H, W\) uint8"):
        Replay(tmp_path / "b.h5", dataset="flat")


def test_a_replay_that_is_closed_or_refused_keeps_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[h5py.File] = []

    def remember(path: Path) -> h5py.File:
        opened.append(h5py.File(path, "r"))
        return opened[-1]

    monkeypatch.setattr(replay, "open_hdf5", remember)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.zeros((2, 32, 40), np.uint8)
    source = Replay(tmp_path / "b.h5")
    assert opened[0]
    source.close()
    with pytest.raises(ConfigError):
        Replay(tmp_path / "b.h5", dataset="none")
    assert not any(opened)


def test_replay_leaves_out_hidden_files_and_folders(folder: Path) -> None:
    (folder / "._p0.jpg").write_bytes(b"Mac OS X")
    (folder / "p00.jpg").mkdir()
    frames = take(Replay(folder, fps=500), 1)
    assert frames[0].data == (folder / "p0.jpg").read_bytes()


def test_replay_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no picture in this folder"):
        Replay(tmp_path)
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="is no picture"):
        Replay(tmp_path)
    with pytest.raises(ConfigError, match="neither a folder of pictures nor HDF5"):
        Replay(tmp_path / "x.jpg")
    damaged = tmp_path / "damaged.h5"
    with h5py.File(damaged, "w") as file:
        file["/entry/data"] = np.zeros((3, 8, 9), np.uint8)
    damaged.write_bytes(damaged.read_bytes().replace(b"HEAP", b"XXXX"))
    with pytest.raises(ConfigError, match=r"damaged\.h5: neither a folder of pictures nor HDF5"):
        Replay(damaged)


def upload(port: int, *bodies: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    for body in bodies:
        name = {"Content-Disposition": "attachment; filename=i26-11-20_08-17-20-45.jpg"}
        connection.request("POST", "/", body, {"Content-Type": "image/jpeg", **name})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()


def test_pushed_pictures_come_as_received_when_asked_for(folder: Path) -> None:
    jpeg, png = ((folder / name).read_bytes() for name in ("p0.jpg", "p1.png"))
    source = PushedPictures()
    try:
        assert source.size is None
        upload(source.port, jpeg)
        assert source.size == (40, 32)
        assert source.counts == {"received": 1, "dropped": 1}
        frames = take(source, 3, lambda: upload(source.port, jpeg, png, b"broken"))
        assert [frame.data for frame in frames] == [jpeg, png, b"broken"]
        assert [frame.frame_number for frame in frames] == [1, 2, 3]
        assert frames[0].sender_time % 60 == pytest.approx(20.45, abs=1e-5)
        upload(source.port, jpeg)
        assert source.counts["dropped"] == 2
    finally:
        source.close()


def test_a_picture_whose_header_lies_sets_no_size(folder: Path) -> None:
    jpeg = (folder / "p0.jpg").read_bytes()
    place = jpeg.index(b"\xff\xc0") + 5
    source = PushedPictures()
    try:
        upload(source.port, jpeg, jpeg[:place] + b"\x17\x70\x1f\x40" + jpeg[place + 4 :])
        assert source.size == (40, 32)
    finally:
        source.close()


def test_size_can_be_asked_while_a_picture_is_delivered(folder: Path) -> None:
    """The owner asks under its lock, for which a delivery waits; a lock here would deadlock."""
    source = PushedPictures()
    answers: list[tuple[int, int] | None] = []

    def deliver(frame: SourceFrame) -> None:
        asking = threading.Thread(target=lambda: answers.append(source.size), daemon=True)
        asking.start()
        asking.join(90)

    try:
        source.start(deliver, lambda message: None)
        upload(source.port, sorted(folder.glob("*.jpg"))[0].read_bytes())
        assert answers == [source.size]
    finally:
        source.close()


def test_pushed_pictures_tell_of_refused_and_cut_uploads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    source = PushedPictures()
    reports: list[str] = []
    cut = threading.Event()

    def report(message: str) -> None:
        reports.append(message)
        if "cut off" in message:
            cut.set()

    source.start(lambda frame: None, report)
    connection = http.client.HTTPConnection("127.0.0.1", source.port, timeout=5)
    connection.request("POST", "/", b"text", {"Content-Type": "text/plain"})
    assert connection.getresponse().status == 415
    connection.close()
    connection.request("GET", "/")  # of a browser: no picture is lost with it
    assert connection.getresponse().status == 405
    connection.close()
    connection.putrequest("POST", "/")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"half")
    connection.close()
    assert cut.wait(90)
    source.close()
    assert "415 Unsupported Media Type: text/plain" in reports[0]
    assert "upload cut off, 4 of 100 bytes" in reports[1]
    assert len(reports) == 2  # a browser or a port scan sets no alarm
    assert "405 Method Not Allowed: GET" in caplog.text
    assert source.counts == {"refused": 1, "no upload": 1, "cut off": 1}
    assert source.lost == {"refused": 1, "cut off": 1}


def test_an_upload_that_breaks_while_the_source_is_stopped_is_no_loss() -> None:
    source = PushedPictures()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", source.port, timeout=5)
        connection.putrequest("POST", "/")
        connection.putheader("Content-Type", "image/jpeg")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"half")
        connection.close()
        until(lambda: source.counts, what="the broken upload is counted")
        assert (source.lost, source.counts) == ({}, {"dropped": 1})
    finally:
        source.close()


def test_taken_port_is_named() -> None:
    source = PushedPictures()
    try:
        with pytest.raises(ConfigError, match=f"cannot listen for pictures on .*{source.port}"):
            PushedPictures(port=source.port)
    finally:
        source.close()
