"""A simulated visit, tracked over Channel Access into tiled."""

import contextlib
import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.utils import RequestStop, RunEngineInterrupted
from ioc_process import running_ioc
from ophyd.sim import NullStatus
from ophyd.status import Status
from store.stack import Stack, truth
from support import forked
from support.waiting import until
from tiled.queries import Eq

from devices.epu.watcher import EpuWatcher
from plans.epu.track import track_epu
from skywright.callbacks.journal import Journal
from skywright.files.columns import ColumnReader
from skywright.instruments.epu.runs.layouts import ROW
from skywright.instruments.epu.runs.query import find_micrographs
from skywright.instruments.epu.tree import Tree
from skywright.instruments.epu.twin.visit import plan_visit
from skywright.instruments.epu.twin.writer import visit_files
from skywright.store.client import RAW

SIM = ("--source", "sim", "--speed", "inf", "--grids", "2", "--squares", "6", "--imaged", "2",
       "--holes", "3", "--seed", "5")  # fmt: skip


def watcher_of(ioc: Any, assets: Path) -> EpuWatcher:
    device = EpuWatcher(ioc.prefix, assets=assets, name="epu")
    device.wait_for_connection(timeout=60)
    return device


class FakeWatcher:
    """Stands for the device; `waiting` says at each look whether the grid waits for a run."""

    name, parent = "epu", None

    def __init__(self, *waiting: bool) -> None:
        self.waiting = list(waiting)
        self.ended: list[str] = []
        self.last = ""

    def grids(self) -> list[dict[str, Any]]:
        grid = {"uuid": "g", "name": "n", "session": "1", "data_dir": ".", "amends": self.last}
        return [{**grid, "waiting": self.waiting.pop(0)}]

    def stop_requested(self) -> bool:
        return not self.waiting

    def begin(self, grid: str, run: str) -> Status:
        self.last = run
        return NullStatus()

    def streams(self, run: str) -> list[Any]:
        return [SimpleNamespace(name="epu_squares", rows=0, parent=None)]

    def end(self, run: str, streams: list[Any]) -> None:
        self.ended.append(run)

    def is_scanned(self) -> bool:
        return True

    def suggestion(self) -> tuple[str, ...]:
        return ()

    def read(self) -> dict[str, Any]:
        return {}

    describe = read

    def trigger(self) -> NullStatus:
        return NullStatus()


def messages_of(watcher: FakeWatcher, interrupted: str = "") -> list[tuple[str, Any, Any]]:
    """Run the plan without an engine; the message `interrupted` raises, as a stop request does."""
    plan = track_epu(watcher)
    found: list[tuple[str, Any, Any]] = []
    uids = itertools.count(1)
    message = next(plan)
    with contextlib.suppress(StopIteration, RequestStop):
        while True:
            found.append((message.command, message.run, message.kwargs.get("amends")))
            if message.command == interrupted:
                interrupted = ""
                message = plan.throw(RequestStop())
            else:
                is_open = message.command == "open_run"
                message = plan.send(f"run{next(uids)}" if is_open else None)
    return found


def test_a_run_that_the_ioc_has_ended_is_followed_by_another() -> None:
    watcher = FakeWatcher(True, False, True, False)  # the session was stopped for a while
    runs = [
        each
        for each in messages_of(watcher)
        if each[0] in ("open_run", "declare_stream", "close_run")
    ]
    opened = [("open_run", "g", None), ("declare_stream", "g", None), ("close_run", "g", None)]
    again = [("open_run", "g", "run1"), *opened[1:]]
    assert runs == [*opened, *again]
    assert watcher.ended == ["run1", "run2"]


def test_a_run_that_is_interrupted_as_it_begins_is_given_back() -> None:
    watcher = FakeWatcher(True, False)
    messages_of(watcher, interrupted="declare_stream")
    assert watcher.ended == ["run1"]


def test_a_run_that_cannot_begin_failed(RE: RunEngine) -> None:
    class Full(FakeWatcher):
        def begin(self, grid: str, run: str) -> Status:
            status = Status()
            status.set_exception(OSError(28, "No space left on device"))
            return status

        def end(self, run: str, streams: list[Any]) -> None:
            super().end(run, streams)
            raise TimeoutError("the IOC does not answer")

    watcher = Full(True)
    documents: list[tuple[str, dict[str, Any]]] = []
    with pytest.raises(OSError, match="No space left"):
        RE(track_epu(watcher), lambda *document: documents.append(document))
    assert [name for name, _ in documents] == ["start", "stop"]
    start, stop = (document for _, document in documents)
    assert (stop["exit_status"], "No space left" in stop["reason"]) == ("fail", True)
    assert watcher.ended == [start["uid"]]


