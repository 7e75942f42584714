"""The simulated beamline through the live analysis: the curve agrees with the truth."""

import numpy as np

from skywright.instruments.sacla.live import LiveShots
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.sources.sim import SimSource
from skywright.instruments.sacla.twin import Beamline, Faults, TwinSettings

SHAPE = (64, 48)
REGION = Region("all", "MPCCD-1N0-M06-004", ((-1, -1), (60, -1), (60, 70), (-1, 70)))
EDGES = np.linspace(-2, 3, 11)


def run(settings, shots, seed=0):
    beamline = Beamline(settings, seed)
    source = SimSource(beamline, shots, speed=0)
    analysis = LiveShots(source, [REGION], EDGES, 120)
    try:
        return beamline, analysis.run().values
    finally:
        analysis.close()
        source.close()


def test_the_delay_curve_agrees_with_the_truth():
    settings = TwinSettings(shape=SHAPE, pool=1500, photons_per_px=0.05, width_ps=0.05)
    beamline, report = run(settings, 1500)
    found = report["rois"]["all"]
    scale = beamline.photons(found["npixels"]) * 10000
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


def test_the_same_seed_gives_the_same_run():
    first, second = (run(TwinSettings(shape=SHAPE, pool=8), 100, seed=3)[1] for _ in range(2))
    first.pop("perf"), second.pop("perf")
    assert first == second
