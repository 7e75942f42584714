"""A turn without a calibration: angles of its pictures, and the fits over them."""

import numpy as np
import pytest
from support.seen_rotation import CALIBRATION, FACE_DEG, THICKNESS, TIP, WIDTH, rotation

from skywright.instruments.loop.analysis import KINDS
from skywright.instruments.loop.turn import LoopTurn, describe_result, turn_angles


def test_angles_are_spread_evenly_when_all_pictures_came() -> None:
    late = np.array([0.0, 0.3, 0.31, 0.32])
    phi, by = turn_angles(late, 180.0, 3.0, 4)
    assert (phi.tolist(), by) == ([22.5, 67.5, 112.5, 157.5], "count")


def test_times_tell_where_pictures_are_missing() -> None:
    times = 1.7e9 + np.array([0.0, 0.75, 2.25])
    phi, by = turn_angles(times, 180.0, 3.0, 4)
    assert by == "times"
    assert phi == pytest.approx([22.5, 67.5, 157.5])
    phi, by = turn_angles(times, 180.0, 3.0, 2)  # more than expected
    assert (phi.tolist(), by) == (pytest.approx([45.0, 90.0, 180.0]), "times")
    phi, by = turn_angles(times, 180.0, 3.0, 0)  # nobody knows how many
    assert (phi.tolist(), by) == (pytest.approx([0.0, 45.0, 135.0]), "times")


def test_pictures_that_overtook_each_other_are_put_in_order_by_their_times() -> None:
    times = 1.7e9 + np.array([0.75, 0.0, 2.25, 1.5])
    phi, by = turn_angles(times, 180.0, 3.0, 4)
    assert (phi.tolist(), by) == ([67.5, 22.5, 157.5, 112.5], "count")
    phi, by = turn_angles(times[:3], 180.0, 3.0, 4)
    assert phi == pytest.approx([67.5, 22.5, 157.5])


def test_with_a_picture_that_came_twice_the_number_tells_nothing() -> None:
    times = 1.7e9 + np.array([0.0, 0.75, 0.8, 2.25])
    phi, by = turn_angles(times, 180.0, 3.0, 4, doubled=True)
    assert by == "times"
    assert phi[[0, 1, 3]] == pytest.approx([22.5, 67.5, 157.5])


def test_fits_have_the_amplitudes_and_the_face_in_pixels() -> None:
    analysis = LoopTurn(delta_deg=180.0, time_s=3.0)
    analysis.update(rotation())
    result = analysis.result()
    pixel = CALIBRATION.um_per_px_y
    assert result["ok"]
    assert result["kind"] == "nylon"
    # 0.3 px of noise in 60 tips; amplitudes and row are correlated over half a turn.
    assert result["row"] == pytest.approx(CALIBRATION.axis_px, abs=0.4)
    assert result["cos"] == pytest.approx(TIP[1] / pixel, abs=0.4)
    assert result["sin"] == pytest.approx(-TIP[2] / pixel, abs=0.4)
    assert result["rms"] == pytest.approx(0.3, rel=0.3)  # of 60 tips: known to 9 %
    assert result["face_on"] == pytest.approx(FACE_DEG, abs=0.5)
    assert 0.0 < result["face_sigma"] < 0.5
    assert result["edge_on"] == pytest.approx(FACE_DEG + 90.0, abs=0.5)
    assert result["width"] == pytest.approx(WIDTH / pixel, rel=0.02)
    assert result["thickness"] == pytest.approx(THICKNESS / pixel, rel=0.05)
    assert describe_result(result).startswith("face-on at 25.0 deg")


def test_a_round_loop_has_no_face() -> None:
    analysis = LoopTurn(delta_deg=180.0, time_s=3.0)
    analysis.update(rotation(width=20.0))
    result = analysis.result()
    assert np.isnan(result["edge_on"])
    assert result["face_why"]
    assert describe_result(result) == f"face not known: {result['face_why']}"


def test_a_bare_pin_is_no_loop_though_its_tip_is_known() -> None:
    analysis = LoopTurn(delta_deg=180.0, time_s=3.0)
    analysis.update(rotation(kind=KINDS.index("pin")))
    result = analysis.result()
    assert np.isfinite(result["cos"])
    assert (result["ok"], result["why"]) == (False, "no loop: 60 of 60 frames show a bare pin")


@pytest.mark.parametrize(("size", "ok"), [((704, 480), True), ((600, 480), False)])
def test_tips_at_the_border_of_a_picture_are_none(size: tuple[int, int], ok: bool) -> None:
    analysis = LoopTurn(delta_deg=180.0, time_s=3.0, size=size)
    analysis.update(rotation(tip_x=598.5))
    assert analysis.result()["ok"] == ok


def test_no_pictures_are_no_fit() -> None:
    result = LoopTurn(delta_deg=180.0, time_s=3.0).result()
    assert not result["ok"]
    assert describe_result(result) == "face not known: no pictures"
