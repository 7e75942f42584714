"""Analyses of pulse heights, movies and flashes against the twin's truth and plain numpy."""

from functools import reduce

import numpy as np
import pytest
from support.pano_files import made_frames, numbers_at

from skywright.analysis import Batch
from skywright.analysis.named import make_analysis
from skywright.errors import ConfigError
from skywright.instruments.panoseti.clock import NS, NSEC, NUM, TAI, Flag
from skywright.instruments.panoseti.event_columns import GROUP
from skywright.instruments.panoseti.event_table import EventsLayout
from skywright.instruments.panoseti.flash_analysis import KEPT, FlashCandidates
from skywright.instruments.panoseti.frames import QUADRANTS, make_frames
from skywright.instruments.panoseti.gain_analysis import PixelGain
from skywright.instruments.panoseti.gaps import packets_of
from skywright.instruments.panoseti.pixel_analysis import (
    CLOCK_BLOCKS,
    Clocks,
    GroupedPulseHeights,
    MovieStatistics,
    PulseHeights,
    sample_clocks,
)
from skywright.instruments.panoseti.products import PRODUCTS
from skywright.instruments.panoseti.rundir import Telescope
from skywright.instruments.panoseti.sources.rundir import FrameGroup
from skywright.instruments.panoseti.telescopes import telescopes_text
from skywright.instruments.panoseti.twin.sky import ArraySettings, TelescopeArray

START = 1_721_882_092 * NS


def batch_of(frames, product):
    data = {
        f"{product}_image": frames.image,
        f"{product}_header": frames.numbers,
        f"{product}_quabo": frames.quabo,
        f"{product}_time": frames.time_ns,
    }
    return Batch(np.arange(len(frames)), np.full(len(frames), np.nan), data)


def analyzed(make, batch, pieces):
    """Analyze in pieces by two workers, one block to each in turn."""
    one, two = make(), make()
    blocks = batch.identities // one.block_size
    for block in np.unique(blocks):
        members = batch.take(blocks == block)
        for piece in np.array_split(np.arange(len(members)), pieces):
            (one, two)[block % 2].update(members.take(piece))
    return one.merge(two).result()


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
    ("product", "make"), [("ph256", PulseHeights), ("ph1024", GroupedPulseHeights)]
)
def test_pedestal_noise_gain_and_losses_are_the_twins(product, make):
    array = TelescopeArray(ArraySettings(dark_rate_hz=60, packet_loss=0.01), seed=3)
    flashes = array.random_flashes(50, START, 30.0, (10.0, 50.0))
    frames = array.pulse_heights(product, START, 30.0, flashes)[250]
    batch = batch_of(frames, product)
    found = analyzed(make, batch, 3)
    assert_same(found, analyzed(make, batch, 1))
    assert found["n_pulses"] == len(frames)
    # A standard error of 15 ADC / sqrt(1800), times 1.25 for a median, times 5.
    np.testing.assert_allclose(found["pedestal"], array.pedestal[0], atol=2.5)
    assert abs((found["pedestal"] - array.pedestal[0]).mean()) < 0.2  # bins hold whole numbers
    seconds = np.ptp(frames.time_ns) / NS
    assert found["seconds"] == seconds
    packets = np.array([packets_of(k, frames.numbers, frames.quabo).shape[0] for k in range(4)])
    np.testing.assert_allclose(found["board_rates"], packets / seconds)
    assert found["rate"] == pytest.approx(frames.present.sum() / seconds)
    np.testing.assert_allclose(found["noise"] / array.gain[0], 15.0, rtol=0.12)
    assert abs((found["noise"] / array.gain[0]).mean() - 15.0) < 0.15
    assert found["n_hot"] == found["n_dead"] == 0
    sent = frames.numbers[:, :, 0].max() + 1
    assert 0.5 < found["n_lost"] / (0.01 * 4 * sent) < 1.6
    assert found["triggers"].sum() == frames.present.sum()
    assert found["spectrum"].sum() == frames.present.sum() * 256


