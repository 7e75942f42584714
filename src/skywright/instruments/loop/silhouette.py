"""Outlines of things in a picture, each seen from a border that it may enter through."""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.light import quantile
from skywright.instruments.loop.objects import SIDES

EDGE_DEPTH = 5  # an edge reaches its full strength within this number of pixels
WEAK_EDGE = 0.4  # of the usual edge of the thing: what is weaker lies on it
OPAQUE = 0.4  # of the light, that a silhouette takes away
WEAK_END, MOST_WEAK_END = 0.15, 0.15  # of what a pin takes away; of the frame, more is no shade
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
LATERAL = {
    "left": ("top", "bottom"),
    "right": ("top", "bottom"),
    "top": ("left", "right"),
    "bottom": ("left", "right"),
}


@dataclass(frozen=True)
class Outline:
    """One or several objects seen from one border, u going from that border inwards, v across.

    All lengths are pixels of the field.

    Attributes
    ----------
    side
        Border through which the thing enters.
    low, high : (n,) int32
        First and last v of the thing for each u; low > high beyond its reach.
    filled : (n,) int32
        Number of the thing's pixels for each u.
    start
        First u at which it is seen: 0 if it touches the border. Up to there `low` and `high` are a
        straight line, one pixel wide.
    reach
        Largest u with the thing, plus 1.
    across
        Length of the border, the range of v.
    contact_low, contact_high, contact
        First, last and number of v on the border; -1, -1, 0 if it does not touch it.
    far
        It touches the opposite border too.
    cut
        Length of its contact with the two lateral borders.
    members
        Numbers of its objects in the label picture, the one that it was started from first.
    """

    side: str
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    filled: NDArray[np.int32]
    start: int
    reach: int
    across: int
    contact_low: int
    contact_high: int
    contact: int
    far: bool
    cut: int
    members: tuple[int, ...]

    @property
    def width(self) -> NDArray[np.int32]:
        """(reach,) extent across at each u."""
        return np.maximum(self.high[: self.reach] - self.low[: self.reach] + 1, 1)


def seen_from(side: str, picture: NDArray) -> NDArray:
    """Turn a picture so that `side` becomes its left border (axis 1 is u, axis 0 is v)."""
    if side == "left":
        return picture
    if side == "right":
        return picture[:, ::-1]
    return picture.T if side == "top" else picture[::-1].T


