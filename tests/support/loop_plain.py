"""A loop that is seen well, to be changed in one thing at a time."""

from dataclasses import replace
from typing import Any

import numpy as np
from support.loop_world import World
from support.twin_motion import Motion

from skywright.acquire.trajectory import Axis
from skywright.instruments.loop.twin.scene import random_scene

PLAIN: dict[str, Any] = {
    "kind": "nylon",
    "side": "left",
    "um_per_px_x": 6.7324,
    "um_per_px_y": 7.4729,
    "width_px": 704,
    "height_px": 480,
    "axis_px": 236.0,
    "roll_deg": 0.3,
    "light": "backlight",
    "level": 180.0,
    "contrast": 0.9,
    "loop_length_um": 420.0,
    "loop_width_um": 300.0,
    "fiber_um": 20.0,
    "stem_um": 700.0,
    "stem_bend_deg": 3.0,
    "crystal_um": (0.0, 0.0, 0.0),
    "drop_um": 60.0,
    "ice_um": 0.0,
    "focus_um": 0.0,
    "depth_of_field_um": 1500.0,
    "read_noise": 1.5,
    "nozzle": None,
    "overlay": False,
    "interlaced": False,
    "color": False,
    "jpeg_quality": 85,
}


def make_world(
    tip_um: tuple[float, float, float] = (400.0, 300.0, -250.0),
    *,
    phi_deg: float = 20.0,
    seed: int = 5,
    **overrides: Any,
) -> World:
    """A loop that is seen well, off the beam.

    The camera takes as few pictures as a turn needs: each costs 20 ms of processor time.
    """
    scene = random_scene(np.random.default_rng(seed), **{**PLAIN, **overrides})
    scene = replace(scene, mount=replace(scene.mount, tip_um=tip_um))
    return World(scene, fps=7.0, motion=Motion(phi=Axis(phi_deg)))
