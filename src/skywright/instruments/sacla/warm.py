"""Compiles the kernels by running them on a small tile."""

import numpy as np

from skywright.analysis import Batch
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.tile import PixelRules, Rings, Tile


def warm_up() -> None:
    """Run all kernels once."""
    rules = PixelRules(10000.0, 3.65, 1000.0, 2.0, 2.0, 1.0)
    tile = Tile("warm", 15.0, np.zeros((4, 4), bool))
    region = Region("all", "warm", ((-1.0, -1.0), (5.0, -1.0), (5.0, 5.0), (-1.0, 5.0)))
    analysis = ShotImages(tile, rules, [region], profiles=True)
    # Two blocks, to be merged, with enough frames for the kernel that adds four at once.
    for block in range(2):
        identities = np.arange(10) + 256 * block
        data = {"image": np.ones((10, 4, 4), np.float32), "laser_on": identities % 2 > 0}
        analysis.update(Batch(identities, np.zeros(10), data))
    mean = analysis.result()["mean"].ravel()
    Rings(tile.bad, rules.radial_cx, rules.radial_cy, rules.radial_dr).profile(mean)
