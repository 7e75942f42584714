"""From the maps of the network to what a picture shows.

All coordinates here are parts of the picture's width and height until `_pixels`. A picture higher
than wide is transposed first, as the network was trained with such.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label, profile_line, regionprops

from skywright.errors import DataError
from skywright.instruments.loop.detection import DARK_LEVEL, FLAT_RANGE, Corners, Detection
from skywright.instruments.loop.detector.model import LoopModel, Maps

NAN = float("nan")
LEAST_SCORE = 0.5  # below it nothing is reported but the score
LEAST_PEAK = 0.15  # of the tip's heat-map: below it the tip is not in view
LEAST_BEGIN = 0.2
INSIDE = 0.5  # of the highest probability in the picture: from there a cell belongs to a part
LEAST_PART = 0.15  # a part whose highest probability is below is not in the picture
LEAST_CELLS = 4  # of a mount
NEAR_CELLS = 3  # a tip lies at most so far outside of the masks
RETRACTED = 0.06  # of the frame: a mount that reaches less far, and shows no tip, is retracted
AT_BORDER = 0.006  # of the frame: within it a box touches the border
TRANSPOSED = {"left": "top", "top": "left", "right": "bottom", "bottom": "right"}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
FAR_EDGE = {"right": 0, "bottom": 1, "left": 2, "top": 3}
"""The edge of a box at the tip, by the side where the mount enters: xmin, ymin, xmax, ymax."""
CLOSER_LOOKS = 2
HEAD_PART = 0.55  # of a part that is looked at again: so much its head fills
END_PART = 0.25  # of the frame: of a bare pin the end is looked at
SMALLEST_PART, LARGEST_PART = 0.3, 0.8  # of the frame
LEAST_PART_PX = 48
SCORE_FIT = (1.0, 0.0)
"""Slope and offset that calibrate the logarithm of the odds that there is a mount."""


@dataclass(frozen=True)
class Light:
    """Figures of the light of a picture, grey levels."""

    level: float
    saturated: float
    sharpness: float
    noise: float
    spread: float

    @property
    def flat(self) -> bool:
        """Whether neither a mount nor an empty view can be told."""
        least = 4 * FLAT_RANGE if self.level < DARK_LEVEL else FLAT_RANGE
        return self.spread < least


class LoopFinder:
    """Finds the sample mount in pictures.

    Parameters
    ----------
    path
        File of the network.
    """

    def __init__(self, path: Path) -> None:
        self.model = LoopModel(path)

    def find(self, gray: NDArray[np.uint8]) -> Detection:
        """Find the mount in a picture, whatever border it enters through.

        Parameters
        ----------
        gray
            (H, W) uint8 picture, at least 32 x 32.

        Raises
        ------
        DataError
            If `gray` is not such an array.
        """
        if gray.ndim != 2 or gray.dtype != np.uint8 or min(gray.shape) < 32:
            raise DataError(
                f"picture: array of shape {gray.shape} and type {gray.dtype}, expected (H, W) "
                "uint8 of at least 32 x 32; decode it with skywright.instruments.loop.picture"
            )
        standing = gray.shape[0] > gray.shape[1]
        picture = np.ascontiguousarray(gray.T if standing else gray)
        found = whole = read(picture, self.model.run(picture))
        for _ in range(CLOSER_LOOKS):
            closer = self._look_closer(picture, found)
            if closer is None:
                break
            found = closer
        found = replace(
            found,
            score=whole.score,
            level=whole.level,
            saturated=whole.saturated,
            sharpness=whole.sharpness,
            noise=whole.noise,
        )
        return _transposed(found) if standing else found

    def _look_closer(self, picture: NDArray[np.uint8], found: Detection) -> Detection | None:
        """Look at the part of a picture about the end of what was found.

        None if what was found is large enough, or the part shows something else.
        """
        part = part_about(found, picture.shape)
        if part is None:
            return None
        rows, columns = part
        seen = np.ascontiguousarray(picture[rows, columns])
        closer = read(seen, self.model.run(seen))
        if not closer.tip_in_view or closer.side != found.side:
            return None
        return closer.moved(columns.start, rows.start)


def part_about(found: Detection, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Return rows and columns of the part of a picture to look at again.

    The head fills half of it, as in the training; None if it fills more of the picture already.
    """
    if not found.tip_in_view or found.bbox is None:
        return None
    height, width = shape
    x0, y0, x1, y1 = found.bbox
    about, head = np.array([found.tip_x, found.tip_y]), END_PART
    if found.kind != "pin":
        about = np.mean([about, [(x0 + x1) / 2, (y0 + y1) / 2]], 0)
        head = max((x1 - x0) / width, (y1 - y0) / height)
    size = np.array([width, height]) * max(head / HEAD_PART, SMALLEST_PART)
    if size[0] < LEAST_PART_PX or size[0] > LARGEST_PART * width:
        return None
    first = np.clip(about - size / 2, 0, [width, height] - size).astype(int)
    last = first + size.astype(int)
    return slice(int(first[1]), int(last[1])), slice(int(first[0]), int(last[0]))


