"""The simulated beamline through the live analysis: the curve agrees with the truth."""

import numpy as np
import pytest
from support.waiting import until

from skywright.cli import main
from skywright.errors import ConfigError
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.live import LiveShots
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.shots import EQUIPMENT
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.twin import (
    OCTAL,
    Beamline,
    Faults,
    TwinSettings,
    beamline,
    parse_faults,
)
from skywright.instruments.sacla.values import parse_value

SHAPE = (64, 48)
REGION = Region("all", "MPCCD-1N0-M06-004", ((-1, -1), (60, -1), (60, 70), (-1, 70)))
EDGES = np.linspace(-2, 3, 11)


def run(settings, shots, seed=0):
    twin = Beamline(settings, seed)
    source = SimSource(twin, shots, speed=0)
    analysis = LiveShots(source, [REGION], EDGES, 120)
    try:
        return twin, analysis.run().values
    finally:
        analysis.close()
        source.close()


def test_the_delay_curve_agrees_with_the_truth():
    settings = TwinSettings(shape=SHAPE, pool=1500, photons_per_px=0.05, width_ps=0.05)
    beamline, report = run(settings, 1500)
    found = report["rois"]["all"]
    scale = found["npixels"] * beamline.settings.photons_per_px * 10000
    centers = (EDGES[1:] + EDGES[:-1]) / 2
    away = np.abs(centers) > 0.3  # the rise is not flat within its bins
    truth = np.array([beamline.response(delay, True) - 1 for delay in centers]) * scale
    pulls = (np.array(found["diff"]) - truth)[away] / np.array(found["diff_sem"])[away]
    assert report["counts"]["accepted"] > 1400
    assert (pulls**2).mean() < 3
    assert found["diff"][-1] > 10 * found["diff_sem"][-1]
    assert abs(found["corr_i0_off"]["r"]) > 0.9


def test_faults_are_counted_and_what_is_whole_is_analyzed():
    faults = Faults(missing=0.02, repeated=0.05, no_value=0.02, other_run=0.02)
    _, report = run(TwinSettings(shape=SHAPE, pool=16, faults=faults), 600)
    counts = report["counts"]
    reasons = ("no_frame", "no_value", "beam_off", "i0_low", "laser_ambiguous", "accepted")
    assert counts["shots_expected"] == sum(counts[reason] for reason in reasons) >= 600
    assert counts["duplicate"] > 100
    assert counts["other_run"] > 50
    assert counts["no_frame"] > 5
    assert counts["no_value"] > 30
    assert 300 < counts["accepted"] < 580
    assert len(report["rois"]["all"]["tags"]) == counts["accepted"]


def test_records_out_of_order_change_nothing_and_late_ones_are_refused():
    plain, disorder, late = (
        run(TwinSettings(shape=SHAPE, pool=16, faults=faults), 600)[1]
        for faults in (Faults(), Faults(out_of_order=0.2), Faults(late=0.02))
    )
    for report in (plain, disorder):
        report.pop("perf")
    assert disorder == plain
    counts = late["counts"]
    # A late record is refused if the join still waits for others then.
    assert 10 < counts["late"] < 600 * 7 * 0.03
    assert counts["no_frame"] + counts["no_value"] > 10
    assert set(late["rois"]["all"]["tags"]) < set(plain["rois"]["all"]["tags"])


def test_a_new_run_begins_after_a_number_of_shots():
    settings = TwinSettings(shape=SHAPE, pool=8, tag_step=2, faults=Faults(run_shots=40))
    source = SimSource(Beamline(settings, 2), 100, speed=0)
    analyzed = AnalyzedShots(source, [REGION], EDGES)
    shots = []
    try:
        analyzed.start(shots.append, lambda *_: None)
        until(lambda: len(shots) == 100, 60, "all shots")
        runs = [(501, 400_000_000), (502, 400_000_080), (503, 400_000_160)]
        expected = [(run, first + 2 * k) for run, first in runs for k in range(40)][:100]
        assert [(shot.run, shot.tag) for shot in shots] == expected
        assert "no_frame" not in {shot.verdict.value for shot in shots}
        assert analyzed.lost == {}
        assert source.info.run == 503
        assert source.info.grid.first == 400_000_160
    finally:
        analyzed.close()


@pytest.mark.parametrize("text", ["late", "late=often", "late=1.5", "run_shots=-1", "weather=0.1"])
def test_a_fault_that_makes_no_sense_is_refused(text, capfd):
    with pytest.raises(ConfigError, match=f"fault '{text}': expected run_shots=N, or NAME"):
        parse_faults(["missing=0.1", text])
    with pytest.raises(SystemExit) as ended:
        main(["sacla", "live", "--bins", "0:1:2", "--fault", text, "--json"])
    assert ended.value.code == 2
    assert f"fault '{text}'" in capfd.readouterr().err


def test_faults_are_read_from_text():
    texts = ["missing=0.1", "run_shots=300", "out_of_order=1"]
    assert parse_faults(texts) == Faults(missing=0.1, run_shots=300, out_of_order=1.0)


def test_the_same_seed_gives_the_same_run():
    first, second = (run(TwinSettings(shape=SHAPE, pool=8), 100, seed=3)[1] for _ in range(2))
    first.pop("perf"), second.pop("perf")
    assert first == second


