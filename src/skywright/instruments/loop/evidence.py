"""What speaks for and against a thing in a picture being the mount, as named numbers."""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.light import quantile, spread_over_median
from skywright.instruments.loop.objects import SIDES
from skywright.instruments.loop.parts import Parts
from skywright.instruments.loop.seg_evidence import agreement
from skywright.instruments.loop.seg_net import Map
from skywright.instruments.loop.silhouette import Outline, turned_box

CONTACTS = slice(8, 18, 3)  # of an object's statistics: its contact on each side
JOINS = (
    "joined", "join_gap", "join_side", "join_more", "join_weak", "join_long", "join_dot",
    "join_foreign", "join_beyond", "join_axis", "join_size", "join_root",
)  # fmt: skip
CORES = ("core", "core_reach", "core_area", "core_free")


@dataclass(frozen=True)
class Picture:
    """Objects of a picture with what is needed of each, all computed once.

    `stats`, `contrast` and `parents` are lists: their items are asked for one by one. `seen` is
    what the network says of the picture; `guided` if the objects were sought where that has the
    mount, `whole` the picture whose objects these are parts of.
    """

    field: Field
    labels: NDArray[np.int32]
    stats: list[list[int]]
    turned: dict[str, NDArray[np.int32]]
    strength: dict[str, NDArray[np.float32]]
    contrast: list[float]
    rooted: dict[str, list[int]]
    floating: list[int]
    parents: list[int]
    seen: Map
    whole: "Picture | None" = None
    guided: bool = False


def evidence(picture: Picture, outline: Outline, parts: Parts, contrast: float) -> dict[str, float]:
    """Measure what speaks for and against a thing, each number about -2..2.

    Parameters
    ----------
    picture
        The picture that it is in.
    outline, parts, contrast
        Of the thing.

    Returns
    -------
    dict
        Named numbers; their weights are `skywright.instruments.loop.weights.EVIDENCE`.
    """
    plain = float(math.isnan(parts.stem_width) and math.isnan(parts.pin_end))
    return {
        "bias": 1.0,
        **_place(picture, outline),
        **_shape(outline, parts, plain),
        **_ends(picture, outline, parts, contrast, plain),
        **_floating(outline, parts),
        **_as_core(picture, outline),
        **_joins(picture, outline),
        **_text_like(picture, outline),
        **agreement(picture.seen, outline),
        **_as_guided(picture, outline),
    }


def _root(outline: Outline) -> tuple[float, float]:
    """Extent where it enters (or begins to be seen), and middle of that, parts of the border."""
    low, high = outline.contact_low, outline.contact_high
    if outline.contact == 0:
        low, high = int(outline.low[outline.start]), int(outline.high[outline.start])
    return max(high - low + 1, 1) / outline.across, 0.5 * (low + high + 1) / outline.across


def _place(picture: Picture, outline: Outline) -> dict[str, float]:
    """Evidence on where the thing enters, how far it reaches and where it leaves the frame."""
    reach, rooted = outline.reach / len(outline.low), float(outline.contact > 0)
    wide, center = _root(outline)
    touched = _touched(picture.stats[outline.members[0]])
    reach_ratio, contact_ratio = _against_other_sides(picture, outline)
    # What fills its border is cut by the two beside it of necessity.
    partial = 1.0 - _clip((wide - 0.9) / 0.08, 0, 1) * rooted
    return {
        "reach": _clip(math.log(reach / 0.3), -2, 1.2),
        "short": _clip((0.12 - reach) / 0.08, 0, 1),
        "near_far": _clip((reach - 0.9) / 0.1, 0, 1),
        "corner": _clip((abs(center - 0.5) - 0.25) / 0.25, 0, 1),
        "off_middle": _clip(abs(center - 0.5) / 0.5, 0, 1),
        "root_wide": _clip((wide - 0.5) / 0.5, 0, 1) * rooted,
        "root_thin": _clip(math.log(wide / 0.1), -2, 2) * rooted,
        "cut": _clip(outline.cut / (2 * (outline.reach - outline.start)), 0, 1) * partial,
        "cut_any": float(outline.cut > 1) * partial,
        "far": float(outline.far),
        "other_sides": (touched - rooted) * partial,
        "reach_ratio": reach_ratio,
        "contact_ratio": contact_ratio,
    }


