"""The process that writes journals to tiled: ``python -m skywright.store.ingester``."""

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from skywright.callbacks.journal import SUFFIX, TEMPORARY_SUFFIX, journal_path, uid_of
from skywright.config import Settings, load_settings
from skywright.errors import ConfigError, SkywrightError
from skywright.processes.lifecycle import (
    announce_ready,
    call_on_end_signal,
    end_with_parent,
    lower_priority,
)
from skywright.processes.locks import lock_with_pid
from skywright.processes.logs import named_level
from skywright.processes.supervisor import CONFIGURATION_ERROR
from skywright.store.client import connect, ensure_containers
from skywright.store.ingest import IngestState, RunIngest, ServerUnavailableError
from skywright.store.moves import move_journal
from skywright.store.run_nodes import CatalogServer
from skywright.store.tail import Tail, is_locked, locked_if_dead
from skywright.waiting import back_off, pause

SCAN_S = 1.0
"""Period of the directory scan if no file system event arrives, s."""
BACK_OFF_S = (0.1, 2.0)
"""First and longest pause before the next attempt to reach the server, s."""
OPEN_RUN_PERIOD_S, OPEN_RUN_PAUSE_FACTOR = 0.5, 4
"""While finished runs are queued, open runs get one step each per `OPEN_RUN_PERIOD_S`, s. The pause
between their steps is at least `OPEN_RUN_PAUSE_FACTOR` times the duration of the steps, so they
take at most 1/5 of the time."""
GRACE_S = 2.0
"""Time for a request in progress after SIGTERM, s."""

log = logging.getLogger(__name__)


