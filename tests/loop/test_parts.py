"""Pin, stem and head of outlines whose shape is odd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.instruments.loop.parts import find_parts
from skywright.instruments.loop.silhouette import Outline


def outline(widths, start=0):
    widths = np.asarray(widths)
    n, across = len(widths), 200
    low = np.full(n + 20, across, np.int32)
    high = np.full(n + 20, -1, np.int32)
    low[:n] = 100 - widths // 2
    high[:n] = low[:n] + widths - 1
    return Outline(
        side="left",
        low=low,
        high=high,
        filled=np.maximum(high - low + 1, 0),
        start=start,
        reach=n,
        across=across,
        contact_low=int(low[0]),
        contact_high=int(high[0]),
        contact=int(widths[0]),
        far=False,
        cut=0,
        members=(),
    )


def assert_within(widths):
    parts = find_parts(outline(widths))
    assert 0 <= parts.head_start <= len(widths)
    assert np.isnan(parts.pin_end) or 0 < parts.pin_end <= len(widths)


def test_a_pin_with_a_gap_has_no_head_beyond_its_end():
    body = [52] * 35 + [51] * 4 + [52] * 7 + [51] * 43 + [52] * 2 + [51] * 5 + [52] * 16
    end = [46, 46, 45, 44, 44, 43, 41, 41, 39, 39, 37, 36, 35, 32, 28, 27, 25]
    assert_within([*body, 51, 50, 48, 1, 1, 1, 1, 1, *end])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 30)), min_size=1, max_size=8))
def test_parts_are_within_the_outline(runs):
    assert_within([width for width, length in runs for _ in range(length)])


@pytest.mark.parametrize("widths", [[1], [3, 3], [40] * 3])
def test_parts_of_hardly_anything(widths):
    assert_within(widths)
