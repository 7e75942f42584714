"""Pulses of the simulated instrument, of files, and how those that are lost are counted."""

import threading
import time
from dataclasses import replace

import h5py
import hdf5plugin
import numpy as np
import pytest

from skywright.acquire.image_layout import Image
from skywright.acquire.pacing import Pacer
from skywright.errors import ConfigError
from skywright.files.areadetector import EPICS_NANOSECONDS, EPICS_SECONDS
from skywright.instruments.psss.layouts import PICTURE_SETTINGS, PictureLayout
from skywright.instruments.psss.sources import sim
from skywright.instruments.psss.sources.gaps import PulseGaps, Stretch
from skywright.instruments.psss.sources.replay import ReplaySource
from skywright.instruments.psss.sources.sim import SimSource
from skywright.instruments.psss.twin import Instrument, InstrumentSettings

LIMIT_S = 120.0
SMALL = InstrumentSettings(columns=64, rows=32, pool_bytes=1)


def take(source, count, timeout_s=LIMIT_S):
    return [source.next(timeout_s) for _ in range(count)]


# The simulated instrument


def test_sim_gives_pulses_by_the_machines_clock():
    source = SimSource(SMALL, rate_hz=0, seed=2, first_pulse_id=500)
    assert source.next(0.0) is None  # silent until started
    source.open()
    pulses = take(source, 5)
    source.halt()
    assert [pulse.pulse_id for pulse in pulses] == [500, 501, 502, 503, 504]
    assert set(np.diff([pulse.time_ns for pulse in pulses])) == {10_000_000}
    image, truth = Instrument(SMALL, seed=2).take(503)
    assert (pulses[3].image == image).all()
    assert pulses[3].truth.center_ev == truth.center_ev
    assert source.next(0.0) is None
    source.open()
    assert source.next(LIMIT_S).pulse_id == 505  # ids grow over starts
    source.halt()


def test_sim_ids_grow_from_one_process_to_the_next():
    for _ in range(2):
        source = SimSource(SMALL, rate_hz=0)
        source.open()
        pulse = source.next(LIMIT_S)
        source.halt()
        assert abs(pulse.pulse_id - time.time() * 100) < 100 * LIMIT_S
        assert abs(pulse.time_ns - time.time_ns()) < 1e9 * LIMIT_S


def test_sim_keeps_the_rate():
    source = SimSource(SMALL, rate_hz=50, speed=4, first_pulse_id=0)
    source.prepare()
    source.open()
    start = time.monotonic()
    pulses = take(source, 41)
    took = time.monotonic() - start
    source.halt()
    assert took >= 40 / 200 - 0.02
    ids = [pulse.pulse_id for pulse in pulses]
    assert set(np.diff(ids)) == {2}  # 50 Hz on a 100 Hz clock


@pytest.mark.parametrize(
    ("rate_hz", "step"), [(100.0, 1), (60.0, 2), (50.0, 2), (30.0, 3), (200.0, 1)]
)
def test_times_of_sim_pulses_go_with_the_clock_at_any_rate(rate_hz, step):
    source = SimSource(SMALL, rate_hz=rate_hz)
    source.open()
    first, *_, last = pulses = take(source, 5)
    source.halt()
    assert {int(n) % step for n in np.diff([pulse.pulse_id for pulse in pulses])} == {0}
    count = (last.pulse_id - first.pulse_id) / step
    assert last.time_ns - first.time_ns == pytest.approx(1e9 * count / rate_hz, abs=10 * step)
    assert abs(first.time_ns - time.time_ns()) < 1e9 * LIMIT_S


def test_counts_are_read_while_the_twin_is_made(monkeypatch):
    source = SimSource(SMALL)
    read = threading.Event()

    def make(*arguments):
        def count():
            assert source.lost == {}
            read.set()

        threading.Thread(target=count, daemon=True).start()
        assert read.wait(LIMIT_S)
        return Instrument(*arguments)

    monkeypatch.setattr(sim, "Instrument", make)
    source.prepare()
    assert read.is_set()


