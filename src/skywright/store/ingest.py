"""Writes one journal to tiled: live, after a restart, and in `recover`.

``docs/explanations/store.md`` describes the path of a document through the classes of the store.
"""

import logging
import time
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any

import httpx

from skywright.errors import SkywrightError
from skywright.store import repair
from skywright.store.check import differences
from skywright.store.file_nodes import note_longer_files
from skywright.store.journal_contents import JournalContents
from skywright.store.line_writer import LineWriter
from skywright.store.moves import move_journal
from skywright.store.normalizer import NormalizedTail
from skywright.store.probe import REFUSED_STATUS, takes_writes
from skywright.store.run_nodes import CatalogServer, RunExistsError
from skywright.store.tail import Line, locked_if_dead, start_time
from skywright.store.tiled_writer import RunWriter

ATTEMPTS = 3
"""Number of failures after which a finished run is put aside and an open one is postponed, if the
server accepts other writes. After errors of the server (HTTP 5xx) the number is larger: the pauses
between the attempts become longer, up to `LONGEST_PAUSE_S`. Also the number of unanswered requests
after which any run is postponed."""
FULL_WRITE_PAUSE_FACTOR = 4
"""Pause before the next full write, in units of the duration of the last one (limits full writes to
1/5 of the time). No pause after the stop document."""
UNANSWERED = (
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)
"""Errors of a request that had no answer; the server may have executed it."""
UNFINISHED_S = 60.0
"""A file without a start document is put aside when its writer is dead. If it ends in the middle
of a line, the last write must also be this time ago, s."""
POSTPONED_S = 60.0
"""Pause of a run that is postponed (`ATTEMPTS`), s. Other runs are written."""
LONGEST_PAUSE_S = 8.0
"""Longest pause between two attempts after errors of the server, s."""
PROXY_STATUS = {502, 503, 504}
"""Answers of a proxy for a server that does not answer."""
RETRY_LATER_STATUS = PROXY_STATUS | {429}
"""Answers after which the same request may succeed later."""

log = logging.getLogger(__name__)


class IngestState(Enum):
    """State of the ingest of a journal."""

    MORE = "more to write, or to try again"
    IDLE = "nothing to write now"
    DONE = "complete in the catalog"
    ASIDE = "cannot be written"


class ServerUnavailableError(SkywrightError):
    """The server does not answer or accepts no writes; try again later."""


class MismatchError(SkywrightError):
    """The catalog differs from the journal."""


def ingest(path: Path, client: Any) -> IngestState:
    """Write a journal to tiled until its end, for tests and scripts.

    The ingester calls `RunIngest.step` of many journals in turn.

    Parameters
    ----------
    path
        The journal; a finished one moves to ``done`` beside it.
    client
        tiled's client of the root.

    Returns
    -------
    IngestState
        `IngestState.IDLE` if the run is still open, or is postponed; else `IngestState.DONE` or
        `IngestState.ASIDE`.

    Raises
    ------
    ServerUnavailableError
        When the server does not answer or accepts no writes; call again later.
    OSError
        As for `RunIngest.step`; call again.
    """
    run = RunIngest(path, CatalogServer(client))
    while (state := run.step()) is IngestState.MORE:
        pass
    return state


