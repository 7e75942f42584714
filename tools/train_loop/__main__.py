"""Train the network that finds loops: ``python tools/train_loop STEP ...``.

1. ``data POOL --seconds 600 --workers 2``: pictures of the generators into POOL, a folder of
   shards, 216 kB a picture;
2. ``train POOL NETWORKS --minutes 60 [--without twin painter ...] [--more twin ...]``: train a
   network that sees all, ``NETWORKS/all.pt``, and beside it one without each generator named, and
   one that sees more of each generator named; shards that are added meanwhile are used. On a GPU,
   where there is one;
3. ``mix FIRST SECOND PART POOL OUT``: the mean of two checkpoints whose training began with the
   same weights, by PART the second;
4. ``export CHECKPOINT MODEL``: the model file, with the revisions of code and data in its metadata;
5. ``adapt CHECKPOINT MODEL OUT``: a checkpoint whose weights are adapted to integers, from the
   checkpoint and its exported file; it is exported then;
6. ``quantize MODEL OUT``: the model file whose convolutions compute with integers, which takes less
   time and a third of the space;
7. ``score MODEL [--real FOLDER]``: figures on pictures that nothing was trained on.

Training, adapt and export need torch, export and quantize onnx. Seeds below `FIRST_SEED` are for
training. The figures of a generator that was left out (``--without``) are those that count. The
tests' other renderer is never trained on.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SHARD = 100
FIRST_SEED = 100_000_000  # those below are for training


def make_data(out: Path, seconds: float, first: int, workers: int) -> None:
    """Save shards of each generator in turn until the time is over."""
    out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    children = [
        multiprocessing.Process(target=_shards, args=(out, until, first + k, workers))
        for k in range(workers)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()


def _shards(out: Path, until: float, first: int, step: int) -> None:
    from generators import sample_of
    from names import TURN
    from sample import packed

    shard = first
    while time.monotonic() < until:
        generator = TURN[shard % len(TURN)]
        rows = [
            packed(sample_of(generator, seed)) for seed in range(shard * SHARD, (shard + 1) * SHARD)
        ]
        gray, bits, numbers = (np.stack(column) for column in zip(*rows, strict=True))
        half = out / f"half-{shard}.npz"
        np.savez(half, gray=gray, bits=bits, numbers=numbers)
        half.rename(out / f"{generator}-{shard:06d}.npz")
        shard += step


def export(checkpoint: Path, model: Path) -> None:
    """Write the model file."""
    import onnx
    import torch
    from names import INPUT, KINDS, MASKS, OUTPUTS, SIDES
    from network import LoopNetwork, ReadNetwork

    code = revision()  # before the model file, which is one of the repository's, changes
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    network = LoopNetwork()
    network.load_state_dict(state["average"])
    network.eval()
    torch.onnx.export(
        ReadNetwork(network).eval(), (torch.zeros(1, 1, *INPUT, dtype=torch.uint8),),
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
    from names import TURN

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    data = steps.add_parser("data", help="render pictures")
    data.add_argument("pool", type=Path)
    data.add_argument("--seconds", type=float, default=3600.0)
    data.add_argument("--first", type=int, default=0, help="number of the first shard")
    data.add_argument("--workers", type=int, default=2, help="processes")
    fit = steps.add_parser("train", help="train, or go on from the checkpoint")
    fit.add_argument("pool", type=Path)
    fit.add_argument("networks", type=Path, help="folder for the checkpoints")
    fit.add_argument("--minutes", type=float, default=60.0)
    fit.add_argument("--without", nargs="*", default=[], choices=TURN, help="generators")
    fit.add_argument("--more", nargs="*", default=[], choices=TURN, help="generators")
    fit.add_argument("--rate", type=float, default=2e-3)
    fit.add_argument("--batch", type=int, default=240, help="pictures in a step")
    fit.add_argument("--room", type=int, default=100_000, help="most pictures in memory")
    mixed = steps.add_parser("mix", help="the mean of two networks")
    mixed.add_argument("first", type=Path)
    mixed.add_argument("second", type=Path)
    mixed.add_argument("part", type=float, help="part of the second, 0 to 1")
    mixed.add_argument("pool", type=Path)
    mixed.add_argument("out", type=Path)
    out = steps.add_parser("export", help="write the ONNX file")
    out.add_argument("checkpoint", type=Path)
    out.add_argument("model", type=Path)
    adapted = steps.add_parser("adapt", help="adapt the weights to integers")
    adapted.add_argument("checkpoint", type=Path)
    adapted.add_argument("model", type=Path, help="the file exported of it")
    adapted.add_argument("out", type=Path, help="the checkpoint to write")
    adapted.add_argument("--count", type=int, default=450, help="pictures of each generator")
    adapted.add_argument("--steps", type=int, default=1000)
    integers = steps.add_parser("quantize", help="write the ONNX file that computes with integers")
    integers.add_argument("model", type=Path)
    integers.add_argument("out", type=Path)
    integers.add_argument("--count", type=int, default=40, help="pictures of each generator")
    told = steps.add_parser("score", help="figures, one JSON line a set")
    told.add_argument("model", type=Path)
    told.add_argument("--real", type=Path, help="folder of real pictures with truth in README.md")
    told.add_argument("--count", type=int, default=100)
    told.add_argument("--first", type=int, default=FIRST_SEED, help="seed of the first picture")
    args = parser.parse_args()
    if args.step == "data":
        make_data(args.pool, args.seconds, args.first, args.workers)
    elif args.step == "train":
        from training import train

        train(
            args.pool,
            args.networks,
            args.minutes,
            args.without,
            args.more,
            args.rate,
            args.batch,
            args.room,
        )
    elif args.step == "mix":
        from mixing import mix

        mix(args.first, args.second, args.part, args.pool, args.out)
    elif args.step == "export":
        export(args.checkpoint, args.model)
    elif args.step == "adapt":
        from adapting import adapt

        adapt(args.checkpoint, args.model, args.out, args.count, args.steps)
    elif args.step == "quantize":
        from quantizing import quantize

        quantize(args.model, args.out, args.count)
    else:
        from score import score_all

        score_all(args.model, args.real, args.count, args.first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
