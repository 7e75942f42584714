"""Small networks that measure the head of a loop or mount, and the end of a bare pin.

Trained by `tools/train_head_net.py` on scenes of the twin. Four convolutions look at the head,
three at the head with stem and pin; what is left of both, place by place, goes through two dense
layers. They see what an outline does not tell: where between stem and head the fibers part, what
beside the head is dust, and the dark flanks of a pin in front light.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.kind_crop import EXTRAS, USUAL_OVER_NOISE, Crop
from skywright.instruments.loop.layers import Network, dense, load, through

HEAD, PIN = "head_net.npz", "pin_net.npz"
OUTLIER, LEAST_ERROR_PX = 6.0, 0.5  # times the error: then it is no error; of the network
MOST_OFF_SCALE = 0.05  # of its width, by which a box may be too narrow on each side
ERRORS = (-6.0, 1.0)  # limits of their logarithms, parts of the crop's side
FAINT_NOISES, FAINT_RANGE = 1.5, 4.0
"""So many noises are about 1 of what the inverse hyperbolic sine takes, and that over so much."""


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


def measure(crop: Crop) -> Head:
    """Measure the head of a loop or mount.

    Parameters
    ----------
    crop
        From `skywright.instruments.loop.kind_crop.crop`.

    Returns
    -------
    Head
    """
    return _measured(load(HEAD), crop)


def middle_of_pin(crop: Crop) -> float:
    """Say where across the axis of a bare pin is at its end.

    Parameters
    ----------
    crop
        From `skywright.instruments.loop.kind_crop.crop`.

    Returns
    -------
    float
        px from the border across, pixel edges at whole numbers.
    """
    end = _measured(load(PIN), crop)
    return 0.5 * (end.low + end.high)


def _measured(net: Network, crop: Crop) -> Head:
    """Ask a network about a crop and its mirror image."""
    # A mirrored mount is as likely: what is said of both is the better, and the same of both.
    head, view = _with_faint(crop.head, crop), _with_faint(crop.view, crop)
    one = _answer(net, head, view, crop.extras)
    mirrored = np.ascontiguousarray(head[::-1]), np.ascontiguousarray(view[::-1])
    other = _answer(net, *mirrored, crop.extras)
    neck, tip = 0.5 * (one[:2] + other[:2])
    low, high = 0.5 * (one[2] - other[3]), 0.5 * (one[3] - other[2])
    turned = other[[4, 5, 7, 6]]
    errors = 0.5 * (np.exp(np.clip(one[4:], *ERRORS)) + np.exp(np.clip(turned, *ERRORS)))
    u, v = crop.center
    return Head(
        neck=float(u + neck * crop.extent),
        tip=float(u + tip * crop.extent),
        low=float(v + low * crop.extent),
        high=float(v + high * crop.extent),
        errors=errors * crop.extent,
    )


def _answer(
    net: Network,
    head: NDArray[np.float32],
    view: NDArray[np.float32],
    extras: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return the places of `Head` from the middle of the crop, and the logarithms of their errors.

    (8,), parts of the crop's side.
    """
    # Channel by channel, as it was trained.
    seen = [through(net.head, head).transpose(2, 0, 1), through(net.view, view).transpose(2, 0, 1)]
    values = [*(maps.ravel() for maps in seen), net.scaled(extras)]
    return dense(net.end, np.concatenate(values, dtype=np.float32))


def _with_faint(picture: NDArray[np.float32], crop: Crop) -> NDArray[np.float32]:
    """Add a channel in which what is faint is seen: differences from the light by the noise."""
    over_noise = USUAL_OVER_NOISE * np.exp(crop.extras[EXTRAS.index("over_noise")])
    faint = np.arcsinh(picture[:, :, :1] * (over_noise / FAINT_NOISES)) / FAINT_RANGE
    return np.concatenate([picture, faint], axis=2, dtype=np.float32)


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


def settled_across(
    seen_px: tuple[float, float], seen_error_px: float, head: Head
) -> tuple[float, float]:
    """Return where both edges of the head across its axis are, as `settled` does.

    Where the network's box is narrower, or wider, on both sides, its scale is off, not the outline:
    dust and what is faint are on one side.

    Parameters
    ----------
    seen_px, seen_error_px
        Low and high in the outline, and how well it tells.
    head
        By `measure`.

    Returns
    -------
    tuple of float
        Low and high.
    """
    low, high = seen_px
    inside = sorted((head.low - low, high - head.high), key=abs)
    grow = inside[0] if inside[0] * inside[1] > 0.0 else 0.0
    most = MOST_OFF_SCALE * (head.high - head.low)
    grow = min(max(grow, -most), most)
    return (
        settled(low, seen_error_px, head.low - grow, float(head.errors[2])),
        settled(high, seen_error_px, head.high + grow, float(head.errors[3])),
    )
