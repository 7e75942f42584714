"""Back-ends: one interface, and boxes there and back."""

import math
from typing import Any

import numpy as np
import pytest
from support.backends import CLASSES, LOOP, MODEL, PIN, SHAPE, boxes_of, overlap, scene_with

from skywright.analysis.named import make_analysis
from skywright.errors import ConfigError
from skywright.instruments.loop import analysis, backends
from skywright.instruments.loop.backends import make_detector
from skywright.instruments.loop.backends.boxes import from_boxes, to_boxes
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.picture import to_gray
from skywright.wire.automl import (
    Box,
    decode_reply,
    encode_reply,
)


def test_codes_of_back_ends_are_their_names() -> None:
    assert tuple(backends.BACKENDS) == analysis.BACKENDS


def test_our_network_is_the_default_and_takes_color(
    picture: np.ndarray[Any, Any], seen: Detection
) -> None:
    found = make_detector().find(picture)
    assert (found.detection, found.backend, found.why) == (seen, "network", "")
    # Runs and settings of earlier versions name it so.
    assert make_detector("classical").find(picture).backend == "network"


AUTOML = {"backend": "automl", "url": "http://host:8501"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backend": "oracle"}, "expected one of network, automl, onnx"),
        ({"backend": "network", "url": "x"}, "url"),
        ({"threshold": 0.5}, "backend network: threshold: no such key"),
        ({"backend": "automl"}, "url"),
        ({"backend": "automl", "url": "host:8501"}, "expected http://host:port"),
        ({"backend": "automl", "url": "http://host:8501:8501"}, "expected http://host:port"),
        ({"backend": "automl", "url": "http://host:8S01"}, "expected http://host:port"),
        ({"backend": "automl", "url": "http://host:99999"}, "expected http://host:port"),
        ({**AUTOML, "threshold": "0.5"}, "automl: threshold: '0.5', expected a number from 0 to 1"),
        ({**AUTOML, "threshold": float("nan")}, "automl: threshold: nan"),
        ({**AUTOML, "timeout_s": 0}, "automl: timeout_s: 0"),
        ({**AUTOML, "retries": -1}, "automl: retries: -1, expected a whole number from 0 to 100"),
        ({**AUTOML, "waiting": 0}, "automl: waiting: 0"),
        ({**AUTOML, "most_boxes": 2.5}, "automl: most_boxes: 2.5"),
        ({"backend": "onnx", "model": str(MODEL), "threshold": "0.5"}, "onnx: threshold: '0.5'"),
        ({"backend": "onnx", "model": "/none.onnx"}, "/none.onnx"),
        ({"backend": "onnx", "model": "~no-such-user/x.onnx"}, "onnx: model ~no-such-user/x.onnx"),
        ({"backend": "onnx", "model": "a\0b"}, "onnx: model a"),
        ({"backend": "onnx", "model": __file__}, "test_backends.py"),
        ({"backend": "onnx", "model": str(MODEL), "sha256": "00"}, "sha256"),
        ({"backend": "onnx", "model": str(MODEL), "classes": ["cat"]}, "classes"),
    ],
)
def test_wrong_settings_stop_at_the_start(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_detector(**settings)
    with pytest.raises(ConfigError, match=says):
        make_analysis("loop_detection", settings)


def mirrored(corners: tuple[float, ...], turn: bool, far: bool) -> tuple[float, ...]:
    """Put a box of a mount from the left where it is for a mount from another side."""
    y0, x0, y1, x1 = corners
    if far:
        x0, x1 = 1 - x1, 1 - x0
    return (x0, y0, x1, y1) if turn else (y0, x0, y1, x1)


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_tip_is_the_far_end_of_the_box_whatever_the_side(side: str) -> None:
    turn, far = side in ("top", "bottom"), side in ("right", "bottom")
    empty = find_loop(np.full(SHAPE, 200, np.uint8))
    loop, pin = (
        Box(k, s, *mirrored(c, turn, far)) for k, s, c in (("nylon", 0.7, LOOP), ("pin", 0.9, PIN))
    )
    found = from_boxes([pin, loop], empty, SHAPE, 0.04)
    length, across = (480, 704) if turn else (704, 480)
    end, base = (0.8 * length - 0.5, 0.2 * length - 0.5)
    if far:
        end, base = length - 1 - end, length - 1 - base
    middle = 0.5 * across - 0.5
    assert (found.side, found.kind, found.score) == (side, "nylon", 0.7)
    expected = (middle, end) if turn else (end, middle)
    assert (found.tip_x, found.tip_y) == pytest.approx(expected)
    expected = (middle, base) if turn else (base, middle)
    assert (found.pin_base_x, found.pin_base_y) == pytest.approx(expected)
    assert found.width == pytest.approx(0.2 * across)
    assert found.tip_in_view
    assert not found.clipped
    assert not found.flat


def test_loop_counts_by_its_own_score() -> None:
    empty = find_loop(np.full(SHAPE, 200, np.uint8))
    found = from_boxes(boxes_of(("pin", 0.9, PIN), ("nylon", 0.03, LOOP)), empty, SHAPE, 0.04)
    assert (found.kind, found.score) == ("pin", 0.9)
    assert found.bbox == pytest.approx((-0.5, 143.5, 140.3, 335.5))
    found = from_boxes(boxes_of(("nylon", 0.03, LOOP)), empty, SHAPE, 0.04)
    assert (found.kind, found.bbox, found.tip_in_view, found.score) == ("none", None, False, 0.03)
    sixth = [*boxes_of(*[("pin", 0.9, PIN)] * 5), *boxes_of(("nylon", 0.8, LOOP))]
    assert from_boxes(sixth, empty, SHAPE, 0.04).kind == "pin"
    assert from_boxes(sixth, empty, SHAPE, 0.04, most=6).kind == "nylon"
    assert from_boxes([], empty, SHAPE, 0.04).kind == "none"


def test_errors_of_our_box_are_not_those_of_another(seen: Detection) -> None:
    assert seen.head_errors is not None
    found = from_boxes(boxes_of(("nylon", 0.7, LOOP)), seen, SHAPE, 0.04)
    assert found.head_errors is None


def test_box_at_the_far_border_shows_no_tip() -> None:
    empty = find_loop(np.full(SHAPE, 200, np.uint8))
    found = from_boxes(boxes_of(("mitegen", 0.9, (0.4, 0.5, 0.6, 1.0))), empty, SHAPE, 0.04)
    assert (found.side, found.tip_in_view, found.tip_sign) == ("right", True, "")
    both = boxes_of(("mitegen", 0.9, (0.4, 0.5, 0.6, 1.0)), ("pin", 0.8, PIN))
    found = from_boxes(both, empty, SHAPE, 0.04)
    assert (found.side, found.tip_in_view, found.tip_sign) == ("left", False, "+")
    assert math.isnan(found.tip_x)
    assert found.clipped


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
@pytest.mark.parametrize("kind", ["nylon", "mitegen", "pin"])
def test_boxes_there_and_back(kind: str, side: str) -> None:
    gray = to_gray(scene_with(kind, side, 31).image)
    seen = find_loop(gray)
    assert (seen.kind == "pin", seen.side) == (kind == "pin", side)
    boxes = to_boxes(seen, gray)
    again = from_boxes(boxes, find_loop(np.full(gray.shape, 200, np.uint8)), gray.shape, 0.04)
    assert (again.kind, again.side) == (seen.kind, side)
    if kind != "pin":
        assert overlap(again.bbox, seen.bbox) > 0.99
    # Where our detector's tip is at the end of the box, its tip is taken.
    full = from_boxes(boxes, seen, gray.shape, 0.04)
    assert (full.tip_x, full.tip_y) == pytest.approx((seen.tip_x, seen.tip_y), abs=2.0)


def test_pin_has_its_width() -> None:
    frame = scene_with("nylon", "left", 31)
    gray = to_gray(frame.image)
    (pin,) = (box for box in to_boxes(find_loop(gray), gray) if box.kind == "pin")
    assert pin.xmin == 0.0
    x, y = frame.truth.pin_end_px
    assert pin.xmax * 704 == pytest.approx(x, abs=12)
    assert 0.5 * (pin.ymin + pin.ymax) * 480 == pytest.approx(y, abs=12)


def test_reply_of_ours_is_read_by_ours() -> None:
    boxes = boxes_of(("nylon", 0.5, LOOP))
    assert decode_reply(encode_reply([("k", boxes)], CLASSES), "k")[0] == boxes[0]
