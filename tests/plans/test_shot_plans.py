"""Plans that take shots, over Channel Access, against the truth of the simulated beamline."""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from ioc_process import running_ioc
from support.ready_process import ended_after
from support.waiting import until

from devices.motion import Motor
from devices.sacla.operated import OperatedShots
from devices.sacla.shots import SHOTS_MIN, Point, Shots
from plans.sacla.shots import _summary, acquire_shots, delay_scan, find_time_zero
from skywright.analysis import Batch
from skywright.analysis.named import make_analysis
from skywright.errors import ConfigError, HardwareError
from skywright.files.readers import file_and_column, open_reader
from skywright.instruments.sacla.layouts import VERDICTS, read_regions
from skywright.instruments.sacla.regions import parse_region

NAME, ROWS, COLUMNS = "MPCCD-1N0-M06-004", 96, 64
WHOLE = f"all:{NAME}:-0.5,-0.5;63.5,-0.5;63.5,95.5;-0.5,95.5"
LEFT = f"left:{NAME}:-0.5,-0.5;20.5,-0.5;20.5,95.5;-0.5,95.5"
RIGHT = f"right:{NAME}:20.5,-0.5;63.5,-0.5;63.5,95.5;20.5,95.5"
ARGS = ("--source", "sim", "--seed", "11", "--rate", "60", "--pool", "48", "--roi", WHOLE)
SIZE = ("--rows", str(ROWS), "--columns", str(COLUMNS), "--profiles")


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shots, Motor]]:
    with running_ioc("iocs.sacla", *ARGS, *SIZE) as ioc:
        folder = tmp_path_factory.mktemp("shots")
        sacla = Shots(ioc.prefix, assets=folder, name="sacla")
        motor = Motor(f"{ioc.prefix}delay", name="sacla_delay")
        for device in (sacla, motor):
            device.wait_for_connection(timeout=60)
        sacla.silence_limit.put(60.0)
        yield sacla, motor


@pytest.fixture
def sacla(beamline: tuple[Shots, Motor]) -> Shots:
    device = beamline[0]
    device.regions.set(WHOLE).wait(90)
    device.frames_every.set(0).wait(90)
    return device


class Run:
    """The documents of one run, and the columns that they refer to."""

    def __init__(self, engine: RunEngine) -> None:
        self.documents: list[tuple[str, dict]] = []
        engine.subscribe(lambda name, doc: self.documents.append((name, doc)))

    def of(self, kind: str) -> list[dict]:
        return [doc for name, doc in self.documents if name == kind]

    def column(self, key: str) -> np.ndarray:
        """Return the rows of a column that documents tell of."""
        resource = next(r for r in self.of("stream_resource") if r["data_key"] == key)
        data = [d for d in self.of("stream_datum") if d["stream_resource"] == resource["uid"]]
        start, stop = data[0]["indices"]["start"], data[-1]["indices"]["stop"]
        path, dataset = file_and_column(resource)
        with open_reader(resource["mimetype"], path, dataset) as reader:
            return reader.read(dataset, start, stop)


def when_rows_come(sacla: Shots, act: Callable[[], object]) -> threading.Thread:
    """Do something in the course of the next recording, on a thread that is returned."""
    rows = sacla.rows

    def wait_and_act() -> None:
        until(lambda: bool(rows.file) and rows.get_index() > 10, 60, "shots are recorded")
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_every_shot_is_a_row_and_none_is_missing(RE: RunEngine, sacla: Shots) -> None:
    run = Run(RE)
    RE(acquire_shots(sacla, 60))
    assert run.of("stop")[0]["exit_status"] == "success"
    tags, verdict = run.column("sacla_tag"), run.column("sacla_verdict")
    assert len(tags) == 60
    assert (np.diff(tags) == 1).all()
    assert tags[0] >> 32 == 202301
    accepted = run.column("sacla_accepted") == 1
    assert (accepted == (verdict == VERDICTS.index("accepted"))).all()
    assert accepted.sum() > 40
    sums = run.column("sacla_sum_ev")
    assert np.isfinite(sums[accepted, 0]).all()
    assert np.isnan(sums[~accepted, 0]).all()
    assert np.isnan(sums[:, 1:]).all()  # there is one region
    photons = run.column("sacla_photons")[accepted, 0]
    expected = 0.02 * ROWS * COLUMNS * run.column("sacla_i0")[accepted]
    # The effect of the laser, a fifth, and the statistics of about 100 photons.
    assert photons.mean() == pytest.approx(expected.mean(), rel=0.3)


