"""Fit the weights of the evidence: ``python tools/fit_loop_weights.py OUT.py [MORE.pkl ...]``.

Renders scenes of the twin that the network of the masks was not trained on, plain and spoiled ones,
collects the evidence on every thing in every picture and fits a conditional logit over the things
of a picture and "none of them" by maximum likelihood. A thing is right when it enters through the
true side and ends within 14 px of the true tip along the axis. A ridge pulls to the present
weights, so that what was learned from scenes no longer at hand is kept.

MORE.pkl are pickles of lists of (gray (H, W) uint8, truth dict) from other renderers or of
annotated pictures; truth has kind, side, tip and ctip (x, y) or None (out of view), and box.
Development seeds only: the accuracy test and the validation of the reference page use others.
"""

import pickle
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from scipy.optimize import minimize

from skywright.instruments.loop.background import estimate_field
from skywright.instruments.loop.candidates import Thing, find_things
from skywright.instruments.loop.objects import find_objects
from skywright.instruments.loop.seg_evidence import NETWORK
from skywright.instruments.loop.seg_net import look
from skywright.instruments.loop.twin.render import render
from skywright.instruments.loop.twin.scene import random_scene
from skywright.instruments.loop.twin.trajectory import Pose
from skywright.instruments.loop.weights import EVIDENCE

SEEDS = (*range(890_000, 890_900), *range(891_000, 891_400))
SPOILED_SEEDS, EMPTY_EVERY = range(895_000, 895_400), 12
RIDGE = 1e-2  # per square of a weight times its number's scatter
RIDGE_NETWORK = 3e-3  # for evidence of the network of masks, which is to lead
EMPTY_WEIGHT = 4.0  # a false tip drives a stage
NEAR_PX = 14.0
LEAST_SCATTER = 1e-2
Truth = dict[str, Any]


def main() -> int:
    """Fit and write the constants."""
    out, *more = sys.argv[1:]
    pictures = []
    for gray, truth in scenes(more):
        field, labels, stats = find_objects(estimate_field(gray))
        things = find_things(field, labels, stats, look(field))
        if things:
            right = [is_right(thing, field, truth, gray.shape) for thing in things]
            pictures.append((things, right, truth["kind"] == "none"))
    Path(out).write_text(source(fit_evidence(pictures)))
    return 0


def scenes(more: list[str]) -> Iterator[tuple[NDArray[np.uint8], Truth]]:
    """Yield pictures and truths of plain scenes and of spoiled ones, then those of files."""
    from seg_scenes import pictures_of, unpacked

    yield from twin_scenes(seed for seed in SEEDS if seed % EMPTY_EVERY)
    yield from twin_scenes((seed for seed in SEEDS if seed % EMPTY_EVERY == 0), "none")
    for seed in SPOILED_SEEDS:
        yield unpacked(pictures_of(seed)[1])
    for name in more:
        for gray, truth, *_ in pickle.loads(Path(name).read_bytes()):
            yield gray, truth


def twin_scenes(
    seeds: Iterable[int], kind: str | None = None
) -> Iterator[tuple[NDArray[np.uint8], Truth]]:
    """Yield pictures and truths of the twin, of one kind if that is given."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, **({"kind": kind} if kind else {}))
        frame = render(scene, Pose(phi_deg=float(rng.uniform(0, 360))), frame_seed=seed)
        t = frame.truth
        if t.tip_covered:
            continue
        color = np.atleast_3d(frame.image)
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(color),
            quality=scene.optics.jpeg_quality,
            colorspace="RGB" if color.shape[2] == 3 else "GRAY",
        )
        gray = simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0]
        tip = t.tip_px if t.tip_in_view else None
        yield gray, {"kind": t.kind, "side": t.side, "tip": tip, "ctip": t.crystal_tip_px}


def is_right(thing: Thing, field: Any, truth: Truth, shape: tuple[int, ...]) -> bool:
    """Tell whether a thing is the mount, or of a mount beyond the frame, reaches as far."""
    outline, step = thing.outline, field.step_px
    if truth["kind"] == "none" or outline.side != truth["side"]:
        return False
    if truth["tip"] is None:
        return outline.far
    u, k = outline.reach * step, outline.reach - 1
    v = 0.5 * (outline.low[k] + outline.high[k] + 1) * step
    along = {
        "left": (field.x0_px + u, 0),
        "right": (field.x1_px - u, 0),
        "top": (field.y0_px + u, 1),
        "bottom": (field.y1_px - u, 1),
    }
    place, axis = along[outline.side]
    over = v + (field.y0_px if axis == 0 else field.x0_px)
    # The tip across is refined later, and hardly defined for a bare pin.
    room = np.inf if truth["kind"] == "pin" else 25 + 0.15 * thing.parts.head_width * step
    tips = [tip for tip in (truth["tip"], truth.get("ctip")) if tip is not None]
    return not outline.far and any(
        abs(place - tip[axis]) < NEAR_PX and abs(over - tip[1 - axis]) < room for tip in tips
    )


def fit_evidence(pictures: list[tuple[list[Thing], list[bool], bool]]) -> dict[str, float]:
    """Maximize the probability of the right things, or of none in pictures without a mount."""
    kept = [p for p in pictures if any(p[1]) or p[2]]
    names = list(kept[0][0][0].evidence)
    x = np.array([list(t.evidence.values()) for things, _, _ in kept for t in things])
    right = np.concatenate([np.array(ok, bool) for _, ok, _ in kept])
    segment = np.repeat(np.arange(len(kept)), [len(things) for things, _, _ in kept])
    n = len(kept)
    share = np.array([EMPTY_WEIGHT if empty else 1.0 for _, _, empty in kept]) / n
    some = np.bincount(segment, right, n) > 0
    present = np.array([EVIDENCE.get(name, 0.0) for name in names])
    scatter = x.std(axis=0) + LEAST_SCATTER
    ridge = np.array([RIDGE_NETWORK if name in NETWORK else RIDGE for name in names])

    def loss(change: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = np.exp(np.clip(x @ (present + change / scatter), -60, 60))
        total = np.bincount(segment, odds, n) + 1.0
        good = np.where(some, np.bincount(segment, odds * right, n), 1.0)
        pull = np.where(some[segment], odds * right / good[segment], 0) - odds / total[segment]
        value = -share @ np.log(good / total) + 0.5 * change @ (ridge * change)
        return value, -x.T @ (share[segment] * pull) / scatter + ridge * change

    best = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B")
    return dict(zip(names, (present + best.x / scatter).tolist(), strict=True))


def source(evidence: dict[str, float]) -> str:
    """Write the module of constants."""
    lines = [
        '"""Weights of the detector, fitted by `tools/fit_loop_weights.py`; not by hand."""',
        "",
        "EVIDENCE: dict[str, float] = {",
        *(f'    "{name}": {value:.2f},' for name, value in evidence.items()),
        "}",
        '"""In the log odds of a thing against there being no mount."""',
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
