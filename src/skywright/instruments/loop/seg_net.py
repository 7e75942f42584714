"""A small network that tells, cell by cell of a coarse grid, what of a picture is the mount.

Trained by `tools/train_seg_net.py`. It sees the whole picture at a small size, and says where
roughly the mount, its head and its tip are, and through which border the mount enters. What
connected edges cannot tell, it tells: glare, shades, nozzles, text. It is evidence for the choice
among the outlines found in the field (`skywright.instruments.loop.evidence`), which are finer.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field

GRID = (56, 80)  # rows and columns of the map, whatever the shape of the picture
SIDES = ("none", "left", "right", "top", "bottom")
KINDS = ("nylon", "mitegen", "pin")
LEAST_PART = 0.05  # of a coarse cell; of less the kind is told from nothing
MOST_STRETCH = 3.0  # standard deviations of the picture
LEAST_SPREAD, LEAST_NOISE = 4.0, 0.3  # grey levels
CONVOLUTIONS = ("a0", "b0", "b1", "c0", "c1", "d0", "d1", "d2", "e0", "f0", "g0")
"""Those of 3 x 3, in the order in which they are computed."""


@dataclass(frozen=True)
class Map:
    """What the network says of a picture.

    Attributes
    ----------
    mount, head, tip : (56, 80) float32
        Probability that a cell is of the mount (its outline filled), of its head, near its tip. The
        grid covers the field evenly, whatever its shape.
    sides : (5,) float64
        Log probabilities of "none", "left", "right", "top", "bottom".
    kinds : (3,) float64
        Log probabilities of "nylon", "mitegen", "pin", given a mount.
    """

    mount: NDArray[np.float32]
    head: NDArray[np.float32]
    tip: NDArray[np.float32]
    sides: NDArray[np.float64]
    kinds: NDArray[np.float64]


@lru_cache(maxsize=1)
def weights() -> dict[str, NDArray[np.float32]]:
    """Load the weights that come with the package: float32, stored with half the digits."""
    with files("skywright.instruments.loop").joinpath("seg_net.npz").open("rb") as file:
        return {name: array.astype(np.float32) for name, array in np.load(file).items()}


def look(field: Field) -> Map:
    """Ask the network about a picture.

    Parameters
    ----------
    field
        From `skywright.instruments.loop.objects.find_objects`.

    Returns
    -------
    Map
    """
    return run(weights(), view(field))


def view(field: Field) -> NDArray[np.float32]:
    """Return what the network sees: (8, 56, 80) float32.

    Four quarters of each cell; of each the mean grey level over the spread of the picture, and the
    strongest deviation from the light on a logarithmic scale in units of the noise.
    """
    seen = _view(field.deviation, field.light, max(field.noise, LEAST_NOISE))
    strength = seen[4:]
    seen[4:] = 0.5 * np.copysign(np.log1p(np.abs(strength)), strength)  # SIMD, which numba's is not
    return seen


def run(net: dict[str, NDArray[np.float32]], seen: NDArray[np.float32]) -> Map:
    """Compute the map of a view; see `CONVOLUTIONS` for the names of the weights."""

    def conv(name: str, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        return _convolved(maps, net[f"{name}_kernel"], net[f"{name}_bias"])

    a = conv("a0", _padded(seen))
    b = conv("b1", conv("b0", _pooled(a)))
    c = conv("c1", conv("c0", _pooled(b)))
    d = conv("d1", conv("d0", _pooled(c)))
    whole = np.maximum(net["whole_kernel"] @ _means(_inner(d), 1, 1) + net["whole_bias"], 0.0)
    d = conv("d2", _shifted(d, whole.astype(np.float32)))
    _add_coarse(c, d, net["dc_kernel"])
    c = conv("e0", c)
    _add_coarse(b, c, net["cb_kernel"])
    b = conv("f0", b)
    _add_coarse(a, b, net["ba_kernel"])
    a = conv("g0", a)
    maps = _probabilities(a, net["out_kernel"], net["out_bias"])
    coarse = _inner(d)
    channels, rows, columns = coarse.shape
    places = coarse.reshape(channels, -1)
    slim = np.maximum(net["slim_kernel"] @ places + net["slim_bias"][:, None], 0)
    sides = net["side_kernel"] @ slim.ravel() + net["side_bias"]
    # What is seen where the mount is, and where its head is.
    parts = _means(maps[:2], rows, columns).reshape(2, -1)
    seen_there = parts @ places.T / (parts.sum(1, keepdims=True) + LEAST_PART)
    kinds = net["kind_kernel"] @ seen_there.ravel() + net["kind_bias"]
    return Map(maps[0], maps[1], maps[2], _log_softmax(sides), _log_softmax(kinds))


def _log_softmax(sums: NDArray[np.float32]) -> NDArray[np.float64]:
    less = sums.astype(np.float64) - float(sums.max())
    return less - float(np.log(np.exp(less).sum()))


@njit(cache=True)
def cells_around(part: NDArray[np.float32], least: float) -> NDArray[np.bool_]:
    """Mark the cells of a map above `least` and those that touch one.

    Parameters
    ----------
    part : (h, w) float32
        `Map.mount` or another, as seen from any side.
    least
        Probability.

    Returns
    -------
    (h, w) bool
    """
    rows, columns = part.shape
    near = np.zeros((rows, columns), np.bool_)
    for i in range(rows):
        for j in range(columns):
            if part[i, j] > least:
                near[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    return near


# Planes have a rim of zeros, and are convolved as one long row each, which vectorizes.


@njit(cache=True)
def _view(
    deviation: NDArray[np.float32], light: NDArray[np.float32], noise: float
) -> NDArray[np.float32]:
    h, w = deviation.shape
    rows, columns = 2 * GRID[0], 2 * GRID[1]
    gray = np.empty((rows, columns), np.float32)
    out = np.empty((8, GRID[0], GRID[1]), np.float32)
    total, squares = 0.0, 0.0
    zero, scale = np.float32(0.0), np.float32(1.0 / noise)
    sums = np.empty(w, np.float32)
    lows, highs = np.empty(w, np.float32), np.empty(w, np.float32)
    begin = np.arange(columns) * w // columns
    end = np.maximum(((np.arange(columns) + 1) * w + columns - 1) // columns, begin + 1)
    for i in range(rows):
        y0 = i * h // rows
        y1 = max(((i + 1) * h + rows - 1) // rows, y0 + 1)
        sums[:], lows[:], highs[:] = zero, zero, zero
        for y in range(y0, y1):  # the loop over all pixels, and it is one that vectorizes
            values, lights = deviation[y], light[y]
            for x in range(w):
                value = values[x]
                sums[x] += value + lights[x]
                lows[x] = value if value < lows[x] else lows[x]
                highs[x] = value if value > highs[x] else highs[x]
        for j in range(columns):
            level, low, high = zero, zero, zero
            for x in range(begin[j], end[j]):
                level += sums[x]
                low = lows[x] if lows[x] < low else low
                high = highs[x] if highs[x] > high else high
            level /= np.float32((y1 - y0) * (end[j] - begin[j]))
            gray[i, j] = level
            total += float(level)
            squares += float(level) * float(level)
            quarter = 2 * (i % 2) + j % 2
            out[4 + quarter, i // 2, j // 2] = (low if -low > high else high) * scale
    count = rows * columns
    mean = total / count
    spread = max(np.sqrt(max(squares / count - mean * mean, 0.0)), LEAST_SPREAD)
    for i in range(rows):
        for j in range(columns):
            value = min(max((gray[i, j] - mean) / spread, -MOST_STRETCH), MOST_STRETCH)
            out[2 * (i % 2) + j % 2, i // 2, j // 2] = value
    return out


@njit(cache=True)
def _padded(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put a rim of zeros around each plane."""
    channels, rows, columns = maps.shape
    out = np.zeros((channels, rows + 2, columns + 2), np.float32)
    out[:, 1:-1, 1:-1] = maps
    return out