def test_the_engine_pauses_while_a_run_begins(RE: RunEngine) -> None:
    begins = Status()

    class Slow(FakeWatcher):
        def begin(self, grid: str, run: str) -> Status:
            super().begin(grid, run)
            threading.Timer(0.1, RE.request_pause).start()
            return begins

        def streams(self, run: str) -> list[Any]:
            assert begins.success
            return []

    watcher = Slow(True)
    with pytest.raises(RunEngineInterrupted):
        RE(track_epu(watcher))
    begins.set_finished()
    assert RE.resume().plan_result == [watcher.last] == watcher.ended


SESSION = """
import sys
from pathlib import Path
from bluesky import RunEngine
from devices.epu.watcher import EpuWatcher
from plans.epu.track import track_epu
epu = EpuWatcher(sys.argv[1], assets=Path(sys.argv[2]), name="epu")
epu.wait_for_connection(timeout=60)
def say(name, doc):
    if name == "event":
        print("event", flush=True)
RunEngine({})(track_epu(epu, idle=0), say)
"""


def test_a_killed_session_frees_its_grids(RE: RunEngine, tmp_path: Path) -> None:
    where = ("--root", str(tmp_path / "data"), "--database", str(tmp_path / "epu.sqlite"))
    with running_ioc("iocs.epu", *SIM, *where, "--lease", "5") as ioc:
        arguments = [sys.executable, "-c", SESSION, ioc.prefix, str(tmp_path / "assets")]
        with forked.start(arguments, stdout=subprocess.PIPE, text=True) as session:
            assert session.stdout is not None
            assert session.stdout.readline() == "event\n"
            epu = watcher_of(ioc, tmp_path / "assets")
            until(lambda: len(epu.runs()) == 2)
            first = set(epu.runs())
            session.kill()
        path = next((tmp_path / "data").rglob("Data/*.xml"))
        path.write_bytes(path.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime>2.5<"))
        starts: list[dict[str, Any]] = []
        RE.subscribe(lambda _, doc: starts.append(doc), "start")
        until(lambda: any(grid["waiting"] for grid in epu.grids()))
        uids = RE(track_epu(epu, idle=3)).plan_result
        assert uids
        assert {start["amends"] for start in starts} <= first
        rows = [
            exposure
            for uid in uids
            for file in (tmp_path / "assets").rglob(f"{uid}_micrographs.h5")
            for exposure in columns_of(file)
        ]
        assert 2.5 in rows


def columns_of(path: Path) -> list[float]:
    with ColumnReader(path, ROW) as reader:
        return list(reader.read("/entry/exposure_time"))


def test_visit_is_in_tiled(RE: RunEngine, stack: Stack, tmp_path: Path) -> None:
    where = ("--root", str(tmp_path / "data"), "--database", str(tmp_path / "epu.sqlite"))
    documents: list[tuple[str, dict[str, Any]]] = []
    journal = Journal(stack.journals)
    RE.subscribe(journal)
    RE.subscribe(lambda name, doc: documents.append((name, doc)))
    with running_ioc("iocs.epu", *SIM, *where) as ioc, stack.ingester():
        epu = watcher_of(ioc, stack.directory / "assets")
        until(lambda: len(epu.grids()) == 2 and epu.is_scanned())
        for number, grid in enumerate(epu.grids()):  # a session that was stopped as it began
            run = f"unread{number}"
            epu.begin(grid["uuid"], run).wait(60)
            epu.end(run, epu.streams(run)[:3])
        uids = RE(track_epu(epu, idle=3)).plan_result
        assert len(uids) == 2
        for uid in uids:
            stack.done(uid)
        assert RE(track_epu(epu, idle=2)).plan_result == []  # an unchanged tree opens no run
        path = next((tmp_path / "data").rglob("Data/*.xml"))
        path.write_bytes(path.read_bytes().replace(b"<ExposureTime>0.89<", b"<ExposureTime>2.5<"))
        (amending,) = RE(track_epu(epu, idle=2)).plan_result
        stack.done(amending)
    journal.close()
    tree = {
        grid.session: [len(list(grid.foilholes)), *(json.loads(m) for m in grid.micrographs)]
        for grid in Tree(tmp_path / "data").grids()
    }
    client = stack.client()[RAW]
    for uid in uids:
        run = client[uid]
        expected = tree[run.metadata["start"]["epu_session"]]
        ids = {text.decode() for text in run["micrographs/epu_micrograph_micrograph_id"][:]}
        assert ids == {m["id"] for m in expected[1:] if m["exposure_time"] != 2.5} | {
            m["id"] for m in expected[1:]
        }
        holes = run["holes/epu_hole_uuid"][:]
        assert len(set(holes)) == expected[0]
        assert len(set(run["squares/epu_square_uuid"][:])) == 6
    again = client[amending]
    assert again.metadata["start"]["amends"] in uids
    assert list(again["micrographs/epu_micrograph_exposure_time"][:]) == [2.5]
    events = [doc for name, doc in documents if name == "event"]
    assert all(len(doc["data"]) < 20 for doc in events)


def test_suggestions_and_paths_on_the_cluster_are_in_the_catalog(
    RE: RunEngine, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "skywright.toml"
    config.write_text("[epu.path_map]\n'Z:\\DoseFractions' = \"/dls/m02\"\n")
    monkeypatch.setenv("SKYWRIGHT_CONFIG", str(config))
    visit = plan_visit(8, 1, 9, imaged=3, holes=8)
    square = [square for square in visit.grids[0].squares if square.holes][-1]
    left = [f"FoilHole_{hole.id}_" for hole in square.holes[5:]]  # planned, and not taken
    for file in visit_files(visit):
        if not any(name in file.path for name in left):
            file.put(tmp_path / "data")
    where = ("--root", str(tmp_path / "data"), "--database", str(tmp_path / "epu.sqlite"))
    starts: list[dict[str, Any]] = []
    RE.subscribe(lambda _, doc: starts.append(doc), "start")
    journal = Journal(stack.journals)
    RE.subscribe(journal)
    with running_ioc("iocs.epu", "--source", "epu", *where) as ioc, stack.ingester():
        epu = watcher_of(ioc, stack.directory / "assets")
        until(lambda: epu.suggestion()[1])
        path_map = json.loads(epu.path_map.get())
        (uid,) = RE(track_epu(epu, idle=1)).plan_result
        stack.done(uid)
    journal.close()
    run = stack.client()[RAW][uid]
    last = run["primary"].read().isel(time=-1)
    assert last["epu_suggested_grid"] == starts[0]["epu_grid"]
    assert last["epu_best_square"] == str(square.id)
    assert last["epu_next_holes"] == " ".join(str(hole.id) for hole in square.holes[5:])
    assert str(square.id) in str(last["epu_reason"].values)
    paths = [path.decode() for path in run["micrographs/epu_micrograph_cluster_path"][:]]
    assert paths
    assert all(path.startswith(f"/dls/m02/{visit.name}/") for path in paths)
    session = stack.client()[RAW].search(Eq("start.epu_session", starts[0]["epu_session"]))
    hole = square.holes[0]
    found = find_micrographs(list(session.values()), hole=str(hole.id), limit=3)
    assert {uuid.decode() for uuid in found["uuid"]} <= {each.id for each in hole.micrographs}
    assert len(found["uuid"]) == 3
    assert path_map == {"Z:\\DoseFractions": "/dls/m02"}


@pytest.mark.soak  # make test kills the server in `store/test_kill.py`
def test_tiled_away_for_a_while_loses_and_doubles_nothing(
    RE: RunEngine, stack: Stack, tmp_path: Path
) -> None:
    where = ("--root", str(tmp_path / "data"), "--database", str(tmp_path / "epu.sqlite"))
    slow = tuple("150" if each == "inf" else each for each in SIM)
    journal = Journal(stack.journals)
    away, back = threading.Event(), threading.Event()
    counts = {"events": 0, "while_away": 0}

    def restart() -> None:
        away.wait()
        stack.server.kill()
        back.wait()
        stack.start_server()

    def note(name: str, _doc: dict[str, Any]) -> None:
        if name != "event":
            return
        counts["events"] += 1
        if away.is_set() and not back.is_set():
            counts["while_away"] += 1
        if counts["events"] >= 2:
            away.set()
        if counts["while_away"] >= 4:
            back.set()

    RE.subscribe(journal)
    RE.subscribe(note)
    restarter = threading.Thread(target=restart)
    restarter.start()
    with running_ioc("iocs.epu", *slow, *where) as ioc, stack.ingester():
        epu = watcher_of(ioc, stack.directory / "assets")
        try:
            uids = RE(track_epu(epu, idle=3)).plan_result
        finally:
            away.set()
            back.set()
            restarter.join()
        journals = {uid: stack.done(uid) for uid in uids}
    journal.close()
    assert len(uids) == 2
    assert counts["while_away"] >= 4
    tree = {
        grid.session: [len(list(grid.foilholes)), [json.loads(m)["id"] for m in grid.micrographs]]
        for grid in Tree(tmp_path / "data").grids()
    }
    client = stack.client()[RAW]
    for uid, path in journals.items():
        run = client[uid]
        holes, micrographs = tree[run.metadata["start"]["epu_session"]]
        ids = [text.decode() for text in run["micrographs/epu_micrograph_micrograph_id"][:]]
        assert len(ids) == len(run["micrographs/epu_micrograph_exposure_time"][:])
        assert set(ids) == set(micrographs)
        assert len(set(run["holes/epu_hole_uuid"][:])) == holes
        expected = truth(path)["primary"]
        found = run["primary"].read()["epu_n_micrographs"].to_numpy().tolist()
        assert found == [expected[number]["epu_n_micrographs"] for number in sorted(expected)]
