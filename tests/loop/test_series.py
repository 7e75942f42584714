"""A series: votes, frames that must not count, angles by time, what is said of a sample."""

from dataclasses import fields, replace

import numpy as np
import pytest
from support.rotations import Rotation, ellipse_width, tips_alone

from skywright.errors import DataError
from skywright.instruments.loop.centering import AxisPrior, Reason
from skywright.instruments.loop.detect import find_loop
from skywright.instruments.loop.detection import Detection
from skywright.instruments.loop.geometry import View
from skywright.instruments.loop.series import (
    OF_EDGES,
    Series,
    cut_by_frame,
    duplicates,
    fit_middle,
    fit_series,
    from_detections,
    keep_outermost,
    vote,
    whole_heads,
)
from skywright.instruments.loop.timing import Trace, angles_at, fit_delay

SWEEP = np.arange(90) * 2.0 + 1.0
VIEW = View()


def seen(truth: Rotation, phi: np.ndarray, rng: np.random.Generator, face: float = 40.0) -> Series:
    """What a detector says of a flat loop 60 px long and 40 wide."""
    n = len(phi)
    tips = truth.tips(phi) + rng.normal(0, 0.5, (n, 2))
    width = ellipse_width(phi, face, 40.0, 6.0) + rng.normal(0, 0.5, n)
    box = np.column_stack(
        [tips[:, 0] - 60, tips[:, 1] - width / 2, tips[:, 0], tips[:, 1] + width / 2]
    )
    return replace(
        tips_alone(phi, tips),
        bbox_px=box,
        width_px=width,
        kind=np.full(n, "nylon", dtype="U8"),
        side=np.full(n, "left", dtype="U8"),
        score=np.full(n, 0.9),
    )


def changed(series: Series, where: slice | np.ndarray, **values: object) -> Series:
    fields = {}
    for name, value in values.items():
        column = getattr(series, name).copy()
        column[where] = value
        fields[name] = column
    return replace(series, **fields)


@pytest.fixture
def truth() -> Rotation:
    return Rotation()


@pytest.fixture
def series(truth: Rotation) -> Series:
    return seen(truth, SWEEP, np.random.default_rng(0))


def test_tip_middle_face_and_class(series: Series, truth: Rotation) -> None:
    fit = fit_series(series, VIEW)
    assert fit.ok, fit.why
    assert fit.tip.offset_um == pytest.approx(truth.offset_um, abs=4.0)
    # Beyond statistics the tip has the error that all pictures share.
    assert fit.tip.sigma_um > 0.02 * 40 * 6.7
    assert fit.middle.ok
    assert fit.middle.offset_um[0] == pytest.approx(truth.x - 30 * 6.7, abs=4.0)
    assert fit.face.face_on_deg == pytest.approx(40.0, abs=1.0)
    assert (fit.kind, fit.view.side) == ("nylon", "left")
    assert not duplicates(series).any()


def test_class_and_side_are_voted(series: Series) -> None:
    # Edge-on a loop looks like a pin, and a reflection like a mount from the top.
    edge_on = np.abs((SWEEP - 130.0 + 90) % 180 - 90) < 25
    fit = fit_series(changed(series, edge_on, kind="pin"), VIEW)
    assert (fit.ok, fit.kind) == (True, "nylon")
    odd = changed(series, slice(0, 9), side="top", tip_px=(10.0, 10.0))
    fit = fit_series(odd, View(side="right"))
    assert fit.ok
    assert fit.view.side == "left"
    assert not fit.tip.used[:9].any()
    assert fit_series(odd, VIEW, side="top").tip.n_given == 9


def test_votes_weigh_scores() -> None:
    labels = np.array(["pin", "pin", "nylon", ""])
    assert vote(labels, np.array([0.1, 0.1, 0.9, 5.0])) == ("nylon", pytest.approx(0.9 / 1.1))
    assert vote(np.array(["", ""]), np.ones(2)) == ("", 0.0)


