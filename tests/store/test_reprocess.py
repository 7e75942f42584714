"""One implementation of every number: live, reprocessed here, and on a cluster, bit for bit."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import h5py
import httpx
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis
from store.stack import Stack, running_stack
from support.derived import Derived, read_derived
from support.limits import ALL_FRAMES
from support.odd_analyses import PATH, NumberedSettings
from support.reprocessing import reprocess, wait_until_stored
from support.second_stages import MOTOR, SLOPE
from support.streaming import StreamingCamera

from skywright.analysis import Analysis, Batch, IdentityOrder, find_late
from skywright.analysis.cluster import cluster
from skywright.analysis.frames import FileRows, FrameTable, KeyRows
from skywright.analysis.inputs import ArrayInput
from skywright.analysis.named import analysis_class, make_analysis
from skywright.analysis.picture_statistics import PictureStatistics
from skywright.callbacks.journal import Journal
from skywright.callbacks.live import LiveAnalysis
from skywright.callbacks.raw_run import RawRun, RequiredKeys
from skywright.cli import main
from skywright.errors import ConfigError, DataError
from skywright.session import session_store
from skywright.session.session_store import SessionStore
from skywright.store import lookup
from skywright.store import reprocess as reprocess_module
from skywright.store.client import ANALYSIS
from skywright.store.export.contents import RunContents
from skywright.store.journal_contents import datum_fields
from skywright.store.lookup import find_run
from skywright.store.reprocess import (
    IN_FLIGHT,
    Reprocessed,
    reprocess_each,
)

LOOP, ROTATION = "loop_detection", "loop_rotation"
FRAMES = 70
"""Of the raw run: more than a block."""
TURN = 18
"""Pictures of the run with a rotation."""


def mount(number: int) -> np.ndarray[Any, Any]:
    """A ring on a stem on a pin, moving with its number; noise from the number too."""
    y, x = np.mgrid[0:120, 0:160]
    tip = 110 + number % 30
    ring = np.abs(np.hypot(x - (tip - 15.0), y - 60.0) - 15) < 2
    thing = ring | ((np.abs(y - 60) < 2) & (x < tip - 30)) | ((np.abs(y - 60) < 12) & (x < 40))
    noise = np.random.default_rng(number).integers(-3, 4, x.shape)
    return (np.where(thing, 60, 200) + noise).astype(np.uint8)


class World:
    """A store with tiled and ingester, and one raw run of `FRAMES` analyzed live."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = stack.client()
        self.camera = StreamingCamera("cam", stack.directory / "assets", mount, burst=FRAMES)
        journal = Journal(stack.journals)
        self.rotation = {"calibrations": str(stack.directory / "calibrations.json")}
        second = {ROTATION: self.rotation}
        assets = stack.directory / "assets"
        live = LiveAnalysis(
            LOOP, journal=stack.journals, assets=assets, second=second, limits=ALL_FRAMES
        )
        live.wait_ready()
        engine = RunEngine(call_returns_result=True)
        engine.subscribe(journal)
        engine.subscribe(live)
        self.uid: str = engine(self.fly()).run_start_uids[0]
        done = live.wait(raw_uid=self.uid, timeout_s=120)
        assert done.error == ""
        assert done.derived_uid is not None
        self.live_uid = done.derived_uid
        motor = SynAxis(name="motor")
        turn = bp.scan([self.camera], motor, 0, 170, TURN)
        self.turn_uid: str = engine(turn, angle_key="motor").run_start_uids[0]
        done = live.wait(raw_uid=self.turn_uid, timeout_s=120)
        assert done.derived_uid is not None
        self.turn_live_uid = done.derived_uid
        self.rotation_live_uid = (
            live.second_reports[ROTATION].progress(self.turn_uid).derived_uid or ""
        )
        live.close()
        self.steps_uid: str = engine(
            bp.scan([self.camera], SynAxis(name="gonio_angle"), 0, 90, 10)
        ).run_start_uids[0]
        self.blind_uid: str = engine(bp.count([SynAxis(name="m")])).run_start_uids[0]
        turned = (self.turn_uid, self.turn_live_uid, self.rotation_live_uid)
        for uid in (self.uid, self.live_uid, *turned, self.steps_uid, self.blind_uid):
            stack.done(uid)

    def fly(self) -> Any:
        @bpp.stage_decorator([self.camera])
        @bpp.run_decorator(md={"sample": "lysozyme"})
        def plan() -> Any:
            yield from bps.declare_stream(self.camera, name="primary", collect=True)
            yield from bps.kickoff(self.camera, wait=True)
            yield from bps.collect_while_completing(
                [self.camera], [self.camera], flush_period=0.1, stream_name="primary"
            )

        return plan()

    def run(self, uid: str, name: str = LOOP, **options: Any) -> Derived:
        (done,) = reprocess(find_run(self.client, uid), name, store=self.stack.directory, **options)
        wait_until_stored(self.client, done.derived_uid)
        return self.derived(done.derived_uid)

    def derived(self, uid: str) -> Derived:
        runs = read_derived(self.stack.journals)
        return next(run for run in runs if run.start["uid"] == uid)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        tests = str(Path(__file__).parents[1])
        patch.setenv("PYTHONPATH", tests, prepend=os.pathsep)  # workers import odd_analyses
        with running_stack(tmp_path_factory.mktemp("reprocess")) as stack, stack.ingester():
            yield World(stack)


