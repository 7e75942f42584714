"""Plans back to back while processes are killed: the catalog keeps up and holds every run."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from store.stack import Stack, documents, running_stack
from store.test_file_tables import FileRun
from support.waiting import until

from skywright.processes.stack import read_state
from skywright.store.check import differences
from skywright.store.client import connect
from skywright.store.ingester import Ingester
from skywright.store.recover import contents_of

SCRIPT = Path(__file__).with_name("soak_session.py")
SECONDS = float(os.environ.get("SKYWRIGHT_SOAK_SECONDS", "600"))
VICTIMS = ("ingester", "tiled", "axis", "worker", "session")
COMPLETE_S, BACK_S = 3.0, 10.0
"""Goals: after its stop a run is complete (p95); and after a killed server is back."""


@dataclass(frozen=True)
class Kill:
    """When a process was killed, and when its successor was ready; unix s."""

    victim: str
    at: float
    back: float


class Beamline:
    """`skywright up` and a session that runs plans, as a user starts them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        self._environment = {**os.environ, "SKYWRIGHT_STORE__DIRECTORY": str(self.store)}
        self._log = (directory / "log").open("w")
        self.session: subprocess.Popen[bytes] | None = None
        self.up = self._start("up", "--json")

    def await_ready(self) -> None:
        """Wait until all processes of `up` are ready."""
        until(lambda: read_state(self.store), 120, "skywright up is ready")

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "skywright.cli", *arguments]
        return subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=self._environment, cwd=self.directory
        )

    def start_session(self, seconds: float) -> None:
        """Run plans for some seconds."""
        self.session = self._start("session", str(SCRIPT), f"{seconds:.1f}")

    def pid(self, victim: str) -> int:
        """Return the process to kill."""
        assert self.session is not None
        if victim == "session":
            return self.session.pid
        if victim == "worker":
            children = psutil.Process(self.session.pid).children(recursive=True)
            lines = [(child.pid, child.cmdline()) for child in children]
            return next(pid for pid, line in lines if "skywright.callbacks.worker" in line)
        state = read_state(self.store)
        assert state is not None
        return state.processes[victim].pid

    def kill(self, victim: str, seconds_left: float) -> Kill:
        """Kill one process; wait until it is back."""
        pid, at = self.pid(victim), time.time()
        os.kill(pid, signal.SIGKILL)
        if victim == "session":
            assert self.session is not None
            self.session.wait(timeout=30)
            self.start_session(seconds_left)
        elif victim != "worker":
            until(lambda: self._pid_now(victim) not in (None, pid), 60, f"{victim} is back")
        return Kill(victim, at, time.time())

    def _pid_now(self, victim: str) -> int | None:
        state = read_state(self.store)
        return state.processes[victim].pid if state and victim in state.processes else None

    def client(self) -> Any:
        state = read_state(self.store)
        assert state is not None
        return connect(state.tiled_uri, (self.store / "tiled" / "api_key").read_text())

    def waiting(self) -> list[Path]:
        """Return the journals that are not done."""
        return list((self.store / "journal").glob("*.jsonl*"))

    def close(self) -> None:
        for process in (self.session, self.up):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(timeout=30)
        self._log.close()


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[Beamline]:
    running = Beamline(tmp_path)
    try:
        running.await_ready()
        yield running
    finally:
        running.close()


def done_journals(store: Path) -> list[Path]:
    return sorted((store / "journal" / "done").glob("*.jsonl"))


def completions(store: Path) -> list[tuple[float, float]]:
    """Return of each run when it stopped and when its journal was done, unix s."""
    # The rename into `done` sets the time of the inode's last change.
    return [(documents(path)[-1][1]["time"], path.stat().st_ctime) for path in done_journals(store)]


def assert_all_there(beamline: Beamline) -> dict[str, int]:
    """Check each run of the catalog against its journal, and that raw runs have derived ones."""
    client = beamline.client()
    paths = done_journals(beamline.store)
    raws: set[str] = set()
    analyzed: set[str] = set()
    with_rows: set[str] = set()
    for path in paths:
        contents = contents_of(path)
        assert contents.start is not None
        start = contents.start
        derived = start.get("purpose") == "analysis"
        run = client["analysis" if derived else "raw"][start["uid"]]
        assert differences(contents, run) == []
        for name in run:
            run[name].read()  # every column can be read
        if derived:
            analyzed.add(start["raw_uid"])
        else:
            raws.add(start["uid"])
            if any(stream.external_rows for stream in contents.streams.values()):
                with_rows.add(start["uid"])
    stored = {run.metadata["start"]["uid"] for run in client["raw"].values()}
    assert stored == raws
    assert with_rows <= analyzed
    return {"raw": len(raws), "derived": len(paths) - len(raws)}


