"""Scenes of a second renderer: shapes drawn with PIL at twice the size and blurred.

It shares nothing with the twin, nor with the drawings that the networks have learned from: what is
found here is found in pictures of another origin. The pin enters at the left, and the picture is
then mirrored and turned.
"""

import io
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZES = ((704, 480), (640, 480), (768, 576), (1024, 768), (659, 494))
KINDS, KIND_PARTS = ("nylon", "mitegen", "pin", "none"), (0.45, 0.35, 0.12, 0.08)
SIDES, SIDE_PARTS = ("left", "right", "top", "bottom"), (0.5, 0.3, 0.1, 0.1)
FINER = 2
LENGTH = (0.08, 0.5)  # of the head, parts of the picture's width
SLIM = 0.2  # of the mounts are seen at a slant, or edge-on
FRONT_LIT, DROP, CRYSTAL = 0.2, 0.45, 0.4  # parts of the scenes


@dataclass
class Scene:
    """A picture that is being drawn, (height, width) gray levels, and where things are in it."""

    rng: np.random.Generator
    width: int
    height: int
    front: bool
    blur: float
    row: float
    tilt: float
    bend: float
    pin_end: float
    gray: np.ndarray = field(init=False)

    def axis(self, u):
        """Row of the mount's axis, bent beyond the pin."""
        u = np.asarray(u, float)
        beyond = np.maximum(u - self.pin_end, 0.0)
        return self.row + self.tilt * (u - self.pin_end) + self.bend * beyond

    def part(self, *steps):
        """Draw polygons, (points, 1 or 0), and lines, (points, width): (height, width), 0..1."""
        picture = Image.new("L", (self.width * FINER, self.height * FINER), 0)
        draw = ImageDraw.Draw(picture)
        for shape, points, value in steps:
            places = [(float(x) * FINER, float(y) * FINER) for x, y in points]
            if shape == "polygon":
                draw.polygon(places, fill=255 * value)
            else:
                draw.line(places, fill=255, width=max(round(value * FINER), 1), joint="curve")
        small = picture.filter(ImageFilter.GaussianBlur(self.blur * FINER))
        return np.asarray(small.resize((self.width, self.height), Image.Resampling.BOX)) / 255.0

    def soft(self, part, sigma):
        """Blur a part further."""
        picture = Image.fromarray(np.round(part * 255).astype(np.uint8))
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(sigma))) / 255.0

    def shade(self, part, strength):
        """Let a part take light away; in front light, send some back."""
        if self.front:
            self.gray = self.gray + part * strength * self.rng.uniform(60, 130)
        else:
            self.gray = self.gray * (1 - strength * part)


