"""Closed triangle meshes of the parts of a mounted sample, made by sweeping cross-sections.

Coordinates are um in the frame of the mount (see `mount`). Everything the twin shows is a mesh, so
the truth of a picture is the extreme of projected vertices and needs no approximation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Floats = NDArray[np.float64]
Warp = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Material:
    """How a part meets the light."""

    absorption_per_um: float
    """Optical density (natural log) per um of path."""
    rim: float = 0.0
    """Density that one surface adds where it is seen edge-on, by refraction out of the lens."""
    rim_power: float = 2.0
    """Exponent of the fall of `rim` with the obliquity: larger is a narrower dark rim."""
    albedo: float = 0.3
    specular: float = 0.5
    """Diffuse and mirror reflection under front light."""
    scatter: float = 0.5
    """Brightness of edge-on surfaces in dark field."""
    grain: float = 0.0
    """Random density from vertex to vertex, 0 for a clear surface."""
    opaque: bool = False
    """Hide what is behind: only surfaces that face the camera reflect."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices and triangles with the material spread over them."""

    points: Floats
    normals: Floats
    """(N, 3) float64, um and unit vectors pointing outwards."""
    triangles: NDArray[np.int32]
    """(M, 3) int32, indices into `points`."""
    face_normals: Floats
    """(M, 3) float64, geometric, outwards."""
    centers: Floats
    """(M, 3) float64, um; the middle of the slice that a triangle belongs to. Depth of focus is
    taken there, so that front and back of one slice are blurred alike."""
    surface: Floats
    """(N, 6) float64; rim, rim_power, albedo, specular, scatter, grain value."""
    absorption: Floats
    """(M,) float64, per um."""
    opaque: NDArray[np.bool_]
    """(M,) bool."""
    label: NDArray[np.str_]
    """(N,) str, name of the part."""

    def select(self, *labels: str) -> Floats:
        """Return the points (N, 3) of the named parts; names that do not occur are passed over."""
        return self.points[np.isin(self.label, labels)]


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0.0, length, 1.0)


def _finish(
    label: str,
    material: Material,
    points: Floats,
    normals: Floats,
    triangles: NDArray[np.int32],
    centers: Floats,
    rng: np.random.Generator,
) -> Mesh:
    corners = points[triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    m = material
    surface = np.tile([m.rim, m.rim_power, m.albedo, m.specular, m.scatter, 0.0], (len(points), 1))
    if material.grain > 0.0:
        surface[:, 5] = material.grain * np.abs(rng.standard_normal(len(points)))
        surface[:, 2:5] *= rng.uniform(0.7, 1.3, (len(points), 1))
    return Mesh(
        points=points,
        normals=_unit(normals),
        triangles=triangles,
        face_normals=_unit(faces),
        centers=centers,
        surface=surface,
        absorption=np.full(len(triangles), material.absorption_per_um),
        opaque=np.full(len(triangles), material.opaque),
        label=np.full(len(points), label),
    )


def section(sides: int, power: float = 2.0) -> Floats:
    """Return the unit super-ellipse ``|y|^p + |z|^p = 1``, (sides, 2) points; 2 is the circle.

    Points are spread evenly in angle and include the four extremes when `sides` is a multiple
    of 4, so the half widths of a swept part are exact.
    """
    angle = 2.0 * np.pi * np.arange(sides) / sides
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1).round(12)
    return np.asarray(np.sign(circle) * np.abs(circle) ** (2.0 / power))


