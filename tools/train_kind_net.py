"""Train the network that tells nylon loop, polymer mount and bare pin apart.

    python tools/train_kind_net.py scenes SCENES_DIR --count 6100      # needs skywright
    python tools/train_kind_net.py drawings SCENES_DIR --count 700     # needs simplejpeg, scipy
    python tools/train_kind_net.py sketches SCENES_DIR --count 8000    # needs simplejpeg, scipy
    python tools/train_kind_net.py crops SCENES_DIR CROPS.npz          # needs skywright
    python tools/train_kind_net.py train CROPS.npz kind_net.npz        # needs torch

Scenes of the twin show each mount at three angles 60 deg apart, half of them cut by the border, so
that no stem is seen; drawings of plain shapes and sketches of loops, mounts and pins in many
manners come beside them. `crops` finds the mount in each picture, as the detector does, and keeps
what the network looks at (`skywright.instruments.loop.kind_crop`, with a margin to shift and scale
it in) and the looks (`skywright.instruments.loop.classify.measure`). `train` folds the
normalisations into the weights and writes them for `skywright.instruments.loop.kind_net`; weights
that it starts from (`--start`) may have fewer channels. Every tenth seed is kept to judge by and to
fit the temperature of the odds, by the twin alone.
"""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from crop_training import (
    MARGIN,
    Appearance,
    answers,
    as_float,
    folded,
    moved,
    pooled_network,
    uniform,
)
from training import optimize, run_steps, save_scenes

KINDS = ("nylon", "mitegen", "pin")
LIGHTS = ("backlight", "frontlight", "darkfield")
FIRST_SEED, FIRST_SKETCH, SHARD = 700_000, 1_200_000, 100
"""Scenes for training; the tests draw theirs below."""
SIZES, SIZE_PARTS = ((352, 240), (480, 384), (704, 480), (640, 512)), (0.4, 0.2, 0.3, 0.1)
SKETCHED = ("nylon", "mitegen") * 3 + ("nylon", "pin")
KIND_PARTS = (0.5, 0.4, 0.1)
PLAIN_KEPT = 0.4  # of the scenes whose head holds neither drop nor crystal: they are soon learned
CUT = 0.5  # of the scenes: no stem is seen, which is where most mistakes are made
CUT_LIGHT_PARTS = (0.5, 0.28, 0.22)
NECK = 1.15  # of the head's length: so much must be in view for a stem to be told
WANTED_PARTS = np.array([0.44, 0.44, 0.12])
"""Weight of the kinds: equal for loops and mounts, or 30 pictures without a hint would vote."""
OVER_NOISE = -5  # its place among the numbers, see EXTRAS of skywright.instruments.loop.kind_crop
WIDTHS, HIDDEN = (20, 32, 40, 40), 64  # channels of the head's convolutions, values before the end
HELD_EVERY, HELD_REST = 10, 3  # of the seeds
BATCH, RATE, FURTHER_RATE = 64, 3e-3, 1e-3
WITHOUT_LOOKS = 0.5  # of the pictures: the looks are not to be relied on alone


def make_scenes(out: Path, start: int, count: int) -> None:
    """Render scenes as JPEG with their truth."""
    save_scenes(out, start, count, SHARD, pictures_of)


def pictures_of(seed: int) -> list[dict[str, Any]]:
    """Return the pictures of a scene in which the tip is seen."""
    import simplejpeg

    from skywright.instruments.loop.twin.render import render
    from skywright.instruments.loop.twin.trajectory import Pose

    rng = np.random.default_rng(seed)
    kind = str(rng.choice(KINDS, p=KIND_PARTS))
    cut = kind != "pin" and rng.random() < CUT
    scene = cut_scene(rng, kind) if cut else any_scene(rng, kind)
    begin, rows = rng.uniform(0, 360), []
    holds = scene.mount.drop_um > 0.0 or any(scene.mount.crystal_um)
    if kind != "pin" and not cut and not holds and rng.random() > PLAIN_KEPT:
        return []
    for k in range(1 if kind == "pin" else 3):
        pose = Pose(phi_deg=float(begin + 60 * k))
        frame = render(scene, pose, frame_seed=seed * 10 + k)
        if not frame.truth.tip_in_view or frame.truth.tip_covered:
            continue
        color = np.ascontiguousarray(np.atleast_3d(frame.image))
        space = "RGB" if color.shape[2] == 3 else "GRAY"
        quality = scene.optics.jpeg_quality
        rows.append(
            {
                "seed": seed,
                "jpeg": simplejpeg.encode_jpeg(color, quality=quality, colorspace=space),
                "kind": kind,
                "side": frame.truth.side,
                "turn": (pose.phi_deg - scene.mount.face_on_deg) % 180.0,
                "light": scene.optics.light,
            }
        )
    return rows


