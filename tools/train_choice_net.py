"""Train the network that looks again at what may be the mount.

    python tools/train_choice_net.py scenes LOOKS_DIR --count 17500    # needs skywright
    python tools/train_choice_net.py pins LOOKS_DIR --count 6000       # needs skywright
    python tools/train_choice_net.py spoiled LOOKS_DIR --count 1500    # needs skywright
    python tools/train_choice_net.py drawings LOOKS_DIR --count 3000   # needs skywright
    python tools/train_choice_net.py empty LOOKS_DIR --count 3000      # needs skywright
    python tools/train_choice_net.py join LOOKS_DIR LOOKS.npz
    python tools/train_choice_net.py train LOOKS.npz choice_net.npz --start kind_net.npz
                                                                       # needs torch

`scenes` renders those of the accuracy tests, but for their seeds, and lists of each picture the
things that are the likeliest by their evidence: what the network looks at
(`skywright.instruments.loop.choice_net`), and how far off the detector would be with each. `pins`
does so with bare pins alone, `spoiled` with pictures that are cut, lit and occluded anew,
`drawings` with plain rings and films, a third of them cut by a border beside them, and `empty` with
views without a mount before which something is drawn that is none. `train` begins with the
convolutions of the network of the kinds, or with other weights of this one: the scenes in which the
evidence is wrong are few. The loss is that of the choice: what the network says is added to the
odds of the evidence, and the probability of the right things, or of none, is raised. Every tenth
seed is kept to judge by.
"""

import pickle
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from crop_training import (
    Appearance,
    as_float,
    folded,
    packed,
    pooled_network,
    restored,
    take_convolutions,
    uniform,
)
from training import optimize, run_steps, save_scenes

FIRST_SEED, FIRST_PIN, FIRST_SPOILED = 1_000_000, 1_030_000, 1_020_000
FIRST_DRAWING, FIRST_EMPTY, SHARD = 1_050_000, 1_040_000, 100
"""Scenes for training; the tests draw theirs below."""
CUT_PART, DRAWN_ON, LEAST_SIDE_PX = 0.35, 0.8, 96
WITHIN, MOST = 9.0, 6  # odds and number of the likeliest: more than the detector looks at
GOOD_PX, FAIR_PX = 8.0, 14.0
PIN_WEIGHT = 0.5  # of a scene of a pin that was asked for
SURE = 20.0  # odds of the one thing that the detector is given
HELD_EVERY, HELD_REST = 10, 6  # of the seeds
HIDDEN = 40
BATCH, RATE, FURTHER_RATE, SLOWER = 48, 1e-3, 4e-4, 0.2  # the convolutions can see already
WITHOUT_NUMBERS = 0.5  # of the pictures: the evidence has had its say
CLEAR, TIMES = (7.0, 4.0), (1, 3, 6)  # what the evidence is less sure of is drawn more often


def make_scenes(out: Path, start: int, count: int) -> None:
    """Look at plain scenes."""
    save_scenes(out, start, count, SHARD, looks_at_scene)


def make_pins(out: Path, start: int, count: int) -> None:
    """Look at scenes of bare pins: what fills a corner of the picture is mostly one, and rare."""
    save_scenes(out, start, count, SHARD, looks_at_pin)


def make_spoiled(out: Path, start: int, count: int) -> None:
    """Look at spoiled pictures."""
    save_scenes(out, start, count, SHARD, looks_at_spoiled)


def make_drawings(out: Path, start: int, count: int) -> None:
    """Look at plain shapes, lest the twin's habits be taken for the rule."""
    save_scenes(out, start, count, SHARD, looks_at_drawing)


def make_empty(out: Path, start: int, count: int) -> None:
    """Look at views without a mount."""
    save_scenes(out, start, count, SHARD, looks_at_empty)


