"""Frames and signs: round trips, and each pin side against a picture drawn by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skywright.errors import ConfigError
from skywright.instruments.loop.geometry import (
    SIDES,
    Side,
    View,
    axis_px,
    axis_um,
    observe,
    target_um,
    to_goniometer,
    to_laboratory,
    to_picture,
    to_view,
)
from skywright.instruments.loop.stages import StageSetup

views = st.builds(
    View,
    um_per_px_x=st.floats(0.5, 10),
    um_per_px_y=st.floats(0.5, 10),
    side=st.sampled_from(SIDES),
    roll_deg=st.floats(-10, 10),
    phi_sign=st.sampled_from([1, -1]),
    target_px=st.none() | st.floats(0, 500),
)
coordinates = st.floats(-1000, 1000)


@given(views, coordinates, coordinates)
def test_picture_and_view_frame_round_trip(view: View, x: float, y: float) -> None:
    assert to_picture(to_view((x, y), view), view) == pytest.approx(np.array([x, y]), abs=1e-6)


@given(views, coordinates)
def test_axis_and_target_round_trip(view: View, row: float) -> None:
    across = axis_um(row, view)
    assert axis_px(across, view) == pytest.approx(row, abs=1e-6)
    seen = to_picture((target_um(across, view), across), view)
    expected = (row, view.target) if view.vertical else (view.target, row)
    assert seen == pytest.approx(np.array(expected), abs=1e-6)


@given(st.tuples(coordinates, coordinates, coordinates), st.floats(-720, 720))
def test_laboratory_and_goniometer_round_trip(xyz: tuple[float, float, float], phi: float) -> None:
    there = to_laboratory(xyz, phi, -1)
    assert to_goniometer(there, phi, -1) == pytest.approx(np.array(xyz), abs=1e-6)
    assert np.linalg.norm(there) == pytest.approx(np.linalg.norm(xyz), abs=1e-6)


# 10 um towards the tip, 20 um off the axis at phi 0: pixels of 2 x 4 um, axis at 50, target at 100.
SEEN_AT_0 = {
    "left": (105.0, 55.0),
    "right": (95.0, 55.0),
    "top": (60.0, 102.5),
    "bottom": (60.0, 97.5),
}


@pytest.mark.parametrize("side", SIDES)
def test_a_point_is_seen_where_it_is_for_each_pin_side(side: str) -> None:
    view = View(2.0, 4.0, side=side, target_px=100.0)  # type: ignore[arg-type]
    seen = observe((10.0, 20.0, 0.0), [0.0, 90.0], view, 50.0)
    assert seen[0] == pytest.approx(np.array(SEEN_AT_0[side]))
    # At 90 deg it is on the axis, behind; and a point at z = 20 is seen on the other side of it.
    assert seen[1][0 if view.vertical else 1] == pytest.approx(50.0)
    other = observe((10.0, 0.0, 20.0), 90.0, view, 50.0)
    assert other[0 if view.vertical else 1] == pytest.approx(40.0 if view.vertical else 45.0)


@pytest.mark.parametrize(("side", "across_um"), [("left", 4.0), ("bottom", 2.0)])
def test_pixels_that_are_not_square_are_measured_across_the_spindle(
    side: Side, across_um: float
) -> None:
    assert View(2.0, 4.0, side=side).pixel_um == across_um


def test_the_motor_may_turn_the_other_way() -> None:
    forward = observe((0.0, 0.0, 50.0), 30.0, View(), 200.0)
    backward = observe((0.0, 0.0, 50.0), -30.0, View(phi_sign=-1), 200.0)
    assert forward == pytest.approx(backward)


def test_roll_lifts_the_far_end_towards_growing_rows() -> None:
    view = View(5.0, 5.0, roll_deg=1.0, target_px=0.0)
    column, row = observe((1000.0, 0.0, 0.0), 0.0, view, 100.0)
    assert (column, row) == pytest.approx((199.97, 100.0 + 200 * np.sin(np.radians(1.0))), abs=0.01)


def test_stage_moves_undo_the_offset() -> None:
    # x in mm against the offset, y and z in um, swapped and mirrored.
    setup, units = StageSetup(((-1, 0, 0), (0, 0, 1), (0, -1, 0))), ("mm", "um", "um")
    moves = setup.motor_moves((-300.0, 40.0, -25.0), 0.0, units)
    assert moves == pytest.approx(np.array([0.3, 25.0, 40.0]))
    assert setup.sample_um(moves, 0.0, units) == pytest.approx(np.array([-300.0, 40.0, -25.0]))


def test_stages_under_the_spindle_move_in_the_laboratory() -> None:
    offset = np.array([5.0, 60.0, 80.0])
    moves = StageSetup(mounting="table").motor_moves(-offset, 90.0, ("um", "um", "um"))
    # At 90 deg y lies along the beam and z against the rows.
    assert moves == pytest.approx(np.array([-5.0, 80.0, -60.0]))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"um_per_px_x": 0.0}, "um_per_px_x"),
        ({"um_per_px_y": float("nan")}, "um_per_px_y"),
        ({"side": "up"}, "side"),
        ({"phi_sign": 2}, "phi_sign"),
        ({"roll_deg": 60.0}, "roll_deg"),
        ({"target_px": float("inf")}, "target_px"),
    ],
)
def test_a_view_that_cannot_be_is_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        View(**wrong)  # type: ignore[arg-type]
