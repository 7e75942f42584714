"""Spectra of single pulses of a self-amplified free-electron laser.

The field is Gaussian noise under the gain curve, cut out by the pulse's envelope in time, with a
chirp. Its spectrum then has spikes about h / length wide under an envelope whose variance is that
of the gain curve, of the envelope's own transform, and of the chirp (Saldin, Schneidmiller,
Yurkov, Optics Communications 148, 383 (1998)); the energy is nearly gamma-distributed by itself.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.optimize import brentq
from scipy.special import eval_genlaguerre

from skywright.instruments.psss.twin.settings import FWHM_PER_SIGMA, InstrumentSettings

H_EV_FS = 4.135667696
HBAR_EV_FS = H_EV_FS / (2.0 * math.pi)
LENGTHS_IN_WINDOW = 8.0
"""Period in time of the grid of energies, in pulse lengths; light outside of it folds back."""
TERMS = 32
"""Orders of the spectrum of a saturated field; the power of the next ones is below 1e-3."""
GRID_MARGIN = 1.6
"""Range of the grid of energies, in windows of the settings."""


@dataclass(frozen=True, slots=True)
class PulseParameters:
    """Parameters that differ from pulse to pulse.

    Attributes
    ----------
    center_ev, fwhm_ev
        Center and FWHM of the envelope: of the mean of many such pulses, as the detector would see
        it without saturation.
    gain_sigma_ev
        Standard deviation of the gain curve.
    length_fs
        Length of the pulse, FWHM.
    """

    center_ev: float
    fwhm_ev: float
    gain_sigma_ev: float
    length_fs: float

    @property
    def sigma_fs(self) -> float:
        """Standard deviation of the pulse in time."""
        return self.length_fs / FWHM_PER_SIGMA

    @property
    def modes(self) -> float:
        """M of a chaotic field: the inverse of the relative variance of its pulse energy."""
        return math.hypot(1.0, 2.0 * self.gain_sigma_ev / HBAR_EV_FS * self.sigma_fs)


class SpectrumModel:
    """Makes spectra on the detector's columns.

    Parameters
    ----------
    settings
        Settings of the instrument.
    """

    def __init__(self, settings: InstrumentSettings) -> None:
        self.settings = settings
        step = settings.ev_per_pixel
        span = LENGTHS_IN_WINDOW * settings.pulse_length_fs
        self._finer = max(math.ceil(step * span / H_EV_FS), 1)
        self._step_ev = step / self._finer
        needed = settings.columns * self._finer
        self._size = 1 << math.ceil(math.log2(GRID_MARGIN * needed))
        self._first = (self._size - needed) // 2
        from_first = np.arange(self._size) - self._first - 0.5 * (self._finer - 1)
        self._grid_ev = settings.axis_ev[0] + from_first * self._step_ev
        time_step = H_EV_FS / (self._size * self._step_ev)
        self._time_fs = (np.arange(self._size) - self._size // 2) * time_step

    def parameters(self, rng: np.random.Generator) -> PulseParameters:
        """Draw the parameters of a pulse."""
        return self.parameters_at(*rng.standard_normal(3))

    def parameters_at(self, *jitter: float) -> PulseParameters:
        """Return the parameters of a pulse.

        Parameters
        ----------
        *jitter
            Deviations of center, bandwidth and length from their means, in units of their rms.
        """
        s = self.settings
        center = s.photon_energy_ev + s.energy_jitter_ev * jitter[0]
        # Never near zero, whatever the jitter.
        bandwidth = s.bandwidth_ev * max(1.0 + s.bandwidth_jitter * jitter[1], 0.2)
        length = s.pulse_length_fs * max(1.0 + s.pulse_length_jitter * jitter[2], 0.2)
        gain_sigma = bandwidth / FWHM_PER_SIGMA
        if s.kind == "gaussian":
            return PulseParameters(center, bandwidth, gain_sigma, length)
        sigma_fs = length / FWHM_PER_SIGMA
        variance = (
            (HBAR_EV_FS / (2.0 * sigma_fs)) ** 2
            + (s.chirp_ev_per_fs * sigma_fs) ** 2
            + (s.resolution_ev / FWHM_PER_SIGMA) ** 2
        )
        fwhm = self._fwhm(gain_sigma, variance)
        return PulseParameters(center, fwhm, gain_sigma, length)

    def _fwhm(self, gain_sigma: float, variance: float) -> float:
        """Return the FWHM of the mean spectrum, eV.

        Parameters
        ----------
        gain_sigma
            Standard deviation of the gain curve, eV.
        variance
            Variance, eV^2, that other causes than saturation add to the mean spectrum.
        """
        if not self.settings.saturation:
            return FWHM_PER_SIGMA * math.sqrt(gain_sigma**2 + variance)
        # Products of 2 k + 1 Gaussian fields have 2 k + 1 times the variance of the gain curve.
        variances = (2 * np.arange(TERMS) + 1) * gain_sigma**2 + variance
        weights = self._saturated_powers / np.sqrt(variances)

        def above_half(half_width: float) -> float:
            return float(weights @ (np.exp(-0.5 * half_width**2 / variances) - 0.5))

        return 2.0 * float(brentq(above_half, 0.0, 4.0 * math.sqrt(variances[-1])))

    def spectrum(
        self, pulse: PulseParameters, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], float]:
        """Return light on each column and the pulse energy.

        Parameters
        ----------
        pulse
            Parameters of the pulse.
        rng
            Random numbers of the pulse.

        Returns
        -------
        (columns,) float64, shares of the energy of a mean pulse; energy in units of the mean.
        """
        if self.settings.kind == "gaussian":
            light, energy = self._envelope(pulse), 1.0
        else:
            light, energy = self._modes(pulse, rng)
        modes = self.settings.mode_count
        if modes is None and self.settings.kind == "gaussian":
            modes = pulse.modes
        if modes is not None:
            drawn = rng.gamma(modes, 1.0 / modes)
            light, energy = light * (drawn / energy), drawn
        return light, energy

    def _envelope(self, pulse: PulseParameters) -> NDArray[np.float64]:
        sigma = pulse.fwhm_ev / FWHM_PER_SIGMA
        away = (self.settings.axis_ev - pulse.center_ev) / sigma
        scale = self.settings.ev_per_pixel / (sigma * math.sqrt(2.0 * math.pi))
        return scale * _bell(away)

    def _modes(
        self, pulse: PulseParameters, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], float]:
        size = self._size
        gain = _bell((self._grid_ev - pulse.center_ev) / pulse.gain_sigma_ev)
        noise = rng.standard_normal(2 * size).view(np.complex128)
        field = fft.ifft(noise * np.sqrt(0.5 * gain))
        field *= size / math.sqrt(gain.sum())  # of mean intensity 1
        if saturation := self.settings.saturation:
            field /= np.sqrt(1.0 + saturation * (field.real**2 + field.imag**2))
            field /= math.sqrt(self._saturated_mean)
        sigma = pulse.sigma_fs
        intensity = _bell(self._time_fs / sigma)
        phase = (0.5 * self.settings.chirp_ev_per_fs / HBAR_EV_FS) * self._time_fs**2
        field *= np.sqrt(intensity) * np.exp(1j * phase)
        spectrum = np.square(np.abs(fft.fft(field)))
        spectrum /= size * intensity.sum()
        energy = float(spectrum.sum())
        if self.settings.resolution_ev:
            spectrum = fft.irfft(fft.rfft(spectrum) * self._response, size)
        used = spectrum[self._first : self._first + self.settings.columns * self._finer]
        # The response's transform leaves rounding below zero where there is no light.
        return np.maximum(used.reshape(-1, self._finer).sum(axis=1), 0.0), energy

    @cached_property
    def _response(self) -> NDArray[np.float64]:
        """Transform of the spectrometer's Gaussian response."""
        sigma = self.settings.resolution_ev / FWHM_PER_SIGMA / self._step_ev
        return np.exp(-2.0 * (math.pi * sigma * fft.rfftfreq(self._size)) ** 2)

    @cached_property
    def _saturated_powers(self) -> NDArray[np.float64]:
        """(TERMS,) power of each order of a saturated field.

        A complex Gaussian field z of mean intensity 1 becomes z / sqrt(1 + s |z|^2), which is a sum
        of z L_k(|z|^2) / sqrt(k + 1), Laguerre polynomials of the first kind; the spectrum of such
        a term is the gain curve folded 2 k + 1 times with itself (Price's theorem).
        """
        s = self.settings.saturation
        intensity, weight = np.polynomial.laguerre.laggauss(64)
        order = np.arange(TERMS)
        terms = eval_genlaguerre(order[:, None], 1, intensity)
        field = terms @ (weight * intensity / np.sqrt(1.0 + s * intensity))
        return field**2 / (order + 1.0)

    @cached_property
    def _saturated_mean(self) -> float:
        """Mean of I / (1 + s I) where I is exponential with mean 1."""
        s = self.settings.saturation
        intensity, weight = np.polynomial.laguerre.laggauss(64)
        return float((weight * intensity / (1.0 + s * intensity)).sum())


def _bell(sigmas: NDArray[Any]) -> NDArray[np.float64]:
    """Return a Gaussian of height 1; its far tails stay at 1e-35, as subnormal numbers are slow."""
    return np.exp(np.maximum(-0.5 * sigmas**2, -80.0))