def any_scene(rng: np.random.Generator, kind: str, **fixed: Any) -> Any:
    """Draw a scene in one of the sizes of picture."""
    from skywright.instruments.loop.twin.scene import random_scene

    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_PARTS)]
    return random_scene(rng, kind=kind, width_px=width, height_px=height, **fixed)


def cut_scene(rng: np.random.Generator, kind: str) -> Any:
    """Draw scenes until the border leaves no room for the stem."""
    from skywright.instruments.loop.twin.trajectory import Pose
    from skywright.instruments.loop.twin.truth import project

    light = str(rng.choice(LIGHTS, p=CUT_LIGHT_PARTS))
    while True:
        scene = any_scene(rng, kind, light=light)
        mount, optics = scene.mount, scene.optics
        neck_um = np.subtract(mount.tip_um, (NECK * mount.loop_length_um, 0.0, 0.0))
        places = project(np.array([mount.tip_um, neck_um]), optics, Pose())
        size = (optics.width_px, optics.height_px)
        tip_seen, neck_seen = ((places >= 0) & (places < size)).all(axis=1)
        if tip_seen and not neck_seen:
            return scene


def make_drawings(out: Path, start: int, count: int) -> None:
    """Draw loops and mounts of plain shapes, lest the twin's habits be taken for the rule."""
    from kind_drawings import drawing

    save_scenes(out, start, count, SHARD, lambda seed: drawn(seed, KINDS[seed % 2], drawing))


def make_sketches(out: Path, start: int, count: int) -> None:
    """Draw loops and mounts in many manners, and every eighth time a bare pin."""
    from sketches import sketch

    save_scenes(out, start, count, SHARD, lambda seed: drawn(seed, SKETCHED[seed % 8], sketch))


def drawn(
    seed: int, kind: str, draw: Callable[[np.random.Generator, str], Any]
) -> list[dict[str, Any]]:
    """Return one drawn picture."""
    import simplejpeg

    rng = np.random.default_rng(seed)
    gray = np.ascontiguousarray(draw(rng, kind)[:, :, None])
    quality = int(rng.integers(70, 96))
    data = simplejpeg.encode_jpeg(gray, quality=quality, colorspace="GRAY")
    row = {"seed": seed, "jpeg": data, "kind": kind, "side": "left", "turn": 0.0}
    return [row | {"light": LIGHTS[0]}]


def make_crops(source: Path, out: Path) -> None:
    """Find the mount in each picture and save what the network gets, pictures as float16."""
    import simplejpeg

    rows: dict[str, list[Any]] = {name: [] for name in ("head", "view", "numbers", "kind", "meta")}
    for file in sorted(source.glob("*.pkl")):
        for row in pickle.loads(file.read_bytes()):
            gray = simplejpeg.decode_jpeg(row["jpeg"], colorspace="GRAY")[:, :, 0]
            seen = look_at(gray, MARGIN)
            if seen is None or seen[0] != row["side"]:
                continue
            _, crop, numbers = seen
            for name, picture in (("head", crop.head), ("view", crop.view)):
                rows[name].append(picture.astype(np.float16))
            rows["numbers"].append(numbers)
            rows["kind"].append(KINDS.index(row["kind"]))
            rows["meta"].append((row["seed"], row["turn"], LIGHTS.index(row["light"])))
    arrays: dict[str, Any] = {name: np.array(values) for name, values in rows.items()}
    np.savez(out, **arrays)


