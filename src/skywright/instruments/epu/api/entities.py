"""Routes of the entities: acquisitions, grids, atlases, tiles, squares, holes, micrographs."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel
from sqlalchemy import Connection, func, or_, select

from skywright.instruments.epu.api import models
from skywright.instruments.epu.api.answers import answer, entity, entity_answer, list_answer
from skywright.instruments.epu.api.create import CREATE, Created, Creation, create, missing, stored
from skywright.instruments.epu.api.kinds import KINDS
from skywright.instruments.epu.api.service import Page, PageOf, Service, ServiceOf
from skywright.instruments.epu.api.update import change
from skywright.instruments.epu.database import read, schema
from skywright.instruments.epu.database.write import announce, remove, set_values

BATCH_MOST = 1000
"""Squares in one batch."""

router = APIRouter()


def columns(model: BaseModel, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Give the columns that a request gives for a new entity; its status is never taken."""
    return model.model_dump(exclude_none=True, exclude={"status", *without})


async def _post(service: Service, creation: Creation) -> Created:
    created: Created = await service.writer.do_together(CREATE[creation.kind], creation)
    return created


async def _create_one(service: Service, kind: str, parent: str | None, body: BaseModel) -> Response:
    _same_parent(kind, parent, [body])
    created = await _post(service, Creation(kind, parent, [columns(body)]))
    return entity_answer(kind, created.rows[0], 201 if created.new else 200)


def _same_parent(kind: str, parent: str | None, bodies: Sequence[BaseModel]) -> None:
    column = KINDS[kind].column
    for body in bodies:
        if column is not None and getattr(body, column, None) not in (None, parent):
            raise HTTPException(422, f"{column} in the body differs from that in the path")


def _distinct(kind: str, bodies: Sequence[BaseModel]) -> None:
    counts = Counter(body.uuid for body in bodies)  # type: ignore[attr-defined]
    twice = [uuid for uuid, count in counts.items() if count > 1]
    if twice:
        raise HTTPException(422, f"duplicate {KINDS[kind].title} uuid {twice[0]}")


def _page(
    connection: Connection, kind: str, page: Page, *where: Any, **options: Any
) -> list[read.Row]:
    return read.page(connection, kind, *where, limit=page.limit, offset=page.offset, **options)


def _children(service: Service, kind: str, parent: str, page: Page, *where: Any) -> Response:
    above = KINDS[kind].parent or ""
    given = {f"{above}_uuid": parent}
    with service.database.read() as connection:
        rows = _page(connection, kind, page, *where, **given)
        if not rows:
            stored(connection, above, parent)
    return list_answer(kind, rows)


def _add_routes(kind: str) -> None:
    """Add the list of all entities of a kind, and read, change and delete of one."""
    path = KINDS[kind].path
    fields, _, shape = models.BODIES[kind]
    if kind != "micrograph":  # their list has more to ask for

        @router.get(path, response_model=list[shape], name=f"list {path[1:]}")  # type: ignore[valid-type]
        def list_all(service: ServiceOf, page: PageOf) -> Response:
            with service.database.read() as connection:
                return list_answer(kind, _page(connection, kind, page))

    @router.get(f"{path}/{{uuid}}", response_model=shape, name=f"get {kind}")
    def get_one(uuid: str, service: ServiceOf) -> Response:
        with service.database.read() as connection:
            return entity_answer(kind, stored(connection, kind, uuid))

    @router.put(f"{path}/{{uuid}}", response_model=shape, name=f"update {kind}")
    async def update_one(uuid: str, body: fields, service: ServiceOf) -> Response:  # type: ignore[valid-type]
        given = body.model_dump(exclude_unset=True)  # type: ignore[attr-defined]
        row = await service.writer.do(lambda connection: change(connection, kind, uuid, given))
        return entity_answer(kind, row)

    @router.delete(f"{path}/{{uuid}}", status_code=204, name=f"delete {kind}")
    async def delete_one(uuid: str, service: ServiceOf) -> None:
        if not await service.writer.do(lambda connection: remove(connection, kind, uuid)):
            raise missing(kind)


def _add_child_routes(kind: str, listed: str, created: str, word: str, above: str) -> None:
    """Add the list of the entities of a kind below a parent, and the creation of one.

    `listed` and `created` name the two routes, `word` and `above` the entity and its parent.
    """
    path = KINDS[kind].create_path("{uuid}")
    _, new, shape = models.BODIES[kind]
    about = f"Give the {word}s of {above}."

    @router.get(path, response_model=list[shape], name=listed, description=about)  # type: ignore[valid-type]
    def list_children(uuid: str, service: ServiceOf, page: PageOf) -> Response:
        return _children(service, kind, uuid, page)

    about = f"Create a {word} of {above}."

    @router.post(path, status_code=201, response_model=shape, name=created, description=about)
    async def create_child(uuid: str, body: new, service: ServiceOf) -> Response:  # type: ignore[valid-type]
        return await _create_one(service, kind, uuid, body)


