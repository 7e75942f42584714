"""One implementation of every number: live, reprocessed here, and on a cluster, bit for bit."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis
from store.stack import Stack, running_stack
from support.derived import Derived, read_derived
from support.odd_analyses import PATH
from support.streaming import StreamingCamera

from skywright.callbacks.journal import Journal
from skywright.callbacks.live import LiveAnalysis
from skywright.cli import main
from skywright.errors import ConfigError, DataError, SkywrightError
from skywright.store import lookup
from skywright.store.lookup import find_run
from skywright.store.reprocess import cluster, reprocess, wait_until_stored

LOOP = "loop_detection"
FRAMES = 70
"""Of the raw run: more than a block."""


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
        live = LiveAnalysis(LOOP, journal=stack.journals, assets=stack.directory / "assets")
        live.wait_ready()
        engine = RunEngine(call_returns_result=True)
        engine.subscribe(journal)
        engine.subscribe(live)
        self.uid: str = engine(self.fly()).run_start_uids[0]
        done = live.wait(raw_uid=self.uid, timeout_s=120)
        assert done.error == ""
        assert done.derived_uid is not None
        self.live_uid = done.derived_uid
        live.close()
        self.steps_uid: str = engine(
            bp.scan([self.camera], SynAxis(name="gonio_angle"), 0, 90, 10)
        ).run_start_uids[0]
        self.blind_uid: str = engine(bp.count([SynAxis(name="m")])).run_start_uids[0]
        for uid in (self.uid, self.live_uid, self.steps_uid, self.blind_uid):
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
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # workers import odd_analyses
    with running_stack(tmp_path_factory.mktemp("reprocess")) as stack, stack.ingester():
        yield World(stack)
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


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
    for name, values in live.columns().items():
        stored = run[f"pictures/{name}"].read()
        assert stored.tobytes() == values
        assert stored.shape == (FRAMES,)
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


def test_failure_is_an_error_and_in_the_derived_run(world: World) -> None:
    run, cursed = find_run(world.client, world.steps_uid), FRAMES + 3
    with pytest.raises(DataError, match=f"frame {cursed} is cursed") as failure:
        reprocess(run, f"{PATH}:Raises", {"at": cursed}, store=world.stack.directory)
    uid = str(failure.value).split("see ")[1].split(":")[0]
    assert wait_until_stored(world.client, uid).metadata["stop"]["exit_status"] == "fail"


def test_what_cannot_be_reprocessed_is_said(world: World) -> None:
    def attempt(uid: str, name: str = LOOP) -> None:
        reprocess(find_run(world.client, uid), name, store=world.stack.directory)

    with pytest.raises(DataError, match="itself a derived run"):
        attempt(world.live_uid)
    with pytest.raises(DataError, match="no stream with the data keys that loop_detection needs"):
        attempt(world.blind_uid)
    with pytest.raises(ConfigError, match=r"no analysis 'loops'; known are .*loop_detection"):
        attempt(world.uid, "loops")
    with pytest.raises(SkywrightError, match="not in the catalog after 0 s"):
        wait_until_stored(world.client, "nobody", timeout_s=0)


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
