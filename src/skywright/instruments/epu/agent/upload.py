"""Emptying the outbox of the watcher's database towards the API.

Entities are sent as they are now, not as they were when the message was written: several changes
of one entity are one request. Parents go first. A child whose parents are not all recorded waits;
its row stays in the outbox.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx
from sqlalchemy import Connection, delete, func, or_, select

from skywright.instruments.epu.agent.client import ApiClient, ServerUnavailableError
from skywright.instruments.epu.api import models
from skywright.instruments.epu.api.kinds import KINDS
from skywright.instruments.epu.database import Database, read, schema
from skywright.instruments.epu.database.schema import setting
from skywright.instruments.epu.database.schema_exchange import outbox
from skywright.instruments.epu.database.write import present
from skywright.instruments.epu.entities import FoilHoleManifest

log = logging.getLogger(__name__)

ACKNOWLEDGE = "agent.acknowledge"
"""Name of an outbox row that is an answer to an instruction, and no change of an entity."""

BATCH = 500
HOLES = 500
"""Holes in one request."""
REFUSED = (400, 409, 422)
"""Answers of an API that does not want what is sent. Others, such as 403 or 404, tell of the way to
the API: a wrong path, a gateway."""
TOO_LARGE = 413

ORDER = ("acquisition", "grid", "atlas", "gridsquare", "atlas_tile", "foilhole", "micrograph")


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
        Number of rows whose parents are not all recorded.
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
        """Number of rows whose parents are not all recorded."""
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
                path = f"{KINDS[kind].path}/{body['uuid']}"
                response = self._client.request("DELETE", path)
                if response.status_code not in (200, 204, 404):
                    raise _wrong_place("DELETE", path, response)
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
            return connection.execute(select(func.count()).select_from(outbox)).scalar_one()

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
        gone = wanted.keys() - {row["uuid"] for row in rows} - set(orphans)
        self._done([number for uuid in gone for number in wanted[uuid]])
        for parent, group in _by_parent(kind, rows).items():
            step = HOLES if kind == "foilhole" else 1
            for start in range(0, len(group), step):
                part = group[start : start + step]
                self._create(kind, parent, part)
                numbers = [number for row in part for number in wanted[row["uuid"]]]
                if start + step >= len(group):
                    self._register(kind, group, numbers)
                self._done(numbers)
        if rows and kind != "micrograph":
            self._postponed.clear()  # rows whose parent was missing
        return bool(rows)

    def _create(
        self, kind: str, parent: str | None, rows: Sequence[read.Row], again: bool = True
    ) -> bool:
        """Send entities; give whether the API took them all.

        Of a list that is refused each half is sent by itself, so that only what is wrong is
        refused.
        """
        path = KINDS[kind].create_path(parent)
        bodies = [request_body(kind, row) for row in rows]
        response = self._client.request("POST", path, bodies if kind == "foilhole" else bodies[0])
        status = response.status_code
        if status in (200, 201):
            self.sent += len(rows)
            if kind == "foilhole":
                self._clear(rows, response.json())
            return True
        if status == 404 and again and parent is not None:
            if self._create_parent(kind, parent):
                return self._create(kind, parent, rows, again=False)
        elif len(rows) > 1 and status in (*REFUSED, TOO_LARGE):
            half = len(rows) // 2
            first = self._create(kind, parent, rows[:half], again)
            return self._create(kind, parent, rows[half:], again) and first
        elif status not in REFUSED:
            raise _wrong_place("POST", path, response)
        self.refused += len(rows)
        log.error("the API refuses %s: %s %s", path, status, response.text[:300])
        return False

    def _clear(self, holes: Sequence[read.Row], answers: Sequence[Mapping[str, Any]]) -> None:
        """Clear what the newest image of a hole does not tell, but an older one, sent before, did.

        A request that creates an entity, or does it again, changes only the values that it gives.
        """
        for hole, answer in zip(holes, answers, strict=False):
            known = [name for name in FoilHoleManifest._fields if answer.get(name) is not None]
            gone = {name: None for name in known if hole[name] is None}
            if gone and hole["manifest_file"] is not None:
                self._send("PUT", f"{KINDS['foilhole'].path}/{hole['uuid']}", gone)

    def _create_parent(self, kind: str, parent: str) -> bool:
        """Send the parent, since the API does not know it; it may have lost its database."""
        above = KINDS[kind].parent
        assert above is not None
        with self._database.read() as connection:
            row = read.get(connection, above, parent)
        if row is None:
            return False
        column = KINDS[above].column
        return self._create(above, row[column] if column else None, [row])

    def _register(self, kind: str, rows: Sequence[read.Row], numbers: Sequence[int]) -> None:
        """Say of a square or grid that all below it is sent; `numbers` are rows just sent."""
        if kind == "foilhole":
            self._register_square(rows[0]["gridsquare_uuid"], numbers)
        elif kind in ("grid", "atlas", "atlas_tile", "gridsquare"):
            with self._database.read() as connection:
                grids = _grids_of(connection, kind, rows)
            for grid in grids:
                self._register_grid(grid, numbers)

    def _register_square(self, uuid: str, numbers: Sequence[int]) -> None:
        """Say of a square that all its holes are stored, once for each number of holes."""
        with self._database.read() as connection:
            square = read.get(connection, "gridsquare", uuid)
            stored = read.count(connection, "foilhole", gridsquare_uuid=uuid)
            waits = _waits(connection, "foilhole", uuid, numbers)
        planned = square["n_foilhole_positions"] if square is not None else None
        if planned and stored >= planned and not waits and self._registered.get(uuid) != stored:
            self._send("POST", f"/gridsquares/{uuid}/registered?count={stored}")
            self._registered[uuid] = stored

    def _register_grid(self, uuid: str, numbers: Sequence[int]) -> None:
        """Send where squares are on tiles; say once that a grid's atlas and squares are sent."""
        mark = f"registered {uuid}"
        with self._database.read() as connection:
            atlas = _atlas_of(connection, uuid)
            waiting = (("atlas", atlas), ("atlas_tile", atlas), ("gridsquare", uuid))
            if atlas is None or any(
                _waits(connection, kind, above or "", numbers) for kind, above in waiting
            ):
                return
            shared = read.get(connection, "atlas", atlas)
            posts: dict[str, Any] = {
                f"/atlas-tiles/{tile}/gridsquares": squares
                for tile, squares in _positions(connection, uuid, atlas).items()
            }
            query = select(setting.c.value).where(setting.c.name == mark)
            before = connection.execute(query).scalar()
        if shared is not None and shared["grid_uuid"] != uuid:
            body = request_body("atlas", shared) | {"grid_uuid": uuid}
            posts = {f"/grids/{uuid}/atlas": body, **posts}
        now = hashlib.sha256(json.dumps(posts).encode()).hexdigest()
        if now == before:
            return
        for path, body in posts.items():
            self._send("POST", path, body)
        if before is None:
            self._send("POST", f"/grids/{uuid}/registered")
        with self._database.write() as connection:
            connection.execute(delete(setting).where(setting.c.name == mark))
            connection.execute(setting.insert().values(name=mark, value=now))

    def _send(self, method: str, path: str, body: Any = None) -> None:
        response = self._client.request(method, path, body)
        if response.status_code in (*REFUSED, 404):
            log.error("the API refuses %s: %s", path, response.text[:300])
        elif response.status_code not in (200, 201):
            raise _wrong_place(method, path, response)

    def _acknowledge(self, body: dict[str, Any]) -> None:
        path = body["path"]
        response = self._client.request("POST", path, body["acknowledgement"])
        if response.status_code == 200:
            return
        is_of_api = "json" in response.headers.get("Content-Type", "")
        if response.status_code not in (*REFUSED, *((403, 404) if is_of_api else ())):
            raise _wrong_place("POST", path, response)
        log.error("the API refuses %s: %s", path, response.text[:300])

    def _done(self, numbers: Sequence[int]) -> None:
        with self._database.write() as connection:
            connection.execute(delete(outbox).where(outbox.c.id.in_(numbers)))


