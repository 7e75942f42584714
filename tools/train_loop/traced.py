"""A ray tracer of mounts: rays along z through bodies in three dimensions, with real optics.

Transparent bodies refract: a ray that leaves in another direction sees another part of the lamp
behind, a disc of finite size, and that makes dark rims and bright middles. Opaque ones reflect
lamps and the lamp behind. Lengths are pixels, x along the mount, z away from the camera.
"""

from typing import Any

import numpy as np
from names import MASKS
from PIL import Image, ImageDraw
from sample import NO_BOX, NOWHERE, Sample
from scipy.ndimage import gaussian_filter
from traced_bodies import Floats, Stage, bare_pin, ground_of, spread, trace_mount

FORMATS = ((456, 304), (440, 330), (420, 300), (400, 320), (340, 340), (464, 312), (372, 256))
KINDS_DRAWN = {"nylon": 0.42, "mitegen": 0.34, "pin": 0.13, "none": 0.11}
APART_PX = 8  # between clutter and the tip
SEEN_MIN = 6.0  # gray levels at the tip


def foreign(rng: np.random.Generator, like: Stage, alone: bool) -> tuple[Floats, Floats]:
    """Return what some equipment lets through and the light it sends: cones, wires, dust, text."""
    width, height = like.width, like.height
    stage = Stage(rng, width, height, 1)
    stage.lights, stage.behind, stage.level = like.lights, like.behind, like.level
    what = rng.choice(["cone", "wire", "dust", "text", "edge", "pillar", "capillary"])
    blur = rng.uniform(0, 3) if rng.random() < 0.5 else 0.0
    start = np.array([rng.uniform(0.1, 1) * width, -5.0])
    aim = np.array([rng.uniform(0.2, 1) * width, rng.uniform(0.1, 0.5) * height])
    if rng.random() < 0.5:
        start[1], aim[1] = height + 5, height - aim[1]
    if rng.random() < 0.2:
        start, aim = np.array([width + 5, start[0] / width * height]), aim
    long = float(np.hypot(*(aim - start)))
    ca, sa = (aim - start) / long
    if what in ("cone", "pillar", "capillary"):
        r = np.linspace(1, rng.uniform(0.1, 1), int(long) + 3) * height * spread(rng, 0.02, 0.16)
        shape = np.stack([r, r, 0 * r])
        frame = (*start, ca, sa, 1.0, 0.0, 1.0)
        if what == "capillary":
            stage.solid(frame, shape, 1, stage.glass(), 1.4, 0.01)
        else:
            stage.solid(frame, shape, 1, stage.metal())
        sharp = not alone and what != "pillar" and rng.random() < 0.6
        blur = blur if sharp else height * rng.uniform(0.015, 0.05)
    elif what == "wire":
        bow = rng.normal(0, 0.2) * np.linspace(0, 1, 30) ** 2
        points = start + np.linspace(0, 1, 30)[:, None] * (aim - start)
        points = points + bow[:, None] * np.array([-sa, ca]) * long
        stage.tube(np.c_[points, 0 * bow], rng.uniform(0.6, 1.6), 1, 1.5, 2.0)
        if rng.random() < 0.5:  # a beam stop at its end
            t = np.sqrt(1 - np.linspace(-1, 1, 30) ** 2) * height * spread(rng, 0.01, 0.06)
            frame = (*(points[-1] - [t.max(), 0]), 1.0, 0.0, 1.0, 0.0, t.max() / 15 + 0.05)
            stage.solid(frame, np.stack([t, t, 0 * t]), 1, stage.metal())
    elif what == "dust":
        for _ in range(rng.integers(2, 12)):
            p = np.r_[rng.uniform(0, 1, 2) * (width, height), 0]
            q = p + np.r_[rng.normal(0, 1, 2) * spread(rng, 0.3, 10), 0]
            stage.tube(np.stack([p, q]), spread(rng, 0.6, 3), 1, 1.4, rng.uniform(0, 1))
    else:
        flat_clutter(rng, stage, what)
    through, light = stage.layer[2], stage.layer[3]
    if what not in ("cone", "pillar", "text", "edge"):
        ground = np.full((height, width), stage.level)
        light = stage.developed(ground) - through * stage.level
    if what == "edge":
        blur = rng.uniform(0, 8)
    if blur < 0.3:
        return through, light
    return (
        gaussian_filter(through, blur, truncate=2.5),
        gaussian_filter(np.asarray(light, np.float32), blur, truncate=2.5),
    )


def flat_clutter(rng: np.random.Generator, stage: Stage, what: str) -> None:
    """Draw letters and lines, or the edge of the lamp behind or of a frame."""
    width, height = stage.width, stage.height
    picture = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(picture)
    if what == "text":
        words = " ".join(str(v) for v in rng.integers(0, 9999, rng.integers(1, 5)))
        at = (rng.uniform(0, 0.6) * width, rng.choice([0.02, 0.93]) * height)
        draw.text(at, words, fill=255, font_size=int(rng.integers(8, 17)))
        if rng.random() < 0.4:
            x, y = rng.uniform(0.2, 0.8, 2) * (width, height)
            draw.line([(x, 0), (x, height)], fill=200)
            draw.line([(0, y), (width, y)], fill=200)
    else:
        inset = rng.integers(2, 0.06 * height, 4)
        box = (inset[0], inset[1], width - inset[2], height - inset[3])
        draw.rectangle((0, 0, width, height), fill=255)
        draw.rounded_rectangle(box, radius=int(rng.integers(0, 40)), fill=0)
    part = np.asarray(picture) / 255.0
    stage.layer[2] *= 1 - part
    stage.layer[3] += part * rng.choice([0.0, 255.0, rng.uniform(0, 255)], p=[0.5, 0.2, 0.3])


