"""The JSON document of a watched directory, as ``parse dir`` has it, from the entity database."""

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from skywright.instruments.epu.database import schema
from skywright.instruments.epu.document import GridRows, Issue, Row, document_chunks
from skywright.instruments.epu.entities import (
    LOCATION_FIELDS,
    FoilHoleManifest,
    GridSquareManifest,
    Micrograph,
    Session,
)
from skywright.instruments.epu.names import SESSION_NAME, Kind, below_sample
from skywright.instruments.epu.tree import orphan_issue
from skywright.instruments.epu.watch.rows import INSTRUMENT_COLUMNS, SQUARE_COLUMNS, UNKNOWN

MISSING_SESSION = "EpuSession.dm is missing here"


def database_chunks(
    connection: Connection, root: Path, unlisted: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    """Yield the document of the records of the directory `root`, piece by piece.

    `unlisted` are directories that could not be listed, and why, by path.
    """
    document = _Document(connection, root)
    document.issues += [Issue("directory", *each) for each in sorted(unlisted.items())]
    return document.chunks()


def _time(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()


class _Document:
    def __init__(self, connection: Connection, root: Path) -> None:
        self.connection = connection
        self.root = root
        self.issues: list[Issue] = []
        self.atlases = {row["uuid"]: row for row in self._rows(select(schema.atlas))}
        self.grids = self._grids()

    def _rows(self, query: Any) -> list[RowMapping]:
        return list(self.connection.execute(query).mappings())

    def _grids(self) -> list[tuple[RowMapping, RowMapping]]:
        """Return the (acquisition, grid) rows of the sessions below the root."""
        file = schema.source_file
        used = select(file.c.grid_uuid).where(
            file.c.root == str(self.root), file.c.grid_uuid.is_not(None)
        )
        grids = self._rows(select(schema.grid).where(schema.grid.c.uuid.in_(used)))
        acquisitions = {row["uuid"]: row for row in self._rows(select(schema.acquisition))}
        pairs = [(acquisitions[grid["acquisition_uuid"]], grid) for grid in grids]
        return sorted(pairs, key=lambda pair: pair[0]["data_dir"])

    def chunks(self) -> Iterator[str]:
        self._file_issues()
        return document_chunks(
            self._session_rows(), self._atlas_rows(), self._grid_rows(), self.issues
        )

    def _file_issues(self) -> None:
        file = schema.source_file
        query = select(file).where(file.c.root == str(self.root), file.c.problem.is_not(None))
        unreadable = set()
        for row in self._rows(query.order_by(file.c.path)):
            if row["digest"] is None:
                unreadable.add(row["path"])
                self.issues.append(Issue("unreadable", row["path"], row["problem"]))
                continue
            for problem in row["problem"].splitlines():
                kind = "repeated" if problem.startswith("foil holes listed") else "value"
                self.issues.append(Issue(kind, row["path"], problem))
        for acquisition, grid in self.grids:
            path = acquisition["data_dir"]
            if acquisition["id"] is None:
                if posixpath.normpath(f"{path}/{SESSION_NAME}") in unreadable:
                    continue
                self.issues.append(Issue("session", path, MISSING_SESSION))
            elif acquisition["atlas_path"] is not None and grid["atlas_uuid"] is None:
                text = f"the session's atlas is not found: {acquisition['atlas_path']}"
                self.issues.append(Issue("atlas", path, text))

    def _session_rows(self) -> Iterator[Row]:
        for row, _ in self.grids:
            if row["id"] is None:
                continue
            radius = row["clustering_radius"]
            yield {
                **{each.name: row[each.name] for each in fields(Session)},
                "name": None if row["name"] == UNKNOWN else row["name"],
                "start_time": _time(row["start_time"]),
                "clustering_radius": None if radius is None else float(radius),
                "data_dir": row["data_dir"],
                "instrument": {name: row[column] for name, column in INSTRUMENT_COLUMNS.items()},
            }

    def _atlas_rows(self) -> Iterator[Row]:
        file = schema.source_file.c
        query = select(file.entity_uuid, file.path).where(
            file.root == str(self.root), file.kind == Kind.ATLAS.value
        )
        paths = dict(self.connection.execute(query).tuples().all())
        linked = {grid["atlas_uuid"] for _, grid in self.grids}
        found = [
            {**row, "path": paths.get(uuid, row["path"])}
            for uuid, row in self.atlases.items()
            if uuid in paths or uuid in linked
        ]
        some_below_sample = any(below_sample(row["path"]) for row in found)
        for row in sorted(found, key=lambda row: row["path"]):
            if some_below_sample and not below_sample(row["path"]) and row["uuid"] not in linked:
                continue
            yield {
                "id": row["atlas_id"],
                "name": row["name"] or None,
                "acquisition_date": _time(row["acquisition_date"]),
                "storage_folder": row["storage_folder"],
                "description": row["description"],
                "tiles": self._tiles(row["uuid"]),
                "gridsquares": row["gridsquares"],
                "path": row["path"],
            }

    def _tiles(self, atlas: str) -> list[Row]:
        table = schema.atlas_tile
        query = select(table).where(table.c.atlas_uuid == atlas).order_by(table.c.number)
        return [
            {
                "id": row["tile_id"],
                "position": [row["position_x"], row["position_y"]],
                "size": [row["size_x"], row["size_y"]],
                "file_format": row["file_format"],
                "base_filename": row["base_filename"],
                "gridsquares": row["gridsquares"],
            }
            for row in self._rows(query)
        ]

    def _grid_rows(self) -> Iterator[GridRows]:
        for acquisition, grid in self.grids:
            atlas = self.atlases.get(grid["atlas_uuid"])
            holes: set[str] = set()
            yield GridRows(
                acquisition["id"],
                acquisition["data_dir"],
                atlas["atlas_id"] if atlas else None,
                self._foilholes(grid["uuid"], holes),
                self._gridsquares(grid["uuid"]),
                self._micrographs(grid["uuid"], holes),
            )

    def _gridsquares(self, grid: str) -> Iterator[Row]:
        table = schema.gridsquare
        query = select(table).where(table.c.grid_uuid == grid).order_by(table.c.gridsquare_id)
        for row in self._rows(query):
            if row["metadata_file"] is None and row["manifest_file"] is None:
                continue  # known from the atlas only
            yield {
                "id": row["gridsquare_id"],
                **{name: row[name] for name in schema.PLACE},
                **{name: row[column] for name, column in SQUARE_COLUMNS.items()},
                **{name: row[name] for name in GridSquareManifest._fields},
                "acquisition_datetime": _time(row["acquisition_datetime"]),
                "n_foilhole_positions": row["n_foilhole_positions"],
            }

    def _foilholes(self, grid: str, holes: set[str]) -> Iterator[Row]:
        table = schema.foilhole
        query = select(table).where(table.c.grid_uuid == grid).order_by(table.c.number)
        for row in self.connection.execute(query).mappings():
            planned = row["planned"]
            if not planned and row["manifest_file"] is None:
                continue  # taken back by EPU; kept in the database for its micrographs
            holes.add(row["foilhole_id"])
            yield {
                "id": row["foilhole_id"],
                "gridsquare_id": row["gridsquare_id"],
                **{name: row[name] for name in FoilHoleManifest._fields},
                **{name: row[name] if planned else None for name in LOCATION_FIELDS},
                "is_near_grid_bar": row["is_near_grid_bar"] if planned else False,
            }

    def _micrographs(self, grid: str, holes: set[str]) -> Iterator[str]:
        table = schema.micrograph
        names = [name for name in Micrograph._fields if name != "id"]
        extra = ("micrograph_id", "gridsquare_id", "foilhole_id", "location_id", "manifest_file")
        query = select(*[table.c[name] for name in (*names, *extra)])
        query = query.where(table.c.grid_uuid == grid).order_by(table.c.number)
        for values in self.connection.execute(query):
            row = dict(zip((*names, *extra), values, strict=True))
            row["id"] = row.pop("micrograph_id")
            row["file"] = row.pop("manifest_file")
            row["acquisition_datetime"] = _time(row["acquisition_datetime"])
            if row["foilhole_id"] not in holes:
                self.issues.append(orphan_issue(row["file"], row["foilhole_id"]))
            yield json.dumps(row)
