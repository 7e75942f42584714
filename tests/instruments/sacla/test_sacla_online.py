"""The source over SACLA's online data: what goes wrong at the facility, one test for each."""

import math
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from facility_double import (
    LIMIT_S,
    SMALL,
    STEP,
    TIMING,
    A,
    B,
    Reading,
    Twin,
    assert_images,
    assert_values,
    made,
    online,
    tag,
)
from support.waiting import until

from skywright.errors import ConfigError, HardwareError
from skywright.instruments.sacla.cli_sources import online_settings
from skywright.instruments.sacla.facility.settings import EQUIPMENT_IDS
from skywright.instruments.sacla.join import TagGrid, TagJoin
from skywright.instruments.sacla.shots import EQUIPMENT
from skywright.instruments.sacla.sources.online_api import Cause, OnlineApi, cause_of
from skywright.instruments.sacla.sources.online_begin import (
    choose_detectors,
    find_steps,
    make_grid,
    make_info,
    make_tile,
)
from skywright.instruments.sacla.sources.sacla import SaclaSource
from skywright.instruments.sacla.twin.beamline import FIRST_TAG, HIGHTAG, OCTAL, RUN

I0 = EQUIPMENT_IDS["i0"].format(bl=3)
ABSENT = "MPCCD-9-9-009"


def test_a_detector_that_is_absent_or_goes_away_is_reported_and_the_rest_goes_on(facility):
    chosen = SMALL | {"detectors": (A, B)}
    facility.reset(**chosen)
    facility.advance(1)
    with Reading(online(detectors=(A, B, ABSENT), wait_tags=60)) as reading:
        assert any(ABSENT in text and A in text for text in reading.reports)
        assert set(reading.source.info.tiles) == {A, B}
        reading.until(lambda r: r.count(A) > 20 and r.count(B) > 20 and r.count("i0") > 10)
        facility.remove_detector(B)
        reading.until(lambda r: any(B in text and "connect" in text for text in r.reports))
        before = len(reading.records)
        facility.advance(2)
        reading.until(lambda r: sum(x.channel == A for x in r.records[before:]) > 50)
        reading.until(lambda r: sum(x.channel == "i0" for x in r.records[before:]) > 50)
        # Away for longer than images are awaited; then it is read again from then on.
        reading.until(lambda r: r.source.lost.get("detector absent", 0) > 20)
        facility.restore_detector(B)
        reading.until(lambda r: any(B in text and "works again" in text for text in r.reports))
        facility.advance(1)
        reading.until(lambda r: max(r.of(B)) == max(r.of(A)) > tag(95))
        twin = Twin(150, **chosen).records
        for name in (A, B):
            found = reading.of(name)
            assert_images(found, {key: twin[name][key] for key in found})
        lost = reading.source.lost_by_channel
        # Each image is read or counted; by which cause may depend on when the detector went away.
        seen = {name: len(reading.of(name)) + sum(lost[name].values()) for name in (A, B)}
        assert seen[A] == seen[B]
        assert lost[B]["detector absent"] > 20
        assert not lost[A] | lost["i0"]
        assert lost[ABSENT].keys() == {"detector absent"}


def test_images_that_are_gone_are_counted_and_the_newest_is_read(facility):
    twin = made(facility, 80, 0, ring_images=10)
    with Reading(online(ring_tags=10)) as reading:
        reading.until(lambda r: r.count(A))
        assert list(reading.of(A)) == [tag(79)]
        assert reading.source.lost["gone"] == 79
        assert any("fell behind" in text for text in reading.reports)
    assert_images(reading.of(A), {tag(79): twin.records[A][tag(79)]})


