"""One failure in the midst of shots: what it costs, and that shots go on."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacla_hand import EV, SHAPE, HandShots, run_info
from support.owners import Clock
from support.waiting import until

from skywright.analysis import Batch
from skywright.errors import HardwareError
from skywright.files.columns import ColumnReader
from skywright.instruments.sacla import analyzed_source
from skywright.instruments.sacla.analyzed_shot import AnalyzedShot
from skywright.instruments.sacla.analyzed_source import AnalyzedShots
from skywright.instruments.sacla.frames import SharedFrames
from skywright.instruments.sacla.join import Record
from skywright.instruments.sacla.layouts import (
    IMAGE_NUMBER,
    IMAGES,
    SHOTS,
    TAG,
    ShotsLayout,
    detector_counts,
)
from skywright.instruments.sacla.live import LiveShots, make_ring
from skywright.instruments.sacla.owner import ShotOwner
from skywright.instruments.sacla.pipeline import ShotPipeline
from skywright.instruments.sacla.process_workers import ProcessWorkers
from skywright.instruments.sacla.regions import parse_region
from skywright.instruments.sacla.run_info import RunInfo
from skywright.instruments.sacla.shot_curves import ShotCurves
from skywright.instruments.sacla.shot_values import ShotValues, value_names
from skywright.instruments.sacla.shots import Verdict
from skywright.instruments.sacla.workers import Answer

EDGES = np.linspace(-1.0, 1.0, 5)
ON_D, ON_E = (parse_region(f"{name}:{name}:-1,-1;9,-1;9,7;-1,7") for name in "DE")
PIXELS = SHAPE[0] * SHAPE[1]


def run_with_a_failure(
    shots: int, disturb: Any, bad: dict[int, Any] | None = None
) -> tuple[list[AnalyzedShot], dict[str, int], list[str]]:
    """Send shots of two tiles; return them, the counts, and the errors that were raised.

    Parameters
    ----------
    shots
        Their number.
    disturb
        Called with the pipeline and the number of each shot, before it is sent.
    bad
        Frame of the second tile by number of the shot.
    """
    source = HandShots(run_info(detectors=("D", "E")))
    frames, found, errors = SharedFrames(source.info.shapes, 4), [], []
    pipeline = ShotPipeline(
        source.info, [ON_D, ON_E], EDGES, 8, frames, keep_rows=False, block_tags=16,
        on_shot=found.append,
    )  # fmt: skip

    def take(record: Record[Any]) -> None:
        try:
            pipeline.add(record)
        except (HardwareError, ValueError) as error:
            errors.append(str(error))

    try:
        source.start(take, pytest.fail)
        for number in range(shots):
            disturb(pipeline, number)
            changed = {"E": bad[number]} if bad and number in bad else {}
            source.shot(number, **changed)
        pipeline.finish()
        return found, pipeline.counts, errors
    finally:
        pipeline.close()
        frames.unlink()


def assert_own_sums(shots: list[AnalyzedShot]) -> None:
    """Assert that each shot has the sums of its own frames, whose pixels are 100 + number."""
    for shot in shots:
        if shot.verdict is Verdict.ACCEPTED and not shot.is_lost:
            assert shot.found is not None
            adu = 100 + (shot.tag - 7000) // 2
            np.testing.assert_allclose(shot.found["sum_ev"], PIXELS * adu * EV)


def test_a_frame_that_cannot_be_read_is_missing_in_its_shot_alone() -> None:
    narrow = np.zeros((3, 3), np.float32)
    shots, counts, errors = run_with_a_failure(30, lambda *_: None, {2: narrow, 17: narrow})
    assert len(errors) == 2
    assert "could not broadcast" in errors[0]
    assert [shot.tag for shot in shots] == [7000 + 2 * k for k in range(30)]
    assert [k for k, shot in enumerate(shots) if shot.verdict is Verdict.NO_FRAME] == [2, 17]
    assert shots[2].frames.keys() == {"D"}
    assert_own_sums(shots)
    assert (counts["accepted"], counts["no_frame"]) == (28, 2)
    assert counts["accepted_on"] + counts["accepted_off"] == 28


def test_an_error_of_a_worker_costs_the_shot_that_is_taken_in_alone() -> None:
    """The worker's error is raised while a block ends: before the first shot of the next one."""
    armed = []

    def disturb(pipeline: ShotPipeline, number: int) -> None:
        workers = pipeline._workers
        assert isinstance(workers, ProcessWorkers)
        if number == 0:
            receive = workers._receive

            def fail_once(timeout: float | None) -> bool:
                if armed and armed.pop():
                    raise HardwareError("one error")
                return receive(timeout)

            workers._receive = fail_once  # type: ignore[method-assign]
        if number == 12:  # tag 7024, the first one of a block of 16
            armed.append(True)

    shots, counts, errors = run_with_a_failure(40, disturb)
    assert errors == ["one error"]
    assert [shot.tag for shot in shots] == [7000 + 2 * k for k in range(40)]
    assert [k for k, shot in enumerate(shots) if shot.is_lost] == [12]
    assert Counter(shot.found is None for shot in shots) == {False: 39, True: 1}
    assert_own_sums(shots)
    assert (counts["accepted"], counts["shots_lost"]) == (40, 1)
    assert counts["accepted_on"] + counts["accepted_off"] == 39


