"""The read-out of the network's maps, on maps that are drawn here."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from skywright.errors import ConfigError, DataError
from skywright.instruments.loop.detect import NETWORK
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.detector.model import NEAR_CELLS, LoopModel, Maps
from skywright.instruments.loop.detector.readout import (
    EVEN_ODDS,
    SCORE_MIN,
    Crop,
    LoopFinder,
    next_crop,
    read_maps,
    score_of,
)

ROWS, COLUMNS = 96, 128
SHAPE = (480, 640)  # a cell is 5 px wide and high
CELL = 5.0
ERROR_CELLS = 0.2


def near_of(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the highest values near each cell, as the network gives them."""
    return {
        name: maximum_filter(masks[name], 2 * NEAR_CELLS + 1) for name in ("pin", "stem", "head")
    }


def maps_of(
    head: tuple[int, int, int, int] | None = (60, 40, 90, 56),
    *,
    kind: str = "nylon",
    side: str = "left",
    tip: tuple[float, float] | None = (90.0, 48.3),
    pin: int = 30,
) -> Maps:
    """Return what a perfect network says; x0, y0, x1, y1 of the head, tip and pin in cells."""
    masks = {
        name: np.zeros((ROWS, COLUMNS), np.float32)
        for name in ("pin", "stem", "head", "content", "other")
    }
    edges = np.zeros((4, ROWS // 2, COLUMNS // 2), np.float32)
    if kind != "none":
        masks["pin"][42:54, :pin] = 1
    if head is not None:
        x0, y0, x1, y1 = head
        masks["head"][y0:y1, x0:x1] = 1
        masks["stem"][47:49, pin:x0] = 1
        edges[:] = np.array([x0 / COLUMNS, y0 / ROWS, x1 / COLUMNS, y1 / ROWS])[:, None, None]
    heat, begin = np.zeros((2, ROWS, COLUMNS), np.float32)
    offset = np.zeros((2, ROWS, COLUMNS), np.float32)
    if tip is not None:
        column, row = min(int(tip[0]), COLUMNS - 1), int(tip[1])
        heat[row, column] = 0.9
        offset[:, row, column] = tip[0] - column - 0.5, tip[1] - row - 0.5
    begin[48, pin - 1] = 0.9
    return Maps(
        masks=masks,
        near=near_of(masks),
        tip=heat,
        begin=begin,
        tip_offset=offset,
        tip_error=np.full((ROWS, COLUMNS), ERROR_CELLS, np.float32),
        edges=edges,
        edge_errors=np.full((4, ROWS // 2, COLUMNS // 2), ERROR_CELLS / COLUMNS, np.float32),
        side={
            name: 0.9 if name == side else 0.02
            for name in ("none", "left", "right", "top", "bottom")
        },
        kind={name: 0.9 if name == kind else 0.03 for name in ("none", "nylon", "mitegen", "pin")},
    )


class Said:
    """A network that says this of the whole picture, and that of its parts."""

    def __init__(self, whole: Maps, crop: Maps) -> None:
        self.whole, self.crop, self.runs = whole, crop, 0

    def run(self, gray: np.ndarray) -> Maps:
        self.runs += 1
        self.shape = gray.shape
        return self.whole if gray.shape == SHAPE else self.crop


def read(gray: np.ndarray, maps: Maps, closer: Maps | None = None) -> Detection:
    """Read the maps of a picture; by default nothing is seen in its parts."""
    finder = LoopFinder.__new__(LoopFinder)
    finder.model = Said(maps, closer or maps_of(None, kind="none", side="none", tip=None))
    return finder.find(gray)


@pytest.fixture
def gray() -> np.ndarray:
    """A picture with the mount of `maps_of` in it."""
    picture = np.full(SHAPE, 200, np.uint8)
    picture[210:270, :150] = 20
    picture[237:243, 150:300] = 90
    picture[200:280, 300:450] = 120
    return picture


def test_a_loop(gray: np.ndarray) -> None:
    found = read(gray, maps_of())
    assert (found.kind, found.side, found.tip_in_view, found.tip_sign) == (
        "nylon", "left", True, "",
    )  # fmt: skip
    # Half a pixel: the centers of pixels are at whole numbers.
    assert (found.tip_x, found.tip_y) == pytest.approx((90 * CELL - 0.5, 48.3 * CELL - 0.5))
    assert found.bbox == pytest.approx((299.5, 199.5, 449.5, 279.5), abs=0.01)
    assert found.width == pytest.approx(80, abs=0.01)
    assert found.pin_base_x == pytest.approx(29.5 * CELL - 0.5)
    assert found.fiber_width == pytest.approx(6, abs=2)
    assert not found.clipped
    assert found.head_errors is not None
    # The tip is seen twice, by heat-map and edge; the other edges once.
    assert found.head_errors[2] == pytest.approx(CELL * ERROR_CELLS / math.sqrt(2), rel=0.01)
    assert found.head_errors[0] == pytest.approx(CELL * ERROR_CELLS, rel=0.01)


def test_a_crop_is_more_exact(gray: np.ndarray) -> None:
    whole = maps_of()
    readout = read_maps(whole, Crop(0, 0, 640, 480))
    assert readout is not None
    crop = next_crop(readout)
    assert crop is not None
    assert (crop.width, crop.height) == pytest.approx(
        (640 * 30 / 128 / 0.55, 480 * 30 / 128 / 0.55), abs=1
    )
    closer = maps_of((30, 20, 100, 76), tip=(100.0, 48.0), pin=0)
    found = read(gray, whole, closer)
    x, y = crop.px((100 / COLUMNS, 48 / ROWS))
    (left, top), (_, bottom) = crop.px((30 / COLUMNS, 20 / ROWS)), crop.px((0, 76 / ROWS))
    assert (found.tip_x, found.tip_y) == pytest.approx((x, y))
    assert found.bbox == pytest.approx((left, top, x, bottom))
    # The pin ends outside of the crop: what resembles its end there is something else.
    assert found.pin_base_x == pytest.approx(29.5 * CELL - 0.5)
    assert found.head_errors is not None
    assert found.head_errors[0] == pytest.approx(crop.width * ERROR_CELLS / COLUMNS, rel=0.01)


def test_a_crop_of_less_confidence_does_not_count(gray: np.ndarray) -> None:
    closer = maps_of((30, 20, 100, 76), tip=(100.0, 48.0), pin=0)
    found = read(gray, maps_of(), replace(closer, tip=closer.tip * 0.5))
    assert found.tip_x == pytest.approx(90 * CELL - 0.5)


def test_a_head_that_fills_the_picture_gets_no_crop() -> None:
    readout = read_maps(maps_of((30, 10, 110, 90), tip=(110.0, 48.0), pin=10), Crop(0, 0, 640, 480))
    assert readout is not None
    assert next_crop(readout) is None


def test_the_tip_of_a_loop_is_at_its_head_and_not_at_the_pin(gray: np.ndarray) -> None:
    maps = maps_of()
    maps.tip[48, 30] = 0.95  # the end of the pin
    assert read(gray, maps).tip_x == pytest.approx(90 * CELL - 0.5)


def test_tip_and_edge_meet_by_their_errors(gray: np.ndarray) -> None:
    maps = maps_of(tip=(90.3, 48.3))
    found = read(gray, replace(maps, tip_error=maps.tip_error * 3))
    assert found.tip_x == pytest.approx(90.03 * CELL - 0.5, abs=0.01)
    far = read(gray, maps_of(tip=(84.0, 48.3)))  # they contradict: the heat-map holds
    assert far.tip_x == pytest.approx(84.0 * CELL - 0.5)


def test_a_bare_pin(gray: np.ndarray) -> None:
    maps = maps_of(None, kind="pin", tip=(30.0, 48.0))
    maps.edges[:] = np.array([0, 42 / ROWS, 30 / COLUMNS, 54 / ROWS])[:, None, None]
    found = read(gray, maps)
    assert (found.kind, found.tip_in_view) == ("pin", True)
    assert found.width == pytest.approx(60, abs=0.01)
    assert (found.pin_base_x, found.pin_base_y) == (found.tip_x, found.tip_y)
    assert math.isnan(found.fiber_width)


def test_no_mount(gray: np.ndarray) -> None:
    found = read(gray, maps_of(None, kind="none", side="none", tip=None))
    assert (found.kind, found.side, found.tip_in_view, found.tip_sign) == ("none", None, False, "+")
    assert found.score < 0.5
    assert not found.flat


def test_a_retracted_mount(gray: np.ndarray) -> None:
    found = read(gray, maps_of(None, kind="pin", tip=None, pin=5))
    assert (found.kind, found.side, found.tip_in_view, found.tip_sign) == (
        "none", "left", False, "-",
    )  # fmt: skip


def test_a_mount_that_reaches_past_the_far_edge(gray: np.ndarray) -> None:
    found = read(gray, maps_of((100, 40, 128, 56), tip=None))
    assert (found.kind, found.tip_in_view, found.tip_sign) == ("nylon", False, "+")
    assert found.clipped
    assert found.head_errors is None


def test_an_unlikely_tip_is_none(gray: np.ndarray) -> None:
    maps = maps_of()
    assert read(gray, replace(maps, tip=maps.tip * 0.4)).tip_in_view
    found = read(gray, replace(maps, tip=maps.tip * 0.2))
    assert (found.tip_in_view, found.tip_sign, found.kind) == (False, "+", "nylon")


def test_a_tip_that_is_not_seen_again_closer_stays(gray: np.ndarray) -> None:
    maps, closer = maps_of(), maps_of((30, 20, 100, 76), tip=None, pin=0)
    found = read(gray, replace(maps, tip=maps.tip * 0.4), closer)
    assert found.tip_x == pytest.approx(90 * CELL - 0.5)


@pytest.mark.parametrize(("film", "kind"), [(0.1, "nylon"), (0.9, "mitegen")])
def test_the_head_alone_is_asked_for_the_kind(gray: np.ndarray, film: float, kind: str) -> None:
    """The picture says nylon, hardly; a crop around the head says what it says."""
    open_kind = {"none": 0.1, "nylon": 0.5, "mitegen": 0.3, "pin": 0.1}
    whole = replace(maps_of(), kind=open_kind)
    of_head = {"none": 0.0, "nylon": 0.95 - 0.9 * film, "mitegen": 0.05 + 0.9 * film, "pin": 0.0}
    closer = replace(maps_of(None, kind="none", side="none", tip=None), kind=of_head)
    finder = LoopFinder.__new__(LoopFinder)
    finder.model = Said(whole, closer)
    found = finder.find(gray)
    assert found.kind == kind
    told = [math.log(each["mitegen"] / each["nylon"]) for each in (open_kind, of_head)]
    sign = 1 if kind == "mitegen" else -1
    assert found.kind_odds == pytest.approx(sign * (np.mean(told) + EVEN_ODDS))
    # The head is 150 x 80 px of 640 x 480.
    assert finder.model.shape == pytest.approx((3 * 150 * 480 / 640, 3 * 150), abs=2)


def test_the_score_is_lower_than_the_network_is_sure() -> None:
    said = [1.0, 0.999, 0.9, 0.7, 0.6, 0.4, 0.001, 0.0]
    scores = [score_of(replace(maps_of(), kind={"none": 1 - each})) for each in said]
    assert scores == sorted(scores, reverse=True)
    assert all(score < each for score, each in zip(scores[1:5], said[1:5], strict=True))
    assert scores[3] > SCORE_MIN > scores[4]
    assert 0 < scores[-1] < scores[0] < 1


def test_a_kind_that_is_clear_is_not_asked_again(gray: np.ndarray) -> None:
    finder = LoopFinder.__new__(LoopFinder)
    finder.model = Said(maps_of(), maps_of(None, kind="none", side="none", tip=None))
    assert finder.find(gray).kind == "nylon"
    assert finder.model.runs == 2  # the whole picture, and one crop in which nothing is found


def test_a_mount_of_one_cell_is_one(gray: np.ndarray) -> None:
    maps = maps_of((0, 48, 1, 49), pin=0, tip=(1.0, 48.5))
    maps.masks["head"][:, 1:] = 0
    maps.masks["stem"][:] = 0
    assert read(gray, maps).kind == "nylon"


@pytest.mark.parametrize("side", ["left", "top"])
def test_the_stem_is_measured_across(gray: np.ndarray, side: str) -> None:
    maps = maps_of()
    if side == "left":
        found = read(gray, maps)
    else:
        found = read(np.ascontiguousarray(gray.T), maps)
        assert found.side == "top"
    assert found.fiber_width == pytest.approx(6, abs=1)


def test_a_flat_picture() -> None:
    for level in (0, 20, 255):
        found = read(np.full(SHAPE, level, np.uint8), maps_of())
        assert found.flat
        assert found.kind == "none"


def test_the_same_is_found_in_a_picture_upside_down(gray: np.ndarray) -> None:
    finder = LoopFinder(NETWORK)
    upright, turned = finder.find(gray), finder.find(gray[::-1].copy())
    assert upright.side == turned.side
    assert upright.kind == turned.kind
    assert turned.tip_x == pytest.approx(upright.tip_x, abs=3)
    # The end is a face of 80 px, so its middle is known to a tenth of that.
    assert turned.tip_y == pytest.approx(len(gray) - 1 - upright.tip_y, abs=8)


def test_the_network_gives_what_is_near(gray: np.ndarray) -> None:
    maps = LoopModel(NETWORK).run(gray)
    for name, near in near_of(maps.masks).items():
        np.testing.assert_array_equal(maps.near[name], near)


def test_what_is_no_picture_or_no_network(tmp_path) -> None:
    finder = LoopFinder.__new__(LoopFinder)
    for wrong in (np.zeros((480, 640)), np.zeros((20, 640), np.uint8)):
        with pytest.raises(DataError, match="expected"):
            finder.find(wrong)
    file = tmp_path / "network.onnx"
    file.write_bytes(b"none")
    with pytest.raises(ConfigError, match=r"loop (network|detection)"):
        LoopModel(file)