def test_an_image_that_never_came_is_missing_and_not_zero(facility):
    twin = made(facility, 60, missing=0.15)
    with Reading(online(), shots=60) as reading:
        reading.until_ended()
    assert [text for text in reading.reports if "all 60 requested shots are read" in text]
    images = twin.records[A]
    assert 40 < len(images) < 60
    assert_images(reading.of(A), images)
    assert all(image.any() for image in reading.of(A).values())
    assert reading.source.lost["missing"] == 60 - len(images)
    for role in EQUIPMENT:
        values = reading.of(role)
        assert len(values) == 60
        expected = dict.fromkeys(values, math.nan) | twin.values(role)
        np.testing.assert_equal(values, expected)


def test_text_that_is_no_number_is_missing_and_never_infinite(facility):
    twin = made(facility, 60, no_value=0.3)
    with Reading(online(), shots=60) as reading:
        reading.until_ended()
    assert_values(reading, twin)
    values = np.concatenate([list(reading.of(role).values()) for role in EQUIPMENT])
    assert not np.isinf(values).any()
    assert 60 < np.isnan(values).sum() < 160


def test_one_more_value_of_each_shot_is_read_and_awaited(facility):
    twin = made(facility, 40)
    more = {"timing": TIMING, "motor": EQUIPMENT_IDS["upstream"]}
    with Reading(online(equipment=more), shots=40) as reading:
        info = reading.source.info
        reading.until_ended()
    assert_values(reading, twin)
    motor = reading.of("motor")
    assert len(motor) == 40
    assert np.isfinite(list(motor.values())).all()
    join = TagJoin(info.channels, info.run, 120, info.grid)
    for record in reading.records:
        if record.channel != "motor":
            join.add(record)
    assert not list(join.ready())  # all shots wait for their motor
    for record in reading.records:
        if record.channel == "motor":
            join.add(record)
    assert len(list(join.ready())) == 40


def test_a_database_call_that_raises_loses_nothing_and_one_that_always_does_is_counted(facility):
    twin = made(facility, 40)
    facility.inject("database", I0, 5)
    with Reading(online(), shots=40) as reading:
        reading.until_ended()
    assert facility.pending_faults() == 0
    assert reading.source.lost == {}
    assert_values(reading, twin)
    assert [text for text in reading.reports if I0 in text and "trying again" in text]
    facility.inject("database", I0, 10**6)
    with Reading(online(), shots=40) as reading:
        reading.until_ended()
    assert reading.source.lost == {"database": 40}
    assert all(math.isnan(value) for value in reading.of("i0").values())
    assert_values(reading, twin, [role for role in EQUIPMENT if role != "i0"])


def test_channels_of_other_rates_are_joined_at_the_tags_of_the_images(facility):
    # Images at each second shot, the timing tool at each fourth, all else at each shot.
    twin = made(facility, 80, every={A: 2, "timing": 4})
    with Reading(online(), shots=40) as reading:
        reading.until_ended()
    assert reading.source.info.grid.step == 2 * STEP
    tags = [tag(shot) for shot in range(0, 80, 2)]
    assert list(reading.of(A)) == tags
    for role in EQUIPMENT:
        truth = twin.values(role)
        has_value = {key: role != "timing" or (key - FIRST_TAG) % (4 * STEP) == 0 for key in tags}
        expected = {key: truth[key] if has_value[key] else math.nan for key in tags}
        np.testing.assert_equal(reading.of(role), expected)
    assert reading.source.lost == {"no value": 20}


@pytest.mark.parametrize(("image_lag_s", "database_lag_s"), [(0.0, 2.0), (2.0, 0.0)])
def test_late_values_and_late_images_are_matched_by_tag(facility, image_lag_s, database_lag_s):
    chosen = SMALL | {
        "image_lag_s": image_lag_s,
        "database_lag_s": database_lag_s,
        "ring_images": 400,
    }
    facility.reset(**chosen)
    facility.advance(3)
    twin = Twin(60, **chosen)
    with Reading(online(wait_tags=200), shots=60) as reading:
        facility.advance(1)
        for _ in range(10):
            before = len(reading.records)
            facility.advance(0.5)
            reading.until(lambda r, before=before: len(r.records) > before or r.reports)
        reading.until_ended()
    assert reading.source.lost == {}
    info = reading.source.info
    join = TagJoin([A, *EQUIPMENT], info.run, 200, info.grid)
    shots = []
    for record in reading.records:
        assert join.add(record) is None
        shots += join.ready()
    assert [shot.tag for shot in shots] == [tag(shot) for shot in range(60)]
    for shot in shots:
        np.testing.assert_array_equal(shot.payloads[A], twin.records[A][shot.tag])
        assert all(shot.payloads[role] == twin.values(role)[shot.tag] for role in EQUIPMENT)


