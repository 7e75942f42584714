"""Deterministic uuids of entities that are read from a tree.

The same tree gives the same uuids on every machine and after every restart, unless the database has
other ones of the directory, see `load_memory`. Sessions and atlases are known by their path, which
begins with the name of the watched directory: the path below it alone is the same in several
visits. A square id recurs in every session that uses the same atlas, so ids below a session include
the session. A micrograph needs none: its manifest holds a uuid (``uniqueID``).
"""

from uuid import NAMESPACE_URL, uuid5

_NAMESPACE = uuid5(NAMESPACE_URL, "https://skywright/epu")


def _uuid(kind: str, *parts: str) -> str:
    return str(uuid5(_NAMESPACE, "\n".join((kind, *parts))))


def acquisition_uuid(path: str) -> str:
    """Uuid of the acquisition whose session directory is `path`, see `Memory.portable_path`."""
    return _uuid("acquisition", path)


def grid_uuid(acquisition: str) -> str:
    """Uuid of the one grid of the acquisition with uuid `acquisition`."""
    return _uuid("grid", acquisition)


def atlas_uuid(path: str) -> str:
    """Uuid of the atlas in the file `path`, see `Memory.portable_path`."""
    return _uuid("atlas", path)


def tile_uuid(atlas: str, tile_id: str) -> str:
    """Uuid of the tile `tile_id` of the atlas with uuid `atlas`."""
    return _uuid("tile", atlas, tile_id)


def gridsquare_uuid(grid: str, gridsquare_id: str) -> str:
    """Uuid of the square `gridsquare_id` of the grid with uuid `grid`."""
    return _uuid("gridsquare", grid, gridsquare_id)


def foilhole_uuid(grid: str, gridsquare_id: str, foilhole_id: str) -> str:
    """Uuid of the hole `foilhole_id` of a square of the grid with uuid `grid`."""
    return _uuid("foilhole", grid, gridsquare_id, foilhole_id)
