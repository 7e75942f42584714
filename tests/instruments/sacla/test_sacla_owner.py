"""The owner of shots: whole shots in order, regions that change, recordings."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacla_hand import EV, NAME, SHAPE, WHOLE, HandShots, run_info
from sacla_owner import column, items
from support.turns import Turns, put_both
from support.waiting import until

from iocs.sacla.ioc import SaclaIOC
from skywright.errors import ConfigError, HardwareError
from skywright.files.beside import sibling
from skywright.instruments.sacla import owner as owner_module
from skywright.instruments.sacla import pipeline as pipelines
from skywright.instruments.sacla.analyzed_shot import AnalyzedShot, RegionSet
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.image_series import ImageSeries
from skywright.instruments.sacla.layouts import (
    CORNERS_MAX,
    FRAME_TAG,
    FRAMES,
    IMAGE_COUNTS,
    IMAGE_NUMBER,
    IMAGES,
    REGIONS,
    REGIONS_NUMBER,
    SHOTS,
    TAG,
    VERDICTS,
    ImagesLayout,
    check_room,
    read_regions,
    region_rows,
)
from skywright.instruments.sacla.owner import ShotOwner
from skywright.instruments.sacla.process_workers import ProcessWorkers
from skywright.instruments.sacla.regions import Region, format_region, make_mask, parse_region
from skywright.instruments.sacla.stored_frame import StoredFrame
from skywright.instruments.sacla.tile import Tile, TileRegions
from skywright.instruments.sacla.workers import Answer, ThreadWorkers, Worker
from skywright.waiting import pause

LEFT = parse_region("left:D:-1,-1;3.5,-1;3.5,7;-1,7")
DOTS = Region("dots", "D", mask=make_mask(np.arange(48).reshape(SHAPE) % 3 == 1))


def test_shots_are_rows_in_order_whatever_their_verdict(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path = tmp_path / "shots.h5"
    assert owner.start_recording(path) == ""
    source.shot(0)
    source.shot(1, beam=0.0)
    source.shot(2, D=None)
    source.shot(3, delay=None)
    source.shot(4, i0=0.01)
    source.shot(5, laser_open=0.0)
    for number in (7, 6, 8, 9, 10, 11, 12):  # two shots the wrong way round
        source.shot(number)
    until(lambda: items(owner) == 13, 60, "all shots are through")
    owner.stop_recording()
    info = source.info
    tags = column(path, TAG.path)
    assert tags.tolist() == [info.identity(7000 + 2 * k) for k in range(13)]
    verdict = [VERDICTS[code] for code in column(path, f"{SHOTS}/verdict")]
    assert verdict[:6] == [
        *("accepted", "beam_off", "no_frame", "no_value", "i0_low", "laser_ambiguous")
    ]
    assert verdict[6:] == ["accepted"] * 7
    sums = column(path, f"{SHOTS}/sum_ev")
    np.testing.assert_allclose(sums[[0, 6], 0], [48 * 100 * EV, 48 * 106 * EV])
    assert np.isnan(sums[1:6]).all()
    assert np.isnan(column(path, f"{SHOTS}/delay")[3])
    np.testing.assert_allclose(column(path, f"{SHOTS}/scanned")[0], 0.1)
    images = sibling(path, "images")
    assert column(images, f"{IMAGES}/n_on", IMAGE_NUMBER.path)[-1] == 3
    assert column(images, f"{IMAGES}/n_off", IMAGE_NUMBER.path)[-1] == 5


def test_a_recording_has_as_many_shots_as_wanted_and_their_frames(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    owner.frames_every = 3
    for number in range(4):
        source.shot(number)
    path = tmp_path / "shots.h5"
    assert owner.start_recording(path, count=7) == ""
    for number in range(4, 20):
        source.shot(number)
    until(lambda: items(owner) == 20, 60, "all shots are through")
    assert owner.is_recording
    owner.stop_recording()
    assert not owner.is_recording
    tags = column(path, TAG.path)
    assert tags.tolist() == [source.info.identity(7000 + 2 * k) for k in range(4, 11)]
    frames = sibling(path, "frames")
    assert column(frames, FRAME_TAG.path, FRAME_TAG.path).tolist() == tags[::3].tolist()
    pixels = column(frames, "/entry/frames/d1", FRAME_TAG.path)
    assert pixels[:, 0, 0].tolist() == [104.0, 107.0, 110.0]


class CountingFile:
    """Takes the place of a replay file; notes which frames are read."""

    def __init__(self) -> None:
        self.info = run_info()
        self.read: list[int] = []

    def read_frame(self, detector: str, index: int, out: np.ndarray) -> None:
        self.read.append(index)
        out[...] = index


def test_frames_that_are_not_kept_are_not_read_again(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    file: Any = CountingFile()
    owner.frames_every = 3
    assert owner.start_recording(tmp_path / "shots.h5") == ""
    for number in range(10):
        frame = None if number == 1 else StoredFrame(file, NAME, number)
        source.shot(number, **{NAME: frame})
    until(lambda: items(owner) == 10, 60, "all shots are through")
    owner.stop_recording()
    # Of the shots 0, 2, 3, 4 ..., which have a frame
    kept = column(sibling(tmp_path / "shots.h5", "frames"), f"{FRAMES}/d1", FRAME_TAG.path)
    assert kept[:, 0, 0].tolist() == [0, 4, 7]
    assert sorted(file.read) == sorted([0, *range(2, 10), 0, 4, 7])  # the first for the analysis


def test_regions_change_between_two_shots(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path = tmp_path / "shots.h5"
    owner.start_recording(path)
    source.shot(0)
    first = owner.source.region_set.number
    assert owner.source.change_regions([LEFT, WHOLE]).number == first + 1
    with pytest.raises(ConfigError, match="unknown detector X"):
        owner.source.change_regions([Region("a", "X", ((0, 0), (1, 0), (1, 1)))])
    off = Region("off", LEFT.detector, ((90, 0), (99, 0), (99, 9)))
    with pytest.raises(ConfigError, match="ROI off: no pixel of D is inside"):
        owner.source.change_regions([LEFT, off])
    source.shot(1)
    until(lambda: items(owner) == 2, 60, "both shots are through")
    owner.stop_recording()
    assert column(path, f"{SHOTS}/regions_number").tolist() == [first, first + 1]
    sums = column(path, f"{SHOTS}/sum_ev")
    np.testing.assert_allclose(sums[0, 0], 48 * 100 * EV)
    np.testing.assert_allclose(sums[1, :2], [24 * 101 * EV, 48 * 101 * EV])
    assert np.isnan(sums[0, 1])
    sets = sibling(path, "regions")
    numbers = column(sets, REGIONS_NUMBER.path, REGIONS_NUMBER.path)
    assert numbers.tolist() == [first, first + 1]
    # Curves are of the present regions alone.
    curves = owner.source.curves()
    assert curves["on_n"].sum(axis=1).tolist() == [1, 1]


def test_recordings_of_another_thread_and_a_path_that_cannot_be_written(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    assert "no such directory" in owner.start_recording(tmp_path / "nowhere" / "shots.h5")
    assert not owner.is_recording
    thread = threading.Thread(target=owner.start_recording, args=(tmp_path / "a.h5",))
    thread.start()
    thread.join()
    source.shot(0)
    until(lambda: owner.rows.rows_readable == 1, 60, "the shot is in the file")
    owner.stop_recording()


def test_an_error_of_the_frames_is_of_its_recording_only(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    owner.frames_every = 1
    taken = sibling(tmp_path / "a.h5", "frames")
    taken.touch()
    assert "exists already" in owner.start_recording(tmp_path / "a.h5")
    assert "exists already" in owner.error
    owner.frames_every = 0
    assert owner.start_recording(tmp_path / "b.h5") == ""
    assert owner.error == ""


def test_the_last_image_is_in_the_file_although_the_disk_hung_for_some_periods(
    source: HandShots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, answers, checks = threading.Event(), threading.Event(), [0]
    original = ImagesLayout.append

    def append(self: ImagesLayout, *arguments: Any) -> Any:
        hangs.set()
        assert answers.wait(60)
        return original(self, *arguments)

    def check_often(seconds: float) -> None:
        checks[0] += 1
        pause(0.001)

    monkeypatch.setattr(ImagesLayout, "append", append)
    monkeypatch.setattr(owner_module, "pause", check_often)
    analyzed = AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), window=8)
    owner = ShotOwner(analyzed, image_period_s=0.0)
    monkeypatch.setattr(owner.images._queue, "_bytes_max", 1)  # as if an image filled the queue
    try:
        assert owner.start_recording(tmp_path / "shots.h5") == ""
        for number in range(40):
            source.shot(number)
        assert hangs.wait(60)
        known = checks[0]
        until(lambda: checks[0] > known + 5, 60, "some periods pass")
        source.shot(40)
        ending = threading.Thread(target=owner.stop_recording)
        ending.start()
        until(lambda: not owner.images._queue.accepts_rows, 60, "the last image is offered")
        answers.set()
        ending.join(60)
        images = sibling(tmp_path / "shots.h5", "images")
        on, off = (column(images, f"{IMAGES}/{key}", IMAGE_NUMBER.path) for key in IMAGE_COUNTS)
        assert (on[-1] + off[-1], owner.state().lost) == (41, {})
    finally:
        answers.set()
        owner.close()


def test_images_that_cannot_be_written_are_counted_as_lost(
    source: HandShots, owner: ShotOwner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(ImagesLayout, "append", refuse)
    assert owner.start_recording(tmp_path / "shots.h5") == ""
    source.shot(0)
    owner.stop_recording()
    assert owner.state().lost == {"images not written": 1}


def test_a_source_that_cannot_start_leaves_no_recording_open(
    source: HandShots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise HardwareError("the facility does not answer")

    owner = ShotOwner(AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), window=8))
    with monkeypatch.context() as patched:
        patched.setattr(source, "start", refuse)
        with pytest.raises(HardwareError, match="the facility does not answer"):
            owner.start_recording(tmp_path / "a.h5")
    assert not owner.is_recording
    assert owner.start_recording(tmp_path / "b.h5") == ""
    source.shot(0)
    until(lambda: owner.rows.rows_readable == 1, 60, "the shot is in the next file")
    owner.close()


def test_region_sets_are_read_as_they_were_written() -> None:
    regions = (WHOLE, LEFT, replace(LEFT, name="naïve"))
    rows = region_rows(RegionSet(3, regions))
    assert rows.identity.tolist() == [3]
    assert read_regions(first_row(rows.columns)) == regions
    regions = (DOTS, WHOLE)
    assert read_regions(first_row(region_rows(RegionSet(4, regions), 16, 100).columns)) == regions


def first_row(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path.rsplit("/", 1)[1]: values[0] for path, values in columns.items()}


def test_images_of_eight_tiles_are_up_to_date_after_64_tags() -> None:
    names = tuple(f"MPCCD-8N0-3-002-{k}" for k in range(1, 9))
    source = HandShots(run_info(detectors=names))
    analyzed = AnalyzedShots(source, [], np.linspace(-1.0, 1.0, 5), window=8)
    try:
        analyzed.start(lambda shot: None, pytest.fail)
        for number in range(68):  # the tags 7000, 7002 ... 7134, in which 7040 ... 7103 is a block
            source.shot(number)
        until(
            lambda: all(analyzed.mean_image(name)[1] == 52 for name in names), 60, "the images come"
        )
    finally:
        analyzed.close()


def test_a_recorded_mask_gives_the_sums_again_from_the_frames(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    path, rng = tmp_path / "shots.h5", np.random.default_rng(2)
    owner.change_regions([LEFT, DOTS])
    owner.frames_every = 1
    owner.start_recording(path)
    for number in range(4):
        source.shot(number, D=rng.normal(100.0, 30.0, SHAPE).astype(np.float32))
    until(lambda: items(owner) == 4, 60, "the shots are through")
    owner.stop_recording()
    sets = sibling(path, "regions")
    columns = owner.region_sets.layout.columns
    row = {
        each.path: column(sets, each.path, REGIONS_NUMBER.path)
        for each in columns  # type: ignore[attr-defined]
    }
    regions = read_regions(first_row(row))
    assert regions == (LEFT, DOTS)
    frames = column(sibling(path, "frames"), f"{FRAMES}/d1", FRAME_TAG.path)
    tile = TileRegions(source.info.tiles[NAME], source.info.pixel_rules, regions)
    again = tile.measure(frames.reshape(4, -1), np.arange(4))
    sums = column(path, f"{SHOTS}/sum_ev")[:, :2]
    assert sums.tobytes() == again["sum_ev"].tobytes()
    np.testing.assert_allclose(sums[:, 1], frames.reshape(4, -1)[:, 1::3].sum(1) * EV, rtol=1e-5)


def test_a_mask_has_no_room_in_a_recording_that_began_without_one(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    owner.start_recording(tmp_path / "shots.h5")
    with pytest.raises(ConfigError, match="ROI dots: the open file has no room for masks"):
        owner.change_regions([WHOLE, DOTS])
    assert owner.source.region_set.regions == (WHOLE,)
    owner.stop_recording()
    owner.change_regions([WHOLE, DOTS])
    assert owner.source.region_set.regions == (WHOLE, DOTS)


def test_a_mask_of_a_larger_detector_that_is_away_is_recorded(
    source: HandShots, owner: ShotOwner, tmp_path: Path
) -> None:
    source.info = run_info(7, 202301, (NAME, "E"))
    large = np.ones((16, 16), bool)
    source.info.tiles["E"] = Tile("E", 15.0, ~large)  # type: ignore[index]
    source.shot(0, E=large.astype(np.float32))
    mask = Region("large", "E", mask=make_mask(large))
    owner.change_regions([mask, DOTS])
    source.info = run_info(8)
    source.shot(0)
    path = tmp_path / "shots.h5"
    owner.start_recording(path)
    group = SaclaIOC("TEST:")
    group.shots = owner
    asyncio.run(group._post())
    assert group.mask_bytes.value == len(mask.mask.bits)
    source.shot(1)
    owner.change_regions([mask, WHOLE])
    source.shot(2)
    until(lambda: items(owner) == 4, 60, "the shots of both runs")
    owner.stop_recording()
    assert owner.error == ""
    row = {
        each.path: column(sibling(path, "regions"), each.path, REGIONS_NUMBER.path)
        for each in owner.region_sets.layout.columns  # type: ignore[attr-defined]
    }
    assert read_regions(first_row(row)) == (mask, DOTS)
    assert row[f"{REGIONS}/mask"].shape[2] == group.mask_bytes.value


def test_a_mask_is_left_out_when_a_run_has_tiles_of_another_shape(
    source: HandShots, owner: ShotOwner
) -> None:
    owner.change_regions([WHOLE, DOTS])
    source.shot(0)
    info = run_info(8, 202302)
    source.info = replace(info, tiles={NAME: Tile(NAME, 15.0, np.zeros((4, 4), bool))})
    source.shot(0, D=np.ones((4, 4), np.float32))
    until(lambda: items(owner) == 2, 60, "the shots of both runs")
    assert owner.source.region_set.regions == (WHOLE,)


def test_regions_without_room_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"65 regions, expected at most 64$"):
        check_room([replace(WHOLE, name=f"r{k}") for k in range(65)])
    with pytest.raises(ConfigError, match="17 regions, expected at most 16 in the open file"):
        check_room([replace(WHOLE, name=f"r{k}") for k in range(17)], 16)
    corners = tuple((float(k), float(k % 2)) for k in range(CORNERS_MAX + 1))
    with pytest.raises(ConfigError, match="65 corners"):
        check_room([replace(WHOLE, points=corners)])
    with pytest.raises(ConfigError, match="longer than 64 bytes"):
        check_room([replace(WHOLE, name="x" * 65)])


def test_another_gain_waits_for_no_worker_and_loses_no_shot(
    source: HandShots, monkeypatch: pytest.MonkeyPatch
) -> None:
    shots: list[tuple[int, float]] = []

    def take(shot: AnalyzedShot) -> None:
        assert shot.found is not None
        shots.append((shot.run, float(shot.found["sum_ev"][0])))

    def refuse(_: ProcessWorkers) -> None:
        raise AssertionError("shots and display wait while processes start")

    analyzed = AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), window=8, workers=2)
    try:
        analyzed.start(take, pytest.fail)
        monkeypatch.setattr(ProcessWorkers, "wait_until_ready", refuse)
        monkeypatch.setattr(analyzed, "_report", lambda *_: None)  # that images begin anew
        for number in range(10):
            source.shot(number, D=np.full(SHAPE, 100.0, np.float32))
        info = run_info(8)
        source.info = replace(info, tiles={NAME: replace(info.tiles[NAME], gain=30.0)})
        for number in range(10):
            source.shot(number, D=np.full(SHAPE, 100.0, np.float32))
            assert analyzed.counts()["accepted"] == 11 + number
        until(lambda: len(shots) == 20, 60, "the shots of both runs")
        sums = SHAPE[0] * SHAPE[1] * 100 * EV
        assert shots == [(7, pytest.approx(sums))] * 10 + [(8, pytest.approx(2 * sums))] * 10
        assert analyzed.lost == {}
    finally:
        analyzed.close()


def test_images_are_those_of_the_recorded_shots_and_no_shot_waits_for_a_worker(
    source: HandShots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is held up while a recording begins, a reset is asked for, and it ends."""
    hold, original = threading.Event(), Worker.analyze

    def analyze(self: Worker, *arguments: Any) -> Answer:
        assert hold.wait(90)
        return original(self, *arguments)

    monkeypatch.setattr(Worker, "analyze", analyze)
    monkeypatch.setattr(
        pipelines,
        "make_workers",
        lambda count, analyses, frames, submit: ThreadWorkers(count, analyses, frames),
    )
    analyzed = AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), window=8)
    owner = ShotOwner(analyzed)
    try:
        owner.owner.start()
        path = tmp_path / "shots.h5"
        for number in range(3):
            source.shot(number)
        assert owner.start_recording(path) == ""
        for number in range(3, 8):
            source.shot(number)
        ending = threading.Thread(target=owner.stop_recording)
        ending.start()
        until(lambda: analyzed._pipeline.recording is None, 60, "the recording is asked to end")
        analyzed.reset()
        for number in range(8, 12):
            source.shot(number)  # all of one block of tags, in three series
        assert items(owner) == 0
        assert ending.is_alive()
        hold.set()
        ending.join(90)
        until(lambda: items(owner) == 12, 60, "all shots are through")
        expected = [source.info.identity(7000 + 2 * k) for k in range(3, 8)]
        assert column(path, TAG.path).tolist() == expected
        images = sibling(path, "images")
        mean = column(images, f"{IMAGES}/d1_mean", IMAGE_NUMBER.path)[-1]
        np.testing.assert_allclose(mean, 105 * EV, rtol=1e-6)
        largest = column(images, f"{IMAGES}/d1_max", IMAGE_NUMBER.path)[-1]
        np.testing.assert_allclose(largest, 107 * EV, rtol=1e-6)
        diff = column(images, f"{IMAGES}/d1_diff", IMAGE_NUMBER.path)[-1]
        np.testing.assert_allclose(diff, (105 - 105) * EV, atol=1e-3)
    finally:
        hold.set()
        owner.close()


