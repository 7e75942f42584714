"""Tables of the entity database, the same on SQLite and on PostgreSQL.

Every entity has a `uuid`, which its maker chooses, and a `number`, which the database gives and
which is the order of lists. EPU's files arrive in any order, so the links micrograph -> foil hole
-> grid square are plain columns: a child may be stored before its parent. `grid_uuid` is on every
row below a grid, is a real foreign key, and answers "everything of this grid" from one index.

Units are SI except pixels and `physical_x`, `physical_y` (nanometres).
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = JSON().with_variant(JSONB(), "postgresql")
"""JSON that can be compared; PostgreSQL's plain type cannot."""

BigId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up only in a column of type INTEGER."""


class Instant(TypeDecorator[datetime]):
    """A time that keeps its instant: stored as UTC, read with time zone UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; a time without offset is taken as UTC."""
        if value is None:
            return None
        aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return aware.replace(tzinfo=None) if dialect.name == "sqlite" else aware

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give the time with its time zone, whatever the server's own zone is."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class AcquisitionStatus(StrEnum):
    """States of an acquisition, which is one EPU session."""

    PLANNED = "planned"
    STARTED = "started"
    COMPLETED = "completed"
    PAUSED = "paused"
    ABANDONED = "abandoned"


class GridStatus(StrEnum):
    """States of a grid."""

    NONE = "none"
    SCAN_STARTED = "scan started"
    SCAN_COMPLETED = "scan completed"
    DECISION_STARTED = "grid squares decision started"
    DECISION_COMPLETED = "grid squares decision completed"


class GridSquareStatus(StrEnum):
    """States of a grid square."""

    NONE = "none"
    REGISTERED = "all foil holes registered"
    DECISION_STARTED = "foil holes decision started"
    DECISION_COMPLETED = "foil holes decision completed"


class FoilHoleStatus(StrEnum):
    """States of a foil hole."""

    NONE = "none"
    MICROGRAPHS_DETECTED = "micrographs detected"


class MicrographStatus(StrEnum):
    """States of a micrograph: each step of processing starts and completes."""

    NONE = "none"
    MOTION_CORRECTION_STARTED = "motion correction started"
    MOTION_CORRECTION_COMPLETED = "motion correction completed"
    CTF_STARTED = "ctf started"
    CTF_COMPLETED = "ctf completed"
    PARTICLE_PICKING_STARTED = "particle picking started"
    PARTICLE_PICKING_COMPLETED = "particle picking completed"
    PARTICLE_SELECTION_STARTED = "particle selection started"
    PARTICLE_SELECTION_COMPLETED = "particle selection completed"


def counted(name: str = "number") -> Column[int]:
    """Return a key that the database counts up."""
    return Column(name, BigId, primary_key=True, autoincrement=True)


def _uuid() -> Column[str]:
    return Column("uuid", Text, nullable=False, unique=True)


def parent(name: str, key: str, **options: Any) -> Column[str]:
    """Return a column `name` that holds the `key` of the row with which this one is deleted."""
    return Column(name, Text, ForeignKey(key, ondelete="CASCADE"), **options)


PLACE = ("center_x", "center_y", "size_width", "size_height")
"""Columns of the place of a square, on an atlas or on a tile; pixels."""


def _columns(kind: Any, *names: str) -> list[Column[Any]]:
    return [Column(name, kind) for name in names]


acquisition = Table(
    "acquisition",
    metadata,
    counted(),
    _uuid(),
    Column("id", Text),
    Column("name", Text, nullable=False, server_default="Unknown"),
    Column("status", Text, nullable=False, server_default=AcquisitionStatus.STARTED),
    *_columns(Instant, "start_time", "end_time", "paused_time"),
    *_columns(Text, "storage_path", "atlas_path", "clustering_mode", "clustering_radius"),
    *_columns(Text, "instrument_model", "instrument_id", "computer_name", "data_dir"),
)

grid = Table(
    "grid",
    metadata,
    counted(),
    _uuid(),
    parent("acquisition_uuid", "acquisition.uuid", nullable=False),
    Column("name", Text, nullable=False, server_default="Unknown"),
    Column("status", Text, nullable=False, server_default=GridStatus.NONE),
    *_columns(Text, "data_dir", "atlas_dir"),
    # Several grids may share an atlas, which is stored once; no key, since an atlas has a grid.
    Column("atlas_uuid", Text),
    *_columns(Instant, "scan_start_time", "scan_end_time"),
    Index(None, "acquisition_uuid", "number"),
    Index(None, "atlas_uuid"),
)

atlas = Table(
    "atlas",
    metadata,
    counted(),
    _uuid(),
    Column("atlas_id", Text, nullable=False, server_default=""),
    parent("grid_uuid", "grid.uuid"),  # None until a session names this atlas.
    Column("acquisition_date", Instant),
    *_columns(Text, "storage_folder", "description"),
    Column("name", Text, nullable=False, server_default=""),
    Column("path", Text),
    # Square id -> position on the atlas, as `parse dir` prints it: also of squares without a row.
    Column("gridsquares", Json),
    Index(None, "grid_uuid", "number"),
)

atlas_tile = Table(
    "atlas_tile",
    metadata,
    counted(),
    _uuid(),
    parent("atlas_uuid", "atlas.uuid", nullable=False),
    Column("tile_id", Text, nullable=False, server_default=""),
    *_columns(Float, "position_x", "position_y", "size_x", "size_y"),
    *_columns(Text, "file_format", "base_filename"),
    Column("gridsquares", Json),  # Square id -> list of positions on this tile.
    Index(None, "atlas_uuid", "number"),
)

atlas_tile_position = Table(
    "atlas_tile_position",
    metadata,
    counted(),
    parent("atlastile_uuid", "atlas_tile.uuid", nullable=False),
    parent("gridsquare_uuid", "gridsquare.uuid", nullable=False),
    *[Column(name, Float, nullable=False) for name in PLACE],
    Index("uq_atlas_tile_position", "atlastile_uuid", "gridsquare_uuid", unique=True),
    Index(None, "gridsquare_uuid"),
)

gridsquare = Table(
    "gridsquare",
    metadata,
    counted(),
    _uuid(),
    parent("grid_uuid", "grid.uuid", nullable=False),
    Column("gridsquare_id", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default=GridSquareStatus.NONE),
    Column("data_dir", Text),
    Column("atlas_node_id", BigInteger),
    Column("state", Text),
    Column("rotation", Float),
    Column("image_path", Text),
    *_columns(Boolean, "selected", "unusable"),
    *_columns(Float, "stage_position_x", "stage_position_y", "stage_position_z"),
    *_columns(Float, "center_x", "center_y", "physical_x", "physical_y"),
    *_columns(Float, "size_width", "size_height"),
    Column("acquisition_datetime", Instant),
    *_columns(Float, "defocus", "applied_defocus", "magnification", "pixel_size"),
    Column("detector_name", Text),
    Column("n_foilhole_positions", Integer),
    Column("lowmag", Boolean, nullable=False, server_default="0"),
    Column("metadata_file", Text),
    Column("manifest_file", Text),
    # Date and time in the manifest's name, "YYYYMMDD_HHMMSS": the newest manifest counts.
    Column("manifest_stamp", Text),
    Index(None, "grid_uuid", "gridsquare_id"),
)

foilhole = Table(
    "foilhole",
    metadata,
    counted(),
    _uuid(),
    parent("grid_uuid", "grid.uuid", nullable=False),
    Column("gridsquare_uuid", Text, nullable=False),
    Column("gridsquare_id", Text),
    Column("foilhole_id", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default=FoilHoleStatus.NONE),
    *_columns(Float, "center_x", "center_y", "quality", "rotation", "size_width", "size_height"),
    *_columns(Float, "x_location", "y_location", "x_stage_position", "y_stage_position"),
    Column("diameter", Float),
    Column("is_near_grid_bar", Boolean, nullable=False, server_default="0"),
    # False for a hole with a manifest or micrographs that the newest square .dm does not list.
    Column("planned", Boolean, nullable=False, server_default="1"),
    Column("manifest_file", Text),
    Column("manifest_stamp", Text),
    Index(None, "gridsquare_uuid", "number"),
    Index(None, "grid_uuid", "foilhole_id"),
)

micrograph = Table(
    "micrograph",
    metadata,
    counted(),
    _uuid(),
    parent("grid_uuid", "grid.uuid", nullable=False),
    Column("gridsquare_uuid", Text, nullable=False),
    Column("foilhole_uuid", Text, nullable=False),
    *_columns(Text, "gridsquare_id", "foilhole_id", "location_id", "micrograph_id"),
    Column("status", Text, nullable=False, server_default=MicrographStatus.NONE),
    *_columns(Text, "high_res_path", "manifest_file", "manifest_stamp"),
    Column("acquisition_datetime", Instant),
    *_columns(Float, "defocus", "applied_defocus", "magnification", "pixel_size"),
    Column("detector_name", Text),
    *_columns(Boolean, "energy_filter", "phase_plate"),
    *_columns(Integer, "image_size_x", "image_size_y", "binning_x", "binning_y", "fractions"),
    *_columns(Float, "exposure_time", "dose", "high_tension"),
    *_columns(Float, "stage_x", "stage_y", "stage_z", "beam_shift_x", "beam_shift_y"),
    *_columns(Float, "total_motion", "average_motion", "ctf_max_resolution_estimate"),
    *_columns(
        Integer,
        "number_of_particles_picked",
        "number_of_particles_selected",
        "number_of_particles_rejected",
    ),
    *_columns(Text, "pick_distribution", "selection_distribution"),
    *_columns(Text, "motion_corrected_image_path", "motion_corrected_snapshot_path"),
    Column("updated_at", Instant),
    # Number of the last change of any micrograph's values, in the order of the commits.
    Column("change", BigInteger),
    Index(None, "foilhole_uuid", "number"),
    Index(None, "gridsquare_uuid", "number"),
    Index(None, "grid_uuid", "number"),
    Index(None, "grid_uuid", "acquisition_datetime"),
    Index(None, "grid_uuid", "defocus"),
    Index(None, "change"),
)

source_file = Table(
    "source_file",
    metadata,
    Column("root", Text, primary_key=True),  # The watched directory.
    Column("path", Text, primary_key=True),  # Relative to it, with "/".
    Column("kind", Text, nullable=False),
    Column("grid_uuid", Text),
    Column("entity_uuid", Text),
    Column("size", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("digest", Text),
    # Why the file could not be read; of a file that could (it has a digest): its values of a
    # wrong type and repeated holes, one a line.
    Column("problem", Text),
    Column("recorded_at", Instant),
    Index(None, "grid_uuid"),
    Index(None, "kind", "entity_uuid"),
)

run_rows = Table(
    "run_rows",
    metadata,
    Column("grid_uuid", Text, primary_key=True),
    Column("kind", Text, primary_key=True),  # gridsquare, foilhole, micrograph, result
    Column("run_uid", Text, primary_key=True),
    Column("amends", Text),
    Column("first_row", BigInteger, nullable=False),
    Column("last_row", BigInteger, nullable=False),  # Past the last row handed over.
    Column("started_at", Instant),
    Column("ended_at", Instant),
)

ENTITIES: dict[str, Table] = {
    table.name: table
    for table in (acquisition, grid, atlas, atlas_tile, gridsquare, foilhole, micrograph)
}
"""Table of each kind of entity, parents first; the names are those of the broker's messages."""

setting = Table(
    "setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
