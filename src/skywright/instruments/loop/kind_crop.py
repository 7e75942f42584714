"""Two small pictures of a mount, turned and scaled alike, for the network of the kinds."""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.parts import Parts
from skywright.instruments.loop.silhouette import Outline

HEAD_PX, VIEW_PX = 64, 32  # side of the picture of the head, of head with stem and pin
VIEW_OF_HEAD = 3.0  # extent of the second over that of the first
ROOM, SLIM = 1.25, 6.0  # around the head; its length counts up to this multiple of its width
TIP_AT, VIEW_TIP_AT = 0.1, 0.3  # of the head's extent: what is seen beyond the tip
LEAST_EXTENT_PX = 16.0
MOST_SAMPLES = 4  # along and across, averaged for one pixel
MOST_STRENGTH = 2.5  # a reflection shall not drown the rest
USUAL_OVER_NOISE = 20.0
EXTRAS = ("extent", "over_noise", "sign", "of_light", "light", "noise")


@dataclass(frozen=True)
class Crop:
    """A mount with its pin at the left, whatever border it enters through.

    Attributes
    ----------
    head : (64, 64, 2) float32
        The head, tip at the right. First the picture minus light, over the usual strength of the
        head's strongest lines, -2.5..2.5; then the outline: 1 in the head, 0.5 in stem and pin, 0
        beside them, -1 out of the frame.
    view : (32, 32, 2) float32
        The same three times as far.
    extras : (6,) float32
        Size, contrast, light and noise, as in EXTRAS, each about -2..2.
    center : (u, v)
        Of the picture of the head, px from the pin's border and from that across.
    extent : float
        Side of that picture, px.
    """

    head: NDArray[np.float32]
    view: NDArray[np.float32]
    extras: NDArray[np.float32]
    center: tuple[float, float]
    extent: float