def _touched(stats: list[int]) -> int:
    """Count the borders that an object touches."""
    return sum(contact > 0 for contact in stats[CONTACTS])


def _shape(outline: Outline, parts: Parts, plain: float) -> dict[str, float]:
    """Evidence on proportions and joints; `plain` is 1 for a thing without any joint."""
    n, across, long = len(outline.low), outline.across, outline.reach - outline.start
    width = outline.width[outline.start :]
    thick, head = quantile(width, 0.5), parts.head_width / across
    spread = spread_over_median(width[: max(long - int(thick / 2), 3)])
    jointed, pinned = not math.isnan(parts.stem_width), not math.isnan(parts.pin_end)
    slant, straight = _sides(outline)
    wedge = _clip((slant - 0.07) / 0.1, 0, 1) * straight
    return {
        "thick": _clip(math.log(thick / across / 0.15), -2, 1.5),
        "slender": _clip(math.log(long / max(thick, 1.0)), -1.5, 2.5),
        "small": _clip(-math.log(max(head, 0.005) / 0.1), 0, 2),
        "tiny": _clip(-math.log(max(head * long / n, 1e-4) / 0.01), 0, 4),
        "jointed": float(jointed),
        "pinned": float(pinned),
        "both": float(jointed and pinned),
        "solid": parts.solid,
        "plain": plain,
        "plain_solid": plain * _clip((parts.solid - 0.7) / 0.2, 0, 1),
        "spread": _clip(spread, 0, 1.5) * plain,
        "slant": _clip(slant / 0.3, 0, 1.5),
        "plain_slant": _clip(slant / 0.3, 0, 1.5) * plain,
        "wedge": wedge * _clip((parts.solid - 0.5) / 0.3, 0, 1),
        "plain_wedge": wedge * plain,
        "plain_straight": straight * plain,
        "plain_corner": _clip((abs(_root(outline)[1] - 0.5) - 0.25) / 0.25, 0, 1) * plain,
    }


