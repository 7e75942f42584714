"""Ingest journals that are left, and write runs again that differ from the catalog."""

import logging
import math
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.callbacks.journal import SUFFIX, journal_path, uid_of
from skywright.errors import ConfigError, DataError
from skywright.files.hdf5_flags import clear_flags
from skywright.files.index import files_path
from skywright.files.readers import local_path, readers
from skywright.store.check import differences
from skywright.store.client import ANALYSIS, RAW, container_name, ensure_containers
from skywright.store.file_nodes import note_longer_files
from skywright.store.ingest import ServerUnavailableError
from skywright.store.ingester import BACK_OFF_S, Ingester, ingest_lock
from skywright.store.journal_contents import JournalContents
from skywright.store.moves import move_journal
from skywright.store.normalizer import NormalizedTail
from skywright.store.tail import is_locked, locked_if_dead
from skywright.waiting import back_off, pause

RETRY_S = 10.0
"""Time for which requests that fail are made again, s."""
WAIT_S = 120.0
"""Timeout for a running ingester to finish its next run, s."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecoveryReport:
    """What a recovery has changed, and what it could not."""

    finished: tuple[str, ...] = ()
    """Runs whose journals were left; they are complete in the catalog now."""
    restored: tuple[str, ...] = ()
    """Runs that had ended before and were missing or different in the catalog; they are written
    again."""
    flags_cleared: tuple[str, ...] = ()
    """HDF5 files that were still marked as open because their writer had died; now they are not."""
    aside: tuple[str, ...] = ()
    """Runs that cannot be written; their journals are in ``journal/aside``."""
    recording: tuple[str, ...] = ()
    """Runs that a living process is writing now."""
    failed: tuple[str, ...] = ()
    """Journals that could not be read, written, finished or renamed, each with the reason."""

    @property
    def changes(self) -> int:
        """Number of runs written and of files whose flags were cleared."""
        return len(self.finished) + len(self.restored) + len(self.flags_cleared)


def recover(directory: Path, client: Any) -> RecoveryReport:
    """Ingest what is left in the journals, and check all finished runs against the catalog.

    Parameters
    ----------
    directory
        The store. If an ingester runs on it, it writes the journals, and this call waits.
    client
        tiled's client of the root.

    Returns
    -------
    RecoveryReport
        A second call right after reports no changes.

    Raises
    ------
    ServerUnavailableError
        When the server cannot be reached for about 10 s while journals are written.
    httpx.HTTPError
        When a request fails that compares the catalog with the journals; it is not repeated.
    DataError
        When a running ingester does not finish a run within `WAIT_S`.
    """
    containers = dict(zip((RAW, ANALYSIS), ensure_containers(client), strict=True))
    journals = directory / "journal"
    files: set[Path] = set()
    failures: dict[Path, OSError] = {}
    restored = []
    for path in sorted((journals / "done").glob(f"*{SUFFIX}")):
        try:
            contents = contents_of(path)
        except OSError as error:
            failures[path] = error
            continue
        files |= _files(contents)
        if _differs(contents, containers) and _move(path, journals / path.name, failures):
            restored.append(uid_of(path))
    for path in (journals / "aside").glob(f"*{SUFFIX}"):
        _move(path, journals / path.name, failures)  # it may work by now
    waiting = _uids_in(journals)
    failures |= _drain(directory, client)
    # A journal that was moved since then has not failed, nor one that a living process writes
    failures = {path: failures[path] for path in sorted(failures) if _waits(path)}
    remaining = sorted(set(journals.glob(f"*{SUFFIX}*")) - failures.keys())
    done = _uids_in(journals / "done")
    finished = sorted((waiting & done) - set(restored))
    for uid in finished:
        path = journal_path(journals / "done", uid)
        try:
            files |= _files(contents_of(path))
        except OSError as error:
            failures[path] = error
    return RecoveryReport(
        finished=tuple(finished),
        restored=tuple(uid for uid in restored if uid in done),
        flags_cleared=tuple(str(file) for file in sorted(files) if _clear(file)),
        aside=tuple(sorted(_uids_in(journals / "aside"))),
        recording=tuple(uid_of(path) for path in remaining if is_locked(path)),
        failed=(
            *(f"{path}: {error}" for path, error in failures.items()),
            *(f"{path}: is not finished; try again" for path in remaining if _waits(path)),
        ),
    )


def _move(path: Path, target: Path, failures: dict[Path, OSError]) -> bool:
    """Move a journal; return False and add to `failures` if that is not possible."""
    try:
        move_journal(path, target)
    except OSError as error:
        failures[path] = error
        return False
    return True


def _waits(path: Path) -> bool:
    """Return whether a journal is still at `path`, and nobody writes it."""
    return path.exists() and not is_locked(path)


def _uids_in(directory: Path) -> set[str]:
    """Return the uids of the runs whose journals are in `directory`."""
    return set(map(uid_of, directory.glob(f"*{SUFFIX}*")))


def contents_of(path: Path) -> JournalContents:
    """Return the contents of a whole journal."""
    contents, tail = JournalContents(), NormalizedTail(path)
    while (lines := tail.read()) is not None:
        for line in lines:
            contents.add(line)
    if contents.stop is not None:
        note_longer_files(contents)
    return contents


def _differs(contents: JournalContents, containers: Mapping[str, Any]) -> bool:
    start = contents.start or {}
    try:
        run = containers[container_name(start)][start.get("uid", "")]
    except KeyError:
        found = ["the catalog does not have it"]
    else:
        found = differences(contents, run)
    if found:
        log.warning("run %s is written again: %s", start.get("uid"), "; ".join(found[:5]))
    return bool(found)


def _files(contents: JournalContents) -> set[Path]:
    """Return the files of a run that our recorders may have left open.

    They are files of columns, indices, and the list of files beside each index.
    """
    known = readers()
    paths = set()
    for resource in contents.resources.values():
        with suppress(DataError):  # no file of this machine
            if resource["mimetype"] in known:
                paths.add(local_path(resource["uri"]))
    return paths | {beside for beside in map(files_path, paths) if beside.exists()}


def _clear(path: Path) -> bool:
    """Clear the flags of a file whose writer is dead; return whether they were cleared."""
    try:
        return clear_flags(path)
    except OSError as error:
        log.warning("%s: its flags cannot be read or cleared: %s", path, error)
        return False


def _drain(directory: Path, client: Any) -> dict[Path, OSError]:
    """Write all journals, or wait until the running ingester has; return those that failed."""
    try:
        with ingest_lock(directory):
            ingester = Ingester(directory, client)
            end = time.monotonic() + WAIT_S
            while True:
                if _sweep(ingester):
                    continue
                if not ingester.is_retried_soon or time.monotonic() > end:
                    return ingester.failures
                pause(0.5)
    except ConfigError as error:
        log.info("%s; the running ingester writes the journals", error)
    end, fewest = 0.0, math.inf
    while left := [path for path in (directory / "journal").glob(f"*{SUFFIX}") if _ended(path)]:
        if len(left) < fewest:
            end, fewest = time.monotonic() + WAIT_S, len(left)
        if time.monotonic() > end:
            free_mb = shutil.disk_usage(directory).free / 1e6
            raise DataError(
                f"the running ingester has not finished {left[0]} in {WAIT_S:.0f} s; its disk has "
                f"{free_mb:.0f} MB free; look at {directory / 'logs' / 'ingester.log'}"
            )
        pause(0.1)
    return {}


def _sweep(ingester: Ingester) -> bool:
    """Make one sweep; repeat it with longer and longer pauses while the server is away."""
    end, delays = time.monotonic() + RETRY_S, back_off(BACK_OFF_S)
    while True:
        try:
            return ingester.sweep()
        except ServerUnavailableError as error:
            delay = next(delays)
            if time.monotonic() + delay > end:
                raise
            log.warning("%s; the next try is in %.1f s", error, delay)
        pause(delay)


def _ended(path: Path) -> bool:
    """Return whether nobody writes this journal any more; False if it cannot be opened."""
    try:
        with locked_if_dead(path) as dead:
            return dead
    except OSError:
        return False
