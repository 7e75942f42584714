"""The fit of a rotation for centering: of one mount, with the camera's calibration."""

from dataclasses import replace

import numpy as np

from skywright.instruments.loop.calibration import ZoomCalibration
from skywright.instruments.loop.geometry import View, to_view
from skywright.instruments.loop.series import Series, SeriesFit, fit_series

NEAR_PX = 20.0
"""Tips of one mount are seen at one place along the spindle, but for roll and tilt, within this."""
SHARE = 0.25
"""Part of the pictures that must agree on the end of a mount."""


def fit_rotation(series: Series, calibration: ZoomCalibration) -> tuple[SeriesFit, int]:
    """Fit a rotation.

    Parameters
    ----------
    series
        Pictures whose angle is known.
    calibration
        Its axis, pin side and scale hold.

    Returns
    -------
    SeriesFit
        Tip, middle, face, class, and what keeps them from being known.
    int
        Pictures that showed an end nearer to the pin than the mount's, left out.
    """
    kept, nearer = keep_outermost(series, calibration.view)
    return fit_series(kept, calibration.view, calibration.axis, side=calibration.side), nearer


def keep_outermost(series: Series, view: View) -> tuple[Series, int]:
    """Blank what shows an end nearer to the pin than the end on which many pictures agree.

    A faint loop is missed in some views, and the end of its stem or pin found instead; nothing is
    found beyond the end of a mount so often, and at one place along the spindle.

    Parameters
    ----------
    series
    view
        With the pin side.

    Returns
    -------
    Series
        With tip, boxes, width, class and side unknown where a nearer end was found.
    int
        How many these are.
    """
    along = to_view(series.tip_px, view)[:, 0]
    seen = np.isfinite(along) & (series.side == view.side)
    near = NEAR_PX * view.pixel_um
    places = along[seen]
    agree = (np.abs(places[:, None] - places[None, :]) < near).mean(axis=0) if seen.any() else None
    if agree is None or seen.sum() < 4 or not (agree >= SHARE).any():
        return series, 0
    end = float(places[agree >= SHARE].max())
    blank = seen & (along < end - 2.0 * near)
    lost = np.where(blank, np.nan, 1.0)
    kept = replace(
        series,
        tip_px=series.tip_px * lost[:, None],
        bbox_px=series.bbox_px * lost[:, None],
        width_px=series.width_px * lost,
        kind=np.where(blank, "", series.kind),
        side=np.where(blank, "", series.side),
    )
    return kept, int(blank.sum())
