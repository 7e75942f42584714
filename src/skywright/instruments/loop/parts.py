"""Pin, stem and loop head from the width of an outline along its axis."""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.light import quantile, spread_over_median
from skywright.instruments.loop.silhouette import Outline

PIN_DROP = 0.6  # a pin ends where the extent falls below this fraction of its mean so far
VALLEY = 0.72  # the stem is narrower than this fraction of the head


@dataclass(frozen=True)
class Parts:
    """Where pin, stem and head of a mount lie along its axis, in pixels of the field.

    Attributes
    ----------
    width : (reach,) float64
        Extent across the axis at each u, running median of 3.
    head_start
        u where the stem opens to the head, or where the pin ends if no stem can be told from the
        head; 0 if there is neither.
    head_width
        Largest extent of the head.
    stem_width
        Least extent between pin and head; NaN if no stem can be told.
    pin_end, pin_width
        u where the pin, or the body of a mount, ends and its mean extent; NaN if out of view.
    solid
        Filled fraction of the head's outline.
    plateau
        Spread (10th to 90th percentile, relative) of the extent from the border to one radius
        before the end: small for a bare pin.
    """

    width: NDArray[np.float64]
    head_start: float
    head_width: float
    stem_width: float
    pin_end: float
    pin_width: float
    solid: float
    plateau: float


def find_parts(outline: Outline) -> Parts:
    """Split an outline into pin, stem and head.

    From the border inwards the pin ends where the extent drops for good. From the tip backwards
    the head is left where the extent falls below 0.72 of its largest value, and begins where the
    straight continuation of its opening meets the extent of the stem.

    Parameters
    ----------
    outline
        One object seen from its border.

    Returns
    -------
    Parts
    """
    n = outline.reach
    width = _median_of_three(np.maximum(outline.high[:n] - outline.low[:n] + 1.0, 1.0))
    # Of a stem too faint to be seen nothing can be told.
    seen = width[outline.start :]
    pin_end, pin_width = _pin(seen) if not outline.start else (0, 0.0)
    start, stem = _head(seen, pin_end)
    if pin_end and width[pin_end : int(start)].max(initial=0.0) > PIN_DROP * pin_width:
        # Twists of a stem are no pin: what follows is as wide again.
        pin_end = 0
        start, stem = _head(seen, 0)
    start += outline.start
    first = min(int(start), n - 1)
    head = width[first:]
    body = width[: max(n - int(quantile(width, 0.5) / 2), 3)]
    return Parts(
        width=width,
        head_start=float(start),
        head_width=float(head.max()),
        stem_width=float(stem),
        pin_end=float(pin_end) if pin_end else float("nan"),
        pin_width=float(pin_width) if pin_end else float("nan"),
        solid=float(outline.filled[first:n].sum()) / max(float(head.sum()), 1.0),
        plateau=spread_over_median(body),
    )


