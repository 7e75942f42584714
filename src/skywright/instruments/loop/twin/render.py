"""Pictures of a scene with their truth.

A picture is the mean of sub-frames. Each is taken at its own time within the exposure and with
the pixel grid shifted by its own fraction of a pixel, so one sum gives smear and smooth edges.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.twin import raster
from skywright.instruments.loop.twin.mount import Mount, Pose
from skywright.instruments.loop.twin.optics import (
    Optics,
    chroma,
    empty_field,
    noise_rows,
    noise_table,
    projection,
    stamp,
)
from skywright.instruments.loop.twin.scene import Scene
from skywright.instruments.loop.twin.shape import Shape
from skywright.instruments.loop.twin.truth import (
    FrameTruth,
    frame_truth,
    motion_px,
    project,
    shape_of,
)

_LAMPS = np.array([[0.1, -0.55, -0.83], [-0.2, 0.75, -0.63]])
_LAMPS /= np.linalg.norm(_LAMPS, axis=1, keepdims=True)
# Front light and dark field of each mode; a room is never quite dark.
_LEVELS = {"backlight": (1.0, 0.0), "frontlight": (1.0, 0.0), "darkfield": (0.15, 1.0)}
_STEP_PX = 0.7  # largest motion between sub-frames
_LAYERS_MAX = 5


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture, (H, W) or (H, W, 3) uint8, and its truth."""

    image: NDArray[np.uint8]
    truth: FrameTruth


def render(
    scene: Scene,
    pose: Pose,
    *,
    path: Sequence[Pose] | None = None,
    light: float = 1.0,
    frame_seed: int = 0,
) -> Frame:
    """Take one picture.

    Parameters
    ----------
    pose
        At the middle of the exposure; the truth is taken here.
    path
        Poses at equal steps of time from start to end of the exposure, for a moving sample.
    light
        Factor on all lamps, 0 is off.
    frame_seed
        Draws the noise; equal seeds give equal bits.
    """
    optics = scene.optics
    shape = shape_of(scene)
    smear, travel = motion_px(shape, optics, path)
    truth = frame_truth(scene, shape, pose, smear)
    corner, transmission, reflection = _see(shape, optics, pose, path, travel)
    channels = 3 if optics.color else 1
    noise = optics.read_noise, optics.shot_noise
    image = np.empty((optics.height_px, optics.width_px, channels), np.uint8)
    raster.expose(
        empty_field(optics),
        chroma(optics),
        transmission,
        reflection,
        np.array(corner, np.int64),
        np.array([light, optics.reflect, optics.stray, optics.black, *noise]),
        noise_table(),
        noise_rows(optics, frame_seed),
        image,
    )
    stamp(image, optics)
    return Frame(image if optics.color else image[:, :, 0], truth)


def warm_up() -> None:
    """Compile or load every kernel, so that the first real picture is as fast as the others."""
    for color in (True, False):  # of the usual size: the sample is in view
        render(Scene(Mount(), Optics(color=color, reflect=10.0)), Pose())


def _pose_at(pose: Pose, path: Sequence[Pose] | None, fraction: float) -> Pose:
    if path is None or len(path) < 2:
        return pose
    at = fraction * (len(path) - 1)
    i = min(int(at), len(path) - 2)
    a, b, f = path[i], path[i + 1], at - i
    return Pose(*(p + f * (q - p) for p, q in zip(astuple(a), astuple(b), strict=True)))