def _inner(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the rims off."""
    return np.ascontiguousarray(maps[:, 1:-1, 1:-1])


@njit(cache=True)
def _means(maps: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Return the means of (channels, h, w) over blocks: (channels * blocks,)."""
    channels, h, w = maps.shape
    high, wide = h // rows, w // columns
    out = np.empty((channels, rows, columns), np.float32)
    for c in range(channels):
        for i in range(rows):
            for j in range(columns):
                block = maps[c, i * high : (i + 1) * high, j * wide : (j + 1) * wide]
                out[c, i, j] = block.sum() / (high * wide)
    return out.ravel()


@njit(cache=True, fastmath={"contract"})
def _convolved(
    maps: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(channels, h + 2, w + 2) by (out, channels, 3, 3), what is negative set to 0.

    Four of `out`, which is a multiple of 4, at a time: what is read of a plane serves all four.
    The convolution of `skywright.instruments.loop.layers`, of any stride, takes a fifth longer.
    """
    into, rows, columns = maps.shape
    out = len(bias)
    if out % 4:
        raise ValueError("convolution: expected a multiple of 4 channels to come out")
    result = np.zeros((out, rows, columns), np.float32)
    n = (rows - 2) * columns - 2
    planes = maps.reshape(into, rows * columns)
    sums = result.reshape(out, rows * columns)
    first, end = columns + 1, columns + 1 + n
    for k in range(0, out, 4):
        s, t = sums[k, first:end], sums[k + 1, first:end]
        u, v = sums[k + 2, first:end], sums[k + 3, first:end]
        s[:], t[:], u[:], v[:] = bias[k], bias[k + 1], bias[k + 2], bias[k + 3]
        for c in range(into):
            for r in range(3):
                x = planes[c, r * columns : r * columns + n + 2]
                s0, s1, s2 = kernel[k, c, r, 0], kernel[k, c, r, 1], kernel[k, c, r, 2]
                t0, t1, t2 = kernel[k + 1, c, r, 0], kernel[k + 1, c, r, 1], kernel[k + 1, c, r, 2]
                u0, u1, u2 = kernel[k + 2, c, r, 0], kernel[k + 2, c, r, 1], kernel[k + 2, c, r, 2]
                v0, v1, v2 = kernel[k + 3, c, r, 0], kernel[k + 3, c, r, 1], kernel[k + 3, c, r, 2]
                for p in range(n):
                    x0, x1, x2 = x[p], x[p + 1], x[p + 2]
                    s[p] += s0 * x0 + s1 * x1 + s2 * x2
                    t[p] += t0 * x0 + t1 * x1 + t2 * x2
                    u[p] += u0 * x0 + u1 * x1 + u2 * x2
                    v[p] += v0 * x0 + v1 * x1 + v2 * x2
    for k in range(out):
        for i in range(1, rows - 1):
            row = result[k, i]
            for j in range(columns):
                row[j] = max(row[j], np.float32(0.0))
            row[0] = 0.0
            row[columns - 1] = 0.0
    return result


@njit(cache=True)
def _pooled(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest of 2 x 2; rims are kept."""
    channels, rows, columns = maps.shape
    h, w = (rows - 2) // 2, (columns - 2) // 2
    out = np.zeros((channels, h + 2, w + 2), np.float32)
    for c in range(channels):
        for i in range(h):
            for j in range(w):
                y, x = 2 * i + 1, 2 * j + 1
                out[c, i + 1, j + 1] = max(
                    max(maps[c, y, x], maps[c, y, x + 1]),
                    max(maps[c, y + 1, x], maps[c, y + 1, x + 1]),
                )
    return out


@njit(cache=True)
def _shifted(maps: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add to each channel its number, but in the rim."""
    out = maps.copy()
    for c in range(len(by)):
        out[c, 1:-1, 1:-1] += by[c]
    return out


@njit(cache=True, fastmath={"contract"})
def _add_coarse(
    fine: NDArray[np.float32], coarse: NDArray[np.float32], kernel: NDArray[np.float32]
) -> None:
    """Mix the channels of a map half as fine, each of its cells on four, and add them.

    Rims of zeros are mixed too: whole planes are faster. Channels in are a multiple of 4.
    """
    out, into = kernel.shape
    rows, columns = coarse.shape[1:]
    if into % 4:
        raise ValueError("mixture: expected a multiple of 4 channels to go in")
    planes = coarse.reshape(into, rows * columns)
    mixed, twice = np.empty(rows * columns, np.float32), np.empty(2 * columns, np.float32)
    for k in range(out):
        mixed[:] = 0.0
        for c in range(0, into, 4):
            s, t, u, v = planes[c], planes[c + 1], planes[c + 2], planes[c + 3]
            of_s, of_t, of_u, of_v = kernel[k, c : c + 4]
            for j in range(rows * columns):
                mixed[j] += of_s * s[j] + of_t * t[j] + of_u * u[j] + of_v * v[j]
        for i in range(1, rows - 1):
            line = mixed[i * columns : (i + 1) * columns]
            for j in range(columns):
                twice[2 * j] = line[j]
                twice[2 * j + 1] = line[j]
            upper, lower = fine[k, 2 * i - 1], fine[k, 2 * i]
            for j in range(1, 2 * columns - 3):
                upper[j] += twice[j + 1]
                lower[j] += twice[j + 1]


@njit(cache=True)
def _probabilities(
    maps: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mix channels and turn the sums into probabilities, without the rim."""
    into, rows, columns = maps.shape
    out = np.empty((len(bias), rows - 2, columns - 2), np.float32)
    for k in range(len(bias)):
        for i in range(rows - 2):
            line = out[k, i]
            line[:] = bias[k]
            for c in range(into):
                part = kernel[k, c]
                row = maps[c, i + 1, 1 : columns - 1]
                for j in range(columns - 2):
                    line[j] += part * row[j]
            for j in range(columns - 2):
                line[j] = 1.0 / (1.0 + np.exp(-line[j]))
    return out