def test_pictures_that_show_nothing_have_no_vote(series: Series) -> None:
    """Also where another detector is sure that there is nothing."""
    nothing = dict.fromkeys(("tip_px", "bbox_px", "width_px"), np.nan)
    empty = changed(series, slice(30, None), kind="none", side="", kind_odds=5.0, **nothing)
    fit = fit_series(empty, VIEW)
    assert (fit.kind, fit.kind_share) == ("nylon", 1.0)


def test_heads_of_a_mount_from_another_side_are_left_out(series: Series) -> None:
    box = series.bbox_px.copy()
    box[:9, 1::2] += 60.0
    wrong = changed(replace(series, bbox_px=box), slice(0, 9), side="top")
    assert not fit_series(wrong, VIEW).middle.used[:9].any()
    assert fit_series(wrong, VIEW).middle.n_given == 81


def test_nearer_ends_are_blanked_and_no_others(series: Series) -> None:
    tip = series.tip_px.copy()
    tip[:30, 0] -= 50.0  # the end of the stem
    tip[30:40, 0] -= 30.0  # within the width of an end, for roll and tilt
    tip[40, 0] += 80.0  # one false tip beyond
    kept, nearer = keep_outermost(replace(series, tip_px=tip), VIEW)
    assert nearer == 30
    for values in (kept.tip_px, kept.bbox_px, kept.width_px[:, None]):
        assert np.isnan(values[:30]).all()
        assert np.isfinite(values[30:]).all()
    for texts, known in ((kept.kind, "nylon"), (kept.side, "left")):
        assert texts.tolist() == [""] * 30 + [known] * 60
    # Of three pictures no two need to agree: none is known to show the end.
    three = replace(tips_alone(SWEEP[:3], tip[[10, 50, 40]]), side=np.full(3, "left"))
    assert keep_outermost(three, VIEW)[1] == 0


def test_an_empty_view_reaches_past_no_border_and_odds_below_even_do_not_count() -> None:
    found = [Detection(), Detection(kind="nylon", kind_odds=-0.7), Detection(tip_sign="-")]
    series = from_detections([0.0, 1.0, 2.0], found)
    assert series.beyond.tolist() == [False, True, False]
    assert series.kind_odds.tolist() == [0.0, 0.0, 0.0]


def test_clipped_arc_is_left_out_and_the_rest_fitted() -> None:
    # 2 mm off the axis: out of the frame (480 rows) for part of the turn, held at its border.
    truth = Rotation(x=0.0, y=1500.0, z=-1400.0, axis=260.0)
    phi = np.arange(180) * 2.0
    tips = truth.tips(phi)
    outside = (tips[:, 1] < 0) | (tips[:, 1] > 479)
    assert 0.2 < outside.mean() < 0.7
    tips[:, 1] = np.clip(tips[:, 1], 0, 479)
    series = tips_alone(phi, tips)
    assert (cut_by_frame(series, VIEW) == outside).all()
    fit = fit_series(series, VIEW)
    assert fit.ok, fit.why
    assert fit.tip.offset_um == pytest.approx(truth.offset_um, abs=0.5)


def test_a_silhouette_cut_by_the_frame_needs_more_room(truth: Rotation) -> None:
    series = tips_alone(SWEEP, np.full((90, 2), (300.0, 7.0)))
    assert not cut_by_frame(series, VIEW).any()
    assert cut_by_frame(changed(series, slice(None), clipped=True), VIEW).all()
    # At its own border the pin enters; a tip there is not cut.
    assert not cut_by_frame(tips_alone([0.0], [[1.0, 200.0]]), VIEW).any()
    assert cut_by_frame(tips_alone([0.0], [[1.0, 200.0]]), View(side="right")).all()


