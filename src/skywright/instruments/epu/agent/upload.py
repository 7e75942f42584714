"""Emptying the outbox of the watcher's database towards the API.

Entities are sent as they are now, not as they were when the message was written: several changes
of one entity are one request. Parents go first. A child whose parent is not recorded yet waits; its
row stays in the outbox.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, delete, select

from skywright.instruments.epu.agent.client import ApiClient
from skywright.instruments.epu.api import models
from skywright.instruments.epu.database import Database, read
from skywright.instruments.epu.database.schema_exchange import outbox

log = logging.getLogger(__name__)

ACKNOWLEDGE = "agent.acknowledge"
"""Name of an outbox row that is an answer to an instruction, and no change of an entity."""

BATCH = 500
HOLES = 500
"""Holes in one request."""

ORDER = ("acquisition", "grid", "atlas", "gridsquare", "atlas_tile", "foilhole", "micrograph")


@dataclass(frozen=True)
class Route:
    """Where a kind of entity is sent: its parent, its paths, the body's model."""

    parent: str | None
    column: str | None
    create: str
    one: str
    model: type[BaseModel]


ROUTES = {
    "acquisition": Route(None, None, "/acquisitions", "/acquisitions", models.AcquisitionCreate),
    "grid": Route(
        "acquisition",
        "acquisition_uuid",
        "/acquisitions/{}/grids",
        "/grids",
        models.GridCreate,
    ),
    "atlas": Route("grid", "grid_uuid", "/grids/{}/atlas", "/atlases", models.AtlasCreate),
    "atlas_tile": Route(
        "atlas", "atlas_uuid", "/atlases/{}/tiles", "/atlas-tiles", models.TileCreate
    ),
    "gridsquare": Route(
        "grid",
        "grid_uuid",
        "/grids/{}/gridsquares",
        "/gridsquares",
        models.GridSquareCreate,
    ),
    "foilhole": Route(
        "gridsquare",
        "gridsquare_uuid",
        "/gridsquares/{}/foilholes",
        "/foilholes",
        models.FoilHoleCreate,
    ),
    "micrograph": Route(
        "foilhole",
        "foilhole_uuid",
        "/foilholes/{}/micrographs",
        "/micrographs",
        models.MicrographCreate,
    ),
}


