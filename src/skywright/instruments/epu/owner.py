"""The owner of a tree for runs: hands rows of grids to them, decides what to take next."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from skywright.errors import ConfigError
from skywright.instruments.epu.database import Database, open_database, report_failure
from skywright.instruments.epu.decisions.decider import Decider
from skywright.instruments.epu.decisions.policy import Suggestion, make_policy
from skywright.instruments.epu.runs.tracked import LEASE_S, TrackedGrids
from skywright.instruments.epu.section import EpuSettings
from skywright.instruments.epu.watch.importer import Outcome
from skywright.instruments.epu.watch.owner import TreeOwner, TreeSource
from skywright.instruments.epu.watch.watcher import Watcher, watched_root

logger = logging.getLogger(__name__)

POLL_S, DECIDE_S = 0.5, 2.0
"""Seconds between queries for results of processing, and between decisions."""
SILENCE_S = 180.0
"""Seconds without progress of the watcher after which there is an alarm; longer than a run takes to
begin, for which the watcher waits."""

Feed = Callable[[Path, threading.Event], None]
"""Writes into the directory until it is done or the event is set."""


@dataclass(frozen=True)
class OwnerOptions:
    """Where the tree is and where its database.

    Attributes
    ----------
    root
        The watched directory.
    database
        URL or file of the entity database.
    polling
        Seconds between scans; None uses the system's events.
    source
        Who writes the tree: ``epu``, ``replay``, ``sim``.
    lease
        Seconds without a sign of life of a session after which its runs are over.
    settings
        How micrographs are judged, who chooses the next square, and where paths are elsewhere.
    """

    root: Path
    database: str
    polling: float | None = None
    source: str = "epu"
    lease: float = LEASE_S
    settings: EpuSettings = field(default_factory=EpuSettings)


class EpuOwner(TreeOwner):
    """Watches a tree, records it, and hands rows to runs. `close` ends it.

    Parameters
    ----------
    options
        Where the tree and its database are, and what is decided by which rules.
    feed
        Writes the tree, for the sources that simulate or replay.
    processing
        Stands for the processing services: writes results into the database.
    """

    def __init__(
        self,
        options: OwnerOptions,
        feed: Feed | None = None,
        processing: Callable[[Database, threading.Event], None] | None = None,
    ) -> None:
        options.root.mkdir(parents=True, exist_ok=True)
        watched_root(options.root)  # before the database is made
        self.options = options
        self.database: Database = open_database(options.database, durable=False)
        watcher = Watcher(options.root, self.database, options.polling)
        self.grids = TrackedGrids(self.database, watcher.root, options.settings.path_map)
        super().__init__(TreeSource(watcher, options.source), endpoints=[self])
        wanted = options.settings
        self.sender = _sender(wanted)
        self.decider = Decider(
            self.database,
            watcher.root,
            make_policy(wanted.policy, wanted.move_holes),
            wanted.quality_parameters,
            wanted.late_s,
            self._suggested,
        )
        self.last_row_at = time.monotonic()
        self.feed_failure = ""
        self._stopped = threading.Event()
        jobs: dict[str, Callable[[], object]] = {
            "results": partial(
                self._repeat, POLL_S, self._poll, "results of processing are not handed over"
            ),
            "decisions": partial(self._repeat, DECIDE_S, self._decide, "no decision"),
        }
        if feed is not None:
            jobs["feed"] = partial(self._write, feed)
        if processing is not None:
            jobs["processing"] = partial(processing, self.database, self._stopped)
        self._threads = [
            threading.Thread(target=job, name=f"epu-{name}", daemon=True)
            for name, job in jobs.items()
        ]

    def start(self) -> None:
        """Begin to watch, and to write if there is a feed."""
        super().start()
        for thread in self._threads:
            thread.start()

    def offer(self, result: Outcome) -> None:
        """Hand the rows of a commit to the runs of the grids; the owner is its own endpoint."""
        self.last_row_at = time.monotonic()
        self.grids.committed(result)

    def _repeat(self, period: float, work: Callable[[], object], failure: str) -> None:
        """Do some work periodically; if it fails, the files are still recorded."""
        trouble = ""
        while not self._stopped.wait(period):
            try:
                work()
                trouble = ""
            except Exception as error:
                trouble = report_failure(failure, error, trouble)

    def _poll(self) -> None:
        """Look for results of processing, which other processes write into the database."""
        if self.grids.end_abandoned(self.options.lease):
            self.changed()
        if self.grids.poll():
            self.last_row_at = time.monotonic()
            self.changed()

    def _decide(self) -> None:
        """Rank squares and suggest what to take next, once all that was there has been read.

        Micrographs are read last. Until then, holes that have been taken look as if they were left.
        """
        if self.watcher.state.caught_up:
            self.decider.step()
            self.changed()

    def _suggested(self, grid: str, suggestion: Suggestion) -> None:
        if self.sender is not None:
            self.sender.send(grid, suggestion)

    def _write(self, feed: Feed) -> None:
        try:
            feed(self.watcher.root, self._stopped)
        except Exception as error:
            logger.exception("the simulated EPU has stopped")
            self.feed_failure = f"the simulated EPU has stopped: {error}"
            self.changed()

    def idle(self) -> float:
        """Return the seconds since the last commit, or the last results of processing."""
        return time.monotonic() - self.last_row_at

    def alarm(self) -> str:
        """Return what a person should look after, the most urgent first; empty: nothing."""
        return "; ".join(self._alarms())

    def _alarms(self) -> Iterator[str]:
        state, own, unlisted = self.watcher.state, self.state(), self.watcher.unlisted
        if self.feed_failure:
            yield self.feed_failure
        if own.alarm:
            yield own.message
        if self.grids.problem:
            yield self.grids.problem
        if self.grids.unreadable:
            yield self.grids.unreadable
        if "." in unlisted:
            yield f"{self.watcher.root}: {unlisted['.']}"
        if self.watcher.silence() > SILENCE_S:
            where = f"{self.watcher.root} or the database does not answer"
            yield f"nothing has been looked at for more than {SILENCE_S:g} s: {where}"
        if state.database_error:
            yield f"entity database: {state.database_error}"
        missing = self.watcher.sessions_missing
        if missing:
            yield f"EpuSession.dm is missing in {missing[0]}"
        if unreadable := state.unreadable - len(unlisted):
            yield f"{unreadable} unreadable files"
        if self.sender is not None and self.sender.problem:
            yield f"suggestions do not reach the API: {self.sender.problem}"
        if self.decider.troubles.late:
            late, limit = self.decider.troubles.late, self.options.settings.late_s
            yield f"{late} micrographs have waited more than {limit:g} s for their hole"
        if closed := [path for path in unlisted if path != "."]:  # last: it may be so for ever
            yield f"{closed[0]}: a directory or link that cannot be read"

    def status(self) -> dict[str, Any]:
        """Return grids and runs as the device reads them."""
        return {"grids": [asdict(grid) for grid in self.grids.grids()], "runs": self.grids.counts()}

    def close(self) -> None:
        """Stop watching, close the files of open runs and the database."""
        self._stopped.set()
        super().close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)
        if self.sender is not None:
            self.sender.close()
        self.grids.close()
        self.database.close()


def _sender(settings: EpuSettings) -> Any:
    if not settings.api_url:
        return None
    from skywright.instruments.epu.agent import ApiSettings
    from skywright.instruments.epu.agent.client import ApiClient
    from skywright.instruments.epu.decisions.control import InstructionSender

    if not settings.agent_session:
        raise ConfigError("[epu] api_url needs agent_session, the session of the agent")
    return InstructionSender(ApiClient(ApiSettings(settings.api_url)), settings.agent_session)
