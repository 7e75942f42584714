"""Connected things that stand out of the light of a picture, darker or brighter."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field

SIDES = ("left", "right", "top", "bottom")
BRIDGE, WEAK, STRONG = 2.5, 4.5, 9.0  # thresholds of the hysteresis, in units of the noise
BRIDGE_FLOOR, WEAK_FLOOR, STRONG_FLOOR = 1.2, 2.0, 4.0  # in grey levels, for clean pictures
GLARE = 0.15  # what is weaker than this fraction of a neighbor is taken for its blur or ringing
BLOCK_PX = 6  # side of the blocks in which that neighbor is looked for
JUMP_PX = 2  # gaps in a faint rim that are jumped in any case
BRIDGE_PX = 12  # longest way over pixels above BRIDGE from one part of an object to the next
EDGE_PX = 4  # what does not reach this deep into the picture does not enter it
ROOT_PX = 2  # pixels this close to the border say where an object enters
MOST_OBJECTS = 255
STATS = 6 + 12  # area, strong pixels, y0, y1, x0, x1; for each side first, last, count of contact


def find_objects(field: Field) -> tuple[Field, NDArray[np.int32], NDArray[np.int64]]:
    """Find connected things that stand out of the light, darker or brighter.

    Parameters
    ----------
    field
        From `skywright.instruments.loop.background.estimate_field`.

    Returns
    -------
    field : Field
        The same without bars of overlays along the whole of a border.
    labels : (h, w) int32
        0 background, k object k.
    stats : (K + 1, 18) int64
        For each label: area, strong pixels, y0, y1, x0, x1 (inclusive), then for left, right, top,
        bottom: first, last and number of border pixels touched.
    """
    levels = (
        max(BRIDGE * field.noise, BRIDGE_FLOOR),
        max(WEAK * field.noise, WEAK_FLOOR),
        max(STRONG * field.noise, STRONG_FLOOR),
    )
    strength = _strength(field.deviation, *levels)
    left, right, top, bottom = _bars(strength)
    if left or right or top or bottom:
        # A mount enters through the bar of an overlay as through the frame.
        field = field.inside(left, right, top, bottom)
        strength = _strength(field.deviation, *levels)
    _peel_edges(strength)
    labels, stats = label(strength, JUMP_PX, BRIDGE_PX)
    return field, labels, stats


@njit(cache=True)
def _strength(
    deviation: NDArray[np.float32], bridge: float, weak: float, strong: float
) -> NDArray[np.uint8]:
    """0 background, 1 bridge, 2 weak, 3 strong; weak and strong rise beside high contrast."""
    h, w = deviation.shape
    rows, columns = (h + BLOCK_PX - 1) // BLOCK_PX, (w + BLOCK_PX - 1) // BLOCK_PX
    peak, tops = np.empty((rows, columns), np.float32), np.empty(columns * BLOCK_PX, np.float32)
    for r in range(rows):
        tops[:] = 0.0
        for i in range(r * BLOCK_PX, min((r + 1) * BLOCK_PX, h)):
            line = deviation[i]
            for j in range(w):  # the loop over all pixels, and it is one that vectorizes
                value = abs(line[j])
                tops[j] = value if value > tops[j] else tops[j]
        for c in range(columns):
            peak[r, c] = tops[c * BLOCK_PX : (c + 1) * BLOCK_PX].max()
    out = np.zeros((h, w), np.uint8)
    for r in range(rows):
        for c in range(columns):
            if peak[r, c] <= bridge:
                continue
            most = np.float32(0.0)
            for i in range(max(r - 1, 0), min(r + 2, rows)):
                for j in range(max(c - 1, 0), min(c + 2, columns)):
                    most = max(most, peak[i, j])
            low, high = max(weak, GLARE * most), max(strong, 2 * GLARE * most)
            for i in range(r * BLOCK_PX, min((r + 1) * BLOCK_PX, h)):
                for j in range(c * BLOCK_PX, min((c + 1) * BLOCK_PX, w)):
                    value = abs(deviation[i, j])
                    out[i, j] = (value > bridge) + (value > low) + (value > high)
    return out


@njit(cache=True)
def _bars(strength: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Rows and columns (left, right, top, bottom) at the frame edge that stand out all along."""
    h, w = strength.shape
    depths = np.zeros(4, np.int64)
    for side in range(4):
        length, depth = (w, h) if side >= 2 else (h, w)
        # Text stands in bars at top and bottom; at the sides there are only borders of encoders.
        most = depth // 10 if side >= 2 else depth // 40
        for d in range(most + 1):
            count = 0
            for along in range(length):
                count += _at(strength, side, along, d) > 1
            if count < 0.95 * length:
                break
            # What goes on is no bar but a pin that fills the border.
            depths[side] = d + 1 if d < most else 0
    return depths[0], depths[1], depths[2], depths[3]


