"""Reads journals, also while they are written."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skywright.callbacks.journal import SUFFIX
from skywright.processes.locks import try_lock

CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class Line:
    """One line of a journal; for a broken line `name` is empty and `doc` has ``error``."""

    number: int
    name: str
    doc: dict[str, Any]


class Tail:
    """Reads complete lines of a journal; each `read` continues where the last one ended.

    Parameters
    ----------
    path
        A journal, open or finished. A last line without its newline is left for later.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.number = 0

    def read(self, end: int | None = None) -> list[Line] | None:
        """Return the next lines, about `CHUNK_BYTES` at most; None when there are no more.

        Parameters
        ----------
        end
            Offset in bytes to stop at, the end of some line.
        """
        lines = _whole_lines(self.path, self.offset, end)
        self.offset += sum(map(len, lines))
        first = self.number + 1
        self.number += len(lines)
        return [_parse(number, line) for number, line in enumerate(lines, first)] or None


def _whole_lines(path: Path, offset: int, end: int | None) -> list[bytes]:
    size = CHUNK_BYTES
    with path.open("rb") as file:
        while True:
            file.seek(offset)
            wanted = size if end is None else min(size, end - offset)
            data = file.read(wanted)
            whole = data.rfind(b"\n") + 1
            if whole or len(data) < size:
                return data[:whole].splitlines(keepends=True)
            size *= 2  # a line longer than the chunk


def _parse(number: int, line: bytes) -> Line:
    try:
        name, doc = json.loads(line)
        if isinstance(name, str) and name and isinstance(doc, dict):
            return Line(number, name, doc)
        problem = "not a [name, document] pair"
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error)
    return Line(number, "", {"error": problem})


def read_lines(path: Path) -> Iterator[Line]:
    """Yield each whole line of a journal, in bounded memory."""
    tail = Tail(path)
    while lines := tail.read():
        yield from lines


def start_time(path: Path) -> float:
    """Return the start time of a run, Unix s; the file's modification time if it has none.

    Raises
    ------
    FileNotFoundError
        When there is no such journal.
    """
    with path.open("rb") as file:
        first = _parse(1, file.readline())
    began = first.doc.get("time")
    with suppress(OverflowError):  # an integer of more than 308 digits
        if isinstance(began, int | float):
            return float(began)
    return path.stat().st_mtime


def is_locked(path: Path) -> bool:
    """Return whether a process holds a journal's lock, that is, writes the run now."""
    try:
        with path.open("rb") as file:
            return not try_lock(file, shared=True)
    except OSError:  # no journal here: in the catalog already, or written on another machine
        return False


def journals_in(directory: Path) -> list[Path]:
    """Return the journals in a directory, which need not exist.

    Raises
    ------
    PermissionError
        If this user may not list them; `Path.glob` would find none.
    """
    with suppress(FileNotFoundError):
        return [path for path in directory.iterdir() if path.suffix == SUFFIX and path.is_file()]
    return []


def waiting_journals(directory: Path) -> list[Path]:
    """Return the journals of runs that have ended and are not in the catalog yet, oldest first.

    Raises
    ------
    PermissionError
        If this user may not list or read them.
    """
    found = []
    for path in journals_in(directory):
        with suppress(FileNotFoundError):  # done meanwhile
            if not is_locked(path):
                found.append((start_time(path), path))
    return [path for _, path in sorted(found)]


@contextmanager
def locked_if_dead(path: Path) -> Iterator[bool]:
    """Try to lock the journal. Yields True if no writer holds the lock; then we hold it.

    A writer holds it while the run is open and the kernel frees it with the process, so True on a
    journal without a stop document means that the writer is dead. Our lock is a shared one:
    `is_locked` must not take us for a writer.
    """
    # Open it only for reading: the close of a file that is open for writing is a file system event,
    # which would wake the ingester (`observer_of`). A shared lock needs no more, also on NFS
    with path.open("rb") as file:
        # Another ingester may have moved the file to `done` before the lock was free.
        yield (
            try_lock(file, shared=True)
            and path.exists()
            and os.fstat(file.fileno()).st_ino == path.stat().st_ino
        )
