"""A small network that measures the head of a loop or mount: where it begins and ends.

Trained by `tools/train_head_net.py` on scenes of the twin. Four convolutions look at the head,
three at the head with stem and pin; what is left of both, place by place, goes through two dense
layers. It sees what an outline does not tell: where between stem and head the fibers part, and
what beside the head is dust.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.loop.kind_crop import Crop
from skywright.loop.layers import Network, dense, load, through

OUTLIER, LEAST_ERROR_PX = 6.0, 0.5  # times the error: then it is no error; of the network
ERRORS = (-6.0, 1.0)  # limits of their logarithms, parts of the crop's side


@dataclass(frozen=True)
class Head:
    """The box of a head, px from the pin's border and from that across it, and its mean errors.

    Attributes
    ----------
    neck, tip, low, high : float
        Edges of the head along and across, pixel edges at whole numbers.
    errors : (4,) float64
        Expected absolute errors of these, px.
    """

    neck: float
    tip: float
    low: float
    high: float
    errors: NDArray[np.float64]


def network() -> Network:
    """Load the weights that come with the package."""
    return load("head_net.npz")


def measure(crop: Crop) -> Head:
    """Measure a head.

    Parameters
    ----------
    crop
        From `skywright.loop.kind_crop.crop`.

    Returns
    -------
    Head
    """
    # A mirrored mount is as likely: what is said of both is the better, and the same of both.
    one, other = (
        _answer(crop.head, crop.view, crop),
        _answer(crop.head[::-1], crop.view[::-1], crop),
    )
    neck, tip = 0.5 * (one[:2] + other[:2])
    low, high = 0.5 * (one[2] - other[3]), 0.5 * (one[3] - other[2])
    errors = 0.5 * (np.exp(np.clip(one[4:], *ERRORS)) + np.exp(np.clip(other[4:], *ERRORS)))
    u, v = crop.center
    return Head(
        neck=float(u + neck * crop.extent),
        tip=float(u + tip * crop.extent),
        low=float(v + low * crop.extent),
        high=float(v + high * crop.extent),
        errors=errors * crop.extent,
    )


def _answer(
    head: NDArray[np.float32], view: NDArray[np.float32], crop: Crop
) -> NDArray[np.float64]:
    """Return neck, tip, low, high from the middle of the crop, and the logarithms of their errors.

    (8,), parts of the crop's side.
    """
    net = network()
    seen = [
        # Channel by channel, as it was trained.
        np.ascontiguousarray(
            through(convolutions, np.ascontiguousarray(picture)).transpose(2, 0, 1)
        )
        for convolutions, picture in ((net.head, head), (net.view, view))
    ]
    scaled = net.scaled(crop.extras)
    return dense(
        net.end, np.concatenate([*(maps.ravel() for maps in seen), scaled], dtype=np.float32)
    )


def settled(seen_px: float, seen_error_px: float, expected_px: float, error_px: float) -> float:
    """Return where an edge of the head is: seen in the outline, and expected by the network.

    The outline's edge may be that of dust beside the head, of ice, or of the stem; it is the finer
    where both agree.

    Parameters
    ----------
    seen_px, seen_error_px
        In the outline, and how well it tells.
    expected_px, error_px
        By `measure`.

    Returns
    -------
    float
        The weighted mean; the farther apart they are, the nearer to what is expected.
    """
    far = abs(seen_px - expected_px) / (OUTLIER * max(error_px, seen_error_px))
    seen = max(1.0 - far**2, 0.0) ** 2 / seen_error_px**2
    expected = 1.0 / max(error_px, LEAST_ERROR_PX) ** 2
    return float((seen * seen_px + expected * expected_px) / (seen + expected))
