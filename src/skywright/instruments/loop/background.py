"""What the picture would be without a mount: border rows cut off, smooth light, noise.

The work is done on a decimated copy of at most about 500 pixels a side: the light is smooth and a
mount is large, and averaging f x f pixels is what makes a faint fiber stand out of the noise.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.light import fit_light, quantile

WORK_SIDE_PX = 352  # long side aimed at for the decimated picture
CELL_PX = 12  # side of the cells in which light is sampled, decimated pixels
MAX_BORDER_PX = 10  # encoders leave 1 to 6 rows or columns; blur of JPEG adds some
MAX_BAR = 0.08  # of the picture's height: so high is a bar with text at its top or bottom
PLAIN, WRITTEN = 0.9, 0.5  # of a line of a border, or with text in it: so much has its level
OPPOSITE, LEAST_TEXT = 128, 0.002  # grey levels between text and its bar; so much of a line has it


@dataclass(frozen=True)
class Field:
    """A decimated picture, its light and its noise.

    Attributes
    ----------
    deviation : (h, w) float32
        Smoothed decimated picture minus light; dark things are negative, grey levels.
    light : (h, w) float32
        The estimated background, grey levels.
    noise
        Robust standard deviation of `deviation` where there is only background, grey levels.
    step_px
        Decimation f: pixels of the picture for one of the field.
    x0_px, y0_px, x1_px, y1_px
        Part of the picture that the field covers, border rows cut off, upper limits exclusive.
    level, saturated, sharpness
        Mean grey level, fraction of pixels at 0..1 or 254..255, 99.5th percentile of the gradient
        in grey levels per pixel of the field.
    light_range
        Range (1st to 99th percentile) of the cell means, grey levels.
    """

    deviation: NDArray[np.float32]
    light: NDArray[np.float32]
    noise: float
    step_px: int
    x0_px: int
    y0_px: int
    x1_px: int
    y1_px: int
    level: float
    saturated: float
    sharpness: float
    light_range: float

    @cached_property
    def strength(self) -> NDArray[np.float32]:
        """(h, w) float32: the deviation, dark or bright."""
        return np.abs(self.deviation)

    def inside(self, left: int, right: int, top: int, bottom: int) -> "Field":
        """Cut columns and rows of the field off its four sides."""
        h, w = self.deviation.shape
        part = np.s_[top : h - bottom, left : w - right]
        return replace(
            self,
            deviation=np.ascontiguousarray(self.deviation[part]),
            light=np.ascontiguousarray(self.light[part]),
            x0_px=self.x0_px + left * self.step_px,
            y0_px=self.y0_px + top * self.step_px,
            x1_px=self.x1_px - right * self.step_px,
            y1_px=self.y1_px - bottom * self.step_px,
        )


def estimate_field(gray: NDArray[np.uint8]) -> Field:
    """Separate a picture into light and what deviates from it.

    Parameters
    ----------
    gray
        (H, W) uint8 picture, at least 32 x 32.

    Returns
    -------
    Field
    """
    height, width = gray.shape
    y0, y1, x0, x1 = border_rows(gray)
    step = max(1, round(max(height, width) / WORK_SIDE_PX))
    work, level, saturated = _decimate(gray, y0, y1, x0, x1, step)
    means, roughness = _cells(work, CELL_PX)
    cells, noise = fit_light(means, roughness)
    deviation, light = _subtract(work, cells)
    noise = _noise(deviation, light, noise)
    sharpness = _sharpness(work)
    rows, columns = deviation.shape
    return Field(
        deviation=deviation,
        light=light,
        noise=float(noise),
        step_px=step,
        x0_px=x0,
        y0_px=y0,
        x1_px=x0 + columns * step,
        y1_px=y0 + rows * step,
        level=float(level),
        saturated=float(saturated),
        sharpness=float(sharpness),
        light_range=quantile(means, 0.99) - quantile(means, 0.01),
    )


def border_rows(gray: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Find the part of a picture inside an encoder's border lines and bars with text.

    Parameters
    ----------
    gray
        (H, W) uint8 picture.

    Returns
    -------
    y0, y1, x0, x1
        Rows y0..y1-1 and columns x0..x1-1 are picture.
    """
    height, width = gray.shape
    k = MAX_BORDER_PX + 4
    if min(height, width) < 4 * k:
        return 0, height, 0, width
    high = max(k, round(MAX_BAR * height) + 4)
    top = _border(np.ascontiguousarray(gray[:high]), k)
    bottom = _border(np.ascontiguousarray(gray[: -high - 1 : -1]), k)
    left = _border(np.ascontiguousarray(gray[:, :k].T), k)
    right = _border(np.ascontiguousarray(gray[:, : -k - 1 : -1].T), k)
    return top, height - bottom, left, width - right


