"""tiled, the ingester and the session, each killed at random points of a run; tiled, stopped."""

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.recording import Recording, scalar
from store.stack import Child, Stack, documents, running_stack, truth
from support.streaming import NUMBER, noise
from tiled.utils import path_from_uri

from skywright.store.ingest import IngestState, ingest
from skywright.store.recover import recover

SCRIPT = str(Path(__file__).with_name("session_script.py"))
POINTS = 25
RUN_S = 1.5
"""About what the two runs of the session take."""
QUICK, SOAK = 2, 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("killable")) as stack:
        yield stack


@pytest.fixture
def killable(store: Stack) -> Stack:
    """A store of which everything may be killed; its server runs, whatever was done to it."""
    if store.server.process.poll() is not None:
        store.start_server()
    return store


def session(stack: Stack, die_at: str) -> Child:
    child = Child(SCRIPT, str(stack.directory), str(POINTS), die_at)
    stack.children.append(child)
    return child


def go(child: Child) -> None:
    assert child.process.stdin is not None
    child.process.stdin.write("go\n")
    child.process.stdin.flush()


def uids_of(stack: Stack) -> set[str]:
    return {path.name.split(".")[0] for path in stack.journals.rglob("*.jsonl*")}


def seen_by_session(stack: Stack) -> set[str]:
    path = stack.directory / "seen.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {json.loads(line)[1] for line in lines}


def assert_catalog_is_journal(stack: Stack, uids: set[str]) -> None:
    """Nothing lost that was journaled, nothing twice, no run left open."""
    client = stack.client()
    raw = client["raw"]
    journaled: set[str] = set()
    for uid in uids:
        path = stack.journals / "done" / f"{uid}.jsonl"
        lines = documents(path)
        journaled |= {doc["uid"] for _, doc in lines if "uid" in doc}
        run = raw[uid]
        assert run.metadata["stop"]["uid"] == lines[-1][1]["uid"]
        for stream, rows in truth(path).items():
            assert_rows(run, stream, rows)
        assert_frames(run, lines)
    assert seen_by_session(stack) <= journaled | everything_done(stack)
    assert not [run for run in raw.values() if "stop" not in run.metadata]


def everything_done(stack: Stack) -> set[str]:
    paths = (stack.journals / "done").glob("*.jsonl")
    return {doc["uid"] for path in paths for _, doc in documents(path) if "uid" in doc}


def assert_rows(run: Any, stream: str, rows: dict[int, dict[str, Any]]) -> None:
    table = run.base[stream].base["internal"].read()
    assert table["seq_num"].tolist() == sorted(rows)
    for key in next(iter(rows.values())):
        assert table[key].tolist() == [rows[seq_num][key] for seq_num in sorted(rows)]


def assert_frames(run: Any, lines: list[tuple[str, dict[str, Any]]]) -> None:
    """Each whole frame on the disk is in the catalog once, and is the right picture."""
    resources = [doc for name, doc in lines if name == "stream_resource"]
    told = {doc["data_key"] for doc in resources}
    if "cam_image" not in told:
        return
    with h5py.File(path_from_uri(resources[0]["uri"])) as file:  # not even SWMR is needed
        on_disk = file[NUMBER][:].tolist()
    shown = 0
    for stream in sorted(run):
        data = run[stream].read()  # fails when lengths differ
        if "cam_image" not in data:
            continue
        images = data["cam_image"].values
        numbers = on_disk[shown : shown + len(images)]
        for image, number in zip(images, numbers, strict=True):
            np.testing.assert_array_equal(image, noise(number))
        if "cam_frame_number" in told:
            assert data["cam_frame_number"].values.tolist() == numbers
        shown += len(images)
    assert shown == len(on_disk)


def settle(stack: Stack, uids: set[str]) -> None:
    """Recover, check everything, and see that a second recovery has nothing to do."""
    client = stack.client()
    recover(stack.directory, client)
    assert_catalog_is_journal(stack, uids & uids_of(stack))
    before = {uid: client["raw"][uid].metadata["stop"] for uid in client["raw"]}
    second = recover(stack.directory, client)
    assert second.changes == 0
    assert not second.aside
    assert not second.recording
    assert before == {uid: client["raw"][uid].metadata["stop"] for uid in client["raw"]}


