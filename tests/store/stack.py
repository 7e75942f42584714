"""The store's processes for tests: a tiled server, an ingester, sessions that run plans."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.forked import start
from support.waiting import until

from skywright.processes.ports import free_port
from skywright.store.client import connect, ensure_containers

READY_LIMIT_S = 240.0


class Child:
    """A process that has said it is ready; it cannot outlive the tests."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = start(
            [sys.executable, *arguments],
            env={**os.environ, **environment, "SKYWRIGHT_SUPERVISED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        timer = threading.Timer(READY_LIMIT_S, self.process.kill)
        timer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        timer.cancel()
        assert line, f"{arguments} did not start:\n{self.stderr()}"
        self.ready: dict[str, Any] = json.loads(line)["ready"]

    def stderr(self) -> str:
        self.process.wait(timeout=60)
        self.errors.seek(0)
        return self.errors.read()

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(timeout=60)

    def stop(self) -> int:
        """End it as the supervisor does; return the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout=60)
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            pipe.close()  # type: ignore[union-attr]
        return status


class Stack:
    """A store with its server; ingesters on demand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journals = directory / "journal"
        self.port = free_port()
        self.children: list[Child] = []
        self.server = self.start_server()
        self.uri: str = self.server.ready["uri"]
        self.key = (directory / "tiled" / "api_key").read_text()

    def _start(self, *arguments: str) -> Child:
        child = Child(*arguments, SKYWRIGHT_STORE__DIRECTORY=str(self.directory))
        self.children.append(child)
        return child

    def start_server(self) -> Child:
        self.server = self._start("-m", "skywright.store.server", "--port", str(self.port))
        return self.server

    def start_ingester(self) -> Child:
        return self._start("-m", "skywright.store.ingester", "--uri", self.uri)

    @contextmanager
    def ingester(self) -> Iterator[Child]:
        child = self.start_ingester()
        try:
            yield child
        finally:
            child.stop()

    def client(self) -> Any:
        """Return a client of the root; the containers are there."""
        client = connect(self.uri, self.key)
        ensure_containers(client)
        return client

    def done(self, uid: str, limit_s: float = 120.0) -> Path:
        """Wait until the run is in the catalog and its journal archived."""
        path = self.journals / "done" / f"{uid}.jsonl"
        until(path.exists, limit_s, f"journal of {uid} in done")
        return path

    def close(self) -> None:
        for child in reversed(self.children):
            child.stop()


@contextmanager
def running_stack(directory: Path) -> Iterator[Stack]:
    """Run a store in `directory` for the time of a with block."""
    stack = Stack(directory)
    try:
        yield stack
    finally:
        stack.close()


def documents(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return what a journal says."""
    with path.open() as file:
        return [tuple(json.loads(line)) for line in file]


def truth(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return by stream and seq_num the data of the last event in a journal."""
    names: dict[str, str] = {}
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for name, doc in documents(path):
        if name == "descriptor":
            names[doc["uid"]] = doc["name"]
        elif name == "event":
            rows.setdefault(names[doc["descriptor"]], {})[doc["seq_num"]] = doc["data"]
    return rows
