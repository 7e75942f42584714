"""What the trainings of the networks of crops share.

`skywright.instruments.loop.layers` has the layers of these networks.
"""

from pathlib import Path
from typing import Any

import numpy as np

MARGIN, COUNTS = 1.5, 50.0  # room to shift and scale in; levels of a stored picture for 1


def packed(picture: Any) -> Any:
    """Return a crop's picture as it is stored, uint8."""
    return np.clip(np.round(picture * COUNTS) + 128, 0, 255).astype(np.uint8)


def as_float(picture: Any) -> Any:
    """Turn stored pictures (n, h, w, 2), packed or as they are, to (n, 2, h, w) float32."""
    values = picture.float()
    if picture.element_size() == 1:
        values = (values - 128.0) / COUNTS
    return values.permute(0, 3, 1, 2)


def middle_of(picture: Any) -> Any:
    """Cut the margin off."""
    n = picture.shape[2]
    cut = round(n * (1 - 1 / MARGIN) / 2)
    return picture[:, :, cut : n - cut, cut : n - cut]


def branches(norms: bool, widths: tuple[int, ...], into: int = 2) -> tuple[Any, Any]:
    """Return the convolutions of head and view; `norms` puts a normalisation behind each.

    `widths` are the channels that come out of those of the head, `into` those that go in.
    """
    from torch import nn

    def block(into: int, out: int, size: int, stride: int) -> Any:
        conv = nn.Conv2d(into, out, size, stride, size // 2, bias=not norms)
        return nn.Sequential(conv, nn.BatchNorm2d(out) if norms else nn.Identity(), nn.ReLU())

    a, b, c, d = widths
    head = nn.Sequential(
        block(into, a, 5, 2), block(a, b, 3, 2), block(b, c, 3, 2), block(c, d, 3, 1)
    )
    view = nn.Sequential(block(into, 16, 3, 2), block(16, 24, 3, 2), block(24, 32, 3, 2))
    return head, view


def pooled_network(
    mean: Any,
    gain: Any,
    norms: bool,
    answers: int,
    drop: float,
    widths: tuple[int, ...],
    hidden: int,
) -> Any:
    """Return a network whose layers are those of `skywright.instruments.loop.layers.judge`.

    `mean` and `gain` scale the numbers; `norms` puts a normalisation behind each convolution;
    `widths` are the channels that come out of those of the head, `hidden` the values between the
    dense layers.
    """
    import torch
    from torch import nn

    class PooledNet(nn.Module):
        """Head (n, 2, 64, 64), view (n, 2, 32, 32) and numbers (n, k) to (n, answers)."""

        def __init__(self) -> None:
            super().__init__()
            self.head, self.view = branches(norms, widths)
            self.register_buffer("mean", mean)
            self.register_buffer("gain", gain)
            self.hidden = nn.Linear(widths[-1] * 16 + 32 * 4 + len(mean), hidden)
            self.last = nn.Linear(hidden, answers)
            self.drop = nn.Dropout(drop)

        def forward(self, head: Any, view: Any, numbers: Any, keep: Any = 1.0) -> Any:
            pool = nn.functional.avg_pool2d
            of_head = pool(self.head(head), 2).flatten(1)
            of_view = pool(self.view(view), 2).flatten(1)
            scaled = ((numbers - self.mean) * self.gain).clamp(-4, 4) * keep
            joined = self.drop(torch.cat([of_head, of_view, scaled], 1))
            return self.last(self.drop(torch.relu(self.hidden(joined))))

    return PooledNet()


def uniform(n: int, low: float, high: float) -> Any:
    """Draw n numbers."""
    import torch

    return low + (high - low) * torch.rand(n)


class Appearance:
    """A change of contrast, noise and sharpness for each of n mounts."""

    def __init__(self, n: int, power: float = 0.4) -> None:
        import torch

        half = [(torch.rand(n) < 0.5)[:, None, None] for _ in range(2)]
        self.gain = uniform(n, 0.75, 1.3)[:, None, None]
        self.power = uniform(n, -power, power).exp()[:, None, None]
        self.soft = torch.rand(n)[:, None, None] * half[0]
        self.rough = uniform(n, 0.0, 0.15)[:, None, None] * half[1]

    def change(self, gray: Any) -> Any:
        """Change pictures (n, h, w) of the mounts."""
        import torch
        from torch.nn import functional

        gray = gray.sign() * gray.abs().clamp(min=1e-3) ** self.power * self.gain
        blurred = gray[:, None]
        for width in (3, 5):
            blurred = functional.avg_pool2d(blurred, width, 1, width // 2, count_include_pad=False)
        return gray + self.soft * (blurred[:, 0] - gray) + self.rough * torch.randn_like(gray)


def moved(picture: Any, place: Any) -> Any:
    """Return (n, 2, h, w) of stored pictures, seen from `place` (n, 2, 3), without the margin."""
    from torch.nn import functional

    n, size = len(picture), round(picture.shape[2] / MARGIN)
    grid = functional.affine_grid(place / MARGIN, [n, 2, size, size], align_corners=False)
    return functional.grid_sample(picture, grid, padding_mode="border", align_corners=False)


def answers(network: Any, head: Any, view: Any, numbers: Any) -> Any:
    """Return what the network says of stored pictures."""
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
    return torch.cat(parts)


def folded(network: Any, scale: float = 1.0) -> dict[str, Any]:
    """Return the weights as arrays, channels last, normalisations folded in; the last by scale."""
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
    out["last_kernel"], out["last_bias"] = network.last.weight * scale, network.last.bias * scale
    return {name: value.detach().contiguous().numpy() for name, value in out.items()}


def take_convolutions(network: Any, arrays: dict[str, Any]) -> None:
    """Give a network the convolutions of saved weights, tensors."""
    import torch

    with torch.no_grad():
        for name in ("head", "view"):
            for k, (conv, _, _) in enumerate(getattr(network, name)):
                conv.weight.copy_(arrays[f"{name}{k}_kernel"].permute(3, 2, 0, 1))
                conv.bias.copy_(arrays[f"{name}{k}_bias"])


def restored(file: Path, make_network: Any) -> Any:
    """Return the network of saved weights, without normalisations."""
    import torch

    arrays = {name: torch.from_numpy(value).float() for name, value in np.load(file).items()}
    network = make_network(arrays["mean"], arrays["gain"], norms=False)
    take_convolutions(network, arrays)
    with torch.no_grad():
        for name in ("hidden", "last"):
            getattr(network, name).weight.copy_(arrays[f"{name}_kernel"])
            getattr(network, name).bias.copy_(arrays[f"{name}_bias"])
    return network