@pytest.mark.parametrize("gain", [15.0, 30.0])
def test_a_run_that_cannot_begin_at_its_first_record_begins_at_the_next_one(
    monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    """The end of the run before fails, then, for a run of another gain, the new memory."""
    source = HandShots(run_info())
    analyzed = AnalyzedShots(source, [], EDGES, window=8)
    shots: list[tuple[int, str]] = []
    reports: list[str] = []
    finish, failures = ShotPipeline.finish, ["the last answers", "no space left"]

    def finish_but_once(pipeline: ShotPipeline) -> None:
        if len(failures) == 2:
            raise HardwareError(failures.pop(0))
        finish(pipeline)

    def make_but_once(info: RunInfo, reserve: bool = True) -> SharedFrames:
        if failures:
            raise OSError(28, failures.pop(0))
        return make_ring(info, reserve)

    monkeypatch.setattr(ShotPipeline, "finish", finish_but_once)
    monkeypatch.setattr(analyzed_source, "make_ring", make_but_once)
    try:
        analyzed.start(
            lambda shot: shots.append((shot.run, shot.verdict.value)),
            lambda message, *_: reports.append(message),
        )
        source.shot(0, timing=None)  # waits for its timing value until the run ends
        info = run_info(8)
        source.info = replace(info, tiles={"D": replace(info.tiles["D"], gain=gain)})
        for number in range(10):
            source.shot(number)
        until(lambda: len(shots) == 11, 60, "the shots of both runs")
        assert shots == [(7, "accepted"), (8, "no_value"), *[(8, "accepted")] * 9]
        assert analyzed.lost == {"not analyzed": 1 if gain == 15.0 else 2}
        assert "analysis: the last answers" in reports[0]
        assert analyzed.info is source.info
    finally:
        analyzed.close()


def test_a_failure_is_reported_once_until_a_shot_is_analyzed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, reports, shots, polls = HandShots(run_info()), [], [], []
    poll, narrow = ShotPipeline.poll, np.zeros((3, 3), np.float32)

    def count_polls(pipeline: ShotPipeline) -> None:
        poll(pipeline)
        polls.append(pipeline)

    monkeypatch.setattr(ShotPipeline, "poll", count_polls)
    analyzed = AnalyzedShots(source, [], EDGES, window=8)

    def send_bad_ones(numbers: range) -> None:
        for number in numbers:
            source.shot(number, D=narrow)
            known = len(polls)
            until(lambda known=known: len(polls) > known + 1, 60, "the poller has passed")

    try:
        analyzed.start(shots.append, lambda message, *_: reports.append(message))
        send_bad_ones(range(4))
        assert ["could not broadcast" in report for report in reports] == [True]
        assert analyzed.trouble == reports[0]
        source.shot(4)
        until(lambda: shots and shots[-1].found is not None, 60, "a shot is analyzed")
        assert analyzed.trouble == ""
        send_bad_ones(range(5, 8))
        assert len(reports) == 2
        assert analyzed.lost["not analyzed"] == 7
    finally:
        analyzed.close()


@pytest.fixture
def two() -> Iterator[tuple[HandShots, ShotOwner]]:
    """A source of two tiles and its owner."""
    source = HandShots(run_info(detectors=("D", "E")))
    owner = ShotOwner(AnalyzedShots(source, [ON_E, ON_D], EDGES, window=8))
    owner.owner.start()
    yield source, owner
    owner.close()


def test_a_detector_that_goes_away_does_not_stop_the_others(
    two: tuple[HandShots, ShotOwner], tmp_path: Path
) -> None:
    source, owner = two
    assert owner.start_recording(tmp_path / "shots.h5") == ""
    for number in range(40):  # the tile E is there, then every other time, then away
        there = number < 10 or (number < 20 and number % 3 == 0)
        source.shot(number, **({} if there else {"E": None}), beam=float(number != 30))
    source.shot(40, D=None, E=None)
    for number in range(41, 50):  # whole, behind the window of those before
        source.shot(number)
    until(lambda: owner.state().items == 50, 60, "all shots")
    owner.stop_recording()

    def column(name: str) -> np.ndarray:
        with ColumnReader(tmp_path / "shots.h5", TAG.path) as reader:
            return reader.read(f"{SHOTS}/{name}")

    numbers = np.arange(50)
    came_e = (numbers < 10) | ((numbers < 20) & (numbers % 3 == 0)) | (numbers > 40)
    came_d = (numbers != 30) & (numbers != 40)  # 30 has no beam, 40 no frame
    for k, came in enumerate((came_e, came_d)):
        expected = np.where(came, PIXELS * (100 + numbers) * EV, np.nan)
        np.testing.assert_allclose(column("sum_ev")[:, k], expected)
        assert ((column("photons")[:, k] >= 0) == came).all()
        assert ((column("photon_hist")[:, k] >= 0).all(axis=1) == came).all()
    # Verdicts and counts are those of the contract.
    assert (column("accepted") == came_e).all()
    counts = owner.source.counts()
    assert (counts["accepted"], counts["no_frame"]) == (came_e.sum(), (~came_e).sum())
    assert counts["accepted_on"] + counts["accepted_off"] == came_e.sum()
    # Curves are over the shots in which their region is measured.
    curves = owner.source.curves()
    found = (curves["on_n"] + curves["off_n"]).sum(axis=1)
    assert found.tolist() == [came_e.sum(), came_d.sum()]
    np.testing.assert_allclose(
        curves["on_mean"][1, 2], PIXELS * (100 + numbers[came_d & (numbers % 2 == 1)].mean()) * EV
    )
    assert curves["photon_hist"].min() >= 0
    # So are the images, each with its number of shots.
    with ColumnReader(tmp_path / "shots_images.h5", IMAGE_NUMBER.path) as reader:
        last = {key: reader.read(f"{IMAGES}/{key}")[-1] for key in ("n_on", *detector_counts(2))}
        for key, came in (("d1", came_d), ("d2", came_e)):
            mean = reader.read(f"{IMAGES}/{key}_mean")[-1]
            np.testing.assert_allclose(mean, (100 + numbers[came].mean()) * EV, rtol=1e-6)
            assert last[f"{key}_n_on"] + last[f"{key}_n_off"] == came.sum()
    assert last["n_on"] == last["d1_n_on"]


def test_shots_without_all_frames_are_as_good_stored(two: tuple[HandShots, ShotOwner]) -> None:
    """The analyses over the rows find what the live one found."""
    source, owner = two
    queue = owner.owner.subscribe(depth=100)
    for number in range(32):
        source.shot(number, **({"E": None} if number % 3 and number < 24 else {}))
    until(lambda: owner.state().items == 32, 60, "all shots")
    live = owner.source.curves()
    layout = ShotsLayout(source.info.shot_rules)
    rows = []
    while (shot := queue.get(0.0)) is not None:
        row = layout.row_group(shot)
        assert row is not None
        rows.append(row)
    queue.close()
    paths = [each.path for each in layout.columns]
    data = {
        path.rsplit("/", 1)[1]: np.concatenate([row.columns[path] for row in rows])
        for path in paths
    }
    identities = np.concatenate([row.identity for row in rows])
    batch = Batch(identities, np.zeros(len(identities)), data)
    stored = ShotCurves(16, EDGES.tolist(), 32)
    stored.update(batch)
    found = stored.result()
    for key in ("on_n", "off_n", "on_mean", "off_mean", "r", "hit_rate"):
        np.testing.assert_array_equal(found[key][:2], live[key], key)
    assert (found["n_on"], found["n_off"]) == (live["n_on"], live["n_off"]) == (8, 8)
    values = ShotValues(2, {"sum_1": "0:1e6:4"}, {})
    values.update(batch)
    result = values.result()
    pairs = result["on_pairs"] + result["off_pairs"]
    names = value_names(2)
    assert [pairs[0, names.index(f"norm_{k}")] for k in (1, 2)] == [16, 32]
    assert result["linear_sum_1"].sum() == 16


class SlowStop(HandShots):
    """A source whose stop takes as long as it takes to see what the poller does meanwhile."""

    flushed = False
    poller: threading.Thread | None = None

    def stop(self) -> None:
        super().stop()
        until(lambda: self.flushed or not self.is_polled(), 60, "the poller looks, or has ended")

    def is_polled(self) -> bool:
        return self.poller is not None and self.poller.is_alive()


def test_a_stop_gives_no_shot_up_and_none_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    source = SlowStop(run_info())
    analyzed = AnalyzedShots(source, [], EDGES, window=8)
    finish = ShotPipeline.finish

    def note(pipeline: ShotPipeline) -> None:
        finish(pipeline)
        source.flushed = True

    shots: list[tuple[int, str]] = []

    def take(shot: AnalyzedShot) -> None:
        shots.append((shot.tag, shot.verdict.value))

    monkeypatch.setattr(ShotPipeline, "finish", note)
    try:
        analyzed.start(take, pytest.fail)
        source.poller = analyzed._poller
        source.shot(0)
        source.shot(1, i0=None)
        analyzed.stop()
        analyzed.start(take, pytest.fail)
        source._deliver(Record("i0", 7002, 7, 1.0))
        source.shot(2)
        until(lambda: len(shots) == 3, 60, "all shots")
        assert shots == [(7000 + 2 * k, "accepted") for k in range(3)]
    finally:
        analyzed.close()


class NeverStops(HandShots):
    """A source whose thread hangs."""

    def stop(self) -> None:
        raise HardwareError("hand: the source has not stopped")


def test_workers_end_and_memory_is_freed_also_if_the_source_does_not_stop() -> None:
    analyzed = AnalyzedShots(NeverStops(run_info()), [], EDGES)
    memory, workers = analyzed._frames._memory.name, analyzed._pipeline._workers
    assert isinstance(workers, ProcessWorkers)
    owner = ShotOwner(analyzed)
    owner.owner.start()
    with pytest.raises(HardwareError, match="has not stopped"):
        owner.owner.stop()
    owner.close()
    assert not any(worker.process.is_alive() for worker in workers._processes)
    with pytest.raises(FileNotFoundError):
        SharedMemory(memory)


def test_a_live_analysis_that_fails_stops_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pipeline: ShotPipeline) -> None:
        raise HardwareError("analysis worker: no memory")

    monkeypatch.setattr(ShotPipeline, "poll", fail)
    source = HandShots(run_info())
    analysis = LiveShots(source, [ON_D], EDGES, submit=lambda *_: None)
    with pytest.raises(HardwareError, match="no memory"):
        analysis.run()
    assert not source.is_running  # else its shots would start workers again after `close`
    analysis.close()


