"""The bodies of `traced`: pins, stems, loops, films, drops and crystals, and how rays meet them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rays
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rays import CLEAR, CONTENT, HEAD, OPAQUE, PIN, STEM
from sample import NO_BOX, NOWHERE
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Floats = NDArray[np.float64]


def spread(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw evenly in the logarithm."""
    return low * float((high / low) ** rng.random())


def waves(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> Floats:
    """Return smooth random values of unit spread, three octaves of them."""
    out = np.zeros(shape)
    for octave in range(3):
        cells = [max(int(n * 2**octave / size), 2) for n in shape]
        small = Image.fromarray(rng.normal(size=cells).astype(np.float32))
        out += np.asarray(small.resize(shape[::-1], Image.Resampling.BICUBIC)) / 1.7**octave
    return out / (out.std() + 1e-9)


@dataclass
class Stage:
    """Lamps, background, and what the rays have met so far."""

    rng: np.random.Generator
    width: int
    height: int
    scale: int = 2
    layer: Any = field(init=False)
    bits: Any = field(init=False)
    depth: Any = field(init=False)

    def __post_init__(self) -> None:
        """Draw the light."""
        rng = self.rng
        self.clear_away()
        how = str(rng.choice(["bright", "front", "ring", "mixed"], p=[0.52, 0.18, 0.16, 0.14]))
        ranges = {"bright": (95, 245), "front": (8, 120), "ring": (4, 60), "mixed": (60, 180)}
        self.level = float(rng.uniform(*ranges[how]))
        size = spread(rng, 0.06, 1.3) if how in ("bright", "mixed") else 1.5
        side = size * rng.uniform(0, 0.9) * (rng.random() < 0.4)
        angle = rng.uniform(0, 2 * np.pi)
        self.behind = np.array(
            [side * np.cos(angle), side * np.sin(angle), size, size * spread(rng, 0.04, 0.4), 0.0,
             self.level * (1.0 if how != "ring" else 0.3)]
        )  # fmt: skip
        inner = spread(rng, 0.08, 0.6)
        offset = inner * rng.normal(0, 0.4, 2)
        outer = inner * rng.uniform(1.4, 4)
        self.glow = np.array([offset[0], offset[1], outer, 0.08 * inner, inner, 0.0])
        faint = {"bright": 0.0, "front": 90.0, "ring": 330.0, "mixed": 40.0}[how]
        self.strength = faint * rng.uniform(0.5, 1.2)
        self.far = spread(rng, 20, 300)
        power = {"bright": 14.0, "front": 260.0, "ring": 110.0, "mixed": 150.0}[how]
        toward = rng.normal(size=(rng.integers(1, 5), 3)) * [1, 1, 0.5] - [0, 0, rng.uniform(0, 1)]
        toward[:, 2] = -abs(toward[:, 2])
        toward /= np.linalg.norm(toward, axis=1)[:, None]
        self.lights = np.c_[toward, power * rng.uniform(0.2, 1.2, len(toward))]
        self.rough = np.zeros((3, 256, 256))

    def clear_away(self) -> None:
        """Begin with an empty scene."""
        size = self.height * self.scale, self.width * self.scale
        self.layer = np.zeros((4, *size), np.float32)
        self.layer[2] = 1.0
        self.bits = np.zeros(size, np.uint8)
        self.depth = np.zeros(size, np.float32)

    def metal(self) -> Floats:
        """Return how an opaque surface shines."""
        rng = self.rng
        mirror = rng.uniform(0.0, 0.5) * (rng.random() < 0.6)
        ambient = rng.uniform(0, 45) * (rng.random() < 0.8)
        return np.array(
            [rng.uniform(0.05, 0.7), rng.uniform(0, 1.5), spread(rng, 3, 80), mirror, ambient, 0.7]
        )

    def glass(self) -> Floats:
        """Return how a clear surface shines; a Fresnel part of it is added."""
        rng = self.rng
        return np.array([rng.uniform(0, 1), rng.uniform(2, 25), spread(rng, 4, 80), 1.0, 0.0, 0.5])

    def solid(
        self, frame: Any, shape: Any, bit: int, look: Any, index: float = 0.0, clear: float = 0.0
    ) -> None:
        """Trace a body of elliptic sections: opaque without an index of refraction."""
        shape[:2] = np.maximum(shape[:2], 0.05)
        rays.meet_solid(
            self.layer, self.bits, tuple(float(v) for v in frame), np.ascontiguousarray(shape),
            CLEAR if index else OPAQUE, float(index or 1.5), float(clear), look, self.lights,
            self.behind, self.rough, bit, self.scale,
        )  # fmt: skip

    def tube(self, points: Floats, radius: float, bit: int, index: float, clear: float) -> None:
        """Trace a fiber."""
        rays.meet_tube(
            self.layer, self.bits, self.depth, np.ascontiguousarray(points), radius, index, clear,
            self.glass(), self.lights, self.behind, bit, self.scale,
        )  # fmt: skip

    def developed(self, ground: Floats) -> Floats:
        """Return the picture before a background."""
        args = self.behind, self.glow, self.strength, self.far, self.scale
        return np.asarray(rays.developed(self.layer, ground, *args))

    def seen(self, bit: int) -> NDArray[np.bool_]:
        """Return which pixels a part covers at least half."""
        part = ((self.bits & bit) > 0).view(np.uint8)
        return (part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2]) >= 2


