"""Figures of a network's file on pictures held out."""

import json
import math
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from generators import GENERATORS, sample_of
from sample import Sample
from scipy.ndimage import binary_dilation, uniform_filter

BAD_PX, MISS_PX = 25.0, 999.0
CONTRAST_MIN = 3.0  # of a tip, over the scatter of the light beside it
SCORES = (0.5, 0.7, 0.85, 0.95, 1.0001)
ROW = re.compile(r"^\| `(?P<file>[\w.]+)` \|")
PLACE = re.compile(r"\(([\d.]+), ([\d.]+)\)")
Find = Callable[[Any], Any]


def score_all(model: Path, real: Path | None, count: int, first: int) -> None:
    """Print one JSON line for each set: pictures of each generator, and the real ones."""
    from skywright.instruments.loop.detector.readout import LoopFinder

    find = LoopFinder(model).find
    sets: dict[str, list[Sample]] = {
        name: [sample_of(name, first + k) for k in range(count)] for name in GENERATORS
    }
    if real is not None:
        sets["real"] = real_pictures(real)
    for name, samples in sets.items():
        sys.stdout.write(json.dumps({"set": name, **figures(samples, find)}) + "\n")
        sys.stdout.flush()


def real_pictures(folder: Path) -> list[Sample]:
    """Return the pictures of a folder with the truth that the table of its README.md has."""
    from skywright.instruments.loop.picture import read_picture

    samples = []
    for line in (folder / "README.md").read_text().splitlines():
        row = ROW.match(line)
        path = folder / row["file"] if row else None
        if path is None or not path.exists():
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        tips = [(float(x), float(y)) for x, y in PLACE.findall(cells[4])]
        box = re.findall(r"[\d.]+", cells[5])[:4]
        gray = read_picture(path).astype(float)
        samples.append(
            Sample(
                gray,
                np.zeros((5, *gray.shape), bool),
                "nylon" if path.name.startswith(("nylon", "loop")) else "mitegen",
                cells[3].split()[0],
                tips[0],
                box=tuple(float(number) for number in box),  # type: ignore[arg-type]
                second_tip=tips[-1],
                notes={"file": path.name},
            )
        )
    return samples


def figures(samples: list[Sample], find: Find) -> dict[str, Any]:
    """Return tip errors, overlap, width, side, kind, false tips and calibration of a set.

    Tips that nobody can see (`stands_out`) are counted apart, as on the scenes of the twin.
    """
    errors: list[float] = []
    overlaps: list[float] = []
    widths: list[float] = []
    right: dict[str, list[bool]] = {"side": [], "kind": []}
    scores: list[tuple[float, bool]] = []
    empty = false = unseen = 0
    unseen_wrong = 0
    named = {}
    for sample in samples:
        gray = np.clip(np.round(sample.gray), 0, 255).astype(np.uint8)
        found = find(gray)
        if sample.kind == "none":
            empty += 1
            false += found.tip_in_view
            scores += [(found.score, False)] * found.tip_in_view
            continue
        height, width = gray.shape
        x, y = sample.tip
        if not (0 <= x < width and 0 <= y < height):
            continue
        off = error_px(sample, found) if found.tip_in_view else MISS_PX
        if stands_out(sample) < CONTRAST_MIN:
            unseen += 1
            unseen_wrong += BAD_PX < off < MISS_PX
            continue
        errors.append(off)
        scores.append((found.score, off <= BAD_PX))
        right["side"].append(found.side == sample.side)
        right["kind"].append(found.kind == sample.kind)
        if "file" in sample.notes:
            named[sample.notes["file"]] = [round(off, 1), found.kind, found.side]
        if sample.kind != "pin" and np.isfinite(sample.box[0]):
            box = np.clip(sample.box, 0, [width - 1, height - 1] * 2)
            overlaps.append(overlap(found.bbox, box))
            across = box[3] - box[1] if sample.side in ("left", "right") else box[2] - box[0]
            widths.append(abs(found.width - across) if found.bbox else MISS_PX)
    off = np.array(errors)
    out: dict[str, Any] = {
        "mounts": len(off),
        "tip median / p95 px": [_round(np.median(off)), _round(np.percentile(off, 95))],
        "bad": _round((off > BAD_PX).mean()),
        "missed": int((off == MISS_PX).sum()),
        "tips that nobody sees": unseen,
        "of these told wrong": unseen_wrong,
        "empty views": empty,
        "false tips": int(false),
        **{name: _round(np.mean(values)) for name, values in right.items()},
        "score: share right": _calibration(scores),
        "score: slope": _slope(scores),
    }
    if overlaps:
        low, middle = np.percentile(overlaps, [5, 50])
        out["overlap median / p5"] = [_round(middle), _round(low)]
        out["width median px"] = _round(np.median(widths))
    return {**out, "pictures": named} if named else out


