"""The entity database of EPU sessions: a SQLite file, or PostgreSQL by URL.

`open_database` gives a `Database`; `Database.write` and `Database.read` give SQLAlchemy
connections; `record`, `remove` and the functions of `read` work on those connections. All of it can
be rebuilt from the tree that EPU wrote, but for what others sent: predictions, results of
processing, instructions.
"""

from skywright.instruments.epu.database.engine import (
    Database,
    is_away,
    open_database,
    reason_of,
    report_failure,
)
from skywright.instruments.epu.database.identity import (
    acquisition_uuid,
    atlas_uuid,
    foilhole_uuid,
    grid_uuid,
    gridsquare_uuid,
    tile_uuid,
)
from skywright.instruments.epu.database.write import Recorded, record, record_files, remove

__all__ = [
    "Database",
    "Recorded",
    "acquisition_uuid",
    "atlas_uuid",
    "foilhole_uuid",
    "grid_uuid",
    "gridsquare_uuid",
    "is_away",
    "open_database",
    "reason_of",
    "record",
    "record_files",
    "remove",
    "report_failure",
    "tile_uuid",
]
