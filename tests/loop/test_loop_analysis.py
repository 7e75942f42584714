"""LoopDetection: columns as the detector gives them, votes, and nothing made up."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skywright.analysis import Batch
from skywright.callbacks.derived import DerivedRun
from skywright.instruments.loop import detect, detection
from skywright.instruments.loop.analysis import (
    KINDS,
    LoopDetection,
    without_padding,
)
from skywright.instruments.loop.picture import to_gray


def mount(x_tip: int, shape: tuple[int, int] = (240, 320)) -> np.ndarray[Any, Any]:
    """A ring on a stem on a pin that comes in from the left."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    ring = np.abs(np.hypot(x - (x_tip - 30.0), y - 120.0) - 30) < 3
    stem = (np.abs(y - 120) < 3) & (x < x_tip - 60)
    pin = (np.abs(y - 120) < 25) & (x < x_tip - 130)
    return np.where(ring | stem | pin, 60, 200).astype(np.uint8)


def batch_of(*pictures: Any) -> Batch:
    n = np.arange(1, len(pictures) + 1)
    return Batch(n, n * 0.1, {"image": np.array(pictures)})


def test_columns_are_those_of_the_detector() -> None:
    row = detection.as_row(detect.find_loop(mount(190)))
    assert {c.path: np.dtype(c.dtype) for c in LoopDetection.columns} == {
        **{name: value.dtype for name, value in row.items()},
        "backend": np.dtype(np.uint8),
    }


def test_rows_and_votes() -> None:
    empty = np.full((240, 320), 200, np.uint8)
    analysis = LoopDetection()
    rows = analysis.update(batch_of(mount(190), mount(200), empty, mount(180)))
    alone = LoopDetection().update(batch_of(mount(200)))
    assert rows["tip_x"][1].tobytes() == alone["tip_x"][0].tobytes()
    assert np.isnan(rows["tip_x"][2])
    assert KINDS[rows["kind"][2]] == "none"
    found = analysis.result()
    assert (found["n_found"], found["n_none"], found["n_tips"]) == (3, 1, 3)
    assert found["side"] == "left"
    tips = rows["tip_x"][[0, 1, 3]].astype(np.float64)
    assert found["tip_x_mean"] == pytest.approx(tips.mean(), rel=1e-12)
    assert (found["tip_x_min"], found["tip_x_max"]) == (tips.min(), tips.max())
    assert found["last_tip_x"] == rows["tip_x"][3]
    assert found["kind"] == KINDS[rows["kind"][0]] != "none"


def test_the_login_of_a_service_is_in_no_document(tmp_path: Path) -> None:
    address = "http://me:secret@inference:8501"
    analysis = LoopDetection(backend="automl", url=address)
    docs: list[tuple[str, dict[str, Any]]] = []
    DerivedRun(analysis, {"uid": "raw"}, lambda *each: docs.append(each), tmp_path).close()
    (start,) = (doc for name, doc in docs if name == "start")
    recorded = {"backend": "automl", "url": "http://inference:8501"}
    assert start["analysis"]["parameters"] == recorded
    assert "secret" not in str(docs)
    assert analysis.fresh().parameters["url"] == address


def test_rows_are_detections() -> None:
    for picture in (mount(190), np.full((240, 320), 200, np.uint8)):
        found = detect.find_loop(picture)
        row = detection.as_row(found)
        again = detection.from_row({**row, "backend": np.uint8(0)})
        assert (again.kind, again.side, again.tip_sign) == (found.kind, found.side, found.tip_sign)
        assert {k: v.tobytes() for k, v in detection.as_row(again).items()} == {
            k: v.tobytes() for k, v in row.items()
        }


def test_a_former_name_stands_in_for_nothing() -> None:
    analysis = LoopDetection(backend="classical")
    analysis.update(batch_of(mount(190)))
    assert analysis.parameters == {"backend": "network"}
    assert analysis.result()["n_stood_in"] == 0


def test_empty_views_and_no_views_say_nothing() -> None:
    dark = LoopDetection()
    dark.update(batch_of(np.zeros((240, 320), np.uint8)))
    for result, n_none in ((LoopDetection().result(), 0), (dark.result(), 1)):
        assert (result["kind"], result["side"], result["n_none"]) == ("none", "none", n_none)
        assert np.isnan([result["tip_x_mean"], result["tip_x_min"], result["width_max"]]).all()
        assert np.isnan(result["kind_share"])


def test_blocks_and_order_do_not_matter() -> None:
    pictures = batch_of(*(mount(150 + 2 * i) for i in range(9)))

    class SmallBlocks(LoopDetection):
        block_size = 4

    whole, shuffled = SmallBlocks(), SmallBlocks()
    whole.update(pictures)
    for piece in ([8, 4], [0, 3, 2], [7, 6, 5, 1]):
        shuffled.update(pictures.take(piece))
    one, other = whole.result(), shuffled.result()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_pictures_for_people() -> None:
    empty = np.full((240, 320), 200, np.uint8)
    batch = batch_of(*(mount(150 + 6 * i) for i in range(11)), empty)
    analysis = LoopDetection()
    drawn = analysis.draw(batch)
    assert list(drawn)[:2] == ["contact_sheet.png", "frame_000001.jpg"]
    assert len(drawn) == 13
    assert Image.open(io.BytesIO(drawn["contact_sheet.png"])).size == (4 * 360, 3 * 270)
    rows = analysis.measure(batch)
    x, y = round(float(rows["tip_x"][0])), round(float(rows["tip_y"][0]))
    first = np.asarray(Image.open(io.BytesIO(drawn["frame_000001.jpg"]))).astype(int)
    assert first.shape == (240, 320, 3)
    near = first[y - 9 : y + 10, x - 9 : x + 10]
    assert (near[..., 0] - near[..., 1]).max() > 80  # a red cross around the tip


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_padding_of_a_smaller_picture_is_taken_away(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(1).integers(1, 256, shape, dtype=np.uint8)
    picture[:, 7] = 0  # dark columns and rows within the picture stay
    padded = np.zeros((64, 64, *shape[2:]), np.uint8)
    padded[:40, :50] = picture
    assert (without_padding(padded) == picture).all()
    assert without_padding(picture) is picture
    black = np.zeros_like(picture)
    assert without_padding(black) is black
    black[:18, :30] = 200  # a caption
    assert without_padding(black) is black


def test_black_around_a_mount_in_the_dark_is_no_padding() -> None:
    dark = np.zeros((240, 320), np.uint8)
    dark[100:140, :160] = 90
    assert without_padding(dark).shape == dark.shape
    dark[:200, :300] += 1  # of a smaller picture whose light is low
    assert without_padding(dark).shape == (200, 300)


def test_color_is_luminance() -> None:
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert (to_gray(color) == np.asarray(Image.fromarray(color).convert("L"))).all()
    gray = color[..., 0]
    assert to_gray(gray) is gray
