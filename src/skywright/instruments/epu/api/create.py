"""Creating entities by request: parents are checked, a known uuid is no second entity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import HTTPException
from sqlalchemy import Connection, select

from skywright.instruments.epu.api.kinds import KINDS
from skywright.instruments.epu.database import schema
from skywright.instruments.epu.database.read import Row, get
from skywright.instruments.epu.database.write import chunks, record
from skywright.instruments.epu.database.writer import Bulk

_INHERITED = {
    "foilhole": ("grid_uuid", "gridsquare_id"),
    "micrograph": ("grid_uuid", "gridsquare_uuid", "gridsquare_id"),
}
"""Columns that a child has from its parent."""


def missing(kind: str) -> HTTPException:
    """Give the error 404 for an entity that is not stored."""
    return HTTPException(404, f"{KINDS[kind].title} not found")


def stored(connection: Connection, kind: str, uuid: str) -> Row:
    """Give an entity.

    Raises
    ------
    HTTPException
        404: it is not stored.
    """
    row = get(connection, kind, uuid)
    if row is None:
        raise missing(kind)
    return row


@dataclass(frozen=True)
class Creation:
    """Entities that one request creates, all or none.

    Attributes
    ----------
    kind
        Their kind.
    parent
        Uuid of their common parent; None for an acquisition.
    rows
        Columns that the request gives.
    fresh
        Whether a uuid that is stored already is a conflict (409).
    """

    kind: str
    parent: str | None
    rows: Sequence[dict[str, Any]]
    fresh: bool = False


@dataclass(frozen=True)
class Created:
    """The stored rows of a creation, in its order, and whether any of them is new."""

    rows: list[Row]
    new: bool


def _create(
    kind: str, connection: Connection, creations: Sequence[Creation]
) -> list[Created | HTTPException]:
    """Do creations of several requests; each succeeds or fails for itself.

    An entity that is stored already under the same parent is updated by the columns that are given,
    so that a client may send again what it got no answer to.
    """
    above, column = KINDS[kind].parent, KINDS[kind].column
    wanted = [creation.parent or "" for creation in creations]
    parents = {} if above is None else _rows(connection, above, wanted)
    uuids = [row["uuid"] for creation in creations for row in creation.rows]
    rows = _rows(connection, kind, uuids)
    known = {uuid: row[column] if column else None for uuid, row in rows.items()}
    stored_before = set(known)
    outcomes: list[HTTPException | list[str]] = []
    accepted: list[dict[str, Any]] = []
    for creation in creations:
        problem = _problem(creation, parents, known)
        if problem is not None:
            outcomes.append(problem)
            continue
        accepted += [_complete(creation, row, parents, rows) for row in creation.rows]
        known |= {row["uuid"]: creation.parent for row in creation.rows}
        outcomes.append([row["uuid"] for row in creation.rows])
    made = record(connection, kind, accepted, known=stored_before)
    by_uuid = _rows(connection, kind, [row["uuid"] for row in accepted])
    return [
        outcome
        if isinstance(outcome, HTTPException)
        else Created([by_uuid[uuid] for uuid in outcome], not made.created.isdisjoint(outcome))
        for outcome in outcomes
    ]


CREATE: dict[str, Bulk] = {kind: partial(_create, kind) for kind in schema.ENTITIES}
"""For `Writer.do_together`: does several creations of a kind at once."""


def create(connection: Connection, creation: Creation) -> Created:
    """Do one creation.

    Raises
    ------
    HTTPException
        404: the parent is not stored; 409: conflict with what is stored.
    """
    (outcome,) = _create(creation.kind, connection, [creation])
    if isinstance(outcome, HTTPException):
        raise outcome
    return outcome


def _rows(connection: Connection, kind: str, uuids: Sequence[str]) -> dict[str, Row]:
    table = schema.ENTITIES[kind]
    rows: dict[str, Row] = {}
    for part in chunks(list(dict.fromkeys(uuids))):
        query = select(table).where(table.c.uuid.in_(part))
        rows |= {row["uuid"]: row for row in connection.execute(query).mappings()}
    return rows


def _problem(
    creation: Creation, parents: Mapping[Any, Row], known: dict[str, str | None]
) -> HTTPException | None:
    title, above = KINDS[creation.kind].title, KINDS[creation.kind].parent
    if above is not None and creation.parent not in parents:
        return missing(above)
    for row in creation.rows:
        uuid = row["uuid"]
        if uuid not in known:
            continue
        if creation.fresh:
            return HTTPException(409, f"{title} {uuid} exists already")
        if known[uuid] != creation.parent:
            return HTTPException(409, f"{title} {uuid} exists already under another parent")
    return None


def _complete(
    creation: Creation, row: dict[str, Any], parents: Mapping[Any, Row], rows: Mapping[str, Row]
) -> dict[str, Any]:
    column = KINDS[creation.kind].column
    if column is None:
        return row
    parent = parents[creation.parent]
    inherited = {name: parent[name] for name in _INHERITED.get(creation.kind, ())}
    # The message of a change has a name that depends on ``lowmag``.
    before = rows.get(row["uuid"]) if creation.kind == "gridsquare" else None
    kept = {} if before is None else {"lowmag": before["lowmag"]}
    return inherited | kept | row | {column: creation.parent}
