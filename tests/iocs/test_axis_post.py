"""What the IOC of the camera posts of a state that a put has changed meanwhile."""

import asyncio
from pathlib import Path

import pytest

from iocs.axis import AxisIOC
from iocs.common import post
from skywright.loop.sources.push import PushedPictures


@pytest.mark.parametrize("opened", [True, False])
def test_a_put_of_capture_is_not_taken_back_by_an_older_state(tmp_path: Path, opened: bool) -> None:
    async def shown() -> tuple[int, int]:
        ioc = AxisIOC("TEST:", PushedPictures())
        capture = ioc.hdf.capture
        try:
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
        finally:
            ioc.close()

    assert asyncio.run(shown()) == (int(opened), int(opened))


def test_what_a_put_of_capture_has_done_is_shown_when_it_completes(tmp_path: Path) -> None:
    async def shown() -> list[tuple[int, int]]:
        ioc = AxisIOC("TEST:", PushedPictures())  # it does not serve: nothing else posts
        hdf = ioc.hdf
        seen = []
        try:
            for path in (tmp_path / "absent", tmp_path):
                await hdf.file_path.readback.write(str(path))
                await hdf.capture.setpoint.write("Capture")
                seen.append((hdf.capture.readback.raw_value, hdf.write_status.raw_value))
            await hdf.capture.setpoint.write("Done")
            seen.append((hdf.capture.readback.raw_value, hdf.write_status.raw_value))
            return seen
        finally:
            ioc.close()

    assert asyncio.run(shown()) == [(0, 1), (1, 0), (0, 0)]
