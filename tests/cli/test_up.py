"""`skywright up` as users run it: real processes, real signals, one line for each fault."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support import forked
from support.stack import COMMAND, Up, run, running_up, write_fake_beamline
from support.waiting import until

from skywright.cli.up import names_to_start, plan_services
from skywright.config import DashboardSettings, IocSettings, Settings
from skywright.processes.ports import free_port
from skywright.processes.stack import State, read_state

IOCS = ("--only", "one", "two")


@pytest.fixture
def fake_beamline(tmp_path: Path) -> dict[str, str]:
    return write_fake_beamline(tmp_path)


@pytest.fixture
def up(fake_beamline: dict[str, str]) -> Iterator[Up]:
    with running_up(*IOCS, **fake_beamline) as stack:
        yield stack


@dataclass(frozen=True)
class Lasting:
    """A beamline that the tests leave running."""

    up: Up
    directory: Path
    environment: dict[str, str]

    def state(self) -> State:
        found = read_state(self.directory / "store")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    directory = tmp_path_factory.mktemp("lasting")
    environment = write_fake_beamline(directory)
    with running_up(*IOCS, **environment) as up:
        yield Lasting(up, directory, environment)


def test_state_file_tells_clients_where_everything_is(lasting: Lasting) -> None:
    state = lasting.state()
    assert state.pid == lasting.up.process.pid == lasting.up.facts["pid"]
    assert set(state.processes) == {"one", "two", "repeater"}
    ports = [state.processes[name].ready["port"] for name in ("one", "two")]
    assert state.epics["EPICS_CA_ADDR_LIST"] == f"127.0.0.1:{ports[0]} 127.0.0.1:{ports[1]}"
    assert state.epics["EPICS_CA_AUTO_ADDR_LIST"] == "NO"
    assert state.processes["one"].ready["prefix"] == state.prefix + "ONE:"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_no_process_and_no_state(up: Up, tmp_path: Path, signum: int) -> None:
    assert len(up.tree) == 3
    assert up.end(signum) == 0
    assert [each for each in up.tree if each.is_running()] == []
    assert read_state(tmp_path / "store") is None
    assert not (tmp_path / "store" / "up.json").exists()


def test_a_stack_that_stops_is_no_longer_found(up: Up, tmp_path: Path) -> None:
    state = read_state(tmp_path / "store")
    assert state is not None
    late = psutil.Process(state.processes["one"].pid)
    late.suspend()  # it ends when `up` kills it
    up.process.send_signal(signal.SIGTERM)
    until(lambda: not (tmp_path / "store" / "up.json").exists())
    assert late.is_running()
    assert up.process.wait(60) == 0
    assert not (tmp_path / "store" / "up.json").exists()


def test_sigkill_leaves_no_process_and_no_state(up: Up, tmp_path: Path) -> None:
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    assert up.left() == []
    assert (tmp_path / "store" / "up.json").exists()
    assert read_state(tmp_path / "store") is None  # it tells no one that a dead stack runs


def test_the_death_of_the_starter_ends_everything(up: Up) -> None:
    assert up.process.stdin is not None
    up.process.stdin.close()
    assert up.process.wait(90) == 0
    assert up.left() == []


def test_a_restarted_ioc_keeps_its_port(lasting: Lasting) -> None:
    before = lasting.state()
    os.kill(before.processes["one"].pid, signal.SIGKILL)
    assert "was killed by SIGKILL" in lasting.up.event("one", "restarting")
    lasting.up.event("one", "ready")
    after = lasting.state()
    assert after.processes["one"].restarts == 1
    assert after.processes["one"].pid != before.processes["one"].pid
    assert after.processes["one"].ready["port"] == before.processes["one"].ready["port"]
    assert after.epics == before.epics


def test_a_state_that_could_not_be_written_is_written_later(up: Up, tmp_path: Path) -> None:
    """As on a full disk: the page and `doctor` would show the process that has died."""
    store = tmp_path / "store"
    before = read_state(store)
    assert before is not None
    (store / "up.json").unlink()
    (store / "up.json").mkdir()  # no file can take its place
    os.kill(before.processes["one"].pid, signal.SIGKILL)
    assert "cannot be written" in up.event("up", "cannot be written")
    up.event("one", "ready")
    (store / "up.json").rmdir()
    after = until(lambda: read_state(store), 30.0, "the state is written")
    assert after.processes["one"].restarts == 1


def test_a_second_up_on_one_store_is_refused_with_the_pid(lasting: Lasting) -> None:
    second = run("up", *IOCS, **lasting.environment)
    assert second.returncode == 2
    assert second.stdout == ""
    assert f"process {lasting.up.process.pid}" in one_line(second)
    assert lasting.up.process.poll() is None


def test_two_stores_run_side_by_side(lasting: Lasting, tmp_path: Path) -> None:
    environment = {**lasting.environment, "SKYWRIGHT_STORE__DIRECTORY": str(tmp_path / "other")}
    with running_up(*IOCS, **environment):
        first, second = lasting.state(), read_state(tmp_path / "other")
        assert second is not None
        assert first.epics["EPICS_CA_ADDR_LIST"] != second.epics["EPICS_CA_ADDR_LIST"]


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what a failed command said, which must be one line."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("skywright: ")
    return lines[0]


def test_a_taken_port_is_named_with_its_key(fake_beamline: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("up", *IOCS, **fake_beamline, SKYWRIGHT_IOCS__TWO__PORT=port)
    assert done.returncode == 2
    assert f"iocs.two.port: port {port} is taken" in one_line(done)


def test_the_state_of_a_stack_that_was_killed_is_removed_before_anything_else(
    fake_beamline: dict[str, str], tmp_path: Path
) -> None:
    state = tmp_path / "store" / "up.json"
    state.parent.mkdir(exist_ok=True)
    state.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:  # it ends when it chooses ports
        port = str(taken.getsockname()[1])
        done = run("up", *IOCS, **fake_beamline, SKYWRIGHT_IOCS__TWO__PORT=port)
    assert done.returncode == 2
    assert not state.exists()


def test_a_broken_key_is_named(fake_beamline: dict[str, str]) -> None:
    done = run("up", **fake_beamline, SKYWRIGHT_STORE__TILED_PORT="high")
    assert done.returncode == 2
    assert "SKYWRIGHT_STORE__TILED_PORT: " in one_line(done)


def test_a_missing_parent_directory_is_named(fake_beamline: dict[str, str], tmp_path: Path) -> None:
    where = tmp_path / "not-mounted" / "store"
    done = run("up", **fake_beamline, SKYWRIGHT_STORE__DIRECTORY=str(where))
    assert done.returncode == 2
    assert f"store.directory: {where.parent} does not exist" in one_line(done)


def test_a_store_below_a_path_that_tiled_cannot_read_is_named(
    fake_beamline: dict[str, str], tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run #1")
    done = run("up", **fake_beamline, SKYWRIGHT_STORE__DIRECTORY=str(link))
    assert done.returncode == 2
    assert "SKYWRIGHT_STORE__DIRECTORY: tiled reads no path with '#'" in one_line(done)


def test_a_file_in_the_place_of_the_store_is_named(fake_beamline: dict[str, str]) -> None:
    done = run("up", **fake_beamline, SKYWRIGHT_STORE__DIRECTORY=fake_beamline["SKYWRIGHT_CONFIG"])
    assert done.returncode == 2
    assert f"store.directory: {fake_beamline['SKYWRIGHT_CONFIG']}: " in one_line(done)


def test_a_full_disk_is_named(fake_beamline: dict[str, str]) -> None:
    """No byte can be written, which a limit on file sizes gives us without being root."""
    done = subprocess.run(
        [*COMMAND, "up", *IOCS],
        env={**os.environ, **fake_beamline},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        check=False,
    )
    assert done.returncode == 2
    assert "store.directory: " in one_line(done)


def test_up_goes_on_when_its_reports_cannot_be_written(
    fake_beamline: dict[str, str], tmp_path: Path
) -> None:
    state = tmp_path / "store" / "up.json"
    with Path("/dev/full").open("w") as full:
        process = forked.start(
            [*COMMAND, "up", "--json", *IOCS],
            env={**os.environ, **fake_beamline},
            stdin=subprocess.PIPE,
            stdout=full,
        )
    try:
        until(lambda: state.exists() or process.poll() is not None, what="the stack is ready")
        child = psutil.Process(json.loads(state.read_text())["children"]["one"]["pid"])
        child.kill()
        until(lambda: '"restarts": 1' in state.read_text(), what="the IOC is there again")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_store_that_cannot_be_written_is_named(fake_beamline: dict[str, str]) -> None:
    done = run(
        "up", *IOCS, **fake_beamline, SKYWRIGHT_STORE__DIRECTORY="/sys"
    )  # refused to root too
    assert done.returncode == 2
    assert "store.directory: /sys: " in one_line(done)


def test_a_missing_readable_directory_is_named(fake_beamline: dict[str, str]) -> None:
    done = run("up", **fake_beamline, SKYWRIGHT_STORE__READABLE='["/no/such/place"]')
    assert done.returncode == 2
    assert "store.readable: /no/such/place" in one_line(done)


def test_an_ioc_that_cannot_start_is_named_with_its_words(
    fake_beamline: dict[str, str], tmp_path: Path
) -> None:
    before = psutil.Process().children(recursive=True)
    done = run("up", "--only", "one", **fake_beamline, SKYWRIGHT_IOCS__ONE__ARGS='["--colour"]')
    assert done.returncode == 1
    said = one_line(done)
    assert "one ended with exit status 2" in said
    assert "unrecognized arguments: --colour" in said
    assert str(tmp_path / "store" / "logs" / "one.log") in said
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_a_missing_module_is_named_with_its_key(fake_beamline: dict[str, str]) -> None:
    done = run("up", **fake_beamline, SKYWRIGHT_IOCS__ONE__MODULE="iocs.no_such_thing")
    assert done.returncode == 2
    assert "iocs.one.module: there is no module iocs.no_such_thing" in one_line(done)


def test_an_ioc_alone_starts_whatever_the_directory_of_another_is(
    fake_beamline: dict[str, str], tmp_path: Path
) -> None:
    bad = tmp_path / "data"
    bad.write_text("no directory")
    telescopes = {
        "SKYWRIGHT_IOCS__TELESCOPES": json.dumps(
            {"module": "iocs.panoseti", "prefix": "P:", "args": ["--data-dir", str(bad)]}
        )
    }
    with running_up("--only", "one", **fake_beamline, **telescopes):
        state = read_state(tmp_path / "store")
    assert state is not None
    assert set(state.processes) == {"one", "repeater"}
    done = run("up", "--only", "one,tiled", **fake_beamline, **telescopes)
    assert done.returncode == 2
    assert f"iocs.telescopes.args: {bad} is no directory" in one_line(done)


def test_every_service_has_a_port_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates: list[int] = []
    while len(candidates) < 8:
        candidates.append(free_port(taken=candidates))

    class Same:
        """A generator that gives the same numbers each time it is asked."""

        def sample(self, population: range, count: int) -> list[int]:
            return candidates

    monkeypatch.setattr("skywright.processes.ports.random.SystemRandom", Same)
    iocs = {
        name: IocSettings(module="iocs.axis", prefix=f"{name.upper()}:", port=port)
        for name, port in (("one", 0), ("two", candidates[1]), ("three", 0))
    }
    settings = Settings(iocs=iocs, dashboard=DashboardSettings(port=0))
    names = names_to_start(settings, {"ingester", "dashboard", *iocs})
    services = plan_services(settings, names)
    ports = [service.port for service in services if service.port]
    assert len(ports) == 6
    assert len(set(ports)) == 6


def test_only_names_what_there_is(fake_beamline: dict[str, str]) -> None:
    done = run("up", "--only", "one,three", **fake_beamline)
    assert done.returncode == 2
    assert "--only three: not one of dashboard, ingester, one, tiled, two" in one_line(done)


def test_an_ioc_that_somebody_else_runs_is_searched_but_not_started(
    fake_beamline: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = {"SKYWRIGHT_IOCS__TWO__ADDRESS": "10.1.2.3:5064"}
    with running_up("--only", "one", **fake_beamline, **elsewhere):
        state = read_state(tmp_path / "store")
    assert state is not None
    assert set(state.processes) == {"one", "repeater"}
    assert state.epics["EPICS_CA_ADDR_LIST"].endswith(" 10.1.2.3:5064")


def test_people_read_one_line_for_each_child(fake_beamline: dict[str, str]) -> None:
    with forked.start(
        [*COMMAND, "up", *IOCS],
        env={**os.environ, **fake_beamline},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        lines += process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines[0].split(maxsplit=1)[1].strip() == "starting repeater, one, two"
    assert sorted(line.split()[0] for line in lines[1:4]) == ["one", "repeater", "two"]
    assert "ONE:" in "".join(lines[1:4])
    assert "all ready" in lines[4]
    assert lines[5].split() == ["up", "stopping"]


def test_help_is_quick_because_it_imports_no_command() -> None:
    code = (
        "import sys, json; from skywright.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in modules if name.startswith("skywright.cli.")]
    assert not {"numpy", "pydantic", "tiled", "bluesky", "caproto"} & set(modules)