def sweep(
    label: str,
    material: Material,
    centers: Floats,
    across: Floats,
    normal: Floats,
    outline: Floats,
    rng: np.random.Generator,
    *,
    warp: Warp | None = None,
    displace: Floats | None = None,
    joined: bool = False,
) -> Mesh:
    """Sweep an outline along a path and close both ends.

    Parameters
    ----------
    centers : (S, 3) float, um
        Path.
    across, normal : (S, 3) float, um
        Half axes of the outline at each station, as vectors.
    outline : (n, 2) float
        Unit outline, see `section`.
    rng
        Draws the grain.
    warp
        Map of points (..., 3) to points, applied before normals are taken.
    displace : (S, n, 3) float
        Added to each vertex, um: roughness.
    joined
        The ends lie inside other parts and shall not show.
    """
    grid = outline[None, :, :1] * across[:, None, :] + outline[None, :, 1:] * normal[:, None, :]
    grid = grid + centers[:, None, :]
    if displace is not None:
        grid = grid + displace
    path = centers
    if warp is not None:
        grid, path = warp(grid), warp(centers)
    tangent = _unit(np.gradient(path, axis=0))
    wall = _wall(grid, path, tangent)
    # One sense of winding over the whole surface, so that signed depths add up to a thickness.
    caps = [_cap(grid[0], path[0], -tangent[0]), _cap(grid[-1], path[-1], tangent[-1])]
    caps[0][2][:] = caps[0][2][:, ::-1]
    starts = np.cumsum([0, len(wall[0]), len(caps[0][0])])
    points, normals, middles = (
        np.concatenate([piece[field] for piece in (wall, *caps)]) for field in (0, 1, 3)
    )
    triangles = np.concatenate(
        [piece[2] + start for piece, start in zip((wall, *caps), starts, strict=True)]
    ).astype(np.int32)
    if _volume(points, triangles) < 0.0:
        triangles = np.ascontiguousarray(triangles[:, ::-1])
    mesh = _finish(label, material, points, normals, triangles, middles, rng)
    if joined:
        mesh.surface[len(wall[0]) :] = 0.0
    return mesh


Piece = tuple[Floats, Floats, NDArray[np.int_], Floats]  # points, normals, triangles, centers


def _wall(grid: Floats, path: Floats, tangent: Floats) -> Piece:
    """Return the side of a swept part from its grid of vertices (S, n, 3)."""
    stations, sides = grid.shape[:2]
    around = np.roll(grid, -1, axis=1) - np.roll(grid, 1, axis=1)
    normals = np.cross(around, np.gradient(grid, axis=0))
    inward = np.einsum("ijk,ijk->ij", normals, grid - path[:, None, :]) < 0.0
    normals[inward] *= -1.0
    for end, outwards in ((0, -tangent[0]), (-1, tangent[-1])):
        collapsed = np.linalg.norm(around[end], axis=1) < 1e-9
        normals[end, collapsed] = outwards
    i, j = np.meshgrid(np.arange(stations - 1), np.arange(sides), indexing="ij")
    k = (j + 1) % sides
    a, b, c, d = (i * sides + j, i * sides + k, (i + 1) * sides + j, (i + 1) * sides + k)
    triangles = np.concatenate([np.stack([a, b, c], -1), np.stack([b, d, c], -1)]).reshape(-1, 3)
    centers = np.concatenate([path[i], path[i]]).reshape(-1, 3)
    return grid.reshape(-1, 3), _unit(normals).reshape(-1, 3), triangles, centers


def _cap(ring: Floats, center: Floats, normal: Floats) -> Piece:
    """Return the fan that closes an end."""
    sides = len(ring)
    points = np.concatenate([ring, ring.mean(axis=0, keepdims=True)])
    turn = np.arange(sides)
    triangles = np.stack([turn, (turn + 1) % sides, np.full(sides, sides)], axis=1)
    return (
        points,
        np.repeat(normal[None], sides + 1, axis=0),
        triangles,
        np.repeat(center[None], sides, axis=0),
    )


def _volume(points: Floats, triangles: NDArray[np.int32]) -> float:
    a, b, c = (points[triangles[:, i]] - points.mean(axis=0) for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)))


def hull(
    label: str, material: Material, corners: Floats, rng: np.random.Generator, warp: Warp | None
) -> Mesh:
    """Return the convex hull of corners (K, 3) um with flat faces, for crystals."""
    if warp is not None:
        corners = warp(corners)
    shape = ConvexHull(corners)
    points = corners[shape.simplices].reshape(-1, 3)
    normals = np.repeat(shape.equations[:, :3], 3, axis=0)
    triangles = np.arange(len(points), dtype=np.int32).reshape(-1, 3)
    edges = points.reshape(-1, 3, 3)
    winding = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    inward = np.einsum("ij,ij->i", winding, shape.equations[:, :3]) < 0.0
    triangles[inward] = triangles[inward][:, [1, 0, 2]]
    middle = np.repeat(corners.mean(axis=0)[None], len(triangles), axis=0)
    return _finish(label, material, points, normals, triangles, middle, rng)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Return one mesh of several; parts of one name stay under that name."""
    starts = np.cumsum([0, *(len(mesh.points) for mesh in meshes[:-1])])
    moved = [
        replace(mesh, triangles=(mesh.triangles + start).astype(np.int32))
        for mesh, start in zip(meshes, starts, strict=True)
    ]
    names = [each.name for each in fields(Mesh)]
    return Mesh(**{n: np.concatenate([getattr(mesh, n) for mesh in moved]) for n in names})
