"""Feeds from IOCs: keeps a worker that follows the PVs, and hands on what it says."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from dashboard.worker_process import not_connected
from skywright.config import Settings
from skywright.errors import ConfigError
from skywright.processes.lifecycle import SUPERVISED
from skywright.processes.stack import NOT_RUNNING, client_environment, not_ready, read_state
from skywright.rooms import importable

SILENCE_S, START_S = 30.0, 180.0
"""A worker that writes nothing for this time is started anew; the second holds for the first
message: a busy computer loads Python's modules slowly, and a new start would begin that again."""
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


async def run_once(settings: Settings, ioc: str, module: str, *arguments: str) -> bytes:
    """Run a module on the PVs of an IOC to its end, and return what it writes to stdout.

    Raises
    ------
    ConfigError
        If no `skywright up` runs, or the module fails or takes too long.
    """
    environment = channel_access(settings)
    if environment is None:
        raise ConfigError(_no_beamline(settings))
    prefix = settings.pv_prefix(ioc)
    async with _worker(environment, module, "--prefix", prefix, *arguments) as process:
        try:
            async with asyncio.timeout(SILENCE_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise ConfigError(f"{module}: not done within {SILENCE_S:g} s") from None
    if process.returncode:
        raise ConfigError(f"{module} failed; the log of skywright dashboard says more")
    return output


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


async def _read(output: asyncio.StreamReader) -> AsyncIterator[tuple[dict[str, object], bytes]]:
    """Yield headers and whole messages until the worker ends or falls silent."""
    limit_s = START_S
    with suppress(asyncio.IncompleteReadError, TimeoutError):
        while True:
            async with asyncio.timeout(limit_s):
                line = await _read_line(output)
                header = json.loads(line)
                data = await output.readexactly(header["bytes"])
            limit_s = SILENCE_S
            yield header, line + data


async def _read_line(output: asyncio.StreamReader) -> bytes:
    """Read a line of any length: the curves of all regions of a set may take megabytes."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            line += await output.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line += await output.readexactly(error.consumed)
    return bytes(line)
