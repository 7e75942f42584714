"""What the tools that train networks share: steps of the command line, scenes, the loop itself."""

import argparse
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[Path, int, int], None]
Train = Callable[[Path, Path, Path | None, float, int], None]


def run_steps(
    description: str | None,
    makers: dict[str, tuple[Make, int, int]],
    prepare: tuple[str, str, Callable[[Path, Path], None]],
    train: Train,
    minutes: float,
) -> int:
    """Run the step that the command line names; return 0.

    `makers` are by name the function, the first seed and the number of scenes; `prepare` is the
    step that makes what is trained with: name, help, function.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for name, (_, first, count) in makers.items():
        made = steps.add_parser(name, help="pictures with their truth")
        made.add_argument("out", type=Path)
        made.add_argument("--count", type=int, default=count)
        made.add_argument("--first", type=int, default=first)
    prepared = steps.add_parser(prepare[0], help=prepare[1])
    prepared.add_argument("scenes", type=Path)
    prepared.add_argument("out", type=Path)
    fit = steps.add_parser("train", help="train and save the weights")
    fit.add_argument("data", type=Path)
    fit.add_argument("out", type=Path)
    fit.add_argument("--start", type=Path, help="weights to train further")
    fit.add_argument("--minutes", type=float, default=minutes, help="of CPU (%(default)s)")
    fit.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.step in makers:
        makers[args.step][0](args.out, args.first, args.count)
    elif args.step == "train":
        train(args.data, args.out, args.start, args.minutes, args.seed)
    else:
        prepare[2](args.scenes, args.out)
    return 0


def save_scenes(
    out: Path, start: int, count: int, shard: int, pictures_of: Callable[[int], list[Any]]
) -> None:
    """Save the pictures of scenes, `shard` scenes to a file."""
    out.mkdir(exist_ok=True)
    for first in range(start, start + count, shard):
        last = min(first + shard, start + count)
        rows = [row for seed in range(first, last) for row in pictures_of(seed)]
        (out / f"{first}.pkl").write_bytes(pickle.dumps(rows))


def optimize(
    network: Any,
    rows: Any,
    loss_of: Callable[[Any], Any],
    report: Callable[[], None],
    *,
    minutes: float,
    batch: int,
    rate: float,
    decay: float,
    warm: int,
    slower: Mapping[str, float] | None = None,
) -> None:
    """Train for some minutes of one core.

    `loss_of` gets the places of a batch among `rows`; `report` is called ten times, after a line
    has been begun. The rate grows over `warm` steps, and falls as a cosine; parts of the network
    named in `slower` have so much of it, and no decay.
    """
    import torch

    slow = slower or {}
    groups = [
        {"params": [*getattr(network, name).parameters()], "weight_decay": 0} for name in slow
    ]
    taken = {id(weight) for group in groups for weight in group["params"]}
    groups.append({"params": [w for w in network.parameters() if id(w) not in taken]})
    factors = [*slow.values(), 1.0]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    begun, step, last = time.process_time(), 0, 0.0
    order = rows[torch.randperm(len(rows))]
    while (part := (time.process_time() - begun) / (60.0 * minutes)) < 1.0:
        now = rate * min(1.0, (step + 1) / warm) * (0.5 + 0.5 * np.cos(np.pi * part))
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = factor * now
        if len(order) < batch:
            order = rows[torch.randperm(len(rows))]
        pick, order = order[:batch], order[batch:]
        loss = loss_of(pick)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        if part - last > 0.1:
            last = part
            sys.stdout.write(f"{part:4.0%} step {step} loss {loss.item():.3f} ")
            report()
            sys.stdout.flush()
