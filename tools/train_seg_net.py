"""Train the network that tells what of a picture is the mount.

    python tools/train_seg_net.py scenes A --first 801000 --count 3500    # needs skywright
    python tools/train_seg_net.py drawings A --first 880000 --count 700   # needs skywright, scipy
    python tools/train_seg_net.py views A VIEWS.npz                       # needs skywright
    python tools/train_seg_net.py train VIEWS.npz seg_net.npz --minutes 13 --seed 1   # needs torch

Scenes of the twin show each mount at three angles; the first picture is as the twin makes it, the
others are stretched, cut, occluded, relit, blurred or inverted (`tools/seg_scenes.py`). Plain
drawings come beside them. `views` makes of each picture what the network sees
(`skywright.instruments.loop.seg_net.view`) and its targets on the network's grid: part of a cell
that is mount, or head, and a spot at the tip. `train` writes the weights for
`skywright.instruments.loop.seg_net`; scenes with the last twentieth of the seeds are kept to judge
by. The pictures take some 10 minutes of one core. `--minutes` are those of the processor: the tool
gives weights like those of the package, not their bits.
"""

import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from training import optimize, run_steps, save_scenes

FIRST_SEED, FIRST_DRAWING, SHARD = 801_000, 880_000, 50
"""Scenes for training; the tests draw theirs below 30000."""
HELD = 0.05  # of the scenes
CHANNELS = {"a": 16, "b": 24, "c": 48, "d": 96}
SLIM, SEEN, OUT = 8, 8, 3
KINDS, UNTOLD = ("nylon", "mitegen", "pin"), -100
LEAST_PART = 0.05  # of a coarse cell; below it the kind is told from nothing
COUNTS = 40.0  # levels of a stored view for 1
TIP_CELLS = 1.2  # sigma of the spot at the tip
BATCH, RATE, FURTHER_RATE = 32, 3e-3, 1e-3
TIP_WEIGHT, SIDE_WEIGHT, KIND_WEIGHT, DICE_WEIGHT = 0.5, 0.15, 0.1, 0.5


def make_scenes(out: Path, start: int, count: int) -> None:
    """Render scenes."""
    from seg_scenes import pictures_of

    save_scenes(out, start, count, SHARD, pictures_of)


def make_drawings(out: Path, start: int, count: int) -> None:
    """Draw plain loops and mounts, lest the twin's habits be taken for the rule."""
    from seg_scenes import drawing_of

    out.mkdir(exist_ok=True)
    rows = [drawing_of(seed) for seed in range(start, start + count)]
    (out / f"drawn{start}.pkl").write_bytes(pickle.dumps(rows))


def make_views(source: Path, out: Path) -> None:
    """Save views and targets, both as small integers."""
    import simplejpeg

    from skywright.instruments.loop.background import estimate_field
    from skywright.instruments.loop.objects import find_objects
    from skywright.instruments.loop.seg_net import view

    rows: dict[str, list[Any]] = {name: [] for name in ("view", "target", "side", "kind", "seed")}
    for file in sorted(source.glob("*.pkl")):
        for row in pickle.loads(file.read_bytes()):
            gray = simplejpeg.decode_jpeg(row["jpeg"], colorspace="GRAY")[:, :, 0]
            field, _, _ = find_objects(estimate_field(gray))
            seen = np.clip(np.round(view(field) * COUNTS), -127, 127)
            rows["view"].append(seen.astype(np.int8))
            rows["target"].append(np.round(255 * targets(row, field)).astype(np.uint8))
            rows["side"].append(row["side"])
            rows["kind"].append(KINDS.index(row["kind"]) if row["side"] else UNTOLD)
            rows["seed"].append(row["seed"])
    arrays: dict[str, Any] = {name: np.array(values) for name, values in rows.items()}
    np.savez(out, **arrays)