def ground_of(rng: np.random.Generator, stage: Stage) -> Floats:
    """Return the background: gradient, vignette, cloth, bodies far out of focus."""
    height, width = stage.height, stage.width
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    gray = 1 + rng.normal(0, 0.08) * x + rng.normal(0, 0.08) * y
    if rng.random() < 0.5:
        cx, cy = rng.normal(0, 0.4, 2)
        gray = gray * (1 - rng.uniform(0, 0.3) * ((x - cx) ** 2 + (y - cy) ** 2) / 2)
    if rng.random() < 0.08:
        cells = np.sin(rng.uniform(8, 60) * (x + 0.3 * y)) * np.sin(rng.uniform(8, 60) * (y - x))
        gray = gray * (1 + rng.uniform(0.004, 0.03) * np.tanh(3 * cells))
    if rng.random() < 0.25:
        gray = gray * (1 + rng.uniform(0.005, 0.035) * waves(rng, gray.shape, spread(rng, 15, 250)))
    if rng.random() < 0.25:
        spots = np.zeros((height // 4 + 1, width // 4 + 1))
        yy, xx = np.ogrid[: spots.shape[0], : spots.shape[1]]
        for _ in range(rng.integers(1, 7)):
            far = np.hypot(xx - rng.uniform(0, width / 4), yy - rng.uniform(0, height / 4))
            spots += rng.uniform(-0.5, 0.6) * (far < spread(rng, 0.02, 0.25) * height / 4)
        soft = gaussian_filter(spots, rng.uniform(1, 7)).astype(np.float32)
        large = Image.fromarray(soft).resize((width, height), Image.Resampling.BILINEAR)
        gray = gray * np.maximum(1 + np.asarray(large), 0.1)
    return np.maximum(stage.level * gray, 0.0)


def half_widths(rng: np.random.Generator, u: Floats, film: bool) -> Floats:
    """Return the half width of a head along it, 0 at the neck and the tip, 1 where widest."""
    style = rng.choice(["drop", "ellipse", "hexagon", "spade", "paddle"]) if film else "drop"
    if style == "ellipse":
        h = np.sqrt(np.clip(1 - (2 * u - 1) ** 2, 0, 1)) ** rng.uniform(0.7, 1.1)
    elif style in ("hexagon", "spade"):
        a = np.sort(rng.uniform(0.15, 0.9, 2))
        h = np.interp(u, [0, a[0], a[1], 1], [0.1, rng.uniform(0.8, 1), 1, rng.uniform(0, 0.6)])
        if style == "spade":
            h = np.interp(u, [0, a[0], 1], [0.05, 1, 0.02])
        h = gaussian_filter1d(h, len(u) * rng.uniform(0.005, 0.04), mode="nearest")
    elif style == "paddle":
        h = np.clip(1 - np.abs(2 * u - 1) ** rng.uniform(4, 12), 0, 1) ** 0.5
        h = h * (1 + rng.uniform(-0.4, 0.4) * u)
    else:
        a, b = rng.uniform(0.35, 1.6), rng.uniform(0.35, 0.65)
        h = u**a * (1 - u) ** b
        if rng.random() < 0.3:
            h = h * (
                1 + rng.uniform(0.03, 0.2) * np.sin(rng.uniform(4, 14) * u + rng.uniform(0, 6))
            )
    return h / h.max()


def curve_of(rng: np.random.Generator, u: Floats, long: float) -> Floats:
    """Return how a stem leaves its axis: straight, bent, of S shape or kinked."""
    style = rng.choice(["straight", "bent", "s", "kinked"], p=[0.45, 0.25, 0.15, 0.15])
    if style == "bent":
        return rng.normal(0, 0.2) * u**2 * long
    if style == "s":
        return rng.normal(0, 0.06) * np.sin(np.pi * 2 * u) * u * long
    if style == "kinked":
        kink = np.maximum(u - rng.uniform(0.2, 0.8), 0)
        return gaussian_filter1d(rng.normal(0, 0.35) * kink * long, 3, mode="nearest")
    return rng.normal(0, 0.05) * u * long


@dataclass
class Plan:
    """A mount's geometry, the end of its pin at the origin until it is placed."""

    long: float
    face: float
    stem: float
    turn: float
    slope: float
    neck: Floats
    course: Floats
    half: Floats
    swell: float
    thick: float
    drop: bool
    frost: Floats


def planned(rng: np.random.Generator, width: int, height: int, film: bool) -> Plan:
    """Draw the geometry of stem and head."""
    long = width * spread(rng, 0.05, 0.7)
    face = min(long * rng.uniform(0.4, 1.1), 0.85 * height)
    stem = long * spread(rng, 0.15, 4.0)
    turn = np.pi / 2 + rng.normal(0, 0.06) if rng.random() < 0.15 else rng.uniform(0, np.pi)
    u = np.linspace(0, 1, 100)
    course = curve_of(rng, u, stem)
    slope = float(np.clip((course[-1] - course[-4]) / (3 * stem / 99), -0.6, 0.6))
    slope += 0 if film else rng.normal(0, 0.12)
    neck = np.array([stem, course[-1]])
    half = 0.5 * face * half_widths(rng, np.linspace(0, 1, 160), film)
    swell = rng.uniform(0.75, 1.0) if rng.random() < 0.6 else rng.uniform(1.0, 1.3)
    thick = spread(rng, 0.1, 0.9)
    drop = rng.random() < 0.4
    frost = gaussian_filter1d(rng.normal(size=160), spread(rng, 0.7, 4)) * (rng.random() < 0.3)
    frost = 1 + rng.uniform(0.02, 0.12) * np.clip(frost, -2, 2)
    return Plan(long, face, stem, turn, slope, neck, course, half, swell, thick, drop, frost)


def ring_of(rng: np.random.Generator, plan: Plan) -> Floats:
    """Return the loop's curve (n, 3) from the pin's end: twisted, wavy, crossed, turned."""
    u = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 90))
    h = np.interp(u, np.linspace(0, 1, 160), plan.half)
    if rng.random() < 0.2:
        h = h * np.tanh((u - rng.uniform(0.05, 0.2)) / 0.05)
    v = np.r_[h * rng.uniform(0.8, 1.1), -h[::-1]]
    u = np.r_[u, u[::-1]]
    q = rng.normal(0, 0.04) * plan.face * np.sin(rng.uniform(3, 9) * u) + 0.01 * v
    twist = rng.normal(0, 0.5) * (rng.random() < 0.4) * (u - 0.5) + plan.turn
    p, z = v * np.cos(twist) - q * np.sin(twist), v * np.sin(twist) + q * np.cos(twist)
    a = np.arctan(plan.slope)
    s = u * plan.long
    return np.c_[
        plan.neck[0] + s * np.cos(a) - p * np.sin(a),
        plan.neck[1] + s * np.sin(a) + p * np.cos(a),
        z,
    ]


