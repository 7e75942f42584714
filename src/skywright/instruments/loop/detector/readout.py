"""Read a `Detection` out of the maps of the network.

The network gets the whole picture first, then a crop around the end of the mount, so that a small
loop is measured as well as a large one. A crop counts if its confidence is nearly that of the
readout before. A picture higher than wide is transposed first, as in the training.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass
from skimage.measure import label

from skywright.errors import DataError
from skywright.instruments.loop.detection import (
    AT_BORDER,
    NAN,
    OPPOSITE,
    SIDE_MIN_PX,
    Corners,
    Detection,
    border_gaps,
)
from skywright.instruments.loop.detector.light import Light, contrast, light_of
from skywright.instruments.loop.detector.model import NEAR_CELLS, LoopModel, Maps

Floats = NDArray[np.float32]
Cell = tuple[int, int]
Place = tuple[float, float]
SCORE_MIN = 0.5  # below it only the score is reported
SCORE_SLOPE, SCORE_SHIFT = 0.69, -0.37
"""The log odds of the score are this line over the network's log odds of a mount. Fitted to 700
answers of an earlier network (`loop_detection` 11) on twin, painter and composite, seeds from
421,000,000."""
PEAK_MIN = 0.2
"""If the tip's heat-map is nowhere above this, the tip is not in view. Fitted to 400 pictures of
each generator, for few missed and few false tips."""
LIKELY_PEAK = 0.35
"""A tip whose heat-map is above this is kept even if the mount seems to go on beside it."""
BEGIN_MIN = 0.2  # of the heat-map of the stem's begin
INSIDE = 0.5
"""A cell belongs to a mask if its probability is above this share of the highest one."""
MASK_MIN = 0.15  # a mask whose highest probability is below this is empty
RETRACTED = 0.06  # share of the frame: a mount without a tip that reaches less far is retracted
CROPS_MAX = 2
CONFIDENCE_MIN = 0.7  # of a crop, as a share of the confidence of the readout before
HEAD_SHARE = 0.55  # share of a crop that the head fills
PIN_END_SHARE = 0.25  # what takes the place of a bare pin's head, as a share of the frame
SMALLEST_CROP, LARGEST_CROP = 0.3, 0.8  # of the picture or crop before
CROP_MIN_PX = 48
OPEN_ODDS = 1.0
"""If the log odds between nylon and film are nearer to 0, another crop is taken for the kind."""
HEAD_TIMES = 3.0  # width of the crop for the kind, in widths of the head
EVEN_ODDS = 0.3
"""Log of the frequency of nylon over that of film in the training. It is taken off, because a vote
adds the log odds of its pictures and would count it once for each."""
TRANSPOSED = {"left": "top", "top": "left", "right": "bottom", "bottom": "right"}
FAR_EDGE = {"right": 0, "bottom": 1, "left": 2, "top": 3}
"""The edge of a box at the tip, by the side where the mount enters: xmin, ymin, xmax, ymax."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of a picture, px: first column and row, width and height."""

    x: int
    y: int
    width: int
    height: int

    def of(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of these pixels of a picture."""
        rows, columns = slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)
        return np.ascontiguousarray(picture[rows, columns])

    def holds(self, place: Place) -> bool:
        """Return whether a place of the picture, px, is in it."""
        x, y = place[0] - self.x, place[1] - self.y
        return 0 <= x < self.width and 0 <= y < self.height

    def px(self, place: Place) -> Place:
        """Return the place in the picture, px, of a place given in shares of its size."""
        return self.x + place[0] * self.width - 0.5, self.y + place[1] * self.height - 0.5

    def share(self, box: Corners) -> float:
        """Return the larger of the shares of its width and height that a box fills."""
        return max((box[2] - box[0]) / self.width, (box[3] - box[1]) / self.height)

    def around(self, place: Place, size: float) -> "Crop | None":
        """Return a crop of `size` times its own size around a place.

        None if that is above `LARGEST_CROP` or below `CROP_MIN_PX`.
        """
        w, h = int(size * self.width), int(size * self.height)
        if size > LARGEST_CROP or w < CROP_MIN_PX:
            return None
        x = np.clip(place[0] - w / 2, self.x, self.x + self.width - w)
        y = np.clip(place[1] - h / 2, self.y, self.y + self.height - h)
        return Crop(int(x), int(y), w, h)


@dataclass(frozen=True)
class Readout:
    """What the maps of one crop say; places and errors in px of the picture."""

    crop: Crop
    maps: Maps
    mount: NDArray[np.bool_]
    """Cells of the mount."""
    kind: str
    odds: float
    """Log odds of the kind."""
    confidence: float
    """Of kind and tip together."""
    tip: Place | None
    begin: Place | None
    """Where the stem begins, at the end of the pin."""
    box: Corners | None
    errors: Corners | None
    """Expected errors of the edges of the box."""


class LoopFinder:
    """Finds the sample mount in pictures, (H, W) uint8, by the network of a file.

    Raises
    ------
    ConfigError
        If the file is no such network.
    DataError
        Of its methods, if a picture is smaller than 32 x 32 or of another type.
    """

    def __init__(self, path: Path) -> None:
        self.model = LoopModel(path)

    def find(self, gray: NDArray[np.uint8]) -> Detection:
        """Find the mount in a picture, whatever border it enters through."""
        picture, standing = _lying(gray)
        found = self._find(picture)
        return _transposed(found) if standing else found

    def silhouette(self, gray: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], str] | None:
        """Return in which cells the mount is, and the border through which it enters.

        The cells, (R, C) bool, divide the whole picture evenly; None if there is no mount.
        """
        picture, standing = _lying(gray)
        maps = self.model.run(picture)
        readout = read_maps(maps, Crop(0, 0, picture.shape[1], picture.shape[0]))
        if score_of(maps) < SCORE_MIN or readout is None or light_of(picture).flat:
            return None
        regions = label(readout.mount, connectivity=2)
        # Other objects may have cells too. Gaps in a thin stem may separate the loop from the pin.
        mount = regions == 1 + np.argmax(np.bincount(regions[regions > 0])[1:])
        if readout.tip is not None:
            mount |= _regions_near(regions, _cell(readout, readout.tip))
        side = _side(maps)
        return (mount.T, TRANSPOSED[side]) if standing else (mount, side)

    def _find(self, picture: NDArray[np.uint8]) -> Detection:
        whole = Crop(0, 0, picture.shape[1], picture.shape[0])
        maps, light = self.model.run(picture), light_of(picture)
        score = score_of(maps)
        best = read_maps(maps, whole)
        if score < SCORE_MIN or best is None or light.flat:
            return _nothing(light, score, None, "+")
        side = _side(maps)
        if best.tip is None and _reach(best.mount, side) < RETRACTED:
            return _nothing(light, score, side, "-")
        if best.tip is not None and _goes_on(best, best.tip, side):
            best = replace(best, tip=None)
        mount, kinds = best.mount, [maps.kind]
        for _ in range(CROPS_MAX):
            crop = next_crop(best)
            if crop is None:
                break
            closer = read_maps(self.model.run(crop.of(picture)), crop)
            least = CONFIDENCE_MIN * best.confidence
            if closer is None or closer.tip is None or closer.confidence < least:
                break
            best = replace(closer, begin=_pin_end(best, closer))
        if best.crop != whole:
            kinds.append(best.maps.kind)
        if best.kind != "pin":
            if best.box is not None and abs(film_odds(kinds)) <= OPEN_ODDS:
                head = whole.around(_middle(best.box), HEAD_TIMES * whole.share(best.box))
                # There is no such crop around a head above 27 % of the picture, or a tiny one: the
                # last crop is taken again, upside down.
                again = best.crop.of(picture)[::-1].copy() if head is None else head.of(picture)
                kinds.append(self.model.run(again).kind)
            odds = film_odds(kinds)
            even = odds + EVEN_ODDS
            kind, odds = ("mitegen", even) if odds > 0 else ("nylon", -even)
            best = replace(best, kind=kind, odds=odds)
        best = _with_one_end(best, side, picture.shape)
        return _detection(picture, light, score, side, mount, best)


def _lying(gray: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """Return a picture that is not higher than wide, and whether it had to be transposed."""
    if gray.ndim != 2 or gray.dtype != np.uint8 or min(gray.shape) < SIDE_MIN_PX:
        raise DataError(
            f"picture: array of shape {gray.shape} and type {gray.dtype}, expected (H, W) uint8 of "
            f"at least {SIDE_MIN_PX} x {SIDE_MIN_PX}; decode it with "
            "skywright.instruments.loop.picture"
        )
    standing = gray.shape[0] > gray.shape[1]
    return np.ascontiguousarray(gray.T if standing else gray), standing


def _side(maps: Maps) -> str:
    """Return the likeliest border through which the mount enters."""
    return max(OPPOSITE, key=lambda name: maps.side[name])


def _goes_on(readout: Readout, tip: Place, side: str) -> bool:
    """Return whether the tip is unlikely and the mount seems to go on to the far border."""
    near_rows, near_columns = near = _near(_cell(readout, tip))
    if readout.maps.tip[near].max() >= LIKELY_PEAK:
        return False
    likely = _likely(readout.maps.masks)
    last = -1 if side in ("left", "top") else 0
    far = likely[near_rows, last] if side in ("left", "right") else likely[last, near_columns]
    return bool(far.max() > MASK_MIN)


def _pin_end(before: Readout, closer: Readout) -> Place | None:
    """Return where the stem begins: from the closer crop, unless it was found outside of that."""
    if before.begin is None or (closer.begin and closer.crop.holds(before.begin)):
        return closer.begin
    return before.begin


def next_crop(readout: Readout) -> Crop | None:
    """Return the next crop, around the end of the mount.

    The head fills half of it, as in the training. None if it fills more of the last one already.
    """
    if readout.tip is None or readout.box is None:
        return None
    center, head = readout.tip, PIN_END_SHARE
    if readout.kind != "pin":
        x, y = _middle(readout.box)
        center = (center[0] + x) / 2, (center[1] + y) / 2
        head = readout.crop.share(readout.box)
    return readout.crop.around(center, max(head / HEAD_SHARE, SMALLEST_CROP))


def _middle(box: Corners) -> Place:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def film_odds(kinds: list[dict[str, float]]) -> float:
    """Return the mean, over all crops, of the log odds that a loop is a film.

    The crops show the same mount, so their errors are not independent and the odds do not add.
    """
    least = 1e-4
    odds = [math.log(max(each["mitegen"], least) / max(each["nylon"], least)) for each in kinds]
    return sum(odds) / len(odds)


def read_maps(maps: Maps, crop: Crop) -> Readout | None:
    """Read the maps of a crop; None if no cell belongs to a mount."""
    likely = _likely(maps.masks)
    least = max(INSIDE * float(likely.max()), MASK_MIN)
    mount = likely > least
    if not mount.any():
        return None
    kind, odds, confidence, peak = _end(maps)
    box, errors = _box(maps, kind, peak, crop)
    return Readout(
        crop=crop, maps=maps, mount=mount, kind=kind, odds=odds, confidence=confidence,
        tip=None if peak is None else crop.px(_tip(maps, peak)),
        begin=_begin(maps, least, crop), box=box, errors=errors,
    )  # fmt: skip


def _likely(masks: dict[str, Floats]) -> Floats:
    """Return the probability that a cell shows some part of a mount."""
    return np.maximum(np.maximum(masks["pin"], masks["stem"]), masks["head"])


def score_of(maps: Maps) -> float:
    """Return about the probability that the detection is right; low where there is no mount.

    The network's own probability of a mount is higher than the share of right detections.
    """
    none = min(max(maps.kind["none"], 1e-6), 1 - 1e-6)
    odds = SCORE_SLOPE * math.log((1 - none) / none) + SCORE_SHIFT
    return 1.0 / (1.0 + math.exp(-odds))


def _end(maps: Maps) -> tuple[str, float, float, Cell | None]:
    """Return the kind, its log odds, the confidence of kind and tip, and the cell of a tip."""
    likely = {name: max(value, 1e-4) for name, value in maps.kind.items() if name != "none"}
    pin = likely["pin"] / sum(likely.values())
    # Kind and tip are decided together: a bare pin ends at the pin, a loop at its head.
    loop, bare_pin = (maps.tip * near for near in (maps.near["head"], maps.near["pin"]))
    loop *= 1 - pin
    bare_pin *= pin
    bare = bool(bare_pin.max() > loop.max())
    heat = bare_pin if bare else loop
    row, column = divmod(int(np.argmax(heat)), heat.shape[1])
    in_view = maps.tip[row, column] >= PEAK_MIN
    if not in_view:
        bare = pin > 0.5
    kind = "pin" if bare else max(("nylon", "mitegen"), key=lambda name: likely[name])
    share = min(likely[kind] / sum(likely.values()), 1 - 1e-4)
    odds = math.log(share / (1 - share))
    return kind, odds, float(heat.max()), (row, column) if in_view else None


def _box(
    maps: Maps, kind: str, peak: Cell | None, crop: Crop
) -> tuple[Corners | None, Corners | None]:
    """Return the edges of the head, px, as means over its cells, and their expected errors."""
    mask = maps.masks["pin" if kind == "pin" else "head"]
    inside = mask > max(INSIDE * float(mask.max()), MASK_MIN)
    if peak is not None:  # other objects may resemble a head
        near = _regions_near(label(inside, connectivity=2), peak)
        if near.any():
            inside = near
    height, width = maps.edges.shape[1:]
    coarse = inside.reshape(height, 2, width, 2).any(axis=(1, 3))
    if not coarse.any():
        return None, None
    values, errors = maps.edges[:, coarse], maps.edge_errors[:, coarse]
    weight = 1.0 / errors**2
    corners = np.clip((values * weight).sum(1) / weight.sum(1), 0, 1)
    # The errors of one head's cells are not independent: their mean error does not fall with their
    # number.
    expected = (errors * weight).sum(1) / weight.sum(1)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None, None
    (x0, y0), (x1, y1) = crop.px((corners[0], corners[1])), crop.px((corners[2], corners[3]))
    scale = [crop.width, crop.height, crop.width, crop.height]
    return _four(np.array([x0, y0, x1, y1])), _four(expected * scale)


def _near(cell: Cell) -> tuple[slice, slice]:
    """Return the rows and columns near a cell."""
    row, column = (slice(max(at - NEAR_CELLS, 0), at + NEAR_CELLS + 1) for at in cell)
    return row, column


def _regions_near(regions: NDArray[np.int_], cell: Cell) -> NDArray[np.bool_]:
    """Return the cells of the labeled regions that come near a cell."""
    wanted = np.zeros(int(regions.max()) + 1, np.bool_)
    wanted[regions[_near(cell)]] = True
    wanted[0] = False
    return wanted[regions]


def _tip(maps: Maps, peak: Cell) -> Place:
    """Return the tip: the heat-map's highest cell with the offset that it predicts."""
    row, column = peak
    rows, columns = maps.tip.shape
    dx, dy = np.clip(maps.tip_offset[:, row, column], -3, 3)
    return float(column + 0.5 + dx) / columns, float(row + 0.5 + dy) / rows


def _begin(maps: Maps, least: float, crop: Crop) -> Place | None:
    """Return where the stem begins, near cells of the mount; None if that is not in view.

    `least` is the lowest probability of a cell of the mount.
    """
    heat = maps.begin * (_likely(maps.near) > least)
    row, column = divmod(int(np.argmax(heat)), heat.shape[1])
    return crop.px(_centroid(heat, (row, column))) if heat[row, column] >= BEGIN_MIN else None


def _with_one_end(readout: Readout, side: str, shape: tuple[int, ...]) -> Readout:
    """Return the readout with one end: the weighted mean of tip and edge of the box.

    An end beyond the border is no tip.
    """
    if readout.tip is None:
        return readout
    far = FAR_EDGE[side]
    tip, box, errors = [*readout.tip], readout.box, readout.errors
    maps, (row, column) = readout.maps, _cell(readout, readout.tip)
    own = float(maps.tip_error[row, column]) / maps.tip.shape[1] * readout.crop.width
    if box is not None and errors is not None:
        edge = errors[far]
        # Weighted by the expected errors; a box that does not agree with the tip is left out.
        if abs(box[far] - tip[far % 2]) < 3 * (own + edge):
            tip[far % 2] = (tip[far % 2] / own**2 + box[far] / edge**2) / (own**-2 + edge**-2)
            errors = _four(
                np.array([*errors[:far], (own**-2 + edge**-2) ** -0.5, *errors[far + 1 :]])
            )
        if readout.kind != "pin":
            ended = [*box]
            ended[far] = tip[far % 2]
            if ended[2] > ended[0] and ended[3] > ended[1]:
                box = _four(np.array(ended))
    x, y = tip[0] + 0.5, tip[1] + 0.5
    gap = border_gaps(x, y, x, y, shape[1], shape[0])[OPPOSITE[side]]
    return replace(readout, tip=None if gap < 0 else (tip[0], tip[1]), box=box, errors=errors)


def _cell(readout: Readout, place: Place) -> Cell:
    """Return the cell of the maps in which a place is; the nearest one if it is outside."""
    rows, columns = readout.maps.tip.shape
    crop = readout.crop
    row = int((place[1] + 0.5 - crop.y) / crop.height * rows)
    column = int((place[0] + 0.5 - crop.x) / crop.width * columns)
    return min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)


