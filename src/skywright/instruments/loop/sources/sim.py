"""The simulated camera: it renders pictures of the twin as JPEG, and caches them."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic_core import to_jsonable_python

from skywright.acquire.pacing import PacedSource
from skywright.instruments.loop.picture import encode_jpeg
from skywright.instruments.loop.sample_motion import SampleMotion
from skywright.instruments.loop.sources import CAMERA_PACE, SourceFrame
from skywright.instruments.loop.twin.render import Pose, render
from skywright.instruments.loop.twin.scene import Scene, random_scene
from skywright.instruments.loop.twin.truth import scene_truth

CACHED_PICTURES_MAX = 4000
"""Maximum number of pictures in the cache, about 200 MB."""
LATENCY_S = 0.08
"""Time from the end of an exposure to the arrival of its picture, s, for a camera that follows
motors. It leaves time for the commands of the motors to arrive; real video servers are slower."""
MOTION_TIMEOUT_S = 0.5
"""Longest wait of a picture for the motors' positions, s; after it they count as disconnected."""
RENDER_LIMIT_S = 60.0
"""Timeout of `stop`, s. It waits for the picture that is being rendered; the first picture also
compiles the renderer."""
NOISE_VARIANTS = 8
"""Number of pictures of one pose, each with other noise, so that two successive pictures never have
the same bytes."""

STEP_DEG = 2.0

PoseAt = Callable[[float], Pose]


def turning_pose(deg_per_s: float = 0.0) -> PoseAt:
    """Return a function that gives the pose of a spindle at a time, s.

    The spindle turns evenly, from 0 at time 0. The angle is rounded down to a multiple of
    `STEP_DEG`, so that its pictures can be kept.
    """
    return lambda time: Pose(phi_deg=math.floor(deg_per_s * time % 360.0 / STEP_DEG) * STEP_DEG)


