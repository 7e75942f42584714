import numpy as np
import pytest

from skywright.instruments.panoseti.clock import NS, Flag
from skywright.instruments.panoseti.flashes import EventTable, find_flashes
from skywright.instruments.panoseti.packets import make_packets, packet_dtype
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
