"""The place on the sensor on which the light of a column falls."""

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.psss.twin.settings import InstrumentSettings

SIGMAS = 3.5
"""Half height of the band with light, in sigma. The profile is cut there; its sum is still 1."""


def line_profile(settings: InstrumentSettings) -> tuple[int, NDArray[np.float32]]:
    """Return the first row of the band with light, and the shares of the light in its pixels.

    Returns
    -------
    First row of the band, below 0 when it is cut off, and (band rows, columns) float32, each column
    with the sum 1. The line is Gaussian across and climbs by ``tilt_rows`` over the width.
    """
    sigma = settings.line_sigma_rows
    tilt = settings.rows / 72.0 if settings.tilt_rows is None else settings.tilt_rows
    middle = 0.5 * (settings.rows - 1) if settings.line_row is None else settings.line_row
    across = np.arange(settings.columns) / max(settings.columns - 1, 1) - 0.5
    centers = middle + tilt * across
    first = int(np.floor(centers.min() - SIGMAS * sigma))
    last = int(np.ceil(centers.max() + SIGMAS * sigma))
    away = (np.arange(first, last + 1)[:, None] - centers[None, :]) / sigma
    profile = np.exp(-0.5 * away**2)
    profile[np.abs(away) > SIGMAS] = 0.0
    profile /= np.maximum(profile.sum(axis=0), np.finfo(float).tiny)
    return first, profile.astype(np.float32)


def stray_light(settings: InstrumentSettings) -> NDArray[np.float32]:
    """Return the background of a dark pulse, (rows, columns) float32 counts above the offset.

    A slope over the columns, a wide spot off the middle and faint horizontal bands.
    """
    across = np.linspace(0.0, 1.0, settings.columns, dtype=np.float32)[None, :]
    down = np.linspace(0.0, 1.0, settings.rows, dtype=np.float32)[:, None]
    spot = np.exp(-(((across - 0.7) / 0.25) ** 2)) * np.exp(-(((down - 0.4) / 0.2) ** 2))
    bands = 0.05 * (1.0 + np.sin(40.0 * down))
    light = 0.3 * across + 0.6 * spot + bands
    return np.asarray(settings.background_counts * light, np.float32)
