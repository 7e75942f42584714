"""The process that brings journals into tiled: ``python -m skywright.store.ingester``."""

import argparse
import fcntl
import logging
import os
import signal
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

from skywright.callbacks.journal import SUFFIX, UNBORN
from skywright.config import Settings, load_settings
from skywright.errors import ConfigError, SkywrightError
from skywright.processes.process import announce_ready, end_with_parent, stand_back
from skywright.store.client import connect, ensure_containers
from skywright.store.ingest import AwayError, Catalog, RunIngest, State
from skywright.store.tail import Tail, is_locked, locked_if_dead

SCAN_S = 1.0
"""Journals are looked at this often even when the file system says nothing."""
BACK_OFF_S = (0.1, 2.0)
LIVE_S = 0.5
"""While runs that have ended wait, those that go on are brought forward this often."""
GRACE_S = 2.0
"""A request under way gets this long after SIGTERM."""

log = logging.getLogger(__name__)


@contextmanager
def only_ingester(directory: Path) -> Iterator[None]:
    """Hold the store's ingest lock.

    Raises
    ------
    ConfigError
        When another process has it, with its pid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "ingest.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise ConfigError(
                f"{directory}: process {pid} ingests this store already; stop it first"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def adopt_unborn(path: Path) -> None:
    """Give a journal its name whose writer died before it could.

    Without a whole start document nothing was recorded, and the file goes.
    """
    with locked_if_dead(path) as dead:
        if not dead:
            return
        lines = Tail(path).read()
        if lines and lines[0].name == "start":
            path.rename(path.with_name(path.name.removesuffix(UNBORN) + SUFFIX))
        else:
            path.unlink()


class _Wake(FileSystemEventHandler):
    def __init__(self, news: threading.Event) -> None:
        self._news = news

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "modified", "moved"):
            self._news.set()


class Ingester:
    """Follow all journals of a store.

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
        self._catalog = Catalog(client)
        self._runs: dict[Path, RunIngest] = {}
        self._live_due = 0.0

    def sweep(self) -> bool:
        """Take a step with the oldest run that has ended, and one with each that goes on.

        So runs end in the order in which they began; while any waits, those that go on get their
        step every `LIVE_S` only.

        Returns
        -------
        bool
            False when there was nothing to do.

        Raises
        ------
        AwayError
            When the server cannot be reached.
        """
        due = time.monotonic() >= self._live_due
        busy = False
        live = []
        for run in self._followed():
            if is_locked(run.path):
                live.append(run)
            elif not busy:
                busy = self._step(run)
            if busy and not due:
                return True
        self._live_due = time.monotonic() + LIVE_S
        for run in live:
            busy |= self._step(run)
        return busy

    def _followed(self) -> list[RunIngest]:
        """Return the runs that are not done, oldest first."""
        for path in self.journals.glob(f"*{UNBORN}"):
            with suppress(FileNotFoundError):  # renamed by its writer
                adopt_unborn(path)
        paths = set(self.journals.glob(f"*{SUFFIX}"))
        for gone in set(self._runs) - paths:
            del self._runs[gone]
        for path in paths - set(self._runs):
            with suppress(FileNotFoundError):  # moved by a recovery
                self._runs[path] = RunIngest(path, self._catalog)
        return sorted(self._runs.values(), key=lambda run: run.began)

    def _step(self, run: RunIngest) -> bool:
        """Take a step with one run; False when there was nothing to do."""
        try:
            state = run.step()
        except FileNotFoundError:  # moved by a recovery
            return False
        except OSError as error:
            log.error("%s: is tried again: %s", run.path, error)
            return False
        if state in (State.DONE, State.ASIDE):
            del self._runs[run.path]
        return state is not State.WAITING


def follow(ingester: Ingester, stop: threading.Event) -> None:
    """Bring journals into tiled as they grow until `stop` is set."""
    news = threading.Event()
    observer = Observer()
    observer.schedule(_Wake(news), str(ingester.journals))
    observer.start()

    def wake_at_stop() -> None:
        stop.wait()
        news.set()

    threading.Thread(target=wake_at_stop, name="wake", daemon=True).start()
    delay = BACK_OFF_S[0]
    while not stop.is_set():
        news.clear()
        try:
            busy = ingester.sweep()
            delay = BACK_OFF_S[0]
        except AwayError as error:
            log.warning("%s; the next try is in %.1f s", error, delay)
            stop.wait(delay)
            delay = min(2 * delay, BACK_OFF_S[1])
            continue
        if not busy:
            news.wait(SCAN_S)
    observer.stop()


def _end_in_time(stop: threading.Event) -> None:
    """End the process soon after `stop`, even in the middle of a slow request.

    That is as good as ending in peace: the next ingester replays what is not whole.
    """
    stop.wait()
    threading.Event().wait(GRACE_S)
    log.info("the request under way is not waited for")
    os._exit(0)


def _connect_patiently(uri: str | None, settings: Settings, stop: threading.Event) -> Any:
    """Connect when there is somebody to connect to; None when stopped before."""
    delay = BACK_OFF_S[0]
    while not stop.is_set():
        try:
            client = connect(uri, settings=settings)
            ensure_containers(client)
            return client
        except (ConfigError, httpx.HTTPError) as error:
            log.warning("%s; the next try is in %.1f s", error, delay)
        stop.wait(delay)
        delay = min(2 * delay, BACK_OFF_S[1])
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ingester from the command line; defaults come from the configuration."""
    end_with_parent()
    stand_back()
    settings = load_settings()
    parser = argparse.ArgumentParser(prog="skywright.store.ingester", description=__doc__)
    parser.add_argument("--directory", type=Path, default=settings.directory, help="the store")
    parser.add_argument("--uri", help="tiled's address; default: the configured or running one")
    options = parser.parse_args(argv)
    logging.basicConfig(level=os.environ.get("SKYWRIGHT_LOG_LEVEL", "WARNING"))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_end_in_time, args=(stop,), name="end", daemon=True).start()
    store = settings.store.model_copy(update={"directory": options.directory})
    settings = settings.model_copy(update={"store": store})
    directory = settings.directory
    try:
        with only_ingester(directory):
            announce_ready(directory=str(directory))
            client = _connect_patiently(options.uri, settings, stop)
            if client is not None:
                follow(Ingester(directory, client), stop)
    except SkywrightError as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
