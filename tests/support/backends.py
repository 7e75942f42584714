"""Scenes, boxes and replies for tests of the detectors' back-ends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.scripted_http import Visit

from skywright.instruments.loop.twin.render import Pose, render
from skywright.instruments.loop.twin.scene import random_scene
from skywright.wire.automl import (
    Box,
    decode_request,
    encode_reply,
)

MODEL = Path(__file__).parents[1] / "loop" / "dark_box.onnx"
CLASSES = ("nylon", "mitegen", "pin")
SHAPE = (480, 704)


PLAIN: dict[str, Any] = {
    **{"width_px": 704, "height_px": 480, "um_per_px_x": 4.0, "um_per_px_y": 4.44, "color": True},
    **{"light": "backlight", "level": 190.0, "contrast": 1.0, "stray": 4.0, "nozzle": None},
    **{"loop_length_um": 400.0, "loop_width_um": 280.0, "stem_um": 400.0, "stem_bend_deg": 0.0},
    **{"tip_um": (300.0, 60.0, 30.0), "face_on_deg": 20.0, "base_um": 650.0, "pin_um": 650.0},
}
"""A mount in good light, with its pin in view."""


def scene_with(kind: str, side: str, seed: int) -> Any:
    """Render a mount in good light."""
    scene = random_scene(np.random.default_rng(seed), kind=kind, side=side, **PLAIN)
    return render(scene, Pose(phi_deg=20.0), frame_seed=seed)


def overlap(a: Any, b: Any) -> float:
    """IoU of two boxes, xmin, ymin, xmax, ymax."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    areas = [float(np.prod(np.subtract(box[2:], box[:2]))) for box in (a, b)]
    return common / (sum(areas) - common)


def boxes_of(*items: tuple[str, float, tuple[float, float, float, float]]) -> list[Box]:
    return [Box(kind, score, *corners) for kind, score, corners in items]


LOOP, PIN = (0.4, 0.5, 0.6, 0.8), (0.3, 0.0, 0.7, 0.2)


def answering(
    boxes: list[Box], before: Callable[[Visit], bool] = lambda visit: False
) -> Callable[[Visit], None]:
    """Reply as the container does, unless `before` has said something."""

    def script(visit: Visit) -> None:
        if before(visit):
            return
        if visit.head.startswith("GET"):
            visit.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        (instance,), _ = decode_request(visit.body)
        body = encode_reply([(instance.key, boxes)], CLASSES)
        reply(visit, body)

    return script


def reply(visit: Visit, body: bytes, status: str = "200 OK") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    visit.say(head.encode() + body)
