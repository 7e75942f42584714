"""Train the network that measures the head of a loop or mount.

    python tools/train_head_net.py scenes SCENES_DIR --count 7000      # needs skywright
    python tools/train_head_net.py drawings SCENES_DIR --count 600     # needs simplejpeg, scipy
    python tools/train_head_net.py crops SCENES_DIR CROPS.npz          # needs skywright
    python tools/train_head_net.py train CROPS.npz head_net.npz        # needs torch

Scenes of the twin show each loop or mount at three angles; drawings of plain shapes come beside
them. `crops` finds it in each picture, as the detector does, and keeps what the network looks at
(`skywright.loop.kind_crop`, with a margin to shift and scale it in) and where in that its head is.
`train` puts dust beside the heads, folds the normalisations into the weights and writes them for
`skywright.loop.head_net`; the last tenth of the seeds is kept to judge by.
"""

import argparse
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from train_kind_net import as_float, middle_of

SIZES, SIZE_PARTS = ((352, 240), (480, 384), (704, 480), (640, 512)), (0.2, 0.15, 0.5, 0.15)
TURNS, SHARD, FIRST_SEED, FIRST_DRAWING = 3, 50, 820_000, 650_000
VIEW_OF_HEAD, VIEW_FROM_HEAD = 3.0, -0.8  # as skywright.loop.kind_crop has them
HELD, BATCH, RATE, FURTHER_RATE = 0.1, 64, 2e-3, 5e-4
MARGIN, COUNTS = 1.5, 50.0  # room to shift and turn in; levels of a stored picture for 1


def make_scenes(out: Path, start: int, count: int) -> None:
    """Render scenes as JPEG with their truth, `SHARD` of them to a file."""
    out.mkdir(exist_ok=True)
    for first in range(start, start + count, SHARD):
        rows = [row for seed in range(first, first + SHARD) for row in pictures_of(seed)]
        (out / f"{first}.pkl").write_bytes(pickle.dumps(rows))