def test_brightest_pixels_are_counted_at_their_place_and_board():
    frames = TelescopeArray(ArraySettings(packet_loss=0.0), seed=5).pulse_heights(
        "ph256", START, 5.0, []
    )[250]
    found = analyzed(PulseHeights, batch_of(frames, "ph256"), 2)
    triggers = np.zeros((32, 32), int)
    for image, board in zip(frames.image, frames.quabo, strict=True):
        triggers[QUADRANTS[board]][np.unravel_index(image.argmax(), image.shape)] += 1
    np.testing.assert_array_equal(found["triggers"], triggers)
    edges = found["spectrum_edges"]
    assert edges[[0, 1, -1]].tolist() == [-512, -508, 3584]
    for board in range(4):
        heights = frames.image[frames.quabo == board].max(axis=(1, 2))
        expected = np.histogram(heights, edges)[0]
        np.testing.assert_array_equal(found["largest_spectrum"][board], expected)


def test_noisy_and_quiet_pixels_are_hot_and_dead():
    array = TelescopeArray(ArraySettings(packet_loss=0.0), seed=6)
    frames = array.pulse_heights("ph256", START, 10.0, [])[250]
    rng = np.random.default_rng(1)
    for column, sigma in enumerate((100.0, 1.0)):  # the others have some 15 ADC
        frames.image[frames.quabo == 1, 3, column] = rng.normal(
            0.0, sigma, (frames.quabo == 1).sum()
        )
    found = analyzed(PulseHeights, batch_of(frames, "ph256"), 1)
    assert np.argwhere(found["hot"]).tolist() == [[3, 16]]
    assert np.argwhere(found["dead"]).tolist() == [[3, 17]]
    assert (found["n_hot"], found["n_dead"]) == (1, 1)
    assert found["noise_median"] == np.median(found["noise"])
    np.testing.assert_array_equal(found["relative_gain"], found["noise"] / found["noise_median"])


def test_the_gain_of_pixels_is_the_twins():
    settings = ArraySettings(modules=(250,), shutter_open=False, flasher_pe=50.0)
    array = TelescopeArray(settings, seed=4)
    frames = array.pulse_heights("ph256", START, 10.0, [])[250]
    frames.image[frames.quabo == 3, 4, 5] = 0  # a pixel without light: row 20, column 5
    batch = batch_of(frames, "ph256")
    found = analyzed(PixelGain, batch, 3)
    assert_same(found, analyzed(PixelGain, batch, 1))
    lit = np.ones((32, 32), bool)
    lit[20, 5] = False
    assert np.argwhere(np.isnan(found["gain"])).tolist() == [[20, 5]]
    assert found["n_without"] == 1
    # 2000 pulses: a standard error of sqrt(2 / 2000), five times that for one of 1023 pixels.
    ratio = (found["gain"] / (15.0 * array.gain[0]))[lit]
    np.testing.assert_allclose(ratio, 1.0, atol=5 * np.sqrt(2 / 2000))
    assert abs(ratio.mean() - 1.0) < 0.006
    for part in QUADRANTS:  # each of another pedestal
        assert abs(np.nanmean(found["gain"][part] / (15.0 * array.gain[0][part])) - 1.0) < 0.01
    # 200 dark counts of a board elsewhere: 15 ADC / sqrt(200), times 1.25 for a median, times 5.
    np.testing.assert_allclose(found["pedestal"][lit], array.pedestal[0][lit], atol=6.7)
    electrons = (found["photoelectrons"] / (50.0 * array.flat[0]))[lit]
    np.testing.assert_allclose(electrons, 1.0, atol=0.2)
    assert np.corrcoef(found["relative_gain"][lit], array.gain[0][lit])[0, 1] > 0.9
    assert found["gain_median"] == np.nanmedian(found["gain"])
    assert found["n_saturated"] == 0
    expected = (frames.quabo == 0).sum() - 200  # without the dark counts of its board
    assert found["pulses"][:16, :16] == pytest.approx(np.full((16, 16), expected), abs=60)