@lru_cache(maxsize=32)
def _grid_shifts(count: int) -> NDArray[np.float64]:
    """Return (count, 2) shifts of the grid within a pixel, spread evenly, of mean 0; up to 32."""
    # Halton's sequence: the digits of 0, 1, 2 ... to the bases 2 and 3, behind the point.
    number, digit = np.arange(count)[:, None], np.arange(5)
    columns = [(number // base**digit % base) @ (1.0 / base ** (digit + 1)) for base in (2, 3)]
    shifts = np.stack(columns, axis=1)
    return shifts - shifts.mean(axis=0)


def _sigmas(depth: NDArray[np.float64], optics: Optics) -> NDArray[np.float64]:
    far = (depth - optics.focus_um) / optics.depth_of_field_um
    return np.minimum(np.hypot(optics.psf_px, far), 14.0)


def _depth_knots(shape: Shape, optics: Optics, pose: Pose) -> NDArray[np.float64]:
    """Return the depths (L,) um of the layers that are blurred apart."""
    seen = project(shape.slices, optics, pose)
    frame = np.array([optics.width_px, optics.height_px])
    inside = np.all((seen > -20.0) & (seen < frame + 20.0), axis=1)
    if not inside.any():
        return np.zeros(1)
    phi = np.deg2rad(pose.phi_deg)
    centers = shape.slices[inside]
    depth = (centers[:, 1] + pose.y_um) * np.sin(phi) + (centers[:, 2] + pose.z_um) * np.cos(phi)
    low, high = float(depth.min()), float(depth.max())
    sigma = _sigmas(np.linspace(low, high, 9), optics)
    wanted = int(np.ceil(np.abs(np.diff(sigma)).sum() / 0.6))
    if wanted <= 1:
        return np.array([float(np.median(depth))])
    count = min(wanted, _LAYERS_MAX)
    return low + (high - low) * (np.arange(count) + 0.5) / count


def _see(
    shape: Shape, optics: Optics, pose: Pose, path: Sequence[Pose] | None, travel: float
) -> tuple[tuple[int, int], NDArray[np.float32], NDArray[np.float32]]:
    """Return (column, row) of the part with a sample, its transmission and its reflection."""
    nothing = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    if shape.mesh is None:
        return (0, 0), *nothing
    seen = project(shape.whole, optics, pose)
    knots = _depth_knots(shape, optics, pose)
    sigmas = _sigmas(knots, optics)
    margin = 3.0 * float(sigmas.max()) + travel + 2.0
    limits = np.array([optics.width_px, optics.height_px])
    low = np.clip(np.floor(seen.min(axis=0) - margin), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0) + margin), low + 1, limits).astype(int)
    if np.any(seen.max(axis=0) + margin < 0) or np.any(seen.min(axis=0) - margin > limits):
        return (0, 0), *nothing
    corner = (int(low[0]), int(low[1]))
    size = (len(knots), int(high[1]) - corner[1], int(high[0]) - corner[0])
    transmission, reflection = np.zeros(size, np.float32), np.zeros(size, np.float32)
    count = int(np.clip(np.ceil(travel / _STEP_PX), 4, 24))
    halves = (0, 1) if optics.interlaced and travel > 0.0 else (-1,)
    for half in halves:
        _add_field(
            shape, optics, [_pose_at(pose, path, f) for f in _times(half, count)], knots, corner,
            half, transmission, reflection,
        )  # fmt: skip
    for layer in (transmission, reflection):
        for image, sigma in zip(layer, sigmas, strict=True):
            raster.blur(image, sigma)
    return corner, transmission.prod(axis=0), reflection.sum(axis=0)


def _times(half: int, count: int) -> NDArray[np.float64]:
    """Return fractions of the exposure: of all of it (half -1), its first (0) or second half."""
    middles = (np.arange(count) + 0.5) / count
    return middles if half < 0 else (half + middles) / 2.0


def _add_field(
    shape: Shape,
    optics: Optics,
    poses: Sequence[Pose],
    knots: NDArray[np.float64],
    corner: tuple[int, int],
    half: int,
    transmission: NDArray[np.float32],
    reflection: NDArray[np.float32],
) -> None:
    """Add the mean of sub-frames at the poses: all rows (half -1) or those of one field."""
    mesh = shape.mesh
    assert mesh is not None
    density, light = np.zeros_like(transmission), np.zeros_like(reflection)
    vertex, layer = np.empty((len(mesh.points), 5)), np.zeros(len(mesh.triangles), np.int32)
    matrix, origin = projection(optics)
    level = np.array(_LEVELS[optics.light]) * (optics.reflect > 0.0)
    parity = half if half < 0 else (half + corner[1]) % 2
    for now, shift in zip(poses, _grid_shifts(len(poses)), strict=True):
        phi = np.deg2rad(now.phi_deg)
        stage = np.array([now.x_um, now.y_um, now.z_um])
        turn = np.array([np.cos(phi), np.sin(phi)])
        raster.shade(
            mesh.points, mesh.normals, mesh.surface, stage, turn, matrix, origin, _LAMPS, level,
            vertex,
        )  # fmt: skip
        if len(knots) > 1:
            depth = (mesh.centers[:, 1:] + stage[1:]) @ turn[::-1]
            nearest = np.searchsorted((knots[1:] + knots[:-1]) / 2.0, depth)
            layer = nearest.astype(np.int32)
        raster.rasterize(
            vertex, mesh.triangles, mesh.face_normals, mesh.absorption, mesh.opaque, layer, turn,
            corner + shift, density, light,
        )  # fmt: skip
        raster.accumulate(
            density, light, transmission, reflection, optics.contrast, 1.0 / len(poses), parity
        )
