"""A process of skywright's as users start it: it says on one line that it is ready, and logs."""

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
from typing import Any, TypeVar

from support.forked import start

from skywright.processes.lifecycle import SUPERVISED

ROOT = Path(__file__).parents[2]
Own = TypeVar("Own", bound="ReadyProcess")


class ReadyProcess:
    """A running process.

    Parameters
    ----------
    *command
        Arguments of the interpreter.
    limit_s
        Time to get ready.
    **environment
        Variables beside those of this process.
    """

    def __init__(self, *command: str, limit_s: float = 240.0, **environment: str) -> None:
        self.command = command
        # With its stdin the process ends, when this one does.
        self.process = start(
            [sys.executable, *command],
            env={**os.environ, SUPERVISED: "1", **environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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
            facts: dict[str, Any] = json.loads(lines.get(timeout=limit_s))["ready"]
        except (queue.Empty, ValueError) as error:
            self.kill()
            raise AssertionError(
                f"{' '.join(self.command)} did not get ready; its log:\n{self.text}"
            ) from error
        return facts

    @property
    def text(self) -> str:
        """What it has logged."""
        return "".join(self.log)

    def terminate(self, limit_s: float = 120.0) -> int:
        """End it by SIGTERM; return the exit status."""
        return self.end(signal.SIGTERM, limit_s)

    def kill(self) -> int:
        """End it by SIGKILL."""
        return self.end(signal.SIGKILL)

    def end(self, number: signal.Signals, limit_s: float = 120.0) -> int:
        """End it by a signal; return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(limit_s)
        self._reader.join(1.0)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        return status


@contextmanager
def ended_after(process: Own) -> Iterator[Own]:
    """Let a process run for the time of a with block; its log is shown when the block fails."""
    try:
        yield process
    except BaseException:
        sys.stderr.write(f"---- log of {' '.join(process.command)}\n{process.text}")
        raise
    finally:
        if process.process.poll() is None:
            try:
                process.terminate()
            except subprocess.TimeoutExpired:
                process.kill()
                raise
