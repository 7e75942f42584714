"""Hands the entities of grids to runs: four files of columns for each run."""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import RowMapping, Table, func, insert, or_, select
from sqlalchemy.exc import SQLAlchemyError

from skywright.errors import ConfigError, DataError
from skywright.files.columns import ColumnReader, ColumnWriter, DoesNotFitError
from skywright.instruments.epu.database import Database, read, schema
from skywright.instruments.epu.database.write import chunks, set_values
from skywright.instruments.epu.paths import map_path, micrograph_path
from skywright.instruments.epu.runs.layouts import (
    COLUMNS,
    IDENTITY,
    KINDS,
    PATH_BYTES,
    ROW,
    STREAMS,
    blocks,
    file_columns,
    keys_of,
    row_of,
    stored_columns,
    texts_fit,
)
from skywright.instruments.epu.watch.importer import Outcome
from skywright.instruments.epu.watch.rows import UNKNOWN

logger = logging.getLogger(__name__)

Row = Mapping[Any, Any]
CHUNK = 5000
KEPT = 20
"""Closed runs of which the numbers of rows are still shown."""
SETTING = "run_directory:"
"""Beginning of the name of the setting with the directory of a run's files; its uid follows."""
LEASE_S = 15.0
"""Seconds without a sign of life of a session after which its runs are over."""
SIGN_S = 1.0
"""Longest wait, s, of a sign of life for work on files; only its numbers of rows are left out."""
TABLES: Mapping[str, Table] = {**schema.ENTITIES, "result": schema.micrograph}
RESULTS = tuple(
    schema.micrograph.c[each.name]
    for each in COLUMNS["result"]
    if each.units == "angstrom" or each.name.startswith("number_of_particles")
)
"""A micrograph with none of these values has no results yet."""


@dataclass(slots=True)
class OpenRun:
    """A run that takes rows of a grid."""

    uid: str
    grid: str
    directory: Path
    amends: str
    writers: dict[str, ColumnWriter] = field(default_factory=dict)
    alive: float = field(default_factory=time.monotonic)
    """When the session last said that it follows the run."""
    visible: dict[str, int] = field(default_factory=dict)
    """Rows of each kind that were visible then, or at an earlier sign: recovery of the run finds
    them for certain."""
    due: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Entities of each kind that have changed and are not appended yet."""

    def note_visible(self) -> None:
        """Note the rows that the session can see."""
        self.visible = {kind: writer.flushed for kind, writer in self.writers.items()}

    def path(self, kind: str) -> Path:
        """Return the file of a kind."""
        return self.directory / f"{self.uid}_{STREAMS[kind]}.h5"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run of which the end is not in the database yet.

    Attributes
    ----------
    uid, grid
        Of the run.
    last_rows
        Rows of each kind that count as handed over.
    rows_left
        Whether rows may come again in the next run.
    ended_at
        Time of the end.
    """

    uid: str
    grid: str
    last_rows: Mapping[str, int]
    rows_left: bool
    ended_at: datetime


@dataclass(slots=True)
class GridInfo:
    """A grid as a plan needs it."""

    uuid: str
    name: str
    session: str
    data_dir: str
    waiting: bool
    amends: str


