"""The state of the double, without its server."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from skywright.instruments.sacla.facility.link import NEWEST
from skywright.instruments.sacla.facility.settings import FacilitySettings
from skywright.instruments.sacla.facility.simulated import SimulatedFacility

SMALL: dict[str, Any] = {"shape": (16, 16), "pool": 4, "manual": True, "beam_off": 0.0}


def test_the_upstream_monitor_has_the_pulse_energy_also_where_the_other_has_no_value():
    facility = SimulatedFacility(FacilitySettings(**SMALL, no_value=0.3))
    facility.advance(20.0)
    ids = facility.settings.equipment()
    _, newest = facility.read_tagnumber_newest(ids["upstream"])
    tags = range(newest - 2 * 500, newest, 2)
    run = facility.runs.runs[-1]
    upstream = np.array(facility.read_syncdatalist_float(ids["upstream"], run.hightag, tags))
    at_sample = np.array(facility.read_syncdatalist_float(ids["i0"], run.hightag, tags))
    known = np.isfinite(at_sample)
    assert 300 < known.sum() < 400
    assert np.isfinite(upstream).all()
    upstream *= 1e9
    noise = facility.settings.twin.i0_noise * np.sqrt(upstream)
    pulls = ((at_sample - upstream) / noise)[known]
    # The spread of 300 pulls is known to 4 %, that of the largest is below 5.
    assert pulls.std() == pytest.approx(1.0, abs=0.16)
    assert np.abs(pulls).max() < 5


def test_what_is_counted_of_images_does_not_grow():
    facility = SimulatedFacility(FacilitySettings(**SMALL, ring_images=20))
    (detector,) = facility.settings.detectors
    facility.advance(1.0)
    assert facility.most_reads(detector) == 0
    expected: Counter[int] = Counter()
    for _ in range(200):
        facility.advance(1 / 30)
        tag, _, _ = facility.collect(detector, NEWEST)
        facility.collect(detector, tag)
        expected[tag] += 1
        assert len(facility._rings[detector].reads) <= 20
        assert facility.most_reads(detector) == max(expected.values())
    assert len(expected) > 100
