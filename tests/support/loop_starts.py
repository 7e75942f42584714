"""Starts for centering, drawn from fixed, wide ranges.

===============  ===================================================================================
what             drawn from
===============  ===================================================================================
scene            `skywright.instruments.loop.twin.scene.random_scene`: all of its lights, mounts,
                 dirt and sides of the pin
loop             170..1000 um long, 0.55..0.95 as wide; a drop at most 0.7 of the width thick
picture          704 x 480 px, 4..7.5 um by columns, rows 1.11 times as high, so that a loop is 0.06
                 of its width long at least, as in that module
tip, along       +-2 mm from the beam; every third start has its tip out of the picture, on one side
                 or the other, by up to 0.3 mm (there by columns 4..6 um)
tip, across      +-1 mm from the spindle, y and z evenly
spindle          any angle
back light       90..190 gray levels, stray light included, before vignette and gradient
calibration      scale off by sigma 0.3 %, axis row by 0.4 px, roll by 0.05 deg, delay by 5 ms
===============  ===================================================================================
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.loop_world import World
from support.twin_motion import Motion

from skywright.acquire.trajectory import Axis
from skywright.instruments.loop.geometry import axis_um, target_um, to_view
from skywright.instruments.loop.twin.mount import Pose
from skywright.instruments.loop.twin.scene import Scene, random_scene
from skywright.instruments.loop.twin.truth import frame_truth, shape_of

OUT_EVERY = 3
ALONG_UM, ACROSS_UM, BEYOND_UM = 2000.0, 1000.0, 300.0
LOOP_UM = (170.0, 1000.0)
THICKEST_DROP = 0.7  # of the loop's width, as in `random_scene`


@dataclass(frozen=True)
class Start:
    """A world, and by how much its calibration is off."""

    world: World
    errors: dict[str, float]
    out_of_view: bool


def draw_start(
    seed: int, fps: float = 30.0, loop_um: tuple[float, float] = LOOP_UM, **overrides: Any
) -> Start:
    """Draw a start; its seed is its name."""
    rng = np.random.default_rng([seed, 77])
    out = seed % OUT_EVERY == 0
    kind = overrides.pop("kind", None) or str(rng.choice(["nylon", "mitegen"], p=[0.62, 0.38]))
    lengths = np.log([loop_um[0], loop_um[1] if kind == "nylon" else min(700.0, loop_um[1])])
    length = float(np.exp(rng.uniform(*lengths)))
    largest = min(6.0 if out else 7.5, max(length / (0.06 * 704), 4.5))
    scale = float(np.exp(rng.uniform(np.log(4.0), np.log(largest))))
    fixed: dict[str, Any] = {
        "um_per_px_x": scale,
        "um_per_px_y": 1.11 * scale,
        "width_px": 704,
        "height_px": 480,
        "loop_length_um": length,
        "loop_width_um": length * rng.uniform(0.55, 0.95),
        "kind": kind,
    }
    if length < 150.0:  # as that module has it: a wide rim leaves no aperture
        fixed["fiber_um"] = 10.0 if kind == "nylon" else 0.12 * length
    if overrides.get("light") == "backlight":
        fixed["level"] = float(rng.uniform(90.0, 190.0))
    scene = random_scene(rng, **{**fixed, **overrides})
    # The drop was drawn for the loop of that scene, which was wider: of this one it would be a disc
    # that stands across the loop.
    thickest = THICKEST_DROP * scene.mount.loop_width_um
    thinner = replace(scene.mount, drop_um=min(scene.mount.drop_um, thickest))
    scene = replace(scene, mount=thinner)
    if "level" in fixed:  # lamp and stray light together, as the light check wants it
        lamp = scene.optics
        part = lamp.level / (lamp.level + lamp.stray)
        dimmed = replace(lamp, level=part * lamp.level, stray=part * lamp.stray)
        scene = replace(scene, optics=dimmed)
    optics = scene.optics
    lying = optics.side in ("left", "right")
    half = 0.5 * (704 * scale if lying else 480 * 1.11 * scale)
    along = rng.uniform(-ALONG_UM, ALONG_UM)
    if out:
        along = rng.choice([-1.0, 1.0]) * (half + rng.uniform(20.0, BEYOND_UM))
    across = rng.uniform(-ACROSS_UM, ACROSS_UM, 2)
    tip = (float(along), float(across[0]), float(across[1]))
    scene = replace(scene, mount=replace(scene.mount, tip_um=tip))
    turned = Axis(float(rng.uniform(0.0, 360.0)))
    delay = float(rng.uniform(0.06, 0.3))
    world = World(scene, fps=fps, delay_s=delay, motion=Motion(phi=turned))
    known = world.calibration()
    errors = {
        "um_per_px_x": known.um_per_px_x * (1.0 + rng.normal(0.0, 0.003)),
        "um_per_px_y": known.um_per_px_y * (1.0 + rng.normal(0.0, 0.003)),
        "axis_px": known.axis_px + rng.normal(0.0, 0.4),
        "roll_deg": known.roll_deg + rng.normal(0.0, 0.05),
        "delay_s": delay + rng.normal(0.0, 0.005),
    }
    return Start(world, errors, out)


def middle_um(scene: Scene, pose: Pose) -> list[NDArray[np.float64]]:
    """Middle of the loop from the beam, as its silhouettes over a turn show it; the truth.

    Returns
    -------
    list of (3,) float64
        Of the head, and of the head with a crystal that may stick out: either may be meant.
    """
    world = World(scene)
    view, shape = world.calibration().view, shape_of(scene)
    axis = axis_um(scene.optics.axis_px, view)
    beam = np.array([target_um(axis, view), axis])
    angles = np.arange(0.0, 360.0, 10.0)
    phi = np.deg2rad(angles)
    turns = np.stack([np.cos(phi), -np.sin(phi)], axis=1)
    poses = [replace(pose, phi_deg=float(angle)) for angle in angles]
    truths = [frame_truth(scene, shape, each) for each in poses]
    found = []
    for name in ("box_px", "box_with_crystal_px"):
        boxes = np.array([getattr(truth, name) for truth in truths])
        seen = to_view(0.5 * (boxes[:, :2] + boxes[:, 2:]), view) - beam
        across = np.linalg.lstsq(turns, seen[:, 1], rcond=None)[0]
        found.append(np.array([seen[:, 0].mean(), *across]))
    return found


def miss(scene: Scene, pose: Pose) -> tuple[float, float]:
    """How far the middle of the loop is from the spindle and, along it, from the beam, um."""
    offsets = [
        (float(np.hypot(*offset[1:])), float(abs(offset[0]))) for offset in middle_um(scene, pose)
    ]
    return min(offsets, key=lambda pair: max(pair[0], 100.0 * pair[1] / scene.mount.loop_length_um))
