"""Sketches of loops and mounts in many manners, beside the twin's scenes, for `train_kind_net.py`.

What tells the kinds apart is drawn as it is everywhere: fibers of one thickness that run around an
opening and are wound about each other behind it, or a film with edges, an aperture and a broad,
plain stem. How it is lit, how much light its parts take, how their edges look, and what is in the
head, is drawn as it comes, lest the twin's manner be taken for the rule. All enter at the left.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

HEIGHT, WIDTH = 352, 480
TIP_PX, LENGTH_PX = (150.0, 460.0), (24.0, 260.0)
EDGE_ON, HELD, FRONT = 0.28, 0.6, 0.3  # parts of the sketches: seen edge-on, with a drop, so lit
FIBER = (0.012, 0.09)  # its radius over the head's length: 20 um thick on 830 to 110 um
UNFILLED = 0.45  # part of the drops that do not fill the opening
CUT, CUT_LENGTH_PX, CUT_AT = 0.3, (60.0, 320.0), (0.3, 1.15)
"""Part of the sketches whose head the border cuts, how long it is, how much of that is seen."""


@dataclass
class Canvas:
    """Coordinates from the tip, along (negative in the mount) and across; the light so far."""

    u: Any
    v: Any
    gray: Any
    front: bool

    def take(self, part: Any, opacity: float) -> None:
        """Let a part, 0..1, take light away, or in front light send some back."""
        if self.front:
            self.gray += 110.0 * opacity * part
        else:
            self.gray *= 1.0 - opacity * part

    def cover(self, part: Any, level: Any) -> None:
        """Let an opaque part, 0..1, be of a level."""
        self.gray += part * (level - self.gray)


def sketch(rng: np.random.Generator, kind: str) -> Any:
    """Draw a nylon loop, a polymer mount or a bare pin: (352, 480) uint8."""
    from scipy.ndimage import gaussian_filter

    cut = rng.random() < CUT
    long = float(np.exp(rng.uniform(*np.log(CUT_LENGTH_PX if cut else LENGTH_PX))))
    canvas = empty(rng, long * rng.uniform(*CUT_AT) if cut else rng.uniform(*TIP_PX))
    if kind == "pin":
        pin(rng, canvas, 0.0, long)
    else:
        mount(rng, canvas, kind, long)
    dust(rng, canvas)
    soft = gaussian_filter(canvas.gray, np.exp(rng.uniform(np.log(0.5), np.log(2.2))))
    noise = np.exp(rng.uniform(np.log(0.5), np.log(5.0)))
    return np.clip(soft + rng.normal(0, noise, soft.shape), 0, 255).astype(np.uint8)


def mount(rng: np.random.Generator, canvas: Canvas, kind: str, long: float) -> None:
    """Draw a loop or a mount whose head is so long, px, with its pin."""
    from scipy.ndimage import distance_transform_edt

    slim = rng.uniform(0.04, 0.3) if rng.random() < EDGE_ON else 1.0
    wide = long * rng.uniform(0.45, 1.1) * slim
    stem = long * rng.uniform(0.3, 3.0)
    inside = head(rng, canvas.u, canvas.v, 0.5 * long, 0.5 * wide)
    depth = distance_transform_edt(inside) - distance_transform_edt(~inside)  # px, > 0 inside
    pin(rng, canvas, -long - stem, wide / slim)
    if kind == "nylon":
        fiber = max(float(np.exp(rng.uniform(*np.log(FIBER)))) * long, 0.7)
        loop_of_fiber(rng, canvas, depth, -long, fiber)
        opening = depth > fiber
    else:
        opening = film(rng, canvas, depth, (long, wide, stem), wide / slim)
    if rng.random() < HELD:
        contents(rng, canvas, depth, opening, wide)


def empty(rng: np.random.Generator, tip: float) -> Canvas:
    """Draw the light, and where the mount will be, its tip in this column: tilted and bent."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    row, tilt = rng.uniform(0.25, 0.75) * HEIGHT, rng.normal(0, 0.08)
    far, across = x - tip, y - row
    u, v = far + tilt * across, across - tilt * far
    v += rng.normal(0, 2e-4) * np.minimum(u, 0) ** 2
    front = rng.random() < FRONT
    level = rng.uniform(15, 120) if front else rng.uniform(80, 235)
    slope = rng.normal(0, 0.1, 2)
    shade = 1 + slope[0] * (x / WIDTH - 0.5) + slope[1] * (y / HEIGHT - 0.5)
    shade -= rng.uniform(0, 0.5) * ((x / WIDTH - 0.5) ** 2 + (y / HEIGHT - 0.5) ** 2)
    return Canvas(u, v, level * shade, front)