def test_a_head_counts_though_its_pin_leaves_the_frame(series: Series, truth: Rotation) -> None:
    # The pin, or the bar of an overlay that it enters through, is cut in every picture.
    fit = fit_series(changed(series, slice(None), clipped=True), VIEW)
    assert fit.middle.ok, fit.middle.why
    assert fit.middle.offset_um[1:] == pytest.approx(truth.offset_um[1:], abs=4.0)
    # So near a border it may be the head that is cut.
    high = series.bbox_px - [0.0, 1.0, 0.0, 1.0] * (series.bbox_px[:, 1:2] - 20.0)
    at_border = replace(changed(series, slice(None), clipped=True), bbox_px=high)
    assert not fit_series(at_border, VIEW).middle.ok
    assert fit_series(replace(series, bbox_px=high), VIEW).middle.n_given


def test_a_majority_of_boxes_is_enough_for_the_middle(series: Series, truth: Rotation) -> None:
    rng = np.random.default_rng(4)
    box = series.bbox_px.copy()
    wrong = rng.permutation(90)[:42]  # 47 %
    box[wrong, 1::2] += (rng.choice([-1.0, 1.0], 42) * rng.uniform(20, 60, 42))[:, None]
    middle = fit_series(replace(series, bbox_px=box), VIEW).middle
    assert middle.ok, middle.why
    assert middle.offset_um[1:] == pytest.approx(truth.offset_um[1:], abs=8.0)


def test_what_is_expected_of_the_edges_counts_among_the_errors(series: Series) -> None:
    nothing = fit_series(series, VIEW).middle
    errors = np.full_like(series.bbox_px, 2.0)
    errors[:, 1] = 12.0  # one side is faint in all views
    doubted = fit_series(replace(series, error_px=errors), VIEW).middle
    np.testing.assert_allclose(doubted.offset_um, nothing.offset_um, atol=0.01)
    added = np.sqrt(doubted.sigma_um**2 - nothing.sigma_um**2)
    assert added == pytest.approx(OF_EDGES * 12.0 * VIEW.pixel_um, rel=0.01)


def test_boxes_count_by_their_expected_errors(series: Series, truth: Rotation) -> None:
    rng = np.random.default_rng(5)
    box, errors = series.bbox_px.copy(), np.full_like(series.bbox_px, 1.0)
    poor = rng.permutation(90)[:45]
    box[poor, 1::2] += rng.normal(0.0, 12.0, (45, 1))
    errors[poor] = 12.0
    known = replace(series, bbox_px=box, error_px=errors)
    off = [
        np.hypot(*(fit_series(each, VIEW).middle.offset_um - truth.offset_um)[1:])
        for each in (known, replace(known, error_px=np.full_like(errors, 6.0)))
    ]
    assert off[0] < 3.0
    assert off[0] < off[1]


def leaning(
    lean_deg: float, rng: np.random.Generator, lost_um: float = 0.0
) -> tuple[Series, np.ndarray]:
    """A flat teardrop that leans across its plane, over a turn; and the middle of its views, y, z.

    It is 600 um long and 500 wide: a circle and a neck. Its edges are known to 0.3 px, but nothing
    is where it is seen within 20 deg of its plane, and within 40 deg of it the box begins `lost_um`
    behind the neck.
    """
    phi, lean = np.arange(90) * 4.0, np.radians(lean_deg)
    cos, sin = np.cos(np.radians(phi)), np.sin(np.radians(phi))
    ring = np.radians(np.arange(0.0, 360.0, 4.0))
    length = np.append(350.0 + 250.0 * np.cos(ring), 0.0)  # from the neck, which is the last
    y = np.append(250.0 * np.sin(ring), 0.0) + 20.0
    z = length * np.sin(lean) - 100.0
    rows = np.outer(y, cos) - np.outer(z, sin)
    low, high = rows.min(axis=0), rows.max(axis=0)
    middle = np.array([(low + high) @ cos, -(low + high) @ sin]) / len(phi)
    lost = np.where(np.abs(sin) > np.cos(np.radians(40.0)), lost_um, 0.0)
    seen = np.where(length[:, None] < lost, np.nan, rows)
    column, axis = np.full(len(phi), 400.0), VIEW.height_px / 2.0
    edges = (
        axis + each / VIEW.pixel_um + rng.normal(0.0, 0.3, len(phi))
        for each in (np.nanmin(seen, axis=0), np.nanmax(seen, axis=0))
    )
    left, top, bottom = column - (600.0 - lost) * np.cos(lean) / VIEW.pixel_um, *edges
    box = np.stack([left, top, column, bottom], axis=1)
    box[np.abs(sin) > np.cos(np.radians(20.0))] = np.nan
    tip = np.stack([column, axis + rows[0] / VIEW.pixel_um], axis=1)
    return replace(tips_alone(phi, tip), bbox_px=box), middle


