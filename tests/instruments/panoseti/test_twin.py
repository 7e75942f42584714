import numpy as np
import pytest

from skywright.instruments.panoseti.clock import NS, Flag
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
from skywright.instruments.panoseti.twin.sky import ArraySettings, TelescopeArray

START = 1_721_882_092 * NS


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