def test_bins_change_neither_the_light_nor_the_gain():
    """Heights of pixels with little noise lie in a few bins; a few are beyond the last one."""
    array = TelescopeArray(ArraySettings(modules=(250,), flasher_pe=50.0), seed=4)
    frames = array.pulse_heights("ph256", START, 10.0, [])[250]
    heights = np.random.default_rng(1).normal(300.0, 5.0, frames.image.shape)
    frames.image[:] = np.rint(heights)
    frames.image[:4, 0, 0] = 10_000
    found = analyzed(lambda: PixelGain(noise_adc=3.0), batch_of(frames, "ph256"), 1)
    lit = np.ones((32, 32), bool)
    lit[::16, ::16] = False
    mean, variance = heights.mean(), heights.var()
    assert found["light"][lit].mean() == pytest.approx(mean, abs=0.05)
    assert found["gain"][lit].mean() == pytest.approx((variance - 9.0) / mean, rel=0.01)
    np.testing.assert_allclose(found["light"][~lit], mean, atol=1.0)


def test_pixels_whose_pulses_are_cut_by_the_converter_have_no_gain():
    settings = ArraySettings(modules=(250,), shutter_open=False, flasher_pe=200.0)
    array = TelescopeArray(settings, seed=4)
    frames = array.pulse_heights("ph256", START, 10.0, [])[250]
    found = analyzed(PixelGain, batch_of(frames, "ph256"), 2)
    ratio = found["gain"] / (15.0 * array.gain[0])
    cut = 200.0 * array.flat[0] * 15.0 * array.gain[0] > 3275
    assert np.isnan(ratio[cut]).all()
    assert found["n_saturated"] == np.isnan(ratio).sum() > 500
    # Five standard errors of 2000 pulses for the pixels that are left.
    np.testing.assert_allclose(ratio[~np.isnan(ratio)], 1.0, atol=5 * np.sqrt(2 / 2000))


@pytest.mark.parametrize("end_adc", [3275, 3276, 3277, 3278])
def test_the_end_of_the_converter_may_be_anywhere_in_a_bin(end_adc):
    array = TelescopeArray(ArraySettings(modules=(250,), flasher_pe=50.0), seed=4)
    frames = array.pulse_heights("ph256", START, 1.0, [])[250]
    heights = np.random.default_rng(1).normal(3400.0, 100.0, frames.image.shape)
    frames.image[:] = np.minimum(np.rint(heights), end_adc)
    batch = batch_of(frames, "ph256")
    found = analyzed(lambda: PixelGain(full_scale_adc=end_adc), batch, 1)
    assert found["n_saturated"] == found["n_without"] == 1024


def test_a_run_without_light_has_no_gain():
    frames = TelescopeArray(seed=1).pulse_heights("ph256", START, 20.0, [])[250]
    found = analyzed(PixelGain, batch_of(frames, "ph256"), 1)
    assert np.isnan(found["gain"]).sum() == found["n_without"] > 900
    with pytest.raises(ConfigError, match="noise_adc -1"):
        PixelGain(noise_adc=-1)
    with pytest.raises(ConfigError, match="full_scale_adc 0"):
        PixelGain(full_scale_adc=0)


def test_lost_packets_are_exact_over_blocks_and_wraps():
    frames = TelescopeArray(ArraySettings(packet_loss=0.0), seed=5).movie(
        "img16", 250, START, 1_000_000, 3000
    )
    frames.numbers[:, :, 0] = (frames.numbers[:, :, 0] + 65000) % 65536
    kept = np.ones(3000, bool)
    kept[[10, 11, 536, 1023, 1024, 2500]] = False
    found = analyzed(MovieStatistics, batch_of(frames[np.flatnonzero(kept)], "img16"), 2)
    np.testing.assert_array_equal(found["board_lost"], [6, 6, 6, 6])


