"""Frames that are kept of a recording: of whole and of incomplete shots; a replay file of them."""

import itertools
import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sacla_hand import SHAPE, HandShots, run_info
from support.waiting import until
from typer.testing import CliRunner

from skywright.analysis import Batch
from skywright.cli import app
from skywright.errors import ConfigError, DataError
from skywright.files.beside import sibling
from skywright.files.columns import ColumnReader
from skywright.instruments.sacla import owner as owner_module
from skywright.instruments.sacla import replay_writer
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.layouts import FRAME_TAG, FRAMES, IMAGE_KEYS, IMAGES, SHOTS, TAG
from skywright.instruments.sacla.measuring import read_shot_rules
from skywright.instruments.sacla.owner import ShotOwner
from skywright.instruments.sacla.regions import format_region, parse_region
from skywright.instruments.sacla.replay import replay
from skywright.instruments.sacla.replay_file import ReplayFile
from skywright.instruments.sacla.replay_run import choose_file, recorded_files, replay_of
from skywright.instruments.sacla.replay_writer import ReplayWriter
from skywright.instruments.sacla.run_images import FrameImages
from skywright.instruments.sacla.shot_curves import ShotCurves

EDGES = np.linspace(-1.0, 1.0, 5)
REGIONS = [parse_region(f"{name}:{name}:-1,-1;5.5,-1;5.5,7;-1,7") for name in "DE"]
COUNT = 40


@pytest.fixture
def source() -> HandShots:
    return HandShots(run_info(detectors=("D", "E")))


@pytest.fixture
def owner(source: HandShots) -> Iterator[ShotOwner]:
    made = ShotOwner(AnalyzedShots(source, REGIONS, EDGES, window=8))
    made.owner.start()
    yield made
    made.close()


def send(source: HandShots, number: int, rng: np.random.Generator, **changed: Any) -> None:
    frames = {name: rng.normal(100.0, 30.0, SHAPE).astype(np.float32) for name in "DE"}
    delay = 10.0 * rng.uniform(-9, 9)
    source.shot(number, **{"delay": delay, "i0": rng.uniform(0.5, 2), **frames, **changed})


def record(source: HandShots, owner: ShotOwner, path: Path, every: int = 1) -> Path:
    """Record shots of which some lack a frame, a value or the beam."""
    odd: dict[int, dict[str, Any]] = {
        3: {"E": None}, 5: {"D": None}, 7: {"beam": 0.0}, 9: {"delay": None}, 11: {"timing": None},
        12: {"D": None}, 13: {"E": None, "beam": 0.0}, 15: {"D": None, "E": None},
        17: {"laser_close": 1.0},
    }  # fmt: skip
    rng = np.random.default_rng(5)
    owner.frames_every = every
    assert owner.start_recording(path) == ""
    for number in range(COUNT):
        send(source, number, rng, **odd.get(number, {}))
    until(lambda: owner.state().items == COUNT, 60, "the shots are through")
    owner.stop_recording()
    return path


