"""Train the networks that measure the head of a loop or mount, and the end of a bare pin.

    python tools/train_head_net.py scenes SCENES_DIR --count 18000     # needs skywright
    python tools/train_head_net.py drawings SCENES_DIR --count 1200    # needs simplejpeg, scipy
    python tools/train_head_net.py pins PINS_DIR --count 8000          # needs skywright
    python tools/train_head_net.py crops SCENES_DIR CROPS.npz          # needs skywright
    python tools/train_head_net.py train CROPS.npz head_net.npz        # needs torch

and for `pin_net.npz` the last two with PINS_DIR, from `--start head_net.npz`. The box of a pin is
its last part, about its axis; the middle of that is what is asked for.

Scenes of the twin show each loop or mount at three angles; drawings of plain shapes come beside
them. `crops` finds it in each picture, as the detector does, and keeps what the network looks at
(`skywright.instruments.loop.kind_crop`, with a margin to shift and scale it in) and where in that
its head is. `train` puts dust beside the heads, folds the normalisations into the weights and
writes them for `skywright.instruments.loop.head_net`; the last tenth of the seeds is kept to judge
by.
"""

import pickle
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from crop_training import (
    MARGIN,
    Appearance,
    answers,
    as_float,
    branches,
    folded,
    moved,
    restored,
    uniform,
)
from training import optimize, run_steps, save_scenes

SIZES, SIZE_PARTS = ((352, 240), (480, 384), (704, 480), (640, 512)), (0.2, 0.15, 0.5, 0.15)
TURNS, SHARD, FIRST_SEED, FIRST_DRAWING = 3, 50, 820_000, 650_000
FIRST_PIN = 1_060_000
BACKLIT = 0.4  # of the scenes at least: loops are centered in back light
VIEW_OF_HEAD, VIEW_FROM_HEAD = 3.0, -0.8  # as skywright.instruments.loop.kind_crop has them
HEAD_WIDTHS = (20, 32, 40, 40)
HELD, BATCH, RATE, FURTHER_RATE = 0.1, 64, 2e-3, 5e-4


def make_scenes(out: Path, start: int, count: int) -> None:
    """Render loops and mounts as JPEG with their truth."""
    save_scenes(out, start, count, SHARD, loops_of)


def make_pins(out: Path, start: int, count: int) -> None:
    """Render bare pins as JPEG with their truth."""
    save_scenes(out, start, count, SHARD, pins_of)


def loops_of(seed: int) -> list[dict[str, Any]]:
    """Return the pictures of a loop or mount whose tip is seen."""
    rng = np.random.default_rng(seed)
    size = SIZES[rng.choice(len(SIZES), p=SIZE_PARTS)]
    kind = "nylon" if rng.random() < 0.6 else "mitegen"
    light = {"light": "backlight"} if rng.random() < BACKLIT else {}
    return pictures_of(seed, rng, kind, size, light)


def pins_of(seed: int) -> list[dict[str, Any]]:
    """Return the pictures of a bare pin whose end is seen."""
    rng = np.random.default_rng(seed)
    return pictures_of(seed, rng, "pin", SIZES[rng.choice(len(SIZES), p=SIZE_PARTS)], {})


