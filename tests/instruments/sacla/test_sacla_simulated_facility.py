"""The state of the double, without its server."""

from collections import Counter
from typing import Any

import numpy as np

from skywright.instruments.sacla.facility.link import NEWEST
from skywright.instruments.sacla.facility.settings import FacilitySettings
from skywright.instruments.sacla.facility.simulated import SimulatedFacility

SMALL: dict[str, Any] = {"shape": (16, 16), "pool": 4, "manual": True, "beam_off": 0.0}


def test_the_upstream_monitor_has_the_pulse_energy_also_where_the_other_has_no_value():
    facility = SimulatedFacility(FacilitySettings(**SMALL, no_value=0.3))
    facility.advance(20.0)
    ids = facility.settings.equipment()
    _, newest = facility.newest_tag(ids["upstream"])
    tags = range(newest - 2 * 500, newest, 2)
    run = facility.runs.runs[-1]
    upstream = np.array(facility.numbers(ids["upstream"], run.hightag, tags))
    at_sample = np.array(facility.numbers(ids["i0"], run.hightag, tags))
    known = np.isfinite(at_sample)
    assert 300 < known.sum() < 400
    assert np.isfinite(upstream).all()
    np.testing.assert_allclose(upstream[known] * 1e9, at_sample[known], rtol=1e-4)


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