@njit(cache=True)
def _border(lines: NDArray[np.uint8], usual: int) -> int:
    """Count the outer lines that are a border, or a bar in which text stands.

    `lines` is ordered from the frame edge inwards. Without text a border is within `usual` of them.
    """
    plain, _ = _constant_lines(lines[:usual], PLAIN)
    bar, written = _constant_lines(lines, WRITTEN)
    found = max(plain, bar if written else 0)
    # The line next to a border is a mixture (resampling, JPEG).
    return found + 2 if found else 0


@njit(cache=True)
def _constant_lines(lines: NDArray[np.uint8], least: float) -> tuple[int, bool]:
    """Count the outer lines that are of one level all along and differ from the picture inside.

    A mount crosses the edge with its own level, an encoder's border does not know it. Of lines
    between plain ones `least` has the level; also tells whether text stands in them, and the
    outermost goes from end to end, which a mount along the edge does not.
    """
    k, n = lines.shape
    found, written, text, outermost = 0, False, False, -1
    for i in range(k - 4):
        histogram = np.zeros(256, np.int64)
        for j in range(n):
            histogram[lines[i, j]] += 1
        total, median = 0, 0
        while total + histogram[median] <= n // 2:
            total += histogram[median]
            median += 1
        near = 0
        for level in range(max(0, median - 8), min(256, median + 9)):
            near += histogram[level]
        differ, opposite = 0, 0
        for j in range(n):
            differ += abs(int(lines[k - 1, j]) - median) > 8
            opposite += abs(int(lines[i, j]) - median) > OPPOSITE
        if i == 0:
            outermost = median
        if near < least * n or differ < 0.6 * n or abs(median - outermost) > 8:
            # A line or two of ringing may lie between; only a clean break ends the border.
            break
        if near < PLAIN * n and not found:
            break
        text = text or opposite > LEAST_TEXT * n
        if near >= PLAIN * n:
            found, written = i + 1, text
    return found, written and _longest_gap(lines[0], outermost) <= 2 * MAX_BORDER_PX


@njit(cache=True)
def _longest_gap(line: NDArray[np.uint8], level: int) -> int:
    """Return for how many pixels on end a line has another level."""
    longest, gap = 0, 0
    for value in line:
        gap = gap + 1 if abs(int(value) - level) > 8 else 0
        longest = max(longest, gap)
    return longest


@njit(cache=True)
def _decimate(
    gray: NDArray[np.uint8], y0: int, y1: int, x0: int, x1: int, step: int
) -> tuple[NDArray[np.float32], float, float]:
    """Average blocks, smooth by 1-2-1 both ways; also mean and saturated fraction."""
    h, w = (y1 - y0) // step, (x1 - x0) // step
    mean = np.empty((h, w), np.float32)
    total, ends = 0, 0
    part = np.float32(1.0 / (step * step))
    sums, blocks = np.empty(w * step, np.int32), np.empty(w, np.int32)
    at_ends = np.empty(w * step, np.uint8)
    for i in range(h):
        # Whole rows first: this is the loop over all pixels, and it is one that vectorizes.
        sums[:], blocks[:], at_ends[:] = 0, 0, 0
        for di in range(step):
            line = gray[y0 + i * step + di, x0 : x0 + w * step]
            for j in range(w * step):
                sums[j] += line[j]
                at_ends[j] += np.uint8(line[j] + 2) <= 3  # 254, 255, 0 or 1
        for j in range(w * step):
            ends += at_ends[j]
        for dj in range(step):
            for j in range(w):
                blocks[j] += sums[j * step + dj]
        line = mean[i]
        for j in range(w):
            total += blocks[j]
            line[j] = blocks[j] * part
    rows = np.empty_like(mean)
    quarter, half = np.float32(0.25), np.float32(0.5)
    for i in range(h):
        up, here, down, out = mean[max(i - 1, 0)], mean[i], mean[min(i + 1, h - 1)], rows[i]
        for j in range(w):
            out[j] = quarter * (up[j] + down[j]) + half * here[j]
    for i in range(h):
        here, out = rows[i], mean[i]
        out[0] = quarter * (here[0] + here[min(1, w - 1)]) + half * here[0]
        for j in range(1, w - 1):
            out[j] = quarter * (here[j - 1] + here[j + 1]) + half * here[j]
        out[w - 1] = quarter * (here[max(w - 2, 0)] + here[w - 1]) + half * here[w - 1]
    count = h * w * step * step
    return mean, total / count, ends / count