def same(one: Derived, other: Derived) -> None:
    assert repr(one.numbers) == repr(other.numbers)  # every bit of a float, and NaN is NaN
    mine, others = one.columns(), other.columns()
    assert mine == others
    assert len(mine["identity"]) == FRAMES * 8


def test_live_and_reprocessed_and_cluster_agree_bit_for_bit(world: World) -> None:
    live = world.derived(world.live_uid)
    assert live.result["n_frames"] == FRAMES
    assert live.result["n_found"] == FRAMES
    here = world.run(world.uid)
    same(live, here)
    with cluster("local") as submit:
        same(live, world.run(world.uid, submit=submit))
    for run in (live, here):
        start = dict(run.start)
        assert (start["raw_uid"], start["sample"]) == (world.uid, "lysozyme")
        assert start["analysis"] == live.start["analysis"]


def test_the_catalog_shows_what_the_files_hold(world: World) -> None:
    run = world.client["analysis"][world.live_uid]
    live = world.derived(world.live_uid)
    stored = run["pictures"].read()
    columns = live.columns()
    assert columns.keys() <= set(stored.data_vars)
    for name, values in columns.items():
        assert stored[name].values.tobytes() == values
        assert stored[name].shape == (FRAMES,)
    assert run["pictures/tip_x"].read().tobytes() == columns["tip_x"]
    table = run["result"].read()
    assert table["n_found"].values[-1] == FRAMES
    assert float(table["tip_x_mean"].values[-1]) == live.result["tip_x_mean"]
    assert run.metadata["stop"]["exit_status"] == "success"


def test_without_its_journal_a_run_is_found_through_the_catalog(
    world: World, tmp_path: Path
) -> None:
    through_journal = world.run(world.uid, "picture_statistics")
    done = world.stack.journals / "done" / f"{world.uid}.jsonl"
    aside = done.rename(tmp_path / done.name)
    try:
        same(through_journal, world.run(world.uid, "picture_statistics"))
    finally:
        aside.rename(done)


@pytest.mark.parametrize("journal", [True, False])
def test_inputs_from_events(world: World, tmp_path: Path, journal: bool) -> None:
    done = world.stack.journals / "done" / f"{world.steps_uid}.jsonl"
    if not journal:
        aside = done.rename(tmp_path / done.name)
    try:
        run = world.run(world.steps_uid, f"{PATH}:Against")
    finally:
        if not journal:
            aside.rename(done)
    assert np.frombuffer(run.columns()["angle"], "<f8").tolist() == list(range(0, 91, 10))
    assert run.result["n_missing"] == 0