@pytest.mark.parametrize("future", ["error", "wait", "newest"])
def test_an_equipment_whose_newest_tag_is_ahead_of_the_images_loses_none(facility, future):
    chosen = SMALL | {"image_lag_s": 1.0, "future": future}
    facility.reset(**chosen)
    facility.advance(1.3)  # the images of the first shots only
    twin = Twin(60, **chosen)
    with Reading(online(tag_step=STEP, wait_tags=200), shots=60) as reading:
        reading.until(lambda r: r.count("beam") >= 20)
        assert reading.count(A) < 15
        for _ in range(6):
            facility.advance(0.5)
        reading.until_ended()
    assert reading.source.lost == {}
    assert_images(reading.of(A), twin.records[A])


@pytest.mark.parametrize("image_lag_s", [0.0, 0.7])
def test_a_new_run_with_a_new_high_tag_and_low_tags_is_followed(facility, image_lag_s):
    chosen = SMALL | {"image_lag_s": image_lag_s, "ring_images": 400}
    facility.reset(**chosen)
    facility.advance(1.5)

    def timing_of(run):
        return lambda r: any(x.run == run and x.channel == "timing" for x in r.records)

    def go_on():
        facility.advance(0.1)

    with Reading(online(tag_step=STEP, wait_tags=60, silent_s=LIMIT_S)) as reading:
        reading.until(lambda r: r.count("timing") >= 20)
        begun = facility.start_run(202302, 1000)
        assert begun == {"run": RUN + 1, "hightag": 202302, "first": 1000}
        for _ in range(10):
            facility.advance(0.2)
        reading.until(timing_of(RUN + 1), go_on)
        facility.stop_run()
        facility.start_run()
        for _ in range(10):
            facility.advance(0.2)
        reading.until(timing_of(RUN + 2), go_on)
    runs = [info.run for info in reading.runs]
    assert runs == [RUN, RUN + 1, RUN + 2]
    assert [info.hightag for info in reading.runs] == [HIGHTAG, 202302, 202302]
    first, second, third = reading.runs
    assert second.identity(1000) == (202302 << 32) + 1000 > first.identity(tag(10**6))
    assert (second.grid.first, second.grid.step) == (1000, STEP)
    order = [record.run for record in reading.records]
    assert order == sorted(order)
    # The images of each run are those of its shots, under its own tags.
    twin = Twin(300, **chosen).records[A]
    shot = 0
    for info in (first, second):
        images = [x for x in reading.records if x.run == info.run and x.channel == A]
        assert [x.tag for x in images] == [info.grid.first + k * STEP for k in range(len(images))]
        for record in images:
            np.testing.assert_array_equal(record.payload, twin[tag(shot)])
            shot += 1
        values = [x for x in reading.records if x.run == info.run and x.channel == "i0"]
        assert [x.tag for x in values] == [x.tag for x in images]
    assert reading.source.lost == {}
    assert third.grid.first == 1000 + (shot - images_before(reading, RUN + 1)) * STEP


