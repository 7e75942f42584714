"""The loss and the loop of training."""

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from names import INPUT, KINDS, MASKS
from network import COARSE, FINE, LoopNetwork
from torch import Tensor
from torch.nn import functional

BATCH = 32
NEAR_CELLS = 2.5  # so far from the tip its offset is learned
SPREAD_CELLS = 1.3  # of the peaks at tip and begin
AVERAGE = 0.998  # of the running average of the weights
WHOLE = 0.45  # part of the pictures that are seen whole
SMALLEST_PART = 0.3  # of width and height of a picture
BEYOND = 0.1  # part of the pictures in which the mount is made to reach past the far border
# A mirror exchanges these sides: none, left, right, top, bottom.
MIRRORED = {"x": torch.tensor([0, 2, 1, 3, 4]), "y": torch.tensor([0, 1, 2, 4, 3])}
log = logging.getLogger("train_loop")


class Pool:
    """The pictures in a folder; new shards are read when asked."""

    def __init__(self, folder: Path, without: str) -> None:
        self.folder, self.without = folder, without
        self.read: set[str] = set()
        self.parts: list[list[Tensor]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that were added."""
        for path in sorted(self.folder.glob("*-*.npz")):
            if path.name in self.read or path.name.startswith("half"):
                continue
            if self.without and path.name.startswith(self.without):
                continue
            with np.load(path) as held:
                arrays = [torch.from_numpy(held[k]) for k in ("gray", "bits", "numbers")]
            self.parts.append(arrays)
            self.read.add(path.name)
        self.gray, self.bits, self.numbers = (
            torch.cat(column) for column in zip(*self.parts, strict=True)
        )

    def revision(self) -> str:
        """Return a short hash of the names of what was read."""
        return hashlib.sha256(" ".join(sorted(self.read)).encode()).hexdigest()[:12]

    def batch(self, pick: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures, masks and numbers: whole or in part, mirrored and lit at random."""
        gray = self.gray[pick].float()[:, None]
        bits = self.bits[pick]
        masks = torch.stack([(bits >> k) & 1 for k in range(len(MASKS))], 1).float()
        gray, masks, numbers = cut_out(gray, masks, self.numbers[pick].clone())
        if torch.rand(()) < 0.5:
            gray, masks = gray.flip(3), masks.flip(3)
            numbers[:, [2, 4]] = 1 - numbers[:, [2, 4]]
            numbers[:, [6, 8]] = 1 - numbers[:, [8, 6]]
            numbers[:, 1] = MIRRORED["x"][numbers[:, 1].long()].float()
        if torch.rand(()) < 0.5:
            gray, masks = gray.flip(2), masks.flip(2)
            numbers[:, [3, 5]] = 1 - numbers[:, [3, 5]]
            numbers[:, [7, 9]] = 1 - numbers[:, [9, 7]]
            numbers[:, 1] = MIRRORED["y"][numbers[:, 1].long()].float()
        n = len(gray)
        factor = torch.exp(0.25 * torch.randn(n, 1, 1, 1))
        noise = torch.rand(n, 1, 1, 1) ** 3 * 6.0 * torch.randn_like(gray)
        gray = (gray * factor + noise + 10.0 * torch.randn(n, 1, 1, 1)).clamp(0, 255)
        invert = (torch.rand(n, 1, 1, 1) < 0.07).float()
        gray = invert * (255 - gray) + (1 - invert) * gray
        return gray, masks, numbers


def cut_out(gray: Tensor, masks: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a first look sees, the whole picture, or a second one: a part about the end.

    Pictures come out at the size of the network's input, masks at that of its maps.
    """
    n = len(gray)
    box = numbers[:, 6:10]
    middle = (box[:, :2] + box[:, 2:]) / 2
    tip = torch.where(torch.isfinite(numbers[:, 2:4]), numbers[:, 2:4], middle)
    about = torch.where(torch.rand(n, 1) < 0.5, tip, middle)
    about = torch.where(torch.isfinite(about), about, torch.rand(n, 2))
    # A head is to fill a third to all of the part; one that fills the picture is seen whole.
    head = (box[:, 2:] - box[:, :2]).amax(1).nan_to_num(0.3)
    head[numbers[:, 0] == KINDS.index("pin")] = 0.3  # its end is looked at, not its length
    size = (head * torch.exp(torch.rand(n) * 1.4)).clamp(SMALLEST_PART, 1.0)
    size = torch.where(torch.rand(n) < WHOLE, torch.ones(n), size)[:, None]
    about = about + 0.15 * size * torch.randn(n, 2)
    first = torch.minimum((about - size / 2).clamp(min=0), 1 - size)
    first, size = _ended_before_the_tip(first, size, numbers)
    rows, columns = INPUT
    # Twice as fine, then the mean of 2 x 2: else what is small would be skipped.
    gray = _sampled(gray, first, size, 2 * rows, 2 * columns)
    gray = gray.view(n, 1, rows, 2, columns, 2).mean((3, 5))
    masks = (_sampled(masks, first, size, rows // FINE, columns // FINE) > 0.4).float()
    numbers[:, 2:10] = (numbers[:, 2:10] - first.repeat(1, 4)) / size
    for at in (2, 4):
        outside = ((numbers[:, at : at + 2] < 0) | (numbers[:, at : at + 2] > 1)).any(1)
        numbers[outside, at : at + 2] = torch.nan
    numbers[:, 6:10] = numbers[:, 6:10].clamp(0, 1)
    slim = (numbers[:, 8:10] - numbers[:, 6:8] < 0.01).any(1)
    numbers[slim, 6:10] = torch.nan
    # A part that shows no cell of the mount is labelled as empty.
    empty = masks[:, :3].sum((1, 2, 3)) < 1
    numbers[empty, 0] = numbers[empty, 1] = 0
    numbers[empty, 2:10] = torch.nan
    return gray, masks, numbers


def _ended_before_the_tip(first: Tensor, size: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Let some parts, (N, 2) and (N, 1), end on the stem: such pictures show no tip."""
    n = len(first)
    side, tip = numbers[:, 1].long(), numbers[:, 2:4]
    along = (side > 2).long()[:, None]  # 0 from left or right, 1 from top or bottom
    back = ((side == 2) | (side == 4))[:, None]
    reach = torch.where(back, 1 - tip, tip).gather(1, along)
    begin = torch.where(back, 1 - numbers[:, 4:6], numbers[:, 4:6]).gather(1, along).nan_to_num(0)
    cut = begin + torch.rand(n, 1) * (reach - begin) - 0.01
    wanted = (torch.rand(n, 1) < BEYOND) & (side[:, None] > 0) & (cut > SMALLEST_PART)
    at = torch.where(back, 1 - cut, torch.zeros(n, 1))
    across = (tip.gather(1, 1 - along) - cut * torch.rand(n, 1)).clamp(min=0)
    across = torch.minimum(across, 1 - cut)
    placed = torch.where(along == 0, torch.cat([at, across], 1), torch.cat([across, at], 1))
    return torch.where(wanted, placed, first), torch.where(wanted, cut, size)


def _sampled(picture: Tensor, first: Tensor, size: Tensor, rows: int, columns: int) -> Tensor:
    """Sample the parts that begin at `first`, (N, 2), with `size`, (N, 1), of the picture."""
    # Sums of vectors: affine_grid multiplies matrices, which takes half the time of a batch.
    x = first[:, 0, None] + size * (torch.arange(columns) + 0.5) / columns
    y = first[:, 1, None] + size * (torch.arange(rows) + 0.5) / rows
    grid = torch.empty(len(picture), rows, columns, 2)
    grid[..., 0], grid[..., 1] = (2 * x - 1)[:, None, :], (2 * y - 1)[:, :, None]
    return functional.grid_sample(
        picture, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def loss_of(outputs: Any, masks: Tensor, numbers: Tensor) -> dict[str, Tensor]:
    """Return the parts of the loss of a batch."""
    maps, edges, side, kind = (out.float() for out in outputs)
    known = numbers[:, 10].view(-1, 1, 1)
    weight = torch.ones_like(masks)
    weight[:, MASKS.index("other")] = known.expand(-1, *masks.shape[2:])
    logits = maps[:, : len(MASKS)]
    cross = functional.binary_cross_entropy_with_logits(logits, masks, weight)
    likely = logits.sigmoid() * weight
    both = (likely * masks * weight).sum((0, 2, 3))
    dice = 1 - (2 * both + 20) / ((likely + masks * weight).sum((0, 2, 3)) + 20)
    far_tip, far_begin = _distances(maps, numbers[:, 2:4]), _distances(maps, numbers[:, 4:6])
    return {
        "mask": 3.0 * cross + 0.5 * dice.mean(),
        "tip": _peak_loss(maps[:, 5], far_tip),
        "begin": 0.4 * _peak_loss(maps[:, 6], far_begin),
        "offset": 0.3 * _offset_loss(maps, far_tip),
        "edges": 0.5 * _edges_loss(edges, masks, numbers),
        "side": functional.cross_entropy(side, numbers[:, 1].long(), label_smoothing=0.01),
        "kind": functional.cross_entropy(kind, numbers[:, 0].long(), label_smoothing=0.01),
    }


def _distances(maps: Tensor, places: Tensor) -> Tensor:
    """Return (N, 2, rows, columns): where a place is from each cell's center, cells; else NaN."""
    rows, columns = maps.shape[2:]
    x = torch.arange(columns) + 0.5
    y = torch.arange(rows) + 0.5
    dx = places[:, 0, None, None] * columns - x[None, None, :]
    dy = places[:, 1, None, None] * rows - y[None, :, None]
    return torch.stack(torch.broadcast_tensors(dx, dy), 1)


def _peak_loss(logits: Tensor, far: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss of a heat-map (Zhou et al., arXiv:1904.07850)."""
    squared = (far**2).sum(1)
    there = torch.isfinite(squared)
    target = torch.where(there, torch.exp(-squared / (2 * SPREAD_CELLS**2)), 0.0)
    peak = there & (squared <= 0.51)
    likely = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    # Every cell is computed and one of the two is taken: faster than a gather and a scatter.
    at_peak = (1 - likely) ** 2 * likely.log()
    beside = (1 - target) ** 4 * likely**2 * (1 - likely).log()
    return -torch.where(peak, at_peak, beside).sum() / max(len(logits), 1) * 0.5


def _offset_loss(maps: Tensor, far: Tensor) -> Tensor:
    """Return the negative logarithm of a Laplace distribution's density, near the tip."""
    near = (far**2).sum(1) <= NEAR_CELLS**2
    off = (maps[:, 7:9] - far.nan_to_num()).abs().sum(1) / 2
    scale = maps[:, 9].clamp(-4, 4)
    return _mean_where(near, off * torch.exp(-scale) + scale)


def _edges_loss(edges: Tensor, masks: Tensor, numbers: Tensor) -> Tensor:
    """Return the same of the box, where the head (of a bare pin: the pin) is."""
    rows, columns = edges.shape[2:]
    step = COARSE // FINE
    bare = (numbers[:, 0] == KINDS.index("pin")).view(-1, 1, 1)
    inside = torch.where(bare, masks[:, 0], masks[:, 2])[:, ::step, ::step] > 0
    inside = inside & torch.isfinite(numbers[:, 6]).view(-1, 1, 1)
    x = ((torch.arange(columns) + 0.5) / columns).view(1, 1, -1).expand(1, rows, -1)
    y = ((torch.arange(rows) + 0.5) / rows).view(1, -1, 1).expand(1, -1, columns)
    center = torch.stack([x, y, x, y], 1)
    target = numbers[:, 6:10, None, None].nan_to_num() - center
    off = (edges[:, :4] - target).abs() * INPUT[1] / FINE  # cells
    scale = edges[:, 4:].clamp(-4, 4)
    return _mean_where(inside[:, None], (off * torch.exp(-scale) + scale).mean(1, keepdim=True))


def _mean_where(there: Tensor, values: Tensor) -> Tensor:
    """Return the mean of the values at the cells that are there, 0 without any."""
    return torch.where(there, values, 0.0).sum() / there.sum().clamp(min=1)


def train(
    folder: Path,
    checkpoint: Path,
    minutes: float,
    without: str,
    rate: float,
    seed: int,
    threads: int,
) -> None:
    """Train for a given time in minutes; go on where the checkpoint, if any, ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    pool = Pool(folder, without)
    # On a processor this order of the memory takes two thirds of the time of the other one.
    network = LoopNetwork().to(memory_format=torch.channels_last)
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        begin_from(network, state["average"])
        step = state["step"]

    # A processor without instructions for bfloat16 takes ten times longer with it.
    short = torch.cpu.get_capabilities().get("avx512_bf16", False)

    @torch.compile
    def forward(gray: Tensor, masks: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            outputs = network(gray)
        return loss_of(outputs, masks, numbers)

    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    begun = saved = time.monotonic()
    order = torch.empty(0, dtype=torch.long)
    first = step
    sums: dict[str, float] = {}
    while (part := (time.monotonic() - begun) / (60 * minutes)) < 1:
        now = rate * min(1.0, (step - first + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * part))
        for group in optimizer.param_groups:
            group["lr"] = now
        if len(order) < BATCH:
            pool.refresh()
            order = torch.randperm(len(pool.gray))
        pick, order = order[:BATCH], order[BATCH:]
        gray, masks, numbers = pool.batch(pick)
        parts = forward(gray.contiguous(memory_format=torch.channels_last), masks, numbers)
        optimizer.zero_grad()
        sum(parts.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        keep = min(AVERAGE, (step - first) / (step - first + 10))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                average[name].mul_(keep).add_(value, alpha=1 - keep)
            else:
                average[name].copy_(value)
        for name, value in parts.items():
            amount = float(value.detach())
            sums[name] = 0.98 * sums.get(name, amount) + 0.02 * amount
        if time.monotonic() - saved > 30:
            saved = time.monotonic()
            told = " ".join(f"{name} {amount:.3f}" for name, amount in sums.items())
            log.info("%3.0f%% step %d of %d pictures: %s", 100 * part, step, len(pool.gray), told)
            _save(checkpoint, average, step, pool, without)
    _save(checkpoint, average, step, pool, without)


def begin_from(network: LoopNetwork, held: Any) -> None:
    """Take weights over, also of a narrower network: what is new starts as it is."""
    own = network.state_dict()
    for name, value in held.items():
        if own[name].shape == value.shape:
            own[name].copy_(value)
        else:
            own[name][tuple(slice(0, n) for n in value.shape)] = value
    network.load_state_dict(own)


def _save(checkpoint: Path, average: Any, step: int, pool: Pool, without: str) -> None:
    state = {"average": average, "step": step, "data": pool.revision(), "without": without}
    half = checkpoint.with_suffix(".half")
    torch.save(state, half)
    half.rename(checkpoint)
