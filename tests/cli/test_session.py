"""`skywright session` against the simulated beamline: a line, a script, IPython, refusals."""

import errno
import fcntl
import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bluesky
import psutil
import pytest
import typer
from bluesky.utils import PersistentDict
from support import forked
from support.stack import COMMAND, run, write_fake_beamline
from support.waiting import until

from skywright.cli import beamline as beamline_module
from skywright.cli import session
from skywright.config import DEFAULT_IOCS, load_settings
from skywright.processes.stack import read_state
from skywright.session import profile
from skywright.store.client import analysis, catalog, connect
from skywright.store.lookup import waiting_runs

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(400)  # a test may start the whole beamline

SCRIPT = """# coding: latin-1
import json, sys
from skywright.session.profile import find_devices
assert ascii("µ") == r"'\\xb5'"
assert __name__ == "__main__"
refused = []
for wrong in ({"purpose": "analysis"}, {"scan_id": "one"}):
    try:
        RE(take_pictures(axis, 2, md=wrong))
    except ValueError as error:
        refused.append(str(error))
result = RE(take_pictures(axis, 2, md={"sample": "s1"}))
run = stored(result.run_start_uids[0])
print(json.dumps({
    "argv": sys.argv, "refused": refused, "exit": result.exit_status, "prefix": axis.prefix,
    "uids": [result.run_start_uids[0], result.plan_result,
             cat[-1].metadata["start"]["uid"], db[-1].start["uid"]],
    "start": run.metadata["start"], "shape": run["primary/axis_image"].read().shape,
    "frames": loop_detection.wait().reached,
    "devices": {name: device.connected for name, device in find_devices(globals()).items()},
    "pids": [stack.pid, *(child.pid for child in stack.processes.values())],
}))
RE(take_pictures("axis", 1))
"""


def test_a_session_without_up_starts_one_runs_a_script_and_leaves_nothing(tmp_path: Path) -> None:
    """The run is found everywhere; what the script raises is shown once and is the status."""
    script, config = tmp_path / "mine.py", tmp_path / "skywright.toml"
    script.write_text(SCRIPT, encoding="latin-1")
    config.write_text('[metadata]\ninstrument = "test bench"\n')
    store = {"SKYWRIGHT_STORE__DIRECTORY": str(tmp_path / "store")}
    done = run("session", "--config", str(config), str(script), "--", "3", "-x", **store)
    assert done.stderr.startswith("Starting the beamline ...\n")
    assert done.stderr.count("Traceback") == 1
    assert f'File "{script}", line ' in done.stderr
    # Lines at the end may say what the exit waits for: workers, derived runs that are stored.
    awaited = ("waiting for", "still to be stored")
    lines = [line for line in done.stderr.splitlines() if not any(map(line.count, awaited))]
    last = lines[-1]
    assert "TypeError: take_pictures: camera = 'axis'" in last
    assert done.returncode == 1
    found: dict[str, Any] = json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith('{"argv'))
    )
    assert found["argv"] == [str(script), "3", "-x"]
    assert [error.split(":")[0] for error in found["refused"]] == [
        "metadata key 'purpose'",
        "metadata key 'scan_id'",
    ]
    assert found["exit"] == "success"
    assert len(set(found["uids"])) == 1
    assert found["shape"][0] == 2
    assert found["frames"] == 2
    # The goniometer is called gonio; the IOC of the shots has a motor beside its device.
    devices = DEFAULT_IOCS.keys() - {"goniometer"} | {"gonio", "sacla_delay"}
    assert {name for name, is_connected in found["devices"].items() if is_connected} >= devices
    start = found["start"]
    assert start["instrument"] == "test bench"
    assert start["operator"]
    assert start["versions"]["bluesky"] == bluesky.__version__
    assert start["sample"] == "s1"
    assert len(found["pids"]) == 4 + len(DEFAULT_IOCS)  # up, repeater, tiled, ingester
    assert [pid for pid in found["pids"] if psutil.pid_exists(pid)] == []


