"""Layers of the small networks: convolutions and dense layers, without BLAS and its threads."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_NUMBER = 4.0  # standard deviations
TOGETHER, TAPS_TOGETHER = 4, 3  # channels out and taps taken at a time
LONG_ROWS = 160  # pixels of a map from which on it is faster convolved row by row


class Layer(NamedTuple):
    """A convolution: kernel (rows, columns, channels in, channels out) float32, bias, strides.

    `stride` is along rows and columns, `apart` the distance of the kernel's rows.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    apart: int = 1


class Dense(NamedTuple):
    """Two dense layers, what is negative between them set to 0; kernels are (values in, out)."""

    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    last: NDArray[np.float32]
    last_bias: NDArray[np.float32]


class Network(NamedTuple):
    """Convolutions of head and view, `mean` and `gain` that scale the numbers, dense layers."""

    head: tuple[Layer, ...]
    view: tuple[Layer, ...]
    mean: NDArray[np.float32]
    gain: NDArray[np.float32]
    end: Dense

    def scaled(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring numbers to standard deviations from their mean, `MOST_NUMBER` at most."""
        return np.clip((numbers - self.mean) * self.gain, -MOST_NUMBER, MOST_NUMBER)


@lru_cache(maxsize=8)
def load(name: str) -> Network:
    """Load weights that come with the package: float32, or stored with half the digits."""
    with files("skywright.instruments.loop").joinpath(name).open("rb") as file:
        arrays = {key: array.astype(np.float32) for key, array in np.load(file).items()}
    return Network(
        head=_layers(arrays, "head", (2, 2, 2, 1)),
        view=_layers(arrays, "view", (2, 2, 2)),
        mean=arrays["mean"],
        gain=arrays["gain"],
        end=Dense(
            hidden=np.ascontiguousarray(arrays["hidden_kernel"].T),
            hidden_bias=arrays["hidden_bias"],
            last=np.ascontiguousarray(arrays["last_kernel"].T),
            last_bias=arrays["last_bias"],
        ),
    )


def _layers(
    arrays: Mapping[str, NDArray[np.float32]], name: str, strides: tuple[int, ...]
) -> tuple[Layer, ...]:
    """Take convolutions out of stored weights: ``{name}{k}_kernel``, ``{name}{k}_bias``."""
    return tuple(
        Layer(arrays[f"{name}{k}_kernel"], arrays[f"{name}{k}_bias"], (stride, stride))
        for k, stride in enumerate(strides)
    )


def through(convolutions: tuple[Layer, ...], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Send a picture, (h, w, channels), through convolutions."""
    for kernel, bias, (down, right), apart in convolutions:
        pixels = -(-picture.shape[0] // down) * -(-picture.shape[1] // right)
        convolve = _by_rows if pixels >= LONG_ROWS else _by_channels
        picture = convolve(picture, kernel, bias, down, right, apart)
    return picture


def judge(
    net: Network,
    head: NDArray[np.float32],
    view: NDArray[np.float32],
    numbers: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Send head and view through their convolutions, join what is left with the numbers."""
    seen = [pooled(through(net.head, head)), pooled(through(net.view, view))]
    return dense(net.end, np.concatenate([*seen, net.scaled(numbers)]))


def dense(layer: Dense, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Send values through both dense layers."""
    return _dense(values, *layer)


# Both of these convolve (h, w, channels) with zeros around it and set what is negative to 0.


@njit(cache=True)
def _by_channels(
    picture: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    down: int,
    right: int,
    apart: int,
) -> NDArray[np.float32]:
    """Add up all channels of one pixel after the other: for many channels of few pixels."""
    tall, wide, into, out = kernel.shape
    h, w = picture.shape[0], picture.shape[1]
    rows, columns = (h + down - 1) // down, (w + right - 1) // right
    result = np.empty((rows, columns, out), np.float32)
    sums = np.empty(out, np.float32)
    for i in range(rows):
        for j in range(columns):
            sums[:] = bias
            for a in range(tall):
                y = i * down + (a - tall // 2) * apart
                if y < 0 or y >= h:
                    continue
                for b in range(wide):
                    x = j * right + b - wide // 2
                    if x < 0 or x >= w:
                        continue
                    for c in range(into):
                        value = picture[y, x, c]
                        if value != 0.0:
                            for k in range(out):
                                sums[k] += value * kernel[a, b, c, k]
            for k in range(out):
                result[i, j, k] = max(sums[k], np.float32(0.0))
    return result


@njit(cache=True)
def _by_rows(
    picture: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    down: int,
    right: int,
    apart: int,
) -> NDArray[np.float32]:
    """Add up all pixels of one channel after the other: for many pixels of few channels."""
    tall, wide, into, out = kernel.shape
    h, w = picture.shape[0], picture.shape[1]
    rows, columns = (h + down - 1) // down, (w + right - 1) // right
    # Pixels that meet the same weight lie side by side: every `down`th row, `right`th column. The
    # rows follow each other, with as many zeros between them as the kernel reaches over.
    lines, line = rows + (tall - 1) * apart // down, columns + (wide - 1) // right
    planes = np.zeros((into, down, right, lines, line), np.float32)
    for y in range(h):
        at = y + tall // 2 * apart
        for x in range(w):
            to = x + wide // 2
            if to // right < line:
                for c in range(into):
                    planes[c, at % down, to % right, at // down, to // right] = picture[y, x, c]
    offsets = np.empty(tall * wide, np.int64)
    for a in range(tall):
        for b in range(wide):
            plane = a * apart % down * right + b % right
            offsets[a * wide + b] = (plane * lines + a * apart // down) * line + b // right
    weights = np.ascontiguousarray(kernel.reshape(tall * wide, into, out).transpose(2, 1, 0))
    sums = np.empty((out, (rows - 1) * line + columns), np.float32)
    for k in range(out):
        sums[k] = bias[k]
    planes = planes.reshape(into, down * right * lines * line)
    _add_taps(planes, offsets, weights, sums)
    result = np.empty((rows, columns, out), np.float32)
    for i in range(rows):
        for j in range(columns):
            for k in range(out):
                result[i, j, k] = max(sums[k, i * line + j], np.float32(0.0))
    return result


@njit(cache=True, fastmath={"contract"})
def _add_taps(
    planes: NDArray[np.float32],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    """Add to each channel of (out, n) n values of each plane from each offset on, times its weight.

    Weights are (out, into, taps). `out` is a multiple of `TOGETHER`: what is read of a plane serves
    this number of channels.
    """
    out, into, taps = weights.shape
    n = sums.shape[1]
    if out % TOGETHER:
        raise ValueError("convolution: expected a multiple of 4 channels to come out")
    # What is missing of the last three taps weighs nothing.
    count = (taps + TAPS_TOGETHER - 1) // TAPS_TOGETHER * TAPS_TOGETHER
    whole = np.zeros((out, into, count), np.float32)
    whole[:, :, :taps] = weights
    places = np.zeros(count, np.int64)
    places[:taps] = offsets
    for k in range(0, out, TOGETHER):
        s, t, u, v = sums[k], sums[k + 1], sums[k + 2], sums[k + 3]
        for c in range(into):
            plane = planes[c]
            ws, wt, wu, wv = whole[k, c], whole[k + 1, c], whole[k + 2, c], whole[k + 3, c]
            for a in range(0, count, TAPS_TOGETHER):
                x = plane[places[a] : places[a] + n]
                y = plane[places[a + 1] : places[a + 1] + n]
                z = plane[places[a + 2] : places[a + 2] + n]
                s0, s1, s2 = ws[a], ws[a + 1], ws[a + 2]
                t0, t1, t2 = wt[a], wt[a + 1], wt[a + 2]
                u0, u1, u2 = wu[a], wu[a + 1], wu[a + 2]
                v0, v1, v2 = wv[a], wv[a + 1], wv[a + 2]
                for p in range(n):
                    x0, x1, x2 = x[p], y[p], z[p]
                    s[p] += s0 * x0 + s1 * x1 + s2 * x2
                    t[p] += t0 * x0 + t1 * x1 + t2 * x2
                    u[p] += u0 * x0 + u1 * x1 + u2 * x2
                    v[p] += v0 * x0 + v1 * x1 + v2 * x2


@njit(cache=True)
def pooled(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2, flat, channel by channel."""
    rows, columns, channels = maps.shape[0] // 2, maps.shape[1] // 2, maps.shape[2]
    result = np.empty(channels * rows * columns, np.float32)
    for c in range(channels):
        for i in range(rows):
            for j in range(columns):
                total = (
                    maps[2 * i, 2 * j, c]
                    + maps[2 * i, 2 * j + 1, c]
                    + maps[2 * i + 1, 2 * j, c]
                    + maps[2 * i + 1, 2 * j + 1, c]
                )
                result[(c * rows + i) * columns + j] = np.float32(0.25) * total
    return result


@njit(cache=True)
def _dense(
    values: NDArray[np.float32],
    hidden: NDArray[np.float32],
    hidden_bias: NDArray[np.float32],
    last: NDArray[np.float32],
    last_bias: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Two dense layers, what is negative between them set to 0."""
    between = hidden_bias.astype(np.float64)
    for i in range(len(values)):
        value, row = values[i], hidden[i]
        for k in range(len(between)):
            between[k] += row[k] * value
    result = last_bias.astype(np.float64)
    for i in range(len(between)):
        value, row = max(between[i], 0.0), last[i]
        for k in range(len(result)):
            result[k] += row[k] * value
    return result