def drop_of(plan: Plan) -> tuple[Floats, Floats]:
    """Return the profile (3, n) of a drop in the head, and its outline in the picture."""
    n = 160
    u = np.linspace(0, 1, n)
    w = np.maximum(plan.half * plan.swell * plan.frost, 0.05)
    t = w * plan.thick + 0.05
    shift = 0.5 * (1 - plan.swell) * plan.long
    s, reach = (
        u * plan.long * plan.swell + shift,
        np.hypot(w * np.cos(plan.turn), t * np.sin(plan.turn)),
    )
    wide = reach > 0.3
    outline = np.r_[np.c_[s, reach][wide], np.c_[s, -reach][wide]]
    outline = rotated(outline, float(np.arctan(plan.slope))) + plan.neck
    return np.stack([w, t, np.zeros(n)]), outline


def film_of(
    rng: np.random.Generator, plan: Plan, step: float
) -> tuple[Floats, Floats, float, float]:
    """Return the profile (4, n) of film and stem from 8 px within the pin, outline, bow, bar."""
    total = 8 + plan.stem + plan.long
    s = np.arange(0, total, step)
    u = (s - 8 - plan.stem) / plan.long
    narrow = 0.5 * plan.face * rng.uniform(0.06, 0.35)
    foot = narrow * spread(rng, 1.0, 3.5)
    part = np.clip(1 - (s - 8) / plan.stem, 0, 1) ** rng.uniform(0.6, 2)
    head = np.interp(u, np.linspace(0, 1, 160), plan.half, left=0, right=0)
    w = np.where(u < 0.12, np.maximum(head, narrow + (foot - narrow) * part), head)
    w = np.maximum(w, 0.05)
    course = np.interp((s - 8) / plan.stem, np.linspace(0, 1, 100), plan.course)
    course = course + np.maximum(s - 8 - plan.stem, 0) * plan.slope
    rim = rng.uniform(0.08, 0.5)
    open_ = (u > rim) & (u < 1 - rng.uniform(0.05, 0.3)) & (rng.random() < 0.85)
    hole = np.where(open_, w * (1 - rim), -(w + 1))
    ends = np.clip((u - rim) / 0.15, 0, 1) * np.clip((1 - u) / 0.2, 0, 1)
    hole = np.where(open_, hole * np.sqrt(ends) - 0.5, hole)
    if rng.random() < 0.2:
        hole = np.where((u < 0) & (w > 3), w * rng.uniform(0.2, 0.6), hole)
    bow = rng.uniform(-0.8, 0.8) / max(plan.face, 10) * (rng.random() < 0.7)
    bar = spread(rng, 0.02, 0.06) * plan.face * (rng.random() < 0.2)
    parts = np.linspace(-1, 1, 9)
    v = np.concatenate([part * w for part in parts])
    sss, mid = np.tile(s, 9), np.tile(course, 9)
    p = v * np.cos(plan.turn) - bow * v**2 * np.sin(plan.turn)
    outline = np.c_[sss - 8, mid + p]
    return np.stack([w, hole, course, np.gradient(w, step)]), outline[np.tile(u > 0, 9)], bow, bar


