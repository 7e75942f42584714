"""Images of a run: taken over from the IOC, from stored frames, and per bin."""

import json
from dataclasses import replace

import numpy as np
import pytest
from any_assignment import assert_any_assignment_gives_the_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from skywright.analysis import Batch
from skywright.errors import ConfigError, DataError
from skywright.instruments.sacla.bin_images import BinImages
from skywright.instruments.sacla.configured import bin_image_parameters, image_parameters
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.layouts import IMAGE_KEYS
from skywright.instruments.sacla.measuring import describe_measuring, read_measuring
from skywright.instruments.sacla.run_images import FrameImages, RunningImages
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shot_images import ShotImages
from skywright.instruments.sacla.shots import ShotRules
from skywright.instruments.sacla.tile import PixelRules, Tile

BLOCK = 16
SHAPES = {"A": (6, 8), "B": (5, 7)}
EDGES = [-1.0, -0.5, 0.5, 1.0]
GAINS = {"A": 15.0, "B": 20.0}


def run_info():
    random = np.random.default_rng(3)
    tiles = {
        name: Tile(name, GAINS[name], random.random(shape) < 0.1) for name, shape in SHAPES.items()
    }
    return RunInfo(
        run=1,
        hightag=202301,
        grid=TagGrid(0, 1),
        tiles=tiles,
        shot_rules=ShotRules(0.05, 0.5, 0.01, 0.0, 0.001, 500.0),
        pixel_rules=PixelRules(10_000.0, 3.65, 1000.0, 4.0, 3.0, 1.0),
        cameras=frozenset({"B"}),
    )


INFO = run_info()
MEASURING = json.loads(json.dumps(describe_measuring(INFO, BLOCK)))


def frames(seed, count):
    random = np.random.default_rng(seed)
    data = {
        "frame_accepted": (random.random(count) > 0.3).astype(np.uint8),
        "frame_laser_on": (random.random(count) > 0.5).astype(np.uint8),
        "frame_i0": random.normal(1, 0.2, count),
        "frame_scanned": np.where(random.random(count) > 0.1, random.normal(0, 1, count), np.nan),
    }
    for k, shape in enumerate(SHAPES.values()):
        data[f"frame_d{k + 1}"] = random.normal(60, 60, (count, *shape)).astype(np.float32)
    return Batch(np.sort(random.choice(3 * count, count, replace=False)), np.zeros(count), data)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 80), st.data())
def test_images_of_frames_are_those_of_the_accepted_shots(seed, count, data):
    batch = frames(seed, count)
    found = assert_any_assignment_gives_the_same_bits(lambda: FrameImages(MEASURING), batch, data)
    accepted = batch.take(batch["frame_accepted"] == 1)
    for k, (name, tile) in enumerate(INFO.tiles.items()):
        images = ShotImages(tile, INFO.rules_of(name), (), BLOCK)  # as the IOC's workers use it
        if len(accepted):
            more = {
                "image": accepted[f"frame_d{k + 1}"],
                "laser_on": accepted["frame_laser_on"] == 1,
            }
            images.update(Batch(accepted.identities, accepted.times, more))
        expected = images.result()
        assert (found["n_on"], found["n_off"]) == (expected["n_on"], expected["n_off"])
        for key in IMAGE_KEYS:
            image = found[f"d{k + 1}_{key}"]
            assert image.tobytes() == expected[key].astype(np.float32).tobytes()
            assert np.isnan(image[tile.bad]).all()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 80), st.data())
