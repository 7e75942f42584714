"""Labelled pictures from maps of thickness: bodies of glass, nylon, film and metal in a light.

Each part of the mount is a body with a thickness at every pixel. What is absorbed, refracted and
reflected follows from the thickness, its slope and its curvature. The mount enters at the left.
"""

import functools
from pathlib import Path

import numpy as np
import skimage.data
from heights import KINDS, PIXELS, Array, Scene, blurred, chance, grain, log_between, mount
from PIL import Image
from relief_clutter import cluttered
from sample import NO_BOX, NOWHERE, Sample
from scipy.ndimage import gaussian_filter, laplace

PHOTOS = (
    "camera.png", "astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "moon.png",
    "brick.png", "grass.png", "gravel.png", "coins.png", "page.png", "retina.jpg",
    "hubble_deep_field.jpg", "ihc.png",
)  # fmt: skip


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
