"""A small network that tells nylon loop, polymer mount and bare pin apart.

Trained by `tools/train_kind_net.py` on scenes of the twin and on sketches in many manners. Four
convolutions look at the head, three at the head with stem and pin; what is left of both, averaged
over 2 x 2, is joined with the looks and goes through two dense layers.
"""

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.kind_crop import Crop
from skywright.instruments.loop.layers import Network, judge, load


def network() -> Network:
    """Load the weights that come with the package."""
    return load("kind_net.npz")


def log_odds(crop: Crop, looks: dict[str, float]) -> NDArray[np.float64]:
    """Judge a mount.

    Parameters
    ----------
    crop
        From `skywright.instruments.loop.kind_crop.crop`.
    looks
        From `skywright.instruments.loop.classify.measure`.

    Returns
    -------
    (3,) float64
        For each of `skywright.instruments.loop.seg_net.KINDS` the logarithm of its probability, up
        to a common term.
    """
    numbers = np.array([*looks.values(), *crop.extras], np.float32)
    return judge(network(), crop.head, crop.view, numbers)
