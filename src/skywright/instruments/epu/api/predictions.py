"""Routes of quality prediction models, their predictions, weights and suggestions."""

from typing import Any

from fastapi import APIRouter, HTTPException, Response
from sqlalchemy import Connection, Select, Table, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from skywright.instruments.epu.api import models, models_services
from skywright.instruments.epu.api.answers import answer, entity, list_answer, whole
from skywright.instruments.epu.api.create import stored
from skywright.instruments.epu.api.service import Page, PageOf, Service, ServiceOf
from skywright.instruments.epu.broker.quality import find_model, store_predictions
from skywright.instruments.epu.database import read, schema
from skywright.instruments.epu.database.schema_quality import (
    current_prediction,
    model_parameter,
    model_weight,
    overall_prediction,
    prediction,
    prediction_model,
)
from skywright.instruments.epu.database.write import set_values

router = APIRouter()


def _model(connection: Connection, name: str) -> read.Row:
    row = find_model(connection, name)
    if row is None:
        raise HTTPException(404, f"Prediction model {name} not found")
    return row


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


# ---- models


@router.get("/prediction_models", response_model=list[models_services.PredictionModelAnswer])
def list_models(service: ServiceOf, page: PageOf) -> Response:
    """Give the prediction models, by name."""
    query = select(prediction_model).order_by(prediction_model.c.name)
    with service.database.read() as connection:
        return answer(_rows(connection, page.of(query)))


@router.post(
    "/prediction_models", status_code=201, response_model=models_services.PredictionModelAnswer
)
async def create_model(body: models_services.PredictionModelCreate, service: ServiceOf) -> Response:
    """Make a prediction model; a name that exists is a conflict."""

    def work(connection: Connection) -> dict[str, Any]:
        try:
            connection.execute(insert(prediction_model).values(body.model_dump()))
        except IntegrityError as error:
            raise HTTPException(409, f"Prediction model {body.name} exists already") from error
        return dict(_model(connection, body.name))

    return answer(await service.writer.do(work), 201)


@router.get("/prediction_models/{name}", response_model=models_services.PredictionModelAnswer)
def get_model(name: str, service: ServiceOf) -> Response:
    """Give a prediction model."""
    with service.database.read() as connection:
        return answer(dict(_model(connection, name)))


@router.put("/prediction_models/{name}", response_model=models_services.PredictionModelAnswer)
async def update_model(
    name: str, body: models_services.PredictionModelUpdate, service: ServiceOf
) -> Response:
    """Change a prediction model."""

    def work(connection: Connection) -> dict[str, Any]:
        _model(connection, name)
        changes = body.model_dump(exclude_none=True)
        if changes:
            mine = prediction_model.c.name == name
            set_values(connection, prediction_model, mine, **changes)
        return dict(_model(connection, name))

    return answer(await service.writer.do(work))


@router.delete("/prediction_models/{name}", status_code=204)
async def delete_model(name: str, service: ServiceOf) -> None:
    """Delete a prediction model with its predictions, weights and parameters."""

    def work(connection: Connection) -> None:
        _model(connection, name)
        connection.execute(delete(prediction_model).where(prediction_model.c.name == name))

    await service.writer.do(work)


# ---- predictions


@router.post(
    "/quality_predictions", status_code=201, response_model=models_services.PredictionAnswer
)
async def create_prediction(body: models_services.PredictionCreate, service: ServiceOf) -> Response:
    """Store a prediction for one square or one hole."""
    if (body.gridsquare_uuid is None) == (body.foilhole_uuid is None):
        raise HTTPException(422, "give one of gridsquare_uuid and foilhole_uuid")

    def work(connection: Connection) -> dict[str, Any]:
        kind = "gridsquare" if body.gridsquare_uuid is not None else "foilhole"
        uuid = body.gridsquare_uuid or body.foilhole_uuid or ""
        grids = {uuid: stored(connection, kind, uuid)["grid_uuid"]}
        model = body.prediction_model_name
        _model(connection, model)
        (number,) = store_predictions(connection, kind, grids, model, body.value, body.metric_name)
        return _rows(connection, select(prediction).where(prediction.c.id == number))[0]

    return answer(await service.writer.do(work), 201)


@router.get("/quality_predictions", response_model=list[models_services.PredictionAnswer])
def list_predictions(service: ServiceOf, page: PageOf) -> Response:
    """Give all predictions in the order of their arrival."""
    query = page.of(select(prediction).order_by(prediction.c.id))
    with service.database.read() as connection:
        return answer(_rows(connection, query))


@router.get("/quality_metrics", response_model=models_services.QualityMetrics)
def quality_metrics(service: ServiceOf) -> Response:
    """Give statistics over all predictions."""
    value = prediction.c.value
    query = select(
        func.count().label("total_predictions"),
        func.avg(value).label("average_quality"),
        func.min(value).label("min_quality"),
        func.max(value).label("max_quality"),
        select(func.count()).select_from(prediction_model).scalar_subquery().label("models_count"),
    ).select_from(prediction)
    with service.database.read() as connection:
        return answer(_rows(connection, query)[0])