def test_regions_hold_from_the_next_shot_on_and_are_recorded(RE: RunEngine, sacla: Shots) -> None:
    run = Run(RE)
    wanted = f"{WHOLE} {LEFT} {RIGHT}"
    change = when_rows_come(sacla, lambda: sacla.regions.put(wanted))
    RE(acquire_shots(sacla, 150))
    change.join()
    numbers, accepted = run.column("sacla_regions_number"), run.column("sacla_accepted") == 1
    assert len(np.unique(numbers)) == 2
    assert (np.diff(numbers) >= 0).all()
    sums = run.column("sacla_sum_ev")
    before, after = (accepted & (numbers == number) for number in np.unique(numbers))
    assert np.isnan(sums[before, 1]).all()
    np.testing.assert_allclose(sums[after, 1] + sums[after, 2], sums[after, 0], rtol=1e-9)
    keys = ("name", "detector", "corners", "points")
    sets = {key: run.column(f"sacla_set_{key}") for key in keys}
    assert run.column("sacla_set_regions_number").tolist() == np.unique(numbers).tolist()
    found = [read_regions({key: sets[key][k] for key in keys}) for k in range(2)]
    assert found[0] == (parse_region(WHOLE),)
    assert found[1] == tuple(map(parse_region, (WHOLE, LEFT, RIGHT)))


def test_a_mask_is_recorded_with_the_run(RE: RunEngine, sacla: Shots, tmp_path: Path) -> None:
    run, pixels = Run(RE), np.random.default_rng(3).random((ROWS, COLUMNS)) < 0.5
    for name, values in (("part", pixels), ("rest", ~pixels)):
        np.save(tmp_path / f"{name}.npy", values)
    masks = [f"{name}:{NAME}:mask={tmp_path / name}.npy" for name in ("part", "rest")]
    sacla.regions.set(" ".join([WHOLE, *masks])).wait(90)
    RE(acquire_shots(sacla, 40))
    sums, accepted = run.column("sacla_sum_ev"), run.column("sacla_accepted") == 1
    np.testing.assert_allclose(sums[accepted, 1] + sums[accepted, 2], sums[accepted, 0], rtol=1e-9)
    keys = ("name", "detector", "corners", "points", "mask_shape", "mask")
    found = read_regions({key: run.column(f"sacla_set_{key}")[0] for key in keys})
    assert found == tuple(map(parse_region, [WHOLE, *masks]))


def test_any_put_of_the_page_that_is_refused_says_why(sacla: Shots) -> None:
    operated = OperatedShots(sacla.prefix, name="operated")
    operated.wait_for_connection(timeout=60)
    assert "99" in operated._put(operated.shown_region, 99)
    assert operated._put(operated.shown_region, 0) == ""
    assert "unknown detector NO-SUCH" in operated._put_regions(["a:NO-SUCH:0,0;1,0;1,1"])
    assert operated.run(True) == ""
    assert operated.run(False) == ""
    operated.destroy()


def test_regions_that_do_not_fit_are_refused_and_the_former_stay(sacla: Shots) -> None:
    for wrong, why in (
        (f"a:{NAME}:mask=/nowhere/mask.npy", "/nowhere/mask.npy: not readable"),
        ("a:NO-SUCH:0,0;1,0;1,1", "unknown detector NO-SUCH"),
        (f"a:{NAME}:0,0;1,0", "2 corners"),
        (f"{WHOLE} {WHOLE}", "used twice"),
    ):
        number = sacla.regions_number.get()
        sacla.regions.put(wrong, wait=True)
        assert sacla.regions.get(use_monitor=False) == WHOLE
        assert why in sacla.message.get(use_monitor=False)
        assert sacla.regions_number.get(use_monitor=False) == number


