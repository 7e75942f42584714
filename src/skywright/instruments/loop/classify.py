"""Nylon loop, polymer mount and bare pin, from one picture of a mount."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.kind_crop import Crop
from skywright.instruments.loop.kind_net import log_odds
from skywright.instruments.loop.light import median, quantile
from skywright.instruments.loop.parts import Parts
from skywright.instruments.loop.seg_net import KINDS, Map
from skywright.instruments.loop.silhouette import Outline, seen_from

PLACES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)  # of the head's length, from its neck
STEM_PLACES = (0.05, 0.2, 0.4, 0.6, 0.8)  # of the stem's length, from the pin
HEAD_BINS, STEM_BINS = 24, 12  # across, from edge to edge
RIPPLE_COLUMNS = 41  # over which a stem's light is averaged to see its twists
OF_MASKS = 0.5  # weight of the other network's log odds: of the same picture, often wrong alike
SLIM, OPAQUE = (0.8, 1.0), (0.6, 0.85)  # `aspect` and `head_opaque` from which on it holds, fully
MOST_COLUMNS = 240  # looked at of a head or a stem
RIM_PLACES = (0.01, 0.02, 0.03, 0.045, 0.065, 0.09, 0.13, 0.18, 0.25, 0.35)  # see `_rim`


def classify(looks: dict[str, float], cut: Crop, seen: Map) -> tuple[str, float]:
    """Tell nylon loop, polymer mount and bare pin apart by what two networks say.

    A slim, opaque lump is not asked of the network of the kinds: it shows neither fiber nor film,
    and what tells such lumps of the twin apart misleads on real ones.

    Parameters
    ----------
    looks
        From `measure`.
    cut
        The mount, cut out of the picture.
    seen
        What the network of the masks says of the picture.

    Returns
    -------
    kind
        "nylon", "mitegen" or "pin".
    odds
        Logarithm of the odds that it is.
    """
    slim = _clip((looks["aspect"] - SLIM[0]) / (SLIM[1] - SLIM[0]), 0, 1)
    opaque = _clip((looks["head_opaque"] - OPAQUE[0]) / (OPAQUE[1] - OPAQUE[0]), 0, 1)
    sums = (1 - slim * opaque) * log_odds(cut, looks) + OF_MASKS * seen.kinds
    best = int(np.argmax(sums))
    return KINDS[best], -float(np.logaddexp.reduce(np.delete(sums, best) - sums[best]))


def measure(
    gray: NDArray[np.uint8], outline: Outline, parts: Parts, field: Field
) -> dict[str, float]:
    """Measure what the kinds of mounts differ in, each in units in which it is about 0..1.

    Parameters
    ----------
    gray : (H, W) uint8
    outline, parts
        The mount.
    field
        Light and noise of the picture.

    Returns
    -------
    dict
        Of the shape of the head (`wide_...`: extent at parts of its length over the largest), of
        its rim (`head_dark_...`: strength from the edge to the middle: a film has a thin rim,
        clear film, and the rim of its aperture; a fiber is one thick line; `rim_...`: from the tip
        inwards), of the stem (a film is clear between its rims and the same all along, twisted
        fibers cross) and of the pin.
    """
    width, n = parts.width, outline.reach
    start = min(int(parts.head_start), max(n - 3, 0))
    pin_end = 0 if math.isnan(parts.pin_end) else int(parts.pin_end)
    stemmed = not math.isnan(parts.stem_width)
    head, long = max(parts.head_width, 1.0), max(n - start, 1)
    line = parts.stem_width if stemmed else head
    return {
        "bias": 1.0,
        **{
            f"wide_{p}": _clip(width[min(start + int(p * long), n - 1)] / head, 0, 1)
            for p in PLACES
        },
        "aspect": _clip(math.log(long / head), -1.5, 2.5),
        "edge_on": _clip(math.log(long / head) - 1.2, 0, 2),
        "solid": parts.solid,
        "stemmed": float(stemmed),
        "pinned": float(pin_end > 0),
        "stem_to_head": _clip(math.log(line / head / 0.3), -2, 1.2) * stemmed,
        "stem_long": _clip(math.log(max(start - pin_end, 1) / head), -2, 2) * stemmed,
        "shoulder": _shoulder(width[: max(start, 1)], parts) if pin_end else 0.0,
        "head_to_pin": _clip(math.log(head / parts.pin_width), -2, 1) if pin_end else 0.0,
        "stem_to_pin": _clip(math.log(line / parts.pin_width / 0.1), -2, 2) if pin_end else 0.0,
        "plain": float(not stemmed and not pin_end),
        "plateau": _clip(parts.plateau, 0, 1.5) * (not stemmed and not pin_end),
        "thin": _clip((14 - head) / 10, 0, 1),
        "thick": _clip(math.log(head / outline.across / 0.15), -2, 1.5),
        "stem_to_length": _clip(math.log(line / long / 0.15), -2, 1.5) * stemmed,
        **_rim(gray, outline, field, long),
        **_inside(gray, outline, field, start, pin_end, stemmed),
        **_stem_shape(width, start, max(pin_end, outline.start), stemmed),
    }


def _inside(
    gray: NDArray[np.uint8], outline: Outline, field: Field, start: int, pin_end: int, stemmed: bool
) -> dict[str, float]:
    """Measure what is seen between the edges of head and stem, at full resolution."""
    part = gray[field.y0_px : field.y1_px, field.x0_px : field.x1_px]
    pixels, light = seen_from(outline.side, part), seen_from(outline.side, field.light)
    n, long = outline.reach, outline.reach - start
    first, last = start + long // 4, max(n - long // 6, start + long // 4 + 1)
    head = _straightened(
        pixels, light, outline.low, outline.high, field.step_px, first, last, HEAD_BINS
    )
    most = max(quantile(head, 0.95), 1.0) if head.size else 1.0
    folded = 0.5 * (head + head[:, ::-1]).mean(axis=0)[: HEAD_BINS // 2] / most
    looks = {f"head_dark_{k}": _clip(v, 0, 1.5) for k, v in enumerate(folded)}
    looks["head_peaks"] = _clip(_peaks(head, 0.2 * most) / 4, 0, 2)
    looks["head_opaque"] = (
        _clip(quantile(head[:, HEAD_BINS // 3 : -HEAD_BINS // 3], 0.25) / most, 0, 1)
        if head.size
        else 0.0
    )
    looks["head_clear"] = (
        _clip(1 - median(head[:, HEAD_BINS // 3 : -HEAD_BINS // 3].ravel()) / (0.25 * most), 0, 1)
        if head.size
        else 0.0
    )
    looks["head_varies"] = _clip(float(head.std(axis=0).mean()) / most, 0, 1)
    names = [f"stem_dark_{k}" for k in range(STEM_BINS // 2)]
    names += [
        "stem_pale",
        "twist_middle",
        "twist_edge",
        "stem_crossings",
        "stem_peaks",
        "twist_regular",
        "film_stem",
        "film_and_plain",
    ]
    margin = (start - pin_end) // 6
    first, last = max(pin_end + margin, outline.start), start - margin
    if not stemmed or last - first < 3:
        return looks | dict.fromkeys(names, 0.0)
    stem = _straightened(
        pixels, light, outline.low, outline.high, field.step_px, first, last, STEM_BINS
    )
    own = max(quantile(stem.max(axis=1), 0.5), 1.0)
    profile = 0.5 * (stem + stem[:, ::-1]).mean(axis=0)[: STEM_BINS // 2] / own
    middle = stem[:, STEM_BINS // 2 - 1 : STEM_BINS // 2 + 1].mean(axis=1) / own
    edge = stem[:, [1, 2, -3, -2]].mean(axis=1) / own
    waves = [_ripple(middle), _ripple(edge)]
    crossings = float(np.count_nonzero(np.diff(np.sign(waves[0])))) / max(len(middle), 1)
    twist = float(waves[0].std()) / 0.2
    values = [_clip(v, 0, 1.5) for v in profile]
    values += [
        _clip(math.log(most / own), -1, 2),
        _clip(float(waves[0].std()) / 0.2, 0, 2),
        _clip(float(waves[1].std()) / 0.2, 0, 2),
        _clip(crossings / 0.1, 0, 2),
        _clip(_peaks(stem, 0.2 * own) / 2, 0, 2),
        min(twist, 1.5) * _clip((0.1 - crossings) / 0.05, 0, 1),
        _clip(1 - profile[-1], 0, 1) * _clip(1 - twist, 0, 1),
        _clip(1 - twist, 0, 1),
    ]
    return looks | dict(zip(names, values, strict=True))


def _rim(gray: NDArray[np.uint8], outline: Outline, field: Field, long: int) -> dict[str, float]:
    """Measure how the strength goes from the tip inwards, over its largest.

    The first is the mean up to 0.01 of the head's length, and so on. A turn of the spindle does not
    change it: a fiber is thin for its loop, and a polymer mount's rim broad.
    """
    part = gray[field.y0_px : field.y1_px, field.x0_px : field.x1_px]
    pixels, light = seen_from(outline.side, part), seen_from(outline.side, field.light)
    n, step = outline.reach, field.step_px
    profile = _inwards(
        pixels, light, outline.low, outline.high, step, n, int(RIM_PLACES[-1] * long * step) + 2
    )
    ends = np.minimum(np.maximum(np.multiply(RIM_PLACES, long * step), 1.0), len(profile))
    total = np.interp(ends, np.arange(len(profile) + 1), np.r_[0.0, np.cumsum(profile)])
    widths = np.maximum(np.diff(ends, prepend=0.0), 1e-6)
    means = np.diff(total, prepend=0.0) / widths
    most = max(float(profile.max()), 1.0)
    return {f"rim_{p}": _clip(v / most, 0, 1) for p, v in zip(RIM_PLACES, means, strict=True)}


@njit(cache=True)
def _inwards(
    pixels: NDArray[np.uint8],
    light: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    step: int,
    n: int,
    count: int,
) -> NDArray[np.float64]:
    """(count,) mean strength over the rows around the tip, each from its own edge inwards."""
    height = pixels.shape[0]
    back = max(n - max(count // (4 * step), 2), 0)
    v0, v1 = low[back], high[back]
    for u in range(back, n):
        v0, v1 = max(v0, low[u]), min(v1, high[u])
    v0, v1 = min(v0, low[n - 1]), max(v1, high[n - 1])
    profile = np.zeros(count)
    rows = 0
    for y in range(max(v0, 0) * step, min((v1 + 1) * step, height)):
        v = y // step
        u = n - 1
        while u > back and not low[u] <= v <= high[u]:
            u -= 1
        edge = (u + 1) * step - 1
        row = np.zeros(count)
        for k in range(count):
            x = edge - k
            if x >= 0:
                row[k] = abs(pixels[y, x] - light[min(v, light.shape[0] - 1), x // step])
        profile += row
        rows += 1
    return profile / max(rows, 1)


def _ripple(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the running mean: what is left is twists and noise."""
    if len(values) <= RIPPLE_COLUMNS:
        return values - values.mean()
    window = np.ones(RIPPLE_COLUMNS)
    counts = np.convolve(np.ones(len(values)), window, "same")
    return values - np.convolve(values, window, "same") / counts


