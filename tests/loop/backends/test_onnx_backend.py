"""A network of named boxes as back-end: one whose answer is known (`support.dark_box_net`)."""

from typing import Any

import numpy as np
import pytest
from support.backends import MODEL

from skywright.analysis import Batch
from skywright.analysis.named import make_analysis
from skywright.errors import DataError
from skywright.instruments.loop import analysis, backends
from skywright.instruments.loop.backends import make_detector


@pytest.fixture(scope="module")
def network() -> backends.Detector:
    return make_detector("onnx", model=str(MODEL))


@pytest.mark.parametrize("colors", [(), (3,)])
def test_box_of_a_network_is_in_the_pixels_of_the_picture(
    network: backends.Detector, colors: tuple[int, ...]
) -> None:
    picture = np.full((480, 704, *colors), 220, np.uint8)
    picture[120:240, 100:260] = 20
    found = network.find(picture)
    assert found.backend == "onnx"
    assert (found.detection.kind, found.detection.score) == ("nylon", 1.0)
    # The network sees 192 x 128: an edge is known to one of its pixels.
    assert found.detection.bbox == pytest.approx((99.5, 119.5, 259.5, 239.5), abs=4.0)


def test_below_the_threshold_is_nothing(network: backends.Detector) -> None:
    nothing = network(np.full((480, 704), 220, np.uint8))
    assert (nothing.kind, nothing.score, nothing.bbox) == ("none", 0.0, None)


def test_classes_of_the_settings_hold() -> None:
    picture = np.full((480, 704), 20, np.uint8)
    assert make_detector("onnx", model=str(MODEL), classes=["mitegen"])(picture).kind == "mitegen"


def test_analysis_records_which_network_it_was(picture: np.ndarray[Any, Any]) -> None:
    analysis._detector.cache_clear()
    live = make_analysis("loop_detection", {"backend": "onnx", "model": str(MODEL)})
    assert live.detector is live.fresh().detector  # type: ignore[attr-defined]
    assert analysis._detector.cache_info().misses == 1
    assert len(live.parameters["sha256"]) == 64
    n = np.arange(1)
    rows = live.fresh().update(Batch(n, n * 0.1, {"image": picture[np.newaxis]}))
    assert rows["backend"][0] == analysis.BACKENDS.index("onnx")


def test_picture_of_a_wrong_kind_is_refused(network: backends.Detector) -> None:
    for detector in (network, make_detector()):
        with pytest.raises(DataError, match="expected"):
            detector.find(np.zeros((64, 64), np.float32))  # type: ignore[arg-type]
