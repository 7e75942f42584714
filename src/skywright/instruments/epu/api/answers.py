"""Answers: rows of the database as JSON."""

from collections.abc import Iterable
from typing import Any

import orjson
from fastapi import Response

from skywright.instruments.epu.api import models
from skywright.instruments.epu.database.read import Row
from skywright.instruments.epu.database.schema import PLACE

_FIELDS = {
    kind: tuple(name for name in shape.model_fields if name != "tiles")
    for kind, (_, _, shape) in models.BODIES.items()
}
_PIXELS = {
    "atlas_tile": ("position_x", "position_y", "size_x", "size_y"),
    "gridsquare": PLACE,
    "foilhole": ("x_location", "y_location", "diameter"),
}


def entity(kind: str, row: Row) -> dict[str, Any]:
    """Give the fields of an entity that its answer has; pixel positions are rounded."""
    fields = {name: row[name] for name in _FIELDS[kind]}
    for name in _PIXELS.get(kind, ()):
        if fields[name] is not None:
            fields[name] = whole(fields[name])
    if kind == "atlas":
        fields["tiles"] = []
    return fields


def whole(value: float) -> float:
    """Give a number as an integer; one that has more than 64 bits stays a float."""
    return round(value) if abs(value) < 2**63 else value


def answer(content: Any, status: int = 200) -> Response:
    """Give `content` as a JSON response; times are ISO 8601 with an offset."""
    body = orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)  # SQLAlchemy's own str
    return Response(body, status, media_type="application/json")


def entity_answer(kind: str, row: Row, status: int = 200) -> Response:
    """Give one entity as a response."""
    return answer(entity(kind, row), status)


def list_answer(kind: str, rows: Iterable[Row], status: int = 200) -> Response:
    """Give entities as a response."""
    return answer([entity(kind, row) for row in rows], status)