def die_points(rng: random.Random) -> str:
    number = rng.randint(1, 3 * POINTS)
    return rng.choice(
        ["stage", "unstage", "stop:before", "stop:after"]
        + 2 * [f"flush:{rng.randint(1, POINTS)}", f"document:{number}", f"torn:{number}"]
    )


def run_and_die(stack: Stack, die_at: str) -> None:
    print("session dies at", die_at)
    child = session(stack, die_at)
    go(child)
    child.process.wait(timeout=60)
    assert child.process.returncode == -9, child.stderr()


def run_to_the_end(child: Child) -> None:
    assert child.process.stdout is not None
    assert json.loads(child.process.stdout.readline()) == {"ended": True}


def wait_done(stack: Stack, before: set[str]) -> set[str]:
    """Return the runs that are new, both in the catalog without anybody's help."""
    new = uids_of(stack) - before
    for uid in new:
        stack.done(uid)
    assert len(new) == 2
    return new


def kill_sessions(stack: Stack, rngs: list[random.Random]) -> None:
    before = uids_of(stack)
    with stack.ingester():
        for rng in rngs:
            run_and_die(stack, die_points(rng))
    settle(stack, uids_of(stack) - before)


def kill_servers(stack: Stack, rngs: list[random.Random]) -> None:
    before = uids_of(stack)
    with stack.ingester():
        for rng in rngs:
            after, old = rng.uniform(0, RUN_S), uids_of(stack)
            print(f"tiled dies after {after:.3f} s")
            child = session(stack, "never")
            go(child)
            threading.Event().wait(after)
            stack.server.kill()
            run_to_the_end(child)
            stack.start_server()
            wait_done(stack, old)
    settle(stack, uids_of(stack) - before)


def kill_ingesters(stack: Stack, rngs: list[random.Random]) -> None:
    before = uids_of(stack)
    ingester = stack.start_ingester()
    for rng in rngs:
        after, old = rng.uniform(0, RUN_S), uids_of(stack)
        print(f"the ingester dies after {after:.3f} s")
        child = session(stack, "never")
        go(child)
        threading.Event().wait(after)
        ingester.kill()
        ingester = stack.start_ingester()
        run_to_the_end(child)
        wait_done(stack, old)
    ingester.stop()
    settle(stack, uids_of(stack) - before)


VICTIMS = {"session": kill_sessions, "tiled": kill_servers, "ingester": kill_ingesters}


def kill(stack: Stack, victim: str, times: int) -> None:
    seeds = [random.SystemRandom().randrange(2**32) for _ in range(times)]
    print(f"victim {victim}, seeds {seeds}")
    VICTIMS[victim](stack, [random.Random(seed) for seed in seeds])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_anywhere(killable: Stack, victim: str) -> None:
    kill(killable, victim, QUICK)


def test_server_ends_soon_with_a_stream_open(killable: Stack) -> None:
    """SIGTERM while a reader is subscribed; the next start finds everything."""
    client = killable.client()
    recording = Recording(killable.journals).stream("primary", x=scalar("number"))
    recording.event(x=1.0)
    ingest(recording.path, client)
    table = client["raw"][recording.uid].base["primary"].base["internal"]
    arrived = threading.Event()

    def seen(update: Any) -> None:
        arrived.set()

    subscription = table.subscribe()
    subscription.new_data.add_callback(seen)
    subscription.start_in_thread(0)
    assert arrived.wait(90)
    killable.server.process.terminate()
    assert killable.server.process.wait(90) == 0
    subscription.disconnect()
    killable.start_server()
    assert client["raw"][recording.uid]["primary"].read()["x"].values.tolist() == [1.0]
    assert ingest(recording.stop(), client) is IngestState.DONE


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_twenty_points(killable: Stack, victim: str) -> None:
    kill(killable, victim, SOAK)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "die_at",
    [
        "stage",
        "unstage",
        "stop:before",
        "stop:after",
        "flush:1",
        "flush:7",
        "document:1",
        "document:2",
        "document:3",
        "torn:1",
        "torn:2",
        "torn:3",
        "torn:9",
    ],
)
def test_session_killed_at_each_kind_of_point(killable: Stack, die_at: str) -> None:
    before = uids_of(killable)
    with killable.ingester():
        run_and_die(killable, die_at)
    settle(killable, uids_of(killable) - before)
