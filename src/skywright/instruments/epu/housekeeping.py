"""Small tools for a tree: sizes by kind, emptied images for test sets, repeated hole manifests."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from skywright.instruments.epu.names import recognize
from skywright.instruments.epu.scan import scan, walk

Problems = list[tuple[str, str]]

_MOVIE = re.compile(r".*(_fractions\.(mrc|tiff?)|\.eer)", re.IGNORECASE)
_IMAGE = re.compile(r".*\.(jpe?g|png|mrc|tiff?|eer)", re.IGNORECASE)


@dataclass(slots=True)
class Usage:
    """Number of files and of bytes of one kind."""

    kind: str
    files: int = 0
    bytes: int = 0


def kind_of_file(path: str) -> str:
    """Return the kind of any file of a tree: an entity's, ``movie``, ``.jpg`` ... or ``other``."""
    file = recognize(path)
    if file is not None:
        return file.kind.value
    name = path.rpartition("/")[2]
    if _MOVIE.fullmatch(name):
        return "movie"
    match = _IMAGE.fullmatch(name)
    return f"image .{match[1].lower()}" if match else "other"


def usage(directory: Path, problems: Problems) -> list[Usage]:
    """Return files and bytes by kind below `directory`, the kind with most bytes first.

    What cannot be looked at is appended to `problems` as (path, reason).
    """
    kinds: dict[str, Usage] = {}
    for path, file in walk(directory, problems):
        try:
            size = file.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # removed in the meantime
            continue
        except OSError as error:
            problems.append((path, error.strerror or str(error)))
            continue
        kind = kind_of_file(path)
        entry = kinds.setdefault(kind, Usage(kind))
        entry.files += 1
        entry.bytes += size
    return sorted(kinds.values(), key=lambda entry: (-entry.bytes, -entry.files, entry.kind))


def slim(directory: Path, dry_run: bool, problems: Problems) -> list[tuple[str, int]]:
    """Empty the images and movies of a test set, keep their names and times.

    What cannot be emptied is appended to `problems` as (path, reason).

    Returns
    -------
    list of (str, int)
        Path relative to `directory` and size in bytes of each file that is, or with `dry_run`
        would be, emptied.
    """
    emptied = []
    for relative, file in walk(directory, problems):
        path = directory / relative
        if not _IMAGE.fullmatch(file.name) or file.is_symlink():
            continue
        try:
            status = path.stat()
            if not status.st_size:
                continue
            if not dry_run:
                os.truncate(path, 0)
            emptied.append((relative, status.st_size))
            if not dry_run:
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append((relative, error.strerror or str(error)))
    return sorted(emptied)


@dataclass(slots=True)
class Duplicate:
    """A foil hole of one session that has several manifests, oldest first."""

    session: str
    foilhole: str
    files: list[str]


def find_duplicates(directory: Path, problems: Problems) -> Iterator[Duplicate]:
    """Yield each foil hole with more than one manifest, session by session.

    Directories that cannot be listed are appended to `problems` as (path, reason).
    """
    found = scan(directory)
    problems += found.problems
    sessions = found.sessions
    for session in sorted(sessions):
        holes: dict[str, list[tuple[str, str]]] = {}
        for files in sessions[session].foilholes.values():
            for file in files:
                holes.setdefault(file.foilhole, []).append(file.age)
        for hole in sorted(holes, key=int):
            if len(holes[hole]) > 1:
                yield Duplicate(session or ".", hole, [path for _, path in sorted(holes[hole])])
