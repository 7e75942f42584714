"""Where the middle of a loop is: its silhouettes' edges over a rotation, fitted as one outline."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.centering import AxisPrior, Center, Reason, fit_center
from skywright.instruments.loop.geometry import View, axis_um, target_um, to_picture, to_view

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
EVEN_OF_WIDTH, ODD_OF_WIDTH = 0.6, 0.45
"""What the harmonic k of an outline is expected to be, part of the loop's width, times k^2: the
even ones make it flat, the odd ones lopsided. Scored on rendered scenes."""
MIDDLE_ERROR_PX, MIDDLE_ERROR_OF_WIDTH = 0.2, 0.01
"""Errors that all pictures share: a faint side, a drop's edge. Scored on rendered scenes."""
ENOUGH, ENOUGH_ARC_DEG, NEARLY_PX = 12, 120.0, 6.0
SURELY_APART, APART_OF_WIDTH = 3.0, 0.12  # standard deviations; part of the loop's width
SAME_PX, SAME_OF_LENGTH = 2.0, 0.05  # boxes whose lengths differ by less are of one kind
MAJORITY = 0.5  # of the boxes: they are wrong more often than tips, with dirt beside the head
EXPECTED = 0.15
"""Error of the middle, part of the larger one that is expected of its edges; scored so."""
ORDERS, ROUNDS = 8, 6
GATE, LEAST_PX = 3.5, 0.7
"""An edge is wrong beyond this number of standard deviations; these are `LEAST_PX` at least."""


def fit_middle(
    phi_deg: Floats,
    box_px: Floats,
    whole: Bools,
    view: View,
    axis: AxisPrior | None,
    width_um: float,
) -> Center:
    """Fit the middle of a loop's box over a rotation.

    Parameters
    ----------
    phi_deg : (n,) float64
        Angle of the spindle at each picture.
    box_px : (n, 4) float64
        xmin, ymin, xmax, ymax; NaN where unknown or not to be used.
    whole : (n,) bool
        Boxes that hold the head alone.
    view : View
    axis : AxisPrior or None
        Row of the spindle where it is known.
    width_um : float
        Of the loop, seen face on; NaN if it is not known.

    Returns
    -------
    Center

    Notes
    -----
    The middle of a silhouette is no point of matter. For a rigid outline with the support function
    h, its edges are h(phi) and -h(phi + 180): the first harmonic of h is the center. The others are
    fitted beside it to all edges, and their part of the middle, the odd ones, is taken away: so
    views that are left out, most often those edge-on, do little harm.
    """

    def part(of: Bools) -> Center:
        boxes = np.where(of[:, None], box_px, np.nan)
        return _fitted(phi_deg, boxes, whole & of, view, axis, width_um)

    center = part(np.ones(len(whole), np.bool_))
    if not center.ok:
        return center
    first = 1 if view.vertical else 0
    return _with_doubt(center, box_px[:, first + 2] - box_px[:, first], part, width_um)


def settle(one: Center, other: Center) -> Center:
    """Return the middle of which two kinds of boxes tell, with the doubt that they leave.

    Parameters
    ----------
    one, other : Center
        ColumnCaster whose errors have different causes.

    Returns
    -------
    Center
        The mean, half of their distance among its errors; the one that is not known, if any.
    """
    if not (one.ok and other.ok):
        return other if one.ok else one
    apart = other.offset_um - one.offset_um
    apart_um = float(np.hypot(*apart[1:]))
    worse = max(one, other, key=lambda center: center.sigma_um)
    return replace(
        with_error(worse, 0.5 * apart_um),
        offset_um=one.offset_um + 0.5 * apart,
        used=one.used,
        n_used=one.n_used,
        residual_px=one.residual_px,
    )


def expected_error(error_px: Floats, view: View) -> float:
    """Return by how much the middle may be wrong, going by what is expected of its edges.

    Parameters
    ----------
    error_px : (n, 4) float64
        Expected absolute errors of boxes in views all around.
    view : View

    Returns
    -------
    float
        px; 0 if nothing is expected.

    Notes
    -----
    A side of a mount that is faint is faint in most views, and missed in all of them alike: such
    errors are not seen in how well the views agree, and no number of views lowers them.
    """
    first = 0 if view.vertical else 1
    across = error_px[np.isfinite(error_px).all(axis=1), first::2]
    return EXPECTED * float(np.median(across.max(axis=1))) if len(across) else 0.0


def with_error(center: Center, error_um: float) -> Center:
    """Return a center with another error across the spindle.

    Parameters
    ----------
    center
    error_um
        Standard deviation of y and of z.

    Returns
    -------
    Center
    """
    return replace(
        center,
        covariance_um2=center.covariance_um2 + np.diag([0.0, 1.0, 1.0]) * error_um**2,
        sigma_um=float(np.hypot(center.sigma_um, error_um)),
    )


def _with_doubt(
    center: Center, length_px: Floats, part: Callable[[Bools], Center], width_um: float
) -> Center:
    """Let the error grow if the shorter and the longer boxes tell of different middles.

    A head is equally long in all views. Where some boxes hold a part of the stem, or dirt beside
    the head, and are longer for it, their edges across the spindle are wrong as well.
    """
    least, middle, most = np.percentile(length_px[center.used], [10, 50, 90])
    if most - least <= SAME_PX + SAME_OF_LENGTH * middle:
        return center
    short = length_px <= middle
    one, other = part(short), part(~short)
    apart_um = float(np.hypot(*(one.offset_um - other.offset_um)[1:]))
    width = width_um if np.isfinite(width_um) else 0.0
    allowed = max(SURELY_APART * np.hypot(one.sigma_um, other.sigma_um), APART_OF_WIDTH * width)
    if not apart_um > allowed:  # NaN is not
        return center
    return with_error(center, 0.5 * apart_um)


