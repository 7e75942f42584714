"""Rotations for tests, in geometry of their own: what a camera sees of a point on a spindle."""

from dataclasses import dataclass

import numpy as np

from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.series import Series, from_detections


@dataclass(frozen=True)
class Rotation:
    """A point (x, y, z) um on a spindle at row `axis`; column 352 is x = 0, the pin is left."""

    x: float = 100.0
    y: float = 150.0
    z: float = -90.0
    axis: float = 236.0
    um_per_px: float = 6.7

    def tips(self, phi_deg: np.ndarray) -> np.ndarray:
        """Columns and rows (n, 2) px, straight from the formula of the facts."""
        phi = np.radians(phi_deg)
        rows = self.axis + (self.y * np.cos(phi) - self.z * np.sin(phi)) / self.um_per_px
        columns = np.full_like(rows, 351.5 + self.x / self.um_per_px)
        return np.stack([columns, rows], axis=1)

    @property
    def offset_um(self) -> np.ndarray:
        return np.array([self.x, self.y, self.z])


def random_rotation(rng: np.random.Generator) -> Rotation:
    radius, angle = rng.uniform(0, 400), rng.uniform(0, 2 * np.pi)
    return Rotation(
        x=rng.uniform(-500, 500),
        y=radius * np.cos(angle),
        z=radius * np.sin(angle),
        axis=240 + rng.uniform(-40, 40),
    )


def correlated(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    """Errors (n,) of variance 1 that last from frame to frame."""
    noise = rng.normal(size=n)
    for i in range(1, n):
        noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return noise


def ellipse_width(phi_deg: np.ndarray, face_deg: float, wide: float, thin: float) -> np.ndarray:
    """Seen extent of a flat ellipse that is face-on at `face_deg`."""
    turn = np.radians(phi_deg - face_deg)
    return np.sqrt((wide * np.cos(turn)) ** 2 + (thin * np.sin(turn)) ** 2)


def tips_alone(phi_deg: np.ndarray, tips_px: np.ndarray) -> Series:
    """A series in which nothing but tips (n, 2) px is known."""
    told = {"tip_sign": "", "kind": "", "kind_odds": 1.0, "score": 1.0}
    return from_detections(phi_deg, [Detection(tip_x=x, tip_y=y, **told) for x, y in tips_px])
