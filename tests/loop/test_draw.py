"""Annotated pictures and contact sheets."""

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from skywright.analysis.display import contact_sheet
from skywright.errors import DataError
from skywright.instruments.loop.backends.boxes import find_pin_box
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.draw import COLORS, TIP_COLOR, annotate, caption


@pytest.fixture(scope="module")
def gray():
    y, x = np.mgrid[0:240, 0:320]
    ring = np.abs(np.hypot(x - 180.0, y - 120.0) - 30) < 4
    mount = ring | ((np.abs(y - 120) < 3) & (x < 152)) | ((np.abs(y - 120) < 25) & (x < 60))
    return np.where(mount, 60, 200).astype(np.uint8)


def test_box_and_tip_are_drawn_where_they_are(gray):
    found = find_loop(gray)
    picture = annotate(gray, found)
    assert picture.shape == (240, 320, 3)
    assert picture.dtype == np.uint8
    changed = (picture != gray[:, :, None]).any(axis=2)
    x0, y0, _, y1 = (round(value) for value in found.bbox)
    assert (picture[(y0 + y1) // 2 - 20, x0] == COLORS[found.kind]).all()
    assert (picture[round(found.tip_y), round(found.tip_x) + 6] == TIP_COLOR).all()
    assert not changed[y1 + 5 :].any()
    assert changed[:20].any()  # the caption


def test_the_figure_of_the_maps_has_its_marks_where_they_are(gray, monkeypatch):
    path = Path(__file__).parents[2] / "tools" / "loop_maps.py"
    spec = spec_from_file_location("loop_maps", path)
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    seen = []
    monkeypatch.setattr(tool, "annotate", lambda *each: seen.append(each) or each[0])
    tool.row_of(gray)
    (picture, in_part), found = seen[0], find_loop(gray)
    assert picture.shape[1] < gray.shape[1]  # a closer look
    moved = [
        (getattr(found, f"{mark}_x") - getattr(in_part, f"{mark}_x"),
         getattr(found, f"{mark}_y") - getattr(in_part, f"{mark}_y"))
        for mark in ("tip", "pin_base")
    ]  # fmt: skip
    assert moved[1] == pytest.approx(moved[0])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_pin_box_is_the_pins_from_its_border_to_its_end(gray, turns):
    """The pin of the picture is 60 columns long and 49 rows wide around row 120."""
    turned = np.ascontiguousarray(np.rot90(gray, turns))
    found = find_loop(turned)
    assert found.side == ("left", "bottom", "right", "top")[turns]
    box = find_pin_box(turned, found)
    assert box is not None
    expected = {
        "left": (0, 96, 60, 144),
        "bottom": (96, 259, 144, 319),
        "right": (259, 95, 319, 143),
        "top": (95, 0, 143, 60),
    }[found.side]
    np.testing.assert_allclose(box, expected, atol=3.0)
    color = np.dstack([turned] * 3)
    drawn = annotate(color, found, pin_box=box)
    x, y = round(box[2] if turns == 0 else box[0]), round((box[1] + box[3]) / 2)
    places = (drawn == COLORS["pin"]).all(axis=2)
    assert places[max(y - 8, 0) : y + 8, max(x - 1, 0) : x + 2].sum() >= 8, "its edge is drawn"
    no_pin = replace(found, pin_base_x=float("nan"))
    assert find_pin_box(turned, no_pin) is None


def test_color_pictures_keep_their_color(gray):
    color = np.dstack([gray, gray // 2, gray // 3])
    picture = annotate(color, find_loop(gray))
    assert (picture[-1, -1] == color[-1, -1]).all()


def test_captions(gray):
    found = find_loop(gray)
    assert caption(found).startswith(found.kind)
    assert "from left" in caption(found)
    beyond = replace(found, tip_in_view=False, tip_sign="+", clipped=True)
    assert "clipped tip not in view +" in caption(beyond)
    dark = find_loop(np.full((64, 64), 5, np.uint8))
    assert caption(dark) == "flat image"
    assert annotate(np.full((64, 64), 5, np.uint8), dark).shape == (64, 64, 3)


def test_sheet_holds_every_picture(gray):
    levels = [40, 80, 120, 160, 200]
    pictures = [np.full((30 + 10 * k, 90, 3), level, np.uint8) for k, level in enumerate(levels)]
    sheet = contact_sheet(pictures, columns=3, cell_px=120)
    assert sheet.shape == (180, 360, 3)
    for number, level in enumerate(levels):
        middle = sheet[45 + 90 * (number // 3), 60 + 120 * (number % 3)]
        assert (middle == level).all()
    assert contact_sheet([gray], columns=4, cell_px=120).shape == (90, 120, 3)
    with pytest.raises(DataError, match="0 pictures"):
        contact_sheet([])


def test_text_can_be_read_on_a_sheet(gray):
    wide = np.kron(gray, np.ones((2, 2), np.uint8))
    drawn = annotate(wide, find_loop(wide), "7")
    sheet = contact_sheet([drawn] * 4, columns=4)
    assert sheet.shape[1] == 1440
    colored = (np.ptp(sheet[:, :360].astype(int), axis=2) > 100)[:40].any(axis=1)
    # Capitals and digits of the caption: at least 8 px high.
    assert colored.sum() >= 8


def test_labels_of_a_sheet(gray):
    plain = contact_sheet([gray, gray], columns=2, cell_px=200)
    labeled = contact_sheet([gray, gray], columns=2, cell_px=200, labels=["12", "13"])
    assert (plain[:30, :100] != labeled[:30, :100]).any()
    assert (plain[30:] == labeled[30:]).all()
    with pytest.raises(DataError, match="1 labels for 2"):
        contact_sheet([gray, gray], labels=["12"])