def test_more_than_16_regions_have_room_in_a_new_file(RE: RunEngine, sacla: Shots) -> None:
    run = Run(RE)
    names = [f"r{k}" for k in range(20)]
    sacla.regions.set(" ".join(WHOLE.replace("all", name) for name in names)).wait(90)
    refused = when_rows_come(sacla, lambda: sacla.regions.put(f"{WHOLE} " * 33, wait=True))
    RE(acquire_shots(sacla, 80))
    refused.join()
    assert "33 regions, expected at most 32 in the open file" in sacla.message.get()
    sums, accepted = run.column("sacla_sum_ev"), run.column("sacla_accepted") == 1
    assert sums.shape[1] == 32
    assert (sums[accepted, :20] == sums[accepted, :1]).all()
    assert np.isnan(sums[:, 20:]).all()
    keys = ("name", "detector", "corners", "points")
    row = {key: run.column(f"sacla_set_{key}")[0] for key in keys}
    assert [region.name for region in read_regions(row)] == names


def test_the_profile_of_each_shot_is_a_column(RE: RunEngine, sacla: Shots) -> None:
    run = Run(RE)
    sacla.frames_every.set(1).wait(90)
    RE(acquire_shots(sacla, 30))
    profiles, accepted = run.column("sacla_d1_profile"), run.column("sacla_accepted") == 1
    assert np.isnan(profiles[~accepted]).all()
    # A dead column and single bad pixels, which the mean image shows, are in no ring.
    good = np.isfinite(run.column("sacla_image_d1_mean")[-1])
    y, x = np.indices((ROWS, COLUMNS))
    rings = np.floor(np.hypot(x - COLUMNS / 2, y - ROWS / 2) / 2.0).astype(int)
    frame = run.column("sacla_frame_d1")[np.flatnonzero(accepted)[0]].astype(float) * 15 * 3.65
    frame[frame < 1000] = 0
    expected = np.bincount(rings[good], frame[good]) / np.bincount(rings[good])
    np.testing.assert_allclose(profiles[accepted][0], expected, rtol=1e-6)


def test_a_shot_is_no_event_and_no_event_has_an_image(
    RE: RunEngine, beamline: tuple[Shots, Motor], sacla: Shots
) -> None:
    run = Run(RE)
    RE(acquire_shots(sacla, 60))
    assert run.of("event") == run.of("event_page") == []
    assert len(run.of("stream_datum")) < 60 * len(run.of("stream_resource")) / 2
    scanned = Run(RE)
    RE(delay_scan(sacla, beamline[1], -0.5, 0.5, 2, shots=24))
    events = scanned.of("event")
    assert len(events) == 2
    assert all(np.size(value) <= 16 for event in events for value in event["data"].values())
    (primary,) = (each for each in scanned.of("descriptor") if each["name"] == "primary")
    assert primary["hints"]["sacla"]["fields"] == ["sacla_effect", "sacla_effect_error"]
    for data in (event["data"] for event in events):
        assert data["sacla_effect"] == pytest.approx(data["sacla_diff"] / data["sacla_mean_off"])


def test_curves_of_the_run_are_binned_as_the_device_says(RE: RunEngine, sacla: Shots) -> None:
    run, bins = Run(RE), sacla.bins.get()
    sacla.binned_by.set("timing").wait(90)
    sacla.bins.set("450:550:10").wait(90)
    RE(acquire_shots(sacla, 60))
    for signal, value in ((sacla.binned_by, "delay"), (sacla.bins, bins)):
        signal.set(value).wait(90)
    configurations = run.of("descriptor")[0]["configuration"].values()
    data = next(each["data"] for each in configurations if "sacla_bins" in each["data"])
    analysis = make_analysis("sacla_curves", None, data)
    assert "timing" in analysis.inputs
    rows = {key: run.column(f"sacla_{key}") for key in analysis.inputs}
    tags = run.column("sacla_tag")
    analysis.update(Batch(tags, np.zeros(len(tags)), rows))
    found = analysis.result()
    inside = rows["accepted"].astype(bool) & (rows["timing"] >= 450) & (rows["timing"] <= 550)
    expected = np.histogram(rows["timing"][inside], np.linspace(450, 550, 11))[0]
    assert (found["on_n"] + found["off_n"])[0].tolist() == expected.tolist()
    assert expected.sum() > 20


