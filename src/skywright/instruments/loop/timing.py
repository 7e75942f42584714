"""The angle of the spindle at each picture, from times; the delay of the camera."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from skywright.errors import DataError
from skywright.instruments.loop.geometry import Floats, View, to_view
from skywright.instruments.loop.harmonic import fit_harmonic

GAP_MAX_DEG = 10.0  # between readings of the motor; across a larger one the path is not known
DELAY_MAX_S = 0.6  # video servers lag by 0.06 to 0.3 s
KNOWN_DELAY_S = 0.02
Angle = Callable[[float], Floats]
"""From a trial delay to the angle of the spindle at each picture, rad."""


@dataclass(frozen=True)
class Trace:
    """Readings of the spindle.

    Raises
    ------
    DataError
        If there are less than two different times, or a number is not finite.
    """

    time_s: Floats
    """(m,) float, in any order; of equal times the last holds."""
    phi_deg: Floats
    """(m,) float, unwrapped: no jump by 360."""
    sweep: ArrayLike = 0
    """(m,) int, number of the sweep of each reading; a single number holds for all."""

    def __post_init__(self) -> None:
        time = np.asarray(self.time_s, dtype=np.float64).ravel()
        phi = np.asarray(self.phi_deg, dtype=np.float64).ravel()
        if time.shape != phi.shape or not (np.isfinite(time).all() and np.isfinite(phi).all()):
            raise DataError(
                f"trace of the spindle: {len(time)} times and {len(phi)} angles, expected as many, "
                "all finite"
            )
        # Stable and reversed, so that unique keeps the last of equal times.
        time, last = np.unique(time[::-1], return_index=True)
        if len(time) < 2:
            raise DataError(
                f"trace of the spindle: {len(time)} different times, expected 2 or more"
            )
        object.__setattr__(self, "time_s", time)
        object.__setattr__(self, "phi_deg", phi[::-1][last])
        object.__setattr__(self, "sweep", np.broadcast_to(self.sweep, phi.shape)[::-1][last])


@dataclass(frozen=True)
class Delay:
    """By how much pictures lag behind the motor."""

    delay_s: float
    """Time stamp of a picture less time at which it was exposed; NaN if it cannot be known."""
    sigma_s: float
    why: str
    """Why it cannot be known; empty if it is."""

    @property
    def ok(self) -> bool:
        """Whether the delay is known."""
        return not self.why


def angles_at(
    trace: Trace, time_s: ArrayLike, delay_s: float = 0.0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Interpolate the spindle's angle at the times of pictures.

    Parameters
    ----------
    time_s : (n,) float
        Time stamps of the pictures, clock of the trace.
    delay_s
        By which time stamps are late.

    Returns
    -------
    phi_deg : (n,) float64
        Piecewise cubic without overshoot, so acceleration between readings is followed; straight on
        beyond the ends.
    known : (n,) bool
        False beyond the ends of the trace, between two sweeps and in gaps of more than 10 deg.
    """
    time, phi = trace.time_s, trace.phi_deg
    wanted = np.asarray(time_s, dtype=np.float64).ravel() - delay_s
    angle = np.asarray(PchipInterpolator(time, phi)(np.clip(wanted, time[0], time[-1])))
    rate = np.diff(phi) / np.diff(time)
    angle = angle + rate[0] * np.minimum(wanted - time[0], 0.0)
    angle = angle + rate[-1] * np.maximum(wanted - time[-1], 0.0)
    gap = np.clip(np.searchsorted(time, wanted, side="right") - 1, 0, len(time) - 2)
    dense = (np.abs(np.diff(phi)) <= GAP_MAX_DEG) & (np.diff(trace.sweep) == 0)
    return angle, (wanted >= time[0]) & (wanted <= time[-1]) & dense[gap]


def fit_delay(trace: Trace, time_s: ArrayLike, tip_px: ArrayLike, view: View) -> Delay:
    """Find the delay at which the tips of all sweeps lie on one circle.

    Between a forward and a backward sweep at speed omega the phases differ by 2 omega delay; here
    the delay is one more unknown of the fit, so any motion with two speeds serves. Of several
    sweeps those pictures are used whose angle is known for each delay up to `DELAY_MAX_S`.

    `time_s` (n,) are the time stamps of the pictures by the clock of the trace, `tip_px` (n, 2) the
    tips x, y, NaN where not seen.
    """
    tip = np.asarray(tip_px, dtype=np.float64).reshape(-1, 2)
    time = np.asarray(time_s, dtype=np.float64).ravel()
    seen = np.isfinite(tip).all(axis=1) & np.isfinite(time)
    trials = np.linspace(0.0, DELAY_MAX_S, 13)
    if np.ptp(trace.sweep):
        seen &= np.all([angles_at(trace, time, trial)[1] for trial in trials], axis=0)
    if seen.sum() < 8:
        return Delay(np.nan, np.nan, f"only {seen.sum()} tips, 8 are needed for a delay")
    across, unit = to_view(tip[seen], view)[:, 1:], view.pixel_um

    def angle(delay: float) -> Floats:
        return np.deg2rad(angles_at(trace, time[seen], delay)[0]) * view.phi_sign

    delay = min(trials, key=lambda trial: _misfit(angle, across, unit, trial))
    sigma = np.inf
    for _ in range(8):
        step, sigma = _step(angle, across, unit, delay)
        if not sigma < 1.0 or abs(step) < 1e-5:
            break
        delay += float(np.clip(step, -0.1, 0.1))
    why = ""
    if not sigma <= KNOWN_DELAY_S:
        why = (
            f"{seen.sum()} tips give it to {sigma:.2f} s only, {KNOWN_DELAY_S:g} s is needed; take "
            "one sweep forward and one backward, of a tip that moves across the spindle"
        )
    elif not -KNOWN_DELAY_S <= delay <= DELAY_MAX_S:
        why = f"fitted {delay:.3f} s, expected 0 to {DELAY_MAX_S} s; check clocks and `phi_sign`"
    return Delay(np.nan if why else float(delay), float(sigma), why)


def _misfit(angle: Angle, across: Floats, unit: float, delay: float) -> float:
    """Return the robust cost of a trial delay."""
    fit = fit_harmonic(angle(delay), across, unit)
    square = (fit.residuals[:, 0] / (3.0 * unit)) ** 2
    return float((square / (1.0 + square)).sum())


def _step(angle_at: Angle, across: Floats, unit: float, delay: float) -> tuple[float, float]:
    """Return the Gauss-Newton correction of the delay and its standard deviation, s."""
    angle, tick = angle_at(delay), 0.01
    circle = fit_harmonic(angle, across, unit).coefficients
    _, b, c = circle[0]
    rate = (angle_at(delay + tick) - angle_at(delay - tick)) / (2.0 * tick)
    slope = rate * (c * np.cos(angle) - b * np.sin(angle))  # of the fit with the delay
    fit = fit_harmonic(angle, across, unit, more=slope[:, None], start=circle)
    return float(fit.coefficients[0, 3]), float(np.sqrt(fit.covariance[0, 3, 3]))