class Uploader:
    """Send what is in the outbox.

    Parameters
    ----------
    database
        The watcher's database.
    client
        Client of the API.

    Attributes
    ----------
    sent, refused
        Number of entities that the API took, and that it refused for good.
    waiting
        Number of rows whose parent is not recorded.
    """

    def __init__(self, database: Database, client: ApiClient) -> None:
        self._database = database
        self._client = client
        self._postponed: set[int] = set()
        self._registered: dict[str, int] = {}
        self.sent = 0
        self.refused = 0

    @property
    def waiting(self) -> int:
        """Number of rows whose parent is not recorded."""
        return len(self._postponed)

    def upload(self) -> bool:
        """Send a batch; give whether anything was sent.

        Raises
        ------
        ServerUnavailableError
            The API does not answer. What it has not taken stays in the outbox.
        """
        rows = self._next_rows()
        if not rows:
            return False
        by_kind: dict[str, dict[str, list[int]]] = {kind: {} for kind in ORDER}
        for row in rows:
            name, change = row["event_type"].rsplit(".", 1)
            body = json.loads(row["body"])
            kind = "gridsquare" if name == "gridsquare_lowmag" else name
            if row["event_type"] == ACKNOWLEDGE:
                self._acknowledge(body)
                self._done([row["id"]])
            elif kind not in by_kind:
                self._done([row["id"]])
            elif change == "deleted":
                self._client.request("DELETE", f"{ROUTES[kind].one}/{body['uuid']}")
                self._done([row["id"]])
            else:
                by_kind[kind].setdefault(body["uuid"], []).append(row["id"])
        sent = False
        for kind in ORDER:
            if by_kind[kind]:
                sent |= self._send_kind(kind, by_kind[kind])
        return sent or len(rows) == BATCH

    def pending(self) -> int:
        """Count the rows of the outbox."""
        with self._database.read() as connection:
            return len(connection.execute(select(outbox.c.id)).all())

    def parents_changed(self) -> None:
        """Look again at rows whose parent was missing."""
        self._postponed.clear()

    def _next_rows(self) -> Sequence[Any]:
        query = select(outbox).order_by(outbox.c.id).limit(BATCH + len(self._postponed))
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [row for row in rows if row["id"] not in self._postponed][:BATCH]

    def _send_kind(self, kind: str, wanted: Mapping[str, list[int]]) -> bool:
        with self._database.read() as connection:
            rows, orphans = _split(connection, kind, wanted)
        for uuid in orphans:
            self._postponed.update(wanted[uuid])
        for parent, group in _by_parent(kind, rows).items():
            step = HOLES if kind == "foilhole" else 1
            for start in range(0, len(group), step):
                part = group[start : start + step]
                self._create(kind, parent, part)
                self._done([number for row in part for number in wanted[row["uuid"]]])
        if rows and kind != "micrograph":
            self.parents_changed()
        if kind == "foilhole":
            self._register({row["gridsquare_uuid"] for row in rows})
        return bool(rows)

    def _create(
        self, kind: str, parent: str | None, rows: Sequence[read.Row], again: bool = True
    ) -> None:
        path = ROUTES[kind].create.format(parent)
        bodies = [request_body(kind, row) for row in rows]
        response = self._client.request("POST", path, bodies if kind == "foilhole" else bodies[0])
        if response.status_code == 404 and again and self._create_parent(kind, parent):
            self._create(kind, parent, rows, again=False)
        elif response.status_code in (200, 201):
            self.sent += len(rows)
        else:
            self.refused += len(rows)
            log.error("the API refuses %s: %s %s", path, response.status_code, response.text[:300])

    def _create_parent(self, kind: str, parent: str | None) -> bool:
        """Send the parent, since the API does not know it; it may have lost its database."""
        above = ROUTES[kind].parent
        if above is None or parent is None:
            return False
        with self._database.read() as connection:
            row = read.get(connection, above, parent)
        if row is None:
            return False
        column = ROUTES[above].column
        self._create(above, row[column] if column else None, [row])
        return True

    def _register(self, squares: Iterable[str]) -> None:
        """Say of squares that all their holes are stored, once for each number of holes."""
        for uuid in squares:
            with self._database.read() as connection:
                square = read.get(connection, "gridsquare", uuid)
                stored = read.count(connection, "foilhole", gridsquare_uuid=uuid)
            planned = square["n_foilhole_positions"] if square is not None else None
            if planned and stored >= planned and self._registered.get(uuid) != stored:
                self._registered[uuid] = stored
                self._client.request("POST", f"/gridsquares/{uuid}/registered?count={stored}")

    def _acknowledge(self, body: dict[str, Any]) -> None:
        response = self._client.request("POST", body["path"], body["acknowledgement"])
        if response.status_code != 200:
            log.error("the API refuses %s: %s", body["path"], response.text[:300])

    def _done(self, numbers: Sequence[int]) -> None:
        with self._database.write() as connection:
            connection.execute(delete(outbox).where(outbox.c.id.in_(numbers)))


def request_body(kind: str, row: read.Row) -> dict[str, Any]:
    """Give the body of a request that creates or updates an entity."""
    model = ROUTES[kind].model
    given = {
        name: row[name]
        for name in model.model_fields
        if name in row and row[name] is not None and name != "status"
    }
    return model(**given).model_dump(mode="json", exclude_none=True)


def _split(
    connection: Connection, kind: str, wanted: Mapping[str, list[int]]
) -> tuple[list[read.Row], list[str]]:
    """Give the rows that can be sent, and the uuids of those whose parent is missing."""
    above, column = ROUTES[kind].parent, ROUTES[kind].column
    found = [row for uuid in wanted if (row := read.get(connection, kind, uuid)) is not None]
    if above is None or column is None:
        return found, []
    known: dict[str, bool] = {}
    for row in found:
        parent = row[column]
        if parent not in known:
            known[parent] = read.get(connection, above, parent) is not None
    orphans = [row["uuid"] for row in found if not known[row[column]]]
    return [row for row in found if known[row[column]]], orphans


def _by_parent(kind: str, rows: Iterable[read.Row]) -> dict[str | None, list[read.Row]]:
    column = ROUTES[kind].column
    groups: dict[str | None, list[read.Row]] = {}
    for row in rows:
        groups.setdefault(row[column] if column else None, []).append(row)
    return groups
