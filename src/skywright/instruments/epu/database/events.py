"""Names and bodies of the messages that tell other programs of a change to an entity."""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import RowMapping

Change = Literal["created", "updated", "deleted"]

_FIELDS: dict[str, dict[str, str]] = {
    # Key in the message -> column.
    "acquisition": {"id": "id"},
    "grid": {"acquisition_uuid": "acquisition_uuid"},
    "atlas": {"id": "atlas_id", "grid_uuid": "grid_uuid"},
    "atlas_tile": {"id": "tile_id", "atlas_uuid": "atlas_uuid"},
    "gridsquare": {"grid_uuid": "grid_uuid", "gridsquare_id": "gridsquare_id"},
    "foilhole": {
        "foilhole_id": "foilhole_id",
        "gridsquare_uuid": "gridsquare_uuid",
        "gridsquare_id": "gridsquare_id",
    },
    "micrograph": {
        "foilhole_uuid": "foilhole_uuid",
        "foilhole_id": "foilhole_id",
        "micrograph_id": "micrograph_id",
    },
}


def change_event(kind: str, change: Change, row: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    """Body of the message that says that an entity was created, updated or deleted.

    Parameters
    ----------
    kind
        ``acquisition``, ``grid``, ``atlas``, ``atlas_tile``, ``gridsquare``, ``foilhole`` or
        ``micrograph``.
    change
        What happened.
    row
        Columns of the entity; a column that is absent is null in the message.

    Returns
    -------
    dict
        ``event_type``, ``uuid`` and, unless deleted, the natural id and the parent's ids. A square
        that is known from the atlas only (``lowmag``) has a name of its own.
    """
    name = "gridsquare_lowmag" if kind == "gridsquare" and row.get("lowmag") else kind
    body: dict[str, Any] = {"event_type": f"{name}.{change}", "uuid": row["uuid"]}
    if change != "deleted":
        body |= {key: row.get(column) for key, column in _FIELDS[kind].items()}
    return body
