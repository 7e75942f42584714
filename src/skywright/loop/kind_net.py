"""A small network that tells nylon loop, polymer mount and bare pin apart.

Trained by `tools/train_kind_net.py` on scenes of the twin. Four convolutions look at the head,
three at the head with stem and pin; what is left of both, averaged over 2 x 2, is joined with the
looks and goes through two dense layers.
"""

from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.loop.kind_crop import Crop

KINDS = ("nylon", "mitegen", "pin")
MOST_NUMBER = 4.0  # standard deviations of a look


class Layer(NamedTuple):
    """A convolution: kernel (k, k, channels in, channels out) float32, bias, stride."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int


class Network(NamedTuple):
    """The weights; `mean` and `gain` scale the numbers."""

    head: tuple[Layer, ...]
    view: tuple[Layer, ...]
    mean: NDArray[np.float32]
    gain: NDArray[np.float32]
    hidden: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    last: NDArray[np.float32]
    last_bias: NDArray[np.float32]


@lru_cache(maxsize=1)
def network() -> Network:
    """Load the weights that come with the package."""
    with files("skywright.loop").joinpath("kind_net.npz").open("rb") as file:
        arrays = dict(np.load(file))

    def layers(name: str, strides: tuple[int, ...]) -> tuple[Layer, ...]:
        return tuple(
            Layer(arrays[f"{name}{k}_kernel"], arrays[f"{name}{k}_bias"], stride)
            for k, stride in enumerate(strides)
        )

    return Network(
        head=layers("head", (2, 2, 2, 1)),
        view=layers("view", (2, 2, 2)),
        mean=arrays["mean"],
        gain=arrays["gain"],
        hidden=arrays["hidden_kernel"],
        hidden_bias=arrays["hidden_bias"],
        last=arrays["last_kernel"],
        last_bias=arrays["last_bias"],
    )


def log_odds(crop: Crop, looks: dict[str, float]) -> dict[str, float]:
    """Judge a mount.

    Parameters
    ----------
    crop
        From `skywright.loop.kind_crop.crop`.
    looks
        From `skywright.loop.classify.measure`.

    Returns
    -------
    dict
        For "nylon", "mitegen" and "pin" the logarithm of its probability, up to a common term.
    """
    net = network()
    seen = [_pooled(_through(net.head, crop.head)), _pooled(_through(net.view, crop.view))]
    numbers = np.array([*looks.values(), *crop.extras], np.float32)
    scaled = np.clip((numbers - net.mean) * net.gain, -MOST_NUMBER, MOST_NUMBER)
    sums = _dense(np.concatenate([*seen, scaled]), *net[4:])
    return {kind: float(value) for kind, value in zip(KINDS, sums, strict=True)}


def _through(layers: tuple[Layer, ...], picture: NDArray[np.float32]) -> NDArray[np.float32]:
    for layer in layers:
        picture = _convolved(picture, layer.kernel, layer.bias, layer.stride)
    return picture


# In the order of the loops and without BLAS, so that the bits are the same on any machine's cores.


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
def _pooled(maps: NDArray[np.float32]) -> NDArray[np.float32]:
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
