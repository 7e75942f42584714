"""What a message does to the entity database."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from skywright.errors import DataError
from skywright.instruments.epu.broker import events
from skywright.instruments.epu.broker.quality import (
    find_model,
    judge,
    store_metric,
    store_overall,
    store_predictions,
)
from skywright.instruments.epu.database import read, schema
from skywright.instruments.epu.database import schema_exchange as exchange
from skywright.instruments.epu.database import schema_quality as quality
from skywright.instruments.epu.database.schema import MicrographStatus
from skywright.instruments.epu.database.write import (
    chunks,
    insert_into,
    set_values,
    take_changes,
)

STEPS = [status.value for status in MicrographStatus]
"""States of a micrograph in their order: a late message never takes the state back."""


class UnknownEntityError(DataError):
    """A message names an entity that is not stored (yet)."""


def apply_event(connection: Connection, body: dict[str, Any] | Any) -> None:
    """Apply one message.

    Messages that say what this service itself did (``*.created`` ...) change nothing here.

    Parameters
    ----------
    connection
        From `Database.write`.
    body
        The message's object, or a model of `events`.

    Raises
    ------
    UnknownEntityError
        The message names an entity that is not stored.
    DataError
        The message is not valid.
    """
    event = body if isinstance(body, events.Event) else events.read_event(body)
    handler = _HANDLERS.get(type(event))
    if handler is not None:
        handler(connection, event)


def changes_nothing(event: Any) -> bool:
    """Whether a message only says what has happened, so that applying it needs no database."""
    return type(event) not in _HANDLERS


def _known(connection: Connection, kind: str, uuid: str) -> read.Row:
    row = read.get(connection, kind, uuid)
    if row is None:
        raise UnknownEntityError(f"{kind} {uuid} is not stored")
    return row


_COMPLETED: dict[type, MicrographStatus] = {
    events.MotionCompleted: MicrographStatus.MOTION_CORRECTION_COMPLETED,
    events.CtfCompleted: MicrographStatus.CTF_COMPLETED,
    events.PickingCompleted: MicrographStatus.PARTICLE_PICKING_COMPLETED,
    events.SelectionCompleted: MicrographStatus.PARTICLE_SELECTION_COMPLETED,
}


def _result(connection: Connection, event: events.OfMicrograph) -> None:
    """Store what a step of processing has found; its fields are columns of the micrograph.

    What the message does not give stays as it is.
    """
    row = _known(connection, "micrograph", event.micrograph_uuid)
    values = event.model_dump(exclude={"event_type", "micrograph_uuid"}, exclude_none=True)
    for name in values.keys() & {"pick_distribution", "selection_distribution"}:
        if not isinstance(values[name], str):
            values[name] = json.dumps(values[name])
    (values["change"],) = take_changes(connection, 1)
    status = _COMPLETED[type(event)]
    if STEPS.index(status) > STEPS.index(row["status"]):
        values["status"] = status
    table = schema.micrograph
    mine = table.c.uuid == event.micrograph_uuid
    set_values(connection, table, mine, **values, updated_at=datetime.now(UTC))


def _judged(connection: Connection, event: events.Judged) -> None:
    judge(connection, _known(connection, "micrograph", event.micrograph_uuid), event)


def _atlas_prediction(connection: Connection, event: events.AtlasPrediction) -> None:
    atlas = _known(connection, "atlas", event.uuid)
    about = {"grid_uuid": atlas["grid_uuid"], "prediction_model_name": event.model_name}
    _parameter(connection, None, key="atlas", value=event.prediction_value, group="", **about)


def _square_prediction(connection: Connection, event: events.GridSquarePrediction) -> None:
    _predict(connection, event, "gridsquare", [event.gridsquare_uuid])


def _hole_prediction(connection: Connection, event: events.FoilHolePrediction) -> None:
    _predict(connection, event, "foilhole", [event.foilhole_uuid])


def _holes_prediction(connection: Connection, event: events.FoilHolesPrediction) -> None:
    _predict(connection, event, "foilhole", event.foilhole_uuids)


def _predict(
    connection: Connection, event: events.ModelPrediction, kind: str, uuids: Sequence[str]
) -> None:
    """Store one prediction for squares or holes, all of which must be stored."""
    grids, model = _grids_of(connection, kind, uuids), event.prediction_model_name
    _model(connection, model)
    store_predictions(connection, kind, grids, model, event.prediction_value, event.metric)


def _grids_of(connection: Connection, kind: str, uuids: Sequence[str]) -> dict[str, str]:
    """Return the grid of each square or hole, all of which must be stored."""
    table, grids = schema.ENTITIES[kind], dict[str, str]()
    for part in chunks(list(dict.fromkeys(uuids))):
        query = select(table.c.uuid, table.c.grid_uuid).where(table.c.uuid.in_(part))
        grids |= dict(connection.execute(query).tuples().all())
    for uuid in uuids:
        if uuid not in grids:
            raise UnknownEntityError(f"{kind} {uuid} is not stored")
    return grids


def _model(connection: Connection, name: str) -> None:
    if find_model(connection, name) is None:
        raise UnknownEntityError(f"prediction model {name} is not stored")


def _group_created(connection: Connection, event: events.GroupCreated) -> None:
    _known(connection, "grid", event.grid_uuid)
    _grids_of(connection, "foilhole", event.foilhole_uuids)
    connection.execute(
        insert_into(connection, quality.foilhole_group)
        .values(uuid=event.group_uuid, grid_uuid=event.grid_uuid, name=event.name or "")
        .on_conflict_do_nothing(index_elements=["uuid"])
    )
    members = [
        {"group_uuid": event.group_uuid, "foilhole_uuid": uuid} for uuid in event.foilhole_uuids
    ]
    if members:
        statement = insert_into(connection, quality.foilhole_group_member)
        connection.execute(statement.on_conflict_do_nothing(), members)


def _group_prediction(connection: Connection, event: events.GroupPrediction) -> None:
    group = quality.foilhole_group
    query = select(group.c.uuid).where(group.c.uuid == event.group_uuid)
    if connection.execute(query).first() is None:
        raise UnknownEntityError(f"foil hole group {event.group_uuid} is not stored")
    _model(connection, event.prediction_model_name)
    store_metric(connection, event.metric)
    connection.execute(
        insert(quality.group_prediction).values(
            group_uuid=event.group_uuid,
            timestamp=datetime.now(UTC),
            value=event.prediction_value,
            prediction_model_name=event.prediction_model_name,
            metric_name=event.metric,
        )
    )
    member = quality.foilhole_group_member
    holes = select(member.c.foilhole_uuid).where(member.c.group_uuid == event.group_uuid)
    _predict(connection, event, "foilhole", connection.execute(holes).scalars().all())


def _parameter_updated(connection: Connection, event: events.ParameterUpdated) -> None:
    _known(connection, "grid", event.grid_uuid)
    given = event.model_dump(exclude={"event_type", "metric"})
    _parameter(connection, event.metric, **given)


def _parameter(connection: Connection, metric: str | None, **columns: Any) -> None:
    _model(connection, columns["prediction_model_name"])
    store_metric(connection, metric)
    values = {"timestamp": datetime.now(UTC), "metric_name": metric, **columns}
    connection.execute(insert(quality.model_parameter).values(values))


def _refresh(connection: Connection, event: events.RefreshPredictions) -> None:
    _known(connection, "grid", event.grid_uuid)
    store_overall(connection, event.grid_uuid)


_STATUS = {
    "gridsquares.decision_completed": ("grid", schema.GridStatus.DECISION_COMPLETED),
    "foilholes.decision_completed": ("gridsquare", schema.GridSquareStatus.DECISION_COMPLETED),
    "foilholes.detected": ("gridsquare", schema.GridSquareStatus.REGISTERED),
    "micrographs.detected": ("foilhole", schema.FoilHoleStatus.MICROGRAPHS_DETECTED),
}
"""Message -> kind of entity, which it names by uuid, and its new state."""


def _decision(connection: Connection, event: events.Decision) -> None:
    kind, status = _STATUS[event.event_type]
    uuid = getattr(event, f"{kind}_uuid")
    if uuid is None:
        raise DataError(f"message {event.event_type}: {kind}_uuid is missing")
    _known(connection, kind, uuid)
    table, states = schema.ENTITIES[kind], list(type(status))
    earlier = table.c.status.in_(states[: states.index(status)])  # as of `STEPS`
    set_values(connection, table, table.c.uuid == uuid, earlier, status=status)


def _instruction_created(connection: Connection, event: events.InstructionCreated) -> None:
    session = exchange.agent_session
    query = select(session.c.agent_id).where(session.c.session_id == event.session_id)
    if connection.execute(query).first() is None:
        raise UnknownEntityError(f"agent session {event.session_id} is not stored")
    values = event.model_dump(exclude={"event_type", "instruction_metadata"})
    values |= {"metadata": event.instruction_metadata, "created_at": datetime.now(UTC)}
    statement = insert_into(connection, exchange.agent_instruction).values(values)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["instruction_id"]))


def _instruction_expired(connection: Connection, event: events.InstructionExpired) -> None:
    table = exchange.agent_instruction
    pending = (table.c.instruction_id == event.instruction_id) & (table.c.status == "pending")
    set_values(connection, table, pending, status="expired")


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    **dict.fromkeys(_COMPLETED, _result),
    events.Judged: _judged,
    events.AtlasPrediction: _atlas_prediction,
    events.GridSquarePrediction: _square_prediction,
    events.FoilHolePrediction: _hole_prediction,
    events.FoilHolesPrediction: _holes_prediction,
    events.GroupCreated: _group_created,
    events.GroupPrediction: _group_prediction,
    events.ParameterUpdated: _parameter_updated,
    events.RefreshPredictions: _refresh,
    events.Decision: _decision,
    events.InstructionCreated: _instruction_created,
    events.InstructionExpired: _instruction_expired,
}