class RunIngest:
    """The ingest of one journal in steps; each step writes the documents that have arrived.

    A step reads new lines into `contents`, then writes them. The first write of a run is a full
    write, which sends all lines from the first one on; so is the next write after rows have changed
    or a request has failed. A full write reads the journal again, with a `NormalizedTail` and a
    `LineWriter` of its own. `JournalContents.add` and `LineWriter._write` count
    the same normalized lines: `JournalContents.left_out` and `Stream.line_of` have their numbers.

    Parameters
    ----------
    path
        See `ingest`.
    catalog
        The server.

    Raises
    ------
    OSError
        If the journal cannot be read: `FileNotFoundError` if it is not there.
    """

    def __init__(self, path: Path, catalog: CatalogServer) -> None:
        self.path = path
        self.start_time = start_time(path)
        """Start time of the run, Unix s."""
        self.contents = JournalContents()
        self._catalog = catalog
        self._tail = NormalizedTail(path)
        self._line_writer: LineWriter | None = None
        self._full_write: NormalizedTail | None = None
        """Place in the journal of a full write in progress."""
        self._has_node = False  # True: we have made its node, or the server says it is there
        self._must_verify = False  # True: the catalog may lack something that was written
        self._failures = 0
        self._unanswered = 0
        self._postponed_until = 0.0  # no step does anything before this time
        self._full_write_allowed_at = 0.0  # no full write begins before, while the run is open

    def step(self) -> IngestState:
        """Write the documents that have arrived since the last step.

        Raises
        ------
        ServerUnavailableError
            When the server does not answer or accepts no writes; the next step tries again.
        OSError
            If the journal cannot be read or moved, or a virtual file in ``assets/kept`` cannot be
            written; the next step goes on where this one has stopped.
        """
        if time.monotonic() < self._postponed_until:
            return IngestState.IDLE
        try:
            return self._step()
        except OSError:
            raise
        except Exception as error:  # an error in one run must not stop the others
            self._line_writer = self._full_write = None
            if isinstance(error, httpx.HTTPError):
                self._catalog.forget_containers()
                self._raise_if_unavailable(error)
            if isinstance(error, RunExistsError) and not self._has_node:
                self._has_node = True
                return IngestState.MORE
            return self._failed(error)

    def _raise_if_unavailable(self, error: httpx.HTTPError) -> None:
        """Raise `ServerUnavailableError` if the same request may succeed later.

        Count the request if this run may be the reason; `ATTEMPTS` such requests postpone the run.
        """
        status = getattr(getattr(error, "response", None), "status_code", None)
        only_this_run = status in PROXY_STATUS and takes_writes(self._catalog.client)
        if isinstance(error, UNANSWERED) or only_this_run:
            self._postpone_if_it_repeats()
        refused = status in REFUSED_STATUS and not takes_writes(self._catalog.client)
        if status is None or status in RETRY_LATER_STATUS or refused:
            raise ServerUnavailableError(f"tiled: {error}") from error

    def _step(self) -> IngestState:
        if self._full_write and self._line_writer:  # read no new lines: they may change rows again
            return self._continue_full_write(self._full_write, self._line_writer)
        end = self.path.stat().st_size
        lines = self._read_new_lines()
        # Before a full write, read all that the journal has
        while lines is not None and self._tail.offset < end and self._needs_full_write():
            lines = self._read_new_lines()
        start, line_writer = self.contents.start, self._line_writer
        if start is None:
            return self._without_start()
        if line_writer is None or line_writer.needs_full_write():
            return self._begin_full_write(start)
        if lines or line_writer.is_due():
            line_writer.write(lines or [])
            # Not reset after a part of a full write, because a later part may fail; nor after the
            # stop document, because `_finish` may fail
            if self.contents.stop is None:
                self._failures = self._unanswered = 0
        if self.contents.stop is not None:
            return self._finish(line_writer, start)
        return self._close_if_interrupted() if lines is None else IngestState.MORE

    def _read_new_lines(self) -> list[Line] | None:
        """Read a chunk of the journal, as `NormalizedTail.read`, into `contents`."""
        lines = self._tail.read()
        for line in lines or ():
            self.contents.add(line)
        if lines and self.contents.stop is not None:
            note_longer_files(self.contents)
        return lines

    def _needs_full_write(self) -> bool:
        return self._line_writer is None or self._line_writer.needs_full_write()

    def _begin_full_write(self, start: dict[str, Any]) -> IngestState:
        """Begin a full write into a new node, or into the one that the catalog has, emptied.

        Nothing is written if the catalog already has the complete run.
        """
        if self.contents.stop is None and time.monotonic() < self._full_write_allowed_at:
            return IngestState.IDLE
        run_writer = RunWriter(self._catalog, start)
        existing = self._existing(start)
        if existing is not None:
            both_ended = self.contents.stop is not None and existing.metadata.get("stop")
            if both_ended and not differences(self.contents, existing):
                self._archive("done")
                return IngestState.DONE
            self._must_verify = True
            run_writer.take_over()
        assets = self.path.parent.parent / "assets"  # beside the directory of the journals
        self._line_writer = LineWriter(run_writer, self._catalog, self.contents, assets)
        self._full_write = NormalizedTail(self.path)
        return self._continue_full_write(self._full_write, self._line_writer)

    def _existing(self, start: dict[str, Any]) -> Any:
        """Return the client of the run; None if it is not known to be there (`_has_node`)."""
        if self._has_node:
            with suppress(KeyError):  # deleted by somebody
                return self._catalog.container_of(start)[start["uid"]]
        return None

    def _continue_full_write(self, tail: NormalizedTail, line_writer: LineWriter) -> IngestState:
        """Write the next chunk of the journal, up to the lines that are in `contents`."""
        lines = tail.read(self._tail.offset) or []
        ends = tail.offset == self._tail.offset
        # Update the nodes at its end: if the next line changes rows, nothing is written until the
        # next full write
        line_writer.write(lines, updates_nodes=ends)
        self._has_node = True
        if ends:
            now = time.monotonic()
            duration = now - line_writer.began_monotonic
            self._full_write_allowed_at = now + FULL_WRITE_PAUSE_FACTOR * duration
            self._full_write = None
        return IngestState.MORE

    def _finish(self, line_writer: LineWriter, start: dict[str, Any]) -> IngestState:
        line_writer.close()
        if self._must_verify:
            found = differences(self.contents, self._catalog.container_of(start)[start["uid"]])
            if found:
                raise MismatchError(f"{self.path}: {'; '.join(found[:5])}")
        self._archive("done")
        return IngestState.DONE

    def _archive(self, where: str) -> None:
        """Move the journal to the directory `where` beside the open journals."""
        move_journal(self.path, self.path.parent / where / self.path.name)

    def _close_if_interrupted(self) -> IngestState:
        """Add a stop document to the journal if its writer is dead; return `MORE` then."""
        ended = repair.close_interrupted_run(self.path, self._tail.offset, self.contents)
        return IngestState.MORE if ended else IngestState.IDLE

    def _without_start(self) -> IngestState:
        """Move a file that has no start document to ``aside``, after its writer has ended."""
        with locked_if_dead(self.path) as dead:
            file = self.path.stat()
            is_growing = time.time() - file.st_mtime < UNFINISHED_S
            if not dead or (file.st_size > self._tail.offset and is_growing):
                return IngestState.IDLE
        log.error("%s: has no start document; it is kept in journal/aside", self.path)
        self._archive("aside")
        return IngestState.ASIDE

    def _failed(self, error: Exception) -> IngestState:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
        is_of_server = status >= httpx.codes.INTERNAL_SERVER_ERROR
        is_last = self._failures + 1 >= ATTEMPTS
        if (is_of_server or is_last) and not takes_writes(self._catalog.client):
            raise ServerUnavailableError(f"tiled takes no data at present: {error}") from error
        log.warning("%s: attempt %d: %s", self.path.name, self._failures + 1, error, exc_info=error)
        pause_s = 2.0 ** min(self._failures, 10)  # an open run may fail for days
        self._failures += 1
        if is_of_server and 1.0 < pause_s <= LONGEST_PAUSE_S:
            self._postpone(f"tiled answers {status}", pause_s)
            return IngestState.IDLE
        return self._give_up(error) if is_last else IngestState.MORE

    @property
    def is_retried_soon(self) -> bool:
        """Whether it is tried again after a pause because the server has answered an error."""
        return self._failures > 0 and time.monotonic() < self._postponed_until

    def _postpone_if_it_repeats(self) -> None:
        """Postpone this run if it may be the reason why the server does not answer."""
        self._unanswered += 1
        if self._unanswered >= ATTEMPTS:
            self._postpone(f"tiled has not answered {ATTEMPTS} requests", POSTPONED_S)
            self._unanswered = 0

    def _postpone(self, why: str, pause_s: float) -> None:
        """Let other runs go first for a time, s."""
        self._postponed_until = time.monotonic() + pause_s
        log.warning("%s: %s; the next try is in %.0f s", self.path, why, pause_s)

    def _give_up(self, error: Exception) -> IngestState:
        """Put a finished run aside; postpone an open one, whose stop document ends the pause."""
        if self.contents.stop is None:
            state = self._close_if_interrupted()
            self._full_write_allowed_at = time.monotonic() + POSTPONED_S
            return state
        reason = f"this run cannot be written, its journal is kept in journal/aside: {error}"
        log.error("%s: %s", self.path, reason)
        _mark_unwritable(self._catalog, self.contents, reason)
        self._archive("aside")
        return IngestState.ASIDE


def _mark_unwritable(catalog: CatalogServer, contents: JournalContents, reason: str) -> None:
    """Close a run that cannot be written, with the reason in its notes."""
    if contents.start is None or "uid" not in contents.start:
        return
    # Its specs and access tags may be the reason
    start = {key: value for key, value in contents.start.items() if not key.startswith("tiled_")}
    try:
        run_writer = RunWriter(catalog, start)
        try:
            run_writer.send()
        except RunExistsError:
            run_writer.take_over()
        run_writer.stop(contents.stop or {}, [*contents.notes, reason])
    except Exception:
        log.exception("%s: the start document cannot be stored either", contents.start["uid"])
