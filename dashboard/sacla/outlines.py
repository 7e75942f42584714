"""Outlines of regions that are masks, for the page to draw."""

import logging
from functools import lru_cache

import numpy as np

from skywright.errors import ConfigError
from skywright.instruments.sacla.regions import MASK, Region, parse_region

CONTOURS_MAX = 100
"""The longest ones are drawn; a mask of scattered pixels has thousands."""
TOLERANCE_PX = 0.25

log = logging.getLogger(__name__)


@lru_cache(maxsize=4)
def mask_outlines(regions: str, number: int) -> dict[str, list[list[list[float]]]]:
    """Return the outlines of the masks among the regions, by the name of the region.

    A mask whose file cannot be read on this computer has no outline.

    Parameters
    ----------
    regions
        As the IOC has them, with blanks between them.
    number
        Of this set of regions: a file may have changed since the last set.

    Returns
    -------
    dict of list
        Closed curves, each a list of corners ``[x, y]`` in pixels; a hole is a curve of its own.
    """
    found = {}
    for text in regions.split():
        if f":{MASK}" not in text:
            continue
        try:
            region = parse_region(text)
        except ConfigError as error:
            log.warning("no outline: %s", error)
        else:
            found[region.name] = outline(region)
    return found


def outline(region: Region) -> list[list[list[float]]]:
    """Return the outline of a mask, as `mask_outlines` does."""
    # It imports much of SciPy, which a page without masks does not need
    from skimage.measure import approximate_polygon, find_contours

    assert region.mask is not None
    padded = np.pad(region.mask.pixels, 1).astype(np.float32)
    contours = sorted(find_contours(padded, 0.5), key=len, reverse=True)[:CONTOURS_MAX]
    return [
        (approximate_polygon(contour, TOLERANCE_PX)[:, ::-1] - 1.0).round(1).tolist()
        for contour in contours
    ]