@njit(cache=True)
def _cells(work: NDArray[np.float32], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and roughness (mean absolute first difference) of cells of `size` pixels a side."""
    h, w = work.shape
    rows, columns = max(h // size, 1), max(w // size, 1)
    means = np.empty((rows, columns))
    roughness = np.empty((rows, columns))
    total, beside, below = np.empty(w), np.empty(w), np.empty(w)
    for r in range(rows):
        i0, i1 = r * h // rows, (r + 1) * h // rows
        total[:], beside[:], below[:] = 0.0, 0.0, 0.0
        for i in range(i0, i1):  # whole rows first: it vectorizes
            line, above = work[i], work[max(i - 1, i0)]
            for j in range(w):
                total[j] += line[j]
                below[j] += abs(line[j] - above[j])
            for j in range(1, w):
                beside[j] += abs(line[j] - line[j - 1])
        for c in range(columns):
            j0, j1 = c * w // columns, (c + 1) * w // columns
            n = (i1 - i0) * (j1 - j0)
            means[r, c] = total[j0:j1].sum() / n
            roughness[r, c] = (below[j0:j1].sum() + beside[j0 + 1 : j1].sum()) / n
    return means, roughness


@njit(cache=True)
def _subtract(
    work: NDArray[np.float32], cells: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Interpolate the light to the pixels and subtract it."""
    h, w = work.shape
    rows, columns = cells.shape
    light = np.empty((h, w), np.float32)
    deviation = np.empty((h, w), np.float32)
    # A pixel's place between cell centers; outside 0..1 at the frame edge: the slope goes on.
    x = (np.arange(w) + 0.5) * columns / w - 0.5
    c = np.minimum(np.maximum(x.astype(np.int64), 0), max(columns - 2, 0))
    fx = x - c
    wide = np.empty((rows, w), np.float32)
    for r in range(rows):
        for j in range(w):
            a, b = cells[r, c[j]], cells[r, min(c[j] + 1, columns - 1)]
            wide[r, j] = a + fx[j] * (b - a)
    for i in range(h):
        y = (i + 0.5) * rows / h - 0.5
        r = min(max(int(y), 0), max(rows - 2, 0))
        upper, lower, fy = wide[r], wide[min(r + 1, rows - 1)], np.float32(y - r)
        pixels, lights, rest = work[i], light[i], deviation[i]
        for j in range(w):
            lights[j] = upper[j] + fy * (lower[j] - upper[j])
            rest[j] = pixels[j] - lights[j]
    return deviation, light


@njit(cache=True)
def _noise(
    deviation: NDArray[np.float32], light: NDArray[np.float32], cell_scatter: float
) -> float:
    """Take 1.48 x the median of |deviation| below 3 times itself, from a generous start."""
    h, w = deviation.shape
    # Saturated light has no noise: it counts only if there is hardly any other.
    sizes = np.empty(((h + 1) // 2) * ((w + 1) // 2), np.float32)
    for top in (252.0, 1e9):
        live = 0
        for i in range(0, h, 2):
            for j in range(0, w, 2):
                sizes[live] = abs(deviation[i, j])
                live += light[i, j] < top
        if live > 0.2 * h * w / 4:
            break
    noise = max(4.0 * cell_scatter, 8.0)
    for _ in range(3):
        bound = 3.0 * noise
        histogram = np.zeros(512, np.int64)
        scale, n = 511.999 / bound, 0
        for value in sizes[:live]:
            if value < bound:
                histogram[int(value * scale)] += 1
                n += 1
        total, k = 0, 0
        while k < 511 and total + histogram[k] < n / 2:
            total += histogram[k]
            k += 1
        noise = max(1.4826 * (k + 0.5) / 512.0 * bound, 0.05)
    return noise


@njit(cache=True)
def _sharpness(work: NDArray[np.float32]) -> float:
    """99.5th percentile of the gradient, to a quarter of a grey level."""
    h, w = work.shape
    histogram = np.zeros(512, np.int64)
    n = 0
    slopes = np.zeros(w, np.float32)
    for i in range(1, h - 1, 2):
        above, line, below = work[i - 1], work[i], work[i + 1]
        for j in range(1, w - 1):  # every column, for then it vectorizes
            gx, gy = line[j + 1] - line[j - 1], below[j] - above[j]
            slopes[j] = np.sqrt(gx * gx + gy * gy)
        for j in range(1, w - 1, 2):
            histogram[min(int(2 * slopes[j]), 511)] += 1
            n += 1
    total, k = 0, 511
    while k > 0 and total + histogram[k] <= 0.005 * n:
        total += histogram[k]
        k -= 1
    return k / 4.0
