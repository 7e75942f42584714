"""What the watcher keeps in memory about one directory, taken up again from the database."""

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from skywright.instruments.epu.database import atlas_uuid, schema
from skywright.instruments.epu.entities import AtlasSquare, HoleLocation
from skywright.instruments.epu.names import KIND_ORDER, EpuFile, Kind, recognize
from skywright.instruments.epu.paths import atlas_candidates
from skywright.instruments.epu.watch.changes import Signature
from skywright.instruments.epu.watch.rows import Row


@dataclass(slots=True)
class Memory:
    """Keys by which everything is found at once.

    Attributes
    ----------
    root
        The watched directory.
    known
        Size and time of each file that needs no reading, by path.
    digests
        Digest of each file's content that is recorded, by path.
    seen
        (kind of file, uuid) of what has been recorded from a file of that kind.
    acquisitions, grids
        Uuids of the acquisition and of its grid, by the session's directory.
    first_images
        Rank (`image_rank`) of the image whose instrument a session has; None: of one that the
        database knows, `first_image` tells it.
    candidates
        Where the atlas of a session may be, for sessions whose ``EpuSession.dm`` has been read.
    atlas_uuids, atlases
        Uuid of each atlas and the squares on it, by the atlas's path.
    linked
        Path of the atlas, by the grid's uuid.
    locations
        Planned holes of a square as they are recorded, by the square's uuid.
    unreadable
        Why a file could not be read when the database was loaded, by path.
    """

    root: Path
    known: dict[str, Signature] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    acquisitions: dict[str, str] = field(default_factory=dict)
    grids: dict[str, str] = field(default_factory=dict)
    first_images: dict[str, tuple[int, str, str] | None] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)
    atlas_uuids: dict[str, str] = field(default_factory=dict)
    atlases: dict[str, dict[str, AtlasSquare]] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    locations: dict[str, dict[str, HoleLocation]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def sessions_missing(self) -> list[str]:
        """Directories of sessions that are there and whose ``EpuSession.dm`` has not been read."""
        grids = list(self.grids)  # at once: the watcher's thread adds to them
        missing = [directory for directory in grids if directory not in self.candidates]
        # Not `Path.is_dir`, which raises where a directory may not be entered.
        there = [each for each in missing if os.path.isdir(self.root / each)]  # noqa: PTH112
        return [directory or "." for directory in there]

    def first_image(self, session: str) -> tuple[int, str, str] | None:
        """Return the rank of a session's first image that is recorded."""
        files = (recognize(path) for path in self.digests)
        mine = [file for file in files if file and file.session == session and file.stamp]
        return min(map(image_rank, mine), default=None)

    def portable_path(self, path: str) -> str:
        """Return a path with the name of the directory that holds it and the root in front.

        It is the same on every machine that has the directory under this name.
        """
        full = os.path.normpath(self.root / path)
        base = Path(os.path.commonpath((self.root, full))).parent
        return Path(full).relative_to(base).as_posix()

    def atlas_uuid(self, path: str) -> str:
        """Return the uuid of the atlas in a file."""
        return self.atlas_uuids.get(path) or atlas_uuid(self.portable_path(path))

    def file_row(
        self,
        file: EpuFile,
        signature: Signature,
        now: datetime,
        digest: str | None = None,
        entity: str | None = None,
        problem: str | None = None,
    ) -> Row:
        """Return a file's row of the table ``source_file``."""
        return {
            "root": str(self.root),
            "path": file.path,
            "kind": file.kind.value,
            "grid_uuid": self.grids.get(file.session) if file.kind is not Kind.ATLAS else None,
            "entity_uuid": entity,
            "size": signature[0],
            "mtime_ns": signature[1],
            "digest": digest,
            "problem": problem,
            "recorded_at": now,
        }


def image_rank(file: EpuFile) -> tuple[int, str, str]:
    """Return where an image stands in the order in which a session's instrument is looked for."""
    return KIND_ORDER[file.kind], *file.age


def load_memory(root: Path, connection: Connection) -> Memory:
    """Return what the database holds of the directory `root`.

    A directory that was moved under its name keeps the uuids of its sessions and atlases. It was
    moved from a place if there is no directory any more and one of 100 of its files is below
    `root` now.
    """
    memory = Memory(root)
    file = schema.source_file.c
    columns = (file.path, file.kind, file.entity_uuid, file.digest, file.size, file.mtime_ns)
    here = file.root == str(root)
    query = select(*columns, file.problem).where(here)
    for path, kind, entity, digest, size, mtime, problem in connection.execute(query):
        memory.known[path] = (size, mtime)
        if entity is not None:
            memory.seen.add((kind, entity))
        if digest is not None:
            memory.digests[path] = digest
        elif problem is not None:
            memory.unreadable[path] = problem
    roots = connection.execute(select(file.root).distinct()).scalars().all()
    before = [each for each in roots if _was_moved(Path(each), root, connection)]
    same = file.root.in_([str(root), *before])
    atlases = select(file.path, file.entity_uuid).where(
        same, file.kind == Kind.ATLAS.value, file.entity_uuid.is_not(None)
    )
    memory.atlas_uuids.update(connection.execute(atlases.order_by(here)).tuples().all())
    links = _load_sessions(memory, connection, same)
    paths = {uuid: path for path, uuid in memory.atlas_uuids.items()}
    atlas = schema.atlas.c
    stored = select(atlas.uuid, atlas.path, atlas.gridsquares).where(
        atlas.uuid.in_({*paths, *links.values()}), atlas.path.is_not(None)
    )
    for uuid, last_path, squares in connection.execute(stored):
        path = paths.setdefault(uuid, last_path)
        memory.atlas_uuids[path] = uuid
        memory.atlases[path] = {
            key: AtlasSquare(**square) for key, square in (squares or {}).items()
        }
    memory.linked = {grid: paths[uuid] for grid, uuid in links.items() if uuid in paths}
    return memory


def _was_moved(old: Path, root: Path, connection: Connection) -> bool:
    """Return whether the directory `old` is `root` now."""
    if old.name != root.name:
        return False
    try:
        old.stat()
    except (FileNotFoundError, NotADirectoryError):
        file = schema.source_file.c
        own = select(file.path).where(file.root == str(old), file.path.not_like("..%"))
        some = connection.execute(own.limit(100)).scalars()
        # Not `Path.exists`, which raises where a directory may not be entered.
        return any(os.path.exists(root / path) for path in some)  # noqa: PTH110
    except OSError:  # it is there, and may not be looked into, or its disk does not answer
        return False
    return False


def _load_sessions(memory: Memory, connection: Connection, same: Any) -> dict[str, str]:
    """Take up the sessions of which a file is recorded; return the atlas of each grid.

    `same` is the condition for the files; those of the present directory come before others.
    """
    a, grid, file = schema.acquisition.c, schema.grid.c, schema.source_file.c
    here = select(file.grid_uuid).where(file.root == str(memory.root), file.grid_uuid.is_not(None))
    query = (
        select(a.uuid, a.data_dir, a.id, a.instrument_model, a.atlas_path)
        .add_columns(grid.uuid, grid.atlas_uuid)
        .where(grid.acquisition_uuid == a.uuid)
        .where(grid.uuid.in_(select(file.grid_uuid).where(same)))
        .order_by(grid.uuid.in_(here))
    )
    links: dict[str, str] = {}
    sessions = {row.data_dir: row for row in connection.execute(query)}
    for uuid, directory, identity, model, atlas, own, link in sessions.values():
        session = "" if directory == "." else directory
        memory.acquisitions[session], memory.grids[session] = uuid, own
        if model is not None:
            memory.first_images[session] = None
        if identity is not None:
            memory.candidates[session] = atlas_candidates(session, atlas)
        if link is not None:
            links[own] = link
    return links
