"""The owner of the camera: every picture is in the file, or counted as lost by its cause."""

import errno
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import simplejpeg
from support.waiting import until

from skywright.acquire import owner as owner_module
from skywright.acquire.source import Report
from skywright.files import areadetector
from skywright.files import columns as records
from skywright.files.columns import ColumnReader
from skywright.instruments.loop import layouts as layout
from skywright.instruments.loop.camera import Camera
from skywright.instruments.loop.layouts import PictureFile
from skywright.instruments.loop.sources import Deliver, SourceFrame

SHAPE = (40, 64)

LARGER = (SHAPE[0] + 8, SHAPE[1] + 8)


def jpeg(value: int, shape: tuple[int, int] = SHAPE) -> bytes:
    return simplejpeg.encode_jpeg(np.full((*shape, 1), value, np.uint8), colorspace="GRAY")


class HandSource:
    """A source that the test drives."""

    name = "hand"
    size: tuple[int, int] | None = None
    period_s = 0.0
    lost: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.deliver: Deliver | None = None
        self.number = 0
        self.closed = False

    def start(self, deliver: Deliver, report: Report) -> None:
        self.deliver = deliver

    def stop(self) -> None:
        self.deliver = None

    def set_period(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        self.stop()
        self.closed = True

    def send(self, data: bytes | None = None, **more: object) -> int:
        """Deliver a picture whose value is its number."""
        assert self.deliver is not None, "nobody asked for pictures"
        number, self.number = self.number, self.number + 1
        data = jpeg(number) if data is None else data
        self.deliver(SourceFrame(number, 1e9 + number, data=data, **more))  # type: ignore[arg-type]
        return number


@pytest.fixture
def source() -> HandSource:
    return HandSource()


@pytest.fixture
def camera(source: HandSource) -> Iterator[Camera]:
    owner = Camera(source)
    yield owner
    owner.close()
    assert source.closed


def lost(camera: Camera) -> dict[str, int]:
    counts = camera.state().lost
    return {cause: count for cause, count in counts.items() if count}


def test_silent_until_asked_and_silent_again(camera: Camera, source: HandSource) -> None:
    assert source.deliver is None
    acquisition = camera.acquire(2)
    for _ in range(2):
        source.send()
    assert acquisition.done.wait(90)
    until(lambda: source.deliver is None)
    assert camera.state().acquired == 2
    assert camera.state().shape == SHAPE
    assert not camera.state().acquiring


def test_faces_keep_the_source_running_and_get_the_newest(
    camera: Camera, source: HandSource
) -> None:
    one, other = camera.subscribe(runs_source=True), camera.subscribe(runs_source=True)
    for _ in range(3):
        source.send()
    newest = one.get(1.0)
    assert newest is not None
    assert newest.frame_number == 2
    assert one.get(0.01) is None
    latest = camera.latest()
    assert latest is not None
    assert latest[1].shape == SHAPE
    one.close()
    assert source.deliver is not None
    other.close()
    assert source.deliver is None
    assert camera.state().acquired == 0  # looking is not taking


def test_recording_has_every_picture_with_its_file(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    assert camera.start_capture(path) == ""
    acquisition = camera.acquire()
    files = [jpeg(value) for value in range(5)]
    for file in files:
        source.send(file)
    stopping = camera.stop_acquisition()
    assert stopping is acquisition
    assert acquisition.done.wait(90)
    assert camera.state().rows_readable == 5
    with ColumnReader(path, layout.IDENTITY) as reader:  # before it is closed
        assert reader.read(layout.IDENTITY).tolist() == [0, 1, 2, 3, 4]
        assert reader.read(layout.TIME).tolist() == [1e9 + n for n in range(5)]
        assert reader.read(areadetector.IMAGE)[:, 20, 30].tolist() == [0, 1, 2, 3, 4]
        offsets, sizes = reader.read(layout.JPEG_OFFSET), reader.read(layout.JPEG_SIZE)
        assert reader.read(areadetector.EPICS_SECONDS).tolist() == [
            int(1e9) + n - 631_152_000 for n in range(5)
        ]
    kept = (tmp_path / "a.mjpeg").read_bytes()
    assert [kept[o : o + s] for o, s in zip(offsets, sizes, strict=True)] == files
    camera.stop_capture()
    with h5py.File(path) as file:
        assert file["/entry/instrument/detector/data"] == file[areadetector.IMAGE]
        assert file["/entry"].attrs["NX_class"] == b"NXentry"
    assert not (tmp_path / "a.rejected.h5").exists()
    assert lost(camera) == {}


def test_count_is_exact_and_what_comes_later_is_not_taken(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    face = camera.subscribe(runs_source=True)  # keeps the source going
    camera.start_capture(tmp_path / "a.h5")
    acquisition = camera.acquire(3)
    for _ in range(10):
        source.send()
    assert acquisition.done.wait(90)
    assert camera.state().rows_readable == 3
    source.send()
    again = camera.acquire(1)
    number = source.send()
    assert again.done.wait(90)
    face.close()
    camera.stop_capture()
    with ColumnReader(tmp_path / "a.h5", layout.IDENTITY) as reader:
        assert reader.read(layout.IDENTITY).tolist() == [0, 1, 2, number]


def test_recording_ends_by_itself_after_its_count(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    camera.start_capture(tmp_path / "a.h5", count=2)
    camera.acquire()
    for _ in range(4):
        source.send()
    until(lambda: camera.state().acquired == 4)
    assert not camera.state().capturing
    assert camera.state().rows_readable == 2


def test_rejected_pictures_keep_their_bytes_and_their_cause(
    camera: Camera, source: HandSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "SILENCE_S", 600.0)  # silence replaces the message below
    camera.start_capture(tmp_path / "a.h5")
    acquisition = camera.acquire(3)
    sent = [jpeg(0), b"no picture", jpeg(1, LARGER), jpeg(2)[:-30], jpeg(3), jpeg(4)]
    for data in sent:
        source.send(data)
    assert acquisition.done.wait(90)
    assert camera.state().alarm
    assert camera.state().message.startswith("undecodable: frame 3: JPEG of ")
    camera.stop_capture()
    assert lost(camera) == {"undecodable": 2, "wrong size": 1}
    with ColumnReader(tmp_path / "a.h5", layout.IDENTITY) as reader:
        assert reader.read(layout.IDENTITY).tolist() == [0, 4, 5]
    with ColumnReader(tmp_path / "a.rejected.h5", layout.REJECTED_IDENTITY) as reader:
        assert reader.read(layout.REJECTED_IDENTITY).tolist() == [1, 2, 3]
        cause = reader.attributes("/entry/rejected/cause")["names"]
        assert [cause[c] for c in reader.read("/entry/rejected/cause")] == [
            "undecodable",
            "wrong size",
            "undecodable",
        ]
        assert reader.read("/entry/rejected/width").tolist() == [0, LARGER[1], 0]
    assert (tmp_path / "a.mjpeg").read_bytes() == b"".join(sent)


def test_smaller_picture_keeps_its_place_and_says_its_size(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    height, width = SHAPE[0] - 8, SHAPE[1] - 24
    camera.start_capture(tmp_path / "a.h5")
    acquisition = camera.acquire(2)
    source.send(jpeg(200))
    source.send(jpeg(150, (height, width)))
    assert acquisition.done.wait(90)
    camera.stop_capture()
    with ColumnReader(tmp_path / "a.h5", layout.IDENTITY) as reader:
        pixels = reader.read(areadetector.IMAGE)
        assert reader.read(areadetector.WIDTH).tolist() == [SHAPE[1], width]
        assert reader.read(areadetector.HEIGHT).tolist() == [SHAPE[0], height]
    np.testing.assert_allclose(pixels[1, :height, :width], 150, atol=2)
    assert not pixels[1, height:].any()
    assert not pixels[1, :, width:].any()


def test_next_recording_has_the_size_that_pictures_have_then(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    for name, shape in (("a", (32, 48)), ("b", SHAPE)):
        source.size = shape[::-1]
        camera.start_capture(tmp_path / f"{name}.h5")
        acquisition = camera.acquire(1)
        source.send(jpeg(1, shape))
        assert acquisition.done.wait(90)
    assert camera.state().shape == SHAPE
    assert lost(camera) == {}


def test_color(camera: Camera, source: HandSource, tmp_path: Path) -> None:
    assert camera.set_color(True)
    red = np.zeros((*SHAPE, 3), np.uint8)
    red[..., 0] = 250
    camera.start_capture(tmp_path / "a.h5")
    acquisition = camera.acquire(2)
    source.send(simplejpeg.encode_jpeg(red, quality=95))
    source.send(jpeg(100))
    assert acquisition.done.wait(90)
    assert camera.state().shape == (*SHAPE, 3)
    assert camera.set_color(False)  # a recording fixes it
    camera.stop_capture()
    with ColumnReader(tmp_path / "a.h5", layout.IDENTITY) as reader:
        pixels = reader.read(areadetector.IMAGE)
    assert pixels.shape == (2, *SHAPE, 3)
    np.testing.assert_allclose(pixels[0, 20, 30], [250, 0, 0], atol=6)
    np.testing.assert_allclose(pixels[1, 20, 30], 100, atol=2)


def test_pixels_without_a_file(camera: Camera, source: HandSource, tmp_path: Path) -> None:
    camera.start_capture(tmp_path / "a.h5")
    acquisition = camera.acquire(2)
    image = np.full(SHAPE, 77, np.uint8)
    source.send(b"", image=image)
    source.send(b"", image=np.stack([image] * 3, axis=2))
    assert acquisition.done.wait(90)
    camera.stop_capture()
    with ColumnReader(tmp_path / "a.h5", layout.IDENTITY) as reader:
        np.testing.assert_array_equal(reader.read(areadetector.IMAGE), np.stack([image] * 2))
        assert reader.read(layout.JPEG_OFFSET).tolist() == [-1, -1]


def test_full_queue_is_counted(
    source: HandSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "QUEUE_BYTES", 3 * len(jpeg(0)))
    entered, go_on = threading.Event(), threading.Event()
    add = PictureFile.add

    def slow(self: PictureFile, frame: SourceFrame, image: np.ndarray) -> None:
        entered.set()
        assert go_on.wait(90)
        add(self, frame, image)

    monkeypatch.setattr(PictureFile, "add", slow)
    camera = Camera(source)
    try:
        camera.start_capture(tmp_path / "a.h5")
        camera.acquire()
        source.send(jpeg(0))
        assert entered.wait(90)
        # The camera's thread is in the file now; what it holds, source and queue do not know of.
        threading.Timer(0.1, go_on.set).start()
        for _ in range(10):
            source.send(jpeg(0))
        stopping = camera.stop_acquisition()
        assert stopping is not None
        assert stopping.done.wait(90)
        state = camera.state()
        assert state.rows_readable + sum(state.lost.values()) == 11
        assert lost(camera).keys() <= {"queue full"}
    finally:
        go_on.set()
        camera.close()


def test_full_disk_is_said_and_the_owner_lives_on(
    camera: Camera, source: HandSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.start_capture(tmp_path / "a.h5")
    camera.acquire()
    source.send()
    until(lambda: camera.state().rows_readable == 1)
    with monkeypatch.context() as patch:
        full = SimpleNamespace(free=0)
        patch.setattr(records.shutil, "disk_usage", lambda _: full)
        source.send()
        until(lambda: lost(camera) == {"not written": 1})
        assert "disk full" in camera.state().write_error
        assert camera.state().alarm
    source.send()
    until(lambda: camera.state().rows_readable == 2)
    assert camera.state().write_error == ""
    camera.stop_capture()
    with ColumnReader(tmp_path / "a.h5", layout.IDENTITY) as reader:
        assert reader.read(layout.IDENTITY).tolist() == [0, 2]
        kept = reader.read(layout.JPEG_OFFSET), reader.read(layout.JPEG_SIZE)
    assert (tmp_path / "a.mjpeg").stat().st_size == kept[0][1] + kept[1][1]


def test_a_full_disk_is_named_before_the_image_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = PictureFile(tmp_path / "a.h5", SHAPE)
    with monkeypatch.context() as patch:
        patch.setattr(records.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        full = Mock(write=Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        patch.setattr(capture, "_mjpeg", full)
        with pytest.raises(OSError, match=rf"free some room: '{tmp_path}'"):
            capture.add(SourceFrame(0, 1.0, data=jpeg(0)), np.zeros(SHAPE, np.uint8))
    capture.close()


def test_file_that_cannot_be_made_is_an_answer(camera: Camera, tmp_path: Path) -> None:
    camera.source.size = (64, 40)
    assert "no such directory" in camera.start_capture(tmp_path / "absent" / "a.h5")
    (tmp_path / "b.h5").write_text("taken")
    assert "exists already" in camera.start_capture(tmp_path / "b.h5")
    assert not (tmp_path / "b.mjpeg").exists()
    assert not camera.state().capturing


def test_silence_is_said(
    camera: Camera, source: HandSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "SILENCE_S", 0.05)
    camera.acquire()
    until(lambda: camera.state().alarm)
    assert "no picture from hand" in camera.state().message
    source.send()
    until(lambda: camera.state().message == "taking pictures")


class Numbered:
    """Files by number in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = 0

    def next_path(self) -> Path:
        return self.directory / f"{self.number}.h5"

    def file_written(self, path: Path) -> None:
        assert path == self.next_path()
        self.number += 1


def test_single_mode_writes_a_file_each(camera: Camera, source: HandSource, tmp_path: Path) -> None:
    camera.single_files = files = Numbered(tmp_path)
    acquisition = camera.acquire(2)
    for _ in range(2):
        source.send()
    assert acquisition.done.wait(90)
    assert files.number == 2
    for number in range(2):
        with ColumnReader(tmp_path / f"{number}.h5", layout.IDENTITY) as reader:
            assert reader.read(layout.IDENTITY).tolist() == [number]


def test_single_files_have_no_gap_after_one_that_cannot_be_written(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    camera.single_files = files = Numbered(tmp_path / "later")
    acquisition = camera.acquire(1)
    source.send()
    until(lambda: camera.state().lost["not written"] == 1)
    files.directory.mkdir()
    source.send()
    assert acquisition.done.wait(90)
    assert [file.name for file in files.directory.glob("*.h5")] == ["0.h5"]


def test_a_picture_whose_file_has_too_long_a_name_is_lost(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    camera.single_files = Numbered(tmp_path / ("x" * 300))
    acquisition = camera.acquire()
    source.send()
    camera.stop_acquisition()
    assert acquisition.done.wait(90)
    assert (acquisition.items, lost(camera)) == (0, {"not written": 1})


def test_single_files_go_on_after_one_that_was_not_finished(
    camera: Camera,
    source: HandSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera.single_files = Numbered(tmp_path)
    acquisition = camera.acquire(1)
    with monkeypatch.context() as full:

        def fail(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        full.setattr(layout.PictureFile, "add", fail)
        for number in (1, 2, 3):
            source.send()
            until(lambda: camera.state().lost["not written"] == number)  # noqa: B023
    assert [record.name for record in caplog.records].count("skywright.acquire.recorder") == 1
    source.send()
    assert acquisition.done.wait(90)
    with ColumnReader(tmp_path / "0.h5", layout.IDENTITY) as reader:
        assert reader.read(layout.IDENTITY).tolist() == [3]


def test_single_file_that_cannot_be_created_leaves_the_images_of_another_picture(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    images = tmp_path / "0.mjpeg"  # its 0.h5 was moved away
    images.write_bytes(jpeg(7))
    camera.single_files = Numbered(tmp_path)
    acquisition = camera.acquire()
    source.send(jpeg(0))
    camera.stop_acquisition()
    assert acquisition.done.wait(90)
    assert lost(camera) == {"not written": 1}
    assert list(tmp_path.iterdir()) == [images]
    assert images.read_bytes() == jpeg(7)


def test_single_files_with_a_dot_in_their_names_have_images_of_their_own(
    camera: Camera, source: HandSource, tmp_path: Path
) -> None:
    class Dotted(Numbered):
        def next_path(self) -> Path:
            return self.directory / f"scan_1.5deg_{self.number}"

    camera.single_files = Dotted(tmp_path)
    acquisition = camera.acquire(2)
    source.send(jpeg(0))
    source.send(jpeg(1))
    assert acquisition.done.wait(90)
    assert lost(camera) == {}
    for number in range(2):
        assert (tmp_path / f"scan_1.5deg_{number}.mjpeg").read_bytes() == jpeg(number)


def test_closing_keeps_what_has_arrived(source: HandSource, tmp_path: Path) -> None:
    camera = Camera(source)
    camera.start_capture(tmp_path / "a.h5")
    camera.acquire()
    for _ in range(20):
        source.send()
    camera.close()
    with h5py.File(tmp_path / "a.h5") as file:  # closed: no SWMR needed
        assert file[layout.IDENTITY][:].tolist() == list(range(20))
