"""What the IOC of the camera posts of a state that a put has changed meanwhile."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from caproto import AlarmSeverity, ChannelType
from caproto.server import PVGroup
from support.hand_source import HandSource

from iocs import areadetector
from iocs.common import post
from iocs.loop import axis
from iocs.loop.axis import AxisIOC
from skywright.errors import HardwareError
from skywright.instruments.loop.sources import SourceFrame
from skywright.instruments.loop.sources.push import PushedPictures

LIMIT_S = 5.0


class SentPictures(HandSource):
    """A camera whose pictures a test sends."""

    size = (64, 48)
    period_s = 0.0

    def take(self, number: int, shape: tuple[int, ...]) -> None:
        self.send(SourceFrame(number, float(number), image=np.full(shape, number, np.uint8)))


@pytest.mark.parametrize("opened", [True, False])
def test_a_put_of_capture_is_not_taken_back_by_an_older_state(tmp_path: Path, opened: bool) -> None:
    async def shown() -> tuple[int, int]:
        with closing(AxisIOC("TEST:", PushedPictures())) as ioc:
            capture = ioc.hdf.capture
            if not opened:
                assert ioc.camera.start_capture(tmp_path / "before.h5", lazy=True) == ""
            older = ioc.camera.state()
            if opened:
                assert ioc.camera.start_capture(tmp_path / "after.h5", lazy=True) == ""
            else:
                ioc.camera.stop_capture()
            for channel in (capture.setpoint, capture.readback):  # as the put leaves it
                await post(channel, int(opened))
            await ioc._post_recording(older)
            return capture.setpoint.raw_value, capture.readback.raw_value

    assert asyncio.run(shown()) == (int(opened), int(opened))


def test_what_a_put_of_capture_has_done_is_shown_when_it_completes(tmp_path: Path) -> None:
    async def shown() -> list[tuple[int, ...]]:
        ioc = AxisIOC("TEST:", PushedPictures())
        posting = asyncio.create_task(ioc._post_forever(0.02, 0.2))
        hdf = ioc.hdf
        seen = []

        async def put(capture: str) -> None:
            await hdf.num_captured.write(7)  # as of a recording before
            await hdf.capture.setpoint.write(capture)
            state = hdf.capture.readback.raw_value, hdf.write_status.raw_value
            seen.append((*state, hdf.num_captured.value))

        try:
            await hdf.file_path.readback.write(str(tmp_path / "absent"))
            await put("Capture")
            await hdf.file_path.readback.write(str(tmp_path))
            await put("Capture")
            await put("Done")
            return seen
        finally:
            posting.cancel()
            ioc.close()

    assert asyncio.run(shown()) == [(0, 1, 0), (1, 0, 0), (0, 0, 0)]


def test_a_recording_is_closed_though_nothing_can_be_posted(tmp_path: Path) -> None:
    async def recorded() -> list[bool]:
        ioc = AxisIOC("TEST:", PushedPictures())
        seen, puts = [], []
        try:
            await ioc.hdf.file_path.readback.write(str(tmp_path))
            for value in ("Capture", "Done"):
                puts.append(asyncio.create_task(ioc.hdf.capture.setpoint.write(value)))
                async with asyncio.timeout(LIMIT_S):
                    await ioc._change_event.wait()  # the put waits for a posting
                ioc._change_event.clear()
                seen.append(ioc.camera.state().capturing)
            return seen
        finally:
            for put in puts:
                put.cancel()
            ioc.close()

    assert asyncio.run(recorded()) == [True, False]


def test_counts_keep_to_the_32_bits_of_an_integer_pv() -> None:
    async def sent() -> list[int]:
        with closing(AxisIOC("TEST:", PushedPictures())) as ioc:
            cam, hdf = ioc.cam, ioc.hdf
            channels = cam.array_counter.readback, cam.num_images_counter, hdf.num_captured
            await channels[0].write(2**31 - 2)
            await ioc._array_counters.count_to(5)
            await post(channels[1], 2**31)
            await hdf.post_recording(2**31 + 7, 0, False, "")
            return [int((await each.read(ChannelType.LONG))[1][0]) for each in channels]

    # The first one is a counter of areaDetector, which only has to change with each picture
    assert asyncio.run(sent()) == [3, 2**31 - 1, 2**31 - 1]


def test_an_older_state_does_not_bring_back_the_count_before(tmp_path: Path) -> None:
    async def shown() -> int:
        with closing(AxisIOC("TEST:", PushedPictures())) as ioc:
            older = replace(ioc.camera.state(), rows_readable=7)
            await ioc._post_recording(older)
            return int(ioc.hdf.num_captured.value)

    assert asyncio.run(shown()) == 0


def test_a_directory_that_does_not_answer_stops_no_pvs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked up on a thread."""
    asked: list[threading.Thread] = []
    is_dir = Path.is_dir

    def note_thread(path: Path) -> bool:
        asked.append(threading.current_thread())
        return is_dir(path)

    async def checked(directory: Path) -> list[bool]:
        with closing(AxisIOC("TEST:", PushedPictures())) as ioc:
            await ioc.hdf.file_path.readback.write(str(directory))
            found = [await ioc.hdf.check_path()]
            await ioc.hdf.create_directory.readback.write(-1)
            return [*found, await ioc.hdf.check_path()]

    monkeypatch.setattr(Path, "is_dir", note_thread)
    assert asyncio.run(checked(tmp_path / "new")) == [False, True]
    assert asked
    assert threading.main_thread() not in asked