@njit(cache=True)
def _peel_edges(strength: NDArray[np.uint8]) -> None:
    """Clear what lies along the frame edge and does not go on inwards: rest of border lines."""
    h, w = strength.shape
    for side in range(4):
        length, depth = (w, h) if side >= 2 else (h, w)
        if depth <= EDGE_PX:
            continue
        for j in range(length):
            goes_on = False
            for k in range(max(j - EDGE_PX, 0), min(j + EDGE_PX + 1, length)):
                goes_on = goes_on or _at(strength, side, k, EDGE_PX) > 1
            if not goes_on:
                for d in range(EDGE_PX):
                    if side == 0:
                        strength[j, d] = 0
                    elif side == 1:
                        strength[j, w - 1 - d] = 0
                    elif side == 2:
                        strength[d, j] = 0
                    else:
                        strength[h - 1 - d, j] = 0


@njit(cache=True)
def _at(strength: NDArray[np.uint8], side: int, along: int, depth: int) -> int:
    """Value at a place along a side (left, right, top, bottom) and a depth from it."""
    h, w = strength.shape
    if side == 0:
        return strength[along, depth]
    if side == 1:
        return strength[along, w - 1 - depth]
    if side == 2:
        return strength[depth, along]
    return strength[h - 1 - depth, along]