def look_at(gray: Any, margin: float) -> tuple[str, Any, Any] | None:
    """Return side, crop and numbers of the mount that the detector takes; None without one."""
    from skywright.instruments.loop.background import estimate_field
    from skywright.instruments.loop.choose import choose, measure
    from skywright.instruments.loop.detect import MIN_SCORE
    from skywright.instruments.loop.kind_crop import crop
    from skywright.instruments.loop.objects import find_objects

    with patch("skywright.instruments.loop.choose.measure", wraps=measure) as asked:
        choice = choose(gray, *find_objects(estimate_field(gray)))
    if choice is None or choice.score < MIN_SCORE:
        return None
    _, mount, parts, field = asked.call_args.args
    seen = crop(gray, mount, parts, field, margin)
    looks = measure(gray, mount, parts, field)
    return mount.side, seen, np.array([*looks.values(), *seen.extras], np.float32)


def make_network(mean: Any, gain: Any, norms: bool) -> Any:
    """Return the network of `skywright.instruments.loop.kind_net`."""
    return pooled_network(mean, gain, norms, len(KINDS), drop=0.3, widths=WIDTHS, hidden=HIDDEN)


def grown(start: Path) -> Any:
    """Return the network with saved weights; where it has fewer channels, the new ones say little.

    They see what the old ones see, with weights as drawn, and are heard by a tenth of such.
    """
    import torch

    old = {name: torch.from_numpy(value).float() for name, value in np.load(start).items()}
    network = make_network(old["mean"], old["gain"], norms=False)

    def take(weight: Any, known: Any) -> None:
        weight[: len(known)] *= 0.1
        weight[tuple(slice(0, n) for n in known.shape)] = known

    with torch.no_grad():
        for name in ("head", "view"):
            for k, (conv, _, _) in enumerate(getattr(network, name)):
                take(conv.weight, old[f"{name}{k}_kernel"].permute(3, 2, 0, 1))
                take(conv.bias, old[f"{name}{k}_bias"])
        hidden, known = network.hidden.weight, old["hidden_kernel"]
        of_head = 16 * len(old["head3_bias"])
        take(hidden, known[:, :of_head])
        hidden[: len(known), 16 * WIDTHS[-1] :] = known[:, of_head:]
        take(network.hidden.bias, old["hidden_bias"])
        take(network.last.weight, old["last_kernel"])
        take(network.last.bias, old["last_bias"])
    return network


def varied(head: Any, view: Any, numbers: Any) -> tuple[Any, Any]:
    """Shift, scale, turn and mirror; change contrast, noise and sharpness of both pictures."""
    import torch

    n = len(head)

    # Real loops are bent and laden: seen edge-on they are as thick as films that curl.
    along, across = uniform(n, -0.2, 0.2).exp(), uniform(n, -0.6, 0.6).exp()
    angle, flip = uniform(n, -0.12, 0.12), torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    shift = torch.stack([uniform(n, -0.07, 0.07), uniform(n, -0.07, 0.07)], 1)
    turn = torch.stack(
        [
            torch.stack([along * angle.cos(), -along * angle.sin() * flip], 1),
            torch.stack([across * angle.sin(), across * angle.cos() * flip], 1),
        ],
        1,
    )
    appearance = Appearance(n)
    # What stands out of the noise by so much has no more of it.
    noise = 0.05 / numbers[:, OVER_NOISE].exp()
    appearance.rough = torch.minimum(appearance.rough, noise[:, None, None])
    out = []
    for picture, part in ((head, 1.0), (view, 0.6)):
        seen = moved(picture, torch.cat([turn, (shift * part)[:, :, None]], 2))
        gray = appearance.change(seen[:, 0])
        out.append(torch.stack([gray.clamp(-2.5, 2.5), seen[:, 1]], 1))
    return out[0], out[1]


