"""Labels of the generators that the network learns from: ``make accuracy``."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "train_loop"))
from generators import GENERATORS
from names import KINDS, MASKS, SIDES, TURN
from sample import packed
from scipy.ndimage import distance_transform_edt

pytestmark = pytest.mark.accuracy
SEEDS = range(470_000_000, 470_000_060)
FAR_PX = 4.0  # from a tip to the nearest pixel of its part, px


@pytest.mark.parametrize("name", TURN)
def test_labels_fit_one_another(name):
    near = []
    for seed in SEEDS:
        sample = GENERATORS[name](np.random.default_rng(seed))
        height, width = sample.gray.shape
        assert sample.masks.shape == (len(MASKS), height, width)
        assert np.isfinite(sample.gray).all(), seed
        assert sample.kind in KINDS
        assert sample.side in SIDES
        if sample.kind == "none":
            assert not sample.masks[:4].any(), seed
            continue
        x, y = sample.tip
        if not (0 <= x < width and 0 <= y < height):
            continue
        part = sample.masks[MASKS.index("pin" if sample.kind == "pin" else "head")]
        if not part.any():  # clutter hides it
            continue
        near.append(distance_transform_edt(~part)[int(y), int(x)] <= FAR_PX)
        x0, y0, x1, y1 = sample.box
        assert x0 <= x1, seed
        assert y0 <= y1, seed
    assert len(near) >= 0.6 * len(SEEDS)
    assert np.mean(near) >= 0.97  # clutter may hide the end of a head, not its tip's place


@pytest.mark.parametrize("name", TURN)
def test_a_seed_gives_the_same_picture(name):
    first, again = (GENERATORS[name](np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first.gray, again.gray)
    for one, other in zip(packed(first), packed(again), strict=True):
        assert np.array_equal(one, other, equal_nan=True)