def test_a_stop_after_the_end_completes_when_the_last_rows_are_posted() -> None:
    """Else a client that puts Acquire to 0 reads a number of rows that lacks the last ones."""
    events: list[str] = []

    async def posted() -> None:
        events.append("posted")

    class Cam:
        control = SimpleNamespace(
            stop_acquisition=lambda: events.append("stop")
        )  # None: nothing is acquired
        parent = SimpleNamespace(wait_until_posted=posted)

    record = SimpleNamespace(parent=Cam())
    assert asyncio.run(areadetector._put_acquire(record, None, 0)) == 0
    assert events == ["stop", "posted"]


def test_acquire_is_not_posted_after_its_end() -> None:
    """An acquisition of a source that runs already may end while the put is in progress."""

    async def posted() -> tuple[int, int]:
        with closing(AxisIOC("TEST:", PushedPictures())) as ioc:
            acquire = ioc.cam.acquire

            async def acquire_and_end(function: Callable[..., Any], *args: Any) -> Any:
                acquisition = await asyncio.to_thread(function, *args)
                await asyncio.to_thread(ioc.camera.stop_acquisition)
                assert await asyncio.to_thread(acquisition.done.wait, 60)
                await ioc._post()
                return acquisition

            ioc.in_thread = acquire_and_end  # type: ignore[method-assign]
            put = asyncio.create_task(acquire.setpoint.write("Acquire"))
            while not ioc._waiting:  # then the put waits for the end
                await asyncio.sleep(0)
            posting = asyncio.create_task(ioc._post_forever(0.02, 0.2))
            await put
            posting.cancel()
            return acquire.setpoint.raw_value, acquire.readback.raw_value

    assert asyncio.run(asyncio.wait_for(posted(), 120)) == (0, 0)


def test_the_camera_is_closed_before_its_endpoints_and_in_spite_of_their_errors() -> None:
    closed = []

    class Endpoint:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            raise HardwareError("the source has not stopped")

    ioc: Any = AxisIOC("TEST:", PushedPictures())
    close_camera = ioc.camera.close
    ioc.camera.close = lambda: (closed.append("camera"), close_camera())
    ioc.server, ioc.uploads = Endpoint("server"), Endpoint("uploads")
    with pytest.raises(HardwareError):
        ioc.close()
    assert closed == ["camera", "uploads", "server"]


def test_an_error_does_not_end_what_follows_another_ioc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(axis, "FOLLOW_AGAIN_S", 0.0)

    async def shown() -> tuple[str, int]:
        ioc: Any = AxisIOC("TEST:", PushedPictures())
        begun, again = iter(range(2)), asyncio.Event()

        async def follow() -> None:
            if next(begun) == 0:
                raise RuntimeError("no socket")
            again.set()
            await asyncio.Event().wait()

        ioc.uploads = SimpleNamespace(follow=follow, close=lambda: None)
        serving = asyncio.create_task(ioc.serving())
        try:
            await asyncio.wait_for(again.wait(), 60)
            message = ioc.cam.status_message
            return message.value, message.alarm.severity
        finally:
            serving.cancel()
            ioc.close()

    text, severity = asyncio.run(shown())
    assert text == "another IOC is not followed: RuntimeError('no socket')"
    assert severity == AlarmSeverity.MINOR_ALARM


