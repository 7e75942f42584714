"""Ends of a silhouette to a fraction of a pixel, at full resolution."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.loop.background import Field
from skywright.loop.silhouette import Outline, seen_from

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


def outermost(
    gray: NDArray[np.uint8], field: Field, outline: Outline, what: str, start: float
) -> tuple[float, float]:
    """Locate an end of the head: where its outer edge is at a part of its contrast.

    Parameters
    ----------
    gray
        (H, W) uint8 picture.
    field
        Its field.
    outline
        The mount.
    what
        "tip", "low" or "high": the end along the axis, or one of the two limits across it.
    start
        u where the head begins.

    Returns
    -------
    tuple of float
        For the tip u and v; for the limits (NaN, v). Unit field pixels, edges at whole numbers.
    """
    first, n = min(int(start), outline.reach - 1), outline.reach
    low, high = outline.low, outline.high
    if what == "tip":
        at = n - 1
        u0, u1 = max(at - MARGIN, 0), min(at + MARGIN + 1, len(low))
        rows = [k for k in range(u0, n) if high[k] >= 0]
        v0, v1 = int(low[rows].min()), int(high[rows].max()) + 1
        # What is beside it is not it: dust.
        window = (u0, u1, max(v0 - SLACK, 0), min(v1 + SLACK, outline.across))
    elif what == "low":
        at = int(low[first:n].min())
        if at == 0:
            return float("nan"), 0.0  # cut by the frame
        us = first + np.flatnonzero(low[first:n] <= at + 1)
        window = (int(us[0]), int(us[-1]) + 1, max(at - MARGIN, 0), at + MARGIN + 1)
    else:
        at = int(high[first:n].max())
        if at == outline.across - 1:
            return float("nan"), float(outline.across)
        us = first + np.flatnonzero(high[first:n] >= at - 1)
        window = (int(us[0]), int(us[-1]) + 1, at - MARGIN, min(at + MARGIN + 1, outline.across))
    return _in_window(gray, field, outline, what, window)


def _in_window(
    gray: NDArray[np.uint8],
    field: Field,
    outline: Outline,
    what: str,
    window: tuple[int, int, int, int],
) -> tuple[float, float]:
    step = field.step_px
    u0, u1, v0, v1 = window
    n_out = u1 - outline.reach  # columns of the window outside the coarse end
    v0 = max(v0, 0)
    inner = gray[field.y0_px : field.y1_px, field.x0_px : field.x1_px]
    pixels = seen_from(outline.side, inner)[v0 * step : v1 * step, u0 * step : u1 * step]
    light = seen_from(outline.side, field.light)[v0:v1, u0:u1]
    # Axis 1 of what the kernel gets runs outwards, whatever the end that is wanted.
    deviation = (pixels - np.repeat(np.repeat(light, step, 0), step, 1)).astype(np.float32)
    if what == "low":
        deviation = deviation.T[:, ::-1]
    elif what == "high":
        deviation = deviation.T
    # Averaging over step x step pixels made the field's noise smaller than what is left here.
    least = max(4.0 * math.sqrt(step) * field.noise, 2.5)
    inside = (n_out if what == "tip" else MARGIN) - SLACK
    part = TIP_LEVEL if what == "tip" else LIMIT_LEVEL
    end, across = _edge(np.ascontiguousarray(deviation), step, least, int(inside * step), part)
    if np.isnan(end):
        # No edge at full resolution: the coarse limit stands.
        if what == "tip":
            u = outline.reach - 1
            return u + 1.0, 0.5 * float(outline.low[u] + outline.high[u] + 1)
        return float("nan"), float(v0 + MARGIN if what == "low" else v1 - MARGIN)
    if what == "tip":
        return u0 + end / step, v0 + across / step
    return float("nan"), (v1 - end / step) if what == "low" else (v0 + end / step)


@njit(cache=True)
def _edge(
    deviation: NDArray[np.float32], passes: int, least: float, outside: int, part: float
) -> tuple[float, float]:
    """Outermost crossing of a part of the contrast over all rows, and where across it lies.

    One level serves all rows, else a rim that is faint here and dark there has no clear end: that
    part of the median of the first maximum that the outermost rows reach, walking in from the
    coarse end. `outside` is the number of pixels that are beyond it.
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
        return np.nan, np.nan
    outer = np.flatnonzero(start > start.max() - 2 * passes - 4)
    peaks = np.empty(len(outer))
    for m in range(len(outer)):
        row, first = smooth[outer[m]], start[outer[m]]
        peaks[m] = least if first < 0 else row[first]
        for k in range(first, max(first - REACH * passes, -1), -1):
            if row[k] < 0.8 * peaks[m]:
                break
            peaks[m] = max(peaks[m], row[k])
    contrast = np.median(peaks)
    end = _crossings(smooth, start, part * contrast, begin).max()
    profile = _crossings(smooth, start, APEX_LEVEL * contrast, begin)
    wider = 1.0 + passes / 8
    if _roughness(profile, passes) > ROUGH_PX * (1.0 + passes / 2):
        return end, _apex(profile, RAGGED_SAG_PX * wider, passes)
    return end, _apex(profile, ROUND_SAG_PX * wider, max(3 * passes, rows // 8))


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