def test_frames_that_a_resumed_scan_has_taken_again_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"external": "STREAM:", "shape": [4, 5], "dtype": "array", "source": "s"}
    file = {"uri": f"file://localhost{tmp_path}/a.h5", "mimetype": "application/x-hdf5"}
    resource = {"run_start": "r", "data_key": "cam_image", "parameters": {"dataset": "/a"}}
    descriptor = {"uid": "d", "name": "primary", "run_start": "r"}
    documents: list[tuple[str, dict[str, Any]]] = [
        ("descriptor", {**descriptor, "data_keys": {"cam_image": key}}),
        ("stream_resource", {"uid": "s", **file, **resource}),
        *(
            ("stream_datum", {"descriptor": "d", **datum_fields("s", index, number, rows)})
            for index, number, rows in ((0, 1, 3), (3, 3, 2))
        ),
        ("stop", {"run_start": "r"}),
    ]
    monkeypatch.setattr(reprocess_module, "run_documents", lambda *_: iter(documents))
    stored: Any = SimpleNamespace(metadata={"start": {"uid": "r"}})
    analysis = make_analysis("picture_statistics", None)
    table = reprocess_module._raw_run(stored, tmp_path, analysis, {}).streams["primary"].table
    assert table is not None
    assert table.announced() == 4
    rows = table.in_files["image"].segments
    assert [number for each in rows for number in range(each.start, each.stop)] == [0, 1, 3, 4]