def test_an_example_is_a_script_of_its_own_and_scan_ids_go_on(beamline: dict[str, str]) -> None:
    directory = Path(beamline["SKYWRIGHT_STORE__DIRECTORY"])
    PersistentDict(directory / "md")["scan_id"] = 41  # as an earlier session has left it
    done = forked.run(
        [sys.executable, ROOT / "examples" / "take_pictures.py"],
        env={**os.environ, **beamline},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 pictures of" in done.stdout
    state = read_state(directory)
    assert state is not None
    key = (directory / "tiled" / "api_key").read_text()
    latest = catalog(connect(state.tiled_uri, key))[-1].metadata["start"]
    assert latest["sample"] == "demonstration"
    assert latest["scan_id"] == 42


PLAIN_SCRIPT = """
import bluesky.plan_stubs as bps
from bluesky.preprocessors import run_decorator
from ophyd.sim import SynSignal
from skywright.session.profile import load_profile

load_profile(globals())
RE.subscribe(lambda name, doc: print(name, doc.get("exit_status", doc["uid"]), flush=True))
RE(take_pictures(axis, 10))

class OddHints(SynSignal):
    hints = {"fields": 5}  # a table cannot be made of it

RE(count([OddHints(name="odd")]))

@run_decorator()
def paused():
    yield from bps.checkpoint()
    yield from bps.pause()  # as Ctrl-C does

RE(paused())
"""


def test_a_plain_script_waits_for_its_analyses_and_aborts_a_paused_run(
    beamline: dict[str, str],
) -> None:
    done = forked.run(
        [sys.executable, "-c", PLAIN_SCRIPT],
        env={**os.environ, **beamline},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "aborting the paused run" in done.stderr
    said = re.findall(r"^(start|stop) (\S+)$", done.stdout, re.MULTILINE)
    stops = [word for name, word in said if name == "stop"]
    assert stops == ["success", "success", "abort"], done.stderr
    assert "BestEffortCallback failed on a descriptor document" in done.stderr
    directory = Path(beamline["SKYWRIGHT_STORE__DIRECTORY"])
    until(lambda: not waiting_runs(directory / "journal"))
    state = read_state(directory)
    assert state is not None
    runs = analysis(connect(state.tiled_uri, (directory / "tiled" / "api_key").read_text()))
    source = next(word for name, word in said if name == "start")
    (derived,) = (run for run in runs.values() if run.metadata["start"]["raw_uid"] == source)
    assert derived.metadata["stop"]["exit_status"] == "success"


@pytest.mark.parametrize("source", [b"'\xb5'\n", b"RE(count([axis])\n", b"x = 1\0\n"])
def test_a_script_that_is_no_python_starts_no_beamline(tmp_path: Path, source: bytes) -> None:
    script = tmp_path / "mine.py"
    script.write_bytes(source)
    done = run("session", str(script), SKYWRIGHT_STORE__DIRECTORY=str(tmp_path / "store"))
    assert done.returncode == 1
    assert "Error" in done.stderr.splitlines()[-1]
    assert "beamline" not in done.stderr


def test_empty_code_is_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    monkeypatch.setattr(session, "ensure_beamline", lambda settings: None)
    monkeypatch.setattr(session, "_run_code", lambda program, name: ran.append(program))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of the process of the tests
    session.session(code="")
    logging.getLogger("bluesky").removeFilter(session._is_not_abort)
    assert len(ran) == 1


def test_code_gets_the_arguments_after_it_as_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["skywright", "session", "-c", "", "3", "kapton"])
    monkeypatch.setattr(session, "ensure_beamline", lambda settings: None)
    monkeypatch.setattr(session, "_run_code", lambda program, name: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of the process of the tests
    session.session(["3", "kapton"], code="")
    logging.getLogger("bluesky").removeFilter(session._is_not_abort)
    assert sys.argv == ["-c", "3", "kapton"]


def test_a_script_has_its_path_and_imports_the_modules_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "mine.py"
    script.write_text("import beside_mine\nprint(beside_mine.WORD, __file__)")
    (tmp_path / "beside_mine.py").write_text("WORD = 'found'")
    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(session, "ensure_beamline", lambda settings: None)
    engine = SimpleNamespace(state="idle")

    def load_profile() -> dict[str, Any]:
        assert str(tmp_path) not in sys.path  # a plans.py there would hide those of the beamline
        return {"RE": engine}

    monkeypatch.setattr(profile, "load_profile", load_profile)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of the process of the tests
    session.session([str(script)])
    logging.getLogger("bluesky").removeFilter(session._is_not_abort)
    assert capsys.readouterr().out == f"found {script}\n"


def test_what_code_raises_to_say_what_to_do_is_a_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(profile, "load_profile", lambda: {"RE": SimpleNamespace(state="idle")})
    code = "from skywright.errors import ConfigError; raise ConfigError('n = 0')"
    with pytest.raises(typer.Exit) as ended:
        session._run_code(compile(code, "-c", "exec"), "-c")
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "skywright: n = 0\n"


def test_a_missing_script_is_bad_use_and_starts_no_beamline(tmp_path: Path) -> None:
    store = {"SKYWRIGHT_STORE__DIRECTORY": str(tmp_path / "store")}
    done = run("session", "no-such-script.py", **store)
    assert done.returncode == 2
    assert done.stderr == "skywright: no-such-script.py: no such file or directory\n"


def test_a_missing_profile_starts_no_beamline(tmp_path: Path) -> None:
    where = {"SKYWRIGHT_STORE__DIRECTORY": str(tmp_path), "SKYWRIGHT_PROFILE": str(tmp_path)}
    done = run("session", "-c", "1", **where)
    assert done.returncode == 2
    assert done.stderr == f"skywright: profile: {tmp_path} holds no start-up files (*.py)\n"


def test_a_script_without_a_beamline_is_told_what_to_start(tmp_path: Path) -> None:
    code = "from skywright.session.profile import load_profile; load_profile()"
    done = forked.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SKYWRIGHT_STORE__DIRECTORY": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    told = "no skywright up runs on this store; start `skywright up`"
    assert told in done.stderr.splitlines()[-1]


def test_a_second_session_is_refused_with_the_pid(beamline: dict[str, str]) -> None:
    lock = Path(beamline["SKYWRIGHT_STORE__DIRECTORY"]) / "session.lock"
    with lock.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write("4711\n")
        file.flush()
        done = run("session", "-c", "pass", **beamline)
    assert done.returncode == 2
    assert "a session runs on this store already, process 4711" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_print_that_cannot_be_written_is_no_error_but_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The RunEngine prints before it pauses or aborts, and Ctrl-C ends the `tee` of its output."""
    monkeypatch.setattr(session._LossyFile, "lost", "")
    read, gone = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    for number in (gone, full):
        raw = session._LossyFile(number, "w")
        with io.TextIOWrapper(io.BufferedWriter(raw)) as stream:
            print("pausing", file=stream, flush=True)
        assert session._LossyFile.lost in (
            "[Errno 32] Broken pipe",
            "[Errno 28] No space left on device",
        )


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_plan_gets_its_stop_document(
    beamline: dict[str, str], tmp_path: Path, signum: int, status: int
) -> None:
    (tmp_path / "00-engine.py").write_text(
        "import bluesky.plan_stubs as bps\nfrom bluesky import RunEngine\nRE = RunEngine({})\n"
    )
    code = (
        "import bluesky.preprocessors as bpp\n"
        "RE.subscribe(lambda name, doc: print(name, doc.get('exit_status', ''), flush=True))\n"
        "@bpp.run_decorator()\n"
        "def wait():\n"
        "    while True:\n"
        "        yield from bps.checkpoint()\n"
        "        yield from bps.sleep(0.05)\n"
        "RE(wait())\n"
    )
    window, terminal = (os.fdopen(each, "wb") for each in pty.openpty())
    with (
        window,
        terminal,
        forked.start(
            [*COMMAND, "session", "-c", code],
            env={**os.environ, **beamline, "SKYWRIGHT_PROFILE": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=terminal if signum == signal.SIGHUP else subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith("start"):
                if signum == signal.SIGHUP:
                    window.close()  # a print to the terminal fails from now on
                process.send_signal(signum)
    assert process.returncode == status
    assert "stop abort" in said


ENDLESS = """
import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky import RunEngine
from skywright.config import load_settings
from skywright.processes.stack import attach

settings = load_settings()
stack = attach(settings.directory)
RE = RunEngine({})
RE.subscribe(lambda name, doc: print("document", name, doc.get("exit_status", ""), flush=True))


@bpp.run_decorator()
def wait():
    def forever():
        while True:
            yield from bps.checkpoint()
            yield from bps.sleep(0.05)

    def clean_up():
        print("cleaning up", flush=True)
        yield from bps.sleep(1.0)

    yield from bpp.finalize_wrapper(forever(), clean_up())
"""
"""Start-up file of a session with a plan that does not end by itself."""


def test_a_signal_ends_a_console_in_which_a_plan_runs(
    beamline: dict[str, str], tmp_path: Path
) -> None:
    import pexpect

    (tmp_path / "00-engine.py").write_text(ENDLESS)
    child = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], "session"],
        env={
            **os.environ,
            **beamline,
            "TERM": "dumb",
            "HOME": str(tmp_path),
            "SKYWRIGHT_PROFILE": str(tmp_path),
        },
        dimensions=(50, 140),
        encoding="utf-8",
        timeout=50,
    )
    try:
        child.expect(r"In \[1\]")
        child.sendline("RE(wait())")
        child.expect("document start")
        child.kill(signal.SIGTERM)
        child.expect("cleaning up")
        child.expect("document stop abort")
        child.expect(pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == 128 + signal.SIGTERM


def test_a_second_signal_does_not_break_off_the_abort_of_the_first(
    beamline: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "00-engine.py").write_text(ENDLESS)
    with forked.start(
        [*COMMAND, "session", "-c", "RE(wait())"],
        env={**os.environ, **beamline, "SKYWRIGHT_PROFILE": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.strip())
            if line.startswith(("document start", "cleaning up")):
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert said[-2:] == ["cleaning up", "document stop abort"]


def test_a_session_that_is_killed_takes_its_beamline_along(tmp_path: Path) -> None:
    environment = write_fake_beamline(tmp_path)
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "00-all.py").write_text(
        "import signal\nfrom skywright import config\nfrom skywright.processes import stack\n"
        "state = stack.attach(config.load_settings().directory)\n"
        "print(state.pid, *(each.pid for each in state.processes.values()), flush=True)\n"
        "signal.pause()\n"
    )
    environment["SKYWRIGHT_PROFILE"] = str(tmp_path / "profile")
    environment["SKYWRIGHT_STORE__TILED_URI"] = "http://127.0.0.1:1"  # elsewhere, and silent
    with forked.start(
        [*COMMAND, "session", "-c", "pass"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        processes = [psutil.Process(pid) for pid in pids]
        process.kill()
    assert len(processes) == 5  # up, repeater, two IOCs, ingester
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []


ENDING = """
import signal, subprocess, sys, threading
from skywright.cli import beamline
from skywright.session import ending

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell's job began us
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as `session` does
ending.QUIET_S = 0.05
ending.ANALYSIS_LIMIT_S = beamline.UP_END_LIMIT_S = 600.0
stubborn = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print(flush=True); time.sleep(600)"
)
process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True)
process.stdout.readline()


