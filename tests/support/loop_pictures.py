"""Drawn pictures of loops: plain shapes whose every edge is known."""

from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray

LIGHT, DARK = 200.0, 60.0


@dataclass(frozen=True)
class Drawn:
    """A pin, a stem and an elliptical loop on their common axis, px, from the left.

    `pin_end`, `stem_end` and `tip` are x of the ends; the loop goes from `stem_end` to `tip`.
    """

    width: int = 704
    height: int = 480
    row: float = 240.0
    pin_end: float = 150.0
    pin_half: float = 45.0
    stem_end: float = 330.0
    tip: float = 450.0
    half: float = 50.0
    side: str = "left"
    seed: int = 0
    bare: bool = False
    """Only the pin is there."""

    def gray(self) -> NDArray[np.uint8]:
        """Return the picture, (H, W) uint8."""
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float64)
        if self.side == "right":
            x = self.width - 1 - x
        v = np.abs(y - self.row)
        middle, length = 0.5 * (self.stem_end + self.tip), 0.5 * (self.tip - self.stem_end)
        radius = np.hypot((x - middle) / length, (y - self.row) / self.half)
        rim = np.abs(radius - 1.0) * min(length, self.half)
        ring = (radius <= 1.0) & (rim <= 5.0)
        pin = (x <= self.pin_end) & (v <= self.pin_half)
        stem = (x > self.pin_end) & (x <= self.stem_end + 2) & (v <= 4.0)
        picture = np.where(pin if self.bare else ring | pin | stem, DARK, LIGHT)
        noise = np.random.default_rng(self.seed).normal(0.0, 1.5, picture.shape)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)

    def jpeg(self) -> bytes:
        """Return the picture as a file."""
        return to_jpeg(self.gray())


def to_jpeg(gray: NDArray[np.uint8]) -> bytes:
    """Return a gray picture as a JPEG file."""
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(gray[:, :, np.newaxis]), quality=90, colorspace="GRAY"
    )


def turned(phi_deg: float, drawn: Drawn | None = None) -> Drawn:
    """Return a flat loop that turns: face-on at 0 deg, edge-on at 90 deg, off the axis a little."""
    drawn = drawn or Drawn()
    face, edge = 60.0, 15.0
    phi = np.deg2rad(phi_deg)
    half = float(np.hypot(face * np.cos(phi), edge * np.sin(phi)))
    row = 240.0 + 8.0 * float(np.cos(phi + 0.5))
    return replace(drawn, half=half, row=row, seed=int(phi_deg) % 360)


def empty(level: float = LIGHT, noise: float = 2.0, seed: int = 0) -> NDArray[np.uint8]:
    """Return a view without anything in it."""
    y, x = np.mgrid[0:480, 0:704]
    light = level - 20.0 * np.hypot((x - 352) / 352, (y - 240) / 240)
    picture = light + np.random.default_rng(seed).normal(0.0, noise, light.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)