def looks_at_scene(seed: int, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the look at one scene, or none if its tip is covered."""
    from fit_loop_weights import EMPTY_EVERY, twin_scenes

    if kind is None and seed % EMPTY_EVERY == 0:
        kind = "none"
    seen = [looks_at(gray, truth) for gray, truth in twin_scenes([seed], kind)]
    return [{"seed": seed, **one} for one in seen if one]


def looks_at_pin(seed: int) -> list[dict[str, Any]]:
    """Return the look at one scene with a bare pin."""
    return [{**one, "weight": PIN_WEIGHT} for one in looks_at_scene(seed, "pin")]


def looks_at_spoiled(seed: int) -> list[dict[str, Any]]:
    """Return the looks at the changed pictures of a scene."""
    from seg_scenes import pictures_of

    return [{"seed": seed, **one} for row in pictures_of(seed)[1:] if (one := looks_at_row(row))]


def looks_at_drawing(seed: int) -> list[dict[str, Any]]:
    """Return the look at a drawing."""
    from seg_scenes import drawing_of

    rng = np.random.default_rng(seed)
    cut = rng.uniform(0.05, 0.6) if rng.random() < CUT_PART else 0.0
    one = looks_at_row(drawing_of(seed), cut)
    return [{"seed": seed, **one}] if one else []


def looks_at_empty(seed: int) -> list[dict[str, Any]]:
    """Return the look at a view without a mount, most with something drawn into it."""
    from fit_loop_weights import twin_scenes
    from seg_scenes import occlude

    rng = np.random.default_rng(seed)
    out = []
    for gray, truth in twin_scenes([seed], "none"):
        height, width = gray.shape
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        seen = gray.astype(np.float64)
        if rng.random() < DRAWN_ON:
            occlude(rng, seen, x, y, bars=False)  # a bar may be a pin
        one = looks_at(np.clip(np.round(seen), 0, 255).astype(np.uint8), truth)
        out += [{"seed": seed, **one, "weight": 1.0}] if one else []
    return out


def looks_at_row(row: dict[str, Any], cut: float = 0.0) -> dict[str, Any] | None:
    """Return the look at a picture of `seg_scenes`.

    The border beside the mount cuts off so much of the half of it that is on that side of the tip.
    """
    import zlib

    from seg_scenes import unpacked

    gray, truth = unpacked(row)
    side, tip = truth["side"], truth["tip"]
    if cut and tip is not None:
        mask = np.frombuffer(zlib.decompress(row["mask"]), np.uint8).reshape(row["shape"])
        axis = 0 if side in ("left", "right") else 1  # that runs across the pin
        first = np.flatnonzero(mask.any(axis=1 - axis))[0] * gray.shape[axis] / mask.shape[axis]
        off = int(first + cut * max(tip[1 - axis] - first, 0.0))
        if gray.shape[axis] - off >= LEAST_SIDE_PX:
            gray = np.ascontiguousarray(gray[off:] if axis == 0 else gray[:, off:])
            tip = (tip[0], tip[1] - off) if axis == 0 else (tip[0] - off, tip[1])
    return looks_at(gray, {**truth, "tip": tip, "ctip": tip})


def looks_at(gray: Any, truth: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the network gets of the likeliest things, and which are right.

    None if all are wrong though there is a mount.
    """
    from fit_loop_weights import EMPTY_WEIGHT, is_right

    from skywright.instruments.loop.background import estimate_field
    from skywright.instruments.loop.candidates import find_things
    from skywright.instruments.loop.choice_net import likeness
    from skywright.instruments.loop.choose import log_odds
    from skywright.instruments.loop.kind_crop import crop
    from skywright.instruments.loop.objects import find_objects

    field, labels, stats = find_objects(estimate_field(gray))
    things = sorted(find_things(field, labels, stats), key=log_odds, reverse=True)
    odds = np.array([log_odds(thing) for thing in things])
    right = np.array([is_right(thing, field, truth, gray.shape) for thing in things], bool)
    empty = truth["kind"] == "none"
    if not things or not (right.any() or empty):
        return None
    differ: dict[Any, int] = {}
    for k, thing in enumerate(things):
        differ.setdefault(likeness(thing), k)
    taken = [k for k in differ.values() if odds[k] > odds[0] - WITHIN][:MOST]
    if not right[taken].any():
        taken += [k for k in differ.values() if right[k]][:2]
    cuts = [crop(gray, things[k].outline, things[k].parts, field) for k in taken]
    evidence = [list(things[k].evidence.values()) for k in taken]
    off = [error_with(gray, things[k], truth) if right[k] else np.inf for k in taken]
    return {
        "weight": EMPTY_WEIGHT if empty else 1.0,
        "head": np.array([packed(cut.head) for cut in cuts]),
        "view": np.array([packed(cut.view) for cut in cuts]),
        "numbers": np.array([[*e, *c.extras] for e, c in zip(evidence, cuts, strict=True)], "f4"),
        "odds": odds[taken],
        "right": the_best(right[taken], np.array(off)),
        "others": float(np.exp(np.minimum(np.delete(odds, taken), 50.0)).sum()),
    }


def error_with(gray: Any, thing: Any, truth: dict[str, Any]) -> float:
    """Return by how many px the detector misses the tip if it takes a thing for the mount."""
    from skywright.instruments.loop.detect import find_loop

    choose = "skywright.instruments.loop.choose"
    with (
        patch(f"{choose}.find_things", return_value=[thing]),
        patch(f"{choose}.log_odds", return_value=SURE),
    ):
        found = find_loop(gray)
    if truth["tip"] is None:
        return np.inf if found.tip_in_view else 0.0
    if not found.tip_in_view:
        return np.inf
    along = 0 if truth["side"] in ("left", "right") else 1
    # Where across it ends is hardly defined for a bare pin.
    weight = np.eye(2)[along] if truth["kind"] == "pin" else np.ones(2)
    tips = [tip for tip in (truth["tip"], truth["ctip"]) if tip is not None]
    return min(
        float(np.hypot(*(weight * (found.tip_x - tip[0], found.tip_y - tip[1])))) for tip in tips
    )


def the_best(right: Any, off: Any) -> Any:
    """Return which of the things that are right lead to the tip, those that do so well if any."""
    for limit in (GOOD_PX, FAIR_PX, np.inf):
        if (right & (off < limit)).any():
            return right & (off < limit)
    return right


def join(source: Path, out: Path) -> None:
    """Put the looks of all files into one."""
    looks = [
        one for file in sorted(source.glob("*.pkl")) for one in pickle.loads(file.read_bytes())
    ]
    each = ("head", "view", "numbers", "odds", "right")
    arrays = {name: np.concatenate([one[name] for one in looks]) for name in each}
    arrays |= {
        name: np.array([one[name] for one in looks]) for name in ("seed", "weight", "others")
    }
    np.savez(out, count=np.array([len(one["odds"]) for one in looks]), **arrays)


def make_network(mean: Any, gain: Any, norms: bool, widths: tuple[int, ...]) -> Any:
    """Return the network of `skywright.instruments.loop.choice_net`."""
    return pooled_network(mean, gain, norms, 1, drop=0.4, widths=widths, hidden=HIDDEN)


def widths_of(kernels: dict[str, Any]) -> tuple[int, ...]:
    """Return the channels that come out of the convolutions of the head."""
    return tuple(len(kernels[f"head{k}_bias"]) for k in range(4))


def begun(numbers: Any, kernels: dict[str, Any]) -> Any:
    """Return a network with convolutions from elsewhere, which says nothing as yet."""
    import torch

    scale = 1.0 / (numbers.std(0) + 1e-2)
    network = make_network(numbers.mean(0), scale, norms=False, widths=widths_of(kernels))
    take_convolutions(network, kernels)
    torch.nn.init.zeros_(network.last.weight)
    torch.nn.init.zeros_(network.last.bias)
    return network


def varied(head: Any, view: Any, picture: Any) -> tuple[Any, Any]:
    """Shift, scale, turn and mirror; change contrast, noise and sharpness.

    The things of one `picture`, (n,) numbers, are changed alike.
    """
    import torch
    from torch.nn import functional

    n = int(picture.max()) + 1
    scale, angle = uniform(n, -0.08, 0.08).exp(), uniform(n, -0.06, 0.06)
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    shift = torch.stack([uniform(n, -0.04, 0.04), uniform(n, -0.04, 0.04)], 1)
    turn = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin()], 1),
            torch.stack([mirror * scale * angle.sin(), mirror * scale * angle.cos()], 1),
        ],
        1,
    )
    appearance = Appearance(n)
    for name, value in vars(appearance).items():
        setattr(appearance, name, value[picture])
    out = []
    for pixels, part in ((head, 1.0), (view, 0.4)):
        place = torch.cat([turn, (shift * part)[:, :, None]], 2)[picture]
        grid = functional.affine_grid(place, list(pixels.shape), align_corners=False)
        seen = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        gray = appearance.change(seen[:, 0])
        out.append(torch.stack([gray.clamp(-2.5, 2.5), seen[:, 1]], 1))
    return out[0], out[1]