class Engine:
    state = "idle"


class Analysis:
    name = "slow"
    unfinished = ["0123456789", "9876543210"]
    killed = threading.Event()

    def wait_for_all(self, timeout_s):
        return threading.Event().wait(timeout_s)

    def close(self):
        self.killed.wait()

    def kill(self):
        self.killed.set()


ending.end_session(Engine(), [Analysis()])
beamline._stop_beamline(process)
print(Analysis.killed.is_set(), process.returncode)
"""


@pytest.mark.parametrize("last", [signal.SIGINT, signal.SIGTERM])
def test_the_end_says_what_it_waits_for_and_ctrl_c_goes_on(last: signal.Signals) -> None:
    with forked.start(
        [sys.executable, "-c", ENDING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for text in (
            "the analysis slow of 2 runs, at most 600 s; Ctrl-C goes on without it\n",
            "the workers of the analyses to end, at most 20 s; Ctrl-C kills them\n",
            "the beamline to end, at most 600 s; Ctrl-C kills it\n",
        ):
            assert process.stderr.readline() == f"waiting for {text}"
            process.send_signal(last if "beamline" in text else signal.SIGINT)
            if "slow" in text:
                said = process.stderr.readline()
                assert said.startswith("analysis slow is not complete, `skywright reprocess`")
                assert said.endswith("runs: 01234567, 98765432\n")
        assert process.stdout.read() == f"True {-signal.SIGKILL}\n"
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("is_ending", [False, True])
def test_the_beamline_says_its_trouble_and_its_end_unless_the_session_ends_it(
    is_ending: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = {"up": "No space left on device", "axis": "ended with exit status 1"}
    lines = [json.dumps({"name": name, "event": event}) for name, event in events.items()]
    lines.insert(1, "a package of the site says hello")
    monkeypatch.setattr(beamline_module, "_beamline_stops", threading.Event())
    if is_ending:
        beamline_module._beamline_stops.set()
    beamline_module._show_events(SimpleNamespace(stdout=lines))  # type: ignore[arg-type]
    said = capsys.readouterr().err.splitlines()
    assert "axis: ended with exit status 1" in said
    assert ("up: No space left on device" in said) is not is_ending
    assert any("beamline of this session has ended" in line for line in said) is not is_ending


PARTS = """
import json
print("a package of the site says hello")
print(1)
for name, event in (
    ("up", "starting one, two"), ("one", "ready on 5064"), ("two", "slow"),
    ("up", "ready, except two"), ("two", "ready"),
):
    print(json.dumps({"name": name, "event": event}), flush=True)
