"""How well the outline of a thing agrees with the network's map, and where the map has the head."""

import math
from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.seg_net import SIDES, Map, cells_around
from skywright.instruments.loop.silhouette import Outline, seen_from

SAMPLES = 2  # columns of an outline looked at for each cell
SEEN_CELLS = 3.0  # of mount in the map: with less there is nothing to agree with
LEAST = 0.03  # of overlap; added before its logarithm
TIP_CELLS = 1  # so far from a thing's end the map's tip is looked for
LEAST_TIP = 0.15  # probability of a tip anywhere, with less of which none is seen
HEAD_PART = 0.5
OF_MOUNT = 0.2  # probability of a cell that is of the mount
MOST_CUT = 0.08  # of the frame: a stem that goes on is no dust
LEAST_LEFT, LEAST_SURE = 0.6, 0.6  # part of the outline that is left, mean probability there
NETWORK = (
    "net_overlap", "net_log", "net_inside", "net_part", "net_beyond", "net_tip", "net_tip_off",
    "net_side", "net_empty", "net_area", "net_past",
)  # fmt: skip


def agreement(seen: Map, outline: Outline) -> dict[str, float]:
    """Measure what the map says for and against a thing, each number about -2..2.

    Parameters
    ----------
    seen
        Map of the picture.
    outline
        Of the thing.

    Returns
    -------
    dict
        Named numbers, as `skywright.instruments.loop.evidence.evidence` gives others.
    """
    mount = np.ascontiguousarray(seen_from(outline.side, seen.mount))
    tip = np.ascontiguousarray(seen_from(outline.side, seen.tip))
    area, inside, whole, beyond, past, end, off = _compare(
        mount, tip, outline.low, outline.high, outline.start, outline.reach, outline.across
    )
    overlap = inside / max(area + whole - inside, 1e-6)
    some = min(whole / SEEN_CELLS, 1.0)
    k = SIDES.index(outline.side)
    others = max(seen.sides[1 + i] for i in range(4) if i + 1 != k)
    values = (
        overlap,
        math.log((overlap + LEAST) / (0.5 + LEAST)) / 1.5,
        inside / max(area, 1e-6),
        inside / max(whole, 1e-6),
        beyond / max(whole, 1e-6) * some,
        end,
        off,
        _clip(seen.sides[k] - others, -6, 6) / 3,
        _clip(_odds(math.exp(min(seen.sides[0], 0.0))), -6, 6) / 3,
        _clip(math.log(whole / SEEN_CELLS + 0.1), -2, 2),
        past * some,
    )
    return dict(zip(NETWORK, values, strict=True))


def head_begins(seen: Map, outline: Outline) -> tuple[float, float]:
    """Return u where the map has the head of a thing begin, and how sure it is of it, 0..1.

    Parameters
    ----------
    seen
        Map of the picture.
    outline
        Of the mount.

    Returns
    -------
    tuple of float
        u in pixels of the field; NaN and 0 if it has no head there.
    """
    head = np.ascontiguousarray(seen_from(outline.side, seen.head))
    mount = np.ascontiguousarray(seen_from(outline.side, seen.mount))
    return _head_begins(
        head, mount, outline.low, outline.high, outline.start, outline.reach, outline.across
    )


def without_strangers(seen: Map, outline: Outline) -> Outline:
    """Cut off what lies where the map has no mount: dust on the optics that touches the outline.

    Parameters
    ----------
    seen
        Map of the picture.
    outline
        Of the mount.

    Returns
    -------
    Outline
        The same if the map agrees too little with it to be asked, or if much would be cut off.
    """
    mount = np.ascontiguousarray(seen_from(outline.side, seen.mount))
    low, high, reach, kept = _kept(
        mount, outline.low, outline.high, outline.start, outline.reach, outline.across
    )
    if not kept or (
        reach == outline.reach and (low == outline.low).all() and (high == outline.high).all()
    ):
        return outline
    return replace(outline, low=low, high=high, reach=reach)


