"""One journal into tiled: live, after a restart and at recovery by the same function."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import httpx
from tiled.client.utils import ClientError

from skywright.callbacks.journal import fsync_directory
from skywright.errors import DataError, SkywrightError
from skywright.store import repair
from skywright.store.check import differences
from skywright.store.client import ANALYSIS, RAW
from skywright.store.frames import sources
from skywright.store.modern import Modern
from skywright.store.probe import takes_writes
from skywright.store.rows import InOrder, as_row, stored_data_keys, type_notes
from skywright.store.survey import Stream, Survey
from skywright.store.table_adapter import MIMETYPE
from skywright.store.tail import Line, Tail, locked_if_dead, start_time
from skywright.store.tiled_writer import RunWriter, StreamWriter

ATTEMPTS = 3
"""Failures of one run, while others can be written, before it is put aside."""
REPLAY_SHARE = 4
"""After a replay the next one waits this many times as long as the last one took, so a run that
is doubted again and again takes a fifth of the time at most; at its end it never waits."""
NOT_THERE = {401, 403, 429, 502, 503, 504}
UPDATE_S = (1.0, 5.0)
"""Arrays of a run that goes on are made longer in tiled when the run is twice as old as at the last
time, but no sooner and no later than this. Tables are always up to date."""

log = logging.getLogger(__name__)


class State(Enum):
    """Where the ingest of a journal stands."""

    MORE = "more to write"
    WAITING = "waits for its writer"
    DONE = "in the catalog, whole"
    ASIDE = "cannot be written"


class AwayError(SkywrightError):
    """The server does not answer, or does not take anything from anybody: try later."""


class MismatchError(SkywrightError):
    """What was written is not what the catalog shows."""


class Catalog:
    """The server's containers of runs, and what it can do; looked up once.

    Parameters
    ----------
    client
        tiled's client of the root.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.tables = True
        """False once the server has said that it has no adapter for tables of columns."""
        self._containers: dict[str, Any] = {}

    def container(self, name: str) -> Any:
        """Return the client of ``raw`` or ``analysis``."""
        if name not in self._containers:
            self._containers[name] = self.client[name].include_data_sources()
        return self._containers[name]


def ingest(path: Path, client: Any) -> State:
    """Bring one journal into tiled as far as it goes, whatever is there of it already.

    Parameters
    ----------
    path
        The journal; a finished one moves to ``done`` beside it.
    client
        tiled's client of the root.

    Raises
    ------
    AwayError
        When the server cannot be reached; nothing is lost, call again later.
    """
    run = RunIngest(path, Catalog(client))
    while (state := run.step()) is State.MORE:
        pass
    return state