@pytest.mark.parametrize(("lean_deg", "lost_um"), [(0.0, 0.0), (40.0, 0.0), (40.0, 80.0)])
def test_the_middle_of_a_head_that_leans_needs_no_views_of_its_edge(
    lean_deg: float, lost_um: float
) -> None:
    series, middle = leaning(lean_deg, np.random.default_rng(7), lost_um)
    fit = fit_series(series, VIEW, AxisPrior(VIEW.height_px / 2.0, 0.3))
    assert fit.middle.ok, fit.middle.why
    off = np.hypot(*(fit.middle.offset_um[1:] - middle))
    assert off < 6.0  # 10 um without harmonics; 14 um with 80 um lost, if that moves the middle


@pytest.mark.parametrize("place_deg", [30.0, 60.0])
def test_views_with_large_expected_errors_count_less_though_those_from_behind_agree(
    place_deg: float,
) -> None:
    series, middle = leaning(40.0, np.random.default_rng(7))
    side = np.cos(np.radians(series.phi_deg - place_deg))
    wrong = np.abs(side) > np.cos(np.radians(25.0))
    box, errors = series.bbox_px.copy(), np.full_like(series.bbox_px, 1.0)
    box[:, 1::2] += np.where(wrong, 4.0 * np.sign(side), 0.0)[:, None]
    errors[wrong] = 6.0
    known = replace(series, bbox_px=box, error_px=errors)
    fit = fit_series(known, VIEW, AxisPrior(VIEW.height_px / 2.0, 0.3))
    off = np.hypot(*(fit.middle.offset_um[1:] - middle))
    assert off < 9.0  # 12 um if all count alike


def test_where_the_tip_is_not_known_the_head_is_not_taken_to_lean() -> None:
    series, _ = leaning(40.0, np.random.default_rng(7))
    axis = AxisPrior(VIEW.height_px / 2.0, 0.3)
    seldom = changed(series, slice(20, None), tip_px=np.nan)
    fit = fit_series(seldom, VIEW, axis)
    assert fit.tip.reason is Reason.SHORT_ARC
    upright = fit_middle(seldom.phi_deg, seldom.bbox_px, seldom.error_px, VIEW, axis)
    np.testing.assert_array_equal(fit.middle.offset_um, upright.offset_um)


def test_a_loop_that_a_third_of_the_pictures_show_is_known(series: Series, truth: Rotation) -> None:
    lost = np.random.default_rng(6).permutation(90)[:60]
    nothing = dict.fromkeys(("tip_px", "bbox_px", "error_px", "width_px"), np.nan)
    fit = fit_series(changed(series, lost, **nothing, kind="none", side="", score=0.1), VIEW)
    assert fit.ok, fit.why
    assert fit.middle.ok, fit.middle.why
    assert fit.middle.offset_um[1:] == pytest.approx(truth.offset_um[1:], abs=5.0)


def test_repeated_frames_count_once(series: Series) -> None:
    columns = {each.name: getattr(series, each.name) for each in fields(series)}
    doubled = Series(**{name: np.concatenate([each, each]) for name, each in columns.items()})
    assert duplicates(doubled).tolist() == [False] * 90 + [True] * 90
    once, twice = fit_series(series, VIEW), fit_series(doubled, VIEW)
    assert not twice.tip.used[90:].any()
    assert twice.tip.offset_um == pytest.approx(once.tip.offset_um, abs=0.05)
    assert twice.tip.sigma_um == pytest.approx(once.tip.sigma_um, rel=0.01)