def test_images_of_bins_are_those_of_numpy(seed, count, data):
    batch = frames(seed, count)
    found = assert_any_assignment_gives_the_same_bits(
        lambda: BinImages(MEASURING, EDGES), batch, data
    )
    scanned = batch["frame_scanned"]
    for side, name in enumerate(("off", "on")):
        for place in range(3):
            inside = (scanned >= EDGES[place]) & (scanned < EDGES[place + 1])
            chosen = inside & (batch["frame_accepted"] == 1) & (batch["frame_laser_on"] == side)
            assert found["n"][side, place] == chosen.sum()
            assert found["i0_sum"][side, place] == pytest.approx(batch["frame_i0"][chosen].sum())
            for k, (detector, tile) in enumerate(INFO.tiles.items()):
                image = found[f"d{k + 1}_{name}"][place]
                if not chosen.any():
                    assert np.isnan(image).all()
                    continue
                ev = batch[f"frame_d{k + 1}"][chosen].astype(float) * GAINS[detector] * 3.65
                if detector == "A":  # B is a camera, without a threshold
                    ev[ev < 1000.0] = 0.0
                np.testing.assert_allclose(
                    image[~tile.bad], ev.mean(axis=0)[~tile.bad], rtol=1e-5, atol=1e-2
                )
                assert np.isnan(image[tile.bad]).all()


def test_images_per_bin_keep_to_a_memory_limit_and_to_values_of_a_shot():
    with pytest.raises(ConfigError, match=r"images of 3 bins need 0 MB, expected at most 0.001 MB"):
        BinImages(MEASURING, EDGES, memory_mb=0.001)
    with pytest.raises(ConfigError, match="binned by 'laser_on', which is no value of a shot"):
        BinImages(MEASURING, EDGES, binned_by="laser_on")
    assert BinImages(MEASURING, EDGES, binned_by="i0").result()["n"].sum() == 0


