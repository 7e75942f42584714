"""Train the network that tells nylon loop, polymer mount and bare pin apart.

    python tools/train_kind_net.py scenes SCENES_DIR --count 6100      # needs skywright
    python tools/train_kind_net.py drawings SCENES_DIR --count 700     # needs simplejpeg, scipy
    python tools/train_kind_net.py crops SCENES_DIR CROPS.npz          # needs skywright
    python tools/train_kind_net.py train CROPS.npz kind_net.npz        # needs torch

Scenes of the twin show each mount at three angles 60 deg apart; drawings of plain shapes come
beside them. `crops` finds the mount in each picture, as the detector does, and keeps what the
network looks at (`skywright.loop.kind_crop`, with a margin to shift and scale it in) and the looks
(`skywright.loop.classify.measure_by_hand`). `train` folds the normalisations into the weights and
writes them for `skywright.loop.kind_net`; the last tenth of the seeds is kept to judge by and to
fit the temperature of the odds.
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from crop_training import (
    MARGIN,
    Appearance,
    answers,
    as_float,
    folded,
    moved,
    packed,
    pooled_network,
    restored,
    uniform,
)
from training import optimize, run_steps, save_scenes

KINDS = ("nylon", "mitegen", "pin")
LIGHTS = ("backlight", "frontlight", "darkfield")
FIRST_SEED, SHARD = 700_000, 100
"""Scenes for training; the tests draw theirs below."""
SIZES, SIZE_PARTS = ((352, 240), (480, 384), (704, 480), (640, 512)), (0.4, 0.2, 0.3, 0.1)
KIND_PARTS = (0.5, 0.4, 0.1)
WANTED_PARTS = np.array([0.44, 0.44, 0.12])
"""Weight of the kinds: equal for loops and mounts, or 30 pictures without a hint would vote."""
HELD = 0.1  # of the scenes
BATCH, RATE, FURTHER_RATE = 64, 3e-3, 7e-4
WITHOUT_LOOKS = 0.5  # of the pictures: the looks are not to be relied on alone
LEAST_ODDS = -1.0


def make_scenes(out: Path, start: int, count: int) -> None:
    """Render scenes as JPEG with their truth."""
    save_scenes(out, start, count, SHARD, pictures_of)


def pictures_of(seed: int) -> list[dict[str, Any]]:
    """Return the pictures of a scene in which the tip is seen."""
    import simplejpeg

    from skywright.loop.twin.render import render
    from skywright.loop.twin.scene import random_scene
    from skywright.loop.twin.trajectory import Pose

    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_PARTS)]
    kind = str(rng.choice(KINDS, p=KIND_PARTS))
    scene = random_scene(rng, kind=kind, width_px=width, height_px=height)
    begin, rows = rng.uniform(0, 360), []
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


def make_drawings(out: Path, start: int, count: int) -> None:
    """Draw loops and mounts of plain shapes, lest the twin's habits be taken for the rule."""
    import simplejpeg
    from kind_drawings import drawing

    out.mkdir(exist_ok=True)
    rows = []
    for seed in range(start, start + count):
        rng = np.random.default_rng(seed)
        kind = KINDS[seed % 2]
        gray = np.ascontiguousarray(drawing(rng, kind)[:, :, None])
        quality = int(rng.integers(70, 96))
        data = simplejpeg.encode_jpeg(gray, quality=quality, colorspace="GRAY")
        row = {"seed": seed, "jpeg": data, "kind": kind, "side": "left", "turn": 0.0}
        rows.append(row | {"light": LIGHTS[0]})
    (out / f"drawn{start}.pkl").write_bytes(pickle.dumps(rows))


def make_crops(source: Path, out: Path) -> None:
    """Find the mount in each picture and save what the network gets, pictures as uint8."""
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
                rows[name].append(packed(picture))
            rows["numbers"].append(numbers)
            rows["kind"].append(KINDS.index(row["kind"]))
            rows["meta"].append((row["seed"], row["turn"], LIGHTS.index(row["light"])))
    arrays: dict[str, Any] = {name: np.array(values) for name, values in rows.items()}
    np.savez(out, **arrays)


def look_at(gray: Any, margin: float) -> tuple[str, Any, Any] | None:
    """Return side, crop and numbers of the mount that the detector takes; None without one."""
    from skywright.loop.background import estimate_field
    from skywright.loop.candidates import find_things
    from skywright.loop.choose import log_odds
    from skywright.loop.classify import measure_by_hand
    from skywright.loop.kind_crop import crop
    from skywright.loop.objects import find_objects

    field, labels, stats = find_objects(estimate_field(gray))
    best = max(find_things(field, labels, stats), key=log_odds, default=None)
    if best is None or log_odds(best) < LEAST_ODDS:
        return None
    seen = crop(gray, best.outline, best.parts, field, margin)
    looks = measure_by_hand(gray, best.outline, best.parts, field)
    numbers = [*looks.values(), *seen.extras]
    return best.outline.side, seen, np.array(numbers, np.float32)


def make_network(mean: Any, gain: Any, norms: bool) -> Any:
    """Return the network of `skywright.loop.kind_net`."""
    return pooled_network(mean, gain, norms, len(KINDS), drop=0.3)


def varied(head: Any, view: Any) -> tuple[Any, Any]:
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
    held = torch.from_numpy(seeds > np.quantile(seeds, 1 - HELD))
    shown = np.bincount(data["kind"][~held.numpy()], minlength=3)
    weight = torch.from_numpy(WANTED_PARTS / (shown / shown.sum())).float()
    mean, gain = numbers[~held].mean(0), 1.0 / (numbers[~held].std(0) + 1e-3)
    network = restored(start, make_network) if start else make_network(mean, gain, norms=True)
    network = network.to(memory_format=torch.channels_last)

    def loss(pick: Any) -> Any:
        pictures = varied(as_float(head[pick]), as_float(view[pick]))
        keep = (torch.rand(len(pick), 1) > WITHOUT_LOOKS) * (
            torch.rand(len(pick), numbers.shape[1]) > 0.1
        )
        noisy = numbers[pick] + 0.03 * torch.randn(len(pick), numbers.shape[1])
        logits = network(*pictures, noisy, keep)
        return torch.nn.functional.cross_entropy(logits, kind[pick], weight, label_smoothing=0.02)

    def report() -> None:
        logits = answers(network, head[held], view[held], numbers[held])
        right = (logits.argmax(1) == kind[held]).float().mean()
        sys.stdout.write(f"held {right:.4f}\n")

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
    logits = answers(network, head[held], view[held], numbers[held])
    temperature = fit_temperature(logits, kind[held], weight)
    judge(logits / temperature, kind[held], data["meta"][held.numpy()])
    sys.stdout.write(f"temperature {temperature:.3f}\n")
    np.savez_compressed(out, **folded(network, 1.0 / temperature))


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
        },
        ("crops", "find the mounts and cut them out", make_crops),
        train,
        minutes=6.0,
    )


if __name__ == "__main__":
    sys.exit(main())
