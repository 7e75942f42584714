"""When a picture was exposed: the delay of a camera from sweeps of the spindle."""

import numpy as np
import pytest
from support.seen_rotation import CALIBRATION, TIP

from skywright.instruments.loop.geometry import observe
from skywright.instruments.loop.timing import Delay, Trace, angles_at, fit_delay

SPEED = 60.0
"""deg/s."""


def seen(trace: Trace, delay_s: float, noise_px: float, seed: int) -> Delay:
    """Fit the delay of pictures at 30/s while the spindle turned as `trace` says."""
    rng = np.random.default_rng(seed)
    exposed = np.arange(trace.time_s[0] + 0.1, trace.time_s[-1] - 0.1, 1 / 30)
    phi, known = angles_at(trace, exposed, 0.0)
    assert known.all()
    tip = observe(TIP, phi, CALIBRATION.view, CALIBRATION.axis_px)
    tip += rng.normal(0.0, noise_px, tip.shape)
    return fit_delay(trace, exposed + delay_s, tip, CALIBRATION.view)


def both_ways() -> Trace:
    """Half a turn forward and back."""
    times = np.arange(0.0, 6.0, 0.05)
    return Trace(100.0 + times, SPEED * np.minimum(times, 6.0 - times))


def one_way() -> Trace:
    """A turn at one speed."""
    times = np.arange(0.0, 3.0, 0.05)
    return Trace(100.0 + times, SPEED * times)


@pytest.mark.parametrize("delay_s", [0.0, 0.08, 0.3])
def test_sweeps_both_ways_tell_the_delay_within_its_error(delay_s: float) -> None:
    fits = [seen(both_ways(), delay_s, 0.5, seed) for seed in range(12)]
    assert all(fit.ok for fit in fits)
    pulls = np.array([(fit.delay_s - delay_s) / fit.sigma_s for fit in fits])
    # The mean square of 12 normal numbers is above 2.4 once in 250 times.
    assert np.mean(pulls**2) < 2.4


def test_a_sweep_at_one_speed_does_not_and_the_reason_says_what_would() -> None:
    fit = seen(one_way(), 0.1, 0.5, 0)
    assert not fit.ok
    assert np.isnan(fit.delay_s)
    assert "one sweep forward and one backward" in fit.why


def test_few_tips_and_a_delay_that_cannot_be_are_refused_with_numbers() -> None:
    fit = fit_delay(both_ways(), np.arange(5.0), np.full((5, 2), np.nan), CALIBRATION.view)
    assert fit.why == "only 0 tips, 8 are needed for a delay"
    assert "expected 0 to" in seen(both_ways(), -0.2, 0.5, 0).why
