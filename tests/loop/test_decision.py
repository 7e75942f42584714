"""What a plan may do on the result of a rotation."""

from typing import Any

import pytest
from support.loop_found import GOOD

from skywright.errors import DataError, HardwareError, SampleError
from skywright.instruments.loop.decision import check_light, judge
from skywright.instruments.loop.rotation_values import FLAT_NAMES, RESULTS, RotationValues


def found(**changes: Any) -> RotationValues:
    return RotationValues.of({**GOOD, **changes})


def test_the_values_are_the_scalar_results_of_the_analysis() -> None:
    assert set(FLAT_NAMES) == {column.name for column in RESULTS if not column.shape}
    with pytest.raises(DataError, match="no value of tip_x, last_kind"):
        RotationValues.of({k: v for k, v in GOOD.items() if k not in ("tip_x", "last_kind")})


def test_the_middle_of_a_loop_is_the_aim() -> None:
    verdict = judge(found())
    assert verdict.known
    assert verdict.offset_um == (12.0, 3.0, -4.0)
    assert verdict.residual_um == 5.0
    assert verdict.is_there(10.0)  # along the spindle a tenth of 300 um is allowed
    assert verdict.is_sure(10.0)
    assert not verdict.is_there(4.0)
    assert not judge(found(middle_x=31.0)).is_there(10.0)
    assert not judge(found(middle_x=-31.0)).is_there(10.0)
    assert verdict.is_close(10.0)  # 5 um are half of it
    assert not judge(found(middle_y=3.1)).is_close(10.0)
    assert not judge(found(middle_x=31.0, length=900.0, width=600.0)).is_there(10.0)
    assert not judge(found(middle_sigma_x=31.0)).is_sure(10.0)
    assert judge(found(middle_sigma_x=29.0)).is_sure(10.0)
    # 5 um and 1.5 times 6 um together are more than 10
    assert not judge(found(middle_sigma=6.0)).is_sure(10.0)
    assert judge(found(middle_sigma=5.5)).is_sure(10.0)


def test_a_bare_pin_is_refused_near_the_beam_only() -> None:
    """Away from it a thin stem is out of focus, and its loop may be out of the picture."""
    pin = {"ok": False, "reason": "no loop", "why": "no loop: 90 of 90", "tip_y": 700.0}
    far = judge(found(**pin))
    assert far.coarse
    assert not far.known
    assert far.offset_um[1] == 700.0
    unsure = judge(found(**pin, tip_ok=False, tip_sigma=60.0))
    assert unsure.coarse
    with pytest.raises(SampleError, match="no loop"):
        judge(found(**{**pin, "tip_y": 50.0}))
    # Where its end is cannot be told: it cannot be brought nearer.
    with pytest.raises(SampleError, match="no loop"):
        judge(found(**pin, tip_ok=False, tip_sigma=float("nan")))


def test_the_tip_as_aim_has_no_slack_along_the_spindle() -> None:
    verdict = judge(found(tip_x=12.0), "tip")
    assert verdict.known
    assert not verdict.is_there(10.0)
    assert judge(found(tip_x=9.0), "tip").is_there(10.0)


def test_the_tip_as_aim_does_not_rest_on_the_outline() -> None:
    """An outline that holds the stem too, and boxes that agree, say nothing of the tip."""
    stem = judge(found(length=900.0), "tip")
    assert (stem.known, stem.offset_um) == (True, (150.0, 3.0, 4.0))
    jumping = judge(found(ok=False, reason="tips do not rotate together", middle_used=50), "tip")
    assert (jumping.known, jumping.coarse) == (False, True)
    assert jumping.offset_um == (150.0, 3.0, 4.0)


def test_the_middle_is_known_though_its_tip_is_uncertain() -> None:
    blunt = judge(found(ok=False, reason="too uncertain", tip_ok=False, tip_sigma=40.0))
    assert (blunt.known, blunt.offset_um) == (True, (12.0, 3.0, -4.0))
    short = judge(found(ok=False, reason="arc too short", tip_ok=False, tip_sigma=40.0))
    assert not short.known


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_turned": 0}, HardwareError, "do the clocks .* agree, is the readback .* every 10 deg"),
        ({"n_flat_image": 28}, HardwareError, "flat image"),
        ({"frozen": True}, HardwareError, "same picture"),
        ({"reason": "pin from another side"}, HardwareError, "run calibrate_camera"),
        ({"ok": False, "reason": "no pin", "tip_ok": False}, SampleError, "is a sample mounted"),
        ({"reason": "no loop", "why": "no loop: 90 of 90"}, SampleError, "no loop"),
    ],
)
def test_hopeless_cases_raise(changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        judge(found(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind_share": 0.6},  # perhaps a loop that is hard to see: come nearer
        {"n_pin": 50},
        {"n_ok": 20},  # the end is hardly ever in view: bring it to the spindle
    ],
)
def test_a_pin_that_is_not_seen_well_is_not_refused_at_once(changes: dict[str, Any]) -> None:
    verdict = judge(found(reason="no loop", why="no loop", ok=False, **changes))
    assert (verdict.known, verdict.coarse) == (False, True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"length": 900.0}, "is not that of a loop"),
        ({"length": 90.0}, "is not that of a loop"),
        ({"middle_used": 13}, "13 of 90 pictures only"),
    ],
)
def test_an_outline_that_is_no_loop_is_not_known_and_moved_by_its_tip(
    changes: dict[str, Any], why: str
) -> None:
    verdict = judge(found(**changes))
    assert not verdict.known
    assert verdict.coarse
    assert verdict.offset_um == (150.0 - 0.65 * 200.0, 3.0, -4.0)
    assert why in verdict.why
    blind = {**changes, "width": float("nan"), "middle_used": 9}
    assert not judge(found(**blind)).coarse