# The router tries one route after the other: those that are asked most come first.

# ---- micrographs


_add_child_routes("micrograph", "foilhole_micrographs", "create_micrograph", "micrograph", "a hole")

Metres = Annotated[float | None, Query(allow_inf_nan=False, description="Defocus, metres.")]


@router.get("/micrographs", response_model=list[models.MicrographAnswer])
def list_micrographs(
    service: ServiceOf,
    page: PageOf,
    acquisition_uuid: str | None = None,
    grid_uuid: str | None = None,
    gridsquare_uuid: str | None = None,
    foilhole_uuid: str | None = None,
    defocus_min: Metres = None,
    defocus_max: Metres = None,
    time_from: models.Time | None = None,
    time_to: models.Time | None = None,
    order_by: Literal["arrival", "time", "defocus"] = "arrival",
    descending: bool = False,
) -> Response:
    """Give micrographs: all, or those of a parent, of a range of defocus, of a time."""
    column = {"arrival": "number", "time": "acquisition_datetime", "defocus": "defocus"}
    table, grid = schema.micrograph.c, schema.grid.c
    where = read.within(table.defocus, defocus_min, defocus_max)
    where += read.within(table.acquisition_datetime, time_from, time_to)
    if acquisition_uuid is not None:
        grids = select(grid.uuid).where(grid.acquisition_uuid == acquisition_uuid)
        where.append(table.grid_uuid.in_(grids))
    parents = {
        "grid_uuid": grid_uuid,
        "gridsquare_uuid": gridsquare_uuid,
        "foilhole_uuid": foilhole_uuid,
    }
    where += [table[name] == uuid for name, uuid in parents.items() if uuid is not None]
    order = {"order_by": column[order_by], "descending": descending}
    with service.database.read() as connection:
        rows = _page(connection, "micrograph", page, *where, **order)
    return list_answer("micrograph", rows)


# ---- holes


@router.get("/gridsquares/{uuid}/foilholes", response_model=list[models.FoilHoleAnswer])
def gridsquare_foilholes(
    uuid: str, service: ServiceOf, page: PageOf, on_square_only: bool = False
) -> Response:
    """Give the holes of a square; ``on_square_only``: without those near a grid bar."""
    where = [schema.foilhole.c.is_near_grid_bar.is_(False)] if on_square_only else []
    return _children(service, "foilhole", uuid, page, *where)


@router.post(
    "/gridsquares/{uuid}/foilholes",
    status_code=201,
    response_model=list[models.FoilHoleAnswer] | models.FoilHoleAnswer,
)
async def create_foilholes(
    uuid: str, body: list[models.FoilHoleCreate] | models.FoilHoleCreate, service: ServiceOf
) -> Response:
    """Create a list of holes of a square, all or none; older clients send a single hole."""
    if isinstance(body, models.FoilHoleCreate):
        return await _create_one(service, "foilhole", uuid, body)
    _distinct("foilhole", body)
    _same_parent("foilhole", uuid, body)
    created = await _post(service, Creation("foilhole", uuid, [columns(hole) for hole in body]))
    return list_answer("foilhole", created.rows, 201)


# ---- acquisitions and grids


@router.get("/acquisitions/grid-counts", response_model=list[models.GridCounts])
def grid_counts(service: ServiceOf, page: PageOf) -> Response:
    """Give the numbers of grids of each acquisition, and of those with a complete decision."""
    acquisition, grid = schema.acquisition, schema.grid
    completed = grid.c.status == schema.GridStatus.DECISION_COMPLETED
    query = (
        select(
            acquisition.c.uuid.label("acquisition_uuid"),
            func.count(grid.c.uuid).label("grids_total"),
            func.count(grid.c.uuid).filter(completed).label("grids_completed"),
        )
        .join_from(acquisition, grid, grid.c.acquisition_uuid == acquisition.c.uuid, isouter=True)
        .group_by(acquisition.c.uuid, acquisition.c.number)
        .order_by(acquisition.c.number)
    )
    with service.database.read() as connection:
        rows = connection.execute(page.of(query)).mappings()
        return answer([dict(row) for row in rows])


