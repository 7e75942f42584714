"""One labeled picture: how every generator hands it over, and how it is packed for training."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from names import KINDS, MASKS, SIDES
from numpy.typing import NDArray
from PIL import Image

NAN = float("nan")
NOWHERE = (NAN, NAN)
NO_BOX = (NAN, NAN, NAN, NAN)
PICTURE = (360, 480)  # rows, columns of a packed picture: its smallest parts are still sharp
CELLS = (180, 240)  # of its masks
NUMBERS = 14
FLIPPED = {"left": "right", "right": "left"}
TURNED = {"left": "top", "top": "left", "right": "bottom", "bottom": "right", "none": "none"}


@dataclass(frozen=True)
class Sample:
    """A picture with its truth, in pixels of the picture.

    Attributes
    ----------
    gray : (H, W) float64, gray levels.
    masks : (5, H, W) bool, of `network.MASKS`.
    kind, side : one of `network.KINDS` and `network.SIDES`.
    tip, begin : (x, y) of the tip and of the end of the pin; NaN where there is none in view.
    second_tip : that of a crystal that sticks out; NaN without.
    box : xmin, ymin, xmax, ymax of the head, or of a bare pin; NaN without.
    other_known : whether the mask "other" holds everything that is no mount.
    """

    gray: NDArray[np.float64]
    masks: NDArray[np.bool_]
    kind: str = "none"
    side: str = "none"
    tip: tuple[float, float] = NOWHERE
    begin: tuple[float, float] = NOWHERE
    second_tip: tuple[float, float] = NOWHERE
    box: tuple[float, float, float, float] = NO_BOX
    other_known: bool = True
    notes: dict[str, Any] = field(default_factory=dict)


def mirrored(sample: Sample) -> Sample:
    """Mirror left and right."""
    last = sample.gray.shape[1] - 1
    x0, y0, x1, y1 = sample.box
    return replace(
        sample,
        gray=sample.gray[:, ::-1],
        masks=sample.masks[:, :, ::-1],
        side=FLIPPED.get(sample.side, sample.side),
        tip=(last - sample.tip[0], sample.tip[1]),
        begin=(last - sample.begin[0], sample.begin[1]),
        second_tip=(last - sample.second_tip[0], sample.second_tip[1]),
        box=(last - x1, y0, last - x0, y1),
    )


def transposed(sample: Sample) -> Sample:
    """Exchange rows and columns."""
    x0, y0, x1, y1 = sample.box
    return replace(
        sample,
        gray=sample.gray.T,
        masks=sample.masks.transpose(0, 2, 1),
        side=TURNED[sample.side],
        tip=sample.tip[::-1],
        begin=sample.begin[::-1],
        second_tip=sample.second_tip[::-1],
        box=(y0, x0, y1, x1),
    )


def cut(sample: Sample, x0: int, y0: int, width: int, height: int) -> Sample:
    """Cut a part of the picture out."""
    a, b, c, d = sample.box
    return replace(
        sample,
        gray=sample.gray[y0 : y0 + height, x0 : x0 + width],
        masks=sample.masks[:, y0 : y0 + height, x0 : x0 + width],
        tip=(sample.tip[0] - x0, sample.tip[1] - y0),
        begin=(sample.begin[0] - x0, sample.begin[1] - y0),
        second_tip=(sample.second_tip[0] - x0, sample.second_tip[1] - y0),
        box=(a - x0, b - y0, c - x0, d - y0),
    )


def resized(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture at the size at which it is packed."""
    picture = Image.fromarray(np.ascontiguousarray(gray))
    return np.asarray(picture.resize(PICTURE[::-1], Image.Resampling.HAMMING))


def packed(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    """Return the picture (360, 480), the masks as bits (180, 240) and the numbers (14,).

    The numbers are kind, side, tip x y, begin x y, box, whether "other" is known, width and height
    of the picture, whether there is a mount; places are fractions of width and height, NaN for what
    is not in view. A portrait picture is transposed first.
    """
    if sample.gray.shape[0] > sample.gray.shape[1]:
        sample = transposed(sample)
    height, width = sample.gray.shape
    gray = resized(np.clip(np.round(sample.gray), 0, 255).astype(np.uint8))
    bits = np.zeros(CELLS, np.uint8)
    for k in range(len(MASKS)):
        mask = Image.fromarray(np.ascontiguousarray(sample.masks[k]).view(np.uint8) * 255)
        small = np.asarray(mask.resize(CELLS[::-1], Image.Resampling.BOX))
        bits |= (small >= 100).astype(np.uint8) << k
    numbers = np.full(NUMBERS, np.nan, np.float32)
    numbers[:2] = KINDS.index(sample.kind), SIDES.index(sample.side)
    size = np.array([width, height], float)
    for at, place in ((2, sample.tip), (4, sample.begin)):
        part = (np.array(place) + 0.5) / size
        if np.isfinite(part).all() and (part >= 0).all() and (part <= 1).all():
            numbers[at : at + 2] = part
    if np.isfinite(sample.box[0]):
        corners = (np.array(sample.box) + 0.5) / np.tile(size, 2)
        corners = np.clip(corners, 0, 1)
        if (corners[2:] - corners[:2] > 0.004).all():
            numbers[6:10] = corners
    numbers[10:] = sample.other_known, width, height, sample.kind != "none"
    return gray, bits, numbers