def head(rng: np.random.Generator, u: Any, v: Any, a: float, b: float) -> Any:
    """Return what is inside an ellipse, drop or box with round corners, 2 a long and 2 b wide."""
    along = (u + a) / a
    taper = rng.uniform(0, 0.6)
    power = rng.uniform(1.7, 3.2)
    across = np.abs(v) / np.maximum(
        b * (1 + taper * np.clip(along, -1, 1)) / (1 + 0.5 * taper), 0.5
    )
    return np.abs(along) ** power + across**power < 1


def tube(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw how a fiber looks: what its sides and its middle take, and how wide the middle is."""
    sides = rng.uniform(0.25, 0.9)
    return sides, sides * rng.uniform(-0.3, 1.0), rng.uniform(0.2, 0.8)


def loop_of_fiber(
    rng: np.random.Generator, canvas: Canvas, depth: Any, neck: float, fiber: float
) -> None:
    """Draw a fiber around the head, and two behind it, wound about each other or side by side."""
    sides, middle, core = tube(rng)
    u, v = canvas.u, canvas.v
    turns = 2 * np.pi / (fiber * rng.uniform(6.0, 60.0)) * (rng.random() < 0.85)
    apart = fiber * (rng.uniform(0.5, 1.1) if rng.random() < 0.85 else rng.uniform(0.0, 2.0))
    angle = turns * (u - neck) + rng.uniform(0, 2 * np.pi)
    for sign in (1.0, -1.0):
        at = sign * apart * np.cos(angle)
        slope = apart * turns * np.sin(angle)
        place = np.abs(v - at) / np.sqrt(1 + slope**2) / fiber
        strand(canvas, np.where(u < neck + fiber, place, 9.0), (sides, middle, core))
    strand(canvas, np.abs(depth) / fiber, (sides, middle, core))


def strand(canvas: Canvas, place: Any, look: tuple[float, float, float]) -> None:
    """Draw a fiber; `place` is the distance from its axis over its radius."""
    sides, middle, core = look
    across = np.clip((1.2 - place) / 0.4, 0, 1)
    inner = np.clip((core - place) / 0.3 + 0.5, 0, 1)
    canvas.take(across * (1 - inner), sides)
    canvas.take(across * inner, middle)


def film(
    rng: np.random.Generator,
    canvas: Canvas,
    depth: Any,
    size: tuple[float, float, float],
    face: float,
) -> Any:
    """Draw a film with its stem, edges and apertures; return what is open or may hold a drop.

    `size` is length and extent of the head as seen and length of the stem, `face` the extent that
    the head has face-on.
    """
    from scipy.ndimage import distance_transform_edt

    long, wide, stem = size
    u, v = canvas.u, canvas.v
    seen = wide / face
    neck, foot = rng.uniform(0.1, 0.4) * face, rng.uniform(0.2, 1.6) * face
    part = np.clip((-long - u) / stem, 0, 1)
    half = 0.5 * np.maximum((neck + (foot - neck) * part ** rng.uniform(0.6, 2.0)) * seen, 1.5)
    behind = (u < -0.93 * long) & (np.abs(v) < half)
    rim = rng.uniform(0.06, 0.2) * long
    across = depth / max(seen, 0.15)
    aperture = (across > rim) & (depth > 0) if rng.random() < 0.85 else np.zeros_like(behind)
    if rng.random() < 0.12:
        aperture &= np.abs(u + rng.uniform(0.3, 0.7) * long) > 0.5 * rim  # a bar across
    whole = (depth > 0) | behind
    body = whole & ~aperture
    canvas.take(body, rng.uniform(0.0, 0.4) / max(seen, 0.5))
    edge = max(rng.uniform(0.008, 0.03) * long, 0.7)
    for region in (whole, aperture):
        if region.any():
            line = np.clip(edge + 0.5 - distance_transform_edt(region), 0, 1) * region
            canvas.take(line, rng.uniform(0.1, 0.8))
    return aperture if aperture.any() else depth > rim


def contents(
    rng: np.random.Generator, canvas: Canvas, depth: Any, opening: Any, wide: float
) -> None:
    """Draw what the head holds: a drop in its opening or about it, clear or frozen, a crystal."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    kind = rng.random()
    if kind < 0.75:
        swollen = rng.random() < 0.35
        region = depth > -rng.uniform(0.0, 0.12) * wide if swollen else opening
        if not swollen and rng.random() < UNFILLED:
            region = depth > rng.uniform(0.05, 0.25) * wide
        if rng.random() < 0.25:
            rough = gaussian_filter(rng.normal(size=depth.shape), rng.uniform(1.5, 4))
            region = depth + rough / rough.std() * rng.uniform(0.0, 0.03) * wide > 0
            canvas.take(region * (1 + 0.2 * rough / rough.std()), rng.uniform(0.3, 0.9))
        elif region.any():
            inner = distance_transform_edt(region)
            lens = np.exp(-inner / max(rng.uniform(0.03, 0.3) * wide, 1.0)) * region
            canvas.take(lens, rng.uniform(0.2, 1.0))
            canvas.take(region, rng.uniform(-0.1, 0.25))
    if rng.random() < 0.6:
        crystal(rng, canvas, depth, wide)


def crystal(rng: np.random.Generator, canvas: Canvas, depth: Any, wide: float) -> None:
    """Draw a polygon within the head: the common part of some half planes."""
    k = int(np.argmax(depth))
    u0, v0 = canvas.u.flat[k], canvas.v.flat[k]
    size = rng.uniform(0.08, 0.4) * max(wide, 8.0)
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(0.6, 1.6, 6))
    far = np.max(
        [
            (np.cos(t) * (canvas.u - u0) + np.sin(t) * (canvas.v - v0)) / rng.uniform(0.5, 1.0)
            for t in angles
        ],
        axis=0,
    )
    canvas.take(np.clip(size - far, 0, 1), rng.uniform(0.0, 0.6))
    canvas.take(np.clip(1.5 - np.abs(far - size), 0, 1), rng.uniform(0.1, 0.7))


