"""The silhouette of the sample in a picture of the twin, and whether something hides its tip."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skywright.instruments.loop.twin import optics as twin_optics
from skywright.instruments.loop.twin import render as twin_render
from skywright.instruments.loop.twin.mount import Pose
from skywright.instruments.loop.twin.optics import Optics
from skywright.instruments.loop.twin.scene import Scene
from skywright.instruments.loop.twin.truth import FrameTruth, shape_of


def silhouette(scene: Scene, pose: Pose) -> NDArray[np.float32]:
    """Return the transmission (H, W) float32 of the sample alone: 1 where there is nothing."""
    optics = scene.optics
    corner, transmission, _ = twin_render._see(shape_of(scene), optics, pose, None, 0.0)
    full = np.ones((optics.height_px, optics.width_px), np.float32)
    height, width = transmission.shape
    full[corner[1] : corner[1] + height, corner[0] : corner[0] + width] = transmission
    return full


def tip_is_covered(truth: FrameTruth, optics: Optics) -> bool:
    """Tell whether a nozzle, text or border hides the tip that is in the frame."""
    if not truth.tip_in_view:
        return False
    column, row = truth.tip_px
    at = np.array([[row]], np.float32), np.array([[column]], np.float32)
    if twin_optics._nozzle(optics, *at)[0, 0] < 0.6:
        return True
    u = int(np.clip(round(column), 0, optics.width_px - 1))
    v = int(np.clip(round(row), 0, optics.height_px - 1))
    return bool(_overlaid(optics)[v, u])


@lru_cache(maxsize=8)
def _overlaid(optics: Optics) -> NDArray[np.bool_]:
    """Return where text or border lies over the picture, (H, W)."""
    other = 128 if optics.border_level != 128 else 129  # a level that nothing of them has
    image = np.full((optics.height_px, optics.width_px, 1), other, np.uint8)
    twin_optics.stamp(image, optics)
    return image[:, :, 0] != other
