import json
from dataclasses import replace

import numpy as np
import pytest

from skywright.instruments.panoseti.clock import NS, TAI_MINUS_UTC_S, Flag, in_step
from skywright.instruments.panoseti.flashes import EventTable, find_flashes
from skywright.instruments.panoseti.frames import QUADRANTS
from skywright.instruments.panoseti.packets import (
    frames_of_packets,
    make_packets,
    packet_dtype,
    packet_groups,
)
from skywright.instruments.panoseti.pff import read_pff
from skywright.instruments.panoseti.pff_writer import PffWriter
from skywright.instruments.panoseti.products import PRODUCTS
from skywright.instruments.panoseti.twin.housekeeping import board_objects
from skywright.instruments.panoseti.twin.sky import (
    FREE_NS,
    FULL_SCALE_ADC,
    UNLOCKED_NS,
    ArraySettings,
    Flash,
    TelescopeArray,
)

START = 1_721_882_092 * NS


@pytest.fixture
def real_run(test_data):
    def path_of(product, module=1):
        pattern = f"panoseti/data_dir/module_{module}/*/*dp_{product}.*seqno_0.pff"
        return next(test_data.glob(pattern))

    return path_of


def table_of(frames_by_module):
    parts = list(frames_by_module.values())
    return EventTable(
        time_ns=np.concatenate([each.time_ns for each in parts]),
        module=np.concatenate([np.full(len(each), each.module) for each in parts]),
        largest=np.concatenate([each.image.max(axis=(1, 2)).astype(int) for each in parts]),
    )


def written_and_read(frames_by_module, directory):
    read = {}
    for module, frames in frames_by_module.items():
        writer = PffWriter(directory, frames.product, module, START)
        writer.append(frames.numbers, frames.image, frames.quabo)
        writer.close()
        read[module] = read_pff(writer.path)
        np.testing.assert_array_equal(read[module].image, frames.image)
        np.testing.assert_array_equal(read[module].time_ns, frames.time_ns)
    return read


def test_a_packet_has_the_bytes_of_the_boards():
    packet = make_packets(
        PRODUCTS["img16"], 254, np.array([1]), np.array([START + 7]), np.array([65537]),
        np.arange(256, dtype="<u2").reshape(1, 16, 16),
    )  # fmt: skip
    raw = packet.tobytes()
    assert len(raw) == packet_dtype(PRODUCTS["img16"]).itemsize == 16 + 512
    assert raw[:6] == bytes((2, 0, 1, 0)) + (254 * 4 + 1).to_bytes(2, "little")
    assert int.from_bytes(raw[6:10], "little") == (1_721_882_092 + 37) % 1024
    assert int.from_bytes(raw[10:14], "little") == 7
    assert int.from_bytes(raw[16:18], "little") == 15  # turned counter-clockwise: upper right first


