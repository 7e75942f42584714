"""Entities as rows of the entity database."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from skywright.instruments.epu.database import foilhole_uuid, gridsquare_uuid, tile_uuid
from skywright.instruments.epu.entities import (
    SQUARE_FIELDS,
    Atlas,
    AtlasSquare,
    FoilHoleManifest,
    GridSquareManifest,
    GridSquareMetadata,
    HoleLocation,
    Instrument,
    Micrograph,
    Session,
)
from skywright.instruments.epu.names import EpuFile
from skywright.instruments.epu.paths import atlas_relative, cygwin_path

Row = dict[str, Any]

INSTRUMENT_COLUMNS = {
    "model": "instrument_model",
    "id": "instrument_id",
    "computer": "computer_name",
}
UNKNOWN = "Unknown"
"""Name of a session in the database whose ``EpuSession.dm`` gives none."""
SQUARE_COLUMNS = {name: name.replace("stage_", "stage_position_") for name in SQUARE_FIELDS}
"""The columns of the database by the names of the entities' fields."""


def instant(text: str | None) -> datetime | None:
    """Return an ISO 8601 time; more than microseconds are cut."""
    return None if text is None else datetime.fromisoformat(text)


def stamp_of(file: EpuFile) -> str:
    """Return what orders several manifests of one entity: time in the name, then the path."""
    return f"{file.stamp} {file.path}"


def session_values(session: Session) -> Row:
    """Return the columns of an acquisition that its ``EpuSession.dm`` gives."""
    radius = session.clustering_radius
    return {
        **asdict(session),
        "name": session.name or UNKNOWN,
        "start_time": instant(session.start_time),
        "storage_path": cygwin_path(session.storage_path),
        "atlas_path": atlas_relative(session.atlas_path, session.storage_path),
        "clustering_radius": None if radius is None else repr(radius),
    }


def instrument_values(instrument: Instrument) -> Row:
    """Return the columns of an acquisition that an image gives."""
    return {column: getattr(instrument, name) for name, column in INSTRUMENT_COLUMNS.items()}


def atlas_values(atlas: Atlas, path: str, uuid: str) -> Row:
    """Return the row of an atlas, without its grid."""
    return {
        "uuid": uuid,
        "atlas_id": atlas.id,
        "acquisition_date": instant(atlas.acquisition_date),
        "storage_folder": atlas.storage_folder,
        "description": atlas.description,
        "name": atlas.name or "",
        "path": path,
        "gridsquares": {key: asdict(square) for key, square in atlas.gridsquares.items()},
    }


def tile_values(atlas: Atlas, uuid: str) -> list[Row]:
    """Return the rows of an atlas's tiles."""
    return [
        {
            "uuid": tile_uuid(uuid, tile.id),
            "atlas_uuid": uuid,
            "tile_id": tile.id,
            "position_x": tile.position[0],
            "position_y": tile.position[1],
            "size_x": tile.size[0],
            "size_y": tile.size[1],
            "file_format": tile.file_format,
            "base_filename": tile.base_filename,
            "gridsquares": {
                key: [asdict(place) for place in places] for key, places in tile.gridsquares.items()
            },
        }
        for tile in atlas.tiles
    ]


def square_key(grid: str, gridsquare: str) -> Row:
    """Return the columns that every row of a square has."""
    return {
        "uuid": gridsquare_uuid(grid, gridsquare),
        "grid_uuid": grid,
        "gridsquare_id": gridsquare,
    }


def position_values(position: AtlasSquare) -> Row:
    """Return the columns of a square that the atlas gives."""
    return {
        "center_x": position.center[0],
        "center_y": position.center[1],
        "physical_x": position.physical[0],
        "physical_y": position.physical[1],
        "size_width": position.size[0],
        "size_height": position.size[1],
    }


def metadata_values(metadata: GridSquareMetadata, path: str) -> Row:
    """Return the columns of a square that its ``.dm`` gives."""
    return {
        **{column: getattr(metadata, name) for name, column in SQUARE_COLUMNS.items()},
        "image_path": cygwin_path(metadata.image_path),
        "n_foilhole_positions": len(metadata.holes),
        "metadata_file": path,
        "lowmag": False,
    }


def manifest_values(manifest: GridSquareManifest, file: EpuFile) -> Row:
    """Return the columns of a square that its image gives."""
    row = manifest._asdict()
    row["acquisition_datetime"] = instant(manifest.acquisition_datetime)
    row["lowmag"] = False
    row["manifest_file"] = file.path
    row["manifest_stamp"] = stamp_of(file)
    return row


def hole_key(grid: str, gridsquare: str, foilhole: str) -> Row:
    """Return the columns that every row of a hole has."""
    return {
        "uuid": foilhole_uuid(grid, gridsquare, foilhole),
        "grid_uuid": grid,
        "gridsquare_uuid": gridsquare_uuid(grid, gridsquare),
        "gridsquare_id": gridsquare,
        "foilhole_id": foilhole,
    }


def location_values(hole: HoleLocation) -> Row:
    """Return the columns of a hole that the square's ``.dm`` gives."""
    row = hole._asdict()
    del row["id"]  # it is in `hole_key`
    return {**row, "planned": True}


def hole_image_values(manifest: FoilHoleManifest, file: EpuFile) -> Row:
    """Return the columns of a hole that its image gives."""
    return {**manifest._asdict(), "manifest_file": file.path, "manifest_stamp": stamp_of(file)}


def micrograph_values(micrograph: Micrograph, file: EpuFile, grid: str) -> Row:
    """Return the row of a micrograph; its hole and square are those of its path."""
    row = micrograph._asdict()
    row["micrograph_id"] = row["uuid"] = row.pop("id")
    row["acquisition_datetime"] = instant(micrograph.acquisition_datetime)
    row["grid_uuid"] = grid
    row["gridsquare_id"] = file.gridsquare
    row["gridsquare_uuid"] = gridsquare_uuid(grid, file.gridsquare)
    row["foilhole_id"] = file.foilhole
    row["foilhole_uuid"] = foilhole_uuid(grid, file.gridsquare, file.foilhole)
    row["location_id"] = file.location
    row["manifest_file"] = file.path
    row["manifest_stamp"] = stamp_of(file)
    return row