def train(source: Path, out: Path, start: Path | None, minutes: float, seed: int) -> None:
    """Train for some minutes of one core, judge by the last scenes, fit the temperature, save."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = np.load(source)
    head, view = torch.from_numpy(data["head"]), torch.from_numpy(data["view"])
    numbers, kind = torch.from_numpy(data["numbers"]).float(), torch.from_numpy(data["kind"])
    seeds = data["meta"][:, 0]
    held = torch.from_numpy(seeds % HELD_EVERY == HELD_REST)
    sketched = torch.from_numpy(seeds >= FIRST_SKETCH)
    shown = np.bincount(data["kind"][~held.numpy()], minlength=3)
    weight = torch.from_numpy(WANTED_PARTS / (shown / shown.sum())).float()
    mean, gain = numbers[~held].mean(0), 1.0 / (numbers[~held].std(0) + 1e-3)
    network = grown(start) if start else make_network(mean, gain, norms=True)
    network = network.to(memory_format=torch.channels_last)

    def loss(pick: Any) -> Any:
        pictures = varied(as_float(head[pick]), as_float(view[pick]), numbers[pick])
        keep = (torch.rand(len(pick), 1) > WITHOUT_LOOKS) * (
            torch.rand(len(pick), numbers.shape[1]) > 0.1
        )
        noisy = numbers[pick] + 0.03 * torch.randn(len(pick), numbers.shape[1])
        logits = network(*pictures, noisy, keep)
        return torch.nn.functional.cross_entropy(logits, kind[pick], weight, label_smoothing=0.02)

    def report() -> None:
        for name, rows in (("of the twin", held & ~sketched), ("sketches", held & sketched)):
            logits = answers(network, head[rows], view[rows], numbers[rows])
            right = (logits.argmax(1) == kind[rows]).float().mean()
            sys.stdout.write(f"held {name} {right:.4f} ")
        sys.stdout.write("\n")

    optimize(
        network,
        torch.nonzero(~held)[:, 0],
        loss,
        report,
        minutes=minutes,
        batch=BATCH,
        rate=FURTHER_RATE if start else RATE,
        decay=3e-3,
        warm=100,
    )
    held &= ~sketched
    logits = answers(network, head[held], view[held], numbers[held])
    temperature = fit_temperature(logits, kind[held], weight)
    judge(logits / temperature, kind[held], data["meta"][held.numpy()])
    sys.stdout.write(f"temperature {temperature:.3f}\n")
    weights = folded(network, 1.0 / temperature)
    half = {k: v.astype(np.float16) for k, v in weights.items() if k.endswith("kernel")}
    np.savez_compressed(out, **{**weights, **half})


def fit_temperature(logits: Any, kind: Any, weight: Any) -> float:
    """Return what to divide the logits by, so that they are log odds of unseen scenes."""
    import torch

    values = torch.linspace(0.5, 4.0, 141)
    losses = [torch.nn.functional.cross_entropy(logits / t, kind, weight) for t in values]
    return float(values[int(torch.stack(losses).argmin())])


def judge(logits: Any, kind: Any, meta: Any) -> None:
    """Print how often it is right: each kind and light, near face-on and edge-on, and by vote."""
    choice, kind = logits.argmax(1).numpy(), kind.numpy()
    right = choice == kind
    edge_on = np.abs(meta[:, 1] - 90) < 20
    groups = {name: kind == k for k, name in enumerate(KINDS)}
    groups |= {name: meta[:, 2] == k for k, name in enumerate(LIGHTS)}
    groups |= {"edge-on": edge_on & (kind < 2), "other": ~edge_on & (kind < 2)}
    for name, rows in groups.items():
        sys.stdout.write(f"{name} {right[rows].mean():.3f} of {rows.sum()}\n")
    chances = logits.softmax(1).numpy()
    odds = np.log(chances.max(1) / (1 - chances.max(1) + 1e-9))
    votes = []
    for seed in np.unique(meta[kind < 2, 0]):
        rows = meta[:, 0] == seed
        totals = np.bincount(choice[rows], odds[rows], 3)
        votes.append(totals.argmax() == kind[rows][0])
    sys.stdout.write(f"all {right.mean():.4f}; vote of three angles {np.mean(votes):.4f}\n")


def main() -> int:
    """Run one of the steps."""
    return run_steps(
        __doc__,
        {
            "scenes": (make_scenes, FIRST_SEED, 6100),
            "drawings": (make_drawings, FIRST_SEED - 50_000, 800),
            "sketches": (make_sketches, FIRST_SKETCH, 8000),
        },
        ("crops", "find the mounts and cut them out", make_crops),
        train,
        minutes=6.0,
    )


if __name__ == "__main__":
    sys.exit(main())
