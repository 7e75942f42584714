"""Queries of the entity database: one entity, pages of children, micrographs by what they are."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, func, select

from skywright.instruments.epu.database import schema
from skywright.instruments.epu.database.write import CHANGES

Row = RowMapping


def get(connection: Connection, kind: str, uuid: str) -> Row | None:
    """Give all columns of one entity, or None."""
    table = schema.ENTITIES[kind]
    return connection.execute(select(table).where(table.c.uuid == uuid)).mappings().first()


def page(
    connection: Connection,
    kind: str,
    *where: ColumnElement[bool],
    limit: int | None = None,
    offset: int = 0,
    **parent: str,
) -> list[Row]:
    """Give entities in the order in which they were first stored.

    Parameters
    ----------
    connection
        From `Database.read` or `Database.write`.
    kind
        Kind of entity, a key of `schema.ENTITIES`.
    *where
        More conditions.
    limit, offset
        Page of the list; a `limit` of None is all.
    **parent
        Uuid of a parent by column, such as ``foilhole_uuid="..."``.
    """
    table = schema.ENTITIES[kind]
    query = select(table).order_by(table.c.number)
    for column, uuid in parent.items():
        query = query.where(table.c[column] == uuid)
    return _rows(connection, query.where(*where), limit, offset)


def is_in_directory(root: Path) -> ColumnElement[bool]:
    """Return the condition that a row of ``grid`` belongs to the watched directory `root`.

    A database may hold several directories. A grid of which no file is recorded came over the API
    and belongs to each of them.
    """
    file = schema.source_file
    of_grid = select(file.c.path).where(file.c.grid_uuid == schema.grid.c.uuid)
    return of_grid.where(file.c.root == str(root)).exists() | ~of_grid.exists()


def count(connection: Connection, kind: str, **parent: str) -> int:
    """Count the entities of a kind, all or those below one parent."""
    table = schema.ENTITIES[kind]
    query = select(func.count()).select_from(table)
    for column, uuid in parent.items():
        query = query.where(table.c[column] == uuid)
    return connection.execute(query).scalar_one()


@dataclass(frozen=True)
class MicrographQuery:
    """Which micrographs, in what order.

    Attributes
    ----------
    acquisition, grid, gridsquare, foilhole
        Uuid of a parent.
    defocus
        Smallest and largest defocus, metres; None is open.
    time
        Earliest and latest time of acquisition; None is open.
    order_by
        ``number`` (order of arrival), ``acquisition_datetime`` or ``defocus``.
    descending
        Largest first.
    """

    acquisition: str | None = None
    grid: str | None = None
    gridsquare: str | None = None
    foilhole: str | None = None
    defocus: tuple[float | None, float | None] = (None, None)
    time: tuple[datetime | None, datetime | None] = (None, None)
    order_by: str = "number"
    descending: bool = False


def micrographs(
    connection: Connection, query: MicrographQuery, limit: int | None = None, offset: int = 0
) -> list[Row]:
    """Give the micrographs that `query` describes, a page at a time.

    Rows with the same value follow each other in the order of arrival, so pages neither repeat
    nor skip one.
    """
    table = schema.micrograph
    statement = select(table)
    for column, uuid in (
        ("foilhole_uuid", query.foilhole),
        ("gridsquare_uuid", query.gridsquare),
        ("grid_uuid", query.grid),
    ):
        if uuid is not None:
            statement = statement.where(table.c[column] == uuid)
    if query.acquisition is not None:
        grids = select(schema.grid.c.uuid).where(
            schema.grid.c.acquisition_uuid == query.acquisition
        )
        statement = statement.where(table.c.grid_uuid.in_(grids))
    for name, (low, high) in (("defocus", query.defocus), ("acquisition_datetime", query.time)):
        if low is not None:
            statement = statement.where(table.c[name] >= low)
        if high is not None:
            statement = statement.where(table.c[name] <= high)
    columns = [table.c[query.order_by], table.c.number]
    order = [column.desc() if query.descending else column.asc() for column in columns]
    return _rows(connection, statement.order_by(*order), limit, offset)


def is_orphan() -> ColumnElement[bool]:
    """Give the condition for micrographs whose hole is not stored."""
    hole = schema.foilhole.c
    return ~select(hole.number).where(hole.uuid == schema.micrograph.c.foilhole_uuid).exists()


def last_change(connection: Connection) -> int:
    """Give the number of the last change of a micrograph."""
    query = select(schema.setting.c.value).where(schema.setting.c.name == CHANGES)
    return int(connection.execute(query).scalar() or 0)


def _rows(connection: Connection, query: Select[Any], limit: int | None, offset: int) -> list[Row]:
    if limit is not None or offset:
        query = query.limit(limit).offset(offset)
    return list(connection.execute(query).mappings())
