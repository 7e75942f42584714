"""`skywright doctor` on a beamline that is well, and on faults made on purpose."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from support.stack import FAKE_IOC, run, running_up
from support.waiting import until

from skywright.analysis import named
from skywright.checks import Check, Status, doubtful, wrong
from skywright.cli import doctor, pv_probe
from skywright.config import (
    DashboardSettings,
    IocSettings,
    ServiceSettings,
    Settings,
    StoreSettings,
)
from skywright.instruments import Instrument
from skywright.processes.locks import hold_lock
from skywright.processes.stack import SESSION_LOCK, UP_LOCK, Child, State

pytestmark = pytest.mark.timeout(400)  # a test may start the whole beamline


def checks_of(done: "subprocess.CompletedProcess[str]") -> dict[str, list[dict[str, Any]]]:
    """Return the checks by name; stdout must hold the JSON and nothing else."""
    report = json.loads(done.stdout)
    found: dict[str, list[dict[str, Any]]] = {}
    for check in report["checks"]:
        found.setdefault(check["name"], []).append(check)
        assert check["todo"] or check["status"] == "ok"
    assert report["ok"] == (done.returncode == 0)
    return found


def test_a_beamline_that_is_well(beamline: dict[str, str]) -> None:
    # Runs of the tests before are brought in first: beside three workers that takes a while.
    journals = Path(beamline["SKYWRIGHT_STORE__DIRECTORY"]) / "journal"
    until(lambda: not any(journals.glob("*.jsonl")), limit_s=60.0)
    done = run("doctor", "--json", **beamline)
    checks = checks_of(done)
    assert done.returncode == 0, done.stdout
    assert all(check["found"].endswith(" answer") for check in checks["PVs"])
    devices = {check["found"].partition(":")[0] for check in checks["PVs"]}
    assert devices == {"axis", "gonio", "psss"}
    assert "takes data and reads the files" in checks["tiled"][0]["found"]
    assert checks["configuration"][0]["found"] == beamline["SKYWRIGHT_CONFIG"]
    assert {"versions", "disk", "keys", "clock", "up", "ingester"} <= set(checks)


def test_nothing_runs(tmp_path: Path) -> None:
    done = run("doctor", SKYWRIGHT_STORE__DIRECTORY=str(tmp_path))
    assert done.returncode == 1
    assert "→ start `skywright up`" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_up_that_is_not_ready_is_not_to_be_started_again(tmp_path: Path) -> None:
    hold_lock(tmp_path / UP_LOCK, "skywright up")
    (check,) = doctor.check_stack(settings_in(tmp_path), None)
    assert check.found == f"skywright up, process {os.getpid()}, starts or stops"
    assert "start `skywright up`" not in check.todo


def test_a_broken_configuration_is_the_finding() -> None:
    checks = checks_of(run("doctor", "--json", SKYWRIGHT_STORE__TILED_PORT="high"))
    assert "SKYWRIGHT_STORE__TILED_PORT" in checks["configuration"][0]["found"]
    assert set(checks) == {"versions", "configuration"}


def test_a_network_that_is_not_there_is_named_before_the_session_starts(tmp_path: Path) -> None:
    config = tmp_path / "skywright.toml"
    config.write_text('[loop.detection]\nbackend = "onnx"\nmodel = "absent.onnx"\n')
    store = str(tmp_path / "store")
    checks = checks_of(
        run("doctor", "--config", str(config), "--json", SKYWRIGHT_STORE__DIRECTORY=store)
    )
    wrong, rest = checks["analyses"]
    assert wrong["status"] == "wrong"
    assert "analysis loop_detection: onnx: model absent.onnx: No such file" in wrong["found"]
    assert wrong["todo"] == "correct the section [loop]"
    assert rest["found"].endswith("psss_spectra, sacla_curves, sacla_values: as configured")


def test_the_checks_go_on_without_a_package_of_an_analysis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, _: Any) -> Any:
        raise ModuleNotFoundError("No module named 'stars'", name="stars")

    for function in ("make_analysis", "make_second_stage"):
        monkeypatch.setattr(named, function, make)
    checks = list(doctor.check_analyses(settings_in(tmp_path)))
    assert {each.status for each in checks} == {Status.wrong}
    assert "epu_quality: No module named 'stars'" in checks[0].found
    assert checks[0].todo == "install it, or correct the section [epu]"


def test_a_wrong_parameter_of_a_second_stage_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = named.configured_parameters

    def misspelled(name: str, settings: Settings) -> dict[str, Any]:
        return {"calibration": "a"} if name == "loop_rotation" else configured(name, settings)

    monkeypatch.setattr(named, "configured_parameters", misspelled)
    wrong, rest = doctor.check_analyses(settings_in(tmp_path))
    assert (wrong.status, wrong.todo) == (Status.wrong, "correct the section [loop]")
    assert wrong.found.startswith("analysis loop_rotation: calibration: no such key")
    assert "loop_detection" in rest.found
    assert "loop_rotation" not in rest.found


def test_a_store_that_is_no_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    store.touch()
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(store))
    checks = {each.name: each for each in doctor.examine()}
    assert checks["disk"].status is Status.wrong
    assert str(store) in checks["disk"].found
    assert checks["up"].found == f"whether it runs is not known: {store / UP_LOCK}: Not a directory"


def test_an_ioc_that_serves_nothing_is_named_with_its_pvs(tmp_path: Path) -> None:
    (tmp_path / "fake_ioc.py").write_text(FAKE_IOC)
    config = tmp_path / "skywright.toml"
    config.write_text('[iocs.axis]\nmodule = "fake_ioc"\nargs = []\n')
    environment = {
        "SKYWRIGHT_STORE__DIRECTORY": str(tmp_path / "store"),
        "SKYWRIGHT_CONFIG": str(config),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    with running_up("--only", "axis", **environment):
        checks = checks_of(run("doctor", "--json", **environment))
    assert checks["PVs"][0]["status"] == "wrong"
    silent, count = re.match(
        r"axis: (\d+) of (\d+) PVs do not answer: SKY:", checks["PVs"][0]["found"]
    ).groups()  # type: ignore[union-attr]
    assert silent == count
    assert "axis.log" in checks["PVs"][0]["todo"]
    assert [check["found"] for check in checks["up"][1:]] == [
        "tiled does not run",
        "ingester does not run",
    ]


def settings_in(directory: Path, **store: Any) -> Settings:
    return Settings(store=StoreSettings(directory=directory, **store))


def test_a_taken_port_is_wrong(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (check,) = doctor.check_ports(settings_in(tmp_path, tiled_port=port), None)
    assert check.status is Status.wrong
    assert f"store.tiled_port: port {port} is taken" in check.found


def test_a_port_of_an_up_that_starts_is_not_taken_by_another_process(tmp_path: Path) -> None:
    hold_lock(tmp_path / UP_LOCK, "skywright up")
    with socket.create_server(("127.0.0.1", 0)) as its_own:
        settings = settings_in(tmp_path, tiled_port=its_own.getsockname()[1])
        assert not list(doctor.check_ports(settings, None))


def test_the_page_of_up_has_a_port_and_a_process(tmp_path: Path) -> None:
    state = State(os.getpid(), 0.0, "SKY:", "", {}, {"axis": Child(1, {})})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for with_up in (False, True):
            settings = settings_in(tmp_path, tiled_uri="http://elsewhere").model_copy(
                update={"dashboard": DashboardSettings(port=port, with_up=with_up)}
            )
            said = [check.found for check in doctor.check_ports(settings, None)]
            assert said == with_up * [f"dashboard.port: port {port} is taken"]
            said = [check.found for check in doctor.check_stack(settings, state)]
            assert "repeater does not run" in said
            assert ("dashboard does not run" in said) == with_up


def test_the_process_that_has_the_session_is_named(tmp_path: Path) -> None:
    assert not list(doctor.check_session(settings_in(tmp_path)))
    hold_lock(tmp_path / SESSION_LOCK, "session")
    (check,) = doctor.check_session(settings_in(tmp_path))
    assert check.found == f"process {os.getpid()} has the session of this store"


@pytest.mark.parametrize(("make", "status"), [(doubtful, 0), (wrong, 1)])
def test_what_is_doubtful_is_no_failure(
    make: Callable[..., Check], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [make("disk", "1.0 GB free", "make room")])
    with pytest.raises(typer.Exit) as ended:
        doctor.doctor()
    assert ended.value.exit_code == status


def test_a_key_that_others_can_read_is_wrong(tmp_path: Path) -> None:
    key = tmp_path / "tiled" / "api_key"
    key.parent.mkdir()
    key.write_text("secret")
    key.chmod(0o600)
    assert [check.status for check in doctor.check_keys(settings_in(tmp_path))] == [Status.ok]
    key.chmod(0o640)
    (check,) = doctor.check_keys(settings_in(tmp_path))
    assert check.status is Status.wrong
    assert check.todo == f"chmod 600 {key}"


def test_a_key_in_a_directory_that_is_closed_to_this_user_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)  # root may enter every directory
    (check,) = doctor.check_keys(settings_in(tmp_path))
    assert (check.status, check.found) == (
        Status.ok,
        f"{tmp_path / 'tiled' / 'api_key'}: not visible to this user",
    )


def test_a_finished_run_that_waits_is_wrong(tmp_path: Path) -> None:
    journal = tmp_path / "journal" / "abc.jsonl"
    journal.parent.mkdir()
    journal.write_text('["start", {}]\n')
    just_now = doctor.check_journals(settings_in(tmp_path), None)
    assert (just_now.status, just_now.found[-6:]) == (Status.ok, "0 open")
    os.utime(journal, (1e9, 1e9))
    check = doctor.check_journals(settings_in(tmp_path), None)
    assert check.status is Status.wrong
    assert "1 finished runs are not in tiled" in check.found
    assert "skywright recover" in check.todo


def test_journals_of_another_user_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal" / "abc.jsonl"
    journal.parent.mkdir()
    journal.write_text('["start", {}]\n')
    os.utime(journal, (1e9, 1e9))
    open_file, allowed = Path.open, {"r", "rb"}

    def refuse(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if path == journal and mode not in allowed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    check = doctor.check_journals(settings_in(tmp_path), None)
    assert "1 finished runs are not in tiled" in check.found
    allowed.clear()
    check = doctor.check_journals(settings_in(tmp_path), None)
    assert check.status is Status.warning
    assert f"{journal} cannot be read" in check.found


@pytest.mark.parametrize("hidden", ["journal", "journal/aside"])
def test_journals_that_this_user_may_not_list_are_not_called_stored(
    hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journal" / "aside").mkdir(parents=True)

    def refuse(function: Any) -> Any:
        def list_directory(path: Any) -> Any:
            if Path(path) == tmp_path / hidden:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return function(path)

        return list_directory

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    check = doctor.check_journals(settings_in(tmp_path), None)
    assert check.status is Status.warning
    assert f"{tmp_path / hidden} cannot be read" in check.found


def test_a_directory_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "journal" / "copy.jsonl").mkdir(parents=True)
    (tmp_path / "journal" / "aside" / "copy.jsonl").mkdir(parents=True)
    check = doctor.check_journals(settings_in(tmp_path), None)
    assert (check.status, check.found) == (Status.ok, "all finished runs are in tiled; 0 open")


def test_a_run_that_could_not_be_stored_is_wrong(tmp_path: Path) -> None:
    aside = tmp_path / "journal" / "aside"
    aside.mkdir(parents=True)
    (aside / "abc.jsonl").write_text('["start", {}]\n')
    check = doctor.check_journals(settings_in(tmp_path), None)
    assert check.status is Status.wrong
    assert "1 runs could not be stored" in check.found
    assert str(tmp_path / "logs" / "ingester.log") in check.todo


def test_a_run_whose_writer_lives_does_not_wait(tmp_path: Path) -> None:
    journal = tmp_path / "journal" / "abc.jsonl"
    journal.parent.mkdir()
    code = (
        "import fcntl, os, sys\n"
        f"file = open({str(journal)!r}, 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        f"os.utime({str(journal)!r}, (1e9, 1e9))\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "locked\n"
        check = doctor.check_journals(settings_in(tmp_path), None)
        writer.communicate("")
    assert check.status is Status.ok
    assert check.found.endswith("1 open")


def test_a_disk_that_is_almost_full_is_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    (check,) = doctor.check_disk(settings_in(tmp_path))
    assert check.status is Status.warning
    assert "1.0 GB free" in check.found


def test_each_disk_that_tiled_reads_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    free = {tmp_path / "store": 8e9, full: 1e9}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[path]))
    checks = list(doctor.check_disk(settings_in(tmp_path / "store", readable=[full])))
    assert [check.status for check in checks] == [Status.ok, Status.warning]
    assert checks[1].found == f"{full}: 1.0 GB free"


def test_the_checks_that_the_page_repeats_write_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "store")
    disk = {check.name: check for check in doctor.quick_checks(settings)}["disk"]
    assert disk.status is Status.wrong
    assert "no directory that this user can write to" in disk.found
    settings.directory.mkdir()
    before = settings.directory.stat().st_mtime_ns
    disk = {check.name: check for check in doctor.quick_checks(settings)}["disk"]
    assert disk.status is not Status.wrong
    assert settings.directory.stat().st_mtime_ns == before


def test_a_store_that_iocs_cannot_be_told_of_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "Zoë"
    directory.mkdir()
    assert Status.wrong not in [check.status for check in doctor.check_disk(settings_in(tmp_path))]
    *_, last = doctor.check_disk(settings_in(directory))
    assert last.status is Status.wrong
    assert last.found == f"{directory}: IOCs need a path of ASCII characters to record there"


def test_a_key_in_the_configuration_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "skywright.toml"
    config.touch(0o644)
    monkeypatch.setenv("SKYWRIGHT_CONFIG", str(config))
    assert not list(doctor.check_keys(settings_in(tmp_path)))
    (check,) = doctor.check_keys(settings_in(tmp_path, api_key="secret"))
    assert (check.status, check.todo) == (Status.wrong, f"chmod 600 {config}")
    monkeypatch.setenv("SKYWRIGHT_STORE__API_KEY", "secret")  # it is not from the file
    assert not list(doctor.check_keys(settings_in(tmp_path, api_key="secret")))


@pytest.mark.parametrize(("restarts", "times"), [(1, "1 time"), (3, "3 times")])
def test_what_is_configured_runs_and_what_runs_elsewhere_is_not_expected(
    tmp_path: Path, restarts: int, times: str
) -> None:
    own = IocSettings(module="iocs.axis", prefix="AXIS9:")
    elsewhere = IocSettings(module="iocs.psss", prefix="PSSS9:", address="host:5064")
    settings = settings_in(tmp_path).model_copy(
        update={
            "iocs": {"own": own, "elsewhere": elsewhere},
            "services": {"agent": ServiceSettings(command=("agent",))},
        }
    )
    running = {"own": Child(1, {}, restarts=restarts), "repeater": Child(2, {})}
    state = State(os.getpid(), time.time() - 7200.0, "SKY:", "", {}, running)
    up, *checks = doctor.check_stack(settings, state)
    assert f"process {os.getpid()}, since 2.0 h, PVs SKY:" in up.found
    assert [(check.status, check.found) for check in checks] == [
        (Status.warning, f"own was restarted {times}"),
        *((Status.wrong, f"{name} does not run") for name in ("agent", "tiled", "ingester")),
    ]
    assert all(check.todo.startswith("`up` starts it again") for check in checks[1:])
    store = settings.store.model_copy(update={"tiled_uri": "http://elsewhere"})
    of_site = settings.model_copy(update={"store": store})
    names = [check.found for check in doctor.check_stack(of_site, state) if "run" in check.found]
    assert names == ["agent does not run", "ingester does not run"]


def test_ports_of_iocs_are_checked_and_that_of_a_tiled_elsewhere_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ioc = IocSettings(module="iocs.axis", prefix="AXIS9:", port=port)
        settings = settings_in(tmp_path, tiled_port=port, tiled_uri="http://elsewhere")
        running = {"prefix": "AXIS8:", "address": f"127.0.0.1:{port}"}  # somebody else's
        iocs = {"own": ioc, "other": ioc.model_copy(update=running)}
        settings = settings.model_copy(update={"iocs": iocs})
        said = [check.found for check in doctor.check_ports(settings, None)]
        assert said == [f"iocs.own.port: port {port} is taken"]
        state = State(os.getpid(), 0.0, "SKY:", "", {}, {})  # its own process has the port
        assert not list(doctor.check_ports(settings, state))


def test_of_runs_that_wait_the_oldest_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    for name, age_s in (("abc", 500.0), ("def", 3000.0)):
        journal = tmp_path / "journal" / f"{name}.jsonl"
        journal.write_text('["start", {}]\n')
        os.utime(journal, (0, time.time() - age_s))
    check = doctor.check_journals(settings_in(tmp_path), None)
    count, seconds = re.match(
        r"(\d) finished runs are not in tiled, the oldest since (\d+) s", check.found
    ).groups()  # type: ignore[union-attr]
    assert count == "2"
    assert 3000 <= int(seconds) < 3300


@pytest.mark.parametrize("installed", ["0.1", None])
def test_old_and_missing_packages_are_wrong(
    monkeypatch: pytest.MonkeyPatch, installed: str | None
) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name != "bluesky":
            return metadata.version(name)
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr("skywright.packages.version", version)
    (check,) = doctor.check_versions()
    assert check.status is Status.wrong
    assert "bluesky" in check.found
    assert check.todo.startswith("pip install")


def test_a_missing_package_of_two_extras_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name == "inotify-simple":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr("skywright.packages.version", version)
    (check,) = doctor.check_versions()
    assert check.found == "not installed: inotify-simple"


def test_a_missing_package_of_an_instrument_from_elsewhere_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib import metadata

    def requires(name: str) -> list[str] | None:
        own = ["skywright", "absent-package; extra == 'it'"]
        return own if name == "elsewhere" else metadata.requires(name)

    elsewhere = Instrument("polarimeter", "", extra="it", package="elsewhere")
    monkeypatch.setattr("skywright.packages.requires", requires)
    for module in ("skywright.cli.doctor", "skywright.session.context"):
        monkeypatch.setattr(f"{module}.instruments", lambda: {"polarimeter": elsewhere})
    (check,) = doctor.check_versions()
    assert check.found == "not installed: absent-package"
    assert check.todo == "pip install 'skywright[all]' 'elsewhere[it]'"


def test_an_extra_of_an_instrument_that_is_not_configured_may_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        if name in ("grpcio", "aio-pika"):  # of panoseti and epu
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr("skywright.packages.version", version)
    settings = settings_in(tmp_path)
    (check,) = doctor.check_versions(settings)
    assert (check.status, check.found) == (Status.wrong, "not installed: aio-pika, grpcio")
    camera = settings.model_copy(update={"iocs": {"axis": settings.iocs["axis"]}})
    (check,) = doctor.check_versions(camera)
    assert check.status is Status.ok
    assert check.found.endswith(
        "; packages of epu, panoseti are missing, which no configured IOC needs"
    )


def test_an_ioc_clock_that_is_ahead_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"axis": {"pvs": 3, "silent": [], "newest_age_s": -7.25}}
    done = subprocess.CompletedProcess([], 0, stdout=json.dumps(report), stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    answers, clock = doctor.check_pvs(settings_in(tmp_path))
    assert answers.status is Status.ok
    assert clock.status is Status.wrong
    assert "7.2 s ahead" in clock.found


def test_the_log_of_silent_pvs_is_that_of_their_ioc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path)
    silent = {"gonio": settings.pv_prefix("goniometer") + "x", "strange": "ELSE:WHERE"}
    report = {
        device: {"pvs": 3, "silent": [pv], "newest_age_s": None} for device, pv in silent.items()
    }
    done = subprocess.CompletedProcess([], 0, stdout=json.dumps(report), stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    logs = [check.todo.rpartition("/")[2] for check in doctor.check_pvs(settings)]
    assert logs == ["goniometer.log", "strange.log"]


def test_the_probe_tells_silent_pvs_and_the_newest_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest PV may be ahead of this host, however old the others are."""

    class Pv:
        connected = True

        def __init__(self, pvname: str, age_s: float) -> None:
            self.pvname, self._time = pvname, time.time() - age_s
            self.timestamp = 0.0

        def get(self) -> None:
            self.timestamp = self._time

    silent = Pv("D:c", 0.0)
    silent.connected = False
    signals = [Pv("D:a", 900.0), Pv("D:b", -40.0), silent, object()]
    device = SimpleNamespace(
        name="its_name", walk_signals=lambda: [SimpleNamespace(item=each) for each in signals]
    )
    for name, value in {
        "load_devices": lambda _: {},
        "find_devices": lambda _: {"variable": device},
        "silent_pvs": lambda *_: {"its_name": ["D:c"]},
    }.items():
        monkeypatch.setattr(pv_probe, name, value)
    monkeypatch.setattr(pv_probe.stack, "attach", lambda _: None)
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    pv_probe.main()
    (found,) = json.loads(capsys.readouterr().out).items()
    age_s = found[1].pop("newest_age_s")
    assert found == ("variable", {"pvs": 3, "silent": ["D:c"]})
    assert age_s == pytest.approx(-40.0, abs=20.0)


