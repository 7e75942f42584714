"""Quality predictions of models, and how results of micrographs weigh the models.

Each model has, for a grid, a weight; the overall prediction of a square or hole is the weighted
mean of the models' present predictions. A judged micrograph updates the weights of the models
that predicted it by Bayes' rule: one that gave the outcome the probability p gets p times its
weight, then these weights are scaled to the sum that they had. Those of other models stay, as
nothing was learned of them. A new model begins with the mean of the weights. The weights of a grid
have the sum 1.
"""

from datetime import UTC, datetime

from sqlalchemy import Connection, delete, insert, select

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
from skywright.instruments.epu.database.write import insert_into, set_values

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


def store_prediction(
    connection: Connection,
    grid: str,
    model: str,
    value: float,
    *,
    metric: str | None = None,
    gridsquare_uuid: str | None = None,
    foilhole_uuid: str | None = None,
) -> int:
    """Store a prediction for a square or hole, make it the present one, and combine anew.

    The model must be stored.

    Returns
    -------
    int
        Id of the prediction.
    """
    store_metric(connection, metric)
    subject = {"gridsquare_uuid": gridsquare_uuid, "foilhole_uuid": foilhole_uuid}
    about = {**subject, "prediction_model_name": model, "metric_name": metric}
    statement = insert(prediction).values(timestamp=datetime.now(UTC), value=value, **about)
    number = connection.execute(statement.returning(prediction.c.id)).scalar_one()
    same = [current_prediction.c[name].is_not_distinct_from(about[name]) for name in about]
    connection.execute(delete(current_prediction).where(*same))
    connection.execute(insert(current_prediction).values(grid_uuid=grid, value=value, **about))
    _combine(connection, grid, subject, weights(connection, grid))
    return number


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
    query = (
        select(table.c.gridsquare_uuid, table.c.foilhole_uuid)
        .where(table.c.grid_uuid == grid)
        .distinct()
    )
    known = weights(connection, grid)
    for row in list(connection.execute(query).mappings()):
        _combine(connection, grid, dict(row), known)


def _combine(
    connection: Connection,
    grid: str,
    subject: dict[str, str | None],
    known: dict[tuple[str, str | None], float],
) -> None:
    table = current_prediction
    same = [table.c[name].is_not_distinct_from(value) for name, value in subject.items()]
    rows = list(connection.execute(select(table).where(*same)).mappings())
    first = _first_weight(known)
    parts = [
        (known.get((row["prediction_model_name"], row["metric_name"]), first), row["value"])
        for row in rows
    ]
    total = sum(weight for weight, _ in parts)
    # Divided first: the sum of products of the largest numbers would be infinite
    value = sum(weight / total * part for weight, part in parts)
    overall = overall_prediction
    same = [overall.c[name].is_not_distinct_from(value_) for name, value_ in subject.items()]
    if not set_values(connection, overall, *same, value=value):
        connection.execute(insert(overall).values(grid_uuid=grid, value=value, **subject))


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