def rotated(points: Floats, angle: float) -> Floats:
    """Turn points (n, 2 or 3) about z."""
    c, s = np.cos(angle), np.sin(angle)
    out = points.copy()
    out[:, 0], out[:, 1] = c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1]
    return out


def pin_profile(rng: np.random.Generator, length: float, radius: float) -> Floats:
    """Return the profile (3, n) of a pin that ends at the last place: steps, chamfer, cone."""
    u = np.arange(0, max(length, 4) + 1.0) - max(length, 4)
    r = np.full(len(u), radius)
    if rng.random() < 0.35:
        r[u < -radius * spread(rng, 0.8, 8)] *= rng.uniform(1.1, 2.0)
    if rng.random() < 0.25:
        r *= 1 + rng.uniform(0.01, 0.06) * gaussian_filter1d(rng.normal(size=len(r)), 1.2)
    style = rng.choice(["flat", "chamfer", "cone", "round"], p=[0.4, 0.25, 0.2, 0.15])
    reach = radius * (rng.uniform(2, 8) if style == "cone" else rng.uniform(0.1, 0.8))
    near = np.clip(1 + u / reach, 0, 1)
    if style in ("chamfer", "cone"):
        r = r * (1 - near * rng.uniform(0.3, 0.75))
    if style == "round":
        r = r * np.sqrt(np.maximum(1 - near**2, 0.02))
    if rng.random() < 0.2:
        r[u < -radius * rng.uniform(0.1, 1)] *= rng.uniform(1.02, 1.1)
    return np.stack([r, r, np.zeros(len(u))])


