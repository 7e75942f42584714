"""Layers of the small networks that look at crops: convolutions and dense layers, without BLAS.

All is computed in the order of the loops, so that the bits are the same on any machine's cores.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Layer(NamedTuple):
    """A convolution: kernel (k, k, channels in, channels out) float32, bias, stride."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int


class Dense(NamedTuple):
    """Two dense layers, what is negative between them set to 0."""

    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    last: NDArray[np.float32]
    last_bias: NDArray[np.float32]


def layers(
    arrays: Mapping[str, NDArray[np.float32]], name: str, strides: tuple[int, ...]
) -> tuple[Layer, ...]:
    """Take convolutions out of stored weights: ``{name}{k}_kernel``, ``{name}{k}_bias``."""
    return tuple(
        Layer(arrays[f"{name}{k}_kernel"], arrays[f"{name}{k}_bias"], stride)
        for k, stride in enumerate(strides)
    )


def dense_layers(arrays: Mapping[str, NDArray[np.float32]]) -> Dense:
    """Take the dense layers out of stored weights."""
    names = ("hidden_kernel", "hidden_bias", "last_kernel", "last_bias")
    return Dense(*(arrays[name] for name in names))


def through(convolutions: tuple[Layer, ...], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Send a picture, (h, w, channels), through convolutions."""
    for layer in convolutions:
        picture = _convolved(picture, layer.kernel, layer.bias, layer.stride)
    return picture


def dense(layer: Dense, values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Send values through both dense layers."""
    return _dense(values, *layer)


@njit(cache=True)
def _convolved(
    picture: NDArray[np.float32],
    kernel: NDArray[np.float32],
    bias: NDArray[np.float32],
    stride: int,
) -> NDArray[np.float32]:
    """(h, w, channels) convolved with zeros around it, what is negative set to 0."""
    size, _, into, out = kernel.shape
    half = size // 2
    h, w = picture.shape[0], picture.shape[1]
    rows, columns = (h + stride - 1) // stride, (w + stride - 1) // stride
    result = np.empty((rows, columns, out), np.float32)
    sums = np.empty(out, np.float32)
    for i in range(rows):
        for j in range(columns):
            sums[:] = bias
            for a in range(size):
                y = i * stride + a - half
                if y < 0 or y >= h:
                    continue
                for b in range(size):
                    x = j * stride + b - half
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