def pictures_of(
    seed: int, rng: np.random.Generator, kind: str, size: tuple[int, int], light: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the pictures of a scene in which the tip is seen."""
    import simplejpeg

    from skywright.instruments.loop.twin.render import render
    from skywright.instruments.loop.twin.scene import random_scene
    from skywright.instruments.loop.twin.trajectory import Pose

    scene = random_scene(rng, kind=kind, width_px=size[0], height_px=size[1], **light)
    rows = []
    for k in range(TURNS):
        pose = Pose(phi_deg=float(rng.uniform(0, 360)))
        frame = render(scene, pose, frame_seed=seed * 10 + k)
        truth = frame.truth
        if not truth.tip_in_view or truth.tip_covered:
            continue
        color = np.ascontiguousarray(np.atleast_3d(frame.image))
        space = "RGB" if color.shape[2] == 3 else "GRAY"
        quality = scene.optics.jpeg_quality
        rows.append(
            {
                "seed": seed,
                "jpeg": simplejpeg.encode_jpeg(color, quality=quality, colorspace=space),
                "side": truth.side,
                "turn": (pose.phi_deg - scene.mount.face_on_deg) % 180.0,
                "box": end_of_pin(truth, size) if kind == "pin" else tuple(truth.box_px),
            }
        )
    return rows


def end_of_pin(truth: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the last part of a bare pin about its axis, as long as the pin is wide if in view."""
    (x, y), long, (width, height) = truth.tip_px, truth.width_px, size
    half = 0.5 * long
    return {
        "left": (max(x - long, 0.0), y - half, x, y + half),
        "right": (x, y - half, min(x + long, width - 1.0), y + half),
        "top": (x - half, max(y - long, 0.0), x + half, y),
        "bottom": (x - half, y, x + half, min(y + long, height - 1.0)),
    }[truth.side]


def make_drawings(out: Path, start: int, count: int) -> None:
    """Draw loops and mounts of plain shapes, lest the twin's habits be taken for the rule."""
    import simplejpeg
    from kind_drawings import drawing_with_mask

    out.mkdir(exist_ok=True)
    rows = []
    for seed in range(start, start + count):
        rng = np.random.default_rng(seed)
        kind = "nylon" if seed % 2 else "mitegen"
        gray, parts, _ = drawing_with_mask(rng, kind)
        head = np.argwhere(parts == 2)
        (y0, x0), (y1, x1) = head.min(0) - 0.5, head.max(0) + 0.5
        quality, color = int(rng.integers(70, 96)), np.ascontiguousarray(gray[:, :, None])
        data = simplejpeg.encode_jpeg(color, quality=quality, colorspace="GRAY")
        box = tuple(map(float, (x0, y0, x1, y1)))
        rows.append({"seed": seed, "jpeg": data, "side": "left", "turn": 0.0, "box": box})
    (out / f"drawn{start}.pkl").write_bytes(pickle.dumps(rows))


def make_crops(source: Path, out: Path) -> None:
    """Find the mount in each picture and save what the network gets, pictures as float16."""
    import simplejpeg

    rows: dict[str, list[Any]] = {name: [] for name in ("head", "view", "extras", "box", "meta")}
    for file in sorted(source.glob("*.pkl")):
        for row in pickle.loads(file.read_bytes()):
            gray = simplejpeg.decode_jpeg(row["jpeg"], colorspace="GRAY")[:, :, 0]
            seen = look_at(gray, row)
            if seen is None:
                continue
            crop, box = seen
            for name, picture in (("head", crop.head), ("view", crop.view)):
                rows[name].append(picture.astype(np.float16))
            rows["extras"].append(crop.extras)
            rows["box"].append(box)
            rows["meta"].append((row["seed"], row["turn"], crop.extent))
    arrays: dict[str, Any] = {name: np.array(values) for name, values in rows.items()}
    np.savez(out, **arrays)


def look_at(gray: Any, row: dict[str, Any]) -> tuple[Any, Any] | None:
    """Return the crop of the mount that the detector takes, and its head's box there.

    The box is neck and tip along, low and high across, from the middle of the crop, parts of its
    side. None if another mount is taken, or the box leaves the frame.
    """
    from skywright.instruments.loop.background import estimate_field
    from skywright.instruments.loop.choose import choose
    from skywright.instruments.loop.detect import MIN_SCORE
    from skywright.instruments.loop.head_net import Head
    from skywright.instruments.loop.kind_crop import crop
    from skywright.instruments.loop.objects import find_objects

    field, labels, stats = find_objects(estimate_field(gray))
    # What the network gets is cut out by what is known without it.
    unknown = Head(0.0, 0.0, 0.0, 0.0, np.full(4, np.inf))
    with patch("skywright.instruments.loop.choose.measure_head", return_value=unknown):
        choice = choose(gray, field, labels, stats)
    if choice is None or choice.score < MIN_SCORE or choice.outline.side != row["side"]:
        return None
    h, w = gray.shape
    x0, y0, x1, y1 = row["box"]
    if x0 < 0 or y0 < 0 or x1 > w - 1 or y1 > h - 1:
        return None
    seen = crop(gray, choice.outline, choice.parts, field, MARGIN)
    left, top = x0 + 0.5 - field.x0_px, y0 + 0.5 - field.y0_px
    right, bottom = field.x1_px - x0 - 0.5, field.y1_px - y0 - 0.5
    wide, high = x1 - x0, y1 - y0
    neck, tip, low, up = {
        "left": (left, left + wide, top, top + high),
        "right": (right - wide, right, top, top + high),
        "top": (top, top + high, left, left + wide),
        "bottom": (bottom - high, bottom, left, left + wide),
    }[row["side"]]
    u, v = seen.center
    box = np.array([neck - u, tip - u, low - v, up - v]) / seen.extent
    if abs(box[1] - 0.4) > 0.5 or abs(box[2:]).max() > 1.0:
        return None
    return seen, box.astype(np.float32)


def make_network(mean: Any, gain: Any, norms: bool) -> Any:
    """Return the network; its layers are those of `skywright.instruments.loop.head_net`."""
    import torch
    from torch import nn

    class HeadNet(nn.Module):
        """Head (n, 2, 64, 64), view (n, 2, 32, 32), numbers (n, 6) to places and log errors."""

        def __init__(self) -> None:
            super().__init__()
            self.head, self.view = branches(norms, HEAD_WIDTHS, into=3)
            self.register_buffer("mean", mean)
            self.register_buffer("gain", gain)
            self.hidden = nn.Linear(HEAD_WIDTHS[-1] * 64 + 32 * 16 + len(mean), 64)
            self.last = nn.Linear(64, 8)
            self.drop = nn.Dropout(0.1)

        def forward(self, head: Any, view: Any, numbers: Any) -> Any:
            scaled = ((numbers - self.mean) * self.gain).clamp(-4, 4)
            over_noise = 20.0 * numbers[:, 1].exp()
            head, view = (with_faint(picture, over_noise) for picture in (head, view))
            joined = torch.cat([self.head(head).flatten(1), self.view(view).flatten(1), scaled], 1)
            return self.last(self.drop(torch.relu(self.hidden(self.drop(joined)))))

    return HeadNet()


def with_faint(picture: Any, over_noise: Any) -> Any:
    """Add the channel that shows what is faint, as `skywright.instruments.loop.head_net` does."""
    import torch

    faint = torch.asinh(picture[:, :1] * over_noise[:, None, None, None] / 1.5) / 4.0
    return torch.cat([picture, faint], 1)


def varied(head: Any, view: Any, box: Any, numbers: Any) -> tuple[Any, Any, Any]:
    """Shift, scale and mirror, the boxes too; change contrast, noise and sharpness."""
    import torch

    n = len(head)
    along, across = uniform(n, -0.3, 0.3).exp(), uniform(n, -0.4, 0.4).exp()
    flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    scale = torch.stack([along, across * flip], 1)
    shift = torch.stack([uniform(n, -0.08, 0.08), uniform(n, -0.08, 0.08)], 1)
    # p_in = scale * p_out + shift, from the middle of the head's picture, parts of its side.
    neck, tip = ((box[:, k] - shift[:, 0]) / scale[:, 0] for k in (0, 1))
    edges = torch.sort((box[:, 2:] - shift[:, 1:]) / scale[:, 1:], 1).values
    appearance = Appearance(n, power=0.2)
    # What is measured by its noise has no more of it.
    noise = 0.05 / numbers[:, 1].exp()
    appearance.rough = torch.minimum(appearance.rough, noise[:, None, None])
    plain = (torch.rand(n) < 0.3)[:, None, None]
    specks = [specks_of(n, torch.cat([neck[:, None], tip[:, None], edges], 1)) for _ in range(3)]
    out = []
    for picture, part, center in ((head, 1.0, 0.0), (view, VIEW_OF_HEAD, VIEW_FROM_HEAD)):
        middle = torch.tensor([center, 0.0])
        move = (scale * middle - middle + shift) / part * 2.0
        seen = moved(picture, torch.cat([torch.diag_embed(scale), move[:, :, None]], 2))
        gray = appearance.change(seen[:, 0])
        outline = torch.where(plain & (seen[:, 1] > 0), 1.0, seen[:, 1])
        for speck in specks:
            gray, outline = dusty(gray, outline, speck, part, center)
        out.append(torch.stack([gray.clamp(-2.5, 2.5), outline], 1))
    return out[0], out[1], torch.cat([neck[:, None], tip[:, None], edges], 1)


def specks_of(n: int, box: Any) -> tuple[Any, ...]:
    """Draw a speck of dust for each picture: place, radius, strength, core, whether it counts.

    Most lie about the edges of the head, where they matter; half of the pictures have none.
    """
    import torch

    along = box[:, 0] + (box[:, 1] - box[:, 0]) * (1.4 * torch.rand(n) - 0.2)
    across = box[:, 2] + (box[:, 3] - box[:, 2]) * torch.rand(n)
    edge = torch.where(torch.rand(n) < 0.5, box[:, 2], box[:, 3]) + 0.12 * torch.randn(n)
    across = torch.where(torch.rand(n) < 0.7, edge, across)
    radius = 0.02 + 0.08 * torch.rand(n) ** 2
    faint = torch.rand(n) < 0.3
    strength = torch.where(faint, uniform(n, 0.05, 0.3), uniform(n, 0.2, 1.8))
    strength = strength * torch.where(torch.rand(n) < 0.8, -1.0, 1.0)
    strength = strength * (torch.rand(n) < 0.5)
    core = torch.where(torch.rand(n) < 0.5, torch.ones(n), 2.5 * torch.rand(n) - 1.5)
    return along, across, radius, strength, core, torch.rand(n) < 0.6


def dusty(gray: Any, outline: Any, speck: Any, part: float, center: float) -> tuple[Any, Any]:
    """Add a speck of dust, a blurred disc or ring; an outline that it touches may take it in."""
    import torch

    along, across, radius, strength, core, counts = (value[:, None, None] for value in speck)
    size = gray.shape[1]
    places = (torch.arange(size) + 0.5) / size - 0.5
    u, v = part * places[None, None, :] + center - along, part * places[None, :, None] - across
    far = torch.sqrt(u * u + v * v) / radius
    soft = 1.0 + part / size / radius
    disc = torch.sigmoid((1.0 - far) * 6.0 / soft)
    inner = torch.sigmoid((0.6 - far) * 6.0 / soft)
    gray = gray + strength * (disc - inner + core * inner)
    there = (far < 1.1) & (strength != 0) & counts
    touches = (there & (outline > 0)).flatten(1).any(1)[:, None, None]
    return gray, torch.where(there & touches & (outline == 0), 1.0, outline)


def loss_of(answer: Any, box: Any) -> Any:
    """Return the loss of places (n, 4) and the logarithms of their mean errors, Laplace's."""
    spread = answer[:, 4:].clamp(-6.0, 1.0)
    return ((answer[:, :4] - box).abs() * (-spread).exp() + spread).mean()


def train(source: Path, out: Path, start: Path | None, minutes: float, seed: int) -> None:
    """Train for some minutes of one core, judge by the last scenes, save."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = np.load(source)
    head, view = torch.from_numpy(data["head"]), torch.from_numpy(data["view"])
    numbers, box = torch.from_numpy(data["extras"]).float(), torch.from_numpy(data["box"])
    seeds = data["meta"][:, 0]
    drawn = seeds < FIRST_SEED
    held = torch.from_numpy((seeds > np.quantile(seeds[~drawn], 1 - HELD)) & ~drawn)
    mean, gain = numbers[~held].mean(0), 1.0 / (numbers[~held].std(0) + 1e-3)
    network = restored(start, make_network) if start else make_network(mean, gain, norms=True)
    network = network.to(memory_format=torch.channels_last)

    def loss(pick: Any) -> Any:
        pictures = as_float(head[pick]), as_float(view[pick])
        *seen, wanted = varied(*pictures, box[pick], numbers[pick])
        return loss_of(network(*seen, numbers[pick]), wanted)

    def report() -> None:
        judge(answers(network, head[held], view[held], numbers[held]), box[held])

    optimize(
        network,
        torch.nonzero(~held)[:, 0],
        loss,
        report,
        minutes=minutes,
        batch=BATCH,
        rate=FURTHER_RATE if start else RATE,
        decay=3e-3,
        warm=200,
    )
    report()
    weights = folded(network)
    half = {k: v.astype(np.float16) for k, v in weights.items() if k.endswith("kernel")}
    np.savez_compressed(out, **{**weights, **half})


def judge(answer: Any, box: Any) -> None:
    """Print loss, errors and how well they are known, parts of the crop's side."""
    error = (answer[:, :4] - box).abs().numpy()
    over = error / answer[:, 4:].clamp(-6, 1).exp().numpy()
    low, usual, high = (np.percentile(error, q, axis=0).round(3) for q in (50, 90, 97))
    sys.stdout.write(
        f"held {loss_of(answer, box).item():.3f} median {low} 90 % {usual} 97 % {high} "
        f"over expected {over.mean(0).round(2)}\n"
    )


def main() -> int:
    """Run one of the steps."""
    return run_steps(
        __doc__,
        {
            "scenes": (make_scenes, FIRST_SEED, 18_000),
            "pins": (make_pins, FIRST_PIN, 8000),
            "drawings": (make_drawings, FIRST_DRAWING, 1200),
        },
        ("crops", "find the mounts and cut them out", make_crops),
        train,
        minutes=45.0,
    )


if __name__ == "__main__":
    sys.exit(main())
