"""Which thing is the mount, through which border it enters, and how sure that is."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.background import Field
from skywright.instruments.loop.candidates import Thing, find_things
from skywright.instruments.loop.choice_net import look_again
from skywright.instruments.loop.classify import classify, measure
from skywright.instruments.loop.head_net import Head, settled
from skywright.instruments.loop.head_net import measure as measure_head
from skywright.instruments.loop.kind_crop import crop
from skywright.instruments.loop.light import quantile
from skywright.instruments.loop.parts import Parts, find_parts
from skywright.instruments.loop.seg_evidence import head_begins, without_strangers
from skywright.instruments.loop.seg_net import GRID, Map, look
from skywright.instruments.loop.silhouette import (
    Outline,
    seen_from,
    without_weak_edges,
    without_weak_end,
)
from skywright.instruments.loop.streaks import weigh_streaks
from skywright.instruments.loop.weights import EVIDENCE

SURE_HEAD = 0.6  # part of the mount that the network has for head somewhere, to be believed
NECK_ERROR = 0.05  # of the head's length: so well an outline tells where it begins
HEAD_CELLS, HEAD_ROOM = 2.0, 0.25  # cells, and part of the head's length, that both may differ by


@dataclass(frozen=True)
class Choice:
    """The mount.

    Attributes
    ----------
    outline, parts
        Its outline from the pin side and what it consists of.
    kind
        "nylon", "mitegen" or "pin".
    kind_odds
        Logarithm of the odds that it is right.
    score
        0..1.
    contrast
        Grey levels by which its darkest (or brightest) tenth differs from the light.
    plain
        It has no joint: neither a stem nor the end of a pin can be told.
    head
        Its head as a network measures it; None of a bare pin.
    """

    outline: Outline
    parts: Parts
    kind: str
    kind_odds: float
    score: float
    contrast: float
    plain: bool
    head: Head | None


def choose(
    gray: NDArray[np.uint8], field: Field, labels: NDArray[np.int32], stats: NDArray[np.int64]
) -> Choice | None:
    """Choose the most probable mount.

    The probability of each thing is that of a conditional logit: exp(w.e) over the sum of all
    things' and 1, which stands for "none of them"; e is its evidence, w the weights, and to w.e of
    rivals a network adds its say, to that of pins the streaks on them. The score takes the odds
    squared: what is improbable shall not look like half a mount.

    Parameters
    ----------
    gray : (H, W) uint8
    field, labels, stats
        From `skywright.instruments.loop.objects.find_objects`.

    Returns
    -------
    Choice or None
        None if there is no object at all.
    """
    masks = look(field)
    things = find_things(field, labels, stats, masks)
    if not things:
        return None
    by_evidence = np.array([log_odds(thing) for thing in things])
    weighed = weigh_streaks(field, masks, things, look_again(gray, field, things, by_evidence))
    odds = np.exp(np.minimum(weighed, 50.0))
    best = things[int(np.argmax(odds))]
    # Variants of one mount (with a neighbor, its core alone) all speak for it.
    side = best.outline.side
    same = np.array([t.outline.side == side and bool(t.objects & best.objects) for t in things])
    certain = (odds[same].sum() / (odds[~same].sum() + 1.0)) ** 2
    # Barely above the noise is barely seen.
    seen = best.contrast / (best.contrast + 3.0 * max(field.noise, 0.3))
    strength = seen_from(side, field.strength)
    mount = without_strangers(masks, best.outline)
    own = best.parts if mount is best.outline else find_parts(mount)
    cut = crop(gray, mount, own, field)
    kind, kind_odds = classify(measure(gray, mount, own, field), cut, masks)
    parts = _with_head(own, mount, masks)
    outline = without_weak_edges(mount, strength, int(parts.head_start))
    head = None
    if kind == "pin":
        light = quantile(field.light[::8, ::8], 0.5)
        outline = without_weak_end(outline, seen_from(side, field.deviation), light)
    else:
        if outline is not mount or parts is not own:
            cut = crop(gray, outline, parts, field)
        head = measure_head(cut)
        begun = parts.head_start * field.step_px
        error = NECK_ERROR * max(outline.reach * field.step_px - begun, 1.0)
        neck = settled(begun, error, head.neck, float(head.errors[0]))
        parts = _with_start(parts, outline, neck / field.step_px)
    return Choice(
        outline=outline,
        parts=parts,
        kind=kind,
        kind_odds=kind_odds,
        score=float(seen * certain / (certain + 1.0)),
        contrast=best.contrast,
        plain=bool(best.evidence["plain"]),
        head=head,
    )


def _with_head(parts: Parts, outline: Outline, seen: Map) -> Parts:
    """Let the head begin where the network has it, if that is elsewhere by far.

    The outline is the finer, but may take a drop for the head, or stem and pin for a part of it.
    """
    start, sure = head_begins(seen, outline)
    room = HEAD_CELLS * len(outline.low) / GRID[1] + HEAD_ROOM * (outline.reach - start)
    if not sure > SURE_HEAD or start < _pin_end(parts) or abs(start - parts.head_start) <= room:
        return parts
    return _with_start(parts, outline, start)


def _with_start(parts: Parts, outline: Outline, start: float) -> Parts:
    """Let the head begin elsewhere, beyond the pin and before the tip."""
    start = min(max(start, _pin_end(parts)), outline.reach - 1.0)
    first = int(start)
    return replace(parts, head_start=start, head_width=float(parts.width[first:].max()))


def _pin_end(parts: Parts) -> float:
    return 0.0 if math.isnan(parts.pin_end) else parts.pin_end


def log_odds(thing: Thing) -> float:
    """Sum up what speaks for a thing: log of its probability over that of there being none."""
    return sum(EVIDENCE[name] * value for name, value in thing.evidence.items())