def test_shots_are_binned_by_any_value(source: HandShots, owner: ShotOwner, tmp_path: Path) -> None:
    assert owner.start_recording(tmp_path / "shots.h5") == ""
    source.info = replace(run_info(8), more_values=("motor",))
    owner.source.change_bins(np.linspace(0.0, 4.0, 5), "motor")
    for number in range(4):
        source.shot(number, motor=number + 0.5, i0=float(number % 2 + 1))
    source.shot(4, motor=None)
    source.shot(5, motor=float("nan"))
    for number in range(6, 12):
        source.shot(number, motor=99.0)
    until(lambda: items(owner) == 12, 60, "all shots are through")
    curves = owner.source.curves()
    assert (curves["on_n"] + curves["off_n"])[0].tolist() == [1, 1, 1, 1]
    assert (int(curves["n_unknown"]), int(curves["n_outside"])) == (2, 6)
    owner.source.change_bins(np.array([0.5, 1.5, 2.5]), "i0")
    for number in range(12, 16):
        source.shot(number, motor=0.0, i0=float(number % 2 + 1))
    until(lambda: items(owner) == 16, 60, "all shots are through")
    curves = owner.source.curves()
    assert (curves["on_n"][0].tolist(), curves["off_n"][0].tolist()) == ([0, 2], [2, 0])
    with pytest.raises(ConfigError, match="expected one of delay, stage, timing, i0, motor"):
        owner.source.change_bins(None, "weather")
    owner.stop_recording()
    motor = column(tmp_path / "shots.h5", f"{SHOTS}/motor")
    assert motor[:4].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert np.isnan(motor[4:6]).all()