def test_edge_on_frames_without_detection(series: Series, truth: Rotation) -> None:
    edge_on = np.abs((SWEEP - 130.0 + 90) % 180 - 90) < 20
    blind = changed(series, edge_on, tip_px=np.nan, bbox_px=np.nan, width_px=np.nan, kind="none")
    fit = fit_series(blind, VIEW)
    assert fit.ok
    assert fit.tip.offset_um == pytest.approx(truth.offset_um, abs=5.0)
    assert fit.face.face_on_deg == pytest.approx(40.0, abs=2.0)


def test_boxes_that_hold_stem_and_pin_too_are_not_heads(series: Series) -> None:
    wrong = np.abs((SWEEP - 130.0 + 90) % 180 - 90) < 50
    box = series.bbox_px.copy()
    box[wrong, 0] = 0.0
    bad = replace(series, bbox_px=box, width_px=np.where(wrong, 95.0, series.width_px))
    assert (whole_heads(bad.bbox_px, VIEW) == ~wrong).all()
    assert fit_series(bad, VIEW).face.why.startswith("widths cover")  # 80 deg are left
    few = np.abs((SWEEP - 130.0 + 90) % 180 - 90) < 35
    box = series.bbox_px.copy()
    box[few, 0] = 0.0
    bad = replace(series, bbox_px=box, width_px=np.where(few, 95.0, series.width_px))
    assert fit_series(bad, VIEW).face.face_on_deg == pytest.approx(40.0, abs=3.0)


def test_what_the_sample_keeps_from_being_known(series: Series) -> None:
    everything = slice(None)
    nothing = {"tip_px": np.nan, "bbox_px": np.nan, "width_px": np.nan}
    lost = fit_series(changed(series, everything, kind="none", side="", **nothing), VIEW)
    assert (lost.ok, lost.reason) == (False, Reason.NO_PIN)
    assert "90 of 90" in lost.why
    seldom = changed(series, slice(12, None), kind="none", side="", **nothing)
    assert fit_series(seldom, VIEW).reason is Reason.SHORT_ARC  # at the rim of the picture
    seldom = changed(series, slice(8, None), kind="none", side="", **nothing)
    assert fit_series(seldom, VIEW).reason is Reason.NO_PIN  # detectors err, too
    pin = fit_series(changed(series, everything, kind="pin"), VIEW)
    assert pin.reason is Reason.NO_LOOP
    assert pin.tip.ok  # the end of the pin is known all the same
    assert not pin.face.ok
    beyond = fit_series(changed(series, everything, beyond=True, clipped=True, **nothing), VIEW)
    assert beyond.reason is Reason.NOT_IN_VIEW
    assert "move the sample back" in beyond.why
    mirrored = fit_series(changed(series, slice(4, None), side="right"), VIEW, side="left")
    assert mirrored.reason is Reason.OTHER_SIDE
    assert "from the right in 86 of 90 frames, not from the left" in mirrored.why
    part = fit_series(changed(series, slice(0, 60), beyond=True, **nothing), VIEW)
    assert part.reason is Reason.SHORT_ARC
    assert "past the far border in 60 of 90" in part.why
    assert fit_series(tips_alone([], np.empty((0, 2))), VIEW).reason is Reason.NO_FRAMES
    nowhere = np.full((90, 2), np.nan)
    assert fit_series(tips_alone(SWEEP, nowhere), VIEW).reason is Reason.NOT_IN_VIEW


def test_an_opaque_ball_has_a_place_but_no_face(series: Series, truth: Rotation) -> None:
    fit = fit_series(replace(series, width_px=np.full(90, 35.0)), VIEW)
    assert fit.ok
    assert "no clear face" in fit.face.why


