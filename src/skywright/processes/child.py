"""Start a module of ours as a child process that hears and answers by pipes."""

import os
import subprocess
import sys
from typing import IO, Any


def keep_stdout() -> IO[bytes]:
    """Return what is stdout now, for messages to the parent; all else that is printed is stderr's.

    What a library prints is no message.
    """
    sys.stdout.flush()
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return messages


def start_module(module: str, *arguments: str, **options: Any) -> "subprocess.Popen[Any]":
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
        Options of `subprocess.Popen`.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **{**pipes, **options})