def test_pulses_that_nobody_took_are_lost_and_counted(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    source = SimSource(SMALL, rate_hz=100, first_pulse_id=0)
    source.open()
    assert source.next(0.0).pulse_id == 0
    assert source.next(0.0) is None
    now[0] += 0.0101
    assert source.next(0.0).pulse_id == 1
    now[0] += 0.3  # less than is made up for
    assert [source.next(0.0).pulse_id for _ in range(30)] == list(range(2, 32))
    assert source.lost == {}
    now[0] += 5.0
    late = source.next(0.0).pulse_id
    assert source.lost == {"late": late - 32}
    assert late - 32 == pytest.approx(500, abs=2)
    assert source.next(0.0) is None
    source.halt()
    source.open()
    assert source.next(0.0) is not None
    assert source.lost == {"late": late - 32}  # of before
    source.halt()


def test_a_wait_ends_when_the_source_is_stopped():
    source = SimSource(SMALL, rate_hz=0.01)
    source.open()
    assert source.next(LIMIT_S) is not None
    result = []
    waiting = threading.Thread(target=lambda: result.append(source.next(LIMIT_S)))
    start = time.monotonic()
    waiting.start()
    source.halt()
    waiting.join(LIMIT_S)
    assert result == [None]
    assert time.monotonic() - start < LIMIT_S / 2


def test_a_reel_shows_its_pictures_in_turn():
    source = SimSource(SMALL, rate_hz=0, first_pulse_id=6, reel=3)
    source.open()
    pulses = take(source, 4)
    source.halt()
    assert pulses[0].image is pulses[3].image
    assert [pulse.truth.pulse_id for pulse in pulses] == [6, 7, 8, 9]
    assert pulses[0].truth.center_ev == Instrument(SMALL).take(0)[1].center_ev


def test_without_light_pictures_are_background():
    source = SimSource(replace(SMALL, peak_electrons=1e5), rate_hz=0)
    source.open()
    assert source.next(LIMIT_S).image.max() > 10_000
    source.beam = False
    assert source.next(LIMIT_S).image.max() < 1000
    source.halt()


def test_a_silent_camera_gives_nothing_until_it_speaks_again():
    source = SimSource(SMALL, rate_hz=0)
    source.open()
    source.silent = True
    assert source.next(0.01) is None
    source.silent = False
    assert source.next(LIMIT_S) is not None
    source.halt()


@pytest.mark.parametrize("bad", [{"rate_hz": -1.0}, {"speed": -1.0}])
def test_sim_refuses_rates_below_zero(bad):
    with pytest.raises(ConfigError, match="expected 0 or more"):
        SimSource(SMALL, **bad)


def test_a_pace_that_has_ended_never_waits():
    pace = Pacer(1000.0)
    assert pace.wait(0.0) == 0
    pace.end()
    assert pace.wait(LIMIT_S) is None
    pace.pause(LIMIT_S)


# What is missing between pulses


@pytest.mark.parametrize(
    ("ids", "step", "missing"),
    [
        ([], None, 0),
        ([7], None, 0),
        ([1, 2, 3, 4], None, 0),
        ([1, 2, 5, 6], None, 2),
        ([1, 2, 5, 6], 1, 2),
        ([4, 8, 12, 20], None, 1),
        ([1, 4, 5, 6], None, 2),  # the step is learnt late
        ([100, 101, 1, 2, 4], None, 1),  # the sender began anew
        ([1, 2, 10**15, 10**15 + 1], None, 0),  # another clock
        ([1, 2, 3, 5, 4, 6], None, 0),  # one is overtaken
        ([4, 8, 12, 24, 16, 28, 32], None, 1),
        ([1, *(i + late for i in range(2, 900, 2) for late in (1, 0))], 1, 0),
        ([1, 2, 5, 6, 3, 4, 1, 2, 4], None, 1),  # the gap is filled, then the sender begins anew
        ([*range(15), *range(12), 13], None, 1),  # it begins anew after a few pulses
        (5 * [*range(10)], None, 0),  # it plays a short recording again and again
        # Pulses overtake each other after the rate has fallen
        (
            [*range(100, 600), *(600 + 2 * i + s for i in range(0, 1000, 2) for s in (2, 0))],
            None,
            1,  # 601: between 602 and 600 the rate is not known
        ),
        ([*range(100, 601), *(i + s for i in range(602, 2600, 4) for s in (2, 0))], None, 0),
        ([*range(100, 598), 599, 600, 602, 598, *range(604, 1400, 2)], None, 0),
    ],
)
def test_gaps(ids, step, missing):
    gaps = PulseGaps(step)
    assert all(gaps.take(number) for number in ids)
    assert gaps.missing == missing


@pytest.mark.parametrize(
    ("ids", "repeats", "missing"),
    [
        ([1, 2, 6, 4, 3, 4, 3, 7], [4, 3], 1),  # those that came late hide no gap
        ([1, 2, 5, 6, 7, 5, 6, 7, 8], [5, 6, 7], 2),  # nor do those before the last one
        ([1, 2, 3, 2, 4, 5], [2], 0),
        ([*range(1, 100), *range(90, 200)], [*range(90, 100)], 0),  # a sender repeats its queue
    ],
)
def test_pulses_that_come_twice_are_left_out_and_hide_no_gap(ids, repeats, missing):
    gaps = PulseGaps()
    assert [number for number in ids if not gaps.take(number)] == repeats
    assert gaps.missing == missing


def test_missing_pulses_are_read_while_another_thread_begins_a_new_stretch():
    gaps = PulseGaps()

    class Interrupted(Stretch):
        def __bool__(self):
            gaps.interrupt()  # the other thread
            return True

    gaps._now = Interrupted(1, 6, 1, 4)
    assert gaps.missing == 2
    assert gaps.missing == 2


def test_gaps_by_the_step_that_the_sender_declares():
    gaps = PulseGaps()
    for number in (0, 4, 12):
        gaps.take(number, modulo=4)
    assert gaps.missing == 1
    for number in (14, 16, 20):
        gaps.take(number, modulo=2)
    assert gaps.missing == 2


@pytest.mark.parametrize("between", [4, None])
def test_messages_between_those_of_the_declared_step_may_be_lost_too(between):
    """A slow camera in a faster stream; in between its channel is empty, or not there."""
    gaps = PulseGaps()
    came = [number for number in range(4000) if number % 50 not in (7, 8, 16)]
    for number in came:
        gaps.take(number, modulo=between if number % 4 else 4)
    assert gaps.missing == 4000 - len(came) == 240


def test_another_declared_step_is_used_at_once():
    gaps = PulseGaps()
    for number in (2, 4, 6):
        gaps.take(number, modulo=2)
    for number in (8, 12, 16, 20):
        gaps.take(number, modulo=4)
    assert gaps.missing == 0


def test_a_declared_step_of_one_does_not_hide_the_rate_of_the_machine():
    gaps = PulseGaps()
    for number in range(0, 400, 4):
        gaps.take(number, modulo=1)
    assert gaps.missing == 0


def test_a_machine_that_changes_its_rate_loses_nothing():
    gaps = PulseGaps()
    ids = [*range(0, 500), 502, *range(503, 1000), *range(1001, 3000, 2), *range(3001, 5000, 2)]
    for number in ids:
        gaps.take(number)
    assert gaps.missing == 2  # 500 and 501
    for number in [5003, *range(5004, 5100)]:
        gaps.take(number)
    assert gaps.missing == 3  # and 5001


def test_a_machine_that_changes_its_rate_may_lose_pulses_too():
    rng = np.random.default_rng(1)
    ids = np.array([*range(1000), *range(1000, 9000, 4)])
    came = np.r_[True, rng.random(len(ids) - 2) > 0.02, True]
    gaps = PulseGaps()
    for number in ids[came]:
        gaps.take(int(number))
    assert gaps.missing == (~came).sum()


def test_losses_that_are_not_a_rate_stay_counted():
    gaps, rng = PulseGaps(), np.random.default_rng(1)
    gaps.take(0)
    ids = np.flatnonzero(rng.random(5000) < 0.5)
    for number in [*ids[ids > 0], 5000]:
        gaps.take(int(number))
    assert gaps.missing == 5001 - 1 - (ids > 0).sum() - 1
    gaps = PulseGaps()
    for number in np.cumsum([0, 1, *[2, 3] * 200]):  # no step between them holds
        gaps.take(int(number))
    assert gaps.missing == 200 * (1 + 2)


def test_a_jump_of_the_clock_does_not_refute_the_declared_step():
    gaps = PulseGaps()
    for number in (0, 10**15 + 1, 10**15 + 9):
        gaps.take(number, modulo=4)
    assert gaps.missing == 1


def test_what_came_undecodable_is_not_missing_too():
    gaps = PulseGaps()
    gaps.take(1)
    gaps.take(2)
    gaps.undecodable()
    assert gaps.take(5)
    assert gaps.missing == 1
    assert not gaps.take(5)
    gaps.undecodable()  # rubbish beside the pulses takes none of them
    gaps.take(6)
    assert gaps.missing == 1


def test_what_came_undecodable_before_the_first_pulse_hides_no_gap_after_it():
    gaps = PulseGaps(1)
    for first in (5, 105):
        gaps.undecodable()
        for number in (first, first + 2):
            gaps.take(number)
        gaps.interrupt()  # what passes from here on was not asked for
    assert gaps.missing == 2
    gaps.undecodable()
    for number in (10**15, 10**15 + 2):  # another clock
        gaps.take(number)
    assert gaps.missing == 3


def test_what_came_undecodable_while_the_rate_fell_is_not_missing_too():
    gaps = PulseGaps()
    for number in [*range(500), *range(502, 700, 2), *range(702, 1500, 2)]:
        if number == 702:
            gaps.undecodable()  # as pulse 700
        gaps.take(number)
    assert gaps.missing == 2  # 500 and 501


# Files


IMAGES = np.arange(4 * 6 * 5, dtype="u2").reshape(4, 6, 5)


def write(path, images=IMAGES, dataset="data/image", **beside):
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=images, chunks=(1, *images.shape[1:]))
        for name, values in beside.items():
            file[dataset].parent[name] = values
    return path