def read(gray: NDArray[np.uint8], maps: Maps) -> Detection:
    """Turn the maps of a picture, W >= H, into a detection."""
    light = light_of(gray)
    score = score_of(maps)
    mount = _mount(maps)
    if score < LEAST_SCORE or mount is None or light.flat:
        return _nothing(light, score, None, "+")
    side = max(OPPOSITE, key=lambda name: maps.side[name])
    peak = _peak(maps.tip, mount)
    if peak is None and _reach(mount, side) < RETRACTED:
        return _nothing(light, score, side, "-")
    kind, odds = _kind(maps)
    box, errors = _box(maps, mount, kind)
    tip, errors = _tip(maps, peak, side, box, errors)
    sees_tip = tip is not None and not _reaches(tip, side)
    return _described(
        gray,
        maps,
        mount,
        light,
        _Seen(score, side, kind, odds, box, errors, tip if sees_tip else None),
    )


@dataclass(frozen=True)
class _Seen:
    score: float
    side: str
    kind: str
    odds: float
    box: Corners | None
    errors: Corners | None
    tip: tuple[float, float] | None


def score_of(maps: Maps) -> float:
    """Return the probability that a mount is in the picture and rightly told."""
    none = min(max(maps.kind["none"], 1e-6), 1 - 1e-6)
    slope, offset = SCORE_FIT
    return 1.0 / (1.0 + math.exp(-slope * math.log((1 - none) / none) - offset))


def light_of(gray: NDArray[np.uint8]) -> Light:
    """Measure the light on every second row and column."""
    small = gray[::2, ::2].astype(np.float32)
    across, down = np.diff(small[:-1], axis=1), np.diff(small[:, :-1], axis=0)
    slope = np.sort((np.abs(across) + np.abs(down))[::2, ::2].ravel())
    low, high = np.percentile(small[::2, ::2], (0.5, 99.5))
    return Light(
        level=float(small.mean()),
        saturated=float(((small <= 1) | (small >= 254)).mean()),
        sharpness=0.5 * float(slope[int(0.995 * (len(slope) - 1))]),
        # The median of a half-normal distribution is 0.6745 of its standard deviation.
        noise=float(np.median(np.abs(across[::2, ::2]))) / (0.6745 * math.sqrt(2)),
        spread=float(high - low),
    )


def _mount(maps: Maps) -> NDArray[np.bool_] | None:
    """Return the cells of the mount: the region of pin, stem and head that has most weight."""
    likely = np.maximum(np.maximum(maps.masks["pin"], maps.masks["stem"]), maps.masks["head"])
    # A thin stem may be seen in part only: regions apart by a cell or two belong together.
    grown = np.maximum.reduce(
        [np.roll(likely, (r, c), (0, 1)) for r in (-1, 0, 1) for c in (-1, 0, 1)]
    )
    if likely.max() < LEAST_PART:
        return None
    least = INSIDE * float(likely.max())
    regions = label(grown > least, connectivity=2)
    best = max(
        regionprops(regions, intensity_image=likely),
        key=lambda r: r.area * r.intensity_mean * (1 + maps.tip[regions == r.label].max()),
    )
    inside = (regions == best.label) & (likely > least)
    return inside if inside.sum() >= LEAST_CELLS else None


