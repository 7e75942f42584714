"""A network of named boxes as back-end."""

from typing import Any

import numpy as np
import pytest
from support.backends import MODEL, overlap

from skywright.analysis import Batch
from skywright.analysis.named import make_analysis
from skywright.errors import DataError
from skywright.instruments.loop import analysis, backends
from skywright.instruments.loop.backends import make_detector
from skywright.instruments.loop.twin.render import Pose, render
from skywright.instruments.loop.twin.scene import random_scene


@pytest.fixture(scope="module")
def network() -> backends.Detector:
    return make_detector("onnx", model=str(MODEL))


def test_network_of_the_tests_is_small() -> None:
    assert MODEL.stat().st_size <= 500_000


def test_network_finds_loops_of_unseen_scenes(network: backends.Detector) -> None:
    found, kinds, pins = [], [], []
    for seed in range(9000, 9040):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, kind=str(rng.choice(["nylon", "mitegen"])))
        frame = render(scene, Pose(phi_deg=float(rng.uniform(0, 360))), frame_seed=seed)
        truth = frame.truth
        if not truth.tip_in_view or truth.tip_covered:
            continue
        result = network.find(frame.image)
        assert result.backend == "onnx"
        height, width = frame.image.shape[:2]
        box = np.clip(truth.box_px, -0.5, np.array([width, height] * 2) - 0.5)
        there = result.detection.bbox is not None and result.detection.kind != "pin"
        found.append(overlap(result.detection.bbox, box) if there else 0.0)
        kinds.append(result.detection.kind == truth.kind)
        pins.append(result.detection.side == truth.side)
    assert len(found) > 25
    assert np.median(found) >= 0.7
    assert np.mean(pins) >= 0.8
    assert np.mean(kinds) >= 0.6


def test_network_sees_nothing_in_empty_views(network: backends.Detector) -> None:
    kinds = []
    for seed in range(9100, 9115):
        rng = np.random.default_rng(seed)
        frame = render(random_scene(rng, kind="none"), Pose(), frame_seed=seed)
        kinds.append(network(frame.image).kind)
    assert kinds.count("none") >= 11


def test_analysis_records_which_network_it_was(picture: np.ndarray[Any, Any]) -> None:
    live = make_analysis("loop_detection", {"backend": "onnx", "model": str(MODEL)})
    assert len(live.parameters["sha256"]) == 64
    n = np.arange(1)
    rows = live.fresh().update(Batch(n, n * 0.1, {"image": picture[np.newaxis]}))
    assert rows["backend"][0] == analysis.BACKENDS.index("onnx")


def test_picture_of_a_wrong_kind_is_refused(network: backends.Detector) -> None:
    for detector in (network, make_detector()):
        with pytest.raises(DataError, match="expected"):
            detector.find(np.zeros((64, 64), np.float32))  # type: ignore[arg-type]
