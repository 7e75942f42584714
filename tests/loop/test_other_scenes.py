"""The detector on scenes that are neither the twin's nor like what its networks learned from."""

import json
import math

import numpy as np
import pytest
from accuracy_scenes import BAD_PX, MISS_PX
from other_scenes import other_scene

from skywright.instruments.loop.detect import find_loop

SEEDS, FEW = range(2000, 2500), range(2500, 2560)


def figures(seeds):
    """Look at scenes and compare; print one JSON line."""
    errors, sides, kinds, false, empty = [], [], [], 0, 0
    for seed in seeds:
        gray, kind, side, tip = other_scene(seed)
        found = find_loop(gray)
        if kind == "none":
            empty += 1
            false += found.tip_in_view
            continue
        height, width = gray.shape
        if not (0 <= tip[0] < width and 0 <= tip[1] < height):
            continue
        off = math.hypot(found.tip_x - tip[0], found.tip_y - tip[1])
        errors.append(off if found.tip_in_view else MISS_PX)
        sides.append(found.side == side)
        kinds.append(found.kind == kind)
    out = {
        "mounts": len(errors),
        "tip_median_px": round(float(np.median(errors)), 2),
        "tip_p95_px": round(float(np.percentile(errors, 95)), 2),
        "bad": round(float(np.mean(np.array(errors) > BAD_PX)), 4),
        "side": round(float(np.mean(sides)), 4),
        "class": round(float(np.mean(kinds)), 4),
        "empty views": empty,
        "false tips": false,
    }
    print(json.dumps(out))
    return out


def test_a_few_scenes_of_another_renderer():
    seen = figures(FEW)
    assert seen["tip_median_px"] <= 1.5
    assert seen["tip_p95_px"] <= 8.0
    assert seen["bad"] == 0.0
    assert seen["side"] == 1.0
    # Three sigmas below the goal of 0.9: these are 57 mounts.
    assert seen["class"] >= 0.78
    assert seen["false tips"] == 0


@pytest.mark.accuracy
@pytest.mark.timeout(3600)
def test_scenes_of_another_renderer():
    seen = figures(SEEDS)
    assert seen["tip_median_px"] <= 1.5
    assert seen["tip_p95_px"] <= 8.0
    assert seen["bad"] <= 0.03
    assert seen["class"] >= 0.9
    assert seen["false tips"] <= seen["empty views"] / 30