def test_the_reason_of_a_refused_put_stays_for_a_time_and_no_longer() -> None:
    refused = "TEST:cam1:Gain: 3.0, expected 1.0"

    async def shown() -> list[str]:
        ioc, seen = AxisIOC("TEST:", PushedPictures()), []
        await ioc._post()
        await ioc.post_error(refused)
        ioc.camera.report("taking pictures", alarm=False)
        for until in (ioc._error_until, 0.0):
            ioc._error_until = until
            await ioc._post()
            seen.append(ioc.cam.status_message.value)
        ioc.close()
        return seen

    assert asyncio.run(shown()) == [refused, "taking pictures"]


@pytest.mark.parametrize("text", ["a" * 16, b"a" * 16, "a" * 17])
def test_a_text_that_a_client_may_have_cut_is_refused(text: str | bytes) -> None:
    """pyepics cuts it to the length of the PV: of polygons, the last one would lose corners."""

    class Texts(PVGroup):
        text = areadetector.long_text(max_length=16)

    async def put() -> str:
        texts = Texts("TEST:")
        for whole in ("a" * 15, "a" * 14 + "\0b"):
            await texts.text.setpoint.write(whole)
        with pytest.raises(ValueError, match="expected less than 16 characters"):
            await texts.text.setpoint.write(text)
        return str(texts.text.readback.value)

    assert asyncio.run(put()) == "a" * 14


def test_sizes_of_the_image_are_those_of_its_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the next pictures will be in color, and of a picture smaller than others."""
    monkeypatch.setattr(axis, "IMAGE_PERIOD_S", 0.0)

    async def shown() -> list[tuple[int, ...]]:
        source = SentPictures()
        with closing(AxisIOC("TEST:", source)) as ioc:
            image, seen = ioc.image, []
            sizes = (image.array_size_0, image.array_size_1, image.array_size_2)

            async def post_all() -> None:
                await ioc._post()
                await ioc._after_post()
                seen.append((len(image.array_data.value), *(size.value for size in sizes)))

            for number, color in enumerate((False, True), 1):
                acquisition = ioc.camera.acquire(1)
                source.take(number, (40, 60))
                assert await asyncio.to_thread(acquisition.done.wait, LIMIT_S)
                await post_all()
                ioc.camera.set_color(not color)
                await post_all()
            return seen

    gray, color = (40 * 60, 60, 40, 0), (40 * 60 * 3, 3, 60, 40)
    assert asyncio.run(shown()) == [gray, gray, color, color]


def test_callbacks_that_block_hold_up_the_end_of_an_acquisition() -> None:
    """The plugins of ophyd set them. A client triggers the camera, then reads the picture.

    The second picture comes when the image was posted just before.
    """

    async def shown() -> list[tuple[int, int]]:
        source = SentPictures()
        ioc = AxisIOC("TEST:", source)
        await ioc.image.blocking_callbacks.setpoint.write("Yes")
        await ioc.cam.image_mode.setpoint.write("Single")
        posting = asyncio.create_task(ioc._post_forever(0.0, 0.2))
        seen = []
        try:
            for number in (1, 2):
                put = asyncio.create_task(ioc.cam.acquire.setpoint.write("Acquire"))
                while not ioc._waiting:  # then the camera takes pictures
                    await asyncio.sleep(0)
                source.take(number, (48, 64))
                await put
                seen.append((ioc.image.unique_id.value, ioc.image.array_data.value[0]))
            return seen
        finally:
            posting.cancel()
            ioc.close()

    assert asyncio.run(asyncio.wait_for(shown(), 60)) == [(1, 1), (2, 2)]


def test_a_put_of_a_fault_completes_when_the_source_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(AxisIOC("TEST:", PushedPictures())) as ioc:
        source = ioc.camera.source
        for name, attribute, value in (
            *(("silent", "silent", 1), ("lose", "lose", 0.25), ("damage", "damage", 0.5)),
            ("latency", "latency_s", 0.125),
        ):
            pair = getattr(ioc.sim, name)
            asyncio.run(pair.setpoint.write(value))  # this source has no such fault
            monkeypatch.setattr(source, attribute, type(value)(0), raising=False)
            asyncio.run(pair.setpoint.write(value))
            assert getattr(source, attribute) == value
