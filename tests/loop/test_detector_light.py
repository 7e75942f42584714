"""The light of a picture, against numpy's quantiles of the same pixels."""

import numpy as np
import pytest

from skywright.instruments.loop.detector.light import contrast, light_of


def test_light_and_noise_of_a_picture() -> None:
    rng = np.random.default_rng(7)
    gray = rng.normal(120, 6, (240, 320)).clip(0, 255).astype(np.uint8)
    gray[:, :20] = 0
    found = light_of(gray)
    few = gray[::2, ::2].astype(float)
    assert found.level == pytest.approx(few.mean())
    assert found.saturated == pytest.approx(20 / 320)
    low, high = np.quantile(few[::2, ::2], (0.005, 0.995))
    assert found.spread == pytest.approx(high - low, abs=2)
    # The median of the differences, 5.7, is a whole number of gray levels here.
    assert found.noise == pytest.approx(6, abs=0.5 / (0.6745 * np.sqrt(2)) + 0.3)
    assert not found.flat


def test_the_sharpness_is_that_of_the_steepest_pixels() -> None:
    gray = np.full((200, 300), 50, np.uint8)
    gray[:, 149:] = 90  # one edge in 75 pairs of columns, a step of 40
    assert light_of(gray).sharpness == pytest.approx(20)
    assert light_of(np.full((200, 300), 50, np.uint8)).sharpness == 0


def test_contrast_is_that_of_the_mount_against_what_is_around_it() -> None:
    gray = np.full((96, 128), 200, np.uint8)
    gray[40:60, :64] = 30
    mount = np.zeros((48, 64), bool)
    mount[20:30, :32] = True
    assert contrast(gray, mount) == 170
    assert contrast(gray, np.ones_like(mount)) in (0, 170)