def test_a_stream_that_fails_does_not_keep_others_from_being_analyzed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"external": "STREAM:", "shape": [4, 5], "dtype": "array", "source": "s"}
    documents: list[tuple[str, dict[str, Any]]] = []
    for name, rows in (("dark", 5), ("primary", 2)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["a"] = np.zeros((rows, 4, 5), np.uint8)
        uri = f"file://localhost{tmp_path}/{name}.h5"
        resource = {"uid": f"file of {name}", "mimetype": "application/x-hdf5", "uri": uri}
        resource |= {"run_start": "r", "data_key": "cam_image", "parameters": {"dataset": "/a"}}
        descriptor = {"uid": name, "name": name, "run_start": "r", "data_keys": {"cam_image": key}}
        datum = {"descriptor": name, **datum_fields(f"file of {name}", 0, 1, rows)}
        documents += [
            ("descriptor", descriptor),
            ("stream_resource", resource),
            ("stream_datum", datum),
        ]
    documents.append(("stop", {"run_start": "r"}))
    monkeypatch.setattr(reprocess_module, "run_documents", lambda *_: iter(documents))
    stored: Any = SimpleNamespace(metadata={"start": {"uid": "r", "time": 1.0}})
    failed, done = reprocess_each(stored, f"{PATH}:Raises", {"at": 4}, store=tmp_path)
    assert "stream dark, failed" in str(failed)
    assert isinstance(done, Reprocessed)
    assert (done.stream, done.result["n_frames"]) == ("primary", 2)


def reprocess_three_frames(tmp_path: Path) -> Reprocessed:
    """Reprocess a run that announces five frames, of which three are in their file."""
    key = {"external": "STREAM:", "shape": [4, 5], "dtype": "array", "source": "s"}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = np.full((3, 4, 5), 9, np.uint8)
    raw = RawRun({"uid": "r"}, RequiredKeys.of(PictureStatistics, {}))
    raw("descriptor", {"uid": "d", "name": "primary", "data_keys": {"cam_image": key}})
    resource = {"uri": f"file://localhost{tmp_path}/a.h5", "mimetype": "application/x-hdf5"}
    resource |= {"uid": "s", "data_key": "cam_image", "parameters": {"dataset": "/a"}}
    raw("stream_resource", resource)
    raw("stream_datum", {"descriptor": "d", **datum_fields("s", 0, 1, 5)})
    journal = Journal(tmp_path / "journal")
    return reprocess_module._reprocess(
        raw.streams["primary"], "picture_statistics", None, journal, tmp_path, None
    )


def test_frames_that_are_not_in_their_file_are_missing(tmp_path: Path) -> None:
    done = reprocess_three_frames(tmp_path)
    assert (done.result["n_frames"], done.result["n_missing"]) == (3, 2)


def analyze_numbered(
    tmp_path: Path, identities: list[int], settings: list[float] | dict[int, int]
) -> tuple[list[tuple[int, Analysis[Any]]], int]:
    """Analyze a file of four frames.

    Return the shift and the analysis of each slice, and the number of missing frames.

    The settings are in the file, or in events, by sequence number.
    """
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["image"] = np.zeros((4, 2, 2), np.uint8)
        file["identity"] = identities
        if isinstance(settings, list):
            file["settings"] = settings
    rows = {}
    in_events = {"settings": settings} if isinstance(settings, dict) else {}
    for key in sorted({"image", "identity", "settings"} - in_events.keys()):
        rows[key] = KeyRows()
        rows[key].add(FileRows(str(tmp_path / "f.h5"), f"/{key}", 0, 4, 1))
    identity = rows.pop("identity")
    raw: Any = SimpleNamespace(table=FrameTable(rows, in_events, identity))
    found: list[tuple[int, Analysis[Any]]] = []
    derived: Any = SimpleNamespace(
        analysis=NumberedSettings(),
        absorb=lambda blocks, rows, shift: found.append((shift, blocks)),
        close=lambda pictures: None,
    )
    reprocess_module._analyze(derived, raw, f"{PATH}:NumberedSettings", None)
    return found, derived.missing


@pytest.mark.parametrize(("settings", "shifts"), [(1, [0, 256]), (1.0, [0])])
def test_settings_numbers_that_are_no_integers_begin_no_new_order(
    tmp_path: Path, settings: float, shifts: list[int]
) -> None:
    """The live analysis does not use them either."""
    numbers = [0 * settings, 0 * settings, settings, settings]
    found, _ = analyze_numbered(tmp_path, [128, 129, 0, 1], numbers)
    assert [shift for shift, _ in found] == shifts


def test_identities_restart_in_a_run_whose_first_frame_has_no_event(tmp_path: Path) -> None:
    found, missing = analyze_numbered(tmp_path, [128, 129, 0, 1], {2: 0, 3: 1, 4: 1})
    assert [(shift, blocks.members) for shift, blocks in found] == [(0, 1), (256, 2)]
    assert missing == 1


def test_a_sender_that_restarts_begins_a_new_order_without_settings(tmp_path: Path) -> None:
    found, _ = analyze_numbered(tmp_path, [6400, 6401, 0, 1], [0.0] * 4)
    counts = [(shift, blocks.members, blocks.refused) for shift, blocks in found]
    assert counts == [(0, 2, 0), (6528, 2, 0)]


def test_after_a_restart_only_the_frames_that_are_late_live_are_late(tmp_path: Path) -> None:
    identities, settings = [640, 200, 0, 201], [0, 1, 1, 1]
    found, _ = analyze_numbered(tmp_path, identities, list(settings))
    size = NumberedSettings.block_size
    places = IdentityOrder(size).place(np.array(identities), np.array(settings))
    late, _ = find_late(places, size)
    assert late.tolist() == [False, False, True, False]
    counts = [(shift, blocks.members, blocks.refused) for shift, blocks in found]
    assert counts == [(0, 1, 0), (576, 2, 1)]


def test_a_derived_run_that_cannot_be_closed_is_a_failure_of_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr("skywright.callbacks.derived.DerivedRun._write_columns", fail)
    with pytest.raises(DataError, match=r"stream primary, failed, see .*disk full"):
        reprocess_three_frames(tmp_path)
    (derived,) = read_derived(tmp_path / "journal")
    assert derived.stop is not None
    assert derived.stop["exit_status"] == "fail"


@pytest.mark.parametrize("analysis", [{"name": LOOP, "version": "1"}, None, "by hand"])
def test_a_derived_run_that_does_not_say_all(
    monkeypatch: pytest.MonkeyPatch, analysis: dict[str, str] | str | None
) -> None:
    """Older derived runs do not name the stream; a person may give a plan any metadata."""
    names = ["identity", *(column.name for column in analysis_class(LOOP).columns)]
    columns = {
        name: SimpleNamespace(name=name, external=True, asset=SimpleNamespace(file=Path()))
        for name in names
    }
    stream = SimpleNamespace(columns=columns.values(), column=columns.get)
    start = {"uid": "u", "purpose": "analysis", "analysis": analysis}
    contents = SimpleNamespace(start=start, stop={}, streams=[stream])
    monkeypatch.setattr(reprocess_module, "read_contents", lambda _: contents)
    monkeypatch.setattr(reprocess_module, "_read_rows", lambda *_: None)
    run: Any = SimpleNamespace(metadata={"start": start})
    if isinstance(analysis, dict):
        rows = reprocess_module._stored_rows(run, ROTATION)
        assert rows is not None
        assert rows.stream == "primary"
    else:
        with pytest.raises(DataError, match="u does not say which analysis has made it"):
            reprocess_module._stored_rows(run, ROTATION)


@pytest.mark.parametrize(
    ("stop", "lacking", "says"),
    [
        (None, "", "derived run u has not ended"),
        ({}, "identity", f"derived run u has no rows for {ROTATION}"),
        ({}, "file", f"derived run u has no rows for {ROTATION}"),  # no one file here has them
        ({}, "tip_x", f"derived run u of {LOOP} 1 lacks the columns tip_x; name its raw run, r"),
    ],
)
def test_a_derived_run_lacks_what_a_second_stage_takes(
    monkeypatch: pytest.MonkeyPatch, stop: dict[str, Any] | None, lacking: str, says: str
) -> None:
    names = ["identity", *(column.name for column in analysis_class(LOOP).columns)]
    asset = None if lacking == "file" else SimpleNamespace(file=Path())
    columns = {
        name: SimpleNamespace(name=name, external=True, asset=asset)
        for name in names
        if name != lacking
    }
    stream = SimpleNamespace(columns=columns.values(), column=columns.get)
    start = {"uid": "u", "purpose": "analysis", "raw_uid": "r"}
    start |= {"analysis": {"name": LOOP, "version": "1"}}
    contents = SimpleNamespace(start=start, stop=stop, streams=[stream])
    monkeypatch.setattr(reprocess_module, "read_contents", lambda _: contents)
    run: Any = SimpleNamespace(metadata={"start": start})
    with pytest.raises(DataError, match=says):
        reprocess_module._stored_rows(run, ROTATION)


def test_a_second_stage_of_a_derived_run_without_rows_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Batch(np.empty(0, np.int64), np.empty(0), {})
    first = reprocess_module._DerivedRows("d", "picture_statistics", "primary", rows)
    run: Any = SimpleNamespace(metadata={"start": {"uid": "r"}})
    monkeypatch.setattr(reprocess_module, "_stored_rows", lambda *_: first)
    monkeypatch.setattr(reprocess_module, "_raw_of", lambda derived: derived)
    event = ("event", {"data": {MOTOR: 1.0}})
    monkeypatch.setattr(reprocess_module, "run_documents", lambda *_: iter([event]))
    with pytest.raises(DataError, match="of run r: picture_statistics has found no row"):
        reprocess(run, SLOPE, store=tmp_path)


def test_a_run_that_has_not_ended_is_not_reprocessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"external": "STREAM:", "shape": [4, 5], "dtype": "array", "source": "s"}
    descriptor = {"uid": "d", "name": "primary", "data_keys": {"cam_image": key}}
    documents = [("descriptor", descriptor)]
    monkeypatch.setattr(reprocess_module, "run_documents", lambda *_: iter(documents))
    stored: Any = SimpleNamespace(metadata={"start": {"uid": "r"}})
    with pytest.raises(DataError, match="run r has not ended"):
        reprocess(stored, "picture_statistics", store=tmp_path)


