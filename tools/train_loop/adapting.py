"""Adapt a network to integers: it learns to answer with them as it does with floats.

Rounded weights and values change the answers a little. Here the network computes with both rounded
as `quantizing.quantize` will round them, and its weights follow what the network with floats, which
does not change, says of the same picture. No truth of a picture is needed, so any part of any
picture teaches.
"""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from generators import sample_of
from names import MAPS, TURN
from network import LoopNetwork
from numpy.typing import NDArray
from quantizing import PARTS, keep_inputs
from torch import Tensor, nn
from torch.nn import functional

from skywright.instruments.loop.detector.model import LoopModel
from skywright.instruments.loop.detector.readout import LoopFinder

FIRST_PICTURE = 91_000_000
"""Seed of the first picture; neither the training nor `quantizing` used any of them."""
BATCH, RATE, FIRST_STEPS, TELL_STEPS = 24, 2e-5, 20, 100
HELD = 300
"""Looks that do not teach: the printed losses, and the ranges of the values, are theirs."""
LEVELS, WEIGHT_LEVELS = 255, 64
"""Steps of a value from the lowest to the highest, of a weight from 0 to the largest."""
OUTSIDE = 1e-5
"""Part of the values that may be below, and above, their range."""
PEAK_WEIGHT = 20.0
"""Of the heat-maps of tip and begin beside a mask: few of their cells are not empty."""
OFFSETS = slice(MAPS.index("tip_dx"), MAPS.index("tip_dy") + 1)
Answers = tuple[Tensor, Tensor, Tensor, Tensor]


def adapt(checkpoint: Path, model: Path, out: Path, count: int, steps: int) -> None:
    """Write a checkpoint whose weights are adapted to integers.

    Parameters
    ----------
    checkpoint, model
        Of the network with floats, and the file that ``export`` wrote of it.
    out
        The checkpoint that is written; ``export`` and ``quantize`` make the model file of it.
    count, steps
        Pictures of each generator, and steps of `BATCH` looks each.
    """
    torch.manual_seed(1)
    torch.set_num_threads(1)
    random = np.random.default_rng(5)
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    teacher, pupil = _network(state["average"]), _network(state["average"])
    looks = looks_at_parts(model, count)
    random.shuffle(looks)
    held, looks = looks[:HELD], looks[HELD:]
    compute_with_integers(pupil, _tensor(held))
    adam = torch.optim.Adam(pupil.parameters(), RATE)
    begun = time.monotonic()
    for step in range(steps):
        warm = min(1.0, (step + 1) / FIRST_STEPS)
        adam.param_groups[0]["lr"] = RATE * warm * 0.5 * (1 + np.cos(np.pi * step / steps))
        loss = sum(losses(teacher, pupil, _tensor(_varied(looks, random))).values())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 5.0)
        adam.step()
        if step % TELL_STEPS == 0 or step == steps - 1:
            with torch.no_grad():
                found = losses(teacher, pupil, _tensor(held))
            told = ", ".join(f"{name} {float(value):.4f}" for name, value in found.items())
            sys.stdout.write(f"{step}: {told}; {time.monotonic() - begun:.0f} s\n")
            sys.stdout.flush()
    weights = {name: values.detach() for name, values in pupil.state_dict().items()}
    torch.save({**state, "average": weights}, out)


def looks_at_parts(model: Path, count: int) -> NDArray[np.uint8]:
    """Return inputs of the network, (N, R, C): looks at pictures and at random parts of them."""
    finder = LoopFinder(model)
    fed = keep_inputs(finder)
    for generator in TURN:
        for seed in range(FIRST_PICTURE, FIRST_PICTURE + count):
            gray = np.clip(np.round(sample_of(generator, seed).gray), 0, 255).astype(np.uint8)
            finder.find(gray)
            _look_at_parts(finder.model, gray, np.random.default_rng(seed))
    return np.stack([inputs["gray"][0, 0] for inputs in fed])


def _look_at_parts(model: LoopModel, gray: NDArray[np.uint8], random: np.random.Generator) -> None:
    lying = gray if gray.shape[0] <= gray.shape[1] else gray.T
    for size in random.uniform(0.3, 1.0, 2):
        height, width = (int(size * length) for length in lying.shape)
        top, left = (
            random.integers(0, whole - part + 1)
            for whole, part in zip(lying.shape, (height, width), strict=True)
        )
        model.run(np.ascontiguousarray(lying[top : top + height, left : left + width]))


def compute_with_integers(network: LoopNetwork, looks: Tensor) -> None:
    """Let a network round weights and values where `quantizing.PARTS` computes with integers.

    The range of each value is that at `looks`, (N, 1, R, C).
    """
    modules = dict(network.named_modules())
    values: list[_Rounded] = []
    for name, module in modules.items():
        if not re.match(PARTS, name):
            continue
        if isinstance(module, nn.Conv2d):
            values.append(before := _Rounded())
            module.register_forward_pre_hook(lambda _, given, round_=before: (round_(given[0]),))
            parent, _, place = name.rpartition(".")
            module.forward = _rounded_convolution(module, modules[f"{parent}.{int(place) + 1}"])  # type: ignore[method-assign, arg-type]
        elif isinstance(module, nn.ReLU):
            values.append(after := _Rounded())
            module.register_forward_hook(lambda _, given, found, round_=after: round_(found))
    with torch.no_grad():
        for few in looks.split(BATCH):
            network(few)
    for each in values:
        each.set_range()


