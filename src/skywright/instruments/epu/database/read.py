"""Queries of the entity database: one entity, pages of children, entities by what they are."""

import operator
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select

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
    order_by: str = "number",
    descending: bool = False,
    **parent: str,
) -> list[Row]:
    """Give entities, in the order in which they were first stored or in that of another column.

    Rows with the same value follow each other in the order in which they were stored (the opposite
    one if `descending`), so pages neither repeat nor skip one. Rows without a value come last.

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
    order_by, descending
        Column, and whether the largest comes first.
    **parent
        Uuid of a parent by column, such as ``foilhole_uuid="..."``.
    """
    table = schema.ENTITIES[kind]
    columns = [table.c[order_by], table.c.number]
    order = [column.desc() if descending else column.asc() for column in columns]
    if table.c[order_by].nullable:  # SQLite and PostgreSQL put NULL at different ends
        order[0] = order[0].nulls_last()
    query = select(table).where(*where).order_by(*order)
    for column, uuid in parent.items():
        query = query.where(table.c[column] == uuid)
    if limit is not None or offset:
        query = query.limit(limit).offset(offset)
    return list(connection.execute(query).mappings())


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


def within(column: Any, least: Any, most: Any) -> list[ColumnElement[bool]]:
    """Return the conditions that a column is in a range; an end that is None is open."""
    ends = ((operator.ge, least), (operator.le, most))
    return [compare(column, end) for compare, end in ends if end is not None]


def is_orphan() -> ColumnElement[bool]:
    """Give the condition for micrographs whose hole is not stored."""
    hole = schema.foilhole.c
    return ~select(hole.number).where(hole.uuid == schema.micrograph.c.foilhole_uuid).exists()


def last_change(connection: Connection) -> int:
    """Give the number of the last change of a micrograph."""
    query = select(schema.setting.c.value).where(schema.setting.c.name == CHANGES)
    return int(connection.execute(query).scalar() or 0)
