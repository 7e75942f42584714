"""Merges what was read from files into the entity database, in one transaction."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Connection, or_, select

from skywright.instruments.epu.database import (
    Recorded,
    acquisition_uuid,
    grid_uuid,
    record,
    record_files,
    remove,
    schema,
)
from skywright.instruments.epu.database.write import present, set_values
from skywright.instruments.epu.entities import AtlasSquare, Instrument
from skywright.instruments.epu.names import EpuFile, Kind
from skywright.instruments.epu.paths import atlas_candidates
from skywright.instruments.epu.watch import rows
from skywright.instruments.epu.watch.importer import Event, Outcome, Read
from skywright.instruments.epu.watch.memory import Memory, image_rank

_NOWHERE = AtlasSquare([None, None], [None, None], [None, None], None)


class EntityMerger:
    """Merges what was read from files into the entity database.

    Parameters
    ----------
    connection
        From `Database.write`.
    memory
        What is known of the directory; it is brought up to date.
    outcome
        Its `events`, `recorded` and `removed` are filled.
    """

    def __init__(self, connection: Connection, memory: Memory, outcome: Outcome) -> None:
        self.connection = connection
        self.memory = memory
        self.outcome = outcome
        self.now = datetime.now(UTC)
        self.files: list[rows.Row] = []

    def merge(self, batch: list[Read]) -> None:
        """Merge files that have been read, in any order."""
        takers: dict[Kind, Callable[[list[Read]], None]] = {
            Kind.SESSION: self._sessions,
            Kind.ATLAS: self._atlases,
            Kind.METADATA: self._metadata,
            Kind.GRIDSQUARE: self._gridsquares,
            Kind.FOILHOLE: self._foilholes,
            Kind.MICROGRAPH: self._micrographs,
        }
        self._make_grids(batch)
        for kind, taker in takers.items():
            found = [each for each in batch if each.file.kind is kind]
            if found:
                taker(found)
        record_files(self.connection, self.files)

    def _record(self, kind: str, found: list[rows.Row], known: Any = None) -> Recorded:
        recorded = record(self.connection, kind, found, known)
        total = self.outcome.recorded.setdefault(kind, Recorded())
        total.created |= recorded.created
        total.updated |= recorded.updated
        return recorded

    def _done(self, found: Read, entity: str, identity: str, changed: bool) -> None:
        """Note that a file is stored: its row, and an event if it changed anything."""
        file = found.file
        key = (file.kind.value, entity)
        if changed or key not in self.memory.seen:
            event = "updated" if key in self.memory.seen else "created"
            self.outcome.events.append(Event(0.0, file.kind.value, identity, event, file.path))
        self.memory.seen.add(key)
        self.files.append(
            self.memory.file_row(
                file,
                found.signature,
                self.now,
                found.digest,
                entity,
                "\n".join(found.problems) or None,
            )
        )

    def _make_grids(self, batch: list[Read]) -> None:
        """Make the acquisition and the grid of a session of which any file has come."""
        new = {
            found.file.session
            for found in batch
            if found.file.kind is not Kind.ATLAS and found.file.session not in self.memory.grids
        }
        for session in sorted(new):
            directory = session or "."
            acquisition = acquisition_uuid(self.memory.portable_path(directory))
            grid = grid_uuid(acquisition)
            name = session.rpartition("/")[2] or self.memory.root.name
            row = {"uuid": acquisition, "name": name, "data_dir": directory}
            self._record("acquisition", [row])
            self._record(
                "grid",
                [
                    {
                        "uuid": grid,
                        "acquisition_uuid": acquisition,
                        "name": name,
                        "data_dir": directory,
                        "status": schema.GridStatus.SCAN_STARTED,
                        "scan_start_time": self.now,
                    }
                ],
            )
            self.memory.acquisitions[session], self.memory.grids[session] = acquisition, grid

    def _set_instrument(self, file: EpuFile, instrument: Instrument) -> None:
        """Keep the instrument that the first image of a session names, as `Tree` does."""
        if instrument.model is None:
            return
        session, rank, first = file.session, image_rank(file), self.memory.first_images
        if session in first and first[session] is None:
            first[session] = self.memory.first_image(session)
        if rank > (first.get(session) or rank):
            return
        row = {"uuid": self.memory.acquisitions[session], "data_dir": session or "."}
        self._record("acquisition", [{**row, **rows.instrument_values(instrument)}])
        first[session] = rank

    def _sessions(self, batch: list[Read]) -> None:
        for found in batch:
            session = found.file.session
            uuid = self.memory.acquisitions[session]
            values = rows.session_values(found.entity)
            recorded = self._record("acquisition", [{"uuid": uuid, **values}])
            self._done(found, uuid, found.entity.id, uuid in recorded.changed)
            self.memory.candidates[session] = atlas_candidates(session, values["atlas_path"])
            self._link(session)

    def _atlases(self, batch: list[Read]) -> None:
        for found in batch:
            path = found.file.path
            uuid = self.memory.atlas_uuid(path)
            recorded = self._record("atlas", [rows.atlas_values(found.entity, path, uuid)])
            tiles = rows.tile_values(found.entity, uuid)
            changed = bool(recorded.changed | self._record("atlas_tile", tiles).changed)
            changed |= self._remove_tiles(uuid, {tile["uuid"] for tile in tiles})
            self.memory.atlases[path] = found.entity.gridsquares
            self._done(found, uuid, found.entity.id, changed)
            for session, candidates in self.memory.candidates.items():
                if path in candidates:
                    self._link(session)

    def _remove_tiles(self, atlas: str, listed: set[str]) -> bool:
        """Remove the tiles that an atlas which was taken anew has no more."""
        tile = schema.atlas_tile.c
        stored = self.connection.execute(select(tile.uuid).where(tile.atlas_uuid == atlas))
        gone = set(stored.scalars()) - listed
        for uuid in gone:
            remove(self.connection, "atlas_tile", uuid)
        return bool(gone)

    def _link(self, session: str) -> None:
        """Connect a grid with its atlas, once both are known, and place its squares on it."""
        path = next(
            (path for path in self.memory.candidates[session] if path in self.memory.atlases), None
        )
        grid = self.memory.grids[session]
        if path is None:
            self._unlink(session, grid)
            return
        uuid = self.memory.atlas_uuid(path)
        table = schema.atlas
        if self.memory.linked.get(grid) != path:
            acquisition = self.memory.acquisitions[session]
            link = {"uuid": grid, "acquisition_uuid": acquisition, "atlas_uuid": uuid}
            self._record("grid", [{**link, "atlas_dir": path}])
            unowned = (table.c.uuid == uuid) & table.c.grid_uuid.is_(None)
            set_values(self.connection, table, unowned, grid_uuid=grid)
            self.memory.linked[grid] = path
        squares = self.memory.atlases[path]
        keys = {key: rows.square_key(grid, key) for key in squares}
        stored = present(self.connection, "gridsquare", [key["uuid"] for key in keys.values()])
        found = []
        for key, position in squares.items():
            row: rows.Row = {**keys[key], **rows.position_values(position)}
            if row["uuid"] not in stored:
                row["lowmag"] = True  # known from the atlas only
            found.append(row)
        self._record("gridsquare", found, stored)
        self._place_others(grid, squares)

    def _unlink(self, session: str, grid: str) -> None:
        """Take a grid off the atlas that its session names no more."""
        if self.memory.linked.pop(grid, None) is None:
            return
        acquisition = self.memory.acquisitions[session]
        link = {"uuid": grid, "acquisition_uuid": acquisition, "atlas_uuid": None}
        self._record("grid", [{**link, "atlas_dir": None}])
        self._place_others(grid, {})

    def _place_others(self, grid: str, squares: dict[str, AtlasSquare]) -> None:
        """Place the squares whose number on the atlas is not their own id.

        Those that the atlas does not have any more lose their place. They are removed if only the
        atlas had them.
        """
        table, hole, micrograph = schema.gridsquare, schema.foilhole, schema.micrograph
        below = [
            select(child.c.number).where(child.c.gridsquare_uuid == table.c.uuid).exists()
            for child in (hole, micrograph)
        ]
        query = select(table.c.gridsquare_id, table.c.atlas_node_id, table.c.lowmag & ~or_(*below))
        found = []
        squares_of_grid = self.connection.execute(query.where(table.c.grid_uuid == grid)).all()
        for key, node, only_here in squares_of_grid:
            if key in squares:
                continue
            row = rows.square_key(grid, key)
            if only_here:
                remove(self.connection, "gridsquare", row["uuid"])
            else:
                found.append(row | rows.position_values(squares.get(str(node), _NOWHERE)))
        self._record("gridsquare", found)

    def _position(self, grid: str, gridsquare: str, node: int | None = None) -> rows.Row:
        squares = self.memory.atlases.get(self.memory.linked.get(grid, ""), {})
        position = squares.get(gridsquare) or squares.get(str(node))
        return rows.position_values(position) if position else {}

    def _metadata(self, batch: list[Read]) -> None:
        for found in batch:
            file, metadata = found.file, found.entity
            grid = self.memory.grids[file.session]
            key = rows.square_key(grid, file.gridsquare)
            values = rows.metadata_values(metadata, file.path)
            position = self._position(grid, file.gridsquare, metadata.atlas_node_id)
            recorded = self._record("gridsquare", [{**key, **values, **position}])
            changed = self._holes(grid, file.gridsquare, key["uuid"], metadata.holes)
            if metadata.repeated_holes:
                ids = ", ".join(metadata.repeated_holes)
                found.problems.append(f"foil holes listed more than once: {ids}")
            uuid = key["uuid"]
            self._done(found, uuid, file.gridsquare, uuid in recorded.changed or changed)

    def _holes(self, grid: str, gridsquare: str, uuid: str, holes: list[Any]) -> bool:
        """Store the planned holes of a square that changed; the newest ``.dm`` names them all."""
        new = {hole.id: hole for hole in holes}
        old = self.memory.locations.get(uuid)
        changed = [
            {**rows.hole_key(grid, gridsquare, key), **rows.location_values(hole)}
            for key, hole in new.items()
            if old is None or old.get(key) != hole
        ]
        recorded = self._record("foilhole", changed)
        withdrawn = self._withdraw(grid, gridsquare, uuid, set(new), old)
        self.memory.locations[uuid] = new
        return bool(recorded.changed or withdrawn)

    def _withdraw(
        self, grid: str, gridsquare: str, uuid: str, listed: set[str], old: dict[str, Any] | None
    ) -> bool:
        """Take back holes that EPU no longer plans; those with an image or micrographs stay."""
        if old is not None and not old.keys() - listed:
            return False
        hole, micrograph = schema.foilhole, schema.micrograph
        imaged = select(micrograph.c.number).where(micrograph.c.foilhole_uuid == hole.c.uuid)
        query = select(hole.c.foilhole_id, hole.c.manifest_file, imaged.exists()).where(
            hole.c.gridsquare_uuid == uuid, hole.c.planned
        )
        gone = [row for row in self.connection.execute(query) if row[0] not in listed]
        for identity, manifest, has_micrographs in gone:
            key = rows.hole_key(grid, gridsquare, identity)
            if manifest is None and not has_micrographs:
                remove(self.connection, "foilhole", key["uuid"])
                self.outcome.removed.setdefault(grid, set()).add(key["uuid"])
            else:
                self._record("foilhole", [{**key, "planned": False}])
        return bool(gone)

    def _gridsquares(self, batch: list[Read]) -> None:
        for found in batch:
            file = found.file
            manifest, instrument = found.entity
            grid = self.memory.grids[file.session]
            row = rows.square_key(grid, file.gridsquare)
            row |= rows.manifest_values(manifest, file) | self._position(grid, file.gridsquare)
            recorded = self._record("gridsquare", [row])
            self._set_instrument(file, instrument)
            self._done(found, row["uuid"], file.gridsquare, row["uuid"] in recorded.changed)

    def _foilholes(self, batch: list[Read]) -> None:
        keys = [
            rows.hole_key(
                self.memory.grids[found.file.session], found.file.gridsquare, found.file.foilhole
            )
            for found in batch
        ]
        stored = present(self.connection, "foilhole", [key["uuid"] for key in keys])
        found_rows = []
        for key, found in zip(keys, batch, strict=True):
            row = key | rows.hole_image_values(found.entity[0], found.file)
            if key["uuid"] not in stored:
                row["planned"] = False  # until a square's .dm lists it
            found_rows.append(row)
        recorded = self._record("foilhole", found_rows, stored)
        for key, found in zip(keys, batch, strict=True):
            self._set_instrument(found.file, found.entity[1])
            changed = key["uuid"] in recorded.changed
            self._done(found, key["uuid"], found.file.foilhole, changed)

    def _micrographs(self, batch: list[Read]) -> None:
        found_rows = [
            rows.micrograph_values(
                found.entity[0], found.file, self.memory.grids[found.file.session]
            )
            for found in batch
        ]
        stored = self._keep_apart(found_rows)
        self._take_moved([row for row in found_rows if row["uuid"] in stored])
        recorded = self._record("micrograph", found_rows, stored)
        for row, found in zip(found_rows, batch, strict=True):
            self._set_instrument(found.file, found.entity[1])
            changed = row["uuid"] in recorded.changed
            self._done(found, row["uuid"], row["micrograph_id"], changed)

    def _keep_apart(self, found: list[rows.Row]) -> set[str]:
        """Give a micrograph that another grid has too, in a copy of the tree, a uuid of its own.

        Returns
        -------
        set of str
            Uuids that are stored.
        """
        table = schema.micrograph
        ids = [row["uuid"] for row in found]
        query = select(table.c.uuid, table.c.grid_uuid).where(table.c.uuid.in_(ids))
        owner = {row.uuid: row.grid_uuid for row in self.connection.execute(query)}
        stored = set(owner)
        for row in found:
            grid = owner.setdefault(row["uuid"], row["grid_uuid"])
            if grid != row["grid_uuid"]:
                row["uuid"] = str(uuid5(NAMESPACE_URL, f"{row['grid_uuid']}/{row['uuid']}"))
                stored |= present(self.connection, "micrograph", [row["uuid"]])
        return stored

    def _take_moved(self, found: list[rows.Row]) -> None:
        """Let a file of the same time take the place of one that is not there any more.

        `record` refuses an older stamp, which orders by path too; without a stamp it takes any.
        """
        table = schema.micrograph
        stamps = {row["uuid"]: row["manifest_stamp"] for row in found}
        query = select(table.c.uuid, table.c.manifest_stamp, table.c.manifest_file)
        for row in self.connection.execute(query.where(table.c.uuid.in_(stamps))):
            before, file = row.manifest_stamp, row.manifest_file
            is_same_time = before and before.split()[0] == stamps[row.uuid].split()[0]
            if is_same_time and not os.access(self.memory.root / file, os.F_OK):
                mine = table.c.uuid == row.uuid
                set_values(self.connection, table, mine, manifest_stamp=None)
