"""Pixels as a screen shows them."""

import numpy as np
from numpy.typing import NDArray


def as_bytes(pixels: NDArray) -> NDArray[np.uint8]:
    """Scale deeper pictures so that all but the extreme 0.1 % of pixels span black to white.

    Parameters
    ----------
    pixels
        (H, W) or (H, W, 3), any number type; uint8 is returned as it is.
    """
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(values, nan=low) - low) * (255 / max(high - low, 1e-300))
    return np.clip(scaled, 0, 255).astype(np.uint8)
