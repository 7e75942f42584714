"""Train the network that says where the end of a head is.

    python tools/train_tip_net.py scenes SCENES_DIR --count 20000    # needs skywright
    python tools/train_tip_net.py ends SCENES_DIR ENDS.npz           # needs skywright
    python tools/train_tip_net.py train ENDS.npz tip_net.npz         # needs torch

Scenes of the twin show a loop or mount at one angle. `ends` finds it in each picture, as the
detector does, and keeps what the network sees of its end
(`skywright.instruments.loop.tip_net.view`) and where in that the end truly is. `train` folds the
normalisations into the weights and writes them for `skywright.instruments.loop.tip_net`; the last
twentieth of the seeds is kept to judge by.
"""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from training import optimize, run_steps, save_scenes

FIRST_SEED, SHARD = 920_000, 50
LINES, COLUMNS, SEEN, NUMBERS = 64, 40, 3, 12  # as skywright.instruments.loop.tip_net has them
APART, AT_OUTLINE = (1, 2, 4), 7  # the place of the mark at the outline's end among the numbers
PARTS, WIDTHS, JOINED = ("picture", "lines"), (12, 16, 24), 32
SPREAD_PX, LEAST_SPREAD = 2.0, 0.7  # of the true place: px, lines
FARTHEST_PX = 40.0  # along from where it was looked for; farther is not its end
ALONG_WEIGHT = 0.5
HELD, BATCH, RATE, FURTHER_RATE = 0.05, 64, 3e-3, 5e-4


def make_scenes(out: Path, start: int, count: int) -> None:
    """Render scenes as JPEG with their truth."""
    save_scenes(out, start, count, SHARD, pictures_of)


def pictures_of(seed: int) -> list[dict[str, Any]]:
    """Return the picture of a scene, if it shows the end of a loop or mount."""
    import simplejpeg

    from skywright.instruments.loop.twin.render import render
    from skywright.instruments.loop.twin.scene import random_scene
    from skywright.instruments.loop.twin.trajectory import Pose

    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    frame = render(scene, Pose(phi_deg=float(rng.uniform(0, 360))), frame_seed=seed)
    truth = frame.truth
    if truth.kind in ("none", "pin") or not truth.tip_in_view or truth.tip_covered:
        return []
    color = np.ascontiguousarray(np.atleast_3d(frame.image))
    space = "RGB" if color.shape[2] == 3 else "GRAY"
    data = simplejpeg.encode_jpeg(color, quality=scene.optics.jpeg_quality, colorspace=space)
    height, width = color.shape[:2]
    tips = [
        (x, y)
        for x, y in (truth.tip_px, truth.crystal_tip_px)
        if -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5
    ]
    return [{"seed": seed, "jpeg": data, "side": truth.side, "tips": tips}] if tips else []


def make_ends(source: Path, out: Path) -> None:
    """Find the mount in each picture and save what the network sees of its end, as float16."""
    import pickle

    import simplejpeg

    rows: dict[str, list[Any]] = {n: [] for n in ("picture", "numbers", "place", "pitch", "seed")}
    for file in sorted(source.glob("*.pkl")):
        for row in pickle.loads(file.read_bytes()):
            gray = simplejpeg.decode_jpeg(row["jpeg"], colorspace="GRAY")[:, :, 0]
            for seen, place in look_at(gray, row):
                rows["picture"].append(seen.picture.astype(np.float16))
                rows["numbers"].append(seen.numbers.astype(np.float16))
                rows["place"].append(place)
                rows["pitch"].append(seen.pitch_px)
                rows["seed"].append(row["seed"])
    arrays: dict[str, Any] = {name: np.array(values) for name, values in rows.items()}
    np.savez(out, **arrays)