@router.post("/acquisitions", status_code=201, response_model=models.AcquisitionAnswer)
async def create_acquisition(body: models.AcquisitionCreate, service: ServiceOf) -> Response:
    """Create an acquisition; its status is ``started``."""
    return await _create_one(service, "acquisition", None, body)


_add_child_routes("grid", "acquisition_grids", "create_grid", "grid", "an acquisition")


@router.post("/grids/{uuid}/registered")
async def grid_registered(uuid: str, service: ServiceOf, count: int | None = None) -> bool:
    """Take note that all squares of a grid, as the atlas has them, are stored."""

    def work(connection: Connection) -> None:
        stored(connection, "grid", uuid)
        announce(connection, [{"event_type": "grid.registered", "grid_uuid": uuid}])

    await service.writer.do(work)
    return True


# ---- atlases and tiles


@router.get("/grids/{uuid}/atlas", response_model=models.AtlasAnswer)
def grid_atlas(uuid: str, service: ServiceOf) -> Response:
    """Give the atlas of a grid."""
    atlas = schema.atlas
    with service.database.read() as connection:
        grid = stored(connection, "grid", uuid)
        own = or_(atlas.c.grid_uuid == uuid, atlas.c.uuid == grid["atlas_uuid"])
        query = select(atlas).where(own).order_by(atlas.c.number.desc()).limit(1)
        row = connection.execute(query).mappings().first()
    if row is None:
        raise missing("atlas")
    return entity_answer("atlas", row)


@router.post("/grids/{uuid}/atlas", status_code=201, response_model=models.AtlasAnswer)
async def create_atlas(uuid: str, body: models.AtlasCreate, service: ServiceOf) -> Response:
    """Create the atlas of a grid, with its tiles; one that another grid has is shared."""
    _same_parent("atlas", uuid, [body])
    tiles = body.tiles or []
    _same_parent("atlas_tile", body.uuid, tiles)
    _distinct("atlas_tile", tiles)

    def work(connection: Connection) -> Created:
        known = read.get(connection, "atlas", body.uuid)
        owner = uuid if known is None else known["grid_uuid"]
        if owner not in (None, uuid):
            change(connection, "grid", uuid, {"atlas_uuid": body.uuid})
        given = columns(body, without=("tiles", "grid_uuid"))
        made = create(connection, Creation("atlas", owner or uuid, [given]))
        if tiles:
            create(connection, Creation("atlas_tile", body.uuid, [columns(tile) for tile in tiles]))
        return made

    made = await service.writer.do(work)
    return entity_answer("atlas", made.rows[0], 201 if made.new else 200)


_add_child_routes("atlas_tile", "atlas_tiles", "create_tile", "tile", "an atlas")


# ---- squares


_add_child_routes("gridsquare", "grid_gridsquares", "create_gridsquare", "square", "a grid")


@router.post(
    "/grids/{uuid}/gridsquares/batch", status_code=201, response_model=models.GridSquareBatchAnswer
)
async def create_gridsquares(
    uuid: str, body: models.GridSquareBatch, service: ServiceOf
) -> Response:
    """Create 1 to 1000 squares of a grid, all or none; a stored uuid is a conflict."""
    squares = body.gridsquares
    if not squares:
        raise HTTPException(422, "gridsquares: the batch is empty; give 1 to 1000")
    if len(squares) > BATCH_MOST:
        raise HTTPException(422, f"gridsquares: {len(squares)} exceeds limit of {BATCH_MOST}")
    _distinct("gridsquare", squares)
    _same_parent("gridsquare", uuid, squares)
    rows = [columns(square) for square in squares]
    created = await _post(service, Creation("gridsquare", uuid, rows, fresh=True))
    return answer({"gridsquares": [entity("gridsquare", row) for row in created.rows]}, 201)


@router.post("/gridsquares/{uuid}/registered")
async def gridsquare_registered(uuid: str, service: ServiceOf, count: int | None = None) -> bool:
    """Take note that all holes of a square are stored."""

    def work(connection: Connection) -> None:
        square = stored(connection, "gridsquare", uuid)
        table = schema.gridsquare
        is_new = (table.c.uuid == uuid, table.c.status == "none")
        set_values(connection, table, *is_new, status=schema.GridSquareStatus.REGISTERED)
        holes = read.count(connection, "foilhole", gridsquare_uuid=uuid)
        event = {
            "event_type": "gridsquare.registered",
            "uuid": uuid,
            "grid_uuid": square["grid_uuid"],
            "count": holes if count is None else count,
        }
        announce(connection, [event])

    await service.writer.do(work)
    return True


for each in KINDS:
    _add_routes(each)