@router.get(
    "/gridsquares/{uuid}/quality_predictions",
    response_model=dict[str, list[models_services.PredictionAnswer]],
)
def square_predictions(uuid: str, service: ServiceOf) -> Response:
    """Give the history of a square's predictions, by model."""
    query = select(prediction).where(prediction.c.gridsquare_uuid == uuid).order_by(prediction.c.id)
    with service.database.read() as connection:
        stored(connection, "gridsquare", uuid)
        return answer(_by_model(_rows(connection, query)))


ByHole = dict[str, dict[str, list[models_services.PredictionAnswer]]]
"""Predictions by model, then by the id that EPU gave the hole."""


@router.get("/gridsquares/{uuid}/foilhole_quality_predictions", response_model=ByHole)
def hole_predictions(uuid: str, service: ServiceOf) -> Response:
    """Give the history of the predictions of a square's holes that are for no metric."""
    return _hole_history(service, uuid, None)


@router.get(
    "/quality_metric/{name}/gridsquares/{uuid}/foilhole_quality_predictions", response_model=ByHole
)
def hole_metric_predictions(name: str, uuid: str, service: ServiceOf) -> Response:
    """Give the history of the predictions of a square's holes for one metric."""
    return _hole_history(service, uuid, name)


def _hole_history(service: Service, square: str, metric: str | None) -> Response:
    hole = schema.foilhole
    query = (
        select(prediction, hole.c.foilhole_id)
        .join_from(prediction, hole, prediction.c.foilhole_uuid == hole.c.uuid)
        .where(
            hole.c.gridsquare_uuid == square, prediction.c.metric_name.is_not_distinct_from(metric)
        )
        .order_by(prediction.c.id)
    )
    with service.database.read() as connection:
        stored(connection, "gridsquare", square)
        rows = _rows(connection, query)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        of_model = found.setdefault(row["prediction_model_name"], {})
        of_model.setdefault(row.pop("foilhole_id"), []).append(row)
    return answer(found)


def _by_model(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["prediction_model_name"], []).append(row)
    return grouped


@router.get(
    "/gridsquare/{uuid}/overall_prediction", response_model=list[models_services.OverallPrediction]
)
def overall(uuid: str, service: ServiceOf, page: PageOf) -> Response:
    """Give the combined prediction of each hole of a square."""
    hole, table = schema.foilhole, overall_prediction
    query = (
        select(table, hole.c.gridsquare_uuid.label("square"))
        .join_from(table, hole, table.c.foilhole_uuid == hole.c.uuid)
        .where(hole.c.gridsquare_uuid == uuid)
        .order_by(hole.c.number)
    )
    with service.database.read() as connection:
        stored(connection, "gridsquare", uuid)
        rows = _rows(connection, page.of(query))
    return answer([row | {"gridsquare_uuid": row.pop("square")} for row in rows])


@router.get(
    "/grid/{uuid}/model_weights", response_model=dict[str, list[models_services.ModelWeight]]
)
def model_weights(uuid: str, service: ServiceOf) -> Response:
    """Give the history of the weights of the models for a grid, by model."""
    table = model_weight
    query = select(table).where(table.c.grid_uuid == uuid).order_by(table.c.id)
    with service.database.read() as connection:
        stored(connection, "grid", uuid)
        rows = _rows(connection, query)
    for row in rows:
        quality = row["micrograph_quality"]
        row["quality_score"] = None if quality is None else float(quality)
    return answer(_by_model(rows))


_CHILDREN = {"grid": "gridsquare", "gridsquare": "foilhole"}
"""Kind of the entity in the answer, by the kind of the parent in the path."""


def _newest(table: Table, name: str, kind: str, above: str, uuid: str) -> Select[Any]:
    """Return the query of a model's newest prediction for each square or hole of a parent."""
    child = schema.ENTITIES[kind]
    of_child = table.c[f"{kind}_uuid"] == child.c.uuid
    mine = (child.c[f"{above}_uuid"] == uuid, table.c.prediction_model_name == name)
    ids = select(func.max(table.c.id)).join_from(table, child, of_child).where(*mine)
    square = child.c.uuid if kind == "gridsquare" else child.c.gridsquare_uuid
    columns = [column for column in table.c if column.name != "gridsquare_uuid"]
    return (
        select(*columns, square.label("gridsquare_uuid"))
        .join_from(table, child, of_child)
        .where(table.c.id.in_(ids.group_by(child.c.uuid)))
        .order_by(child.c.number)
    )


def _predictions(
    service: Service, table: Table, name: str, above: str, uuid: str, page: Page
) -> Response:
    with service.database.read() as connection:
        stored(connection, above, uuid)
        _model(connection, name)
        newest = _newest(table, name, _CHILDREN[above], above, uuid)
        if above == "grid" and connection.execute(newest.limit(1)).first() is None:
            newest = _newest(table, name, "foilhole", above, uuid)
        return answer(_rows(connection, page.of(newest)))


@router.get(
    "/prediction_model/{name}/grid/{uuid}/current_prediction",
    response_model=list[models_services.CurrentPrediction],
)
def grid_current_predictions(name: str, uuid: str, service: ServiceOf, page: PageOf) -> Response:
    """Give the same as ``prediction``, without the times."""
    return _predictions(service, current_prediction, name, "grid", uuid, page)