def test_series_of_detections_of_pictures() -> None:
    y, x = np.mgrid[0:240, 0:320]
    truth = Rotation(x=(220 - 351.5) * 6.7, y=200.0, z=100.0, axis=120.0)
    found = []
    for column, row in truth.tips(SWEEP[::6]):
        ring = np.abs(np.hypot(x - (column - 20), y - row) - 18) < 3
        stem = (np.abs(y - row) < 3) & (x < column - 38)
        pin = (np.abs(y - row) < 25) & (x < 70)
        found.append(find_loop(np.where(ring | stem | pin, 60, 200).astype(np.uint8)))
    fit = fit_series(from_detections(SWEEP[::6], found), replace(VIEW, width_px=320, height_px=240))
    assert fit.ok, fit.why
    assert fit.tip.offset_um[1:] == pytest.approx(truth.offset_um[1:], abs=6.7)
    with pytest.raises(DataError, match="2 angles for 15 detections"):
        from_detections([1.0, 2.0], found)
    assert len(from_detections([], [])) == 0


def trapezoid(time: np.ndarray, turn: float = 180.0, speed: float = 60.0) -> np.ndarray:
    """There and back again with 0.5 s of acceleration and a rest of 1 s between."""
    ramp = 0.5
    whole = turn / speed + ramp

    def sweep(t: np.ndarray) -> np.ndarray:
        t = np.clip(t, 0, whole)
        rising, falling = speed * t**2 / (2 * ramp), turn - speed * (whole - t) ** 2 / (2 * ramp)
        return np.where(
            t < ramp, rising, np.where(t > whole - ramp, falling, speed * (t - ramp / 2))
        )

    return np.where(time < whole + 1, sweep(time), turn - sweep(time - whole - 1))


READINGS = np.arange(0, 9, 0.1)


def test_angles_follow_acceleration_between_readings() -> None:
    time = np.arange(0.1, 3.4, 1 / 30)
    phi, known = angles_at(Trace(READINGS, trapezoid(READINGS)), time + 0.2, delay_s=0.2)
    assert known.all()
    assert np.abs(phi - trapezoid(time)).max() < 0.2  # straight lines are off by 0.15 in the ramps
    assert np.abs(phi - trapezoid(time)).mean() < 0.02


def test_angles_that_cannot_be_told_are_marked() -> None:
    trace = Trace([0.0, 1.0, 2.0, 10.0, 11.0], [0.0, 5.0, 10.0, 90.0, 95.0])
    phi, known = angles_at(trace, [-1.0, 0.5, 5.0, 10.5, 12.0])
    assert known.tolist() == [False, True, False, True, False]
    assert phi[[0, 4]] == pytest.approx([-5.0, 100.0])
    with pytest.raises(DataError, match="1 different times"):
        Trace([1.0, 1.0], [2.0, 3.0])
    with pytest.raises(DataError, match="finite"):
        Trace([1.0, 2.0], [2.0, np.nan])


@pytest.mark.parametrize("seed", range(5))
def test_the_delay_of_the_camera_from_two_sweeps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, delay = Rotation(), rng.uniform(0.06, 0.35)
    time = np.arange(0.4, 8.0, 1 / 30)
    tips = truth.tips(trapezoid(time - delay)) + rng.normal(0, 1, (len(time), 2))
    tips[rng.random(len(time)) < 0.2] += 40
    trace = Trace(READINGS, trapezoid(READINGS))
    found = fit_delay(trace, time, tips, VIEW)
    assert found.ok, found.why
    assert found.delay_s == pytest.approx(delay, abs=4 * found.sigma_s + 0.002)
    assert found.sigma_s < 0.01
    # A wrong delay turns (y, z) about the axis; with the right one they are right.
    phi, _ = angles_at(trace, time, found.delay_s)
    assert fit_series(tips_alone(phi, tips), VIEW).tip.offset_um == pytest.approx(
        truth.offset_um, abs=6.0
    )


def test_one_speed_tells_no_delay() -> None:
    time = np.arange(90) / 30.0
    trace = Trace(READINGS, 60.0 * READINGS)
    tips = Rotation().tips(60.0 * (time - 0.1))
    found = fit_delay(trace, time, tips, VIEW)
    assert not found.ok
    assert "forward and one backward" in found.why
    assert "8 are needed" in fit_delay(trace, time[:5], tips[:5], VIEW).why
