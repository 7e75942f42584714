"""The simulated instrument has the physics, the noise and the truth that it says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from skywright.errors import ConfigError
from skywright.instruments.psss.twin import Instrument, InstrumentSettings
from skywright.instruments.psss.twin.sase import SpectrumModel
from skywright.instruments.psss.twin.settings import FWHM_PER_SIGMA

STILL = {"energy_jitter_ev": 0.0, "bandwidth_jitter": 0.0, "pulse_length_jitter": 0.0}
SMALL = InstrumentSettings(columns=256, rows=128, pool_bytes=2_000_000)
FINE = InstrumentSettings(columns=2560, rows=16, resolution_ev=0.0, chirp_ev_per_fs=0.0, **STILL)


def spectra(settings, count, seed=1):
    """Shares of light (count, columns), energies (count,), and parameters of the last pulse."""
    model, rng = SpectrumModel(settings), np.random.default_rng(seed)
    lines, energies = [], []
    for _ in range(count):
        pulse = model.parameters(rng)
        line, energy = model.spectrum(pulse, rng)
        lines.append(line)
        energies.append(energy)
    return np.array(lines), np.array(energies), pulse


def moments(axis, line):
    center = (axis * line).sum() / line.sum()
    return center, math.sqrt(((axis - center) ** 2 * line).sum() / line.sum())


def test_a_pulse_can_be_made_again():
    first, second = Instrument(SMALL, seed=3), Instrument(SMALL, seed=3)
    image, truth = first.take(1000)
    for number in (5, 10**18, 0):
        second.take(number)
    again, truth_again = second.take(1000)
    assert (image == again).all()
    assert truth.center_ev == truth_again.center_ev
    assert (truth.spectrum == truth_again.spectrum).all()
    assert not (first.take(1001)[0] == image).all()
    assert not (Instrument(SMALL, seed=4).take(1000)[0] == image).all()


def test_a_picture_is_read_only_and_of_the_size_asked_for():
    image, truth = Instrument(SMALL).take(1)
    assert (image.shape, image.dtype, truth.spectrum.shape) == ((128, 256), np.uint16, (256,))
    assert not image.flags.writeable
    assert len(SMALL.axis_ev) == 256
    assert SMALL.axis_ev.mean() == pytest.approx(9000.0)
    assert np.diff(SMALL.axis_ev) == pytest.approx(40.0 / 256)


@pytest.mark.parametrize(("length_fs", "chirp"), [(10.0, 0.0), (20.0, 0.5), (2.0, 0.0)])
def test_the_mean_of_many_pulses_is_the_envelope_that_truth_says(length_fs, chirp):
    settings = replace(
        FINE, columns=640, pulse_length_fs=length_fs, chirp_ev_per_fs=chirp, bandwidth_ev=6.0
    )
    lines, energies, pulse = spectra(settings, 800)
    center, sigma = moments(settings.axis_ev, lines.mean(axis=0))
    # Spread of the mean over 800 pulses of M modes each.
    spread = pulse.fwhm_ev / math.sqrt(800 * pulse.modes)
    assert center == pytest.approx(pulse.center_ev, abs=4 * spread)
    assert FWHM_PER_SIGMA * sigma == pytest.approx(pulse.fwhm_ev, rel=0.06)
    assert energies.mean() == pytest.approx(1.0, abs=4 / math.sqrt(800 * pulse.modes))
    assert lines.sum(axis=1) == pytest.approx(energies, rel=1e-3)  # all of it is in the window


def test_the_energy_of_random_modes_fluctuates_as_theirs():
    settings = replace(FINE, columns=640, pulse_length_fs=3.0, bandwidth_ev=4.0)
    _, energies, pulse = spectra(settings, 3000)
    modes = 1.0 / energies.var()
    assert pulse.modes == pytest.approx(modes, rel=0.12)
    # Both curves Gaussian: the modes' shares fall as q^k, and cumulants are sums of their powers.
    q = (pulse.modes - 1.0) / (pulse.modes + 1.0)
    expected = 2.0 * (1.0 - q) ** 3 / (1.0 - q**3) * pulse.modes**1.5
    skew = ((energies - 1.0) ** 3).mean() / energies.std() ** 3
    assert skew == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("kind", ["sase", "gaussian"])
def test_the_mode_count_can_be_set(kind):
    settings = replace(FINE, columns=640, kind=kind, mode_count=16.0)
    lines, energies, _ = spectra(settings, 2000)
    assert energies.mean() == pytest.approx(1.0, abs=0.03)
    assert 1.0 / energies.var() == pytest.approx(16.0, rel=0.15)
    assert lines.sum(axis=1) == pytest.approx(energies, rel=5e-3)


def correlation(lines, lag):
    """The intensity correlation at a lag in columns, over the flat middle."""
    middle = lines[:, lines.shape[1] // 3 : 2 * lines.shape[1] // 3]
    left, right = middle[:, : middle.shape[1] - lag], middle[:, lag:]
    return (left * right).mean() / (left.mean() * right.mean())


def test_spikes_are_exponential_and_as_wide_as_the_pulse_is_short():
    """For a Gaussian pulse, g2(d) = 1 + exp(-(sigma_t d / hbar)^2), d in energy."""
    hbar = 0.6582119569
    for length_fs in (10.0, 20.0):
        settings = replace(FINE, pulse_length_fs=length_fs, bandwidth_ev=60.0)
        lines, _, pulse = spectra(settings, 150)
        assert correlation(lines, 0) == pytest.approx(2.0, abs=0.1)
        half = math.sqrt(math.log(2.0)) * hbar / pulse.sigma_fs
        lag = round(half / settings.ev_per_pixel)
        expected = 1.0 + math.exp(-((pulse.sigma_fs * lag * settings.ev_per_pixel / hbar) ** 2))
        assert correlation(lines, lag) == pytest.approx(expected, abs=0.08)


def test_a_saturated_machine_fluctuates_less():
    settings = replace(FINE, columns=640, pulse_length_fs=3.0, bandwidth_ev=4.0)
    _, linear, _ = spectra(settings, 800)
    _, saturated, _ = spectra(replace(settings, saturation=5.0), 800)
    assert saturated.mean() == pytest.approx(1.0, abs=0.02)
    assert saturated.std() < 0.5 * linear.std()


def test_the_truth_of_a_saturated_machine_is_the_width_of_its_mean_spectrum():
    settings = replace(FINE, columns=640, window_ev=60.0, bandwidth_ev=12.0, saturation=10.0)
    lines, _, pulse = spectra(settings, 3000)
    energy, line = settings.axis_ev - pulse.center_ev, lines.mean(axis=0)
    line = 0.5 * (line + line[::-1])
    top = np.polynomial.Polynomial.fit(energy[np.abs(energy) < 2.5], line[np.abs(energy) < 2.5], 2)
    flank = (energy > 4.0) & (energy < 9.0)
    half = np.interp(0.5, (line / top(0.0))[flank][::-1], energy[flank][::-1])
    # 3000 pulses of 39 modes: a half width is known to 0.3 %.
    assert 2.0 * half == pytest.approx(pulse.fwhm_ev, rel=0.012)
    assert pulse.fwhm_ev > 1.03 * 12.0


@pytest.mark.parametrize("bandwidth_jitter", [0.0, 0.15, 0.3])
def test_a_mean_pulse_has_the_electrons_of_the_settings_in_its_brightest_pixel(bandwidth_jitter):
    settings = replace(
        SMALL, kind="gaussian", mode_count=1e9, window_ev=80.0, energy_jitter_ev=0.0,
        bandwidth_jitter=bandwidth_jitter,
    )  # fmt: skip
    instrument = Instrument(settings)
    row_share = 1.0 / (settings.line_sigma_rows * math.sqrt(2.0 * math.pi))
    for number in range(20):
        truth = instrument.take(number)[1]
        brightest = truth.spectrum.max() * settings.electrons_per_count * row_share
        of_mean_width = brightest * truth.fwhm_ev / settings.bandwidth_ev
        assert of_mean_width == pytest.approx(settings.peak_electrons, rel=0.01)


def test_jitter_is_in_the_truth_and_in_the_picture():
    settings = replace(SMALL, kind="gaussian", energy_jitter_ev=2.0)
    instrument = Instrument(settings)
    truths = [instrument.take(number)[1] for number in range(200)]
    centers = np.array([truth.center_ev for truth in truths])
    assert centers.std() == pytest.approx(2.0, rel=0.2)
    for truth in truths[:20]:
        if abs(truth.center_ev - 9000.0) < 1.5:
            center, sigma = moments(settings.axis_ev, truth.spectrum)
            assert center == pytest.approx(truth.center_ev, abs=0.02)
            assert FWHM_PER_SIGMA * sigma == pytest.approx(truth.fwhm_ev, rel=0.02)


@pytest.mark.parametrize("pool_bytes", [0, 20_000_000])
@pytest.mark.parametrize("shot_noise", [True, False])
def test_sums_over_the_rows_are_the_true_spectrum_within_the_noise(pool_bytes, shot_noise):
    settings = replace(SMALL, pool_bytes=pool_bytes, shot_noise=shot_noise, line_jitter_rows=0.0)
    instrument = Instrument(settings, seed=2)
    # Columns sum read noise and shot noise of light and background, and rounding.
    stray = instrument.camera.dark - settings.offset_counts
    per_row = settings.read_noise_counts**2 + 1.0 / 6.0
    residuals = []
    for number in range(60):
        image, truth = instrument.take(number)
        sums = (image - instrument.camera.dark.astype(float)).sum(axis=0)
        variance = settings.rows * per_row
        if shot_noise:
            variance = (
                variance + (truth.spectrum + stray.sum(axis=0)) / settings.electrons_per_count
            )
        residuals.append((sums - truth.spectrum) / np.sqrt(variance))
    residuals = np.array(residuals)
    assert residuals.mean() == pytest.approx(0.0, abs=0.05)
    assert residuals.std() == pytest.approx(1.0, abs=0.06)


def test_a_pixel_of_the_line_has_the_noise_of_its_light():
    settings = replace(
        SMALL, kind="gaussian", mode_count=1e9, line_jitter_rows=0.0, read_noise_counts=0.5,
        **STILL, background_counts=0.0, fixed_pattern_counts=0.0, pool_bytes=2_000_000,
    )  # fmt: skip
    instrument = Instrument(settings)
    pictures = np.array([instrument.take(number)[0] for number in range(400)], float)
    mean, variance = pictures.mean(axis=0) - settings.offset_counts, pictures.var(axis=0)
    for low, high in ((3.0, 10.0), (100.0, 300.0), (1000.0, 4000.0)):
        lit = (mean > low) & (mean < high)
        assert lit.sum() > 100
        # Of a mean in counts, e electrons a count: mean / e, read noise and rounding twice.
        expected = mean[lit] / settings.electrons_per_count + 0.25 + 1.0 / 6.0
        assert (variance[lit] / expected).mean() == pytest.approx(1.0, abs=0.05)


def test_the_line_is_tilted_and_as_high_as_said():
    settings = replace(
        SMALL, rows=400, line_fwhm_rows=20.0, tilt_rows=50.0, line_row=180.0, line_jitter_rows=0.0,
        kind="gaussian", bandwidth_ev=30.0, **STILL,
    )  # fmt: skip
    instrument = Instrument(settings)
    image, truth = instrument.take(1)
    light = np.clip(image - instrument.camera.dark, 0, None) * (image > 400)
    rows = np.arange(400)[:, None]
    centers = (rows * light).sum(axis=0) / light.sum(axis=0)
    slope, middle = np.polyfit(np.linspace(-0.5, 0.5, 256), centers, 1)
    assert slope == pytest.approx(50.0, abs=0.5)
    assert middle == pytest.approx(180.0, abs=0.2)
    assert truth.line_row == 180.0
    column = light[:, 128]
    sigma = moments(np.arange(400), column)[1]
    assert FWHM_PER_SIGMA * sigma == pytest.approx(20.0, rel=0.1)


def test_light_beside_the_picture_is_not_in_the_truth():
    settings = replace(SMALL, line_row=0.0, tilt_rows=0.0, line_jitter_rows=0.0, **STILL)
    whole = Instrument(replace(settings, line_row=64.0)).take(1)[1].spectrum
    half = Instrument(settings).take(1)[1].spectrum
    row_at_middle = 1.0 / (settings.line_sigma_rows * math.sqrt(2.0 * math.pi))
    assert half / whole == pytest.approx(0.5 + 0.5 * row_at_middle, rel=0.01)
    for far in (-1000.0, 1000.0):
        instrument = Instrument(replace(settings, line_row=far))
        image, truth = instrument.take(1)
        assert truth.spectrum.max() == 0.0
        assert image.mean() == pytest.approx(instrument.camera.dark.mean(), abs=0.5)


def test_nothing_is_above_full_scale():
    settings = replace(SMALL, peak_electrons=50_000.0, full_scale_counts=4095)
    image, truth = Instrument(settings).take(1)
    assert image.max() == 4095
    assert truth.saturated_pixels == (image == 4095).sum() > 100
    assert truth.spectrum.max() > image.sum(axis=0).max()  # the truth is not cut


def test_a_pulse_without_light_is_the_background():
    instrument = Instrument(SMALL)
    pictures = np.mean([instrument.take(number, light=False)[0] for number in range(200)], axis=0)
    assert np.abs(pictures - instrument.camera.dark).mean() < 2.0
    truth = instrument.take(3, light=False)[1]
    assert (truth.pulse_energy_uj, truth.spectrum.max()) == (0.0, 0.0)
    assert math.isnan(truth.center_ev)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "flat"},
        {"columns": 3},
        {"rows": 1 << 20, "columns": 1 << 20},
        {"bandwidth_ev": 0.0},
        {"electrons_per_count": math.nan},
        {"full_scale_counts": 70_000},
        {"pool_bytes": 2_000_000_000},
        {"mode_count": 0.0},
        {"saturation": -1.0},
    ],
)
def test_impossible_instruments_are_refused(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}|size"):
        InstrumentSettings(**bad)
