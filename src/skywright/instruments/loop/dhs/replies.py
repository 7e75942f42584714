"""Detections in DCSS's words: fractions of the picture, in the order that its scripts read."""

import math

from skywright.errors import DataError
from skywright.instruments.loop.detection import Detection, border_gaps
from skywright.instruments.loop.picture import Size

EDGE_PX = 8.0
"""A box that comes this near to the frame (border lines of encoders included) is cut by it."""
FLAT_IMAGE = "flat image"
NO_PICTURE = "failed to get image"


class OperationError(DataError):
    """A reply other than ``normal``; the text is what follows the status ``error``."""


def fraction(value_px: float, extent_px: int) -> str:
    """Return a coordinate as a fraction of the picture's width or height; 0 where not known.

    Pixel centers are at whole numbers, so that the picture goes from -0.5 to `extent_px` - 0.5.
    """
    return "0" if math.isnan(value_px) else number((value_px + 0.5) / extent_px)


def number(value: float) -> str:
    """Return a number with 5 decimals at most and no exponent; 0 for NaN."""
    if math.isnan(value):
        return "0"
    text = f"{value:.5f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def check_light(found: Detection) -> None:
    """Raise `OperationError` ``flat image`` if there is no light to see anything by."""
    if found.flat:
        raise OperationError(FLAT_IMAGE)


def tip_words(found: Detection, size: Size, flag: int) -> str:
    """Return the reply of ``getLoopTip``.

    A `flag` of 0 adds width and height of the picture, px; above 0 the end of the pin; below 0
    whether it is a micro mount.

    Raises
    ------
    OperationError
        If there is no light or no tip in view.
    """
    check_light(found)
    if not found.tip_in_view:
        raise OperationError(f"TipNotInView {found.tip_sign or '+'}")
    width, height = size
    tip = f"{fraction(found.tip_x, width)} {fraction(found.tip_y, height)}"
    if flag > 0:
        return f"normal {tip} {fraction(found.pin_base_x, width)}"
    if flag < 0:
        return f"normal {tip} {_is_micro_mount(found)}"
    return f"normal {tip} {width} {height}"


def why_failed(found: Detection, size: Size) -> str:
    """Say why a detection has no complete description of a loop or pin; empty if it has."""
    if found.flat:
        return FLAT_IMAGE
    if found.kind == "none":
        return "TipNotInView -" if found.tip_sign == "-" else "no loop or pin in view"
    return "clipped" if not found.tip_in_view or _is_cut(found, size) else ""


def loop_words(found: Detection, size: Size) -> str:
    """Return the 13 values of ``getLoopInfo`` and of the rows of ``collectLoopImages``.

    They are tipX tipY pinBaseX fiberWidth loopWidth boxMinX boxMaxX boxMinY boxMaxY loopWidthX
    isMicroMount loopClass loopScore; there are a tip and a box (`why_failed` is empty).
    """
    assert found.bbox is not None
    width, height = size
    xmin, ymin, xmax, ymax = found.bbox
    across = height if found.side in (None, "left", "right") else width
    words = (
        fraction(found.tip_x, width),
        fraction(found.tip_y, height),
        fraction(found.pin_base_x, width),
        number(found.fiber_width / across),
        number((ymax - ymin) / height),
        fraction(xmin, width),
        fraction(xmax, width),
        fraction(ymin, height),
        fraction(ymax, height),
        number((xmax - xmin) / width),
        _is_micro_mount(found),
        found.kind,
        number(found.score),
    )
    return " ".join(words)


def _is_micro_mount(found: Detection) -> str:
    return str(int(found.kind == "mitegen"))


def _is_cut(found: Detection, size: Size) -> bool:
    """Tell a box that ends at the frame, elsewhere than on the pin side."""
    if found.bbox is None:
        return True
    width, height = size
    gaps = border_gaps(*found.bbox, width - 1, height - 1)
    return found.clipped and any(gap < EDGE_PX for side, gap in gaps.items() if side != found.side)