@contextmanager
def ingest_lock(directory: Path) -> Iterator[None]:
    """Hold the lock that allows one ingester per store, in the with block.

    Raises
    ------
    ConfigError
        If another process holds the lock; the message has its pid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = lock_with_pid(directory / "ingest.lock", "catalog ingester")
    try:
        yield
    finally:
        os.close(descriptor)


def adopt_temporary(path: Path) -> None:
    """Rename the temporary journal of a dead writer; delete it if it has no start document."""
    with locked_if_dead(path) as dead:
        if not dead:
            return
        lines = Tail(path).read()
        if lines and lines[0].name == "start":
            move_journal(path, journal_path(path.parent, uid_of(path)))
        else:
            path.unlink()


class _JournalEvents(FileSystemEventHandler):
    def __init__(self, wake: threading.Event) -> None:
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "modified", "moved"):
            self._wake.set()


class Ingester:
    """Writes all journals of a store to tiled, while they grow.

    Parameters
    ----------
    directory
        The store.
    client
        tiled's client of the root.
    """

    def __init__(self, directory: Path, client: Any) -> None:
        self.journals = directory / "journal"
        self.journals.mkdir(parents=True, exist_ok=True)
        self.failures: dict[Path, OSError] = {}
        """Journals that could not be read, written or moved at the last try, with the reason."""
        self._catalog = CatalogServer(client)
        self._runs: dict[Path, RunIngest] = {}
        self._open_due = 0.0
        """Monotonic time, s, from which open runs take steps although finished runs are queued."""

    def sweep(self) -> bool:
        """Write new documents of the oldest finished run, and of the open runs.

        A run is finished when its writer holds no lock, with or without a stop document. Finished
        runs are written in the order of their start times. While some are queued, open runs wait
        (`OPEN_RUN_PERIOD_S`).

        Returns
        -------
        bool
            False when there was nothing to do.

        Raises
        ------
        ServerUnavailableError
            When the server cannot be reached.
        """
        due = time.monotonic() >= self._open_due
        busy = False
        open_runs = []
        for run in self._scan_journals():
            if is_locked(run.path):
                open_runs.append(run)
            elif not busy:
                busy = self._step(run)
            if busy and not due:
                return True
        begin = time.monotonic()
        for run in open_runs:
            busy |= self._step(run)
        now = time.monotonic()
        self._open_due = now + max(OPEN_RUN_PERIOD_S, OPEN_RUN_PAUSE_FACTOR * (now - begin))
        return busy

    @property
    def is_retried_soon(self) -> bool:
        """Whether a run that has ended is tried again after a pause (`RunIngest`)."""
        return any(run.is_retried_soon and not is_locked(run.path) for run in self._runs.values())

    def _scan_journals(self) -> list[RunIngest]:
        """Find new and removed journals; return the runs that are not done, oldest first."""
        for path in self.journals.glob(f"*{TEMPORARY_SUFFIX}"):
            with self._noting_failures(path):
                adopt_temporary(path)
        paths = set(self.journals.glob(f"*{SUFFIX}"))
        for gone in set(self._runs) - paths:
            del self._runs[gone]
        self.failures = {path: error for path, error in self.failures.items() if path.exists()}
        for path in paths - set(self._runs):
            with self._noting_failures(path):
                self._runs[path] = RunIngest(path, self._catalog)
        return sorted(self._runs.values(), key=lambda run: run.start_time)

    def _step(self, run: RunIngest) -> bool:
        """Take a step with one run; return False if there was nothing to do."""
        state = IngestState.IDLE
        with self._noting_failures(run.path):
            state = run.step()
        if state in (IngestState.DONE, IngestState.ASIDE):
            del self._runs[run.path]
        return state is not IngestState.IDLE

    @contextmanager
    def _noting_failures(self, path: Path) -> Iterator[None]:
        """Note in `failures` why a journal cannot be handled; the with block ends then."""
        before = self.failures.pop(path, None)
        try:
            yield
        except FileNotFoundError:  # renamed by its writer, or moved by a recovery
            pass
        except OSError as error:
            if str(error) != str(before):
                log.error("%s: will be retried: %s", path, error)
            self.failures[path] = error


def observer_of(journals: Path, wake: threading.Event) -> BaseObserver:
    """Return an observer, not started, that sets `wake` when a journal is made, moved or written.

    It watches the directory ``done`` too. The ingester moves each finished journal there. If the
    target of a move is not watched, watchdog waits 0.5 s for it and delays all later events, so
    that the next run is noticed late.
    """
    with suppress(OSError):  # the move of the first journal says what is wrong
        (journals / "done").mkdir(exist_ok=True)
    observer = Observer()
    observer.schedule(_JournalEvents(wake), str(journals), recursive=True)
    return observer


def run_until(ingester: Ingester, stop: threading.Event) -> None:
    """Write journals to tiled as they grow, until `stop` is set."""
    wake = threading.Event()
    observer = observer_of(ingester.journals, wake)
    try:
        observer.start()
    except OSError as error:  # too many of this user's programs watch files
        log.warning(
            "%s: no file system events (%s); the directory is scanned every %g s",
            ingester.journals,
            error,
            SCAN_S,
        )

    def wake_at_stop() -> None:
        stop.wait()
        wake.set()

    threading.Thread(target=wake_at_stop, name="wake", daemon=True).start()
    delays = back_off(BACK_OFF_S)
    while not stop.is_set():
        wake.clear()
        try:
            busy = ingester.sweep()
        except ServerUnavailableError as error:
            delay = next(delays)
            log.warning("%s; the next try is in %.1f s", error, delay)
            stop.wait(delay)
            continue
        delays = back_off(BACK_OFF_S)
        if not busy:
            wake.wait(SCAN_S)
    if observer.is_alive():
        observer.stop()


def _connect_with_retry(uri: str | None, settings: Settings, stop: threading.Event) -> Any:
    """Connect to tiled, with retries; return None if `stop` is set first."""
    for delay in back_off(BACK_OFF_S):
        try:
            client = connect(uri, settings=settings)
            ensure_containers(client)
            return client
        except (ConfigError, httpx.HTTPError) as error:
            log.warning("%s; the next try is in %.1f s", error, delay)
        if stop.wait(delay):
            break
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ingester from the command line; defaults come from the configuration."""
    end_with_parent()
    lower_priority()
    logging.basicConfig(level=named_level(logging.WARNING))
    try:
        _ingest_until_signal(argv)
    except SkywrightError as error:
        log.error("%s", error)
        return CONFIGURATION_ERROR
    return 0


def _ingest_until_signal(argv: Sequence[str] | None) -> None:
    settings = load_settings()
    parser = argparse.ArgumentParser(prog="skywright.store.ingester", description=__doc__)
    parser.add_argument("--directory", type=Path, default=settings.directory, help="the store")
    parser.add_argument("--uri", help="tiled's address; default: the configured or running one")
    options = parser.parse_args(argv)
    stop = threading.Event()

    def end_in_time() -> None:
        """End soon, even in the middle of a slow request.

        This is safe: the next ingester writes incomplete runs from their first line on.
        """
        stop.set()
        pause(GRACE_S)
        log.info("a request in progress is abandoned")
        os._exit(0)

    call_on_end_signal(end_in_time)
    store = settings.store.model_copy(update={"directory": options.directory})
    settings = settings.model_copy(update={"store": store})
    directory = settings.directory
    with ingest_lock(directory):
        announce_ready(directory=str(directory))
        client = _connect_with_retry(options.uri, settings, stop)
        if client is not None:
            run_until(Ingester(directory, client), stop)


if __name__ == "__main__":
    sys.exit(main())
