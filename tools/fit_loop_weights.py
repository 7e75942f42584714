"""Fit the weights of the loop detector: ``python tools/fit_loop_weights.py OUT.py [MORE.pkl ...]``.

``--evidence`` before OUT.py: the evidence alone, on scenes that the network of the masks was not
trained on, plain and spoiled ones.

Renders development scenes of the twin, collects the evidence on every thing in every picture and
the looks of every mount, and fits two small models by maximum likelihood. A ridge pulls them to
the present weights, so that what was learned from scenes no longer at hand is kept:

* EVIDENCE: a conditional logit over the things of a picture and "none of them". A thing is right
  when it enters through the true side and ends within 14 px of the true tip along the axis.
* LOOKS: a softmax over nylon, mitegen and pin over the things that are right, each class with the
  root of its number as total weight.

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

from skywright.loop.background import estimate_field
from skywright.loop.candidates import Thing, find_things
from skywright.loop.choose import log_odds
from skywright.loop.classify import measure
from skywright.loop.kind_crop import crop
from skywright.loop.objects import find_objects
from skywright.loop.seg_evidence import NETWORK
from skywright.loop.seg_net import look
from skywright.loop.twin.render import render
from skywright.loop.twin.scene import random_scene
from skywright.loop.twin.trajectory import Pose
from skywright.loop.weights import EVIDENCE, LOOKS

SEEDS = (*range(1000, 1500), *range(20000, 21200))
EMPTY_SEEDS = range(11000, 11080)
FRESH_SEEDS = (*range(890_000, 890_900), *range(891_000, 891_400))
SPOILED_SEEDS, EMPTY_EVERY = range(895_000, 895_400), 12
RIDGE_EVIDENCE, RIDGE_LOOKS = 1e-2, 2e-2  # per square of a weight times its number's scatter
RIDGE_NETWORK = 3e-3  # for evidence of the network of masks, which is to lead
EMPTY_WEIGHT = 4.0  # a false tip drives a stage
NEAR_PX = 14.0
LEAST_SCATTER = 1e-2
KINDS = ("nylon", "mitegen", "pin")
Truth = dict[str, Any]


def main() -> int:
    """Fit and write the constants."""
    alone = sys.argv[1] == "--evidence"
    out, *more = sys.argv[2:] if alone else sys.argv[1:]
    pictures, looks = [], []
    for gray, truth in fresh_scenes(more) if alone else scenes(more):
        field, labels, stats = find_objects(estimate_field(gray))
        seen = look(field)
        things = find_things(field, labels, stats, seen)
        if not things:
            continue
        right = [is_right(thing, field, truth, gray.shape) for thing in things]
        pictures.append((things, right, truth["kind"] == "none"))
        if truth["kind"] in KINDS and any(right) and not alone:
            best = max((t for t, ok in zip(things, right, strict=True) if ok), key=log_odds)
            cut = crop(gray, best.outline, best.parts, field)
            numbers = measure(gray, best.outline, best.parts, field, seen, cut)
            looks.append((truth["kind"], numbers))
    evidence = fit_evidence(pictures)
    kinds = LOOKS if alone else fit_looks(looks)
    Path(out).write_text(source(evidence, kinds))
    return 0


def fresh_scenes(more: list[str]) -> Iterator[tuple[NDArray[np.uint8], Truth]]:
    """Yield pictures and truths of plain scenes and of spoiled ones, then those of files."""
    from seg_scenes import pictures_of, unpacked

    yield from twin_scenes(seed for seed in FRESH_SEEDS if seed % EMPTY_EVERY)
    yield from twin_scenes((seed for seed in FRESH_SEEDS if seed % EMPTY_EVERY == 0), "none")
    for seed in SPOILED_SEEDS:
        yield unpacked(pictures_of(seed)[1])
    yield from of_files(more)


def scenes(more: list[str]) -> Iterator[tuple[NDArray[np.uint8], Truth]]:
    """Yield pictures and truths: of the twin, then of files."""
    yield from twin_scenes(SEEDS)
    yield from twin_scenes(EMPTY_SEEDS, "none")
    yield from of_files(more)


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


def of_files(more: list[str]) -> Iterator[tuple[NDArray[np.uint8], Truth]]:
    """Yield pictures and truths of files of the developer's own making."""
    for name in more:
        for gray, truth, *_ in pickle.loads(Path(name).read_bytes()):
            yield gray, truth


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
    ridge = np.array([RIDGE_NETWORK if name in NETWORK else RIDGE_EVIDENCE for name in names])

    def loss(change: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = np.exp(np.clip(x @ (present + change / scatter), -60, 60))
        total = np.bincount(segment, odds, n) + 1.0
        good = np.where(some, np.bincount(segment, odds * right, n), 1.0)
        pull = np.where(some[segment], odds * right / good[segment], 0) - odds / total[segment]
        value = -share @ np.log(good / total) + 0.5 * change @ (ridge * change)
        return value, -x.T @ (share[segment] * pull) / scatter + ridge * change

    best = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B")
    return dict(zip(names, (present + best.x / scatter).tolist(), strict=True))


def fit_looks(looks: list[tuple[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Maximize the probability of the true kinds."""
    names = list(looks[0][1])
    x = np.array([list(values.values()) for _, values in looks])
    y = np.array([KINDS.index(kind) for kind, _ in looks])
    share = np.bincount(y, minlength=len(KINDS))[y] ** -0.5
    share /= share.sum()
    target = np.eye(len(KINDS))[y]
    present = np.array([[LOOKS[kind].get(name, 0.0) for name in names] for kind in KINDS])
    scatter = x.std(axis=0) + LEAST_SCATTER

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        change = flat.reshape(len(KINDS), -1)
        sums = x @ (present + change / scatter).T
        sums -= sums.max(axis=1, keepdims=True)
        part = np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True)
        value = -(share * np.log(part[np.arange(len(y)), y] + 1e-12)).sum()
        value += 0.5 * RIDGE_LOOKS * float(flat @ flat)
        slope = ((part - target) * share[:, None]).T @ x / scatter + RIDGE_LOOKS * change
        return value, slope.ravel()

    best = minimize(loss, np.zeros(len(KINDS) * len(names)), jac=True, method="L-BFGS-B")
    rows = (present + best.x.reshape(len(KINDS), -1) / scatter).tolist()
    return {k: dict(zip(names, row, strict=True)) for k, row in zip(KINDS, rows, strict=True)}


def source(evidence: dict[str, float], kinds: dict[str, dict[str, float]]) -> str:
    """Write the module of constants."""
    lines = [
        '"""Weights of the detector, fitted by `tools/fit_loop_weights.py`; not by hand."""',
        "",
    ]
    lines += ["EVIDENCE: dict[str, float] = {"]
    lines += [f'    "{name}": {value:.2f},' for name, value in evidence.items()]
    lines += ["}", '"""In the log odds of a thing against there being no mount."""', ""]
    lines += ["LOOKS: dict[str, dict[str, float]] = {"]
    for kind, weights in kinds.items():
        lines += [f'    "{kind}": {{']
        lines += [f'        "{name}": {value:.3f},' for name, value in weights.items()]
        lines += ["    },"]
    return "\n".join([*lines, "}", '"""In the softmax over the kinds of mounts."""', ""])


if __name__ == "__main__":
    sys.exit(main())
