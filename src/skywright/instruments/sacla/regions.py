"""Regions of interest: polygons on a detector tile, and the spans of pixels that they cover."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.errors import ConfigError


@dataclass(frozen=True)
class Region:
    """A polygon on the image of one detector.

    Parameters
    ----------
    name
        Unique among the regions of an analysis.
    detector
        Detector id.
    points
        Corners (x = column, y = row) in pixels; pixel centers are at integers.
    """

    name: str
    detector: str
    points: tuple[tuple[float, float], ...]


def parse_region(text: str) -> Region:
    """Read ``NAME:DET:x,y;x,y;...``.

    Raises
    ------
    ConfigError
        If the text has another form, or fewer than three corners.
    """
    parts = text.split(":", 2)
    if len(parts) != 3 or not parts[0] or not parts[1]:
        raise ConfigError(f"ROI {text!r}: expected NAME:DETECTOR:x,y;x,y;...")
    name, detector, corners = parts
    points = []
    for corner in corners.strip().strip(";").split(";"):
        try:
            x, y = (float(number) for number in corner.split(","))
        except ValueError:
            raise ConfigError(f"ROI {name}: corner {corner!r}, expected x,y") from None
        if not (np.isfinite(x) and np.isfinite(y)):
            raise ConfigError(f"ROI {name}: corner {corner!r} is not finite")
        points.append((x, y))
    if len(points) < 3:
        raise ConfigError(f"ROI {name}: {len(points)} corners, expected at least 3")
    return Region(name, detector, tuple(points))


def format_region(region: Region) -> str:
    """Return a region as `parse_region` reads it."""
    corners = ";".join(f"{x:g},{y:g}" for x, y in region.points)
    return f"{region.name}:{region.detector}:{corners}"


def polygon_mask(
    points: tuple[tuple[float, float], ...], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Find the pixels whose center is inside a polygon, by the even-odd rule.

    A center that lies exactly on an edge belongs to the polygon on the left and upper edges only,
    so that polygons that share an edge share no pixel.

    Parameters
    ----------
    points
        Corners (x, y).
    shape
        (rows, columns) of the tile.

    Returns
    -------
    NDArray
        (rows, columns) bool.
    """
    rows, columns = shape
    inside = np.zeros(shape, bool)
    x = np.arange(columns, dtype=float)
    corners = np.asarray(points, float)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = min(y0, y1), max(y0, y1)
        # The rows y with low <= y < high: the edge counts at its upper end, not at its lower.
        first, last = max(int(np.ceil(low)), 0), min(int(np.ceil(high)), rows)
        if first >= last:
            continue
        y = np.arange(first, last, dtype=float)
        crossing = (x1 - x0) * (y - y0) / (y1 - y0) + x0
        inside[first:last] ^= x[None, :] < crossing[:, None]
    return inside


def pixel_spans(masks: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """List the runs of consecutive pixels of several masks, in the order of memory.

    Parameters
    ----------
    masks
        (rows, columns) each, all of one shape.

    Returns
    -------
    NDArray
        (n, 3): index of the mask, first pixel, one past the last pixel (flat indices), sorted by
        first pixel.
    """
    spans = []
    for number, mask in enumerate(masks):
        edges = np.diff(np.concatenate(([0], mask.ravel().astype(np.int8), [0])))
        first, last = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        spans.append(np.stack([np.full(len(first), number), first, last], axis=1))
    if not spans:
        return np.empty((0, 3), np.int64)
    found = np.concatenate(spans).astype(np.int64)
    return np.ascontiguousarray(found[np.argsort(found[:, 1], kind="stable")])
