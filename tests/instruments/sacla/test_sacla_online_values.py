"""The reader of one point detector, and how far a run is, over a database made for the test."""

import math
import threading
from types import SimpleNamespace

import numpy as np
from facility_double import STEP, online

from skywright.acquire.counters import Counters
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import ShotRules
from skywright.instruments.sacla.sources.online_api import OnlineApi
from skywright.instruments.sacla.sources.online_database import DatabaseThread
from skywright.instruments.sacla.sources.online_run import OnlineRun, OnlineRuns
from skywright.instruments.sacla.sources.online_values import ValueReader
from skywright.instruments.sacla.sources.troubles import Troubles
from skywright.instruments.sacla.tile import PixelRules
from skywright.instruments.sacla.twin.beamline import HIGHTAG, RUN

WAIT_TAGS = 20


class Database:
    """Gives texts by tag; a tag that is to spoil its call raises."""

    def __init__(self, texts, spoiled=()):
        self.texts, self.spoiled, self.calls = dict(texts), set(spoiled), []
        self.more = 0

    def read_syncdatalist(self, equipment, hightag, tags):
        assert (equipment, hightag, type(tags)) == ("xfel/pd", HIGHTAG, tuple)
        self.calls.append(tags)
        if self.spoiled & set(tags):
            raise RuntimeError("a tag is spoiled")
        return tuple(self.texts.get(tag) for tag in (*tags, *tags[: self.more]))


def reading(database, newest, last=None):
    """Return a reader, its run, what was lost, and the troubles that were told."""
    shot_rules = ShotRules(0.05, 0.5, 6.666e-3, 100.0, 2.4431e-3, 500.0)
    pixel_rules = PixelRules(10_000.0, 3.65, 1000.0, 2.0, 1.5, 1.0)
    info = RunInfo(RUN, HIGHTAG, TagGrid(1000, STEP, last), {}, shot_rules, pixel_rules)
    run = OnlineRun(info, ["i0"], newest, 10**6, threading.Event())
    run.confirm(math.inf)
    lost, troubles = Counters(), []
    api = OnlineApi(database, SimpleNamespace())
    reader = ValueReader(api, "i0", "xfel/pd", run, WAIT_TAGS, lost, troubles.append)
    return reader, run, lost, troubles


def came(run):
    """Return the values by tag that have come since the last call."""
    found = {}
    while (record := run.take(0.0)) is not None:
        found[record.tag] = record.payload
    return found


def test_a_value_is_awaited_until_the_newest_tag_is_far_ahead():
    database = Database({1000: "1.5V", 1002: "", 1004: None, 1006: "not-converged", 1008: b""})
    reader, run, lost, _ = reading(database, 1008)
    reader.read()
    np.testing.assert_equal(came(run), {1000: 1.5, 1006: math.nan})
    assert lost.as_dict() == {}
    database.texts[1004] = "-3pulse"
    run.reach(1002 + WAIT_TAGS)
    reader.read()
    assert came(run) == {1004: -3.0}
    run.reach(1003 + WAIT_TAGS)
    reader.read()
    np.testing.assert_equal(came(run), {1002: math.nan})
    assert lost.as_dict() == {"no value": 1}
    assert database.calls[-1][0] == 1002
    database.texts[1008] = "8V"
    reader.read()
    assert came(run) == {1008: 8.0}


def test_a_tag_that_spoils_its_call_costs_no_other_value():
    database = Database({tag: f"{tag}V" for tag in range(1000, 1032, STEP)}, spoiled=[1010])
    reader, run, lost, troubles = reading(database, 1030)
    reader.read()
    expected = {tag: float(tag) for tag in range(1000, 1032, STEP) if tag != 1010}
    assert came(run) == expected
    assert troubles == ["a tag is spoiled"] * 5  # of 16 tags, 8, 4, 2 and 1
    run.reach(1011 + WAIT_TAGS)
    reader.read()
    np.testing.assert_equal(came(run), {1010: math.nan})
    assert lost.as_dict() == {"database": 1}
    database.spoiled.clear()
    database.texts[1032] = "2V"
    run.reach(1032)
    reader.read()
    assert came(run) == {1032: 2.0}
    assert troubles[-1] == ""


def test_values_of_another_number_than_that_of_the_tags_are_no_values():
    database = Database({tag: f"{tag}V" for tag in range(1000, 1010, STEP)})
    reader, run, lost, troubles = reading(database, 1008)
    database.more = 1
    reader.read()
    assert came(run) == {}
    assert troubles[0] == "6 values for 5 tags"
    database.more = 0
    reader.read()
    assert came(run) == {tag: float(tag) for tag in range(1000, 1010, STEP)}
    assert lost.as_dict() == {}


def test_a_number_in_place_of_a_text_does_not_end_the_reader():
    reader, run, lost, troubles = reading(Database({1000: math.nan, 1002: "1V", 1004: 2.5}), 1004)
    reader.read()
    np.testing.assert_equal(came(run), {1000: math.nan, 1002: 1.0, 1004: 2.5})
    assert (lost.as_dict(), troubles) == ({}, [""])


def test_the_last_value_of_a_run_finishes_it():
    database = Database(dict.fromkeys(range(1000, 1010, STEP), "1V"))
    reader, run, _, _ = reading(database, 1004)
    reader.read()
    assert run.awaits("i0")
    run.end(1007)
    run.reach(1100)
    reader.read()
    assert list(came(run)) == [1000, 1002, 1004, 1006]
    assert not run.awaits("i0")
    assert run.is_finished


def test_values_behind_the_end_of_a_run_are_neither_awaited_nor_lost():
    """They may be of another run, or of none."""
    reader, run, lost, _ = reading(Database({1000: "1V", 1002: "2V"}), 1010)
    reader.read()
    run.end(1003)
    reader.read()
    assert came(run) == {1000: 1.0, 1002: 2.0}
    assert run.is_finished
    assert lost.as_dict() == {}


def test_a_later_word_on_the_end_of_a_run_makes_it_no_longer():
    _, run, _, _ = reading(Database({}), 1000, last=1010)
    run.end(1020)  # the shots that are wanted end before the run
    assert (run.last, run.has_ended) == (1010, True)
    run.end(1006)
    assert run.last == 1006
    assert (run.includes(1006), run.includes(1007)) == (True, False)
    for tag in (1006, 1008):
        run.put_value("i0", tag, 1.0)
    assert came(run) == {1006: 1.0}
    assert [run.at_or_after(tag) for tag in (999, 1000, 1001, 1009, math.inf)] == [
        *(1000, 1000, 1002, 1010, 1008)
    ]


def test_tags_that_begin_anew_say_how_long_data_have_been_awaited():
    _, run, _, _ = reading(Database({}), 1000)
    settings = online(wait_tags=WAIT_TAGS, equipment={})
    thread = DatabaseThread(
        *(OnlineApi(None, None), settings, OnlineRuns(), None, {}, Troubles(print)),
        threading.Event(),
    )
    thread._reach(run, HIGHTAG, 999)  # before the first shot
    thread._reach(run, HIGHTAG + 1, 5000)  # another run's, while this one has not ended
    assert run.newest == 1000
    thread._reach(run, HIGHTAG, 1008)
    run.end(1010)
    assert run.newest == 1008
    for high, low, newest in ((1, 500, 1011), (1, 507, 1018), (1, 3, 1018), (2, 0, 1031)):
        thread._reach(run, HIGHTAG + high, low)
        assert run.newest == newest
