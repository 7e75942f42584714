"""A camera and a goniometer over the twin, in virtual time: real files, documents and pictures.

`World.now` is the only clock; it goes on when the engine sleeps (`virtual_time`) and when a motor
moves. The pictures go through JPEG, as those of a video server.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import simplejpeg
from event_model import compose_stream_resource
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import Status
from support.streaming import NUMBER, PICTURE, TIME
from support.twin_motion import Motion

from devices.loop.oscillation import OscillationFlyer, SweepTrace
from devices.motion import MotionLimitError
from skywright.acquire.trajectory import Axis
from skywright.files.columns import Column, ColumnWriter
from skywright.instruments.loop.calibration import ZoomCalibration, now
from skywright.instruments.loop.sweep import Sweep
from skywright.instruments.loop.twin.mount import Pose
from skywright.instruments.loop.twin.render import render
from skywright.instruments.loop.twin.scene import Scene
from skywright.instruments.loop.twin.truth import scene_truth

RATE, ACCELERATION = 120.0, 360.0
STAGE_RATE, STAGE_ACCELERATION = 2000.0, 20_000.0
LIMIT_UM = 3000.0


@dataclass
class World:
    """A scene, the motors that carry it, and the clock.

    Parameters
    ----------
    scene
        What the camera looks at.
    fps
        Of the camera.
    delay_s
        From the middle of an exposure to the time stamp of its picture.
    light
        Factor on the lamps at a time.
    """

    scene: Scene
    fps: float = 30.0
    delay_s: float = 0.1
    light: Callable[[float], float] = lambda _: 1.0
    motion: Motion = field(default_factory=Motion)
    now: float = 1.7e9

    def pose(self) -> Pose:
        return self.motion.pose_at(self.now)

    def move(self, name: str, target: float, rate: float, acceleration: float) -> None:
        """Move an axis; the clock waits for it."""
        axis = getattr(self.motion, name).move_to(target, rate, acceleration, self.now)
        self.motion = replace(self.motion, **{name: axis})
        self.now = max(self.now, axis.rest_time)

    def offset_um(self, point: str = "center") -> NDArray[np.float64]:
        """Distance of a point of the sample from the beam, goniometer frame; the truth."""
        truth = scene_truth(self.scene, self.pose())
        return np.array(getattr(truth, f"{point}_offset_um"))

    def calibration(self, **changes: Any) -> ZoomCalibration:
        """What the camera's calibration would be, without errors."""
        optics = self.scene.optics
        known = {
            "zoom": 0.0,
            "um_per_px_x": optics.um_per_px_x,
            "um_per_px_y": optics.um_per_px_y,
            "axis_px": optics.axis_px,
            "axis_sigma_px": 0.5,
            "scale_residual_px": 0.2,
            "axis_residual_px": 0.2,
            "date": now(),
            "roll_deg": optics.roll_deg,
            "delay_s": self.delay_s,
            "side": optics.side,
            "width_px": optics.width_px,
            "height_px": optics.height_px,
            "target_px": optics.axial_px,
        }
        return ZoomCalibration(**{**known, **changes})


def virtual_time(engine: Any, world: World) -> None:
    """Let the engine's sleeps pass on the world's clock."""

    async def sleep(msg: Any) -> None:
        world.now += msg.args[0]
        await asyncio.sleep(0)

    engine.register_command("sleep", sleep)


def done() -> Status:
    status = Status()
    status.set_finished()
    return status


class Part:
    """A readable number that can be set."""

    hints: ClassVar[dict[str, Any]] = {}

    def __init__(self, name: str, get: Callable[[], float], move: Callable[[float], None]) -> None:
        self.name = name
        self.parent = None
        self._get, self._move = get, move
        self.stops = 0

    @property
    def position(self) -> float:
        return self._get()

    def set(self, value: float) -> Status:
        self._move(value)
        return done()

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self._get(), "timestamp": time.time()}}

    def describe(self) -> dict[str, Any]:
        return {self.name: {"source": "TWIN", "dtype": "number", "shape": []}}

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}

    def stop(self, *, success: bool = False) -> None:
        self.stops += 1

    def check_connected(self) -> None:
        """It always is."""

    @property
    def user_readback(self) -> Any:
        return self

    pvname = "TWIN:phi"