def test_a_paused_run_goes_on_and_an_equipment_that_does_not_exist_is_reported(facility):
    facility.reset(**SMALL)
    facility.advance(1)
    ids = {"timing": "xfel_renamed/pixel"}
    with Reading(online(equipment=ids, wait_tags=60)) as reading:
        facility.pause_run()
        for _ in range(5):
            facility.advance(0.2)
        reading.until(lambda r: max(r.of(A), default=0) > tag(55))
        facility.pause_run(False)
        for _ in range(10):
            facility.advance(0.2)
        reading.until(lambda r: max(r.of(A)) > tag(110) and r.count("timing") > 40)
        assert [text for text in reading.reports if "xfel_renamed/pixel" in text]
    assert reading.source.lost_by_channel["timing"].keys() == {"database"}
    assert all(math.isnan(value) for value in reading.of("timing").values())
    assert reading.source.lost.keys() == {"database"}
    twin = Twin(150, **SMALL)
    for role in ("i0", "delay"):
        found = reading.of(role)
        assert found == {key: twin.values(role)[key] for key in found}
    assert len(reading.runs) == 1


def test_a_run_begins_without_a_detector_that_is_away(facility):
    facility.reset(**SMALL | {"detectors": (A, B)})
    facility.advance(1)
    with Reading(online(detectors=(A, B), wait_tags=60)) as reading:
        reading.until(lambda r: r.count(A) and r.count(B))
        facility.remove_detector(B)
        reading.until(lambda r: any(B in text and "connect" in text for text in r.reports))
        facility.start_run()
        for _ in range(10):
            facility.advance(0.2)
        reading.until(lambda r: sum(x.run == RUN + 1 and x.channel == A for x in r.records) > 30)
        assert set(reading.runs[-1].tiles) == {A}
        facility.restore_detector(B)
        reading.until(lambda r: any(B in text and "works again" in text for text in r.reports))
        facility.start_run()
        for _ in range(15):
            facility.advance(0.2)
        reading.until(lambda r: sum(x.run == RUN + 2 and x.channel == B for x in r.records) > 30)
    assert [set(info.tiles) for info in reading.runs] == [{A, B}, {A}, {A, B}]


def test_a_run_begins_with_a_detector_that_gives_no_images(facility):
    facility.reset(**SMALL | {"detectors": (A, B)})
    facility.advance(1)
    with Reading(online(detectors=(A, B), wait_tags=60)) as reading:
        reading.until(lambda r: r.count(A) and r.count(B))
        facility.stop_images(B)
        facility.start_run()
        for _ in range(10):
            facility.advance(0.2)
        reading.until(lambda r: sum(x.run == RUN + 1 and x.channel == A for x in r.records) > 30)
        assert set(reading.runs[-1].tiles) == {A, B}
        facility.restore_detector(B)
        facility.advance(1)
        reading.until(lambda r: any(x.run == RUN + 1 and x.channel == B for x in r.records))
    assert not reading.source.lost_by_channel[A]
    # Also a source that starts while it gives none.
    facility.stop_images(B)
    facility.start_run()
    facility.advance(3)
    with Reading(online(detectors=(A, B), wait_tags=60), shots=20) as reading:
        reading.until_ended()
    assert reading.count(A) == 20


def test_a_source_that_starts_after_its_first_detector_has_stopped_has_the_others_images(facility):
    facility.reset(**SMALL | {"detectors": (A, B), "ring_images": 400})
    facility.advance(1)
    facility.stop_images(A)
    facility.advance(20)
    with Reading(online(detectors=(A, B), catch_up_tags=40, wait_tags=60), shots=20) as reading:
        facility.advance(5)
        reading.until_ended()
    assert reading.count(B) == 20


def images_before(reading, run):
    return sum(record.run < run and record.channel == A for record in reading.records)