def targets(row: dict[str, Any], field: Any) -> Any:
    """Return (3, rows, columns) 0..1: mount, head, spot at the tip, on the grid over the field."""
    from skywright.instruments.loop.seg_net import GRID

    parts = np.frombuffer(zlib.decompress(row["mask"]), np.uint8).reshape(row["shape"])
    step, fine = field.step_px, 4
    x = field.x0_px + (np.arange(fine * GRID[1]) + 0.5) / (fine * GRID[1]) * (
        field.x1_px - field.x0_px
    )
    y = field.y0_px + (np.arange(fine * GRID[0]) + 0.5) / (fine * GRID[0]) * (
        field.y1_px - field.y0_px
    )
    pick = np.ix_(
        np.clip((y / step).astype(int), 0, parts.shape[0] - 1),
        np.clip((x / step).astype(int), 0, parts.shape[1] - 1),
    )
    blocks = parts[pick].reshape(GRID[0], fine, GRID[1], fine)
    out = np.zeros((OUT, *GRID))
    out[0], out[1] = (blocks > 0).mean(axis=(1, 3)), (blocks > 1).mean(axis=(1, 3))
    if row["tip"] is not None:
        column = (row["tip"][0] + 0.5 - field.x0_px) / (field.x1_px - field.x0_px) * GRID[1]
        line = (row["tip"][1] + 0.5 - field.y0_px) / (field.y1_px - field.y0_px) * GRID[0]
        i, j = np.mgrid[0 : GRID[0], 0 : GRID[1]] + 0.5
        out[2] = np.exp(-0.5 * ((i - line) ** 2 + (j - column) ** 2) / TIP_CELLS**2)
    return out


