"""The AXIS camera with ophyd-async, and what record 0002 measured of it and of the ophyd device.

Nothing imports this file. Both cameras run in one environment of their own, here ophyd-async
0.21.3, aioca 2.1, ophyd 1.11.2, pyepics 3.5.10 and bluesky 1.15.1 on Python 3.11::

    python3 -m venv /tmp/oa
    /tmp/oa/bin/pip install 'ophyd-async[ca]' ophyd pyepics h5py hatchling editables
    /tmp/oa/bin/pip install --no-deps --no-build-isolation -e .
    python -m iocs.axis --source sim --prefix T: --port 5971 &
    export EPICS_CA_ADDR_LIST=127.0.0.1:5971 EPICS_CA_AUTO_ADDR_LIST=NO
    /tmp/oa/bin/python docs/explanations/decisions/0002_camera_async.py step
    /tmp/oa/bin/python docs/explanations/decisions/0002_camera_async.py step --ours

The first argument is what to measure: connect, step, event (of one PV), fly (a number of pictures;
ophyd-async only), open (until the plan ends it), monitor (of an array) or motor (a move of ``sx``
of ``python -m iocs.goniometer --prefix G: --port 5971``, with ``--prefix G:``). After 2 s, or 0.3 s
of a move, ``--kill $!`` kills the IOC, and ``--freeze $!`` stops it.
"""

import argparse
import logging
import os
import signal
import statistics
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky import preprocessors as bpp
from bluesky.run_engine import call_in_bluesky_event_loop
from ophyd_async.core import (
    Array1D,
    AsyncStatus,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    SignalR,
    SignalRW,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    StrictEnum,
    TriggerInfo,
    non_zero,
    set_and_wait_for_value,
)
from ophyd_async.epics.core import (
    EpicsDevice,
    EpicsOptions,
    PvSuffix,
    epics_signal_r,
    stop_busy_record,
)


class ImageMode(StrictEnum):
    """When an acquisition ends."""

    SINGLE = "Single"
    MULTIPLE = "Multiple"
    CONTINUOUS = "Continuous"


class WriteMode(StrictEnum):
    """Which pictures go into one file."""

    SINGLE = "Single"
    CAPTURE = "Capture"
    STREAM = "Stream"


class CamIO(EpicsDevice):
    """The PVs of ``cam1:``."""

    acquire: Annotated[SignalRW[bool], PvSuffix.rbv("Acquire"), EpicsOptions(wait=non_zero)]
    image_mode: Annotated[SignalRW[ImageMode], PvSuffix.rbv("ImageMode")]
    num_images: Annotated[SignalRW[int], PvSuffix.rbv("NumImages")]
    acquire_period: Annotated[SignalRW[float], PvSuffix.rbv("AcquirePeriod")]
    manufacturer: Annotated[SignalR[str], PvSuffix("Manufacturer_RBV")]
    model: Annotated[SignalR[str], PvSuffix("Model_RBV")]
    width: Annotated[SignalR[int], PvSuffix("ArraySizeX_RBV")]
    height: Annotated[SignalR[int], PvSuffix("ArraySizeY_RBV")]


class HdfIO(EpicsDevice):
    """The PVs of ``HDF1:``."""

    create_directory: Annotated[SignalRW[int], PvSuffix("CreateDirectory")]
    file_path: Annotated[SignalRW[str], PvSuffix.rbv("FilePath")]
    file_name: Annotated[SignalRW[str], PvSuffix.rbv("FileName")]
    file_template: Annotated[SignalRW[str], PvSuffix.rbv("FileTemplate")]
    file_write_mode: Annotated[SignalRW[WriteMode], PvSuffix.rbv("FileWriteMode")]
    full_file_name: Annotated[SignalR[str], PvSuffix("FullFileName_RBV")]
    num_capture: Annotated[SignalRW[int], PvSuffix.rbv("NumCapture")]
    captured: Annotated[SignalR[int], PvSuffix("NumCaptured_RBV")]
    lazy_open: Annotated[SignalRW[bool], PvSuffix.rbv("LazyOpen")]
    capture: Annotated[SignalRW[bool], PvSuffix.rbv("Capture"), EpicsOptions(wait=non_zero)]


@dataclass
class TakePictures(DetectorTriggerLogic):
    """How many pictures an acquisition takes; 0: until it is stopped."""

    cam: CamIO

    async def prepare_internal(self, num: int, **times: float) -> None:
        """Set mode and number."""
        await self.cam.image_mode.set(ImageMode.MULTIPLE if num else ImageMode.CONTINUOUS)
        if num:
            await self.cam.num_images.set(num)