def crop(
    gray: NDArray[np.uint8], outline: Outline, parts: Parts, field: Field, margin: float = 1.0
) -> Crop:
    """Cut a mount out of a picture.

    Parameters
    ----------
    gray : (H, W) uint8
    outline, parts
        The mount.
    field
        Light and noise of the picture.
    margin
        Factor on the numbers of pixels; for training, which shifts and scales them after.

    Returns
    -------
    Crop
    """
    step, end = field.step_px, outline.reach
    start = min(int(parts.head_start), max(end - 3, 0))
    across, along = parts.head_width * step, (end - start) * step
    extent = max(ROOM * max(across, min(along, SLIM * across)), LEAST_EXTENT_PX)
    near = slice(max(end - max(int(extent / step), 1), 0), end)
    middle = 0.5 * (int(outline.low[near].min()) + int(outline.high[near].max()) + 1) * step

    def cut(count: int, part: float, beyond: float) -> NDArray[np.float32]:
        n = round(margin * count)
        at = end * step + (beyond - 0.5 * part) * extent, middle
        return sample(gray, outline, start, field, at, part * extent / count, (n, n))

    head = cut(HEAD_PX, 1.0, TIP_AT)
    view = cut(VIEW_PX, VIEW_OF_HEAD, VIEW_TIP_AT)
    noise = max(field.noise, 0.3)
    room = (len(head) - HEAD_PX) // 2
    inner = head[room : room + HEAD_PX, room : room + HEAD_PX]
    strength, sign = _strength(np.ascontiguousarray(inner), max(3.0 * noise, 2.0))
    light = max(float(field.light[:: 1 + len(field.light) // 8, ::8].mean()), 1.0)
    for part in (head, view):
        seen = part[:, :, 0]
        np.clip(seen / np.float32(strength), -MOST_STRENGTH, MOST_STRENGTH, out=seen)
    extras = (
        math.log(extent / 120.0),
        math.log(strength / noise / USUAL_OVER_NOISE),
        sign / strength,
        min(strength / light, 3.0),
        math.log(light / 100.0),
        math.log(noise),
    )
    center = end * step + (TIP_AT - 0.5) * extent, middle
    return Crop(head, view, np.array(extras, np.float32), center, extent)


def sample(
    gray: NDArray[np.uint8],
    outline: Outline,
    start: int,
    field: Field,
    middle: tuple[float, float],
    pitch: float,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Cut a piece out of a picture, the pin at its left.

    Parameters
    ----------
    gray : (H, W) uint8
    outline
        The mount.
    start
        u where its head begins, pixels of the field.
    field
        Light of the picture.
    middle
        u, v of the piece's middle, px from the pin's border and from that across.
    pitch
        Pixels of the picture for one of the piece.
    shape
        Rows (across) and columns (along) of the piece.

    Returns
    -------
    (rows, columns, 2) float32
        The picture minus light, grey levels; the outline as in `Crop`.
    """
    out = np.empty((*shape, 2), np.float32)
    turn, end, step = _turn(outline.side, field), outline.reach, field.step_px
    limits = field.light, outline.low, outline.high, turn, start, end, step
    _sample(gray, *limits, *middle, pitch, out)
    return out


def _turn(side: str, field: Field) -> NDArray[np.int64]:
    """Return x, y at u = v = 0, the steps of x and y for one of u and of v, the limits of u, v."""
    x0, y0, x1, y1 = field.x0_px, field.y0_px, field.x1_px, field.y1_px
    lying = side in ("left", "right")
    limits = (x1 - x0, y1 - y0) if lying else (y1 - y0, x1 - x0)
    first = {
        "left": (x0, y0, 1, 0, 0, 1),
        "right": (x1 - 1, y0, -1, 0, 0, 1),
        "top": (x0, y0, 0, 1, 1, 0),
        "bottom": (x0, y1 - 1, 0, -1, 1, 0),
    }[side]
    return np.array((*first, *limits, x0, y0), np.int64)


@njit(cache=True)
def _sample(
    gray: NDArray[np.uint8],
    light: NDArray[np.float32],
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    turn: NDArray[np.int64],
    start: int,
    end: int,
    step: int,
    u_mid: float,
    v_mid: float,
    pitch: float,
    out: NDArray[np.float32],
) -> None:
    """Fill out (h, w, 2) around (u_mid, v_mid): the mean of pixels minus light, and the outline."""
    h, w = out.shape[0], out.shape[1]
    x0, y0, ux, uy, vx, vy, most_u, most_v, left, top = turn
    samples = min(max(int(pitch + 0.5), 1), MOST_SAMPLES)
    us, at_u, part_u = _places(w, u_mid, pitch, samples, most_u)
    vs, at_v, part_v = _places(h, v_mid, pitch, samples, most_v)
    # Pixels in a row, and the steps from one to the next along u and v.
    line = gray.shape[1]
    pixels = gray.reshape(gray.size)
    first, along, over = y0 * line + x0, uy * line + ux, vy * line + vx
    for i in range(h):
        v = vs[i]
        for j in range(w):
            u = us[j]
            if u < 0 or v < 0 or u >= most_u or v >= most_v:
                out[i, j, 0], out[i, j, 1] = 0.0, -1.0
                continue
            total = 0.0
            for a in range(i * samples, (i + 1) * samples):
                fv, row = part_v[a], first + over * at_v[a]
                for b in range(j * samples, (j + 1) * samples):
                    fu, at = part_u[b], row + along * at_u[b]
                    near = (1 - fu) * pixels[at] + fu * pixels[at + along]
                    far = (1 - fu) * pixels[at + over] + fu * pixels[at + over + along]
                    total += (1 - fv) * near + fv * far
            x, y = x0 + ux * int(u) + vx * int(v), y0 + uy * int(u) + vy * int(v)
            row = min((y - top) // step, light.shape[0] - 1)
            column = min((x - left) // step, light.shape[1] - 1)
            out[i, j, 0] = total / (samples * samples) - light[row, column]
            at, across = int(u) // step, int(v) // step
            inside = at < end and low[at] <= across <= high[at]
            out[i, j, 1] = (1.0 if at >= start else 0.5) if inside else 0.0


@njit(cache=True)
def _places(
    count: int, middle: float, pitch: float, samples: int, most: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Middles of pixels along one axis; of each of their samples the pixel before it, and how far.

    Samples beyond a border are taken at it.
    """
    middles = np.empty(count, np.float64)
    middles[:] = middle + (np.arange(count) + 0.5 - 0.5 * count) * pitch
    before = np.empty(count * samples, np.int64)
    part = np.empty(count * samples)
    for i in range(count):
        for a in range(samples):
            place = middles[i] + ((a + 0.5) / samples - 0.5) * pitch - 0.5
            place = min(max(place, 0.0), most - 1.001)
            before[i * samples + a] = int(place)
            part[i * samples + a] = place - int(place)
    return middles, before, part


@njit(cache=True)
def _strength(head: NDArray[np.float32], least: float) -> tuple[float, float]:
    """Median over the head's columns of the largest difference from the light; the mean of all."""
    n = head.shape[0]
    peaks = np.zeros(n)
    columns, count, total = 0, 0, 0.0
    for j in range(n):
        most = -1.0
        for i in range(n):
            if head[i, j, 1] == 1.0:
                most = max(most, abs(head[i, j, 0]))
                total += head[i, j, 0]
                count += 1
        if most >= 0.0:
            peaks[columns] = most
            columns += 1
    if not columns:
        return least, 0.0
    return max(np.median(peaks[:columns]), least), total / count