def make_network(norms: bool = True) -> Any:
    """Return the network; its layers are those of `skywright.instruments.loop.seg_net.run`.

    `norms` puts a normalisation behind each convolution.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    a, b, c, d = CHANNELS.values()

    def conv(into: int, out: int) -> Any:
        norm = nn.BatchNorm2d(out) if norms else nn.Identity()
        return nn.Sequential(nn.Conv2d(into, out, 3, 1, 1, bias=not norms), norm)

    class SegNet(nn.Module):
        """Views (n, 8, 56, 80) to sums (n, 3, 56, 80), sides (n, 5), kinds (n, 3)."""

        def __init__(self) -> None:
            super().__init__()
            self.convolutions = nn.ModuleDict(
                {
                    "a0": conv(SEEN, a), "b0": conv(a, b), "b1": conv(b, b), "c0": conv(b, c),
                    "c1": conv(c, c), "d0": conv(c, d), "d1": conv(d, d), "d2": conv(d, d),
                    "e0": conv(c, c), "f0": conv(b, b), "g0": conv(a, a),
                }
            )  # fmt: skip
            self.whole = nn.Linear(d, d)
            self.mixes = nn.ModuleDict(
                {
                    "dc": nn.Conv2d(d, c, 1, bias=False),
                    "cb": nn.Conv2d(c, b, 1, bias=False),
                    "ba": nn.Conv2d(b, a, 1, bias=False),
                }
            )
            self.out = nn.Conv2d(a, OUT, 1)
            self.slim = nn.Conv2d(d, SLIM, 1)
            self.side = nn.Linear(SLIM * 70, 5)
            self.kind = nn.Linear(2 * d, len(KINDS))
            self.drop = nn.Dropout(0.2)

        def forward(self, seen: Any) -> tuple[Any, Any, Any]:
            def through(name: str, maps: Any) -> Any:
                return torch.relu(self.convolutions[name](maps))

            def larger(name: str, maps: Any) -> Any:
                return functional.interpolate(self.mixes[name](maps), scale_factor=2)

            a0 = through("a0", seen)
            b1 = through("b1", through("b0", functional.max_pool2d(a0, 2)))
            c1 = through("c1", through("c0", functional.max_pool2d(b1, 2)))
            d1 = through("d1", through("d0", functional.max_pool2d(c1, 2)))
            whole = torch.relu(self.whole(d1.mean(dim=(2, 3))))
            d2 = through("d2", d1 + whole[:, :, None, None])
            e0 = through("e0", c1 + larger("dc", d2))
            f0 = through("f0", b1 + larger("cb", e0))
            g0 = through("g0", a0 + larger("ba", f0))
            slim = torch.relu(self.slim(d2)).flatten(1)
            sums = self.out(g0)
            # Of the mount alone, and of its head alone.
            parts = functional.avg_pool2d(torch.sigmoid(sums[:, :2]), 8)
            of_parts = [
                (d2 * part).sum((2, 3)) / (part.sum((2, 3)) + LEAST_PART)
                for part in (parts[:, :1], parts[:, 1:])
            ]
            kinds = self.kind(self.drop(torch.cat(of_parts, 1)))
            return sums, self.side(self.drop(slim)), kinds

    return SegNet()


def varied(seen: Any, target: Any, side: Any) -> tuple[Any, Any, Any]:
    """Mirror, invert; change contrast, noise and light."""
    import torch

    n = len(seen)
    side = side.clone()
    # Quarters are ordered (upper left, upper right, lower left, lower right), twice.
    for axis, order, here in ((3, (1, 0, 3, 2, 5, 4, 7, 6), 1), (2, (2, 3, 0, 1, 6, 7, 4, 5), 3)):
        flip = torch.rand(n) < 0.5
        seen = torch.where(flip[:, None, None, None], seen[:, list(order)].flip(axis), seen)
        target = torch.where(flip[:, None, None, None], target.flip(axis), target)
        swapped = torch.where(side == here, here + 1, torch.where(side == here + 1, here, side))
        side = torch.where(flip, swapped, side)
    sign = torch.where(torch.rand(n) < 0.05, -1.0, 1.0)
    gain = sign[:, None] * torch.exp(0.15 * torch.randn(n, 2))
    offset = 0.2 * torch.randn(n)
    rough = 0.1 * torch.rand(n) * (torch.rand(n) < 0.5)
    gray = gain[:, 0, None, None, None] * seen[:, :4] + offset[:, None, None, None]
    seen = torch.cat([gray, gain[:, 1, None, None, None] * seen[:, 4:]], 1)
    return seen + rough[:, None, None, None] * torch.randn_like(seen), target, side


def loss_of(said: tuple[Any, Any, Any], target: Any, side: Any, kind: Any) -> Any:
    """Cross entropies, and overlap of the masks, which does not care for the empty rest."""
    import torch
    from torch.nn import functional

    sums, sides, kinds = said
    entropy = functional.binary_cross_entropy_with_logits
    spot = torch.where(target[:, 2] > 0.05, 8.0, 1.0)
    loss = entropy(sums[:, :2], target[:, :2])
    loss = 2 * loss + TIP_WEIGHT * entropy(sums[:, 2], target[:, 2], weight=spot)
    part = torch.sigmoid(sums[:, :2])
    common = (part * target[:, :2]).sum((2, 3))
    both = part.sum((2, 3)) + target[:, :2].sum((2, 3))
    loss = loss + DICE_WEIGHT * (1 - (2 * common + 4) / (both + 4)).mean()
    loss = loss + SIDE_WEIGHT * functional.cross_entropy(sides, side, label_smoothing=0.02)
    smooth = functional.cross_entropy(kinds, kind, ignore_index=UNTOLD, label_smoothing=0.03)
    return loss + KIND_WEIGHT * torch.nan_to_num(smooth)


def train(source: Path, out: Path, start: Path | None, minutes: float, seed: int) -> None:
    """Train for some minutes of one core, judge by the last scenes, save."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = np.load(source)
    view, target = torch.from_numpy(data["view"]), torch.from_numpy(data["target"])
    side, kind = (torch.from_numpy(data[name]).long() for name in ("side", "kind"))
    seeds = data["seed"]
    scenes = seeds < FIRST_DRAWING
    held = torch.from_numpy(scenes & (seeds > np.quantile(seeds[scenes], 1 - HELD)))
    network = restored(start) if start else make_network()
    network = network.to(memory_format=torch.channels_last)

    def loss(pick: Any) -> Any:
        seen, wanted, sides = varied(as_float(view[pick]), target[pick].float() / 255, side[pick])
        said = network(seen.contiguous(memory_format=torch.channels_last))
        return loss_of(said, wanted, sides, kind[pick])

    def report() -> None:
        np.savez_compressed(out, **folded(network))
        judge(network, view[held], target[held], side[held], kind[held])

    optimize(
        network,
        torch.nonzero(~held)[:, 0],
        loss,
        report,
        minutes=minutes,
        batch=BATCH,
        rate=FURTHER_RATE if start else RATE,
        decay=1e-3,
        warm=100,
    )
    report()


