"""Start processes, await their ready lines, watch them, restart them with back-off, stop them.

Each service has one asyncio task. Each child leads its own process group, so the terminal's Ctrl-C
reaches the supervisor alone. The child's stderr goes to a log file. Its stdin is a pipe that closes
when the supervisor ends, also by SIGKILL; the child then ends too (`lifecycle.end_with_parent`). A
program without a ready line need not watch its stdin; the Linux kernel ends it.
"""

import asyncio
import ctypes
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from skywright.errors import HardwareError
from skywright.processes.lifecycle import SUPERVISED
from skywright.processes.logs import LOG_LEVEL
from skywright.processes.memory import ARENAS
from skywright.processes.stack import Child
from skywright.waiting import back_off

logger = logging.getLogger(__name__)

CONFIGURATION_ERROR = 2
"""Exit status of a process whose arguments or configuration are wrong. `Supervisor.start` fails
then; a process that ends with it later is restarted like any other."""
STILL_STARTING = "is still starting"
"""Beginning of the report of a service that takes long."""
LAST_LINE_S = 0.5
"""Time after a child's end, s, to read a ready line that it wrote before."""
STOP_S = 2.2
"""Time after SIGTERM until a child is killed, s. `Supervisor.stop` waits for this twice, and must
end within 5 s."""
UNANSWERED_MAX = 4
"""Number of requests in a row without an answer after which an HTTP server is killed. One alone may
be due to a machine that was suspended."""
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
"""The function of Linux, looked up before a fork; None elsewhere."""
PR_SET_PDEATHSIG = 1
"""Of <linux/prctl.h>: the signal that the kernel sends when the parent has ended."""
Report = Callable[[str, str], None]
"""Called with the name of a service and a message for the user."""


