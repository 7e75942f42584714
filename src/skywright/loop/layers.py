"""Layers of the small networks that look at crops: convolutions and dense layers, without BLAS.

All is computed in the order of the loops, so that the bits are the same on any machine's cores.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

MOST_NUMBER = 4.0  # standard deviations


class Layer(NamedTuple):
    """A convolution: kernel (rows, columns, channels in, channels out) float32, bias, strides.

    `stride` is along rows and columns, `apart` the distance of the kernel's rows.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: tuple[int, int] = (1, 1)
    apart: int = 1


class Dense(NamedTuple):
    """Two dense layers, what is negative between them set to 0."""

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


@lru_cache(maxsize=4)
def load(name: str) -> Network:
    """Load weights that come with the package: float32, or stored with half the digits."""
    with files("skywright.loop").joinpath(name).open("rb") as file:
        arrays = {key: array.astype(np.float32) for key, array in np.load(file).items()}
    dense_names = ("hidden_kernel", "hidden_bias", "last_kernel", "last_bias")
    return Network(
        head=_layers(arrays, "head", (2, 2, 2, 1)),
        view=_layers(arrays, "view", (2, 2, 2)),
        mean=arrays["mean"],
        gain=arrays["gain"],
        end=Dense(*(arrays[key] for key in dense_names)),
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
    for layer in convolutions:
        picture = _convolved(picture, layer.kernel, layer.bias, *layer.stride, layer.apart)
    return picture


def dense(layer: Dense, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Send values through both dense layers."""
    return _dense(values, *layer)


@njit(cache=True)
def _convolved(
    picture: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    down: int,
    right: int,
    apart: int,
) -> NDArray[np.float32]:
    """(h, w, channels) convolved with zeros around it, what is negative set to 0."""
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
    between = np.empty(len(hidden_bias))
    for k in range(len(hidden_bias)):
        total = float(hidden_bias[k])
        for i in range(len(values)):
            total += hidden[k, i] * values[i]
        between[k] = max(total, 0.0)
    result = np.empty(len(last_bias))
    for k in range(len(last_bias)):
        total = float(last_bias[k])
        for i in range(len(between)):
            total += last[k, i] * between[i]
        result[k] = total
    return result
