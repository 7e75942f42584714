"""From the maps of the network to what a picture shows.

The network sees the whole picture first and then a part of it around the end of the mount, so that
a small loop is measured as well as a large one; a closer look counts if it is nearly as sure as the
one before. A picture higher than wide
is transposed first, as the network was trained.
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
    MIN_SIDE_PX,
    NAN,
    OPPOSITE,
    Corners,
    Detection,
    border_gaps,
)
from skywright.instruments.loop.detector.light import Light, contrast, light_of
from skywright.instruments.loop.detector.model import NEAR_CELLS, LoopModel, Maps

Floats = NDArray[np.float32]
Cell = tuple[int, int]
Place = tuple[float, float]
LEAST_SCORE = 0.5  # below it nothing is reported but the score
SCORE_SLOPE, SCORE_SHIFT = 0.69, -0.37
"""Of the score's log odds over those that the network gives a mount, fitted to 700 answers of an
earlier network (`loop_detection` 11) on twin, painter and composite, seeds from 421,000,000."""
LEAST_PEAK = 0.2
"""Of the tip's heat-map: below it the tip is not in view. Fitted to 400 pictures of each generator,
to miss few tips and to see few where there are none."""
LIKELY_PEAK = 0.35
"""A tip at least this sure is kept even if the mount seems to go on beside it."""
LEAST_BEGIN = 0.2
INSIDE = 0.5  # of the highest probability in the picture: from there a cell belongs to a part
LEAST_PART = 0.15  # a part whose highest probability is below is not in the picture
RETRACTED = 0.06  # of the frame: a mount that reaches less far, and shows no tip, is retracted
CLOSER_LOOKS = 2
AS_SURE = 0.7  # a closer look counts if it is nearly as sure as the one before: it is more exact
HEAD_PART = 0.55  # of a part that is looked at again: so much its head fills
END_PART = 0.25  # of the frame: of a bare pin the end is looked at
SMALLEST_PART, LARGEST_PART = 0.3, 0.8  # of the picture of the look before
LEAST_PART_PX = 48
OPEN_ODDS = 1.0
"""Logarithm: below it, between nylon and film, the head is looked at once more for the kind."""
HEAD_TIMES = 3.0  # width of the part for the kind, in widths of the head
EVEN_ODDS = 0.3
"""Logarithm of how much more frequent nylon is than film in the training. A vote adds up odds, and
would count this advantage once a picture; so it is taken off."""
TRANSPOSED = {"left": "top", "top": "left", "right": "bottom", "bottom": "right"}
FAR_EDGE = {"right": 0, "bottom": 1, "left": 2, "top": 3}
"""The edge of a box at the tip, by the side where the mount enters: xmin, ymin, xmax, ymax."""


@dataclass(frozen=True)
class Part:
    """A part of a picture, px: first column and row, width and height."""

    x: int
    y: int
    width: int
    height: int

    def of(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut it out."""
        rows, columns = slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)
        return np.ascontiguousarray(picture[rows, columns])

    def holds(self, place: Place) -> bool:
        """Tell whether a place of the picture, px, is in it."""
        x, y = place[0] - self.x, place[1] - self.y
        return 0 <= x < self.width and 0 <= y < self.height

    def px(self, place: Place) -> Place:
        """Return where a place in it, parts of its size, is in the picture; px."""
        return self.x + place[0] * self.width - 0.5, self.y + place[1] * self.height - 0.5

    def share(self, box: Corners) -> float:
        """Return which part of it a box fills, in width or height, the larger one."""
        return max((box[2] - box[0]) / self.width, (box[3] - box[1]) / self.height)

    def about(self, place: Place, size: float) -> "Part | None":
        """Return a part of it about a place; None if that is nearly all of it, or a few pixels."""
        w, h = int(size * self.width), int(size * self.height)
        if size > LARGEST_PART or w < LEAST_PART_PX:
            return None
        x = np.clip(place[0] - w / 2, self.x, self.x + self.width - w)
        y = np.clip(place[1] - h / 2, self.y, self.y + self.height - h)
        return Part(int(x), int(y), w, h)


