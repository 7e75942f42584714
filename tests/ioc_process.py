"""Start an IOC as users do, in a process of its own, on a port of the session's pool."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_in_use: set[int] = set()
ROOT = Path(__file__).parents[1]


class IocProcess:
    """A running IOC.

    Parameters
    ----------
    module
        ``iocs.axis``.
    *args
        Of the module, without prefix and port.
    prefix
        Of its PVs; by default one that nobody else has.
    port
        A port of the pool (``SKYWRIGHT_TEST_CA_PORTS``); by default one that is free.
    limit_s
        Time to get ready.
    """

    def __init__(
        self,
        module: str,
        *args: str,
        prefix: str | None = None,
        port: int | None = None,
        limit_s: float = 60.0,
        **environment: str,
    ) -> None:
        self.module, self.args = module, args
        self.prefix = prefix or f"T{uuid.uuid4().hex[:8].upper()}:"
        pool = [int(text) for text in os.environ["SKYWRIGHT_TEST_CA_PORTS"].split(",")]
        self.port = port or next(each for each in pool if each not in _in_use)
        _in_use.add(self.port)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", module, "--prefix", self.prefix),
                *("--port", str(self.port), "-v", *args),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SKYWRIGHT_SUPERVISED": "1", **environment},
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.ready: dict[str, Any] = self._await_ready(limit_s)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def _await_ready(self, limit_s: float) -> dict[str, Any]:
        lines: queue.Queue[str] = queue.Queue()
        assert self.process.stdout is not None
        read = self.process.stdout.readline
        threading.Thread(target=lambda: lines.put(read()), daemon=True).start()
        try:
            line = lines.get(timeout=limit_s)
            facts: dict[str, Any] = json.loads(line)["ready"]
        except (queue.Empty, ValueError) as error:
            self.kill()
            raise AssertionError(
                f"{self.module} did not get ready; its log:\n{self.text}"
            ) from error
        return facts

    @property
    def text(self) -> str:
        """What it has logged."""
        return "".join(self.log)

    def terminate(self, limit_s: float = 30.0) -> int:
        """End it by SIGTERM; return the exit status."""
        return self._end(signal.SIGTERM, limit_s)

    def kill(self) -> int:
        """End it by SIGKILL."""
        return self._end(signal.SIGKILL, 30.0)

    def _end(self, number: int, limit_s: float) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            status = self.process.wait(limit_s)
        finally:
            _in_use.discard(self.port)
        self._reader.join(1.0)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        return status

    def again(self, *args: str) -> "IocProcess":
        """Start it again, with the same prefix and port, as a supervisor does."""
        return IocProcess(self.module, *(args or self.args), prefix=self.prefix, port=self.port)


@contextmanager
def running_ioc(module: str, *args: str, **environment: str) -> Iterator[IocProcess]:
    """Run an IOC for the time of a with block; its log is shown when the block fails."""
    ioc = IocProcess(module, *args, **environment)
    try:
        yield ioc
    except BaseException:
        sys.stderr.write(f"---- log of {module} {' '.join(args)}\n{ioc.text}")
        raise
    finally:
        if ioc.process.poll() is None:
            try:
                ioc.terminate()
            except subprocess.TimeoutExpired:
                ioc.kill()
                raise