def test_replay_plays_pictures_with_their_ids_and_times(tmp_path):
    path = write(tmp_path / "a.h5", pulse_id=[3, 5, 9, 11], time_ns=[10, 20, 30, 40])
    source = ReplaySource(path, rate_hz=0)
    assert source.next(0.0) is None
    source.open()
    pulses = take(source, 4)
    assert [(pulse.pulse_id, pulse.time_ns) for pulse in pulses] == [
        (3, 10), (5, 20), (9, 30), (11, 40),
    ]  # fmt: skip
    assert (np.array([pulse.image for pulse in pulses]) == IMAGES).all()
    assert not pulses[0].image.flags.writeable
    source.halt()


@pytest.mark.parametrize("compact", [True, False])
def test_replay_plays_files_of_bs_h5(compact, tmp_path):
    ids, path = [10_000_000_001, 10_000_000_003, 10_000_000_005, 10_000_000_007], tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["pulse_id"] = ids
        file["data/CAM:FPICTURE" if compact else "CAM:FPICTURE/data"] = IMAGES
        if not compact:
            file["CAM:FPICTURE/pulse_id"] = ids
            file["CAM:FPICTURE/timestamp"] = np.full(4, 1_700_000_000)
            file["CAM:FPICTURE/timestamp_offset"] = np.arange(4) * 20_000_000
    source = ReplaySource(path, rate_hz=0)
    source.open()
    pulses = take(source, 4)
    source.halt()
    assert [pulse.pulse_id for pulse in pulses] == ids
    begin = 1_700_000_000_000_000_000
    times = [None] * 4 if compact else [begin + number * 20_000_000 for number in range(4)]
    assert [pulse.time_ns for pulse in pulses] == times


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("flags", [None, [0, 1, 0, 1]])
def test_replay_leaves_out_pulses_that_were_recorded_without_a_picture(flags, shape, tmp_path):
    """Writers of bsread's data have zeros in place of a missing picture, its id and its time."""
    path, channel = tmp_path / "a.h5", "data/CAM:FPICTURE"
    with h5py.File(path, "w") as file:
        file[f"{channel}/data"] = IMAGES
        beside = {
            f"{channel}/pulse_id": [0, 12, 0, 14],
            f"{channel}/timestamp": [0, 1_700_000_001, 0, 1_700_000_002],
        }
        if flags is None:  # of `bs h5`
            beside["pulse_id"] = [11, 12, 13, 14]
        else:
            beside[f"{channel}/is_data_present"] = flags
        for name, values in beside.items():
            file[name] = np.reshape(values, shape)
    source = ReplaySource(path, rate_hz=0)
    source.open()
    pulses = take(source, 3)
    source.halt()
    assert [pulse.pulse_id for pulse in pulses] == [12, 14, 16]
    assert [pulse.time_ns for pulse in pulses[:2]] == [1_700_000_001 * 10**9, 1_700_000_002 * 10**9]
    assert [pulse.image.tolist() for pulse in pulses[:2]] == [
        IMAGES[1].tolist(),
        IMAGES[3].tolist(),
    ]