def frame_columns(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(sibling(path, "frames"), "r") as file:
        return {key: column[:] for key, column in file[FRAMES].items()}


def test_frames_of_incomplete_shots_are_kept_and_give_the_same_images_again(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path = record(source, owner, tmp_path / "shots.h5")
    kept = frame_columns(path)
    first = source.info.grid.first
    numbers = ((kept["tag"] & 0xFFFFFFFF) - first) // 2
    assert numbers.tolist() == [k for k in range(COUNT) if k != 15]  # it has no frame
    came = {name: kept[f"d{k + 1}_came"] == 1 for k, name in enumerate("DE")}
    assert numbers[~came["D"]].tolist() == [5, 12]
    assert numbers[~came["E"]].tolist() == [3, 13]
    for k, name in enumerate("DE"):
        assert (np.isnan(kept[f"d{k + 1}"]).all(axis=(1, 2)) == ~came[name]).all()
    # Those that are accepted, and those that lack a frame and nothing else.
    assert numbers[kept["analyzed"] == 0].tolist() == [7, 9, 13, 17]
    assert numbers[kept["accepted"] == 0].tolist() == [3, 5, 7, 9, 12, 13, 17]

    images = FrameImages(owner.source.measuring)
    data = {f"frame_{key}": values for key, values in kept.items()}
    images.update(Batch(kept["tag"], kept["time"], data))
    found = images.result()
    with h5py.File(sibling(path, "images"), "r") as file:
        recorded = {key: column[-1] for key, column in file[IMAGES].items()}
    for key in [f"d{k}_{key}" for k in (1, 2) for key in (*IMAGE_KEYS, "n_on", "n_off")]:
        assert np.asarray(found[key]).tobytes() == np.asarray(recorded[key]).tobytes(), key
    assert (found["n_on"], found["n_off"]) == (recorded["n_on"], recorded["n_off"])
    assert found["d1_n_off"] != found["d2_n_off"]


@pytest.mark.parametrize("every", [1, 3])
def test_a_replay_of_a_recording_has_the_numbers_of_its_rows(
    source: HandShots, owner: ShotOwner, tmp_path: Path, every: int
) -> None:
    path = record(source, owner, tmp_path / "shots.h5", every)
    out = tmp_path / "replay.h5"
    kept = frame_columns(path)
    records = replay_of(path, out)
    assert records == COUNT * 6 + int(kept["d1_came"].sum() + kept["d2_came"].sum())
    found = replay(out, REGIONS, EDGES).values
    with ColumnReader(path, TAG.path) as reader:
        rows = {
            key: reader.read(f"{SHOTS}/{key}")
            for key in (*ShotCurves(2, EDGES.tolist()).inputs, "photons")
        }
        tags = reader.read(TAG.path)
    # A replay has the shots with the frames of all detectors.
    whole = kept["tag"][(kept["d1_came"] & kept["d2_came"]) == 1]
    chosen = np.isin(tags, whole) & (rows["accepted"] == 1)
    assert found["counts"]["accepted"] == chosen.sum()
    assert found["counts"]["shots_expected"] == COUNT
    assert found["counts"]["no_frame"] == COUNT - len(whole)
    for k, name in enumerate("DE"):
        region = found["rois"][name]
        assert region["tags"] == (tags[chosen] & 0xFFFFFFFF).tolist()
        assert region["sum_ev"] == rows["sum_ev"][chosen, k].tolist()
        assert region["photons"] == rows["photons"][chosen, k].tolist()
    # The curves are those of `reprocess` over these rows.
    curves = ShotCurves(2, EDGES.tolist())
    data = {key: values[chosen] for key, values in rows.items()}
    data |= {key: data[key][:, :2] for key in ("sum_ev", "photon_hist")}
    curves.update(Batch(tags[chosen], np.zeros(chosen.sum()), data))
    expected = curves.result()
    for k, name in enumerate("DE"):
        for side in ("on", "off"):
            of_side = found["rois"][name][side]
            assert of_side["n"] == expected[f"{side}_n"][k].tolist()
            mean = np.array(of_side["mean"], float)
            np.testing.assert_array_equal(mean, expected[f"{side}_mean"][k])


def test_a_scanned_motor_and_the_rules_are_in_the_replay_file(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    source.info = replace(source.info, more_values=("motor",))
    owner.frames_every = 1
    path = tmp_path / "shots.h5"
    assert owner.start_recording(path) == ""
    rng = np.random.default_rng(1)
    for number in range(9):
        send(source, number, rng, motor=number / 3)
    until(lambda: owner.state().items == 9, 60, "the shots are through")
    owner.stop_recording()
    replay_of(path, tmp_path / "all.h5")
    found = replay(tmp_path / "all.h5", REGIONS, np.array([0.0, 1.0, 3.0]), binned_by="motor")
    region = found.values["rois"]["D"]
    assert (np.array(region["on"]["n"]) + np.array(region["off"]["n"])).tolist() == [3, 6]
    rules, step = read_shot_rules(owner.source.measuring)
    assert (rules, step) == (source.info.shot_rules, 2)
    with pytest.raises(DataError, match="measuring: shots: KeyError"):
        read_shot_rules({"detectors": []})


def test_a_part_of_a_recording(source: HandShots, owner: ShotOwner, tmp_path: Path) -> None:
    path = record(source, owner, tmp_path / "shots.h5")
    replay_of(path, tmp_path / "five.h5", shots=5)
    counts = replay(tmp_path / "five.h5", REGIONS, EDGES).values["counts"]
    assert (counts["shots_expected"], counts["accepted"]) == (5, 4)
    messages: list[str] = []
    most = 3 * 2 * 4 * SHAPE[0] * SHAPE[1]
    replay_of(path, tmp_path / "small.h5", most_bytes=most, report=messages.append)
    counts = replay(tmp_path / "small.h5", REGIONS, EDGES).values["counts"]
    assert counts["shots_expected"] == counts["accepted"] == 3
    assert "the frames have reached" in messages[0]


def test_the_command_takes_a_file_of_rows(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path = record(source, owner, tmp_path / "shots.h5")
    source.info = run_info(8, detectors=("D", "E"))
    out = tmp_path / "replay.h5"
    run = CliRunner().invoke
    done = run(app, ["sacla", "record", str(out), "--run", str(path)])
    assert (done.exit_code, done.output) == (0, f"{out}: 314 records\n")
    words = ["sacla", "replay", str(out), "--bins=-1:1:4", "--json"]
    regions = [word for each in REGIONS for word in ("--roi", format_region(each))]
    found = json.loads(run(app, [*words, *regions]).stdout)
    assert found["counts"]["accepted"] == COUNT - 8
    assert found["counts"]["no_timing"] == 1
    again = run(app, ["sacla", "record", str(out), "--run", str(path)])
    assert again.exit_code != 0
    wrong = ["sacla", "record", str(tmp_path / "x.h5"), "--run", str(path), "--source", "replay"]
    assert run(app, wrong).exit_code != 0
    assert not (tmp_path / "x.h5").exists()


def test_a_file_of_a_stored_run_is_whole_after_sigterm(
    source: HandShots, owner: ShotOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, resize = itertools.count(), h5py.Dataset.resize
    added, add = itertools.count(), ReplayWriter.add

    def interrupted(dataset: h5py.Dataset, *size: Any, **axis: Any) -> None:
        resize(dataset, *size, **axis)
        if dataset.name.endswith("/data") and next(calls) == 35:  # within a record
            signal.raise_signal(signal.SIGTERM)

    def counted(writer: ReplayWriter, record: Record[Any], arrival: float) -> None:
        add(writer, record, arrival)
        next(added)

    path, out = record(source, owner, tmp_path / "shots.h5"), tmp_path / "replay.h5"
    monkeypatch.setattr(h5py.Dataset, "resize", interrupted)
    monkeypatch.setattr(ReplayWriter, "add", counted)
    monkeypatch.setattr(replay_writer, "FLUSH_S", math.inf)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("it would end the process"))
    try:
        done = CliRunner().invoke(app, ["sacla", "record", str(out), "--run", str(path)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 130
    with ReplayFile(out) as file:
        assert sum(len(channel.tag) for channel in file.channels()) == next(added)
        assert 15 < file.info.grid.count_below(file.info.grid.last + 1) < 25


def test_what_cannot_be_a_replay_file_is_refused(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    rows = record(source, owner, tmp_path / "none.h5", every=0)
    with pytest.raises(DataError, match="no frames were kept"):
        replay_of(rows, tmp_path / "out.h5")
    rows = tmp_path / "old.h5"
    owner.frames_every = 1
    owner.start_recording(rows)
    send(source, COUNT, np.random.default_rng(1))
    source.info = run_info(8, detectors=("D", "E"))
    send(source, 0, np.random.default_rng(1))
    until(lambda: owner.state().items == COUNT + 2, 60, "the shots are through")
    owner.stop_recording()
    files = [rows, tmp_path / owner.progress()[0][1].name]
    with pytest.raises(ConfigError, match="runs 7, 8 of the facility"):
        choose_file(files, None)
    with pytest.raises(ConfigError, match="no run 9 of the facility, expected one of 7, 8"):
        choose_file(files, 9)
    assert choose_file(files, 8) == files[1]
    assert replay_of(files[1], tmp_path / "second.h5") == 8
    with h5py.File(sibling(rows, "frames"), "r+") as file:
        del file[FRAME_TAG.path].attrs["measuring"]
    with pytest.raises(DataError, match="does not say how pixels are measured"):
        replay_of(rows, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
    with pytest.raises(DataError, match="no shots of SACLA"):
        recorded_files([("start", {"uid": "x"})])


def test_a_run_that_shares_its_file_with_one_before_becomes_a_replay_file(
    source: HandShots, owner: ShotOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "PARTS_MAX", 1)
    rows, out = tmp_path / "shots.h5", tmp_path / "replay.h5"
    owner.frames_every = 1
    assert owner.start_recording(rows) == ""
    for run in (7, 8):
        source.info = run_info(run, detectors=("D", "E"))
        for number in range(4):
            source.shot(number)
    until(lambda: owner.state().items == 8, 60, "the shots are through")
    owner.stop_recording()
    assert len(owner.progress()[0]) == 1
    with pytest.raises(ConfigError, match="runs 7, 8 of the facility"):
        choose_file([rows], None)
    assert choose_file([rows], 8) == rows
    notes: list[str] = []
    words = [str(out), "--run", str(rows), "--facility-run", "8", "--shots", "3"]
    done = CliRunner().invoke(app, ["sacla", "record", *words])
    assert done.exit_code == 0
    assert "run 8: measured as run 7, which begins its file" in done.stderr
    with ReplayFile(out) as file:
        assert file.info.run == 8
        assert file.info.grid.first == 8000
        assert file.info.grid.count_below(8100) == 3
    replay_of(rows, tmp_path / "first.h5", report=notes.append)
    with ReplayFile(tmp_path / "first.h5") as file:
        assert (file.info.run, file.info.grid.count_below(7100), notes) == (7, 4, [])


def test_a_replay_has_the_frames_of_the_detectors_of_its_run(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    """The columns of all files of a recording are those of the detectors when it began."""
    path, rng = tmp_path / "shots.h5", np.random.default_rng(1)
    owner.frames_every = 1
    assert owner.start_recording(path) == ""
    send(source, 0, rng)
    source.info = run_info(8, detectors=("E", "F"))
    for number in range(3):
        source.shot(number, E=np.full(SHAPE, 200.0, np.float32))
    until(lambda: owner.state().items == 4, 60, "the shots are through")
    owner.stop_recording()
    out = tmp_path / "replay.h5"
    replay_of(tmp_path / owner.progress()[0][1].name, out)
    with h5py.File(out) as file:
        assert list(file["detectors"]) == ["E"]  # no frame of F was kept
        assert (file["detectors/E/data"][()] == 200.0).all()
        assert len(file["detectors/E/data"]) == 3
