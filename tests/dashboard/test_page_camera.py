"""What the camera's worker makes of a camera's PVs, and what the page makes of the worker."""

import asyncio
import io
import json
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.page import settings_of

from dashboard.loop.camera_worker import (
    PictureAnalyzer,
    Rate,
    encode_picture,
    pictures,
    status_words,
)
from dashboard.worker import RequestWorker, channel_access, worker_messages
from devices.camera_view import CameraFacts, CameraView, picture_of
from devices.facts import text_of
from skywright.config import IocSettings
from skywright.errors import ConfigError
from skywright.processes.locks import hold_lock
from skywright.processes.stack import UP_LOCK

GRAY = np.arange(48 * 64, dtype=np.uint32).reshape(48, 64) % 251
RGB = np.stack([GRAY, GRAY[::-1], GRAY.T.reshape(48, 64)], axis=2)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2"])
def test_a_picture_is_the_same_whatever_the_control_layer_makes_of_it(dtype: str) -> None:
    picture = picture_of(GRAY.astype("u1").astype(dtype).ravel(), 64, 48, 0)
    assert picture is not None
    np.testing.assert_array_equal(picture, GRAY)


def test_color_and_deep_pictures() -> None:
    picture = picture_of(RGB.astype("u1").ravel(), 3, 64, 48)
    assert picture is not None
    np.testing.assert_array_equal(picture, RGB)
    deep = picture_of((GRAY * 16).astype("u2").ravel(), 64, 48, 0)
    assert deep is not None
    assert (deep.dtype, deep.min(), deep.max()) == (np.uint8, 0, 255)


@pytest.mark.parametrize("sizes", [(64, 47, 0), (0, 0, 0), (4, 64, 12), (64, 48, 1)])
def test_values_that_do_not_belong_to_the_sizes_are_no_picture(sizes: tuple[int, ...]) -> None:
    assert picture_of(GRAY.astype("u1").ravel(), *sizes) is None


@pytest.mark.parametrize(
    "value", ["idle", b"idle\0old text", np.frombuffer(b"idle\0\0", np.int8), [105, 100, 108, 101]]
)
def test_text(value: object) -> None:
    assert text_of(value) == "idle"


def test_the_rate_is_that_of_the_count_and_forgets_a_restart() -> None:
    rate = Rate()
    assert math.isnan(rate(1000, 0.0))
    assert [rate(1000 + 60 * second, float(second)) for second in range(1, 9)][-1] == 60.0
    assert math.isnan(rate(3, 9.0))  # the IOC counts from the beginning again


def test_the_status_says_what_a_person_must_know() -> None:
    assert "does not answer" in status_words(CameraFacts(), math.nan)
    facts = CameraFacts(True, True, True, 100, 60, 2, "frame 7: queue full")
    words = status_words(facts, 59.94)
    for part in ("taking pictures", "59.9 per s", "60 in the file", "2 lost", "queue full"):
        assert part in words
    assert status_words(CameraFacts(True, message="idle"), math.nan) == "idle · 0 lost"


@pytest.mark.parametrize("picture", [GRAY.astype("u1"), RGB.astype("u1")])
def test_a_message_is_a_line_and_a_jpeg(picture: np.ndarray) -> None:
    line, _, jpeg = encode_picture({"status": "a\nb"}, picture).partition(b"\n")
    header = json.loads(line)
    assert (header["width"], header["height"], header["bytes"]) == (64, 48, len(jpeg))
    assert np.asarray(Image.open(io.BytesIO(jpeg))).shape == picture.shape


def test_a_detector_that_cannot_be_loaded_is_said_on_the_picture(
    caplog: pytest.LogCaptureFixture,
) -> None:
    analyzer = PictureAnalyzer({"backend": "crystal ball"})
    analyzer.loading.join(90)
    assert "crystal ball" in analyzer(GRAY.astype("u1"))["caption"]
    assert "crystal ball" in caplog.text


def test_the_last_picture_of_an_idle_camera_is_shown_with_what_is_found() -> None:
    """It comes once: here before the other PVs are connected, and before the detector is loaded."""

    class Idle(CameraView):
        asked = 0

        def __init__(self) -> None:
            """Connect nothing."""

        def watch(self, on_picture: Callable[[], None]) -> None:
            on_picture()

        def facts(self) -> CameraFacts:
            self.asked += 1
            return CameraFacts(self.asked > 2)

        def picture(self) -> np.ndarray:
            return GRAY.astype("u1")

    loaded = threading.Event()

    class Slow(PictureAnalyzer):
        def _load(self, detection: dict[str, Any]) -> None:
            loaded.wait(60)
            super()._load(detection)

    analyzer = Slow({"backend": "crystal ball"})
    headers = (json.loads(each.partition(b"\n")[0]) for each in pictures(Idle(), analyzer))
    assert ["number" in next(headers) for _ in range(2)] == [False, False]
    assert "being loaded" in next(headers)["found"]["caption"]
    loaded.set()
    analyzer.loading.join(60)
    assert "crystal ball" in next(headers)["found"]["caption"]
    shown = next(headers)
    assert (shown["number"], shown["width"]) == (2, 64)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]", shown["received"])
    assert shown["bytes"]
    assert "crystal ball" in shown["found"]["caption"]


def test_without_a_beamline_the_page_says_so(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "", "", tmp_path)
    assert channel_access(settings) is None

    async def first() -> bytes:
        return await anext(worker_messages(settings, "axis", "dashboard.loop.camera_worker"))

    header = json.loads(asyncio.run(first()))
    assert not header["connected"]
    assert "start `skywright up`" in header["status"]
    hold_lock(tmp_path / UP_LOCK, "skywright up")
    assert "starts or stops" in json.loads(asyncio.run(first()))["status"]


def test_a_state_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = settings_of(tmp_path / "file", "", "", tmp_path)

    async def first() -> bytes:
        return await anext(worker_messages(settings, "axis", "dashboard.loop.camera_worker"))

    status = json.loads(asyncio.run(first()))["status"]
    assert status.startswith("the state of `skywright up` cannot be read: [Errno 20] Not a dir")
    with pytest.raises(ConfigError, match="cannot be read"):
        asyncio.run(RequestWorker(settings, "sacla", "no_module").ask("{}"))
    address = IocSettings(module="iocs.axis", prefix="AXIS1:", address="camera:5064")
    elsewhere = settings.model_copy(update={"iocs": {"axis": address}})
    assert (channel_access(elsewhere) or {})["EPICS_CA_ADDR_LIST"] == "camera:5064"
