"""The network that finds a loop: a small encoder and decoder with skip connections, and its heads.

Its input is a picture, or a part of one, of 128 x 192 gray levels: small, so that it learns and
runs fast; the read-out lets it look a second time at the part that it found. It normalizes the
light itself, so that the file of weights holds everything that was trained.
"""

from itertools import pairwise

import torch
from names import INPUT, KINDS, MAPS, MASKS, NEAR_CELLS, SIDES
from torch import Tensor, nn
from torch.nn import functional

FINE, COARSE = 2, 4  # px of the input for one cell of the maps, of the edges


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution of 3 x 3 with batch normalization and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions beside which the input goes on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = block(channels, channels), block(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape."""
        return features + self.second(self.first(features))


class LoopNetwork(nn.Module):
    """Map a picture to masks, tip, edges of the head, side and kind.

    The outputs are ``maps`` (N, 10, 64, 96), the channels of `MAPS`: logits of the masks, of the
    tip and of the begin of the stem, the offset of the tip from the center of a cell, in cells,
    and the logarithm of its expected error; ``edges`` (N, 8, 32, 48), the distances of xmin, ymin,
    xmax, ymax of the head from the center of a cell, over the size of the input, and the
    logarithms of their expected errors; ``side`` (N, 5) and ``kind`` (N, 4), logits.
    """

    def __init__(self) -> None:
        super().__init__()
        channels, up, fine = (16, 32, 64, 96, 112), 48, 16  # processors compute 16 at once
        self.stem = block(1, channels[0], 2)  # 64 x 96
        self.down = nn.ModuleList()
        for k, (inputs, outputs) in enumerate(pairwise(channels)):
            steps = [block(inputs, outputs, 2), block(outputs, outputs)]
            if k >= 2:
                steps.append(Residual(outputs))
            self.down.append(nn.Sequential(*steps))
        self.across = nn.ModuleList(nn.Conv2d(c, up, 1) for c in channels[1:])
        self.merge = nn.ModuleList(block(up, up) for _ in channels[2:])
        self.edges = nn.Conv2d(up, 8, 1)
        self.to_fine = nn.Conv2d(up, fine, 1)
        self.skip = nn.Conv2d(channels[0], fine, 1)
        self.fine = block(fine, fine)
        self.maps = nn.Conv2d(fine, len(MAPS), 1)
        pooled = 2 * channels[-1] + 2 * up
        self.whole = nn.Sequential(nn.Linear(pooled, 64), nn.ReLU())
        self.side, self.kind = nn.Linear(64, len(SIDES)), nn.Linear(64, len(KINDS))

        with torch.no_grad():  # else the first steps only learn that most cells are empty
            self.maps.bias[:] = torch.tensor([-2.0] * len(MASKS) + [-4.6, -4.6, 0.0, 0.0, 0.0])
            self.edges.bias[4:] = 2.0

    def forward(self, gray: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `OUTPUTS` for (N, 1, 128, 192) gray levels, 0..255."""
        mean = gray.mean((2, 3), keepdim=True)
        spread = ((gray - mean) ** 2).mean((2, 3), keepdim=True).sqrt()
        first = self.stem(((gray - mean) / (spread + 4.0)).clamp(-5.0, 5.0))
        levels, now = [], first
        for down in self.down:
            now = down(now)
            levels.append(now)
        up = self.across[-1](levels[-1])
        for k in range(len(levels) - 2, -1, -1):
            larger = functional.interpolate(up, scale_factor=2.0, mode="nearest")
            up = self.merge[k](self.across[k](levels[k]) + larger)
        low = functional.interpolate(self.to_fine(up), scale_factor=2.0, mode="nearest")
        fine = self.fine(low + self.skip(first))
        pooled = torch.cat([_pooled(levels[-1]), _pooled(up)], 1)
        whole = self.whole(pooled)
        return self.maps(fine), self.edges(up), self.side(whole), self.kind(whole)


class ReadNetwork(nn.Module):
    """What the model file holds: the network, its outputs as probabilities, places and errors.

    Each comes without the dimension of pictures; `names.OUTPUTS` says what they are.
    """

    def __init__(self, network: LoopNetwork) -> None:
        super().__init__()
        self.network = network
        rows, columns = (cells // COARSE for cells in INPUT)
        y, x = ((torch.arange(n) + 0.5) / n for n in (rows, columns))
        here = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)])
        self.centers = here.repeat(2, 1, 1)  # of the cells, x, y, x, y

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """Return `OUTPUTS` for (1, 1, 128, 192) gray levels, uint8."""
        maps, edges, side, kind = (out[0] for out in self.network(gray.float()))
        likely = maps[: MAPS.index("tip_dx")].sigmoid()
        # The training measures both errors in cells of the maps.
        columns = INPUT[1] // FINE
        mount = likely[: MASKS.index("head") + 1]
        return (
            likely[: len(MASKS)],
            # With the dimension of pictures: MaxPool of ONNX needs it.
            functional.max_pool2d(mount[None], 2 * NEAR_CELLS + 1, 1, NEAR_CELLS)[0],
            likely[MAPS.index("tip")],
            likely[MAPS.index("begin")],
            maps[MAPS.index("tip_dx") : MAPS.index("tip_dy") + 1],
            maps[MAPS.index("tip_log_error")].clamp(-4, 4).exp(),
            edges[:4] + self.centers,
            edges[4:].clamp(-4, 4).exp() / columns,
            side.softmax(0),
            kind.softmax(0),
        )


def _pooled(features: Tensor) -> Tensor:
    return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