@njit(cache=True)
def label(
    strength: NDArray[np.uint8], jump: int, bridge: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connect pixels up to `jump` apart, then objects over up to `bridge` bridge pixels.

    Runs of pixels are connected, not the pixels: a picture has some hundred runs, and a pixel has
    two dozen neighbors.
    """
    h, w = strength.shape
    runs, first = _runs(strength, jump)
    parent = _connected(runs, first, jump)
    # Only strong pixels start an object, which is what makes it a hysteresis.
    number = np.zeros(len(runs), np.int64)
    current = 0
    for r in range(len(runs)):
        root = _root(parent, r)
        if runs[r, 3] and not number[root] and current < MOST_OBJECTS:
            current += 1
            number[root] = current
    labels = np.zeros((h, w), np.int32)
    stats = np.zeros((current + 1, STATS), np.int64)
    for k in range(1, current + 1):
        stats[k, 2], stats[k, 3], stats[k, 4], stats[k, 5] = h, -1, w, -1
        for side in range(4):
            stats[k, 6 + 3 * side], stats[k, 7 + 3 * side] = h + w, -1
    for r in range(len(runs)):
        k = number[_root(parent, r)]
        if k:
            i = runs[r, 0]
            for j in range(runs[r, 1], runs[r, 2] + 1):
                if strength[i, j] >= 2:
                    labels[i, j] = k
                    _count(stats[k], i, j, h, w, strength[i, j])
    if bridge:
        owner = _bridge(strength, labels, current, bridge)
        for k in range(1, current + 1):
            if owner[k] != k:
                merge(stats[owner[k]], stats[k])
        for r in range(len(runs)):
            line = labels[runs[r, 0], runs[r, 1] : runs[r, 2] + 1]
            for j in range(len(line)):
                line[j] = owner[line[j]]
    return labels, stats


@njit(cache=True)
def union(line: NDArray[np.integer]) -> int:
    """All bits of a row of (w,) integers; most are empty, and this vectorizes."""
    bits = line[0]
    for value in line:
        bits |= value
    return bits


@njit(cache=True)
def _runs(strength: NDArray[np.uint8], jump: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Row, first and last column of what is weak or strong, gaps jumped, and its strong pixels.

    With it the number of the first run of each row, and of all.
    """
    h, w = strength.shape
    runs = np.empty((h * (w // (jump + 1) + 1), 4), np.int32)
    first = np.empty(h + 1, np.int64)
    count = 0
    for i in range(h):
        first[i] = count
        last = -jump - 1
        if not union(strength[i]) & 2:
            continue
        for j in range(w):
            if strength[i, j] < 2:
                continue
            if j - last > jump:
                runs[count, 0], runs[count, 1], runs[count, 3] = i, j, 0
                count += 1
            runs[count - 1, 2] = j
            runs[count - 1, 3] += strength[i, j] == 3
            last = j
    first[h] = count
    return runs[:count].copy(), first


@njit(cache=True)
def _connected(runs: NDArray[np.int32], first: NDArray[np.int64], jump: int) -> NDArray[np.int64]:
    """Parent of each run; runs are connected if a pixel of one is within `jump` of the other's."""
    parent = np.arange(len(runs))
    for i in range(len(first) - 1):
        for above in range(max(i - jump, 0), i):
            a = first[above]
            for b in range(first[i], first[i + 1]):
                while a < first[above + 1] and runs[a, 2] < runs[b, 1] - jump:
                    a += 1
                k = a
                while k < first[above + 1] and runs[k, 1] <= runs[b, 2] + jump:
                    root, other = _root(parent, b), _root(parent, k)
                    parent[max(root, other)] = min(root, other)
                    k += 1
    return parent


@njit(cache=True)
def _bridge(
    strength: NDArray[np.uint8], labels: NDArray[np.int32], count: int, longest: int
) -> NDArray[np.int64]:
    """Let all objects grow over bridge pixels, one ring at a time; the object each one ends in."""
    h, w = labels.shape
    parent = np.arange(count + 1)
    owner = labels.copy()
    front = np.empty((h * w, 2), np.int32)
    begin, end = 0, 0
    for i in range(h):
        if not union(strength[i]):
            continue
        for j in range(w):
            # Nothing grows from the inside of an object.
            if strength[i, j] == 1:
                for ni in range(max(i - 1, 0), min(i + 2, h)):
                    for nj in range(max(j - 1, 0), min(j + 2, w)):
                        if labels[ni, nj] and owner[ni, nj] > 0:
                            owner[ni, nj] = -owner[ni, nj]
                            front[end, 0], front[end, 1] = ni, nj
                            end += 1
    for k in range(end):
        owner[front[k, 0], front[k, 1]] *= -1
    for _ in range(longest // 2 + 1):
        last = end
        for k in range(begin, last):
            i, j = front[k, 0], front[k, 1]
            for ni in range(max(i - 1, 0), min(i + 2, h)):
                for nj in range(max(j - 1, 0), min(j + 2, w)):
                    if owner[ni, nj] == owner[i, j]:
                        continue
                    if owner[ni, nj]:
                        a, b = _root(parent, owner[i, j]), _root(parent, owner[ni, nj])
                        parent[max(a, b)] = min(a, b)
                    elif strength[ni, nj] == 1:
                        owner[ni, nj] = owner[i, j]
                        front[end, 0], front[end, 1] = ni, nj
                        end += 1
        begin = last
    for k in range(1, count + 1):
        parent[k] = _root(parent, k)
    return parent


@njit(cache=True)
def _root(parent: NDArray[np.int64], k: int) -> int:
    while parent[k] != k:
        k = parent[k]
    return k


@njit(cache=True)
def merge(into: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Add the statistics of one object to another's and empty it."""
    for k in (0, 1):
        into[k] += other[k]
    for k in (2, 4, 6, 9, 12, 15):
        into[k] = min(into[k], other[k])
        into[k + 1] = max(into[k + 1], other[k + 1])
    for k in (8, 11, 14, 17):
        into[k] += other[k]
    other[:] = 0


@njit(cache=True, inline="always")
def _count(s: NDArray[np.int64], i: int, j: int, h: int, w: int, strength: int) -> None:
    """Add one pixel to the statistics of its object."""
    s[0] += 1
    s[1] += strength == 3
    s[2], s[3] = min(s[2], i), max(s[3], i)
    s[4], s[5] = min(s[4], j), max(s[5], j)
    for side in range(4):
        if side == 0:
            distance, v = j, i
        elif side == 1:
            distance, v = w - 1 - j, i
        elif side == 2:
            distance, v = i, j
        else:
            distance, v = h - 1 - i, j
        if distance < ROOT_PX:
            k = 6 + 3 * side
            s[k], s[k + 1] = min(s[k], v), max(s[k + 1], v)
            s[k + 2] += distance == 0
