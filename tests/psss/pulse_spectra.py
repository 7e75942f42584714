"""Pulses for the tests of the processing: spectra from SASE physics, pictures with their noise.

Written from the physics alone: it shares no code with what it tests.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EV_FS = 4.135667
"""Planck's constant, eV fs."""

Array = NDArray[np.float64]


def energy_axis(columns: int = 2560, center: float = 9000.0, window: float = 60.0) -> Array:
    """Return a photon energy axis, eV; read-only as in settings: kernels are compiled for that."""
    axis = np.linspace(center - window / 2, center + window / 2, columns)
    axis.setflags(write=False)
    return axis


def gaussian(x: Array, center: float, sigma: float) -> Array:
    """Return a Gaussian of height 1."""
    return np.exp(-0.5 * ((x - center) / sigma) ** 2)


def sase(x: Array, rng: np.random.Generator, center: float, sigma: float, pulse_fs: float) -> Array:
    """Return one SASE spectrum: filtered white noise in time, under a Gaussian gain curve.

    The field is complex white noise under a Gaussian pulse in time (FWHM of its intensity
    `pulse_fs`), its spectrum under a Gaussian of `sigma`: spikes about EV_FS / `pulse_fs` wide
    with exponentially distributed strengths. Mean height about 1.
    """
    span = 4.0 * abs(x[-1] - x[0])
    modes = 1 << int(np.ceil(np.log2(span * 16.0 * pulse_fs / EV_FS)))
    energies = np.fft.fftshift(np.fft.fftfreq(modes, 1.0 / span))
    times = np.fft.fftfreq(modes, span / modes) * EV_FS
    noise = rng.normal(size=modes) + 1j * rng.normal(size=modes)
    envelope = gaussian(times, 0.0, pulse_fs / 2.3548 * np.sqrt(2.0))
    field = np.fft.fftshift(np.fft.fft(np.fft.ifft(noise) * envelope))
    intensity = np.abs(field) ** 2
    intensity /= 2.0 * np.mean(envelope**2)
    return np.interp(x - x.mean(), energies, intensity) * gaussian(x, center, sigma)


@dataclass(frozen=True)
class Detector:
    """A camera: vertical profile of the light, dark level and noise of its pixels."""

    rows: int = 64
    profile_sigma: float = 12.0
    dark: float = 100.0
    read_noise: float = 2.0
    counts_per_photon: float = 1.0

    def profile(self) -> Array:
        """Return the part of a column's light in each row."""
        rows = np.arange(self.rows)
        profile = gaussian(rows, (self.rows - 1) / 2, self.profile_sigma)
        return profile / profile.sum()

    def background(self) -> NDArray[np.uint16]:
        """Return the dark picture's pattern, without noise, of one column; the same in all."""
        return np.round(self.dark + 3.0 * np.sin(np.arange(self.rows))).astype(np.uint16)

    def picture(self, spectrum: Array, rng: np.random.Generator) -> NDArray[np.uint16]:
        """Expose (W,) counts of each column: (rows, W) pixels with shot and read noise."""
        light = self.profile()[:, None] * spectrum[None, :]
        photons = rng.poisson(light / self.counts_per_photon)
        noise = rng.normal(0.0, self.read_noise, light.shape)
        pixels = photons * self.counts_per_photon + noise + self.background()[:, None]
        return np.clip(np.round(pixels), 0, 65535).astype(np.uint16)

    def variance(self, spectrum: Array) -> Array:
        """Return the variance of the column sums; rounding to whole counts is in it."""
        return self.counts_per_photon * spectrum + self.rows * (self.read_noise**2 + 1.0 / 12.0)


def cramer_rao(x: Array, amplitude: float, center: float, sigma: float, variance: Array) -> Array:
    """Return the least standard deviations of (amplitude, center, sigma, offset), normal noise."""
    g, u = gaussian(x, center, sigma), (x - center) / sigma
    slopes = np.stack(
        [g, amplitude * g * u / sigma, amplitude * g * u * u / sigma, np.ones(len(x))]
    )
    return np.sqrt(np.diag(np.linalg.inv((slopes / variance) @ slopes.T)))
