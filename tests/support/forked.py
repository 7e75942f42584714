"""Processes of ours, forked from one that has imported their modules: seconds less each.

They are processes like those of ``python -m``: own pid, own pipes, ended by any signal.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from skywright.instruments import instruments

COMMAND = ("skywright.cli",)
STORE = ("skywright.store.ingester", "skywright.store.server")
IOCS = tuple(sorted({ioc.module for each in instruments().values() for ioc in each.iocs.values()}))


def _what_runs(module: str) -> str:
    """Return the module whose code ``python -m MODULE`` runs."""
    spec = find_spec(module)
    return f"{module}.__main__" if spec and spec.submodule_search_locations else module


AHEAD = {module: _what_runs(module) for module in COMMAND + STORE + IOCS}
"""What can be forked, and the module that is imported for it."""

_context = multiprocessing.get_context("forkserver")
PRELOAD = (*AHEAD.values(), "tests.support.ahead")
"""The last one is found where pytest was started in the checkout; without it a fork is slower."""
_context.set_forkserver_preload(list(PRELOAD))


class Forked:
    """``python -m MODULE ARGUMENTS``, as far as the tests use `subprocess.Popen`.

    Parameters
    ----------
    command
        ``-m MODULE ARGUMENTS``.
    environment, directory
        Of the process.
    stderr
        A file; without one, `stderr` is the end of a pipe that can be read.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        directory: Path,
        stderr: IO[str] | None,
    ) -> None:
        their_in, our_in = _context.Pipe(duplex=False)
        our_out, their_out = _context.Pipe(duplex=False)
        self.stderr: IO[str] | None = None
        if stderr is None:
            our_error, their_error = _context.Pipe(duplex=False)
            self.stderr = _file(our_error, "r")
        else:
            their_error = Connection(os.dup(stderr.fileno()), readable=False)
        streams = (their_in, their_out, their_error)
        self._process = _context.Process(
            target=_main, args=(command, environment, directory, streams)
        )
        self._process.start()
        for stream in streams:
            stream.close()
        self.pid: int = self._process.pid
        self.stdin, self.stdout = _file(our_in, "w"), _file(our_out, "r")
        self.terminate, self.kill = self._process.terminate, self._process.kill

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self.returncode


def start(
    command: Sequence[str],
    environment: dict[str, str],
    directory: Path,
    stderr: IO[str] | None = None,
) -> "subprocess.Popen[str] | Forked":
    """Start a process of the interpreter: forked if its modules are imported ahead.

    Parameters
    ----------
    command
        Arguments of the interpreter.
    environment, directory, stderr
        As `Forked` has them.
    """
    same_path = environment.get("PYTHONPATH") == os.environ.get("PYTHONPATH")
    if command[0] == "-m" and command[1] in AHEAD and same_path:
        return Forked(command, environment, directory, stderr)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr or subprocess.PIPE,
        text=True,
        env=environment,
    )


def _file(end: Connection, mode: str) -> IO[str]:
    """Return the end of a pipe as a file."""
    with end:
        return os.fdopen(os.dup(end.fileno()), mode)


def _main(
    command: Sequence[str],
    environment: dict[str, str],
    directory: Path,
    streams: Sequence[Connection],
) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=1, closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    _, module, *sys.argv[1:] = command
    sys.modules.pop(AHEAD[module], None)  # it is executed anew, as ``__main__``
    runpy.run_module(module, run_name="__main__", alter_sys=True)