class RunIngest:
    """The ingest of one journal, step by step; each step commits what has gathered.

    Parameters
    ----------
    path
        See `ingest`.
    catalog
        The server.
    """

    def __init__(self, path: Path, catalog: Catalog) -> None:
        self.path = path
        self.began = start_time(path)
        """When the run began, unix s."""
        self.survey = Survey()
        self._catalog = catalog
        self._tail = Tail(path)
        self._modern = Modern()
        self._target: _Target | None = None
        self._behind: _Replay | None = None
        self._doubtful = False  # whether all that was written is in the catalog
        self._failures = 0
        self._not_before = 0.0

    def step(self) -> State:
        """Write what has gathered since the last step.

        Raises
        ------
        AwayError
            When the server cannot be reached; the next step tries again.
        """
        try:
            state = self._step()
        except httpx.HTTPError as error:
            self._target = None
            self._doubtful = True
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is None or status in NOT_THERE:
                raise AwayError(f"tiled: {error}") from error
            return self._failed(error)
        except OSError:
            raise
        except Exception as error:  # whatever this run is, the others go on
            self._target = None
            self._doubtful = True
            return self._failed(error)
        if self.survey.stop is None and self._behind is None:
            self._failures = 0
        return state

    def _step(self) -> State:
        end = self.path.stat().st_size
        lines = self._look()
        while self._stale() and self._tail.offset < end and self._look():
            pass
        if self.survey.start is None:
            return self._without_start()
        if self._stale():
            if self.survey.stop is None and time.monotonic() < self._not_before:
                return State.WAITING
            if not self._begin_replay():
                return self._archive("done")
        if self._behind is not None:
            self._catch_up()
            return State.MORE
        if lines and self._target is not None:
            self._target.write(lines)
        if self.survey.stop is not None:
            return self._finish()
        return State.MORE if lines else self._end_if_dead()

    def _look(self) -> list[Line]:
        lines = [new for line in self._tail.read() for new in self._modern(line)]
        for line in lines:
            self.survey.add(line)
        return lines

    def _stale(self) -> bool:
        return self._target is None or self._target.is_stale()

    @property
    def _container(self) -> Any:
        start = self.survey.start or {}
        return self._catalog.container(ANALYSIS if start.get("purpose") == "analysis" else RAW)

    def _begin_replay(self) -> bool:
        """Make the run's node; False if somebody before us has written all of the run."""
        self._target = self._behind = None
        assert self.survey.start is not None
        writer = RunWriter(self._container, self.survey.start)
        there = writer.create()
        if there is not None:
            ended = self.survey.stop is not None and there.metadata.get("stop")
            if ended and not differences(self.survey, there):
                return False
            self._doubtful = True
            writer.clear()
        self._behind = _Replay(time.monotonic(), Tail(self.path), Modern())
        assets = self.path.parent.parent / "assets"
        self._target = _Target(writer, self._catalog, self.survey, assets)
        return True

    def _catch_up(self) -> None:
        """Write the next part of what was looked at before, so that other runs get their turn."""
        assert self._behind is not None
        assert self._target is not None
        lines = self._behind.tail.read(self._tail.offset)
        self._target.write([new for line in lines for new in self._behind.modern(line)])
        if self._behind.tail.offset == self._tail.offset:
            now = time.monotonic()
            self._not_before = now + REPLAY_SHARE * (now - self._behind.began)
            self._behind = None

    def _finish(self) -> State:
        assert self._target is not None
        assert self.survey.start is not None
        self._target.close()
        if self._doubtful:
            found = differences(self.survey, self._container[self.survey.start["uid"]])
            if found:
                raise MismatchError(f"{self.path}: {'; '.join(found[:5])}")
        return self._archive("done")

    def _archive(self, where: str) -> State:
        directory = self.path.parent / where
        directory.mkdir(exist_ok=True)
        self.path.rename(directory / self.path.name)
        fsync_directory(directory)
        fsync_directory(self.path.parent)
        return State.DONE

    def _end_if_dead(self) -> State:
        ended = repair.end_if_dead(self.path, self._tail.offset, self.survey)
        return State.MORE if ended else State.WAITING

    def _without_start(self) -> State:
        """Put aside a file that is no journal, when nobody writes it any more."""
        with locked_if_dead(self.path) as dead:
            if not dead or self.path.stat().st_size > self._tail.offset:
                return State.WAITING
        log.error("%s: has no start document; it is kept in journal/aside", self.path)
        self._archive("aside")
        return State.ASIDE

    def _failed(self, error: Exception) -> State:
        self._failures += 1
        log.warning("%s: attempt %d: %s", self.path.name, self._failures, error, exc_info=error)
        if self._failures < ATTEMPTS:
            return State.MORE
        try:
            healthy = takes_writes(self._catalog.client)
        except httpx.HTTPError:
            healthy = False
        if not healthy:
            raise AwayError(f"tiled takes no data at present: {error}") from error
        return self._put_aside(error)

    def _put_aside(self, error: Exception) -> State:
        if self.survey.stop is None:
            ended = self._end_if_dead()
            self._not_before = time.monotonic() + 60.0
            return ended
        reason = f"this run cannot be written, its journal is kept in journal/aside: {error}"
        log.error("%s: %s", self.path, reason)
        _mark_unwritable(self._container, self.survey, reason)
        self._archive("aside")
        return State.ASIDE


@dataclass(frozen=True)
class _Replay:
    """How far the lines looked at have been written again."""

    began: float
    tail: Tail
    modern: Modern


