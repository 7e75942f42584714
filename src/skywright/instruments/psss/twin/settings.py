"""Settings of the simulated instrument."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
POOL_BYTES_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentSettings:
    """Machine, spectrometer and camera; the defaults are a plausible hard X-ray line at 9 keV.

    Parameters
    ----------
    kind
        ``sase``: random modes under a gain curve. ``gaussian``: the envelope alone, for scoring
        fits.
    photon_energy_ev, energy_jitter_ev
        Middle of the gain curve: mean, and rms from pulse to pulse.
    bandwidth_ev, bandwidth_jitter
        FWHM of the gain curve: mean, and relative rms.
    pulse_length_fs, pulse_length_jitter
        FWHM of the pulse in time: mean, and relative rms. A spike is about h / length wide.
    chirp_ev_per_fs
        Energy over time within the pulse; widens the envelope.
    pulse_energy_uj
        Mean pulse energy.
    mode_count
        M of the gamma distribution of the pulse energy; None: that of the random modes themselves.
    saturation
        0: exponential growth. Above, intensity I (of mean 1) in time becomes I / (1 + saturation
        I), as of a machine run into saturation: energies and spikes fluctuate less.
    columns, rows
        Width and height of the picture.
    axis_center_ev, window_ev
        Photon energies that fall on the picture: middle and width, constant step a column.
    resolution_ev
        FWHM of the spectrometer's response.
    line_row, line_jitter_rows
        Row of the line's middle at the middle column (None: the middle row of the picture), and its
        rms in whole rows.
    line_fwhm_rows, tilt_rows
        Height of the line, FWHM (None: 1 / 18 of the rows), and number of rows that it climbs over
        the width (None: 1 / 72 of the rows).
    peak_electrons
        Number of electrons in the brightest pixel of the envelope, for a pulse of mean energy on a
        sensor that catches all light.
    electrons_per_count, offset_counts, full_scale_counts
        Gain, offset and greatest value of the converter.
    read_noise_counts
        Noise of a pixel without light, rms.
    background_counts
        Scale of the stray light, which has shot noise.
    fixed_pattern_counts
        Scatter of the offsets of columns, and of those of pixels, rms.
    shot_noise
        Whether light has shot noise.
    pool_bytes
        Size of the pool of noisy frames without line, which are rendered once and used for all
        pulses. 0: each pulse has new noise, and its shot noise is exactly that of Poisson (slow:
        for tests of accuracy).

    Raises
    ------
    ConfigError
        If a value is impossible; the message names it.
    """

    kind: Literal["sase", "gaussian"] = "sase"
    photon_energy_ev: float = 9000.0
    energy_jitter_ev: float = 1.5
    bandwidth_ev: float = 12.0
    bandwidth_jitter: float = 0.05
    pulse_length_fs: float = 20.0
    pulse_length_jitter: float = 0.1
    chirp_ev_per_fs: float = 0.1
    pulse_energy_uj: float = 500.0
    mode_count: float | None = None
    saturation: float = 0.0
    columns: int = 2560
    rows: int = 2160
    axis_center_ev: float = 9000.0
    window_ev: float = 40.0
    resolution_ev: float = 0.1
    line_row: float | None = None
    line_jitter_rows: float = 0.5
    line_fwhm_rows: float | None = None
    tilt_rows: float | None = None
    peak_electrons: float = 2000.0
    electrons_per_count: float = 0.5
    offset_counts: float = 100.0
    full_scale_counts: int = 65535
    read_noise_counts: float = 3.0
    background_counts: float = 30.0
    fixed_pattern_counts: float = 1.0
    shot_noise: bool = True
    pool_bytes: int = 256_000_000

    def __post_init__(self) -> None:
        if self.kind not in ("sase", "gaussian"):
            raise ConfigError(f"kind: {self.kind!r}, expected sase or gaussian")
        above_zero = (
            *("bandwidth_ev", "pulse_length_fs", "window_ev", "electrons_per_count"),
            *("photon_energy_ev", "pulse_energy_uj"),
        )
        for name in above_zero:
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected more than 0")
        too_wide = self.columns > 1 << 20  # rows begin anywhere among two million random numbers
        if min(self.columns, self.rows) < 8 or too_wide or self.columns * self.rows > 1 << 26:
            raise ConfigError(
                f"size: {self.columns}x{self.rows}, expected 8x8 to 67 million pixels"
            )
        if not 0 < self.full_scale_counts <= 65535:
            raise ConfigError(f"full_scale_counts: {self.full_scale_counts}, expected 1..65535")
        if not 0 <= self.pool_bytes <= POOL_BYTES_MAX:
            raise ConfigError(f"pool_bytes: {self.pool_bytes}, expected 0..{POOL_BYTES_MAX}")
        if self.mode_count is not None and not self.mode_count > 0.0:
            raise ConfigError(f"mode_count: {self.mode_count}, expected more than 0")
        if self.saturation < 0.0:
            raise ConfigError(f"saturation: {self.saturation}, expected 0 or more")

    @property
    def ev_per_pixel(self) -> float:
        """Step of the axis, eV."""
        return self.window_ev / self.columns

    @property
    def axis_ev(self) -> NDArray[np.float64]:
        """Photon energy at the middle of each column, (columns,) eV, rising."""
        from_middle = np.arange(self.columns) - 0.5 * (self.columns - 1)
        return np.asarray(self.axis_center_ev + from_middle * self.ev_per_pixel, np.float64)

    @property
    def line_sigma_rows(self) -> float:
        """Standard deviation of the line's vertical profile."""
        fwhm = self.rows / 18.0 if self.line_fwhm_rows is None else self.line_fwhm_rows
        return fwhm / FWHM_PER_SIGMA


def parse_size(text: str) -> tuple[int, int]:
    """Return columns and rows of an argument ``--size`` such as ``2560x2160``.

    Raises
    ------
    ConfigError
        If it is none.
    """
    match = re.fullmatch("([0-9]{1,9})x([0-9]{1,9})", text)
    if match is None:
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT, such as 2560x2160")
    return int(match[1]), int(match[2])