# ---- latent space and suggestions


def _latent(
    connection: Connection, name: str, above: str, parent: read.Row
) -> dict[str, dict[str, Any]]:
    """Give the newest coordinates and cluster of each square of a grid, or hole of a square."""
    table, kind = model_parameter, _CHILDREN[above]
    children = schema.ENTITIES[kind]
    below = select(children.c.uuid).where(children.c[f"{above}_uuid"] == parent["uuid"])
    found: dict[str, dict[str, Any]] = {
        uuid: {"x": None, "y": None, "index": None}
        for uuid in connection.execute(below.order_by(children.c.number)).scalars()
    }
    grid = parent["uuid" if above == "grid" else "grid_uuid"]
    query = (
        select(table.c.key, table.c.value, table.c["group"])
        .where(table.c.grid_uuid == grid, table.c.prediction_model_name == name)
        .order_by(table.c.id)
    )
    for key, value, group in connection.execute(query).tuples():
        if group == "cluster_indices" and key in found:
            found[key]["index"] = whole(value)
        elif group.startswith("coordinates:") and key in ("x", "y"):
            uuid = group.removeprefix("coordinates:")
            if uuid in found:
                found[uuid][key] = value
    return {
        uuid: {**place, f"{kind}_uuid": uuid}
        for uuid, place in found.items()
        if any(value is not None for value in place.values())
    }


def _add_routes(above: str, newest: str) -> None:
    """Add what a model says of the squares of a grid, or the holes of a square; see `_CHILDREN`."""
    path = f"/prediction_model/{{name}}/{above}/{{uuid}}"

    @router.get(
        f"{path}/prediction",
        response_model=list[models_services.PredictionAnswer],
        name=f"{above}_predictions",
        description=f"Give the newest prediction of a model for each {newest}.",
    )
    def predictions(name: str, uuid: str, service: ServiceOf, page: PageOf) -> Response:
        return _predictions(service, prediction, name, above, uuid, page)

    @router.get(
        f"{path}/latent_representation",
        response_model=list[models_services.LatentRepresentation],
        name=f"{above}_latent",
        description=f"Give where a model places each {_CHILDREN[above]} in its latent space.",
    )
    def latent(name: str, uuid: str, service: ServiceOf, page: PageOf) -> Response:
        with service.database.read() as connection:
            parent = stored(connection, above, uuid)
            _model(connection, name)
            places = _latent(connection, name, above, parent)
        absent = {"gridsquare_uuid": "", "foilhole_uuid": ""}
        return answer(page.cut([absent | place for place in places.values()]))


_add_routes("grid", "square of a grid; if there is none, for each hole")
_add_routes("gridsquare", "hole of a square")


def _suggest(service: Service, model: str, latent: str, above: str, uuid: str) -> list[read.Row]:
    """Order squares or holes by prediction, taking the best of each cluster before the second best.

    Neighbours in latent space look alike, so the best of each cluster tells more about the grid
    than several from one cluster.
    """
    kind = _CHILDREN[above]
    children = schema.ENTITIES[kind]
    newest = _newest(current_prediction, model, kind, above, uuid).subquery()
    query = (
        select(children)
        .join_from(children, newest, newest.c[f"{kind}_uuid"] == children.c.uuid)
        .order_by(newest.c.value.desc(), children.c.number)
    )
    with service.database.read() as connection:
        parent = stored(connection, above, uuid)
        for name in (model, latent):
            _model(connection, name)
        places = _latent(connection, latent, above, parent)
        rows = connection.execute(query).mappings().all()
    taken: dict[Any, int] = {}
    ranks: list[int] = []
    for row in rows:
        cluster = places.get(row["uuid"], {}).get("index")
        rank = taken.get(cluster, 0) if cluster is not None else 0
        taken[cluster] = rank + 1
        ranks.append(rank)
    return [rows[order] for order in sorted(range(len(rows)), key=ranks.__getitem__)]


@router.get(
    "/grid/{uuid}/prediction_model/{name}/latent_rep/{latent}/suggested_squares",
    response_model=list[models.GridSquareAnswer],
)
def suggested_squares(
    uuid: str, name: str, latent: str, service: ServiceOf, page: PageOf
) -> Response:
    """Give the squares of a grid that a model has predictions for, those to take first first."""
    rows = _suggest(service, name, latent, "grid", uuid)
    return list_answer("gridsquare", page.cut(rows))


@router.get(
    "/gridsquares/{uuid}/prediction_model/{name}/latent_rep/{latent}/suggested_holes",
    response_model=list[models_services.SuggestedHole],
)
def suggested_holes(
    uuid: str, name: str, latent: str, service: ServiceOf, page: PageOf
) -> Response:
    """Give the holes of a square that a model has predictions for, those to take first first."""
    rows = _suggest(service, name, latent, "gridsquare", uuid)
    holes = [entity("foilhole", row) for row in page.cut(rows)]
    return answer([hole | {"gridsquare_uuid": uuid} for hole in holes])
