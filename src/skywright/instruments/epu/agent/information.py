"""What the agent answers about its database."""

from typing import Any

from sqlalchemy import func, select

from skywright.instruments.epu.database import Database, read, schema

MOST = 100
"""Entries of a list in one answer; ``count`` is that of all."""


def counts(database: Database) -> dict[str, int]:
    """Count the stored entities by kind."""
    with database.read() as connection:
        return {kind: read.count(connection, kind) for kind in schema.ENTITIES}


def errors(database: Database) -> dict[str, Any]:
    """Give the files that cannot be read, or only in part, and why."""
    file = schema.source_file.c
    query = select(file.path, file.problem).where(file.problem.is_not(None))
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
        rows = connection.execute(query.order_by(file.path).limit(MOST)).all()
    return {"count": total, "errors": [{"path": path, "problem": why} for path, why in rows]}


def orphans(database: Database) -> dict[str, Any]:
    """Give the micrographs whose hole is not stored."""
    query = select(schema.micrograph.c.uuid).where(read.is_orphan())
    with database.read() as connection:
        found = list(connection.execute(query).scalars())
    return {"count": len(found), "micrographs": found[:MOST]}
