"""From the boxes of a network to what a picture shows, and back.

A network names boxes; side, tip and width follow from how they lie. What a box cannot tell (light,
sharpness, thickness of the stem) is what our detector tells.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.detection import (
    AT_BORDER,
    NAN,
    OPPOSITE,
    Corners,
    Detection,
    border_gaps,
)
from skywright.wire.automl import Box

LOOPS, PIN = ("nylon", "mitegen"), "pin"
CLASSES = (*LOOPS, PIN)
CONSIDERED = 5
"""Boxes of highest score that are looked at, where no other number is set."""
SURE_MIN = 0.01
"""Scores are no nearer than this to 0 and 1 when they weigh in a vote."""
TIP_PART = 0.15
"""Of a box's length: a tip of our detector that is this near the box's end is taken."""


def from_boxes(
    boxes: Sequence[Box],
    seen: Detection,
    shape: tuple[int, int],
    threshold: float,
    most: int = CONSIDERED,
) -> Detection:
    """Turn the boxes of a picture into a detection.

    The best loop is the loop if its own score reaches the threshold, whatever a pin has; the tip is
    that of our detector if it is where the box ends, else the middle of the box's far edge.

    Of `boxes`, by falling score, the first `most` are looked at, and those below `threshold` are
    nothing. `seen` is what our detector tells of the same picture, `shape` its (H, W), px.
    """
    good = [box for box in boxes[:most] if box.score >= threshold]
    loop = next((box for box in good if box.kind in LOOPS), None)
    pin = next((box for box in good if box.kind == PIN), None)
    main = loop or pin
    if main is None:
        return _nothing(seen, max((box.score for box in boxes), default=0.0))
    side = _side(pin, main, seen)
    x0, y0, x1, y1 = corners = _pixels(main, shape)
    lying = side in ("left", "right")
    gaps = border_gaps(main.xmin, main.ymin, main.xmax, main.ymax)
    sees_tip = gaps[OPPOSITE[side]] > AT_BORDER
    end = _end(corners, side)
    its_tip = seen.tip_x, seen.tip_y
    same = seen.side == side and seen.tip_in_view and _ends_at(its_tip, corners, side)
    tip = its_tip if same else end
    base = (NAN, NAN)
    if pin is not None:
        base = tip if loop is None else _end(_pixels(pin, shape), side)
    sure = min(max(main.score, SURE_MIN), 1.0 - SURE_MIN)
    return replace(
        seen,
        tip_x=tip[0] if sees_tip else NAN,
        tip_y=tip[1] if sees_tip else NAN,
        bbox=corners,
        kind=main.kind,
        kind_odds=math.log(sure / (1.0 - sure)),
        width=y1 - y0 if lying else x1 - x0,
        side=side,
        score=min(max(main.score, 0.0), 1.0),
        pin_base_x=base[0],
        pin_base_y=base[1],
        fiber_width=seen.fiber_width if same and seen.kind in LOOPS else NAN,
        clipped=any(gap <= AT_BORDER for name, gap in gaps.items() if name != side),
        tip_in_view=sees_tip,
        tip_sign="" if sees_tip else "+",
        flat=False,
        head_errors=None,
    )


def to_boxes(detection: Detection, gray: NDArray[np.uint8]) -> list[Box]:
    """Turn the detection of a picture, (H, W) uint8, into boxes: loop, and pin if in view."""
    if detection.kind == "none":
        return []
    boxes = []
    if detection.kind in LOOPS and detection.bbox is not None:
        boxes.append(_box(detection.kind, detection.score, detection.bbox, gray.shape))
    if (corners := find_pin_box(gray, detection)) is not None:
        boxes.append(_box(PIN, detection.score, corners, gray.shape))
    return boxes


def _nothing(seen: Detection, score: float) -> Detection:
    """Return an empty view with the light that our detector measured."""
    names = ("level", "saturated", "contrast", "sharpness", "noise", "flat")
    light: dict[str, Any] = {name: getattr(seen, name) for name in names}
    return Detection(score=min(max(score, 0.0), 1.0), **light)


def _side(pin: Box | None, main: Box, seen: Detection) -> str:
    """Return the border through which the mount enters: that which the pin is nearest to."""
    if pin is None and seen.side is not None:
        return seen.side
    box = pin or main
    gaps = border_gaps(box.xmin, box.ymin, box.xmax, box.ymax)
    if pin is None and min(gaps.values()) > AT_BORDER:
        return "left"  # as networks have it that know no other side
    return min(gaps, key=lambda side: gaps[side])


def _pixels(box: Box, shape: tuple[int, int]) -> Corners:
    """Return xmin, ymin, xmax, ymax of a box, px, centers of pixels at whole numbers."""
    height, width = shape
    xs = sorted(min(max(x, 0.0), 1.0) * width - 0.5 for x in (box.xmin, box.xmax))
    ys = sorted(min(max(y, 0.0), 1.0) * height - 0.5 for y in (box.ymin, box.ymax))
    return xs[0], ys[0], xs[1], ys[1]


def _box(kind: str, score: float, corners: Corners, shape: tuple[int, ...]) -> Box:
    height, width = shape[:2]
    x0, y0, x1, y1 = corners
    parts = ((y0 + 0.5) / height, (x0 + 0.5) / width, (y1 + 0.5) / height, (x1 + 0.5) / width)
    return Box(kind, score, *(min(max(part, 0.0), 1.0) for part in parts))


def _end(corners: Corners, side: str) -> tuple[float, float]:
    """Return the middle of a box's edge that is farthest from the side."""
    x0, y0, x1, y1 = corners
    x, y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
    return {"left": (x1, y), "right": (x0, y), "top": (x, y1), "bottom": (x, y0)}[side]


