"""What the tests of EPU's HTTP API share."""

import json
from typing import Any

import httpx
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


def make_hole(url: str) -> None:
    """Make a hole ``h``, and all above it."""
    posts: list[tuple[str, Any]] = [
        ("acquisitions", {"uuid": "a", "name": "n"}),
        ("acquisitions/a/grids", {"uuid": "g", "name": "n"}),
        ("grids/g/gridsquares", {"uuid": "s", "gridsquare_id": "1"}),
        ("gridsquares/s/foilholes", [{"uuid": "h", "foilhole_id": "1", "gridsquare_id": "1"}]),
    ]
    for path, body in posts:
        assert httpx.post(f"{url}/{path}", json=body, timeout=90).status_code == 201


def events(database: Database) -> list[dict[str, Any]]:
    with database.read() as connection:
        bodies = connection.execute(select(outbox.c.body).order_by(outbox.c.id)).scalars()
        return [json.loads(body) for body in bodies]
