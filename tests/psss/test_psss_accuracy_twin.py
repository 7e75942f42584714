"""The processing against the twin's truth: ``make accuracy``. Conditions: psss_processing.md."""

import json

import numpy as np
import pytest
from fit_scores import FitScores
from pulse_spectra import cramer_rao

from skywright.instruments.psss.processing import FWHM_PER_SIGMA, Settings, process
from skywright.instruments.psss.statistics import (
    above_baseline,
    autocorrelation,
    correlation_width,
    pulse_length_fs,
    second_order_correlation,
)
from skywright.instruments.psss.twin.instrument import Instrument
from skywright.instruments.psss.twin.settings import InstrumentSettings

LEVELS = {"bright": (4000.0, 2.0), "middle": (800.0, 4.0), "faint": (150.0, 8.0)}
"""Electrons in the brightest pixel, and noise of a pixel in counts."""


def twin(level: str, columns: int, kind: str = "gaussian") -> Instrument:
    electrons, noise = LEVELS[level]
    settings = InstrumentSettings(
        kind=kind, rows=96, columns=columns, pool_bytes=0, peak_electrons=electrons,
        read_noise_counts=noise, photon_energy_ev=9000.0, bandwidth_jitter=0.15,
    )  # fmt: skip
    return Instrument(settings, seed=7)


def variance_of(instrument: Instrument, spectrum: np.ndarray) -> np.ndarray:
    """Variance of the column sums: shot noise of light and stray light, read noise, rounding."""
    s = instrument.settings
    stray = np.clip(instrument.camera.dark - s.offset_counts, 0.0, None).sum(axis=0)
    per_pixel = s.read_noise_counts**2 + 1.0 / 12.0
    return (spectrum + stray) / s.electrons_per_count + s.rows * per_pixel


def score_pulses(level: str, count: int, columns: int) -> FitScores:
    instrument = twin(level, columns)
    settings = Settings(
        background=instrument.camera.dark,
        background_mode="signed",
        smoothing="none",
        axis=instrument.settings.axis_ev,
    )
    scores = FitScores()
    for pulse_id in range(count):
        image, truth = instrument.take(pulse_id)
        found = process(image, settings)
        sigma, height = truth.fwhm_ev / FWHM_PER_SIGMA, float(truth.spectrum.max())
        variance = variance_of(instrument, truth.spectrum)
        bound = cramer_rao(settings.axis, height, truth.center_ev, sigma, variance)
        scores.add(found, truth.center_ev, truth.fwhm_ev, bound)
    return scores


def test_a_few_pulses_of_the_twin_reach_the_bound():
    score_pulses("middle", 60, columns=640).check("psss_twin_middle")


@pytest.mark.accuracy
@pytest.mark.parametrize("level", LEVELS)
def test_the_twin_s_pulses_reach_the_bound(level):
    score_pulses(level, 2000, columns=2560).check(f"psss_twin_{level}")


@pytest.mark.parametrize("kind", ["smooth", "sase"])
def test_the_spectrum_is_the_twin_s(kind):
    instrument = twin("bright", 640, "sase" if kind == "sase" else "gaussian")
    settings = Settings(background=instrument.camera.dark, background_mode="signed")
    for pulse_id in range(5):
        image, truth = instrument.take(pulse_id)
        found = process(image, settings)
        spread = np.sqrt(variance_of(instrument, truth.spectrum))
        pulls = (found.spectrum - truth.spectrum) / spread
        assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.15)


@pytest.mark.accuracy
def test_pulse_length_of_the_twin():
    """The resolution of the spectrometer is taken off; the chirp is small."""
    instrument = twin("bright", 2560, "sase")
    settings = Settings(background=instrument.camera.dark, background_mode="signed")
    spectra, lengths = [], []
    for pulse_id in range(150):
        image, truth = instrument.take(pulse_id)
        counts = process(image, settings).spectrum.astype(np.float64)
        spectra.append(counts)
        lengths.append(truth.pulse_length_fs)
    mean = np.mean([above_baseline(y) for y in spectra], axis=0)
    g2 = second_order_correlation(mean, np.mean([autocorrelation(y) for y in spectra], axis=0))
    s = instrument.settings
    width = correlation_width(g2) * s.ev_per_pixel
    found = pulse_length_fs(width, s.resolution_ev, of_correlation=True)
    row = {"name": "psss_twin_pulse_length", "fs": round(found, 2), "truth": np.mean(lengths)}
    print(json.dumps(row))
    assert found == pytest.approx(np.mean(lengths), rel=0.1)
