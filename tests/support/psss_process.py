"""The service as a process of its own, as an operator starts it."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skywright.process import SUPERVISED

ROOT = Path(__file__).parents[2]
MAIN = ("-m", "skywright.cli", "psss", "serve")
OLD_MAIN = ("-c", "from skywright.cli.psss_processing import main; main()")


class ServiceProcess:
    """A running service; its ports are in `ready`."""

    def __init__(self, *args: str, main: tuple[str, ...] = MAIN, limit_s: float = 90.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *main, *args],
            cwd=ROOT,
            stdin=subprocess.PIPE,  # with it the service ends, when this process does
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, SUPERVISED: "1"},
        )
        self.log: list[str] = []
        threading.Thread(target=self._read_log, daemon=True).start()
        self.ready = self._await_ready(limit_s)

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
            facts: dict[str, Any] = json.loads(lines.get(timeout=limit_s))["ready"]
        except (queue.Empty, ValueError) as error:
            self.end(signal.SIGKILL)
            raise AssertionError("not ready; its log:\n" + "".join(self.log)) from error
        return facts

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ready['rest_port']}"

    def end(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 10.0) -> int:
        """End it; return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(limit_s)


@contextmanager
def running(*args: str, main: tuple[str, ...] = MAIN) -> Iterator[ServiceProcess]:
    service = ServiceProcess(*args, main=main)
    try:
        yield service
    except BaseException:
        sys.stderr.write("---- log of the service\n" + "".join(service.log))
        raise
    finally:
        with suppress(subprocess.TimeoutExpired):
            service.end()
        service.process.kill()
        for stream in (service.process.stdin, service.process.stdout, service.process.stderr):
            if stream is not None:
                stream.close()