@dataclass
class Acquire(DetectorAcquireLogic):
    """Start and stop; the library's own needs states of the camera that ours does not have."""

    cam: CamIO
    acquiring: AsyncStatus | None = None

    async def start_acquiring(self) -> None:
        """Start; completion of the put comes with the last picture."""
        self.acquiring = await set_and_wait_for_value(
            self.cam.acquire, True, wait_for_set_completion=False
        )

    async def wait_for_idle(self) -> None:
        """Wait for the last picture."""
        if self.acquiring:
            await self.acquiring

    async def ensure_stopped(self) -> None:
        """Stop."""
        await stop_busy_record(self.cam.acquire)


@dataclass
class RecordPictures(DetectorDataLogic):
    """One file for each run; the library's own needs PVs that our IOC does not have."""

    cam: CamIO
    hdf: HdfIO
    assets: Path

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Open a file."""
        hdf = self.hdf
        await hdf.create_directory.set(-5)
        await hdf.file_path.set(f"{self.assets}/{datetime.now():%Y/%m/%d}/")
        await hdf.file_name.set(f"{datakey_name}-{uuid.uuid4()}")
        await hdf.file_template.set("%s%s.h5")
        await hdf.file_write_mode.set(WriteMode.STREAM)
        await hdf.num_capture.set(0)
        await hdf.lazy_open.set(False)
        await set_and_wait_for_value(hdf.capture, True, wait_for_set_completion=False)
        shape = (await self.cam.height.get_value(), await self.cam.width.get_value())
        attributes = "/entry/instrument/NDAttributes"
        columns = (
            ("image", "/entry/data/data", "|u1", shape, 1),
            ("frame_number", f"{attributes}/NDArrayUniqueId", "<i8", (), 1024),
            ("frame_time", f"{attributes}/NDArrayTimeStamp", "<f8", (), 1024),
        )
        return StreamResourceDataProvider(
            uri=f"file://localhost{await hdf.full_file_name.get_value()}",
            mimetype="application/x-hdf5",
            collections_written_signal=hdf.captured,
            resources=[
                StreamResourceInfo(
                    data_key=f"{datakey_name}_{key}",
                    shape=shape,
                    chunk_shape=(rows, *shape),
                    dtype_numpy=dtype,
                    parameters={"dataset": dataset, "swmr": True},
                )
                for key, dataset, dtype, shape, rows in columns
            ],
        )

    async def stop(self) -> None:
        """Close the file."""
        await stop_busy_record(self.hdf.capture)


class AsyncCamera(StandardDetector):
    """A video camera, step and fly; pictures are rows of a file."""

    def __init__(self, prefix: str, *, assets: Path, name: str = "axis") -> None:
        self.cam = CamIO(f"{prefix}cam1:")
        self.hdf = HdfIO(f"{prefix}HDF1:")
        cam = self.cam
        self.add_detector_logics(
            TakePictures(cam), Acquire(cam), RecordPictures(cam, self.hdf, assets)
        )
        self.add_config_signals(
            cam.acquire_period, cam.manufacturer, cam.model, cam.width, cam.height
        )
        super().__init__(name=name)

    @AsyncStatus.wrap
    async def complete(self) -> None:
        """End a flight; without this method, one without a number of pictures does not end."""
        if self._acquire_logic and not await self.events_to_kickoff.get_value():
            await self._acquire_logic.ensure_stopped()
        await super().complete()


# ---- measuring


def make(args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the connected camera, and one of its signals."""
    assets = Path(args.assets)
    if args.ours:
        from devices.loop.axis import AxisCamera

        begin = time.perf_counter()
        camera: Any = AxisCamera(args.prefix, assets=assets)
        camera.connect()
        one = camera.width
    else:
        begin = time.perf_counter()
        camera = AsyncCamera(args.prefix, assets=assets)
        call_in_bluesky_event_loop(camera.connect())
        one = camera.cam.width
    say(f"connected in {1e3 * (time.perf_counter() - begin):.0f} ms")
    return camera, one


def make_motor(args: argparse.Namespace) -> Any:
    """Return a connected motor of ``python -m iocs.goniometer``."""
    if args.ours:
        from devices.motion import Motor

        motor: Any = Motor(f"{args.prefix}sx", name="sx")
        motor.wait_for_connection(timeout=5.0)
    else:
        from ophyd_async.epics.motor import Motor as AsyncMotor

        motor = AsyncMotor(f"{args.prefix}sx", name="sx")
        call_in_bluesky_event_loop(motor.connect())
    return motor


