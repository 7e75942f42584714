"""Ends of a silhouette to a fraction of a pixel, at full resolution."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.silhouette import Outline, seen_from

MARGIN = 6  # field pixels looked at outside and inside the coarse end
# Rows whose edge lies so near the end (more if decimated) say where it is across: all of a round
# end, of a ragged one its longest spike.
ROUND_SAG_PX, RAGGED_SAG_PX = 2.0, 1.0
ROUGH_NEAR_PX = 6.0  # of the end (more if decimated) its profile is looked at
ROUGH_PX = 0.3  # what is rougher (more if decimated) is ragged
SLACK = 2  # the fine end lies at most this far outside the coarse one
# Part of the contrast at the edge. Half is where a blurred edge truly is; a person puts the end of
# a loop farther out, and a silhouette against clipped light has it there.
TIP_LEVEL, LIMIT_LEVEL = 0.4, 0.5
APEX_LEVEL = 0.3  # where the end is across: the longest spike of ice is a weak one
REACH = 8  # an edge out of focus rises within this many field pixels
PROFILE_LEVELS, BEHIND = (0.2, 0.35, 0.6), 10  # of the strength within this number of field pixels


class End(NamedTuple):
    """The end of a head along the axis, as its outermost edge tells it.

    Attributes
    ----------
    u, v
        Its place, field pixels, edges at whole numbers.
    first_px
        First row of `profiles`, px from the border across.
    profiles : (3, rows) float64
        Where each row falls to `PROFILE_LEVELS` of the strength, px from the pin's border; NaN
        where it does not come to that.
    strength
        Difference from the light behind the edge, grey levels. Without an edge at full resolution
        it is 0 and there are no rows.
    """

    u: float
    v: float
    first_px: int
    profiles: NDArray[np.float64]
    strength: float


def find_end(gray: NDArray[np.uint8], field: Field, outline: Outline) -> End:
    """Locate the end along the axis: where the outermost edge is at a part of its contrast.

    Parameters
    ----------
    gray
        (H, W) uint8 picture.
    field
        Its field.
    outline
        The mount.

    Returns
    -------
    End
    """
    n, low, high, step = outline.reach, outline.low, outline.high, field.step_px
    u0, u1 = max(n - 1 - MARGIN, 0), min(n + MARGIN, len(low))
    rows = [k for k in range(u0, n) if high[k] >= 0]
    # What is beside it is not it: dust.
    v0 = max(int(low[rows].min()) - SLACK, 0)
    v1 = min(int(high[rows].max()) + 1 + SLACK, outline.across)
    deviation = _deviation(gray, field, outline.side, (u0, u1, v0, v1))
    outside = (u1 - n - SLACK) * step
    smooth, start, begin, contrast, strength = _rows(deviation, step, _least(field), outside)
    if np.isnan(contrast):
        # No edge at full resolution: the coarse limit stands.
        middle = 0.5 * float(low[n - 1] + high[n - 1] + 1)
        return End(float(n), middle, v0 * step, np.empty((3, 0)), 0.0)
    end = _crossings(smooth, start, TIP_LEVEL * contrast, begin).max()
    across = _across(_crossings(smooth, start, APEX_LEVEL * contrast, begin), step)
    profiles = [_crossings(smooth, start, part * strength, begin) for part in PROFILE_LEVELS]
    seen = np.array([np.where(p < 0, np.nan, p + u0 * step) for p in profiles])
    return End(u0 + end / step, v0 + across / step, v0 * step, seen, strength)


def find_limit(
    gray: NDArray[np.uint8], field: Field, outline: Outline, what: str, start: float
) -> float:
    """Locate one of the two limits of the head across the axis.

    Parameters
    ----------
    gray, field, outline
        As for `find_end`.
    what
        "low" or "high".
    start
        u where the head begins.

    Returns
    -------
    float
        v, field pixels, edges at whole numbers.
    """
    first, n = min(int(start), outline.reach - 1), outline.reach
    if what == "low":
        edge = outline.low[first:n]
        at = int(edge.min())
        if at == 0:
            return 0.0  # cut by the frame
        us = first + np.flatnonzero(edge <= at + 1)
        v0, v1 = max(at - MARGIN, 0), at + MARGIN + 1
    else:
        edge = outline.high[first:n]
        at = int(edge.max())
        if at == outline.across - 1:
            return float(outline.across)
        us = first + np.flatnonzero(edge >= at - 1)
        v0, v1 = max(at - MARGIN, 0), min(at + MARGIN + 1, outline.across)
    deviation = _deviation(gray, field, outline.side, (int(us[0]), int(us[-1]) + 1, v0, v1)).T
    # Axis 1 of what the kernel gets runs outwards, whichever limit it is.
    outwards = np.ascontiguousarray(deviation[:, ::-1] if what == "low" else deviation)
    step, outside = field.step_px, (MARGIN - SLACK) * field.step_px
    smooth, edges, begin, contrast, _ = _rows(outwards, step, _least(field), outside)
    if np.isnan(contrast):
        return float(v0 + MARGIN if what == "low" else v1 - MARGIN)
    end = _crossings(smooth, edges, LIMIT_LEVEL * contrast, begin).max()
    return v1 - end / step if what == "low" else v0 + end / step


def _deviation(
    gray: NDArray[np.uint8], field: Field, side: str, window: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """Picture minus light in a window (u0, u1, v0, v1) of the field, at full resolution."""
    u0, u1, v0, v1 = window
    step = field.step_px
    inner = gray[field.y0_px : field.y1_px, field.x0_px : field.x1_px]
    pixels = seen_from(side, inner)[v0 * step : v1 * step, u0 * step : u1 * step]
    light = seen_from(side, field.light)[v0:v1, u0:u1]
    deviation = pixels - np.repeat(np.repeat(light, step, 0), step, 1)
    return np.ascontiguousarray(deviation, dtype=np.float32)


def _least(field: Field) -> float:
    """Grey levels above the noise, of which the field's averaging has left less than here."""
    return max(4.0 * math.sqrt(field.step_px) * field.noise, 2.5)