def test_a_cluster_has_a_limited_number_of_tasks_whose_results_keep_their_order() -> None:
    waiting: set[int] = set()
    most = 0

    def submit(_: Any, number: int) -> Any:
        nonlocal most
        waiting.add(number)
        most = max(most, len(waiting))
        return SimpleNamespace(result=lambda: (number, waiting.remove(number)))

    tasks = ((number,) for number in range(3 * IN_FLIGHT))
    results: list[Any] = [*reprocess_module._in_order(tasks, submit)]
    assert [number for number, _ in results] == list(range(3 * IN_FLIGHT))
    assert most == IN_FLIGHT


@pytest.mark.parametrize("trouble", ["begin", "fits"])
def test_a_second_stage_that_fails_before_its_rows_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(reprocess_module, "run_documents", lambda *_: iter(()))
    run: Any = SimpleNamespace(metadata={"start": {"uid": "r", "trouble": trouble}})
    with pytest.raises(DataError, match="of run r: ValueError: no slope today"):
        reprocess(run, SLOPE, store=tmp_path)


def test_failure_is_an_error_and_in_the_derived_run(world: World) -> None:
    run, cursed = find_run(world.client, world.steps_uid), FRAMES + TURN + 3
    with pytest.raises(DataError, match=f"frame {cursed} is cursed") as failure:
        reprocess(run, f"{PATH}:Raises", {"at": cursed}, store=world.stack.directory)
    uid = str(failure.value).split("see ")[1].split(":")[0]
    assert wait_until_stored(world.client, uid).metadata["stop"]["exit_status"] == "fail"