@pytest.mark.parametrize("product", ["img16", "ph256"])
def test_the_offset_of_a_board_without_lock_is_estimated_over_the_run(product):
    array = TelescopeArray(ArraySettings(packet_loss=0.0), seed=5)
    if product == "img16":
        frames, make = array.movie("img16", 250, START, 1_000_000, 3000), MovieStatistics
        free = frames.numbers[:, 2]
    else:
        frames, make = array.pulse_heights("ph256", START, 40.0, [])[250], PulseHeights
        free = frames.numbers[frames.quabo == 2, 0]
    ahead = free[:, TAI] * NS + free[:, NSEC] + 60 * NS + 250_000_000
    free[:, TAI], free[:, NSEC] = ahead // NS % 1024, ahead % NS
    if product == "img16":
        frames.numbers[:, 2] = free
        frames.numbers[2990:, 3] = 0
    else:
        frames.numbers[frames.quabo == 2, 0] = free
    batch = batch_of(frames, product)
    found = analyzed(make, batch, 3)
    assert_same(found, analyzed(make, batch, 1))
    assert found["n_unlocked"] == len(free)
    assert found["clock_locked"].tolist() == [1, 1, 0, 1]
    offset = found["clock_seconds"] * NS + found["clock_offset_ns"]
    expected = np.array([0, 0, 1024 * NS - 60 * NS - 250_000_000, 0])
    # The network delays the packets by some 0.3 ms.
    assert np.all((offset - expected > 0) & (offset - expected < 1_000_000))


def test_the_packets_that_tell_offsets_are_spread_over_a_long_run():
    numbers = numbers_at(PRODUCTS["img16"], START + 1_000_000 * np.arange(10))
    clocks = []
    for block in range(5 * CLOCK_BLOCKS):
        of_block = numbers.copy()
        of_block[:, 1, TAI] += 7 * (block < CLOCK_BLOCKS)  # in step after a fifth of the run
        of_block[:, :, NUM] = block
        clocks.append(sample_clocks(of_block, np.zeros(10, int)))
    whole = reduce(Clocks.with_next, clocks)
    assert CLOCK_BLOCKS / 2 < len(whole.sample) <= CLOCK_BLOCKS
    steps = np.diff(whole.sample[:, 0, 0, NUM])
    assert set(steps.tolist()) == {whole.stride}
    absent = sample_clocks(numbers * (np.arange(4) > 0)[:, np.newaxis], np.zeros(10, int))
    found = absent.results(np.array([0, 10, 10, 10]))
    for name in ("clock_locked", "clock_seconds", "clock_offset_ns"):
        assert np.isnan(found[name]).tolist() == [True, False, False, False]
    found = whole.results(np.full(4, 10 * 5 * CLOCK_BLOCKS))
    assert found["clock_seconds"].tolist() == [0, 0, 0, 0]
    assert found["clock_locked"].tolist() == [1, 0.8, 1, 1]


def test_movie_statistics_are_numpys_and_find_hot_and_dead_pixels():
    array = TelescopeArray(ArraySettings(packet_loss=0.02, stars=0), seed=2)
    frames = array.movie("img16", 254, START, 1_000_000, 2500)
    frames.image[:, 5, 6] = 60_000
    frames.image[:, 20, 9] = 0
    batch = batch_of(frames, "img16")
    found = analyzed(MovieStatistics, batch, 2)
    masked = frames.masked()
    np.testing.assert_allclose(found["mean_image"], masked.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        found["variance"], masked.astype(float).var(axis=0, ddof=1), rtol=1e-6, atol=1e-3
    )
    one = analyzed(MovieStatistics, batch_of(frames[:1], "img16"), 1)
    assert np.isnan(one["variance"]).all()
    assert np.argwhere(found["hot"]).tolist() == [[5, 6]]
    assert np.argwhere(found["dead"]).tolist() == [[20, 9]]
    assert (found["n_hot"], found["n_dead"]) == (1, 1)
    assert found["frame_rate"] == pytest.approx(1000.0)
    assert found["mean_count"] == pytest.approx(found["mean_image"].mean())
    strict = analyzed(lambda: MovieStatistics(hot=1e4), batch, 1)
    assert strict["n_hot"] == 0
    with pytest.raises(ConfigError, match="hot 1: expected above 1"):
        MovieStatistics(hot=1)


