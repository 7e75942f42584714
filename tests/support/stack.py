"""Start the command line as users do, in processes that cannot outlive the tests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from support import forked

COMMAND = [sys.executable, "-m", "skywright.cli"]


class Up:
    """A `skywright up` that is ready."""

    def __init__(self, process: "subprocess.Popen[str]", facts: dict[str, Any]) -> None:
        self.process = process
        self.facts = facts
        self.tree = psutil.Process(process.pid).children(recursive=True)

    def events(self) -> Iterator[tuple[str, str]]:
        """Yield what it reports, as it does."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            yield event["name"], event["event"]

    def event(self, name: str, text: str) -> str:
        """Return its next report on `name` with `text` in it."""
        return next(line for who, line in self.events() if who == name and text in line)

    def end(self, signum: int) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(timeout=60)

    def left(self) -> list[psutil.Process]:
        """Return what is left of all that ran when it was ready; waits a minute at most."""
        _, alive = psutil.wait_procs(self.tree, timeout=60)
        return alive


@contextmanager
def running_up(*args: str, **environment: str) -> Iterator[Up]:
    """Run `skywright up` for the time of a with block."""
    process = forked.start(
        [*COMMAND, "up", "--json", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, "SKYWRIGHT_SUPERVISED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        for line in process.stdout:
            if "ready" in (said := json.loads(line)):
                yield Up(process, said["ready"])
                break
        else:
            raise AssertionError(f"up did not start: {process.stderr.read()}")
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=60)
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()  # type: ignore[union-attr]


def run(*args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `skywright ARGS` to its end."""
    return forked.run(
        [*COMMAND, *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


FAKE_IOC = """
import argparse, signal, socket, sys
from skywright.processes.lifecycle import announce_ready, end_with_parent
end_with_parent()
parser = argparse.ArgumentParser()
parser.add_argument("--prefix")
parser.add_argument("--port", type=int)
options = parser.parse_args()
listener = socket.create_server(("127.0.0.1", options.port))
announce_ready(prefix=options.prefix, port=options.port)
signal.pause()
"""


def write_fake_beamline(directory: Path) -> dict[str, str]:
    """Write a configuration with two small servers as IOCs; return the environment to use it."""
    (directory / "fake_ioc.py").write_text(FAKE_IOC)
    config = directory / "skywright.toml"
    config.write_text(
        f'[store]\ndirectory = "{directory / "store"}"\n'
        '[iocs.one]\nmodule = "fake_ioc"\nprefix = "ONE:"\n'
        '[iocs.two]\nmodule = "fake_ioc"\nprefix = "TWO:"\n'
    )
    # What the tests import is what the processes run, also in a second checkout.
    path = os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH"))))
    return {"SKYWRIGHT_CONFIG": str(config), "PYTHONPATH": path}
