"""The state of the beamline; it is checked once for all clients."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from skywright.checks import Check, wrong
from skywright.processes.stack import NOT_RUNNING, State, not_ready, read_state

logger = logging.getLogger(__name__)

PERIOD_S = 2.0


@dataclass(frozen=True)
class Checks:
    """How the state of the beamline is found out.

    Parameters
    ----------
    quick
        Cheap enough to repeat while somebody looks.
    examine
        Everything; takes seconds.
    """

    quick: Callable[[], Iterable[Check]]
    examine: Callable[[], Iterable[Check]]


@dataclass
class Board:
    """What is known of the state.

    Parameters
    ----------
    directory
        The store.
    checks
        How the rest is found out.
    """

    directory: Path
    checks: Checks
    number: int = field(default_factory=time.time_ns)
    """Grows whenever something else is known; no number of an earlier server."""
    stack: State | None = None
    """Processes of `skywright up`; None if it does not run, or is not ready."""
    absent: str = ""
    """Why there is no `stack`."""
    quick_report: list[Check] = field(default_factory=list)
    report: list[Check] = field(default_factory=list)
    """Of the last whole examination."""
    reported_s: float = 0.0
    """When that was, unix s; 0 before the first."""
    examining: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Look again."""
        seen = await asyncio.to_thread(self._read)
        if seen != (self.stack, self.absent, self.quick_report):
            self.stack, self.absent, self.quick_report = seen
            self.number += 1

    def examine(self) -> None:
        """Begin to check everything, unless that is under way."""
        if self.examining is None:
            self.number += 1
            self.examining = asyncio.create_task(self._examine())

    async def changes(self) -> AsyncIterator[str]:
        """Yield `number` at the beginning and whenever it has grown."""
        seen = -1
        while True:
            await self.refresh()
            if self.number != seen:
                seen = self.number
                yield str(seen)
            await asyncio.sleep(PERIOD_S)

    def _read(self) -> tuple[State | None, str, list[Check]]:
        try:
            stack = read_state(self.directory)
            absent = not_ready(self.directory) or NOT_RUNNING.capitalize()
            return stack, "" if stack else absent, list(self.checks.quick())
        except OSError as error:  # a directory that this user may not read, a stale handle of NFS
            return None, f"The state cannot be read: {error}", []

    async def _examine(self) -> None:
        try:
            self.report = await asyncio.to_thread(lambda: list(self.checks.examine()))
        except Exception as error:  # a task's exception is shown nowhere else
            logger.exception("the examination failed")
            found = f"the examination failed: {type(error).__name__}: {error}"
            todo = "look at the log of the dashboard, or run `skywright doctor`"
            self.report = [wrong("checks", found, todo)]
        finally:
            self.examining = None
            self.number += 1
            self.reported_s = time.time()