@dataclass(frozen=True)
class Look:
    """What the network says of a part of a picture; places and errors in px of the picture."""

    part: Part
    maps: Maps
    mount: NDArray[np.bool_]
    kind: str
    odds: float
    sure: float
    tip: Place | None
    begin: Place | None
    box: Corners | None
    errors: Corners | None


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
        seen = look_at(maps, Part(0, 0, picture.shape[1], picture.shape[0]))
        if score_of(maps) < LEAST_SCORE or seen is None or light_of(picture).flat:
            return None
        regions = label(seen.mount, connectivity=2)
        # Something else may look like a mount; a thin stem may have gaps, which part the loop.
        largest = regions == 1 + np.argmax(np.bincount(regions[regions > 0])[1:])
        mount = largest if seen.tip is None else largest | _at(regions, _cell(seen, seen.tip))
        side = _side(maps)
        return (mount.T, TRANSPOSED[side]) if standing else (mount, side)

    def _find(self, picture: NDArray[np.uint8]) -> Detection:
        whole = Part(0, 0, picture.shape[1], picture.shape[0])
        maps, light = self.model.run(picture), light_of(picture)
        score = score_of(maps)
        best = look_at(maps, whole)
        if score < LEAST_SCORE or best is None or light.flat:
            return _nothing(light, score, None, "+")
        side = _side(maps)
        if best.tip is None and _reach(best.mount, side) < RETRACTED:
            return _nothing(light, score, side, "-")
        if best.tip is not None and _goes_on(best, best.tip, side):
            best = replace(best, tip=None)
        mount, kinds = best.mount, [maps.kind]
        for _ in range(CLOSER_LOOKS):
            part = part_about(best)
            if part is None:
                break
            closer = look_at(self.model.run(part.of(picture)), part)
            if closer is None or closer.tip is None or closer.sure < AS_SURE * best.sure:
                break
            best = replace(closer, begin=_pin_end(best, closer))
        if best.part != whole:
            kinds.append(best.maps.kind)
        if best.kind != "pin":
            if best.box is not None and abs(film_odds(kinds)) <= OPEN_ODDS:
                head = whole.about(_middle(best.box), HEAD_TIMES * whole.share(best.box))
                # About a head above 27 % of the picture, or a tiny one, there is no such part:
                # the last look is taken once more, upside down.
                again = best.part.of(picture)[::-1].copy() if head is None else head.of(picture)
                kinds.append(self.model.run(again).kind)
            odds = film_odds(kinds)
            even = odds + EVEN_ODDS
            kind, odds = ("mitegen", even) if odds > 0 else ("nylon", -even)
            best = replace(best, kind=kind, odds=odds)
        return _described(picture, light, score, side, mount, _ending(best, side, picture.shape))