def as_float(view: Any) -> Any:
    """Turn stored views into float32."""
    return view.float() / COUNTS


def judge(network: Any, view: Any, target: Any, side: Any, kind: Any) -> None:
    """Print overlaps of the masks, how near the tip is, how often side and kind are right."""
    import torch

    network.eval()
    with torch.no_grad():
        parts = [network(as_float(view[i : i + 128])) for i in range(0, len(view), 128)]
    network.train()
    sums, sides, kinds = (torch.cat([p[k] for p in parts]) for k in range(3))
    wanted = target.float() / 255 > 0.5
    found = sums > 0
    figures = []
    for k in range(2):
        union = (found[:, k] | wanted[:, k]).sum((1, 2)).float()
        common = (found[:, k] & wanted[:, k]).sum((1, 2)).float()
        some = wanted[:, k].sum((1, 2)) > 3
        figures.append(f"{(common / union.clamp(min=1))[some].quantile(torch.tensor([0.1, 0.5]))}")
    peak, truth = sums[:, 2].flatten(1).argmax(1), target[:, 2].flatten(1).float()
    tips = truth.max(1).values > 200
    near = truth.gather(1, peak[:, None])[:, 0] > 255 * 0.05
    right = (sides.argmax(1) == side).float().mean()
    told = kind != UNTOLD
    kept = (kinds.argmax(1) == kind)[told].float().mean()
    sys.stdout.write(
        f"overlap {figures} tip {near[tips].float().mean():.3f} side {right:.3f} kind {kept:.3f}\n"
    )
    sys.stdout.flush()


def folded(network: Any) -> dict[str, Any]:
    """Return the weights as arrays, normalisations folded in."""
    out: dict[str, Any] = {}
    for name, (conv, norm) in network.convolutions.items():
        out[f"{name}_kernel"], out[f"{name}_bias"] = conv.weight, conv.bias
        if conv.bias is None:
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            out[f"{name}_kernel"] = conv.weight * gain[:, None, None, None]
            out[f"{name}_bias"] = norm.bias - norm.running_mean * gain
    for name, conv in network.mixes.items():
        out[f"{name}_kernel"] = conv.weight[:, :, 0, 0]
    for name in ("out", "slim"):
        layer = getattr(network, name)
        out[f"{name}_kernel"], out[f"{name}_bias"] = layer.weight[:, :, 0, 0], layer.bias
    for name in ("whole", "side", "kind"):
        layer = getattr(network, name)
        out[f"{name}_kernel"], out[f"{name}_bias"] = layer.weight, layer.bias
    half = {name: value.detach().contiguous().numpy() for name, value in out.items()}
    return {name: value.astype(np.float16) for name, value in half.items()}


def restored(file: Path) -> Any:
    """Return the network of saved weights, without normalisations."""
    import torch

    arrays = {name: torch.from_numpy(value).float() for name, value in np.load(file).items()}
    network = make_network(norms=False)
    layers = {name: pair[0] for name, pair in network.convolutions.items()}
    layers |= dict(network.mixes.items())
    layers |= {name: getattr(network, name) for name in ("out", "slim", "whole", "side", "kind")}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(arrays[f"{name}_kernel"].reshape(layer.weight.shape))
            if layer.bias is not None:
                layer.bias.copy_(arrays[f"{name}_bias"])
    return network


def main() -> int:
    """Run one of the steps."""
    return run_steps(
        __doc__,
        {
            "scenes": (make_scenes, FIRST_SEED, 3500),
            "drawings": (make_drawings, FIRST_DRAWING, 700),
        },
        ("views", "make what the network sees, and its targets", make_views),
        train,
        minutes=13.0,
    )


if __name__ == "__main__":
    sys.exit(main())