def trace_pin(stage: Stage, end: Floats, angle: float, radius: float) -> None:
    """Trace a pin of metal, or a capillary of glass, from the left border to its end."""
    rng = stage.rng
    length = (end[0] + 40) / np.cos(angle)
    if length < 4:
        return
    shape = pin_profile(rng, length, radius)
    start = end - length * np.array([np.cos(angle), np.sin(angle)])
    frame = (start[0], start[1], np.cos(angle), np.sin(angle), 1.0, 0.0, 1.0)
    if rng.random() < 0.1:
        index = rng.uniform(1.3, 1.55)
        stage.solid(frame, shape.copy(), PIN, stage.glass(), index, spread(rng, 0.001, 0.05))
        inner = shape * rng.uniform(0.3, 0.85)
        stage.solid(frame, inner, PIN, stage.glass(), 1 / index if rng.random() < 0.6 else 0.95)
        return
    if rng.random() < 0.6:
        stage.rough[2, 0] = rng.normal(0, spread(rng, 0.01, 0.25), 256)
    if rng.random() < 0.3:
        stage.rough[:2] = rng.normal(0, spread(rng, 0.02, 0.3), (2, 256, 256))
        soft = rng.uniform(0.5, 2)
        stage.rough[:2] = gaussian_filter(stage.rough[:2], (0, soft, soft), mode="wrap")
    stage.solid(frame, shape, PIN, stage.metal())
    stage.rough = np.zeros((3, 256, 256))


def trace_crystals(stage: Stage, middle: Floats, plan: Plan, at: Floats) -> None:
    """Trace one to three crystals near the middle of a head; they may stick out at its tip."""
    rng = stage.rng
    most = min(plan.long, max(plan.face * abs(np.cos(plan.turn)), 0.3 * plan.face))
    for _ in range(rng.integers(1, 4)):
        size = most * rng.uniform(0.08, 0.36)
        count = rng.integers(4, 8)
        angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.15, count)
        sides = np.c_[np.cos(angle), np.sin(angle), np.zeros(count), rng.uniform(0.7, 1, count)]
        caps = np.c_[rng.normal(0, 0.2, (2, 2)), [1, -1], np.full(2, spread(rng, 0.4, 2.2))]
        extra = np.c_[rng.normal(size=(3, 3)), rng.uniform(0.8, 1.1, 3)]
        planes = np.r_[sides, caps, extra]
        planes[:, :3] /= np.linalg.norm(planes[:, :3], axis=1)[:, None]
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        planes[:, :3] = planes[:, :3] @ turn
        planes[:, 3] *= size
        where = middle + rng.normal(0, 0.14, 2) * most
        if rng.random() < 0.12:  # it sticks out
            where = at + np.array([rng.uniform(-0.2, 0.6) * size, rng.normal(0, 0.1) * most])
        rays.meet_crystal(
            stage.layer, stage.bits, where, planes, 1 + spread(rng, 0.03, 0.5),
            spread(rng, 0.01, 1.5) / size, stage.glass(), stage.lights, stage.behind, CONTENT | 16,
            stage.scale,
        )  # fmt: skip


