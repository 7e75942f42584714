"""Train the small loop network of the tests on the twin, and export it to ONNX.

    python tools/train_loop_net.py scenes SCENES.npz --count 6000    # needs skywright
    python tools/train_loop_net.py train SCENES.npz loop_net.onnx    # needs torch, onnx, onnxscript

The network sees the whole picture in grey, 192 x 128, and gives one box for the loop and one for
the pin. Each of 24 x 16 cells says whether it lies in the loop (the pin) and where the box's edges
are; the boxes are the means over the cells, weighted by how sure each is. So a few cells that see
the thing whole decide, and no search for peaks is left to do behind the network.

Outputs are named as those of detection models of TensorFlow are: ``detection_boxes`` (1, 2, 4) as
ymin, xmin, ymax, xmax in parts of the picture, ``detection_scores`` (1, 2) and
``detection_classes`` (1, 2), counted from 1 in the metadata's ``classes``.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from training import optimize

WIDTH, HEIGHT, CELL = 192, 128, 8
CLASSES = ("nylon", "mitegen", "pin")
FIRST_SEED = 500_000
"""Scenes for training; the tests draw theirs below."""
LEAST_PX = 3.0
"""Of the 192 x 128 picture: what shows less of itself is not marked."""
SHARPEN = 2.0


def make_scenes(out: Path, count: int) -> None:
    """Render scenes of the twin; save pictures (n, 128, 192) and boxes (n, 2, 4), NaN: none."""
    from PIL import Image

    from skywright.instruments.loop.twin.render import Pose, render
    from skywright.instruments.loop.twin.scene import random_scene

    pictures, boxes, kinds = [], [], []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, width_px=352, height_px=240)  # enough for 192 x 128
        frame = render(scene, Pose(phi_deg=float(rng.uniform(0, 360))), frame_seed=seed)
        if frame.truth.tip_covered:
            continue
        gray = Image.fromarray(frame.image).convert("L")
        pictures.append(np.asarray(gray.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)))
        boxes.append(true_boxes(scene, frame.truth))
        kinds.append(CLASSES.index("mitegen") if frame.truth.kind == "mitegen" else 0)
    np.savez_compressed(
        out,
        pictures=np.array(pictures, np.uint8),
        boxes=np.array(boxes, np.float32),
        kinds=np.array(kinds, np.int64),
    )


def true_boxes(scene: Any, truth: Any) -> list[list[float]]:
    """Return the boxes of loop and pin in the picture: ymin, xmin, ymax, xmax, parts of it."""
    optics, nothing = scene.optics, [np.nan] * 4
    size = np.array([optics.height_px, optics.width_px] * 2)

    def clipped(x0: float, y0: float, x1: float, y1: float) -> list[float]:
        box = np.clip(np.array([y0 + 0.5, x0 + 0.5, y1 + 0.5, x1 + 0.5]) / size, 0.0, 1.0)
        height, width = (box[2] - box[0]) * HEIGHT, (box[3] - box[1]) * WIDTH
        return box.tolist() if min(height, width) >= LEAST_PX else nothing

    loop = clipped(*truth.box_px) if truth.kind in ("nylon", "mitegen") else nothing
    if truth.kind == "none" or not np.isfinite(truth.pin_end_px).all():
        return [loop, nothing]
    x, y = truth.pin_end_px
    half_x, half_y = (
        0.5 * scene.mount.pin_um / um for um in (optics.um_per_px_x, optics.um_per_px_y)
    )
    far = 1e6
    pin = {
        "left": (-far, y - half_y, x, y + half_y),
        "right": (x, y - half_y, far, y + half_y),
        "top": (x - half_x, -far, x + half_x, y),
        "bottom": (x - half_x, y, x + half_x, far),
    }[optics.side]
    return [loop, clipped(*pin)]


def make_network() -> Any:
    """Return the network, 91,256 weights."""
    import torch
    from torch import nn

    def block(into: int, out: int, stride: int = 1, dilation: int = 1) -> Any:
        conv = nn.Conv2d(into, out, 3, stride, dilation, dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())

    class LoopNet(nn.Module):
        """Grey (n, 1, 128, 192) of 0..1 to boxes, scores and classes; dense maps for training."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                block(1, 12, 2), block(12, 24, 2), block(24, 24), block(24, 40, 2)
            )
            self.context = nn.ModuleList(block(40, 40, 1, d) for d in (1, 2, 4, 8, 1))
            self.whole = nn.Linear(40, 40)
            self.maps = nn.Conv2d(40, 2 + 8 + 2, 1)
            rows, columns = torch.meshgrid(
                (torch.arange(HEIGHT // CELL) + 0.5) * CELL / HEIGHT,
                (torch.arange(WIDTH // CELL) + 0.5) * CELL / WIDTH,
                indexing="ij",
            )
            self.register_buffer("center", torch.stack([rows, columns, rows, columns]))
            self.register_buffer("sign", torch.tensor([-1.0, -1.0, 1.0, 1.0]))

        def dense(self, image: Any) -> tuple[Any, Any, Any]:
            """Return maps: inside (n, 2, h, w), boxes (n, 2, 4, h, w), kind (n, 2, h, w)."""
            level = image.mean((1, 2, 3), keepdim=True)
            spread = (image - level).pow(2).mean((1, 2, 3), keepdim=True).sqrt()
            seen = self.stem((image - level) / (spread + 0.02))
            for layer in self.context:
                seen = seen + layer(seen)
            seen = seen + self.whole(seen.mean((2, 3)))[:, :, None, None]
            maps = self.maps(seen)
            reach = nn.functional.softplus(maps[:, 2:10].unflatten(1, (2, 4))) * 0.25
            boxes = self.center + self.sign[:, None, None] * reach
            return maps[:, :2], boxes, maps[:, 10:]

        def join(self, inside: Any, boxes: Any, kind: Any) -> tuple[Any, Any, Any]:
            """Return boxes (n, 2, 4), score logits (n, 2), kind logits (n, 2)."""
            weights = (SHARPEN * inside).flatten(2).softmax(2)
            joined = (boxes.flatten(3) * weights[:, :, None]).sum(3).clamp(0.0, 1.0)
            score = (inside.flatten(2) * weights).sum(2)
            return joined, score, (kind.flatten(2) * weights[:, :1]).sum(2)

        def forward(self, image: Any) -> tuple[Any, Any, Any]:
            boxes, score, kind = self.join(*self.dense(image))
            loop = 1 + kind.argmax(1)
            classes = torch.stack([loop, torch.full_like(loop, CLASSES.index("pin") + 1)], 1)
            return boxes, score.sigmoid(), classes.float()

    return LoopNet()


def overlap(a: Any, b: Any) -> tuple[Any, Any]:
    """Return IoU and generalized IoU of boxes (..., 4)."""
    import torch

    def area(box: Any) -> Any:
        return (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)

    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = area(a) + area(b) - common
    least, most = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (most - least).clamp(min=0).prod(-1)
    iou = common / (union + 1e-9)
    return iou, iou - (hull - union) / (hull + 1e-9)


def loss_of(network: Any, images: Any, boxes: Any, kinds: Any) -> Any:
    """Return the loss of a batch: cells, boxes of cells inside, joined boxes, scores, kinds."""
    import torch
    from torch.nn import functional

    inside, cells, kind = network.dense(images)
    there = boxes.isfinite().all(2)
    wanted = boxes.nan_to_num(0.5)[..., None, None]
    middle, half = (
        (wanted[:, :, :2] + wanted[:, :, 2:]) / 2,
        (wanted[:, :, 2:] - wanted[:, :, :2]) / 2,
    )
    # The middle part of a box, at least one cell.
    room = torch.tensor([CELL / HEIGHT, CELL / WIDTH])[:, None, None] * 0.5
    near = (network.center[:2] - middle).abs() <= torch.maximum(half * 0.6, room)
    target = (near.all(2) & there[..., None, None]).float()
    weight = torch.where(target > 0, 4.0, 1.0)
    loss = functional.binary_cross_entropy_with_logits(inside, target, weight)
    of_cells = overlap(cells.movedim(2, -1), wanted.movedim(2, -1))[1]
    loss = loss + ((1 - of_cells) * target).sum() / target.sum().clamp(min=1)
    joined, score, kind = network.join(inside, cells, kind)
    loss = loss + ((1 - overlap(joined, boxes.nan_to_num(0.5))[1]) * there).sum() / there.sum()
    loss = loss + functional.binary_cross_entropy_with_logits(score, there.float())
    loops = there[:, 0]
    return loss + 0.5 * functional.cross_entropy(kind[loops], kinds[loops])


def augmented(images: Any, boxes: Any, rng: Any) -> tuple[Any, Any]:
    """Mirror, and change the light; the pin may enter from any side."""
    import torch

    for axis, (low, high) in ((2, (0, 2)), (3, (1, 3))):
        if rng.random() < 0.5:
            images, boxes = images.flip(axis), boxes.clone()
            boxes[..., low], boxes[..., high] = 1 - boxes[..., high], 1 - boxes[..., low]
    gamma = torch.from_numpy(rng.uniform(0.7, 1.4, (len(images), 1, 1, 1)).astype(np.float32))
    noise = torch.randn_like(images) * float(rng.uniform(0.0, 0.02))
    return (images.clamp(min=1e-3) ** gamma + noise).clamp(0, 1), boxes


def train(scenes: Path, out: Path, minutes: float, seed: int) -> None:
    """Train for some minutes of one core, keep a twentieth to judge by, export."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = np.load(scenes)
    images = torch.from_numpy(data["pictures"]).float()[:, None] / 255.0
    boxes, kinds = torch.from_numpy(data["boxes"]), torch.from_numpy(data["kinds"])
    held = len(images) // 20
    # Channels last is a fifth faster on a CPU.
    network = make_network().train().to(memory_format=torch.channels_last)

    def loss(pick: Any) -> Any:
        return loss_of(network, *augmented(images[pick], boxes[pick], rng), kinds[pick])

    def report() -> None:
        judge(network, images[:held], boxes[:held], kinds[:held])

    optimize(
        network,
        torch.arange(held, len(images)),
        loss,
        report,
        minutes=minutes,
        batch=32,
        rate=3e-3,
        decay=1e-4,
        warm=100,
    )
    judge(network.eval(), images[:held], boxes[:held], kinds[:held])
    export(network, out)


def judge(network: Any, images: Any, boxes: Any, kinds: Any) -> None:
    """Print the overlap with the truth, the scores of what is and is not there, the classes."""
    import torch

    was_training = network.training
    network.eval()
    with torch.no_grad():
        found, scores, classes = network(images)
    network.train(was_training)
    there = boxes.isfinite().all(2)
    iou = overlap(found, boxes.nan_to_num(0.5))[0]
    loop, pin = iou[there[:, 0], 0], iou[there[:, 1], 1]
    right = (classes[:, 0] == kinds + 1)[there[:, 0]].float().mean()
    seen, unseen = (scores[:, 0][mask] > 0.5 for mask in (there[:, 0], ~there[:, 0]))
    sys.stdout.write(
        f"IoU loop median {loop.median():.3f} mean {loop.mean():.3f}, pin {pin.median():.3f}; "
        f"found {seen.float().mean():.3f}, false {unseen.float().mean():.3f}; class {right:.3f}\n"
    )
    sys.stdout.flush()


def export(network: Any, out: Path) -> None:
    """Write the network as ONNX, with the names of its classes."""
    import onnx
    import torch

    torch.onnx.export(
        network,
        (torch.zeros(1, 1, HEIGHT, WIDTH),),
        str(out),
        input_names=["image"],
        output_names=["detection_boxes", "detection_scores", "detection_classes"],
        opset_version=18,
        dynamo=True,
        external_data=False,
    )
    model = onnx.load(str(out))
    onnx.helper.set_model_props(model, {"classes": ",".join(CLASSES)})
    onnx.save(model, str(out))
    sys.stdout.write(f"{out}: {out.stat().st_size} bytes\n")


def main() -> int:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    scenes = steps.add_parser("scenes", help="render pictures with their truth")
    scenes.add_argument("out", type=Path)
    scenes.add_argument("--count", type=int, default=6000)
    fit = steps.add_parser("train", help="train and export")
    fit.add_argument("scenes", type=Path)
    fit.add_argument("out", type=Path)
    fit.add_argument("--minutes", type=float, default=15.0, help="of CPU (%(default)s)")
    fit.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.step == "scenes":
        make_scenes(args.out, args.count)
    else:
        train(args.scenes, args.out, args.minutes, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