def test_replay_leaves_out_the_zeros_of_bs_h5_compact(tmp_path):
    """The writer fills up missing pictures with zeros, and its compact files do not say which."""
    path, images = tmp_path / "a.h5", IMAGES + np.uint16(1)
    images[[0, 2]] = 0
    with h5py.File(path, "w") as file:
        file["pulse_id"] = [11, 12, 13, 14]
        file["data/CAM:FPICTURE"] = images
    source = ReplaySource(path, rate_hz=0)
    source.open()
    pulses = [pulse for pulse in take(source, 6) if pulse is not None]
    source.halt()
    assert [pulse.pulse_id for pulse in pulses] == [12, 14, 16]
    assert (np.array([pulse.image for pulse in pulses]) == images[[1, 3, 1]]).all()
    with h5py.File(path, "r+") as file:
        file["data/CAM:FPICTURE"][:] = 0
    source.open()
    with pytest.raises(StopIteration, match="all pictures are missing"):
        take(source, 5)
    source.halt()


def test_replay_takes_large_integer_times_for_ns(tmp_path):
    times = [0, 10 * 10**9, 20 * 10**9, 30 * 10**9]
    source = ReplaySource(write(tmp_path / "a.h5", time=times), rate_hz=0)
    source.open()
    assert [pulse.time_ns for pulse in take(source, 4)] == times
    source.halt()