def trace_drop(stage: Stage, plan: Plan, place: Floats, angle: float) -> None:
    """Trace what fills a head: a clear drop, or ice, rough and of little light."""
    rng = stage.rng
    shape, _ = drop_of(plan)
    total = angle + np.arctan(plan.slope)
    shift = 0.5 * (1 - plan.swell) * plan.long
    start = place + rotated(plan.neck[None], angle)[0]
    start = start + shift * np.array([np.cos(total), np.sin(total)])
    step = plan.long * plan.swell / (shape.shape[1] - 1)
    frame = (*start, np.cos(total), np.sin(total), np.cos(plan.turn), np.sin(plan.turn), step)
    icy = rng.random() < 0.3
    index = rng.uniform(1.2, 1.5) if icy or rng.random() < 0.5 else rng.uniform(1.02, 1.25)
    if icy:
        soft = spread(rng, 0.6, 5)
        noise = gaussian_filter(rng.normal(size=(2, 256, 256)), (0, soft, soft), mode="wrap")
        stage.rough[:2] = noise / noise.std() * rng.uniform(0.1, 0.5)
    clear = (spread(rng, 0.3, 3.0) if icy else spread(rng, 0.02, 0.6)) / max(plan.face, 8)
    look = stage.glass()
    if icy:
        look[0] = 4.0
    stage.solid(frame, shape, HEAD | CONTENT, look, index, clear)
    stage.rough = np.zeros((3, 256, 256))


def trace_mount(stage: Stage, film: bool) -> tuple[Any, ...]:
    """Trace stem, head, contents and pin; return tip, begin, box and the mask of the head."""
    rng, width, height = stage.rng, stage.width, stage.height
    plan = planned(rng, width, height, film)
    fiber = 0.5 * max(plan.long * spread(rng, 0.012, 0.08), 1.1)
    if film:
        step = 0.5
        shape, outline, bow, bar = film_of(rng, plan, step)
        thick = max(plan.face * spread(rng, 0.02, 0.12), 1.2)
        extra = 0.5 * thick * abs(np.sin(plan.turn))
    else:
        ring = ring_of(rng, plan)
        outline, extra = ring[:, :2], fiber
    angle = float(np.clip(rng.normal(0, 0.06), -0.17, 0.17))
    ends = 0.0 if film else extra
    margins = np.array([[0, 0], [ends, 0], [-ends, 0], [0, extra], [0, -extra]])
    outline = (rotated(outline, angle)[None] + margins[:, None]).reshape(-1, 2)
    if plan.drop:
        outline = np.r_[outline, rotated(drop_of(plan)[1], angle)]
    at = outline[np.argmax(outline[:, 0])]
    place = np.array(
        [tip_column(rng, width) - at[0], height * float(np.clip(rng.normal(0.5, 0.16), 0.12, 0.88))]
    )
    low, high = outline[:, 1].min(), outline[:, 1].max()
    if rng.random() < 0.9 and place[0] + at[0] < width:  # the tip in view
        room = min(0.06 * height + 0.3 * (high - low), 0.45 * height)
        place[1] = np.clip(place[1], room - at[1], height - room - at[1])
    place[1] = np.clip(place[1], 0.02 * height, 0.98 * height)
    outline = outline + place
    box = tuple(float(v) for v in (*outline.min(0), *outline.max(0)))
    filled = Image.new("L", (width, height), 0)
    if not film:
        shown = rotated(ring, angle)[:, :2] + place
        ImageDraw.Draw(filled).polygon([(float(x), float(y)) for x, y in shown], fill=1)
    if plan.drop:
        trace_drop(stage, plan, place, angle)
    if rng.random() < 0.3:
        reach = plan.neck + plan.long * rng.uniform(0.35, 0.7) * np.array([1.0, plan.slope])
        trace_crystals(stage, rotated(reach[None], angle)[0] + place, plan, at + place)
    if film:
        begin = place + rotated(np.array([[-8.0, 0.0]]), angle)[0]
        frame = (*begin, np.cos(angle), np.sin(angle), np.cos(plan.turn), np.sin(plan.turn), step)
        length = rays.meet_film(
            stage.bits, tuple(float(v) for v in frame), shape, thick,
            max(thick * rng.uniform(0.5, 2.5), 1.0), bow, bar, 8 + plan.stem, stage.scale,
        )  # fmt: skip
        if abs(np.sin(plan.turn)) > 0.5:
            length = gaussian_filter(length, 1.7)
        clear = spread(rng, 0.01, 0.5) / thick
        rays.meet_plate(stage.layer, length, rng.uniform(1.15, 1.6), clear, stage.scale)
        stage.layer[3] += rng.uniform(0, 0.1) * stage.lights[:, 3].sum() * (length > 0.1)
    else:
        trace_fiber(stage, plan, ring, fiber, (angle, place))
    radius = 0.5 * np.clip(plan.face * rng.uniform(0.35, 1.5), 0.04 * height, 0.6 * height)
    trace_pin(stage, place, angle, float(radius))
    begin_at = (float(place[0]), float(place[1]))
    tip = (box[2], float(at[1] + place[1]))
    return tip, begin_at, box, np.asarray(filled) > 0


