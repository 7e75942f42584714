"""A small network that says where the end of a head is, across and along.

Trained by `tools/train_tip_net.py` on scenes of the twin. Three convolutions look at the end of a
loop or mount, line by line across; what they see of each line, beside how far the edge comes there,
goes through three more along the end. It tells the longest spike of ice from those beside it, the
film from a rim, and what is before the end from the end.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.head_net import Head
from skywright.instruments.loop.kind_crop import MOST_STRENGTH, sample
from skywright.instruments.loop.layers import Layer, through
from skywright.instruments.loop.refine import PROFILE_LEVELS, End
from skywright.instruments.loop.silhouette import Outline

LINES, COLUMNS, BEYOND = 64, 40, 8  # across, along, and of these beyond the end
ROOM = 1.2  # around what the end of the outline covers
END_PART, LEAST_END = 0.6, 4  # of the head's width; pixels of the field: so long is the end
LEAST_HEAD_PX, LEAST_EXTENT_PX = 12.0, 16.0
FAINT_NOISES, FAINT_RANGE, LEAST_NOISE = 1.5, 4.0, 0.3
NO_EDGE_PX = -400.0
FINE_PX, PROFILE_RANGE = 2.0, 3.0  # profiles: so far behind is about 1; and scaled by that
SPOT_LINES = 1.5  # sigma of what marks a place across
NEAR_PX, LEAST_NEAR = 7.8, 1.04  # px and lines about the likeliest place that are averaged
APART = (1, 2, 4)  # lines between those that are joined
SAME_PX, SAME_LINES = 3.0, 1.0  # so near each other edge and network mean the same end


@dataclass(frozen=True)
class EndView:
    """What the network sees of the end of a head, the pin at the left.

    Attributes
    ----------
    picture : (64, 40, 3) float32
        Picture minus light over its strength at the edge, -2.5..2.5; the outline, as in
        `skywright.instruments.loop.kind_crop.Crop`; the picture minus light over the noise, large
        values compressed.
    numbers : (64, 12) float32
        Of each line: by how much its edge falls short of the farthest at each level of
        `refine.PROFILE_LEVELS`, by px and by lines, and whether it has none; marks at the end by
        the outline and at the head's limits by the network of the head; size and contrast.
    tip_px, edge_px
        Where the end was looked for along, px from the pin's border, and where across the edge has
        it, px from the border across.
    middle_px
        Middle of the picture across.
    pitch_px
        Pixels between lines, and between columns.
    """

    picture: NDArray[np.float32]
    numbers: NDArray[np.float32]
    tip_px: float
    edge_px: float
    middle_px: float
    pitch_px: float


class TipNetwork(NamedTuple):
    """Convolutions of the picture, then those across, and the last layer."""

    picture: tuple[Layer, ...]
    lines: tuple[Layer, ...]
    last: NDArray[np.float32]
    last_bias: NDArray[np.float32]


def view_end(
    gray: NDArray[np.uint8],
    field: Field,
    outline: Outline,
    head_start: float,
    head: Head,
    end: End,
    tip_px: float,
) -> EndView:
    """Cut the end of a head out of a picture.

    Parameters
    ----------
    gray : (H, W) uint8
    field, outline
        Light and noise of the picture; the mount.
    head_start
        u where the head begins, pixels of the field.
    head, end
        What the network of the head and the edge say.
    tip_px
        u of the tip by both, px.

    Returns
    -------
    EndView
    """
    step, reach = field.step_px, outline.reach
    start = max(min(int(head_start), reach - 3), 0)
    low, high = _limits(outline, start)
    width = max((high - low) * step, LEAST_HEAD_PX)
    low, high = _limits(outline, max(reach - max(int(END_PART * width / step), LEAST_END), 0))
    middle = 0.5 * (low + high) * step
    pitch = max(ROOM * (high - low) * step, LEAST_EXTENT_PX) / LINES
    at = tip_px + (BEYOND - 0.5 * COLUMNS) * pitch, middle
    seen = sample(gray, outline, start, field, at, pitch, (LINES, COLUMNS))
    edge, noise = end.v * step, max(field.noise, LEAST_NOISE)
    by_strength = np.clip(seen[:, :, 0] / end.strength, -MOST_STRENGTH, MOST_STRENGTH)
    by_noise = np.arcsinh(seen[:, :, 0] / (FAINT_NOISES * noise)) / FAINT_RANGE

    numbers = []
    for level, profile in enumerate(_profiles(end, tip_px, middle, pitch)):
        none = np.isnan(profile)
        top = 0.0 if none.all() else np.nanmax(profile)
        behind = np.where(none, NO_EDGE_PX, profile - top)
        numbers += [np.arcsinh(behind / unit) / PROFILE_RANGE for unit in (FINE_PX, pitch)]
        if level == 0:
            numbers.append(none)
    numbers += [
        _spot((edge - middle) / pitch),
        np.full(LINES, math.log(pitch)),
        np.full(LINES, math.log(end.strength / noise) / PROFILE_RANGE),
        *(_spot((v - middle) / pitch) for v in (head.low, head.high)),
    ]
    return EndView(
        picture=np.stack([by_strength, seen[:, :, 1], by_noise], 2).astype(np.float32),
        numbers=np.stack(numbers, 1).astype(np.float32),
        tip_px=tip_px,
        edge_px=edge,
        middle_px=middle,
        pitch_px=pitch,
    )


def tip_of(seen: EndView) -> tuple[float, float]:
    """Say where the tip is, by the edge unless the network has it elsewhere.

    The edge is the finer where both mean the same place: it stands up to `SAME_PX` and `SAME_LINES`
    from the network's, at twice as far the network's counts alone.

    Parameters
    ----------
    seen
        From `view_end`.

    Returns
    -------
    tuple of float
        u, v in px from the pin's border and from that across.
    """
    edge, said = np.array([seen.tip_px, seen.edge_px]), np.array(locate(seen))
    same = max(SAME_PX, SAME_LINES * seen.pitch_px)
    part = min(max(float(np.hypot(*(said - edge))) / same - 1.0, 0.0), 1.0)
    u, v = edge + part * (said - edge)
    return float(u), float(v)


def locate(seen: EndView) -> tuple[float, float]:
    """Say where the end is.

    Parameters
    ----------
    seen
        From `view_end`.

    Returns
    -------
    tuple of float
        u, v in px from the pin's border and from that across.
    """
    net = network()
    maps = through(net.picture, seen.picture)
    by_line = maps.transpose(0, 2, 1).reshape(LINES, -1)
    lines = np.concatenate([by_line, seen.numbers], 1, dtype=np.float32)[:, None, :]
    lines = through(net.lines[:1], lines)
    for layer in net.lines[1:]:
        lines = lines + through((layer,), lines)
    # Sums without BLAS: the same bits on any machine.
    sums, along = ((lines[:, 0, :, None] * net.last).sum(1) + net.last_bias).astype(np.float64).T
    chance = np.exp(sums - sums.max())
    chance /= chance.sum()
    u = seen.tip_px + float((chance * along).sum()) * seen.pitch_px
    return u, seen.middle_px + (_likeliest(chance, seen.pitch_px) - 0.5 * LINES) * seen.pitch_px


def _likeliest(chance: NDArray[np.float64], pitch_px: float) -> float:
    """Mean of the lines about the one near which the end is likeliest."""
    places = np.arange(LINES) + 0.5
    near = max(NEAR_PX / pitch_px, LEAST_NEAR)
    apart = np.abs(places[:, None] - places)
    weights = chance * np.clip(1.0 - apart / near, 0.0, 1.0)
    best = weights[int(weights.sum(1).argmax())]
    return float((best * places).sum() / best.sum())


@lru_cache(maxsize=1)
def network() -> TipNetwork:
    """Load the weights that come with the package, stored with half the digits."""
    with files("skywright.instruments.loop").joinpath("tip_net.npz").open("rb") as file:
        arrays = {key: array.astype(np.float32) for key, array in np.load(file).items()}

    def layer(name: str, stride: tuple[int, int], apart: int) -> Layer:
        return Layer(arrays[f"{name}_kernel"], arrays[f"{name}_bias"], stride, apart)

    return TipNetwork(
        picture=tuple(layer(f"picture{k}", (1, 2), 1) for k in range(3)),
        lines=tuple(layer(f"lines{k}", (1, 1), apart) for k, apart in enumerate(APART)),
        last=arrays["last_kernel"],
        last_bias=arrays["last_bias"],
    )


def _limits(outline: Outline, start: int) -> tuple[int, int]:
    """First v of an outline from a u on, and the one behind its last, pixels of the field."""
    u = slice(start, outline.reach)
    return int(outline.low[u].min()), int(outline.high[u].max()) + 1


def _profiles(end: End, tip_px: float, middle_px: float, pitch_px: float) -> NDArray[np.float64]:
    """Bring the profiles of an end to lines, px from the tip: (3, 64), NaN where there is none.

    The farthest row of each line, or the one at it where lines are closer than rows.
    """
    out = np.full((len(PROFILE_LEVELS), LINES), np.nan)
    rows = end.profiles.shape[1]
    first = middle_px - 0.5 * LINES * pitch_px
    if pitch_px < 1.0:
        row = np.rint(first + (np.arange(LINES) + 0.5) * pitch_px - 0.5 - end.first_px).astype(int)
        there = (row >= 0) & (row < rows)
        out[:, there] = end.profiles[:, row[there]]
    else:
        line = np.floor((end.first_px + np.arange(rows) + 0.5 - first) / pitch_px).astype(int)
        for k, profile in enumerate(end.profiles):
            some = (line >= 0) & (line < LINES) & ~np.isnan(profile)
            np.fmax.at(out[k], line[some], profile[some])
    return out - tip_px


def _spot(lines: float) -> NDArray[np.float64]:
    """Mark a place by its distance in lines from the middle."""
    places = np.arange(LINES) + 0.5 - 0.5 * LINES
    return np.exp(-0.5 * ((places - lines) / SPOT_LINES) ** 2)
