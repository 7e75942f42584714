"""Processes of the store, forked from one that has imported tiled already: seconds less each.

They are processes like those of ``python -m``: own pid, own pipes, ended by any signal.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import IO

MODULES = ("skywright.store.ingester", "skywright.store.server")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(MODULES))


class Forked:
    """``python -m MODULE ARGUMENTS``, as far as the tests use `subprocess.Popen`.

    Parameters
    ----------
    module
        One of `MODULES`.
    arguments, environment
        Of the process.
    stderr
        A file.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], environment: dict[str, str], stderr: IO[str]
    ) -> None:
        their_in, our_in = _context.Pipe(duplex=False)
        our_out, their_out = _context.Pipe(duplex=False)
        their_error = Connection(os.dup(stderr.fileno()), readable=False)
        streams = (their_in, their_out, their_error)
        self._process = _context.Process(
            target=_main, args=(module, arguments, environment, streams)
        )
        self._process.start()
        for stream in streams:
            stream.close()
        self.pid = self._process.pid
        self.stdin = os.fdopen(os.dup(our_in.fileno()), "w")
        self.stdout = os.fdopen(os.dup(our_out.fileno()))
        our_in.close()
        our_out.close()
        self.terminate, self.kill = self._process.terminate, self._process.kill

    @property
    def returncode(self) -> int | None:
        """Exit status, or minus the signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self.returncode


def _main(
    module: str,
    arguments: Sequence[str],
    environment: dict[str, str],
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
    sys.exit(import_module(module).main(arguments))