@pytest.mark.parametrize("make", [GroupedPulseHeights, MovieStatistics])
def test_the_figures_of_a_frame_are_of_the_boards_that_are_there(make):
    frames = made_frames(make.product.name, 4)
    if make is GroupedPulseHeights:
        frames.image[:] = -np.abs(frames.image // 2) - 1
    frames.numbers[1, 2] = frames.numbers[2, 1:] = 0
    for row, board in ((1, 2), (2, 1), (2, 2), (2, 3)):
        frames.image[row][QUADRANTS[board]] = 0
    found, masked = make().update(batch_of(frames, make.product.name)), frames.masked()
    np.testing.assert_allclose(found["mean"], masked.astype(float).mean(axis=(1, 2)))
    if make is GroupedPulseHeights:
        assert found["largest"].tolist() == masked.max(axis=(1, 2)).tolist()


def test_a_frame_without_any_packet_has_no_time():
    frames = made_frames("ph1024", 12)
    frames.numbers[5] = 0
    frames = make_frames(
        frames.product, 1, "", frames.number, frames.offset, frames.quabo, frames.numbers,
        frames.image,
    )  # fmt: skip
    found = analyzed(GroupedPulseHeights, batch_of(frames, "ph1024"), 1)
    assert found["seconds"] == pytest.approx(0.011)
    assert found["n_pulses"] == 12
    assert found["rate"] == pytest.approx(11 * 4 / 0.011)


def test_a_board_that_is_missing_has_no_pedestal():
    frames = TelescopeArray(seed=1).pulse_heights("ph256", START, 20.0, [])[250]
    frames = frames[np.flatnonzero(frames.quabo != 2)]
    found = analyzed(PulseHeights, batch_of(frames, "ph256"), 1)
    assert np.isnan(found["pedestal"][QUADRANTS[2]]).all()
    assert np.isfinite(found["pedestal"]).sum() == 768


def events_of(frames_by_module, tmp_path):
    """Return the event table of frames, as the IOC writes it."""
    layout = EventsLayout(list(frames_by_module).index)
    parts = []
    for module, frames in frames_by_module.items():
        name = f"start_x.dp_{frames.product.name}.bpp_2.module_{module}.seqno_0.pff"
        sizes = np.full(len(frames), 636)
        parts.append(layout.row_group(FrameGroup(tmp_path / name, "run", frames, sizes)))
    columns = {path: np.concatenate([part.columns[path] for part in parts])
               for path in parts[0].columns}  # fmt: skip
    data = {f"events_{path.removeprefix(GROUP + '/')}": values for path, values in columns.items()}
    number = np.concatenate([part.identity for part in parts])
    return Batch(number, data["events_seconds"], data)


def test_events_of_a_whole_module_name_the_board_of_the_brightest_pixel(tmp_path):
    frames = made_frames("ph1024", 4)
    frames.image[:] = -7
    places = [(2, 3), (2, 20), (20, 20), (20, 3)]  # clockwise from the upper left
    for image, place in zip(frames.image, places, strict=True):
        image[place] = 100
    events = events_of({1: frames}, tmp_path)
    assert events["events_quabo"].tolist() == [0, 1, 2, 3]
    assert events["events_pixel"].tolist() == [32 * row + column for row, column in places]
    assert events["events_largest"].tolist() == [100] * 4


def test_the_brightest_pixel_of_an_event_is_of_a_board_that_is_there(tmp_path):
    frames = made_frames("ph1024", 2)
    frames.image[:] = -7
    frames.numbers[:, [0, 1, 3]] = 0
    for board in (0, 1, 3):
        frames.image[(slice(None), *QUADRANTS[board])] = 0
    frames.image[:, 20, 21] = -5
    events = events_of({1: frames}, tmp_path)
    assert events["events_quabo"].tolist() == [2, 2]
    assert events["events_pixel"].tolist() == [32 * 20 + 21] * 2
    assert events["events_largest"].tolist() == [-5, -5]


def test_the_brightest_candidates_are_kept_in_the_order_of_time():
    count = KEPT + 50
    height = 100 + np.random.default_rng(2).permutation(count)
    data = {
        "events_time_ns": START + np.repeat(1_000_000 * np.arange(count), 2),
        "events_module": np.tile([1, 2], count),
        "events_largest": np.repeat(height, 2),
        "events_flags": np.zeros(2 * count, np.uint8),
    }
    data["events_flags"][:4] = [Flag.UNLOCKED, 0, 0, Flag.EMPTY | Flag.MISSING_QUABO]
    analysis = FlashCandidates()
    analysis.update(Batch(np.arange(2 * count), np.zeros(2 * count), data))
    found = analysis.result()
    assert (found["n_candidates"], found["n_undated"]) == (count - 2, 2)
    lit = height.copy()
    lit[:2] = 0
    kept = np.sort(np.argsort(-lit)[:KEPT])
    assert found["candidate_largest"].tolist() == height[kept].tolist()
    assert found["candidate_time_ns"].tolist() == (START + 1_000_000 * kept).tolist()
    assert found["candidate_rows"][:, :2].tolist() == [[2 * k, 2 * k + 1] for k in kept]


@pytest.mark.parametrize(
    "given",
    [
        {"threshold_adc": 0.0},
        {"threshold_adc": float("nan")},
        {"window_ns": -1},
        {"least_modules": 1},
        {"baselines_m": [[1, 3, float("nan")]]},
        {"baselines_m": [[1, 3, float("inf")]]},
        {"baselines_m": [[1, 3, -500.0]]},
    ],
)
def test_parameters_that_make_no_sense_are_refused(given):
    with pytest.raises(ConfigError, match=next(iter(given))):
        FlashCandidates(**given)


def score(flashes, found, low, high):
    """Return the share of flashes between two heights that were found."""
    truth = np.array([f.time_ns for f in flashes if low <= f.sigma < high])
    near = np.abs(truth[:, np.newaxis] - found).min(axis=1) <= 200
    return near.mean()


def check_flashes(count, seconds, seed, product, tmp_path):
    array = TelescopeArray(seed=seed)
    flashes = array.random_flashes(count, START, seconds, (5.0, 50.0))
    frames = array.pulse_heights(product, START, seconds, flashes)
    events = events_of(frames, tmp_path)
    found = analyzed(FlashCandidates, events, 2)
    assert_same(found, analyzed(FlashCandidates, events, 1))
    number = int(found["n_candidates"])
    times = np.sort(found["candidate_time_ns"][: min(number, 1000)])
    heights = found["candidate_largest"][: len(times)]
    for row in range(len(times)):
        rows = found["candidate_rows"][row]
        rows = rows[rows >= 0]
        assert events["events_largest"][rows].max() == heights[row]
        module = list(frames)[events["events_slot"][rows[0]]]
        frame = frames[module].image[events["events_row"][rows[0]]]
        assert frame.max() == events["events_largest"][rows[0]]
    return flashes, times, found


@pytest.mark.parametrize("product", ["ph256", "ph1024"])
def test_flash_candidates_link_to_their_frames_and_are_the_flashes(product, tmp_path):
    flashes, times, found = check_flashes(300, 30.0, 11, product, tmp_path)
    assert score(flashes, times, 10, 51) >= 0.97
    truth = np.array([flash.time_ns for flash in flashes])
    false = (np.abs(times[:, np.newaxis] - truth).min(axis=1) > 200).sum()
    assert false <= 3 + 2 * found["n_expected"]


def test_flashes_in_domes_a_kilometer_apart_are_found_with_their_positions(tmp_path):
    array = TelescopeArray(ArraySettings(modules=(1, 3)), seed=12)
    flashes = array.random_flashes(100, START, 30.0, (20.0, 50.0))
    events = events_of(array.pulse_heights("ph256", START, 30.0, flashes), tmp_path)
    # Light from the horizon meets the second dome 3.3 us after the first.
    events["events_time_ns"][events["events_module"] == 3] += 3300
    domes = [
        Telescope(1, "", "west", 37.34, -121.64, 1283, None, None, None),
        Telescope(3, "", "east", 37.34 + 1 / 111, -121.64, 1283, None, None, None),
    ]
    configuration = {"panoseti_telescopes": telescopes_text(domes)}
    truth = np.array([flash.time_ns for flash in flashes])
    missed = {}
    for name, known in (("with", configuration), ("without", {})):
        found = analyzed(
            lambda known=known: make_analysis("panoseti_flashes", {}, known), events, 2
        )
        count = int(found["n_candidates"])
        times = np.append(found["candidate_time_ns"][:count], 0)
        missed[name] = (np.abs(truth[:, np.newaxis] - times).min(axis=1) > 200).mean()
        if name == "with":
            assert (found["candidate_modules"][:count] == 2).all()
            assert count <= 100 + 3 + 2 * found["n_expected"]  # each flash is one candidate
            expected = found["n_expected"]
    assert missed["with"] <= 0.03
    assert missed["without"] >= 0.97
    # The chance rate is that of the wider window: 100 ns and the light's 3.3 us, both ways.
    assert expected / found["n_expected"] == pytest.approx(2 * 3436 / 201, rel=0.02)


def test_events_of_boards_without_utc_do_not_count(tmp_path):
    array = TelescopeArray(seed=3)
    flashes = array.random_flashes(20, START, 10.0, (20.0, 50.0))
    events = events_of(array.pulse_heights("ph256", START, 10.0, flashes), tmp_path)
    events["events_flags"][:] = 1
    found = analyzed(FlashCandidates, events, 1)
    assert found["n_candidates"] == found["n_bright"] == 0
    assert found["n_undated"] == found["n_events"] == len(events)


def test_chance_gives_as_many_candidates_as_predicted(tmp_path):
    settings = ArraySettings(dark_rate_hz=400, pedestal_adc=0.0, board_pedestal_adc=0.0)
    array = TelescopeArray(settings, seed=8)
    events = events_of(array.pulse_heights("ph256", START, 10.0, []), tmp_path)
    found = analyzed(lambda: FlashCandidates(threshold_adc=60.0), events, 1)
    assert found["n_bright"] == found["n_events"] == len(events)
    assert found["n_expected"] > 25
    # One standard deviation is the root of the number; five of them here.
    assert abs(found["n_candidates"] - found["n_expected"]) < 5 * np.sqrt(found["n_expected"])


@pytest.mark.accuracy
@pytest.mark.parametrize("product", ["ph256", "ph1024"])
def test_accuracy_of_flash_candidates(product, tmp_path):
    seen, far, false, expected = [], [], 0, 0.0
    for seed in range(100, 104):
        flashes, times, found = check_flashes(500, 60.0, seed, product, tmp_path)
        truth = np.array([flash.time_ns for flash in flashes])
        sigma = np.array([flash.sigma for flash in flashes])
        near = np.abs(truth[:, np.newaxis] - times).min(axis=1) <= 200
        seen += near[sigma >= 10].tolist()
        far += near[(sigma >= 7) & (sigma < 10)].tolist()
        false += int((np.abs(times[:, np.newaxis] - truth).min(axis=1) > 200).sum())
        expected += found["n_expected"]
    print(f"{product}: {np.mean(seen):.4f} of {len(seen)} above 10 sigma, {np.mean(far):.3f} of "
          f"{len(far)} of 7 to 10; {false} false, {expected:.2f} expected")  # fmt: skip
    assert np.mean(seen) >= 0.99
    assert np.mean(far) >= 0.8
    assert false <= 2 * expected + 3 * np.sqrt(2 * expected)