class SimulatedCamera(PacedSource[SourceFrame]):
    """A camera that looks at the twin of a sample.

    Parameters
    ----------
    seed
        Seed of the random scene, noise and losses.
    fps, size
        Pictures per second; width and height, px.
    pose_at
        Returns the pose of the goniometer at a time, Unix s; None: it stands at 0.
    **overrides
        Fields of the scene to fix, as for `random_scene`.
    """

    def __init__(
        self,
        seed: int = 0,
        fps: float = 30.0,
        size: tuple[int, int] = (704, 480),
        pose_at: PoseAt | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__("sim", self._frame, 1.0 / fps, **CAMERA_PACE)
        self.stop_limit_s = RENDER_LIMIT_S
        self.size: tuple[int, int] | None = size
        self.seed = seed
        self.lose = self.damage = 0.0
        """Fractions of pictures that are lost on the way, or arrive cut off."""
        self.silent = False
        """True while the camera is to send nothing."""
        self.latency_s = 0.0
        """Time from the end of an exposure to the arrival of its picture, s. The time stamp of a
        picture is its arrival."""
        self.motion: SampleMotion | None = None
        """Motion of the sample, which replaces `pose_at`; None before the first `follow`."""
        self._motion_changed = threading.Condition()
        self._motors_connected = True
        self.pose_at = pose_at or turning_pose()
        overrides |= {"width_px": size[0], "height_px": size[1]}
        self.scene: Scene = random_scene(np.random.default_rng(seed), **overrides)
        self._cached_picture = lru_cache(CACHED_PICTURES_MAX)(self._render)
        self._lock = threading.Lock()

    def prepare(self, poses: list[Pose]) -> None:
        """Render one picture of each pose, so that the kernels are compiled or loaded."""
        for pose in poses:
            self._picture(pose, 0)

    def follow(self, motion: SampleMotion) -> None:
        """Look at a sample that motors move, from now on.

        Each picture is delayed until the motion is known up to the end of its exposure.
        """
        with self._motion_changed:
            self.motion = motion
            self._motors_connected = True
            self._motion_changed.notify_all()

    def mount(
        self,
        seed: int,
        kind: str | None = None,
        tip_um: Sequence[float] = (math.nan,) * 3,
        face_on_deg: float = math.nan,
    ) -> None:
        """Put another sample before the same camera; returns when its first picture is rendered.

        Parameters
        ----------
        seed
            Seed of the random sample.
        kind
            nylon, mitegen, pin or none; None: random.
        tip_um
            Position of its tip when all stages are at 0, goniometer frame, um; NaN: random.
        face_on_deg
            Spindle angle at which it is face-on, deg; NaN: random.
        """
        fixed = asdict(self.scene.optics)
        if kind is not None:
            fixed["kind"] = kind
        if not math.isnan(face_on_deg):
            fixed["face_on_deg"] = face_on_deg
        scene = random_scene(np.random.default_rng(seed), **fixed)
        x, y, z = np.where(np.isnan(tip_um), scene.mount.tip_um, tip_um).tolist()
        scene = replace(scene, mount=replace(scene.mount, tip_um=(x, y, z)))
        with self._lock:
            self.scene = scene
            self._cached_picture.cache_clear()
        self._picture(self.motion.pose_at(time.time()) if self.motion else self.pose_at(0.0), 0)

    def scene_truth(self) -> dict[str, Any]:
        """Return what is true of the sample with all stages at 0, JSON values; for scoring only."""
        scene = self.scene
        return {**_json_truth(scene_truth(scene)), "roll_deg": scene.optics.roll_deg}

    def _frame(self, number: int, now: float) -> SourceFrame | None:
        luck = np.random.default_rng((self.seed, number)).random(2)
        if self.silent or luck[0] < self.lose:
            return None
        end = now - self.latency_s
        start = end - self.scene.optics.exposure_s
        motion = self._motion_until(end)
        path = motion.path_over(start, end) if motion else None
        pose = motion.pose_at((start + end) / 2.0) if motion else self.pose_at(now)
        data, truth = self._picture(pose, number % NOISE_VARIANTS, path)
        if luck[1] < self.damage:
            data = data[: len(data) // 3]
        truth = {**truth, "exposure_start_s": start, "exposure_end_s": end}
        return SourceFrame(number, now, data=data, truth=truth)

    def _motion_until(self, time_s: float) -> SampleMotion | None:
        """Return the motion, waiting until it is known up to a time, unix s."""
        # If the motors are disconnected, the last known motion is used, and only the first picture
        # waits. Positions that come later, as on a slow computer, connect them again.
        with self._motion_changed:
            if self.motion is None:
                return None
            self._motors_connected = self._motion_changed.wait_for(
                lambda: self.motion is not None and self.motion.until >= time_s,
                MOTION_TIMEOUT_S if self._motors_connected else 0.0,
            )
            return self.motion

    def _picture(
        self, pose: Pose, variant: int, path: Sequence[Pose] | None = None
    ) -> tuple[bytes, Mapping[str, Any]]:
        """Return JPEG and truth; a picture of a sample at rest may come from the cache."""
        with self._lock:
            if path is None:
                return self._cached_picture(pose, variant)
            return self._render(pose, variant, path)

    def _render(
        self, pose: Pose, variant: int, path: Sequence[Pose] | None = None
    ) -> tuple[bytes, Mapping[str, Any]]:
        seed = self.seed * NOISE_VARIANTS + variant
        frame = render(self.scene, pose, path=path, frame_seed=seed)
        jpeg = encode_jpeg(frame.image, self.scene.optics.jpeg_quality, "444")
        return jpeg, _json_truth(frame.truth)


def _json_truth(truth: Any) -> dict[str, Any]:
    """Return a truth as JSON values: NaN, which JSON lacks, is None."""
    values: dict[str, Any] = to_jsonable_python(truth, inf_nan_mode="null")
    return values