class SampleStage(Part):
    """x, y, z of the sample, um."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name, lambda: 0.0, lambda _: None)
        self.world = world
        self.x, self.y, self.z = (self._axis(axis) for axis in "xyz")
        self.targets: list[tuple[float, ...]] = []

    def _axis(self, axis: str) -> Part:
        return Part(
            f"{self.name}_{axis}",
            lambda: float(getattr(self.world.pose(), f"{axis}_um")),
            lambda value: self.world.move(axis, value, STAGE_RATE, STAGE_ACCELERATION),
        )

    def set(self, xyz: Any) -> Status:
        if max(abs(value) for value in xyz) > LIMIT_UM:
            raise MotionLimitError(f"{self.name}: {xyz} is beyond its limits +-{LIMIT_UM:g} um")
        self.targets.append(tuple(xyz))
        began = self.world.now
        ends = []
        for axis, value in zip("xyz", xyz, strict=True):
            self.world.now = began
            self.world.move(axis, value, STAGE_RATE, STAGE_ACCELERATION)
            ends.append(self.world.now)
        self.world.now = max(ends)
        return done()

    def read(self) -> dict[str, Any]:
        return {**self.x.read(), **self.y.read(), **self.z.read()}

    def describe(self) -> dict[str, Any]:
        return {**self.x.describe(), **self.y.describe(), **self.z.describe()}


class TwinOscillation(OscillationFlyer):
    """Sweeps of the virtual spindle; `fault` is raised instead, when it is given."""

    fault: Exception | None = None
    stops = 0

    def carry_out(self, sweep: Sweep) -> SweepTrace:
        self._started.set()
        if self.fault is not None:
            raise self.fault
        world: World = self.parent.world
        start = world.pose().phi_deg if sweep.start_deg is None else sweep.start_deg
        rate = abs(sweep.rate_deg_s)
        lead = math.copysign(0.5 * rate * rate / ACCELERATION + 0.05 * rate, sweep.delta_deg)
        end = start + sweep.delta_deg
        axis: Axis = world.motion.phi.move_to(start - lead, RATE, ACCELERATION, world.now)
        began = axis.rest_time + 0.02
        axis = axis.move_to(end + lead, rate, ACCELERATION, began)
        turned = axis.rest_time
        axis = axis.move_to(end, RATE, ACCELERATION, turned + 0.02)
        world.motion = replace(world.motion, phi=axis)
        times = np.arange(began, turned, 0.01)
        ramp = rate / ACCELERATION + 0.05
        return SweepTrace(times, axis.position_at(times), began + ramp, turned - ramp)

    def complete(self) -> Any:
        status = super().complete()
        world: World = self.parent.world
        world.now = max(world.now, world.motion.phi.rest_time)
        return status

    def stop(self, *, success: bool = False) -> None:
        self.stops += 1


class TwinGoniometer(Device):
    """phi, sample and oscillation over a world."""

    oscillation = Cpt(TwinOscillation, "")

    def __init__(self, world: World, assets: Path, name: str = "gonio") -> None:
        self.world, self.assets = world, assets
        self.phi = Part(
            f"{name}_phi",
            lambda: float(world.pose().phi_deg),
            lambda value: world.move("phi", value, RATE, ACCELERATION),
        )
        self.sample = SampleStage(f"{name}_sample", world)
        super().__init__("", name=name)


class TwinCamera:
    """Flies and is triggered; each stage opens a new file.

    Attributes
    ----------
    lose
        Says of a frame number whether it is lost.
    fault
        Raised by `collect_asset_docs` when it gives an error, as a device that lost its IOC does.
    frozen
        Send the picture of this time for ever.
    late_s
        From the time stamp of a picture to the moment at which it is in the file.
    """

    parent = None
    hints: ClassVar[dict[str, Any]] = {}

    def __init__(self, world: World, directory: Path, name: str = "axis") -> None:
        self.world, self.directory, self.name = world, directory, name
        self.lose: Callable[[int], bool] = lambda _: False
        self.fault: Callable[[], Exception | None] = lambda: None
        self.frozen_from = math.inf
        self.late_s = 0.0
        self._frozen: NDArray[np.uint8] | None = None
        self._numbers = itertools.count(1)
        self._writer: ColumnWriter | None = None
        self._bundles: list[Any] = []
        self._next = math.inf
        self._count = self._told = 0
        self._step = False

    @property
    def shape(self) -> tuple[int, int]:
        optics = self.world.scene.optics
        return optics.height_px, optics.width_px

    def stage(self) -> list[Any]:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{self.name}_{time.time_ns()}.h5"
        columns = [Column(PICTURE, "|u1", self.shape, rows_per_chunk=1), Column(TIME, "<f8")]
        self._writer = ColumnWriter(path, columns, Column(NUMBER, "<i8"))
        self._bundles, self._count, self._told, self._next = [], 0, 0, math.inf
        return [self]

    def unstage(self) -> list[Any]:
        self._next = math.inf
        assert self._writer is not None
        self._writer.close()
        return [self]

    def trigger(self) -> Status:
        self._step = True
        self.world.now += 1.0 / self.world.fps
        self._expose(self.world.now)
        self.world.now += self.world.delay_s
        return done()

    def kickoff(self) -> Status:
        self._step = False
        self._next = self.world.now + 1.0 / self.world.fps
        return done()

    def complete(self) -> Status:
        self._catch_up()
        self._next = math.inf
        return done()

    def stop(self, *, success: bool = False) -> None:
        self._next = math.inf

    def clock(self) -> float:
        """Return the time by which pictures are dated."""
        return self.world.now

    def _catch_up(self) -> None:
        while self._next + self.world.delay_s + self.late_s <= self.world.now:
            self._expose(self._next)
            self._next += 1.0 / self.world.fps

    def _expose(self, when: float) -> None:
        number = next(self._numbers)
        if self.lose(number):
            return
        world, half = self.world, 0.5 * self.world.scene.optics.exposure_s
        if self._frozen is None or when < self.frozen_from:
            path = world.motion.path_over(when - half, when + half)
            frame = render(
                world.scene,
                world.motion.pose_at(when),
                path=path,
                light=world.light(when),
                frame_seed=number,
            )
            image = frame.image if frame.image.ndim == 3 else frame.image[:, :, np.newaxis]
            space = "RGB" if image.shape[2] == 3 else "GRAY"
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=85, colorspace=space)
            self._frozen = simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0]
        assert self._writer is not None
        self._writer.append(number, {PICTURE: self._frozen, TIME: when + world.delay_s})
        self._writer.flush()
        self._count += 1

    # ---- documents

    def describe(self) -> dict[str, Any]:
        keys = {
            "image": (list(self.shape), "|u1"),
            "frame_number": ([], "<i8"),
            "frame_time": ([], "<f8"),
        }
        return {
            f"{self.name}_{key}": {
                "source": "TWIN",
                "dtype": "array" if shape else "number",
                "shape": shape,
                "dtype_numpy": dtype,
                "external": "STREAM:",
            }
            for key, (shape, dtype) in keys.items()
        }

    describe_collect = describe

    def read(self) -> dict[str, Any]:
        return {}

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}

    def get_index(self) -> int:
        self._catch_up()
        return self._count

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        if (fault := self.fault()) is not None:
            raise fault
        stop = self.get_index() if index is None else min(index, self._count)
        if stop == self._told:
            return
        if not self._bundles:
            assert self._writer is not None
            datasets = {"image": PICTURE, "frame_number": NUMBER, "frame_time": TIME}
            for key, dataset in datasets.items():
                chunk = [1, *self.shape] if key == "image" else [1024]
                bundle = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{self._writer.path}",
                    data_key=f"{self.name}_{key}",
                    parameters={"dataset": dataset, "chunk_shape": chunk, "swmr": True},
                )
                self._bundles.append(bundle)
                yield "stream_resource", bundle.stream_resource_doc
        size = 1 if self._step else stop - self._told
        for start in range(self._told, stop, size):
            for bundle in self._bundles:
                indices = {"start": start, "stop": start + size}
                yield "stream_datum", bundle.compose_stream_datum(indices)
        self._told = stop
