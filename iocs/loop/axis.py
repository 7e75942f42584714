"""IOC of the AXIS video camera: areaDetector's PVs over a `Camera`.

Three parts as in areaDetector, `cam1:` (camera), `image1:` (newest picture, for display only) and
`HDF1:` (recording), each with `_RBV` readbacks, and `SIM:` with what the simulator knows to be
true, for scoring only. `--list-pvs` prints all names. `--http` serves the pictures as an AXIS video
server does, `--push-to` uploads them while the goniometer's video trigger is open.

    python -m iocs.axis --source sim --seed 3 --fps 30
    python -m iocs.axis --source sim --goniometer SKY:GONIO1:
    python -m iocs.axis --source push --listen 8171 --size 704x480
    python -m iocs.axis --source mjpeg --url http://camera7 --user viewer --password-file pw
    python -m iocs.axis --source snapshot --url http://camera7/axis-cgi/jpg/image.cgi?camera=2
    python -m iocs.axis --source replay --path pictures/ --fps 10
"""

import argparse
import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from caproto import AlarmSeverity, ChannelData, ChannelType
from caproto.server import PVGroup, SubGroup

from iocs.areadetector import (
    IMAGE_BYTES_MAX,
    WRITE_CAPTURE,
    WRITE_MODES,
    WRITE_SINGLE,
    WRITE_STREAM,
    YES_NO,
    ArrayCounters,
    Cam,
    HdfPlugin,
    Image,
    checked,
    choice,
    long_text,
    number,
    on_source,
    readback,
)
from iocs.common import alarm_if, argument_parser, post, post_pair, run, write_pair
from iocs.loop.axis_endpoints import TriggeredUploads, add_endpoint_arguments, make_endpoints
from iocs.loop.axis_source import add_source_arguments, make_source
from iocs.loop.sample import Sample, follow_goniometer
from iocs.owner import OwnerGroup
from skywright.instruments.loop.camera import Camera, CameraState
from skywright.instruments.loop.sources import Source

if TYPE_CHECKING:
    from skywright.processes.http_server import HttpServer

logger = logging.getLogger(__name__)

IMAGE_PERIOD_S = 0.2
POST_PERIOD_S = 0.02
FOLLOW_AGAIN_S = 1.0
Follower = Callable[[], Awaitable[None]]


class Sim(PVGroup):
    """What the simulator knows; absent values are NaN or empty. For scoring only."""

    truth = readback("", ChannelType.CHAR, max_length=4096, name="Truth_RBV")
    frame_number = readback(-1, name="FrameNumber_RBV")
    tip_x = readback(float("nan"), units="px", name="TipX_RBV")
    tip_y = readback(float("nan"), units="px", name="TipY_RBV")
    phi = readback(float("nan"), units="deg", name="Phi_RBV")
    silent = choice(YES_NO, put=on_source("silent"), name="Silent")
    lose = number(0.0, on_source("lose", checked(0.0, 1.0)), name="Lose")
    damage = number(0.0, on_source("damage", checked(0.0, 1.0)), name="Damage")
    latency = number(
        0.0, on_source("latency_s", checked(0.0, 10.0)), units="s", precision=4, name="Latency"
    )


class AxisCam(Cam):
    """The PVs of the camera, with the number of lost pictures by cause (`LOST_CAUSES`)."""

    manufacturer = readback("AXIS", ChannelType.STRING, name="Manufacturer_RBV")
    lost_undecodable = readback(0, name="LostUndecodable_RBV")
    lost_wrong_size = readback(0, name="LostWrongSize_RBV")
    lost_queue_full = readback(0, name="LostQueueFull_RBV")
    lost_not_written = readback(0, name="LostNotWritten_RBV")
    lost_not_received = readback(0, name="LostNotReceived_RBV")


async def _put_write_mode(obj: Any, instance: Any, value: Any) -> None:
    if value == WRITE_CAPTURE:
        raise ValueError("Capture, expected Single or Stream")
    await _put_and_choose_single_files(obj, instance, value)


async def _put_and_choose_single_files(obj: Any, instance: Any, value: Any) -> None:
    await obj.readback.write(value)
    obj.parent.choose_single_files()


