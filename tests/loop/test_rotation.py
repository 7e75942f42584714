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
from skywright.instruments.loop.analysis import KINDS
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
)


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
    batch["flat"][4] = True
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
    assert not results(rotation(**frozen, phi=np.nan))["frozen"]  # the spindle did not turn


def test_the_last_picture_is_seen_from_the_beam() -> None:
    batch = rotation()
    last = results(batch)
    phi = np.deg2rad(batch["phi"][-1])
    across = TIP[1] * np.cos(phi) - TIP[2] * np.sin(phi)
    assert last["last_across"] == pytest.approx(across, abs=8.0)  # 0.3 px of noise, 3 sigma
    assert last["last_along"] == pytest.approx(TIP[0], abs=8.0)
    assert last["last_box_length"] == pytest.approx(LENGTH, abs=1.0)
    assert last["last_time"] == batch.times[-1]


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
    made = make_analysis("loop_rotation", parameters)
    made.update(rotation())
    found = made.result()
    assert found["delay"] == 0.1
    assert np.isnan(found["delay_sigma"])
    assert found["delay_why"] == "one speed"
    assert made.fresh().parameters == made.parameters
