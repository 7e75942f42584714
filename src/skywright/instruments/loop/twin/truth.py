"""What is true of a scene and of a picture, from the geometry alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.twin.mount import Kind, Pose
from skywright.instruments.loop.twin.optics import Optics, projection
from skywright.instruments.loop.twin.scene import Scene
from skywright.instruments.loop.twin.shape import Shape, build

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FrameTruth:
    """What is in one picture, exactly, at the middle of the exposure.

    Coordinates are pixels, x to the right, y down, the center of the first pixel is (0, 0). Boxes
    are (xmin, ymin, xmax, ymax), not cut by the frame; NaN where there is nothing.
    """

    kind: Kind
    side: str | None
    """Border through which the pin enters; None without a mount."""
    tip_px: tuple[float, float]
    """(x, y); the end of the loop or mount farthest from the pin side, drop and ice included, or of
    a bare pin: as far as its farthest lump, in the middle of its end face. NaN out of the frame."""
    tip_in_view: bool
    tip_unclipped_px: tuple[float, float]
    """The same also out of the frame."""
    crystal_tip_px: tuple[float, float]
    """The same with a crystal that sticks out."""
    box_px: Box
    """Of the head (loop or mount with drop and ice, without crystal, stem, pin)."""
    box_with_crystal_px: Box
    """Of the head and the crystal."""
    width_px: float
    """Extent of `box_px` across the axis; of the pin for a bare pin."""
    pin_end_px: tuple[float, float]
    """(x, y), middle of the end face of the pin."""
    axis_at_tip_px: float
    """Row (column for a pin from top or bottom) of the spindle at the tip."""
    phi_deg: float
    """At mid exposure."""
    smear_px: float
    """Way of the tip over the exposure."""


@dataclass(frozen=True)
class SceneTruth:
    """What holds for a scene at a stage position, in the goniometer frame."""

    tip_offset_um: tuple[float, float, float]
    center_offset_um: tuple[float, float, float]
    """(x, y, z) of the tip, and of the middle of the head: of its extent along the spindle, and
    what the middles of its silhouettes turn about (the first harmonic over a turn). y and z are the
    distance from the spindle."""
    axis_px: float
    """Row (column for a pin from top or bottom) of the spindle where x = 0."""
    um_per_px_x: float
    um_per_px_y: float
    face_on_deg: float
    """Spindle angle, 0..180, at which the mount's normal points to the camera."""
    kind: Kind
    side: str | None


def shape_of(scene: Scene) -> Shape:
    """Return the mesh of a scene's mount, as fine as its pixels need."""
    optics = scene.optics
    return build(scene.mount, round(min(optics.um_per_px_x, optics.um_per_px_y), 3))


def project(points_um: NDArray[np.float64], optics: Optics, pose: Pose) -> NDArray[np.float64]:
    """Project points (N, 3) of the goniometer frame, um at stage 0, to columns and rows (N, 2)."""
    phi = np.deg2rad(pose.phi_deg)
    moved = np.atleast_2d(points_um) + np.array([pose.x_um, pose.y_um, pose.z_um])
    across = moved[:, 1] * np.cos(phi) - moved[:, 2] * np.sin(phi)
    matrix, origin = projection(optics)
    return np.stack([moved[:, 0], across], axis=1) @ matrix.T + origin


def frame_truth(scene: Scene, shape: Shape, pose: Pose, smear: float = 0.0) -> FrameTruth:
    """Return the truth of one picture; `smear`, px, is copied into it."""
    optics, kind = scene.optics, scene.mount.kind
    marks = np.stack([shape.tip_um, shape.crystal_tip_um, shape.pin_end_um])
    tip, crystal, pin_end = ((float(u), float(v)) for u, v in project(marks, optics, pose))
    on_axis = project(np.array([shape.tip_um[0] + pose.x_um, 0.0, 0.0]), optics, Pose())[0]
    lying = optics.side in ("left", "right")
    inside = bool(
        -0.5 <= tip[0] <= optics.width_px - 0.5 and -0.5 <= tip[1] <= optics.height_px - 0.5
    )
    box = _box(shape.head, optics, pose)
    across = _box(shape.pin, optics, pose) if kind == "pin" else box
    return FrameTruth(
        kind=kind,
        side=None if kind == "none" else optics.side,
        tip_px=tip if inside else (np.nan, np.nan),
        tip_in_view=inside,
        tip_unclipped_px=tip,
        crystal_tip_px=crystal,
        box_px=box,
        box_with_crystal_px=_box(shape.head_and_crystal, optics, pose),
        width_px=across[3] - across[1] if lying else across[2] - across[0],
        pin_end_px=pin_end,
        axis_at_tip_px=float(on_axis[1] if lying else on_axis[0]),
        phi_deg=pose.phi_deg,
        smear_px=smear,
    )


def motion_px(shape: Shape, optics: Optics, path: Sequence[Pose] | None) -> tuple[float, float]:
    """Return the way of the tip over the exposure, and the longest way of the head, px."""
    if path is None or len(path) < 2 or shape.mesh is None:
        return 0.0, 0.0
    points = np.vstack([shape.tip_um, shape.head_and_crystal])
    seen = np.stack([project(points, optics, pose) for pose in path])
    way = np.linalg.norm(np.diff(seen, axis=0), axis=2).sum(axis=0)
    return float(way[0]), float(way.max())


def scene_truth(scene: Scene, pose: Pose | None = None) -> SceneTruth:
    """Return the truth of a scene at a stage position (default all 0)."""
    pose = pose or Pose()
    shape, optics, mount = shape_of(scene), scene.optics, scene.mount
    stage = np.array([pose.x_um, pose.y_um, pose.z_um])
    return SceneTruth(
        tip_offset_um=tuple((shape.tip_um + stage).tolist()),
        center_offset_um=tuple((shape.center_um + stage).tolist()),
        axis_px=optics.axis_px,
        um_per_px_x=optics.um_per_px_x,
        um_per_px_y=optics.um_per_px_y,
        face_on_deg=mount.face_on_deg % 180.0 if mount.kind in ("nylon", "mitegen") else np.nan,
        kind=mount.kind,
        side=None if mount.kind == "none" else optics.side,
    )


def _box(points: NDArray[np.float64], optics: Optics, pose: Pose) -> Box:
    if len(points) == 0:
        return (np.nan,) * 4
    seen = project(points, optics, pose)
    low, high = seen.min(axis=0), seen.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