class AxisHdf(HdfPlugin):
    """The recording: one file of all pictures, or a file of each picture.

    Attributes
    ----------
    newest_single
        Path of a file of one picture that is not posted yet.
    """

    parent: "AxisIOC"
    newest_single: Path | None = None

    file_name = long_text("axis", name="FileName")
    auto_save = choice(YES_NO, put=_put_and_choose_single_files, name="AutoSave")
    file_write_mode = choice(WRITE_MODES, WRITE_STREAM, _put_write_mode, name="FileWriteMode")

    def start_capture(self, path: Path, count: int, lazy: bool) -> str:
        """Start a recording of all pictures."""
        return self.parent.camera.start_capture(path, count, lazy)

    def stop_capture(self) -> None:
        """End the recording."""
        self.parent.camera.stop_capture()

    @property
    def is_capturing(self) -> bool:
        """Whether a recording is open."""
        return self.parent.camera.state().capturing

    def choose_single_files(self) -> None:
        """Let the camera write a file for each picture if FileWriteMode and AutoSave require it."""
        single = self.file_write_mode.readback.raw_value == WRITE_SINGLE
        wanted = single and bool(self.auto_save.readback.raw_value)
        self.parent.camera.single_files = self if wanted else None

    def file_written(self, path: Path) -> None:
        """Note that a file was written; the camera's thread calls it after each file.

        A picture that cannot be written uses no number. Nothing is posted here: the event loop may
        be waiting for this thread. `post_file_number` posts later.
        """
        if self.auto_increment.readback.raw_value:
            self.next_number += 1
        self.newest_single = path

    async def post_file_number(self) -> None:
        """Post the number of the next file, and the path of the newest file of one picture."""
        if self.newest_single is not None:
            await post(self.full_file_name, str(self.newest_single))
            self.newest_single = None
        await super().post_file_number()


