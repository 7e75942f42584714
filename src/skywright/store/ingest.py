"""One journal into tiled: live, after a restart and at recovery by the same function."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from skywright.callbacks.journal import fsync_directory
from skywright.errors import DataError, SkywrightError
from skywright.store import repair
from skywright.store.check import differences
from skywright.store.client import ANALYSIS, RAW
from skywright.store.frames import ShownFrames
from skywright.store.modern import Modern
from skywright.store.probe import takes_writes
from skywright.store.rows import InOrder, as_row, stored_data_keys, type_notes
from skywright.store.survey import Stream, Survey
from skywright.store.tail import Line, Tail, locked_if_dead
from skywright.store.tiled_writer import RunWriter, not_shown

ATTEMPTS = 3
"""Failures of one run, while others can be written, before it is put aside."""
REPLAY_SHARE = 4
"""After a replay the next one waits this many times as long as the last one took, so a run that
is doubted again and again takes a fifth of the time at most; at its end it never waits."""
NOT_THERE = {401, 403, 429, 502, 503, 504}

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
    run = RunIngest(path, client)
    while (state := run.step()) is State.MORE:
        pass
    return state


class RunIngest:
    """The ingest of one journal, step by step; each step commits what has gathered.

    Parameters
    ----------
    path, client
        See `ingest`.
    """

    def __init__(self, path: Path, client: Any) -> None:
        self.path = path
        self.survey = Survey()
        self._client = client
        self._tail = Tail(path)
        self._modern = Modern()
        self._target: _Target | None = None
        self._behind: _Replay | None = None
        self._known = False  # the catalog has been asked for this run
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
            self._known = False
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is None or status in NOT_THERE:
                raise AwayError(f"tiled: {error}") from error
            return self._failed(error)
        except OSError:
            raise
        except Exception as error:  # whatever this run is, the others go on
            self._target = None
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
            if self._is_whole_already():
                return self._archive("done")
            self._begin_replay()
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

    @cached_property
    def _container(self) -> Any:
        start = self.survey.start or {}
        return self._client[ANALYSIS if start.get("purpose") == "analysis" else RAW]

    def _is_whole_already(self) -> bool:
        """Tell whether somebody before us finished this run but for moving the journal."""
        if self._known or self.survey.stop is None or self.survey.start is None:
            return False
        self._known = True
        try:
            run = self._container[self.survey.start["uid"]]
        except KeyError:
            return False
        return not differences(self.survey, run)

    def _begin_replay(self) -> None:
        self._target = self._behind = None
        assets = self.path.parent.parent / "assets"
        self._behind = _Replay(time.monotonic(), Tail(self.path), Modern())
        self._target = _Target(self._container, self.survey, assets)

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
            healthy = takes_writes(self._client)
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

    def __init__(self, container: Any, survey: Survey, assets: Path) -> None:
        self._survey = survey
        self._assets = assets
        self._writer = RunWriter(container)
        self._writer.start(survey.start or {})
        self._revisions: dict[str, int] = {}
        self._order: dict[str, InOrder] = {}
        self._shown: dict[str, dict[str, ShownFrames]] = {}
        self._descriptors: dict[str, list[dict[str, Any]]] = {}

    def is_stale(self) -> bool:
        """Tell whether what was written is not right any more."""
        streams = self._survey.streams
        return any(streams[name].revision != rev for name, rev in self._revisions.items())

    def write(self, lines: Iterable[Line]) -> None:
        """Write and commit lines that the survey knows already."""
        for line in lines:
            self._write(line)
        self._commit()

    def close(self) -> None:
        """Write the stop document and the remarks."""
        for stream in self._survey.streams.values():
            self._open(stream)
        self._commit()
        for stream in self._survey.streams.values():
            for note in type_notes(stream):
                self._survey.note(note)
        self._writer.notes.extend(self._survey.notes)
        self._writer.stop(self._survey.stop or {})

    def _commit(self) -> None:
        for name in self._revisions:
            self._show_frames(self._survey.streams[name])
        keys = {name: stored_data_keys(self._survey.streams[name]) for name in self._revisions}
        self._writer.commit(keys)

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
                    self._writer.event(as_row(stream, event))
        elif name == "stream_datum":
            stream = self._survey.stream_of.get(doc["descriptor"])
            if stream is not None:
                self._open(stream)

    def _show_frames(self, stream: Stream) -> None:
        shown = self._shown.setdefault(stream.name, {})
        for key, frames in stream.frames.items():
            if key not in shown:
                shown[key] = ShownFrames(stream, key, self._assets / "kept")
            try:
                news = list(shown[key].news(frames, self._survey.resources))
            except DataError as error:
                self._survey.note(not_shown(key, error))
                continue
            for name, doc in news:
                if name == "stream_resource":
                    self._writer.stream_resource(doc)
                else:
                    self._writer.stream_datum(doc)

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
        writer = RunWriter(container)
        writer.start(start)
        writer.notes.extend([*survey.notes, reason])
        writer.stop(survey.stop or {})
    except Exception:
        log.exception("%s: not even its start document can be stored", survey.start["uid"])
