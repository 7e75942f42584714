"""Which part of a picture is worth a closer look."""

import numpy as np

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.silhouette import Outline

PART = 0.5  # of the picture's sides
MOST_REACH = 0.9  # of the part: what comes farther is seen well enough in the whole picture
LEAST_PX = 96  # side of a part


def window_around(field: Field, outline: Outline) -> tuple[int, int, int, int] | None:
    """Return the part of a picture about something small at its border.

    Parameters
    ----------
    field
        The picture.
    outline
        What may be a mount.

    Returns
    -------
    x0, y0, x1, y1 or None
        Columns x0..x1-1 and rows y0..y1-1, px: half of the picture along the border through which
        the thing enters, and half of it inwards. None if the thing does not touch that border, or
        reaches too far.
    """
    step, side, reach = field.step_px, outline.side, outline.reach
    left, top, right, bottom = field.x0_px, field.y0_px, field.x1_px, field.y1_px
    lying = side in ("left", "right")
    inwards = int(PART * (right - left if lying else bottom - top))
    along = int(PART * (bottom - top if lying else right - left))
    if outline.start > 0 or not outline.contact or min(inwards, along) < LEAST_PX:
        return None
    if reach * step > MOST_REACH * inwards:
        return None
    there = outline.high[:reach] >= outline.low[:reach]
    middle = 0.5 * step * float(np.median((outline.low[:reach] + outline.high[:reach])[there]))
    most = (bottom - top if lying else right - left) - along
    first = min(max(round(middle - 0.5 * along), 0), most)
    if lying:
        top, bottom = top + first, top + first + along
        left, right = (left, left + inwards) if side == "left" else (right - inwards, right)
    else:
        left, right = left + first, left + first + along
        top, bottom = (top, top + inwards) if side == "top" else (bottom - inwards, bottom)
    return left, top, right, bottom