@njit(cache=True)
def _median_of_three(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the running median of 3, ends repeated."""
    n = len(values)
    out = values.copy()
    for k in range(1, n - 1):
        a, b, c = values[k - 1], values[k], values[k + 1]
        out[k] = max(min(a, b), min(max(a, b), c))
    return out


@njit(cache=True)
def _pin(width: NDArray[np.float64]) -> tuple[int, float]:
    """End and mean extent of the pin or body at the border; 0 if the extent never drops."""
    n = len(width)
    hold = max(4, n // 50)  # shorter gaps are notches of a ragged end
    total = 0.0
    for u in range(n):
        mean = total / max(u, 1)
        # The rounded or conical end of a bare pin or drop is no stem.
        if u >= 2 and (
            n - u <= max(0.2 * mean, 6.0)
            or (n - u <= 0.5 * mean and np.median(width[u:]) > 0.2 * mean)
        ):
            break
        if u >= 2 and mean >= 5.0:
            # A pin ends within less than its radius; a loop narrows slowly to its tip.
            before = max(u - max(int(0.4 * mean), 4), 0)
            drop = width[before] > 0.8 * mean
            for k in range(u, min(u + hold, n)):
                drop = drop and width[k] < PIN_DROP * mean
            if drop:
                return u, mean
        total += width[u]
    return 0, 0.0


@njit(cache=True)
def _head(width: NDArray[np.float64], pin_end: int) -> tuple[float, float]:
    """Start of the head and least extent of the stem behind it (NaN: no stem to be told)."""
    n = len(width)
    valley, most = _valley(width, pin_end, n - 1, 0.0)
    if valley < 0:
        return _line_head(width, pin_end), np.nan
    if width[pin_end : valley + 1].max() > 1.4 * most:
        # What was passed is a crystal or an icicle that sticks out of the head.
        further, more = _valley(width, pin_end, valley, most)
        if further < 0:
            return float(pin_end), np.nan
        valley, most = further, more
    # Twists: the stem is as wide as its lobes, the nodes between them do not count.
    half = int(min(0.35 * most, (valley - pin_end) / 6))
    envelope = width.copy()
    envelope[pin_end : valley + 1] = _close(width[pin_end : valley + 1], half)
    # Behind the valley the extent goes on falling to the stem's, and rises to the pin's.
    least, u_least = envelope[valley], valley
    for u in range(valley, pin_end - 1, -1):
        if envelope[u] <= least:
            least, u_least = envelope[u], u
        elif envelope[u] > 1.5 * least + 2.0 or u_least - u > n // 4:
            break
    near = _fall_to(envelope, valley, least + 0.12 * (most - least) + 1.0)
    far = _fall_to(envelope, valley, least + 0.35 * (most - least) + 1.0)
    opening = max(float(envelope[far] - envelope[near]), 1e-6)
    start = near - (far - near) * min((envelope[near] - least) / opening, 1.0)
    start = min(max(start, float(u_least)), float(near))
    # The strands part at the last node of the twist.
    node = int(start)
    while node > max(pin_end, start - 2 * half) and width[node - 1] <= width[node]:
        node -= 1
    return (float(node) if width[node] < 0.8 * least else start), least


@njit(cache=True)
def _close(values: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Fill dips of up to 2 `half` values."""
    n = len(values)
    wide, out = values.copy(), values.copy()
    for k in range(n):
        for i in range(max(k - half, 0), min(k + half + 1, n)):
            wide[k] = max(wide[k], values[i])
    for k in range(n):
        out[k] = wide[k]
        for i in range(max(k - half, 0), min(k + half + 1, n)):
            out[k] = min(out[k], wide[i])
    return out


@njit(cache=True)
def _valley(width: NDArray[np.float64], stop: int, start: int, most: float) -> tuple[int, float]:
    """From `start` down to `stop`: where the extent falls for good, and its largest value."""
    hold = max(3, len(width) // 60)  # a valley is not a notch between two ice spikes
    narrow = 0
    for u in range(start, stop - 1, -1):
        most = max(most, width[u])
        narrow = narrow + 1 if width[u] < VALLEY * most and most - width[u] >= 3.0 else 0
        if narrow >= hold or (narrow > 0 and u == stop):
            return u, most
    return -1, most


@njit(cache=True)
def _line_head(width: NDArray[np.float64], pin_end: int) -> float:
    """Start of a head that is hardly wider than its stem: a loop seen edge-on.

    Where the mean extent changes most, if it grows by 15 %; else, for want of anything to see,
    the middle of what there is beyond the pin. Without a pin in view all is head.
    """
    n = len(width)
    free = n - pin_end
    if not pin_end or free < 8:
        return float(pin_end)
    best, best_gain = float(pin_end + free // 2), 0.0
    for u in range(pin_end + max(free // 6, 4), n - max(free // 6, 4)):
        stem, head = float(np.mean(width[pin_end + 3 : u])), float(np.mean(width[u:]))
        gain = (head - stem) * math.sqrt((u - pin_end) * (n - u))
        if head > 1.15 * stem and gain > best_gain:
            best, best_gain = float(u), gain
    return best


@njit(cache=True)
def _fall_to(width: NDArray[np.float64], valley: int, level: float) -> int:
    """Return the u next to the head from which on its extent stays above `level`.

    Sought from the head, as twists of the stem may be above it too.
    """
    u = valley
    while u > 0 and width[u - 1] > level:
        u -= 1
    while u < len(width) - 1 and width[u] <= level:
        u += 1
    return u
