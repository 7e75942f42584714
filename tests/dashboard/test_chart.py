"""Charts: what is drawn is what was given."""

import io
import re
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dashboard.chart import (
    HEIGHT,
    LEFT,
    WIDTH,
    Curve,
    Marks,
    Rows,
    _Axis,
    _short,
    draw_chart,
    style_of,
)
from dashboard.color_map import CIVIDIS, false_color_png

NAN = float("nan")
PHI = np.linspace(0.0, 180.0, 7)


def elements(svg: str, tag: str, **attributes: str) -> list[ET.Element]:
    root = ET.fromstring(svg)
    return [
        each
        for each in root.iter(tag)
        if all(attributes[name] in (each.get(name) or "") for name in attributes)
    ]


def test_points_that_are_not_known_are_left_out_and_curves_broken() -> None:
    y = np.array([1.0, NAN, 3.0, 4.0, NAN, 6.0, 7.0])
    svg = draw_chart([Marks("tip", PHI, y, "a")], [Curve(PHI, y, "a")], "x", "y", "t")
    assert len(elements(svg, "circle")) == 5 + 1  # and the legend
    assert re.sub("[^ML]", "", elements(svg, "path")[0].get("d") or "") == "MMLML"


def test_places_are_linear_and_up_is_more() -> None:
    y = 2.0 * PHI
    svg = draw_chart([Marks("tip", PHI, y, "a")], [], "x", "y", "t")
    marks = elements(svg, "circle")[:-1]
    places = np.array([[float(m.get(key) or "") for key in ("cx", "cy")] for m in marks])
    assert np.allclose(np.diff(places, axis=0), np.diff(places, axis=0)[0], atol=0.11)
    assert places[0, 0] < places[-1, 0]
    assert places[0, 1] > places[-1, 1]
    assert (places >= 0).all()
    assert (places <= (WIDTH, HEIGHT)).all()


def test_long_numbers_do_not_touch_the_label_beside_them() -> None:
    y = np.array([9000.1, 9000.9, 9001.6, 9000.2, 9000.3, 9000.4, 9000.5])
    svg = draw_chart([Marks("center", PHI, y, "a")], [], "seconds", "center, eV", "t")
    ticks = elements(svg, "text", **{"class": "tick y"})
    longest = max(len(each.text or "") for each in ticks)
    assert longest > 4
    assert all(float(each.get("x") or "") - 9 * longest > 12 for each in ticks)


def test_numbers_have_one_power_of_ten_beside_an_axis() -> None:
    texts = [_short(value, 1e2) for value in (-2500.0, 12_000.0, 3e9, 4.6e18)]
    assert texts == ["-2500", "12k", "3G", "4.6e+18"]


@pytest.mark.parametrize(
    ("low", "high"), [(8812.343, 8812.36), (12_000.02, 12_000.07), (123_456.1, 123_456.5)]
)
def test_no_two_numbers_beside_an_axis_are_alike(low: float, high: float) -> None:
    y = np.linspace(low, high, 7)
    svg = draw_chart([Marks("center", PHI, y, "a")], [], "s", "center, eV", "t")
    texts = [each.text or "" for each in elements(svg, "text", **{"class": "tick y"})]
    numbers = [float(text.removesuffix("k")) * (1e3 if "k" in text else 1.0) for text in texts]
    steps = np.diff(numbers)
    assert np.allclose(steps, steps[0], rtol=1e-3)
    assert abs(steps[0]) < high - low


@pytest.mark.parametrize("values", [[1.0, sys.float_info.max, 3.0], [-1.1e308, 1.0, 1.1e308]])
def test_numbers_near_the_largest_of_all_are_left_out(values: list[float]) -> None:
    x, y = np.arange(3.0), np.array(values)
    svg = draw_chart([Marks("", x, y, "a")], [Curve(y, x, "a")], "x", "y", "t")
    assert len(elements(svg, "circle")) == sum(abs(value) < 1e300 for value in values)


def test_numbers_near_the_smallest_of_all_are_drawn() -> None:
    y = np.array([1e-320, 2e-320])
    svg = draw_chart([Marks("", y, y, "a")], [Curve(y, y, "a")], "x", "y", "t")
    assert "inf" not in svg
    assert len(elements(svg, "circle")) == 2


@pytest.mark.parametrize("value", [1e17, 1e-9, -3e5])
def test_equal_values_have_an_axis_of_their_own_size(value: float) -> None:
    axis = _Axis(np.full(3, value), LEFT, WIDTH)
    assert axis.low < value < axis.high
    assert axis.high - axis.low == pytest.approx(0.1 * abs(value))
    assert len(set(axis.labels())) > 1


@pytest.mark.parametrize("x", [np.arange(3.0), np.arange(3.0)[::-1]])
def test_each_column_of_an_image_is_below_its_point(x: np.ndarray) -> None:
    svg = draw_chart([Marks("", x, x, "a")], [], "x", "y", "t", Rows("data:,", x, "rows"))
    (image,) = elements(svg, "image")
    left, width = float(image.get("x") or ""), float(image.get("width") or "")
    places = left + width * (np.arange(3) + 0.5) / 3
    circles = sorted(float(each.get("cx") or "") for each in elements(svg, "circle"))
    assert circles == pytest.approx(places, abs=0.1)
    assert bool(image.get("transform")) == (x[0] > x[-1])


def test_an_image_of_equal_values_has_the_first_color() -> None:
    with Image.open(io.BytesIO(false_color_png(np.full((2, 3), 7.0)))) as image:
        assert np.unique(np.asarray(image).reshape(-1, 3), axis=0).tolist() == [list(CIVIDIS[0])]


def test_eight_series_can_be_told_apart_and_neighbors_without_color() -> None:
    looks = [style_of(number) for number in range(9)]
    assert len(set(looks[:8])) == 8
    assert all(one[0] != other[0] for one, other in pairwise(looks))
    assert {square for _, square in looks[:2]} == {False, True}


def test_text_is_escaped() -> None:
    svg = draw_chart([Marks("<b>&", PHI, PHI, "a")], [], "<x>", '"y"', 'a "title" <t>')
    assert "<b>" not in svg
    assert [e.text for e in elements(svg, "text")][-1] == "<b>&"


def test_nothing_to_draw_is_an_empty_chart() -> None:
    nothing = np.full(7, NAN)
    svg = draw_chart([Marks("tip", PHI, nothing, "a")], [], "x", "y", "t")
    assert len(elements(svg, "circle")) == 1


@given(
    st.lists(st.floats(-1e9, 1e9).map(lambda value: round(value, 6)), min_size=1, max_size=20),
)
def test_ticks_are_few_and_within(values: list[float]) -> None:
    axis = _Axis(np.array(values), LEFT, WIDTH)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    places = [axis.place(value) for value in ticks]
    assert all(LEFT - 1e-6 <= place <= WIDTH + 1e-6 for place in places)
    assert axis.low < min(values)
    assert axis.high > max(values)