def loss_of(odds: Any, right: Any, picture: Any, others: Any, weight: Any) -> Any:
    """Return minus the logarithm of the probability of what is right, (things,) each of a picture.

    In a picture without a right thing it is right that there is none, odds 0.
    """
    import torch

    def total(values: Any) -> Any:
        return torch.zeros(len(others)).index_add(0, picture, values)

    likely = odds.clamp(-30.0, 30.0).exp()
    good = total(likely * right)
    good = torch.where(total(right.float()) > 0, good, torch.ones(len(others)))
    return -(weight * (good / (total(likely) + others + 1.0) + 1e-9).log()).sum() / weight.sum()


def train(source: Path, out: Path, start: Path | None, minutes: float, seed: int) -> None:
    """Train for some minutes of one core, judge by the seeds held back, save."""
    import torch

    if start is None:
        raise SystemExit("train: expected --start kind_net.npz, or weights of this network")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = {name: torch.from_numpy(array) for name, array in np.load(source).items()}
    head, view, numbers = data["head"], data["view"], data["numbers"]
    odds, right = data["odds"].float(), data["right"]
    others = data["others"].float().clamp(max=1e6)
    weight = data["weight"].float()
    first = torch.cat([torch.zeros(1, dtype=torch.long), data["count"].cumsum(0)])
    held = data["seed"] % HELD_EVERY == HELD_REST
    kernels = {name: torch.from_numpy(value).float() for name, value in np.load(start).items()}
    further = len(kernels["last_kernel"]) == 1
    same = partial(make_network, widths=widths_of(kernels))
    network = restored(start, same) if further else begun(numbers, kernels)
    network = network.to(memory_format=torch.channels_last)

    def things_of(pictures: Any) -> tuple[Any, Any]:
        spans = [torch.arange(first[p], first[p + 1]) for p in pictures]
        of = torch.repeat_interleave(torch.arange(len(pictures)), data["count"][pictures])
        return torch.cat(spans), of

    def loss(pick: Any) -> Any:
        rows, of = things_of(pick)
        seen = varied(as_float(head[rows]), as_float(view[rows]), of)
        keep = (torch.rand(len(pick), 1) > WITHOUT_NUMBERS)[of]
        keep = keep * (torch.rand(len(rows), numbers.shape[1]) > 0.1)
        noisy = numbers[rows] + 0.01 / network.gain * torch.randn(len(rows), numbers.shape[1])
        said = odds[rows] + network(*seen, noisy, keep)[:, 0]
        return loss_of(said, right[rows], of, others[pick], weight[pick] / drawn[pick])

    def report() -> None:
        network.eval()
        with torch.no_grad():
            rows, of = things_of(torch.nonzero(held)[:, 0])
            parts = [
                network(as_float(head[k]), as_float(view[k]), numbers[k]) for k in rows.split(256)
            ]
        network.train()
        given = right[rows], of, others[held], weight[held]
        before, after = (
            loss_of(o, *given) for o in (odds[rows], odds[rows] + torch.cat(parts)[:, 0])
        )
        sys.stdout.write(f"held {before:.4f} by the evidence, {after:.4f} with the network\n")

    drawn = torch.tensor([times(odds[a:b], right[a:b]) for a, b in pairwise(first)])
    optimize(
        network,
        torch.repeat_interleave(torch.arange(len(held)), torch.where(held, 0, drawn)),
        loss,
        report,
        minutes=minutes,
        batch=BATCH,
        rate=FURTHER_RATE if further else RATE,
        decay=0.1,
        warm=100,
        slower={"head": SLOWER, "view": SLOWER},
    )
    report()
    weights = folded(network)
    half = {k: v.astype(np.float16) for k, v in weights.items() if k not in ("mean", "gain")}
    np.savez_compressed(out, **{**weights, **half})


def times(odds: Any, right: Any) -> int:
    """Return how often a picture is drawn by how far its odds, (things,), are clear."""
    best = float(odds[right].max()) if right.any() else 0.0
    wrong = float(odds[~right].max()) if (~right).any() else 0.0
    margin = best - max(wrong, 0.0) if right.any() else -wrong
    return TIMES[sum(margin < limit for limit in CLEAR)]


def main() -> int:
    """Run one of the steps."""
    return run_steps(
        __doc__,
        {
            "scenes": (make_scenes, FIRST_SEED, 17_500),
            "pins": (make_pins, FIRST_PIN, 6000),
            "spoiled": (make_spoiled, FIRST_SPOILED, 1500),
            "drawings": (make_drawings, FIRST_DRAWING, 3000),
            "empty": (make_empty, FIRST_EMPTY, 3000),
        },
        ("join", "put the looks of all files into one", join),
        train,
        minutes=8.0,
    )


if __name__ == "__main__":
    sys.exit(main())