def _free(through: Floats, tip: tuple[float, float]) -> bool:
    """Tell whether clutter stays away from the tip."""
    if not np.isfinite(tip[0]):
        return True
    r, c = max(int(tip[1]), 0), max(int(tip[0]), 0)
    near = through[max(r - APART_PX, 0) : r + APART_PX + 1, max(c - APART_PX, 0) : c + APART_PX + 1]
    return near.size == 0 or bool(near.min() > 0.95)


def defocused(stage: Stage, gray: Floats) -> Floats:
    """Blur what is far from the plane in focus, and all of it a little."""
    rng = stage.rng
    far = np.abs(stage.depth[:: stage.scale, :: stage.scale] - rng.normal(0, 0.02) * stage.width)
    far = far / stage.width * rng.uniform(4, 14)
    gray = gray.astype(np.float32)
    if far.max() > 0.05:
        part = np.clip(gaussian_filter(far * (stage.depth[::2, ::2] != 0), 1.5), 0, 1)
        gray = gray + part * (gaussian_filter(gray, rng.uniform(1, 2.5)) - gray)
    return gaussian_filter(gray, rng.uniform(0.2, 1.3)).astype(np.float64)


def traced(rng: np.random.Generator) -> Sample:
    """Trace one picture; the mount enters at the left."""
    width, height = FORMATS[rng.integers(len(FORMATS))]
    kind = str(rng.choice(list(KINDS_DRAWN), p=list(KINDS_DRAWN.values())))
    stage = Stage(rng, width, height)
    ground = ground_of(rng, stage)
    masks = np.zeros((len(MASKS), height, width), bool)
    tip, begin, box, second, filled = NOWHERE, NOWHERE, NO_BOX, NOWHERE, None
    if kind == "pin":
        tip, box = bare_pin(stage)
    elif kind != "none":
        tip, begin, box, filled = trace_mount(stage, kind == "mitegen")
    if kind != "none":
        for k in range(4):
            masks[k] = stage.seen(1 << k)
        masks[1] &= ~masks[0]
        if filled is not None:
            masks[2] |= filled
        out = np.flatnonzero(stage.seen(16).any(0))
        if len(out) and out[-1] > tip[0] + 2:
            rows = np.flatnonzero(stage.seen(16)[:, out[-1]])
            second = (float(out[-1] + 0.5), float(rows.mean()))
    pieces: list[Any] = []
    if rng.random() < 0.45:
        for _ in range(rng.integers(1, 4)):
            piece = foreign(rng, stage, kind in ("none", "pin"))
            if _free(piece[0], tip) and _free(piece[0], second):
                pieces.append((rng.random() < 0.4, *piece))
    for behind, through, light in pieces:
        if behind:
            ground = ground * through + light
    gray = seen_tip(stage, stage.developed(ground), ground, tip) if kind != "none" else ground
    gray = defocused(stage, gray) if kind != "none" else gray
    for behind, through, light in pieces:
        if not behind:
            gray = gray * through + light
            masks[:4] &= through > 0.3
        masks[4] |= through < 0.6
    if rng.random() < 0.7:  # as a camera whose highlights are soft
        gray = np.where(gray > 190, 190 + 65 * np.tanh((gray - 190) / 90), gray)
    side = "none" if kind == "none" else "left"
    return Sample(gray, masks, kind, side, tip, begin, second_tip=second, box=box)


def seen_tip(stage: Stage, gray: Floats, ground: Floats, tip: tuple[float, float]) -> Floats:
    """Raise a mount's contrast, then its darkness, until its tip differs from the background."""
    r, c = (round(v) if np.isfinite(v) else -9 for v in tip[::-1])
    part = np.s_[max(r - 2, 0) : max(r + 3, 0), max(c - 3, 0) : max(c + 2, 0)]
    if not ground[part].size:
        return gray
    found = float(np.abs(gray[part] - ground[part]).mean())
    if found >= SEEN_MIN:
        return gray
    more = min(SEEN_MIN / (found + 0.1), 2.0)
    sign = 1.0 if gray[part].mean() > ground[part].mean() or stage.level < 30 else -1.0
    part_of = (stage.bits > 0).reshape(stage.height, 2, stage.width, 2).astype(np.float32)
    cover = 0.25 * (
        part_of[:, 0, :, 0] + part_of[:, 1, :, 1] + part_of[:, 0, :, 1] + part_of[:, 1, :, 0]
    )
    return ground + (gray - ground) * more + sign * cover * 1.5 * (SEEN_MIN - found * more)
