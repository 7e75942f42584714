"""What the watcher keeps in memory about one directory, taken up again from the database."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, select

from skywright.instruments.epu.database import acquisition_uuid, grid_uuid, schema
from skywright.instruments.epu.entities import AtlasSquare, HoleLocation
from skywright.instruments.epu.names import EpuFile, Kind
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
    grids
        Uuid of the grid, by the session's directory.
    instruments
        Sessions whose instrument is known.
    candidates
        Where the atlas of a session may be, for sessions whose ``EpuSession.dm`` has been read.
    atlases
        Squares on each atlas, by the atlas's path.
    linked
        Path of the atlas, by the grid's uuid.
    locations
        Planned holes of a square as they are recorded, by the square's uuid.
    """

    root: Path
    known: dict[str, Signature] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    grids: dict[str, str] = field(default_factory=dict)
    instruments: set[str] = field(default_factory=set)
    candidates: dict[str, list[str]] = field(default_factory=dict)
    atlases: dict[str, dict[str, AtlasSquare]] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)
    locations: dict[str, dict[str, HoleLocation]] = field(default_factory=dict)

    @property
    def sessions_missing(self) -> list[str]:
        """Directories of sessions whose ``EpuSession.dm`` has not been read."""
        grids = list(self.grids)  # at once: the watcher's thread adds to them
        return [directory or "." for directory in grids if directory not in self.candidates]

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


def load_memory(root: Path, connection: Connection) -> Memory:
    """Return what the database holds of the directory `root`."""
    memory = Memory(root)
    file = schema.source_file.c
    columns = (file.path, file.kind, file.entity_uuid, file.digest, file.size, file.mtime_ns)
    query = select(*columns).where(file.root == str(root))
    for path, kind, entity, digest, size, mtime in connection.execute(query):
        memory.known[path] = (size, mtime)
        if entity is not None:
            memory.seen.add((kind, entity))
        if digest is not None:
            memory.digests[path] = digest
    _load_sessions(memory, connection)
    atlas = schema.atlas.c
    for path, squares in connection.execute(select(atlas.path, atlas.gridsquares)):
        if path is not None:
            memory.atlases[path] = {
                key: AtlasSquare(**square) for key, square in (squares or {}).items()
            }
    grid = schema.grid.c
    links = select(grid.uuid, atlas.path).where(grid.atlas_uuid == atlas.uuid)
    memory.linked = {uuid: path for uuid, path in connection.execute(links) if path is not None}
    return memory


def _load_sessions(memory: Memory, connection: Connection) -> None:
    a = schema.acquisition.c
    query = select(a.uuid, a.data_dir, a.id, a.instrument_model, a.atlas_path)
    for uuid, directory, identity, model, atlas in connection.execute(query):
        if directory is None or acquisition_uuid(directory) != uuid:
            continue  # stored by a client of the API
        session = "" if directory == "." else directory
        memory.grids[session] = grid_uuid(uuid)
        if model is not None:
            memory.instruments.add(session)
        if identity is not None:
            memory.candidates[session] = atlas_candidates(session, atlas)