def stands_out(sample: Sample) -> float:
    """Return the contrast of the tip, of means of 3 x 3 px, over their scatter in the light beside.

    Infinite where the parts of the mount are not known, or no light is beside the tip.
    """
    mount = sample.masks[:3].any(0)
    height, width = sample.gray.shape
    y, x = np.mgrid[0:height, 0:width]
    far = np.hypot(x - sample.tip[0], y - sample.tip[1])
    box = np.nan_to_num(sample.box)
    across = box[3] - box[1] if sample.side in ("left", "right") else box[2] - box[0]
    reach = max(5.0, 0.15 * across)
    near = (far < reach) & binary_dilation(mount, iterations=1)
    light = (far < reach + 15) & ~binary_dilation(mount, iterations=3)
    if not near.any() or light.sum() < 25:
        return math.inf
    mean = uniform_filter(sample.gray, 3)
    off = np.abs(mean[near] - np.median(mean[light]))
    return float(np.percentile(off, 95) / max(mean[light].std(), 0.7))


def error_px(sample: Sample, found: Any) -> float:
    """Return the distance to the tip, or to that of a crystal or a spike of ice that sticks out.

    Of a bare pin whose end the frame cuts, it is that along the pin: the middle of the end is not
    in the picture.
    """
    wx, wy = 1.0, 1.0
    if sample.kind == "pin" and np.isfinite(sample.box[0]):
        height, width = sample.gray.shape
        x0, y0, x1, y1 = sample.box
        if sample.side in ("left", "right"):
            wy = float(y0 >= 0 and y1 <= height - 1)
        else:
            wx = float(x0 >= 0 and x1 <= width - 1)
    tips = [tip for tip in (sample.tip, sample.second_tip) if np.isfinite(tip[0])]
    return min(math.hypot(wx * (found.tip_x - a), wy * (found.tip_y - b)) for a, b in tips)


def _calibration(scores: list[tuple[float, bool]]) -> dict[str, list[float]]:
    """Return number and share of detections that are right, by score."""
    out = {}
    for low, high in pairwise(SCORES):
        within = [right for score, right in scores if low <= score < high]
        if within:
            out[f"{low:g}"] = [len(within), _round(np.mean(within))]
    return out


def _slope(scores: list[tuple[float, bool]]) -> float:
    """Return by what the logarithm of the scores' odds would fit best if multiplied; 1 is right."""
    score, right = np.array(scores).T
    score = np.clip(score, 1e-6, 1 - 1e-6)
    odds = np.log(score / (1 - score)) * np.where(right, 1, -1)
    tried = np.geomspace(0.1, 10, 201)
    return _round(min(tried, key=lambda slope: np.logaddexp(0, -slope * odds).mean()))


def overlap(a: Any, b: Any) -> float:
    """Return the intersection over the union of two boxes; 0 without a box."""
    if a is None:
        return 0.0
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def _round(value: Any) -> float:
    return round(float(value), 3)
