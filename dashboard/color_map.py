"""Colors of values: the color map of the page, and images in its colors as PNG files."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

CIVIDIS = ((0, 34, 78), (67, 78, 108), (124, 123, 120), (185, 172, 112), (254, 232, 56))
"""Anchors of that color map, which people with every kind of color vision see alike."""
PERCENTILES = (1.0, 99.5)
"""Values of an image that get the first and the last color."""


def colors_of(shares: ArrayLike) -> NDArray[np.uint8]:
    """Return the colors of shares.

    Parameters
    ----------
    shares : (...) float
        From 0, the first color, to 1, the last.

    Returns
    -------
    (..., 3) uint8
        Red, green, blue.
    """
    places = np.asarray(shares, np.float64)
    anchors = np.linspace(0.0, 1.0, len(CIVIDIS))
    channels = [np.interp(places, anchors, channel) for channel in np.transpose(CIVIDIS)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def css_colors(shares: Sequence[float]) -> list[str]:
    """Return the colors of shares, 0 to 1, as style sheets write them."""
    return [f"rgb({red},{green},{blue})" for red, green, blue in colors_of(shares).tolist()]


def color_limits(values: NDArray[np.generic]) -> tuple[float, float]:
    """Return the values of an image that get the first and the last color.

    Returns
    -------
    low, high
        Its 1st and its 99.5th percentile; NaN if it has no finite value.
    """
    pixels = np.asarray(values, np.float64)
    good = np.isfinite(pixels)
    low, high = np.percentile(pixels[good], PERCENTILES) if good.any() else (np.nan, np.nan)
    return float(low), float(high)


def false_color_png(values: NDArray[np.generic]) -> bytes:
    """Return an image in the page's colors, see `color_limits`.

    Parameters
    ----------
    values : (H, W) integer or float
        Pixels that are not finite are transparent.

    Returns
    -------
    bytes
        Of a PNG file, one pixel a value.
    """
    pixels = np.asarray(values, np.float64)
    good = np.isfinite(pixels)
    low, high = color_limits(pixels) if good.any() else (0.0, 1.0)
    shares = np.where(good, pixels - low, 0.0) / ((high - low) or 1.0)
    colors = colors_of(np.clip(shares, 0.0, 1.0))
    if not good.all():
        opacity = np.where(good, 255, 0).astype(np.uint8)
        colors = np.concatenate([colors, opacity[..., np.newaxis]], axis=-1)
    file = io.BytesIO()
    Image.fromarray(colors).save(file, "PNG", compress_level=1)
    return file.getvalue()
