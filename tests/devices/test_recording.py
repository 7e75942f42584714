"""Recordings of a device: the size of its pictures, its files, and their documents."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import bluesky.plan_stubs as bps
import pytest
from bluesky.utils import MsgGenerator
from ioc_process import running_ioc
from ophyd.sim import SynSignal
from support.documents import Documents, of

from devices.file_stream import FilePlugin, FileStream
from devices.recording import CONTINUOUS, SINGLE, RecordingDevice
from devices.recording_camera import RecordingCamera
from plans.pictures import take_pictures, watch_camera
from skywright.errors import ConfigError, HardwareError
from skywright.files.areadetector import IMAGE
from skywright.files.stream_columns import StreamColumn


class Camera:
    """A camera, for `RecordingDevice._take_until_size_is_known`.

    Every third pulse has a picture, if any has. Each question for the size is about one more pulse,
    while it acquires.
    """

    name = "camera"

    def __init__(self, limit_s: float, has_pictures: bool = True) -> None:
        self.image_mode, self.acquire = "mode", "acquire"
        self.silence_limit = SynSignal(func=lambda: limit_s, name="limit")
        self.silence_limit.trigger()
        self.has_pictures = has_pictures
        self.mode = self.pulses = 0
        self.acquires = False

    def _put(self, signal: str, value: int) -> None:
        if signal == "mode":
            self.mode = value
        else:
            self.acquires = bool(value)

    def _start_acquiring(self) -> None:
        self.acquires = True

    def _reason(self) -> str:
        return "the lens cap is on" if self.acquires else "stopped"

    def has_size(self) -> bool:
        self.pulses += self.acquires
        self.acquires = self.acquires and self.mode != SINGLE
        return self.has_pictures and self.pulses >= 3


def take_until_size_is_known(camera: Any) -> None:
    RecordingDevice._take_until_size_is_known(camera, camera.has_size)


def test_pulses_are_taken_until_one_has_a_picture() -> None:
    camera = Camera(limit_s=20.0)
    take_until_size_is_known(camera)
    assert (camera.mode, camera.pulses) == (CONTINUOUS, 3)
    assert not camera.acquires


def test_a_camera_without_pictures_is_given_up() -> None:
    camera = Camera(limit_s=0.3, has_pictures=False)
    with pytest.raises(HardwareError, match="camera: no picture at all; the lens cap is on"):
        take_until_size_is_known(camera)
    assert not camera.acquires


def test_a_directory_that_iocs_would_garble_is_refused() -> None:
    with pytest.raises(ConfigError, match="/data/März: IOCs need a path of ASCII characters"):
        FilePlugin.settings(Mock(), Path("/data/März"), "a")
    assert FilePlugin.settings(Mock(), Path("/data/2026"), "a")


def test_two_runs_may_share_a_recording(RE: Any, documents: Documents) -> None:
    device = Mock(prefix="")
    device.name = "camera"
    device.read_configuration.return_value = device.describe_configuration.return_value = {}
    stream = FileStream(device, "rows", device, lambda: [StreamColumn("time", "/time", "<f8")])
    stream.begin("/a.h5")

    def two_runs() -> MsgGenerator[None]:
        for _ in range(2):
            yield from bps.open_run()
            yield from bps.declare_stream(stream, name="primary", collect=True)
            for _ in range(2):
                stream.rows += 3
                yield from bps.collect(stream, name="primary")
            yield from bps.close_run()

    RE(two_runs())
    resources, starts = of(documents, "stream_resource"), of(documents, "start")
    assert [doc["run_start"] for doc in resources] == [doc["uid"] for doc in starts]
    indices = [doc["indices"] for doc in of(documents, "stream_datum")]
    assert indices == [{"start": row, "stop": row + 3} for row in (0, 3, 6, 9)]


class OtherCamera(RecordingCamera):
    """A camera with areaDetector's PVs, of another maker."""

    def columns(self, shape: tuple[int, ...]) -> tuple[StreamColumn, ...]:
        return (StreamColumn("image", IMAGE, "|u1", shape, 1),)


def test_a_camera_of_another_maker_steps_and_flies(
    RE: Any, documents: Documents, tmp_path: Path
) -> None:
    with running_ioc("iocs.axis", "--fps", "40", "--size", "352x240") as ioc:
        camera = OtherCamera(ioc.prefix, assets=tmp_path, name="other")
        RE(take_pictures(camera, 2))
        RE(watch_camera(camera, 0.5))
    rows = [0, 0]
    starts = [start["uid"] for start in of(documents, "start")]
    runs = {each["uid"]: starts.index(each["run_start"]) for each in of(documents, "descriptor")}
    for datum in of(documents, "stream_datum"):
        indices = datum["indices"]
        rows[runs[datum["descriptor"]]] += indices["stop"] - indices["start"]
    assert rows[0] == 2
    assert rows[1] > 2
    (key,) = {each["data_key"] for each in of(documents, "stream_resource")}
    assert key == "other_image"