def _wrong_place(method: str, path: str, response: httpx.Response) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"{method} {path}: status {response.status_code}; check the API's address and rights"
    )


def request_body(kind: str, row: read.Row) -> dict[str, Any]:
    """Give the body of a request that creates or updates an entity."""
    _, model, _ = models.BODIES[kind]
    given = {
        name: row[name]
        for name in model.model_fields
        if name in row and row[name] is not None and name != "status"
    }
    return model(**given).model_dump(mode="json", exclude_none=True)


def _split(
    connection: Connection, kind: str, wanted: Mapping[str, list[int]]
) -> tuple[list[read.Row], list[str]]:
    """Give the rows that can be sent, and the uuids of those whose parents have not all come."""
    above, column = KINDS[kind].parent, KINDS[kind].column
    found = [row for uuid in wanted if (row := read.get(connection, kind, uuid)) is not None]
    if above is None or column is None:
        return found, []
    known: dict[tuple[str, str | None], bool] = {}
    sent = [row for row in found if _has_come(connection, above, row[column], known)]
    uuids = {row["uuid"] for row in sent}
    return sent, [row["uuid"] for row in found if row["uuid"] not in uuids]


def _has_come(
    connection: Connection, kind: str, uuid: str | None, known: dict[tuple[str, str | None], bool]
) -> bool:
    """Return whether an entity and all above it are recorded; `known` keeps the answers."""
    key = (kind, uuid)
    if key not in known:
        row = None if uuid is None else read.get(connection, kind, uuid)
        above, column = KINDS[kind].parent, KINDS[kind].column
        known[key] = row is not None and (
            above is None or column is None or _has_come(connection, above, row[column], known)
        )
    return known[key]


