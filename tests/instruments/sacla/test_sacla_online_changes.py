"""The source over SACLA's online data: a detector that is another one in the next run, or hangs."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from facility_double import LIMIT_S, STEP, A, B, Reading, online
from support.waiting import until

from skywright.errors import HardwareError
from skywright.instruments.sacla.sources import online_database, sacla
from skywright.instruments.sacla.sources.online_api import OnlineApi


class Facility:
    """Modules made for the test; the data of a tag are there when `newest` has reached it.

    Attributes
    ----------
    facts
        (first tag, gain, shape) of the detectors, the newest last.
    hanging
        Detectors whose calls do not return before `released`.
    called
        Those of them that have been called.
    gainless
        Detectors that do not say their gain.
    steps
        By detector, tags from one of its images to the next, where these are not all.
    stale
        By detector, the tag of the image that it still has as its newest; its ring has no tag below
        this one.
    """

    def __init__(self):
        self.run, self.high, self.start, self.newest = 1, 202301, 1000, 1020
        self.under_way = True
        self.ends = {}
        self.facts = [(1000, 15.0, (4, 4))]
        self.hanging, self.called, self.released = set(), set(), threading.Event()
        self.gainless, self.steps = set(), {}
        self.stale, self.is_calibrated, self.says_newest = {}, True, True
        self.modules = OnlineApi(
            SimpleNamespace(
                read_runnumber_newest=lambda _: self.run,
                read_runstatus=lambda _, run: 2 if run == self.run and self.under_way else 0,
                read_hightagnumber=lambda *_: self.high,
                read_start_tagnumber=lambda *_: (self.high, self.start),
                read_end_tagnumber=lambda _, run: (202301, self.ends[run]),
                read_detidlist=lambda *_: (A, B),
                read_taglist_bydetid=lambda *_: range(self.start, self.newest + 1, STEP),
                read_tagnumber_newest=lambda _: (self.high, self.newest),
                read_syncdatalist=lambda _, high, tags: ["1"] * len(tags),
                read_config_photonenergy_in_keV=lambda *_: 10.0,
            ),
            SimpleNamespace(
                StorageReader=lambda name: SimpleNamespace(
                    name=name, collect=lambda buffer, tag: buffer.collect(tag)
                ),
                StorageBuffer=lambda reader: self._buffer(reader.name),
            ),
        )

    def end_run(self):
        self.ends[self.run], self.under_way = self.newest, False

    def begin_run(self, tags):
        self.ends[self.run], self.under_way = self.newest, True
        self.start = self.newest + STEP
        self.newest += tags * STEP
        self.run += 1

    def _buffer(self, name):
        tag = self.newest

        def collect(wanted):
            nonlocal tag
            if name in self.hanging:
                self.called.add(name)
                assert self.released.wait(LIMIT_S)
            if wanted == -1 and not self.says_newest:
                raise RuntimeError("-10300: no calibration")
            if (old := self.stale.get(name)) is not None:
                if wanted != -1 and wanted < old:
                    raise RuntimeError(f"-10000: tag {wanted} is not in the ring buffer")
                tag = old
                return tag
            latest = self.newest - (self.newest - 1000) % self.steps.get(name, 1)
            if wanted > latest:
                raise RuntimeError(f"tag {wanted} is not there yet")
            tag = latest if wanted == -1 else wanted
            if (tag - 1000) % self.steps.get(name, 1):
                raise RuntimeError(f"-10000: no image at tag {tag}")
            return tag

        def known():
            return [each for each in self.facts if each[0] <= tag][-1]

        def info(_):
            if not self.is_calibrated:
                raise RuntimeError("-10300: no calibration")
            return {} if name in self.gainless else {"mp_absgain": known()[1]}

        return SimpleNamespace(
            collect=collect,
            read_det_data=lambda _: np.ones(known()[2], np.float32),
            read_det_info=info,
        )


@pytest.fixture
def facility(monkeypatch):
    made = Facility()
    monkeypatch.setattr(sacla, "import_api", lambda: made.modules)
    yield made
    made.released.set()


def images(reading, run, name):
    return [x for x in reading.records if (x.run, x.channel) == (run, name)]


def test_each_wait_of_a_restart_may_take_its_whole_time(facility):
    """A restart waits for a run, for its detectors and for its images, one after the other."""
    source = sacla.SaclaSource(online())
    try:
        source.start(lambda _: None, lambda *_: None)
        source.stop()
        source.start_limit_s -= 2 * source.settings.connect_s  # two of the waits took all of it
        source.start(lambda _: None, lambda *_: None)
    finally:
        source.close()


def test_a_detector_has_the_gain_and_the_shape_that_it_has_in_the_run(facility):
    with Reading(online(detectors=(A, B))) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        facility.facts.append((facility.newest + STEP, 30.0, (6, 5)))
        facility.begin_run(30)
        reading.until(lambda r: len(images(r, 2, A)) == len(images(r, 2, B)) == 30)
    tiles = [(tile.gain, tile.bad.shape) for info in reading.runs for tile in info.tiles.values()]
    assert tiles == [(15.0, (4, 4))] * 2 + [(30.0, (6, 5))] * 2
    assert {x.payload.shape for x in images(reading, 2, B)} == {(6, 5)}
    assert reading.source.lost == {}


def test_a_detector_that_hangs_does_not_stop_the_others_when_the_run_ends(facility):
    facility.gainless.add(B)  # this is no trouble of the run that lacks B
    with Reading(online(detectors=(A, B), silent_s=0.3)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        facility.hanging.add(B)
        facility.newest += 10 * STEP
        reading.until(lambda r: f"{B}: has not answered for 0.3 s; trying again" in r.reports)
        assert B in reading.source.trouble
        facility.begin_run(10)
        reading.until(lambda r: len(images(r, 2, A)) == 10)
        assert list(reading.runs[-1].tiles) == [A]
        facility.hanging.clear()
        facility.released.set()
        reading.until(lambda r: f"{B}: works again" in r.reports)
        assert reading.source.trouble == ""
        facility.begin_run(10)
        reading.until(lambda r: len(images(r, 3, A)) == len(images(r, 3, B)) == 10)
        assert list(reading.runs[-1].tiles) == [A, B]
    # Each image is read, or counted.
    lost = reading.source.lost_by_channel
    read = sum(x.channel == B for x in reading.records)
    assert (read + sum(lost[B].values()), lost[A]) == (41, {})


def test_no_run_is_passed_over_by_a_detector_that_hangs_during_many(facility):
    with Reading(online(detectors=(A, B), silent_s=0.3)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        facility.hanging.add(B)
        facility.newest += 10 * STEP
        reading.until(lambda r: f"{B}: has not answered for 0.3 s; trying again" in r.reports)
        facility.begin_run(10)
        reading.until(lambda r: len(images(r, 2, A)) == 10)
        # Runs that B is not in; in the first ones it was.
        for run in range(3, 8):
            facility.begin_run(10)
            reading.until(lambda r, run=run: len(images(r, run, A)) == 10)
        facility.hanging.clear()
        facility.released.set()
        reading.until(lambda r: f"{B}: works again" in r.reports)
        facility.begin_run(10)
        reading.until(lambda r: len(images(r, 8, A)) == len(images(r, 8, B)) == 10)
    lost = reading.source.lost_by_channel
    read = sum(x.channel == B for x in reading.records)
    assert (read + sum(lost[B].values()), lost[A]) == (11 + 10 + 6 * 10 + 10, {})


def test_a_run_that_four_others_follow_is_delivered_to_its_end(facility):
    """The values of the first run are late, or the analysis is."""
    database, answers = facility.modules.dbpy, threading.Event()
    values_of = database.read_syncdatalist

    def late(equipment, high, tags):
        return values_of(equipment, high, tags) if answers.is_set() else [None] * len(tags)

    with Reading(online(detectors=(A,), wait_tags=10**6)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)
        database.read_syncdatalist = late
        facility.newest += 10 * STEP
        reading.until(lambda r: len(images(r, 1, A)) == 21)
        for run in range(2, 6):
            facility.begin_run(10)
            until(lambda run=run: reading.source._runs.latest.info.run == run, LIMIT_S, "it begins")
        answers.set()
        reading.until(lambda r: len(images(r, 5, A)) == 10)
    assert [info.run for info in reading.runs] == [1, 2, 3, 4, 5]
    assert [len(images(reading, run, "i0")) for run in range(1, 5)] == [21, 10, 10, 10]
    assert [len(images(reading, run, A)) for run in range(1, 6)] == [21, 10, 10, 10, 10]
    assert reading.source.lost == {}


def test_a_run_begins_while_a_detector_hangs_also_with_a_given_tag_step(facility):
    with Reading(online(detectors=(B, A), silent_s=0.3, tag_step=STEP)) as reading:
        reading.until(lambda r: images(r, 1, A) and images(r, 1, B))
        facility.hanging.add(B)
        facility.begin_run(10)
        until(lambda: f"{B}: has not" in reading.source.trouble, LIMIT_S, "it hangs")
        facility.newest += 10 * STEP
        reading.until(lambda r: images(r, 2, A))
        assert list(reading.runs[-1].tiles) == [A]


def test_a_run_begins_after_a_pause_in_which_a_detector_hung_also_with_a_given_tag_step(facility):
    with Reading(online(detectors=(B, A), silent_s=0.3, tag_step=STEP)) as reading:
        reading.until(lambda r: images(r, 1, A) and images(r, 1, B))
        facility.end_run()
        until(lambda: not reading.source._runs.unfinished(), LIMIT_S, "all of run 1 is delivered")
        facility.hanging.add(B)
        facility.begin_run(10)
        reading.until(lambda r: images(r, 2, A))
        assert list(reading.runs[-1].tiles) == [A]
        until(lambda: f"{B}: has not" in reading.source.trouble, LIMIT_S, "it hangs")


@pytest.mark.parametrize("tag_step", [None, STEP])
def test_tags_begin_anew_while_a_detector_still_has_its_last_image(facility, tag_step):
    facility.start, facility.newest, facility.facts[0] = 900_000_000, 900_000_020, (0, 15.0, (4, 4))
    with Reading(online(detectors=(A, B), silent_s=1.0, tag_step=tag_step)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        facility.stale[B] = facility.newest
        facility.end_run()
        until(lambda: not reading.source._runs.unfinished(), LIMIT_S, "all of run 1 is delivered")
        facility.high, facility.start, facility.newest = facility.high + 1, 1000, 1020
        facility.run, facility.under_way = 2, True
        reading.until(lambda r: len(images(r, 2, A)) == 11)
        facility.newest += 10 * STEP
        reading.until(lambda r: len(images(r, 2, A)) == 21)
        assert reading.runs[-1].grid.first == 1000
    lost = reading.source.lost_by_channel
    assert lost[A] == {}
    assert sum(lost[B].values()) <= 21


def test_a_run_begins_where_no_detector_says_its_newest_tag_also_with_a_given_tag_step(facility):
    with Reading(online(detectors=(A,), tag_step=STEP)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)
        facility.says_newest = False
        facility.begin_run(10)
        reading.until(lambda r: len(images(r, 2, A)) == 10)


def test_a_run_begins_where_no_detector_has_a_calibration_also_with_a_given_tag_step(facility):
    with Reading(online(detectors=(A,), tag_step=STEP)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)
        facility.is_calibrated = False
        facility.begin_run(10)
        reading.until(lambda r: len(images(r, 2, A)) == 10)
        told = [text for text in reading.reports if "no calibration" in text]
    assert told == [f"{A}: -10300: no calibration; run 2 uses its gain of the run before"]


def test_a_source_that_starts_before_the_first_image_of_new_tags_waits_for_it(facility):
    facility.stale[A], facility.stale[B] = 500_020, 500_020
    threading.Timer(0.5, facility.stale.clear).start()
    with Reading(online(detectors=(A, B), tag_step=STEP)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        assert reading.runs[-1].grid.first == 1000


def test_the_first_detector_says_which_tags_are_shots_if_the_tag_step_is_given(facility):
    facility.steps[A] = STEP
    facility.newest = 1021
    with Reading(online(detectors=(A, B), tag_step=STEP)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        facility.begin_run(10)
        facility.newest += 1
        reading.until(lambda r: len(images(r, 2, A)) == len(images(r, 2, B)) >= 9)
    assert {x.tag % 2 for x in reading.records} == {0}


def test_a_detector_that_does_not_connect_is_named_and_the_others_are_read(facility):
    facility.hanging.add(B)
    with Reading(online(detectors=(B, A), silent_s=0.3)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)
        reading.until(lambda r: f"{B}: does not answer; trying again" in r.reports)
        until(lambda: f"{B}: has not" in reading.source.trouble, LIMIT_S, "it hangs")
        assert list(reading.runs[-1].tiles) == [A]


def test_no_detector_that_hangs_is_asked_when_the_source_starts(facility):
    reading = Reading(online(detectors=(B, A), silent_s=0.3, tag_step=STEP))
    facility.hanging.add(B)
    with reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)


def test_a_run_that_follows_is_read_from_its_first_shot_while_a_detector_stalls(facility):
    with Reading(online(detectors=(A, B), silent_s=LIMIT_S, catch_up_tags=40)) as reading:
        reading.until(lambda r: images(r, 1, A) and images(r, 1, B))
        facility.hanging.add(B)
        until(lambda: B in facility.called, LIMIT_S, "it stalls")
        facility.begin_run(30)
        following = reading.source._runs.after(reading.source._current, LIMIT_S)
        assert following.info.grid.first == facility.start
        stalls = f"{B}: does not answer; run 2 uses its gain of the run before"
        reading.until(lambda r: stalls in r.reports)
        facility.released.set()
        reading.until(lambda r: len(images(r, 2, A)) == len(images(r, 2, B)) == 30)
    assert reading.source.lost == {}


def test_shots_of_a_run_that_is_found_too_late_are_counted(facility):
    with Reading(online(detectors=(A, B), catch_up_tags=40)) as reading:
        reading.until(lambda r: images(r, 1, A) and images(r, 1, B))
        facility.begin_run(400)
        reading.until(lambda r: "run 2: its first 400 shots are gone" in r.reports)
        facility.newest += 10 * STEP
        reading.until(lambda r: len(images(r, 2, A)) == len(images(r, 2, B)) == 10)
    assert reading.source.lost_by_channel[A] == reading.source.lost_by_channel[B] == {"gone": 400}


@pytest.mark.parametrize(
    ("failures", "limit_s", "answer"),
    [
        (1, LIMIT_S, RuntimeError("not written yet")),
        (10**6, 0.05, RuntimeError("not written yet")),
        (10**6, 0.05, (202401, 10**9)),  # of a database that was set up anew
    ],
)
def test_a_last_tag_that_the_database_does_not_give_at_once_is_asked_for_again(
    facility, monkeypatch, failures, limit_s, answer
):
    database, asked = facility.modules.dbpy, []
    end_of = database.read_end_tagnumber

    def fail_first(beamline, run):
        asked.append(run)
        if len(asked) > failures:
            return end_of(beamline, run)
        if isinstance(answer, Exception):
            raise answer
        return answer

    database.read_end_tagnumber = fail_first
    monkeypatch.setattr(online_database, "END_S", limit_s)
    with Reading(online(detectors=(A, B))) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        facility.begin_run(30)
        reading.until(lambda r: len(images(r, 2, A)) == len(images(r, 2, B)) == 30)
        reports = list(reading.reports)
    why = answer if isinstance(answer, Exception) else "its high tag is 202401, expected 202301"
    unknown = [text for text in reports if f"its last tag is not known ({why})" in text]
    if failures == 1:
        assert len(images(reading, 1, A)) == 11  # no shot of the next run
        assert reports == ["run 2 follows run 1"]
    else:
        assert len(unknown) == 1


def test_a_database_that_has_no_newest_tag_yet_does_not_end_the_source(facility):
    database = facility.modules.dbpy
    newest_of = database.read_tagnumber_newest
    with Reading(online(detectors=(A, B))) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 11)
        database.read_tagnumber_newest = lambda _: (None, None)
        reading.until(lambda r: any(text.startswith("reference") for text in r.reports))
        database.read_tagnumber_newest = newest_of
        facility.newest += 10 * STEP
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, B)) == 21)


def test_a_newest_tag_far_in_the_future_gives_nothing_up(facility):
    database = facility.modules.dbpy
    newest_of, wrong = database.read_tagnumber_newest, []

    def sometimes_wrong(equipment):
        high, low = newest_of(equipment)
        return (high, wrong.pop()) if wrong else (high, low)

    database.read_tagnumber_newest = sometimes_wrong
    wrong.append(2**31 - 1)  # also the first of all
    with Reading(online(detectors=(A,))) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)
        wrong.extend([10**9, 10**9])
        until(lambda: not wrong, LIMIT_S, "the wrong tags have been read")
        for shots in range(1, 11):
            facility.newest += STEP
            reading.until(lambda r, shots=shots: len(images(r, 1, A)) == 11 + shots)
        reading.until(lambda r: len(images(r, 1, "i0")) == 21)
        assert reading.source.lost == {}
        # The tags have gone on while the database did not.
        facility.start, facility.newest = 1000, 1020 + 10 * STEP + 100_000 * STEP
        current = reading.source._current

        def go_on():
            facility.newest += STEP
            return current.newest >= facility.newest - 2 * STEP

        until(go_on, LIMIT_S, "the newest tag")


def test_a_database_that_does_not_answer_is_reported(facility):
    database = facility.modules.dbpy
    newest_of = database.read_tagnumber_newest

    def hang(equipment):
        assert facility.released.wait(LIMIT_S)
        return newest_of(equipment)

    with Reading(online(detectors=(A,), silent_s=0.1)) as reading:
        reading.until(lambda r: len(images(r, 1, A)) == 11)
        database.read_tagnumber_newest = hang
        reading.until(lambda r: "database: has not answered for 0.1 s; trying again" in r.reports)
        facility.newest += 10 * STEP
        facility.released.set()
        reading.until(lambda r: "database: works again" in r.reports)
        reading.until(lambda r: len(images(r, 1, A)) == len(images(r, 1, "i0")) == 21)
    assert reading.source.lost == {}


@pytest.mark.parametrize("call", ["read_runnumber_newest", "read_detidlist", "read_hightagnumber"])
def test_a_source_whose_database_does_not_answer_does_not_start(facility, monkeypatch, call):
    monkeypatch.setattr(sacla, "ANSWER_S", 0.05)
    setattr(facility.modules.dbpy, call, lambda *_: facility.released.wait(LIMIT_S))
    with pytest.raises(HardwareError, match=r"the facility has not answered for 0\.3 s"):
        Reading(online(detectors=(A,), connect_s=0.3))
