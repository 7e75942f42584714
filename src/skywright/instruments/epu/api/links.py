"""Routes of the positions of squares on atlas tiles."""

from typing import Any

from fastapi import APIRouter, HTTPException, Response
from sqlalchemy import Connection

from skywright.instruments.epu.api import models
from skywright.instruments.epu.api.answers import answer, whole
from skywright.instruments.epu.api.create import missing, stored
from skywright.instruments.epu.api.service import ServiceOf
from skywright.instruments.epu.database import schema
from skywright.instruments.epu.database.write import insert_into, present

router = APIRouter()


def _link(
    connection: Connection, tile: str, positions: list[models.Position]
) -> list[dict[str, Any]]:
    stored(connection, "atlas_tile", tile)
    table = schema.atlas_tile_position
    wanted = {position.gridsquare_uuid or "" for position in positions}
    if wanted - present(connection, "gridsquare", list(wanted)):
        raise missing("gridsquare")
    rows = [position.model_dump() | {"atlastile_uuid": tile} for position in positions]
    statement = insert_into(connection, table)
    statement = statement.on_conflict_do_update(
        index_elements=["atlastile_uuid", "gridsquare_uuid"],
        set_={name: statement.excluded[name] for name in schema.PLACE},
    )
    if rows:
        connection.execute(statement, rows)
    return [row | {name: whole(row[name]) for name in schema.PLACE} for row in rows]


@router.post(
    "/atlas-tiles/{tile}/gridsquares/{uuid}", response_model=models.PositionAnswer, status_code=201
)
async def link_one(tile: str, uuid: str, body: models.Position, service: ServiceOf) -> Response:
    """Store where a square is on a tile; a second position replaces the first."""
    position = body.model_copy(update={"gridsquare_uuid": uuid})
    rows = await service.writer.do(lambda connection: _link(connection, tile, [position]))
    return answer(rows[0], 201)


@router.post(
    "/atlas-tiles/{tile}/gridsquares", response_model=list[models.PositionAnswer], status_code=201
)
async def link_many(tile: str, body: list[models.Position], service: ServiceOf) -> Response:
    """Store where squares are on a tile, all or none."""
    if any(position.gridsquare_uuid is None for position in body):
        raise HTTPException(422, "gridsquare_uuid: each position in a list must have one")
    latest = list({position.gridsquare_uuid: position for position in body}.values())
    return answer(await service.writer.do(lambda connection: _link(connection, tile, latest)), 201)