def _waits(connection: Connection, kind: str, uuid: str, sent: Sequence[int]) -> bool:
    """Return whether the outbox names entities of a kind below `uuid` beside the rows `sent`."""
    name = outbox.c.event_type
    query = select(outbox.c.body).where(
        or_(name.startswith(f"{kind}."), name.startswith(f"{kind}_lowmag.")),
        outbox.c.body.contains(json.dumps(uuid), autoescape=True),
        outbox.c.id.not_in(sent),
    )
    uuids = {json.loads(body)["uuid"] for body in connection.execute(query).scalars()}
    return bool(present(connection, kind, list(uuids)))


def _grids_of(connection: Connection, kind: str, rows: Sequence[read.Row]) -> list[str]:
    if kind == "grid":
        return [row["uuid"] for row in rows]
    if kind == "gridsquare":
        return [rows[0]["grid_uuid"]]
    grid, atlas = schema.grid.c, schema.atlas.c
    uuids = [row["uuid" if kind == "atlas" else "atlas_uuid"] for row in rows]
    owners = select(atlas.grid_uuid).where(atlas.uuid.in_(uuids))
    query = select(grid.uuid).where(or_(grid.atlas_uuid.in_(uuids), grid.uuid.in_(owners)))
    return list(connection.execute(query).scalars())


def _atlas_of(connection: Connection, grid: str) -> str | None:
    """Return the atlas that a grid uses, its own or one that it shares."""
    row = read.get(connection, "grid", grid)
    if row is not None and row["atlas_uuid"] is not None:
        return str(row["atlas_uuid"])
    found = read.page(connection, "atlas", limit=1, grid_uuid=grid)
    return found[0]["uuid"] if found else None


def _positions(connection: Connection, grid: str, atlas: str) -> dict[str, list[dict[str, Any]]]:
    """Return where the squares of a grid are on the tiles of its atlas, by the tile's uuid."""
    rows = read.page(connection, "gridsquare", grid_uuid=grid)
    squares = {str(row["atlas_node_id"]): row["uuid"] for row in rows}
    squares |= {row["gridsquare_id"]: row["uuid"] for row in rows}
    found: dict[str, list[dict[str, Any]]] = {}
    for tile in read.page(connection, "atlas_tile", atlas_uuid=atlas):
        for key, places in (tile["gridsquares"] or {}).items():
            if key not in squares or not places:
                continue
            values = (*places[-1]["center"], *places[-1]["size"])
            if None not in values:
                place = zip(schema.PLACE, values, strict=True)
                position = {"gridsquare_uuid": squares[key], **dict(place)}
                found.setdefault(tile["uuid"], []).append(position)
    return found


def _by_parent(kind: str, rows: Iterable[read.Row]) -> dict[str | None, list[read.Row]]:
    column = KINDS[kind].column
    groups: dict[str | None, list[read.Row]] = {}
    for row in rows:
        groups.setdefault(row[column] if column else None, []).append(row)
    return groups