def test_all_images_of_the_pool_fit_into_its_limit(monkeypatch):
    monkeypatch.setattr(beamline, "POOL_BYTES_MAX", 1_000_000, raising=False)
    pools = []
    for pool in (3, 64):
        settings = TwinSettings(OCTAL, shape=SHAPE, pool=pool)
        twin = Beamline(settings)
        images = [
            record.payload
            for number in range(64)
            for _, record in twin.shot(number)
            if record.channel in OCTAL
        ]
        pools.append({id(image.base): image.base.nbytes for image in images})
    assert sum(pools[0].values()) == 8 * 4 * 64 * 48 * 4  # three images, and a dark one
    assert 0.9e6 < sum(pools[1].values()) <= 1e6


def shots_of(settings, count, seed=1):
    """Return (count,) I0, whether the laser was on, and brightness of the image."""
    twin = Beamline(settings, seed)
    (name,) = settings.detectors
    good = ~twin.info.tiles[name].bad
    rows = []
    for number in range(count):
        found = {record.channel: record.payload for _, record in twin.shot(number)}
        i0, is_on = float(found["i0"].removesuffix("V")), found["laser_open"] == "1"
        rows.append((i0, is_on, found[name][good].mean()))
    i0, is_on, light = np.array(rows).T
    return i0, is_on > 0, light


def test_the_laser_changes_the_image_and_not_the_pulse_energy():
    settings = TwinSettings(shape=SHAPE, delay_ps=(1.5, 3.0), beam_off=0.0, pool=500)
    i0, is_on, light = shots_of(settings, 4000)
    # An error of 0.25 sqrt(2 / 2000) = 0.008 each; four of them.
    assert i0[is_on].mean() / i0[~is_on].mean() == pytest.approx(1.0, abs=0.03)
    assert light[is_on].mean() / light[~is_on].mean() == pytest.approx(1.2, abs=0.04)
    assert i0.std() == pytest.approx(settings.i0_jitter, rel=0.05)


def test_bad_pixels_look_bad():
    twin = Beamline(TwinSettings(shape=(256, 128), pool=4), seed=2)
    ((name, tile),) = twin.info.tiles.items()
    (image,) = (record.payload for _, record in twin.shot(0) if record.channel == name)
    column = tile.bad.all(axis=0)
    assert column.sum() == 1
    noise = 5 * beamline.NOISE_ADU
    assert np.abs(image[:, column]).max() < noise  # dead: no photon
    hot = tile.bad & ~column
    assert hot.sum() > 10
    np.testing.assert_allclose(image[hot], beamline.HOT_ADU, atol=noise)


def test_measurements_scatter_about_the_truth_as_the_settings_say():
    settings = TwinSettings(shape=SHAPE, pool=200, beam_off=0.0)
    twin, count, rows = Beamline(settings, 3), 2000, []
    for number in range(count):
        texts = {record.channel: record.payload for _, record in twin.shot(number)}
        values = {key: parse_value(texts[key]) for key in EQUIPMENT}
        delay_ps = twin.info.shot_rules.scanned(values, "delay")
        rows.append((values["i0"], twin.truth.pulse_energy, delay_ps, twin.truth.delay_ps))
    i0, energy, found, true = np.array(rows).T
    for pulls in (
        (i0 - energy) / (settings.i0_noise * np.sqrt(energy)),
        (found - true) / settings.timing_noise_ps,
    ):
        assert abs(pulls.mean()) < 4 / np.sqrt(count)
        assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * count))


def test_without_noise_the_measurements_are_the_truth():
    settings = TwinSettings(shape=SHAPE, pool=20, beam_off=0.0, i0_noise=0.0, timing_noise_ps=0.0)
    twin = Beamline(settings)
    for number in range(20):
        texts = {record.channel: record.payload for _, record in twin.shot(number)}
        values = {key: parse_value(texts[key]) for key in EQUIPMENT}
        assert values["i0"] == pytest.approx(twin.truth.pulse_energy, abs=1e-9)
        delay_ps = twin.info.shot_rules.scanned(values, "delay")
        assert delay_ps == pytest.approx(twin.truth.delay_ps, abs=2e-5)  # of the text's last digit


@pytest.mark.parametrize(
    ("spread_px", "pixels", "energy", "counted"),
    # With a spread s, a photon has 0.19 s of its energy in shares below the threshold. Near a
    # corner, on 3.5 s**2 of the area, no pixel has half a photon.
    [(0.0, 1.0, 1.0, 1.0), (0.14, 1.75, 0.973, 0.931)],
)
def test_neighbors_share_the_charge_of_a_photon(spread_px, pixels, energy, counted):
    shape, photons = (256, 256), 0.005  # few pixels have two
    settings = TwinSettings(
        shape=shape,
        pool=40,
        photons_per_px=photons,
        bad_pixels=0.0,
        charge_spread_px=spread_px,
    )
    twin = Beamline(settings, 4)
    (images,), (numbers,) = twin.images.values(), twin.photon_numbers.values()
    assert numbers[-1] == 0
    images, total = images[:-1], numbers.sum()
    ev = images * beamline.GAIN * beamline.EV_PER_ELECTRON
    share = ev / beamline.PHOTON_EV
    # The charge of all is there, but for what leaves at the border; noise: 3 ADU a pixel.
    assert share.sum() == pytest.approx(total, rel=0.01)
    assert (share > 0.1).sum() / total == pytest.approx(pixels, abs=0.1)
    assert share[share > 0.1].sum() / total == pytest.approx(energy, abs=0.01)
    assert np.floor(share + 0.5).clip(0).sum() / total == pytest.approx(counted, abs=0.01)
