"""A rotation as the detection tells of it, and the analysis of it, for tests."""

from typing import Any

import numpy as np

from skywright.analysis import Batch
from skywright.instruments.loop.analysis import KINDS, SIDES, SIGNS
from skywright.instruments.loop.calibration import ZoomCalibration, as_json, now
from skywright.instruments.loop.detection import ERROR_NAMES
from skywright.instruments.loop.geometry import observe
from skywright.instruments.loop.rotation import LoopRotation

CALIBRATION = ZoomCalibration(
    zoom=0.0,
    um_per_px_x=6.7,
    um_per_px_y=7.4,
    axis_px=244.0,
    axis_sigma_px=0.5,
    scale_residual_px=0.2,
    axis_residual_px=0.2,
    date=now(),
)
TIP, MIDDLE, FACE_DEG = (120.0, 90.0, -60.0), (-30.0, 80.0, -40.0), 25.0
LENGTH, WIDTH, THICKNESS = 300.0, 220.0, 60.0


def rotation(count: int = 60, seed: int = 0, **changes: Any) -> Batch:
    """Pictures of a loop over 180 deg, as the detection tells of them."""
    rng = np.random.default_rng(seed)
    phi = np.linspace(0.0, 180.0, count, endpoint=False)
    view = CALIBRATION.view
    tip = observe(TIP, phi, view, CALIBRATION.axis_px) + rng.normal(0.0, 0.3, (count, 2))
    middle = observe(MIDDLE, phi, view, CALIBRATION.axis_px) + rng.normal(0.0, 0.2, (count, 2))
    turn = np.deg2rad(phi - FACE_DEG)
    width = np.hypot(WIDTH * np.cos(turn), THICKNESS * np.sin(turn)) / 7.4
    half = np.stack([np.full(count, 0.5 * LENGTH / 6.7), 0.5 * width], axis=1)
    data = {
        "phi": phi,
        "image_num": np.arange(count),
        "tip_x": tip[:, 0],
        "tip_y": tip[:, 1],
        "xmin": middle[:, 0] - half[:, 0],
        "ymin": middle[:, 1] - half[:, 1],
        "xmax": middle[:, 0] + half[:, 0],
        "ymax": middle[:, 1] + half[:, 1],
        "kind": np.full(count, KINDS.index("nylon"), np.uint8),
        "kind_odds": np.full(count, 2.0),
        "width": width,
        "side": np.full(count, SIDES.index("left"), np.uint8),
        "score": np.full(count, 0.8),
        "pin_base_x": np.full(count, np.nan),
        "pin_base_y": np.full(count, np.nan),
        "fiber_width": np.full(count, 3.0),
        "clipped": np.zeros(count, bool),
        "tip_in_view": np.ones(count, bool),
        "tip_sign": np.full(count, SIGNS.index(""), np.uint8),
        "level": 180.0 + rng.normal(0.0, 0.1, count),
        "saturated": np.zeros(count),
        "contrast": np.full(count, 80.0),
        "sharpness": 20.0 + rng.normal(0.0, 0.1, count),
        "noise": 1.0 + rng.normal(0.0, 0.01, count),
        "flat": np.zeros(count, bool),
        **{name: np.full(count, np.nan) for name in ERROR_NAMES},
        "backend": np.zeros(count, np.uint8),
    }
    for name, values in changes.items():
        data[name] = np.broadcast_to(values, count).copy()
    assert set(data) == set(LoopRotation.inputs)
    numbers = 500 + np.arange(count)
    return Batch(numbers, 1.7e9 + 0.03 * np.arange(count), data)


def analysis(**parameters: Any) -> LoopRotation:
    return LoopRotation(calibration=as_json(CALIBRATION), **parameters)
