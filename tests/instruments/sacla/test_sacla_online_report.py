"""From the double of the facility to the report: counts, sums and delays are those of its truth."""

import json
import math

import numpy as np
import pytest
from facility_double import LIMIT_S, TIMING, FramesInMemory, Reading, Twin, made, online, tag

from skywright.cli import main
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.regions import Region
from skywright.instruments.sacla.report import make_report
from skywright.instruments.sacla.shots import EQUIPMENT
from skywright.instruments.sacla.twin import SINGLE


@pytest.fixture(name="live")
def make_live(capfd, tmp_path):
    """Run ``skywright sacla live --source sacla`` and return its JSON."""

    def live(shots, *more):
        settings = tmp_path / "online.toml"
        settings.write_text(
            f"catch_up_tags = 1000000\nring_tags = 100000\nconnect_s = {LIMIT_S}\n"
            f'detectors = ["{SINGLE}"]\n[equipment]\ntiming = "{TIMING}"\n'
            "[shots]\nt0_pulse = 100\ntt_ref_px = 500\n"
        )
        capfd.readouterr()
        words = f"sacla live --source sacla --online {settings} --shots {shots} --json"
        roi = f"--roi=all:{SINGLE}:-1,-1;60,-1;60,70;-1,70"
        with pytest.raises(SystemExit) as ended:
            main([*words.split(), "--bins", "-2:3:5", roi, *more])
        out, err = capfd.readouterr()
        assert not ended.value.code, err
        return json.loads(out)

    return live


def analyzed(shots):
    """The report over the records of a source, in this process."""
    rules = {"t0_pulse": 100, "tt_ref_px": 500}
    with Reading(online(shots=rules), shots=shots) as reading:
        reading.until_ended()
    corners = ((-1.0, -1.0), (60.0, -1.0), (60.0, 70.0), (-1.0, 70.0))
    regions = [Region("all", SINGLE, corners)]
    pipeline = ShotPipeline(
        reading.source.info, regions, np.linspace(-2, 3, 6), 120, FramesInMemory()
    )
    for record in reading.records:
        pipeline.add(record)
    pipeline.finish()
    return make_report(pipeline, 1.0, 1).values


def plain_report(twin, shots, moving=()):
    """Counts and ROI sums of the first shots, from the twin's records, in plain numpy."""
    counts = dict.fromkeys(
        ("no_frame", "no_value", "beam_off", "i0_low", "laser_ambiguous", "accepted"), 0
    )
    counts |= {"accepted_on": 0, "accepted_off": 0, "no_timing": 0, "out_of_range": 0}
    sums = {}
    for shot in range(shots):
        key = tag(shot)
        v = {role: twin.values(role).get(key, math.nan) for role in EQUIPMENT}
        if key in moving:
            v["laser_open"] = v["laser_close"] = 0.0
        image = twin.records[SINGLE].get(key)
        if image is None:
            reason = "no_frame"
        elif any(math.isnan(v[role]) for role in EQUIPMENT if role != "timing"):
            reason = "no_value"
        elif v["beam"] <= 0.5:
            reason = "beam_off"
        elif v["i0"] <= 0.05:
            reason = "i0_low"
        elif v["laser_open"] == v["laser_close"]:
            reason = "laser_ambiguous"
        else:
            reason = "accepted"
            ev = image.astype(float) * 15 * 3.65
            sums[key] = ev[ev >= 1000].sum()
            counts["accepted_on" if v["laser_open"] else "accepted_off"] += 1
            delay = (v["delay"] - 100) * 6.666e-3 + (v["timing"] - 500) * 2.4431e-3
            if math.isnan(delay):
                counts["no_timing"] += 1
            elif not -2 <= delay <= 3:
                counts["out_of_range"] += 1
        counts[reason] += 1
    return counts, sums


def assert_report(report, twin, shots, moving=()):
    expected, sums = plain_report(twin, shots, moving)
    found = report["counts"]
    assert (found["shots_expected"], found["late"], found["other_run"]) == (shots, 0, 0)
    assert {key: found[key] for key in expected} == expected
    assert report["rois"]["all"]["tags"] == list(sums)
    np.testing.assert_allclose(report["rois"]["all"]["sum_ev"], list(sums.values()), rtol=1e-9)
    return expected


def test_shots_without_beam_are_left_out_before_they_are_normalized(facility):
    twin = made(facility, 60, beam_off=0.4)
    report = analyzed(60)
    expected = assert_report(report, twin, 60)
    assert expected["beam_off"] > 10
    i0 = [twin.values("i0")[key] for key in report["rois"]["all"]["tags"]]
    norm = np.array(report["rois"]["all"]["sum_ev"]) / i0
    np.testing.assert_allclose(report["rois"]["all"]["norm"], norm)
    assert norm.max() < 10 * norm.mean()


def test_shots_while_the_laser_shutter_moves_are_left_out(facility):
    chosen = {"laser_moving": 0.3}
    twin = made(facility, 60, **chosen)
    draws = np.random.default_rng([0, 1]).random(60)
    moving = {tag(shot) for shot in np.flatnonzero(draws < 0.3)}
    expected = assert_report(analyzed(60), twin, 60, moving)
    assert expected["laser_ambiguous"] == len(moving) > 5


def test_live_over_the_double_in_real_time_equals_the_truth(facility, live):
    chosen = {"shape": (64, 48), "pool": 8, "ring_images": 10**5, "rate_hz": 60.0, "seed": 3}
    chosen |= {"missing": 0.02, "no_value": 0.02, "beam_off": 0.1}
    facility.reset(**chosen)
    report = live(120, "--window", "10000")
    expected = assert_report(report, Twin(120, **chosen), 120)
    assert all(expected[key] for key in ("no_frame", "no_value", "beam_off", "accepted_on"))
