"""The thread that reads images, alone, over modules made for the test."""

import threading
import time
from types import SimpleNamespace

import numpy as np
from facility_double import LIMIT_S, STEP, A, online

from skywright.acquire.counters import Counters
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import ShotRules
from skywright.instruments.sacla.sources.online_api import ImageReader, OnlineApi
from skywright.instruments.sacla.sources.online_images import ImageThread
from skywright.instruments.sacla.sources.online_run import OnlineRun, OnlineRuns
from skywright.instruments.sacla.sources.troubles import Troubles
from skywright.instruments.sacla.tile import PixelRules
from skywright.instruments.sacla.twin.beamline import HIGHTAG, RUN


def test_an_image_that_comes_while_an_older_question_for_it_fails_is_not_given_up():
    grid = TagGrid(1000, STEP, None)
    settings = online(wait_tags=60, check_s=LIMIT_S)
    shot_rules = ShotRules(0.05, 0.5, 6.666e-3, 100.0, 2.4431e-3, 500.0)
    pixel_rules = PixelRules(10_000.0, 3.65, 1000.0, 2.0, 1.5, 1.0)
    stopping, lost = threading.Event(), Counters()
    run = OnlineRun(
        RunInfo(RUN, HIGHTAG, grid, {}, shot_rules, pixel_rules), [A], 1000, 10**6, stopping
    )
    asked = []

    class StorageReader:
        def __init__(self, detector):
            assert detector == A

        def collect(self, buffer, wanted):
            if wanted == -1:
                return 1000
            asked.append(wanted)
            if asked == [1000]:
                run.end(1002)
                run.give_up()
                raise RuntimeError("tag 1000 is not there yet")
            return wanted

    image = np.ones((3, 4), np.float32)
    buffer = SimpleNamespace(read_det_data=lambda _: image, read_det_info=lambda _: {})
    olpy = SimpleNamespace(StorageReader=StorageReader, StorageBuffer=lambda _: buffer)
    runs = OnlineRuns()
    runs.begin(run)
    api, troubles = OnlineApi(None, olpy), Troubles(print)
    thread = ImageThread(api, A, settings, runs, lost, troubles, stopping)
    thread.connect()
    thread.start()
    found = [run.take(LIMIT_S) for _ in range(2)]
    stopping.set()
    thread.join(LIMIT_S)
    assert [record.tag for record in found] == [1000, 1002]
    assert asked == [1000, 1000, 1002]
    assert lost.as_dict() == {}


def test_an_image_stays_when_the_buffer_gets_the_next_one():
    memory = np.zeros((3, 4), np.float32)

    class StorageReader:
        def __init__(self, detector):
            assert detector == A

        def collect(self, buffer, wanted):
            memory[:] = wanted
            return wanted

    buffer = SimpleNamespace(read_det_data=lambda _: memory)
    olpy = SimpleNamespace(StorageReader=StorageReader, StorageBuffer=lambda _: buffer)
    reader = ImageReader(OnlineApi(None, olpy), A)
    found = [reader.read(tag) for tag in (7, 8)]
    assert [(tag, image.mean()) for tag, image in found] == [(7, 7.0), (8, 8.0)]


def test_a_detector_that_does_not_say_what_it_is_in_a_run_is_reported(monkeypatch):
    class StorageReader:
        def __init__(self, detector):
            self.trouble = ""

        def collect(self, buffer, wanted):
            if self.trouble:
                raise RuntimeError(self.trouble)
            return 1000

    buffer = SimpleNamespace(
        read_det_data=lambda _: np.ones((3, 4), np.float32), read_det_info=lambda _: {}
    )
    olpy = SimpleNamespace(StorageReader=StorageReader, StorageBuffer=lambda _: buffer)
    reports = []
    api, troubles = OnlineApi(None, olpy), Troubles(lambda message, *_: reports.append(message))
    thread = ImageThread(api, A, online(), OnlineRuns(), Counters(), troubles, threading.Event())
    monkeypatch.setattr(thread, "is_alive", lambda: True)
    thread.connect()
    thread.called_s = time.monotonic() - 0.5  # a slow call of a healthy detector
    assert thread.ask(2)
    thread._reader._reader.trouble = "olpy: -10000 there is no such tag"
    thread._answer()
    assert not thread.ask(2)
    assert reports == [
        f"{A}: olpy: -10000 there is no such tag; run 2 uses its gain of the run before"
    ]
    thread._reader._reader.trouble = "olpy: -10101 it is away"
    thread.ask(3)
    thread._answer()
    assert not thread.ask(3)
    assert (thread.answered, reports[1:]) == (2, [f"{A}: olpy: -10101 it is away; trying again"])