def _stem_shape(
    width: NDArray[np.float64], start: int, begin: int, stemmed: bool
) -> dict[str, float]:
    """Extent along the stem over its median: glue and the tab of a mount are at its root."""
    names = [f"stem_wide_{p}" for p in STEM_PLACES] + ["stem_waves"]
    stem = width[begin:start]
    if not stemmed or len(stem) < 4:
        return dict.fromkeys(names, 0.0)
    usual = max(median(stem), 1.0)
    at = [_clip(math.log(max(stem[int(p * len(stem))], 1) / usual), -1, 2) for p in STEM_PLACES]
    inner = stem[len(stem) // 5 : max(len(stem) * 4 // 5, len(stem) // 5 + 2)]
    bumps = np.abs(np.diff(inner)).mean() / usual
    return dict(zip(names, [*at, _clip(bumps / 0.1, 0, 2)], strict=True))


def _shoulder(width: NDArray[np.float64], parts: Parts) -> float:
    """Length over which the pin or body narrows to the stem, over its width."""
    stem = parts.stem_width if not math.isnan(parts.stem_width) else float(width.min())
    low, high = stem + 0.2 * (parts.pin_width - stem), stem + 0.8 * (parts.pin_width - stem)
    return min(float(np.sum((width > low) & (width < high))) / parts.pin_width, 1.0)


@njit(cache=True)
def _straightened(
    pixels: NDArray[np.uint8],
    light: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    step: int,
    first: int,
    last: int,
    bins: int,
) -> NDArray[np.float64]:
    """(columns, bins) strength between the edges of an outline, each column stretched to fit."""
    stride = max((last - first) * step // MOST_COLUMNS, 1)
    columns = np.arange(first * step, min(last * step, pixels.shape[1]), stride)
    out = np.zeros((len(columns), bins))
    height = pixels.shape[0]
    for i in range(len(columns)):
        x = columns[i]
        u = x // step
        other = min(max(u + (1 if 2 * (x % step) >= step else -1), first), last - 1)
        near = 1.0 - abs((x % step + 0.5) / step - 0.5)
        top = (near * low[u] + (1 - near) * low[other]) * step
        bottom = (near * high[u] + (1 - near) * high[other] + 1.0) * step
        for k in range(bins):
            y0 = int(top + (bottom - top) * k / bins)
            y1 = max(int(top + (bottom - top) * (k + 1) / bins), y0 + 1)
            total, count = 0.0, 0
            for y in range(max(y0, 0), min(y1, height)):
                total += pixels[y, x] - light[min(y // step, light.shape[0] - 1), u]
                count += 1
            out[i, k] = abs(total) / max(count, 1)
    return out


@njit(cache=True)
def _peaks(rows: NDArray[np.float64], least: float) -> float:
    """Mean number of maxima in a row that rise by `least` over the minima beside them."""
    total = 0
    for i in range(rows.shape[0]):
        low, top, rising = 0.0, 0.0, True
        for k in range(rows.shape[1] + 1):
            value = rows[i, k] if k < rows.shape[1] else 0.0
            if rising:
                low = min(low, value) if top == 0.0 else low
                if value > top:
                    top = value
                elif value < top - least and top - low >= least:
                    total += 1
                    rising, low = False, value
            else:
                low = min(low, value)
                if value > low + least:
                    rising, top = True, value
    return total / max(rows.shape[0], 1)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(float(value), low), high)
