"""The double of the facility in its process, what it gave, and the records that a source yields."""

import os
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from support.ready_process import ReadyProcess, ended_after

from skywright.instruments.sacla.facility import SOCKET_VARIABLE, install, path
from skywright.instruments.sacla.facility.control import FacilityControl
from skywright.instruments.sacla.facility.settings import EQUIPMENT_IDS, FacilitySettings
from skywright.instruments.sacla.shots import EQUIPMENT
from skywright.instruments.sacla.sources.online_settings import OnlineSettings
from skywright.instruments.sacla.sources.sacla import SaclaSource
from skywright.instruments.sacla.twin import Beamline
from skywright.instruments.sacla.twin.beamline import FIRST_TAG
from skywright.instruments.sacla.values import parse_value

LIMIT_S = 120.0
A, B = "MPCCD-1N0-M06-004", "MPCCD-1N0-M06-002"
SMALL = {"shape": (12, 10), "pool": 4, "manual": True, "beam_off": 0.0}
TIMING = EQUIPMENT_IDS["timing"]
STEP = 2
"""Tags from one shot to the next."""


@contextmanager
def served(*options):
    """Serve a double for the time of a with block; yield its socket. It ends on SIGTERM."""
    directory = Path(tempfile.mkdtemp(prefix="sacla"))  # the path of a socket must be short
    socket = directory / "s"
    command = ("-m", "skywright.cli", "sacla", "facility", "--socket", str(socket), *options)
    try:
        with ended_after(ReadyProcess(*command)) as process:
            assert Path(process.ready["socket"]) == socket
            assert Path(process.ready["path"]) == path()
            yield socket
            assert process.terminate() == 0
            assert not socket.exists()
    finally:
        shutil.rmtree(directory)


@contextmanager
def installed(socket):
    """Let this process import the double's modules; yield a control client."""
    install(socket)
    control = FacilityControl(socket)
    try:
        yield control
    finally:
        control.close()
        if str(path()) in sys.path:
            sys.path.remove(str(path()))
        for name in ("dbpy", "olpy", "stpy"):
            sys.modules.pop(name, None)
        os.environ.pop(SOCKET_VARIABLE, None)


class Twin:
    """What the facility gives: images and texts by channel and tag, from the same seed."""

    def __init__(self, count, **settings):
        chosen = FacilitySettings(**settings)
        beamline = Beamline(chosen.twin, chosen.seed)
        self.info = beamline.info
        self.records = defaultdict(dict)
        for number in range(count):
            for _, record in beamline.shot(number):
                self.records[record.channel].setdefault(record.tag, record.payload)

    def values(self, role):
        """Numbers by tag."""
        return {tag: parse_value(text) for tag, text in self.records[role].items()}


def tag(shot):
    """Return the tag of a shot."""
    return FIRST_TAG + shot * STEP


def made(facility, shots, extra=30, **settings):
    """Let the facility make its shots, all of whose data are there; return what is true."""
    chosen = SMALL | {"shots": shots + extra} | settings
    facility.reset(**chosen)
    facility.advance((shots + extra) / 30 + 10)
    return Twin(shots, **chosen)


def online(**more):
    """Settings of a source for the double, that waits little."""
    defaults = {
        "detectors": (A,),
        "equipment": {"timing": TIMING},
        "catch_up_tags": 10**6,
        "wait_tags": 20,
        "ring_tags": 400,
        "connect_s": LIMIT_S,
        "poll_s": 0.002,
        "database_s": 0.01,
        "check_s": 0.05,
        "retry_s": 0.05,
        "silent_s": 0.5,
    }
    return OnlineSettings(**(defaults | more))


class Reading:
    """A source that runs, and its records so far.

    Parameters
    ----------
    settings
        Of the source.
    shots, follow
        As for the source.
    """

    def __init__(self, settings, shots=None, follow=True):
        self.source = SaclaSource(settings, shots, follow)
        self.records, self.reports, self.runs = [], [], []
        self._changed = threading.Condition()

    def __enter__(self):
        self.source.start(self._take, self._say)
        return self

    def __exit__(self, *_):
        self.source.close()

    def _take(self, record):
        with self._changed:
            if not self.runs or self.runs[-1] is not self.source.info:
                self.runs.append(self.source.info)
            self.records.append(record)
            self._changed.notify_all()

    def _say(self, text, alarm=True):
        with self._changed:
            self.reports.append(text)
            self._changed.notify_all()

    def until(self, condition, meanwhile=None):
        """Wait until a condition holds that records or reports may fulfil.

        `meanwhile` is called again and again if it does not: a facility's clock does not stand
        still until a slow computer has seen that a run is over.
        """
        looks = 1 if meanwhile is None else 20
        for _ in range(looks):
            with self._changed:
                what = f"{len(self.records)} records, {self.reports}, {self.source.lost}"
                if self._changed.wait_for(lambda: condition(self), LIMIT_S / looks):
                    return
            if meanwhile is not None:
                meanwhile()
        raise AssertionError(what)

    def until_ended(self):
        """Wait until the source has ended by itself."""
        ends = ("no more shots", "requested shots are read")
        self.until(lambda self: any(end in text for text in self.reports for end in ends))

    def of(self, channel):
        """Payloads by tag, in order; a tag that came twice fails."""
        found = [r for r in self.records if r.channel == channel]
        assert len({(r.run, r.tag) for r in found}) == len(found), channel
        return {r.tag: r.payload for r in found}

    def count(self, channel):
        return sum(r.channel == channel for r in self.records)


class FramesInMemory:
    """Frames of a pipeline whose worker is in this process; a place is an index."""

    shared = False

    def __init__(self):
        self._frames = []

    def has_room(self, chunk):
        return True

    def place(self, chunk, position, detector, frame):
        self._frames.append(frame)
        return len(self._frames) - 1

    def free(self, chunk):
        pass

    def open(self):
        pass

    def read(self, detector, places):
        return np.stack([self._frames[place] for place in places])

    def close(self):
        self._frames = []


def assert_images(found, expected):
    """Images by tag are those of the twin, pixel by pixel, in the order of their tags."""
    assert list(found) == sorted(expected)
    for tag, image in found.items():
        np.testing.assert_array_equal(image, expected[tag])


def assert_values(reading, twin, roles=EQUIPMENT):
    for role in roles:
        np.testing.assert_equal(reading.of(role), twin.values(role))
