"""Reads files and records what they hold, a batch in one transaction."""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skywright.instruments.epu.database import Database, Recorded, record_files
from skywright.instruments.epu.names import EpuFile
from skywright.instruments.epu.parse import PARSERS, read_file
from skywright.instruments.epu.safe_xml import XmlError
from skywright.instruments.epu.watch.changes import Signature, signature_of
from skywright.instruments.epu.watch.memory import load_memory

NO_TIME = -1
"""Time, in the signature of a file, that no file has: the file counts as changed."""
SECOND_NS = 1_000_000_000
NEW_NS = 3 * SECOND_NS
"""A file of a disk that rounds times may be changed again, without another time, until then."""


@dataclass(slots=True)
class Event:
    """An entity that has been committed to the database.

    `t` is the time of the commit in epoch seconds, `event` is ``created`` or ``updated``, `id` the
    natural id, `path` that of the file.
    """

    t: float
    kind: str
    id: str
    event: str
    path: str


@dataclass(slots=True)
class Read:
    """A file that has been read: what it says, and the size and time that it had before."""

    file: EpuFile
    signature: Signature
    digest: str
    entity: Any
    problems: list[str]


@dataclass(slots=True)
class Failure:
    """A file that could not be read.

    Attributes
    ----------
    signature
        Size and time before it was read, by which it is read again when it changes; None if they
        could not be found. Of a file without permission to read the time is `NO_TIME`.
    final
        Whether trying again makes no sense.
    """

    file: EpuFile
    reason: str
    signature: Signature | None
    final: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a batch.

    Attributes
    ----------
    events
        What was committed.
    failures
        Files that could not be read.
    read
        Files that were read, with or without a change, or are gone.
    recorded
        Uuids created and updated, by kind of entity (``micrograph`` ...).
    removed
        Uuids of holes that are not planned any more and were removed, by the uuid of their grid.
    """

    events: list[Event] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    read: list[EpuFile] = field(default_factory=list)
    recorded: dict[str, Recorded] = field(default_factory=dict)
    removed: dict[str, set[str]] = field(default_factory=dict)


class FileImporter:
    """Reads files of one directory into the entity database.

    Parameters
    ----------
    root
        The directory.
    database
        The entity database; what it already knows of the directory is not read again.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self.root = root
        self.database = database
        with database.read() as connection:
            self.memory = load_memory(root, connection)

    def read(self, file: EpuFile) -> Read | Failure | None:
        """Read and parse a file; None if its content is recorded already, or the file is gone."""
        path = self.root / file.path
        problems: list[str] = []
        signature: Signature | None = None
        try:
            signature = signature_of(path.stat())
            data = read_file(path, file.kind)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            if self.memory.digests.get(file.path) == digest:
                self.memory.known[file.path] = _lasting(signature)
                return None
            entity = PARSERS[file.kind](data, problems)
        except XmlError as error:
            return Failure(file, str(error), signature, final=not error.incomplete)
        except FileNotFoundError:
            return None
        except OSError as error:
            forbidden = isinstance(error, PermissionError) and not os.access(path, os.R_OK)
            if signature is not None and forbidden:
                # A permission that is given later changes neither size nor time of the file. Where
                # `os.access` does not know of it (CIFS, SELinux), each scan would read it again.
                signature = signature[0], NO_TIME
            return Failure(file, error.strerror or str(error), signature)
        return Read(file, _lasting(signature), digest, entity, problems)

    def record(self, files: Iterable[EpuFile]) -> Outcome:
        """Read files and commit what they hold."""
        from skywright.instruments.epu.watch.merger import EntityMerger

        outcome = Outcome()
        batch: list[Read] = []
        for file in files:
            found = self.read(file)
            if isinstance(found, Failure):
                outcome.failures.append(found)
                continue
            outcome.read.append(file)
            if found is not None:
                batch.append(found)
        if batch:
            with self.database.write() as connection:
                EntityMerger(connection, self.memory, outcome).merge(batch)
            now = time.time()
            for event in outcome.events:
                event.t = now
            for found in batch:
                self.memory.known[found.file.path] = found.signature
                self.memory.digests[found.file.path] = found.digest
        return outcome

    def give_up(self, failures: Iterable[Failure]) -> None:
        """Record files that cannot be read; they are read again only when they change."""
        now = datetime.now(UTC)
        rows = []
        for failure in failures:
            file, signature = failure.file, failure.signature
            if signature is None:
                continue
            self.memory.known[file.path] = signature
            # What was recorded before stays; only the file's row tells of the problem.
            row = self.memory.file_row(file, signature, now, problem=failure.reason)
            del row["entity_uuid"]
            rows.append(row)
            self.memory.digests.pop(file.path, None)
        if rows:
            with self.database.write() as connection:
                record_files(connection, rows)


def _lasting(signature: Signature) -> Signature:
    """Return a signature that no later content of the file can have.

    Some network disks and FAT keep whole seconds only: a file that is changed soon has its time.
    """
    size, time_ns = signature
    is_rounded, age_ns = time_ns % SECOND_NS == 0, time.time_ns() - time_ns
    return (size, NO_TIME) if is_rounded and abs(age_ns) < NEW_NS else signature
