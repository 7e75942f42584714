"""Where the middle of a loop is: the boxes of its head over a rotation, each by its error."""

import numpy as np

from skywright.instruments.loop.centering import AxisPrior, Center, fit_center
from skywright.instruments.loop.geometry import Floats, View

MAJORITY = 0.5  # of the boxes: they are wrong more often than tips, with dirt beside the head
WANDERS = 0.05
"""The middle of a silhouette may lie this part of the largest width off its circle: a head that
leans or is thick at one side has no point that is in the middle of all views. Boxes that differ by
some of this agree. With less, right views were left out, and middles came out 20 um off."""
OF_FIT, OF_EDGES = 0.35, 0.3
"""Error of the middle: these parts of the error that the fit tells, and of the larger error that is
expected of the edges. Fitted to 119 rotations, whole, over a third and with a third of the
pictures (seeds 23000 to 23239 of `tests/support/loop_starts.py`)."""
LEAST_ERROR_PX, UNKNOWN_ERROR_PX = 0.5, 5.0
"""Of a box in one picture: no box is known better; one whose error is not told."""


def fit_middle(
    phi_deg: Floats,
    box_px: Floats,
    error_px: Floats,
    view: View,
    axis: AxisPrior | None,
) -> Center:
    """Fit the middle of a loop's box over a rotation.

    Parameters
    ----------
    phi_deg : (n,) float64
        Angle of the spindle at each picture.
    box_px, error_px : (n, 4) float64
        xmin, ymin, xmax, ymax of the head alone, NaN where unknown or not to be used; and their
        expected absolute errors, NaN where unknown.
    view, axis
        As for `fit_center`.

    Notes
    -----
    A picture counts by the expected error of its box across the spindle. A side of a mount that is
    faint is faint in most views, and missed in all of them alike: such errors are not seen in how
    well the views agree, and no number of views lowers them. So a part of the expected error of
    the edges is added to the error of the center. The error that the fit gives is too large: that
    the middle wanders with the angle looks to it like errors that last over many views.
    """
    first = 0 if view.vertical else 1
    across = error_px[:, first::2]
    own_px = np.nan_to_num(0.5 * np.hypot(*across.T), nan=UNKNOWN_ERROR_PX)
    extent = box_px[:, first + 2] - box_px[:, first]
    seen = np.isfinite(extent)
    widest_px = float(np.percentile(extent[seen], 90)) if seen.any() else 0.0
    known = across[seen & np.isfinite(across).all(axis=1)]
    return fit_center(
        phi_deg,
        0.5 * (box_px[:, :2] + box_px[:, 2:]),
        view,
        axis,
        point_sigma_px=OF_EDGES * float(np.median(known.max(axis=1))) if len(known) else 0.0,
        trust=1.0 / np.hypot(LEAST_ERROR_PX, own_px),
        least_inliers=MAJORITY,
        unit_px=max(1.0, WANDERS * widest_px),
        fit_part=OF_FIT,
    )