class AxisIOC(OwnerGroup):
    """All PVs, over one camera."""

    cam = SubGroup(AxisCam, prefix="cam1:")
    image = SubGroup(Image, prefix="image1:")
    hdf = SubGroup(AxisHdf, prefix="HDF1:")
    sim = SubGroup(Sim, prefix="SIM:")
    sample = SubGroup(Sample, prefix="SIM:")

    def __init__(self, prefix: str, source: Source, goniometer: str = "") -> None:
        super().__init__(prefix)
        self.goniometer = goniometer
        self.camera = Camera(source, self.wake_posting)
        self.cam.control = self.camera
        self.server: HttpServer | None = None
        self.uploads: TriggeredUploads | None = None
        self._posted: CameraState | None = None
        self._array_counters = ArrayCounters(self.cam.array_counter, self.hdf.array_counter)
        self._image_posted = 0.0
        self._image_frame_number = -1

    @property
    def message_channels(self) -> tuple[ChannelData, ...]:
        """The PV that shows the message for the operator."""
        return (self.cam.status_message,)

    def close(self) -> None:
        """Close files and source, then the endpoints, whose clients may be slow."""
        with ExitStack() as stack:  # it closes the last one first, also after an error
            for closable in (self.server, self.uploads, self.camera):
                if closable is not None:
                    stack.callback(closable.close)

    async def _keep(self, follow: Follower) -> None:
        """Follow another IOC for ever; after an error, which is posted, begin anew."""
        while True:
            try:
                await follow()
            except Exception as error:
                logger.exception("%s", self.prefix)
                await self.post_error(f"another IOC is not followed: {error!r}")
            await asyncio.sleep(FOLLOW_AGAIN_S)

    # ---- posting

    async def serving(self) -> None:
        """Post what has changed, at most every `POST_PERIOD_S`, for as long as the IOC lives."""
        source = self.camera.source
        followers: list[Follower] = []
        if self.goniometer and hasattr(source, "follow"):
            followers.append(partial(follow_goniometer, self.goniometer, source.follow))
        if self.uploads is not None:
            followers.append(self.uploads.follow)
        self._following = [asyncio.create_task(self._keep(each)) for each in followers]
        await write_pair(self.sim.latency, getattr(source, "latency_s", 0.0))
        await post(self.cam.model, source.name)
        await self.cam.post_period()
        await self._post_forever(POST_PERIOD_S, IMAGE_PERIOD_S)

    async def _post(self) -> None:
        state = self.camera.state()
        alarm = alarm_if(state.alarm, AlarmSeverity.MAJOR_ALARM)
        await self.post_message(state.message, alarm)
        if state == self._posted and self.cam.has_posted(state.acquiring):
            return
        await self._array_counters.count_to(state.acquired)
        await self._post_camera(state)
        await self._post_hdf(state)
        await self._post_truth(state)
        await self._post_recording(state)
        if not state.acquiring and self.image.blocking_callbacks.readback.raw_value:
            await self._post_image(state)  # before the end of the acquisition is posted
        await self.cam.post_acquiring(state.acquiring)
        self._posted = state

    async def _after_post(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._posted is not None and now >= self._image_posted + IMAGE_PERIOD_S:
            await self._post_image(self._posted)

    async def _post_camera(self, state: CameraState) -> None:
        cam = self.cam
        height, width, *depth = state.shape
        await post(cam.num_images_counter, state.acquisition_items)
        await post(cam.unique_id, state.frame_number)
        await post(cam.time_stamp, state.frame_time)
        for pair, most, present, size in (
            (cam.size_x, cam.max_size_x, cam.array_size_x, width),
            (cam.size_y, cam.max_size_y, cam.array_size_y, height),
        ):
            await post_pair(pair, size)
            await post(most, size)
            await post(present, size)
        await post(cam.array_size_z, depth[0] if depth else 0)
        await post(cam.array_size, int(np.prod(state.shape)))
        for cause, count in state.lost.items():
            await post(getattr(cam, f"lost_{cause.replace(' ', '_')}"), count, alarm_if(count))

    async def _post_hdf(self, state: CameraState) -> None:
        await self.hdf.post_shape(state.shape)
        await post(self.hdf.unique_id, state.frame_number)
        await post(self.hdf.time_stamp, state.frame_time)

    async def _post_recording(self, state: CameraState) -> None:
        hdf = self.hdf
        await hdf.post_file_number()
        await hdf.post_recording(
            # Read the count again: a put may have opened another recording since `state` was read
            self.camera.state().rows_readable,
            sum(state.lost.values()),
            state.capturing,
            state.write_error,
        )

    async def _post_truth(self, state: CameraState) -> None:
        if state.truth is None:
            return
        x, y = state.truth.get("tip_px") or (None, None)
        await post(self.sim.frame_number, state.frame_number)
        await post(self.sim.tip_x, float("nan") if x is None else x)
        await post(self.sim.tip_y, float("nan") if y is None else y)
        await post(self.sim.phi, state.truth.get("phi_deg", float("nan")))
        of_frame = {"frame_number": state.frame_number, **state.truth}
        await post(self.sim.truth, json.dumps(of_frame))

    async def _post_image(self, state: CameraState) -> None:
        is_posted = state.frame_number == self._image_frame_number
        if is_posted or not self.image.enable.readback.raw_value:
            return
        newest = await self.in_thread(self.camera.latest)
        if newest is None or newest[1].size > IMAGE_BYTES_MAX:
            return
        frame, pixels = newest
        self._image_posted = asyncio.get_running_loop().time()
        self._image_frame_number = state.frame_number
        await self.image.post_shape(pixels.shape)
        await self.image.array_data.write(pixels.ravel())
        await post(self.image.unique_id, frame.frame_number)
        await post(self.image.time_stamp, frame.time)
        await post(self.image.array_counter.readback, self.image.array_counter.readback.value + 1)


def build(args: argparse.Namespace) -> tuple[PVGroup, Mapping[str, Any]]:
    """Return the IOC for the arguments, and the facts for its ready line."""
    source = make_source(args)
    facts = {"source": source.name}
    if hasattr(source, "port"):
        facts["listen"] = source.port
    ioc = AxisIOC(args.prefix, source, args.goniometer)
    if not args.list_pvs:
        ioc.server, ioc.uploads, more = make_endpoints(ioc.camera, args)
        facts |= more
        asyncio.run(ioc.sample.post_truth())
    return ioc, facts


def main() -> None:
    """Run the IOC."""
    parser = argument_parser(__doc__ or "", "SKY:AXIS1:")
    add_source_arguments(parser)
    add_endpoint_arguments(parser)
    run(build, parser)
