"""Labelled pictures from maps of thickness: bodies of glass, nylon, film and metal in a light.

Each part of the mount is a body with a thickness at every pixel. What is absorbed, refracted and
reflected follows from the thickness, its slope and its curvature. The mount enters at the left.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from names import MASKS
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sample import NO_BOX, NOWHERE, Sample
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d, laplace
from scipy.spatial import cKDTree

Array = NDArray[Any]
KINDS = {"nylon": 0.42, "mitegen": 0.34, "pin": 0.13, "none": 0.11}
FINE = 3  # polygons are drawn this many times larger
PIXELS = 130_000.0
PHOTOS = (
    "camera.png", "astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "moon.png",
    "brick.png", "grass.png", "gravel.png", "coins.png", "page.png", "retina.jpg",
    "hubble_deep_field.jpg", "ihc.png",
)  # fmt: skip


def log_between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(low * (high / low) ** rng.random())


def chance(rng: np.random.Generator, part: float) -> bool:
    """Say yes in a part of the cases."""
    return bool(rng.random() < part)


def grain(rng: np.random.Generator, shape: tuple[int, int], size: float) -> Array:
    """Return smooth noise of spread 1 whose lumps are `size` pixels."""
    few = [max(int(n / max(size, 1.0)) + 3, 4) for n in shape]
    rough = rng.standard_normal(few).astype(np.float32)
    large = Image.fromarray(rough).resize(shape[::-1], Image.Resampling.BICUBIC)
    out = np.asarray(large)
    return (out - out.mean()) / (out.std() + 1e-6)


@dataclass
class Scene:
    """Bodies in one plane: what light meets at each pixel.

    Attributes
    ----------
    tau : optical depth.
    phase : thickness times refractive strength, px.
    albedo, solid : how bright the surface is in front light, and where it is opaque.
    bright : light gathered by lenses, a part of the back light.
    masks : (5, H, W) bool.
    """

    shape: tuple[int, int]
    tau: Array = field(init=False)
    phase: Array = field(init=False)
    albedo: Array = field(init=False)
    solid: Array = field(init=False)
    bright: Array = field(init=False)
    masks: Array = field(init=False)

    def __post_init__(self) -> None:
        """Begin empty."""
        for name in ("tau", "phase", "albedo", "solid", "bright"):
            setattr(self, name, np.zeros(self.shape, np.float32))
        self.masks = np.zeros((len(MASKS), *self.shape), bool)

    def add(
        self, thick: Array, cover: Array, depth: float, index: float, albedo: float = 0.5,
        opaque: bool = False,
    ) -> None:  # fmt: skip
        """Add a body of a thickness in px; `depth` is its optical depth where it is thickest."""
        top = float(thick.max())
        if top <= 0:
            return
        self.tau += (8.0 * cover if opaque else depth * thick / top).astype(np.float32)
        self.phase += (index * thick).astype(np.float32)
        self.albedo += (cover * (albedo - self.albedo)).astype(np.float32)
        if opaque:
            self.solid = np.maximum(self.solid, cover).astype(np.float32)

    def mark(self, name: str, cover: Array) -> None:
        """Add to a mask."""
        self.masks[MASKS.index(name)] |= cover > 0.45


def area(shape: tuple[int, int], parts: list[tuple[Array, int]]) -> Array:
    """Return how much of each pixel polygons cover; those of value 0 cut holes."""
    every = np.concatenate([p for p, value in parts if value])
    x0, y0 = (max(int(v), 0) for v in np.floor(every.min(0)) - 2)
    x1, y1 = (min(int(v), n) for v, n in zip(np.ceil(every.max(0)) + 3, shape[::-1], strict=True))
    out = np.zeros(shape, np.float32)
    if x1 <= x0 or y1 <= y0:
        return out
    picture = Image.new("L", ((x1 - x0) * FINE, (y1 - y0) * FINE))
    draw = ImageDraw.Draw(picture)
    for points, value in parts:
        fine = (points - (x0, y0) + 0.5) * FINE - 0.5
        draw.polygon([tuple(p) for p in fine.tolist()], fill=255 * value)
    small = picture.resize((x1 - x0, y1 - y0), Image.Resampling.BOX)
    out[y0:y1, x0:x1] = np.asarray(small, np.float32) / 255.0
    return out


def depth_in(cover: Array) -> Array:
    """Return how far each pixel of a shape is from its edge; the picture's border is no edge."""
    out = np.zeros(cover.shape, np.float32)
    rows, columns = (np.flatnonzero((cover > 0.02).any(k)) for k in (1, 0))
    if len(rows):
        part = np.s_[max(rows[0] - 1, 0) : rows[-1] + 2, max(columns[0] - 1, 0) : columns[-1] + 2]
        inside = cover[part]
        far = distance_transform_edt(inside > 0.5)
        out[part] = np.where(far > 1, far - 1 + 0.5, inside * 0.5)
    return out


def tube(shape: tuple[int, int], curve: Array, radius: Any) -> tuple[Array, Array]:
    """Return the thickness and the cover of a round fiber along a curve (N, 2)."""
    thick, cover = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    radius = np.broadcast_to(np.asarray(radius, float), len(curve))
    way = np.r_[0, np.cumsum(np.hypot(*np.diff(curve, axis=0).T))]
    most = float(radius.max())
    at = np.linspace(0, way[-1], int(way[-1] / max(0.25, 0.08 * most)) + 2)
    dense = np.c_[np.interp(at, way, curve[:, 0]), np.interp(at, way, curve[:, 1])]
    r = np.interp(at, way, radius)
    picture = Image.new("L", shape[::-1])
    ImageDraw.Draw(picture).line(
        [tuple(p) for p in curve.tolist()], fill=1, width=int(2 * most) + 5, joint="curve"
    )
    rows, columns = np.nonzero(np.asarray(picture))
    if not len(rows):
        return thick, cover
    far, nearest = cKDTree(dense).query(np.c_[columns, rows], distance_upper_bound=most + 2)
    seen = np.isfinite(far)
    rows, columns, far, r = rows[seen], columns[seen], far[seen], r[nearest[seen]]
    soft = np.sqrt(r**2 + 0.15)
    thick[rows, columns] = 2 * np.sqrt(np.maximum(soft**2 - far**2, 0)) * (r / soft) ** 2
    cover[rows, columns] = np.clip(r + 0.5 - far, 0, 1) * np.minimum(1, 2 * r)
    return thick, cover


