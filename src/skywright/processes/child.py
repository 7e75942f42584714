"""Start a module of ours as a child process with pipes to its stdin and from its stdout."""

import os
import subprocess
import sys
from typing import IO, Any


def keep_stdout() -> IO[bytes]:
    """Return the present stdout, for messages to the parent; later prints go to stderr.

    So what a library prints is not taken for a message.
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