def turned_box(side: str, stats: list[int], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return u0, u1, v0, v1 (inclusive) of an object in an (h, w) picture, seen from `side`."""
    y0, y1, x0, x1 = stats[2:6]
    h, w = shape
    if side == "left":
        return x0, x1, y0, y1
    if side == "right":
        return w - 1 - x1, w - 1 - x0, y0, y1
    if side == "top":
        return y0, y1, x0, x1
    return h - 1 - y1, h - 1 - y0, x0, x1


def trace(
    turned: NDArray[np.int32],
    stats: list[list[int]],
    members: tuple[int, ...],
    side: str,
) -> Outline:
    """Trace the outline of some objects taken as one thing.

    Parameters
    ----------
    turned : (across, n) int32
        Label picture seen from `side`, C contiguous.
    stats
        Of each object, as from `skywright.instruments.loop.objects.find_objects`.
    members
        Numbers of the objects.
    side
        Border through which the thing enters.

    Returns
    -------
    Outline
    """
    shape = turned.shape if side in ("left", "right") else turned.shape[::-1]
    us, ends, vs, tops = zip(*(turned_box(side, stats[k], shape) for k in members), strict=True)
    wanted = np.zeros(len(stats), np.bool_)
    wanted[list(members)] = True
    u0, u1 = min(us), max(ends)
    low, high, filled = _limits(turned, wanted, u0, u1, min(vs), max(tops))
    _straighten(low[: u1 + 1], high[: u1 + 1], u0)
    _reach_to_frame(low[: u1 + 1], high[: u1 + 1], turned.shape[0])
    _mend(low[: u1 + 1], high[: u1 + 1], max((u1 + 1) // 30, 3))
    # First, last and number of border pixels of each member.
    touch = {
        name: [stats[k][6 + 3 * i : 9 + 3 * i] for k in members] for i, name in enumerate(SIDES)
    }
    here = [(first, last) for first, last, count in touch[side] if count]
    return Outline(
        side=side,
        low=low,
        high=high,
        filled=filled,
        start=u0,
        reach=u1 + 1,
        across=turned.shape[0],
        contact_low=min((first for first, _ in here), default=-1),
        contact_high=max((last for _, last in here), default=-1),
        contact=sum(count for _, _, count in touch[side]),
        far=any(count for _, _, count in touch[OPPOSITE[side]]),
        cut=sum(count for name in LATERAL[side] for _, _, count in touch[name]),
        members=members,
    )


def without_weak_edges(outline: Outline, strength: NDArray[np.float32], start: int) -> Outline:
    """Cut off what lies on the edges of a thing and is much weaker than they are: dirt, shades.

    Parameters
    ----------
    outline
        The thing.
    strength : (across, n) float32
        Deviation from the light, without sign, seen from its side.
    start
        u from which on it is done.

    Returns
    -------
    Outline
        The same if there is no such thing.
    """
    low, high = outline.low.copy(), outline.high.copy()
    if not _trim(strength, low, high, start, outline.reach):
        return outline
    return replace(outline, low=low, high=high)


def without_weak_end(outline: Outline, deviation: NDArray[np.float32], light: float) -> Outline:
    """Cut off what lies before the end of an opaque thing and is no silhouette: dirt, shades.

    Parameters
    ----------
    outline
        A bare pin.
    deviation : (across, n) float32
        From the light, seen from its side.
    light
        Its usual level, grey levels.

    Returns
    -------
    Outline
        The same of a thing that is not opaque in front of a lamp, that leaves through the far
        border, or of which too much would be cut off.
    """
    if outline.far:
        return outline

    def dark(u: int) -> NDArray[np.float32]:
        return -deviation[outline.low[u] : outline.high[u] + 1, u]

    middle = range(outline.start, outline.reach, max((outline.reach - outline.start) // 20, 1))
    inside = [dark(u) for u in middle if outline.high[u] >= outline.low[u]]
    if quantile(np.concatenate(inside), 0.5) < OPAQUE * light:
        return outline
    usual = quantile(np.array([column.sum() for column in inside]), 0.5)
    reach = outline.reach
    while reach > outline.start + 1 and dark(reach - 1).sum() < WEAK_END * usual:
        reach -= 1
    if reach == outline.reach or outline.reach - reach > MOST_WEAK_END * len(outline.low):
        return outline
    low, high = outline.low.copy(), outline.high.copy()
    low[reach:], high[reach:] = outline.across, -1
    return replace(outline, low=low, high=high, reach=reach)


@njit(cache=True)
def _trim(
    strength: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    start: int,
    reach: int,
) -> bool:
    """Move each limit inwards to where the strength is that of a usual edge; whether one moved."""
    across = strength.shape[0]
    moved = False
    for side in range(2):
        peaks = np.zeros(reach - start)
        for u in range(start, reach):
            v = low[u] if side == 0 else high[u]
            for k in range(min(EDGE_DEPTH, high[u] - low[u] + 1)):
                peaks[u - start] = max(peaks[u - start], strength[v + k if side == 0 else v - k, u])
        if len(peaks) < 8:
            continue
        least = WEAK_EDGE * np.median(peaks)
        for u in range(start, reach):
            if peaks[u - start] >= least or low[u] <= 0 or high[u] >= across - 1:
                continue
            a, b = low[u], high[u]
            while a <= b and strength[a if side == 0 else b, u] < least:
                if side == 0:
                    a += 1
                else:
                    b -= 1
            if b - a > (high[u] - low[u]) // 2:
                moved = moved or a != low[u] or b != high[u]
                low[u], high[u] = a, b
    return moved


@njit(cache=True)
def _limits(
    labels: NDArray[np.int32], wanted: NDArray[np.bool_], u0: int, u1: int, v0: int, v1: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """First and last row and the number of pixels of the wanted objects in each column."""
    h, w = labels.shape
    low = np.full(w, h, np.int32)
    high = np.full(w, -1, np.int32)
    filled = np.zeros(w, np.int32)
    for i in range(v0, v1 + 1):
        for j in range(u0, u1 + 1):
            if wanted[labels[i, j]]:
                low[j] = min(low[j], i)
                high[j] = i
                filled[j] += 1
    return low, high, filled


@njit(cache=True)
def _straighten(low: NDArray[np.int32], high: NDArray[np.int32], start: int) -> None:
    """Draw a straight line, 1 pixel wide, up to `start` and through gaps."""
    if start:
        middle = (low[start] + high[start]) // 2
        low[:start], high[:start] = middle, middle
    last = max(start - 1, 0)
    for u in range(start, len(low)):
        if high[u] < low[u]:
            continue
        if u > last + 1:
            a, b = 0.5 * (low[last] + high[last]), 0.5 * (low[u] + high[u])
            for k in range(last + 1, u):
                low[k] = int(a + (b - a) * (k - last) / (u - last))
                high[k] = low[k]
        last = u


@njit(cache=True)
def _reach_to_frame(low: NDArray[np.int32], high: NDArray[np.int32], across: int) -> None:
    """Extend the outline to a lateral border where the thing has left the frame through it.

    A strand that comes in through the border left through it before; between the two, or from the
    first column on, the thing goes on out of the frame.
    """
    n = len(low)
    jump = max(across // 20, 4)
    last_low, last_high = -1, -1
    for u in range(n):
        if low[u] <= 0:
            if u > last_low + 1 and low[u - 1] - low[u] > jump:
                low[last_low + 1 : u] = 0
            last_low = u
        if high[u] >= across - 1:
            if u > last_high + 1 and high[u] - high[u - 1] > jump:
                high[last_high + 1 : u] = across - 1
            last_high = u


@njit(cache=True)
def _mend(low: NDArray[np.int32], high: NDArray[np.int32], half: int) -> None:
    """Close gaps of one strand and cut off dirt that sticks to an outline.

    Where one limit jumps inwards over up to 2 `half` columns and the other does not, a strand of
    the loop is too faint there to be seen; a stem between pin and loop narrows on both sides. A
    bump as narrow, but higher than a tenth of the extent, is dirt on the optics or an ice needle.
    """
    n = len(low)
    lows, highs = low.copy(), high.copy()
    out_low, in_low = _spans(-lows, half)
    out_high, in_high = _spans(highs, half)
    for k in range(n):
        tolerance = 2 + (highs[k] - lows[k]) // 10
        if out_high[k] - highs[k] <= 1 and -out_low[k] < lows[k] - tolerance:
            low[k] = -out_low[k]
        elif out_low[k] + lows[k] <= 1 and out_high[k] > highs[k] + tolerance:
            high[k] = out_high[k]
        if k < n - 2 * half and lows[k] < -in_low[k] - tolerance:
            low[k] = -in_low[k]
        if k < n - 2 * half and highs[k] > in_high[k] + tolerance:
            high[k] = in_high[k]


@njit(cache=True)
def _spans(limit: NDArray[np.int32], half: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Morphological closing and opening of a limit over 2 half + 1 columns."""
    dilated, eroded = _extreme(limit, half, 1), _extreme(limit, half, -1)
    return _extreme(dilated, half, -1), _extreme(eroded, half, 1)


@njit(cache=True)
def _extreme(values: NDArray[np.int32], half: int, sign: int) -> NDArray[np.int32]:
    """Take the running maximum (sign 1) or minimum (-1) over 2 half + 1 values."""
    n = len(values)
    out = values.copy()
    for k in range(n):
        for i in range(max(k - half, 0), min(k + half + 1, n)):
            if sign * values[i] > sign * out[k]:
                out[k] = values[i]
    return out
