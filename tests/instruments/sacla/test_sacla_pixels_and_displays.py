"""Bad pixels, signals below zero, and displays that never read: pitfalls of an online analysis."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sacla_hand import HandShots, run_info
from sacla_owner import column
from support.waiting import until

from skywright.analysis import Batch
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.layouts import TAG
from skywright.instruments.sacla.owner import RECENT, ShotOwner
from skywright.instruments.sacla.regions import parse_region
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.tile import PixelRules, Tile

SHAPE = (32, 16)
WHOLE = parse_region("all:D:-1,-1;17,-1;17,33;-1,33")
GAIN, EV_PER_ELECTRON, PHOTON_EV = 15.0, 3.65, 10_000.0
ONE_PHOTON = PHOTON_EV / EV_PER_ELECTRON / GAIN
"""ADU."""


def images_of(frame: np.ndarray, bad: np.ndarray, threshold_ev: float = 1000.0) -> ShotImages:
    rules = PixelRules(PHOTON_EV, EV_PER_ELECTRON, threshold_ev, 8.0, 16.0, 2.0)
    images = ShotImages(Tile("D", GAIN, bad), rules, [WHOLE], profiles=True)
    data = {"image": frame[None].astype(np.float32), "laser_on": np.array([True])}
    images.update(Batch(np.array([1]), np.zeros(1), data))
    return images


def measured(frame: np.ndarray, bad: np.ndarray, threshold_ev: float = 1000.0) -> dict:
    images = images_of(frame, bad, threshold_ev)
    data = {"image": frame[None].astype(np.float32), "laser_on": np.array([True])}
    rows = images.measure(Batch(np.array([2]), np.zeros(1), data))
    return {key: values[0] for key, values in rows.items()}


def test_masked_columns_and_hot_pixels_are_in_nothing():
    bad = np.zeros(SHAPE, bool)
    bad[:, 5] = bad[20, 9] = True
    frame = np.full(SHAPE, ONE_PHOTON)
    frame[bad] = 1e9
    found, good = measured(frame, bad), int((~bad).sum())
    assert found["sum_ev"][0] == pytest.approx(good * PHOTON_EV, rel=1e-6)
    assert found["photons"][0] == good
    assert found["photon_hist"][0].tolist() == [0, good, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(found["profile"], PHOTON_EV, rtol=1e-6)
    result = images_of(frame, bad).result()
    for key in ("mean", "max"):
        assert np.isnan(result[key][bad]).all()
        np.testing.assert_allclose(result[key][~bad], PHOTON_EV, rtol=1e-6)


@pytest.mark.parametrize("signal", [1e30, np.inf])
@pytest.mark.parametrize("threshold_ev", [1000.0, -20_000.0])
def test_photons_of_a_damaged_pixel_are_no_missing_number(signal, threshold_ev):
    frame = np.zeros(SHAPE)
    frame[3, 4] = signal
    found = measured(frame, np.zeros(SHAPE, bool), threshold_ev)
    assert found["photons"][0] > 2**20
    assert found["photon_hist"][0].tolist() == [frame.size - 1, 0, 0, 0, 0, 0, 0, 1]


def test_negative_signal_counts_as_zero():
    bad = np.zeros(SHAPE, bool)
    found = measured(np.full(SHAPE, -50.0), bad)
    assert found["sum_ev"][0] == 0.0
    assert found["photons"][0] == 0
    assert (found["profile"] == 0).all()


def test_the_threshold_is_in_ev_and_not_in_electrons():
    # 1000 eV are 273.97 electrons, 18.26 ADU at this gain; 1000 electrons would be 66.7 ADU.
    bad = np.zeros(SHAPE, bool)
    frame = np.zeros(SHAPE)
    frame[0, :4] = (18.2, 18.3, 60.0, 70.0)
    expected = (18.3 + 60.0 + 70.0) * GAIN * EV_PER_ELECTRON
    assert measured(frame, bad)["sum_ev"][0] == pytest.approx(expected, rel=1e-6)


@pytest.fixture(name="owner")
def make_owner() -> Iterator[tuple[HandShots, ShotOwner]]:
    source = HandShots(run_info())
    regions = [parse_region("all:D:-1,-1;9,-1;9,7;-1,7")]
    owner = ShotOwner(AnalyzedShots(source, regions, np.linspace(-1.0, 1.0, 5), window=8))
    owner.owner.start()
    yield source, owner
    owner.close()


def test_a_display_that_never_reads_costs_no_shot(
    owner: tuple[HandShots, ShotOwner], tmp_path: Path
) -> None:
    source, shots = owner
    stuck = shots.owner.subscribe(depth=2)
    path = tmp_path / "shots.h5"
    assert shots.start_recording(path) == ""
    for number in range(300):
        source.shot(number)
    until(lambda: shots.state().items == 300, 60, "all shots are through")
    shots.stop_recording()
    tags = column(path, TAG.path)
    assert len(tags) == 300
    assert (np.diff(tags) == 2).all()
    held = []
    while (shot := stuck.get(0.0)) is not None:
        held.append(shot.tag)
    assert len(held) <= 2
    assert held[-1] == source.info.grid.first + 2 * 299  # the newest, not the oldest
    assert shots.recent.maxlen == RECENT
    stuck.close()
