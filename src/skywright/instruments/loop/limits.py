"""How far a mount reaches up and down in each column of a picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field, estimate_field
from skywright.instruments.loop.choose import choose
from skywright.instruments.loop.detect import MIN_SCORE
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.silhouette import Outline, seen_from

OUTSIDE, INSIDE = 4, 8
"""Pixels of the field, from the coarse edge, in which the fine one is looked for."""
EDGE_LEVEL = 0.5  # of the contrast: where a blurred edge truly is
MIN_CONTRAST = 6.0  # grey levels: a weaker edge is left where the outline has it


@dataclass(frozen=True)
class Limits:
    """The filled outline of a mount, column by column.

    Attributes
    ----------
    upper, lower : (W,) float64
        y of its two edges in each column of the picture, px, pixel centers at whole numbers; NaN
        where there is nothing.
    side
        Border through which it enters.
    """

    upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    side: str

    def over(self, start: float, stop: float) -> tuple[float, float]:
        """Return the extremes of `upper` and `lower` over the columns from `start` to `stop`, px.

        NaN, NaN if there is nothing in them.
        """
        columns = np.arange(len(self.upper))
        there = (columns >= start) & (columns <= stop) & np.isfinite(self.upper)
        if not there.any():
            return float("nan"), float("nan")
        return float(self.upper[there].min()), float(self.lower[there].max())


def find_limits(gray: NDArray[np.uint8]) -> Limits | None:
    """Find the mount of a picture and its edges in each column.

    Parameters
    ----------
    gray
        (H, W) uint8 picture, at least 32 x 32.

    Returns
    -------
    Limits or None
        None if there is no mount; the mount is the one that
        `skywright.instruments.loop.detect.find_loop` finds.
    """
    field, labels, stats = find_objects(estimate_field(gray))
    choice = choose(gray, field, labels, stats)
    if choice is None or choice.score < MIN_SCORE:
        return None
    filled = _filled(choice.outline)
    there = filled.any(axis=0)
    first = np.argmax(filled, axis=0)
    last = len(filled) - 1 - np.argmax(filled[::-1], axis=0)
    step = field.step_px
    upper, lower = (np.full(gray.shape[1], np.nan) for _ in range(2))
    deviation = _deviation(gray, field)
    for column in np.flatnonzero(there):
        rows = deviation[:, column]
        top, bottom = int(first[column]) * step, (int(last[column]) + 1) * step
        columns = slice(field.x0_px + column * step, field.x0_px + (column + 1) * step)
        # Edge k of the field's pixels lies at k - 0.5 where pixel centers are at whole numbers.
        upper[columns] = field.y0_px + _fine_edge(rows, top, bottom, step) - 0.5
        mirrored = _fine_edge(rows[::-1], len(rows) - bottom, len(rows) - top, step)
        lower[columns] = field.y0_px + len(rows) - mirrored - 0.5
    return Limits(upper, lower, choice.outline.side)


def _filled(outline: Outline) -> NDArray[np.bool_]:
    """Return the (h, w) picture of an outline, filled, as the field lies in the picture."""
    v = np.arange(outline.across)[:, np.newaxis]
    turned = (v >= outline.low) & (v <= outline.high)
    turned[:, : outline.start] = False  # a line drawn to the border, where nothing is seen
    if outline.side == "bottom":
        return turned.T[::-1]
    return seen_from(outline.side, turned)  # the other turns undo themselves


def _deviation(gray: NDArray[np.uint8], field: Field) -> NDArray[np.float64]:
    """Return (h * step, w): rows of the picture, columns of the field, distance from the light."""
    step = field.step_px
    inner = gray[field.y0_px : field.y1_px, field.x0_px : field.x1_px].astype(np.float64)
    columns = inner.reshape(len(inner), -1, step).mean(axis=2)
    return np.abs(columns - np.repeat(field.light, step, axis=0))


def _fine_edge(rows: NDArray[np.float64], edge: int, far: int, step: int) -> float:
    """Return where, from outside (small indices) inwards, half of the edge's contrast is reached.

    Parameters
    ----------
    rows
        Distance from the light; row k covers k..k+1.
    edge, far
        The coarse edge, and the opposite one.
    step
        Rows to a pixel of the field.
    """
    begin, end = max(edge - OUTSIDE * step, 0), min(edge + INSIDE * step, far, len(rows))
    if edge <= 0:
        return 0.0  # cut by the frame
    window = rows[begin:end]
    level = EDGE_LEVEL * float(window.max(initial=0.0))
    inside = np.flatnonzero(window >= level)
    if level < EDGE_LEVEL * MIN_CONTRAST or not len(inside) or inside[0] == 0:
        return float(edge)
    k = int(inside[0])
    before, here = window[k - 1], window[k]
    return begin + k + 0.5 - float((here - level) / (here - before))