def band(curve: Array, half: Any) -> Array:
    """Return the outline of a band of a half width along a curve."""
    along = np.gradient(curve, axis=0)
    along /= np.hypot(*along.T)[:, None] + 1e-9
    across = along[:, ::-1] * (-1, 1) * np.broadcast_to(half, len(curve))[:, None]
    return np.r_[curve + across, (curve - across)[::-1]]


# ---------------------------------------------------------------------------- outlines


def outline(rng: np.random.Generator, family: str) -> Array:
    """Return a closed outline (200, 2), its neck at (0, 0) and its tip at x = 1, |y| <= 0.5."""
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    if family == "rect":
        power = 2 / rng.uniform(2.6, 7)
        x, y = -np.sign(c) * abs(c) ** power, np.sign(s) * abs(s) ** power
    elif family == "hexagon":
        a = rng.uniform(0.12, 0.4)
        corners = np.array([[0, 0], [a, 1], [1 - a, 1], [1, 0], [1 - a, -1], [a, -1], [0, 0]])
        corners[[0, 3, 6], 1] = 0
        at = np.linspace(0, 6, 200, endpoint=False)
        x, y = (np.interp(at, np.arange(7), v) for v in corners.T)
        x, y = (gaussian_filter1d(v, rng.uniform(1, 10), mode="wrap") for v in (x, y))
    else:
        pinch = {"drop": rng.uniform(0.5, 2.2), "ellipse": 0.0, "spade": 0.0}[family]
        x, y = -c, s * np.sin(t / 2) ** pinch
        if family == "spade":
            y = s * (1 - rng.uniform(0.3, 0.8) * np.clip(x, -0.5, 1))
    if chance(rng, 0.35):  # uneven
        knots = np.r_[rng.normal(1, 0.1, 6), 0]
        knots[-1] = knots[0]
        y = y * CubicSpline(np.linspace(0, 2 * np.pi, 7), knots, bc_type="periodic")(t)
    x = (x - x.min()) / np.ptp(x)
    y = y / np.ptp(y)
    return np.c_[x, y - y[0]]


def kinked(rng: np.random.Generator) -> Array:
    """Return the outline of a loop that was bent: a spline through a few places."""
    n = int(rng.integers(5, 9))
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    away = np.c_[-np.cos(t), np.sin(t)] * rng.uniform(0.65, 1.25, (n, 1))
    away = np.r_[away, away[:1]]
    spline = CubicSpline(np.arange(n + 1), away, bc_type="periodic")
    ring = spline(np.linspace(0, n, 200, endpoint=False))
    ring[:, 0] -= ring[:, 0].min()
    ring = ring / np.ptp(ring, axis=0)
    return np.roll(ring, -int(np.argmin(ring[:, 0])), 0) - [0, ring[np.argmin(ring[:, 0]), 1]]


def turned(rng: np.random.Generator, flat: Array, long: float, wide: float, warp: float) -> Array:
    """Scale an outline, warp it out of its plane and project it, turned about its axis."""
    x, y = flat.T
    angle = rng.uniform(-1.0, 1.0) if chance(rng, 0.7) else rng.uniform(0, np.pi)
    z = rng.normal(0, warp) * y**2 * 4 * wide + rng.normal(0, warp) * long * x * (x - 0.6)
    z = z + rng.normal(0, 0.5 * warp) * wide * y * np.sin(4 * x)
    return np.c_[x * long, y * wide * np.cos(angle) - z * np.sin(angle)]


# ---------------------------------------------------------------------------- the mount


@dataclass
class Plan:
    """Where the parts of a mount are, px."""

    long: float
    wide: float
    tip_x: float
    pin_end: float
    row: float
    tilt: float
    half: float
    stem: Array
    angle: float