class _Target:
    """A run on its way into tiled, from its first line."""

    def __init__(self, writer: RunWriter, catalog: Catalog, survey: Survey, assets: Path) -> None:
        self._writer = writer
        self._catalog = catalog
        self._survey = survey
        self._assets = assets
        self._revisions: dict[str, int] = {}
        self._order: dict[str, InOrder] = {}
        self._descriptors: dict[str, list[dict[str, Any]]] = {}
        self._shown: dict[str, int] = {}  # data keys with files that have a node, by stream
        self._began = time.monotonic()
        self._updated = 0.0

    def is_stale(self) -> bool:
        """Tell whether what was written is not right any more."""
        streams = self._survey.streams
        return any(streams[name].revision != rev for name, rev in self._revisions.items())

    def write(self, lines: Iterable[Line]) -> None:
        """Write lines that the survey knows already; arrays follow a little later."""
        for line in lines:
            self._write(line)
        now = time.monotonic()
        earliest, latest = UPDATE_S
        age = self._updated - self._began
        due = self._survey.stop is None and now - self._updated >= min(max(age, earliest), latest)
        for name, writer in self._writer.streams.items():
            stream = self._survey.streams[name]
            data_keys = stored_data_keys(stream)
            writer.send_rows(data_keys)
            if due or len(stream.frames) > self._shown.get(name, 0):
                writer.send_arrays(data_keys)
                self._show_files(writer, stream, data_keys)
                self._shown[name] = len(stream.frames)
        if due:
            self._updated = now

    def close(self) -> None:
        """Write all that is left, the stop document and the remarks."""
        for stream in self._survey.streams.values():
            self._open(stream)
            writer = self._writer.streams[stream.name]
            data_keys = stored_data_keys(stream)
            writer.send_rows(data_keys)
            writer.send_arrays(data_keys)
            self._show_files(writer, stream, data_keys)
            for note in type_notes(stream):
                self._survey.note(note)
        survey = self._survey
        self._writer.stop(survey.stop or {}, survey.notes, survey.unreadable)

    def _write(self, line: Line) -> None:
        name, doc = line.name, line.doc
        if name == "descriptor":
            self._descriptors.setdefault(doc["name"], []).append(doc)
            if doc["name"] in self._revisions:
                self._open(self._survey.streams[doc["name"]])
        elif name == "event":
            stream = self._survey.stream_of.get(doc["descriptor"])
            if stream is not None:
                self._open(stream)
                for event in self._order[stream.name](line.number, doc):
                    self._writer.streams[stream.name].event(as_row(stream, event))
        elif name == "stream_datum":
            stream = self._survey.stream_of.get(doc["descriptor"])
            if stream is not None:
                self._open(stream)

    def _show_files(
        self, writer: StreamWriter, stream: Stream, data_keys: dict[str, dict[str, Any]]
    ) -> None:
        nodes = sources(
            stream,
            self._survey.resources,
            data_keys,
            self._assets / "kept",
            tables=self._catalog.tables,
            ended=self._survey.stop is not None,
        )
        for name, source in nodes:
            if isinstance(source, DataError):
                self._survey.unreadable[name] = str(source)
                continue
            try:
                writer.show(name, source)
            except ClientError as error:
                if error.response.status_code != httpx.codes.UNSUPPORTED_MEDIA_TYPE:
                    raise
                if source.mimetype == MIMETYPE:  # a server of somebody else
                    log.info("tiled has no adapter for %s; each column is an array", MIMETYPE)
                    self._catalog.tables = False
                    self._show_files(writer, stream, data_keys)
                    return
                self._survey.unreadable[name] = str(error)

    def _open(self, stream: Stream) -> None:
        """Make the node of a stream once its types are known; pass later descriptors on."""
        if stream.name not in self._revisions:
            self._revisions[stream.name] = stream.revision
            self._order[stream.name] = InOrder(stream)
        for doc in self._descriptors.pop(stream.name, []):
            self._writer.descriptor(doc | {"data_keys": stored_data_keys(stream)})


def _mark_unwritable(container: Any, survey: Survey, reason: str) -> None:
    """Close a run that cannot be written, with the reason in its notes."""
    if survey.start is None or "uid" not in survey.start:
        return
    start = {key: value for key, value in survey.start.items() if not key.startswith("tiled_")}
    try:
        writer = RunWriter(container, start)
        if writer.create() is not None:
            writer.clear()
        writer.stop(survey.stop or {}, [*survey.notes, reason])
    except Exception:
        log.exception("%s: not even its start document can be stored", survey.start["uid"])