class TrackedGrids:
    """The grids of a directory and the runs that take their rows. Thread-safe.

    Which rows have been handed over is read from the files themselves, so what a run has is known
    after a kill of any process.

    Parameters
    ----------
    database
        The entity database.
    root
        The watched directory. Grids of other directories in the database are left to their owners.
    path_map
        Where the processing cluster sees paths of EPU, as of `map_path`.
    """

    def __init__(
        self, database: Database, root: Path, path_map: Mapping[str, str] | None = None
    ) -> None:
        self.database = database
        self._root = root
        self._path_map = path_map or {}
        self.refused = 0
        """Rows whose text does not fit its column."""
        self._refused: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Hash of the last refused state of each entity, by kind: it is tried again, and counted
        once."""
        self.problem = ""
        """Why rows of open runs are not in files yet; they are tried again at each `poll`."""
        self._lock = threading.RLock()
        self._runs: dict[str, OpenRun] = {}
        self._closed: deque[tuple[str, dict[str, int]]] = deque(maxlen=KEPT)
        self._ended: deque[EndedRun] = deque()
        self._handed: dict[str, dict[str, dict[str, bytes]]] = {}
        self._unreadable: dict[str, tuple[Path, str]] = {}
        """File of an earlier run of a grid that cannot be opened at present, and why."""
        self._waiting: set[str] = set()
        self._has_new_grids = False
        """Whether `_grids` is to be read anew."""
        self._changed: defaultdict[str, set[str]] = defaultdict(set)
        """Entities of each kind that have changed, and of which no run knows yet."""
        self._removed: defaultdict[str, set[str]] = defaultdict(set)
        """Holes of each grid that were removed, and of which no run knows yet."""
        self._last_runs: dict[str, str] = {}
        """Uid of the last run of each grid, which `grids` tells also without the database."""
        with database.read() as connection:
            self._polled = read.last_change(connection)
        self._grids = self._read_grids()
        self._waiting |= {grid for grid in self._grids if self._has_new_rows(grid)}

    # ---- what there is

    def _read_grids(self) -> dict[str, Any]:
        grid, acquisition = schema.grid, schema.acquisition
        names = ("name", "id", "data_dir", "storage_path")
        query = select(
            grid.c.uuid,
            grid.c.name.label("directory_name"),
            *(acquisition.c[name] for name in names),
        ).where(grid.c.acquisition_uuid == acquisition.c.uuid, read.is_in_directory(self._root))
        table = schema.run_rows.c
        runs = select(table.grid_uuid, table.run_uid).order_by(table.started_at)
        with self.database.read() as connection:
            found = {row.uuid: row for row in connection.execute(query)}
            self._last_runs = {row.grid_uuid: row.run_uid for row in connection.execute(runs)}
        return found

    def grids(self) -> list[GridInfo]:
        """Return the grids; `waiting` are those with rows that no run has."""
        with self._lock:
            return [
                GridInfo(
                    row.uuid,
                    row.name,
                    row.id or "",
                    row.data_dir or "",
                    row.uuid in self._waiting,
                    self._last_runs.get(row.uuid, ""),
                )
                for row in self._grids.values()
            ]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows that readers can see, by run and stream.

        The last `KEPT` closed runs are included.
        """
        with self._lock:
            counts = dict(self._closed)
            for uid, run in self._runs.items():
                counts[uid] = {
                    STREAMS[kind]: writer.flushed for kind, writer in run.writers.items()
                }
            return counts

    def _earlier_files(self, grid: str, kind: str) -> list[tuple[Path, int | None]]:
        """Return the files of earlier runs, and how many of their rows count; None is all."""
        table, setting = schema.run_rows, schema.setting
        query = (
            select(table.c.run_uid, setting.c.value, table.c.last_row, table.c.ended_at)
            .where(table.c.grid_uuid == grid, table.c.kind == kind)
            .where(setting.c.name == SETTING + table.c.run_uid)
            .order_by(table.c.started_at)
        )
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [
            (Path(directory) / f"{uid}_{STREAMS[kind]}.h5", last if ended else None)
            for uid, directory, last, ended in rows
        ]

    def _handed_over(self, grid: str) -> dict[str, dict[str, bytes]]:
        """Return the state of each entity in the last row that a run has of it."""
        if grid not in self._handed:
            found: dict[str, dict[str, bytes]] = {}
            for kind in KINDS:
                known = found.setdefault(kind, {})
                for path, count in self._earlier_files(grid, kind):
                    try:
                        known.update(_read_keys(path, kind, count))
                    except DataError as error:
                        logger.warning("%s: its rows are handed over again", error)
                        if why := _why_not_opened(path):
                            self._unreadable[grid] = path, why
            self._handed[grid] = found
        return self._handed[grid]

    @property
    def unreadable(self) -> str:
        """Which file of an earlier run cannot be opened, as on a disk that is not mounted."""
        for grid, (path, why) in list(self._unreadable.items()):
            if grid in self._waiting:  # else later runs have all its rows
                return f"rows of an earlier run would be stored again: {path}: {why}"
        return ""

    def _read_again(self) -> None:
        """Read what earlier runs have where their files can be opened now."""
        for grid, (path, _) in list(self._unreadable.items()):
            if _why_not_opened(path):
                continue
            unread = self._unreadable.pop(grid)
            self._handed.pop(grid, None)
            try:
                has_rows = self._run_of(grid) is not None or self._has_new_rows(grid)
            except SQLAlchemyError:
                self._unreadable[grid] = unread
                raise
            if not has_rows:
                self._waiting.discard(grid)

    def _rows(
        self, grid: str, kind: str, uuids: Iterable[str] | None = None
    ) -> Iterable[list[Row]]:
        """Yield rows of the database, in chunks."""
        table = TABLES[kind]
        columns = [table.c[each.name] for each in stored_columns(kind)]
        query = select(*columns).where(table.c.grid_uuid == grid).order_by(table.c.number)
        if kind == "result":
            query = query.where(or_(*[column.is_not(None) for column in RESULTS]))
        with self.database.read() as connection:
            if uuids is None:
                result = connection.execution_options(stream_results=True).execute(query).mappings()
                while chunk := result.fetchmany(CHUNK):
                    yield self._complete(grid, kind, chunk)
                return
            for part in chunks(sorted(uuids)):
                found = connection.execute(query.where(table.c.uuid.in_(part))).mappings().all()
                if found:
                    yield self._complete(grid, kind, found)

    def _complete(self, grid: str, kind: str, rows: Sequence[RowMapping]) -> list[Row]:
        """Add what is derived: where the processing cluster sees a micrograph."""
        if kind != "micrograph":
            return list(rows)
        return [{**row, "cluster_path": self._cluster_path(grid, row)} for row in rows]

    def _cluster_path(self, grid: str, row: Row) -> str:
        session, file = self._grids.get(grid), row["manifest_file"]
        if session is None or not file or not self._path_map:
            return ""
        name = session.directory_name if session.name == UNKNOWN else session.name
        directory = session.data_dir if session.data_dir not in (None, ".") else name
        place = map_path(micrograph_path(session.storage_path, directory, file), self._path_map)
        # A row whose text is too long is refused, and this text is not worth that.
        return place if place and len(place.encode()) <= PATH_BYTES else ""

    def _new_rows(
        self, grid: str, kind: str, uuids: Iterable[str] | None = None
    ) -> Iterable[list[Row]]:
        """Yield the rows that differ from what the runs have.

        A hole that is not stored any more has a last row, in which it is not planned.
        """
        handed = self._handed_over(grid)[kind]
        stored: set[str] = set()
        for rows in self._rows(grid, kind, uuids):
            stored.update(row["uuid"] for row in rows)
            keys = keys_of(kind, blocks(kind, rows))
            changed = [row for row in rows if handed.get(row["uuid"]) != keys[row["uuid"]]]
            if changed:
                yield changed
        if kind == "foilhole":
            gone = (handed.keys() if uuids is None else handed.keys() & set(uuids)) - stored
            last = [row_of(kind, handed[uuid]) for uuid in sorted(gone)]
            withdrawn: list[Row] = [{**row, "planned": False} for row in last if row["planned"]]
            if withdrawn:
                yield withdrawn

    def _has_new_rows(
        self, grid: str, kinds: Iterable[str] = KINDS, uuids: Iterable[str] | None = None
    ) -> bool:
        """Return whether there are rows for a run; one that it would refuse is none."""
        found = ((kind, rows) for kind in kinds for rows in self._new_rows(grid, kind, uuids))
        return any(texts_fit(kind, blocks(kind, rows)).any() for kind, rows in found)

    # ---- what happens

    def committed(self, outcome: Outcome) -> None:
        """Take what the watcher has stored; grids without run wait for one.

        Where the database does not answer, it is taken at the next commit or `poll`.
        """
        with self._lock:
            self._has_new_grids |= bool(outcome.recorded.keys() & {"grid", "acquisition"})
            for kind, recorded in outcome.recorded.items():
                if kind in COLUMNS:
                    self._changed[kind] |= recorded.changed
            for grid, uuids in outcome.removed.items():
                self._removed[grid] |= uuids
            self._take_changed()

    def _take_changed(self) -> bool:
        """Give what has changed to runs and append it; return whether there was anything."""
        if self._has_new_grids:
            self._renew_grids()
        for kind, changed in self._changed.items():
            for grid, uuids in self._by_grid(kind, changed).items():
                run = self._run_of(grid)
                if run is None:
                    self._waiting.add(grid)
                else:
                    run.due[kind] |= uuids
            changed.clear()
        for grid, uuids in self._removed.items():
            run = self._run_of(grid)
            if run is not None:
                run.due["foilhole"] |= uuids
            elif self._has_new_rows(grid, ["foilhole"], uuids):
                self._waiting.add(grid)
        self._removed.clear()
        return self._append_due()

    def _renew_grids(self) -> None:
        """Read the grids anew. One that a directory brought along when it was moved may wait."""
        before, after = self._grids, self._read_grids()
        self._take_storage_paths(after)
        self._grids, self._has_new_grids = after, False
        self._waiting |= {grid for grid in after.keys() - before.keys() if self._has_new_rows(grid)}

    def _run_of(self, grid: str) -> OpenRun | None:
        return next((run for run in self._runs.values() if run.grid == grid), None)

    def _take_storage_paths(self, after: Mapping[str, Any]) -> None:
        """Hand the micrographs of open runs over again if their paths are known only now.

        The grid of a run may be gone: deleted, or in another directory.
        """
        for run in self._runs.values():
            known, now = self._grids.get(run.grid), after.get(run.grid)
            if self._path_map and known and now and known.storage_path != now.storage_path:
                handed = self._handed_over(run.grid)["micrograph"]
                run.due["micrograph"].update(handed)
                handed.clear()

    def poll(self) -> bool:
        """Take results of processing, which others write; return whether there were any."""
        table = schema.micrograph
        query = select(table.c.uuid, table.c.change).where(table.c.change > self._polled)
        with self._lock:
            self._read_again()
            with self.database.read() as connection:
                found = connection.execute(query).all()
            by_grid = self._by_grid("micrograph", {row.uuid for row in found})
            if by_grid.keys() - self._grids.keys():  # stored, and `committed` is not called yet
                self._renew_grids()
            for grid in by_grid.keys() & self._grids.keys():
                uuids, run = by_grid[grid], self._run_of(grid)
                for kind in ("micrograph", "result"):
                    if run is not None:
                        run.due[kind] |= uuids
                    elif self._has_new_rows(grid, [kind], uuids):
                        self._waiting.add(grid)
            self._polled = max([row.change for row in found], default=self._polled)
            has_changed = self._take_changed() or bool(found)
            try:
                self._note_ends()
            except SQLAlchemyError:  # a database that can only be read still gives rows
                if not has_changed:
                    raise
            return has_changed

    def _append_due(self) -> bool:
        """Append what has changed in open runs; return whether there was something to append.

        What a full disk refuses stays due: the watcher reports a change once. A run ends when a
        write into one of its files has failed, so that the next run of its grid takes its rows.
        """
        appended, problem, failed = False, "", []
        for run in self._runs.values():
            for kind, uuids in run.due.items():
                if not uuids:
                    continue
                try:
                    self._append(run, kind, uuids)
                except OSError as error:
                    problem = f"run {run.uid}: {STREAMS[kind]} are not written yet: {error}"
                else:
                    uuids.clear()
                    appended = True
            if any(writer.has_failed for writer in run.writers.values()):
                failed.append(run.uid)
        if problem and not self.problem:
            logger.error("%s", problem)
        self.problem = problem
        for uid in failed:
            logger.error("run %s has ended: its files take no more rows", uid)
            with suppress(SQLAlchemyError):  # `poll` stores the end later
                self.end(uid)
        return appended

    def _by_grid(self, kind: str, uuids: set[str]) -> dict[str, set[str]]:
        table = TABLES[kind]
        found: dict[str, set[str]] = {}
        query = select(table.c.uuid, table.c.grid_uuid)
        with self.database.read() as connection:
            for part in chunks(sorted(uuids)):
                for uuid, grid in connection.execute(query.where(table.c.uuid.in_(part))):
                    found.setdefault(grid, set()).add(uuid)
        return found

    def _append(self, run: OpenRun, kind: str, uuids: Iterable[str] | None = None) -> None:
        writer = run.writers[kind]
        handed = self._handed_over(run.grid)[kind]
        for rows in self._new_rows(run.grid, kind, uuids):
            columns = blocks(kind, rows)
            identity = np.arange(writer.appended, writer.appended + len(rows))
            try:
                writer.append(identity, columns)
            except DoesNotFitError as error:
                refused = [row for row, fits in zip(rows, error.fits, strict=True) if not fits]
                keys, known = keys_of(kind, blocks(kind, refused)), self._refused[kind]
                hashes = {uuid: hash(key) for uuid, key in keys.items()}
                if new := hashes.items() - known.items():
                    logger.error("%s", error)
                    self.refused += len(new)
                    known.update(new)
                rows = [row for row, fits in zip(rows, error.fits, strict=True) if fits]
                columns = blocks(kind, rows)
                if rows:
                    writer.append(np.arange(writer.appended, writer.appended + len(rows)), columns)
            handed.update(keys_of(kind, columns))
        writer.flush()

    def alive(self, uids: Iterable[str]) -> None:
        """Note that the session that follows these runs lives, also while files are written."""
        runs = [run for uid in uids if (run := self._runs.get(uid)) is not None]
        for run in runs:
            run.alive = time.monotonic()
        if self._lock.acquire(timeout=SIGN_S):
            try:
                for run in runs:
                    run.note_visible()
            finally:
                self._lock.release()

    def end_abandoned(self, lease: float) -> bool:
        """End the runs whose session gives no sign of life; return whether there were any.

        Rows that were visible at the last sign count as handed over. Rows after it come again in
        the next run: whether the recovery of the interrupted run has found them is not known here.
        """
        with self._lock:
            since = time.monotonic() - lease
            dead = [run for run in self._runs.values() if run.alive < since]
            for run in dead:
                logger.warning("run %s: its session is gone; the grid is free again", run.uid)
                self.end(run.uid, run.visible)
            return bool(dead)

    def begin(self, grid: str, uid: str, directory: Path) -> OpenRun:
        """Open the files of a run, with all rows of the grid that no run has yet.

        Raises
        ------
        ConfigError
            If there is no such grid, or it has a run already.
        OSError
            If the disk is full or fails. No row counts as handed over then.
        """
        with self._lock:
            if grid not in self._grids:
                raise ConfigError(f"{grid}: no such grid")
            if any(run.grid == grid for run in self._runs.values()):
                raise ConfigError(f"{grid}: another run takes its rows")
            self._note_ends()
            self._read_again()
            started = time.monotonic()
            directory.mkdir(parents=True, exist_ok=True)
            run = OpenRun(uid, grid, directory, self._last_runs.get(grid, ""))
            try:
                for kind in KINDS:
                    run.writers[kind] = ColumnWriter(run.path(kind), file_columns(kind), IDENTITY)
                    self._append(run, kind)
                self._note_run(run)  # rows count as handed over once all are in files
            except Exception:
                self._handed.pop(grid, None)
                for writer in run.writers.values():
                    with suppress(OSError):
                        writer.close()
                raise
            finally:
                now = time.monotonic()
                for other in self._runs.values():  # signs of life may be late meanwhile
                    other.alive = min(other.alive + now - started, now)
            run.alive = time.monotonic()
            self._runs[uid] = run
            self._last_runs[grid] = uid
            self._waiting.discard(grid)
            self._unreadable.pop(grid, None)  # this run has all rows
            return run

    def end(self, uid: str, handed: Mapping[str, int] | None = None) -> dict[str, int]:
        """Close the files of a run; return their rows by stream.

        Rows that do not count as handed over, and those that a full disk refused, come in the next
        run.

        Parameters
        ----------
        uid
            Of the run.
        handed
            Rows of each kind that count as handed over; None is all that are in files.

        Raises
        ------
        SQLAlchemyError
            If the database does not take the end; `poll` and further calls try it again.
        """
        with self._lock:
            run = self._runs.pop(uid, None)
            if run is None:
                self._note_ends()
                return {}
            counts = {}
            rows_left = handed is not None or any(run.due.values())
            for kind, writer in run.writers.items():
                try:
                    writer.close()
                except OSError as error:
                    logger.error("run %s: its last %s: %s", uid, STREAMS[kind], error)
                    rows_left = True
                counts[STREAMS[kind]] = writer.flushed
            self._closed.append((uid, counts))
            last = {kind: writer.flushed for kind, writer in run.writers.items()}
            if handed is not None:
                last = {kind: handed.get(kind, 0) for kind in last}
            self._ended.append(EndedRun(uid, run.grid, last, rows_left, datetime.now(UTC)))
            self._note_ends()
            return counts

    def _note_ends(self) -> None:
        """Store the ends of runs that the database has not taken yet."""
        table = schema.run_rows
        while self._ended:
            run = self._ended[0]
            with self.database.write() as connection:
                for kind, last in run.last_rows.items():
                    mine = (table.c.run_uid == run.uid, table.c.kind == kind)
                    set_values(connection, table, *mine, last_row=last, ended_at=run.ended_at)
            if run.rows_left:
                self._handed.pop(run.grid, None)
                if self._has_new_rows(run.grid):
                    self._waiting.add(run.grid)
            self._ended.popleft()

    def close(self) -> None:
        """End all runs, also where the database does not answer."""
        for uid in [*(run.uid for run in self._ended), *self._runs]:
            try:
                self.end(uid)
            except SQLAlchemyError as error:
                logger.error("run %s: its end is not in the database: %s", uid, error)

    def _note_run(self, run: OpenRun) -> None:
        """Keep in the database which run has rows of the grid, and where its files are."""
        row = {"grid_uuid": run.grid, "run_uid": run.uid, "amends": run.amends or None}
        started = {"first_row": 0, "last_row": 0, "started_at": datetime.now(UTC)}
        table = schema.run_rows.c
        times = select(func.max(table.started_at)).where(table.grid_uuid == run.grid)
        with self.database.write() as connection:
            # The order of the runs, also where the clock has been set back.
            if (last := connection.execute(times).scalar()) is not None:
                after = last + timedelta(microseconds=1)
                started["started_at"] = max(started["started_at"], after)
            connection.execute(
                insert(schema.run_rows), [{**row, **started, "kind": kind} for kind in KINDS]
            )
            value = {"name": SETTING + run.uid, "value": str(run.directory)}
            connection.execute(insert(schema.setting).values(**value))


def _read_keys(path: Path, kind: str, count: int | None) -> dict[str, bytes]:
    """Return the last state of each entity in a file's first `count` rows (None: in all).

    Raises
    ------
    DataError
        If the file is gone or cannot be read.
    """
    if count == 0:
        return {}
    with ColumnReader(path, ROW) as reader:
        found = {each.path: reader.read(each.path)[:count] for each in stored_columns(kind)}
        return keys_of(kind, found)


def _why_not_opened(path: Path) -> str:
    """Return why a file cannot be opened; empty if it can, or if its directory lacks it."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        is_removed = isinstance(error, FileNotFoundError) and path.parent.is_dir()
        return "" if is_removed else error.strerror or str(error)
    return ""
