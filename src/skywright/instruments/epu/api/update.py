"""Changing an entity by request: only what is given changes."""

from typing import Any

from fastapi import HTTPException
from sqlalchemy import Connection

from skywright.instruments.epu.api.create import stored
from skywright.instruments.epu.api.kinds import KINDS
from skywright.instruments.epu.database import schema
from skywright.instruments.epu.database.read import Row
from skywright.instruments.epu.database.write import change_micrographs, record, set_values

_IDS = ("id", "atlas_id", "tile_id", "gridsquare_id", "foilhole_id", "micrograph_id")
_LINKS = ("acquisition_uuid", "grid_uuid", "atlas_uuid", "gridsquare_uuid", "foilhole_uuid")


def change(connection: Connection, kind: str, uuid: str, given: dict[str, Any]) -> Row:
    """Change the given columns of an entity and give the row as it is now.

    The status ``none`` of a square changes nothing: clients of smartem-decisions send it with every
    update.

    Raises
    ------
    HTTPException
        404: the entity or its new parent is not stored; 422: another uuid is given.
    """
    before = stored(connection, kind, uuid)
    if given.get("uuid") not in (None, uuid):
        raise HTTPException(422, f"{KINDS[kind].title} {uuid}: its uuid cannot change")
    table = schema.ENTITIES[kind]
    changes = {
        name: value
        for name, value in given.items()
        if (value is not None or table.c[name].nullable)
        and not (kind == "gridsquare" and name == "status" and value == "none")
    }
    changes |= _move(connection, kind, before, changes)
    # The message of the change has the ids, and a name that depends on ``lowmag``.
    keys = {name: before[name] for name in (*_IDS, *_LINKS, "lowmag") if name in table.c}
    record(connection, kind, [{"uuid": uuid, **keys, **changes}])
    return stored(connection, kind, uuid)


def _move(
    connection: Connection, kind: str, before: Row, changes: dict[str, Any]
) -> dict[str, Any]:
    """Give the columns that follow from a new parent, and move the entity's children along."""
    above, column = KINDS[kind].parent, KINDS[kind].column
    if above is None or column is None or changes.get(column, before[column]) == before[column]:
        return {}
    parent = stored(connection, above, changes[column])
    hole, micrograph = schema.foilhole, schema.micrograph
    if kind == "gridsquare":
        links = {"grid_uuid": parent["uuid"]}
        set_values(connection, hole, hole.c.gridsquare_uuid == before["uuid"], **links)
        change_micrographs(connection, micrograph.c.gridsquare_uuid == before["uuid"], **links)
    elif kind == "foilhole":
        links = {name: parent[name] for name in ("grid_uuid", "gridsquare_id")}
        mine = micrograph.c.foilhole_uuid == before["uuid"]
        change_micrographs(connection, mine, gridsquare_uuid=parent["uuid"], **links)
        return links
    elif kind == "micrograph":
        names = ("grid_uuid", "gridsquare_uuid", "gridsquare_id", "foilhole_id")
        return {name: parent[name] for name in names}
    return {}
