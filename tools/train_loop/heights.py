"""The bodies of `relief`: maps of the thickness of pins, stems, loops, films and what they hold."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from names import MASKS
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sample import NOWHERE
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d
from scipy.spatial import cKDTree

Array = NDArray[Any]
KINDS = {"nylon": 0.42, "mitegen": 0.34, "pin": 0.13, "none": 0.11}
FINE = 3  # polygons are drawn this many times larger
PIXELS = 130_000.0


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


def blurred(size: float, *maps: Array) -> list[Array]:
    """Put maps out of focus."""
    return [gaussian_filter(v, size, truncate=3) for v in maps]
