"""What the tests of EPU's HTTP API share."""

import json
from typing import Any

from sqlalchemy import select

from skywright.instruments.epu.database import Database
from skywright.instruments.epu.database.schema_exchange import outbox

TIME = "2025-01-08T15:49:18.1158288+01:00"


def hole(uuid: str, **fields: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "foilhole_id": uuid,
        "gridsquare_id": "3",
        "gridsquare_uuid": "s",
        **fields,
    }


def events(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        bodies = connection.execute(select(outbox.c.body).order_by(outbox.c.id)).scalars()
        return [json.loads(body) for body in bodies]