def test_an_octal_shot_is_whole_with_eight_equal_tags_only(facility):
    chosen = {"detectors": OCTAL, "missing": 0.02}
    twin = made(facility, 50, **chosen)
    with Reading(online(detectors=()), shots=50) as reading:
        reading.until_ended()
    info = reading.source.info
    assert set(info.tiles) == set(OCTAL)
    join = TagJoin([*OCTAL, *EQUIPMENT], info.run, 120, info.grid)
    for record in reading.records:
        assert join.add(record) is None
    shots = [*join.ready(), *join.finish()]
    whole = {shot.tag for shot in shots if shot.payloads.keys() >= set(OCTAL)}
    assert whole == set.intersection(*(set(twin.records[name]) for name in OCTAL))
    assert 30 < len(whole) < 50
    for shot in shots:
        for name in shot.payloads.keys() & set(OCTAL):
            np.testing.assert_array_equal(shot.payloads[name], twin.records[name][shot.tag])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({A: (1000, 2)}, (1200, 2)),
        ({A: (1000, 2), B: (1000, 4)}, (1200, 4)),
        ({A: (1000, 4), B: (1000, 2)}, (1200, 4)),
        ({A: (1000, 2), B: (1004, 3)}, (1196, 6)),  # the newest image of B has an odd tag
        ({A: (1000, 2), B: (1001, 4)}, (1197, 4)),  # never together
        ({A: (1000, 2), ABSENT: (0, 0)}, (1200, 2)),
        ({ABSENT: (0, 0)}, None),
        ({A: (1195, 2)}, None),  # three tags only
    ],
)
def test_shots_are_the_tags_at_which_all_detectors_have_images(rates, expected):
    def read_taglist_bydetid(beamline, run, detector):
        if detector == ABSENT:
            raise RuntimeError("no such detector")
        first, step = rates[detector]
        tags = np.arange(first, 1201, step)
        return tuple(tags[tags != first + 10 * step])  # one image is missing

    api = OnlineApi(SimpleNamespace(read_taglist_bydetid=read_taglist_bydetid), None)
    assert find_steps(api, online(), RUN, list(rates)) == expected


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ((range(1000, 1201, 2), ()), (1200, 2)),
        ((range(1000, 1201, 2), range(1004, 1010, 2)), (1200, 2)),  # it stopped after three
        ((range(1000, 1201, 2), range(1194, 1200, 2)), None),  # it begins late
        ((range(1000, 1019, 2), ()), None),  # the run has just begun
        ((range(1000, 1101, 2), range(1000, 1201, 2)), (1200, 2)),
        ((range(1000, 1101, 4), range(1000, 1201, 2)), (1200, 4)),
        ((range(1002, 1101, 4), range(1000, 1201, 2)), (1198, 4)),
        (((), ()), None),
    ],
)
def test_a_detector_that_gives_no_images_does_not_keep_the_others_waiting(lists, expected):
    by_name = dict(zip((A, B), lists, strict=True))
    read = SimpleNamespace(read_taglist_bydetid=lambda beamline, run, name: tuple(by_name[name]))
    for names in ((A, B), (B, A)):
        assert find_steps(OnlineApi(read, None), online(wait_tags=20), RUN, names) == expected


def test_a_run_is_read_from_its_start_unless_that_is_long_ago():
    assert make_grid(1001, 200, 1200, 6, None) == TagGrid(1002, 6)
    assert make_grid(1000, 200, 1200, 6, None) == TagGrid(1002, 6)
    assert make_grid(999, 200, 1200, 6, None) == TagGrid(1206, 6)
    assert make_grid(999, 200, 1200, 6, 3) == TagGrid(1206, 6, 1218)


def test_an_octal_with_another_number_of_tiles_is_refused(facility):
    facility.reset(**SMALL | {"detectors": (*OCTAL[:7], A)})
    facility.advance(1)
    with pytest.raises(ConfigError, match="7 detectors match"):
        SaclaSource(online(detectors=()))
    known = (A, "MPCCD-8-2-002-3", "MPCCD-8N0-3-002-9", *OCTAL)
    with pytest.raises(ConfigError, match="9 detectors match"):
        choose_detectors(online(detectors=()), known)
    assert choose_detectors(online(detectors=()), (A, *OCTAL[::-1])) == OCTAL
    assert choose_detectors(online(detectors=(A, B)), ()) == (A, B)