def _ends_at(tip: tuple[float, float], corners: Corners, side: str) -> bool:
    """Tell whether a tip lies at the far end of a box."""
    x0, y0, x1, y1 = corners
    end = _end(corners, side)
    lying = side in ("left", "right")
    off, length = (tip[0] - end[0], x1 - x0) if lying else (tip[1] - end[1], y1 - y0)
    inside = y0 <= tip[1] <= y1 if lying else x0 <= tip[0] <= x1
    return inside and abs(off) <= TIP_PART * length


def find_pin_box(gray: NDArray[np.uint8], detection: Detection) -> Corners | None:
    """Return the box of the pin, px, from its border to its end, in a picture, (H, W) uint8.

    None if no end of a pin was found, or nothing stands out behind it.
    """
    if detection.side is None or math.isnan(detection.pin_base_x):
        return None
    x, y = detection.pin_base_x, detection.pin_base_y
    lying = detection.side in ("left", "right")
    picture, (u, v) = (gray, (x, y)) if lying else (gray.T, (y, x))
    length = picture.shape[1]
    before = detection.side in ("left", "top")
    # Behind its end the pin is as thick as it is; the end itself may be beveled or ragged.
    reach = u if before else length - 1 - u
    near, deep = max(0.1 * reach, 2.0), max(min(0.6 * reach, 60.0), 4.0)
    start, stop = (u - deep, u - near) if before else (u + near, u + deep)
    strip = picture[:, max(int(start), 0) : max(int(stop), 1)]
    if not strip.size:
        return None
    profile = np.median(strip, axis=1).astype(np.float64)
    edges = np.concatenate([profile[:8], profile[-8:]])
    apart = np.abs(profile - np.median(edges))
    dark = np.flatnonzero(apart > 0.4 * apart.max())
    if apart.max() < 5.0 or not len(dark):
        return None
    # Shine on the pin parts it; what is farther away is something else.
    runs = np.split(dark, np.flatnonzero(np.diff(dark) > 0.1 * len(profile)) + 1)
    run = min(runs, key=lambda each: abs(0.5 * (each[0] + each[-1]) - v))
    low, high = run[0] - 0.5, run[-1] + 0.5
    first, last = (-0.5, u) if before else (u, length - 0.5)
    return (first, low, last, high) if lying else (low, first, high, last)
