"""A forked process does what a new one does."""

import os
import signal
import subprocess
import sys
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


def test_it_has_a_session_of_its_own_if_told(tmp_path: Path) -> None:
    for is_new in (False, True):
        with worker(tmp_path, start_new_session=is_new) as process:
            session = os.getsid(process.pid)
            process.communicate()
        assert session == (process.pid if is_new else os.getsid(0))


def test_it_imports_from_its_own_path_and_not_from_that_of_the_tests(tmp_path: Path) -> None:
    places = ["--journal", tmp_path / "journal", "--assets", tmp_path / "assets"]
    command = [*WORKER[:3], "support.undrawn:Undrawn", *places]
    path = os.pathsep.join(filter(None, (forked.TESTS, os.environ.get("PYTHONPATH"))))
    with_tests = {**os.environ, "PYTHONPATH": path}
    for environment, status in ((os.environ, 2), (with_tests, 0)):
        done = forked.run(command, stdin=subprocess.DEVNULL, env=environment, capture_output=True)
        assert done.returncode == status, done.stderr