@pytest.mark.parametrize(("name", "begin"), [("timestamp", 1.7e18), ("time_ns", 0.0)])
def test_replay_takes_floating_point_ns_for_ns(name, begin, tmp_path):
    times = [begin, begin + 2**40, begin + 2**41, begin + 2**42]  # float64 holds these
    source = ReplaySource(write(tmp_path / "a.h5", **{name: times}), rate_hz=0)
    source.open()
    assert [pulse.time_ns for pulse in take(source, 4)] == times
    source.halt()


def test_replay_plays_our_recordings(tmp_path):
    images = [
        Image(
            10_000_000_001 + 2 * number,
            1_700_000_000_123_456_789 + 20_000_000 * number,
            IMAGES[number],
            {PICTURE_SETTINGS: 0},
        )
        for number in range(4)
    ]
    layout = PictureLayout()
    file = layout.open(tmp_path / "a.h5", images, must_create=True)
    for image in images:
        layout.append(file, [image])
    file.close()
    source = ReplaySource(tmp_path / "a.h5", rate_hz=0)
    source.open()
    pulses = take(source, 4)
    source.halt()
    for pulse, image in zip(pulses, images, strict=True):
        assert (pulse.pulse_id, pulse.time_ns) == (image.identity, image.time_ns)


def test_replay_rounds_seconds_to_ns(tmp_path):
    path = write(tmp_path / "a.h5", time=[0.0, 0.512274426, 1.0, 2.0])
    source = ReplaySource(path, rate_hz=0)
    source.open()
    assert [pulse.time_ns for pulse in take(source, 2)] == [0, 512_274_426]
    source.halt()


@pytest.mark.parametrize("length", [1, 8])
def test_replay_takes_no_times_that_are_not_those_of_the_pictures(length, tmp_path):
    path = write(tmp_path / "a.h5", time_ns=np.arange(length))
    with h5py.File(path, "a") as file:
        file[EPICS_SECONDS] = [0, 1, 2, 3]  # of the first picture it is not known
        file[EPICS_NANOSECONDS] = [0, 0, 0, 0]
    source = ReplaySource(path, rate_hz=0)
    source.open()
    assert [pulse.time_ns for pulse in take(source, 4)] == [None] * 4
    source.halt()