def flight(camera: Any, pictures: int, seconds: float, ours: bool) -> Iterator[Any]:
    """Fly for that many pictures or, as our plans do, for that long; collect each 0.2 s."""

    @bpp.stage_decorator([camera])
    @bpp.run_decorator()
    def inner() -> Iterator[Any]:
        if not ours:
            yield from bps.prepare(camera, TriggerInfo(number_of_events=pictures), wait=True)
        yield from bps.declare_stream(camera, name="pictures", collect=True)
        yield from bps.kickoff(camera, wait=True)
        if pictures:
            yield from bps.collect_while_completing([camera], [camera], flush_period=0.2)
            return
        for _ in range(int(5 * seconds)):
            yield from bps.sleep(0.2)
            yield from bps.collect(camera)
        yield from bps.complete(camera, wait=True)
        yield from bps.collect(camera)

    return inner()


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")


def monitor(engine: RunEngine, camera: Any, args: argparse.Namespace) -> None:
    """Follow the picture that the IOC posts five times a second."""
    sizes: list[int] = []
    pv = f"{args.prefix}image1:ArrayData"
    if args.ours:
        from ophyd import EpicsSignalRO

        pixels: Any = EpicsSignalRO(pv, name="pixels", auto_monitor=True)
        pixels.subscribe(lambda value, **_: sizes.append(value.nbytes), run=False)
    else:
        pixels = epics_signal_r(Array1D[np.uint8], pv, name="pixels")

        async def follow() -> None:
            await pixels.connect()
            pixels.subscribe_reading(lambda of: sizes.append(of["pixels"]["value"].nbytes))

        call_in_bluesky_event_loop(follow())
    acquire = camera.acquire if args.ours else camera.cam.acquire
    engine(bps.abs_set(acquire, 1))
    threading.Event().wait(1.0)
    before, cpu = len(sizes), time.process_time()
    threading.Event().wait(args.points / 30)
    new, cpu = len(sizes) - before, time.process_time() - cpu
    engine(bps.abs_set(acquire, 0))
    say(f"{new} updates of {sizes[-1]} bytes, processor time {1e3 * cpu / new:.2f} ms each")


def report(came: list[tuple[str, Any, float, float]], struck: list[float]) -> None:
    """Write what came, and how fast."""
    say(str(dict(Counter(name for name, *_ in came))))
    for name, doc, wall, _ in came:
        if name == "stop" and struck:
            say(f"{wall - struck[0]:.1f} s after the strike: {doc['exit_status']}: {doc['reason']}")
    events = [each for each in came if each[0] == "event"]
    if len(events) > 1:
        gaps = sorted(1e3 * (after[2] - before[2]) for before, after in pairwise(events))
        cpu = 1e3 * (events[-1][3] - events[0][3]) / len(gaps)
        say(f"median {statistics.median(gaps):.1f} ms a point, its processor time {cpu:.2f} ms")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    what = ["connect", "step", "event", "fly", "open", "monitor", "motor"]
    parser.add_argument("what", choices=what)
    parser.add_argument("--ours", action="store_true")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--prefix", default="T:")
    parser.add_argument("--assets", default="/tmp/oa-assets")
    parser.add_argument("--kill", type=int)
    parser.add_argument("--freeze", type=int)
    args = parser.parse_args()
    logging.disable()  # the engine's traceback
    engine = RunEngine({})
    camera, one = (make_motor(args), None) if args.what == "motor" else make(args)
    came: list[tuple[str, Any, float, float]] = []
    engine.subscribe(lambda *of: came.append((*of, time.perf_counter(), time.process_time())))
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.perf_counter())
        os.kill(args.kill or args.freeze, signal.SIGKILL if args.kill else signal.SIGSTOP)

    if args.kill or args.freeze:
        threading.Timer(0.3 if args.what == "motor" else 2.0, strike).start()
    try:
        if args.what in ("step", "event"):
            engine(bp.count([camera if args.what == "step" else one], num=args.points))
        elif args.what in ("fly", "open"):
            pictures = args.points if args.what == "fly" else 0
            engine(flight(camera, pictures, args.points / 30, args.ours))
        elif args.what == "monitor":
            monitor(engine, camera, args)
        elif args.what == "motor":
            engine(bps.mv(camera, 2.25))
            say("the move counts as done")
    except Exception as error:
        say(f"{error!r}"[:400])
        say(f"the engine gave up {time.perf_counter() - struck[0] if struck else 0:.1f} s after")
    report(came, struck)


if __name__ == "__main__":
    main()