def plan(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> Plan:
    """Draw the places of a mount."""
    height, width = shape
    long = width * log_between(rng, 0.05, 0.7)
    wide = min(long * rng.uniform(0.3, 1.15), 0.9 * height)
    reach = long * log_between(rng, 0.15, 4.0)
    drawn = rng.random()
    tip_x = width * (rng.uniform(0.08, 0.97) if drawn < 0.89 else rng.uniform(1.0, 1.35))
    if drawn > 0.96:
        tip_x = width * rng.uniform(0.02, 0.1)
    pin_end = tip_x if kind == "pin" else tip_x - long - reach
    row = height * float(np.clip(rng.normal(0.5, 0.15), 0.12, 0.88))
    tilt = rng.normal(0, 0.05)
    half = 0.5 * height * log_between(rng, 0.04, 0.6)
    if kind != "pin":
        half = max(half, 0.1 * wide, 3.0)
    neck, start = max(tip_x - long, pin_end + 2.0), row + rng.normal(0, 0.3) * half
    rise = tilt * reach + rng.normal(0, 0.15) * min(reach, 0.5 * height)
    middle = start + 0.5 * rise + rng.normal(0, 0.12) * min(reach, height) * chance(rng, 0.5)
    knots = [pin_end, 0.5 * (pin_end + neck), neck]
    spline = CubicSpline(
        knots, [start, middle, start + rise], bc_type=((1, tilt + rng.normal(0, 0.1)), (2, 0.0))
    )
    u = np.linspace(pin_end - min(half, 6.0), neck + 0.03 * long, 160)
    v = np.where(u < pin_end, start + tilt * (u - pin_end), spline(u))
    shift = 0.0 if kind == "pin" else np.clip(v[-1], 0.08 * height, 0.92 * height) - v[-1]
    slope = float(np.clip((v[-1] - v[-9]) / (u[-1] - u[-9]), -0.9, 0.9))
    angle = np.arctan(slope) + rng.normal(0, 0.1)
    return Plan(long, wide, tip_x, pin_end, row + shift, tilt, half, np.c_[u, v + shift], angle)


def surface(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    """Return how a smooth, frosted or machined surface departs from its shape, px."""
    what = rng.choice(["smooth", "frosted", "machined"], p=[0.5, 0.25, 0.25])
    if what == "frosted":
        return rng.uniform(0.3, 2.5) * grain(rng, shape, rng.uniform(1, 4))
    wave = np.sin(np.arange(shape[1]) * rng.uniform(0.5, 2.2) + rng.uniform(0, 6))
    return rng.uniform(0.2, 1.5) * wave[None, :] if what == "machined" else 0.0


def pin(
    rng: np.random.Generator, scene: Scene, p: Plan, bare: bool
) -> tuple[Array, tuple[float, float]]:
    """Add the pin, a `bare` one or of a mount; return its cover and the place of its end."""
    height, width = scene.shape
    u = np.linspace(-40, max(p.pin_end, -39), 300)
    half = np.full(len(u), p.half)
    back = np.clip((p.pin_end - u) / (2 * p.half), 0, None)
    kind = rng.choice(["plain", "cone", "step", "base"], p=[0.4, 0.25, 0.2, 0.15])
    if kind == "cone":
        half = half * (1 + np.minimum(back * rng.uniform(0.05, 0.5), 1.8))
    elif kind == "step":
        half = np.where(back > rng.uniform(0.5, 3), half * rng.uniform(1.15, 2.2), half)
    elif kind == "base":
        half = np.where(back > rng.uniform(2, 5), half * rng.uniform(2, 5), half)
    ends = ["blunt", "chamfer", "round", "ragged", "bevel"]
    end, at = str(rng.choice(ends[: 5 if bare else 4])), 0.0
    near = np.clip(1 - back / rng.uniform(0.1, 0.6), 0, 1)
    if end == "chamfer":
        half = half * (1 - rng.uniform(0.2, 0.9) * near)
    elif end == "round":
        half = half * np.sqrt(np.clip(1 - near**2, 0.003, 1))
    low, high = half, half
    if end == "bevel":
        side, amount = rng.choice([0, 1]), rng.uniform(0.3, 1.7)
        cut = half * (1 - amount * near)
        low, high = (cut, half) if side else (half, cut)
        at = 0.5 * (high[-1] - low[-1])
    middle = p.row + p.tilt * (u - p.pin_end)
    lower, upper = np.c_[u, middle + high], np.c_[u, middle - low]
    if end == "ragged":
        bites = abs(gaussian_filter1d(rng.normal(size=38), 1.0)) * p.half * rng.uniform(0.1, 0.5)
        bites[19] = 0
        face = np.c_[p.pin_end - bites, middle[-1] - np.linspace(-0.95, 0.95, 38) * p.half]
        lower, upper = np.r_[lower[u < p.pin_end - 1], face], upper[u < p.pin_end - 1]
    cover = area(scene.shape, [(np.r_[lower, upper[::-1]], 1)])
    columns = np.arange(width)
    wide = np.interp(columns, u, np.maximum(low, high))
    across = np.arange(height)[:, None] - np.interp(columns, u, middle)[None, :]
    thick = 2 * cover * np.sqrt(np.maximum(wide**2 - across**2, 0.02 * wide**2))
    thick = thick + cover * surface(rng, scene.shape)
    metal = chance(rng, 0.8)
    scene.add(
        thick, cover, rng.uniform(0.3, 2.0), rng.uniform(0.4, 1.2), rng.uniform(0.15, 1.0), metal
    )
    scene.mark("pin", cover)
    return cover, (float(p.pin_end), float(p.row + at))


def nylon(rng: np.random.Generator, scene: Scene, p: Plan) -> tuple[Array, float]:
    """Add a fiber: its stem and loop; return the outline of the loop and the fiber's radius."""
    radius = max(0.5 * p.long * log_between(rng, 0.01, 0.08), 0.45)
    flat = kinked(rng) if chance(rng, 0.3) else outline(rng, str(rng.choice(["drop", "ellipse"])))
    ring = placed(turned(rng, flat, p.long, p.wide, 0.2), p)
    depth, index, albedo = rng.uniform(0.1, 1.2), rng.uniform(0.2, 1.0), rng.uniform(0.4, 1.0)
    way = np.r_[0, np.cumsum(np.hypot(*np.diff(p.stem, axis=0).T))]
    turn = 2 * np.pi * way / (radius * rng.uniform(6, 40)) + rng.uniform(0, 6)
    single = chance(rng, 0.2)
    reach = 0.0 if single else radius * rng.uniform(0.5, 1.2)
    total, union = np.zeros(scene.shape, np.float32), np.zeros(scene.shape, np.float32)
    fine = np.linspace(0, way[-1], int(way[-1]) + 3)
    base = np.c_[np.interp(fine, way, p.stem[:, 0]), np.interp(fine, way, p.stem[:, 1])]
    wave = np.interp(fine, way, turn)
    for k in range(1 if single else 2):
        strand = base + np.c_[0 * wave, reach * np.sin(wave + k * np.pi)]
        thick, cover = tube(scene.shape, strand, radius)
        total, union = total + thick, np.maximum(union, cover)
    scene.mark("stem", tube(scene.shape, base, max(reach + radius, 1.25))[1])
    thick, cover = tube(scene.shape, np.r_[ring, ring[:1]], radius)
    total, union = np.maximum(total, thick), np.maximum(union, cover)
    scene.add(total, union, depth, index, albedo, chance(rng, 0.08))
    scene.mark("head", np.maximum(area(scene.shape, [(ring, 1)]), cover))
    return ring, radius


def placed(ring: Array, p: Plan) -> Array:
    """Move an outline to the end of the stem."""
    c, s = np.cos(p.angle), np.sin(p.angle)
    neck = np.array([p.tip_x - p.long, np.interp(p.tip_x - p.long, *p.stem.T)])
    return ring @ np.array([[c, s], [-s, c]]) + neck


def apertures(rng: np.random.Generator, flat: Array) -> list[Array]:
    """Return the holes of a film of an outline: one, a mesh, or none."""
    what = str(rng.choice(["one", "mesh", "solid"], p=[0.65, 0.2, 0.15]))
    middle = np.array([rng.uniform(0.45, 0.65), 0.0])
    if what == "one":
        return [middle + (flat - [0.5, 0]) * rng.uniform(0.25, 0.85)]
    if what == "solid":
        return []
    n, t = int(rng.integers(3, 7)), np.linspace(0, 2 * np.pi, 9)[:-1]
    spots = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) / (n - 1) - 0.5
    around = rng.uniform(0.15, 0.4) / n * np.c_[np.cos(t), np.sin(t)]
    return [middle + 0.6 * spot + around for spot in spots if abs(spot).sum() < 0.8]


def paddle(rng: np.random.Generator, p: Plan, half: Array) -> tuple[Array, list[Array]]:
    """Widen the stem to a disc with cut marks; return its half width and the marks."""
    u, v = p.stem.T
    size = min(0.3 * p.wide + 0.2 * (u[-1] - u[0]), 0.45 * (u[-1] - u[0]))
    at = u[0] + size * rng.uniform(0.2, 1.2)
    half = np.maximum(half, np.sqrt(np.maximum(size**2 - (u - at) ** 2, 0)))
    marks = []
    for k in range(int(rng.integers(0, 5))):
        middle = at, np.interp(at, u, v) + (k - 1.5) * 0.3 * size
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * rng.uniform(0.05, 0.18, (4, 2))
        marks.append(middle + corners * size)
    return half, marks


def film(rng: np.random.Generator, scene: Scene, p: Plan) -> tuple[Array, float]:
    """Add a film with apertures and its stem; return the outline and the film's half thickness."""
    family = str(rng.choice(["drop", "ellipse", "rect", "hexagon", "spade"]))
    flat = outline(rng, family)
    state = rng.bit_generator.state
    ring = placed(turned(rng, flat, p.long, p.wide, 0.12), p)
    slim = float(np.clip(np.ptp(ring[:, 1]) / max(p.wide, 1), 0.05, 1))
    parts = [(ring, 1)]
    for hole in apertures(rng, flat):
        again = np.random.default_rng()
        again.bit_generator.state = state  # warped and turned as the outline is
        parts.append((placed(turned(again, hole, p.long, p.wide, 0.12), p), 0))
    foot = min(p.wide * slim * log_between(rng, 0.1, 1.2), 1.6 * p.half)
    narrow = min(p.wide * slim * rng.uniform(0.05, 0.4), foot)
    part = np.linspace(1, 0, len(p.stem)) ** rng.uniform(0.6, 2.5)
    half = np.maximum(0.5 * (narrow + (foot - narrow) * part), 0.8)
    marks: list[Array] = []
    if chance(rng, 0.2):
        half, marks = paddle(rng, p, half)
    tail = band(p.stem, half)
    least = max(0.5 * p.long * log_between(rng, 0.008, 0.03), 0.5)
    cover = area(scene.shape, [(tail, 1), *((m, 0) for m in marks), *parts])
    edge = np.r_[ring, ring[:1]]
    bar = tube(scene.shape, edge, least)[1]
    cover = np.maximum(cover, bar)
    far = depth_in(cover)
    rim = max(least * rng.uniform(0.8, 3), 1.0)
    raised = rng.uniform(0, 1.5) * np.exp(-(((far - rim) / rim) ** 2))
    plate = np.clip(far / rim, 0, 1) * (1 + raised)
    stem, whole = area(scene.shape, [(tail, 1)]), area(scene.shape, [(ring, 1)])
    if chance(rng, 0.35):  # ridges along the stem
        ridges = np.sin(far / rng.uniform(0.6, 3)) * stem * (1 - whole)
        plate = plate * (1 + rng.uniform(0.1, 0.5) * ridges)
    thick = 2 * least * plate
    depth = rng.uniform(0.05, 0.5) * (1 + 0.6 * (1 / max(slim, 0.3) - 1))
    scene.add(thick, cover, depth, rng.uniform(0.5, 2.0), rng.uniform(0.3, 1.0))
    scene.mark("stem", stem)
    scene.mark("head", np.maximum(whole, bar))
    return ring, least


# ---------------------------------------------------------------------------- contents


def liquid(rng: np.random.Generator, scene: Scene, ring: Array) -> Array:
    """Add a drop or ice; return its outline."""
    middle = 0.5 * (ring.min(0) + ring.max(0))
    swell = rng.uniform(0.6, 1.0) if chance(rng, 0.65) else rng.uniform(1.0, 1.3)
    shape = middle + (ring - middle) * swell
    icy = chance(rng, 0.28)
    if icy:
        spikes = gaussian_filter1d(rng.normal(size=len(ring)), rng.uniform(0.7, 4), mode="wrap")
        shape = middle + (shape - middle) * (1 + rng.uniform(0.02, 0.1) * spikes)[:, None]
    cover = area(scene.shape, [(shape, 1)])
    far = depth_in(cover)
    most = max(float(far.max()), 1.0)
    edge = 1 - np.clip(far / (most * rng.uniform(0.4, 1.0)), 0, 1)
    height = most * log_between(rng, 0.15, 1.5)
    if icy:
        rough = grain(rng, scene.shape, log_between(rng, 1.2, 8))
        thick = cover * height * np.sqrt(1 - edge**2)
        thick = cover * np.maximum(thick + rng.uniform(0.3, 3) * rough, 0.1)
        scene.add(thick, cover, rng.uniform(0.6, 4), rng.uniform(0.3, 1), rng.uniform(0.4, 1))
    else:
        bulge = chance(rng, 0.7)
        thick = cover * height * (np.sqrt(1 - edge**2) if bulge else 0.3 + 0.7 * edge**2)
        index, albedo = rng.uniform(0.15, 0.7), rng.uniform(0.2, 0.8)
        scene.add(thick, cover, rng.uniform(0.0, 0.7), index, albedo)
        if bulge and chance(rng, 0.5):
            spot = np.exp(-((edge / rng.uniform(0.2, 0.7)) ** 2))
            scene.bright += (rng.uniform(0, 0.5) * cover * spot).astype(np.float32)
    scene.mark("content", cover)
    scene.mark("head", cover)
    return shape


def crystal(
    rng: np.random.Generator, scene: Scene, ring: Array, wide: float
) -> tuple[float, float]:
    """Add a crystal with facets of different slopes; return its rightmost corner."""
    low, high = ring.min(0), ring.max(0)
    long = max(high[0] - low[0], 5.0)
    n = int(rng.integers(4, 9))
    t = np.sort((np.arange(n) + rng.uniform(-0.35, 0.35, n)) * 2 * np.pi / n)
    size = 0.5 * max(min(long, max(wide, 5.0)) * rng.uniform(0.15, 0.85), 3.0)
    corners = np.c_[np.cos(t), np.sin(t) * log_between(rng, 0.15, 1.0)] * size
    a = rng.uniform(0, np.pi)
    corners = corners @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    center = 0.5 * (low + high) + np.clip(rng.normal(0, 0.12, 2), -0.3, 0.3) * (high - low)
    if chance(rng, 0.3):  # it sticks out
        center = ring[np.argmax(ring[:, 0])] - [rng.uniform(-0.5, 0.9) * corners[:, 0].max(), 0]
    corners = corners + center
    cover = area(scene.shape, [(corners, 1)])
    y, x = np.mgrid[: scene.shape[0], : scene.shape[1]].astype(np.float32)
    thick = np.full(scene.shape, size * rng.uniform(0.2, 1.2), np.float32)
    for p, q in zip(corners, np.roll(corners, -1, 0), strict=True):
        nx, ny = (q - p)[::-1] * (-1, 1) / (np.hypot(*(q - p)) + 1e-9)
        inward = (x - p[0]) * nx + (y - p[1]) * ny
        np.minimum(thick, np.maximum(inward, 0.3) * log_between(rng, 0.3, 4), out=thick)
    dark = rng.uniform(0.0, 0.8) if chance(rng, 0.7) else rng.uniform(1, 4)
    scene.add(thick * cover, cover, dark, rng.uniform(0.3, 1.2), rng.uniform(0.2, 1.0))
    scene.mark("content", cover)
    at = corners[np.argmax(corners[:, 0])]
    return float(at[0]), float(at[1])


def mount(rng: np.random.Generator, scene: Scene, kind: str) -> Any:
    """Add a mount; return its tip, the end of its pin, the tip of a crystal and the box."""
    p = plan(rng, scene.shape, kind)
    body, end = pin(rng, scene, p, kind == "pin")
    if kind == "pin":
        column = int(np.clip(p.tip_x - 0.6 * p.half, 0, scene.shape[1] - 1))
        rows = np.flatnonzero(body[:, column] > 0.45)
        low, high = (rows[0], rows[-1]) if len(rows) else (p.row - p.half, p.row + p.half)
        return end, NOWHERE, NOWHERE, (-0.5, float(low) - 0.5, end[0], float(high) + 0.5)
    ring, extra = (nylon if kind == "nylon" else film)(rng, scene, p)
    whole, second = np.r_[ring - extra, ring + extra], NOWHERE
    at = ring[np.argmax(ring[:, 0])] + [extra, 0]
    if chance(rng, 0.45):
        drop = liquid(rng, scene, ring)
        whole, at = np.r_[whole, drop], max(at, drop[np.argmax(drop[:, 0])], key=lambda v: v[0])
    if chance(rng, 0.4):
        ends = [crystal(rng, scene, ring, p.wide) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        far = max(ends)
        if far[0] > at[0] + 1:
            second = far
    scene.masks[1] &= ~scene.masks[0]
    tip, box = tuple(at.tolist()), (*whole.min(0).tolist(), *whole.max(0).tolist())
    return tip, end, second, box


# ---------------------------------------------------------------------------- the light


@functools.cache
def photo(name: str) -> Array:
    """Return a bundled photograph, small and gray."""
    with Image.open(Path(skimage.data.__file__).parent / name) as picture:
        small = picture.convert("L")
        small.thumbnail((512, 512))
        return np.asarray(small, np.float32)


def backdrop(rng: np.random.Generator, shape: tuple[int, int], mode: str) -> Array:
    """Return the light behind the mount: flat, with lamps, mottled, or a photograph."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    ranges = {"back": (80, 245), "front": (8, 130), "dark": (2, 45)}
    level = rng.uniform(*ranges[mode])
    light = 1 + rng.normal(0, 0.12) * x + rng.normal(0, 0.12) * y
    if chance(rng, 0.5):
        light = light - rng.uniform(0, 0.4) * (x**2 + y**2)
    what = rng.choice(["flat", "lamps", "noise", "photo"], p=[0.45, 0.15, 0.15, 0.25])
    if what == "lamps":
        for _ in range(rng.integers(1, 4)):
            cx, cy, size = rng.uniform(-1, 1), rng.uniform(-1, 1), log_between(rng, 0.1, 1)
            far = np.hypot(x - cx, y - cy) / size
            soft = np.exp(-(far ** (2 if chance(rng, 0.6) else rng.uniform(4, 14))))
            light = light + rng.uniform(-0.4, 0.8) * soft
    elif what == "noise":
        for _ in range(rng.integers(1, 4)):
            size = log_between(rng, 4, 150)
            strength = rng.uniform(0.01, 0.12) * min(1.0, (size / 25) ** 0.7)
            light = light + strength * grain(rng, shape, size)
    elif what == "photo":
        whole = photo(str(rng.choice(PHOTOS)))
        part = [max(int(n * rng.uniform(0.25, 1)), 40) for n in whole.shape]
        r, c = (rng.integers(0, n - k + 1) for n, k in zip(whole.shape, part, strict=True))
        piece = Image.fromarray(whole[r : r + part[0], c : c + part[1]])
        view = np.asarray(piece.resize(shape[::-1], Image.Resampling.BILINEAR))
        view = gaussian_filter(view, rng.uniform(0, 15), truncate=2.5)
        light = light + log_between(rng, 0.03, 0.5) * (view - view.mean()) / (view.std() + 3)
    return np.clip(level * light, 0, 255).astype(np.float32)


def formed(rng: np.random.Generator, scene: Scene, mode: str, force: float) -> tuple[Array, Array]:
    """Return what part of the light behind passes the bodies, and the light they send."""
    height = gaussian_filter(scene.phase, rng.uniform(0.4, 1.0), truncate=3)
    gy, gx = np.gradient(height)
    slope = np.hypot(gx, gy)
    steep = slope / (slope + rng.uniform(0.3, 1.5) / force)
    depth, faint = scene.tau * force + 6 * scene.solid, min(force, 1.0)
    direction = rng.uniform(0, 2 * np.pi)
    lit = np.array([np.cos(direction), np.sin(direction), rng.uniform(0.3, 2)])
    lit /= np.hypot(*lit[:2]) + lit[2]
    up = 1 / np.sqrt(1 + slope**2)
    lambert = np.clip((-gx * lit[0] - gy * lit[1] + lit[2]) * up, 0, 1)
    shiny = lambert ** rng.uniform(6, 40) * rng.uniform(0, 1)
    if mode == "back":
        passed = np.exp(-depth) * (1 - rng.uniform(0.15, 0.95) * faint * steep)
        wide = gaussian_filter(height, log_between(rng, 0.3, 3), truncate=3)
        fringe = np.tanh(force * 2 * laplace(wide))
        passed = (
            passed
            - rng.normal(0, 0.25) * faint * fringe * (1 - scene.solid)
            + scene.bright * passed
        )
        sent = scene.solid * (rng.uniform(0, 30) + chance(rng, 0.6) * rng.uniform(0, 90) * lambert)
        sent = sent + scene.solid * chance(rng, 0.4) * rng.uniform(0, 200) * shiny
        return np.clip(passed, 0, 2), sent
    seen = np.clip(1 - np.exp(-depth), 0, 1)
    if mode == "front":
        gain = rng.uniform(90, 230)
        sent = gain * seen * scene.albedo * (rng.uniform(0.05, 0.4) + lambert)
        some = np.maximum(scene.solid, np.minimum(height, 1))
        sent = sent + gain * shiny * some * np.clip(slope * 3, 0, 1)
        sent = sent + rng.uniform(0, 0.5) * faint * gain * steep * (1 - scene.solid)
        return 1 - seen, sent
    sent = rng.uniform(60, 260) * faint * steep ** rng.uniform(1, 2.5) * (1 - 0.8 * scene.solid)
    sent = sent + scene.solid * (rng.uniform(0, 60) + rng.uniform(0, 160) * shiny)
    return 1 - rng.uniform(0.2, 1) * seen, sent + rng.uniform(0, 40) * seen * scene.albedo


def lighted(rng: np.random.Generator, scene: Scene, mode: str, force: float) -> tuple[Array, Array]:
    """Form the picture in one or two lights, out of focus."""
    passed, sent = formed(rng, scene, mode, force)
    if chance(rng, 0.25):
        more = formed(rng, scene, str(rng.choice(["back", "front", "dark"])), force)
        part = rng.uniform(0.5, 0.9)
        passed = part * passed + (1 - part) * more[0]
        sent = part * sent + (1 - part) * more[1]
    blur = log_between(rng, 0.3, 3.0)
    passed, sent = blurred(blur, passed, sent)
    return passed, sent


def blurred(size: float, *maps: Array) -> list[Array]:
    """Put maps out of focus."""
    return [gaussian_filter(v, size, truncate=3) for v in maps]


# ---------------------------------------------------------------------------- clutter


def entering(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return pixels along and across a way that enters through a border."""
    height, width = shape
    side = str(rng.choice(["top", "bottom", "right", "left"], p=[0.37, 0.37, 0.2, 0.06]))
    at, lean = rng.uniform(0, 1), rng.normal(0, 0.35)
    x0, y0, angle = {
        "top": (at * width, -3.0, np.pi / 2), "bottom": (at * width, height + 3.0, -np.pi / 2),
        "left": (-3.0, at * height, 0.0), "right": (width + 3.0, at * height, np.pi),
    }[side]  # fmt: skip
    c, s = np.cos(angle + lean), np.sin(angle + lean)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s


def nozzle(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return a cone with an open mouth: its cover, what passes it and what it sends."""
    along, across = entering(rng, shape)
    reach, mouth = rng.uniform(0.06, 0.4) * shape[0], shape[0] * log_between(rng, 0.025, 0.09)
    half = mouth + np.maximum(reach - along, 0) * rng.uniform(0.2, 0.8)
    lip = reach + rng.uniform(0.1, 0.4) * mouth * np.sqrt(np.maximum(1 - (across / mouth) ** 2, 0))
    cover = np.clip(half - abs(across) + 0.5, 0, 1) * np.clip(lip - along + 0.5, 0, 1)
    place = np.clip(across / half, -1, 1)
    light = np.clip(np.cos(2 * (place - rng.uniform(-0.5, 0.5))), 0, 1) ** rng.uniform(1, 5)
    level = rng.uniform(2, 60) + rng.uniform(10, 150) * light
    inside = ((along - reach) / (0.35 * mouth)) ** 2 + (across / (0.8 * mouth)) ** 2 < 1
    level = np.where(inside, (float(level.mean()) + rng.uniform(70, 180)) % 256, level)
    return cover, 1 - cover, cover * level


def capillary(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return a translucent tube: two dark lines with a lighter middle."""
    along, across = entering(rng, shape)
    half, reach = shape[0] * log_between(rng, 0.012, 0.1), rng.uniform(0.1, 1.3) * shape[0]
    cover = np.clip(half - abs(across) + 0.5, 0, 1) * np.clip(reach - along + 0.5, 0, 1)
    wall = np.exp(-(((abs(across) - 0.85 * half) / max(0.12 * half, 0.7)) ** 2))
    taken = cover * (rng.uniform(0.3, 0.9) * wall + rng.uniform(0.02, 0.2))
    return cover, 1 - taken, taken * rng.uniform(0, 120) * chance(rng, 0.4)


def stop(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return a small disc on a wire."""
    along, across = entering(rng, shape)
    reach, size = rng.uniform(0.15, 0.8) * shape[0], shape[0] * log_between(rng, 0.012, 0.06)
    wire = np.clip(rng.uniform(0.4, 1.6) - abs(across) + 0.5, 0, 1) * (along < reach)
    disc = np.clip(size - np.hypot(along - reach, across) + 0.5, 0, 1)
    cover = np.maximum(wire, disc)
    return cover, 1 - cover, cover * rng.uniform(0, 80)


def unsharp(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return something far out of focus."""
    height, width = shape
    t = np.linspace(0, 2 * np.pi, 20)
    size = height * log_between(rng, 0.03, 0.3) * rng.uniform(0.3, 1, 2)
    ring = rng.random(2) * (width, height) + np.c_[np.cos(t), np.sin(t)] * size
    few = area((height // 4, width // 4), [(ring / 4, 1)])
    few = gaussian_filter(few, rng.uniform(1.5, 5))
    big = Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)
    cover = np.clip(np.asarray(big), 0, 1) * rng.uniform(0.2, 1)
    return cover, 1 - cover, cover * rng.uniform(0, 220)


def rounds(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return dust, bubbles or ghosts of the lens: discs and rings."""
    what = str(rng.choice(["dust", "bubble", "ghost"]))
    taken, cover = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    count = {"dust": rng.integers(2, 9), "bubble": rng.integers(1, 5), "ghost": 1}[what]
    for _ in range(count):
        low, high = {"dust": (0.7, 3), "bubble": (3, 14), "ghost": (15, 90)}[what]
        size = log_between(rng, low, high)
        far = np.hypot(x - rng.uniform(0, shape[1]), y - rng.uniform(0, shape[0])) / size
        disc = np.clip((1 - far) * size + 0.5, 0, 1)
        if what == "dust":
            taken += disc * rng.uniform(0.2, 0.9)
        else:
            edge = np.exp(-(((far - 1) * size / rng.uniform(0.8, 2.5)) ** 2))
            soft = 0.05 if what == "ghost" else 0.6
            taken += soft * (edge * rng.uniform(0.3, 1.2) - disc * rng.uniform(0, 0.6))
        cover = np.maximum(cover, disc)
    return cover, np.clip(1 - taken, 0, 1.5), np.zeros(shape, np.float32)


def overlay(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return burnt-in text, a cross hair, a black border or thin ghost lines."""
    height, width = shape
    picture = Image.new("L", (width, height))
    draw = ImageDraw.Draw(picture)
    what = str(rng.choice(["text", "cross", "border", "line"]))
    level, strength = rng.choice([0.0, 255.0, rng.uniform(0, 255)]), 1.0
    if what == "text":
        for _ in range(rng.integers(1, 3)):
            words = "".join(rng.choice(list("0123456789.:-/ SAMPLExyz"), rng.integers(3, 24)))
            place = rng.uniform(0, 0.7) * width, rng.choice([0.01, 0.04, 0.9, 0.94]) * height
            draw.text(place, words, fill=255, font_size=int(rng.integers(8, 20)))
    elif what == "cross":
        x, y = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65)
        arm = rng.choice([width, rng.uniform(5, 40)])
        draw.line([(x - arm, y), (x + arm, y)], fill=255, width=int(rng.integers(1, 3)))
        draw.line([(x, y - arm), (x, y + arm)], fill=255, width=int(rng.integers(1, 3)))
        if chance(rng, 0.4):
            r = rng.uniform(5, 40)
            draw.ellipse([x - r, y - r, x + r, y + r], outline=255)
    elif what == "border":
        top, side = rng.integers(0, 9, 2)
        draw.rectangle([0, 0, width, height], fill=255)
        draw.rectangle([0, top, width - 1 - side, height - 1 - rng.integers(0, 9)], fill=0)
        level = 0.0
    else:
        ends = [tuple(v) for v in (rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)).tolist()]
        draw.line(ends, fill=255, width=int(rng.integers(1, 4)))
        strength = rng.uniform(0.1, 0.6)
    cover = np.asarray(picture, np.float32) / 255.0
    return cover, 1 - strength * cover, strength * cover * level


def field_stop(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return a round stop that leaves the middle of the picture, or a lamp's soft reflection."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    center = np.array(shape[::-1]) * (0.5 + rng.normal(0, 0.04, 2))
    if chance(rng, 0.5):
        far = np.hypot(x - center[0], y - center[1])
        soft = log_between(rng, 0.5, 12)
        cover = np.clip((far - rng.uniform(0.47, 0.6) * shape[1]) / soft + 0.5, 0, 1)
        return cover, 1 - cover, cover * rng.uniform(0, 20)
    a, center = rng.uniform(0, np.pi), rng.random(2) * shape[::-1]
    u = (x - center[0]) * np.cos(a) + (y - center[1]) * np.sin(a)
    v = (y - center[1]) * np.cos(a) - (x - center[0]) * np.sin(a)
    glow = np.exp(-((u / log_between(rng, 6, 120)) ** 2) - (v / log_between(rng, 2, 20)) ** 2)
    return glow, np.ones(shape, np.float32), glow * rng.uniform(30, 160)


CLUTTER = {
    nozzle: 0.22, capillary: 0.14, stop: 0.1, unsharp: 0.14, rounds: 0.16, overlay: 0.16,
    field_stop: 0.08,
}  # fmt: skip
THIN = (rounds, overlay)  # these take nothing out of the mount's masks


def cluttered(
    rng: np.random.Generator, gray: Array, masks: Array, tip: tuple[float, float], before: bool
) -> Array:
    """Put one to three things that are no mount before or behind the rest; not over the tip."""
    height, width = gray.shape
    for _ in range(rng.integers(1, 4)):
        what = list(CLUTTER)[rng.choice(len(CLUTTER), p=list(CLUTTER.values()))]
        cover, passed, sent = what(rng, (height, width))
        if what not in (overlay, unsharp) and chance(rng, 0.6):
            blur = log_between(rng, 0.5, 5)
            cover, passed, sent = blurred(blur, cover, passed, sent)
        if before and np.isfinite(tip[0]):
            r, c = max(round(tip[1]), 0), max(round(tip[0]), 0)
            near = np.s_[max(r - 8, 0) : r + 9, max(c - 8, 0) : c + 9]
            if cover[near].size and cover[near].max() > 0.05:
                continue
        opaque = (cover > 0.5) & (passed < 0.3)
        if before and what not in THIN:
            body = masks[:3].any(0)
            if (opaque & body).sum() > 0.4 * body.sum():
                continue
        gray = gray * passed + sent
        masks[4] |= cover > 0.4
        if before and what not in THIN:
            masks[:4] &= ~opaque
    return gray


# ---------------------------------------------------------------------------- the picture


def relief(rng: np.random.Generator) -> Sample:
    """Make one picture, the mount entering at the left."""
    aspect = rng.uniform(1.0, 1.5)
    width = int(np.sqrt(PIXELS * aspect) * rng.uniform(0.85, 1.05))
    shape = int(width / aspect), width
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    mode = str(rng.choice(["back", "front", "dark"], p=[0.58, 0.27, 0.15]))
    gray = backdrop(rng, shape, mode)
    scene, busy = Scene(shape), chance(rng, 0.7 if kind == "none" else 0.45)
    if busy and chance(rng, 0.6):
        gray = cluttered(rng, gray, scene.masks, NOWHERE, before=False)
    tip, begin, second, box = NOWHERE, NOWHERE, NOWHERE, NO_BOX
    if kind != "none":
        tip, begin, second, box = mount(rng, scene, kind)
        gray = shown(rng, scene, gray, mode, tip)
    if busy:
        gray = cluttered(rng, gray, scene.masks, tip, before=True)
    scene.masks[4] &= ~scene.masks[:3].any(0)
    gray = np.clip(gray, 0, 255).astype(np.float64)
    side = "none" if kind == "none" else "left"
    return Sample(gray, scene.masks, kind, side, tip, begin, second, box)


def shown(
    rng: np.random.Generator, scene: Scene, gray: Array, mode: str, tip: tuple[float, float]
) -> Array:
    """Light the mount, stronger until its tip is seen."""
    r, c = round(tip[1]), round(tip[0])
    inside = 0 <= r < scene.shape[0] and 0 <= c < scene.shape[1]
    wanted = log_between(rng, 4.0, 30.0)
    force, best, most = log_between(rng, 0.2, 1.2), gray, -1.0
    for _ in range(5):
        passed, sent = lighted(rng, scene, mode, force)
        out = gray * passed + sent
        near = np.s_[max(r - 2, 0) : r + 3, max(c - 4, 0) : c + 2]
        seen = float(abs(np.clip(out, 0, 255) - gray)[near].mean()) if inside else np.inf
        if seen > most:
            best, most = out, seen
        if seen >= wanted:
            break
        force *= 2.0
    return best