def test_pictures_that_nobody_took_are_left_out_and_counted(monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = write(tmp_path / "a.h5", pulse_id=[3, 5, 9, 11])
    source = ReplaySource(path, rate_hz=1.0)
    source.open()
    assert source.next(0.0).pulse_id == 3
    now[0] += 6.5  # the pictures 1 to 5 are not taken in time
    assert source.next(0.0).pulse_id == 10 + 9
    assert source.lost == {"late": 5}
    source.halt()
    source.open()
    assert source.next(0.0).pulse_id == 10 + 11
    assert source.lost == {"late": 5}
    source.halt()


def test_replay_begins_again_with_ids_that_grow(tmp_path):
    path = write(tmp_path / "a.h5", pulse_id=[3, 5, 9, 11], timestamp=[0.5, 1.5, 2.5, 3.5])
    source = ReplaySource(path, rate_hz=0)
    source.open()
    pulses = take(source, 6)
    source.halt()
    assert [pulse.pulse_id for pulse in pulses] == [3, 5, 9, 11, 13, 15]
    assert [pulse.time_ns for pulse in pulses[:2]] == [500_000_000, 1_500_000_000]
    assert pulses[4].time_ns is None  # nothing was taken at that time


def test_replay_goes_on_after_a_stop(tmp_path):
    path = write(tmp_path / "a.h5", pulse_id=[3, 5, 9, 11])
    source = ReplaySource(path, rate_hz=0)
    played = []
    for _ in range(3):
        source.open()
        played += take(source, 2)
        source.halt()
    assert [pulse.pulse_id for pulse in played] == [3, 5, 9, 11, 13, 15]


def test_a_picture_that_is_due_when_the_source_is_stopped_comes_after_the_next_start(
    monkeypatch, tmp_path
):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    source = ReplaySource(write(tmp_path / "a.h5", pulse_id=[3, 5, 9, 11]), rate_hz=1.0)
    source.open()
    assert source.next(0.0).pulse_id == 3
    now[0] += 6.5  # the pictures 1 to 5 are not taken in time
    with monkeypatch.context() as patch:
        wait = source._pacer.wait

        def wait_until_stopped(timeout_s):
            skipped = wait(timeout_s)
            source.halt()  # the other thread
            return skipped

        patch.setattr(source._pacer, "wait", wait_until_stopped)
        assert source.next(0.0) is None
    source.open()
    assert source.next(0.0).pulse_id == 10 + 9
    assert source.lost == {"late": 5}
    source.halt()


def test_replay_reads_detector_files_written_with_bitshuffle(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("stack", data=IMAGES, chunks=(1, 6, 5), **hdf5plugin.Bitshuffle())
    source = ReplaySource(path, rate_hz=0)
    source.open()
    assert (np.array([pulse.image for pulse in take(source, 4)]) == IMAGES).all()
    source.halt()


def test_a_frame_of_the_wire_can_be_written_to_a_file_and_replayed(tmp_path):
    from support.bsread_message import encode

    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "image", (2, 60, 50), "u2", chunks=(1, 60, 50), **hdf5plugin.Bitshuffle()
        )
        image = np.random.default_rng(1).integers(0, 900, (60, 50)).astype("u2")
        frames = encode(1, 1, {"A": image}, compression="bitshuffle_lz4")
        for index in range(2):
            data.id.write_direct_chunk((index, 0, 0), bytes(frames[2]))
    source = ReplaySource(path, rate_hz=0)
    source.open()
    assert (source.next(LIMIT_S).image == image).all()
    source.halt()


def test_a_picture_that_cannot_be_read_is_reported_and_ends_nothing(tmp_path, caplog):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", data=IMAGES, chunks=(1, 6, 5), compression="gzip")
        data.id.write_direct_chunk((1, 0, 0), b"rubbish")
    source = ReplaySource(path, rate_hz=0)
    source.open()
    pulses = take(source, 4)
    assert [pulse.image is None for pulse in pulses] == [False, True, False, False]
    assert source.lost == {}  # no pulse is lost
    assert "picture 1 cannot be read" in caplog.text
    source.halt()


def test_replay_says_what_is_missing(tmp_path):
    path = tmp_path / "none.h5"
    with pytest.raises(ConfigError, match=r"none\.h5"):
        ReplaySource(path).open()
    write(path)
    with pytest.raises(ConfigError, match="/nowhere"):
        ReplaySource(path, "/nowhere").open()
    with pytest.raises(ConfigError, match="do not grow"):
        ReplaySource(write(path, pulse_id=[4, 3, 2, 1])).open()
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = IMAGES.astype(bool), IMAGES.astype(np.float16)
    with pytest.raises(ConfigError, match="0 datasets"):
        ReplaySource(path).open()
    with pytest.raises(ConfigError, match="N > 0, of integers, float32 or float64"):
        ReplaySource(path, "/b").open()
    with pytest.raises(ConfigError, match="rate"):
        ReplaySource(path, rate_hz=-1.0)
    with h5py.File(path, "w") as file:
        file["a"] = file["b"] = IMAGES
    with pytest.raises(ConfigError, match=r"/a.*/b"):
        ReplaySource(path).open()
    named = ReplaySource(path, "/b")
    named.open()
    named.halt()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["flat"] = np.zeros(3)
    with pytest.raises(ConfigError, match="0 datasets"):
        ReplaySource(tmp_path / "other.h5").open()
    with pytest.raises(ConfigError, match=r"none\.h5: no HDF5 file to replay \(invalid literal"):
        ReplaySource(write(path, pulse_id=[b"a", b"b", b"c", b"d"])).open()
    path.write_bytes(path.read_bytes().replace(b"HEAP", b"XXXX"))
    with pytest.raises(ConfigError, match=r"none\.h5: no HDF5 file to replay"):
        ReplaySource(path).open()