def test_pictures_that_fail_and_files_that_cannot_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = world.run(world.steps_uid, f"{PATH}:Undrawn")
    assert done.stop is not None
    assert done.stop["exit_status"] == "success"
    assert (done.result["n_frames"], done.result["pictures"]) == (10, "")

    def fail(*_: Any) -> Any:
        raise OSError(28, "disk full")

    monkeypatch.setattr("skywright.callbacks.derived.ColumnWriter", fail)
    run = find_run(world.client, world.steps_uid)
    with pytest.raises(DataError, match=f"picture_statistics of run {world.steps_uid}.*disk full"):
        reprocess(run, "picture_statistics", store=world.stack.directory)


def test_a_configuration_that_an_analysis_refuses_is_in_the_derived_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = reprocess_module.make_analysis

    def refuse(name: str, parameters: Any = None, configuration: Any = None) -> Any:
        if configuration:
            raise ConfigError("no gain 7")
        return make(name, parameters)

    monkeypatch.setattr(reprocess_module, "make_analysis", refuse)
    run = find_run(world.client, world.steps_uid)
    with pytest.raises(DataError, match="no gain 7") as failure:
        reprocess(run, "picture_statistics", store=world.stack.directory)
    uid = str(failure.value).split("see ")[1].split(":")[0]
    assert "no gain 7" in wait_until_stored(world.client, uid).metadata["stop"]["reason"]


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_second_stage_is_done_though_another_stream_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, fails_first: bool
) -> None:
    each_stage = reprocess_module.reprocess_each
    derived: list[str] = []

    def with_another(run: Any, name: str, *args: Any, **more: Any) -> list[Any]:
        results = each_stage(run, name, *args, **more)
        if name == ROTATION:
            return results
        derived.extend(each.derived_uid for each in results)
        failed = [DataError("the other stream is cursed")]
        return failed + results if fails_first else results + failed

    monkeypatch.setattr(reprocess_module, "reprocess_each", with_another)
    run = find_run(world.client, world.turn_uid)
    with pytest.raises(DataError, match="cursed"):
        reprocess(run, ROTATION, world.rotation, store=world.stack.directory)
    ended = [each.start["analysis"] for each in read_derived(world.stack.journals) if each.stop]
    assert {LOOP: derived[0]} in [each.get("inputs") for each in ended]


@pytest.mark.parametrize(
    ("of_derived", "journal"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.soak),
        pytest.param(True, True, marks=pytest.mark.soak),
    ],
)
def test_a_second_stage_of_a_raw_run_and_of_a_derived_run(
    world: World, tmp_path: Path, of_derived: bool, journal: bool
) -> None:
    """The rows are new or stored; both give the bits of the live analysis."""
    aside = world.stack.journals / "done" / f"{world.turn_uid}.jsonl"
    uid = world.turn_live_uid if of_derived else world.turn_uid
    if not journal:
        aside.rename(tmp_path / aside.name)
    try:
        found = find_run(world.client, uid)
        done = reprocess(found, ROTATION, world.rotation, store=world.stack.directory)
    finally:
        if not journal:
            (tmp_path / aside.name).rename(aside)
    assert [each.analysis for each in done] == [ROTATION] if of_derived else [LOOP, ROTATION]
    live, again = world.derived(world.rotation_live_uid), world.derived(done[-1].derived_uid)
    assert live.result["n_frames"] == TURN
    assert repr(again.numbers) == repr(live.numbers)
    assert again.columns() == live.columns()
    assert again.stop is not None
    assert live.stop is not None
    assert (again.stop["exit_status"], again.stop["reason"]) == (
        live.stop["exit_status"],
        live.stop["reason"],
    )
    first = world.turn_live_uid if of_derived else done[0].derived_uid
    assert again.start["analysis"]["inputs"] == {LOOP: first}
    assert again.start["raw_uid"] == done[-1].raw_uid == world.turn_uid
    assert all(each.pictures for each in done)
    assert all(path.is_file() for each in done for path in each.pictures)
    wait_until_stored(world.client, done[-1].derived_uid)