def test_no_tag_comes_twice_or_out_of_order_after_a_lost_connection(facility):
    twin = made(facility, 60)
    reading = Reading(online(wait_tags=400), shots=60)
    facility.inject("socket", A, 3)
    with reading:
        reading.until_ended()
    assert facility.pending_faults() == 0
    assert_images(reading.of(A), twin.records[A])
    assert reading.source.lost == {}
    assert_values(reading, twin)


def test_an_image_of_another_tag_is_dropped_and_asked_for_again(facility):
    twin = made(facility, 40)
    facility.inject("wrong_tag", A, 1)
    with Reading(online(), shots=40) as reading:
        reading.until_ended()
    assert facility.pending_faults() == 0
    assert_images(reading.of(A), twin.records[A])
    assert reading.source.lost == {}
    facility.inject("wrong_tag", A, 10**6)
    with Reading(online(), shots=40) as reading:
        reading.until_ended()
    # The first image of the ring is given for all; for the first tag it is the right one.
    assert_images(reading.of(A), {tag(0): twin.records[A][tag(0)]})
    assert reading.source.lost == {"wrong tag": 39}


def test_the_ring_is_read_once(facility):
    twin = made(facility, 50, 0)
    with Reading(online()) as reading:
        reading.until(lambda r: r.count(A) == 50 and r.count("timing") == 50)
        for _ in range(5):  # the source asks on and on while nothing new comes
            facility.advance(0.01)
            reading.until(lambda r: any("no new image" in text for text in r.reports))
    assert_images(reading.of(A), twin.records[A])
    assert facility.most_reads(A) == 1


def test_a_silent_detector_is_given_up_while_the_rest_goes_on(facility):
    facility.reset(**SMALL | {"detectors": (A, B)})
    facility.advance(1)
    with Reading(online(detectors=(A, B), wait_tags=60)) as reading:
        reading.until(lambda r: r.count(B) > 20)
        facility.stop_images(B)
        for _ in range(5):
            facility.advance(0.5)
        reading.until(lambda r: r.count(A) > 90 and r.source.lost.get("no image", 0) > 30)
        reading.until(lambda r: any(B in text and "no new image" in text for text in r.reports))
        facility.restore_detector(B)
        facility.advance(1)
        reading.until(lambda r: max(r.of(A)) == max(r.of(B)) > tag(110))
    lost = reading.source.lost_by_channel
    assert not lost[A]
    assert lost[B]["no image"] > 30
    assert len(reading.of(A)) == len(reading.of(B)) + sum(lost[B].values())


def test_a_camera_has_gain_1_and_no_threshold(facility):
    made(facility, 20, detectors=(A,), cameras=("OPAL-234363",))
    with Reading(online(detectors=(A, "OPAL-234363")), shots=20) as reading:
        reading.until_ended()
    info = reading.source.info
    assert (info.tiles[A].gain, info.tiles["OPAL-234363"].gain) == (15.0, 1.0)
    assert info.rules_of(A).threshold_ev == 1000.0
    assert info.rules_of("OPAL-234363").threshold_ev < -1e20
    assert info.pixel_rules.photon_ev == 10000.0


def test_an_mpccd_without_gain_is_reported(facility):
    """Its sums are not in eV, and its recordings cannot be replayed before the gain is added."""
    ccd = "MPCCD-1N0-M06-009"
    made(facility, 20, detectors=(A,), cameras=(ccd, "OPAL-234363"))
    with Reading(online(detectors=(A, ccd, "OPAL-234363")), shots=20) as reading:
        reading.until_ended()
    trouble = f"gain of {ccd}: no mp_absgain: gain 1 and no threshold are used"
    assert [text for text in reading.reports if "gain" in text] == [f"{trouble}; trying again"]
    assert reading.source.trouble == trouble


