"""The analysis of a rotation: order does not matter, states of pictures, the last picture."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.seen_rotation import (
    CALIBRATION,
    FACE_DEG,
    LENGTH,
    MIDDLE,
    THICKNESS,
    TIP,
    WIDTH,
    analysis,
    rotation,
)

from skywright.analysis import Batch
from skywright.analysis.named import make_analysis
from skywright.instruments.loop.analysis import COLUMNS as DETECTED
from skywright.instruments.loop.analysis import KINDS, SIDES, SIGNS
from skywright.instruments.loop.calibration import as_json
from skywright.instruments.loop.geometry import Side, to_picture
from skywright.instruments.loop.rotation import (
    CLIPPED,
    COLUMNS,
    FLAT,
    NO_ANGLE,
    NOT_IN_VIEW,
    NOTHING,
    OK,
    LoopRotation,
    to_series,
)
from skywright.instruments.loop.series import fit_series


def results(batch: Batch) -> dict[str, Any]:
    made = analysis()
    made.update(batch)
    return made.result()


def test_inputs_are_what_the_detection_gives() -> None:
    assert {column.name for column in DETECTED} < set(LoopRotation.inputs)


def test_tip_middle_and_face_are_found() -> None:
    found = results(rotation())
    assert found["ok"]
    assert found["middle_ok"]
    for point, truth in (("tip", TIP), ("middle", MIDDLE)):
        offset = [found[f"{point}_{axis}"] for axis in "xyz"]
        # 0.3 px over 60 pictures, and the axis row with its 0.5 px in half a turn
        np.testing.assert_allclose(offset, truth, atol=3.0)
    assert found["face_on"] == pytest.approx(FACE_DEG, abs=1.0)
    assert found["width"] == pytest.approx(WIDTH, rel=0.05)
    assert found["thickness"] == pytest.approx(THICKNESS, rel=0.1)
    assert not found["lump"]
    assert found["length"] == pytest.approx(2.0 * (TIP[0] - MIDDLE[0]), abs=3.0)
    assert found["kind"] == "nylon"
    assert not found["frozen"]
    assert (found["n_ok"], found["n_turned"]) == (60, 60)


def test_errors_and_votes_are_those_of_the_fit_about_the_calibrated_spindle() -> None:
    kind = np.where(np.arange(60) % 4, KINDS.index("nylon"), KINDS.index("mitegen"))
    batch = rotation(kind=kind)
    found = results(batch)
    fit = fit_series(to_series(batch), CALIBRATION.view, CALIBRATION.axis, side=CALIBRATION.side)
    for name, center in (("tip", fit.tip), ("middle", fit.middle)):
        assert found[f"{name}_sigma"] == center.sigma_um
        assert found[f"{name}_sigma_x"] == np.sqrt(center.covariance_um2[0, 0])
    assert (found["arc"], found["rms"]) == (fit.tip.arc_deg, fit.tip.rms_px)
    assert (found["kind"], found["kind_share"]) == ("nylon", 0.75)


def test_a_pin_that_enters_from_another_side_than_the_calibrated_one_is_no_success() -> None:
    found = results(rotation(side=SIDES.index("right")))
    assert (found["ok"], found["reason"]) == (False, "pin from another side")


def test_the_length_of_a_loop_whose_middle_is_not_known_is_not_known() -> None:
    seen = np.arange(60) < 12  # boxes over 36 deg
    clean = rotation()
    boxes = {name: np.where(seen, clean[name], np.nan) for name in ("xmin", "ymin", "xmax", "ymax")}
    found = results(rotation(**boxes))
    assert found["ok"]
    assert not found["middle_ok"]
    assert np.isfinite(found["middle_x"])
    assert np.isnan(found["length"])


def test_a_bare_pin_counts_where_its_angle_is_known() -> None:
    phi = np.where(np.arange(60) < 20, np.nan, np.linspace(0.0, 180.0, 60))
    found = results(rotation(kind=KINDS.index("pin"), phi=phi))
    assert (found["n_pin"], found["n_turned"]) == (40, 40)


def test_pictures_that_show_the_end_of_the_stem_tell_nothing_of_the_loop() -> None:
    clean = rotation()
    missed = np.arange(60) % 5 > 1  # three of five
    shifted = dict(clean.data)
    for name in ("tip_x", "xmin", "xmax"):
        shifted[name] = np.where(missed, shifted[name] - 80.0, shifted[name])
    aside = np.where(missed, np.random.default_rng(1).uniform(-40.0, 40.0, 60), 0.0)
    for name in ("ymin", "ymax"):
        shifted[name] = shifted[name] + aside
    found = results(Batch(clean.identities, clean.times, shifted))
    assert found["n_nearer"] == missed.sum()
    assert found["middle_ok"], found["middle_why"]
    assert found["middle_used"] == 60 - missed.sum()
    np.testing.assert_allclose([found[f"middle_{axis}"] for axis in "xyz"], MIDDLE, atol=3.0)


def test_order_repetition_and_merging_give_the_same_bits() -> None:
    batch = rotation(150)
    whole = results(batch)
    shuffled = analysis()
    order = np.random.default_rng(1).permutation(150)
    for part in np.array_split(np.concatenate([order, order[:40]]), 7):
        shuffled.update(batch.take(part))
    merged = analysis()
    for low, high in ((500, 512), (512, 576), (576, 650)):  # whole blocks of 64
        piece = analysis()
        piece.update(batch.take((batch.identities >= low) & (batch.identities < high)))
        merged.merge(piece)
    for other in (shuffled, merged):
        found = other.result()
        assert {k: repr(v) for k, v in found.items()} == {k: repr(v) for k, v in whole.items()}


def test_rows_have_the_nine_fields_of_the_first_design() -> None:
    batch = rotation(5)
    rows = analysis().update(batch)
    nine = [
        "image_num",
        "tipX",
        "tipY",
        "bboxMinX",
        "bboxMaxX",
        "bboxMinY",
        "bboxMaxY",
        "loop_width",
        "loop_type",
    ]
    assert [column.name for column in COLUMNS][:9] == nine
    np.testing.assert_array_equal(rows["image_num"], np.arange(5))
    np.testing.assert_allclose(rows["bboxMaxX"], batch["xmax"], rtol=1e-6)
    np.testing.assert_allclose(rows["bboxMinY"], batch["ymin"], rtol=1e-6)
    assert set(rows["loop_type"]) == {KINDS.index("nylon")}


def test_pictures_are_sorted_by_what_they_are_good_for() -> None:
    batch = rotation(8)
    batch["phi"][0] = np.nan
    batch["tip_x"][1] = 703.0
    batch["clipped"][1] = True
    batch["tip_in_view"][2] = False
    batch["tip_x"][2] = batch["tip_y"][2] = np.nan
    batch["kind"][3] = KINDS.index("none")
    batch["tip_in_view"][3] = False
    batch["flat"][4] = True  # as the detection tells of a picture without light
    batch["kind"][4] = KINDS.index("none")
    batch["tip_in_view"][4] = False
    states = analysis().update(batch)["state"]
    assert states.tolist() == [NO_ANGLE, CLIPPED, NOT_IN_VIEW, NOTHING, FLAT, OK, OK, OK]


def test_pictures_without_an_angle_do_not_count_for_the_fit() -> None:
    plain = rotation()
    before = rotation(phi=np.nan, tip_y=10.0)  # the sample elsewhere, before the spindle turned
    before = Batch(before.identities - 100, before.times - 9.0, before.data)
    found = analysis()
    found.update(before)
    found.update(plain)
    result = found.result()
    assert result["tip_y"] == results(plain)["tip_y"]
    assert (result["n_no_angle"], result["n_turned"]) == (60, 60)


def test_the_same_picture_again_and_again_is_a_frozen_camera() -> None:
    one = rotation()
    frozen = {
        name: values[7] for name, values in one.data.items() if name not in ("phi", "image_num")
    }
    assert results(rotation(**frozen))["frozen"]
    for phi in (np.nan, 25.0):  # the spindle did not turn
        assert not results(rotation(**frozen, phi=phi))["frozen"]


@pytest.mark.parametrize(("different", "is_frozen"), [(5, True), (30, False)])
def test_a_few_old_pictures_in_turn_are_a_frozen_camera_too(
    different: int, is_frozen: bool
) -> None:
    one, place = rotation(), np.arange(60) % different
    again = {
        name: values[place] for name, values in one.data.items() if name not in ("phi", "image_num")
    }
    assert results(rotation(**again))["frozen"] == is_frozen


def test_the_last_picture_is_seen_from_the_beam() -> None:
    batch = rotation()
    last = results(batch)
    phi = np.deg2rad(batch["phi"][-1])
    across = TIP[1] * np.cos(phi) - TIP[2] * np.sin(phi)
    assert last["last_across"] == pytest.approx(across, abs=8.0)  # 0.3 px of noise, 3 sigma
    assert last["last_along"] == pytest.approx(TIP[0], abs=8.0)
    assert last["last_box_length"] == pytest.approx(LENGTH, abs=1.0)
    assert last["last_time"] == batch.times[-1]
    across = MIDDLE[1] * np.cos(phi) - MIDDLE[2] * np.sin(phi)
    assert last["last_box_across"] == pytest.approx(across, abs=5.0)  # 0.2 px of noise, 3 sigma
    assert last["last_box_along"] == pytest.approx(MIDDLE[0], abs=5.0)


def test_the_last_picture_tells_of_light_and_of_where_the_mount_is() -> None:
    batch = rotation()
    batch["level"][-1], batch["saturated"][-1] = 120.0, 0.25
    batch["tip_sign"][-1], batch["tip_in_view"][-1] = SIGNS.index("+"), False
    last = results(batch)
    assert (last["last_level"], last["last_saturated"]) == (120.0, 0.25)
    assert (last["last_sign"], last["last_side"], last["last_kind"]) == ("+", "left", "nylon")
    assert (last["last_tip_in_view"], last["last_flat"]) == (False, False)
    batch["side"][-1], batch["kind"][-1] = SIDES.index("none"), KINDS.index("none")
    batch["flat"][-1] = True
    last = results(batch)
    assert (last["last_side"], last["last_kind"], last["last_flat"]) == ("none", "none", True)


@pytest.mark.parametrize("side", ["left", "bottom"])
@pytest.mark.parametrize("roll_deg", [-3.0, 0.0, 3.0])
def test_the_last_box_is_as_large_as_the_loop_whichever_way_the_camera_is_rolled(
    roll_deg: float, side: Side
) -> None:
    calibration = replace(CALIBRATION, roll_deg=roll_deg, side=side)
    turn = np.linspace(0.0, 2.0 * np.pi, 721)
    outline = np.stack([0.5 * LENGTH * np.cos(turn), 0.5 * WIDTH * np.sin(turn)], axis=1)
    x, y = to_picture(outline, calibration.view).T
    box = {"xmin": x.min(), "ymin": y.min(), "xmax": x.max(), "ymax": y.max()}
    made = LoopRotation(calibration=as_json(calibration))
    made.update(rotation(**{name: value + 300.0 for name, value in box.items()}))
    last = made.result()
    assert last["last_box_length"] == pytest.approx(LENGTH, rel=0.01)
    assert last["last_box_width"] == pytest.approx(WIDTH, rel=0.01)


def test_nothing_at_all_is_said_plainly() -> None:
    found = analysis().result()
    assert not found["ok"]
    assert found["reason"] == "no frames"
    assert np.isnan(found["tip_y"])


def test_it_goes_by_name_with_its_parameters() -> None:
    parameters = {"calibration": as_json(CALIBRATION), "delay_s": 0.1, "delay_why": "one speed"}
    fitted = analysis(delay_s=0.1, delay_sigma_s=0.002)
    fitted.update(rotation())
    assert fitted.result()["delay_sigma"] == 0.002
    made = make_analysis("loop_rotation", parameters)
    made.update(rotation())
    found = made.result()
    assert found["delay"] == 0.1
    assert np.isnan(found["delay_sigma"])
    assert found["delay_why"] == "one speed"
    assert made.fresh().parameters == made.parameters
