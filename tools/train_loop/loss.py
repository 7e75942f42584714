"""What training makes small: the loss of each output of the network."""

from typing import Any

import torch
from names import INPUT, KINDS, MASKS
from network import COARSE, FINE
from torch import Tensor
from torch.nn import functional

NEAR_CELLS = 3.5  # so far from the tip its offset is learned
SPREAD_CELLS = 1.6  # of the peaks at tip and begin


def loss_of(outputs: Any, masks: Tensor, numbers: Tensor) -> dict[str, Tensor]:
    """Return the parts of the loss of a batch; `masks` and `numbers` are those of `views`."""
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
    x, y = (torch.arange(cells, device=maps.device) + 0.5 for cells in (columns, rows))
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
    x, y = ((torch.arange(cells, device=edges.device) + 0.5) / cells for cells in (columns, rows))
    x, y = x.view(1, 1, -1).expand(1, rows, -1), y.view(1, -1, 1).expand(1, -1, columns)
    center = torch.stack([x, y, x, y], 1)
    target = numbers[:, 6:10, None, None].nan_to_num() - center
    off = (edges[:, :4] - target).abs() * INPUT[1] / FINE  # cells
    scale = edges[:, 4:].clamp(-4, 4)
    return _mean_where(inside[:, None], (off * torch.exp(-scale) + scale).mean(1, keepdim=True))


def _mean_where(there: Tensor, values: Tensor) -> Tensor:
    """Return the mean of the values at the cells that are there, 0 without any."""
    return torch.where(there, values, 0.0).sum() / there.sum().clamp(min=1)