@dataclass(frozen=True)
class Service:
    """A process to keep running."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    """TCP port of the service; 0 if it has none. It is also in `command`."""
    answers_http: bool = False
    """Whether `port` of this machine is that of an HTTP server. It is asked regularly, and killed
    if it no longer answers (`UNANSWERED_MAX`)."""
    answer_limit_s: float = 30.0
    """Time limit of an answer, and period of the requests, s."""
    ready_line: bool = True
    """Whether the process prints a ready line (`skywright.processes.lifecycle.announce_ready`);
    without one it is ready when it has started."""
    stop_before: str = ""
    """Name of a service that this one uses until its end, and that is therefore stopped after it;
    empty: none."""
    slow_s: float = 10.0
    """Time after which a message says that the service is still starting, s."""
    late_s: float = 120.0
    """Time after which a message says that the service is not ready yet, s."""
    may_be_late: bool = False
    """Whether `Supervisor.start` goes on without this service if it is not ready after `late_s`, or
    ends before. The start still fails if the program cannot be started, ends because of its
    configuration, or ends without an error: it is no server then."""
    ready_limit_s: float = 600.0
    """Time after which a process that is not ready is terminated, s; must exceed `late_s`.
    `Supervisor.start` fails then, unless it has gone on without this service."""
    backoff_s: tuple[float, float] = (0.5, 30.0)
    """(first, longest) pause before a restart, s; doubled after each restart."""
    backoff_reset_s: float = 60.0
    """Run time of a child, s, after which the back-off is reset to its first value."""


@dataclass(frozen=True)
class _Process:
    """A child process and the supervisor's ends of its pipes.

    The pipes are not those of asyncio, with which `wait` blocks while a grandchild has them open.
    """

    handle: asyncio.subprocess.Process
    stdin_write: BinaryIO
    """Kept open; the child sees end of file when the supervisor has ended."""
    stdout: asyncio.StreamReader
    stdout_transport: asyncio.ReadTransport


class Supervisor:
    """Keep services running.

    Parameters
    ----------
    services
        Services in display order.
    logs
        Directory of the log files, one per service: ``NAME.log``, the previous start's
        ``NAME.log.1``.
    report
        See `Report`. An `OSError` of it is logged.
    changed
        Called after each change of `ready_children`, before it is reported.
    """

    def __init__(
        self,
        services: Sequence[Service],
        logs: Path,
        report: Report,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.ready_children: dict[str, Child] = {}
        """The processes of the services that are ready, by name."""
        self._services = services
        self._logs = logs
        self._report = report
        self._changed = changed
        self._start_done = {service.name: asyncio.Event() for service in services}
        """Set when `start` no longer waits for the service: it is ready, or it `may_be_late` and is
        late or has ended."""
        self._processes: dict[str, _Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every service; return when all are ready.

        It does not wait for a service that `may_be_late` and is late, or has ended.

        Raises
        ------
        HardwareError
            If a service cannot be started, or ends before it is ready, without an error or because
            of its configuration. For a service without `may_be_late`, also if it ends for another
            reason or times out before it is ready. The message has its name and the reason, such as
            exit status and last log line. The other services still run; call `stop`.
        """
        self._logs.mkdir(exist_ok=True)
        self._tasks = [asyncio.create_task(self._keep(service)) for service in self._services]
        waits = (event.wait() for event in self._start_done.values())
        all_started: asyncio.Future[Any] = asyncio.gather(*waits)
        await asyncio.wait([all_started, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        all_started.cancel()
        for task in self._tasks:
            if task.done():
                task.result()  # raises the error that has ended the task

    @property
    def not_ready(self) -> list[str]:
        """Names of the services that are not ready."""
        return [
            service.name for service in self._services if service.name not in self.ready_children
        ]

    def report(self, name: str, message: str) -> None:
        """Report a message of a service; log an `OSError`, such as that of a full disk."""
        try:
            self._report(name, message)
        except OSError as error:
            logger.warning("%s %s (not reported: %s)", name, message, error)

    async def watch(self) -> None:
        """Run until a task of `start` fails, and raise its error. The tasks restart children."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """End every child within 5 s, those that others depend on last."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stopped_last = {service.stop_before for service in self._services}
        for is_last in (False, True):
            await asyncio.gather(
                *(
                    _end(process, limit_s=STOP_S)
                    for name, process in self._processes.items()
                    if (name in stopped_last) is is_last
                )
            )

    async def _keep(self, service: Service) -> None:
        """Start `service`, and restart it each time it has ended."""
        delays, restarts = back_off(service.backoff_s), 0
        while True:
            started = time.monotonic()
            status, why = await self._run_once(service, restarts)
            if not self._start_done[service.name].is_set():
                if not service.may_be_late or status in (None, 0, CONFIGURATION_ERROR):
                    raise HardwareError(f"{service.name} {why}")
                self._start_done[service.name].set()
            if time.monotonic() - started > service.backoff_reset_s:
                delays = back_off(service.backoff_s)
            delay = next(delays)
            self.report(service.name, f"{why}; restarting in {delay:g} s")
            await asyncio.sleep(delay)
            restarts += 1

    async def _run_once(self, service: Service, restarts: int) -> tuple[int | None, str]:
        """Start the child, wait until it has ended, and return its exit status and how it ended.

        The status is None if the child cannot be started, or was not ready in time.
        """
        with self._open_log(service, again=restarts > 0) as log:
            log_start = None if log.name == os.devnull else log.seek(0, os.SEEK_END)
            try:
                process = await _spawn(service, log)
            except OSError as error:
                return None, f"cannot be started: {error}"
        self._processes[service.name] = process
        try:
            facts: Mapping[str, Any] | None = {}
            if service.ready_line:
                facts = await self._await_ready(service, process, log_start)
        except TimeoutError:
            await _end(process, limit_s=1.0)
            status = None
            why = f"did not say that it is ready within {service.ready_limit_s:g} s"
        else:
            if facts is not None:
                self._mark_ready(service, process, facts, restarts)
            discarding = asyncio.create_task(_discard_output(process.stdout))
            watching: asyncio.Task[None] | None = None
            if facts is not None and service.answers_http:
                watching = asyncio.create_task(self._kill_if_silent(service, process))
            try:
                status = await process.handle.wait()
            finally:  # also if `stop` cancels this task: a server that ends need not answer
                if watching is not None:
                    watching.cancel()
            why = _ending(status)
            if facts is None and status == 0:
                why += " before it was ready: is it a server?"
            discarding.cancel()
            await _end(process, limit_s=0)
        # `stop` must not signal it: the system may give its process id to another program
        del self._processes[service.name]
        if self.ready_children.pop(service.name, None):
            self._changed()
        return status, f"{why}; last log line: {self._last_log_line(service, log_start)}"

    async def _await_ready(
        self, service: Service, process: _Process, log_start: int | None
    ) -> Mapping[str, Any] | None:
        """Return the facts of the ready line; None if the child ended without one.

        A long wait is reported.

        Raises
        ------
        TimeoutError
            If the line has not come within `Service.ready_limit_s`.
        """
        reading = asyncio.create_task(_facts_or_end(process))
        slow_s = min(service.slow_s, service.late_s)
        try:
            if not (await asyncio.wait([reading], timeout=slow_s))[0]:
                last = self._last_log_line(service, log_start)
                self.report(
                    service.name, f"{STILL_STARTING} after {slow_s:g} s; last log line: {last}"
                )
            if not (await asyncio.wait([reading], timeout=service.late_s - slow_s))[0]:
                self.report(
                    service.name,
                    f"is not ready after {service.late_s:g} s and is still awaited; "
                    f"last log line: {self._last_log_line(service, log_start)}",
                )
                if service.may_be_late:
                    self._start_done[service.name].set()
            async with asyncio.timeout(service.ready_limit_s - service.late_s):
                return await reading
        finally:
            reading.cancel()

    async def _kill_if_silent(self, service: Service, process: _Process) -> None:
        """Wait until the HTTP server no longer answers; kill its process then."""
        unanswered = 0
        while unanswered < UNANSWERED_MAX:
            asked = time.monotonic()
            has_answered = await _answers(service.port, service.answer_limit_s)
            unanswered = 0 if has_answered else unanswered + 1
            await asyncio.sleep(service.answer_limit_s - (time.monotonic() - asked))
        silent_s = UNANSWERED_MAX * service.answer_limit_s
        self.report(service.name, f"has not answered for {silent_s:g} s and is killed")
        process.handle.kill()

    def _mark_ready(
        self,
        service: Service,
        process: _Process,
        facts: Mapping[str, Any],
        restarts: int,
    ) -> None:
        self.ready_children[service.name] = Child(process.handle.pid, facts, restarts)
        self._changed()
        served = ", ".join(f"{key} {value}" for key, value in facts.items())
        ready = f"ready: {served}" if served else "ready"
        self.report(service.name, f"{ready} (process {process.handle.pid})")
        self._start_done[service.name].set()

    def _log(self, service: Service) -> Path:
        return self._logs / f"{service.name}.log"

    def _open_log(self, service: Service, again: bool) -> BinaryIO:
        """Open the log for appending, a new one at the first start; if that fails, /dev/null."""
        log = self._log(service)
        try:
            if log.exists() and not again:
                log.replace(log.with_name(f"{log.name}.1"))
            return log.open("ab")
        except OSError as error:
            self.report(service.name, f"runs without a log: {error}")
            return Path(os.devnull).open("ab")

    def _last_log_line(self, service: Service, log_start: int | None) -> str:
        """Return the last line of a log after byte `log_start` (None: no log), and its path."""
        if log_start is None:
            return "unknown (no log)"
        log = self._log(service)
        try:
            with log.open("rb") as file:
                file.seek(max(log_start, log.stat().st_size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"unknown ({error})"
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        return f"{last} (log: {log})"


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    """Return the read end and the write end of a new pipe."""
    read, write = os.pipe()
    return os.fdopen(read, "rb"), os.fdopen(write, "wb")


async def _spawn(service: Service, log: BinaryIO) -> _Process:
    reader = asyncio.StreamReader()
    with ExitStack() as ends_of_child, ExitStack() as own_ends:
        stdin_read, stdin_write = _pipe()
        ends_of_child.enter_context(stdin_read)
        own_ends.enter_context(stdin_write)
        stdout_read, stdout_write = _pipe()
        own_ends.enter_context(stdout_read)
        ends_of_child.enter_context(stdout_write)
        # Awaited before the child exists, because a cancellation here would lose the child
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), stdout_read
        )
        own_ends.callback(transport.close)
        handle = await asyncio.create_subprocess_exec(
            *service.command,
            stdin=stdin_read,
            stdout=stdout_write,
            stderr=log,
            env={
                LOG_LEVEL: "INFO",
                ARENAS: "2",  # as `memory.share_arenas`
                **os.environ,
                SUPERVISED: "1",
                **service.environment,
            },
            process_group=0,
            preexec_fn=None
            if service.ready_line or PRCTL is None
            else partial(_end_with_parent, os.getpid()),
        )
        own_ends.pop_all()
    return _Process(handle, stdin_write, reader, transport)


def _end_with_parent(parent: int) -> None:
    """Let the kernel terminate this new child when its parent has ended, however (Linux only).

    For programs of others: ours end when their stdin is closed.
    """
    assert PRCTL is not None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler of the parent would lose it
    PRCTL(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended since the fork, and no signal comes
        os._exit(1)


async def _facts_or_end(process: _Process) -> dict[str, Any] | None:
    """Return the facts of the child's ready line; None when the child has ended without one."""
    reading = asyncio.create_task(_read_ready_line(process.stdout))
    ended = asyncio.create_task(process.handle.wait())
    try:
        await asyncio.wait([reading, ended], return_when=asyncio.FIRST_COMPLETED)
        # Do not wait for the end of stdout: what a dead child has started may keep it open
        await asyncio.wait([reading], timeout=LAST_LINE_S)
        if reading.done() and (facts := reading.result()) is not None:
            return facts
        await ended  # a child that closed its stdout may still run
        return None
    finally:
        reading.cancel()
        ended.cancel()


async def _read_ready_line(stdout: asyncio.StreamReader) -> dict[str, Any] | None:
    """Return the facts of the ready line; None if stdout ends without one."""
    while not stdout.at_eof():
        # Other lines are skipped; one that is too long is a ValueError too
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            facts = json.loads(await stdout.readline())["ready"]
            if isinstance(facts, dict):
                return facts
    return None


async def _discard_output(stdout: asyncio.StreamReader) -> None:
    """Discard further output of the child, so that it never blocks on a full pipe."""
    while await stdout.read(65536):
        pass


async def _answers(port: int, limit_s: float) -> bool:
    """Return whether an HTTP server of this machine gives any answer within `limit_s`."""
    with suppress(OSError):  # a TimeoutError too
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                return bool(await reader.read(1))
            finally:
                writer.close()
    return False


async def _end(process: _Process, limit_s: float) -> None:
    """Terminate the child; when it has ended, or after `limit_s`, kill its process group."""
    if process.handle.returncode is None:
        process.handle.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await process.handle.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.handle.pid, signal.SIGKILL)
    await process.handle.wait()
    process.stdin_write.close()
    process.stdout_transport.close()


def _ending(status: int) -> str:
    if status < 0:
        with suppress(ValueError):  # a real-time signal has no name
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"
    return f"ended with exit status {status}"
