"""The end of a bare pin, which has no single farthest point: where its last section is centered.

A pin's outline takes in what touches it, and of a textured pin in front light leaves out a flank.
What a network sees of the end, flanks, bevel and streaks, is as good on the average, and wrong for
other reasons.
"""

from typing import NamedTuple

import numpy as np

from skywright.instruments.loop.light import quantile
from skywright.instruments.loop.silhouette import Outline

SAME_WIDTH, STEADY = 0.8, 4  # of one section of a pin; columns of another width that end it
BEVEL, MOST_BEVEL = 0.15, 12  # of a section's width; pixels of the field
LOOKED_AT = 1.5  # widths before the end: the far part is not needed to know its direction
BLUNT, BLUNT_AT = 0.62, 0.08  # part of the width; widths before the end: see `has_end_face`
MOST_SLOPE = 0.1
SAME_PX = 3.0  # so near each other outline and network mean the same middle


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


def is_cut(outline: Outline, section: Section) -> bool:
    """Tell whether the frame cuts the end of a pin on one side: then its middle is not seen."""
    last = slice(max(outline.reach - max(int(0.5 * section.width), 3), 0), outline.reach)
    return bool((outline.low[last] <= 0).any() or (outline.high[last] >= outline.across - 1).any())


def settled_middle(seen_px: float, said_px: float) -> float:
    """Return where the middle of a pin's end is by its outline and by the network.

    Parameters
    ----------
    seen_px, said_px
        In the outline, and by `skywright.instruments.loop.head_net.middle_of_pin`.

    Returns
    -------
    float
        The mean of both where they mean the same place; the network's where they do not.
    """
    apart = said_px - seen_px
    return seen_px + min(max(abs(apart) / SAME_PX - 1.0, 0.5), 1.0) * apart