def test_many_silent_pvs_are_counted_and_a_failed_probe_tells_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"x": {"pvs": 9, "silent": list("abcde"), "newest_age_s": -0.6}}
    # A package of the site may print lines too.
    done = subprocess.CompletedProcess([], 0, stdout=f"hello\n{json.dumps(report)}\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    silent, clock = doctor.check_pvs(settings_in(tmp_path))
    assert silent.found == "x: 5 of 9 PVs do not answer: a, b, c and 2 more"
    assert "0.6 s ahead" in clock.found
    for words, last in (("one\ntwo\n", "two"), ("", "nothing")):
        done = subprocess.CompletedProcess([], 1, stdout="", stderr=words)
        (check,) = doctor.check_pvs(settings_in(tmp_path))
        assert check.found == f"they cannot be asked: {last}"


def test_pvs_that_are_not_asked_for_in_time_are_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", run_out)
    (check,) = doctor.check_pvs(settings_in(tmp_path))
    assert check.status is Status.wrong
    assert "not ended within 60 s" in check.found


@pytest.mark.parametrize(
    ("answer", "found"),
    [(-1, "it is not known"), (5, "is not synchronized"), (0, "clock is synchronized")],
)
def test_the_clock_is_synchronized_only_if_the_kernel_says_so(
    monkeypatch: pytest.MonkeyPatch, answer: int, found: str
) -> None:
    library = type("Library", (), {"adjtimex": staticmethod(lambda _: answer)})
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: library)
    assert found in doctor.check_host_clock().found
