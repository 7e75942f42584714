"""Gain of each pixel from pulses of flat-field light."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from skywright.errors import ConfigError
from skywright.files.columns import Column
from skywright.instruments.panoseti.pixel_analysis import (
    ADC,
    BIN_ADC,
    BINS,
    FIRST_ADC,
    PER_PIXEL,
    PulseHeights,
    Pulses,
    median_of,
    percentile,
)

PULSES_MIN = 20
"""A pixel with fewer pulses of light has no gain."""
DARK_MIN = 4
"""A pixel with fewer frames without light has the pedestal 0, as the boards subtract it."""
SATURATED_MAX = 1e-3
"""A pixel of which a larger part of the pulses may be cut by the converter has no gain."""


class PixelGain(PulseHeights):
    """Gain of the pixels of one module from a run with flat-field light (`calibrate_gain`).

    Photoelectrons follow Poisson's law, so a pixel of gain g with the noise s has pulses with the
    variance ``g * (mean - p) + s^2`` (photon transfer), where p is what is left of its pedestal.
    Pulses below half of a pixel's median are dark counts elsewhere on the board: they are no light,
    and their median is the pedestal. With less than 30 photoelectrons this takes light away too: at
    20 the gain is 5 % low. The standard error of a gain is the fraction ``sqrt(2 / n)`` for n
    pulses.

    Parameters
    ----------
    noise_adc
        Electronic noise of a pixel, standard deviation, ADC: ``noise_median`` of a dark run.
    full_scale_adc
        Least height at which a converter may be at its end: by default 4095 less a baseline of 820.

    Raises
    ------
    ConfigError
        If `noise_adc` is negative or `full_scale_adc` not positive.
    """

    name = "panoseti_gain"
    version = "6"
    results: ClassVar[Sequence[Column]] = (
        Column("n_pulses", "<i8", attrs={"description": "frames"}),
        Column("pulses", "<i8", PER_PIXEL, attrs={"description": "pulses of light"}),
        Column("light", "<f8", PER_PIXEL, attrs={**ADC, "description": "above pedestal; or NaN"}),
        Column("pedestal", "<f8", PER_PIXEL, attrs={**ADC, "description": "without light; or NaN"}),
        Column(
            "gain", "<f8", PER_PIXEL, attrs={"units": "ADC", "description": "of a p.e., or NaN"}
        ),
        Column("gain_median", "<f8", attrs={**ADC, "description": "of the pixels"}),
        Column("relative_gain", "<f8", PER_PIXEL, attrs={"description": "gain over its median"}),
        Column("photoelectrons", "<f8", PER_PIXEL, attrs={"description": "light over gain"}),
        Column("n_without", "<i8", attrs={"description": "pixels without a gain"}),
        Column("n_saturated", "<i8", attrs={"description": "of these, pixels with too much light"}),
    )

    def __init__(self, noise_adc: float = 15.0, full_scale_adc: float = 3275.0) -> None:
        super().__init__(noise_adc=noise_adc, full_scale_adc=full_scale_adc)
        if not noise_adc >= 0 or not full_scale_adc > 0:
            raise ConfigError(
                f"{self.name}: noise_adc {noise_adc}, full_scale_adc {full_scale_adc}: expected "
                "at least 0, and above 0"
            )

    def summarize(self, state: Pulses | None) -> Mapping[str, Any]:
        """Turn the histograms into gains; NaN where there is too little light."""
        found = super().summarize(state)
        histogram = np.zeros((found["pedestal"].size, BINS)) if state is None else state.histogram
        # The middle of the whole numbers in a bin.
        heights = FIRST_ADC + BIN_ADC * np.arange(BINS) + (BIN_ADC - 1) / 2
        half = found["pedestal"].reshape(-1, 1) / 2
        # Bins at the ends hold what is beyond: their heights are not known.
        inside = (heights > half) & (np.arange(BINS) < BINS - 1)
        light = np.where(inside & (half > 0), histogram, 0)
        dark = np.where((heights <= half) & (np.arange(BINS) > 0), histogram, 0)
        pedestal = np.where(dark.sum(axis=1) >= DARK_MIN, percentile(dark, 0.5), np.nan)
        count = light.sum(axis=1)
        highest = heights + (BIN_ADC - 1) / 2
        cut = histogram[:, highest >= self.parameters["full_scale_adc"]].sum(axis=1)
        saturated = cut > SATURATED_MAX * histogram.sum(axis=1)
        enough = (count >= PULSES_MIN) & ~saturated
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(enough, light @ heights / count, np.nan)
            spread = (light * (heights - mean[:, np.newaxis]) ** 2).sum(axis=1) / (count - 1)
            # Rounding to bins adds a twelfth of their width squared.
            variance = spread - BIN_ADC**2 / 12 - self.parameters["noise_adc"] ** 2
            level = mean - np.nan_to_num(pedestal)
            gain = np.where(variance > 0, variance / level, np.nan)
        middle = median_of(gain)
        return {
            "n_pulses": found["n_pulses"],
            "pulses": count.reshape(PER_PIXEL),
            "light": level.reshape(PER_PIXEL),
            "pedestal": pedestal.reshape(PER_PIXEL),
            "gain": gain.reshape(PER_PIXEL),
            "gain_median": middle,
            "relative_gain": (gain / middle).reshape(PER_PIXEL),
            "photoelectrons": (level / gain).reshape(PER_PIXEL),
            "n_without": np.isnan(gain).sum(),
            "n_saturated": saturated.sum(),
        }