def test_frames_of_a_whole_block_that_cannot_be_placed_hold_up_no_image() -> None:
    narrow, pipelines = np.zeros((3, 3), np.float32), []
    bad = dict.fromkeys(range(4, 20), narrow)  # those of 12 to 19 are a block of 16 tags
    found, counts, errors = run_with_a_failure(60, lambda each, _: pipelines.append(each), bad)
    assert {error.partition(":")[0] for error in errors} == {"frame of E"}
    assert (len(found), counts["accepted"], counts["no_frame"]) == (60, 44, 16)
    assert pipelines[0]._series.open_blocks == set()
    assert pipelines[0].images["D"].members == 44


def test_regions_of_a_detector_that_a_run_lacks_stay_without_values(
    two: tuple[HandShots, ShotOwner],
) -> None:
    source, owner = two
    queue = owner.owner.subscribe(depth=100)
    source.shot(0)
    source.info = run_info(8)  # the tile E is away
    source.shot(0)
    assert owner.source.region_set.regions == (ON_E, ON_D)
    half = parse_region("half:D:-1,-1;9,-1;9,2.5;-1,2.5")
    owner.change_regions([ON_E, ON_D, half])
    source.shot(1)
    source.info = run_info(9, detectors=("D", "E"))
    source.shot(0)
    until(lambda: owner.state().items == 4, 60, "all shots")
    shots = [queue.get(0.0) for _ in range(4)]
    queue.close()
    expected = (100, "ED"), (100, "ED"), (101, "EDh"), (100, "EDh")
    for shot, (adu, names) in zip(shots, expected, strict=True):
        assert shot is not None
        assert shot.found is not None
        assert [region.name[0] for region in shot.regions.regions] == list(names)
        away = shot.run == 8
        sums = [PIXELS * adu * EV * (np.nan if away else 1), PIXELS * adu * EV, 24 * adu * EV]
        np.testing.assert_allclose(shot.found["sum_ev"], sums[: len(names)])
        assert (shot.found["photons"] < 0).tolist() == [away, False, False][: len(names)]
        assert (shot.found["photon_hist"][0] < 0).all() == away


def test_shots_over_which_workers_died_are_lost(two: tuple[HandShots, ShotOwner]) -> None:
    source, owner = two
    workers = owner.source._pipeline._workers
    workers.analyze = lambda block, number, chunk: [Answer(number)]  # type: ignore[method-assign]
    for number in range(4):
        source.shot(number)
    until(lambda: owner.state().items == 4, 60, "all shots")
    assert owner.state().lost == {"shots_lost": 4}


def test_the_message_tells_of_trouble_while_shots_come(
    two: tuple[HandShots, ShotOwner], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, owner = two
    clock = Clock(monkeypatch)

    def message(number: int) -> tuple[str, bool]:
        source.shot(number)
        until(lambda: owner.state().items == number + 1, 60, "the shot")
        return owner.state().message, owner.state().alarm

    source.trouble = "E: cannot connect"
    assert message(0) == ("E: cannot connect", True)
    source.trouble = ""
    owner.owner.report("run 8: curves and images begin anew")
    assert message(1) == ("run 8: curves and images begin anew", True)
    clock.pass_hold()
    assert message(2) == ("taking shots", False)