def test_what_is_known_coarsely_is_moved_by() -> None:
    short = judge(found(ok=False, reason="arc too short", why="60 deg", middle_ok=False))
    assert short.coarse
    assert short.offset_um == (150.0, 3.0, 4.0)
    seldom = judge(found(ok=False, reason="no pin", why="nothing in 80 of 90", n_ok=10))
    assert (seldom.known, seldom.coarse) == (False, True)  # its tip is seen on one circle
    assert seldom.offset_um == (150.0, 3.0, 4.0)
    wild = judge(found(ok=False, reason="arc too short", middle_ok=False, tip_sigma=900.0))
    assert not wild.coarse
    # Half of the tips on a circle are a place to go to: from here the next pass sees no more.
    half = judge(found(ok=False, reason="tips do not rotate together", middle_ok=False))
    assert (half.known, half.coarse) == (False, True)
    assert half.offset_um == (150.0, 3.0, 4.0)
    nearly = judge(found(middle_ok=False, middle_why="too uncertain", middle_sigma=25.0))
    assert (nearly.known, nearly.coarse) == (False, True)
    assert nearly.offset_um == (12.0, 3.0, -4.0)
    tip_only = judge(found(middle_ok=False, middle_why="too few", middle_sigma=80.0))
    assert tip_only.offset_um == (150.0, 3.0, 4.0)
    assert tip_only.coarse
    assert "the middle of the loop is not: too few" in tip_only.why


@pytest.mark.parametrize("reason", ["arc too short", "tips do not rotate together"])
def test_what_is_seen_seldom_at_the_pins_border_is_brought_further_in(reason: str) -> None:
    changes = {"ok": False, "reason": reason, "middle_ok": False, "tip_sigma": 900.0, "n_ok": 12}
    assert judge(found(**changes, tip_x=-1600.0)).offset_um == (-500.0, 0.0, 0.0)
    near = judge(found(**changes, tip_x=-200.0))
    assert (near.known, near.coarse, near.offset_um) == (False, True, (-200.0, 0.0, 0.0))
    assert not judge(found(**changes, tip_x=200.0)).coarse  # on its other side it would be seen
    assert not judge(found(**{**changes, "n_ok": 60}, tip_x=-1600.0)).coarse
    nowhere = judge(found(**changes, tip_x=-1600.0, tip_sigma_x=501.0))
    assert not nowhere.coarse


def test_a_few_tips_at_the_pins_border_are_not_taken_for_an_empty_holder() -> None:
    few = {"ok": False, "reason": "no pin", "tip_ok": False, "middle_ok": False, "n_ok": 5}
    assert judge(found(**few, tip_x=-1773.0)).offset_um == (-500.0, 0.0, 0.0)
    with pytest.raises(SampleError, match="is a sample mounted"):
        judge(found(**few, tip_x=300.0))


def test_boxes_whose_tips_do_not_turn_together_are_believed_only_if_nearly_all_agree() -> None:
    jumping = {"ok": False, "reason": "tips do not rotate together", "why": "19 of 52"}
    assert judge(found(**jumping, middle_used=75)).known
    some = judge(found(**jumping, middle_used=50))
    assert (some.known, some.coarse) == (False, True)
    assert some.offset_um == (12.0, 3.0, -4.0)
    assert "19 of 52" in some.why
    for less in ({"middle_used": 12}, {"middle_used": 50, "middle_sigma": 40.0}):
        by_tip = judge(found(**jumping, **less))
        assert (by_tip.known, by_tip.coarse) == (False, True)
        assert by_tip.offset_um == (150.0, 3.0, 4.0)


def test_a_lamp_that_flickers_is_no_lamp_that_failed() -> None:
    assert judge(found(n_flat_image=27)).known  # 30 % of 90


def test_nothing_to_go_by_is_no_offset() -> None:
    nan = float("nan")
    verdict = judge(
        found(ok=False, reason="arc too short", middle_ok=False, tip_x=nan, tip_y=nan, tip_z=nan)
    )
    assert not verdict.coarse
    assert not verdict.is_there(1e9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_flat": True}, "flat image"),
        ({"last_level": 5.0}, "a light on"),
        ({"last_level": 253.0}, "less back light"),
        ({"last_saturated": 0.95}, "less back light"),
    ],
)
def test_light(changes: dict[str, Any], message: str) -> None:
    check_light(found())
    with pytest.raises(HardwareError, match=message):
        check_light(found(**changes))