def test_a_slow_analysis_loses_images_and_takes_no_memory(facility):
    facility.reset(**SMALL)
    facility.advance(1)
    size = 12 * 10 * 4
    gate = threading.Event()

    class Slow(Reading):
        def _take(self, record):
            assert gate.wait(LIMIT_S)
            super()._take(record)

    with Slow(online(buffer_mb=5 * size / 1e6, ring_tags=100)) as reading:
        run = reading.source._current
        until(lambda: run.held >= 4 * size, LIMIT_S)
        facility.advance(10)  # three rings
        assert run.held <= 5 * size
        gate.set()
        reading.until(lambda r: r.source.lost.get("gone", 0) > 100)
        facility.advance(1)
        reading.until(lambda r: max(r.of(A)) > tag(315))
        lost = reading.source.lost_by_channel[A]
        found = reading.of(A)
        assert len(found) + sum(lost.values()) == (max(found) - FIRST_TAG) // STEP + 1


def test_without_following_runs_the_source_ends_with_the_run(facility):
    twin = Twin(50, **SMALL)
    facility.reset(**SMALL | {"ring_images": 400})
    facility.advance_shots(50)
    with Reading(online(wait_tags=60), follow=False) as reading:
        facility.stop_run()
        facility.advance(3)
        reading.until_ended()
    assert_images(reading.of(A), twin.records[A])
    assert_values(reading, twin)
    assert reading.source.lost == {}


def test_after_a_stop_the_source_goes_on_with_the_newest_shots(facility):
    facility.reset(**SMALL)
    facility.advance(2)
    with Reading(online(catch_up_tags=0, wait_tags=60)) as reading:
        facility.advance(1)
        reading.until(lambda r: r.count(A) > 20)
        before = max(reading.of(A))
        reading.source.stop()
        stopped = len(reading.records)
        facility.advance(5)
        reading.source.start(reading._take, reading._say)
        assert reading.source.info.grid.first > before + 200
        facility.advance(2)
        reading.until(lambda r: sum(x.channel == "timing" for x in r.records[stopped:]) > 20)
    twin = Twin(400, **SMALL).records[A]
    assert_images(reading.of(A), {key: twin[key] for key in reading.of(A)})
    assert min(record.tag for record in reading.records[stopped:]) > before + 200
    assert reading.source.lost == {}