def look_at(gray: Any, row: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return the end that the detector looks at, and where in that the nearest true one is.

    The place is px along from where it was looked for and lines across. Nothing if another mount
    is taken, or its end is out of view.
    """
    from skywright.instruments.loop.detect import find_loop

    seen: list[Any] = []

    def middle_of(end: Any) -> tuple[float, float]:
        seen.append(end)
        return end.tip_px, end.middle_px

    with patch("skywright.instruments.loop.detect.tip_of", middle_of):
        found = find_loop(gray)  # with the middle of what is seen for its tip
    if not seen or found.side != row["side"] or not found.tip_in_view:
        return []
    shifts = [(x - found.tip_x, y - found.tip_y) for x, y in row["tips"]]
    along, across = turned(*min(shifts, key=lambda shift: np.hypot(*shift)), found.side)
    line = across / seen[0].pitch_px + 0.5 * LINES
    if not -1 < line < LINES + 1 or abs(along) > FARTHEST_PX:
        return []
    return [(seen[0], np.array([along, line], np.float32))]


def turned(x: float, y: float, side: str) -> tuple[float, float]:
    """Return a shift in the picture along, away from the pin, and across."""
    return {"left": (x, y), "right": (-x, y), "top": (y, x), "bottom": (-y, x)}[side]


def make_network(norms: bool) -> Any:
    """Return the network; its layers are those of `skywright.instruments.loop.tip_net`."""
    import torch
    from torch import nn

    class TipNet(nn.Module):
        """Picture (n, 3, 64, 40), numbers (n, 12, 64) to sums and places along, (n, 2, 64)."""

        def __init__(self) -> None:
            super().__init__()
            into = (SEEN, *WIDTHS[:-1])
            self.picture = nn.ModuleList(
                nn.Conv2d(a, b, 3, (1, 2), 1) for a, b in zip(into, WIDTHS, strict=True)
            )
            columns = COLUMNS // 2 ** len(WIDTHS)
            into = (WIDTHS[-1] * columns + NUMBERS, JOINED, JOINED)
            self.lines = nn.ModuleList(
                nn.Conv1d(a, JOINED, 5, 1, 2 * apart, apart)
                for a, apart in zip(into, APART, strict=True)
            )
            self.last = nn.Conv1d(JOINED, 2, 1)
            self.drop = nn.Dropout(0.1)
            self.norms = nn.ModuleDict(
                {
                    "picture": nn.ModuleList(nn.BatchNorm2d(n) for n in WIDTHS),
                    "lines": nn.ModuleList(nn.BatchNorm1d(JOINED) for _ in APART),
                }
                if norms
                else {name: nn.ModuleList(nn.Identity() for _ in APART) for name in PARTS}
            )

        def forward(self, picture: Any, numbers: Any) -> Any:
            for conv, norm in zip(self.picture, self.norms["picture"], strict=True):
                picture = torch.relu(norm(conv(picture)))
            maps = torch.cat([picture.permute(0, 1, 3, 2).flatten(1, 2), numbers], 1)
            for k, (conv, norm) in enumerate(zip(self.lines, self.norms["lines"], strict=True)):
                through = torch.relu(norm(conv(self.drop(maps))))
                maps = maps + through if k else through
            return self.last(maps)

    return TipNet()


def varied(picture: Any, numbers: Any, line: Any) -> tuple[Any, Any, Any]:
    """Mirror; change contrast and noise; leave out the mark at the outline's end of some."""
    import torch

    n = len(line)
    flip = torch.rand(n) < 0.5
    picture = torch.where(flip[:, None, None, None], picture.flip(2), picture)
    numbers = torch.where(flip[:, None, None], numbers.flip(2), numbers)
    line = torch.where(flip, LINES - line, line)
    gain, rough = torch.exp(0.15 * torch.randn(n, 1, 1, 1)), 0.05 * torch.rand(n, 1, 1, 1)
    gray = gain * picture[:, :1] + rough * torch.randn_like(picture[:, :1])
    kept = (torch.rand(n) > 0.2).float()[:, None, None]
    mark = slice(AT_OUTLINE, AT_OUTLINE + 1)
    parts = [numbers[:, :AT_OUTLINE], kept * numbers[:, mark], numbers[:, AT_OUTLINE + 1 :]]
    return torch.cat([gray, picture[:, 1:]], 1), torch.cat(parts, 1), line


def loss_of(said: Any, line: Any, along: Any, pitch: Any) -> Any:
    """Cross entropy of the line, and how far off along it is there."""
    import torch
    from torch.nn import functional

    places = torch.arange(LINES) + 0.5
    spread = (SPREAD_PX / pitch).clamp(min=LEAST_SPREAD)[:, None]
    wanted = torch.exp(-0.5 * ((places - line[:, None]) / spread) ** 2) + 1e-6
    wanted = wanted / wanted.sum(1, keepdim=True)
    across = -(wanted * torch.log_softmax(said[:, 0], 1)).sum(1).mean()
    off = functional.smooth_l1_loss((wanted * said[:, 1]).sum(1), along / pitch)
    return across + ALONG_WEIGHT * off


def train(source: Path, out: Path, start: Path | None, minutes: float, seed: int) -> None:
    """Train for some minutes of one core, judge by the last scenes, save."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = np.load(source)
    picture, numbers = torch.from_numpy(data["picture"]), torch.from_numpy(data["numbers"])
    along, line = torch.from_numpy(data["place"]).float().T
    pitch, seeds = torch.from_numpy(data["pitch"]).float(), data["seed"]
    held = torch.from_numpy(seeds > np.quantile(seeds, 1 - HELD))
    network = restored(start) if start else make_network(norms=True)

    def of(pick: Any) -> tuple[Any, Any]:
        return picture[pick].float().permute(0, 3, 1, 2), numbers[pick].float().permute(0, 2, 1)

    def loss(pick: Any) -> Any:
        *seen, wanted = varied(*of(pick), line[pick])
        return loss_of(network(*seen), wanted, along[pick], pitch[pick])

    def report() -> None:
        network.eval()
        with torch.no_grad():
            judge(network(*of(held)), along[held], line[held], pitch[held])
        network.train()

    optimize(
        network,
        torch.nonzero(~held)[:, 0],
        loss,
        report,
        minutes=minutes,
        batch=BATCH,
        rate=FURTHER_RATE if start else RATE,
        decay=1e-2,
        warm=100,
    )
    report()
    np.savez_compressed(out, **folded(network))


def judge(said: Any, along: Any, line: Any, pitch: Any) -> None:
    """Print the loss, and how far off the likeliest line and the place along are, px."""
    import torch

    chance = torch.softmax(said[:, 0], 1)
    across = (pitch * (said[:, 0].argmax(1) + 0.5 - line)).abs()
    off = (pitch * (chance * said[:, 1]).sum(1) - along).abs()
    at = torch.tensor([0.5, 0.9, 0.95])
    figures = [np.round(error.quantile(at).numpy(), 2) for error in (across, off)]
    sys.stdout.write(
        f"held {loss_of(said, line, along, pitch).item():.3f} across {figures[0]} "
        f"along {figures[1]}\n"
    )
    sys.stdout.flush()


def folded(network: Any) -> dict[str, Any]:
    """Return the weights as float16 arrays, channels last, normalisations folded in."""
    import torch

    out: dict[str, Any] = {}
    for name in PARTS:
        for k, (conv, norm) in enumerate(
            zip(getattr(network, name), network.norms[name], strict=True)
        ):
            kernel, bias = conv.weight, conv.bias
            if not isinstance(norm, torch.nn.Identity):
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                kernel = kernel * gain.reshape(-1, *[1] * (kernel.ndim - 1))
                bias = (bias - norm.running_mean) * gain + norm.bias
            kernel = kernel if kernel.ndim == 4 else kernel[:, :, :, None]
            out[f"{name}{k}_kernel"], out[f"{name}{k}_bias"] = kernel.permute(2, 3, 1, 0), bias
    out["last_kernel"], out["last_bias"] = network.last.weight[:, :, 0].T, network.last.bias
    arrays = {name: value.detach().contiguous().numpy() for name, value in out.items()}
    return {name: value.astype(np.float16) for name, value in arrays.items()}


def restored(file: Path) -> Any:
    """Return the network of saved weights, without normalisations."""
    import torch

    arrays = {name: torch.from_numpy(value).float() for name, value in np.load(file).items()}
    network = make_network(norms=False)
    with torch.no_grad():
        for name in PARTS:
            for k, conv in enumerate(getattr(network, name)):
                kernel = arrays[f"{name}{k}_kernel"].permute(3, 2, 0, 1)
                conv.weight.copy_(kernel.reshape(conv.weight.shape))
                conv.bias.copy_(arrays[f"{name}{k}_bias"])
        network.last.weight.copy_(arrays["last_kernel"].T[:, :, None])
        network.last.bias.copy_(arrays["last_bias"])
    return network


def main() -> int:
    """Run one of the steps."""
    return run_steps(
        __doc__,
        {"scenes": (make_scenes, FIRST_SEED, 20_000)},
        ("ends", "find the mounts and cut their ends out", make_ends),
        train,
        minutes=20.0,
    )


if __name__ == "__main__":
    sys.exit(main())
