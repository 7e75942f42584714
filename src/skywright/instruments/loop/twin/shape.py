"""From the dimensions of a mount to its mesh in the goniometer frame, with its landmarks."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from skywright.instruments.loop.twin import parts
from skywright.instruments.loop.twin.mesh import Floats, Mesh, join
from skywright.instruments.loop.twin.mount import Mount

HEAD = ("head", "drop", "ice")  # what belongs to the loop; a crystal may stick out of it


@dataclass(frozen=True, eq=False)
class Shape:
    """The mesh of a mount in the goniometer frame, all stages at 0, with its landmarks.

    `tip_um` and `crystal_tip_um` are the points of largest x without and with the crystal,
    `center_um` the middle of the head's silhouettes over a turn, `pin_end_um` the middle of the
    pin's end face; NaN where there is no such part. `head` holds the corners (K, 3) of the convex
    hull of head, drop and ice, `head_and_crystal` also the crystal's, `pin` those of the pin's last
    200 um and `whole` of all: the extremes in any view are among them. `slices` are the different
    rows of `Mesh.centers`.
    """

    mesh: Mesh | None
    tip_um: Floats
    crystal_tip_um: Floats
    center_um: Floats
    pin_end_um: Floats
    head: Floats
    head_and_crystal: Floats
    pin: Floats
    whole: Floats
    slices: Floats


@lru_cache(maxsize=16)
def build(mount: Mount, pixel_um: float) -> Shape:
    """Build the mesh of a mount with facets of about two pixels, of `pixel_um` in the sample."""
    nowhere = np.full(3, np.nan)
    nothing = np.empty((0, 3))
    if mount.kind == "none":
        return Shape(None, nowhere, nowhere, nowhere, nowhere, *(nothing,) * 5)
    rng = np.random.default_rng([mount.shape_seed, 77])
    warp = parts.bend(mount)
    meshes = [parts.pin(mount, pixel_um, rng)]
    if mount.kind == "nylon":
        meshes += parts.nylon(mount, pixel_um, warp, rng)
    elif mount.kind == "mitegen":
        meshes += parts.polymer(mount, pixel_um, warp, rng)
    if mount.kind != "pin":
        meshes += parts.contents(mount, pixel_um, warp, rng)
    mesh = _place(mount, join(meshes))
    pin = mesh.select("pin")
    head = mesh.select(*HEAD)
    both = mesh.select(*HEAD, "crystal")
    # Triangle 0 touches the pin's end, so its slice center is the middle of the end face.
    pin_end = np.array([pin[:, 0].max(), *mesh.centers[0, 1:]])
    bare = len(head) == 0
    return Shape(
        mesh=mesh,
        tip_um=pin_end if bare else _extreme(head),
        crystal_tip_um=pin_end if bare else _extreme(both),
        center_um=nowhere if bare else _middle(_corners(head)),
        pin_end_um=pin_end,
        head=_corners(head),
        head_and_crystal=_corners(both),
        pin=_corners(pin[pin[:, 0] > pin_end[0] - 200.0]),
        whole=_corners(mesh.points),
        slices=np.unique(mesh.centers, axis=0),
    )


def _corners(points: Floats) -> Floats:
    """Return the points on the convex hull."""
    return points[ConvexHull(points).vertices] if len(points) else points


def _middle(points: Floats) -> Floats:
    """Return the point that the middles of the silhouettes turn about, whatever way they sway."""
    angle = np.deg2rad(np.arange(360.0))
    turn = np.stack([np.cos(angle), -np.sin(angle)])
    seen = points[:, 1:] @ turn
    across = turn @ (seen.max(axis=0) + seen.min(axis=0)) / len(angle)
    return np.array([(points[:, 0].min() + points[:, 0].max()) / 2.0, *across])


def _extreme(points: Floats) -> Floats:
    """Return the point of largest x; the middle of several that tie."""
    return points[points[:, 0] > points[:, 0].max() - 0.05].mean(axis=0)


def _place(mount: Mount, mesh: Mesh) -> Mesh:
    """Turn the mount about x to its face-on angle and shift its tip to `tip_um`."""
    # Rows show y cos(phi) - z sin(phi), so the plane's y must lie along (cos, -sin) of the angle.
    rotation = Rotation.from_euler("x", -mount.face_on_deg, degrees=True).as_matrix()
    points = mesh.points @ rotation.T
    head = np.isin(mesh.label, HEAD)
    tip = _extreme(points[head]) if head.any() else np.array([points[:, 0].max(), 0.0, 0.0])
    shift = np.asarray(mount.tip_um) - tip
    return replace(
        mesh,
        points=points + shift,
        normals=mesh.normals @ rotation.T,
        face_normals=mesh.face_normals @ rotation.T,
        centers=mesh.centers @ rotation.T + shift,
    )