@pytest.mark.parametrize(("product", "tolerance"), [("ph1024", 50), ("img16", 100)])
def test_packets_of_one_moment_make_a_frame(product, tolerance):
    kind = PRODUCTS[product]
    board = np.array([2, 0, 1, 3, 3, 1, 1])
    after = np.array([0, 4, -tolerance, tolerance, tolerance, 2 * tolerance, 2 * tolerance + 1])
    times, images = START + after, np.arange(7 * 256, dtype=kind.dtype).reshape(7, 16, 16)
    packets = make_packets(kind, 3, board, times, np.arange(7), images)
    # A board that is there already begins a frame, and so does a time beyond the tolerance.
    assert packet_groups(kind, packets).tolist() == [0, 0, 0, 0, 1, 1, 2]
    frames = frames_of_packets(kind, packets, times + 300_000)
    assert frames.present.tolist() == [
        *([True] * 4, [False, True, False, True], [False, True, False, False])
    ]
    for group, row in ((0, 0), (0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (2, 6)):
        placed = frames.image[group][QUADRANTS[board[row]]]
        np.testing.assert_array_equal(placed, images[row])
    assert frames.time_ns.tolist() == [START + 4, START + 2 * tolerance, START + 2 * tolerance + 1]


def test_packets_of_one_moment_make_a_frame_when_their_seconds_turn_over():
    turn = (1024 * 1_681_526 - TAI_MINUS_UTC_S) * NS
    images = np.zeros((4, 16, 16), np.uint16)
    packets = make_packets(
        PRODUCTS["img16"], 3, np.arange(4), turn + np.array([-8, -1, 0, 9]), np.arange(4), images
    )
    assert packets["pkt_tai"].tolist() == [1023, 1023, 0, 0]
    assert packet_groups(PRODUCTS["img16"], packets).tolist() == [0, 0, 0, 0]


def test_nanoseconds_that_run_on_are_written_as_newer_software_does():
    kind = PRODUCTS["ph256"]
    one = np.zeros(1, np.int64)
    packets = make_packets(kind, 3, one, one + START, one, np.zeros((1, 16, 16), kind.dtype))
    packets["pkt_nsec"] = 1_500_000_000
    packets["pkt_tai"] += 1024  # ten bits are used
    frames = frames_of_packets(kind, packets, one + START + 300_000)
    assert frames.numbers[0, 0].tolist() == [0, 1_721_882_129 % 1024, 999_999_999, START // NS, 300]
    assert frames.flags[0] == Flag.UNLOCKED


@pytest.mark.parametrize("product", ["ph256", "ph1024"])
def test_injected_flashes_are_found_in_written_files(product, tmp_path):
    array = TelescopeArray(seed=1)
    flashes = array.random_flashes(100, START, 60.0, (10.0, 50.0))
    read = written_and_read(array.pulse_heights(product, START, 60.0, flashes), tmp_path)
    noise = array.settings.noise_adc
    found = find_flashes(table_of(read), 6.0 * noise)
    truth = np.array([flash.time_ns for flash in flashes])
    gap = np.abs(truth[:, np.newaxis] - found.time_ns).min(axis=1)
    assert (gap > 200).sum() <= 3
    false = np.abs(found.time_ns[:, np.newaxis] - truth).min(axis=1) > 200
    assert false.sum() <= 3 + 2 * found.expected


def test_movie_frames_have_the_sky_and_masked_boards(tmp_path):
    array = TelescopeArray(ArraySettings(packet_loss=0.02), seed=2)
    read = written_and_read({254: array.movie("img16", 254, START, 1_000_000, 500)}, tmp_path)[254]
    assert (read.flags & Flag.MISSING_QUABO).any()
    mean = read.masked().mean(axis=0)
    expected = array.sky_hz[3] * 1e-3
    np.testing.assert_allclose(mean, expected, atol=6 * np.sqrt(expected.max() / 400), rtol=0.1)
    assert set(np.diff(read.time_ns)) <= {1_000_000, 2_000_000}


def test_the_pixels_of_boards_have_pedestals_as_those_of_real_runs(real_run):
    array = TelescopeArray(ArraySettings(dark_rate_hz=60), seed=1)
    frames = array.pulse_heights("ph256", START, 20.0, [])[250]
    real = read_pff(real_run("ph256"))
    spreads = []
    for run in (frames, real):
        levels = [np.median(run.image[run.quabo == board], axis=0) for board in (0, 1)]
        spreads.append([level.std() for level in levels])
    assert np.mean(spreads[0]) == pytest.approx(np.mean(spreads[1]), rel=0.3)
    for board in range(4):
        found = np.median(frames.image[frames.quabo == board], axis=0)
        # 1200 frames: 15 ADC / sqrt(1200), times 1.25 for a median, times 5.
        np.testing.assert_allclose(found, array.pedestal[0][QUADRANTS[board]], atol=2.8)


def test_light_of_a_flash_follows_poisson_and_the_converter_has_an_end():
    array = TelescopeArray(ArraySettings(modules=(250,), dark_rate_hz=0.0), seed=2)
    settings, seconds = array.settings, 400
    for sigma in (30.0, 400.0):
        flashes = [Flash(START + n * NS, 5.0, 7.0, sigma, 0.0) for n in range(seconds)]
        frames = array.pulse_heights("ph256", START, seconds, flashes)[250]
        pulses = frames.image[frames.quabo == 0, 5, 7].astype(float)
        if sigma > 100:
            assert set(pulses) == {FULL_SCALE_ADC}
            continue
        gain = settings.adc_per_pe * array.gain[0, 5, 7]
        electrons = sigma * settings.noise_adc / settings.adc_per_pe
        assert pulses.mean() - array.pedestal[0, 5, 7] == pytest.approx(electrons * gain, rel=0.05)
        variance = electrons * gain**2 + (settings.noise_adc * array.gain[0, 5, 7]) ** 2
        # The variance of 400 pulses is known to sqrt(2 / 400) = 7 %; four of these.
        assert pulses.var() == pytest.approx(variance, rel=0.28)


def test_packets_of_boards_come_in_the_order_of_arrival(real_run):
    array = TelescopeArray(ArraySettings(modules=(250,)), seed=3)
    flashes = [Flash(START + n * 10**8 + 7_000_000, 15.5, 15.5, 50.0, 2.0) for n in range(1000)]
    frames = array.pulse_heights("ph256", START, 100.0, flashes)[250]
    real = read_pff(real_run("ph256"))
    for run, least in ((frames, 500), (real, 1)):
        steps = np.diff(run.time_ns)
        assert (steps < 0).sum() >= least
        assert steps.min() > -1000  # only boards of one event change places
        arrival = run.numbers[:, 0, 3] * NS + run.numbers[:, 0, 4] * 1000
        assert np.diff(arrival).min() >= 0
        late = arrival - run.time_ns
        assert 290_000 < late.min() < np.median(late) < 400_000
        assert late.std() > 10_000


def test_a_clock_out_of_step_runs_as_those_of_a_real_run(real_run):
    array = TelescopeArray(ArraySettings(modules=(250,), unlocked=(250,)), seed=3)
    frames = array.pulse_heights("ph256", START, 100.0, [])[250]
    real = read_pff(real_run("ph256", module=254))
    shares = []
    for run in (frames, real):
        numbers = run.numbers[:, 0]
        assert set((numbers[:, 3] - numbers[:, 1] + 37) % 1024) == {60, 61}
        shares.append((numbers[:, 2] == NS - 1).mean())
        assert not in_step(numbers).any()
    assert shares[1] == pytest.approx(1 - NS / FREE_NS, abs=0.1)
    assert shares[0] == pytest.approx(1 - NS / FREE_NS, abs=0.04)
    assert UNLOCKED_NS // NS == 60
    # Read by the computer's time, a nanosecond counter has one phase for the whole run.
    numbers = frames.numbers[frames.numbers[:, 0, 2] < NS - 1, 0]
    arrival = numbers[:, 3] * NS + numbers[:, 4] * 1000
    phase = (arrival + arrival // 43_478 - numbers[:, 2]) % FREE_NS
    assert np.ptp(phase) < 1_000_000


def test_housekeeping_has_the_values_of_real_boards(test_data):
    first, *_ = (test_data / "panoseti" / "hk_sample.pff").read_text().split("\n\n")
    ((_, real),) = json.loads(first).items()
    settings = ArraySettings(modules=(250,))
    found = board_objects(settings, START / NS, np.random.default_rng(1))
    assert list(found) == [f"QUABO_{4 * 250 + board}" for board in range(4)]
    for board in found.values():
        assert list(board) == list(real)
        assert all(isinstance(value, str) for value in board.values())
        assert float(board["TEMP1"]) % 0.25 == 0
    dark = board_objects(replace(settings, shutter_open=False), 0.0, np.random.default_rng(1))
    for key, board in found.items():
        assert abs(float(board["DETR2_CURR"])) > 20 * abs(float(dark[key]["DETR2_CURR"]))
