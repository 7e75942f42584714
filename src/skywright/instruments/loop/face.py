"""At which angle a flat loop shows its face: its seen width over a rotation, of period 180 deg."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from skywright.instruments.loop.centering import ARC_MIN_DEG, INLIERS_MIN, NAN, Floats, arc_deg
from skywright.instruments.loop.harmonic import Harmonic, fit_harmonic

CONTRAST_MIN = 0.15
SIGMA_MAX_DEG = 8.0
WIDTHS_MIN = 5
LUMP = 0.45
"""A bare loop or mount is thinner than this part of its width, on the twin: one with a drop, ice or
a crystal of half its width is thicker (`docs/reference/loop_centering.md`)."""
SHAPE_ERROR = 0.03  # heads are no ellipses: their width misses the model by this part of it


@dataclass(frozen=True)
class Face:
    """The face of a loop."""

    why: str
    """Why there is no answer; empty if there is."""
    face_on_deg: float = NAN
    """Motor angle in 0..180 at which the loop is seen widest; NaN if there is no clear face.
    Edge-on is 90 deg from it."""
    sigma_deg: float = NAN
    """Standard deviation of `face_on_deg`."""
    width_um: float = NAN
    thickness_um: float = NAN
    """Fitted extent at the face and at the edge."""
    lump: bool = False
    """Whether a drop, ice or a crystal swells the outline; False if the widths cannot tell."""

    @property
    def ok(self) -> bool:
        """Whether the face is known."""
        return not self.why


def fit_face(phi_deg: ArrayLike, width_um: ArrayLike, pixel_um: float) -> Face:
    """Find the face-on angle from widths over a rotation.

    Parameters
    ----------
    phi_deg, width_um : (n,) float
        Angle of the spindle at each picture, in any order and spacing; extent of the head across
        the spindle, NaN where unknown.
    pixel_um : float
        Size of a pixel across the spindle.

    Notes
    -----
    A flat ellipse of width W and thickness T is seen as w^2 = W^2 cos^2(phi - f) + T^2 sin^2(phi -
    f) = A + B cos(2 phi) + C sin(2 phi), so f = atan2(C, B) / 2: linear, of period 180 deg.
    Residuals are weighted to count as errors of w, not of w^2.
    """
    phi = np.asarray(phi_deg, dtype=np.float64).ravel()
    width = np.asarray(width_um, dtype=np.float64).ravel()
    seen = np.isfinite(phi) & np.isfinite(width) & (width > 0.0)
    if seen.sum() < WIDTHS_MIN:
        return Face(f"only {seen.sum()} widths, {WIDTHS_MIN} are needed")
    return _face(phi[seen], _fit(2.0 * np.deg2rad(phi[seen]), width[seen], pixel_um))


def _fit(angle: Floats, width: Floats, pixel_um: float) -> Harmonic:
    """Fit w^2, then again with d(w^2) = 2 w dw of the first fit."""
    large = float(np.percentile(width, 90))
    unit = max(pixel_um, SHAPE_ERROR * large)
    seen = np.full(len(width), float(np.median(width)))
    start = None
    for _ in range(3):
        fit = fit_harmonic(angle, width[:, None] ** 2, unit, gain=0.5 / seen, start=start)
        start = fit.coefficients
        a, b, c = fit.coefficients[0]
        square = a + b * np.cos(angle) + c * np.sin(angle)
        seen = np.sqrt(np.maximum(square, (0.15 * large) ** 2))
    return fit


def _face(phi: Floats, fit: Harmonic) -> Face:
    """Turn coefficients into an angle, and judge it."""
    a, b, c = fit.coefficients[0]
    swing = float(np.hypot(b, c))
    width = float(np.sqrt(max(a + swing, 0.0)))
    thickness = float(np.sqrt(max(a - swing, 0.0)))
    contrast = 1.0 - thickness / width if width else 0.0
    gradient = np.array([-c, b]) / max(swing, 1e-12) ** 2  # of atan2(c, b)
    sigma = float(np.rad2deg(0.5 * np.sqrt(gradient @ fit.covariance[0, 1:, 1:] @ gradient)))
    used = fit.weights > 0.0
    count, given, arc = int(used.sum()), len(phi), arc_deg(phi[used], 180.0)
    why, seen_round = "", False
    if count < max(WIDTHS_MIN, INLIERS_MIN * given):
        why = f"only {count} of {given} widths follow a turning loop"
    elif arc < ARC_MIN_DEG - 1e-6:
        why = f"widths cover {arc:.0f} deg of 180, {ARC_MIN_DEG:.0f} are needed"
    elif seen_round := contrast < CONTRAST_MIN:
        why = f"no clear face: width changes by {contrast:.0%}, {CONTRAST_MIN:.0%} are needed"
    elif not sigma <= SIGMA_MAX_DEG:
        why = f"face known to {sigma:.0f} deg only, {SIGMA_MAX_DEG:.0f} are allowed"
    angle = float(np.rad2deg(0.5 * np.arctan2(c, b))) % 180.0
    return Face(
        face_on_deg=NAN if why else angle,
        sigma_deg=sigma,
        width_um=width,
        thickness_um=thickness,
        lump=(seen_round or not why) and contrast < 1.0 - LUMP,
        why=why,
    )