def test_masks_and_settings_come_from_files(tmp_path):
    bad = np.zeros((12, 10), bool)
    bad[3] = True
    np.save(tmp_path / "mask.npy", bad)
    settings = online(masks={A: tmp_path / "mask.npy"})
    tile = make_tile(A, {"xsize": 10, "ysize": 12, "mp_absgain": 14.0}, settings)
    np.testing.assert_array_equal(tile.bad, bad)
    assert tile.gain == 14.0
    with pytest.raises(ConfigError, match=r"mask.npy: \(12, 10\), expected \(12, 11\)"):
        make_tile(A, {"xsize": 11, "ysize": 12}, settings)
    with pytest.raises(ConfigError, match=r"none\.npy: not readable"):
        make_tile(A, {"xsize": 10, "ysize": 12}, online(masks={A: tmp_path / "none.npy"}))
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "many.npz", bad=bad)
    for name in ("empty.npy", "many.npz"):
        with pytest.raises(ConfigError, match=rf"mask of {A}, .*{name}: not readable"):
            make_tile(A, {"xsize": 10, "ysize": 12}, online(masks={A: tmp_path / name}))
    file = tmp_path / "online.toml"
    file.write_text('beamline = 1\n[equipment]\ni0 = "x"\n')
    found = online_settings(file, {"beamline": 2}, {"timing": "t{bl}"})
    ids = found.equipment.of_beamline(found.beamline)
    assert (ids["i0"], ids["timing"], ids["laser_open"][:9]) == ("x", "t2", "xfel_bl_2")
    for text, message in (
        ("bemline = 1", "bemline"), ("beamline = 7", "beamline"), ("=", "read"),
        ("[pixels]\nthreshold_ev = nan", "pixels.threshold_ev"),
        ("[pixels]\nphoton_ev = inf", "pixels.photon_ev"),
        ("[shots]\ni0_min = -inf", "shots.i0_min"), ("silent_s = inf", "silent_s"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"online.toml: .*{message}"):
            online_settings(file, {}, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_gain_or_an_energy_that_makes_no_sense_is_refused(value):
    settings, grid = online(), TagGrid(1, 1)
    facts = {A: {"xsize": 4, "ysize": 4, "mp_absgain": 15.0}}
    dbpy = SimpleNamespace(
        read_config_photonenergy_in_keV=lambda *_: 10.0, read_hightagnumber=lambda *_: 202301
    )
    api = OnlineApi(dbpy, None)
    assert make_info(api, settings, 7, grid, facts).pixel_rules.photon_ev == 10_000.0
    with pytest.raises(ConfigError, match=rf"{A}: mp_absgain is .*expected 1e-09 to 1e\+09"):
        make_info(api, settings, 7, grid, {A: facts[A] | {"mp_absgain": value}})
    dbpy.read_config_photonenergy_in_keV = lambda *_: value
    with pytest.raises(ConfigError, match="run 7: photon_ev is"):
        make_info(api, settings, 7, grid, facts)


def test_rings_that_make_no_sense_are_refused_before_the_first_shot():
    """The report at the end cannot be made with them, nor can a recording be read."""
    dbpy = SimpleNamespace(
        read_config_photonenergy_in_keV=lambda *_: 10.0, read_hightagnumber=lambda *_: 202301
    )
    facts = {A: {"xsize": 512, "ysize": 1024, "mp_absgain": 15.0}}
    settings = online(pixels={"radial_dr": 5e-5})  # meters in place of pixels
    with pytest.raises(ConfigError, match="radial_dr = 5e-05 give more than 1000000 rings"):
        make_info(OnlineApi(dbpy, None), settings, 7, TagGrid(1, 1), facts)


def test_without_a_run_or_a_detector_the_source_says_so(facility):
    facility.reset(**SMALL | {"running": False})
    facility.advance(1)
    with pytest.raises(HardwareError, match="no run is under way"):
        SaclaSource(online(connect_s=0.3))
    facility.start_run()
    facility.advance(1)
    with pytest.raises(HardwareError, match=f"no detector answers; the run has {A} .{ABSENT}"):
        SaclaSource(online(detectors=(ABSENT,), connect_s=0.3))


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("-10000: MPCCD-1: the data of tag 3 are gone", Cause.GONE),
        ("error code -10101 in collect", Cause.CONNECTION),
        ("-10100: no socket", Cause.CONNECTION),
        ("-10199: no socket", Cause.CONNECTION),
        ("-10099: wrong size", Cause.OTHER),
        ("-10200: no memory, cannot connect", Cause.OTHER),
        ("no such detector: X", Cause.CONNECTION),
        ("-10300: no calibration", Cause.OTHER),
        ("tag 400010000 is not there yet", Cause.OTHER),
        ("tag -100000: unknown", Cause.OTHER),
    ],
)
def test_errors_are_told_apart_by_their_codes(message, cause):
    assert cause_of(Exception(message)) is cause


def test_without_the_modules_the_error_names_them_and_the_double():
    with pytest.raises(ConfigError, match=r"dbpy.*PYTHONPATH.*skywright sacla facility"):
        SaclaSource(online())


def test_the_example_of_the_how_to_is_valid(tmp_path):
    page = Path(__file__).parents[3] / "docs" / "how-to" / "prepare-sacla-beamtime.md"
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "beamtime.toml"
    file.write_text(example)
    assert online_settings(file, {}, {}).shots.tt_ref_px == 500.0
