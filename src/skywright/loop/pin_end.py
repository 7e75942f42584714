"""The end of a bare pin, which has no single farthest point: where its last section is centered."""

from typing import NamedTuple

import numpy as np

from skywright.loop.light import quantile
from skywright.loop.silhouette import Outline

SAME_WIDTH, STEADY = 0.8, 4  # of one section of a pin; columns of another width that end it
BEVEL, MOST_BEVEL = 0.15, 12  # of a section's width; pixels of the field
LOOKED_AT = 1.5  # widths before the end: the far part is not needed to know its direction
BLUNT, BLUNT_AT = 0.62, 0.08  # of the width, so many widths before the end: see `has_end_face`
MOST_SLOPE = 0.1


class Section(NamedTuple):
    """The last section of a pin, pixels of the field: its first u and its width."""

    first: int
    width: float


def last_section(outline: Outline) -> Section:
    """Find where the last section of a pin begins: a thick pin may end in a thinner one.

    Parameters
    ----------
    outline
        Of the pin.

    Returns
    -------
    Section
        From the border on, with the usual width, of a pin of one section.
    """
    width, usual = outline.width, quantile(outline.width, 0.5)
    last = max(int(quantile(width[-MOST_BEVEL:], 0.5) / 4), MOST_BEVEL // 2)
    thick = quantile(width[-last:], 0.75)
    if thick > SAME_WIDTH * usual:
        return Section(0, usual)
    thicker = np.convolve(width > thick / SAME_WIDTH, np.ones(STEADY), "valid") == STEADY
    before = np.flatnonzero(thicker[: max(len(width) - int(BEVEL * thick), 0)])
    return Section(int(before[-1]) + STEADY if len(before) else 0, thick)


def has_end_face(outline: Outline, section: Section) -> bool:
    """Tell a blunt end from a round one.

    A round end is 54 % as wide 8 % of its width before its tip; a ragged end face is uneven.
    """
    before = min(max(int(BLUNT_AT * section.width), 2), outline.reach - 1)
    return float(outline.width[-1 - before]) > BLUNT * section.width


def middle_at_end(outline: Outline, section: Section) -> float:
    """Return v of the middle of a pin's end face, pixels of the field.

    Parameters
    ----------
    outline
        Of the pin.
    section
        Its last one.

    Returns
    -------
    float
    """
    n, (first, width) = outline.reach, section
    middle = 0.5 * (outline.low[:n] + outline.high[:n] + 1.0)
    stop = max(n - int(BEVEL * width), first + 1)  # the end itself may be beveled
    u = np.arange(max(min(n - int(LOOKED_AT * width), stop - 2), first), min(stop, n))
    if len(u) < 2:
        return float(middle[-1])
    slope = float(np.clip(np.polyfit(u, middle[u], 1)[0], -MOST_SLOPE, MOST_SLOPE))
    return float(np.median(middle[u] + slope * (n - u)))
