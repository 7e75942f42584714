"""The sensor: offset, fixed pattern, read noise, shot noise, full scale."""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss.twin.optics import stray_light
from skywright.instruments.psss.twin.settings import InstrumentSettings

NORMALS = 1 << 21
"""Number of pre-rendered random numbers; each row of a picture begins at a random place in them."""

FRAMES_MIN = 2

NO_PULSE = 1 << 63
"""Key of the pool's random numbers, instead of a pulse id; pulse ids are below it."""


class Camera:
    """Takes pictures of light. Its noisy dark frames come from a pool.

    Parameters
    ----------
    settings
        Settings of the instrument.
    seed
        Seed of the pool and the fixed pattern.

    Attributes
    ----------
    dark
        Picture of a dark pulse without noise, (rows, columns) float32, counts.
    """

    def __init__(self, settings: InstrumentSettings, seed: int) -> None:
        self.settings = settings
        rng = np.random.Generator(np.random.Philox(key=[seed, NO_PULSE]))
        stray = stray_light(settings)
        shape = stray.shape
        pattern = settings.fixed_pattern_counts * (
            rng.standard_normal(shape, np.float32)
            + rng.standard_normal((1, settings.columns), np.float32)
        )
        self.dark: NDArray[np.float32] = settings.offset_counts + pattern + stray
        shot = stray / settings.electrons_per_count if settings.shot_noise else 0.0
        self._sigma = np.sqrt(np.float32(settings.read_noise_counts**2) + shot)
        self._sigma = np.broadcast_to(self._sigma, shape).astype(np.float32)
        frame_bytes = 2 * math.prod(shape)
        frames = max(settings.pool_bytes // frame_bytes, FRAMES_MIN) if settings.pool_bytes else 0
        self._pool = np.empty((frames, *shape), np.uint16)
        self._normals = rng.standard_normal(NORMALS if frames else 0, np.float32)
        for frame in self._pool:
            starts = rng.integers(0, NORMALS - settings.columns, settings.rows)
            full = np.float32(settings.full_scale_counts)
            _add_noise(frame, self.dark, self._sigma, self._normals, starts, full)

    def expose(
        self,
        electrons: NDArray[np.float32],
        profile: NDArray[np.float32],
        first_row: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint16], int]:
        """Return a picture and the number of its pixels at full scale.

        Parameters
        ----------
        electrons
            Light on each column, (columns,) float32.
        profile
            Share of the light in each row of the band, (band rows, columns) float32.
        first_row
            First row of the band; it may lie outside the picture.
        rng
            Random numbers of the pulse.
        """
        s = self.settings
        top, bottom = max(first_row, 0), min(first_row + len(profile), s.rows)
        profile = profile[top - first_row : max(bottom - first_row, top - first_row)]
        if not len(self._pool):
            return self._expose_exactly(electrons, profile, top, rng)
        base = self._pool[rng.integers(len(self._pool))]
        image = np.empty_like(base)
        if top >= bottom:
            image[:] = base
            return image, 0
        image[:top], image[bottom:] = base[:top], base[bottom:]
        starts = rng.integers(0, NORMALS - s.columns, bottom - top)
        shot = np.float32(1.0 if s.shot_noise else 0.0)
        per_electron = np.float32(1.0 / s.electrons_per_count)
        band = slice(top, bottom)
        full = np.float32(s.full_scale_counts)
        saturated = _add_light(
            image[band], base[band], profile, electrons, self._normals, starts, per_electron, shot,
            full,
        )  # fmt: skip
        return image, saturated

    def _expose_exactly(
        self,
        electrons: NDArray[np.float32],
        profile: NDArray[np.float32],
        top: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.uint16], int]:
        s = self.settings
        image = np.empty(self.dark.shape, np.uint16)
        noisy = rng.standard_normal(image.shape, np.float32)
        noisy *= self._sigma
        noisy += self.dark
        light = profile.astype(np.float64) * electrons
        if s.shot_noise:
            light = rng.poisson(light).astype(np.float64)
        noisy[top : top + len(profile)] += light / s.electrons_per_count
        image[:] = np.clip(np.rint(noisy), 0.0, s.full_scale_counts)
        return image, int((image >= s.full_scale_counts).sum())


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_noise(image, dark, sigma, normals, starts, full):  # type: ignore[no-untyped-def]
    """Write a noisy frame without light."""
    half, zero = np.float32(0.5), np.float32(0.0)
    for row in range(image.shape[0]):
        z_row = normals[starts[row] : starts[row] + image.shape[1]]
        for column in range(image.shape[1]):
            counts = dark[row, column] + sigma[row, column] * z_row[column] + half
            image[row, column] = np.uint16(np.int32(min(max(counts, zero), full)))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_light(image, base, profile, electrons, normals, starts, per_electron, shot, full):  # type: ignore[no-untyped-def]
    """Add light and its shot noise to `base`; return the number of pixels at full scale.

    Poisson's numbers of mean m from a normal z: m + sqrt(m) z + (z^2 - 1) / 6, which has its mean
    and third moment and a variance 1 / 18 too large (Cornish and Fisher 1937); the last term is
    faded out below one electron.
    """
    sixth, half, one = np.float32(1.0 / 6.0), np.float32(0.5), np.float32(1.0)
    saturated = 0
    for row in range(image.shape[0]):
        z_row = normals[starts[row] : starts[row] + image.shape[1]]
        for column in range(image.shape[1]):
            mean = electrons[column] * profile[row, column]
            z = z_row[column]
            skew = (z * z - one) * sixth * min(mean, one)
            light = mean + shot * (np.sqrt(mean) * z + skew)
            counts = np.float32(base[row, column]) + light * per_electron + half
            counts = min(max(counts, np.float32(0.0)), full)
            saturated += counts >= full
            image[row, column] = np.uint16(np.int32(counts))
    return saturated
