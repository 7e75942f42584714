"""Where the middle of a loop is: the boxes of its head over a rotation, each by its error."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.centering import AxisPrior, Center, fit_center
from skywright.instruments.loop.geometry import View

Floats = NDArray[np.float64]
MIDDLE_ERROR_PX, MIDDLE_ERROR_OF_WIDTH = 0.2, 0.01
"""Errors that all pictures share: a faint side, a drop's edge. Scored on rendered scenes."""
MAJORITY = 0.5  # of the boxes: they are wrong more often than tips, with dirt beside the head
EXPECTED = 0.15
"""Error of the middle, part of the larger one that is expected of its edges; scored so."""
LEAST_ERROR_PX, UNKNOWN_ERROR_PX = 0.5, 5.0
"""Of a box in one picture: no box is known better; one whose error is not told."""


def fit_middle(
    phi_deg: Floats,
    box_px: Floats,
    error_px: Floats,
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
        xmin, ymin, xmax, ymax of the head alone; NaN where unknown or not to be used.
    error_px : (n, 4) float64
        Expected absolute errors of these, NaN where unknown.
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
    A picture counts by the expected error of its box across the spindle. A side of a mount that is
    faint is faint in most views, and missed in all of them alike: such errors are not seen in how
    well the views agree, and no number of views lowers them. So a part of the expected error of
    the edges is added to the error of the center.
    """
    across = error_px[:, 0 if view.vertical else 1 :: 2]
    own_px = np.nan_to_num(0.5 * np.hypot(*across.T), nan=UNKNOWN_ERROR_PX)
    width_px = width_um / view.pixel_um if np.isfinite(width_um) else 0.0
    center = fit_center(
        phi_deg,
        0.5 * (box_px[:, :2] + box_px[:, 2:]),
        view,
        axis,
        point_sigma_px=float(np.hypot(MIDDLE_ERROR_PX, MIDDLE_ERROR_OF_WIDTH * width_px)),
        trust=1.0 / np.hypot(LEAST_ERROR_PX, own_px),
        least_inliers=MAJORITY,
    )
    told = across[np.isfinite(box_px[:, 0]) & np.isfinite(across).all(axis=1)]
    if not len(told):
        return center
    error_um = EXPECTED * float(np.median(told.max(axis=1))) * view.pixel_um
    return replace(
        center,
        covariance_um2=center.covariance_um2 + np.diag([0.0, 1.0, 1.0]) * error_um**2,
        sigma_um=float(np.hypot(center.sigma_um, error_um)),
    )