def test_running_images_are_the_newest_ones():
    images = RunningImages(MEASURING)
    result = images.result()
    assert (result["n_on"], result["n_off"]) == (0, 0)
    assert np.isnan(result["d2_mean"]).all()
    for number in range(3):
        data = {"image_n_on": np.array([10 * number]), "image_n_off": np.array([number])}
        for k, shape in enumerate(SHAPES.values()):
            for key in IMAGE_KEYS:
                data[f"image_d{k + 1}_{key}"] = np.full((1, *shape), k + number, np.float32)
        images.update(Batch(np.array([number]), np.zeros(1), data))
        images.advance((number // images.block_size - 1) * images.block_size)
    result = images.result()
    assert (result["n_on"], result["n_off"]) == (20, 2)
    assert (result["d1_var"] == 2).all()
    assert (result["d2_diff"] == 3).all()
    assert len(images._keys()) == 1


def test_how_pixels_are_measured_is_read_as_it_was_written():
    for (tile, rules), name in zip(read_measuring(MEASURING), INFO.tiles, strict=True):
        expected = INFO.tiles[name]
        assert (tile.detector, tile.gain) == (name, expected.gain)
        np.testing.assert_array_equal(tile.bad, expected.bad)
        assert rules == INFO.rules_of(name)
    assert read_measuring({}) == []
    for wrong in ({"gain": "x"}, {"bad": "no base64"}, {"shape": [9, 9, 9, 99]}):
        broken = {"detectors": [{**MEASURING["detectors"][0], **wrong}]}
        with pytest.raises(DataError, match="measuring"):
            read_measuring(broken)
    with pytest.raises(DataError, match="measuring: KeyError: 'name'"):
        read_measuring({"detectors": [{}]})


def other_tile(**change):
    """Return the tiles with a change of the first one."""
    return {"tiles": {**INFO.tiles, "A": replace(INFO.tiles["A"], **change)}}


@pytest.mark.parametrize(
    ("change", "is_alike"),
    [
        ({"run": 2, "hightag": 202302, "grid": TagGrid(500, 2)}, True),
        (other_tile(bad=INFO.tiles["A"].bad.copy()), True),
        (other_tile(bad=~INFO.tiles["A"].bad), False),
        (other_tile(gain=15.1), False),
        ({"tiles": {"A": INFO.tiles["A"]}}, False),
        ({"shot_rules": replace(INFO.shot_rules, i0_min=0.06)}, False),
        ({"pixel_rules": replace(INFO.pixel_rules, photon_ev=9_000.0)}, False),
        ({"cameras": frozenset()}, False),
    ],
)
def test_images_of_two_runs_are_averaged_only_if_both_are_measured_alike(change, is_alike):
    assert INFO.is_measured_as(replace(INFO, **change)) == is_alike


def test_detectors_in_another_order_are_not_measured_alike():
    tile = INFO.tiles["A"]
    one, other = (replace(INFO, tiles=dict.fromkeys(order, tile)) for order in ("AB", "BA"))
    assert not one.is_measured_as(other)


def test_a_tag_of_another_high_tag_is_another_shot():
    assert INFO.identity(5) == (202301 << 32) + 5
    assert replace(INFO, hightag=202302).identity(5) - INFO.identity(5) == 2**32


def test_the_configuration_of_a_run_gives_the_parameters():
    configuration = {
        "sacla_measuring": json.dumps(MEASURING),
        "sacla_bins": "-1:1:4",
        "sacla_binned_by": "timing",
        "sacla_regions": "",
        "sacla_hits": "2:7",
    }
    assert image_parameters(configuration) == {"measuring": MEASURING}
    found = bin_image_parameters(configuration)
    assert (found["binned_by"], found["edges"]) == ("timing", [-1.0, -0.5, 0.0, 0.5, 1.0])
    assert FrameImages(**image_parameters(configuration)).block_size == BLOCK
    with pytest.raises(ConfigError, match="does not say how its pixels were measured"):
        image_parameters({"sacla_bins": "-1:1:4"})
    for text in ("{", "[" * 100_000):
        with pytest.raises(ConfigError, match="sacla_measuring: no JSON"):
            image_parameters({"sacla_measuring": text})


def test_images_of_frames_are_of_the_analyzed_shots_that_have_the_frame():
    batch = frames(2, 40)
    number = np.arange(40)
    came = {"d1": number % 2 == 0, "d2": number % 3 == 0}
    analyzed = number % 5 != 0
    for key, there in came.items():
        batch.data[f"frame_{key}_came"] = there.astype(int)
        batch[f"frame_{key}"][~there] = np.nan
    batch.data["frame_analyzed"] = analyzed.astype(int)
    batch.data["frame_accepted"] = (analyzed & came["d1"] & came["d2"]).astype(int)
    images = FrameImages(MEASURING)
    images.update(batch)
    found = images.result()
    on = batch["frame_laser_on"] == 1
    for k, (key, there) in enumerate(came.items()):
        chosen = analyzed & there
        assert found[f"{key}_n_on"] == (chosen & on).sum() > 0
        assert found[f"{key}_n_off"] == (chosen & ~on).sum() > 0
        (name, tile) = list(INFO.tiles.items())[k]
        ev = batch[f"frame_{key}"][chosen].astype(float) * GAINS[name] * 3.65
        if name == "A":
            ev[ev < 1000.0] = 0.0
        good = ~tile.bad
        np.testing.assert_allclose(found[f"{key}_mean"][good], ev.mean(axis=0)[good], rtol=1e-5)
    assert found["n_on"] == max(found["d1_n_on"], found["d2_n_on"])


def test_images_of_bins_are_of_the_shots_that_have_the_frame():
    batch = frames(2, 40)
    came = np.arange(40) % 2
    batch.data["frame_d1_came"], batch.data["frame_d2_came"] = came, np.ones(40)
    batch["frame_d1"][came == 0] = np.nan
    images = BinImages(MEASURING, [-9.0, 9.0])
    images.update(batch)
    found = images.result()
    chosen = (batch["frame_accepted"] == 1) & np.isfinite(batch["frame_scanned"])
    for side in range(2):
        of_side = chosen & (batch["frame_laser_on"] == side)
        with_frame = of_side & (came == 1)
        assert found["n"][side, 0] == found["d2_n"][side, 0] == of_side.sum()
        assert found["d1_n"][side, 0] == with_frame.sum()
        assert found["d1_i0_sum"][side, 0] == pytest.approx(batch["frame_i0"][with_frame].sum())
        ev = batch["frame_d1"][with_frame].astype(float) * GAINS["A"] * 3.65
        good = ~INFO.tiles["A"].bad
        expected = np.where(ev < 1000.0, 0.0, ev).mean(axis=0)
        image = found[f"d1_{('off', 'on')[side]}"][0]
        np.testing.assert_allclose(image[good], expected[good], rtol=1e-5, atol=1e-2)