def test_the_number_of_shots_in_an_image_is_that_of_the_image(
    source: HandShots, owner: ShotOwner
) -> None:
    for number in range(40):
        source.shot(number)
    until(lambda: owner.source.shots_in_image("D") >= 32, 60, "a block is in the image")
    assert owner.source.mean_image("D")[1] == owner.source.shots_in_image("D")
    assert owner.source.mean_image("gone")[1] == owner.source.shots_in_image("gone") == 0


def test_recent_shots_are_of_the_present_regions(source: HandShots, owner: ShotOwner) -> None:
    owner.change_regions([WHOLE, LEFT])
    for number in range(3):
        source.shot(number)
    until(lambda: items(owner) == 3, 60, "the shots before")
    source.shot(3)  # still on its way to a worker
    owner.change_regions([LEFT])
    assert owner.recent_shots() == ((LEFT,), [])
    source.shot(4)
    until(lambda: items(owner) == 5, 60, "the shots after")
    (shot,) = owner.recent_shots()[1]
    assert (shot.tag, shot.sums) == (7008, (pytest.approx(24 * 104 * EV),))
    owner.source.change_bins(np.linspace(0.0, 1.0, 3))
    assert len(owner.recent_shots()[1]) == 1


def test_shots_are_not_binned_by_a_value_that_the_source_does_not_have(owner: ShotOwner) -> None:
    with pytest.raises(ConfigError, match=r"'motor': the source has no such value, .* timing, i0$"):
        owner.source.change_bins(None, "motor")
    assert owner.source.binned_by == "delay"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("take_shots", ("Run", "Stop")),
        ("regions", (format_region(LEFT), format_region(WHOLE))),
        ("bins", ("-1:1:3", "-1:1:5")),
        ("binned_by", ("i0", "delay")),
    ],
)
def test_a_put_does_not_overtake_the_one_before(
    owner: ShotOwner, name: str, values: tuple[str, str]
) -> None:
    group = SaclaIOC("TEST:")
    group.shots = owner
    group.in_thread = turns = Turns()  # type: ignore[method-assign]
    pv = getattr(group, name)
    asyncio.run(put_both(*((pv.setpoint, value) for value in values)))
    assert turns.order == ["begin", "end"] * (len(turns.order) // 2)
    assert len(turns.order) >= 4
    assert pv.readback.value == values[1]


def test_regions_and_shapes_are_posted_when_a_run_has_changed_them(
    source: HandShots, owner: ShotOwner
) -> None:
    group = SaclaIOC("TEST:")
    group.shots = owner
    owner.change_regions([DOTS, WHOLE])
    asyncio.run(group._post())
    assert group.regions.readback.value == f"dots:D:mask= {format_region(WHOLE)}"
    assert list(group.shapes.value) == [*SHAPE]
    info = run_info(8)
    source.info = replace(info, tiles={NAME: Tile(NAME, 15.0, np.zeros((4, 4), bool))})
    source.shot(0, D=np.ones((4, 4), np.float32))
    assert "region dots is removed: its mask does not fit" in owner.state().message
    asyncio.run(group._post())
    assert group.regions.readback.value == format_region(WHOLE)
    assert list(group.shapes.value) == [4, 4]
    assert group.detectors.value == NAME


def test_who_asks_for_rings_merges_no_images(
    source: HandShots, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyzed = AnalyzedShots(source, [WHOLE], np.linspace(-1.0, 1.0, 5), profiles=True)
    try:
        monkeypatch.setattr(ImageSeries, "merge", lambda *_: pytest.fail("without the lock"))
        assert analyzed.rings == {NAME: 6}
    finally:
        monkeypatch.undo()
        analyzed.close()