def _ends(
    picture: Picture, outline: Outline, parts: Parts, contrast: float, plain: float
) -> dict[str, float]:
    """Evidence on contrast, edges and end."""
    long = outline.reach - outline.start
    width = outline.width[outline.start :]
    end = float(width[-max(min(long // 12, 6), 1) :].mean()) / max(quantile(width, 0.5), 1.0)
    soft, sharp = _edges(picture, outline, contrast)
    strongest = max(*picture.contrast, 1e-3)
    return {
        "soft": soft,
        "sharp": sharp,
        "weaker": _clip(-math.log(contrast / strongest), 0, 3),
        "seen": _clip(math.log(contrast / (10 * max(picture.field.noise, 0.3))), -1.5, 2.5),
        "blunt": _clip(end, 0, 1.5),
        "plain_blunt": _clip(end, 0, 1.5) * plain,
        "plain_full": plain * (1.0 - soft) * _clip((_root(outline)[0] - 0.9) / 0.08, 0, 1),
    }


def _floating(outline: Outline, parts: Parts) -> dict[str, float]:
    """Evidence on a thing that touches no border: it may be a loop, and dust is small and round."""
    names = ("floating", "float_gap", "float_small", "float_round", "float_off")
    if outline.contact:
        return dict.fromkeys(names, 0.0)
    long = outline.reach - outline.start
    most = max(int(outline.width[outline.start :].max()), 1)
    values = (
        1.0,
        outline.start / len(outline.low),
        _clip(-math.log(max(parts.head_width / outline.across, 0.005) / 0.1), -1, 2),
        _clip(1.0 - abs(math.log(long / most)), 0, 1),
        _clip(abs(_root(outline)[1] - 0.5) / 0.5, 0, 1),
    )
    return dict(zip(names, values, strict=True))


def _against_other_sides(picture: Picture, outline: Outline) -> tuple[float, float]:
    """Logarithms of reach and contact over the largest of the same objects from other borders."""
    shape = picture.labels.shape
    stats = picture.stats[outline.members[0]]
    reaches, contacts = [1e-3], [1e-3]
    for i, side in enumerate(SIDES):
        if side != outline.side and stats[8 + 3 * i] > 0:
            reaches.append(turned_box(side, stats, shape)[1] + 1)
            contacts.append(float(stats[8 + 3 * i]))
    if len(reaches) == 1 or outline.contact == 0:
        return 0.0, 0.0
    return (
        _clip(math.log(outline.reach / max(reaches)), -1.5, 1.5),
        _clip(math.log(outline.contact / max(contacts)), -2, 2),
    )


def _edges(picture: Picture, outline: Outline, contrast: float) -> tuple[float, float]:
    """How soft the lateral edges are (0 sharp, 1 a shade), and how sharp the end is."""
    strength = picture.strength[outline.side]
    edge, end = _edge_strength(
        strength, outline.low, outline.high, outline.start, outline.reach, outline.across
    )
    soft = 0.0 if math.isnan(edge) else 1.0 - _clip((edge / contrast - 0.3) / 0.25, 0, 1)
    return soft, _clip(end / max(contrast, 1e-3), 0, 1.5)


@njit(cache=True)
def _edge_strength(
    strength: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    start: int,
    reach: int,
    across: int,
) -> tuple[float, float]:
    """Median strength two pixels inside the lateral edges (NaN: none), most near the end."""
    inside = np.empty(2 * (reach - start))
    count = 0
    for u in range(start, reach):
        if high[u] - low[u] > 6:
            # Where the frame cuts there is no edge, and what is thin has no inside.
            if low[u] > 0:
                inside[count] = strength[low[u] + 2, u]
                count += 1
            if high[u] < across - 1:
                inside[count] = strength[high[u] - 2, u]
                count += 1
    most = 0.0
    for u in range(max(reach - 5, start), reach):
        for v in range(max(low[u], 0), high[u] + 1):
            most = max(most, strength[v, u])
    edge = np.median(inside[:count]) if count else np.nan
    return edge, most


def _as_core(picture: Picture, outline: Outline) -> dict[str, float]:
    """Evidence on a core: what of its object's reach and area is left."""
    if picture.whole is None or picture.guided:
        return dict.fromkeys(CORES, 0.0)
    k = outline.members[0]
    stats, of_parent = picture.stats[k], picture.whole.stats[picture.parents[k]]
    reach = turned_box(outline.side, of_parent, picture.labels.shape)[1] + 1
    return {
        "core": 1.0,
        "core_reach": _clip(-math.log(outline.reach / reach), 0, 2),
        "core_area": _clip(-math.log(stats[0] / of_parent[0]), 0, 2),
        "core_free": float(_touched(of_parent) > _touched(stats)),
    }


def _as_guided(picture: Picture, outline: Outline) -> dict[str, float]:
    """Evidence on what was sought where the network has the mount: what it falls short of."""
    if picture.whole is None or not picture.guided:
        return {"guided": 0.0, "guided_short": 0.0}
    parent = picture.parents[outline.members[0]]
    short = 0.0
    if parent:
        stats = picture.whole.stats[parent]
        reach = turned_box(outline.side, stats, picture.labels.shape)[1] + 1
        short = _clip(math.log(reach / outline.reach), 0, 2)
    return {"guided": 1.0, "guided_short": short}


def _joins(picture: Picture, outline: Outline) -> dict[str, float]:
    """Evidence on a group: how far apart its parts are and how alike."""
    n, across = len(outline.low), outline.across
    shape = picture.labels.shape
    first, rest = outline.members[0], outline.members[1:]
    if not rest:
        return dict.fromkeys(JOINS, 0.0)
    own = turned_box(outline.side, picture.stats[first], shape)
    boxes = np.array([turned_box(outline.side, picture.stats[k], shape) for k in rest])
    a0, a1, b0, b1 = boxes.T
    others = [picture.stats[k] for k in rest]
    own_side = SIDES.index(outline.side)
    touched = any(any(s[CONTACTS][:own_side] + s[CONTACTS][own_side + 1 :]) for s in others)
    low, high = _end_rows(picture, outline, first)
    ahead = a1 > own[1]
    off = np.maximum(np.maximum(b0 - high, low - b1), 0)[ahead] / across
    size = np.maximum((a1 - a0) / n, (b1 - b0) / across)[ahead]
    dot = (np.maximum(a1 - a0, b1 - b0) + 1).min() / across
    contrast = max(*(picture.contrast[k] for k in rest), 1e-3)
    area = sum(stats[0] for stats in others)
    values = (
        1.0,
        max(float(np.maximum(a0 - own[1], own[0] - a1).max()), 0.0) / n / 0.1,
        max(float(np.maximum(b0 - own[3], own[2] - b1).max()), 0.0) / across / 0.05,
        float(len(rest) > 1),
        _clip(math.log(picture.contrast[first] / contrast), -2, 3),
        _clip(math.log(area / max(picture.stats[first][0], 1)), -4, 3),
        _clip(-math.log(dot / 0.1), -1, 2),
        float(touched),
        _clip(float((a1 - own[1]).max()) / n / 0.2, 0, 2),
        _clip(float(off.max(initial=0.0)) / 0.05, 0, 2),
        _clip(float(size.max(initial=0.0)) / 0.1, 0, 2),
        float(outline.contact > 0),
    )
    return dict(zip(JOINS, values, strict=True))


def _end_rows(picture: Picture, outline: Outline, first: int) -> tuple[int, int]:
    """First and last v of an object over its last columns."""
    u1 = turned_box(outline.side, picture.stats[first], picture.labels.shape)[1]
    rows = np.flatnonzero(
        (picture.turned[outline.side][:, max(u1 - 3, 0) : u1 + 1] == first).any(1)
    )
    return int(rows[0]), int(rows[-1])


def _text_like(picture: Picture, outline: Outline) -> dict[str, float]:
    """Evidence for text: low, wide, at the upper or lower border, full of gaps."""
    h, w = picture.labels.shape
    stats = [picture.stats[k] for k in outline.members]
    y0, y1 = min(s[2] for s in stats), max(s[3] for s in stats)
    x0, x1 = min(s[4] for s in stats), max(s[5] for s in stats)
    low = (y1 - y0 + 1) / h < 0.07
    edge = min(y0, h - 1 - y1) / h < 0.08
    return {"band": float(low and edge), "band_wide": float(low and edge and x1 - x0 > 0.08 * w)}


def _sides(outline: Outline) -> tuple[float, float]:
    """How far the thing leans or narrows, as a slope dv/du, and how straight its edges are.

    Edges up to a sixth before the end; 1 for straight ones, 0 for those of a round thing. A nozzle
    or beam stop is a slanted cone with straight edges; a pin enters square to the border.
    """
    stop = outline.start + max((outline.reach - outline.start) * 5 // 6, 3)
    u = slice(outline.start, min(stop, outline.reach))
    slopes, bends = [], []
    for limit, frame in ((outline.low, 0), (outline.high, outline.across - 1)):
        v = limit[u]
        if np.count_nonzero(v == frame) < 2 and len(v) > 2:
            slope, misfit = _line(v)
            slopes.append(slope)
            bends.append(misfit / max(0.02 * len(v), 0.7))
    if not slopes:
        return 0.0, 1.0
    straight = _clip(2.0 - max(bends), 0, 1)
    if len(slopes) == 1:
        return abs(slopes[0]), straight
    return max(abs(slopes[0] + slopes[1]) / 2, abs(slopes[0] - slopes[1]) / 2), straight


@njit(cache=True)
def _line(values: NDArray[np.int32]) -> tuple[float, float]:
    """Least-squares slope of values at equal steps, and the rms misfit."""
    n = len(values)
    middle = 0.5 * (n - 1)
    top, total, squares = 0.0, 0.0, 0.0
    for k in range(n):
        top += (k - middle) * values[k]
        total += values[k]
        squares += float(values[k]) ** 2
    slope = 12.0 * top / (n * (n * n - 1.0))
    rest = squares - total * total / n - slope * top
    return slope, math.sqrt(max(rest, 0.0) / n)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(float(value), low), high)
