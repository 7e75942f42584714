"""Locks that end with their process, and a state file that never tells of a dead stack."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.forking import forked_child

from skywright.errors import ConfigError, HardwareError
from skywright.processes import locks, stack
from skywright.processes.stack import Child, State

HOLD = """
import sys
from dataclasses import replace
from pathlib import Path
from skywright.processes.locks import hold_lock
hold_lock(Path(sys.argv[1]), "skywright up")
print("held", flush=True)
sys.stdin.read()
"""
STATE = State(
    pid=1,
    started=2.5,
    prefix="SKY:ada:",
    tiled_uri="http://127.0.0.1:8000",
    epics=stack.client_environment(["127.0.0.1:5064", "ioc7:5064"], 5065),
    processes={"axis": Child(7, {"port": 5064, "source": "sim"}, restarts=2)},
)


@contextmanager
def holder(lock: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run another process that holds `lock`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate("")


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / "up.lock"
    lock.write_text("1234567890\n")  # of an earlier owner, longer than the next one
    assert locks.lock_owner(lock) is None
    with holder(lock) as process:
        assert locks.lock_owner(lock) == process.pid
        opened = sum(1 for _ in Path("/proc/self/fd").iterdir())
        with pytest.raises(ConfigError, match=f"{tmp_path}: a skywright up .*{process.pid}; stop"):
            locks.hold_lock(lock, "skywright up")
        assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == opened
        process.send_signal(signal.SIGKILL)
    assert locks.lock_owner(lock) is None
    locks.hold_lock(lock, "skywright up")
    locks.hold_lock(lock, "skywright up")  # a second time is no harm
    assert locks.lock_owner(lock) == os.getpid()


def test_looks_at_a_lock_do_not_refuse_its_taker(tmp_path: Path) -> None:
    """A look holds the lock for a moment; taking it must bear that."""
    lock = tmp_path / "up.lock"
    lock.touch()
    look = (
        "import sys; from pathlib import Path; from skywright.processes.locks import lock_owner\n"
        "print('looking', flush=True)\n"
        "while True: lock_owner(Path(sys.argv[1]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", look, str(lock)], stdout=subprocess.PIPE, text=True
    ) as looker:
        assert looker.stdout is not None
        assert looker.stdout.readline() == "looking\n"
        locks.hold_lock(lock, "skywright up")
        looker.kill()


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A worker of multiprocessing must not make a killed session look alive."""
    lock = tmp_path / "session.lock"
    locks.hold_lock(lock, "session")
    with forked_child():
        assert locks.lock_owner(lock) == os.getpid()  # the parent's own lock is not given up
        os.close(locks._held.pop(lock))
        assert locks.lock_owner(lock) is None


def test_state_is_told_while_its_process_lives(tmp_path: Path) -> None:
    stack.write_state(tmp_path, STATE)
    assert stack.read_state(tmp_path) is None
    with pytest.raises(ConfigError, match="start `skywright up`"):
        stack.attach(tmp_path)
    with holder(tmp_path / "up.lock"):
        assert stack.read_state(tmp_path) == STATE
        (tmp_path / "up.json").unlink()  # it is written when all are ready
        with pytest.raises(ConfigError, match="starts or stops"):
            stack.attach(tmp_path)
    assert stack.read_state(tmp_path) is None


def test_state_of_another_version(tmp_path: Path) -> None:
    stack.write_state(tmp_path, STATE)
    state = json.loads((tmp_path / "up.json").read_text())
    state["new"] = state["children"]["axis"]["new"] = 1
    (tmp_path / "up.json").write_text(json.dumps(state))
    with holder(tmp_path / "up.lock"):
        assert stack.read_state(tmp_path) == STATE


def test_a_state_with_a_path_that_is_no_utf8_comes_back(tmp_path: Path) -> None:
    child = replace(STATE.processes["axis"], ready={"directory": os.fsdecode(b"/data/\xff")})
    state = replace(STATE, processes={"axis": child})
    stack.write_state(tmp_path, state)
    with holder(tmp_path / "up.lock"):
        assert stack.read_state(tmp_path) == state


def test_the_state_file_is_what_others_were_promised(tmp_path: Path) -> None:
    stack.write_state(tmp_path, STATE)
    written = json.loads((tmp_path / "up.json").read_text())
    assert written["epics"] == {
        "EPICS_CA_ADDR_LIST": "127.0.0.1:5064 ioc7:5064",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_MAX_ARRAY_BYTES": "40000000",
        "EPICS_CA_NAME_SERVERS": "",
        "EPICS_CA_REPEATER_PORT": "5065",
    }
    assert written["children"]["axis"] == {
        "pid": 7,
        "ready": {"port": 5064, "source": "sim"},
        "restarts": 2,
    }
    assert {"pid", "started", "prefix", "tiled_uri"} <= set(written)


def test_a_stack_that_is_starting_is_awaited(tmp_path: Path) -> None:
    assert stack.await_state(tmp_path, 0.0) is None
    with holder(tmp_path / "up.lock") as process:
        with pytest.raises(HardwareError, match=f"process {process.pid}, is not ready"):
            stack.await_state(tmp_path, 0.2)
        stack.write_state(tmp_path, STATE)
        assert stack.await_state(tmp_path, 0.2) == STATE


def test_attach_points_clients_at_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=f"{stack.NOT_RUNNING}; start `skywright up`"):
        stack.attach(tmp_path)
    for name in STATE.epics:
        monkeypatch.setenv(name, "before")
    stack.write_state(tmp_path, STATE)
    with holder(tmp_path / "up.lock"):
        stack.attach(tmp_path)
    import os

    assert {name: os.environ[name] for name in STATE.epics} == STATE.epics
