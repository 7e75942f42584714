"""Workers on the PVs of an IOC: one that follows them for a feed, and one that answers requests."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from dashboard.worker_process import not_connected
from skywright.config import Settings
from skywright.errors import ConfigError
from skywright.processes.lifecycle import SUPERVISED
from skywright.processes.stack import NOT_RUNNING, client_environment, not_ready, read_state
from skywright.rooms import importable

SILENCE_S, START_S = 30.0, 180.0
"""A worker that writes nothing for this time is started anew; the second holds for the first
message: a busy computer loads Python's modules slowly, and a new start would begin that again.
A request that has not been answered for the first time is given up."""
RETRY_S = 2.0
BUFFER_BYTES = 1_000_000
"""Bytes of a worker that wait here until they are read, about; a line may be longer."""


async def worker_messages(
    settings: Settings, ioc: str, module: str, *arguments: str
) -> AsyncIterator[bytes]:
    """Yield the messages of a worker on the PVs of an IOC, for ever.

    Parameters
    ----------
    settings
        Of the beamline.
    ioc
        Name of the IOC; its prefix is the worker's ``--prefix``.
    module
        Of the worker: it writes JSON lines, each followed by as many bytes as its ``bytes`` says,
        and says in ``connected`` whether the IOC answers.
    *arguments
        Further arguments of the module.
    """
    while True:
        environment = channel_access(settings)
        if environment is None:
            yield not_connected(_no_beamline(settings))
        else:
            prefix = settings.pv_prefix(ioc)
            async with _worker(environment, module, "--prefix", prefix, *arguments) as process:
                async for header, message in _read(process.stdout):
                    yield message
                    if not header["connected"] and channel_access(settings) != environment:
                        break  # a new `skywright up`, at other addresses
                else:
                    yield not_connected("the worker of this page ended; it is begun anew")
        await asyncio.sleep(RETRY_S)


class RequestWorker:
    """Runs a worker that answers requests, one after the other, until it is closed.

    The worker is started at the first request. If it does not answer a request, the next request
    starts a new one; so does a request after `skywright up` has moved to other addresses. A request
    is never repeated: the worker may have done it before it died.

    Parameters
    ----------
    settings
        Of the beamline.
    ioc
        Name of the IOC; its prefix is the worker's ``--prefix``.
    module
        Of the worker, see `dashboard.worker_process.answer_requests`.
    """

    def __init__(self, settings: Settings, ioc: str, module: str) -> None:
        self._settings, self._ioc, self._module = settings, ioc, module
        self._asking = asyncio.Lock()
        self._running = AsyncExitStack()
        self._process: Any = None
        self._environment: Mapping[str, str] | None = None

    async def ask(self, request: str) -> Mapping[str, Any]:
        """Return the answer to a request, which is one line of JSON.

        Raises
        ------
        ConfigError
            If no `skywright up` runs, or the worker fails or takes too long.
        """
        async with self._asking:
            answer: dict[str, Any] = {}
            limit_s = START_S
            try:
                async with asyncio.timeout(limit_s):
                    process = await self._started()
                limit_s = SILENCE_S
                async with asyncio.timeout(limit_s):
                    process.stdin.write(request.encode() + b"\n")
                    answer, _ = await _read_message(process.stdout)
            except TimeoutError:
                raise ConfigError(f"{self._module}: not done within {limit_s:g} s") from None
            except asyncio.IncompleteReadError:
                raise ConfigError(
                    f"{self._module} failed; the log of skywright dashboard says more"
                ) from None
            finally:
                if not answer:  # one that comes later would be taken for that of the next request
                    await self.close()
            del answer["bytes"]
            return answer

    async def close(self) -> None:
        """End the worker, if it runs."""
        self._process = None
        await self._running.aclose()

    async def _started(self) -> Any:
        """Return the process, which runs where the IOC is now."""
        environment = channel_access(self._settings)
        if environment is None:
            raise ConfigError(_no_beamline(self._settings))
        is_alive = self._process is not None and self._process.returncode is None
        if not is_alive or environment != self._environment:
            await self.close()
            prefix = self._settings.pv_prefix(self._ioc)
            worker = _worker(environment, self._module, "--prefix", prefix)
            self._process = await self._running.enter_async_context(worker)
            await _read_message(self._process.stdout)  # it is ready
            self._environment = environment
        return self._process


def channel_access(settings: Settings) -> Mapping[str, str] | None:
    """Return the environment that finds the IOCs; None if nobody runs them, or that is unknown."""
    with suppress(OSError):  # `_no_beamline` says it
        state = read_state(settings.directory)
        if state is not None:
            return state.epics
    elsewhere = [ioc.address for ioc in settings.iocs.values() if ioc.address]
    return client_environment(elsewhere) if elsewhere else None


def _no_beamline(settings: Settings) -> str:
    try:
        return not_ready(settings.directory) or f"{NOT_RUNNING}; start `skywright up`"
    except OSError as error:  # a directory that this user may not read, a stale handle of NFS
        return f"the state of `skywright up` cannot be read: {error}"


@asynccontextmanager
async def _worker(
    environment: Mapping[str, str], module: str, *arguments: str
) -> AsyncIterator[Any]:
    """Run a module for the time of a with block; it ends when its stdin is closed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", importable(module), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment, SUPERVISED: "1"},
        limit=BUFFER_BYTES,
        process_group=0,  # the terminal's Ctrl-C is not for it
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # it holds nothing
        await process.wait()


async def _read(output: asyncio.StreamReader) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    """Yield headers and whole messages until the worker ends or falls silent."""
    limit_s = START_S
    with suppress(asyncio.IncompleteReadError, TimeoutError):
        while True:
            async with asyncio.timeout(limit_s):
                message = await _read_message(output)
            limit_s = SILENCE_S
            yield message


async def _read_message(output: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """Return the header and the whole message.

    Raises
    ------
    asyncio.IncompleteReadError
        If the worker ends before.
    """
    line = await _read_line(output)
    header = json.loads(line)
    return header, line + await output.readexactly(header["bytes"])


async def _read_line(output: asyncio.StreamReader) -> bytes:
    """Read a line of any length: the curves of all regions of a set may take megabytes."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            line += await output.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line += await output.readexactly(error.consumed)
    return bytes(line)