def _fitted(
    phi_deg: Floats,
    box_px: Floats,
    whole: Bools,
    view: View,
    axis: AxisPrior | None,
    width_um: float,
) -> Center:
    """Fit the middle from some boxes."""
    width = width_um if np.isfinite(width_um) else 0.0
    shared_px = float(np.hypot(MIDDLE_ERROR_PX, MIDDLE_ERROR_OF_WIDTH * width / view.pixel_um))

    def fitted(places_px: Floats, use: Bools, near: Center | None = None) -> Center:
        places = np.where(use[:, None], places_px, np.nan)
        return fit_center(
            phi_deg,
            places,
            view,
            axis,
            point_sigma_px=shared_px,
            least_inliers=MAJORITY,
            near=near,
        )

    heads = fitted(0.5 * (box_px[:, :2] + box_px[:, 2:]), whole)
    # The sway of the middles passes for an error that lasts, which makes a good fit look uncertain.
    nearly = heads.reason is Reason.UNCERTAIN and heads.sigma_um <= NEARLY_PX * view.pixel_um
    enough = heads.n_used >= ENOUGH and heads.arc_deg >= ENOUGH_ARC_DEG
    if (heads.ok or nearly) and enough and width:
        return _by_outline(phi_deg, box_px, heads, view, axis, width, fitted)
    return heads


def _by_outline(
    phi_deg: Floats,
    box_px: Floats,
    heads: Center,
    view: View,
    axis: AxisPrior | None,
    width_um: float,
    fitted: Callable[[Floats, Bools, Center], Center],
) -> Center:
    """Fit across the spindle again, from all edges; along it the boxes of heads hold."""
    near_axis = axis_um(heads.axis_row_px, view)
    corners = np.stack([to_view(box_px[:, i : i + 2], view)[:, 1] for i in (0, 2)])
    edges_px = (np.sort(corners, axis=0) - near_axis) / view.pixel_um
    axis_px = None
    if axis is not None:
        axis_px = axis_um(axis.row_px, view) / view.pixel_um - near_axis / view.pixel_um
    waves, follows = _waves(
        np.deg2rad(phi_deg),
        edges_px,
        heads.used,
        width_um / view.pixel_um,
        (axis_px or 0.0, 0.0 if axis is None else 1.0 / max(axis.sigma_px, 0.1)),
    )
    across = corners.mean(axis=0) - waves * view.pixel_um
    along = np.full_like(across, target_um(near_axis, view))
    turned = fitted(to_picture(np.stack([along, across], axis=1), view), follows, heads)
    if not turned.ok:
        return heads
    covariance = turned.covariance_um2.copy()
    covariance[0, 0] = heads.covariance_um2[0, 0]
    return replace(
        turned,
        offset_um=np.array([heads.offset_um[0], *turned.offset_um[1:]]),
        covariance_um2=covariance,
        n_used=heads.n_used,
        used=heads.used,
        roll_deg=heads.roll_deg,
        roll_sigma_deg=heads.roll_sigma_deg,
        tilt_deg=heads.tilt_deg,
    )


def _waves(
    phi: Floats, edges: Floats, used: Bools, width: float, axis: tuple[float, float]
) -> tuple[Floats, Bools]:
    """Return how the middle of the outline sways about the center's circle, and who follows it.

    Parameters
    ----------
    phi : (n,) float
        rad.
    edges : (2, n) float
        Lower and upper edge across the spindle, px; NaN where unknown.
    used : (n,) bool
        Pictures to begin with.
    width
        Of the loop, px.
    axis
        The spindle across, px, and its weight, 1/px.

    Returns
    -------
    (n,) float64
        The odd harmonics above the first of the outline's support function, px.
    (n,) bool
        Both edges are as in the other pictures.
    """
    orders = np.arange(1, ORDERS + 1)
    turns = np.outer(phi, orders)
    waves = np.concatenate([np.cos(turns), np.sin(turns)], axis=1)
    one = np.ones((len(phi), 1))
    # The lower edge is the upper one of the picture half a turn away, upside down.
    flips = -np.tile((-1.0) ** orders, 2)
    design = np.vstack([np.hstack([one, -one, flips * waves]), np.hstack([one, one, waves])])
    share = np.where(orders % 2 == 0, EVEN_OF_WIDTH, ODD_OF_WIDTH) / orders**2
    stiff = np.where(orders > 1, 1.0 / (share * width), 0.0)
    known = np.diag(np.concatenate([[axis[1], 0.0], stiff, stiff]))
    normal, target = known**2, known[0] * axis[0] * axis[1]
    seen = edges.ravel()
    near: Bools = np.tile(used, 2)
    for _ in range(ROUNDS):
        rows = design[near]
        answer = np.linalg.solve(normal + rows.T @ rows, target + rows.T @ seen[near])
        residual = np.abs(seen - design @ answer)
        scale = 1.4826 * float(np.median(residual[near]))
        before, near = near, residual < GATE * max(scale, LEAST_PX)  # NaN is not
        if (near == before).all():
            break
    odd = np.tile((orders > 1) & (orders % 2 == 1), 2)
    lower, upper = np.split(near, 2)
    return np.asarray(waves[:, odd] @ answer[2:][odd]), lower & upper