def _lying(gray: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """Return a picture that is not higher than wide, and whether it had to be transposed."""
    if gray.ndim != 2 or gray.dtype != np.uint8 or min(gray.shape) < MIN_SIDE_PX:
        raise DataError(
            f"picture: array of shape {gray.shape} and type {gray.dtype}, expected (H, W) uint8 of "
            f"at least {MIN_SIDE_PX} x {MIN_SIDE_PX}; decode it with "
            "skywright.instruments.loop.picture"
        )
    standing = gray.shape[0] > gray.shape[1]
    return np.ascontiguousarray(gray.T if standing else gray), standing


def _side(maps: Maps) -> str:
    """Return the likeliest border through which the mount enters."""
    return max(OPPOSITE, key=lambda name: maps.side[name])


def _goes_on(look: Look, tip: Place, side: str) -> bool:
    """Tell a mount that may go on beside its tip to the far border, where that is no likely tip."""
    row, column = _cell(look, tip)
    near_rows = slice(max(row - NEAR_CELLS, 0), row + NEAR_CELLS + 1)
    near_columns = slice(max(column - NEAR_CELLS, 0), column + NEAR_CELLS + 1)
    if look.maps.tip[near_rows, near_columns].max() >= LIKELY_PEAK:
        return False
    likely = _likely(look.maps.masks)
    far = {
        "left": likely[near_rows, -1], "right": likely[near_rows, 0],
        "top": likely[-1, near_columns], "bottom": likely[0, near_columns],
    }[side]  # fmt: skip
    return bool(far.max() > LEAST_PART)


def _pin_end(before: Look, closer: Look) -> Place | None:
    """Return the end of the pin: of the closer look, unless it was seen outside of that."""
    if before.begin is None or (closer.begin and closer.part.holds(before.begin)):
        return closer.begin
    return before.begin


def part_about(look: Look) -> Part | None:
    """Return the part of a picture for the next look, around the end of the mount.

    The head fills half of it, as in the training; None if it fills more of the last look already.
    """
    if look.tip is None or look.box is None:
        return None
    about, head = look.tip, END_PART
    if look.kind != "pin":
        x, y = _middle(look.box)
        about, head = ((about[0] + x) / 2, (about[1] + y) / 2), look.part.share(look.box)
    return look.part.about(about, max(head / HEAD_PART, SMALLEST_PART))


def _middle(box: Corners) -> Place:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def film_odds(kinds: list[dict[str, float]]) -> float:
    """Return the logarithm of the odds that a loop is a film, from all looks: their mean.

    They see the same mount and err alike, so that their sum would say too much.
    """
    least = 1e-4
    odds = [math.log(max(each["mitegen"], least) / max(each["nylon"], least)) for each in kinds]
    return sum(odds) / len(odds)


def look_at(maps: Maps, part: Part) -> Look | None:
    """Read the maps of a part of a picture; None if no cell is of a mount."""
    likely = _likely(maps.masks)
    least = max(INSIDE * float(likely.max()), LEAST_PART)
    mount = likely > least
    if not mount.any():
        return None
    kind, odds, sure, peak = _end(maps)
    box, errors = _box(maps, kind, peak, part)
    return Look(
        part=part, maps=maps, mount=mount, kind=kind, odds=odds, sure=sure,
        tip=None if peak is None else part.px(_tip(maps, peak)),
        begin=_begin(maps, least, part), box=box, errors=errors,
    )  # fmt: skip


def _likely(masks: dict[str, Floats]) -> Floats:
    """Return how probable it is that a cell shows some part of a mount."""
    return np.maximum(np.maximum(masks["pin"], masks["stem"]), masks["head"])


def score_of(maps: Maps) -> float:
    """Return about the probability that what is found is right; low where nothing is.

    The network is surer that there is a mount than its answers are right.
    """
    none = min(max(maps.kind["none"], 1e-6), 1 - 1e-6)
    odds = SCORE_SLOPE * math.log((1 - none) / none) + SCORE_SHIFT
    return 1.0 / (1.0 + math.exp(-odds))


def _end(maps: Maps) -> tuple[str, float, float, Cell | None]:
    """Return kind, the logarithm of its odds, how sure both are, and the cell of a tip, if any."""
    likely = {name: max(value, 1e-4) for name, value in maps.kind.items() if name != "none"}
    pin = likely["pin"] / sum(likely.values())
    # Kind and tip are decided together: a bare pin ends at the pin, a loop at its head.
    loop, bare_pin = (maps.tip * near for near in (maps.near["head"], maps.near["pin"]))
    loop *= 1 - pin
    bare_pin *= pin
    bare = bool(bare_pin.max() > loop.max())
    heat = bare_pin if bare else loop
    row, column = divmod(int(np.argmax(heat)), heat.shape[1])
    seen = maps.tip[row, column] >= LEAST_PEAK
    if not seen:
        bare = pin > 0.5
    kind = "pin" if bare else max(("nylon", "mitegen"), key=lambda name: likely[name])
    part = min(likely[kind] / sum(likely.values()), 1 - 1e-4)
    odds = math.log(part / (1 - part))
    return kind, odds, float(heat.max()), (row, column) if seen else None


def _box(
    maps: Maps, kind: str, peak: Cell | None, where: Part
) -> tuple[Corners | None, Corners | None]:
    """Return the edges of the head as its cells see them, and their errors; px."""
    part = maps.masks["pin" if kind == "pin" else "head"]
    inside = part > max(INSIDE * float(part.max()), LEAST_PART)
    if peak is not None:  # of several things that look like a head, the one at the tip
        near = _at(label(inside, connectivity=2), peak)
        if near.any():
            inside = near
    height, width = maps.edges.shape[1:]
    fours = inside.reshape(height, 2, width, 2)
    coarse = fours[:, 0, :, 0] | fours[:, 0, :, 1] | fours[:, 1, :, 0] | fours[:, 1, :, 1]
    if not coarse.any():
        return None, None
    values, errors = maps.edges[:, coarse], maps.edge_errors[:, coarse]
    weight = 1.0 / errors**2
    corners = np.clip((values * weight).sum(1) / weight.sum(1), 0, 1)
    # Cells of one head err together: their number does not make the edge better known.
    expected = (errors * weight).sum(1) / weight.sum(1)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None, None
    (x0, y0), (x1, y1) = where.px((corners[0], corners[1])), where.px((corners[2], corners[3]))
    scale = [where.width, where.height, where.width, where.height]
    return _four(np.array([x0, y0, x1, y1])), _four(expected * scale)


def _at(regions: NDArray[np.int_], cell: Cell) -> NDArray[np.bool_]:
    """Return the labelled regions that come near a cell."""
    row, column = cell
    near = regions[
        max(row - NEAR_CELLS, 0) : row + NEAR_CELLS + 1,
        max(column - NEAR_CELLS, 0) : column + NEAR_CELLS + 1,
    ]
    wanted = np.zeros(int(regions.max()) + 1, np.bool_)
    wanted[near] = True
    wanted[0] = False
    return wanted[regions]


def _tip(maps: Maps, peak: Cell) -> Place:
    """Return the tip by its heat-map's highest cell and the offset that this cell sees."""
    row, column = peak
    rows, columns = maps.tip.shape
    dx, dy = np.clip(maps.tip_offset[:, row, column], -3, 3)
    return float(column + 0.5 + dx) / columns, float(row + 0.5 + dy) / rows


def _begin(maps: Maps, least: float, part: Part) -> Place | None:
    """Return where the stem begins, near cells at least so likely; None if that is not in view."""
    heat = maps.begin * (_likely(maps.near) > least)
    row, column = divmod(int(np.argmax(heat)), heat.shape[1])
    return part.px(_centroid(heat, (row, column))) if heat[row, column] >= LEAST_BEGIN else None


def _ending(look: Look, side: str, shape: tuple[int, ...]) -> Look:
    """Return a look with one end, the mean of tip and edge of the box; none beyond the border."""
    if look.tip is None:
        return look
    far = FAR_EDGE[side]
    tip, box, errors = [*look.tip], look.box, look.errors
    row, column = _cell(look, look.tip)
    own = float(look.maps.tip_error[row, column]) / look.maps.tip.shape[1] * look.part.width
    if box is not None and errors is not None:
        edge = errors[far]
        # Each counts by its expected error, where they agree.
        if abs(box[far] - tip[far % 2]) < 3 * (own + edge):
            tip[far % 2] = (tip[far % 2] / own**2 + box[far] / edge**2) / (own**-2 + edge**-2)
            errors = _four(
                np.array([*errors[:far], (own**-2 + edge**-2) ** -0.5, *errors[far + 1 :]])
            )
        if look.kind != "pin":
            ended = [*box]
            ended[far] = tip[far % 2]
            if ended[2] > ended[0] and ended[3] > ended[1]:
                box = _four(np.array(ended))
    height, width = shape
    beyond = {
        "left": tip[0] > width - 0.5, "right": tip[0] < -0.5,
        "top": tip[1] > height - 0.5, "bottom": tip[1] < -0.5,
    }[side]  # fmt: skip
    return replace(look, tip=None if beyond else (tip[0], tip[1]), box=box, errors=errors)


def _cell(look: Look, place: Place) -> Cell:
    """Return the cell of a look's maps in which a place is."""
    rows, columns = look.maps.tip.shape
    part = look.part
    row = int((place[1] + 0.5 - part.y) / part.height * rows)
    column = int((place[0] + 0.5 - part.x) / part.width * columns)
    return min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)