def thread_of(collect, newest, report=print, is_connected=True, **settings):
    """Return a thread, a run whose newest tag is known, and what is lost."""
    image = np.ones((3, 4), np.float32)
    buffer = SimpleNamespace(read_det_data=lambda _: image, read_det_info=lambda _: {})
    reader = SimpleNamespace(collect=lambda _, wanted: collect(wanted))
    olpy = SimpleNamespace(StorageReader=lambda _: reader, StorageBuffer=lambda _: buffer)
    shot_rules = ShotRules(0.05, 0.5, 6.666e-3, 100.0, 2.4431e-3, 500.0)
    pixel_rules = PixelRules(10_000.0, 3.65, 1000.0, 2.0, 1.5, 1.0)
    info = RunInfo(RUN, HIGHTAG, TagGrid(1000, STEP, None), {}, shot_rules, pixel_rules)
    stopping, lost = threading.Event(), Counters()
    run = OnlineRun(info, [A], newest, 10**6, stopping)
    api, troubles = OnlineApi(None, olpy), Troubles(report)
    thread = ImageThread(api, A, online(**settings), OnlineRuns(), lost, troubles, stopping)
    if is_connected:
        thread.connect()
    return thread, run, lost


def test_the_newest_image_in_place_of_one_to_come_costs_none():
    newest = [1000]
    thread, run, lost = thread_of(
        lambda wanted: newest[0] if wanted == -1 else min(wanted, newest[0]), 1100, wait_tags=200
    )
    assert thread._read(run, 1000) == 1002
    assert [thread._read(run, 1002) for _ in range(4)] == [1002] * 4
    newest[0] = 1002
    assert thread._read(run, 1002) == 1004
    assert lost.as_dict() == {}
    newest[0] = 1010  # the buffer goes on to give another image than that of a tag
    wrong, _, lost = thread_of(lambda wanted: 1010, 1100, wait_tags=200)
    assert [wrong._read(run, 1004) for _ in range(2)] == [1004, 1006]
    assert lost.as_dict() == {"wrong tag": 1}


def test_an_image_is_missing_if_it_is_not_there_once_more_after_a_newer_one():
    comes = {1000}

    def collect(wanted):
        if wanted == -1:
            return 1010
        if wanted not in comes:
            raise RuntimeError("there is no such image")
        return wanted

    thread, run, lost = thread_of(collect, 1010, wait_tags=200, check_s=1e-9)
    assert thread._read(run, 1000) == 1002
    assert thread._read(run, 1002) == 1002
    comes.add(1002)
    assert thread._read(run, 1002) == 1004
    assert lost.as_dict() == {}
    assert [thread._read(run, 1004) for _ in range(2)] == [1004, 1006]
    assert lost.as_dict() == {"missing": 1}


def test_a_detector_that_goes_away_while_its_newest_tag_is_asked_for_is_tried_again():
    answers, reports = [], []

    def collect(wanted):
        if answers:
            raise RuntimeError(answers.pop(0))
        return wanted if wanted > 0 else 1000

    thread, run, lost = thread_of(
        collect, 1100, lambda message, *_: reports.append(message), wait_tags=60, check_s=1e-9
    )
    answers[:] = ["tag 1000 is not there yet", "-10101: it is away"]
    # The accelerator is so far ahead that its newest tag is asked for twice
    assert thread._read(run, 1000) == 1000
    assert not thread.is_connected
    assert reports == [f"{A}: -10101: it is away; trying again"]
    assert thread._read(run, 1000) == 1002
    assert lost.as_dict() == {}


def test_a_newest_image_of_an_absurd_tag_is_forgotten_when_a_detector_has_come_back():
    newest = [998]
    thread, run, lost = thread_of(
        lambda wanted: 2_000_000_000 if wanted == -1 else min(wanted, newest[-1]),
        1000,
        is_connected=False,
        wait_tags=60,
    )
    # It gives its newest image, which is older, in place of one that is still to come.
    assert [thread._read(run, 1000) for _ in range(3)] == [1000] * 3
    newest.append(1000)
    assert thread._read(run, 1000) == 1002
    assert lost.as_dict() == {}