class _Rounded:
    """Rounds a value to whole steps within its range; until that is set it collects the value."""

    def __init__(self) -> None:
        self._seen: list[Tensor] = []
        self._range: tuple[float, float] | None = None

    def set_range(self) -> None:
        """Compute the range from the collected values; later calls round within it."""
        seen = torch.cat(self._seen).numpy()
        low, high = np.quantile(seen, (OUTSIDE, 1.0 - OUTSIDE))
        self._range = min(float(low), 0.0), float(high)
        self._seen.clear()

    def __call__(self, value: Tensor) -> Tensor:
        if self._range is None:
            flat = value.flatten()
            self._seen.append(flat[torch.randint(0, len(flat), (20_000,))])
            return value
        low, high = self._range
        step = (high - low) / LEVELS
        zero = round(-low / step)
        return (_round(value / step + zero).clamp(0, LEVELS) - zero) * step


def _rounded_convolution(
    convolution: nn.Conv2d, normalization: nn.BatchNorm2d
) -> Callable[[Tensor], Tensor]:
    """Return a convolution that multiplies its weights by the normalization and rounds them."""

    def forward(value: Tensor) -> Tensor:
        deviation = torch.sqrt(normalization.running_var + normalization.eps)
        factor = (normalization.weight / deviation)[:, None, None, None]
        weights = convolution.weight * factor
        step = weights.detach().abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-8) / WEIGHT_LEVELS
        rounded = _round(weights / step).clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS) * step / factor
        return functional.conv2d(value, rounded, None, convolution.stride, convolution.padding)

    return forward


def _round(value: Tensor) -> Tensor:
    """Round; the gradient passes as if nothing had been rounded."""
    return value + (value.round() - value).detach()


def losses(teacher: LoopNetwork, pupil: LoopNetwork, gray: Tensor) -> dict[str, Tensor]:
    """Return how much the answers and features of `pupil` differ from those of `teacher`."""
    with torch.no_grad():
        (maps, edges, side, kind), features = _answers(teacher, gray)
    (p_maps, p_edges, p_side, p_kind), p_features = _answers(pupil, gray)
    likely = maps[:, : OFFSETS.start].sigmoid()
    tip = MAPS.index("tip")
    weight = torch.ones(OFFSETS.start)
    weight[tip:] = PEAK_WEIGHT
    near = functional.max_pool2d(likely[:, tip : tip + 1], 3, 1, 1)
    head = functional.avg_pool2d(likely[:, 2:3], 2) + 0.02

    def apart(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
        return ((a - b) ** 2 * where).sum() / where.sum().clamp_min(1.0)

    surprise = functional.binary_cross_entropy_with_logits(
        p_maps[:, : OFFSETS.start], likely, reduction="none"
    ) - functional.binary_cross_entropy(likely, likely, reduction="none")
    return {
        "maps": 100.0 * (surprise * weight[:, None, None]).mean(),
        "offset": 5.0 * apart(p_maps[:, OFFSETS], maps[:, OFFSETS], near),
        "error": apart(p_maps[:, OFFSETS.stop :], maps[:, OFFSETS.stop :], near),
        "edges": 2000.0 * apart(p_edges[:, :4], edges[:, :4], head),
        "edge errors": apart(p_edges[:, 4:], edges[:, 4:], head),
        "side": 2.0 * _divergence(p_side, side),
        "kind": 2.0 * _divergence(p_kind, kind),
        "features": sum(
            ((p_features[name] - value) ** 2).mean() / (value**2).mean()
            for name, value in features.items()
        ),
    }  # type: ignore[dict-item]


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    return functional.kl_div(found.log_softmax(1), wanted.softmax(1), reduction="batchmean")


def _answers(network: LoopNetwork, gray: Tensor) -> tuple[Answers, dict[str, Tensor]]:
    """Return the outputs of a network and, by name, the features that its blocks give."""
    features: dict[str, Tensor] = {}
    blocks = {"stem": network.stem, "fine": network.fine}
    blocks |= {f"down.{k}": each for k, each in enumerate(network.down)}
    blocks |= {f"merge.{k}": each for k, each in enumerate(network.merge)}
    hooks = [
        block.register_forward_hook(
            lambda _, given, found, name=name: features.__setitem__(name, found)
        )
        for name, block in blocks.items()
    ]
    found = network(gray)
    for hook in hooks:
        hook.remove()
    return found, features


def _varied(looks: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return a random batch of looks; half of the batches are upside down, half in other light."""
    chosen = looks[random.integers(0, len(looks), BATCH)]
    if random.random() < 0.5:
        chosen = chosen[:, ::-1]
    if random.random() < 0.5:
        lit = chosen * random.uniform(0.6, 1.0) + random.uniform(0.0, 60.0)
        chosen = np.clip(np.round(lit), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(chosen)


def _tensor(looks: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(looks[:, None]).float()


def _network(weights: dict[str, Tensor]) -> LoopNetwork:
    network = LoopNetwork()
    network.load_state_dict(weights)
    return network.eval()
