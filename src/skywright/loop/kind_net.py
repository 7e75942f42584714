"""A small network that tells nylon loop, polymer mount and bare pin apart.

Trained by `tools/train_kind_net.py` on scenes of the twin. Four convolutions look at the head,
three at the head with stem and pin; what is left of both, averaged over 2 x 2, is joined with the
looks and goes through two dense layers.
"""

from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.loop.kind_crop import Crop
from skywright.loop.layers import Dense, Layer, dense, dense_layers, layers, pooled, through

KINDS = ("nylon", "mitegen", "pin")
MOST_NUMBER = 4.0  # standard deviations of a look


class Network(NamedTuple):
    """The weights; `mean` and `gain` scale the numbers."""

    head: tuple[Layer, ...]
    view: tuple[Layer, ...]
    mean: NDArray[np.float32]
    gain: NDArray[np.float32]
    end: Dense


@lru_cache(maxsize=1)
def network() -> Network:
    """Load the weights that come with the package."""
    with files("skywright.loop").joinpath("kind_net.npz").open("rb") as file:
        arrays = dict(np.load(file))
    return Network(
        head=layers(arrays, "head", (2, 2, 2, 1)),
        view=layers(arrays, "view", (2, 2, 2)),
        mean=arrays["mean"],
        gain=arrays["gain"],
        end=dense_layers(arrays),
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
    seen = [pooled(through(net.head, crop.head)), pooled(through(net.view, crop.view))]
    numbers = np.array([*looks.values(), *crop.extras], np.float32)
    scaled = np.clip((numbers - net.mean) * net.gain, -MOST_NUMBER, MOST_NUMBER)
    sums = dense(net.end, np.concatenate([*seen, scaled]))
    return {kind: float(value) for kind, value in zip(KINDS, sums, strict=True)}
