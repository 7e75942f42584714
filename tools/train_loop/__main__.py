"""Train the network that finds loops: ``python tools/train_loop STEP ...``.

1. ``data POOL --seconds 600``: pictures of the generators into POOL, a folder of shards;
2. ``train POOL CHECKPOINT --minutes 60 [--without twin]``: train, a checkpoint every minute; shards
   that are added meanwhile are used;
3. ``export CHECKPOINT MODEL``: the model file, with the revisions of code and data in its metadata;
4. ``score MODEL [--real FOLDER]``: figures on pictures that nothing was trained on.

Training and export need torch. Seeds below `FIRST_SEED` are for training. The figures of a
generator that was left out (``--without``) are those that count. The tests' other renderer is never
trained on.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SHARD = 100
TURN = ("painter", "composite", "twin")
FIRST_SEED = 100_000_000  # those below are for training


def make_data(out: Path, seconds: float, first: int) -> None:
    """Save shards of each generator in turn until the time is over."""
    from generators import sample_of
    from sample import packed

    out.mkdir(parents=True, exist_ok=True)
    begun, shard = time.monotonic(), first
    while time.monotonic() - begun < seconds:
        generator = TURN[shard % len(TURN)]
        rows = [
            packed(sample_of(generator, seed)) for seed in range(shard * SHARD, (shard + 1) * SHARD)
        ]
        arrays = [np.stack(column) for column in zip(*rows, strict=True)]
        half = out / f"half-{shard}.npz"
        np.savez_compressed(half, gray=arrays[0], bits=arrays[1], numbers=arrays[2])
        half.rename(out / f"{generator}-{shard:06d}.npz")
        shard += 1


def export(checkpoint: Path, model: Path) -> None:
    """Write the model file."""
    import onnx
    import torch
    from names import INPUT, KINDS, MASKS, OUTPUTS, SIDES
    from network import LoopNetwork, MirroredNetwork

    code = revision()  # before the model file, which is one of the repository's, changes
    state = torch.load(checkpoint, weights_only=True)
    network = LoopNetwork()
    network.load_state_dict(state["average"])
    network.eval()
    torch.onnx.export(
        MirroredNetwork(network).eval(), (torch.zeros(1, 1, *INPUT, dtype=torch.uint8),),
        str(model), input_names=["gray"], output_names=list(OUTPUTS), dynamo=False,
    )  # fmt: skip
    loaded = onnx.load(str(model))
    notes = {
        "code": code,
        "data": state["data"],
        "steps": str(state["step"]),
        "without": state["without"],
        "masks": json.dumps(MASKS),
        "sides": json.dumps(SIDES),
        "kinds": json.dumps(KINDS),
    }
    onnx.helper.set_model_props(loaded, notes)
    onnx.save(loaded, str(model))


def revision() -> str:
    """Return the revision of the repository, marked if files differ from it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return said.stdout.strip() or "unknown"


def main() -> int:
    """Run the step that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    data = steps.add_parser("data", help="render pictures")
    data.add_argument("pool", type=Path)
    data.add_argument("--seconds", type=float, default=3600.0)
    data.add_argument("--first", type=int, default=0, help="number of the first shard")
    fit = steps.add_parser("train", help="train, or go on from the checkpoint")
    fit.add_argument("pool", type=Path)
    fit.add_argument("checkpoint", type=Path)
    fit.add_argument("--minutes", type=float, default=60.0)
    fit.add_argument("--without", default="", help="generator that is left out")
    fit.add_argument("--rate", type=float, default=2e-3)
    fit.add_argument("--seed", type=int, default=1)
    fit.add_argument("--threads", type=int, default=2, help="1 is faster on a busy machine")
    out = steps.add_parser("export", help="write the ONNX file")
    out.add_argument("checkpoint", type=Path)
    out.add_argument("model", type=Path)
    told = steps.add_parser("score", help="figures, one JSON line a set")
    told.add_argument("model", type=Path)
    told.add_argument("--real", type=Path, help="folder of real pictures with truth in README.md")
    told.add_argument("--count", type=int, default=100)
    told.add_argument("--first", type=int, default=FIRST_SEED, help="seed of the first picture")
    args = parser.parse_args()
    if args.step == "data":
        make_data(args.pool, args.seconds, args.first)
    elif args.step == "train":
        from training import train

        train(
            args.pool,
            args.checkpoint,
            args.minutes,
            args.without,
            args.rate,
            args.seed,
            args.threads,
        )
    elif args.step == "export":
        export(args.checkpoint, args.model)
    else:
        from score import score_all

        score_all(args.model, args.real, args.count, args.first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