def test_a_second_stage_that_is_no_registered_one_takes_a_derived_run(world: World) -> None:
    turn = find_run(world.client, world.turn_uid)
    with pytest.raises(ConfigError, match="name a derived run that has them"):
        reprocess(turn, SLOPE, store=world.stack.directory)
    (first,) = reprocess(turn, "picture_statistics", store=world.stack.directory)
    derived = wait_until_stored(world.client, first.derived_uid)
    (done,) = reprocess(derived, SLOPE, store=world.stack.directory)
    assert done.result["last_place"] == 170.0
    assert world.derived(done.derived_uid).result["slope"] == done.result["slope"]


def test_what_a_second_stage_cannot_take_is_said(world: World) -> None:
    def attempt(uid: str) -> None:
        run = find_run(world.client, uid)
        reprocess(run, ROTATION, world.rotation, store=world.stack.directory)

    with pytest.raises(DataError, match=f"run {world.uid} does not have what loop_rotation needs"):
        attempt(world.uid)
    with pytest.raises(DataError, match=r"derived run of loop_rotation; .* those of loop_detect"):
        attempt(world.rotation_live_uid)
    with pytest.raises(ConfigError, match="analysis loop_rotation: calibrations: is missing"):
        reprocess(find_run(world.client, world.uid), ROTATION, store=world.stack.directory)


@pytest.mark.parametrize("made", [None, "mine", {"version": "1"}])
def test_a_run_that_a_person_calls_an_analysis_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any
) -> None:
    start = {"uid": "u", "purpose": "analysis", "analysis": made}
    contents = RunContents(start, {}, "success", (), ())
    monkeypatch.setattr(reprocess_module, "read_contents", lambda _: contents)
    run: Any = SimpleNamespace(metadata={"start": start})
    with pytest.raises(DataError, match="u does not say which analysis has made it"):
        reprocess(run, ROTATION, {"calibrations": str(tmp_path)}, store=tmp_path)


def test_an_older_derived_run_does_not_name_its_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reprocess_module.read_contents

    def read_older(run: Any) -> RunContents:
        contents = read(run)
        analysis = {k: v for k, v in contents.start["analysis"].items() if k != "stream"}
        return replace(contents, start={**contents.start, "analysis": analysis})

    monkeypatch.setattr(reprocess_module, "read_contents", read_older)
    run = find_run(world.client, world.turn_live_uid)
    (done,) = reprocess(run, ROTATION, world.rotation, store=world.stack.directory)
    assert done.stream == "primary"


@pytest.mark.parametrize("raw_uid", [None, 5, "nobody"])
def test_a_raw_run_that_is_not_stored_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, raw_uid: Any
) -> None:
    run = find_run(world.client, world.turn_live_uid)
    start = {**run.metadata["start"], "raw_uid": raw_uid}
    if raw_uid is None:
        del start["raw_uid"]
    stored: Any = SimpleNamespace(metadata={"start": start}, parent=run.parent)
    contents = reprocess_module.read_contents(run)
    monkeypatch.setattr(reprocess_module, "read_contents", lambda _: contents)
    with pytest.raises(DataError, match=f"the raw run {raw_uid} of {world.turn_live_uid}"):
        reprocess(stored, ROTATION, world.rotation, store=world.stack.directory)


def test_what_cannot_be_reprocessed_is_said(world: World) -> None:
    def attempt(uid: str, name: str = LOOP, **keys: str) -> None:
        reprocess(find_run(world.client, uid), name, store=world.stack.directory, keys=keys)

    with pytest.raises(DataError, match="itself a derived run"):
        attempt(world.live_uid)
    with pytest.raises(DataError, match="no stream with the data keys that loop_detection needs"):
        attempt(world.blind_uid)
    with pytest.raises(DataError, match=r"loop_detection needs: axis_picture \(as image\); it has"):
        attempt(world.uid, image="axis_picture")
    with pytest.raises(ConfigError, match=r"imag: no such input; did you mean image\?"):
        attempt(world.uid, imag="axis_image")
    with pytest.raises(ConfigError, match=r"no analysis 'loops'; known are .*loop_detection"):
        attempt(world.uid, "loops")