def test_images_are_those_of_the_recording(RE: RunEngine, sacla: Shots) -> None:
    run = Run(RE)
    sacla.frames_every.set(4).wait(90)
    RE(acquire_shots(sacla, 80))
    frames = run.column("sacla_frame_d1")
    assert frames.shape[1:] == (ROWS, COLUMNS)
    tags = run.column("sacla_tag")
    assert run.column("sacla_frame_tag").tolist() == tags[::4].tolist()
    mean = run.column("sacla_image_d1_mean")[-1]
    shots = run.column("sacla_image_n_on")[-1] + run.column("sacla_image_n_off")[-1]
    accepted = int((run.column("sacla_accepted") == 1).sum())
    assert shots == accepted  # of these shots, and of none before or after
    bad = np.isnan(mean)
    assert bad[:, COLUMNS // 3].all()
    assert mean[~bad].mean() == pytest.approx(0.02 * 10_000, rel=0.3)


def test_a_delay_scan_shows_the_effect_and_ends_points_early(
    RE: RunEngine, beamline: tuple[Shots, Motor], sacla: Shots
) -> None:
    motor, run = beamline[1], Run(RE)
    bins = sacla.bins.get()
    sacla.shots_per_point.put(77)
    sacla.wanted_error.put(0.5)
    scan = RE(delay_scan(sacla, motor, -0.6, 0.6, 3, shots=400, error=0.06)).plan_result
    assert (sacla.shots_per_point.get(), sacla.wanted_error.get()) == (77, 0.5)
    assert run.of("stop")[0]["num_events"]["primary"] == 3
    assert (scan.shots < 400).all()
    assert (scan.effect_error < 0.07).all()
    truth = np.array([0.0, 0.1, 0.2])
    assert (np.abs(scan.effect - truth) < 5 * scan.effect_error).all()
    assert scan.delay == pytest.approx([-0.6, 0.0, 0.6], abs=0.1)
    assert sacla.bins.get(use_monitor=False) == bins
    assert math.isinf(sacla.wanted_stage_delay.get())
    configuration = run.of("descriptor")[0]["configuration"]
    assert any("sacla_bins" in each["data"] for each in configuration.values())
    numbers = run.column("sacla_regions_number")
    assert len(np.unique(numbers)) == 1


def test_a_scan_of_another_motor_does_not_begin_the_curves_anew(
    RE: RunEngine, beamline: tuple[Shots, Motor], sacla: Shots
) -> None:
    """Each put to the bins does, also one of the value that they have."""
    changed: list[object] = []
    RE.msg_hook = lambda msg: changed.append(msg.obj) if msg.command == "set" else None
    RE(delay_scan(sacla, beamline[1], -0.1, 0.1, 2, shots=5, is_delay_stage=False))
    assert sacla.shots_per_point in changed
    assert sacla.bins not in changed
    assert sacla.binned_by not in changed


def test_a_point_without_shots_that_count_ends_with_the_reason(sacla: Shots) -> None:
    limit = sacla.silence_limit.get()
    sacla.stage()
    try:
        sacla.silence_limit.put(1.0)
        sacla.wanted_stage_delay.put(40.0)  # a wrong t0: the stage never seems to be there
        with pytest.raises(HardwareError, match=r"the stage is at .* expected 39.98 to 40.02 ps"):
            sacla.trigger().wait(90)
    finally:
        sacla.silence_limit.put(limit)
        sacla.wanted_stage_delay.put(math.inf)
        sacla.unstage()


def test_a_point_says_why_shots_do_not_count(tmp_path: Path) -> None:
    path, low = tmp_path / "shots.h5", VERDICTS.index("i0_low")
    keys = ("run", "regions_number", "accepted", "laser_on", "i0", "stage", "scanned")
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/shots")
        group["tag"], group["verdict"] = np.arange(8), np.full(8, low)
        group["sum_ev"] = np.full((8, 16), np.nan)
        group["photons"] = np.full((8, 16), -1)
        for key in keys:
            group[key] = np.zeros(8)
    point = Point(0, 0, 3, -0.02, 0.02)
    assert point.describe_seen() == "since the point began: no shot"
    point.read(path, 0, 8, 100)
    assert point.count == 0
    assert point.describe_seen() == "since the point began: 5 i0_low"
    with h5py.File(path, "r+") as file:  # accepted in a run without the detector of the region
        file["entry/shots/verdict"][:] = VERDICTS.index("accepted")
        file["entry/shots/accepted"][:] = 1
    point = Point(0, 0, 3, -0.02, 0.02)
    point.read(path, 0, 8, 100)
    assert point.count == 0
    assert point.describe_seen().endswith(": 5 accepted; the region is measured in none of them")
    with h5py.File(path, "r+") as file:  # a run has begun, with lower tags
        file["entry/shots/run"][6:] = 1
        file["entry/shots/tag"][6:] = 0, 1
        file["entry/shots/photons"][:] = 1
    point = Point(0, 0, 3, -0.02, 0.02)
    point.read(path, 0, 8, 100)
    assert point.count == 5


def write_shots(path: Path, shots: int) -> None:
    """Write a file of accepted shots; every other one is with laser."""
    with h5py.File(path, "w") as file:
        group = file.create_group("entry/shots")
        group["tag"], group["laser_on"] = np.arange(shots), np.arange(shots) % 2
        group["verdict"] = np.full(shots, VERDICTS.index("accepted"))
        group["sum_ev"] = group["photons"] = np.ones((shots, 16))
        group["i0"] = np.ones(shots)
        for key in ("run", "regions_number", "stage", "scanned"):
            group[key] = np.zeros(shots)


def test_a_point_averages_the_shots_of_one_set_of_regions(tmp_path: Path) -> None:
    path, shots = tmp_path / "shots.h5", 40
    write_shots(path, shots)
    with h5py.File(path, "r+") as file:
        file["entry/shots/regions_number"][:] = np.repeat([2, 3], shots // 2)
        file["entry/shots/sum_ev"][:] = np.repeat([100.0, 7.0], shots // 2)[:, None]
    point = Point(0, 0, 0, -math.inf, math.inf)
    point.read(path, 0, 15, 100)
    assert (point.count, point.values()["mean_on"]) == (15, 100)
    point.read(path, 15, shots, 100)  # the regions have changed meanwhile
    assert (point.count, point.values()["mean_on"]) == (20, 7)
    point.read(path, 10, 12, 100)
    assert point.count == 20


def test_the_error_of_a_point_is_positive_where_its_values_are_negative() -> None:
    point = Point(0, 0, 0, -math.inf, math.inf)
    point._shots = np.zeros((3, 2 * SHOTS_MIN))
    point._shots[0] = np.repeat([-4.0, -6.0], SHOTS_MIN) + np.tile([-1.0, 1.0], SHOTS_MIN)
    assert point.relative_error() == math.inf  # no shot with laser
    point._shots[1] = np.repeat([0, 1], SHOTS_MIN)
    values = point.values()
    assert (values["diff"], values["effect"]) == (-2.0, 0.5)
    assert point.relative_error() == pytest.approx(values["diff_error"] / 4.0)
    assert values["effect_error"] == point.relative_error()
    point._shots = point._shots[:, 1:]
    assert point.relative_error() == math.inf  # too few without


def absent_shots(tmp_path: Path) -> Shots:
    """Return a device that records in ``shots.h5``, without an IOC."""
    sacla = Shots("NOBODY:", assets=tmp_path, name="sacla")
    sacla.rows.file = str(tmp_path / "shots.h5")
    return sacla


def test_shots_that_come_while_a_point_reads_others_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacla, shots = absent_shots(tmp_path), 40
    write_shots(tmp_path / "shots.h5", shots)
    posted = iter((shots // 2, shots))

    def read(signal: object) -> object:
        # The last shots come within two requests: for the identity, and for the files
        if signal in (sacla.next_identity, sacla.files):
            sacla._on_rows(sacla.rows, next(posted, shots))
        values = {sacla.files: '[["shots.h5", [0, 0, 0, 0]]]', sacla.regions: WHOLE}
        return values.get(signal, 0)

    monkeypatch.setattr(sacla, "_read_now", read)
    sacla.settle_time.put(0.0)
    sacla.silence_limit.put(0.1)
    sacla.shots_per_point.put(shots)
    sacla._take_point()
    assert sacla.n_on.get() + sacla.n_off.get() == shots


def test_a_point_ends_when_its_recording_ends_on_an_ioc_that_was_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacla = absent_shots(tmp_path)

    def read(signal: object) -> object:
        if signal is sacla.next_identity:
            sacla._on_rows(sacla.rows, 5)
        if signal is sacla.files:
            sacla.rows.end()
        return {sacla.files: "[]", sacla.regions: WHOLE}.get(signal, 0)

    monkeypatch.setattr(sacla, "_read_now", read)
    sacla.settle_time.put(0.0)
    sacla._take_point()
    assert math.isnan(sacla.diff.get())


@pytest.mark.parametrize("files", ["[]", '[["of_another_client.h5", [0, 0, 0, 0]]]'])
def test_rows_of_an_ioc_that_was_restarted_are_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str
) -> None:
    """As after a pause: there are rows from before the restart, or of another recording."""
    sacla = absent_shots(tmp_path)
    sacla._on_rows(sacla.rows, 50)
    monkeypatch.setattr(sacla, "_read_now", lambda _: files)
    with pytest.raises(HardwareError, match=r"lost the IOC at NOBODY: .* and repeat the plan"):
        list(sacla.rows.collect_asset_docs())


def test_a_point_ends_when_its_recording_ends(sacla: Shots) -> None:
    """As after a pause and an abort: its failure would be taken for one of the plan."""
    sacla.shots_per_point.put(100_000)
    sacla.stage()
    point = sacla.trigger()
    until(lambda: sacla.rows.rows > 10, 60, "shots are recorded")
    sacla.unstage()
    point.wait(30)  # less than the longest silence


def test_a_scan_of_a_region_that_is_not_in_the_set_fails_at_once(sacla: Shots) -> None:
    sacla.stage()
    try:
        sacla.region.put(1)
        with pytest.raises(ConfigError, match=r"sacla.region = 1, expected 0 to 0"):
            sacla.trigger().wait(60)
    finally:
        sacla.region.put(0)
        sacla.unstage()


def test_a_point_without_laser_off_shots_leaves_the_others_their_values() -> None:
    count = {"mean_delay": 0.0, "n_on": 9.0}
    few = {**count, "diff": math.nan, "diff_error": math.nan, "mean_off": math.nan, "n_off": 0.0}
    good = [
        {**count, "diff": 0.3, "diff_error": 0.1, "mean_off": off, "n_off": n}
        for off, n in ((1.0, 1.0), (2.0, 3.0))
    ]
    scan = _summary("uid", [good[0], few, good[1]])
    np.testing.assert_allclose(scan.effect, [0.3 / 1.75, math.nan, 0.3 / 1.75])
    np.testing.assert_allclose(scan.effect_error, [0.1 / 1.75, math.nan, 0.1 / 1.75])
    assert scan.shots.tolist() == [10.0, 9.0, 12.0]
    assert np.isnan(_summary("uid", [few, few]).effect).all()
    dark = {**count, "diff": 0.0, "diff_error": 0.0, "mean_off": 0.0, "n_off": 9.0}
    with np.errstate(all="raise"):  # else numpy warns at the prompt
        assert np.isnan(_summary("uid", [dark, dark]).effect_error).all()


def test_time_zero_is_found(RE: RunEngine, beamline: tuple[Shots, Motor], sacla: Shots) -> None:
    zero = RE(find_time_zero(sacla, beamline[1], -0.9, 0.9, 7, shots=48)).plan_result
    assert abs(zero.delay_ps) < 5 * zero.delay_error_ps
    assert abs(zero.height - 0.2) < 5 * zero.height_error


def test_a_pause_loses_no_shot(RE: RunEngine, sacla: Shots) -> None:
    run = Run(RE)
    pause = when_rows_come(sacla, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(acquire_shots(sacla, 200))
    pause.join()
    RE.resume()
    assert run.of("stop")[0]["exit_status"] == "success"
    tags = run.column("sacla_tag")
    assert len(tags) == 200
    assert (np.diff(tags) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"num": 1}, "num = 1"),
        ({"stop": -1.0}, "start and stop are both -1"),
        ({"shots": 0}, "shots = 0"),
        ({"start": math.nan}, "start = nan"),
        ({"error": -1.0}, "error = -1"),
        ({"stop": 1e6}, r"sacla_delay cannot move to 1e\+06: .* beyond its limits"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_moves(
    beamline: tuple[Shots, Motor], sacla: Shots, arguments: dict, why: str
) -> None:
    given = {"start": -1.0, "stop": 1.0, "num": 3} | arguments
    with pytest.raises(ConfigError, match=why):
        next(delay_scan(sacla, beamline[1], **given))
    with pytest.raises(TypeError, match="delay_scan: sacla = sacla_delay, expected a shot source"):
        next(delay_scan(beamline[1], beamline[1], -1.0, 1.0, 3))
    with pytest.raises(ConfigError, match="n = 0"):
        next(acquire_shots(sacla, 0))
    with pytest.raises(ConfigError, match=r"find_time_zero: num = 4, expected .* 5\.\.400"):
        next(find_time_zero(sacla, beamline[1], -1.0, 1.0, 4))


def test_a_run_ends_with_the_reason_when_no_shot_comes(RE: RunEngine, tmp_path: Path) -> None:
    rare = ("--source", "sim", "--rate", "0.1", "--pool", "2", "--roi", WHOLE, *SIZE)
    with running_ioc("iocs.sacla", *rare) as ioc:
        sacla = Shots(ioc.prefix, assets=tmp_path, name="sacla")
        sacla.wait_for_connection(timeout=60)
        sacla.silence_limit.put(0.5)
        run = Run(RE)
        with pytest.raises(HardwareError, match=r"sacla: no shot in the file for 0\.5 s"):
            RE(acquire_shots(sacla, 1000))
    assert "no shot in the file" in run.of("stop")[0]["reason"]


@pytest.mark.soak  # make test kills every IOC; the next run, with the camera
def test_a_killed_ioc_ends_the_run_and_the_next_one_works(RE: RunEngine, tmp_path: Path) -> None:
    with running_ioc("iocs.sacla", *ARGS, *SIZE) as ioc:
        sacla = Shots(ioc.prefix, assets=tmp_path, name="sacla")
        sacla.wait_for_connection(timeout=60)
        run = Run(RE)

        kill = when_rows_come(sacla, ioc.process.kill)
        with pytest.raises(HardwareError, match="sacla: lost the IOC"):
            RE(acquire_shots(sacla, 100_000))
        kill.join()
        (stop,) = run.of("stop")
        assert stop["exit_status"] == "fail"
        assert "sacla: lost the IOC" in stop["reason"]
        with ended_after(ioc.again()):
            sacla.wait_for_connection(timeout=60)
            again = Run(RE)
            RE(acquire_shots(sacla, 5))
            assert len(again.column("sacla_tag")) == 5


def test_a_scan_without_the_ioc_says_which_one_is_lost(RE: RunEngine, tmp_path: Path) -> None:
    sacla = Shots("NOBODY:", assets=tmp_path, name="sacla")
    motor = Motor("NOBODY:delay", name="sacla_delay")
    with pytest.raises(HardwareError, match="sacla: lost the IOC of NOBODY:"):
        RE(delay_scan(sacla, motor, -1.0, 1.0, 3))


def test_bins_that_cannot_be_put_back_are_an_error_of_the_device(
    RE: RunEngine, beamline: tuple[Shots, Motor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sacla, motor = beamline
    put = sacla.bins.put

    def lost(value: str, **kwargs: object) -> None:
        if value != "-1:2:2":
            raise TimeoutError(value)
        put(value, **kwargs)

    sacla.bins.set("-3:3:40").wait(30)
    monkeypatch.setattr(sacla.bins, "put", lost)
    with pytest.raises(HardwareError, match="Bins did not become"):
        RE(delay_scan(sacla, motor, -0.5, 1.5, 2, shots=10))
