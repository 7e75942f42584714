"""Walks a directory once and sorts EPU's files by session."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from skywright.instruments.epu.names import EpuFile, Kind, recognize


@dataclass(slots=True)
class SessionFiles:
    """The files of one session directory; the lists are by the id of the grid square."""

    directory: str
    session: EpuFile | None = None
    metadata: dict[str, EpuFile] = field(default_factory=dict)
    gridsquares: dict[str, list[EpuFile]] = field(default_factory=dict)
    foilholes: dict[str, list[EpuFile]] = field(default_factory=dict)
    micrographs: list[EpuFile] = field(default_factory=list)

    @property
    def imaged(self) -> set[str]:
        """Ids of the grid squares of which there is an image of any kind."""
        of_micrographs = {file.gridsquare for file in self.micrographs}
        return {*self.gridsquares, *self.foilholes, *of_micrographs}

    def add(self, file: EpuFile) -> None:
        """Take a file of this session."""
        match file.kind:
            case Kind.SESSION:
                self.session = file
            case Kind.METADATA:
                self.metadata[file.gridsquare] = file
            case Kind.GRIDSQUARE:
                self.gridsquares.setdefault(file.gridsquare, []).append(file)
            case Kind.FOILHOLE:
                self.foilholes.setdefault(file.gridsquare, []).append(file)
            case Kind.MICROGRAPH:
                self.micrographs.append(file)


@dataclass(slots=True)
class Scan:
    """What a directory holds: its sessions by directory, its atlases by path."""

    sessions: dict[str, SessionFiles] = field(default_factory=dict)
    atlases: dict[str, EpuFile] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def walk(
    root: Path, problems: list[tuple[str, str]] | None = None, follow_links: bool = False
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield each file below `root`, with its path relative to `root` (separated by ``/``).

    A directory that cannot be listed, or a `root` that is gone, is appended to `problems` as
    (path, reason) and the rest goes on. With `follow_links`, links to directories are followed:
    after all else, each directory once, and none that contains `root`. If links in a directory
    cannot be followed, the first of them is appended to `problems`.
    """
    waiting, links = [""], list[str]()
    known = set[tuple[int, int]]()
    for parent in root.resolve().parents:
        with suppress(OSError):
            known.add(identity_of(parent))
    while waiting or links:
        directory = waiting.pop() if waiting else links.pop(links.index(min(links)))
        full = root / directory if directory else root
        try:
            if follow_links:
                if (identity := identity_of(full)) in known:
                    continue
                known.add(identity)
            closed: list[tuple[str, str]] = []
            with os.scandir(full) as entries:
                for entry in entries:
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(path)
                    elif is_file(entry):
                        yield path, entry
                    elif follow_links and entry.is_symlink():
                        try:
                            if (root / path).is_dir():
                                links.append(path)
                        except OSError as error:  # it leads to where nothing may be looked at
                            closed.append((path, error.strerror or str(error)))
            if problems is not None:
                problems += closed[:1]
        except OSError as error:
            was_removed = isinstance(error, FileNotFoundError) and directory  # in the meantime
            if problems is not None and not was_removed:
                problems.append((directory or ".", error.strerror or str(error)))


def identity_of(directory: Path) -> tuple[int, int]:
    """Return what tells a directory from others: its device and its inode."""
    status = directory.stat()
    return status.st_dev, status.st_ino


def is_file(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a file, not a pipe, which would block its reader."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads nowhere, a stale handle
        return False


def scan(root: Path) -> Scan:
    """Return EPU's files below `root`, judged by their names; none is opened.

    Links to directories are followed: sites keep grids elsewhere and link them.
    """
    found = Scan()
    for path, _ in walk(root, found.problems, follow_links=True):
        file = recognize(path)
        if file is None:
            continue
        if file.kind is Kind.ATLAS:
            found.atlases[file.path] = file
        else:
            found.sessions.setdefault(file.session, SessionFiles(file.session)).add(file)
    return found
