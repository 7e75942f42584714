"""Where a sample is: its tip over a rotation fitted by a circle about the spindle.

`across` = a + b cos(phi) + c sin(phi) gives y = b, z = -c, and a is the axis; `along` is constant
but for what roll and tilt of the spindle add. What is no point of matter, as the middle of an
outline, has odd harmonics of the angle besides. Frames as in `skywright.instruments.loop.geometry`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skywright.errors import ConfigError
from skywright.instruments.loop.detection import NAN
from skywright.instruments.loop.geometry import Floats, View, axis_px, axis_um, target_um, to_view
from skywright.instruments.loop.harmonic import Harmonic, design_of, fit_harmonic

ARC_MIN_DEG = 90.0
INLIERS_MIN = 0.55  # of the tips: 0.6, less the right tips that the 3.5 sigma gate drops
SIGMA_MAX_PX, SIGMA_MAX_UM = 4.0, 10.0  # the larger one; pixels may be of less than a micron
DISTINCT_DEG = 5.0  # views closer than this show nothing new
TILT_SIGMA = 0.03  # roll and tilt of a spindle that is not calibrated, rad


class Reason(StrEnum):
    """Why a center cannot be known; empty when it is."""

    KNOWN = ""
    NO_FRAMES = "no frames"
    NO_PIN = "no pin"
    NO_LOOP = "no loop"
    NOT_IN_VIEW = "tip not in view"
    OTHER_SIDE = "pin from another side"
    TOO_FEW = "too few angles"
    SHORT_ARC = "arc too short"
    INCONSISTENT = "tips do not rotate together"
    UNCERTAIN = "too uncertain"


@dataclass(frozen=True)
class AxisPrior:
    """Position of the spindle that was known before the fit."""

    row_px: float
    """Row at which it crosses the target column (column and row for a pin from top or bottom)."""
    sigma_px: float = 0.0
    """Standard deviation of `row_px`; 0 takes it as exact."""

    def __post_init__(self) -> None:
        if not np.isfinite([self.row_px, self.sigma_px]).all():
            raise ConfigError(
                f"axis: row {self.row_px} +- {self.sigma_px}, expected finite numbers"
            )


@dataclass(frozen=True)
class Center:
    """A point of the sample in the goniometer frame, from its places over a rotation."""

    reason: Reason
    """KNOWN (empty) if the center is known."""
    why: str
    """The same with numbers; empty if the center is known."""
    used: NDArray[np.bool_]
    """(n,) bool: tips that agree with the fit."""
    offset_um: Floats = field(default_factory=lambda: np.full(3, NAN))
    """(3,) float64: x from the target, y and z from the axis; NaN if there is nothing to go by.
    With a `reason` it is a coarse answer: its covariance says how coarse."""
    covariance_um2: Floats = field(default_factory=lambda: np.full((3, 3), NAN))
    """(3, 3) float64: of `offset_um`."""
    axis_row_px: float = NAN
    """Row at which the spindle crosses the target column (column and row for a vertical one)."""
    axis_sigma_px: float = NAN
    sigma_um: float = NAN
    """Standard deviation of (y, z) in its worst direction."""
    rms_px: float = NAN
    """Of the used tips across the spindle."""
    n_given: int = 0
    n_used: int = 0
    """Tips, and those of them that are `used`."""
    arc_deg: float = 0.0
    """The turn that the used tips cover."""
    roll_deg: float = NAN
    """Turn of the spindle in the picture beyond `View.roll_deg`; NaN for a tip on the axis."""
    roll_sigma_deg: float = NAN
    circle_um: Floats | None = None
    """(2, 3) float64: constant, cosine and sine across and along the spindle, from which a further
    fit may start."""

    @property
    def ok(self) -> bool:
        """Whether the center is known."""
        return self.reason is Reason.KNOWN


def warm_up() -> None:
    """Compile (or load from the cache) what `fit_center` runs."""
    phi = np.linspace(0.0, 180.0, 30)
    rows = 240.0 + 30.0 * np.cos(np.deg2rad(phi))
    fit_center(phi, np.stack([np.full_like(phi, 350.0), rows], axis=1), View())


def fit_center(
    phi_deg: ArrayLike,
    tip_px: ArrayLike,
    view: View,
    axis: AxisPrior | None = None,
    *,
    point_sigma_px: float = 0.0,
    trust: ArrayLike | None = None,
    least_inliers: float = INLIERS_MIN,
    unit_px: float = 1.0,
    fit_part: float = 1.0,
    odd_sigma_um: Sequence[float] = (),
    start: Center | None = None,
) -> Center:
    """Fit the place of a point from where it is seen over a rotation.

    Parameters
    ----------
    phi_deg, tip_px : (n,), (n, 2) float
        Angle of the spindle at each picture, in any order and spacing; x, y of the point, NaN where
        it is not seen. Wrong ones are found, if there are not more than `least_inliers` allows.
    axis
        The row of the spindle where it is known; else it is a result.
    point_sigma_px
        Error that all pictures share, because what is found is not quite the point that is meant;
        added to the variances of y and z. No number of pictures lowers it.
    trust : (n,) float
        1 / relative error of each tip, > 0, for tips of unequal worth.
    least_inliers
        Part of the tips that must lie on one circle.
    unit_px
        Tips within some of these units of one circle agree with each other.
    fit_part
        Factor on the error of y and z that the residuals of the fit give.
    odd_sigma_um
        Standard deviations, about 0, of the coefficients of the third, fifth ... harmonic in which
        the point wanders about its circle, and along the spindle, all > 0. They are fitted with
        this as a prior.
    start
        An earlier fit of the same places, near the answer; it saves the search.

    Notes
    -----
    Linear least squares with Tukey weights from a consensus start (`fit_harmonic`). The errors of
    a, b and c are those of the residuals, with their correlation along the angle. Where the data
    cannot tell, `reason` and `why` of the result say so; nothing is raised.
    """
    phi = np.asarray(phi_deg, dtype=np.float64).ravel()
    tip = np.asarray(tip_px, dtype=np.float64).reshape(len(phi), 2)
    seen = np.isfinite(phi) & np.isfinite(tip).all(axis=1)
    if not seen.any():
        reason = Reason.NOT_IN_VIEW if len(phi) else Reason.NO_FRAMES
        why = f"{reason}: no tip in any of {len(phi)} frames"
        return Center(reason, why, np.zeros(len(phi), np.bool_))
    angle = np.deg2rad(phi[seen]) * view.phi_sign
    places = to_view(tip[seen], view)[:, ::-1]  # across first: its scale judges the fit
    mean, precision = _priors(places, view, axis, arc_deg(phi[seen]))
    odd = _odd_harmonics(angle, len(odd_sigma_um))
    known = 1.0 / np.repeat(np.asarray(odd_sigma_um, dtype=np.float64), 2) ** 2
    mean = np.hstack([mean, np.zeros((2, len(known)))])
    precision = np.hstack([precision, np.tile(known, (2, 1))])
    fit_tips = partial(
        fit_harmonic,
        unit=unit_px * view.pixel_um,
        prior_mean=mean,
        prior_precision=precision,
        sample_sigma=view.pixel_um,
    )
    fit = fit_tips(angle, places, more=odd, start=None if start is None else start.circle_um)
    if trust is not None:
        fit = _reweigh(angle, places, np.asarray(trust)[seen], fit_tips, fit, odd)
    covariance = fit.covariance[0, 1:3, 1:3] * fit_part**2
    covariance += np.eye(2) * (point_sigma_px * view.pixel_um) ** 2
    return _center(phi, seen, fit, covariance, view, axis is not None, least_inliers)


def arc_deg(phi_deg: ArrayLike, period_deg: float = 360.0) -> float:
    """Return the part of a turn that angles (n,) cover: the period less the largest gap.

    A sweep is taken to reach half a step (at most 2.5 deg) beyond its ends, as its frames do. Less
    than two angles cover 0. The period is 360 for places, 180 for widths.
    """
    phi = np.unique(np.asarray(phi_deg, dtype=np.float64) % period_deg)
    if len(phi) < 2:
        return 0.0
    gaps = np.diff(phi, append=phi[0] + period_deg)
    covered = period_deg - float(gaps.max())
    if len(phi) > 3:
        covered += min(float(np.median(gaps)), 5.0)
    return min(covered, period_deg)


def distinct_views(phi_deg: ArrayLike) -> int:
    """Count angles that differ by `DISTINCT_DEG` at least, opposite views as different."""
    phi = np.sort(np.asarray(phi_deg, dtype=np.float64) % 360.0)
    count, last = 0, -np.inf
    for value in phi:
        near_first = value - phi[0] > 360.0 - DISTINCT_DEG  # over 0
        if value - last >= DISTINCT_DEG and not near_first:
            count, last = count + 1, value
    return count


def _priors(
    places: Floats, view: View, axis: AxisPrior | None, arc: float
) -> tuple[Floats, Floats]:
    """Return mean and precision (2, 3) for across and along."""
    mean, precision = np.zeros((2, 3)), np.zeros((2, 3))
    # Along, a turning tip moves only by roll and tilt: a few percent of what it moves across.
    sway = TILT_SIGMA * float(np.ptp(np.percentile(places[:, 0], [10, 90]))) + view.pixel_um
    precision[1, 1:] = 1.0 / sway**2
    _, height = view.by_spindle(view.width_px, view.height_px)
    if axis is not None:
        mean[0, 0] = axis_um(axis.row_px, view)
        precision[0, 0] = 1.0 / (max(axis.sigma_px, 1e-3) * view.pixel_um) ** 2
    elif arc < ARC_MIN_DEG:  # coarse: a camera looks at its spindle
        mean[0, 0] = axis_um((height - 1) / 2.0, view)
        precision[0, 0] = 1.0 / (height / 6.0 * view.pixel_um) ** 2
    return mean, precision


def _odd_harmonics(angle_rad: Floats, count: int) -> Floats:
    """Return cosine and sine of 3, 5 ... times an angle (n,), as (n, 2 count) float64."""
    orders = 2.0 * np.arange(count) + 3.0
    turns = np.outer(angle_rad, orders)
    return np.stack([np.cos(turns), np.sin(turns)], axis=2).reshape(len(angle_rad), -1)


def _reweigh(
    angle: Floats,
    places: Floats,
    trust: Floats,
    fit_tips: Callable[..., Harmonic],
    first: Harmonic,
    odd: Floats,
) -> Harmonic:
    """Fit again the tips on which the first fit agrees, each by its worth.

    Errors of some neighboring views, and their mirror images in the views from behind, move the
    first fit, and leave small residuals: whether to weigh cannot be told by these.
    """
    used = first.weights > 0.0
    if used.sum() < 4:
        return first
    again = fit_tips(
        angle[used],
        places[used],
        gain=trust[used] / np.median(trust[used]),
        start=first.coefficients,
        more=odd[used],
    )
    weights = np.zeros(len(angle))
    weights[used] = again.weights
    residuals = places - design_of(angle, odd) @ again.coefficients.T
    return replace(again, weights=weights, residuals=residuals)


def _center(
    phi: Floats,
    seen: NDArray[np.bool_],
    fit: Harmonic,
    across_um2: Floats,
    view: View,
    axis_known: bool,
    least_inliers: float,
) -> Center:
    """Turn coefficients, and the covariance of two of them, into a place, and judge it."""
    (a, b, c), (u, *_) = fit.coefficients[:, :3]
    flip = np.array([1.0, -1.0])
    covariance = np.zeros((3, 3))
    covariance[0, 0] = fit.covariance[1, 0, 0]
    covariance[1:, 1:] = across_um2 * np.outer(flip, flip)
    used = np.zeros(len(phi), np.bool_)
    used[seen] = fit.weights > 0.0
    residual_px = fit.residuals[fit.weights > 0.0, 0] / view.pixel_um
    sigma = float(np.sqrt(np.linalg.eigvalsh(covariance[1:, 1:]).max()))
    arc = arc_deg(phi[used])
    n_given, n_used = int(seen.sum()), int(used.sum())
    sigmas_px = sigma / view.pixel_um, max(SIGMA_MAX_PX, SIGMA_MAX_UM / view.pixel_um)
    reason, why = _judge(phi[used], n_given, arc, sigmas_px, axis_known, least_inliers)
    roll, roll_sigma = _roll(fit, view)
    return Center(
        offset_um=np.array([u - target_um(a, view), b, -c]),
        covariance_um2=covariance,
        axis_row_px=axis_px(a, view),
        axis_sigma_px=float(np.sqrt(fit.covariance[0, 0, 0])) / view.pixel_um,
        sigma_um=sigma,
        rms_px=float(np.sqrt(np.mean(residual_px**2))) if n_used else NAN,
        n_given=n_given,
        n_used=n_used,
        arc_deg=arc,
        roll_deg=roll,
        roll_sigma_deg=roll_sigma,
        used=used,
        reason=reason,
        why=why,
        circle_um=fit.coefficients[:, :3],
    )


def _judge(
    phi: Floats,
    n_given: int,
    arc: float,
    sigma_px: tuple[float, float],
    axis_known: bool,
    least_inliers: float,
) -> tuple[Reason, str]:
    """Say what keeps the center from being known, the plainest cause first."""
    sigma, most = sigma_px
    n_used, views, needed = len(phi), distinct_views(phi), 2 if axis_known else 3
    reason = Reason.KNOWN
    if n_used < least_inliers * n_given:
        reason = Reason.INCONSISTENT
        why = f"only {n_used} of {n_given} lie on one circle, {least_inliers:.0%} are needed"
    elif views < needed:
        reason, known = Reason.TOO_FEW, "known" if axis_known else "unknown"
        seen = f"{views} different views (from {n_used} tips)"
        why = f"{seen}, with the axis {known} {needed} are needed"
    elif arc < ARC_MIN_DEG - 1e-6:
        reason, needs = Reason.SHORT_ARC, f"{ARC_MIN_DEG:.0f} are needed"
        why = f"tips cover {arc:.0f} deg, {needs}; center coarsely and turn again"
    elif not sigma <= most:
        reason = Reason.UNCERTAIN
        why = f"the center is known to {sigma:.1f} px only, {most:.0f} are allowed"
    return reason, f"{reason}: {why}" if reason else ""


def _roll(fit: Harmonic, view: View) -> tuple[float, float]:
    """Return roll and its sigma, deg; a roll r adds -r (b cos + c sin) along the spindle."""
    (_, b, c), (_, ub, uc) = fit.coefficients[:, :3]
    size = b * b + c * c
    if size < (5.0 * view.pixel_um) ** 2:
        return NAN, NAN
    spread = float(np.linalg.eigvalsh(fit.covariance[1, 1:3, 1:3]).max())
    return (
        float(np.rad2deg(-(ub * b + uc * c) / size)),
        float(np.rad2deg(np.sqrt(spread / size))),
    )