def pin(rng: np.random.Generator, canvas: Canvas, end: float, face: float) -> None:
    """Draw the pin, with glue at its end or a step."""
    u, v = canvas.u, canvas.v
    half = max(rng.uniform(0.2, 0.9) * face, 6.0)
    part = np.where(u < end - rng.uniform(1, 4) * half, rng.choice([1.0, 1.5]), 1.0)
    if rng.random() < 0.4:
        cone = rng.uniform(0.5, 2.0) * half
        part = np.where(u > end, np.clip(1 - (u - end) / cone, 0, 1) * 0.8, part)
        end += cone
    body = np.clip(half * part - np.abs(v) + 0.5, 0, 1) * np.clip(end - u + 0.5, 0, 1)
    level = rng.uniform(0, 40)
    if canvas.front:
        level = level + rng.uniform(20, 160) * np.exp(
            -(((v / half - rng.uniform(-0.6, 0.6)) / rng.uniform(0.1, 0.6)) ** 2)
        )
    canvas.cover(body, level)


def dust(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draw spots and rings anywhere."""
    for _ in range(int(rng.exponential(2.0))):
        u, v = rng.uniform(-WIDTH, 100), rng.uniform(-HEIGHT / 2, HEIGHT / 2)
        near = np.hypot(canvas.u - u, canvas.v - v) - rng.choice([0.0, 1.0]) * rng.uniform(2, 8)
        spot = np.exp(-((near / rng.uniform(1, 4)) ** 2))
        canvas.gray *= 1 - rng.uniform(0.05, 0.4) * spot