def trace_fiber(stage: Stage, plan: Plan, ring: Floats, radius: float, pose: Any) -> None:
    """Trace the loop's fiber, and the stem of one fiber or two that are wound."""
    rng, (angle, place) = stage.rng, pose
    u = np.linspace(0, 1, int(np.clip(plan.stem / radius, 30, 240)))
    s = u * (plan.stem + 0.04 * plan.long + 8) - 8
    course = np.interp(s / plan.stem, np.linspace(0, 1, 100), plan.course)
    index, clear = rng.uniform(1.2, 1.58), spread(rng, 0.05, 1.0) / radius
    turns = s / (radius * rng.uniform(3, 24)) + rng.uniform(0, 6)
    wound = 0.0 if rng.random() < 0.2 else radius * rng.uniform(0.5, 1.3)
    for side in (0.0, np.pi) if wound else (0.0,):
        y, z = wound * np.cos(turns + side), wound * np.sin(turns + side)
        points = rotated(np.c_[s, course + y, z], angle)
        points[:, :2] += place
        stage.tube(points, radius, STEM, index, clear)
    loop = rotated(np.r_[ring, ring[:1]], angle)
    loop[:, :2] += place
    stage.tube(loop, radius, HEAD, index, clear)


def tip_column(rng: np.random.Generator, width: int) -> float:
    """Draw where the tip is; some lie beyond the far border, some near the first."""
    drawn = rng.random()
    if drawn < 0.04:
        return width * rng.uniform(0.02, 0.1)
    return width * (rng.uniform(1.0, 1.35) if drawn > 0.93 else rng.uniform(0.08, 0.97))


def bare_pin(stage: Stage) -> tuple[Any, ...]:
    """Trace a bare pin; return its end and box."""
    rng, width, height = stage.rng, stage.width, stage.height
    x = tip_column(rng, width)
    radius = 0.5 * height * spread(rng, 0.05, 0.6)
    steep = min(0.17, 5 / radius)
    angle = float(np.clip(rng.normal(0, 0.06), -steep, steep))
    end = np.array([x, height * float(np.clip(rng.normal(0.5, 0.16), 0.12, 0.88))])
    trace_pin(stage, end, angle, radius)
    if x <= 2:
        return NOWHERE, NO_BOX
    rows = np.flatnonzero(stage.seen(PIN)[:, max(int(min(x, width) - 0.6 * radius), 0)])
    low, high = (rows[0], rows[-1]) if len(rows) else (end[1] - radius, end[1] + radius)
    return (x, float(end[1])), (-0.5, float(low - 0.5), x, float(high + 0.5))
