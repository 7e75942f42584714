"""What in a picture may be a mount: objects and groups of objects, alone and joined."""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.evidence import CONTACTS, Picture, evidence
from skywright.instruments.loop.objects import (
    BRIDGE,
    BRIDGE_FLOOR,
    JUMP_PX,
    SIDES,
    label,
    merge,
    union,
)
from skywright.instruments.loop.parts import Parts, find_parts
from skywright.instruments.loop.seg_net import Map, cells_around, look
from skywright.instruments.loop.silhouette import Outline, seen_from, trace, turned_box

MIN_STRONG_PX = 6  # an object has at least this many pixels above STRONG
MOST_FLOATING = 3  # objects that touch no border and are tried as a mount of their own
MOST_ROOTED = 6  # objects tried for each border
CORE = 0.33  # of its contrast: weaker parts of an object may be something else
MASK_PART = 0.3  # probability of the mount from which on the network has it there
NONE_ODDS = -0.05  # log probability of an empty view above which it is not followed
GUIDED_JUMP_PX, LEAST_GUIDED_PX, SCRAP = 3, 30, 0.02  # pixels of the field; of the largest part
GAP_ALONG, GAP_ACROSS = 0.35, 0.06  # of the frame: farthest that one thing's parts are apart


@dataclass(frozen=True)
class Thing:
    """A candidate.

    Attributes
    ----------
    outline, parts
        Its outline from one side and what it consists of.
    evidence
        See `skywright.instruments.loop.evidence`.
    contrast
        Grey levels by which its strongest tenth differs from the light.
    objects
        Numbers of the objects that it is made of.
    """

    outline: Outline
    parts: Parts
    evidence: dict[str, float]
    contrast: float
    objects: frozenset[int]


def find_things(
    field: Field, labels: NDArray[np.int32], stats: NDArray[np.int64], seen: Map | None = None
) -> list[Thing]:
    """List everything that may be a mount, seen from every border that it may enter through.

    These are the objects at each border, large objects that touch none (their stem may be too
    faint to be seen), and each of them with what lies ahead of it or beside it; and what stands
    out of the light, faint as it may be, where the network has the mount.

    Parameters
    ----------
    field, labels, stats
        From `skywright.instruments.loop.objects.find_objects`.
    seen
        What the network says of the picture; it is asked if this is not given.

    Returns
    -------
    list of Thing
    """
    seen = look(field) if seen is None else seen
    whole = _look(field, labels, stats, seen)
    things = []
    for picture in (whole, _cores(whole), *_guided(whole)):
        for side in SIDES:
            for first in picture.rooted[side] + picture.floating:
                for members in _groups(picture, side, first):
                    outline = trace(picture.turned[side], picture.stats, members, side)
                    things.append(_weigh(picture, outline))
    return things


def _cores(whole: Picture) -> Picture:
    """Return the same with of each object only what is nearly as strong as its strongest.

    Dust, text and shades that an object has run into are weaker than a mount.
    """
    if not any(whole.rooted.values()):
        return replace(whole, rooted={side: [] for side in SIDES}, floating=[])
    labels, stats = label(
        _strong(whole.labels, whole.field.deviation, CORE * np.array(whole.contrast)), JUMP_PX, 0
    )
    cores = _look(whole.field, labels, stats, whole.seen)
    parents = _parents(labels, whole.labels, len(stats)).tolist()
    less = [
        core[0] < 0.93 * whole.stats[k][0] for core, k in zip(cores.stats, parents, strict=True)
    ]
    rooted = {side: [k for k in ks if less[k]][:2] for side, ks in cores.rooted.items()}
    return replace(cores, rooted=rooted, floating=[], parents=parents, whole=whole)


