"""The mean of two networks whose training began with the same weights.

It is about as good as the better of the two on each set of pictures. Wortsman et al.
(arXiv:2203.05482) average networks that were trained side by side from one beginning, as here.
"""

from pathlib import Path

import torch
from network import LoopNetwork
from pool import Pool
from torch import nn
from views import views

BATCHES, BATCH = 25, 100  # views that the normalization is measured on
ROOM = 7000


def mix(first: Path, second: Path, part: float, folder: Path, out: Path) -> None:
    """Write a checkpoint of weights that are by `part` those of `second`, else of `first`.

    The running means and variances of the batch normalization are no mean of the two: they are
    measured on views of the pictures in `folder`.
    """
    torch.manual_seed(1)
    old, new = (torch.load(path, weights_only=True, map_location="cpu") for path in (first, second))
    network = LoopNetwork()
    network.load_state_dict(
        {
            name: part * value + (1 - part) * old["average"][name]
            if value.is_floating_point()
            else value
            for name, value in new["average"].items()
        }
    )
    pool = Pool(folder, torch.device("cpu"), ROOM)
    pool.refresh()
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches
    with torch.no_grad():
        for _ in range(BATCHES):
            rows = pool.drawn(BATCH)
            network(views(pool.gray[rows], pool.bits[rows], pool.numbers[rows])[0])
    torch.save({**new, "average": network.state_dict()}, out)