def soak(beamline: Beamline, seconds: float, victims: tuple[str, ...], seed: int) -> None:
    """Run plans for some seconds, kill the victims in turn, check all that is left of it."""
    rng = random.Random(seed)
    begin = time.time()
    beamline.start_session(seconds)
    assert beamline.session is not None
    session = beamline.session
    until(lambda: beamline.waiting() or session.poll() is not None, 90, "the first run")
    kills = []
    share = seconds / max(len(victims), 1)
    for number, victim in enumerate(victims):
        at = begin + (number + rng.uniform(0.2, 0.8)) * share
        threading.Event().wait(max(at - time.time(), 0.0))
        kills.append(beamline.kill(victim, max(begin + seconds - time.time(), 5.0)))
    assert beamline.session is not None
    assert beamline.session.wait(timeout=seconds + 120) == 0
    until(lambda: not beamline.waiting(), 60, "all journals done")
    times = completions(beamline.store)
    took = np.array([done - stop for stop, done in times])
    down = [kill for kill in kills if kill.victim in ("tiled", "ingester", "session")]
    quiet = np.array(
        [not any(k.at - 1 < stop < k.back + BACK_S for k in down) for stop, _ in times]
    )
    assert quiet.any(), "the servers were never back for long enough to be timed"
    report = {
        "row": "soak: runs complete after their stop",
        "runs": len(times),
        "seconds": seconds,
        "seed": seed,
        "p50_s": round(float(np.percentile(took[quiet], 50)), 2),
        "p95_s": round(float(np.percentile(took[quiet], 95)), 2),
        "max_s": round(float(took.max()), 2),
        "kills": [
            f"{k.victim} +{k.at - begin:.0f} s, back in {k.back - k.at:.1f} s" for k in kills
        ],
    }
    print(json.dumps(report), flush=True)
    print(json.dumps(assert_all_there(beamline)))
    assert np.percentile(took[quiet], 95) <= COMPLETE_S, report
    for kill in down:
        late = [done - kill.back for stop, done in times if kill.at - 1 < stop < kill.back]
        assert max(late, default=0.0) <= BACK_S, (kill, report)


def test_servers_killed_between_runs(tmp_path: Path) -> None:
    """A small soak: many short runs of files, the ingester and tiled killed among them."""
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    with running_stack(tmp_path) as stack:
        ingester = stack.start_ingester()
        kills = {rng.randrange(2, 6): "ingester", rng.randrange(7, 11): "tiled"}
        back = 0.0
        uids = []
        for number in range(14):
            run = FileRun(stack.journals, 20, stack.directory / "assets")
            for _ in range(3):
                run.append(5)
                run.tell()
                threading.Event().wait(0.05)
            if kills.get(number) == "ingester":
                ingester.kill()
                ingester = stack.start_ingester()
            elif kills.get(number) == "tiled":
                stack.server.kill()
                stack.start_server()
            back = time.time() if number in kills else back
            uids.append(run.stop().stem)
        for uid in uids:
            stack.done(uid)
        ended = {path.stem: path.stat().st_ctime for path in done_journals(stack.directory)}
        assert list(ended) == sorted(uids)  # once each
        print("complete", max(ended.values()) - back, "s after the last server was back")
        assert max(ended.values()) - back <= 3 * BACK_S  # a busy machine; `make soak` is strict
        client = stack.client()
        assert sorted(client["raw"]) == sorted(uids)
        for uid in uids:
            contents = contents_of(stack.journals / "done" / f"{uid}.jsonl")
            assert differences(contents, client["raw"][uid]) == []
            assert len(client["raw"][uid]["primary"].read()["c19"]) == 15
        ingester.stop()


def test_oldest_runs_end_first(stack: Stack, client: Any) -> None:
    directory = stack.directory / "assets" / "oldest"
    runs = [FileRun(directory / "journal", 2, stack.directory / "assets") for _ in range(4)]
    live, *ended = runs
    for run in runs:
        run.append(3)
        run.tell()
    for run in reversed(ended):
        run.stop()
    ingester = Ingester(directory, client)
    order = []
    while ingester.sweep():
        done = {path.stem for path in (directory / "journal" / "done").glob("*")}
        order += sorted(done - {*order})
    assert order == [run.recording.uid for run in ended]
    assert len(client["raw"][live.recording.uid]["primary"].read()["c0"]) == 3
    live.stop()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victims", [(), VICTIMS], ids=["undisturbed", "killed"])
def test_plans_back_to_back(beamline: Beamline, victims: tuple[str, ...]) -> None:
    soak(beamline, SECONDS, victims, seed=random.SystemRandom().randrange(2**32))