def test_a_run_that_tiled_does_not_give_does_not_keep_others_from_being_analyzed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = tmp_path / "columns.h5"
    done = Reprocessed("second", "d", "picture_statistics", "primary", {}, columns, ())
    request = httpx.Request("GET", "http://tiled:8000/api/v1/metadata/raw/first")

    def reprocess_one(run: str, *_: Any, **__: Any) -> list[Reprocessed]:
        if run == "first":
            raise httpx.ConnectError("nobody there", request=request)
        return [done]

    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    monkeypatch.setattr(session_store, "connect_for_person", lambda _: {ANALYSIS: {"d": "a run"}})
    monkeypatch.setattr(lookup, "find_run", lambda _, uid: uid)
    monkeypatch.setattr(reprocess_module, "reprocess_each", reprocess_one)
    with pytest.raises(SystemExit) as end:
        main(["reprocess", "first", "second", "--analysis", "picture_statistics", "--json"])
    out, err = capsys.readouterr()
    assert [json.loads(line)["raw_uid"] for line in out.splitlines()] == ["second"]
    assert err == "skywright: a request to http://tiled:8000 failed: nobody there\n"
    assert end.value.code == 1


def test_arrays_of_any_data_key_are_listed() -> None:
    keys = {
        "angle": {"dtype": "number", "shape": []},
        "trace": {"dtype": "array", "shape": [1024], "dtype_numpy": "<f8"},
        "image": {"dtype": "array", "shape": [480, 640], "dtype_numpy": "|u1"},
        "foreign": {"dtype": "array", "shape": [2, None], "dtype_numpy": "decimal"},
        "table": {"dtype": "array", "shape": [3], "dtype_numpy": [["x", "<f8"]]},
        "old": {"shape": [4, 4]},
    }
    assert reprocess_module._describe_arrays(keys) == (
        "trace (1024, float64), image (480 x 640, uint8), foreign (2 x None, decimal), "
        "table (3, [['x', '<f8']]), old (4 x 4, of unknown dtype)"
    )
    needed = ArrayInput(dimensions=1, dtypes=("float64",))
    assert [name for name, key in keys.items() if needed.fits(key)] == ["trace", "old"]


def test_command_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(world.stack.directory))
    monkeypatch.setenv("SKYWRIGHT_STORE__TILED_URI", world.stack.uri)

    def skywright(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["reprocess", *arguments])
        return int(end.value.code or 0)

    uids = (world.uid[:8], world.steps_uid)
    assert skywright(*uids, "--analysis", "picture_statistics", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["raw_uid"] for line in lines] == [world.uid, world.steps_uid]
    assert lines[1]["result"]["n_frames"] == 10
    assert world.derived(lines[0]["derived_uid"]).result["n_frames"] == FRAMES

    uids = (world.blind_uid, world.steps_uid, world.uid)
    assert skywright(*uids, "--analysis", "picture_statistics", "--json") == 2
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["raw_uid"] for line in lines] == [world.steps_uid, world.uid]
    assert f"run {world.blind_uid} has no stream with the data keys" in err
    with monkeypatch.context() as patch:
        each, wait = reprocess_module.reprocess_each, SessionStore.await_run
        patch.setattr(
            reprocess_module,
            "reprocess_each",
            lambda *args, **more: [DataError("a stream is cursed"), *each(*args, **more)],
        )
        patch.setattr(SessionStore, "await_run", lambda *args: wait(*args, limit_s=0.0))
        assert skywright(*uids[1:], "--analysis", "picture_statistics", "--json") == 2
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["raw_uid"] for line in lines] == [world.steps_uid, world.uid]
    assert err.count("a stream is cursed") == err.count("run `skywright doctor`") == 2

    assert skywright(world.turn_live_uid, "--analysis", ROTATION, "--json") == 0
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (line["analysis"], line["raw_uid"]) == (ROTATION, world.turn_uid)
    assert skywright("--help") == 0
    words = capsys.readouterr().out.replace("│", " ").split()
    assert "loop_detection, loop_rotation (after loop_detection), " in " ".join(words)
    asked = []
    monkeypatch.setattr(lookup, "find_run", lambda client, uid: asked.append(uid) or newest)
    newest = find_run(world.client, world.uid)
    assert skywright("-1", "--analysis", "picture_statistics", "--json") == 0
    assert asked == ["-1"]
    monkeypatch.setattr(lookup, "find_run", find_run)
    capsys.readouterr()
    for wrong in (
        ["--analysis", LOOP],
        ["nonsense!", "--analysis", LOOP],
        [world.uid, "--analysis", "x"],
        [world.uid, "--analysis", LOOP, "--parameters", "[1]"],
        [world.uid, "--analysis", LOOP, "--key", "image"],
    ):
        assert skywright(*wrong) == 2