def _inside(part: NDArray[np.float32], mount: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the cells of a part of the mount; none if the part is not seen."""
    highest = float(part[mount].max())
    return (part > max(INSIDE * highest, LEAST_PART)) & mount


def _peak(heat: NDArray[np.float32], mount: NDArray[np.bool_]) -> tuple[int, int] | None:
    """Return the cell of the highest probability in or near the mount."""
    rows, columns = np.nonzero(mount)
    near = np.zeros_like(mount)
    near[
        max(rows.min() - NEAR_CELLS, 0) : rows.max() + NEAR_CELLS + 1,
        max(columns.min() - NEAR_CELLS, 0) : columns.max() + NEAR_CELLS + 1,
    ] = True
    k = int(np.argmax(np.where(near, heat, 0)))
    row, column = divmod(k, heat.shape[1])
    return (row, column) if heat[row, column] >= LEAST_PEAK else None


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


def _kind(maps: Maps) -> tuple[str, float]:
    """Return the kind of the mount, and the logarithm of its odds against the other kinds."""
    likely = {name: value for name, value in maps.kind.items() if name != "none"}
    kind = max(likely, key=lambda name: likely[name])
    part = min(likely[kind] / max(sum(likely.values()), 1e-9), 1 - 1e-4)
    return kind, math.log(part / (1 - part))


def _box(maps: Maps, mount: NDArray[np.bool_], kind: str) -> tuple[Corners | None, Corners | None]:
    """Return the edges of the head as its cells see them, weighted by their errors."""
    part = maps.masks["pin" if kind == "pin" else "head"]
    inside = _inside(part, mount)
    height, width = maps.edges.shape[1:]
    coarse = inside.reshape(height, 2, width, 2).any((1, 3))
    if not coarse.any():
        return None, None
    values, errors = maps.edges[:, coarse], maps.edge_errors[:, coarse]
    weight = 1.0 / errors**2
    corners = np.clip((values * weight).sum(1) / weight.sum(1), 0, 1)
    # Cells of one head err together: their number does not make the edge better known.
    expected = (errors * weight).sum(1) / weight.sum(1)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None, None
    return _four(corners), _four(expected)


def _tip(
    maps: Maps, peak: tuple[int, int] | None, side: str, box: Corners | None, errors: Corners | None
) -> tuple[tuple[float, float] | None, Corners | None]:
    """Return the tip by its heat-map and, along the axis, the edge of the box, by their errors."""
    if peak is None:
        return None, errors
    row, column = peak
    rows, columns = maps.tip.shape
    dx, dy = np.clip(maps.tip_offset[:, row, column], -3, 3)
    tip = [(column + 0.5 + dx) / columns, (row + 0.5 + dy) / rows]
    own = float(maps.tip_error[row, column]) / columns
    if box is None or errors is None:
        return (float(tip[0]), float(tip[1])), errors
    far = FAR_EDGE[side]
    edge, apart = errors[far], abs(box[far] - tip[far % 2])
    if apart < 3 * (own + edge):
        tip[far % 2] = (tip[far % 2] / own**2 + box[far] / edge**2) / (own**-2 + edge**-2)
        expected = [*errors]
        expected[far] = (own**-2 + edge**-2) ** -0.5
        errors = _four(np.array(expected))
    return (float(tip[0]), float(tip[1])), errors


def _reaches(tip: tuple[float, float], side: str) -> bool:
    """Tell whether a tip is at the border opposite to the mount's side."""
    x, y = tip
    return {"left": 1 - x, "right": x, "top": 1 - y, "bottom": y}[side] <= 0.0


def _described(
    gray: NDArray[np.uint8], maps: Maps, mount: NDArray[np.bool_], light: Light, seen: _Seen
) -> Detection:
    """Return everything in pixels."""
    height, width = gray.shape
    lying = seen.side in ("left", "right")
    tip = _pixels(seen.tip, gray.shape) if seen.tip else (NAN, NAN)
    corners, errors = None, None
    if seen.box is not None and seen.errors is not None:
        corners = _corners(seen.box, gray.shape)
        # Along y the errors are in the same unit as along x: cells of the map's columns.
        errors = _four(np.array(seen.errors) * [width, height, width, height])
        if seen.tip is not None and seen.kind != "pin":
            corners = _ending_at(corners, tip, seen.side)
    extent = (
        NAN if corners is None else (corners[3] - corners[1] if lying else corners[2] - corners[0])
    )
    begin = _peak(maps.begin, mount)
    base = (NAN, NAN)
    if seen.kind == "pin":
        base = tip
    elif begin is not None:
        base = _pixels(_refined(maps.begin, begin), gray.shape)
    return Detection(
        tip_x=tip[0],
        tip_y=tip[1],
        bbox=corners if seen.kind != "pin" or seen.tip else None,
        kind=seen.kind,
        kind_odds=seen.odds,
        width=extent,
        side=seen.side,
        score=seen.score,
        pin_base_x=base[0],
        pin_base_y=base[1],
        fiber_width=NAN if seen.kind == "pin" else stem_width(gray, maps, mount, lying),
        clipped=seen.tip is None or _touches(corners, seen, gray.shape),
        tip_in_view=seen.tip is not None,
        tip_sign="" if seen.tip else "+",
        level=light.level,
        saturated=light.saturated,
        contrast=_contrast(gray, mount),
        sharpness=light.sharpness,
        noise=light.noise,
        flat=False,
        head_box=corners if seen.kind != "pin" and seen.tip else None,
        head_errors=errors if seen.kind != "pin" and seen.tip else None,
    )


def _ending_at(corners: Corners, tip: tuple[float, float], side: str) -> Corners:
    """Let a box end where the tip is."""
    out = [*corners]
    far = FAR_EDGE[side]
    out[far] = tip[far % 2]
    if out[2] <= out[0] or out[3] <= out[1]:
        return corners
    return _four(np.array(out))


def _touches(corners: Corners | None, seen: _Seen, shape: tuple[int, ...]) -> bool:
    """Tell whether a head is cut by another border than that of its side."""
    if corners is None or seen.kind == "pin":
        return False
    height, width = shape
    x0, y0, x1, y1 = corners
    gaps = {
        "left": x0 / width, "right": 1 - (x1 + 1) / width,
        "top": y0 / height, "bottom": 1 - (y1 + 1) / height,
    }  # fmt: skip
    return any(gap < AT_BORDER for name, gap in gaps.items() if name != seen.side)


def _refined(heat: NDArray[np.float32], cell: tuple[int, int]) -> tuple[float, float]:
    """Return the center of a peak, part of width and height."""
    row, column = cell
    r0, c0 = max(row - 2, 0), max(column - 2, 0)
    part = heat[r0 : row + 3, c0 : column + 3] ** 2
    r, c = np.mgrid[0 : part.shape[0], 0 : part.shape[1]]
    x = c0 + 0.5 + float((part * c).sum() / part.sum())
    y = r0 + 0.5 + float((part * r).sum() / part.sum())
    return x / heat.shape[1], y / heat.shape[0]


def stem_width(gray: NDArray[np.uint8], maps: Maps, mount: NDArray[np.bool_], lying: bool) -> float:
    """Measure the stem across its middle: its extent at half of its contrast, px."""
    stem = _inside(maps.masks["stem"], mount)
    rows, columns = np.nonzero(stem)
    if len(rows) < LEAST_CELLS:
        return NAN
    along = columns if lying else rows
    middle = int(np.median(along))
    across = (rows if lying else columns)[along == middle]
    if not len(across):
        return NAN
    scale = gray.shape[0] / stem.shape[0], gray.shape[1] / stem.shape[1]
    half = (np.ptp(across) / 2 + 3) * scale[0 if lying else 1]
    center = np.array(
        [across.mean() + 0.5, middle + 0.5] if lying else [middle + 0.5, across.mean() + 0.5]
    )
    center = center * scale - 0.5
    step = np.array([half, 0.0] if lying else [0.0, half])
    profile = profile_line(gray, center - step, center + step, linewidth=3, mode="nearest")
    apart = np.abs(profile - np.median(np.r_[profile[:3], profile[-3:]]))
    wide = np.flatnonzero(apart > 0.5 * apart.max())
    return float(wide[-1] - wide[0] + 1) if apart.max() >= 3 else NAN


def _contrast(gray: NDArray[np.uint8], mount: NDArray[np.bool_]) -> float:
    """Return how much the mount differs from what is around it, grey levels."""
    rows = np.linspace(0, gray.shape[0] - 1, mount.shape[0]).round().astype(int)
    columns = np.linspace(0, gray.shape[1] - 1, mount.shape[1]).round().astype(int)
    small = gray[np.ix_(rows, columns)].astype(np.float32)
    apart = np.abs(small - np.median(small[~mount] if (~mount).any() else small))
    return float(np.percentile(apart[mount], 90))


def _nothing(light: Light, score: float, side: str | None, sign: str) -> Detection:
    """Say that no mount is seen, or only something at its side."""
    return Detection(
        tip_x=NAN, tip_y=NAN, bbox=None, kind="none", kind_odds=0.0, width=NAN, side=side,
        score=score if side else min(score, LEAST_SCORE), pin_base_x=NAN, pin_base_y=NAN,
        fiber_width=NAN, clipped=False, tip_in_view=False, tip_sign=sign, level=light.level,
        saturated=light.saturated, contrast=light.spread, sharpness=light.sharpness,
        noise=light.noise, flat=light.flat,
    )  # fmt: skip


def _pixels(place: tuple[float, float], shape: tuple[int, ...]) -> tuple[float, float]:
    return place[0] * shape[1] - 0.5, place[1] * shape[0] - 0.5


def _corners(box: Corners, shape: tuple[int, ...]) -> Corners:
    (x0, y0), (x1, y1) = _pixels((box[0], box[1]), shape), _pixels((box[2], box[3]), shape)
    return x0, y0, x1, y1


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
        head_box=turned(found.head_box),
        head_errors=turned(found.head_errors),
    )
