import math

import numpy as np
import pytest
from pulse_spectra import energy_axis, gaussian, sase

from skywright.instruments.psss.fit_chain import baseline
from skywright.instruments.psss.processing import Settings, process_spectrum
from skywright.instruments.psss.statistics import (
    RunningAverage,
    above_baseline,
    autocorrelation,
    correlation_width,
    find_spikes,
    pulse_length_fs,
    second_order_correlation,
)

X = energy_axis(2560, window=40.0)
PITCH = X[1] - X[0]


def spectra(pulse_fs, count, height=3e4, read_noise=50.0, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        light = height * sase(X, rng, 9000.0, 4.0, pulse_fs)
        yield light + rng.normal(size=len(X)) * np.sqrt(light + read_noise**2) + 700.0


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_spikes_far_apart_are_counted_and_measured(offset):
    columns = np.arange(1000.0)
    places, sigma = [100, 300, 340, 700], 4.0
    rng = np.random.default_rng(2)
    y = sum(1000.0 * gaussian(columns, place, sigma) for place in places)
    found = find_spikes(y + rng.normal(0, 10.0, 1000) + offset)
    assert found.count == 4
    assert found.positions == pytest.approx(places, abs=3)
    assert found.width == pytest.approx(2.3548 * sigma, rel=0.1)


def test_the_width_of_a_spike_is_taken_between_its_neighbors():
    """Between columns it is interpolated; a spike that falls too little beside another has none."""
    dark = np.zeros(20)
    assert find_spikes(np.concatenate([dark, [300, 1000, 400], dark])).width == pytest.approx(
        (1000 - 500) / (1000 - 300) + (1000 - 500) / (1000 - 400)
    )
    found = find_spikes(np.concatenate([dark, [500, 1000, 500, 300, 400, 200], dark]))
    assert (found.positions.tolist(), found.width) == ([21, 24], 2.0)  # of the first one alone


def test_the_baseline_is_that_of_the_darkest_tenth():
    assert baseline(np.repeat([1000.0, 100.0, 1000.0], [500, 100, 360])) == 100.0
    assert baseline(np.arange(10.0)) == 0.0


def test_the_smoothing_does_not_lower_the_baseline_beside_a_narrow_peak():
    """The smoothed spectrum is below it there."""
    light = 1e5 * np.exp(-0.5 * ((np.arange(2560.0) - 1280.0) / 4.5) ** 2)
    found = process_spectrum(1000.0 + light, 0, Settings())
    assert found.intensity == pytest.approx(light.sum(), rel=1e-6)
    assert found.std == pytest.approx(4.5, rel=1e-3)
    assert found.quantile_width < 26.0  # smoothed from 10.6


@pytest.mark.parametrize("columns", [2560, 500, 193, 97, 10])
def test_the_baseline_is_that_of_the_figures_of_the_pulses(columns):
    """Also where the last bin has fewer columns than the others."""
    y = next(spectra(30.0, 1))[:columns]
    found = process_spectrum(y, 0, Settings(smoothing="none"))
    assert found.intensity == pytest.approx(above_baseline(y).sum(), rel=1e-12)


def test_what_is_low_beside_the_highest_spike_is_none():
    columns = np.arange(1000.0)
    heights = {100: 10_000.0, 400: 1000.0, 700: 300.0}  # 10 % and 3 % of the highest
    y = sum(height * gaussian(columns, place, 4.0) for place, height in heights.items())
    found = find_spikes(y + np.random.default_rng(4).normal(0, 5.0, 1000))
    assert found.positions == pytest.approx([100, 400], abs=2)


def test_noise_has_no_spikes():
    rng = np.random.default_rng(3)
    counts = [find_spikes(rng.normal(0, 10.0, 2560)).count for _ in range(20)]
    assert max(counts) == 0  # 50,000 columns: none is 6 standard deviations above its neighbors


@pytest.mark.parametrize("y", [np.zeros(100), np.ones(3), np.full(50, np.nan), np.empty(0)])
def test_nothing_has_no_spikes(y):
    found = find_spikes(y)
    assert (found.count, math.isnan(found.width), len(found.positions)) == (0, True, 0)


@pytest.mark.parametrize("pulse_fs", [10.0, 20.0, 35.0])
def test_pulse_length_from_spikes_and_from_their_correlation(pulse_fs):
    """The median of isolated spikes is some 10 % narrower than the mean spike."""
    measured = list(spectra(pulse_fs, 60))
    widths = [find_spikes(y).width for y in measured]
    of_spikes = pulse_length_fs(float(np.nanmean(widths)) * PITCH)
    assert of_spikes == pytest.approx(pulse_fs, rel=0.2)
    mean = np.mean([above_baseline(y) for y in measured], axis=0)
    g2 = second_order_correlation(mean, np.mean([autocorrelation(y) for y in measured], axis=0))
    assert g2[1] == pytest.approx(2.0, abs=0.25)
    assert g2[-1] == pytest.approx(1.0, abs=0.15)
    length = pulse_length_fs(correlation_width(g2) * PITCH, of_correlation=True)
    assert length == pytest.approx(pulse_fs, rel=0.12)


def test_resolution_is_taken_off_in_squares():
    assert pulse_length_fs(0.5, 0.3) == pytest.approx(pulse_length_fs(0.4))
    width = math.sqrt(0.4**2 + 2 * 0.3**2)
    assert pulse_length_fs(width, 0.3, of_correlation=True) == pytest.approx(pulse_length_fs(0.4))
    assert pulse_length_fs(0.2, 0.3) == math.inf
    assert math.isnan(pulse_length_fs(math.nan))
    assert pulse_length_fs(0.2581) == pytest.approx(10.0, rel=1e-3)


def test_no_correlation_has_no_width():
    assert math.isnan(correlation_width(np.full(64, np.nan)))
    assert math.isnan(correlation_width(np.ones(3)))
    assert np.isnan(second_order_correlation(np.zeros(100), np.zeros(64))).all()


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_the_width_of_a_correlation_is_that_of_its_upper_part(jitter):
    lags = np.arange(64.0)
    height = gaussian(lags, 0.0, 6.0)
    g2 = 1.0 + jitter + np.where(height > 0.25, height, np.where(lags < 40, 0.2, 0.0))
    g2[0] += 5.0  # the noise
    assert correlation_width(g2) == pytest.approx(2.3548 * 6.0, rel=0.01)


def test_a_correlation_of_one_lag_has_no_width():
    assert math.isnan(correlation_width(1.0 + gaussian(np.arange(64.0), 0.0, 0.5)))


def test_autocorrelation_is_that_of_numpy():
    y = np.random.default_rng(5).normal(100.0, 10.0, 300)
    light = above_baseline(y)
    expected = np.correlate(light, light, "full")[299 : 299 + 64]
    assert autocorrelation(y) == pytest.approx(expected)
    assert autocorrelation(np.ones(10), 20)[10:].tolist() == [0.0] * 10


def test_running_average():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(25, 7))
    running = RunningAverage(10)
    assert running.mean() is None
    for number, row in enumerate(rows):
        running.add(row)
        expected = rows[max(0, number - 9) : number + 1].mean(axis=0)
        assert running.mean() == pytest.approx(expected, abs=1e-12)
    assert running.count == 10
    running.add(np.ones(3, np.uint32))
    assert running.count == 1
    assert running.mean().tolist() == [1.0, 1.0, 1.0]


def test_a_huge_spectrum_leaves_no_trace_in_later_averages():
    running = RunningAverage(2)
    for value in (1e17, 0.1, 0.1, 0.1):  # 1e17 + 0.1 is 1e17
        running.add(np.full(3, value))
    assert running.mean().tolist() == [0.1] * 3


def test_block_average():
    blocks = RunningAverage(3)
    assert not blocks.ends_block
    means = []
    for number in range(7):
        blocks.add(np.full(2, number, np.uint32))
        if blocks.ends_block:
            means.append(blocks.mean().tolist())
    assert means == [[1.0, 1.0], [4.0, 4.0]]
    for _ in range(2):  # of another width: a new block
        blocks.add(np.zeros(5))
        assert not blocks.ends_block
    blocks.add(np.zeros(5))
    assert blocks.ends_block
