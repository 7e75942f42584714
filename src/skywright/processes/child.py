"""Start a module of ours as a child process with pipes to its stdin and from its stdout."""

import os
import subprocess
import sys
import weakref
from typing import IO, Any


class PipedProcess(subprocess.Popen[Any]):
    """A child process with pipes to its stdin and from its stdout."""

    stdin: IO[Any]
    stdout: IO[Any]


_started: "weakref.WeakSet[PipedProcess]" = weakref.WeakSet()
"""Processes that this one has started."""


def keep_stdout() -> IO[bytes]:
    """Return the present stdout, for messages to the parent; later prints go to stderr.

    So what a library prints is not taken for a message.
    """
    sys.stdout.flush()
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return messages


def start_module(module: str, *arguments: str, **options: Any) -> PipedProcess:
    """Start ``python -m module`` with a pipe to its stdin and one from its stdout.

    The pipe to its stdin closes when this process ends, also by SIGKILL. So a child that reads its
    stdin, or calls `skywright.processes.lifecycle.end_with_parent`, ends with its parent.

    Parameters
    ----------
    module
        Full name of the module.
    *arguments
        Command-line arguments.
    **options
        Options of `subprocess.Popen`, without ``stdin`` and ``stdout``.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = PipedProcess(command, **{**pipes, **options})
    _started.add(process)
    return process


def _give_up_pipes() -> None:
    """Close the pipes to the processes in a forked child; else they would outlive this process.

    The file objects write to /dev/null then, so what waits in their buffers is not sent twice.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for process in list(_started):
        if not process.stdin.closed:
            os.dup2(nowhere, process.stdin.fileno(), inheritable=False)
    os.close(nowhere)


os.register_at_fork(after_in_child=_give_up_pipes)