def _reach(mount: NDArray[np.bool_], side: str) -> float:
    """Return how far the mount reaches from its side, part of the frame."""
    rows, columns = np.nonzero(mount)
    height, width = mount.shape
    return {
        "left": (columns.max() + 1) / width,
        "right": 1 - columns.min() / width,
        "top": (rows.max() + 1) / height,
        "bottom": 1 - rows.min() / height,
    }[side]


def _described(
    gray: NDArray[np.uint8],
    light: Light,
    score: float,
    side: str,
    mount: NDArray[np.bool_],
    look: Look,
) -> Detection:
    """Return what was seen as a detection."""
    lying, bare = side in ("left", "right"), look.kind == "pin"
    tip, box = look.tip or (NAN, NAN), look.box
    extent = NAN if box is None else (box[3] - box[1] if lying else box[2] - box[0])
    base = tip if bare else look.begin or (NAN, NAN)
    return Detection(
        tip_x=tip[0],
        tip_y=tip[1],
        bbox=box if not bare or look.tip else None,
        kind=look.kind,
        kind_odds=look.odds,
        width=extent,
        side=side,
        score=score,
        pin_base_x=base[0],
        pin_base_y=base[1],
        fiber_width=NAN if bare else stem_width(gray, look, lying),
        clipped=look.tip is None or (not bare and _is_cut(box, side, gray.shape)),
        tip_in_view=look.tip is not None,
        tip_sign="" if look.tip else "+",
        level=light.level,
        saturated=light.saturated,
        contrast=contrast(gray, mount),
        sharpness=light.sharpness,
        noise=light.noise,
        head_errors=look.errors if look.tip is not None and not bare else None,
    )


