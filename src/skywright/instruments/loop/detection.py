"""What a detector says of one picture, as an object and as a row of a file."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

CLASS_NAMES = ("none", "nylon", "mitegen", "pin")
SIDE_NAMES = ("none", "left", "right", "top", "bottom")
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
SIGN_NAMES = ("", "+", "-")
DARK_LEVEL, FLAT_RANGE = 30.0, 3.0  # gray levels: no light; no structure at all
SIDE_MIN_PX = 32
"""Smaller pictures are refused."""
AT_BORDER = 0.004
"""Part of the frame within which a box touches its border."""
NAN = float("nan")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """What one picture shows; pixels, x to the right, y down, pixel centers at whole numbers.

    What is not given is that of an empty view.
    """

    tip_x: float = NAN
    tip_y: float = NAN
    """End of the silhouette farthest from the pin side, px; NaN if there is none in view."""
    bbox: Corners | None = None
    """Of the loop or mount head without stem and pin: xmin, ymin, xmax, ymax, px, clipped to the
    frame; None if there is none."""
    kind: str = "none"
    """One of `CLASS_NAMES`; "pin" is a bare pin."""
    kind_odds: float = 0.0
    """Logarithm of the odds that the kind is right, given a mount, were nylon and film equally
    frequent; 0 for "none". The weight of a picture in the vote of a rotation."""
    width: float = NAN
    """Extent of the head (of a bare pin: of the pin) across the pin's axis, px; NaN if none."""
    side: str | None = None
    """Border through which the mount enters: "left", "right", "top", "bottom"; None if none."""
    score: float = 0.0
    """0..1, near 0 for an empty view."""
    pin_base_x: float = NAN
    pin_base_y: float = NAN
    """Where the pin (or the body of a mount) ends and the stem begins, px; NaN if out of view."""
    fiber_width: float = NAN
    """Thickness of the stem, px; NaN if there is none."""
    clipped: bool = False
    """The silhouette leaves the frame elsewhere than on the pin side."""
    tip_in_view: bool = False
    tip_sign: str = "+"
    """False with "+" if the mount reaches past the far edge or nothing is seen, with "-" if only
    something at the pin side is seen whose end cannot be told; True with the empty text."""
    level: float = NAN
    saturated: float = NAN
    """Mean gray level, fraction of pixels at the ends of the scale."""
    contrast: float = NAN
    """Gray levels by which the mount differs from the light; without a mount, from the 0.5th to the
    99.5th percentile."""
    sharpness: float = NAN
    """99.5th percentile of the gradient, gray levels per pixel."""
    noise: float = NAN
    """Standard deviation from pixel to pixel, of every second one of them, gray levels."""
    flat: bool = False
    """Light off or no structure: neither a mount nor an empty view can be told."""
    head_errors: Corners | None = None
    """Expected absolute errors of `bbox`, px, in its order; None where they are not known: of a
    bare pin, and of the boxes of other networks."""


BOX_NAMES = ("xmin", "ymin", "xmax", "ymax")
ERROR_NAMES = tuple(f"head_{name}_error" for name in BOX_NAMES)
_CODES: dict[str, tuple[str, ...]] = {
    "kind": CLASS_NAMES,
    "side": SIDE_NAMES,
    "tip_sign": SIGN_NAMES,
}
_BOXES = {"bbox": BOX_NAMES, "head_errors": ERROR_NAMES}


def border_gaps(
    xmin: Any, ymin: Any, xmax: Any, ymax: Any, width: float = 1.0, height: float = 1.0
) -> dict[str, Any]:
    """Return how far boxes, numbers or arrays, are from each border at 0 or `width`, `height`."""
    return {"left": xmin, "right": width - xmax, "top": ymin, "bottom": height - ymax}


def as_row(detection: Detection) -> dict[str, np.generic]:
    """Turn a detection into scalars of fixed type for a file of columns.

    Parameters
    ----------
    detection
        Result of `find_loop`.

    Returns
    -------
    dict of numpy scalars
        The fields of `Detection`: float32, bool_, and uint8 codes for kind, side and tip_sign
        (places in CLASS_NAMES, SIDE_NAMES, SIGN_NAMES); bbox as xmin, ymin, xmax, ymax, NaN if
        there is none, head_errors as head_xmin_error and so on.
    """
    row: dict[str, np.generic] = {}
    for name, value in asdict(detection).items():
        if name in _CODES:
            row[name] = np.uint8(_CODES[name].index("none" if value is None else value))
        elif name in _BOXES:
            corners = value or (NAN,) * 4
            row.update({key: np.float32(v) for key, v in zip(_BOXES[name], corners, strict=True)})
        else:
            row[name] = np.bool_(value) if isinstance(value, bool) else np.float32(value)
    return row


def from_row(row: Mapping[str, Any]) -> Detection:
    """Turn scalars as `as_row` gives them back into a detection; others are ignored."""
    values: dict[str, Any] = {}
    for name in (each.name for each in fields(Detection)):
        if name in _CODES:
            values[name] = _CODES[name][int(row[name])]
        elif name in _BOXES:
            corners = tuple(float(row[key]) for key in _BOXES[name])
            values[name] = None if math.isnan(corners[0]) else corners
        else:
            values[name] = row[name].item()
    return Detection(**values | {"side": None if values["side"] == "none" else values["side"]})
