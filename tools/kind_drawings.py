"""Plain drawings of loops and mounts, beside the twin's scenes, for `train_kind_net.py`."""

from typing import Any

import numpy as np


def drawing(rng: Any, kind: str) -> Any:
    """Draw an ellipse on a straight stem, the pin at the left: (352, 480) uint8."""
    return drawing_with_mask(rng, kind)[0]


def drawing_with_mask(rng: Any, kind: str) -> tuple[Any, Any, tuple[float, float]]:
    """Return the drawing, (352, 480) uint8 with 1 for the mount and 2 for its head, and the tip."""
    from scipy.ndimage import gaussian_filter

    y, x = np.mgrid[0:352, 0:480].astype(np.float32)
    tip, row = rng.uniform(180, 450), rng.uniform(110, 240)
    x, y = x - tip, y - row + (x - tip) * rng.normal(0, 0.04)
    a = rng.uniform(20, 90)
    b = max(a * rng.uniform(0.45, 1.05) * (rng.uniform(0.15, 1) if rng.random() < 0.3 else 1), 3)
    # A film of nothing but a fiber, or of broad rims with clear film between.
    line = rng.uniform(2, max(0.16 * a, 3)) if kind == "nylon" else rng.uniform(0.15, 0.45) * a
    radius = np.hypot((x + a) / a, y / b)
    inner = np.hypot((x + a) / max(a - line, 1), y / max(b - line, 0.5)) < 1
    opacity = np.zeros_like(x)
    dark = rng.uniform(0.25, 0.9)
    if kind == "nylon":
        stem = (x < -1.95 * a) & (np.abs(y) < line * rng.uniform(0.5, 1.1))
        opacity[((radius < 1) & ~inner) | stem] = dark
    else:
        stem = (x < -1.9 * a) & (np.abs(y) < b * rng.uniform(0.25, 0.6))
        film = ((radius < 1) | stem) & ~inner
        rim = film & (gaussian_filter(film.astype(np.float32), rng.uniform(1, 2)) < 0.9)
        opacity[film] = dark * rng.uniform(0.05, 0.4)
        opacity[rim] = dark
    if rng.random() < 0.4:
        opacity[inner] = np.maximum(opacity[inner], rng.uniform(0.02, 0.5))
    pin = rng.uniform(0, 1.2) * (tip - 2 * a) - tip
    black = rng.uniform(0.5, 0.95)
    body = (x < pin) & (np.abs(y) < rng.uniform(20, 60))
    opacity[body] = black
    shade = 1 + rng.normal(0, 0.1) * x / 480 + rng.normal(0, 0.1) * (y / 352) ** 2
    bright = rng.uniform(110, 225) * shade * (1 - gaussian_filter(opacity, rng.uniform(0.6, 1.6)))
    gray = np.clip(bright + rng.normal(0, rng.uniform(0.5, 3), x.shape), 0, 255).astype(np.uint8)
    parts = (body | stem).astype(np.uint8)
    parts[radius < 1] = 2
    return gray, parts, (float(tip), float(row))