@njit(cache=True)
def _rows(
    deviation: NDArray[np.float32], passes: int, least: float, outside: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], int, float, float]:
    """Look at the edge along each row, walking in from the coarse end.

    Returns the strength smoothed, where in each row it is first above the noise, where the walk
    begins (`outside` pixels are beyond the end), and of the outermost rows the medians of the first
    maximum and of the largest strength behind it. One level serves all rows, else a rim that is
    faint here and dark there has no clear end. NaN if there is no edge.
    """
    smooth = np.abs(_binomial(deviation, passes))
    least = max(least, 0.2 * smooth.max())
    rows, n = smooth.shape
    begin = n - 1 - max(outside, 0)
    start = np.full(rows, -1)
    for r in range(rows):
        k = begin
        while k >= 0 and smooth[r, k] < least:
            k -= 1
        start[r] = k
    if start.max() < 0:
        return smooth, start, begin, np.nan, np.nan
    outer = np.flatnonzero(start > start.max() - 2 * passes - 4)
    peaks, strengths = np.empty(len(outer)), np.empty(len(outer))
    behind = 0
    for m in range(len(outer)):
        row, first = smooth[outer[m]], start[outer[m]]
        peaks[m] = least if first < 0 else row[first]
        for k in range(first, max(first - REACH * passes, -1), -1):
            if row[k] < 0.8 * peaks[m]:
                break
            peaks[m] = max(peaks[m], row[k])
        if first >= 0:
            strengths[behind] = row[max(first - BEHIND * passes, 0) : first + 1].max()
            behind += 1
    return smooth, start, begin, float(np.median(peaks)), float(np.median(strengths[:behind]))


@njit(cache=True)
def _across(profile: NDArray[np.float64], passes: int) -> float:
    """Row of the end by its profile: of a round end all of it, of ragged ones the longest spike."""
    wider = 1.0 + passes / 8
    if _roughness(profile, passes) > ROUGH_PX * (1.0 + passes / 2):
        return _apex(profile, RAGGED_SAG_PX * wider, passes)
    return _apex(profile, ROUND_SAG_PX * wider, max(3 * passes, len(profile) // 8))


@njit(cache=True)
def _crossings(
    smooth: NDArray[np.float32], start: NDArray[np.int64], level: float, begin: int
) -> NDArray[np.float64]:
    """Where each row falls to a level, (rows,) float64; -1 where it does not reach it.

    What is weak counts as far as it hangs on what is seen, at `start`; beyond, it is noise.
    """
    rows, n = smooth.shape
    crossing = np.full(rows, -1.0)
    for r in range(rows):
        k = start[r]
        while 0 <= k < begin and smooth[r, k + 1] >= level:
            k += 1
        while k >= 0 and smooth[r, k] < level:
            k -= 1
        if k >= 0:
            # Pixel k covers k..k+1; its center is k + 0.5.
            rest = 0.5
            if k < n - 1 and smooth[r, k + 1] < level:
                rest = (smooth[r, k] - level) / (smooth[r, k] - smooth[r, k + 1])
            crossing[r] = k + 0.5 + rest
    return crossing


@njit(cache=True)
def _roughness(profile: NDArray[np.float64], passes: int) -> float:
    """Median second difference of an end's profile over what smoothing leaves apart, px."""
    step, least = 2 * passes, profile.max() - ROUGH_NEAR_PX - passes
    bends = np.empty(len(profile))
    count = 0
    for r in range(step, len(profile) - step):
        if profile[r] > least and profile[r - step] > 0 and profile[r + step] > 0:
            bends[count] = abs(profile[r - step] - 2 * profile[r] + profile[r + step])
            count += 1
    return np.median(bends[:count]) if count > 4 else 0.0


@njit(cache=True)
def _apex(crossing: NDArray[np.float64], sag: float, gap: int) -> float:
    """Row of the end: center of gravity of the rows around it by how far they come within `sag`.

    Rows farther back than that, up to `gap` of them, do not end it: a glint, a notch.
    """
    top = np.argmax(crossing)
    end = crossing[top]
    total, weight = 0.0, 0.0
    for direction in (-1, 1):
        r, missed = (top if direction < 0 else top + 1), 0
        while 0 <= r < len(crossing) and missed <= gap:
            reach = max(crossing[r] - (end - sag), 0.0)
            missed = 0 if reach > 0 else missed + 1
            total += reach * (r + 0.5)
            weight += reach
            r += direction
    return total / weight


@njit(cache=True)
def _binomial(picture: NDArray[np.float32], passes: int) -> NDArray[np.float32]:
    """Smooth by 1-2-1 both ways, `passes` times."""
    rows, columns = picture.shape
    a = picture.copy()
    b = np.empty_like(a)
    for _ in range(passes):
        for r in range(rows):
            for c in range(columns):
                b[r, c] = 0.25 * (a[max(r - 1, 0), c] + a[min(r + 1, rows - 1), c]) + 0.5 * a[r, c]
        for r in range(rows):
            for c in range(columns):
                left, right = b[r, max(c - 1, 0)], b[r, min(c + 1, columns - 1)]
                a[r, c] = 0.25 * (left + right) + 0.5 * b[r, c]
    return a
