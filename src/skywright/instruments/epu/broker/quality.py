"""Quality predictions of models, and how results of micrographs weigh the models.

Each model has, for a grid, a weight; the overall prediction of a square or hole is the weighted
mean of the models' present predictions. A judged micrograph updates the weights of the models
that predicted it by Bayes' rule: one that gave the outcome the probability p gets p times its
weight, then these weights are scaled to the sum that they had. Those of other models stay, as
nothing was learned of them. A new model begins with the mean of the weights. The weights of a grid
have the sum 1.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from skywright.instruments.epu.broker.events import Judged
from skywright.instruments.epu.database.read import Row
from skywright.instruments.epu.database.schema_quality import (
    current_model_weight,
    current_prediction,
    metric,
    metric_statistics,
    model_weight,
    overall_prediction,
    prediction,
    prediction_model,
)
from skywright.instruments.epu.database.write import chunks, insert_into

SURE = 0.01
"""Probabilities are kept this far from 0 and 1, so that one surprise removes no model for good."""
WEIGHT_MIN = 1e-300
"""Weights are taken to be at least this: after some hundred surprises they are 0 in double
precision, and holes that no other model predicts would have the overall prediction 0."""


def find_model(connection: Connection, name: str) -> Row | None:
    """Give a prediction model, or None."""
    query = select(prediction_model).where(prediction_model.c.name == name)
    return connection.execute(query).mappings().first()


def store_metric(connection: Connection, name: str | None) -> None:
    """Store the name of a metric, unless it is stored already."""
    if name is not None:
        statement = insert_into(connection, metric).values(name=name)
        connection.execute(statement.on_conflict_do_nothing())


def store_predictions(
    connection: Connection,
    kind: str,
    grids: Mapping[str, str],
    model: str,
    value: float,
    metric: str | None = None,
) -> list[int]:
    """Store a prediction for squares or holes, make it the present one, and combine anew.

    Parameters
    ----------
    connection
        From `Database.write`.
    kind
        ``gridsquare`` or ``foilhole``.
    grids
        Uuid of the grid of each square or hole, by the uuid of that.
    model
        Name of the model, which must be stored.
    value
        What it predicts.
    metric
        What the prediction is for; None: the quality as a whole.

    Returns
    -------
    list of int
        Ids of the predictions.
    """
    store_metric(connection, metric)
    column, table, now = f"{kind}_uuid", current_prediction, datetime.now(UTC)
    about = {"prediction_model_name": model, "metric_name": metric}
    numbers: list[int] = []
    for part in chunks(list(grids)):
        made = insert(prediction).returning(prediction.c.id)
        dated = [{column: uuid, "timestamp": now, "value": value, **about} for uuid in part]
        numbers += connection.execute(made, dated).scalars()
        same = [table.c[name].is_not_distinct_from(text) for name, text in about.items()]
        connection.execute(delete(table).where(table.c[column].in_(part), *same))
        rows = [{column: uuid, "grid_uuid": grids[uuid], "value": value, **about} for uuid in part]
        connection.execute(insert(table), rows)
    for grid in dict.fromkeys(grids.values()):
        _combine(connection, grid, column, [uuid for uuid in grids if grids[uuid] == grid])
    return numbers


def weights(connection: Connection, grid: str) -> dict[tuple[str, str | None], float]:
    """Give the present weight of each model and metric for a grid."""
    table = current_model_weight
    query = select(table).where(table.c.grid_uuid == grid)
    return {
        (row["prediction_model_name"], row["metric_name"]): max(row["weight"], WEIGHT_MIN)
        for row in connection.execute(query).mappings()
    }


def judge(connection: Connection, micrograph: Row, event: Judged) -> None:
    """Count a judgement of a micrograph and weigh the models that predicted it."""
    grid = micrograph["grid_uuid"]
    name = event.metric_name
    if name is not None:
        _count(connection, name, grid, float(event.quality))
    table = current_prediction
    about = (table.c.foilhole_uuid == micrograph["foilhole_uuid"]) | (
        table.c.gridsquare_uuid == micrograph["gridsquare_uuid"]
    )
    rows = [
        row
        for row in connection.execute(select(table).where(about)).mappings()
        if row["metric_name"] in (None, name)
    ]
    predicted: dict[tuple[str, str | None], float] = {}
    for row in sorted(rows, key=lambda row: row["foilhole_uuid"] is not None):  # holes tell more
        predicted[row["prediction_model_name"], row["metric_name"]] = row["value"]
    if not predicted:
        return
    likelihoods: dict[tuple[str, str | None], float] = {}
    for key, value in predicted.items():
        expected = min(max(value, SURE), 1.0 - SURE)
        likelihoods[key] = expected if event.quality else 1.0 - expected
    known = weights(connection, grid)
    present = dict.fromkeys(likelihoods, _first_weight(known)) | known
    updated = {key: present[key] * likelihood for key, likelihood in likelihoods.items()}
    before = sum(present[key] for key in likelihoods)
    kept = before / sum(updated.values())
    updated = present | {key: weight * kept for key, weight in updated.items()}
    total = sum(updated.values())
    _store_weights(
        connection,
        grid,
        {key: weight / total for key, weight in updated.items()},
        predicted,
        micrograph,
        event,
    )
    store_overall(connection, grid)


def _first_weight(known: dict[tuple[str, str | None], float]) -> float:
    """Return the weight of a model that has none yet: the mean of the present ones."""
    return sum(known.values()) / len(known) if known else 1.0


def store_overall(connection: Connection, grid: str) -> None:
    """Combine the predictions of all squares and holes of a grid by the present weights."""
    table = current_prediction
    for column in (table.c.gridsquare_uuid, table.c.foilhole_uuid):
        query = select(column).where(table.c.grid_uuid == grid, column.is_not(None)).distinct()
        _combine(connection, grid, column.name, connection.execute(query).scalars().all())


def _combine(connection: Connection, grid: str, column: str, uuids: Sequence[str]) -> None:
    """Combine the predictions of squares or holes of a grid; `column` has their uuids."""
    table, overall, known = current_prediction, overall_prediction, weights(connection, grid)
    first = _first_weight(known)
    for part in chunks(uuids):
        parts: dict[str, list[tuple[float, float]]] = {}
        mine = select(table).where(table.c[column].in_(part)).order_by(table.c.id)
        for row in connection.execute(mine).mappings():
            weight = known.get((row["prediction_model_name"], row["metric_name"]), first)
            parts.setdefault(row[column], []).append((weight, row["value"]))
        values = {uuid: _mean(found) for uuid, found in parts.items()}
        stored = select(overall.c[column], overall.c.id).where(overall.c[column].in_(part))
        numbers = dict(connection.execute(stored).tuples().all())
        changed = [{"number": numbers[uuid], "new": values[uuid]} for uuid in numbers]
        added = [
            {"grid_uuid": grid, column: uuid, "value": values[uuid]}
            for uuid in values.keys() - numbers.keys()
        ]
        if changed:
            change = update(overall).where(overall.c.id == bindparam("number"))
            connection.execute(change.values(value=bindparam("new")), changed)
        if added:
            connection.execute(insert(overall), added)


def _mean(parts: Sequence[tuple[float, float]]) -> float:
    """Return the mean of values, each with its weight before it."""
    total = sum(weight for weight, _ in parts)
    # Divided first: the sum of products of the largest numbers would be infinite
    return sum(weight / total * value for weight, value in parts)


def _count(connection: Connection, name: str, grid: str, value: float) -> None:
    store_metric(connection, name)
    table = metric_statistics
    statement = insert_into(connection, table).values(
        name=name, grid_uuid=grid, count=1, value_sum=value, squared_value_sum=value * value
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name", "grid_uuid"],
            set_={
                column: table.c[column] + statement.excluded[column]
                for column in ("count", "value_sum", "squared_value_sum")
            },
        )
    )


def _store_weights(
    connection: Connection,
    grid: str,
    values: dict[tuple[str, str | None], float],
    predicted: dict[tuple[str, str | None], float],
    micrograph: Row,
    event: Judged,
) -> None:
    rows = [
        {"grid_uuid": grid, "prediction_model_name": model, "metric_name": name, "weight": weight}
        for (model, name), weight in values.items()
    ]
    table = current_model_weight
    connection.execute(delete(table).where(table.c.grid_uuid == grid))
    connection.execute(insert(table), rows)
    about = {
        "micrograph_uuid": micrograph["uuid"],
        "micrograph_quality": event.quality,
        "timestamp": datetime.now(UTC),
        "origin": event.event_type,
    }
    history = [
        row | about | {"prediction_value": predicted.get(key)}
        for key, row in zip(values, rows, strict=True)
    ]
    connection.execute(insert(model_weight), history)