print(json.dumps({"ready": {}}), flush=True)
"""


def test_the_progress_of_a_start_names_the_parts_that_are_awaited(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert PARTS.count(beamline_module.STARTING) == 1
    lines: list[str] = []
    awaited: Future[None] = Future()
    with subprocess.Popen(
        [sys.executable, "-c", PARTS], stdout=subprocess.PIPE, text=True
    ) as process:
        beamline_module._await_ready(process, io.StringIO(), lines.append, awaited)
    assert awaited.done()
    assert lines == [
        "0 of 2 parts are ready; waiting for one, two",
        "1 of 2 parts are ready; waiting for two",
        "1 of 2 parts are ready; waiting for two",
        "1 of 2 parts are ready; waiting for two",
        "2 of 2 parts are ready; waiting for ",
    ]
    assert capsys.readouterr().err == "two: slow\n"


def refuse(_: str, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_start_goes_on_if_stderr_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    awaited: Future[None] = Future()
    monkeypatch.setattr(session.typer, "echo", refuse)
    with subprocess.Popen(
        [sys.executable, "-c", PARTS], stdout=subprocess.PIPE, text=True
    ) as process:
        threading.Thread(
            target=beamline_module._await_ready,
            args=(process, io.StringIO(), lines.append, awaited),
        ).start()
        awaited.result(60)
    assert lines[-1] == "2 of 2 parts are ready; waiting for "


def test_events_are_read_to_their_end_if_stderr_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else `up` waits for ever at a full pipe."""
    events = iter(2 * [json.dumps({"name": "axis", "event": "ended with exit status 1"})])
    monkeypatch.setattr(beamline_module, "_beamline_stops", threading.Event())
    monkeypatch.setattr(session.typer, "echo", refuse)
    beamline_module._show_events(SimpleNamespace(stdout=events))  # type: ignore[arg-type]
    assert next(events, None) is None


