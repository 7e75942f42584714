"""Averages over the last pulses."""

import numpy as np
import pytest
from support.psss_scripted import PICTURE, make_pulse

from skywright.acquire.counters import Counters
from skywright.instruments.psss.averages import AverageEndpoint
from skywright.instruments.psss.processor import process_pulse
from skywright.instruments.psss.settings import Settings


def offer(endpoint: AverageEndpoint, *images: object, number: int = 0) -> None:
    for image in images:
        pulse = make_pulse(1, image)
        endpoint.offer(process_pulse(pulse, number, Settings(), Counters()))


def test_means_over_the_last_pulses() -> None:
    endpoint = AverageEndpoint(pulses=3)
    empty = endpoint.get()
    assert empty.spectrum is empty.block is None
    assert np.isnan(empty.center)
    offer(endpoint, PICTURE * 9, PICTURE, np.roll(PICTURE, 3, axis=1), None, PICTURE * 2)
    means = endpoint.get()
    assert means.pulses == 3  # the pulse without picture is not in the mean, nor is the first
    expected = (PICTURE * 3 + np.roll(PICTURE, 3, axis=1)).sum(axis=0) / 3
    np.testing.assert_allclose(means.spectrum, expected)
    assert means.fits == 3  # of the same pulses
    assert means.center == pytest.approx(61.0, abs=0.1)
    assert means.block is not None  # of the first three with a picture, whatever came later
    expected = (PICTURE * 10 + np.roll(PICTURE, 3, axis=1)).sum(axis=0) / 3
    np.testing.assert_allclose(means.block, expected)
    assert means.block_pulse_id == 1
    offer(endpoint, PICTURE, number=1)  # other settings: begun anew
    assert endpoint.get().pulses == endpoint.get().fits == 1
    assert (endpoint.get().block, endpoint.get().block_pulse_id) == (None, -1)
    offer(endpoint, PICTURE[:, :100], None, PICTURE[:, :100], number=1)  # of another width: too
    assert endpoint.get().pulses == endpoint.get().fits == 2
    offer(endpoint, *[np.roll(PICTURE, 62, axis=1)[:, :100]] * 2, number=1)  # runs off the window
    assert (endpoint.get().pulses, endpoint.get().fits) == (3, 1)
    assert endpoint.get().center == pytest.approx(60.0, abs=0.5)
    endpoint.set_pulses(5)
    assert endpoint.get().pulses == 0


def test_a_pulse_with_a_pixel_that_is_no_number_is_in_no_mean() -> None:
    endpoint = AverageEndpoint(pulses=3)
    broken = PICTURE.astype(np.float64)
    broken[2, 60] = np.nan
    offer(endpoint, PICTURE, broken, PICTURE, PICTURE)
    means = endpoint.get()
    assert (means.pulses, means.fits) == (3, 3)
    for mean in (means.spectrum, means.block):
        np.testing.assert_allclose(mean, PICTURE.sum(axis=0))