def _is_cut(box: Corners | None, side: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a head is cut by another border than that of its side."""
    if box is None:
        return False
    height, width = shape
    x0, y0, x1, y1 = box
    gaps = border_gaps(x0 / width, y0 / height, (x1 + 1) / width, (y1 + 1) / height)
    return any(gap < AT_BORDER for name, gap in gaps.items() if name != side)


def _centroid(heat: NDArray[np.float32], cell: Cell) -> Place:
    """Return the center of a peak, part of width and height."""
    row, column = cell
    r0, c0 = max(row - 2, 0), max(column - 2, 0)
    r, c = map(float, center_of_mass(heat[r0 : row + 3, c0 : column + 3] ** 2))
    return (c0 + 0.5 + c) / heat.shape[1], (r0 + 0.5 + r) / heat.shape[0]


def stem_width(gray: NDArray[np.uint8], look: Look, lying: bool) -> float:
    """Measure the stem across its middle: its extent at half of its contrast, px."""
    stem = look.maps.masks["stem"]
    rows, columns = np.nonzero((stem > max(INSIDE * float(stem.max()), LEAST_PART)) & look.mount)
    if not len(rows):
        return NAN
    along = columns if lying else rows
    middle = int(np.median(along))
    across = (rows if lying else columns)[along == middle]
    if not len(across):
        return NAN
    part = look.part
    cell = part.height / stem.shape[0], part.width / stem.shape[1]
    down, right = (0, 1) if lying else (1, 0)
    corner = part.y, part.x
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
    """Say that no mount is seen, or only something at its side."""
    return Detection(
        side=side, score=score if side else min(score, LEAST_SCORE), tip_sign=sign,
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