def _reach(mount: NDArray[np.bool_], side: str) -> float:
    """Return how far the mount reaches from its side, as a share of the frame."""
    rows, columns = np.nonzero(mount)
    height, width = mount.shape
    x, y = columns / width, rows / height
    gaps = border_gaps(x.min(), y.min(), x.max() + 1 / width, y.max() + 1 / height)
    return float(1 - gaps[OPPOSITE[side]])


def _detection(
    gray: NDArray[np.uint8],
    light: Light,
    score: float,
    side: str,
    mount: NDArray[np.bool_],
    readout: Readout,
) -> Detection:
    """Return the readout as a detection."""
    lying, bare = side in ("left", "right"), readout.kind == "pin"
    tip, box = readout.tip or (NAN, NAN), readout.box
    extent = NAN if box is None else (box[3] - box[1] if lying else box[2] - box[0])
    base = tip if bare else readout.begin or (NAN, NAN)
    return Detection(
        tip_x=tip[0],
        tip_y=tip[1],
        bbox=box if not bare or readout.tip else None,
        kind=readout.kind,
        kind_odds=readout.odds,
        width=extent,
        side=side,
        score=score,
        pin_base_x=base[0],
        pin_base_y=base[1],
        fiber_width=NAN if bare else stem_width(gray, readout, lying),
        clipped=readout.tip is None or (not bare and _is_cut(box, side, gray.shape)),
        tip_in_view=readout.tip is not None,
        tip_sign="" if readout.tip else "+",
        level=light.level,
        saturated=light.saturated,
        contrast=contrast(gray, mount),
        sharpness=light.sharpness,
        noise=light.noise,
        head_errors=readout.errors if readout.tip is not None and not bare else None,
    )