def other_scene(seed):
    """Return a picture, (H, W) uint8, its kind, its side and its tip, (x, y) or None."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.integers(len(SIZES))]
    kind = str(rng.choice(KINDS, p=KIND_PARTS))
    tip = rng.uniform(0.2, 0.9) * width
    long = width * math.exp(rng.uniform(*np.log(LENGTH)))
    slim = rng.uniform(0.15, 0.5) if rng.random() < SLIM else 1.0
    wide = min(long * rng.uniform(0.5, 0.95) * slim, 0.8 * height)
    stem = long * rng.uniform(0.4, 2.2)
    scene = Scene(
        rng=rng,
        width=width,
        height=height,
        front=bool(rng.random() < FRONT_LIT),
        blur=rng.uniform(0.5, 1.6),
        row=height * rng.uniform(0.3, 0.7),
        tilt=rng.normal(0, 0.03),
        bend=rng.normal(0, 0.06) * (kind != "pin"),
        pin_end=tip if kind == "pin" else tip - long - stem,
    )
    draw_light(scene)
    place = None
    if kind != "none":
        draw_pin(scene, min(max(long * rng.uniform(0.5, 1.6), 30.0), 0.7 * height))
        place = tip, float(scene.axis(tip))
    if kind in ("nylon", "mitegen"):
        place = draw_mount(scene, kind, tip - long, long, wide, stem)
    draw_dust(scene)
    side = str(rng.choice(SIDES, p=SIDE_PARTS))
    gray, place = turned(scene.gray, place, side)
    noisy = rng.poisson(np.clip(gray, 0, 300) * 4) / 4.0 + rng.normal(
        0, rng.uniform(0.5, 3), gray.shape
    )
    return as_jpeg(noisy, int(rng.integers(60, 95))), kind, side, place


def draw_light(scene):
    """Draw light with a gradient and a vignette."""
    rng = scene.rng
    y, x = np.mgrid[-0.5 : 0.5 : scene.height * 1j, -0.5 : 0.5 : scene.width * 1j]
    level = rng.uniform(30, 110) if scene.front else rng.uniform(120, 225)
    slope = rng.uniform(-0.15, 0.15, 2)
    scene.gray = level * (1 + slope[0] * x + slope[1] * y)
    scene.gray *= 1 - rng.uniform(0, 0.7) * (x**2 + y**2)


def draw_pin(scene, wide):
    """Draw a pin: rough edges, a chamfer, some with a thick base."""
    rng, end = scene.rng, scene.pin_end
    if end <= 0:
        return
    u = np.linspace(-20, end, 60)
    half = 0.5 * wide + rng.normal(0, rng.uniform(0, 1.5), len(u))
    chamfer = rng.uniform(0, 0.5) * wide
    half = np.where(u > end - chamfer, half * (0.75 + 0.25 * (end - u) / max(chamfer, 1)), half)
    if rng.random() < 0.3:
        half = np.where(u < end - wide * rng.uniform(0.8, 2.5), half * rng.uniform(1.2, 1.9), half)
    body = scene.part(("polygon", band(u, scene.axis(u), half), 1))
    level = rng.uniform(0, 25)
    if scene.front:
        y, x = np.mgrid[0 : scene.height, 0 : scene.width]
        across = (y - scene.axis(x)) / (0.5 * wide)
        streak = np.exp(-(((across - rng.uniform(-0.5, 0.5)) / rng.uniform(0.15, 0.5)) ** 2))
        level = rng.uniform(20, 70) + rng.uniform(60, 170) * streak
    scene.gray = scene.gray * (1 - body) + level * body


def draw_mount(scene, kind, neck, long, wide, stem):
    """Draw a loop or a polymer mount with what it holds; return its tip."""
    rng = scene.rng
    middle = np.array([neck + 0.5 * long, float(scene.axis(neck + 0.5 * long))])
    slope = math.atan(scene.tilt + scene.bend)
    turn = np.array([[math.cos(slope), math.sin(slope)], [-math.sin(slope), math.cos(slope)]])
    round_it = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    taper = rng.uniform(0, 0.25)
    across = 0.5 * wide * np.sin(round_it) * (1 + taper * np.cos(round_it))
    ring = np.c_[0.5 * long * np.cos(round_it), across]
    edge = middle + ring @ turn
    tip = edge[np.argmax(edge[:, 0])].copy()
    if kind == "nylon":
        fiber = max(long * rng.uniform(0.02, 0.07), 1.6)
        draw_fibers(scene, edge, neck, long, stem, fiber)
        tip[0] += 0.5 * fiber
    else:
        draw_film(scene, ring, middle, turn, (neck, long, wide, stem))
    if rng.random() < DROP:
        drop = scene.part(("polygon", middle + ring @ turn * rng.uniform(0.8, 1.0), 1))
        inner = scene.soft(drop, max(0.08 * wide, 1.0))
        scene.shade(np.clip(drop * (1 - inner) * 2.2, 0, 1), rng.uniform(0.3, 0.9))
        scene.gray = scene.gray + drop * inner * rng.uniform(-25, 15)
    if rng.random() < CRYSTAL:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
        corners = np.c_[np.cos(angles), np.sin(angles)] * min(long, wide) * rng.uniform(0.1, 0.3)
        corners += np.array([rng.uniform(-0.15, 0.2) * long, rng.uniform(-0.1, 0.1) * wide])
        corners = middle + corners @ turn
        scene.shade(scene.part(("polygon", corners, 1)), rng.uniform(0.1, 0.5))
        scene.shade(scene.part(("line", closed(corners), 2)), rng.uniform(0.2, 0.6))
    return float(tip[0]), float(tip[1])


def draw_fibers(scene, edge, neck, long, stem, fiber):
    """Draw a fiber around the head and two that are wound about each other in the stem."""
    rng = scene.rng
    u = np.linspace(scene.pin_end - 10, neck + 0.03 * long, 200)
    wound = np.sin(rng.uniform(2, 9) * 2 * np.pi / stem * u + rng.uniform(0, 6))
    strands = [
        ("line", np.c_[u, scene.axis(u) + sign * 0.6 * fiber * wound], fiber) for sign in (1, -1)
    ]
    scene.shade(scene.part(*strands, ("line", closed(edge), fiber)), rng.uniform(0.5, 0.9))
    core = scene.part(("line", closed(edge), 0.3 * fiber))
    scene.gray = scene.gray + core * rng.uniform(0, 60) * (0.3 if scene.front else 1.0)


def draw_film(scene, ring, middle, turn, sizes):
    """Draw a film with a stem that grows wider towards the pin, its edges and its aperture."""
    rng = scene.rng
    neck, long, wide, stem = sizes
    foot, narrow = wide * rng.uniform(0.15, 0.45), wide * rng.uniform(0.06, 0.15)
    u = np.array([scene.pin_end - 10, scene.pin_end + 0.6 * stem, neck + 0.08 * long])
    back = ("polygon", band(u, scene.axis(u), np.array([foot, 0.6 * foot, narrow])), 1)
    outer = ("polygon", middle + ring @ turn, 1)
    rim = long * rng.uniform(0.06, 0.16)
    inside = middle + ring * (1 - 2 * rim / np.array([long, max(wide, 2 * rim + 4)])) @ turn
    whole = scene.part(back, outer)
    open_too = [("polygon", inside, 0)] if rng.random() < 0.85 else []
    scene.shade(scene.part(back, outer, *open_too), rng.uniform(0.06, 0.35))
    outline = np.clip(3 * np.abs(whole - scene.soft(whole, 2.0)), 0, 1)
    scene.shade(outline, rng.uniform(0.3, 0.7))
    if open_too:
        scene.shade(scene.part(("line", closed(inside), 1.5)), rng.uniform(0.2, 0.7))


def draw_dust(scene):
    """Draw rings of dust anywhere."""
    rng = scene.rng
    y, x = np.mgrid[0 : scene.height, 0 : scene.width]
    for _ in range(rng.integers(0, 7)):
        far = np.hypot(x - rng.uniform(0, scene.width), y - rng.uniform(0, scene.height))
        near = (far - rng.uniform(1.5, 7)) / 1.2
        scene.gray = scene.gray * (1 - rng.uniform(0.1, 0.4) * np.exp(-(near**2)))


def band(u, axis, half):
    """Return the outline of a band along an axis."""
    return np.r_[np.c_[u, axis - half], np.c_[u, axis + half][::-1]]


def closed(points):
    """Return a line that ends where it began, and a little beyond."""
    return np.r_[points, points[:2]]


def turned(gray, place, side):
    """Mirror and turn a picture and a place in it until the pin enters at a side."""
    last = gray.shape[1] - 1
    if side in ("right", "bottom"):
        gray, place = gray[:, ::-1], place and (last - place[0], place[1])
    if side in ("top", "bottom"):
        gray, place = gray.T, place and place[::-1]
    return gray, place


def as_jpeg(gray, quality):
    """Encode and decode: (H, W) uint8; by Pillow, where the twin's scenes go through simplejpeg."""
    data = io.BytesIO()
    levels = np.ascontiguousarray(np.clip(np.round(gray), 0, 255).astype(np.uint8))
    Image.fromarray(levels).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))
