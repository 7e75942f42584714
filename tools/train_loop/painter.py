"""A painter of mounts in two dimensions: pins, stems, loops and films of any shape and texture.

The mount enters at the left and is drawn as polygons at twice the size; what each part does to the
light (absorb, scatter, show its edges) is drawn at random.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from names import MASKS
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sample import NO_BOX, NOWHERE, Sample
from scipy.ndimage import gaussian_filter, gaussian_filter1d

Floats = NDArray[np.float64]
FINER = 2
KEPT_PX = 5  # about the tip: nothing is painted over it
SIZES = ((448, 304), (416, 312), (384, 307), (352, 240), (360, 360))
KIND_PARTS = {"nylon": 0.42, "mitegen": 0.34, "pin": 0.13, "none": 0.11}


@dataclass
class Canvas:
    """The light so far, and the parts of the mount."""

    rng: np.random.Generator
    gray: Floats
    front: bool
    masks: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with empty masks."""
        self.masks = np.zeros((len(MASKS), *self.gray.shape), bool)

    def area(self, points: Floats, holes: tuple[Floats, ...] = ()) -> Floats:
        """Return how much of each pixel a polygon covers, 0..1."""
        return self._drawn([("area", points, 1)] + [("area", hole, 0) for hole in holes])

    def line(self, points: Floats, width: float) -> Floats:
        """Return how much of each pixel a line covers; thinner than a pixel it is fainter."""
        part = self._drawn([("line", points, max(width, 0.6))])
        return part * min(1.0, width / 0.6)

    def _drawn(self, steps: list[tuple[str, Floats, float]]) -> Floats:
        height, width = self.gray.shape
        picture = Image.new("L", (width * FINER, height * FINER), 0)
        draw = ImageDraw.Draw(picture)
        for shape, points, value in steps:
            places = [((x + 0.5) * FINER, (y + 0.5) * FINER) for x, y in points.tolist()]
            if shape == "area":
                draw.polygon(places, fill=255 if value else 0)
            else:
                draw.line(places, fill=255, width=max(round(value * FINER), 1), joint="curve")
        small = picture.resize((width, height), Image.Resampling.BOX)
        return np.asarray(small) / 255.0

    def mark(self, name: str, part: Floats) -> None:
        """Add to a mask."""
        self.masks[MASKS.index(name)] |= part > 0.4

    def take(self, part: Floats, strength: Any) -> None:
        """Let a part take light; in front light or in a dark field it sends light back."""
        if self.front:
            self.gray = self.gray + part * strength * self.rng.uniform(50, 160)
        else:
            self.gray = self.gray * (1 - part * strength)

    def cover(self, part: Floats, level: Any) -> None:
        """Let an opaque part be of a level."""
        self.gray = self.gray + part * (level - self.gray)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from a range, evenly in the logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def noise_field(rng: np.random.Generator, shape: tuple[int, int], size: float) -> Floats:
    """Return smooth noise of unit spread and of a typical size, px."""
    step = max(int(size / 2), 1)
    small = rng.normal(size=(shape[0] // step + 3, shape[1] // step + 3))
    soft = gaussian_filter(small, max(size / step, 0.5))
    soft /= soft.std() + 1e-9
    large = Image.fromarray(soft.astype(np.float32)).resize(
        (soft.shape[1] * step, soft.shape[0] * step), Image.Resampling.BILINEAR
    )
    return np.asarray(large, float)[: shape[0], : shape[1]]


def background(rng: np.random.Generator, shape: tuple[int, int], front: bool, busy: bool) -> Floats:
    """Return the light: gradient, vignette, lamps; busy: mottle, stripes, shapes out of focus."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    level = rng.uniform(8, 110) if front else rng.uniform(90, 240)
    light = 1 + rng.normal(0, 0.1) * x + rng.normal(0, 0.1) * y
    light = light - rng.uniform(0, 0.35) * (rng.random() < 0.6) * (x**2 + y**2)
    if rng.random() < (0.5 if busy else 0.15):
        cx, cy = rng.uniform(-0.8, 0.8, 2)
        spot = np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.2, 2.0)))
        light = light * (1 + rng.uniform(-0.5, 0.9) * spot)
    gray = level * light
    if busy:
        for _ in range(rng.integers(0, 3)):
            size = log_uniform(rng, 3, 120)
            gray = gray * (1 + rng.uniform(0.01, 0.09) * noise_field(rng, shape, size))
        if rng.random() < 0.15:
            angle, rate = rng.uniform(0, np.pi), log_uniform(rng, 4, 60)
            wave = np.sin(rate * (x * np.cos(angle) + y * np.sin(angle)))
            gray = gray * (1 + rng.uniform(0.01, 0.08) * wave)
    return np.maximum(gray, 0.0)


def closed_shape(rng: np.random.Generator, long: float, wide: float) -> Floats:
    """Return the outline of a head (160, 2): tip at x = 0, neck at x = -long, wide across."""
    t = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    power = rng.uniform(0.6, 1.25)
    x = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power
    y = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** rng.uniform(0.6, 1.25)
    y = y * (1 + rng.uniform(-0.25, 0.75) * x)
    neck = rng.uniform(0, 1.0)
    y = y * (1 - neck * np.clip(-x, 0, 1) ** 3)
    if rng.random() < 0.4:
        for order in (2, 3, 4):
            y = y + rng.normal(0, 0.06) * np.sin(order * t + rng.uniform(0, 6))
            x = x + rng.normal(0, 0.03) * np.cos(order * t + rng.uniform(0, 6))
    if rng.random() < 0.15:
        x = np.maximum(x, -0.7) if rng.random() < 0.5 else np.minimum(x, 0.8)
    x = (x - x.max()) / (x.max() - x.min()) * long
    y = (y - 0.5 * (y.max() + y.min())) / (y.max() - y.min()) * wide
    return np.c_[x, y]


def band(u: Floats, v: Floats, half: Any) -> Floats:
    """Return the outline of a band along a curve."""
    half = np.broadcast_to(half, u.shape)
    slope = np.gradient(v, u)
    norm = np.sqrt(1 + slope**2)
    dx, dy = -slope / norm * half, half / norm
    return np.r_[np.c_[u + dx, v + dy], np.c_[u - dx, v - dy][::-1]]


def inset(rng: np.random.Generator, ring: Floats, rim: float) -> Floats:
    """Return the outline of an aperture within a film."""
    middle = 0.5 * (ring.min(0) + ring.max(0))
    half = 0.5 * (ring.max(0) - ring.min(0))
    scale = np.maximum(1 - rim / np.maximum(half, 1e-6), 0.12)
    return middle + (ring - middle) * scale * rng.uniform(0.75, 1.0)


def paint(rng: np.random.Generator, busy: bool) -> Sample:
    """Paint one picture; `busy` puts it before a varied background, with clutter."""
    width, height = SIZES[rng.integers(len(SIZES))]
    kind = str(rng.choice(list(KIND_PARTS), p=list(KIND_PARTS.values())))
    front = bool(rng.random() < 0.3)
    canvas = Canvas(rng, background(rng, (height, width), front, busy), front)
    alone = kind in ("none", "pin")
    if busy and rng.random() < 0.6:
        clutter(rng, canvas, before=False, alone=alone)
    if kind == "none":
        if rng.random() < 0.5 or busy:
            clutter(rng, canvas, before=True, alone=True)
        return Sample(canvas.gray, canvas.masks)
    tip, begin, box = _mount(rng, canvas, kind)
    if (busy and rng.random() < 0.7) or rng.random() < 0.3:
        clutter(rng, canvas, before=True, alone=alone, keep=tip)
    if rng.random() < 0.6:
        dust(rng, canvas)
    return Sample(canvas.gray, canvas.masks, kind, "left", tip, begin, box=box)


def _mount(rng: np.random.Generator, canvas: Canvas, kind: str) -> Any:
    """Paint a mount; return its tip, the end of its pin and the box of its head."""
    height, width = canvas.gray.shape
    long = width * log_uniform(rng, 0.05, 0.7)
    face = min(long * rng.uniform(0.35, 1.15), 0.9 * height)
    slim = rng.uniform(0.03, 0.4) if rng.random() < 0.28 else 1.0
    wide = max(face * slim, 2.0)
    stem = long * log_uniform(rng, 0.15, 4.0)
    drawn = rng.random()
    tip_x = width * (rng.uniform(0.1, 0.97) if drawn < 0.9 else rng.uniform(0.95, 1.4))
    if drawn > 0.97:
        tip_x = width * rng.uniform(0.02, 0.12)
    pin_end = tip_x if kind == "pin" else tip_x - long - stem
    row = height * float(np.clip(rng.normal(0.5, 0.15), 0.12, 0.88))
    tilt, bend = rng.normal(0, 0.05), rng.normal(0, 0.25) * (rng.random() < 0.5)
    bow = rng.normal(0, 0.25) * (rng.random() < 0.4) / max(stem, 10.0)

    def axis(u: Floats) -> Floats:
        beyond = np.maximum(np.asarray(u, float) - pin_end, 0.0)
        neck = max(stem, 1.0)
        curve = bend * beyond + bow * np.minimum(beyond, neck) * np.maximum(beyond - 0.3 * neck, 0)
        return row + tilt * (np.asarray(u, float) - 0.5 * width) + curve

    half = 0.5 * np.clip(max(face * rng.uniform(0.4, 1.6), 0.05 * height), 8.0, 0.8 * height)
    if kind == "pin":
        half = 0.5 * height * log_uniform(rng, 0.06, 0.7)
    body = _pin(rng, canvas, pin_end, axis, half)
    if kind == "pin":
        end = float(axis(np.array([tip_x]))[0])
        if tip_x <= 2:
            return NOWHERE, NOWHERE, NO_BOX
        rows = np.flatnonzero((body > 0.5)[:, max(int(min(tip_x, width) - 0.6 * half), 0)])
        low, high = (rows[0], rows[-1]) if len(rows) else (end - half, end + half)
        return (tip_x - 0.5, end), NOWHERE, (-0.5, low - 0.5, tip_x - 0.5, high + 0.5)
    neck_u = tip_x - long
    ring = closed_shape(rng, long, wide)
    near = axis(np.array([neck_u - 2.0, neck_u]))
    slope = float(np.clip((near[1] - near[0]) / 2.0, -1.5, 1.5)) + rng.normal(0, 0.1)
    angle = np.arctan(slope)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    ring = (ring + np.array([long, 0])) @ turn + np.array([neck_u, near[1]])
    u = np.linspace(pin_end - 8, neck_u + 0.06 * long, 160)
    outline, extra = _head(rng, canvas, kind, ring, (u, axis(u)), (long, wide, face, slim))
    if rng.random() < 0.6:
        outline = _contents(rng, canvas, ring, outline, (long, wide))
    x0, y0 = outline.min(0) - extra
    x1, y1 = outline.max(0) + extra
    at = outline[np.argmax(outline[:, 0])]
    begin = (pin_end, float(axis(np.array([pin_end]))[0]))
    return (float(x1), float(at[1])), begin, (float(x0), float(y0), float(x1), float(y1))


def _pin(rng: np.random.Generator, canvas: Canvas, end: float, axis: Any, half: float) -> Floats:
    """Paint the pin; return how much of each pixel it covers."""
    u = np.linspace(-30, max(end, -29.0), 160)
    edge = np.full(len(u), half)
    if rng.random() < 0.35:
        edge = np.where(u < end - half * rng.uniform(0.8, 6), half * rng.uniform(1.1, 2.2), edge)
    if rng.random() < 0.5:
        reach = half * rng.uniform(0.1, 1.6)
        edge = edge * np.clip(1 - (u - end + reach) / reach * rng.uniform(0.1, 1.0), 0.05, 1)
    rough = rng.uniform(0, 0.06) * half * (rng.random() < 0.4)
    high = band(u, axis(u), edge + rough * gaussian_filter1d(rng.normal(size=len(u)), 1.5))
    part = canvas.area(high)
    canvas.mark("pin", part)
    y = np.arange(canvas.gray.shape[0])[:, None]
    across = (y - axis(np.arange(canvas.gray.shape[1]))[None, :]) / half
    level: Any = rng.uniform(0, 60)
    if canvas.front or rng.random() < 0.15:
        streak = np.exp(-(((across - rng.uniform(-0.6, 0.6)) / rng.uniform(0.1, 0.6)) ** 2))
        level = level + rng.uniform(20, 200) * streak
    if rng.random() < 0.3:
        level = level + rng.uniform(2, 25) * noise_field(rng, part.shape, log_uniform(rng, 1.5, 9))
    opacity = 1.0 if rng.random() < 0.85 else rng.uniform(0.4, 0.9)
    canvas.cover(part * opacity, level)
    return part


def _head(
    rng: np.random.Generator, canvas: Canvas, kind: str, ring: Floats, stem: Any, size: Any
) -> tuple[Floats, float]:
    """Paint head and stem; return the outline of the head, and how far it reaches beyond."""
    long, wide, face, slim = size
    u, v = stem
    whole = canvas.area(ring)
    closed = np.r_[ring, ring[:2]]
    if kind == "nylon":
        fiber = max(long * log_uniform(rng, 0.012, 0.09), 0.6)
        apart = fiber * rng.uniform(0.3, 0.8) * (rng.random() < 0.85)
        wave = np.sin(2 * np.pi * (u - u[0]) / (fiber * rng.uniform(5, 50)) + rng.uniform(0, 6))
        if rng.random() < 0.2:
            wave = np.ones_like(u)
        strands = [canvas.line(np.c_[u, v + s * apart * wave], fiber) for s in (1, -1)]
        strength = rng.uniform(0.25, 0.95)
        bridged = np.maximum(strands[0], strands[1])
        canvas.take(bridged, strength)
        loop = canvas.line(closed, fiber)
        canvas.take(loop, strength)
        if fiber > 2:
            core = canvas.line(closed, 0.35 * fiber)
            canvas.gray = canvas.gray + core * rng.uniform(-0.2, 0.6) * strength * 90
        canvas.mark("stem", canvas.line(np.c_[u, v], max(2.2 * fiber, 2.5)))
        canvas.mark("head", np.maximum(whole, loop))
        return ring, 0.5 * fiber
    foot = face * slim * log_uniform(rng, 0.15, 1.6)
    narrow = min(face * slim * rng.uniform(0.06, 0.5), foot)
    part = np.clip((u[-1] - u) / max(u[-1] - u[0], 1), 0, 1) ** rng.uniform(0.6, 2.0)
    tail_shape = band(u, v, np.maximum(0.5 * (narrow + (foot - narrow) * part), 0.7))
    tail = canvas.area(tail_shape)
    rim = rng.uniform(0.05, 0.35) * min(long, max(wide, 4))
    hole = inset(rng, ring, rim)
    solid = rng.random() < 0.15
    film = whole if solid else canvas.area(ring, (hole,))
    body = np.maximum(film, tail)
    canvas.take(body, rng.uniform(0.03, 0.45) / max(slim, 0.4))
    canvas.mark("stem", tail)
    canvas.mark("head", whole)
    edge = max(long * log_uniform(rng, 0.006, 0.03), 0.5)
    silhouette = np.clip(np.maximum(whole, tail), 0, 1)
    inner = gaussian_filter(silhouette, edge)
    canvas.take(np.clip(2.2 * silhouette * (1 - inner), 0, 1), rng.uniform(0.1, 0.85))
    if not solid:
        canvas.take(canvas.line(np.r_[hole, hole[:2]], edge), rng.uniform(0.1, 0.85))
        if rng.random() < 0.3:  # marks on the film
            k = rng.integers(0, len(u) - 20)
            marks = [canvas.line(np.c_[u[j : j + 3], v[j : j + 3]], edge * 2) for j in (k, k + 8)]
            canvas.take(np.maximum(*marks), rng.uniform(0.2, 0.7))
    return ring, 0.0


def _contents(
    rng: np.random.Generator, canvas: Canvas, ring: Floats, outline: Floats, size: Any
) -> Floats:
    """Paint a drop, ice or a crystal; return the outline of the head with it."""
    long, wide = size
    middle = ring.mean(0)
    if rng.random() < 0.65:
        swell = rng.uniform(0.7, 1.0) if rng.random() < 0.6 else rng.uniform(1.0, 1.3)
        shape = middle + (ring - middle) * swell
        icy = rng.random() < 0.3
        if icy:
            spikes = gaussian_filter1d(rng.normal(size=len(ring)), rng.uniform(0.8, 4), mode="wrap")
            shape = middle + (shape - middle) * (1 + rng.uniform(0.02, 0.1) * spikes)[:, None]
        drop = canvas.area(shape)
        if icy or rng.random() < 0.25:
            texture = 1 + 0.2 * noise_field(rng, drop.shape, log_uniform(rng, 1.5, 12))
            canvas.take(drop * np.clip(texture, 0, 1.6), rng.uniform(0.15, 0.6))
        soft = gaussian_filter(drop, max(rng.uniform(0.02, 0.15) * wide, 0.8))
        canvas.take(np.clip(drop * (1 - soft) * 2, 0, 1), rng.uniform(0.1, 0.9))
        canvas.take(drop, rng.uniform(-0.1, 0.3))
        canvas.mark("content", drop)
        canvas.mark("head", drop)
        outline = np.r_[outline, shape]
    if rng.random() < 0.6:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 9)))
        stretch = np.array([1.0, log_uniform(rng, 0.15, 1.0)])
        corners = np.c_[np.cos(angles), np.sin(angles)] * stretch * min(long, max(wide, 5))
        corners = corners * rng.uniform(0.08, 0.4)
        a = rng.uniform(0, np.pi)
        corners = corners @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        corners = corners + middle + rng.uniform(-0.18, 0.18, 2) * (long, wide)
        part = canvas.area(corners)
        canvas.take(part, rng.uniform(0.0, 0.7))
        canvas.take(canvas.line(np.r_[corners, corners[:2]], 1.0), rng.uniform(0.1, 0.7))
        canvas.mark("content", part)
    return outline


def dust(rng: np.random.Generator, canvas: Canvas) -> None:
    """Paint spots and rings."""
    y, x = np.mgrid[0 : canvas.gray.shape[0], 0 : canvas.gray.shape[1]]
    for _ in range(rng.integers(1, 9)):
        far = np.hypot(x - rng.uniform(0, x.shape[1]), y - rng.uniform(0, x.shape[0]))
        near = far - rng.choice([0.0, 1.0]) * rng.uniform(1.5, 9)
        spot = np.exp(-((near / rng.uniform(0.7, 2.5)) ** 2))
        canvas.gray = canvas.gray * (1 - rng.uniform(-0.2, 0.5) * spot)


def clutter(
    rng: np.random.Generator,
    canvas: Canvas,
    before: bool,
    alone: bool,
    keep: tuple[float, float] = NOWHERE,
) -> None:
    """Paint what is no mount: nozzles, bars, beam stops, text, borders; not over `keep`.

    `alone` says that there is no mount, or a bare pin: nobody could tell a sharp bar from that, so
    what enters through a border is out of focus then.
    """
    height, width = canvas.gray.shape
    for _ in range(rng.integers(1, 4)):
        what = rng.choice(["nozzle", "bar", "disc", "text", "border", "thread", "polygon"])
        level = rng.uniform(0, 255)
        opacity = 1.0 if rng.random() < 0.6 else rng.uniform(0.2, 0.9)
        if what in ("nozzle", "bar"):
            part = _from_border(rng, canvas, cone=what == "nozzle")
        elif what == "disc":
            t = np.linspace(0, 2 * np.pi, 60)
            size = height * log_uniform(rng, 0.02, 0.16)
            center = rng.uniform(0, 1, 2) * (width, height)
            part = canvas.area(center + size * np.c_[np.cos(t), np.sin(t)])
        elif what == "text":
            part = text(rng, (height, width))
        elif what == "border":
            part = np.zeros((height, width))
            for cut in (np.s_[:, :], np.s_[::-1, :], np.s_[:, ::-1]):
                if rng.random() < 0.5:
                    view = part[cut]
                    rows = rng.integers(1, 6)
                    (view.T if rng.random() < 0.5 else view)[:rows] = 1
            level, opacity = float(rng.choice([0, 255])), 1.0
        elif what == "thread":
            ends = rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)
            part = canvas.line(ends, rng.uniform(0.5, 2.5))
        else:
            corners = rng.uniform(0, 1, 2) * (width, height) + rng.normal(0, 0.06 * height, (5, 2))
            part = canvas.area(corners)
        blur = rng.uniform(0, 4) * (rng.random() < 0.5)
        if alone and what in ("nozzle", "bar"):
            blur = height * rng.uniform(0.015, 0.05)
        part = gaussian_filter(part, blur) * opacity
        if before and np.isfinite(keep[0]):
            r, c = max(int(keep[1]), 0), max(int(keep[0]), 0)
            about = part[
                max(r - KEPT_PX, 0) : r + KEPT_PX + 1, max(c - KEPT_PX, 0) : c + KEPT_PX + 1
            ]
            if about.size and about.max() > 0.1:
                continue
        canvas.cover(part, level)
        canvas.mark("other", part)
        if before:
            canvas.masks[:4] &= ~(part > 0.7) | (what in ("thread", "border"))


def _from_border(rng: np.random.Generator, canvas: Canvas, cone: bool) -> Floats:
    """Return a nozzle or bar that enters through a border, rarely the pin's."""
    height, width = canvas.gray.shape
    side = rng.choice(["top", "bottom", "right", "left"], p=[0.36, 0.36, 0.2, 0.08])
    reach = rng.uniform(0.05, 0.45)
    half = height * log_uniform(rng, 0.02, 0.2)
    at = rng.uniform(0, 1)
    u = np.array([-20.0, reach * (height if side in ("top", "bottom") else width)])
    v = at * (width if side in ("top", "bottom") else height) + rng.normal(0, 0.4) * u
    shape = band(u, v, half * np.array([1.0, rng.uniform(0.15, 1.0) if cone else 1.0]))
    if side in ("top", "bottom"):
        shape = shape[:, ::-1]
    if side == "right":
        shape[:, 0] = width - 1 - shape[:, 0]
    if side == "bottom":
        shape[:, 1] = height - 1 - shape[:, 1]
    return canvas.area(shape)


def text(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Return burnt-in text, 0..1."""
    picture = Image.new("L", shape[::-1], 0)
    draw = ImageDraw.Draw(picture)
    letters = "".join(rng.choice(list("0123456789:-/ ABCDEFXYZom"), rng.integers(4, 26)))
    place = rng.uniform(0, 0.7) * shape[1], rng.choice([0.01, 0.93]) * shape[0]
    draw.text(place, letters, fill=255, font_size=int(rng.integers(8, 18)))
    if rng.random() < 0.3:  # a cross hair or a scale bar
        y = rng.uniform(0, shape[0])
        draw.line([(0, y), (shape[1] * rng.uniform(0.1, 1), y)], fill=255, width=1)
    return np.asarray(picture) / 255.0
