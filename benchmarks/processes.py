"""Processes that benchmarks start, as users do, and the Channel Access between them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skywright.processes.lifecycle import SUPERVISED
from skywright.processes.ports import free_port
from skywright.processes.stack import client_environment


@contextmanager
def running(module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run a module for the time of a with block; gives its ready line."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,  # with it the process ends, when this one does
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, SUPERVISED: "1"},
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["ready"]
        finally:
            process.terminate()
            process.wait(10)


def own_channel_access() -> int:
    """Keep Channel Access to one free port, here and in processes to be started; return the port.

    Must come before the first import of pyepics, which reads the environment once.
    """
    port = free_port()
    os.environ |= {"EPICS_CA_SERVER_PORT": str(port), **client_environment([f"127.0.0.1:{port}"])}
    return port
