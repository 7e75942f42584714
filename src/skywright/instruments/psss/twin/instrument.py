"""The simulated instrument: makes the picture and the true values of a pulse from its id."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss.twin.camera import Camera
from skywright.instruments.psss.twin.optics import line_profile
from skywright.instruments.psss.twin.sase import SpectrumModel
from skywright.instruments.psss.twin.settings import FWHM_PER_SIGMA, InstrumentSettings


def warm_up() -> None:
    """Compile the kernels, or load them from their cache."""
    Instrument(InstrumentSettings(columns=64, rows=16, pool_bytes=1)).take(0)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """True values of one pulse.

    Attributes
    ----------
    pulse_id
        Id of the pulse.
    center_ev, fwhm_ev
        Center and FWHM of the envelope, which is the mean of many pulses with the parameters of
        this one; NaN for a pulse without light.
    pulse_energy_uj, pulse_length_fs
        Energy and length (FWHM) of the pulse.
    spectrum
        Light on the rows of the picture, summed, (columns,) float64, counts, without noise,
        background and full scale.
    line_row
        Row of the line's middle at the middle column.
    saturated_pixels
        Number of pixels at full scale.
    """

    pulse_id: int
    center_ev: float
    fwhm_ev: float
    pulse_energy_uj: float
    pulse_length_fs: float
    spectrum: NDArray[np.float64]
    line_row: float
    saturated_pixels: int


class Instrument:
    """Makes a pulse from its id; the same id always gives the same pulse.

    Parameters
    ----------
    settings
        Settings of the instrument.
    seed
        Seed of the camera and the pulses.

    Attributes
    ----------
    camera
        Camera. Its `dark` is the background of the pictures.
    """

    def __init__(self, settings: InstrumentSettings | None = None, seed: int = 0) -> None:
        self.settings = settings or InstrumentSettings()
        self.seed = seed
        self.model = SpectrumModel(self.settings)
        self.camera = Camera(self.settings, seed)
        self._first_row, self._profile = line_profile(self.settings)
        self._electrons = self._electrons_of_mean_pulse()

    def take(self, pulse_id: int, *, light: bool = True) -> tuple[NDArray[np.uint16], Truth]:
        """Return picture and truth of a pulse.

        Parameters
        ----------
        pulse_id
            0 to 2**63 - 1.
        light
            False: no light reaches the spectrometer, as when a background is taken.

        Returns
        -------
        (rows, columns) uint16, read-only, and its true values.
        """
        model, s = self.model, self.settings
        rng = np.random.Generator(np.random.Philox(key=[self.seed, pulse_id]))
        pulse = model.parameters(rng)
        shares, energy = model.spectrum(pulse, rng)
        if not light:
            pulse = replace(pulse, center_ev=math.nan, fwhm_ev=math.nan)
            shares, energy = np.zeros_like(shares), 0.0
        shift = round(s.line_jitter_rows * rng.standard_normal())
        first = self._first_row + shift
        electrons = shares * self._electrons
        image, saturated = self.camera.expose(
            electrons.astype(np.float32), self._profile, first, rng
        )
        image.flags.writeable = False
        middle = 0.5 * (s.rows - 1) if s.line_row is None else s.line_row
        truth = Truth(
            pulse_id=pulse_id,
            center_ev=pulse.center_ev,
            fwhm_ev=pulse.fwhm_ev,
            pulse_energy_uj=energy * s.pulse_energy_uj,
            pulse_length_fs=pulse.length_fs,
            spectrum=electrons * self._caught(first) / s.electrons_per_count,
            line_row=middle + shift,
            saturated_pixels=saturated,
        )
        return image, truth

    def _caught(self, first_row: int) -> NDArray[np.float64] | float:
        """Return the share of each column's light that falls on the picture's rows."""
        top, bottom = -first_row, self.settings.rows - first_row
        if top <= 0 and bottom >= len(self._profile):
            return 1.0
        inside = self._profile[max(top, 0) : max(bottom, 0)]
        return inside.sum(axis=0, dtype=np.float64)

    def _electrons_of_mean_pulse(self) -> float:
        """Return the number of electrons of a mean pulse, from `peak_electrons` of the settings."""
        s = self.settings
        sigma_ev = self.model.parameters_at(0.0, 0.0, 0.0).fwhm_ev / FWHM_PER_SIGMA
        column_share = s.ev_per_pixel / (sigma_ev * math.sqrt(2.0 * math.pi))
        row_share = 1.0 / (s.line_sigma_rows * math.sqrt(2.0 * math.pi))
        return s.peak_electrons / (column_share * row_share)
