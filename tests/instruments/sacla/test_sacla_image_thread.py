"""The thread that reads images, alone, over modules made for the test."""

import threading
from types import SimpleNamespace

import numpy as np
from facility_double import LIMIT_S, STEP, A, online

from skywright.acquire.counters import Counters
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shots import ShotRules
from skywright.instruments.sacla.sources.online_api import OnlineApi
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
