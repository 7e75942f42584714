"""What is no mount in pictures of `relief`: nozzles, capillaries, stops, dust, text, borders.

Each of them is what it covers, what it lets through, and the light that it sends.
"""

import numpy as np
from heights import Array, area, blurred, chance, log_between
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter


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