def pictures_of(seed: int) -> list[dict[str, Any]]:
    """Return the pictures of a scene in which the whole head is seen."""
    import simplejpeg

    from skywright.loop.twin.render import render
    from skywright.loop.twin.scene import random_scene
    from skywright.loop.twin.trajectory import Pose

    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_PARTS)]
    kind = "nylon" if rng.random() < 0.6 else "mitegen"
    scene = random_scene(rng, kind=kind, width_px=width, height_px=height)
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
                "box": tuple(truth.box_px),
            }
        )
    return rows


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
    """Find the mount in each picture and save what the network gets, pictures as uint8."""
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
                packed = np.clip(np.round(picture * COUNTS) + 128, 0, 255)
                rows[name].append(packed.astype(np.uint8))
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
    from skywright.loop.background import estimate_field
    from skywright.loop.choose import choose
    from skywright.loop.detect import MIN_SCORE
    from skywright.loop.kind_crop import crop
    from skywright.loop.objects import find_objects

    field, labels, stats = find_objects(estimate_field(gray))
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
    """Return the network; its layers are those of `skywright.loop.head_net`."""
    import torch
    from torch import nn

    def block(into: int, out: int, size: int, stride: int) -> Any:
        conv = nn.Conv2d(into, out, size, stride, size // 2, bias=not norms)
        return nn.Sequential(conv, nn.BatchNorm2d(out) if norms else nn.Identity(), nn.ReLU())

    class HeadNet(nn.Module):
        """Head (n, 2, 64, 64), view (n, 2, 32, 32), numbers (n, 6) to places and log errors."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(
                block(2, 16, 5, 2), block(16, 24, 3, 2), block(24, 32, 3, 2), block(32, 32, 3, 1)
            )
            self.view = nn.Sequential(block(2, 16, 3, 2), block(16, 24, 3, 2), block(24, 32, 3, 2))
            self.register_buffer("mean", mean)
            self.register_buffer("gain", gain)
            self.hidden = nn.Linear(32 * 64 + 32 * 16 + len(mean), 64)
            self.last = nn.Linear(64, 8)
            self.drop = nn.Dropout(0.1)

        def forward(self, head: Any, view: Any, numbers: Any) -> Any:
            scaled = ((numbers - self.mean) * self.gain).clamp(-4, 4)
            joined = torch.cat([self.head(head).flatten(1), self.view(view).flatten(1), scaled], 1)
            return self.last(self.drop(torch.relu(self.hidden(self.drop(joined)))))

    return HeadNet()


def varied(head: Any, view: Any, box: Any) -> tuple[Any, Any, Any]:
    """Shift, scale and mirror, the boxes too; change contrast, noise and sharpness."""
    import torch
    from torch.nn import functional

    n = len(head)

    def uniform(low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(n)

    along, across = uniform(-0.3, 0.3).exp(), uniform(-0.4, 0.4).exp()
    flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    scale = torch.stack([along, across * flip], 1)
    shift = torch.stack([uniform(-0.08, 0.08), uniform(-0.08, 0.08)], 1)
    # p_in = scale * p_out + shift, from the middle of the head's picture, parts of its side.
    neck, tip = ((box[:, k] - shift[:, 0]) / scale[:, 0] for k in (0, 1))
    edges = torch.sort((box[:, 2:] - shift[:, 1:]) / scale[:, 1:], 1).values
    gain, power = uniform(0.75, 1.3)[:, None, None], uniform(-0.4, 0.4).exp()[:, None, None]
    soft = torch.rand(n)[:, None, None] * (torch.rand(n) < 0.5)[:, None, None]
    rough = uniform(0.0, 0.15)[:, None, None] * (torch.rand(n) < 0.5)[:, None, None]
    plain = (torch.rand(n) < 0.3)[:, None, None]
    specks = [specks_of(n, torch.cat([neck[:, None], tip[:, None], edges], 1)) for _ in range(2)]
    out = []
    for picture, part, center in ((head, 1.0, 0.0), (view, VIEW_OF_HEAD, VIEW_FROM_HEAD)):
        size = round(picture.shape[2] / MARGIN)
        middle = torch.tensor([center, 0.0])
        move = (scale * middle - middle + shift) / part * 2.0
        place = torch.cat([torch.diag_embed(scale), move[:, :, None]], 2) / MARGIN
        grid = functional.affine_grid(place, [n, 2, size, size], align_corners=False)
        seen = functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)
        gray = seen[:, 0].sign() * seen[:, 0].abs().clamp(min=1e-3) ** power * gain
        blurred = gray[:, None]
        for width in (3, 5):
            blurred = functional.avg_pool2d(blurred, width, 1, width // 2, count_include_pad=False)
        gray = gray + soft * (blurred[:, 0] - gray) + rough * torch.randn_like(gray)
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
    strength = (0.2 + 1.3 * torch.rand(n)) * torch.where(torch.rand(n) < 0.8, -1.0, 1.0)
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
    network = restored(start) if start else make_network(mean, gain, norms=True)
    network = network.to(memory_format=torch.channels_last)
    rate = FURTHER_RATE if start else RATE
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=3e-3)
    begun, step, last = time.process_time(), 0, 0.0
    rows = torch.nonzero(~held)[:, 0]
    order = rows[torch.randperm(len(rows))]
    while (part := (time.process_time() - begun) / (60.0 * minutes)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * part))
        if len(order) < BATCH:
            order = rows[torch.randperm(len(rows))]
        pick, order = order[:BATCH], order[BATCH:]
        *pictures, wanted = varied(as_float(head[pick]), as_float(view[pick]), box[pick])
        loss = loss_of(network(*pictures, numbers[pick]), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        if part - last > 0.1:
            last = part
            judge(network, head[held], view[held], numbers[held], box[held], f"{part:4.0%} {step}")
    judge(network, head[held], view[held], numbers[held], box[held], "end")
    np.savez_compressed(out, **folded(network))


def judge(network: Any, head: Any, view: Any, numbers: Any, box: Any, name: str) -> None:
    """Print loss, errors and how well they are known, parts of the crop's side."""
    import torch

    network.eval()
    with torch.no_grad():
        parts = [
            network(
                middle_of(as_float(head[i : i + 256])),
                middle_of(as_float(view[i : i + 256])),
                numbers[i : i + 256],
            )
            for i in range(0, len(head), 256)
        ]
    network.train()
    answer = torch.cat(parts)
    error = (answer[:, :4] - box).abs().numpy()
    over = error / answer[:, 4:].clamp(-6, 1).exp().numpy()
    low, usual, high = (np.percentile(error, q, axis=0).round(3) for q in (50, 90, 97))
    sys.stdout.write(
        f"{name} loss {loss_of(answer, box).item():.3f} median {low} 90 % {usual} 97 % {high} "
        f"over expected {over.mean(0).round(2)}\n"
    )
    sys.stdout.flush()


def folded(network: Any) -> dict[str, Any]:
    """Return the weights as arrays, channels last, normalisations folded in."""
    out: dict[str, Any] = {}
    for name in ("head", "view"):
        for k, (conv, norm, _) in enumerate(getattr(network, name)):
            kernel, bias = conv.weight, conv.bias
            if bias is None:
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                kernel = kernel * gain[:, None, None, None]
                bias = norm.bias - norm.running_mean * gain
            out[f"{name}{k}_kernel"], out[f"{name}{k}_bias"] = kernel.permute(2, 3, 1, 0), bias
    out["mean"], out["gain"] = network.mean, network.gain
    out["hidden_kernel"], out["hidden_bias"] = network.hidden.weight, network.hidden.bias
    out["last_kernel"], out["last_bias"] = network.last.weight, network.last.bias
    arrays = {name: value.detach().contiguous().numpy() for name, value in out.items()}
    return {k: v.astype(np.float16) if k.endswith("kernel") else v for k, v in arrays.items()}


def restored(file: Path) -> Any:
    """Return the network of saved weights, without normalisations."""
    import torch

    arrays = {name: torch.from_numpy(value).float() for name, value in np.load(file).items()}
    network = make_network(arrays["mean"], arrays["gain"], norms=False)
    with torch.no_grad():
        for name in ("head", "view"):
            for k, (conv, _, _) in enumerate(getattr(network, name)):
                conv.weight.copy_(arrays[f"{name}{k}_kernel"].permute(3, 2, 0, 1))
                conv.bias.copy_(arrays[f"{name}{k}_bias"])
        for name in ("hidden", "last"):
            getattr(network, name).weight.copy_(arrays[f"{name}_kernel"])
            getattr(network, name).bias.copy_(arrays[f"{name}_bias"])
    return network


def main() -> int:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for name, first, count in (("scenes", FIRST_SEED, 7000), ("drawings", FIRST_DRAWING, 600)):
        made = steps.add_parser(name)
        made.add_argument("out", type=Path)
        made.add_argument("--count", type=int, default=count)
        made.add_argument("--first", type=int, default=first)
    crops = steps.add_parser("crops", help="find the mounts and cut them out")
    crops.add_argument("scenes", type=Path)
    crops.add_argument("out", type=Path)
    fit = steps.add_parser("train", help="train and save the weights")
    fit.add_argument("crops", type=Path)
    fit.add_argument("out", type=Path)
    fit.add_argument("--start", type=Path, help="weights to train further")
    fit.add_argument("--minutes", type=float, default=16.0, help="of CPU (%(default)s)")
    fit.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.step == "scenes":
        make_scenes(args.out, args.first, args.count)
    elif args.step == "drawings":
        make_drawings(args.out, args.first, args.count)
    elif args.step == "crops":
        make_crops(args.scenes, args.out)
    else:
        train(args.crops, args.out, args.start, args.minutes, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
