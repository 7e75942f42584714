"""Edges of a mount in each column, against drawn pictures."""

from dataclasses import replace

import numpy as np
import pytest
from support.loop_pictures import Drawn, empty

from skywright.instruments.loop.limits import find_limits

PLAIN = Drawn()


@pytest.mark.parametrize("side", ["left", "right"])
def test_edges_of_pin_stem_and_loop(side: str) -> None:
    limits = find_limits(replace(PLAIN, side=side).gray())
    assert limits is not None
    assert limits.side == side
    for x, half in ((60, PLAIN.pin_half), (240, 4.0), (390, PLAIN.half)):
        column = x if side == "left" else PLAIN.width - 1 - x
        assert limits.upper[column] == pytest.approx(PLAIN.row - half, abs=1.0)
        assert limits.lower[column] == pytest.approx(PLAIN.row + half, abs=1.0)
    beyond = 600 if side == "left" else PLAIN.width - 601
    assert np.isnan(limits.upper[beyond])
    assert np.isnan(limits.lower[beyond])


def test_extremes_between_columns() -> None:
    limits = find_limits(PLAIN.gray())
    assert limits is not None
    assert limits.over(200, 300) == pytest.approx((236.0, 244.0), abs=1.0)
    assert limits.over(340, 700) == pytest.approx((190.0, 290.0), abs=1.0)
    assert np.isnan(limits.over(500, 700)).all()


@pytest.mark.parametrize("side", ["top", "bottom"])
def test_mount_from_above_or_below(side: str) -> None:
    upright = PLAIN.gray().T if side == "top" else PLAIN.gray().T[::-1]
    limits = find_limits(np.ascontiguousarray(upright))
    assert limits is not None
    assert limits.side == side
    inside = int(PLAIN.row)  # the column through the tip
    tip, far = (limits.lower, PLAIN.tip) if side == "top" else (limits.upper, 703 - PLAIN.tip)
    assert tip[inside] == pytest.approx(far, abs=2.0)
    outside = int(PLAIN.row + PLAIN.half) + 5
    assert np.isnan(limits.upper[outside])


def test_nothing_has_no_limits() -> None:
    assert find_limits(empty()) is None