@njit(cache=True)
def _kept(
    mount: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    start: int,
    reach: int,
    across: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], int, bool]:
    """Limits and reach within the map's mount and the cells around it; whether to believe them."""
    rows, columns = mount.shape
    n = len(low)
    near = cells_around(mount, OF_MOUNT)
    low, high = low.copy(), high.copy()
    total, left, sure, last = 0, 0, 0.0, -1
    for u in range(start, reach):
        j = u * columns // n
        total += high[u] - low[u] + 1
        a, b = low[u], high[u]
        while a <= b and not near[a * rows // across, j]:
            a += 1
        while a <= b and not near[b * rows // across, j]:
            b -= 1
        if a <= b:
            low[u], high[u], last = a, b, u
            left += b - a + 1
            for v in range(a, b + 1):
                sure += mount[v * rows // across, j]
        # Of a stem too faint for the map the outline stands.
        elif u < reach - 1 and last < 0:
            left += high[u] - low[u] + 1
    low[last + 1 :], high[last + 1 :] = across, -1
    believed = left > LEAST_LEFT * total and sure > LEAST_SURE * left
    believed = believed and last >= 0 and reach - last - 1 <= MOST_CUT * n
    return low, high, last + 1, believed


@njit(cache=True)
def _compare(
    mount: NDArray[np.float32],
    tip: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    start: int,
    reach: int,
    across: int,
) -> tuple[float, float, float, float, float, float, float]:
    """Compare them, all areas in cells.

    Returns area of the thing, of both, of the map and of that beyond the thing's end; how far the
    thing reaches past the map's; the probability of a tip at its end, part of the most; how far
    off the likeliest tip is.
    """
    rows, columns = mount.shape
    n = len(low)
    area, inside, whole, beyond = 0.0, 0.0, 0.0, 0.0
    per_row = rows / across
    last = reach * columns / n  # cells
    best, best_row, best_column, seen_to = 0.0, 0, 0, 0
    for j in range(columns):
        total = 0.0
        for i in range(rows):
            total += mount[i, j]
            if tip[i, j] > best:
                best, best_row, best_column = tip[i, j], i, j
        whole += total
        if total > 0.5:
            seen_to = j + 1
        if j > last:
            beyond += total
        for s in range(SAMPLES):
            u = int((j + (s + 0.5) / SAMPLES) * n / columns)
            if u < start or u >= reach or high[u] < low[u]:
                continue
            v0, v1 = low[u] * per_row, (high[u] + 1) * per_row
            for i in range(int(v0), min(int(v1) + 1, rows)):
                part = (min(v1, i + 1.0) - max(v0, float(i))) / SAMPLES
                if part > 0:
                    area += part
                    inside += part * mount[i, j]
    u = reach - 1
    row = min(int(0.5 * (low[u] + high[u] + 1) * per_row), rows - 1)
    column = min(int(last), columns - 1)
    near = 0.0
    for i in range(max(row - TIP_CELLS, 0), min(row + TIP_CELLS + 1, rows)):
        for j in range(max(column - TIP_CELLS, 0), min(column + TIP_CELLS + 1, columns)):
            near = max(near, tip[i, j])
    away = np.hypot((best_column + 0.5 - last) / columns, 0.5 * (best_row - row) / rows)
    past = min(max((last - seen_to - 1) / columns / 0.05, 0.0), 2.0)
    near /= max(best, LEAST_TIP)
    return (
        area,
        inside,
        whole,
        beyond,
        past,
        near,
        min(best / LEAST_TIP, 1.0) * min(away / 0.1, 2.0),
    )


@njit(cache=True)
def _head_begins(
    head: NDArray[np.float32],
    mount: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    start: int,
    reach: int,
    across: int,
) -> tuple[float, float]:
    rows, columns = head.shape
    n = len(low)
    parts = np.full(columns, -1.0)
    sure = 0.0
    for j in range(columns):
        u = int((j + 0.5) * n / columns)
        if u < start or u >= reach or high[u] < low[u]:
            continue
        # A slim thing is a part of its cells: what counts is how much of the mount is head.
        i0 = max(int(low[u] * rows / across) - 1, 0)
        i1 = min(int((high[u] + 1) * rows / across) + 2, rows)
        of_head, of_mount = 0.0, 0.0
        for i in range(i0, i1):
            of_head += head[i, j]
            of_mount += mount[i, j]
        if of_mount > 0.15:
            parts[j] = min(of_head / of_mount, 1.0)
            sure = max(sure, parts[j])
    # The head is the last part: the border that leaves most of head beyond, most of rest before.
    best, best_at, total = 0.0, -1.0, 0.0
    end = -1
    for j in range(columns - 1, -1, -1):
        if parts[j] < 0:
            continue
        if end < 0:
            end = j
        total += parts[j] - HEAD_PART
        if total > best:
            best = total
            # Within the cell: by how much of it is head.
            best_at = float(j)
    if best_at < 0:
        return np.nan, 0.0
    j = int(best_at)
    if j > 0 and parts[j - 1] >= 0:
        # Where the line through the two cells' middles crosses one half.
        a, b = parts[j - 1], parts[j]
        at = j + 0.5 - min(max((b - HEAD_PART) / max(b - a, 1e-3), 0.0), 1.0)
    else:
        at = float(j)
    return at * n / columns, sure


def _odds(part: float) -> float:
    """Logarithm of the odds of a probability."""
    return math.log(max(part, 1e-9) / max(1.0 - part, 1e-9))


def _clip(value: float, low: float, high: float) -> float:
    return min(max(float(value), low), high)