def _is_cut(box: Corners | None, side: str, shape: tuple[int, ...]) -> bool:
    """Return whether another border than that of its side cuts the head."""
    if box is None:
        return False
    height, width = shape
    x0, y0, x1, y1 = box
    gaps = border_gaps(x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height)
    return any(gap < AT_BORDER for name, gap in gaps.items() if name != side)


def _centroid(heat: NDArray[np.float32], cell: Cell) -> Place:
    """Return the center of a peak, in shares of width and height."""
    row, column = cell
    r0, c0 = max(row - 2, 0), max(column - 2, 0)
    r, c = map(float, center_of_mass(heat[r0 : row + 3, c0 : column + 3] ** 2))
    return (c0 + 0.5 + c) / heat.shape[1], (r0 + 0.5 + r) / heat.shape[0]


def stem_width(gray: NDArray[np.uint8], readout: Readout, lying: bool) -> float:
    """Return the width of the stem at its middle, px: its extent at half of its contrast."""
    stem = readout.maps.masks["stem"]
    rows, columns = np.nonzero((stem > max(INSIDE * float(stem.max()), MASK_MIN)) & readout.mount)
    if not len(rows):
        return NAN
    along = columns if lying else rows
    middle = int(np.median(along))
    across = (rows if lying else columns)[along == middle]
    if not len(across):
        return NAN
    crop = readout.crop
    cell = crop.height / stem.shape[0], crop.width / stem.shape[1]
    down, right = (0, 1) if lying else (1, 0)
    corner = crop.y, crop.x
    center = corner[down] + (across.mean() + 0.5) * cell[down]
    half = (np.ptp(across) / 2 + 3) * cell[down]
    window = slice(max(round(center - half), 0), round(center + half))
    column = int(corner[right] + (middle + 0.5) * cell[right])
    near = slice(max(column - 1, 0), column + 2)
    profile = (gray if lying else gray.T)[window, near].mean(axis=1)
    apart = np.abs(profile - np.median(np.r_[profile[:3], profile[-3:]]))
    wide = np.flatnonzero(apart > 0.5 * apart.max())
    return float(wide[-1] - wide[0] + 1) if apart.max() >= 3 else NAN


def _nothing(light: Light, score: float, side: str | None, sign: str) -> Detection:
    """Return a detection without a mount, or with one of which only the side is known."""
    return Detection(
        side=side, score=score if side else min(score, SCORE_MIN), tip_sign=sign,
        level=light.level, saturated=light.saturated, contrast=light.spread,
        sharpness=light.sharpness, noise=light.noise, flat=light.flat,
    )  # fmt: skip


def _four(values: NDArray) -> Corners:
    a, b, c, d = (float(value) for value in values)
    return a, b, c, d


def _transposed(found: Detection) -> Detection:
    """Exchange x and y of a detection."""

    def turned(box: Corners | None) -> Corners | None:
        return None if box is None else (box[1], box[0], box[3], box[2])

    return replace(
        found,
        tip_x=found.tip_y,
        tip_y=found.tip_x,
        bbox=turned(found.bbox),
        side=found.side and TRANSPOSED[found.side],
        pin_base_x=found.pin_base_y,
        pin_base_y=found.pin_base_x,
        head_errors=turned(found.head_errors),
    )
