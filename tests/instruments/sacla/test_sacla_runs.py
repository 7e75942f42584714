"""The owner of shots, from run to run: tags, counts, measuring, files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacla_hand import EV, NAME, SHAPE, WHOLE, HandShots, run_info
from sacla_owner import column, items
from support.waiting import until

from skywright.files.beside import sibling
from skywright.files.columns import ColumnReader
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.join import TagGrid
from skywright.instruments.sacla.layouts import (
    FRAME_TAG,
    FRAMES,
    IMAGE_NUMBER,
    IMAGES,
    MEASURING,
    REGIONS_NUMBER,
    SHOTS,
    TAG,
)
from skywright.instruments.sacla.owner import ShotOwner
from skywright.instruments.sacla.tile import Tile

ON = ("n_on", "n_off")
"""Numbers of shots in the running images."""


def test_the_next_run_follows_with_its_own_tags(source: HandShots, owner: ShotOwner) -> None:
    seen: list[tuple[int, int]] = []
    queue = owner.owner.subscribe(depth=100)
    for number in range(5):
        source.shot(number, timing=None)  # waits for its timing value until the run ends
    source.info = run_info(8, 202302)
    for number in range(3):
        source.shot(number)
    until(lambda: items(owner) == 8, 60, "the shots of both runs")
    while (shot := queue.get(0.0)) is not None:
        seen.append((shot.run, shot.identity))
    before, after = run_info(), run_info(8, 202302)
    assert seen == [
        *((7, before.identity(7000 + 2 * k)) for k in range(5)),
        *((8, after.identity(8000 + 2 * k)) for k in range(3)),
    ]
    queue.close()


def test_the_next_identity_is_of_the_run_before_until_the_next_one_has_begun(
    source: HandShots, owner: ShotOwner
) -> None:
    files_begin, identities = owner.source.run_begins, []

    def begin_run() -> None:
        identities.append(owner.source.next_identity)
        files_begin()

    owner.source.run_begins = begin_run
    source.shot(0)
    source.info = run_info(8, 202302)
    source.shot(0)
    assert identities == [run_info().identity(7000) + 1]
    assert owner.source.next_identity == run_info(8, 202302).identity(8000) + 1


def test_a_run_with_other_detectors_has_its_own_images(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    files_begin, in_files = owner.source.run_begins, []

    def begin_run() -> None:
        in_files.append(owner.source.measuring)  # what the files of the run say
        files_begin()

    owner.source.run_begins = begin_run
    source.shot(0)
    source.info = run_info(8, 202302, ("D", "E", "F"))
    for number in range(3):
        source.shot(number)
    until(lambda: items(owner) == 4, 60, "the shots of both runs")
    assert list(owner.shapes) == ["D", "E", "F"]
    assert in_files == [owner.source.measuring]  # more tiles have longer blocks of tags
    path = tmp_path / "shots.h5"
    assert owner.start_recording(path) == ""
    for number in range(3, 6):
        source.shot(number)
    until(lambda: items(owner) == 7, 60, "the shots of the recording")
    owner.stop_recording()
    mean = column(sibling(path, "images"), f"{IMAGES}/d2_mean", IMAGE_NUMBER.path)[-1]
    np.testing.assert_allclose(mean, 104 * EV, rtol=1e-6)


def test_a_run_with_another_gain_or_photon_energy_is_measured_anew(
    source: HandShots, owner: ShotOwner
) -> None:
    for number in range(3):
        source.shot(number)
    before = owner.source.region_set.number
    info = run_info(8, 202302)
    source.info = replace(
        info,
        tiles={NAME: replace(info.tiles[NAME], gain=30.0)},
        pixel_rules=replace(info.pixel_rules, photon_ev=5000.0),
    )
    for number in range(4):
        source.shot(number, D=np.full(SHAPE, 100.0, np.float32))
    until(lambda: items(owner) == 7, 60, "the shots of both runs")
    assert owner.source.region_set.number == before + 1
    curves = owner.source.curves()
    assert int(curves["n_on"] + curves["n_off"]) == 4
    pixels = SHAPE[0] * SHAPE[1]
    # 100 ADU of 30 electrons are 10950 eV, two photons of 5000 eV.
    assert curves["on_mean"][0, 2] == pytest.approx(pixels * 100 * 2 * EV)
    assert curves["photon_hist"][0].tolist() == [0, 0, 4 * pixels, 0, 0, 0, 0, 0]
    source.shot(20)  # of the next block: the images of the one before are whole
    source.shot(30)  # so that nothing more is awaited before shot 20
    until(lambda: owner.source.mean_image(NAME)[1] == 4, 60, "the images of four shots")
    mean, _ = owner.source.mean_image(NAME)
    np.testing.assert_allclose(mean, 100 * 2 * EV)


def test_counts_go_on_from_run_to_run(source: HandShots, owner: ShotOwner) -> None:
    for run, detectors in ((7, (NAME,)), (8, (NAME,)), (9, (NAME, "E"))):
        source.info = run_info(run, 202301, detectors)
        for number in (0, 1, 3, 4):  # shot 2 comes last
            source.shot(number)
        source.shot(4)  # repeated
        source.shot(2, i0=0.0)
    until(lambda: items(owner) == 15, 60, "the shots of all runs")
    counts = owner.source.counts()
    records = 3 * 6 * 7 + 6
    assert {key: counts[key] for key in ("records", "duplicate", "accepted", "i0_low")} == {
        "records": records,
        "duplicate": 7 + 7 + 8,
        "accepted": 12,
        "i0_low": 3,
    }
    assert owner.source.lost["records duplicate"] == 22


def test_a_new_run_opens_new_files_and_its_tags_may_begin_anew(
    source: HandShots, owner: ShotOwner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "skywright")
    path = tmp_path / "shots.h5"
    source.shot(0)
    until(lambda: items(owner) == 1, 60, "a shot before the recording")
    owner.frames_every = 1
    assert owner.start_recording(path) == ""
    for number in (1, 2):
        source.shot(number)
    source.info = replace(run_info(8), grid=TagGrid(10, 2))  # the same high tag
    for number in range(3):
        source.shot(number)
    until(lambda: items(owner) == 6, 60, "the shots of both runs")
    owner.stop_recording()
    (first, second), counts = owner.progress()
    assert (first.name, second.name) == ("shots.h5", "shots_2_run8.h5")
    assert first.first == (0, 0, 0, 0)
    assert counts[0] == counts[3] == 5
    last = tmp_path / second.name
    tags = {7: [7002, 7004], 8: [10, 12, 14]}
    for part, run in ((path, 7), (last, 8)):
        expected = [source.info.identity(tag) for tag in tags[run]]
        assert column(part, TAG.path).tolist() == expected
        assert set(column(part, f"{SHOTS}/run")) == {run}
        assert column(sibling(part, "frames"), FRAME_TAG.path, FRAME_TAG.path).tolist() == expected
        assert len(column(sibling(part, "regions"), REGIONS_NUMBER.path, REGIONS_NUMBER.path)) == 1
    assert second.first[0] == second.first[3] == 2
    # The images of a file are up to its last shot; where tags begin anew, images do too.
    shots = [
        sum(column(sibling(part, "images"), f"{IMAGES}/{key}", IMAGE_NUMBER.path)[-1] for key in ON)
        for part in (path, last)
    ]
    assert shots == [2, 3]
    curves = owner.source.curves()
    assert int(curves["n_on"] + curves["n_off"]) == 3
    # It is a fact, no failure.
    state = owner.state()
    assert not state.alarm
    assert state.failures == {}
    assert "run 8: curves and images begin anew, because its tags do" in caplog.messages[-1]


@pytest.mark.parametrize("when", ["start_recording", "end_recording"])
def test_a_run_that_begins_while_a_recording_begins_or_ends_has_its_own_files(
    source: HandShots,
    owner: ShotOwner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    path, recorded = tmp_path / "shots.h5", getattr(owner.source, when)

    def send() -> None:
        source.shot(0)
        source.info = run_info(8)
        source.shot(0)

    def start(*arguments: Any) -> Any:
        recording = recorded(*arguments)
        send()
        return recording

    def end(*arguments: Any) -> Any:
        send()
        return recorded(*arguments)

    monkeypatch.setattr(owner.source, when, start if when == "start_recording" else end)
    assert owner.start_recording(path) == ""
    owner.stop_recording()
    assert [part.name for part in owner.progress()[0]] == ["shots.h5", "shots_2_run8.h5"]
    assert column(path, f"{SHOTS}/run").tolist() == [7]
    assert column(tmp_path / "shots_2_run8.h5", f"{SHOTS}/run").tolist() == [8]
    assert owner.state().failures == {}


def test_counts_are_read_while_a_worker_is_lost_for_the_first_time(
    source: HandShots, owner: ShotOwner
) -> None:
    lost = owner.source._pipeline.lost

    class Count(int):
        def __bool__(self) -> bool:
            lost["worker lost"] += 1  # the other thread
            return True

    lost["other"] = Count(3)
    assert owner.source.lost["other"] == 3


def test_a_recording_that_has_all_its_shots_keeps_its_images_when_tags_begin_anew(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path = tmp_path / "shots.h5"
    assert owner.start_recording(path, 3) == ""
    for number in range(3):
        source.shot(number)
    source.info = replace(run_info(8), grid=TagGrid(10, 2))  # the same high tag
    for number in range(2):
        source.shot(number)
    until(lambda: items(owner) == 5, 60, "the shots of both runs")
    owner.stop_recording()
    parts, counts = owner.progress()
    assert [part.name for part in parts] == ["shots.h5"]
    assert counts[0] == 3
    images = sibling(path, "images")
    found = [column(images, f"{IMAGES}/{key}", IMAGE_NUMBER.path)[-1] for key in ON]
    assert sum(found) == 3
    mean = column(images, f"{IMAGES}/d1_mean", IMAGE_NUMBER.path)[-1]
    np.testing.assert_allclose(mean, 101 * EV, rtol=1e-6)


def test_a_count_of_shots_is_that_of_all_runs_and_an_empty_run_has_no_file(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    assert owner.start_recording(tmp_path / "shots.h5", 4) == ""
    source.info = run_info(8)  # no shot of run 7 is in the recording
    for number in range(2):
        source.shot(number)
    source.info = run_info(9)
    for number in range(5):
        source.shot(number)
    until(lambda: items(owner) == 7, 60, "the shots of both runs")
    owner.stop_recording()
    parts, counts = owner.progress()
    assert [part.name for part in parts] == ["shots.h5", "shots_2_run9.h5"]
    assert counts[0] == 4
    assert set(column(tmp_path / "shots.h5", f"{SHOTS}/run")) == {8}
    assert column(tmp_path / parts[1].name, f"{SHOTS}/run").tolist() == [9, 9]


def test_a_recording_that_begins_between_two_runs_is_measured_as_the_next_one(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    source.shot(0)
    until(lambda: items(owner) == 1, 60, "a shot before the recording")
    owner.frames_every = 1
    gains, path = {7: 15.0, 8: 30.0, 9: 60.0}, tmp_path / "shots.h5"
    assert owner.start_recording(path) == ""
    for run in (8, 9):
        info = run_info(run)
        tiles = {NAME: replace(info.tiles[NAME], gain=gains[run])}
        source.info = replace(info, tiles=tiles)
        source.shot(0)
    until(lambda: items(owner) == 3, 60, "the shots of both runs")
    owner.stop_recording()
    parts, counts = owner.progress()
    assert [part.name for part in parts] == ["shots.h5", "shots_2_run9.h5"]
    assert [part.first[0] for part in parts] == [0, 1]
    assert counts[0] == counts[3] == 2
    for part, run in zip(parts, (8, 9), strict=True):
        with ColumnReader(sibling(tmp_path / part.name, "frames"), FRAME_TAG.path) as reader:
            found = reader.attributes(FRAME_TAG.path)[MEASURING]
        assert [each["gain"] for each in found["detectors"]] == [gains[run]]


def test_a_recording_goes_on_when_a_detector_has_another_shape_in_the_next_run(
    source: HandShots, tmp_path: Path
) -> None:
    names, other, path = ("D", "E"), (4, 4), tmp_path / "shots.h5"
    source.info = run_info(7, detectors=names)
    analyzed = AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), window=8)
    owner = ShotOwner(analyzed, frames_every=1)
    try:
        owner.owner.start()
        assert owner.start_recording(path) == ""
        for number in range(3):
            source.shot(number)
        info = run_info(8, detectors=names)
        tiles = {"D": Tile("D", 15.0, np.zeros(other, bool)), "E": info.tiles["E"]}
        source.info = replace(info, tiles=tiles)
        for number in range(4):
            source.shot(number, D=np.ones(other, np.float32))
        until(lambda: items(owner) == 7, 60, "the shots of both runs")
        message = owner.state().message
        owner.stop_recording()
        source.shot(4, D=np.ones(other, np.float32))
        until(lambda: items(owner) == 8, 60, "a shot after the recording")
        assert owner.state().message == "taking shots"
        assert owner.error == ""
        assert owner.owner.lost == {}
        parts, counts = owner.progress()
    finally:
        owner.close()
    assert (counts[0], counts[3]) == (7, 7)
    frames, images = (sibling(tmp_path / parts[1].name, kind) for kind in ("frames", "images"))
    kept = {
        key: column(frames, f"{FRAMES}/{key}", FRAME_TAG.path)
        for key in ("d1", "d1_came", "d2", "d2_came")
    }
    assert kept["d1_came"].tolist() == [0] * 4
    assert np.isnan(kept["d1"]).all()
    assert kept["d1"].shape == (4, *SHAPE)
    assert kept["d2_came"].tolist() == [1] * 4
    assert kept["d2"][:, 0, 0].tolist() == [100.0, 101.0, 102.0, 103.0]
    last = {
        key: column(images, f"{IMAGES}/{key}", IMAGE_NUMBER.path)[-1]
        for key in ("d1_mean", "d1_n_on", "d1_n_off", "d2_mean", "d2_n_on", "d2_n_off", *ON)
    }
    assert np.isnan(last["d1_mean"]).all()
    assert last["d1_n_on"] + last["d1_n_off"] == 0
    np.testing.assert_allclose(last["d2_mean"], 101.5 * EV, rtol=1e-6)
    assert last["d2_n_on"] + last["d2_n_off"] == last["n_on"] + last["n_off"] == 4
    assert "run 8: the frames and images of D are not recorded" in message


def test_a_new_file_that_cannot_be_opened_ends_the_recording_with_an_alarm(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    assert owner.start_recording(folder / "shots.h5") == ""
    source.shot(0)
    until(lambda: owner.progress()[1][0] == 1, 60, "the shot is recorded")
    (folder / "shots_2_run8.h5").mkdir()
    source.info = run_info(8)
    source.shot(0)
    until(lambda: not owner.is_recording, 60, "the recording has ended")
    assert "shots_2_run8.h5" in owner.error
    source.shot(1)
    until(lambda: items(owner) == 3, 60, "shots go on")
    assert owner.progress()[1][0] == 1


def test_a_run_that_begins_within_a_block_of_tags_loses_no_shot_of_the_images(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path = tmp_path / "shots.h5"
    assert owner.start_recording(path) == ""
    for number in range(30):
        source.shot(number)  # up to the tag 7058, in the block 7040 ... 7071
    source.info = replace(run_info(8), grid=TagGrid(7060, 2))
    for number in range(30):
        source.shot(number)
    until(lambda: items(owner) == 60, 60, "the shots of both runs")
    owner.stop_recording()
    last = sibling(tmp_path / owner.progress()[0][-1].name, "images")
    assert sum(column(last, f"{IMAGES}/{key}", IMAGE_NUMBER.path)[-1] for key in ON) == 60
    mean = column(last, f"{IMAGES}/d1_mean", IMAGE_NUMBER.path)[-1]
    np.testing.assert_allclose(mean, 114.5 * EV, rtol=1e-6)