@njit(cache=True)
def _strong(
    labels: NDArray[np.int32], deviation: NDArray[np.float32], bound: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """3 where an object is stronger than its bound, else 0."""
    out = np.zeros(labels.shape, np.uint8)
    for i in range(labels.shape[0]):
        if not union(labels[i]):
            continue
        for j in range(labels.shape[1]):
            k = labels[i, j]
            if k and abs(deviation[i, j]) > bound[k]:
                out[i, j] = 3
    return out


@njit(cache=True)
def _parents(parts: NDArray[np.int32], labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Return the number of the object that each part of one belongs to."""
    out = np.zeros(count, np.int64)
    for i in range(parts.shape[0]):
        if not union(parts[i]):
            continue
        for j in range(parts.shape[1]):
            out[parts[i, j]] = labels[i, j]
    out[0] = 0
    return out


def _guided(whole: Picture) -> list[Picture]:
    """Return the picture with one object, what stands out where the network has the mount."""
    field, seen = whole.field, whole.seen
    if seen.mount.max() < MASK_PART or seen.sides[0] > NONE_ODDS:
        return []
    bound = max(BRIDGE * field.noise, BRIDGE_FLOOR)
    strength = _within(field.deviation, seen.mount, bound, MASK_PART)
    parts, stats = label(strength, GUIDED_JUMP_PX, 0)
    if len(stats) < 2 or stats[1:, 0].max() < LEAST_GUIDED_PX:
        return []
    largest = stats[:, 0].max()
    kept = [k for k in range(1, len(stats)) if stats[k, 0] > SCRAP * largest]
    chosen = np.zeros(len(stats), np.bool_)
    chosen[kept] = True
    labels, shares = _as_one(parts, chosen, whole.labels, len(whole.stats))
    for k in kept[1:]:
        merge(stats[kept[0]], stats[k])
    own = np.stack([stats[0], stats[kept[0]]])
    # The object that most of it is of.
    parents = [0, int(shares[1:].argmax()) + 1 if shares[1:].any() else 0]
    alone = _look(field, labels, own, seen)
    sides = {side: alone.rooted[side] for side in SIDES}
    return [replace(alone, rooted=sides, parents=parents, whole=whole, guided=True)]


@njit(cache=True)
def _as_one(
    parts: NDArray[np.int32], chosen: NDArray[np.bool_], labels: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """1 where a part is chosen, else 0; how many pixels of that each of `count` objects has."""
    out, shares = np.zeros(parts.shape, np.int32), np.zeros(count, np.int64)
    for i in range(parts.shape[0]):
        if not union(parts[i]):
            continue
        for j in range(parts.shape[1]):
            if chosen[parts[i, j]]:
                out[i, j] = 1
                shares[labels[i, j]] += 1
    return out, shares


@njit(cache=True)
def _within(
    deviation: NDArray[np.float32], mount: NDArray[np.float32], bound: float, least: float
) -> NDArray[np.uint8]:
    """3 where the deviation is above a bound and the map, or a cell beside it, has the mount."""
    h, w = deviation.shape
    rows, columns = mount.shape
    near = cells_around(mount, least)
    out = np.zeros((h, w), np.uint8)
    for i in range(h):
        r = i * rows // h
        for j in range(w):
            if abs(deviation[i, j]) > bound and near[r, j * columns // w]:
                out[i, j] = 3
    return out


def _look(field: Field, labels: NDArray[np.int32], stats: NDArray[np.int64], seen: Map) -> Picture:
    rows = stats.tolist()
    real = [k for k in range(1, len(rows)) if rows[k][1] >= MIN_STRONG_PX]
    contrast = _contrasts(labels, field.strength, len(rows)).tolist()
    mass = [row[0] * value for row, value in zip(rows, contrast, strict=True)]
    at = {side: [k for k in real if rows[k][8 + 3 * i] > 0] for i, side in enumerate(SIDES)}
    rooted = {side: sorted(at[side], key=lambda k: -mass[k])[:MOST_ROOTED] for side in SIDES}
    loose = [k for k in real if not any(rows[k][CONTACTS])]
    floating = sorted(loose, key=lambda k: -mass[k])[:MOST_FLOATING]
    return Picture(
        field=field,
        labels=labels,
        stats=rows,
        turned={side: seen_from(side, labels) for side in SIDES},
        strength={side: seen_from(side, field.strength) for side in SIDES},
        contrast=contrast,
        rooted=rooted,
        floating=floating,
        parents=list(range(len(rows))),
        seen=seen,
    )


@njit(cache=True)
def _contrasts(
    labels: NDArray[np.int32], strength: NDArray[np.float32], count: int
) -> NDArray[np.float64]:
    """90th percentile of the strength over each object, to half a grey level."""
    histogram = np.zeros((count, 512), np.int64)
    h, w = labels.shape
    for i in range(h):
        if not union(labels[i]):
            continue
        for j in range(w):
            k = labels[i, j]
            if k:
                histogram[k, min(int(2 * strength[i, j]), 511)] += 1
    out = np.zeros(count)
    for k in range(1, count):
        total, level = 0, 511
        most = 0.1 * histogram[k].sum()
        while level > 0 and total + histogram[k, level] <= most:
            total += histogram[k, level]
            level -= 1
        out[k] = 0.5 * level + 0.25
    return out


def _groups(picture: Picture, side: str, first: int) -> list[tuple[int, ...]]:
    """Return the object alone, with its best neighbor, and with all of them."""
    shape = picture.labels.shape
    across, n = picture.turned[side].shape
    u0, u1, v0, v1 = turned_box(side, picture.stats[first], shape)
    near: list[tuple[float, int]] = []
    if picture.whole is not None:
        return [(first,)]
    least = max(0.004 * picture.stats[first][0], 10)
    for k, stats in enumerate(picture.stats):
        if not k or k == first or stats[1] < MIN_STRONG_PX or stats[0] < least:
            continue
        a0, a1, b0, b1 = turned_box(side, stats, shape)
        along = max(a0 - u1, u0 - a1, 0) / n
        over = max(b0 - v1, v0 - b1, 0) / across
        if along < GAP_ALONG and over < GAP_ACROSS and a1 > u0:
            near.append((stats[0] * picture.contrast[k] * (1 - along / GAP_ALONG), k))
    near.sort(reverse=True)
    groups: list[tuple[int, ...]] = [(first,)] + [(first, k) for _, k in near[:2]]
    if len(near) > 1:
        groups.append((first, *(k for _, k in near[:4])))
    return groups


def _weigh(picture: Picture, outline: Outline) -> Thing:
    """Measure what speaks for and against a thing."""
    parts = find_parts(outline)
    contrast = max(picture.contrast[k] for k in outline.members)
    objects = frozenset(picture.parents[k] for k in outline.members)
    return Thing(outline, parts, evidence(picture, outline, parts, contrast), contrast, objects)
