"""Drawings of mounts and how far off their tip is found.

An opacity map (0 clear, 1 opaque) with the pin from the left, blurred, lit and noisy.
"""

import numpy as np
from scipy.ndimage import gaussian_filter


def canvas(height=480, width=704):
    y, x = np.mgrid[0:height, 0:width].astype(float)
    return np.zeros((height, width)), x, y


def put(opacity, mask, value=0.85):
    opacity[mask] = np.maximum(opacity[mask], value)


def nylon(tip=460.0, row=240.0, length=110.0, half=38.0, line=5.0, pin=120.0, open_=1.0):
    """Pin to x = `pin`, a straight stem, an elliptic ring that ends at x = `tip`."""
    opacity, x, y = canvas()
    put(opacity, (x < pin) & (np.abs(y - row) < 45))
    put(opacity, (x < tip - length + 2) & (np.abs(y - row) < line * 0.7))
    a, b = length / 2, max(half * open_, line / 2)
    outer = ((x - tip + a) / a) ** 2 + ((y - row) / b) ** 2 <= 1
    inner = ((x - tip + a) / (a - line)) ** 2 + ((y - row) / max(b - line, 0.1)) ** 2 <= 1
    put(opacity, outer & ~inner)
    return opacity


def shot(opacity, level=190.0, noise=1.5, blur=0.8, gradient=0.15, seed=1):
    """Back light: level with gradient and vignette times what is not absorbed."""
    height, width = opacity.shape
    y, x = np.mgrid[0:height, 0:width]
    shade = 1 + gradient * (x / width - 0.5) - gradient * ((y / height - 0.5) ** 2)
    rng = np.random.default_rng(seed)
    bright = level * shade * (1 - gaussian_filter(opacity, blur))
    return np.clip(bright + rng.normal(0, noise, opacity.shape), 0, 255).astype(np.uint8)


def distance(found, tip):
    """How far from a place (x, y) the tip is found, px."""
    return float(np.hypot(found.tip_x - tip[0], found.tip_y - tip[1]))