def test_a_start_whose_progress_cannot_be_reported_is_an_error() -> None:
    awaited: Future[None] = Future()
    with subprocess.Popen(
        [sys.executable, "-c", PARTS], stdout=subprocess.PIPE, text=True
    ) as process:
        threading.Thread(
            target=beamline_module._await_ready, args=(process, io.StringIO(), refuse, awaited)
        ).start()
        with pytest.raises(OSError, match="No space left"):
            awaited.result(60)


TALKATIVE = """
import json, sys
print(json.dumps({"ready": {}}), flush=True)
sys.stderr.write(200_000 * "x")
print(json.dumps({"name": "axis", "event": "has ended"}), flush=True)
"""


def test_the_beamline_never_waits_for_a_reader_of_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []

    def start_up(*_: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", TALKATIVE]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, **options))
        return started[0]

    monkeypatch.setenv("SKYWRIGHT_STORE__DIRECTORY", str(tmp_path))
    monkeypatch.setattr(beamline_module, "start_module", start_up)
    monkeypatch.setattr(beamline_module, "SLOW_IMPORTS", ())
    monkeypatch.setattr(beamline_module, "_analysis_modules", lambda settings: ())
    monkeypatch.setattr(beamline_module.atexit, "register", lambda *_: None)
    try:
        beamline_module.ensure_beamline(load_settings())
        assert started[0].wait(20) == 0
    finally:
        started[0].kill()


def test_a_beamline_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    environment = write_fake_beamline(tmp_path)
    environment["SKYWRIGHT_IOCS__TWO__ARGS"] = '["--colour"]'
    environment["SKYWRIGHT_STORE__TILED_URI"] = "http://127.0.0.1:1"  # elsewhere, and silent
    done = run("session", "-c", "pass", **environment)
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first == "Starting the beamline ..."
    assert "two ended with exit status 2" in last
    assert "unrecognized arguments: --colour" in last


def test_a_package_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    environment = write_fake_beamline(tmp_path)
    program = (
        "import sys; sys.modules['event_model'] = None; "
        "from skywright.cli import main; main(['session', '-c', 'pass'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "skywright: session needs event_model, which is not installed: "
        "pip install 'skywright[all]'\n"
    )


def test_ipython_shows_the_banner_and_a_prompt(beamline: dict[str, str]) -> None:
    import pexpect

    home = beamline["SKYWRIGHT_STORE__DIRECTORY"]
    child = pexpect.spawn(
        COMMAND[0],
        [*COMMAND[1:], "session"],
        env={**os.environ, **beamline, "TERM": "dumb", "HOME": home},
        dimensions=(50, 140),
        encoding="utf-8",
        timeout=50,
    )
    try:
        child.expect(r"In \[1\]")
        banner = " ".join((child.before or "").split())  # lines are wrapped anywhere
        assert "axis is SIMULATED" in banner
        assert "goniometer is SIMULATED" in banner
        assert "take_pictures," in banner
        assert "watch_camera," in banner
        key = (Path(home) / "tiled" / "api_key").read_text()
        assert "/ui/ (tiled_key() prints its key)" in banner
        assert key not in banner
        child.sendline("tiled_key()")
        child.expect(key)
        child.expect(r"In \[2\]")
        child.sendline("listdevs()")
        child.expect("AxisCamera")
        child.sendline("%wa")  # bluesky's magics are there
        child.expect(r"In \[4\]")
        assert "not found" not in (child.before or "")
        child.sendline("exit")
        child.expect(pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == 0


def test_silent_pvs_are_named_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ophyd import Component, Device, EpicsSignalRO, Signal

    monkeypatch.setattr(profile, "silent_pvs", partial(profile.silent_pvs, limit_s=0.3))

    class Silent(Device):
        here = Component(Signal, value=1)
        gone = Component(EpicsSignalRO, "Gone")

    namespace: dict[str, Any] = {"silent": Silent("NOBODY:HAS:THIS:", name="silent")}
    namespace["RE"] = SimpleNamespace(state="idle")
    ready = ROOT / "profile_collection" / "startup" / "90-ready.py"
    exec(compile(ready.read_text(), ready, "exec"), namespace)
    assert "silent: no answer from 1 PVs, the first is NOBODY:HAS:THIS:Gone" in caplog.text
    assert callable(namespace["listdevs"])
