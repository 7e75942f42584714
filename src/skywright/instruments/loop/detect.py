"""The classical detector: pin side, tip, box, width, class and score from one picture."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skywright.errors import DataError
from skywright.instruments.loop.background import Field, estimate_field
from skywright.instruments.loop.choose import Choice, choose
from skywright.instruments.loop.closer import window_around
from skywright.instruments.loop.detection import DARK_LEVEL, FLAT_RANGE, Corners, Detection
from skywright.instruments.loop.head_net import Head, middle_of_pin, settled, settled_across
from skywright.instruments.loop.kind_crop import crop
from skywright.instruments.loop.light import quantile
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.pin_end import (
    has_end_face,
    is_cut,
    last_section,
    middle_at_end,
    settled_middle,
)
from skywright.instruments.loop.refine import find_end, find_limit
from skywright.instruments.loop.silhouette import Outline
from skywright.instruments.loop.tip_net import tip_of, view_end

MIN_SCORE = 0.4  # below it nothing is reported but the score
SURE_SCORE = 0.93  # of what is only seen when looking closer
LAST_PART = 0.025  # of its width: so long is the end of a thing that may leave sideways
OUTLINE_ERROR_PX = 0.7  # of an edge of the head beside its axis
TIP_ERROR_PX = 1.5  # of the tip along the axis
BASE_REACH = 0.04  # of the frame: what is broad and reaches less far shows no end
NAN = float("nan")


def find_loop(gray: NDArray[np.uint8]) -> Detection:
    """Find the sample mount in a picture, whatever border it enters through.

    Parameters
    ----------
    gray
        (H, W) uint8 picture, at least 32 x 32.

    Returns
    -------
    Detection

    Raises
    ------
    DataError
        If `gray` is not such an array.
    """
    if gray.ndim != 2 or gray.dtype != np.uint8 or min(gray.shape) < 32:
        raise DataError(
            f"picture: array of shape {gray.shape} and type {gray.dtype}, expected (H, W) uint8 of "
            "at least 32 x 32; decode it with skywright.instruments.loop.picture"
        )
    gray = np.require(gray, requirements=["C", "W"])  # kernels are compiled for one kind of array
    field, objects, choice = _choose(gray)
    found = None
    if choice is not None and not _is_only_a_base(field, choice):
        look = _describe if choice.score >= MIN_SCORE else _look_closer
        found = look(gray, field, choice)
    return found or _nothing(field, choice, objects)


def _choose(gray: NDArray[np.uint8]) -> tuple[Field, bool, Choice | None]:
    """Return the light of a picture, whether there is any object in it, and the mount."""
    field, labels, stats = find_objects(estimate_field(gray))
    return field, bool(stats[:, 1].any()), choose(gray, field, labels, stats)


def _look_closer(gray: NDArray[np.uint8], field: Field, choice: Choice) -> Detection | None:
    """Look at a part of the picture in which what is improbable, for it is small, is larger.

    The networks see a picture at a small size. None unless the part surely shows a mount there.
    """
    window = window_around(field, choice.outline)
    if window is None:
        return None
    x0, y0, x1, y1 = window
    part = np.ascontiguousarray(gray[y0:y1, x0:x1])
    seen, _, closer = _choose(part)
    if closer is None or closer.score < SURE_SCORE or closer.outline.side != choice.outline.side:
        return None
    found = _describe(part, seen, closer)
    if not found.tip_in_view:
        return None
    return replace(
        found.moved(x0, y0),
        level=field.level,
        saturated=field.saturated,
        sharpness=field.sharpness,
        noise=field.noise,
    )


def warm_up() -> None:
    """Compile (or load from the cache) everything that `find_loop` runs."""
    y, x = np.mgrid[0:240, 0:320]
    ring = np.abs(np.hypot(x - 160.0, y - 120.0) - 30) < 3
    stem = (np.abs(y - 120) < 3) & (x < 130) & (np.abs(x - 90) > 6)  # in two parts
    pin = (np.abs(y - 120) < 25) & (x < 60)
    gray = np.where(ring | stem | pin, 60, 200).astype(np.uint8)
    # Kernels are compiled for each memory layout, which differs from side to side, and is another
    # for the part inside a border.
    for turned in (gray, gray[:, ::-1], gray.T, gray.T[::-1]):
        find_loop(turned)
        find_loop(np.pad(turned, 4))


def _nothing(field: Field, choice: Choice | None, objects: bool) -> Detection:
    """Say that there is no mount, and whether there was light to see one."""
    dark = field.level < DARK_LEVEL
    flat = not objects and (
        dark or field.level > 252 or field.light_range + field.noise < FLAT_RANGE
    )
    base = choice is not None and _is_only_a_base(field, choice)
    return Detection(
        tip_x=NAN,
        tip_y=NAN,
        bbox=None,
        kind="none",
        kind_odds=0.0,
        width=NAN,
        side=choice.outline.side if choice is not None and base else None,
        score=choice.score if choice else 0.0,
        pin_base_x=NAN,
        pin_base_y=NAN,
        fiber_width=NAN,
        clipped=False,
        tip_in_view=False,
        tip_sign="-" if base else "+",
        level=field.level,
        saturated=field.saturated,
        contrast=quantile(field.strength[::4, ::4], 0.999),
        sharpness=field.sharpness,
        noise=field.noise,
        flat=flat,
    )


def _is_only_a_base(field: Field, choice: Choice) -> bool:
    """Tell a retracted mount: something broad that hardly enters, so that its end is not told."""
    outline = choice.outline
    root = outline.contact / outline.across
    return (
        choice.plain
        and not outline.far
        and outline.reach < BASE_REACH * len(outline.low)
        and 0.04 < root < 0.9
        and outline.cut <= 2 * outline.reach
        and choice.contrast > 10.0 * field.noise
    )


def _leaves_sideways(outline: Outline) -> bool:
    """Tell a thing that leaves the frame through a lateral border before it comes to its end."""
    usual = quantile(outline.width, 0.9)
    last = slice(max(outline.reach - max(2, round(LAST_PART * usual)), 0), outline.reach)
    touches = (outline.low[last] <= 0).any() or (outline.high[last] >= outline.across - 1).any()
    # The end face of a pin may cross that border, ragged as it may be; a loop gets narrower.
    return bool(touches) and outline.width[last].max() < 0.5 * usual


def _describe(gray: NDArray[np.uint8], field: Field, choice: Choice) -> Detection:
    """Measure the chosen mount at full resolution."""
    outline, parts, step = choice.outline, choice.parts, field.step_px
    frame = _Frame(field, outline.side)
    edge = find_end(gray, field, outline)
    end = edge.u, edge.v
    n = outline.reach
    start = measured = min(float(parts.head_start), n - 1.0)
    if choice.kind == "pin":
        section = last_section(outline)
        measured = max(start, section.first)
        middle = middle_at_end(outline, section) if has_end_face(outline, section) else edge.v
        if not section.first and not is_cut(outline, section):
            said = middle_of_pin(crop(gray, outline, parts, field))
            middle = settled_middle(middle * step, said) / step
        end = edge.u, middle
    v0, v1 = (find_limit(gray, field, outline, what, measured) for what in ("low", "high"))
    sees_tip = not outline.far and not _leaves_sideways(outline)
    if choice.head is not None:
        head, seen = choice.head, (v0 * step, v1 * step)
        v0, v1 = (v / step for v in settled_across(seen, OUTLINE_ERROR_PX, head))
        u_tip = settled(end[0] * step, TIP_ERROR_PX, head.tip, float(head.errors[1]))
        end = u_tip / step, end[1]
        if sees_tip and edge.strength:
            at_end = view_end(gray, field, outline, parts.head_start, head, edge, u_tip)
            u_tip, v_tip = tip_of(at_end)
            end = u_tip / step, v_tip / step
    u_end = end[0] if sees_tip else float(n)
    tip = frame.xy(u_end, end[1]) if sees_tip else (NAN, NAN)
    box = None
    if choice.kind != "pin" or sees_tip:
        box = frame.box(start, u_end, v0, v1)
    base = (NAN, NAN)
    pin_end = parts.pin_end if choice.kind != "pin" else u_end
    if not math.isnan(pin_end) and pin_end > 0:
        u = min(int(pin_end), n - 1)
        base = frame.xy(pin_end, 0.5 * (outline.low[u] + outline.high[u]) + 0.5)
    head_box = head_errors = None
    if choice.head is not None and sees_tip:
        head_box, head_errors = _box_of(choice.head, frame)
    return Detection(
        tip_x=tip[0],
        tip_y=tip[1],
        bbox=box,
        kind=choice.kind,
        kind_odds=choice.kind_odds,
        width=(v1 - v0) * step,
        side=outline.side,
        score=choice.score,
        pin_base_x=base[0],
        pin_base_y=base[1],
        fiber_width=parts.stem_width * step,
        clipped=outline.far or outline.cut > 1,
        tip_in_view=sees_tip,
        tip_sign="" if sees_tip else "+",
        level=field.level,
        saturated=field.saturated,
        contrast=choice.contrast,
        sharpness=field.sharpness,
        noise=field.noise,
        flat=False,
        head_box=head_box,
        head_errors=head_errors,
    )


def _box_of(head: Head, frame: "_Frame") -> tuple[Corners, Corners]:
    """Return the box that the network has for the head, and its errors."""
    step = frame.field.step_px
    neck, tip, low, high = (float(error) for error in head.errors)
    errors = {
        "left": (neck, low, tip, high),
        "right": (tip, low, neck, high),
        "top": (low, neck, high, tip),
        "bottom": (low, tip, high, neck),
    }[frame.side]
    return frame.box(head.neck / step, head.tip / step, head.low / step, head.high / step), errors


class _Frame:
    """From (u, v) of an outline, edges of field pixels at whole numbers, to picture x, y."""

    def __init__(self, field: Field, side: str) -> None:
        self.field, self.side = field, side

    def xy(self, u: float, v: float) -> tuple[float, float]:
        f, step = self.field, self.field.step_px
        if self.side == "left":
            x, y = f.x0_px + u * step, f.y0_px + v * step
        elif self.side == "right":
            x, y = f.x1_px - u * step, f.y0_px + v * step
        elif self.side == "top":
            x, y = f.x0_px + v * step, f.y0_px + u * step
        else:
            x, y = f.x0_px + v * step, f.y1_px - u * step
        return x - 0.5, y - 0.5

    def box(self, u0: float, u1: float, v0: float, v1: float) -> Corners:
        (xa, ya), (xb, yb) = self.xy(u0, v0), self.xy(u1, v1)
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)
