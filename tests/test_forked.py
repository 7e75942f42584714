"""A forked process does what a new one does."""

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
from support import forked

WORKER = [sys.executable, "-m", "skywright.callbacks.worker", "picture_statistics"]


def worker(directory: Path, **options: object) -> "subprocess.Popen[str]":
    """Start a worker, which is ready when it has written a line."""
    places = ("--journal", directory / "journal", "--assets", directory / "assets")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = forked.start([*WORKER, *places], **pipes, **options)
    assert isinstance(process, forked.Forked)
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()
    return process


@pytest.mark.parametrize("arguments", [["--version"], ["no-such-command"], ["runs", "--no-such"]])
def test_output_and_status_are_those_of_a_new_process(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "skywright.cli", *arguments]
    ours, new = (
        each(command, capture_output=True, text=True, check=False)
        for each in (forked.run, subprocess.run)
    )
    assert (ours.returncode, ours.stdout) == (new.returncode, new.stdout)
    assert ours.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


SHOW = """
import sys
import devices, shown
print(__name__, sys.argv, shown.__file__, __name__ == sys.modules["__main__"].__name__)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["-c", "script"])
def test_code_and_scripts_are_executed_as_by_a_new_process(tmp_path: Path, how: str) -> None:
    for name in (".", "scripts"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "shown.py").touch()
    script = tmp_path / "scripts" / "show.py"
    script.write_text(SHOW)
    command = [sys.executable, *((how, SHOW) if how == "-c" else (str(script),)), "3", "x"]
    directory = tmp_path if how == "-c" else Path(forked.TESTS).parent  # from where it is installed
    ours, new = (
        each(command, cwd=directory, capture_output=True, text=True, check=False)
        for each in (forked.run, subprocess.run)
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (3, new.stdout, new.stderr)
    assert new.stdout


def test_it_ends_with_its_stdin_or_by_a_signal(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.communicate()
    assert process.returncode == 0
    with worker(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_it_has_a_session_or_process_group_of_its_own_if_told(tmp_path: Path) -> None:
    here, own = (os.getsid(0), os.getpgid(0)), "its own"
    for options, expected in (
        ({}, here),
        ({"start_new_session": True}, (own, own)),
        ({"process_group": 0}, (here[0], own)),
    ):
        with worker(tmp_path, **options) as process:
            pid = process.pid
            found = [own if each == pid else each for each in (os.getsid(pid), os.getpgid(pid))]
            process.communicate()
        assert tuple(found) == expected, options


def test_other_options_start_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: "new")
    assert forked.start(WORKER, umask=0o77) == "new"


def test_the_server_can_end_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked.SERVER.ensure_running()
    pipe = tmp_path / "in place of the pipe by which the server knows that it is needed"
    with pipe.open("w") as file:
        monkeypatch.setattr(forked.SERVER, "_forkserver_alive_fd", file.fileno())
        with worker(tmp_path) as process:
            kept = {each.readlink() for each in Path(f"/proc/{process.pid}/fd").iterdir()}
            process.communicate()
    assert pipe not in kept


def test_it_has_a_status_also_if_the_server_has_ended(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        theirs, ours = os.pipe()
        os.close(ours)
        os.dup2(theirs, process._sentinel)
        os.close(theirs)
        process.communicate()
    assert process.returncode == 255


def test_other_processes_know_the_key_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure_running(server: forkserver.ForkServer) -> None:  # of Python 3.14
        server._forkserver_address, server._forkserver_authkey = "/tmp/a socket", b"key"

    monkeypatch.setattr(forkserver.ForkServer, "ensure_running", ensure_running)
    monkeypatch.setenv(forked._ADDRESS, "to be put back")
    monkeypatch.delenv(forked._ADDRESS)
    for _ in range(2):
        server = forked._Server()
        server.ensure_running()
        assert (server._forkserver_address, server._forkserver_authkey) == ("/tmp/a socket", b"key")


def test_its_streams_are_as_those_of_a_new_process(tmp_path: Path) -> None:
    code = "import sys; sys.exit(f'{sys.stdout.line_buffering} {sys.stderr.errors}')"
    (tmp_path / "streams.py").write_text(code)
    places = ["--journal", tmp_path / "journal", "--assets", tmp_path / "assets"]
    ours, new = (
        each(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        for each, command, path in (
            (forked.run, [*WORKER[:3], "streams:Any", *places], str(tmp_path)),
            (subprocess.run, [sys.executable, "-c", code], ""),
        )
    )
    assert (ours.returncode, ours.stderr) == (new.returncode, new.stderr)


def test_it_imports_from_its_own_path_and_not_from_that_of_the_tests(tmp_path: Path) -> None:
    places = ["--journal", tmp_path / "journal", "--assets", tmp_path / "assets"]
    command = [*WORKER[:3], "support.undrawn:Undrawn", *places]
    path = os.pathsep.join(filter(None, (forked.TESTS, os.environ.get("PYTHONPATH"))))
    with_tests = {**os.environ, "PYTHONPATH": path}
    for environment, status in ((os.environ, 2), (with_tests, 0)):
        done = forked.run(command, stdin=subprocess.DEVNULL, env=environment, capture_output=True)
        assert done.returncode == status, done.stderr
